"""Whether a connection that is given back has written something in a transaction that nobody committed.

The server knows, and is asked on that very connection, inside of the transaction: the pool will roll it back.
Nothing waits for a lock there. A server that does not answer would not answer the pool's own ROLLBACK either.
"""

from __future__ import annotations

import sys
from typing import Any

from pytest_poolguard.books.origin import Origin, capture
from pytest_poolguard.books.records import Checkout
from pytest_poolguard.drivers.interface import Watch

__all__ = ["asyncpg_wrote", "is_unwinding", "note", "psycopg2_wrote", "psycopg_wrote", "psycopg_wrote_async"]
__all__ += ["settle"]

#: libpq's PQTRANS_INTRANS: in a transaction, at rest, and not failed.
IN_TRANSACTION = 2
#: Since PostgreSQL 10 a transaction tells whether it has a number; since 13 the function has another name.
OLDEST, RENAMED = 100_000, 130_000

#: One row if the transaction wrote. A number alone is too little: SELECT … FOR UPDATE and nextval() get one, too.
QUESTION = """
SELECT 1 WHERE CASE WHEN pg_catalog.{function}() IS NULL THEN false ELSE
    pg_catalog.current_setting('track_counts') = 'off' OR EXISTS (SELECT 1 FROM pg_catalog.pg_class WHERE
        pg_catalog.pg_stat_get_xact_tuples_inserted(oid) + pg_catalog.pg_stat_get_xact_tuples_updated(oid)
        + pg_catalog.pg_stat_get_xact_tuples_deleted(oid) > 0) END
"""


def note(watch: Watch, checkout: Checkout, skip: int = 2) -> None:
    """Note that the caller's caller has given back a connection that had written; ``skip`` as the ledger's."""
    try:
        checkout.returned_at = Origin(capture(watch.ledger.stops, skip))
        watch.ledger.dirty.append(checkout)
    except Exception as error:
        watch.on_fault("noting a return in the middle of a transaction", error)


def settle(watch: Watch, checkout: Checkout, answer: tuple[bool, BaseException | None]) -> None:
    """Do what an answer of :func:`psycopg_wrote_async` asks for, now that the connection is returned."""
    wrote, cancelled = answer
    if wrote:
        note(watch, checkout, 3)
    if cancelled is not None:
        raise cancelled


def is_unwinding() -> bool:
    """Whether an exception is on its way: what it interrupts was not to be kept, and it says so by itself."""
    return sys.exc_info()[0] is not None


def psycopg2_wrote(connection: Any) -> bool:
    """Ask over a connection of psycopg2; never raises. What is wrong with it, the pool is to meet."""
    try:
        extensions = sys.modules["psycopg2.extensions"]
        if not isinstance(connection, extensions.connection) or connection.closed or connection.async_:
            return False
        if is_unwinding():
            return False
        if connection.autocommit or connection.info.transaction_status != IN_TRANSACTION:
            return False
        question = _question(connection.server_version)
        with extensions.cursor(connection) as cursor:  # not the connection's own kind, which may count or log
            if question:
                cursor.execute(question)
            return bool(cursor.rowcount == 1)
    except Exception:
        return False


def psycopg_wrote(connection: Any) -> bool:
    """Ask over a connection of psycopg; never raises."""
    try:
        psycopg: Any = sys.modules["psycopg"]
        question = _psycopg_question(psycopg.Connection, connection)
        if not question:
            return False
        with psycopg.Cursor(connection, row_factory=psycopg.rows.tuple_row) as cursor:
            cursor.execute(question, prepare=False)
            return bool(cursor.rowcount == 1)
    except Exception:
        return False


async def psycopg_wrote_async(connection: Any) -> tuple[bool, BaseException | None]:
    """Ask over an asynchronous connection of psycopg; never raises.

    Where the task is cancelled over it, that comes back as the second value: to be raised when the connection is
    returned, and not before.
    """
    try:
        psycopg: Any = sys.modules["psycopg"]
        question = _psycopg_question(psycopg.AsyncConnection, connection)
        if not question:
            return False, None
        async with psycopg.AsyncCursor(connection, row_factory=psycopg.rows.tuple_row) as cursor:
            await cursor.execute(question, prepare=False)
            return bool(cursor.rowcount == 1), None
    except Exception:
        return False, None
    except BaseException as error:
        return False, error


async def asyncpg_wrote(connection: Any) -> tuple[bool, BaseException | None]:
    """Ask over a connection of asyncpg, likewise: below all that prepares statements or logs them."""
    try:
        if connection.is_closed() or not connection.is_in_transaction() or is_unwinding():
            return False, None
        version = connection.get_server_version()
        question = _question(version.major * 10_000 + version.minor)
        if not question:
            return False, None
        return await connection._protocol.query(question, None) == "SELECT 1", None  # noqa: SLF001
    except Exception:
        return False, None
    except BaseException as error:
        return False, error


def _psycopg_question(kind: type, connection: Any) -> str:
    if not isinstance(connection, kind) or connection.closed or connection.autocommit:  # type: ignore[attr-defined]
        return ""
    if is_unwinding():
        return ""
    pgconn: Any = connection.pgconn  # type: ignore[attr-defined]
    if pgconn.transaction_status != IN_TRANSACTION or getattr(pgconn, "pipeline_status", 0):
        return ""
    return _question(pgconn.server_version)


def _question(version: int) -> str:
    """The question for a server of a version; empty for one that can't answer it."""
    if version < OLDEST:
        return ""
    return QUESTION.format(
        function="pg_current_xact_id_if_assigned" if version >= RENAMED else "txid_current_if_assigned"
    )
