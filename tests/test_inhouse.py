"""Pool classes of the project's own, named in the ini file."""

from __future__ import annotations

# C extensions, which can't be imported anew for every inner run
import psycopg  # noqa: F401
import psycopg_pool  # noqa: F401
import pytest
from conftest import INI
from loops import ONE_LOOP

POOL = """
import contextlib, os, queue
import psycopg2, psycopg2.pool

DSN = os.environ["SUITE_DSN"]


class Pool:
    def __init__(self, size=3):
        self.idle = queue.LifoQueue()
        for _ in range(size):
            self.idle.put(psycopg2.connect(DSN))

    def checkout(self, timeout=5):
        return self.idle.get(timeout=timeout)

    def checkin(self, conn):
        conn.rollback()
        self.idle.put(conn)

    @contextlib.contextmanager
    def connection(self):
        conn = self.checkout()
        try:
            yield conn
        finally:
            self.checkin(conn)

    def shutdown(self):
        while not self.idle.empty():
            self.idle.get().close()
"""

HEADER = """
import asyncio, contextlib, gc, os, sys, threading, time
import pytest
from shop.db import Pool

@pytest.fixture(scope="module")
def pool():
    pool = Pool()
    yield pool
    pool.shutdown()
"""
NAMED = "shop.db:Pool(acquire=checkout, release=checkin, close=shutdown)"


@pytest.fixture
def run(suite):
    """Run a suite that has a module ``shop.db`` with a class ``Pool``, and names it."""

    def run(source, *args, pool=POOL, named=NAMED, header=HEADER, **more):
        suite.file("shop/__init__.py", "")
        suite.file("shop/db.py", pool)
        lines = "".join(f"    {line}\n" for line in named.splitlines())
        suite.pytester.makeini(f"{INI}pythonpath = .\npoolguard_pools =\n{lines}")
        # Most of these pools have no need to be closed.
        return suite.run(source, "--poolguard-open-pools=off", *args, header=header, **more)

    return run


def test_what_is_given_back_is_silent_and_what_is_not_is_a_leak(run, processes):
    result = run(
        """
kept = []

@pytest.mark.parametrize("returns", [True, False])
def test_it(pool, poolguard, returns):
    conn = pool.checkout()
    kept.append([[[[[conn]]]]])  # deeper than anybody looks
    assert poolguard.checked_out == 1
    conn.cursor().execute("SELECT 1")
    if returns:
        pool.checkin(conn)
        assert poolguard.checked_out == 0
""",
        *processes,
    )
    result.assert_outcomes(passed=1, failed=1)
    assert result.blamed == ["test_it[False]"]
    assert result.sites == ["test_it: conn = pool.checkout()"]
    (finding,) = result.findings
    assert finding["library"] == "shop.db:Pool"
    assert finding["pool"]["class"] == "Pool"
    assert finding["pool"]["made_at"]["text"] == "pool = Pool()"
    assert finding["transaction_status"] == "idle in transaction"
    assert finding["hint"].startswith("test_it did not reach its checkin() in line ")
    assert [place["function"] for place in finding["stack"] if place["own"]] == ["test_it"]
    assert "shop.db:Pool" in result.data["libraries"]


def test_a_leaked_connection_is_given_back_for_its_holder(run):
    run(
        """
kept = []

@pytest.mark.pool(leaks=1, reason="on purpose")
def test_leaks(pool):
    kept.append([[[[[pool.checkout()]]]]])

def test_next(pool):
    taken = [pool.checkout() for _ in range(3)]
    for conn in taken:
        pool.checkin(conn)
    pool.checkin(kept[0][0][0][0][0][0])  # late: the pool has it already
    assert pool.idle.qsize() == 3
"""
    ).assert_outcomes(passed=2)


def test_a_call_of_the_pools_own_is_not_the_site(run):
    result = run(
        """
stack = contextlib.ExitStack()

def test_leaks(pool):
    stack.enter_context(pool.connection())

def test_returns(pool):
    with pool.connection():
        pass
"""
    )
    result.assert_outcomes(passed=1, failed=1)
    assert result.sites == ["test_leaks: stack.enter_context(pool.connection())"]


def test_fixtures_and_threads_answer_as_with_any_pool(run):
    result = run(
        """
@pytest.fixture(scope="module")
def conn(pool):
    conn = pool.checkout()
    yield conn
    pool.checkin(conn)

@pytest.fixture
def leaks(pool):
    return pool.checkout()

def test_holds(conn): pass

def test_leaks(leaks): pass

def work(pool):
    pool.checkout()

def test_thread(pool):
    thread = threading.Thread(target=work, args=[pool], name="its name")
    thread.start()
    thread.join()
"""
    )
    result.assert_outcomes(passed=1, failed=2)
    assert result.blamed == ["test_leaks", "test_thread"]
    assert result.sites == ["leaks: return pool.checkout()", "work: pool.checkout()"]
    assert {f["thread"] for f in result.findings} == {"MainThread", "its name"}


ASYNC_POOL = """
import asyncio, contextlib, os
import psycopg

DSN = os.environ["SUITE_DSN"]


class Pool:
    def __init__(self):
        self.idle = []

    async def checkout(self):
        await asyncio.sleep(0)
        return self.idle.pop() if self.idle else await psycopg.AsyncConnection.connect(DSN)

    async def checkin(self, conn):
        await conn.rollback()
        self.idle.append(conn)

    @contextlib.asynccontextmanager
    async def connection(self):
        conn = await self.checkout()
        try:
            yield conn
        finally:
            await self.checkin(conn)

    async def shutdown(self):
        for conn in self.idle:
            await conn.close()
"""
ASYNC_HEADER = HEADER.replace("def pool", "async def pool").replace("pool.shutdown", "await pool.shutdown")
ASYNC = ("-oasyncio_mode=auto", *ONE_LOOP)


def test_coroutines_are_watched_like_functions(run):
    result = run(
        """
kept = []

async def take(pool):
    return await pool.checkout()

@pytest.mark.parametrize("returns", [True, False])
async def test_it(pool, poolguard, returns):
    conn = await asyncio.create_task(take(pool), name="its name")
    kept.append([[[[[conn]]]]])
    assert poolguard.checked_out == 1
    if returns:
        await pool.checkin(conn)
        assert poolguard.checked_out == 0

async def test_many(pool, poolguard):
    async def work():
        for _ in range(10):
            conn = await pool.checkout()
            await asyncio.sleep(0.05)
            await pool.checkin(conn)
    await asyncio.gather(*[work() for _ in range(5)])
    assert poolguard.checked_out == 0
    assert 1 < poolguard.peak <= 5

async def test_manager(pool, poolguard):
    async with pool.connection():
        assert poolguard.checked_out == 1
    assert poolguard.checked_out == 0
""",
        *ASYNC,
        pool=ASYNC_POOL,
        header=ASYNC_HEADER,
    )
    result.assert_outcomes(passed=3, failed=1)
    assert result.blamed == ["test_it[False]"]
    assert result.sites == ["take: return await pool.checkout()"]
    assert result.findings[0]["task"] == "its name"


SLOW_POOL = """
import asyncio

class Connection:
    closed = 0
    async def rollback(self):
        await asyncio.sleep(0.05)

class Pool:
    def __init__(self):
        self.idle = [Connection()]

    async def checkout(self):
        return self.idle.pop()

    async def checkin(self, conn):
        self.idle.append(conn)

    async def shutdown(self):
        pass
"""


@pytest.mark.parametrize("moment", [0, 0.02])
def test_what_was_returned_before_it_was_reclaimed_is_not_taken_from_who_has_it_then(run, moment):
    """The loop stands still between two tests: a connection is reclaimed in the middle of the next one."""
    result = run(
        f"""
kept = []

async def test_leaks(pool):
    kept.append([[[[[await pool.checkout()]]]]])

async def test_next(pool):
    await asyncio.sleep({moment})
    await pool.checkin(kept[0][0][0][0][0][0])  # late
    conn = await pool.checkout()
    await asyncio.sleep(0.2)
    assert pool.idle == []
    await pool.checkin(conn)
    assert pool.idle == [conn]
""",
        *ASYNC,
        pool=SLOW_POOL,
        header=ASYNC_HEADER,
    )
    result.assert_outcomes(passed=1, failed=1)
    assert result.blamed == ["test_leaks"]


@pytest.mark.parametrize("is_async", [False, True], ids=["sync", "async"])
def test_a_method_that_is_a_context_manager_takes_when_entered_and_returns_when_left(run, is_async):
    word, wait = ("async ", "await ") if is_async else ("", "")
    stack = f"contextlib.{'Async' * is_async}ExitStack()"
    enter = f"{wait}stack.enter_{'async_' * is_async}context(pool.connection())"
    result = run(
        f"""
stack = {stack}

{word}def test_leaks(pool):
    {enter}

{word}def test_returns(pool, poolguard):
    {word}with pool.connection() as conn:
        assert conn.closed == 0
        assert poolguard.checked_out == 1
    with pytest.raises(ZeroDivisionError):
        {word}with pool.connection():
            1 / 0
    assert poolguard.checked_out == 0
""",
        *(ASYNC if is_async else ()),
        pool=ASYNC_POOL if is_async else POOL,
        header=ASYNC_HEADER if is_async else HEADER,
        named="shop.db:Pool(acquire=connection)",
    )
    result.assert_outcomes(passed=1, failed=1)
    assert result.blamed == ["test_leaks"]
    assert result.sites == [f"test_leaks: {enter}"]
    assert result.findings[0]["hint"].endswith(f"use `{word}with pool.connection() as conn:`")


def test_an_exception_in_a_context_manager_is_as_it_was(run):
    pool = POOL + (
        "    @contextlib.contextmanager\n"
        "    def forgiving(self):\n"
        "        with contextlib.suppress(KeyError):\n"
        "            yield object.__new__(type('Thing', (), {}))\n"
    )
    run(
        """
def test_it(pool):
    error = ValueError("mine")
    with pytest.raises(ValueError) as caught:
        with pool.forgiving():
            raise error
    assert caught.value is error
    assert error.__context__ is None
    with pool.forgiving():
        raise KeyError
""",
        pool=pool,
        named="shop.db:Pool(acquire=forgiving)",
    ).assert_silent(passed=1)


# subclasses


def test_subclasses_count_once_whatever_they_override_and_whenever_they_are_made(run):
    result = run(
        """
class Proxy:
    def __init__(self, conn):
        self.conn = conn

class Calling(Pool):
    def checkout(self):
        return super().checkout()
    def checkin(self, conn):
        super().checkin(conn)

class Wrapping(Pool):
    def checkout(self):
        return Proxy(super().checkout())
    def checkin(self, proxy):
        super().checkin(proxy.conn)

class Own(Pool):
    def __init__(self):
        self.things = [Proxy(1), Proxy(2)]
    def checkout(self):
        return self.things.pop()
    def checkin(self, conn):
        self.things.append(conn)
    def shutdown(self):
        pass

class Mixin:
    def checkout(self):
        return super().checkout()

class Mixed(Mixin, Pool):
    pass

CLASSES = [Calling, Wrapping, Own, Mixed]

@pytest.mark.parametrize("cls", CLASSES)
@pytest.mark.parametrize("returns", [True, False])
def test_it(cls, returns, poolguard):
    pool = cls()
    conn = pool.checkout()
    assert poolguard.checked_out == 1
    if returns:
        pool.checkin(conn)
        assert poolguard.checked_out == 0
    pool.shutdown()
"""
    )
    result.assert_outcomes(passed=4, failed=4)
    assert result.sites == ["test_it: conn = pool.checkout()"] * 4
    assert [f["pool"]["class"] for f in result.findings] == ["Calling", "Wrapping", "Own", "Mixed"]


def test_a_class_that_inherits_its_methods_is_watched_and_its_base_is_not(run):
    pool = (
        "import queue\n\nclass Thing: pass\n\nclass Pool(queue.Queue):\n"
        "    def __init__(self):\n        super().__init__()\n        self.put(Thing())\n"
    )
    result = run(
        """
import queue

def test_it(poolguard):
    other = queue.Queue()
    other.put(object())
    other.get()
    assert "poolguard" not in queue.Queue.get.__code__.co_filename
    pool = Pool()
    thing = pool.get()
    assert poolguard.checked_out == 1
    pool.put(thing)
    assert poolguard.checked_out == 0

def test_leaks():
    Pool().get()
""",
        pool=pool,
        named="shop.db:Pool(acquire=get, release=put)",
    )
    result.assert_outcomes(passed=1, failed=1)
    assert result.blamed == ["test_leaks"]


# pools on pools, and proxies

LAYERED = """
import os
import psycopg2, psycopg2.pool

DSN = os.environ["SUITE_DSN"]


class Proxy:
    def __init__(self, conn, pool):
        self.hidden = [[[conn]]]  # as out of reach as can be
        self.pool = pool

    def close(self):
        self.pool.checkin(self)


class Pool:
    wraps = WRAPS
    inner_class = INNER

    def __init__(self):
        self.inner = psycopg2.pool.ThreadedConnectionPool(1, 3, DSN)

    def checkout(self, fails=False):
        conn = psycopg2.connect(DSN) if self.inner_class == "none" else self.inner.getconn()
        if fails:
            raise ValueError
        return Proxy(conn, self) if self.wraps else conn

    def checkin(self, conn):
        if self.wraps:
            conn = conn.hidden[0][0][0]
        conn.close() if self.inner_class == "none" else self.inner.putconn(conn)

    def shutdown(self):
        self.inner.closeall()
"""


@pytest.fixture(params=["psycopg2", "none"])
def inner(request):
    return request.param


@pytest.mark.parametrize("wraps", [True, False], ids=["proxy", "itself"])
def test_a_pool_on_a_pool_is_one_leak_at_the_outer_layer(run, inner, wraps):
    result = run(
        """
kept = []

@pytest.mark.parametrize("returns", [True, False])
def test_it(pool, poolguard, returns):
    conn = pool.checkout()
    assert poolguard.checked_out == 1
    kept.append([[[[[conn]]]]])
    if returns:
        pool.checkin(conn)
        assert poolguard.checked_out == 0

def test_next(): pass
""",
        pool=LAYERED.replace("WRAPS", str(wraps)).replace("INNER", repr(inner)),
    )
    result.assert_outcomes(passed=2, failed=1)
    assert result.blamed == ["test_it[False]"]
    assert {f["library"] for f in result.findings} == {"shop.db:Pool"}
    assert result.result.ret == 1


@pytest.mark.parametrize("wraps", [True, False], ids=["proxy", "itself"])
def test_what_the_pool_itself_loses_on_the_way_is_told_of_the_inner_pool(run, wraps):
    result = run(
        """
def test_leaks(pool):
    with pytest.raises(ValueError):
        pool.checkout(fails=True)
""",
        pool=LAYERED.replace("WRAPS", str(wraps)).replace("INNER", repr("psycopg2")),
    )
    result.assert_outcomes(failed=1)
    assert [f["library"] for f in result.findings] == ["psycopg2"]
    assert result.sites[0].startswith("checkout: conn = ")


def test_what_a_pool_keeps_for_itself_of_another_is_no_leak(run):
    """It was made at import, in a fixture or in a test: whatever it took then is its own."""
    pool = (
        POOL.replace("psycopg2.connect(DSN)", "self.inner.getconn()")
        .replace(
            "        self.idle = ",
            "        self.inner = psycopg2.pool.ThreadedConnectionPool(1, 5, DSN)\n        self.idle = ",
        )
        .replace("self.idle.get().close()", "self.inner.putconn(self.idle.get())")
    )
    result = run(
        """
from shop.db import at_import

def test_fixture(pool):
    pool.checkin(pool.checkout())

def test_import():
    at_import.checkin(at_import.checkout())

def test_own():
    pool = Pool()
    pool.checkin(pool.checkout())
    pool.shutdown()

def test_leaks():
    at_import.checkout()
""",
        pool=pool + "\n\nat_import = Pool()\n",
    )
    result.assert_outcomes(passed=3, failed=1)
    assert result.blamed == ["test_leaks"]
    assert result.sites == ["test_leaks: at_import.checkout()"]


def test_a_connection_that_comes_back_without_its_proxy_is_back(run):
    pool = POOL + (
        "\n    def wrapped(self):\n        return Proxy(self.idle.get(), self)\n"
        "\n\nclass Proxy:\n    def __init__(self, conn, pool):\n        self.conn, self.pool = conn, pool\n"
        "\n    def close(self):\n        self.pool.checkin(self.conn)\n"
    )
    result = run(
        """
@pytest.mark.parametrize("returns", [True, False])
def test_it(pool, poolguard, returns):
    others = [pool.wrapped(), pool.wrapped()]
    if returns:
        others[0].close()
        assert poolguard.checked_out == 1
        others[1].close()
    else:
        others[0].close()
""",
        pool=pool,
        named="shop.db:Pool(acquire=wrapped, release=checkin, close=shutdown)",
    )
    result.assert_outcomes(passed=1, failed=1)
    assert result.blamed == ["test_it[False]"]


def test_a_release_without_arguments_gives_back_what_its_thread_took_last(run):
    pool = (
        "import threading\n\nclass Thing: pass\n\nclass Pool:\n    def __init__(self):\n"
        "        self.mine = threading.local()\n"
        "    def checkout(self):\n        self.mine.thing = Thing()\n        return self.mine.thing\n"
        "    def checkin(self):\n        del self.mine.thing\n"
        "    def shutdown(self): pass\n"
    )
    result = run(
        """
@pytest.mark.parametrize("returns", [True, False])
def test_it(pool, poolguard, returns):
    def work():
        thing = pool.checkout()
        pool.checkin()
    thing = pool.checkout()
    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert poolguard.checked_out == 1
    if returns:
        pool.checkin()
        assert poolguard.checked_out == 0
""",
        pool=pool,
    )
    result.assert_outcomes(passed=1, failed=1)
    assert result.blamed == ["test_it[False]"]


# closing, and a release that fails


def test_the_hint_says_why_the_release_was_not_reached(run):
    result = run(
        """
def count(pool, leaves):
    conn = pool.checkout()
    if leaves:
        return 0
    pool.checkin(conn)

@pytest.mark.parametrize("leaves", [True, False])
def test_it(pool, leaves):
    count(pool, leaves)
"""
    )
    result.assert_outcomes(passed=1, failed=1)
    (hint,) = [f["hint"] for f in result.findings]
    assert hint.startswith("count did not reach its checkin() in line ")
    assert hint.endswith(" leaves before it); put it in a finally block")


def test_closing_does_not_hide_what_is_out(run):
    result = run(
        """
@pytest.mark.parametrize("returns", [True, False])
def test_it(returns):
    pool = Pool()
    conn = pool.checkout()
    pool.shutdown()
    if returns:
        pool.checkin(conn)
    else:
        conn.close()
"""
    )
    result.assert_outcomes(passed=1, failed=1)
    assert result.blamed == ["test_it[False]"]
    assert result.findings[0]["hint"] == (
        "the pool was closed while the connection was out; call checkin() before shutdown()"
    )


def test_a_release_that_raises_leaves_the_connection_out(run):
    result = run(
        """
def test_leaks(pool):
    conn = pool.checkout()
    conn.close()
    with pytest.raises(Exception):
        pool.checkin(conn)
"""
    )
    result.assert_outcomes(failed=1)
    assert "checkin() raised InterfaceError: connection already closed" in result.findings[0]["hint"]


# what can't be watched is said, in a line


@pytest.mark.parametrize(
    ("named", "line"),
    [
        ("shop.db:Poool(acquire=checkout, release=checkin)", "shop.db has no class Poool"),
        ("shop.db:Pool(acquire=chekout, release=checkin)", "Pool has no chekout"),
        ("shop.db:Pool(acquire=checkout, release=checkinn)", "Pool has no checkinn"),
        ("shop.db:Pool(acquire=checkout)", "the method that gives a connection back is not named: release=…"),
        ("shop.db:Pool(acquire=checkout, release=connection)", "Pool.connection is a context manager"),
        (
            "shop.db:Pool(acquire=made, release=checkin)",
            "Pool.made is a classmethod: it belongs to no pool object",
        ),
        ("shop.db:Pool(acquire=all, release=checkin)", "Pool.all is a generator"),
        ("shop.db:Pool(acquire=number, release=checkin)", "Pool.number is no method"),
        ("shop.bd:Pool(acquire=checkout, release=checkin)", "there is no module shop.bd"),
        ("shoop:Pool(acquire=checkout, release=checkin)", "there is no module shoop"),
    ],
)
def test_what_is_named_and_not_there_is_told(run, named, line):
    pool = POOL + (
        "\n    number = 3\n"
        "\n    @classmethod\n    def made(cls): return cls()\n"
        "\n    def all(self):\n        yield self.idle.get()\n"
    )
    result = run(
        """
def test_it(pool):
    pool.checkin(pool.checkout())
""",
        pool=pool,
        named=named,
    )
    result.assert_silent(passed=1)
    (notice,) = result.data["notices"]
    assert notice.startswith(f"{named.partition('(')[0]} is not watched: {line}")
    assert f"poolguard: {notice}" in result.text


@pytest.mark.parametrize(
    ("returned", "line"),
    [
        ("(1, 2)", "tuple objects, which can't be weakly referenced"),
        ("self.later()", "coroutine objects, which the caller awaits; name the method that is awaited"),
        ("self.connection()", "context managers; name the method that takes the connection"),
    ],
)
def test_what_is_handed_out_and_can_not_be_watched_is_told_once(run, returned, line):
    pool = POOL + (f"\n    def take(self):\n        return {returned}\n\n    async def later(self): return 1\n")
    result = run(
        """
def test_it(pool, poolguard):
    for _ in range(2):
        thing = pool.take()
        assert poolguard.checked_out == 0
        getattr(thing, "close", len)()if asyncio.iscoroutine(thing) else None
""",
        pool=pool,
        named="shop.db:Pool(acquire=take, release=checkin)",
    )
    result.assert_silent(passed=1)
    assert result.data["notices"] == [f"shop.db:Pool is not watched: shop.db:Pool hands out {line}"]


def test_none_is_no_connection(run):
    run(
        """
def test_it(pool, poolguard):
    assert pool.take() is None
    assert poolguard.checked_out == 0
""",
        pool=POOL + "\n    def take(self): return None\n",
        named="shop.db:Pool(acquire=take, release=checkin)",
    ).assert_silent(passed=1)


@pytest.mark.parametrize(
    ("named", "error"),
    [
        ("shop.db.Pool(acquire=get)", "there is no colon between the module and the class; write it like this: "),
        ("shop.db:Pool", "this names no class and its methods; write it like this: shop.db:Pool(acquire="),
        ("shop.db:Pool(aquire=get)", "there is no argument 'aquire' (did you mean 'acquire'?)"),
        ("shop.db:Pool(take=get)", "there is no argument 'take' (there are acquire, release, close)"),
        ("shop.db:Pool(acquire=get, acquire=got)", "acquire is given twice"),
        ("shop.db:Pool(acquire=)", "acquire has to be the name of a method: acquire=…"),
        ("shop.db:Pool(release=put)", "the method that takes a connection is missing: acquire=…"),
    ],
)
def test_a_line_that_is_wrong_stops_pytest(run, named, error):
    result = run("", named=f"shop.db:Other(acquire=a, release=b)\n{named}")
    assert result.result.ret == pytest.ExitCode.USAGE_ERROR
    assert f"poolguard: ini key poolguard_pools: line 2, {named!r}: {error}" in result.result.stderr.str()


def test_an_array_in_pyproject_toml_and_a_flag_name_classes_too(run, suite):
    leaks = """
def test_leaks(pool):
    pool.checkout()
"""
    run(leaks, named="")  # writes the files
    (suite.path / "tox.ini").unlink()
    suite.file(
        "pyproject.toml", f'[tool.pytest.ini_options]\npythonpath = ["."]\npoolguard_pools = ["{NAMED}"]\n'
    )
    assert suite.again("-pno:asyncio").blamed == ["test_leaks"]
    suite.file("pyproject.toml", '[tool.pytest.ini_options]\npythonpath = ["."]\n')
    assert suite.again("-pno:asyncio").blamed == []
    assert suite.again("-pno:asyncio", f"--poolguard-pools={NAMED}").blamed == ["test_leaks"]


# the hook


@pytest.mark.parametrize("where", ["conftest", "plugin"])
def test_a_hook_adds_drivers(run, suite, where, processes):
    suite.file(
        "conftest.py" if where == "conftest" else "a_plugin.py",
        """
from pytest_poolguard.drivers.inhouse import InHouse
from pytest_poolguard.naming import PoolClass

def pytest_poolguard_drivers(config):
    return [InHouse(PoolClass("shop.db", "Pool", "checkout", "checkin"))]
""",
    )
    result = run(
        """
@pytest.mark.parametrize("returns", [True, False])
def test_it(pool, returns):
    conn = pool.checkout()
    if returns:
        pool.checkin(conn)
""",
        *processes,
        *(("-pa_plugin",) if where == "plugin" else ()),
        named="",
        subprocess=where == "plugin",  # before pytest 8.4, the setting `pythonpath` comes too late for -p
    )
    result.assert_outcomes(passed=1, failed=1)
    assert result.blamed == ["test_it[False]"]


# how it is done


def test_a_module_is_never_imported_by_us_and_may_come_late(run):
    result = run(
        """
def test_before():
    assert "shop" not in sys.modules

def test_leaks():
    from shop.db import Pool
    pool = Pool()
    pool.checkout()
    pool.shutdown()
""",
        header="import sys\n",
    )
    result.assert_outcomes(passed=1, failed=1)
    assert result.sites == ["test_leaks: pool.checkout()"]


def test_the_class_looks_as_before_and_is_given_back(run):
    result = run(
        """
import inspect

def test_it():
    assert str(inspect.signature(Pool.checkout)) == "(self, timeout=5)"
    assert str(inspect.signature(Pool)) == "(size=3)"
    assert Pool.checkout.__name__ == "checkout"
    class Sub(Pool):
        pass
    pytest.kept = Pool, Sub
"""
    )
    result.assert_silent(passed=1)
    for cls in pytest.kept:
        assert not [
            name for name, value in vars(cls).items() if "poolguard" in repr(getattr(value, "__code__", ""))
        ]
        assert "__init_subclass__" not in vars(cls)
        assert cls.checkout.__code__.co_filename.endswith("db.py")
    del pytest.kept


def test_pools_and_connections_can_be_collected(run):
    run(
        """
import weakref

def test_it():
    pool = Pool()
    conn = pool.checkout()
    pool.checkin(conn)
    pool.shutdown()
    there = [weakref.ref(pool), weakref.ref(conn)]
    del pool, conn
    gc.collect()
    assert [ref() for ref in there] == [None, None]
"""
    ).assert_silent(passed=1)
