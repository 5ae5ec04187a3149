"""A pool that refuses a connection: what is told, where, and what the suite sees of it."""

from __future__ import annotations

import sys

import pytest

#: Whether an exception can be told more with; else there is a section, made when the fixtures are gone.
HAS_NOTES = sys.version_info >= (3, 11)
SMALL = """
@pytest.fixture
def small():
    pool = ThreadedConnectionPool(1, 1, DSN)
    yield pool
    pool.closeall()
"""


def test_the_suite_sees_the_pools_own_error(suite):
    """Also its notes: pytest.raises() matches them."""
    suite.run(
        SMALL
        + """
def test_it(small):
    conn = small.getconn()
    with pytest.raises(PoolError, match="^connection pool exhausted$") as caught:
        small.getconn()
    assert caught.value.args == ("connection pool exhausted",)
    assert not hasattr(caught.value, "__notes__")
    assert caught.value.__cause__ is None and caught.value.__context__ is None
    small.putconn(conn)
"""
    ).assert_silent(passed=1)


def test_it_is_told_once_where_the_failure_tells_it(suite, processes):
    result = suite.run(
        SMALL
        + """
def test_it(small):
    conn = small.getconn()
    try:
        small.getconn()
    finally:
        small.putconn(conn)
""",
        *processes,
    )
    result.assert_outcomes(failed=1)
    text = "1 of 1 is held by the very thread that asks for one more"
    assert result.text.count(text) == 1
    (line,) = (line for line in result.text.splitlines() if text in line)
    assert line.startswith("E  ") == HAS_NOTES


def test_an_error_that_another_one_replaces(suite):
    """The note is on what is behind it."""
    result = suite.run(
        SMALL
        + """
def test_it(small):
    conn = small.getconn()
    try:
        small.getconn()
    except PoolError as error:
        raise RuntimeError("no user") from error
    finally:
        small.putconn(conn)
"""
    )
    result.assert_outcomes(failed=1)
    assert result.text.count("1 of 1 is held by the very thread that asks for one more") == 1


def test_an_error_that_was_swallowed_and_another_failure(suite):
    result = suite.run(
        SMALL
        + """
def test_it(small):
    conn = small.getconn()
    with pytest.raises(PoolError):
        small.getconn()
    small.putconn(conn)
    assert False, "something else"
"""
    )
    result.assert_outcomes(failed=1)
    assert "poolguard: a pool refused a connection, as seen at teardown" in result.text
    assert (
        "PoolError: connection pool exhausted: who has the connections of ThreadedConnectionPool(1..1)"
        in result.text
    )


def test_a_passed_test_shows_it_on_demand(suite, processes):
    source = (
        SMALL
        + """
def test_it(small):
    conn = small.getconn()
    with pytest.raises(PoolError):
        small.getconn()
    small.putconn(conn)
"""
    )
    shown = suite.run(source, "-rP", *processes)
    shown.assert_silent(passed=1)
    assert "1 of 1 is held by the very thread that asks for one more" in shown.text
    quiet = suite.again(*processes)
    assert "1 of 1 is held" not in quiet.text
    assert "poolguard: a pool refused a connection in 1 test: test_suite.py::test_it (-rA" in quiet.text


def test_in_a_thread_that_the_test_has_started(suite):
    result = suite.run(
        SMALL
        + """
def test_it(small):
    conn = small.getconn()
    def work():
        with pytest.raises(PoolError):
            small.getconn()
    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    small.putconn(conn)
"""
    )
    result.assert_silent(passed=1)
    (refusal,) = result.data["refusals"]
    # By the main thread, which is in the test that took it, and another one asks.
    assert refusal["diagnosis"] == ["1 of 1 is in use by 1 live thread: the pool is too small for this test"]
    assert refusal["holders"][0]["now"]["text"].startswith("thread.")


def test_in_a_fixtures_set_up(suite):
    result = suite.run(
        SMALL
        + """
@pytest.fixture
def other(small):
    conn = small.getconn()
    try:
        yield small.getconn()
    finally:
        small.putconn(conn)

def test_it(other): pass
"""
    )
    result.assert_outcomes(errors=1)
    assert "1 of 1 is held by fixture other" in result.text


def test_one_that_tries_again_and_again_is_looked_at_thrice(suite):
    result = suite.run(
        SMALL
        + """
def test_it(small):
    conn = small.getconn()
    for _ in range(50):
        with pytest.raises(PoolError):
            small.getconn()
    small.putconn(conn)
"""
    )
    result.assert_silent(passed=1)
    assert len(result.data["refusals"]) == 3


def test_an_error_with_the_id_of_one_that_is_gone_has_no_note_of_that(suite):
    result = suite.run(
        SMALL
        + """
def test_it(small):
    conn = small.getconn()
    try:
        for _ in range(20):
            try:
                small.getconn()
            except PoolError:
                pass
        small.getconn()
    finally:
        small.putconn(conn)
"""
    )
    result.assert_outcomes(failed=1)
    assert not [line for line in result.text.splitlines() if line.startswith("E  ") and "poolguard" in line]
    assert "poolguard: a pool refused a connection, as seen at teardown" in result.text


def test_a_thread_that_has_ended_and_left_it_to_another(suite):
    """Not a leak, as far as anybody can tell: the test gives it back."""
    result = suite.run(
        SMALL
        + """
def test_it(small):
    box = []
    thread = threading.Thread(target=lambda: box.append(small.getconn()))
    thread.start()
    thread.join()
    with pytest.raises(PoolError):
        small.getconn()
    small.putconn(box[0])
"""
    )
    result.assert_silent(passed=1)
    (refusal,) = result.data["refusals"]
    assert [held["state"] for held in refusal["holders"]] == ["over"]
    assert "in a thread that has ended, and is not given back" in refusal["diagnosis"][0]
    assert "leak" not in refusal["diagnosis"][0]


def test_what_has_failed_for_the_refusal_is_no_leak_that_emptied_the_pool(suite):
    """The one that is out was never returned since, but it was in use when the pool had nothing left."""
    result = suite.run(
        SMALL
        + """
def test_it(small):
    conn = small.getconn()
    other = small.getconn()
    small.putconn(conn)
"""
    )
    result.assert_outcomes(failed=1)
    assert [finding["kind"] for finding in result.findings] == ["checked_out"]
    assert result.data["refusals"][0]["diagnosis"] == ["1 of 1 is held by the very thread that asks for one more"]


def test_a_pool_that_cannot_connect_waits_for_nobody(suite):
    header = """
import pytest
from psycopg_pool import ConnectionPool, PoolTimeout
"""
    result = suite.run(
        """
def test_it():
    with ConnectionPool("host=127.0.0.1 port=1", min_size=0, max_size=4, open=True) as pool:
        with pytest.raises(PoolTimeout):
            pool.getconn(timeout=0.1)
""",
        header=header,
    )
    result.assert_silent(passed=1)
    (refusal,) = result.data["refusals"]
    assert refusal["diagnosis"] == [
        "4 of 4 are not known: nobody was seen to take them, or they could not be made"
    ]
    assert refusal["holders"] == []


def test_a_task_that_is_cancelled_while_it_waits(suite):
    """On purpose, it may be: only a failure tells it."""
    header = """
import asyncio, os, asyncpg, pytest
"""
    result = suite.run(
        """
@pytest.mark.parametrize("fails", [True, False])
async def test_it(fails):
    async with asyncpg.create_pool(os.environ["SUITE_DSN"], min_size=1, max_size=1) as pool:
        async with pool.acquire():
            try:
                await asyncio.wait_for(pool.acquire(), 0.1)
            except asyncio.TimeoutError:
                if fails:
                    raise
""",
        "-oasyncio_mode=auto",
        header=header,
    )
    result.assert_outcomes(failed=1, passed=1)
    assert [refusal["nodeid"] for refusal in result.data["refusals"]] == ["test_suite.py::test_it[True]"]
    assert "1 of 1 is held by the very task that asks for one more" in result.text


@pytest.mark.skipif(not HAS_NOTES, reason="the pool is closed when it is looked at")
@pytest.mark.parametrize("server", ["session", "off"])
def test_the_last_statement_of_what_is_still_out(suite, server):
    result = suite.run(
        SMALL
        + """
def get(pool):
    conn = pool.getconn()
    with conn.cursor() as cursor:
        cursor.execute("SELECT 'secret' AS word")

def test_it(small):
    get(small)
    small.getconn()
""",
        f"--poolguard-server={server}",
    )
    result.assert_outcomes(failed=1)
    assert ("nobody has it any more, last statement: SELECT ? AS word" in result.text) == (server == "session")
    assert "1 of 1 is held by get (test_suite.py:" in result.text


def test_tasks_that_share_a_thread_and_take_one_each_from_a_pool_for_threads(suite):
    """They do not hold each other's: only the one that takes a second does so while it holds a first."""
    result = suite.run(
        """
import asyncio

async def takes(pool, number):
    taken = [pool.getconn() for _ in range(number)]
    await asyncio.sleep(0.05)
    for conn in taken:
        pool.putconn(conn)

@pytest.mark.pool(nested=False)
@pytest.mark.parametrize("number", [1, 2])
async def test_it(pool, number):
    await asyncio.gather(takes(pool, 1), takes(pool, 1), takes(pool, number))
""",
        "-oasyncio_mode=auto",
    )
    result.assert_outcomes(passed=1, failed=1)
    assert result.blamed == ["test_it[2]"]
