"""``python -m pytest_poolguard``: files of several runs made one, and the summary printed again."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest
import schema

from pytest_poolguard.cli import main

SHARDS = """
import os

def take(pool):
    return pool.getconn()

@pytest.mark.parametrize("n", range(6))
@pytest.mark.pool(max=3)
def test_it(pool, n):
    if n % 2 == int(os.environ["SHARD"]):
        take(pool)

@pytest.mark.skipif("os.environ['SHARD'] == '1'")
def test_first_only(pool):
    pool.getconn()
"""


@pytest.fixture
def shards(suite, monkeypatch):
    """The files of two runs, each with leaks of its own."""
    for shard in "01":
        monkeypatch.setenv("SHARD", shard)
        suite.run(SHARDS, subprocess=True)
        (suite.path / "findings.json").rename(suite.path / f"{shard}.json")
    return [str(suite.path / f"{shard}.json") for shard in "01"]


def load(path):
    with open(path, encoding="utf-8") as file:
        data = json.load(file)
    assert schema.errors(data) == []
    return data


def test_two_shards_are_merged(shards, tmp_path, capsys):
    out = str(tmp_path / "reports" / "all.json")
    assert main(["merge", *shards, "-o", out]) == 0
    first, second, whole = load(shards[0]), load(shards[1]), load(out)
    assert whole["runs"] == first["runs"] + second["runs"]
    assert whole["findings"] == first["findings"] + second["findings"]
    assert [finding["run"] for finding in whole["findings"]] == [whole["runs"][0]["id"]] * 4 + [
        whole["runs"][1]["id"]
    ] * 3
    assert [(site["findings"], site["tests"]) for site in whole["sites"]] == [(6, 6), (1, 1)]
    assert whole["checkouts"] == 7
    assert [(row["count"], row["checkouts"]) for row in whole["pools"]] == [(2, 7)]
    assert whole["libraries"] == first["libraries"]
    assert capsys.readouterr() == ("", "")


def test_what_was_merged_can_be_merged_again_but_no_run_with_itself(shards, tmp_path, capsys):
    one, out = str(tmp_path / "one.json"), str(tmp_path / "all.json")
    assert main(["merge", shards[0], "-o", one]) == 0
    assert load(one) == load(shards[0])
    assert main(["merge", one, shards[1], "-o", out]) == 0
    assert main(["merge", out, shards[1], "-o", str(tmp_path / "none.json")]) == 2
    id_of = load(shards[1])["runs"][0]["id"]
    assert capsys.readouterr().err == f"poolguard: {out} and {shards[1]} have the same run in them, {id_of}\n"
    assert not (tmp_path / "none.json").exists()


def test_shards_of_one_xdist_run_id_are_told_apart(suite, tmp_path):
    for shard in "01":
        suite.run("def test_it(pool): pool.getconn()\n", "-n1", "--testrunuid=build-7")
        (suite.path / "findings.json").rename(tmp_path / f"{shard}.json")
    out = str(tmp_path / "all.json")
    assert main(["merge", str(tmp_path / "0.json"), str(tmp_path / "1.json"), "-o", out]) == 0
    assert len({run["id"] for run in load(out)["runs"]}) == 2


def test_a_marker_that_one_shard_needed_is_in_use(shards, tmp_path):
    out = str(tmp_path / "all.json")
    first, second = load(shards[0]), load(shards[1])
    first["markers"], second["markers"] = {"a": False, "b": False}, {"a": True, "b": False, "c": False}
    for path, data in zip(shards, (first, second), strict=True):
        with open(path, "w", encoding="utf-8") as file:
            json.dump(data, file)
    assert main(["merge", *shards, "-o", out]) == 0
    assert load(out)["markers"] == {"a": True, "b": False, "c": False}


def test_fields_of_a_later_version_pass_through(shards, tmp_path):
    data = load(shards[0])
    data["statistics"] = {"peak": 3}
    data["findings"][0]["colour"] = data["pools"][0]["colour"] = data["servers"][0]["colour"] = "red"
    for place in (data["findings"][0]["acquired"], data["pools"][0]["made_at"]):
        place["colour"] = "red"
    later = tmp_path / "later.json"
    later.write_text(json.dumps(data))
    assert main(["merge", str(later), shards[1], "-o", str(tmp_path / "all.json")]) == 0
    whole = json.loads((tmp_path / "all.json").read_text())
    assert whole["findings"][0]["colour"] == whole["servers"][0]["colour"] == "red"
    assert whole["statistics"] == {"peak": 3}


def test_show_prints_the_summary_of_the_run_again(suite, capsys):
    run = suite.run(
        """
def take(pool): return pool.getconn()
def test_fails(pool): take(pool)
@pytest.mark.pool(leaks=1, reason="later")
def test_expected(pool): pool.getconn()
kept = ThreadedConnectionPool(2, 3, DSN)
"""
    )
    capsys.readouterr()
    assert main(["show", str(suite.path / "findings.json")]) == 0
    shown = capsys.readouterr().out
    section = run.text[run.text.index("= poolguard: 1 leak, 1 expected leak") :]
    table = section[section.index(" conns  tests") : section.index("====", section.index(" conns  tests"))]
    assert table in shown
    assert "idle in a pool still open at the end, made at test_suite.py" in table
    assert "= poolguard: 1 leak, 1 expected leak, 2 sites, 2 tests =" in shown
    assert "hint: " in shown
    assert "connections taken from" not in shown
    assert main(["show", "-v", str(suite.path / "findings.json")]) == 0
    assert "poolguard: 2 connections taken from 2 pools of psycopg2" in capsys.readouterr().out


def test_what_failed_the_run_and_is_no_finding_is_shown_again(suite, tmp_path, capsys):
    strict = ("--poolguard-baseline=leaks.txt", "--poolguard-strict-baseline")
    suite.run("def test_it(pool):\n    pool.getconn()\n", strict[0], "--poolguard-update-baseline")
    suite.run("def test_it(pool):\n    pool.putconn(pool.getconn())\n", *strict)
    out = str(tmp_path / "all.json")
    assert main(["merge", str(suite.path / "findings.json"), "-o", out]) == 0
    capsys.readouterr()
    main(["show", out])
    assert (
        "poolguard: 1 stale site in leaks.txt: test_suite.py:test_it leaks no more; " in capsys.readouterr().out
    )


def test_a_run_without_findings_is_shown_as_such(suite, capsys):
    suite.run("def test_it(pool): pool.putconn(pool.getconn())\n")
    capsys.readouterr()
    assert main(["show", str(suite.path / "findings.json")]) == 0
    assert capsys.readouterr().out == "poolguard: nothing was found\n"


OURS = '{"format": "pytest-poolguard", "version": %s'


@pytest.mark.parametrize("command", ["show", "merge"])
@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        (b"", "is not JSON (JSONDecodeError: Expecting value: line 1 column 1 (char 0))"),
        (b'{"a": ', "is not JSON (JSONDecodeError: Expecting value: line 1 column 7 (char 6))"),
        (b"\xff\xfe{", "is not JSON (UnicodeDecodeError: "),
        (b"[" * 100_000, "is not JSON (RecursionError: "),
        (b"[]", "was not written by --poolguard-json\n"),
        (b'{"format": "something else"}', "was not written by --poolguard-json\n"),
        (OURS.encode() % b'"x"' + b"}", "was not written by --poolguard-json: its version is no number\n"),
        (
            OURS.encode() % b"2" + b"}",
            "has version 2 of the format, a newer one than this pytest-poolguard can read (1)\n",
        ),
        (OURS.encode() % b"1" + b"}", "is damaged (KeyError: 'findings')\n"),
        (OURS.encode() % b"1" + b', "findings": 3}', "is damaged (TypeError: 'int' object is not iterable)\n"),
    ],
)
def test_a_file_that_is_none_of_ours_is_one_line(tmp_path, capsys, command, content, complaint):
    path = tmp_path / "a.json"
    path.write_bytes(content)
    out = tmp_path / "out.json"
    assert main([command, str(path), *(["-o", str(out)] if command == "merge" else [])]) == 2
    said = capsys.readouterr()
    assert said.err.startswith(f"poolguard: {path} {complaint}")
    assert (said.out, said.err.count("\n"), out.exists()) == ("", 1, False)


def test_what_can_not_be_read_or_written_is_one_line(tmp_path, capsys, shards):
    folder = tmp_path / "folder"
    folder.mkdir()
    for arguments, complaint in (
        (["show", str(folder)], f"{folder} can't be read: Is a directory"),
        (["show", f"{folder}/none"], f"{folder}/none can't be read: No such file or directory"),
        (["merge", *shards, "-o", str(folder)], f"{folder} can't be written: Is a directory"),
        (["merge", *shards, "-o", f"{shards[0]}/x"], f"{shards[0]}/x can't be written: "),
    ):
        assert main(arguments) == 2
        said = capsys.readouterr().err
        assert said.startswith(f"poolguard: {complaint}")
        assert said.count("\n") == 1


@pytest.mark.skipif(os.geteuid() == 0, reason="root may do everything")
def test_a_file_without_permission_is_one_line(tmp_path, capsys):
    path = tmp_path / "a.json"
    path.write_text("{}")
    path.chmod(0)
    assert main(["show", str(path)]) == 2
    assert capsys.readouterr().err == f"poolguard: {path} can't be read: Permission denied\n"


def python(*arguments, **given):
    return subprocess.run(
        [sys.executable, "-m", "pytest_poolguard", *arguments],
        capture_output=True,
        text=True,
        check=False,
        **given,
    )


def test_it_is_a_module_that_runs(shards, tmp_path):
    done = python("show", shards[0], env=os.environ | {"PYTHONIOENCODING": "ascii", "COLUMNS": "80"})
    assert (done.returncode, done.stderr) == (0, "")
    assert "= poolguard: 4 leaks, 2 sites, 4 tests =" in done.stdout
    done = python("merge", shards[0])
    assert done.returncode == 2
    assert "the following arguments are required: -o/--out" in done.stderr
    assert python().returncode == 2
    assert "python -m pytest_poolguard" in python("--help").stdout


def test_a_pipe_that_is_closed_is_no_error(shards):
    command = f"{sys.executable} -m pytest_poolguard show -v {shards[0]} | true; echo ${{PIPESTATUS[0]}}"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=True)
    assert (done.stdout, done.stderr) == ("0\n", "")
