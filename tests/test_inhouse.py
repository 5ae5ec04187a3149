"""Pool classes of the project's own, named in the ini file."""

from __future__ import annotations

# C extensions, which can't be imported anew for every inner run
import psycopg  # noqa: F401
import psycopg_pool  # noqa: F401
import pytest
from conftest import INI

POOL = """
import contextlib, os, queue
import psycopg2, psycopg2.pool

DSN = os.environ["SUITE_DSN"]


class Pool:
    def __init__(self, size=3):
        self.idle = queue.LifoQueue()
        for _ in range(size):
            self.idle.put(psycopg2.connect(DSN))

    def checkout(self, timeout=5):
        return self.idle.get(timeout=timeout)

    def checkin(self, conn):
        conn.rollback()
        self.idle.put(conn)

    @contextlib.contextmanager
    def connection(self):
        conn = self.checkout()
        try:
            yield conn
        finally:
            self.checkin(conn)

    def shutdown(self):
        while not self.idle.empty():
            self.idle.get().close()
"""

HEADER = """
import asyncio, contextlib, gc, os, sys, threading, time
import pytest
from shop.db import Pool

@pytest.fixture(scope="module")
def pool():
    pool = Pool()
    yield pool
    pool.shutdown()
"""
NAMED = "shop.db:Pool(acquire=checkout, release=checkin, close=shutdown)"


@pytest.fixture
def run(suite):
    """Run a suite that has a module ``shop.db`` with a class ``Pool``, and names it."""

    def run(source, *args, pool=POOL, named=NAMED, header=HEADER):
        suite.file("shop/__init__.py", "")
        suite.file("shop/db.py", pool)
        lines = "".join(f"    {line}\n" for line in named.splitlines())
        suite.pytester.makeini(f"{INI}pythonpath = .\npoolguard_pools =\n{lines}")
        return suite.run(source, *args, header=header)

    return run


def test_what_is_given_back_is_silent_and_what_is_not_is_a_leak(run, processes):
    result = run(
        """
kept = []

@pytest.mark.parametrize("returns", [True, False])
def test_it(pool, poolguard, returns):
    conn = pool.checkout()
    kept.append([[[[[conn]]]]])  # deeper than anybody looks
    assert poolguard.checked_out == 1
    conn.cursor().execute("SELECT 1")
    if returns:
        pool.checkin(conn)
        assert poolguard.checked_out == 0
""",
        *processes,
    )
    result.assert_outcomes(passed=1, failed=1)
    assert result.blamed == ["test_it[False]"]
    assert result.sites == ["test_it: conn = pool.checkout()"]
    (finding,) = result.findings
    assert finding["library"] == "shop.db:Pool"
    assert finding["pool"]["class"] == "Pool"
    assert finding["pool"]["made_at"]["text"] == "pool = Pool()"
    assert finding["transaction_status"] == "idle in transaction"
    assert finding["hint"] == "test_it never gave it back; call checkin() in a finally block"
    assert [place["function"] for place in finding["stack"] if place["own"]] == ["test_it"]
    assert "shop.db:Pool" in result.data["libraries"]


def test_a_leaked_connection_is_given_back_for_its_holder(run):
    run(
        """
kept = []

@pytest.mark.pool(leaks=1, reason="on purpose")
def test_leaks(pool):
    kept.append([[[[[pool.checkout()]]]]])

def test_next(pool):
    taken = [pool.checkout() for _ in range(3)]
    for conn in taken:
        pool.checkin(conn)
    pool.checkin(kept[0][0][0][0][0][0])  # late: the pool has it already
    assert pool.idle.qsize() == 3
"""
    ).assert_outcomes(passed=2)


def test_a_call_of_the_pools_own_is_not_the_site(run):
    result = run(
        """
stack = contextlib.ExitStack()

def test_leaks(pool):
    stack.enter_context(pool.connection())

def test_returns(pool):
    with pool.connection():
        pass
"""
    )
    result.assert_outcomes(passed=1, failed=1)
    assert result.sites == ["test_leaks: stack.enter_context(pool.connection())"]
