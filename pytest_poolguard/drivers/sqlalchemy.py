"""SQLAlchemy 2: the pools of its engines, synchronous and asyncio, through their public events.

What is watched is the pool's proxy of a connection (``PoolProxiedConnection``): whatever stands above it, a
``Session``, a ``Connection`` or ``raw_connection()``, holds one for as long as it has a connection. A proxy that
nobody refers to any longer is given back by SQLAlchemy itself, through the same event as any other.
"""

from __future__ import annotations

import contextlib
import functools
import gc
import sys
import threading
import weakref
from collections.abc import Callable, Iterable, Mapping
from sys import _getframe  # as in ``origin``
from threading import get_ident
from types import ModuleType
from typing import Any

from pytest_poolguard.drivers.interface import State, Terms, Unsupported, Watch
from pytest_poolguard.drivers.patching import Patches
from pytest_poolguard.drivers.sqlalchemy_limits import Limited
from pytest_poolguard.drivers.sqlalchemy_sight import (
    dialect_of,
    driver_connection,
    held_in,
    idle_entries,
    is_done,
    kill,
    label_of,
    pool_of,
    replaced_by,
    state_of,
)
from pytest_poolguard.drivers.sqlalchemy_words import PACKAGE, terms_of
from pytest_poolguard.origin import Origin, capture, capture_from
from pytest_poolguard.records import Checkout, Opening, Owner, Pool, Task

__all__ = ["SQLAlchemy"]

#: Frames of a listener of checkouts and its callers, up to the pool's ``connect``: they say nothing.
OWN_FRAMES = 4
#: The same, with an engine's ``connect`` and what that calls.
VIA_ENGINE = 8


class SQLAlchemy:
    """The driver of SQLAlchemy 2.0 and newer."""

    library = "sqlalchemy"
    pool_references = 0  # what is out, the pool refers to weakly

    def __init__(self, watch: Watch) -> None:
        self._watch = watch
        self._patches = Patches()
        self._limited = Limited(watch, self._watches)
        self._module: ModuleType | None = None
        self._listening: list[tuple[Any, weakref.ref[Any], str, Callable[..., None]]] = []
        self._made: weakref.WeakKeyDictionary[Any, tuple[Origin, Owner]] = weakref.WeakKeyDictionary()
        self._unwatched: weakref.WeakSet[Any] = weakref.WeakSet()  #: pools of other dialects
        self._shared: set[Pool] = set()  #: those of one connection for everybody
        self._out: dict[int, Checkout] = {}  #: by the id of the pool's own record of the connection
        self._collector = 0  #: the thread that collects garbage just now

    @property
    def modules(self) -> Mapping[str, Callable[[ModuleType], None]]:
        """The package itself: when it is complete, all of its parts that events need are there."""
        return {"sqlalchemy": self._listen}

    def terms(self, pool: Any) -> Terms:
        """Those of an engine, or of a pool that stands alone."""
        return terms_of(pool, None)

    def terms_of(self, checkout: Checkout) -> Terms:
        """Those of what took the connection: an engine, a session."""
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

    def idle(self, pool: Any) -> int:
        """Those that the pool keeps and nobody has, less what has died there."""
        ledger = self._watch.ledger
        return sum(not state_of(record, ledger).closed for record in idle_entries(pool))

    def workers(self, _pool: Any) -> Iterable[threading.Thread]:
        """SQLAlchemy's pools have none."""
        return ()

    def undo(self) -> None:
        """Stop listening, and give the pools their methods back."""
        if self._on_collection in gc.callbacks:
            gc.callbacks.remove(self._on_collection)
        while self._listening:
            event, target, name, listener = self._listening.pop()
            with contextlib.suppress(Exception):  # somebody has removed it already
                if target() is not None:
                    event.remove(target(), name, listener)
        self._patches.undo()

    def _watches(self, pool: Any) -> bool:
        name = getattr(pool._dialect, "name", "")  # noqa: SLF001
        return name in self._watch.dialects if name else self._watch.ledger.pool(pool) is not None

    # listening

    def _listen(self, module: ModuleType) -> None:
        self._module = module
        pools: Any = sys.modules.get("sqlalchemy.pool")
        event: Any = sys.modules.get("sqlalchemy.event")
        if not self.version().partition(".")[0].isdigit() or int(self.version().partition(".")[0]) < 2:  # noqa: PLR2004
            raise Unsupported("it takes SQLAlchemy 2.0 or newer")
        engine: Any = getattr(module, "Engine", None)
        if event is None or not hasattr(getattr(pools, "Pool", None), "_should_wrap_creator"):
            raise Unsupported("sqlalchemy.pool has no Pool as it is known")
        if any(target() is pools.Pool for _, target, _, _ in self._listening):
            return
        for name, listener in (
            ("connect", self._on_connect),
            ("checkout", self._listener_of_checkouts(engine)),
            ("checkin", self._listener_of_checkins()),
            ("detach", self._on_detach),
            ("close", self._on_close),
        ):
            self._listen_to(pools.Pool, name, listener)
        if self._on_collection not in gc.callbacks:
            gc.callbacks.append(self._on_collection)
        # Pool.__init__ itself must stay: create_engine() reads its code object for the arguments it takes.
        create = pools.Pool._should_wrap_creator  # noqa: SLF001
        self._patches.replace(pools.Pool, "_should_wrap_creator", self._watched_creation(create))
        self._watch.ledger.once_limited(functools.partial(self._limited.patch, pools, self._patches))

    def _listen_to(self, target: Any, name: str, listener: Callable[..., None]) -> None:
        event: Any = sys.modules["sqlalchemy.event"]
        event.listen(target, name, listener, insert=True)  # before the application's own, which may raise
        self._listening.append((event, weakref.ref(target), name, listener))

    def _watched_creation(self, original: Callable[..., Any]) -> Callable[..., Any]:
        driver, watch = self, self._watch

        @functools.wraps(original)
        def _should_wrap_creator(self: Any, creator: Any) -> Any:
            __tracebackhide__ = True
            if watch.active:
                try:
                    driver._note_making(self)
                except Exception as error:
                    watch.on_fault("noting a pool", error)
            return original(self, creator)

        return _should_wrap_creator

    def _listener_of_checkouts(self, engine: type[Any]) -> Callable[..., None]:
        driver, watch, out, shared = self, self._watch, self._out, self._shared
        records, check_out = watch.ledger.records, watch.ledger.check_out
        connect = vars(engine)["connect"].__code__

        def poolguard_checkout(_dbapi_connection: Any, entry: Any, proxy: Any) -> None:
            if watch.active:
                try:
                    pool = proxy._pool  # noqa: SLF001
                    record = records.get(id(pool))  # as in ledger.pool(), without the call
                    if record is None or record.ref() is not pool:
                        record = driver._new_pool(pool, entry)
                        if record is None:
                            return
                    try:  # each frame costs: those that an engine's connect() puts in between are left out
                        skip = VIA_ENGINE if _getframe(VIA_ENGINE - 2).f_code is connect else OWN_FRAMES
                    except ValueError:  # there are not so many
                        skip = OWN_FRAMES
                    checkout = check_out(record, proxy, skip)
                    if checkout is not None:
                        if pool._dialect.is_async:  # noqa: SLF001
                            driver._in_a_task(checkout)
                        if not shared or record not in shared:
                            out[id(entry)] = checkout
                except Exception as error:
                    watch.on_fault("noting a checkout", error)

        return poolguard_checkout

    def _listener_of_checkins(self) -> Callable[..., None]:
        driver, watch, out, shared = self, self._watch, self._out, self._shared
        end = watch.ledger.end

        def poolguard_checkin(_dbapi_connection: Any, entry: Any) -> None:
            if watch.active:
                try:
                    checkout = out.pop(id(entry), None)
                    if checkout is not None:
                        proxy: Any = checkout.connection()
                        if proxy is None or driver._collector:
                            driver._returned(checkout)
                        else:
                            end(checkout)
                    elif shared:
                        driver._look_at_shared(entry)
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
                    self._watch.ledger.serve(entry.driver_connection, record)
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
                opening = ledger.opening(pool_of(entry)._dialect.get_driver_connection(dbapi_connection))  # noqa: SLF001
                if opening is not None and proxy is not None:
                    self._hand_over(opening)
            except Exception as error:
                self._watch.on_fault("noting that a connection was detached", error)

    def _on_close(self, _dbapi_connection: Any, entry: Any) -> None:
        """A pool closes a connection: if that is another pool's, whoever took it there answers for it again."""
        if self._watch.active:
            try:
                inner = self._watch.ledger.held_by(entry.driver_connection)
                if inner is not None:
                    inner.serves = None
            except Exception as error:
                self._watch.on_fault("noting a closed connection", error)

    def _on_reset(self, _dbapi_connection: Any, entry: Any, _state: Any) -> None:
        """A shared connection is given back by one of those who have it: the others' say so in no other event."""
        if self._watch.active:
            try:
                self._look_at_shared(entry)
            except Exception as error:
                self._watch.on_fault("noting a return", error)

    def _on_collection(self, phase: str, _info: Any) -> None:
        self._collector = get_ident() if phase == "start" else 0

    # what they note

    def _note_making(self, pool: Any) -> None:
        ledger = self._watch.ledger
        old = replaced_by(pool)
        made = self._made.get(old) if old is not None else None
        record = ledger.pool(old) if old is not None else None
        if record is not None:
            record.was_closed = True
        record = ledger.pool(old) if old is not None else None
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
        record = ledger.add_pool(pool, self, label_of(pool), origin, made_known=pool in self._made, owner=owner)
        pools: Any = sys.modules["sqlalchemy.pool"]
        if isinstance(pool, pools.StaticPool):
            self._shared.add(record)
            self._listen_to(pool, "reset", self._on_reset)
        return record

    def _hand_over(self, opening: Opening) -> None:
        """A connection is a pool's no longer: whoever has detached it is to close it."""
        stack = Origin(capture(self._watch.ledger.stops, 2))
        own = next((n for n, (code, _) in enumerate(stack.frames()) if PACKAGE not in code.co_filename), 0)
        del stack[: 2 * own]
        opening.pool, opening.opened, opening.owner = None, stack, self._watch.ledger.present
        opening.phase = opening.owner.phase
        opening.owner.opened.append(opening)

    def _in_a_task(self, checkout: Checkout) -> None:
        """Note the task that has it, and go on with the stack where the greenlet was started that runs for it."""
        task = sys.modules["asyncio"].current_task()
        if task is not None:
            checkout.task = Task(task, self._watch.ledger.starter.get())
        greenlet = sys.modules["greenlet"].getcurrent()
        while greenlet is not None and getattr(greenlet, "__sqlalchemy_greenlet_provider__", False):
            greenlet = greenlet.parent
            checkout.stack += capture_from(greenlet.gr_frame, self._watch.ledger.stops)

    def _returned(self, checkout: Checkout) -> None:
        """Note a return, by whomever: a proxy that was closed counts down to zero first."""
        proxy: Any = checkout.connection()
        in_collection = self._collector == get_ident()
        if proxy is None or (in_collection and not is_done(proxy)):
            # An asyncio pool can't give it back: it is closed, and there is an error in the log.
            is_async = checkout.task is not None
            self._watch.ledger.dropped(checkout, harmless=not in_collection and not is_async)
        else:
            self._watch.ledger.give_back(checkout.pool.ref(), proxy)

    def _look_at_shared(self, entry: Any) -> None:
        pool = pool_of(entry)
        for checkout in self._watch.ledger.outstanding():
            proxy = checkout.connection()
            if checkout.pool.ref() is pool and (proxy is None or is_done(proxy)):
                self._returned(checkout)

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
