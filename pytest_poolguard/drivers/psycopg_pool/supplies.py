"""psycopg_pool's own connections: each is on record as its pool's from the moment at which it is opened.

The pools connect in one place, mostly in workers of theirs, where no code of the project is on the stack.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import CodeType
from typing import Any

from pytest_poolguard.books.records import Pool, Supply
from pytest_poolguard.drivers.interface import Watch

__all__ = ["async_connecting", "connecting"]

#: The record of a pool.
Record = Callable[[Any], Pool]


def connecting(
    original: Callable[..., Any], watch: Watch, record: Record, client: CodeType
) -> Callable[..., Any]:
    """A ``_connect`` whose connections are the pool's; ``client`` is what a client calls that waits for one."""

    @functools.wraps(original)
    def _connect(self: Any, timeout: float | None = None) -> Any:
        __tracebackhide__ = True
        with _supplied(watch, record, client, self):
            return original(self, timeout)

    return _connect


def async_connecting(
    original: Callable[..., Any], watch: Watch, record: Record, client: CodeType
) -> Callable[..., Any]:
    """Likewise."""

    @functools.wraps(original)
    async def _connect(self: Any, timeout: float | None = None) -> Any:
        __tracebackhide__ = True
        with _supplied(watch, record, client, self):
            return await original(self, timeout)

    return _connect


@contextmanager
def _supplied(watch: Watch, record: Record, client: CodeType, pool: Any) -> Iterator[None]:
    current, supply = watch.ledger.supply, None
    before = current.get()
    if watch.active:
        try:
            supply = Supply(record(pool), before)
            current.set(supply)
        except Exception as error:
            watch.on_fault("noting that a pool connects", error)
    try:
        yield
    finally:
        current.set(before)
        if supply is not None:
            _leave_to_its_maker(supply, client)


def _leave_to_its_maker(supply: Supply, client: CodeType) -> None:
    """A worker has no line of the project to show, and whose test it works in is chance."""
    for opening in supply.openings:
        if not any(code is client for code, _ in opening.opened.frames()):
            opening.opened = supply.pool.made
            opening.owner = supply.pool.owner
            opening.phase = supply.pool.owner.phase
