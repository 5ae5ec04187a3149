"""A finding travels as plain data, is recognised after edits, and does to its test what the mode says."""

from __future__ import annotations

import json
from dataclasses import replace
from types import SimpleNamespace

import pytest

from pytest_poolguard.books.origin import Place
from pytest_poolguard.findings import Finding, headline
from pytest_poolguard.judging.verdict import decide
from pytest_poolguard.marker import Expectations
from pytest_poolguard.tally import ATTRIBUTE, Tally

SITE = Place("shop/users.py", 8, "get_user", "conn = pool.getconn()")
CALLER = Place("tests/test_users.py", 31, "test_profile", "profile = load_profile(7)")
LIBRARY = Place("/lib/x.py", 1, "call", "", own=False)


def leak(**changes) -> Finding:
    given = {
        "pool": "ThreadedConnectionPool(1..10)",
        "owner_kind": "test",
        "owner_name": "test_profile",
        "nodeid": "tests/test_users.py::test_profile",
        "phase": "body",
        "acquired": SITE,
        "stack": [CALLER, LIBRARY, SITE],
    }
    return Finding("checked_out", "psycopg2", **(given | changes))


FULL = leak(
    pool_made=Place("shop/db.py", 9, "<module>", "pool = …"),
    pool_first_used=True,
    called_from=CALLER,
    closed_at=SITE,
    thread="w-1",
    thread_place=SITE,
    held_seconds=0.5,
    backend_pid=4242,
    transaction_status="idle",
    server={"state": "idle", "statement": "SELECT ?"},
    hint="a hint",
    note="a note",
    limit_seconds=2.0,
    worker="gw0",
    verdict="warned",
    owner_scope="function",
    owner_place="tests/conftest.py:3",
)


@pytest.mark.parametrize("finding", [leak(), FULL], ids=["plain", "full"])
def test_a_finding_survives_its_dict_form_and_json(finding):
    plain = json.loads(json.dumps(finding.to_dict()))
    assert Finding.from_dict(plain) == finding
    assert finding.to_dict() == plain


def test_the_dict_form_names_pool_and_owner():
    plain = FULL.to_dict()
    assert plain["pool"] == {
        "class": "ThreadedConnectionPool",
        "name": "ThreadedConnectionPool(1..10)",
        "made_at": {
            "file": "shop/db.py",
            "line": 9,
            "function": "<module>",
            "text": "pool = …",
            "own": True,
            "qualified": "",
            "nth": 1,
        },
        "first_used": True,
    }
    assert plain["owner"] == {
        "kind": "test",
        "name": "test_profile",
        "scope": "function",
        "place": "tests/conftest.py:3",
    }


def test_the_fingerprint_stays_when_lines_shift_and_runs_differ():
    moved = replace(
        FULL,
        acquired=replace(SITE, line=80),
        called_from=replace(CALLER, line=1),
        worker="gw1",
        backend_pid=1,
        nodeid="another::test",
        stack=[],
    )
    assert moved.fingerprint == FULL.fingerprint
    assert len(FULL.fingerprint) == 16


@pytest.mark.parametrize(
    "changed",
    [
        replace(FULL, kind="held_too_long"),
        replace(FULL, library="asyncpg"),
        replace(FULL, acquired=replace(SITE, file="shop/orders.py")),
        replace(FULL, acquired=replace(SITE, function="get_order")),
        replace(FULL, acquired=replace(SITE, text="conn = take()")),
        replace(FULL, acquired=replace(SITE, qualified="Users.get_user")),
        replace(FULL, acquired=replace(SITE, nth=2)),
        replace(FULL, called_from=None),
        replace(FULL, acquired=None),
    ],
)
def test_the_fingerprint_of_another_leak_is_another(changed):
    assert changed.fingerprint != FULL.fingerprint


def test_the_fingerprint_stays_when_the_name_of_the_connection_changes():
    renamed = replace(FULL, acquired=replace(SITE, text="self.connection = pool.getconn()  # ours"))
    assert renamed.fingerprint == FULL.fingerprint


@pytest.mark.parametrize(
    "file",
    ["src/shop/users.py", "/ci/env/lib/python3.12/site-packages/shop/users.py", "D:\\a\\src\\shop\\users.py"],
)
def test_the_fingerprint_is_that_of_the_package_wherever_it_is_installed(file):
    assert replace(FULL, acquired=replace(SITE, file=file)).fingerprint == FULL.fingerprint


def test_a_child_process_is_known_by_its_test_not_by_its_worker():
    crashed = "worker gw0, which crashed, or a child process of it"
    child = replace(leak(), kind="server_backend", acquired=None, opened_by=crashed)
    other = replace(child, opened_by="a child process of this run", nodeid=f"{child.nodeid}[2]")
    assert child.fingerprint == other.fingerprint
    assert child.fingerprint != replace(child, nodeid="tests/test_a.py::test_it").fingerprint


def test_a_site_is_the_line_or_the_helpers_caller():
    assert leak().site == "shop/users.py:8 in get_user"
    assert FULL.site == "tests/test_users.py:31 in test_profile, through get_user"
    assert leak(acquired=None).site == "an unknown place"


@pytest.mark.parametrize(
    ("findings", "told"),
    [
        ([leak()], "1 connection never returned (shop/users.py:8 in get_user)"),
        ([leak(), leak()], "2 connections never returned (shop/users.py:8 in get_user)"),
        ([leak(), FULL], "2 connections never returned (shop/users.py:8 in get_user and 1 more)"),
        ([replace(leak(), kind="held_too_long")], "1 connection held too long (shop/users.py:8 in get_user)"),
        (
            [leak(), replace(leak(), kind="held_too_long")],
            "1 connection never returned, 1 held too long (shop/users.py:8 in get_user)",
        ),
    ],
)
def test_the_headline_counts(findings, told):
    assert headline(findings) == f"poolguard: {told}"


# verdicts


@pytest.mark.parametrize(
    ("mode", "may_fail", "verdict", "fails"),
    [
        ("fail", True, "failed", True),
        ("fail", False, "warned", False),
        ("warn", True, "warned", False),
        ("warn", False, "warned", False),
    ],
)
@pytest.mark.parametrize("kind", ["checked_out", "held_too_long"])
def test_a_finding_fails_a_test_that_may_fail_in_mode_fail(kind, mode, may_fail, verdict, fails):
    decided = decide([replace(leak(), kind=kind)], Expectations(), mode=mode, may_fail=may_fail)
    assert [finding.verdict for finding in decided.findings] == [verdict]
    assert (decided.fails, decided.unmet) == (fails, "")


@pytest.mark.parametrize(
    ("expected", "leaks", "verdicts", "unmet"),
    [
        (2, 2, ["expected"] * 2, ""),
        ("any", 0, [], ""),
        ("any", 3, ["expected"] * 3, ""),
        (1, 0, [], "1 connection expected to leak (why), but none did"),
        (1, 2, ["failed"] * 2, "1 connection expected to leak (why), but 2 did"),
        (3, 1, ["failed"], "3 connections expected to leak (why), but 1 did"),
    ],
)
def test_expected_leaks_are_strict(expected, leaks, verdicts, unmet):
    decided = decide(
        [leak() for _ in range(leaks)], Expectations(leaks=expected, reason="why"), mode="fail", may_fail=True
    )
    assert [finding.verdict for finding in decided.findings] == verdicts
    assert decided.unmet == unmet
    assert decided.fails is bool(unmet)
    if unmet:
        assert decided.headline == f"poolguard: {unmet}"


@pytest.mark.parametrize(("mode", "may_fail"), [("warn", True), ("fail", False)])
def test_a_missed_expectation_fails_only_what_may_fail(mode, may_fail):
    decided = decide([], Expectations(leaks=1, reason="why"), mode=mode, may_fail=may_fail)
    assert not decided.fails


@pytest.mark.parametrize(
    "other", [leak(owner_kind="fixture", owner_scope="module"), replace(leak(), kind="held_too_long")]
)
def test_only_the_tests_own_leaks_are_expected(other):
    decided = decide([leak(), other], Expectations(leaks=1, reason="why"), mode="fail", may_fail=True)
    assert [finding.verdict for finding in decided.findings] == ["expected", "failed"]
    assert decided.fails
    assert decided.headline == headline([other])


def test_what_is_a_warning_only_fails_nothing():
    assert not decide([replace(leak(), verdict="warned")], Expectations(), mode="fail", may_fail=True).fails


def passing(verdict):
    def tolerate(finding):
        finding.verdict = verdict

    return tolerate


@pytest.mark.parametrize("verdict", ["known", "ignored"])
@pytest.mark.parametrize("mode", ["fail", "warn"])
def test_what_is_tolerated_fails_nothing_and_is_called_so(verdict, mode):
    decided = decide([leak()], Expectations(), mode=mode, may_fail=True, tolerate=passing(verdict))
    assert [finding.verdict for finding in decided.findings] == [verdict]
    assert not decided.fails


@pytest.mark.parametrize(("expected", "verdicts"), [(2, ["expected", "expected"]), (1, ["known", "expected"])])
def test_a_marker_may_count_what_is_known_or_leave_it_out(expected, verdicts):
    findings = [leak(), leak(acquired=CALLER)]
    decided = decide(
        findings,
        Expectations(leaks=expected, reason="why"),
        mode="fail",
        may_fail=True,
        tolerate=lambda finding: passing("known")(finding) if finding.acquired == SITE else None,
    )
    assert [finding.verdict for finding in decided.findings] == verdicts
    assert not decided.fails


def test_the_failure_is_at_the_first_line_that_fails():
    full = replace(FULL, verdict="failed")
    decided = decide([leak(), full], Expectations(), mode="fail", may_fail=True)
    assert decided.place == SITE
    assert decide([full], Expectations(), mode="fail", may_fail=True).place == CALLER
    assert decide([], Expectations(), mode="fail", may_fail=True).place is None


def test_a_reason_can_not_drive_a_terminal():
    decided = decide([], Expectations(leaks=1, reason="\x1b[31m"), mode="fail", may_fail=True)
    assert "\x1b" not in decided.unmet


# the tally


def is_plain(value: object) -> bool:
    if isinstance(value, dict):
        return all(type(key) is str and is_plain(one) for key, one in value.items())
    if isinstance(value, list):
        return all(is_plain(one) for one in value)
    return value is None or type(value) in (str, int, float, bool)


def test_what_a_report_carries_is_plain_data_and_arrives():
    report, tally = SimpleNamespace(), Tally()
    tally.carry(report, [leak(), FULL], told=True)
    assert is_plain(getattr(report, ATTRIBUTE))
    tally.add_report(report)
    assert (tally.findings, tally.outside) == ([leak(), FULL], [])
    assert tally.untold == [FULL]  # a failure shows what fails the test, and no warning


def test_what_no_failure_has_told_is_left_to_tell():
    report, tally = SimpleNamespace(), Tally()
    tally.carry(report, [FULL], told=False)
    tally.add_report(report)
    tally.add_report(SimpleNamespace())  # another plugin's, or a test without findings
    assert tally.findings == tally.untold == [FULL]
    assert not tally.fails_the_run


def full_tally() -> Tally:
    return Tally(
        pools=2,
        taken=9,
        patched=["psycopg2 2.9"],
        unwatched=["asyncpg 9 is not watched"],
        open_pools=[(SITE, 3), (None, 1)],
        notices=["a notice"],
        faults=["a fault"],
    )


def test_what_a_worker_says_is_plain_data_as_execnet_wants_it():
    tally = full_tally()
    tally.add_outside([FULL])
    assert is_plain(tally.to_worker_output())


def test_what_workers_say_is_added_up_and_said_once():
    worker, controller = full_tally(), Tally()
    worker.add_outside([leak()])
    for name in ("gw0", "gw1"):
        controller.add_worker(name, worker.to_worker_output())
    assert (controller.pools, controller.taken) == (4, 18)
    assert controller.open_pools == [(SITE, 3), (None, 1)] * 2
    assert controller.findings == controller.untold == controller.outside == [leak(), leak()]
    assert controller.fails_the_run
    for told in ("patched", "unwatched", "notices", "faults"):
        assert getattr(controller, told) == getattr(worker, told)


def test_a_worker_that_crashed_is_told():
    tally = Tally()
    tally.add_worker("gw0", None)
    assert tally.notices == ["worker gw0 ended without a word: what it left checked out is not judged"]


def test_only_what_fails_fails_the_run():
    tally = Tally()
    tally.add_outside([replace(leak(), verdict="warned")])
    assert not tally.fails_the_run
