"""Calls that wait for a connection, within a time limit.

A call that waits (for a semaphore, a condition, a loop that sleeps) can't be interrupted from outside. It is made
in a thread, and that thread is waited for; what it brings too late goes back.
"""

from __future__ import annotations

import contextlib
import contextvars
import queue
import threading
from collections.abc import Callable
from types import CodeType
from typing import Any

__all__ = ["Call", "blocks"]

PRIMITIVES = (threading.Semaphore, threading.Condition, queue.Queue, queue.SimpleQueue)
#: Names that a function which waits in a loop of its own calls.
WAITING = frozenset({"sleep", "wait", "wait_for"})


def blocks(pool: Any, take: Callable[..., Any]) -> bool:
    """Whether a method that takes a connection waits, as far as its code and the pool's attributes tell."""
    names = getattr(getattr(take, "__code__", None), "co_names", ())
    values = getattr(pool, "__dict__", {}).values()
    return bool(WAITING.intersection(names)) or any(isinstance(value, PRIMITIVES) for value in values)


class Call:
    """One call of ``take`` in a thread of its own, and in the context of its caller."""

    def __init__(self, take: Callable[[], Any], give: Callable[[Any], Any]) -> None:
        self.connection: Any = None
        self.error: BaseException | None = None
        self._take = take
        self._give = give  #: what a connection goes back by that comes when nobody waits for it any longer
        self._lock = threading.Lock()
        self._done = False
        self._given_up = False

    def run(self, timeout: float) -> bool:
        """Whether the call came back within ``timeout`` seconds."""
        here = contextvars.copy_context()
        thread = threading.Thread(target=here.run, args=(self._call,), name="poolguard-take", daemon=True)
        thread.start()
        thread.join(timeout)
        with self._lock:
            self._given_up = not self._done
        return self._done

    def _call(self) -> None:
        connection, error = None, None
        try:
            connection = self._take()
        except BaseException as raised:
            error = raised
        with self._lock:
            if not self._given_up:
                self.connection, self.error, self._done = connection, error, True
                return
        if connection is not None:
            with contextlib.suppress(Exception):
                self._give(connection)

    @classmethod
    def beginning(cls) -> CodeType:
        """The code at which the stack of such a call begins."""
        return cls._call.__code__
