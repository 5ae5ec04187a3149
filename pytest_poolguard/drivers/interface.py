"""The watched libraries: one module each, all with the interface below; ``known`` lists them.

A driver notes what its library does in the ledger and knows how to look at, and free, what it handed out.
It knows no test framework. Nothing here imports a library: see ``imports``.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import ModuleType
from typing import Any, Protocol

from pytest_poolguard.books.ledger import Ledger
from pytest_poolguard.books.records import Checkout, Opening, Pool
from pytest_poolguard.drivers.session_limits import Sessions
from pytest_poolguard.sizing.counting import Call, Counting

__all__ = ["AddedDriver", "Driver", "State", "Terms", "Unaskable", "Unsupported", "Watch"]


class Unsupported(Exception):  # noqa: N818 - it is no error of the program that meets it
    """A library lacks what its driver patches; the text says what."""


class Unaskable(Exception):  # noqa: N818 - as above
    """A server does not answer; the text says why, on one line and without a secret."""


@dataclass(frozen=True)
class State:
    """What a driver can tell of a connection without talking to the server."""

    backend_pid: int | None = None
    transaction: str = ""  #: "idle", "active", "idle in transaction", "idle in a failed transaction", "unknown"
    closed: bool = False  #: by whomever, or broken
    broken: bool = False  #: closed by no call of close(): the server or the network is gone


@dataclass(frozen=True)
class Terms:
    """What a library calls the things that are done with its pools, for the words of a hint."""

    take: str  #: the method that takes a connection
    give: str  #: the method that returns it
    close: str  #: the method that closes a pool; empty where none is known
    cure: str  #: what code that leaks should do: "call putconn() in a finally block"
    discard: str  #: the call that returns a broken connection: "putconn(conn, close=True)"
    #: Whose method ``give`` is: the "pool"'s, which gets the connection, the "connection"'s own, or that of the
    #: "taker": a session takes its connection when it is used, and returns it when it is closed itself.
    giver: str = "pool"
    with_returns: bool = False  #: ``with``, or ``async with``, around the call of ``take`` returns the connection
    commit: str = "commit()"  #: what keeps what was written
    rollback: str = "rollback()"  #: what gives it up
    in_house: bool = False  #: the pool's class may be the project's own, and is watched for all that


@dataclass
class Watch:
    """What a driver reports to, and what it is told: one for the run."""

    ledger: Ledger
    on_fault: Callable[[str, BaseException], None]
    #: A connection was opened; with what makes a way to ask its server (see ``server.Ask``).
    #: The first one to each server makes it ask, which takes some milliseconds, or what that may take at most.
    on_connected: Callable[[Opening, Callable[[], Any]], None]
    dialects: tuple[str, ...] = ("postgresql",)  #: those of SQLAlchemy's that are watched
    active: bool = True
    dirty_returns: bool = False  #: whether to ask if what is given back has written in a transaction that is open
    #: Whether ``on_connected`` will ask.
    is_first: Callable[[Opening], bool] = lambda _: False
    #: Something of a library is not watched: says what, and why, in a line.
    on_unwatched: Callable[[str], None] = lambda _: None
    #: Something that was asked for can't be done, though everything is watched: says what, and why, in a line.
    on_notice: Callable[[str], None] = lambda _: None
    #: Who has connections of a pool, in lines of text.
    holders: Callable[[Pool], list[str]] = lambda _pool: []
    #: A pool refuses the running code a connection, with an error; the task is the one that waits for the running
    #: one, where that does nothing else.
    on_refused: Callable[[Pool, BaseException, Any], None] = lambda _pool, _error, _task: None
    #: Is told of calls for connections, where a pool may let its callers wait, while it ``is_on``.
    counting: Counting = field(init=False)
    grace: float = 1.0  #: seconds to wait for what somebody could still return
    reclaims: bool = False  #: whether leaked connections are ended
    #: The threads that return nobody's connection, though they run.
    bystanders: Callable[[], Iterable[Any]] = tuple
    #: The connections that have limits of the server's own.
    sessions: Sessions = field(init=False)

    def __post_init__(self) -> None:
        self.counting = Counting(self.ledger)
        self.sessions = Sessions(self.ledger, self.on_notice)

    def refused(self, pool: object, error: BaseException, task: Any = None) -> None:
        """A pool is about to raise an error instead of handing out a connection, to the running code.

        Where that is another pool, which takes it for itself, it is that one's to tell.
        """
        if self.active:
            with self.noting("who has the connections of a pool"):
                record, supply = self.ledger.pool(pool), self.ledger.supply.get()
                if record is None:
                    return
                if supply is not None and supply.pool is not record:
                    supply.refusal = record, error, task
                else:
                    self.on_refused(record, error, task)

    def refused_at_once(self, pool: object, error: BaseException) -> None:
        """Likewise, of a pool that never lets its callers wait: none is left."""
        if self.active:
            with self.noting("that a pool has nothing left"):
                self.counting.refuses(pool)
        self.refused(pool, error)

    def asks(self, pool: object) -> Call | None:
        """A pool is about to be asked for a connection by the running code; None where nobody counts."""
        if self.active:
            try:
                return self.counting.asks(pool)
            except Exception as error:
                self.on_fault("noting that a connection is asked for", error)
        return None

    def answers(self, call: Call | None, checkout: Checkout | None = None) -> None:
        """The pool has answered: with this connection; for None, with one that is to be noted, or an error."""
        if call is not None and self.active:
            try:
                self.counting.answers(call, checkout)
            except Exception as error:
                self.on_fault("noting who has waited for a connection", error)

    @contextmanager
    def noting(self, what: str) -> Iterator[None]:
        """Keep exceptions of the driver's own from its caller; where speed matters, a ``try`` statement does."""
        try:
            yield
        except Exception as error:
            self.on_fault(f"noting {what}", error)


class Driver(Protocol):
    """One library.

    It may have a method ``capacity(pool)``: how many connections may be out at once, None for no limit; and
    ``talk(connection)``: how to set the limits of a session over a connection, a ``session_limits.Talk``.
    One whose pools hand out objects of their own for a driver's connections, or let sessions hold them, may have
    three methods besides: ``driver_connection(connection)`` is the one below, ``held_in(thing)`` the connections
    that an object of the library's holds deep inside, ``terms_of(checkout)`` the words for what took this one.
    """

    #: The library's name, as in the report.
    library: str
    #: References that a pool keeps to a connection while it is out.
    pool_references: int

    @property
    def modules(self) -> Mapping[str, Callable[[ModuleType], None]]:
        """What to do with each of the library's modules once it is imported; raises :class:`Unsupported`."""

    def terms(self, pool: Any) -> Terms:
        """The names of a pool's methods."""

    def version(self) -> str:
        """The installed version, "unknown" where it can't be told."""

    def state(self, connection: Any) -> State:
        """Look at a connection; never raises, never talks to the server."""

    def is_open(self, pool: Any) -> bool:
        """Whether a pool can still hand out connections; never raises."""

    def idle(self, pool: Any) -> int:
        """How many open connections lie idle in a pool; never raises."""

    def workers(self, pool: Any) -> Iterable[threading.Thread]:
        """The threads that a pool runs: they return nothing that a client has taken."""

    def reclaim(self, checkout: Checkout) -> None:
        """Close a leaked connection and free its slot, by the pool's own means where they work.

        Called in a thread of its own, and given up after a while. The connection may be gone, and the pool, too.
        """

    def undo(self) -> None:
        """Give the library back as it was."""


class AddedDriver(Driver, Protocol):
    """The driver of a library that poolguard does not know of by itself: see ``hookspec``."""

    def begin(self, watch: Watch) -> None:
        """Report to this from now on; called before any of the functions in ``modules``."""
