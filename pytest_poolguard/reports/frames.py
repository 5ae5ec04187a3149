"""The stack at which something was taken or opened, in lines for a screen."""

from __future__ import annotations

from pytest_poolguard.books.origin import Place
from pytest_poolguard.findings import Finding

__all__ = ["frame", "frames"]

#: Frames shown without -v: so many outermost ones, so many innermost ones.
OUTER, INNER = 2, 6


def frames(finding: Finding, verbosity: int) -> list[str]:
    """The stack, the project's own lines without -v, the site marked."""
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
        lines.append(frame(place, where, function, is_site=place is site, is_library=not place.own))
    return lines


def frame(place: Place, where: int, function: int, *, is_site: bool, is_library: bool) -> str:
    """One line of it; ``where`` and ``function`` are the widths of its columns, in characters."""
    mark = ">" if is_site else "·" if is_library else " "
    return f"  {mark} {place!s:{where}}  {place.function:{function}}  {place.text}".rstrip()
