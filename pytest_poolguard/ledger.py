"""Who holds which connection, since when: the books of all checkouts.

The ledger knows no test framework and no driver. It takes no lock: a ``__del__`` that returns a connection may
run in the middle of any line here, and would wait for a lock that its own thread holds. Single dictionary
operations are atomic; each method is built from those.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable
from contextvars import ContextVar
from threading import get_ident
from typing import Any
from weakref import ref

from pytest_poolguard.clock import Clock
from pytest_poolguard.origin import Origin, capture
from pytest_poolguard.records import Checkout, Opening, Owner, Pool, Reference, Supply, Task

__all__ = ["Ledger"]


class Ledger:
    """Every watched pool, connection and checkout of one run."""

    def __init__(self, clock: Clock, session: Owner, stops: frozenset[str] = frozenset()) -> None:
        self.clock = clock
        self.session = session
        self.present = session  #: the owner of whatever is taken now
        #: who was present when the running task was started: tasks inherit it
        self.starter: ContextVar[Owner] = ContextVar("poolguard-starter", default=session)
        #: what the running code takes and opens, it does for a pool
        self.supply: ContextVar[Supply | None] = ContextVar("poolguard-supply", default=None)
        self.stops = stops
        self.overdue: list[Checkout] = []  #: those that were out for longer than their owner's limit
        self.dirty: list[Checkout] = []  #: those that were given back in the middle of a transaction that wrote
        self.pools_seen = 0
        self.taken = 0
        self._out: dict[int, Checkout] = {}
        self.records: dict[int, Pool] = {}  #: of pools, by their id(); for :meth:`pool` where calls are dear
        self._openings: dict[int, Opening] = {}
        self.main_thread = threading.main_thread().ident or 0
        self._threads: dict[int, Any] = getattr(threading, "_active", {})
        self._lost = 0
        self._on_limits: list[Callable[[], None]] = []

    def now_present(self, owner: Owner) -> None:
        """From now on an owner answers for what is taken, and for the tasks that are started."""
        self.present = owner
        self.starter.set(owner)
        if self._on_limits and owner.limits.bound_taking:
            self.once_limited()

    def once_limited(self, prepare: Callable[[], None] | None = None) -> None:
        """Have something prepared as soon as an owner has limits for taking connections: most never have."""
        if prepare is not None:
            self._on_limits.append(prepare)
        while self._on_limits and self.present.limits.bound_taking:
            self._on_limits.pop()()

    # pools and connections

    def pool(self, pool: object) -> Pool | None:
        """The record of a pool, None for one that was not seen before."""
        record = self.records.get(id(pool))
        return record if record is not None and record.ref() is pool else None

    def add_pool(
        self,
        pool: object,
        driver: Any,
        label: str,
        made: Origin,
        *,
        made_known: bool,
        owner: Owner | None = None,
        reference: Reference = ref,
    ) -> Pool:
        """Remember a pool; ``made`` is where it was made, or else first used.

        ``owner`` has made it; by default, and where that one is finished, it is the one who is present.
        """
        if owner is None or owner.finished:
            owner = self.present
        record = self.records[id(pool)] = Pool(
            pool, driver, label, made, owner, made_known=made_known, reference=reference
        )
        owner.made.append(record)
        self.pools_seen += 1
        return record

    def pools(self) -> list[Pool]:
        """Every pool seen that is still alive, in the order in which they were made."""
        return [record for record in list(self.records.values()) if record.ref() is not None]

    def opened(self, connection: object, driver: Any) -> Opening:
        """Remember a connection that was just opened, by the caller's caller."""
        opening = Opening(connection, driver, Origin(capture(self.stops, 2)), self.present, self.this_thread())
        opening.task = self._this_task()
        self._openings[id(connection)] = opening
        self.present.opened.append(opening)
        supply = self.supply.get()
        if supply is not None:
            opening.pool = supply.pool
            supply.openings += (opening,)
        return opening

    def opening(self, connection: object) -> Opening | None:
        """How a connection was opened, None if it was not seen."""
        opening = self._openings.get(id(connection))
        return opening if opening is not None and opening.ref() is connection else None

    def openings(self) -> list[Opening]:
        """The connections that still exist in this process, open or closed."""
        return [opening for opening in list(self._openings.values()) if opening.ref() is not None]

    # checkouts

    def check_out(self, pool: Pool, connection: object, skip: int = 2) -> Checkout | None:
        """Note that the caller's caller took a connection; None if it is out already (same pool, same key).

        ``skip`` is one more where it was the caller of that, and so on: innermost frames that say nothing.
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
        if self.starter.get() is not owner:  # a task that others have started, or a thread
            checkout.task = self._blocked_task()
        self._out[key] = owner.out[key] = checkout
        supply = self.supply.get()
        if supply is not None and supply.pool is not pool:
            supply.checkouts += (checkout,)
        out = len(owner.out)
        if out > owner.peak:  # noqa: PLR1730 - max() costs as much again
            owner.peak = out
        self.taken += 1
        return checkout

    def _blocked_task(self) -> Task | None:
        """The running task, if there is one; a call that is asynchronous tells by itself."""
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
            return None
        if checkout.pool.ref() is pool:
            key = checkout.key  # as in _end(), without the call
            self._out.pop(key, None)
            checkout.owner.out.pop(key, None)
            checkout.returned = True
            if checkout.taken_by.limits.hold is not None:
                self._measure(checkout, checkout.taken_by.limits.hold)
        return checkout

    def dropped(self, checkout: Checkout, *, harmless: bool) -> None:
        """Note that nobody gave a connection back: its pool has it again since nothing referred to it any longer.

        Its owner is told all the same. It is ``harmless`` where it came back the moment it was let go of, and not
        whenever garbage was collected.
        """
        if self._out.get(checkout.key) is not checkout:
            return  # it was told, or forgotten
        self._out.pop(checkout.key, None)
        checkout.owner.out.pop(checkout.key, None)
        checkout.returned = True
        checkout.held = self.clock.now() - checkout.since
        checkout.dropped = "harmless" if harmless else "collected"
        checkout.owner.dropped.append(checkout)

    def end(self, checkout: Checkout) -> None:
        """Note that a checkout is over, whatever has become of its connection."""
        key = checkout.key
        if self._out.get(key) is checkout:  # else it is over already
            self._end(checkout, key)

    def _end(self, checkout: Checkout, key: int) -> None:
        self._out.pop(key, None)
        checkout.owner.out.pop(key, None)
        checkout.returned = True
        if checkout.taken_by.limits.hold is not None:
            self._measure(checkout, checkout.taken_by.limits.hold)

    def _measure(self, checkout: Checkout, hold: float) -> None:
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
        if checkout in self.overdue:
            self.overdue.remove(checkout)

    def this_thread(self) -> Any:
        """The running thread as a holder: None for the main one, its bare ident where threading has no Thread."""
        ident = get_ident()
        # Not threading.current_thread(): that makes, and keeps, a dummy for a foreign thread.
        return None if ident == self.main_thread else self._threads.get(ident, ident)

    def _this_task(self) -> Task | None:
        """The running asyncio task, where somebody has imported asyncio and runs one."""
        asyncio = sys.modules.get("asyncio")
        try:
            task = asyncio.current_task() if asyncio is not None else None
        except RuntimeError:  # no loop runs here
            return None
        return Task(task, self.starter.get()) if task is not None else None

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

    def _rekey(self, checkout: Checkout) -> None:
        self._lost -= 1
        self._out[self._lost] = self._out.pop(checkout.key)
        if checkout.owner.out.pop(checkout.key, None) is not None:
            checkout.owner.out[self._lost] = checkout
        checkout.key = self._lost
