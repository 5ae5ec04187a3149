"""A marker's limits for in-house pools, of which nothing is known but the names of their methods.

``max`` is kept by a gate before the pool: it can make a pool smaller, not larger. ``timeout`` cancels a coroutine
in its own task, and calls a function that waits in a thread; where that could break the pool, it is said.
"""

from __future__ import annotations

import contextlib
import inspect
import math
import sys
import threading
import time
from collections.abc import Callable, Coroutine
from typing import Any

from pytest_poolguard.books.records import Checkout, Limits, Supply
from pytest_poolguard.drivers.bounded import Call, blocks
from pytest_poolguard.drivers.gate import PAUSE, Gates, Way
from pytest_poolguard.drivers.inhouse.desk import Desk
from pytest_poolguard.drivers.inhouse.refusing import NoConnection

__all__ = ["Limited", "NoConnection"]

#: What a pool has that keeps something for each thread.
OF_A_THREAD = (threading.local, type(threading.RLock()))
#: Names that a function which does so calls.
ASKING_FOR_THE_THREAD = frozenset({"get_ident", "get_native_id", "current_thread"})


class Limited:
    """One of a class's methods that take connections, within the present owner's limits."""

    def __init__(self, original: Callable[..., Any], desk: Desk, *, is_manager: bool = False) -> None:
        self._original = inspect.unwrap(original)
        self._desk = desk
        self._is_manager = is_manager
        self._gates = Gates(desk.watch.ledger)

    def acquire(self, pool: Any, supply: Supply, take: Callable[[], Any]) -> tuple[Any, Checkout | None]:
        """Take a connection, by a call that has begun."""
        __tracebackhide__ = True
        watch, taken = self._desk.watch, None
        call = watch.asks(pool) if watch.counting.is_on else None
        try:
            taken = self._acquire(pool, supply, take)
        finally:
            watch.answers(call, taken[1] if taken is not None else None)
        return taken

    def _acquire(self, pool: Any, supply: Supply, take: Callable[[], Any]) -> tuple[Any, Checkout | None]:
        __tracebackhide__ = True
        desk, limits = self._desk, self._desk.watch.ledger.present.limits
        way = self._way(pool, supply, limits)
        try:
            for _ in way:
                time.sleep(PAUSE)
        except BaseException as error:
            desk.refused(supply, error)
            raise
        try:
            try:
                connection = self._within(way, limits, pool, supply, take)
            except BaseException as error:
                desk.refused(supply, error)
                raise
            return connection, desk.took(supply, connection)
        finally:
            way.leave()

    async def acquire_async(
        self, pool: Any, supply: Supply, take: Callable[[], Coroutine[Any, Any, Any]]
    ) -> tuple[Any, Checkout | None]:
        """Likewise, for a coroutine."""
        __tracebackhide__ = True
        watch, taken = self._desk.watch, None
        call = watch.asks(pool) if watch.counting.is_on else None
        try:
            taken = await self._acquire_async(pool, supply, take)
        finally:
            watch.answers(call, taken[1] if taken is not None else None)
        return taken

    async def _acquire_async(
        self, pool: Any, supply: Supply, take: Callable[[], Coroutine[Any, Any, Any]]
    ) -> tuple[Any, Checkout | None]:
        __tracebackhide__ = True
        desk, limits = self._desk, self._desk.watch.ledger.present.limits
        way = self._way(pool, supply, limits)
        try:
            for _ in way:
                await sys.modules["asyncio"].sleep(PAUSE)
        except BaseException as error:
            desk.refused(supply, error)
            raise
        try:
            try:
                if limits.timeout is None:
                    connection = await take()
                else:
                    connection = await _cancelled_after(way.left, take, self._error(supply, limits))
            except BaseException as error:
                desk.refused(supply, error)
                raise
            return connection, desk.took(supply, connection, is_async=True)
        finally:
            way.leave()

    # max

    def _way(self, pool: Any, supply: Supply, limits: Limits) -> Way:
        """The way past the gate: with no ``timeout``, nobody waits there."""
        ledger = self._desk.watch.ledger
        if limits.max is not None and self._is_of_a_thread(pool):
            thread = ledger.this_thread()
            mine = [c for c in ledger.outstanding() if c.pool is supply.pool and c.thread == thread]
            if mine:  # most likely it gets the same one again
                limits = Limits(timeout=limits.timeout)
        seconds = 0.0 if limits.timeout is None else math.inf
        return self._gates.way(pool, supply.pool, limits, seconds, self._error(supply, limits))

    def _error(self, supply: Supply, limits: Limits) -> Callable[[str], Exception]:
        def error(_text: str) -> Exception:
            text = f"no connection of {supply.pool.label}"
            if limits.timeout is not None:
                text += f" within {limits.timeout:g} s"
            if limits.max is not None:
                text += f", of which max={limits.max} may be out"
            return NoConnection(text)

        return error

    # timeout

    def _within(self, way: Way, limits: Limits, pool: Any, supply: Supply, take: Callable[[], Any]) -> Any:
        __tracebackhide__ = True
        if limits.timeout is None:
            return take()
        reason = ""
        if blocks(pool, self._original):
            give = _giver(pool, self._desk.release)
            reason = self._reason_not_to_move(pool, give)
            if give is not None and not reason and not _is_owned(pool):
                return self._in_a_thread(way.left, limits, supply, take, give)
            if reason:
                self._say(f"can't be ended by a timeout: {reason}")
        begin = time.monotonic()
        try:
            return take()
        finally:
            if time.monotonic() - begin > limits.timeout and not reason:
                self._say("took longer than a timeout allows, which could not end it")

    def _in_a_thread(
        self, seconds: float, limits: Limits, supply: Supply, take: Callable[[], Any], give: Callable[[Any], Any]
    ) -> Any:
        __tracebackhide__ = True

        def give_late(connection: Any) -> None:
            give(connection)
            self._desk.done(supply)

        call = Call(take, give_late)
        if not call.run(seconds):
            # What it takes and opens after all is its own, and goes back to it.
            self._desk.done(supply)
            supply.openings, supply.checkouts = (), ()
            raise self._error(supply, limits)("")
        if call.error is not None:
            raise call.error
        return call.connection

    def _reason_not_to_move(self, pool: Any, give: Callable[[Any], Any] | None) -> str:
        """Why a call can't be made in another thread; empty if it can."""
        if self._is_manager:
            return "a context manager has to be left by the thread that entered it"
        if self._is_of_a_thread(pool):
            return "the pool keeps something for each thread"
        return "" if give is not None else "its release takes no connection"

    def _is_of_a_thread(self, pool: Any) -> bool:
        names = getattr(getattr(self._original, "__code__", None), "co_names", ())
        values = getattr(pool, "__dict__", {}).values()
        return bool(ASKING_FOR_THE_THREAD.intersection(names)) or any(isinstance(v, OF_A_THREAD) for v in values)

    def _say(self, text: str) -> None:
        self._desk.say(f"{self._original.__name__} {text}")


def _giver(pool: Any, name: str) -> Callable[[Any], Any] | None:
    """The method that returns a connection, where it is a plain one that is told which."""
    method = getattr(pool, name, None)
    if method is None or inspect.iscoroutinefunction(method):
        return None
    try:
        inspect.signature(method).bind(None)
    except (TypeError, ValueError):
        return None
    return method  # type: ignore[no-any-return]


def _is_owned(pool: Any) -> bool:
    """Whether the calling thread has one of the pool's conditions: another one would wait for it in vain."""
    values = getattr(pool, "__dict__", {}).values()
    return any(isinstance(v, threading.Condition) and v._is_owned() for v in values)  # type: ignore[attr-defined]  # noqa: SLF001


async def _cancelled_after(
    seconds: float, take: Callable[[], Coroutine[Any, Any, Any]], error: Callable[[str], Exception]
) -> Any:
    """Await a coroutine in the running task; after a while the task is cancelled, and that ends here.

    As ``asyncio.timeout`` does it, which Python 3.10 lacks. ``wait_for`` would run it in a task of its own.
    """
    __tracebackhide__ = True
    asyncio = sys.modules["asyncio"]
    task = asyncio.current_task()
    before = task.cancelling() if hasattr(task, "cancelling") else 0
    expired = False

    def expire() -> None:
        nonlocal expired
        expired = True
        task.cancel()

    timer = asyncio.get_running_loop().call_later(seconds, expire)
    others = False
    try:
        return await take()
    except asyncio.CancelledError:
        if not expired:
            raise
        with contextlib.suppress(AttributeError):  # Python 3.10 does not count
            others = task.uncancel() > before
        expired = False
        if others:
            raise
        raise error("") from None
    finally:
        timer.cancel()
        if expired and hasattr(task, "uncancel"):  # it was not told to the end
            task.uncancel()
