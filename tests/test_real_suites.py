"""What the suites of real libraries and applications do, reduced to the lines that matter."""

from __future__ import annotations

# a C extension, which can't be imported anew for every inner run
import asyncpg  # noqa: F401
import pytest
from loops import HAS_LOOP_SCOPES

#: A pool on the loop of the session, and a function-scoped fixture that leaves work behind on that loop.
HEADER = """
import asyncio, os
import asyncpg, pytest, pytest_asyncio

DSN = os.environ["SUITE_DSN"]


class Maintenance:
    def __init__(self, pool):
        self.pool = pool
        self.tasks = set()

    def begin(self, coroutine):
        task = asyncio.create_task(coroutine)
        self.tasks.add(task)
        task.add_done_callback(self.tasks.discard)


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def maintenance():
    async with asyncpg.create_pool(DSN, min_size=2, max_size=4) as pool:
        maintenance = Maintenance(pool)
        yield maintenance
        await at_the_end(maintenance)


async def query(pool):
    async with pool.acquire() as connection:
        await connection.execute("SELECT pg_sleep(0.1)")


async def forgotten(pool):
    connection = await pool.acquire()
    await asyncio.Event().wait()


@pytest_asyncio.fixture(loop_scope="session")
async def database(maintenance):
    yield await maintenance.pool.fetchval("SELECT 1")
    in_the_background(maintenance)


def test_first(database):
    assert database == 1


def test_second(database):
    assert database == 1
"""

GATHERED = """
async def at_the_end(maintenance):
    await asyncio.gather(*maintenance.tasks)
"""
TERMINATED = """
async def at_the_end(maintenance):
    maintenance.pool.terminate()
"""
ARGUMENTS = ("-pasyncio", "-oasyncio_mode=strict")
on_a_wider_loop = pytest.mark.skipif(not HAS_LOOP_SCOPES, reason="a fixture runs on the loop of its scope")


@on_a_wider_loop
@pytest.mark.parametrize("job", ["query(maintenance.pool)", "maintenance.pool.execute('SELECT pg_sleep(0.1)')"])
def test_a_task_that_a_fixture_leaves_to_a_wider_fixture_is_silent(suite, job):
    """pgqueuer drops the database of a test while the next test is being set up."""
    result = suite.run(
        f"{GATHERED}\ndef in_the_background(maintenance):\n    maintenance.begin({job})\n",
        *ARGUMENTS,
        header=HEADER,
    )
    result.assert_silent(passed=2)


@on_a_wider_loop
def test_a_task_that_never_returns_it_is_told_when_the_wider_fixture_ends(suite):
    result = suite.run(
        f"{TERMINATED}\ndef in_the_background(maintenance):\n"
        "    maintenance.begin(forgotten(maintenance.pool))\n",
        *ARGUMENTS,
        header=HEADER,
    )
    assert result.data["faults"] == []
    assert len(result.findings) == 2
    assert {finding["acquired"]["function"] for finding in result.findings} == {"forgotten"}
    assert {finding["ended"] for finding in result.findings} == {"fixture maintenance ended"}
    assert "what fixture maintenance returned holds the task that uses it" in result.text


@on_a_wider_loop
def test_a_task_that_nobody_holds_is_the_fixtures_leak(suite):
    job = "asyncio.create_task(forgotten(maintenance.pool))"
    result = suite.run(
        f"{TERMINATED}\ndef in_the_background(maintenance):\n    {job}\n\n"
        "def test_third(database):\n    assert database == 1\n",
        *ARGUMENTS,
        header=HEADER,
    )
    assert result.data["faults"] == []
    assert {finding["acquired"]["function"] for finding in result.findings} == {"forgotten"}
    assert {finding["owner"]["name"] for finding in result.findings} == {"database"}


def test_a_connection_that_was_never_initialized_is_no_fault(suite):
    """psycopg2's own tests have a class that leaves out its base's __init__; it says that it is open."""
    result = suite.run(
        """
class Broken(psycopg2.extensions.connection):
    def __init__(self, *args, **kwargs):
        pass


def test_broken():
    assert psycopg2.connect(DSN, connection_factory=Broken).closed == 0


def test_that_leaks(pool):
    pool.getconn()
"""
    )
    result.assert_outcomes(passed=1, failed=1)
    assert result.blamed == ["test_that_leaks"]
