"""What GitHub Actions shows of a run: annotations at the lines that leak, and a table in the job summary.

An annotation is a line of standard output: ``::error file=…,line=…,title=…::message``.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping

from pytest_poolguard.books.origin import Place, printable
from pytest_poolguard.books.redaction import redacted
from pytest_poolguard.findings import FAILED, WARNED, WORDS, Finding, counted
from pytest_poolguard.reports.summary import title
from pytest_poolguard.tally import Tally

__all__ = ["below", "commands", "job_summary"]

#: GitHub shows so many annotations of each level for one step.
SHOWN = 10
#: Tests that an annotation names.
TESTS = 3
#: Rows of the table.
ROWS = 50

#: The verdicts that stand first in it.
RANKS = {FAILED: 0, WARNED: 1}

#: What stands for a character that would end a part of a command.
IN_MESSAGE = {"%": "%25", "\r": "%0D", "\n": "%0A"}
IN_PROPERTY = IN_MESSAGE | {":": "%3A", ",": "%2C"}
#: Punctuation that means nothing in a Markdown table.
HARMLESS = " /.,-()?"

HEAD = ("| | tests | what | where | hint |", "| --- | ---: | --- | --- | --- |")

Sites = list[list[Finding]]


def below(workspace: str, root: str) -> Callable[[Place], str]:
    """Make what names the file of a place as the repository does; empty where it lies outside."""
    workspace = os.path.realpath(workspace)

    def name(place: Place) -> str:
        path = os.path.realpath(os.path.join(root, place.file))
        if not path.startswith(workspace + os.sep):
            return ""
        return path[len(workspace) + 1 :].replace(os.sep, "/")

    return name


# annotations


def commands(tally: Tally, name: Callable[[Place], str]) -> list[str]:
    """The annotation of each site that fails or is warned of, and of what else fails the run.

    ``name`` makes the name of its file.
    """
    told = [finding for finding in tally.findings if finding.verdict in (FAILED, WARNED)]
    sites = _sites(told)
    errors = [_command("error", {"title": "poolguard"}, redacted(text)) for text in tally.errors]
    errors += _limited("error", [site for site in sites if _fails(site)], name, SHOWN - len(errors))
    return errors + _limited("warning", [site for site in sites if not _fails(site)], name, SHOWN)


def _limited(level: str, sites: Sites, name: Callable[[Place], str], room: int) -> list[str]:
    shown = sites if len(sites) <= room else sites[: max(room - 1, 0)]
    lines = [_annotation(level, site, name) for site in shown]
    if len(shown) < len(sites):
        more = f"{len(sites) - len(shown)} more sites: see the job summary"
        lines.append(_command(level, {"title": "poolguard"}, more))
    return lines


def _annotation(level: str, site: list[Finding], name: Callable[[Place], str]) -> str:
    first = site[0]
    place = first.called_from or first.acquired
    properties = {}
    if place is not None and name(place):
        properties = {"file": name(place), "line": str(place.line)}
    properties["title"] = f"poolguard: {_what(site)}"
    lines = [f"{first.site}, {_owners(site)}"]
    if first.hint:
        lines.append(f"hint: {first.hint}")
    return _command(level, properties, "\n".join(redacted(printable(line)) for line in lines))


def _command(level: str, properties: Mapping[str, str], message: str) -> str:
    given = ",".join(f"{key}={_escaped(printable(value), IN_PROPERTY)}" for key, value in properties.items())
    return f"::{level} {given}::{_escaped(message, IN_MESSAGE)}"


def _escaped(text: str, escapes: Mapping[str, str]) -> str:
    return "".join(escapes.get(character, character) for character in text)


def _owners(site: list[Finding]) -> str:
    """``in tests/test_users.py::test_profile and 2 more tests``."""
    tests = list(dict.fromkeys(finding.nodeid for finding in site if finding.nodeid))
    if not tests:
        return "outside any test"
    more = len(tests) - TESTS
    return "in " + ", ".join(tests[:TESTS]) + (f" and {counted(more, 'more test')}" if more > 0 else "")


# the table


def job_summary(tally: Tally, name: Callable[[Place], str]) -> str:
    """The table of all sites, as Markdown, and what else fails the run; empty where there is neither."""
    if not (tally.findings or tally.errors):
        return ""
    sites = sorted(_sites(tally.findings), key=lambda site: RANKS.get(_verdict(site), len(RANKS)))
    lines = [f"### {_cell(title(tally))}", ""]
    lines += [f"**{_cell(text)}**\n" for text in tally.errors]
    lines += HEAD if sites else ()
    lines += [_row(site, name) for site in sites[:ROWS]]
    if len(sites) > ROWS:
        lines += ["", f"… and {counted(len(sites) - ROWS, 'more site')}"]
    return "\n".join(lines) + "\n\n"


def _row(site: list[Finding], name: Callable[[Place], str]) -> str:
    first = site[0]
    place = first.called_from or first.acquired
    where = first.site
    if place is not None and name(place):
        where = where.replace(place.file, name(place), 1)
    tests = len({finding.nodeid for finding in site if finding.nodeid})
    cells = (_verdict(site), str(tests), _what(site), where, first.hint)
    return "| " + " | ".join(_cell(cell) for cell in cells) + " |"


def _cell(text: str) -> str:
    """The text as it stands, whatever of it means something in Markdown or HTML."""
    text = redacted(printable(text))
    return "".join(c if c.isalnum() or c in HARMLESS else f"&#{ord(c)};" for c in text)


# both


def _sites(findings: Iterable[Finding]) -> Sites:
    """The findings of each site, those with most first."""
    found: dict[tuple[str, str], list[Finding]] = {}
    for finding in findings:
        found.setdefault((finding.kind, finding.site), []).append(finding)
    return sorted(found.values(), key=len, reverse=True)


def _fails(site: list[Finding]) -> bool:
    return any(finding.verdict == FAILED for finding in site)


def _verdict(site: list[Finding]) -> str:
    return FAILED if _fails(site) else site[0].verdict


def _what(site: list[Finding]) -> str:
    words = WORDS[site[0].kind]
    return f"{counted(len(site), words.of)} {words.happened}"
