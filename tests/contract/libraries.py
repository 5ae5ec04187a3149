"""What the contract has to know of each library: a table of code."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest

__all__ = ["LIBRARIES", "Library", "where"]

HEADER = """
import asyncio, contextlib, gc, os, threading, time
import psycopg2.pool, pytest
{imports}

DSN = os.environ["SUITE_DSN"]

def is_on_server(pid):
    with contextlib.closing(psycopg2.connect(DSN)) as conn, conn.cursor() as cursor:
        cursor.execute("SELECT 1 FROM pg_stat_activity WHERE pid = %s", [pid])
        return bool(cursor.fetchall())

@pytest.fixture(scope="module")
{define} pool():
    {make}
    yield pool
    {close}
"""


@dataclass(frozen=True)
class Library:
    """Statements and expressions, in which ``pool`` and ``conn`` stand for variables of the suite."""

    name: str  #: of the library, as in the report
    pool_class: str
    imports: str
    make: str  #: statements that make ``pool``, with a minimum of 1 where there is one, and {size} as maximum
    take: str
    give: str
    close: str
    exhausted: str  #: what an exhausted pool raises
    cure: str  #: part of the hint
    take_soon: str  #: takes a connection within moments or not at all
    refused: str = ""  #: what it raises when it is given what is not its own; empty where it takes no notice
    refused_by_others: str = ""  #: what another pool raises, if that is something else
    other_pool: str = ""  #: what the hint says of one given to another pool; empty where that can't be done
    query: str = 'conn.cursor().execute("SELECT 1")'
    status: str = "idle in transaction"  #: after a query
    pid: str = "conn.info.backend_pid"
    is_async: bool = False
    collects: bool = False  #: whether it takes back a connection that the garbage collector has found

    @property
    def keeps(self) -> bool:
        """Whether the pool keeps connections that nobody has."""
        return "Null" not in self.pool_class

    @property
    def refusal(self) -> str:
        """Begins a block in which the pool is given what is not its own."""
        return f"pytest.raises({self.refused})" if self.refused else "contextlib.nullcontext()"

    @property
    def refusal_by_others(self) -> str:
        """The same, for a connection of another pool."""
        return f"pytest.raises({self.refused_by_others})" if self.refused_by_others else self.refusal

    @property
    def define(self) -> str:
        """Begins a test's or a fixture's definition."""
        return "async def" if self.is_async else "def"

    def made(self, size: int) -> str:
        """Makes ``pool``."""
        return self.make.format(size=size)

    def header(self, size: int) -> str:
        """The beginning of a suite with a module-scoped ``pool``."""
        return HEADER.format(imports=self.imports, define=self.define, make=self.made(size), close=self.close)

    @property
    def arguments(self) -> tuple[str, ...]:
        """Command line arguments: one event loop for a module."""
        if not self.is_async:
            return ()
        scopes = (f"asyncio_default_{what}_loop_scope=module" for what in ("test", "fixture"))
        # asyncpg's, where a connection was returned to a pool after its end: SQLAlchemy drops the two
        quiet = ("-Wignore::pytest.PytestUnraisableExceptionWarning",) * (self.name == "sqlalchemy")
        return "-oasyncio_mode=auto", *(f"-o{scope}" for scope in scopes), *quiet


def _psycopg_pool(pool_class: str, minimum: int, *, is_async: bool) -> Library:
    wait = "await " if is_async else ""
    return Library(
        name="psycopg_pool",
        pool_class=pool_class,
        imports=f"from psycopg_pool import PoolTimeout, {pool_class}",
        make=(
            f"pool = {pool_class}(DSN, min_size={minimum}, max_size={{size}}, open=False, timeout=20)\n"
            f"    {wait}pool.open()"
        ),
        take=f"{wait}pool.getconn()",
        take_soon=f"{wait}pool.getconn(timeout=0.1)",
        give=f"{wait}pool.putconn(conn)",
        close=f"{wait}pool.close()",
        exhausted="PoolTimeout",
        refused="ValueError",
        other_pool="putconn() of another pool",
        query=f'{wait}conn.cursor().execute("SELECT 1")',
        cure=f"use `{'async ' * is_async}with pool.connection() as conn:`",
        is_async=is_async,
    )


def _sqlalchemy(pool_class: str, driver: str, *, is_async: bool) -> Library:
    """An engine; ``conn`` is its ``Connection``."""
    wait, word = ("await ", "async ") if is_async else ("", "")
    create = "create_async_engine" if is_async else "create_engine"
    sized = pool_class != "NullPool"
    size = "pool_size=1, max_overflow={size} - 1, pool_timeout=20" if sized else "poolclass=NullPool"
    return Library(
        name="sqlalchemy",
        pool_class=pool_class,
        imports=f"""
from sqlalchemy import Engine, NullPool, event, text
from sqlalchemy.exc import TimeoutError
from {"sqlalchemy.ext.asyncio" if is_async else "sqlalchemy"} import {create}

URL = "postgresql+{driver}" + os.environ["SUITE_DSN"].removeprefix("postgresql")

connections = []

def keep(conn):
    connections.append([[[[[conn]]]]])  # what nobody refers to comes back by itself

@pytest.fixture(scope="module", autouse=True)
def kept():
    event.listen(Engine, "engine_connect", keep)
    yield
    event.remove(Engine, "engine_connect", keep)  # which would be there for other suites of this process

@pytest.fixture(autouse=True)
def collected():
    yield
    gc.collect()  # here, and not in the middle of something else: asyncpg has something to say then

{word}def soon(pool):
    own, pool.pool._timeout = pool.pool._timeout, 0.1
    try:
        return {wait}pool.connect()
    finally:
        pool.pool._timeout = own
""",
        make=f"pool = {create}(URL, {size})",
        take=f"{wait}pool.connect()",
        take_soon=f"{wait}soon(pool)",
        give=f"{wait}conn.close()",
        close=f"{wait}pool.dispose()",
        exhausted="TimeoutError" if sized else "",
        query=f'{wait}conn.execute(text("SELECT 1"))',
        pid=f'({wait}conn.execute(text("SELECT pg_backend_pid()"))).scalar()',
        cure=f"use `{word}with engine.connect() as conn:`",
        is_async=is_async,
        collects=True,
    )


LIBRARIES = (
    Library(
        name="psycopg2",
        pool_class="ThreadedConnectionPool",
        imports="from psycopg2.pool import PoolError, ThreadedConnectionPool",
        make="pool = ThreadedConnectionPool(1, {size}, DSN)",
        take="pool.getconn()",
        take_soon="pool.getconn()",
        give="pool.putconn(conn)",
        close="pool.closed or pool.closeall()",
        exhausted="PoolError",
        refused="PoolError",
        other_pool="putconn() of another pool",
        cure="call putconn() in a finally block",
    ),
    Library(
        name="asyncpg",
        pool_class="Pool",
        imports="import asyncpg",
        make="pool = await asyncpg.create_pool(DSN, min_size=1, max_size={size})",
        take="await pool.acquire()",
        take_soon="await pool.acquire(timeout=0.1)",
        give="await pool.release(conn)",
        close="pool.terminate()",
        exhausted="asyncio.TimeoutError",
        refused_by_others="asyncpg.InterfaceError",
        other_pool="release() of another pool",
        query='await conn.execute("SELECT 1")',
        status="idle",
        pid="conn.get_server_pid()",
        cure="use `async with pool.acquire() as conn:`",
        is_async=True,
    ),
    _psycopg_pool("ConnectionPool", 1, is_async=False),
    _psycopg_pool("NullConnectionPool", 0, is_async=False),
    _psycopg_pool("AsyncConnectionPool", 1, is_async=True),
    _psycopg_pool("AsyncNullConnectionPool", 0, is_async=True),
    _sqlalchemy("QueuePool", "psycopg2", is_async=False),
    _sqlalchemy("NullPool", "psycopg", is_async=False),
    _sqlalchemy("AsyncAdaptedQueuePool", "asyncpg", is_async=True),
    _sqlalchemy("NullPool", "psycopg", is_async=True),
)


def where(applies: Callable[[Library], Any]) -> pytest.MarkDecorator:
    """Run a test for those libraries only to which it applies."""
    those = [library for library in LIBRARIES if applies(library)]
    return pytest.mark.parametrize("lib", those, ids=lambda library: f"{library.name}-{library.pool_class}")
