"""One event loop for several tests, whichever pytest-asyncio there is; a plugin, for inner runs of old ones."""

from __future__ import annotations

import asyncio
import importlib.metadata
import re
from collections.abc import Iterator

import pytest

#: pytest-asyncio's. 0.24 needs pytest 8.2: with pytest 8.0 and 8.1 there is an older one.
VERSION = tuple(map(int, importlib.metadata.version("pytest-asyncio").split(".")[:2]))
#: Whether a fixture's loop can be another than that of its scope, and cancels its tasks when it ends.
HAS_LOOP_SCOPES = VERSION >= (0, 24)
#: An inner run's arguments: one loop for all tests and fixtures of a module.
ONE_LOOP: tuple[str, ...] = (
    "-oasyncio_default_test_loop_scope=module",
    "-oasyncio_default_fixture_loop_scope=module",
)
if not HAS_LOOP_SCOPES:
    ONE_LOOP = ("-ploops",)


def in_older_words(source: str) -> str:
    """Turn today's ``loop_scope`` into what the installed version understands."""
    if HAS_LOOP_SCOPES:
        return source
    return re.sub(r', loop_scope="\w+"', "", source).replace("loop_scope=", "scope=")


class OneLoop:
    """The loop of a module's tests and fixtures."""

    @pytest.fixture(scope="module")
    def event_loop(self) -> Iterator[asyncio.AbstractEventLoop]:
        loop = asyncio.new_event_loop()
        setattr(loop, "__original_fixture_loop", True)  # so it warns of nothing; names are mangled in a class
        yield loop
        loop.close()

    @pytest.hookimpl(trylast=True)
    def pytest_collectstart(self, collector: pytest.Collector) -> None:
        """Fixtures of module scope would have one of their own."""
        from pytest_asyncio.plugin import _event_loop_fixture_id

        if isinstance(collector, pytest.Module):
            collector.stash[_event_loop_fixture_id] = "event_loop"


def pytest_configure(config: pytest.Config) -> None:
    """Take pytest-asyncio's place, which is there by now."""
    config.pluginmanager.register(OneLoop(), "one loop")
