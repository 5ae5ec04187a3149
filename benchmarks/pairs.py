"""What one ``getconn()`` and ``putconn()`` cost: bare, watched, counted besides, and with an ``extract_stack()``.

Each of the four has its own copy of ``psycopg2.pool`` and of the calling functions, so that none disturbs
what the interpreter has specialised for another, and nothing is patched while the time is taken.
"""

from __future__ import annotations

import importlib.util
import time
import traceback
from collections.abc import Callable
from types import ModuleType
from typing import Any

from rows import Row
from standin import boundary, fill

from pytest_poolguard.books.clock import Clock
from pytest_poolguard.books.ledger import Ledger
from pytest_poolguard.books.records import Owner
from pytest_poolguard.drivers.interface import Watch
from pytest_poolguard.drivers.psycopg2.driver import Psycopg2
from pytest_poolguard.sizing.counting import Counting

__all__ = ["DEPTH", "copy_of", "rows"]

#: Frames of the user's between pytest's, where the capture stops, and the pool's.
DEPTH = 10
#: Microseconds that poolguard may add to a pair.
MOST = 3.0
#: The part of what ``extract_stack()`` adds that poolguard may add.
PART = 0.1
#: Microseconds that ``--poolguard-stats`` may add to that.
COUNTED = 1.0
#: Pairs in one round. A round is short: the fastest of many finds the machine undisturbed.
PAIRS = {"bare": 1000, "watched": 500, "counted": 500, "stored": 50}

#: ``in_one_call`` takes and returns a connection many times in a function that was called once;
#: ``in_many_calls`` calls all of the functions anew for each pair, as tests do.
CALLERS = """
def in_one_call(pool, pairs, depth):
    if depth > 1:
        return in_one_call(pool, pairs, depth - 1)
    getconn, putconn = pool.getconn, pool.putconn
    begin = now()
    for _ in range(pairs):
        putconn(getconn())
    return now() - begin

def one_pair(pool, depth):
    if depth > 1:
        one_pair(pool, depth - 1)
    else:
        pool.putconn(pool.getconn())

def in_many_calls(pool, pairs, depth):
    begin = now()
    for _ in range(pairs):
        boundary(one_pair, pool, depth)
    return now() - begin
"""


class Variant:
    """One way to run the pairs; ``patch`` changes a fresh copy of ``psycopg2.pool``."""

    def __init__(self, name: str, pool_class: str, patch: Callable[[ModuleType, frozenset[str]], object]) -> None:
        self.pairs = PAIRS[name]
        self._callers: dict[str, Any] = {"now": time.perf_counter, "boundary": boundary}
        exec(compile(CALLERS, __file__, "exec"), self._callers)
        library = copy_of("psycopg2.pool")
        self.patched = patch(library, frozenset({boundary.__code__.co_filename}))
        self.pool = fill(getattr(library, pool_class)(0, 10), 1)

    def in_one_call(self) -> float:
        """Microseconds of one pair in a loop."""
        call = self._callers["boundary"]
        return float(call(self._callers["in_one_call"], self.pool, self.pairs, DEPTH)) / self.pairs * 1e6

    def in_many_calls(self) -> float:
        """Microseconds of one pair and the calls down to it."""
        return float(self._callers["in_many_calls"](self.pool, self.pairs, DEPTH)) / self.pairs * 1e6

    def depth_seen(self, ledger: Ledger) -> int:
        """Frames that the ledger has of a checkout, without the pool's own."""
        seen: list[int] = []
        here = self.pool.putconn

        def putconn(connection: Any) -> None:
            (checkout,) = ledger.outstanding()
            seen.append(sum("psycopg2" not in code.co_filename for code, _ in checkout.origin.frames()))
            here(connection)

        self.pool.putconn = putconn
        self._callers["boundary"](self._callers["one_pair"], self.pool, DEPTH)
        del self.pool.putconn
        return seen[0]


def copy_of(name: str) -> ModuleType:
    """Make a module of its own from a library's source."""
    spec = importlib.util.find_spec(name)
    if spec is None or spec.loader is None:
        raise ModuleNotFoundError(name)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _leave(_library: ModuleType, _stops: frozenset[str]) -> None:
    pass


def _watch(library: ModuleType, stops: frozenset[str]) -> Ledger:
    return _watch_for(library, stops).ledger


def _count(library: ModuleType, stops: frozenset[str]) -> Counting:
    counting = _watch_for(library, stops).counting
    counting.begin("a test", is_on=True)
    return counting


def _watch_for(library: ModuleType, stops: frozenset[str]) -> Watch:
    def fault(doing: str, error: BaseException) -> None:
        raise RuntimeError(doing) from error

    ledger = Ledger(Clock(), Owner("session", "session", phase=""), stops)
    watch = Watch(ledger, fault, lambda _opening, _connect: None)
    Psycopg2(watch).modules["psycopg2.pool"](library)
    return watch


def _store_stacks(library: ModuleType, _stops: frozenset[str]) -> None:
    """Do what comes to mind first: note the stack of each connection that is out."""
    taken: dict[int, traceback.StackSummary] = {}
    base = library.AbstractConnectionPool
    original_getconn, original_putconn = base._getconn, base._putconn

    def getconn(self: Any, key: Any = None) -> Any:
        connection = original_getconn(self, key)
        taken[id(connection)] = traceback.extract_stack()
        return connection

    def putconn(self: Any, conn: Any, key: Any = None, close: bool = False) -> None:
        original_putconn(self, conn, key, close)
        taken.pop(id(conn), None)

    base._getconn, base._putconn = getconn, putconn
    library.SimpleConnectionPool.getconn, library.SimpleConnectionPool.putconn = getconn, putconn


def _best(pool_class: str, way: str, rounds: int) -> dict[str, float]:
    patches = {"bare": _leave, "watched": _watch, "counted": _count, "stored": _store_stacks}
    variants = {name: Variant(name, pool_class, patch) for name, patch in patches.items()}
    best = dict.fromkeys(variants, float("inf"))
    for _ in range(rounds):
        for name, variant in variants.items():
            best[name] = min(best[name], getattr(variant, way)())
    watched = variants["watched"]
    ledger: Any = watched.patched
    if ledger.taken < watched.pairs * rounds or ledger.outstanding() or watched.depth_seen(ledger) != DEPTH:
        raise RuntimeError("poolguard has not seen what was measured")
    counting: Any = variants["counted"].patched
    (count,) = counting.take()
    if not count.taken.value == len(count.holds) == variants["counted"].pairs * rounds:
        raise RuntimeError("not all that was measured was counted")
    return best


def rows(rounds: int) -> list[Row]:
    """Measure both pools of psycopg2, each called in both ways."""
    found = []
    for way in ("in_one_call", "in_many_calls"):
        for pool_class in ("SimpleConnectionPool", "ThreadedConnectionPool"):
            best = _best(pool_class, way, rounds)
            bare = best["bare"]
            ours, naive = best["watched"] - bare, best["stored"] - bare
            counted = best["counted"] - best["watched"]
            found += [
                Row(
                    f"{pool_class}, a pair {way.replace('_', ' ')}",
                    f"{bare:.2f} µs",
                    f"{best['watched']:.2f} µs",
                    f"{ours:+.2f} µs",
                    f"{best['watched'] / bare:.2f}",
                    f"+{MOST:.2f} µs",
                    ours <= MOST,
                ),
                Row(
                    "  its difference to that of extract_stack()",
                    f"{naive:+.2f} µs",
                    f"{ours:+.2f} µs",
                    "",
                    f"{ours / naive:.3f}",
                    f"{PART:.3f}",
                    ours <= PART * naive,
                ),
                Row(
                    "  what --poolguard-stats adds to it",
                    f"{best['watched']:.2f} µs",
                    f"{best['counted']:.2f} µs",
                    f"{counted:+.2f} µs",
                    f"{best['counted'] / best['watched']:.2f}",
                    f"+{COUNTED:.2f} µs",
                    counted <= COUNTED,
                ),
            ]
    return found
