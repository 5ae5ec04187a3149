"""The book-keeper's list of orders."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice

from shop import db

QUERY = """
    SELECT orders.id, users.email, products.name, quantity
    FROM orders JOIN users ON users.id = user_id JOIN products ON products.id = product_id
    ORDER BY orders.id
"""


def lines() -> Iterator[str]:
    """Every order as a line of CSV."""
    with db.transaction() as conn, conn.cursor() as cursor:
        cursor.execute(QUERY)
        for row in cursor:
            yield ",".join(map(str, row))


def preview(count: int = 3) -> list[str]:
    """The first lines, for a look at them."""
    return list(islice(lines(), count))
