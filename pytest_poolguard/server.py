"""What ``pg_stat_activity`` says of the backends behind this process's connections.

A backend is one of ours only if its pid, its age and its absence before our first connection all say so; in
doubt it is somebody else's. A server that can't be asked is told once, and changes nothing.
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from pytest_poolguard.drivers.interface import Unaskable
from pytest_poolguard.origin import printable
from pytest_poolguard.records import Opening

__all__ = ["Ask", "ServerWatch", "statement_shape"]

#: Runs statements on a server over a connection of a moment: the server of the given DSN, else one's own, within
#: so many seconds. Returns the last statement's rows, texts as bytes; raises Unaskable.
Ask = Callable[[Sequence[str], str, float], list[tuple[Any, ...]]]

#: Seconds that one look may take.
PATIENCE = 3.0
#: Seconds by which the two ends of a connection may differ about its age. Both measure a duration, so their
#: clocks need not agree. Ours begins when the connection is there, the server's before it asks for a password,
#: and a machine that was suspended in between has lost track: those are not judged. What this keeps apart are
#: backends whose pids are the same by accident, on another server or behind a connection pooler.
TOLERANCE = 10.0

ACTIVITY = """
SELECT pid, coalesce(backend_type, ''), coalesce(state, ''), coalesce(application_name, ''),
       coalesce(query, ''), coalesce(extract(epoch FROM clock_timestamp() - state_change), 0)::float8,
       extract(epoch FROM clock_timestamp() - backend_start)::float8,
       extract(epoch FROM backend_start)::float8
  FROM pg_catalog.pg_stat_activity
"""
STATEMENTS = (f"SET statement_timeout = {PATIENCE * 1000:.0f}", ACTIVITY)

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


@dataclass(frozen=True)
class _Backend:
    """A row of pg_stat_activity. Of roles whose backends one may not see, it has little more than the pid."""

    pid: int
    kind: bytes
    state: bytes
    application: bytes
    query: bytes
    state_age: float  #: seconds
    age: float | None  #: seconds
    start: float | None  #: by the server's clock

    def words(self) -> dict[str, str]:
        """What a finding says of it."""
        return {
            "state": printable(_text(self.state)),
            "state_seconds": f"{self.state_age:.3f}",
            "age_seconds": f"{self.age or 0:.3f}",
            "application": printable(_text(self.application)),
            "statement": statement_shape(_text(self.query)),
        }


@dataclass
class _Server:
    """One server, as one role sees it."""

    name: str
    ask: Ask
    answers: bool = True  #: it lists our connections when it is asked
    before: frozenset[tuple[int, float | None]] = frozenset()  #: who was there before us: pid, start

    def is_behind(self, opening: Opening, row: _Backend) -> bool:
        """Whether a backend with the pid of a connection's is that connection's."""
        was_here = (row.pid, row.start) in self.before
        return row.kind == b"client backend" and not was_here and _fits(row, opening)


class ServerWatch:
    """The servers of this run, and who was connected to each before.

    ``dsn`` is asked instead of the servers that the connections went to, where it is given.
    """

    def __init__(self, dsn: str, notices: list[str]) -> None:
        self._dsn = dsn
        self._notices = notices
        self._servers: dict[Any, _Server] = {}
        self._process = os.getpid()

    @property
    def in_own_process(self) -> bool:
        """Whether this is the process of the run: a fork of it has inherited connections that are not its."""
        return os.getpid() == self._process

    def connected(self, opening: Opening, asker: Callable[[], Ask]) -> None:
        """A watched connection was opened: the first one to each server is the time to see who else is there.

        ``asker`` makes what asks the server that it went to.
        """
        if opening.server in self._servers or not self.in_own_process:
            return
        server = _Server(printable(":".join(str(part) for part in opening.server[:2])), asker())
        if self._servers.setdefault(opening.server, server) is not server:
            return  # another thread was faster
        rows = self._activity(server)
        if rows is None:
            return
        own = rows.pop(opening.backend_pid, None)
        server.before = frozenset((row.pid, row.start) for row in rows.values())
        if own is None or not _fits(own, opening):
            server.answers = False
            self._notices.append(
                f"{self._asked(server)} does not list a connection that was just opened to {server.name} (a "
                "connection pooler in between, another server, or a role that may not see it): what is left open "
                "there is not checked"
            )

    def backends(self, openings: Iterable[Opening]) -> dict[Opening, dict[str, str]]:
        """What the server says of the backends of some connections.

        Those are left out that it does not list, that are no clients' (replication), and that may be somebody
        else's.
        """
        found: dict[Opening, dict[str, str]] = {}
        by_server: dict[Any, list[Opening]] = {}
        for opening in openings:
            by_server.setdefault(opening.server, []).append(opening)
        for key, those in by_server.items():
            server = self._servers.get(key)
            if server is None or not self.in_own_process:
                continue
            rows = self._activity(server) or {}
            for opening in those:
                row = rows.get(opening.backend_pid)
                if row is not None and server.is_behind(opening, row):
                    found[opening] = row.words()
        return found

    def _activity(self, server: _Server) -> dict[int | None, _Backend] | None:
        """Who is connected to a server, by pid; None if it can't be asked, which is told once."""
        if not server.answers:
            return None
        try:
            rows = server.ask(STATEMENTS, self._dsn, PATIENCE)
            return {row[0]: _Backend(*row) for row in rows}
        except Exception as error:
            server.answers = False
            # Other texts than the driver's own may hold a password.
            reason = str(error) if isinstance(error, Unaskable) else type(error).__name__
            self._notices.append(
                f"pg_stat_activity of {self._asked(server)} could not be read: {reason}; "
                "what is left open there is not checked"
            )
            return None

    def _asked(self, server: _Server) -> str:
        return "the server of poolguard_dsn" if self._dsn else server.name


def _fits(row: _Backend, opening: Opening) -> bool:
    age = time.monotonic() - opening.at
    return row.age is not None and abs(row.age - age) <= TOLERANCE


def _text(raw: bytes) -> str:
    return raw.decode("utf-8", "replace")
