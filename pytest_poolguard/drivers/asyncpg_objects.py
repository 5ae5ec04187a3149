"""asyncpg's objects: how to refer to a pool, what stands for a connection, how to end one without its loop."""

from __future__ import annotations

import contextlib
import os
import socket
import sys
import weakref
from collections.abc import Callable
from typing import Any

__all__ = ["Plumbing", "proxy_of", "reference", "terminate"]


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
    """Whether source files are asyncio's or asyncpg's."""

    def __missing__(self, filename: str) -> bool:
        packages = ("asyncio", "asyncpg", "async_timeout")
        folders = [os.path.dirname(sys.modules[name].__file__ or "") for name in packages if name in sys.modules]
        found = self[filename] = filename.startswith(tuple(folder + os.sep for folder in folders))
        return found
