"""The section of ``--poolguard-stats``: how much pools were used in which tests, and what that advises."""

from __future__ import annotations

from typing import Any

from pytest_poolguard.books.redaction import redacted
from pytest_poolguard.findings import connections, counted
from pytest_poolguard.reports.backends import age
from pytest_poolguard.sizing.advice import advice, by_pool, by_weight
from pytest_poolguard.sizing.uses import Use, gathered_uses

__all__ = ["write"]

#: Lines of advice without -v.
ADVICE = 5
#: Seconds below which nobody cares how many.
MOMENT = 0.001
HEADER = f"{'conns':>6}  {'peak':>9}  {'full':>5}  {'waited':>7}  {'longest':>7}  {'held':>7}  in"


def write(terminal: Any, uses: list[Use], rows: int, verbosity: int) -> None:
    """Write the section, with so many ``rows`` at most: all for 0, or with a ``verbosity`` above 0."""
    ranked = by_weight(gathered_uses(uses))
    shown = ranked if not rows or verbosity > 0 else ranked[:rows]
    few = f", {len(shown)} of {counted(len(ranked), 'row')}" if len(shown) < len(ranked) else ""
    terminal.write_sep("=", f"poolguard: use of pools{few}")
    if not ranked:
        terminal.write_line("poolguard: no connection was taken from a pool")
        return
    pools = by_pool(ranked)
    terminal.write_line(HEADER)
    for pool, those in by_pool(shown).items():
        terminal.write_line(redacted(_heading(pools[pool])), bold=True)
        for use in those:
            terminal.write_line(redacted(_row(use)))
    told = [f"{_name(those[0])}: {text}" for those in pools.values() for text in advice(those)]
    for text in told if verbosity > 0 else told[:ADVICE]:
        terminal.write_line(redacted(f"poolguard: {text}"))
    if verbosity <= 0 and len(told) > ADVICE:
        terminal.write_line(f"poolguard: … and {len(told) - ADVICE} more (-v shows all)")


def _heading(uses: list[Use]) -> str:
    """A pool, and all that it was used for."""
    tests = len({use.nodeid for use in uses if use.nodeid})
    taken = sum(use.checkouts for use in uses)
    return f"{_name(uses[0])}: {connections(taken)} in {counted(tests, 'test')}"


def _name(use: Use) -> str:
    verb = "first used" if use.first_used else "made"
    return f"{use.name} {verb} at {use.made_at}" if use.made_at is not None else use.name


def _row(use: Use) -> str:
    held = f" (held at {use.held_at.site})" if use.held_at is not None else ""
    return (
        f"{use.checkouts:6}  {_peak(use):>9}  {use.full or '-':>5}  {_time(use.total_wait):>7}  "
        f"{_time(use.longest_wait):>7}  {_time(use.longest_hold):>7}  {use.nodeid or 'no test'}{held}"
    )


def _peak(use: Use) -> str:
    return f"{use.peak} of {use.size}" if use.size else str(use.peak)


def _time(seconds: float) -> str:
    if not seconds:
        return "-"
    return age(seconds) if seconds >= MOMENT else "<1 ms"
