"""When a pool refuses a connection, or nobody waits any longer for one: who had them at that moment.

It comes into the report of the test, also where the code under test has swallowed the exception. The one that the
test failed with gets a note, but only when that is reported: ``pytest.raises(…, match=…)`` reads notes, too.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from pytest_poolguard.books.origin import printable
from pytest_poolguard.books.records import Opening, Pool
from pytest_poolguard.books.redaction import redacted
from pytest_poolguard.exhausted.snapshots import Asker, Snapshot, Snapshots
from pytest_poolguard.reports.holders import NOTE_LINES, ROWS, diagnosis, plain, told

__all__ = ["Refusal", "Refusals", "chain"]

#: Refusals of one pool in one test that are looked at; of more, only the number is told.
MOST = 3
#: The type of what ends a task from outside.
CANCELLED = "CancelledError"
#: Characters of an exception's text in a title.
WIDTH = 100
#: Exceptions that are looked at behind the one that a test ended with.
CHAIN = 50


@dataclass
class Refusal:
    """One refusal: the pool as it was, and what is said of it."""

    snapshot: Snapshot
    happened: str  #: the exception, or what else ended the wait
    pool: str  #: in words, with where it was made
    diagnosis: list[str]  #: as it was known at that moment
    error: str = ""  #: the type of the exception
    note: str = ""  #: what its exception bears in the report

    @property
    def is_cancelled(self) -> bool:
        """Whether somebody has only stopped to wait: that may be on purpose."""
        return self.error == CANCELLED

    def text(self, verbosity: int) -> str:
        """All that is known now."""
        rows = None if verbosity > 0 else ROWS
        title = f"{self.happened}: who has the connections of {self.pool}"
        return "\n".join(told(self.snapshot, title, diagnosis(self.snapshot, now=True), rows))

    def news(self) -> list[str]:
        """The diagnosis by now, if that is another one than at the moment of the refusal."""
        now = diagnosis(self.snapshot, now=True)
        return now if now != self.diagnosis else []

    def is_shown_in(self, text: str) -> bool:
        """Whether a failure's text shows the note on the exception."""
        return bool(self.note) and self.note.partition("\n")[0] in text

    def to_dict(self, nodeid: str) -> dict[str, Any]:
        """Plain data, for xdist and files."""
        return {
            "nodeid": printable(nodeid),
            "pool": self.snapshot.pool.label,
            "library": self.snapshot.pool.driver.library,
            "error": self.error,
            "capacity": self.snapshot.capacity,
            "diagnosis": diagnosis(self.snapshot, now=True),
            "holders": plain(self.snapshot),
        }


class Refusals:
    """Those of the present test that no report has told yet."""

    def __init__(
        self,
        snapshots: Snapshots,
        made: Callable[[Pool], object],
        statements: Callable[[list[Opening]], Any],
        heard: Callable[[Snapshot, Asker], None],
    ) -> None:
        self._snapshots = snapshots
        self._made = made  #: tells where a pool was made
        self._statements = statements  #: what the server says of connections, by those
        self._heard = heard  #: is told of each that is looked at
        self._found: list[Refusal] = []
        self._counts: Counter[Pool] = Counter()
        #: What was noted of each exception, by its id(): a reference would keep all that its traceback has.
        self._by_error: dict[int, Refusal | None] = {}

    def note(self, pool: Pool, error: BaseException, task: Any = None) -> None:
        """A pool refuses the running code, with an error: cheap enough for code that tries again and again.

        ``task`` is the one that gets what the running one asks for, if that is another.
        """
        self._by_error[id(error)] = None  # another one that had this id is gone
        self._counts[pool] += 1
        if self._counts[pool] > MOST:
            return
        asker = self._snapshots.asker(task)
        snapshot = self._snapshots.of(pool, asker)
        name = type(error).__name__
        if name == CANCELLED and not snapshot.is_full:
            return
        refusal = self._add(snapshot, _words(error))
        refusal.error = name
        self._by_error[id(error)] = refusal
        self._heard(snapshot, asker)

    def note_end(self, happened: str) -> None:
        """The test is ended from outside: what is out of every pool."""
        for snapshot in self._snapshots.all():
            self._add(snapshot, happened)

    def _add(self, snapshot: Snapshot, happened: str) -> Refusal:
        refusal = Refusal(snapshot, happened, self.pool_in_words(snapshot.pool), diagnosis(snapshot))
        self._found.append(refusal)
        return refusal

    def pool_in_words(self, pool: Pool) -> str:
        """Class, size, and where it was made."""
        made = self._made(pool)
        verb = "made" if pool.made_known else "first used"
        return printable(pool.label) + (f" {verb} at {made}" if made is not None else "")

    def look(self, error: BaseException | None) -> None:
        """A report is about to be made of what ended with an error: ask the server, and add the notes."""
        held = [one for refusal in self._found for one in refusal.snapshot.held if not one.checkout.returned]
        openings = {id(one): self._snapshots.opening(one.checkout) for one in held}
        words = self._statements([opening for opening in openings.values() if opening is not None])
        for one in held:
            one.statement = words.get(openings[id(one)], {}).get("statement", "")
        for raised in chain(error):
            refusal = self._by_error.get(id(raised))
            is_its = refusal is not None and not refusal.note and refusal.error == type(raised).__name__
            if refusal is not None and is_its and hasattr(raised, "add_note"):  # Python 3.11
                refusal.note = _note(refusal)
                raised.add_note(refusal.note)

    def take(self) -> list[Refusal]:
        """Those that are to be told now."""
        found, self._found = self._found, []
        self._counts.clear()
        self._by_error.clear()
        return found

    @property
    def any(self) -> bool:
        """Whether there is one to tell."""
        return bool(self._found)


def _words(error: BaseException) -> str:
    """An exception as a person tells it: its type and the beginning of its text."""
    text = redacted(printable(str(error).partition("\n")[0]))[:WIDTH]
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def _note(refusal: Refusal) -> str:
    title = f"poolguard: who has the connections of {refusal.pool}"
    rows = NOTE_LINES - 3 - len(refusal.diagnosis)
    return "\n".join(told(refusal.snapshot, title, refusal.diagnosis, max(rows, 1)))


def chain(error: BaseException | None) -> Iterator[BaseException]:
    """An exception, those behind it, and those of groups."""
    waiting, seen = [error], set[int]()
    while waiting and len(seen) < CHAIN:
        one = waiting.pop()
        if one is None or id(one) in seen:
            continue
        seen.add(id(one))
        yield one
        waiting += [one.__cause__, one.__context__, *getattr(one, "exceptions", ())]
