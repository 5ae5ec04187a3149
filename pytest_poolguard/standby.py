"""Wait for a library to watch, and make the guard when there is one.

A suite without a database never loads more of the plugin than this, the settings and the hooks that it takes.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable
from functools import partial
from types import ModuleType
from typing import TYPE_CHECKING

import pytest

from pytest_poolguard.drivers.imports import ImportWatch
from pytest_poolguard.drivers.known import LIBRARIES
from pytest_poolguard.server.run_name import RunName
from pytest_poolguard.settings import Settings

if TYPE_CHECKING:
    from pytest_poolguard.baseline.tolerance import Tolerance
    from pytest_poolguard.drivers.interface import AddedDriver
    from pytest_poolguard.guard import Guard

__all__ = ["Standby"]


STDERR = 2


class Standby:
    """Watches imports from :meth:`start` to :meth:`stop`."""

    def __init__(self, config: pytest.Config, settings: Settings) -> None:
        self.settings = settings
        self.name = RunName()
        # Not within a test of another run. Later, our own tests are in the environment.
        self._on_github = os.environ.get("GITHUB_ACTIONS") == "true" and "PYTEST_CURRENT_TEST" not in os.environ
        self._config = config
        self._guard: Guard | None = None
        self.tolerance: Tolerance | None = None
        if settings.baseline or settings.ignore:
            from pytest_poolguard.baseline.tolerance import Tolerance  # noqa: PLC0415 - few suites have any

            self.tolerance = Tolerance(settings, config)
        self._stderr = _second_name_of(STDERR)  #: pytest is about to capture the first
        modules = [(library, name) for library, (_, names) in LIBRARIES.items() for name in names]
        self._imports = ImportWatch({name: partial(self._imported, library, name) for library, name in modules})
        if settings.pools:
            from pytest_poolguard.drivers.inhouse import InHouse  # noqa: PLC0415 - few suites name some

            for pool_class in settings.pools:
                self.add(InHouse(pool_class))

    def start(self) -> None:
        """Watch imports from now on."""
        self._imports.install()

    def stop(self) -> None:
        """Watch no longer, and give every library back as it was."""
        self._imports.uninstall()
        self.name.give_up()
        if self._guard is not None:
            self._guard.stop()
        stderr, self._stderr = self._stderr, None
        if stderr is not None:
            with contextlib.suppress(OSError):  # a suite may have closed all there are
                os.close(stderr)

    @property
    def is_awaited(self) -> bool:
        """Whether somebody waits for the guard's findings in any case, or for the signal."""
        return bool(self.settings.json or self.settings.dump_signal or self.tolerance)

    @property
    def is_idle(self) -> bool:
        """Whether nothing has asked for the guard so far."""
        return self._guard is None

    def guard(self) -> Guard:
        """The guard of this run, made when it is first asked for."""
        if self._guard is None:
            from pytest_poolguard.guard import Guard  # noqa: PLC0415 - see above
            from pytest_poolguard.hooks import RunHooks  # noqa: PLC0415

            self._guard = Guard(self._config, self.settings, self.name, self.tolerance, on_github=self._on_github)
            if self.settings.server != "off":
                self.name.take()
            if self._stderr is not None:
                self._guard.tell_hangs(self._stderr)
            self._config.pluginmanager.register(RunHooks(self._guard, self._config), "poolguard-run")
            if self.tolerance is not None:
                from pytest_poolguard.hooks import ToleranceHooks  # noqa: PLC0415

                hooks = ToleranceHooks(self.tolerance, self._config)
                self._config.pluginmanager.register(hooks, "poolguard-tolerance")
        return self._guard

    def add(self, driver: AddedDriver) -> None:
        """Watch for the modules of a driver of the suite's own."""
        self.guard().libraries.add(driver)
        for name in driver.modules:
            self._imports.add(name, partial(self._added_imported, driver, name))

    def _added_imported(self, driver: AddedDriver, name: str, module: ModuleType) -> None:
        self._watched(partial(self.guard().libraries.watch_module, driver, name, module))

    def _imported(self, library: str, name: str, module: ModuleType) -> None:
        self._watched(partial(self.guard().libraries.imported, library, name, module))

    def _watched(self, watch: Callable[[], None]) -> None:
        guard = self.guard()
        is_first = not guard.tally.patched
        watch()
        if is_first and guard.tally.patched:
            from pytest_poolguard.hooks import watch_tests  # noqa: PLC0415 - see above

            with guard.shield("beginning to watch"):
                watch_tests(self._config, guard)


def _second_name_of(descriptor: int) -> int | None:
    with contextlib.suppress(OSError):  # it may be closed
        return os.dup(descriptor)
    return None
