"""What the drivers of libpq tell alike: psycopg2's connections and psycopg's."""

from __future__ import annotations

from typing import Any

from pytest_poolguard.drivers.interface import State

__all__ = ["TRANSACTION", "server_of", "state"]

#: libpq's PGTransactionStatusType, in pg_stat_activity's words.
TRANSACTION = ("idle", "active", "idle in transaction", "idle in a failed transaction", "unknown")

#: What psycopg2's ``connection.closed`` is where nobody called ``close()``; that makes it 1. psycopg has a
#: ``broken`` for it.
BROKEN = 2


def state(connection: Any) -> State:
    """What libpq knows of a connection."""
    try:
        closed = connection.closed
        if closed:
            return State(closed=True, broken=closed == BROKEN or getattr(connection, "broken", None) is True)
        info = connection.info
        return State(int(info.backend_pid), TRANSACTION[info.transaction_status])
    except Exception:  # a mock, or a connection whose server is gone
        return State()


def server_of(connection: Any) -> tuple[Any, ...]:
    """Which server a connection goes to, and as whom: each role sees the backends of its own."""
    info = connection.info
    return info.host, info.port, info.user
