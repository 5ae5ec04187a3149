"""Whatever happens, every connection goes back."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

from psycopg2.errors import UniqueViolation
from psycopg2.pool import ThreadedConnectionPool


@contextlib.contextmanager
def transaction(pool: ThreadedConnectionPool) -> Iterator[Any]:
    """A cursor in a transaction of its own."""
    conn = pool.getconn()
    try:
        with conn, conn.cursor() as cursor:
            yield cursor
    finally:
        pool.putconn(conn)


def free(pool: ThreadedConnectionPool) -> list[int]:
    """The seats that nobody has."""
    with transaction(pool) as cursor:
        cursor.execute("SELECT number FROM seats WHERE number NOT IN (SELECT seat FROM bookings) ORDER BY number")
        return [row[0] for row in cursor]


def book(pool: ThreadedConnectionPool, seat: int, name: str) -> bool:
    """Book a seat; False if somebody was faster."""
    try:
        with transaction(pool) as cursor:
            cursor.execute("INSERT INTO bookings VALUES (%s, %s)", [seat, name])
    except UniqueViolation:
        return False
    return True


def swap(pool: ThreadedConnectionPool, first: int, second: int) -> None:
    """Let two people change places, and write that down in a transaction of its own."""
    with transaction(pool) as cursor, transaction(pool) as log:
        log.execute("INSERT INTO journal VALUES (%s)", [f"{first} and {second}"])
        cursor.execute(
            "UPDATE bookings SET seat = %s + %s - seat WHERE seat IN (%s, %s)", [first, second, first, second]
        )
