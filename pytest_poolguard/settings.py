"""Every option once: its name, type, default and help, as command line flag, ini key and environment variable."""

from __future__ import annotations

import math
import os
from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import pytest

from pytest_poolguard.ignoring import Ignored, ignored
from pytest_poolguard.naming import PoolClass, named

__all__ = [
    "MARKER",
    "MARKER_HELP",
    "MOST_OF_A_SESSION",
    "OPTIONS",
    "STATISTICS",
    "Option",
    "Settings",
    "add_options",
    "read_settings",
    "runs_no_test",
]

#: The option that says what poolguard is to do.
MODE = "poolguard"
MODES = ("fail", "warn", "off")
SERVER = ("session", "test", "off")
SQL = ("shape", "full", "off")
SIGNALS = ("SIGUSR1", "SIGUSR2")
TOLD = ("warn", "fail", "off")
#: Rows of statistics where no number is given: with their headings, a screen.
STATISTICS = "10"


def _one_of(choices: tuple[str, ...]) -> Callable[[str], str]:
    def parse(text: str) -> str:
        if text not in choices:
            raise ValueError(f"{text!r} is not one of {', '.join(choices)}")
        return text

    return parse


def _seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = -1.0
    if not 0 <= seconds < float("inf"):
        raise ValueError(f"{text!r} is not a number of seconds, 0 or more")
    return seconds


def _words(text: str) -> tuple[str, ...]:
    return tuple(text.replace(",", " ").split())


def _rows(text: str) -> int:
    try:
        rows = int(text)
    except ValueError:
        rows = -1
    if rows < 0:
        raise ValueError(
            f"{text!r} is not a number of rows, 0 or more (what follows the option is taken for it: write =N)"
        )
    return rows


def _limit(text: str) -> float:
    seconds = _seconds(text)
    if not seconds:
        raise ValueError(f"{text!r} is not a number of seconds greater than 0")
    return seconds


#: Seconds: the server counts milliseconds, in 31 bits.
MOST_OF_A_SESSION = 2_147_483


def _session_limit(text: str) -> float:
    try:
        seconds = _seconds(text)
    except ValueError:
        seconds = math.inf
    if seconds > MOST_OF_A_SESSION:
        raise ValueError(f"{text!r} is not a number of seconds from 0 (no limit) to {MOST_OF_A_SESSION}")
    return seconds


def _yes_or_no(text: str) -> bool:
    if text.lower() not in ("true", "false"):
        raise ValueError(f"{text!r} is not one of true, false")
    return text.lower() == "true"


def _file(text: str) -> str:
    """A file that can be written, by its full name: tests change the working directory."""
    if not text:
        return ""
    path = os.path.abspath(text)
    if os.path.isdir(path):
        raise ValueError(f"{text!r} is a folder, a file is wanted")
    folder = os.path.dirname(path)
    while not os.path.exists(folder):  # it is made when the file is written
        folder = os.path.dirname(folder)
    if not (os.path.isdir(folder) and os.access(folder, os.W_OK)):
        raise ValueError(f"{text!r} can't be written: {folder!r} is not a folder that this user may write to")
    return path


def _baseline(text: str) -> str:
    """A file by its full name; it is read when the run begins."""
    if text and os.path.isdir(text):
        raise ValueError(f"{text!r} is a folder, a file is wanted")
    return os.path.abspath(text) if text else ""


class Option(NamedTuple):
    """One option: ``name`` is the ini key, and with dashes the flag."""

    name: str
    parse: Callable[[str], Any]
    default: Any
    help: str
    metavar: str
    env: str = ""
    ini: Literal["string", "linelist", ""] = "string"  #: the ini key's type; empty where there is only the flag
    bare: str = ""  #: what the flag means without a value, where it needs none

    @property
    def is_switch(self) -> bool:
        """Whether the flag takes no value: to give it is to say yes."""
        return self.parse is _yes_or_no

    @property
    def field(self) -> str:
        """The attribute of the settings."""
        return self.name.removeprefix("poolguard_") if self.name != MODE else "mode"

    @property
    def flag(self) -> str:
        """The command line flag."""
        return "--" + self.name.replace("_", "-")

    @property
    def is_kept_with_the_suite(self) -> bool:
        """Whether it names a file of the suite's: in the ini file, a relative name begins where that lies."""
        return self.parse is _baseline


OPTIONS = (
    Option(
        "poolguard",
        _one_of(MODES),
        "fail",
        "fail: a test that leaks a connection fails (default); warn: leaks are reported, nothing fails and "
        "nothing is reclaimed; off: nothing is watched",
        "{" + ",".join(MODES) + "}",
    ),
    Option(
        "poolguard_grace",
        _seconds,
        1.0,
        "seconds to wait for a connection that another thread could still return (default 1.0)",
        "SECONDS",
    ),
    Option(
        "poolguard_timeout",
        _limit,
        None,
        "seconds that taking a connection may block, in tests whose marker has no timeout (default: as long as "
        "the pool waits)",
        "SECONDS",
    ),
    Option(
        "poolguard_statement_timeout",
        _session_limit,
        None,
        "seconds that a statement may take on the connections that are taken from pools, in tests whose marker "
        "has no statement_timeout: the server's own limit, set and taken back; 0 for none (default: as the "
        "session has it)",
        "SECONDS",
    ),
    Option(
        "poolguard_idle_in_transaction_timeout",
        _session_limit,
        None,
        "seconds that a transaction may lie idle on them, likewise",
        "SECONDS",
    ),
    Option(
        "poolguard_connections",
        _one_of(TOLD),
        "warn",
        "connections opened without a pool, and not closed when their test or fixture is finished. "
        "warn: they are reported (default); fail: they fail the test; off: they are not looked for",
        "{" + ",".join(TOLD) + "}",
    ),
    Option(
        "poolguard_open_pools",
        _one_of(TOLD),
        "warn",
        "pools that were made by a test or fixture and are still open, with connections, when it is finished. "
        "warn: they are reported (default); fail: they fail the test; off: they are not looked for",
        "{" + ",".join(TOLD) + "}",
    ),
    Option(
        "poolguard_pools",
        named,
        (),
        "pool classes of the project's own that are watched, one on each line, with the names of their methods: "
        "module:Class(acquire=method, release=method, close=method)",
        "CLASS",
        ini="linelist",
    ),
    Option(
        "poolguard_dirty_returns",
        _one_of(TOLD),
        "off",
        "connections that are given back in the middle of a transaction that wrote: the pool rolls that back. "
        "off: they are not looked for (default); warn: they are reported; fail: they fail the test",
        "{" + ",".join(TOLD) + "}",
    ),
    Option(
        "poolguard_nested",
        _one_of(TOLD),
        "off",
        "connections that a thread or task takes while it holds another one of the same pool: enough of them "
        "wait for each other for ever. off: they are not looked for (default); warn: they are reported; fail: "
        "they fail the test",
        "{" + ",".join(TOLD) + "}",
    ),
    Option(
        "poolguard_dialects",
        _words,
        ("postgresql",),
        "the dialects of SQLAlchemy engines whose connections are watched (default: postgresql)",
        "NAME[,NAME]",
    ),
    Option(
        "poolguard_server",
        _one_of(SERVER),
        "session",
        "session: pg_stat_activity is compared before and after the session (default); test: it is read after "
        "every test, too; off: it is not read",
        "{" + ",".join(SERVER) + "}",
    ),
    Option(
        "poolguard_dsn",
        str,
        "",
        "the server to compare (default: the servers that the watched connections went to)",
        "DSN",
        env="POOLGUARD_DSN",
    ),
    Option(
        "poolguard_show_sql",
        _one_of(SQL),
        "shape",
        "how much of a statement reports show. shape: all but its literals (default); full: all; off: nothing",
        "{" + ",".join(SQL) + "}",
    ),
    Option(
        "poolguard_terminate",
        _yes_or_no,
        False,
        "end what this run has left open on the server, when it has been reported; never anybody else's",
        "",
    ),
    Option(
        "poolguard_dump_signal",
        _one_of(SIGNALS),
        "",
        "write to stderr, whenever this signal comes, where every thread is, and who has which connections",
        "{" + ",".join(SIGNALS) + "}",
    ),
    Option(
        "poolguard_baseline",
        _baseline,
        "",
        "sites that this file records may leak, and are counted; any other fails",
        "FILE",
    ),
    Option(
        "poolguard_update_baseline",
        _yes_or_no,
        False,
        "let every leak pass, and record its site in the baseline; sites that leak no more are taken out, unless "
        "their tests did not run",
        "",
    ),
    Option(
        "poolguard_strict_baseline",
        _yes_or_no,
        False,
        "fail the run where a site of the baseline leaks no more, though the tests that it came from did run",
        "",
    ),
    Option(
        "poolguard_ignore",
        ignored,
        (),
        "what is ignored, one entry on each line, with the reason: FILE:FUNCTION -- REASON for sites, "
        "pool:CLASS -- REASON for pools, pool:CLASS@FILE:FUNCTION -- REASON for those that were made there; "
        "* matches anything",
        "ENTRY",
        ini="linelist",
    ),
    Option(
        "poolguard_stats",
        _rows,
        None,
        "show how much each pool was used in which test: connections, peak, waits, the longest hold; and what "
        f"that advises on their sizes. N: rows (default {STATISTICS}), 0 for all, as with -v",
        "N",
        bare=STATISTICS,
    ),
    Option(
        "poolguard_json",
        _file,
        "",
        "write the findings to this file, as JSON; folders that are missing are made",
        "FILE",
    ),
    Option(
        "poolguard_selftest",
        _yes_or_no,
        False,
        "run no tests: import each library that is installed, prove that its connections are seen, and say so; "
        "exit code 1 if one can't be watched",
        "",
        ini="",
    ),
)


MARKER = "pool"
MARKER_HELP = (
    "pool(max=None, timeout=None, hold=None, statement_timeout=None, idle_in_transaction_timeout=None, "
    "nested=None, leaks=None, reason=None): limits for the connection pools during the test. "
    "max: connections that each pool hands out at once; timeout: seconds that taking one "
    "may block; hold: seconds that one may be out; statement_timeout: seconds that a statement may take on one; "
    "idle_in_transaction_timeout: seconds that a transaction may lie idle on one; nested: whether a thread or "
    "task may take one while it holds another; leaks: how many connections the test is expected to leak, or "
    "'any', with a reason. "
    "(pytest-poolguard)"
)

#: Options with which pytest runs no test.
SHOWING = ("collectonly", "showfixtures", "show_fixtures_per_test")


class Settings(NamedTuple):
    """The options in force."""

    mode: str
    grace: float
    timeout: float | None
    statement_timeout: float | None
    idle_in_transaction_timeout: float | None
    connections: str
    open_pools: str
    pools: tuple[PoolClass, ...]
    dirty_returns: str
    nested: str
    dialects: tuple[str, ...]
    server: str
    dsn: str
    show_sql: str
    terminate: bool
    dump_signal: str
    baseline: str
    update_baseline: bool
    strict_baseline: bool
    ignore: tuple[Ignored, ...]
    stats: int | None
    json: str
    selftest: bool


def add_options(parser: pytest.Parser) -> None:
    """Declare every option, as flag and as ini key."""
    group = parser.getgroup("poolguard", "connection leaks (pytest-poolguard)")
    for option in OPTIONS:
        given: dict[str, Any] = {"metavar": option.metavar}
        if option.is_switch:
            given = {"action": "store_const", "const": "true"}
        elif option.bare:
            given |= {"nargs": "?", "const": option.bare}
        group.addoption(option.flag, dest=option.name, default=None, help=option.help, **given)
        if option.ini:
            parser.addini(option.name, option.help, type=option.ini, default=None)


def read_settings(config: pytest.Config, flags: Any) -> Settings:
    """The options in force: the flag, else the ini key, else the environment, else the default.

    ``flags`` is the namespace of parsed flags: before the first conftest is loaded, it is not in the config
    yet. Raises :class:`pytest.UsageError` where a value is not allowed.
    """
    values = {option.field: _value(option, config, flags) for option in OPTIONS}
    for name in ("update_baseline", "strict_baseline"):
        if values[name] and not values["baseline"]:
            flag = f"--poolguard-{name.replace('_', '-')}"
            raise pytest.UsageError(
                f"poolguard: {flag}: there is no baseline; name it with --poolguard-baseline=FILE"
            )
    if values["update_baseline"]:
        _parsed("--poolguard-baseline", _file, values["baseline"])
    return Settings(**values)


def _value(option: Option, config: pytest.Config, flags: Any) -> Any:
    from_ini = _one_text(config.getini(option.name)) if option.ini else None
    if from_ini and option.is_kept_with_the_suite and getattr(config, "inipath", None) is not None:
        from_ini = os.path.join(os.path.dirname(config.inipath or ""), from_ini)
    sources = (
        (option.flag, getattr(flags, option.name, None)),
        (f"ini key {option.name}", from_ini),
        (f"environment variable {option.env}", (os.environ.get(option.env) or None) if option.env else None),
    )
    for source, text in sources:
        if text is not None:
            return _parsed(source, option.parse, str(text))
    return option.default


def _parsed(source: str, parse: Callable[[str], Any], text: str) -> Any:
    try:
        return parse(text)
    except ValueError as error:
        raise pytest.UsageError(f"poolguard: {source}: {error}") from None


def _one_text(value: Any) -> Any:
    return "\n".join(value) if isinstance(value, list) else value


def runs_no_test(config: pytest.Config) -> bool:
    """Whether pytest only shows something."""
    return any(config.getoption(name, False) for name in SHOWING)
