"""Advisory locks: which backend has which, and their keys as their callers gave them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from pytest_poolguard.server.lasting import PATIENCE
from pytest_poolguard.server.statements import text_of

__all__ = ["ADVISORY", "advisory_key", "advisory_locks", "advisory_words"]

QUERY = """
SELECT pid, string_agg(concat_ws(':', classid, objid, objsubid), ' ' ORDER BY classid, objid, objsubid)
  FROM pg_catalog.pg_locks WHERE locktype = 'advisory' AND granted GROUP BY pid
"""
#: To be run over one connection; the last one's rows are those of :func:`advisory_locks`.
ADVISORY = (f"SET LOCAL statement_timeout = {PATIENCE * 1000:.0f}", QUERY)
#: Locks of one backend that are told.
TOLD = 5


def advisory_locks(rows: Iterable[tuple[Any, ...]]) -> Mapping[int, tuple[str, ...]]:
    """What the rows of :data:`ADVISORY` say: the keys that each backend, by its pid, has locked."""
    return {pid: tuple(text_of(keys).split()) for pid, keys in rows}


def advisory_words(locks: Sequence[str]) -> str:
    """Locks that somebody has: ``advisory lock 4711``; empty for none."""
    keys = [advisory_key(lock) for lock in locks]
    if not keys:
        return ""
    more = f" and {len(keys) - TOLD} more" if len(keys) > TOLD else ""
    return f"advisory lock{'s' * (len(keys) > 1)} {', '.join(keys[:TOLD])}{more}"


def advisory_key(parts: str) -> str:
    """The key of an advisory lock as its caller gave it: ``4711`` or, where it was two numbers, ``(1, 2)``.

    ``parts`` are pg_locks' classid, objid and objsubid, unsigned, with colons.
    """
    high, low, which = (int(part) for part in parts.split(":"))
    if which == 1:
        return str(_signed(high << 32 | low, 64))
    return f"({_signed(high, 32)}, {_signed(low, 32)})"


def _signed(number: int, bits: int) -> int:
    return number - (1 << bits) if number >> (bits - 1) else number
