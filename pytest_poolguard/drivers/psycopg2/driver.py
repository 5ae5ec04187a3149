"""psycopg2: ``psycopg2.connect`` and the pools of ``psycopg2.pool``.

``SimpleConnectionPool.getconn`` *is* ``AbstractConnectionPool._getconn`` (an alias made with the class), while
``ThreadedConnectionPool.getconn`` *calls* ``self._getconn``, and users subclass all three. Replacing the base
functions wherever a class carries one of them counts every route once.
"""

from __future__ import annotations

import contextlib
import functools
import os
import sys
import threading
from collections.abc import Callable, Iterable, Mapping
from types import ModuleType
from typing import Any

from pytest_poolguard.books.origin import Origin, capture, printable
from pytest_poolguard.books.records import Checkout, Pool
from pytest_poolguard.books.redaction import redacted
from pytest_poolguard.drivers import dirty, libpq
from pytest_poolguard.drivers.interface import State, Terms, Unsupported, Watch
from pytest_poolguard.drivers.lines.libpq import Psycopg2Line, parameters
from pytest_poolguard.drivers.moment import Reach
from pytest_poolguard.drivers.patching import Patches, class_tree
from pytest_poolguard.drivers.psycopg2.blocking import bound, is_exhausted
from pytest_poolguard.drivers.psycopg2.session_limits import TALK
from pytest_poolguard.drivers.session_limits import Talk

__all__ = ["Psycopg2"]

TERMS = Terms(
    take="getconn",
    give="putconn",
    close="closeall",
    cure="call putconn() in a finally block",
    discard="putconn(conn, close=True)",
)


class Psycopg2:
    """The driver of psycopg2, any 2.x version that has the pools' private methods."""

    library = "psycopg2"
    pool_references = 1  # AbstractConnectionPool._used

    def __init__(self, watch: Watch) -> None:
        self._watch = watch
        self._patches = Patches()
        self._psycopg2: ModuleType | None = None
        self._pool_module: ModuleType | None = None
        self._originals: dict[str, Callable[..., Any]] = {}

    @property
    def modules(self) -> Mapping[str, Callable[[ModuleType], None]]:
        """``psycopg2`` and ``psycopg2.pool``."""
        return {"psycopg2": self._patch_connect, "psycopg2.pool": self._patch_pools}

    def terms(self, _pool: Any) -> Terms:
        """The same for every class."""
        return TERMS

    def version(self) -> str:
        """The first word of ``psycopg2.__version__``."""
        module = self._psycopg2 or sys.modules.get(self.library)
        return str(getattr(module, "__version__", "unknown")).split(" ")[0]

    def undo(self) -> None:
        """Give psycopg2 its functions back."""
        self._patches.undo()

    def state(self, connection: Any) -> State:
        """What libpq knows of the connection."""
        return libpq.state(connection)

    def talk(self, _connection: Any) -> Talk:
        """The same for every class."""
        return TALK

    def is_open(self, pool: Any) -> bool:
        """Whether ``closeall()`` was not called yet."""
        return getattr(pool, "closed", True) is False

    def capacity(self, pool: Any) -> int | None:
        """Its ``maxconn``."""
        return int(pool.maxconn)

    def idle(self, pool: Any) -> int:
        """The pool's own free list, less what has died there."""
        return sum(not self.state(connection).closed for connection in list(getattr(pool, "_pool", ())))

    def workers(self, _pool: Any) -> Iterable[threading.Thread]:
        """psycopg2's pools have none."""
        return ()

    # patching

    def _patch_connect(self, module: ModuleType) -> None:
        self._psycopg2 = module
        if not hasattr(module, "connect"):
            raise Unsupported("psycopg2 has no connect")
        self._patches.replace(module, "connect", self._watched_connect(module.connect))

    def _patch_pools(self, module: ModuleType) -> None:
        base = getattr(module, "AbstractConnectionPool", None)
        if base is None:
            raise Unsupported("psycopg2.pool has no AbstractConnectionPool")
        self._pool_module = module
        for name in (
            "__init__",
            "_connect",
            "_getconn",
            "_putconn",
            "_closeall",
        ):  # all of them, or none is replaced
            if name not in vars(base):
                raise Unsupported(f"psycopg2.pool.AbstractConnectionPool has no {name}")
        for name, watched in (
            ("_connect", self._watched_pool_connect),
            ("_getconn", self._watched_getconn),
            ("_putconn", self._watched_putconn),
            ("_closeall", self._watched_closeall),
        ):
            original = vars(base)[name]
            self._originals[name] = original
            replacement = watched(original, module)
            for cls in class_tree(base):
                for alias, value in list(vars(cls).items()):
                    if value is original:
                        self._patches.replace(cls, alias, replacement)

    # the replacements: what the caller gets, and the signatures, are the originals'

    def _watched_connect(self, original: Callable[..., Any]) -> Callable[..., Any]:
        driver, watch = self, self._watch

        @functools.wraps(original)
        def connect(
            dsn: Any = None, connection_factory: Any = None, cursor_factory: Any = None, **kwargs: Any
        ) -> Any:
            __tracebackhide__ = True
            connection = original(dsn, connection_factory, cursor_factory, **kwargs)
            if watch.active:
                try:
                    opening = watch.ledger.opened(connection, driver)
                    if driver._is_real(connection):
                        opening.backend_pid = connection.info.backend_pid
                        opening.server = libpq.server_of(connection)
                        opening.database = connection.info.dbname
                        watch.on_connected(opening, functools.partial(driver._asker, connection))
                except Exception as error:
                    watch.on_fault("noting a new connection", error)
            return connection

        return connect

    def _watched_pool_connect(self, original: Callable[..., Any], module: ModuleType) -> Callable[..., Any]:
        driver, watch = self, self._watch
        constructor = module.AbstractConnectionPool.__init__.__code__

        @functools.wraps(original)
        def _connect(self: Any, key: Any = None) -> Any:
            __tracebackhide__ = True
            record = None
            if watch.active:
                try:
                    # While it is being made: a pool of no minimum connects for its first getconn only.
                    made = sys._getframe(1).f_code is constructor  # noqa: SLF001
                    record = watch.ledger.pool(self) or driver._new_pool(self, made_known=made)
                except Exception as error:
                    watch.on_fault("noting a pool", error)
            connection = original(self, key)
            if record is not None:
                opening = watch.ledger.opening(connection)
                if opening is not None:
                    opening.pool = record
            return connection

        return _connect

    def _watched_getconn(self, original: Callable[..., Any], module: ModuleType) -> Callable[..., Any]:
        driver, watch, ledger = self, self._watch, self._watch.ledger
        limited, records = _limited(original, module), ledger.records
        sessions, limited_sessions = self._watch.sessions, self._watch.sessions.limited

        @functools.wraps(original)
        def _getconn(self: Any, key: Any = None) -> Any:
            __tracebackhide__ = True
            limits = ledger.present.limits
            maximum, session = limits.max, limits.session
            try:
                connection = original(self, key) if maximum is None else limited(self, key, maximum)
            except module.PoolError as error:
                # Where its class waits, this is no refusal yet: see ``blocking``.
                if is_exhausted(error) and not hasattr(type(self).getconn, "poolguard_bound"):
                    watch.refused_at_once(self, error)
                raise
            if watch.active:
                try:
                    record = records.get(id(self))  # as in ledger.pool(), without the call
                    if record is None or record.ref() is not self:
                        record = driver._new_pool(self, made_known=False)
                    checkout = ledger.check_out(record, connection, blocking=True)
                    if key is not None and checkout is not None:
                        checkout.key_of_holder = _names_the_holder(key)
                    if (session is not None or limited_sessions) and checkout is not None:
                        sessions.set(self, connection, TALK)
                except Exception as error:
                    watch.on_fault("noting a checkout", error)
            return connection

        return _getconn

    def _watched_putconn(self, original: Callable[..., Any], _module: ModuleType) -> Callable[..., Any]:
        driver, watch, ledger = self, self._watch, self._watch.ledger
        sessions, limited_sessions = self._watch.sessions, self._watch.sessions.limited

        @functools.wraps(original)
        def _putconn(self: Any, conn: Any, key: Any = None, close: bool = False) -> Any:
            __tracebackhide__ = True
            checkout = None
            if watch.active:
                try:
                    checkout = ledger.give_back(self, conn)
                except Exception as error:
                    watch.on_fault("noting a return", error)
            lost = (
                watch.dirty_returns and checkout is not None and checkout.returned and dirty.psycopg2_wrote(conn)
            )
            try:
                result = original(self, conn, key, close)
            except BaseException as error:
                if checkout is not None:
                    driver._not_returned(self, conn, checkout, error)
                raise
            if lost and checkout is not None:
                dirty.note(watch, checkout)
            if limited_sessions:  # a pool for threads has its lock still: nobody can take it
                sessions.take_back(conn, TALK)
            return result

        return _putconn

    def _watched_closeall(self, original: Callable[..., Any], _module: ModuleType) -> Callable[..., Any]:
        watch, ledger = self._watch, self._watch.ledger

        @functools.wraps(original)
        def _closeall(self: Any) -> Any:
            __tracebackhide__ = True
            if watch.active:
                try:
                    record = ledger.pool(self)
                    if record is not None:
                        ledger.pool_closes(record)
                except Exception as error:
                    watch.on_fault("noting that a pool was closed", error)
            return original(self)

        return _closeall

    # what they note

    def _new_pool(self, pool: Any, *, made_known: bool) -> Pool:
        ledger = self._watch.ledger
        label = f"{type(pool).__name__}({pool.minconn}..{pool.maxconn})"
        bound(pool, self._pool_module, self._watch, self._patches)
        return ledger.add_pool(pool, self, label, Origin(capture(ledger.stops, 2)), made_known=made_known)

    def _not_returned(self, pool: Any, conn: Any, checkout: Checkout, error: BaseException) -> None:
        """A putconn raised: the connection is still out, unless its pool is closed and nobody could take it."""
        try:
            own = checkout.pool.ref() is pool
            if own and (pool.closed or id(conn) not in pool._rused):  # noqa: SLF001
                return
            if own:
                self._watch.ledger.put_back(checkout)
            text = str(error).strip().partition("\n")[0]
            reason = redacted(printable(f"{type(error).__name__}: {text}" if text else type(error).__name__))
            checkout.cause = ("putconn raised", reason) if own else ("returned to another pool", "")
        except Exception as fault:
            self._watch.on_fault("noting a failed return", fault)

    def _asker(self, connection: Any) -> Callable[..., list[tuple[Any, ...]]]:
        line = Psycopg2Line(self._psycopg2 or sys.modules[self.library])
        info = connection.info
        return Reach(line, parameters(info, info.dsn_parameters))

    def _is_real(self, connection: Any) -> bool:
        """Whether this is a live connection to a server, not a mock of one or one that is still connecting.

        A subclass that never calls its base's ``__init__`` is not closed either: libpq's own status tells.
        """
        extensions = getattr(self._psycopg2, "extensions", None)
        real = extensions is not None and isinstance(connection, extensions.connection)
        return bool(real and not connection.closed and not connection.async_ and connection.info.status == 0)

    # reclaiming

    def reclaim(self, checkout: Checkout) -> None:
        """Close the connection, then hand it in: a pool discards what is closed.

        The public ``putconn`` comes first, for the sake of subclasses that count there; where it is mocked or
        raises on a closed connection, the base class's own function frees the slot.
        """
        pool: Any = checkout.pool.ref()
        connection: Any = checkout.connection()
        if connection is None:
            return
        connection.close()
        if pool is None or pool.closed:
            return
        with contextlib.suppress(Exception):  # the look at the pool's own books, below, tells
            pool.putconn(connection)
        lock = getattr(pool, "_lock", None) or threading.Lock()
        with lock:
            if id(connection) in pool._rused:  # noqa: SLF001
                self._originals["_putconn"](pool, connection)


def _limited(original: Callable[..., Any], module: ModuleType) -> Callable[[Any, Any, int], Any]:
    def getconn(pool: Any, key: Any, maximum: int) -> Any:
        """Take a connection as if the pool had been made for ``maximum``."""
        __tracebackhide__ = True
        if pool.closed or key in pool._used:  # noqa: SLF001
            return original(pool, key)
        if len(pool._used) >= maximum:  # noqa: SLF001
            raise module.PoolError("connection pool exhausted")
        # The pool compares its size with ==, and only here: the attribute is its own again at once.
        own, pool.maxconn = pool.maxconn, maximum
        try:
            return original(pool, key)
        finally:
            pool.maxconn = own

    return getconn


def _names_the_holder(key: Any) -> bool:
    """Whether a key stands for the process or thread that took the connection: one each, kept on purpose."""
    thread = threading.current_thread()
    return any(
        type(key) is type(own) and key == own
        for own in (os.getpid(), thread.ident, thread.native_id, thread.name, thread)
    )
