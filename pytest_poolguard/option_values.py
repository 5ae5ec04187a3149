"""What the values of options may be.

Each function makes one of a text, or raises :class:`ValueError` with the reason.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable

__all__ = [
    "FAULTS",
    "MOST_OF_A_SESSION",
    "a_baseline",
    "a_file",
    "a_limit",
    "a_session_limit",
    "a_time",
    "how_faults",
    "one_of",
    "some_rows",
    "some_words",
    "yes_or_no",
]

#: What --poolguard-faults may be.
FAULTS = ("fail", "warn", "off")


def one_of(choices: tuple[str, ...]) -> Callable[[str], str]:
    """Make a parser of a text that is one of some."""

    def parse(text: str) -> str:
        if text not in choices:
            raise ValueError(f"{text!r} is not one of {', '.join(choices)}")
        return text

    return parse


def how_faults(text: str) -> str:
    """The flag's value may be left out: then what follows it is taken for that."""
    if text not in FAULTS:
        raise ValueError(
            f"{text!r} is not one of {', '.join(FAULTS)} (before a path, give --poolguard-faults=fail)"
        )
    return text


def a_time(text: str) -> float:
    """Seconds, 0 or more."""
    try:
        seconds = float(text)
    except ValueError:
        seconds = -1.0
    if not 0 <= seconds < float("inf"):
        raise ValueError(f"{text!r} is not a number of seconds, 0 or more")
    return seconds


def some_words(text: str) -> tuple[str, ...]:
    """Words, separated by commas or spaces."""
    return tuple(text.replace(",", " ").split())


def some_rows(text: str) -> int:
    """Rows of a table, 0 for all."""
    try:
        rows = int(text)
    except ValueError:
        rows = -1
    if rows < 0:
        raise ValueError(
            f"{text!r} is not a number of rows, 0 or more (what follows the option is taken for it: write =N)"
        )
    return rows


def a_limit(text: str) -> float:
    """Seconds, more than 0."""
    seconds = a_time(text)
    if not seconds:
        raise ValueError(f"{text!r} is not a number of seconds greater than 0")
    return seconds


#: Seconds: the server counts milliseconds, in 31 bits.
MOST_OF_A_SESSION = 2_147_483


def a_session_limit(text: str) -> float:
    """Seconds as a server's own limits have them: 0 is none."""
    try:
        seconds = a_time(text)
    except ValueError:
        seconds = math.inf
    if seconds > MOST_OF_A_SESSION:
        raise ValueError(f"{text!r} is not a number of seconds from 0 (no limit) to {MOST_OF_A_SESSION}")
    return seconds


def yes_or_no(text: str) -> bool:
    """True or False, as ini files write them."""
    if text.lower() not in ("true", "false"):
        raise ValueError(f"{text!r} is not one of true, false")
    return text.lower() == "true"


def a_file(text: str) -> str:
    """A file that can be written, by its full name: tests change the working directory."""
    if not text:
        return ""
    path = os.path.abspath(text)
    if os.path.isdir(path):
        raise ValueError(f"{text!r} is a folder, a file is wanted")
    folder = os.path.dirname(path)
    while not os.path.exists(folder):  # it is made when the file is written
        folder = os.path.dirname(folder)
    if not (os.path.isdir(folder) and os.access(folder, os.W_OK)):
        raise ValueError(f"{text!r} can't be written: {folder!r} is not a folder that this user may write to")
    return path


def a_baseline(text: str) -> str:
    """A file by its full name; it is read when the run begins."""
    if text and os.path.isdir(text):
        raise ValueError(f"{text!r} is a folder, a file is wanted")
    return os.path.abspath(text) if text else ""
