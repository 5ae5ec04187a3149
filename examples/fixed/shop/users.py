"""Who buys."""

from __future__ import annotations

from dataclasses import dataclass

from shop import db


@dataclass(frozen=True)
class User:
    """A customer."""

    id: int
    name: str
    email: str


_known: dict[int, User] = {}


def add_user(name: str, email: str) -> int:
    """Register a customer; returns the new id."""
    with db.transaction() as conn, conn.cursor() as cursor:
        cursor.execute("INSERT INTO users (name, email) VALUES (%s, %s) RETURNING id", (name, email))
        return cursor.fetchone()[0]


def get_user(user_id: int) -> User | None:
    """Look a customer up; None if there is none of that id."""
    if user_id in _known:
        return _known[user_id]
    with db.transaction() as conn, conn.cursor() as cursor:
        cursor.execute("SELECT id, name, email FROM users WHERE id = %s", (user_id,))
        row = cursor.fetchone()
    if row is None:
        return None
    _known[user_id] = User(*row)
    return _known[user_id]
