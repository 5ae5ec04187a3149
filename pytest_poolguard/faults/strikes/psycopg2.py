"""psycopg2: its cursors run statements. Python's classes are changed; C's has one of ours in its place."""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable
from typing import Any

from pytest_poolguard.books.records import Checkout
from pytest_poolguard.drivers.patching import Patches, class_tree
from pytest_poolguard.faults.strikes.interface import FAILING, OnStatement, replace_methods

__all__ = ["Psycopg2Strikes"]

METHODS = ("execute", "executemany", "callproc", "copy_expert", "copy_from", "copy_to")


class Psycopg2Strikes:
    """See :class:`~pytest_poolguard.faults.strikes.interface.Strikes`."""

    discards_at_once = False

    def __init__(self) -> None:
        self._patches = Patches()
        self._cursor: Any = sys.modules["psycopg2.extensions"].cursor
        self._on_statement: OnStatement = lambda _: False
        self._own: type[Any] | None = None
        self._changed: list[Any] = []  #: connections whose cursors are ours

    def begin(self, on_statement: OnStatement) -> None:
        """Change the classes that there are."""
        self._on_statement = on_statement
        for cls in class_tree(self._cursor):
            if cls is not self._cursor and cls.__module__ != __name__:
                replace_methods(self._patches, cls, METHODS, self._watched)
        names = {name: self._watched(getattr(self._cursor, name)) for name in METHODS}
        self._own = type("cursor", (self._cursor,), {**names, "__module__": self._cursor.__module__})

    def _watched(self, original: Callable[..., Any]) -> Callable[..., Any]:
        strikes = self

        def method(self: Any, *args: Any, **kwargs: Any) -> Any:
            __tracebackhide__ = True
            if strikes._on_statement(self.connection):
                with strikes._cursor(self.connection) as cursor:
                    cursor.execute(FAILING)
            return original(self, *args, **kwargs)

        return functools.update_wrapper(method, original)

    def taken(self, checkout: Checkout) -> None:
        """Let its plain cursors be ours."""
        connection: Any = checkout.to_server()
        if getattr(connection, "cursor_factory", self) in (None, self._cursor):
            self._changed.append((connection, connection.cursor_factory))
            connection.cursor_factory = self._own

    def unfit(self, checkout: Checkout) -> str:
        """Nothing is."""
        return "" if hasattr(checkout.connection(), "fileno") else "it is no connection of psycopg2's"

    def discard(self, checkout: Checkout) -> None:
        """Close it: a pool keeps no closed connection."""
        connection: Any = checkout.connection()
        if connection is not None:
            connection.close()

    def socket(self, connection: Any) -> int:
        """As libpq has it."""
        return int(connection.fileno())

    def end(self) -> None:
        """Give classes and connections back as they were."""
        self._patches.undo()
        while self._changed:
            connection, factory = self._changed.pop()
            if connection.cursor_factory is self._own:
                connection.cursor_factory = factory
        self._own = None
