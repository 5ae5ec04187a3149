"""asyncpg: ``asyncpg.connect`` and ``Pool``.

Every way to a pool's connection makes a ``PoolConnectionProxy``, and every way back passes ``_release`` of its
``PoolConnectionHolder``: ``release()``, and ``close()`` or ``terminate()`` of the connection, which free its slot,
too. What the ledger knows is the connection behind the proxy: the same one again and again, as it was opened.
"""

from __future__ import annotations

import functools
import importlib.metadata
import sys
import threading
from collections.abc import Callable, Iterable, Mapping
from types import ModuleType
from typing import Any

from pytest_poolguard.drivers.asyncpg_limits import Limited
from pytest_poolguard.drivers.asyncpg_objects import Plumbing, proxy_of, reference, terminate
from pytest_poolguard.drivers.awaiting import splice
from pytest_poolguard.drivers.interface import State, Terms, Unsupported, Watch
from pytest_poolguard.drivers.patching import Patches, class_tree
from pytest_poolguard.origin import Origin, capture, printable
from pytest_poolguard.records import Checkout, Pool, Task

__all__ = ["Asyncpg"]

TERMS = Terms(
    take="acquire",
    give="release",
    close="close",
    cure="use `async with pool.acquire() as conn:`",
    discard="conn.terminate()",
    with_returns=True,
)

#: What is patched, by class.
PATCHED = {
    "Pool": ("__init__", "_acquire", "release", "close", "terminate"),
    "PoolConnectionHolder": ("connect", "_release"),
    "PoolConnectionProxy": ("__init__",),
}


class Asyncpg:
    """The driver of asyncpg 0.29 and newer."""

    library = "asyncpg"
    pool_references = 2  # to a proxy: its holder's, and that of the connection behind it

    def __init__(self, watch: Watch) -> None:
        self._watch = watch
        self._patches = Patches()
        self._limited = Limited(watch)
        self._made: dict[int, Origin] = {}  #: where pools were made that have not connected yet, by id
        self._terminated: dict[int, Checkout] = {}  #: what was out of a terminated pool, by its proxy's id
        self._plumbing = Plumbing()

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
        """What asyncpg knows of the connection; of a transaction not whether it has failed."""
        try:
            if connection.is_closed():
                return State(closed=True, broken=not connection._aborted)  # noqa: SLF001
            transaction = "idle in transaction" if connection.is_in_transaction() else "idle"
            if connection._stmt_exclusive_section._acquired:  # noqa: SLF001
                transaction = "active"
            return State(int(connection.get_server_pid()), transaction)
        except Exception:  # a mock, or a connection that breaks just now
            return State()

    def is_open(self, pool: Any) -> bool:
        """Whether nobody has begun to close it."""
        return getattr(pool, "_closed", True) is False and not pool._closing  # noqa: SLF001

    def idle(self, pool: Any) -> int:
        """Those that are connected, and in nobody's hands."""
        return sum(holder.is_connected() and holder.is_idle() for holder in list(getattr(pool, "_holders", ())))

    def workers(self, _pool: Any) -> Iterable[threading.Thread]:
        """asyncpg has none."""
        return ()

    # patching

    def _patch_connect(self, module: ModuleType) -> None:
        if not hasattr(module, "_connect"):
            raise Unsupported("asyncpg.connect_utils has no _connect")
        self._patches.replace(module, "_connect", self._watched_connect(module._connect))

    def _patch_pool(self, module: ModuleType) -> None:
        for name, methods in PATCHED.items():
            cls = getattr(module, name, None)
            for method in methods:
                if method not in getattr(cls, "__dict__", {}):
                    raise Unsupported(f"asyncpg.pool.{name} has no {method}")
        self._limited.library = module
        for base, method, watched in (
            (module.Pool, "__init__", self._watched_init),
            (module.Pool, "_acquire", self._limited_acquire),
            (module.Pool, "release", self._watched_release),
            (module.Pool, "close", self._limited_close),
            (module.Pool, "terminate", self._watched_terminate),
            (module.PoolConnectionHolder, "connect", self._watched_holder_connect),
            (module.PoolConnectionHolder, "_release", self._watched_holder_release),
            (module.PoolConnectionProxy, "__init__", self._watched_proxy),
        ):
            original = vars(base)[method]
            replacement = watched(original)
            for cls in class_tree(base):
                for alias, value in list(vars(cls).items()):
                    if value is original:
                        self._patches.replace(cls, alias, replacement)

    # the replacements: what the caller gets, and the signatures, are the originals'

    def _watched_connect(self, original: Callable[..., Any]) -> Callable[..., Any]:
        driver, watch = self, self._watch

        @functools.wraps(original)
        async def _connect(*args: Any, **kwargs: Any) -> Any:
            __tracebackhide__ = True
            connection = await original(*args, **kwargs)
            if watch.active:
                try:
                    opening = watch.ledger.opened(connection, driver)
                    opening.backend_pid = driver.state(connection).backend_pid
                    driver._find_holder(opening.opened)
                except Exception as error:
                    watch.on_fault("noting a new connection", error)
            return connection

        return _connect

    def _watched_init(self, original: Callable[..., Any]) -> Callable[..., Any]:
        driver, watch = self, self._watch

        @functools.wraps(original)
        def __init__(self: Any, *args: Any, **kwargs: Any) -> None:  # noqa: N807
            __tracebackhide__ = True
            original(self, *args, **kwargs)
            if watch.active:
                try:
                    driver._made[id(self)] = Origin(capture(watch.ledger.stops, 1))
                except Exception as error:
                    watch.on_fault("noting a pool", error)

        return __init__

    def _watched_holder_connect(self, original: Callable[..., Any]) -> Callable[..., Any]:
        driver, watch = self, self._watch

        @functools.wraps(original)
        async def connect(self: Any) -> None:
            __tracebackhide__ = True
            await original(self)
            if watch.active:
                try:
                    opening = watch.ledger.opening(self._con)
                    if opening is not None:
                        opening.pool = driver._record(self._pool)
                except Exception as error:
                    watch.on_fault("noting a new connection", error)

        return connect

    def _watched_proxy(self, original: Callable[..., Any]) -> Callable[..., Any]:
        driver, watch, ledger = self, self._watch, self._watch.ledger
        records, plumbing = ledger.records, self._plumbing
        asyncio = sys.modules["asyncio"]  # the library has imported it
        current_task, starter, step = asyncio.current_task, ledger.starter.get, asyncio.events.__file__

        @functools.wraps(original)
        def __init__(self: Any, holder: Any, con: Any) -> None:  # noqa: N807
            __tracebackhide__ = True
            original(self, holder, con)
            if watch.active:
                try:
                    if driver._terminated:
                        driver._terminated.pop(id(self), None)  # of another one, that is gone
                    pool = holder._pool
                    record = records.get(id(pool))  # as in ledger.pool(), without the call
                    if record is None or record.ref() is not pool:
                        record = driver._record(pool)
                    checkout = ledger.check_out(record, con)
                    if checkout is not None:
                        checkout.hand = proxy_of
                        task = current_task()
                        for code in checkout.stack[::2]:
                            if not plumbing[code.co_filename]:  # type: ignore[union-attr]
                                break
                            if code.co_filename == step:  # type: ignore[union-attr]
                                task = driver._find_holder(checkout.stack)
                                break
                        if task is not None:
                            checkout.task = Task(task, starter())
                except Exception as error:
                    watch.on_fault("noting a checkout", error)

        return __init__

    def _watched_holder_release(self, original: Callable[..., Any]) -> Callable[..., Any]:
        driver, watch, ledger = self, self._watch, self._watch.ledger

        @functools.wraps(original)
        def _release(self: Any) -> None:
            __tracebackhide__ = True
            proxy = self._proxy
            if proxy is not None and watch.active:
                try:
                    if id(proxy) not in driver._terminated:
                        ledger.give_back(self._pool, proxy._con)
                except Exception as error:
                    watch.on_fault("noting a return", error)
            original(self)

        return _release

    def _watched_release(self, original: Callable[..., Any]) -> Callable[..., Any]:
        driver = self

        @functools.wraps(original)
        async def release(self: Any, connection: Any, *, timeout: float | None = None) -> Any:
            __tracebackhide__ = True
            checkout = driver._returns(self, connection)
            try:
                result = await original(self, connection, timeout=timeout)
            except Exception as error:  # a cancelled one goes on in a task of its own
                if checkout is not None:
                    driver._not_returned(self, connection, checkout, error)
                raise
            if driver._limited.grown:
                driver._limited.cut_down(self)
            return result

        return release

    def _watched_terminate(self, original: Callable[..., Any]) -> Callable[..., Any]:
        driver, watch, ledger = self, self._watch, self._watch.ledger

        @functools.wraps(original)
        def terminate(self: Any) -> None:
            __tracebackhide__ = True
            if watch.active:
                try:
                    record = ledger.pool(self)
                    if record is not None and not self._closed:
                        ledger.pool_closes(record)
                        driver._are_lost(record)
                except Exception as error:
                    watch.on_fault("noting that a pool was closed", error)
            original(self)

        return terminate

    def _limited_acquire(self, original: Callable[..., Any]) -> Callable[..., Any]:
        driver, watch, ledger = self, self._watch, self._watch.ledger

        @functools.wraps(original)
        def _acquire(self: Any, timeout: float | None) -> Any:
            __tracebackhide__ = True
            limits = ledger.present.limits
            if watch.active and (limits.max is not None or limits.timeout is not None):
                return driver._limited.acquire(original, self, driver._known(self), timeout, limits)
            if driver._limited.grown:
                driver._limited.cut_down(self)
            return original(self, timeout)

        return _acquire

    def _limited_close(self, original: Callable[..., Any]) -> Callable[..., Any]:
        driver, watch, ledger = self, self._watch, self._watch.ledger

        @functools.wraps(original)
        async def close(self: Any) -> None:
            __tracebackhide__ = True
            seconds = ledger.present.limits.timeout
            if watch.active and seconds is not None:
                await driver._limited.close(original, self, ledger.pool(self), seconds)
            else:
                await original(self)

        return close

    # what they note

    def _record(self, pool: Any) -> Pool:
        """The record of a pool; by the call of the caller's caller, a new one is made."""
        ledger = self._watch.ledger
        record = ledger.pool(pool)
        if record is None:
            made = self._made.pop(id(pool), None)
            label = f"{type(pool).__name__}({pool._minsize}..{pool._maxsize})"  # noqa: SLF001
            record = ledger.add_pool(
                pool,
                self,
                label,
                made if made is not None else Origin(capture(ledger.stops, 2)),
                made_known=made is not None,
                reference=reference,
            )
        return record

    def _find_holder(self, stack: list[Any]) -> Any:
        """The task whose code took or opened a connection; the stack goes on there."""
        asyncio = sys.modules["asyncio"]
        task = asyncio.current_task()
        if task is None:
            return None
        return splice(stack, task, self._plumbing.__getitem__, lambda thing: isinstance(thing, asyncio.Task))

    def _returns(self, pool: Any, proxy: Any) -> Checkout | None:
        """Note a return, by whatever is given to ``release()``."""
        checkout = None
        if self._watch.active:
            try:
                ledger = self._watch.ledger
                connection = getattr(proxy, "_con", None)
                if connection is not None:
                    checkout = ledger.give_back(pool, connection)
                elif self._terminated:
                    late = self._terminated.pop(id(proxy), None)
                    if late is not None:
                        late.returned = True
                        ledger.settle(late)
            except Exception as error:
                self._watch.on_fault("noting a return", error)
        return checkout

    def _not_returned(self, pool: Any, proxy: Any, checkout: Checkout, error: BaseException) -> None:
        """A release raised: the connection is still out if it is still in its proxy."""
        try:
            own = checkout.pool.ref() is pool
            if own and proxy._con is None:  # noqa: SLF001
                return
            if own:
                self._watch.ledger.put_back(checkout)
            reason = printable(f"{type(error).__name__}: {error}".strip().partition("\n")[0])
            checkout.cause = ("release raised", reason) if own else ("returned to another pool", "")
        except Exception as fault:
            self._watch.on_fault("noting a failed return", fault)

    def _known(self, pool: Any) -> Pool | None:
        """The record of a pool that may be asked for a connection; None for one that has its own to say."""
        return self._record(pool) if pool._initialized and self.is_open(pool) else None  # noqa: SLF001

    def _are_lost(self, record: Pool) -> None:
        """A pool is terminated: what is out of it can no longer be looked at, but it may be released yet."""
        for checkout in self._watch.ledger.outstanding():
            connection: Any = checkout.connection()
            if checkout.pool is record and connection is not None:
                checkout.last_state = self.state(connection)
                self._terminated[id(connection._proxy)] = checkout  # noqa: SLF001

    # reclaiming

    def reclaim(self, checkout: Checkout) -> None:
        """Terminate the connection, in its loop where that runs: the pool has its slot back at once."""
        connection: Any = checkout.connection()
        if connection is None:
            return
        loop = connection._loop  # noqa: SLF001
        if loop.is_running():
            loop.call_soon_threadsafe(terminate, connection)
        else:
            terminate(connection)
