"""psycopg 3: every connection that it opens.

All of them pass through ``BaseConnection.__init__``, synchronous or not, of whichever class, under whichever
name their ``connect`` was imported. Only ``AsyncConnection.connect`` can wait for something while its loop goes
on, so there the server is asked. psycopg has no pools: psycopg_pool is a library of its own.
"""

from __future__ import annotations

import functools
import sys
import threading
from collections.abc import Callable, Iterable, Mapping
from types import ModuleType
from typing import Any

from pytest_poolguard.books.records import Checkout
from pytest_poolguard.drivers import libpq
from pytest_poolguard.drivers.interface import State, Terms, Unsupported, Watch
from pytest_poolguard.drivers.lines.libpq import PqLine, parameters
from pytest_poolguard.drivers.looking import first_look
from pytest_poolguard.drivers.moment import Reach
from pytest_poolguard.drivers.patching import Patches
from pytest_poolguard.drivers.session_limits import Talk

__all__ = ["ASYNC_TALK", "TALK", "Psycopg"]


def _state(connection: Any) -> State:
    psycopg: Any = sys.modules["psycopg"]
    if not isinstance(connection, psycopg.BaseConnection) or getattr(connection.pgconn, "pipeline_status", False):
        return State()
    return libpq.state(connection)


# psycopg sends its own BEGIN and COMMIT in this way, below all cursors.


def _ask(connection: Any, statement: str) -> list[str | None]:
    return _row(connection.wait(connection._exec_command(statement.encode())))  # noqa: SLF001


async def _ask_async(connection: Any, statement: str) -> list[str | None]:
    return _row(await connection.wait(connection._exec_command(statement.encode())))  # noqa: SLF001


def _row(result: Any) -> list[str | None]:
    values = [result.get_value(0, column) for column in range(result.nfields)]
    return [None if value is None else value.decode() for value in values]


TALK, ASYNC_TALK = Talk(_state, _ask), Talk(_state, _ask_async, is_async=True)


class Psycopg:
    """The driver of psycopg 3.1 and newer."""

    library = "psycopg"
    pool_references = 0

    def __init__(self, watch: Watch) -> None:
        self._watch = watch
        self._patches = Patches()
        self._patched: list[Any] = []  #: the replacements
        self._async_class: type[Any] | tuple[()] = ()  #: once it is there

    @property
    def modules(self) -> Mapping[str, Callable[[ModuleType], None]]:
        """Those with the class that all connections have in common, another one before psycopg 3.2."""
        return {
            "psycopg._connection_base": self._patch,
            "psycopg.connection": self._patch,
            "psycopg.connection_async": self._patch_async,
        }

    def version(self) -> str:
        """The one of psycopg's own ``version`` module, which it imports first."""
        return str(getattr(sys.modules.get("psycopg.version"), "__version__", "unknown"))

    def undo(self) -> None:
        """Give psycopg its function back."""
        self._patches.undo()

    def state(self, connection: Any) -> State:
        """What libpq knows of the connection."""
        return libpq.state(connection)

    def talk(self, connection: Any) -> Talk:
        """With or without ``await``."""
        return ASYNC_TALK if isinstance(connection, self._async_class) else TALK

    # it has no pools

    def terms(self, _pool: Any) -> Terms:
        """Of no pool."""
        return Terms(take="connect", give="close", close="close", cure="call close()", discard="close()")

    def is_open(self, _pool: Any) -> bool:
        """No pool is."""
        return False

    def idle(self, _pool: Any) -> int:
        """None."""
        return 0

    def workers(self, _pool: Any) -> Iterable[threading.Thread]:
        """None."""
        return ()

    def reclaim(self, checkout: Checkout) -> None:
        """Nothing is checked out."""

    # patching

    def _patch(self, module: ModuleType) -> None:
        base = getattr(module, "BaseConnection", None)
        original = getattr(base, "__dict__", {}).get("__init__")
        if base is None or original is None:
            raise Unsupported(f"{module.__name__} has no BaseConnection with an __init__")
        if original not in self._patched:  # since 3.2, both modules have the class
            replacement = self._watched_init(original)
            self._patched.append(replacement)
            self._patches.replace(base, "__init__", replacement)

    def _patch_async(self, module: ModuleType) -> None:
        base = getattr(module, "AsyncConnection", None)
        original = getattr(base, "__dict__", {}).get("connect")
        if base is None or not isinstance(original, classmethod):
            raise Unsupported(f"{module.__name__} has no AsyncConnection with a connect")
        self._async_class = base
        self._patches.replace(base, "connect", classmethod(self._watched_connect(original.__func__)))

    def _watched_connect(self, original: Callable[..., Any]) -> Callable[..., Any]:
        driver, watch = self, self._watch

        @functools.wraps(original)
        async def connect(cls: Any, *args: Any, **kwargs: Any) -> Any:
            __tracebackhide__ = True
            connection = await original(cls, *args, **kwargs)
            if watch.active:
                with watch.noting("a new connection"):
                    opening = watch.ledger.opening(connection)
                    if opening is not None and opening.server is not None:
                        asker = driver._asker(connection)
                        await first_look(watch, opening, lambda: asker, connection.pgconn.finish)
            return connection

        return connect

    def _watched_init(self, original: Callable[..., Any]) -> Callable[..., Any]:
        driver, watch = self, self._watch

        @functools.wraps(original)
        def __init__(self: Any, pgconn: Any) -> None:  # noqa: N807
            __tracebackhide__ = True
            original(self, pgconn)
            if watch.active:
                try:
                    opening = watch.ledger.opened(self, driver)
                    opening.backend_pid = driver.state(self).backend_pid
                    if opening.backend_pid is not None:  # else it is a mock
                        opening.server = libpq.server_of(self)
                        opening.database = self.info.dbname
                        if not isinstance(self, driver._async_class):
                            watch.on_connected(opening, functools.partial(driver._asker, self))
                except Exception as error:
                    watch.on_fault("noting a new connection", error)

        return __init__

    def _asker(self, connection: Any) -> Callable[..., list[tuple[Any, ...]]]:
        info = connection.info
        return Reach(PqLine(sys.modules["psycopg"]), parameters(info, info.get_parameters()))
