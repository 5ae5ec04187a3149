"""asyncpg: the proxies that a pool hands out run statements. The library's own go past them."""

from __future__ import annotations

import functools
import sys
from collections.abc import Awaitable, Callable
from typing import Any

from pytest_poolguard.books.records import Checkout
from pytest_poolguard.drivers.asyncpg.objects import terminate
from pytest_poolguard.drivers.patching import Patches, class_tree
from pytest_poolguard.faults.strikes.interface import FAILING, OnStatement, replace_methods

__all__ = ["AsyncpgStrikes"]

METHODS = (
    "execute",
    "executemany",
    "fetch",
    "fetchmany",
    "fetchrow",
    "fetchval",
    "prepare",
    "copy_from_query",
    "copy_from_table",
    "copy_records_to_table",
    "copy_to_table",
)


class AsyncpgStrikes:
    """See :class:`~pytest_poolguard.faults.strikes.interface.Strikes`."""

    discards_at_once = False

    def __init__(self) -> None:
        self._patches = Patches()
        self._on_statement: OnStatement = lambda _: False

    def begin(self, on_statement: OnStatement) -> None:
        """Change the class of the proxies."""
        self._on_statement = on_statement
        for cls in class_tree(sys.modules["asyncpg.pool"].PoolConnectionProxy):
            replace_methods(self._patches, cls, METHODS, self._watched)

    def _watched(self, original: Callable[..., Any]) -> Callable[..., Any]:
        strikes = self

        def method(self: Any, *args: Any, **kwargs: Any) -> Awaitable[Any]:
            if self._con is not None and strikes._on_statement(self._con):
                return self._con.execute(FAILING)  # type: ignore[no-any-return]
            return original(self, *args, **kwargs)  # type: ignore[no-any-return]

        return functools.update_wrapper(method, original)

    def taken(self, checkout: Checkout) -> None:
        """There is nothing to do for a single one."""

    def unfit(self, checkout: Checkout) -> str:
        """Nothing is."""
        return "" if hasattr(checkout.connection(), "terminate") else "it is no connection of asyncpg's"

    def discard(self, checkout: Checkout) -> None:
        """Terminate it: that frees its place in the pool."""
        connection: Any = checkout.connection()
        if connection is not None and not connection.is_closed():
            terminate(connection)

    def socket(self, connection: Any) -> int:
        """The transport's."""
        return int(connection._transport.get_extra_info("socket").fileno())  # noqa: SLF001

    def end(self) -> None:
        """Give the class back as it was."""
        self._patches.undo()
