"""What takes the place of the methods of psycopg_pool's pools.

What the caller gets, and the signatures, are the originals'.
"""

from __future__ import annotations

import functools
import sys
import time
from collections.abc import Awaitable, Callable
from sys import _getframe
from typing import Any

from pytest_poolguard.books.records import Checkout, Task
from pytest_poolguard.drivers import dirty
from pytest_poolguard.drivers.gate import PAUSE, Way
from pytest_poolguard.drivers.psycopg import TALK
from pytest_poolguard.drivers.psycopg_pool.notes import Notes
from pytest_poolguard.drivers.tasks import ASYNCHRONOUS, note_task

#: What an exhausted pool raises: after a wait, and at once where too many wait already.
Errors = tuple[type[Exception], type[Exception]]

__all__ = [
    "watched_async_getconn",
    "watched_async_putconn",
    "watched_close",
    "watched_getconn",
    "watched_init",
    "watched_putconn",
]

#: Instead of a checkout: what is returned was leaked before, and its pool has it already.
LATE = object()


def watched_init(notes: Notes, original: Callable[..., Any]) -> Callable[..., Any]:
    """``BasePool.__init__``: a pool is made."""
    watch = notes.watch

    @functools.wraps(original)
    def __init__(self: Any, *args: Any, **kwargs: Any) -> None:  # noqa: N807
        __tracebackhide__ = True
        original(self, *args, **kwargs)
        if watch.active:
            try:
                notes.new_pool(self, made_known=True)
            except Exception as error:
                watch.on_fault("noting a pool", error)

    return __init__


def watched_getconn(notes: Notes, original: Callable[..., Any], errors: Errors) -> Callable[..., Any]:
    """``ConnectionPool.getconn``; ``errors`` are what an exhausted pool raises, after a wait or at once."""
    watch, ledger, counting = notes.watch, notes.watch.ledger, notes.watch.counting
    records, sessions = ledger.records, watch.sessions
    limited_sessions = sessions.limited

    @functools.wraps(original)
    def getconn(self: Any, timeout: float | None = None) -> Any:
        __tracebackhide__ = True
        limits = ledger.present.limits
        way = checkout = None
        call = watch.asks(self) if counting.is_on else None
        try:
            if limits.max is not None or limits.timeout is not None:
                way = notes.way(self, limits, timeout, errors[0])
                for _ in way:
                    time.sleep(PAUSE)
                timeout = way.left
            connection = original(self, timeout)
            if watch.active:
                try:
                    record = records.get(id(self))  # as in ledger.pool(), without the call
                    if record is None or record.ref() is not self:
                        record = notes.new_pool(self, made_known=False)
                    checkout = ledger.check_out(record, connection, blocking=True)
                    if limits.session is not None or limited_sessions:
                        sessions.set(self, connection, TALK)
                except Exception as fault:
                    watch.on_fault("noting a checkout", fault)
        except errors as refusal:
            watch.refused(self, refusal)
            raise
        finally:
            if way is not None or call is not None:
                notes.leave(way, call, checkout)
        return connection

    return getconn


def watched_async_getconn(  # noqa: C901 - a function more is a call more, for every connection
    notes: Notes, original: Callable[..., Any], errors: Errors
) -> Callable[..., Any]:
    """``AsyncConnectionPool.getconn``, likewise."""
    watch, ledger, counting = notes.watch, notes.watch.ledger, notes.watch.counting
    asyncio = sys.modules["asyncio"]  # the library has imported it
    current_task, sleep, records = asyncio.current_task, asyncio.sleep, ledger.records
    limited_sessions = watch.sessions.limited
    last: Task | None = None
    refusals = (*errors, asyncio.CancelledError)

    @functools.wraps(original)
    async def getconn(self: Any, timeout: float | None = None) -> Any:
        nonlocal last
        __tracebackhide__ = True
        waiting = None if _getframe(1).f_code.co_flags & ASYNCHRONOUS else notes.who_waits()
        limits = ledger.present.limits
        way = checkout = None
        call = watch.asks(self) if counting.is_on else None
        try:
            if limits.max is not None or limits.timeout is not None:
                way = notes.way(self, limits, timeout, errors[0])
                timeout = await _waited(way, sleep)
            connection = await original(self, timeout)
            if limits.session is not None or limited_sessions:
                await notes.limit(self, connection)
            if watch.active:
                try:
                    record = records.get(id(self))  # as in ledger.pool(), without the call
                    if record is None or record.ref() is not self:
                        record = notes.new_pool(self, made_known=False)
                    checkout = ledger.check_out(record, connection)
                    task = current_task()
                    if checkout is None or task is None:
                        pass
                    elif waiting is None and last is not None and last.ref() is task:
                        checkout.task = last  # the same as before
                    else:
                        last = note_task(checkout, task, ledger, waiting)
                except Exception as fault:
                    watch.on_fault("noting a checkout", fault)
        except refusals as refusal:
            watch.refused(self, refusal, waiting.task.ref() if waiting is not None else None)
            raise
        finally:
            if way is not None or call is not None:
                notes.leave(way, call, checkout)
        return connection

    return getconn


def _noting_returns(notes: Notes) -> Callable[[Any, Any], Checkout | object | None]:
    """Make what notes that a client returns a connection: its checkout, or ``LATE``. It is called very often."""
    watch, give_back, reclaiming = notes.watch, notes.watch.ledger.give_back, notes.reclaiming
    reclaimed = reclaiming.reclaimed

    def returns(pool: Any, conn: Any) -> Checkout | object | None:
        if reclaimed and reclaiming.was_handed_in(conn):
            return LATE
        if watch.active:
            try:
                return give_back(pool, conn)
            except Exception as error:
                watch.on_fault("noting a return", error)
        return None

    return returns


async def _waited(way: Way, sleep: Callable[[float], Awaitable[None]]) -> float:
    """Wait until the way to a connection is free; the seconds that are left to take it."""
    __tracebackhide__ = True
    for _ in way:
        await sleep(PAUSE)
    return way.left


def watched_putconn(notes: Notes, original: Callable[..., Any]) -> Callable[..., Any]:
    """``ConnectionPool.putconn``."""
    watch, gates, returns = notes.watch, notes.gates, _noting_returns(notes)

    @functools.wraps(original)
    def putconn(self: Any, conn: Any) -> Any:
        __tracebackhide__ = True
        checkout: Any = returns(self, conn)
        if checkout is LATE:
            return None  # its holder need not notice
        lost = watch.dirty_returns and checkout is not None and checkout.returned and dirty.psycopg_wrote(conn)
        try:
            result = original(self, conn)
        except BaseException as error:
            notes.not_returned(self, conn, checkout, error)
            raise
        if lost:
            dirty.note(watch, checkout)
        if gates.any_raised:
            notes.cut_down(self)
        return result

    return putconn


def watched_async_putconn(notes: Notes, original: Callable[..., Any]) -> Callable[..., Any]:
    """``AsyncConnectionPool.putconn``."""
    watch, gates, returns = notes.watch, notes.gates, _noting_returns(notes)

    @functools.wraps(original)
    async def putconn(self: Any, conn: Any) -> Any:
        __tracebackhide__ = True
        checkout: Any = returns(self, conn)
        if checkout is LATE:
            return None
        answer = None
        if watch.dirty_returns and checkout is not None and checkout.returned:
            answer = await dirty.psycopg_wrote_async(conn)
        try:
            result = await original(self, conn)
        except BaseException as error:
            notes.not_returned(self, conn, checkout, error)
            raise
        if gates.any_raised:
            notes.cut_down(self)
        if answer is not None:
            dirty.settle(watch, checkout, answer)
        return result

    return putconn


def watched_close(notes: Notes, original: Callable[..., Any]) -> Callable[..., Any]:
    """``ConnectionPool.close``; the asynchronous one, too: what it returns is awaited by its caller."""
    watch = notes.watch

    @functools.wraps(original)
    def close(self: Any, timeout: float = 5.0) -> Any:
        __tracebackhide__ = True
        if watch.active:
            try:
                notes.record(self).was_closed = True
            except Exception as error:
                watch.on_fault("noting that a pool was closed", error)
        return original(self, timeout)

    return close
