"""Every checkout and return of every pool of psycopg2 counts exactly once."""

from __future__ import annotations

import inspect

import psycopg2.pool
import pytest

POOL_CLASSES = """
class Plain(psycopg2.pool.AbstractConnectionPool):
    getconn = psycopg2.pool.AbstractConnectionPool._getconn
    putconn = psycopg2.pool.AbstractConnectionPool._putconn
    closeall = psycopg2.pool.AbstractConnectionPool._closeall

class Calling(psycopg2.pool.AbstractConnectionPool):
    def getconn(self):
        return self._getconn()
    def putconn(self, conn):
        self._putconn(conn)
    def closeall(self):
        self._closeall()

class Overriding(ThreadedConnectionPool):
    def getconn(self, key=None):
        return super().getconn(key)
    def putconn(self, conn, *args):
        super().putconn(conn, *args)

class Inner(SimpleConnectionPool):
    def _getconn(self, key=None):
        return super()._getconn(key)
    def _putconn(self, *args, **kwargs):
        return super()._putconn(*args, **kwargs)
    getconn, putconn = _getconn, _putconn

class Bare(ThreadedConnectionPool):
    pass

def twice(pool):
    conn = pool.getconn()
    assert len(pool._used) == 1
    pool.putconn(conn)
    conn = pool.getconn()
    pool.putconn(conn)

def make(name, minconn=1):
    return (globals().get(name) or getattr(psycopg2.pool, name))(minconn, 4, DSN)
"""
NAMES = ["SimpleConnectionPool", "ThreadedConnectionPool", "Plain", "Calling", "Overriding", "Inner", "Bare"]


@pytest.mark.parametrize("minconn", [0, 1, 2])
def test_every_class_and_route_counts_once(suite, minconn):
    run = suite.run(
        POOL_CLASSES
        + f"""
@pytest.mark.parametrize("name", {NAMES})
def test_returns(name, poolguard):
    pool = make(name, {minconn})
    twice(pool)
    assert (poolguard.checked_out, poolguard.peak) == (0, 1)
    conn = pool.getconn()
    assert (poolguard.checked_out, poolguard.peak) == (1, 1)
    other = pool.getconn()
    assert (poolguard.checked_out, poolguard.peak) == (2, 2)
    pool.putconn(other)
    pool.putconn(conn)
    assert (poolguard.checked_out, poolguard.peak) == (0, 2)
    pool.closeall()

@pytest.mark.parametrize("name", {NAMES})
def test_leaks(name):
    pool = make(name, {minconn})
    twice(pool)
    conn = pool.getconn()
    pool.closeall()
"""
    )
    run.assert_outcomes(passed=len(NAMES), failed=len(NAMES))
    assert run.blamed == sorted(f"test_leaks[{name}]" for name in NAMES)
    assert run.data["checkouts"] == len(NAMES) * (4 + 3)
    assert {f["acquired"]["text"] for f in run.findings} == {"conn = pool.getconn()"} | (
        # those methods are the suite's own code: the innermost of it takes the connection
        {"return self._getconn()", "return super().getconn(key)", "return super()._getconn(key)"}
    )


def test_a_class_made_before_the_watch_began_is_watched_too(suite):
    """An alias of the original function lives in a class that a conftest's import made first."""

    class Early(psycopg2.pool.AbstractConnectionPool):
        getconn = psycopg2.pool.AbstractConnectionPool._getconn
        putconn = psycopg2.pool.AbstractConnectionPool._putconn

    suite.pytester.syspathinsert()
    psycopg2.pool.Early = Early  # where the inner run finds it
    try:
        run = suite.run(
            """
def test_leaks():
    pool = psycopg2.pool.Early(1, 2, DSN)
    pool.getconn()
    pool.putconn(pool.getconn())
"""
        )
    finally:
        del psycopg2.pool.Early
    run.assert_outcomes(failed=1)
    assert run.blamed == ["test_leaks"]
    assert Early.getconn is psycopg2.pool.AbstractConnectionPool._getconn


def test_the_same_key_is_one_checkout_and_one_return_frees_it(suite):
    run = suite.run(
        """
def test_returns(pool, poolguard):
    first = pool.getconn("a")
    assert pool.getconn("a") is first
    assert poolguard.checked_out == 1
    pool.putconn(key="a", conn=first)
    assert poolguard.checked_out == 0

def test_leaks(pool):
    pool.getconn("a")
    pool.getconn("a")
"""
    )
    run.assert_outcomes(passed=1, failed=1)
    assert run.blamed == ["test_leaks"]


def test_a_connection_kept_under_its_process_or_threads_own_key_is_no_leak(suite):
    """One a process or thread, for good: psycopg2's old PersistentConnectionPool did so."""
    run = suite.run(
        """
@pytest.mark.parametrize("key", [os.getpid(), threading.get_ident(), threading.current_thread().name])
@pytest.mark.parametrize("time", [1, 2])
def test_it(pool, key, time):
    conn = pool.getconn(key)
    with conn.cursor() as cursor:
        cursor.execute("SELECT 1")
"""
    )
    run.assert_outcomes(passed=6)
    assert {f["verdict"] for f in run.findings} == {"warned"}
    assert run.result.ret == 0


def test_putconn_with_close_is_a_return(suite):
    suite.run("def test_it(pool):\n    pool.putconn(pool.getconn(), close=True)\n").assert_silent(passed=1)


def test_a_putconn_that_raises_leaves_the_connection_out(suite):
    """psycopg2's rollback meets a dead server there, and the slot stays in use."""
    run = suite.run(
        """
def test_leaks(pool):
    conn = pool.getconn()
    other = pool.getconn()
    pool.putconn(other, close=True)
    with conn.cursor() as cursor:
        cursor.execute("SELECT pg_backend_pid()")
        (pid,) = cursor.fetchone()
    killer = psycopg2.connect(DSN)
    killer.autocommit = True
    with killer.cursor() as cursor:
        cursor.execute("SELECT pg_terminate_backend(%s, 5000)", [pid])
    killer.close()
    with pytest.raises(psycopg2.Error):
        pool.putconn(conn)
    assert len(pool._used) == 1
"""
    )
    run.assert_outcomes(failed=1)
    (finding,) = run.findings
    assert "putconn() raised" in finding["hint"]
    assert "close=True" in finding["hint"]


def test_a_putconn_that_raises_and_is_tried_again_with_close_is_a_return(suite):
    suite.run(
        """
def test_it(pool, monkeypatch):
    conn = pool.getconn()
    with conn.cursor() as cursor:
        cursor.execute("SELECT pg_backend_pid()")
        (pid,) = cursor.fetchone()
    killer = psycopg2.connect(DSN)
    killer.autocommit = True
    with killer.cursor() as cursor:
        cursor.execute("SELECT pg_terminate_backend(%s, 5000)", [pid])
    killer.close()
    with pytest.raises(psycopg2.Error):
        pool.putconn(conn)
    pool.putconn(conn, close=True)
"""
    ).assert_silent(passed=1)


def test_returned_to_another_pool_is_told_as_that(suite):
    run = suite.run(
        """
def test_leaks(pool):
    other = SimpleConnectionPool(1, 2, DSN)
    conn = pool.getconn()
    with pytest.raises(PoolError, match="unkeyed"):
        other.putconn(conn)
    other.closeall()
"""
    )
    run.assert_outcomes(failed=1)
    assert "another pool" in run.findings[0]["hint"]


def test_closeall_does_not_hide_what_is_out(suite, processes):
    run = suite.run(
        """
@pytest.fixture
def own():
    pool = SimpleConnectionPool(1, 2, DSN)
    yield pool
    pool.closeall()

def test_leaks(own):
    conn = own.getconn()

def test_clean(own):
    own.putconn(own.getconn())
""",
        *processes,
    )
    run.assert_outcomes(failed=1, passed=1)
    assert run.blamed == ["test_leaks"]
    assert run.findings[0]["closed_at"]["text"] == "pool.closeall()"


def test_closeall_in_the_test_is_told_as_the_cause(suite):
    run = suite.run(
        """
def test_leaks():
    pool = SimpleConnectionPool(1, 2, DSN)
    conn = pool.getconn()
    pool.closeall()
"""
    )
    run.assert_outcomes(failed=1)
    assert "closed while" in run.findings[0]["hint"]


def test_a_return_after_closeall_is_a_return_though_psycopg2_refuses_it(suite):
    suite.run(
        """
def test_it():
    pool = SimpleConnectionPool(1, 2, DSN)
    conn = pool.getconn()
    pool.closeall()
    with pytest.raises(PoolError, match="closed"):
        pool.putconn(conn)
"""
    ).assert_silent(passed=1)


def test_pools_made_at_import_in_a_conftest_in_a_fixture_and_in_a_test_are_watched(suite, processes):
    suite.file(
        "conftest.py",
        """
import os, pytest
from psycopg2.pool import SimpleConnectionPool
conftest_pool = SimpleConnectionPool(1, 3, os.environ["SUITE_DSN"])
@pytest.fixture
def from_conftest():
    return conftest_pool
""",
    )
    run = suite.run(
        """
import_pool = SimpleConnectionPool(1, 3, DSN)

@pytest.fixture
def fixture_pool():
    return SimpleConnectionPool(1, 3, DSN)

def test_conftest(from_conftest): from_conftest.getconn()
def test_import(): import_pool.getconn()
def test_fixture(fixture_pool): fixture_pool.getconn()
def test_test(): SimpleConnectionPool(1, 3, DSN).getconn()
""",
        *processes,
    )
    run.assert_outcomes(failed=4)
    made = {f["nodeid"].rpartition("::")[2]: f["pool"]["made_at"] for f in run.findings}
    assert made["test_conftest"]["file"] == "conftest.py"
    assert made["test_import"]["text"] == "import_pool = SimpleConnectionPool(1, 3, DSN)"
    assert made["test_fixture"]["function"] == "fixture_pool"
    assert made["test_test"]["function"] == "test_test"


def test_a_pool_without_a_minimum_is_named_by_its_first_use(suite):
    run = suite.run(
        """
def test_leaks():
    pool = SimpleConnectionPool(0, 3, DSN)
    conn = pool.getconn()
"""
    )
    run.assert_outcomes(failed=1)
    assert "SimpleConnectionPool(0..3) first used at test_suite.py:" in run.text


def test_psycopg2_is_never_imported_by_us(suite):
    run = suite.run(
        """
import sys
def test_it():
    assert not [name for name in sys.modules if name.startswith(("psycopg", "sqlalchemy", "asyncpg"))]
""",
        "-p",
        "no:postgresql",
        header="",
        subprocess=True,
    )
    run.assert_silent(passed=1)
    assert "poolguard: no connection pool was seen in this run: none of psycopg2" in run.text


def test_a_first_import_in_the_test_body_is_watched_from_there_on(suite, processes):
    run = suite.run(
        """
import os
def test_leaks():
    from psycopg2.pool import SimpleConnectionPool
    pool = SimpleConnectionPool(1, 2, os.environ["SUITE_DSN"])
    pool.getconn()

def test_leaks_too():
    from psycopg2.pool import SimpleConnectionPool
    pool = SimpleConnectionPool(1, 2, os.environ["SUITE_DSN"])
    pool.getconn()

def test_clean():
    from psycopg2.pool import SimpleConnectionPool
    pool = SimpleConnectionPool(1, 2, os.environ["SUITE_DSN"])
    pool.putconn(pool.getconn())
""",
        *processes,
        header="",
        subprocess=True,
    )
    run.assert_outcomes(failed=2, passed=1)
    assert run.blamed == ["test_leaks", "test_leaks_too"]


def test_a_first_import_in_a_fixture_leaves_what_that_fixture_holds_to_it(suite):
    run = suite.run(
        """
import os, pytest

@pytest.fixture(scope="module")
def conn():
    from psycopg2.pool import SimpleConnectionPool
    pool = SimpleConnectionPool(1, 2, os.environ["SUITE_DSN"])
    conn = pool.getconn()
    yield conn
    pool.putconn(conn)
    pool.closeall()

def test_one(conn): pass
def test_two(conn): pass
""",
        header="",
        subprocess=True,
    )
    run.assert_silent(passed=2)
    assert run.data["checkouts"] == 1


def test_an_import_in_another_thread_is_watched(suite):
    run = suite.run(
        """
import os, threading
def work():
    global conn
    from psycopg2.pool import SimpleConnectionPool
    pool = SimpleConnectionPool(1, 2, os.environ["SUITE_DSN"])
    conn = pool.getconn()
    del conn

def test_leaks():
    thread = threading.Thread(target=work, name="importer")
    thread.start()
    thread.join()
""",
        header="",
        subprocess=True,
    )
    run.assert_outcomes(failed=1)
    assert (run.blamed, run.findings[0]["thread"]) == (["test_leaks"], "importer")


def test_a_reloaded_library_is_watched_again(suite):
    run = suite.run(
        """
def test_leaks():
    import importlib, psycopg2.pool
    importlib.reload(psycopg2.pool)
    pool = psycopg2.pool.SimpleConnectionPool(1, 2, DSN)
    pool.getconn()
""",
        subprocess=True,
    )
    run.assert_outcomes(failed=1)
    assert run.blamed == ["test_leaks"]


ORIGINALS = (
    "connect = psycopg2.connect",
    "_connect, _getconn, _putconn, _closeall of psycopg2.pool.AbstractConnectionPool",
)


def everything_patched() -> dict[str, object]:
    found = {"connect": psycopg2.connect}
    for cls in (
        psycopg2.pool.AbstractConnectionPool,
        psycopg2.pool.SimpleConnectionPool,
        psycopg2.pool.ThreadedConnectionPool,
    ):
        found.update({f"{cls.__name__}.{name}": value for name, value in vars(cls).items() if callable(value)})
    return found


@pytest.mark.parametrize(
    "ending",
    [
        "pass",
        "raise KeyboardInterrupt",
        "pytest.exit('enough')",
        "raise SystemExit(3)",
        "pool.getconn()",
    ],
)
def test_everything_is_undone_at_the_end_also_of_a_run_that_breaks(suite, ending):
    before = everything_patched()
    suite.run(f"def test_it(pool):\n    {ending}\n")
    assert everything_patched() == before


def test_everything_is_undone_when_a_conftest_can_not_be_imported(suite):
    before = everything_patched()
    suite.file("conftest.py", "import psycopg2.pool\nraise RuntimeError('broken conftest')\n")
    suite.run("")
    assert everything_patched() == before


def test_signatures_docs_and_names_are_the_originals(suite):
    before = {
        name: (str(inspect.signature(value)), inspect.getfullargspec(value), value.__doc__, value.__qualname__)
        for name, value in everything_patched().items()
        if inspect.isfunction(value)
    }
    suite.pytester.makeconftest("")
    seen = {}

    class Look:
        def pytest_runtest_call(self) -> None:
            seen.update(
                {
                    name: (
                        str(inspect.signature(value)),
                        inspect.getfullargspec(value),
                        value.__doc__,
                        value.__qualname__,
                    )
                    for name, value in everything_patched().items()
                    if inspect.isfunction(value)
                }
            )

    suite.file("test_suite.py", "import psycopg2.pool\ndef test_it(): pass\n")
    suite.pytester.inline_run("-p", "no:cacheprovider", plugins=[Look()])
    assert seen == before


def test_a_traceback_through_the_pool_shows_no_frame_of_ours(suite):
    run = suite.run(
        """
def test_it():
    pool = ThreadedConnectionPool(0, 1, DSN)
    conn = pool.getconn()
    try:
        pool.getconn()
    finally:
        pool.putconn(conn)
"""
    )
    run.assert_outcomes(failed=1)
    assert "connection pool exhausted" in run.text
    assert "pytest_poolguard" not in run.text


def test_another_monkeypatch_is_left_as_it_is(suite):
    run = suite.run(
        """
def test_patched(pool, monkeypatch):
    monkeypatch.setattr(ThreadedConnectionPool, "getconn", lambda self: "fake")
    assert pool.getconn() == "fake"

def test_restored(pool, poolguard):
    conn = pool.getconn()
    assert poolguard.checked_out == 1
    pool.putconn(conn)
"""
    )
    run.assert_silent(passed=2)


def test_what_applications_read_stays_as_it_is(suite):
    suite.run(
        """
import weakref

def test_it():
    pool = ThreadedConnectionPool(1, 3, DSN)
    conn = pool.getconn()
    assert (list(pool._used.values()), pool._pool) == ([conn], [])
    assert (pool.minconn, pool.maxconn, pool.closed) == (1, 3, False)
    assert set(vars(pool)) == {
        "minconn", "maxconn", "closed", "_args", "_kwargs", "_pool", "_used", "_rused", "_keys", "_lock"
    }
    pool.putconn(conn)
    pool.closeall()
    kept = weakref.ref(pool), weakref.ref(conn)
    del pool, conn
    assert [ref() for ref in kept] == [None, None]
"""
    ).assert_silent(passed=1)
