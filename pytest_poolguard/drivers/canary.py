"""A connection that leads to no server, and the proof that the ledger sees it taken and given back.

Nothing of it stays on record.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from pytest_poolguard.books.counter import Highest
from pytest_poolguard.books.ledger import Ledger

__all__ = ["Canary", "NotSeen", "aside", "is_opened", "is_returned", "is_taken", "prove"]


class NotSeen(Exception):  # noqa: N818 - it is no error of the program that meets it
    """Something was taken, given back or opened, and the ledger does not know; the text says what."""


class Canary:
    """What pools need of a connection; it is of no driver's class, and closed as soon as it is let go of."""

    closed = 0

    def __init__(self, *_arguments: Any, **_named: Any) -> None:
        """Whatever a driver's own class takes."""

    def close(self) -> None:
        """As a connection has it."""

    rollback = commit = close


@contextmanager
def aside(ledger: Ledger, *pools: Any) -> Iterator[None]:
    """Strike out, at the end of the block, these pools and what was taken from them."""
    owner = ledger.present
    peak = owner.peak
    try:
        yield
    finally:
        for pool in pools:
            ledger.strike_out(pool)
        owner.peaks = Highest()
        owner.peaks.seen(max(peak, len(owner.out)))


def prove(ledger: Ledger, pool: Any, take: Callable[[], Any], give: Callable[[Any], Any], name: str) -> str:
    """Take a connection and give it back; returns the name of what is proved, or raises :class:`NotSeen`."""
    with aside(ledger, pool):
        connection = take()
        is_taken(ledger, connection, name)
        give(connection)
        is_returned(ledger, pool, name)
    return name


def is_taken(ledger: Ledger, connection: object, name: str) -> None:
    """Raise :class:`NotSeen` unless a connection is on record as taken."""
    if ledger.held_by(connection) is None:
        raise NotSeen(f"what {name} hands out is not seen")


def is_returned(ledger: Ledger, pool: object, name: str) -> None:
    """Raise :class:`NotSeen` if anything of a pool is on record as taken."""
    record = ledger.pool(pool)
    if any(checkout.pool is record for checkout in ledger.outstanding()):
        raise NotSeen(f"what is given back to {name} is not seen")


def is_opened(ledger: Ledger, connection: object, name: str) -> str:
    """The name of what has opened a connection; raises :class:`NotSeen` where that is not on record."""
    if ledger.opening(connection) is None:
        raise NotSeen(f"what {name} opens is not seen")
    ledger.strike_out_opening(connection)
    return name
