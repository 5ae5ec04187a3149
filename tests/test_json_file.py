"""The findings as a JSON file."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest
import schema
from jsonschema import Draft202012Validator

from pytest_poolguard import findings
from pytest_poolguard.options import OPTIONS
from pytest_poolguard.reports import json_file
from pytest_poolguard.reports.json_file import as_json, write_plain
from pytest_poolguard.tally import Tally
from pytest_poolguard.this_run import ThisRun


def data_of(suite, name: str = "findings.json") -> dict[str, Any]:
    data = json.loads((suite.path / name).read_text())
    assert schema.errors(data) == []
    return data


def test_a_relative_name_is_relative_to_where_pytest_was_started(suite):
    suite.file("elsewhere/test_moves.py", "import os\ndef test_it(): os.chdir(os.path.dirname(__file__))\n")
    suite.pytester.runpytest_subprocess("--poolguard-json=out.json")
    assert json.loads((suite.path / "out.json").read_text())["findings"] == []


def test_others_may_read_it_as_they_may_read_any_new_file(suite):
    suite.pytester.runpytest_subprocess("--poolguard-json=out.json")
    plain = suite.file("plain", "")
    assert (suite.path / "out.json").stat().st_mode == plain.stat().st_mode
    assert [path.name for path in suite.path.glob("out.json.*")] == []


# the schema


def test_the_schema_is_one():
    Draft202012Validator.check_schema(schema.SCHEMA)


def test_the_schema_knows_every_kind_and_every_verdict():
    finding = schema.SCHEMA["$defs"]["finding"]["properties"]
    assert finding["kind"]["enum"] == list(findings.WORDS)
    assert finding["verdict"]["enum"] == ["failed", "warned", "ignored", "known", "expected"]
    assert {findings.FAILED, findings.WARNED, findings.EXPECTED} <= set(finding["verdict"]["enum"])


def test_a_file_of_an_empty_run_fits():
    assert schema.errors(as_json(Tally())) == []
    assert schema.errors(as_json(Tally(run=ThisRun("ab", "2026-01-01T00:00:00+00:00")))) == [
        f"$.runs[0].versions: {name!r} is a required property"
        for name in ("python", "pytest", "pytest-poolguard")
    ]


def test_every_part_of_the_schema_says_what_it_is():
    for part in (schema.SCHEMA, *schema.SCHEMA["$defs"].values()):
        assert [name for name, one in part["properties"].items() if not {"description", "const"} & set(one)] == []


EVERY_KIND = """
from contextlib import suppress

@pytest.fixture(scope="module")
def kept(pool):
    return pool.getconn()

def take(pool):
    return pool.getconn()

def test_leaks(pool):
    take(pool), pool.getconn()

@pytest.mark.pool(hold=0.001)
def test_holds(pool):
    conn = pool.getconn()
    time.sleep(0.01)
    pool.putconn(conn)

def test_returns_dirty(pool):
    conn = pool.getconn()
    conn.cursor().execute("CREATE TABLE IF NOT EXISTS t (n int)")
    conn.commit()
    conn.cursor().execute("INSERT INTO t VALUES (1)")
    pool.putconn(conn)

@pytest.fixture
def other():
    return ThreadedConnectionPool(2, 3, DSN)

opened = []

def test_opens(kept, other):
    opened.append(psycopg2.connect(DSN))

@pytest.mark.pool(leaks="any", reason="later")
def test_expects(pool):
    threading.Thread(target=take, args=(pool,), name="helper").start()
    time.sleep(0.1)
    take(pool)

def test_leaves_a_backend():
    import subprocess, sys
    code = "import os, psycopg2, time; c = psycopg2.connect(os.environ['SUITE_DSN']); print(1, flush=True)"
    code += "; time.sleep(60)"
    global child
    child = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE)
    child.stdout.readline()
"""
STOP = """
import pytest
children = []

def pytest_unconfigure():
    import sys
    for module in list(sys.modules.values()):
        child = getattr(module, "child", None)
        if hasattr(child, "kill"):
            child.kill()
            child.wait()
            child.stdout.close()
"""


def test_every_kind_of_finding_fits_the_schema(suite, processes):
    suite.file("conftest.py", STOP)
    found: list[dict[str, Any]] = []
    for server in ("session", "off"):  # what the server lists is told instead of what was not closed
        options = ("--poolguard-dirty-returns=warn", "--poolguard-nested=warn", f"--poolguard-server={server}")
        options += ("--poolguard-faults=fail", "--poolguard-faults-only=*:test_returns_dirty")
        run = suite.run(EVERY_KIND, *options, *processes, subprocess=True)
        assert run.data["faults"] == []
        found += run.findings
    assert {finding["kind"] for finding in found} == set(findings.WORDS)
    assert {finding["verdict"] for finding in found} == {"failed", "warned", "expected"}


def test_what_the_schema_does_not_name_is_found(suite):
    data = suite.run("def test_it(pool): pool.getconn()\n").data
    data["findings"][0]["colour"] = "red"
    data["findings"][0]["verdict"] = "guilty"
    data["runs"][0]["id"] = 7
    found = "\n".join(schema.errors(data))
    assert "$.findings[0]: Additional properties are not allowed ('colour' was unexpected)" in found
    assert "$.findings[0].verdict: 'guilty' is not one of" in found
    assert "$.runs[0].id: 7 is not of type 'string'" in found
    assert not [error for error in schema.errors(data, schema.LENIENT) if "colour" in error]


# what it tells


def test_it_tells_the_run_its_versions_and_its_options(suite, processes):
    secret = "postgresql://u:a'b pass@host/db?sslpassword=hush"
    run = suite.run(
        "def test_it(pool): pool.putconn(pool.getconn())\n",
        f"--poolguard-dsn={secret}",
        "--poolguard-server=off",
        "--poolguard-grace=0.5",
        *processes,
    )
    (told,) = run.data["runs"]
    assert re.fullmatch("[0-9a-f]{8}", told["id"])
    assert (told["exit_code"], told["finished"]) == (0, True)
    assert {"python", "pytest", "pytest-poolguard", "psycopg2"} <= set(told["versions"])
    assert ("pytest-xdist" in told["versions"]) is True
    assert re.fullmatch(r"2\.\d+\.\d+", told["versions"]["psycopg2"])
    assert set(told["options"]) == {option.name for option in OPTIONS}
    assert (told["options"]["poolguard"], told["options"]["poolguard_grace"]) == ("fail", 0.5)
    assert (told["options"]["poolguard_dsn"], told["options"]["poolguard_dialects"]) == ("***", ["postgresql"])
    text = json.dumps(run.data)
    assert [part for part in ("a'b", "pass@", "hush") if part in text] == []


def test_a_pool_class_that_was_named_is_an_option_like_others(suite):
    suite.setting("poolguard_pools", "shop:Pool(acquire=take, release=give)")
    run = suite.run("def test_it(): pass\n")
    assert run.data["runs"][0]["options"]["poolguard_pools"] == [
        {"module": "shop", "name": "Pool", "acquire": "take", "release": "give", "close": ""}
    ]
    assert run.data["unwatched"] == ["shop:Pool is not watched: there is no module shop"]
    assert run.data["unwatched"][0] in run.data["notices"]


def test_a_finding_and_a_server_name_their_run_and_workers_share_it(suite):
    run = suite.run("def test_a(pool): pool.getconn()\ndef test_b(pool): pool.getconn()\n", "-n2", "--dist=each")
    ids = {one["run"] for one in (*run.findings, *run.data["servers"])}
    assert ids == {run.data["runs"][0]["id"]}
    assert {finding["worker"] for finding in run.findings} == {"gw0", "gw1"}


def test_pools_are_rows_with_what_was_taken_from_them(suite, processes):
    run = suite.run(
        """
def make(size):
    return SimpleConnectionPool(1, size, DSN)

@pytest.mark.parametrize("n", range(4))
def test_it(n):
    pool = make(3)
    for _ in range(5):
        pool.putconn(pool.getconn())
    pool.closeall()

def test_other(pool):
    pool.putconn(pool.getconn())
    globals()["larger"] = make(4)
""",
        "--poolguard-open-pools=off",
        *processes,
    )
    rows = {row["name"]: row for row in run.data["pools"]}
    assert len(run.data["pools"]) == 3
    small, larger = rows["SimpleConnectionPool(1..3)"], rows["SimpleConnectionPool(1..4)"]
    assert (small["count"], small["checkouts"], small["open"], small["class"]) == (
        4,
        20,
        0,
        "SimpleConnectionPool",
    )
    assert small["made_at"]["text"] == "return SimpleConnectionPool(1, size, DSN)"
    assert small["made_at"]["file"] == "test_suite.py"
    assert (larger["count"], larger["checkouts"], larger["open"], larger["idle"]) == (1, 0, 1, 1)
    assert run.data["checkouts"] == 21


def test_sites_count_findings_tests_and_verdicts(suite, processes):
    run = suite.run(
        """
@pytest.mark.parametrize("n", range(3))
def test_many(pool, n):
    pool.getconn()

def test_skips(pool):
    pool.getconn(); pool.getconn()
    pytest.skip("later")
""",
        *processes,
    )
    many, skips = run.data["sites"]
    assert (many["findings"], many["tests"], many["verdicts"]) == (3, 3, {"failed": 3})
    assert (skips["findings"], skips["tests"], skips["verdicts"]) == (2, 1, {"warned": 2})
    assert many["acquired"]["function"] == "test_many"
    assert {many["fingerprint"], skips["fingerprint"]} == {finding["fingerprint"] for finding in run.findings}


def test_places_have_forward_slashes_and_are_relative_to_the_root(suite):
    suite.file("shop/__init__.py", "")
    suite.file("shop/db.py", "def take(pool):\n    return pool.getconn()\n")
    run = suite.run("from shop.db import take\ndef test_it(pool): take(pool)\n")
    (finding,) = run.findings
    assert {place["file"] for place in finding["stack"] if place["own"]} == {"shop/db.py", "test_suite.py"}
    assert finding["acquired"]["file"] == "shop/db.py"


# how it is written

TWO_LEAKS = """
def test_one(pool): pool.getconn()
def test_two(pool):
    pool.getconn()
    {}
def test_three(): pass
"""


@pytest.mark.parametrize(
    ("ending", "options", "code"),
    [
        ("raise KeyboardInterrupt", (), 2),
        ("pytest.exit('enough')", (), 2),
        ("pytest.exit('enough', returncode=0)", (), 0),
        ("assert 0", ("-x",), 1),
        ("assert 0", ("--maxfail=1", "-n2"), 2),
        ("os._exit(3)", ("-n1",), 1),
        ("raise SystemExit(3)", (), 1),
    ],
)
def test_a_run_that_was_interrupted_has_its_file_too(suite, ending, options, code):
    run = suite.run(TWO_LEAKS.format(ending), *options, subprocess=True)
    (told,) = run.data["runs"]
    ended = "SystemExit" in ending
    assert told["finished"] is ended
    assert told["exit_code"] == run.result.ret
    assert told["exit_code"] == code
    assert "test_one" in run.blamed
    assert [path.name for path in suite.path.glob("findings.json.*")] == []


def test_an_internal_error_leaves_a_file(suite):
    suite.file(
        "conftest.py", "def pytest_runtest_logfinish(nodeid):\n    if 'two' in nodeid: raise KeyError('broken')\n"
    )
    run = suite.run(TWO_LEAKS.format("pass"), subprocess=True)
    assert (run.data["runs"][0]["exit_code"], run.data["runs"][0]["finished"]) == (3, False)
    assert "test_one" in run.blamed


@pytest.mark.parametrize(
    "conftest",
    [
        "def pytest_sessionfinish(): raise KeyError('broken')\n",
        "import pytest\ndef pytest_sessionstart(): pytest.exit('not today')\n",
    ],
)
def test_a_run_without_an_end_of_its_own_leaves_a_file(suite, conftest):
    suite.file("conftest.py", conftest)
    run = suite.run("def test_one(pool): pool.getconn()\n", subprocess=True)
    assert (run.data["runs"][0]["exit_code"], run.data["runs"][0]["finished"]) == (None, False)


def test_a_file_of_an_earlier_run_stays_whole_when_the_new_one_can_not_be_written(tmp_path, monkeypatch):
    path = tmp_path / "out.json"
    path.write_text("{}")

    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(json_file.os, "replace", interrupted)
    with pytest.raises(KeyboardInterrupt):
        write_plain(str(path), as_json(Tally()))
    assert [(one.name, one.read_text()) for one in tmp_path.iterdir()] == [("out.json", "{}")]
