"""What the findings of a test do to it."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from pytest_poolguard.books.origin import Place, printable
from pytest_poolguard.findings import (
    CHECKED_OUT,
    EXPECTED,
    FAILED,
    IGNORED,
    KNOWN,
    WARNED,
    Finding,
    connections,
    headline,
)
from pytest_poolguard.marker import Expectations

__all__ = ["Verdict", "decide"]


@dataclass
class Verdict:
    """The findings of one test, each with its verdict, and whether they fail the test."""

    findings: list[Finding] = field(default_factory=list)
    fails: bool = False
    unmet: str = ""  #: how a strict expectation was missed

    @property
    def place(self) -> Place | None:
        """The line to look at first: that of the first finding which fails the test."""
        return next((f.called_from or f.acquired for f in self.findings if f.verdict == FAILED), None)

    @property
    def headline(self) -> str:
        """The line for pytest's short summary."""
        counted = [finding for finding in self.findings if finding.verdict == FAILED]
        if self.unmet:
            return f"poolguard: {self.unmet}"
        return headline(counted)


def decide(
    findings: Iterable[Finding],
    expected: Expectations,
    *,
    mode: str,
    may_fail: bool,
    tolerate: Callable[[Finding], None] = lambda _: None,
) -> Verdict:
    """Give each finding of a test its verdict: the one that it was made with, or a milder one.

    ``may_fail`` is False for a test whose status stays as it is: skipped, xfailed, xpassed. ``tolerate`` lets
    pass what is known or ignored.
    """
    verdict = Verdict(list(findings))
    own = [f for f in verdict.findings if f.kind == CHECKED_OUT and f.owner_scope in ("", "function")]
    for finding in verdict.findings:
        tolerate(finding)
        if finding.verdict == FAILED and (mode != "fail" or not may_fail):
            finding.verdict = WARNED
    others = [finding for finding in own if finding.verdict not in (KNOWN, IGNORED)]
    if expected.leaks == "any" or expected.leaks in (len(own), len(others)):
        for finding in own if expected.leaks in ("any", len(own)) else others:
            finding.verdict = EXPECTED
    elif expected.leaks is not None:
        verdict.unmet = (
            f"{connections(expected.leaks)} expected to leak ({printable(expected.reason)}), but "
            f"{'none' if not own else len(own)} did"
        )
    failed = any(finding.verdict == FAILED for finding in verdict.findings)
    verdict.fails = failed or (bool(verdict.unmet) and mode == "fail" and may_fail)
    return verdict
