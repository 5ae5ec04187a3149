"""A connection pool as many projects have one: a queue, and two methods."""

from __future__ import annotations

from queue import LifoQueue

import psycopg2


class Pool:
    """Connections to one database."""

    def __init__(self, dsn: str, size: int) -> None:
        self._idle: LifoQueue = LifoQueue()
        for _ in range(size):
            self._idle.put(psycopg2.connect(dsn))

    def checkout(self, timeout: float = 5):
        return self._idle.get(timeout=timeout)

    def checkin(self, conn) -> None:
        conn.rollback()
        self._idle.put(conn)

    def shutdown(self) -> None:
        while not self._idle.empty():
            self._idle.get().close()
