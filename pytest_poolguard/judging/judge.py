"""Whether what an owner leaves out, at its end, is a leak."""

from __future__ import annotations

import contextlib
import functools
import gc
import os
import threading
from collections.abc import Callable, Iterable
from typing import ParamSpec, TypeVar

from pytest_poolguard.books.ledger import Ledger
from pytest_poolguard.books.origin import SourceTree, printable
from pytest_poolguard.books.records import Checkout, Opening, Owner
from pytest_poolguard.describe import Describe
from pytest_poolguard.findings import WARNED, Finding
from pytest_poolguard.judging import frameworks, holders
from pytest_poolguard.judging.bystanders import Bystanders
from pytest_poolguard.judging.heirs import Heirs
from pytest_poolguard.owners import Owners

__all__ = ["Judge"]

#: Seconds that one connection's reclaim may take: its pool's lock may be held by somebody who hangs.
RECLAIM_LIMIT = 2.0


_P = ParamSpec("_P")
_T = TypeVar("_T")


def _undisturbed(function: Callable[_P, _T]) -> Callable[_P, _T]:
    """Let no garbage be collected meanwhile.

    A look takes hold of a connection for a moment. If garbage that holds it, too, were collected just then, it
    would seem to be let go of by somebody, the moment that the look is over.
    """

    @functools.wraps(function)
    def undisturbed(*args: _P.args, **kwargs: _P.kwargs) -> _T:
        if not gc.isenabled():
            return function(*args, **kwargs)
        gc.disable()
        try:
            return function(*args, **kwargs)
        finally:
            gc.enable()

    return undisturbed


class Judge:
    """Judges owners; ``reclaim`` tells whether leaked connections are closed and their slots freed."""

    def __init__(
        self,
        ledger: Ledger,
        owners: Owners,
        tree: SourceTree,
        describe: Describe,
        bystanders: Bystanders,
        *,
        grace: float,
        reclaim: bool,
        look: Callable[[list[tuple[Finding, Opening]]], None],
    ) -> None:
        self._ledger = ledger
        self._owners = owners
        self._tree = tree
        self._heirs = Heirs(ledger, owners, tree)
        self._describe = describe
        self._grace = grace
        self._reclaim = reclaim
        self._bystanders = bystanders
        self._process = os.getpid()
        self._look = look  #: asks the server about the backends of findings

    @_undisturbed
    def look(self, owner: Owner) -> None:
        """See what an owner has out while its surroundings are there: later the pool may be closed.

        Finds who else answers for it, and waits for those who could still return it.
        """
        new = [checkout for checkout in self._ledger.outstanding(owner) if checkout.noted is None]
        for checkout in new:
            checkout.framework = frameworks.keeper(checkout.origin, checkout.pool.driver.library, self._tree)
            checkout.noted = self._describe.leak(checkout)
        own = [c for c in new if not self._is_kept_for_its_holder(c) and not self._is_carried_over(c, owner)]
        self._wait(own)
        left = [(c.noted, self._ledger.opening(c.to_server())) for c in own if not c.returned]
        self._look([(finding, opening) for finding, opening in left if opening and not opening.is_closed()])

    @_undisturbed
    def end(self, owner: Owner) -> list[Finding]:
        """The leaks of a test or fixture that has ended."""
        self.look(owner)
        return self._tell(self._ledger.outstanding(owner)) + self._tell_dropped(owner)

    @_undisturbed
    def dropped(self) -> list[Finding]:
        """The leaks among the connections that were carried over for the sake of a holder that let go of them."""
        owners = [self._ledger.session, *self._owners.fixtures]
        carried = [c for owner in owners for c in self._ledger.outstanding(owner) if c.carried or c.serves]
        carried = [c for c in carried if not _serves(c)]
        return self._tell(c for c in carried if not c.key_of_holder and not _is_held(c))

    @_undisturbed
    def end_session(self) -> list[Finding]:
        """What is out at the end of the run. Whatever somebody holds on purpose is told, and fails nothing."""
        session = self._ledger.session
        self._wait([c for c in self._ledger.outstanding(session) if not _serves(c)])
        outstanding = [c for c in self._ledger.outstanding(session) if not _serves(c)]
        outstanding = [c for c in outstanding if not (c.framework and _is_held(c))]
        findings = self._tell(c for c in outstanding if not c.carried)
        kept = self._tell(c for c in outstanding if c.carried)
        for finding in kept:
            finding.verdict = WARNED
        return findings + kept + self._tell_dropped(session)

    def unjudged(self) -> list[Checkout]:
        """What is out of owners that never came to their end: the run was interrupted."""
        return [c for c in self._ledger.outstanding() if c.owner is not self._ledger.session]

    def _tell(self, checkouts: Iterable[Checkout]) -> list[Finding]:
        findings = []
        for checkout in list(checkouts):
            finding = checkout.noted or self._describe.leak(checkout)
            finding.thread_place = self._describe.holder_now(checkout)
            finding.note = checkout.carried or finding.note
            if checkout.carried:
                finding.ended = _end_of(checkout.owner)
            findings.append(finding)
            self._ledger.settle(checkout)
            # A fork has inherited connections that are still its parent's to use.
            if self._reclaim and os.getpid() == self._process:
                self._free(checkout)
            else:
                self._ledger.unreclaimed.append(checkout)
        return findings

    def _tell_dropped(self, owner: Owner) -> list[Finding]:
        """What of an owner's came back by itself: there is nothing left to reclaim."""
        told, owner.dropped = owner.dropped, []
        return [self._describe.dropped(checkout) for checkout in told]

    def _wait(self, checkouts: list[Checkout]) -> None:
        if checkouts:
            pools = self._ledger.pools()
            workers = {thread for pool in pools for thread in pool.driver.workers(pool.ref())}
            holders.wait(checkouts, self._grace, workers | self._bystanders.now())

    # whom it is carried over to

    def _is_kept_for_its_holder(self, checkout: Checkout) -> bool:
        """One connection a process or thread is kept on purpose while that lives.

        It is known by its key, which is the holder's own id, or by the framework that took it.
        """
        if not holders.is_alive(checkout.thread):
            return False
        if checkout.framework:
            reason = f"{checkout.framework} keeps one for each thread"
            self._ledger.carry(checkout, self._ledger.session, reason)
            return True
        if not checkout.key_of_holder:
            return False
        if checkout.owner is not self._ledger.session:
            self._ledger.carry(
                checkout, self._ledger.session, "it is kept under its process's or thread's own key"
            )
        return True

    def _is_carried_over(self, checkout: Checkout, owner: Owner) -> bool:
        heir, reason = self._heirs.of(checkout, owner)
        if heir is not None:
            self._ledger.carry(checkout, heir, reason)
        return heir is not None

    # after the report

    def _free(self, checkout: Checkout) -> None:
        """Reclaim a leaked connection, in a thread: whatever hangs there must not hang the run."""

        def reclaim() -> None:
            with contextlib.suppress(Exception):  # closed already, or a pool with ideas of its own
                checkout.pool.driver.reclaim(checkout)

        thread = threading.Thread(target=reclaim, name="poolguard-reclaim", daemon=True)
        thread.start()
        thread.join(RECLAIM_LIMIT)


def _end_of(owner: Owner) -> str:
    """The end of one that a connection was carried over to, in words."""
    if owner.kind == "session":
        return "the run ended"
    return f"fixture {printable(owner.name)} ended" if owner.finished else "this was noticed"


def _is_held(checkout: Checkout) -> bool:
    """Whether a connection that was carried over still has the holder for whose sake it was."""
    return holders.is_referenced(checkout) and not (checkout.framework and not holders.is_alive(checkout.thread))


def _serves(checkout: Checkout) -> bool:
    """Whether a pool on top of its pool has it, and can hand it out."""
    return checkout.serves is not None and checkout.serves.is_open()
