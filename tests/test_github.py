"""GitHub Actions: annotations at the lines that leak, and a table in the job summary."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest

from pytest_poolguard.books.origin import Place
from pytest_poolguard.findings import Finding
from pytest_poolguard.reports import github
from pytest_poolguard.tally import Tally

SUITE = """
def take(pool):
    return pool.getconn()

@pytest.mark.parametrize("n", range(5))
def test_fails(pool, n):
    conn = take(pool)

def test_skips(pool):
    pool.getconn()
    pytest.skip("later")

@pytest.mark.pool(leaks=1, reason="later")
def test_expected(pool):
    pool.getconn()
"""


class Actions:
    """A job of GitHub Actions, whose repository is the folder above the suite's."""

    def __init__(self, suite, monkeypatch):
        self._suite = suite
        self._monkeypatch = monkeypatch
        self.path = suite.path

    def run(self, *args):
        """The suite's run, as if no test were running around it."""
        with self._monkeypatch.context() as patched:
            patched.delenv("PYTEST_CURRENT_TEST")
            return self._suite.run(*args)


@pytest.fixture
def actions(suite, monkeypatch):
    monkeypatch.setenv("GITHUB_ACTIONS", "true")
    monkeypatch.setenv("GITHUB_WORKSPACE", str(suite.path.parent))
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(suite.path / "summary.md"))
    return Actions(suite, monkeypatch)


def commands(text: str) -> list[str]:
    return [line for line in text.splitlines() if line.startswith("::")]


def test_a_leaking_line_is_annotated_once(actions, processes):
    run = actions.run(SUITE, *processes)
    assert run.data["faults"] == []
    file = f"{actions.path.name}/test_suite.py"
    error, warning = commands(run.text)
    match = re.fullmatch(
        rf"::error file={file},line=(\d+),title=poolguard%3A 5 connections never returned::"
        r"test_suite\.py:\1 in test_fails, through take, in test_suite\.py::test_fails\[\d\], \S+, \S+ "
        r"and 2 more tests%0Ahint: .*putconn\(\).*",
        error,
    )
    assert match
    lines = (actions.path / "test_suite.py").read_text().splitlines()
    assert lines[int(match[1]) - 1] == "    conn = take(pool)"
    assert warning.startswith(f"::warning file={file},line=")
    assert "in test_suite.py::test_skips%0Ahint: " in warning


def test_the_job_summary_has_a_table(actions, processes):
    (actions.path / "summary.md").write_text("An earlier part.\n")
    actions.run(SUITE, *processes)
    first, title, empty, head, line, *rows = (actions.path / "summary.md").read_text().splitlines()
    assert (first, empty) == ("An earlier part.", "")
    assert title == "### poolguard&#58; 6 leaks, 1 expected leak, 3 sites, 7 tests"
    assert (head, line) == ("| | tests | what | where | hint |", "| --- | ---: | --- | --- | --- |")
    cells = [[cell.strip() for cell in row.split("|")[1:-1]] for row in rows if row]
    assert [(cell[0], cell[1], cell[2]) for cell in cells] == [
        ("failed", "5", "5 connections never returned"),
        ("warned", "1", "1 connection never returned"),
        ("expected", "1", "1 connection never returned"),
    ]
    file = f"{actions.path.name}/test_suite.py".replace("_", "&#95;")
    assert cells[0][3].startswith(f"{file}&#58;")
    assert cells[0][3].endswith(" in test&#95;fails, through take")


def test_elsewhere_nothing_is_printed_for_it(suite, monkeypatch):
    for value in ("", "false"):
        monkeypatch.setenv("GITHUB_ACTIONS", value)
        monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(suite.path / "summary.md"))
        assert commands(suite.run(SUITE).text) == []
    assert not (suite.path / "summary.md").exists()


def test_a_run_inside_of_a_test_says_nothing_to_it(actions):
    actions.path.joinpath("inner.py").write_text(
        """
import os
from psycopg2.pool import SimpleConnectionPool
def test_inner(): SimpleConnectionPool(1, 2, os.environ["SUITE_DSN"]).getconn()
"""
    )
    run = actions.run(
        """
import subprocess, sys
def test_outer():
    done = subprocess.run([sys.executable, "-m", "pytest", "inner.py"], capture_output=True, text=True)
    assert "1 connection was never returned" in done.stdout
    assert "::error" not in done.stdout
"""
    )
    run.assert_outcomes(passed=1)
    assert commands(run.text) == []
    assert not (actions.path / "summary.md").exists()


def test_a_silent_run_writes_nothing(actions):
    run = actions.run("def test_it(pool): pool.putconn(pool.getconn())\n")
    run.assert_silent(passed=1)
    assert commands(run.text) == []
    assert not (actions.path / "summary.md").exists()


def test_a_summary_that_can_not_be_written_is_one_line(actions, monkeypatch):
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(actions.path))
    run = actions.run("def test_it(pool): pool.getconn()\n")
    run.assert_outcomes(failed=1)
    assert "\npoolguard: the job summary could not be written: Is a directory\n" in run.text
    assert len(commands(run.text)) == 1


# single pieces


def finding(line: int = 3, **given) -> Finding:
    made = Finding(
        "checked_out",
        "psycopg2",
        "Pool",
        "test",
        "t",
        nodeid="t.py::t",
        acquired=Place("shop/db.py", line, "f", "…"),
    )
    return replace(made, **given)


def in_place(place: Place) -> str:
    return place.file


def test_what_would_end_a_command_is_escaped():
    nasty = finding(
        nodeid="t.py::t[a\nb\r::error::%0A,\x1b]",
        acquired=Place("a,b:c%.py", 1, "f", ""),
        hint="100 %\n::stop-commands::x password=hunter2 postgresql://u:pw@h/d",
    )
    (line,) = github.commands(Tally(findings=[nasty]), in_place)
    assert line == (
        "::error file=a%2Cb%3Ac%25.py,line=1,title=poolguard%3A 1 connection never returned::"
        "a,b:c%25.py:1 in f, in t.py::t[a\\nb\\r::error::%250A,\\x1b]%0A"
        "hint: 100 %25\\n::stop-commands::x password=*** postgresql://u:***@h/d"
    )
    assert github._command("error", {"title": "a\nb"}, "x\r\ny") == "::error title=a\\nb::x%0D%0Ay"


def test_ten_of_each_level_are_shown_those_with_most_first():
    many = [finding(n) for n in range(1, 15) for _ in range(n)]
    warned = [finding(n, verdict="warned") for n in range(20, 30)]
    lines = github.commands(Tally(findings=[*many, *warned]), in_place)
    errors = [line for line in lines if line.startswith("::error ")]
    assert [re.findall(r"line=(\d+)", line) for line in errors[:-1]] == [[str(n)] for n in range(14, 5, -1)]
    assert errors[-1] == "::error title=poolguard::5 more sites: see the job summary"
    assert len(lines) - len(errors) == 10
    assert "more sites" not in lines[-1]


def test_what_fails_the_run_and_is_no_finding_comes_first():
    stale = "1 stale site in leaks.txt: shop/db.py:f leaks no more"
    tally = Tally(errors=[stale])
    assert github.commands(tally, in_place) == [f"::error title=poolguard::{stale}"]
    summary = github.job_summary(tally, in_place)
    assert "**1 stale site in leaks.txt&#58; shop/db.py&#58;f leaks no more**" in summary
    assert "|" not in summary
    full = github.commands(Tally(errors=[stale], findings=[finding(n) for n in range(11)]), in_place)
    assert len(full) == 10
    assert full[-1] == "::error title=poolguard::3 more sites: see the job summary"


@pytest.mark.parametrize("verdict", ["expected", "known", "ignored"])
def test_what_is_known_is_no_annotation_but_a_row(verdict):
    tally = Tally(findings=[finding(verdict=verdict)])
    assert github.commands(tally, in_place) == []
    assert f"| {verdict} | 1 | 1 connection never returned | shop/db.py&#58;3 in f |  |" in github.job_summary(
        tally, in_place
    )


def test_a_file_is_named_as_in_the_repository(tmp_path):
    (tmp_path / "repo" / "backend").mkdir(parents=True)
    (tmp_path / "link").symlink_to(tmp_path / "repo")
    name = github.below(str(tmp_path / "link"), str(tmp_path / "repo" / "backend"))
    assert name(Place("tests/test_a.py", 1, "f", "")) == "backend/tests/test_a.py"
    assert name(Place("../shared.py", 1, "f", "")) == "shared.py"
    assert name(Place("/usr/lib/x.py", 1, "f", "")) == ""
    (line,) = github.commands(Tally(findings=[finding(acquired=Place("/usr/lib/x.py", 1, "f", ""))]), name)
    assert line.startswith(
        "::error title=poolguard%3A 1 connection never returned::/usr/lib/x.py:1 in f, in t.py"
    )


def test_a_table_takes_any_text_and_ends_somewhere():
    text = github.job_summary(Tally(findings=[finding(hint="<b>|`*_[x](y)\n#@\\ password=pw")]), in_place)
    row = text.splitlines()[-2]
    assert row.count("|") == 6
    assert not set("<>`*_[]\\@") & set(row)
    assert "pw" not in row.replace("password", "")
    many = github.job_summary(Tally(findings=[finding(n) for n in range(60)]), in_place)
    assert many.count("\n| failed |") == 50
    assert many.endswith("\n\n… and 10 more sites\n\n")


def test_what_fails_stands_first_and_a_leak_without_a_test_says_so():
    findings = [*(finding(1, verdict="warned") for _ in range(3)), finding(2, nodeid="")]
    first = github.job_summary(Tally(findings=findings), in_place).splitlines()[4]
    assert first.startswith("| failed | 0 | 1 connection never returned | shop/db.py&#58;2")
    assert "shop/db.py:2 in f, outside any test" in github.commands(Tally(findings=findings), in_place)[0]
