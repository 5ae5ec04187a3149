"""How limits of sessions are set over a connection of psycopg2: by one statement, and with no BEGIN before it.

psycopg2 begins a transaction with any statement unless its ``autocommit`` says otherwise. To change that costs
nothing where the connection has no isolation level of its own. Where it has one, psycopg2 resets the server's
default for it; that is of no effect, as each of its transactions names its own.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any

from pytest_poolguard.drivers import libpq
from pytest_poolguard.drivers.interface import State
from pytest_poolguard.drivers.session_limits import Talk

__all__ = ["TALK"]


def _state(connection: Any) -> State:
    extensions = sys.modules["psycopg2.extensions"]
    if not isinstance(connection, extensions.connection) or connection.async_:
        return State()
    return libpq.state(connection)


def _ask(connection: Any, statement: str) -> Sequence[Any]:
    extensions = sys.modules["psycopg2.extensions"]
    autocommit = vars(extensions.connection)["autocommit"]  # not a subclass's own
    begins = not autocommit.__get__(connection) and connection.status == extensions.STATUS_READY
    if begins:
        autocommit.__set__(connection, True)
    try:
        with extensions.cursor(connection) as cursor:  # not the connection's own kind, which may count or log
            extensions.register_type(extensions.UNICODE, cursor)
            cursor.execute(statement)
            return cursor.fetchone()  # type: ignore[no-any-return]
    finally:
        if begins and not connection.closed:
            autocommit.__set__(connection, False)


TALK = Talk(_state, _ask)
