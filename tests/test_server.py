"""What is left open on the server at the end of a run fails it, and nothing else does."""

from __future__ import annotations

import os

import pytest

LEFT = """
kept = []

def test_opens():
    conn = psycopg2.connect(DSN, application_name="the shop")
    with conn.cursor() as cursor:
        cursor.execute("SELECT 'the secret', 4711 /* \\x1b[31m */")
    kept.append(conn)
    CLOSE

def test_other(): pass
"""


def left(run):
    """Who opened what is left: (test, kind of owner, its name, verdict)."""
    return [
        (f["nodeid"].rpartition("::")[2], f["owner"]["kind"], f["owner"]["name"], f["verdict"])
        for f in run.findings
        if f["kind"] == "server_backend"
    ]


def test_a_connection_left_open_fails_the_run(suite, processes):
    run = suite.run(LEFT.replace("CLOSE", ""), *processes)
    assert left(run) == [("test_opens", "test", "test_opens", "failed")]
    assert run.result.ret == 1
    run.assert_outcomes(passed=2, errors=1)


def test_it_is_silent_once_it_is_closed(suite, processes):
    suite.run(LEFT.replace("CLOSE", "conn.close()"), *processes).assert_silent(passed=2)


def test_the_section_tells_the_backend_and_who_opened_it_where(suite, monkeypatch):
    monkeypatch.setenv("PID", "")
    run = suite.run(LEFT.replace("CLOSE", "os.environ['PID'] = str(conn.info.backend_pid)"))
    pid = os.environ["PID"]
    run.result.stdout.fnmatch_lines(
        [
            "=*= poolguard: 1 connection left on the server, 1 site, 1 test =*=",
            "test_suite.py::test_opens",
            "1 connection that this run opened is still open on the server",
            "  opened in the test body",
            f"  backend pid {pid}, idle in transaction for *s, connected for *s, application the shop, *",
            "  > test_suite.py:*  test_opens  conn = psycopg2.connect(DSN, application_name=*",
            "  hint: close it at the end of the test",
        ]
    )
    assert "last statement: SELECT ?, ? /* \\x1b[?m */" in run.text
    assert "the secret" not in run.text
    assert "4711" not in run.text


HOLDS = """
kept = []

def test_leaks(pool):
    conn = pool.getconn()
    conn.cursor().execute("SELECT pg_advisory_lock(4711)")

def test_opens():
    kept.append(psycopg2.connect(DSN))
    kept[-1].cursor().execute("SELECT pg_advisory_lock_shared(1, 2), pg_advisory_lock_shared(-3)")
"""


@pytest.mark.parametrize("how", ["session", "test"])
def test_the_advisory_locks_that_are_held_are_told(suite, how):
    """Whoever wants one waits for the end of the connection, not of a transaction."""
    run = suite.run(HOLDS, f"--poolguard-server={how}")
    held = {f["kind"]: f["server"]["holds"] for f in run.findings}
    assert held == {"checked_out": "advisory lock 4711", "server_backend": "advisory locks (1, 2), -3"}
    run.result.stdout.fnmatch_lines(
        [
            "  backend pid *, idle in transaction, holds advisory lock 4711, last statement: SELECT *",
            "  backend pid *, holds advisory locks (1, 2), -3, last statement: SELECT *",
        ]
    )


def test_the_last_lines_show_that_the_run_has_failed(suite, processes):
    """All tests have passed, and yet nobody may take the run for a green one."""
    run = suite.run(LEFT.replace("CLOSE", ""), *processes)
    summary, last = run.result.outlines[-2:]
    assert summary.startswith("ERROR test_suite.py::test_opens - poolguard: 1 connection left open (")
    assert "2 passed, 1 error" in last


def test_a_session_that_leaks_from_a_pool_shows_it_in_the_last_lines_too(suite):
    run = suite.run("pool = SimpleConnectionPool(1, 1, DSN)\nkept = [pool.getconn()]\ndef test_it(): pass\n")
    assert run.result.ret == 1
    assert run.result.outlines[-2].startswith("ERROR test_suite.py - poolguard: 1 connection never returned (")
    run.assert_outcomes(passed=1, errors=1)


def test_in_warn_mode_it_is_told_and_fails_nothing(suite, processes):
    run = suite.run(LEFT.replace("CLOSE", ""), "--poolguard=warn", *processes)
    assert left(run) == [("test_opens", "test", "test_opens", "warned")]
    assert run.result.ret == 0
    run.assert_outcomes(passed=2)
    assert "test_suite.py::test_opens (warning only)" in run.text.replace(" [gw0]", "").replace(" [gw1]", "")


def test_a_run_that_has_failed_by_itself_keeps_its_failures(suite):
    run = suite.run(LEFT.replace("CLOSE", "") + "def test_bad(): assert 0\n")
    assert left(run) == [("test_opens", "test", "test_opens", "failed")]
    run.assert_outcomes(passed=2, failed=1, errors=1)


def test_each_worker_answers_for_its_own(suite):
    """Two workers on one server: each sees the other's backends, accuses none, and counts none twice."""
    run = suite.run(
        """
kept = []

@pytest.mark.parametrize("n", range(6))
def test_opens(n):
    kept.append(psycopg2.connect(DSN))
    time.sleep(0.1)
""",
        "-n2",
    )
    assert sorted(left(run)) == [(f"test_opens[{n}]", "test", f"test_opens[{n}]", "failed") for n in range(6)]
    assert len({f["backend_pid"] for f in run.findings}) == 6
    assert {f["worker"] for f in run.findings} == {"gw0", "gw1"}
    run.result.stdout.fnmatch_lines(
        [
            "test_suite.py::test_opens[[]*[]] [[]gw?[]] and 5 more",
            "6 connections that this run opened are still open on the server",
            "  … 2 more backends (-v shows them)",
            "ERROR test_suite.py::test_opens* - poolguard: 6 connections left open (*",
            "*6 passed, 1 error*",
        ]
    )
    assert run.data["notices"] == []


SETUP = """
class TestIt:
    @classmethod
    def setup_class(cls):
        cls.conn = psycopg2.connect(DSN)

    TEARDOWN

    def test_it(self): pass

def test_later(): pass
"""


def test_a_connection_of_a_fixture_that_has_ended_names_the_fixture(suite):
    run = suite.run(SETUP.replace("TEARDOWN", ""))
    assert left(run) == [("test_it", "fixture", "setup_class", "failed")]
    assert "opened in the set-up of fixture setup_class (scope class)" in run.text
    assert "hint: close it at the end of fixture setup_class" in run.text
    assert run.result.ret == 1


def test_a_fixture_that_closes_its_connection_is_silent(suite):
    teardown = "@classmethod\n    def teardown_class(cls):\n        cls.conn.close()\n"
    suite.run(SETUP.replace("TEARDOWN", teardown)).assert_silent(passed=2)


def test_a_session_fixture_that_never_closes_is_silent(suite, processes):
    """Its connection goes with it."""
    suite.run(
        """
@pytest.fixture(scope="session")
def conn():
    return psycopg2.connect(DSN)

def test_it(conn): pass
""",
        *processes,
    ).assert_silent(passed=1)


def test_two_servers_are_both_looked_at(suite, relay, monkeypatch):
    monkeypatch.setenv("OTHER_DSN", relay.dsn)
    run = suite.run(
        """
kept = []

def test_opens():
    for dsn in (DSN, os.environ["OTHER_DSN"], DSN):
        kept.append(psycopg2.connect(dsn))
"""
    )
    assert left(run) == [("test_opens", "test", "test_opens", "failed")] * 3


# what somebody keeps on purpose

SHOP = """
import functools, os, psycopg2
from collections import deque

def connect():
    return psycopg2.connect(os.environ["SUITE_DSN"])
"""

SINGLETON = """
conn = None

def get():
    global conn
    if conn is None:
        conn = connect()
    return conn
"""
CACHE = "get = functools.lru_cache(connect)"
KEYED = """
conns = {}

def get():
    return conns.setdefault("main", connect())
"""
HOMEMADE_POOL = """
class Pool:
    def __init__(self):
        self.free = deque()

    def take(self):
        return self.free.pop() if self.free else connect()

pool = Pool()

def get():
    taken = [pool.take() for _ in range(3)]
    pool.free.extend(taken)
"""
CLASS = """
class Db:
    conn = None

    @classmethod
    def open(cls):
        cls.conn = connect()

get = Db.open
"""
CONTEXT = """
from contextvars import ContextVar
conn = ContextVar("conn")

def get():
    conn.set(connect())
"""
SLOTS = """
class Db:
    __slots__ = ("conn", "other")

db = Db()

def get():
    db.conn = connect()
"""


@pytest.mark.parametrize(
    ("keeper", "count"),
    [(SINGLETON, 1), (CACHE, 1), (KEYED, 1), (HOMEMADE_POOL, 3), (CLASS, 1), (CONTEXT, 1), (SLOTS, 1)],
    ids=["singleton", "cache", "keyed", "pool", "class", "context", "slots"],
)
def test_what_the_application_keeps_for_its_whole_life_is_told_and_fails_nothing(suite, keeper, count):
    suite.file("shop.py", SHOP + keeper)
    run = suite.run("import shop\ndef test_it(): shop.get()\n", subprocess=True)
    assert left(run) == [("test_it", "test", "test_it", "warned")] * count
    assert run.result.ret == 0
    run.assert_outcomes(passed=1)
    assert "note: module shop keeps it, and may do so for the whole run" in run.text


def test_a_list_that_only_grows_keeps_nothing_on_purpose(suite):
    suite.file("shop.py", SHOP + "opened = []\ndef get(): opened.append(connect())\n")
    run = suite.run("import shop\ndef test_it(): shop.get()\n", subprocess=True)
    assert left(run) == [("test_it", "test", "test_it", "failed")]


def test_a_tests_own_connection_is_a_leftover_even_under_a_modules_name(suite):
    run = suite.run("def test_it():\n    global conn\n    conn = psycopg2.connect(DSN)\n")
    assert left(run) == [("test_it", "test", "test_it", "failed")]


def test_a_connection_opened_at_import_is_told_and_fails_nothing(suite, processes):
    run = suite.run("conn = psycopg2.connect(DSN)\ndef test_it(): pass\n", *processes)
    assert {row[1:] for row in left(run)} == {("session", "session", "warned")}
    assert run.result.ret == 0
    run.assert_outcomes(passed=1)
    assert "it was opened outside any test, and may serve the whole run" in run.text


def test_a_connection_of_a_thread_that_still_runs_is_told_and_fails_nothing(suite):
    run = suite.run(
        """
stop = threading.Event()

def work(ready):
    conn = psycopg2.connect(DSN)
    ready.set()
    stop.wait(5)

def test_it():
    ready = threading.Event()
    threading.Thread(target=work, args=(ready,), daemon=True).start()
    ready.wait()
"""
    )
    assert left(run) == [("test_it", "test", "test_it", "warned")]
    assert "the thread that opened it still runs" in run.text
    assert run.result.ret == 0


def test_connections_that_a_library_opened_are_one_line(suite):
    """They are its own, in a pool of its own as a rule, and it answers for them."""
    suite.file(
        "lib/site-packages/anorm/__init__.py",
        "import psycopg2\nkept = []\ndef engine(dsn): kept.append(psycopg2.connect(dsn))\n",
    )
    run = suite.run(
        """
import sys
sys.path.append(os.path.join(os.path.dirname(__file__), "lib", "site-packages"))

def test_it():
    import anorm
    for _ in range(2):
        anorm.engine(DSN)
""",
        subprocess=True,
    )
    run.assert_silent(passed=1)
    run.result.stdout.fnmatch_lines(
        ["poolguard: 2 connections of anorm still open at the end, opened for test_suite.py:*"]
    )


# what is not left


def test_a_connection_that_waits_for_the_garbage_collector_is_silent(suite):
    suite.run(
        """
import gc

def test_it():
    gc.disable()
    circle = [psycopg2.connect(DSN)]
    circle.append(circle)

def test_later(): pass
"""
    ).assert_silent(passed=2)


def test_a_local_of_a_failed_test_is_no_second_failure(suite, processes):
    run = suite.run("def test_it():\n    conn = psycopg2.connect(DSN)\n    assert 0\n", *processes)
    run.assert_outcomes(failed=1)
    assert run.findings == []


def test_a_test_that_was_interrupted_is_not_judged(suite):
    run = suite.run("kept = []\ndef test_it():\n    kept.append(psycopg2.connect(DSN))\n    pytest.exit('now')\n")
    assert run.findings == []
    assert run.data["faults"] == []


def test_idle_connections_of_open_pools_are_one_line(suite):
    run = suite.run(
        """
one = SimpleConnectionPool(1, 1, DSN)
two = SimpleConnectionPool(2, 2, DSN)

def test_it():
    one.putconn(one.getconn())
"""
    )
    run.assert_silent(passed=1)
    run.result.stdout.fnmatch_lines(
        [
            "poolguard: 3 connections idle in 2 pools still open at the end, "
            "made at test_suite.py:16, test_suite.py:17"
        ]
    )


def test_pools_that_are_closed_or_gone_leave_nothing(suite, processes):
    suite.run(
        """
kept = []

def test_closed():
    pool = SimpleConnectionPool(2, 2, DSN)
    kept.append(pool)
    pool.closeall()

def test_gone():
    SimpleConnectionPool(2, 2, DSN)
""",
        *processes,
    ).assert_silent(passed=2)


@pytest.mark.parametrize("mode", ["fail", "warn"])
def test_a_leak_of_a_pool_is_not_told_again_as_left_on_the_server(suite, mode):
    run = suite.run(
        """
kept = []

def test_leaks():
    pool = SimpleConnectionPool(1, 1, DSN)
    kept.append(pool.getconn())
""",
        f"--poolguard={mode}",
    )
    assert [f["kind"] for f in run.findings] == ["checked_out"]


FORK = """
kept = []

def test_opens():
    kept.append(psycopg2.connect(DSN))

def test_forks():
    child = os.fork()
    if child == 0:
        LEAVE
    os.waitpid(child, 0)
    kept[0].cursor().execute("SELECT 1")
    kept[0].close()
"""


@pytest.mark.parametrize("leave", ["os._exit(0)", "raise SystemExit", "pytest.exit('child')"])
@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_a_forked_child_accuses_nobody_of_what_it_inherited(suite, leave):
    """Even one that goes on as a second pytest, to the end of its own run."""
    run = suite.run(FORK.replace("LEAVE", leave), subprocess=True)
    assert run.result.ret == 0
    assert "left on the server" not in run.text
    assert run.findings == []


def test_processes_of_multiprocessing_are_silent(suite):
    suite.run(
        """
import multiprocessing

def work():
    psycopg2.connect(DSN).cursor().execute("SELECT 1")

@pytest.fixture(scope="module")
def conn():
    conn = psycopg2.connect(DSN)
    yield conn
    conn.cursor().execute("SELECT 1")
    conn.close()

def test_it(conn):
    child = multiprocessing.get_context("fork").Process(target=work)
    child.start()
    child.join()
    assert child.exitcode == 0
""",
        subprocess=True,
    ).assert_silent(passed=1)
