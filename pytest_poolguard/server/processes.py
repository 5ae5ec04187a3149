"""Which other processes of a run still run: the evidence that a connection under its name is one of theirs.

It may as well be one of this process's own, opened by a library that is not watched.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from pytest_poolguard.origin import printable
from pytest_poolguard.redaction import redacted
from pytest_poolguard.server.run_name import VARIABLE

__all__ = ["Process", "still_running"]

#: Where Linux has a folder for each process; there is no such thing elsewhere.
PROC = Path("/proc")
#: Characters shown of a command line.
WIDTH = 60
#: A server that the run has started bears the run's name, too.
SERVERS = ("postgres", "postmaster")
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

    def __str__(self) -> str:
        return f"pid {self.pid} ({self.command})"


def still_running(name: str) -> list[Process]:
    """The processes that were started under a name in the environment; failing that, those that this one started.

    Those of other users can't be seen, nor can any where the system has no ``/proc``.
    """
    processes = {process.pid: process for process in _all()}
    those = [process for process in processes.values() if process.pid != os.getpid() and _may_connect(process)]
    found = [process for process in those if _is_named(process.pid, name)]
    found = found or [process for process in those if os.getpid() in _ancestors(process, processes)]
    return sorted(found, key=lambda process: process.pid)


def _may_connect(process: Process) -> bool:
    is_household = any(module in process.command for module in HOUSEHOLD)
    return process.state != ZOMBIE and process.name not in SERVERS and not is_household


def _all() -> Iterator[Process]:
    with contextlib.suppress(OSError):
        for folder in PROC.iterdir():
            with contextlib.suppress(OSError, ValueError):  # it is over, or it is another's
                pid = int(folder.name)
                # "pid (name) state parent": the name may hold anything
                start, _, rest = (folder / "stat").read_text("utf-8", "replace").rpartition(")")
                state, parent = rest.split()[:2]
                program, *words = (folder / "cmdline").read_text("utf-8", "replace").split("\0")
                command = redacted(printable(" ".join((os.path.basename(program), *words)).strip()))
                short = command if len(command) <= WIDTH else command[: WIDTH - 1] + "…"
                yield Process(pid, int(parent), state, start.partition("(")[2], short)


def _is_named(pid: int, name: str) -> bool:
    with contextlib.suppress(OSError):
        environ = (PROC / str(pid) / "environ").read_bytes().split(b"\0")
        return any(entry.startswith(f"{VARIABLE}={name}".encode()) for entry in environ)
    return False


def _ancestors(process: Process, processes: dict[int, Process]) -> set[int]:
    found: set[int] = set()
    above = processes.get(process.parent)
    while above is not None and above.pid not in found:
        found.add(above.pid)
        above = processes.get(above.parent)
    return found
