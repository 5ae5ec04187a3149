"""What a worker of an xdist run tells the controller of servers and connections, as plain data.

The servers, with what it takes to reach them, when the worker ends. The connections after each test: a worker
that crashes says nothing in the end.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import astuple, replace
from typing import Any

from pytest_poolguard.books.records import Opening
from pytest_poolguard.drivers.moment import Line, Reach
from pytest_poolguard.findings import Finding
from pytest_poolguard.server.activity import Backend, Look
from pytest_poolguard.server.lasting import Lasting
from pytest_poolguard.server.watch import TOLERANCE, Server

__all__ = ["Announced", "Announcer", "packed", "unpacked"]


def packed(key: tuple[Any, ...], server: Server, *, secrets: bool = True) -> dict[str, Any] | None:
    """A server; None for one that can't be reached again. ``secrets``: with what it takes to log in."""
    if not isinstance(server.ask, Reach):
        return None
    before = server.before
    lasting = before.lasting if before is not None else None
    parameters = _plain(server.ask.server)
    return {
        "key": list(key),
        "name": server.name,
        "parameters": parameters if secrets else {n: v for n, v in parameters.items() if "password" not in n},
        "knows_us": server.knows_us,
        "before": before.to_plain() if before is not None else [],
        "databases": sorted(server.databases),
        "lasting": [list(astuple(one)) for one in lasting] if lasting is not None else None,
        "asked": before.asked if before is not None else 0.0,
    }


def unpacked(plain: dict[str, Any], line: Line) -> tuple[tuple[Any, ...], Server]:
    """The key and the server of a :func:`packed`, to be reached by a line of this process's."""
    before = Look.of(plain["before"], plain["asked"], plain["asked"]) if plain["before"] else None
    if before is not None and plain["lasting"] is not None:
        before = replace(before, lasting=frozenset(Lasting(*one) for one in plain["lasting"]))
    reach = Reach(line, plain["parameters"])
    server = Server(plain["name"], reach, knows_us=plain["knows_us"], before=before)
    server.looked.set()
    server.databases.update(plain["databases"])
    return tuple(plain["key"]), server


def _plain(parameters: Mapping[str, Any]) -> dict[str, Any]:
    """A server's parameters by libpq's names: asyncpg's connections have a place instead."""
    place = parameters.get("place")
    if place is None:
        return dict(parameters)
    password = place.password if isinstance(place.password, str) else ""
    known = {"host": place.host, "port": str(place.port), "user": place.user, "password": password}
    known |= {"dbname": place.database, "options": place.options, **place.tls}
    return {name: value for name, value in known.items() if value}


class Announcer:
    """Tells each connection that is open after a test, once, and each server. Reports may be written to files."""

    def __init__(self, describe: Callable[[Opening, dict[str, str]], Finding]) -> None:
        self._describe = describe
        self._told: set[int] = set()
        self._servers: set[Server] = set()

    def new(self, openings: Iterable[Opening], servers: Mapping[Any, Server]) -> dict[str, list[dict[str, Any]]]:
        """Those that were not told before."""
        new = {key: server for key, server in servers.items() if server not in self._servers}
        self._servers.update(new.values())
        known = (packed(key, server, secrets=False) for key, server in new.items())
        told = {"connections": self._new(openings), "servers": [plain for plain in known if plain is not None]}
        return {what: those for what, those in told.items() if those}

    def _new(self, openings: Iterable[Opening]) -> list[dict[str, Any]]:
        found = []
        for opening in openings:
            pid = opening.backend_pid
            if opening.server is None or opening.behind_pooler or pid is None or pid in self._told:
                continue
            if opening.is_closed():
                continue
            self._told.add(pid)
            finding = self._describe(opening, {"state": ""})
            age = time.monotonic() - opening.at
            found.append({"pid": pid, "opened": time.time() - age, "finding": finding.to_dict()})
        return found


class Announced:
    """What the workers have told of their connections."""

    def __init__(self) -> None:
        self._by_worker: dict[str, list[dict[str, Any]]] = {}
        self.crashed: set[str] = set()
        self.over: set[str] = set()  #: those that have come to their end, and the crashed ones
        self.servers: list[dict[str, Any]] = []

    def add(self, worker: str, told: dict[str, list[dict[str, Any]]]) -> None:
        """A worker has told of connections and servers."""
        self._by_worker.setdefault(worker, []).extend(told.get("connections", ()))
        self.servers += told.get("servers", ())

    def ended(self, worker: str) -> None:
        """A worker has come to its end: it has judged its connections itself."""
        self._by_worker.pop(worker, None)
        self.over.add(worker)

    def has_crashed(self, worker: str) -> None:
        """A worker is gone, without a word."""
        self.crashed.add(worker)
        self.over.add(worker)

    def finding_of(self, row: Backend, opened: float) -> Finding | None:
        """The connection of a crashed worker that a backend, started at ``opened``, is behind."""
        for worker in self.crashed:
            for told in self._by_worker.get(worker, ()):
                if told["pid"] == row.pid and abs(told["opened"] - opened) <= TOLERANCE and row.is_client:
                    return Finding.from_dict(told["finding"])
        return None
