"""Findings in pytest's JUnit file, valid by the schema of either family."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET

import pytest

SUITE = """
def take(pool):
    return pool.getconn()

def test_fails(pool):
    for _ in range(2):
        take(pool)
    pool.getconn()

def test_clean(pool, record_testsuite_property):
    record_testsuite_property("own", "1")
    pool.putconn(pool.getconn())

def test_fails_twice(pool):
    pool.getconn()
    assert 0

def test_skips(pool):
    pool.getconn()
    pytest.skip("later")

@pytest.mark.pool(leaks=1, reason="later")
@pytest.mark.parametrize("text", ["<&\\x01"])
def test_expected(pool, text):
    pool.getconn()

@pytest.fixture
def broken(pool):
    yield
    pool.getconn()
    raise ValueError("teardown")

def test_breaks_in_teardown(broken):
    pass
"""
#: What the elements of junit-10.xsd, the schema of xunit2, have: their attributes and children.
ELEMENTS = {
    "testsuites": ("name time tests failures errors", "testsuite"),
    "testsuite": (
        "name tests failures errors group time skipped timestamp hostname id package file log url",
        "testsuite properties testcase system-out system-err",
    ),
    "properties": ("", "property"),
    "property": ("name value", ""),
    "testcase": (
        "name time classname group",
        "skipped error failure rerunFailure rerunError flakyFailure flakyError system-out system-err",
    ),
    **dict.fromkeys(("failure", "error", "skipped"), ("type message", "")),
    **dict.fromkeys(("system-out", "system-err"), ("", "")),
}
#: What xunit1 has besides.
MORE = {"testcase": ("file line url", "properties")}


def errors(root: ET.Element, more: dict[str, tuple[str, str]]) -> list[str]:
    """What a schema does not allow."""
    found = []
    for element in root.iter():
        attributes, children = (
            f"{known} {also}".split()
            for known, also in zip(ELEMENTS[element.tag], more.get(element.tag, ("", "")), strict=True)
        )
        found += [f"{element.tag} has an attribute {name}" for name in element.attrib if name not in attributes]
        found += [f"{element.tag} has a {child.tag}" for child in element if child.tag not in children]
    return found


def told(parent: ET.Element | None) -> list[tuple[str, str]]:
    """Our properties, without line numbers."""
    found = [] if parent is None else parent.findall("./properties/property")
    own = [one for one in found if one.get("name", "").startswith("poolguard.")]
    return [(one.get("name", ""), re.sub(r"test_suite\.py:\d+", "LINE", one.get("value", ""))) for one in own]


ONE = "1 connection never returned"
EXPECTED = {
    "test_fails": [
        ("poolguard.checked_out", "2 connections never returned, failed: LINE in test_fails, through take"),
        ("poolguard.checked_out", f"{ONE}, failed: LINE in test_fails"),
    ],
    "test_clean": [],
    "test_fails_twice": [("poolguard.checked_out", f"{ONE}, failed: LINE in test_fails_twice")],
    "test_skips": [("poolguard.checked_out", f"{ONE}, warned: LINE in test_skips")],
    r"test_expected[<&\x01]": [("poolguard.checked_out", f"{ONE}, expected: LINE in test_expected")],
    "test_breaks_in_teardown": [("poolguard.checked_out", f"{ONE}, failed: LINE in broken")],
}


def written(suite, family, *options):
    suite.setting("junit_family", family)
    run = suite.run(SUITE, "--junitxml=junit.xml", *options)
    assert run.data["faults"] == []
    return ET.parse(suite.path / "junit.xml").getroot()


@pytest.mark.parametrize("family", ["xunit1", "legacy"])
def test_a_leak_is_a_property_of_its_test_case(suite, processes, family):
    root = written(suite, family, *processes)
    assert errors(root, MORE) == []
    cases = {case.get("name"): told(case) for case in root.iter("testcase")}
    assert cases == EXPECTED
    assert told(root.find("testsuite")) == []


def test_the_strict_family_has_them_at_the_suite(suite, processes):
    root = written(suite, "xunit2", *processes)
    assert errors(root, {}) == []
    expected = [
        (name, f"test_suite.py::{test}: {value}") for test, those in EXPECTED.items() for name, value in those
    ]
    assert sorted(told(root.find("testsuite"))) == sorted(expected)


REST = """
kept = []
session = SimpleConnectionPool(1, 1, DSN)
held = session.getconn()

def test_opens():
    kept.append(psycopg2.connect(DSN))
"""


@pytest.mark.parametrize("family", ["xunit1", "xunit2"])
def test_what_no_test_carries_is_the_suites(suite, family):
    """A backend that is left, a leak outside of any test, a stale site: all of it known only at the end."""
    suite.setting("junit_family", family)
    gate = ("--poolguard-baseline=leaks.txt", "--poolguard-strict-baseline")
    suite.run("def test_it(pool): pool.getconn()\n", gate[0], "--poolguard-update-baseline")
    suite.run(REST, "--junitxml=junit.xml", *gate)
    root = ET.parse(suite.path / "junit.xml").getroot()
    assert errors(root, MORE if family == "xunit1" else {}) == []
    stale = (
        "1 stale site in leaks.txt: test_suite.py:test_it leaks no more; --poolguard-update-baseline takes it out"
    )
    assert sorted(told(root.find("testsuite"))) == [
        ("poolguard.checked_out", f"outside any test: {ONE}, failed: LINE in <module>"),
        ("poolguard.error", stale),
        (
            "poolguard.server_backend",
            "test_suite.py::test_opens: 1 connection left open, failed: LINE in test_opens",
        ),
    ]
    assert len(list(root.iter("testcase"))) == 1


def test_the_check_of_the_schema_finds_what_is_wrong():
    root = ET.fromstring(
        "<testsuite name='a' colour='red'><testcase name='b'><properties/></testcase></testsuite>"
    )
    assert errors(root, MORE) == ["testsuite has an attribute colour"]
    assert errors(root, {}) == ["testsuite has an attribute colour", "testcase has a properties"]


def test_a_test_that_is_run_again_has_the_leaks_of_every_try(suite):
    suite.setting("junit_family", "xunit1")
    run = suite.run("def test_it(pool): pool.getconn()\n", "--junitxml=junit.xml", "--reruns=1")
    assert run.data["faults"] == []
    cases = [told(case) for case in ET.parse(suite.path / "junit.xml").getroot().iter("testcase")]
    leak = ("poolguard.checked_out", f"{ONE}, failed: LINE in test_it")
    assert [one for case in cases for one in case] == [leak] * 2


def test_without_such_a_file_nothing_is_noted(suite):
    suite.run("def test_it(pool): pool.getconn()\n", "-p", "no:junitxml").assert_outcomes(failed=1)
