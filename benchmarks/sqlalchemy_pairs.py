"""What one ``connect()`` and ``close()`` of a SQLAlchemy engine cost: bare, and watched by poolguard.

The two run by turns on one engine: listeners of the class ``Pool`` come and go without a trace.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import sqlalchemy
from rows import Row
from sqlalchemy.orm import Session
from standin import Connection, boundary

from pytest_poolguard.books.clock import Clock
from pytest_poolguard.books.ledger import Ledger
from pytest_poolguard.books.records import Owner
from pytest_poolguard.drivers.interface import Watch
from pytest_poolguard.drivers.sqlalchemy.driver import SQLAlchemy

__all__ = ["rows"]

#: Frames of the user's between pytest's, where the capture stops, and SQLAlchemy's.
DEPTH = 10
#: Microseconds that poolguard may add to a pair.
MOST = 5.0
#: Pairs in one round.
PAIRS = 300


def _at_depth(function: Callable[[Any], float], engine: Any, depth: int = DEPTH) -> float:
    """Call a function, which is the last of so many frames."""
    return _at_depth(function, engine, depth - 1) if depth > 2 else function(engine)  # noqa: PLR2004 - both count


def _connect(engine: Any) -> float:
    connect = engine.connect
    begin = time.perf_counter()
    for _ in range(PAIRS):
        connect().close()
    return (time.perf_counter() - begin) / PAIRS * 1e6


def _raw_connection(engine: Any) -> float:
    connect = engine.raw_connection
    begin = time.perf_counter()
    for _ in range(PAIRS):
        connect().close()
    return (time.perf_counter() - begin) / PAIRS * 1e6


def _session(engine: Any) -> float:
    begin = time.perf_counter()
    for _ in range(PAIRS):
        with Session(engine) as session:
            session.connection()
    return (time.perf_counter() - begin) / PAIRS * 1e6


def rows(rounds: int) -> list[Row]:
    """Measure the ways to a connection."""

    def fault(doing: str, error: BaseException) -> None:
        raise RuntimeError(doing) from error

    ledger = Ledger(Clock(), Owner("session", "session", phase=""), frozenset({boundary.__code__.co_filename}))
    driver = SQLAlchemy(Watch(ledger, fault, lambda _opening, _connect: None))
    engine = sqlalchemy.create_engine("postgresql+psycopg2://", creator=Connection, _initialize=False)
    found = []
    for what, pairs, limit in (
        ("engine.connect()", _connect, MOST),
        ("engine.raw_connection()", _raw_connection, MOST),
        ("a Session's connection()", _session, None),
    ):
        best = {"bare": float("inf"), "watched": float("inf")}
        for _ in range(rounds):
            best["bare"] = min(best["bare"], float(boundary(_at_depth, pairs, engine)))
            driver.modules["sqlalchemy"](sqlalchemy)
            best["watched"] = min(best["watched"], float(boundary(_at_depth, pairs, engine)))
            driver.undo()
        bare, ours = best["bare"], best["watched"] - best["bare"]
        found.append(
            Row(
                f"{what}, a pair",
                f"{bare:.2f} µs",
                f"{best['watched']:.2f} µs",
                f"{ours:+.2f} µs",
                f"{best['watched'] / bare:.2f}",
                f"+{limit:.2f} µs" if limit is not None else "",
                ours <= limit if limit is not None else None,
            )
        )
    if ledger.taken < len(found) * PAIRS * rounds or ledger.outstanding():
        raise RuntimeError("poolguard has not seen what was measured")
    return found
