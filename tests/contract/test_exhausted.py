"""Who has the connections of a pool that refuses one: what every library's report says."""

from __future__ import annotations

import pytest

from contract.libraries import where

EXHAUSTIBLE = where(lambda library: library.exhausted)


def crowd(lib, number: int) -> str:
    """The body of a test, in which ``number`` workers have a connection each, and wait to go."""
    if lib.is_async:
        return f"""
    go = asyncio.Event()
    tasks = [asyncio.create_task(work(pool, go), name=f"worker {{n}}") for n in range({number})]
    for _ in range(10_000):
        if len(go._waiters) == {number}: break
        await asyncio.sleep(0.001)
"""
    return f"""
    go = threading.Barrier({number + 1}, timeout=20)
    tasks = [threading.Thread(target=work, args=[pool, go], name=f"worker {{n}}") for n in range({number})]
    for task in tasks: task.start()
    for _ in range(10_000):
        if go.n_waiting == {number}: break
        time.sleep(0.001)
"""


def joined(lib) -> str:
    """Lets the workers go, and waits for them."""
    if lib.is_async:
        return "go.set(); await asyncio.gather(*tasks)"
    return "go.wait(); [task.join() for task in tasks]"


def work(lib) -> str:
    return f"""
{lib.define} work(pool, go):
    conn = {lib.take}
    {lib.query}
    {"await go.wait()" if lib.is_async else "go.wait()"}
    {lib.give}
"""


@pytest.fixture
def lines(suite):
    """Tells the place of a line of the suite by its text."""

    def place(text: str) -> str:
        source = (suite.path / "test_suite.py").read_text().splitlines()
        return f"test_suite.py:{next(n for n, line in enumerate(source, 1) if text in line)}"

    return place


@EXHAUSTIBLE
def test_a_pool_that_leaks_have_emptied(run, lib, lines, processes):
    """By the test's own thread or task, and by another one that has ended."""
    in_a_thread = "thread = threading.Thread(target=leaks, args=[pool]); thread.start(); thread.join()"
    result = run(
        f"""
{lib.define} leaks(pool):
    conn = {lib.take}  # leaks

{lib.define} test_it(pool):
    {"await " * lib.is_async}leaks(pool)
    {"await asyncio.create_task(leaks(pool))" if lib.is_async else in_a_thread}
    {lib.take_soon}
""",
        *processes,
    )
    result.assert_outcomes(failed=1)
    (refusal,) = result.data["refusals"]
    assert refusal["diagnosis"] == [f"2 of 2 are held by leaks ({lines('# leaks')}), never returned: a leak"]
    assert refusal["capacity"] == (None if lib.in_house else 2)  # of such a pool nobody knows
    assert refusal["nodeid"] == "test_suite.py::test_it"
    assert [holder["state"] for holder in refusal["holders"]] == ["leaked", "leaked"]
    assert {holder["owner"]["name"] for holder in refusal["holders"]} == {"test_it"}
    assert f"({lines('# leaks')}), never returned: a leak" in result.text


@EXHAUSTIBLE
def test_a_pool_that_is_too_small(run, lib, lines):
    result = run(
        f"""
{work(lib)}
{lib.define} test_it(pool):
    {crowd(lib, 2)}
    try:
        {lib.take_soon}
    finally:
        {joined(lib)}
"""
    )
    kind = "task" if lib.is_async else "thread"
    result.assert_outcomes(failed=1)
    assert result.findings == []
    (refusal,) = result.data["refusals"]
    assert refusal["diagnosis"] == [f"2 of 2 are in use by 2 live {kind}s: the pool is too small for this test"]
    assert [holder["state"] for holder in refusal["holders"]] == ["in use", "in use"]
    assert sorted(holder[kind] for holder in refusal["holders"]) == ["worker 0", "worker 1"]
    assert {holder["acquired"]["text"] for holder in refusal["holders"]} == {f"conn = {lib.take}"}
    assert {holder["now"]["text"] for holder in refusal["holders"]} == {"await " * lib.is_async + "go.wait()"}
    assert "2 of 2 are in use by 2 live" in result.text
    assert result.text.count("out for  holder") == 1  # in the note on the exception, and nowhere else


@where(lambda library: library.exhausted and not library.is_async)
def test_blocking_code_in_tasks_that_leaks_or_is_too_much_for_the_pool(run, lib, lines):
    result = run(
        f"""
async def leaks(pool):
    conn = {lib.take}  # leaks

async def test_leaky(pool):
    for _ in range(2):
        await asyncio.create_task(leaks(pool))
    {lib.take_soon}

async def work(pool, go):
    conn = {lib.take}
    {lib.query}
    await go.wait()  # waits
    {lib.give}

async def test_small(pool):
    go = asyncio.Event()
    tasks = [asyncio.create_task(work(pool, go), name=f"worker {{n}}") for n in range(2)]
    await asyncio.sleep(0.1)
    try:
        {lib.take_soon}
    finally:
        go.set()
        await asyncio.gather(*tasks)
""",
        "-oasyncio_mode=auto",
    )
    result.assert_outcomes(failed=2)
    leaky, small = result.data["refusals"]
    assert leaky["diagnosis"] == [f"2 of 2 are held by leaks ({lines('# leaks')}), never returned: a leak"]
    assert small["diagnosis"] == ["2 of 2 are in use by 2 live tasks: the pool is too small for this test"]
    assert sorted(holder["task"] for holder in small["holders"]) == ["worker 0", "worker 1"]
    assert {holder["now"]["text"] for holder in small["holders"]} == {"await go.wait()  # waits"}


@EXHAUSTIBLE
def test_a_leak_in_a_pool_that_others_use(run, lib, lines):
    """Both are said, and the swallowed error fails nothing but is told."""
    result = run(
        f"""
{work(lib)}
{lib.define} leaks(pool):
    conn = {lib.take}  # leaks

{lib.define} test_it(pool):
    {"await " * lib.is_async}leaks(pool)
    {crowd(lib, 2)}
    with pytest.raises({lib.exhausted}):
        {lib.take_soon}
    {joined(lib)}
""",
        size=3,
    )
    kind = "task" if lib.is_async else "thread"
    result.assert_outcomes(failed=1)
    assert result.blamed == ["test_it"]
    (refusal,) = result.data["refusals"]
    assert refusal["diagnosis"] == [
        f"1 of 3 is held by leaks ({lines('# leaks')}), never returned: a leak",
        f"2 of 3 are in use by 2 live {kind}s",
    ]


@EXHAUSTIBLE
def test_who_asks_for_one_more_while_he_holds_all_that_there_are(run, lib):
    result = run(
        f"""
{lib.define} test_it(pool):
    conn = {lib.take}
    with pytest.raises({lib.exhausted}) as caught:
        {lib.take_soon}
    assert "poolguard" not in str(caught.value)
    assert "poolguard" not in str(caught.value.args)
    {lib.give}
""",
        "-rP",
        size=1,
    )
    kind = "task" if lib.is_async else "thread"
    result.assert_silent(passed=1)
    (refusal,) = result.data["refusals"]
    assert refusal["diagnosis"] == [f"1 of 1 is held by the very {kind} that asks for one more"]
    assert refusal["error"] == ("Exhausted" if lib.in_house else lib.exhausted.rpartition(".")[2])
    assert f"1 of 1 is held by the very {kind} that asks for one more" in result.text
    assert "poolguard: a pool refused a connection in 1 test: test_suite.py::test_it" in result.text


@EXHAUSTIBLE
def test_what_a_fixture_holds_of_an_exhausted_pool_is_no_leak(run, lib):
    result = run(
        f"""
@pytest.fixture(scope="module")
{lib.define} db(pool):
    conn = {lib.take}
    yield conn
    {lib.give}

{lib.define} test_it(pool, db):
    with pytest.raises({lib.exhausted}):
        {lib.take_soon}
""",
        size=1,
    )
    result.assert_silent(passed=1)
    assert result.data["refusals"][0]["diagnosis"] == ["1 of 1 is held by fixture db"]


@EXHAUSTIBLE
def test_a_wait_that_a_limit_ends(run, lib):
    result = run(
        f"""
{work(lib)}
@pytest.mark.pool(timeout=0.1)
{lib.define} test_it(pool):
    {crowd(lib, 1)}
    try:
        {lib.take}
    finally:
        {joined(lib)}
""",
        size=1,
    )
    kind = "task" if lib.is_async else "thread"
    result.assert_outcomes(failed=1)
    (refusal,) = result.data["refusals"]
    assert refusal["diagnosis"] == [f"1 of 1 is in use by 1 live {kind}: the pool is too small for this test"]
    assert f"1 of 1 is in use by 1 live {kind}" in result.text


@EXHAUSTIBLE
def test_an_earlier_leak_that_was_not_reclaimed_is_named(run, lib, lines):
    result = run(
        f"""
kept = []

{lib.define} test_leaks(pool):
    kept.append([[[[[{lib.take}]]]]])  # leaks

{lib.define} test_next(pool):
    with pytest.raises({lib.exhausted}):
        {lib.take_soon}
""",
        "--poolguard=warn",
        size=1,
    )
    result.assert_outcomes(passed=2)
    (refusal,) = result.data["refusals"]
    assert refusal["diagnosis"] == [f"1 of 1 is held by test_leaks ({lines('# leaks')}), never returned: a leak"]
    assert refusal["nodeid"] == "test_suite.py::test_next"
