"""What the numbers of a run advise on the size of its pools: only where there is evidence for it."""

from __future__ import annotations

from collections.abc import Iterable

from pytest_poolguard.findings import counted
from pytest_poolguard.reports.backends import age
from pytest_poolguard.sizing.uses import PoolKey, Use

__all__ = ["advice", "by_pool", "by_weight"]

#: Tests that have to use a pool before its size is said to be more than they need.
ENOUGH = 10
#: A size that would do is told where it is no more than this part of the pool's.
PART = 0.5
#: Tests that are named for one pool.
NAMED = 3


def by_weight(uses: Iterable[Use]) -> list[Use]:
    """Those that matter most first: long waits, full pools, nearly full ones, long holds."""
    return sorted(uses, key=_weight, reverse=True)


def _weight(use: Use) -> tuple[float, int, float, float]:
    return use.total_wait, use.full, use.fullness, use.longest_hold


def by_pool(uses: Iterable[Use]) -> dict[PoolKey, list[Use]]:
    """The rows of each pool, in the order that they have."""
    pools: dict[PoolKey, list[Use]] = {}
    for use in uses:
        pools.setdefault(use.pool, []).append(use)
    return pools


def advice(uses: list[Use]) -> list[str]:
    """What to do about one pool, whose rows these are; mostly nothing."""
    full = [use for use in by_weight(uses) if use.full]
    if full:
        return [_too_small(full)]
    peak = max(uses, key=lambda use: use.peak)
    tests = len({use.nodeid for use in uses if use.nodeid})
    size, would_do = max(use.size for use in uses), enough_for(peak.peak)
    if tests >= ENOUGH and peak.peak and would_do <= PART * size:
        return [f"peak {peak.peak} of {size} in {tests} tests: max={would_do} would do"]
    return []


def enough_for(peak: int) -> int:
    """So many connections leave half as much again to spare."""
    return peak + (peak + 1) // 2


def _too_small(full: list[Use]) -> str:
    named = [_hits(use) for use in full[:NAMED]]
    if len(full) > NAMED:
        rest = sum(use.full for use in full[NAMED:])
        named.append(f"{counted(rest, 'time')} in {counted(len(full) - NAMED, 'other test')}")
    return f"hit its maximum {', '.join(named)}"


def _hits(use: Use) -> str:
    waited = f" ({age(use.total_wait)} waited)" if use.total_wait else ""
    return f"{counted(use.full, 'time')} in {use.nodeid or 'no test'}{waited}"
