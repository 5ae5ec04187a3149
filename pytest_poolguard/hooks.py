"""The hooks of a run that has something to watch: each calls something with a name.

Those that run for every test are registered when the first watched library is imported.
"""

from __future__ import annotations

import os
from collections.abc import Generator
from typing import Any

import pytest

from pytest_poolguard.guard import Guard
from pytest_poolguard.origin import printable
from pytest_poolguard.reports import json_file, summary
from pytest_poolguard.settings import runs_no_test
from pytest_poolguard.settling import Settling
from pytest_poolguard.tally import ATTRIBUTE

__all__ = ["ControllerHooks", "RunHooks", "watch_tests"]

TEST_HOOKS = "poolguard-tests"


def watch_tests(config: pytest.Config, guard: Guard) -> None:
    """A watched library was imported: from now on every test and fixture has an owner."""
    config.pluginmanager.register(TestHooks(guard), TEST_HOOKS)
    guard.owners.adopt(config, guard.begin_test)


class RunHooks:
    """What happens once in a run."""

    def __init__(self, guard: Guard, config: pytest.Config) -> None:
        self.guard = guard
        self.config = config

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
        with self.guard.shield("ending the session"):
            self.guard.end_session(is_worker=output is not None)
        if output is not None:
            output[ATTRIBUTE] = self.guard.tally.to_worker_output()
        elif self.guard.tally.fails_the_run and session.exitstatus in (
            pytest.ExitCode.OK,
            pytest.ExitCode.NO_TESTS_COLLECTED,
        ):
            session.exitstatus = pytest.ExitCode.TESTS_FAILED
        if output is None and self.guard.settings.json:
            # pytest's own directory: tests may have left the process in another one
            self.write_json(os.path.join(self.config.invocation_params.dir, self.guard.settings.json))

    def write_json(self, path: str) -> None:
        with self.guard.shield("writing the findings"):
            try:
                json_file.write(path, self.guard.tally)
            except OSError as error:
                self.guard.tally.notices.append(
                    f"the findings could not be written to {printable(path)}: {error.strerror}"
                )

    def pytest_terminal_summary(self, terminalreporter: Any) -> None:
        if self.guard.is_in_a_fork:
            return
        if runs_no_test(self.config) and not self.guard.tally.findings:
            return  # it was not meant to use a pool
        faults = self.guard.tally.faults
        known = len(faults)
        with self.guard.shield("writing the summary"):
            summary.write(terminalreporter, self.guard.tally, self.config.get_verbosity())
            summary.count_errors(terminalreporter, self.guard.tally)
        for text in faults[known:]:
            terminalreporter.write_line(summary.fault(text))

    def pytest_enter_pdb(self) -> None:
        self.guard.clock.stop()

    def pytest_leave_pdb(self) -> None:
        self.guard.clock.go()


class ControllerHooks:
    """What the controller of an xdist run hears from its workers."""

    def __init__(self, guard: Guard) -> None:
        self.guard = guard

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        self.guard.heard(report)

    @pytest.hookimpl(optionalhook=True)
    def pytest_configure_node(self, node: Any) -> None:
        self.guard.name.part_of(node.workerinput["testrunuid"])

    @pytest.hookimpl(optionalhook=True)
    def pytest_testnodedown(self, node: Any) -> None:
        self.guard.tally.add_worker(node.gateway.id, getattr(node, "workeroutput", {}).get(ATTRIBUTE))


class TestHooks:
    """What happens for every test and fixture."""

    __test__ = False

    def __init__(self, guard: Guard) -> None:
        self.guard = guard
        self.settling = Settling(guard)

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_runtest_protocol(self, item: pytest.Item) -> Generator[None, object, object]:
        try:
            return (yield)
        finally:
            with self.guard.shield("finishing a test"):
                self.settling.finish(item)

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_runtest_setup(self, item: pytest.Item) -> Generator[None, None, None]:
        with self.guard.shield("beginning a test", books=True):
            self.guard.begin_test(item)
        return (yield)

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_call(self) -> None:
        with self.guard.shield("beginning a test's body", books=True):
            self.guard.owners.enter("body")

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_runtest_teardown(self) -> Generator[None, None, None]:
        with self.guard.shield("beginning a test's teardown", books=True):
            self.guard.owners.enter("teardown")
        try:
            return (yield)
        finally:
            with self.guard.shield("ending a test"):
                self.guard.end_test()

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_fixture_setup(
        self, fixturedef: pytest.FixtureDef[Any], request: pytest.FixtureRequest
    ) -> Generator[None, object, object]:
        owners = self.guard.owners
        before = owners.ledger.present
        with self.guard.shield("beginning a fixture", books=True):
            owners.begin_fixture(fixturedef, request)
        try:
            return (yield)
        finally:
            with self.guard.shield("ending a fixture's set-up", books=True):
                owners.end_setup(fixturedef, before)

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_runtest_makereport(
        self, item: pytest.Item, call: pytest.CallInfo[None]
    ) -> Generator[None, pytest.TestReport, pytest.TestReport]:
        if self.guard.refusals.any:
            with self.guard.shield("looking at who had a pool's connections"):
                self.guard.refusals.look(call.excinfo.value if call.excinfo is not None else None)
        report = yield
        with self.guard.shield("settling a report"):
            return self.settling.made(item, report)
        return report

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        self.guard.deferral.saw(report)
        if not self.guard.is_controller:
            self.guard.heard(report)
