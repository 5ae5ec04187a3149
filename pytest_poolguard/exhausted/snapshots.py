"""Who has the connections of a pool at one moment, and what can be said then of each.

Made when a pool refuses one, so it tells what was true at that moment; what became of each is known later. No
test framework here, and nothing that talks to a server.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from pytest_poolguard.books.ledger import Ledger
from pytest_poolguard.books.origin import SourceTree
from pytest_poolguard.books.records import Checkout, Opening, Pool
from pytest_poolguard.describe import Describe
from pytest_poolguard.exhausted.invocations import still_runs
from pytest_poolguard.findings import Finding
from pytest_poolguard.judging import holders
from pytest_poolguard.judging.whereabouts import Frame, of_awaits, of_holder, of_task, of_this_thread

__all__ = [
    "ASKS",
    "IN_USE",
    "KEPT",
    "LEAKED",
    "LEFT",
    "OVER",
    "Asker",
    "Held",
    "Snapshot",
    "Snapshots",
]

#: What is known of a connection that is out:
LEAKED = "leaked"  # nobody can return it any more, or it was reported as a leak
OVER = "over"  # its thread or task has ended, something still refers to it
LEFT = "left"  # the call that took it has ended, its holder goes on, something still refers to it
KEPT = "kept"  # a fixture has it
IN_USE = "in use"  # the call that took it still runs
ASKS = "asks"  # the same, in the very thread or task that asks for one more

#: Connections of one pool that are looked at.
MOST = 100


@dataclass(frozen=True)
class Asker:
    """Who asks for a connection: where it stands, and which task it is, if it is one."""

    frames: list[Frame]
    thread: Any  #: as a checkout's
    task: Any = None  #: the task's weak reference
    asks: bool = True  #: else it is only the code that looks

    def has(self, checkout: Checkout) -> bool:
        """Whether it is the one who took a connection."""
        if checkout.task is not None:
            tasks = (checkout.task, checkout.task.awaited_by)
            return self.task is not None and any(task.ref is self.task for task in tasks if task is not None)
        return bool(checkout.thread == self.thread)


@dataclass
class Held:
    """One connection that was out."""

    checkout: Checkout
    state: str
    finding: Finding  #: who took it, where and in which test
    seconds: float
    statement: str = ""  #: the last one, where the server was asked

    def state_now(self) -> str:
        """What is known by now: what was not in use any more is a leak once it is told as one."""
        if self.state in (OVER, LEFT) and self.checkout.told and not self.checkout.returned:
            return LEAKED
        return self.state


@dataclass
class Snapshot:
    """A pool, and what of it is out."""

    pool: Pool
    capacity: int | None  #: connections that may be out at once, where that is known and limited
    held: list[Held] = field(default_factory=list)
    more: int = 0  #: that are out and were not looked at
    refuses: bool = True  #: the pool has refused one more; else somebody only looks, and the others are free

    @property
    def is_full(self) -> bool:
        """Whether so many are out as may be."""
        return self.capacity is not None and len(self.held) + self.more >= self.capacity


class Snapshots:
    """Makes them."""

    def __init__(self, ledger: Ledger, tree: SourceTree, describe: Describe) -> None:
        self._ledger = ledger
        self._tree = tree
        self._describe = describe

    def asker(self, task: Any = None, *, asks: bool = True) -> Asker:
        """The code that runs, which asks for a connection; ``task`` is the one that gets it, if another waits."""
        record = self._ledger.this_task() if task is None else self._ledger.record_of(task)
        frames = of_this_thread()
        if record is not None:
            frames += of_awaits(record)  # an exception that is thrown into a task shows not all of its frames
        return Asker(frames, self._ledger.this_thread(), record.ref if record is not None else None, asks)

    def of(self, pool: Pool, asker: Asker | None = None) -> Snapshot:
        """What is out of a pool now."""
        told = [checkout for checkout in self._ledger.unreclaimed if checkout.pool is pool]
        out = told + [checkout for checkout in self._ledger.outstanding() if checkout.pool is pool]
        now = self._ledger.clock.now()
        # All that moves is looked at first: to describe it takes time.
        seen = [
            (one, not one.told and holders.is_referenced(one), self._frames(one, asker)) for one in out[:MOST]
        ]
        held = []
        for checkout, is_held, frames in seen:
            state = self._state(checkout, frames, asker) if is_held else LEAKED
            held.append(Held(checkout, state, self._finding(checkout, frames), now - checkout.since))
        refuses = asker is None or asker.asks
        return Snapshot(pool, pool.size(self._ledger.present.limits) or None, held, len(out) - len(held), refuses)

    def all(self) -> list[Snapshot]:
        """What is out of every pool of which something is; the caller may be somebody's interruption."""
        caller = self.asker(asks=False)
        pools = {checkout.pool: None for checkout in (*self._ledger.unreclaimed, *self._ledger.outstanding())}
        return [self.of(pool, caller) for pool in pools]

    def opening(self, checkout: Checkout) -> Opening | None:
        """How a connection that was out was opened; None if that was not seen, or it is gone."""
        return self._ledger.opening(checkout.to_server())

    def is_unlimited(self, record: Pool) -> bool:
        """Whether a pool is known to hand out as many as one likes."""
        pool, capacity = record.ref(), getattr(record.driver, "capacity", None)
        return pool is not None and capacity is not None and capacity(pool) is None

    def _finding(self, checkout: Checkout, frames: list[Frame]) -> Finding:
        finding = self._describe.holding(checkout)
        own = next((frame for frame in frames if self._tree.is_own(frame[0].co_filename)), None)
        finding.thread_place = self._tree.place(*own) if own is not None else None
        return finding

    def _state(self, checkout: Checkout, frames: list[Frame], asker: Asker | None) -> str:
        if checkout.taken_by.kind == "fixture" and checkout.phase == "setup":
            return KEPT
        if not frames:
            return OVER
        takers = self._describe.takers(checkout)
        if takers and not any(still_runs(*taker, frames) for taker in takers):
            return LEFT
        return ASKS if asker is not None and asker.asks and asker.has(checkout) else IN_USE

    def _frames(self, checkout: Checkout, asker: Asker | None) -> list[Frame]:
        """Where a holder is: the thread that asks, too, where a task asks that it runs."""
        if asker is not None and asker.has(checkout):
            return asker.frames
        waits = checkout.task.awaited_by if checkout.task is not None else None
        frames = of_task(waits) if waits is not None else of_holder(checkout)
        is_here = checkout.task is None and checkout.thread == self._ledger.this_thread()
        return asker.frames if not frames and is_here and asker is not None else frames
