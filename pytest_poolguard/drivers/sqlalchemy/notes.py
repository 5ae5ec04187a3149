"""What the events of SQLAlchemy's pools say, as the ledger has it.

A proxy that nobody refers to any longer is given back by SQLAlchemy itself, through the same event as any other:
the two are told apart by whether the proxy is still there.
"""

from __future__ import annotations

import contextlib
import sys
import weakref
from collections.abc import Callable
from sys import _getframe  # as in ``origin``
from threading import get_ident
from typing import Any

from pytest_poolguard.books.origin import Origin, capture
from pytest_poolguard.books.records import Checkout, Opening, Owner, Pool, Task
from pytest_poolguard.drivers.interface import Watch
from pytest_poolguard.drivers.sqlalchemy.sight import (
    beyond_greenlets,
    dialect_of,
    driver_connection,
    is_done,
    label_of,
    pool_of,
    replaced_by,
    unwrapped,
)
from pytest_poolguard.drivers.sqlalchemy.uncommitted import Uncommitted
from pytest_poolguard.drivers.sqlalchemy.words import is_library
from pytest_poolguard.sizing.counting import Call

__all__ = ["Notes"]

#: Frames of a listener of checkouts and its callers, up to the pool's ``connect``: they say nothing.
OWN_FRAMES = 4
#: The same, with an engine's ``connect`` and what that calls.
VIA_ENGINE = 8


class Notes:
    """The functions that listen."""

    def __init__(self, watch: Watch, driver: Any) -> None:
        self._watch = watch
        self._driver = driver
        self._made: weakref.WeakKeyDictionary[Any, tuple[Origin, Owner]] = weakref.WeakKeyDictionary()
        self._unwatched: weakref.WeakSet[Any] = weakref.WeakSet()  #: pools of other dialects
        self._shared: set[Pool] = set()  #: those of one connection for everybody
        self._out: dict[int, Checkout] = {}  #: by the id of the pool's entry of the connection
        self._collector = 0  #: the thread that collects garbage just now

    def listeners(self, engine: type[Any]) -> dict[str, Callable[..., None]]:
        """A function for each event of every pool."""
        return {
            "connect": self._on_connect,
            "checkout": self._listener_of_checkouts(engine),
            "checkin": self._listener_of_checkins(),
            "detach": self._on_detach,
            "close": self._on_close,
        }

    def _listener_of_checkouts(self, engine: type[Any]) -> Callable[..., None]:
        notes, watch, out, shared = self, self._watch, self._out, self._shared
        records, check_out = watch.ledger.records, watch.ledger.check_out
        connect = vars(engine)["connect"].__code__

        def poolguard_checkout(_dbapi_connection: Any, entry: Any, proxy: Any) -> None:
            if watch.active:
                try:
                    pool = proxy._pool  # noqa: SLF001
                    record = records.get(id(pool))  # as in ledger.pool(), without the call
                    if record is None or record.ref() is not pool:
                        record = notes._new_pool(pool, entry)
                        if record is None:
                            return
                    try:  # each frame costs: those that an engine's connect() puts in between are left out
                        skip = VIA_ENGINE if _getframe(VIA_ENGINE - 2).f_code is connect else OWN_FRAMES
                    except ValueError:  # there are not so many
                        skip = OWN_FRAMES
                    is_async = pool._dialect.is_async  # noqa: SLF001
                    checkout = check_out(record, proxy, skip, blocking=not is_async)
                    if checkout is not None:
                        if not shared or record not in shared:
                            out[id(entry)] = checkout
                        if is_async:
                            notes._in_a_task(checkout)
                except Exception as error:
                    watch.on_fault("noting a checkout", error)

        return poolguard_checkout

    def _listener_of_checkins(self) -> Callable[..., None]:
        notes, watch, out, shared = self, self._watch, self._out, self._shared
        end = watch.ledger.end

        def poolguard_checkin(_dbapi_connection: Any, entry: Any) -> None:
            if watch.active:
                try:
                    checkout = out.pop(id(entry), None)
                    if checkout is not None:
                        proxy: Any = checkout.connection()
                        if proxy is None or notes._collector:
                            notes._returned(checkout)
                        else:
                            end(checkout)
                    elif shared:
                        notes._look_at_shared(entry)
                except Exception as error:
                    watch.on_fault("noting a return", error)

        return poolguard_checkin

    def _on_connect(self, _dbapi_connection: Any, entry: Any) -> None:
        """A pool has a new connection: another pool's, it may be."""
        if self._watch.active:
            try:
                pool = pool_of(entry)
                record = self._watch.ledger.pool(pool) or self._new_pool(pool, entry)
                if record is not None:
                    self._watch.ledger.serve(driver_connection(entry), record)
            except Exception as error:
                self._watch.on_fault("noting a new connection", error)

    def _on_detach(self, dbapi_connection: Any, entry: Any) -> None:
        """A connection has left its pool: somebody has it for himself, or nobody, and SQLAlchemy closes it."""
        if self._watch.active:
            try:
                ledger, checkout = self._watch.ledger, self._out.get(id(entry))
                proxy: Any = checkout.connection() if checkout is not None else None
                if checkout is not None and (proxy is None or proxy._connection_record is not entry):  # noqa: SLF001
                    del self._out[id(entry)]  # else another thread has the place already
                    self._returned(checkout)
                below = pool_of(entry)._dialect.get_driver_connection(dbapi_connection)  # noqa: SLF001
                opening = ledger.opening(unwrapped(below))
                if opening is not None and proxy is not None:
                    self._hand_over(opening)
            except Exception as error:
                self._watch.on_fault("noting that a connection was detached", error)

    def _on_close(self, _dbapi_connection: Any, entry: Any) -> None:
        """A pool closes a connection: if that is another pool's, whoever took it there answers for it again."""
        if self._watch.active:
            try:
                inner = self._watch.ledger.held_by(driver_connection(entry))
                if inner is not None:
                    inner.serves = None
            except Exception as error:
                self._watch.on_fault("noting a closed connection", error)

    def on_reset(self, _dbapi_connection: Any, entry: Any, _state: Any) -> None:
        """A shared connection is given back by one of those who have it: the others' say so in no other event."""
        if self._watch.active:
            try:
                self._look_at_shared(entry)
            except Exception as error:
                self._watch.on_fault("noting a return", error)

    def on_doubtful_return(self, uncommitted: Uncommitted) -> Callable[..., None]:
        """A connection is returned, and its pool will see to the transaction."""

        def poolguard_reset(_dbapi_connection: Any, entry: Any, state: Any) -> None:
            if self._watch.active and not self._collector:
                try:
                    uncommitted.on_reset(self._out.get(id(entry)), entry, state)
                except Exception as error:
                    self._watch.on_fault("noting a return in the middle of a transaction", error)

        return poolguard_reset

    def is_collecting(self) -> bool:
        """Whether this is code that garbage collection calls."""
        return self._collector == get_ident()

    def on_collection(self, phase: str, _info: Any) -> None:
        """Garbage is collected, from now on or no longer."""
        self._collector = get_ident() if phase == "start" else 0

    # what they note

    def making(self, pool: Any) -> None:
        """Note where a pool is made; one that takes another's place is told by where that was made."""
        ledger = self._watch.ledger
        old = replaced_by(pool)
        made = None
        if old is not None:
            made, record = self._made.get(old), ledger.pool(old)
            if record is not None:
                record.was_closed = True
        self._made[pool] = made or (Origin(capture(ledger.stops, 2)), ledger.present)

    def _new_pool(self, pool: Any, entry: Any) -> Pool | None:
        """The record of a pool that was not seen before; None for one that is not watched."""
        if pool in self._unwatched:
            return None
        if dialect_of(pool, entry) not in self._watch.dialects:
            self._unwatched.add(pool)
            return None
        ledger = self._watch.ledger
        origin, owner = self._made.get(pool) or (Origin(capture(ledger.stops, 2)), ledger.present)
        record = ledger.add_pool(
            pool, self._driver, label_of(pool), origin, made_known=pool in self._made, owner=owner
        )
        if isinstance(pool, sys.modules["sqlalchemy.pool"].StaticPool):
            self._shared.add(record)
            self._driver.listen_to_shared(record)
        return record

    def asks(self, pool: Any) -> Call | None:
        """A pool is asked for a connection, its first one it may be."""
        with self._watch.noting("a pool"):
            if self._watch.active and self._watch.ledger.pool(pool) is None and dialect_of(pool, None):
                self._new_pool(pool, None)
        return self._watch.asks(pool)

    def _hand_over(self, opening: Opening) -> None:
        """A connection is a pool's no longer: whoever has detached it is to close it."""
        stack = Origin(capture(self._watch.ledger.stops, 2))
        own = next((n for n, (code, _) in enumerate(stack.frames()) if not is_library(code.co_filename)), 0)
        del stack[: 2 * own]
        opening.pool, opening.opened, opening.owner = None, stack, self._watch.ledger.present
        opening.phase = opening.owner.phase
        opening.owner.opened.append(opening)

    def _in_a_task(self, checkout: Checkout) -> None:
        """Note the task that has it, and go on with the stack where the greenlet was started that runs for it."""
        with contextlib.suppress(RuntimeError):  # another loop than asyncio's
            task = sys.modules["asyncio"].current_task()
            if task is not None:
                checkout.task = Task(task, self._watch.ledger.starter.get())
        checkout.stack += beyond_greenlets(self._watch.ledger.stops)

    def _returned(self, checkout: Checkout) -> None:
        """Note a return, by whomever: a proxy that was closed counts down to zero first."""
        proxy: Any = checkout.connection()
        in_collection = self._collector == get_ident()
        if proxy is None or (in_collection and not is_done(proxy)):
            # An asyncio pool can't give it back: it is closed, and there is an error in the log.
            pool: Any = checkout.pool.ref()
            harmless = not in_collection and pool is not None and not pool._dialect.is_async  # noqa: SLF001
            self._watch.ledger.dropped(checkout, harmless=harmless)
        else:
            self._watch.ledger.give_back(checkout.pool.ref(), proxy)

    def _look_at_shared(self, entry: Any) -> None:
        pool = pool_of(entry)
        for checkout in self._watch.ledger.outstanding():
            proxy = checkout.connection()
            if checkout.pool.ref() is pool and (proxy is None or is_done(proxy)):
                self._returned(checkout)
