"""``--poolguard-stats``: what pools were used for, in the terminal, in files and in the fixture."""

from __future__ import annotations

import json

import pytest

from pytest_poolguard.books.origin import Place
from pytest_poolguard.cli import main
from pytest_poolguard.reports import statistics
from pytest_poolguard.sizing.advice import advice, by_weight, enough_for
from pytest_poolguard.sizing.uses import Use

LIBRARIES = """
import asyncio, contextlib, os, threading, time
import asyncpg, pytest
from psycopg2.pool import ThreadedConnectionPool
from psycopg_pool import AsyncConnectionPool, ConnectionPool
from sqlalchemy import create_engine
from sqlalchemy.ext.asyncio import create_async_engine

DSN = os.environ["SUITE_DSN"]
URL = "postgresql+{}" + DSN.removeprefix("postgresql")

asked, held = [], []

def threads(take):
    def work():
        asked.append(1)
        with take():
            held.append(1)
            while len(asked) < 5 or len(held) < 2:
                time.sleep(0.001)
            time.sleep(0.05)

    all = [threading.Thread(target=work) for _ in range(5)]
    for thread in all: thread.start()
    for thread in all: thread.join()

async def tasks(take):
    async def work():
        asked.append(1)
        async with take():
            held.append(1)
            while len(asked) < 5 or len(held) < 2:
                await asyncio.sleep(0.001)
            await asyncio.sleep(0.05)

    await asyncio.gather(*(work() for _ in range(5)))

@contextlib.contextmanager
def returned(get, put):
    conn = get()
    yield
    put(conn)

class Waiting(ThreadedConnectionPool):
    def __init__(self, *args):
        self.free = threading.Semaphore(2)
        super().__init__(*args)
    def getconn(self, key=None):
        self.free.acquire()
        return super().getconn(key)
    def putconn(self, *args):
        super().putconn(*args)
        self.free.release()

@pytest.fixture(autouse=True)
def checked(poolguard):
    asked.clear()
    held.clear()
    yield
    assert [seconds >= 0.04 for seconds in poolguard.waits] == [True] * 3
    assert poolguard.waits[0] >= 0.09
    assert [seconds >= 0.05 for seconds in poolguard.holds] == [True] * 5
    assert poolguard.peak == 2

def test_psycopg2():
    pool = Waiting(1, 2, DSN)
    threads(lambda: returned(pool.getconn, pool.putconn))
    pool.closeall()

def test_psycopg_pool():
    with ConnectionPool(DSN, min_size=1, max_size=2) as pool:
        threads(pool.connection)

async def test_psycopg_pool_async():
    async with AsyncConnectionPool(DSN, min_size=1, max_size=2) as pool:
        await tasks(pool.connection)

async def test_asyncpg():
    async with asyncpg.create_pool(DSN, min_size=0, max_size=2) as pool:
        await tasks(pool.acquire)

def test_sqlalchemy():
    engine = create_engine(URL.format("psycopg2"), pool_size=1, max_overflow=1)
    threads(engine.connect)
    engine.dispose()

async def test_sqlalchemy_async():
    engine = create_async_engine(URL.format("asyncpg"), pool_size=2, max_overflow=0)
    await tasks(engine.connect)
    await engine.dispose()

@pytest.mark.pool(max=2)
def test_sqlalchemy_limited():
    engine = create_engine(URL.format("psycopg2"))
    threads(engine.connect)
    engine.dispose()

class Own:  # of whose size only the marker knows
    def __init__(self): self.inner = ThreadedConnectionPool(1, 9, DSN)
    def checkout(self): return self.inner.getconn()
    def checkin(self, conn): self.inner.putconn(conn)

@pytest.mark.pool(max=2, timeout=20)
def test_in_house():
    pool = Own()
    threads(lambda: returned(pool.checkout, pool.checkin))
    pool.inner.closeall()
"""


def test_every_library_tells_who_waits_and_what_is_held(suite):
    run = suite.run(
        LIBRARIES,
        "--poolguard-stats",
        "-oasyncio_mode=auto",
        "--poolguard-pools=test_suite:Own(acquire=checkout, release=checkin)",
        header="",
    )
    run.assert_silent(passed=8)
    for use in run.data["uses"]:
        assert (use["checkouts"], use["peak"], use["size"]) == (5, 2, 2), use
        assert (use["full"], use["waits"]) == (3, 3), use
        assert use["total_wait"] > use["longest_wait"] >= 0.09, use
        assert use["longest_hold"] >= 0.05
        assert use["held_at"]["function"] in ("work", "returned", "getconn")
    assert len(run.data["uses"]) == 8


USES = """
from psycopg2.pool import SimpleConnectionPool

def take(pool):
    return pool.getconn()

@pytest.fixture(scope="module")
def large():
    pool = SimpleConnectionPool(1, 50, DSN)
    yield pool
    pool.closeall()

@pytest.fixture(scope="module")
def kept(large):
    conn = take(large)
    yield conn
    large.putconn(conn)

@pytest.mark.parametrize("n", range(12))
def test_small(large, kept, n):
    for conn in [take(large) for _ in range(2)]:
        large.putconn(conn)

def test_burst(pool):
    conns = [take(pool) for _ in range(10)]
    for _ in range(14):
        with pytest.raises(PoolError):
            take(pool)
    time.sleep(0.02)
    for conn in conns:
        pool.putconn(conn)

def test_none(): pass
"""


def test_rows_and_advice(suite, processes):
    run = suite.run(USES, "--poolguard-stats=3", *processes)
    run.assert_outcomes(passed=14)
    workers = 2 if processes else 1
    lines = run.text.partition("poolguard: use of pools")[2].splitlines()
    rows = 13 if workers == 1 else len(run.data["uses"])
    assert lines[0].startswith(f", 3 of {rows} rows =")
    assert lines[1].split() == ["conns", "peak", "full", "waited", "longest", "held", "in"]
    burst, row, large = lines[2:5]
    assert burst == "ThreadedConnectionPool(1..10) made at test_suite.py:11: 10 connections in 1 test"
    assert row.split()[:7] == ["10", "10", "of", "10", "14", "-", "-"]
    assert row.endswith("test_suite.py::test_burst (held at test_suite.py:19 in take)")
    taken = 24 + workers
    assert large == f"SimpleConnectionPool(1..50) made at test_suite.py:23: {taken} connections in 12 tests"
    assert [line.split()[1:4] for line in lines[5:7]] == [["3", "of", "50"]] * 2
    assert lines[7:9] == [
        "poolguard: ThreadedConnectionPool(1..10) made at test_suite.py:11: hit its maximum 14 times in "
        "test_suite.py::test_burst",
        "poolguard: SimpleConnectionPool(1..50) made at test_suite.py:23: peak 3 of 50 in 12 tests: "
        "max=5 would do",
    ]
    uses = [use for use in run.data["uses"] if use["class"] == "SimpleConnectionPool"]
    assert {use["nodeid"] for use in uses} == {f"test_suite.py::test_small[{n}]" for n in range(12)}
    assert sorted(use["checkouts"] for use in uses) == [2] * (12 - workers) + [3] * workers
    assert {(use["peak"], use["size"], use["full"], use["waits"]) for use in uses} == {(3, 50, 0, 0)}
    assert all(use["held_at"]["text"] == "return pool.getconn()" for use in uses)


def test_all_rows(suite):
    suite.setting("poolguard_stats", "0")
    run = suite.run(USES)
    assert "poolguard: use of pools =" in run.text
    assert run.text.count("test_suite.py::test_small[") == 12
    suite.setting("poolguard_stats", "1")
    assert suite.again("-v").text.count("test_suite.py::test_small[") == 24  # each as it runs, too


def test_without_the_option_nothing_is_told(suite):
    run = suite.run(USES)
    assert "use of pools" not in run.text
    assert run.data["uses"] == []


def test_no_pool(suite):
    run = suite.run("def test_it(): pass\n", "--poolguard-stats")
    assert "poolguard: no connection was taken from a pool\n" in run.text


def test_what_is_no_number(suite):
    result = suite.pytester.runpytest_inprocess("--poolguard-stats", "test_suite.py")
    result.stderr.fnmatch_lines(
        [
            "ERROR: poolguard: --poolguard-stats: 'test_suite.py' is not a number of rows, 0 or more (what "
            "follows the option is taken for it: write =N)"
        ]
    )
    assert result.ret == pytest.ExitCode.USAGE_ERROR


def test_a_test_that_runs_again_and_what_runs_between_tests(suite, processes):
    """The reports of a first try are thrown away."""
    suite.file(
        "conftest.py",
        """
import os
from psycopg2.pool import ThreadedConnectionPool

def pytest_runtest_logfinish(nodeid):
    pool = ThreadedConnectionPool(0, 3, os.environ["SUITE_DSN"])
    pool.putconn(pool.getconn())
    pool.closeall()
""",
    )
    run = suite.run(
        """
tries = []

def test_it(pool):
    pool.putconn(pool.getconn())
    tries.append(1)
    assert len(tries) == 3
""",
        "--poolguard-stats",
        "--reruns=2",
        *processes,
    )
    assert "1 passed, 2 rerun" in run.text
    taken = {use["nodeid"]: use["checkouts"] for use in run.data["uses"]}
    assert taken == {"test_suite.py::test_it": 3, "": 3}
    assert "no test (held at conftest.py:7 in pytest_runtest_logfinish)" in run.text


def test_what_a_crashed_worker_has_counted_before(suite):
    run = suite.run(
        """
@pytest.mark.xdist_group("one")
def test_before(pool):
    pool.putconn(pool.getconn())

@pytest.mark.xdist_group("one")
def test_crashes(pool):
    pool.putconn(pool.getconn())
    os._exit(1)
""",
        "--poolguard-stats",
        "-n1",
        "--dist=loadgroup",
        "--max-worker-restart=0",
    )
    assert [use["nodeid"].partition("@")[0] for use in run.data["uses"]] == ["test_suite.py::test_before"]


def test_files_are_merged_and_shown(suite, monkeypatch, capsys):
    shard = """
@pytest.mark.skipif("os.environ['SHARD'] == '{0}'")
def test_{0}(pool):
    pool.putconn(pool.getconn())
"""
    source = "".join(shard.format(n) for n in "01") + "def test_both(pool): pool.putconn(pool.getconn())\n"
    files = []
    for n in "01":
        monkeypatch.setenv("SHARD", n)
        suite.run(source, "--poolguard-stats", subprocess=True)
        files.append(str((suite.path / "findings.json").rename(suite.path / f"{n}.json")))
    assert main(["merge", *files, "-o", str(suite.path / "all.json")]) == 0
    first, second, whole = (
        json.loads((suite.path / name).read_text())["uses"] for name in ("0.json", "1.json", "all.json")
    )
    taken = {use["nodeid"].rpartition("::")[2]: use["checkouts"] for use in whole}
    assert taken == {"test_0": 1, "test_1": 1, "test_both": 2}
    both = [use for use in (*first, *second, *whole) if use["nodeid"].endswith("both")]
    assert both[2]["longest_hold"] == max(use["longest_hold"] for use in both[:2])
    assert both[2]["held_at"] == both[0]["held_at"]
    capsys.readouterr()
    assert main(["show", str(suite.path / "all.json")]) == 0
    shown = capsys.readouterr().out
    assert "poolguard: use of pools" in shown
    assert "ThreadedConnectionPool(1..10) made at test_suite.py:11: 4 connections in 3 tests" in shown


# the fixture


def test_the_fixture_counts_where_it_is_used(suite):
    run = suite.run(
        """
@pytest.fixture
def conn(pool):
    conn = pool.getconn()
    yield conn
    pool.putconn(conn)

def test_uses_it(pool, conn, poolguard):
    assert (poolguard.waits, poolguard.holds) == ([], [])
    for seconds in (0.01, 0.03):
        conn = pool.getconn()
        time.sleep(seconds)
        pool.putconn(conn)
    assert [round(hold, 2) >= 0.01 for hold in poolguard.holds] == [True] * 2
    assert poolguard.holds[0] >= 0.03

@pytest.fixture
def via(poolguard):
    return poolguard

def test_a_fixture_uses_it(pool, via):
    pool.putconn(pool.getconn())
    assert len(via.holds) == 1

def test_does_not(pool, request):
    poolguard = request.getfixturevalue("poolguard")
    pool.putconn(pool.getconn())
    with pytest.raises(RuntimeError, match="poolguard counts nothing in this test: name the fixture"):
        poolguard.holds
    with pytest.raises(RuntimeError):
        poolguard.waits
    assert poolguard.peak == 1
"""
    )
    run.assert_silent(passed=3)
    assert run.data["uses"] == []


def test_calls_that_end_with_an_error(suite):
    """After a wait, or with a connection that was lost on its way: then nobody asks any longer."""
    header = """
import os, threading, psycopg2, pytest
from psycopg_pool import ConnectionPool, PoolTimeout
from sqlalchemy import create_engine
from sqlalchemy.exc import OperationalError

DSN = os.environ["SUITE_DSN"]
"""
    run = suite.run(
        """
@pytest.mark.pool(max=1)
def test_it(poolguard):
    with ConnectionPool(os.environ["SUITE_DSN"], min_size=1, max_size=4) as pool:
        with pool.connection():
            with pytest.raises(PoolTimeout):
                pool.getconn(timeout=0.05)
        (wait,) = poolguard.waits
        assert 0.05 <= wait < 5

def test_lost(poolguard):
    places = [DSN, "host=127.0.0.1 port=1", DSN]
    engine = create_engine(
        "postgresql+psycopg2://", creator=lambda: psycopg2.connect(places.pop(0)),
        pool_size=1, max_overflow=0, pool_pre_ping=True,
    )
    with engine.connect() as conn:
        raw = conn.connection.dbapi_connection
    raw.close()
    with pytest.raises(OperationalError):
        engine.connect()
    thread = threading.Thread(target=lambda: engine.connect().close())
    thread.start()
    thread.join()
    engine.connect().close()
    assert (places, poolguard.waits, len(poolguard.holds)) == ([], [], 3)
    engine.dispose()
""",
        "--poolguard-stats",
        header=header,
    )
    run.assert_silent(passed=2)
    use = run.data["uses"][0]
    assert (use["peak"], use["size"], use["full"], use["waits"]) == (1, 1, 1, 1)


# the words

PLACE = Place("shop/db.py", 9, "make", "pool = Pool(1, 50)")


def use(test="test_it", **numbers):
    return Use("p", "Pool(1..50)", PLACE, nodeid=test, **{"peak": 3, "size": 50, **numbers})


def many(number=10, **numbers):
    return [use(f"test_{n}", **numbers) for n in range(number)]


def test_too_large_is_said_on_evidence_only():
    assert advice(many()) == ["peak 3 of 50 in 10 tests: max=5 would do"]
    assert advice(many(9)) == []
    assert advice(many(peak=17)) == []
    assert advice(many(size=0)) == []
    assert advice([*many(), use(peak=40)]) == []
    assert advice(many(peak=0)) == []


def test_a_limit_of_a_test_is_not_the_size_of_the_pool():
    assert advice([*many(), use(peak=1, size=1)]) == ["peak 3 of 50 in 11 tests: max=5 would do"]


@pytest.mark.parametrize(("peak", "enough"), [(1, 2), (2, 3), (3, 5), (10, 15), (21, 32)])
def test_what_would_do_leaves_half_as_much_to_spare(peak, enough):
    assert enough_for(peak) == enough


def test_too_small_names_those_that_waited_longest():
    uses = [use("a", full=1), use("b", full=2, total_wait=0.5), use("c", full=9), *many(5, full=1)]
    assert advice(uses) == [
        "hit its maximum 2 times in b (500 ms waited), 9 times in c, 1 time in a, 5 times in 5 other tests"
    ]


def test_what_matters_most_comes_first():
    rows = [
        use("idle", peak=1),
        use("holds", peak=1, longest_hold=3.0),
        use("busy", peak=49),
        use("full", full=1),
        use("waits", full=1, total_wait=0.1),
    ]
    assert [row.nodeid for row in by_weight(rows)] == ["waits", "full", "busy", "holds", "idle"]


class Terminal:
    def __init__(self):
        self.lines = []

    def write_sep(self, _sep, title, **_markup):
        self.lines.append(title)

    def write_line(self, line, **_markup):
        self.lines.append(line)


def written(uses, rows=10, verbosity=0):
    terminal = Terminal()
    statistics.write(terminal, uses, rows, verbosity)
    return terminal.lines


def test_a_screen_of_many_pools():
    uses = [Use("p", f"Pool(0..{n})", nodeid="t", checkouts=1, peak=n, size=n, full=n) for n in range(1, 100)]
    lines = written(uses)
    assert len(lines) == 2 + 2 * 10 + 5 + 1
    assert lines[0] == "poolguard: use of pools, 10 of 99 rows"
    assert lines[-1] == "poolguard: … and 94 more (-v shows all)"
    assert len(written(uses, verbosity=1)) == len(written(uses, rows=0)) + 93 == 2 + 3 * 99


def test_a_row_without_a_place_or_a_size():
    lines = written([Use("p", "Pool", nodeid="t", checkouts=7, peak=3, longest_hold=0.0001, total_wait=75.0)])
    assert lines[2:] == [
        "Pool: 7 connections in 1 test",
        "     7          3      -  1 min 15 s        -    <1 ms  t",
    ]
