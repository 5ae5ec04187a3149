"""A leaking test is FAILED, once, wherever pytest counts."""

from __future__ import annotations

import xml.etree.ElementTree as ET

import pytest

LEAK = """
def leak(pool):
    conn = pool.getconn()

def test_leaks(pool):
    leak(pool)

def test_clean(pool):
    pool.putconn(pool.getconn())
"""


def test_a_leaking_test_fails_once(suite, processes):
    run = suite.run(LEAK, *processes)
    run.assert_outcomes(failed=1, passed=1)
    assert run.result.ret == 1
    assert run.blamed == ["test_leaks"]
    assert run.sites == ["leak: conn = pool.getconn()"]
    assert [f["verdict"] for f in run.findings] == ["failed"]


def test_the_same_test_is_silent_once_it_returns_the_connection(suite, processes):
    suite.run(LEAK.replace("conn = pool.getconn()", "pool.putconn(pool.getconn())"), *processes).assert_silent(
        passed=2
    )


def test_the_short_summary_names_the_site(suite, processes):
    run = suite.run(LEAK, *processes, "-rf")
    run.result.stdout.fnmatch_lines(
        ["FAILED test_suite.py::test_leaks - poolguard: 1 connection never returned*"]
    )


def test_the_terminal_shows_it_as_a_failure_not_as_an_error(suite, processes):
    text = suite.run(LEAK, *processes, "-v").text
    assert "FAILURES" in text
    assert "ERROR" not in text
    assert text.count("test_leaks FAILED") + text.count("FAILED test_suite.py::test_leaks") >= 1
    assert "test_leaks PASSED" not in text
    assert "PASSED test_suite.py::test_leaks" not in text


def test_junit_has_one_failure_and_no_error(suite, processes):
    suite.run(LEAK, *processes, "--junitxml=junit.xml")
    tree = ET.parse(suite.path / "junit.xml").getroot()[0]
    assert (tree.get("tests"), tree.get("failures"), tree.get("errors")) == ("2", "1", "0")
    (failure,) = tree.iter("failure")
    assert "1 connection never returned" in failure.get("message")
    assert "conn = pool.getconn()" in failure.text


def test_last_failed_selects_the_leaking_test(suite):
    suite.run(LEAK)
    suite.pytester.runpytest()
    result = suite.pytester.runpytest("--lf", "-v")
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["*test_leaks FAILED*"])


def test_x_stops_after_the_leaking_test(suite):
    run = suite.run(LEAK, "-x")
    run.assert_outcomes(failed=1)
    assert "stopping after 1 failures" in run.text


def test_maxfail_counts_a_leak_as_one_failure(suite):
    body = "".join(f"\ndef test_{n}(pool):\n    pool.getconn()\n" for n in range(4))
    run = suite.run(body, "--maxfail=2")
    run.assert_outcomes(failed=2)


def test_stepwise_stops_at_the_leaking_test(suite):
    suite.run(LEAK)
    for _ in range(2):
        suite.pytester.runpytest("--sw").assert_outcomes(failed=1)


def test_reruns_run_the_leaking_test_again_and_count_it_once(suite, processes):
    run = suite.run(LEAK, *processes, "--reruns=2")
    run.result.assert_outcomes(failed=1, passed=1)
    assert "2 rerun" in run.text
    assert run.blamed == ["test_leaks"] * 3


def test_a_rerun_that_does_not_leak_passes(suite):
    run = suite.run(
        """
tries = []

def test_leaks_at_first(pool):
    tries.append(1)
    conn = pool.getconn()
    if len(tries) > 1:
        pool.putconn(conn)
""",
        "--reruns=1",
    )
    run.result.assert_outcomes(passed=1)
    assert run.result.ret == 0
    assert run.blamed == ["test_leaks_at_first"]


def test_durations_count_the_call_once(suite):
    run = suite.run(LEAK, "--durations=0", "-vv")
    assert run.text.count("s call     test_suite.py::test_leaks") == 1


def test_a_test_that_failed_by_itself_keeps_its_one_failure_with_the_leak_under_it(suite, processes):
    run = suite.run("def test_fails(pool):\n    conn = pool.getconn()\n    assert 1 == 2\n", *processes)
    run.assert_outcomes(failed=1)
    text = run.text
    assert text.index("assert 1 == 2") < text.index("poolguard: found at teardown")
    assert "1 connection was never returned" in text
    assert "FAILED test_suite.py::test_fails - assert 1 == 2" in text
    assert run.blamed == ["test_fails"]


def test_a_test_whose_setup_failed_keeps_its_one_error_and_the_leak_is_in_the_summary(suite, processes):
    run = suite.run(
        """
@pytest.fixture
def broken(pool):
    conn = pool.getconn()
    raise ValueError("no set-up")

def test_it(broken): pass
""",
        *processes,
    )
    run.assert_outcomes(errors=1)
    assert run.sites == ["broken: conn = pool.getconn()"]
    assert "1 connection was never returned" in run.text


def test_an_xfailed_test_keeps_its_status_and_its_leak_is_a_row(suite, processes):
    run = suite.run(
        "@pytest.mark.xfail\ndef test_x(pool):\n    conn = pool.getconn()\n    assert 0\n", *processes
    )
    run.assert_outcomes(xfailed=1)
    assert run.result.ret == 0
    run.result.stdout.fnmatch_lines(["*1      1  test_suite.py:*in test_x*"])


def test_an_xpassed_test_keeps_its_status(suite):
    run = suite.run("@pytest.mark.xfail\ndef test_x(pool):\n    pool.getconn()\n")
    run.assert_outcomes(xpassed=1)
    assert run.blamed == ["test_x"]


def test_a_test_that_skips_itself_keeps_its_status(suite, processes):
    run = suite.run("def test_s(pool):\n    pool.getconn()\n    pytest.skip('later')\n", *processes)
    run.assert_outcomes(skipped=1)
    assert run.result.ret == 0
    assert run.blamed == ["test_s"]


def test_the_leaked_connection_is_reclaimed_so_that_no_later_test_is_the_victim(suite):
    run = suite.run(
        """
def test_leaks_all(pool):
    for _ in range(10):
        pool.getconn()

def test_later(pool):
    assert pool._used == {}
    taken = [pool.getconn() for _ in range(10)]
    for conn in taken:
        pool.putconn(conn)
"""
    )
    run.assert_outcomes(failed=1, passed=1)
    assert run.blamed == ["test_leaks_all"] * 10


def test_a_reclaimed_connection_is_gone_from_the_server(suite):
    run = suite.run(
        """
pids = []

def test_leaks(pool):
    pids.append(pool.getconn().info.backend_pid)

def test_later(pool):
    conn = pool.getconn()
    with conn.cursor() as cursor:
        for _ in range(100):
            cursor.execute("SELECT count(*) FROM pg_stat_activity WHERE pid = %s", pids)
            if cursor.fetchone() == (0,):
                break
            conn.rollback()
            time.sleep(0.05)
        else:
            pytest.fail("still there")
    pool.putconn(conn)
"""
    )
    run.assert_outcomes(failed=1, passed=1)


def test_warn_reports_changes_no_outcome_and_reclaims_nothing(suite, processes):
    run = suite.run(
        """
def test_leaks(pool):
    pool.getconn()

def test_later(pool):
    assert len(pool._used) == (1 if os.environ.get("PYTEST_XDIST_WORKER") is None else len(pool._used))
""",
        *processes,
        "--poolguard=warn",
    )
    run.assert_outcomes(passed=2)
    assert run.result.ret == 0
    assert [(f["nodeid"], f["verdict"]) for f in run.findings] == [("test_suite.py::test_leaks", "warned")]
    assert "1 connection was never returned" in run.text


def test_warn_can_be_set_in_the_ini_file(suite):
    suite.setting("poolguard", "warn")
    run = suite.run(LEAK)
    run.assert_outcomes(passed=2)
    assert len(run.findings) == 1


def test_a_flag_wins_over_the_ini_file(suite):
    suite.setting("poolguard", "warn")
    suite.run(LEAK, "--poolguard=fail").assert_outcomes(failed=1, passed=1)


def test_off_watches_nothing(suite, processes):
    run = suite.run(LEAK, *processes, "--poolguard=off")
    run.result.assert_outcomes(passed=2)
    assert run.data == {}
    assert "poolguard:" not in run.text


def test_a_leak_in_a_teardown_that_nothing_foretold_is_an_error_of_that_teardown(suite, processes):
    """The call report is out by then; pytest shows faults of a teardown so."""
    run = suite.run(
        """
@pytest.fixture
def late(pool):
    yield
    pool.getconn()

def test_it(late): pass
""",
        *processes,
    )
    run.assert_outcomes(passed=1, errors=1)
    assert run.findings[0]["owner"]["name"] == "late"
    assert run.findings[0]["phase"] == "teardown"


@pytest.mark.skipif(pytest.version_tuple < (9,), reason="pytest has subtests from version 9 on")
def test_subtests_that_leak_fail_their_test_once(suite):
    run = suite.run(
        """
def test_it(pool, subtests):
    for n in range(3):
        with subtests.test(n=n):
            pool.getconn()
"""
    )
    assert run.result.parseoutcomes()["failed"] == 1
    assert run.blamed == ["test_it"] * 3


def test_hooks_of_a_conftest_see_the_real_call_report(suite):
    """pytest's own recipe for test results in fixtures has a wrapper that is tryfirst, like ours."""
    suite.file(
        "conftest.py",
        """
import pytest

KEY = pytest.StashKey()

@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_makereport(item, call):
    report = yield
    item.stash.setdefault(KEY, {})[report.when] = report
    return report

@pytest.fixture
def outcome(request):
    yield
    reports = request.node.stash[KEY]
    assert reports["call"].passed and reports["call"].when == "call"
    print("SEEN", sorted(reports))
""",
    )
    run = suite.run("def test_leaks(pool, outcome):\n    pool.getconn()\n", "-s")
    run.assert_outcomes(failed=1)
    assert "SEEN ['call', 'setup']" in run.text


def test_a_doctest_that_leaks_fails(suite):
    suite.file(
        "shop.py",
        '''
def take():
    """
    >>> import os, psycopg2.pool
    >>> pool = psycopg2.pool.SimpleConnectionPool(1, 2, os.environ["SUITE_DSN"])
    >>> conn = pool.getconn()
    """
''',
    )
    run = suite.again("--doctest-modules", "shop.py")
    run.assert_outcomes(failed=1)
    assert run.findings[0]["nodeid"] == "shop.py::shop.take"
    assert run.findings[0]["acquired"]["file"].startswith("<doctest shop.take")
