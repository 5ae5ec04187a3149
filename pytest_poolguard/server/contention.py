"""Who is in whose way on a server at one moment, and which of those are connections of ours."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass

from pytest_poolguard.drivers.moment import AS_IT_IS
from pytest_poolguard.server.holding import PREPARED, Holding

__all__ = ["Contention", "Session", "merged", "named_in"]

#: How the server's messages quote a name, in any language.
QUOTED = re.compile(r"[\"»«„“]\s?(.+?)\s?[\"«»“”]")
#: The two sides of a deadlock, and who reads from a replication slot, stand in messages as numbers.
NUMBER = re.compile(r"\b\d{1,7}\b")
OURSELVES = AS_IT_IS["application_name"].encode()


@dataclass(frozen=True)
class Session:
    """A connected backend."""

    holding: Holding
    #: Who opened it where, or has it from a pool: ``opened at shop/db.py:9 in connect, by test_a``; empty for one
    #: that this process did not open.
    origin: str = ""
    statement: str = ""  #: the last one, as far as it may be shown

    @property
    def pid(self) -> int:
        """The backend's."""
        return self.holding.pid


@dataclass(frozen=True)
class Contention:
    """The sessions of one server, by pid."""

    server: str
    sessions: Mapping[int, Session]

    def waiting(self) -> list[Session]:
        """Those of ours that wait for a lock, and all who are in their way, each after whom it blocks."""
        found: dict[int, Session] = {}
        pids = [pid for pid, one in self.sessions.items() if one.origin and one.holding.is_waiting]
        while pids:
            pid = pids.pop(0)
            session = self.sessions.get(pid)
            if session is not None and pid not in found:
                found[pid] = session
                pids += [blocker for blocker in session.holding.blockers if blocker != PREPARED]
        return list(found.values())

    def named(self, message: str) -> list[Session]:
        """Those whose pids stand in a message of the server's, if one of ours is among them."""
        pids = {int(number) for number in NUMBER.findall(message)}
        found = [session for pid, session in self.sessions.items() if pid in pids]
        return found if any(session.origin for session in found) else []

    def connected_to(self, databases: Collection[str]) -> list[Session]:
        """Those with a connection to one of some databases, ours first."""
        return _ours_first(one for one in self.sessions.values() if one.holding.database in databases)

    def holding_locks(self) -> list[Session]:
        """Those with locks that others may want, in the databases that ours are connected to; ours first."""
        databases = {one.holding.database for one in self.sessions.values() if one.origin}
        return _ours_first(one for one in self.connected_to(databases) if one.holding.holds)


def merged(looks: Iterable[Contention]) -> list[Contention]:
    """Looks of several roles at the same servers as one of each: every role sees most of its own."""
    servers: dict[str, dict[int, Session]] = {}
    for look in looks:
        sessions = servers.setdefault(look.server, {})
        for pid, session in look.sessions.items():
            if session.holding.backend.application == OURSELVES and not session.origin:
                continue  # the look of another worker
            known = sessions.get(pid)
            if known is None or _tells_more(session, known):
                sessions[pid] = session
    return [Contention(server, sessions) for server, sessions in servers.items()]


def named_in(message: str) -> frozenset[str]:
    """The names that a message of the server's quotes."""
    return frozenset(QUOTED.findall(message))


def _tells_more(one: Session, other: Session) -> bool:
    return (bool(one.origin), not one.holding.is_hidden) > (bool(other.origin), not other.holding.is_hidden)


def _ours_first(sessions: Iterable[Session]) -> list[Session]:
    return sorted((one for one in sessions if one.holding.is_client), key=lambda one: (not one.origin, one.pid))
