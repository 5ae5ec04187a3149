"""When limits of sessions are taken back from the connections of psycopg_pool's pools: see ``_reset_connection``.

There a pool brings to rest what is returned, in whichever thread, and has not handed it on yet.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

from pytest_poolguard.drivers.psycopg import ASYNC_TALK, TALK
from pytest_poolguard.drivers.session_limits import Sessions

__all__ = ["resetting", "resetting_async"]


def resetting(original: Callable[..., Any], sessions: Sessions) -> Callable[..., Any]:
    """``ConnectionPool._reset_connection``."""

    @functools.wraps(original)
    def _reset_connection(self: Any, conn: Any) -> Any:
        __tracebackhide__ = True
        result = original(self, conn)
        if sessions.limited:
            sessions.take_back(conn, TALK)
        return result

    return _reset_connection


def resetting_async(original: Callable[..., Any], sessions: Sessions) -> Callable[..., Any]:
    """``AsyncConnectionPool._reset_connection``."""

    @functools.wraps(original)
    async def _reset_connection(self: Any, conn: Any) -> Any:
        __tracebackhide__ = True
        result = await original(self, conn)
        if sessions.limited:
            await sessions.take_back_async(conn, ASYNC_TALK)
        return result

    return _reset_connection
