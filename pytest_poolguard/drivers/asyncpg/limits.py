"""Limits for asyncpg's pools: an end to the two waits that have none, and pools of another size.

After a leak, ``acquire()`` and ``close()`` wait for ever. With a limit they raise asyncpg's own kind of error
when it is over.
"""

# ruff: noqa: SLF001 - a pool has no public way to another size

from __future__ import annotations

import sys
import weakref
from collections.abc import Callable
from types import ModuleType
from typing import Any

from pytest_poolguard.books.records import Limits, Pool
from pytest_poolguard.drivers.gate import PAUSE
from pytest_poolguard.drivers.interface import Watch

__all__ = ["Limited"]

#: Seconds that are left to a call whose time is up. None at all asyncpg treats in another way, and a loop's clock
#: may be early by its resolution.
LAST = 0.02


class Limited:
    """``acquire()`` and ``close()`` within limits."""

    def __init__(self, watch: Watch) -> None:
        self.library: ModuleType | None = None  #: ``asyncpg.pool``, once it is imported
        self.any_grown = False  #: a pool may have grown for a marker's sake
        self._watch = watch
        self._entered: weakref.WeakKeyDictionary[Pool, int] = weakref.WeakKeyDictionary()

    async def acquire(
        self, original: Callable[..., Any], pool: Any, record: Pool | None, timeout: float | None, limits: Limits
    ) -> Any:
        """Acquire a connection as ``Pool._acquire``, the ``original``, does, within what is allowed."""
        __tracebackhide__ = True
        asyncio = sys.modules["asyncio"]
        bound = limits.timeout is not None and (timeout is None or timeout > limits.timeout)
        seconds = limits.timeout if bound else timeout
        now = asyncio.get_running_loop().time
        begin = now()

        def left() -> float | None:
            return None if seconds is None else max(begin + seconds - now(), LAST)

        while not self._enter(pool, record, limits.max):
            if left() == LAST:
                raise asyncio.TimeoutError(self._no_connection(pool, record, seconds, limits.max)) from None
            await asyncio.sleep(PAUSE)
        try:
            proxy = await original(pool, left())
        except asyncio.TimeoutError:
            if not bound or left() != LAST:
                raise
            raise asyncio.TimeoutError(self._no_connection(pool, record, seconds, limits.max)) from None
        finally:
            self._leave(record, limits.max)
        # release() takes the timeout of acquire() for its own
        proxy._holder._timeout = timeout
        return proxy

    async def close(self, original: Callable[..., Any], pool: Any, record: Pool, seconds: float) -> None:
        """Close a pool, or terminate it if what is out does not come back in time."""
        __tracebackhide__ = True
        asyncio = sys.modules["asyncio"]
        if not self._out(record):
            await original(pool)  # it waits for nobody
            return
        now = asyncio.get_running_loop().time
        end = now() + seconds
        try:
            async with self.library.compat.timeout(seconds):  # type: ignore[union-attr]
                await original(pool)
        except asyncio.TimeoutError:
            if now() < end - LAST:
                raise
            text = f"{record.label}.close() waited {seconds:g} s for what is out, and terminated the pool"
            raise asyncio.TimeoutError(self._with_holders(text, record)) from None

    # who has them

    def _no_connection(self, pool: Any, record: Pool | None, seconds: float | None, maximum: int | None) -> str:
        name = record.label if record is not None else type(pool).__name__
        allowed = f", of which max={maximum} may be out" if maximum is not None else ""
        return f"no connection within {seconds:g} s of {name}{allowed}"

    def _with_holders(self, text: str, record: Pool | None) -> str:
        holders = self._watch.holders(record) if record is not None else []
        return "\n  ".join([f"{text}; out are:" if holders else text, *holders])

    # how many

    def _out(self, record: Pool) -> int:
        return sum(checkout.pool is record for checkout in self._watch.ledger.outstanding())

    def _enter(self, pool: Any, record: Pool | None, maximum: int | None) -> bool:
        """Whether one more may take a connection; a pool that is too small for that grows."""
        if maximum is None or record is None:
            return True
        entered = self._entered.get(record, 0)
        if self._out(record) + entered >= maximum:
            return False
        self._entered[record] = entered + 1
        if pool._queue.empty() and len(pool._holders) < maximum:
            self._grow(pool)
        return True

    def _leave(self, record: Pool | None, maximum: int | None) -> None:
        if maximum is not None and record is not None:
            self._entered[record] -= 1

    def _grow(self, pool: Any) -> None:
        """Give a pool one place more, as it makes them itself."""
        holder = self.library.PoolConnectionHolder(  # type: ignore[union-attr]
            pool,
            max_queries=pool._max_queries,
            setup=pool._setup,
            max_inactive_time=pool._max_inactive_connection_lifetime,
        )
        self.any_grown = True
        pool._holders.append(holder)
        pool._queue._maxsize = len(pool._holders)
        pool._queue.put_nowait(holder)

    def cut_down(self, pool: Any) -> None:
        """Take back the places that a pool has beyond its own, as far as nobody uses them."""
        while len(pool._holders) > pool._maxsize and not pool._queue.empty():
            holder = pool._queue.get_nowait()
            holder._maybe_cancel_inactive_callback()
            pool._holders.remove(holder)
            pool._queue._maxsize = max(len(pool._holders), pool._maxsize)
            holder.terminate()
