"""What a server said when it refused: the SQLSTATE of an exception, whichever library raised it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

__all__ = ["CANCELED", "DEADLOCK", "IDLE", "IN_USE", "LOCK_TIMEOUT", "Refusal", "is_lost", "refusal"]

IN_USE = "55006"  #: object_in_use: DROP DATABASE, and it has sessions
LOCK_TIMEOUT = "55P03"  #: lock_not_available: by lock_timeout, or NOWAIT
DEADLOCK = "40P01"  #: deadlock_detected
CANCELED = "57014"  #: query_canceled: by statement_timeout, or a user's request
IDLE = "25P03"  #: idle_in_transaction_session_timeout
#: What somebody else can be the cause of.
LOCKS = (IN_USE, LOCK_TIMEOUT, DEADLOCK, CANCELED)
#: What drivers raise over a connection that is gone, where they do not know why: with this SQLSTATE, or none.
LOST, GONE = ("OperationalError", "InterfaceError", "ConnectionDoesNotExistError"), "08003"
#: Exceptions of one chain that are looked at.
DEPTH = 50


class Refusal(NamedTuple):
    """Why a server refused a statement."""

    sqlstate: str
    message: str  #: with its details; not to be shown, it may hold values


def refusal(error: BaseException, states: tuple[str, ...] = LOCKS) -> Refusal | None:
    """The first in a chain of exceptions by which a server says so: that somebody else is in the way, say."""
    for one in _chain(error):
        for name in ("sqlstate", "pgcode"):  # psycopg's and asyncpg's; psycopg2's
            state = _attribute(one, name)
            if state in states:
                return Refusal(str(state), _text(one))
    return None


def is_lost(error: BaseException) -> bool:
    """Whether there is one in a chain of exceptions that says only that a connection is gone."""
    return any(
        type(one).__name__ in LOST
        and _attribute(one, "pgcode") is None
        and _attribute(one, "sqlstate") in (None, GONE)
        and _attribute(one, "orig") is None
        for one in _chain(error)
    )


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
