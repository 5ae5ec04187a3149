"""Pool classes of the project's own that have nothing left: which of their exceptions say so."""

from __future__ import annotations

# C extensions, which can't be imported anew for every inner run
import psycopg2.pool  # noqa: F401
import pytest
from test_inhouse import run  # noqa: F401 - a fixture

POOL = """
import contextlib, os
import psycopg2, psycopg2.pool

DSN = os.environ["SUITE_DSN"]


class Pool:
    def __init__(self):
        self.idle = [psycopg2.connect(DSN)]
        self.closed = False

    def checkout(self, fails=None):
        if fails is not None:
            raise fails
        if self.closed:
            raise RuntimeError("closed")
        return self.idle.pop()

    def checkin(self, conn):
        conn.rollback()
        self.idle.append(conn)

    @contextlib.contextmanager
    def connection(self, fails=None):
        conn = self.checkout(fails)
        try:
            yield conn
        finally:
            self.checkin(conn)

    def shutdown(self):
        self.closed = True


class Shelf:
    def __init__(self, pool=None):
        self.pool = pool or psycopg2.pool.ThreadedConnectionPool(1, 1, DSN)

    def checkout(self):
        return self.pool.getconn()

    def checkin(self, conn):
        self.pool.putconn(conn)
"""
NAMED = """
shop.db:Pool(acquire=checkout, release=checkin, close=shutdown)
shop.db:Shelf(acquire=checkout, release=checkin)
"""
MANAGED = "shop.db:Pool(acquire=connection, close=shutdown)"
HEADER = """
import psycopg2, psycopg2.pool, pytest
from shop.db import DSN, Pool, Shelf
"""


def test_whatever_it_raises_that_has_nothing_left(run, processes):  # noqa: F811
    result = run(
        """
def test_it():
    pool = Pool()
    conn = pool.checkout()
    try:
        pool.checkout()
    finally:
        pool.checkin(conn)
""",
        *processes,
        pool=POOL,
        named=NAMED,
        header=HEADER,
    )
    result.assert_outcomes(failed=1)
    (refusal,) = result.data["refusals"]
    assert (refusal["error"], refusal["pool"]) == ("IndexError", "Pool")
    assert refusal["diagnosis"] == ["1 of 1 is held by the very thread that asks for one more"]
    assert result.text.count("1 of 1 is held by the very thread that asks for one more") == 1


def test_a_leak_has_emptied_it(run):  # noqa: F811
    result = run(
        """
def leaks(pool):
    pool.checkout()

def test_it():
    pool = Pool()
    leaks(pool)
    pool.checkout()
""",
        pool=POOL,
        named=NAMED,
        header=HEADER,
    )
    result.assert_outcomes(failed=1)
    assert "1 of 1 is held by leaks (test_suite.py:6), never returned: a leak" in result.text


def test_a_context_manager_that_has_nothing_left(run):  # noqa: F811
    result = run(
        """
def test_it():
    pool = Pool()
    with pool.connection(), pytest.raises(IndexError), pool.connection():
        pass
""",
        pool=POOL,
        named=MANAGED,
        header=HEADER,
    )
    result.assert_silent(passed=1)
    assert [refusal["error"] for refusal in result.data["refusals"]] == ["IndexError"]


@pytest.mark.parametrize(
    "what",
    [
        "with raises(RuntimeError): pool.checkout(wrapped())",
        "with raises(ConnectionRefusedError): pool.checkout(ConnectionRefusedError())",
        "with raises(TypeError): pool.checkout(fail=1)",
        "with raises(AssertionError): pool.checkout(AssertionError())",
        "with raises(psycopg2.OperationalError): pool.checkout(psycopg2.OperationalError('no server'))",
        "pool.shutdown()\n    with raises(RuntimeError): pool.checkout()",
        "pool.checkin(conn); conn = None\n    with raises(LookupError): pool.checkout(LookupError())",
    ],
    ids=["behind it", "refused", "arguments", "mistake", "database", "closed", "none out"],
)
def test_what_is_no_evidence_that_it_has_nothing_left(run, what):  # noqa: F811
    result = run(
        f"""
from pytest import raises

def wrapped():
    error = RuntimeError("no connection")
    error.__cause__ = psycopg2.OperationalError("no server")
    return error

def test_it():
    pool = Pool()
    conn = pool.checkout()
    {what}
    if conn is not None:
        pool.checkin(conn)
""",
        pool=POOL,
        named=NAMED,
        header=HEADER,
    )
    result.assert_silent(passed=1)
    assert result.data["refusals"] == []


def test_one_of_its_own_lies_idle(run):  # noqa: F811
    result = run(
        """
class Two(Pool):
    def __init__(self):
        super().__init__()
        self.idle.append(psycopg2.connect(DSN))

def test_it():
    pool = Two()
    conn = pool.checkout()
    with pytest.raises(LookupError):
        pool.checkout(LookupError("another reason"))
    pool.checkin(conn)
""",
        pool=POOL,
        named=NAMED,
        header=HEADER,
    )
    result.assert_silent(passed=1)
    assert result.data["refusals"] == []


def test_a_pool_on_a_pool_is_told_once_with_its_own_holders(run):  # noqa: F811
    result = run(
        """
def test_it():
    shelf = Shelf()
    conn = shelf.checkout()
    with pytest.raises(psycopg2.pool.PoolError):
        shelf.checkout()
    shelf.checkin(conn)

def test_others_have_what_is_below():
    pool = psycopg2.pool.ThreadedConnectionPool(1, 1, DSN)
    shelf, conn = Shelf(pool), pool.getconn()
    with pytest.raises(psycopg2.pool.PoolError):
        shelf.checkout()
    pool.putconn(conn)
    pool.closeall()
""",
        pool=POOL,
        named=NAMED,
        header=HEADER,
    )
    result.assert_silent(passed=2)
    assert [refusal["pool"] for refusal in result.data["refusals"]] == ["Shelf", "ThreadedConnectionPool(1..1)"]
    assert {tuple(refusal["diagnosis"]) for refusal in result.data["refusals"]} == {
        ("1 of 1 is held by the very thread that asks for one more",)
    }
