"""From a checkout to a finding: everything a reader wants to know, looked up while it is still there."""

from __future__ import annotations

import os
import threading

from pytest_poolguard.drivers.interface import State, Terms
from pytest_poolguard.findings import CHECKED_OUT, HELD_TOO_LONG, SERVER_BACKEND, WARNED, Finding
from pytest_poolguard.hints import Hints
from pytest_poolguard.ledger import Ledger
from pytest_poolguard.origin import Place, SourceTree, printable
from pytest_poolguard.records import Checkout, Opening, Owner, Pool, Task
from pytest_poolguard.whereabouts import of_holder

__all__ = ["Describe"]


#: File and name of the function that, before Python 3.12, runs what it waits for in a task of its own.
WAIT_FOR = (os.path.join(os.path.dirname(threading.__file__), "asyncio", "tasks.py"), "wait_for")


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
        state = checkout.pool.driver.state(connection) if connection is not None else State()
        finding = self._checkout(CHECKED_OUT, checkout)
        finding.backend_pid = state.backend_pid or self._pid_at_opening(connection)
        finding.transaction_status = "broken" if state.broken else "closed" if state.closed else state.transaction
        hints = self._hints_of(checkout.pool)
        keeper = hints.keeper(checkout)
        finding.hint = hints.hint(checkout, keeper, connection_closed=state.closed, broken=state.broken)
        if connection is None:
            finding.note = _lost(checkout)
        elif checkout.closed_with_pool is not None:
            finding.closed_at = self._tree.site(checkout.closed_with_pool)
        if checkout.task is not None and checkout.task.awaited_by is not None:
            _tell_of_cancellation(finding, checkout, checkout.task.awaited_by)
        return finding

    def overdue(self, checkout: Checkout) -> Finding:
        """A connection that was returned, but later than its owner's limit allows."""
        finding = self._checkout(HELD_TOO_LONG, checkout)
        finding.limit_seconds = checkout.taken_by.limits.hold
        finding.hint = "return it before the slow part, or raise hold in @pytest.mark.pool"
        return finding

    def backend(self, opening: Opening, server: dict[str, str], reason_to_stay: str = "") -> Finding:
        """A connection that this process still has open at the end of the run."""
        finding = self._finding(SERVER_BACKEND, opening.driver.library, opening.pool, opening.owner)
        finding.phase = opening.phase
        finding.acquired = self._tree.site(opening.opened)
        finding.stack = self._tree.stack(opening.opened)
        finding.backend_pid = opening.backend_pid
        finding.server = server
        finding.transaction_status = server["state"]
        finding.note = reason_to_stay
        if reason_to_stay:
            finding.verdict = WARNED
        else:
            opened_in = f"fixture {finding.owner_name}" if opening.owner.kind == "fixture" else "the test"
            finding.hint = f"close it at the end of {opened_in}"
        return finding

    def _checkout(self, kind: str, checkout: Checkout) -> Finding:
        finding = self._finding(kind, checkout.pool.driver.library, checkout.pool, checkout.taken_by)
        finding.phase = checkout.phase
        finding.acquired = self._tree.site(checkout.origin)
        keeper = self._hints_of(checkout.pool).keeper(checkout)
        finding.called_from = keeper.place if keeper is not None and keeper.helper else None
        finding.stack = self._tree.stack(checkout.origin)
        finding.thread = _thread_name(checkout)
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

    def _hints_of(self, pool: Pool) -> Hints:
        if pool.terms not in self._hints:
            self._hints[pool.terms] = Hints(self._tree, pool.terms)
        return self._hints[pool.terms]

    def made(self, pool: Pool) -> Place | None:
        """Where a pool was made, or first used."""
        return self._tree.site(pool.made) if pool.made is not None else None

    def _pid_at_opening(self, connection: object) -> int | None:
        opening = self._ledger.opening(connection)
        return opening.backend_pid if opening is not None else None

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


def _thread_name(checkout: Checkout) -> str:
    if checkout.thread is None:
        return "MainThread"
    if isinstance(checkout.thread, threading.Thread):
        return printable(checkout.thread.name)
    return f"thread {checkout.thread}"
