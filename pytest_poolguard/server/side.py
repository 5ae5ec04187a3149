"""The server's side of a run: everything that asks a server, put together."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import pytest

from pytest_poolguard.books.ledger import Ledger
from pytest_poolguard.books.origin import SourceTree
from pytest_poolguard.books.records import Opening, Owner
from pytest_poolguard.describe import Describe
from pytest_poolguard.findings import Finding
from pytest_poolguard.judging.leftovers import Leftovers
from pytest_poolguard.judging.unclosed import Unclosed
from pytest_poolguard.owners import Owners
from pytest_poolguard.server.activity import Ask
from pytest_poolguard.server.aftermath import Aftermath
from pytest_poolguard.server.demand import warnings
from pytest_poolguard.server.each_test import EachTest
from pytest_poolguard.server.foreigners import Foreigners
from pytest_poolguard.server.run_name import RunName
from pytest_poolguard.server.sources import Sources
from pytest_poolguard.server.statements import Shown
from pytest_poolguard.server.stuck import Stuck
from pytest_poolguard.server.travel import Announcer
from pytest_poolguard.server.watch import ServerWatch
from pytest_poolguard.settings import Settings
from pytest_poolguard.tally import Tally

__all__ = ["ServerSide"]

#: The attribute of a report under which connections are announced.
OPENED = "poolguard_opened"


class ServerSide:
    """What a guard has for ``--poolguard-server`` but "off"."""

    def __init__(
        self,
        ledger: Ledger,
        owners: Owners,
        tree: SourceTree,
        describe: Describe,
        unclosed: Unclosed,
        tally: Tally,
        name: RunName,
        settings: Settings,
    ) -> None:
        self._process = os.getpid()
        self._ledger = ledger
        self._describe = describe
        self._tally = tally
        shown = Shown(settings.show_sql)
        self.watch = watch = ServerWatch(settings.dsn, tally.notices, shown)
        self.sources = Sources(watch, tally.notices)
        self.stuck = Stuck(watch, ledger, owners, tree, tally.notices, shown)
        self._foreigners = Foreigners(describe, tree, name, shown)
        self._announcer = Announcer(describe.backend)
        leftovers = Leftovers(ledger, tree, describe, tally.notices)
        self._aftermath = Aftermath(
            watch, owners, leftovers, describe, tally, self._foreigners, name, shown, ends=settings.terminate
        )
        self.each_test: EachTest | None = None
        if settings.server == "test":
            self.each_test = EachTest(watch, owners, unclosed, leftovers, describe, self._foreigners, name, shown)

    @property
    def _is_in_a_fork(self) -> bool:
        return os.getpid() != self._process

    def stop(self) -> None:
        """Ask no more."""
        if self.each_test is not None and not self._is_in_a_fork:
            self.each_test.close()
        self.stuck.lookout.stop()

    # connections

    def is_first(self, opening: Opening) -> bool:
        """Whether :meth:`connected` will ask the server of a connection."""
        return self.watch.is_first(opening)

    def connected(self, opening: Opening, asker: Callable[[], Ask]) -> None:
        """A watched connection was opened; ``asker`` makes what asks its server."""
        self.watch.connected(opening, asker)
        self.stuck.watch()

    def words_of(self, openings: list[Opening]) -> dict[Opening, dict[str, str]]:
        """What the server says of the backends behind connections."""
        return self.watch.backends(openings)

    # fixtures and tests

    def ends_with(self, fixture: Owner) -> bool:
        """Whether :meth:`before_end_of` has something to do."""
        return self._aftermath.ends_with(fixture) and not self._is_in_a_fork

    def before_end_of(self, fixture: Owner) -> list[Finding]:
        """What is left on the servers that a fixture may stop in its teardown, which begins now."""
        return self._aftermath.before_end_of(fixture)

    def after(self, test: Owner) -> list[Finding]:
        """What a test has left, if that is asked for after every test."""
        return self.each_test.after(test) if self.each_test is not None and not self._is_in_a_fork else []

    # the run

    def before_run(self) -> str:
        """How full the server that the user has named is, in a line; empty where there is none to name."""
        return "" if self._describe.worker else self.sources.of_setting()

    def end(self, *, is_controller: bool) -> list[Finding]:
        """What the run, or a worker of it, has left on the servers."""
        self._tally.demands += self._aftermath.demands()
        if self._describe.worker:
            self._tally.told = [list(backend) for backend in self._foreigners.told]
            return self._aftermath.at_end_of_worker()
        self._foreigners.told.update((pid, start) for pid, start in self._tally.told)
        findings = self._aftermath.at_end_of_controller() if is_controller else self._aftermath.at_end()
        self._tally.notices += warnings(self._tally.demands)
        return findings

    # workers of an xdist run, and their controller

    def announce(self, report: pytest.TestReport) -> None:
        """Let a report of a worker tell the controller which connections are open now: this process may crash."""
        if self._describe.worker and not self._is_in_a_fork:
            told = self._announcer.new(self._ledger.openings(), self.watch.servers)
            if told:
                setattr(report, OPENED, told)

    def heard(self, report: pytest.TestReport) -> None:
        """A report of a test was logged."""
        self._foreigners.windows.add(report)
        told, node = getattr(report, OPENED, None), getattr(report, "node", None)
        if told and node is not None:
            self._foreigners.announced.add(node.gateway.id, told)

    def worker_ended(self, name: str, output: dict[str, Any] | None) -> None:
        """A worker has ended, with what it has to say; None if it has crashed."""
        if output is None:
            self._foreigners.announced.has_crashed(name)
        else:
            self._foreigners.announced.ended(name)
