"""Who holds which connection, since when: the books of all checkouts.

The ledger knows no test framework and no driver. It takes no lock: a ``__del__`` that returns a connection may
run in the middle of any line here, and would wait for a lock that its own thread holds. Single dictionary
operations are atomic; each method is built from those.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from threading import get_ident

from pytest_poolguard.books.clock import Clock
from pytest_poolguard.books.origin import Origin, capture
from pytest_poolguard.books.records import Checkout, Owner, Pool, Task
from pytest_poolguard.books.registry import Registry

__all__ = ["Ledger"]


class Ledger(Registry):
    """Every checkout of one run, and what it has on record."""

    def __init__(self, clock: Clock, session: Owner, stops: frozenset[str] = frozenset()) -> None:
        super().__init__(session, stops)
        self.clock = clock
        self.overdue: list[Checkout] = []  #: those that were out for longer than their owner's limit
        self.dirty: list[Checkout] = []  #: those that were given back in the middle of a transaction that wrote
        self.unreclaimed: list[Checkout] = []  #: leaks that were told, and still keep their slots
        #: Somebody wants to know what is taken; who has it may be told only later.
        self.on_taken: Callable[[Checkout], None] | None = None
        #: What is taken and comes back is counted, at a cost to each: who wants that sets these.
        self.count_taken: Callable[[Checkout], None] | None = None
        self.count_returned: Callable[[Checkout], None] | None = None
        self.count_put_back: Callable[[Checkout], None] | None = None
        self._out: dict[int, Checkout] = {}
        self._lost = 0

    def check_out(
        self, pool: Pool, connection: object, skip: int = 2, *, blocking: bool = False
    ) -> Checkout | None:
        """Note that the caller's caller took a connection; None if it is out already (same pool, same key).

        ``skip`` is one more where it was the caller of that, and so on: innermost frames that say nothing.
        Code that is ``blocking`` may be a task's, of which many share a thread; their drivers note the others.
        """
        key = id(connection)
        known = self._out.get(key)
        if known is not None:
            if known.connection() is connection:
                return None
            # A recycled id(): the older connection was collected while out, and still is out.
            self._rekey(known)
        owner = self.present
        ident = get_ident()  # as in this_thread()
        thread = None if ident == self.main_thread else self._threads.get(ident, ident)
        checkout = Checkout(pool, connection, key, capture(self.stops, skip), owner, self.clock.now(), thread)
        if blocking or self.starter.get() is not owner:  # a task that others have started, or a thread
            checkout.task = self._blocked_task()
        self._out[key] = owner.out[key] = checkout
        supply = self.supply.get()
        if supply is not None and supply.pool is not pool:
            supply.checkouts += (checkout,)
        out = len(owner.out)
        if out > owner.peaks.known:
            owner.peaks.seen(out)
        pool.make.takings.up()
        if self.count_taken is not None:
            self.count_taken(checkout)
        if self.on_taken is not None:
            self.on_taken(checkout)
        return checkout

    def _blocked_task(self) -> Task | None:
        """The running task, if there is one."""
        asyncio = sys.modules.get("asyncio")
        if asyncio is None or asyncio._get_running_loop() is None:  # noqa: SLF001 - it raises nothing
            return None
        running = asyncio.current_task()
        task = Task(running, self.starter.get()) if running is not None else None
        if task is not None:
            task.is_blocking = True
        return task

    def give_back(self, pool: object, connection: object) -> Checkout | None:
        """Note that a connection is given to a pool; where that is another one than its own, it stays out.

        To be called before the pool has it: from then on another thread may take it again.
        """
        checkout = self._out.get(id(connection))
        if checkout is None or checkout.connection() is not connection:
            if self.unreclaimed:
                self._comes_late(connection)
            return None
        if checkout.pool.ref() is pool:
            key = checkout.key  # as in _end(), without the call
            self._out.pop(key, None)
            checkout.owner.out.pop(key, None)
            checkout.returned = True
            if self.count_returned is not None:
                self.count_returned(checkout)
            if checkout.taken_by.limits.hold is not None:
                self._measure(checkout, checkout.taken_by.limits.hold)
        return checkout

    def dropped(self, checkout: Checkout, *, harmless: bool) -> None:
        """Note that nobody gave a connection back: its pool has it again since nothing referred to it any longer.

        Its owner is told all the same. It is ``harmless`` where it came back the moment it was let go of, and not
        whenever garbage was collected.
        """
        if self._out.get(checkout.key) is not checkout:
            self._is_over(checkout)
            return  # it was told, or forgotten
        self._out.pop(checkout.key, None)
        checkout.owner.out.pop(checkout.key, None)
        checkout.returned = True
        checkout.held = self.clock.now() - checkout.since
        checkout.dropped = "harmless" if harmless else "collected"
        checkout.owner.dropped.append(checkout)
        if self.count_returned is not None:
            self.count_returned(checkout)

    def end(self, checkout: Checkout) -> None:
        """Note that a checkout is over, whatever has become of its connection."""
        key = checkout.key
        if self._out.get(key) is checkout:  # else it is over already
            self._end(checkout, key)
        elif self.unreclaimed:
            self._is_over(checkout)

    def _comes_late(self, connection: object) -> None:
        """Note that a leak which was told is given back after all."""
        for checkout in self.unreclaimed:
            if checkout.connection() is connection:
                self._is_over(checkout)
                return

    def _is_over(self, checkout: Checkout) -> None:
        if checkout in self.unreclaimed:
            self.unreclaimed.remove(checkout)

    def _end(self, checkout: Checkout, key: int) -> None:
        self._out.pop(key, None)
        checkout.owner.out.pop(key, None)
        checkout.returned = True
        if self.count_returned is not None:
            self.count_returned(checkout)
        if checkout.taken_by.limits.hold is not None:
            self._measure(checkout, checkout.taken_by.limits.hold)

    def _measure(self, checkout: Checkout, hold: float) -> None:
        if self.count_returned is None:  # else it is measured already, and known by that number
            checkout.held = self.clock.now() - checkout.since
        if checkout.held > hold:
            self.overdue.append(checkout)

    def pool_closes(self, record: Pool) -> None:
        """Note that the caller's caller closes a pool, for the connections of it that are out."""
        record.was_closed = True
        for checkout in self.outstanding():
            if checkout.pool is record:
                checkout.closed_with_pool = Origin(capture(self.stops, 2))
                present = self.present
                checkout.closed_while_running = present is checkout.taken_by and present.phase == checkout.phase

    def put_back(self, checkout: Checkout) -> None:
        """Undo a :meth:`give_back`: the pool did not take the connection back after all."""
        checkout.returned = False
        self._out[checkout.key] = checkout.owner.out[checkout.key] = checkout
        if self.count_put_back is not None:
            self.count_put_back(checkout)
        if checkout in self.overdue:
            self.overdue.remove(checkout)

    def held_by(self, connection: object) -> Checkout | None:
        """The checkout of a connection that is out."""
        checkout = self._out.get(id(connection))
        return checkout if checkout is not None and checkout.connection() is connection else None

    def outstanding(self, owner: Owner | None = None) -> list[Checkout]:
        """The checkouts that an owner (default: any) answers for, oldest first."""
        return list((self._out if owner is None else owner.out).values())

    def carry(self, checkout: Checkout, owner: Owner, reason: str) -> None:
        """Let a longer-lived owner answer for a checkout."""
        if checkout.owner.out.pop(checkout.key, None) is not None:
            owner.out[checkout.key] = checkout
        checkout.owner = owner
        checkout.carried = reason
        checkout.noted = None

    def knows(self, thing: object) -> bool:
        """Whether this may be a connection: what is none is told apart at no cost."""
        return id(thing) in self._openings or id(thing) in self._out

    def serve(self, connection: object, outer: Pool) -> None:
        """A pool on top of a pool has taken a connection, for itself: whoever takes it from there holds it."""
        opening = self.opening(connection)
        if opening is not None and opening.pool is None:
            opening.pool = outer
        checkout = self.held_by(connection)
        if checkout is not None and checkout.pool is not outer:
            self.carry(checkout, self.session, "")
            checkout.serves = outer

    def settle(self, checkout: Checkout) -> None:
        """A leak was reported: nobody answers for it any longer."""
        checkout.told = True
        self._out.pop(checkout.key, None)
        checkout.owner.out.pop(checkout.key, None)
        opening = self.opening(checkout.to_server())
        if opening is not None:
            opening.told = True

    def forget(self) -> None:
        """Strike out everything that is out: the books have become wrong."""
        for checkout in self.outstanding():
            checkout.owner.dropped.clear()
            self.settle(checkout)
        self.overdue.clear()
        self.dirty.clear()
        self.unreclaimed.clear()

    def strike_out(self, pool: object) -> None:
        """Have a pool, and whatever was taken from it, as if it had never been seen."""
        record = self.pool(pool)
        if record is None:
            return
        for checkout in self.outstanding():
            if checkout.pool is record:
                self.settle(checkout)
        for returned in (self.overdue, self.dirty):
            returned[:] = [checkout for checkout in returned if checkout.pool is not record]
        self.forget_pool(record)

    def _rekey(self, checkout: Checkout) -> None:
        self._lost -= 1
        self._out[self._lost] = self._out.pop(checkout.key)
        if checkout.owner.out.pop(checkout.key, None) is not None:
            checkout.owner.out[self._lost] = checkout
        checkout.key = self._lost
