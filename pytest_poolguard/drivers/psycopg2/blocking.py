"""Limits for pool subclasses whose ``getconn`` waits for a free connection.

psycopg2's own pools never wait. A subclass that does so is called in a thread where it would: see ``bounded``.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Iterator
from types import CodeType
from typing import Any

from pytest_poolguard.books.origin import capture
from pytest_poolguard.drivers.bounded import Call, blocks
from pytest_poolguard.drivers.interface import Watch
from pytest_poolguard.drivers.patching import Patches

__all__ = ["bound", "is_exhausted"]

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


def is_exhausted(error: BaseException) -> bool:
    """Whether a ``PoolError`` says that every connection is out; others say that it is closed, and so on."""
    return "exhausted" in str(error)


def _own_classes(cls: type, library: str) -> Iterator[type]:
    for one in cls.__mro__:
        if one.__module__ == library:
            return
        yield one


def _bounded(original: Callable[..., Any], error: type[Exception], watch: Watch) -> Callable[..., Any]:
    counting = watch.counting

    @functools.wraps(original)
    def getconn(self: Any, *args: Any, **kwargs: Any) -> Any:
        __tracebackhide__ = True
        call = watch.asks(self) if counting.is_on else None
        connection = None
        try:
            connection = _take(functools.partial(original, self, *args, **kwargs), self, error, watch)
        except error as refusal:
            if is_exhausted(refusal):
                watch.refused(self, refusal)
            raise
        finally:
            if call is not None:
                watch.answers(call, watch.ledger.held_by(connection))
        return connection

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
    call = Call(take, pool.putconn)
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
        if code is Call.beginning():
            return stack[:position]
    return stack
