"""Who has the connections of a pool: a diagnosis in words, and a table."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import Any

from pytest_poolguard.exhausted.snapshots import ASKS, IN_USE, KEPT, LEAKED, LEFT, OVER, Held, Snapshot
from pytest_poolguard.findings import Finding, connections, counted
from pytest_poolguard.reports.backends import age

__all__ = ["NOTE_LINES", "ROWS", "diagnosis", "plain", "table", "told"]

#: Lines of the note on an exception, rows of the table in a report without -v, places that a diagnosis names.
NOTE_LINES, ROWS, PLACES = 12, 20, 3
#: What is said of each connection, by its state: {name} is the function that took it.
STATES = {
    LEAKED: "nobody has it any more",
    OVER: "its {holder} has ended",
    LEFT: "{name} has ended, something still has it",
    KEPT: "the fixture has it",
    ASKS: "asks for one more",
}


def diagnosis(snapshot: Snapshot, *, now: bool = False) -> list[str]:
    """What the holders say of a pool, a line each: a leak, a pool that is too small, or both.

    With ``now``, what has become of the connections since counts, too.
    """
    states = [(held.state_now() if now else held.state, held) for held in snapshot.held]
    total = max(len(states) + snapshot.more, snapshot.capacity or 0)
    lines = _by_place(states, LEAKED, total, "{are} held by {place}, never returned: a leak")
    lines += _by_place(
        states, OVER, total, "{were} taken by {place} in a {holder} that has ended, and {are} not given back"
    )
    lines += _by_place(states, LEFT, total, "{were} taken by {place}, which has ended without giving {it} back")
    fixtures = Counter(held.finding.owner_name for state, held in states if state == KEPT)
    lines += [f"{_share(count, total)} held by fixture {name}" for name, count in fixtures.items()]
    using = [held for state, held in states if state in (IN_USE, ASKS)]
    if using:
        asking = [held for state, held in states if state == ASKS]
        lines.append(_in_use(using, asking, total, is_all=len(using) == total))
    unknown = total - len(states) if snapshot.refuses else snapshot.more
    if unknown:
        why = "" if snapshot.more else ": nobody was seen to take them, or they could not be made"
        lines.append(f"{unknown} of {total} {_are(unknown)} not known{why}")
    return lines


def _in_use(using: list[Held], asking: list[Held], total: int, *, is_all: bool) -> str:
    holders = {held.finding.task or held.finding.thread for held in using}
    kind = _kind(using[0].finding)
    if len(asking) == len(using):
        return f"{_share(len(using), total)} held by the very {kind} that asks for one more"
    text = f"{_share(len(using), total)} in use by {counted(len(holders), f'live {kind}')}"
    if asking:
        text += f", {len(asking)} of them by the very {_kind(asking[0].finding)} that asks for one more"
    return text + (": the pool is too small for this test" if is_all else "")


def _by_place(states: list[tuple[str, Held]], sought: str, total: int, text: str) -> list[str]:
    found: dict[str, list[Finding]] = {}
    for state, held in states:
        if state == sought:
            found.setdefault(_taken_by(held.finding), []).append(held.finding)
    ranked = sorted(found.items(), key=lambda place: -len(place[1]))
    lines = []
    for place, findings in ranked[:PLACES]:
        count = len(findings)
        words = text.format(
            are=_are(count),
            were="was" if count == 1 else "were",
            it="it" if count == 1 else "them",
            place=place,
            holder=_kind(findings[0]),
        )
        lines.append(f"{count} of {total} {words}")
    if len(ranked) > PLACES:
        rest = sum(len(findings) for _, findings in ranked[PLACES:])
        lines.append(f"{rest} of {total} likewise, at {counted(len(ranked) - PLACES, 'more place')}")
    return lines


def _share(count: int, total: int) -> str:
    return f"{count} of {total} {_are(count)}"


def _are(count: int) -> str:
    return "is" if count == 1 else "are"


def _kind(finding: Finding) -> str:
    return "task" if finding.task else "thread"


def _taken_by(finding: Finding) -> str:
    place = finding.called_from or finding.acquired
    if place is None:
        return "code that is not known"
    return f"code ({place})" if place.function.startswith("<") else f"{place.function} ({place})"


def told(snapshot: Snapshot, title: str, lines: Iterable[str], rows: int | None = None) -> list[str]:
    """Title, diagnosis and table, in lines, with so many ``rows`` at most."""
    return [title, *(f"  {line}" for line in lines), *(f"  {line}" for line in table(snapshot, rows))]


def table(snapshot: Snapshot, rows: int | None = None) -> list[str]:
    """A line for each connection: since when, who, for whom, where, and what is known of it."""
    if not snapshot.held:
        return []
    shown = snapshot.held[:rows]
    cells = [("out for", "holder", "for", "taken at", "")] + [_row(held) for held in shown]
    widths = [max(len(row[column]) for row in cells) for column in range(4)]
    lines = [
        "  ".join((*(cell.ljust(width) for cell, width in zip(row, widths, strict=False)), row[-1])).rstrip()
        for row in cells
    ]
    left = len(snapshot.held) - len(shown) + snapshot.more
    return lines + [f"… and {connections(left)} more"] * bool(left)


def _row(held: Held) -> tuple[str, str, str, str, str]:
    finding = held.finding
    owner = finding.owner_name if finding.owner_kind == "test" else f"{finding.owner_kind} {finding.owner_name}"
    if finding.owner_kind == "session":
        owner = "no test"
    return (
        age(held.seconds),
        f"{_kind(finding)} {finding.task or finding.thread}",
        owner,
        finding.site,
        ", last statement: ".join(part for part in (_known(held), held.statement) if part),
    )


def _known(held: Held) -> str:
    finding, place = held.finding, held.finding.thread_place
    if held.state == IN_USE:
        return f"now at {place.site}" if place is not None else "in use"
    if held.state == LEAKED and held.checkout.told:
        return "reported as a leak"
    taker = finding.called_from or finding.acquired
    name = taker.function if taker is not None and not taker.function.startswith("<") else "what took it"
    return STATES[held.state].format(name=name, holder=_kind(finding))


def plain(snapshot: Snapshot) -> list[dict[str, Any]]:
    """The rows as plain data."""
    return [
        {
            "state": held.state_now(),
            "held_seconds": held.seconds,
            "statement": held.statement,
            **{
                name: value
                for name, value in held.finding.to_dict().items()
                if name in ("acquired", "called_from", "nodeid", "owner", "phase", "task", "thread")
            },
            "now": held.finding.to_dict()["thread_place"],
        }
        for held in snapshot.held
    ]
