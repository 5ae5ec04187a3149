"""What is found outside of any test: let pass what is known, and tell the rest."""

from __future__ import annotations

from pytest_poolguard.baseline.tolerance import Tolerance
from pytest_poolguard.findings import FAILED, WARNED, Finding
from pytest_poolguard.tally import Tally

__all__ = ["Outside"]


class Outside:
    """The findings of one run that no test's report carries, on their way into its tally."""

    def __init__(self, tally: Tally, tolerance: Tolerance | None, *, mode: str) -> None:
        self._tally = tally
        self._tolerance = tolerance
        self._mode = mode

    def tolerate(self, finding: Finding) -> None:
        """Let a finding pass that is known or ignored."""
        if self._tolerance is not None:
            self._tolerance.judge(finding)

    def found(self, findings: list[Finding]) -> None:
        """Take what was found."""
        for finding in findings:
            self.tolerate(finding)
            if self._mode == "warn" and finding.verdict == FAILED:
                finding.verdict = WARNED
        self._tally.add_outside(findings)

    def conclude(self) -> None:
        """All findings of the run are known: compare them with those that are let pass."""
        if self._tolerance is not None:
            self._tolerance.conclude(self._tally)
