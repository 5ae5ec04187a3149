"""What only asyncpg does. What every library does is in ``contract``."""

from __future__ import annotations

import inspect

import asyncpg
import pytest
from loops import ONE_LOOP

HEADER = """
import asyncio, contextlib, gc, os, threading, time, warnings
import asyncpg, pytest

DSN = os.environ["SUITE_DSN"]

@pytest.fixture(scope="module")
async def pool():
    pool = await asyncpg.create_pool(DSN, min_size=1, max_size=3)
    yield pool
    pool.terminate()

kept = []

def keep(thing):
    kept.append([[[[[thing]]]]])  # deeper than anybody looks
"""
#: The number of a suite's first line of its own, less one: that is empty.
FIRST = HEADER.count("\n") + 1
ASYNC = ("-oasyncio_mode=auto",)
MODULE_LOOP = (*ASYNC, *ONE_LOOP)


@pytest.fixture
def run(suite):
    """Run a suite in one loop, with a module-scoped ``pool`` of 3."""
    return lambda source, *args: suite.run(source, *MODULE_LOOP, *args, header=HEADER)


@pytest.fixture
def run_plain(suite):
    """Run a suite that makes loops and pools by itself."""
    return lambda source, *args: suite.run(source, *args, header=HEADER)


# what takes a connection, and what gives it back


def test_every_way_to_take_and_release_is_counted_once(run):
    result = run(
        """
async def test_with(pool, poolguard):
    async with pool.acquire() as conn:
        assert poolguard.checked_out == 1
        await conn.execute("SELECT 1")
    assert poolguard.checked_out == 0
    with pytest.raises(ZeroDivisionError):
        async with pool.acquire(timeout=20):
            1 / 0
    assert poolguard.checked_out == 0

async def test_await(pool, poolguard):
    conn = await pool.acquire()
    assert poolguard.checked_out == 1
    await pool.release(conn, timeout=20)
    assert poolguard.checked_out == 0
    await pool.release(conn)  # asyncpg takes no notice

async def test_by_hand(pool, poolguard):
    context = pool.acquire()
    await context.__aenter__()
    assert poolguard.checked_out == 1
    await context.__aexit__(None, None, None)
    assert poolguard.checked_out == 0
"""
    )
    result.assert_silent(passed=3)
    assert result.data["checkouts"] == 4


def test_the_pools_own_methods_leave_nothing_out(run):
    result = run(
        """
async def test_it(pool, poolguard):
    await pool.execute("CREATE TABLE IF NOT EXISTS things (n int)")
    await pool.executemany("INSERT INTO things VALUES ($1)", [(1,), (2,)])
    assert await pool.fetchval("SELECT 1") == 1
    assert len(await pool.fetch("SELECT 1")) == 1
    assert await pool.fetchrow("SELECT 1")
    await pool.copy_records_to_table("things", records=[(3,)])
    with pytest.raises(asyncpg.PostgresError):
        await pool.fetch("SELECT 1 / 0")
    with pytest.raises(asyncio.TimeoutError):
        await asyncio.wait_for(pool.fetch("SELECT pg_sleep(20)"), 0.05)
    await pool.execute("DROP TABLE things")
    await pool.expire_connections()
    assert poolguard.checked_out == 0
"""
    )
    result.assert_silent(passed=1)


def test_transactions_and_cursors_return_nothing_by_themselves(run):
    result = run(
        """
@pytest.mark.parametrize("returns", [True, False])
async def test_it(pool, returns):
    conn = await pool.acquire()
    async with conn.transaction():
        async for row in conn.cursor("SELECT generate_series(1, 3)"):
            pass
    if returns:
        await pool.release(conn)
"""
    )
    result.assert_outcomes(passed=1, failed=1)
    assert result.blamed == ["test_it[False]"]
    assert result.findings[0]["transaction_status"] == "idle"


def test_a_leak_in_a_transaction_says_so(run):
    result = run(
        """
async def test_leaks(pool):
    conn = await pool.acquire()
    await conn.transaction().start()
"""
    )
    result.assert_outcomes(failed=1)
    assert result.findings[0]["transaction_status"] == "idle in transaction"
    assert result.findings[0]["backend_pid"]


@pytest.mark.parametrize("end", ["await conn.close()", "conn.terminate()"])
def test_a_connection_that_is_closed_frees_its_slot_and_is_no_leak(run, end):
    run(
        f"""
async def test_it(poolguard):
    async with asyncpg.create_pool(DSN, min_size=1, max_size=1) as pool:
        conn = await pool.acquire()
        {end}
        assert poolguard.checked_out == 0
        async with pool.acquire():
            assert poolguard.checked_out == 1
"""
    ).assert_silent(passed=1)


def test_a_connection_that_breaks_frees_its_slot_and_is_no_leak(run):
    run(
        """
async def test_it(pool, poolguard):
    conn = await pool.acquire()
    await pool.execute("SELECT pg_terminate_backend($1)", conn.get_server_pid())
    for _ in range(400):
        if poolguard.checked_out == 0:
            break
        await asyncio.sleep(0.01)
    assert poolguard.checked_out == 0
    await pool.release(conn)
"""
    ).assert_silent(passed=1)


def test_a_release_that_is_not_awaited_is_none(run):
    result = run(
        """
@pytest.mark.filterwarnings("ignore:coroutine")
@pytest.mark.parametrize("returns", [True, False])
async def test_it(pool, returns):
    conn = await pool.acquire()
    back = pool.release(conn)
    if returns:
        await back
    del back
"""
    )
    result.assert_outcomes(passed=1, failed=1)
    assert result.blamed == ["test_it[False]"]


def test_a_release_that_is_cancelled_goes_on_and_is_one(run):
    run(
        """
class Slow(asyncpg.Connection):
    async def reset(self, *, timeout=None):
        await asyncio.sleep(0.2)

async def test_it(poolguard):
    async with asyncpg.create_pool(DSN, min_size=1, max_size=1, connection_class=Slow) as pool:
        conn = await pool.acquire()
        with pytest.raises(asyncio.TimeoutError):
            await asyncio.wait_for(pool.release(conn), 0.01)
        assert poolguard.checked_out == 0
        await pool.release(await pool.acquire())
"""
    ).assert_silent(passed=1)


def test_a_release_that_raises_is_told(run):
    result = run(
        """
@pytest.mark.parametrize("listens", [False, True])
async def test_it(pool, listens):
    conn = await pool.acquire()
    if listens:
        await conn.add_listener("news", print)
    with warnings.catch_warnings():
        warnings.simplefilter("error", asyncpg.InterfaceWarning)
        try:
            await pool.release(conn)
        except asyncpg.InterfaceWarning:
            assert listens
"""
    )
    result.assert_outcomes(passed=1, failed=1)
    assert result.blamed == ["test_it[True]"]
    assert "release() raised InterfaceWarning" in result.findings[0]["hint"]


def test_a_failing_setup_or_reset_leaves_nothing_out(run):
    run(
        """
async def fails(conn):
    raise ValueError

async def test_setup(poolguard):
    async with asyncpg.create_pool(DSN, min_size=1, max_size=1, setup=fails) as pool:
        with pytest.raises(ValueError):
            await pool.acquire()
    assert poolguard.checked_out == 0

class Failing(asyncpg.Connection):
    async def reset(self, *, timeout=None):
        raise ValueError

async def test_reset(poolguard):
    async with asyncpg.create_pool(DSN, min_size=1, max_size=1, connection_class=Failing) as pool:
        conn = await pool.acquire()
        with pytest.raises(ValueError):
            await pool.release(conn)
        assert poolguard.checked_out == 0
"""
    ).assert_silent(passed=2)


def test_subclasses_count_once_whatever_they_override(run):
    result = run(
        """
class Pool(asyncpg.Pool):
    def acquire(self, *, timeout=None):
        return super().acquire(timeout=timeout)
    async def release(self, connection, *, timeout=None):
        await super().release(connection, timeout=timeout)

class Connection(asyncpg.Connection):
    pass

@pytest.mark.parametrize("returns", [True, False])
async def test_it(returns, poolguard, monkeypatch):
    monkeypatch.setattr(asyncpg.pool, "Pool", Pool)
    pool = asyncpg.create_pool(DSN, min_size=1, max_size=2, connection_class=Connection)
    async with pool:
        async with pool.acquire():
            assert poolguard.checked_out == 1
        conn = await pool.acquire()
        if returns:
            await pool.release(conn)
        else:
            pool.terminate()
"""
    )
    result.assert_outcomes(passed=1, failed=1)
    assert result.blamed == ["test_it[False]"]
    assert result.data["checkouts"] == 4
    assert result.findings[0]["pool"]["name"] == "Pool(1..2)"


# where it was taken


def test_each_way_to_leak_names_its_line(run):
    result = run(
        """
async def waits_for(pool):
    return await asyncio.wait_for(pool.acquire(), 20)

async def gathers(pool):
    return await asyncio.gather(pool.acquire(), asyncio.sleep(0))

async def by_hand(pool):
    return await pool.acquire().__aenter__()

async def within(pool):
    async with pool.acquire() as conn:
        yield conn

@pytest.mark.parametrize("take", [waits_for, gathers, by_hand])
async def test_it(pool, take):
    keep(await take(pool))

async def test_within(pool):
    generator = within(pool)
    keep(generator)
    await anext(generator)

async def test_last(): pass  # the end of the loop would end the generator, and give the connection back
"""
    )
    result.assert_outcomes(passed=1, failed=4)
    assert result.sites == [
        "by_hand: return await pool.acquire().__aenter__()",
        "gathers: return await asyncio.gather(pool.acquire(), asyncio.sleep(0))",
        "waits_for: return await asyncio.wait_for(pool.acquire(), 20)",
        "within: async with pool.acquire() as conn:",
    ]
    for finding in result.findings:
        own = [place["function"] for place in finding["stack"] if place["own"]]
        assert own[0].startswith("test_")
        assert len(own) == 2
    assert result.findings[-1]["hint"] == (
        "within has not left its `with …acquire()` block: "
        "the task or generator that it runs in did not come to its end"
    )


@pytest.mark.parametrize(
    ("body", "hint"),
    [
        ("conn = await pool.acquire()", "leaks never gave it back; use `async with pool.acquire() as conn:`"),
        (
            "conn = await pool.acquire()\n    if conn:\n        return\n    await pool.release(conn)",
            "leaks did not reach its release() in line {back} (line {exit} leaves before it); "
            "put it in a finally block",
        ),
        (
            "conn = await pool.acquire()\n    raise ValueError\n    await pool.release(conn)",
            "leaks did not reach its release() in line {exit} (line {raised} leaves before it); "
            "put it in a finally block",
        ),
        (
            "context = pool.acquire()\n    conn = await context.__aenter__()",
            "nothing gave it back; use `async with pool.acquire() as conn:`",
        ),
    ],
    ids=["never", "early return", "exception", "by hand"],
)
def test_the_hint_is_true(run, body, hint):
    result = run(
        f"""
#

async def leaks(pool):
    {body}

async def test_leaks(pool):
    await asyncio.wait([asyncio.create_task(leaks(pool))])
"""
    )
    (finding,) = result.findings
    assert finding["hint"] == hint.format(raised=FIRST + 5, exit=FIRST + 6, back=FIRST + 7)


def test_a_context_manager_that_leaves_another_one_by_hand_is_understood(run):
    result = run(
        """
class Transaction:
    def __init__(self, pool):
        self.context = pool.acquire()
    async def __aenter__(self):
        return await self.context.__aenter__()
    async def __aexit__(self, *exc_info):
        if exc_info[0] is not ValueError:
            await self.context.__aexit__(*exc_info)

@pytest.mark.parametrize("error", [KeyError, ValueError])
async def test_it(pool, error):
    with contextlib.suppress(error):
        async with Transaction(pool) as conn:
            raise error
"""
    )
    result.assert_outcomes(passed=1, failed=1)
    assert result.blamed == ["test_it[ValueError]"]
    assert result.sites == ["__aenter__: return await self.context.__aenter__()"]
    assert "__aexit__ did not get to its self.context.__aexit__() in line" in result.findings[0]["hint"]


# loops


def test_a_pool_for_each_function_and_its_loop(suite, processes):
    result = suite.run(
        """
import pytest_asyncio

@pytest_asyncio.fixture
async def own_pool():
    pool = await asyncpg.create_pool(DSN, min_size=1, max_size=3)
    yield pool
    pool.terminate()

@pytest.mark.asyncio
@pytest.mark.parametrize("returns", [True, False, True, False])
async def test_it(own_pool, returns):
    conn = await own_pool.acquire()
    if returns:
        await own_pool.release(conn)
""",
        *processes,
        header=HEADER,
    )
    result.assert_outcomes(passed=2, failed=2)
    assert result.sites == ["test_it: conn = await own_pool.acquire()"] * 2
    for finding in result.findings:
        assert finding["closed_at"]["text"] == "pool.terminate()"
        assert finding["backend_pid"]
        assert finding["note"] == ""


def test_a_loop_inside_of_a_test(run_plain):
    result = run_plain(
        """
async def work(returns):
    pool = await asyncpg.create_pool(DSN, min_size=1, max_size=1)
    conn = await pool.acquire()
    if returns:
        await pool.release(conn)
        await pool.close()
    keep(conn)

@pytest.mark.parametrize("returns", [True, False])
def test_it(returns):
    asyncio.run(work(returns))

def test_next():
    assert kept[1][0][0][0][0][0]._con.is_closed()
    gc.collect()
""",
        "--poolguard-open-pools=off",
    )
    result.assert_outcomes(passed=2, failed=1)
    assert result.blamed == ["test_it[False]"]
    assert result.sites == ["work: conn = await pool.acquire()"]
    assert "Event loop is closed" not in result.text
    assert "warning" not in result.text


def test_what_is_asked_of_a_loop_from_outside_names_the_line_that_asks(run_plain):
    result = run_plain(
        """
@pytest.fixture(scope="module")
def loop():
    loop = asyncio.new_event_loop()
    yield loop
    loop.close()

@pytest.fixture(scope="module")
def pool(loop):
    async def make():
        return await asyncpg.create_pool(DSN, min_size=1, max_size=1)
    pool = loop.run_until_complete(make())
    yield pool
    loop.run_until_complete(pool.close())

@pytest.mark.parametrize("returns", [True, False, True])
def test_it(loop, pool, returns):
    conn = loop.run_until_complete(asyncio.wait_for(pool.acquire(), 20))
    if returns:
        loop.run_until_complete(pool.release(conn))
"""
    )
    result.assert_outcomes(passed=2, failed=1)
    assert result.blamed == ["test_it[False]"]
    assert result.sites == ["test_it: conn = loop.run_until_complete(asyncio.wait_for(pool.acquire(), 20))"]


def test_a_loop_in_another_thread_gets_its_slot_back_and_may_release_late(run_plain):
    result = run_plain(
        """
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
    async def make():
        return await asyncpg.create_pool(DSN, min_size=1, max_size=1)
    pool = do(make())
    yield pool
    do(pool.close())

def test_late(do, pool):
    async def work():
        conn = await pool.acquire()
        kept.append(asyncio.create_task(give_back(conn)))
    async def give_back(conn):
        await asyncio.sleep(0.2)
        await pool.release(conn)
    do(work())

def test_leaks(do, pool):
    async def work():
        keep(await pool.acquire())
    do(work())

def test_next(do, pool):
    async def work():
        await pool.release(kept[1][0][0][0][0][0])
        await pool.release(await pool.acquire())
    do(work())
"""
    )
    result.assert_outcomes(passed=2, failed=1)
    assert result.blamed == ["test_leaks"]


def test_a_cancelled_task_that_returns_is_silent_wherever_it_is_cancelled(run):
    run(
        """
async def work(pool):
    async with pool.acquire() as conn:
        await conn.execute("SELECT 1")

async def test_it(poolguard):
    async with asyncpg.create_pool(DSN, min_size=0, max_size=2) as pool:
        for steps in range(60):
            tasks = [asyncio.create_task(work(pool)) for _ in range(4)]
            for _ in range(steps):
                await asyncio.sleep(0)
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
        async with asyncio.timeout(20) if hasattr(asyncio, "timeout") else contextlib.AsyncExitStack():
            first, second = await pool.acquire(), await pool.acquire()
        await pool.release(first)
        await pool.release(second)
"""
    ).assert_silent(passed=1)


def test_many_tasks_at_once_are_counted_exactly(run):
    result = run(
        """
async def test_it(pool, poolguard):
    async def work():
        for _ in range(5):
            async with pool.acquire():
                await asyncio.sleep(0)
    await asyncio.gather(*[work() for _ in range(20)])
    assert poolguard.checked_out == 0
    assert poolguard.peak <= 3
"""
    )
    result.assert_silent(passed=1)
    assert result.data["checkouts"] == 100


@pytest.mark.parametrize("where", ["fixture", "test"])
def test_a_task_that_is_still_at_work_is_silent(run, where):
    """Whoever started it: its loop does not end with the test, and somebody cancels it there."""
    run(
        f"""
async def work(pool, asked):
    await asked.wait()
    async with pool.acquire():
        await asyncio.sleep(60)

def start(pool):
    asked = asyncio.Event()
    kept.append(asyncio.create_task(work(pool, asked), name="worker"))
    return asked

@pytest.fixture(scope="module")
async def asked(pool):
    yield start(pool) if "{where}" == "fixture" else pool
    kept[0].cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await kept[0]

async def test_it(asked):
    if "{where}" == "test":
        asked = start(asked)
    asked.set()
    await asyncio.sleep(0.2)

async def test_next(asked): pass
"""
    ).assert_silent(passed=2)


# closing


def test_a_terminated_pool_s_connections_have_to_come_back_all_the_same(run):
    result = run(
        """
@pytest.mark.parametrize("returns", [True, False])
async def test_it(returns, poolguard):
    pool = await asyncpg.create_pool(DSN, min_size=1, max_size=2)
    conn = await pool.acquire()
    pool.terminate()
    assert poolguard.checked_out == 1
    if returns:
        await pool.release(conn)
        assert poolguard.checked_out == 0
"""
    )
    result.assert_outcomes(passed=1, failed=1)
    assert result.blamed == ["test_it[False]"]
    assert result.findings[0]["closed_at"]["text"] == "pool.terminate()"
    assert result.findings[0]["hint"] == (
        "the pool was closed while the connection was out; call release() before close()"
    )


def test_what_comes_back_while_its_pool_closes_is_no_leak(run):
    run(
        """
async def test_it(poolguard):
    pool = await asyncpg.create_pool(DSN, min_size=1, max_size=2)
    conn = await pool.acquire()
    closing = asyncio.create_task(pool.close())
    await asyncio.sleep(0.05)
    await pool.release(conn)
    await closing
    assert poolguard.checked_out == 0
"""
    ).assert_silent(passed=1)


def test_an_open_pool_that_nobody_keeps_is_collected(run):
    run(
        """
import weakref

async def test_it():
    pool = await asyncpg.create_pool(DSN, min_size=0, max_size=2, max_inactive_connection_lifetime=0)
    await pool.fetch("SELECT 1")
    await pool.expire_connections()
    queue = weakref.ref(pool._queue)
    for holder in pool._holders:
        await holder.close()
    del pool, holder
    await asyncio.sleep(0)
    gc.collect()
    assert queue() is None
"""
    ).assert_silent(passed=1)


# limits


def test_a_deadline_for_acquire_names_who_has_the_connections(run):
    result = run(
        """
async def load(pool):
    return await pool.acquire()

@pytest.mark.pool(timeout=0.2, leaks="any", reason="that is what this is about")
async def test_it(pool):
    for _ in range(3):
        await load(pool)
    await pool.acquire()
"""
    )
    result.assert_outcomes(failed=1)
    text = result.text.replace("E       ", "").replace("E   ", "")
    assert "TimeoutError: no connection within 0.2 s of Pool(1..3)\n" in text
    assert f"3 of 3 are held by test_it (test_suite.py:{FIRST + 7})" in text


def test_a_shorter_timeout_of_ones_own_holds_as_before(run):
    run(
        """
@pytest.mark.pool(timeout=20)
async def test_it(pool):
    taken = [await pool.acquire(timeout=15) for _ in range(3)]
    assert {conn._holder._timeout for conn in taken} == {15}
    with pytest.raises(asyncio.TimeoutError) as raised:
        await pool.acquire(timeout=0.1)
    assert str(raised.value) == ""
    for conn in taken:
        await pool.release(conn)
    conn = await pool.acquire()
    assert conn._holder._timeout is None
    await pool.release(conn)
"""
    ).assert_silent(passed=1)


def test_a_deadline_for_close_names_who_has_the_connections(suite):
    suite.setting("poolguard_timeout", "0.3")
    result = suite.run(
        """
@pytest.fixture
async def own_pool():
    pool = await asyncpg.create_pool(DSN, min_size=1, max_size=3)
    yield pool
    await pool.close()

async def load(pool):
    keep(await pool.acquire())

async def test_leaks(own_pool):
    await load(own_pool)

async def test_clean(own_pool):
    async with own_pool.acquire():
        pass
""",
        *ASYNC,
        header=HEADER,
    )
    result.assert_outcomes(passed=1, failed=1, errors=1)
    assert result.blamed == ["test_leaks"]
    assert "Pool(1..3).close() waited 0.3 s for what is out, and terminated the pool; out are:" in result.text
    assert f"1 at test_suite.py:{FIRST + 8} in load, in test_leaks" in result.text


OWN_POOL = """
@pytest.fixture
async def own_pool():
    pool = await asyncpg.create_pool(DSN, min_size=1, max_size=3)
    yield pool
    await pool.close()
"""


def test_a_close_that_would_wait_for_ever_goes_on_when_nobody_can_release_the_connection(suite):
    """In a fixture's teardown, in the body, and with the connection in the traceback of a test that failed."""
    suite.setting("poolguard_grace", "0.1")
    result = suite.run(
        OWN_POOL
        + """
async def load(pool):
    conn = await pool.acquire()
    return await conn.fetchval("SELECT 1")

async def test_leaks(own_pool):
    await load(own_pool)

async def test_fails_too(own_pool):
    await asyncio.to_thread(len, "")  # from now on there is a thread of the loop's, which has nothing to do
    conn = await own_pool.acquire()
    raise ZeroDivisionError

async def test_leaks_in_a_block():
    async with asyncpg.create_pool(DSN, min_size=1, max_size=3) as pool:
        await load(pool)

async def test_releases(own_pool):
    async with own_pool.acquire() as conn:
        await conn.fetchval("SELECT 1")
""",
        *ASYNC,
        header=HEADER,
    )
    result.assert_outcomes(passed=1, failed=3)
    assert sorted(result.blamed) == ["test_fails_too", "test_leaks", "test_leaks_in_a_block"]
    assert "note: close() would have waited for it for ever: it was ended after 0.1 s" in result.text
    assert f"its pool was closed while it was out, at test_suite.py:{FIRST + 5} in own_pool" in result.text


def test_a_close_waits_for_who_can_still_release_the_connection_or_end_the_wait(suite):
    """A task, a thread, a timer, and a deadline of the test's own."""
    suite.setting("poolguard_grace", "0.05")
    suite.run(
        OWN_POOL
        + """
async def test_task(own_pool):
    conn = await own_pool.acquire()
    async def later():
        await asyncio.sleep(0.3)
        assert not conn.is_closed()
        await own_pool.release(conn)
    keep(asyncio.create_task(later()))

def later(loop, pool, conn):
    time.sleep(0.3)
    keep(asyncio.run_coroutine_threadsafe(pool.release(conn), loop))

async def test_thread(own_pool):
    conn = await own_pool.acquire()
    threading.Thread(target=later, args=(asyncio.get_running_loop(), own_pool, conn)).start()

async def test_timer(own_pool):
    conn = await own_pool.acquire()
    asyncio.get_running_loop().call_later(0.3, lambda: keep(asyncio.ensure_future(own_pool.release(conn))))

async def test_deadline():
    pool = await asyncpg.create_pool(DSN, min_size=1, max_size=3)
    conn = await pool.acquire()
    with pytest.raises(asyncio.TimeoutError):
        await asyncio.wait_for(pool.close(), 0.3)
    await pool.release(conn)
""",
        *ASYNC,
        header=HEADER,
    ).assert_silent(passed=4)


def test_a_close_waits_as_it_would_where_nothing_is_reclaimed(suite):
    """In the mode that only warns."""
    suite.setting("poolguard_grace", "0.05")
    result = suite.run(
        """
async def load(pool):
    await pool.acquire()

async def test_it():
    pool = await asyncpg.create_pool(DSN, min_size=1, max_size=3)
    await load(pool)
    closing = asyncio.create_task(pool.close())
    await asyncio.sleep(0.5)
    assert not closing.done()
    pool.terminate()
    await closing
""",
        *ASYNC,
        "--poolguard=warn",
        header=HEADER,
    )
    result.assert_outcomes(passed=1)
    assert "would have waited" not in result.text


def test_a_deadline_for_close_leaves_what_comes_back_in_time(run):
    run(
        """
@pytest.mark.pool(timeout=20)
async def test_it():
    pool = await asyncpg.create_pool(DSN, min_size=1, max_size=2)
    conn = await pool.acquire()
    closing = asyncio.create_task(pool.close())
    await asyncio.sleep(0.05)
    await pool.release(conn)
    await closing

@pytest.mark.pool(timeout=20)
async def test_cancelled():
    pool = await asyncpg.create_pool(DSN, min_size=1, max_size=2)
    conn = await pool.acquire()
    with pytest.raises(asyncio.TimeoutError) as raised:
        await asyncio.wait_for(pool.close(), 0.1)
    assert "waited" not in str(raised.value)
    await pool.release(conn)
"""
    ).assert_silent(passed=2)


def test_a_pool_that_grew_for_a_marker_is_its_own_again(run):
    run(
        """
@pytest.mark.pool(max=5)
async def test_bigger(pool, poolguard):
    taken = [await pool.acquire() for _ in range(5)]
    assert (poolguard.checked_out, pool.get_max_size()) == (5, 3)
    for conn in taken[:4]:
        await pool.release(conn)
    await taken[4].close()

async def test_own_size(pool):
    taken = [await pool.acquire() for _ in range(3)]
    assert len(pool._holders) == 3
    with pytest.raises(asyncio.TimeoutError):
        await pool.acquire(timeout=0.1)
    for conn in taken:
        await pool.release(conn)
    assert pool._queue.full()
    assert pool.get_size() <= 3
"""
    ).assert_silent(passed=2)


def test_what_a_closed_pool_or_one_that_is_not_ready_says_is_its_own(run):
    run(
        """
@pytest.mark.pool(max=1, timeout=0.1)
async def test_it():
    pool = asyncpg.create_pool(DSN, min_size=1, max_size=1)
    with pytest.raises(asyncpg.InterfaceError, match="not initialized"):
        await pool.acquire()
    with pytest.raises(asyncpg.InterfaceError, match="not initialized"):
        await pool.close()
    with pytest.raises(asyncpg.InterfaceError, match="not initialized"):
        pool.terminate()
    await pool
    await pool.close()
    with pytest.raises(asyncpg.InterfaceError, match="closed"):
        await pool.acquire()
    await pool.close()
    pool.terminate()
"""
    ).assert_silent(passed=1)


# connections without a pool, and everything around


def test_every_connection_has_an_opening_and_a_pools_own_one_its_pool(suite):
    """Each route names the line of the user; names that were imported before are watched as well."""
    suite.file(
        "conftest.py",
        """
import asyncpg, pytest
from asyncpg.connection import connect

@pytest.fixture
def openings(request):
    from pytest_poolguard.plugin import STANDBY
    ledger = request.config.stash[STANDBY].guard().ledger
    tree = request.config.stash[STANDBY].guard().tree
    def told():
        return [
            (tree.site(one.opened).text, one.pool and one.pool.label, one.backend_pid)
            for one in ledger.openings()
            if not one.is_closed()
        ]
    return told
""",
    )
    suite.run(
        """
from conftest import connect

MINE = "conn = await ways[number]()"

class Connection(asyncpg.Connection):
    pass

async def own(*args, **kwargs):
    return await asyncpg.connect(*args, **kwargs)

@pytest.mark.parametrize("number", range(5))
async def test_it(openings, number):
    ways = [
        lambda: asyncpg.connect(DSN),
        lambda: asyncpg.connect(DSN, connection_class=Connection),
        lambda: connect(DSN),
        lambda: asyncio.wait_for(asyncpg.connect(DSN), 20),
        lambda: own(DSN),
    ]
    conn = await ways[number]()
    ((site, pool, pid),) = openings()
    assert site == ("return await asyncpg.connect(*args, **kwargs)" if number == 4 else MINE)
    assert (pool, pid) == (None, conn.get_server_pid())
    await conn.close()
    assert openings() == []

async def test_pool(openings):
    pool = await asyncpg.create_pool(DSN, min_size=1, max_size=2)
    ((site, label, pid),) = openings()
    assert site == "pool = await asyncpg.create_pool(DSN, min_size=1, max_size=2)"
    assert label == "Pool(1..2)"
    await pool.close()
""",
        *ASYNC,
        header=HEADER,
    ).assert_silent(passed=6)


def test_everything_is_undone_and_looks_as_before(run):
    functions = [
        (asyncpg.pool.Pool, "__init__"),
        (asyncpg.pool.Pool, "_acquire"),
        (asyncpg.pool.Pool, "acquire"),
        (asyncpg.pool.Pool, "release"),
        (asyncpg.pool.Pool, "close"),
        (asyncpg.pool.Pool, "terminate"),
        (asyncpg.pool.PoolConnectionHolder, "connect"),
        (asyncpg.pool.PoolConnectionHolder, "_release_on_close"),
        (asyncpg.connect_utils, "_connect"),
    ]
    before = [vars(holder)[name] for holder, name in functions]
    signatures = [str(inspect.signature(function)) for function in before]
    kinds = [inspect.iscoroutinefunction(function) for function in before]
    run(
        f"""
import inspect, asyncpg.connect_utils

def test_it():
    pool, holder, connect = asyncpg.pool.Pool, asyncpg.pool.PoolConnectionHolder, asyncpg.connect_utils
    functions = [
        vars(pool)[name] for name in ("__init__", "_acquire", "acquire", "release", "close", "terminate")
    ] + [vars(holder)["connect"], vars(holder)["_release_on_close"], connect._connect]
    assert [str(inspect.signature(function)) for function in functions] == {signatures}
    assert [inspect.iscoroutinefunction(function) for function in functions] == {kinds}
"""
    ).assert_silent(passed=1)
    assert [vars(holder)[name] for holder, name in functions] == before
