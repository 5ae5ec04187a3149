"""A connection without a server, and a pool that is full of them.

psycopg2's own ``getconn`` and ``putconn`` run; only the connections they hand around are not real.
"""

from __future__ import annotations

from typing import Any

from psycopg2.extensions import TRANSACTION_STATUS_IDLE

__all__ = ["Connection", "boundary", "fill"]


class Info:
    """What a pool asks of ``connection.info``."""

    transaction_status = TRANSACTION_STATUS_IDLE
    backend_pid = 0


class Connection:
    """What a pool asks of a connection: always open, always idle."""

    closed = 0
    info = Info()

    def rollback(self) -> None:
        """End the transaction."""

    def close(self) -> None:
        """Close the connection."""
        self.closed = 1


def fill(pool: Any, size: int) -> Any:
    """Put stand-ins into a pool that was made with ``minconn=0``; it keeps them when they are returned."""
    pool.minconn = size
    pool._pool.extend(Connection() for _ in range(size))
    return pool


def boundary(function: Any, *arguments: Any) -> Any:
    """Stand for the function of pytest that runs a test; it has a source file of its own, as that has."""
    return function(*arguments)
