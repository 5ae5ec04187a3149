"""Options: which source wins, what is refused, and that a refusal is one clear line."""

from __future__ import annotations

import json
import os

import pytest

from pytest_poolguard.options import OPTIONS
from pytest_poolguard.reports import json_file
from pytest_poolguard.settings import read_settings
from pytest_poolguard.tally import Tally

TEST = "def test_it(pool):\n    pool.putconn(pool.getconn())\n"
PLAIN = "def test_it(): pass\n"


@pytest.fixture(autouse=True)
def quiet_ini(pytester):
    """pytest-asyncio warns where this is not set."""
    pytester.makeini("[pytest]\nasyncio_default_fixture_loop_scope = function\n")


class Config:
    """What the settings ask of pytest's config."""

    def __init__(self, **ini):
        self.ini = ini

    def getini(self, name):
        return self.ini.get(name)


class Flags:
    def __init__(self, **flags):
        self.__dict__.update(flags)


def test_the_defaults():
    settings = read_settings(Config(), Flags())
    assert (settings.mode, settings.grace, settings.server, settings.dsn, settings.json) == (
        "fail",
        1.0,
        "session",
        "",
        "",
    )


def test_a_flag_wins_over_the_ini_key_and_that_over_the_environment(monkeypatch):
    monkeypatch.setenv("POOLGUARD_DSN", "from environment")
    assert read_settings(Config(), Flags()).dsn == "from environment"
    ini = Config(poolguard_dsn="from ini")
    assert read_settings(ini, Flags(poolguard_dsn=None)).dsn == "from ini"
    assert read_settings(ini, Flags(poolguard_dsn="from flag")).dsn == "from flag"
    assert read_settings(ini, Flags(poolguard_dsn="")).dsn == ""


def test_an_empty_environment_variable_is_none(monkeypatch):
    monkeypatch.setenv("POOLGUARD_DSN", "")
    assert read_settings(Config(), Flags()).dsn == ""


@pytest.mark.parametrize("text", ["0", "0.5", "1e1", "3600"])
def test_seconds_may_be_zero_or_more(text):
    assert read_settings(Config(), Flags(poolguard_grace=text)).grace == float(text)


REFUSED = [
    ("poolguard", "loud", "'loud' is not one of fail, warn, off"),
    ("poolguard", "", "'' is not one of fail, warn, off"),
    ("poolguard", "FAIL", "'FAIL' is not one of fail, warn, off"),
    ("poolguard_server", "always", "'always' is not one of session, test, off"),
    *(
        ("poolguard_grace", text, f"{text!r} is not a number of seconds, 0 or more")
        for text in ("", "-1", "nan", "inf", "-inf", "soon", "1,5")
    ),
    ("poolguard_grace", "\x1b[31m", "'\\x1b[31m' is not a number of seconds, 0 or more"),
]


@pytest.mark.parametrize(("name", "text", "error"), REFUSED)
def test_a_wrong_value_is_refused_with_its_source(name, text, error):
    flag = "--" + name.replace("_", "-")
    with pytest.raises(pytest.UsageError) as raised:
        read_settings(Config(), Flags(**{name: text}))
    assert str(raised.value) == f"poolguard: {flag}: {error}"
    with pytest.raises(pytest.UsageError) as raised:
        read_settings(Config(**{name: text}), Flags())
    assert str(raised.value) == f"poolguard: ini key {name}: {error}"


def assert_one_line_and_exit_code_4(result, line):
    result.stderr.fnmatch_lines([f"ERROR: {line}"])
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    assert "Traceback" not in result.stderr.str() + result.stdout.str()
    assert "passed" not in result.stdout.str()


def test_a_wrong_flag_stops_the_run(pytester):
    pytester.makepyfile(PLAIN)
    result = pytester.runpytest_inprocess("--poolguard=loud")
    assert_one_line_and_exit_code_4(result, "poolguard: --poolguard: 'loud' is not one of fail, warn, off")


def test_a_wrong_ini_key_stops_the_run(pytester):
    pytester.makepyfile(PLAIN)
    pytester.makeini("[pytest]\npoolguard_grace = -1\n")
    result = pytester.runpytest_inprocess()
    line = "poolguard: ini key poolguard_grace: '-1' is not a number of seconds, 0 or more"
    assert_one_line_and_exit_code_4(result, line)


def test_a_wrong_flag_stops_a_run_on_workers(pytester):
    pytester.makepyfile(PLAIN)
    result = pytester.runpytest_inprocess("--poolguard-grace=nan", "-n2")
    line = "poolguard: --poolguard-grace: 'nan' is not a number of seconds, 0 or more"
    assert_one_line_and_exit_code_4(result, line)


def test_a_wrong_value_stops_a_run_that_loads_the_plugin_late(pytester, monkeypatch):
    """Named in a conftest, it misses the early hooks."""
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")
    pytester.makepyfile(PLAIN)
    pytester.makeconftest("pytest_plugins = ['pytest_poolguard.plugin']\n")
    pytester.makeini("[pytest]\npoolguard = loud\n")
    result = pytester.runpytest_subprocess()
    line = "poolguard: ini key poolguard: 'loud' is not one of fail, warn, off"
    assert_one_line_and_exit_code_4(result, line)


# the JSON file


def test_a_json_file_is_made_with_its_folders_and_only_that(pytester):
    pytester.makepyfile(PLAIN)
    result = pytester.runpytest_inprocess("-p", "no:cacheprovider", "--poolguard-json=new/folder/out.json")
    assert result.ret == 0
    (file,) = (pytester.path / "new" / "folder").iterdir()
    assert json.loads(file.read_text())["findings"] == []


def test_a_json_file_stays_where_it_was_wanted_though_a_test_changes_the_directory(pytester, tmp_path_factory):
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    pytester.makepyfile(f"import os\ndef test_it(): os.chdir({str(elsewhere)!r})\n")
    pytester.runpytest_inprocess("--poolguard-json=out.json")
    assert (pytester.path / "out.json").exists()


def test_an_older_json_file_is_replaced(pytester):
    pytester.makepyfile(PLAIN)
    (pytester.path / "out.json").write_text("old")
    pytester.runpytest_inprocess("--poolguard-json=out.json")
    assert json.loads((pytester.path / "out.json").read_text())["format"] == "pytest-poolguard"


def test_a_device_is_written_to_and_not_replaced(pytester):
    pytester.makepyfile(PLAIN)
    assert pytester.runpytest_inprocess("--poolguard-json=/dev/null").ret == 0
    assert not os.path.isfile("/dev/null")


def test_json_can_go_to_a_named_pipe(pytester):
    pytester.makepyfile(PLAIN)
    pipe = str(pytester.path / "pipe")
    os.mkfifo(pipe)
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    try:
        pytester.runpytest_inprocess(f"--poolguard-json={pipe}")
        assert json.loads(os.read(reader, 65536))["format"] == "pytest-poolguard"
    finally:
        os.close(reader)


def test_a_file_that_can_not_take_its_place_is_removed(tmp_path, monkeypatch):
    def refuse(source, target):
        raise PermissionError(13, "Permission denied")

    path = tmp_path / "out.json"
    path.write_text("old")
    monkeypatch.setattr(json_file.os, "replace", refuse)
    with pytest.raises(PermissionError):
        json_file.write(str(path), Tally())
    assert [(file.name, file.read_text()) for file in tmp_path.iterdir()] == [("out.json", "old")]


def test_nothing_is_left_of_a_json_file_that_could_not_be_finished(pytester):
    pytester.makepyfile("import os\ndef test_it(): os.makedirs('out.json/full')\n")
    result = pytester.runpytest_inprocess("-p", "no:cacheprovider", "--poolguard-json=out.json")
    assert result.ret == 0
    left = sorted(path.name for path in pytester.path.iterdir() if "json" in path.name and path.suffix != ".py")
    assert left == ["out.json"]


# what pytest shows of it


def test_help_lists_every_flag_and_ini_key(pytester):
    text = pytester.runpytest_inprocess("--help").stdout.str()
    assert "connection leaks (pytest-poolguard)" in text
    for option in OPTIONS:
        value = f"=[{option.metavar}]" if option.bare else f"={option.metavar}" if option.metavar else ""
        assert option.flag + value in text
        assert (f"{option.name} ({option.ini})" in text) is bool(option.ini)


def test_fixtures_lists_the_fixture(pytester):
    pytester.runpytest_inprocess("--fixtures").stdout.fnmatch_lines(
        ["poolguard [[]session scope[]] -- *", "*What the test that runs has checked out of its pools*"]
    )


def test_markers_lists_the_marker(pytester):
    pytester.runpytest_inprocess("--markers").stdout.fnmatch_lines(["@pytest.mark.pool(max=None, *"])


@pytest.mark.parametrize("option", ["--help", "--fixtures", "--markers", "--co"])
def test_a_run_that_only_shows_things_says_nothing_of_pools(pytester, option):
    pytester.makepyfile(PLAIN)
    text = pytester.runpytest_inprocess(option).stdout.str()
    assert "no connection pool was seen" not in text
