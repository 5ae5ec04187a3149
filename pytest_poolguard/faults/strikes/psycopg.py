"""psycopg and psycopg_pool: the classes of its cursors run statements."""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable
from typing import Any

from pytest_poolguard.books.records import Checkout
from pytest_poolguard.drivers.patching import Patches, class_tree
from pytest_poolguard.faults.strikes.interface import FAILING, OnStatement, replace_methods

__all__ = ["PsycopgStrikes"]

METHODS = ("execute", "executemany")


class PsycopgStrikes:
    """See :class:`~pytest_poolguard.faults.strikes.interface.Strikes`."""

    discards_at_once = False

    def __init__(self) -> None:
        self._patches = Patches()
        self._on_statement: OnStatement = lambda _: False

    def begin(self, on_statement: OnStatement) -> None:
        """Change the classes that there are."""
        self._on_statement = on_statement
        psycopg: Any = sys.modules["psycopg"]
        for plain, server, watched in (
            (psycopg.Cursor, psycopg.ServerCursor, self._watched),
            (psycopg.AsyncCursor, psycopg.AsyncServerCursor, self._watched_async),
        ):
            execute = vars(plain)["execute"]
            replacement = functools.partial(watched, plain, execute)
            for cls in dict.fromkeys([*class_tree(plain), *class_tree(server)]):
                replace_methods(self._patches, cls, METHODS, replacement)

    def _watched(
        self, plain: type[Any], execute: Callable[..., Any], original: Callable[..., Any]
    ) -> Callable[..., Any]:
        strikes = self

        def method(self: Any, *args: Any, **kwargs: Any) -> Any:
            __tracebackhide__ = True
            if strikes._on_statement(self.connection):
                execute(plain(self.connection), FAILING)
            return original(self, *args, **kwargs)

        return functools.update_wrapper(method, original)

    def _watched_async(
        self, plain: type[Any], execute: Callable[..., Any], original: Callable[..., Any]
    ) -> Callable[..., Any]:
        strikes = self

        async def method(self: Any, *args: Any, **kwargs: Any) -> Any:
            __tracebackhide__ = True
            if strikes._on_statement(self.connection):
                await execute(plain(self.connection), FAILING)
            return await original(self, *args, **kwargs)

        return functools.update_wrapper(method, original)

    def taken(self, checkout: Checkout) -> None:
        """There is nothing to do for a single one."""

    def unfit(self, checkout: Checkout) -> str:
        """Nothing is."""
        return "" if hasattr(checkout.connection(), "pgconn") else "it is no connection of psycopg's"

    def discard(self, checkout: Checkout) -> None:
        """Close it, below psycopg's own close, which may hand it in: a pool replaces what is closed."""
        connection: Any = checkout.connection()
        if connection is not None:
            connection.pgconn.finish()

    def socket(self, connection: Any) -> int:
        """As libpq has it."""
        return int(connection.pgconn.socket)

    def end(self) -> None:
        """Give the classes back as they were."""
        self._patches.undo()
