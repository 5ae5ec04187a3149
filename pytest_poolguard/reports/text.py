"""Findings in words, for one screen of a terminal."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from types import MappingProxyType

from pytest_poolguard.findings import (
    CHECKED_OUT,
    DIRTY_RETURN,
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
from pytest_poolguard.origin import Place
from pytest_poolguard.server.run_name import PREFIX

__all__ = ["age", "block", "blocks", "grouped"]

ENDS = {"test": "the test ended", "fixture": "the fixture ended", "session": "the run ended"}
PHASES = {"setup": "set-up", "body": "body", "teardown": "teardown"}
MINUTE = 60
#: Seconds by which two durations have to differ for both to be told.
NOTEWORTHY = 0.1
#: Frames shown without -v: so many outermost ones, so many innermost ones.
OUTER, INNER = 2, 6
#: Groups of findings that one test's report shows as blocks without -v, and how many more as a line each.
BLOCKS, LINES = 2, 10
#: Threads or tasks that a group names without -v.
HOLDERS = 3
#: Backends left on the server that are shown without -v, where they were all opened in one place.
BACKENDS = 4
NONE_TOLD: Mapping[str, str] = MappingProxyType({})


def age(seconds: float) -> str:
    """A duration as a person says it."""
    if round(seconds * 1000) < 1000:  # noqa: PLR2004 - so many make a second
        return f"{seconds * 1000:.0f} ms"
    if round(seconds, 1) < MINUTE:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), MINUTE)
    return f"{minutes} min {rest} s"


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
        lines.append(_frame(place, 0, 0, is_site=True, is_library=not place.own))
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
    lines += ["", *_frames(first, verbosity), ""] if not first.opened_by else [""]
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
    if first.kind == NOT_CLOSED:
        return f"{connections(count)} {was} never closed"
    if first.kind == POOL_NOT_CLOSED:
        holds = "which holds" if count == 1 else "which hold"
        backends = connections(sum(finding.backends for finding in group))
        return f"{counted(count, 'pool')} {was} never closed, {holds} {backends}: {_pool(first)}"
    return f"{connections(count)} {was} never returned to {_pool(first)}"


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
    facts = [f"{'opened' if first.kind == NOT_CLOSED else 'checked out'} in {_owner(first)}"]
    ended = first.ended or ENDS[first.owner_kind]
    if first.kind == CHECKED_OUT:
        one = "the first " if len(group) > 1 else ""
        facts[0] += f", {one}{age(first.held_seconds)} before {ended}"
    facts[0] += f", by {_holders(group)}"
    if first.thread_place is not None:
        facts.append(f"that {_kind(first)} still runs, now at {first.thread_place.site}")
    connection = _connection(first)
    if connection:
        more = f" (the first of {len(group)}; -v tells all)" if len(group) > 1 else ""
        facts.append(connection + more)
    if first.first_at is not None:
        facts.append(f"that {_kind(first)} held the one that was taken at {first.first_at.site}")
    if first.returned_at is not None:
        facts.append(f"given back at {first.returned_at.site}")
    if first.closed_at is not None:
        facts.append(f"its pool was closed while it was out, at {first.closed_at.site}")
    return facts


def _backends(group: list[Finding], verbosity: int) -> list[str]:
    shown = group if verbosity > 0 else group[:BACKENDS]
    facts = [_opened(group[0]), *(_backend(finding) for finding in shown)]
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


def _holders(group: list[Finding]) -> str:
    kind = _kind(group[0])
    names = list(dict.fromkeys(finding.task or finding.thread for finding in group))
    if len(names) == 1:
        return f"{kind} {names[0]}"
    more = f" and {len(names) - HOLDERS} more" if len(names) > HOLDERS else ""
    return f"{kind}s {', '.join(names[:HOLDERS])}{more}"


def _owner(finding: Finding) -> str:
    phase = PHASES.get(finding.phase, "")
    if finding.owner_kind == "fixture":
        details = ", ".join(part for part in (f"scope {finding.owner_scope}", finding.owner_place) if part)
        return f"the {phase} of fixture {finding.owner_name} ({details})"
    if finding.owner_kind == "session":
        return "code that ran outside any test (an import, or collection)"
    return f"the test {phase}" if phase == "body" else f"the test's {phase}"


def _connection(finding: Finding) -> str:
    parts = []
    if finding.backend_pid is not None:
        parts.append(f"backend pid {finding.backend_pid}")
    if finding.transaction_status:
        parts.append(finding.transaction_status)
    return ", ".join([*parts, *_held(finding)])


def _each(finding: Finding) -> str:
    """One connection of a group, for -v."""
    connection = _connection(finding)
    held = f"out for {age(finding.held_seconds)}, by {_kind(finding)} {finding.task or finding.thread}"
    return f"{connection}, {held}" if connection else held


def _backend(finding: Finding) -> str:
    server = finding.server
    parts = [f"backend pid {finding.backend_pid}", server.get("state", "")]
    if parts[1]:
        parts[1] += f" for {age(float(server['state_seconds']))}"
    # A statement, or none, after others: the transaction is older than its present state.
    open_for, state_for = float(server["transaction_seconds"]), float(server["state_seconds"])
    if open_for > state_for + NOTEWORTHY:
        parts.append(f"its transaction open for {age(open_for)}")
    if server["waits_for"]:
        parts.append(f"waiting for {server['waits_for']}")
    parts.append(f"connected for {age(float(server['age_seconds']))}")
    if server.get("application") and not server["application"].startswith(PREFIX):
        parts.append(f"application {server['application']}")
    return ", ".join(part for part in (*parts, *_held(finding)) if part)


def _held(finding: Finding) -> list[str]:
    """The advisory locks of a backend, which wait for its end, and its last statement."""
    words = {"holds": "holds ", "statement": "last statement: "}
    return [f"{words[name]}{finding.server[name]}" for name in words if finding.server.get(name)]


def _frames(finding: Finding, verbosity: int) -> list[str]:
    places = [place for place in finding.stack if place.own or verbosity > 0] or finding.stack[-1:]
    if not places:
        return ["    (no Python frame is known)"]
    left_out = 0
    if verbosity <= 0 and len(places) > OUTER + INNER + 1:
        left_out = len(places) - OUTER - INNER
        shown = [*places[:OUTER], *places[-INNER:]]
    else:
        shown = places
    site = next((place for place in reversed(shown) if place == finding.acquired), None)
    where = min(max(len(str(place)) for place in shown), 48)
    function = min(max(len(place.function) for place in shown), 28)
    lines = []
    for number, place in enumerate(shown):
        if left_out and number == OUTER:
            lines.append(f"    … {left_out} more frames (-v shows them)")
        lines.append(_frame(place, where, function, is_site=place is site, is_library=not place.own))
    return lines


def _frame(place: Place, where: int, function: int, *, is_site: bool, is_library: bool) -> str:
    mark = ">" if is_site else "·" if is_library else " "
    return f"  {mark} {place!s:{where}}  {place.function:{function}}  {place.text}".rstrip()
