"""Who holds what, told in the middle of a run: to a signal, and to pytest-timeout."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time

import pytest
from conftest import HEADER

if not hasattr(signal, "SIGUSR1"):
    pytest.skip("there are no such signals here", allow_module_level=True)

WAITS_IN_C = """
def test_it(pool):
    conn = pool.getconn()  # here
    with conn.cursor() as cursor:
        open("is_there", "w").close()
        cursor.execute("SELECT pg_sleep(2)")
    pool.putconn(conn)
"""


def wait_for(path) -> None:
    for _ in range(2000):
        if path.exists():
            return
        time.sleep(0.01)
    pytest.fail("the suite did not begin")


def test_a_signal_is_answered_from_the_middle_of_a_query(suite):
    """Beyond the capture, and while the main thread is in C code."""
    suite.setting("poolguard_dump_signal", "SIGUSR1")
    suite.file("test_suite.py", HEADER + WAITS_IN_C)
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "test_suite.py"]
    process = subprocess.Popen(
        command, cwd=suite.path, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env={**os.environ}
    )
    wait_for(suite.path / "is_there")
    begin = time.monotonic()
    process.send_signal(signal.SIGUSR1)
    read = []
    for line in process.stderr:
        read.append(line)
        if "test_suite.py" in line and "out for" in "".join(read):
            break
    assert time.monotonic() - begin < 1.5  # not when the query is over
    rest = process.communicate()
    text = "".join(read)
    assert 'test_suite.py", line' in text  # where the threads are, by faulthandler
    assert "1 of 10 is in use by 1 live thread" in text
    assert "not known" not in text  # nothing was refused: the other 9 are free
    assert "thread MainThread  test_it  test_suite.py" in text
    assert process.returncode == 0, rest
    assert "1 passed" in rest[0]


def test_a_handler_of_the_suites_own_stays(suite):
    suite.file(
        "conftest.py",
        "import signal\nheard = []\nsignal.signal(signal.SIGUSR2, lambda *_: heard.append(1))\n",
    )
    result = suite.run(
        """
import signal
from conftest import heard
def test_it(pool):
    signal.raise_signal(signal.SIGUSR2)
    assert heard == [1]
""",
        "--poolguard-dump-signal=SIGUSR2",
        subprocess=True,
    )
    result.assert_silent(passed=1)
    assert "poolguard_dump_signal is without effect: somebody else handles SIGUSR2" in result.text


def test_nothing_is_out(suite):
    result = suite.run(
        """
import signal
def test_it():
    signal.raise_signal(signal.SIGUSR1)
    time.sleep(0.3)
""",
        "--poolguard-dump-signal=SIGUSR1",
        subprocess=True,
    )
    result.assert_silent(passed=1)
    assert "poolguard: no connection is checked out" in result.result.stderr.str()


@pytest.mark.parametrize("method", ["signal", "thread"])
def test_what_pytest_timeout_ends(suite, method):
    result = suite.run(
        """
def test_it(pool):
    conn = pool.getconn()
    try:
        threading.Event().wait()
    finally:
        pool.putconn(conn)
""",
        "-ppytest_timeout",
        "--timeout=0.5",
        f"--timeout-method={method}",
        subprocess=True,
    )
    lines = result.text if method == "signal" else result.text + result.result.stderr.str()
    assert "1 of 10 is in use by 1 live thread" in lines
    assert "thread MainThread  test_it  test_suite.py" in lines
    if method == "signal":
        result.assert_outcomes(failed=1)
        assert "pytest-timeout ended the test: who has the connections of ThreadedConnectionPool(1..10)" in lines
