"""The report of one leaking test: everything a tired person needs, on one screen."""

from __future__ import annotations

import re

import pytest

from pytest_poolguard.books.origin import Place
from pytest_poolguard.findings import Finding
from pytest_poolguard.reports.backends import age
from pytest_poolguard.reports.text import block, blocks

SHOP = """
import os
from psycopg2.pool import ThreadedConnectionPool

pool = ThreadedConnectionPool(1, 50, os.environ["SUITE_DSN"])

def take():
    conn = pool.getconn()
    conn.cursor().execute("SELECT 1")

def deep(n):
    if n:
        return deep(n - 1)
    conn = pool.getconn()
"""


def report(text: str, test: str) -> list[str]:
    """The lines that pytest prints about one failed test."""
    (found,) = re.findall(rf"^_+ {test} _+\n(.+?)\n(?=__|==|--)", text, re.MULTILINE | re.DOTALL)
    return found.splitlines()


def run(suite, source, *args):
    suite.file("shop.py", SHOP)
    return suite.run(f"from shop import *\n{source}", *args, header="")


def test_one_leak_is_told_whole_in_nine_lines(suite):
    lines = report(run(suite, "def test_it():\n    take()\n").text, "test_it")
    shape = [
        r"1 connection was never returned to ThreadedConnectionPool\(1\.\.50\) made at shop\.py:5",
        r"",
        r"  checked out in the test body, \d+ ms before the test ended, by thread MainThread",
        r"  backend pid \d+, idle in transaction, last statement: SELECT \?",
        r"",
        r"    test_suite\.py:3  test_it  take\(\)",
        r"  > shop\.py:8        take     conn = pool\.getconn\(\)",
        r"",
        r"  hint: take never gave it back; call putconn\(\) in a finally block",
    ]
    assert len(lines) == len(shape)
    for line, pattern in zip(lines, shape, strict=True):
        assert re.fullmatch(pattern, line), (line, pattern)


def test_the_repaired_test_is_told_nothing_of(suite):
    suite.file("shop.py", SHOP.replace('conn.cursor().execute("SELECT 1")', "pool.putconn(conn)"))
    outcome = suite.run("from shop import *\ndef test_it():\n    take()\n", header="")
    outcome.assert_silent(passed=1)
    assert "never returned" not in outcome.text


def test_thirty_connections_from_one_line_are_one_block(suite):
    lines = report(
        run(suite, "def test_it():\n    for _ in range(30):\n        pool.getconn()\n").text, "test_it"
    )
    assert lines[0].startswith("30 connections were never returned to ThreadedConnectionPool(1..50)")
    assert ", the first " in lines[2]
    assert lines[3].endswith("(the first of 30; -v tells all)")
    assert len(lines) == 8


def test_thirty_connections_from_one_line_are_told_one_by_one_with_v(suite):
    lines = report(
        run(suite, "def test_it():\n    for _ in range(30):\n        pool.getconn()\n", "-v").text, "test_it"
    )
    each = [
        line for line in lines if re.match(r"  backend pid \d+, idle, out for .+, by thread MainThread$", line)
    ]
    assert len(each) == 30
    assert len(set(each)) == 30


@pytest.mark.parametrize(("sites", "height"), [(10, 28), (30, 31)])
def test_leaks_at_many_places_fit_one_screen(suite, sites, height):
    body = "".join(f"    c{number} = pool.getconn()\n" for number in range(sites))
    lines = report(run(suite, f"def test_it():\n{body}").text, "test_it")
    assert len(lines) == height
    assert sum(line.startswith("  hint:") for line in lines) == 2
    assert f"{sites - 2} more places in the same test (-v tells all):" in lines
    assert "    1 connection  test_suite.py:5 in test_it  c2 = pool.getconn()" in lines
    if sites == 30:
        assert lines[-1] == "    … 18 connections at 18 more places"


def test_v_tells_of_every_place(suite):
    body = "".join(f"    c{number} = pool.getconn()\n" for number in range(10))
    lines = report(run(suite, f"def test_it():\n{body}", "-v").text, "test_it")
    assert sum(line.startswith("  hint:") for line in lines) == 10


def test_a_deep_recursion_is_cut_in_the_middle(suite):
    outcome = run(suite, "def test_it():\n    deep(40)\n")
    frames = [line for line in report(outcome.text, "test_it") if ".py:" in line and "made at" not in line]
    assert len(frames) == 8
    assert frames[0].startswith("    test_suite.py:3")
    assert frames[-1].startswith("  > shop.py:14")
    assert "    … 34 more frames (-v shows them)" in outcome.text
    assert len(outcome.findings[0]["stack"]) > 42


def test_v_shows_every_frame_and_those_of_libraries(suite):
    text = run(suite, "def test_it():\n    deep(40)\n", "-v").text
    assert text.count("deep(n - 1)") == 40
    assert "more frames" not in text
    assert re.search(r"^  · .*psycopg2/pool\.py:\d+ +getconn ", text, re.MULTILINE)


def test_plumbing_is_folded(suite):
    """pytest, pluggy, contextlib, concurrent.futures, threading, psycopg2 and the guard itself."""
    outcome = run(
        suite,
        """
import contextlib, concurrent.futures

@contextlib.contextmanager
def lent():
    conn = pool.getconn()
    yield conn

def work():
    with lent():
        pass

def test_it():
    with concurrent.futures.ThreadPoolExecutor(1, "worker") as executor:
        executor.submit(work).result()
""",
    )
    lines = report(outcome.text, "test_it")
    frames = [line.split()[-4:] for line in lines if "test_suite.py:" in line]
    assert len(frames) == 2
    for plumbing in ("contextlib.py", "threading.py", "futures", "psycopg2/pool", "poolguard/"):
        assert not any(plumbing in line for line in lines)
    assert any("by thread worker_0" in line for line in lines)


def test_a_connection_taken_by_a_library_alone_shows_its_frame(suite):
    text = run(suite, "def test_it():\n    exec('pool.getconn()')\n").text
    assert "  > test_suite.py:3  test_it  exec('pool.getconn()')" in text


def test_connections_of_several_threads_name_the_first_of_them(suite):
    outcome = run(
        suite,
        """
import threading

def test_it():
    for number in range(5):
        thread = threading.Thread(target=take, name=f"t-{number}")
        thread.start()
        thread.join()
""",
    )
    (line,) = [line for line in report(outcome.text, "test_it") if "by thread" in line]
    assert line.endswith("by threads t-0, t-1, t-2 and 2 more")


def test_a_pool_whose_making_was_not_seen_is_told_by_its_first_use(suite):
    outcome = suite.run(
        """
class Own(ThreadedConnectionPool):
    def __init__(self):
        self.minconn, self.maxconn, self.closed = 0, 3, False
        self._args, self._kwargs = (DSN,), {}
        self._pool, self._used, self._rused, self._keys = [], {}, {}, 0
        self._lock = threading.Lock()

def test_it():
    pool = Own()
    pool.getconn()
"""
    )
    (finding,) = outcome.findings
    assert finding["pool"]["first_used"]
    assert re.search(r"never returned to Own\(0\.\.3\) first used at test_suite\.py:\d+", outcome.text)


def test_a_fixture_is_named_with_scope_and_place(suite):
    outcome = run(
        suite,
        """
import pytest

@pytest.fixture(scope="module")
def taken():
    take()

def test_it(taken): pass
""",
    )
    text = " ".join(outcome.text.split())
    assert "checked out in the set-up of fixture taken (scope module, test_suite.py:5), " in text
    assert "before the fixture ended" in text


def test_where_a_pool_was_closed_is_told(suite):
    text = run(suite, "def test_it():\n    take()\n    pool.closeall()\n").text
    assert "  its pool was closed while it was out, at test_suite.py:4 in test_it\n" in text


def test_a_held_connection_is_told_with_its_limit(suite):
    text = run(
        suite,
        """
import pytest, time

@pytest.mark.pool(hold=0.01)
def test_it():
    conn = pool.getconn()
    time.sleep(0.05)
    pool.putconn(conn)
""",
    ).text
    pool = r"ThreadedConnectionPool\(1\.\.50\) made at shop\.py:5"
    assert re.search(rf"1 connection of {pool} was out for \d+ ms, longer than hold=0\.01", text)
    assert "  checked out in the test body, by thread MainThread\n" in text


# single pieces


@pytest.mark.parametrize(
    ("seconds", "said"),
    [
        (0, "0 ms"),
        (0.0144, "14 ms"),
        (0.9994, "999 ms"),
        (0.9996, "1.0 s"),
        (59.94, "59.9 s"),
        (59.96, "1 min 0 s"),
        (119.7, "2 min 0 s"),
        (3725, "62 min 5 s"),
    ],
)
def test_durations(seconds, said):
    assert age(seconds) == said


def finding(kind="checked_out", **changes) -> Finding:
    return Finding(kind, "psycopg2", "Pool(1..2)", "test", "test_it", phase="body", **changes)


def test_a_leak_without_a_known_frame_says_so():
    text = block([finding()])
    assert "(no Python frame is known)" in text
    assert text.startswith("1 connection was never returned to Pool(1..2)\n")


def test_places_without_a_block_are_told_with_what_is_known():
    line = Place("a.py", 3, "f", "conn = get()")
    text = blocks(
        [
            finding(hint="1"),
            finding(hint="2"),
            finding(hint="3"),
            finding("held_too_long", acquired=line, limit_seconds=1),
        ]
    )
    assert text.endswith(
        "2 more places in the same test (-v tells all):\n\n"
        "    1 connection  an unknown place\n"
        "    1 connection, held too long  a.py:3 in f  conn = get()"
    )


def test_one_more_place_is_counted_as_one():
    assert "\n1 more place in the same test" in blocks([finding(hint=str(number)) for number in range(3)])


def test_connections_of_a_group_are_told_with_what_is_known_of_each():
    text = block([finding(held_seconds=1, backend_pid=7), finding(held_seconds=2)], verbosity=1)
    assert "  backend pid 7, out for 1.0 s, by thread MainThread\n" in text
    assert text.endswith("  out for 2.0 s, by thread MainThread")


def test_a_backend_left_on_the_server_is_told_with_its_words():
    server = {
        "state": "idle",
        "state_seconds": "2.5",
        "transaction_seconds": "2.5",
        "waits_for": "",
        "age_seconds": "61",
        "application": "shop",
        "statement": "SELECT ?",
    }
    group = [
        finding("server_backend", backend_pid=7, server=server),
        finding(
            "server_backend",
            backend_pid=8,
            server={"age_seconds": "1", "state_seconds": "0", "transaction_seconds": "0", "waits_for": ""},
        ),
    ]
    text = block(group)
    assert text.startswith("2 connections that this run opened are still open on the server\n")
    assert (
        "  backend pid 7, idle for 2.5 s, connected for 1 min 1 s, application shop, last statement: SELECT ?\n"
        in text
    )
    assert "  backend pid 8, connected for 1.0 s\n" in text
    assert block(group[:1]).startswith("1 connection that this run opened is still open on the server\n")
