"""A few statements over a connection of a moment, within a time limit.

How it is made is a library's, see ``lines``. It is an asynchronous one: nothing on it can block for longer than
is left of the limit, and no thread is needed to watch over it.
"""

from __future__ import annotations

import contextlib
import os
import selectors
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

from pytest_poolguard.drivers.interface import Unaskable
from pytest_poolguard.origin import printable

__all__ = ["AS_IT_IS", "Line", "ask", "part", "wait_for"]

#: A database that is there on most servers, and that no suite drops.
MAINTENANCE = "postgres"
#: Texts of other databases come in their encodings: left as they are, for us to decode.
AS_IT_IS = {"application_name": "pytest-poolguard", "client_encoding": "SQL_ASCII"}
#: Seconds to wait for the server to let go of a connection.
PARTING = 1.0


class Line(Protocol):
    """How one library connects and asks, without ever blocking for longer than it may."""

    error: type[Exception]  #: the library's own

    def parse(self, dsn: str) -> dict[str, str]:
        """The parameters of a DSN."""

    def connect(self, known: Mapping[str, str], deadline: float) -> Any:
        """Connect, until the deadline; raises TimeoutError."""

    def rows(self, connection: Any, statements: Sequence[str], deadline: float) -> list[tuple[Any, ...]]:
        """The rows of the last statement; texts come as bytes."""

    def part(self, connection: Any) -> None:
        """Close the connection, by :func:`part`."""


def ask(
    line: Line, server: Mapping[str, str], statements: Sequence[str], dsn: str, seconds: float
) -> list[tuple[Any, ...]]:
    """The rows of the last statement; texts come as bytes.

    Asks the server of ``dsn`` or, where that is empty, the one of the parameters ``server``, over a maintenance
    database if there is one: suites drop the database that they test. Raises :class:`Unaskable`.
    """
    deadline = time.monotonic() + seconds
    try:
        known = _parsed(line, dsn) if dsn else dict(server)
        try:
            connection = line.connect(known if dsn else {**known, "dbname": MAINTENANCE}, deadline)
        except line.error:
            if dsn:
                raise
            connection = line.connect(known, deadline)
        try:
            return line.rows(connection, statements, deadline)
        finally:
            line.part(connection)
    except TimeoutError:
        raise Unaskable(f"no answer within {seconds:g} s") from None
    except line.error as error:
        reason = printable(str(error).strip().partition("\n")[0])
        raise Unaskable(reason or type(error).__name__) from None


def _parsed(line: Line, dsn: str) -> dict[str, str]:
    """The parameters of a DSN that somebody typed.

    libpq's messages quote the part that it stumbles over: with a mistyped URI that may be the password.
    """
    try:
        known = line.parse(dsn)
    except Exception:
        known = {}
    at = "@" in known.get("dbname", "") or "@" in known.get("host", "").lstrip("@")
    if not known or at or not known.get("port", "0").replace(",", "").isdigit():
        raise Unaskable("this is no DSN (postgresql://user@host:5432/database, or host=… dbname=…)")
    return known


def wait_for(fileno: int, wanted: int, deadline: float) -> None:
    """Wait for a socket until the deadline; raises TimeoutError."""
    with selectors.DefaultSelector() as selector:
        selector.register(fileno, wanted)
        if not selector.select(max(deadline - time.monotonic(), 0)):
            raise TimeoutError


def part(fileno: int, close: Callable[[], Any]) -> None:
    """Close a connection, and wait until the server's end of it is closed, too.

    The backend lives a few milliseconds longer than the connection. The suite is not to meet it: in its own
    look at pg_stat_activity, at a role's connection limit, when it drops a database.
    """
    try:
        socket = os.dup(fileno)
    except Exception:  # this system has no such descriptors
        close()
        return
    close()
    deadline = time.monotonic() + PARTING
    try:
        with contextlib.suppress(OSError):  # a time-out is one, too
            while True:
                wait_for(socket, selectors.EVENT_READ, deadline)
                if not os.read(socket, 1024):
                    break
    finally:
        os.close(socket)
