"""Who answers for a connection that is still out when its owner ends: a longer-lived owner, if there is one."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterable
from types import CodeType
from typing import Any

from pytest_poolguard.books.ledger import Ledger
from pytest_poolguard.books.origin import SourceTree
from pytest_poolguard.books.records import Checkout, Owner
from pytest_poolguard.judging import holders
from pytest_poolguard.owners import Owners

__all__ = ["Heirs"]


class Heirs:
    """Looks for them among the fixtures that outlive an owner, and modules; the session stands for the rest."""

    def __init__(self, ledger: Ledger, owners: Owners, tree: SourceTree) -> None:
        self._ledger = ledger
        self._owners = owners
        self._tree = tree

    def of(self, checkout: Checkout, owner: Owner) -> tuple[Owner | None, str]:
        """Who answers for a checkout when its owner has ended, and why; None if nobody does."""
        session = self._ledger.session
        # A task that was left to a fixture was started by somebody else: that is why it is the fixture's.
        is_left = bool(checkout.carried) and checkout.task is not None
        in_use = not is_left and holders.in_call_that_took_it(checkout, owner, self._tree.is_own)
        goes_on = in_use and checkout.task is not None and checkout.task.starter is owner
        if in_use and not goes_on:
            holder = "thread" if checkout.task is None else "task"
            return session, f"its {holder} ran before the test began and still uses it"
        heir, reason = self._who_has_it(checkout, owner)
        if goes_on and heir is None and not reason:
            return session, "its task was not finished, and goes on when its event loop does"
        if heir is None and holders.is_about_to_be_closed(checkout):
            return session, "the generator that took it was left early, and is closed when its event loop goes on"
        return heir, reason

    def _who_has_it(self, checkout: Checkout, owner: Owner) -> tuple[Owner | None, str]:
        """A fixture or module; the reason without one says that the owner itself has it."""
        wider = self._owners.wider_than(owner)
        fixture = holders.factory_of(checkout.origin, wider)
        if fixture is not None:
            return fixture, f"a function that fixture {fixture.name} handed out took it"
        if not holders.is_referenced(checkout):
            return None, ""
        connection, pool, held_in = checkout.in_hand(), checkout.pool.ref(), _held_in(checkout)
        if holders.reaches(owner.value(), connection, pool, held_in):
            # What an xunit set-up leaves in its class or module is its own to return.
            return None, f"what fixture {owner.name} returned holds it"
        for fixture in wider:
            is_held = holders.reaches(fixture.value(), connection, pool, held_in)
            if is_held or _task_is_held(checkout, fixture, pool):
                held = "it" if is_held else "the task that uses it"
                return fixture, f"what fixture {fixture.name} returned holds {held}"
        module = self._module_that_holds(checkout, connection, pool)
        if module and not self._held_before(checkout):
            return self._ledger.session, f"module {module} holds it"
        return None, ""

    def _module_that_holds(self, checkout: Checkout, connection: object, pool: object) -> str:
        files = {os.path.realpath(code.co_filename) for code, _ in checkout.origin.frames()}
        files = {file for file in files if self._tree.is_own(file)}
        for name, module in list(sys.modules.items()):
            file = getattr(module, "__file__", None)
            if (
                file
                and os.path.realpath(file) in files
                and holders.reaches(vars(module), connection, pool, _held_in(checkout))
            ):
                return name
        return ""

    def _held_before(self, checkout: Checkout) -> bool:
        """Whether a module holds another one from the same place already: one is a singleton, two are a leak."""
        return any(
            known.carried
            and self._own_frame(known) == self._own_frame(checkout)
            and known.thread is checkout.thread
            for known in self._ledger.outstanding(self._ledger.session)
        )

    def _own_frame(self, checkout: Checkout) -> tuple[CodeType, int] | None:
        """The project's innermost frame of an origin; the pool's own frames are the same for everybody."""
        frames = checkout.origin.frames()
        return next((frame for frame in frames if self._tree.is_own(frame[0].co_filename)), None)


def _held_in(checkout: Checkout) -> Callable[[Any], Iterable[object]]:
    """Tells what objects of a checkout's library hold, where they hold it deep inside."""
    return getattr(checkout.pool.driver, "held_in", lambda _thing: ())


def _task_is_held(checkout: Checkout, fixture: Owner, pool: object) -> bool:
    """Whether a fixture's value holds the task that has a connection: then the fixture sees to its end."""
    task = checkout.task.ref() if checkout.task is not None and checkout.task.is_unfinished() else None
    return task is not None and holders.reaches(fixture.value(), task, pool)
