"""Bad days, for every library alike: no exception escapes, no slot is lost by our doing, the count is exact."""

from __future__ import annotations

from collections.abc import Callable

# C extensions, which can't be imported anew for every inner run
import psycopg  # noqa: F401
import psycopg_pool  # noqa: F401
import pytest

from contract.libraries import LIBRARIES, Library

#: Cuts a connection's line to its server, from the server's end: a socket that is dead.
CUT = """
def cut(pid):
    with contextlib.closing(psycopg2.connect(DSN)) as conn, conn.cursor() as cursor:
        conn.autocommit = True
        cursor.execute("SELECT pg_terminate_backend(%s)", [pid])
    for _ in range(400):
        if not is_on_server(pid):
            return
        time.sleep(0.01)
"""


@pytest.fixture(params=LIBRARIES, ids=lambda library: f"{library.name}-{library.pool_class}")
def lib(request) -> Library:
    return request.param


@pytest.fixture
def run(suite, lib) -> Callable:
    """Run a suite that has a module-scoped ``pool`` of 2."""

    # Python 3.11 breaks where greenlets are collected while it parses (python/cpython#106905): not this process.
    has_greenlets = lib.is_async and lib.collects

    def run(source: str, *args: str, size: int = 2, subprocess: bool = has_greenlets):
        return suite.run(source, *lib.arguments, *args, header=lib.header(size) + CUT, subprocess=subprocess)

    return run


def test_a_connection_whose_socket_is_dead_is_judged_like_any_other(run, lib):
    """A leak of it is told and its slot is free again; what the pool makes of its return is the pool's."""
    result = run(
        f"""
kept = []

{lib.define} test_leaks(pool):
    conn = {lib.take}
    cut({lib.pid})
    kept.append([[[[[conn]]]]])  # deeper than anybody looks

{lib.define} test_returns(pool):
    conn = {lib.take}
    cut({lib.pid})
    with contextlib.suppress(Exception):
        {lib.give}

{lib.define} test_next(pool):
    for _ in range(3):
        with contextlib.suppress(Exception):  # one that died while it lay in the pool
            conn = {lib.take}
            {lib.give}
    conn = {lib.take}
    {lib.give}
""",
        size=1,
    )
    assert result.data["faults"] == []
    assert "test_leaks" in result.blamed
    assert set(result.blamed) <= {"test_leaks", "test_returns"}  # where the pool's own return raised, and kept it
    result.result.assert_outcomes(passed=3 - len(result.blamed), failed=len(result.blamed))


def test_a_loop_that_is_closed_when_its_leak_is_reclaimed(run, lib):
    if not lib.is_async:
        pytest.skip("it needs no loop")
    result = run(
        f"""
kept = []

def test_leaks():
    async def main():
        {lib.made(1).replace(chr(10), chr(10) + "    ")}
        conn = {lib.take}
        print("pid", {lib.pid})
        kept.append([[[[[conn, pool]]]]])
    asyncio.run(main())

def test_next(): pass
""",
        "--poolguard-open-pools=off",
    )
    result.assert_outcomes(passed=1, failed=1)
    assert result.blamed == ["test_leaks"]


def test_a_pool_that_atexit_closes(run, lib):
    if lib.is_async:
        pytest.skip("atexit runs no loop")
    result = run(
        f"""
import atexit

{lib.made(2).replace(chr(10) + "    ", chr(10))}
own = pool

@atexit.register
def close(pool=own):
    {lib.close}

{lib.define} test_returns():
    pool = own
    conn = {lib.take}
    {lib.give}

{lib.define} test_leaks():
    pool = own
    conn = {lib.take}
    test_leaks.kept = [[[[[conn]]]]]
""",
        subprocess=True,
    )
    result.assert_outcomes(passed=1, failed=1)
    assert result.blamed == ["test_leaks"]
    assert "Traceback" not in result.result.stderr.str()


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_a_fork_between_a_checkout_and_its_return(run, lib):
    """The child takes nothing of its parent's with it."""
    result = run(
        f"""
@pytest.mark.parametrize("returns", [True, False])
{lib.define} test_it(pool, poolguard, returns):
    conn = {lib.take}
    child = os.fork()
    if not child:
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0
    assert poolguard.checked_out == 1
    {lib.query}
    if returns:
        {lib.give}
""",
        "-Wignore:.*fork:DeprecationWarning",
        subprocess=True,
    )
    result.assert_outcomes(passed=1, failed=1)
    assert result.blamed == ["test_it[False]"]


def test_many_that_take_and_give_back_at_once_are_counted_exactly(run, lib):
    if lib.is_async:
        crowd = "await asyncio.gather(*[work(pool) for _ in range(200)])"
    else:
        crowd = (
            "threads = [threading.Thread(target=work, args=[pool]) for _ in range(200)]\n    "
            "for thread in threads: thread.start()\n    for thread in threads: thread.join()"
        )
    result = run(
        f"""
limit = {"asyncio" if lib.is_async else "threading"}.Semaphore(3)  # a pool that does not wait raises
taken = []

{lib.define} work(pool):
    for _ in range(2):
        {"async " * lib.is_async}with limit:
            conn = {lib.take}
            taken.append(1)
            {lib.give}

{lib.define} test_it(pool, poolguard):
    {crowd}
    assert len(taken) == 400
    assert poolguard.checked_out == 0
    assert 1 <= poolguard.peak <= 3

{lib.define} test_every_slot_is_there(pool):
    held = []
    for _ in range(3):
        conn = {lib.take}
        held.append(conn)
    for conn in held:
        {lib.give}
""",
        size=3,
    )
    result.assert_silent(passed=2)
    assert result.data["checkouts"] == 400 + 3
