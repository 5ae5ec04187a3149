"""Bring the findings of a test into its reports."""

from __future__ import annotations

from collections import defaultdict

import pytest

from pytest_poolguard.books.origin import printable
from pytest_poolguard.exhausted.refusals import Refusal
from pytest_poolguard.failure import fail
from pytest_poolguard.findings import FAILED, Finding
from pytest_poolguard.guard import Guard
from pytest_poolguard.judging.verdict import Verdict, decide
from pytest_poolguard.reports.text import blocks

__all__ = ["Settling"]

#: Where a report tells who had the connections of a pool that refused one.
REFUSED = "poolguard: a pool refused a connection"
#: A section whose name contains "teardown" is printed under the failure of a test that failed before it.
SECTION = "poolguard: found at teardown"
#: Tests that tell a site in full: the others name it.
IN_FULL = 3


class Settling:
    """Follows one test's reports: set-up, call, teardown."""

    def __init__(self, guard: Guard) -> None:
        self._guard = guard
        self._status = "passed"
        self._failed_in = ""
        self._told: defaultdict[str, list[str]] = defaultdict(list)  #: by fingerprint, the tests that tell all
        self._shown = ""  #: the text of the failure, where a pool's refusal may be told in it

    def made(self, item: pytest.Item, report: pytest.TestReport) -> pytest.TestReport:
        """A report was made: it, or what stands in for it."""
        deferral = self._guard.deferral
        if report.when != "teardown":
            self._guard.test_failed |= report.outcome != "passed"
        if report.when == "teardown":
            self._settle(item, report)
            return report
        self._failed_in = report.when or "" if report.failed else ""
        # An xpassed test is "passed", too, but keeps its status like an xfailed one.
        self._status = "xpassed" if report.passed and hasattr(report, "wasxfail") else report.outcome
        self._shown = report.longreprtext if report.failed and self._guard.refusals.any else ""
        if report.when == "call" and self._status == "passed" and self._guard.may_still_fail():
            return deferral.hold(report)
        if self._failed_in != "call":  # else more is known when it is settled
            self._tell_refusals(item, report)
        return report

    def finish(self, item: pytest.Item) -> None:
        """The test's protocol is over, perhaps without its teardown: ``pytest.exit()``, Ctrl-C."""
        if self._guard.deferral.report is not None:
            self._settle(item, None)
        self._guard.abandon_test()

    def _settle(self, item: pytest.Item, teardown: pytest.TestReport | None) -> None:
        guard = self._guard
        held = guard.deferral.report
        bearer = held or teardown
        try:
            findings, refusals = guard.take_findings(), self._refusals()
            if findings or refusals or guard.expected.leaks is not None:  # mostly there is nothing to decide
                self._bring(findings, refusals, item, bearer)
            guard.note_marker(item, passed=self._status == "passed" and teardown is not None)
        finally:
            guard.deferral.release(item)

    def _bring(
        self,
        findings: list[Finding],
        refusals: list[Refusal],
        item: pytest.Item,
        bearer: pytest.TestReport | None,
    ) -> None:
        guard = self._guard
        verdict = decide(
            findings,
            guard.expected,
            mode=guard.settings.mode,
            may_fail=self._status in ("passed", "failed"),
            tolerate=guard.outside.tolerate,
        )
        if bearer is not None and (verdict.findings or verdict.fails or refusals):
            told = self._tell(item, bearer, verdict, item.config.get_verbosity())
            self._add_refusals(bearer, refusals, item.config.get_verbosity())
            plain = [refusal.to_dict(item.nodeid) for refusal in refusals]
            guard.tally.carry(bearer, verdict.findings, told=told, refusals=plain)
        if verdict.unmet and not verdict.fails:  # no failure tells it
            guard.tally.notices.append(f"{printable(item.nodeid)}: {verdict.unmet}")

    def _tell_refusals(self, item: pytest.Item, report: pytest.TestReport) -> None:
        """Let a report that waits for no teardown say which pools refused a connection."""
        refusals = self._refusals()
        if refusals:
            self._add_refusals(report, refusals, item.config.get_verbosity())
            plain = [refusal.to_dict(item.nodeid) for refusal in refusals]
            self._guard.tally.carry(report, [], told=True, refusals=plain)

    def _refusals(self) -> list[Refusal]:
        """Those of the test; who has only stopped to wait is none unless something failed."""
        failed = bool(self._failed_in)
        return [refusal for refusal in self._guard.refusals.take() if failed or not refusal.is_cancelled]

    def _add_refusals(self, bearer: pytest.TestReport, refusals: list[Refusal], verbosity: int) -> None:
        """Tell them in a section, but for what the note on an exception, which the report shows, has told."""
        parts = [refusal.text(verbosity) for refusal in refusals if not refusal.is_shown_in(self._shown)]
        for refusal in refusals:
            news = refusal.news() if refusal.is_shown_in(self._shown) else []
            if news:
                parts.append("\n".join([f"{refusal.pool}, by the end of the test:", *(f"  {n}" for n in news)]))
        if parts:
            late = bearer.when == "teardown" and not bearer.failed
            name = f"{REFUSED}, as seen at teardown" if late else REFUSED
            bearer.sections.append((name, "\n\n".join(parts)))

    def _tell(self, item: pytest.Item, bearer: pytest.TestReport, verdict: Verdict, verbosity: int) -> bool:
        """Put a verdict into words where they belong; whether pytest will print them."""
        failing = [finding for finding in verdict.findings if finding.verdict == FAILED]
        text = blocks(failing, verbosity, self._told_enough(failing))
        if verdict.unmet:
            text = "\n\n".join(part for part in (verdict.unmet, blocks(verdict.findings, verbosity)) if part)
        if verdict.fails and self._status == "passed" and bearer.passed:
            fail(item, bearer, text, verdict.headline, _where(item, verdict))
            return True
        if text and (bearer.failed or self._failed_in == "call"):
            bearer.sections.append((SECTION, text))
            return True
        return False

    def _told_enough(self, findings: list[Finding]) -> dict[str, str]:
        """The sites among these that enough tests have told in full, with the first of those."""
        fingerprints = dict.fromkeys(finding.fingerprint for finding in findings)
        enough = {one: self._told[one][0] for one in fingerprints if len(self._told[one]) >= IN_FULL}
        for one in fingerprints:
            if one not in enough:
                self._told[one].append(findings[0].nodeid)
        return enough


def _where(item: pytest.Item, verdict: Verdict) -> tuple[str, int] | None:
    place = verdict.place
    return (str(item.config.rootpath / place.file), place.line) if place is not None else None
