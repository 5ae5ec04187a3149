"""Which library asks, where no connection has settled it."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from types import ModuleType

from pytest_poolguard.drivers.lines.asyncpg import AsyncpgLine
from pytest_poolguard.drivers.lines.libpq import PqLine, Psycopg2Line
from pytest_poolguard.drivers.lines.pg8000 import Pg8000Line
from pytest_poolguard.drivers.moment import Line

__all__ = ["imported_line", "line_of"]

#: The best first: those with libpq know every DSN.
LINES: dict[str, Callable[[ModuleType], Line]] = {
    "psycopg2": Psycopg2Line,
    "psycopg": PqLine,
    "asyncpg": AsyncpgLine,
    "pg8000": Pg8000Line,
}


def line_of(modules: Mapping[str, object]) -> Line | None:
    """The line of the best library among those that were imported; None where there is none.

    ``modules`` is ``sys.modules``, or what was there at some time.
    """
    for name, line in LINES.items():
        module = modules.get(name)
        if isinstance(module, ModuleType):  # and no mock of it
            try:
                return line(module)
            except AttributeError:  # it stands in for the library, or its import is not over
                continue
    return None


def imported_line() -> Line | None:
    """The line of the best library that is installed, which this imports; None where there is none.

    For a process that runs no test: a suite's own process imports what the suite does, and nothing else.
    """
    for name in LINES:
        try:
            module = importlib.import_module(name)
        except Exception:  # also one without its libpq  # noqa: S112
            continue
        line = line_of({name: module})
        if line is not None:
            return line
    return None
