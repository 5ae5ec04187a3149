"""Methods of an in-house pool that are context managers: they take when entered, and give back when left.

A context manager of contextlib's gets a class of ours. A generator around its own would be closed side by side
with it when an event loop ends, and each would find the other one running.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable
from types import TracebackType
from typing import Any

from pytest_poolguard.books.records import Checkout
from pytest_poolguard.drivers.inhouse.desk import Desk
from pytest_poolguard.drivers.inhouse.limits import Limited

__all__ = ["acquiring_async_manager", "acquiring_manager"]

Method = Callable[..., Any]


def acquiring_manager(original: Method, desk: Desk) -> Method:
    """The replacement of a method that is a context manager."""
    ledger, limited = desk.watch.ledger, Limited(original, desk, is_manager=True)

    class Manager(contextlib._GeneratorContextManager):  # type: ignore[type-arg]  # noqa: SLF001
        checkout: Checkout | None = None

        def __enter__(self) -> Any:
            __tracebackhide__ = True
            supply = desk.opens(self.args[0])
            if supply is None:
                return super().__enter__()
            if ledger.present.limits.bound_taking:
                connection, self.checkout = limited.acquire(self.args[0], supply, super().__enter__)
                return connection
            try:
                connection = super().__enter__()
            except BaseException as error:
                desk.refused(supply, error)
                raise
            self.checkout = desk.took(supply, connection)
            return connection

        def __exit__(
            self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
        ) -> bool | None:
            __tracebackhide__ = True
            desk.left(self.checkout)  # before the pool has it back
            return super().__exit__(kind, error, trace)

    return _making_managers(original, Manager)


def acquiring_async_manager(original: Method, desk: Desk) -> Method:
    """Likewise."""
    ledger, limited = desk.watch.ledger, Limited(original, desk, is_manager=True)

    class Manager(contextlib._AsyncGeneratorContextManager):  # type: ignore[type-arg]  # noqa: SLF001
        checkout: Checkout | None = None

        async def __aenter__(self) -> Any:
            __tracebackhide__ = True
            supply = desk.opens(self.args[0])
            if supply is None:
                return await super().__aenter__()
            if ledger.present.limits.bound_taking:
                connection, self.checkout = await limited.acquire_async(self.args[0], supply, super().__aenter__)
                return connection
            try:
                connection = await super().__aenter__()
            except BaseException as error:
                desk.refused(supply, error)
                raise
            self.checkout = desk.took(supply, connection, is_async=True)
            return connection

        async def __aexit__(
            self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
        ) -> bool | None:
            __tracebackhide__ = True
            desk.left(self.checkout)
            return await super().__aexit__(kind, error, trace)

    return _making_managers(original, Manager)


def _making_managers(original: Method, cls: type) -> Method:
    @functools.wraps(original)
    def acquire(self: Any, *args: Any, **kwargs: Any) -> Any:
        __tracebackhide__ = True
        manager = original(self, *args, **kwargs)
        manager.__class__ = cls
        return manager

    return acquire
