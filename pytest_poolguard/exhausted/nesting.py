"""Who takes a second connection of a pool while he holds a first: enough of them wait for each other for ever.

``k`` threads that hold one each, and each wait for one more, starve in a pool of ``k`` or fewer. Those count that
were seen to do so in this test, and to hold something at the same time.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

from pytest_poolguard.books.ledger import Ledger
from pytest_poolguard.books.origin import Origin
from pytest_poolguard.books.records import Checkout, Owner, Pool
from pytest_poolguard.describe import Describe
from pytest_poolguard.exhausted.snapshots import LEAKED, Asker, Snapshot
from pytest_poolguard.findings import FAILED, WARNED, Finding

__all__ = ["Nesting"]

#: Takings that are remembered of one test.
MOST = 2000


@dataclass(frozen=True)
class _Taking:
    """A connection is taken, or asked for in vain, while others of the same pool are out."""

    pool: Pool
    owner: Owner
    second: Checkout | None  #: None where it was refused
    asker: Asker | None  #: who was refused
    others: list[Checkout]

    @property
    def stack(self) -> Origin:
        """Where that is: known as late, for the stack of a task goes on in who waits for it."""
        if self.second is not None:
            return self.second.origin
        return Origin([part for frame in (self.asker.frames if self.asker else ()) for part in frame])

    @property
    def holder(self) -> object:
        """Who takes it: told late, for a task is noted after its checkout."""
        if self.second is not None:
            return _holder(self.second)
        return next((_holder(other) for other in self.others if self.asker and self.asker.has(other)), None)

    @property
    def firsts(self) -> list[Checkout]:
        """What its holder has already; another connection to the server, not the same one once more."""
        server = self.second.to_server() if self.second is not None else None
        own = [other for other in self.others if _holder(other) == self.holder and other.serves is None]
        return [first for first in own if server is None or first.to_server() is not server]


class Nesting:
    """What one test does; ``mode`` is "off", "warn" or "fail", and changes with each test."""

    def __init__(self, ledger: Ledger, describe: Describe, is_unlimited: Callable[[Pool], bool]) -> None:
        self._ledger = ledger
        self._describe = describe
        self._is_unlimited = is_unlimited
        self._mode = "off"
        self._seen: list[_Taking] = []

    def begin(self, mode: str) -> None:
        """A test begins; nothing is looked at while it is off."""
        self._mode = mode
        self._seen = []
        self._ledger.on_taken = self._taken if mode != "off" else None

    @property
    def any(self) -> bool:
        """Whether something was seen that may be told."""
        return bool(self._seen)

    def _taken(self, checkout: Checkout) -> None:
        pool = checkout.pool
        if self._is_unlimited(pool):
            return
        others = [other for other in self._ledger.outstanding() if other.pool is pool and other is not checkout]
        if others and len(self._seen) < MOST:
            self._seen.append(_Taking(pool, checkout.taken_by, checkout, None, others))

    def refused(self, snapshot: Snapshot, asker: Asker) -> None:
        """A pool has refused a connection: its holder may have asked for a second one."""
        others = [held.checkout for held in snapshot.held if held.state != LEAKED]
        if self._mode != "off" and any(map(asker.has, others)):
            self._seen.append(_Taking(snapshot.pool, self._ledger.present, None, asker, others))

    def findings(self) -> list[Finding]:
        """One for each pair of lines. Those with a fixture's connection fail nothing: it has that on purpose."""
        nested = [(taking, firsts) for taking in self._seen if (firsts := taking.firsts)]
        self._seen = []
        told: dict[tuple[object, ...], Finding] = {}
        for taking, firsts in nested:
            finding = self._describe.nested(firsts[-1], taking.stack, taking.owner, taking.second)
            finding.starves_at = _starves_at([one for one, _ in nested if one.pool is taking.pool])
            foreign = firsts[-1].taken_by is not taking.owner
            finding.verdict = FAILED if self._mode == "fail" and not foreign else WARNED
            told.setdefault((taking.pool, finding.first_at, finding.acquired), finding)
        return list(told.values())


def _starves_at(takings: list[_Taking]) -> int:
    """The biggest pool in which those who nested, as they were seen together, may all wait for each other."""
    most: Counter[object] = Counter()  # that each of them held when it asked for one more
    for taking in takings:
        most[taking.holder] = max(most[taking.holder], len(taking.firsts))
    return max(
        sum(min(count, most[holder]) for holder, count in Counter(map(_holder, taking.others)).items())
        for taking in takings
    )


def _holder(checkout: Checkout) -> object:
    """Who has a connection: equal for the same thread or task."""
    task = checkout.task
    if task is None:
        return "thread", checkout.thread
    return "task", id((task.awaited_by or task).ref)  # the same one for the same task, whose record keeps it
