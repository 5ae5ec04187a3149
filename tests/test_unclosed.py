"""Connections without a pool, and pools themselves, that nobody has closed when their owner is finished."""

from __future__ import annotations

# C extensions, which can't be imported anew for every inner run
import asyncpg  # noqa: F401
import psycopg  # noqa: F401
import pytest

FAIL = ("--poolguard-connections=fail", "--poolguard-open-pools=fail")
#: Without a look at the server, which fails the run for what is left there.
WARN = ("--poolguard-server=off",)

CONNECTION = """
kept = []

def test_opens():
    conn = psycopg2.connect(DSN)
    kept.append(conn)
    CLOSE

def test_other(): pass
"""

POOLS = """
kept = []

def make():
    return ThreadedConnectionPool(2, 5, DSN)

@pytest.fixture(SCOPE)
def pools():
    kept.append([[make()] for _ in range(NUMBER)])
    yield
    CLOSE

def test_uses(pools): pass

def test_other(): pass
"""


def told(run):
    """(kind, verdict, owner, text of the line) of each finding."""
    return [(f["kind"], f["verdict"], f["owner"]["name"], f["acquired"]["text"]) for f in run.findings]


def pools(*, number=1, scope="", close=""):
    return POOLS.replace("NUMBER", str(number)).replace("SCOPE", scope).replace("CLOSE", close)


# connections without a pool


def test_a_connection_that_a_test_never_closed_is_a_warning(suite, processes):
    run = suite.run(CONNECTION.replace("CLOSE", ""), *WARN, *processes)
    assert told(run) == [("not_closed", "warned", "test_opens", "conn = psycopg2.connect(DSN)")]
    run.assert_outcomes(passed=2)
    assert run.result.ret == 0


def test_it_fails_its_test_where_that_is_wanted(suite, processes):
    run = suite.run(CONNECTION.replace("CLOSE", ""), *FAIL, *processes)
    assert told(run) == [("not_closed", "failed", "test_opens", "conn = psycopg2.connect(DSN)")]
    run.assert_outcomes(passed=1, failed=1)
    run.result.stdout.fnmatch_lines(
        [
            "1 connection was never closed",
            "  opened in the test body, by thread MainThread",
            "  backend pid *, idle",
            "  > test_suite.py:*  test_opens  conn = psycopg2.connect(DSN)",
            "  hint: close it at the end of the test",
            "FAILED *::test_opens - poolguard: 1 connection never closed (test*",
        ]
    )


@pytest.mark.parametrize("setting", [FAIL, WARN], ids=["fail", "warn"])
def test_one_that_is_closed_is_silent(suite, setting, processes):
    suite.run(CONNECTION.replace("CLOSE", "conn.close()"), *setting, *processes).assert_silent(passed=2)


def test_off_looks_for_none(suite):
    run = suite.run(CONNECTION.replace("CLOSE", ""), *WARN, "--poolguard-connections=off")
    run.assert_silent(passed=2)


def test_what_the_server_still_lists_at_the_end_is_told_once(suite, processes):
    run = suite.run(CONNECTION.replace("CLOSE", ""), *processes)
    assert [(f["kind"], f["verdict"]) for f in run.findings] == [("server_backend", "failed")]


@pytest.mark.parametrize("close", ["", "conn.close()"])
def test_a_fixture_answers_for_what_it_opened(suite, close):
    run = suite.run(
        f"""
kept = []

@pytest.fixture(scope="module")
def conn():
    conn = psycopg2.connect(DSN)
    kept.append([[[[[conn]]]]])
    yield conn
    {close}

def test_it(conn): pass
""",
        *FAIL,
    )
    if close:
        run.assert_silent(passed=1)
    else:
        assert told(run) == [("not_closed", "failed", "conn", "conn = psycopg2.connect(DSN)")]
        run.assert_outcomes(failed=1)


@pytest.mark.parametrize(
    "test",
    [
        "psycopg2.connect(DSN)",
        "conn = psycopg2.connect(DSN)",
        "with psycopg2.connect(DSN) as conn: pass",
        "class Client: pass\n    a, b = Client(), Client()\n    a.b, b.a, a.conn = b, a, psycopg2.connect(DSN)",
        "conn = psycopg2.connect(DSN)\n    with pytest.raises(ZeroDivisionError) as error: 1 / 0",
    ],
)
@pytest.mark.parametrize("setting", [FAIL, WARN], ids=["fail", "warn"])
def test_what_closes_by_being_collected_is_silent(suite, test, setting):
    suite.run(f"def test_it():\n    {test}\n\ndef test_other(): pass\n", *setting).assert_silent(passed=2)


def test_what_a_test_object_keeps_goes_with_it(suite):
    suite.run(
        """
import unittest

class TestIt(unittest.TestCase):
    def setUp(self):
        self.conn = psycopg2.connect(DSN)

    def test_it(self): pass
""",
        *FAIL,
    ).assert_silent(passed=1)


def test_what_somebody_else_closes_is_silent(suite, processes):
    """A factory's, a wider fixture's, a module's own, and that of a thread that still runs."""
    suite.run(
        """
shared = {}
stop = threading.Event()

@pytest.fixture(scope="module")
def connect():
    opened = []
    def connect():
        opened.append(psycopg2.connect(DSN))
        return opened[-1]
    yield connect
    for conn in opened:
        conn.close()

class Registry:
    conn = None

@pytest.fixture(scope="module")
def registry():
    registry = Registry()
    yield registry
    registry.conn.close()

@pytest.fixture(scope="module", autouse=True)
def thread():
    yield
    stop.set()
    if "conn" in shared:
        shared["conn"].close()

def work(ready):
    conn = psycopg2.connect(DSN)
    ready.set()
    stop.wait()
    conn.close()

def test_factory(connect):
    connect()

def test_registry(registry):
    registry.conn = psycopg2.connect(DSN)

def test_module():
    shared["conn"] = psycopg2.connect(DSN)

def test_thread():
    ready = threading.Event()
    threading.Thread(target=work, args=[ready]).start()
    ready.wait()

def test_last(): pass
""",
        *FAIL,
        *processes,
    ).assert_silent(passed=5)


FAILING = """
kept = []

def test_opens():
    kept.append([[[[[psycopg2.connect(DSN)]]]]])
    WAY_OUT

def test_other(): pass
"""


@pytest.mark.parametrize("way_out", ["assert False", "pytest.skip()", "pytest.xfail()"])
@pytest.mark.parametrize("setting", [FAIL, WARN], ids=["fail", "warn"])
def test_a_test_that_did_not_come_to_its_end_is_not_accused(suite, way_out, setting):
    run = suite.run(FAILING.replace("WAY_OUT", way_out), "--poolguard-server=off", *setting)
    assert run.findings == []


@pytest.mark.parametrize("closes", [True, False])
def test_a_thread_whose_call_failed_has_lost_its_connection(suite, closes):
    """The exception that was logged keeps it until the test is over; nobody else ever could close it."""
    run = suite.run(
        f"""
import logging, queue

jobs = queue.Queue()

def work(job):
    conn = psycopg2.connect(DSN)
    try:
        cursor = conn.cursor()
        cursor.execute(job)
    finally:
        if {closes}:
            conn.close()

def loop():
    while (job := jobs.get()) is not None:
        try:
            work(job)
        except Exception as error:
            logging.exception(error)
        jobs.task_done()
    jobs.task_done()

@pytest.fixture(scope="module", autouse=True)
def worker():
    thread = threading.Thread(target=loop)
    thread.start()
    yield
    jobs.put(None)
    thread.join()

def test_fine():
    jobs.put("SELECT 1")
    jobs.join()

def test_fails():
    jobs.put("SELECT 1 / 0")
    jobs.join()

def test_other(): pass
""",
        *FAIL,
    )
    if closes:
        run.assert_silent(passed=3)
    else:
        assert told(run) == [("not_closed", "failed", "test_fails", "conn = psycopg2.connect(DSN)")]
        run.assert_outcomes(passed=2, failed=1)


def test_what_a_library_opens_for_itself_is_the_librarys(suite):
    """pytest-postgresql's executor, say."""
    suite.file(
        "site-packages/library.py", "import psycopg2\nkept = []\ndef use(dsn): kept.append(psycopg2.connect(dsn))"
    )
    suite.pytester.syspathinsert(suite.path / "site-packages")
    suite.run("import library\ndef test_it(): library.use(DSN)\n", *FAIL, *WARN).assert_silent(passed=1)


@pytest.mark.parametrize(
    ("library", "opened", "closed"),
    [
        ("psycopg", "conn = psycopg.connect(DSN)", "conn.close()"),
        ("psycopg", "conn = await psycopg.AsyncConnection.connect(DSN)", "await conn.close()"),
        ("asyncpg", "conn = await asyncpg.connect(DSN)", "await conn.close()"),
    ],
    ids=["psycopg", "psycopg-async", "asyncpg"],
)
@pytest.mark.parametrize("closes", [True, False])
@pytest.mark.parametrize("setting", [FAIL, WARN], ids=["fail", "warn"])
def test_the_connections_of_every_library_are_looked_at(suite, library, opened, closed, closes, setting):
    run = suite.run(
        f"""
import asyncio, {library}

kept = []

async def opens():
    {opened}
    if {closes}:
        {closed}
    else:
        kept.append(conn)

def test_opens():
    asyncio.run(opens())

def test_other(): pass
""",
        *WARN,
        *setting,
    )
    if closes:
        run.assert_silent(passed=2)
    else:
        verdict = "failed" if setting is FAIL else "warned"
        assert told(run) == [("not_closed", verdict, "test_opens", opened)]
        assert run.findings[0]["library"] == library
        assert run.findings[0]["backend_pid"] > 0
        run.assert_outcomes(**({"passed": 1, "failed": 1} if setting is FAIL else {"passed": 2}))


# pools


def test_a_pool_that_a_test_never_closed_is_a_warning(suite, processes):
    run = suite.run(
        """
kept = []

def test_makes():
    kept.append(ThreadedConnectionPool(3, 5, DSN))
""",
        *processes,
    )
    assert told(run) == [
        ("pool_not_closed", "warned", "test_makes", "kept.append(ThreadedConnectionPool(3, 5, DSN))")
    ]
    assert run.findings[0]["backends"] == 3
    run.assert_outcomes(passed=1)


def test_pools_of_a_fixture_that_are_never_closed_are_a_warning(suite, processes):
    run = suite.run(pools(number=2), *processes)
    assert told(run) == [("pool_not_closed", "warned", "pools", "return ThreadedConnectionPool(2, 5, DSN)")] * 2
    run.assert_outcomes(passed=2)
    assert run.result.ret == 0
    run.result.stdout.fnmatch_lines(
        [
            "=*= poolguard: 2 pools not closed, 1 site, 1 test =*=",
            "fixture pools* (warning only)",
            "2 pools were never closed, which hold 4 connections: ThreadedConnectionPool(2..5) made at *",
            "  made in the set-up of fixture pools (scope function, test_suite.py:*)",
            "  > test_suite.py:*  make  *return ThreadedConnectionPool(2, 5, DSN)",
            "  note: fixture pools made 2 pools to the same server, which held 4 connections at once",
            "  hint: call closeall() at the end of fixture pools, or share one pool",
            " count  tests  made or taken at",
            "     2      1  test_suite.py:* in make  (pool not closed, warning only)",
        ]
    )


def test_they_fail_its_test_where_that_is_wanted(suite, processes):
    run = suite.run(pools(number=2), *FAIL, *processes)
    assert [finding["verdict"] for finding in run.findings] == ["failed", "failed"]
    run.assert_outcomes(passed=1, failed=1)
    assert "test_uses - poolguard: 2 pools never closed (test_" in run.text


@pytest.mark.parametrize("setting", [(), FAIL], ids=["warn", "fail"])
def test_pools_that_are_closed_are_silent(suite, setting, processes):
    close = "[[pool.closeall() for pool in pools] for pools in kept[-1]]"
    suite.run(pools(number=2, close=close), *setting, *processes).assert_silent(passed=2)


def test_off_looks_for_no_pools(suite):
    suite.run(pools(number=2), "--poolguard-open-pools=off").assert_silent(passed=2)


def test_a_pool_without_a_connection_is_silent(suite):
    suite.run(pools(number=2).replace("Pool(2, 5", "Pool(0, 5"), *FAIL).assert_silent(passed=2)


def test_a_pool_that_is_collected_is_silent(suite):
    suite.run("def test_it(): ThreadedConnectionPool(1, 5, DSN)\n", *FAIL).assert_silent(passed=1)


def test_the_pools_of_a_session_fixture_go_with_the_process(suite, processes):
    run = suite.run(pools(number=2, scope='scope="session"'), *FAIL, *processes)
    run.assert_silent(passed=2)
    assert "4 connections idle in 2 pools still open at the end" in run.text


SINGLETON = """
pools = {}

def get_pool(name):
    if name not in pools:
        pools[name] = ThreadedConnectionPool(1, 5, DSN)
    return pools[name]

@pytest.mark.parametrize("name", NAMES)
def test_it(name):
    pool = get_pool(name)
    pool.putconn(pool.getconn())
"""


@pytest.mark.parametrize("setting", [(), FAIL], ids=["warn", "fail"])
def test_one_pool_that_a_module_keeps_is_silent(suite, setting):
    """Made when it is first needed, and there for the whole run."""
    suite.run(SINGLETON.replace("NAMES", '["a", "a", "a"]'), *setting).assert_silent(passed=3)


def test_more_pools_of_one_line_are_told_though_a_module_keeps_them(suite):
    run = suite.run(SINGLETON.replace("NAMES", '["a", "b", "c"]'))
    assert [(f["kind"], f["verdict"]) for f in run.findings] == [("pool_not_closed", "warned")] * 3
    assert run.blamed == ["test_it[a]", "test_it[b]", "test_it[c]"]


def test_a_pool_that_a_wider_fixtures_value_keeps_is_its_own_to_close(suite, processes):
    suite.run(
        """
class Database:
    pool = None

class Application:
    def __init__(self):
        self.extensions = {"database": Database()}

@pytest.fixture(scope="module")
def app():
    app = Application()
    yield app
    app.extensions["database"].pool.closeall()

def test_it(app):
    app.extensions["database"].pool = ThreadedConnectionPool(1, 5, DSN)
""",
        *FAIL,
        *processes,
    ).assert_silent(passed=1)


def test_a_pool_that_is_closed_later_is_silent(suite):
    suite.run(
        """
made = []

@pytest.fixture(scope="module", autouse=True)
def cleanup():
    yield
    for _, _, pool in made:
        pool.closeall()
    made.clear()

@pytest.mark.parametrize("number", range(2))
def test_it(number):
    made.append((1, 2, ThreadedConnectionPool(1, 5, DSN)))

def test_other(): pass
""",
    ).assert_silent(passed=3)
