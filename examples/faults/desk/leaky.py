"""All is well as long as all goes well."""

from __future__ import annotations

from psycopg2.errors import UniqueViolation
from psycopg2.pool import ThreadedConnectionPool


def free(pool: ThreadedConnectionPool) -> list[int]:
    """The seats that nobody has."""
    conn = pool.getconn()
    with conn, conn.cursor() as cursor:
        cursor.execute("SELECT number FROM seats WHERE number NOT IN (SELECT seat FROM bookings) ORDER BY number")
        numbers = [row[0] for row in cursor]
    pool.putconn(conn)
    return numbers


def book(pool: ThreadedConnectionPool, seat: int, name: str) -> bool:
    """Book a seat; False if somebody was faster. That error was thought of, and no other."""
    conn = pool.getconn()
    try:
        with conn, conn.cursor() as cursor:
            cursor.execute("INSERT INTO bookings VALUES (%s, %s)", [seat, name])
    except UniqueViolation:
        pool.putconn(conn)
        return False
    pool.putconn(conn)
    return True


def swap(pool: ThreadedConnectionPool, first: int, second: int) -> None:
    """Let two people change places, and write that down in a transaction of its own."""
    conn = pool.getconn()
    log = pool.getconn()
    try:
        with log, log.cursor() as cursor:
            cursor.execute("INSERT INTO journal VALUES (%s)", [f"{first} and {second}"])
        with conn, conn.cursor() as cursor:
            cursor.execute(
                "UPDATE bookings SET seat = %s + %s - seat WHERE seat IN (%s, %s)", [first, second, first, second]
            )
    finally:
        pool.putconn(log)
        pool.putconn(conn)
