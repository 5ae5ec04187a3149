"""What is in stock."""

from __future__ import annotations

from stockroom.pool import Pool


def count(pool: Pool, shelf: int) -> int:
    """How many things lie on a shelf. An empty shelf keeps the connection."""
    conn = pool.checkout()
    with conn.cursor() as cursor:
        cursor.execute("SELECT generate_series(1, %s)", (shelf,))
        if not cursor.rowcount:
            return 0
    pool.checkin(conn)
    return cursor.rowcount
