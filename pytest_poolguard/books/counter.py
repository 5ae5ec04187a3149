"""Numbers that several threads count at the same time: exact, and without a lock.

``n += 1`` reads, adds and writes: what another thread adds in between is lost. And a lock is out of the question
(see ``ledger``). What is used instead is atomic in C code: the next of an ``itertools.count``, an ``append``.
"""

from __future__ import annotations

from itertools import count

__all__ = ["Counter", "Highest"]


class Counter:
    """How often something has happened."""

    __slots__ = ("_count", "_reads", "up")

    def __init__(self) -> None:
        self._count = count()
        self._reads = 0  # each of them has to count, too
        #: Count one more; what it returns means nothing.
        self.up = self._count.__next__

    @property
    def value(self) -> int:
        """So often; to be read by one thread at a time, while others may count."""
        value = next(self._count) - self._reads
        self._reads += 1
        return value


class Highest:
    """The highest of the numbers that were seen. The caller compares with :attr:`known` first, to save a call."""

    __slots__ = ("_found", "known")

    def __init__(self) -> None:
        self.known = 0  #: no higher than the highest: two threads may write it in the wrong order
        self._found = [0]

    def seen(self, number: int) -> None:
        """Note one that is higher than what is known."""
        self._found.append(number)
        self.known = number

    @property
    def value(self) -> int:
        """The highest one; 0 where there was none."""
        return max(self._found)
