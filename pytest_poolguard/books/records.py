"""What the ledger has on record: owners, pools, opened connections, checkouts.

None of them keeps a connection or a pool alive.
"""

from __future__ import annotations

import threading
import time
import weakref
from collections.abc import Callable
from dataclasses import dataclass, field
from types import CodeType
from typing import Any, NamedTuple
from weakref import ref

from pytest_poolguard.books.counter import Counter, Highest
from pytest_poolguard.books.origin import Origin

__all__ = [
    "Checkout",
    "Limits",
    "Make",
    "Opening",
    "Owner",
    "Pool",
    "Reference",
    "SessionLimits",
    "Supply",
    "Task",
]

#: Makes what refers to an object without keeping it alive: called, it returns the object, or None.
Reference = Callable[[Any], Callable[[], Any]]


class SessionLimits(NamedTuple):
    """What the server is to end by itself, in the sessions of the connections that a test takes.

    Seconds; 0 for no limit, None for whatever the session has.
    """

    statement_timeout: float | None = None  #: that a statement may take
    idle_in_transaction_timeout: float | None = None  #: that a transaction may lie idle


@dataclass(frozen=True)
class Limits:
    """What a test allows its pools, and those of its own fixtures."""

    max: int | None = None  #: connections that each pool hands out at once
    timeout: float | None = None  #: seconds that taking a connection may block
    hold: float | None = None  #: seconds that one connection may be out
    session: SessionLimits | None = None  #: None where neither of them is asked for

    @property
    def bound_taking(self) -> bool:
        """Whether they have a say in whether a connection is handed out."""
        return self.max is not None or self.timeout is not None

    @property
    def bound_any_pool(self) -> bool:
        """Whether they take something that is not done for every connection."""
        return self.bound_taking or self.session is not None


@dataclass(eq=False)
class Owner:
    """The test, fixture or session that answers for the connections taken while it runs."""

    kind: str  #: "test", "fixture" or "session"
    name: str
    nodeid: str = ""  #: the test; for a fixture the test that asked for it first; empty for the session
    scope: str = ""  #: a fixture's scope
    defined_at: str = ""  #: a fixture's file and line
    limits: Limits = Limits()  #: what its test's marker allows; a wider fixture has none
    phase: str = "setup"  #: what of it is running: "setup", "body" or "teardown"
    finished: bool = False
    threads: frozenset[threading.Thread] = frozenset()  #: while a test runs: those that ran before it began
    code: CodeType | None = None  #: a fixture's function
    value: Callable[[], object] = lambda: None  #: what a fixture returned
    out: dict[int, Checkout] = field(default_factory=dict)
    opened: list[Opening] = field(default_factory=list)  #: connections, while it was present
    made: list[Pool] = field(default_factory=list)  #: pools, likewise
    dropped: list[Checkout] = field(
        default_factory=list
    )  #: that nobody gave back, and that came back for all that
    peaks: Highest = field(default_factory=Highest)  #: of the connections out at once

    @property
    def peak(self) -> int:
        """The most connections that were out at once."""
        return self.peaks.value


class Make:
    """The pools of one class and size that were made at one place, the same way; it outlives them."""

    __slots__ = ("label", "library", "made", "made_known", "pools", "takings")

    def __init__(self, library: str, label: str, made: Origin, *, made_known: bool) -> None:
        self.library = library
        self.label = label
        self.made = made
        self.made_known = made_known
        self.pools = 0  #: how many
        self.takings = Counter()  #: of connections from them

    @property
    def taken(self) -> int:
        """How many connections were taken from them."""
        return self.takings.value


class Pool:
    """What is remembered of one pool; never the pool itself."""

    __slots__ = (
        "__weakref__",
        "driver",
        "is_handed_on",
        "label",
        "made",
        "made_known",
        "make",
        "most",
        "owner",
        "phase",
        "ref",
        "terms",
        "told",
        "was_closed",
    )

    def __init__(
        self,
        pool: object,
        driver: Any,
        label: str,
        made: Origin,
        owner: Owner,
        *,
        made_known: bool,
        reference: Reference = ref,
    ) -> None:
        self.ref = reference(pool)
        self.driver = driver
        self.terms = driver.terms(pool)
        capacity = getattr(driver, "capacity", None)
        #: Connections that it hands out at most; 0 where there is no limit, or none is known.
        self.most: int = (capacity(pool) if capacity is not None else None) or 0
        self.label = label  #: class and size: ``ThreadedConnectionPool(1..10)``
        self.made = made
        self.made_known = made_known  #: else ``made`` is where it was first used
        self.make = Make(driver.library, label, made, made_known=made_known)  #: the registry puts in a common one
        self.owner = owner
        self.phase = owner.phase
        self.was_closed = False  #: by somebody's call
        self.told = False  #: it was reported that it is not closed
        self.is_handed_on = False  #: another pool hands out its very connections, and notes them as its own

    def size(self, limits: Limits) -> int:
        """Connections that it hands out at most, now and within these limits; 0 for no limit, or none known."""
        if limits.max is not None:
            return limits.max
        pool, capacity = self.ref(), getattr(self.driver, "capacity", None)
        known = capacity(pool) if pool is not None and capacity is not None else None
        return known if isinstance(known, int) and known > 0 else 0

    def is_open(self) -> bool:
        """Whether the pool still exists and can hand out connections."""
        pool = self.ref()
        return pool is not None and bool(self.driver.is_open(pool))


class Opening:
    """One connection to a server, opened by this process: where, by whom, and the backend behind it."""

    __slots__ = (
        "__weakref__",
        "at",
        "backend_pid",
        "behind_pooler",
        "database",
        "driver",
        "opened",
        "owner",
        "phase",
        "pool",
        "ref",
        "server",
        "task",
        "thread",
        "told",
    )

    def __init__(self, connection: object, driver: Any, opened: Origin, owner: Owner, thread: Any) -> None:
        self.ref = weakref.ref(connection)
        self.driver = driver
        self.opened = opened
        self.owner = owner
        self.phase = owner.phase
        self.thread = thread  #: as a checkout's
        self.task: Task | None = None  #: likewise
        self.pool: Pool | None = None
        self.backend_pid: int | None = None
        self.behind_pooler = False  #: that is no pid of a backend's then, but one that a pooler made up
        self.server: Any = None  #: which server, as the driver names it; None where there is no real one
        self.database = ""  #: the name of the one that it is connected to
        self.at = time.monotonic()
        self.told = False  #: a leak of it was reported

    def is_closed(self) -> bool:
        """Whether this end of the connection is closed, or gone."""
        connection = self.ref()
        return connection is None or bool(self.driver.state(connection).closed)


class Task:
    """The asyncio task that holds a connection: never the task itself, whose frames hold everything."""

    awaited_by: Task | None = None  #: who waits for it, where it runs nothing but the library's call
    was_cancelled = False  #: of one that waits: whether it ended so
    is_blocking = False  #: its connection is a synchronous one, which any thread can return

    def __init__(self, task: Any, starter: Owner) -> None:
        self.starter = starter  #: who was present when it was started
        self.ref = weakref.ref(task)
        self.name = task.get_name()
        self.loop = weakref.ref(task.get_loop())

    def is_alive(self) -> bool:
        """Whether the task may go on: it is not done, and its loop runs, which then is in another thread."""
        loop = self.loop()
        return loop is not None and loop.is_running() and self.is_unfinished()

    def waits_for_its_loop(self) -> bool:
        """Whether the task can go on only when somebody runs its loop again."""
        loop = self.loop()
        return loop is not None and not loop.is_running() and self.is_unfinished()

    def is_unfinished(self) -> bool:
        """Whether the task is not done, and may go on when its loop does."""
        task, loop = self.ref(), self.loop()
        return task is not None and loop is not None and not loop.is_closed() and not task.done()


class Checkout:
    """A connection taken from a pool and not yet returned.

    What most checkouts never come to have stands in the class: one is made for every connection that is taken.
    """

    task: Task | None = None  #: the task that holds it; None for code that is not asynchronous
    returned = False
    held = 0.0  #: seconds, once returned; measured where a limit or a count asks for it
    count: Any = None  #: the count of its pool's use that it is part of (see ``counting``)
    key_of_holder = False  #: taken under the holder's own process or thread id as key
    cause: tuple[str, str] | None = None  #: a failed return: what happened, detail
    returned_at: Origin | None = None  #: where it was given back, in the middle of a transaction that wrote
    closed_with_pool: Origin | None = None  #: where its pool was closed while it was out
    waited_for: float | None = None  #: seconds that its pool's close() waited for it, until it was ended
    closed_while_running = False  #: by the code that took it, not by a teardown after it
    noted: Any = None  #: the finding it would be, made while its pool was still open
    framework = ""  #: what keeps it for its thread
    carried = ""  #: why it was carried over to a longer-lived owner
    hand: Callable[[Any], object] | None = None  #: from the connection to what its holder has, if that is another
    last_state: Any = None  #: the driver's last look at its connection, where that is gone
    dropped = ""  #: how it came back though nobody returned it: "harmless" or "collected" (see the ledger)
    serves: Pool | None = None  #: the pool that has it as a connection of its own: a pool on top of a pool
    told = False  #: a leak of it was reported

    def __init__(
        self,
        pool: Pool,
        connection: object,
        key: int,
        stack: list[CodeType | int],
        owner: Owner,
        since: float,
        thread: Any,
    ) -> None:
        self.pool = pool
        self.connection = ref(connection)
        self.key = key  #: where the books have it
        self.stack = stack
        self.owner = owner  #: who answers for it; changes when it is carried over
        self.taken_by = owner
        self.phase = owner.phase
        self.since = since
        self.thread = thread  #: the holder; None for the main thread, a bare ident for a foreign thread

    def in_hand(self) -> object:
        """What its holder has of the connection: itself, or what the pool wraps it in; None once that is gone."""
        connection = self.connection()
        return connection if connection is None or self.hand is None else self.hand(connection)

    def to_server(self) -> object:
        """The connection to the server: that of a driver below, where a pool hands out another object for it."""
        connection = self.connection()
        below = getattr(self.pool.driver, "driver_connection", None)
        return connection if connection is None or below is None else below(connection)

    @property
    def origin(self) -> Origin:
        """The stack at which it was taken."""
        return Origin(self.stack)


class Supply:
    """What a pool is taking or opening right now, for itself. One is made for every connection that is taken."""

    checkouts: tuple[Checkout, ...] = ()  #: from pools that it stands on
    openings: tuple[Opening, ...] = ()
    refusal: tuple[Pool, BaseException, Any] | None = None  #: by a pool that it stands on, with what and for whom

    def __init__(self, pool: Pool, outer: Supply | None) -> None:
        self.pool = pool
        self.outer = outer  #: that of the pool that it does so for
