"""Statements that people run, as far as they may be shown: their literals may be anybody's secrets."""

from __future__ import annotations

import re

from pytest_poolguard.books.origin import printable
from pytest_poolguard.books.redaction import redacted
from pytest_poolguard.drivers.session_limits import MARK

__all__ = ["Shown", "statement_shape", "text_of"]

LITERAL = re.compile(
    r"""
    [eE]'(?:\\.|[^'\\])*(?:'|$) | '(?:''|[^'])*(?:'|$)   # strings, also one that was cut off
  | \$(\w*)\$.*?(?:\$\1\$|$)                             # dollar-quoted strings
  | (?<![\w$"])\d+(?:\.\d+)?(?:e[+-]?\d+)?               # numbers
    """,
    re.VERBOSE | re.DOTALL,
)
#: Characters shown of a statement: of its shape, of the whole.
STATEMENT_WIDTH, FULL_WIDTH = 80, 400


def statement_shape(sql: str) -> str:
    """A statement on one line, without its literals."""
    return _cut(LITERAL.sub("?", sql), STATEMENT_WIDTH)


class Shown:
    """Statements as the setting ``poolguard_show_sql`` has them: "shape", "full" or "off"."""

    def __init__(self, how: str = "shape") -> None:
        self._how = how

    def __call__(self, raw: bytes) -> str:
        """A statement as it came from the server, on one line; empty where none is to be shown, or it is ours."""
        sql = text_of(raw)
        if self._how == "off" or sql.startswith(MARK):
            return ""
        return redacted(_cut(sql, FULL_WIDTH)) if self._how == "full" else statement_shape(sql)


def text_of(raw: bytes) -> str:
    """A text as it came from the server, in whichever encoding: see ``moment``."""
    return raw.decode("utf-8", "replace")


def _cut(sql: str, width: int) -> str:
    line = printable(" ".join(sql.split()))
    return line if len(line) <= width else line[: width - 1] + "…"
