"""Which other processes of a run still run: the evidence that a connection under its name is one of theirs.

It may as well be one of this process's own, opened by a library that is not watched.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from pytest_poolguard.books.origin import printable
from pytest_poolguard.books.redaction import redacted
from pytest_poolguard.server.run_name import VARIABLE

__all__ = ["Process", "still_running"]

#: Where Linux has a folder for each process; there is no such thing elsewhere.
PROC = Path("/proc")
#: Characters shown of a command line.
WIDTH = 60
#: A server that the run has started bears the run's name, too.
SERVERS = ("postgres", "postmaster")
#: In the command lines of processes that Python ends when it ends itself: those of multiprocessing.
ENDED_BY_PYTHON = ("from multiprocessing.", "--multiprocessing-fork")
#: What Python starts for itself.
HOUSEHOLD = ("multiprocessing.resource_tracker", "multiprocessing.semaphore_tracker")
ZOMBIE = "Z"


@dataclass(frozen=True)
class Process:
    """One process."""

    pid: int
    parent: int
    state: str
    name: str
    command: str
    started: float = 0.0  #: in seconds since the epoch
    is_named: bool = (
        False  #: it has the name that was asked for in its environment, and so was started by a program
    )

    @property
    def is_left(self) -> bool:
        """Whether it outlives the process that has started it: Python ends those of its own pools."""
        return self.is_named and not any(words in self.command for words in ENDED_BY_PYTHON)

    def __str__(self) -> str:
        short = self.command if len(self.command) <= WIDTH else self.command[: WIDTH - 1] + "…"
        return f"pid {self.pid} ({short})"


def still_running(name: str) -> list[Process]:
    """The processes that were started under a name in the environment; failing that, those that this one started.

    Those of other users can't be seen, nor can any where the system has no ``/proc``.
    """
    processes = {process.pid: process for process in _all(f"{VARIABLE}={name}".encode())}
    those = [process for process in processes.values() if process.pid != os.getpid() and _may_connect(process)]
    found = [process for process in those if process.is_named]
    found = found or [process for process in those if os.getpid() in _ancestors(process, processes)]
    return sorted(found, key=lambda process: process.pid)


def _may_connect(process: Process) -> bool:
    is_household = any(module in process.command for module in HOUSEHOLD)
    return process.state != ZOMBIE and process.name not in SERVERS and not is_household


def _all(name: bytes) -> Iterator[Process]:
    if not PROC.is_dir():
        return
    with contextlib.suppress(OSError):
        booted = time.time() - time.clock_gettime(time.CLOCK_BOOTTIME)
        for folder in PROC.iterdir():
            with contextlib.suppress(OSError, ValueError):  # it is over, or it is another's
                yield _read(folder, int(folder.name), booted, name)


def _read(folder: Path, pid: int, booted: float, name: bytes) -> Process:
    # "pid (name) state parent …", and the time of the start as the 22nd: the name may hold anything
    begin, _, rest = (folder / "stat").read_text("utf-8", "replace").rpartition(")")
    values = rest.split()
    program, *words = (folder / "cmdline").read_text("utf-8", "replace").split("\0")
    command = redacted(printable(" ".join((os.path.basename(program), *words)).strip()))
    is_named = False
    with contextlib.suppress(OSError):  # another user's
        is_named = name in (folder / "environ").read_bytes().split(b"\0")
    started = booted + int(values[19]) / os.sysconf("SC_CLK_TCK")
    return Process(pid, int(values[1]), values[0], begin.partition("(")[2], command, started, is_named)


def _ancestors(process: Process, processes: dict[int, Process]) -> set[int]:
    found: set[int] = set()
    above = processes.get(process.parent)
    while above is not None and above.pid not in found:
        found.add(above.pid)
        above = processes.get(above.parent)
    return found
