"""Take passwords out of text that others wrote: source lines, and the messages of exceptions."""

from __future__ import annotations

import re

__all__ = ["redacted"]

HIDDEN = "***"

#: ``scheme://user:password@``; a password may itself contain an ``@``.
IN_URI = re.compile(r"(\w://[^\s:/@'\"]*:)[^\s'\"]*(?=@)")

#: ``password=…``, ``"password": "…"``, ``("PGPASSWORD", "…")``; the value with its quotes, or to the next space.
NAMED = re.compile(
    r"""
    (\w*(?:passw(?:or)?d|passphrase|pwd|secret)\w*)      # the name
    ((?:["']\])?\s*={1,2}\s* | ["']?\s*:\s* | ["']\s*,\s*)  # what stands before the value
    (?:[fbru]{0,2}(?:'(?:\\.|[^'\\])*'|"(?:\\.|[^"\\])*") | (?!\s)[^\s,;&)"'}]+)
    """,
    re.VERBOSE | re.IGNORECASE,
)

#: What libpq quotes of a DSN that it can't read may be any part of it.
UNREADABLE = re.compile(r"invalid (?:dsn|integer value|connection option|URI)", re.IGNORECASE)
QUOTED = re.compile(r'"[^"]*"')


def redacted(text: str) -> str:
    """The text without what looks like a password."""
    if UNREADABLE.search(text):
        text = QUOTED.sub(f'"{HIDDEN}"', text)
    return NAMED.sub(rf"\1\2{HIDDEN}", IN_URI.sub(rf"\1{HIDDEN}", text))
