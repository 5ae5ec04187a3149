"""How limits of sessions are set over the connections below SQLAlchemy's pools, in its events.

The one for a checkout comes before the application's own listeners, the one for a return after the rollback; then
nobody else can have the connection yet. Below the asyncio layer both may wait for a coroutine.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Coroutine
from typing import Any

from pytest_poolguard.drivers.interface import Watch
from pytest_poolguard.drivers.session_limits import Talk
from pytest_poolguard.drivers.sqlalchemy.sight import dialect_of, driver_connection

__all__ = ["LimitedSessions"]


class LimitedSessions:
    """The functions that listen."""

    def __init__(self, watch: Watch, is_collecting: Callable[[], bool]) -> None:
        self._watch = watch
        self._sessions = watch.sessions
        self._is_collecting = is_collecting  #: whether the running code is garbage collection's

    def listeners(self) -> dict[str, Callable[..., None]]:
        """A function for each event."""
        return {"checkout": self._on_checkout, "checkin": self._on_checkin}

    def _on_checkout(self, _dbapi_connection: Any, entry: Any, proxy: Any) -> None:
        limits = self._watch.ledger.present.limits.session
        if self._watch.active and (limits is not None or self._sessions.limited):
            with self._watch.noting("the limits of a session"):
                self._limit(proxy._pool, entry, driver_connection(proxy))  # noqa: SLF001

    def _on_checkin(self, _dbapi_connection: Any, entry: Any) -> None:
        if self._sessions.limited and not self._is_collecting():  # those have it when they are taken again
            with self._watch.noting("the limits of a session"):
                self._unlimit(driver_connection(entry))

    def _limit(self, pool: Any, entry: Any, connection: Any) -> None:
        talk = self._talk(connection) if dialect_of(pool, entry) in self._watch.dialects else None
        if talk is not None and not talk.is_async:
            self._sessions.set(pool, connection, talk)
        elif talk is not None and _can_await():
            _await(self._sessions.set_async(pool, connection, talk))

    def _unlimit(self, connection: Any) -> None:
        talk = self._talk(connection)
        if talk is not None and not talk.is_async:
            self._sessions.take_back(connection, talk)
        elif talk is not None and _can_await():
            _await(self._sessions.take_back_async(connection, talk))

    def _talk(self, connection: Any) -> Talk | None:
        """The way that the library below has; none for what it has not opened."""
        opening = self._watch.ledger.opening(connection) if connection is not None else None
        talk = getattr(opening.driver, "talk", None) if opening is not None else None
        return talk(connection) if talk is not None else None


def _can_await() -> bool:
    greenlets: Any = sys.modules.get("greenlet")
    return greenlets is not None and type(greenlets.getcurrent()).__module__.startswith("sqlalchemy.")


def _await(coroutine: Coroutine[Any, Any, None]) -> None:
    sys.modules["sqlalchemy.util"].await_only(coroutine)
