"""What pools were used for, in rows: one for each pool and test."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, replace
from typing import Any

from pytest_poolguard.books.origin import Origin, Place, printable
from pytest_poolguard.books.records import Make
from pytest_poolguard.sizing.counting import Count

__all__ = ["PoolKey", "Use", "gathered_uses", "uses_of"]

#: Which pools these are: those of one class and size that one place has made.
PoolKey = tuple[str, str, "Place | None", bool]
#: Digits of a second that are told: more say nothing, and make files larger.
DIGITS = 6


@dataclass
class Use:
    """What the pools that were made alike were used for while one test ran, its fixtures included."""

    library: str
    name: str  #: class and size: ``ThreadedConnectionPool(1..10)``
    made_at: Place | None = None
    first_used: bool = False  #: ``made_at`` is the line of their first use, their making was not seen
    nodeid: str = ""  #: the test; empty for what was done between tests
    checkouts: int = 0
    peak: int = 0  #: most connections that were out of one pool at once
    size: int = 0  #: so many could have been, at that moment; 0 where that is not limited, or not known
    full: int = 0  #: calls while every connection was out: they have waited, or were refused
    waits: int = 0  #: those of them that have waited
    total_wait: float = 0.0  #: seconds, of all callers
    longest_wait: float = 0.0  #: seconds
    longest_hold: float = 0.0  #: seconds that one connection was out which came back
    held_at: Place | None = None  #: where that was taken

    @property
    def pool(self) -> PoolKey:
        """Which pools these are."""
        return self.library, self.name, self.made_at, self.first_used

    @property
    def fullness(self) -> float:
        """The part of a pool that was in use at its peak, from 0 to 1; 0 where its size is not known."""
        return self.peak / self.size if self.size else 0.0

    def to_dict(self) -> dict[str, Any]:
        """Plain data."""
        return asdict(self) | {"class": self.name.partition("(")[0]}

    @classmethod
    def from_dict(cls, plain: dict[str, Any]) -> Use:
        """The one of a :meth:`to_dict`."""
        given = {name: plain[name] for name in cls.__dataclass_fields__}
        for name in ("made_at", "held_at"):
            if given[name] is not None:
                given[name] = Place(**given[name])
        return cls(**given)

    def add(self, other: Use) -> None:
        """Count in what was done elsewhere, or in another pool of these."""
        for number in ("checkouts", "full", "waits"):
            setattr(self, number, getattr(self, number) + getattr(other, number))
        self.total_wait = round(self.total_wait + other.total_wait, DIGITS)
        self.longest_wait = max(self.longest_wait, other.longest_wait)
        self.peak, self.size = max((self.peak, self.size), (other.peak, other.size))
        if other.longest_hold > self.longest_hold:
            self.longest_hold, self.held_at = other.longest_hold, other.held_at


def uses_of(counts: Iterable[Count], place_of: Callable[[Origin], Place | None]) -> list[Use]:
    """What was counted, as rows."""
    return gathered_uses(_use(count, place_of) for count in counts)


def _use(count: Count, place_of: Callable[[Origin], Place | None]) -> Use:
    make: Make = count.pool.make
    waits = [seconds for seconds, _ in list(count.waits)]
    held = max((seconds for seconds, _ in list(count.holds)), default=0.0)
    longest = next((checkout for checkout in reversed(count.longest) if checkout.held == held), None)
    peak, size = max(count.peaks, default=(0, 0))
    return Use(
        make.library,
        make.label,
        place_of(make.made),
        not make.made_known,
        printable(count.nodeid),
        checkouts=count.taken.value,
        peak=peak,
        size=size,
        full=len(waits) + count.refused.value,
        waits=len(waits),
        total_wait=round(sum(waits, 0.0), DIGITS),
        longest_wait=round(max(waits, default=0.0), DIGITS),
        longest_hold=round(held, DIGITS),
        held_at=place_of(longest.origin) if longest is not None else None,
    )


def gathered_uses(uses: Iterable[Use]) -> list[Use]:
    """Rows of the same pools and test made one: those of several workers, or of a test that ran again."""
    found: dict[tuple[Any, ...], Use] = {}
    for use in uses:
        key = *use.pool, use.nodeid
        if key in found:
            found[key].add(use)
        else:
            found[key] = replace(use)  # what was given stays as it is
    return list(found.values())
