"""Codes that lower a price."""

from __future__ import annotations

from psycopg2.errors import UniqueViolation

from shop import db


def issue(code: str, percent: int) -> None:
    """Make a voucher valid; one that is valid already stays as it is."""
    conn = db.pool().getconn()
    try:
        with conn.cursor() as cursor:
            cursor.execute("INSERT INTO vouchers (code, percent) VALUES (%s, %s)", (code, percent))
    except UniqueViolation:
        conn.rollback()
        return
    conn.commit()
    db.pool().putconn(conn)


def reduced(cents: int, code: str) -> int:
    """What is left to pay of a price; unknown codes lower nothing."""
    with db.transaction() as conn, conn.cursor() as cursor:
        cursor.execute("SELECT percent FROM vouchers WHERE code = %s", (code,))
        row = cursor.fetchone()
    percent = row[0] if row is not None else 0
    return cents - cents * percent // 100
