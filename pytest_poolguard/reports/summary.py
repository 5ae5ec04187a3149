"""The section at the end of the run: one table of sites, and what no failure has told."""

from __future__ import annotations

from typing import Any

from pytest_poolguard.findings import CHECKED_OUT, EXPECTED, SERVER_BACKEND, WARNED, Finding, connections
from pytest_poolguard.origin import Place
from pytest_poolguard.reports.text import block, grouped
from pytest_poolguard.tally import Tally

__all__ = ["title", "write"]

#: Blocks, rows and places of open pools shown without -v.
BLOCKS, ROWS, PLACES = 3, 15, 3


def title(tally: Tally) -> str:
    """``poolguard: 3 leaks, 2 sites``."""
    counts = []
    leaks = [f for f in tally.findings if f.kind == CHECKED_OUT and f.verdict != EXPECTED]
    for word, found in (
        ("leak", leaks),
        ("expected leak", [f for f in tally.findings if f.verdict == EXPECTED]),
        ("connection left on the server", [f for f in tally.findings if f.kind == SERVER_BACKEND]),
        ("held too long", [f for f in tally.findings if f.kind == "held_too_long"]),
    ):
        if found:
            counts.append(_count(len(found), word))
    if tally.findings:
        counts.append(_count(len({(f.kind, f.site) for f in tally.findings}), "site"))
    return "poolguard" + (": " + ", ".join(counts) if counts else "")


def _count(number: int, word: str) -> str:
    if number == 1 or word == "held too long":
        return f"{number} {word}"
    return f"{number} connections left on the server" if word.startswith("connection") else f"{number} {word}s"


def write(terminal: Any, tally: Tally, verbosity: int) -> None:
    """Write the section, if there is anything to say."""
    lines = _notices(tally, verbosity)
    if not tally.findings and not lines:
        return
    fails = tally.fails_the_run or tally.faults
    terminal.write_sep(
        "=", title(tally), **({"red": True} if fails else {"yellow": True} if tally.findings else {})
    )
    groups = grouped(tally.untold)
    shown = groups if verbosity > 0 else groups[:BLOCKS]
    for group in shown:
        terminal.write_line(_heading(group[0]), bold=True)
        terminal.write_line(block(group, verbosity))
        terminal.write_line("")
    if len(shown) < len(groups):
        terminal.write_line(f"… {len(groups) - len(shown)} more like these (-v shows them)\n")
    for line in _table(tally.findings, verbosity) if tally.findings else ():
        terminal.write_line(line)
    for line in lines:
        terminal.write_line(line)


def _heading(finding: Finding) -> str:
    about = finding.nodeid or "outside any test"
    if finding.owner_kind == "fixture":
        about = f"fixture {finding.owner_name}"
    worker = f" [{finding.worker}]" if finding.worker else ""
    verdict = {WARNED: " (warning only)", EXPECTED: " (expected)"}.get(finding.verdict, "")
    return f"{about}{worker}{verdict}"


def _table(findings: list[Finding], verbosity: int) -> list[str]:
    rows: dict[tuple[str, str], list[Finding]] = {}
    for finding in findings:
        rows.setdefault((finding.kind, finding.site), []).append(finding)
    ranked = sorted(rows.items(), key=lambda row: -len(row[1]))
    shown = ranked if verbosity > 0 else ranked[:ROWS]
    lines = [" conns  tests  checked out at"]
    for (kind, site), found in shown:
        tests = len({finding.nodeid for finding in found if finding.nodeid})
        remark = _remark(kind, found)
        lines.append(f"{len(found):6}  {tests:5}  {site}{remark}")
    if len(shown) < len(ranked):
        rest = sum(len(found) for _, found in ranked[ROWS:])
        lines.append(f"{rest:6}         at {len(ranked) - ROWS} more sites (-v shows them)")
    return lines


def _remark(kind: str, found: list[Finding]) -> str:
    if kind == SERVER_BACKEND:
        return "  (opened there, still open)"
    if kind != CHECKED_OUT:
        return "  (held too long)"
    verdicts = {finding.verdict for finding in found}
    if verdicts == {EXPECTED}:
        return "  (expected)"
    return "  (warning only)" if verdicts == {WARNED} else ""


def _notices(tally: Tally, verbosity: int) -> list[str]:
    lines = []
    if not tally.patched:
        lines.append(f"poolguard: no connection pool was seen in this run: {_never_imported(tally.libraries)}")
    elif not tally.pools:
        were = "was" if len(tally.patched) == 1 else "were"
        lines.append(
            f"poolguard: no connection pool was seen in this run ({', '.join(tally.patched)} {were} imported)"
        )
    elif verbosity > 0:
        lines.append(
            f"poolguard: {connections(tally.taken)} taken from {tally.pools} pools of {', '.join(tally.patched)}"
        )
    if tally.open_pools:
        lines.append(f"poolguard: {_idle(tally.open_pools, verbosity)}")
    lines += [f"poolguard: {notice}" for notice in tally.notices]
    lines += [f"poolguard: internal error, the results are as without it: {fault}" for fault in tally.faults]
    return lines


def _never_imported(libraries: list[str]) -> str:
    if len(libraries) == 1:
        return f"{libraries[0]} was never imported"
    return f"none of {', '.join(libraries)} was imported"


def _idle(open_pools: list[tuple[Place | None, int]], verbosity: int) -> str:
    """What lies idle in pools that were still open at the end: no leak, but good to know."""
    idle = sum(count for _, count in open_pools)
    pools = "a pool" if len(open_pools) == 1 else f"{len(open_pools)} pools"
    places = list(dict.fromkeys(str(place) for place, _ in open_pools if place is not None))
    shown = places if verbosity > 0 else places[:PLACES]
    more = f" and {len(places) - len(shown)} more" if len(shown) < len(places) else ""
    return f"{connections(idle)} idle in {pools} still open at the end, made at {', '.join(shown)}{more}"
