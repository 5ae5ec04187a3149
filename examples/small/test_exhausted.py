"""Pools that have nothing left: for a leak, and for more threads than they are made for."""

import os
import threading
import time

import pytest
from psycopg2.pool import ThreadedConnectionPool


@pytest.fixture
def pool():
    """A small one."""
    pool = ThreadedConnectionPool(1, 3, os.environ["POOLGUARD_TEST_DSN"])
    yield pool
    pool.closeall()


def count_users(pool):
    conn = pool.getconn()
    with conn.cursor() as cursor:
        cursor.execute("SELECT count(*) FROM pg_user WHERE usename <> 'nobody'")
        return cursor.fetchone()[0]


def test_leaky(pool):
    assert len({count_users(pool) for _ in range(4)}) == 1


def test_small(pool):
    end = threading.Barrier(4)

    def work():
        conn = pool.getconn()
        end.wait()
        pool.putconn(conn)

    threads = [threading.Thread(target=work, name=f"worker {number}") for number in range(3)]
    for number, thread in enumerate(threads):
        thread.start()
        while end.n_waiting == number:
            time.sleep(0.001)
    try:
        pool.putconn(pool.getconn())
    finally:
        end.wait()
        for thread in threads:
            thread.join()


@pytest.mark.pool(nested=False)
def test_nested(pool):
    conn = pool.getconn()
    other = pool.getconn()
    pool.putconn(other)
    pool.putconn(conn)


@pytest.mark.pool(statement_timeout=0.1)
def test_slow(pool):
    conn = pool.getconn()
    try:
        with conn.cursor() as cursor:
            cursor.execute("SELECT pg_sleep(60)")
    finally:
        pool.putconn(conn)
