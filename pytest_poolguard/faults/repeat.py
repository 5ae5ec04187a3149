"""Run a test again, between the end of its own fixtures and that of the wider ones."""

from __future__ import annotations

import contextlib
import functools
import inspect
import traceback
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import pytest
from _pytest import unittest
from _pytest.outcomes import Exit

from pytest_poolguard.books.records import Limits
from pytest_poolguard.exhausted.refusals import chain
from pytest_poolguard.faults.apart import expect_tmp_path, left_out, logs_of
from pytest_poolguard.faults.limit import Limit, Stuck
from pytest_poolguard.owners import Owners

__all__ = ["Outcome", "before_wider_fixtures_end", "repeat", "why_not"]


@dataclass
class Outcome:
    """How a repeat went; it keeps the exceptions, as pytest does until a test is over."""

    errors: list[tuple[str, BaseException]] = field(default_factory=list)  #: with the phases
    is_stuck: bool = False

    @property
    def error(self) -> BaseException | None:
        """The first exception that was no request to end it."""
        return next((error for _, error in self.errors if not isinstance(error, Stuck)), None)

    def let_go(self) -> None:
        """Let go of what the exceptions' frames hold."""
        for _, error in self.errors:
            for one in chain(error):
                traceback.clear_frames(one.__traceback__)


def before_wider_fixtures_end(item: pytest.Item, function: Callable[[], None]) -> bool:
    """Have a function called in a test's teardown, when its own part of that is over; whether it will be.

    Not later: the last test of a module would have to have the module's fixtures made anew.
    """
    entry = item.session._setupstate.stack.get(item)  # noqa: SLF001 - addfinalizer() adds to the other end
    if entry is None:
        return False
    entry[0].insert(0, function)
    return True


def why_not(item: pytest.Item, *, had_subtests: bool) -> str:
    """Why a test can't be run again; empty where it can."""
    if not isinstance(item, pytest.Function) or not hasattr(item, "_initrequest"):
        return "a doctest, or another test that is no function"
    if getattr(item.obj, "is_hypothesis_test", False):
        return "Hypothesis would take a fault for an example that fails, and keep it"
    if had_subtests or "subtests" in item.fixturenames:
        return "its subtests are logged the moment that they end"
    return ""


def repeat(item: Any, owners: Owners, limits: Limits, limit: Limit) -> Outcome:
    """Set-up, body and teardown once more.

    A test's function gets a new instance of its class, and a new request for its fixtures.
    """
    hooks = _hooks(item)
    logs = logs_of(item)
    outcome = Outcome()
    _renew(item)
    if logs is not None:
        logs.reset()
    expect_tmp_path(item)
    owners.begin_test(item, limits)
    try:
        if _phase("setup", hooks["setup"], outcome, limit):
            owners.enter("body")
            if logs is not None:
                logs.reset()  # caplog has those of the present phase
            _phase("body", hooks["call"], outcome, limit)
    finally:
        owners.enter("teardown")
        _phase("teardown", hooks["teardown"], outcome, limit)
        state = item.session._setupstate  # noqa: SLF001
        if item in state.stack:  # a plugin's hook has raised before pytest's own came to it
            _phase("teardown", lambda: state.teardown_exact(item.parent), outcome, limit)
        _forget_failed_fixtures(item)
    for error in getattr(item, "_excinfo", None) or ():  # where unittest's tests put theirs
        outcome.errors.append(("body", error.value))
    outcome.is_stuck = limit.hits > 0
    return outcome


def _hooks(item: Any) -> dict[str, Callable[[], Any]]:
    """The hooks of a test's phases; those to whom a repeat is none do not hear of it."""
    manager = item.config.pluginmanager
    others = [*left_out(item.config), *getattr(item.ihook, "remove_mods", ())]
    hooks: dict[str, Callable[[], Any]] = {}
    for when in ("setup", "call", "teardown"):
        hook = manager.subset_hook_caller(f"pytest_runtest_{when}", others)
        # A test to come that has the same parent: what is wider than this test stays.
        given = {"item": item, "nextitem": item.parent} if when == "teardown" else {"item": item}
        hooks[when] = functools.partial(hook, **given)
    return hooks


def _renew(item: Any) -> None:
    if getattr(item, "_instance", None) is not None or (
        inspect.ismethod(getattr(item, "_obj", None)) and not isinstance(item, unittest.TestCaseFunction)
    ):
        vars(item).pop("_instance", None)
        item._obj = None  # noqa: SLF001
    vars(item).pop("_excinfo", None)  # unittest's tests append to theirs, where there is one
    item._initrequest()  # noqa: SLF001


def _phase(when: str, run: Callable[[], Any], outcome: Outcome, limit: Limit) -> bool:
    """Run one phase; whether it has passed."""
    try:
        with limit.phase():
            run()
    except (KeyboardInterrupt, Exit):
        raise
    except BaseException as error:
        outcome.errors.append((when, error))
        return False
    return True


def _forget_failed_fixtures(item: Any) -> None:
    """A wider fixture that a fault has made fail is to be made again for the next test."""
    for definitions in getattr(item._fixtureinfo, "name2fixturedefs", {}).values():  # noqa: SLF001
        for definition in definitions:
            result = getattr(definition, "cached_result", None)
            if result is not None and result[2] is not None:
                with contextlib.suppress(BaseException):
                    definition.finish(item._request)  # noqa: SLF001
                definition.cached_result = None
