"""A test that fails on a lock, or waits for one, is told who was in its way."""

from __future__ import annotations

import os
import re

import pytest

SECTION = "poolguard: who was in the way"

TABLE = """
admin = psycopg2.connect(DSN)
admin.autocommit = True
kept = []

def execute(connection, *statements):
    with connection.cursor() as cursor:
        for statement in statements:
            cursor.execute(statement)

def connect(**more):
    return psycopg2.connect(DSN, **more)

@pytest.fixture(scope="session", autouse=True)
def table():
    execute(admin, "DROP TABLE IF EXISTS NAME; CREATE TABLE NAME (id int); INSERT INTO NAME VALUES (4711)")
    yield
    for one in kept:
        one.close()
    execute(admin, "DROP TABLE NAME")
    execute(admin, "DROP DATABASE IF EXISTS NAME_db WITH (FORCE)")
    admin.close()

def test_a():
    kept.append(connect())
    execute(kept[0], "UPDATE NAME SET id = 12345 WHERE id = 4711")
"""


@pytest.fixture
def name():
    """A table of this test's own: other tests run on the same server."""
    return f"products_{os.getpid()}"


@pytest.fixture
def stuck(suite, name):
    """Runs :data:`TABLE` and more tests."""

    def run(source, *args, **more):
        return suite.run((TABLE + source).replace("NAME", name), *args, **more)

    return run


def section(run, name=SECTION):
    """The section of a report that says who was in the way; empty where there is none."""
    found = re.search(rf"^-+ {name} -+\n(.*?)^(?:--|==|__)", run.text, re.MULTILINE | re.DOTALL)
    return found[1] if found else ""


def sessions(text):
    """The table's sessions: what stands behind each pid, and the facts below."""
    return [
        (lines[0], [line.strip() for line in lines[1:]])
        for lines in (part.split("\n") for part in re.split(r"^  pid \d+, ", text, flags=re.MULTILINE)[1:])
    ]


def test_a_refused_lock_names_the_line_and_the_test_that_have_it(stuck, processes, name):
    run = stuck(
        """
def test_b():
    conn = connect(options="-c lock_timeout=100")
    try:
        execute(conn, "ALTER TABLE NAME ADD COLUMN name text")
    finally:
        conn.close()
""",
        *(("-n2", "--dist=loadfile") if processes else ()),
    )
    assert "the server does not say whose it was" in section(run)
    ((who, facts),) = sessions(section(run))
    assert re.fullmatch(r"opened at test_suite\.py:\d+ in connect, by test test_a", who)
    assert facts[1] == f"holds RowExclusiveLock on {name}"
    assert re.fullmatch(
        rf"idle in transaction for [\d.]+ m?s, last statement: UPDATE {name} SET id = \?.*", facts[0]
    )
    assert "4711" not in section(run)
    assert "12345" not in section(run)
    assert run.data["faults"] == []


def test_the_table_stands_in_the_report_of_a_fixture_too(stuck):
    run = stuck(
        """
@pytest.fixture
def locked():
    conn = connect(options="-c lock_timeout=100")
    execute(conn, "LOCK TABLE NAME")

def test_b(locked): pass
"""
    )
    run.result.stdout.fnmatch_lines(["*ERROR at setup of test_b*", f"-*{SECTION}*"])
    assert "by test test_a" in section(run)


def test_a_statement_that_was_canceled_at_a_row_is_told_too(stuck):
    run = stuck(
        """
def test_b():
    kept.append(connect(options="-c statement_timeout=200"))
    execute(kept[-1], "DELETE FROM NAME")
"""
    )
    assert [who.partition(" in ")[2] for who, _ in sessions(section(run))] == ["connect, by test test_a"]


# a database that is in use

DATABASE = """
def test_a():
    execute(admin, "CREATE DATABASE NAME_db")
    kept.append(psycopg2.connect(DSN, dbname="NAME_db", application_name=APPLICATION))

def test_b():
    execute(admin, "DROP DATABASE NAME_db")
"""


def test_a_database_that_can_not_be_dropped_names_who_is_connected(stuck):
    run = stuck('APPLICATION = "shop"\n' + DATABASE)
    run.assert_outcomes(passed=1, failed=1)
    assert "Who was connected to the database when the server said that it was in use:" in section(run)
    ((who, facts),) = sessions(section(run))
    assert re.fullmatch(r"opened at test_suite\.py:\d+ in test_a, by test test_a", who)
    assert facts[0].startswith("idle for ")


def test_who_has_it_from_a_pool_is_named_and_not_who_filled_the_pool(stuck, name):
    run = stuck(
        """
def test_a(request):
    execute(admin, "CREATE DATABASE NAME_db")
    request.config.pool = SimpleConnectionPool(2, 3, DSN, dbname="NAME_db")

def take(pool):
    return pool.getconn()

def test_b(request):
    conn = take(request.config.pool)
    execute(admin, "DROP DATABASE NAME_db")
"""
    )
    assert sorted(who.partition(":")[0] + who.partition(" in ")[2] for who, _ in sessions(section(run))) == [
        "checked out at test_suite.pytake, by test test_b",
        "opened at test_suite.pytest_a, by test test_a, now in its pool",
    ]


# a deadlock


def test_a_deadlock_names_both_sides(stuck):
    run = stuck(
        """
def test_b():
    kept[0].rollback()
    one, two = connect(), connect()
    kept.extend((one, two))
    execute(one, "SELECT pg_advisory_xact_lock(4711)")
    execute(two, "SELECT pg_advisory_xact_lock(4712)")

    def other_side():
        try:
            execute(two, "SELECT pg_advisory_xact_lock(4711)")
        except psycopg2.Error as error:
            lost.append(error)

    lost = []
    thread = threading.Thread(target=other_side)
    thread.start()
    try:
        execute(one, "SELECT pg_advisory_xact_lock(4712)")
    except psycopg2.Error as error:
        lost.append(error)
    thread.join()
    raise lost[0]
"""
    )
    found = sessions(section(run))
    assert len(found) == 2
    assert all(who.endswith("in connect, by test test_b") for who, _ in found)
    assert "advisory lock" in section(run)


def test_each_role_sees_its_own_and_all_are_told(stuck):
    run = stuck(
        """
@pytest.fixture
def guest():
    execute(admin, "CREATE ROLE NAME_guest LOGIN", "GRANT ALL ON NAME TO NAME_guest")
    conn = connect(user="NAME_guest")
    yield conn
    conn.close()
    execute(admin, "DROP OWNED BY NAME_guest", "DROP ROLE NAME_guest")

def test_b(guest):
    execute(guest, "LOCK TABLE NAME IN ACCESS EXCLUSIVE MODE NOWAIT")
"""
    )
    assert [who.partition(" in ")[2] for who, _ in sessions(section(run))] == ["connect, by test test_a"]
    assert run.data["faults"] == []


# somebody else

STRANGER = """
import os, sys, psycopg2
conn = psycopg2.connect(os.environ["SUITE_DSN"], application_name="the \\x1b[31m importer")
conn.cursor().execute("LOCK TABLE NAME; SELECT 'the secret'")
print("ready", flush=True)
sys.stdin.read()
"""

BEHIND_A_STRANGER = """
import subprocess, sys

@pytest.fixture
def importer():
    kept[0].rollback()
    child = subprocess.Popen(
        [sys.executable, "stranger.py"], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert child.stdout.readline().strip() == b"ready"
    yield
    child.communicate()

def test_b(importer):
    conn = connect(options="-c lock_timeout=100")
    kept.append(conn)
    execute(conn, "SELECT * FROM NAME")
"""


def test_a_stranger_is_no_connection_of_this_run(stuck, suite, name):
    suite.file("stranger.py", STRANGER.replace("NAME", name))
    run = stuck(BEHIND_A_STRANGER)
    who, facts = sessions(section(run))[-1]
    who = who.replace("?[31m", r"\x1b[31m")  # the server of older versions replaces it itself
    assert who.startswith(r"not opened by this process: application the \x1b[31m importer, role ")
    assert facts[0].startswith("idle in transaction for ")
    assert facts[0].endswith(f"last statement: LOCK TABLE {name}; SELECT ?")
    assert facts[1] == f"holds AccessExclusiveLock on {name}"
    assert "\x1b" not in section(run)
    assert "the secret" not in section(run)


# without a look


def test_off_says_nothing(stuck):
    run = stuck('APPLICATION = "shop"\n' + DATABASE, "--poolguard-server=off")
    run.assert_outcomes(passed=1, failed=1)
    assert section(run) == ""


@pytest.mark.parametrize(
    "failure",
    [
        "assert 0",
        "execute(admin, 'SELECT nothing')",
        'execute(admin, "SET statement_timeout = 100; SELECT pg_sleep(5)")',
    ],
    ids=["assertion", "syntax", "slow"],
)
def test_another_failure_says_nothing(stuck, failure):
    run = stuck(f"def test_b():\n    {failure}\n")
    run.assert_outcomes(passed=1, failed=1)
    assert section(run) == ""


def test_an_expected_refusal_says_nothing(stuck):
    run = stuck(
        """
def test_b():
    with pytest.raises(psycopg2.errors.LockNotAvailable):
        execute(admin, "SET lock_timeout = 100; LOCK TABLE NAME")
"""
    )
    run.assert_silent(passed=2)
    assert section(run) == ""
