"""How asyncpg makes a connection: in an event loop of its own, which runs in a thread while something is asked.

Who asks may be in the middle of another loop. Between two questions there is neither a thread nor a loop that
runs.
"""

from __future__ import annotations

import concurrent.futures
import contextlib
import functools
import inspect
import os
import ssl
import sys
import threading
import time
import urllib.parse
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from types import ModuleType
from typing import Any

from pytest_poolguard.drivers.interface import Unaskable
from pytest_poolguard.drivers.lines.dsn import parse
from pytest_poolguard.drivers.lines.hosts import first_fit
from pytest_poolguard.drivers.lines.places import Place, completed, is_socket, places
from pytest_poolguard.drivers.lines.sockets import left, reason
from pytest_poolguard.drivers.moment import APPLICATION, PARTING, Refused, Unreachable, part, transaction

__all__ = ["AsyncpgLine"]

#: Types that are text: their binary form is the text itself.
TEXTS = {18: "char", 19: "name", 25: "text", 1042: "bpchar", 1043: "varchar"}
#: Seconds by which a loop may overrun the deadline that it was given.
SLACK = 0.5


@dataclass
class _Connection:
    own: Any  #: asyncpg's
    loop: Any
    socket: Any


class AsyncpgLine:
    """asyncpg's way, 0.29 and newer, below what its driver watches."""

    error: type[Exception] = Refused

    def __init__(self, asyncpg: ModuleType) -> None:
        self._asyncpg: Any = asyncpg
        asyncpg.connect_utils  # noqa: B018 - raises, where this is not the library

    def parse(self, dsn: str) -> dict[str, Any]:
        """The parameters of a DSN."""
        return dict(parse(dsn))

    def connect(self, known: Mapping[str, Any], deadline: float) -> Any:
        """Connect, until the deadline: also by the ``place`` of a connection that asyncpg has made."""
        if "place" in known:
            place = known["place"]
            return self._reach(replace(place, database=known.get("dbname", place.database)), deadline)
        full = completed(known, os.environ)
        return first_fit(self, self._reach, places(full), full.get("target_session_attrs", "any"), deadline)

    def rows(self, connection: Any, statements: Sequence[str], deadline: float) -> list[tuple[Any, ...]]:
        """The rows of the last statement."""

        async def asked() -> list[tuple[Any, ...]]:
            rows = []
            for statement in transaction(statements):
                if statement is statements[-1]:
                    rows = [tuple(row) for row in await connection.own.fetch(statement)]
                else:
                    await connection.own.execute(statement)
            return rows

        with self._refusals(Refused, ""):
            rows: list[tuple[Any, ...]] = _run(connection.loop, asked, deadline)
        return rows

    def part(self, connection: Any) -> None:
        """Close the connection, and the loop."""
        part(connection.socket.fileno(), functools.partial(_close, connection))

    def _reach(self, place: Place, deadline: float) -> _Connection:
        loop = sys.modules["asyncio"].SelectorEventLoop()
        resolver = concurrent.futures.ThreadPoolExecutor(1, "poolguard-asyncpg")
        loop.set_default_executor(resolver)
        try:
            with self._refusals(Unreachable, f"{place}: "):
                own = _run(loop, functools.partial(self._logged_in, place, loop), deadline)
        except BaseException:
            _end(loop)
            raise
        finally:
            resolver.shutdown(wait=False)
        return _Connection(own, loop, own._transport.get_extra_info("socket"))  # noqa: SLF001

    async def _logged_in(self, place: Place, loop: Any) -> Any:
        # The connections of asyncpg.connect() are all on record as the suite's; this makes them.
        utils = self._asyncpg.connect_utils
        connect, arguments = inspect.unwrap(utils._connect), _arguments(place)  # noqa: SLF001
        accepted = inspect.signature(utils._parse_connect_arguments).parameters  # noqa: SLF001
        own = await connect(
            loop=loop,
            connection_class=self._asyncpg.connection.Connection,
            record_class=self._asyncpg.Record,
            **{name: arguments.get(name) for name in accepted},
        )
        try:
            # As set_type_codec() does, which may ask the server first, and refuses "name" in asyncpg 0.29.
            settings = own._protocol.get_settings()  # noqa: SLF001
            for oid, name in TEXTS.items():
                settings.add_python_codec(oid, name, "pg_catalog", [], "scalar", bytes, bytes, "binary")
            await own.execute("SET client_encoding TO 'SQL_ASCII'")
        except BaseException:
            own.terminate()
            raise
        return own

    @contextlib.contextmanager
    def _refusals(self, unreachable: type[Refused], where: str) -> Iterator[None]:
        """Turn what asyncpg raises into Refused or TimeoutError; a socket's errors into ``unreachable``."""
        asyncpg, asyncio = self._asyncpg, sys.modules["asyncio"]
        try:
            yield
        except (TimeoutError, asyncio.TimeoutError, concurrent.futures.TimeoutError):
            raise TimeoutError from None
        except ssl.SSLError as error:
            raise Refused(where + reason(error)) from None
        except OSError as error:
            raise unreachable(where + reason(error)) from None
        except (asyncpg.PostgresError, asyncpg.InterfaceError) as error:
            raise Refused(str(error)) from None
        except (Unaskable, Refused):
            raise
        except Exception as error:  # whose text may hold anything
            raise Refused(type(error).__name__) from None


def _arguments(place: Place) -> dict[str, Any]:
    """What ``connect`` is to be told, so that it looks for nothing in the environment."""
    if place.address.startswith("@"):
        raise Unaskable("asyncpg can't use an abstract Unix socket")
    if place.tls.get("sslrootcert") == "system":
        raise Unaskable("asyncpg does not know sslrootcert=system")
    if place.tls.get("sslmode") == "verify-full" and place.address != place.host:
        raise Unaskable("asyncpg can't verify the name of a server with hostaddr")
    settings = {"application_name": APPLICATION, "options": place.options}
    known = {
        "host": place.address,
        "port": place.port,
        "user": place.user,
        "password": place.password,
        "database": place.database,
        "ssl": place.context,
        "direct_tls": False,
        "server_settings": {name: value for name, value in settings.items() if value},
        "target_session_attrs": "any",
        "gsslib": "gssapi",
        "statement_cache_size": 0,
        "max_cached_statement_lifetime": 0,
        "max_cacheable_statement_size": 0,
    }
    if place.context is None:
        if is_socket(place):
            known["ssl"] = False
        else:
            known["dsn"] = f"postgresql://?{urllib.parse.urlencode(place.tls)}"
    return known


def _run(loop: Any, ask: Callable[[], Awaitable[Any]], deadline: float) -> Any:
    """Run a loop in a thread until a coroutine is done, or the deadline has come."""
    seconds = left(deadline)
    outcome: concurrent.futures.Future[Any] = concurrent.futures.Future()

    def run() -> None:
        try:
            outcome.set_result(loop.run_until_complete(sys.modules["asyncio"].wait_for(ask(), seconds)))
        except BaseException as error:
            outcome.set_exception(error)

    thread = threading.Thread(target=run, name="poolguard-asyncpg", daemon=True)
    thread.start()
    try:
        return outcome.result(seconds + SLACK)
    finally:
        thread.join(SLACK)


def _close(connection: _Connection) -> None:
    with contextlib.suppress(Exception):  # it is broken, or in the middle of something
        goodbye = functools.partial(connection.own.close, timeout=PARTING / 2)
        _run(connection.loop, goodbye, time.monotonic() + PARTING)
    _end(connection.loop, connection.own)


def _end(loop: Any, own: Any = None) -> None:
    """Close a loop, with what still goes on in it."""
    if loop.is_running():
        return  # it is stuck in a call of the system
    asyncio = sys.modules["asyncio"]
    tasks = asyncio.all_tasks(loop)

    async def rest() -> None:
        if own is not None:
            own.terminate()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for _ in range(2):  # its sockets are closed in the next turn
            await asyncio.sleep(0)

    with contextlib.suppress(Exception):
        _run(loop, rest, time.monotonic() + SLACK)
    if not loop.is_running():
        loop.close()
