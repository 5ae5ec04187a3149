"""What there is to buy."""

from __future__ import annotations

from dataclasses import dataclass

from shop import db


@dataclass(frozen=True)
class Product:
    """Something to buy; ``cents`` is its price."""

    id: int
    name: str
    cents: int
    stock: int


def add_product(name: str, cents: int, stock: int) -> int:
    """Put a product on sale; returns the new id."""
    with db.transaction() as conn, conn.cursor() as cursor:
        cursor.execute(
            "INSERT INTO products (name, cents, stock) VALUES (%s, %s, %s) RETURNING id", (name, cents, stock)
        )
        return cursor.fetchone()[0]


def get_product(product_id: int) -> Product:
    """Look a product up."""
    with db.transaction() as conn, conn.cursor() as cursor:
        cursor.execute("SELECT id, name, cents, stock FROM products WHERE id = %s", (product_id,))
        return Product(*cursor.fetchone())


def search(words: str) -> list[Product]:
    """The products whose name contains some words, in alphabetical order."""
    with db.pool().getconn() as conn, conn.cursor() as cursor:
        cursor.execute(
            "SELECT id, name, cents, stock FROM products WHERE name ILIKE %s ORDER BY name", (f"%{words}%",)
        )
        return [Product(*row) for row in cursor]
