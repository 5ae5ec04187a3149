"""What sorts of methods an in-house pool has, and the replacements for each.

What a caller gets is the original's.
"""

from __future__ import annotations

import contextlib
import functools
import inspect
from collections.abc import Callable
from typing import Any

from pytest_poolguard.drivers.inhouse.desk import Desk
from pytest_poolguard.drivers.inhouse.limits import Limited
from pytest_poolguard.drivers.inhouse.managers import acquiring_async_manager, acquiring_manager

__all__ = [
    "ASYNC_MANAGER",
    "COROUTINE",
    "FUNCTION",
    "MANAGER",
    "MANAGERS",
    "acquiring",
    "closing",
    "kind",
    "making",
]
__all__ += ["releasing"]

FUNCTION, COROUTINE, MANAGER, ASYNC_MANAGER = "function", "coroutine", "manager", "async manager"
MANAGERS = (MANAGER, ASYNC_MANAGER)

Method = Callable[..., Any]


def kind(function: Any) -> str:
    """Which sort of method this is; empty for a generator that no context manager was made of."""
    inner = inspect.unwrap(function)
    code = getattr(function, "__code__", None)
    is_manager = code is not None and code.co_filename == contextlib.__file__
    if inspect.isasyncgenfunction(inner):
        return ASYNC_MANAGER if is_manager else ""
    if inspect.isgeneratorfunction(inner):
        return MANAGER if is_manager else ""
    return COROUTINE if inspect.iscoroutinefunction(function) else FUNCTION


def acquiring(original: Method, desk: Desk) -> Method:
    """A method that takes a connection."""
    makers = {
        FUNCTION: _acquiring_function,
        COROUTINE: _acquiring_coroutine,
        MANAGER: acquiring_manager,
        ASYNC_MANAGER: acquiring_async_manager,
    }
    return makers[kind(original)](original, desk)


def _acquiring_function(original: Method, desk: Desk) -> Method:
    ledger, limited = desk.watch.ledger, Limited(original, desk)

    @functools.wraps(original)
    def acquire(self: Any, *args: Any, **kwargs: Any) -> Any:
        __tracebackhide__ = True
        supply = desk.opens(self)
        if supply is None:  # a call of the pool's own, in the middle of another one
            return original(self, *args, **kwargs)
        if ledger.present.limits.bound_taking:
            take = functools.partial(original, self, *args, **kwargs)
            return limited.acquire(self, supply, take)[0]
        try:
            connection = original(self, *args, **kwargs)
        except BaseException as error:
            desk.refused(supply, error)
            raise
        desk.took(supply, connection)
        return connection

    return acquire


def _acquiring_coroutine(original: Method, desk: Desk) -> Method:
    ledger, limited = desk.watch.ledger, Limited(original, desk)

    @functools.wraps(original)
    async def acquire(self: Any, *args: Any, **kwargs: Any) -> Any:
        __tracebackhide__ = True
        supply = desk.opens(self)
        if supply is None:
            return await original(self, *args, **kwargs)
        if ledger.present.limits.bound_taking:
            take = functools.partial(original, self, *args, **kwargs)
            return (await limited.acquire_async(self, supply, take))[0]
        try:
            connection = await original(self, *args, **kwargs)
        except BaseException as error:
            desk.refused(supply, error)
            raise
        desk.took(supply, connection, is_async=True)
        return connection

    return acquire


def releasing(original: Method, desk: Desk) -> Method:
    """A method that gives a connection back."""
    if kind(original) == COROUTINE:

        @functools.wraps(original)
        async def release(self: Any, *args: Any, **kwargs: Any) -> Any:
            __tracebackhide__ = True
            supply = desk.opens(self)
            if supply is None:
                return await original(self, *args, **kwargs)
            given = (*args, *kwargs.values()) if kwargs else args
            try:
                if desk.reclaimed and desk.is_late(given):
                    return None  # a late return: its holder need not notice
                checkout = desk.gives(self, given)
                try:
                    return await original(self, *args, **kwargs)
                except BaseException as error:
                    desk.not_given(self, checkout, error)
                    raise
            finally:
                desk.done(supply)

    else:

        @functools.wraps(original)
        def release(self: Any, *args: Any, **kwargs: Any) -> Any:
            __tracebackhide__ = True
            supply = desk.opens(self)
            if supply is None:
                return original(self, *args, **kwargs)
            given = (*args, *kwargs.values()) if kwargs else args
            try:
                if desk.reclaimed and desk.is_late(given):
                    return None
                checkout = desk.gives(self, given)
                try:
                    return original(self, *args, **kwargs)
                except BaseException as error:
                    desk.not_given(self, checkout, error)
                    raise
            finally:
                desk.done(supply)

    return release


def closing(original: Method, desk: Desk) -> Method:
    """A method that closes a pool."""
    if kind(original) == COROUTINE:

        @functools.wraps(original)
        async def close(self: Any, *args: Any, **kwargs: Any) -> Any:
            __tracebackhide__ = True
            supply = desk.opens(self)
            try:
                if supply is not None:
                    desk.closes(supply)
                return await original(self, *args, **kwargs)
            finally:
                if supply is not None:
                    desk.done(supply)

    else:

        @functools.wraps(original)
        def close(self: Any, *args: Any, **kwargs: Any) -> Any:
            __tracebackhide__ = True
            supply = desk.opens(self)
            try:
                if supply is not None:
                    desk.closes(supply)
                return original(self, *args, **kwargs)
            finally:
                if supply is not None:
                    desk.done(supply)

    return close


def making(original: Method, desk: Desk) -> Method:
    """An ``__init__``."""

    @functools.wraps(original)
    def __init__(self: Any, *args: Any, **kwargs: Any) -> None:  # noqa: N807
        __tracebackhide__ = True
        supply = desk.opens_first(self, made_known=True)
        try:
            original(self, *args, **kwargs)
        except BaseException:
            if supply is not None:
                desk.failed(supply)
            raise
        if supply is not None:
            desk.done(supply)

    return __init__
