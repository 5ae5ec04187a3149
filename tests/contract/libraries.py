"""What the contract has to know of each library: a table of code."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
from loops import ONE_LOOP

__all__ = ["LIBRARIES", "Library", "where"]

HEADER = """
import asyncio, contextlib, gc, os, threading, time
import psycopg2.pool, pytest
{imports}

DSN = os.environ["SUITE_DSN"]

def fetched(conn, sql):
    with conn.cursor() as cursor:
        cursor.execute(sql)
        return cursor.fetchone()[0]

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
    value: str = "fetched(conn, {sql})"  #: what a statement with one column returns
    status: str = "idle in transaction"  #: after a query
    pid: str = "conn.info.backend_pid"
    is_async: bool = False
    collects: bool = False  #: whether it takes back a connection that the garbage collector has found
    in_house: str = ""  #: of a pool class that the suite has by itself: how it is named
    module: str = ""  #: the source of that class
    stunted: tuple[tuple[str, str], ...] = ()  #: files of one without what is replaced, by their names
    lacks: str = ""  #: what is said of that, after its name and version

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
        named = (f"--poolguard-pools={self.name}({self.in_house})",) * bool(self.in_house)
        if not self.is_async:
            return named
        # asyncpg's, where a connection was returned to a pool after its end: SQLAlchemy drops the two
        quiet = ("-Wignore::pytest.PytestUnraisableExceptionWarning",) * (self.name == "sqlalchemy")
        return *named, "-oasyncio_mode=auto", *ONE_LOOP, *quiet


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
        value=f"({wait}({wait}conn.execute({{sql}})).fetchone())[0]",
        cure=f"use `{'async ' * is_async}with pool.connection() as conn:`",
        is_async=is_async,
        stunted=(
            ("psycopg_pool/__init__.py", f"from psycopg_pool import pool{'_async' * is_async}"),
            (f"psycopg_pool/pool{'_async' * is_async}.py", f"class {'Async' * is_async}ConnectionPool: pass"),
        ),
        lacks=f"psycopg_pool.pool{'_async' * is_async}.{'Async' * is_async}ConnectionPool has no getconn",
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
        value=f"({wait}conn.execute(text({{sql}}))).scalar()",
        pid=f'({wait}conn.execute(text("SELECT pg_backend_pid()"))).scalar()',
        cure=f"use `{word}with engine.connect() as conn:`",
        is_async=is_async,
        collects=True,
        stunted=(("sqlalchemy/__init__.py", "__version__ = '2.0.99'"),),
        lacks="its pools are not what is known of them",
    )


IN_HOUSE = """
import {asyncio}contextlib, os, {queue}
import {library}

class Exhausted(TimeoutError):
    pass

class Pool:
    def __init__(self, size):
        self.size, self.closed = size, False
        self.idle, self.out = {queue}.LifoQueue(), set()
{open}        for _ in range(self.size):
            self.idle.put_nowait({connect})

    {define} checkout(self, timeout=20):
        try:
            conn = {get}
        except {empty}:
            raise Exhausted from None
        self.out.add(conn)
        return conn

    {define} checkin(self, conn):
        if conn not in self.out:
            raise ValueError("it is not out")
        self.out.remove(conn)
        if conn.closed or self.closed:
            {wait}conn.close()
            conn = None if self.closed else {connect}
        else:
            {wait}conn.rollback()
        if conn is not None:
            self.idle.put_nowait(conn)

    {define} shutdown(self):
        self.closed = True
        while not self.idle.empty():
            {wait}self.idle.get_nowait().close()
"""


def _in_house(module: str, *, is_async: bool) -> Library:
    """A pool class of the project's own, which the ini file names."""
    wait = "await " if is_async else ""
    source = IN_HOUSE.format(
        asyncio="asyncio, " * is_async,
        queue="asyncio" if is_async else "queue",
        library="psycopg" if is_async else "psycopg2",
        define="async def" if is_async else "def",
        wait=wait,
        connect=f"{wait}{'psycopg.AsyncConnection' if is_async else 'psycopg2'}.connect(os.environ['SUITE_DSN'])",
        get="await asyncio.wait_for(self.idle.get(), timeout)" if is_async else "self.idle.get(timeout=timeout)",
        open="\n    async def open(self):\n" * is_async,
        empty="asyncio.TimeoutError" if is_async else "queue.Empty",
    )
    return Library(
        name=f"{module}:Pool",
        pool_class="Pool",
        imports=f"from {module} import Pool",
        make=f"pool = Pool({{size}}){'; await pool.open()' * is_async}",
        take=f"{wait}pool.checkout()",
        take_soon=f"{wait}pool.checkout(timeout=0.1)",
        give=f"{wait}pool.checkin(conn)",
        close=f"{wait}pool.shutdown()",
        exhausted="TimeoutError",
        refused="ValueError",
        query=f'{wait}conn.cursor().execute("SELECT 1")',
        cure="call checkin() in a finally block",
        is_async=is_async,
        in_house="acquire=checkout, release=checkin, close=shutdown",
        module=source,
        stunted=((f"{module}.py", "class Pool: pass"),),
        lacks="Pool has no checkout",
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
        stunted=(
            (
                "psycopg2/__init__.py",
                "__version__ = '3.0 (some)'\ndef connect(): pass\nfrom psycopg2 import pool",
            ),
            (
                "psycopg2/pool.py",
                "class AbstractConnectionPool:\n    def __init__(self): pass\n    _connect = __init__",
            ),
        ),
        lacks="psycopg2.pool.AbstractConnectionPool has no _getconn",
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
        value="await conn.fetchval({sql})",
        status="idle",
        pid="conn.get_server_pid()",
        cure="use `async with pool.acquire() as conn:`",
        is_async=True,
        stunted=(
            ("asyncpg/__init__.py", "from asyncpg import connect_utils, pool"),
            ("asyncpg/connect_utils.py", "async def _connect(): pass"),
            ("asyncpg/pool.py", "class Pool:\n    def __init__(self): pass"),
        ),
        lacks="asyncpg.pool.Pool has no _acquire",
    ),
    _psycopg_pool("ConnectionPool", 1, is_async=False),
    _psycopg_pool("NullConnectionPool", 0, is_async=False),
    _psycopg_pool("AsyncConnectionPool", 1, is_async=True),
    _psycopg_pool("AsyncNullConnectionPool", 0, is_async=True),
    _sqlalchemy("QueuePool", "psycopg2", is_async=False),
    _sqlalchemy("NullPool", "psycopg", is_async=False),
    _sqlalchemy("AsyncAdaptedQueuePool", "asyncpg", is_async=True),
    _sqlalchemy("NullPool", "psycopg", is_async=True),
    _in_house("stockroom", is_async=False),
    _in_house("async_stockroom", is_async=True),
)


def where(applies: Callable[[Library], Any]) -> pytest.MarkDecorator:
    """Run a test for those libraries only to which it applies."""
    those = [library for library in LIBRARIES if applies(library)]
    return pytest.mark.parametrize("lib", those, ids=lambda library: f"{library.name}-{library.pool_class}")
