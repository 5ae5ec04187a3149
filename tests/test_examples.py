"""The example shop shows what its README says."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parent.parent / "examples"
LEFT_EARLY = "{function} did not reach its putconn() in line {line}"


def line_in(file: str, text: str) -> tuple[int, str]:
    """The one line of an example's source that contains a text: its number, and all of it."""
    lines = (EXAMPLES / file).read_text(encoding="utf-8").splitlines()
    (found,) = ((number, line.strip()) for number, line in enumerate(lines, 1) if text in line)
    return found


@dataclass(frozen=True)
class Leak:
    """One of the leaky shop's mistakes: where it is, what the hint says, which tests make it."""

    module: str
    function: str
    hint: str
    tests: tuple[str, ...]

    @property
    def file(self) -> str:
        return f"leaky/shop/{self.module}.py"

    @property
    def taken_at(self) -> tuple[int, str]:
        return line_in(self.file, ".getconn()")

    @property
    def nodeids(self) -> set[str]:
        return {f"tests/test_{self.module}.py::{test}" for test in self.tests}

    @property
    def whole_hint(self) -> str:
        if "{line}" not in self.hint:
            return self.hint
        return self.hint.format(function=self.function, line=line_in(self.file, ".putconn(")[0])


LEAKS = [
    Leak(
        "users",
        "get_user",
        LEFT_EARLY,
        ("test_a_second_look_finds_the_same", "test_an_unknown_id_is_nobody"),
    ),
    Leak(
        "catalog",
        "search",
        "`with …getconn()` ends the transaction, it does not return the connection",
        ("test_search_finds_parts_of_names",),
    ),
    Leak("orders", "place_order", LEFT_EARLY, ("test_no_more_is_sold_than_there_is",)),
    Leak(
        "payments",
        "pay",
        "call putconn(conn, close=True) instead of conn.close()",
        ("test_a_declined_card_pays_nothing",),
    ),
    Leak(
        "export",
        "lines",
        "lines is a generator that was not run to its end, so its putconn() in line {line} was not reached",
        ("test_the_preview_is_short",),
    ),
    Leak("vouchers", "issue", LEFT_EARLY, ("test_a_voucher_lowers_the_price",)),
    Leak("mailer", "_send", LEFT_EARLY, ("test_a_wrong_address_stops_nothing",)),
]
LEAKING = set().union(*(leak.nodeids for leak in LEAKS))
EVERY_LEAK = pytest.mark.parametrize(
    ("leak", "test"), [pytest.param(leak, test, id=test) for leak in LEAKS for test in leak.tests]
)


@dataclass(frozen=True)
class Run:
    """What a run of the shop's suite printed, and its exit code."""

    output: str
    code: int

    @property
    def failed(self) -> set[str]:
        """The ids of the tests that failed."""
        return set(re.findall(r"^FAILED (\S+)", self.output, re.MULTILINE))

    @property
    def outcomes(self) -> str:
        """The numbers in pytest's last line."""
        return re.findall(r"^=+ (.+) in [\d.]+s.* =+$", self.output, re.MULTILINE)[-1]

    def report(self, test: str) -> str:
        """What is printed about a failed test, from its headline to the next one."""
        (text,) = re.findall(rf"^_+ {test} _+\n(.+?)^(?:__|==)", self.output, re.MULTILINE | re.DOTALL)
        return text

    @property
    def table(self) -> set[tuple[int, int, str]]:
        """The rows of the table of sites: connections, tests, site."""
        rows = re.findall(r"^ +(\d+) +(\d+)  (.+)$", self.output, re.MULTILINE)
        return {(int(connections), int(tests), site) for connections, tests, site in rows}


@pytest.fixture(scope="module")
def shop(dsn: str) -> Callable[..., Run]:
    """Runs the suite on the leaky or the fixed shop, with some options."""

    def run(which: str, *options: str) -> Run:
        foreign = ("PYTEST_ADDOPTS", "PYTEST_DISABLE_PLUGIN_AUTOLOAD", "POOLGUARD_DSN", "FORCE_COLOR", "CI")
        env = {name: value for name, value in os.environ.items() if name not in foreign}
        env |= {"SHOP": which, "POOLGUARD_TEST_DSN": dsn, "PYTHONIOENCODING": "utf-8"}
        env |= {"COLUMNS": "200"}  # nothing is cut off
        done = subprocess.run(
            [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", *options],
            cwd=EXAMPLES,
            env=env,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            encoding="utf-8",
            timeout=120,
            check=False,
        )
        sys.stdout.write(done.stdout)  # for whoever has to find out why a test here has failed
        return Run(done.stdout, done.returncode)

    return run


@pytest.fixture(scope="module")
def leaky(shop) -> Run:
    """The leaky shop under poolguard."""
    return shop("leaky", "-p", "poolguard")


def test_exactly_the_leaking_tests_fail(leaky):
    assert leaky.failed == LEAKING
    assert leaky.outcomes == "8 failed, 8 passed"
    assert leaky.code == 1


def test_the_same_tests_fail_on_two_workers(shop):
    run = shop("leaky", "-p", "poolguard", "-n", "2")
    assert run.failed == LEAKING
    assert run.outcomes == "8 failed, 8 passed"
    assert run.code == 1


def test_the_fixed_shop_passes_without_a_finding(shop):
    run = shop("fixed", "-p", "poolguard")
    assert run.outcomes == "16 passed"
    assert run.code == 0
    assert "poolguard:" not in run.output


@pytest.mark.parametrize("which", ["leaky", "fixed"])
def test_without_poolguard_either_shop_passes(shop, which):
    run = shop(which, "-p", "no:poolguard")
    assert run.outcomes == "16 passed"
    assert run.code == 0


@EVERY_LEAK
def test_a_report_names_the_line_that_took_the_connection(leaky, leak, test):
    number, text = leak.taken_at
    site = rf"^  > {leak.file}:{number} +{leak.function} +{re.escape(text)}$"
    assert re.search(site, leaky.report(test), re.MULTILINE)


@EVERY_LEAK
def test_a_report_hints_at_the_mistake(leaky, leak, test):
    (hint,) = re.findall(r"^  hint: (.+)$", leaky.report(test), re.MULTILINE)
    assert leak.whole_hint in hint


@EVERY_LEAK
def test_a_report_says_who_took_the_connection(leaky, leak, test):
    when, thread = "the test body", "MainThread"
    if leak.module == "vouchers":
        number, _ = line_in("tests/test_vouchers.py", "@pytest.fixture")
        when = f"the set-up of fixture voucher (scope function, tests/test_vouchers.py:{number})"
    if leak.module == "mailer":
        thread = "mailer"
    report = leaky.report(test)
    assert f"  checked out in {when}, " in report
    assert f", by thread {thread}\n" in report


def test_a_report_names_the_pool(leaky):
    number, _ = line_in("leaky/shop/db.py", "return ThreadedConnectionPool(")
    pool = f"ThreadedConnectionPool(1..20) made at leaky/shop/db.py:{number}"
    assert leaky.output.count(f"1 connection was never returned to {pool}\n") == len(LEAKING)


def test_a_report_shows_the_last_statement_without_its_values(leaky):
    report = leaky.report("test_an_unknown_id_is_nobody")
    assert "idle in transaction, last statement: SELECT id, name, email FROM users WHERE id = ?\n" in report


def test_no_report_needs_a_note(leaky):
    assert "note:" not in leaky.output


def test_the_table_counts_connections_and_tests_of_each_site(leaky):
    assert "= poolguard: 8 leaks, 7 sites, 8 tests =" in leaky.output
    assert leaky.table == {
        (len(leak.tests), len(leak.tests), f"{leak.file}:{leak.taken_at[0]} in {leak.function}") for leak in LEAKS
    }


def test_the_shops_have_the_same_functions():
    def signatures(shop: str) -> dict[str, list[str]]:
        files = sorted((EXAMPLES / shop / "shop").glob("*.py"))
        return {f.name: re.findall(r"^ *(?:class|def) .+", f.read_text("utf-8"), re.MULTILINE) for f in files}

    assert signatures("leaky") == signatures("fixed")


def test_the_readme_names_the_leaking_tests():
    readme = (EXAMPLES / "README.md").read_text("utf-8")
    assert set(re.findall(r"`(test_\w+)`", readme)) == {test for leak in LEAKS for test in leak.tests}


# pools of another make


@pytest.mark.parametrize(
    ("folder", "test", "site"),
    [
        ("inhouse", "test_an_empty_shelf", "stockroom/stock.py"),
        ("hook", "test_that_leaks", "test_by_hook.py"),
    ],
)
def test_a_pool_that_was_named_is_watched(shop, folder, test, site):
    run = shop("leaky", "-p", "poolguard", folder)
    assert run.outcomes == "1 failed, 1 passed"
    assert [nodeid.rpartition("::")[2] for nodeid in run.failed] == [test]
    assert re.search(rf"^  > {site}:\d+ .*pool\.checkout\(\)$", run.report(test), re.MULTILINE)
    assert "1 connection was never returned to Pool made at" in run.output


@pytest.mark.parametrize("folder", ["inhouse", "hook"])
def test_without_poolguard_the_named_pools_tests_pass(shop, folder):
    assert shop("leaky", "-p", "no:poolguard", folder).outcomes.startswith("2 passed")


# error paths


def test_faults_find_what_the_booking_desk_leaks_and_nothing_in_its_fixed_twin(shop):
    assert shop("leaky", "-p", "poolguard", "faults").outcomes == "4 passed"
    run = shop("leaky", "-p", "poolguard", "faults", "--poolguard-faults=fail")
    assert run.outcomes == "4 passed, 3 errors"
    assert run.code == 1
    assert {(count, site.partition(" in ")[2]) for count, _, site in run.table} == {
        (2, "free  (after a fault)"),
        (2, "book  (after a fault)"),
        (1, "swap  (after a fault)"),
    }
    assert "fixed.py" not in run.output
