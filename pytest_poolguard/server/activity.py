"""One look at ``pg_stat_activity``: what is asked, and what the answer says."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import astuple, dataclass, replace
from typing import Any

from pytest_poolguard.books.origin import printable
from pytest_poolguard.server.advisory import advisory_locks, advisory_words
from pytest_poolguard.server.lasting import PATIENCE, Lasting
from pytest_poolguard.server.statements import Shown, text_of

__all__ = ["ACTIVE", "ACTIVITY", "PATIENCE", "STATEMENTS", "Ask", "Backend", "Look"]

#: Runs statements on a server over a connection of a moment: the server of the given DSN, else one's own, within
#: so many seconds. Returns the last statement's rows, texts as bytes; raises Unaskable.
Ask = Callable[[Sequence[str], str, float], list[tuple[Any, ...]]]

#: Every backend but our own; what is said of the whole server stands in each row. ``reserved_connections`` came
#: with PostgreSQL 16.
ACTIVITY = """
SELECT pid, coalesce(backend_type, ''), coalesce(state, ''), coalesce(application_name, ''),
       coalesce(query, ''), coalesce(extract(epoch FROM clock_timestamp() - state_change), 0)::float8,
       extract(epoch FROM clock_timestamp() - backend_start)::float8,
       extract(epoch FROM backend_start)::float8,
       coalesce(datname::text, ''), coalesce(extract(epoch FROM clock_timestamp() - xact_start), 0)::float8,
       CASE WHEN state = 'active' THEN coalesce(wait_event_type || ' ' || wait_event, '') ELSE '' END,
       current_setting('max_connections')::int4,
       current_setting('superuser_reserved_connections')::int4
         + coalesce(current_setting('reserved_connections', true), '0')::int4,
       extract(epoch FROM pg_catalog.pg_postmaster_start_time())::float8,
       extract(epoch FROM clock_timestamp())::float8
  FROM pg_catalog.pg_stat_activity WHERE pid <> pg_catalog.pg_backend_pid()
"""
STATEMENTS = (f"SET LOCAL statement_timeout = {PATIENCE * 1000:.0f}", ACTIVITY)
#: Of these, the ones that are a backend's.
COLUMNS = 11
CLIENT = b"client backend"
ACTIVE = b"active"
#: What the drivers call it, too: see ``libpq``.
STATES = {b"idle in transaction (aborted)": "idle in a failed transaction"}


@dataclass(frozen=True)
class Backend:
    """A row of pg_stat_activity. Of roles whose backends one may not see, it has little more than the pid."""

    pid: int
    kind: bytes
    state: bytes
    application: bytes
    query: bytes
    state_age: float  #: seconds
    age: float | None  #: seconds
    start: float | None  #: by the server's clock
    database: bytes = b""
    transaction_age: float = 0.0  #: seconds; 0 where none is open
    waits_for: bytes = b""  #: what its statement waits for: ``Lock transactionid``
    advisory: tuple[str, ...] = ()  #: the advisory locks that it has, where that was asked

    @property
    def is_client(self) -> bool:
        """Whether somebody's connection is behind it: no worker of the server's, no replication."""
        return self.kind == CLIENT

    @property
    def is_hidden(self) -> bool:
        """Whether this role may not see what it does; the server's own processes have no database."""
        return not self.kind and bool(self.database)

    def words(self, shown: Shown) -> dict[str, str]:
        """What a finding says of it."""
        return {
            "state": STATES.get(self.state) or printable(text_of(self.state)),
            "state_seconds": f"{self.state_age:.3f}",
            "transaction_seconds": f"{self.transaction_age:.3f}",
            "waits_for": printable(text_of(self.waits_for)),
            "holds": advisory_words(self.advisory),
            "age_seconds": f"{self.age or 0:.3f}",
            "application": printable(text_of(self.application)),
            "statement": shown(self.query),
        }


@dataclass(frozen=True)
class Look:
    """All that one look has seen."""

    backends: dict[int, Backend]  #: by pid
    limit: int = 0  #: connections that the server takes; 0 where it did not say
    reserved: int = 0  #: of these, for superusers and the like
    started: float = 0.0  #: when the server was, by its own clock: no two servers share it
    now: float = 0.0  #: the time, by the server's clock
    asked: float = 0.0  #: the time when it was asked, by our own clock
    answered: float = 0.0
    lasting: frozenset[Lasting] | None = None  #: what outlives connections; None where that was not asked

    @classmethod
    def of(cls, rows: Sequence[tuple[Any, ...]], asked: float = 0.0, answered: float = 0.0) -> Look:
        """What the rows of :data:`ACTIVITY` say."""
        backends = [Backend(*row[:COLUMNS]) for row in rows]
        look = cls({backend.pid: backend for backend in backends}, *(rows[0][COLUMNS:] if rows else ()))
        return replace(look, asked=asked, answered=answered)

    def with_advisory(self, rows: Sequence[tuple[Any, ...]]) -> Look:
        """The same, with what the rows of :data:`ADVISORY` say."""
        locks = advisory_locks(rows)
        backends = {pid: replace(row, advisory=locks.get(pid, ())) for pid, row in self.backends.items()}
        return replace(self, backends=backends)

    def opened_at(self, backend: Backend) -> float:
        """When a backend was started, by our own clock: that of another machine may be fast or slow."""
        skew = min(max(self.now, self.asked), self.answered) - self.now
        return (backend.start or 0.0) + skew

    def to_plain(self) -> list[tuple[Any, ...]]:
        """Rows that :meth:`of` takes, without the statements: plain data."""
        server = (self.limit, self.reserved, self.started, self.now)
        return [(*astuple(replace(row, query=b""))[:COLUMNS], *server) for row in self.backends.values()]

    @property
    def clients(self) -> list[Backend]:
        """Those with somebody's connection behind them."""
        return [backend for backend in self.backends.values() if backend.is_client or backend.is_hidden]

    @property
    def sees_all(self) -> bool:
        """Whether the role that asked may see everybody's."""
        return not any(backend.is_hidden for backend in self.backends.values())

    @property
    def free(self) -> int:
        """Connections that a client without privileges can still make."""
        return max(self.limit - self.reserved - len(self.clients), 0)
