"""``--poolguard-server=test``: the test that leaves something on the server fails, not only the run."""

from __future__ import annotations

import pytest
from test_aftermath import CHILD, HEADER, dsn, left  # noqa: F401 - a server where nobody else is

TEST = ("--poolguard-server=test",)


@pytest.fixture
def family(suite):
    """Run a suite whose tests start child processes: they go when the suite's own process does."""
    suite.file("child.py", CHILD)
    return lambda source, *args: suite.run(source, *TEST, *args, header=HEADER, subprocess=True)


OPENS = """
kept = []

@pytest.mark.parametrize("n", range(3))
def test_opens(n):
    kept.append(psycopg2.connect(DSN))
    if n != 1:
        kept[-1].close()

def test_later(): pass
"""


@pytest.mark.parametrize("processes", [(), ("-n2",)], ids=["alone", "xdist"])
def test_a_connection_left_open_fails_its_test(family, processes):
    run = family(OPENS, *processes)
    assert left(run) == [("test_opens[1]", "", "failed")]
    run.assert_outcomes(passed=4, failed=1)
    run.result.stdout.fnmatch_lines(
        [
            "*= FAILURES =*",
            "*_ test_opens[[]1[]] _*",
            "1 connection that this run opened is still open on the server",
            "*kept.append(psycopg2.connect(DSN))",
            "FAILED test_suite.py::test_opens[[]1[]] - poolguard: 1 connection left open *",
        ]
    )


def test_what_is_closed_is_silent(family):
    family(OPENS.replace("if n != 1:\n        ", "")).assert_silent(passed=5)


LAZY = """
class App:
    conn = None

    def connection(self):
        self.conn = self.conn or psycopg2.connect(DSN)
        return self.conn

@pytest.fixture(scope="module")
def app():
    app = App()
    yield app
    app.conn.close()

def test_uses(app): app.connection()
def test_again(app): app.connection()
"""


def test_what_a_wider_fixture_keeps_is_silent(family):
    family(LAZY).assert_silent(passed=3)


@pytest.mark.parametrize("processes", [(), ("-n1",)], ids=["alone", "xdist"])
def test_a_child_process_fails_the_test_that_started_it(family, processes):
    run = family("def test_before(): pass\ndef test_it(): start()\ndef test_later(): pass\n", *processes)
    assert left(run) == [("test_it", "a child process of this run", "failed")]
    run.assert_outcomes(passed=3, failed=1)
    family("def test_it(): stop(start())\ndef test_later(): pass\n").assert_silent(passed=3)


@pytest.mark.parametrize(
    ("args", "outcomes"),
    [
        pytest.param((), {"passed": 2, "failed": 1}, id="after the test"),
        pytest.param(("--poolguard-server=session", "-n2"), {"passed": 3, "errors": 1}, id="after the workers"),
    ],
)
def test_the_child_process_of_a_test_is_known_to_the_baseline(family, suite, args, outcomes):
    gate = ("--poolguard-baseline=leaks.txt", "--poolguard-strict-baseline")
    source = "def test_it(): start()\n"
    family(source, gate[0], "--poolguard-update-baseline").assert_outcomes(passed=2)
    (line,) = [one for one in (suite.path / "leaks.txt").read_text().splitlines() if one[0] != "#"]
    told = "server_backend  a child process of test_suite.py::test_it  «»  test_suite.py::test_it"
    assert line.endswith(told)
    run = family(source + "def test_new(): start()\n", *gate, *args)
    assert sorted((nodeid, verdict) for nodeid, _, verdict in left(run)) == [
        ("test_it", "known"),
        ("test_new", "failed"),
    ]
    run.assert_outcomes(**outcomes)
    run = family("def test_it(): stop(start())\n", *gate, *args)
    assert run.data["errors"] == [
        "1 stale site in leaks.txt: a child process of test_suite.py::test_it leaks no more; "
        "--poolguard-update-baseline takes it out"
    ]
    run.assert_outcomes(passed=2, errors=1)


PASSES_ON = """
kept = []

def test_opens():
    kept.append(psycopg2.connect(DSN))
    CLOSE

def test_closes():
    kept[0].close()
"""


def test_what_was_gone_at_the_end_is_stale_only_where_each_test_is_looked_at(family, suite):
    """A look at the end has not seen it, whether or not it is repaired."""
    gate = ("--poolguard-baseline=leaks.txt", "--poolguard-strict-baseline")
    family(PASSES_ON.replace("CLOSE", ""), gate[0], "--poolguard-update-baseline").assert_outcomes(passed=3)
    assert "  server_backend/test  " in (suite.path / "leaks.txt").read_text()
    assert family(PASSES_ON.replace("CLOSE", ""), *gate, "--poolguard-server=session").data["errors"] == []
    family(PASSES_ON.replace("CLOSE", "kept[0].close()"), *gate, "--poolguard-server=session").assert_outcomes(
        passed=3
    )
    (error,) = family(PASSES_ON.replace("CLOSE", "kept[0].close()"), *gate).data["errors"]
    assert "test_suite.py:test_opens leaks no more" in error


@pytest.mark.parametrize(
    ("pattern", "verdict"),
    [("test_suite.py:test_it", "ignored"), ("*:test_i?", "ignored"), ("test_suite.py:test_other", "failed")],
)
def test_the_child_process_of_a_test_is_ignored_by_the_name_of_the_test(family, suite, pattern, verdict):
    suite.setting("poolguard_ignore", f"{pattern} -- it ends by itself")
    run = family("def test_it(): start()\n")
    assert left(run) == [("test_it", "a child process of this run", verdict)]
    assert run.result.ret == (verdict == "failed")


SHARED = """
@pytest.fixture(scope="module")
def server():
    return {}

def test_it(server):
    server["child"] = start()

def test_later(server):
    STOP
"""


def test_a_child_process_that_a_wider_fixture_may_end_waits_for_the_end(family):
    family(SHARED.replace("STOP", "stop(server['child'])")).assert_silent(passed=3)
    run = family(SHARED.replace("STOP", "pass"))
    assert left(run) == [("test_it", "a child process of this run", "failed")]
    run.assert_outcomes(passed=3, errors=1)


DROPS = """
def run(statement):
    admin = psycopg2.connect(DSN)
    admin.autocommit = True
    with admin.cursor() as cursor:
        cursor.execute(statement)
    admin.close()

def test_makes():
    run("CREATE DATABASE shop")
    psycopg2.connect(DSN, dbname="shop").close()

def test_drops(): run("DROP DATABASE shop")
"""


def test_the_kept_connection_is_in_no_suites_way(family):
    family(DROPS).assert_silent(passed=3)


CUT = """
def test_cuts():
    admin = psycopg2.connect(DSN)
    with admin.cursor() as cursor:
        cursor.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'pytest-poolguard'"
        )
        assert cursor.rowcount == 1
    admin.close()

def test_starts(): start()
"""


def test_a_connection_of_ours_that_is_cut_is_made_anew(family):
    run = family(CUT)
    assert left(run) == [("test_starts", "a child process of this run", "failed")]
    assert run.data["notices"] == []


LATER = """
def test_starts():
    pipe = subprocess.PIPE
    command = [sys.executable, "-c", "input(); " + open("child.py").read()]
    time.sleep(0.3)  # the system counts the time of its start in ticks
    children.append(subprocess.Popen(command, stdin=pipe, stdout=pipe))
    time.sleep(0.3)

def test_makes_it_connect():
    children[0].stdin.write(b"now\\n")
    children[0].stdin.flush()
    assert children[0].stdout.readline() == b"connected\\n"
"""


def test_a_process_that_connects_during_a_later_test_is_that_ones_that_started_it(family):
    run = family(LATER)
    assert left(run) == [("test_starts", "a child process of this run", "failed")]
    run.assert_outcomes(passed=3, errors=1)
