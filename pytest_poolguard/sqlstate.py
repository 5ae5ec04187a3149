"""What a server said when it refused: the SQLSTATE of an exception, whichever library raised it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

__all__ = ["CANCELED", "DEADLOCK", "IN_USE", "LOCK_TIMEOUT", "Refusal", "refusal"]

IN_USE = "55006"  #: object_in_use: DROP DATABASE, and it has sessions
LOCK_TIMEOUT = "55P03"  #: lock_not_available: by lock_timeout, or NOWAIT
DEADLOCK = "40P01"  #: deadlock_detected
CANCELED = "57014"  #: query_canceled: by statement_timeout, or a user's request
#: Exceptions of one chain that are looked at.
DEPTH = 50


class Refusal(NamedTuple):
    """Why a server refused a statement."""

    sqlstate: str
    message: str  #: with its details; not to be shown, it may hold values


def refusal(error: BaseException) -> Refusal | None:
    """The first in a chain of exceptions by which a server says that somebody else is in the way."""
    for one in _chain(error):
        for name in ("sqlstate", "pgcode"):  # psycopg's and asyncpg's; psycopg2's
            state = _attribute(one, name)
            if state in (IN_USE, LOCK_TIMEOUT, DEADLOCK, CANCELED):
                return Refusal(str(state), _text(one))
    return None


def _chain(error: BaseException) -> Iterator[BaseException]:
    """An exception and all that a traceback shows with it; SQLAlchemy's have their driver's as ``orig``."""
    waiting = [error]
    seen: set[int] = set()
    while waiting and len(seen) < DEPTH:
        one = waiting.pop(0)
        if id(one) in seen:
            continue
        seen.add(id(one))
        yield one
        context = None if one.__suppress_context__ else one.__context__
        inner = _attribute(one, "exceptions")
        group = inner if isinstance(inner, tuple) else ()
        related = (_attribute(one, "orig"), one.__cause__, context, *group)
        waiting += [other for other in related if isinstance(other, BaseException)]


def _attribute(error: BaseException, name: str) -> object:
    try:
        return getattr(error, name, None)
    except Exception:  # a property of somebody's
        return None


def _text(error: BaseException) -> str:
    try:
        return str(error)
    except Exception:
        return ""
