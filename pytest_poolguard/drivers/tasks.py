"""Which task holds a connection that was just taken, and who waits for that task.

``asyncio.gather(pool.getconn(), …)`` runs each call in a task of its own, with no code of the project on its
stack: there, the line that waits for the task is the one that took the connection.
"""

from __future__ import annotations

import functools
import inspect
import sys
from typing import Any

from pytest_poolguard.books.ledger import Ledger
from pytest_poolguard.books.records import Checkout, Task
from pytest_poolguard.drivers.awaiting import waiting_for
from pytest_poolguard.judging.whereabouts import of_task

__all__ = ["ASYNCHRONOUS", "Waiter", "note_task", "waiter"]

#: Flags of the code that awaits. Where the caller of a library's coroutine has none, an event loop calls it.
ASYNCHRONOUS = inspect.CO_COROUTINE | inspect.CO_ITERABLE_COROUTINE | inspect.CO_ASYNC_GENERATOR


class Waiter:
    """Who waits for a task that runs a library's call alone, and where."""

    def __init__(self, task: Any, ledger: Ledger) -> None:
        self.task = Task(task, ledger.starter.get())
        self.stack = [part for frame in of_task(self.task) for part in frame]
        task.add_done_callback(functools.partial(_note_end, self.task))


def _note_end(record: Task, task: Any) -> None:
    record.was_cancelled = task.cancelled()


def note_task(checkout: Checkout, running: Any, ledger: Ledger, waiter: Waiter | None = None) -> Task | None:
    """Note the ``running`` task as the holder; its record, where that is good for all that it takes."""
    holder = checkout.task = Task(running, ledger.starter.get())
    if waiter is not None:
        holder.awaited_by = waiter.task
        checkout.stack[:0] = waiter.stack
        return None
    return holder


def waiter(ledger: Ledger) -> Waiter | None:
    """Who waits for the running task: by itself, or through gather(), wait_for(), shield() and the like.

    To be asked at the beginning of a call: at its end it may have been cancelled.
    """
    asyncio = sys.modules["asyncio"]
    waiting = waiting_for(asyncio.current_task())
    return Waiter(waiting, ledger) if waiting is not None else None
