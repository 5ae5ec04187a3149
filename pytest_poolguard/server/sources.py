"""Servers that no watched connection has led to: by somebody's DSN, by a fixture of pytest-postgresql."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import Any

from pytest_poolguard.books.origin import printable
from pytest_poolguard.books.records import Owner
from pytest_poolguard.drivers.interface import Unaskable
from pytest_poolguard.drivers.lines.choice import line_of
from pytest_poolguard.drivers.moment import Reach, parsed
from pytest_poolguard.server.census import Census
from pytest_poolguard.server.watch import Server, ServerWatch

__all__ = ["Sources"]

#: The modules of its executors begin so. One that starts no server is a "noop".
EXECUTORS = "pytest_postgresql.executor"
#: The parameters that its executors have as attributes.
ATTRIBUTES = {"host": "host", "port": "port", "user": "user", "password": "password", "dbname": "dbname"}


class Sources:
    """Adds them to the servers that are watched."""

    def __init__(self, watch: ServerWatch, notices: list[str]) -> None:
        self._watch = watch
        self._notices = notices

    def given(self, dsn: str, owner: Owner) -> None:
        """A server that ``owner`` is about to use; a fixture may stop it in its teardown.

        Raises :class:`Unaskable` where that is no DSN.
        """
        line = line_of(sys.modules)
        if line is None:
            self._notices.append("a server was to be watched, but no library that can ask it was imported")
            return
        self._add(Reach(line, parsed(line, dsn)), owner if owner.kind == "fixture" else None)

    def of_setting(self) -> str:
        """How full the server of the setting is, in a line; empty where there is none, or nothing can ask yet."""
        line = line_of(sys.modules)
        if not self._watch.dsn or line is None:
            return ""
        try:
            self._add(Reach(line, parsed(line, self._watch.dsn)), None)
        except Unaskable:
            return ""  # the first look at it tells
        before = next(iter(self._watch.servers.values())).before
        return f"{Census.of(before)} before this run" if before is not None else ""

    def made_by(self, fixture: Owner) -> None:
        """A fixture was set up: if it is a server, that is watched."""
        if EXECUTORS not in sys.modules and f"{EXECUTORS}s" not in sys.modules:
            return
        executor = fixture.value()
        if not type(executor).__module__.startswith(EXECUTORS):
            return
        line = line_of(sys.modules)
        if line is None:
            return
        stops = "noop" not in type(executor).__module__
        known = {name: getattr(executor, attribute, None) for name, attribute in ATTRIBUTES.items()}
        self._add(
            Reach(line, {name: str(value) for name, value in known.items() if value}), fixture if stops else None
        )

    def _add(self, reach: Reach, goes_with: Owner | None) -> None:
        key = _key(reach.server)
        server = self._watch.servers.get(key)
        if server is None:
            server = Server(printable(":".join(str(part) for part in key[:2])), reach)
            server.before = self._watch.look(server, lasting=True)
            server.looked.set()
            self._watch.servers[key] = server
        if goes_with is not None:
            server.goes_with = goes_with


def _key(known: Mapping[str, Any]) -> tuple[Any, ...]:
    """As connections have it, see ``libpq.server_of``: where a parameter was left out, another key."""
    port = str(known.get("port", ""))
    return known.get("host", ""), int(port) if port.isdigit() else port, known.get("user", "")
