"""What a hint calls the things that are done with SQLAlchemy's pools: that depends on what took a connection."""

from __future__ import annotations

import os
import sys
from typing import Any

from pytest_poolguard.books.records import Checkout
from pytest_poolguard.drivers.interface import Terms

__all__ = ["is_library", "terms_of"]

#: Source files of SQLAlchemy's, of which one is among the frames between the project's code and the pool's.
SESSIONS = (os.path.join("orm", "session.py"), os.path.join("ext", "asyncio", "session.py"))
POOLS = f"pool{os.sep}"
#: The folder of what stands in between where a marker has limits.
OWN = os.path.dirname(__file__) + os.sep


def terms_of(pool: Any, checkout: Checkout | None) -> Terms:
    """The words for a checkout, or for an engine's pool."""
    word = "async " if getattr(getattr(pool, "_dialect", None), "is_async", False) else ""
    calls = _calls(checkout) if checkout is not None else []
    names = [name for _, name in calls]
    terms = Terms(
        take="connect",
        give="close",
        close="dispose",
        cure=f"use `{word}with engine.connect() as conn:`",
        discard="invalidate()",
        giver="connection",
        with_returns=True,
    )
    if any(file in SESSIONS for file, _ in calls):
        method = next((name for name in reversed(names) if not name.startswith("_")), "")
        return _with(terms, take=method, giver="taker", cure=f"use `{word}with Session() as session:`")
    if names[-1:] == ["begin"]:
        return _with(terms, take="begin", cure=f"the end of the `{word}with engine.begin()` block does")
    if names[-1:] == ["raw_connection"]:
        return _with(terms, take="raw_connection", cure="call close() in a finally block")
    if calls and all(file.startswith(POOLS) for file, _ in calls):
        return _with(terms, cure="call close() in a finally block")
    return terms


def _with(terms: Terms, **changes: Any) -> Terms:
    return Terms(**{**vars(terms), **changes})


def _calls(checkout: Checkout) -> list[tuple[str, str]]:
    """File and function of SQLAlchemy's own frames of an origin, innermost first."""
    found = []
    for code, _ in checkout.origin.frames():
        file = code.co_filename
        if is_library(file):
            found.append((file[len(_folder()) :], code.co_name))
        # What its decorators generate, and a context manager's own, stand in between.
        elif not file.startswith(("<", OWN)) and not file.endswith("contextlib.py"):
            break
    return found


def is_library(file: str) -> bool:
    """Whether a source file is one of SQLAlchemy's."""
    return file.startswith(_folder())


def _folder() -> str:
    return os.path.dirname(str(sys.modules["sqlalchemy"].__file__)) + os.sep
