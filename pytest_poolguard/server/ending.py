"""End backends that a run has left, when the user has asked for it."""

from __future__ import annotations

from collections.abc import Iterable

from pytest_poolguard.server.activity import PATIENCE, STATEMENTS, Ask, Backend

__all__ = ["end"]

#: The server compares: between the look and this, a pid may have become somebody else's. CASE, as it may look at
#: the parts of an AND in any order.
END = """
SELECT pid FROM pg_catalog.pg_stat_activity
 WHERE CASE WHEN {those} THEN pg_catalog.pg_terminate_backend(pid) ELSE false END
"""
ONE = "pid = {pid:d} AND extract(epoch FROM backend_start)::float8 = {start!r}::float8"


def end(ask: Ask, dsn: str, backends: Iterable[Backend]) -> set[int]:
    """End backends; the pids of those that are. Raises :class:`Unaskable`, where the role may not do it, say."""
    known = [ONE.format(pid=row.pid, start=row.start) for row in backends if row.start is not None]
    if not known:
        return set()
    those = " OR ".join(f"({one})" for one in known)
    return {row[0] for row in ask((STATEMENTS[0], END.format(those=those)), dsn, PATIENCE)}
