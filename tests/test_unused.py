"""What was there and of no use: libraries and pools without a checkout, markers on tests that take nothing."""

from __future__ import annotations

import re

# C extensions, which can't be imported anew for every inner run
import asyncpg  # noqa: F401
import psycopg_pool  # noqa: F401
import pytest
import sqlalchemy  # noqa: F401

from pytest_poolguard.pools_seen import PoolRow
from pytest_poolguard.reports.summary import write
from pytest_poolguard.tally import Tally

NOTHING = "poolguard: no connection was taken from a pool in this run"
MARKED = "a pool marker and take"


def marked(run) -> list[str]:
    return [line for line in run.text.splitlines() if MARKED in line]


def test_pools_without_a_checkout_are_told(suite, processes):
    run = suite.run("def test_it(pool): assert not pool.closed\n", *processes)
    run.assert_silent(passed=1)
    assert re.search(rf"^{NOTHING} \(1 pool of .*psycopg2 2\.[\d.]+.* was seen\)$", run.text, re.MULTILINE)
    run = suite.run("def test_it(pool): pool.putconn(pool.getconn())\n", *processes)
    assert NOTHING not in run.text


def test_v_tells_the_library_that_saw_no_checkout(suite):
    run = suite.run(
        """
import psycopg, sqlalchemy
def test_it(pool): pool.putconn(pool.getconn())
""",
        "-v",
    )
    assert re.search(
        r"^poolguard: 1 connection taken from 1 pools of .* \(none of .*sqlalchemy 2\.[\w.]+.*\)$",
        run.text,
        re.MULTILINE,
    )


UNUSED = {
    "psycopg2": "unused = SimpleConnectionPool(1, 2, DSN)",
    "psycopg_pool": "unused = psycopg_pool.ConnectionPool(DSN, open=False)",
    "asyncpg": "asyncio.run(opens_and_closes())",
}
USES = {
    "psycopg2": "pool = SimpleConnectionPool(1, 2, DSN)\n    pool.putconn(pool.getconn())",
    "sqlalchemy": "sqlalchemy.create_engine('postgresql+psycopg2://', creator=connect).connect().close()",
}


@pytest.mark.parametrize("library", UNUSED)
def test_the_pools_of_a_library_that_saw_no_checkout_are_told(suite, library):
    """Where another's did: they may be used in a way that is not watched. An engine begins with its first use."""
    source = f"""
import asyncio, asyncpg, psycopg_pool, sqlalchemy

def connect(): return psycopg2.connect(DSN)

async def opens_and_closes():
    async with asyncpg.create_pool(DSN, min_size=1): pass

def test_it():
    {UNUSED[library]}
    {USES["sqlalchemy" if library == "psycopg2" else "psycopg2"]}
"""
    run = suite.run(source, "--poolguard-open-pools=off")
    assert run.findings == []
    assert re.search(rf"^poolguard: no connection was taken from 1 pool of {library} \d", run.text, re.MULTILINE)
    run = suite.run(source.replace(UNUSED[library], ""), "--poolguard-open-pools=off")
    assert "no connection was taken" not in run.text


def test_a_marker_on_tests_that_take_nothing_is_told(suite, processes):
    run = suite.run(
        """
@pytest.mark.pool(max=2)
def test_idle(): pass

@pytest.mark.pool(hold=1)
@pytest.mark.parametrize("n", range(3))
def test_all_idle(n): pass

@pytest.mark.pool(max=2)
def test_takes(pool): pool.putconn(pool.getconn())
""",
        *processes,
    )
    run.assert_silent(passed=5)
    names = "test_suite.py::test_idle, test_suite.py::test_all_idle"
    (line,) = marked(run)
    assert line.startswith("poolguard: 2 tests have a pool marker and take no connection: ")
    assert set(line.rpartition("connection: ")[2].split(", ")) == set(names.split(", "))
    assert run.data["markers"] == {
        "test_suite.py::test_idle": False,
        "test_suite.py::test_all_idle": False,
        "test_suite.py::test_takes": True,
    }


def test_a_marker_that_may_be_needed_is_not_told(suite, processes):
    run = suite.run(
        """
pytestmark = pytest.mark.pool(timeout=5)
other = ThreadedConnectionPool(1, 3, DSN)

@pytest.fixture(scope="module")
def held():
    conn = other.getconn()
    yield conn
    other.putconn(conn)

def test_of_the_module(pool): pool.putconn(pool.getconn())

@pytest.mark.pool(max=2)
class TestClass:
    def test_of_a_class(self): pass

@pytest.mark.pool(max=2)
@pytest.mark.parametrize("n", range(4))
def test_one_of_them(pool, n):
    if n == 3: pool.putconn(pool.getconn())

@pytest.mark.pool(max=2)
@pytest.mark.parametrize("n", range(2))
def test_skipped(n):
    if n: pytest.skip("later")

@pytest.mark.pool(max=2)
@pytest.mark.skip
def test_never(): pass

@pytest.mark.pool(max=2)
def test_fails(): assert 0

@pytest.mark.pool(max=2)
@pytest.mark.xfail
def test_xfails(): assert 0

@pytest.mark.pool(max=2)
def test_uses_a_wider_one(held): held.cursor().execute("SELECT 1")

@pytest.fixture
def taken(pool):
    conn = pool.getconn()
    yield
    pool.putconn(conn)

@pytest.mark.pool(max=2)
def test_with_a_fixture(taken): pass

@pytest.mark.pool(max=2)
def test_in_a_thread(pool):
    thread = threading.Thread(target=lambda: pool.putconn(pool.getconn()))
    thread.start()
    thread.join()
""",
        *processes,
    )
    run.assert_outcomes(passed=10, failed=1, skipped=2, xfailed=1)
    assert marked(run) == []
    assert set(run.data["markers"].values()) == {True}


@pytest.mark.parametrize("source", ["def test_other(pool): pass\n", ""])
def test_where_nothing_was_taken_at_all_that_is_enough(suite, source):
    run = suite.run(f"{source}@pytest.mark.pool(max=2)\ndef test_idle(): pass\n")
    assert marked(run) == []
    assert ("no connection was taken" in run.text) or ("no connection pool was seen" in run.text)


class Terminal(list):
    def write_sep(self, sep, title, **markup):
        self.append(title)

    def write_line(self, line, **markup):
        self.append(line)


def test_of_many_markers_three_are_named_and_all_with_v():
    tally = Tally(patched=["p 1"], pools=1, taken=1, pool_rows=[PoolRow("p", "Pool", checkouts=1)])
    for n in range(5):
        tally.mark(f"t.py::test_{n}", was_needed=False)
    for verbosity, end in ((0, "t.py::test_2 and 2 more"), (1, "t.py::test_3, t.py::test_4")):
        terminal = Terminal()
        write(terminal, tally, verbosity)
        assert terminal[-1].startswith(
            "poolguard: 5 tests have a pool marker and take no connection: t.py::test_0, "
        )
        assert terminal[-1].endswith(end)
