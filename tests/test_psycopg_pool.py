"""What only psycopg_pool does. What every library does is in ``contract``."""

from __future__ import annotations

import inspect

# C extensions, which can't be imported anew for every inner run
import psycopg  # noqa: F401
import psycopg_pool
import pytest
from loops import ONE_LOOP

#: What a pool is made with. `check` came with psycopg_pool 3.2, `close_returns` with 3.3.
ARGUMENTS = {*inspect.signature(psycopg_pool.ConnectionPool).parameters}

HEADER = """
import asyncio, contextlib, gc, inspect, os, threading, time
import pytest
from psycopg_pool import AsyncConnectionPool, ConnectionPool, NullConnectionPool, PoolTimeout

DSN = os.environ["SUITE_DSN"]

@pytest.fixture(scope="module")
def pool():
    with ConnectionPool(DSN, min_size=1, max_size=3, timeout=20) as pool:
        yield pool
"""
ASYNC = ("-oasyncio_mode=auto",)


@pytest.fixture
def run(suite):
    return lambda source, *args: suite.run(source, *args, header=HEADER)


def test_connection_returns_and_what_never_leaves_it_leaks(run):
    result = run(
        """
def test_returns(pool, poolguard):
    with pool.connection() as conn:
        conn.execute("SELECT 1")
        assert poolguard.checked_out == 1
    with pytest.raises(ZeroDivisionError):
        with pool.connection() as conn:
            1 / 0
    assert poolguard.checked_out == 0

stack = contextlib.ExitStack()

def test_leaks(pool):
    stack.enter_context(pool.connection())
"""
    )
    result.assert_outcomes(passed=1, failed=1)
    assert result.blamed == ["test_leaks"]
    assert result.sites == ["test_leaks: stack.enter_context(pool.connection())"]
    assert result.data["checkouts"] == 3


def test_async_connection_returns_and_what_never_leaves_it_leaks(run):
    result = run(
        """
async def rows(pool):
    async with pool.connection() as conn:
        yield conn

@pytest.fixture(scope="module")
async def pool():
    async with AsyncConnectionPool(DSN, min_size=1, open=False) as pool:
        yield pool

kept = []

@pytest.mark.parametrize("ends", [False, True])
async def test_it(pool, ends):
    generator = rows(pool)
    kept.append([[[[[generator]]]]])
    conn = await anext(generator)
    await conn.execute("SELECT 1")
    if ends:
        await generator.aclose()
""",
        *ASYNC,
        # the end of a loop ends its generators, which return what they have: not before the second test
        *ONE_LOOP,
    )
    result.assert_outcomes(passed=1, failed=1)
    assert result.blamed == ["test_it[False]"]
    assert result.sites == ["rows: async with pool.connection() as conn:"]
    assert [p["function"] for p in result.findings[0]["stack"] if p["own"]] == ["test_it", "rows"]


@pytest.mark.parametrize("is_async", [False, True], ids=["sync", "async"])
def test_with_getconn_does_not_return_it_and_the_hint_says_what_does(run, is_async):
    word, wait, cls = ("async ", "await ", "AsyncConnectionPool") if is_async else ("", "", "ConnectionPool")
    result = run(
        f"""
{word}def test_leaks():
    {word}with {cls}(DSN, min_size=1, open=False) as pool:
        {word}with {wait}pool.getconn() as conn:
            {wait}conn.execute("SELECT 1")
""",
        *ASYNC,
    )
    result.assert_outcomes(failed=1)
    assert result.findings[0]["hint"] == (
        "`with …getconn()` ends the transaction, it does not return the connection; "
        f"use `{word}with pool.connection() as conn:`"
    )


@pytest.mark.skipif("close_returns" not in ARGUMENTS, reason="came with psycopg_pool 3.3")
def test_close_returns_where_the_pool_says_so_and_nowhere_else(run):
    result = run(
        """
kept = []

@pytest.mark.parametrize("returns", [True, False])
def test_it(returns, poolguard):
    with ConnectionPool(DSN, min_size=1, close_returns=returns) as pool:
        conn = pool.getconn()
        conn.close()
        kept.append([[[[[conn]]]]])  # deeper than anybody looks: a collected one does not show that it is closed
        assert poolguard.checked_out == (not returns)

@pytest.mark.parametrize("returns", [True, False])
async def test_async(returns, poolguard):
    async with AsyncConnectionPool(DSN, min_size=1, close_returns=returns, open=False) as pool:
        conn = await pool.getconn()
        await conn.close()
        kept.append([[[[[conn]]]]])
        assert poolguard.checked_out == (not returns)
""",
        *ASYNC,
    )
    result.assert_outcomes(passed=2, failed=2)
    assert result.blamed == ["test_async[False]", "test_it[False]"]
    assert {f["hint"] for f in result.findings} == {
        "the connection was closed, not returned, so its slot stays in use; "
        "call putconn(conn) instead of conn.close()"
    }


def test_callbacks_and_workers_are_no_checkouts(run):
    result = run(
        """
seen = []

def test_it(poolguard):
    there = {*inspect.signature(ConnectionPool).parameters} & {"configure", "check", "reset"}
    callbacks = {name: lambda conn, name=name: seen.append(name) for name in there}
    with ConnectionPool(DSN, min_size=2, max_size=4, **callbacks) as pool:
        pool.wait()
        for _ in range(3):
            with pool.connection():
                assert poolguard.checked_out == 1
            assert poolguard.checked_out == 0  # whenever the worker resets it
        drain = getattr(pool, "drain", list)  # came with psycopg_pool 3.3
        pool.check()
        drain()
        pool.resize(1, 2)
        with pool.connection():
            drain()
        conn = pool.getconn()
    assert pool.closed
    pool.putconn(conn)
    assert set(seen) == there
"""
    )
    result.assert_silent(passed=1)
    assert result.data["checkouts"] == 5


@pytest.mark.skipif("check" not in ARGUMENTS, reason="came with psycopg_pool 3.2")
def test_a_check_that_fails_once_is_one_checkout(run):
    result = run(
        """
def test_it(poolguard):
    failures = [ValueError]
    def check(conn):
        if failures:
            raise failures.pop()
    with ConnectionPool(DSN, min_size=1, check=check) as pool:
        with pool.connection():
            assert poolguard.checked_out == 1
    assert not failures
"""
    )
    result.assert_silent(passed=1)
    assert result.data["checkouts"] == 1


def test_the_pools_own_threads_are_nobody_to_wait_for(suite):
    result = suite.run(
        """
kept = []

def test_leaks(pool):
    kept.append([[[[[pool.getconn()]]]]])

def test_after(): pass
""",
        "--poolguard-grace=60",
        "-pno:rerunfailures",  # it has a thread that could, for all we know
        header=HEADER,
        subprocess=True,  # xdist's workers have one, too
    )
    result.assert_outcomes(passed=1, failed=1)
    assert result.result.duration < 30


def test_a_thread_that_returns_a_moment_later_is_waited_for(run):
    run(
        """
def test_it(pool):
    conn = pool.getconn()
    thread = threading.Thread(target=lambda: (time.sleep(0.2), pool.putconn(conn)))
    thread.start()
""",
        "--poolguard-grace=30",
    ).assert_silent(passed=1)


def test_subclasses_count_once_whatever_they_override(run):
    result = run(
        """
class Overriding(ConnectionPool):
    def getconn(self, timeout=None):
        return super().getconn(timeout)
    def putconn(self, conn):
        super().putconn(conn)

class Renaming(NullConnectionPool):
    acquire, release = ConnectionPool.getconn, ConnectionPool.putconn

def test_overriding(poolguard):
    with Overriding(DSN, min_size=1) as pool:
        with pool.connection():
            assert poolguard.checked_out == 1
        pool.putconn(pool.getconn())

def test_renaming(poolguard):
    with Renaming(DSN, max_size=2) as pool:
        conn = pool.acquire()
        assert poolguard.checked_out == 1
        pool.release(conn)
"""
    )
    result.assert_silent(passed=2)
    assert result.data["checkouts"] == 3


def test_a_lost_connection_is_told_as_lost(run):
    result = run(
        """
def test_leaks(pool):
    pool.getconn()
    gc.collect()
"""
    )
    result.assert_outcomes(failed=1)
    assert "garbage-collected while it was out" in result.findings[0]["note"]


def test_a_connection_leaked_in_a_loop_that_is_closed_by_then_is_closed(run):
    result = run(
        """
import psycopg
kept = []

def test_leaks():
    async def main():
        pool = AsyncConnectionPool(DSN, min_size=1, open=False)
        await pool.open()
        kept.append([[[[[await pool.getconn()]]]]])
        await pool.close()
    asyncio.run(main())

def test_next():
    assert kept[0][0][0][0][0][0].closed
"""
    )
    result.assert_outcomes(passed=1, failed=1)
    assert result.blamed == ["test_leaks"]


def test_a_loop_in_another_thread_gets_its_slot_back_and_may_return_late(run):
    result = run(
        """
kept = []

@pytest.fixture(scope="module")
def do():
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    yield lambda coroutine: asyncio.run_coroutine_threadsafe(coroutine, loop).result(20)
    loop.call_soon_threadsafe(loop.stop)
    thread.join()
    loop.close()

@pytest.fixture(scope="module")
def pool(do):
    pool = AsyncConnectionPool(DSN, min_size=1, max_size=1, open=False, timeout=15)
    do(pool.open())
    yield pool
    do(pool.close())

def test_late(do, pool):
    async def work():
        conn = await pool.getconn()
        kept.append(asyncio.create_task(give_back(conn)))
    async def give_back(conn):
        await asyncio.sleep(0.2)
        await pool.putconn(conn)
    do(work())

def test_leaks(do, pool):
    async def work():
        kept.append([[[[[await pool.getconn()]]]]])
    do(work())

def test_next(do, pool):
    async def work():
        await pool.putconn(await pool.getconn())
    do(work())
"""
    )
    result.assert_outcomes(passed=2, failed=1)
    assert result.blamed == ["test_leaks"]


def test_a_cancelled_task_that_returns_in_its_finally_is_silent(run):
    run(
        """
async def test_it():
    async with AsyncConnectionPool(DSN, min_size=1, open=False) as pool:
        async def work():
            async with pool.connection() as conn:
                await asyncio.sleep(60)
        task = asyncio.create_task(work())
        await asyncio.sleep(0.1)
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task
""",
        *ASYNC,
    ).assert_silent(passed=1)


def test_many_threads_and_tasks_at_once_are_counted_exactly(run):
    result = run(
        """
def test_threads(pool, poolguard):
    def work():
        for _ in range(20):
            with pool.connection():
                pass
    threads = [threading.Thread(target=work) for _ in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert poolguard.checked_out == 0
    assert poolguard.peak <= 3

@pytest.mark.pool(max=2)
async def test_tasks(poolguard):
    async with AsyncConnectionPool(DSN, min_size=1, max_size=3, open=False) as pool:
        async def work():
            for _ in range(5):
                async with pool.connection():
                    await asyncio.sleep(0)
        await asyncio.gather(*[work() for _ in range(20)])
    assert poolguard.checked_out == 0
    assert poolguard.peak <= 2
""",
        *ASYNC,
    )
    result.assert_silent(passed=2)
    assert result.data["checkouts"] == 20 * 20 + 20 * 5


def test_everything_is_undone_and_looks_as_before(run):
    functions = [
        (cls, name)
        for cls in (psycopg_pool.ConnectionPool, psycopg_pool.AsyncConnectionPool)
        for name in ("__init__", "getconn", "putconn", "connection")
    ]
    before = [vars(cls)[name] for cls, name in functions]
    signatures = [str(inspect.signature(function)) for function in before]
    kinds = [inspect.iscoroutinefunction(function) for function in before]
    run(
        f"""
import inspect

def test_it():
    functions = [
        vars(cls)[name]
        for cls in (ConnectionPool, AsyncConnectionPool)
        for name in ("__init__", "getconn", "putconn", "connection")
    ]
    assert [str(inspect.signature(function)) for function in functions] == {signatures}
    assert [inspect.iscoroutinefunction(function) for function in functions] == {kinds}
"""
    ).assert_silent(passed=1)
    assert [vars(cls)[name] for cls, name in functions] == before


def test_a_version_that_is_too_old_is_named_once_and_left_as_it_is(suite):
    suite.file(
        "old.py",
        """
import importlib.metadata
real = importlib.metadata.version
importlib.metadata.version = lambda name: "3.0.3" if name == "psycopg_pool" else real(name)
""",
    )
    suite.pytester.syspathinsert()
    result = suite.run(
        """
def test_it(pool):
    pool.getconn()
""",
        "-pold",
        header=HEADER,
        subprocess=True,
    )
    result.assert_outcomes(passed=1)
    assert result.data["notices"] == ["psycopg_pool 3.0.3 is not watched: it is older than 3.1"]


def test_a_thread_that_ran_before_the_test_is_not_the_tests(run):
    """It took the connection by itself, in the function that it was started with."""
    result = run(
        """
@pytest.fixture(scope="module")
def worker(pool):
    asked, took, end = threading.Event(), threading.Event(), threading.Event()
    def work():
        asked.wait(20)
        with pool.connection():
            took.set()
            end.wait(20)
    thread = threading.Thread(target=work)
    thread.start()
    yield asked, took
    end.set()
    thread.join()

def test_it(worker):
    asked, took = worker
    asked.set()
    assert took.wait(20)

def test_next(): pass
"""
    )
    result.assert_silent(passed=2)


@pytest.mark.parametrize("where", ["fixture", "test"])
def test_a_task_that_is_still_at_work_is_silent(run, where):
    """Whoever started it: its loop does not end with the test, and somebody cancels it there."""
    run(
        f"""
tasks = []

async def work(pool, asked):
    await asked.wait()
    async with pool.connection():
        await asyncio.sleep(60)

def start(pool):
    asked = asyncio.Event()
    tasks.append(asyncio.create_task(work(pool, asked), name="worker"))
    return asked

@pytest.fixture(scope="module")
async def asked():
    async with AsyncConnectionPool(DSN, min_size=1, open=False) as pool:
        yield start(pool) if "{where}" == "fixture" else pool
        tasks[0].cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await tasks[0]

async def test_it(asked):
    if "{where}" == "test":
        asked = start(asked)
    asked.set()
    await asyncio.sleep(0.2)

async def test_next(asked): pass
""",
        *ASYNC,
        *ONE_LOOP,
    ).assert_silent(passed=2)
