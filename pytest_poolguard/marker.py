"""``@pytest.mark.pool(...)``: what a test allows its pools, and which leaks it expects."""

from __future__ import annotations

import difflib
import inspect
import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from types import FunctionType
from typing import Any, Literal

import pytest
from _pytest.reports import CollectErrorRepr

from pytest_poolguard.books.origin import printable
from pytest_poolguard.books.records import Limits, SessionLimits
from pytest_poolguard.option_values import MOST_OF_A_SESSION
from pytest_poolguard.options import MARKER

__all__ = [
    "Expectations",
    "expectations",
    "function_of",
    "has_own_marker",
    "marker_errors",
    "refuse_wrong_markers",
]


@dataclass(frozen=True)
class Expectations:
    """The marker's arguments that hold for one test."""

    max: int | None = None
    timeout: float | None = None  #: seconds
    hold: float | None = None  #: seconds
    statement_timeout: float | None = None  #: seconds; 0 for no limit
    idle_in_transaction_timeout: float | None = None  #: likewise
    nested: bool | None = None
    faults: bool | None = None
    leaks: int | Literal["any"] | None = None
    reason: str = ""

    def limits(self, options: Limits) -> Limits:
        """What holds while the test runs: the ``options`` where the marker says nothing."""
        if self is NONE:
            return options
        timeout = options.timeout if self.timeout is None else self.timeout
        return Limits(self.max, timeout, self.hold, self._session_limits(options.session))

    def _session_limits(self, options: SessionLimits | None) -> SessionLimits | None:
        own = SessionLimits(self.statement_timeout, self.idle_in_transaction_timeout)
        if own == (None, None):
            return options
        return SessionLimits(
            *(b if a is None else a for a, b in zip(own, options or SessionLimits(), strict=True))
        )

    def nesting(self, mode: str) -> str:
        """What becomes of nested checkouts, where the option says ``mode``: "off", "warn" or "fail"."""
        return mode if self.nested is None else "off" if self.nested else "fail"


#: Of a test that has no marker: one for all.
NONE = Expectations()


def expectations(item: pytest.Item) -> Expectations:
    """The arguments for a test, each from the nearest marker that gives it: function, class, module."""
    arguments: dict[str, Any] = {}
    for mark in item.iter_markers(MARKER):
        given = dict(mark.kwargs)
        if "leaks" in arguments:  # the reason goes with its number
            given.pop("reason", None)
        for name, value in given.items():
            arguments.setdefault(name, value)
    return Expectations(**arguments) if arguments else NONE


def has_own_marker(item: pytest.Item) -> bool:
    """Whether a test's function has a marker itself; one of its class or module is meant for others, too."""
    return any(mark.name == MARKER for mark in item.own_markers)


def function_of(item: pytest.Item) -> str:
    """The node id of a test's function: without its parameters."""
    name = getattr(item, "originalname", None) or item.name
    return printable(f"{item.parent.nodeid}::{name}" if item.parent is not None else name)


def refuse_wrong_markers(collector: pytest.Collector, report: pytest.CollectReport) -> None:
    """Let a collection fail where a pool marker is wrong."""
    errors = marker_errors(collector, report.result)
    if errors:
        report.outcome = "failed"
        report.longrepr = CollectErrorRepr("\n".join(errors))
        report.result = []


def marker_errors(collector: pytest.Collector, collected: Iterable[object]) -> list[str]:
    """What is wrong with the pool markers of what was collected, naming the test and the argument."""
    collected = list(collected)
    wrong = [
        f"@pytest.mark.pool on {item.nodeid}: {error}"
        for item in collected
        if isinstance(item, pytest.Item)
        for mark in item.iter_markers(MARKER)
        for error in _errors(mark)
    ]
    return wrong + _misplaced(collector, collected)


def _misplaced(collector: pytest.Collector, collected: Iterable[object]) -> list[str]:
    """The functions of a module or class that have a pool marker, but are no tests: it has no effect there."""
    if not isinstance(collector, pytest.Module | pytest.Class):
        return []
    methods = [getattr(node.obj, "__func__", node.obj) for node in collected if isinstance(node, pytest.Function)]
    tests = [inspect.unwrap(method) for method in methods]
    return [
        f"@pytest.mark.pool on {collector.nodeid}::{name}: this is no test, so it has no effect: "
        "mark the tests that use it"
        for name, function in _functions(collector.obj)
        if function not in tests and any(mark.name == MARKER for mark in getattr(function, "pytestmark", ()))
    ]


def _functions(holder: object) -> Iterator[tuple[str, FunctionType]]:
    """The functions of a module or class and what fixtures were made of; no mock is asked for anything."""
    for name, value in list(vars(holder).items()):
        if isinstance(value, FunctionType) or type(value).__module__ == "_pytest.fixtures":
            function = inspect.unwrap(value)
            if isinstance(function, FunctionType):
                yield name, function


def _errors(mark: pytest.Mark) -> Iterator[str]:
    names = list(ARGUMENTS)
    if mark.args:
        yield f"takes keyword arguments only ({', '.join(names)}), got {mark.args[0]!r}"
    for name, value in mark.kwargs.items():
        if name not in names:
            near = difflib.get_close_matches(name, names, 1)
            yield f"unknown argument {name!r} " + (
                f"(did you mean {near[0]!r}?)" if near else f"(there are {', '.join(names)})"
            )
        elif value is None:
            yield f"{name} is None: leave it out"
        else:
            is_right, meaning = ARGUMENTS[name]
            if not is_right(value):
                yield f"{name} is {meaning}, not {value!r}"
    if "leaks" in mark.kwargs and "reason" not in mark.kwargs:
        yield "leaks needs a reason: reason='…'"
    if "reason" in mark.kwargs and "leaks" not in mark.kwargs:
        yield "reason goes with leaks, which is not given"


def _is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 1


def _is_seconds(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 < value < math.inf


def _is_session_limit(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value <= MOST_OF_A_SESSION


def _is_flag(value: object) -> bool:
    return isinstance(value, bool)


def _is_expectation(value: object) -> bool:
    return _is_count(value) or (isinstance(value, str) and value == "any")


def _is_reason(value: object) -> bool:
    return isinstance(value, str) and bool(value.strip())


#: For each argument whether a value will do, and what it means.
ARGUMENTS: dict[str, tuple[Callable[[object], bool], str]] = {
    "max": (_is_count, "a number of connections, 1 or more"),
    "timeout": (_is_seconds, "a number of seconds greater than 0"),
    "hold": (_is_seconds, "a number of seconds greater than 0"),
    "statement_timeout": (_is_session_limit, f"a number of seconds from 0 (no limit) to {MOST_OF_A_SESSION}"),
    "idle_in_transaction_timeout": (
        _is_session_limit,
        f"a number of seconds from 0 (no limit) to {MOST_OF_A_SESSION}",
    ),
    "nested": (_is_flag, "True or False"),
    "faults": (_is_flag, "True or False"),
    "leaks": (_is_expectation, "a number of connections, 1 or more, or 'any'"),
    "reason": (_is_reason, "a text"),
}
