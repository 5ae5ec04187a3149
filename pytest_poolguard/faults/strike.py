"""One fault, struck in one repeat of a test: which checkout it meets, and who held what at that moment."""

from __future__ import annotations

from collections.abc import Callable

from pytest_poolguard.books.ledger import Ledger
from pytest_poolguard.books.origin import Place
from pytest_poolguard.books.records import Checkout, Limits, SessionLimits
from pytest_poolguard.faults.kinds import CANCEL, ERROR, KILL, REFUSE
from pytest_poolguard.faults.plan import Pair
from pytest_poolguard.faults.scout import Company, running_task
from pytest_poolguard.faults.spots import Spots

__all__ = ["Refusing", "Strike"]

#: Seconds that a pool waits which refuses a connection.
WAIT = 0.01


class Strike:
    """Listens while a test is repeated, and strikes once; ``kill`` ends a backend, and says why it could not."""

    def __init__(
        self, pair: Pair, ledger: Ledger, spots: Spots, company: Company, kill: Callable[[Checkout], str]
    ) -> None:
        self.pair = pair
        self.kind = pair.kind
        self._ledger = ledger
        self._spots = spots
        self._company = company
        self._kill = kill
        self.has_struck = False
        self.failure = ""  #: why it could not be done
        self.struck: Checkout | None = None
        self.struck_at: Place | None = None
        self.held: list[Checkout] = []  #: by who was struck, at that moment

    def taken(self, checkout: Checkout) -> None:
        """A connection was taken."""
        if self.has_struck or self.kind not in (KILL, CANCEL):
            return
        if not self._company.is_own(checkout) or self._spots.of(checkout) != self.pair.spot:
            return
        if self.kind == KILL:
            self.failure = self._kill(checkout)
        else:
            task = running_task()
            self.failure = "" if task is not None and task.cancel() else "no task runs there"
        self._note(checkout, None)

    def statement(self, connection: object) -> bool:
        """A statement is about to run: whether it is to fail."""
        if self.has_struck or self.kind != ERROR:
            return False
        checkout = self._ledger.held_by(connection)
        if checkout is None or self._spots.here() != self.pair.statement:
            return False
        if self._spots.of(checkout) != self.pair.spot:
            return False
        self._note(checkout, self.pair.statement)
        return True

    def refuses(self) -> bool:
        """Whether a pool that is asked for a connection now is to have none."""
        if self.kind != REFUSE:
            return False
        held = self._company.held_now()
        if not held or self._spots.here() not in (self.pair.spot.acquired, self.pair.spot.called_from):
            return False
        if not self.has_struck:
            self._note(None, self._spots.here())
        return True

    def _note(self, checkout: Checkout | None, place: Place | None) -> None:
        self.has_struck = True
        self.struck, self.struck_at = checkout, place
        self.held = self._company.held_now(checkout)

    def concerns(self, checkout: Checkout, place: object) -> bool:
        """Whether a leak is this strike's doing: what it met, what its holder had, a sibling at its place."""
        return checkout is self.struck or checkout in self.held or place == self.pair.spot


class Refusing(Limits):
    """A test's limits, with a pool that is exhausted at one place."""

    def __init__(self, own: Limits, refuses: Callable[[], bool]) -> None:
        object.__setattr__(self, "_own", own)
        object.__setattr__(self, "_refuses", refuses)

    @property
    def max(self) -> int | None:
        """None may be out where it is refused."""
        return 0 if self._refuses() else self._own.max  # type: ignore[attr-defined]

    @property
    def timeout(self) -> float | None:
        """There, it is not worth waiting."""
        return WAIT if self._refuses() else self._own.timeout  # type: ignore[attr-defined]

    @property
    def hold(self) -> float | None:
        """Of no interest in a repeat."""
        return None

    @property
    def session(self) -> SessionLimits | None:
        """As without a fault."""
        return self._own.session  # type: ignore[attr-defined,no-any-return]

    @property
    def bound_taking(self) -> bool:
        """They have a say when a connection is taken."""
        return True
