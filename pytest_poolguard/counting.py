"""How much each pool is used, counted while it happens: by whichever threads and tasks use it, and exactly.

A call for a connection *waits* from the moment at which, while it asks, as many are out of its pool as that hands
out at most, until it has one or ends with an error. Whatever else may take time, to connect, to check, to wake up
a thread, is no wait. What it has been handed at that moment could not be noted as out by anybody else, so no call
is said to wait that does not.

No test framework here, no driver, and no lock: see ``ledger`` and ``counter``.
"""

from __future__ import annotations

from contextvars import ContextVar

from pytest_poolguard.counter import Counter
from pytest_poolguard.ledger import Ledger
from pytest_poolguard.records import Checkout, Owner, Pool

__all__ = ["Call", "Count", "Counting"]


class Desk:
    """Who has connections of one pool, and who asks for one: dictionaries as sets, whose steps are atomic."""

    __slots__ = ("asking", "out")

    def __init__(self) -> None:
        self.out: dict[Checkout, None] = {}
        self.asking: dict[Call, None] = {}


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
        #: Seconds that a caller waited, and who was present when he came.
        self.waits: list[tuple[float, Owner]] = []


class Call:
    """A caller who has asked for a connection."""

    __slots__ = ("count", "is_answered", "is_served", "outer", "owner", "waits_since")

    def __init__(self, count: Count, owner: Owner, outer: Call | None) -> None:
        self.count = count
        self.owner = owner
        self.outer = outer  #: the one for whose sake this pool is asked by another one
        self.waits_since: float | None = None
        self.is_served = False  #: it has its connection, which is not noted as taken yet
        self.is_answered = False


class Counting:
    """Counts for one ledger while it :attr:`is_on`."""

    def __init__(self, ledger: Ledger) -> None:
        self.is_on = False
        self._ledger = ledger
        self._nodeid = ""
        self._counts: dict[Pool, Count] = {}
        self._desks: dict[Pool, Desk] = {}
        #: The call that the running code is inside of; also one that is answered already.
        self._inside: ContextVar[Call | None] = ContextVar("poolguard-call", default=None)

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
            if pool.ref() is None and not desk.out and not desk.asking:
                del self._desks[pool]

    def _desk(self, pool: Pool) -> Desk:
        return self._desks.setdefault(pool, Desk())

    def _count(self, pool: Pool) -> Count:
        return self._counts.setdefault(pool, Count(pool, self._nodeid, self._desk(pool)))

    # what the ledger tells

    def taken(self, checkout: Checkout) -> None:
        """A connection was taken."""
        pool = checkout.pool
        count = checkout.count = self._counts.get(pool) or self._count(pool)
        call = self._inside.get()
        if call is not None:
            call = self._unanswered(pool)
        if call is not None:
            call.is_answered = True  # from now on it is among those that are out
        out = count.desk.out
        out[checkout] = None
        count.taken.up()
        number = len(out)
        if number > count.peak_known:
            count.peaks.append((number, pool.size(checkout.taken_by.limits)))
            count.peak_known = number
        if call is not None:
            self._leave(call)
        if count.desk.asking:
            self._look_who_waits(pool, count.desk)

    def returned(self, checkout: Checkout) -> None:
        """A connection is given back."""
        count: Count | None = checkout.count
        if count is not None:
            held = checkout.held = self._ledger.clock.now() - checkout.since
            count.desk.out.pop(checkout, None)
            holder = checkout.taken_by if checkout.serves is None else self._ledger.session
            count.holds.append((held, holder))
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
        """The running code asks a pool for a connection; None where nobody counts, or it is part of such a call.

        Whoever gets it has to :meth:`end` it, however the call ends.
        """
        record = self._ledger.pool(pool)
        if record is None or not self.is_on or not record.is_open():
            return None
        before = self._unanswered(record)
        if before is not None and not before.is_served:
            return None
        if before is not None:  # what it was given was never noted as taken
            self.end(before)
        count = self._counts.get(record) or self._count(record)
        call = Call(count, self._ledger.present, self._unanswered())
        self._inside.set(call)
        count.desk.asking[call] = None
        self._look_who_waits(record, count.desk)  # either here, or when somebody takes the last one
        return call

    def served(self, call: Call) -> None:
        """A call has its connection, which others have to do with before it is noted as taken."""
        call.is_served = True

    def end(self, call: Call) -> None:
        """A call is over, with a connection or without."""
        if not call.is_answered:
            call.is_answered = True
            self._leave(call)

    def refused(self, pool: Pool) -> None:
        """A pool refuses the running code a connection: told here where it is asked without a :meth:`asks`."""
        if self.is_on and self._unanswered(pool) is None:
            (self._counts.get(pool) or self._count(pool)).refused.up()

    def given_up(self, pool: object) -> None:
        """What a pool gave to the running code went back before it was noted as taken."""
        record = self._ledger.pool(pool)
        call = self._unanswered(record) if record is not None else None
        if call is not None and call.is_served:
            self.end(call)

    def _unanswered(self, pool: Pool | None = None) -> Call | None:
        """The innermost call (to a pool) that the running code is inside of."""
        call = self._inside.get()
        while call is not None and (call.is_answered or (pool is not None and call.count.pool is not pool)):
            call = call.outer
        return call

    def _look_who_waits(self, pool: Pool, desk: Desk) -> None:
        """See whether a pool has nothing left: whoever asks for a connection waits from now on."""
        size = pool.size(self._ledger.present.limits)
        if size and len(desk.out) >= size:
            now = self._ledger.clock.now()
            for call in list(desk.asking):
                if call.waits_since is None and not call.is_answered:
                    call.waits_since = now

    def _leave(self, call: Call) -> None:
        call.count.desk.asking.pop(call, None)
        if call.waits_since is not None:
            call.count.waits.append((self._ledger.clock.now() - call.waits_since, call.owner))
