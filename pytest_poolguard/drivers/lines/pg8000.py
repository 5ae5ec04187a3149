"""How pg8000 makes a connection: in Python alone, over a socket of ours, whose time-out is what ends a wait.

It has no limit for a whole answer: one that comes in pieces may take the time of each.
"""

from __future__ import annotations

import collections
import contextlib
import os
import socket
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import ModuleType
from typing import Any

from pytest_poolguard.drivers.lines.dsn import parse
from pytest_poolguard.drivers.lines.hosts import first_fit
from pytest_poolguard.drivers.lines.libpq import NUMBERS
from pytest_poolguard.drivers.lines.places import Place, completed, places
from pytest_poolguard.drivers.lines.sockets import attempts, connected, left, reason
from pytest_poolguard.drivers.moment import APPLICATION, Refused, part, transaction

__all__ = ["Pg8000Line"]


@dataclass
class _Connection:
    core: Any  #: pg8000's, of the class that is below those that suites use
    socket: socket.socket


class Pg8000Line:
    """pg8000's way, 1.30 and newer: earlier ones take no socket."""

    error: type[Exception] = Refused

    def __init__(self, pg8000: ModuleType) -> None:
        self._core: Any = pg8000.core
        self._own: type[Exception] = pg8000.Error

    def parse(self, dsn: str) -> dict[str, Any]:
        """The parameters of a DSN."""
        return dict(parse(dsn))

    def connect(self, known: Mapping[str, Any], deadline: float) -> Any:
        """Connect, until the deadline."""
        full = completed(known, os.environ)
        return first_fit(self, self._reach, places(full), full.get("target_session_attrs", "any"), deadline)

    def _reach(self, place: Place, deadline: float) -> _Connection:
        """Connect to one server: a second time where it may be TLS, or the lack of it, that it refuses."""
        *others, last = attempts(place)
        for tls in others:
            line = connected(place, tls, deadline)
            if tls == "perhaps" and not hasattr(line, "cipher"):
                return self._logged_in(place, line, deadline)
            with contextlib.suppress(Refused):
                return self._logged_in(place, line, deadline)
        return self._logged_in(place, connected(place, last, deadline), deadline)

    def _logged_in(self, place: Place, line: socket.socket, deadline: float) -> _Connection:
        try:
            with self._refusals():
                line.settimeout(left(deadline))
                core = self._core.CoreConnection(
                    place.user,
                    database=place.database,
                    password=place.password,
                    sock=line,
                    ssl_context=False,
                    application_name=APPLICATION,
                    startup_params={"options": place.options} if place.options else None,
                )
                line.settimeout(left(deadline))
                core.execute_simple("SET client_encoding TO 'SQL_ASCII'")
        except BaseException:
            line.close()
            raise
        # Each byte as a character, and back: the texts are in their databases' encodings.
        core._client_encoding = "latin-1"  # noqa: SLF001
        core.pg_types = collections.defaultdict(lambda: _raw, NUMBERS)
        return _Connection(core, line)

    def rows(self, connection: Any, statements: Sequence[str], deadline: float) -> list[tuple[Any, ...]]:
        """The rows of the last statement."""
        rows: Sequence[Any] = ()
        with self._refusals():
            for statement in transaction(statements):
                connection.socket.settimeout(left(deadline))
                answer = connection.core.execute_simple(statement).rows or ()
                rows = answer if statement is statements[-1] else rows
        return [tuple(row) for row in rows]

    def part(self, connection: Any) -> None:
        """Close the connection."""
        part(connection.socket.fileno(), lambda: _close(connection))

    @contextlib.contextmanager
    def _refusals(self) -> Iterator[None]:
        """Turn what pg8000 raises, which may be anything, into Refused or TimeoutError."""
        try:
            yield
        except Exception as error:
            chain = list(_chain(error))
            if any(isinstance(one, TimeoutError) for one in chain):
                raise TimeoutError from None
            # A server that refuses closes the connection, which then fails, too: its own words come first.
            said = [one.args[0]["M"] for one in chain if one.args and isinstance(one.args[0], dict)]
            failed = [reason(one) for one in chain if isinstance(one, OSError)]
            own = [str(one) for one in chain if isinstance(one, self._own)]
            # Other texts than these may hold anything.
            raise Refused(str([*said, *failed, *own, type(error).__name__][0])) from None


def _close(connection: _Connection) -> None:
    with contextlib.suppress(Exception):  # it is broken, or closed already
        connection.core.close()
    connection.socket.close()


def _raw(text: str) -> bytes:
    return text.encode("latin-1")


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    """An exception, and those that it came from."""
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__
