"""Limits for pool subclasses whose ``getconn`` waits for a free connection.

psycopg2's own pools never wait. A subclass that does so (a semaphore, a condition, a loop that sleeps) can't be
interrupted from outside: where it would wait, it is called in a thread, and that thread is waited for.
"""

from __future__ import annotations

import contextlib
import functools
import queue
import threading
import time
from collections.abc import Callable, Iterator
from types import CodeType
from typing import Any

from pytest_poolguard.drivers.interface import Watch
from pytest_poolguard.drivers.patching import Patches
from pytest_poolguard.origin import capture

__all__ = ["blocks", "bound", "is_exhausted"]

PRIMITIVES = (threading.Semaphore, threading.Condition, queue.Queue, queue.SimpleQueue)
#: Names that a function which waits in a loop of its own calls.
WAITING = frozenset({"sleep", "wait", "wait_for"})
#: Seconds between two looks at a pool that a marker's max keeps full.
PAUSE = 0.005


def bound(pool: Any, library: Any, watch: Watch, patches: Patches) -> None:
    """Let the present owner's limits hold for a pool whose class waits; others look at them by themselves.

    ``library`` is the module ``psycopg2.pool``.
    """
    for cls in _own_classes(type(pool), library.__name__):
        original = vars(cls).get("getconn")
        if callable(original) and not hasattr(original, "poolguard_bound") and blocks(pool, original):
            patches.replace(cls, "getconn", _bounded(original, library.PoolError, watch))


def blocks(pool: Any, getconn: Callable[..., Any]) -> bool:
    """Whether a ``getconn`` waits, as far as its code and the pool's attributes tell."""
    names = getattr(getattr(getconn, "__code__", None), "co_names", ())
    return bool(WAITING.intersection(names)) or any(isinstance(v, PRIMITIVES) for v in vars(pool).values())


def is_exhausted(error: BaseException) -> bool:
    """Whether a ``PoolError`` says that every connection is out; others say that it is closed, and so on."""
    return "exhausted" in str(error)


def _own_classes(cls: type, library: str) -> Iterator[type]:
    for one in cls.__mro__:
        if one.__module__ == library:
            return
        yield one


def _bounded(original: Callable[..., Any], error: type[Exception], watch: Watch) -> Callable[..., Any]:
    @functools.wraps(original)
    def getconn(self: Any, *args: Any, **kwargs: Any) -> Any:
        __tracebackhide__ = True
        try:
            return _take(functools.partial(original, self, *args, **kwargs), self, error, watch)
        except error as refusal:
            if is_exhausted(refusal):
                watch.refused(self, refusal)
            raise

    getconn.poolguard_bound = True  # type: ignore[attr-defined]
    return getconn


def _take(take: Callable[[], Any], pool: Any, error: type[Exception], watch: Watch) -> Any:
    """Take a connection within the present owner's limits."""
    __tracebackhide__ = True
    limits = watch.ledger.present.limits
    if limits.max is None and limits.timeout is None:
        return take()
    deadline = None if limits.timeout is None else time.monotonic() + limits.timeout
    while limits.max is not None and len(pool._used) >= limits.max:  # noqa: SLF001
        if deadline is not None and time.monotonic() >= deadline:
            raise error("connection pool exhausted")
        time.sleep(PAUSE)
    if deadline is None or len(pool._used) < pool.maxconn:  # noqa: SLF001
        return take()
    call = _Call(take, pool)
    if not call.run(max(deadline - time.monotonic(), 0)):
        raise error("connection pool exhausted")
    checkout = watch.ledger.held_by(call.connection)
    if checkout is not None:  # it was this thread's call, whoever made it
        checkout.stack = _inner(checkout.stack) + capture(watch.ledger.stops, 2)
        checkout.thread = watch.ledger.this_thread()
    if call.error is not None:
        raise call.error
    return call.connection


def _inner(stack: list[CodeType | int]) -> list[CodeType | int]:
    """The part of a stack that the pool's own class is, below the thread that made the call."""
    for position, code in enumerate(stack):
        if code is _Call._call.__code__:  # noqa: SLF001
            return stack[:position]
    return stack


class _Call:
    """One call of a ``getconn`` in a thread of its own; a connection that comes too late goes back."""

    def __init__(self, take: Callable[[], Any], pool: Any) -> None:
        self.connection: Any = None
        self.error: BaseException | None = None
        self._take = take
        self._pool = pool
        self._lock = threading.Lock()
        self._done = False
        self._given_up = False

    def run(self, timeout: float) -> bool:
        """Whether the call came back within ``timeout`` seconds."""
        thread = threading.Thread(target=self._call, name="poolguard-getconn", daemon=True)
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
                self._pool.putconn(connection)
