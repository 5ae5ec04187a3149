"""The plugin as pytest knows it: options, marker, fixture, and the beginning of a run.

A suite without a database pays for nothing more: what guards one is loaded when it is needed.
"""

from __future__ import annotations

import sys
from collections.abc import Generator
from types import FunctionType
from typing import TYPE_CHECKING, Any

import pytest
from _pytest import fixtures
from _pytest._io import TerminalWriter

from pytest_poolguard import hookspec
from pytest_poolguard.drivers.known import NEVER_IMPORTED
from pytest_poolguard.options import MARKER, MARKER_HELP
from pytest_poolguard.settings import add_options, read_settings, runs_no_test
from pytest_poolguard.standby import Standby

if TYPE_CHECKING:
    from pytest_poolguard.fixture import PoolGuard

__all__ = ["poolguard"]

STANDBY = pytest.StashKey[Standby]()


def pytest_addhooks(pluginmanager: pytest.PytestPluginManager) -> None:
    pluginmanager.add_hookspecs(hookspec)


def pytest_addoption(parser: pytest.Parser) -> None:
    add_options(parser)


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_load_initial_conftests(early_config: pytest.Config) -> Generator[None, Any, Any]:
    stand_by(early_config, early_config.known_args_namespace)  # conftests make pools, too
    return (yield)


@pytest.hookimpl(tryfirst=True)
def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", MARKER_HELP)
    if STANDBY not in config.stash:
        stand_by(config, config.option)
    standby = config.stash.get(STANDBY, None)
    if standby is not None:
        for drivers in config.hook.pytest_poolguard_drivers(config=config):
            for driver in drivers:
                standby.add(driver)
    # xdist turns -n into dist before it configures; its workers get a workerinput.
    is_worker = hasattr(config, "workerinput")
    is_xdist = is_worker or config.getoption("dist", "no") != "no"
    if standby is not None and (is_xdist or standby.is_awaited):
        guard = standby.guard()
        if is_worker:
            given = getattr(config, "workerinput")  # noqa: B009 - xdist puts it there
            guard.describe.worker = given["workerid"]
            standby.name.part_of(given["testrunuid"], given["workerid"])
        elif is_xdist:
            hear_workers(config, standby)


def pytest_cmdline_main(config: pytest.Config) -> int | None:
    if not config.getoption("poolguard_selftest"):
        return None
    from pytest_poolguard.selftest import SelfTest  # noqa: PLC0415 - see above

    standby = config.stash.get(STANDBY, None)
    if standby is not None:
        standby.stop()  # it has books of its own
    writer = TerminalWriter(sys.stdout)
    return SelfTest(writer.line).run(read_settings(config, config.option).pools)


def stand_by(config: pytest.Config, flags: Any) -> None:
    """Watch for libraries from now on, unless poolguard is off."""
    settings = read_settings(config, flags)
    if settings.mode == "off" or STANDBY in config.stash:
        return
    standby = config.stash[STANDBY] = Standby(config, settings)
    config.add_cleanup(standby.stop)
    standby.start()


def hear_workers(config: pytest.Config, standby: Standby) -> None:
    """Let the controller of an xdist run hear what its workers find."""
    from pytest_poolguard.hooks import ControllerHooks  # noqa: PLC0415 - see above

    standby.guard().is_controller = True
    standby.name.give_up()  # the workers are to have their own
    config.pluginmanager.register(ControllerHooks(standby.guard()), "poolguard-controller")


@pytest.fixture(scope="session")
def poolguard(request: pytest.FixtureRequest) -> PoolGuard:
    """What the test that runs has checked out of its pools: ``checked_out``, ``peak``, ``waits``, ``holds``.

    ``outstanding`` is everything that is out.
    And ``watch_server(dsn)``, for a server that a fixture has started.
    """
    from pytest_poolguard.fixture import PoolGuard  # noqa: PLC0415 - see above

    standby = request.config.stash.get(STANDBY, None)
    if standby is None:
        pytest.skip("poolguard is off in this run")
    guard = standby.guard()
    sources = guard.server.sources if guard.server is not None else None
    return PoolGuard(guard.ledger, guard.owners, guard.describe, guard.watch.counting, sources)


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report(
    collector: pytest.Collector,
) -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    report = yield
    standby = collector.config.stash.get(STANDBY, None)
    # A module that could not be imported would be imported again for a look at it.
    if standby is not None and report.passed and MARKER in marker_names(collector, report.result):
        from pytest_poolguard.marker import refuse_wrong_markers  # noqa: PLC0415 - see above

        with standby.guard().shield("reading the pool markers"):
            refuse_wrong_markers(collector, report)
    return report


def marker_names(collector: pytest.Collector, collected: list[Any]) -> set[str]:
    """The markers of a collector, of what was collected from it, and of the functions in it."""
    names = {mark.name for node in (*collector.listchain(), *collected) for mark in node.own_markers}
    if isinstance(collector, pytest.Module | pytest.Class):
        for function in vars(collector.obj).values():
            if type(function) is FunctionType or type(function).__module__ == fixtures.__name__:
                marks = getattr(getattr(function, "__wrapped__", function), "pytestmark", ())
                names.update(mark.name for mark in marks)
    return names


def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> None:
    standby = config.stash.get(STANDBY, None)
    if standby is not None and standby.is_idle and not runs_no_test(config):
        terminalreporter.write_sep("=", "poolguard")
        terminalreporter.write_line(NEVER_IMPORTED)
