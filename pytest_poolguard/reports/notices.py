"""The lines at the end of the run that begin with ``poolguard:``. None of them is about a leak."""

from __future__ import annotations

from collections import Counter
from typing import Any

from pytest_poolguard.books.origin import Place
from pytest_poolguard.books.redaction import redacted
from pytest_poolguard.drivers.known import NEVER_IMPORTED, WITHOUT_POOLS
from pytest_poolguard.findings import connections, counted
from pytest_poolguard.tally import Tally

__all__ = ["fault", "notices"]

#: Places of open pools, tests and functions that one line names without -v.
PLACES = 3


def notices(tally: Tally, verbosity: int) -> list[str]:
    """The lines: what was seen, on which servers, and what went wrong."""
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
    elif tally.taken:
        lines += _unused_pools(tally)
    if tally.taken:
        lines += _unused_markers(tally.unused_markers, verbosity)
    if tally.open_pools:
        lines.append(f"poolguard: {_idle(tally.open_pools, verbosity)}")
    refusals = [refusal for refusal in tally.refusals if refusal["error"]]
    if refusals:
        lines.append(f"poolguard: {_refused(refusals, verbosity)}")
    struck = tally.account.lines(verbosity) if tally.account is not None else ()
    lines += [f"poolguard: {redacted(line)}" for line in struck]
    lines += [f"poolguard: {redacted(str(visit))}" for visit in tally.visits if visit.is_news or verbosity > 0]
    lines += [f"poolguard: {redacted(notice)}" for notice in tally.notices + tally.errors]
    shown = tally.faults if verbosity > 0 else tally.faults[:1]
    more = f" (and {len(tally.faults) - 1} more, -v shows them)" if len(shown) < len(tally.faults) else ""
    return lines + [fault(text) + more for text in shown]


def _unused_pools(tally: Tally) -> list[str]:
    """The libraries whose pools were of no use, though others' were: they may not be seen as they should."""
    made, used = Counter[str](), {row.library for row in tally.pool_rows if row.checkouts}
    for row in tally.pool_rows:
        made[row.library] += row.count
    known = {name.partition(" ")[0]: name for name in tally.patched}
    unused = [
        f"{counted(count, 'pool')} of {known.get(library, library)}"
        for library, count in made.items()
        if library not in used
    ]
    return [f"poolguard: no connection was taken from {', '.join(unused)}"] if unused else []


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
