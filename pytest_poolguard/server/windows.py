"""Which test was running at a moment: for what the server dates, and no line of this process has done."""

from __future__ import annotations

from bisect import bisect_right
from collections import defaultdict
from typing import Any

__all__ = ["Windows"]


class Windows:
    """The time that each test took, on each worker, in seconds since the epoch."""

    def __init__(self) -> None:
        self._begins: defaultdict[str, list[float]] = defaultdict(list)
        self._tests: defaultdict[str, list[tuple[float, str]]] = defaultdict(list)

    def add(self, report: Any) -> None:
        """A phase of a test is over."""
        node = getattr(report, "node", None)  # xdist's
        worker = node.gateway.id if node is not None else ""
        begins, tests = self._begins[worker], self._tests[worker]
        if tests and tests[-1][1] == report.nodeid:
            tests[-1] = (report.stop, report.nodeid)
        elif not begins or report.start >= begins[-1]:
            begins.append(report.start)
            tests.append((report.stop, report.nodeid))

    def is_after(self, moment: float) -> bool:
        """Whether a moment is after all that has been seen."""
        return all(tests[-1][0] < moment for tests in self._tests.values() if tests)

    def tests_within(self, worker: str, first: float, last: float) -> set[str]:
        """The tests that ran on a worker at any moment between two."""
        begins, tests = self._begins[worker], self._tests[worker]
        number, found = bisect_right(begins, last) - 1, set()
        while number >= 0 and tests[number][0] >= first:
            found.add(tests[number][1])
            number -= 1
        return found

    def test_at(self, worker: str, moment: float) -> str:
        """The test that ran on a worker at a moment; empty where none did, or its end has not been seen."""
        number = bisect_right(self._begins[worker], moment) - 1
        if number < 0:
            return ""
        stop, nodeid = self._tests[worker][number]
        return nodeid if moment <= stop else ""
