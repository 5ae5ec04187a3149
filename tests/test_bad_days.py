"""What goes wrong around the guard, or inside of it: the suite's results stay its own, one line tells."""

from __future__ import annotations

import pytest

LEAK = """
def test_leaks(pool):
    pool.getconn()

def test_returns(pool):
    pool.putconn(pool.getconn())
"""


# pools that are not as psycopg2 made them


def test_a_mocked_putconn_returns_nothing_and_is_hinted_at(suite):
    source = """
from unittest.mock import patch

def query(pool):
    conn = pool.getconn()
    try:
        conn.cursor().execute("SELECT 1")
    finally:
        pool.putconn(conn)

def test_mocked(pool):
    with patch.object(pool, "putconn"):
        query(pool)

def test_every_slot_is_there_again(pool):
    taken = [pool.getconn() for _ in range(10)]
    for conn in taken:
        pool.putconn(conn)
"""
    run = suite.run(source)
    run.assert_outcomes(failed=1, passed=1)
    assert run.blamed == ["test_mocked"]
    assert "replaced" in run.findings[0]["hint"]
    suite.run(source.replace('with patch.object(pool, "putconn")', "if True")).assert_silent(passed=2)


@pytest.mark.parametrize(
    "method",
    [
        "def _getconn(self, key=None): return None",
        "def _getconn(self, key=None): return 'no connection'",
        "def getconn(self, key=None): return None",
        "def getconn(self, key=None):\n        super().getconn(key)\n        raise PoolError('lost it')",
        "def putconn(self, conn=None, key=None, close=False): pass",
        "def _putconn(self, conn, key=None, close=False): self._used.clear(), self._rused.clear()",
        "def __getattribute__(self, name):\n"
        "        if name in ('_used', '_rused', 'closed', 'minconn') and vars(self).get('made'):\n"
        "            raise RuntimeError(name)\n"
        "        return super().__getattribute__(name)",
        "def __eq__(self, other): raise RuntimeError('eq')",
        "def __bool__(self): raise RuntimeError('bool')",
    ],
    ids=["None", "str", "none from getconn", "raises", "mute", "clears", "hostile", "eq", "bool"],
)
def test_a_subclass_that_breaks_the_pools_invariants_meets_no_exception_of_ours(suite, method):
    """Every call does what it does without the plugin, and nothing inside goes wrong."""
    source = f"""
class Odd(ThreadedConnectionPool):
    {method}

def what_happens():
    pool = Odd(1, 2, DSN)
    pool.made = True
    for step in (pool.getconn, pool.getconn, pool.getconn, lambda: pool.putconn(object()), pool.closeall):
        try:
            yield type(step()).__name__
        except Exception as error:
            yield repr(error)

def test_it():
    with open("happened", "a") as file:
        file.write(repr(list(what_happens())) + "\\n")
"""
    bare = suite.run(source, "--poolguard=off").result
    guarded = suite.run(source, "--poolguard=warn")
    bare.assert_outcomes(passed=1)
    guarded.assert_outcomes(passed=1)
    without, with_plugin = (suite.path / "happened").read_text().splitlines()
    assert with_plugin == without


def test_the_same_connection_handed_out_twice_is_out_once(suite):
    suite.run(
        """
class Sharing(SimpleConnectionPool):
    shared = None
    def getconn(self, key=None):
        if self.shared is None:
            self.shared = super().getconn(key)
        return self.shared

def test_it(poolguard):
    pool = Sharing(1, 2, DSN)
    assert pool.getconn() is pool.getconn()
    assert poolguard.checked_out == 1
    pool.putconn(pool.getconn())
    assert poolguard.checked_out == 0
    pool.closeall()
"""
    ).assert_silent(passed=1)


# faults of our own


@pytest.mark.parametrize(
    "place",
    [
        "books.ledger.Ledger.check_out",
        "books.ledger.Ledger.give_back",
        "books.ledger.Ledger.add_pool",
        "books.ledger.Ledger.opened",
        "judging.judge.Judge.look",
        "judging.judge.Judge.end",
        "describe.Describe.leak",
        "causes.hints.Hints.hint",
        "settling.Settling.made",
        "settling.Settling.finish",
        "judging.verdict.decide",
        "guard.Guard.begin_test",
        "guard.Guard.end_test",
        "ending.Ending.end_session",
        "owners.Owners.enter",
        "owners.Owners.begin_fixture",
        "reports.text.block",
        "marker.marker_errors",
        "server.watch.ServerWatch.connected",
    ],
)
def test_an_exception_inside_of_poolguard_leaves_the_suites_results_as_they_are(suite, place):
    """One warning names the fault; whatever is red is red by the suite's own doing, or for a leak."""
    run = run_with_a_fault(suite, place)
    assert run.text.count("poolguard: internal error") == 1


def test_an_exception_inside_of_poolguard_on_a_worker_is_told_too(suite):
    run = run_with_a_fault(suite, "books.ledger.Ledger.give_back", "-n2")
    assert "nothing was judged from then on" in run.text


def run_with_a_fault(suite, place, *options):
    suite.file(
        "fault.py",
        f"""
import pkgutil
def broken(*args, **kwargs):
    raise RuntimeError("broken on purpose")
holder, _, name = "pytest_poolguard.{place}".rpartition(".")
holder = pkgutil.resolve_name(holder)
original = getattr(holder, name)
setattr(holder, name, broken)
import sys
for module in list(sys.modules.values()):  # names that were imported from there
    if getattr(module, "__name__", "").startswith("pytest_poolguard") and getattr(module, name, None) is original:
        setattr(module, name, broken)
""",
    )
    suite.pytester.syspathinsert()
    source = LEAK + "\ndef test_fails():\n    assert False\n\n"
    source += "@pytest.mark.pool(hold=60)\ndef test_passes(pool):\n    pass\n"
    run = suite.run(source, "-p", "fault", *options, subprocess=True)
    outcomes = run.result.parseoutcomes()
    red = outcomes["failed"] + outcomes.get("errors", 0)  # a leak that its test's report could not carry any more
    assert (outcomes["passed"], red) in ((3, 1), (3, 2), (2, 2)), run.text
    assert "failed on teardown" not in run.text
    assert run.result.ret == pytest.ExitCode.TESTS_FAILED
    assert "RuntimeError" in run.text
    assert "INTERNALERROR" not in run.text + run.result.stderr.str()
    return run


# runs that end early


def test_ctrl_c_ends_the_run_as_ever_and_names_what_was_not_judged(suite):
    run = suite.run(
        """
def test_it(pool):
    conn = pool.getconn()
    raise KeyboardInterrupt
"""
    )
    assert run.result.ret == pytest.ExitCode.INTERRUPTED
    assert run.findings == []
    assert run.data["faults"] == []
    assert "poolguard: test_it was interrupted: its connections are not judged" in run.text


def test_pytest_exit_in_a_teardown_keeps_the_result_of_the_test(suite):
    """The call report that was kept back is logged before the run ends."""
    run = suite.run(
        """
@pytest.fixture
def leaving(pool):
    conn = pool.getconn()
    yield
    pool.putconn(conn)
    pytest.exit("enough", returncode=7)

def test_it(leaving, pool):
    pool.getconn()
"""
    )
    assert run.result.ret == 7
    assert "enough" in run.text
    outcomes = run.result.parseoutcomes()
    assert outcomes in ({"passed": 1}, {"failed": 1})
    assert run.data["faults"] == []


def test_pytest_exit_in_a_test_ends_the_run(suite):
    run = suite.run("def test_it(pool):\n    pool.getconn()\n    pytest.exit('enough')\n")
    assert run.result.ret == pytest.ExitCode.INTERRUPTED
    assert run.data["faults"] == []
    assert "its connections are not judged" in run.text


def test_a_worker_that_crashes_is_told_and_the_others_leaks_are_reported(suite):
    run = suite.run(
        """
@pytest.mark.xdist_group("crash")
def test_crashes(pool):
    pool.getconn()
    os._exit(1)

@pytest.mark.xdist_group("other")
def test_leaks(pool):
    pool.getconn()
""",
        "-n2",
        "--dist=loadgroup",
        "--max-worker-restart=0",
        subprocess=True,
    )
    assert run.result.parseoutcomes()["failed"] == 2
    assert run.blamed == ["test_leaks"]
    assert run.data["faults"] == []
    assert "ended without a word: what it left checked out is not judged" in run.text
    assert "INTERNALERROR" not in run.text


def test_a_conftest_that_can_not_be_imported_is_pytests_error(suite):
    suite.file("conftest.py", "import no_such_module\n")
    run = suite.run("def test_it(): pass\n", subprocess=True)
    assert run.result.ret == pytest.ExitCode.USAGE_ERROR
    assert "no_such_module" in run.result.stderr.str()
    assert "poolguard" not in run.result.stderr.str()


# a marker in a wrong place


@pytest.mark.parametrize(
    ("source", "what"),
    [
        ("@pytest.mark.pool(max=2)\ndef helper(): pass\ndef test_it(): pass\n", "test_suite.py::helper"),
        (
            "class TestIt:\n    @pytest.mark.pool(max=2)\n    def helper(self): pass\n"
            "    def test_it(self): pass\n",
            "test_suite.py::TestIt::helper",
        ),
    ],
    ids=["function", "method"],
)
def test_a_marker_on_something_that_is_no_test_is_an_error_at_collection(suite, source, what):
    run = suite.run(source)
    assert run.result.ret == pytest.ExitCode.INTERRUPTED
    assert f"@pytest.mark.pool on {what}: this is no test, so it has no effect: mark the tests" in run.text
    assert "Traceback" not in run.text


def test_a_marker_on_a_fixture_is_an_error_at_collection(suite):
    """pytest 9 refuses any mark on a fixture by itself; before, it has only a warning for it."""
    run = suite.run(
        "@pytest.fixture\n@pytest.mark.pool(max=2)\ndef conn(pool):\n    pass\n\ndef test_it(conn): pass\n",
        "-Wignore::pytest.PytestRemovedIn9Warning" if pytest.version_tuple < (9,) else "-q",
    )
    assert run.result.ret == pytest.ExitCode.INTERRUPTED
    if pytest.version_tuple < (9,):
        assert "@pytest.mark.pool on test_suite.py::conn: this is no test" in run.text
    else:
        assert "fixture" in run.text


@pytest.mark.parametrize(
    "source",
    [
        "@pytest.mark.pool(max=2)\nclass Base:\n    def test_it(self): pass\n\nclass TestIt(Base): pass\n",
        "@pytest.mark.pool(max=2)\ndef check(): pass\n\ntest_it = check\n",
        "from unittest.mock import call, Mock, MagicMock\nmock = Mock()\nmagic = MagicMock()\n"
        "def test_it(): pass\n",
    ],
    ids=["a base class", "another name", "mocks"],
)
def test_a_marker_that_reaches_a_test_in_a_roundabout_way_is_no_error(suite, source):
    suite.run(source).assert_silent(passed=1)
