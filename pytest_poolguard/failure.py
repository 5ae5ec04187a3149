"""Make a test's report fail with a text of ours, as pytest itself would have made it."""

from __future__ import annotations

from typing import Any

import pytest

__all__ = ["error", "fail"]


def fail(
    item: pytest.Item, report: pytest.TestReport, text: str, headline: str, place: tuple[str, int] | None
) -> None:
    """Turn a report into a failure: ``text`` is printed, ``headline`` stands in the short summary.

    ``place`` is the file and line that the failure is said to be at (``--tb=line``, annotations).

    The representation comes from a real ``pytest.fail``: JUnit files, xdist and the short summary need all the
    parts that one has.
    """
    call = pytest.CallInfo.from_call(lambda: pytest.fail(text, pytrace=False), when="call")
    longrepr: Any = pytest.TestReport.from_item_and_call(item, call).longrepr
    crash = getattr(longrepr, "reprcrash", None)
    if crash is not None:
        crash.message = headline
        if place is not None:
            crash.path, crash.lineno = place
    report.outcome = "failed"
    report.longrepr = longrepr


def error(nodeid: str, headline: str) -> pytest.TestReport:
    """The report of an error outside of any test's run, for the short summary and the totals."""
    call = pytest.CallInfo.from_call(lambda: pytest.fail(headline, pytrace=False), when="teardown")
    longrepr: Any = call.excinfo.getrepr(style="native") if call.excinfo is not None else None
    longrepr.reprcrash.message = headline
    return pytest.TestReport(nodeid, (nodeid, None, nodeid), {}, "failed", longrepr, "teardown")
