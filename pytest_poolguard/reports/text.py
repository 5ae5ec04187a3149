"""Findings in words, for one screen of a terminal."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from types import MappingProxyType

from pytest_poolguard.findings import (
    CHECKED_OUT,
    DIRTY_RETURN,
    ERROR_PATH,
    HELD_TOO_LONG,
    NESTED,
    NOT_CLOSED,
    POOL_NOT_CLOSED,
    SERVER_BACKEND,
    WORDS,
    Finding,
    connections,
    counted,
)
from pytest_poolguard.reports import error_paths
from pytest_poolguard.reports.backends import age, backend, connection
from pytest_poolguard.reports.frames import frame, frames

__all__ = ["PHASES", "block", "blocks", "grouped"]

ENDS = {"test": "the test ended", "fixture": "the fixture ended", "session": "the run ended"}
PHASES = {"setup": "set-up", "body": "body", "teardown": "teardown"}
#: Groups of findings that one test's report shows as blocks without -v, and how many more as a line each.
BLOCKS, LINES = 2, 10
#: Threads or tasks that a group names without -v.
HOLDERS = 3
#: Backends left on the server that are shown without -v, where they were all opened in one place.
BACKENDS = 4
NONE_TOLD: Mapping[str, str] = MappingProxyType({})


def grouped(findings: Iterable[Finding]) -> list[list[Finding]]:
    """The findings that tell the same story, together, in the order in which they came."""
    groups: dict[tuple[object, ...], list[Finding]] = {}
    for finding in findings:
        story = (
            finding.kind,
            finding.returned_at,
            finding.first_at,
            finding.opened_by,
            finding.pool,
            finding.pool_made,
            tuple(finding.stack),
            finding.hint,
            finding.phase,
        )
        # What is left at the end of the run is one story, whichever tests it came from.
        owner = "" if finding.kind == SERVER_BACKEND else finding.owner_name
        groups.setdefault((*story, finding.owner_kind, owner), []).append(finding)
    return list(groups.values())


def blocks(findings: Iterable[Finding], verbosity: int = 0, told: Mapping[str, str] = NONE_TOLD) -> str:
    """The groups of findings: the first ones as blocks of text, the others, without -v, as a line each.

    ``told`` has what was told in full before, often enough: by its fingerprint, the test that told it. Of that no
    more than the site is told again.
    """
    groups = grouped(findings)
    if verbosity > 0:
        return "\n\n".join(block(group, verbosity) for group in groups)
    new = [group for group in groups if group[0].fingerprint not in told]
    parts = [block(group) for group in new[:BLOCKS]]
    parts += [_again(group, told[group[0].fingerprint]) for group in groups if group[0].fingerprint in told]
    rest = new[BLOCKS:]
    if rest:
        places = "1 more place" if len(rest) == 1 else f"{len(rest)} more places"
        lines = [f"{places} in the same test (-v tells all):", "", *map(_line, rest[:LINES])]
        if len(rest) > LINES:
            left = sum(len(group) for group in rest[LINES:])
            lines.append(f"    … {connections(left)} at {len(rest) - LINES} more places")
        parts.append("\n".join(lines))
    return "\n\n".join(parts)


def _again(group: list[Finding], test: str) -> str:
    """A group of a site that other tests have told in full."""
    place = group[0].called_from or group[0].acquired
    lines = [_title(group)]
    if place is not None:
        lines.append(frame(place, 0, 0, is_site=True, is_library=not place.own))
    return "\n".join([*lines, f"  as in {test}, which tells more (-v tells all)"])


def _line(group: list[Finding]) -> str:
    """A group that gets no block of its own: how many connections, where they were taken."""
    first = group[0]
    late = f", {WORDS[first.kind].remark}" if WORDS[first.kind].remark else ""
    place = first.called_from or first.acquired
    text = f"  {place.text}" if place is not None else ""
    return f"    {counted(len(group), WORDS[first.kind].of)}{late}  {first.site}{text}".rstrip()


def block(group: list[Finding], verbosity: int = 0) -> str:
    """One group: what happened, since when, where it was taken, and what to do."""
    first = group[0]
    lines = [_title(group), ""]
    lines += ["  " + line for line in _facts(group, verbosity)]
    lines += ["", *frames(first, verbosity), ""] if not first.opened_by else [""]
    lines += [f"  note: {note}" for note in dict.fromkeys(f.note for f in group) if note]
    if first.hint:
        lines.append(f"  hint: {first.hint}")
    if verbosity > 0 and len(group) > 1:
        lines += ["", *(f"  {_each(finding)}" for finding in group)]
    return "\n".join(lines)


def _title(group: list[Finding]) -> str:
    first, count = group[0], len(group)
    was = "was" if count == 1 else "were"
    if first.kind == HELD_TOO_LONG:
        longest = max(finding.held_seconds for finding in group)
        return (
            f"{connections(count)} of {_pool(first)} {was} out for {age(longest)}, "
            f"longer than hold={first.limit_seconds:g}"
        )
    if first.kind == SERVER_BACKEND:
        still = "is still open" if count == 1 else "are still open"
        return f"{connections(count)} that {first.opened_by or 'this run'} opened {still} on the server"
    if first.kind in (DIRTY_RETURN, NESTED):
        return f"{connections(count)} of {_pool(first)} {was} {_used_wrongly(group)}"
    if first.kind == ERROR_PATH:
        return error_paths.title(group)
    if first.kind == POOL_NOT_CLOSED:
        holds = "which holds" if count == 1 else "which hold"
        backends = connections(sum(finding.backends for finding in group))
        return f"{counted(count, 'pool')} {was} never closed, {holds} {backends}: {_pool(first)}"
    what = "closed" if first.kind == NOT_CLOSED else f"returned to {_pool(first)}"
    return f"{connections(count)} {was} never {what}"


def _used_wrongly(group: list[Finding]) -> str:
    """What was done with connections that are no leaks."""
    if group[0].kind == NESTED:
        starves = f"would starve at pool size ≤ {group[0].starves_at}"
        return f"taken by a {_kind(group[0])} that held one already: {starves}"
    they = "it" if len(group) == 1 else "they"
    return f"given back in the middle of a transaction that wrote: what {they} wrote was rolled back"


def _pool(finding: Finding) -> str:
    if finding.pool_made is None:
        return finding.pool
    verb = "first used" if finding.pool_first_used else "made"
    return f"{finding.pool} {verb} at {finding.pool_made}"


def _facts(group: list[Finding], verbosity: int) -> list[str]:
    first = group[0]
    if first.kind == SERVER_BACKEND:
        return _backends(group, verbosity)
    if first.kind == POOL_NOT_CLOSED:
        return [f"made in {_owner(first)}"]
    if first.kind == ERROR_PATH:
        owner = f"checked out in {_owner(first)}, from {_pool(first)}, by {_holders(group)}"
        return [owner, *error_paths.felt(group)]
    facts = [f"{'opened' if first.kind == NOT_CLOSED else 'checked out'} in {_owner(first)}"]
    ended = first.ended or ENDS[first.owner_kind]
    if first.kind == CHECKED_OUT:
        one = "the first " if len(group) > 1 else ""
        facts[0] += f", {one}{age(first.held_seconds)} before {ended}"
    facts[0] += f", by {_holders(group)}"
    if first.thread_place is not None:
        facts.append(f"that {_kind(first)} still runs, now at {first.thread_place.site}")
    told = connection(first)
    if told:
        more = f" (the first of {len(group)}; -v tells all)" if len(group) > 1 else ""
        facts.append(told + more)
    if first.first_at is not None:
        facts.append(f"that {_kind(first)} held the one that was taken at {first.first_at.site}")
    if first.returned_at is not None:
        facts.append(f"given back at {first.returned_at.site}")
    if first.closed_at is not None:
        facts.append(f"its pool was closed while it was out, at {first.closed_at.site}")
    return facts


def _holders(group: list[Finding]) -> str:
    kind = _kind(group[0])
    names = list(dict.fromkeys(finding.task or finding.thread for finding in group))
    if len(names) == 1:
        return f"{kind} {names[0]}"
    more = f" and {len(names) - HOLDERS} more" if len(names) > HOLDERS else ""
    return f"{kind}s {', '.join(names[:HOLDERS])}{more}"


def _backends(group: list[Finding], verbosity: int) -> list[str]:
    shown = group if verbosity > 0 else group[:BACKENDS]
    facts = [_opened(group[0]), *(backend(finding) for finding in shown)]
    if len(shown) < len(group):
        facts.append(f"… {len(group) - len(shown)} more backends (-v shows them)")
    return facts


def _opened(finding: Finding) -> str:
    """Where or when a backend's connection was opened."""
    if not finding.opened_by:
        return f"opened in {_owner(finding)}"
    when = f"{finding.nodeid} ran" if finding.nodeid else "no test ran"
    return f"it, or the process that opened it, came up while {when}"


def _kind(finding: Finding) -> str:
    return "task" if finding.task else "thread"


def _owner(finding: Finding) -> str:
    phase = PHASES.get(finding.phase, "")
    if finding.owner_kind == "fixture":
        details = ", ".join(part for part in (f"scope {finding.owner_scope}", finding.owner_place) if part)
        return f"the {phase} of fixture {finding.owner_name} ({details})"
    if finding.owner_kind == "session":
        return "code that ran outside any test (an import, or collection)"
    return f"the test {phase}" if phase == "body" else f"the test's {phase}"


def _each(finding: Finding) -> str:
    """One connection of a group, for -v."""
    told = connection(finding)
    held = f"out for {age(finding.held_seconds)}, by {_kind(finding)} {finding.task or finding.thread}"
    return f"{told}, {held}" if told else held
