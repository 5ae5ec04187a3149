"""The watched libraries: one module each, all with the interface below.

A driver notes what its library does in the ledger and knows how to look at, and free, what it handed out.
It knows no test framework. Nothing here imports a library: see ``imports``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import ModuleType
from typing import Any, Protocol

from pytest_poolguard.ledger import Ledger
from pytest_poolguard.records import Opening

__all__ = ["Driver", "State", "Unaskable", "Unsupported", "Watch"]


class Unsupported(Exception):  # noqa: N818 - it is no error of the program that meets it
    """A library lacks what its driver patches; the text says what."""


class Unaskable(Exception):  # noqa: N818 - as above
    """A server does not answer; the text says why, on one line and without a secret."""


@dataclass(frozen=True)
class State:
    """What a driver can tell of a connection without talking to the server."""

    backend_pid: int | None = None
    transaction: str = ""  #: "idle", "active", "idle in transaction", "idle in a failed transaction", "unknown"
    closed: bool = False  #: by whomever, or broken
    broken: bool = False  #: closed by no call of close(): the server or the network is gone


@dataclass
class Watch:
    """What a driver reports to, and what it is told: one for the run."""

    ledger: Ledger
    on_fault: Callable[[str, BaseException], None]
    #: A connection was opened; with what makes a way to ask its server (see ``server.Ask``).
    on_connected: Callable[[Opening, Callable[[], Any]], None]
    active: bool = True


class Driver(Protocol):
    """One library."""

    #: The library's name, as in the report.
    library: str
    #: References that a pool keeps to a connection while it is out.
    pool_references: int

    @property
    def modules(self) -> Mapping[str, Callable[[ModuleType], None]]:
        """What to do with each of the library's modules once it is imported; raises :class:`Unsupported`."""

    def version(self) -> str:
        """The installed version, "unknown" where it can't be told."""

    def state(self, connection: Any) -> State:
        """Look at a connection; never raises, never talks to the server."""

    def is_open(self, pool: Any) -> bool:
        """Whether a pool can still hand out connections; never raises."""

    def idle(self, pool: Any) -> int:
        """How many open connections lie idle in a pool; never raises."""

    def reclaim(self, pool: Any, connection: Any) -> None:
        """Close a leaked connection and free its slot, by the pool's own means where they work."""

    def undo(self) -> None:
        """Give the library back as it was."""
