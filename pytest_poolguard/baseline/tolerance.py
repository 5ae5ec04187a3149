"""What passes though it leaks: sites that the baseline records, and what is ignored with a reason."""

from __future__ import annotations

import os
from dataclasses import replace

import pytest

from pytest_poolguard.baseline import file as baseline
from pytest_poolguard.baseline.file import Baseline, Entry
from pytest_poolguard.baseline.ignoring import Ignored
from pytest_poolguard.baseline.selection import Selection
from pytest_poolguard.books.identity import file_of, test_of
from pytest_poolguard.books.origin import Place, printable
from pytest_poolguard.findings import (
    DIRTY_RETURN,
    ERROR_PATH,
    FAILED,
    IGNORED,
    KNOWN,
    NESTED,
    NOT_CLOSED,
    POOL_NOT_CLOSED,
    SERVER_BACKEND,
    WARNED,
    Finding,
    counted,
)
from pytest_poolguard.settings import Settings
from pytest_poolguard.tally import Tally

__all__ = ["Tolerance"]

#: What is said of a site that is not recorded yet.
AFTER_A_TEST = Entry("", SERVER_BACKEND, "", "", after_test=True)
#: Sites that one line names.
SITES = 3


class Tolerance:
    """Gives findings the verdicts *known* and *ignored*, and says at the end what is no longer needed."""

    def __init__(self, settings: Settings, config: pytest.Config) -> None:
        """Raises :class:`pytest.UsageError` where the baseline can't be read, or is none."""
        self.selection = Selection(config)
        self._settings = settings
        self._path = settings.baseline
        self._name = _short(self._path)
        self._updates = settings.update_baseline
        self._is_strict = settings.strict_baseline and settings.mode == "fail"
        self._ignored = settings.ignore
        self._recorded: Baseline = {}
        if self._path and not (self._updates and not os.path.exists(self._path)):
            try:
                self._recorded = baseline.read(self._path)
            except ValueError as error:
                hint = "" if os.path.exists(self._path) else "; --poolguard-update-baseline writes it"
                raise pytest.UsageError(f"poolguard: --poolguard-baseline: {error}{hint}") from None

    def judge(self, finding: Finding) -> None:
        """Let a finding pass that is ignored or known. In a run that writes the baseline, all are known."""
        if finding.verdict not in (FAILED, WARNED):
            return
        entry = self._entry_for(finding)
        if entry is not None:
            finding.verdict = IGNORED
            reason = f"ignored: {printable(entry.reason)}"
            finding.note = f"{finding.note}; {reason}" if finding.note else reason
        elif finding.fingerprint in self._recorded or (self._updates and finding.verdict == FAILED):
            finding.verdict = KNOWN

    def _entry_for(self, finding: Finding) -> Ignored | None:
        if not self._ignored:
            return None
        sites = _names(finding.acquired, finding.called_from)
        if finding.opened_by:  # by no code that was seen: its test is all that tells it from others
            sites.append(test_of(finding.nodeid))
        made = _names(finding.pool_made)
        pool = finding.pool.partition("(")[0]
        return next((entry for entry in self._ignored if entry.matches(pool, sites, made)), None)

    # the end of the run

    def conclude(self, tally: Tally) -> None:
        """Say what leaks no more, and what matches nothing, and write the baseline where that is asked for."""
        if self._path and self._updates:
            self._write(tally)
        elif self._path:
            self._tell_stale(tally)
        if self._ignored and self.selection.is_whole:
            needed = {self._entry_for(finding) for finding in tally.findings}
            tally.notices += [
                f"poolguard_ignore: nothing in this run matched {printable(entry.entry)!r}"
                for entry in self._ignored
                if entry not in needed
            ]

    def _tell_stale(self, tally: Tally) -> None:
        found = {finding.fingerprint for finding in tally.findings}
        gone = [entry for entry in self._recorded.values() if entry.fingerprint not in found]
        stale = [entry for entry in gone if not self._unseen(entry, tally)]
        if not stale:
            return
        sites = sorted({printable(entry.site) for entry in stale})
        more = f" and {len(sites) - SITES} more" if len(sites) > SITES else ""
        leaks, it = ("leaks", "it") if len(stale) == 1 else ("leak", "them")
        where = f"{', '.join(sites[:SITES])}{more} {leaks} no more"
        text = (
            f"{counted(len(stale), 'stale site')} in {self._name}: {where}; "
            f"--poolguard-update-baseline takes {it} out"
        )
        (tally.errors if self._is_strict else tally.notices).append(text)

    def _unseen(self, entry: Entry, tally: Tally) -> set[str]:
        """Those of a site's tests in which it may still leak, as far as this run can tell."""
        settings = self._settings
        is_looked_for = {
            NOT_CLOSED: settings.connections != "off",
            POOL_NOT_CLOSED: settings.open_pools != "off",
            DIRTY_RETURN: settings.dirty_returns != "off",
            ERROR_PATH: tally.account is not None and tally.account.is_whole and not settings.faults_only,
            NESTED: settings.nested != "off",  # a marker may look for them, too: which ones do is not known
            SERVER_BACKEND: bool(tally.visits) and (settings.server == "test" or not entry.after_test),
        }.get(entry.kind, True)
        if not is_looked_for or tally.faults or tally.unwatched or self.selection.is_lost:
            return entry.tests
        return {test for test in entry.tests if not self.selection.have_run(test)}

    def _write(self, tally: Tally) -> None:
        new = self._renewed(tally)
        added, gone = len(new.keys() - self._recorded.keys()), len(self._recorded.keys() - new.keys())
        try:
            baseline.write(self._path, new.values())
        except OSError as error:
            tally.errors.append(f"the baseline could not be written to {self._name}: {error.strerror}")
        else:
            changes = ", ".join(f"{n} {what}" for n, what in ((added, "added"), (gone, "taken out")) if n)
            tally.notices.append(
                f"{counted(len(new), 'site')} recorded in {self._name} ({changes or 'nothing has changed'})"
            )

    def _renewed(self, tally: Tally) -> Baseline:
        """What was found, and what was recorded before and could not be found: its tests did not run."""
        known: dict[str, list[Finding]] = {}
        ignored = set()
        for finding in tally.findings:
            if finding.verdict == KNOWN:
                known.setdefault(finding.fingerprint, []).append(finding)
            elif finding.verdict == IGNORED:
                ignored.add(finding.fingerprint)
        at_end = tally.lasted.union(finding.fingerprint for finding in tally.outside)
        new: Baseline = {}
        for fingerprint, entry in self._recorded.items():
            unseen = self._unseen(entry, tally)
            if unseen and fingerprint not in ignored:
                new[fingerprint] = replace(entry, tests=unseen)
        for fingerprint, findings in known.items():
            entry = baseline.entry_of(findings[0])
            before = new[fingerprint].tests if fingerprint in new else set()
            entry.tests = baseline.joined(before | baseline.tests_of(findings))
            seen = fingerprint in at_end or not self._recorded.get(fingerprint, AFTER_A_TEST).after_test
            entry.after_test = entry.kind == SERVER_BACKEND and not seen
            new[fingerprint] = entry
        return new


def _short(path: str) -> str:
    """A file as somebody calls it who is in pytest's directory."""
    here = os.getcwd() + os.sep
    return printable(path.removeprefix(here))


def _names(*places: Place | None) -> list[tuple[str, str]]:
    """File and function of places, by every name that a pattern may use for them."""
    return [
        (file, function)
        for place in places
        if place is not None
        for file in dict.fromkeys((place.file, file_of(place.file)))
        for function in dict.fromkeys((place.function, place.qualified or place.function))
    ]
