"""Leaks that a fault has brought out, in words."""

from __future__ import annotations

from pytest_poolguard.findings import Finding

__all__ = ["felt", "title"]

#: When a connection is not returned, by the fault.
WHEN = {
    "kill": "the server ends it",
    "error": "its statement fails",
    "cancel": "its task is cancelled",
    "refuse": "the pool refuses a second one",
}
#: What was done, by the fault.
STRUCK = {
    "kill": "the server ended it right after the checkout, which was felt",
    "error": "the statement was made to fail",
    "cancel": "its task was cancelled at the next await after the checkout,",
    "refuse": "the pool was made to refuse one",
}


def title(group: list[Finding]) -> str:
    """``shop/users.py:8 get_user never returns the connection when its statement fails``."""
    place = group[0].called_from or group[0].acquired
    who = f"{place} {place.function}" if place is not None else "an unknown place"
    *some, last = [WHEN[fault] for fault in dict.fromkeys(finding.fault for finding in group)]
    return f"{who} never returns the connection when {', '.join(some)}{' or ' if some else ''}{last}"


def felt(group: list[Finding]) -> list[str]:
    """Where each fault struck, and what followed."""
    lines = []
    for finding in group:
        followed = f": {finding.followed}" if finding.followed else "; no exception came out of the test"
        lines.append(f"{STRUCK[finding.fault]} at {finding.struck_at}{followed}")
    return list(dict.fromkeys(lines))
