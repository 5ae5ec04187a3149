"""Watch the libraries that the suite imports, and prove where it can be proved that they are watched."""

from __future__ import annotations

import sys
from collections.abc import Callable
from types import ModuleType

from pytest_poolguard.books.origin import SourceTree, printable
from pytest_poolguard.drivers.canaries import AT_IMPORT
from pytest_poolguard.drivers.canary import NotSeen
from pytest_poolguard.drivers.imports import is_there
from pytest_poolguard.drivers.interface import AddedDriver, Driver, Watch
from pytest_poolguard.drivers.known import driver_of
from pytest_poolguard.tally import Tally

__all__ = ["Libraries"]


class Libraries:
    """The drivers of one run, from each library's import to :meth:`undo`."""

    def __init__(
        self, watch: Watch, tree: SourceTree, tally: Tally, fault: Callable[[str, BaseException], None]
    ) -> None:
        self._watch = watch
        self._tree = tree
        self._tally = tally
        self._fault = fault
        self._drivers: dict[str, Driver] = {}
        self._added: list[AddedDriver] = []

    def imported(self, library: str, name: str, module: ModuleType) -> None:
        """A module of a known library was imported: watch it."""
        try:
            if library not in self._drivers:
                self._drivers[library] = driver_of(library)(self._watch)
            driver = self._drivers[library]
        except Exception as error:
            self._fault(f"loading the driver of {library}", error)
            return
        self.watch_module(driver, name, module)

    def watch_module(self, driver: Driver, name: str, module: ModuleType) -> None:
        """A module of a driver's library was imported: watch it."""
        try:
            driver.modules[name](module)
            self._prove(name, module)
            for folder in getattr(sys.modules.get(driver.library), "__path__", ()):
                self._tree.fold(folder)
        except Exception as error:
            text = f"{_known(driver)} is not watched: {printable(str(error))}"
            if text not in self._tally.unwatched:
                self._tally.unwatched.append(text)
            return
        known = _known(driver)
        if known not in self._tally.patched:
            self._tally.patched.append(known)

    def _prove(self, name: str, module: ModuleType) -> None:
        """Let what can be proved unnoticed be proved at once; raises :class:`NotSeen`."""
        proof = AT_IMPORT.get(name) if self._watch.active else None
        if proof is None:
            return
        try:
            list(proof(module, self._watch.ledger))
        except NotSeen:
            raise
        except Exception:
            return  # another release, it may be, or a double: nothing was proved, and nothing refuted

    def add(self, driver: AddedDriver) -> None:
        """Let a driver of the suite's own report to this run."""
        driver.begin(self._watch)
        self._added.append(driver)

    def find_misspelt(self) -> None:
        """Say which modules were named and can't be imported: they would never be watched."""
        for driver in self._added:
            for name in driver.modules:
                if name not in sys.modules and not is_there(name):
                    self._tally.unwatched.append(f"{driver.library} is not watched: there is no module {name}")

    def undo(self) -> None:
        """Give every library back as it was."""
        for driver in (*self._drivers.values(), *self._added):
            driver.undo()


def _known(driver: Driver) -> str:
    return f"{driver.library} {driver.version()}".strip()
