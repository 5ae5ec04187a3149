"""Whose the backends are that a server lists when the run is over."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from pytest_poolguard.books.records import Opening
from pytest_poolguard.drivers.moment import APPLICATION
from pytest_poolguard.server.activity import ACTIVE, Backend, Look
from pytest_poolguard.server.watch import Server

__all__ = ["Remains", "settled"]

#: Looks of other runs, of a moment; and what a pooler keeps under the name of ours.
OURSELVES = APPLICATION.encode()
#: Seconds between two looks, where something is still listed that may be about to go: a backend that has just
#: been closed is listed for some milliseconds more.
PAUSES = (0.005, 0.01, 0.02, 0.04, 0.08, 0.16)


@dataclass
class Remains:
    """The backends of one look, sorted out."""

    look: Look
    own: dict[Opening, Backend] = field(default_factory=dict)  #: open in this process
    ended: dict[Opening, Backend] = field(default_factory=dict)  #: closed here; the server is not through yet
    named: list[Backend] = field(default_factory=list)  #: no connection of this process, but with the run's name
    strangers: list[Backend] = field(default_factory=list)
    crashed: list[Backend] = field(default_factory=list)  #: of these two, those of xdist workers that are gone

    @classmethod
    def of(
        cls, look: Look, servers: Iterable[Server], is_ours: Callable[[bytes], bool], known: frozenset[int]
    ) -> Remains:
        """Sort out a look at what ``servers`` are one of.

        ``is_ours`` tells the run's name. ``known`` are the pids of connections that somebody else judges, or that
        nothing else is on record of.
        """
        remains = cls(look)
        servers = list(servers)
        for row in look.clients:
            opening = _opening_of(row, servers)
            if opening is not None and not opening.is_closed():
                remains.own[opening] = row
            elif opening is not None:
                # An idle one goes as soon as its socket is closed: what keeps that open, nobody can tell.
                if row.state == ACTIVE:
                    remains.ended[opening] = row
            elif row.pid not in known and row.application != OURSELVES:
                (remains.named if is_ours(row.application) else remains.strangers).append(row)
        return remains

    @property
    def may_go(self) -> bool:
        """Whether there is something that the next look may not see any more."""
        return bool(self.ended or self.named)


def settled(look: Callable[[], Remains | None]) -> Remains | None:
    """What remains once everything that is about to go has gone."""
    remains = look()
    for pause in PAUSES:
        if remains is None or not remains.may_go:
            break
        time.sleep(pause)
        remains = look() or remains
    return remains


def _opening_of(row: Backend, servers: list[Server]) -> Opening | None:
    for server in servers:
        opening = server.opened.get(row.pid)
        if opening is not None and server.knows_us and server.is_behind(opening, row):
            return opening
    return None
