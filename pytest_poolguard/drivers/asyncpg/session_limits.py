"""How limits of sessions are set over a connection of asyncpg: by a statement without a name.

It goes below what keeps prepared statements, and what logs queries.
"""

# ruff: noqa: SLF001 - no public way leaves no trace

from __future__ import annotations

import functools
import sys
from collections.abc import Callable, Sequence
from typing import Any

from pytest_poolguard.drivers.asyncpg.objects import state
from pytest_poolguard.drivers.session_limits import Sessions, Talk

__all__ = ["TALK", "releasing"]


async def _ask(connection: Any, statement: str) -> Sequence[Any]:
    protocol, record = connection._protocol, sys.modules["asyncpg"].Record
    prepared = await protocol.prepare("", statement, None, ignore_custom_codec=True, record_class=record)
    prepared._init_types()
    prepared._init_codecs()
    (row,) = await protocol.bind_execute(prepared, (), "", 0, False, None)
    return tuple(row)


TALK = Talk(state, _ask, is_async=True)


def releasing(original: Callable[..., Any], sessions: Sessions) -> Callable[..., Any]:
    """``PoolConnectionHolder.release``: a connection comes back; mostly its pool resets all that was set."""

    @functools.wraps(original)
    async def release(self: Any, timeout: float | None) -> Any:
        __tracebackhide__ = True
        connection = self._con
        if sessions.limited and connection is not None:
            if _resets_all(self._pool, connection):
                sessions.forget(connection)
            else:
                await sessions.take_back_async(connection, TALK)
        return await original(self, timeout)

    return release


def _resets_all(pool: Any, connection: Any) -> bool:
    try:
        return getattr(pool, "_reset", None) is None and "RESET ALL" in connection.get_reset_query()
    except Exception:  # somebody's own, over a connection that is closed
        return False
