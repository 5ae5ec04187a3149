"""The baseline: a file of the sites that are known to leak, made to be reviewed and merged in git.

It is a text, one site a line, sorted. What tells a site is its fingerprint; all else of a line is for people, but
for the tests that the site was found in: only when those have run can it be said that it leaks no more.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, field

from pytest_poolguard.books.identity import test_of
from pytest_poolguard.findings import Finding
from pytest_poolguard.whole_file import write_whole

__all__ = ["EVERY_TEST", "Baseline", "Entry", "entry_of", "joined", "read", "tests_of", "write"]

VERSION = 1
TITLE = "# pytest-poolguard baseline"
HEADER = f"""\
{TITLE}, version {VERSION}
#
# Sites that leak connections, and are known to: one on each line, sorted.
#   pytest --poolguard-baseline=FILE                               lets them pass, and fails on any other
#   pytest --poolguard-baseline=FILE --poolguard-update-baseline   writes this file
# A line has the site's fingerprint, the kind of finding, the site, the call, and the tests that it was found in.
"""
#: Stands for the tests of what is no single test's, such as a fixture of the session.
EVERY_TEST = "*"
#: Follows the kind of what only ``--poolguard-server=test`` sees: it was gone when the run was over.
AFTER_TEST = "/test"
#: Tests of one file that a line names; of more, it names the file.
TESTS = 3

TITLED = re.compile(rf"{TITLE}, version (\d+)")
LINE = re.compile(r"([0-9a-f]{16})  ([a-z_]+)(/test)?  (.+?)  «(.*)»  (\S.*)")
CONFLICT = ("<<<<<<<", "|||||||", "=======", ">>>>>>>")


@dataclass
class Entry:
    """One site."""

    fingerprint: str
    kind: str
    site: str
    call: str
    tests: set[str] = field(default_factory=set)  #: ids without parameters, or files, or :data:`EVERY_TEST`
    after_test: bool = False  #: only a look after the test has seen it, see :data:`AFTER_TEST`

    def __str__(self) -> str:
        tests = ", ".join(sorted(self.tests))
        kind = self.kind + AFTER_TEST * self.after_test
        return f"{self.fingerprint}  {kind}  {self.site}  «{self.call}»  {tests}"


Baseline = dict[str, Entry]  #: by fingerprint


def entry_of(finding: Finding) -> Entry:
    """The line for a finding."""
    place = finding.called_from or finding.acquired
    call = place.text if place is not None and not finding.opened_by else ""
    return Entry(finding.fingerprint, finding.kind, finding.lasting_site, call)


def tests_of(findings: Iterable[Finding]) -> set[str]:
    """The tests that have to run for a site to leak again: few by name, of many their files."""
    found = {_test(finding) for finding in findings}
    return {EVERY_TEST} if EVERY_TEST in found else _shortened(found)


def _test(finding: Finding) -> str:
    file, name = test_of(finding.nodeid)
    wide = finding.owner_kind == "fixture" and finding.owner_scope != "function"
    if not file or finding.owner_kind == "session" or (wide and finding.owner_scope not in ("class", "module")):
        return EVERY_TEST
    # Which of the file's tests a wider fixture ends with depends on those that are selected.
    return file if wide or not name else f"{file}::{name}"


def _shortened(tests: set[str]) -> set[str]:
    by_file: dict[str, set[str]] = {}
    for test in tests:
        by_file.setdefault(test.partition("::")[0], set()).add(test)
    short = ({file} if file in names or len(names) > TESTS else names for file, names in by_file.items())
    return set().union(*short)


def joined(tests: set[str]) -> set[str]:
    """Tests from two runs, as one line names them."""
    return {EVERY_TEST} if EVERY_TEST in tests else _shortened(tests)


def read(path: str) -> Baseline:
    """The sites that a file records; raises ValueError, which says what is wrong with it."""
    try:
        with open(path, encoding="utf-8-sig") as file:
            lines = file.read().splitlines()
    except UnicodeDecodeError:
        raise ValueError(f"{path!r} is no baseline: it is no text in UTF-8") from None
    except OSError as error:
        raise ValueError(f"{path!r} can't be read: {error.strerror}") from None
    found: Baseline = {}
    for number, line in enumerate(lines, 1):
        if line.startswith(CONFLICT):
            raise ValueError(
                f"{path!r}, line {number}: a merge conflict is not resolved: keep the lines of both sides"
            )
    _check_title(path, next((line for line in lines if line.strip()), TITLE + ", version 1"))
    for number, line in enumerate(lines, 1):
        if line.strip() and not line.startswith("#"):
            entry = _entry(line.rstrip())
            if entry is None:
                raise ValueError(f"{path!r}, line {number}: this is no site: {line.strip()[:40]!r}")
            known = found.setdefault(entry.fingerprint, entry)
            known.tests = joined(known.tests | entry.tests)  # a merge may have left it twice
            known.after_test &= entry.after_test
    return found


def _check_title(path: str, first: str) -> None:
    titled = TITLED.match(first)
    if titled is None:
        raise ValueError(f"{path!r} is no baseline of pytest-poolguard: it does not begin with {TITLE!r}")
    if int(titled[1]) > VERSION:
        raise ValueError(f"{path!r} was written by a newer pytest-poolguard (version {titled[1]}, not {VERSION})")


def _entry(line: str) -> Entry | None:
    parts = LINE.fullmatch(line)
    if parts is None:
        return None
    fingerprint, kind, after, site, call, tests = parts.groups()
    named = {test.strip() for test in tests.split(",")} - {""}
    return Entry(fingerprint, kind, site, call, named, after_test=after is not None)


def write(path: str, entries: Iterable[Entry]) -> None:
    """Write the file whole or not at all, and the folders that it needs; raises OSError where that fails."""
    ordered = sorted(entries, key=lambda entry: (entry.site, entry.kind, entry.fingerprint))
    text = HEADER + "".join(f"{entry}\n" for entry in ordered)
    write_whole(path, text)
