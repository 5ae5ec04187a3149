"""Whose a connection is that a task took, or a thread: the test's or fixture's whose task started it."""

from __future__ import annotations

import sys

# C extensions, which can't be imported anew for every inner run
import psycopg  # noqa: F401
import psycopg_pool  # noqa: F401
import pytest

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
    scopes = [f"-oasyncio_default_{what}_loop_scope=module" for what in ("test", "fixture")]
    return lambda source, *args: suite.run(STARTERS + source, *arguments, *scopes, *args, header=header)


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
