"""What a run has on record: its pools and opened connections, who is present, and who takes something now.

No test framework and no driver here, and no lock: see ``ledger``.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable
from contextvars import ContextVar
from threading import get_ident
from typing import Any
from weakref import ref

from pytest_poolguard.books.origin import Origin, capture
from pytest_poolguard.books.records import Make, Opening, Owner, Pool, Reference, Supply, Task

__all__ = ["Registry"]


class Registry:
    """Every watched pool and connection of one run, and those who answer for them."""

    def __init__(self, session: Owner, stops: frozenset[str]) -> None:
        self.session = session
        self.present = session  #: the owner of whatever is taken now
        #: who was present when the running task was started: tasks inherit it
        self.starter: ContextVar[Owner] = ContextVar("poolguard-starter", default=session)
        #: what the running code takes and opens, it does for a pool
        self.supply: ContextVar[Supply | None] = ContextVar("poolguard-supply", default=None)
        self.stops = stops
        self.pools_seen = 0
        self.records: dict[int, Pool] = {}  #: of pools, by their id(); for :meth:`pool` where calls are dear
        self.makes: dict[tuple[Any, ...], Make] = {}  #: of all pools seen, also those that are gone
        self._openings: dict[int, Opening] = {}
        self.main_thread = threading.main_thread().ident or 0
        self._threads: dict[int, Any] = getattr(threading, "_active", {})
        self._on_limits: list[Callable[[], None]] = []

    def now_present(self, owner: Owner) -> None:
        """From now on an owner answers for what is taken, and for the tasks that are started."""
        self.present = owner
        self.starter.set(owner)
        if self._on_limits and owner.limits.bound_any_pool:
            self.once_limited()

    def once_limited(self, prepare: Callable[[], None] | None = None) -> None:
        """Have something prepared as soon as an owner has limits for what is taken: most never have."""
        if prepare is not None:
            self._on_limits.append(prepare)
        while self._on_limits and self.present.limits.bound_any_pool:
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
        record.make = self._common(record.make)
        record.make.pools += 1
        owner.made.append(record)
        self.pools_seen += 1
        return record

    def _common(self, make: Make) -> Make:
        """The one that stands for all pools that are made so."""
        # Code objects by identity: equal ones may be of different files. Those of the first are kept, by it.
        made = tuple(part if isinstance(part, int) else id(part) for part in make.made)
        return self.makes.setdefault((make.library, make.label, make.made_known, len(made), made), make)

    def forget_pool(self, record: Pool) -> None:
        """Strike a pool from the record; of those that were made alike, it is to be the only one."""
        self.pools_seen -= 1
        record.owner.made.remove(record)
        for key, known in list(self.records.items()):  # the dictionary itself is known to others
            if known is record:
                del self.records[key]
        for alike, make in list(self.makes.items()):
            if make is record.make:
                del self.makes[alike]

    def strike_out_opening(self, connection: object) -> None:
        """Have a connection as if it had never been seen."""
        opening = self._openings.pop(id(connection), None)
        if opening is not None:
            opening.owner.opened.remove(opening)

    @property
    def taken(self) -> int:
        """How many connections were taken."""
        return sum(make.taken for make in list(self.makes.values()))

    def pools(self) -> list[Pool]:
        """Every pool seen that is still alive, in the order in which they were made."""
        return [record for record in list(self.records.values()) if record.ref() is not None]

    def opened(self, connection: object, driver: Any) -> Opening:
        """Remember a connection that was just opened, by the caller's caller."""
        opening = Opening(connection, driver, Origin(capture(self.stops, 2)), self.present, self.this_thread())
        opening.task = self.this_task()
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

    def on_record(self) -> list[Opening]:
        """How connections were opened, whatever has become of them, without a touch of any."""
        return list(self._openings.values())

    # who takes it

    def this_thread(self) -> Any:
        """The running thread as a holder: None for the main one, its bare ident where threading has no Thread."""
        ident = get_ident()
        # Not threading.current_thread(): that makes, and keeps, a dummy for a foreign thread.
        return None if ident == self.main_thread else self._threads.get(ident, ident)

    def this_task(self) -> Task | None:
        """The running asyncio task, where somebody has imported asyncio and runs one."""
        asyncio = sys.modules.get("asyncio")
        try:
            task = asyncio.current_task() if asyncio is not None else None
        except RuntimeError:  # no loop runs here
            return None
        return self.record_of(task) if task is not None else None

    def record_of(self, task: Any) -> Task:
        """What is remembered of a task."""
        return Task(task, self.starter.get())
