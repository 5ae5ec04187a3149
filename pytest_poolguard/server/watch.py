"""What ``pg_stat_activity`` says of the backends behind this process's connections.

A backend is one of ours only if its pid, its age and its absence before our first connection all say so; in
doubt it is somebody else's. A server that can't be asked is told once, and changes nothing.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from pytest_poolguard.drivers.interface import Unaskable
from pytest_poolguard.origin import printable
from pytest_poolguard.records import Opening
from pytest_poolguard.server.activity import PATIENCE, STATEMENTS, Ask, Backend

__all__ = ["ServerWatch"]

#: Seconds by which the two ends of a connection may differ about its age. Both measure a duration, so their
#: clocks need not agree. Ours begins when the connection is there, the server's before it asks for a password,
#: and a machine that was suspended in between has lost track: those are not judged. What this keeps apart are
#: backends whose pids are the same by accident, on another server or behind a connection pooler.
TOLERANCE = 10.0


@dataclass
class _Server:
    """One server, as one role sees it."""

    name: str
    ask: Ask
    answers: bool = True  #: it lists our connections when it is asked
    before: frozenset[tuple[int, float | None]] = frozenset()  #: who was there before us: pid, start
    databases: set[str] = field(default_factory=set)  #: that we were connected to

    def is_behind(self, opening: Opening, row: Backend) -> bool:
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
    def can_ask(self) -> bool:
        """Whether there is a server that lists our connections."""
        return any(server.answers for server in list(self._servers.values()))

    @property
    def in_own_process(self) -> bool:
        """Whether this is the process of the run: a fork of it has inherited connections that are not its."""
        return os.getpid() == self._process

    def connected(self, opening: Opening, asker: Callable[[], Ask]) -> None:
        """A watched connection was opened: the first one to each server is the time to see who else is there.

        ``asker`` makes what asks the server that it went to.
        """
        known = self._servers.get(opening.server)
        if known is not None:
            known.databases.add(opening.database)
        if known is not None or not self.in_own_process:
            return
        server = _Server(printable(":".join(str(part) for part in opening.server[:2])), asker())
        if self._servers.setdefault(opening.server, server) is not server:
            return  # another thread was faster
        server.databases.add(opening.database)
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

    def ask_each(self, statements: Sequence[str]) -> Iterator[tuple[Any, _Server, list[tuple[Any, ...]]]]:
        """What each server that lists our connections answers to some statements, by its key in openings.

        One that does not answer is left out, and nothing is said of it.
        """
        for key, server in list(self._servers.items()) if self.in_own_process else ():
            rows = None
            if server.answers:
                with contextlib.suppress(Exception):
                    rows = server.ask(statements, self._dsn, PATIENCE)
            if rows is not None:
                yield key, server, rows

    def _activity(self, server: _Server) -> dict[int | None, Backend] | None:
        """Who is connected to a server, by pid; None if it can't be asked, which is told once."""
        if not server.answers:
            return None
        try:
            rows = server.ask(STATEMENTS, self._dsn, PATIENCE)
            return {row[0]: Backend(*row) for row in rows}
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


def _fits(row: Backend, opening: Opening) -> bool:
    age = time.monotonic() - opening.at
    return row.age is not None and abs(row.age - age) <= TOLERANCE
