"""Findings as properties in pytest's JUnit file.

The schema of ``xunit1`` has properties of a test case. That of ``xunit2`` has them of the suite alone: there, the
value of each begins with its test. What no test's report carries is the suite's in both.
"""

from __future__ import annotations

import contextlib
from typing import Any

import pytest
from _pytest.junitxml import xml_key

from pytest_poolguard.books.redaction import redacted
from pytest_poolguard.findings import WORDS, Finding, counted
from pytest_poolguard.tally import Tally, carried_by

__all__ = ["note", "note_end"]

#: What the names of our properties begin with; the kind of finding follows.
PREFIX = "poolguard."


def note(config: pytest.Config, report: pytest.TestReport) -> None:
    """Note what a report carries, before pytest closes its test case: to be called first when one is logged."""
    findings = carried_by(report)
    xml: Any = config.stash.get(xml_key, None) if findings else None
    if xml is None:
        return
    for name, value in _properties(findings):
        if xml.family == "xunit1":
            xml.node_reporter(report).add_property(name, value)
        else:
            xml.add_global_property(name, f"{redacted(report.nodeid)}: {value}")


def note_end(config: pytest.Config, tally: Tally) -> None:
    """Note what no report of a test has carried, and what else fails the run.

    That is known when all has ended, and pytest has written its file by then: it does so once more.
    """
    xml: Any = config.stash.get(xml_key, None)
    by_test: dict[str, list[Finding]] = {}
    for finding in tally.outside:
        by_test.setdefault(finding.nodeid or "outside any test", []).append(finding)
    told = [
        (name, f"{redacted(test)}: {value}")
        for test, findings in by_test.items()
        for name, value in _properties(findings)
    ]
    told += [(f"{PREFIX}error", redacted(text)) for text in tally.errors]
    if xml is None or not told:
        return
    for name, value in told:
        xml.add_global_property(name, value)
    with contextlib.suppress(OSError):  # it could not be written before, which pytest has said
        xml.pytest_sessionfinish()


def _properties(findings: list[Finding]) -> list[tuple[str, str]]:
    """``("poolguard.checked_out", "2 connections never returned, failed: shop/users.py:8 in get_user")``."""
    groups: dict[tuple[str, str, str], int] = {}
    for finding in findings:
        key = (finding.kind, finding.verdict, finding.site)
        groups[key] = groups.get(key, 0) + 1
    return [
        (PREFIX + kind, f"{counted(count, WORDS[kind].of)} {WORDS[kind].happened}, {verdict}: {site}")
        for (kind, verdict, site), count in groups.items()
    ]
