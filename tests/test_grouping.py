"""Hundreds of leaks are told as the few sites that make them."""

from __future__ import annotations

import re
import time
from dataclasses import replace

import pytest

from pytest_poolguard.books.origin import Place
from pytest_poolguard.findings import Finding
from pytest_poolguard.reports import summary
from pytest_poolguard.reports.sites import by_site
from pytest_poolguard.tally import Tally


class Terminal:
    def __init__(self):
        self.lines = []

    def write_sep(self, sep, title, **markup):
        self.lines.append(title)

    def write_line(self, line, **markup):
        self.lines += line.split("\n")


def leaks(count: int, sites: int, depth: int = 30, **changes) -> list[Finding]:
    """Leaks of 371 tests, each with a stack of its own."""
    found = []
    for number in range(count):
        site = Place(f"shop/part{number % sites}.py", 10, "take", "conn = pool.getconn()")
        test = Place("tests/test_shop.py", number % 371, f"test_{number % 371}", "shop.sell()")
        stack = [test, *(Place(f"shop/m{n}.py", n, f"f{n}", f"f{n + 1}()") for n in range(depth)), site]
        given = {"acquired": site, "stack": stack, "nodeid": f"tests/test_shop.py::test_{number % 371}"}
        given |= {
            "owner_kind": "test",
            "owner_name": f"test_{number % 371}",
            "verdict": "warned",
            "hint": "return it",
        }
        found.append(Finding("checked_out", "psycopg2", "SimpleConnectionPool(1..2)", **(given | changes)))
    return found


def written(findings: list[Finding], verbosity: int = 0) -> list[str]:
    tally = Tally(patched=["psycopg2 2.9"], pools=1)
    tally.add_outside(findings)
    terminal = Terminal()
    summary.write(terminal, tally, verbosity)
    return terminal.lines


def test_four_hundred_leaks_are_twelve_sites_with_an_example_each():
    lines = written(leaks(400, 12, depth=2))
    assert lines[0] == "poolguard: 400 leaks, 12 sites, 371 tests"
    rows = [line for line in lines if re.match(r" +3[34] +3[34]  shop/part", line)]
    assert len(rows) == 12
    told = [line for line in lines if line.startswith("  > shop/part")]
    assert len(told) == len(set(told)) >= 5
    assert len(lines) <= 100


@pytest.mark.parametrize("sites", [1, 12, 10_000])
def test_ten_thousand_leaks_are_a_screen_or_two_within_two_seconds(sites):
    findings = leaks(10_000, sites)
    begin = time.process_time()
    lines = written(findings)
    assert time.process_time() - begin < 2
    assert 15 < len(lines) <= 100
    assert any("more like these (-v shows them)" in line for line in lines)


def test_v_tells_all():
    lines = written(leaks(100, 20, depth=1), verbosity=1)
    assert len([line for line in lines if line.startswith("  > shop/part")]) == 100
    assert len([line for line in lines if re.match(r" +5 +5  shop/part", line)]) == 20


def test_the_time_grows_with_the_number_of_leaks_and_no_faster():
    def seconds(count: int) -> float:
        findings = leaks(count, count)
        spans = []
        for _ in range(3):
            begin = time.perf_counter()
            written(findings)
            spans.append(time.perf_counter() - begin)
        return min(spans)

    assert seconds(8000) < 40 * seconds(1000)  # eight times as long; a square would be 64 times


def of(kind: str, verdict: str, file: str, count: int = 1) -> list[Finding]:
    at = Place(file, 1, "f", "f()")
    one = Finding(kind, "psycopg2", "", "test", "it", acquired=at, stack=[at], verdict=verdict)
    return [replace(one) for _ in range(count)]


def test_what_harms_most_comes_first():
    expected = [
        of("checked_out", "failed", "a.py", 2),
        of("checked_out", "failed", "b.py"),
        of("checked_out", "failed", "c.py"),
        of("held_too_long", "failed", "d.py", 9),
        of("checked_out", "warned", "e.py", 9),
        of("pool_not_closed", "warned", "f.py", 9),
        of("checked_out", "expected", "g.py", 9),
        of("checked_out", "known", "h.py", 9),
        of("checked_out", "ignored", "i.py", 9),
    ]
    ranked = by_site(finding for findings in reversed(expected) for finding in findings)
    assert [site.findings for site in ranked] == expected


def test_what_is_known_or_ignored_is_counted_and_told_with_v_only():
    findings = of("checked_out", "known", "a.py", 3) + of("checked_out", "ignored", "b.py")
    assert written(findings) == [
        "poolguard: 3 known, 1 ignored, 2 sites",
        " conns  tests  checked out at",
        "     3      0  a.py:1 in f  (known)",
        "     1      0  b.py:1 in f  (ignored)",
    ]
    assert [line for line in written(findings, 1) if line.startswith("outside any test")] == [
        "outside any test (known)",
        "outside any test (ignored)",
    ]


MANY = """
def take(pool):
    pool.getconn()

@pytest.mark.parametrize("n", range(6))
def test_it(pool, n):
    take(pool)

def test_both(pool):
    take(pool)
    conn = pool.getconn()
"""


def test_three_tests_tell_all_of_a_leak_and_the_others_name_its_line(suite):
    text = suite.run(MANY).text
    reports = re.findall(r"^_+ (test_\S+) _+\n(.+?)(?=^___|^===)", text, re.MULTILINE | re.DOTALL)
    assert ["hint: take" in report for _, report in reports] == [True] * 3 + [False] * 4
    assert [name for name, _ in reports] == [*(f"test_it[{n}]" for n in range(6)), "test_both"]
    for _, report in reports[3:6]:
        assert re.fullmatch(
            r"1 connection was never returned to ThreadedConnectionPool\(1\.\.10\) made at test_suite\.py:\d+\n"
            r"  > test_suite\.py:17  take  pool\.getconn\(\)\n"
            r"  as in test_suite\.py::test_it\[0\], which tells more \(-v tells all\)\n",
            report,
        )
    assert "hint: test_both never gave it back" in reports[6][1]
    assert "  as in test_suite.py::test_it[0], which tells more" in reports[6][1]


def test_with_v_every_test_tells_all(suite):
    assert suite.run(MANY, "-v").text.count("hint: ") == 8
