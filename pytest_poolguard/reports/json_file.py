"""The findings of a run as a JSON file; its schema is ``docs/findings.schema.json``."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from typing import Any

from pytest_poolguard.books.redaction import redacted
from pytest_poolguard.sizing.uses import gathered_uses
from pytest_poolguard.tally import Tally
from pytest_poolguard.whole_file import write_whole

__all__ = ["FORMAT", "VERSION", "as_json", "sites", "write", "write_plain"]

FORMAT = "pytest-poolguard"
#: Changes when a field goes or changes its meaning, not when one is added.
VERSION = 1


def as_json(tally: Tally) -> dict[str, Any]:
    """What the file holds."""
    run = tally.run.id if tally.run is not None else ""
    findings = [{"run": run, **finding.to_dict()} for finding in tally.findings]
    return {
        "format": FORMAT,
        "version": VERSION,
        "runs": [tally.run.to_dict()] if tally.run is not None else [],
        "libraries": tally.patched,
        "pools": [row.to_dict() for row in tally.pool_rows],
        "checkouts": tally.taken,
        "uses": [use.to_dict() for use in gathered_uses(tally.uses)],
        "servers": [{"run": run, **visit.to_dict()} for visit in tally.visits],
        "sites": sites(findings),
        "findings": findings,
        "unwatched": [redacted(text) for text in tally.unwatched],
        "refusals": tally.refusals,
        "notices": [redacted(notice) for notice in tally.unwatched + tally.notices],
        "errors": [redacted(error) for error in tally.errors],
        "faults": [redacted(fault) for fault in tally.faults],
        "markers": tally.marked,
        "struck": tally.account.to_dict() if tally.account is not None else None,
    }


def sites(findings: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """The sites of findings, those with most first: the same one has the same fingerprint."""
    found: dict[str, list[dict[str, Any]]] = {}
    for finding in findings:
        found.setdefault(finding["fingerprint"], []).append(finding)
    return [_site(those) for those in sorted(found.values(), key=len, reverse=True)]


def _site(findings: list[dict[str, Any]]) -> dict[str, Any]:
    first = findings[0]
    verdicts = [finding["verdict"] for finding in findings]
    alike = ("fingerprint", "kind", "library", "acquired", "called_from", "opened_by", "hint")
    return {name: first[name] for name in alike} | {
        "findings": len(findings),
        "tests": len({finding["nodeid"] for finding in findings if finding["nodeid"]}),
        "verdicts": {verdict: verdicts.count(verdict) for verdict in dict.fromkeys(verdicts)},
    }


def write(path: str, tally: Tally) -> None:
    """Write the file of a run, as :func:`write_plain` does."""
    write_plain(path, as_json(tally))


def write_plain(path: str, plain: dict[str, Any]) -> None:
    """Write a file whole or not at all, and the folders that it needs; raises OSError where that fails."""
    text = json.dumps(plain, indent=1) + "\n"
    # /dev/stdout, which may be a file that others write to, or a named pipe: nothing to replace
    if path.startswith("/dev/") or (os.path.exists(path) and not os.path.isfile(path)):
        with open(path, "a", encoding="utf-8") as file:
            file.write(text)
        return
    write_whole(path, text)
