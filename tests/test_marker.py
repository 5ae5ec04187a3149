"""@pytest.mark.pool: limits for the pools of a test, and expected leaks."""

from __future__ import annotations

import pytest

ARGUMENTS = "max, timeout, hold, statement_timeout, idle_in_transaction_timeout, nested, leaks, reason"

BLOCKING = """
class Blocking(ThreadedConnectionPool):
    def __init__(self, minconn, maxconn, *args, **kwargs):
        self.free = threading.BoundedSemaphore(maxconn)
        super().__init__(minconn, maxconn, *args, **kwargs)

    def getconn(self, key=None):
        self.free.acquire()
        try:
            return super().getconn(key)
        except BaseException:
            self.free.release()
            raise

    def putconn(self, *args, **kwargs):
        super().putconn(*args, **kwargs)
        self.free.release()


class Polling(ThreadedConnectionPool):
    def getconn(self, key=None):
        while True:
            try:
                return super().getconn(key)
            except PoolError:
                time.sleep(0.01)
"""


def test_the_marker_is_registered_and_documented(suite):
    text = suite.run("", "--markers").text
    given = ", ".join(f"{name}=None" for name in ARGUMENTS.split(", "))
    assert f"@pytest.mark.pool({given})" in text


@pytest.mark.parametrize("cls", ["SimpleConnectionPool", "ThreadedConnectionPool"])
def test_max_makes_a_pool_smaller_and_gives_its_size_back(suite, cls):
    suite.run(
        f"""
@pytest.fixture(scope="module")
def pool():
    pool = {cls}(5, 5, DSN)
    yield pool
    pool.closeall()

@pytest.mark.pool(max=2)
def test_small(pool):
    taken = [pool.getconn(), pool.getconn()]
    with pytest.raises(PoolError, match="^connection pool exhausted$"):
        pool.getconn()
    pool.putconn(taken.pop())
    taken.append(pool.getconn())
    for conn in taken:
        pool.putconn(conn)

def test_own_size(pool):
    taken = [pool.getconn() for _ in range(5)]
    with pytest.raises(PoolError):
        pool.getconn()
    assert (pool.minconn, pool.maxconn) == (5, 5)
    for conn in taken:
        pool.putconn(conn)
"""
    ).assert_silent(passed=2)


def test_max_makes_a_pool_bigger_and_gives_its_size_back(suite):
    suite.run(
        """
@pytest.fixture(scope="module")
def pool():
    pool = ThreadedConnectionPool(1, 2, DSN)
    yield pool
    pool.closeall()

@pytest.mark.pool(max=4)
def test_big(pool):
    taken = [pool.getconn() for _ in range(4)]
    with pytest.raises(PoolError):
        pool.getconn()
    assert pool.maxconn == 2
    for conn in taken:
        pool.putconn(conn)

def test_own_size(pool):
    taken = [pool.getconn() for _ in range(2)]
    with pytest.raises(PoolError):
        pool.getconn()
    for conn in taken:
        pool.putconn(conn)
"""
    ).assert_silent(passed=2)


def test_max_holds_while_a_wider_fixture_has_more_out(suite):
    suite.run(
        """
@pytest.fixture(scope="module")
def three(pool):
    taken = [pool.getconn() for _ in range(3)]
    yield
    for conn in taken:
        pool.putconn(conn)

@pytest.mark.pool(max=2)
def test_full(three, pool):
    with pytest.raises(PoolError):
        pool.getconn()
"""
    ).assert_silent(passed=1)


def test_max_holds_for_a_pool_that_the_test_makes(suite):
    suite.run(
        """
@pytest.mark.pool(max=1)
def test_it():
    pool = SimpleConnectionPool(1, 5, DSN)
    conn = pool.getconn()
    with pytest.raises(PoolError):
        pool.getconn()
    pool.putconn(conn)
"""
    ).assert_silent(passed=1)


def test_a_known_key_is_given_out_though_the_pool_is_full(suite):
    suite.run(
        """
@pytest.mark.pool(max=1)
def test_it(pool):
    conn = pool.getconn("a")
    assert pool.getconn("a") is conn
    pool.putconn(conn)
"""
    ).assert_silent(passed=1)


@pytest.mark.parametrize("cls", ["Blocking", "Polling"])
def test_timeout_ends_a_wait_with_the_pools_own_error(suite, cls):
    suite.run(
        BLOCKING
        + f"""
@pytest.fixture(scope="module")
def pool():
    pool = {cls}(1, 1, DSN)
    yield pool
    pool.closeall()

@pytest.mark.pool(timeout=0.2)
def test_ends(pool, poolguard):
    conn = pool.getconn()
    begin = time.monotonic()
    with pytest.raises(PoolError, match="^connection pool exhausted$"):
        pool.getconn()
    assert time.monotonic() - begin >= 0.2
    pool.putconn(conn)
    for _ in range(200):  # the call that was given up gives its connection back by itself
        if not pool._used:
            break
        time.sleep(0.01)

def test_its_slots_are_all_there(pool):
    conn = pool.getconn()
    pool.putconn(conn)
    assert getattr(pool, "free", None) is None or pool.free._value == 1
"""
    ).assert_silent(passed=2)


@pytest.mark.parametrize("cls", ["Blocking", "Polling"])
def test_a_connection_that_comes_in_time_is_taken(suite, cls):
    run = suite.run(
        BLOCKING
        + f"""
@pytest.mark.pool(timeout=30)
@pytest.mark.parametrize("returns", [True, False])
def test_it(returns):
    pool = {cls}(1, 1, DSN)
    conn = pool.getconn()
    threading.Timer(0.1, pool.putconn, [conn]).start()
    again = pool.getconn()
    if returns:
        pool.putconn(again)
"""
    )
    run.assert_outcomes(passed=1, failed=1)
    assert run.blamed == ["test_it[False]"]
    # whoever made the call for it, it is this thread's, at this line
    assert run.findings[0]["thread"] == "MainThread"
    own = [place["function"] for place in run.findings[0]["stack"] if place["own"]]
    assert own == ["test_it", "getconn"]


def test_timeout_ends_a_wait_in_another_thread(suite):
    suite.run(
        BLOCKING
        + """
@pytest.mark.pool(timeout=0.1)
def test_it():
    pool = Blocking(1, 1, DSN)
    conn = pool.getconn()
    raised = []
    def work():
        try:
            pool.getconn()
        except PoolError as error:
            raised.append(str(error))
    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    pool.putconn(conn)
    assert raised == ["connection pool exhausted"]
"""
    ).assert_silent(passed=1)


def test_max_makes_a_pool_that_waits_wait_sooner(suite):
    suite.run(
        BLOCKING
        + """
@pytest.mark.pool(max=1, timeout=0.1)
def test_it():
    pool = Blocking(1, 3, DSN)
    conn = pool.getconn()
    with pytest.raises(PoolError):
        pool.getconn()
    pool.putconn(conn)
    assert pool.free._value == 3
"""
    ).assert_silent(passed=1)


def test_psycopg2s_own_pools_never_wait(suite):
    suite.run(
        """
@pytest.mark.pool(max=1, timeout=3600)
def test_it(pool):
    conn = pool.getconn()
    with pytest.raises(PoolError):
        pool.getconn()
    pool.putconn(conn)
"""
    ).assert_silent(passed=1)


HOLD = """
@pytest.mark.pool(hold=0.1)
def test_holds(pool):
    conn = pool.getconn()
    time.sleep(SECONDS)
    pool.putconn(conn)
"""


def test_hold_fails_a_test_that_holds_a_connection_for_longer_though_it_returns_it(suite, processes):
    run = suite.run(HOLD.replace("SECONDS", "0.15"), *processes)
    run.assert_outcomes(failed=1)
    (finding,) = run.findings
    assert (finding["kind"], finding["limit_seconds"]) == ("held_too_long", 0.1)
    assert finding["held_seconds"] >= 0.15
    assert finding["acquired"]["text"] == "conn = pool.getconn()"
    assert "longer than hold=0.1" in run.text
    assert "1 connection held too long" in run.text


def test_hold_is_silent_within_the_limit(suite):
    suite.run(HOLD.replace("SECONDS", "0").replace("hold=0.1", "hold=60")).assert_silent(passed=1)


def test_hold_does_not_ask_wider_fixtures(suite):
    suite.run(
        """
@pytest.fixture(scope="module")
def conn(pool):
    conn = pool.getconn()
    yield conn
    pool.putconn(conn)

@pytest.mark.pool(hold=0.01)
def test_it(conn):
    time.sleep(0.05)
"""
    ).assert_silent(passed=1)


def test_hold_asks_the_tests_own_fixtures(suite):
    run = suite.run(
        """
@pytest.fixture
def conn(pool):
    conn = pool.getconn()
    yield conn
    pool.putconn(conn)

@pytest.mark.pool(hold=0.01)
def test_it(conn):
    time.sleep(0.05)
"""
    )
    run.assert_outcomes(failed=1)


EXPECTED = """
@pytest.mark.pool(leaks={leaks}, reason="known, ticket 7")
def test_it(pool):
    for _ in range({count}):
        pool.getconn()
"""


def test_exactly_as_many_leaks_as_expected_pass(suite, processes):
    run = suite.run(EXPECTED.format(leaks=2, count=2), *processes)
    run.assert_outcomes(passed=1)
    assert run.result.ret == 0
    assert [f["verdict"] for f in run.findings] == ["expected", "expected"]
    assert "2 expected leaks" in run.text


@pytest.mark.parametrize(("count", "did"), [(0, "none did"), (1, "1 did"), (3, "3 did")])
def test_fewer_or_more_leaks_than_expected_fail(suite, count, did):
    run = suite.run(EXPECTED.format(leaks=2, count=count))
    run.assert_outcomes(failed=1)
    assert f"2 connections expected to leak (known, ticket 7), but {did}" in run.text


@pytest.mark.parametrize("count", [0, 1, 3])
def test_any_number_of_leaks_passes_where_any_is_allowed(suite, count):
    run = suite.run(EXPECTED.format(leaks="'any'", count=count))
    run.assert_outcomes(passed=1)
    assert [f["verdict"] for f in run.findings] == ["expected"] * count


def test_expected_leaks_are_reclaimed_too(suite):
    suite.run(
        EXPECTED.format(leaks=10, count=10) + "\ndef test_next(pool):\n    pool.putconn(pool.getconn())\n"
    ).assert_outcomes(passed=2)


def test_a_leak_of_a_wider_fixture_is_not_the_expected_one(suite):
    run = suite.run(
        """
@pytest.fixture(scope="module")
def conn(pool):
    return pool.getconn()

@pytest.mark.pool(leaks=1, reason="ours")
def test_it(pool, conn):
    pool.getconn()
"""
    )
    run.assert_outcomes(failed=1)
    assert {f["owner"]["kind"]: f["verdict"] for f in run.findings} == {"test": "expected", "fixture": "failed"}


def test_the_nearest_marker_wins_for_each_argument(suite):
    suite.run(
        """
pytestmark = pytest.mark.pool(max=1, hold=60)

def out_at_once(pool):
    taken = []
    try:
        while len(taken) < 9:
            taken.append(pool.getconn())
    except PoolError:
        pass
    for conn in taken:
        pool.putconn(conn)
    return len(taken)

def test_module(pool):
    assert out_at_once(pool) == 1

@pytest.mark.pool(max=2)
class TestClass:
    def test_class(self, pool):
        assert out_at_once(pool) == 2

    @pytest.mark.pool(max=3)
    def test_function(self, pool):
        assert out_at_once(pool) == 3

    @pytest.mark.pool(hold=30)
    def test_other_argument(self, pool):
        assert out_at_once(pool) == 2
"""
    ).assert_silent(passed=4)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("maxx=1", "unknown argument 'maxx' (did you mean 'max'?)"),
        ("size=1", f"unknown argument 'size' (there are {ARGUMENTS})"),
        ("10", f"takes keyword arguments only ({ARGUMENTS}), got 10"),
        ("max=0", "max is a number of connections, 1 or more, not 0"),
        ("max=-1", "max is a number of connections, 1 or more, not -1"),
        ("max='2'", "max is a number of connections, 1 or more, not '2'"),
        ("max=True", "max is a number of connections, 1 or more, not True"),
        ("max=None", "max is None: leave it out"),
        ("timeout=0", "timeout is a number of seconds greater than 0, not 0"),
        ("timeout=-2.5", "timeout is a number of seconds greater than 0, not -2.5"),
        ("timeout=float('inf')", "timeout is a number of seconds greater than 0, not inf"),
        ("hold='1s'", "hold is a number of seconds greater than 0, not '1s'"),
        (
            "statement_timeout=-1",
            "statement_timeout is a number of seconds from 0 (no limit) to 2147483, not -1",
        ),
        (
            "idle_in_transaction_timeout=True",
            "idle_in_transaction_timeout is a number of seconds from 0 (no limit) to 2147483, not True",
        ),
        ("leaks=2", "leaks needs a reason: reason='…'"),
        ("leaks='some', reason='x'", "leaks is a number of connections, 1 or more, or 'any', not 'some'"),
        ("leaks=0, reason='x'", "leaks is a number of connections, 1 or more, or 'any', not 0"),
        ("leaks=1, reason=' '", "reason is a text, not ' '"),
        ("reason='x'", "reason goes with leaks, which is not given"),
    ],
)
def test_a_wrong_argument_is_an_error_at_collection_that_names_test_and_argument(suite, arguments, message):
    run = suite.run(f"@pytest.mark.pool({arguments})\ndef test_b(pool):\n    raise AssertionError('it ran')\n")
    run.result.assert_outcomes(errors=1)
    assert f"@pytest.mark.pool on test_suite.py::test_b: {message}" in run.text
    assert "it ran" not in run.text
    assert run.result.ret == 2


def test_a_wrong_argument_is_an_error_at_collection_under_xdist_too(suite):
    run = suite.run("@pytest.mark.pool(maxx=1)\ndef test_b(pool): pass\n", "-n2")
    assert "unknown argument 'maxx' (did you mean 'max'?)" in run.text
    assert run.result.ret != 0


def test_a_wrong_argument_of_a_class_or_module_is_told_for_its_tests(suite):
    run = suite.run(
        "pytestmark = pytest.mark.pool(maxx=1)\nclass TestIt:\n    def test_a(self): pass\ndef test_b(): pass\n"
    )
    # the module's own tests come first, and its collection ends there
    run.result.assert_outcomes(errors=1)
    run = suite.run("@pytest.mark.pool(maxx=1)\nclass TestIt:\n    def test_a(self): pass\n")
    assert "@pytest.mark.pool on test_suite.py::TestIt::test_a: unknown argument 'maxx'" in run.text


def test_a_marker_on_a_fixture_is_told(suite):
    """It would do nothing, and look as if it did. pytest 9 refuses such a marker itself."""
    run = suite.run(
        """
@pytest.fixture
@pytest.mark.pool(max=1)
def conn(pool):
    yield

def test_it(conn): pass
""",
        "-W",
        "ignore",
    )
    assert "Marks cannot be applied to fixtures" in run.text or (
        "@pytest.mark.pool on fixture conn (test_suite.py:" in run.text
    )


def test_a_missed_number_of_leaks_is_told_where_it_fails_nothing(suite, processes):
    run = suite.run(EXPECTED.format(leaks=2, count=0), "--poolguard=warn", *processes)
    run.assert_outcomes(passed=1)
    assert "test_it: 2 connections expected to leak (known, ticket 7), but none did" in run.text
    suite.run(EXPECTED.format(leaks=2, count=2), "--poolguard=warn", *processes).assert_outcomes(passed=1)
