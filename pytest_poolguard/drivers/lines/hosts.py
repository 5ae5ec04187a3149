"""One server of several, as a list of hosts and ``target_session_attrs`` ask for it."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

from pytest_poolguard.drivers.interface import Unaskable
from pytest_poolguard.drivers.lines.places import Place
from pytest_poolguard.drivers.moment import Line, Refused, Unreachable

__all__ = ["first_fit"]

STATE = (
    "SELECT pg_catalog.pg_is_in_recovery()::int4, "
    "(pg_catalog.current_setting('default_transaction_read_only') = 'on')::int4"
)
#: What a server is, told whether it recovers and whether its transactions only read.
FITS: dict[str, Callable[[int, int], bool]] = {
    "read-write": lambda recovers, reads: not (recovers or reads),
    "read-only": lambda recovers, reads: bool(recovers or reads),
    "primary": lambda recovers, _reads: not recovers,
    "standby": lambda recovers, _reads: bool(recovers),
}


def first_fit(
    line: Line,
    reach: Callable[[Place, float], Any],
    places: Sequence[Place],
    wanted: str,
    deadline: float,
) -> Any:
    """The connection to the first server that answers and is what is wanted.

    One that answers and refuses ends the search, as for libpq: a wrong password is no reason to try the next.
    Each server has its share of the time that is left. Raises the last one's error.
    """
    if wanted not in ("any", "prefer-standby", *FITS):
        raise Unaskable("target_session_attrs has an invalid value")
    rounds = ("standby", "any") if wanted == "prefer-standby" else (wanted,)
    tries = [(place, attribute) for attribute in rounds for place in places]
    last: Exception = Refused("no server was named")
    for number, (place, attribute) in enumerate(tries):
        now = time.monotonic()
        until = now + max(deadline - now, 0) / (len(tries) - number)
        try:
            connection = reach(place, until)
        except (Unreachable, TimeoutError) as error:
            last = error
            continue
        if _fits(line, connection, attribute, until):
            return connection
        line.part(connection)
        last = Refused(f"no server is {wanted}")
    raise last


def _fits(line: Line, connection: Any, attribute: str, deadline: float) -> bool:
    if attribute == "any":
        return True
    try:
        ((recovers, reads),) = line.rows(connection, [STATE], deadline)
    except BaseException:
        line.part(connection)
        raise
    return FITS[attribute](recovers, reads)
