"""What is noted of asyncpg's pools and connections.

The ledger knows a connection itself, which is the same one again and again, not the proxy that stands for it
while it is out: a proxy refuses weak references, and nothing but the connection leads to it.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

from pytest_poolguard.books.origin import Origin, capture, printable
from pytest_poolguard.books.records import Checkout, Pool, Task
from pytest_poolguard.drivers.asyncpg.objects import Plumbing, is_closing, proxy_of, reference, state
from pytest_poolguard.drivers.asyncpg.session_limits import TALK
from pytest_poolguard.drivers.awaiting import splice
from pytest_poolguard.drivers.interface import Driver, Watch

__all__ = ["Notes"]


class Notes:
    """The driver's own notes, and those that it makes in the ledger."""

    def __init__(self, driver: Driver, watch: Watch) -> None:
        self.driver = driver
        self._watch = watch
        self._plumbing = Plumbing()
        self._made: dict[int, Origin] = {}  #: where pools were made that have not connected yet, by id
        self._lost: dict[int, Checkout] = {}  #: what was out of a pool that was terminated, by its proxy's id

    # pools

    def is_made(self, pool: Any) -> None:
        """A pool is made, by the caller's caller: it can't be referred to before it connects."""
        self._made[id(pool)] = Origin(capture(self._watch.ledger.stops, 2))

    def record(self, pool: Any) -> Pool:
        """The record of a pool that connects."""
        ledger = self._watch.ledger
        record = ledger.pool(pool)
        if record is not None:
            return record
        made = self._made.pop(id(pool), None)
        return ledger.add_pool(
            pool,
            self.driver,
            f"{type(pool).__name__}({pool._minsize}..{pool._maxsize})",  # noqa: SLF001
            made if made is not None else Origin(capture(ledger.stops, 2)),
            made_known=made is not None,
            reference=reference,
        )

    def known(self, pool: Any) -> Pool | None:
        """The record of a pool that is asked for a connection; None for one that will refuse."""
        with self._watch.noting("a pool"):
            if pool._initialized and not is_closing(pool):  # noqa: SLF001
                return self.record(pool)
        return None

    # holders

    def noting_holders(self) -> Callable[[Checkout, Any], None]:
        """Make what notes who has a connection; it is called very often."""
        asyncio = sys.modules["asyncio"]  # the library has imported it
        current_task, starter = asyncio.current_task, self._watch.ledger.starter.get
        plumbing, lost = self._plumbing, self._lost
        last: Task | None = None

        def is_taken(checkout: Checkout, proxy: Any) -> None:
            nonlocal last
            checkout.hand = proxy_of
            if lost:
                lost.pop(id(proxy), None)  # another one, which is gone
            stack = checkout.stack
            task = self.holder(stack) if plumbing[stack[0].co_filename] else current_task()  # type: ignore[union-attr]
            if task is not None:
                holder = last  # mostly the same as before; another thread may put in its own now
                if holder is None or holder.ref() is not task:
                    holder = last = Task(task, starter())
                checkout.task = holder

        return is_taken

    def holder(self, stack: list[Any]) -> Any:
        """The task whose code a captured stack is of: the running one, or one that waits for it.

        ``asyncio.wait_for`` and its like run what they are given in a task of its own, in which there is nothing
        of their caller: the stack goes on there.
        """
        task = sys.modules["asyncio"].current_task()
        return splice(stack, task, self._plumbing.__getitem__) if task is not None else None

    def gives_up(self, pool: Any, error: BaseException) -> None:
        """Nobody waits any longer for a pool: a refusal, unless it was about to connect."""
        with self._watch.noting("who has the connections of a pool"):
            record = self._watch.ledger.pool(pool)
            out = sum(checkout.pool is record for checkout in self._watch.ledger.outstanding())
            maximum = self._watch.ledger.present.limits.max
            is_full = maximum is not None and out >= maximum
            if record is not None and (is_full or pool._queue.empty()):  # noqa: SLF001
                stack = capture(self._watch.ledger.stops, 2)
                holder = self.holder(stack)
                running = sys.modules["asyncio"].current_task()
                self._watch.refused(pool, error, holder if holder is not running else None)

    async def limit(self, pool: Any, proxy: Any) -> None:
        """Set the limits of a session, for a task that is about to have its connection.

        Where it is cancelled over that, nobody knows what is set: the connection is ended.
        """
        connection = proxy._con  # noqa: SLF001
        try:
            if self._watch.active:
                await self._watch.sessions.set_async(pool, connection, TALK)
        except BaseException:
            connection.terminate()
            raise

    # ways back

    def not_returned(self, pool: Any, proxy: Any, checkout: Checkout, error: BaseException) -> None:
        """A release raised: the connection is still out if its proxy still has it."""
        with self._watch.noting("a failed return"):
            own = checkout.pool.ref() is pool
            if own and proxy._con is None:  # noqa: SLF001
                return
            if own:
                self._watch.ledger.put_back(checkout)
            reason = printable(f"{type(error).__name__}: {error}".strip().partition("\n")[0])
            checkout.cause = ("release raised", reason) if own else ("returned to another pool", "")

    def are_lost(self, record: Pool) -> None:
        """A pool is terminated: what is out of it can't be looked at any more, but may be released yet."""
        for checkout in self._watch.ledger.outstanding():
            connection: Any = checkout.connection()
            if checkout.pool is record and connection is not None:
                checkout.last_state = state(connection)
                self._lost[id(proxy_of(connection))] = checkout

    def is_lost(self, proxy: Any) -> bool:
        """Whether a proxy's connection is closed because its pool is terminated: that does not return it."""
        return id(proxy) in self._lost

    def comes_late(self, proxy: Any) -> None:
        """A connection is released that its pool has terminated before."""
        checkout = self._lost.pop(id(proxy), None)
        if checkout is not None:
            checkout.returned = True
            self._watch.ledger.settle(checkout)
