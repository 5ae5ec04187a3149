"""SQLAlchemy rolls back what is closed in the middle of a transaction: a loss, unless somebody asked for it."""

from __future__ import annotations

# C extensions, which can't be imported anew for every inner run
import asyncpg  # noqa: F401
import greenlet  # noqa: F401
import psycopg  # noqa: F401
import pytest
import sqlalchemy.dialects.postgresql
import sqlalchemy.ext.asyncio
import sqlalchemy.orm  # noqa: F401

FAIL = "--poolguard-dirty-returns=fail"

HEADER = """
import asyncio, contextlib, os
import psycopg2, pytest
from sqlalchemy import NullPool, StaticPool, event, text
from sqlalchemy import create_engine as create
from sqlalchemy.orm import Session, scoped_session, sessionmaker

URL = "postgresql+{driver}" + os.environ["SUITE_DSN"].removeprefix("postgresql")
TABLE = "dirty" + os.environ.get("PYTEST_XDIST_WORKER", "")
WRITE = text(f"INSERT INTO {TABLE} (n) VALUES (2)")
READ = text(f"SELECT count(*) FROM {TABLE}")
LOCK = text(f"SELECT * FROM {TABLE} FOR UPDATE")

@pytest.fixture(scope="module", autouse=True)
def table():
    with contextlib.closing(psycopg2.connect(os.environ["SUITE_DSN"])) as conn:
        conn.autocommit = True
        conn.cursor().execute(f"DROP TABLE IF EXISTS {TABLE}; CREATE TABLE {TABLE} (n int)")
        yield
        conn.cursor().execute(f"DROP TABLE {TABLE}")
"""
SYNC = """
@pytest.fixture
def engine():
    engine = create(URL)
    yield engine
    engine.dispose()
"""
ASYNC = """
from sqlalchemy.ext.asyncio import AsyncSession as Session
from sqlalchemy.ext.asyncio import async_sessionmaker as sessionmaker
from sqlalchemy.ext.asyncio import create_async_engine as create

@pytest.fixture
async def engine():
    engine = create(URL)
    yield engine
    await engine.dispose()
"""
WORDS = {"DEF ": "async def ", "AWAIT ": "await ", "ASYNC ": "async "}


@pytest.fixture(params=["psycopg2", "psycopg", "asyncpg", "async psycopg"])
def engine(request) -> str:
    return request.param


@pytest.fixture
def run(suite, engine):
    """Run a suite that has a table ``dirty`` and a function-scoped ``engine``; DEF, AWAIT, ASYNC as it needs."""
    is_async, driver = engine.startswith("a"), engine.split()[-1]
    header = HEADER.replace("+{driver}", f"+{driver}") + (ASYNC if is_async else SYNC)

    def run(source: str, *args: str):
        for word, meaning in WORDS.items():
            source = source.replace(word, meaning if is_async else meaning.partition(" ")[2])
        # Python 3.11 breaks where greenlets are collected while it parses (python/cpython#106905).
        return suite.run(source, "-oasyncio_mode=auto", *args, header=header, subprocess=is_async)

    return run


WAYS = {
    "a block": """
    ASYNC with engine.connect() as conn:
        AWAIT conn.execute(WRITE)
""",
    "close": """
    conn = AWAIT engine.connect()
    AWAIT conn.execute(WRITE)
    AWAIT conn.close()
""",
    "a session's block": """
    ASYNC with Session(engine) as session:
        AWAIT session.execute(WRITE)
""",
    "a session's close": """
    session = sessionmaker(engine)()
    AWAIT session.execute(WRITE)
    AWAIT session.close()
""",
    "a session's savepoint": """
    session = Session(engine)
    AWAIT session.begin_nested()
    AWAIT session.execute(WRITE)
    AWAIT session.close()
""",
}


@pytest.mark.parametrize("way", WAYS)
def test_what_was_closed_and_not_committed_fails_the_test_with_both_places(run, way):
    result = run(f"DEF lose(engine):{WAYS[way]}\nDEF test_lost(engine):\n    AWAIT lose(engine)\n", FAIL)
    result.assert_outcomes(failed=1)
    (finding,) = result.findings
    assert (finding["kind"], finding["verdict"]) == ("dirty_return", "failed")
    assert finding["library"] == "sqlalchemy"
    assert result.blamed == ["test_lost"]
    assert finding["acquired"]["function"] == finding["returned_at"]["function"] == "lose"
    if "block" not in way:
        assert finding["returned_at"]["text"].endswith(".close()")
    assert finding["hint"] == "commit() before close(), or rollback() if that was meant"


HONEST = """
DEF test_read(engine):
    ASYNC with engine.connect() as conn:
        AWAIT conn.execute(LOCK)
    ASYNC with Session(engine) as session:
        AWAIT session.execute(READ)

DEF test_committed(engine):
    ASYNC with engine.connect() as conn:
        AWAIT conn.execute(WRITE)
        AWAIT conn.commit()
        AWAIT conn.execute(READ)
    ASYNC with engine.begin() as conn:
        AWAIT conn.execute(WRITE)
    ASYNC with sessionmaker(engine).begin() as session:
        AWAIT session.execute(WRITE)
    ASYNC with Session(engine) as session:
        AWAIT session.execute(WRITE)
        AWAIT session.commit()

DEF test_rolled_back(engine):
    ASYNC with engine.connect() as conn:
        AWAIT conn.execute(WRITE)
        AWAIT conn.rollback()
    ASYNC with Session(engine) as session:
        AWAIT session.execute(WRITE)
        AWAIT session.rollback()
    conn = AWAIT engine.connect()
    transaction = AWAIT conn.begin()
    AWAIT conn.execute(WRITE)
    AWAIT transaction.close()
    AWAIT conn.close()

DEF test_failed(engine):
    for make in (engine.connect, engine.begin, sessionmaker(engine), sessionmaker(engine).begin):
        with pytest.raises(ZeroDivisionError):
            ASYNC with make() as it:
                AWAIT it.execute(WRITE)
                1 / 0
    conn = AWAIT engine.connect()
    with pytest.raises(ZeroDivisionError):
        try:
            AWAIT conn.execute(WRITE)
            1 / 0
        finally:
            AWAIT conn.close()

DEF test_failed_statement(engine):
    ASYNC with engine.connect() as conn:
        AWAIT conn.execute(WRITE)
        with contextlib.suppress(Exception):
            AWAIT conn.execute(text("SELECT 1 / 0"))

DEF test_autocommit(engine):
    conn = AWAIT engine.connect()
    AWAIT conn.execution_options(isolation_level="AUTOCOMMIT")
    AWAIT conn.execute(WRITE)
    AWAIT conn.close()

@pytest.fixture
DEF session(engine):
    conn = AWAIT engine.connect()
    outer = AWAIT conn.begin()
    session = Session(bind=conn, join_transaction_mode="create_savepoint")
    yield session
    AWAIT session.close()
    AWAIT outer.rollback()
    AWAIT conn.close()

@pytest.mark.parametrize("commits", [True, False])
DEF test_savepoint_recipe(session, commits):
    AWAIT session.execute(WRITE)
    if commits:
        AWAIT session.commit()
"""


@pytest.mark.parametrize("workers", [(), ("-n2",)], ids=["plain", "xdist"])
def test_every_other_end_is_silent(run, workers):
    run(HONEST, FAIL, *workers).assert_silent(passed=8)


def test_on_two_workers_each_loss_is_told_once(run):
    source = "".join(f"\nDEF test_{n}(engine):{WAYS['a block']}" for n in range(4))
    result = run(source, "--poolguard-dirty-returns=warn", "-n2")
    result.assert_outcomes(passed=4)
    assert [(f["kind"], f["verdict"]) for f in result.findings] == [("dirty_return", "warned")] * 4


def test_the_connection_is_as_it_was(run):
    result = run(
        f"DEF test_it(engine):\n    for _ in range(5):{WAYS['a block'].replace(chr(10), chr(10) + '    ')}"
        """
        ASYNC with engine.connect() as conn:
            assert (AWAIT conn.execute(READ)).scalar() == 0
        """,
        "--poolguard-dirty-returns=warn",
    )
    result.assert_outcomes(passed=1)
    assert len(result.findings) == 5


class TestSynchronous:
    """What has no asynchronous counterpart of its own."""

    @pytest.fixture(params=["psycopg2", "psycopg"])
    def engine(self, request) -> str:
        return request.param

    def test_a_raw_connection_is_rolled_back_by_its_pool(self, run):
        result = run(
            """
def take(engine):
    conn = engine.raw_connection()
    conn.cursor().execute(str(WRITE))
    return conn

def test_lost(engine):
    take(engine).close()

def test_rolled_back(engine):
    conn = take(engine)
    conn.rollback()
    conn.close()

def test_committed(engine):
    conn = take(engine)
    conn.commit()
    conn.close()

@pytest.mark.parametrize("how", ["commit", None])
def test_not_rolled_back(how):
    engine = create(URL, pool_reset_on_return=how)
    take(engine).close()
    engine.dispose()

def test_failed(engine):
    with pytest.raises(ZeroDivisionError), contextlib.closing(take(engine)):
        1 / 0
""",
            FAIL,
        )
        result.assert_outcomes(passed=5, failed=1)
        assert result.blamed == ["test_lost"]
        assert result.findings[0]["returned_at"]["function"] == "test_lost"

    def test_what_nobody_has_closed_is_a_leak_and_nothing_else(self, run):
        result = run("def test_leaks(engine):\n    engine.raw_connection().cursor().execute(str(WRITE))\n", FAIL)
        assert [f["kind"] for f in result.findings] == ["checked_out"]

    def test_a_scoped_session(self, run):
        result = run(
            """
def test_lost(engine):
    sessions = scoped_session(sessionmaker(engine))
    sessions.execute(WRITE)
    sessions.remove()
""",
            FAIL,
        )
        result.assert_outcomes(failed=1)
        assert result.findings[0]["returned_at"]["text"] == "sessions.remove()"

    @pytest.mark.parametrize("pool", ["NullPool", "StaticPool"])
    def test_other_pools(self, run, pool):
        result = run(
            f"""
def test_lost():
    engine = create(URL, poolclass={pool})
    with engine.connect() as conn:
        conn.execute(WRITE)
    engine.dispose()
""",
            FAIL,
        )
        result.assert_outcomes(failed=1)
        assert [f["kind"] for f in result.findings] == ["dirty_return"]

    def test_what_the_driver_was_told_behind_a_connections_back_is_told_once(self, run):
        result = run(
            """
def test_lost(engine):
    with engine.connect() as conn:
        conn.connection.cursor().execute(str(WRITE))
""",
            FAIL,
        )
        assert [f["kind"] for f in result.findings] == ["dirty_return"]


def test_nothing_is_replaced_where_nobody_asks(suite):
    suite.run(
        """
from sqlalchemy.engine import Connection
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncSession
from sqlalchemy.pool import Pool

def test_it():
    engine = create(URL)
    for cls in (Connection, Session, AsyncConnection, AsyncSession):
        assert not hasattr(cls.close, "__wrapped__")
    assert not engine.pool.dispatch.reset
    with engine.connect() as conn:
        conn.execute(WRITE)
    with Session(engine) as session:
        session.execute(WRITE)
    engine.dispose()
""",
        header=HEADER.replace("{driver}", "psycopg2"),
    ).assert_silent(passed=1)


def test_everything_is_given_back(suite):
    from sqlalchemy.engine import Connection
    from sqlalchemy.orm import Session

    before = Connection.close, Session.close
    suite.run("def test_it(): create(URL)", FAIL, header=HEADER.replace("{driver}", "psycopg2"))
    assert (Connection.close, Session.close) == before
