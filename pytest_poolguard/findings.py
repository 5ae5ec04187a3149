"""One thing reported: its kind, its words, its plain-data form.

A finding is complete when it is made: nothing of it is looked up later, when source files, threads and
connections may have gone. In its dict form it travels between xdist processes and into files.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from pytest_poolguard.books.identity import test_of
from pytest_poolguard.books.origin import Place

__all__ = [
    "CHECKED_OUT",
    "DIRTY_RETURN",
    "ERROR_PATH",
    "EXPECTED",
    "FAILED",
    "HELD_TOO_LONG",
    "IGNORED",
    "KNOWN",
    "NESTED",
    "NOT_CLOSED",
    "POOL_NOT_CLOSED",
    "SERVER_BACKEND",
    "WARNED",
    "WORDS",
    "Finding",
    "Words",
    "connections",
    "counted",
    "headline",
]

# kinds
CHECKED_OUT = "checked_out"
HELD_TOO_LONG = "held_too_long"
DIRTY_RETURN = "dirty_return"
NESTED = "nested"
NOT_CLOSED = "not_closed"
POOL_NOT_CLOSED = "pool_not_closed"
ERROR_PATH = "error_path"
SERVER_BACKEND = "server_backend"


class Words(NamedTuple):
    """What a kind is called."""

    happened: str  #: to a connection or pool, in pytest's short summary
    one: str  #: in the heading of the section
    many: str
    remark: str = ""  #: behind a row of the table
    of: str = "connection"


WORDS = {
    CHECKED_OUT: Words("never returned", "leak", "leaks"),
    HELD_TOO_LONG: Words("held too long", "held too long", "held too long", "held too long"),
    DIRTY_RETURN: Words("returned uncommitted", "dirty return", "dirty returns", "returned uncommitted"),
    NESTED: Words("taken while another was held", "nested checkout", "nested checkouts", "nested"),
    NOT_CLOSED: Words("never closed", "connection not closed", "connections not closed", "not closed"),
    POOL_NOT_CLOSED: Words("never closed", "pool not closed", "pools not closed", "pool not closed", "pool"),
    ERROR_PATH: Words(
        "never returned after a fault", "leaking error path", "leaking error paths", "after a fault"
    ),
    SERVER_BACKEND: Words("left open", "connection left on the server", "connections left on the server"),
}

# verdicts
FAILED = "failed"
WARNED = "warned"
EXPECTED = "expected"
KNOWN = "known"  # its site is recorded in the baseline
IGNORED = "ignored"  # by the settings, with a reason

#: What stands for whoever opened a connection unseen. Whether its process is still found to run, and which worker
#: started it, differ from run to run.
CHILD = "a child process"

#: The fields of a finding that are places.
PLACES = (
    "pool_made",
    "acquired",
    "called_from",
    "closed_at",
    "first_at",
    "returned_at",
    "struck_at",
    "thread_place",
)


@dataclass
class Finding:
    """One connection or pool that was not given back or closed, or not in time."""

    kind: str
    library: str
    pool: str  #: class and size; empty for a connection that no pool made
    owner_kind: str  #: "test", "fixture" or "session"
    owner_name: str
    owner_scope: str = ""
    owner_place: str = ""  #: where a fixture is defined
    nodeid: str = ""  #: the test; empty for what no test took
    phase: str = ""  #: "setup", "body", "teardown"
    pool_made: Place | None = None
    pool_first_used: bool = False  #: ``pool_made`` is the line of its first use, its making was not seen
    acquired: Place | None = None  #: the site
    called_from: Place | None = None  #: who got it from there and should have returned it, if that is another
    stack: list[Place] = field(default_factory=list)  #: outermost first
    closed_at: Place | None = None  #: where its pool was closed while it was out
    first_at: Place | None = None  #: where its holder had taken one before, for a ``nested``
    starves_at: int | None = None  #: the biggest pool in which those who did so would starve, likewise
    returned_at: Place | None = None  #: where it was given back, for a ``dirty_return``
    fault: str = ""  #: "kill", "error", "cancel" or "refuse", for an ``error_path``
    struck_at: Place | None = None  #: the line at which that fault was felt, likewise
    followed: str = ""  #: the exception that followed, likewise
    thread: str = "MainThread"
    task: str = ""  #: the name of an asyncio task; empty for code that is not asynchronous
    thread_place: Place | None = None  #: where a holder, thread or task, that still runs is now
    held_seconds: float = 0.0
    ended: str = ""  #: what had ended by then, where its owner's end was not the one that counted
    backend_pid: int | None = None
    transaction_status: str = ""
    backends: int = 0  #: connections that a pool holds which is not closed
    server: dict[str, str] = field(default_factory=dict)  #: what pg_stat_activity says of the backend
    hint: str = ""
    note: str = ""  #: what else a reader has to know to believe it
    limit_seconds: float | None = None
    worker: str = ""
    opened_by: str = ""  #: who opened it, where that was no line of code that this process has run
    verdict: str = FAILED

    @property
    def site(self) -> str:
        """The site in words: ``shop/users.py:8 in get_user``.

        Where a helper took the connection and returned it to its caller, that caller is the one to look at.
        """
        if self.acquired is None:
            return self.opened_by or "an unknown place"
        if self.called_from is not None:
            return f"{self.called_from.site}, through {self.acquired.function}"
        return self.acquired.site

    @property
    def lasting_site(self) -> str:
        """The site without what edits elsewhere, and another machine, change: ``shop/users.py:get_user``."""
        if self.opened_by:
            return f"{CHILD} of {'::'.join(test_of(self.nodeid)) if self.nodeid else 'the run'}"
        if self.acquired is None:
            return "an unknown place"
        if self.first_at is not None:
            return f"{self.acquired.lasting}, holding that of {self.first_at.lasting}"
        if self.called_from is not None:
            return f"{self.called_from.lasting}, through {self.acquired.lasting}"
        return self.acquired.lasting

    @property
    def fingerprint(self) -> str:
        """The same for the same leak after edits above it, on every worker, machine and operating system."""
        places = (self.acquired, self.called_from, self.first_at)
        calls = [place.call for place in places if place is not None]
        parts = [self.kind, self.library, self.lasting_site, *calls, *([self.fault] if self.fault else [])]
        return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:16]

    def to_dict(self) -> dict[str, Any]:
        """Plain data: strings, numbers, None, lists and dicts only."""
        # By hand: for a deep stack, dataclasses.asdict takes ten times as long.
        plain: dict[str, Any] = dict(vars(self))
        for name in PLACES:
            plain[name] = dict(vars(plain[name])) if plain[name] is not None else None
        plain["stack"] = [dict(vars(place)) for place in self.stack]
        plain["server"] = dict(self.server)
        plain["owner"] = {
            "kind": plain.pop("owner_kind"),
            "name": plain.pop("owner_name"),
            "scope": plain.pop("owner_scope"),
            "place": plain.pop("owner_place"),
        }
        plain["pool"] = {
            "class": self.pool.partition("(")[0],
            "name": plain["pool"],
            "made_at": plain.pop("pool_made"),
            "first_used": plain.pop("pool_first_used"),
        }
        plain["fingerprint"] = self.fingerprint
        plain["task"] = self.task or None
        return plain

    @classmethod
    def from_dict(cls, plain: dict[str, Any]) -> Finding:
        """The finding of a :meth:`to_dict`."""
        given = dict(plain)
        del given["fingerprint"]
        given["task"] = given["task"] or ""
        for name, value in given.pop("owner").items():
            given[f"owner_{name}"] = value
        pool = given.pop("pool")
        given.update(pool=pool["name"], pool_made=pool["made_at"], pool_first_used=pool["first_used"])
        for name in PLACES:
            if given[name] is not None:
                given[name] = Place(**given[name])
        given["stack"] = [Place(**place) for place in given["stack"]]
        return cls(**given)


def connections(count: int) -> str:
    """``1 connection``, ``2 connections``."""
    return counted(count, "connection")


def counted(number: int, word: str) -> str:
    """``1 site``, ``2 sites``."""
    return f"{number} {word}" + ("" if number == 1 else "s")


def headline(findings: Iterable[Finding]) -> str:
    """Findings that belong together in a line, for pytest's short summary."""
    findings = list(findings)
    sites = list(dict.fromkeys(finding.site for finding in findings))
    more = f" and {len(sites) - 1} more" if len(sites) > 1 else ""
    what: list[str] = []
    said = ""  # of what: "2 connections never returned, 1 held too long"
    for kind, words in WORDS.items():
        count = sum(finding.kind == kind for finding in findings)
        if count:
            what.append(f"{count if words.of == said else counted(count, words.of)} {words.happened}")
            said = words.of
    return f"poolguard: {', '.join(what)} ({sites[0]}{more})"
