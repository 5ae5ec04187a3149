"""The hint names the cause where the driver saw it or the source proves it, and claims nothing else."""

from __future__ import annotations

import sys


def hints(run) -> list[str]:
    assert run.data["faults"] == []
    return [finding["hint"] for finding in run.findings]


def told_in(suite, cases: dict[str, tuple[str, str]]) -> dict[str, str]:
    """The hint for the leak of each case, all found in one run; every case is a file of its own."""
    for number, (source, _) in enumerate(cases.values()):
        suite.file(f"test_{number}.py", HEAD + source)
    run = suite.again()
    assert run.data["faults"] == []
    found = {finding["nodeid"].partition("::")[0]: finding["hint"] for finding in run.findings}
    return {case: found.get(f"test_{number}.py", "") for number, case in enumerate(cases)}


HEAD = """\
import contextlib, functools, os, pytest, psycopg2
from psycopg2.pool import PoolError, ThreadedConnectionPool
pool = ThreadedConnectionPool(1, 5, os.environ["SUITE_DSN"])
other = ThreadedConnectionPool(1, 5, os.environ["SUITE_DSN"])
"""
FIRST = HEAD.count("\n") + 2  # the number of the first line of a case: each begins with an empty one

FINALLY = "; call putconn() in a finally block"

CAUSES = {
    "never returned": (
        """
def take():
    conn = pool.getconn()
    conn.cursor().close()

def test_it():
    take()
""",
        f"take never gave it back{FINALLY}",
    ),
    "early return": (
        """
def take(n):
    conn = pool.getconn()
    if n:
        return n
    pool.putconn(conn)

def test_it():
    take(1)
""",
        f"take did not reach its putconn() in line {FIRST + 4} (line {FIRST + 3} leaves before it); "
        "put it in a finally block",
    ),
    "two early ways out": (
        """
def take(n):
    conn = pool.getconn()
    if n:
        return n
    if conn is None:
        raise ValueError
    pool.putconn(conn)

def test_it():
    take(1)
""",
        f"take did not reach its putconn() in line {FIRST + 6} "
        f"(lines {FIRST + 3} and {FIRST + 5} leave before it); put it in a finally block",
    ),
    "returned on one way only": (
        """
def take(n):
    conn = pool.getconn()
    if not n:
        pool.putconn(conn)
        return 0
    if n == 1:
        return 1
    pool.putconn(conn)

def test_it():
    take(1)
""",
        f"take did not reach its putconn() in lines {FIRST + 3} and {FIRST + 7} "
        f"(line {FIRST + 6} leaves before it); put it in a finally block",
    ),
    "an exception before a try that begins too late": (
        """
def take():
    conn = pool.getconn()
    conn.cursor().execute('nonsense')
    try:
        pass
    finally:
        pool.putconn(conn)

def test_it():
    with pytest.raises(psycopg2.Error):
        take()
""",
        f"take did not reach its putconn() in line {FIRST + 6}; "
        f"begin the try block (line {FIRST + 3}) right after getconn()",
    ),
    "a condition in the finally block": (
        """
def take(n):
    try:
        conn = pool.getconn()
    finally:
        if n:
            pool.putconn(conn)

def test_it():
    take(0)
""",
        f"take did not reach its putconn() in line {FIRST + 5}, though that is in a finally block",
    ),
    "with getconn": (
        """
def test_it():
    with pool.getconn() as conn:
        conn.cursor().execute('SELECT 1')
""",
        f"`with …getconn()` ends the transaction, it does not return the connection{FINALLY}",
    ),
    "with the helper's connection": (
        """
def get():
    return pool.getconn()

def test_it():
    with get() as conn:
        pass
""",
        f"`with …get()` ends the transaction, it does not return the connection{FINALLY}",
    ),
    "close instead of putconn": (
        """
def test_it():
    conn = pool.getconn()
    conn.close()
""",
        "the connection was closed, not returned, so its slot stays in use; "
        "call putconn(conn, close=True) instead of conn.close()",
    ),
    "closing": (
        """
def test_it():
    with contextlib.closing(pool.getconn()):
        pass
""",
        "the connection was closed, not returned, so its slot stays in use; "
        "call putconn(conn, close=True) instead of conn.close()",
    ),
    "broken by the server": (
        """
def test_it():
    conn = pool.getconn()
    with pytest.raises(psycopg2.Error):
        conn.cursor().execute('SELECT pg_terminate_backend(pg_backend_pid())')
""",
        "the connection broke while it was out; a broken one has to be returned, too: call putconn()",
    ),
    "putconn raised": (
        """
def test_it(monkeypatch):
    class Rude(psycopg2.extensions.connection):
        def rollback(self):
            raise OSError('no way\\nback')
    rude = ThreadedConnectionPool(1, 2, os.environ['SUITE_DSN'], connection_factory=Rude)
    conn = rude.getconn()
    conn.cursor().execute('SELECT 1')
    with pytest.raises(OSError):
        rude.putconn(conn)
""",
        "putconn() raised OSError: no way, so the connection kept its slot; "
        "hand in a broken connection with putconn(conn, close=True)",
    ),
    "pool closed while out": (
        """
def test_it():
    conn = pool.getconn()
    pool.closeall()
""",
        "the pool was closed while the connection was out; call putconn() before closeall()",
    ),
    "returned to another pool": (
        """
def test_it():
    conn = pool.getconn()
    with pytest.raises(PoolError):
        other.putconn(conn)
""",
        "it was given to putconn() of another pool; return it to the pool that it came from",
    ),
    "generator not exhausted": (
        """
def rows():
    conn = pool.getconn()
    yield 1
    yield 2
    pool.putconn(conn)

def test_it():
    next(rows())
""",
        f"rows is a generator that was not run to its end, so its putconn() in line {FIRST + 4} was not reached; "
        "put it in a finally block",
    ),
    "context manager whose block raises": (
        """
@contextlib.contextmanager
def lent():
    conn = pool.getconn()
    yield conn
    pool.putconn(conn)

def test_it():
    with pytest.raises(ValueError), lent():
        raise ValueError
""",
        f"lent is a generator that was not run to its end, so its putconn() in line {FIRST + 4} was not reached; "
        "put it in a finally block",
    ),
    "__enter__ that raises": (
        """
class Lent:
    def __enter__(self):
        self.conn = pool.getconn()
        raise ValueError
    def __exit__(self, *args):
        pool.putconn(self.conn)

def test_it():
    with pytest.raises(ValueError), Lent():
        pass
""",
        f"__exit__ did not get to its putconn() in line {FIRST + 5}; "
        "it is not called at all if __enter__ raises after taking the connection",
    ),
    "kept in an attribute": (
        """
class Shop:
    def __init__(self):
        self.conn = pool.getconn()

def test_it():
    Shop()
""",
        f"__init__ keeps it in self.conn, and nothing gave it back{FINALLY}",
    ),
    "kept in an attribute, later": (
        """
class Shop:
    def __init__(self):
        conn = pool.getconn()
        self.conn = conn

def test_it():
    Shop()
""",
        f"__init__ keeps it in self.conn, and nothing gave it back{FINALLY}",
    ),
    "no name for it": (
        """
def test_it():
    cursor = pool.getconn().cursor()
    cursor.execute('SELECT 1')
""",
        f"`…getconn().cursor` keeps no name for the connection; assign it to a variable and{FINALLY[1:]}",
    ),
    "handed out by a fixture": (
        """
@pytest.fixture
def conn():
    return pool.getconn()

def test_it(conn):
    pass
""",
        "conn hands it out and never gave it back; yield it, and call putconn() after the yield",
    ),
    "yielded by a context manager": (
        """
@contextlib.contextmanager
def lent():
    conn = pool.getconn()
    yield conn

def test_it():
    with lent():
        pass
""",
        f"lent yields it and never gave it back{FINALLY} around the yield",
    ),
    "handed out with something else": (
        """
def both():
    conn = pool.getconn()
    return conn, conn.cursor()

def test_it():
    both()
""",
        f"both hands it out, and nothing gave it back{FINALLY} where it is used",
    ),
    "helper that returns it": (
        """
def get():
    conn = pool.getconn()
    return conn

def test_it():
    conn = get()
""",
        f"test_it never gave it back{FINALLY}",
    ),
    "helper of a helper": (
        """
def get():
    return pool.getconn()

def again():
    return get()

def test_it():
    conn = again()
""",
        f"test_it never gave it back{FINALLY}",
    ),
    "helper that may have raised": (
        """
def get():
    conn = pool.getconn()
    conn.autocommit = True
    return conn

def test_it():
    conn = get()
""",
        f"neither get nor test_it gave it back{FINALLY}",
    ),
}


def test_each_cause_is_told(suite):
    assert told_in(suite, CAUSES) == {case: told for case, (_, told) in CAUSES.items()}


NOTHING_PROVEN = {
    "conditional putconn": (
        """
def take(n):
    conn = pool.getconn()
    if n:
        pool.putconn(conn)

def test_it():
    take(0)
""",
        f"take did not reach its putconn() in line {FIRST + 3}; put it in a finally block",
    ),
    "putconn of another connection": (
        """
def test_it():
    a = pool.getconn()
    b = pool.getconn()
    pool.putconn(a)
""",
        f"test_it never gave it back{FINALLY}",
    ),
    "putconn in another function": (
        """
def release(conn, n):
    if n:
        pool.putconn(conn)

def test_it():
    conn = pool.getconn()
    release(conn, 0)
""",
        f"test_it never gave it back{FINALLY}",
    ),
    "a name that is used twice": (
        """
def test_it():
    conn = pool.getconn()
    conn = pool.getconn()
    pool.putconn(conn)
""",
        f"test_it never gave it back{FINALLY}",
    ),
    "a loop that keeps the last one": (
        """
def test_it():
    for _ in range(2):
        conn = pool.getconn()
    pool.putconn(conn)
""",
        f"test_it never gave it back{FINALLY}",
    ),
    "putconn in the branch not taken": (
        """
def take(n):
    if n:
        conn = pool.getconn()
    else:
        conn = None
        pool.putconn(conn)

def test_it():
    take(1)
""",
        f"take never gave it back{FINALLY}",
    ),
    "a way out in the branch not taken": (
        """
def take(n):
    if n:
        conn = pool.getconn()
    else:
        return None
    conn.cursor().execute('nonsense')
    pool.putconn(conn)

def test_it():
    with pytest.raises(psycopg2.Error):
        take(1)
""",
        f"take did not reach its putconn() in line {FIRST + 6}; put it in a finally block",
    ),
    "a raise that is caught": (
        """
def take():
    conn = pool.getconn()
    try:
        raise ValueError
    except ValueError:
        conn.cursor()
    conn.cursor().execute('nonsense')
    pool.putconn(conn)

def test_it():
    with pytest.raises(psycopg2.Error):
        take()
""",
        f"take did not reach its putconn() in line {FIRST + 7}; put it in a finally block",
    ),
    "a return of a nested function": (
        """
def take():
    conn = pool.getconn()
    def one():
        return 1
    conn.cursor().execute('nonsense')
    pool.putconn(conn)

def test_it():
    with pytest.raises(psycopg2.Error):
        take()
""",
        f"take did not reach its putconn() in line {FIRST + 5}; put it in a finally block",
    ),
    "putconn in a nested function": (
        """
def take():
    conn = pool.getconn()
    def back():
        pool.putconn(conn)

def test_it():
    take()
""",
        f"take never gave it back{FINALLY}",
    ),
    "a generator with a conditional putconn": (
        """
def rows(n):
    conn = pool.getconn()
    yield 1
    if n:
        pool.putconn(conn)

def test_it():
    list(rows(0))
""",
        f"rows did not reach its putconn() in line {FIRST + 4}; put it in a finally block",
    ),
    "a generator that raises before it yields": (
        """
def rows():
    conn = pool.getconn()
    conn.cursor().execute('nonsense')
    pool.putconn(conn)
    yield 1

def test_it():
    with pytest.raises(psycopg2.Error):
        list(rows())
""",
        f"rows did not reach its putconn() in line {FIRST + 3}; put it in a finally block",
    ),
    "a name for getconn": (
        """
def test_it():
    get = pool.getconn
    conn = get()
""",
        f"nothing gave it back{FINALLY}",
    ),
    "a lambda": (
        """
get = lambda: pool.getconn()

def test_it():
    conn = get()
""",
        f"this code hands it out, and nothing gave it back{FINALLY} where it is used",
    ),
    "a decorated helper": (
        """
def plain(function):
    @functools.wraps(function)
    def wrapper():
        return function()
    return wrapper

@plain
def get():
    return pool.getconn()

def test_it():
    conn = get()
""",
        f"get hands it out, and nothing gave it back{FINALLY} where it is used",
    ),
    "code without source": (
        """
def test_it():
    exec('def take():\\n    conn = pool.getconn()\\ntake()', globals())
""",
        f"nothing gave it back{FINALLY}",
    ),
    "an own putconn that does nothing": (
        """
class Lazy(ThreadedConnectionPool):
    def putconn(self, *args):
        pass
lazy = Lazy(1, 2, os.environ['SUITE_DSN'])

def test_it():
    conn = lazy.getconn()
    lazy.putconn(conn)
""",
        f"test_it never gave it back{FINALLY}",
    ),
    "a mocked putconn": (
        """
def test_it():
    conn = pool.getconn()
    pool.putconn = print
    pool.putconn(conn)
""",
        f"test_it never gave it back{FINALLY}",
    ),
    "with a connection that ends otherwise": (
        """
class Own(psycopg2.extensions.connection):
    def __exit__(self, *args):
        pass
own = ThreadedConnectionPool(1, 2, os.environ['SUITE_DSN'], connection_factory=Own)

def test_it():
    with own.getconn():
        pass
""",
        f"test_it never gave it back{FINALLY}",
    ),
    "a global": (
        """
conn = None

def take():
    global conn
    conn = pool.getconn()
    if conn:
        return
    pool.putconn(conn)

def test_it():
    global conn
    take()
    conn = None
""",
        f"take keeps it in the global conn, and nothing gave it back{FINALLY}",
    ),
}


def test_what_the_source_does_not_prove_is_not_claimed(suite):
    assert told_in(suite, NOTHING_PROVEN) == {case: told for case, (_, told) in NOTHING_PROVEN.items()}


def test_of_two_calls_on_a_line_the_right_one_is_looked_at(suite):
    run = suite.run(
        HEAD + "def test_it():\n    with pool.getconn() as a: b = other.getconn()\n    pool.putconn(a)\n",
        header="",
    )
    (hint,) = hints(run)
    told = "test_it never" if sys.version_info >= (3, 11) else "nothing"  # 3.10 keeps no columns
    assert hint == f"{told} gave it back{FINALLY}"


def test_a_comprehension_is_not_called_something_else(suite):
    run = suite.run(HEAD + "def test_it():\n    taken = [pool.getconn() for _ in range(2)]\n", header="")
    name = "test_it" if sys.version_info >= (3, 12) else "this code"
    assert hints(run) == [f"{name} never gave it back{FINALLY}"] * 2


def test_the_caller_of_a_helper_is_named_in_the_finding(suite):
    run = suite.run(
        HEAD + "def get():\n    return pool.getconn()\ndef use():\n    conn = get()\ndef test_it():\n    use()\n",
        header="",
    )
    (finding,) = run.findings
    assert finding["acquired"]["function"] == "get"
    assert (finding["called_from"]["function"], finding["called_from"]["text"]) == ("use", "conn = get()")
    assert f"test_suite.py:{FIRST + 2} in use, through get" in run.text


def test_a_helper_without_a_caller_that_is_known_has_none_in_the_finding(suite):
    run = suite.run(HEAD + NOTHING_PROVEN["a decorated helper"][0], header="")
    assert run.findings[0]["called_from"] is None


def test_what_the_hints_advise_repairs_the_leaks(suite):
    suite.run(
        HEAD
        + """
def early(n):
    conn = pool.getconn()
    try:
        if n:
            return n
    finally:
        pool.putconn(conn)

def rows():
    conn = pool.getconn()
    try:
        yield 1
        yield 2
    finally:
        pool.putconn(conn)

def late():
    conn = pool.getconn()
    try:
        conn.cursor().execute("nonsense")
    finally:
        pool.putconn(conn)

class Lent:
    def __enter__(self):
        self.conn = pool.getconn()
        try:
            raise ValueError
        except BaseException:
            pool.putconn(self.conn)
            raise
    def __exit__(self, *args):
        pool.putconn(self.conn)

@pytest.fixture
def conn():
    conn = pool.getconn()
    yield conn
    pool.putconn(conn)

def test_early(): early(1)
def test_rows(): next(rows())
def test_late(): pytest.raises(psycopg2.Error, late)
def test_fixture(conn): pass
def test_enter():
    with pytest.raises(ValueError), Lent():
        pass
def test_with():
    conn = pool.getconn()
    with conn:
        pass
    pool.putconn(conn)
def test_close():
    pool.putconn(pool.getconn(), close=True)
""",
        header="",
    ).assert_silent(passed=7)
