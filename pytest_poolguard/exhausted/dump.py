"""Who holds what, now: written when a signal comes, and where pytest-timeout writes the stacks of threads.

A signal handler of Python's own would wait until the main thread is back from C code: from a server that does not
answer, say. So the signal is ``faulthandler``'s, which writes at once, into a pipe; whoever reads that writes on.
"""

from __future__ import annotations

import _thread
import contextlib
import faulthandler
import functools
import os
import select
import signal
import sys
import threading
from collections.abc import Callable
from typing import Any

from pytest_poolguard.drivers.patching import Patches
from pytest_poolguard.exhausted.snapshots import Snapshot
from pytest_poolguard.reports.holders import diagnosis, told

__all__ = ["Dump"]

#: Bytes that are read at once, and seconds after which a dump is over that has begun.
CHUNK, PAUSE = 65536, 0.05


class Dump:
    """``holding`` tells what is out of each pool, ``name`` names a pool."""

    def __init__(self, holding: Callable[[], list[Snapshot]], name: Callable[[Any], str]) -> None:
        self._holding = holding
        self._name = name
        self._patches = Patches()
        self._signal: int | None = None
        self._pipe = -1  #: where the signal's handler writes

    def text(self) -> str:
        """Every pool of which something is out, and who has it."""
        parts = [self._told(snapshot, "poolguard: ") for snapshot in self._holding()]
        return "\n".join(parts or ["poolguard: no connection is checked out"]) + "\n"

    def full_pools(self, seconds: float) -> str:
        """Every pool that has handed out all that it may, and got none of it back for so many seconds."""
        full = (snapshot for snapshot in self._holding() if snapshot.is_full and snapshot.held)
        return "\n".join(self._told(one) for one in full if min(held.seconds for held in one.held) >= seconds)

    def _told(self, snapshot: Snapshot, prefix: str = "") -> str:
        return "\n".join(told(snapshot, prefix + self._name(snapshot.pool), diagnosis(snapshot)))

    # a signal

    def on_signal(self, name: str, stderr: int) -> str:
        """Write to a file descriptor whenever a signal comes; why not, where that can't be."""
        number = getattr(signal, name, None)
        if number is None or not hasattr(faulthandler, "register"):
            return f"there is no {name} here"
        if signal.getsignal(number) is not signal.SIG_DFL:
            return f"somebody else handles {name}"
        reading, writing = os.pipe()
        self._pipe, self._signal = writing, number
        faulthandler.register(number, file=writing, all_threads=True)
        # No threading.Thread: that would be somebody who could return a connection.
        _thread.start_new_thread(self._write_on, (reading, stderr))
        return ""

    def _write_on(self, reading: int, stderr: int) -> None:
        stacks = b""
        with contextlib.suppress(OSError):
            while part := os.read(reading, CHUNK):
                stacks += part
                if not _more_comes(reading):
                    os.write(stderr, b"\n" + stacks + b"\n" + self._safe_text().encode())
                    stacks = b""
        os.close(reading)

    def _safe_text(self) -> str:
        try:
            return self.text()
        except Exception as error:  # something that changes under our hands: there is a next signal
            return f"poolguard: {type(error).__name__} while looking at who holds what\n"

    # pytest-timeout

    def with_stacks(self, ends: Callable[[], None]) -> None:
        """Write where pytest-timeout writes stacks, if it is there, or have ``ends`` note it for the report."""
        module: Any = sys.modules.get("pytest_timeout")
        if hasattr(module, "dump_stacks"):
            self._patches.replace(module, "dump_stacks", self._watched(module.dump_stacks, ends))

    def _watched(self, original: Callable[..., Any], ends: Callable[[], None]) -> Callable[..., Any]:
        dump = self

        @functools.wraps(original)
        def dump_stacks(terminal: Any, *args: Any, **kwargs: Any) -> Any:
            __tracebackhide__ = True
            with contextlib.suppress(Exception):
                if threading.current_thread() is threading.main_thread():
                    ends()  # the test fails now
                else:
                    terminal.write(dump.text())  # the process ends now
            return original(terminal, *args, **kwargs)

        return dump_stacks

    def stop(self) -> None:
        """Give the signal back, and pytest-timeout its function."""
        self._patches.undo()
        if self._signal is not None:
            faulthandler.unregister(self._signal)
            os.close(self._pipe)  # the reader comes to its end
            self._signal = None


def _more_comes(reading: int) -> bool:
    return bool(select.select([reading], [], [], PAUSE)[0])
