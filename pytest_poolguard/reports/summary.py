"""The section at the end of the run: one table of sites, and what no failure has told."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import replace
from typing import Any

from pytest_poolguard.drivers.known import NEVER_IMPORTED, WITHOUT_POOLS
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
    connections,
    counted,
    headline,
)
from pytest_poolguard.origin import Place
from pytest_poolguard.redaction import redacted
from pytest_poolguard.reports.sites import by_damage, by_site
from pytest_poolguard.reports.text import block, grouped
from pytest_poolguard.tally import Tally

__all__ = ["count_errors", "fault", "title", "write"]

#: Lines of blocks, rows, and places of open pools shown without -v: together they are a screen or two.
LINES, ROWS, PLACES = 60, 15, 3
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
    lines = _notices(tally, verbosity)
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


def _notices(tally: Tally, verbosity: int) -> list[str]:
    lines = []
    if tally.unwatched:
        lines += [f"poolguard: {redacted(text)}" for text in tally.unwatched]
    elif not tally.patched:
        lines.append(NEVER_IMPORTED)
    elif not tally.pools:
        were = "was" if len(tally.patched) == 1 else "were"
        lines.append(
            f"poolguard: no connection pool was seen in this run ({', '.join(tally.patched)} {were} imported)"
        )
    elif tally.pool_rows and not tally.taken:
        lines.append(
            f"poolguard: no connection was taken from a pool in this run ({counted(tally.pools, 'pool')} of "
            f"{', '.join(tally.patched)} {'was' if tally.pools == 1 else 'were'} seen)"
        )
    elif verbosity > 0:
        lines.append(
            f"poolguard: {connections(tally.taken)} taken from {tally.pools} pools of {', '.join(tally.patched)}"
            + _unused_libraries(tally)
        )
    if tally.taken:
        lines += _unused_markers(tally.unused_markers, verbosity)
    if tally.open_pools:
        lines.append(f"poolguard: {_idle(tally.open_pools, verbosity)}")
    refusals = [refusal for refusal in tally.refusals if refusal["error"]]
    if refusals:
        lines.append(f"poolguard: {_refused(refusals, verbosity)}")
    if tally.account is not None:
        lines += [f"poolguard: {redacted(line)}" for line in tally.account.lines(verbosity)]
    lines += [f"poolguard: {redacted(str(visit))}" for visit in tally.visits if visit.is_news or verbosity > 0]
    lines += [f"poolguard: {redacted(notice)}" for notice in tally.notices + tally.errors]
    shown = tally.faults if verbosity > 0 else tally.faults[:1]
    more = f" (and {len(tally.faults) - 1} more, -v shows them)" if len(shown) < len(tally.faults) else ""
    return lines + [fault(text) + more for text in shown]


def _unused_libraries(tally: Tally) -> str:
    used = {row.library for row in tally.pool_rows if row.checkouts} | {*WITHOUT_POOLS}
    unused = [known for known in tally.patched if known.partition(" ")[0] not in used]
    return f" (none of {', '.join(unused)})" if tally.pool_rows and unused else ""


def _unused_markers(functions: list[str], verbosity: int) -> list[str]:
    """Tests whose limits have limited nothing: they may have been meant for others."""
    if not functions:
        return []
    have, took = ("has", "takes") if len(functions) == 1 else ("have", "take")
    shown = functions if verbosity > 0 else functions[:PLACES]
    more = f" and {len(functions) - len(shown)} more" if len(shown) < len(functions) else ""
    names = redacted(", ".join(shown)) + more
    tests = counted(len(functions), "test")
    return [f"poolguard: {tests} {have} a pool marker and {took} no connection: {names}"]


def fault(text: str) -> str:
    """The line for an exception of our own."""
    return f"poolguard: internal error, the results are as without it: {redacted(text)}"


def _refused(refusals: list[dict[str, Any]], verbosity: int) -> str:
    """Which tests a pool refused a connection: they may have passed for all that."""
    tests = list(dict.fromkeys(refusal["nodeid"] for refusal in refusals))
    shown = tests if verbosity > 0 else tests[:PLACES]
    more = f" and {len(tests) - len(shown)} more" if len(shown) < len(tests) else ""
    where = f"{', '.join(shown)}{more}"
    return f"a pool refused a connection in {counted(len(tests), 'test')}: {where} (-rA shows who had them)"


def _idle(open_pools: list[tuple[Place | None, int]], verbosity: int) -> str:
    """What lies idle in pools that were still open at the end: no leak, but good to know."""
    idle = sum(count for _, count in open_pools)
    pools = "a pool" if len(open_pools) == 1 else f"{len(open_pools)} pools"
    places = list(dict.fromkeys(str(place) for place, _ in open_pools if place is not None))
    shown = places if verbosity > 0 else places[:PLACES]
    more = f" and {len(places) - len(shown)} more" if len(shown) < len(places) else ""
    where = f", made at {', '.join(shown)}{more}" if shown else ""
    return f"{connections(idle)} idle in {pools} still open at the end{where}"
