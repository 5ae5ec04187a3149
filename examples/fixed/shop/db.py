"""The shop's one connection pool."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache

from psycopg2 import extensions
from psycopg2.pool import ThreadedConnectionPool

MAX_CONNECTIONS = 20


@cache
def pool() -> ThreadedConnectionPool:
    """The pool, made when it is first asked for."""
    return ThreadedConnectionPool(1, MAX_CONNECTIONS, os.environ["SHOP_DATABASE"])


@contextmanager
def transaction() -> Iterator[extensions.connection]:
    """A connection for one block: its work is committed or, after an exception, rolled back."""
    conn = pool().getconn()
    try:
        with conn:
            yield conn
    finally:
        pool().putconn(conn)


def close() -> None:
    """Close every connection; the next :func:`pool` is a new one."""
    pool().closeall()
    pool.cache_clear()
