"""What asyncpg has left open on the server, and how the server is asked while a loop runs."""

from __future__ import annotations

import asyncio
import os
import time

# C extensions, which can't be imported anew for every inner run
import asyncpg  # noqa: F401
import psycopg
import pytest

from pytest_poolguard.books.clock import Clock
from pytest_poolguard.books.ledger import Ledger
from pytest_poolguard.books.records import Owner
from pytest_poolguard.drivers.interface import Watch
from pytest_poolguard.drivers.looking import first_look
from pytest_poolguard.server import watch as watch_module

HEADER = """
import asyncio, contextlib, os, threading, time
import asyncpg, psycopg, pytest

#: The threads that ask; others may be left by inner runs, in calls that never end.
OURS = ("poolguard-look", "poolguard-asyncpg")

DSN = os.environ["SUITE_DSN"]
kept = []
"""
ASYNC = ("-oasyncio_mode=auto",)
LEFT = """
async def test_opens():
    conn = await asyncpg.connect(DSN, server_settings={"application_name": "the shop"})
    await conn.fetch("SELECT 'the secret', 4711")
    kept.append(conn)
    CLOSE

def test_other(): pass
"""


@pytest.fixture
def run(suite):
    # Only what the server says, not that a connection was not closed.
    args = (*ASYNC, "--poolguard-connections=off")
    return lambda source, *more, **how: suite.run(source, *args, *more, header=HEADER, **how)


def left(run):
    """Who opened what is left: (test, kind of owner, its name, verdict)."""
    assert run.data["faults"] == []
    return [
        (f["nodeid"].rpartition("::")[2], f["owner"]["kind"], f["owner"]["name"], f["verdict"])
        for f in run.findings
        if f["kind"] == "server_backend"
    ]


def test_a_connection_left_open_fails_the_run(run, processes):
    result = run(LEFT.replace("CLOSE", ""), *processes)
    assert left(result) == [("test_opens", "test", "test_opens", "failed")]
    assert result.data["notices"] == []
    assert result.result.ret == 1
    result.assert_outcomes(passed=2, errors=1)


def test_it_is_silent_once_it_is_closed(run, processes):
    run(LEFT.replace("CLOSE", "await conn.close()"), *processes).assert_silent(passed=2)


def test_it_is_silent_once_it_is_terminated(run):
    run(LEFT.replace("CLOSE", "conn.terminate()")).assert_silent(passed=2)


def test_the_section_tells_the_backend_and_who_opened_it_where(run, monkeypatch):
    monkeypatch.setenv("PID", "")
    result = run(LEFT.replace("CLOSE", "os.environ['PID'] = str(conn.get_server_pid())"))
    result.result.stdout.fnmatch_lines(
        [
            "=*= poolguard: 1 connection left on the server, 1 site, 1 test =*=",
            "test_suite.py::test_opens",
            "1 connection that this run opened is still open on the server",
            "  opened in the test body*",
            f"  backend pid {os.environ['PID']}, idle for *s, connected for *s, application the shop, *",
            "  > test_suite.py:*  test_opens  conn = await asyncpg.connect(DSN, server_settings=*",
        ]
    )
    assert "last statement: SELECT ?, ?" in result.text
    assert "the secret" not in result.text
    assert "4711" not in result.text


def test_a_leak_of_a_pool_has_its_last_statement(run):
    result = run(
        """
async def test_leaks():
    pool = await asyncpg.create_pool(DSN, min_size=1, max_size=1)
    conn = await pool.acquire()
    await conn.execute("SELECT 7")
    kept.append([[[[[pool, conn]]]]])  # deeper than anybody looks
"""
    )
    (finding,) = [f for f in result.findings if f["kind"] == "checked_out"]
    assert finding["server"]["statement"] == "SELECT ?"
    assert left(result) == []


def test_idle_connections_of_a_pool_that_is_open_fail_nothing(run):
    result = run(
        """
async def test_it():
    pool = await asyncpg.create_pool(DSN, min_size=2, max_size=2)
    async with pool.acquire(): pass
    kept.append(pool)
""",
        "--poolguard-open-pools=off",
    )
    result.assert_silent(passed=1)


@pytest.mark.parametrize("end", ["await pool.close()", "pool.terminate()"])
def test_a_pool_that_is_closed_leaves_nothing(run, end):
    run(
        f"""
async def test_it():
    pool = await asyncpg.create_pool(DSN, min_size=2, max_size=2)
    kept.append(pool)
    {end}
"""
    ).assert_silent(passed=1)


def test_a_connection_of_a_loop_that_is_gone_is_left(run):
    result = run("def test_it(): kept.append(asyncio.run(asyncpg.connect(DSN)))\n")
    assert left(result) == [("test_it", "test", "test_it", "failed")]


def test_what_a_fixture_keeps_for_the_session_is_silent(run, processes):
    run(
        """
import pytest_asyncio

@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def conn():
    return await asyncpg.connect(DSN)

@pytest.mark.asyncio(loop_scope="session")
async def test_it(conn): await conn.fetch("SELECT 1")
""",
        *processes,
    ).assert_silent(passed=1)


@pytest.mark.parametrize(
    "connect",
    ["asyncpg.connect(DSN)", "asyncpg.connect(DSN, password=lambda: 'unused')", "SOCKET"],
    ids=["dsn", "callable", "keywords"],
)
def test_however_it_was_opened_it_is_found(run, connect, dsn):
    known = psycopg.conninfo.conninfo_to_dict(dsn)
    keywords = f"host={known['host']!r}, user={known['user']!r}, database={known['dbname']!r}"
    connect = connect.replace("SOCKET", f"asyncpg.connect({keywords})")
    result = run(f"async def test_opens(): kept.append(await {connect})\n")
    assert left(result) == [("test_opens", "test", "test_opens", "failed")]
    assert result.data["notices"] == []


def test_over_tcp_it_is_found_and_asked_once_before_and_once_after(run, relay, monkeypatch):
    monkeypatch.setenv("SUITE_DSN", uri_of(relay))
    result = run("async def test_opens():\n    for _ in range(3): kept.append(await asyncpg.connect(DSN))\n")
    assert left(result) == [("test_opens", "test", "test_opens", "failed")] * 3
    assert relay.connections == 5


def uri_of(relay):
    known = psycopg.conninfo.conninfo_to_dict(relay.dsn)
    return f"postgresql://{known['user']}@{known['host']}:{known['port']}/{known['dbname']}?sslmode=disable"


def test_off_never_asks(run, relay, monkeypatch):
    monkeypatch.setenv("SUITE_DSN", uri_of(relay))
    run("async def test_opens(): kept.append(await asyncpg.connect(DSN))\n", "--poolguard-server=off")
    assert relay.connections == 1


# while a loop runs

CONNECT = [
    ("asyncpg.connect", "asyncpg.connect(DSN)", "asyncpg.connection.Connection"),
    ("psycopg.AsyncConnection.connect", "psycopg.AsyncConnection.connect(DSN)", "psycopg.AsyncConnection"),
]
#: The threads that ask; others may be left by inner runs, in calls that never end.
OURS = ("poolguard-look", "poolguard-asyncpg")

each = pytest.mark.parametrize(("connect", "call", "cls"), CONNECT, ids=["asyncpg", "psycopg"])


@each
def test_every_connection_that_is_left_is_told_not_only_the_first(run, connect, call, cls, processes):
    source = f"async def test_it():\n    for _ in range(3): kept.append(await {call})\n"
    assert left(run(source, *processes)) == [("test_it", "test", "test_it", "failed")] * 3


@each
def test_one_that_was_left_long_ago_is_told(run, connect, call, cls, monkeypatch):
    """Of many connections to a server only the latest are remembered."""
    monkeypatch.setattr(watch_module, "REMEMBERED", 2)
    source = f"""
async def test_it():
    kept.append(await {call})
    for _ in range(4):
        conn = await {call}
        await conn.close()
"""
    assert left(run(source)) == [("test_it", "test", "test_it", "failed")]


@each
def test_nobody_meets_our_look(run, connect, call, cls):
    """The task waits for it: what it counts next are its own."""
    run(
        f"""
async def test_it():
    conn = await {call}
    cursor = await conn.execute("SELECT 1")
    with psycopg.connect(DSN) as other:
        ours = "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'pytest-poolguard'"
        assert other.execute(ours).fetchone() == (0,)
    await conn.close()
    await asyncio.sleep(0.05)
    assert not [thread for thread in threading.enumerate() if thread.name in {OURS!r}]
"""
    ).assert_silent(passed=1)


@each
def test_the_loop_goes_on_and_the_task_after_half_a_second(run, relay, monkeypatch, connect, call, cls):
    """Of a server that accepts our look and never answers it."""
    monkeypatch.setenv("SUITE_DSN", uri_of(relay))
    monkeypatch.setattr(watch_module, "PATIENCE", 1.5)
    relay.silent_after = 1
    result = run(
        f"""
async def test_it():
    ticks = 0
    async def tick():
        nonlocal ticks
        while True:
            ticks += 1
            await asyncio.sleep(0.01)
    ticking = asyncio.create_task(tick())
    began = time.monotonic()
    conn = await {call}
    assert 0.4 < time.monotonic() - began < 1.2
    assert ticks > 15
    ticking.cancel()
    await conn.close()
    await asyncio.sleep(1.5)
"""
    )
    result.assert_silent(passed=1)
    (notice,) = result.data["notices"]
    assert "no answer within 1.5 s" in notice


@each
def test_who_is_cancelled_in_the_middle_of_it_has_no_connection(run, relay, monkeypatch, connect, call, cls):
    monkeypatch.setenv("SUITE_DSN", uri_of(relay))
    monkeypatch.setattr(watch_module, "PATIENCE", 1.0)
    relay.silent_after = 1
    result = run(
        f"""
import gc

def open_now():
    gc.collect()
    return {{id(c) for c in gc.get_objects() if isinstance(c, {cls}) and not CLOSED}}

async def test_it():
    before = open_now()  # those of other suites
    with pytest.raises(asyncio.TimeoutError):
        await asyncio.wait_for({call}, 0.2)
    await asyncio.sleep(0.05)
    assert open_now() <= before
""".replace("CLOSED", "c.is_closed()" if connect == "asyncpg.connect" else "c.closed")
    )
    result.assert_silent(passed=1)


def test_many_that_connect_at_once_are_all_found(run):
    result = run(
        "async def test_it(): kept.extend(await asyncio.gather(*[asyncpg.connect(DSN) for _ in range(5)]))\n"
    )
    assert left(result) == [("test_it", "test", "test_it", "failed")] * 5
    assert result.data["notices"] == []


def test_an_exception_in_the_look_is_a_fault_of_ours_and_the_task_goes_on():
    faults = []

    def breaks(opening, asker):
        raise ZeroDivisionError

    def note(doing, error):
        faults.append((doing, error))

    ledger = Ledger(Clock(), Owner("session", "session", phase=""))
    watch = Watch(ledger, note, breaks, is_first=lambda _: True)
    began = time.monotonic()
    asyncio.run(first_look(watch, None, None, None))
    assert time.monotonic() - began < 0.4
    assert [type(error) for _, error in faults] == [ZeroDivisionError]


def test_a_mock_of_asyncpg_is_not_asked_about(run):
    run(
        """
from unittest import mock

async def test_it():
    with mock.patch("asyncpg.connect", mock.AsyncMock()):
        kept.append(await asyncpg.connect(DSN))
"""
    ).assert_silent(passed=1)


def test_our_own_asking_is_no_connection_of_the_suite(run):
    """asyncpg is the one that asks here: its connections are all on record."""
    run(
        """
from pytest_poolguard.plugin import STANDBY

async def test_it(request):
    conn = await asyncpg.connect(DSN)
    guard = request.config.stash[STANDBY].guard()
    assert [opening.ref() for opening in guard.ledger.openings()] == [conn]
    await conn.close()
"""
    ).assert_silent(passed=1)
