"""Connections under the run's name that this process did not open: those of child processes.

A library that is not watched may have opened them here, too: what settles it is a process that still runs.
"""

from __future__ import annotations

from collections.abc import Iterable

from pytest_poolguard.books.origin import SourceTree
from pytest_poolguard.books.records import Owner
from pytest_poolguard.describe import Describe
from pytest_poolguard.findings import WARNED, Finding
from pytest_poolguard.server.activity import Backend, Look
from pytest_poolguard.server.processes import Process, still_running
from pytest_poolguard.server.remains import Remains
from pytest_poolguard.server.run_name import RunName
from pytest_poolguard.server.statements import Shown, text_of
from pytest_poolguard.server.travel import Announced
from pytest_poolguard.server.windows import Windows

__all__ = ["Foreigners"]

CHILD = "a child process of this run"
UNKNOWN = "an unwatched library or a child process"
UNSURE = "a fixture that has not ended yet may end it"
#: Seconds by which the time of a process's start, which the system counts in ticks, may be wrong.
RESOLUTION = 0.1
#: Processes that one note names.
TOLD = 3


class Foreigners:
    """Makes findings of them."""

    def __init__(self, describe: Describe, tree: SourceTree, name: RunName, shown: Shown) -> None:
        self._describe = describe
        self._tree = tree
        self._name = name
        self._shown = shown
        self.windows = Windows()
        self.announced = Announced()  #: by workers
        self.told: set[tuple[int, float | None]] = set()  #: backends, by pid and start, by a test

    def may_judge(self, row: Backend) -> bool:
        """Whether the worker whose name a backend bears is over, and no test has told of it.

        A worker that the run has been stopped in is not.
        """
        worker = self._name.worker_on(row.application)
        is_over = self._name.is_on(row.application) or worker in self.announced.over
        return is_over and (row.pid, row.start) not in self.told

    def is_own(self, fixture: Owner) -> bool:
        """Whether a fixture outlives a test and is the project's: a plugin's ends no process of its tests."""
        code = fixture.code
        return fixture.scope != "function" and (code is None or self._tree.is_own(code.co_filename))

    def of_crashed(self, remains: Remains) -> list[Finding]:
        """What a worker had open that has crashed, as far as it had told; no longer among the remains then."""
        found = []
        for rows in (remains.named, remains.strangers):
            for row in list(rows):
                finding = self.announced.finding_of(row, remains.look.opened_at(row))
                if finding is not None:
                    rows.remove(row)
                    remains.crashed.append(row)
                    finding.server = row.words(self._shown)
                    finding.transaction_status = finding.server["state"]
                    finding.note = f"worker {finding.worker} has crashed, and the server has not noticed yet"
                    found.append(finding)
        return found

    def findings(self, look: Look, backends: Iterable[Backend], *, sure: bool, nodeid: str = "") -> list[Finding]:
        """One for each backend; ``nodeid`` is the test that still runs.

        ``sure``: no fixture is there that may still end the process.
        """
        running: dict[bytes, list[Process]] = {}
        found = []
        for row in backends:
            if row.application not in running:
                running[row.application] = still_running(text_of(row.application))
            # One that was started later has not opened it.
            opened = look.opened_at(row)
            processes = [one for one in running[row.application] if one.started <= opened + RESOLUTION]
            found.append(self._finding(row, opened, processes, sure=sure, nodeid=nodeid))
        return found

    def _finding(
        self, row: Backend, opened: float, processes: list[Process], *, sure: bool, nodeid: str
    ) -> Finding:
        worker = self._name.worker_on(row.application)
        by = CHILD if processes else UNKNOWN
        if worker in self.announced.crashed and not processes:
            by = f"worker {worker}, before it crashed,"
        test = self._test_at(worker, opened, nodeid)
        # Whoever has started the process is to end it, whenever that connects.
        moments = [(one.started - RESOLUTION, min(one.started + RESOLUTION, opened)) for one in processes]
        starters = {test for moment in moments for test in self._tests_within(worker, *moment, nodeid)}
        if processes and test not in starters:
            test = starters.pop() if len(starters) == 1 else ""
        finding = self._describe.foreign_backend(row.pid, row.words(self._shown), by, test)
        finding.worker = worker
        if processes:
            more = f" and {len(processes) - TOLD} more" if len(processes) > TOLD else ""
            finding.note = f"still running: {', '.join(map(str, processes[:TOLD]))}{more}"
        else:
            finding.hint = "close it, or end the process that has it"
        if not (sure and test and any(process.is_left for process in processes)):
            finding.verdict = WARNED
        if not sure:
            finding.note = UNSURE
        return finding

    def _tests_within(self, worker: str, first: float, last: float, nodeid: str) -> set[str]:
        """The tests that ran between two moments."""
        tests = self.windows.tests_within(worker, first, last) | self.windows.tests_within("", first, last)
        return tests | {nodeid} if nodeid and self.windows.is_after(last) else tests

    def _test_at(self, worker: str, moment: float, nodeid: str) -> str:
        """The test that ran at a moment; ``nodeid`` is the one of which not all reports are there yet."""
        if nodeid and self.windows.is_after(moment):
            return nodeid
        return self.windows.test_at(worker, moment) or self.windows.test_at("", moment)
