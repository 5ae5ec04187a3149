"""Which limit of the server's a test has overrun, and where that limit was set.

Told where the test fails for it: in a section of its report.
"""

from __future__ import annotations

import pytest

from pytest_poolguard.books.origin import printable
from pytest_poolguard.drivers.session_limits import Applied
from pytest_poolguard.options import MARKER
from pytest_poolguard.server.sqlstate import CANCELED, IDLE, is_lost, refusal

__all__ = ["tell"]

SECTION = "poolguard: a limit of the session"
STATEMENT, TRANSACTION = "statement_timeout", "idle_in_transaction_timeout"
#: A statement may also be canceled by somebody's request; where the server speaks another language, nobody knows.
BY_TIMEOUT = "statement timeout"


def tell(item: pytest.Item, report: pytest.TestReport, error: BaseException, limited: list[Applied]) -> None:
    """Let the report of a test that has failed say which of its limits was the reason."""
    refused = refusal(error, (CANCELED, IDLE))
    name, what = "", ""
    if refused is None:
        if is_lost(error):
            limited = [one for one in limited if one.is_lost()]
            name, what = TRANSACTION, "it may be why the server has closed a connection"
    elif refused.sqlstate == IDLE:
        name, what = TRANSACTION, "the server has ended a transaction that lay idle for longer"
    elif BY_TIMEOUT in refused.message:
        name, what = STATEMENT, "the server has ended a statement that took longer"
    broken = next((one for one in limited if name and _may_be_over(one, name)), None)
    if broken is not None:
        text = f"{name}={getattr(broken.limits, name)} {_of(item, broken, name)}: {what}"
        report.sections.append((SECTION, text))


def _may_be_over(applied: Applied, name: str) -> bool:
    """Whether a connection was out for so long; else the application has set a limit of its own."""
    seconds = getattr(applied.limits, name)
    return bool(seconds) and applied.lasted() >= seconds


def _of(item: pytest.Item, applied: Applied, name: str) -> str:
    """Where a limit is set."""
    if applied.owner.kind == "test" or applied.owner.scope == "function":
        for node, mark in item.iter_markers_with_node(MARKER):
            if name in mark.kwargs:
                return f"of @pytest.mark.{MARKER} on {printable(node.nodeid)}"
    option = f"poolguard_{name}"
    if item.config.getoption(option, None) is not None:
        return f"of --{option.replace('_', '-')}"
    return f"of {option} in the ini file"
