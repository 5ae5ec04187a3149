"""Which pairs of a place and a fault there are, and which of them were struck."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from pytest_poolguard.books.origin import Place
from pytest_poolguard.faults.claims import Claims
from pytest_poolguard.faults.kinds import CANCEL, ERROR, KILL, REFUSE
from pytest_poolguard.faults.scout import Sight
from pytest_poolguard.faults.spots import Spot

__all__ = ["Pair", "Plan", "pairs_of"]


class Pair(NamedTuple):
    """What is struck, and how: once in a run."""

    spot: Spot
    kind: str
    statement: Place | None = None  #: the line of the statement that fails, for an "error"

    def __str__(self) -> str:
        at = (
            f" at {self.statement}" if self.statement is not None and self.statement != self.spot.acquired else ""
        )
        return f"{self.spot} ({self.kind}{at})"


def pairs_of(sights: Iterable[Sight]) -> list[Pair]:
    """The pairs that a test can show, in the order in which it comes to their places."""
    pairs: dict[Pair, None] = {}
    for sight in sights:
        pairs[Pair(sight.spot, KILL)] = None
        for statement in sight.statements:
            pairs[Pair(sight.spot, ERROR, statement)] = None
        if sight.in_task:
            pairs[Pair(sight.spot, CANCEL)] = None
        if sight.is_second:
            pairs[Pair(sight.spot, REFUSE)] = None
    return list(pairs)


class Plan:
    """What a run has done of it; ``only`` is the pattern of places that are meant, empty for all."""

    def __init__(self, only: str, claims: Claims) -> None:
        self._only = only
        self._claims = claims
        self._scouted: set[tuple[str, frozenset[Spot]]] = set()

    def means(self, spot: Spot) -> bool:
        """Whether a place is to be struck at all."""
        return not self._only or spot.matches(self._only)

    def is_new(self, function: str, spots: frozenset[Spot]) -> bool:
        """Whether a test may show something that no test of the same function has shown."""
        return bool(spots) and (function, spots) not in self._scouted

    def scouted(self, function: str, spots: frozenset[Spot]) -> None:
        """A test of a function was looked at."""
        self._scouted.add((function, spots))

    def claim(self, pair: Pair) -> bool:
        """Whether a pair is this process's to strike, and was not yet."""
        return self._claims.take(str(pair))
