"""One connection in words: what is known of the backend behind it."""

from __future__ import annotations

from pytest_poolguard.findings import Finding
from pytest_poolguard.server.run_name import PREFIX

__all__ = ["age", "backend", "connection"]

MINUTE = 60
#: Seconds by which two durations have to differ for both to be told.
NOTEWORTHY = 0.1


def age(seconds: float) -> str:
    """A duration as a person says it."""
    if round(seconds * 1000) < 1000:  # noqa: PLR2004 - so many make a second
        return f"{seconds * 1000:.0f} ms"
    if round(seconds, 1) < MINUTE:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), MINUTE)
    return f"{minutes} min {rest} s"


def connection(finding: Finding) -> str:
    """One that the code under test had: ``backend pid 4711, idle in transaction, last statement: SELECT ?``."""
    parts = []
    if finding.backend_pid is not None:
        parts.append(f"backend pid {finding.backend_pid}")
    if finding.transaction_status:
        parts.append(finding.transaction_status)
    return ", ".join([*parts, *_held(finding)])


def backend(finding: Finding) -> str:
    """One that is left on the server, with what that says of it."""
    server = finding.server
    parts = [f"backend pid {finding.backend_pid}", server.get("state", "")]
    if parts[1]:
        parts[1] += f" for {age(float(server['state_seconds']))}"
    # A statement, or none, after others: the transaction is older than its present state.
    open_for, state_for = float(server["transaction_seconds"]), float(server["state_seconds"])
    if open_for > state_for + NOTEWORTHY:
        parts.append(f"its transaction open for {age(open_for)}")
    if server["waits_for"]:
        parts.append(f"waiting for {server['waits_for']}")
    parts.append(f"connected for {age(float(server['age_seconds']))}")
    if server.get("application") and not server["application"].startswith(PREFIX):
        parts.append(f"application {server['application']}")
    return ", ".join(part for part in (*parts, *_held(finding)) if part)


def _held(finding: Finding) -> list[str]:
    """The advisory locks of a backend, which wait for its end, and its last statement."""
    words = {"holds": "holds ", "statement": "last statement: "}
    return [f"{words[name]}{finding.server[name]}" for name in words if finding.server.get(name)]
