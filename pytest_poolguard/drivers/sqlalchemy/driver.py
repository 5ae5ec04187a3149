"""SQLAlchemy 2: the pools of its engines, synchronous and asyncio, through their public events.

What is watched is the pool's proxy of a connection (``PoolProxiedConnection``): whatever stands above it, a
``Session``, a ``Connection`` or ``raw_connection()``, holds one for as long as it has a connection.
"""

from __future__ import annotations

import contextlib
import functools
import gc
import sys
import threading
import weakref
from collections.abc import Callable, Iterable, Mapping
from types import ModuleType
from typing import Any

from pytest_poolguard.books.records import Checkout, Pool
from pytest_poolguard.drivers.interface import State, Terms, Unsupported, Watch
from pytest_poolguard.drivers.patching import Patches
from pytest_poolguard.drivers.sqlalchemy.limits import Limited
from pytest_poolguard.drivers.sqlalchemy.notes import Notes
from pytest_poolguard.drivers.sqlalchemy.session_limits import LimitedSessions
from pytest_poolguard.drivers.sqlalchemy.sight import driver_connection, held_in, idle_entries, kill, state_of
from pytest_poolguard.drivers.sqlalchemy.uncommitted import Uncommitted
from pytest_poolguard.drivers.sqlalchemy.words import terms_of

__all__ = ["SQLAlchemy"]

#: The first version, by its first number, that is watched.
OLDEST = 2


class SQLAlchemy:
    """The driver of SQLAlchemy 2.0 and newer."""

    library = "sqlalchemy"
    pool_references = 0  # to what is out, a pool refers weakly

    def __init__(self, watch: Watch) -> None:
        self._watch = watch
        self._patches = Patches()
        self._notes = Notes(watch, self)
        self._limited = Limited(watch, self._notes.asks)
        self._uncommitted = Uncommitted(watch, self._patches)
        self._module: ModuleType | None = None
        self._listening: list[tuple[Any, weakref.ref[Any], str, Callable[..., None]]] = []

    @property
    def modules(self) -> Mapping[str, Callable[[ModuleType], None]]:
        """The package: when it is complete, all of its parts that events need are there. And what is above it."""
        return {
            "sqlalchemy": self._listen,
            "sqlalchemy.orm.session": self._watch_closes(self._uncommitted.patch_session),
            "sqlalchemy.ext.asyncio.engine": self._watch_closes(self._uncommitted.patch_async),
            "sqlalchemy.ext.asyncio.session": self._watch_closes(self._uncommitted.patch_async),
        }

    def terms(self, pool: Any) -> Terms:
        """Those of an engine."""
        return terms_of(pool, None)

    def terms_of(self, checkout: Checkout) -> Terms:
        """Those of what took the connection: an engine, a session, a pool that stands alone."""
        return terms_of(checkout.pool.ref(), checkout)

    def version(self) -> str:
        """``sqlalchemy.__version__``."""
        return str(getattr(self._module, "__version__", "unknown"))

    def state(self, connection: Any) -> State:
        """What the driver below knows of the connection."""
        return state_of(connection, self._watch.ledger)

    def driver_connection(self, connection: Any) -> Any:
        """The connection below a proxy, as its driver has it."""
        return driver_connection(connection)

    def held_in(self, thing: Any) -> list[Any]:
        """The proxies that a session, a connection or a registry of sessions has."""
        return held_in(thing)

    def is_open(self, pool: Any) -> bool:
        """Always: a pool that was disposed of takes connections back, and can hand out new ones."""
        return pool is not None

    def capacity(self, pool: Any) -> int | None:
        """Size and overflow of a pool that queues; None for one without a limit."""
        overflow = getattr(pool, "_max_overflow", -1)
        return pool.size() + overflow if overflow >= 0 else None

    def idle(self, pool: Any) -> int:
        """Those that the pool keeps and nobody has, less what has died there."""
        ledger = self._watch.ledger
        return sum(not state_of(entry, ledger).closed for entry in idle_entries(pool))

    def workers(self, _pool: Any) -> Iterable[threading.Thread]:
        """SQLAlchemy's pools have none."""
        return ()

    def undo(self) -> None:
        """Stop listening, and give the pools their methods back."""
        if self._notes.on_collection in gc.callbacks:
            gc.callbacks.remove(self._notes.on_collection)
        while self._listening:
            event, target, name, listener = self._listening.pop()
            with contextlib.suppress(Exception):  # somebody has removed it already
                if target() is not None:
                    event.remove(target(), name, listener)
        self._patches.undo()

    # listening

    def _listen(self, module: ModuleType) -> None:
        self._module = module
        number = self.version().partition(".")[0]
        if not number.isdigit() or int(number) < OLDEST:
            raise Unsupported(f"it takes SQLAlchemy {OLDEST}.0 or newer")
        pools: Any = sys.modules.get("sqlalchemy.pool")
        engine: Any = getattr(module, "Engine", None)
        if not hasattr(getattr(pools, "Pool", None), "_should_wrap_creator") or not hasattr(engine, "connect"):
            raise Unsupported("its pools are not what is known of them")
        if any(target() is pools.Pool for _, target, _, _ in self._listening):
            return
        for name, listener in self._notes.listeners(engine).items():
            self._listen_to(pools.Pool, name, listener)
        if self._notes.on_collection not in gc.callbacks:
            gc.callbacks.append(self._notes.on_collection)
        # Pool.__init__ itself must stay: create_engine() reads its code object for the arguments it takes.
        create = vars(pools.Pool)["_should_wrap_creator"]
        self._patches.replace(pools.Pool, "_should_wrap_creator", self._watched_creation(create))
        queue: Any = getattr(pools, "QueuePool", None)
        if "_do_get" in vars(queue):  # the method that waits for a free one
            timeout = sys.modules["sqlalchemy.exc"].TimeoutError
            self._patches.replace(queue, "_do_get", self._watched_wait(vars(queue)["_do_get"], timeout))
        self._watch.ledger.once_limited(functools.partial(self._limited.patch, pools, self._patches))
        self._watch.ledger.once_limited(functools.partial(self._limit_sessions, pools.Pool))
        if self._watch.dirty_returns:
            self._listen_to(pools.Pool, "reset", self._notes.on_doubtful_return(self._uncommitted))
            self._uncommitted.patch_connection(sys.modules["sqlalchemy.engine.base"])

    def _limit_sessions(self, pool: type[Any]) -> None:
        for name, listener in LimitedSessions(self._watch, self._notes.is_collecting).listeners().items():
            self._listen_to(pool, name, listener)

    def _watch_closes(self, patch: Callable[[ModuleType], None]) -> Callable[[ModuleType], None]:
        """What a layer rolls back by itself is of interest where dirty returns are, and the pools are watched."""

        def patch_layer(module: ModuleType) -> None:
            if self._watch.dirty_returns and self._listening:
                patch(module)

        return patch_layer

    def _listen_to(self, target: Any, name: str, listener: Callable[..., None]) -> None:
        event: Any = sys.modules["sqlalchemy.event"]
        event.listen(target, name, listener, insert=True)  # before the application's own, which may raise
        self._listening.append((event, weakref.ref(target), name, listener))

    def listen_to_shared(self, record: Pool) -> None:
        """Hear of every return to a pool of one connection for everybody: other events tell of the first only."""
        self._listen_to(record.ref(), "reset", self._notes.on_reset)

    def _watched_creation(self, original: Callable[..., Any]) -> Callable[..., Any]:
        notes, watch = self._notes, self._watch

        @functools.wraps(original)
        def _should_wrap_creator(self: Any, creator: Any) -> Any:
            __tracebackhide__ = True
            if watch.active:
                try:
                    notes.making(self)
                except Exception as error:
                    watch.on_fault("noting a pool", error)
            return original(self, creator)

        return _should_wrap_creator

    def _watched_wait(self, original: Callable[..., Any], timeout: type[Exception]) -> Callable[..., Any]:
        notes, watch, ledger, counting = self._notes, self._watch, self._watch.ledger, self._watch.counting

        @functools.wraps(original)
        def _do_get(self: Any) -> Any:
            __tracebackhide__ = True
            call = None
            # It calls itself again where another was faster. And where there is a gate, it was asked there.
            if counting.is_on and not ledger.present.limits.bound_taking:
                is_again = sys._getframe(1).f_code is original.__code__  # noqa: SLF001
                call = notes.asks(self) if not is_again else None
            try:
                return original(self)
            except timeout as error:
                if sys._getframe(1).f_code is not original.__code__:  # noqa: SLF001
                    watch.refused(self, error)
                raise
            finally:
                if call is not None:
                    watch.answers(call)

        return _do_get

    # reclaiming

    def reclaim(self, checkout: Checkout) -> None:
        """Close the connection, and give its place back, as ``invalidate()`` does.

        What its holder does with it later, closing it included, has no effect on the pool any more.
        """
        proxy: Any = checkout.connection()
        if proxy is None:
            return
        loop = checkout.task.loop() if checkout.task is not None else None
        if loop is not None and loop.is_running():
            loop.call_soon_threadsafe(self._reclaim, proxy)
        else:
            self._reclaim(proxy)

    def _reclaim(self, proxy: Any) -> None:
        ledger = self._watch.ledger
        inner = ledger.held_by(driver_connection(proxy))
        kill(proxy)
        proxy.invalidate()
        if inner is not None and not inner.returned:
            ledger.settle(inner)
            inner.pool.driver.reclaim(inner)
