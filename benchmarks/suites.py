"""What a whole run of pytest costs, with and without the plugin: processor time of subprocesses, by turns."""

from __future__ import annotations

import math
import os
import resource
import shutil
import statistics
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from rows import Row

__all__ = ["database_rows", "empty_rows"]

HERE = Path(__file__).parent
PYTEST = (sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider")
BARE = ("-p", "no:poolguard")
GUARDED = ("-p", "poolguard")
#: Environment variables of the runs. Bytecode is kept, as it is where a plugin was installed.
UNWANTED = ("PYTEST", "COV", "PYTHONDONTWRITEBYTECODE")
WANTED = {"PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1", "PYTHONHASHSEED": "0"}

#: Tests of the suite without a database; percent that poolguard may add to its run.
EMPTY_TESTS = 2000
MOST = 2.0
#: Tests of the suite with a database.
DATABASE_TESTS = 500
TESTS_PER_FILE = 100

DATABASE_CONFTEST = """
import psycopg2.pool
import pytest
import standin

pool = standin.fill(psycopg2.pool.ThreadedConnectionPool(0, 10), 2)


@pytest.fixture
def connection():
    connection = pool.getconn()
    yield connection
    pool.putconn(connection)
"""


class Suite:
    """A folder of generated tests."""

    def __init__(self, folder: Path, tests: int, argument: str = "") -> None:
        self._folder = folder
        folder.mkdir()
        (folder / "pytest.ini").write_text("[pytest]\n", encoding="utf-8")
        for first in range(0, tests, TESTS_PER_FILE):
            numbers = range(first, min(first + TESTS_PER_FILE, tests))
            text = "\n\n".join(f"def test_{n}({argument}):\n    pass\n" for n in numbers)
            (folder / f"test_from_{first}.py").write_text(text, encoding="utf-8")

    def add(self, name: str, text: str) -> None:
        """Write one more file."""
        (self._folder / name).write_text(text, encoding="utf-8")

    def milliseconds(self, flags: tuple[str, ...]) -> float:
        """Processor time, user and system, of one run."""
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        self._run(flags, 0)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        return (after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime) * 1e3

    def pairs(self, rounds: int) -> list[tuple[float, float]]:
        """Milliseconds bare and guarded, one after the other; every second time the other way round."""
        # An option of the plugin's tells whether it is there; these runs write the bytecode, too.
        self._run((*BARE, "--poolguard=fail"), 4)
        self._run((*GUARDED, "--poolguard=fail"), 0)
        found = []
        for number in range(rounds):
            if number % 2:
                guarded, bare = self.milliseconds(GUARDED), self.milliseconds(BARE)
            else:
                bare, guarded = self.milliseconds(BARE), self.milliseconds(GUARDED)
            found.append((bare, guarded))
        return found

    def _run(self, flags: tuple[str, ...], expected: int) -> None:
        clean = {name: value for name, value in os.environ.items() if not name.startswith(UNWANTED)}
        run = subprocess.run(
            [*PYTEST, *flags],
            cwd=self._folder,
            env={**clean, **WANTED, "PYTHONPYCACHEPREFIX": str(self._folder.parent / "bytecode")},
            capture_output=True,
            text=True,
            check=False,
        )
        if run.returncode != expected:
            raise RuntimeError(f"pytest ended with {run.returncode}:\n{run.stdout}{run.stderr}")


@contextmanager
def _folder() -> Iterator[Path]:
    with TemporaryDirectory(prefix="poolguard-benchmark-") as folder:
        yield Path(folder).resolve()


def _error(values: list[float]) -> float:
    """Estimate the standard error of a median, from the median distance to it: outliers don't count."""
    middle = statistics.median(values)
    spread = 1.4826 * statistics.median(abs(value - middle) for value in values)
    return 1.2533 * spread / math.sqrt(len(values))


def _row(what: str, pairs: list[tuple[float, float]], most: float | None = None) -> Row:
    bare = statistics.median(bare for bare, _ in pairs)
    guarded = statistics.median(guarded for _, guarded in pairs)
    difference = statistics.median(guarded - bare for bare, guarded in pairs)
    ratios = [guarded / bare for bare, guarded in pairs]
    ratio = statistics.median(ratios)
    return Row(
        what,
        f"{bare:.1f} ms",
        f"{guarded:.1f} ms",
        f"{difference:+.1f} ms",
        f"{ratio:.4f} ±{_error(ratios):.4f}",
        "" if most is None else f"{1 + most / 100:.4f}",
        None if most is None else ratio <= 1 + most / 100,
    )


def empty_rows(rounds: int) -> list[Row]:
    """Measure tests that never import a database library."""
    with _folder() as folder:
        one = Suite(folder / "one", 1).pairs(rounds)
        many = Suite(folder / "many", EMPTY_TESTS).pairs(rounds)
    return [
        _row("a run of one test, no database", one),
        _row(f"a run of {EMPTY_TESTS} tests, no database", many, MOST),
    ]


def database_rows(rounds: int) -> list[Row]:
    """Measure tests that take a connection, and return it."""
    with _folder() as folder:
        suites = [Suite(folder / str(tests), tests, "connection") for tests in (1, DATABASE_TESTS)]
        for suite, tests in zip(suites, (1, DATABASE_TESTS), strict=True):
            suite.add("conftest.py", DATABASE_CONFTEST)
            shutil.copy(HERE / "standin.py", folder / str(tests))
        one, many = (suite.pairs(rounds) for suite in suites)
    # What every further test costs: the run's own beginning and end are taken off.
    per_test = [
        tuple((of_many - of_one) / (DATABASE_TESTS - 1) * 1e3 for of_one, of_many in zip(*both, strict=True))
        for both in zip(one, many, strict=True)
    ]
    bare, guarded = (statistics.median(column) for column in zip(*per_test, strict=True))
    ratios = [guarded / bare for bare, guarded in per_test]
    return [
        _row("a run of one test, with a connection", one),
        _row(f"a run of {DATABASE_TESTS} tests, a connection each", many),
        Row(
            "  one test of these",
            f"{bare:.0f} µs",
            f"{guarded:.0f} µs",
            f"{statistics.median(guarded - bare for bare, guarded in per_test):+.0f} µs",
            f"{statistics.median(ratios):.4f} ±{_error(ratios):.4f}",
        ),
    ]
