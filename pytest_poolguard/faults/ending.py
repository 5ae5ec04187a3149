"""End the backend of one connection, as a server does that is shut down or fails over."""

from __future__ import annotations

import contextlib
import selectors
import time
from collections.abc import Callable
from typing import Any

from pytest_poolguard.books.ledger import Ledger
from pytest_poolguard.books.records import Checkout, Opening
from pytest_poolguard.drivers.interface import Unaskable
from pytest_poolguard.drivers.moment import wait_for
from pytest_poolguard.server.activity import PATIENCE, STATEMENTS, Ask
from pytest_poolguard.server.watch import TOLERANCE

__all__ = ["Endings"]

#: Sure of the backend, or silent: behind a pooler, or after a detour, the pid may be a stranger's. CASE, as the
#: server may look at the parts of an AND in any order.
END = """
SELECT pid FROM pg_catalog.pg_stat_activity
 WHERE CASE WHEN pid = {pid:d} AND backend_type = 'client backend' AND usename = current_user
                 AND abs(extract(epoch FROM clock_timestamp() - backend_start)::float8 - {age:f}) < {within:f}
            THEN pg_catalog.pg_terminate_backend(pid) ELSE false END
"""
#: Seconds until the end of a backend is felt at the other end of its line.
UNTIL_FELT = 2.0


class Endings:
    """Ends backends of this run's connections; ``dsn`` is asked instead of their server, where it is given."""

    def __init__(self, ledger: Ledger, dsn: str) -> None:
        self._ledger = ledger
        self._dsn = dsn
        self._asks: dict[Any, Ask] = {}  #: what asks a server, by its key in openings

    def connected(self, opening: Opening, asker: Callable[[], Ask]) -> None:
        """A connection was opened; ``asker`` makes what asks its server."""
        if opening.server not in self._asks:
            self._asks[opening.server] = asker()

    def end(self, checkout: Checkout, socket: Callable[[Any], int]) -> str:
        """End a checkout's backend, and wait until that is to be felt; why it was not done, or an empty text."""
        connection = checkout.to_server()
        opening = self._ledger.opening(connection)
        if opening is None or opening.backend_pid is None:
            return "its backend is not known"
        reason = self._end(opening)
        if not reason:
            with contextlib.suppress(Exception):  # it is closed already
                wait_for(socket(connection), selectors.EVENT_READ, time.monotonic() + UNTIL_FELT)
        return reason

    def end_all(self, openings: list[Opening]) -> None:
        """End the backends of connections that nobody else ends."""
        for opening in openings:
            if opening.backend_pid is not None and not opening.is_closed():
                self._end(opening)

    def _end(self, opening: Opening) -> str:
        ask = self._asks.get(opening.server)
        if ask is None:
            return "its server is not known"
        age = time.monotonic() - opening.at
        statement = END.format(pid=opening.backend_pid, age=age, within=TOLERANCE)
        try:
            rows = ask((STATEMENTS[0], statement), self._dsn, PATIENCE)
        except Unaskable as error:
            return f"its server could not be asked to end it: {error}"
        return "" if rows else "its server does not list it (a connection pooler in between?)"
