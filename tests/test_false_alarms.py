"""What a reasonable suite does, and what is no leak."""

from __future__ import annotations

import pytest


def test_a_connection_of_a_failed_test_that_its_fixture_returns_is_no_leak(suite):
    """The traceback keeps the test's frame, and so its connection, long past the teardown."""
    run = suite.run(
        """
@pytest.fixture
def conn(pool):
    conn = pool.getconn()
    yield conn
    pool.putconn(conn)

def test_fails(conn):
    held = conn
    assert 0
"""
    )
    run.assert_outcomes(failed=1)
    assert run.findings == []


def test_the_savepoint_recipe_is_silent(suite, processes):
    """One connection for the whole session, rolled back after each test."""
    suite.run(
        """
@pytest.fixture(scope="session")
def connection():
    pool = SimpleConnectionPool(1, 1, DSN)
    conn = pool.getconn()
    yield conn
    pool.putconn(conn)
    pool.closeall()

@pytest.fixture
def db(connection):
    with connection.cursor() as cursor:
        cursor.execute("SAVEPOINT test")
        yield cursor
        cursor.execute("ROLLBACK TO SAVEPOINT test")

@pytest.mark.parametrize("n", range(3))
def test_it(db, n):
    db.execute("SELECT 1")
""",
        *processes,
    ).assert_silent(passed=3)


def test_raises_that_keeps_the_frame_of_returned_connection_is_silent(suite):
    suite.run(
        """
def work(pool):
    conn = pool.getconn()
    try:
        raise ValueError
    finally:
        pool.putconn(conn)

kept = []

def test_it(pool):
    with pytest.raises(ValueError) as caught:
        work(pool)
    kept.append(caught)
"""
    ).assert_silent(passed=1)


def test_a_generator_whose_finally_runs_when_the_tests_frame_goes_is_silent(suite):
    suite.run(
        """
def rows(pool):
    conn = pool.getconn()
    try:
        yield from range(9)
    finally:
        pool.putconn(conn)

def test_it(pool):
    values = rows(pool)
    next(values)
"""
    ).assert_silent(passed=1)


LAZY = """
class Store:
    def __init__(self, pool):
        self.pool = pool
        self.conn = None

    def cursor(self):
        if self.conn is None:
            self.conn = self.pool.getconn()
        return self.conn.cursor()

    def close(self):
        if self.conn is not None:
            self.pool.putconn(self.conn)

@pytest.fixture(scope="module")
def store(pool):
    store = Store(pool)
    yield store
    store.CLOSE

def test_one(store):
    store.cursor().execute("SELECT 1")

def test_two(store):
    store.cursor().execute("SELECT 1")
"""


def test_a_lazy_connection_of_an_object_that_a_wider_fixture_closes_is_silent(suite, processes):
    suite.run(LAZY.replace("CLOSE", "close()"), *processes).assert_silent(passed=2)


def test_a_lazy_connection_that_is_never_closed_is_told_when_its_holder_ends(suite):
    run = suite.run(LAZY.replace("CLOSE", "pool"))
    assert run.result.ret == 1
    assert run.blamed == ["test_one"]
    assert "what fixture store returned holds it" in run.text


def test_a_connection_that_a_fixtures_object_let_go_of_is_told_then(suite):
    run = suite.run(
        """
class Store:
    conn = None

@pytest.fixture(scope="module")
def store():
    return Store()

def test_takes(store, pool):
    store.conn = pool.getconn()

def test_drops(store):
    store.conn = None

def test_after(): pass
"""
    )
    run.assert_outcomes(passed=3, errors=1)
    assert run.result.ret == 1
    assert run.blamed == ["test_takes"]


GLOBAL = """
_conn = None

def shared(pool):
    global _conn
    if _conn is None:
        _conn = pool.getconn()
    return _conn

@pytest.fixture(scope="session")
def pool():
    return SimpleConnectionPool(1, 5, DSN)

@pytest.mark.parametrize("n", range(3))
def test_it(pool, n):
    shared(pool).cursor().execute("SELECT 1")
"""


def test_one_connection_that_a_module_keeps_for_all_tests_fails_nothing_and_is_told(suite):
    run = suite.run(GLOBAL)
    run.assert_outcomes(passed=3)
    assert run.result.ret == 0
    assert [(f["verdict"], f["note"]) for f in run.findings] == [("warned", "module test_suite holds it")]


def test_connections_that_a_module_keeps_from_different_places_fail_nothing(suite):
    run = suite.run(
        """
reader = writer = None

def test_one(pool):
    global reader
    reader = pool.getconn()

def test_two(pool):
    global writer
    writer = pool.getconn()

def test_three(pool):
    pool.getconn(key=os.getpid())
"""
    )
    run.assert_outcomes(passed=3)
    assert [f["verdict"] for f in run.findings] == ["warned"] * 3


def test_a_module_that_collects_one_connection_after_the_other_leaks(suite):
    run = suite.run(
        """
taken = []

def test_one(pool): taken.append(take(pool))
def test_two(pool): taken.append(take(pool))
def test_three(pool): taken.append(take(pool))

def take(pool):
    return pool.getconn()
"""
    )
    assert run.result.ret == 1
    assert run.blamed == ["test_one", "test_three", "test_two"]
    run.assert_outcomes(failed=2, passed=1)  # the first one might have been a singleton


BACKGROUND = """
import queue

class Writer:
    def __init__(self, pool):
        self.pool = pool
        self.rows = queue.Queue()
        self.thread = threading.Thread(target=self.run, name="writer", daemon=True)
        self.thread.start()

    def run(self):
        while True:
            row = self.rows.get()
            if row is None:
                return
            self.write(row)
            self.rows.task_done()

    def write(self, row):
        WRITE

@pytest.fixture(scope="module")
def writer(pool):
    writer = Writer(pool)
    yield writer
    writer.rows.put(None)
    writer.thread.join()
"""


def test_a_background_worker_that_is_still_at_work_is_not_the_tests_leak(suite):
    write = "conn = self.pool.getconn()\n        row.wait()\n        self.pool.putconn(conn)"
    suite.run(
        BACKGROUND.replace("WRITE", write)
        + """
held = threading.Event()

def test_one(writer):
    writer.rows.put(held)
    while not writer.pool._used:
        time.sleep(0.001)

def test_two(writer):
    assert writer.pool._used

def test_three(writer):
    held.set()
    writer.rows.join()
""",
        "--poolguard-grace=0.05",
    ).assert_silent(passed=3)


def test_a_background_worker_whose_job_leaks_is_the_leak_of_the_test_that_ran(suite):
    run = suite.run(
        BACKGROUND.replace("WRITE", "conn = self.pool.getconn()")
        + """
def test_one(writer):
    writer.rows.put(1)
    writer.rows.join()

def test_two(writer): pass
""",
        "--poolguard-grace=0.05",
    )
    run.assert_outcomes(failed=1, passed=1)
    assert run.blamed == ["test_one"]
    assert run.findings[0]["thread"] == "writer"


def test_a_request_handler_that_finishes_a_moment_later_is_silent(suite):
    suite.run(
        """
from concurrent.futures import ThreadPoolExecutor

@pytest.fixture(scope="module")
def server():
    with ThreadPoolExecutor(2) as executor:
        yield executor

def handle(pool):
    conn = pool.getconn()
    try:
        answered.set()
        time.sleep(0.2)
    finally:
        pool.putconn(conn)

answered = threading.Event()

def test_it(pool, server):
    server.submit(handle, pool)
    answered.wait()

def test_next(pool): pass
"""
    ).assert_silent(passed=2)


def test_connections_that_a_fork_inherits_are_not_judged_twice(suite):
    suite.run(
        """
def test_it(pool):
    conn = pool.getconn()
    pid = os.fork()
    if pid == 0:
        os._exit(0)
    os.waitpid(pid, 0)
    pool.putconn(conn)
"""
    ).assert_silent(passed=1)


def test_a_mocked_psycopg2_is_no_pool(suite):
    suite.run(
        """
from unittest import mock

def test_pool_class(monkeypatch):
    with mock.patch("psycopg2.pool.ThreadedConnectionPool") as cls:
        cls(1, 2, "dbname=x").getconn()

def test_connect(poolguard):
    with mock.patch("psycopg2.connect") as connect:
        pool = SimpleConnectionPool(1, 2, "dbname=x host=nowhere.invalid")
        assert connect.call_count == 1
        conn = pool.getconn()
        assert connect.call_count == 1
        pool._used.clear(), pool._rused.clear()
        pool._used[1] = conn
        pool._rused[id(conn)] = 1
        pool.putconn(conn)
"""
    ).assert_silent(passed=2)


def test_a_mock_in_sys_modules_is_no_library(suite):
    run = suite.run(
        """
import sys
from unittest import mock
sys.modules["psycopg2"] = mock.MagicMock()
sys.modules["psycopg2.pool"] = mock.MagicMock()
def test_it():
    import psycopg2.pool
    psycopg2.pool.ThreadedConnectionPool(1, 2).getconn()
""",
        header="",
        subprocess=True,
    )
    run.assert_silent(passed=1)


def test_warnings_as_errors_and_developer_mode_meet_nothing_of_ours(suite, monkeypatch):
    monkeypatch.setenv("PYTHONDEVMODE", "1")
    run = suite.run(
        "def test_leaks(pool):\n    pool.getconn()\n\ndef test_it(pool):\n    pool.putconn(pool.getconn())\n",
        "-W",
        "error",
        subprocess=True,
    )
    run.assert_outcomes(failed=1, passed=1)
    assert "Warning" not in run.text


def test_a_database_can_be_dropped_while_the_guard_watches(suite):
    suite.run(
        """
def admin(statement):
    conn = psycopg2.connect(DSN)
    conn.autocommit = True
    conn.cursor().execute(statement)
    conn.close()

def test_it():
    name = f"dropped_{os.getpid()}"
    admin(f"CREATE DATABASE {name}")
    pool = SimpleConnectionPool(1, 2, DSN, dbname=name)
    pool.putconn(pool.getconn())
    pool.closeall()
    for _ in range(50):  # the backend that was closed just now takes a moment
        try:
            return admin(f"DROP DATABASE {name}")
        except psycopg2.errors.ObjectInUse:
            time.sleep(0.02)
    pytest.fail("still in use")
"""
    ).assert_silent(passed=1)


def test_asyncio_tests_that_return_are_silent_and_that_leak_fail(suite, processes):
    run = suite.run(
        """
import asyncio
import pytest_asyncio

@pytest_asyncio.fixture
async def conn(pool):
    conn = pool.getconn()
    yield conn
    pool.putconn(conn)

@pytest.mark.asyncio
async def test_returns(conn, pool):
    await asyncio.sleep(0)
    pool.putconn(pool.getconn())

@pytest.mark.asyncio
async def test_leaks(conn, pool):
    await asyncio.sleep(0)
    async def inner():
        pool.getconn()
    await asyncio.create_task(inner())

@pytest.mark.asyncio(loop_scope="session")
async def test_leaks_on_the_sessions_loop(pool):
    await asyncio.to_thread(pool.getconn)
""",
        *processes,
    )
    run.assert_outcomes(failed=2, passed=1)
    assert run.blamed == ["test_leaks", "test_leaks_on_the_sessions_loop"]


def test_hypothesis_examples_that_return_are_silent(suite):
    suite.run(
        """
import hypothesis, hypothesis.strategies

@hypothesis.settings(max_examples=20, suppress_health_check=list(hypothesis.HealthCheck), database=None)
@hypothesis.given(hypothesis.strategies.integers())
def test_it(pool, n):
    pool.putconn(pool.getconn())
"""
    ).assert_silent(passed=1)


def test_the_clock_stands_still_in_the_debugger(suite):
    """A minute at pdb's prompt is no minute that a connection was held."""
    suite.file(
        "conftest.py",
        """
import pytest

class Debugger:
    def set_trace(self, config):
        config.hook.pytest_enter_pdb(config=config, pdb=None)
        import time; time.sleep(0.5)
        config.hook.pytest_leave_pdb(config=config, pdb=None)

@pytest.fixture
def debugger():
    return Debugger()
""",
    )
    suite.run(
        """
@pytest.mark.pool(hold=0.4)
def test_it(pool, debugger, request):
    conn = pool.getconn()
    debugger.set_trace(request.config)
    pool.putconn(conn)
"""
    ).assert_silent(passed=1)


def test_pools_by_the_hundred_that_stay_open_are_one_line_and_fail_nothing(suite):
    run = suite.run(
        """
pools = []

@pytest.mark.parametrize("n", range(12))
def test_it(n):
    pools.append(SimpleConnectionPool(1, 2, DSN))

def test_close_most():
    for pool in pools[3:]:
        pool.closeall()
"""
    )
    run.assert_outcomes(passed=13)
    assert run.result.ret == 0
    assert run.text.count("was never closed") == 1
    assert "\n     3      3  test_suite.py:20 in test_it  (pool not closed, warning only)\n" in run.text
    assert "still open at the end" not in run.text


def test_tests_that_are_never_set_up_are_silent(suite, processes):
    suite.run(
        """
@pytest.mark.skip(reason="not today")
def test_skipped(pool): pass

@pytest.mark.skipif(True, reason="not here")
def test_skipped_too(): pass

@pytest.mark.xfail(run=False)
def test_not_run(): pass

def test_runs(pool):
    pool.putconn(pool.getconn())
""",
        *processes,
    ).assert_silent(passed=1, skipped=2, xfailed=1)


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_a_fork_that_goes_on_as_a_second_pytest_reclaims_nothing_of_its_parents(suite):
    run = suite.run(
        """
own = ThreadedConnectionPool(1, 2, DSN)

def test_it():
    conn = own.getconn()
    child = os.fork()
    if not child:
        return  # what it has inherited is its parent's
    assert os.waitpid(child, 0)[1] == 0
    with conn.cursor() as cursor:
        cursor.execute("SELECT 1")
    own.putconn(conn)

def test_leaks(pool):
    pool.getconn()
""",
        "-Wignore:.*fork:DeprecationWarning",
        subprocess=True,
    )
    assert run.blamed == ["test_leaks"]
    assert run.result.ret == 1
    assert run.text.count("poolguard: 1 leak, 1 site") == 1  # the child passes, and says nothing


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_a_fork_of_a_test_that_is_expected_to_leak_is_not_told_of_a_missing_leak(suite):
    suite.run(
        """
own = ThreadedConnectionPool(1, 2, DSN)

@pytest.mark.pool(leaks=1, reason="known")
def test_it():
    own.getconn()
    child = os.fork()
    if child:
        assert os.waitpid(child, 0)[1] == 0
""",
        "-Wignore:.*fork:DeprecationWarning",
        subprocess=True,
    ).assert_outcomes(passed=1)
