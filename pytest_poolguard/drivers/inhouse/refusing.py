"""Whether an exception of an in-house pool's says that it has nothing left: any type may be the one for that.

The evidence is that nothing of the pool lies idle, as far as is known, while somebody has something of it; and
that neither a server nor a mistake in the program is the reason.
"""

from __future__ import annotations

from typing import Any

from pytest_poolguard.books.records import Checkout, Pool
from pytest_poolguard.drivers.interface import Watch
from pytest_poolguard.judging import holders

__all__ = ["NoConnection", "is_refusal", "is_same"]

#: Raised by what is wrong in the program, or not there.
MISTAKES = (
    TypeError,
    AttributeError,
    NameError,
    ImportError,
    AssertionError,
    NotImplementedError,
    RecursionError,
)
#: Libraries whose exceptions tell what a server has said, or that there is none.
DATABASES = frozenset({"asyncpg", "pg8000", "psycopg", "psycopg2", "sqlalchemy"})
#: Those of them that speak of a pool, by module and name; psycopg_pool's all do.
OF_POOLS = frozenset({("psycopg2.pool", "PoolError"), ("sqlalchemy.exc", "TimeoutError")})
#: Exceptions of one chain that are looked at.
DEPTH = 50


class NoConnection(TimeoutError):  # noqa: N818 - what it says
    """Raised by the method that takes a connection, in the place of the pool's own answer: a limit is reached."""


def is_refusal(watch: Watch, record: Pool, error: BaseException, *, is_closed: bool) -> bool:
    """Whether a pool that raised this, instead of handing out a connection, had none."""
    if isinstance(error, NoConnection):
        return True
    if is_closed or not isinstance(error, Exception) or _is_of_something_else(error):
        return False
    out = [checkout for checkout in watch.ledger.outstanding() if checkout.pool is record]
    told = [checkout for checkout in watch.ledger.unreclaimed if checkout.pool is record]
    return bool(out or told) and not _has_one_idle(watch, record, [*out, *told])


def _is_of_something_else(error: BaseException) -> bool:
    one: BaseException | None = error
    for _ in range(DEPTH):
        if one is None:
            return False
        if isinstance(one, MISTAKES) or (isinstance(one, OSError) and not isinstance(one, TimeoutError)):
            return True
        if _is_of_a_server(type(one)):
            return True
        one = one.__cause__ or one.__context__
    return False


def _is_of_a_server(kind: type[BaseException]) -> bool:
    if (kind.__module__, kind.__name__) in OF_POOLS or kind.__module__.partition(".")[0] == "psycopg_pool":
        return False
    return any(cls.__module__.partition(".")[0] in DATABASES for cls in kind.__mro__)


def _has_one_idle(watch: Watch, record: Pool, out: list[Checkout]) -> bool:
    """Whether a connection that is known to be the pool's own is open, and nobody has it."""
    own = [
        opening.ref() for opening in watch.ledger.openings() if opening.pool is record and not opening.is_closed()
    ]
    own += [inner.connection() for inner in watch.ledger.outstanding() if inner.serves is record]
    pool = record.ref()
    return any(one is not None and not any(is_same(checkout, [one], pool) for checkout in out) for one in own)


def is_same(checkout: Checkout, values: list[Any], pool: Any) -> bool:
    """Whether one of these is the connection that was taken, or what it wraps, or what wraps it."""
    connection = checkout.connection()
    return connection is not None and any(
        holders.reaches(connection, value, pool) or holders.reaches(value, connection, pool) for value in values
    )
