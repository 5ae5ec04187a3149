"""Keep a test's repeats apart from its run: what they print, log, warn of, cover and leave on the item."""

from __future__ import annotations

import contextlib
import gc
import io
import logging
import os
import sys
import threading
import warnings
from collections.abc import Iterator
from typing import Any

import pytest
from _pytest.junitxml import xml_key
from _pytest.logging import caplog_handler_key
from _pytest.tmpdir import tmppath_result_key

__all__ = ["apart", "expect_tmp_path", "left_out", "logs_of"]

CURRENT = "PYTEST_CURRENT_TEST"
#: What the interpreter, and pytest, keep of the last exception.
LAST = ("last_type", "last_value", "last_traceback", "last_exc")
#: Plugins, by the names that they are registered under, to which a repeat is no phase of a test.
LEFT_OUT = ("capturemanager", "logging-plugin", "_cov", "_cov_contexts", "timeout", "poolguard-tests")


def left_out(config: pytest.Config) -> list[Any]:
    """The plugins that do not hear of a repeat's phases."""
    plugins = [config.pluginmanager.get_plugin(name) for name in LEFT_OUT]
    return [plugin for plugin in plugins if plugin is not None]


@contextlib.contextmanager
def apart(item: pytest.Item) -> Iterator[None]:
    """Leave no trace of what is done meanwhile, in the midst of a test's teardown."""
    with (
        _same_item(item),
        _no_timer(item),
        _same_environment(),
        _no_output(item.config),
        _no_logs(item),
        warnings.catch_warnings(record=True),
        _no_coverage(),
        _no_garbage(),
    ):
        yield


@contextlib.contextmanager
def _same_item(item: pytest.Item) -> Iterator[None]:
    attributes = dict(vars(item))
    lists = [(value, list(value)) for value in attributes.values() if type(value) is list]
    stash: dict[Any, Any] = item.stash._storage  # noqa: SLF001 - there is no public way
    stashed = dict(stash)
    xml: Any = item.config.stash.get(xml_key, None)
    properties = list(xml.global_properties) if xml is not None else []
    try:
        yield
    finally:
        vars(item).clear()
        vars(item).update(attributes)
        for value, parts in lists:
            value[:] = parts
        stash.clear()
        stash.update(stashed)
        if xml is not None:
            xml.global_properties[:] = properties


@contextlib.contextmanager
def _no_timer(item: pytest.Item) -> Iterator[None]:
    """pytest-timeout's runs for the whole test: it begins anew when the repeats are over."""
    module: Any = sys.modules.get("pytest_timeout")
    settings = None
    if module is not None and item.config.pluginmanager.hasplugin("timeout"):
        settings = module._get_item_settings(item)  # noqa: SLF001
        item.config.hook.pytest_timeout_cancel_timer(item=item)
    try:
        yield
    finally:
        if settings is not None and settings.timeout and not settings.func_only:
            item.config.hook.pytest_timeout_set_timer(item=item, settings=settings)


@contextlib.contextmanager
def _same_environment() -> Iterator[None]:
    current = os.environ.get(CURRENT)
    last = {name: getattr(sys, name) for name in LAST if hasattr(sys, name)}
    try:
        yield
    finally:
        if current is not None:
            os.environ[CURRENT] = current
        for name in LAST:
            if name in last:
                setattr(sys, name, last[name])
            elif hasattr(sys, name):
                delattr(sys, name)


@contextlib.contextmanager
def _no_output(config: pytest.Config) -> Iterator[None]:
    capture: Any = config.pluginmanager.get_plugin("capturemanager")
    if capture is None or not capture.is_globally_capturing():
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            yield
        return
    out, err = capture.read_global_capture()
    try:
        yield
    finally:
        capture.read_global_capture()
        sys.stdout.write(out)  # captured again: it is the teardown's
        sys.stderr.write(err)


@contextlib.contextmanager
def _no_logs(item: pytest.Item) -> Iterator[None]:
    """Leave the root logger no handler, of those for sections, live logs and files, but that of ``caplog``."""
    root, caplog = logging.getLogger(), logs_of(item)
    handlers, level = root.handlers, root.level
    root.handlers = [logging.NullHandler() if caplog is None else caplog]
    noted = (caplog.records, caplog.stream) if caplog is not None else None
    try:
        yield
    finally:
        root.handlers = handlers
        root.setLevel(level)
        if noted is not None:
            caplog.records, caplog.stream = noted


def expect_tmp_path(item: pytest.Item) -> None:
    """Put back what the fixture ``tmp_path`` deletes at its end, and wants to be there."""
    item.stash.setdefault(tmppath_result_key, {})


def logs_of(item: pytest.Item) -> Any:
    """The handler that ``caplog`` shows, None where there is none."""
    return item.stash.get(caplog_handler_key, None)


@contextlib.contextmanager
def _no_garbage() -> Iterator[None]:
    """Collect what repeats have left, and nothing else: later, it might warn of itself in the midst of a test."""
    is_free = hasattr(gc, "freeze") and not gc.get_freeze_count()
    hooks = sys.unraisablehook, threading.excepthook
    if is_free:
        gc.freeze()
    sys.unraisablehook = lambda _: None
    threading.excepthook = lambda _: None
    try:
        yield
    finally:
        if is_free:
            gc.collect()
            gc.unfreeze()
        sys.unraisablehook, threading.excepthook = hooks


@contextlib.contextmanager
def _no_coverage() -> Iterator[None]:
    """A line that only a fault has reached is not covered by the suite."""
    coverage: Any = sys.modules.get("coverage")
    current: Any = coverage.Coverage.current() if coverage is not None else None
    is_running = getattr(current, "_started", False)
    if is_running:
        current.stop()
    try:
        yield
    finally:
        if is_running:
            current.start()
