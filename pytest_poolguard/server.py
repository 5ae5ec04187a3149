"""What ``pg_stat_activity`` says of the backends behind this process's connections.

Read over connections of a moment, from a maintenance database where that is allowed: suites drop the database
that they test. A server that can't be asked is told once, and changes nothing.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from typing import Any

from pytest_poolguard.origin import printable
from pytest_poolguard.records import Opening

__all__ = ["Connect", "ServerWatch", "statement_shape"]

#: Opens a connection to the server that a watched connection went to; takes changes to its parameters.
Connect = Callable[..., Any]

#: Seconds to wait for a connection, and for the one statement on it.
PATIENCE = 3

ACTIVITY = """
SELECT pid, coalesce(state, ''), coalesce(application_name, ''), coalesce(query, ''),
       coalesce(extract(epoch FROM clock_timestamp() - state_change), 0)::float8,
       extract(epoch FROM clock_timestamp() - backend_start)::float8
  FROM pg_stat_activity
 WHERE backend_type = 'client backend' AND pid <> pg_backend_pid()
"""

LITERAL = re.compile(
    r"""
    [eE]'(?:\\.|[^'\\])*(?:'|$) | '(?:''|[^'])*(?:'|$)   # strings, also one that was cut off
  | \$(\w*)\$.*?(?:\$\1\$|$)                             # dollar-quoted strings
  | (?<![\w$"])\d+(?:\.\d+)?(?:e[+-]?\d+)?               # numbers
    """,
    re.VERBOSE | re.DOTALL,
)
STATEMENT_WIDTH = 80


def statement_shape(sql: str) -> str:
    """A statement on one line, without its literals: those may be anybody's secrets."""
    shape = printable(" ".join(LITERAL.sub("?", sql).split()))
    return shape if len(shape) <= STATEMENT_WIDTH else shape[: STATEMENT_WIDTH - 1] + "…"


class ServerWatch:
    """The servers of this run, and who was connected to each before."""

    def __init__(self, dsn: str, notices: list[str]) -> None:
        self._dsn = dsn
        self._notices = notices
        self._connect: dict[Any, Connect] = {}
        self._before: dict[Any, set[int]] = {}
        self._mute: set[Any] = set()

    def connected(self, opening: Opening, connect: Connect) -> None:
        """A watched connection was opened: the first one to each server is the time to see who else is there."""
        server = opening.server
        if server in self._connect:
            return
        self._connect[server] = _with_dsn(connect, self._dsn) if self._dsn else connect
        rows = self.activity(server)
        own = {opening.backend_pid}
        self._before[server] = {row["pid"] for row in rows or ()} - own

    def activity(self, server: Any) -> list[dict[str, Any]] | None:
        """Who is connected to a server; None if it can't be asked (which is told once)."""
        if server in self._mute or server not in self._connect:
            return None
        try:
            return _read(self._connect[server])
        except Exception as error:
            self._mute.add(server)
            reason = printable(str(error).strip().partition("\n")[0]) or type(error).__name__
            self._notices.append(f"pg_stat_activity of {_name(server)} could not be read: {reason}")
            return None

    def backends(self, openings: Iterable[Opening]) -> dict[Opening, dict[str, str]]:
        """What the server says of the backends of some connections; those it does not list are gone."""
        openings = list(openings)
        found: dict[Opening, dict[str, str]] = {}
        for server in dict.fromkeys(opening.server for opening in openings):
            rows = {row["pid"]: row for row in self.activity(server) or ()}
            for opening in openings:
                if opening.server == server and opening.backend_pid in rows:
                    found[opening] = _words(rows[opening.backend_pid])
        return found

    def strangers(self, known: set[int]) -> list[int]:
        """The backends that were not there before, and are none of this process's."""
        new: list[int] = []
        for server, before in self._before.items():
            rows = self.activity(server) or []
            new.extend(row["pid"] for row in rows if row["pid"] not in before | known)
        return new


def _with_dsn(connect: Connect, dsn: str) -> Connect:
    def to_dsn(**changes: Any) -> Any:
        function = getattr(connect, "func", connect)
        return function(dsn, **changes)

    return to_dsn


def _read(connect: Connect) -> list[dict[str, Any]]:
    options = {"connect_timeout": PATIENCE, "application_name": "pytest-poolguard"}
    try:
        connection = connect(dbname="postgres", **options)
    except Exception:  # no such database, or no right to it
        connection = connect(**options)
    try:
        connection.autocommit = True
        with connection.cursor() as cursor:
            cursor.execute(f"SET statement_timeout = '{PATIENCE}s'")
            cursor.execute(ACTIVITY)
            names = ("pid", "state", "application", "query", "state_age", "age")
            return [dict(zip(names, row, strict=True)) for row in cursor.fetchall()]
    finally:
        connection.close()


def _words(row: dict[str, Any]) -> dict[str, str]:
    return {
        "state": printable(row["state"]),
        "state_seconds": f"{row['state_age']:.3f}",
        "age_seconds": f"{row['age']:.3f}",
        "application": printable(row["application"]),
        "statement": statement_shape(row["query"]),
    }


def _name(server: Any) -> str:
    return printable(":".join(str(part) for part in server)) if isinstance(server, tuple) else "the server"
