"""A pool class of the project's own, by its name and those of its methods.

The methods are replaced in the class itself and in every subclass that has some of its own. To the project, the
class is a library: an origin begins at whoever called it.
"""

from __future__ import annotations

import contextlib
import inspect
import sys
import threading
from collections.abc import Callable, Iterable, Mapping
from types import ModuleType
from typing import Any

from pytest_poolguard.books.records import Checkout
from pytest_poolguard.drivers import libpq
from pytest_poolguard.drivers.inhouse import taking
from pytest_poolguard.drivers.inhouse.desk import Desk
from pytest_poolguard.drivers.interface import State, Terms, Unsupported, Watch
from pytest_poolguard.drivers.patching import Patches, class_tree
from pytest_poolguard.naming import PoolClass

__all__ = ["InHouse"]


class InHouse:
    """The driver of one class; of use after its :meth:`begin`."""

    pool_references = 0

    def __init__(self, name: PoolClass) -> None:
        self.library = str(name)
        self.is_watched = False
        self._name = name
        self._patches = Patches()
        self._desk: Desk
        self._watch: Watch
        self._replaced: set[int] = set()  #: our replacements, by id
        self._terms = _terms(name, "", is_manager=False)

    def begin(self, watch: Watch) -> None:
        """Report to a run from now on."""
        self._watch = watch
        self._desk = Desk(watch, self, self._name.release)

    @property
    def modules(self) -> Mapping[str, Callable[[ModuleType], None]]:
        """The one that has the class."""
        return {self._name.module: self._patch}

    def version(self) -> str:
        """It has none."""
        return ""

    def undo(self) -> None:
        """Give the class its methods back."""
        self._patches.undo()

    def terms(self, _pool: Any) -> Terms:
        """The names that were given."""
        return self._terms

    # looking

    def state(self, connection: Any) -> State:
        """What libpq knows of the connection, if it is one of libpq's or passes its attributes on."""
        try:
            is_like_libpqs = isinstance(connection.closed, int)  # of a mock it is another mock
        except Exception:  # anybody's code
            is_like_libpqs = False
        return libpq.state(connection) if is_like_libpqs else State()

    def is_open(self, pool: Any) -> bool:
        """Whether it was not closed yet, by the method that was named for it."""
        record = self._watch.ledger.pool(pool)
        return record is not None and record not in self._desk.closed

    def idle(self, _pool: Any) -> int:
        """Nobody can tell."""
        return 0

    def workers(self, _pool: Any) -> Iterable[threading.Thread]:
        """Nobody can tell."""
        return ()

    # patching

    def _patch(self, module: ModuleType) -> None:
        base: Any = module
        for part in self._name.name.split("."):
            base = getattr(base, part, None)
        if not isinstance(base, type):
            raise Unsupported(f"{module.__name__} has no class {self._name.name}")
        kind = self._kind(base, self._name.acquire)
        if kind not in taking.MANAGERS and not self._name.release:
            raise Unsupported(
                f"the method that gives a connection back is not named: release=… (for {base.__name__})"
            )
        if self._name.release and self._kind(base, self._name.release) in taking.MANAGERS:
            raise Unsupported(f"{base.__name__}.{self._name.release} is a context manager, it gives nothing back")
        if self._name.close:
            self._kind(base, self._name.close)
        is_async = kind in (taking.COROUTINE, taking.ASYNC_MANAGER)
        self._terms = _terms(self._name, "async " * is_async, is_manager=kind in taking.MANAGERS)
        for cls in class_tree(base):
            self._patch_class(cls)
        self._watch_subclasses(base)
        for value in list(vars(module).values()):
            if isinstance(value, base):  # it was made before its class was patched
                self._desk.adopt(value)
        self.is_watched = True

    def _kind(self, cls: type, method: str) -> str:
        """What sort of method this is; raises Unsupported for one that can't be watched."""
        static = inspect.getattr_static(cls, method, None)
        if static is None:
            raise Unsupported(f"{cls.__name__} has no {method}")
        if isinstance(static, classmethod | staticmethod):
            raise Unsupported(
                f"{cls.__name__}.{method} is a {type(static).__name__}: it belongs to no pool object"
            )
        if not callable(static):
            raise Unsupported(f"{cls.__name__}.{method} is no method")
        kind = taking.kind(static)
        if not kind:
            raise Unsupported(f"{cls.__name__}.{method} is a generator")
        return kind

    def _patch_class(self, cls: type) -> None:
        self._desk.border.add(cls)
        for method, watched in (
            (self._name.acquire, taking.acquiring),
            (self._name.release, taking.releasing),
            (self._name.close, taking.closing),
            ("__init__", taking.making),
        ):
            original = inspect.getattr_static(cls, method, None) if method else None
            if original is None or id(original) in self._replaced or original is object.__init__:
                continue
            if not callable(original) or not taking.kind(original):
                self._watch.on_unwatched(f"{self.library} is not watched in {cls.__qualname__}, by {method}")
                continue
            replacement = watched(original, self._desk)
            self._replaced.add(id(replacement))
            aliases = [name for name, value in vars(cls).items() if value is original]
            for name in aliases or [method]:
                self._patches.replace(cls, name, replacement)

    def _watch_subclasses(self, base: type) -> None:
        """Have the methods replaced of subclasses that are made later, too."""
        own: Any = vars(base).get("__init_subclass__")
        start: Any = base
        patch, watch = self._patch_class, self._watch

        def __init_subclass__(cls: Any, /, **kwargs: Any) -> None:  # noqa: N807
            __tracebackhide__ = True
            (super(start, cls).__init_subclass__ if own is None else own.__get__(None, cls))(**kwargs)
            if watch.active:
                try:
                    patch(cls)
                except Exception as error:
                    watch.on_fault("noting a subclass", error)

        self._patches.replace(base, "__init_subclass__", classmethod(__init_subclass__))

    # reclaiming

    def reclaim(self, checkout: Checkout) -> None:
        """Roll back, and give the connection to its pool by the pool's own means.

        Where the loop of an asynchronous one stands still, that is done as soon as it runs again.
        """
        pool: Any = checkout.pool.ref()
        connection: Any = checkout.connection()
        if pool is None or connection is None or not self._name.release or not self.is_open(pool):
            return
        self._desk.reclaims(connection)
        if checkout.task is None or checkout.task.is_blocking:
            with contextlib.suppress(Exception):
                connection.rollback()
            getattr(pool, self._name.release)(connection)
            return
        loop, release = checkout.task.loop(), self._name.release
        if loop is not None and loop.is_running():
            given = self._give_back(pool, release, connection)
            sys.modules["asyncio"].run_coroutine_threadsafe(given, loop).result()
        elif loop is not None and not loop.is_closed():
            loop.call_soon_threadsafe(lambda: loop.create_task(self._give_back(pool, release, connection)))

    async def _give_back(self, pool: Any, release: str, connection: Any) -> None:
        """Give it back, unless its holder was faster: by now, or while it is rolled back."""
        if not self._desk.came_back(connection):
            with contextlib.suppress(Exception):
                await connection.rollback()
        if not self._desk.came_back(connection):
            with contextlib.suppress(Exception):  # a pool with ideas of its own
                result = getattr(pool, release)(connection)
                if inspect.isawaitable(result):
                    await result


def _terms(name: PoolClass, word: str, *, is_manager: bool) -> Terms:
    give = name.release or ("__aexit__" if word else "__exit__")
    return Terms(
        take=name.acquire,
        give=give,
        close=name.close or "",
        cure=f"use `{word}with pool.{name.acquire}() as conn:`"
        if is_manager
        else f"call {give}() in a finally block",
        discard=f"{give}(conn)",
        in_house=True,
    )
