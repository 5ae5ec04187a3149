"""The server's own limits, set for a session while its connection is out: ``statement_timeout`` and its like.

What is set is read, set and taken back by single statements, outside of any transaction. Where the value is no
longer ours when the connection comes back, somebody else has set it since: it stays. What libraries differ in,
how to talk over a connection of theirs, is in a room of each.
"""

from __future__ import annotations

import sys
import time
import weakref
from collections import deque
from collections.abc import Awaitable, Callable, Generator, Sequence
from typing import Any, NamedTuple

from pytest_poolguard.books.ledger import Ledger
from pytest_poolguard.books.origin import printable
from pytest_poolguard.books.records import Owner, SessionLimits

__all__ = ["MARK", "NAMES", "Applied", "Sessions", "Talk"]

#: What the server calls them; all are in milliseconds.
NAMES = {
    "statement_timeout": "statement_timeout",
    "idle_in_transaction_timeout": "idle_in_transaction_session_timeout",
}
#: By this a statement of ours is known, where a server shows the last one.
MARK = "/* pytest-poolguard */"
#: Of what a test has returned already, so much may still explain its failure.
MOST = 100
#: Attempts to take a limit back: a task that is cancelled over the first one goes on with the second.
ATTEMPTS = 2

Row = Sequence[Any]
#: Statements to ask, one after the other; each is answered by its row.
Steps = Generator[str, Row, None]


class Talk(NamedTuple):
    """How to talk over the connections of a library."""

    state: Callable[[Any], Any]  #: as a driver's
    #: Asks a statement of a connection that is at rest, and returns its row of texts; or a coroutine that does.
    ask: Callable[[Any, str], Any]
    is_async: bool = False


class Applied:
    """What was set on one connection, and what there was before."""

    def __init__(self, connection: Any, limits: SessionLimits, owner: Owner, talk: Talk) -> None:
        self.connection = weakref.ref(connection)
        self.limits = limits
        self.owner = owner  #: who took it
        self.values: dict[str, tuple[str, str]] = {}  #: by the server's name of each: the value before, and ours
        self._talk = talk
        self._since = time.monotonic()
        self._until: float | None = None
        self._was_lost = False

    def lasted(self) -> float:
        """Seconds for which it has held so far."""
        return (time.monotonic() if self._until is None else self._until) - self._since

    def is_lost(self) -> bool:
        """Whether the server has closed the connection, or the network has."""
        connection = self.connection()
        if self._until is None and connection is not None:
            return bool(self._talk.state(connection).broken)
        return self._was_lost

    def end(self) -> None:
        """It holds no longer."""
        self._was_lost = self.is_lost()
        self._until = time.monotonic()


class Sessions:
    """The connections that have limits of ours now."""

    def __init__(self, ledger: Ledger, say: Callable[[str], None]) -> None:
        self.limited: dict[int, Applied] = {}  #: by the connection's id()
        self._ledger = ledger
        self.lately: deque[Applied] = deque(maxlen=MOST)  #: what was taken back since the present test began
        self._say_once = say
        self._said: set[str] = set()

    # a connection goes out and comes back; none of these raises, but for what ends a task from outside

    def set(self, pool: Any, connection: Any, talk: Talk) -> None:
        """A connection was taken: set what its taker is allowed, and take back what has been left on it."""
        if not self._is_taken_for_another(pool):
            self._run(connection, talk, self._setting(connection, talk))

    async def set_async(self, pool: Any, connection: Any, talk: Talk) -> None:
        """Likewise. Where a task is cancelled here, nobody knows what is set on the connection."""
        if not self._is_taken_for_another(pool):
            await self._run_async(connection, talk, self._setting(connection, talk))

    def take_back(self, connection: Any, talk: Talk) -> None:
        """A connection was returned and is at rest, but nobody can take it yet."""
        if self._is_ready(connection, talk):
            self._run(connection, talk, self._taking_back(connection))

    async def take_back_async(self, connection: Any, talk: Talk) -> None:
        """Likewise. A task that is cancelled here is so a moment later, when its connection is returned."""
        asyncio = sys.modules["asyncio"]
        was_cancelled = False
        for _ in range(ATTEMPTS):
            try:
                if self._is_ready(connection, talk):
                    await self._run_async(connection, talk, self._taking_back(connection))
                break
            except asyncio.CancelledError:
                was_cancelled = True
        if was_cancelled:
            task = asyncio.current_task()
            if hasattr(task, "uncancel"):  # Python 3.11 counts them, and this one is counted
                task.uncancel()
            task.cancel()

    def forget(self, connection: Any) -> None:
        """The pool itself takes back all that was set, or the connection is closed."""
        self._pop(id(connection))

    def recent(self) -> list[Applied]:
        """What holds now, or has held since the present test began."""
        return [*self.lately, *self.limited.values()]

    @property
    def is_used(self) -> bool:
        """Whether there is any."""
        return bool(self.lately or self.limited)

    def hold_not(self, limits: SessionLimits, where: str) -> None:
        """Say that limits are of no effect somewhere."""
        self.say(f"{_words(limits)} {'do' if None not in limits else 'does'} not hold {where}")

    def say(self, text: str) -> None:
        """Say something of the limits, once."""
        if text not in self._said:
            self._said.add(text)
            self._say_once(text)

    def _is_taken_for_another(self, pool: Any) -> bool:
        """Whether another pool takes the connection for itself: it may keep it for longer than any test."""
        supply = self._ledger.supply.get()
        return supply is not None and supply.pool.ref() is not pool

    # steps

    def _setting(self, connection: Any, talk: Talk) -> Steps:
        owner, state = self._ledger.present, talk.state(connection)
        limits = owner.limits.session
        if state.transaction != "idle" or state.closed or state.backend_pid is None:
            if state.transaction and limits is not None:
                self.say(
                    f"{_words(limits)} can't be set on a connection that is in a transaction when it is taken"
                )
            return
        if id(connection) in self.limited:
            yield from self._taking_back(connection)
        if limits is None:
            return
        row = yield _set(limits, state.backend_pid)
        applied = Applied(connection, limits, owner, talk)
        for position, (_, name, _) in enumerate(_wanted(limits)):
            before, ours = row[2 * position : 2 * position + 2]
            if ours is None:  # this is not the backend that the connection was made to
                self.say(
                    f"{_words(limits)} can't be set through a connection pooler: its sessions are others', too"
                )
                return
            if before != ours:
                applied.values[name] = before, ours
        self._remember(connection, applied)

    def _taking_back(self, connection: Any) -> Steps:
        applied = self.limited.get(id(connection))
        if applied is not None and applied.connection() is connection and applied.values:
            yield _take_back(applied)
        self._pop(id(connection))

    def _remember(self, connection: Any, applied: Applied) -> None:
        key = id(connection)
        applied.connection = weakref.ref(connection, lambda _: self._pop(key))
        self.limited[key] = applied

    def _pop(self, key: int) -> None:
        applied = self.limited.pop(key, None)
        if applied is not None:
            applied.end()
            self.lately.append(applied)

    def _is_ready(self, connection: Any, talk: Talk) -> bool:
        """Whether there is something to take back now: one that is not at rest waits for its next checkout."""
        if id(connection) not in self.limited:
            return False
        state = talk.state(connection)
        if state.closed:
            self._pop(id(connection))
        return bool(state.transaction == "idle")

    # how steps are gone

    def _run(self, connection: Any, talk: Talk, steps: Steps) -> None:
        try:
            statement = next(steps)
            while True:
                statement = steps.send(talk.ask(connection, statement))
        except StopIteration:
            pass
        except Exception as error:
            self._refused(connection, talk, error)

    async def _run_async(self, connection: Any, talk: Talk, steps: Steps) -> None:
        try:
            statement = next(steps)
            while True:
                answer: Any = talk.ask(connection, statement)
                statement = steps.send(await answer if isinstance(answer, Awaitable) else answer)
        except StopIteration:
            pass
        except Exception as error:
            self._refused(connection, talk, error)

    def _refused(self, connection: Any, talk: Talk, error: Exception) -> None:
        self._pop(id(connection))
        state = talk.state(connection)
        if state.closed or not state.transaction:
            return  # it was broken already, which its taker will find out by itself
        text = printable(f"{type(error).__name__}: {str(error).strip()}".partition("\n")[0])
        self.say(f"a server does not set, or take back, the limits of sessions: {text}")


def _wanted(limits: SessionLimits) -> list[tuple[str, str, int]]:
    """Our name, the server's name and the milliseconds of each that is asked for."""
    found = []
    for ours, name in NAMES.items():
        seconds = getattr(limits, ours)
        if seconds is not None:  # what is less than a millisecond is a limit nevertheless
            found.append((ours, name, max(round(seconds * 1000), 1) if seconds else 0))
    return found


def _words(limits: SessionLimits) -> str:
    return " and ".join(ours for ours, _, _ in _wanted(limits))


def _set(limits: SessionLimits, pid: int) -> str:
    """Reads and sets them. The process is asked for, too: behind a pooler it is not always the same."""
    columns = [
        f"pg_catalog.current_setting('{name}'), CASE WHEN pg_catalog.pg_backend_pid() = {pid} "
        f"THEN pg_catalog.set_config('{name}', '{value}', false) END"
        for _, name, value in _wanted(limits)
    ]
    return f"{MARK} SELECT {', '.join(columns)}"


def _take_back(applied: Applied) -> str:
    """Takes back what is still ours: to the session's default, where that was the value before."""
    columns = [
        f"CASE WHEN pg_catalog.current_setting('{name}') = '{ours}' THEN CASE WHEN "
        f"pg_catalog.set_config('{name}', NULL, false) <> '{before}' "
        f"THEN pg_catalog.set_config('{name}', '{before}', false) END END"
        for name, (before, ours) in applied.values.items()
    ]
    return f"{MARK} SELECT {', '.join(columns)}"
