"""SQLAlchemy: an event of its engines lets a statement be replaced, whatever driver is below."""

from __future__ import annotations

import sys
from typing import Any

from pytest_poolguard.books.records import Checkout
from pytest_poolguard.drivers.sqlalchemy.sight import driver_connection
from pytest_poolguard.faults.strikes.interface import FAILING, OnStatement

__all__ = ["SQLAlchemyStrikes"]

EVENT = "before_cursor_execute"


class SQLAlchemyStrikes:
    """See :class:`~pytest_poolguard.faults.strikes.interface.Strikes`."""

    discards_at_once = True

    def __init__(self) -> None:
        self._event: Any = sys.modules["sqlalchemy.event"]
        self._engine: Any = sys.modules["sqlalchemy"].Engine
        self._on_statement: OnStatement = lambda _: False
        self._had_events: Any = None

    def begin(self, on_statement: OnStatement) -> None:
        """Listen to every engine."""
        self._on_statement = on_statement
        self._had_events = self._engine._has_events  # noqa: SLF001
        self._event.listen(self._engine, EVENT, self._before, retval=True)

    def _before(
        self, connection: Any, _cursor: Any, statement: str, parameters: Any, _context: Any, many: bool
    ) -> tuple[str, Any]:
        proxy = connection._dbapi_connection  # noqa: SLF001
        if not self._on_statement(proxy):
            return statement, parameters
        if many:
            return FAILING, [type(parameters[0])()] if parameters else [()]
        return FAILING, type(parameters)() if isinstance(parameters, dict | tuple) else ()

    def taken(self, checkout: Checkout) -> None:
        """There is nothing to do for a single one."""

    def unfit(self, checkout: Checkout) -> str:
        """One that everybody shares can't be taken away from one."""
        pool = checkout.pool.ref()
        pools: Any = sys.modules["sqlalchemy.pool"]
        return "its pool has one connection for everybody" if isinstance(pool, pools.StaticPool) else ""

    def discard(self, checkout: Checkout) -> None:
        """Let the pool replace it before it hands it out again."""
        proxy: Any = checkout.connection()
        if proxy is not None and proxy.dbapi_connection is not None:
            proxy.invalidate(soft=True)

    def socket(self, connection: Any) -> int:
        """That of the driver's connection below."""
        below: Any = driver_connection(connection) or connection
        if hasattr(below, "pgconn"):
            return int(below.pgconn.socket)
        if hasattr(below, "_transport"):
            return int(below._transport.get_extra_info("socket").fileno())  # noqa: SLF001
        return int(below.fileno())

    def end(self) -> None:
        """Listen no longer."""
        self._event.remove(self._engine, EVENT, self._before)
        self._engine._has_events = self._had_events  # noqa: SLF001
