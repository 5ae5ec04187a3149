"""The findings of a run as a JSON file."""

from __future__ import annotations

import json
import os
from typing import Any

from pytest_poolguard.origin import printable
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
        "findings": [finding.to_dict() for finding in tally.findings],
        "notices": tally.notices,
        "faults": tally.faults,
    }


def write(path: str, tally: Tally) -> None:
    """Write the file whole or not at all; where that can't be done, the summary says so."""
    part = f"{path}.{os.getpid()}.part"
    try:
        with open(part, "w", encoding="utf-8") as file:
            json.dump(as_json(tally), file, indent=1)
            file.write("\n")
        os.replace(part, path)
    except OSError as error:
        tally.notices.append(f"the findings could not be written to {printable(path)}: {error.strerror}")
