"""From a checkout to a finding: everything a reader wants to know, looked up while it is still there."""

from __future__ import annotations

import os
import threading
from collections import Counter
from types import CodeType
from typing import Any

from pytest_poolguard.books.ledger import Ledger
from pytest_poolguard.books.origin import Origin, Place, SourceTree, printable
from pytest_poolguard.books.records import Checkout, Opening, Owner, Pool, Task
from pytest_poolguard.causes.hints import Hints
from pytest_poolguard.drivers.interface import State, Terms
from pytest_poolguard.findings import (
    CHECKED_OUT,
    DIRTY_RETURN,
    HELD_TOO_LONG,
    NESTED,
    NOT_CLOSED,
    POOL_NOT_CLOSED,
    SERVER_BACKEND,
    WARNED,
    Finding,
    connections,
)
from pytest_poolguard.judging.holders import pauses
from pytest_poolguard.judging.whereabouts import of_holder

__all__ = ["Describe"]

#: Places that one message names.
HOLDERS = 5


#: File and name of the function that, before Python 3.12, runs what it waits for in a task of its own.
WAIT_FOR = (os.path.join(os.path.dirname(threading.__file__), "asyncio", "tasks.py"), "wait_for")


#: What a comprehension is called that is a function of its own, as before Python 3.12.
COMPREHENSIONS = frozenset({"<listcomp>", "<setcomp>", "<dictcomp>"})


class Describe:
    """Makes findings."""

    def __init__(self, ledger: Ledger, tree: SourceTree) -> None:
        self._ledger = ledger
        self._tree = tree
        self._hints: dict[Terms, Hints] = {}
        self.worker = ""  #: the xdist worker's id, empty in a plain run

    def leak(self, checkout: Checkout) -> Finding:
        """A connection that was not returned, as things are now."""
        connection = checkout.connection()
        state = checkout.last_state
        if state is None:
            state = checkout.pool.driver.state(connection) if connection is not None else State()
        finding = self._checkout(CHECKED_OUT, checkout)
        finding.backend_pid = self._pid(checkout, state)
        finding.transaction_status = "broken" if state.broken else "closed" if state.closed else state.transaction
        hints = self._hints_of(checkout)
        keeper = hints.keeper(checkout)
        finding.hint = hints.hint(checkout, keeper, connection_closed=state.closed, broken=state.broken)
        if checkout.closed_with_pool is not None:
            finding.closed_at = self._tree.site(checkout.closed_with_pool)
            if checkout.waited_for is not None:
                finding.note = (
                    f"{checkout.pool.terms.close}() would have waited for it for ever: "
                    f"it was ended after {checkout.waited_for:g} s"
                )
        elif connection is None:
            finding.note = _lost(checkout)
        if checkout.task is not None and checkout.task.awaited_by is not None:
            _tell_of_cancellation(finding, checkout, checkout.task.awaited_by)
        return finding

    def cure(self, checkout: Checkout) -> str:
        """What the code that took a connection should do, whatever state that is in."""
        hints = self._hints_of(checkout)
        return hints.hint(checkout, hints.keeper(checkout), connection_closed=False, broken=False)

    def holding(self, checkout: Checkout) -> Finding:
        """A connection that is out, which need not be wrong: who has it."""
        finding = self._checkout(CHECKED_OUT, checkout)
        finding.backend_pid = self._pid(checkout, State())
        return finding

    def takers(self, checkout: Checkout) -> list[tuple[CodeType, int]]:
        """The call that should return a connection: its code, and where in it that was taken.

        A generator stops in the midst of a ``with`` block; who is in the block is the one who goes through it. A
        comprehension stands before the function that it is in. The callers follow of one that may have handed it
        on. Empty where no code of the project took it.
        """
        keeper = self._hints_of(checkout).keeper(checkout)
        frames = checkout.origin.frames()
        first = next((n for n, (code, _) in enumerate(frames) if keeper and code is keeper.code), len(frames))
        takers = []
        for code, offset in frames[first:]:
            if self._tree.is_own(code.co_filename) and not pauses(code):
                takers.append((code, offset))
                if code.co_name not in COMPREHENSIONS and not (keeper and keeper.hands_out):
                    break
        return takers

    def dropped(self, checkout: Checkout) -> Finding:
        """A connection that nobody returned, and that came back when nothing referred to it any longer."""
        finding = checkout.noted or self._checkout(CHECKED_OUT, checkout)
        keeper = self._hints_of(checkout).keeper(checkout)
        finding.hint = finding.hint or self._hints_of(checkout).hint(
            checkout, keeper, connection_closed=False, broken=False
        )
        finding.note = "only the garbage collector brought it back"
        if checkout.carried:
            finding.note = f"{checkout.carried}, and {finding.note}"
        if checkout.carried or checkout.dropped == "harmless":
            finding.verdict = WARNED
        return finding

    def dirty(self, checkout: Checkout) -> Finding:
        """A connection that was given back in the middle of a transaction that wrote."""
        finding = self._checkout(DIRTY_RETURN, checkout)
        terms = checkout.pool.terms
        if checkout.returned_at is not None:
            finding.returned_at = self._tree.site(checkout.returned_at)
        finding.hint = f"{terms.commit} before {terms.give}(), or {terms.rollback} if that was meant"
        return finding

    def nested(self, first: Checkout, stack: Origin, owner: Owner, second: Checkout | None) -> Finding:
        """A connection that was asked for by who held a first one; ``second`` where it was got."""
        finding = self._checkout(NESTED, second or first)
        finding.owner_kind, finding.owner_name, finding.nodeid = owner.kind, printable(owner.name), owner.nodeid
        finding.phase = second.phase if second is not None else owner.phase
        finding.acquired, finding.stack = self._tree.site(stack), self._tree.stack(stack)
        finding.called_from = None
        finding.first_at = self._tree.site(first.origin)
        who = f"{first.taken_by.kind} {printable(first.taken_by.name)}"
        finding.note = f"the first one is that of {who}" if first.taken_by is not owner else ""
        finding.hint = "use the first one for both, or return it before the second is taken"
        return finding

    def overdue(self, checkout: Checkout) -> Finding:
        """A connection that was returned, but later than its owner's limit allows."""
        finding = self._checkout(HELD_TOO_LONG, checkout)
        finding.limit_seconds = checkout.taken_by.limits.hold
        finding.hint = "return it before the slow part, or raise hold in @pytest.mark.pool"
        return finding

    def backend(self, opening: Opening, server: dict[str, str], reason_to_stay: str = "") -> Finding:
        """A connection that this process still has open at the end of the run."""
        finding = self._opening(SERVER_BACKEND, opening)
        finding.server = server
        finding.transaction_status = server["state"]
        finding.note = reason_to_stay
        if reason_to_stay:
            finding.verdict = WARNED
            finding.hint = ""
        return finding

    def foreign_backend(self, pid: int, server: dict[str, str], opened_by: str, nodeid: str) -> Finding:
        """A connection with the run's name that is none of this process's; ``nodeid`` ran when it was opened."""
        finding = Finding(SERVER_BACKEND, "", "", owner_kind="test", owner_name=nodeid.rpartition("::")[2])
        finding.nodeid = nodeid
        finding.opened_by = opened_by
        finding.backend_pid = pid
        finding.server = server
        finding.transaction_status = server["state"]
        finding.thread = ""
        finding.hint = "end the process at the end of the test, or in the fixture, that starts it"
        return finding

    def open_connection(self, opening: Opening) -> Finding:
        """A connection without a pool that is not closed, as things are now."""
        finding = self._opening(NOT_CLOSED, opening)
        state = opening.driver.state(opening.ref())
        finding.backend_pid = None if opening.behind_pooler else opening.backend_pid or state.backend_pid
        finding.transaction_status = state.transaction
        finding.thread = _thread_name(opening.thread)
        finding.task = printable(opening.task.name) if opening.task is not None else ""
        return finding

    def open_pool(self, record: Pool, owner: Owner) -> Finding:
        """A pool that is not closed, as things are now; ``owner`` has made it."""
        finding = self._finding(POOL_NOT_CLOSED, record.driver.library, record, owner)
        finding.phase = record.phase
        finding.acquired = finding.pool_made
        finding.stack = self._tree.stack(record.made)
        finding.backends = self.backends_of(record)
        finding.hint = f"call {record.terms.close}() at the end of {_end(owner)}, or share one pool"
        others = [other for other in owner.made if other.is_open() and self._is_same_server(other, record)]
        if len(others) > 1:
            held = sum(map(self.backends_of, others))
            made = f"{_end(owner)} made {len(others)} pools to the same server"
            finding.note = f"{made}, which held {connections(held)} at once"
        return finding

    def backends_of(self, record: Pool) -> int:
        """How many connections to its server a pool has open, idle or in use."""
        opened = sum(not opening.is_closed() for opening in self._ledger.openings() if opening.pool is record)
        out = sum(checkout.pool is record for checkout in self._ledger.outstanding())
        pool = record.ref()
        return max(opened, out + (record.driver.idle(pool) if pool is not None else 0))

    def opened_by_library(self, opening: Opening) -> str:
        """The installed package that opened a connection, and so answers for it; empty for the project itself."""
        own = f"{os.sep}{opening.driver.library}{os.sep}"
        for code, _ in opening.opened.frames():
            if own not in code.co_filename:
                return self._tree.package(code.co_filename)
        return ""

    def _opening(self, kind: str, opening: Opening) -> Finding:
        finding = self._finding(kind, opening.driver.library, opening.pool, opening.owner)
        finding.phase = opening.phase
        finding.acquired = self._tree.site(opening.opened)
        finding.stack = self._tree.stack(opening.opened)
        finding.backend_pid = opening.backend_pid
        finding.hint = f"close it at the end of {_end(opening.owner)}"
        return finding

    def _is_same_server(self, one: Pool, other: Pool) -> bool:
        """Whether two pools are known to have connected to the same server, or were made in the same line."""
        return bool(self._servers(one) & self._servers(other)) or self.made(one) == self.made(other)

    def _servers(self, record: Pool) -> set[object]:
        servers = {opening.server for opening in self._ledger.openings() if opening.pool is record}
        return servers - {None}

    def _checkout(self, kind: str, checkout: Checkout) -> Finding:
        finding = self._finding(kind, checkout.pool.driver.library, checkout.pool, checkout.taken_by)
        finding.phase = checkout.phase
        finding.acquired = self._tree.site(checkout.origin)
        keeper = self._hints_of(checkout).keeper(checkout)
        finding.called_from = keeper.place if keeper is not None and keeper.helper else None
        finding.stack = self._tree.stack(checkout.origin)
        finding.thread = _thread_name(checkout.thread)
        finding.task = printable(checkout.task.name) if checkout.task is not None else ""
        now = self._ledger.clock.now()
        finding.held_seconds = checkout.held if checkout.returned else now - checkout.since
        return finding

    def _finding(self, kind: str, library: str, pool: Pool | None, owner: Owner) -> Finding:
        path, _, line = owner.defined_at.rpartition(":")
        return Finding(
            kind,
            library,
            printable(pool.label) if pool is not None else "",
            owner_kind=owner.kind,
            owner_name=printable(owner.name),
            owner_scope=owner.scope,
            owner_place=f"{self._tree.relative(path)}:{line}" if path else "",
            nodeid=printable(owner.nodeid),
            pool_made=self.made(pool) if pool is not None else None,
            pool_first_used=pool is not None and not pool.made_known,
            worker=self.worker,
        )

    def _hints_of(self, checkout: Checkout) -> Hints:
        pool = checkout.pool
        terms_of = getattr(pool.driver, "terms_of", None)
        terms = pool.terms if terms_of is None else terms_of(checkout)
        if terms not in self._hints:
            self._hints[terms] = Hints(self._tree, terms)
        return self._hints[terms]

    def made(self, pool: Pool) -> Place | None:
        """Where a pool was made, or first used."""
        return self._tree.site(pool.made) if pool.made is not None else None

    def holders(self, pool: Pool) -> list[str]:
        """Who has connections of a pool, most first: ``2 at shop/users.py:8 in get_user, in test_profile``."""
        found: Counter[str] = Counter()
        for checkout in self._ledger.outstanding():
            if checkout.pool is pool:
                place = self._tree.site(checkout.origin)
                found[f"at {place.site if place else 'an unknown place'}, in {checkout.taken_by.name}"] += 1
        lines = [printable(f"{count} {where}") for where, count in found.most_common(HOLDERS)]
        return lines + ["…"] * (len(found) > HOLDERS)

    def _pid(self, checkout: Checkout, state: State) -> int | None:
        """The backend's: as the connection says now, or has said when it was opened."""
        opening = self._ledger.opening(checkout.to_server())
        if opening is None:
            return state.backend_pid
        return None if opening.behind_pooler else state.backend_pid or opening.backend_pid

    def holder_now(self, checkout: Checkout) -> Place | None:
        """Where the thread or task that took a connection is now, if it is another one and still runs."""
        for code, offset in of_holder(checkout):
            if self._tree.is_own(code.co_filename):
                return self._tree.place(code, offset)
        return None


def _tell_of_cancellation(finding: Finding, checkout: Checkout, waiting: Task) -> None:
    """Say so if nobody ever got the connection: the task that waited for it was cancelled too late to stop it."""
    if not waiting.was_cancelled:
        return
    take = checkout.pool.terms.take
    through = {code.co_name for code, _ in checkout.origin.frames() if code.co_filename == WAIT_FOR[0]}
    if WAIT_FOR[1] in through:
        finding.verdict = WARNED
        finding.note = (
            f"lost in asyncio.wait_for(), before Python 3.12: it was cancelled when {take}() had the connection "
            "already, and nobody got it"
        )
        finding.hint = f"give the timeout to {take}() itself"
    else:
        finding.note = (
            f"{take}() ran in a task of its own; whoever waited for it was cancelled, and nobody got it"
        )


def _lost(checkout: Checkout) -> str:
    if checkout.pool.ref() is None:
        return "pool and connection were garbage-collected while it was out"
    return "the connection was garbage-collected while it was out: by itself, the pool never gets its slot back"


def _end(owner: Owner) -> str:
    return f"fixture {printable(owner.name)}" if owner.kind == "fixture" else "the test"


def _thread_name(thread: Any) -> str:
    if thread is None:
        return "MainThread"
    if isinstance(thread, threading.Thread):
        return printable(thread.name)
    return f"thread {thread}"
