"""How orders are paid."""

from __future__ import annotations

from collections.abc import Callable

from shop import db, orders

#: Takes an amount in cents from the customer's card, or raises :class:`CardDeclined`.
Gateway = Callable[[int], None]


class CardDeclined(Exception):
    """The bank said no."""


def pay(order_id: int, gateway: Gateway) -> int:
    """Have an order paid; returns the amount in cents."""
    cents = orders.amount_due(order_id)
    conn = db.pool().getconn()
    try:
        with conn.cursor() as cursor:
            cursor.execute("INSERT INTO payments (order_id, cents) VALUES (%s, %s)", (order_id, cents))
        gateway(cents)
    except CardDeclined:
        conn.close()  # nothing of this must be kept
        raise
    conn.commit()
    db.pool().putconn(conn)
    return cents


def is_paid(order_id: int) -> bool:
    """Whether an order is paid."""
    with db.transaction() as conn, conn.cursor() as cursor:
        cursor.execute("SELECT 1 FROM payments WHERE order_id = %s", (order_id,))
        return cursor.fetchone() is not None
