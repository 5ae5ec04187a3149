"""Leaked connections of psycopg_pool's pools: how they are closed, and their slots freed."""

from __future__ import annotations

import contextlib
import weakref
from collections.abc import Callable
from dataclasses import dataclass
from types import ModuleType
from typing import Any

from pytest_poolguard.books.records import Checkout

__all__ = ["Reclaiming"]


@dataclass
class _Reclaimed:
    """A connection that was leaked, and closed by us."""

    connection: weakref.ref[Any]
    was_handed_in: bool = False  #: to its pool: that gets it once only


class Reclaiming:
    """Hands in what was leaked; ``originals`` has the pools' own ``putconn``, by whether it is asynchronous."""

    def __init__(self, modules: dict[bool, ModuleType], originals: dict[bool, Callable[..., Any]]) -> None:
        self._modules = modules
        self._originals = originals
        self.reclaimed: dict[int, _Reclaimed] = {}  #: by id

    def was_handed_in(self, conn: Any) -> bool:
        """Whether a connection was reclaimed, and given to its pool before; from now on it was."""
        record = self.reclaimed.get(id(conn))
        if record is None or record.connection() is not conn:
            return False
        before, record.was_handed_in = record.was_handed_in, True
        return before

    def reclaim(self, checkout: Checkout) -> None:
        """Close the connection, then hand it in: a pool replaces what is broken, a null pool forgets it.

        An asynchronous pool can't be called from here, where no loop runs. It is asked for a new connection, as
        its own ``putconn`` does: the slot is of use when its loop runs again, and never after its loop.
        """
        pool: Any = checkout.pool.ref()
        connection: Any = checkout.connection()
        if checkout.task is None or checkout.task.is_blocking:
            self._reclaim(pool, connection)
            return
        loop = checkout.task.loop()
        if loop is not None and loop.is_running():
            loop.call_soon_threadsafe(self._reclaim_async, pool, connection)
        else:
            self._reclaim_async(None if loop is None or loop.is_closed() else pool, connection)

    async def hand_in(self, pool: Any, connection: Any) -> None:
        """Give an asynchronous pool a connection back that nobody has got."""
        await self._originals[True](pool, connection)

    def _reclaim(self, pool: Any, connection: Any) -> None:
        if connection is not None:
            connection.pgconn.finish()
        if pool is None or pool.closed:
            return
        if connection is None:
            pool.run_task(self._modules[False].AddConnection(pool))
            return
        record = self.reclaimed[id(connection)] = _Reclaimed(weakref.ref(connection))
        with contextlib.suppress(Exception):  # a class of its own, or a mock: if it did not come here, it was not
            pool.putconn(connection)
        if not record.was_handed_in:
            record.was_handed_in = True
            self._originals[False](pool, connection)

    def _reclaim_async(self, pool: Any, connection: Any) -> None:
        if connection is not None:
            connection.pgconn.finish()
            self.reclaimed[id(connection)] = _Reclaimed(weakref.ref(connection), was_handed_in=True)
        if pool is not None and not pool.closed:
            pool.run_task(self._modules[True].AddConnection(pool))
