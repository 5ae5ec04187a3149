"""An end for a repeat that hangs: a leaked connection may be just what the next line waits for."""

from __future__ import annotations

import _thread
import contextlib
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any

__all__ = ["Limit", "Stuck"]

#: Seconds from one attempt to end it to the next.
AGAIN = 1.0


class Stuck(BaseException):
    """Raised in a repeat that hangs; no Exception, as the code under test may catch those."""


class Limit:
    """Ends what takes longer than so many seconds, by three means.

    Tasks of a running event loop that are not among ``others`` are cancelled. Where none runs, or that does not
    help, an exception is raised, by a signal. A call into a library that no signal can interrupt ends when the
    server ends its backend: ``cut_off`` does that.
    """

    def __init__(self, seconds: float, others: frozenset[int], cut_off: Callable[[], None]) -> None:
        self._deadline = time.monotonic() + seconds
        self._others = others
        self._cut_off = cut_off
        self.hits = 0

    @contextlib.contextmanager
    def phase(self) -> Iterator[None]:
        """Set-up, body or teardown of a test: each has a moment at least."""
        seconds = max(self._deadline - time.monotonic(), AGAIN)
        done = _thread.allocate_lock()
        done.acquire()
        _thread.start_new_thread(self._watch, (done, seconds + AGAIN / 2))  # the test may look for threads
        try:
            with self._alarm(seconds):
                yield
        finally:
            done.release()

    def _watch(self, done: Any, seconds: float) -> None:
        if not done.acquire(timeout=seconds):
            self.hits += 1
            with contextlib.suppress(Exception):  # there is no more that could be done
                self._cut_off()

    @contextlib.contextmanager
    def _alarm(self, seconds: float) -> Iterator[None]:
        if not hasattr(signal, "setitimer") or threading.current_thread() is not threading.main_thread():
            yield
            return
        before = signal.signal(signal.SIGALRM, self._ring)
        signal.setitimer(signal.ITIMER_REAL, seconds, AGAIN)
        try:
            yield
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
            signal.signal(signal.SIGALRM, before)

    def _ring(self, _number: int, _frame: FrameType | None) -> None:
        self.hits += 1
        asyncio: Any = sys.modules.get("asyncio")
        loop = asyncio._get_running_loop() if asyncio is not None else None  # noqa: SLF001
        if loop is None or self.hits > 1:
            raise Stuck(f"it did not end (process {os.getpid()})")
        for task in asyncio.all_tasks(loop):
            if id(task) not in self._others:
                loop.call_soon_threadsafe(task.cancel)
