"""One look at what the backends of a server hold and wait for: what is asked, and what a row of it says.

What is asked is in the server's shared memory, and in catalogs that hardly anybody ever locks; if somebody does,
there is no answer. Roles without privileges see who waits for whose locks, but little of what others do.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, NamedTuple

from pytest_poolguard.books.origin import printable
from pytest_poolguard.books.redaction import redacted
from pytest_poolguard.server.activity import PATIENCE, Backend
from pytest_poolguard.server.advisory import advisory_key, advisory_words
from pytest_poolguard.server.statements import text_of

__all__ = ["HOLDING", "MODES", "PREPARED", "Holding", "Lock", "holdings"]

#: PostgreSQL's table lock modes, the weakest first.
MODES = (
    "AccessShareLock",
    "RowShareLock",
    "RowExclusiveLock",
    "ShareUpdateExclusiveLock",
    "ShareLock",
    "ShareRowExclusiveLock",
    "ExclusiveLock",
    "AccessExclusiveLock",
)
#: Rows name tables of the database that is asked only, which mostly is another one than the suite's. What lies
#: below 16384 is the system's: everybody locks that all the time.
QUERY = """
WITH locks AS MATERIALIZED (
  SELECT l.*, CASE WHEN d.datname = current_database() THEN l.relation::regclass::text END AS name
    FROM pg_catalog.pg_locks l LEFT JOIN pg_catalog.pg_database d ON d.oid = l.database
), wait AS (
  SELECT DISTINCT ON (pid) * FROM locks WHERE NOT granted ORDER BY pid
), held AS (
  SELECT pid,
         string_agg(DISTINCT mode, ' ') FILTER (WHERE locktype = 'relation' AND relation >= 16384) AS modes,
         string_agg(DISTINCT locks.name, ', ')
           FILTER (WHERE relation >= 16384 AND relkind IN ('r', 'p', 'm', 'f')) AS names,
         string_agg(concat_ws(':', classid, objid, objsubid), ' ' ORDER BY classid, objid, objsubid)
           FILTER (WHERE locktype = 'advisory') AS advisory
    FROM locks LEFT JOIN pg_catalog.pg_class c ON c.oid = relation AND locks.name IS NOT NULL
   WHERE granted GROUP BY pid
)
SELECT a.pid, coalesce(a.backend_type, ''), coalesce(a.state, ''), coalesce(a.application_name, ''),
       coalesce(a.query, ''), coalesce(extract(epoch FROM clock_timestamp() - a.state_change), 0)::float8,
       extract(epoch FROM clock_timestamp() - a.backend_start)::float8,
       extract(epoch FROM a.backend_start)::float8,
       coalesce(a.datname::text, ''), coalesce(a.usename::text, ''),
       coalesce(extract(epoch FROM clock_timestamp() - a.xact_start), 0)::float8,
       coalesce(a.wait_event_type, ''), coalesce(a.wait_event, ''),
       coalesce(wait.locktype, ''), coalesce(wait.mode, ''),
       coalesce(CASE wait.locktype
         WHEN 'relation' THEN wait.name
         WHEN 'advisory' THEN concat_ws(':', wait.classid, wait.objid, wait.objsubid)
         WHEN 'object' THEN (SELECT datname::text FROM pg_catalog.pg_database
                              WHERE oid = wait.objid AND wait.classid = 'pg_catalog.pg_database'::regclass)
       END, ''),
       coalesce(CASE WHEN wait.pid IS NOT NULL
         THEN array_to_string(pg_catalog.pg_blocking_pids(a.pid), ' ') END, ''),
       coalesce(held.modes, ''), coalesce(held.names, ''), coalesce(held.advisory, '')
  FROM pg_catalog.pg_stat_activity a
  LEFT JOIN wait ON wait.pid = a.pid
  LEFT JOIN held ON held.pid = a.pid
 WHERE a.pid <> pg_catalog.pg_backend_pid()
"""
#: To be run over one connection; the last one's rows are those of :func:`holdings`.
HOLDING = (f"SET LOCAL statement_timeout = {PATIENCE * 1000:.0f}", "SET LOCAL lock_timeout = 500", QUERY)
#: Stands for a prepared transaction among the pids of those who block somebody.
PREPARED = 0
#: Characters of table names that are told.
NAMES_WIDTH = 60


class Lock(NamedTuple):
    """A lock that is waited for."""

    kind: str  #: pg_locks.locktype; empty for none
    mode: str
    about: str  #: a table, a database, the key of an advisory lock; empty where it can't be told

    @property
    def words(self) -> str:
        """What is waited for: ``AccessExclusiveLock on products``, ``advisory lock 4711``."""
        if self.kind in ("transactionid", "virtualxid"):
            return "another transaction to end"
        if self.kind == "tuple":
            return "a row that others wait for, too"
        if self.kind == "advisory":
            return f"advisory lock {advisory_key(self.about)}"
        if self.kind == "relation":
            return f"{self.mode} on {self.about or 'a table'}"
        if self.kind == "object" and self.about:
            return f"{self.mode} on database {self.about}"
        return f"{self.mode} on {'an object' if self.kind == 'object' else self.kind}"


@dataclass(frozen=True)
class Holding:
    """A backend, what it holds, and what it waits for."""

    backend: Backend
    database: str
    user: str
    transaction_age: float  #: seconds; 0 where none is open, or where this role may not see it
    wait_type: str  #: pg_stat_activity.wait_event_type, and
    wait_event: str
    lock: Lock  #: what it waits for
    blockers: tuple[int, ...]  #: pids, :data:`PREPARED` for a prepared transaction
    strongest: str  #: lock that it has on a table, one of MODES; empty for none
    tables: str  #: their names, as far as they can be told
    advisory: tuple[str, ...]  #: keys of advisory locks that it has

    @property
    def pid(self) -> int:
        """The backend's."""
        return self.backend.pid

    @property
    def is_client(self) -> bool:
        """Whether it may be somebody's connection: of other roles' backends one may not see the kind."""
        return self.backend.kind == b"client backend" or self.is_hidden

    @property
    def is_hidden(self) -> bool:
        """Whether this role may not see what it does; the server's own processes have no database."""
        return not self.backend.kind and bool(self.database)

    @property
    def is_waiting(self) -> bool:
        """Whether it waits for a lock."""
        return bool(self.lock.kind)

    @property
    def holds(self) -> str:
        """The locks that it has, in words; empty for none that others could wait for."""
        parts = []
        if self.strongest:
            tables = redacted(printable(self.tables))
            cut = tables if len(tables) <= NAMES_WIDTH else tables[: NAMES_WIDTH - 1] + "…"
            parts.append(f"{self.strongest} on {cut or 'a table'}")
        if self.advisory:
            parts.append(self.holds_advisory)
        return ", ".join(parts)

    @property
    def holds_advisory(self) -> str:
        """The advisory locks that it has: ``advisory lock 4711``; empty for none."""
        return advisory_words(self.advisory)


def holdings(rows: Iterable[tuple[Any, ...]]) -> list[Holding]:
    """What the rows of :data:`HOLDING` say."""
    return [_holding(*row) for row in rows]


def _holding(*row: Any) -> Holding:
    database, user, age, wait_type, event, kind, mode, about, blockers, modes, tables, keys = row[8:]
    return Holding(
        Backend(*row[:8]),
        text_of(database),
        text_of(user),
        age,
        text_of(wait_type),
        text_of(event),
        Lock(text_of(kind), text_of(mode), printable(text_of(about))),
        # Who runs a parallel query stands there once for each of its workers.
        tuple(dict.fromkeys(int(pid) for pid in text_of(blockers).split())),
        max((mode for mode in text_of(modes).split() if mode in MODES), key=MODES.index, default=""),
        text_of(tables),
        tuple(text_of(keys).split()),
    )
