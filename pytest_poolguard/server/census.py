"""How full a server is."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from typing import Any

from pytest_poolguard.books.origin import printable
from pytest_poolguard.server.activity import Backend, Look
from pytest_poolguard.server.run_name import PREFIX
from pytest_poolguard.server.statements import text_of

__all__ = ["Census", "Visit"]

#: What pg_stat_activity calls it, and what a person does.
STATES = {
    b"active": "active",
    b"idle": "idle",
    b"idle in transaction": "idle in transaction",
    b"idle in transaction (aborted)": "idle in transaction",
}
#: Applications named of those that are no part of the run.
NAMED = 4
#: Those that bear the name of a run, but not of this one.
OTHER_RUNS = "other runs under poolguard"
#: The part of a server's connections that, when it is all that is free, worries people.
SCARCE = 0.2


@dataclass
class Census:
    """How many connections a server had at one look."""

    total: int
    limit: int  #: connections that the server takes; 0 where it did not say
    free: int  #: those that a client without privileges could still have made
    states: dict[str, int] = field(default_factory=dict)

    @classmethod
    def of(cls, look: Look) -> Census:
        """Count the clients of a look."""
        states = Counter(STATES.get(backend.state, "other") for backend in look.clients)
        order = [*dict.fromkeys(STATES.values()), "other"]
        return cls(
            len(look.clients), look.limit, look.free, {state: states[state] for state in order if states[state]}
        )

    def __str__(self) -> str:
        """``7 of 100 connections in use (1 active, 6 idle)``."""
        states = ", ".join(f"{count} {state}" for state, count in self.states.items())
        return f"{self.total} of {self.limit} connections in use" + (f" ({states})" if states else "")


@dataclass
class Visit:
    """One server of a run: who was there before, and who is there when the run is over."""

    name: str
    before: Census | None = None
    after: Census | None = None
    left: int = 0  #: backends that this run has left
    idle: int = 0  #: those in pools of this run that are still open
    others: dict[str, int] = field(default_factory=dict)  #: strangers, by the name of their application
    came: int = 0  #: of these, those that were not there before

    def meet(self, strangers: Iterable[Backend]) -> None:
        """Count those that are no part of the run."""
        names = Counter(_name(text_of(stranger.application)) for stranger in strangers)
        self.others = dict(names.most_common())

    def to_dict(self) -> dict[str, Any]:
        """Plain data."""
        return asdict(self)

    @classmethod
    def from_dict(cls, plain: dict[str, Any]) -> Visit:
        """The one of a :meth:`to_dict`."""
        given = dict(plain)
        for name in ("before", "after"):
            given[name] = Census(**given[name]) if given[name] is not None else None
        return cls(**given)

    @property
    def is_news(self) -> bool:
        """Whether somebody who did not ask for details wants to know."""
        scarce = self.after is not None and self.after.limit and self.after.free < self.after.limit * SCARCE
        return bool(self.left or self.came or scarce)

    def __str__(self) -> str:
        """The line of the summary."""
        parts = []
        if self.before is not None:
            parts.append(f"before this run {self.before}")
        if self.after is not None:
            what = [
                f"{self.left} left open by this run" if self.left else "",
                f"{self.idle} idle in pools that are still open" if self.idle else "",
                self._strangers(),
            ]
            told = ", ".join(part for part in what if part)
            parts.append(f"after it {self.after.total}" + (f": {told}" if told else ""))
        return f"{self.name}: {'; '.join(parts)}"

    def _strangers(self) -> str:
        count = sum(self.others.values())
        if not count:
            return ""
        names = [f"{name or 'without a name'} {number}" for name, number in list(self.others.items())[:NAMED]]
        more = ", …" if len(self.others) > NAMED else ""
        return f"{count} of others ({', '.join(names)}{more})"


def _name(application: str) -> str:
    return OTHER_RUNS if application.startswith(PREFIX) else printable(application)
