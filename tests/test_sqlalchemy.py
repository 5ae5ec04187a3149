"""What only SQLAlchemy does. What every library does is in ``contract``."""

from __future__ import annotations

import gc

# C extensions, which can't be imported anew for every inner run
import asyncpg  # noqa: F401
import greenlet  # noqa: F401
import psycopg  # noqa: F401
import psycopg_pool  # noqa: F401
import pytest
import sqlalchemy.dialects.postgresql
import sqlalchemy.ext.asyncio

HEADER = """
import asyncio, contextlib, gc, os, threading
import pytest
from sqlalchemy import NullPool, QueuePool, StaticPool, create_engine, event, exc, text
from sqlalchemy.ext.asyncio import AsyncSession, async_scoped_session, async_sessionmaker, create_async_engine
from sqlalchemy.orm import Session, scoped_session, sessionmaker
from sqlalchemy.pool import Pool, SingletonThreadPool

DSN = os.environ["SUITE_DSN"]
URL = "postgresql+{}" + DSN.removeprefix("postgresql")
ONE = text("SELECT 1")
kept = []

def keep(thing):
    kept.append([[[[[thing]]]]])  # deeper than anybody looks
    return thing

@pytest.fixture(scope="module")
def engine():
    engine = create_engine(URL.format("psycopg2"))
    yield engine
    engine.dispose()
"""
ASYNC = ("-oasyncio_mode=auto",)


@pytest.fixture
def run(suite):
    return lambda source, *args, **more: suite.run(source, *args, header=HEADER, **more)


WAYS = {
    "connect": ("engine.connect()", "use `with engine.connect() as conn:`"),
    "begun": ("engine.connect(); it.execute(ONE)", "use `with engine.connect() as conn:`"),
    "raw_connection": ("engine.raw_connection()", "call close() in a finally block"),
    "pool": ("engine.pool.connect()", "call close() in a finally block"),
    "session": ("Session(engine); it.execute(ONE)", "use `with Session() as session:`"),
    "sessionmaker": ("sessionmaker(engine)(); it.scalar(ONE)", "use `with Session() as session:`"),
    "scoped_session": (
        "scoped_session(sessionmaker(engine)); it.execute(ONE)",
        "use `with Session() as session:`",
    ),
    "query": ('Session(engine); it.query(text("1")).all()', "use `with Session() as session:`"),
    "session.connection": ("Session(engine); it.connection()", "use `with Session() as session:`"),
}


@pytest.mark.parametrize("way", WAYS)
def test_a_leak_is_told_at_the_users_line_whatever_took_it(run, way):
    take, cure = WAYS[way]
    result = run(
        f"""
def take(engine):
    it = {take}
    return it

@pytest.mark.parametrize("returns", [True, False])
def test_it(engine, returns, poolguard):
    it = keep(take(engine))
    assert poolguard.checked_out == 1
    if returns:
        it.close()
        assert poolguard.checked_out == 0
"""
    )
    result.assert_outcomes(passed=1, failed=1)
    assert result.blamed == ["test_it[False]"]
    (finding,) = result.findings
    assert result.sites == [f"take: it = {take}"]
    assert [place["function"] for place in finding["stack"] if place["own"]] == ["test_it", "take"]
    assert finding["pool"]["made_at"]["text"] == 'engine = create_engine(URL.format("psycopg2"))'
    assert finding["pool"]["name"] == "QueuePool(0..15)"
    assert finding["hint"].endswith(cure)


@pytest.mark.parametrize(
    ("driver", "take"),
    [
        ("asyncpg", "AsyncSession(engine); await it.execute(ONE)"),
        ("psycopg", "AsyncSession(engine); await it.execute(ONE)"),
        ("asyncpg", "await engine.connect()"),
        ("asyncpg", "async_sessionmaker(engine)(); (await it.stream(ONE))"),
        ("asyncpg", "AsyncSession(engine); await it.run_sync(lambda session: session.execute(ONE))"),
        (
            "asyncpg",
            "async_scoped_session(async_sessionmaker(engine), asyncio.current_task); await it.execute(ONE)",
        ),
    ],
)
def test_an_asyncio_leak_is_told_at_the_awaiting_line(run, driver, take):
    result = run(
        f"""
async def take(engine):
    it = {take}
    return it

@pytest.mark.parametrize("returns", [True, False])
async def test_it(returns, poolguard):
    engine = create_async_engine(URL.format("{driver}"))
    it = keep(await take(engine))
    assert poolguard.checked_out == 1
    if returns:
        await it.close()
        assert poolguard.checked_out == 0
    await engine.dispose()
""",
        *ASYNC,
    )
    result.assert_outcomes(passed=1, failed=1)
    assert result.blamed == ["test_it[False]"]
    (finding,) = result.findings
    assert finding["acquired"]["text"] == f"it = {take}"[:100]
    own = [place["function"] for place in finding["stack"] if place["own"]]
    assert own[:2] == ["test_it", "take"]
    assert finding["task"]
    assert finding["pool"]["name"] == "AsyncAdaptedQueuePool(0..15)"


@pytest.mark.parametrize("driver", ["psycopg2", "psycopg"])
def test_the_backend_and_its_transaction_are_told(run, driver):
    result = run(
        f"""
def test_it():
    engine = create_engine(URL.format("{driver}"))
    session = keep(Session(engine))
    print("pid", session.scalar(text("SELECT pg_backend_pid()")))
    engine.dispose()
"""
    )
    (finding,) = result.findings
    assert f"pid {finding['backend_pid']}\n" in result.text
    assert finding["transaction_status"] == "idle in transaction"
    assert "pg_backend_pid" in finding["server"]["statement"]


def test_the_savepoint_recipe_is_silent(run):
    run(
        """
@pytest.fixture(scope="session")
def connection():
    engine = create_engine(URL.format("psycopg2"))
    with engine.connect() as connection:
        yield connection
    engine.dispose()

@pytest.fixture
def session(connection):
    transaction = connection.begin()
    session = Session(connection, join_transaction_mode="create_savepoint")
    yield session
    session.close()
    transaction.rollback()

@pytest.mark.parametrize("number", range(3))
def test_it(session, number):
    session.execute(ONE)
    session.commit()
    session.execute(ONE)
"""
    ).assert_silent(passed=3)


def test_ordinary_use_is_silent(run):
    run(
        """
from sqlalchemy import Column, Integer, MetaData, Table, inspect

def test_sync(engine, poolguard):
    metadata = MetaData()
    table = Table("poolguard_ordinary", metadata, Column("number", Integer))
    metadata.create_all(engine)
    with engine.begin() as conn:
        conn.execute(table.insert(), [{"number": 1}, {"number": 2}])
    assert inspect(engine).has_table("poolguard_ordinary")
    with sessionmaker(engine).begin() as session:
        with session.begin_nested():
            assert len(session.query(table).yield_per(1).all()) == 2
    session = Session(engine)
    session.execute(table.select())
    session.commit()  # which returns the connection, too
    assert poolguard.checked_out == 0
    with Session(engine) as session, pytest.raises(exc.ProgrammingError):
        session.execute(text("no SQL"))
    session = scoped_session(sessionmaker(engine))
    session.execute(ONE)
    session.remove()
    metadata.drop_all(engine)

async def test_async(poolguard):
    engine = create_async_engine(URL.format("asyncpg"))
    async with engine.begin() as conn:
        await conn.run_sync(lambda conn: inspect(conn).get_table_names())
    async with async_sessionmaker(engine).begin() as session:
        await session.execute(ONE)
    async with engine.connect() as conn:
        async for row in await conn.stream(text("SELECT generate_series(1, 3)")):
            pass
    with pytest.raises(asyncio.TimeoutError):
        async with AsyncSession(engine) as session:
            await asyncio.wait_for(session.execute(text("SELECT pg_sleep(0.5)")), 0.05)
    assert poolguard.checked_out == 0
    await engine.dispose()
""",
        *ASYNC,
    ).assert_silent(passed=2)


@pytest.mark.parametrize(
    ("make", "end"),
    [
        ("Session(engine)", "close"),
        ("scoped_session(sessionmaker(engine))", "remove"),
        ("{'deep': [Session(engine)]}['deep'][0]", "close"),
    ],
)
@pytest.mark.parametrize("ends", [True, False])
def test_what_a_wider_fixtures_session_has_is_the_fixtures(run, make, end, ends):
    result = run(
        f"""
@pytest.fixture(scope="module")
def session(engine):
    session = {make}
    yield session
    if {ends}:
        session.{end}()

def test_first(session): session.execute(ONE)
def test_next(session): session.execute(ONE)
"""
    )
    if ends:
        result.assert_silent(passed=2)
    else:
        assert result.findings[0]["owner"]["name"] == "test_first"
        assert result.findings[0]["note"] == "what fixture session returned holds it"


def test_a_session_of_a_scoped_session_that_a_module_has_is_kept_on_purpose(run):
    result = run(
        """
registry = scoped_session(sessionmaker(create_engine(URL.format("psycopg2"))))

def test_it(): registry.execute(ONE)
def test_next(): registry.execute(ONE)
"""
    )
    result.assert_outcomes(passed=2)
    assert [(f["verdict"], f["note"]) for f in result.findings] == [("warned", "module test_suite holds it")]


def test_other_databases_are_watched_where_the_ini_file_says_so(run, suite):
    source = """
def test_leaks():
    engine = create_engine("sqlite://")
    keep(engine.connect())
    engine.dispose()

def test_file(tmp_path):
    engine = create_engine(f"sqlite:///{tmp_path}/data")
    keep(engine.connect())
    engine.dispose()

def test_returns():
    engine = create_engine("sqlite://")
    with engine.connect() as conn:
        conn.execute(ONE)
    engine.dispose()
"""
    run(source).assert_silent(passed=3)
    suite.setting("poolguard_dialects", "postgresql, sqlite")
    result = run(source)
    result.assert_outcomes(passed=1, failed=2)
    assert result.blamed == ["test_file", "test_leaks"]


def test_a_pool_without_an_engine_is_known_by_its_connections(run):
    result = run(
        """
import psycopg2, sqlite3

@pytest.mark.parametrize("returns", [True, False])
def test_it(returns):
    conn = keep(QueuePool(lambda: psycopg2.connect(DSN)).connect())
    if returns:
        conn.close()

def test_another():
    keep(QueuePool(lambda: sqlite3.connect(":memory:")).connect())
"""
    )
    result.assert_outcomes(passed=2, failed=1)
    assert {f["nodeid"][-14:] for f in result.findings if f["kind"] == "checked_out"} == {"test_it[False]"}


def test_what_is_closed_after_its_engine_was_disposed_of_is_no_leak(run):
    result = run(
        """
@pytest.mark.parametrize("returns", [True, False])
def test_it(returns, poolguard):
    engine = create_engine(URL.format("psycopg2"))
    conn = keep(engine.connect())
    engine.dispose()
    with engine.connect():
        assert poolguard.checked_out == 2
    if returns:
        conn.close()
    engine.dispose()
"""
    )
    result.assert_outcomes(passed=1, failed=1)
    assert result.blamed == ["test_it[False]"]


def test_the_pool_after_a_dispose_was_made_where_its_engine_was(run):
    result = run(
        """
def test_it():
    engine = create_engine(URL.format("psycopg2"), pool_size=2, max_overflow=-1)
    engine.dispose()
    engine.dispose()
    keep(engine.connect())
"""
    )
    (pool,) = {(f["pool"]["name"], f["pool"]["made_at"]["text"]) for f in result.findings}
    assert pool == (
        "QueuePool(0..)",
        'engine = create_engine(URL.format("psycopg2"), pool_size=2, max_overflow=-1)',
    )
    assert not result.findings[0]["pool"]["first_used"]


def test_detached_and_invalidated_connections_are_no_longer_the_pools(run):
    run(
        """
def test_detached(engine, poolguard):
    conn = engine.connect()
    conn.detach()
    assert poolguard.checked_out == 0
    conn.close()

def test_invalidated(engine, poolguard):
    conn = keep(engine.connect())
    conn.invalidate()
    assert poolguard.checked_out == 0

def test_used_again(engine, poolguard):
    conn = keep(engine.connect())
    conn.execute(ONE)
    conn.invalidate()
    conn.rollback()
    conn.execute(ONE)
    assert poolguard.checked_out == 1
    conn.close()

def test_raw(engine, poolguard):
    proxy = keep(engine.raw_connection())
    proxy.invalidate(soft=True)
    assert poolguard.checked_out == 1
    proxy.close()
    proxy = keep(engine.raw_connection())
    proxy.invalidate()
    assert poolguard.checked_out == 0
"""
    ).assert_silent(passed=4)


def test_a_detached_connection_that_is_not_closed_is_no_pools(run):
    result = run(
        """
def test_it(engine):
    conn = keep(engine.connect())
    conn.detach()
"""
    )
    assert [(f["kind"], f["acquired"]["text"]) for f in result.findings] == [("server_backend", "conn.detach()")]


def test_a_server_that_has_gone_is_no_leak(run):
    run(
        """
@pytest.mark.parametrize("ping", [True, False])
def test_it(ping, poolguard):
    engine = create_engine(URL.format("psycopg2"), pool_pre_ping=ping)
    with engine.connect() as conn:
        pid = conn.scalar(text("SELECT pg_backend_pid()"))
    other = create_engine(URL.format("psycopg"))
    with other.connect() as conn:
        conn.execute(text(f"SELECT pg_terminate_backend({pid}, 5000)"))
    other.dispose()
    with contextlib.nullcontext() if ping else pytest.raises(exc.OperationalError):
        with engine.connect() as conn:
            conn.execute(ONE)
    assert poolguard.checked_out == 0
    engine.dispose()
"""
    ).assert_silent(passed=2)


def test_every_holder_of_a_static_pool_is_counted(run):
    result = run(
        """
@pytest.fixture(scope="module")
def engine():
    engine = create_engine(URL.format("psycopg2"), poolclass=StaticPool)
    yield engine
    engine.dispose()

def test_any_order(engine, poolguard):
    for order in ([0, 1, 2], [2, 1, 0], [1, 0, 2]):
        conns = [engine.connect() for _ in range(3)]
        for left, number in enumerate(order):
            assert poolguard.checked_out == 3 - left
            conns[number].close()
        assert poolguard.checked_out == 0

def test_leaks(engine):
    first, second = keep(engine.connect()), keep(engine.connect())
    first.close()

def test_next(engine):
    with engine.connect() as conn:
        conn.execute(ONE)
"""
    )
    result.assert_outcomes(passed=2, failed=1)
    assert result.blamed == ["test_leaks"]
    assert len(result.findings) == 1
    assert result.findings[0]["pool"]["name"] == "StaticPool"


def test_a_singleton_thread_pool_gives_a_thread_the_same_one_again(run):
    result = run(
        """
@pytest.fixture(scope="module")
def engine():
    engine = create_engine(URL.format("psycopg2"), poolclass=SingletonThreadPool)
    yield engine
    engine.dispose()

@pytest.mark.pool(max=1)
def test_nested(engine, poolguard):
    with engine.connect(), engine.connect() as conn:
        conn.execute(ONE)
        assert poolguard.checked_out == 1
    assert poolguard.checked_out == 0

def test_threads(engine, poolguard):
    def work():
        with engine.connect() as conn:
            conn.execute(ONE)
    threads = [threading.Thread(target=work) for _ in range(3)]
    for thread in threads: thread.start()
    for thread in threads: thread.join()
    assert poolguard.checked_out == 0

def test_leaks(engine):
    keep(engine.connect())
    engine.connect().close()
"""
    )
    result.assert_outcomes(passed=2, failed=1)
    assert result.blamed == ["test_leaks"]
    assert len(result.findings) == 1


def test_each_engine_is_told_by_its_own_line(run):
    result = run(
        """
def test_it():
    one = create_engine(URL.format("psycopg2"))
    two = create_engine(URL.format("psycopg2"), poolclass=NullPool)
    keep(one.connect())
    keep(two.connect())
    one.dispose()
    two.dispose()
"""
    )
    assert [(f["pool"]["name"], f["pool"]["made_at"]["text"][:3]) for f in result.findings] == [
        ("QueuePool(0..15)", "one"),
        ("NullPool", "two"),
    ]


LAYERS = """
from psycopg_pool import ConnectionPool

@pytest.fixture(scope="module")
def inner():
    with ConnectionPool(DSN, min_size=1, max_size=2, timeout=20, {arguments}) as pool:
        yield pool
"""


def test_a_pool_on_a_pool_is_told_once(run):
    pytest.importorskip("psycopg_pool", "3.3", reason="its connections have close_returns since")
    result = run(
        LAYERS.format(arguments="close_returns=True")
        + """
@pytest.fixture(scope="module")
def engine(inner):
    engine = create_engine("postgresql+psycopg://", creator=inner.getconn, pool_size=1, max_overflow=0)
    yield engine
    engine.dispose()

def test_returns(engine):
    with Session(engine) as session:
        session.execute(ONE)

def test_leaks(engine):
    keep(engine.connect())

def test_next(engine, inner):
    with engine.connect() as conn:
        conn.execute(ONE)
    with inner.connection(), contextlib.nullcontext():
        pass
"""
    )
    result.assert_outcomes(passed=2, failed=1)
    assert result.blamed == ["test_leaks"]
    assert [(f["library"], f["kind"]) for f in result.findings] == [("sqlalchemy", "checked_out")]


def test_what_the_outer_pool_has_lost_is_the_inner_pools_leak(run):
    """Without ``close_returns``, SQLAlchemy closes what it should have returned."""
    result = run(
        LAYERS.format(arguments="")
        + """
def test_it(inner):
    engine = create_engine("postgresql+psycopg://", creator=inner.getconn)
    with engine.connect() as conn:
        conn.execute(ONE)
    engine.dispose()
"""
    )
    assert [(f["library"], f["kind"]) for f in result.findings] == [("psycopg_pool", "checked_out")]
    assert result.findings[0]["owner"]["name"] == "test_it"


def test_an_asyncio_pool_on_a_pool_is_told_once(run):
    pytest.importorskip("sqlalchemy", "2.0.16", reason="its asyncio engines have async_creator since")
    result = run(
        """
import asyncpg

@pytest.mark.parametrize("returns", [True, False])
async def test_it(returns):
    async with asyncpg.create_pool(DSN, min_size=1, max_size=2) as pool:
        engine = create_async_engine("postgresql+asyncpg://", async_creator=pool.acquire)
        conn = keep(await engine.connect())
        await conn.execute(ONE)
        if returns:
            await conn.close()
        await engine.dispose()
        pool.terminate()
""",
        *ASYNC,
    )
    result.assert_outcomes(passed=1, failed=1)
    assert [f["library"] for f in result.findings if f["kind"] == "checked_out"] == ["sqlalchemy"]
    assert result.blamed == ["test_it[False]"]


NOTE = "only the garbage collector brought it back"


@pytest.mark.parametrize(
    ("take", "verdict"),
    [
        ("engine.raw_connection()", "warned"),
        ("engine.connect()", "warned"),
        ("engine.connect(); it.execute(ONE)", "failed"),
        ("Session(engine); it.execute(ONE)", "failed"),
    ],
)
def test_what_only_the_garbage_collector_brought_back_is_told_as_that(run, take, verdict):
    """It comes back at once, and hardly harms, where there is no cycle; a transaction makes one."""
    result = run(
        f"""
@pytest.mark.parametrize("returns", [True, False])
def test_it(engine, returns, poolguard):
    it = {take}
    if returns:
        it.close()
    del it
    gc.collect()
    assert poolguard.checked_out == 0
    assert engine.pool.checkedout() == 0
"""
    )
    result.assert_outcomes(**({"passed": 1, "failed": 1} if verdict == "failed" else {"passed": 2}))
    assert result.blamed == ["test_it[False]"]
    (finding,) = result.findings
    assert (finding["verdict"], finding["note"]) == (verdict, NOTE)
    assert finding["acquired"]["text"] == f"it = {take}"
    assert "test_it" in result.text
    assert NOTE in result.text


def test_a_cycle_that_was_not_collected_yet_is_a_leak_like_others(run, processes):
    result = run(
        """
@pytest.fixture(autouse=True, scope="module")
def no_collection():
    gc.disable()
    yield
    gc.enable()

def test_it(engine):
    session = Session(engine)
    session.execute(ONE)

def test_next(engine):
    assert engine.pool.checkedout() == 0
""",
        *processes,
    )
    result.assert_outcomes(passed=1, failed=1)
    assert result.blamed == ["test_it"]
    assert result.findings[0]["note"] in ("", NOTE)  # it may be collected while the module is torn down


def test_a_fixtures_session_that_was_collected_is_told_when_the_fixture_ends(run):
    result = run(
        """
@pytest.fixture(scope="module")
def prepared(engine):
    session = Session(engine)
    session.execute(ONE)
    del session
    gc.collect()

def test_it(prepared): pass
"""
    )
    result.assert_outcomes(failed=1)
    assert [(f["owner"]["name"], f["note"]) for f in result.findings] == [("prepared", NOTE)]


def test_an_asyncio_connection_that_was_collected_fails_the_test(run):
    """SQLAlchemy can't give it back then: it closes it, and warns."""
    result = run(
        """
@pytest.mark.parametrize("returns", [True, False])
async def test_it(returns, poolguard):
    engine = create_async_engine(URL.format("asyncpg"))
    conn = await engine.connect()
    if returns:
        await conn.close()
    del conn
    gc.collect()
    assert poolguard.checked_out == 0
    await engine.dispose()
""",
        *ASYNC,
        "-Wignore",
    )
    result.assert_outcomes(passed=1, failed=1)
    assert result.blamed == ["test_it[False]"]
    assert [(f["verdict"], f["note"]) for f in result.findings] == [("failed", NOTE)]


def test_an_engine_that_was_collected_is_kept_by_nobody(run):
    run(
        """
import weakref

@pytest.mark.parametrize("disposes", [True, False])
def test_it(disposes):
    engine = create_engine(URL.format("psycopg2"))
    proxy = engine.raw_connection()
    proxies = weakref.ref(proxy)
    proxy.close()
    with Session(engine) as session:
        session.execute(ONE)
    if disposes:
        engine.dispose()
    pools, entries = weakref.ref(engine.pool), weakref.ref(engine.pool.connect()._connection_record)
    del engine, session, proxy
    gc.collect()
    assert pools() is proxies() is entries() is None
"""
    ).assert_outcomes(passed=2)


def test_a_listener_that_refuses_a_connection_leaves_nothing_out(run):
    run(
        """
def test_it(poolguard):
    engine = create_engine(URL.format("psycopg2"))
    refusals = [ValueError("no"), exc.DisconnectionError("again"), None, None]

    @event.listens_for(engine, "checkout")
    def refuse(dbapi_connection, entry, proxy):
        refusal = refusals.pop(0)
        if refusal is not None:
            raise refusal

    with pytest.raises(ValueError):
        engine.connect()
    assert poolguard.checked_out == 0
    with engine.connect():
        assert poolguard.checked_out == 1
    assert poolguard.checked_out == 0
    engine.dispose()
"""
    ).assert_silent(passed=1)


def test_marker_limits_hold_for_pools_that_never_wait(run):
    run(
        """
@pytest.mark.pool(max=2)
@pytest.mark.parametrize("arguments", [{"poolclass": NullPool}, {"poolclass": StaticPool}, {"pool_timeout": 0.1}])
def test_it(arguments):
    engine = create_engine(URL.format("psycopg2"), **arguments)
    with engine.connect(), engine.connect():
        with pytest.raises(exc.TimeoutError, match="limit of size 2 reached"):
            engine.connect()
    engine.connect().close()
    engine.dispose()

@pytest.mark.pool(max=1)
def test_another_database():
    engine = create_engine("sqlite://", poolclass=NullPool)
    with engine.connect(), engine.connect():
        pass
"""
    ).assert_silent(passed=4)


def test_a_pools_own_size_is_as_before_after_a_marker(run):
    run(
        """
@pytest.fixture(scope="module")
def engine():
    engine = create_engine(URL.format("psycopg2"), pool_size=1, max_overflow=1, pool_timeout=7)
    yield engine
    engine.dispose()

@pytest.mark.pool(max=4, timeout=0.2)
def test_bigger(engine):
    with contextlib.ExitStack() as stack:
        for _ in range(4):
            stack.enter_context(engine.connect())
        with pytest.raises(exc.TimeoutError):
            engine.connect()
        assert (engine.pool._max_overflow, engine.pool.timeout()) == (1, 7)

def test_own(engine):
    assert (engine.pool.size(), engine.pool._max_overflow, engine.pool.timeout()) == (1, 1, 7)
    assert engine.pool.checkedin() == 1
    assert engine.pool.checkedout() == 0
"""
    ).assert_silent(passed=2)


def test_hints_name_what_came_between(run):
    result = run(
        """
def connection(engine, found):
    conn = keep(engine.connect())
    if found:
        return
    conn.close()

def session(engine, found):
    session = keep(Session(engine))
    session.execute(ONE)
    if found:
        return
    session.close()

def test_connection(engine):
    connection(engine, True)

def test_session(engine):
    session(engine, True)

def rows(engine):
    with engine.connect() as conn:
        yield conn

def test_generator(engine):
    next(keep(rows(engine)))

def get(engine):
    return engine.connect()

def test_handed_on(engine):
    conn = get(engine)
    keep(conn)

def test_closed_below(engine):
    conn = engine.connect()
    keep(conn)
    conn.connection.dbapi_connection.close()
"""
    )
    hints = {f["nodeid"].rpartition("::test_")[2]: f["hint"] for f in result.findings}
    assert hints["session"].startswith("session did not reach its close() in line ")
    assert hints["generator"].startswith("rows has not left its `with …connect()` block")
    assert hints["handed_on"] == "test_handed_on never gave it back; use `with engine.connect() as conn:`"
    assert hints["closed_below"].startswith("the driver's own connection was closed, which does not return it")


def test_hints_are_the_same_where_a_marker_has_limits(run):
    result = run(
        """
pytestmark = pytest.mark.pool(max=5, timeout=5)

def test_connection(engine):
    conn = engine.connect()
    keep(conn)

def test_session(engine):
    session = keep(Session(engine))
    session.execute(ONE)

def test_raw(engine):
    conn = engine.raw_connection()
    keep(conn)
"""
    )
    assert {f["nodeid"].rpartition("::test_")[2]: f["hint"].rpartition("; ")[2] for f in result.findings} == {
        "connection": "use `with engine.connect() as conn:`",
        "session": "use `with Session() as session:`",
        "raw": "call close() in a finally block",
    }


def test_a_holder_that_comes_late_disturbs_nobody(run):
    run_ = run(
        """
@pytest.fixture(scope="module")
def engine():
    engine = create_engine(URL.format("psycopg2"), pool_size=1, max_overflow=0, pool_timeout=0.2)
    yield engine
    engine.dispose()

def test_leaks(engine):
    session = keep(Session(engine))
    session.execute(ONE)

def test_late(engine, poolguard):
    session = kept[0][0][0][0][0][0]
    session.close()
    assert engine.pool.checkedout() == 0
    session.execute(ONE)
    with pytest.raises(exc.TimeoutError):
        engine.connect()
    assert poolguard.checked_out == 1
    session.close()
    assert engine.pool.checkedout() == 0
"""
    )
    run_.assert_outcomes(passed=1, failed=1)
    assert run_.blamed == ["test_leaks"]


def test_a_loop_in_another_thread_gets_its_place_back_and_may_return_late(run):
    result = run(
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
def engine(do):
    engine = create_async_engine(URL.format("asyncpg"), pool_size=1, max_overflow=0, pool_timeout=10)
    yield engine
    do(engine.dispose())

def test_late(do, engine):
    async def work():
        conn = await engine.connect()
        kept.append(asyncio.create_task(give_back(conn)))
    async def give_back(conn):
        await asyncio.sleep(0.2)
        await conn.close()
    do(work())

def test_leaks(do, engine):
    async def work():
        keep(await engine.connect())
    do(work())

def test_next(do, engine):
    async def work():
        async with engine.connect() as conn:
            await conn.execute(ONE)
    do(work())
"""
    )
    result.assert_outcomes(passed=2, failed=1)
    assert result.blamed == ["test_leaks"]


def test_everything_is_undone_and_the_applications_listeners_stay(run):
    calls = []

    def own(*_arguments):
        calls.append(1)

    methods = [
        (pool, name)
        for pool in (sqlalchemy.Pool, sqlalchemy.pool.SingletonThreadPool)
        for name in ("connect", "_should_wrap_creator")
        if name in vars(pool)
    ]
    before = [vars(pool)[name] for pool, name in methods]
    collections = list(gc.callbacks)
    sqlalchemy.event.listen(sqlalchemy.Pool, "checkout", own)
    try:
        run(
            """
@pytest.mark.pool(max=3)
@pytest.mark.parametrize("pool", [QueuePool, StaticPool])
def test_it(pool):
    engine = create_engine(URL.format("psycopg2"), poolclass=pool)
    engine.connect().close()
    engine.dispose()
"""
        ).assert_silent(passed=2)
        assert len(calls) == 2
        assert [vars(pool)[name] for pool, name in methods] == before
        assert gc.callbacks == collections
        dispatch = sqlalchemy.QueuePool(lambda: None).dispatch
        assert list(dispatch.checkout) == [own]
        assert not any(getattr(dispatch, name) for name in ("checkin", "connect", "detach", "close"))
    finally:
        sqlalchemy.event.remove(sqlalchemy.Pool, "checkout", own)


@pytest.mark.parametrize("returns", [True, False])
def test_sqlalchemy_may_be_imported_in_the_middle_of_a_run(suite, returns):
    result = suite.run(
        f"""
import os
def test_it():
    from sqlalchemy import create_engine
    engine = create_engine("postgresql+psycopg" + os.environ["SUITE_DSN"].removeprefix("postgresql"))
    conn = engine.connect()
    if {returns}:
        conn.close()
    engine.dispose()
    globals()["kept"] = [[[[[[conn]]]]]]
""",
        header="",
        subprocess=True,
    )
    result.assert_outcomes(passed=returns, failed=not returns)
    assert result.sites == ([] if returns else ["test_it: conn = engine.connect()"])


def test_an_older_version_is_named_and_the_rest_is_watched(suite):
    suite.file("sqlalchemy/__init__.py", "__version__ = '1.4.54'")
    result = suite.run(
        """
import sqlalchemy

def test_leaks(pool):
    pool.getconn()
""",
        "-opythonpath=.",
        subprocess=True,
    )
    result.assert_outcomes(failed=1)
    assert result.blamed == ["test_leaks"]
    assert result.data["notices"] == ["sqlalchemy 1.4.54 is not watched: it takes SQLAlchemy 2.0 or newer"]


def test_many_threads_at_once_are_counted_exactly(run):
    result = run(
        """
def test_threads(engine, poolguard):
    def work():
        for _ in range(20):
            with Session(engine) as session:
                session.execute(ONE)
    threads = [threading.Thread(target=work) for _ in range(10)]
    for thread in threads: thread.start()
    for thread in threads: thread.join()
    assert poolguard.checked_out == 0

@pytest.mark.pool(max=2)
async def test_tasks(poolguard):
    engine = create_async_engine(URL.format("asyncpg"))
    async def work():
        for _ in range(5):
            async with AsyncSession(engine) as session:
                await session.execute(ONE)
    await asyncio.gather(*[work() for _ in range(10)])
    assert poolguard.checked_out == 0
    assert poolguard.peak <= 2
    await engine.dispose()
""",
        *ASYNC,
    )
    result.assert_silent(passed=2)
    assert result.data["checkouts"] == 10 * 20 + 10 * 5


def test_a_limit_is_no_part_of_the_stack_that_is_told(run):
    result = run(
        """
@pytest.mark.pool(max=2, timeout=5)
@pytest.mark.parametrize("returns", [True, False])
def test_it(engine, returns):
    conn = keep(engine.connect())
    if returns:
        conn.close()
"""
    )
    (finding,) = result.findings
    assert finding["stack"][0]["function"] == "test_it"
    assert not [place for place in finding["stack"] if "pytest_poolguard" in place["file"]]
