"""What one ``acquire()`` and ``release()`` of asyncpg cost: bare, and watched by poolguard.

As in ``pairs``, each of the two has its own copy of the pool's module and of the calling functions. asyncpg's own
``acquire`` and ``release`` run, in an event loop; the connections need no server, or have a real one.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from types import ModuleType
from typing import Any

import asyncpg.connection
from pairs import DEPTH, copy_of
from rows import Row
from standin import boundary

from pytest_poolguard.books.clock import Clock
from pytest_poolguard.books.ledger import Ledger
from pytest_poolguard.books.records import Owner
from pytest_poolguard.drivers.asyncpg.driver import Asyncpg
from pytest_poolguard.drivers.interface import Watch

__all__ = ["real_rows", "rows"]

#: Microseconds that poolguard may add to a pair; the other libraries' pairs wait for no event loop.
MOST = 15.0
#: Pairs in one round.
PAIRS = 200

#: See ``pairs.CALLERS``.
CALLERS = """
async def in_one_call(pool, pairs, depth):
    if depth > 1:
        return await in_one_call(pool, pairs, depth - 1)
    begin = now()
    for _ in range(pairs):
        await pool.release(await pool.acquire())
    return now() - begin

async def one_pair(pool, depth):
    if depth > 1:
        await one_pair(pool, depth - 1)
    else:
        await pool.release(await pool.acquire())

async def in_many_calls(pool, pairs, depth):
    begin = now()
    for _ in range(pairs):
        await one_pair(pool, depth - 1)
    return now() - begin
"""


class Protocol:
    """What a pool asks of a connection's protocol."""

    queries_count = 0

    def is_connected(self) -> bool:
        """Tell that it is."""
        return True

    def _is_cancelling(self) -> bool:
        return False


class Connection(asyncpg.connection.Connection):
    """What a pool asks of a connection: always open, always idle."""

    def __init__(self) -> None:
        self._protocol = Protocol()
        self._loop = asyncio.get_running_loop()
        self._proxy = self._pool_holder = self._source_traceback = None
        self._pool_release_ctr = 0
        self._aborted = False
        self._listeners: dict[str, Any] = {}
        self._log_listeners: set[Any] = set()

    def __del__(self) -> None:
        """Warn of nothing."""

    async def reset(self, *, timeout: float | None = None) -> None:
        """Reset nothing."""


class Variant:
    """One way to run the pairs; ``patch`` changes a fresh copy of ``asyncpg.pool``."""

    def __init__(self, patch: Callable[[ModuleType], object], connections: dict[str, Any]) -> None:
        self._connections = connections
        self._callers: dict[str, Any] = {"now": time.perf_counter}
        exec(compile(CALLERS, __file__, "exec"), self._callers)
        self._library = copy_of("asyncpg.pool")
        self.patched = patch(self._library)
        self._pool: Any = None

    async def run(self, way: str) -> float:
        """Microseconds of one pair."""
        if self._pool is None:
            self._pool = await self._library.create_pool(min_size=1, max_size=1, **self._connections)
        return float(await self._callers[way](self._pool, PAIRS, DEPTH)) / PAIRS * 1e6

    async def depth_seen(self, ledger: Ledger) -> int:
        """Frames of the callers that the ledger has of a checkout."""
        seen: list[int] = []
        here = ledger.give_back

        def give_back(pool: object, connection: object) -> Any:
            (checkout,) = ledger.outstanding()
            seen.append(sum(code.co_filename == __file__ for code, _ in checkout.origin.frames()))
            return here(pool, connection)

        ledger.give_back = give_back  # type: ignore[method-assign]
        await self._callers["one_pair"](self._pool, DEPTH)
        ledger.give_back = here  # type: ignore[method-assign]
        return seen[0]


async def _connect(*_args: Any, **_kwargs: Any) -> Connection:
    return Connection()


def _leave(_library: ModuleType) -> None:
    pass


def _watch(library: ModuleType) -> Ledger:
    def fault(doing: str, error: BaseException) -> None:
        raise RuntimeError(doing) from error

    ledger = Ledger(Clock(), Owner("session", "session", phase=""), frozenset({boundary.__code__.co_filename}))
    driver = Asyncpg(Watch(ledger, fault, lambda _opening, _connect: None))
    driver.modules["asyncpg.pool"](library)
    return ledger


async def _best(way: str, rounds: int, connections: dict[str, Any]) -> dict[str, float]:
    variants = {"bare": Variant(_leave, connections), "watched": Variant(_watch, connections)}
    best = dict.fromkeys(variants, float("inf"))
    for _ in range(rounds):
        for name, variant in variants.items():
            best[name] = min(best[name], await variant.run(way))
    watched = variants["watched"]
    ledger: Any = watched.patched
    seen = await watched.depth_seen(ledger)
    if ledger.taken < PAIRS * rounds or ledger.outstanding() or not DEPTH <= seen <= DEPTH + len("_best, rows"):
        raise RuntimeError("poolguard has not seen what was measured")
    return best


def rows(rounds: int) -> list[Row]:
    """Measure asyncpg's pool, called in both ways."""
    without = {"connect": _connect, "connection_class": Connection}
    return [
        _row(
            f"asyncpg's Pool, a pair {way.replace('_', ' ')}", boundary(asyncio.run, _best(way, rounds, without))
        )
        for way in ("in_one_call", "in_many_calls")
    ]


def real_rows(rounds: int, dsn: str) -> list[Row]:
    """Measure the same on a real server, which resets the connection in every ``release()``."""
    best = boundary(asyncio.run, _best("in_many_calls", rounds, {"dsn": dsn}))
    return [_row("asyncpg's Pool on a server, a pair in many calls", best)]


def _row(what: str, best: dict[str, float], most: float | None = None) -> Row:
    ours = best["watched"] - best["bare"]
    return Row(
        what,
        f"{best['bare']:.2f} µs",
        f"{best['watched']:.2f} µs",
        f"{ours:+.2f} µs",
        f"{best['watched'] / best['bare']:.2f}",
        f"+{most:.2f} µs" if most is not None else "",
        ours <= most if most is not None else None,
    )
