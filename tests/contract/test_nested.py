"""A thread or task that takes a second connection while it holds a first."""

from __future__ import annotations

import pytest

from contract.libraries import where

EXHAUSTIBLE = where(lambda library: library.exhausted)


def two(lib) -> str:
    """A function that holds a connection and takes another one."""
    return f"""
{lib.define} work(pool, meet):
    conn = {lib.take}  # first
    {"await " * lib.is_async}meet()
    first, conn = conn, {lib.take}
    {lib.give}
    conn = first
    {lib.give}
"""


def nobody(lib) -> str:
    return f"{lib.define} nobody(): pass\n"


@EXHAUSTIBLE
@pytest.mark.parametrize("mode", ["fail", "warn", "off"])
def test_who_takes_a_second_one_starves_in_a_pool_of_one(run, lib, mode):
    result = run(
        f"""
{nobody(lib)}
{two(lib)}
{lib.define} test_it(pool):
    {"await " * lib.is_async}work(pool, nobody)

{lib.define} test_one_after_the_other(pool):
    for _ in range(2):
        conn = {lib.take}
        {lib.give}
""",
        f"--poolguard-nested={mode}",
    )
    result.assert_outcomes(passed=2 - (mode == "fail"), failed=int(mode == "fail"))
    told = [(f["kind"], f["starves_at"], f["first_at"]["text"], f["acquired"]["text"]) for f in result.findings]
    one = ("nested", 1, f"conn = {lib.take}  # first", f"first, conn = conn, {lib.take}")
    assert told == ([] if mode == "off" else [one])
    if mode == "fail":
        assert "would starve at pool size ≤ 1" in result.text


@EXHAUSTIBLE
def test_three_who_do_so_at_once_starve_in_a_pool_of_three(run, lib):
    meet = "asyncio.Barrier(3).wait" if lib.is_async else "threading.Barrier(3).wait"
    if lib.is_async:  # asyncio has a barrier since Python 3.11
        meet = """
    there, all_there = [], asyncio.Event()
    async def meet():
        there.append(1)
        if len(there) == 3:
            all_there.set()
        await all_there.wait()
    await asyncio.gather(*[work(pool, meet) for _ in range(3)])
"""
    else:
        meet = """
    meet = threading.Barrier(3).wait
    threads = [threading.Thread(target=work, args=[pool, meet]) for _ in range(3)]
    for thread in threads: thread.start()
    for thread in threads: thread.join()
"""
    result = run(
        f"""
{two(lib)}
@pytest.mark.pool(nested=False)
{lib.define} test_it(pool):
    {meet}

@pytest.mark.pool(nested=True)
{lib.define} test_allowed(pool):
    {meet}
""",
        "--poolguard-nested=warn",
        size=6,
    )
    result.assert_outcomes(failed=1, passed=1)
    assert [(f["kind"], f["starves_at"], f["verdict"]) for f in result.findings] == [("nested", 3, "failed")]
    assert result.findings[0]["nodeid"].endswith("test_it")


@EXHAUSTIBLE
def test_many_that_hold_one_each_do_not_nest(run, lib):
    if lib.is_async:
        crowd = "await asyncio.gather(*[work(pool) for _ in range(5)])"
    else:
        crowd = (
            "threads = [threading.Thread(target=work, args=[pool]) for _ in range(5)]\n    "
            "for thread in threads: thread.start()\n    for thread in threads: thread.join()"
        )
    run(
        f"""
{lib.define} work(pool):
    conn = {lib.take}
    {lib.query}
    {lib.give}

{lib.define} test_it(pool):
    other = pool
    {lib.made(1)}
    mine, pool = pool, other
    conn = {lib.take}
    first, pool = conn, mine
    conn = {lib.take}  # of another pool
    {lib.give}
    {lib.close}
    conn, pool = first, other
    {lib.give}
    {crowd}
""",
        "--poolguard-nested=fail",
        size=6,
    ).assert_silent(passed=1)


@EXHAUSTIBLE
def test_a_second_one_beside_that_of_a_fixture_fails_nothing(run, lib):
    result = run(
        f"""
@pytest.fixture
{lib.define} db(pool):
    conn = {lib.take}
    yield conn
    {lib.give}

{lib.define} test_it(pool, db):
    conn = {lib.take}
    {lib.give}
""",
        "--poolguard-nested=fail",
    )
    result.assert_outcomes(passed=1)
    nested = [(f["kind"], f["verdict"], f["note"]) for f in result.findings]
    # Where fixtures and tests are tasks of their own, they are no single holder.
    one = ("nested", "warned", "the first one is that of fixture db")
    assert nested in ([one], []) if lib.is_async else nested == [one]


@where(lambda library: library.exhausted and not library.in_house)
def test_who_never_gets_the_second_one_is_told(run, lib):
    result = run(
        f"""
@pytest.mark.pool(nested=False)
{lib.define} test_it(pool):
    conn = {lib.take}
    with pytest.raises({lib.exhausted}):
        {lib.take_soon}
    {lib.give}
""",
        size=1,
    )
    result.assert_outcomes(failed=1)
    (finding,) = result.findings
    assert (finding["kind"], finding["starves_at"]) == ("nested", 1)
    assert finding["first_at"]["text"] == f"conn = {lib.take}"
