"""Keep exceptions of poolguard's own out of the run, and note each."""

from __future__ import annotations

import os
import traceback
from collections.abc import Callable
from types import TracebackType

from pytest_poolguard.books.origin import printable

__all__ = ["OwnFaults", "Shield"]


class Shield:
    """A context manager that hands each exception to a function; what ends the run, it lets through.

    A class, not a generator: each test goes through a dozen of them.
    """

    __slots__ = ("_doing", "_on_fault")

    def __init__(self, on_fault: Callable[[str, BaseException], None], doing: str) -> None:
        self._on_fault = on_fault
        self._doing = doing

    def __enter__(self) -> None:
        pass

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, _trace: TracebackType | None
    ) -> bool:
        if not isinstance(error, Exception):
            return False
        self._on_fault(self._doing, error)
        return True


class OwnFaults:
    """The exceptions of poolguard's own in one run, each a line of text; the run goes on as without us."""

    def __init__(self, texts: list[str], give_up: Callable[[], None]) -> None:
        self._texts = texts
        self._give_up = give_up

    def note(self, doing: str, error: BaseException) -> None:
        """Note an exception."""
        last = traceback.extract_tb(error.__traceback__)[-1:]
        at = f" at {os.path.basename(last[0].filename)}:{last[0].lineno}" if last else ""
        text = printable(f"{type(error).__name__} while {doing}{at}: {error}")
        if text not in self._texts:
            self._texts.append(text)

    def lose_the_books(self, doing: str, error: BaseException) -> None:
        """Note an exception that may have left a return unnoticed: nobody is accused from then on."""
        self.note(f"{doing}; nothing was judged from then on", error)
        self._give_up()

    def shield(self, doing: str, *, books: bool = False) -> Shield:
        """Keep the exceptions of a block out of the run; ``books`` where they make the books unreliable."""
        return Shield(self.lose_the_books if books else self.note, doing)
