"""Whose a connection is that a task took, or a thread: the test's or fixture's whose task started it."""

from __future__ import annotations

import importlib.metadata
import sys

# C extensions, which can't be imported anew for every inner run
import psycopg  # noqa: F401
import psycopg_pool  # noqa: F401
import pytest
from loops import HAS_LOOP_SCOPES, ONE_LOOP

POOL = tuple(map(int, importlib.metadata.version("psycopg_pool").split(".")))

HEADER = """
import asyncio, contextlib, gc, os, sys, threading, time
from concurrent.futures import ThreadPoolExecutor
import anyio, psycopg2.pool, pytest, pytest_asyncio
from psycopg_pool import AsyncConnectionPool

DSN = os.environ["SUITE_DSN"]
executor = ThreadPoolExecutor(2)

@pytest.fixture(scope="module")
def sync_pool():
    pool = psycopg2.pool.ThreadedConnectionPool(1, 10, DSN)
    yield pool
    pool.closeall()

{marks}
@{fixture}(scope="{scope}"{on})
async def pool():
    async with AsyncConnectionPool(DSN, min_size=1, max_size=20, open=False) as pool:
        yield pool
"""

#: Ways to take a connection in a task or thread of one's own: async functions of something that takes it.
STARTERS = """
async def by_itself(take):
    await take()

async def create_task(take):
    await asyncio.create_task(take())

async def gathered(take):
    await asyncio.gather(take(), asyncio.sleep(0))

async def waited_for(take):
    await asyncio.wait_for(take(), 20)

async def nested(take):
    await asyncio.create_task(create_task(take))

async def anyio_group(take):
    async with anyio.create_task_group() as group:
        group.start_soon(take)

async def anyio_nested(take):
    async with anyio.create_task_group() as group:
        with anyio.fail_after(20):
            await create_task(lambda: anyio_group(take))

STARTERS = [by_itself, create_task, gathered, waited_for, nested, anyio_group, anyio_nested]

if sys.version_info >= (3, 11):
    async def task_group(take):
        async with asyncio.TaskGroup() as group:
            group.create_task(take())

    STARTERS.append(task_group)

async def to_thread(take):
    await asyncio.to_thread(take)

async def anyio_thread(take):
    await anyio.to_thread.run_sync(take)

async def default_executor(take):
    await asyncio.get_running_loop().run_in_executor(None, take)

async def own_executor(take):
    await asyncio.get_running_loop().run_in_executor(executor, take)

async def submitted(take):
    await asyncio.wrap_future(executor.submit(take))

async def from_a_task(take):
    await asyncio.create_task(to_thread(take))

THREADS = [to_thread, anyio_thread, default_executor, own_executor, submitted, from_a_task]
"""

SCOPES = ("function", "class", "module", "package", "session")


def _asyncio(mode: str, scope: str) -> tuple[str, tuple[str, ...]]:
    on = f'loop_scope="{scope}"'
    marks = f"mark = pytest.mark.asyncio({on})\nfixture = pytest_asyncio.fixture({on})"
    header = HEADER.format(marks=marks, fixture="pytest_asyncio.fixture", scope=scope, on=f", {on}")
    return header, (f"-oasyncio_mode={mode}", "-pno:anyio")


def _anyio(scope: str) -> tuple[str, tuple[str, ...]]:
    backend = f'@pytest.fixture(scope="{scope}")\ndef anyio_backend():\n    return "asyncio"'
    marks = f"mark = pytest.mark.anyio\nfixture = pytest.fixture\n{backend}"
    header = HEADER.format(marks=marks, fixture="pytest.fixture", scope=scope, on="")
    return header, ("-panyio", "-pno:asyncio")


RUNNERS = {
    **{f"{mode}-{scope}": _asyncio(mode, scope) for mode in ("strict", "auto") for scope in SCOPES},
    **{f"anyio-{scope}": _anyio(scope) for scope in ("function", "module")},
}


@pytest.fixture(params=RUNNERS.values(), ids=RUNNERS)
def run(request, suite):
    """Run a suite by each of the plugins that run asynchronous tests, and on loops of each scope."""
    header, arguments = request.param
    suite.file("__init__.py", "")
    return lambda source, *args: suite.run(STARTERS + source, *arguments, *args, header=header)


@pytest.fixture
def run_on_one_loop(suite):
    header, arguments = RUNNERS["auto-module"]
    return lambda source, *args: suite.run(STARTERS + source, *arguments, *ONE_LOOP, *args, header=header)


def test_what_a_task_or_thread_of_its_own_takes_is_the_tests(run):
    result = run(
        """
class TestIt:
    @mark
    @pytest.mark.parametrize("start", STARTERS)
    @pytest.mark.parametrize("returns", [True, False])
    async def test_task(self, pool, start, returns):
        async def take():
            conn = await pool.getconn()
            if returns:
                await pool.putconn(conn)
        await start(take)

    @mark
    @pytest.mark.parametrize("start", THREADS)
    @pytest.mark.parametrize("returns", [True, False])
    async def test_thread(self, sync_pool, start, returns):
        def take():
            conn = sync_pool.getconn()
            if returns:
                sync_pool.putconn(conn)
        await start(take)
"""
    )
    tasks, threads = 7 + (sys.version_info >= (3, 11)), 6
    result.assert_outcomes(passed=tasks + threads, failed=tasks + threads)
    assert len(result.blamed) == tasks + threads
    assert all(name.startswith("test_") and "[False-" in name for name in result.blamed)
    assert set(result.sites) == {"take: conn = await pool.getconn()", "take: conn = sync_pool.getconn()"}
    assert {f["owner"]["kind"] for f in result.findings} == {"test"}


def test_what_a_fixtures_task_takes_is_the_fixtures(run):
    result = run(
        """
@fixture
async def returns(pool):
    taken = []
    async def take():
        taken.append(await pool.getconn())
    await create_task(take)
    yield
    await pool.putconn(*taken)

@fixture
async def leaks(pool):
    async def take():
        conn = await pool.getconn()
    await create_task(take)
    yield

class TestIt:
    @mark
    async def test_returns(self, returns): pass

    @mark
    async def test_leaks(self, leaks): pass
"""
    )
    result.assert_outcomes(passed=1, failed=1)
    assert result.blamed == ["test_leaks"]
    assert [f["owner"]["name"] for f in result.findings] == ["leaks"]


def test_a_task_that_the_test_leaves_behind_is_silent_where_its_loop_ends_it(run, request):
    """Whether the loop ends with the test or later, it cancels the task, which gives the connection back."""
    if not HAS_LOOP_SCOPES and "anyio" not in request.node.callspec.id:
        pytest.skip("pytest-asyncio closes the loop, and cancels nothing")
    run(
        """
tasks = []

async def work(pool, taken):
    async with pool.connection():
        taken.set()
        await asyncio.sleep(60)

class TestIt:
    @mark
    async def test_it(self, pool):
        taken = asyncio.Event()
        tasks.append(asyncio.create_task(work(pool, taken), name="left behind"))
        await taken.wait()

    @mark
    async def test_next(self, pool): pass
"""
    ).assert_silent(passed=2)


ELSEWHERE = """
loop = asyncio.new_event_loop()

@pytest.fixture(scope="module")
def far_pool():
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    pool = AsyncConnectionPool(DSN, min_size=1, max_size=3, open=False)
    asyncio.run_coroutine_threadsafe(pool.open(wait=True), loop).result()
    yield pool
    async def end():
        for task in asyncio.all_tasks() - {asyncio.current_task()}:
            if task.get_name() == "goes on":
                task.cancel()
        await pool.close()
    asyncio.run_coroutine_threadsafe(end(), loop).result()
    loop.call_soon_threadsafe(loop.stop)
    thread.join()
    loop.close()

async def take(pool, returns):
    conn = await pool.getconn()
    if returns:
        await pool.putconn(conn)
    return conn

async def work(pool, returns, taken):
    asyncio.current_task().set_name("goes on")
    conn = await take(pool, returns)
    taken.set()
    await asyncio.sleep(60)

@pytest.mark.parametrize("returns", [True, False])
def test_it(far_pool, returns):
    taken = threading.Event()
    asyncio.run_coroutine_threadsafe(work(far_pool, returns, taken), loop)
    taken.wait()

def test_last(far_pool): pass
"""


def test_the_report_says_where_a_task_is_that_still_runs(run_on_one_loop):
    result = run_on_one_loop(ELSEWHERE, "--poolguard-grace=0.05")
    result.assert_outcomes(passed=2, failed=1)
    (finding,) = result.findings
    assert result.blamed == ["test_it[False]"]
    assert finding["task"] == "goes on"
    assert finding["thread_place"]["text"] == "await asyncio.sleep(60)"
    assert "that task still runs, now at test_suite.py:" in result.text


GOES_ON = """
async def audit(pool, taken):
    conn = await pool.getconn()
    taken.set()
    await asyncio.sleep(0.05)
    if RETURNS:
        await pool.putconn(conn)

async def test_starts(pool):
    taken = asyncio.Event()
    asyncio.create_task(audit(pool, taken))
    await taken.wait()

async def test_goes_on(pool):
    await asyncio.sleep(0.3)

async def test_last(pool): pass
"""


@pytest.mark.parametrize("returns", [True, False])
def test_a_task_that_goes_on_in_the_next_test_has_time_until_it_is_done(run_on_one_loop, returns):
    """Its loop does not run between the tests: nobody could wait for it there."""
    result = run_on_one_loop(GOES_ON.replace("RETURNS", str(returns)))
    if returns:
        result.assert_silent(passed=3)
    else:
        assert result.blamed == ["test_starts"]
        assert result.sites == ["audit: conn = await pool.getconn()"]
        assert "note: its task was not finished, and goes on when its event loop does" in result.text
        assert result.result.ret == 1


LEFT_EARLY = """
async def rows(pool, returns):
    conn = await pool.getconn()
    try:
        yield 1
        yield 2
    finally:
        if returns:
            await pool.putconn(conn)

@pytest.mark.parametrize("returns", [True, False])
async def test_it(pool, returns):
    async for row in rows(pool, returns):
        break

async def test_next(pool):
    await asyncio.sleep(0.1)

held = []

async def test_held(pool):
    generator = rows(pool, False)
    await generator.__anext__()
    held.append([[[[[generator]]]]])
"""


def test_a_generator_that_is_left_early_has_time_until_its_loop_has_closed_it(run_on_one_loop):
    """Nobody has it any longer: asyncio makes a task of its closing, in the next test. One that is held: none."""
    result = run_on_one_loop(LEFT_EARLY)
    assert result.blamed == ["test_held", "test_it[False]"]
    assert [f["nodeid"].endswith("test_held") for f in result.findings if not f["note"]] == [True]
    assert (
        "note: the generator that took it was left early, and is closed when its event loop goes on"
        in result.text
    )


WORKER = """
async def work(pool, jobs):
    while True:
        job = await jobs.get()
        await do(pool, job)
        jobs.task_done()

@pytest.fixture(scope="module")
async def jobs(pool):
    jobs = asyncio.Queue()
    task = asyncio.create_task(work(pool, jobs), name="worker")
    yield jobs
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await task

async def test_one(jobs):
    job = asyncio.Event(), asyncio.Event()
    jobs.put_nowait(job)
    await job[0].wait()
    jobs.last = job

async def test_two(jobs):
    await asyncio.sleep(0.01)

async def test_three(jobs):
    jobs.last[1].set()
    await jobs.join()
"""

#: What a background worker does with a job: it takes a connection, says so, and works on until it may return it.
AT_WORK = {
    "getconn": """
    conn = await pool.getconn()
    job[0].set()
    await job[1].wait()
    await pool.putconn(conn)
""",
    "connection": """
    async with pool.connection():
        job[0].set()
        await job[1].wait()
""",
    "a helper": """
    async with helper(pool):
        job[0].set()
        await job[1].wait()

@contextlib.asynccontextmanager
async def helper(pool):
    async with pool.connection() as conn:
        yield conn
""",
    "rows": """
    async for row in rows(pool, job):
        pass

async def rows(pool, job):
    async with pool.connection() as conn:
        job[0].set()
        await job[1].wait()
        yield conn
""",
    "a task group": """
    async with anyio.create_task_group() as group:
        group.start_soon(nested, pool, job)

async def nested(pool, job):
    async with pool.connection():
        job[0].set()
        await job[1].wait()
""",
}


@pytest.mark.parametrize("do", AT_WORK.values(), ids=AT_WORK)
def test_a_background_task_that_is_still_at_work_is_carried_over(run_on_one_loop, do):
    result = run_on_one_loop(f"async def do(pool, job):{do}{WORKER}")
    result.assert_silent(passed=3)


def test_a_background_task_that_ends_with_the_run_is_told_with_its_own_end(run_on_one_loop):
    result = run_on_one_loop(
        """
tasks = []

async def work(pool):
    conn = await pool.getconn()
    await asyncio.sleep(60)

@pytest.fixture(scope="module")
async def worker(pool):
    tasks.append(asyncio.create_task(work(pool), name="worker"))

async def test_it(pool, worker):
    await asyncio.sleep(0.1)
"""
    )
    result.assert_outcomes(passed=1)
    assert [f["verdict"] for f in result.findings] == ["warned"]


@pytest.mark.parametrize("take", ["await pool.getconn()", "pool.getconn()"])
def test_a_background_task_whose_job_leaks_is_the_leak_of_the_test_that_ran(run_on_one_loop, take):
    result = run_on_one_loop(
        f"""
async def do(pool, job):
    conn = {take}
    job[0].set()

if "await" not in {take!r}:
    pool = pytest.fixture(scope="module", name="pool")(lambda sync_pool: sync_pool)
{WORKER}"""
    )
    result.assert_outcomes(passed=2, failed=1)
    assert result.blamed == ["test_one"]
    assert result.findings[0]["task"] == "worker"
    assert result.findings[0]["thread_place"]["text"] == "job = await jobs.get()"


def test_a_synchronous_connection_of_a_background_task_at_work_is_carried_over(run_on_one_loop):
    run_on_one_loop(
        f"""
async def do(pool, job):
    conn = pool.getconn()
    job[0].set()
    await job[1].wait()
    pool.putconn(conn)

@pytest.fixture(scope="module")
def pool(sync_pool):
    return sync_pool
{WORKER}"""
    ).assert_silent(passed=3)


def test_a_background_thread_that_took_it_through_a_helper_is_carried_over(run_on_one_loop):
    run_on_one_loop(
        """
@contextlib.contextmanager
def helper(pool):
    conn = pool.getconn()
    try:
        yield conn
    finally:
        pool.putconn(conn)

@pytest.fixture(scope="module")
def worker(sync_pool):
    asked, took, end = threading.Event(), threading.Event(), threading.Event()
    def work():
        asked.wait(20)
        with helper(sync_pool):
            took.set()
            end.wait(20)
    thread = threading.Thread(target=work)
    thread.start()
    yield asked, took
    end.set()
    thread.join()

def test_it(worker):
    worker[0].set()
    assert worker[1].wait(20)

def test_next(): pass
""",
        "--poolguard-grace=0.05",
    ).assert_silent(passed=2)


# a task for the library's call alone


@pytest.mark.parametrize(
    "line",
    [
        "conn, _ = await asyncio.gather(pool.getconn(), asyncio.sleep(0))",
        "conn = await asyncio.shield(pool.getconn())",
        "conn = await asyncio.create_task(pool.getconn())",
        "conn = await asyncio.wait_for(pool.getconn(), 20)",
    ],
)
def test_a_call_in_a_task_of_its_own_is_found_at_the_line_that_waits_for_it(run_on_one_loop, line):
    result = run_on_one_loop(
        f"""
async def take(pool):
    {line}
    return conn

async def test_returns(pool):
    await pool.putconn(await take(pool))

async def test_leaks(pool):
    await take(pool)
"""
    )
    result.assert_outcomes(passed=1, failed=1)
    assert result.sites == [f"take: {line}"]
    assert [p["function"] for p in result.findings[0]["stack"] if p["own"]] == ["test_leaks", "take"]


@pytest.mark.skipif(POOL < (3, 1, 7), reason="the pool loses it by itself")
def test_a_cancelled_getconn_loses_nothing(run_on_one_loop):
    """At whatever moment it is cancelled: an idle connection is there, or one is just being given back."""
    run_on_one_loop(
        """
async def ticks(number):
    for _ in range(number):
        await asyncio.sleep(0)

@pytest.mark.parametrize("held", [False, True])
async def test_it(poolguard, held):
    for before in range(6):
        async with AsyncConnectionPool(DSN, min_size=1, max_size=1, open=False) as pool:
            await pool.wait()
            conn = await pool.getconn() if held else None
            task = asyncio.create_task(pool.getconn())
            await ticks(10 * held)
            giver = asyncio.create_task(pool.putconn(conn)) if held else None
            await ticks(before)
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await pool.putconn(await task)
            if giver:
                await giver
            await pool.putconn(await pool.getconn(timeout=5))
            assert poolguard.checked_out == 0
"""
    ).assert_silent(passed=2)


@pytest.mark.skipif(sys.version_info >= (3, 12), reason="wait_for() loses nothing any more")
def test_what_wait_for_loses_when_it_is_cancelled_is_labelled_and_fails_nothing(run_on_one_loop):
    result = run_on_one_loop(
        """
async def test_it():
    async with AsyncConnectionPool(DSN, min_size=1, max_size=1, open=False) as pool:
        held = await pool.getconn()
        async def use():
            conn = await asyncio.wait_for(pool.getconn(), 20)
            await pool.putconn(conn)
        task = asyncio.create_task(use())
        await asyncio.sleep(0.1)
        giver = asyncio.create_task(pool.putconn(held))
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await giver
        await asyncio.sleep(0.1)
"""
    )
    result.assert_outcomes(passed=1)
    (finding,) = result.findings
    assert finding["verdict"] == "warned"
    assert finding["acquired"]["text"] == "conn = await asyncio.wait_for(pool.getconn(), 20)"
    assert finding["note"].startswith("lost in asyncio.wait_for(), before Python 3.12")
    assert finding["hint"] == "give the timeout to getconn() itself"


def test_what_a_shielded_call_got_for_nobody_is_said(run_on_one_loop):
    result = run_on_one_loop(
        """
async def test_it(pool):
    async def use():
        conn = await asyncio.shield(pool.getconn())
        await pool.putconn(conn)
    held = [await pool.getconn() for _ in range(20)]
    task = asyncio.create_task(use())
    await asyncio.sleep(0.1)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    for conn in held:
        await pool.putconn(conn)
    await asyncio.sleep(0.1)
"""
    )
    result.assert_outcomes(failed=1)
    assert "whoever waited for it was cancelled" in result.findings[0]["note"]


# threads of those who run the tests


@pytest.mark.parametrize("arguments", [("-n2",), ("--reruns=1",)], ids=["xdist", "rerunfailures"])
def test_the_threads_of_who_runs_the_tests_are_nobody_to_wait_for(suite, arguments):
    result = suite.run(
        """
kept = []

def test_leaks(pool):
    kept.append([[[[[pool.getconn()]]]]])  # deeper than anybody looks

def test_after(): pass
""",
        "--poolguard-grace=60",
        *arguments,
        header="""
import os, psycopg2.pool, pytest

@pytest.fixture(scope="module")
def pool():
    pool = psycopg2.pool.ThreadedConnectionPool(1, 10, os.environ["SUITE_DSN"])
    yield pool
    pool.closeall()
""",
        subprocess=True,
    )
    assert set(result.blamed) == {"test_leaks"}
    assert result.result.duration < 30


def test_a_librarys_thread_that_runs_the_projects_code_is_waited_for(suite):
    """It ran before the tests did, and idly: a library's worker that has been given a job since."""
    suite.file(
        "site-packages/worklib.py",
        """
import queue, threading
jobs = queue.Queue()
def loop():
    while True:
        jobs.get()()
threading.Thread(target=loop, daemon=True).start()
""",
    )
    suite.file("conftest.py", "import sys; sys.path.insert(0, 'site-packages'); import worklib")
    suite.run(
        """
import worklib

def test_it(pool):
    conn = pool.getconn()
    started = threading.Event()
    def give_back():
        started.set()
        time.sleep(0.3)
        pool.putconn(conn)
    worklib.jobs.put(give_back)
    assert started.wait(20)
""",
        "--poolguard-grace=30",
        subprocess=True,
    ).assert_silent(passed=1)
