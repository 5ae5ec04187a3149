"""A few statements over a connection of a moment, by psycopg2 and within a time limit.

The connection is an asynchronous one: nothing on it can block for longer than is left of the limit, and no
thread is needed to watch over it. It is made by ``psycopg2.extensions.connection``, which is nobody's to count,
mock or wrap as ``psycopg2.connect`` is.
"""

from __future__ import annotations

import contextlib
import os
import selectors
import time
from collections.abc import Mapping, Sequence
from types import ModuleType
from typing import Any

from pytest_poolguard.drivers.interface import Unaskable
from pytest_poolguard.origin import printable

__all__ = ["ask", "parameters"]

#: A database that is there on most servers, and that no suite drops.
MAINTENANCE = "postgres"
#: Which of several servers, or what for: what one connection settled, the next need not ask again.
SETTLED = ("replication", "target_session_attrs", "load_balance_hosts", "service", "servicefile")
#: Texts of other databases come in their encodings: left as they are, for us to decode.
AS_IT_IS = {"application_name": "pytest-poolguard", "client_encoding": "SQL_ASCII"}
#: Seconds to wait for the server to let go of a connection.
PARTING = 1.0


def parameters(connection: Any) -> dict[str, str]:
    """What it takes to connect to a connection's server again, with its password."""
    info = connection.info
    known = {name: value for name, value in info.dsn_parameters.items() if value and name not in SETTLED}
    if "," in known.get("hostaddr", ""):
        del known["hostaddr"]
    known.update(host=info.host, port=str(info.port), password=info.password)
    return {name: value for name, value in known.items() if value}


def ask(
    psycopg2: ModuleType, server: Mapping[str, str], statements: Sequence[str], dsn: str, seconds: float
) -> list[tuple[Any, ...]]:
    """The rows of the last statement; texts come as bytes.

    Asks the server of ``dsn`` or, where that is empty, the one of the parameters ``server``, over a maintenance
    database if there is one: suites drop the database that they test. Raises :class:`Unaskable`.
    """
    deadline = time.monotonic() + seconds
    extensions = psycopg2.extensions
    try:
        known = _parsed(extensions, dsn) if dsn else dict(server)
        try:
            connection = _connect(extensions, known if dsn else {**known, "dbname": MAINTENANCE}, deadline)
        except psycopg2.Error:
            if dsn:
                raise
            connection = _connect(extensions, known, deadline)
        try:
            with connection.cursor() as cursor:
                extensions.register_type(extensions.BYTES, cursor)
                for statement in statements:
                    cursor.execute(statement)
                    _wait(extensions, connection, deadline)
                return list(cursor.fetchall())
        finally:
            _part(connection)
    except TimeoutError:
        raise Unaskable(f"no answer within {seconds:g} s") from None
    except psycopg2.Error as error:
        reason = printable(str(error).strip().partition("\n")[0])
        raise Unaskable(reason or type(error).__name__) from None


def _parsed(extensions: Any, dsn: str) -> dict[str, str]:
    """The parameters of a DSN that somebody typed.

    libpq's messages quote the part that it stumbles over: with a mistyped URI that may be the password.
    """
    try:
        known = dict(extensions.parse_dsn(dsn))
    except Exception:
        known = {}
    at = "@" in known.get("dbname", "") or "@" in known.get("host", "").lstrip("@")
    if not known or at or not known.get("port", "0").replace(",", "").isdigit():
        raise Unaskable("this is no DSN (postgresql://user@host:5432/database, or host=… dbname=…)")
    return known


def _connect(extensions: Any, known: Mapping[str, str], deadline: float) -> Any:
    connection = extensions.connection(extensions.make_dsn(**{**known, **AS_IT_IS}), async_=1)
    try:
        _wait(extensions, connection, deadline)
    except BaseException:
        connection.close()
        raise
    return connection


def _wait(extensions: Any, connection: Any, deadline: float) -> None:
    while (state := connection.poll()) != extensions.POLL_OK:
        wanted = selectors.EVENT_READ if state == extensions.POLL_READ else selectors.EVENT_WRITE
        _select(connection.fileno(), wanted, deadline)


def _select(fileno: int, wanted: int, deadline: float) -> None:
    with selectors.DefaultSelector() as selector:
        selector.register(fileno, wanted)
        if not selector.select(max(deadline - time.monotonic(), 0)):
            raise TimeoutError


def _part(connection: Any) -> None:
    """Close a connection, and wait until the server's end of it is closed, too.

    The backend lives a few milliseconds longer than the connection. The suite is not to meet it: in its own
    look at pg_stat_activity, at a role's connection limit, when it drops a database.
    """
    try:
        socket = os.dup(connection.fileno())
    except Exception:  # it is closed already, or this system has no such descriptors
        connection.close()
        return
    connection.close()
    deadline = time.monotonic() + PARTING
    try:
        with contextlib.suppress(OSError):  # a time-out is one, too
            while True:
                _select(socket, selectors.EVENT_READ, deadline)
                if not os.read(socket, 1024):
                    break
    finally:
        os.close(socket)
