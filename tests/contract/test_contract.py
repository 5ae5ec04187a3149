"""What holds for every library alike. A new one is a line in ``libraries.LIBRARIES``."""

from __future__ import annotations

import importlib.metadata

import pytest

from contract.libraries import LIBRARIES, where


def test_what_is_returned_is_no_leak(run, lib):
    result = run(
        f"""
@pytest.mark.parametrize("number", range(3))
{lib.define} test_it(pool, poolguard, number):
    conn = {lib.take}
    assert (poolguard.checked_out, poolguard.peak) == (1, 1)
    {lib.give}
    assert (poolguard.checked_out, poolguard.peak) == (0, 1)
    conn = {lib.take}
    {lib.give}
"""
    )
    result.assert_silent(passed=3)
    assert ([row["count"] for row in result.data["pools"]], result.data["checkouts"]) == ([1], 6)


def test_a_leak_fails_the_test_that_took_it_and_names_the_line(run, lib):
    result = run(
        f"""
{lib.define} leaks(pool):
    conn = {lib.take}

{lib.define} test_leaks(pool):
    {"await " * lib.is_async}leaks(pool)

{lib.define} test_clean(pool):
    conn = {lib.take}
    {lib.give}
"""
    )
    result.assert_outcomes(passed=1, failed=1)
    (finding,) = result.findings
    assert result.blamed == ["test_leaks"]
    assert result.sites == [f"leaks: conn = {lib.take}"]
    assert finding["library"] == lib.name
    assert finding["pool"]["class"] == lib.pool_class
    assert finding["pool"]["made_at"]["text"] == lib.made(2).splitlines()[0]
    own = [place["function"] for place in finding["stack"] if place["own"]]
    assert own == ["test_leaks", "leaks"]
    assert finding["hint"] == f"leaks never gave it back; {lib.cure}"
    assert (finding["task"] is not None) == lib.is_async


def test_a_connection_that_is_still_there_is_described(run, lib):
    result = run(
        f"""
kept = []

{lib.define} test_leaks(pool):
    conn = {lib.take}
    {lib.query}
    kept.append([[[[[conn]]]]])  # deeper than anybody looks
    print("pid", {lib.pid})
"""
    )
    (finding,) = result.findings
    assert finding["transaction_status"] == lib.status
    assert f"pid {finding['backend_pid']}\n" in result.text
    assert not finding["note"]


def test_a_fixture_that_leaks_is_named(run, lib):
    result = run(
        f"""
@pytest.fixture
{lib.define} returns(pool):
    conn = {lib.take}
    yield conn
    {lib.give}

@pytest.fixture
{lib.define} leaks(pool):
    yield {lib.take}

{lib.define} test_returns(returns): pass
{lib.define} test_leaks(leaks): pass
"""
    )
    result.assert_outcomes(passed=1, failed=1)
    assert [f["owner"]["name"] for f in result.findings] == ["leaks"]
    assert result.blamed == ["test_leaks"]


def test_what_a_wider_fixture_holds_is_no_leak_of_a_test(run, lib):
    run(
        f"""
@pytest.fixture(scope="module")
{lib.define} conn(pool):
    conn = {lib.take}
    yield conn
    {lib.give}

{lib.define} test_one(conn): pass
{lib.define} test_two(conn): pass
"""
    ).assert_silent(passed=2)


def test_a_thread_or_task_that_leaks_is_named(run, lib):
    start = (
        'await asyncio.create_task(work(pool, returns), name="its name")'
        if lib.is_async
        else 'thread = threading.Thread(target=work, args=[pool, returns], name="its name"); '
        "thread.start(); thread.join()"
    )
    result = run(
        f"""
{lib.define} work(pool, returns):
    conn = {lib.take}
    if returns:
        {lib.give}

@pytest.mark.parametrize("returns", [True, False])
{lib.define} test_it(pool, returns):
    {start}
"""
    )
    result.assert_outcomes(passed=1, failed=1)
    assert result.blamed == ["test_it[False]"]
    assert result.sites == [f"work: conn = {lib.take}"]
    assert result.findings[0]["task" if lib.is_async else "thread"] == "its name"


def test_what_is_returned_after_its_pool_was_closed_is_no_leak(run, lib):
    result = run(
        f"""
@pytest.mark.parametrize("returns", [True, False])
{lib.define} test_it(returns):
    {lib.made(2)}
    conn = {lib.take}
    {lib.close}
    if returns:
        with contextlib.suppress(psycopg2.pool.PoolError):  # its own way to say that it is closed
            {lib.give}
"""
    )
    result.assert_outcomes(passed=1, failed=1)
    assert result.blamed == ["test_it[False]"]


@where(lambda library: library.exhausted)
def test_an_exhausted_pool_raises_its_own_error(run, lib):
    run(
        f"""
{lib.define} test_it(pool, poolguard):
    conn = {lib.take}
    with pytest.raises({lib.exhausted}):
        {lib.take_soon}
    assert poolguard.checked_out == 1
    {lib.give}
""",
        size=1,
    ).assert_silent(passed=1)


@where(lambda library: library.exhausted)
def test_max_makes_a_pool_smaller_and_gives_its_size_back(run, lib):
    gives_its_size_back(run, lib, maximum=1)


@where(lambda library: library.exhausted and not library.in_house)
def test_max_makes_a_pool_bigger_and_gives_its_size_back(run, lib):
    gives_its_size_back(run, lib, maximum=4)


def gives_its_size_back(run, lib, maximum):
    run(
        f"""
{lib.define} hands_out(pool, number):
    taken = []
    for _ in range(number):
        taken.append({lib.take})
    with pytest.raises({lib.exhausted}):
        {lib.take_soon}
    for conn in taken:
        {lib.give}

@pytest.mark.pool(max={maximum})
{lib.define} test_limited(pool):
    {"await " * lib.is_async}hands_out(pool, {maximum})

{lib.define} test_own_size(pool):
    {"await " * lib.is_async}hands_out(pool, 2)
"""
    ).assert_silent(passed=2)


@where(lambda library: library.exhausted)
def test_timeout_ends_a_wait(run, lib):
    run(
        f"""
@pytest.mark.pool(timeout=0.2)
@pytest.mark.parametrize("number", [1, 2])
{lib.define} test_it(pool, number):
    conn = {lib.take}
    begin = time.monotonic()
    with pytest.raises({lib.exhausted}):
        {lib.take}
    assert time.monotonic() - begin < 10
    {lib.give}
""",
        size=1,
    ).assert_silent(passed=2)


@where(lambda library: library.exhausted)
def test_timeout_holds_for_a_pool_that_max_keeps_full(run, lib):
    run(
        f"""
@pytest.mark.pool(max=1, timeout=0.2)
{lib.define} test_it(pool):
    conn = {lib.take}
    with pytest.raises({lib.exhausted}):
        {lib.take}
    {lib.give}
    conn = {lib.take}
    {lib.give}
"""
    ).assert_silent(passed=1)


def test_hold_fails_a_test_that_returns_too_late(run, lib):
    result = run(
        f"""
@pytest.mark.pool(hold=0.05)
@pytest.mark.parametrize("seconds", [0, 0.1])
{lib.define} test_it(pool, seconds):
    conn = {lib.take}
    time.sleep(seconds)
    {lib.give}
"""
    )
    result.assert_outcomes(passed=1, failed=1)
    assert [f["kind"] for f in result.findings] == ["held_too_long"]


def test_leaks_that_are_expected_fail_nothing(run, lib):
    result = run(
        f"""
@pytest.mark.pool(leaks=1, reason="known")
@pytest.mark.parametrize("leaks", [True, False])
{lib.define} test_it(pool, leaks):
    conn = {lib.take}
    if not leaks:
        {lib.give}
"""
    )
    result.assert_outcomes(passed=1, failed=1)
    assert [f["verdict"] for f in result.findings] == ["expected"]


def test_after_the_report_the_slot_is_free(run, lib):
    frees_its_slot(run, lib, kept=True, gone=False)


@where(lambda library: not library.in_house)
def test_after_the_report_the_backend_is_gone(run, lib):
    frees_its_slot(run, lib, kept=True)


@where(lambda library: not library.collects and not library.in_house)
def test_what_is_collected_while_it_is_out_is_a_leak_and_its_slot_is_freed(run, lib):
    frees_its_slot(run, lib, kept=False)


def frees_its_slot(run, lib, *, kept, gone=True):
    result = run(
        f"""
kept, pids = [], []

{lib.define} test_leaks(pool):
    conn = {lib.take}
    pids.append({lib.pid})
    if {kept}:
        kept.append([[[[[conn]]]]])  # deeper than anybody looks
    del conn
    gc.collect()

{lib.define} test_next(pool):
    for _ in range(100):
        if not is_on_server(pids[0]) or not {gone}:
            break
        time.sleep(0.01)
    else:
        pytest.fail("the backend is still there")
    conn = {lib.take}
    {lib.give}
""",
        size=1,
    )
    result.assert_outcomes(passed=1, failed=1)
    assert result.blamed == ["test_leaks"]


@where(lambda library: library.exhausted)
def test_a_return_that_comes_after_the_report_disturbs_nobody(run, lib):
    result = run(
        f"""
kept = []

{lib.define} test_leaks(pool):
    kept.append([[[[[{lib.take}]]]]])

{lib.define} test_late(pool):
    conn = kept[0][0][0][0][0][0]
    with contextlib.suppress(psycopg2.pool.PoolError):  # it knows those only that are out
        {lib.give}
    conn = {lib.take}
    with pytest.raises({lib.exhausted}):
        {lib.take_soon}
    {lib.give}
""",
        size=1,
    )
    result.assert_outcomes(passed=1, failed=1)
    assert result.blamed == ["test_leaks"]


@where(lambda library: library.exhausted)
def test_warn_reclaims_nothing(run, lib):
    result = run(
        f"""
kept = []

{lib.define} test_leaks(pool):
    kept.append([[[[[{lib.take}]]]]])

{lib.define} test_next(pool):
    with pytest.raises({lib.exhausted}):
        {lib.take_soon}
""",
        "--poolguard=warn",
        size=1,
    )
    result.assert_outcomes(passed=2)
    assert result.blamed == ["test_leaks"]


def test_a_second_return_is_the_pools_to_refuse(run, lib):
    run(
        f"""
{lib.define} test_it(pool, poolguard):
    conn = {lib.take}
    {lib.give}
    with {lib.refusal}:
        {lib.give}
    assert poolguard.checked_out == 0
"""
    ).assert_silent(passed=1)


@where(lambda library: library.other_pool)
def test_a_return_to_another_pool_is_none(run, lib):
    result = run(
        f"""
@pytest.mark.parametrize("returns", [True, False])
{lib.define} test_it(pool, returns):
    right = pool
    {lib.made(1)}
    wrong, pool = pool, right
    conn = {lib.take}
    pool = wrong
    with {lib.refusal_by_others}:
        {lib.give}
    {lib.close}
    pool = right
    if returns:
        {lib.give}
"""
    )
    result.assert_outcomes(passed=1, failed=1)
    assert result.blamed == ["test_it[False]"]
    assert lib.other_pool in result.findings[0]["hint"]


@pytest.mark.parametrize("closes", [True, False])
def test_a_pool_that_is_never_closed_is_told_with_the_line_that_made_it(run, lib, closes):
    # Of one connection: an AsyncConnectionPool that still grows lets no loop come to its end.
    result = run(
        f"""
kept = []

{lib.define} test_it():
    {lib.made(1)}
    kept.append(pool)
    conn = {lib.take}
    {lib.give}
    if {closes}:
        {lib.close}
"""
    )
    result.assert_outcomes(passed=1)
    told = [(f["kind"], f["verdict"], f["backends"] > 0, f["acquired"]["text"]) for f in result.findings]
    one = ("pool_not_closed", "warned", True, lib.made(1).splitlines()[0])
    assert told == ([] if closes or not lib.keeps else [one])


def test_a_missing_method_is_one_line_with_the_version_and_the_rest_is_watched(suite, lib):
    for name, source in lib.stunted:
        suite.file(name, source)
    rest = next(
        one for one in LIBRARIES if one.name == ("psycopg_pool" if lib.name == "psycopg2" else "psycopg2")
    )
    module = lib.name.partition(":")[0]
    result = suite.run(
        f"""
import {module}

def test_leaks(pool):
    {rest.take}

def test_returns(pool):
    conn = {rest.take}
    {rest.give}
""",
        *lib.arguments,
        "-opythonpath=.",
        header=rest.header(2),
        subprocess=True,
    )
    result.assert_outcomes(failed=1, passed=1)
    assert result.blamed == ["test_leaks"]
    (line,) = [line for line in result.data["notices"] if line.startswith(lib.name)]
    version = {"psycopg2": " 3.0", "sqlalchemy": " 2.0.99"}.get(lib.name, "")
    if not version and not lib.in_house:
        version = f" {importlib.metadata.version(lib.name)}"
    assert line == f"{lib.name}{version} is not watched: {lib.lacks}"
    assert result.text.count(line) == 1
