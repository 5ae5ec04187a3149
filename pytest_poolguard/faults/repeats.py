"""The repeats of one test: each with somebody who listens to what is taken, run and returned, and may strike."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import pytest

from pytest_poolguard.books.records import Checkout, Limits
from pytest_poolguard.faults.ending import Endings
from pytest_poolguard.faults.host import Host
from pytest_poolguard.faults.kinds import KILL, REFUSE
from pytest_poolguard.faults.ledger import ListeningLedger
from pytest_poolguard.faults.limit import Limit
from pytest_poolguard.faults.repeat import repeat
from pytest_poolguard.faults.strike import Refusing
from pytest_poolguard.faults.strikes.choice import AllStrikes
from pytest_poolguard.faults.trial import Trial
from pytest_poolguard.findings import Finding
from pytest_poolguard.judging import frameworks
from pytest_poolguard.judging.holders import pauses

__all__ = ["Listener", "Repeats", "Seen"]


class Listener(Protocol):
    """A scout, or a strike."""

    kind: str  #: of the fault; empty for none
    struck: Checkout | None  #: what it has met

    def taken(self, checkout: Checkout) -> None:
        """A connection was taken."""

    def statement(self, connection: object) -> bool:
        """A statement is about to run: whether it is to fail."""

    def refuses(self) -> bool:
        """Whether a pool that is asked for a connection now is to have none."""


@dataclass
class Seen:
    """What came of a repeat."""

    error: BaseException | None  #: the first one
    is_stuck: bool  #: it did not end, and was ended
    leaks: list[tuple[Finding, Checkout]]


class Repeats:
    """Repeats one test within so many seconds; ``tasks`` are those that were there before, by id."""

    def __init__(
        self,
        guard: Host,
        item: pytest.Item,
        trial: Trial,
        endings: Endings,
        limits: Limits,
        tasks: frozenset[int],
        seconds: float,
    ) -> None:
        assert isinstance(guard.ledger, ListeningLedger)  # noqa: S101 - the guard makes it so
        self._guard = guard
        self._ledger = guard.ledger
        self._item = item
        self._trial = trial
        self._endings = endings
        self._limits = limits
        self._tasks = tasks
        self._seconds = seconds
        self._strikes = AllStrikes()
        self._shield = guard.shield("striking a fault")

    def run(self, listener: Listener) -> Seen:
        """One repeat: set-up, body, teardown, and the judgement."""
        ledger, strikes, owners = self._ledger, self._strikes, self._guard.owners
        limits = Refusing(self._limits, listener.refuses) if listener.kind == REFUSE else self._limits
        self._trial.begin()
        limit = Limit(self._seconds, self._tasks, self._cut_off)
        strikes.begin(self._shielded(listener.statement))
        ledger.on_checked_out, ledger.on_returned = self._when_taken(listener), self._when_returned(listener)
        try:
            with self._guard.watch.counting.apart():
                outcome = repeat(self._item, owners, limits, limit)
                if any(_in_generator(checkout) for checkout in self._trial.out()):
                    outcome.let_go()
        finally:
            ledger.on_checked_out = ledger.on_returned = lambda _: None
            strikes.end()
            owners.end_test()
        error = outcome.error
        outcome.errors.clear()
        self._trial.close_pools()
        self._endings.end_all(self._trial.left_open())
        return Seen(error, outcome.is_stuck, self._trial.leaks)

    def _shielded(self, statement: Callable[[object], bool]) -> Callable[[object], bool]:
        """An exception of ours is not to pass for one of the code under test."""

        def on_statement(connection: object) -> bool:
            with self._shield:
                return statement(connection)
            return False

        return on_statement

    def _when_taken(self, listener: Listener) -> Callable[[Checkout], None]:
        def taken(checkout: Checkout) -> None:
            with self._shield:
                known = self._strikes.of(checkout)
                if known is not None:
                    known.taken(checkout)
                listener.taken(checkout)

        return taken

    def _when_returned(self, listener: Listener) -> Callable[[Checkout], None]:
        def returned(checkout: Checkout) -> None:
            with self._shield:
                known = self._strikes.of(checkout)
                if known is not None and listener.kind == KILL and checkout is listener.struck:
                    known.discard(checkout)

        return returned

    def unfit(self, checkout: Checkout) -> str:
        """Why a checkout can't be struck; empty where it can."""
        framework = frameworks.keeper(checkout.origin, checkout.pool.driver.library, self._guard.tree)
        return f"{framework} keeps it for its thread" if framework else self._strikes.unfit(checkout)

    def kill(self, checkout: Checkout) -> str:
        """End the backend of a connection that was just taken; why that could not be, or an empty text."""
        known = self._strikes.of(checkout)
        if known is None:
            return "its pool is of another make"
        failure = self._endings.end(checkout, known.socket)
        if not failure and known.discards_at_once:
            with contextlib.suppress(Exception):  # a pool with ideas of its own
                known.discard(checkout)
        return failure

    def _cut_off(self) -> None:
        """End the backends of what a repeat has out that hangs."""
        openings = [self._ledger.opening(checkout.to_server()) for checkout in self._trial.out()]
        self._endings.end_all([opening for opening in openings if opening is not None])


def _in_generator(checkout: Checkout) -> bool:
    """Whether a generator took it: one that was left by an exception ends when nobody has that any longer."""
    return any(pauses(code) for code, _ in checkout.origin.frames())
