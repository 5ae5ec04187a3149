"""The guard is on wherever the plugin is loaded, and nowhere else."""

from __future__ import annotations

import pytest

LEAK = "def test_leaks(pool):\n    pool.getconn()\n"
REPAIRED = "def test_returns(pool):\n    pool.putconn(pool.getconn())\n"

#: Python reads this at its start: an environment in which pytest-poolguard is not installed.
NOT_INSTALLED = """
import importlib.metadata

find = importlib.metadata.distributions
importlib.metadata.distributions = lambda **context: [
    found for found in find(**context) if found.metadata["Name"] != "pytest-poolguard"
]
"""


@pytest.mark.parametrize(
    ("autoload", "options"),
    [(True, ()), (True, ("-p", "poolguard")), (False, ("-p", "poolguard"))],
    ids=["installed", "asked for", "asked for, without autoload"],
)
def test_the_guard_is_on_where_the_plugin_is_loaded(suite, monkeypatch, autoload, options):
    if not autoload:
        monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")
    run = suite.run(LEAK, *options, subprocess=True)
    run.assert_outcomes(failed=1)
    suite.run(REPAIRED, *options, subprocess=True).assert_silent(passed=1)


def test_the_workers_of_a_run_without_autoload_are_guarded_too(suite, monkeypatch):
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")
    options = ("-p", "xdist", "-n2", "-p", "poolguard")
    suite.run(LEAK, *options, subprocess=True).assert_outcomes(failed=1)
    suite.run(REPAIRED, *options, subprocess=True).assert_silent(passed=1)


def test_p_no_poolguard_removes_it(suite, monkeypatch):
    """No option, no marker, no report."""
    monkeypatch.setenv("PYTEST_ADDOPTS", "-p no:poolguard")
    suite.file("test_suite.py", "def test_it(): pass\n")
    result = suite.pytester.runpytest_subprocess("-p", "no:cacheprovider")
    result.assert_outcomes(passed=1)
    assert "poolguard:" not in result.stdout.str()
    assert "@pytest.mark.pool" not in suite.pytester.runpytest_subprocess("--markers").stdout.str()
    assert suite.pytester.runpytest_subprocess("--poolguard=fail").ret == pytest.ExitCode.USAGE_ERROR


def test_a_run_that_asks_for_it_and_lacks_it_stops(suite, monkeypatch):
    suite.file("sitecustomize.py", NOT_INSTALLED)
    suite.file("test_suite.py", "def test_it(): pass\n")
    monkeypatch.setenv("PYTHONPATH", str(suite.path))
    suite.pytester.runpytest_subprocess().assert_outcomes(passed=1)
    result = suite.pytester.runpytest_subprocess("-p", "poolguard")
    assert result.ret != 0
    assert 'Error importing plugin "poolguard"' in result.stderr.str()


def test_off_leaves_the_library_alone(suite):
    suite.run(
        """
def test_it():
    assert not hasattr(psycopg2.connect, "__wrapped__")
    assert not hasattr(ThreadedConnectionPool._getconn, "__wrapped__")
""",
        "--poolguard=off",
        subprocess=True,
    ).result.assert_outcomes(passed=1)


def test_the_fixture_skips_its_test_where_the_guard_is_off(suite):
    suite.run("def test_it(poolguard): pass\n", "--poolguard=off").result.assert_outcomes(skipped=1)
