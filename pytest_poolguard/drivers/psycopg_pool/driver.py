"""psycopg_pool: ``ConnectionPool``, ``AsyncConnectionPool``, and the null pools, which inherit from them.

Only those two classes have a ``getconn`` and a ``putconn``; ``connection()``, and the ``close()`` of a connection
whose pool has ``close_returns``, call them. It is the client's call that counts: with a ``reset`` callback the
pool takes a connection back later, in a worker, and its counters are its own business.
"""

from __future__ import annotations

import functools
import importlib.metadata
import re
import threading
from collections.abc import Callable, Iterable, Mapping
from types import ModuleType
from typing import Any

from pytest_poolguard.books.records import Checkout
from pytest_poolguard.drivers import libpq
from pytest_poolguard.drivers.interface import State, Terms, Unsupported, Watch
from pytest_poolguard.drivers.patching import Patches, class_tree
from pytest_poolguard.drivers.psycopg_pool.calls import (
    watched_async_getconn,
    watched_async_putconn,
    watched_close,
    watched_getconn,
    watched_init,
    watched_putconn,
)
from pytest_poolguard.drivers.psycopg_pool.notes import Notes
from pytest_poolguard.drivers.psycopg_pool.reclaiming import Reclaiming
from pytest_poolguard.drivers.psycopg_pool.session_limits import resetting, resetting_async
from pytest_poolguard.drivers.psycopg_pool.supplies import async_connecting, connecting

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
        self._reclaiming = Reclaiming(self._module, self._putconn)
        self._notes = Notes(watch, self, self._module, self._reclaiming)

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
        return ASYNC_TERMS if self._notes.is_async(pool) else TERMS

    def state(self, connection: Any) -> State:
        """What libpq knows of the connection."""
        return libpq.state(connection)

    def is_open(self, pool: Any) -> bool:
        """Whether it was opened, and not closed yet."""
        return getattr(pool, "closed", True) is False

    def capacity(self, pool: Any) -> int | None:
        """Its ``max_size``; None for a null pool without one."""
        return int(pool.max_size) or None

    def idle(self, pool: Any) -> int:
        """Those that lie ready, less what has died there."""
        return sum(not self.state(connection).closed for connection in list(getattr(pool, "_pool", ())))

    def workers(self, pool: Any) -> Iterable[threading.Thread]:
        """The threads of a synchronous pool: they connect, and reset what was returned."""
        threads = [*getattr(pool, "_workers", ()), getattr(pool, "_sched_runner", None)]
        return [thread for thread in threads if isinstance(thread, threading.Thread)]

    def reclaim(self, checkout: Checkout) -> None:
        """Close the connection, then hand it in: a pool replaces what is broken, a null pool forgets it."""
        self._reclaiming.reclaim(checkout)

    # patching

    def _refuse_older_ones(self) -> None:
        known = re.match(r"(\d+)\.(\d+)", self.version())
        if known is not None and (int(known[1]), int(known[2])) < OLDEST:
            raise Unsupported("it is older than {}.{}".format(*OLDEST))

    def _patch_base(self, module: ModuleType) -> None:
        self._refuse_older_ones()
        base = _class(module, "BasePool", "__init__")
        self._patches.replace(base, "__init__", watched_init(self._notes, vars(base)["__init__"]))

    def _patch_pool(self, module: ModuleType) -> None:
        self._patch(module, "ConnectionPool", watched_getconn, watched_putconn, is_async=False)

    def _patch_async_pool(self, module: ModuleType) -> None:
        self._patch(module, "AsyncConnectionPool", watched_async_getconn, watched_async_putconn, is_async=True)

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
        base = _class(module, name, "getconn", "putconn", "close", "_connect", "_reset_connection")
        self._module[is_async] = module
        self._putconn[is_async] = vars(base)["putconn"]
        supplied = async_connecting if is_async else connecting
        client = vars(base)["getconn"].__code__
        self._patches.replace(
            base, "_connect", supplied(vars(base)["_connect"], self._watch, self._notes.record, client)
        )
        self._watch.ledger.once_limited(functools.partial(self._patch_reset, base, is_async=is_async))
        for method, watched in (("getconn", take), ("putconn", give), ("close", watched_close)):
            original = vars(base)[method]
            error = ((module.PoolTimeout, module.TooManyRequests),) if watched is take else ()
            replacement = watched(self._notes, original, *error)
            for cls in class_tree(base):  # a class that was made before may have taken it under any name
                for alias, value in list(vars(cls).items()):
                    if value is original:
                        self._patches.replace(cls, alias, replacement)

    def _patch_reset(self, base: Any, *, is_async: bool) -> None:
        """There limits of sessions are taken back; most runs have none."""
        watched = resetting_async if is_async else resetting
        original = vars(base)["_reset_connection"]
        self._patches.replace(base, "_reset_connection", watched(original, self._watch.sessions))


def _class(module: ModuleType, name: str, *methods: str) -> Any:
    cls = getattr(module, name, None)
    for method in methods:
        if method not in getattr(cls, "__dict__", {}):
            raise Unsupported(f"{module.__name__}.{name} has no {method}")
    return cls
