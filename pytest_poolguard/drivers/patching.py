"""Replace functions of a library in place, and give them back."""

from __future__ import annotations

from collections.abc import Iterator
from types import ModuleType
from typing import Any

__all__ = ["Patches", "class_tree"]

#: The original of what was not there.
ABSENT = object()


class Patches:
    """What was replaced, in order."""

    def __init__(self) -> None:
        self._done: list[tuple[type | ModuleType, str, Any, Any]] = []

    def replace(self, holder: type | ModuleType, name: str, replacement: Any) -> None:
        """Put ``replacement`` in the place of an attribute of ``holder``, or of one that it inherits."""
        self._done.append((holder, name, vars(holder).get(name, ABSENT), replacement))
        setattr(holder, name, replacement)

    def undo(self) -> None:
        """Put everything back, last first.

        Where somebody else has replaced our replacement since, it is theirs to restore: it stays.
        """
        while self._done:
            holder, name, original, replacement = self._done.pop()
            if vars(holder).get(name) is not replacement:
                continue
            if original is ABSENT:
                delattr(holder, name)
            else:
                setattr(holder, name, original)


def class_tree(base: type[Any]) -> Iterator[type[Any]]:
    """A class and all its subclasses."""
    yield base
    for subclass in base.__subclasses__():
        yield from class_tree(subclass)
