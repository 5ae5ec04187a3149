"""Which findings are ignored, and why: ``shop/legacy.py:get_conn -- the importer goes in May``."""

from __future__ import annotations

from collections.abc import Iterable
from fnmatch import fnmatchcase
from typing import NamedTuple

__all__ = ["Ignored", "ignored"]

SEPARATOR = " -- "
POOL = "pool:"
EXAMPLE = "write it like this: shop/legacy.py:get_conn -- the importer goes in May"


class Ignored(NamedTuple):
    """One entry; file and function are patterns with ``*``, ``?`` and ``[…]``."""

    entry: str  #: as it was written, with its reason
    reason: str
    pool: str  #: the class of a pool; empty where any will do, and connections without a pool
    file: str  #: of the site or, for a pool, where it was made
    function: str

    def matches(self, pool: str, sites: Iterable[tuple[str, str]], made: Iterable[tuple[str, str]]) -> bool:
        """Whether a finding is meant, told by its pool's class, and by file and function of its places."""
        if self.pool and not (pool and fnmatchcase(pool, self.pool)):
            return False
        if self.pool and self.file == self.function == "*":
            return True
        return any(
            fnmatchcase(file, self.file) and fnmatchcase(function, self.function)
            for file, function in (made if self.pool else sites)
        )


def ignored(text: str) -> tuple[Ignored, ...]:
    """The entries of a text, one on each line; raises ValueError, which says what is wrong with which."""
    found = []
    for number, line in enumerate(text.strip().splitlines(), 1):
        entry = line.strip()
        if entry and not entry.startswith("#"):
            try:
                found.append(_entry(entry))
            except ValueError as error:
                raise ValueError(f"line {number}, {entry!r}: {error}") from None
    return tuple(found)


def _entry(entry: str) -> Ignored:
    pattern, _, reason = (part.strip() for part in f"{entry} ".partition(SEPARATOR))
    if not reason:
        raise ValueError(f"there is no reason; {EXAMPLE}")
    pool = ""
    if pattern.startswith(POOL):
        pool, at, pattern = (part.strip() for part in pattern.removeprefix(POOL).partition("@"))
        if not pool or (at and not pattern):
            raise ValueError(
                "this names no pool; write it like this: pool:ThreadedConnectionPool@shop/db.py -- why"
            )
        pattern = pattern or "*"
    file, _, function = pattern.partition(":")
    if not file:
        raise ValueError(f"this names no file; {EXAMPLE}")
    if function.isdigit():
        raise ValueError("the number of a line changes with every edit above it; name the function")
    return Ignored(entry, reason, pool, file, function or "*")
