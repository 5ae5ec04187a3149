"""``statement_timeout`` and ``idle_in_transaction_timeout``: what becomes of the session, and what is told."""

from __future__ import annotations

import inspect

# C extensions, which can't be imported anew for every inner run
import asyncpg
import greenlet  # noqa: F401
import psycopg  # noqa: F401
import psycopg2.pool
import psycopg_pool  # noqa: F401
import pytest
import sqlalchemy.ext.asyncio  # noqa: F401
from loops import ONE_LOOP

from pytest_poolguard.books.clock import Clock
from pytest_poolguard.books.ledger import Ledger
from pytest_poolguard.books.records import Limits, Owner, SessionLimits
from pytest_poolguard.drivers.interface import State
from pytest_poolguard.drivers.psycopg2.session_limits import TALK
from pytest_poolguard.drivers.session_limits import Sessions, Talk

LIMITS = "SELECT current_setting('statement_timeout'), current_setting('idle_in_transaction_session_timeout')"

ONE = f"""
LIMITS = {LIMITS!r}

@pytest.fixture(scope="module")
def pool():
    pool = ThreadedConnectionPool(1, 1, DSN)
    yield pool
    pool.closeall()

def limits(conn):
    with conn.cursor() as cursor:
        cursor.execute(LIMITS)
        return cursor.fetchone()

def look(pool):
    conn = pool.getconn()
    try:
        return limits(conn)
    finally:
        pool.putconn(conn)

def run(conn, sql):
    with conn.cursor() as cursor:
        cursor.execute(sql)
"""

ASYNC = f"""
import asyncio, os
import asyncpg, psycopg, pytest
from psycopg_pool import AsyncConnectionPool, AsyncNullConnectionPool, ConnectionPool, NullConnectionPool

DSN = os.environ["SUITE_DSN"]
LIMITS = {LIMITS!r}
limited = pytest.mark.pool(statement_timeout=2)
"""


# whose value it is


def test_a_sessions_own_value_comes_back_and_what_the_application_sets_stays(suite):
    suite.run(
        ONE
        + """
limited = pytest.mark.pool(statement_timeout=2, idle_in_transaction_timeout=5)

def test_own(pool):
    conn = pool.getconn()
    run(conn, "SET statement_timeout = '7s'")
    conn.commit()
    pool.putconn(conn)

@limited
def test_limited(pool):
    assert look(pool) == ("2s", "5s")

def test_came_back(pool):
    assert look(pool) == ("7s", "0")

@limited
@pytest.mark.parametrize("statement, after", [
    ("SET statement_timeout = '9s'", ("9s", "5s")),
    ("SET idle_in_transaction_session_timeout = '1min'", ("2s", "1min")),
    ("RESET ALL", ("0", "0")),
])
def test_sets(pool, statement, after):
    conn = pool.getconn()
    run(conn, statement)
    conn.commit()
    assert limits(conn) == after
    pool.putconn(conn)

def test_stayed(pool):
    assert look(pool) == ("0", "0")

@limited
def test_sets_for_good(pool):
    conn = pool.getconn()
    run(conn, "SET statement_timeout = '9s'")
    conn.commit()
    pool.putconn(conn)

def test_stayed_for_good(pool):
    assert look(pool) == ("9s", "0")

@limited
@pytest.mark.parametrize("statement", ["SET statement_timeout = '3s'", "SET LOCAL statement_timeout = '3s'"])
def test_rolled_back(pool, statement):
    conn = pool.getconn()
    run(conn, statement)
    pool.putconn(conn)

def test_nothing_of_that(pool):
    assert look(pool) == ("9s", "0")
"""
    ).assert_silent(passed=12)


def test_values_of_the_ini_file_and_of_the_marker(suite, processes):
    suite.setting("poolguard_statement_timeout", "3\npoolguard_idle_in_transaction_timeout = 60")
    suite.run(
        ONE
        + """
@pytest.fixture(scope="module")
def wide(pool):
    conn = pool.getconn()
    yield limits(conn)
    pool.putconn(conn)

@pytest.fixture
def narrow(pool):
    return look(pool)

def test_defaults(narrow, pool):
    assert look(pool) == narrow == ("3s", "1min")

@pytest.mark.pool(statement_timeout=0.0004, idle_in_transaction_timeout=0.25)
def test_marker(pool):
    conn = pool.getconn()
    assert conn.info.transaction_status == 0
    pool.putconn(conn)

@pytest.mark.pool(statement_timeout=0)
class TestClass:
    def test_no_limit(self, narrow, pool):
        assert look(pool) == narrow == ("0", "1min")

    @pytest.mark.pool(idle_in_transaction_timeout=2, max=1)
    def test_function(self, narrow, pool):
        assert look(pool) == narrow == ("0", "2s")

@pytest.mark.pool(statement_timeout=1)
def test_wider_fixtures_have_the_defaults(wide):
    assert wide == ("3s", "1min")
""",
        *processes,
    ).assert_silent(passed=5)


@pytest.mark.parametrize("value", ["-1", "soon", "inf", "2147484", "nan"])
def test_a_wrong_value_is_a_usage_error(suite, value):
    run = suite.run("def test_it(): pass", f"--poolguard-statement-timeout={value}")
    assert run.result.ret == 4
    error = f"--poolguard-statement-timeout: '{value}' is not a number of seconds from 0 (no limit) to 2147483"
    assert error in run.result.stderr.str()


# nothing else


def test_what_a_connection_of_psycopg2_was_like_it_stays(suite):
    suite.run(
        ONE
        + """
from psycopg2 import extensions

class Counting(extensions.connection):
    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.cursors = 0

    def cursor(self, *args, **kwargs):
        self.cursors += 1
        return super().cursor(*args, **kwargs)

def look_at(conn):
    info = conn.info
    return (conn.autocommit, conn.isolation_level, conn.readonly, conn.deferrable, conn.status, conn.notices,
            info.transaction_status, conn.cursor_factory, conn.cursors)

@pytest.mark.pool(statement_timeout=2)
@pytest.mark.parametrize("session", [
    {}, {"autocommit": True}, {"isolation_level": "SERIALIZABLE", "readonly": True},
    {"isolation_level": "SERIALIZABLE", "autocommit": True},
])
def test_it(session):
    pool = SimpleConnectionPool(1, 1, DSN, connection_factory=Counting)
    conn = pool._pool[0]
    conn.set_session(**session)
    before = look_at(conn)
    assert pool.getconn() is conn
    assert look_at(conn) == before
    run(conn, "SELECT 1")
    pool.putconn(conn)
    assert look_at(conn) == (*before[:-1], 1)
    pool.closeall()

@pytest.mark.pool(statement_timeout=2)
@pytest.mark.parametrize("ends", ["SELECT 1/0", "SELECT 1", "COMMIT", "ROLLBACK"])
def test_however_it_comes_back(pool, ends):
    conn = pool.getconn()
    run(conn, "CREATE TEMP TABLE IF NOT EXISTS mine (id int)")
    try:
        run(conn, ends)
    except psycopg2.Error:
        pass
    pool.putconn(conn)

def test_its_own(pool):
    assert look(pool) == ("0", "0")
"""
    ).assert_silent(passed=9)


def test_nobody_is_asked_where_nothing_is_asked_for(suite):
    suite.run(
        ONE
        + """
@pytest.mark.pool(max=1, timeout=5)
def test_it(pool):
    for _ in range(3):
        pool.putconn(pool.getconn())
    conn = psycopg2.connect(DSN)
    with conn.cursor() as cursor:
        cursor.execute("SELECT query FROM pg_stat_activity WHERE pid = %s", [pool._pool[0].info.backend_pid])
        assert cursor.fetchone() == ("",)
    conn.close()
"""
    ).assert_silent(passed=1)


def test_our_own_statement_is_never_told_as_the_last_one(suite):
    result = suite.run(
        """
@pytest.mark.pool(statement_timeout=2)
def test_it(pool):
    conn = pool.getconn()
""",
        "--poolguard-show-sql=full",
    )
    result.assert_outcomes(failed=1)
    assert result.blamed == ["test_it"]
    assert "pytest-poolguard */" not in result.text
    assert result.findings[0]["server"]["statement"] == ""


def test_a_pool_that_resets_connections_in_a_thread_of_its_own(suite):
    """A connection comes back in a worker, which calls the pool's ``reset``; a null pool hands it on."""
    suite.run(
        """
import threading
from concurrent.futures import ThreadPoolExecutor

def reset(conn):
    conn.execute("SET application_name = 'reset'")
    conn.commit()

@pytest.fixture(scope="module", params=[(ConnectionPool, 1), (NullConnectionPool, 0)])
def pool(request):
    cls, least = request.param
    with cls(DSN, min_size=least, max_size=1, reset=reset) as pool:
        yield pool

def look(pool):
    with pool.connection(timeout=20) as conn:
        return conn.execute(LIMITS).fetchone()[0]

@limited
def test_limited(pool):
    with ThreadPoolExecutor(4) as threads:
        assert set(threads.map(lambda _: look(pool), range(12))) == {"2s"}

def test_own(pool):
    with ThreadPoolExecutor(4) as threads:
        assert set(threads.map(lambda _: look(pool), range(12))) == {"0"}
""",
        header=ASYNC,
    ).assert_silent(passed=4)


def test_a_task_that_is_cancelled_over_it_has_lost_no_connection(suite):
    """At every point at which it may be: the pool has all of its connections, none with a limit."""
    suite.run(
        """
@pytest.fixture(params=["psycopg_pool", "asyncpg", "custom"])
async def pool(request):
    if request.param == "psycopg_pool":
        async with AsyncConnectionPool(DSN, min_size=2, max_size=2, open=False) as pool:
            pool.value = lambda conn: one(conn)
            yield pool
        return
    async def nothing(conn): pass
    custom = {"reset": nothing} if request.param == "custom" else {}
    async with asyncpg.create_pool(DSN, min_size=2, max_size=2, **custom) as pool:
        yield pool

async def one(conn):
    if hasattr(conn, "fetchval"):
        return await conn.fetchval(LIMITS)
    return (await (await conn.execute(LIMITS)).fetchone())[0]

def taking(pool):
    return pool.connection(timeout=20) if hasattr(pool, "connection") else pool.acquire(timeout=20)

async def work(pool):
    async with taking(pool) as conn:
        assert await one(conn) == "2s"

async def looks(pool):
    async with taking(pool) as conn:
        other = pool.connection(timeout=20) if hasattr(pool, "connection") else pool.acquire(timeout=20)
        async with other as second:
            return [await one(conn), await one(second)]

kept = []

@pytest.mark.parametrize("steps", range(1, 40))
@limited
async def test_cancelled(pool, steps):
    task = asyncio.create_task(work(pool))
    for _ in range(steps):
        await asyncio.sleep(0)
    task.cancel()
    await asyncio.wait([task], timeout=20)
    assert task.done() and (task.cancelled() or task.exception() is None)
    assert await looks(pool) == ["2s", "2s"]
    kept.append(task.cancelled())

def test_some_were():
    assert any(kept)
""",
        "-oasyncio_mode=auto",
        header=ASYNC,
    ).assert_silent(passed=3 * 39 + 1)


@pytest.mark.skipif(
    "reset" not in inspect.signature(asyncpg.create_pool).parameters, reason="came with asyncpg 0.30"
)
def test_asyncpg_with_a_reset_of_the_applications_own(suite):
    """Its listeners, its caches and its log of queries see nothing; what is not reset is taken back."""
    suite.run(
        """
async def nothing(conn): pass

class Plain(asyncpg.Connection):
    def get_reset_query(self): return "CLOSE ALL"

POOLS = [{}, {"reset": nothing}, {"connection_class": Plain}]

@pytest.fixture(scope="module", params=POOLS, ids=["all", "reset", "class"])
async def pool(request):
    async with asyncpg.create_pool(DSN, min_size=1, max_size=1, **request.param) as pool:
        yield pool

seen = []

async def look(pool, before=""):
    async with pool.acquire() as conn:
        if before:
            await conn.execute(before)
        return (await conn.fetchrow(LIMITS))[0]

async def test_before(pool):
    await look(pool, "SET statement_timeout = '7s'")

@limited
async def test_limited(pool):
    assert await look(pool) == "2s"
    async with pool.acquire() as conn:
        raw = conn._con
        raw.add_query_logger(seen.append)
        raw._stmt_cache.clear()
    async with pool.acquire() as conn:
        assert not list(raw._stmt_cache.iter_statements())
        assert not raw.is_in_transaction()
        conn.remove_query_logger(seen.append)
    assert [one for one in seen if "pytest-poolguard" in one.query] == []

async def test_own(pool, request):
    assert await look(pool) == ("0" if request.node.callspec.id == "all" else "7s")

@limited
async def test_in_a_transaction(pool):
    async with pool.acquire() as conn:
        await conn.execute("BEGIN")

async def test_own_when_it_is_taken_again(pool, request):
    assert await look(pool) == ("0" if request.node.callspec.id == "all" else "7s")
""",
        "-oasyncio_mode=auto",
        *ONE_LOOP,
        header=ASYNC,
    ).assert_silent(passed=15)


ENGINE = """
import asyncio, gc, os
import psycopg2.pool, pytest
from sqlalchemy import create_engine, event, text
from sqlalchemy.pool import NullPool, QueuePool, StaticPool
from sqlalchemy.ext.asyncio import create_async_engine

DSN = os.environ["SUITE_DSN"]
limited = pytest.mark.pool(statement_timeout=2)
VALUE = text("SELECT current_setting('statement_timeout')")

def url(driver):
    return f"postgresql+{driver}" + DSN.removeprefix("postgresql")
"""


def test_listeners_of_the_applications_own_find_a_connection_at_rest_that_is_limited(suite):
    suite.run(
        """
seen = []

@pytest.fixture(scope="module", params=["psycopg2", "psycopg"])
def engine(request):
    engine = create_engine(url(request.param), pool_size=1, max_overflow=0)
    @event.listens_for(engine, "checkout")
    def checkout(dbapi_connection, entry, proxy):
        seen.append((dbapi_connection.info.transaction_status, dbapi_connection.autocommit))
        cursor = dbapi_connection.cursor()
        cursor.execute("SELECT current_setting('statement_timeout')")
        seen.append(cursor.fetchone()[0])
    yield engine
    engine.dispose()

@limited
def test_limited(engine):
    with engine.connect():
        pass
    assert seen[-2:] == [(0, False), "2s"]
    conn = engine.connect()
    conn.execute(text("SELECT 1"))
    del conn
    gc.collect()  # it comes back by itself

def test_own(engine):
    with engine.connect():
        pass
    assert seen[-2:] == [(0, False), "0"]
""",
        "--poolguard=warn",
        header=ENGINE,
    ).assert_outcomes(passed=4)


def test_a_pool_on_a_pool_has_its_limits_for_as_long_as_the_outer_connection_is_out(suite):
    suite.run(
        """
@pytest.fixture(scope="module")
def engine():
    inner = psycopg2.pool.ThreadedConnectionPool(1, 3, DSN)
    engine = create_engine("postgresql+psycopg2://", creator=inner.getconn, pool_size=1)
    yield engine
    inner.closeall()

def value(engine):
    with engine.connect() as conn:
        return conn.execute(VALUE).scalar()

@limited
def test_limited(engine):
    assert value(engine) == value(engine) == "2s"

def test_own(engine):
    assert value(engine) == "0"
""",
        header=ENGINE,
    ).assert_silent(passed=2)


def test_a_connection_that_is_in_a_transaction_when_it_is_taken(suite):
    """Such as the one of a ``StaticPool`` that never rolls back: it stays as it is, and that is said once."""
    result = suite.run(
        """
@pytest.fixture(scope="module")
def engine():
    engine = create_engine(url("psycopg2"), poolclass=StaticPool, pool_reset_on_return=None)
    yield engine
    engine.dispose()

def test_begins(engine):
    conn = engine.raw_connection()
    conn.cursor().execute("CREATE TEMP TABLE mine (id int)")
    conn.close()

@limited
@pytest.mark.parametrize("turn", [1, 2])
def test_limited(engine, turn):
    conn = engine.raw_connection()
    cursor = conn.cursor()
    cursor.execute("SHOW statement_timeout")
    assert cursor.fetchone() == ("0",)
    conn.close()
""",
        header=ENGINE,
    )
    result.assert_silent(passed=3)
    assert result.data["notices"] == [
        "statement_timeout can't be set on a connection that is in a transaction when it is taken"
    ]


# what is told


def test_where_the_limit_is_set_that_has_ended_a_statement(suite, processes):
    suite.setting("poolguard_statement_timeout", "0.1")
    result = suite.run(
        ONE
        + """
def sleeps(pool):
    conn = pool.getconn()
    try:
        run(conn, "SELECT pg_sleep(20)")
    finally:
        pool.putconn(conn)

def test_by_default(pool):
    sleeps(pool)

@pytest.mark.pool(statement_timeout=0.2)
class TestClass:
    def test_of_the_class(self, pool):
        sleeps(pool)

    @pytest.mark.pool(max=1)
    def test_wrapped(self, pool):
        try:
            sleeps(pool)
        except psycopg2.Error as error:
            raise RuntimeError("no answer") from error

    def test_swallowed(self, pool):
        with pytest.raises(psycopg2.errors.QueryCanceled):
            sleeps(pool)

    def test_other_failure(self, pool):
        with pytest.raises(psycopg2.errors.QueryCanceled):
            sleeps(pool)
        assert look(pool) == "something else"
""",
        *processes,
    )
    result.assert_outcomes(failed=4, passed=1)
    ended = "the server has ended a statement that took longer"
    told = [line for line in result.text.splitlines() if ended in line]
    of_the_class = f"statement_timeout=0.2 of @pytest.mark.pool on test_suite.py::TestClass: {ended}"
    of_the_file = f"statement_timeout=0.1 of poolguard_statement_timeout in the ini file: {ended}"
    assert sorted(told) == [of_the_file, of_the_class, of_the_class]
    flag = suite.again("-k", "default", "--poolguard-statement-timeout=0.15")
    assert f"statement_timeout=0.15 of --poolguard-statement-timeout: {ended}" in flag.text


def test_a_statement_that_something_else_has_ended(suite):
    """Somebody's request, or a smaller limit that the application has set: ours is not the reason."""
    result = suite.run(
        ONE
        + """
def cancel(pid):
    time.sleep(0.4)
    conn = psycopg2.connect(DSN)
    run(conn, f"SELECT pg_cancel_backend({pid})")
    conn.close()

@pytest.mark.pool(statement_timeout=0.3)
@pytest.mark.parametrize("own", ["SET LOCAL statement_timeout = 0", "SET LOCAL statement_timeout = 50"])
def test_it(pool, own):
    conn = pool.getconn()
    run(conn, own)
    thread = threading.Thread(target=cancel, args=[conn.info.backend_pid])
    if own.endswith(" 0"):
        thread.start()
    try:
        run(conn, "SELECT pg_sleep(20)")
    finally:
        pool.putconn(conn)
        if own.endswith(" 0"):
            thread.join()
"""
    )
    result.assert_outcomes(failed=2)
    assert "a limit of the session" not in result.text


IDLE = """
limited = pytest.mark.pool(idle_in_transaction_timeout=0.2)

@limited
def test_psycopg():
    with ConnectionPool(DSN, min_size=1, max_size=1) as pool, pool.connection() as conn:
        conn.execute("SELECT 1")
        time.sleep(0.5)
        conn.execute("SELECT 1")

@limited
async def test_asyncpg():
    async with asyncpg.create_pool(DSN, min_size=1, max_size=1) as pool, pool.acquire() as conn:
        async with conn.transaction():
            await asyncio.sleep(0.5)
            await conn.execute("SELECT 1")

@limited
def test_psycopg2():
    pool = psycopg2.pool.ThreadedConnectionPool(1, 1, DSN)
    conn = pool.getconn()
    try:
        conn.cursor().execute("SELECT 1")
        time.sleep(0.5)
        conn.cursor().execute("SELECT 1")
    finally:
        pool.putconn(conn)
        pool.closeall()

@limited
def test_something_else():
    with ConnectionPool(DSN, min_size=1, max_size=1) as pool, pool.connection() as conn:
        conn.execute("SELECT 1")
        time.sleep(0.3)
        conn.close()
        conn.execute("SELECT 1")
"""


def test_a_transaction_that_lay_idle_for_too_long(suite):
    result = suite.run(
        IDLE, "-oasyncio_mode=auto", header="import psycopg2.pool, time\n" + ASYNC, subprocess=True
    )
    result.assert_outcomes(failed=4)
    limit = "idle_in_transaction_timeout=0.2 of @pytest.mark.pool on test_suite.py"
    assert f"{limit}::test_psycopg: the server has ended a transaction that lay idle for longer" in result.text
    perhaps = "it may be why the server has closed a connection"
    assert f"{limit}::test_psycopg2: {perhaps}" in result.text
    assert f"{limit}::test_asyncpg: {perhaps}" in result.text
    assert f"{limit}::test_something_else" not in result.text


# where they do not hold


def test_connections_without_a_pool_have_no_limits_and_that_is_said(suite, processes):
    result = suite.run(
        ONE
        + """
@pytest.mark.pool(statement_timeout=2)
@pytest.mark.parametrize("turn", [1, 2])
def test_it(turn):
    conn = psycopg2.connect(DSN)
    assert limits(conn) == ("0", "0")
    conn.close()

@pytest.mark.pool(statement_timeout=2)
def test_of_a_pool(pool):
    assert look(pool) == ("2s", "0")
""",
        *processes,
    )
    result.assert_silent(passed=3)
    assert result.data["notices"] == [
        "statement_timeout does not hold on connections that are opened without a pool"
    ]


def test_a_pool_class_of_the_suites_own_has_no_limits_and_that_is_said(suite):
    """Also where it stands on another pool: what that hands out it may keep for longer than the test."""
    suite.file(
        "shelf.py",
        """
class Shelf:
    def __init__(self, pool):
        self.pool, self.idle = pool, []
    def take(self):
        return self.idle.pop() if self.idle else self.pool.getconn()
    def give(self, conn):
        conn.rollback()
        self.idle.append(conn)
""",
    )
    suite.setting("poolguard_pools", "shelf:Shelf(acquire=take, release=give)")
    result = suite.run(
        ONE
        + """
from shelf import Shelf

@pytest.fixture(scope="module")
def shelf(pool):
    return Shelf(pool)

@pytest.mark.pool(statement_timeout=2)
def test_limited(shelf):
    conn = shelf.take()
    assert limits(conn) == ("0", "0")
    shelf.give(conn)
"""
    )
    result.assert_silent(passed=1)
    assert result.data["notices"] == ["statement_timeout does not hold on what shelf:Shelf hands out"]


@pytest.fixture
def limited(dsn):
    """A connection, and the sessions of somebody whose limit is one second."""
    test = Owner("test", "test_it", limits=Limits(session=SessionLimits(1.0)))
    said: list[str] = []
    sessions = Sessions(Ledger(Clock(), test), said.append)
    connection = psycopg2.connect(dsn)
    yield connection, sessions, said
    connection.close()


def value(connection) -> str:
    with connection.cursor() as cursor:
        cursor.execute("SHOW statement_timeout")
        (value,) = cursor.fetchone()
    connection.rollback()
    return value


def test_behind_a_pooler_nothing_is_set(limited):
    """There the server's process is not the one that the connection was made to."""
    connection, sessions, said = limited
    pooled = Talk(lambda _: State(backend_pid=1, transaction="idle"), TALK.ask)
    sessions.set(None, connection, pooled)
    assert value(connection) == "0"
    assert said == ["statement_timeout can't be set through a connection pooler: its sessions are others', too"]
    assert not sessions.is_used
    sessions.set(None, connection, TALK)
    assert value(connection) == "1s"


def test_a_server_that_refuses_is_said_once_and_fails_nothing(limited):
    connection, sessions, said = limited
    refusing = Talk(TALK.state, lambda connection, _: TALK.ask(connection, "SELECT nonsense"))
    for _ in range(2):
        sessions.set(None, connection, refusing)
    assert said == [
        "a server does not set, or take back, the limits of sessions: "
        'UndefinedColumn: column "nonsense" does not exist'
    ]
    assert not connection.autocommit


def test_a_connection_that_is_gone_is_left_to_its_taker(limited):
    connection, sessions, said = limited
    sessions.set(None, connection, TALK)
    connection.close()
    sessions.take_back(connection, TALK)
    sessions.set(None, connection, TALK)
    assert said == []
    assert sessions.limited == {}


def test_a_connection_that_nobody_has_any_more_is_forgotten(limited, dsn):
    _, sessions, _ = limited
    other = psycopg2.connect(dsn)
    sessions.set(None, other, TALK)
    assert len(sessions.limited) == 1
    other.close()
    del other
    assert sessions.limited == {}
    assert len(sessions.recent()) == 1
