"""The guard of one run: its ledger, drivers and owners, put together.

Made when the run begins, kept in ``config.stash``, undone by ``config.add_cleanup``.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import pytest

from pytest_poolguard.baseline.tolerance import Tolerance
from pytest_poolguard.books.clock import Clock
from pytest_poolguard.books.ledger import Ledger
from pytest_poolguard.books.origin import SourceTree, printable
from pytest_poolguard.books.records import Limits, Opening, Owner, SessionLimits
from pytest_poolguard.deferral import Deferral
from pytest_poolguard.describe import Describe
from pytest_poolguard.drivers.interface import Watch
from pytest_poolguard.exhausted.dump import Dump
from pytest_poolguard.exhausted.nesting import Nesting
from pytest_poolguard.exhausted.refusals import Refusals
from pytest_poolguard.exhausted.snapshots import Snapshots
from pytest_poolguard.findings import FAILED, WARNED, Finding
from pytest_poolguard.judging.bystanders import Bystanders
from pytest_poolguard.judging.judge import Judge
from pytest_poolguard.judging.unclosed import Unclosed
from pytest_poolguard.marker import Expectations, expectations, function_of, has_own_marker
from pytest_poolguard.outside import Outside
from pytest_poolguard.owners import Owners, boundaries
from pytest_poolguard.server.activity import Ask
from pytest_poolguard.server.run_name import RunName
from pytest_poolguard.server.side import ServerSide
from pytest_poolguard.settings import Settings
from pytest_poolguard.shield import OwnFaults
from pytest_poolguard.sizing.measuring import Measuring
from pytest_poolguard.tally import Tally
from pytest_poolguard.this_run import now
from pytest_poolguard.watching import Libraries

if TYPE_CHECKING:
    from pytest_poolguard.faults.course import Faults

__all__ = ["Guard"]


class Guard:
    """Watches each library from its :meth:`imported` to :meth:`stop`."""

    def __init__(
        self,
        config: pytest.Config,
        settings: Settings,
        name: RunName,
        tolerance: Tolerance | None,
        *,
        on_github: bool = False,
    ) -> None:
        self.settings = settings
        self.name = name
        self._process = os.getpid()
        self.began = now()
        self.on_github = on_github  #: GitHub Actions reads what is printed
        self.is_controller = False  #: of an xdist run: it runs no test itself
        self.tally = Tally()
        own_faults = OwnFaults(self.tally.faults, self._give_up)
        self.shield = own_faults.shield
        self.outside = Outside(self.tally, tolerance, mode=settings.mode)
        self.clock = Clock()
        self.deferral = Deferral()
        self.expected = Expectations()
        self._taken_before: int | None = None  #: connections, before the present test; None without a marker
        self.found: list[Finding] = []  #: of the present test, not yet settled
        session = Owner("session", "session", limits=_limits(settings), phase="")
        self.ledger = _ledger_class(settings)(self.clock, session, boundaries())
        self.owners = Owners(
            self.ledger, self._owner_ended, self._test_ends, self._teardown_begins, self._is_set_up
        )
        folded = (os.path.dirname(pytest.__file__), os.path.dirname(__file__))
        self.tree = tree = SourceTree(str(config.rootpath), folded)
        self.describe = Describe(self.ledger, tree)
        self.bystanders = Bystanders(tree)
        self.judge = Judge(
            self.ledger,
            self.owners,
            tree,
            self.describe,
            self.bystanders,
            grace=settings.grace,
            reclaim=settings.mode == "fail",
            look=self._look_at_server,
        )
        self.unclosed = Unclosed(
            self.ledger,
            self.owners,
            tree,
            self.describe,
            connections=settings.connections,
            pools=settings.open_pools,
        )
        self.test_failed = False  #: the present test, or was skipped: before its teardown
        self.server: ServerSide | None = None
        if settings.server != "off":
            self.server = ServerSide(
                self.ledger, self.owners, tree, self.describe, self.unclosed, self.tally, name, settings
            )
        self.snapshots = Snapshots(self.ledger, tree, self.describe)
        self.nesting = Nesting(self.ledger, self.describe, self.snapshots.is_unlimited)
        self.refusals = Refusals(self.snapshots, self.describe.made, self._on_server, self.nesting.refused)
        self.watch = Watch(
            self.ledger,
            own_faults.lose_the_books,
            self._connected,
            settings.dialects,
            dirty_returns=settings.dirty_returns != "off",
            is_first=self._is_first,
            on_unwatched=self.tally.unwatched.append,
            on_notice=self.tally.notices.append,
            holders=self.describe.holders,
            on_refused=self.refusals.note,
            grace=settings.grace,
            reclaims=settings.mode == "fail",
            bystanders=self.bystanders.now,
        )
        self.measuring = Measuring(self.watch.counting, tree, always=settings.stats is not None)
        self.measuring.begin()
        self._looking = self.shield("looking at a test's connections")
        self._judging = self.shield("judging an owner")
        self._setting_up = self.shield("looking at a server that a fixture has started")
        self.dump = Dump(self.snapshots.all, self.refusals.pool_in_words)
        self.dump.with_stacks(functools.partial(self.refusals.note_end, "pytest-timeout ended the test"))
        self.libraries = Libraries(self.watch, tree, self.tally, own_faults.note)
        self.faults: Faults | None = None
        if settings.faults != "off":
            from pytest_poolguard.faults.course import Faults  # noqa: PLC0415 - few runs strike any

            self.faults = Faults(self, config, self.outside.found)

    # the run

    @property
    def is_in_a_fork(self) -> bool:
        """Whether this is a fork that goes on as a second run: what it has is its parent's to judge."""
        return os.getpid() != self._process

    def stop(self) -> None:
        """Watch no longer, and give everything back as it was."""
        self.watch.active = False
        if self.faults is not None:
            self.faults.stop()
        if self.server is not None:
            self.server.stop()
        self.dump.stop()
        self.libraries.undo()

    def tell_hangs(self, stderr: int) -> None:
        """Write to a file descriptor what a test that hangs waits for, and who has what when a signal comes."""
        if self.server is not None:
            self.server.stuck.tell_hangs(stderr, self.dump.full_pools)
        if self.settings.dump_signal:
            reason = self.dump.on_signal(self.settings.dump_signal, stderr)
            if reason:
                self.tally.notices.append(f"poolguard_dump_signal is without effect: {reason}")

    def _give_up(self) -> None:
        """Accuse nobody any more: the books are not to be relied on."""
        self.watch.active = False
        self.ledger.forget()

    def _connected(self, opening: Opening, asker: Callable[[], Ask]) -> None:
        if self.faults is not None:
            self.faults.connected(opening, asker)
        if self.server is not None:
            self.server.connected(opening, asker)

    def _is_first(self, opening: Opening) -> bool:
        return self.server is not None and self.server.is_first(opening)

    # tests

    def begin_test(self, item: pytest.Item) -> None:
        """A test's set-up begins."""
        self.found = []
        self.test_failed = False
        self.ledger.overdue = []
        self.ledger.dirty = []
        self.watch.sessions.lately.clear()
        self.expected = expectations(item)
        self._taken_before = self.ledger.taken if has_own_marker(item) else None
        self.nesting.begin(self.expected.nesting(self.settings.nested))
        if self.faults is not None:
            self.faults.begin_test()
        self.measuring.begin_test(item)
        self.owners.begin_test(item, self.expected.limits(self.ledger.session.limits))
        if self.server is not None:
            self.server.stuck.watch()

    def end_test(self) -> None:
        """A test's teardown is over."""
        if self.is_in_a_fork:
            self.ledger.forget()
            self.expected = Expectations()
        self.found += [self.describe.overdue(checkout) for checkout in self.ledger.overdue]
        self.found += self.dirty_returns() + self.nesting.findings()
        test = self.owners.test
        self._tell_of_unlimited(test)
        self.owners.end_test()
        self.measuring.end_test()
        if self.server is not None and test is not None:
            self.found += self.server.after(test)

    def _tell_of_unlimited(self, test: Owner | None) -> None:
        """Say so where limits of sessions were asked for, and a connection had no pool to set them."""
        session = test.limits.session if test is not None else None
        if test is not None and session is not None and any(one.pool is None for one in test.opened):
            self.watch.sessions.hold_not(session, "on connections that are opened without a pool")

    def dirty_returns(self) -> list[Finding]:
        """What was given back in the middle of a transaction since the last test."""
        returned, self.ledger.dirty = self.ledger.dirty, []
        findings = [self.describe.dirty(checkout) for checkout in returned]
        for finding in findings:
            finding.verdict = FAILED if self.settings.dirty_returns == "fail" else WARNED
        return findings

    def _test_ends(self, test: Owner) -> None:
        if self.is_in_a_fork:
            return
        with self._looking:
            if test.out:
                self.judge.look(test)
            if self.unclosed.has_to_do(test):
                self.unclosed.look(test)

    def _is_set_up(self, fixture: Owner) -> None:
        if self.server is not None and not self.is_in_a_fork:
            with self._setting_up:
                self.server.sources.made_by(fixture)

    def _teardown_begins(self, fixture: Owner) -> None:
        if self.server is not None and self.server.ends_with(fixture):
            with self.shield("looking at a server that ends with a fixture"):
                self.outside.found(self.server.before_end_of(fixture))

    def _owner_ended(self, owner: Owner) -> None:
        if self.is_in_a_fork:
            return
        has_out, has_open = bool(owner.out or owner.dropped), self.unclosed.has_to_do(owner)
        if not (has_out or has_open or self.ledger.session.out or self.unclosed.any_waiting):
            return
        with self._judging:
            self.unclosed.strike_out_closed()
            findings = self.judge.end(owner) if has_out else []
            if has_open:
                findings += self.unclosed.end(owner, failed=self.test_failed)
            test = owner if owner.kind == "test" else self.owners.test
            here = test is not None and test.phase == "teardown"
            for finding in findings:
                nodeid = printable(test.nodeid) if test is not None else ""
                foreign = finding.owner_kind == "test" and finding.nodeid != nodeid
                if here and not foreign:
                    finding.nodeid = nodeid
                    self.found.append(finding)
                else:
                    self.outside.found([finding])
            if owner.kind == "test" and self.ledger.outstanding():
                self.outside.found(self.judge.dropped())

    def note_marker(self, item: pytest.Item, *, passed: bool) -> None:
        """Note whether a test with a marker of its own may have needed it; one that has not passed may."""
        if self._taken_before is None:
            return
        took = self.ledger.taken != self._taken_before or bool(self.ledger.outstanding())
        can_tell = passed and self.watch.active and not self.tally.unwatched
        self.tally.mark(function_of(item), was_needed=took or not can_tell)
        self._taken_before = None

    def take_findings(self) -> list[Finding]:
        """The findings of the present test, to settle."""
        findings, self.found = self.found, []
        return findings

    def abandon_test(self) -> None:
        """A test's protocol is over, whether or not it came to its teardown."""
        self.owners.abandon_test()
        self.measuring.end_test()
        self.outside.found(self.take_findings())

    def may_still_fail(self) -> bool:
        """Whether a test that has passed so far could still be found at fault in its teardown."""
        ledger, test = self.ledger, self.owners.test
        return (
            any(checkout.owner is not ledger.session for checkout in ledger.outstanding())
            or any(owner.dropped for owner in (*self.owners.fixtures, *([test] if test else ())))
            or bool(ledger.overdue or ledger.dirty or self.nesting.any)
            or self.unclosed.may_fail()
            or self.expected.leaks is not None
            or (self.server is not None and self.server.each_test is not None)
        )

    # the session

    def heard(self, report: pytest.TestReport) -> None:
        """A report of a test was logged."""
        self.tally.add_report(report)
        self.measuring.heard(report)
        if self.server is not None:
            self.server.heard(report)

    def worker_ended(self, name: str, output: dict[str, Any] | None) -> None:
        """A worker has ended, with what it has to say; None if it has crashed."""
        self.tally.add_worker(name, output)
        if self.server is not None:
            self.server.worker_ended(name, output)

    def _on_server(self, openings: list[Opening]) -> dict[Opening, dict[str, str]]:
        """What the server says of the backends of some connections."""
        return self.server.words_of(openings) if self.server is not None and openings else {}

    def _look_at_server(self, findings: list[tuple[Finding, Opening]]) -> None:
        words = self._on_server([opening for _, opening in findings])
        for finding, opening in findings:
            finding.server = words.get(opening, {})


def _ledger_class(settings: Settings) -> type[Ledger]:
    if settings.faults == "off":
        return Ledger
    from pytest_poolguard.faults.ledger import ListeningLedger  # noqa: PLC0415 - few runs strike faults

    return ListeningLedger


def _limits(settings: Settings) -> Limits:
    """What holds for fixtures, and for tests whose marker says nothing."""
    session = SessionLimits(settings.statement_timeout, settings.idle_in_transaction_timeout)
    return Limits(timeout=settings.timeout, session=session if session != (None, None) else None)
