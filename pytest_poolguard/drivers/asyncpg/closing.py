"""An end to a ``close()`` that waits for a connection which nobody can release any more.

After a leak ``Pool.close()`` waits for ever, mostly in a fixture's teardown: a hung job that names nobody. It
goes on where it is certain that nobody ends the wait; in all other cases it waits as it would without poolguard.
"""

# ruff: noqa: SLF001 - there is no public way to what a loop is about to do

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Iterable
from typing import Any

from pytest_poolguard.books.origin import Origin, capture
from pytest_poolguard.books.records import Checkout, Pool
from pytest_poolguard.drivers.asyncpg.notes import Notes
from pytest_poolguard.drivers.asyncpg.objects import terminate
from pytest_poolguard.drivers.awaiting import waiting_for
from pytest_poolguard.drivers.interface import Watch
from pytest_poolguard.judging import holders
from pytest_poolguard.judging.whereabouts import is_idle_worker

__all__ = ["Closing"]

#: Seconds from one look to the next, at least.
PAUSE = 0.05
#: Tasks that wait for each other, one after the other.
CHAIN = 20
#: What wakes a task that sleeps: a timer that ends nobody's wait.
WAKES = "_set_result_unless_cancelled"


class Closing:
    """Closes pools; what nobody can release is ended when a ``close()`` has waited for it for the grace."""

    def __init__(self, notes: Notes, watch: Watch) -> None:
        self._notes = notes
        self._watch = watch

    async def close(self, original: Callable[..., Any], pool: Any, record: Pool) -> None:
        """Close a pool as ``Pool.close``, the ``original``, does."""
        __tracebackhide__ = True
        if not self._out(record) or not self._watch.reclaims:
            await original(pool)
            return
        wait = _Wait(self, record, Origin(capture(self._watch.ledger.stops, 2)), self._watch.grace)
        try:
            await original(pool)
        finally:
            wait.timer.cancel()

    def _out(self, record: Pool) -> list[Checkout]:
        return [checkout for checkout in self._watch.ledger.outstanding() if checkout.pool is record]

    def end_of(self, wait: _Wait) -> bool:
        """End a wait that nobody else can end; whether it is over, one way or the other."""
        with self._watch.noting("what a pool waits for"):
            out = self._out(wait.record)
            if wait.may_be_ended() or any(self._may_be_released(checkout, wait) for checkout in out):
                return False
            self._notes.are_lost(wait.record)
            for checkout in out:
                checkout.closed_with_pool = wait.origin
                checkout.waited_for = self._watch.grace
                connection = checkout.connection()
                if connection is not None:
                    terminate(connection)
        return True

    def is_in_a_body(self) -> bool:
        """Whether a test's own body runs, which may be about waiting."""
        return self._watch.ledger.present.phase == "body"

    def _may_be_released(self, checkout: Checkout, wait: _Wait) -> bool:
        """Whether somebody has a connection in hand, and may go on while its pool waits for it."""
        if not holders.is_referenced(checkout):
            return False
        others = set(threading.enumerate()) - {threading.current_thread()} - set(self._watch.bystanders())
        return not all(map(is_idle_worker, others)) or bool(wait.others())


class _Wait:
    """One call of ``close()`` that waits, in the task that is running."""

    def __init__(self, closing: Closing, record: Pool, origin: Origin, grace: float) -> None:
        asyncio = sys.modules["asyncio"]
        self.record = record
        self.origin = origin  #: where close() was called
        self._closing = closing
        self._pause = max(grace, PAUSE)
        self._loop = asyncio.get_running_loop()
        self._tasks = list(_chain(asyncio.current_task()))
        self.timer = self._loop.call_later(grace, self._look)

    def _look(self) -> None:
        if not self._closing.end_of(self):
            self.timer = self._loop.call_later(self._pause, self._look)

    def others(self) -> list[Any]:
        """The tasks of its loop that may do something before the wait is over."""
        waiting = [*self._tasks, *(task for task in self._all() if _is_asyncpgs_own_wait(task))]
        return [task for task in self._all() if task not in waiting]

    def _all(self) -> Iterable[Any]:
        tasks: Iterable[Any] = sys.modules["asyncio"].all_tasks(self._loop)
        return tasks

    def may_be_ended(self) -> bool:
        """Whether a timer runs that may end the wait: ``wait_for()`` and its like have one.

        A loop that does not show its timers may have some; nobody tests a deadline in a teardown.
        """
        timers = getattr(self._loop, "_scheduled", None)
        if timers is None:
            return self._closing.is_in_a_body()
        return any(not timer.cancelled() and not self._is_harmless(timer._callback) for timer in timers)

    def _is_harmless(self, callback: Any) -> bool:
        module = getattr(callback, "__module__", "") or ""
        return module.startswith("asyncpg.") or getattr(callback, "__name__", "") == WAKES


def _chain(task: Any) -> Iterable[Any]:
    """A task, and those that wait for it."""
    for _ in range(CHAIN):
        if task is None:
            return
        yield task
        task = waiting_for(task)


def _is_asyncpgs_own_wait(task: Any) -> bool:
    """Whether a task is one of those that ``close()`` makes, each of which waits for a connection."""
    code = getattr(task.get_coro(), "cr_code", None)
    return code is not None and code.co_name == "wait_until_released"
