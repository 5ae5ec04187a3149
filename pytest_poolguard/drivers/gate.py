"""A marker's limits, for pools that wait for a free connection and take a timeout."""

from __future__ import annotations

import threading
import time
import weakref
from collections.abc import Callable, Iterator
from typing import Any

from pytest_poolguard.books.ledger import Ledger
from pytest_poolguard.books.records import Limits, Pool

__all__ = ["PAUSE", "Gates", "Way"]

#: Seconds between two looks at a gate that is shut.
PAUSE = 0.005

#: Makes the exception that says so: a pool's own kind of error, mostly.
Failure = Callable[[str], Exception]


class Gates:
    """One gate a pool, from the first marker with a ``max`` on.

    ``size`` is the attribute in which a pool keeps its maximum: where the marker allows more, it is raised while
    somebody is on the way through. A pool of which no such attribute is known can't grow.
    """

    def __init__(self, ledger: Ledger, size: str = "") -> None:
        self.raised: weakref.WeakSet[Any] = weakref.WeakSet()  #: pools that may have grown for a marker's sake
        self.any_raised = False
        self._ledger = ledger
        self._size = size
        self._gates: weakref.WeakKeyDictionary[Pool, _Gate] = weakref.WeakKeyDictionary()

    def way(self, pool: Any, record: Pool | None, limits: Limits, timeout: float, error: Failure) -> Way:
        """The way to a connection of a pool, for one who would wait ``timeout`` seconds without a marker."""
        gate = None
        if limits.max is not None and record is not None:
            gate = self._gates.setdefault(record, _Gate(self, self._ledger, self._size))
        return Way(pool, gate, limits, timeout, error)

    def note_raised(self, pool: Any) -> None:
        """A pool may grow beyond its own size now."""
        self.raised.add(pool)
        self.any_raised = True


class Way:
    """The way to a connection: iterate until it is free, take it, then :meth:`leave`.

    Each step of the iteration is a pause to make; it raises the pool's own error when the time is up.
    """

    def __init__(self, pool: Any, gate: _Gate | None, limits: Limits, timeout: float, error: Failure) -> None:
        self._pool = pool
        self._gate = gate
        self._max = limits.max or 0
        self._error = error
        self._seconds = timeout if limits.timeout is None else min(timeout, limits.timeout)
        self._deadline = time.monotonic() + self._seconds
        self._has_entered = False

    def __iter__(self) -> Iterator[None]:
        while self._gate is not None and not self._gate.enter(self._pool, self._max):
            if time.monotonic() >= self._deadline:
                raise self._error(f"couldn't get a connection after {self._seconds:.2f} sec")
            yield
        self._has_entered = True

    @property
    def left(self) -> float:
        """Seconds that taking the connection may still block."""
        return max(self._deadline - time.monotonic(), 0.0)

    def leave(self) -> None:
        """The connection was taken, and noted, or will not be."""
        if self._gate is not None and self._has_entered:
            self._gate.leave(self._pool)


class _Gate:
    def __init__(self, gates: Gates, ledger: Ledger, size: str) -> None:
        self._gates = gates
        self._ledger = ledger
        self._size = size
        self._own = 0
        self._entered = 0  # those who are not noted in the ledger yet
        self._lock = threading.Lock()

    def enter(self, pool: Any, maximum: int) -> bool:
        """Whether one more may take a connection."""
        with self._lock:
            out = sum(checkout.pool.ref() is pool for checkout in self._ledger.outstanding())
            if out + self._entered >= maximum:
                return False
            if not self._entered and self._size:
                self._own = getattr(pool, self._size)
            self._entered += 1
            if 0 < self._own < maximum:  # 0: as many as you like
                self._gates.note_raised(pool)
                setattr(pool, self._size, maximum)
            return True

    def leave(self, pool: Any) -> None:
        """One who entered has gone through, or turned round."""
        with self._lock:
            self._entered -= 1
            if not self._entered and self._size:
                setattr(pool, self._size, self._own)
