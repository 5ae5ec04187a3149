"""The table of libraries and cases in docs/libraries.md is what the contract's tests say."""

from __future__ import annotations

from pathlib import Path
from types import FunctionType

from contract import test_bad_days, test_contract, test_exhausted, test_nested, test_session_limits
from contract.libraries import LIBRARIES, Library

PAGE = Path(__file__).parent.parent / "docs/libraries.md"
#: The columns, and which of the libraries they speak for.
COLUMNS = {
    "psycopg2": lambda library: library.name == "psycopg2",
    "psycopg_pool": lambda library: library.name == "psycopg_pool",
    "asyncpg": lambda library: library.name == "asyncpg",
    "SQLAlchemy": lambda library: library.name == "sqlalchemy" and library.keeps,
    "its NullPool": lambda library: library.name == "sqlalchemy" and not library.keeps,
    "a pool you name": lambda library: bool(library.in_house),
}


def case(test: FunctionType) -> str:
    """What a test says, as a sentence of the table."""
    return test.__name__.removeprefix("test_").replace("_", " ").replace("pools ", "pool's ")


def those_of(test: FunctionType) -> list[Library]:
    """The libraries that a test runs for."""
    for mark in getattr(test, "pytestmark", ()):
        if mark.name == "parametrize" and mark.args[0] == "lib":
            return mark.args[1]
    return list(LIBRARIES)


def cell(test: FunctionType, column: str) -> str:
    """Whether a test runs for all of a column's libraries, for some, or for none."""
    column_libraries = [library for library in LIBRARIES if COLUMNS[column](library)]
    applies = [library in those_of(test) for library in column_libraries]
    if all(applies):
        return "yes"
    if not any(applies):
        return "no"
    is_async = {library.is_async for library in column_libraries if library in those_of(test)}
    assert len(is_async) == 1, "neither all, nor all of a kind"
    return "async" if is_async.pop() else "sync"


def table() -> list[str]:
    tests = [
        test
        for module in (test_contract, test_bad_days, test_exhausted, test_nested, test_session_limits)
        for name, test in vars(module).items()
        if name.startswith("test_")
    ]
    lines = [f"| Case | {' | '.join(COLUMNS)} |", f"| --- |{' --- |' * len(COLUMNS)}"]
    return lines + [
        f"| {case(test)} | {' | '.join(cell(test, column) for column in COLUMNS)} |" for test in tests
    ]


def test_the_table_is_what_is_tested():
    shown = [line for line in PAGE.read_text("utf-8").splitlines() if line.startswith("|")]
    assert [line for line in table() if line not in shown] == []
    first = shown.index(table()[0])
    assert shown[first : first + len(table())] == table()


def test_every_library_has_a_column():
    assert all(any(speaks(library) for speaks in COLUMNS.values()) for library in LIBRARIES)
