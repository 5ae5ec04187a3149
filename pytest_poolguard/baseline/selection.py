"""Which tests a run has collected, and which of them did run to their end."""

from __future__ import annotations

import os
from collections import Counter
from functools import cached_property

import pytest

from pytest_poolguard.baseline.file import EVERY_TEST
from pytest_poolguard.books.identity import test_of

__all__ = ["Selection"]

#: pytest's options that select tests by what they are, or by how they ended last.
BY_NAME = ("keyword", "markexpr", "deselect", "lf", "stepwise")
#: Those that leave files out.
FEWER = ("ignore", "ignore_glob", "pyargs")


class Selection:
    """Follows a run; under xdist the workers collect, and the controller hears how the tests ended."""

    def __init__(self, config: pytest.Config) -> None:
        self._config = config
        self.collected: dict[str, dict[str, int]] = {}  #: how many tests, by file and function
        self._seen: set[str] = set()
        self._ended: dict[str, str] = {}
        self._is_broken = False  #: something could not be collected
        self.is_lost = False  #: a worker could not say what it has found

    # what the run tells

    def collect(self, nodeid: str) -> None:
        """A test was collected, whether or not it will be selected."""
        if nodeid not in self._seen:
            self._seen.add(nodeid)
            file, function = test_of(nodeid)
            functions = self.collected.setdefault(file, {})
            functions[function] = functions.get(function, 0) + 1

    def add_worker(self, collected: dict[str, dict[str, int]]) -> None:
        """What an xdist worker has collected: each collects all."""
        self.collected.update(collected)

    def miss(self) -> None:
        """Something could not be collected."""
        self._is_broken = True

    def hear(self, report: pytest.TestReport) -> None:
        """A report was logged. A test that failed may not have come to where it leaks."""
        if report.outcome == "failed":
            self._ended[report.nodeid] = "failed"
        elif report.when == "call" and (report.passed or hasattr(report, "wasxfail")):
            self._ended.setdefault(report.nodeid, "ran")
        elif report.outcome == "skipped":
            self._ended.setdefault(report.nodeid, "skipped")

    @cached_property
    def _ended_by_test(self) -> Counter[tuple[str, str, str]]:
        """How many ended how, once all have."""
        return Counter((*test_of(nodeid), outcome) for nodeid, outcome in self._ended.items())

    # what can be told from it

    @property
    def is_by_name(self) -> bool:
        """Whether tests were picked by name, keyword, mark or their last outcome: others did not count."""
        config = self._config
        return any(config.getoption(name, None) for name in BY_NAME) or any("::" in arg for arg in config.args)

    @property
    def is_whole(self) -> bool:
        """Whether the run was of the whole suite, and each of its tests has passed or was skipped."""
        if self._is_broken or self.is_by_name or any(self._config.getoption(name, None) for name in FEWER):
            return False
        ended = self._ended_by_test
        items = ((file, name, n) for file, names in self.collected.items() for name, n in names.items())
        return self._covers_the_suite() and all(
            ended[file, name, "ran"] + ended[file, name, "skipped"] == n for file, name, n in items
        )

    def have_run(self, test: str) -> bool:
        """Whether a test, or all those of a file, or every one, has run, or is there no longer."""
        if self.is_by_name:
            return False
        if test == EVERY_TEST:
            return self.is_whole
        file, function = test_of(test)
        collected = self.collected.get(file)
        if collected is None:
            return not os.path.exists(self._config.rootpath / file)
        ended = self._ended_by_test
        functions = [function] if function else list(collected)
        return all(ended[file, name, "ran"] == collected.get(name, 0) for name in functions)

    def _covers_the_suite(self) -> bool:
        config = self._config
        if config.args_source == pytest.Config.ArgsSource.TESTPATHS:
            return True
        base = config.invocation_params.dir
        given = [os.path.realpath(base / arg) for arg in config.args]
        suite = config.getini("testpaths") or [""]
        wanted = [os.path.realpath(config.rootpath / path) for path in suite]
        return all(any(_is_in(path, folder) for folder in given) for path in wanted)


def _is_in(path: str, folder: str) -> bool:
    return path == folder or path.startswith(folder.rstrip(os.sep) + os.sep)
