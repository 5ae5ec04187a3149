"""The pools of a run in rows: one for each class and size, and place that made it."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from typing import Any

from pytest_poolguard.books.origin import Origin, Place
from pytest_poolguard.books.records import Make

__all__ = ["PoolRow", "gathered", "rows_of"]


@dataclass
class PoolRow:
    """Pools that were made alike."""

    library: str
    name: str  #: class and size: ``ThreadedConnectionPool(1..10)``
    made_at: Place | None = None
    first_used: bool = False  #: ``made_at`` is the line of their first use, their making was not seen
    count: int = 0
    checkouts: int = 0
    open: int = 0  #: pools that were still open at the end of the run, with idle connections
    idle: int = 0  #: connections that lay idle in those

    def to_dict(self) -> dict[str, Any]:
        """Plain data."""
        return asdict(self) | {"class": self.name.partition("(")[0]}

    @classmethod
    def from_dict(cls, plain: dict[str, Any]) -> PoolRow:
        """The one of a :meth:`to_dict`."""
        given = {name: plain[name] for name in cls.__dataclass_fields__}
        if given["made_at"] is not None:
            given["made_at"] = Place(**given["made_at"])
        return cls(**given)


def rows_of(
    makes: Iterable[Make], place_of: Callable[[Origin], Place | None], idle: Iterable[tuple[Make, int]] = ()
) -> list[PoolRow]:
    """What was noted of pools, as rows; those that different calls have made in the same line are one.

    ``idle`` has how many connections lie idle, for each pool that is still open and has some.
    """
    rows = {}
    for make in makes:
        rows[make] = PoolRow(
            make.library, make.label, place_of(make.made), not make.made_known, make.pools, make.taken
        )
    for make, connections in idle:
        rows[make].open += 1
        rows[make].idle += connections
    return gathered(rows.values())


def gathered(rows: Iterable[PoolRow]) -> list[PoolRow]:
    """Rows of the same pools made one, as those of several workers are."""
    found: dict[tuple[Any, ...], PoolRow] = {}
    for row in rows:
        known = found.setdefault((row.library, row.name, row.made_at, row.first_used), row)
        if known is not row:
            for number in ("count", "checkouts", "open", "idle"):
                setattr(known, number, getattr(known, number) + getattr(row, number))
    return list(found.values())
