"""Where the connections of one in-house pool class go out and come back: what its replaced methods note.

While one of them runs, what it takes from other pools and opens itself is the pool's own (``records.Supply``):
whoever takes it from there holds it. A call of the pool's own in the middle of another one counts for nothing.
"""

from __future__ import annotations

import contextlib
import sys
import weakref
from typing import Any

from pytest_poolguard.books.origin import Origin, capture, printable
from pytest_poolguard.books.records import Checkout, Pool, Supply, Task
from pytest_poolguard.books.redaction import redacted
from pytest_poolguard.drivers.inhouse.border import Border
from pytest_poolguard.drivers.inhouse.refusing import is_refusal, is_same
from pytest_poolguard.drivers.interface import Watch
from pytest_poolguard.judging import holders

__all__ = ["Desk"]

#: Arguments that are no connection.
PLAIN = (type(None), bool, int, float, str, bytes)


class Desk:
    """The books of one class."""

    def __init__(self, watch: Watch, driver: Any, release: str) -> None:
        self.watch = watch
        self.release = release  #: the name of the method that gives a connection back; empty where there is none
        self.closed: weakref.WeakSet[Pool] = weakref.WeakSet()
        self._any_closed = False
        self.reclaimed: dict[int, list[Any]] = {}  #: by id: a weak reference, and whether its pool has it
        self._ledger = watch.ledger
        self._records = watch.ledger.records
        self._current = watch.ledger.supply
        self._driver = driver
        self.border = Border()
        self._said: set[str] = set()
        self._sound: type | None = None  #: of the connection that was handed out last

    # the beginning and the end of a call

    def opens(self, pool: Any) -> Supply | None:
        """A method of a pool was called; None in the middle of another one, and where nobody watches."""
        current = self._current
        before = current.get()
        record = self._records.get(id(pool))  # as in ledger.pool(), without the call
        if before is not None or record is None or record.ref() is not pool or not self.watch.active:
            return self.opens_first(pool)
        supply = Supply(record, None)
        current.set(supply)
        return supply

    def opens_first(self, pool: Any, *, made_known: bool = False) -> Supply | None:
        """Likewise, for a pool that is perhaps not known yet or serves another one."""
        if not self.watch.active:
            return None
        before = outer = self._current.get()
        while outer is not None:
            if outer.pool.ref() is pool:
                return None
            outer = outer.outer
        try:
            record = self._ledger.pool(pool) or self._new_pool(pool, made_known=made_known)
        except TypeError:
            self._refuse(f"{type(pool).__name__} objects can't be weakly referenced (their __slots__ forbid it)")
            return None
        except Exception as error:
            self.watch.on_fault("noting a pool", error)
            return None
        supply = Supply(record, before)
        self._current.set(supply)
        return supply

    def failed(self, supply: Supply) -> None:
        """It raised: what it took and opened is nobody's supply, and has to be given back by itself."""
        self._current.set(supply.outer)
        for opening in supply.openings:
            opening.pool = supply.outer.pool if supply.outer is not None else None
        if supply.outer is not None:
            supply.outer.checkouts += supply.checkouts

    def refused(self, supply: Supply, error: BaseException) -> None:
        """The method that takes a connection raised: perhaps since the pool has none."""
        self.failed(supply)
        inner, supply.refusal = supply.refusal, None
        with self.watch.noting("who has the connections of a pool"):
            is_closed = supply.pool in self.closed
            if self.watch.active and is_refusal(self.watch, supply.pool, error, is_closed=is_closed):
                self.watch.refused(supply.pool.ref(), error)
            elif inner is not None:
                self.watch.refused(inner[0].ref(), *inner[1:])

    def done(self, supply: Supply) -> None:
        """It has come to its end: what it took is the pool's own."""
        self._current.set(supply.outer)
        for inner in supply.checkouts:
            connection = inner.connection()
            if connection is not None and not inner.returned:
                self._ledger.serve(connection, supply.pool)

    # connections go out

    def took(self, supply: Supply, connection: Any, *, is_async: bool = False) -> Checkout | None:
        """It returned a connection."""
        kind = type(connection)
        reason = "" if kind is self._sound else _not_watched(kind)
        if reason or connection is None:
            self.failed(supply)
            if reason:
                self._refuse(f"{self._driver.library} hands out {reason}")
            return None
        self._sound = kind
        self._current.set(supply.outer)
        supply.refusal = None  # it went on without that
        record, ledger, checkout = supply.pool, self._ledger, None
        session = ledger.present.limits.session
        if session is not None:
            self.watch.sessions.hold_not(session, f"on what {self._driver.library} hands out")
        try:
            if supply.checkouts or ledger.knows(connection) or getattr(connection, "__dict__", None):
                self._serve(supply, connection)
            checkout = ledger.check_out(record, connection, blocking=not is_async)
            if checkout is None:  # the same one for the same thread, say
                return None
            checkout.stack = self.border.outside(checkout.stack)
            if self._any_closed:  # perhaps it was opened again
                self.closed.discard(record)
            if is_async:
                task = sys.modules["asyncio"].current_task()
                if task is not None:
                    checkout.task = Task(task, ledger.starter.get())
        except Exception as error:
            self.watch.on_fault("noting a checkout", error)
        return checkout

    def _serve(self, supply: Supply, connection: Any) -> None:
        """Whatever the connection is made of is the pool's own."""
        ledger, record = self._ledger, supply.pool
        if supply.checkouts:
            self.done(supply)
        held = ledger.held_by(connection)
        if held is not None and held.pool is not record:  # the very connection of a pool that this one stands on
            held.pool.is_handed_on = True
            ledger.give_back(held.pool.ref(), connection)
        if ledger.knows(connection):
            ledger.serve(connection, record)
            return
        for part in list(getattr(connection, "__dict__", {}).values()):
            if ledger.knows(part):
                ledger.serve(part, record)

    # connections come back

    def gives(self, pool: Any, given: tuple[Any, ...]) -> Checkout | None:
        """A connection is given back: the one among the arguments, or what it wraps, or what wraps it.

        Without an argument it is the last one that this thread has taken.
        """
        try:
            for value in given:
                checkout = self._ledger.give_back(pool, value)
                if checkout is not None and checkout.returned:
                    return checkout
            out = [checkout for checkout in self._ledger.outstanding() if checkout.pool.ref() is pool]
            if given:
                values = [value for value in given if type(value) not in PLAIN]
                out = [checkout for checkout in out if is_same(checkout, values, pool)]
            else:
                thread = self._ledger.this_thread()
                out = [checkout for checkout in out if checkout.thread == thread]
            connection = out[-1].connection() if out else None
            return self._ledger.give_back(pool, connection) if connection is not None else None
        except Exception as error:
            self.watch.on_fault("noting a return", error)
            return None

    def not_given(self, pool: Any, checkout: Checkout | None, error: BaseException) -> None:
        """It raised: the connection is still out, unless its pool is closed and nobody could take it."""
        if checkout is None or checkout.pool in self.closed or checkout.pool.ref() is not pool:
            return
        try:
            self._ledger.put_back(checkout)
            text = str(error).strip().partition("\n")[0]
            reason = redacted(printable(f"{type(error).__name__}: {text}" if text else type(error).__name__))
            checkout.cause = ("release raised", reason)
        except Exception as fault:
            self.watch.on_fault("noting a failed return", fault)

    def left(self, checkout: Checkout | None) -> None:
        """A context manager was left: its connection comes back, if it did not yet."""
        if checkout is not None and self.watch.active:
            try:
                self._ledger.end(checkout)
            except Exception as error:
                self.watch.on_fault("noting a return", error)

    def closes(self, supply: Supply) -> None:
        """A pool is closed."""
        try:
            self._ledger.pool_closes(supply.pool)
            self.closed.add(supply.pool)
            self._any_closed = True
        except Exception as error:
            self.watch.on_fault("noting that a pool was closed", error)

    # leaks that were told

    def reclaims(self, connection: Any) -> None:
        """A leaked connection is given back for its holder, who may yet do so: the pool is to get it once."""
        self.reclaimed[id(connection)] = [weakref.ref(connection), False]

    def is_late(self, given: tuple[Any, ...]) -> bool:
        """Whether the pool has this connection back already; from now on it has."""
        for value in given:
            known = self.reclaimed.get(id(value))
            # Where it is out again, it is most likely the new holder who gives it back.
            if known is not None and known[0]() is value and self._ledger.held_by(value) is None:
                before, known[1] = known[1], True
                return bool(before)
        return False

    def came_back(self, connection: Any) -> bool:
        """Whether the holder of a leaked connection has given it back after all: others may have it now."""
        known = self.reclaimed.get(id(connection))
        return known is not None and known[0]() is connection and bool(known[1])

    # pools

    def adopt(self, pool: Any) -> None:
        """A pool that was made before anybody watched: what it has taken and opened by then is its own."""
        ledger = self._ledger
        connections = [record.ref() for record in ledger.openings()]
        connections += [checkout.connection() for checkout in ledger.outstanding()]
        own = [one for one in connections if one is not None and holders.reaches(pool, one, None)]
        if own:
            record = ledger.pool(pool) or self._new_pool(pool, made_known=False)
            for connection in own:
                ledger.serve(connection, record)

    def _new_pool(self, pool: Any, *, made_known: bool) -> Pool:
        made = Origin(self.border.outside(capture(self._ledger.stops, 2)))
        label = type(pool).__name__
        return self._ledger.add_pool(pool, self._driver, label, made, made_known=made_known)

    def say(self, text: str) -> None:
        """Say something of the class in the summary, once."""
        if text not in self._said:
            self._said.add(text)
            self.watch.on_unwatched(f"{self._driver.library}: {text}")

    def _refuse(self, text: str) -> None:
        if text not in self._said:
            self._said.add(text)
            self.watch.on_unwatched(f"{self._driver.library} is not watched: {text}")


def _not_watched(kind: type) -> str:
    """Why what a pool hands out can't be watched; empty if it can, and for None."""
    if not kind.__weakrefoffset__ and kind is not type(None):
        return f"{kind.__name__} objects, which can't be weakly referenced"
    if kind.__module__ == contextlib.__name__:
        return "context managers; name the method that takes the connection"
    if hasattr(kind, "__await__"):
        return f"{kind.__name__} objects, which the caller awaits; name the method that is awaited"
    return ""
