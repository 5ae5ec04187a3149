"""Who is in whose way, for one screen: a table of sessions."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from pytest_poolguard.books.origin import printable
from pytest_poolguard.books.redaction import redacted
from pytest_poolguard.reports.backends import age
from pytest_poolguard.server.contention import Contention, Session
from pytest_poolguard.server.holding import PREPARED, Holding
from pytest_poolguard.server.statements import text_of

__all__ = ["connected", "deadlock", "transactions", "waits"]

#: Columns of a line, sessions of a table.
WIDTH, SESSIONS = 100, 8


def waits(looks: Iterable[Contention], when: str) -> str:
    """Those of ours that wait for a lock, and who has it; empty where none waits. ``when`` they were seen."""
    return _told(f"Who waited for a lock, and who had it, {when}:", [(look, look.waiting()) for look in looks])


def connected(looks: Iterable[Contention], databases: Iterable[str]) -> str:
    """Who is connected to one of some databases; empty where nobody is."""
    names = set(databases)
    title = "Who was connected to the database when the server said that it was in use:"
    return _told(title, [(look, look.connected_to(names)) for look in looks])


def transactions(looks: Iterable[Contention]) -> str:
    """Who holds locks, where it can't be told which was the one; empty where nobody does."""
    title = "Who held locks when one was refused (the server does not say whose it was):"
    return _told(title, [(look, look.holding_locks()) for look in looks])


def deadlock(looks: Iterable[Contention], message: str) -> str:
    """Those whom a message of the server's names by their pids; empty where none of them is there and ours."""
    title = "The sessions that the server named, as they were then:"
    return _told(title, [(look, look.named(message)) for look in looks])


def _told(title: str, found: Sequence[tuple[Contention, list[Session]]]) -> str:
    tables = [(look, sessions) for look, sessions in found if sessions]
    parts = []
    for look, sessions in tables:
        where = f" ({look.server})" if len(tables) > 1 else ""
        parts.append(title[:-1] + where + ":\n\n" + "\n".join(_table(sessions)))
    return "\n\n".join(parts)


def _table(sessions: Sequence[Session]) -> list[str]:
    lines = [line for session in sessions[:SESSIONS] for line in _lines(session)]
    if len(sessions) > SESSIONS:
        lines.append(f"  … {len(sessions) - SESSIONS} more sessions")
    return [line if len(line) <= WIDTH else line[: WIDTH - 1] + "…" for line in lines]


def _lines(session: Session) -> list[str]:
    holding = session.holding
    facts = [_state(holding, session.statement)]
    if holding.is_waiting:
        facts.append(f"waits for {holding.lock.words}{_blockers(holding)}")
    if holding.holds:
        facts.append(f"holds {holding.holds}")
    return [f"  pid {session.pid}, {session.origin or _stranger(holding)}", *(f"      {fact}" for fact in facts)]


def _state(holding: Holding, statement: str) -> str:
    if holding.is_hidden:
        return "what it does may not be seen by the role that asked"
    state = printable(text_of(holding.backend.state)) or printable(text_of(holding.backend.kind))
    words = f"{state} for {age(holding.backend.state_age)}"
    if statement:
        words += f": {statement}" if state == "active" else f", last statement: {statement}"
    return words


def _blockers(holding: Holding) -> str:
    who = ["a prepared transaction" if pid == PREPARED else f"pid {pid}" for pid in holding.blockers]
    return f", blocked by {', '.join(who)}" if who else ""


def _stranger(holding: Holding) -> str:
    """One that is not ours: all that the server knows of who it is."""
    parts = [
        f"{what} {redacted(printable(name))}"
        for what, name in (
            ("application", text_of(holding.backend.application)),
            ("role", holding.user),
            ("database", holding.database),
        )
        if name
    ]
    return "not opened by this process" + (": " + ", ".join(parts) if parts else "")
