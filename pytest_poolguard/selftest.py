"""``--poolguard-selftest``: import each library, prove that it is watched, and say so."""

from __future__ import annotations

import contextlib
import importlib
import platform
from collections.abc import Callable, Iterator

import pytest

from pytest_poolguard.books.clock import Clock
from pytest_poolguard.books.ledger import Ledger
from pytest_poolguard.books.origin import printable
from pytest_poolguard.books.records import Owner
from pytest_poolguard.books.redaction import redacted
from pytest_poolguard.drivers.canaries import CANARIES
from pytest_poolguard.drivers.canary import NotSeen
from pytest_poolguard.drivers.imports import is_there
from pytest_poolguard.drivers.inhouse import InHouse
from pytest_poolguard.drivers.interface import Driver, Unsupported, Watch
from pytest_poolguard.drivers.known import LIBRARIES, driver_of
from pytest_poolguard.naming import PoolClass
from pytest_poolguard.this_run import own_version

__all__ = ["SelfTest"]


class SelfTest:
    """Has books of its own; ``write`` takes each line."""

    def __init__(self, write: Callable[[str], None]) -> None:
        self._write = write
        self.failed = False
        self._ledger = Ledger(Clock(), Owner("session", "session", phase=""))
        self._faults: list[str] = []
        self._watch = Watch(
            self._ledger,
            lambda doing, error: self._faults.append(f"{type(error).__name__} while {doing}: {error}"),
            lambda _opening, _asker: None,
        )

    def run(self, named: tuple[PoolClass, ...]) -> int:
        """Prove everything that is installed, and the pool classes that were named; returns the exit code."""
        self._write(
            f"pytest-poolguard {own_version()}, pytest {pytest.__version__}, Python {platform.python_version()}"
        )
        for library in LIBRARIES:
            if is_there(library):
                self._library(library)
            else:
                self._write(f"{library}: not installed")
        for pool_class in named:
            self._tell(str(pool_class), self._named(pool_class))
        return int(self.failed)

    def _tell(self, known: str, outcome: str) -> None:
        faults, self._faults[:] = list(self._faults), []
        if faults:
            self.failed = True
            outcome = f"NOT watched: {faults[0]}"
        self._write(redacted(printable(f"{known}: {outcome}")))

    def _library(self, library: str) -> None:
        try:
            importlib.import_module(library)
        except Exception as error:
            self._tell(library, f"can't be imported, so there is nothing to watch ({_text(error)})")
            return
        driver = driver_of(library)(self._watch)
        with self._shown(driver) as shown:
            for name in LIBRARIES[library][1]:
                if is_there(name):
                    driver.modules[name](importlib.import_module(name))
            proved = []
            for name, prove in CANARIES[library].items():
                proved += list(prove(importlib.import_module(name), self._ledger))
            shown.append(f"watched ({', '.join(proved)})")
        self._tell(f"{library} {driver.version()}", shown[0])

    def _named(self, pool_class: PoolClass) -> str:
        driver = InHouse(pool_class)
        driver.begin(self._watch)
        with self._shown(driver) as shown:
            driver.modules[pool_class.module](importlib.import_module(pool_class.module))
            shown.append("its methods are replaced; what they do, only a test that calls them can prove")
        return shown[0]

    @contextlib.contextmanager
    def _shown(self, driver: Driver) -> Iterator[list[str]]:
        """Where an outcome is put: that of the block, or why there is none."""
        shown: list[str] = []
        try:
            yield shown
        except Exception as error:
            self.failed = True
            shown[:] = [f"NOT watched: {_text(error)}"]
        finally:
            driver.undo()


def _text(error: Exception) -> str:
    return str(error) if isinstance(error, Unsupported | NotSeen) else f"{type(error).__name__}: {error}"
