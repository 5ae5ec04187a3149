"""The findings of a test as properties in pytest's JUnit file.

The schema of ``xunit1`` has properties of a test case. That of ``xunit2`` has them of the suite alone: there, the
value of each begins with its test.
"""

from __future__ import annotations

from typing import Any

import pytest
from _pytest.junitxml import xml_key

from pytest_poolguard.findings import ERROR_PATH, WORDS, Finding, counted
from pytest_poolguard.redaction import redacted
from pytest_poolguard.tally import carried_by

__all__ = ["note", "note_error_paths"]

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


def note_error_paths(config: pytest.Config, findings: list[Finding]) -> None:
    """Note what no test's report carries: as properties of the suite, each with the test that shows it."""
    xml: Any = config.stash.get(xml_key, None)
    shown: dict[str, list[Finding]] = {}
    for finding in findings if xml is not None else ():
        if finding.kind == ERROR_PATH:
            shown.setdefault(finding.nodeid, []).append(finding)
    for nodeid, those in shown.items():
        for name, value in _properties(those):
            xml.add_global_property(name, f"{redacted(nodeid)}: {value}")


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
