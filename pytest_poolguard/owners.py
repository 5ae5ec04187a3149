"""Which test, fixture or session is running now, and the end of each.

A fixture's end is known from two finalizers: one added before its function runs, and so called after all of
its own; one added after, and so called first, when its teardown begins. ``pytest_fixture_post_finalizer`` fires
extra times, with the wrong param, before pytest 9.2.
"""

from __future__ import annotations

import contextlib
import inspect
import re
import sys
import threading
from collections.abc import Callable, Iterator
from functools import partial
from types import CodeType, FrameType
from typing import Any

import pytest
from _pytest import fixtures, python, runner, unittest

from pytest_poolguard.books.ledger import Ledger
from pytest_poolguard.books.records import Limits, Owner

__all__ = ["SCOPES", "Owners", "boundaries"]

#: pytest's scopes, the widest first.
SCOPES = ("session", "package", "module", "class", "function")

#: pytest's own names for what xunit-style set-up functions become.
XUNIT_FIXTURE = re.compile(r"_?(?:xunit|unittest)_(setup_\w+?|setUpClass|setUpModule)_fixture_")


def boundaries() -> frozenset[str]:
    """The source files of pytest that run tests and fixtures: what they call is the project's own stack."""
    functions = (
        runner.pytest_runtest_setup,
        fixtures.pytest_fixture_setup,
        python.pytest_pyfunc_call,
        unittest.TestCaseFunction.runtest,
    )
    return frozenset(_code(function).co_filename for function in functions)


class Owners:
    """Follows the run, and keeps the ledger's present owner right."""

    def __init__(
        self,
        ledger: Ledger,
        on_end: Callable[[Owner], None],
        on_own_end: Callable[[Owner], None],
        on_teardown: Callable[[Owner], None] = lambda _: None,
        on_setup: Callable[[Owner], None] = lambda _: None,
    ) -> None:
        self.ledger = ledger
        self.test: Owner | None = None
        self.fixtures: list[Owner] = []  #: those alive, in the order in which they were set up
        self._interrupted: dict[Owner, Owner] = {}  #: who was present when a fixture's teardown began
        self._item: pytest.Item | None = None  #: the present test's, until its own end is looked out for
        self._on_end = on_end  #: an owner is finished
        self._on_own_end = on_own_end  #: a test's own fixtures are gone, wider ones may follow
        self._on_teardown = on_teardown  #: a fixture's teardown begins
        self._on_setup = on_setup  #: a fixture is set up

    # tests

    def begin_test(self, item: pytest.Item, limits: Limits) -> None:
        """A test's set-up begins."""
        threads = frozenset(threading.enumerate())
        self.test = Owner("test", item.name, item.nodeid, limits=limits, threads=threads)
        self.ledger.now_present(self.test)
        self._item = item

    def enter(self, phase: str) -> None:
        """A test goes on to its "body" or "teardown"."""
        if self.test is not None:
            self.test.phase = phase
            self.ledger.now_present(self.test)
            self._look_out_for_own_end()

    def _look_out_for_own_end(self) -> None:
        """Hear of the end of a test before the fixtures that outlive most tests are torn down.

        Those may end with this test, and close the pool that it leaked from.
        """
        item, test = self._item, self.test
        if item is None or test is None:
            return
        # A test that a marker skips is never set up, and takes no finalizer.
        if item in item.session._setupstate.stack:  # noqa: SLF001 - there is no public way to know
            self._item = None
            item.addfinalizer(lambda: self._on_own_end(test))

    def end_test(self) -> None:
        """A test's teardown is over, that of its fixtures included."""
        test, self.test = self.test, None
        self.ledger.now_present(self.ledger.session)
        if test is not None:
            test.finished = True
            self._on_end(test)
            test.threads = frozenset()

    def abandon_test(self) -> None:
        """No test runs any more; one that did not come to its teardown is not judged."""
        self.test = self._item = None
        self.ledger.now_present(self.ledger.session)

    # fixtures

    def begin_fixture(self, fixturedef: fixtures.FixtureDef[Any], request: pytest.FixtureRequest) -> None:
        """A fixture's function runs up to its ``yield`` or ``return``; its end is taken care of."""
        self._look_out_for_own_end()
        owner = self._fixture(fixturedef, request)
        fixturedef.addfinalizer(partial(self._end_fixture, owner))
        self.fixtures.append(owner)
        self.ledger.now_present(owner)

    def end_setup(self, fixturedef: fixtures.FixtureDef[Any], before: Owner) -> None:
        """A fixture's function came to its ``yield`` or ``return``; ``before`` it, that one was present."""
        owner = self.ledger.present
        self.ledger.now_present(before)
        self._on_setup(owner)
        fixturedef.addfinalizer(partial(self._begin_teardown, owner))
        if self.test is not None and owner.scope != "function":  # a worker that it started outlives the test
            self.test.threads = frozenset(threading.enumerate())

    def _begin_teardown(self, owner: Owner) -> None:
        self._interrupted[owner] = self.ledger.present
        owner.phase = "teardown"
        self.ledger.now_present(owner)
        self._on_teardown(owner)

    def _end_fixture(self, owner: Owner) -> None:
        self.ledger.now_present(self._interrupted.pop(owner, self.test or self.ledger.session))
        owner.finished = True
        self.fixtures.remove(owner)
        self._on_end(owner)

    def _fixture(self, fixturedef: fixtures.FixtureDef[Any], request: pytest.FixtureRequest) -> Owner:
        xunit = XUNIT_FIXTURE.match(fixturedef.argname)
        function = fixturedef.func
        if hasattr(function, "__wrapped__"):  # asked here, for every fixture of every test: unwrap() is dearer
            function = inspect.unwrap(function)
        code = getattr(function, "__code__", None)

        def value() -> object:
            if xunit:  # what such a function makes, it keeps on the class or module
                return dict(getattr(getattr(request.node, "obj", None), "__dict__", {}))
            result = fixturedef.cached_result
            return result[0] if result is not None else None

        return Owner(
            "fixture",
            xunit[1] if xunit else fixturedef.argname,
            nodeid=self.test.nodeid if self.test is not None else "",
            scope=fixturedef.scope,
            limits=self.test.limits
            if self.test is not None and fixturedef.scope == "function"
            else self.ledger.session.limits,
            defined_at=f"{code.co_filename}:{code.co_firstlineno}" if code is not None and not xunit else "",
            code=code,
            value=value,
        )

    def wider_than(self, owner: Owner) -> list[Owner]:
        """The living fixtures that outlive an owner that has just ended."""
        width = SCOPES.index(owner.scope) if owner.kind == "fixture" else len(SCOPES)
        return [one for one in self.fixtures if SCOPES.index(one.scope) < min(width, len(SCOPES) - 1)]

    # a test that is run again

    @contextlib.contextmanager
    def aside(self, on_end: Callable[[Owner], None], on_own_end: Callable[[Owner], None]) -> Iterator[None]:
        """Let others hear of the ends of what is run in the midst of a test's teardown, which then goes on."""
        before, present = dict(vars(self)), self.ledger.present
        self.test = self._item = None
        self._on_end, self._on_own_end = on_end, on_own_end
        self._on_teardown = self._on_setup = lambda _: None
        try:
            yield
        finally:
            vars(self).update(before)
            self.ledger.now_present(present)

    # a library that is imported in the middle of the run

    def adopt(self, config: pytest.Config, begin_test: Callable[[pytest.Item], None]) -> None:
        """Take up what pytest is running now: the watch begins with the first library that is imported.

        The hooks' arguments stand in the frames of pytest's own implementations, under their specified names.
        Frames of another run are no concern of ours: a plugin's own tests run pytest inside of pytest.
        """
        frame: FrameType | None = sys._current_frames().get(self.ledger.main_thread)  # noqa: SLF001
        running: list[FrameType] = []
        while frame is not None:
            running.append(frame)
            frame = frame.f_back
        phases = {
            _code(runner.pytest_runtest_setup): "setup",
            _code(runner.pytest_runtest_call): "body",
            _code(runner.pytest_runtest_teardown): "teardown",
        }
        setup = _code(fixtures.pytest_fixture_setup)
        # No other frame's variables: a frame keeps what it was once asked for.
        ours = [(one.f_code, one.f_locals) for one in running if one.f_code in phases or one.f_code is setup]
        running.clear()  # this frame is among them, and would keep them all, with their locals, in a cycle
        for code, variables in reversed(ours):
            if code is setup and variables["request"].config is config:
                self.begin_fixture(variables["fixturedef"], variables["request"])
            elif code in phases and variables["item"].config is config:
                begin_test(variables["item"])
                self.enter(phases[code])


def _code(function: Any) -> CodeType:
    return inspect.unwrap(function).__code__  # type: ignore[no-any-return]
