"""Faults on purpose: which shapes of code leak under which fault, at which line."""

from __future__ import annotations

import contextlib

import pytest

from contract.libraries import where

#: Those whose pools are struck, each kind of pool once.
STRUCK = where(
    lambda library: (
        not library.in_house
        and (library.pool_class.endswith("QueuePool") or library.name != "sqlalchemy")
        and "Null" not in library.pool_class
    )
)


@pytest.fixture(autouse=True)
def coverage_goes_on(monkeypatch):
    """Repeats are kept out of the coverage of the suite; here it is poolguard's own that is measured."""
    monkeypatch.setattr("pytest_poolguard.faults.apart._no_coverage", contextlib.nullcontext)


#: Functions that take a connection in a line that is marked by ``# name``.
SHAPES = """
{define} bare(pool):
    conn = {take}  # bare
    {query}
    {give}

{define} wrong_except(pool):
    conn = {take}  # wrong_except
    try:
        {query}
    except ValueError:
        {give}
        raise
    {give}

{define} some_except(pool):
    conn = {take}  # some_except
    try:
        {query}
    except Exception:
        {give}
        raise
    {give}

{define} second_statement(pool):
    conn = {take}  # second_statement
    try:
        {query}
    except BaseException:
        {give}
        raise
    {query}
    {give}

{define} good_finally(pool):
    conn = {take}  # good_finally
    try:
        {query}
        {query}
    finally:
        {give}

@contextlib.{managed}
{define} lend(pool):
    conn = {take}  # lend
    yield conn
    {give}

@contextlib.{managed}
{define} lend_well(pool):
    conn = {take}  # lend_well
    try:
        yield conn
    finally:
        {give}

{define} borrow(pool):
    {within} lend(pool) as conn:
        {query}
    {within} lend_well(pool) as conn:
        {query}

{define} rows(pool):
    conn = {take}  # rows
    {query}
    yield 1
    {give}

{define} good_rows(pool):
    conn = {take}  # good_rows
    try:
        {query}
        yield 1
    finally:
        {give}

{define} read(pool):
    {each} _ in rows(pool):
        pass

{define} read_well(pool):
    {each} _ in good_rows(pool):
        pass

def with_connection(function):
    @functools.wraps(function)
    {define} wrapper(pool):
        conn = {take}  # with_connection
        {wait}function(conn)
        {give}
    return wrapper

@with_connection
{define} decorated(conn):
    {query}

{define} nested(pool):
    conn = {take}  # outer
    first = conn
    conn = {take}  # inner
    {query}
    {give}
    conn = first
    {give}

{define} good_nested(pool):
    conn = {take}  # good_outer
    first = conn
    try:
        conn = {take}  # good_inner
        try:
            {query}
        finally:
            {give}
    finally:
        conn = first
        {give}

{define} two_pools(pool, other):
    conn = {take}  # one_pool
    first, mine, pool = conn, pool, other
    conn = {take}  # other_pool
    {query}
    {give}
    conn, pool = first, mine
    {give}

{define} retry(pool):
    for _ in range(2):
        conn = {take}  # retry
        try:
            {query}
        except Exception:
            continue
        {give}
        return

{define} good_retry(pool):
    for _ in range(2):
        conn = {take}  # good_retry
        try:
            {query}
            return
        except Exception:
            continue
        finally:
            {give}

{define} early(pool):
    conn = {take}  # early
    try:
        {query}
    except Exception:
        return
    {give}

{define} worker(pool):
    conn = {take}  # worker
    {query}
    {give}

{define} good_worker(pool):
    conn = {take}  # good_worker
    try:
        {query}
    finally:
        {give}

{define} crowd(pool, work):
    {crowd}

@pytest.mark.parametrize("shape", [
    bare, wrong_except, some_except, second_statement, good_finally, borrow, read, read_well, decorated, nested,
    good_nested, retry, good_retry, early,
], ids=lambda shape: shape.__name__)
{define} test_shape(pool, shape):
    {wait}shape(pool)

{define} test_two_pools(pool, other):
    {wait}two_pools(pool, other)

@pytest.mark.parametrize("work", [worker, good_worker], ids=lambda work: work.__name__)
{define} test_crowd(pool, work):
    {wait}crowd(pool, work)

@pytest.fixture(scope="module")
{define} other():
    {make}
    yield pool
    {close}

@pytest.fixture(autouse=True)
def collected():
    yield  # the header's collects garbage after every test: of what that is about, the suite keeps everything

@pytest.mark.pool(faults=False)
{define} test_all_is_as_it_was(pool, other, poolguard):
    assert poolguard.checked_out == 0
    taken = []
    for _ in range(6):
        conn = {take}
        {query}
        taken.append(conn)
    for conn in taken:
        {give}
"""

CROWD = "await asyncio.gather(*[work(pool) for _ in range(2)])"
SYNC_CROWD = """
    with concurrent.futures.ThreadPoolExecutor(2) as executor:
        list(executor.map(work, [pool, pool]))
"""


def source(lib) -> str:
    shapes = SHAPES.format(
        define=lib.define,
        take=lib.take,
        give=lib.give,
        query=lib.query,
        managed="asynccontextmanager" if lib.is_async else "contextmanager",
        within="async with" if lib.is_async else "with",
        each="async for" if lib.is_async else "for",
        wait="await " * lib.is_async,
        crowd=CROWD if lib.is_async else SYNC_CROWD,
        make=lib.made(6),
        close=lib.close,
    )
    return "import concurrent.futures, functools\n" + shapes


def predicted(lib) -> set[tuple[str, str]]:
    """The leaks that a careful reader expects: the name in the line, and the fault."""
    cancel = {"cancel"} if lib.is_async else set()
    # asyncpg and SQLAlchemy free the slot of a connection that they notice to be dead; SQLAlchemy takes one for
    # dead, too, whose statement was cancelled.
    noticed = {"asyncpg": {"kill"}, "sqlalchemy": {"kill", "cancel"}}.get(lib.name, set())
    leaks = {"some_except": cancel - noticed}  # a cancellation is no Exception
    for name in ("bare", "wrong_except", "lend", "rows", "with_connection", "retry", "early", "worker"):
        leaks[name] = ({"error", "kill"} | cancel) - noticed
    leaks["second_statement"] = {"error"}
    leaks["inner"] = leaks["other_pool"] = ({"error", "kill"} | cancel) - noticed
    # Which the inner one's fault leaves.
    leaks["outer"] = leaks["one_pool"] = {"error", "kill", "refuse"} | cancel
    return {(name, fault) for name, faults in leaks.items() for fault in faults}


@STRUCK
def test_every_shape_leaks_where_a_careful_reader_says(run, lib):
    result = run(source(lib), "--poolguard-faults", size=6)
    found = {(f["acquired"]["text"].partition("# ")[2], f["fault"]) for f in result.findings}
    assert found == predicted(lib)
    assert {(f["kind"], f["verdict"]) for f in result.findings} == {("error_path", "failed")}
    errors = {(f["acquired"]["text"], f["fault"]) for f in result.findings}
    assert result.data["struck"]["unsure"] == {}
    assert result.data["struck"]["unfit"] == {}
    assert result.data["struck"]["stuck"] == []
    result.assert_outcomes(passed=18, errors=len({text for text, _ in errors}))
