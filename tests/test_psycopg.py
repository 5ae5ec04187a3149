"""psycopg's connections, as they are on record. Its pools are another library: see ``test_psycopg_pool``."""

from __future__ import annotations

import inspect

# C extensions, which can't be imported anew for every inner run
import psycopg
import psycopg_pool  # noqa: F401
import pytest

from pytest_poolguard.server import watch as watch_module

HEADER = """
import asyncio, gc, os, threading, weakref
import psycopg, pytest
from psycopg import AsyncConnection, Connection, connect
from pytest_poolguard.plugin import STANDBY
from psycopg_pool import AsyncConnectionPool, AsyncNullConnectionPool, ConnectionPool, NullConnectionPool

DSN = os.environ["SUITE_DSN"]

@pytest.fixture
def guard(request):
    return request.config.stash[STANDBY].guard()

@pytest.fixture
def site(guard):
    def site(connection):
        place = guard.describe._tree.site(guard.ledger.opening(connection).opened)
        return f"{place.function}: {place.text}"
    return site
"""
ASYNC = ("-oasyncio_mode=auto",)


@pytest.fixture
def run(suite):
    # Only what the server says, not that a connection was not closed.
    args = (*ASYNC, "--poolguard-connections=off")
    return lambda source, *more: suite.run(source, *args, *more, header=HEADER)


def test_every_way_to_connect_is_on_record(run):
    run(
        """
class Mine(Connection):
    pass

@pytest.mark.parametrize("way", [
    lambda: psycopg.connect(DSN),
    lambda: connect(DSN),
    lambda: Connection.connect(DSN, autocommit=True),
    lambda: Mine.connect(DSN),
])
def test_it(way, guard, site):
    conn = way()
    opening = guard.ledger.opening(conn)
    assert site(conn) == "<lambda>: " + site(conn).partition(": ")[2]
    assert opening.backend_pid == conn.info.backend_pid
    assert opening.driver.library == "psycopg"
    assert (opening.owner.kind, opening.owner.name, opening.phase) == ("test", guard.owners.test.name, "body")
    assert opening.thread is None
    assert opening.pool is None
    assert not opening.is_closed()
    conn.close()
    assert opening.is_closed()

async def test_async(guard, site):
    class Other(AsyncConnection):
        pass
    for cls in (AsyncConnection, Other):
        conn = await cls.connect(DSN)
        opening = guard.ledger.opening(conn)
        assert site(conn) == "test_async: conn = await cls.connect(DSN)"
        assert opening.backend_pid == conn.info.backend_pid
        await conn.close()
        assert opening.is_closed()
"""
    ).assert_silent(passed=5)


def test_the_thread_and_the_owner_are_those_that_connected(run):
    run(
        """
@pytest.fixture
def conn():
    with psycopg.connect(DSN) as conn:
        yield conn

def test_it(guard, site, conn):
    opening = guard.ledger.opening(conn)
    assert (opening.owner.kind, opening.owner.name, opening.phase) == ("fixture", "conn", "setup")
    found = []
    def work():
        found.append(connect(DSN))
    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert guard.ledger.opening(found[0]).thread is thread
    assert site(found[0]) == "work: found.append(connect(DSN))"
    found[0].close()
"""
    ).assert_silent(passed=1)


@pytest.mark.parametrize("cls", ["ConnectionPool", "NullConnectionPool"])
def test_a_pools_connection_is_the_pools(run, cls):
    run(
        f"""
def test_it(guard, site):
    during = []
    def configure(conn):
        during.append(guard.ledger.opening(conn).pool)
    with {cls}(DSN, min_size=0, max_size=2, configure=configure, open=False) as pool:
        record = guard.ledger.pool(pool)
        with pool.connection() as conn:
            pooled = guard.ledger.opening(conn)
            assert pooled.pool is record
            assert pooled.backend_pid == conn.info.backend_pid
            assert (site(conn) == "test_it: with pool.connection() as conn:") == ({cls} is NullConnectionPool)
            assert "{cls}" in site(conn) or {cls} is NullConnectionPool
            with psycopg.connect(DSN) as raw:
                assert guard.ledger.opening(raw).pool is None
        assert during == [record]
"""
    ).assert_silent(passed=1)


@pytest.mark.parametrize("cls", ["AsyncConnectionPool", "AsyncNullConnectionPool"])
def test_an_async_pools_connection_is_the_pools(run, cls):
    run(
        f"""
async def test_it(guard, site):
    async with {cls}(DSN, min_size=0, max_size=2, open=False) as pool:
        record = guard.ledger.pool(pool)
        async with pool.connection() as conn:
            pooled = guard.ledger.opening(conn)
            assert pooled.pool is record
            assert (site(conn) == "test_it: async with pool.connection() as conn:") == ("Null" in "{cls}")
            assert "{cls}" in site(conn) or "Null" in "{cls}"
            async with await AsyncConnection.connect(DSN) as raw:
                assert guard.ledger.opening(raw).pool is None
"""
    ).assert_silent(passed=1)


def test_what_a_worker_opens_belongs_to_the_owner_of_its_pool(run):
    run(
        """
@pytest.fixture(scope="module")
def pool():
    with ConnectionPool(DSN, min_size=0, max_size=3, open=True) as pool:
        yield pool

def test_it(pool, guard):
    with pool.connection() as conn:
        opening = guard.ledger.opening(conn)
        assert (opening.owner.kind, opening.owner.name) == ("fixture", "pool")
        assert opening.thread in pool._workers
"""
    ).assert_silent(passed=1)


def test_a_connection_on_record_is_kept_by_nobody(run):
    run(
        """
def test_it(guard):
    conn = psycopg.connect(DSN)
    conn.close()
    there = weakref.ref(conn)
    opening = guard.ledger.opening(conn)
    del conn
    gc.collect()
    assert there() is None
    assert opening.is_closed()
"""
    ).assert_silent(passed=1)


def test_a_connection_that_could_not_be_made_is_not_on_record(run):
    run(
        """
def test_it(guard):
    before = len(guard.ledger.openings())
    with pytest.raises(psycopg.OperationalError):
        psycopg.connect(DSN, dbname="no_such_database")
    assert len(guard.ledger.openings()) == before
"""
    ).assert_silent(passed=1)


# the server's side


def test_a_leak_of_a_pool_has_its_last_statement(run):
    result = run(
        """
kept = []

def test_leaks():
    with ConnectionPool(DSN, min_size=1, open=False) as pool:
        conn = pool.getconn()
        conn.execute("SELECT 4711")
        kept.append([[[[[conn]]]]])
"""
    )
    result.assert_outcomes(failed=1)
    assert result.findings[0]["server"]["statement"] == "SELECT ?"
    assert result.findings[0]["transaction_status"] == "idle in transaction"


@pytest.mark.parametrize("closes", [True, False])
def test_a_connection_left_on_the_server_is_named_by_its_line(run, processes, closes):
    result = run(
        f"""
kept = []

def test_opens():
    conn = psycopg.connect(DSN)
    conn.execute("SELECT 1")
    kept.append(conn)
    if {closes}:
        conn.close()

def test_other(): pass
""",
        *processes,
    )
    if closes:
        result.assert_silent(passed=2)
    else:
        assert result.result.ret == 1
        (finding,) = [f for f in result.findings if f["kind"] == "server_backend"]
        assert finding["library"] == "psycopg"
        assert finding["acquired"]["text"] == "conn = psycopg.connect(DSN)"


def test_our_look_at_the_server_is_no_connection_of_the_suites(run):
    run(
        """
def test_it(guard):
    with psycopg.connect(DSN, autocommit=True) as conn:
        names = conn.execute("SELECT application_name FROM pg_stat_activity").fetchall()
    assert ("pytest-poolguard",) not in names
    assert len(guard.ledger.openings()) == 1
"""
    ).assert_silent(passed=1)


def test_a_server_that_no_longer_answers_is_one_line_and_no_hang(run, relay, monkeypatch):
    monkeypatch.setattr(watch_module, "PATIENCE", 0.5)
    monkeypatch.setenv("SUITE_DSN", relay.dsn)
    relay.silent_after = 1
    result = run(
        """
kept = []

def test_opens():
    kept.append(psycopg.connect(DSN))
"""
    )
    result.assert_silent(passed=1)
    (notice,) = result.data["notices"]
    assert "no answer within 0.5 s" in notice


@pytest.mark.parametrize(
    "given", ["host=nowhere.invalid dbname=postgres", "postgresql://me@hunter2:secret/postgres"]
)
def test_a_dsn_that_leads_nowhere_is_one_line_without_the_password(run, given):
    result = run(
        """
kept = []

def test_opens():
    kept.append(psycopg.connect(DSN))
""",
        f"--poolguard-dsn={given}",
    )
    result.assert_silent(passed=1)
    (notice,) = result.data["notices"]
    assert "the server of poolguard_dsn could not be read" in notice
    assert "secret" not in notice


def test_everything_is_undone_and_looks_as_before(run):
    before = psycopg.Connection.__mro__[1].__dict__["__init__"]
    signature = str(inspect.signature(before))
    run(
        f"""
import inspect

def test_it():
    init = Connection.__mro__[1].__dict__["__init__"]
    assert str(inspect.signature(init)) == {signature!r}
    assert init.__wrapped__
"""
    ).assert_silent(passed=1)
    assert psycopg.Connection.__mro__[1].__dict__["__init__"] is before
