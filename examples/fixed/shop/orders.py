"""Who has bought what."""

from __future__ import annotations

from shop import db


class OutOfStock(Exception):
    """Fewer pieces of a product are left than were ordered."""


def place_order(user_id: int, product_id: int, quantity: int = 1) -> int:
    """Order some pieces of a product; returns the number of the order."""
    with db.transaction() as conn, conn.cursor() as cursor:
        cursor.execute(
            "UPDATE products SET stock = stock - %s WHERE id = %s AND stock >= %s",
            (quantity, product_id, quantity),
        )
        if cursor.rowcount == 0:
            raise OutOfStock(f"no {quantity} pieces of product {product_id}")
        cursor.execute(
            "INSERT INTO orders (user_id, product_id, quantity) VALUES (%s, %s, %s) RETURNING id",
            (user_id, product_id, quantity),
        )
        return cursor.fetchone()[0]


def amount_due(order_id: int) -> int:
    """What an order costs, in cents."""
    with db.transaction() as conn, conn.cursor() as cursor:
        cursor.execute(
            "SELECT quantity * cents FROM orders, products WHERE orders.id = %s AND products.id = product_id",
            (order_id,),
        )
        return cursor.fetchone()[0]
