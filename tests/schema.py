"""The JSON file's schema: the one in the documents, and a strict one that allows no field it does not name."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

from jsonschema import Draft202012Validator

SCHEMA = json.loads((Path(__file__).parent.parent / "docs" / "findings.schema.json").read_text("utf-8"))
#: Findings of one file that are looked at: they take milliseconds each.
FINDINGS = 20


def strict(part: Any) -> Any:
    """A schema in which every object has the properties that are named, and no others."""
    if isinstance(part, list):
        return [strict(one) for one in part]
    if not isinstance(part, dict):
        return part
    part = {name: strict(one) for name, one in part.items()}
    if isinstance(part.get("properties"), dict) and part.get("type") == "object":
        part["additionalProperties"] = False
    return part


STRICT = Draft202012Validator(strict(SCHEMA), format_checker=Draft202012Validator.FORMAT_CHECKER)
LENIENT = Draft202012Validator(SCHEMA)


def errors(plain: dict[str, Any], validator: Draft202012Validator = STRICT) -> list[str]:
    """What is wrong with a file, each with its place in it."""
    some = copy.copy(plain)
    if isinstance(some.get("findings"), list):
        some["findings"] = some["findings"][:FINDINGS]
    return [f"{error.json_path}: {error.message}" for error in validator.iter_errors(some)]
