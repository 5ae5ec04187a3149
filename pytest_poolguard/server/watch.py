"""The servers of a run: who was connected to each before, and which backends are behind our own connections.

A backend is one of ours only if its pid, its age and its absence before our first connection all say so; in
doubt it is somebody else's. A server that can't be asked is told once, and changes nothing.
"""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from pytest_poolguard.books.origin import printable
from pytest_poolguard.books.records import Opening, Owner
from pytest_poolguard.drivers.interface import Unaskable
from pytest_poolguard.drivers.moment import Reach
from pytest_poolguard.server.activity import PATIENCE, STATEMENTS, Ask, Backend, Look
from pytest_poolguard.server.advisory import ADVISORY
from pytest_poolguard.server.ending import end
from pytest_poolguard.server.lasting import LASTING
from pytest_poolguard.server.lasting import lasting as lasting_of
from pytest_poolguard.server.statements import Shown

__all__ = ["TOLERANCE", "Server", "ServerWatch"]

#: Seconds by which the two ends of a connection may differ about its age. Both measure a duration, so their
#: clocks need not agree. Ours begins when the connection is there, the server's before it asks for a password,
#: and a machine that was suspended in between has lost track: those are not judged. What this keeps apart are
#: backends whose pids are the same by accident, on another server or behind a connection pooler.
TOLERANCE = 10.0
#: Seconds by which a backend has to be older than that of our first connection to have been there before us: a
#: younger one may be ours, too, of a connection that another task or thread opens at the same time.
ALONGSIDE = 1.0
#: Connections, open or closed, that are remembered of each server, the latest ones.
REMEMBERED = 2000


@dataclass(eq=False)
class Server:
    """One server, as one role sees it."""

    name: str
    ask: Ask
    failure: str = ""  #: why it can't be asked
    is_told: bool = False  #: that was said
    knows_us: bool = True  #: it lists our connections when it is asked: no pooler is in between
    before: Look | None = None  #: who was there before us
    goes_with: Owner | None = None  #: the fixture that stops it, in its teardown
    looked: threading.Event = field(default_factory=threading.Event)  #: who was there is known, or won't be
    databases: set[str] = field(default_factory=set)  #: that we were connected to
    opened: dict[int, Opening] = field(default_factory=dict)  #: our connections to it, by the backend's pid

    def is_behind(self, opening: Opening, row: Backend) -> bool:
        """Whether a backend with the pid of a connection's is that connection's."""
        return row.is_client and not self.was_here(row) and _fits(row, opening)

    def was_here(self, row: Backend) -> bool:
        """Whether a backend is one of those that were there before us."""
        known = self.before.backends.get(row.pid) if self.before is not None else None
        return known is not None and known.start == row.start

    def remember(self, opening: Opening) -> None:
        """Keep in mind that a connection was opened to it."""
        pid = opening.backend_pid
        self.databases.add(opening.database)
        if pid is not None:
            self.opened.pop(pid, None)  # else it keeps the place of an older one in the order
            self.opened[pid] = opening
            if len(self.opened) > REMEMBERED:
                del self.opened[next(iter(self.opened))]


class ServerWatch:
    """The servers of this run, and who was connected to each before.

    ``dsn`` is asked instead of the servers that the connections went to, where it is given.
    """

    def __init__(self, dsn: str, notices: list[str], shown: Shown | None = None) -> None:
        self.dsn = dsn
        self._notices = notices
        self._shown = shown or Shown()
        self.servers: dict[Any, Server] = {}
        self._process = os.getpid()

    @property
    def in_own_process(self) -> bool:
        """Whether this is the process of the run: a fork of it has inherited connections that are not its."""
        return os.getpid() == self._process

    def is_first(self, opening: Opening) -> bool:
        """Whether a connection is the first one to its server: :meth:`connected` will ask that."""
        return opening.server not in self.servers and self.in_own_process

    def connected(self, opening: Opening, asker: Callable[[], Ask]) -> None:
        """A watched connection was opened: the first one to each server is the time to see who else is there.

        ``asker`` makes what asks the server that it went to. May be called in any thread.
        """
        if not self.in_own_process:
            return
        server = self.servers.get(opening.server)
        if server is None:
            new = Server(printable(":".join(str(part) for part in opening.server[:2])), asker())
            server = self.servers.setdefault(opening.server, new)
            if server is new:  # else another thread was faster
                try:
                    self._look_around(server, opening)
                finally:
                    server.looked.set()
        server.remember(opening)
        opening.behind_pooler = not (server.knows_us or self.dsn)

    def _look_around(self, server: Server, opening: Opening) -> None:
        look = self.look(server, lasting=True)
        if look is None:
            return
        own = look.backends.pop(opening.backend_pid or 0, None)
        if own is not None and _fits(own, opening):
            older = {pid: row for pid, row in look.backends.items() if _is_older(row, own)}
            server.before = replace(look, backends=older)
        elif opening.is_closed():  # while we asked: the next connection tells
            del self.servers[opening.server]
        else:
            server.before = look
            server.knows_us = False
            self._notices.append(self._why_unknown(server))

    def _why_unknown(self, server: Server) -> str:
        """Why a server may not list a connection to it: asked the same way, it shows at least the pid."""
        why = "a connection pooler in between, another server, or a role that may not see it"
        if not self.dsn:
            why = "a connection pooler or a load balancer is in between"
        return (
            f"{self.asked(server)} does not list a connection that was just opened to {server.name} ({why}): "
            "what is left open there is not checked"
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
            server = self.servers.get(key)
            if server is None or not server.knows_us or not self.in_own_process:
                continue
            look = self.look(server) if server.looked.wait(PATIENCE) else None
            if look is None:
                continue
            for opening in those:
                row = look.backends.get(opening.backend_pid or 0)
                if row is not None and server.is_behind(opening, row):
                    found[opening] = row.words(self._shown)
        return found

    @property
    def can_ask(self) -> bool:
        """Whether there is a server that lists our connections."""
        return any(server.knows_us and not server.failure for server in list(self.servers.values()))

    def ask_each(self, statements: Sequence[str]) -> Iterator[tuple[Any, Server, list[tuple[Any, ...]]]]:
        """What each server that lists our connections answers to some statements, by its key in openings.

        One that does not answer is left out, and nothing is said of it.
        """
        for key, server in list(self.servers.items()) if self.in_own_process else ():
            rows = None
            if server.knows_us and not server.failure:
                with contextlib.suppress(Exception):
                    rows = server.ask(statements, self.dsn, PATIENCE)
            if rows is not None:
                yield key, server, rows

    def look(self, server: Server, *, lasting: bool = False) -> Look | None:
        """Who is connected to a server; None if it can't be asked, which is told once.

        ``lasting``: and what is there that outlives connections.
        """
        found = self.glance(server, lasting=lasting)
        if found is None:
            self.tell_failure(server)
        return found

    def glance(self, server: Server, *, lasting: bool = False) -> Look | None:
        """The same, without a word; why it can't be asked is noted, and it is not asked again."""
        if server.failure:
            return None
        try:
            asked = time.time()
            if not isinstance(server.ask, Reach):
                return Look.of(server.ask(STATEMENTS, self.dsn, PATIENCE), asked, time.time())
            questions = (STATEMENTS, ADVISORY, LASTING)[: 3 if lasting else 2]
            rows, *more = server.ask.several(questions, self.dsn, PATIENCE)
            return _with_more(Look.of(rows, asked, time.time()), *more)
        except Exception as error:
            # Other texts than the driver's own may hold a password.
            server.failure = str(error) if isinstance(error, Unaskable) else type(error).__name__
            return None

    def end(self, server: Server, backends: Iterable[Backend]) -> set[int]:
        """End backends, by a role that is known there; the pids of those that are."""
        try:
            return end(server.ask, self.dsn, backends)
        except Exception as error:
            reason = str(error) if isinstance(error, Unaskable) else type(error).__name__
            self._notices.append(f"what is left open on {self.asked(server)} could not be ended: {reason}")
            return set()

    def tell_failure(self, server: Server) -> None:
        """Say why a server can't be asked, the first time."""
        if server.is_told:
            return
        server.is_told = True
        self._notices.append(
            f"pg_stat_activity of {self.asked(server)} could not be read: {server.failure}; "
            "what is left open there is not checked"
        )

    def asked(self, server: Server) -> str:
        """The name of what is asked in a server's stead, or its own."""
        return "the server of poolguard_dsn" if self.dsn else server.name


def _with_more(
    look: Look, advisory: Sequence[tuple[Any, ...]] = (), lasting: Sequence[tuple[Any, ...]] | None = None
) -> Look:
    return replace(look.with_advisory(advisory), lasting=lasting_of(lasting) if lasting is not None else None)


def _is_older(row: Backend, own: Backend) -> bool:
    return row.start is None or own.start is None or row.start <= own.start - ALONGSIDE


def _fits(row: Backend, opening: Opening) -> bool:
    age = time.monotonic() - opening.at
    return row.age is not None and abs(row.age - age) <= TOLERANCE
