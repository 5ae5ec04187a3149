"""What a run can leave on a server without a connection: prepared transactions, and replication slots.

No server tells who made one. What was not there before, in a database that the run was connected to and, where
there is one, of a role that it connected as, may be the run's; on a server that others share it may be theirs.
So it is told, and fails nothing.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from pytest_poolguard.books.origin import printable
from pytest_poolguard.books.redaction import redacted
from pytest_poolguard.server.statements import text_of

__all__ = ["LASTING", "PATIENCE", "Lasting", "lasting", "left"]

#: Seconds that one look at a server may take.
PATIENCE = 3.0

PREPARED = "prepared transaction"
#: A standby has no current position to write at, but one that it has received. Temporary slots go with their
#: connection; those without a database say nothing of whose they are.
QUERY = """
SELECT 'prepared transaction', gid, owner::text, database::text, extract(epoch FROM prepared)::float8,
       0::int4, 0::float8
  FROM pg_catalog.pg_prepared_xacts
UNION ALL
SELECT 'replication slot', slot_name::text, '', database::text, 0::float8, active::int4,
       coalesce(pg_catalog.pg_wal_lsn_diff(
         CASE WHEN pg_catalog.pg_is_in_recovery() THEN pg_catalog.pg_last_wal_receive_lsn()
              ELSE pg_catalog.pg_current_wal_lsn() END, restart_lsn), 0)::float8
  FROM pg_catalog.pg_replication_slots WHERE NOT temporary AND database IS NOT NULL
"""
#: To be run over one connection; the last one's rows are those of :func:`lasting`.
LASTING = (f"SET LOCAL statement_timeout = {PATIENCE * 1000:.0f}", QUERY)
MEGABYTE = 1 << 20


@dataclass(frozen=True)
class Lasting:
    """One prepared transaction or replication slot. Two looks at the same one are equal."""

    kind: str
    name: str
    owner: str  #: a role; empty for a slot, which has none
    database: str
    prepared: float  #: when, by the server's clock; 0 for a slot
    active: bool = field(default=False, compare=False)  #: somebody reads from the slot
    lag: float = field(default=0.0, compare=False)  #: bytes that the server has to keep for the slot

    @property
    def words(self) -> str:
        """One line: what it is, and why it matters."""
        name, database = (redacted(printable(text)) for text in (self.name, self.database))
        if self.kind == PREPARED:
            return (
                f"prepared transaction {name} of role {printable(self.owner)} in database {database} came up "
                "during this run and is still there: it keeps its locks until it is committed or rolled back"
            )
        size = f", {self.lag / MEGABYTE:.0f} MB so far" if self.lag >= MEGABYTE else ""
        use = ", and is in use" if self.active else ""
        return (
            f"replication slot {name} in database {database} came up during this run and is still there{use}: "
            f"the server keeps all that is written from then on{size}"
        )


def lasting(rows: Iterable[tuple[Any, ...]]) -> frozenset[Lasting]:
    """What the rows of :data:`LASTING` say."""
    return frozenset(
        Lasting(text_of(kind), text_of(name), text_of(owner), text_of(database), prepared, bool(active), lag)
        for kind, name, owner, database, prepared, active, lag in rows
    )


def left(
    before: Collection[Lasting], after: Collection[Lasting], *, databases: Collection[str], roles: Collection[str]
) -> Sequence[Lasting]:
    """What may be left of a run between two looks: it was connected to those databases, as those roles."""
    known = frozenset(before)
    new = [
        one
        for one in after
        if one not in known and one.database in databases and (one.kind != PREPARED or one.owner in roles)
    ]
    return sorted(new, key=lambda one: (one.kind, one.name))
