"""The hooks of a run that has something to watch: each calls something with a name.

Those that run for every test are registered when the first watched library is imported.
"""

from __future__ import annotations

import os
from collections.abc import Generator
from typing import Any

import pytest

from pytest_poolguard.baseline.tolerance import Tolerance
from pytest_poolguard.books.origin import printable
from pytest_poolguard.ending import Ending
from pytest_poolguard.guard import Guard
from pytest_poolguard.reports import github, json_file, junit, notices, statistics, summary
from pytest_poolguard.server import overrun
from pytest_poolguard.settings import runs_no_test
from pytest_poolguard.settling import Settling
from pytest_poolguard.tally import ATTRIBUTE

__all__ = ["ControllerHooks", "RunHooks", "ToleranceHooks", "watch_tests"]

TEST_HOOKS = "poolguard-tests"
#: The key of xdist's workeroutput under which a worker tells which tests there are.
COLLECTED = "poolguard-collected"
#: Exit codes of a run that came to its end.
ENDED = (pytest.ExitCode.OK, pytest.ExitCode.TESTS_FAILED, pytest.ExitCode.NO_TESTS_COLLECTED)


def watch_tests(config: pytest.Config, guard: Guard) -> None:
    """A watched library was imported: from now on every test and fixture has an owner."""
    config.pluginmanager.register(TestHooks(guard), TEST_HOOKS)
    guard.owners.adopt(config, guard.begin_test)


class RunHooks:
    """What happens once in a run."""

    def __init__(self, guard: Guard, config: pytest.Config) -> None:
        self.guard = guard
        self.ending = Ending(guard)
        self.config = config
        self.was_stopped = False  #: by Ctrl-C, pytest.exit(), or an error of pytest's
        self.is_written = False  #: the JSON file

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        with self.guard.shield("noting findings for a JUnit file"):
            junit.note(self.config, report)

    def pytest_keyboard_interrupt(self) -> None:
        self.was_stopped = True  # whatever exit code pytest.exit() asks for

    def pytest_report_header(self) -> str | None:
        line = ""
        with self.guard.shield("looking at the server"):
            line = self.guard.server.before_run() if self.guard.server is not None else ""
        return f"poolguard: {line}" if line else None

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtestloop(self) -> None:
        with self.guard.shield("looking at the threads that run"):
            self.guard.bystanders.note()
        # Ours must be the outermost wrappers, outside of any conftest's that is "tryfirst" too: those would
        # see the stand-in of a call report. The one registered last is.
        hooks = self.config.pluginmanager.unregister(name=TEST_HOOKS)
        if hooks is not None:
            self.config.pluginmanager.register(hooks, TEST_HOOKS)

    @pytest.hookimpl(trylast=True)
    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        if self.guard.is_in_a_fork:
            return
        output = getattr(self.config, "workeroutput", None)
        if not self.guard.is_controller:
            with self.guard.shield("ending the session"):
                self.ending.end_session()
        if output is None and not runs_no_test(self.config):
            with self.guard.shield("comparing with the baseline"):
                self.guard.outside.conclude()
                junit.note_end(self.config, self.guard.tally)
        if output is not None:
            output[ATTRIBUTE] = self.guard.tally.to_worker_output()
        elif self.guard.tally.fails_the_run and session.exitstatus in (
            pytest.ExitCode.OK,
            pytest.ExitCode.NO_TESTS_COLLECTED,
        ):
            session.exitstatus = pytest.ExitCode.TESTS_FAILED
        if output is None:
            ended = session.exitstatus in ENDED and not (session.shouldstop or session.shouldfail)
            self.write_json(int(session.exitstatus), finished=ended and not self.was_stopped)

    def pytest_unconfigure(self) -> None:
        # The session never began, or another plugin's end of it has failed before ours.
        if not self.is_written and not hasattr(self.config, "workeroutput"):
            self.write_json(None, finished=False)

    def write_json(self, exit_code: int | None, *, finished: bool) -> None:
        settings, tally = self.guard.settings, self.guard.tally
        if not settings.json or self.guard.is_in_a_fork:
            return
        self.is_written = True
        # pytest's own directory: tests may have left the process in another one
        path = os.path.join(self.config.invocation_params.dir, settings.json)
        with self.guard.shield("writing the findings"):
            run = tally.run = self.ending.this_run()
            run.know_versions(self.config, tally.patched)
            run.exit_code, run.finished = exit_code, finished and not tally.lost_worker
            try:
                json_file.write(path, tally)
            except OSError as error:
                tally.notices.append(f"the findings could not be written to {printable(path)}: {error.strerror}")

    def pytest_terminal_summary(self, terminalreporter: Any) -> None:
        if self.guard.is_in_a_fork:
            return
        if runs_no_test(self.config) and not self.guard.tally.findings:
            return  # it was not meant to use a pool
        faults = self.guard.tally.faults
        known = len(faults)
        with self.guard.shield("writing the summary"):
            rows = self.guard.settings.stats
            if rows is not None:
                statistics.write(terminalreporter, self.guard.tally.uses, rows, self.config.get_verbosity())
            summary.write(terminalreporter, self.guard.tally, self.config.get_verbosity())
            summary.count_errors(terminalreporter, self.guard.tally)
            if self.guard.on_github and not hasattr(self.config, "workerinput"):
                self.tell_github(terminalreporter)
        for text in faults[known:]:
            terminalreporter.write_line(notices.fault(text))

    def tell_github(self, terminalreporter: Any) -> None:
        tally, root = self.guard.tally, str(self.config.rootpath)
        name = github.below(os.environ.get("GITHUB_WORKSPACE") or root, root)
        for line in github.commands(tally, name):
            terminalreporter.write_line(line)
        path, text = os.environ.get("GITHUB_STEP_SUMMARY"), github.job_summary(tally, name)
        if path and text:
            try:
                with open(path, "a", encoding="utf-8") as file:
                    file.write(text)
            except OSError as error:
                terminalreporter.write_line(f"poolguard: the job summary could not be written: {error.strerror}")

    def pytest_enter_pdb(self) -> None:
        self.guard.clock.stop()

    def pytest_leave_pdb(self) -> None:
        self.guard.clock.go()


class ControllerHooks:
    """What the controller of an xdist run hears from its workers."""

    def __init__(self, guard: Guard) -> None:
        self.guard = guard
        self.ending = Ending(guard)

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        self.guard.heard(report)

    @pytest.hookimpl(tryfirst=True)
    def pytest_sessionfinish(self) -> None:
        """The workers are through, and xdist has not yet ended their processes."""
        with self.guard.shield("looking at what the workers have left"):
            self.ending.visit_servers()

    @pytest.hookimpl(optionalhook=True)
    def pytest_configure_node(self, node: Any) -> None:
        self.guard.name.part_of(node.workerinput["testrunuid"])
        if self.guard.faults is not None:
            node.workerinput.update(self.guard.faults.for_worker())

    @pytest.hookimpl(optionalhook=True)
    def pytest_testnodedown(self, node: Any) -> None:
        self.guard.worker_ended(node.gateway.id, getattr(node, "workeroutput", {}).get(ATTRIBUTE))


class ToleranceHooks:
    """Which tests there are and which have run: only then can a site be said to leak no more."""

    def __init__(self, tolerance: Tolerance, config: pytest.Config) -> None:
        self.selection = tolerance.selection
        self.config = config

    def pytest_itemcollected(self, item: pytest.Item) -> None:
        self.selection.collect(item.nodeid)

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        if report.failed:
            self.selection.miss()

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        self.selection.hear(report)

    @pytest.hookimpl(tryfirst=True)
    def pytest_sessionfinish(self) -> None:
        output = getattr(self.config, "workeroutput", None)
        if output is not None:
            output[COLLECTED] = self.selection.collected

    @pytest.hookimpl(optionalhook=True)
    def pytest_testnodedown(self, node: Any) -> None:
        collected = getattr(node, "workeroutput", {}).get(COLLECTED)
        if collected is None:  # it crashed
            self.selection.is_lost = True
        else:
            self.selection.add_worker(collected)


class TestHooks:
    """What happens for every test and fixture."""

    __test__ = False

    def __init__(self, guard: Guard) -> None:
        self.guard = guard
        self.settling = Settling(guard)
        shield = guard.shield
        self._at_begin = shield("beginning a test", books=True)
        self._at_body = shield("beginning a test's body", books=True)
        self._at_teardown = shield("beginning a test's teardown", books=True)
        self._at_end = shield("ending a test")
        self._at_fixture = shield("beginning a fixture", books=True)
        self._at_fixture_end = shield("ending a fixture's set-up", books=True)
        self._at_report = shield("settling a report")
        self._at_lock = shield("looking at who is in the way")
        self._at_finish = shield("finishing a test")

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_runtest_protocol(self, item: pytest.Item) -> Generator[None, object, object]:
        try:
            return (yield)
        finally:
            with self._at_finish:
                self.settling.finish(item)
                if self.guard.server is not None:
                    self.guard.server.stuck.interrupted(item)

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_runtest_setup(self, item: pytest.Item) -> Generator[None, None, None]:
        with self._at_begin:
            self.guard.begin_test(item)
        return (yield)

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_call(self) -> None:
        with self._at_body:
            self.guard.owners.enter("body")

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_runtest_teardown(self, item: pytest.Item) -> Generator[None, None, None]:
        with self._at_teardown:
            self.guard.owners.enter("teardown")
            if self.guard.faults is not None:
                self.guard.faults.before_teardown(item)
        try:
            return (yield)
        finally:
            with self._at_end:
                self.guard.end_test()

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_fixture_setup(
        self, fixturedef: pytest.FixtureDef[Any], request: pytest.FixtureRequest
    ) -> Generator[None, object, object]:
        owners = self.guard.owners
        before = owners.ledger.present
        with self._at_fixture:
            owners.begin_fixture(fixturedef, request)
        try:
            return (yield)
        finally:
            with self._at_fixture_end:
                owners.end_setup(fixturedef, before)

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_runtest_makereport(
        self, item: pytest.Item, call: pytest.CallInfo[Any]
    ) -> Generator[None, pytest.TestReport, pytest.TestReport]:
        if self.guard.refusals.any:
            with self.guard.shield("looking at who had a pool's connections"):
                self.guard.refusals.look(call.excinfo.value if call.excinfo is not None else None)
        if self.guard.faults is not None and call.when == "teardown":
            self.guard.faults.take_off(call)
        report = yield
        with self._at_lock:
            if self.guard.server is not None:
                error = call.excinfo.value if call.excinfo is not None else None
                self.guard.server.stuck.tell(item, report, error)
        if report.failed and call.excinfo is not None and self.guard.watch.sessions.is_used:
            with self.guard.shield("looking at which limit was reached"):
                overrun.tell(item, report, call.excinfo.value, self.guard.watch.sessions.recent())
        with self._at_report:
            if report.when == "teardown" and self.guard.server is not None:
                self.guard.server.announce(report)
            if report.when == "teardown":
                self.guard.measuring.attach(report)
            return self.settling.made(item, report)
        return report

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        self.guard.deferral.saw(report)
        if self.guard.faults is not None:
            self.guard.faults.heard(report)
        if not self.guard.is_controller:
            self.guard.heard(report)

    @pytest.hookimpl(optionalhook=True, tryfirst=True)
    def pytest_timeout_set_timer(self, settings: Any) -> None:
        """pytest-timeout's: by this method of its it ends the whole process, and there will be no report."""
        if self.guard.server is not None and settings.method == "thread":
            self.guard.server.stuck.lookout.killed_in(settings.timeout)

    @pytest.hookimpl(optionalhook=True, tryfirst=True)
    def pytest_timeout_cancel_timer(self) -> None:
        if self.guard.server is not None:
            self.guard.server.stuck.lookout.killed_in(None)
