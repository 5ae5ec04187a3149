"""A look at what a test does, without a fault: where it takes connections, and what it runs on them.

It tells, too, whether the test can be run twice at all.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from pytest_poolguard.books.ledger import Ledger
from pytest_poolguard.books.origin import Place
from pytest_poolguard.books.records import Checkout
from pytest_poolguard.faults.spots import Spot, Spots
from pytest_poolguard.judging.holders import is_alive

__all__ = ["Company", "Scout", "Sight"]


@dataclass
class Sight:
    """One checkout that a scout has seen."""

    spot: Spot
    checkout: Checkout
    in_task: bool  #: taken by the code of an asyncio task itself
    is_second: bool  #: its holder had one already
    unfit: str  #: why it can't be struck; empty where it can
    statements: list[Place] = field(default_factory=list)


class Company:
    """Who takes connections in one repeat: the test's own code, or others beside it.

    ``tasks`` are those that were there before it, by id.
    """

    def __init__(self, ledger: Ledger, tasks: frozenset[int], threads: frozenset[Any]) -> None:
        self._ledger = ledger
        self._tasks = tasks
        self._threads = threads

    def is_own(self, checkout: Checkout) -> bool:
        """Whether the test, or a fixture of its alone, took a connection just now, in its own thread or task."""
        taker = checkout.taken_by
        if taker.kind == "session" or (taker.kind == "fixture" and taker.scope != "function"):
            return False
        task = running_task()
        return checkout.thread not in self._threads and (task is None or id(task) not in self._tasks)

    def held_now(self, but: Checkout | None = None) -> list[Checkout]:
        """What the running thread or task has out of the test's own connections."""
        task, thread = running_task(), self._ledger.this_thread()
        return [
            other
            for other in self._ledger.outstanding()
            if other is not but
            and other.serves is None
            and other.taken_by.kind != "session"
            and other.taken_by.scope in ("", "function")
            and (other.thread == thread if other.task is None else other.task.ref() is task)
        ]


def running_task() -> Any:
    """The running asyncio task; None where there is none."""
    asyncio = sys.modules.get("asyncio")
    if asyncio is None or asyncio._get_running_loop() is None:  # noqa: SLF001 - it raises nothing
        return None
    return asyncio.current_task()


class Scout:
    """Listens while a test is repeated without a fault."""

    kind = ""
    struck: Checkout | None = None

    def __init__(self, ledger: Ledger, spots: Spots, company: Company, unfit: Callable[[Checkout], str]) -> None:
        self._ledger = ledger
        self._spots = spots
        self._company = company
        self._unfit = unfit
        self._sights: dict[Checkout, Sight] = {}
        self._odd: list[Checkout] = []  #: of which no line of the project's could be told at once

    def taken(self, checkout: Checkout) -> None:
        """A connection was taken."""
        if not self._company.is_own(checkout):
            return
        spot = self._spots.of(checkout)
        if spot is None:
            self._odd.append(checkout)
            return
        second = bool(self._company.held_now(checkout))
        self._sights[checkout] = Sight(spot, checkout, running_task() is not None, second, self._unfit(checkout))

    def statement(self, connection: object) -> bool:
        """A statement is about to run: never to fail."""
        checkout = self._ledger.held_by(connection)
        sight = self._sights.get(checkout) if checkout is not None else None
        place = self._spots.here() if sight is not None else None
        if sight is not None and place is not None and place not in sight.statements:
            sight.statements.append(place)
        return False

    def refuses(self) -> bool:
        """No pool is to refuse anything."""
        return False

    def sights(self) -> list[Sight]:
        """What it has seen, but for what a pool on top of a pool has."""
        sights = [sight for sight in self._sights.values() if sight.checkout.serves is None]
        for sight in sights:
            if sight.checkout.thread is not None and is_alive(sight.checkout.thread):
                sight.unfit = "its thread goes on after the test"
        for checkout in self._odd:  # its stack has gone on, since, in the task that waits for it
            spot = self._spots.of(checkout)
            if spot is not None and checkout.serves is None:
                sights.append(Sight(spot, checkout, False, False, "it is taken in a task of its own"))
        return sights
