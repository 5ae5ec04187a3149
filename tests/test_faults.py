"""``--poolguard-faults``: each test is run again, with a fault at every place where it takes a connection."""

from __future__ import annotations

import contextlib
import importlib.metadata
import re
import xml.etree.ElementTree as ET

import pytest

from pytest_poolguard.findings import Finding
from pytest_poolguard.reports import github
from pytest_poolguard.tally import Tally

FAULTS = ("--poolguard-faults=fail",)


@pytest.fixture(autouse=True)
def coverage_goes_on(monkeypatch):
    """Repeats are kept out of the coverage of the suite; here it is poolguard's own that is measured."""
    monkeypatch.setattr("pytest_poolguard.faults.apart._no_coverage", contextlib.nullcontext)


APP = """
def bare(pool):
    conn = pool.getconn()
    conn.cursor().execute("SELECT 1")
    pool.putconn(conn)

def safe(pool):
    conn = pool.getconn()
    try:
        conn.cursor().execute("SELECT 1")
    finally:
        pool.putconn(conn)
"""

LEAKY = APP + "def test_it(pool):\n    bare(pool)\n"
FIXED = APP + "def test_it(pool):\n    safe(pool)\n"


def leaks(run) -> list[tuple[str, str]]:
    """The function that leaks, and the fault."""
    return sorted((f["acquired"]["function"], f["fault"]) for f in run.findings)


BOTH = [("bare", "error"), ("bare", "kill")]


HELD_BY_OTHERS = (
    APP
    + """
import unittest

@pytest.fixture(scope="class")
def to_class(request, pool):
    request.cls.pool = pool

@pytest.mark.usefixtures("to_class")
class TestCleanup(unittest.TestCase):
    def setUp(self):
        self.conn = self.pool.getconn()
        self.addCleanup(self.pool.putconn, self.conn)

    def test_it(self):
        self.conn.cursor().execute("SELECT 1")
        bare(self.pool)

def dependency(pool):
    conn = pool.getconn()
    try:
        yield conn
    finally:
        pool.putconn(conn)

def serve(pool):
    depends = dependency(pool)
    next(depends).cursor().execute("SELECT 1")

def test_dependency(pool):
    serve(pool)
"""
)


def test_what_is_returned_when_an_exception_is_done_with_is_no_leak(suite):
    """By unittest's own cleanups, and by a generator that only the exception's traceback still holds."""
    run = suite.run(HELD_BY_OTHERS, *FAULTS)
    assert leaks(run) == BOTH
    assert run.data["struck"]["unfit"] == run.data["struck"]["unsure"] == {}
    assert "poolguard: faults: 3 places struck by 7 faults" in run.text


def test_a_passing_test_shows_the_leak_that_it_does_not_exercise(suite):
    run = suite.run(LEAKY, *FAULTS)
    assert leaks(run) == BOTH
    run.assert_outcomes(passed=1, errors=1)
    assert run.result.ret == pytest.ExitCode.TESTS_FAILED
    run.result.stdout.fnmatch_lines(
        [
            "* poolguard: 2 leaking error paths, 1 site, 1 test *",
            "test_suite.py::test_it",
            "test_suite.py:17 bare never returns the connection when the server ends it or its statement fails",
            "*felt at test_suite.py:18: OperationalError: *",
            "*statement was made to fail at test_suite.py:18: QueryCanceled: *",
            "  > test_suite.py:17 *conn = pool.getconn()",
            "  hint: bare did not reach its putconn() in line 19; put it in a finally block",
            "poolguard: faults: 1 place struck by 2 faults, in 5 repeats, *",
            "ERROR test_suite.py::test_it - poolguard: *",
        ]
    )
    for finding in run.findings:
        assert finding["kind"] == "error_path"
        assert finding["nodeid"] == "test_suite.py::test_it"
        assert finding["struck_at"]["line"] == 18
    suite.run(FIXED, *FAULTS).assert_silent(passed=1)


def test_without_the_option_nothing_of_it_is_there(suite):
    suite.file(
        "conftest.py",
        "import sys\ndef pytest_unconfigure():\n    print([n for n in sys.modules if 'poolguard.faults' in n])\n",
    )
    run = suite.run(LEAKY, subprocess=True)
    run.assert_silent(passed=1)
    run.result.stdout.fnmatch_lines(["[[][]]"])
    assert run.data["struck"] is None


@pytest.mark.parametrize("options", [("--poolguard-faults=warn",), (*FAULTS, "--poolguard=warn")])
def test_warnings_fail_nothing(suite, options):
    run = suite.run(LEAKY, *options)
    assert leaks(run) == BOTH
    assert {finding["verdict"] for finding in run.findings} == {"warned"}
    run.assert_outcomes(passed=1)
    assert run.result.ret == 0


def test_a_word_that_is_no_mode_says_how_to_write_it(suite):
    result = suite.pytester.runpytest_inprocess("-p", "no:cacheprovider", "--poolguard-faults", "tests")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(["*'tests' is not one of * (before a path, give --poolguard-faults=fail)"])


MANY = (
    APP
    + """
def other(pool):
    conn = pool.getconn()
    conn.cursor().execute("SELECT 1")
    pool.putconn(conn)

@pytest.mark.parametrize("n", range(6))
def test_it(pool, n):
    bare(pool)

def test_another(pool):
    bare(pool)

@pytest.mark.pool(faults=False)
def test_left_alone(pool):
    other(pool)

def test_other(pool):
    safe(pool)
"""
)


def test_each_pair_is_struck_once_over_all_workers(suite, processes):
    run = suite.run(MANY, *FAULTS, *processes)
    assert leaks(run) == BOTH
    assert len(run.data["struck"]["leaking"]) == 2
    struck = run.data["struck"]["struck"]
    assert {place.partition(" in ")[2]: len(pairs) for place, pairs in struck.items()} == {"bare": 2, "safe": 2}
    run.assert_outcomes(passed=9, errors=1)


def test_only_what_is_asked_for_is_struck_and_what_the_budget_leaves_is_told(suite):
    run = suite.run(MANY, *FAULTS, "--poolguard-faults-only=test_suite.py:saf*")
    run.assert_silent(passed=9)
    assert [place.partition(" in ")[2] for place in run.data["struck"]["struck"]] == ["safe"]
    run = suite.again(*FAULTS, "--poolguard-faults-budget=0.0001")
    run.assert_silent(passed=9)
    run.result.stdout.fnmatch_lines(
        ["poolguard: faults: not reached within the budget: *:17 in bare, *:22 in safe"]
    )


NORMAL = (
    APP
    + """
import gc, logging, unittest, warnings
from pathlib import Path

events = Path(__file__).with_name("events")

def note(event):
    with events.open("a") as file:
        file.write(event + "\\n")

@pytest.fixture(scope="module")
def wide(pool):
    note("set up")
    conn = pool.getconn()
    yield conn
    pool.putconn(conn)
    note("torn down")
    raise ValueError("a teardown that fails")

@pytest.fixture
def narrow(pool):
    conn = pool.getconn()
    yield conn
    print("narrow ends")
    pool.putconn(conn)

def test_output(pool, narrow, capsys, caplog):
    print("captured")
    logging.getLogger("shop").warning("logged")
    safe(pool)
    assert capsys.readouterr().out == "captured\\n"
    assert [record.message for record in caplog.records] == ["logged"]
    print("shown")

class Finalized:
    def __del__(self):
        raise ValueError("out of a finalizer")

def threaded(pool):
    conn = pool.getconn()
    try:
        conn.cursor().execute("SELECT 1")
    except Exception:
        circle = [Finalized()]  # which no normal run ever makes
        circle.append(circle)
        raise
    finally:
        pool.putconn(conn)

def test_slow(pool, tmp_path, record_property, record_testsuite_property):
    record_property("one", 1)
    record_testsuite_property("two", 2)
    thread = threading.Thread(target=threaded, args=[pool])
    thread.start()
    thread.join()
    time.sleep(0.3)
    gc.collect()
    warnings.warn("once")

class Test:
    seen = 0

    def test_instance(self, pool):
        safe(pool)
        self.seen += 1
        assert self.seen == 1

def test_fails(pool):
    safe(pool)
    assert 0

@pytest.mark.xfail
def test_xfails(pool):
    safe(pool)
    assert 0

def test_skips(pool):
    safe(pool)
    pytest.skip("later")

class TestCase(unittest.TestCase):
    def setUp(self):
        self.pool = ThreadedConnectionPool(1, 3, DSN)
        self.addCleanup(self.pool.closeall)

    def test_case(self):
        safe(self.pool)

def late(pool):
    conn = pool.getconn()
    pool.putconn(conn)

def test_last(wide, pool):
    note("body")
    late(pool)
"""
)


def cases(path) -> list[tuple[object, ...]]:
    """What a JUnit file tells of each test, but for the times and the addresses of objects."""
    root = ET.parse(path).getroot()
    found = []
    for case in root.iter("testcase"):
        parts = [(part.tag, re.sub("0x[0-9a-f]+", "", (part.text or "") + str(part.attrib))) for part in case]
        found.append((case.get("classname"), case.get("name"), parts))
    return found


def test_the_normal_results_are_as_without_it(suite):
    junit = (
        "-Wdefault",
        "--junitxml=it.xml",
        "-ojunit_logging=all",
        "-rA",
        "--durations=0",
        "-vv",
        "--poolguard-stats",
    )
    plain = suite.run(NORMAL, *junit)
    before = cases(suite.path / "it.xml")
    events = (suite.path / "events").read_text()
    (suite.path / "events").unlink()
    run = suite.again(*junit, *FAULTS)
    assert cases(suite.path / "it.xml") == before
    assert run.result.parseoutcomes() == plain.result.parseoutcomes()
    assert plain.result.parseoutcomes()["warnings"] == 2
    assert run.findings == plain.findings == []
    assert run.data["checkouts"] == plain.data["checkouts"]
    counted = [
        [(use["nodeid"], use["made_at"], use["checkouts"], use["peak"], use["waits"]) for use in data["uses"]]
        for data in (run.data, plain.data)
    ]
    assert counted[0] == counted[1] != []
    assert [(row["made_at"], row["count"]) for row in run.data["pools"]] == [
        (row["made_at"], row["count"]) for row in plain.data["pools"]
    ]
    # The wider fixture was there for all repeats, and once.
    assert events.split("\n") == ["set up", "body", "torn down", ""]
    assert (suite.path / "events").read_text().split("\n") == ["set up", *["body"] * 3, "torn down", ""]
    struck = run.data["struck"]
    assert struck["unfit"] == struck["unsure"] == {}
    assert [place.partition(" in ")[2] for place in struck["struck"]] == ["narrow", "safe", "threaded", "late"]
    # A test's time is its own, and nothing of a repeat is shown.
    (end,) = re.findall(r"([\d.]+)s teardown +test_suite.py::test_slow", run.text) or ["0"]
    assert float(end) < 0.9  # there were three repeats, of 0.3 s each
    assert run.text.count("narrow ends") == plain.text.count("narrow ends")


def test_nothing_dead_is_left_in_a_pool_and_nothing_on_the_server(suite, processes):
    """Not even where a statement never notices that its connection is dead."""
    run = suite.run(
        """
def unnoticed(pool):
    conn = pool.getconn()
    pool.putconn(conn)

def test_it(pool):
    unnoticed(pool)
    own = ThreadedConnectionPool(1, 2, DSN)
    conn = own.getconn()
    conn.cursor().execute("SELECT 1")
    own.putconn(conn)
    own.closeall()

@pytest.mark.pool(faults=False)
def test_later(pool):
    conns = [pool.getconn() for _ in range(10)]
    try:
        for conn in conns:
            conn.cursor().execute("SELECT 1")
    finally:
        for conn in conns:
            pool.putconn(conn)
    assert len(pool._pool) == 1 and not pool._used
""",
        *FAULTS,
        *processes,
    )
    # The pool that the test itself leaves open is ended on the server, as the test's own end would have done.
    assert leaks(run) == [("test_it", "error"), ("test_it", "kill")]
    assert run.data["notices"] == [] or "left" not in str(run.data["notices"])
    assert [server["left"] for server in run.data["servers"]] == [0] * len(run.data["servers"])
    run.assert_outcomes(passed=2, errors=1)


ODD = (
    APP
    + """
calls, seen, shown = [], [], []

def sometimes(pool):
    conn = pool.getconn()
    try:
        conn.cursor().execute("SELECT 1")
    except Exception:
        calls.append(1)
        if len(calls) % 2:
            raise
        pool.putconn(conn)
        raise
    pool.putconn(conn)

def test_sometimes(pool):
    sometimes(pool)

def once(pool):
    conn = pool.getconn()
    pool.putconn(conn)

def test_once(pool):
    once(pool)
    seen.append(1)
    assert len(seen) == 1

def waits(pool, done):
    try:
        conn = pool.getconn()
        conn.cursor().execute("SELECT 1")
        pool.putconn(conn)
        done.set()
    except Exception:
        pass

def test_waits(pool):
    done = threading.Event()
    thread = threading.Thread(target=waits, args=[pool, done])
    thread.start()
    done.wait()
    thread.join()

def test_subtests(subtests, pool):
    with subtests.test("one"):
        once(pool)
"""
)


def test_what_can_not_be_relied_on_fails_nothing_and_is_told(suite, monkeypatch):
    monkeypatch.setattr("pytest_poolguard.faults.course.LEAST", 0.3)
    monkeypatch.setattr("pytest_poolguard.faults.limit.AGAIN", 0.3)
    source = ODD
    if not hasattr(pytest, "Subtests"):
        source = ODD.replace("def test_subtests(subtests, pool)", "def no_test(subtests, pool)")
    run = suite.run(source, *FAULTS)
    struck = run.data["struck"]
    assert leaks(run) == [("waits", "error"), ("waits", "kill")]
    assert {pair.partition(" in ")[2]: how for pair, how in struck["unsure"].items()} == {
        "sometimes (kill)": "it leaked in one of two repeats",
        "sometimes (error at test_suite.py:33)": "it leaked in one of two repeats",
    }
    assert len(struck["stuck"]) == 2
    reasons = {place.rpartition("::")[2]: reason for place, reason in struck["unfit"].items()}
    assert reasons.pop("test_once") == "its test fails (AssertionError) when it is run a second time"
    assert reasons in ({}, {"test_subtests": "its subtests are logged the moment that they end"})
    run.result.stdout.fnmatch_lines(["poolguard: faults: the test hung, and was ended: *waits (kill), *"])


def test_the_baseline_and_the_settings_let_it_pass(suite):
    record = (*FAULTS, "--poolguard-baseline=known.txt")
    run = suite.run(LEAKY, *record, "--poolguard-update-baseline")
    assert run.result.ret == 0
    assert {finding["verdict"] for finding in run.findings} == {"known"}
    known = (suite.path / "known.txt").read_text()
    assert known.count("error_path") == 2
    strict = (*record, "--poolguard-strict-baseline")
    assert suite.again(*strict).result.ret == 0
    # Not looked for is not gone.
    assert suite.again("--poolguard-baseline=known.txt", "--poolguard-strict-baseline").result.ret == 0
    assert suite.again(*strict, "--poolguard-faults-budget=0.0001").result.ret == 0
    run = suite.run(FIXED, *strict)
    run.result.stdout.fnmatch_lines(["*2 stale sites in known.txt: test_suite.py:bare *"])
    suite.setting("poolguard_ignore", "test_suite.py:bare -- it is rewritten next month")
    run = suite.run(LEAKY, *FAULTS)
    assert {finding["verdict"] for finding in run.findings} == {"ignored"}
    assert run.result.ret == 0


def test_a_fault_is_a_property_of_the_junit_file_and_an_annotation(suite, processes):
    run = suite.run(LEAKY, *FAULTS, "--junitxml=it.xml", *processes, subprocess=True)
    root = ET.parse(suite.path / "it.xml").getroot()
    told = [part.get("value") for part in root.iter("property") if part.get("name") == "poolguard.error_path"]
    what = "2 connections never returned after a fault, failed: test_suite.py:17 in bare"
    assert told == [f"test_suite.py::test_it: {what}"]
    findings = [{name: value for name, value in f.items() if name != "run"} for f in run.findings]
    tally = Tally(findings=[Finding.from_dict(finding) for finding in findings])
    (line,) = github.commands(tally, lambda place: place.file)
    assert line.startswith("::error file=test_suite.py,line=17,title=poolguard")


ASYNC = """
import asyncio, os, unittest, anyio, asyncpg, pytest, pytest_asyncio

DSN = os.environ["SUITE_DSN"]

@pytest_asyncio.fixture
async def own():
    pool = await asyncpg.create_pool(DSN, min_size=1, max_size=2)
    yield pool
    pool.terminate()

@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def wide():
    pool = await asyncpg.create_pool(DSN, min_size=1, max_size=2)
    yield pool
    pool.terminate()

async def function(pool):
    conn = await pool.acquire()
    await conn.execute("SELECT 1")
    await pool.release(conn)

async def session(pool):
    conn = await pool.acquire()
    await conn.execute("SELECT 1")
    await pool.release(conn)

async def case(pool):
    conn = await pool.acquire()
    await conn.execute("SELECT 1")
    await pool.release(conn)

async def trio_like(pool):
    conn = await pool.acquire()
    await conn.execute("SELECT 1")
    await pool.release(conn)

async def good(pool):
    async with pool.acquire() as conn:
        await conn.execute("SELECT 1")

@pytest.mark.asyncio
async def test_function(own):
    await function(own)
    await good(own)

@pytest.mark.asyncio(loop_scope="session")
async def test_session(wide):
    await session(wide)
    await good(wide)

@pytest.mark.asyncio(loop_scope="session")
async def test_later(wide):
    async with wide.acquire() as one, wide.acquire() as two:
        assert await one.fetchval("SELECT 1") + await two.fetchval("SELECT 1") == 2

class TestCase(unittest.IsolatedAsyncioTestCase):
    async def test_case(self):
        async with asyncpg.create_pool(DSN, min_size=1, max_size=2) as pool:
            try:
                await case(pool)
            finally:
                pool.terminate()

@pytest.fixture
def anyio_backend():
    return "asyncio"

@pytest.mark.anyio
async def test_anyio():
    async with asyncpg.create_pool(DSN, min_size=1, max_size=2) as pool:
        try:
            await trio_like(pool)
        finally:
            pool.terminate()

"""


def test_tests_of_every_sort_of_event_loop_are_repeated(suite, monkeypatch):
    monkeypatch.setenv("PYTEST_ADDOPTS", "-p no:django -p no:hypothesispytest -p no:timeout")
    source = ASYNC
    if tuple(map(int, importlib.metadata.version("pytest-asyncio").split(".")[:2])) < (0, 24):
        source = source.replace('scope="session", loop_scope', "scope").replace("loop_scope", "scope")
    run = suite.run(source, *FAULTS, "-Wignore", header="", subprocess=True)
    assert run.data["struck"]["unfit"] == run.data["struck"]["unsure"] == {}
    names = ("function", "session", "case", "trio_like")
    assert leaks(run) == sorted((name, fault) for name in names for fault in ("cancel", "error"))
    run.assert_outcomes(passed=5, errors=4)


def test_other_plugins_do_not_hear_of_repeats(suite, monkeypatch):
    """pytest-timeout's limit is for the test alone; what pytest-rerunfailures repeats is struck as it passes."""
    monkeypatch.setenv("PYTEST_ADDOPTS", "-p no:anyio -p no:django")
    run = suite.run(
        APP
        + """
from hypothesis import given, settings, strategies

def slow(pool):
    conn = pool.getconn()
    time.sleep(0.4)
    pool.putconn(conn)

@pytest.mark.timeout(3)
def test_timeout(pool):
    slow(pool)  # in each of eight repeats
    bare(pool)
    safe(pool)

tries = []

def test_flaky(pool):
    tries.append(1)
    safe(pool)
    assert len(tries) > 1

@settings(deadline=None, max_examples=3)
@given(strategies.integers())
def test_hypothesis(n):
    pool = ThreadedConnectionPool(1, 1, DSN)
    try:
        safe(pool)
    finally:
        pool.closeall()
""",
        *FAULTS,
        "--reruns=1",
        "-Wignore",
        subprocess=True,
    )
    assert leaks(run) == BOTH
    assert run.result.parseoutcomes() == {"passed": 3, "rerun": 1, "errors": 1}
    ((place, reason),) = run.data["struck"]["unfit"].items()
    assert place.endswith("::test_hypothesis")
    assert reason.startswith("Hypothesis would take a fault")
