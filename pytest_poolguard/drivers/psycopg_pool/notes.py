"""What is noted of psycopg_pool's pools, and how a marker's limits hold for them."""

from __future__ import annotations

import contextlib
from types import ModuleType
from typing import Any

from pytest_poolguard.books.origin import Origin, capture, printable
from pytest_poolguard.books.records import Checkout, Limits, Pool
from pytest_poolguard.drivers.gate import Gates, Way
from pytest_poolguard.drivers.interface import Driver, Watch
from pytest_poolguard.drivers.psycopg import ASYNC_TALK
from pytest_poolguard.drivers.psycopg_pool.reclaiming import Reclaiming
from pytest_poolguard.drivers.tasks import Waiter, waiter
from pytest_poolguard.sizing.counting import Call

__all__ = ["Notes"]


class Notes:
    """What the replaced methods tell; ``modules`` has the pools' modules, by whether they are asynchronous."""

    def __init__(
        self, watch: Watch, driver: Driver, modules: dict[bool, ModuleType], reclaiming: Reclaiming
    ) -> None:
        self.watch = watch
        self.driver = driver
        self.modules = modules
        self.reclaiming = reclaiming
        self.gates = Gates(watch.ledger, "_max_size")

    def who_waits(self) -> Waiter | None:
        """Who waits for a call that a task was made for alone."""
        try:
            return waiter(self.watch.ledger) if self.watch.active else None
        except Exception as error:
            self.watch.on_fault("looking for who waits for a connection", error)
            return None

    def is_async(self, pool: Any) -> bool:
        """Whether a pool is an asynchronous one."""
        module = self.modules.get(True)
        return module is not None and isinstance(pool, module.AsyncConnectionPool)

    def new_pool(self, pool: Any, *, made_known: bool) -> Pool:
        """Remember a pool, by the caller's caller."""
        ledger = self.watch.ledger
        label = f"{type(pool).__name__}({pool.min_size}..{pool.max_size or ''})"
        return ledger.add_pool(pool, self.driver, label, Origin(capture(ledger.stops, 2)), made_known=made_known)

    def record(self, pool: Any) -> Pool:
        """The record of a pool, a new one where there is none."""
        return self.watch.ledger.pool(pool) or self.new_pool(pool, made_known=False)

    def not_returned(self, pool: Any, conn: Any, checkout: Checkout | None, error: BaseException) -> None:
        """A putconn raised: the connection is still out if it still bears the mark of its pool."""
        if checkout is None:
            return
        try:
            own = checkout.pool.ref() is pool
            if own and getattr(conn, "_pool", None) is not pool:
                return
            if own:
                self.watch.ledger.put_back(checkout)
            reason = printable(f"{type(error).__name__}: {error}".strip().partition("\n")[0])
            checkout.cause = ("putconn raised", reason) if own else ("returned to another pool", "")
        except Exception as fault:
            self.watch.on_fault("noting a failed return", fault)

    # limits

    async def limit(self, pool: Any, connection: Any) -> None:
        """Set the limits of a session, for a task that is about to have its connection.

        Where it is cancelled over that, nobody knows what is set: its pool gets a closed connection back.
        """
        try:
            if self.watch.active:
                await self.watch.sessions.set_async(pool, connection, ASYNC_TALK)
        except BaseException:
            connection.pgconn.finish()
            await self.reclaiming.hand_in(pool, connection)
            raise

    def leave(self, way: Way | None, call: Call | None, checkout: Checkout | None) -> None:
        """A call for a connection is over: the way to it, if there was a gate, and what counts it."""
        if way is not None:
            way.leave()
        self.watch.answers(call, checkout)

    def way(self, pool: Any, limits: Limits, timeout: float | None, error: type[Exception]) -> Way:
        """The way to a connection, for one who would wait ``timeout`` seconds, or as long as the pool says."""
        ledger = self.watch.ledger
        record = ledger.pool(pool) if not pool.closed else None  # a closed one has its own to say
        return self.gates.way(pool, record, limits, pool.timeout if timeout is None else timeout, error)

    def cut_down(self, pool: Any) -> None:
        """Take back what a pool has grown beyond its own size, for a marker's sake, and nobody uses any more."""
        if pool not in self.gates.raised:
            return
        extra = []
        with contextlib.nullcontext() if self.is_async(pool) else pool._lock:  # noqa: SLF001
            while pool._pool and pool._nconns > pool._max_size:  # noqa: SLF001
                extra.append(pool._pool.pop())  # noqa: SLF001
                pool._nconns -= 1  # noqa: SLF001
        for connection in extra:
            connection.pgconn.finish()
