"""The section at the end of the run: one table of sites; a guard that watched nothing never looks green."""

from __future__ import annotations

import re

import pytest

from pytest_poolguard.books.origin import Place
from pytest_poolguard.drivers.known import NEVER_IMPORTED
from pytest_poolguard.findings import Finding
from pytest_poolguard.reports import summary
from pytest_poolguard.tally import Tally


def table(text: str) -> list[str]:
    """The rows of the table, without its head."""
    lines = text.splitlines()
    start = lines.index(" conns  tests  checked out at") + 1
    rows = []
    for line in lines[start:]:
        if not re.match(r" +\d+ ", line):
            break
        rows.append(line)
    return rows


MIXED = """
def take(pool):
    return pool.getconn()

def test_twice(pool):
    take(pool), take(pool)

def test_fails(pool):
    take(pool).cursor()
    assert 0

def test_skips(pool):
    pool.getconn()
    pytest.skip("later")

@pytest.mark.xfail
def test_xfails(pool):
    pool.getconn()
    assert 0

@pytest.mark.pool(leaks=1, reason="known")
def test_known(pool):
    pool.getconn()

@pytest.mark.pool(hold=0.001)
def test_slow(pool):
    conn = pool.getconn()
    time.sleep(0.01)
    pool.putconn(conn)
"""


def test_every_leak_is_a_row_whatever_its_tests_status(suite, processes):
    text = suite.run(MIXED, *processes).text
    rows = [re.sub(r"test_suite\.py:\d+ in ", "", row) for row in table(text)]
    assert rows == [  # failures first, of these what never came back, of these the most
        "     2      1  test_twice, through take",
        "     1      1  test_fails, through take",
        "     1      1  test_slow  (held too long)",
        "     1      1  test_skips  (warning only)",
        "     1      1  test_xfails  (warning only)",
        "     1      1  test_known  (expected)",
    ]
    assert "= poolguard: 5 leaks, 1 expected leak, 1 held too long, 6 sites, 6 tests =" in text


def test_what_no_failure_tells_is_told_before_the_table(suite):
    text = suite.run(MIXED).text
    section = text[text.index("= poolguard: 5 leaks") :]
    headings = re.findall(r"^(test_suite\.py::\w+) \((.+)\)$", section, re.MULTILINE)
    assert headings == [
        ("test_suite.py::test_skips", "warning only"),
        ("test_suite.py::test_xfails", "warning only"),
        ("test_suite.py::test_known", "expected"),
    ]
    assert section.index("::test_known (expected)") < section.index(" conns  tests")


def test_a_leak_that_thirty_tests_have_in_common_is_told_once_in_warn_mode(suite):
    body = """
@pytest.mark.parametrize("n", range(8))
def test_it(pool, n):
    pool.getconn()
"""
    text = suite.run(body, "--poolguard=warn").text
    assert text.count("hint:") == 1
    assert "… 7 more like these (-v shows them)" in text
    assert [row.split()[:2] for row in table(text)] == [["8", "8"]]
    assert suite.run(body, "--poolguard=warn", "-v").text.count("hint:") == 8


def test_of_many_sites_fifteen_are_shown_and_all_with_v(suite):
    body = "def test_it(pool):\n" + "".join(f"    c{number} = pool.getconn()\n" for number in range(9))
    body += "def test_more(pool):\n" + "".join(f"    c{number} = pool.getconn()\n" for number in range(9))
    text = suite.run(body).text
    assert len(table(text)) == 16
    assert table(text)[-1] == "     3         at 3 more sites (-v shows them)"
    assert len(table(suite.run(body, "-v").text)) == 18


def test_a_suite_without_leaks_prints_nothing_else(suite, processes):
    run = suite.run("def test_it(pool):\n    pool.putconn(pool.getconn())\n", *processes)
    run.assert_silent(passed=1)
    assert "poolguard" not in run.text.partition("collected")[2].replace("findings", "")


def test_v_tells_what_was_watched(suite):
    text = suite.run("def test_it(pool):\n    pool.putconn(pool.getconn())\n", "-v").text
    assert re.search(r"^poolguard: 1 connection taken from 1 pools? of psycopg2 2\.[\d.]+", text, re.MULTILINE)


def test_a_run_that_never_imported_psycopg2_says_so(suite):
    suite.file("test_plain.py", "def test_it(): pass\n")
    # psycopg2 is imported here already: that takes a process of its own
    run = suite.again("-p", "no:postgresql", "-p", "no:pytest_postgresql", subprocess=True)
    assert run.result.ret == 0
    assert f"{NEVER_IMPORTED}\n" in run.text


def test_a_run_that_imported_psycopg2_and_used_no_pool_says_so(suite):
    run = suite.run("import psycopg2\ndef test_it(): pass\n", header="", subprocess=True)
    assert re.search(
        r"^poolguard: no connection pool was seen in this run \(psycopg2 2\.\S+ was imported\)$",
        run.text,
        re.MULTILINE,
    )
    assert run.text.count("poolguard: no connection pool") == 1


def test_idle_connections_of_open_pools_are_one_line_with_their_places(suite):
    run = suite.run(
        "pools = [ThreadedConnectionPool(2, 3, DSN) for _ in range(2)]\n"
        + "".join(f"p{number} = ThreadedConnectionPool(1, 3, DSN)\n" for number in range(3))
        + "def test_it(): pass\n"
    )
    (line,) = [line for line in run.text.splitlines() if "idle in" in line]
    assert re.fullmatch(
        r"poolguard: 7 connections idle in 5 pools still open at the end, made at "
        r"test_suite\.py:\d+, test_suite\.py:\d+, test_suite\.py:\d+ and 1 more",
        line,
    )
    assert run.result.ret == 0


LEAK = "def test_it(pool):\n    conn = pool.getconn()\n"
ROW = r"^     1      1  test_suite\.py:\d+ in test_it$"
SHORT = r"^FAILED test_suite\.py::test_it - poolguard: 1 connection never "


@pytest.mark.parametrize(
    "options", [["-q"], ["-qq"], ["--tb=no"], ["--tb=short"], ["--tb=line"], ["-rf"], ["-rA"]]
)
def test_a_leak_is_seen_whatever_is_asked_for(suite, options):
    text = suite.run(LEAK, *options).text
    assert re.search(ROW, text, re.MULTILINE)
    if "-qq" not in options:  # pytest leaves its short summary out there
        assert len(re.findall(SHORT, text, re.MULTILINE)) == 1
    assert text.count("hint: ") == (0 if "--tb=no" in options else 1)


def test_no_summary_shows_as_little_as_pytest_does(suite):
    run = suite.run(LEAK, "--no-summary")
    run.assert_outcomes(failed=1)
    assert run.result.ret == 1
    assert "hint: " not in run.text


def test_tb_line_and_annotations_name_the_users_line(suite):
    line = suite.run(LEAK, "--tb=line").text
    assert re.search(r"/test_suite\.py:\d+: poolguard: 1 connection never returned \(", line)


# single pieces


class Terminal:
    def __init__(self):
        self.lines = []

    def write_sep(self, sep, title, **markup):
        self.lines.append((title, markup))

    def write_line(self, line, **markup):
        self.lines.append(line)


def written(tally, verbosity=0):
    terminal = Terminal()
    summary.write(terminal, tally, verbosity)
    return terminal.lines


def test_nothing_to_say_is_nothing_said():
    assert written(Tally(patched=["psycopg2 2.9"], pools=1)) == []


def test_a_library_that_is_not_watched_is_not_called_never_imported():
    lines = written(Tally(unwatched=["psycopg2 3.0 is not watched: psycopg2.pool has no _getconn"]))
    assert lines == [
        ("poolguard", {}),
        "poolguard: psycopg2 3.0 is not watched: psycopg2.pool has no _getconn",
    ]


def test_open_pools_without_a_place_are_counted():
    lines = written(Tally(patched=["p"], pools=1, open_pools=[(None, 2)]))
    assert lines[1:] == ["poolguard: 2 connections idle in a pool still open at the end"]


def test_faults_are_red_lines_of_their_own():
    lines = written(Tally(patched=["p"], pools=1, faults=["KeyError while noting a pool"]))
    assert lines == [
        ("poolguard", {"red": True}),
        "poolguard: internal error, the results are as without it: KeyError while noting a pool",
    ]


def test_a_backend_left_on_the_server_has_a_section_of_its_own_with_its_worker():
    finding = Finding(
        "server_backend",
        "psycopg2",
        "",
        "session",
        "session",
        acquired=Place("shop.py", 3, "connect", "…"),
        server={"age_seconds": "1", "state_seconds": "0", "transaction_seconds": "0", "waits_for": ""},
        worker="gw1",
    )
    tally = Tally(patched=["p"], pools=1)
    tally.add_outside([finding, finding])
    lines = written(tally)
    assert lines[0] == ("poolguard: 2 connections left on the server, 1 site", {"red": True})
    assert lines[1] == "outside any test [gw1]"
    assert lines[-1] == "     2      0  shop.py:3 in connect"


def test_a_fault_in_the_summary_does_not_break_the_run(suite, monkeypatch):
    def broken(*args):
        raise KeyError("oops")

    monkeypatch.setattr(summary, "title", broken)
    run = suite.run(LEAK)
    run.result.assert_outcomes(failed=1)
    assert (
        "poolguard: internal error, the results are as without it: KeyError while writing the summary" in run.text
    )
    assert "INTERNALERROR" not in run.text
