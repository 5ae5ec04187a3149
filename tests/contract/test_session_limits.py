"""The server's own limits, on the connections that a test takes: what every library does with them."""

from __future__ import annotations

from contract.libraries import where

#: Says all of a session but its two limits, and those.
SUITE = """
ALL = "SELECT string_agg(concat_ws(' ', name, setting, source), ';' ORDER BY name) FROM pg_settings"
LIMITS = (
    "SELECT current_setting('statement_timeout') || ' ' || current_setting('idle_in_transaction_session_timeout')"
)
OURS = "SELECT count(*), string_agg(state, ' ') FROM pg_stat_activity WHERE query LIKE '/* pytest-poolguard */%'"
before = []

def ours():
    with contextlib.closing(psycopg2.connect(DSN)) as conn, conn.cursor() as cursor:
        cursor.execute(OURS)
        return cursor.fetchone()
"""


@where(lambda library: not library.in_house)
def test_limits_of_the_session_hold_while_a_connection_is_out_and_leave_no_trace(run, lib):
    result = run(
        f"""{SUITE}
limited = pytest.mark.pool(statement_timeout=0.2, idle_in_transaction_timeout=60)

{lib.define} look(pool, sql):
    conn = {lib.take}
    try:
        return {lib.value.format(sql="sql")}
    finally:
        {lib.give}

{lib.define} test_its_own(pool):
    before.append({"await " * lib.is_async}look(pool, ALL))
    assert {"await " * lib.is_async}look(pool, LIMITS) == "0 0"

@limited
{lib.define} test_limited(pool):
    assert {"await " * lib.is_async}look(pool, LIMITS) == "200ms 1min"
    conn = {lib.take}
    assert ours() == (1, "idle")
    {lib.give}

@limited
{lib.define} test_slow(pool):
    {"await " * lib.is_async}look(pool, "SELECT CAST(pg_sleep(20) AS text)")  # slow

@pytest.mark.pool(timeout=20)
{lib.define} test_its_own_again(pool):
    assert {"await " * lib.is_async}look(pool, LIMITS) == "0 0"
    assert {"await " * lib.is_async}look(pool, ALL) == before[0]
    conn = {lib.take}
    {lib.give}
    assert ours()[0] == 0
""",
        size=1,
    )
    result.assert_outcomes(passed=3, failed=1)
    assert result.findings == []
    told = (
        "statement_timeout=0.2 of @pytest.mark.pool on test_suite.py::test_slow: the server has ended a statement"
    )
    assert result.text.count(told) == 1
    assert result.data["notices"] == [  # by ours()
        "statement_timeout and idle_in_transaction_timeout do not hold on connections that are opened without "
        "a pool"
    ]
