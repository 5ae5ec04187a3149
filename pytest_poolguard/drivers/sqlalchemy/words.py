"""What a hint calls the things that are done with SQLAlchemy's pools: that depends on what took a connection."""

from __future__ import annotations

import os
from typing import Any

from pytest_poolguard.drivers.interface import Terms
from pytest_poolguard.records import Checkout

__all__ = ["PACKAGE", "terms_of"]

#: The part of a source file's name that makes it one of SQLAlchemy's.
PACKAGE = f"{os.sep}sqlalchemy{os.sep}"
#: Source files, of which one is among the frames between the project's code and the pool's.
SESSIONS = tuple(
    os.path.join(PACKAGE, *path) for path in (("orm", "session.py"), ("ext", "asyncio", "session.py"))
)
POOLS = os.path.join(PACKAGE, "pool", "")
ENGINE = os.path.join(PACKAGE, "engine", "base.py")


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
    if any(file.endswith(SESSIONS) for file, _ in calls):
        method = next((name for name in reversed(names) if not name.startswith("_")), "")
        return _with(terms, take=method, giver="taker", cure=f"use `{word}with Session() as session:`")
    if "begin" in names:
        return _with(terms, take="begin", cure=f"the end of the `{word}with engine.begin()` block does")
    if "raw_connection" in names:
        return _with(terms, take="raw_connection", cure="call close() in a finally block")
    if calls and all(POOLS in file for file, _ in calls):
        return _with(terms, cure="call close() in a finally block")
    return terms


def _with(terms: Terms, **changes: Any) -> Terms:
    return Terms(**{**vars(terms), **changes})


def _calls(checkout: Checkout) -> list[tuple[str, str]]:
    """File and function of SQLAlchemy's own frames of an origin, innermost first."""
    found = []
    for code, _ in checkout.origin.frames():
        if PACKAGE in code.co_filename:
            found.append((code.co_filename, code.co_name))
        elif found and not (code.co_filename.startswith("<") or code.co_filename.endswith("contextlib.py")):
            break  # neither what its decorators generate, nor a context manager's own
    return found
