"""A few statements over a connection of poolguard's own, within a time limit.

How it is made is a library's, see ``lines``. None of them can block for longer than is left of the limit, but for
the look-up of a host's name, which the system's resolver bounds.
"""

from __future__ import annotations

import contextlib
import os
import selectors
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from pytest_poolguard.books.origin import printable
from pytest_poolguard.drivers.interface import Unaskable

__all__ = [
    "APPLICATION",
    "AS_IT_IS",
    "MAINTENANCE",
    "Kept",
    "Line",
    "Reach",
    "Refused",
    "Unreachable",
    "ask",
    "part",
    "transaction",
    "wait_for",
]

#: A database that is there on most servers, and that no suite drops.
MAINTENANCE = "postgres"
APPLICATION = "pytest-poolguard"
#: Texts of other databases come in their encodings: left as they are, for us to decode.
AS_IT_IS = {"application_name": APPLICATION, "client_encoding": "SQL_ASCII"}
#: Seconds to wait for the server to let go of a connection.
PARTING = 1.0


class Refused(Exception):  # noqa: N818 - as Unaskable, which it becomes
    """A server, or a library, refuses a connection or a statement; the text says why, without a secret."""


class Unreachable(Refused):
    """Nobody listens: another host of a list may."""


class Line(Protocol):
    """How one library connects and asks, without ever blocking for longer than it may."""

    error: type[Exception]  #: the library's own, or Refused

    def parse(self, dsn: str) -> dict[str, Any]:
        """The parameters of a DSN."""

    def connect(self, known: Mapping[str, Any], deadline: float) -> Any:
        """Connect, until the deadline; raises TimeoutError."""

    def rows(self, connection: Any, statements: Sequence[str], deadline: float) -> list[tuple[Any, ...]]:
        """The rows of the last statement: texts as bytes, numbers as int and float, NULL as None.

        They are one transaction, see :func:`transaction`. What becomes of other types is the
        library's: cast them.
        """

    def part(self, connection: Any) -> None:
        """Close the connection, by :func:`part`."""


def ask(
    line: Line, server: Mapping[str, Any], statements: Sequence[str], dsn: str, seconds: float
) -> list[tuple[Any, ...]]:
    """The rows of the last statement, over a connection of a moment: see :meth:`Line.rows`.

    Asks the server of ``dsn`` or, where that is empty, the one of the parameters ``server``, over a maintenance
    database if there is one: suites drop the database that they test. Raises :class:`Unaskable`.
    """
    deadline = time.monotonic() + seconds
    with _unaskable(line, seconds):
        connection = _connect(line, server, dsn, deadline)
        try:
            return line.rows(connection, statements, deadline)
        finally:
            line.part(connection)


@dataclass(frozen=True)
class Reach:
    """A way to one server: the function that a server is asked by."""

    line: Line
    server: Mapping[str, Any] = field(repr=False)  #: its parameters, the password among them

    def __call__(self, statements: Sequence[str], dsn: str, seconds: float) -> list[tuple[Any, ...]]:
        """See :func:`ask`."""
        return ask(self.line, self.server, statements, dsn, seconds)

    def several(
        self, questions: Sequence[Sequence[str]], dsn: str, seconds: float
    ) -> list[list[tuple[Any, ...]]]:
        """The answers to several questions, over one connection, up to the first one that is refused.

        Raises :class:`Unaskable` where that is the very first.
        """
        kept = self.kept(dsn)
        answers: list[list[tuple[Any, ...]]] = []
        try:
            kept.open(seconds)
            for statements in questions:
                answers.append(kept.rows(statements, seconds))  # noqa: PERF401 - it may end in the middle
        except Unaskable:
            if not answers:
                raise
        finally:
            kept.close()
        return answers

    def kept(self, dsn: str) -> Kept:
        """A connection there for many looks, not yet opened."""
        return Kept(self.line, self.server, dsn)


class Kept:
    """A connection for many looks, to the server that :func:`ask` would ask; for one thread at a time.

    What fails closes it. To open it again is its owner's decision.
    """

    def __init__(self, line: Line, server: Mapping[str, Any], dsn: str) -> None:
        self._line = line
        self._server = server
        self._dsn = dsn
        self._connection: Any = None

    @property
    def is_open(self) -> bool:
        """Whether it was opened, and nothing has failed since."""
        return self._connection is not None

    def open(self, seconds: float) -> None:
        """Connect, if that is not done, within so many seconds; raises :class:`Unaskable`."""
        if self._connection is None:
            with _unaskable(self._line, seconds):
                self._connection = _connect(self._line, self._server, self._dsn, time.monotonic() + seconds)

    def rows(self, statements: Sequence[str], seconds: float) -> list[tuple[Any, ...]]:
        """The rows of the last statement, within so many seconds; raises :class:`Unaskable`."""
        if self._connection is None:
            raise Unaskable("the connection is closed")
        try:
            with _unaskable(self._line, seconds):
                return self._line.rows(self._connection, statements, time.monotonic() + seconds)
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Close the connection, and wait until the server has let go of it; once is enough."""
        connection, self._connection = self._connection, None
        if connection is not None:
            self._line.part(connection)


def _connect(line: Line, server: Mapping[str, Any], dsn: str, deadline: float) -> Any:
    known = parsed(line, dsn) if dsn else dict(server)
    try:
        return line.connect(known if dsn else {**known, "dbname": MAINTENANCE}, deadline)
    except line.error:
        if dsn:
            raise
        return line.connect(known, deadline)


@contextlib.contextmanager
def _unaskable(line: Line, seconds: float) -> Iterator[None]:
    """Turn what a line raises into one line of text."""
    try:
        yield
    except TimeoutError:
        raise Unaskable(f"no answer within {seconds:g} s") from None
    except line.error as error:
        reason = printable(str(error).strip().partition("\n")[0])
        raise Unaskable(reason or type(error).__name__) from None


def parsed(line: Line, dsn: str) -> dict[str, Any]:
    """The parameters of a DSN that somebody typed.

    libpq's messages quote the part that it stumbles over: with a mistyped URI that may be the password.
    """
    with contextlib.suppress(Exception):
        known = line.parse(dsn)
        at = "@" in known.get("dbname", "") or "@" in known.get("host", "").lstrip("@")
        # A list of hosts has a list of ports, and each of those may be left out.
        if not at and (known.get("port") or "0").replace(",", "0").isdigit():
            return known
    raise Unaskable("this is no DSN (postgresql://user@host:5432/database, or host=… dbname=…)")


def transaction(statements: Sequence[str]) -> tuple[str, ...]:
    """Statements, the last of which is the question, as one transaction, in as few turns as can be.

    Behind a pooler that shares connections by the transaction, what is set for longer than one is set for the
    next client, too: for the suite, or for a stranger.
    """
    *others, question = statements
    return ("; ".join(("BEGIN", *others)), question, "COMMIT") if others else (question,)


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
    try:
        close()
        deadline = time.monotonic() + PARTING
        with contextlib.suppress(OSError):  # a time-out is one, too
            while True:
                wait_for(socket, selectors.EVENT_READ, deadline)
                if not os.read(socket, 1024):
                    break
    finally:
        os.close(socket)
