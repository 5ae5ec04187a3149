"""Keep back the call report of a passed test until its teardown has been judged.

pytest logs a call report before the teardown. A leak that is found then would count as "passed" and, raised in
the teardown, as "error" too; an xfailed test would swallow it. So the runner gets an inert stand-in, and the
real report is logged when it is settled.
"""

from __future__ import annotations

import copy

import pytest

__all__ = ["Deferral"]


class Deferral:
    """The call report that is kept back, at most one at a time."""

    def __init__(self) -> None:
        self.report: pytest.TestReport | None = None
        self._stand_in: pytest.TestReport | None = None
        self._logged = False

    def hold(self, report: pytest.TestReport) -> pytest.TestReport:
        """Keep a report back; what the runner gets instead says nothing: a second set-up that passed."""
        self.report = report
        self._stand_in = _copy(report)
        self._stand_in.when = "setup"
        self._stand_in.sections = []
        self._stand_in.duration = 0.0
        self._logged = False
        return self._stand_in

    def saw(self, report: pytest.TestReport) -> None:
        """A report was logged."""
        if report is self._stand_in:
            self._logged = True

    def release(self, item: pytest.Item) -> None:
        """Let the report go, as it has become.

        Where the protocol logs its reports afterwards (pytest-rerunfailures), the stand-in becomes the report.
        """
        report, stand_in = self.report, self._stand_in
        self.report = self._stand_in = None
        if report is None or stand_in is None:
            return
        if self._logged:
            item.ihook.pytest_runtest_logreport(report=report)
        else:
            stand_in.__dict__.update(report.__dict__)


def _copy(report: pytest.TestReport) -> pytest.TestReport:
    if type(report) is not pytest.TestReport:
        return copy.copy(report)
    twin = pytest.TestReport.__new__(pytest.TestReport)  # what copy() comes to, many calls later
    twin.__dict__.update(report.__dict__)
    return twin
