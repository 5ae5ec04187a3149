"""How much each pool is used, counted while it happens: by whichever threads and tasks use it, and exactly.

A call for a connection *waits* from the moment at which, while it asks, as many are out of its pool as that hands
out at most, until it has one or ends with an error. Whatever else may take time, to connect, to check, to wake up
a thread, is no wait. Who had been handed one by that moment would have it besides those that are out, so no call
is said to wait that does not.

No test framework here, no driver, and no lock: see ``ledger`` and ``counter``.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator

from pytest_poolguard.books.counter import Counter
from pytest_poolguard.books.ledger import Ledger
from pytest_poolguard.books.records import Checkout, Limits, Owner, Pool

__all__ = ["Call", "Count", "Counting"]

#: The size of a pool without a limit.
UNLIMITED = sys.maxsize


class Desk:
    """Who has connections of one pool, and when somebody took the last one."""

    __slots__ = ("full", "out", "pool", "size")

    def __init__(self, pool: Pool) -> None:
        self.pool = pool
        self.out: dict[Checkout, None] = {}  #: a set, whose steps are atomic
        self.full: list[float] = []
        self.size = UNLIMITED  #: as it was when somebody looked; the pool may have another one by now

    def is_full(self, limits: Limits) -> bool:
        """Whether nothing is left, by the size that the pool has now."""
        self.size = self.pool.size(limits) or UNLIMITED
        return len(self.out) >= self.size


#: A call for a connection that goes on: the pool's desk; when it began, and whether nothing was left then; those
#: moments at which somebody took the last one, and how many of them were noted before.
Call = tuple[Desk, float, bool, "list[float]", int]


class Count:
    """What one pool was used for while one test ran."""

    __slots__ = (
        "desk",
        "holds",
        "longest",
        "longest_known",
        "nodeid",
        "peak_known",
        "peaks",
        "pool",
        "refused",
        "taken",
        "waits",
    )

    def __init__(self, pool: Pool, nodeid: str, desk: Desk) -> None:
        self.pool = pool
        self.nodeid = nodeid
        self.desk = desk
        self.taken = Counter()  #: connections
        self.refused = Counter()  #: calls that were refused at once, because every connection was out
        #: How many were out and how many may be, each time that these were more than before.
        self.peaks: list[tuple[int, int]] = []
        self.peak_known = 0  #: as ``Highest`` has it
        #: Seconds that a connection was out, and who took it (for another pool: the session).
        self.holds: list[tuple[float, Owner]] = []
        #: The checkouts that were out for longer than those before.
        self.longest: list[Checkout] = []
        self.longest_known = 0.0
        #: Seconds that a caller waited, and who was present at the end of it.
        self.waits: list[tuple[float, Owner]] = []


class Counting:
    """Counts for one ledger while it :attr:`is_on`."""

    def __init__(self, ledger: Ledger) -> None:
        self.is_on = False
        self._ledger = ledger
        self._clock = ledger.clock
        self._records = ledger.records
        self._nodeid = ""
        self._counts: dict[Pool, Count] = {}
        self._desks: dict[Pool, Desk] = {}

    # from one test to the next

    def begin(self, nodeid: str, *, is_on: bool) -> None:
        """From now on a test runs; empty for none."""
        self._nodeid = nodeid
        self.is_on = is_on
        ledger = self._ledger
        ledger.count_taken = self.taken if is_on else None
        ledger.count_returned = self.returned if is_on else None
        ledger.count_put_back = self.put_back if is_on else None
        if is_on:
            self._look_who_has_some()

    @contextlib.contextmanager
    def apart(self) -> Iterator[None]:
        """Count what is done meanwhile for itself, and forget it: the test that runs goes on after it."""
        nodeid, is_on, counts = self._nodeid, self.is_on, self._counts
        self._counts = {}
        try:
            yield
        finally:
            self._counts = counts
            self.begin(nodeid, is_on=is_on)

    def take(self) -> list[Count]:
        """The :attr:`counts` since the last time; what goes on now is counted anew."""
        seen, self._counts = self._counts, {}
        return self._that_count(seen)

    @property
    def counts(self) -> list[Count]:
        """Those that are counted now, but for pools that were struck out, and those whose use is another's."""
        return self._that_count(self._counts)

    def _that_count(self, counts: dict[Pool, Count]) -> list[Count]:
        makes = set(self._ledger.makes.values())
        return [c for c in list(counts.values()) if c.pool.make in makes and not c.pool.is_handed_on]

    def _look_who_has_some(self) -> None:
        """Put the desks right: what came back by other ways than a return, or while nobody counted."""
        seen = [(desk, list(desk.out)) for desk in list(self._desks.values())]
        known = {checkout for _, out in seen for checkout in out}
        still = [*self._ledger.outstanding(), *self._ledger.unreclaimed]  # after the look at the desks
        for desk, out in seen:
            for checkout in set(out).difference(still):
                desk.out.pop(checkout, None)
        for checkout in still:
            if checkout not in known:
                checkout.count = Count(checkout.pool, "", self._desk(checkout.pool))
                checkout.count.desk.out[checkout] = None
                if checkout.returned:  # just now
                    checkout.count.desk.out.pop(checkout, None)
        for pool, desk in list(self._desks.items()):
            desk.full = []
            if pool.ref() is None and not desk.out:
                del self._desks[pool]

    def _desk(self, pool: Pool) -> Desk:
        return self._desks.setdefault(pool, Desk(pool))

    def _count(self, pool: Pool) -> Count:
        return self._counts.setdefault(pool, Count(pool, self._nodeid, self._desk(pool)))

    # what the ledger tells

    def taken(self, checkout: Checkout) -> None:
        """A connection was taken. It is called very often."""
        pool = checkout.pool
        count = checkout.count = self._counts.get(pool) or self._count(pool)
        desk = count.desk
        desk.out[checkout] = None
        count.taken.up()
        number = len(desk.out)
        if number > count.peak_known:
            is_full = desk.is_full(checkout.taken_by.limits)
            count.peaks.append((number, desk.size if desk.size < UNLIMITED else 0))
            count.peak_known = number
        else:
            is_full = number >= desk.size and desk.is_full(checkout.taken_by.limits)
        if is_full:
            desk.full.append(checkout.since)

    def returned(self, checkout: Checkout) -> None:
        """A connection is given back. It is called very often."""
        count: Count | None = checkout.count
        held = checkout.held = self._clock.now() - checkout.since
        if count is not None:
            count.desk.out.pop(checkout, None)
            count.holds.append((held, checkout.taken_by if checkout.serves is None else self._ledger.session))
            if held > count.longest_known:
                count.longest.append(checkout)
                count.longest_known = held

    def put_back(self, checkout: Checkout) -> None:
        """It was not given back after all."""
        count: Count | None = checkout.count
        if count is not None:
            count.desk.out[checkout] = None
            count.holds.remove(next(hold for hold in reversed(count.holds) if hold[0] == checkout.held))
            if checkout in count.longest:
                count.longest.remove(checkout)

    # what the drivers tell

    def asks(self, pool: object) -> Call | None:
        """The running code asks a pool for a connection; what this returns is for :meth:`answers`.

        None where nobody counts. It is called very often.
        """
        record = self._records.get(id(pool))  # as in ledger.pool(), without the call
        if record is None or record.ref() is not pool or not self.is_on:
            return None
        desk = self._desks.get(record) or self._desk(record)
        full = desk.full
        known = len(full)  # before the look: the last one may be taken at any time
        is_full = bool(desk.out) and desk.is_full(self._ledger.present.limits) and record.is_open()
        return desk, self._clock.now(), is_full, full, known

    def answers(self, call: Call, checkout: Checkout | None) -> None:
        """The pool has answered: with this connection; for None, with one that is to be noted, or an error."""
        desk, began, was_full, full, known = call
        # That it has taken the last one itself is the most frequent case.
        is_news = len(full) > known and (checkout is None or full[known] is not checkout.since)
        if was_full or is_news:
            ended = self._clock.now() if checkout is None else checkout.since
            moments = (full[number] for number in range(known, len(full)))
            since = began if was_full else next((one for one in moments if began <= one < ended), None)
            if since is not None:
                count = self._counts.get(desk.pool) or self._count(desk.pool)
                count.waits.append((ended - since, self._ledger.present))

    def refuses(self, pool: object) -> None:
        """A pool that lets nobody wait refuses the running code a connection, for there is none left."""
        record = self._ledger.pool(pool)
        if record is not None and self.is_on:
            (self._counts.get(record) or self._count(record)).refused.up()
