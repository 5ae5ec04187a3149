"""A checkout belongs to the test or fixture that took it, and is judged when that has finished."""

from __future__ import annotations

import pytest

SCOPES = ["function", "class", "module", "package", "session"]


@pytest.mark.parametrize("scope", SCOPES)
def test_a_fixture_that_holds_a_connection_and_returns_it_is_silent(suite, processes, scope):
    suite.run(
        f"""
@pytest.fixture(scope={scope!r})
def conn():
    pool = SimpleConnectionPool(1, 2, DSN)
    conn = pool.getconn()
    yield conn
    pool.putconn(conn)
    pool.closeall()

class TestIt:
    def test_one(self, conn): pass
    def test_two(self, conn): pass
""",
        *processes,
    ).assert_silent(passed=2)


@pytest.mark.parametrize("scope", SCOPES)
def test_a_fixture_that_leaks_is_named_with_its_scope_and_place(suite, scope):
    suite.file("conftest.py", "")
    run = suite.run(
        f"""
@pytest.fixture(scope={scope!r})
def conn():
    pool = SimpleConnectionPool(1, 2, DSN)
    yield pool.getconn()

class TestIt:
    def test_one(self, conn): pass
"""
    )
    run.assert_outcomes(failed=1)
    owner = run.findings[0]["owner"]
    assert (owner["kind"], owner["name"], owner["scope"]) == ("fixture", "conn", scope)
    assert owner["place"].startswith("test_suite.py:")
    assert f"checked out in the set-up of fixture conn (scope {scope}, test_suite.py:" in run.text


def test_a_wider_fixture_fails_the_last_test_that_used_it(suite):
    run = suite.run(
        """
@pytest.fixture(scope="module")
def conn(pool):
    return pool.getconn()

def test_one(conn): pass
def test_two(conn): pass
def test_three(): pass
"""
    )
    run.assert_outcomes(passed=2, failed=1)
    assert run.blamed == ["test_three"]  # its teardown ends the module's fixtures
    assert run.findings[0]["owner"]["name"] == "conn"


@pytest.mark.parametrize(
    "fixture",
    [
        "@pytest.fixture\ndef conn(pool, request):\n"
        "    conn = pool.getconn()\n    request.addfinalizer(lambda: pool.putconn(conn))\n    return conn\n",
        "@pytest.fixture\ndef conn(pool):\n    conn = pool.getconn()\n    yield conn\n    pool.putconn(conn)\n",
        "@pytest.fixture\ndef inner(pool):\n    conn = pool.getconn()\n    yield conn\n    pool.putconn(conn)\n"
        "@pytest.fixture\ndef conn(request):\n    return request.getfixturevalue('inner')\n",
    ],
    ids=["addfinalizer", "yield", "getfixturevalue"],
)
def test_every_kind_of_fixture_that_returns_is_silent(suite, fixture):
    suite.run(fixture + "def test_it(conn): pass\n").assert_silent(passed=1)


@pytest.mark.parametrize(
    "fixture",
    [
        "@pytest.fixture\ndef conn(pool):\n    return pool.getconn()\n",
        "@pytest.fixture\ndef conn(pool):\n    yield pool.getconn()\n",
        "@pytest.fixture\ndef inner(pool):\n    yield pool.getconn()\n"
        "@pytest.fixture\ndef conn(request):\n    return request.getfixturevalue('inner')\n",
    ],
    ids=["return", "yield", "getfixturevalue"],
)
def test_every_kind_of_fixture_that_leaks_is_blamed(suite, fixture):
    run = suite.run(fixture + "def test_it(conn): pass\n")
    run.assert_outcomes(failed=1)
    assert run.findings[0]["owner"]["name"] == ("inner" if "inner" in fixture else "conn")


def test_getfixturevalue_in_the_test_body_makes_the_fixture_the_owner(suite):
    run = suite.run(
        """
@pytest.fixture
def conn(pool):
    return pool.getconn()

def test_it(request):
    request.getfixturevalue("conn")
"""
    )
    run.assert_outcomes(failed=1)
    assert (run.findings[0]["owner"]["name"], run.findings[0]["phase"]) == ("conn", "setup")


def test_a_factory_fixture_that_returns_in_its_teardown_is_silent(suite, processes):
    suite.run(
        """
@pytest.fixture
def connect(pool):
    taken = []
    def take():
        taken.append(pool.getconn())
        return taken[-1]
    yield take
    for conn in taken:
        pool.putconn(conn)

def test_it(connect):
    connect(), connect()
""",
        *processes,
    ).assert_silent(passed=1)


@pytest.mark.parametrize("scope", ["class", "module", "session"])
def test_a_factory_of_a_wider_fixture_is_not_the_tests_leak(suite, scope):
    source = f"""
@pytest.fixture(scope={scope!r})
def connect():
    pool = SimpleConnectionPool(1, 5, DSN)
    taken = []
    def take():
        taken.append(pool.getconn())
        return taken[-1]
    yield take
    RETURN
    pool.closeall()

class TestIt:
    def test_one(self, connect): connect()
    def test_two(self, connect): connect()
"""
    suite.run(source.replace("RETURN", "[pool.putconn(conn) for conn in taken]")).assert_silent(passed=2)
    run = suite.run(source.replace("RETURN", "pass"))
    assert run.result.ret == 1
    assert run.blamed == ["test_one", "test_two"]


def test_what_the_body_took_and_a_fixtures_teardown_returns_is_silent(suite):
    suite.run(
        """
class Store:
    def open(self, pool):
        self.conn = pool.getconn()

@pytest.fixture
def store(pool):
    store = Store()
    yield store
    pool.putconn(store.conn)

def test_it(store, pool):
    store.open(pool)
"""
    ).assert_silent(passed=1)


XUNIT = """
own = None

def setup_module():
    global own
    own = SimpleConnectionPool(1, 9, DSN)
    own.module_conn = own.getconn()

def teardown_module():
    own.putconn(own.module_conn)
    own.closeall()

class TestXunit:
    @classmethod
    def setup_class(cls): cls.class_conn = own.getconn()
    @classmethod
    def teardown_class(cls): own.putconn(cls.class_conn)
    def setup_method(self): self.conn = own.getconn()
    def teardown_method(self): own.putconn(self.conn)
    def test_one(self): pass
    def test_two(self): pass

import unittest

class TestUnittest(unittest.TestCase):
    @classmethod
    def setUpClass(cls): cls.class_conn = own.getconn()
    @classmethod
    def tearDownClass(cls): own.putconn(cls.class_conn)
    def setUp(self):
        self.conn = own.getconn()
        self.cleaned = own.getconn()
        self.addCleanup(own.putconn, self.cleaned)
    def tearDown(self): own.putconn(self.conn)
    def test_three(self): pass
    def test_four(self): pass
"""


def test_xunit_and_unittest_set_up_that_returns_is_silent(suite, processes):
    suite.run(XUNIT, *processes).assert_silent(passed=4)


@pytest.mark.parametrize(
    ("line", "owner", "blamed"),
    [
        ("def teardown_module():\n    own.putconn(own.module_conn)", "setup_module", ["test_three"]),
        ("def teardown_class(cls): own.putconn(cls.class_conn)", "setup_class", ["test_two"]),
        ("def teardown_method(self): own.putconn(self.conn)", "setup_method", ["test_one", "test_two"]),
        ("def tearDownClass(cls): own.putconn(cls.class_conn)", "setUpClass", ["test_three"]),
        ("def tearDown(self): own.putconn(self.conn)", "test", ["test_four", "test_three"]),
        ("self.addCleanup(own.putconn, self.cleaned)", "test", ["test_four", "test_three"]),
    ],
)
def test_xunit_and_unittest_set_up_that_leaks_is_blamed(suite, line, owner, blamed):
    returning = line.rpartition("own.putconn(")
    broken = returning[0] + "str(" + returning[2] if "addCleanup" not in line else "pass"
    assert line in XUNIT
    run = suite.run(XUNIT.replace(line, broken))
    run.assert_outcomes(failed=len(blamed), passed=4 - len(blamed))
    assert run.blamed == blamed
    owners = {f["owner"]["name"] if f["owner"]["kind"] == "fixture" else "test" for f in run.findings}
    assert owners == {owner}


def test_a_parametrised_fixture_is_judged_for_each_of_its_params(suite, processes):
    run = suite.run(
        """
@pytest.fixture(params=["leaks", "returns"])
def conn(request, pool):
    conn = pool.getconn()
    yield conn
    if request.param == "returns":
        pool.putconn(conn)

def test_it(conn): pass
""",
        *processes,
    )
    run.assert_outcomes(failed=1, passed=1)
    assert run.blamed == ["test_it[leaks]"]


def test_a_wider_fixture_that_ends_in_the_next_tests_set_up_is_not_that_tests_leak(suite):
    """pytest ends a re-parametrised module fixture only when the next param is set up."""
    run = suite.run(
        """
@pytest.fixture(scope="module", params=["leaks", "returns"])
def conn(request, pool):
    conn = pool.getconn()
    yield conn
    if request.param == "returns":
        pool.putconn(conn)

def test_it(conn): pass
"""
    )
    run.assert_outcomes(passed=2, errors=1)
    assert run.result.ret == 1
    assert run.findings[0]["owner"]["name"] == "conn"
    assert run.blamed == ["test_it[leaks]"]


def test_parametrised_tests_are_owners_of_their_own(suite):
    run = suite.run(
        """
@pytest.mark.parametrize("n", range(4))
def test_it(pool, n):
    conn = pool.getconn()
    if n % 2:
        pool.putconn(conn)
"""
    )
    run.assert_outcomes(failed=2, passed=2)
    assert run.blamed == ["test_it[0]", "test_it[2]"]


def test_a_fixture_that_takes_in_its_teardown_is_named_with_that_phase(suite):
    run = suite.run(
        """
@pytest.fixture
def conn(pool):
    conn = pool.getconn()
    yield conn
    pool.putconn(conn)
    pool.getconn()

def test_it(conn): pass
"""
    )
    run.assert_outcomes(failed=1)
    assert run.findings[0]["phase"] == "teardown"
    assert "in the teardown of fixture conn" in run.text


def test_a_fixture_whose_set_up_fails_after_it_took_a_connection_leaks(suite):
    run = suite.run(
        """
@pytest.fixture
def conn(pool):
    conn = pool.getconn()
    raise RuntimeError
    yield conn

def test_it(conn): pass
"""
    )
    run.assert_outcomes(errors=1)
    assert run.findings[0]["owner"]["name"] == "conn"


def test_a_teardown_that_raises_before_it_returns_leaks(suite):
    run = suite.run(
        """
@pytest.fixture
def conn(pool):
    conn = pool.getconn()
    yield conn
    raise RuntimeError("teardown")

def test_it(conn): pass
"""
    )
    run.assert_outcomes(failed=1, errors=1)
    assert run.findings[0]["owner"]["name"] == "conn"


def test_what_an_import_takes_is_judged_at_the_end_of_the_session(suite, processes):
    source = """
own = SimpleConnectionPool(1, 2, DSN)
conn = own.getconn()
def test_one(): pass
def test_two(): RETURN
"""
    run = suite.run(source.replace("RETURN", "pass"), *processes)
    run.assert_outcomes(passed=2, errors=1)
    assert run.result.ret == 1
    assert {f["owner"]["kind"] for f in run.findings} == {"session"}
    assert "outside any test" in run.text
    suite.run(source.replace("RETURN", "own.putconn(conn)")).assert_silent(passed=2)


def test_a_live_thread_is_waited_for(suite):
    suite.run(
        """
def test_it(pool):
    def work():
        conn = pool.getconn()
        started.set()
        time.sleep(0.3)
        pool.putconn(conn)
    started = threading.Event()
    threading.Thread(target=work).start()
    started.wait()
"""
    ).assert_silent(passed=1)


def test_grace_bounds_the_wait_and_the_thread_is_named(suite):
    run = suite.run(
        """
stop = threading.Event()

@pytest.fixture(autouse=True, scope="module")
def end():
    yield
    stop.set()

def work(pool, started):
    conn = pool.getconn()
    started.set()
    stop.wait()

def test_leaks(pool):
    started = threading.Event()
    threading.Thread(target=work, args=[pool, started], name="holder").start()
    started.wait()

def test_fast():
    pass
""",
        "--poolguard-grace=0.1",
    )
    run.assert_outcomes(failed=1, passed=1)
    (finding,) = run.findings
    assert finding["thread"] == "holder"
    assert finding["thread_place"]["text"] == "stop.wait()"
    assert "that thread still runs, now at test_suite.py:" in run.text


def test_a_connection_handed_to_another_thread_is_waited_for(suite):
    suite.run(
        """
def test_it(pool):
    def give_back(conn):
        time.sleep(0.2)
        pool.putconn(conn)
    threading.Thread(target=give_back, args=[pool.getconn()]).start()
"""
    ).assert_silent(passed=1)


def test_a_single_threaded_leak_is_reported_without_a_wait(suite):
    """A grace of an hour would not let this test end."""
    run = suite.run("def test_leaks(pool):\n    conn = pool.getconn()\n", "--poolguard-grace=3600")
    run.assert_outcomes(failed=1)


def test_a_leak_that_nobody_refers_to_is_not_waited_for_in_spite_of_other_threads(suite):
    run = suite.run(
        """
@pytest.fixture
def busy():
    stop = threading.Event()
    thread = threading.Thread(target=stop.wait)
    thread.start()
    yield
    stop.set()
    thread.join()

def test_leaks(pool, busy):
    conn = pool.getconn()
""",
        "--poolguard-grace=3600",
    )
    run.assert_outcomes(failed=1)


def test_a_thread_that_has_ended_is_not_waited_for(suite):
    run = suite.run(
        """
def work(pool):
    pool.getconn()

def test_leaks(pool):
    thread = threading.Thread(target=work, args=[pool], name="gone")
    thread.start()
    thread.join()
""",
        "--poolguard-grace=3600",
    )
    run.assert_outcomes(failed=1)
    assert run.findings[0]["thread"] == "gone"
