"""The proof, for each library, that its connections are seen: without a server, on the library's own classes.

Some are quiet enough to be given when the library is imported (:data:`AT_IMPORT`). The others would be noticed:
they need an event loop or threads, import a dialect, write log lines, or call the suite's own listeners.
"""

from __future__ import annotations

import functools
import importlib
import sys
from collections.abc import Callable, Coroutine, Iterator
from types import SimpleNamespace
from typing import Any

from pytest_poolguard.books.ledger import Ledger
from pytest_poolguard.drivers.canary import Canary, aside, is_opened, is_returned, is_taken, prove

__all__ = ["AT_IMPORT", "CANARIES"]

#: Seconds for a pool to connect, and to come to its end.
PATIENCE = 10.0
#: libpq's CONNECTION_BAD: such a connection counts as closed, and nobody complains that it was not closed.
BAD = 1
#: libpq's PQTRANS_IDLE.
IDLE = 0


def psycopg2_connect(module: Any, ledger: Ledger) -> Iterator[str]:
    """``psycopg2.connect``: a connection's class may be any, also one that never connects."""
    yield is_opened(ledger, module.connect("", connection_factory=Canary), "connect")


def psycopg2_pools(module: Any, ledger: Ledger) -> Iterator[str]:
    """The pools: made without a connection, and with one put where the idle ones lie."""
    for name in ("SimpleConnectionPool", "ThreadedConnectionPool"):
        pool = getattr(module, name)(0, 1)
        pool._pool.append(Canary())  # noqa: SLF001
        yield prove(ledger, pool, pool.getconn, pool.putconn, name)


def psycopg_connection(module: Any, ledger: Ledger) -> Iterator[str]:
    """What all connections have in common: the end of being made."""
    connection = module.BaseConnection.__new__(module.BaseConnection)
    connection.__init__(SimpleNamespace(status=BAD))
    yield is_opened(ledger, connection, "Connection")


class _PoolCanary(Canary):
    """What psycopg_pool's pools need besides."""

    pgconn = SimpleNamespace(transaction_status=IDLE, status=BAD)

    @classmethod
    def connect(cls, *_arguments: Any, **_named: Any) -> Any:
        """Open nothing."""
        return cls()


class _AsyncPoolCanary(_PoolCanary):
    """Likewise, for the asynchronous ones."""

    @classmethod
    async def connect(cls, *_arguments: Any, **_named: Any) -> Any:
        """Open nothing."""
        return cls()

    async def close(self) -> None:  # type: ignore[override]
        """As a connection has it."""


def psycopg_pools(module: Any, ledger: Ledger) -> Iterator[str]:
    """The pools, with their workers."""
    for name in ("ConnectionPool", "NullConnectionPool"):
        pool = getattr(module, name)(connection_class=_PoolCanary, min_size=0, max_size=1, open=True, name=name)
        with aside(ledger, pool):  # to close it is noted, too
            try:
                prove(ledger, pool, functools.partial(pool.getconn, PATIENCE), pool.putconn, name)
            finally:
                pool.close(PATIENCE)
        yield name
    for name in ("AsyncConnectionPool", "AsyncNullConnectionPool"):
        _run(_prove_async(getattr(module, name), ledger, name))
        yield name


async def _prove_async(cls: Any, ledger: Ledger, name: str) -> None:
    pool = cls(connection_class=_AsyncPoolCanary, min_size=0, max_size=1, open=False, name=name)
    await pool.open()
    with aside(ledger, pool):
        try:
            connection = await pool.getconn(PATIENCE)
            is_taken(ledger, connection, name)
            await pool.putconn(connection)
            is_returned(ledger, pool, name)
        finally:
            await pool.close(PATIENCE)


class _AsyncpgCanary(Canary):
    """What asyncpg's pool needs of a connection."""

    _protocol = SimpleNamespace(queries_count=0, _is_cancelling=lambda: False)
    _proxy: Any = None

    def is_closed(self) -> bool:
        """It is as open as it ever was."""
        return False

    def _set_proxy(self, proxy: Any) -> None:
        self._proxy = proxy

    def _on_release(self, *_arguments: Any) -> None:
        """As a connection has it."""

    async def reset(self, **_named: Any) -> None:
        """As a connection has it."""

    async def _reset(self) -> None:
        """As a connection has it."""


def asyncpg_pool(module: Any, ledger: Ledger) -> Iterator[str]:
    """The pool, with a connection that needs no server; ``connect`` can't be proved without one."""

    class CanaryPool(module.Pool):  # type: ignore[misc]
        async def _get_new_connection(self) -> Any:
            return _AsyncpgCanary()

    _run(_prove_asyncpg(CanaryPool, module, ledger))
    yield "Pool"


async def _prove_asyncpg(cls: Any, module: Any, ledger: Ledger) -> None:
    pool = cls(
        min_size=0,
        max_size=1,
        max_queries=2,
        max_inactive_connection_lifetime=0.0,
        setup=None,
        init=None,
        loop=sys.modules["asyncio"].get_running_loop(),
        connection_class=module.Connection,
        record_class=module.Record,
    )
    await pool
    with aside(ledger, pool):
        connection = await pool.acquire()
        is_taken(ledger, connection._con, "Pool")  # noqa: SLF001
        await pool.release(connection)
        is_returned(ledger, pool, "Pool")


def sqlalchemy_pools(module: Any, ledger: Ledger) -> Iterator[str]:
    """Pools of a PostgreSQL dialect, which an engine would hand out the connections of."""
    base = importlib.import_module("sqlalchemy.dialects.postgresql.base")
    for name in ("QueuePool", "NullPool"):
        pool = getattr(module, name)(Canary, dialect=base.PGDialect())
        yield prove(ledger, pool, pool.connect, lambda proxy: proxy.close(), name)


def _run(proof: Coroutine[Any, Any, None]) -> None:
    sys.modules["asyncio"].run(proof)  # the library has imported it: nothing else here needs it


Proof = Callable[[Any, Ledger], Iterator[str]]

#: What can be proved of the modules that a driver patches, at once and unnoticed.
AT_IMPORT: dict[str, Proof] = {
    "psycopg2": psycopg2_connect,
    "psycopg2.pool": psycopg2_pools,
    "psycopg.connection": psycopg_connection,
}

#: For each library its proofs, with the modules that they are given.
CANARIES: dict[str, dict[str, Proof]] = {
    "psycopg2": {"psycopg2": psycopg2_connect, "psycopg2.pool": psycopg2_pools},
    "psycopg": {"psycopg.connection": psycopg_connection},
    "asyncpg": {"asyncpg": asyncpg_pool},
    "sqlalchemy": {"sqlalchemy.pool": sqlalchemy_pools},
    "psycopg_pool": {"psycopg_pool": psycopg_pools},
}
