"""What is counted of pools, from one test to the next: when, and how it comes into the tally of the run.

The report of a test's teardown carries it, so that it is known what a worker has counted that crashes later.
What no logged report has carried goes with the next one, or at the end.
"""

from __future__ import annotations

from typing import Any

import pytest

from pytest_poolguard.books.origin import SourceTree
from pytest_poolguard.sizing.counting import Counting
from pytest_poolguard.sizing.uses import Use, uses_of
from pytest_poolguard.tally import CARRIED_USES

__all__ = ["Measuring", "asks_for_it"]

#: The fixture that tells the same numbers.
FIXTURE = "poolguard"


class Measuring:
    """Follows the run; ``always`` counts in every test, else only in those that use the fixture."""

    def __init__(self, counting: Counting, tree: SourceTree, *, always: bool) -> None:
        self._counting = counting
        self._tree = tree
        self._always = always
        self._waiting: list[Use] = []  #: that no logged report has carried

    def begin(self) -> None:
        """The run begins."""
        self._counting.begin("", is_on=self._always)

    def begin_test(self, item: pytest.Item) -> None:
        """A test begins."""
        self._collect()
        self._counting.begin(item.nodeid, is_on=self._always or asks_for_it(item))

    def end_test(self) -> None:
        """It is over, with its teardown or without."""
        self._collect()
        self._counting.begin("", is_on=self._always)

    def _collect(self) -> None:
        counts = self._counting.take()
        if self._always and counts:
            self._waiting += uses_of(counts, self._tree.site)

    def attach(self, report: pytest.TestReport) -> None:
        """Let a report carry what none has carried."""
        if self._waiting:
            setattr(report, CARRIED_USES, [use.to_dict() for use in self._waiting])

    def heard(self, report: Any) -> None:
        """A report was logged, with what it carries."""
        del self._waiting[: len(getattr(report, CARRIED_USES, ()))]

    def rest(self) -> list[Use]:
        """What no report will carry."""
        self._collect()
        rest, self._waiting = self._waiting, []
        return rest


def asks_for_it(item: pytest.Item) -> bool:
    """Whether a test, or one of its fixtures, uses the fixture that tells what is counted."""
    return FIXTURE in getattr(item, "fixturenames", ())
