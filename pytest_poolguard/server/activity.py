"""One look at ``pg_stat_activity``: what is asked, and what a row of it says."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from pytest_poolguard.origin import printable

__all__ = ["PATIENCE", "STATEMENTS", "Ask", "Backend", "statement_shape"]

#: Runs statements on a server over a connection of a moment: the server of the given DSN, else one's own, within
#: so many seconds. Returns the last statement's rows, texts as bytes; raises Unaskable.
Ask = Callable[[Sequence[str], str, float], list[tuple[Any, ...]]]

#: Seconds that one look may take.
PATIENCE = 3.0
ACTIVITY = """
SELECT pid, coalesce(backend_type, ''), coalesce(state, ''), coalesce(application_name, ''),
       coalesce(query, ''), coalesce(extract(epoch FROM clock_timestamp() - state_change), 0)::float8,
       extract(epoch FROM clock_timestamp() - backend_start)::float8,
       extract(epoch FROM backend_start)::float8
  FROM pg_catalog.pg_stat_activity
"""
STATEMENTS = (f"SET statement_timeout = {PATIENCE * 1000:.0f}", ACTIVITY)

LITERAL = re.compile(
    r"""
    [eE]'(?:\\.|[^'\\])*(?:'|$) | '(?:''|[^'])*(?:'|$)   # strings, also one that was cut off
  | \$(\w*)\$.*?(?:\$\1\$|$)                             # dollar-quoted strings
  | (?<![\w$"])\d+(?:\.\d+)?(?:e[+-]?\d+)?               # numbers
    """,
    re.VERBOSE | re.DOTALL,
)
STATEMENT_WIDTH = 80


def statement_shape(sql: str) -> str:
    """A statement on one line, without its literals: those may be anybody's secrets."""
    shape = printable(" ".join(LITERAL.sub("?", sql).split()))
    return shape if len(shape) <= STATEMENT_WIDTH else shape[: STATEMENT_WIDTH - 1] + "…"


@dataclass(frozen=True)
class Backend:
    """A row of pg_stat_activity. Of roles whose backends one may not see, it has little more than the pid."""

    pid: int
    kind: bytes
    state: bytes
    application: bytes
    query: bytes
    state_age: float  #: seconds
    age: float | None  #: seconds
    start: float | None  #: by the server's clock

    def words(self) -> dict[str, str]:
        """What a finding says of it."""
        return {
            "state": printable(text_of(self.state)),
            "state_seconds": f"{self.state_age:.3f}",
            "age_seconds": f"{self.age or 0:.3f}",
            "application": printable(text_of(self.application)),
            "statement": statement_shape(text_of(self.query)),
        }


def text_of(raw: bytes) -> str:
    """A text as it came from the server, in whichever encoding: see ``moment``."""
    return raw.decode("utf-8", "replace")
