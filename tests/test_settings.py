"""Options: which source wins, what is refused, and that a refusal is one clear line."""

from __future__ import annotations

import json
import os

import pytest

from pytest_poolguard.settings import OPTIONS, read_settings

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
    ("poolguard_server", "always", "'always' is not one of session, off"),
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


def test_json_can_go_to_a_device(pytester):
    pytester.makepyfile(PLAIN)
    result = pytester.runpytest_subprocess("--poolguard-json=/dev/stdout")
    assert '"format": "pytest-poolguard"' in result.stdout.str()
    assert os.path.exists("/dev/stdout")


@pytest.mark.parametrize(
    ("path", "error"),
    [
        (".", "'.' is a folder, a file is wanted"),
        (
            "file/out.json",
            "'file/out.json' can't be written: '*file' is not a folder that this user may write to",
        ),
    ],
)
def test_a_json_path_that_can_not_be_stops_the_run_at_its_start(pytester, path, error):
    pytester.makepyfile(PLAIN)
    (pytester.path / "file").touch()
    result = pytester.runpytest_inprocess(f"--poolguard-json={path}")
    assert_one_line_and_exit_code_4(result, f"poolguard: --poolguard-json: {error}")


@pytest.mark.parametrize(("test", "code"), [("assert True", 0), ("assert False", 1)])
def test_a_json_file_that_can_not_be_written_is_one_notice(pytester, test, code):
    pytester.makepyfile(f"def test_it():\n    open('late', 'w').close()\n    {test}\n")
    result = pytester.runpytest_inprocess("-p", "no:cacheprovider", "--poolguard-json=late/out.json")
    assert result.ret == code
    result.stdout.fnmatch_lines(["poolguard: the findings could not be written to */late/out.json: *"])
    assert "Traceback" not in result.stdout.str() + result.stderr.str()


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
        assert f"{option.flag}={option.metavar}" in text
        assert f"{option.name} (string)" in text


def test_fixtures_lists_the_fixture(pytester):
    pytester.runpytest_inprocess("--fixtures").stdout.fnmatch_lines(
        ["poolguard -- *", "*What this test has checked out of its pools*"]
    )


def test_markers_lists_the_marker(pytester):
    pytester.runpytest_inprocess("--markers").stdout.fnmatch_lines(["@pytest.mark.pool(max=None, *"])


@pytest.mark.parametrize("option", ["--help", "--fixtures", "--markers", "--co"])
def test_a_run_that_only_shows_things_says_nothing_of_pools(pytester, option):
    pytester.makepyfile(PLAIN)
    text = pytester.runpytest_inprocess(option).stdout.str()
    assert "no connection pool was seen" not in text
