"""Connections that are given back in the middle of a transaction: what it wrote is lost, if anybody asks."""

from __future__ import annotations

# C extensions, which can't be imported anew for every inner run
import asyncpg  # noqa: F401
import psycopg  # noqa: F401
import psycopg_pool  # noqa: F401
import pytest
from contract.libraries import LIBRARIES, Library

HERE = [library for library in LIBRARIES if library.name in ("psycopg2", "psycopg_pool")]

FAIL = "--poolguard-dirty-returns=fail"

#: Made and dropped by the suite itself, over a connection of no pool.
TABLE = """
@pytest.fixture(scope="module", autouse=True)
def table():
    with contextlib.closing(psycopg2.connect(DSN)) as conn:
        conn.autocommit = True
        conn.cursor().execute("DROP TABLE IF EXISTS dirty; CREATE TABLE dirty (id serial PRIMARY KEY, n int)")
        conn.cursor().execute("INSERT INTO dirty (n) VALUES (1)")
        yield
        conn.cursor().execute("DROP TABLE dirty")
"""


@pytest.fixture(params=HERE, ids=lambda library: library.pool_class)
def lib(request) -> Library:
    return request.param


@pytest.fixture
def run(suite, lib):
    """Run a suite that has a table, a module-scoped ``pool`` of 2, and functions named after what they do."""
    wait = "await " if lib.is_async else ""

    def statement(sql: str) -> str:
        return f'{wait}conn.cursor().execute("{sql}")' if not lib.is_async else f'await conn.execute("{sql}")'

    def run(source: str, *args: str):
        for name, sql in (
            ("WRITE", "INSERT INTO dirty (n) VALUES (2)"),
            ("DEFINE", "CREATE TABLE dirtier (n int)"),
            ("READ", "SELECT * FROM dirty"),
            ("LOCK", "SELECT * FROM dirty FOR UPDATE"),
            ("COUNT", "SELECT nextval('dirty_id_seq')"),
            ("FAIL", "SELECT 1 / 0"),
        ):
            source = source.replace(name, statement(sql))
        for name in ("COMMIT", "ROLLBACK"):
            source = source.replace(name, f"{wait}conn.{name.lower()}()")
        for name, text in (("DEF", lib.define), ("TAKE", lib.take), ("GIVE", lib.give), ("AWAIT ", wait)):
            source = source.replace(name, text)
        return suite.run(TABLE + source, *lib.arguments, *args, header=lib.header(2))

    return run


LOST = """
DEF give(pool, conn):
    GIVE

DEF test_lost(pool):
    conn = TAKE
    WRITE
    AWAIT give(pool, conn)
"""


def test_what_was_written_and_not_committed_fails_the_test_with_both_places(run, lib):
    result = run(LOST, FAIL)
    result.assert_outcomes(failed=1)
    (finding,) = result.findings
    assert (finding["kind"], finding["verdict"]) == ("dirty_return", "failed")
    assert result.blamed == ["test_lost"]
    assert finding["acquired"]["text"] == f"conn = {lib.take}"
    assert finding["returned_at"]["text"] == lib.give
    assert finding["returned_at"]["function"] == "give"
    text = " ".join(result.text.split())
    assert f"1 connection of {lib.pool_class}(" in text
    assert "was given back in the middle of a transaction that wrote: what it wrote was rolled back" in text
    assert f"given back at test_suite.py:{finding['returned_at']['line']} in give" in text
    assert "hint: commit() before putconn(), or rollback() if that was meant" in text
    assert "1 connection returned uncommit" in text  # and on, where the line is long enough


def test_warn_tells_it_and_fails_nothing(run):
    result = run(LOST, "--poolguard-dirty-returns=warn")
    result.assert_outcomes(passed=1)
    assert result.result.ret == 0
    assert [(f["kind"], f["verdict"]) for f in result.findings] == [("dirty_return", "warned")]
    assert "poolguard: 1 dirty return, 1 site" in result.text


def test_a_run_that_only_warns_fails_nothing(run):
    result = run(LOST, FAIL, "--poolguard=warn")
    result.assert_outcomes(passed=1)
    assert [f["verdict"] for f in result.findings] == ["warned"]


def test_nobody_asks_by_default(run):
    run(LOST).assert_silent(passed=1)


def test_every_other_return_is_silent(run):
    run(
        """
DEF test_untouched(pool):
    conn = TAKE
    GIVE

DEF test_only_read(pool):
    conn = TAKE
    READ
    GIVE

DEF test_committed(pool):
    conn = TAKE
    WRITE
    COMMIT
    GIVE

DEF test_committed_and_read(pool):
    conn = TAKE
    DEFINE
    ROLLBACK
    READ
    GIVE

DEF test_rolled_back(pool):
    conn = TAKE
    WRITE
    ROLLBACK
    GIVE

DEF test_failed_statement(pool):
    conn = TAKE
    with contextlib.suppress(Exception):
        FAIL
    GIVE

DEF test_closed(pool):
    conn = TAKE
    WRITE
    AWAIT conn.close()
    GIVE
""",
        FAIL,
    ).assert_silent(passed=7)


def test_locks_and_sequences_are_nothing_written(run):
    run(
        """
DEF test_it(pool):
    conn = TAKE
    LOCK
    COUNT
    GIVE
""",
        FAIL,
    ).assert_silent(passed=1)


def test_a_definition_counts_as_written(run):
    result = run(
        """
DEF test_it(pool):
    conn = TAKE
    DEFINE
    GIVE
""",
        FAIL,
    )
    result.assert_outcomes(failed=1)
    assert [f["kind"] for f in result.findings] == ["dirty_return"]


def test_autocommit_has_written_for_good(run, lib):
    switch = "await conn.set_autocommit(True)" if lib.is_async else "conn.autocommit = True"
    run(
        f"""
DEF test_it(pool):
    conn = TAKE
    {switch}
    WRITE
    GIVE
""",
        FAIL,
    ).assert_silent(passed=1)


def test_a_fixture_that_took_it_is_the_one_to_be_told(run):
    result = run(
        """
@pytest.fixture
DEF writes(pool):
    conn = TAKE
    WRITE
    yield
    GIVE

@pytest.fixture
DEF commits(pool):
    conn = TAKE
    WRITE
    yield
    COMMIT
    GIVE

DEF test_lost(writes): pass
DEF test_kept(commits): pass
""",
        FAIL,
    )
    result.assert_outcomes(passed=1, failed=1)
    assert result.blamed == ["test_lost"]
    assert [f["owner"]["name"] for f in result.findings] == ["writes"]


def test_the_question_leaves_the_connection_as_it_was(run, lib):
    """It is used again, by the next one who takes it."""
    assert lib
    result = run(
        """
DEF test_it(pool):
    for _ in range(5):
        conn = TAKE
        WRITE
        GIVE
        conn = TAKE
        READ
        COMMIT
        GIVE
""",
        "--poolguard-dirty-returns=warn",
    )
    result.assert_outcomes(passed=1)
    assert len(result.findings) == 5


def test_a_connections_own_cursors_do_not_see_the_question(suite):
    result = suite.run(
        """
import psycopg2.extensions, psycopg_pool, psycopg

seen = []

class Counting(psycopg2.extensions.cursor):
    def execute(self, *args):
        seen.append(args)
        return super().execute(*args)

class PsycopgCounting(psycopg.Cursor):
    def execute(self, *args, **kwargs):
        seen.append(args)
        return super().execute(*args, **kwargs)

def row_factory(cursor):
    seen.append("row")
    return psycopg.rows.dict_row(cursor)

def test_psycopg2():
    pool = ThreadedConnectionPool(1, 1, DSN, cursor_factory=Counting)
    conn = pool.getconn()
    conn.cursor().execute("CREATE TABLE never (n int)")
    pool.putconn(conn)
    pool.closeall()
    assert len(seen) == 1

def test_psycopg():
    seen.clear()
    kwargs = {"cursor_factory": PsycopgCounting, "row_factory": row_factory}
    with psycopg_pool.ConnectionPool(DSN, min_size=1, kwargs=kwargs) as pool:
        conn = pool.getconn()
        conn.execute("CREATE TABLE never (n int)")
        mine = len(seen)
        pool.putconn(conn)
        assert len(seen) == mine
""",
        "--poolguard-dirty-returns=warn",
    )
    result.assert_outcomes(passed=2)
    assert len(result.findings) == 2


def test_a_task_that_is_cancelled_while_it_is_asked_has_returned_its_connection(suite):
    result = suite.run(
        """
import asyncio, psycopg_pool

async def test_it(poolguard):
    for ticks in range(8):
        async with psycopg_pool.AsyncConnectionPool(DSN, min_size=1, max_size=1, open=False) as pool:
            conn = await pool.getconn()
            await conn.execute("CREATE TABLE never (n int)")
            task = asyncio.create_task(pool.putconn(conn))
            for _ in range(ticks):
                await asyncio.sleep(0)
            if ticks:
                task.cancel()
            try:
                await task
            except asyncio.CancelledError:
                pass
            await pool.putconn(await pool.getconn(timeout=10))
            assert poolguard.checked_out == 0
""",
        "--poolguard-dirty-returns=warn",
        "-oasyncio_mode=auto",
    )
    result.assert_outcomes(passed=1)
    assert {f["kind"] for f in result.findings} <= {"dirty_return"}


def test_what_an_exception_has_interrupted_says_so_by_itself(run):
    run(
        """
DEF test_it(pool):
    conn = TAKE
    with pytest.raises(ZeroDivisionError):
        try:
            WRITE
            1 / 0
        finally:
            GIVE
""",
        FAIL,
    ).assert_silent(passed=1)


ASYNCPG = (
    TABLE
    + """
WRITE = "INSERT INTO dirty (n) VALUES (2)"

@pytest.fixture
async def pool():
    pool = await asyncpg.create_pool(DSN, min_size=1, max_size=1)
    yield pool
    pool.terminate()
"""
)


def run_asyncpg(suite, source: str, *args: str):
    header = 'import asyncpg, contextlib, os, psycopg2, pytest\nDSN = os.environ["SUITE_DSN"]\n'
    return suite.run(ASYNCPG + source, "-oasyncio_mode=auto", *args, header=header)


@pytest.mark.parametrize("begin", ['conn.execute("BEGIN")', "conn.transaction().start()"])
def test_asyncpg_rolls_back_a_transaction_that_no_block_has_ended(suite, begin):
    result = run_asyncpg(
        suite,
        f"""
async def test_lost(pool):
    async with pool.acquire() as conn:
        await {begin}
        await conn.execute(WRITE)

async def test_by_hand(pool):
    conn = await pool.acquire()
    await {begin}
    await conn.execute(WRITE)
    await pool.release(conn)
""",
        FAIL,
    )
    result.assert_outcomes(failed=2)
    assert {f["kind"] for f in result.findings} == {"dirty_return"}
    assert result.blamed == ["test_by_hand", "test_lost"]
    (given,) = [f["returned_at"]["text"] for f in result.findings if "by_hand" in f["nodeid"]]
    assert given == "await pool.release(conn)"
    assert {f["hint"] for f in result.findings} == {"COMMIT before release(), or ROLLBACK if that was meant"}


def test_every_other_return_to_asyncpg_is_silent(suite):
    run_asyncpg(
        suite,
        """
async def test_autocommit(pool):
    async with pool.acquire() as conn:
        await conn.execute(WRITE)

async def test_transaction(pool):
    async with pool.acquire() as conn, conn.transaction():
        await conn.execute(WRITE)

@pytest.mark.parametrize("end", ["COMMIT", "ROLLBACK"])
async def test_ended(pool, end):
    conn = await pool.acquire()
    await conn.execute("BEGIN")
    await conn.execute(WRITE)
    await conn.execute(end)
    await pool.release(conn)

async def test_read(pool):
    conn = await pool.acquire()
    await conn.execute("BEGIN")
    await conn.execute("SELECT * FROM dirty FOR UPDATE")
    await pool.release(conn)

async def test_failed(pool):
    with pytest.raises(ZeroDivisionError):
        async with pool.acquire() as conn:
            await conn.execute("BEGIN")
            await conn.execute(WRITE)
            1 / 0
    async with pool.acquire() as conn:
        await conn.execute("BEGIN")
        with contextlib.suppress(asyncpg.PostgresError):
            await conn.execute("SELECT 1 / 0")
    assert pool.get_idle_size() == 1
""",
        FAIL,
    ).assert_silent(passed=6)


def test_a_task_that_is_cancelled_while_asyncpg_is_asked_has_returned_its_connection(suite):
    result = run_asyncpg(
        suite,
        """
import asyncio

async def test_it(pool, poolguard):
    for ticks in range(8):
        conn = await pool.acquire()
        await conn.execute("BEGIN")
        await conn.execute(WRITE)
        task = asyncio.create_task(pool.release(conn))
        for _ in range(ticks):
            await asyncio.sleep(0)
        if ticks:
            task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task
        async with pool.acquire(timeout=10) as conn:
            assert not conn.is_in_transaction()
        assert poolguard.checked_out == 0
""",
        "--poolguard-dirty-returns=warn",
    )
    result.assert_outcomes(passed=1)
    assert {f["kind"] for f in result.findings} <= {"dirty_return"}
