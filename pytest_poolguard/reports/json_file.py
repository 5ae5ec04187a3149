"""The findings of a run as a JSON file."""

from __future__ import annotations

import contextlib
import json
import os
from typing import Any

from pytest_poolguard.redaction import redacted
from pytest_poolguard.tally import Tally

__all__ = ["as_json", "write"]

VERSION = 1


def as_json(tally: Tally) -> dict[str, Any]:
    """What the file holds."""
    return {
        "format": "pytest-poolguard",
        "version": VERSION,
        "libraries": tally.patched,
        "pools": tally.pools,
        "checkouts": tally.taken,
        "servers": [visit.to_dict() for visit in tally.visits],
        "findings": [finding.to_dict() for finding in tally.findings],
        "refusals": tally.refusals,
        "notices": [redacted(notice) for notice in tally.unwatched + tally.notices],
        "faults": [redacted(fault) for fault in tally.faults],
    }


def write(path: str, tally: Tally) -> None:
    """Write the file whole or not at all, and the folders that it needs; raises OSError where that fails."""
    text = json.dumps(as_json(tally), indent=1) + "\n"
    # /dev/stdout, which may be a file that others write to, or a named pipe: nothing to replace
    if path.startswith("/dev/") or (os.path.exists(path) and not os.path.isfile(path)):
        with open(path, "a", encoding="utf-8") as file:
            file.write(text)
        return
    path = os.path.realpath(path)
    os.makedirs(os.path.dirname(path), exist_ok=True)
    unfinished = f"{path}.{os.getpid()}"
    try:
        with open(unfinished, "w", encoding="utf-8") as file:
            file.write(text)
        os.replace(unfinished, path)
    except OSError:
        with contextlib.suppress(OSError):
            os.remove(unfinished)
        raise
