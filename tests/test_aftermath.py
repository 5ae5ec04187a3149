"""Who is left on the server when the run is over: child processes, strangers, what was closed too late."""

from __future__ import annotations

import os

import psycopg2
import pytest

#: A child process that connects, says so, and stays until it is told to go.
CHILD = """
import os, sys
import psycopg2

connection = psycopg2.connect(os.environ["SUITE_DSN"])
connection.autocommit = True
connection.cursor().execute("SELECT 'the secret'")
print("connected", flush=True)
sys.stdin.readline()
"""

HEADER = """
import os, subprocess, sys, time
import psycopg2, pytest

DSN = os.environ["SUITE_DSN"]
children = []

def start(**environ):
    pipe = subprocess.PIPE
    child = subprocess.Popen(
        [sys.executable, "child.py"], stdin=pipe, stdout=pipe, env={**os.environ, **environ}
    )
    assert child.stdout.readline() == b"connected\\n"
    children.append(child)
    return child

def stop(child):
    child.communicate(b"go\\n")

def test_first():
    psycopg2.connect(DSN).close()
"""


@pytest.fixture
def family(suite):
    """Run a suite whose tests start child processes: they go when the suite's own process does."""
    suite.file("child.py", CHILD)
    return lambda source, *args: suite.run(source, *args, header=HEADER, subprocess=True)


def left(run):
    return [
        (f["nodeid"].rpartition("::")[2], f["opened_by"], f["verdict"])
        for f in run.findings
        if f["kind"] == "server_backend"
    ]


CHILD_OF_A_TEST = """
def test_starts():
    child = start()
    STOP

def test_later(): pass
"""


def test_a_child_process_that_is_still_connected_fails_the_run_and_names_the_test(family):
    run = family(CHILD_OF_A_TEST.replace("STOP", ""))
    assert left(run) == [("test_starts", "a child process of this run", "failed")]
    assert run.result.ret == 1
    run.result.stdout.fnmatch_lines(
        [
            "test_suite.py::test_starts",
            "1 connection that a child process of this run opened is still open on the server",
            "  opened while test_suite.py::test_starts ran",
            "  backend pid *, idle for *, connected for *, last statement: SELECT ?",
            "  hint: end the process at the end of the test, or in the fixture, that starts it",
            "     1      1  a child process of this run",
            "poolguard: *: before this run 0 of * connections in use; after it 1: 1 left open by this run",
            "ERROR test_suite.py::test_starts - poolguard: 1 connection left open (a child*",
        ]
    )
    assert "poolguard/" not in run.text
    assert "the secret" not in run.text


def test_a_child_process_that_ends_is_silent(family):
    family(CHILD_OF_A_TEST.replace("STOP", "stop(child)")).assert_silent(passed=3)


def test_a_child_process_that_is_killed_in_the_end_is_silent(family):
    """Its backend is listed for some milliseconds more."""
    family(
        """
@pytest.fixture(scope="session")
def server():
    child = start()
    yield child
    child.kill()

def test_it(server): pass
"""
    ).assert_silent(passed=2)


def test_a_child_process_of_no_test_is_a_warning(family):
    run = family("start()\n")
    assert left(run) == [("", "a child process of this run", "warned")]
    assert run.result.ret == 0
    assert "opened while no test ran" in run.text


def test_a_stranger_is_one_line_and_fails_nothing(family):
    run = family("def test_it(): start(PGAPPNAME='psql')\n")
    run.assert_silent(passed=2)
    run.result.stdout.fnmatch_lines(["poolguard: *; after it 1: 1 of others (psql 1)"])


def test_control_characters_in_a_strangers_name_are_escaped(family):
    run = family("def test_it(): start(PGAPPNAME='a\\x1b[31m')\n")
    assert "\x1b" not in run.text


def test_a_name_that_the_suite_has_chosen_is_left_alone(family, monkeypatch):
    monkeypatch.setenv("PGAPPNAME", "the shop")
    run = family("def test_it():\n    assert os.environ['PGAPPNAME'] == 'the shop'\n    start()\n")
    run.assert_silent(passed=2)
    assert os.environ["PGAPPNAME"] == "the shop"


def test_the_environment_is_as_before_when_the_run_is_over(suite, monkeypatch):
    monkeypatch.delenv("PGAPPNAME", raising=False)
    suite.run("def test_it(): assert os.environ['PGAPPNAME'].startswith('poolguard/')\n").assert_silent(passed=1)
    assert "PGAPPNAME" not in os.environ
    source = "def test_it(): assert 'PGAPPNAME' not in os.environ\n"
    suite.run(source, "--poolguard-server=off").assert_silent(passed=1)


CUT_OFF = """
import socket

def test_it():
    conn = psycopg2.connect(DSN)
    thread = threading.Thread(target=sleep, args=(conn,))
    thread.start()
    time.sleep(0.2)
    LINE
    thread.join()
    conn.close()

def sleep(conn):
    try:
        conn.cursor().execute("SELECT pg_sleep(1.5)")
    except psycopg2.OperationalError:
        pass
"""


def test_what_was_closed_while_its_statement_goes_on_is_a_warning(suite):
    """A server that is busy does not look whether somebody still waits for the answer."""
    cut = "socket.socket(fileno=os.dup(conn.fileno())).shutdown(socket.SHUT_RDWR)"
    run = suite.run(CUT_OFF.replace("LINE", cut))
    assert left(run) == [("test_it", "", "warned")]
    assert run.findings[0]["acquired"]["text"] == "conn = psycopg2.connect(DSN)"
    run.result.stdout.fnmatch_lines(
        ["  note: it was closed here, and the server has not come to an end of it yet"]
    )
    assert run.result.ret == 0


def test_it_is_silent_where_the_statement_comes_to_its_end(suite):
    suite.run(CUT_OFF.replace("LINE", "")).assert_silent(passed=1)


STATEMENTS = {"shape": "SELECT ?", "full": "SELECT 'the secret'", "off": None}


@pytest.mark.parametrize("how", STATEMENTS)
def test_statements_are_shown_as_the_setting_says(family, how):
    run = family(CHILD_OF_A_TEST.replace("STOP", ""), f"--poolguard-show-sql={how}")
    statement = STATEMENTS[how]
    assert run.findings[0]["server"]["statement"] == (statement or "")
    assert (f"last statement: {statement}" in run.text) if statement else ("last statement" not in run.text)


def test_the_servers_line_is_in_the_json_file(family, dsn):
    run = family("def test_it(): start(PGAPPNAME='psql')\n")
    (server,) = run.data["servers"]
    assert server["others"] == {"psql": 1}
    assert (server["left"], server["idle"], server["came"]) == (0, 0, 1)
    with psycopg2.connect(dsn) as connection, connection.cursor() as cursor:
        cursor.execute("SHOW max_connections")
        assert server["after"]["limit"] == int(cursor.fetchone()[0])
    connection.close()
    assert server["after"]["states"] == {"idle": 1}
