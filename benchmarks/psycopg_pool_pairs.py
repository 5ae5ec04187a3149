"""What one ``getconn()`` and ``putconn()`` of psycopg_pool cost: bare, and watched by poolguard.

Only the connections are stand-ins: the pools' own ``getconn`` and ``putconn`` run, below 10 frames of user code.
"""

from __future__ import annotations

import asyncio
import logging
import sys
import time
from collections.abc import Callable
from types import ModuleType
from typing import Any

from rows import Row
from standin import boundary

from pytest_poolguard.books.clock import Clock
from pytest_poolguard.books.ledger import Ledger
from pytest_poolguard.books.records import Owner
from pytest_poolguard.drivers.interface import Watch
from pytest_poolguard.drivers.psycopg_pool.driver import PsycopgPool
from pytest_poolguard.sizing.counting import Counting

__all__ = ["rows"]

DEPTH = 10
#: Microseconds that poolguard may add to a pair.
MOST = 5.0
PAIRS = 200
NAMES = ("psycopg_pool.base", "psycopg_pool.pool", "psycopg_pool.pool_async")


class PGConn:
    """What a pool asks of ``connection.pgconn``."""

    transaction_status = 0  # idle


class Connection:
    """What a pool asks of a connection: always open, always idle, and never too old."""

    closed = False
    pgconn = PGConn()
    _pool: Any = None
    _expire_at = float("inf")
    _created_at = float("inf")


class Variant:
    """One way to run the pairs; ``patch`` changes a fresh copy of psycopg_pool."""

    def __init__(self, pool_class: str, patch: Callable[[dict[str, ModuleType]], Any]) -> None:
        modules = _copy()
        self.patched = patch(modules)
        self._loop = asyncio.new_event_loop()
        self._is_async = pool_class.startswith("Async")
        module = modules["psycopg_pool.pool_async" if self._is_async else "psycopg_pool.pool"]
        self._pool = getattr(module, pool_class)("", min_size=0, max_size=1, open=False, num_workers=1)
        if self._is_async:
            self._loop.run_until_complete(self._pool.open())
        else:
            self._pool.open()
        self._pool._nconns = 1
        self._pool._pool.append(Connection())

    def pair(self) -> float:
        """Microseconds of one pair in a loop."""
        if self._is_async:
            call = self._loop.run_until_complete
            return float(boundary(call, _await(self._pool, DEPTH))) / PAIRS * 1e6
        return float(boundary(_call, self._pool, DEPTH)) / PAIRS * 1e6

    def close(self) -> None:
        """End the pool, with its worker, and the loop."""
        self._pool._pool.clear()
        if self._is_async:
            self._loop.run_until_complete(self._pool.close())
        else:
            self._pool.close()
        self._loop.close()


def _call(pool: Any, depth: int) -> float:
    if depth > 1:
        return _call(pool, depth - 1)
    begin = time.perf_counter()
    for _ in range(PAIRS):
        pool.putconn(pool.getconn())
    return time.perf_counter() - begin


async def _await(pool: Any, depth: int) -> float:
    if depth > 1:
        return await _await(pool, depth - 1)
    begin = time.perf_counter()
    for _ in range(PAIRS):
        await pool.putconn(await pool.getconn())
    return time.perf_counter() - begin


def _copy() -> dict[str, ModuleType]:
    """A copy of the library, as if it was imported for the first time."""
    known = {name: module for name, module in sys.modules.items() if name.partition(".")[0] == "psycopg_pool"}
    for name in known:
        del sys.modules[name]
    try:
        __import__("psycopg_pool")
        return {name: sys.modules[name] for name in NAMES}
    finally:
        for name in [name for name in sys.modules if name.partition(".")[0] == "psycopg_pool"]:
            del sys.modules[name]
        sys.modules.update(known)


def _watch(modules: dict[str, ModuleType]) -> Ledger:
    return _watch_for(modules).ledger


def _count(modules: dict[str, ModuleType]) -> Counting:
    counting = _watch_for(modules).counting
    counting.begin("a test", is_on=True)
    return counting


def _watch_for(modules: dict[str, ModuleType]) -> Watch:
    def fault(doing: str, error: BaseException) -> None:
        raise RuntimeError(doing) from error

    ledger = Ledger(Clock(), Owner("session", "session", phase=""), frozenset({boundary.__code__.co_filename}))
    watch = Watch(ledger, fault, lambda _opening, _connect: None)
    for name, patch in PsycopgPool(watch).modules.items():
        patch(modules[name])
    return watch


def rows(rounds: int) -> list[Row]:
    """Measure the synchronous and the asynchronous pool."""
    logging.getLogger("psycopg.pool").setLevel(logging.WARNING)
    found = []
    for pool_class in ("ConnectionPool", "AsyncConnectionPool"):
        bare, watched = Variant(pool_class, lambda _: None), Variant(pool_class, _watch)
        counted = Variant(pool_class, _count)
        best = dict.fromkeys((bare, watched, counted), float("inf"))
        for _ in range(rounds):
            for variant, fastest in best.items():
                best[variant] = min(fastest, variant.pair())
        ledger: Any = watched.patched
        if ledger.taken < PAIRS * rounds or ledger.outstanding():
            raise RuntimeError("poolguard has not seen what was measured")
        (count,) = counted.patched.take()
        if not count.taken.value == len(count.holds) == PAIRS * rounds:
            raise RuntimeError("not all that was measured was counted")
        for variant in best:
            variant.close()
        ours = best[watched] - best[bare]
        more = best[counted] - best[watched]
        found += [
            Row(
                f"psycopg_pool's {pool_class}, a pair",
                f"{best[bare]:.2f} µs",
                f"{best[watched]:.2f} µs",
                f"{ours:+.2f} µs",
                f"{best[watched] / best[bare]:.2f}",
                f"+{MOST:.2f} µs",
                ours <= MOST,
            ),
            Row(
                "  what --poolguard-stats adds to it",
                f"{best[watched]:.2f} µs",
                f"{best[counted]:.2f} µs",
                f"{more:+.2f} µs",
                f"{best[counted] / best[watched]:.2f}",
            ),
        ]
    return found
