"""Connections of SQLAlchemy's pools that are given back in the middle of a transaction that wrote.

``Connection.close()`` and ``Session.close()`` roll back by themselves, with the events of any other rollback:
only the call tells that nobody has asked for it. So these two are replaced. What is below them, a
``raw_connection()``, is rolled back by its pool, right after the event ``reset``.

Nothing of this is there unless the setting is on.
"""

from __future__ import annotations

import contextlib
import functools
import sys
from collections.abc import Callable, Iterable
from contextvars import ContextVar
from types import ModuleType
from typing import Any, NamedTuple

from pytest_poolguard.books.origin import Origin, capture
from pytest_poolguard.books.records import Checkout
from pytest_poolguard.drivers import dirty
from pytest_poolguard.drivers.interface import Unsupported, Watch
from pytest_poolguard.drivers.patching import Patches
from pytest_poolguard.drivers.sqlalchemy.sight import beyond_greenlets, driver_connection, pool_of

__all__ = ["Uncommitted"]


class _Close(NamedTuple):
    """An asynchronous close, as its caller sees it: the work is done in a greenlet, often in another task."""

    at: Origin
    is_unwinding: bool  #: an exception is on its way through the caller


class Uncommitted:
    """Asks, before a connection is closed, whether it has written; notes it when the connection is returned."""

    def __init__(self, watch: Watch, patches: Patches) -> None:
        self._watch = watch
        self._patches = patches
        self._present: ContextVar[_Close | None] = ContextVar("poolguard-close", default=None)

    # what is replaced

    def patch_connection(self, module: ModuleType) -> None:
        """``sqlalchemy.engine.base``."""
        self._patch(module, "Connection", ("close",), self._closing(_proxy_of))

    def patch_session(self, module: ModuleType) -> None:
        """``sqlalchemy.orm.session``; ``reset()`` came later than ``close()``."""
        self._patch(module, "Session", ("close", "reset"), self._closing(_proxies_of))

    def patch_async(self, module: ModuleType) -> None:
        """``sqlalchemy.ext.asyncio.engine`` and ``session``."""
        name = "AsyncSession" if hasattr(module, "AsyncSession") else "AsyncConnection"
        self._patch(module, name, ("close", "reset", "__aexit__"), self._async_closing)

    def _patch(
        self, module: ModuleType, name: str, methods: Iterable[str], watched: Callable[[Any], Callable[..., Any]]
    ) -> None:
        cls: Any = getattr(module, name, None)
        if "close" not in getattr(cls, "__dict__", {}):
            raise Unsupported(f"{module.__name__}.{name} has no close")
        for method in methods:
            if method in vars(cls):
                self._patches.replace(cls, method, watched(vars(cls)[method]))

    def _closing(self, proxies_of: Callable[[Any], Iterable[Any]]) -> Callable[[Any], Callable[..., Any]]:
        def watched(original: Callable[..., Any]) -> Callable[..., Any]:
            @functools.wraps(original)
            def close(closed: Any) -> Any:
                __tracebackhide__ = True
                lost, cancelled = self._ask(closed, proxies_of)
                result = original(closed)
                self._watch.ledger.dirty += lost
                if cancelled is not None:
                    raise cancelled
                return result

            return close

        return watched

    def _async_closing(self, original: Callable[..., Any]) -> Callable[..., Any]:
        present, watch = self._present, self._watch

        @functools.wraps(original)
        async def close(self: Any, *args: Any) -> Any:
            __tracebackhide__ = True
            token = None
            if watch.active and present.get() is None:
                unwinding = dirty.is_unwinding() or (bool(args) and args[0] is not None)
                token = present.set(_Close(Origin(capture(watch.ledger.stops, 1)), unwinding))
            try:
                return await original(self, *args)
            finally:
                if token is not None:
                    with contextlib.suppress(ValueError):  # ended by a loop that ends, in whatever context
                        present.reset(token)

        return close

    # the question

    def _ask(
        self, closed: Any, proxies_of: Callable[[Any], Iterable[Any]]
    ) -> tuple[list[Checkout], BaseException | None]:
        lost: list[Checkout] = []
        cancelled = None
        if self._watch.active and not self._is_unwinding():
            try:
                for proxy in proxies_of(closed):
                    checkout = self._watch.ledger.held_by(proxy)
                    if checkout is not None and cancelled is None:
                        wrote, cancelled = _wrote(checkout, proxy)
                        if wrote:
                            checkout.returned_at = self._place()
                            lost.append(checkout)
            except Exception as error:
                self._watch.on_fault("noting a return in the middle of a transaction", error)
        return lost, cancelled

    def on_reset(self, checkout: Checkout | None, entry: Any, state: Any) -> None:
        """A pool is about to roll back what was returned, if nobody has done so before."""
        proxy: Any = checkout.connection() if checkout is not None else None
        if checkout is None or proxy is None or state.transaction_was_reset or state.terminate_only:
            return
        rolls_back = pool_of(entry)._reset_on_return is sys.modules["sqlalchemy.pool.base"].reset_rollback  # noqa: SLF001
        if not rolls_back or checkout.returned_at is not None or self._is_unwinding():
            return
        wrote, cancelled = _wrote(checkout, proxy)
        if wrote:
            checkout.returned_at = self._place()
            self._watch.ledger.dirty.append(checkout)
        if cancelled is not None:
            raise cancelled

    def _is_unwinding(self) -> bool:
        close = self._present.get()
        return close.is_unwinding if close is not None else dirty.is_unwinding()

    def _place(self) -> Origin:
        close = self._present.get()
        if close is not None:
            return close.at
        return Origin(capture(self._watch.ledger.stops, 3) + beyond_greenlets(self._watch.ledger.stops))


def _proxy_of(connection: Any) -> list[Any]:
    return [connection._dbapi_connection]  # noqa: SLF001


def _proxies_of(session: Any) -> list[Any]:
    """The proxies that a session will give back; one that was bound to a connection leaves it to its owner."""
    found, transaction = {}, session._transaction  # noqa: SLF001
    while transaction is not None:
        for connection, _, _, is_given_back in list(transaction._connections.values()):  # noqa: SLF001
            if is_given_back:
                found[id(connection)] = connection._dbapi_connection  # noqa: SLF001
        transaction = transaction.parent
    return list(found.values())


def _wrote(checkout: Checkout, proxy: Any) -> tuple[bool, BaseException | None]:
    """Whether a connection has written, and what has cancelled the question."""
    connection, pool = driver_connection(proxy), checkout.pool.ref()
    if pool is None or not pool._dialect.is_async:  # noqa: SLF001
        return dirty.psycopg2_wrote(connection) or dirty.psycopg_wrote(connection), None
    ask = dirty.psycopg_wrote_async if hasattr(connection, "pgconn") else dirty.asyncpg_wrote
    try:
        return sys.modules["sqlalchemy.util"].await_only(ask(connection))  # type: ignore[no-any-return]
    except Exception:  # no greenlet: neither could it be rolled back
        return False, None
