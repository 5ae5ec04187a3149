"""How to look at SQLAlchemy's pools, their entries and their proxies of connections, and at what is below them.

An entry is a pool's own record of one connection (``ConnectionPoolEntry``), a proxy is what it hands out
(``PoolProxiedConnection``). Nothing here talks to a server.
"""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Callable, Iterable, Iterator
from types import CodeType, FrameType
from typing import Any

from pytest_poolguard.books.ledger import Ledger
from pytest_poolguard.books.origin import capture_from, printable
from pytest_poolguard.drivers import libpq
from pytest_poolguard.drivers.interface import State

__all__ = [
    "beyond_greenlets",
    "dialect_of",
    "driver_connection",
    "held_in",
    "idle_entries",
    "is_done",
    "kill",
    "label_of",
    "pool_of",
    "replaced_by",
    "state_of",
    "unwrapped",
]

#: The source files of SQLAlchemy's pools.
POOLS = (os.path.join("sqlalchemy", "pool", "base.py"), os.path.join("sqlalchemy", "pool", "impl.py"))
#: Frames to look at for what makes a pool: constructors of subclasses are among them.
AROUND = 12
#: What a pool without a dialect connects by, where that is PostgreSQL.
POSTGRESQL = frozenset({"asyncpg", "pg8000", "psycopg", "psycopg2"})


def beyond_greenlets(stops: frozenset[str]) -> list[CodeType | int]:
    """The stack from where the greenlet was started on that runs here for asynchronous code; else nothing."""
    greenlets: Any = sys.modules.get("greenlet")
    greenlet = greenlets.getcurrent() if greenlets is not None else None
    stack: list[CodeType | int] = []
    while greenlet is not None and type(greenlet).__module__.startswith("sqlalchemy."):
        greenlet = greenlet.parent
        stack += capture_from(greenlet.gr_frame, stops)
    return stack


def pool_of(entry: Any) -> Any:
    """The pool of an entry: there is no public way to it."""
    return entry._ConnectionRecord__pool  # noqa: SLF001


def driver_connection(holder: Any) -> Any:
    """The connection below a proxy or an entry, as its driver has it; None where it has none any more."""
    try:
        return unwrapped(holder.driver_connection)
    except Exception:  # it is closed just now
        return None


def unwrapped(connection: Any) -> Any:
    """The connection inside of what a pool of asyncpg's hands out; any other as it is."""
    return connection._con if hasattr(type(connection), "_con") else connection  # noqa: SLF001


def held_in(thing: Any) -> list[Any]:
    """The proxies that an object of SQLAlchemy's has: from a scoped session to there it is nine steps."""
    for cls in type(thing).__mro__:
        inside = INSIDE.get((cls.__module__, cls.__name__))
        if inside is not None:
            return [proxy for part in inside(thing) for proxy in held_in(part)]
    return [thing] if hasattr(type(thing), "driver_connection") else []


def _in_session(session: Any) -> Iterator[Any]:
    transaction = session._transaction  # noqa: SLF001
    while transaction is not None:
        yield from [connection for connection, *_ in list(transaction._connections.values())]  # noqa: SLF001
        transaction = transaction.parent


def _in_registry(scoped: Any) -> list[Any]:
    sessions = scoped.registry.registry  # those by thread, or by what a function of the application's says
    return list(sessions.values()) if isinstance(sessions, dict) else list(vars(sessions).values())


#: What is inside of the objects that have a connection, by module and class.
INSIDE: dict[tuple[str, str], Callable[[Any], Iterable[Any]]] = {
    ("sqlalchemy.orm.scoping", "scoped_session"): _in_registry,
    ("sqlalchemy.ext.asyncio.scoping", "async_scoped_session"): _in_registry,
    ("sqlalchemy.orm.session", "Session"): _in_session,
    ("sqlalchemy.ext.asyncio.session", "AsyncSession"): lambda session: [session.sync_session],
    ("sqlalchemy.engine.base", "Connection"): lambda connection: [connection._dbapi_connection],  # noqa: SLF001
    ("sqlalchemy.engine.base", "Transaction"): lambda transaction: [transaction.connection],
    ("sqlalchemy.ext.asyncio.engine", "AsyncConnection"): lambda connection: [connection.sync_connection],
}


def is_done(proxy: Any) -> bool:
    """Whether somebody has closed a proxy, or does so just now: nested holders of it are counted."""
    return bool(proxy._counter < 1 or proxy.dbapi_connection is None)  # noqa: SLF001


def dialect_of(pool: Any, entry: Any) -> str:
    """The name of a pool's dialect; one that stands alone has none, and is known by its connections."""
    name = getattr(pool._dialect, "name", "")  # noqa: SLF001
    if name:
        return str(name)
    connection = getattr(entry, "driver_connection", None)
    modules = {cls.__module__.partition(".")[0] for cls in type(connection).__mro__}
    return "postgresql" if modules & POSTGRESQL else ""


def label_of(pool: Any) -> str:
    """Class and size: ``QueuePool(0..15)``."""
    sizes = getattr(pool, "_max_overflow", None)
    most: Any = ""
    if sizes is None:
        size = getattr(pool, "size", None)
        if not isinstance(size, int):
            return type(pool).__name__
        most = size
    elif sizes >= 0:
        most = pool.size() + sizes
    return printable(f"{type(pool).__name__}(0..{most})")


def replaced_by(pool: Any) -> Any:
    """The pool that a new one takes the place of, while it is made: ``Engine.dispose()`` makes a new one."""
    frame: FrameType | None = sys._getframe(1)  # noqa: SLF001
    for _ in range(AROUND):
        if frame is None:
            break
        if frame.f_code.co_name == "recreate" and frame.f_code.co_filename.endswith(POOLS):
            # No other frame's: a frame keeps what it was once asked for.
            old = frame.f_locals.get("self")
            return old if old is not pool else None
        frame = frame.f_back
    return None


def idle_entries(pool: Any) -> list[Any]:
    """The entries that nobody has; empty ones are among them."""
    entries = [pool.__dict__.get("connection"), getattr(pool, "_conn", None), *getattr(pool, "_all_conns", ())]
    with contextlib.suppress(Exception):  # a queue of somebody's own, or one that changes just now
        entries += _queued(pool._pool)  # noqa: SLF001
    return [entry for entry in entries if getattr(entry, "in_use", True) is False]


def _queued(queue: Any) -> Iterator[Any]:
    while not hasattr(queue, "queue") and hasattr(queue, "_queue"):  # an asynchronous one is wrapped
        queue = queue._queue  # noqa: SLF001
    return iter(list(getattr(queue, "queue", queue)))


def state_of(holder: Any, ledger: Ledger) -> State:
    """What the driver of an entry's or a proxy's connection knows of it."""
    connection = driver_connection(holder)
    if connection is None:
        return State(closed=True)
    opening = ledger.opening(connection)
    if opening is not None:
        return opening.driver.state(connection)  # type: ignore[no-any-return]
    try:
        return _asyncpg(connection) if hasattr(connection, "is_closed") else _libpq(connection)
    except Exception:  # a mock, a driver that is not known, or one that breaks just now
        return State()


def _libpq(connection: Any) -> State:
    if connection.closed:
        return State(closed=True)
    return libpq.state(connection)


def _asyncpg(connection: Any) -> State:
    if connection.is_closed():
        return State(closed=True)
    transaction = "idle in transaction" if connection.is_in_transaction() else "idle"
    return State(int(connection.get_server_pid()), transaction)


def kill(proxy: Any) -> None:
    """Close the connection below a proxy, from any thread and without its event loop."""
    connection = driver_connection(proxy)
    with contextlib.suppress(Exception):
        if hasattr(connection, "pgconn"):  # psycopg
            connection.pgconn.finish()
        elif hasattr(connection, "terminate"):  # asyncpg
            _terminate(connection)
        else:
            connection.close()


def _terminate(connection: Any) -> None:
    transport, loop = connection._transport, connection._loop  # noqa: SLF001
    with contextlib.suppress(RuntimeError):  # the loop is closed
        connection.terminate()
    if loop.is_closed():
        transport._call_connection_lost(None)  # noqa: SLF001 - nobody else closes the socket then
