"""The course of a test: after it has passed, a scout, and then one strike after the other."""

from __future__ import annotations

import functools
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import pytest

from pytest_poolguard.books.origin import printable
from pytest_poolguard.books.records import Checkout, Opening
from pytest_poolguard.faults.account import Account
from pytest_poolguard.faults.apart import apart
from pytest_poolguard.faults.claims import KEY, Claims
from pytest_poolguard.faults.ending import Endings
from pytest_poolguard.faults.host import Host
from pytest_poolguard.faults.ledger import ListeningLedger
from pytest_poolguard.faults.plan import Pair, Plan, pairs_of
from pytest_poolguard.faults.repeat import before_wider_fixtures_end, why_not
from pytest_poolguard.faults.repeats import Listener, Repeats, Seen
from pytest_poolguard.faults.scout import Company, Scout, Sight
from pytest_poolguard.faults.spots import Spot, Spots, spot_of
from pytest_poolguard.faults.strike import Strike
from pytest_poolguard.faults.telling import tell
from pytest_poolguard.faults.trial import Trial
from pytest_poolguard.findings import FAILED, WARNED, Finding
from pytest_poolguard.marker import function_of

if TYPE_CHECKING:
    from pytest_poolguard.server.activity import Ask

__all__ = ["Faults"]

#: Seconds that a repeat may take besides what the test took, and how many times that.
LEAST, TIMES = 3.0, 5.0


class Faults:
    """Runs the tests of one process again; ``tell`` takes what it finds."""

    def __init__(self, guard: Host, config: pytest.Config, found: Callable[[list[Finding]], None]) -> None:
        assert isinstance(guard.ledger, ListeningLedger)  # noqa: S101 - the guard makes both
        self._guard = guard
        self._ledger = guard.ledger
        self._found = found
        settings = guard.settings
        folder = getattr(config, "workerinput", {}).get(KEY, "")
        self._plan = Plan(settings.faults_only, Claims(folder))
        self._spots = Spots(guard.tree, guard.describe, guard.ledger.stops)
        self._endings = Endings(guard.ledger, settings.dsn)
        self._trial = Trial(guard, guard.ledger)
        self._budget = settings.faults_budget
        self._unsuited = _unsuited(config)
        self.account = guard.tally.account = Account()
        self._taken: list[Checkout] = []  #: by the present test
        self._began = 0.0
        self._had_subtests = False
        self._told: set[str] = set()  #: by the fingerprints of what was told
        self.spent = 0.0  #: seconds, in the present test's teardown
        self._folder = ""  #: the claims of this run's workers

    def for_worker(self) -> dict[str, str]:
        """What the controller of an xdist run tells a worker: where the others say what they have taken on."""
        self._folder = self._folder or tempfile.mkdtemp(prefix="poolguard-faults-")
        return {KEY: self._folder}

    def stop(self) -> None:
        """Leave nothing behind."""
        if self._folder:
            shutil.rmtree(self._folder, ignore_errors=True)

    # the normal run of a test

    def connected(self, opening: Opening, asker: Callable[[], Ask]) -> None:
        """A connection was opened."""
        self._endings.connected(opening, asker)

    def begin_test(self) -> None:
        """A test's set-up begins."""
        self._taken = []
        self._ledger.on_checked_out = self._taken.append
        self._began = time.monotonic()
        self._had_subtests = False
        self.spent = 0.0

    def heard(self, report: pytest.TestReport) -> None:
        """A report was logged."""
        self._had_subtests |= type(report).__name__.lower() == "subtestreport"

    def before_teardown(self, item: pytest.Item) -> None:
        """A test's teardown begins: where it passed, it is run again before the wider fixtures' end."""
        expected = self._guard.expected
        if (
            self._taken
            and not self._guard.test_failed
            and expected.faults is not False
            and expected.leaks is None
        ):
            before_wider_fixtures_end(item, functools.partial(self._after_own_end, item))

    def take_off(self, call: pytest.CallInfo[Any]) -> None:
        """Take the time of the repeats off a test's teardown."""
        call.stop -= self.spent
        call.duration = max(call.duration - self.spent, 0.0)

    def _after_own_end(self, item: pytest.Item) -> None:
        took, self._taken = self._taken, []
        test = self._guard.owners.test
        if test is None or test.out or test.dropped or self._guard.found or self._guard.is_in_a_fork:
            return  # it has leaked by itself
        own = [checkout for checkout in took if checkout.taken_by.scope in ("", "function")]
        began = time.monotonic()
        with self._guard.shield("striking faults"):
            seen = [spot for spot in map(self._spots.of, own) if spot is not None and self._plan.means(spot)]
            self._consider(item, frozenset(seen), own, began - self._began)
        self._ledger.on_checked_out = lambda _: None
        self.spent = time.monotonic() - began

    # its repeats

    def _consider(self, item: pytest.Item, spots: frozenset[Spot], took: list[Checkout], seconds: float) -> None:
        function = function_of(item)
        if not self._plan.is_new(function, spots):
            return
        names = sorted(map(str, spots))
        reason = self._unsuited or why_not(item, had_subtests=self._had_subtests)
        if reason:
            self.account.unfit.update((f"{name} in {printable(item.nodeid)}", reason) for name in names)
        elif self._is_spent():
            self.account.unreached += names
        else:
            self._plan.scouted(function, spots)
            tasks = frozenset(id(task) for task in _tasks_beside(took))
            threads = self._guard.owners.test.threads if self._guard.owners.test is not None else frozenset()
            company = Company(self._ledger, tasks, frozenset(threads))
            with apart(item), self._trial.aside():
                self._course(item, company, tasks, LEAST + TIMES * seconds)

    def _course(self, item: pytest.Item, company: Company, tasks: frozenset[int], seconds: float) -> None:
        own = self._guard.expected.limits(self._ledger.session.limits)
        repeats = Repeats(self._guard, item, self._trial, self._endings, own, tasks, seconds)
        scout = Scout(self._ledger, self._spots, company, repeats.unfit)
        plain = self._repeat(repeats, scout)
        sights = [sight for sight in scout.sights() if self._plan.means(sight.spot)]
        if plain.error is not None or plain.is_stuck or plain.leaks:
            how = f"fails ({type(plain.error).__name__})"
            how = "does not end" if plain.is_stuck else "leaks" if plain.leaks else how
            reason = f"its test {how} when it is run a second time"
            self.account.unfit.update((f"{sight.spot} in {printable(item.nodeid)}", reason) for sight in sights)
            return
        for pair in pairs_of(self._fit(sights)):
            if self._is_spent():
                self.account.unreached.append(str(pair.spot))
            elif self._plan.claim(pair):
                self._strike(item, pair, company, repeats)

    def _fit(self, sights: list[Sight]) -> Iterator[Sight]:
        """Those that can be struck."""
        for sight in sights:
            if sight.unfit:
                self.account.unfit[str(sight.spot)] = sight.unfit
            else:
                yield sight

    def _repeat(self, repeats: Repeats, listener: Listener) -> Seen:
        """One repeat, of which the account is kept."""
        began = time.monotonic()
        try:
            return repeats.run(listener)
        finally:
            self.account.repeats += 1
            self.account.seconds += time.monotonic() - began

    def _strike(self, item: pytest.Item, pair: Pair, company: Company, repeats: Repeats) -> None:
        """Strike, and where something leaks, strike again: only what leaks twice is told."""
        seen: list[dict[Spot, Finding]] = []
        for _ in range(2):
            strike = Strike(pair, self._ledger, self._spots, company, repeats.kill)
            struck = self._repeat(repeats, strike)
            if strike.failure:
                self.account.unfit[f"{pair.spot} ({pair.kind})"] = strike.failure
                return
            if not strike.has_struck:
                self.account.unsure[str(pair)] = "the test did not come there again"
                return
            told: dict[Spot, Finding] = {}
            for finding, checkout in struck.leaks:
                spot = spot_of(finding)
                if spot is not None and strike.concerns(checkout, spot) and spot not in told:
                    told[spot] = tell(
                        finding,
                        checkout,
                        strike,
                        struck.error,
                        struck.is_stuck,
                        self._spots,
                        self._guard.describe,
                    )
                    told[spot].nodeid = printable(item.nodeid)
            if struck.is_stuck and str(pair) not in self.account.stuck:
                self.account.stuck.append(str(pair))
            seen.append(told)
            if not told:
                break
        self.account.strike(str(pair.spot), str(pair))
        if seen[0].keys() != seen[-1].keys():
            self.account.unsure[str(pair)] = "it leaked in one of two repeats"
        elif seen[0]:
            self.account.leaking.append(str(pair))
            self._tell(list(seen[-1].values()))

    def _tell(self, findings: list[Finding]) -> None:
        new = []
        for finding in findings:
            key = f"{finding.fingerprint} {finding.struck_at}"
            if key not in self._told:
                self._told.add(key)
                new.append(finding)
            if self._guard.settings.faults == "warn" and finding.verdict == FAILED:
                finding.verdict = WARNED
        self._found(new)

    def _is_spent(self) -> bool:
        return self._budget is not None and self.account.seconds >= self._budget


def _tasks_beside(took: list[Checkout]) -> list[Any]:
    """The tasks that go on in the event loops which a test has used."""
    loops = {id(loop): loop for checkout in took if checkout.task and (loop := checkout.task.loop()) is not None}
    asyncio: Any = sys.modules.get("asyncio")
    return [task for loop in loops.values() if not loop.is_closed() for task in asyncio.all_tasks(loop)]


def _unsuited(config: pytest.Config) -> str:
    """Why no test of a run can be run again; empty where they can."""
    for name in ("setupshow", "setuponly", "setupplan", "trace"):
        if config.getoption(name, False):
            return f"--{'trace' if name == 'trace' else 'setup-show'} would show it"
    return ""
