"""psycopg_pool: ``ConnectionPool``, ``AsyncConnectionPool``, and the null pools, which inherit from them.

Only those two classes have a ``getconn`` and a ``putconn``; ``connection()``, and the ``close()`` of a connection
whose pool has ``close_returns``, call them. It is the client's call that counts: with a ``reset`` callback the
pool takes a connection back later, in a worker, and its counters are its own business.
"""

from __future__ import annotations

import contextlib
import functools
import importlib.metadata
import re
import sys
import threading
import time
import weakref
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from sys import _getframe
from types import ModuleType
from typing import Any

from pytest_poolguard.drivers import dirty, libpq
from pytest_poolguard.drivers.gate import PAUSE, Gates, Way
from pytest_poolguard.drivers.interface import State, Terms, Unsupported, Watch
from pytest_poolguard.drivers.patching import Patches, class_tree
from pytest_poolguard.drivers.supplies import async_connecting, connecting
from pytest_poolguard.drivers.tasks import ASYNCHRONOUS, Waiter, note_task, waiter
from pytest_poolguard.origin import Origin, capture, printable
from pytest_poolguard.records import Checkout, Limits, Pool, Task

__all__ = ["PsycopgPool"]

TERMS = Terms(
    take="getconn",
    give="putconn",
    close="close",
    cure="use `with pool.connection() as conn:`",
    discard="putconn(conn)",
)
ASYNC_TERMS = Terms(
    take="getconn",
    give="putconn",
    close="close",
    cure="use `async with pool.connection() as conn:`",
    discard="putconn(conn)",
)


#: Before it, a pool's ``_connect`` takes no timeout, and an asynchronous pool opens itself.
OLDEST = (3, 1)


class PsycopgPool:
    """The driver of psycopg_pool 3.1 and newer."""

    library = "psycopg_pool"
    pool_references = 0  # what is out, the pool does not know

    def __init__(self, watch: Watch) -> None:
        self._watch = watch
        self._patches = Patches()
        self._putconn: dict[bool, Callable[..., Any]] = {}  #: the originals, by whether they are asynchronous
        self._module: dict[bool, ModuleType] = {}  #: likewise
        self._gates = Gates(watch.ledger, "_max_size")
        self._reclaimed: dict[int, _Reclaimed] = {}  #: by id

    @property
    def modules(self) -> Mapping[str, Callable[[ModuleType], None]]:
        """The one where each pool begins, and the two that take connections and give them back."""
        return {
            "psycopg_pool.base": self._patch_base,
            "psycopg_pool.pool": self._patch_pool,
            "psycopg_pool.pool_async": self._patch_async_pool,
        }

    def version(self) -> str:
        """The one that was installed: the package has its own only after its modules."""
        try:
            return importlib.metadata.version(self.library)
        except importlib.metadata.PackageNotFoundError:
            return "unknown"

    def undo(self) -> None:
        """Give psycopg_pool its functions back."""
        self._patches.undo()

    def terms(self, pool: Any) -> Terms:
        """With or without ``async``."""
        return ASYNC_TERMS if self._is_async(pool) else TERMS

    def state(self, connection: Any) -> State:
        """What libpq knows of the connection."""
        return libpq.state(connection)

    def is_open(self, pool: Any) -> bool:
        """Whether it was opened, and not closed yet."""
        return getattr(pool, "closed", True) is False

    def idle(self, pool: Any) -> int:
        """Those that lie ready, less what has died there."""
        return sum(not self.state(connection).closed for connection in list(getattr(pool, "_pool", ())))

    def workers(self, pool: Any) -> Iterable[threading.Thread]:
        """The threads of a synchronous pool: they connect, and reset what was returned."""
        threads = [*getattr(pool, "_workers", ()), getattr(pool, "_sched_runner", None)]
        return [thread for thread in threads if isinstance(thread, threading.Thread)]

    # patching

    def _refuse_older_ones(self) -> None:
        known = re.match(r"(\d+)\.(\d+)", self.version())
        if known is not None and (int(known[1]), int(known[2])) < OLDEST:
            raise Unsupported("it is older than {}.{}".format(*OLDEST))

    def _patch_base(self, module: ModuleType) -> None:
        self._refuse_older_ones()
        base = _class(module, "BasePool", "__init__")
        self._patches.replace(base, "__init__", self._watched_init(vars(base)["__init__"]))

    def _patch_pool(self, module: ModuleType) -> None:
        self._patch(module, "ConnectionPool", self._watched_getconn, self._watched_putconn, is_async=False)

    def _patch_async_pool(self, module: ModuleType) -> None:
        self._patch(
            module, "AsyncConnectionPool", self._watched_async_getconn, self._watched_async_putconn, is_async=True
        )

    def _patch(
        self,
        module: ModuleType,
        name: str,
        take: Callable[..., Any],
        give: Callable[..., Any],
        *,
        is_async: bool,
    ) -> None:
        self._refuse_older_ones()
        base = _class(module, name, "getconn", "putconn", "_connect")
        self._module[is_async] = module
        self._putconn[is_async] = vars(base)["putconn"]
        supplied = async_connecting if is_async else connecting
        client = vars(base)["getconn"].__code__
        self._patches.replace(
            base, "_connect", supplied(vars(base)["_connect"], self._watch, self._record, client)
        )
        for method, watched in (("getconn", take), ("putconn", give)):
            original = vars(base)[method]
            replacement = watched(original, module.PoolTimeout) if watched is take else watched(original)
            for cls in class_tree(base):  # a class that was made before may have taken it under any name
                for alias, value in list(vars(cls).items()):
                    if value is original:
                        self._patches.replace(cls, alias, replacement)

    # the replacements: what the caller gets, and the signatures, are the originals'

    def _watched_init(self, original: Callable[..., Any]) -> Callable[..., Any]:
        driver, watch = self, self._watch

        @functools.wraps(original)
        def __init__(self: Any, *args: Any, **kwargs: Any) -> None:  # noqa: N807
            __tracebackhide__ = True
            original(self, *args, **kwargs)
            if watch.active:
                try:
                    driver._new_pool(self, made_known=True)
                except Exception as error:
                    watch.on_fault("noting a pool", error)

        return __init__

    def _watched_getconn(self, original: Callable[..., Any], error: type[Exception]) -> Callable[..., Any]:
        driver, watch, ledger = self, self._watch, self._watch.ledger
        records = ledger.records

        @functools.wraps(original)
        def getconn(self: Any, timeout: float | None = None) -> Any:
            __tracebackhide__ = True
            limits = ledger.present.limits
            way = None
            if limits.max is not None or limits.timeout is not None:
                way = driver._way(self, limits, timeout, error)
                for _ in way:
                    time.sleep(PAUSE)
                timeout = way.left
            try:
                connection = original(self, timeout)
                if watch.active:
                    try:
                        record = records.get(id(self))  # as in ledger.pool(), without the call
                        if record is None or record.ref() is not self:
                            record = driver._new_pool(self, made_known=False)
                        ledger.check_out(record, connection)
                    except Exception as fault:
                        watch.on_fault("noting a checkout", fault)
                return connection
            finally:
                if way is not None:
                    way.leave()

        return getconn

    def _watched_async_getconn(self, original: Callable[..., Any], error: type[Exception]) -> Callable[..., Any]:
        driver, watch, ledger = self, self._watch, self._watch.ledger
        asyncio = sys.modules["asyncio"]  # the library has imported it
        current_task, sleep, records = asyncio.current_task, asyncio.sleep, ledger.records
        last: Task | None = None

        @functools.wraps(original)
        async def getconn(self: Any, timeout: float | None = None) -> Any:
            nonlocal last
            __tracebackhide__ = True
            waiting = None if _getframe(1).f_code.co_flags & ASYNCHRONOUS else driver._waiter()
            limits = ledger.present.limits
            way = None
            if limits.max is not None or limits.timeout is not None:
                way = driver._way(self, limits, timeout, error)
                for _ in way:
                    await sleep(PAUSE)
                timeout = way.left
            try:
                connection = await original(self, timeout)
                if watch.active:
                    try:
                        record = records.get(id(self))  # as in ledger.pool(), without the call
                        if record is None or record.ref() is not self:
                            record = driver._new_pool(self, made_known=False)
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
                return connection
            finally:
                if way is not None:
                    way.leave()

        return getconn

    def _watched_putconn(self, original: Callable[..., Any]) -> Callable[..., Any]:
        driver, watch, give_back = self, self._watch, self._watch.ledger.give_back

        @functools.wraps(original)
        def putconn(self: Any, conn: Any) -> Any:
            __tracebackhide__ = True
            if driver._reclaimed and driver._was_handed_in(conn):
                return None  # a late return: its holder need not notice
            checkout = None
            if watch.active:
                try:
                    checkout = give_back(self, conn)
                except Exception as error:
                    watch.on_fault("noting a return", error)
            lost = (
                watch.dirty_returns and checkout is not None and checkout.returned and dirty.psycopg_wrote(conn)
            )
            try:
                result = original(self, conn)
            except BaseException as error:
                if checkout is not None:
                    driver._not_returned(self, conn, checkout, error)
                raise
            if lost and checkout is not None:
                dirty.note(watch, checkout)
            if driver._gates.any_raised:
                driver._cut_down(self)
            return result

        return putconn

    def _watched_async_putconn(self, original: Callable[..., Any]) -> Callable[..., Any]:
        driver, watch, give_back = self, self._watch, self._watch.ledger.give_back

        @functools.wraps(original)
        async def putconn(self: Any, conn: Any) -> Any:
            __tracebackhide__ = True
            if driver._reclaimed and driver._was_handed_in(conn):
                return None  # a late return: its holder need not notice
            checkout = None
            if watch.active:
                try:
                    checkout = give_back(self, conn)
                except Exception as error:
                    watch.on_fault("noting a return", error)
            answer = None
            if watch.dirty_returns and checkout is not None and checkout.returned:
                answer = await dirty.psycopg_wrote_async(conn)
            try:
                result = await original(self, conn)
            except BaseException as error:
                if checkout is not None:
                    driver._not_returned(self, conn, checkout, error)
                raise
            if driver._gates.any_raised:
                driver._cut_down(self)
            if answer is not None and checkout is not None:
                dirty.settle(watch, checkout, answer)
            return result

        return putconn

    # what they note

    def _waiter(self) -> Waiter | None:
        """Who waits for a call that a task was made for alone."""
        try:
            return waiter(self._watch.ledger) if self._watch.active else None
        except Exception as error:
            self._watch.on_fault("looking for who waits for a connection", error)
            return None

    def _is_async(self, pool: Any) -> bool:
        module = self._module.get(True)
        return module is not None and isinstance(pool, module.AsyncConnectionPool)

    def _new_pool(self, pool: Any, *, made_known: bool) -> Pool:
        ledger = self._watch.ledger
        label = f"{type(pool).__name__}({pool.min_size}..{pool.max_size or ''})"
        return ledger.add_pool(pool, self, label, Origin(capture(ledger.stops, 2)), made_known=made_known)

    def _record(self, pool: Any) -> Pool:
        return self._watch.ledger.pool(pool) or self._new_pool(pool, made_known=False)

    def _not_returned(self, pool: Any, conn: Any, checkout: Checkout, error: BaseException) -> None:
        """A putconn raised: the connection is still out if it still bears the mark of its pool."""
        try:
            own = checkout.pool.ref() is pool
            if own and getattr(conn, "_pool", None) is not pool:
                return
            if own:
                self._watch.ledger.put_back(checkout)
            reason = printable(f"{type(error).__name__}: {error}".strip().partition("\n")[0])
            checkout.cause = ("putconn raised", reason) if own else ("returned to another pool", "")
        except Exception as fault:
            self._watch.on_fault("noting a failed return", fault)

    def _was_handed_in(self, conn: Any) -> bool:
        """Whether a connection was reclaimed, and given to its pool before; from now on it was."""
        record = self._reclaimed.get(id(conn))
        if record is None or record.connection() is not conn:
            return False
        before, record.was_handed_in = record.was_handed_in, True
        return before

    # limits

    def _way(self, pool: Any, limits: Limits, timeout: float | None, error: type[Exception]) -> Way:
        ledger = self._watch.ledger
        record = ledger.pool(pool) if not pool.closed else None  # a closed one has its own to say
        return self._gates.way(pool, record, limits, pool.timeout if timeout is None else timeout, error)

    def _cut_down(self, pool: Any) -> None:
        """Take back what a pool has grown beyond its own size, for a marker's sake, and nobody uses any more."""
        if pool not in self._gates.raised:
            return
        extra = []
        with contextlib.nullcontext() if self._is_async(pool) else pool._lock:  # noqa: SLF001
            while pool._pool and pool._nconns > pool._max_size:  # noqa: SLF001
                extra.append(pool._pool.pop())  # noqa: SLF001
                pool._nconns -= 1  # noqa: SLF001
        for connection in extra:
            connection.pgconn.finish()

    # reclaiming

    def reclaim(self, checkout: Checkout) -> None:
        """Close the connection, then hand it in: a pool replaces what is broken, a null pool forgets it.

        An asynchronous pool can't be called from here, where no loop runs. It is asked for a new connection, as
        its own ``putconn`` does: the slot is of use when its loop runs again, and never after its loop.
        """
        pool: Any = checkout.pool.ref()
        connection: Any = checkout.connection()
        if checkout.task is None or checkout.task.is_blocking:
            self._reclaim(pool, connection)
            return
        loop = checkout.task.loop()
        if loop is not None and loop.is_running():
            loop.call_soon_threadsafe(self._reclaim_async, pool, connection)
        else:
            self._reclaim_async(None if loop is None or loop.is_closed() else pool, connection)

    def _reclaim(self, pool: Any, connection: Any) -> None:
        if connection is not None:
            connection.pgconn.finish()
        if pool is None or pool.closed:
            return
        if connection is None:
            pool.run_task(self._module[False].AddConnection(pool))
            return
        record = self._reclaimed[id(connection)] = _Reclaimed(weakref.ref(connection))
        with contextlib.suppress(Exception):  # a class of its own, or a mock: if it did not come here, it was not
            pool.putconn(connection)
        if not record.was_handed_in:
            record.was_handed_in = True
            self._putconn[False](pool, connection)

    def _reclaim_async(self, pool: Any, connection: Any) -> None:
        if connection is not None:
            connection.pgconn.finish()
            self._reclaimed[id(connection)] = _Reclaimed(weakref.ref(connection), was_handed_in=True)
        if pool is not None and not pool.closed:
            pool.run_task(self._module[True].AddConnection(pool))


@dataclass
class _Reclaimed:
    """A connection that was leaked, and closed by us."""

    connection: weakref.ref[Any]
    was_handed_in: bool = False  #: to its pool: that gets it once only


def _class(module: ModuleType, name: str, *methods: str) -> Any:
    cls = getattr(module, name, None)
    for method in methods:
        if method not in getattr(cls, "__dict__", {}):
            raise Unsupported(f"{module.__name__}.{name} has no {method}")
    return cls
