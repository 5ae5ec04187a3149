"""Whether the pools of a run fit on its server, all workers together."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from typing import Any

from pytest_poolguard.books.records import Pool
from pytest_poolguard.server.watch import Server

__all__ = ["Demand", "demand_of", "warnings"]


@dataclass
class Demand:
    """The largest pool that a process of the run has on a server, and what was free there when it came."""

    server: str
    most: int  #: connections that the pool hands out at most
    made: str  #: where the pool was made
    free: int

    def to_dict(self) -> dict[str, Any]:
        """Plain data."""
        return asdict(self)


def demand_of(server: Server, made_at: Callable[[Pool], object]) -> Demand | None:
    """The demand on a server; None where there is no pool that has a maximum, or the server did not say.

    ``made_at`` tells where a pool was made.
    """
    pools = {opening.pool for opening in server.opened.values() if opening.pool is not None}
    largest = max(pools, key=lambda pool: pool.most, default=None)
    if largest is None or not largest.most or server.before is None or not server.before.limit:
        return None
    return Demand(server.name, largest.most, str(made_at(largest) or ""), server.before.free)


def warnings(demands: Iterable[Demand]) -> list[str]:
    """A line for each server that can't take the pools of all processes of the run at once: one demand each."""
    by_server: defaultdict[str, list[Demand]] = defaultdict(list)
    for demand in demands:
        by_server[demand.server].append(demand)
    found = []
    for those in by_server.values():
        largest = max(those, key=lambda demand: demand.most)
        free = max(demand.free for demand in those)  # who came later has met the others
        if largest.most * len(those) > free:
            found.append(_warning(largest, len(those), free))
    return found


def _warning(demand: Demand, workers: int, free: int) -> str:
    wanted, cure = f"pool max {demand.most}", "a smaller pool"
    if workers > 1:
        wanted = f"{workers} workers × {wanted} = {workers * demand.most}"  # noqa: RUF001 - it means "times"
        cure += ", or fewer workers,"
    where = f", made at {demand.made}" if demand.made else ""
    return f"{wanted} > {free} free slots of {demand.server} ({cure} would fit{where})"
