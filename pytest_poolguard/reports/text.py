"""Findings in words, for one screen of a terminal."""

from __future__ import annotations

from collections.abc import Iterable

from pytest_poolguard.findings import CHECKED_OUT, HELD_TOO_LONG, SERVER_BACKEND, Finding, connections
from pytest_poolguard.origin import Place

__all__ = ["age", "block", "blocks", "grouped"]

PHASES = {"setup": "set-up", "body": "body", "teardown": "teardown"}
MINUTE = 60
#: Frames shown without -v: so many outermost ones, so many innermost ones.
OUTER, INNER = 2, 6


def age(seconds: float) -> str:
    """A duration as a person says it."""
    if seconds < 1:
        return f"{seconds * 1000:.0f} ms"
    if seconds < MINUTE:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), MINUTE)
    return f"{minutes} min {rest} s"


def grouped(findings: Iterable[Finding]) -> list[list[Finding]]:
    """The findings that tell the same story, together, in the order in which they came."""
    groups: dict[tuple[object, ...], list[Finding]] = {}
    for finding in findings:
        story = (finding.kind, finding.pool, finding.pool_made, tuple(finding.stack), finding.hint, finding.phase)
        groups.setdefault((*story, finding.owner_kind, finding.owner_name), []).append(finding)
    return list(groups.values())


def blocks(findings: Iterable[Finding], verbosity: int = 0) -> str:
    """Every group of findings as a block of text."""
    return "\n\n".join(block(group, verbosity) for group in grouped(findings))


def block(group: list[Finding], verbosity: int = 0) -> str:
    """One group: what happened, since when, where it was taken, and what to do."""
    first = group[0]
    lines = [_title(group), ""]
    lines += ["  " + line for line in _facts(group)]
    lines += ["", *_frames(first, verbosity), ""]
    lines += [f"  note: {note}" for note in dict.fromkeys(f.note for f in group) if note]
    if first.closed_at is not None and "closed while" not in first.hint:
        lines.append(f"  note: its pool was closed while it was out, at {first.closed_at.site}")
    if first.hint:
        lines.append(f"  hint: {first.hint}")
    if verbosity > 0 and len(group) > 1:
        lines += ["", *(f"  {_connection(finding)}, held for {age(finding.held_seconds)}" for finding in group)]
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
        return f"{connections(count)} that this run opened {still} on the server"
    return f"{connections(count)} {was} never returned to {_pool(first)}"


def _pool(finding: Finding) -> str:
    if finding.pool_made is None:
        return finding.pool
    verb = "first used" if finding.pool_first_used else "made"
    return f"{finding.pool} {verb} at {finding.pool_made}"


def _facts(group: list[Finding]) -> list[str]:
    first = group[0]
    if first.kind == SERVER_BACKEND:
        return [f"opened in {_owner(first)}", *(_backend(finding) for finding in group)]
    ended = {"test": "the test ended", "fixture": "the fixture ended"}.get(first.owner_kind, "the run ended")
    when = f"{age(first.held_seconds)} before {ended}" if first.kind == CHECKED_OUT else "and returned since"
    if first.kind == HELD_TOO_LONG:
        facts = [f"checked out in {_owner(first)}, by {_holder(first)}"]
    else:
        facts = [f"checked out in {_owner(first)}, {when}, by {_holder(first)}"]
    if len(group) > 1:
        facts[0] += " (the first of them)"
    if first.thread_place is not None:
        facts.append(f"that thread still runs, now at {first.thread_place.site}")
    connection = _connection(first)
    return [*facts, connection] if connection else facts


def _owner(finding: Finding) -> str:
    phase = PHASES.get(finding.phase, "")
    if finding.owner_kind == "fixture":
        details = ", ".join(part for part in (f"scope {finding.owner_scope}", finding.owner_place) if part)
        return f"the {phase} of fixture {finding.owner_name} ({details})"
    if finding.owner_kind == "session":
        return "code that ran outside any test (an import, or collection)"
    return f"the test {phase}" if phase == "body" else f"the test's {phase}"


def _holder(finding: Finding) -> str:
    return f"task {finding.task}" if finding.task else f"thread {finding.thread}"


def _connection(finding: Finding) -> str:
    parts = []
    if finding.backend_pid is not None:
        parts.append(f"backend pid {finding.backend_pid}")
    if finding.transaction_status:
        parts.append(finding.transaction_status)
    if finding.server.get("statement"):
        parts.append(f"last statement: {finding.server['statement']}")
    return ", ".join(parts)


def _backend(finding: Finding) -> str:
    server = finding.server
    parts = [f"backend pid {finding.backend_pid}", server.get("state", "")]
    if parts[1]:
        parts[1] += f" for {age(float(server['state_seconds']))}"
    parts.append(f"connected for {age(float(server['age_seconds']))}")
    if server.get("application"):
        parts.append(f"application {server['application']}")
    if server.get("statement"):
        parts.append(f"last statement: {server['statement']}")
    return ", ".join(part for part in parts if part)


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
