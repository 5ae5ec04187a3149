"""A block whose exceptions are poolguard's own, and are kept out of the run.

A class, not a generator: each test goes through a dozen of them.
"""

from __future__ import annotations

from collections.abc import Callable
from types import TracebackType

__all__ = ["Shield"]


class Shield:
    """A context manager that hands each exception to a function; what ends the run, it lets through."""

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
