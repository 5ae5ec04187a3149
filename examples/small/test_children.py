"""A child process that a test starts and never ends, and a stranger on the same server."""

import os
import subprocess
import sys

import psycopg2

DSN = os.environ["POOLGUARD_TEST_DSN"]
started = []


def start(**environ):
    """Start a process that connects, and stays until this one is gone."""
    pipe = subprocess.PIPE
    child = subprocess.Popen(
        [sys.executable, "small/child.py"], stdin=pipe, stdout=pipe, env={**os.environ, **environ}
    )
    assert child.stdout.readline() == b"connected\n"
    started.append(child)


def test_of_the_worker():
    psycopg2.connect(DSN).close()
    start()


def test_beside_somebody_else():
    start(PGAPPNAME="psql")
