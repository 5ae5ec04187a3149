"""How psycopg2 and psycopg make a connection: they have libpq, which knows all that a DSN may say.

Not by ``psycopg2.connect`` and ``psycopg.connect``, which are the suite's to count, mock or wrap, but by what is
below them.
"""

from __future__ import annotations

import selectors
from collections.abc import Mapping, Sequence
from types import ModuleType
from typing import Any

from pytest_poolguard.drivers.moment import AS_IT_IS, part, transaction, wait_for

__all__ = ["NUMBERS", "PqLine", "Psycopg2Line", "parameters"]

#: Which of several servers, or what for: what one connection settled, the next need not ask again.
SETTLED = ("replication", "target_session_attrs", "load_balance_hosts", "service", "servicefile")
#: How to read what is no text, by the OIDs of PostgreSQL's types.
NUMBERS: dict[int, type] = {20: int, 21: int, 23: int, 26: int, 700: float, 701: float}


def parameters(info: Any, given: Mapping[str, Any]) -> dict[str, str]:
    """What it takes to connect to a server again, with its password: ``given``, and what ``info`` says."""
    known = {name: value for name, value in given.items() if value and name not in SETTLED}
    if "," in known.get("hostaddr", ""):
        del known["hostaddr"]
    known.update(host=info.host, port=str(info.port), password=info.password)
    return {name: value for name, value in known.items() if value}


class Psycopg2Line:
    """psycopg2's way."""

    def __init__(self, psycopg2: ModuleType) -> None:
        self._extensions = psycopg2.extensions
        self.error = psycopg2.Error

    def parse(self, dsn: str) -> dict[str, str]:
        """The parameters of a DSN."""
        return dict(self._extensions.parse_dsn(dsn))

    def connect(self, known: Mapping[str, str], deadline: float) -> Any:
        """Connect, until the deadline."""
        extensions = self._extensions
        connection = extensions.connection(extensions.make_dsn(**{**known, **AS_IT_IS}), async_=1)
        try:
            self._wait(connection, deadline)
        except BaseException:
            connection.close()
            raise
        return connection

    def rows(self, connection: Any, statements: Sequence[str], deadline: float) -> list[tuple[Any, ...]]:
        """The rows of the last statement; texts come as bytes."""
        with connection.cursor() as cursor:
            self._extensions.register_type(self._extensions.BYTES, cursor)
            rows = []
            for statement in transaction(statements):
                cursor.execute(statement)
                self._wait(connection, deadline)
                if statement is statements[-1]:
                    rows = list(cursor.fetchall())
        return rows

    def part(self, connection: Any) -> None:
        """Close the connection."""
        try:
            fileno = connection.fileno()
        except self.error:  # it is closed already
            fileno = -1
        part(fileno, connection.close)

    def _wait(self, connection: Any, deadline: float) -> None:
        extensions = self._extensions
        while (state := connection.poll()) != extensions.POLL_OK:
            wanted = selectors.EVENT_READ if state == extensions.POLL_READ else selectors.EVENT_WRITE
            wait_for(connection.fileno(), wanted, deadline)


class PqLine:
    """psycopg's way, one level below its connections: those are all on record as opened."""

    def __init__(self, psycopg: ModuleType) -> None:
        self._psycopg: Any = psycopg
        self.error = psycopg.Error

    def parse(self, dsn: str) -> dict[str, str]:
        """The parameters of a DSN."""
        return {name: str(value) for name, value in self._psycopg.conninfo.conninfo_to_dict(dsn).items()}

    def connect(self, known: Mapping[str, str], deadline: float) -> Any:
        """Connect, until the deadline."""
        dsn = self._psycopg.conninfo.make_conninfo("", **{**known, **AS_IT_IS})
        connection = self._psycopg.pq.PGconn.connect_start(dsn.encode())
        try:
            self._finish_connecting(connection, deadline)
        except BaseException:
            connection.finish()
            raise
        return connection

    def _finish_connecting(self, connection: Any, deadline: float) -> None:
        pq = self._psycopg.pq
        while (state := connection.connect_poll()) != pq.PollingStatus.OK:
            if state == pq.PollingStatus.FAILED:
                raise self._psycopg.OperationalError(_text(connection.error_message))
            reading = state == pq.PollingStatus.READING
            wait_for(connection.socket, selectors.EVENT_READ if reading else selectors.EVENT_WRITE, deadline)

    def rows(self, connection: Any, statements: Sequence[str], deadline: float) -> list[tuple[Any, ...]]:
        """The rows of the last statement; texts come as bytes."""
        result: Any = None
        for statement in transaction(statements):
            answer = self._run(connection, statement, deadline)
            result = answer if statement is statements[-1] else result
        kinds = [NUMBERS.get(result.ftype(column), bytes) for column in range(result.nfields)]
        return [
            tuple(
                None if value is None else kind(value)
                for kind, value in ((kind, result.get_value(row, column)) for column, kind in enumerate(kinds))
            )
            for row in range(result.ntuples)
        ]

    def _run(self, connection: Any, statement: str, deadline: float) -> Any:
        connection.send_query(statement.encode())
        result = None
        while True:
            while connection.is_busy():
                wait_for(connection.socket, selectors.EVENT_READ, deadline)
                connection.consume_input()
            following = connection.get_result()
            if following is None:
                return result
            result = following
            if result.status == self._psycopg.pq.ExecStatus.FATAL_ERROR:
                raise self._psycopg.OperationalError(_text(result.error_message))

    def part(self, connection: Any) -> None:
        """Close the connection."""
        try:
            fileno = connection.socket
        except self.error:  # it is closed already
            fileno = -1
        part(fileno, connection.finish)


def _text(message: bytes) -> str:
    return message.decode("utf-8", "replace")
