"""What a repeat does to the books, and what is left of that: nothing but its leaks."""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import Iterator

from pytest_poolguard.books.counter import Counter
from pytest_poolguard.books.records import Checkout, Opening, Owner
from pytest_poolguard.faults.host import Host
from pytest_poolguard.faults.ledger import ListeningLedger
from pytest_poolguard.findings import Finding
from pytest_poolguard.judging.judge import Judge

__all__ = ["Trial"]


class Trial:
    """One repeat after the other, judged by the rules of every test."""

    def __init__(self, guard: Host, ledger: ListeningLedger) -> None:
        self._guard = guard
        self._ledger = ledger
        self._judge = Judge(
            ledger,
            guard.owners,
            guard.tree,
            guard.describe,
            guard.bystanders,
            grace=guard.settings.grace,
            reclaim=True,  # in every mode: no later test is to find what a fault has left
            look=lambda _: None,
        )
        self._owners: list[Owner] = []  #: the test and its own fixtures
        self.leaks: list[tuple[Finding, Checkout]] = []

    @contextlib.contextmanager
    def aside(self) -> Iterator[None]:
        """Keep what is counted and noted of repeats from the books, and from those who listen."""
        ledger, watch = self._ledger, self._guard.watch
        noted = ledger.overdue, ledger.dirty, ledger.on_taken
        counts = {make: (make.pools, make.takings) for make in ledger.makes.values()}
        for make in counts:
            make.takings = Counter()
        seen, on_refused, dirty_returns = ledger.pools_seen, watch.on_refused, watch.dirty_returns
        ledger.overdue, ledger.dirty, ledger.on_taken = [], [], None
        watch.on_refused, watch.dirty_returns = (lambda _pool, _error, _task: None), False
        try:
            with self._guard.owners.aside(self._ended, self._judge.look):
                yield
        finally:
            watch.on_refused, watch.dirty_returns = on_refused, dirty_returns
            ledger.overdue, ledger.dirty, ledger.on_taken = noted
            ledger.pools_seen = seen
            for key, make in list(ledger.makes.items()):
                if make in counts:
                    make.pools, make.takings = counts[make]
                else:
                    del ledger.makes[key]

    def begin(self) -> None:
        """A repeat begins."""
        self._owners, self.leaks = [], []

    def out(self) -> list[Checkout]:
        """What the present repeat has out."""
        owners = [self._guard.owners.test, *self._guard.owners.fixtures]
        own = [owner for owner in owners if owner is not None and owner.scope in ("", "function")]
        return [checkout for owner in own for checkout in self._ledger.outstanding(owner)]

    def left_open(self) -> list[Opening]:
        """The connections that a repeat has opened, for no pool that was there before, and has not closed."""
        return [
            opening
            for owner in self._owners
            for opening in owner.opened
            if not opening.is_closed() and (opening.pool is None or opening.pool.owner in self._owners)
        ]

    def close_pools(self) -> None:
        """Close the pools that a repeat has made and left: those with threads would connect again for ever."""
        for record in self._ledger.pools():
            if record.owner in self._owners and record.is_open():
                close = getattr(record.ref(), record.terms.close, None)
                if close is not None and not inspect.iscoroutinefunction(inspect.unwrap(close)):
                    with contextlib.suppress(Exception):  # what it could not close is ended on the server
                        close()

    def _ended(self, owner: Owner) -> None:
        """The test, or one of its fixtures, has ended."""
        self._owners.append(owner)
        out = [checkout for checkout in self._ledger.outstanding(owner) if not checkout.returned]
        for checkout in owner.dropped:
            checkout.noted = checkout.noted or self._guard.describe.holding(checkout)
        out += owner.dropped
        for finding in self._judge.end(owner):
            self.leaks += [(finding, checkout) for checkout in out if checkout.noted is finding]
