"""Connections opened without a pool, and pools themselves, that nobody has closed when their owner is finished.

Whoever opens something for as long as the process lives need not close it, and what is collected closes by
itself: so each is looked at when its owner ends and, unless it fails the test there, once more at the end of the
run.
"""

from __future__ import annotations

import gc
import threading
from collections.abc import Iterable
from dataclasses import dataclass
from types import CodeType

from pytest_poolguard.books.ledger import Ledger
from pytest_poolguard.books.origin import Origin, SourceTree
from pytest_poolguard.books.records import Opening, Owner, Pool
from pytest_poolguard.describe import Describe
from pytest_poolguard.findings import FAILED, WARNED, Finding
from pytest_poolguard.judging import holders
from pytest_poolguard.judging.keeping import module_that_keeps, only_tracebacks_keep
from pytest_poolguard.owners import Owners

__all__ = ["Unclosed"]

#: Steps from a fixture's value or a module's globals to a pool: it lies deep in an application object.
POOL_DEPTH = 8


@dataclass
class _Suspect:
    """What was open when its owner ended."""

    what: Opening | Pool
    finding: Finding
    module: str = ""  #: that holds a pool
    abandoned: bool = False  #: no code that still runs, and no object, has it

    def is_open(self) -> bool:
        if isinstance(self.what, Pool):
            # One that was collected since may never have been closed.
            return not self.what.was_closed and (self.what.ref() is None or self.what.is_open())
        return self.abandoned or not self.what.is_closed()


class Unclosed:
    """Looks at the end of each owner. ``connections`` and ``pools`` are "warn", "fail" or "off"."""

    def __init__(
        self,
        ledger: Ledger,
        owners: Owners,
        tree: SourceTree,
        describe: Describe,
        *,
        connections: str,
        pools: str,
    ) -> None:
        self._ledger = ledger
        self._owners = owners
        self._tree = tree
        self._describe = describe
        self._connections = connections
        self._pools = pools
        self._seen: dict[Owner, list[_Suspect]] = {}  #: when an owner's own fixtures were gone
        self._waiting: list[_Suspect] = []  #: for the end of the run
        self._fresh: list[_Suspect] = []  #: of these, the latest ones

    def has_to_do(self, owner: Owner) -> bool:
        """Whether there is anything to look at when an owner ends."""
        return bool(owner.opened or owner.made)

    @property
    def any_waiting(self) -> bool:
        """Whether something that was open at the end of its owner waits for the end of the run."""
        return bool(self._waiting)

    def strike_out_closed(self) -> None:
        """Let nothing wait that was closed since: once it is collected, nobody could tell any more."""
        self._waiting = [suspect for suspect in self._waiting if suspect.is_open()]

    def may_fail(self) -> bool:
        """Whether something that is there now could fail a test when it ends."""
        owners = [*self._owners.fixtures, *([self._owners.test] if self._owners.test is not None else [])]
        return any(
            (self._connections == "fail" and owner.opened) or (self._pools == "fail" and owner.made)
            for owner in owners
        )

    def look(self, owner: Owner) -> None:
        """See what an owner has left open while its surroundings are there."""
        self._seen[owner] = [*self._connections_of(owner), *self._pools_of(owner)]

    def end(self, owner: Owner, *, failed: bool) -> list[Finding]:
        """What fails a test, of what an owner has left open that has ended; the rest waits.

        ``failed``: its test has failed already, or was skipped in the middle: what it did not come to close, and
        what its traceback keeps, goes with it.
        """
        if owner not in self._seen:
            self.look(owner)
        suspects = [suspect for suspect in self._seen.pop(owner) if suspect.is_open() and not _is_gone(suspect)]
        owner.opened.clear()
        owner.made.clear()
        if failed:
            return []
        failing = [suspect for suspect in suspects if self._setting(suspect) == "fail"]
        if any(isinstance(suspect.what, Opening) for suspect in failing):
            gc.collect()  # what closes with the next collection is not to fail a test
        failing = [s for s in failing if s.is_open() and not _is_gone(s) and self._is_one_of_several(s, suspects)]
        self._fresh = [suspect for suspect in suspects if suspect not in failing]
        self._waiting += self._fresh
        return [self._told(suspect, FAILED) for suspect in failing]

    def fresh(self) -> list[Opening]:
        """The connections that were found open since the last call."""
        fresh, self._fresh = self._fresh, []
        return [suspect.what for suspect in fresh if isinstance(suspect.what, Opening) and suspect.is_open()]

    def end_session(self) -> list[Finding]:
        """What is still open at the end of the run and, for connections, was not left to the server to tell."""
        if any(isinstance(suspect.what, Opening) for suspect in self._waiting):
            gc.collect()
        left = [suspect for suspect in self._waiting if suspect.is_open() and not suspect.what.told]
        return [self._told(suspect, WARNED) for suspect in left if self._is_one_of_several(suspect, left)]

    def _setting(self, suspect: _Suspect) -> str:
        return self._pools if isinstance(suspect.what, Pool) else self._connections

    def _told(self, suspect: _Suspect, verdict: str) -> Finding:
        suspect.what.told = True
        suspect.finding.verdict = verdict
        return suspect.finding

    # connections

    def _connections_of(self, owner: Owner) -> list[_Suspect]:
        if self._connections == "off":
            return []
        others = [fixture for fixture in self._owners.fixtures if fixture is not owner]
        found = []
        for opening in owner.opened:
            if not self._is_left_open(opening):
                continue
            abandoned = _is_abandoned(opening)
            if abandoned or not self._has_somebody(opening, owner, others):
                found.append(_Suspect(opening, self._describe.open_connection(opening), abandoned=abandoned))
        return found

    def _is_left_open(self, opening: Opening) -> bool:
        return (
            opening.pool is None
            and not opening.told
            and not opening.is_closed()
            and self._ledger.held_by(opening.ref()) is None
            and not self._describe.opened_by_library(opening)
        )

    def _has_somebody(self, opening: Opening, owner: Owner, others: list[Owner]) -> bool:
        """Whether somebody is there who may keep a connection, and close it later."""
        if opening.task is not None and opening.task.is_unfinished() and opening.task.starter is not owner:
            return True
        if opening.thread is not None and holders.is_alive(opening.thread):
            return True
        connection = opening.ref()
        return self._has_heir(opening.opened, connection, others, holders.DEPTH) or bool(
            module_that_keeps(connection, owner, _calls(opening.opened))
        )

    # pools

    def _pools_of(self, owner: Owner) -> list[_Suspect]:
        # A session's pools go with its process.
        if self._pools == "off" or owner.kind == "session" or owner.scope == "session":
            return []
        others = [fixture for fixture in self._owners.fixtures if fixture is not owner]
        found = []
        for record in owner.made:
            pool = record.ref()
            is_left_open = record.terms.close and not record.was_closed and record.is_open()
            if pool is None or not is_left_open or not self._describe.backends_of(record):
                continue
            if not self._has_heir(record.made, pool, others, POOL_DEPTH):
                module = module_that_keeps(pool, owner, _calls(record.made), POOL_DEPTH)
                found.append(_Suspect(record, self._describe.open_pool(record, owner), module))
        return found

    def _is_one_of_several(self, suspect: _Suspect, others: Iterable[_Suspect]) -> bool:
        """Whether the module that holds a pool holds more from that line: one is a singleton, two are a leak."""
        if not suspect.module:
            return True
        made = suspect.finding.acquired
        known = [*self._waiting, *others]
        return sum(1 for other in {id(s): s for s in known}.values() if other.finding.acquired == made) > 1

    # who may close it

    def _has_heir(self, origin: Origin, thing: object, others: list[Owner], depth: int) -> bool:
        """Whether one of the fixtures that are there still answers for it."""
        if holders.factory_of(origin, others) is not None:
            return True
        return any(holders.reaches(fixture.value(), thing, None, depth=depth) for fixture in others)


def _calls(origin: Origin) -> list[CodeType]:
    return [code for code, _ in origin.frames()]


def _is_gone(suspect: _Suspect) -> bool:
    """Whether it closed by itself while its owner came to its end: with a test's own object, say."""
    return not suspect.abandoned and suspect.what.ref() is None


def _is_abandoned(opening: Opening) -> bool:
    """Whether a thread that still runs has lost a connection: the call that opened it failed, and left it so."""
    is_another = isinstance(opening.thread, threading.Thread) and opening.thread.is_alive()
    return is_another and opening.task is None and only_tracebacks_keep(opening.ref())
