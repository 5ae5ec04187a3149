"""How many connections of a pool a test's marker lets through, for pools that wait for a free one."""

from __future__ import annotations

import threading
from typing import Any

__all__ = ["PAUSE", "Gate"]

#: Seconds between two looks at a gate that is shut.
PAUSE = 0.005


class Gate:
    """The gate of one pool; ``size`` is the attribute in which the pool keeps its maximum.

    The pool's own maximum is raised while somebody is on the way through, where the marker allows more.
    """

    def __init__(self, size: str) -> None:
        self.was_raised = False  #: the pool may have grown beyond its own size
        self._size = size
        self._own = 0
        self._entered = 0
        self._lock = threading.Lock()

    def enter(self, pool: Any, maximum: int, out: int) -> bool:
        """Whether one more may take a connection while ``out`` are out; if so, :meth:`leave` has to follow."""
        with self._lock:
            if out + self._entered >= maximum:
                return False
            if not self._entered:
                self._own = getattr(pool, self._size)
            self._entered += 1
            if 0 < self._own < maximum:  # 0: as many as you like
                self.was_raised = True
                setattr(pool, self._size, maximum)
            return True

    def leave(self, pool: Any) -> None:
        """The connection is out, or will not be."""
        with self._lock:
            self._entered -= 1
            if not self._entered and self._own:
                setattr(pool, self._size, self._own)
