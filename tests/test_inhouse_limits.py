"""A marker's limits for pool classes of the project's own."""

from __future__ import annotations

import sys

# C extensions, which can't be imported anew for every inner run
import psycopg  # noqa: F401
import pytest
from test_inhouse import NAMED, run  # noqa: F401 - a fixture

ASYNC_POOL = """
import asyncio, contextlib, os
import psycopg

DSN = os.environ["SUITE_DSN"]


class Pool:
    def __init__(self, size=3):
        self.idle, self.size = asyncio.LifoQueue(), size

    async def open(self):
        for _ in range(self.size):
            self.idle.put_nowait(await psycopg.AsyncConnection.connect(DSN))
        return self

    async def checkout(self):
        return await self.idle.get()

    async def checkin(self, conn):
        await conn.rollback()
        self.idle.put_nowait(conn)

    @contextlib.asynccontextmanager
    async def connection(self):
        conn = await self.checkout()
        try:
            yield conn
        finally:
            await self.checkin(conn)

    async def shutdown(self):
        while not self.idle.empty():
            await self.idle.get_nowait().close()
"""

ASYNC_HEADER = """
import asyncio, contextlib, time
import pytest
from shop.db import Pool

@pytest.fixture
async def pool():
    pool = await Pool().open()
    yield pool
    await pool.shutdown()
"""
MANAGED = "shop.db:Pool(acquire=connection, close=shutdown)"


def asynchronous(run, source, *args, named=NAMED):  # noqa: F811
    return run(source, "-oasyncio_mode=auto", *args, pool=ASYNC_POOL, header=ASYNC_HEADER, named=named)


def test_max_refuses_one_more_without_asking_the_pool_and_names_the_holders(run, processes):  # noqa: F811
    result = run(
        """
def takes(pool):
    return pool.checkout()

@pytest.mark.pool(max=2)
def test_it(pool, poolguard):
    taken = [takes(pool) for _ in range(2)]
    begin = time.monotonic()
    with pytest.raises(TimeoutError) as error:
        pool.checkout()
    assert time.monotonic() - begin < 1
    assert str(error.value) == "no connection of Pool, of which max=2 may be out"
    assert pool.idle.qsize() == 1
    for conn in taken:
        pool.checkin(conn)
    pool.checkin(pool.checkout())
    assert (poolguard.checked_out, poolguard.peak) == (0, 2)

def test_unlimited(pool):
    for conn in [pool.checkout() for _ in range(3)]:
        pool.checkin(conn)
""",
        *processes,
    )
    result.assert_silent(passed=2)
    (refusal,) = result.data["refusals"]
    assert refusal["diagnosis"] == ["2 of 2 are held by the very thread that asks for one more"]
    assert refusal["capacity"] == 2
    assert {holder["acquired"]["function"] for holder in refusal["holders"]} == {"takes"}


def test_with_a_timeout_one_more_waits_for_somebody_to_return(run):  # noqa: F811
    run(
        """
@pytest.mark.pool(max=1, timeout=0.3)
def test_it(pool):
    conn = pool.checkout()
    with pytest.raises(TimeoutError, match="within 0.3 s, of which max=1"):
        pool.checkout()
    timer = threading.Timer(0.05, pool.checkin, [conn])
    timer.start()
    pool.checkin(pool.checkout())
    timer.join()
"""
    ).assert_silent(passed=1)


def test_many_threads_are_never_more_than_max(run):  # noqa: F811
    run(
        """
@pytest.mark.pool(max=2, timeout=20)
def test_it(pool, poolguard):
    def work():
        for _ in range(5):
            pool.checkin(pool.checkout())
    threads = [threading.Thread(target=work) for _ in range(10)]
    for thread in threads: thread.start()
    for thread in threads: thread.join()
    assert 1 <= poolguard.peak <= 2
"""
    ).assert_silent(passed=1)


@pytest.mark.parametrize("how", ["marker", "option"])
def test_a_timeout_ends_a_wait_and_what_comes_too_late_goes_back(run, how):  # noqa: F811
    mark, args = ("@pytest.mark.pool(timeout=0.2)", ()) if how == "marker" else ("", ("--poolguard-timeout=0.2",))
    result = run(
        f"""
{mark}
def test_it(pool, poolguard):
    taken = [pool.checkout() for _ in range(3)]
    begin = time.monotonic()
    with pytest.raises(TimeoutError, match="no connection of Pool within 0.2 s$"):
        pool.checkout()  # waits for 5 seconds
    assert time.monotonic() - begin < 3
    for conn in taken:  # the first goes to the call that nobody waits for any longer
        pool.checkin(conn)
    for _ in range(100):
        if pool.idle.qsize() == 3:
            break
        time.sleep(0.01)
    assert pool.idle.qsize() == 3
    assert poolguard.checked_out == 0

def test_leaks(pool):
    pool.checkout()
""",
        *args,
    )
    result.assert_outcomes(passed=1, failed=1)
    assert result.blamed == ["test_leaks"]
    assert result.sites == ["test_leaks: pool.checkout()"]
    assert result.findings[0]["thread"] == "MainThread"


def test_an_exception_of_the_pools_own_is_as_it_was(run):  # noqa: F811
    run(
        """
import queue

@pytest.mark.pool(max=3, timeout=5)
def test_it(pool):
    taken = [pool.checkout() for _ in range(2)]
    other = Pool(0)
    with pytest.raises(queue.Empty) as error:
        other.checkout(timeout=0.05)
    assert error.value.__context__ is None
    for conn in taken:
        pool.checkin(conn)
"""
    ).assert_silent(passed=1)


OF_A_THREAD = """
import contextlib, os, threading
import psycopg2

class Pool:
    def __init__(self):
        self.mine = threading.local()
        self.slots = threading.Semaphore(2)

    def checkout(self):
        if not hasattr(self.mine, "conn"):
            self.slots.acquire()
            self.mine.conn = psycopg2.connect(os.environ["SUITE_DSN"])
        return self.mine.conn

    def checkin(self, conn):
        conn.rollback()

    def shutdown(self):
        self.mine.conn.close()
"""


def test_where_a_timeout_can_not_hold_it_is_said_once(run):  # noqa: F811
    result = run(
        """
@pytest.mark.pool(max=1, timeout=1)
@pytest.mark.parametrize("n", range(2))
def test_it(pool, n):
    conn = pool.checkout()
    assert pool.checkout() is conn  # the same: that is one
    pool.checkin(conn)
""",
        pool=OF_A_THREAD,
    )
    result.assert_silent(passed=2)
    line = "shop.db:Pool: checkout can't be ended by a timeout: the pool keeps something for each thread"
    assert result.text.count(line) == 1


def test_a_context_manager_keeps_to_max_and_says_that_no_timeout_ends_it(run):  # noqa: F811
    result = run(
        """
@pytest.mark.pool(max=1, timeout=0.2)
def test_it(pool, poolguard):
    with pool.connection():
        with pytest.raises(TimeoutError, match="max=1"), pool.connection():
            pass
        assert poolguard.checked_out == 1
    with pool.connection():
        pass
    assert poolguard.checked_out == 0
""",
        named=MANAGED,
    )
    result.assert_silent(passed=1)
    assert "connection can't be ended by a timeout: a context manager has to be left by the thread" in result.text


def test_a_call_that_does_not_look_like_waiting_and_does_is_told(run):  # noqa: F811
    source = """
import os, time
import psycopg2

def slowly(seconds):
    time.sleep(seconds)

class Pool:
    def __init__(self):
        self.conn = psycopg2.connect(os.environ["SUITE_DSN"])

    def checkout(self, seconds):
        slowly(seconds)
        return self.conn

    def checkin(self, conn):
        conn.rollback()

    def shutdown(self):
        self.conn.close()
"""
    test = """
@pytest.mark.pool(timeout=0.2)
def test_it(pool):
    pool.checkin(pool.checkout({seconds}))
"""
    quick = run(test.format(seconds=0), pool=source)
    quick.assert_silent(passed=1)
    assert "timeout" not in quick.text.partition("collected")[2]
    slow = run(test.format(seconds=0.3), pool=source)
    slow.assert_silent(passed=1)
    assert "shop.db:Pool: checkout took longer than a timeout allows, which could not end it" in slow.text


def test_whoever_has_a_pools_condition_calls_it_in_his_own_thread(run):  # noqa: F811
    run(
        """
@pytest.mark.pool(timeout=2)
def test_it(pool):
    with pool.free:
        conn = pool.checkout()
    pool.checkin(conn)
    pool.checkin(pool.checkout())
""",
        pool="""
import os, threading
import psycopg2

class Pool:
    def __init__(self):
        self.free = threading.Condition()
        self.idle = [psycopg2.connect(os.environ["SUITE_DSN"])]

    def checkout(self):
        with self.free:
            while not self.idle:
                self.free.wait()
            return self.idle.pop()

    def checkin(self, conn):
        with self.free:
            self.idle.append(conn)
            self.free.notify()

    def shutdown(self):
        self.idle.pop().close()
""",
    ).assert_silent(passed=1)


@pytest.mark.parametrize("named", [NAMED, MANAGED], ids=["coroutine", "manager"])
def test_coroutines_are_limited_in_their_own_task(run, named, processes):  # noqa: F811
    take = "pool.connection()" if named is MANAGED else "taking(pool)"
    asynchronous(
        run,
        f"""
@contextlib.asynccontextmanager
async def taking(pool):
    conn = await pool.checkout()
    yield conn
    await pool.checkin(conn)

@pytest.mark.pool(max=1)
async def test_max(pool, poolguard):
    async with {take}:
        with pytest.raises(TimeoutError, match="max=1 may be out$"):
            async with {take}: pass
        assert poolguard.checked_out == 1
    async with {take}: pass

@pytest.mark.pool(timeout=0.1)
async def test_timeout(pool, poolguard):
    async with {take}, {take}, {take}:
        with pytest.raises(TimeoutError, match="no connection of Pool within 0.1 s"):
            async with {take}: pass
        assert getattr(asyncio.current_task(), "cancelling", int)() == 0
        assert poolguard.checked_out == 3
    await asyncio.sleep(0)
    assert pool.idle.qsize() == 3

@pytest.mark.pool(max=1, timeout=5)
async def test_waits(pool, poolguard):
    async def work():
        async with {take}:
            await asyncio.sleep(0)
    await asyncio.gather(*[work() for _ in range(10)])
    assert poolguard.peak == 1
""",
        *processes,
        named=named,
    ).assert_silent(passed=3)


def test_a_task_that_others_cancel_is_cancelled(run):  # noqa: F811
    asynchronous(
        run,
        """
@pytest.mark.pool(timeout=5)
async def test_it(pool):
    taken = [await pool.checkout() for _ in range(3)]
    task = asyncio.create_task(pool.checkout())
    await asyncio.sleep(0.01)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    for conn in taken:
        await pool.checkin(conn)
""",
    ).assert_silent(passed=1)


def test_a_release_that_is_not_told_which_connection_gets_none_that_comes_too_late(run):  # noqa: F811
    result = run(
        """
@pytest.mark.pool(timeout=2)
def test_it(pool):
    pool.checkout()
    pool.checkin()
""",
        pool="""
import os, threading
import psycopg2

class Pool:
    def __init__(self):
        self.slots, self.conn = threading.Semaphore(1), psycopg2.connect(os.environ["SUITE_DSN"])

    def checkout(self):
        self.slots.acquire()
        return self.conn

    def checkin(self):
        self.slots.release()

    def shutdown(self):
        self.conn.close()
""",
    )
    result.assert_silent(passed=1)
    assert "checkout can't be ended by a timeout: its release takes no connection" in result.text


@pytest.mark.parametrize(
    ("answer", "raised"),
    [
        ("return {}", ""),
        pytest.param(
            *("asyncio.current_task().cancel(); raise", "asyncio.CancelledError"),
            marks=pytest.mark.skipif(sys.version_info < (3, 11), reason="two cancellations look like one"),
        ),
    ],
)
def test_a_coroutine_with_an_answer_of_its_own_to_a_timeout_keeps_it(run, answer, raised):  # noqa: F811
    pool = ASYNC_POOL.replace(
        "        return await self.idle.get()\n",
        "        try:\n            return await self.idle.get()\n"
        "        except asyncio.CancelledError:\n            " + answer.format("self.spare") + "\n",
    )
    run(
        f"""
@pytest.mark.pool(timeout=0.1)
async def test_it(pool):
    taken = [await pool.checkout() for _ in range(2)]
    pool.spare = await pool.idle.get()
    task = asyncio.create_task(pool.checkout())
    with {f"pytest.raises({raised})" if raised else "contextlib.nullcontext()"}:
        assert await task is pool.spare
        assert getattr(task, "cancelling", int)() == 0
        await pool.checkin(pool.spare)
    for conn in taken:
        await pool.checkin(conn)
    if {bool(raised)}:
        await pool.spare.close()
""",
        "-oasyncio_mode=auto",
        pool=pool,
        header=ASYNC_HEADER,
    ).assert_silent(passed=1)
