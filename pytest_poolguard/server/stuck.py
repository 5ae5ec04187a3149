"""What a test that failed on a lock is told of: who was in its way.

The look is taken when the exception is reported, while the others are still connected, or has been taken by the
lookout while the test waited.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Callable, Mapping

import pytest

from pytest_poolguard.books.ledger import Ledger
from pytest_poolguard.books.origin import SourceTree, printable
from pytest_poolguard.books.records import Checkout, Opening, Owner
from pytest_poolguard.owners import Owners
from pytest_poolguard.reports import locks
from pytest_poolguard.reports.backends import age
from pytest_poolguard.reports.text import PHASES
from pytest_poolguard.server.contention import Contention, Session, merged, named_in
from pytest_poolguard.server.holding import HOLDING, holdings
from pytest_poolguard.server.lookout import LOUD, Lookout, Seen
from pytest_poolguard.server.sqlstate import CANCELED, DEADLOCK, IN_USE, Refusal, refusal
from pytest_poolguard.server.statements import Shown
from pytest_poolguard.server.watch import ServerWatch

__all__ = ["Stuck"]

SECTION = "poolguard: who was in the way"
#: Where the server says that a statement was canceled while it waited for a row.
AT_A_ROW = re.compile(r"\btuple \(\d+,\d+\) in relation\b")


class Stuck:
    """Looks at the servers when a test fails on a lock, and, by the lookout, while one waits for one."""

    def __init__(
        self,
        server: ServerWatch,
        ledger: Ledger,
        owners: Owners,
        tree: SourceTree,
        notices: list[str],
        shown: Shown,
    ) -> None:
        self._server = server
        self._ledger = ledger
        self._tree = tree
        self._notices = notices
        self._shown = shown
        self.lookout = Lookout(ledger.clock, owners, self._look, _cry, self._shout)
        self._stderr: int | None = None  #: the file descriptor for what can't wait for a report
        self._full_pools: Callable[[float], str] = lambda _seconds: ""

    def watch(self) -> None:
        """Have the lookout watch, if there is a server that can be asked; it does not outlive a fork."""
        if self._server.can_ask and self._server.in_own_process:
            self.lookout.start()

    def tell(self, item: pytest.Item, report: pytest.TestReport, error: BaseException | None) -> None:
        """Let the report of a test that has failed say who was in its way."""
        seen = self.lookout.take(item.nodeid, {"call": "body"}.get(report.when or "", report.when or ""))
        if not report.failed:
            return
        refused = refusal(error) if error is not None else None
        parts = [_of(seen)] if seen is not None else []
        if refused is not None and self._server.can_ask:
            parts.append(self._refused(refused))
        text = "\n\n".join(part for part in parts if part)
        if text:
            report.sections.append((SECTION, text))

    def interrupted(self, item: pytest.Item) -> None:
        """A test's protocol is over: if a phase of it came to no report, the summary says what was seen."""
        seen = self.lookout.take_any(item.nodeid)
        if seen is not None:
            self._notices.append(f"{printable(item.nodeid)} was interrupted. {_of(seen)}")

    def tell_hangs(self, stderr: int, full_pools: Callable[[float], str]) -> None:
        """Write to a file descriptor what a test hangs on: nobody may ever end it, and then there is no report.

        ``full_pools`` tells who has had all connections of a pool for so many seconds.
        """
        self._stderr, self._full_pools = stderr, full_pools

    def _shout(self, test: Owner, seen: Seen | None) -> bool:
        text = _of(seen) if seen is not None else self._full_pools(LOUD)
        if text and self._stderr is not None:
            state = (
                "still waits for a lock" if seen is not None else "still runs, and a pool has nothing to hand out"
            )
            whole = f"\npoolguard: {printable(test.nodeid)} {state}\n{text}\n"
            os.write(self._stderr, whole.encode(errors="backslashreplace"))
        return bool(text)

    def _refused(self, refused: Refusal) -> str:
        if refused.sqlstate == CANCELED and not AT_A_ROW.search(refused.message):
            return ""  # it may just have been slow
        looks = self._look()
        if refused.sqlstate == IN_USE:
            names = named_in(refused.message)
            return locks.connected(looks, names) or locks.deadlock(looks, refused.message)
        if refused.sqlstate == DEADLOCK:
            return locks.deadlock(looks, refused.message)
        return locks.waits(looks, "when it was refused") or locks.transactions(looks)

    def _look(self) -> list[Contention]:
        """Who is connected to each server now, and which of them are ours."""
        looks = []
        holders = {id(checkout.to_server()): checkout for checkout in self._ledger.outstanding()}
        for key, server, rows in self._server.ask_each(HOLDING):
            openings = {one.backend_pid: one for one in self._ledger.on_record() if one.server == key}
            sessions = {}
            for holding in holdings(rows):
                opening = openings.get(holding.pid)
                is_ours = opening is not None and server.is_behind(opening, holding.backend)
                origin = self._origin(opening, holders) if opening is not None and is_ours else ""
                sessions[holding.pid] = Session(holding, origin, self._shown(holding.backend.query))
            looks.append(Contention(server.name, sessions))
        return merged(looks)

    def _origin(self, opening: Opening, holders: Mapping[int, Checkout]) -> str:
        """Where a connection comes from: who has taken it from its pool, else who opened it."""
        checkout = holders.get(id(opening.ref()))
        if checkout is not None:
            site = self._tree.site(checkout.origin)
            return f"checked out at {site.site if site else 'an unknown place'}, {_by(checkout.taken_by)}"
        site = self._tree.site(opening.opened)
        idle = ", now in its pool" if opening.pool is not None else ""
        return f"opened at {site.site if site else 'an unknown place'}, {_by(opening.owner)}{idle}"


def _by(owner: Owner) -> str:
    return "outside any test" if owner.kind == "session" else f"by {owner.kind} {printable(owner.name)}"


def _of(seen: Seen) -> str:
    phase = f"the test {PHASES[seen.phase]}" if seen.phase == "body" else f"the test's {PHASES[seen.phase]}"
    return locks.waits(seen.looks, f"{age(seen.after)} into {phase}")


def _cry(seen: Seen) -> None:
    """Tell of a test that is about to be killed with the process: the killer prints what was captured."""
    sys.stderr.write(f"\npoolguard: {printable(seen.nodeid)}\n{_of(seen)}\n")
