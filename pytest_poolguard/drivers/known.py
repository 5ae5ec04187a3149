"""Every library that is watched: a new one is a module, named like it, and an entry here.

This much is known without any of the drivers: theirs are imported when their libraries are.
"""

from __future__ import annotations

import importlib
from typing import Any

__all__ = ["LIBRARIES", "NEVER_IMPORTED", "WITHOUT_POOLS", "driver_of"]

#: For each library the class that is its driver, and the modules that it patches.
LIBRARIES = {
    "psycopg2": ("Psycopg2", ("psycopg2", "psycopg2.pool")),
    "psycopg": ("Psycopg", ("psycopg._connection_base", "psycopg.connection", "psycopg.connection_async")),
    "asyncpg": ("Asyncpg", ("asyncpg.connect_utils", "asyncpg.pool")),
    "sqlalchemy": (
        "SQLAlchemy",
        (
            "sqlalchemy",
            "sqlalchemy.orm.session",
            "sqlalchemy.ext.asyncio.engine",
            "sqlalchemy.ext.asyncio.session",
        ),
    ),
    "psycopg_pool": ("PsycopgPool", ("psycopg_pool.base", "psycopg_pool.pool", "psycopg_pool.pool_async")),
}

#: Those of which connections are watched, for they have no pools.
WITHOUT_POOLS = ("psycopg",)

#: What the summary says of a run without any of them.
NEVER_IMPORTED = (
    f"poolguard: no connection pool was seen in this run: none of {', '.join(LIBRARIES)} was imported"
)


def driver_of(library: str) -> Any:
    """The class that is a library's driver (see ``interface``)."""
    return getattr(importlib.import_module(f"pytest_poolguard.drivers.{library}"), LIBRARIES[library][0])
