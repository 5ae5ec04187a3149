"""The findings of a run as a JSON file."""

from __future__ import annotations

import json
import os
import tempfile
from typing import Any

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
    """Write the file whole or not at all; raises OSError where that can't be done."""
    folder = os.path.dirname(os.path.abspath(path))
    with tempfile.NamedTemporaryFile("w", dir=folder, delete=False, encoding="utf-8") as file:
        json.dump(as_json(tally), file, indent=1)
        file.write("\n")
    os.replace(file.name, path)
