"""Looks at a server after every test, over a connection that is kept."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterable

from pytest_poolguard.drivers.interface import Unaskable
from pytest_poolguard.drivers.moment import MAINTENANCE, Kept, Reach
from pytest_poolguard.server.activity import ACTIVITY, PATIENCE, STATEMENTS, Backend, Look
from pytest_poolguard.server.advisory import ADVISORY
from pytest_poolguard.server.remains import PAUSES
from pytest_poolguard.server.run_name import RunName
from pytest_poolguard.server.watch import Server

__all__ = ["Glances"]

#: Only those that may be ours: the answer is short, though the server may be busy.
NARROW = "{activity} AND (application_name = '{name}'{pids})"
#: For the life of the connection. Where a DSN was given, a pooler may be behind it, whose connections are others'
#: the next moment.
FOR_ALL = f"SET statement_timeout = {PATIENCE * 1000:.0f}"


class Glances:
    """The looks at one server."""

    def __init__(self, server: Server, dsn: str, name: RunName) -> None:
        self.server = server
        self.failure = ""  #: why it is looked at no longer
        self._dsn = dsn
        self._name = name
        self._kept: Kept | None = server.ask.kept(dsn) if isinstance(server.ask, Reach) else None
        self._stays = False  #: the connection is to a database that no suite drops
        self._seen: set[tuple[int, float | None]] = set()

    def look(self, pids: Iterable[int]) -> Look | None:
        """The backends under the run's name, and those of some pids; None where it can't be asked any more."""
        also = ", ".join(str(pid) for pid in pids)
        name = str(self._name).replace("'", "''")
        statement = NARROW.format(activity=ACTIVITY, name=name, pids=f" OR pid IN ({also})" if also else "")
        for attempt in range(2):
            with contextlib.suppress(Unaskable):
                return self._ask(statement)
            if attempt:
                break
        return None

    def with_locks(self, look: Look) -> Look:
        """A look with the advisory locks: they are asked for where there is something to tell."""
        try:
            return look.with_advisory(self._kept.rows(ADVISORY, PATIENCE)) if self._kept is not None else look
        except Unaskable:
            return look

    def new(self, known: Iterable[int]) -> tuple[Look, list[Backend]] | None:
        """Those under the run's name that were not seen before, that stay, and whose pid is not ``known``."""
        others = set(known)
        found = self._new(others)
        for pause in PAUSES:
            if found is None or not found[1]:
                break
            time.sleep(pause)
            found = self._new(others)
        if found is not None:
            self._seen.update((row.pid, row.start) for row in found[1])
        return found

    def close(self) -> None:
        """Let go of the connection."""
        if self._kept is not None:
            self._kept.close()

    def _new(self, known: set[int]) -> tuple[Look, list[Backend]] | None:
        look = self.look(())
        if look is None:
            return None
        rows = [row for row in look.clients if row.pid not in known and (row.pid, row.start) not in self._seen]
        return look, rows

    def _ask(self, statement: str) -> Look:
        kept = self._kept
        if kept is None:
            raise Unaskable("there is no way to it")
        if not kept.is_open:
            kept.open(PATIENCE)
            if not self._dsn:
                kept.rows((FOR_ALL, "SELECT 1"), PATIENCE)
            ((database,),) = kept.rows(("SELECT pg_catalog.current_database()::text",), PATIENCE)
            self._stays = database == MAINTENANCE.encode()
        asked = time.time()
        rows = kept.rows((*STATEMENTS[:1], statement) if self._dsn else (statement,), PATIENCE)
        if not self._stays:
            kept.close()
        return Look.of(rows, asked, time.time())
