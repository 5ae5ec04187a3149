"""A marker's limits, for SQLAlchemy's pools: no event can refuse a connection, or bound the wait for one."""

from __future__ import annotations

import contextlib
import functools
import sys
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from typing import Any

from pytest_poolguard.books.ledger import Ledger
from pytest_poolguard.books.records import Limits
from pytest_poolguard.drivers.interface import Watch
from pytest_poolguard.drivers.patching import Patches, class_tree
from pytest_poolguard.sizing.counting import Call

__all__ = ["Limited"]

#: Seconds between two looks at a pool that a marker's max keeps full.
PAUSE = 0.005


class Limited:
    """Replaces the method by which connections are taken."""

    def __init__(self, watch: Watch, asks: Callable[[Any], Call | None]) -> None:
        self._watch = watch
        self._asks = asks  #: tells that a pool is asked
        self._ledger = watch.ledger
        self._gates: weakref.WeakKeyDictionary[Any, _Gate] = weakref.WeakKeyDictionary()

    def patch(self, pools: Any, patches: Patches) -> None:
        """Let the present owner's limits hold for all pools; a subclass's own ``connect`` calls one of these."""
        for cls in class_tree(pools.Pool):
            if "connect" in vars(cls) and cls.__module__.startswith("sqlalchemy."):
                patches.replace(cls, "connect", self._limited_connect(vars(cls)["connect"]))

    def _limited_connect(self, original: Callable[..., Any]) -> Callable[..., Any]:
        limited, ledger, watch, counting = self, self._ledger, self._watch, self._watch.counting

        @functools.wraps(original)
        def connect(self: Any) -> Any:
            __tracebackhide__ = True
            limits = ledger.present.limits
            if limits.max is None and limits.timeout is None:
                return original(self)
            call = limited._asks(self) if counting.is_on else None
            proxy = None
            try:
                proxy = limited._connect(original, self, limits)
            finally:
                if call is not None:
                    watch.answers(call, ledger.held_by(proxy))
            return proxy

        return connect

    def _watches(self, pool: Any) -> bool:
        name = getattr(pool._dialect, "name", "")  # noqa: SLF001
        return name in self._watch.dialects if name else self._ledger.pool(pool) is not None

    def _connect(self, original: Callable[..., Any], pool: Any, limits: Limits) -> Any:
        __tracebackhide__ = True
        if not self._watches(pool) or _has_one_already(pool):
            return original(pool)
        gate = self._gates.setdefault(pool, _Gate(self._ledger))
        own = getattr(pool, "_timeout", None if limits.max is None else 0.0)
        known = [seconds for seconds in (own, limits.timeout) if seconds is not None]
        if own == 0.0 and limits.timeout is not None:
            known = [limits.timeout]  # one that does not wait by itself
        deadline = time.monotonic() + min(known, default=0.0)
        while not gate.enter(pool, limits.max):
            if time.monotonic() >= deadline:
                error = sys.modules["sqlalchemy.exc"].TimeoutError(
                    f"{type(pool).__name__} limit of size {limits.max} reached, connection timed out, "
                    f"timeout {min(known, default=0.0):.2f}",
                    code="3o7r",
                )
                self._watch.refused(pool, error)
                raise error
            _pause(pool)
        try:
            with gate.as_if(pool, limits.max, max(deadline - time.monotonic(), 0.0)):
                return original(pool)
        finally:
            gate.leave()


def _has_one_already(pool: Any) -> bool:
    """Whether this thread has the pool's connection: a ``SingletonThreadPool`` gives it the same one again."""
    current = getattr(getattr(pool, "_fairy", None), "current", None)
    return current is not None and current() is not None


def _pause(pool: Any) -> None:
    if pool._dialect.is_async:  # noqa: SLF001
        sys.modules["sqlalchemy.util"].await_only(sys.modules["asyncio"].sleep(PAUSE))
    else:
        time.sleep(PAUSE)


class _Gate:
    """The way into one pool, and its own size and time limit while others hold."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        self._entered = 0  # those who are not noted in the ledger yet
        self._changed = 0  # those for whom the pool's own attributes are changed
        self._own: dict[str, Any] = {}
        self._lock = threading.Lock()

    def enter(self, pool: Any, maximum: int | None) -> bool:
        """Whether one more may take a connection."""
        with self._lock:
            if maximum is not None:
                out = sum(checkout.pool.ref() is pool for checkout in self._ledger.outstanding())
                if out + self._entered >= maximum:
                    return False
            self._entered += 1
            return True

    def leave(self) -> None:
        """One who entered has gone through, or turned round."""
        with self._lock:
            self._entered -= 1

    @contextlib.contextmanager
    def as_if(self, pool: Any, maximum: int | None, seconds: float) -> Iterator[None]:
        """Let a pool that waits do so as if it had been made for these limits.

        What it has grown by it gives up by itself: it keeps no more than its own size.
        """
        if not hasattr(pool, "_max_overflow"):
            yield
            return
        with self._lock:
            if not self._changed:
                self._own = {name: getattr(pool, name) for name in ("_max_overflow", "_timeout")}
            self._changed += 1
            pool._timeout = seconds  # noqa: SLF001
            if maximum is not None and self._own["_max_overflow"] >= 0:
                own = self._own["_max_overflow"]
                pool._max_overflow = max(own, maximum - pool.size())  # noqa: SLF001
        try:
            yield
        finally:
            with self._lock:
                self._changed -= 1
                if not self._changed:
                    for name, value in self._own.items():
                        setattr(pool, name, value)
