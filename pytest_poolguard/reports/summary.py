"""The section at the end of the run: one table of sites, and what no failure has told."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import replace
from typing import Any

from pytest_poolguard.failure import error
from pytest_poolguard.findings import (
    CHECKED_OUT,
    DIRTY_RETURN,
    ERROR_PATH,
    EXPECTED,
    FAILED,
    HELD_TOO_LONG,
    IGNORED,
    KNOWN,
    NESTED,
    NOT_CLOSED,
    POOL_NOT_CLOSED,
    SERVER_BACKEND,
    WARNED,
    WORDS,
    Finding,
    counted,
    headline,
)
from pytest_poolguard.reports.notices import notices
from pytest_poolguard.reports.sites import by_damage, by_site
from pytest_poolguard.reports.text import block, grouped
from pytest_poolguard.tally import Tally

__all__ = ["count_errors", "title", "write"]

#: Lines of blocks, and rows, shown without -v: together with the notices they are a screen or two.
LINES, ROWS = 60, 15
#: Verdicts of what passes: it is counted, and told in full only with -v.
PASSES = (KNOWN, IGNORED)


def title(tally: Tally) -> str:
    """``poolguard: 3 leaks, 2 sites, 3 tests``."""
    counts = []
    verdicts = Counter(finding.verdict for finding in tally.findings)
    told = Counter(f.kind for f in tally.findings if f.verdict not in (EXPECTED, *PASSES))
    expected = verdicts[EXPECTED]
    for kind, words in WORDS.items():
        count = told[kind]
        if count:
            counts.append(f"{count} {words.one if count == 1 else words.many}")
        if kind == CHECKED_OUT and expected:
            counts.append(counted(expected, "expected leak"))
    counts += [f"{verdicts[verdict]} {verdict}" for verdict in PASSES if verdicts[verdict]]
    if tally.findings:
        counts.append(counted(len({(f.kind, f.site) for f in tally.findings}), "site"))
    tests = len({finding.nodeid for finding in tally.findings if finding.nodeid})
    if tests:
        counts.append(counted(tests, "test"))
    return "poolguard" + (": " + ", ".join(counts) if counts else "")


def write(terminal: Any, tally: Tally, verbosity: int) -> None:
    """Write the section, if there is anything to say; what is left on the server has one of its own."""
    lines = notices(tally, verbosity)
    left = _part(tally, on_server=True)
    rest = _part(tally, on_server=False)
    if rest.findings or (lines and not left.findings):
        _section(terminal, rest, verbosity, () if left.findings else lines)
    if left.findings:
        _section(terminal, left, verbosity, lines)


def _part(tally: Tally, *, on_server: bool) -> Tally:
    def those(findings: list[Finding]) -> list[Finding]:
        return [finding for finding in findings if (finding.kind == SERVER_BACKEND) is on_server]

    return replace(
        tally, findings=those(tally.findings), untold=those(tally.untold), outside=those(tally.outside)
    )


def _section(terminal: Any, tally: Tally, verbosity: int, lines: Iterable[str]) -> None:
    fails = tally.fails_the_run or tally.faults
    warns = any(finding.verdict not in PASSES for finding in tally.findings)
    terminal.write_sep("=", title(tally), **({"red": True} if fails else {"yellow": True} if warns else {}))
    untold = [f for f in tally.untold if verbosity > 0 or f.verdict not in PASSES]
    groups = by_damage(grouped(untold))
    shown = lines_shown = 0
    for group in groups if verbosity > 0 else _one_of_each_site(groups):
        text = block(group, verbosity)
        lines_shown += text.count("\n") + 3
        if shown and verbosity <= 0 and lines_shown > LINES:
            break
        shown += 1
        terminal.write_line(_heading(group), bold=True)
        terminal.write_line(text)
        terminal.write_line("")
    if shown < len(groups):
        terminal.write_line(f"… {len(groups) - shown} more like these (-v shows them)\n")
    for line in _table(tally.findings, verbosity) if tally.findings else ():
        terminal.write_line(line)
    for line in lines:
        terminal.write_line(line)


def count_errors(terminal: Any, tally: Tally) -> None:
    """Let pytest count as errors what fails the run and no failed test stands for.

    Else its last line would be green. Only its short summary and its totals are still to come: there is no other
    record of these errors, as pytest can't select or run again what is no test.
    """
    failing = by_site(finding for finding in tally.outside if finding.verdict == FAILED)
    for text in tally.errors:
        terminal.stats.setdefault("error", []).append(error("poolguard", f"poolguard: {text}"))
    for _, _, findings in failing:
        site = findings[0].acquired
        about = findings[0].nodeid or (site.file if site is not None else "") or "poolguard"
        terminal.stats.setdefault("error", []).append(error(about, headline(findings)))


def _one_of_each_site(groups: list[list[Finding]]) -> list[list[Finding]]:
    """The first group of each site: the same leak in thirty tests is told once, the table counts the others."""
    firsts: dict[tuple[str, str], list[Finding]] = {}
    for group in groups:
        firsts.setdefault((group[0].kind, group[0].site), group)
    return list(firsts.values())


def _heading(group: list[Finding]) -> str:
    finding = group[0]
    about = finding.nodeid or "outside any test"
    if finding.owner_kind == "fixture":
        about = f"fixture {finding.owner_name}"
    worker = f" [{finding.worker}]" if finding.worker else ""
    others = len({(other.nodeid, other.owner_name, other.worker) for other in group}) - 1
    more = f" and {others} more" if others else ""
    verdict = finding.verdict if finding.verdict != WARNED else "warning only"
    verdict = f" ({verdict})" if verdict != FAILED else ""
    return f"{about}{worker}{more}{verdict}"


def _table(findings: list[Finding], verbosity: int) -> list[str]:
    ranked = by_site(findings)
    shown = ranked if verbosity > 0 else ranked[:ROWS]
    kinds = {finding.kind for finding in findings}
    if kinds <= {CHECKED_OUT, DIRTY_RETURN, ERROR_PATH, HELD_TOO_LONG, NESTED}:
        took = "checked out at"
    else:
        took = "opened at" if kinds <= {SERVER_BACKEND, NOT_CLOSED} else "made or taken at"
    lines = [f" {'count' if POOL_NOT_CLOSED in kinds else 'conns'}  tests  {took}"]
    for row in shown:
        remark = f"  ({row.remark})" if row.remark else ""
        lines.append(f"{len(row.findings):6}  {row.tests:5}  {row.site}{remark}")
    if len(shown) < len(ranked):
        rest = sum(len(row.findings) for row in ranked[ROWS:])
        lines.append(f"{rest:6}         at {len(ranked) - ROWS} more sites (-v shows them)")
    return lines
