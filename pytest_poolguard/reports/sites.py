"""Findings by their sites, the most damaging first."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from pytest_poolguard.findings import (
    EXPECTED,
    FAILED,
    HELD_TOO_LONG,
    IGNORED,
    KNOWN,
    WARNED,
    WORDS,
    Finding,
)

__all__ = ["Site", "by_damage", "by_site"]

#: What harms most comes first: what fails the run, then what may, then what somebody has said yes to.
VERDICTS = (FAILED, WARNED, EXPECTED, KNOWN, IGNORED)
KINDS = tuple(WORDS)


class Site(NamedTuple):
    """What one site has done in one way: a kind of finding is a cause of its own."""

    kind: str
    site: str
    findings: list[Finding]

    @property
    def tests(self) -> int:
        """In how many tests."""
        return len({finding.nodeid for finding in self.findings if finding.nodeid})

    @property
    def remark(self) -> str:
        """What a row says behind the site; empty for leaks that fail a test."""
        words = WORDS[self.kind].remark
        verdicts = {finding.verdict for finding in self.findings}
        if len(verdicts) > 1 or verdicts == {FAILED}:
            return words
        (verdict,) = verdicts
        if verdict != WARNED:
            return verdict
        if self.kind == HELD_TOO_LONG:
            return words
        return f"{words}, warning only" if words else "warning only"


def by_site(findings: Iterable[Finding]) -> list[Site]:
    """The sites: failures before warnings, what is lost before what was late, many connections before few."""
    sites: dict[tuple[str, str], list[Finding]] = {}
    for finding in findings:
        sites.setdefault((finding.kind, finding.site), []).append(finding)
    return sorted((Site(*key, found) for key, found in sites.items()), key=_rank)


def _rank(site: Site) -> tuple[int, int, int, str]:
    return (*_damage(site.findings), site.site)


def by_damage(groups: Iterable[list[Finding]]) -> list[list[Finding]]:
    """Groups of findings in the same order."""
    return sorted(groups, key=_damage)


def _damage(findings: list[Finding]) -> tuple[int, int, int]:
    worst = min(VERDICTS.index(finding.verdict) for finding in findings)
    return worst, KINDS.index(findings[0].kind), -len(findings)
