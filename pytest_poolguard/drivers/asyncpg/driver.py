"""asyncpg: ``asyncpg.connect`` and ``Pool``.

Every way to a pool's connection awaits ``Pool._acquire``. The ways back are ``Pool.release`` and, for a
connection that is closed while it is out, ``PoolConnectionHolder._release_on_close``: that frees its slot, too.
"""

# ruff: noqa: SLF001 - what counts are the library's own ways, not those that it shows

from __future__ import annotations

import functools
import importlib.metadata
import sys
import threading
from collections.abc import Callable, Iterable, Mapping
from types import ModuleType
from typing import Any

from pytest_poolguard.books.records import Checkout
from pytest_poolguard.drivers import dirty
from pytest_poolguard.drivers.asyncpg.closing import Closing
from pytest_poolguard.drivers.asyncpg.limits import Limited
from pytest_poolguard.drivers.asyncpg.notes import Notes
from pytest_poolguard.drivers.asyncpg.objects import is_closing, place_of, state, terminate
from pytest_poolguard.drivers.asyncpg.session_limits import TALK, releasing
from pytest_poolguard.drivers.interface import State, Terms, Unsupported, Watch
from pytest_poolguard.drivers.lines.asyncpg import AsyncpgLine
from pytest_poolguard.drivers.looking import first_look
from pytest_poolguard.drivers.moment import Reach
from pytest_poolguard.drivers.patching import Patches, class_tree
from pytest_poolguard.drivers.session_limits import Talk

__all__ = ["Asyncpg"]

TERMS = Terms(
    take="acquire",
    give="release",
    close="close",
    cure="use `async with pool.acquire() as conn:`",
    discard="conn.terminate()",
    with_returns=True,
    commit="COMMIT",
    rollback="ROLLBACK",
)


class Asyncpg:
    """The driver of asyncpg 0.29 and newer."""

    library = "asyncpg"
    pool_references = 2  # to a proxy: its holder's, and that of the connection behind it

    def __init__(self, watch: Watch) -> None:
        self._watch = watch
        self._patches = Patches()
        self._notes = Notes(self, watch)
        self._limited = Limited(watch)
        self._closing = Closing(self._notes, watch)

    @property
    def modules(self) -> Mapping[str, Callable[[ModuleType], None]]:
        """Where connections are made, and the pool."""
        return {"asyncpg.connect_utils": self._patch_connect, "asyncpg.pool": self._patch_pool}

    def version(self) -> str:
        """The one that was installed: the package has its own only after its modules."""
        try:
            return importlib.metadata.version(self.library)
        except importlib.metadata.PackageNotFoundError:
            return "unknown"

    def undo(self) -> None:
        """Give asyncpg its functions back."""
        self._patches.undo()

    def terms(self, _pool: Any) -> Terms:
        """The same for every class."""
        return TERMS

    def state(self, connection: Any) -> State:
        """What asyncpg knows of the connection."""
        return state(connection)

    def talk(self, _connection: Any) -> Talk:
        """The same for every class."""
        return TALK

    def is_open(self, pool: Any) -> bool:
        """Whether nobody has begun to close it."""
        return not is_closing(pool)

    def capacity(self, pool: Any) -> int | None:
        """Its ``max_size``."""
        return int(pool._maxsize)

    def idle(self, pool: Any) -> int:
        """Those that are connected, and in nobody's hands."""
        return sum(holder.is_connected() and holder.is_idle() for holder in list(getattr(pool, "_holders", ())))

    def workers(self, _pool: Any) -> Iterable[threading.Thread]:
        """There are none."""
        return ()

    def reclaim(self, checkout: Checkout) -> None:
        """Terminate the connection, in its loop where that runs: the pool has its slot back at once."""
        connection: Any = checkout.connection()
        if connection is None:
            return
        loop = connection._loop
        if loop.is_running():
            loop.call_soon_threadsafe(terminate, connection)
        else:
            terminate(connection)

    # patching

    def _patch_connect(self, module: ModuleType) -> None:
        if not hasattr(module, "_connect"):
            raise Unsupported("asyncpg.connect_utils has no _connect")
        self._patches.replace(module, "_connect", self._watched_connect(module._connect))

    def _patch_pool(self, module: ModuleType) -> None:
        self._limited.library = module
        patched = [
            ("Pool", "__init__", self._watched_init),
            ("Pool", "_acquire", self._watched_acquire),
            ("Pool", "release", self._watched_release),
            ("Pool", "close", self._watched_close),
            ("Pool", "terminate", self._watched_terminate),
            ("PoolConnectionHolder", "connect", self._watched_holder_connect),
            ("PoolConnectionHolder", "_release_on_close", self._watched_release_on_close),
        ]
        known = (*patched, ("PoolConnectionHolder", "release", None))
        for name, method, _ in known:
            if method not in getattr(getattr(module, name, None), "__dict__", {}):
                raise Unsupported(f"asyncpg.pool.{name} has no {method}")
        for name, method, watched in patched:
            base = getattr(module, name)
            original = vars(base)[method]
            replacement = watched(original)
            for cls in class_tree(base):  # a class that was made before may have taken it under any name
                for alias, value in list(vars(cls).items()):
                    if value is original:
                        self._patches.replace(cls, alias, replacement)
        self._watch.ledger.once_limited(functools.partial(self._patch_holders, module.PoolConnectionHolder))

    def _patch_holders(self, holders: Any) -> None:
        """There limits of sessions are taken back; most runs have none."""
        self._patches.replace(holders, "release", releasing(vars(holders)["release"], self._watch.sessions))

    # the replacements: what the caller gets, and the signatures, are the originals'

    def _watched_connect(self, original: Callable[..., Any]) -> Callable[..., Any]:
        notes, watch = self._notes, self._watch

        @functools.wraps(original)
        async def _connect(*args: Any, **kwargs: Any) -> Any:
            __tracebackhide__ = True
            connection = await original(*args, **kwargs)
            if watch.active:
                with watch.noting("a new connection"):
                    opening = watch.ledger.opened(connection, notes.driver)
                    opening.backend_pid = state(connection).backend_pid
                    notes.holder(opening.opened)
                    if opening.backend_pid is not None:  # else it is a mock
                        place = place_of(connection)
                        opening.server = place.host, place.port, place.user
                        opening.database = place.database
                        line = AsyncpgLine(sys.modules["asyncpg"])
                        asker = Reach(line, {"place": place})
                        await first_look(watch, opening, lambda: asker, connection.terminate)
            return connection

        return _connect

    def _watched_init(self, original: Callable[..., Any]) -> Callable[..., Any]:
        notes, watch = self._notes, self._watch

        @functools.wraps(original)
        def __init__(self: Any, *args: Any, **kwargs: Any) -> None:  # noqa: N807
            __tracebackhide__ = True
            original(self, *args, **kwargs)
            if watch.active:
                with watch.noting("a pool"):
                    notes.is_made(self)

        return __init__

    def _watched_holder_connect(self, original: Callable[..., Any]) -> Callable[..., Any]:
        notes, watch = self._notes, self._watch

        @functools.wraps(original)
        async def connect(self: Any) -> None:
            __tracebackhide__ = True
            await original(self)
            if watch.active:
                with watch.noting("a new connection"):
                    opening = watch.ledger.opening(self._con)
                    if opening is not None:
                        opening.pool = notes.record(self._pool)

        return connect

    def _watched_acquire(  # noqa: C901 - a function more is a call more, for every connection
        self, original: Callable[..., Any]
    ) -> Callable[..., Any]:
        notes, watch, ledger, limited = self._notes, self._watch, self._watch.ledger, self._limited
        records, is_taken, counting = ledger.records, notes.noting_holders(), watch.counting
        asyncio = sys.modules["asyncio"]  # the library has imported it
        limited_sessions = watch.sessions.limited
        ended = (asyncio.TimeoutError, asyncio.CancelledError)

        @functools.wraps(original)
        async def _acquire(self: Any, timeout: float | None) -> Any:
            __tracebackhide__ = True
            limits = ledger.present.limits
            call = watch.asks(self) if counting.is_on and notes.known(self) is not None else None
            checkout = None
            try:
                if limits.max is not None or limits.timeout is not None:
                    proxy = await limited.acquire(original, self, notes.known(self), timeout, limits)
                else:
                    if limited.any_grown:
                        limited.cut_down(self)
                    proxy = await original(self, timeout)
                if limits.session is not None or limited_sessions:
                    await notes.limit(self, proxy)
                if watch.active:
                    try:
                        record = records.get(id(self))  # as in ledger.pool(), without the call
                        if record is None or record.ref() is not self:
                            record = notes.record(self)
                        checkout = ledger.check_out(record, proxy._con)
                        if checkout is not None:
                            is_taken(checkout, proxy)
                    except Exception as error:
                        watch.on_fault("noting a checkout", error)
            except ended as error:
                notes.gives_up(self, error)
                raise
            finally:
                if call is not None:
                    watch.answers(call, checkout)
            return proxy

        return _acquire

    def _watched_release(self, original: Callable[..., Any]) -> Callable[..., Any]:
        notes, watch, ledger, limited = self._notes, self._watch, self._watch.ledger, self._limited

        @functools.wraps(original)
        async def release(self: Any, connection: Any, *, timeout: float | None = None) -> Any:
            __tracebackhide__ = True
            checkout = None
            if watch.active:
                try:
                    known = getattr(connection, "_con", None)
                    if known is not None:
                        checkout = ledger.give_back(self, known)
                    else:
                        notes.comes_late(connection)
                except Exception as error:
                    watch.on_fault("noting a return", error)
            answer = None
            if watch.dirty_returns and checkout is not None and checkout.returned:
                answer = await dirty.asyncpg_wrote(known)
            try:
                result = await original(self, connection, timeout=timeout)
            except Exception as error:  # one that is cancelled goes on in a task of its own
                if checkout is not None:
                    notes.not_returned(self, connection, checkout, error)
                raise
            if limited.any_grown:
                limited.cut_down(self)
            if answer is not None and checkout is not None:
                dirty.settle(watch, checkout, answer)
            return result

        return release

    def _watched_release_on_close(self, original: Callable[..., Any]) -> Callable[..., Any]:
        notes, watch, ledger = self._notes, self._watch, self._watch.ledger

        @functools.wraps(original)
        def _release_on_close(self: Any) -> None:
            __tracebackhide__ = True
            if watch.active:
                with watch.noting("a return"):
                    if self._proxy is not None and not notes.is_lost(self._proxy):
                        ledger.give_back(self._pool, self._proxy._con)
                    watch.sessions.forget(self._con)
            original(self)

        return _release_on_close

    def _watched_terminate(self, original: Callable[..., Any]) -> Callable[..., Any]:
        notes, watch, ledger = self._notes, self._watch, self._watch.ledger

        @functools.wraps(original)
        def terminate(self: Any) -> None:
            __tracebackhide__ = True
            if watch.active:
                with watch.noting("that a pool was closed"):
                    record = ledger.pool(self)
                    if record is not None and not self._closed:
                        ledger.pool_closes(record)
                        notes.are_lost(record)
            original(self)

        return terminate

    def _watched_close(self, original: Callable[..., Any]) -> Callable[..., Any]:
        watch, ledger, limited, closing = self._watch, self._watch.ledger, self._limited, self._closing

        @functools.wraps(original)
        async def close(self: Any) -> None:
            __tracebackhide__ = True
            seconds = ledger.present.limits.timeout
            record = ledger.pool(self) if watch.active else None
            if record is not None:
                record.was_closed = True
            if record is None:
                await original(self)
            elif seconds is None:
                await closing.close(original, self, record)
            else:
                await limited.close(original, self, record, seconds)

        return close
