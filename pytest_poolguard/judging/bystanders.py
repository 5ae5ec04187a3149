"""Threads of those who run the tests, such as xdist: they return nobody's connection."""

from __future__ import annotations

import sys
import threading
import weakref
from types import CodeType

from pytest_poolguard.books.origin import SourceTree

__all__ = ["Bystanders"]


class Bystanders:
    """The threads that ran before any test did, in an installed package and in no code of the project."""

    def __init__(self, tree: SourceTree) -> None:
        self._tree = tree
        self._seen: weakref.WeakSet[threading.Thread] = weakref.WeakSet()

    def note(self) -> None:
        """Take note of those that run now; to be called while no test runs yet."""
        for thread, codes in _running().items():
            package = any(self._tree.package(code.co_filename) for code in codes)
            if package and not self._runs_own(codes):
                self._seen.add(thread)

    def now(self) -> set[threading.Thread]:
        """Those that still run nothing of the project's: a library's worker may have been given a job since."""
        return {
            thread
            for thread, codes in (_running() if self._seen else {}).items()
            if thread in self._seen and not self._runs_own(codes)
        }

    def _runs_own(self, codes: list[CodeType]) -> bool:
        return any(self._tree.is_own(code.co_filename) for code in codes)


def _running() -> dict[threading.Thread, list[CodeType]]:
    """Every thread but this one, with the code on its stack."""
    frames = sys._current_frames()  # noqa: SLF001 - there is no public way
    running = {}
    for thread in threading.enumerate():
        frame = frames.get(thread.ident or 0)
        codes = []
        while frame is not None:
            codes.append(frame.f_code)
            frame = frame.f_back
        if thread is not threading.current_thread():
            running[thread] = codes
    return running
