"""What is ignored, each with its reason."""

from __future__ import annotations

import pytest
from conftest import INI

from pytest_poolguard.baseline.ignoring import ignored
from pytest_poolguard.settings import read_settings

BODY = """
class Legacy:
    def connect(self, pool):
        return pool.getconn()

def test_old(pool):
    Legacy().connect(pool)

def test_new(pool):
    conn = pool.getconn()
"""


def entries(suite, *lines: str) -> None:
    suite.setting("poolguard_ignore", "".join(f"\n    {line}" for line in lines))


def verdicts(run) -> dict[str, str]:
    return {finding["nodeid"].rpartition("::")[2]: finding["verdict"] for finding in run.findings}


@pytest.mark.parametrize(
    "pattern",
    [
        "test_suite.py:connect",
        "test_suite.py:Legacy.connect",
        "*:con*",
        "test_s?ite.py:Legacy.*",
        "test_suite.py:test_old",  # that had to return what its helper got for it
    ],
)
def test_a_site_is_ignored(suite, pattern, processes):
    entries(suite, f"{pattern} -- it goes in May")
    run = suite.run(BODY, *processes)
    assert verdicts(run) == {"test_old": "ignored", "test_new": "failed"}
    assert [finding["note"] for finding in run.findings if finding["verdict"] == "ignored"] == [
        "ignored: it goes in May"
    ]
    run.assert_outcomes(passed=1, failed=1)
    assert "= poolguard: 1 leak, 1 ignored, 2 sites, 2 tests =" in run.text
    assert "nothing in this run matched" not in run.text


@pytest.mark.parametrize(
    ("pattern", "is_ignored"),
    [
        ("pool:ThreadedConnectionPool", True),
        ("pool:Threaded*", True),
        ("pool:*@test_suite.py", True),
        ("pool:ThreadedConnectionPool@test_suite.py:pool", True),
        ("pool:SimpleConnectionPool", False),
        ("pool:ThreadedConnectionPool@test_suite.py:other", False),
        ("pool:ThreadedConnectionPool@shop.py", False),
        ("test_new.py", False),
        ("test_suite.py:TEST_NEW", False),
    ],
)
def test_a_pool_is_ignored_by_its_class_and_by_where_it_was_made(suite, pattern, is_ignored):
    entries(suite, "# a comment", f"{pattern} -- why")
    run = suite.run("def test_new(pool):\n    conn = pool.getconn()\n")
    assert verdicts(run) == {"test_new": "ignored" if is_ignored else "failed"}


def test_what_leaks_outside_of_tests_is_ignored_too(suite):
    entries(suite, "test_suite.py:<module> -- for the whole run", "test_suite.py:test_opens -- kept on purpose")
    run = suite.run(
        "kept = SimpleConnectionPool(1, 2, DSN)\nkept.getconn()\nraw = []\n"
        "def test_opens():\n    raw.append(psycopg2.connect(DSN))\n"
    )
    assert sorted((f["kind"], f["verdict"]) for f in run.findings) == [
        ("checked_out", "ignored"),
        ("server_backend", "ignored"),
    ]
    assert run.result.ret == 0


UNUSED = "poolguard: poolguard_ignore: nothing in this run matched 'shop.py:sell -- it was sold'\n"


@pytest.mark.parametrize(
    ("args", "is_told"),
    [([], True), (["."], True), (["-k", "test_"], False), (["test_suite.py"], False), (["--ignore=x.py"], False)],
)
def test_an_entry_that_matched_nothing_all_run_long_is_told(suite, args, is_told, processes):
    entries(suite, "test_suite.py:test_it -- why", "shop.py:sell -- it was sold")
    body = "def test_it(pool):\n    conn = pool.getconn()\n\ndef test_skips():\n    pytest.skip('no')\n"
    run = suite.run(body, *processes, *args)
    assert run.result.ret == 0
    assert (UNUSED in run.text) is is_told
    assert run.text.count("nothing in this run matched") == is_told


def test_testpaths_are_the_whole_suite(suite):
    suite.pytester.makeini(f"{INI}testpaths = tests\npoolguard_ignore = shop.py:sell -- it was sold\n")
    suite.file("tests/test_it.py", "import psycopg2.pool\ndef test_it(): pass\n")
    assert UNUSED in suite.again("tests").text
    assert UNUSED in suite.again().text
    assert UNUSED not in suite.again("tests/test_it.py").text


@pytest.mark.parametrize(
    ("entry", "error"),
    [
        (
            "shop.py:sell",
            "there is no reason; write it like this: shop/legacy.py:get_conn -- the importer goes in May",
        ),
        ("shop.py:sell --", "there is no reason"),
        ("shop.py:sell --why", "there is no reason"),
        ("shop.py:sell # why", "there is no reason"),
        ("-- why", "there is no reason"),
        (":sell -- why", "this names no file"),
        ("shop.py:12 -- why", "the number of a line changes with every edit above it; name the function"),
        ("pool: -- why", "this names no pool; write it like this: pool:ThreadedConnectionPool@shop/db.py -- why"),
        ("pool:A@ -- why", "this names no pool"),
    ],
)
def test_a_wrong_entry_stops_the_run_and_is_named(suite, entry, error):
    entries(suite, "shop.py:sell -- why", entry)
    run = suite.run(BODY)
    (told,) = [line for line in run.result.stderr.str().splitlines() if line]
    assert told.startswith(f"ERROR: poolguard: ini key poolguard_ignore: line 2, {entry!r}: {error}")
    assert run.result.ret == pytest.ExitCode.USAGE_ERROR


def test_an_entry_can_be_given_on_the_command_line():
    class Config:
        def getini(self, name):
            return None

    class Flags:
        poolguard_ignore = "shop.py -- all -- of it"

    (entry,) = read_settings(Config(), Flags()).ignore
    assert (entry.file, entry.function, entry.reason) == ("shop.py", "*", "all -- of it")


def test_nothing_is_ignored_by_nothing():
    assert ignored("\n# shop.py:sell -- why\n\n") == ()


def test_a_pool_is_not_asked_of_a_connection_that_has_none():
    (entry,) = ignored("pool:* -- why")
    assert not entry.matches("", [("shop.py", "sell")], [])
