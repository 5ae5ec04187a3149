"""asyncpg's objects: how to refer to a pool, look at a connection, and end one without its loop."""

# ruff: noqa: SLF001 - what is asked here, no public method tells

from __future__ import annotations

import contextlib
import os
import socket
import sys
import weakref
from collections.abc import Callable
from typing import Any

from pytest_poolguard.drivers.interface import State
from pytest_poolguard.drivers.lines.places import Place

__all__ = ["Plumbing", "is_closing", "place_of", "proxy_of", "reference", "state", "terminate"]


def reference(pool: Any) -> Callable[[], Any]:
    """A weak reference to a pool, which refuses them.

    Its queue takes one, and lives as long as the pool. From there the way back to the pool is one more of the
    circles that they are in already: the holders in the queue have it, too.
    """
    queue = weakref.ref(pool._queue)
    pool._queue.poolguard_pool = pool

    def pool_now() -> Any:
        alive = queue()
        return None if alive is None else alive.poolguard_pool

    return pool_now


def proxy_of(connection: Any) -> Any:
    """What the holder of a connection has: a proxy, for as long as it is out."""
    return connection._proxy


def is_closing(pool: Any) -> bool:
    """Whether somebody has begun to close a pool; its own method came with asyncpg 0.28."""
    return getattr(pool, "_closed", True) is not False or bool(pool._closing)


def state(connection: Any) -> State:
    """What asyncpg knows of a connection; of a transaction, not whether it has failed."""
    try:
        if connection.is_closed():
            return State(closed=True, broken=not connection._aborted)
        transaction = "idle in transaction" if connection.is_in_transaction() else "idle"
        if connection._stmt_exclusive_section._acquired:
            transaction = "active"
        return State(int(connection.get_server_pid()), transaction)
    except Exception:  # a mock, or a connection that breaks just now
        return State()


def place_of(connection: Any) -> Place:
    """What it takes to connect to a connection's server again, with its password."""
    address, known = connection._addr, connection._params
    if isinstance(address, str):
        folder, _, number = address.rpartition("/.s.PGSQL.")
        address = folder, int(number)
    encrypted = connection._transport.get_extra_info("ssl_object") is not None
    return Place(
        host=address[0],
        address=address[0],
        port=address[1],
        user=known.user,
        database=known.database,
        password=known.password,
        context=known.ssl if encrypted else False,
    )


def terminate(connection: Any) -> None:
    """Terminate a connection, though its loop may never run again, or be closed.

    The server is to see the end at once: a loop that does not run would close the socket later, and a closed one
    never. Then that is done in its place.
    """
    transport = connection._transport
    line = transport.get_extra_info("socket")
    if not connection._loop.is_closed():
        connection.terminate()
        with contextlib.suppress(OSError, AttributeError):
            line.shutdown(socket.SHUT_RDWR)
        return
    with contextlib.suppress(Exception):
        connection.terminate()
    with contextlib.suppress(Exception):
        transport._call_connection_lost(None)


class Plumbing(dict[str, bool]):
    """Whether source files are asyncio's, asyncpg's or our own."""

    def __missing__(self, filename: str) -> bool:
        packages = ("asyncio", "asyncpg", "async_timeout", "pytest_poolguard")
        folders = [os.path.dirname(sys.modules[name].__file__ or "") for name in packages if name in sys.modules]
        found = self[filename] = filename.startswith(tuple(folder + os.sep for folder in folders))
        return found
