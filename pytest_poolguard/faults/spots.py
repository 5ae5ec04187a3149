"""Where a connection is taken, and where a statement is run, by the project's own code."""

from __future__ import annotations

import copy
import os
from fnmatch import fnmatchcase
from types import CodeType
from typing import NamedTuple

from pytest_poolguard.books.identity import file_of
from pytest_poolguard.books.origin import Origin, Place, SourceTree, capture
from pytest_poolguard.books.records import Checkout
from pytest_poolguard.describe import Describe
from pytest_poolguard.drivers.sqlalchemy.sight import beyond_greenlets
from pytest_poolguard.findings import Finding

__all__ = ["Spot", "Spots", "spot_of"]


class Spot(NamedTuple):
    """A place where connections are taken: the same for every test that passes through it."""

    library: str
    acquired: Place
    called_from: Place | None  #: who got it from there and should return it, if that is another

    def __str__(self) -> str:
        if self.called_from is not None:
            return f"{self.called_from.site}, through {self.acquired.function}"
        return self.acquired.site

    def matches(self, pattern: str) -> bool:
        """Whether a pattern means it: ``FILE:FUNCTION`` or ``FILE``."""
        file, _, function = pattern.partition(":")
        return any(
            fnmatchcase(name, file) and fnmatchcase(called, function or "*")
            for place in (self.acquired, self.called_from)
            if place is not None
            for name in (place.file, file_of(place.file))
            for called in (place.function, place.qualified or place.function)
        )


def spot_of(finding: Finding) -> Spot | None:
    """The place of a finding."""
    if finding.acquired is None:
        return None
    return Spot(finding.library, finding.acquired, finding.called_from)


class Spots:
    """Tells the spots of one project."""

    def __init__(self, tree: SourceTree, describe: Describe, stops: frozenset[str]) -> None:
        self._tree = tree
        self._describe = describe
        self._stops = stops

    def of(self, checkout: Checkout) -> Spot | None:
        """The spot of a checkout; None where no code of the project's took it."""
        seen = copy.copy(checkout)
        seen.stack = self._whole(checkout.stack)
        finding = self._describe.holding(seen)
        return spot_of(finding) if finding.acquired is not None and finding.acquired.own else None

    def here(self) -> Place | None:
        """The line of the project's code that runs now, seen from poolguard's own."""
        place = self._tree.site(Origin(self._whole(capture(self._stops, 1))))
        return place if place is not None and place.own else None

    def felt(self, error: BaseException | None) -> Place | None:
        """The innermost line of the project's code that an exception went through."""
        place = None
        trace = error.__traceback__ if error is not None else None
        while trace is not None:
            code = trace.tb_frame.f_code
            # A driver in C puts frames into a traceback whose files are named as where it was built.
            if os.path.isabs(code.co_filename) and self._tree.is_own(code.co_filename):
                place = self._tree.place(code, trace.tb_lasti)
            trace = trace.tb_next
        return place

    def _whole(self, stack: list[CodeType | int]) -> Origin:
        """A stack that goes on where a greenlet was started, where it has none of the project's code."""
        origin = Origin(stack)
        if not any(self._tree.is_own(code.co_filename) for code, _ in origin.frames()):
            origin += beyond_greenlets(self._stops)
        return origin
