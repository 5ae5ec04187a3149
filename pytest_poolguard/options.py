"""Every option once: its name, type, default and help, as command line flag, ini key and environment variable."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal, NamedTuple

from pytest_poolguard.baseline.ignoring import ignored
from pytest_poolguard.naming import named
from pytest_poolguard.option_values import (
    FAULTS,
    a_baseline,
    a_file,
    a_limit,
    a_session_limit,
    a_time,
    how_faults,
    one_of,
    some_rows,
    some_words,
    yes_or_no,
)

__all__ = ["MARKER", "MARKER_HELP", "OPTIONS", "STATISTICS", "Option"]

#: The option that says what poolguard is to do.
MODE = "poolguard"
MODES = ("fail", "warn", "off")
SERVER = ("session", "test", "off")
SQL = ("shape", "full", "off")
SIGNALS = ("SIGUSR1", "SIGUSR2")
TOLD = ("warn", "fail", "off")
#: Rows of statistics where no number is given: with their headings, a screen.
STATISTICS = "10"


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
        return self.parse is yes_or_no

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
        return self.parse is a_baseline


OPTIONS = (
    Option(
        "poolguard",
        one_of(MODES),
        "fail",
        "fail: a test that leaks a connection fails (default); warn: leaks are reported, nothing fails and "
        "nothing is reclaimed; off: nothing is watched",
        "{" + ",".join(MODES) + "}",
    ),
    Option(
        "poolguard_grace",
        a_time,
        1.0,
        "seconds to wait for a connection that another thread could still return (default 1.0)",
        "SECONDS",
    ),
    Option(
        "poolguard_timeout",
        a_limit,
        None,
        "seconds that taking a connection may block, in tests whose marker has no timeout (default: as long as "
        "the pool waits)",
        "SECONDS",
    ),
    Option(
        "poolguard_statement_timeout",
        a_session_limit,
        None,
        "seconds that a statement may take on the connections that are taken from pools, in tests whose marker "
        "has no statement_timeout: the server's own limit, set and taken back; 0 for none (default: as the "
        "session has it)",
        "SECONDS",
    ),
    Option(
        "poolguard_idle_in_transaction_timeout",
        a_session_limit,
        None,
        "seconds that a transaction may lie idle on them, likewise",
        "SECONDS",
    ),
    Option(
        "poolguard_connections",
        one_of(TOLD),
        "warn",
        "connections opened without a pool, and not closed when their test or fixture is finished. "
        "warn: they are reported (default); fail: they fail the test; off: they are not looked for",
        "{" + ",".join(TOLD) + "}",
    ),
    Option(
        "poolguard_open_pools",
        one_of(TOLD),
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
        one_of(TOLD),
        "off",
        "connections that are given back in the middle of a transaction that wrote: the pool rolls that back. "
        "off: they are not looked for (default); warn: they are reported; fail: they fail the test",
        "{" + ",".join(TOLD) + "}",
    ),
    Option(
        "poolguard_nested",
        one_of(TOLD),
        "off",
        "connections that a thread or task takes while it holds another one of the same pool: enough of them "
        "wait for each other for ever. off: they are not looked for (default); warn: they are reported; fail: "
        "they fail the test",
        "{" + ",".join(TOLD) + "}",
    ),
    Option(
        "poolguard_dialects",
        some_words,
        ("postgresql",),
        "the dialects of SQLAlchemy engines whose connections are watched (default: postgresql)",
        "NAME[,NAME]",
    ),
    Option(
        "poolguard_server",
        one_of(SERVER),
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
        one_of(SQL),
        "shape",
        "how much of a statement reports show. shape: all but its literals (default); full: all; off: nothing",
        "{" + ",".join(SQL) + "}",
    ),
    Option(
        "poolguard_terminate",
        yes_or_no,
        False,
        "end what this run has left open on the server, when it has been reported; never anybody else's",
        "",
    ),
    Option(
        "poolguard_dump_signal",
        one_of(SIGNALS),
        "",
        "write to stderr, whenever this signal comes, where every thread is, and who has which connections",
        "{" + ",".join(SIGNALS) + "}",
    ),
    Option(
        "poolguard_baseline",
        a_baseline,
        "",
        "sites that this file records may leak, and are counted; any other fails",
        "FILE",
    ),
    Option(
        "poolguard_update_baseline",
        yes_or_no,
        False,
        "let every leak pass, and record its site in the baseline; sites that leak no more are taken out, unless "
        "their tests did not run",
        "",
    ),
    Option(
        "poolguard_strict_baseline",
        yes_or_no,
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
        "poolguard_faults",
        how_faults,
        "off",
        "run each test again with a fault at every place where it takes a connection: the server ends it, its "
        "statement fails, its task is cancelled, the next checkout is refused. fail: what is not given back then "
        "fails the run (the flag without a value); warn: it is reported; off: nothing is run again (default)",
        "{" + ",".join(FAULTS) + "}",
        bare="fail",
    ),
    Option(
        "poolguard_faults_budget",
        a_limit,
        None,
        "seconds that a process may spend on running tests again under faults (default: as long as it takes)",
        "SECONDS",
    ),
    Option(
        "poolguard_faults_only",
        str,
        "",
        "places that faults strike: FILE:FUNCTION, in which * matches anything (default: all)",
        "PATTERN",
    ),
    Option(
        "poolguard_stats",
        some_rows,
        None,
        "show how much each pool was used in which test: connections, peak, waits, the longest hold; and what "
        f"that advises on their sizes. N: rows (default {STATISTICS}), 0 for all, as with -v",
        "N",
        bare=STATISTICS,
    ),
    Option(
        "poolguard_json",
        a_file,
        "",
        "write the findings to this file, as JSON; folders that are missing are made",
        "FILE",
    ),
    Option(
        "poolguard_selftest",
        yes_or_no,
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
    "nested=None, faults=None, leaks=None, reason=None): limits for the connection pools during the test. "
    "max: connections that each pool hands out at once; timeout: seconds that taking one "
    "may block; hold: seconds that one may be out; statement_timeout: seconds that a statement may take on one; "
    "idle_in_transaction_timeout: seconds that a transaction may lie idle on one; nested: whether a thread or "
    "task may take one while it holds another; faults: False where the test is not to be run again under faults; "
    "leaks: how many connections the test is expected to leak, or 'any', with a reason. (pytest-poolguard)"
)
