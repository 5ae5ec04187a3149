"""Where the code of a pool class ends, and that of its callers begins."""

from __future__ import annotations

import contextlib
import inspect
import os
import threading
from collections.abc import Callable, Iterator
from types import CodeType
from typing import Any

__all__ = ["Border"]

#: The folder of our own replacements.
HERE = os.path.dirname(__file__) + os.sep

Stack = list["CodeType | int"]


class Border:
    """Of one class with its subclasses: to its callers it is a library, though the project itself may have it."""

    def __init__(self) -> None:
        self._codes: dict[int, CodeType] = {}  #: of the methods, by id: a code's hash is dear

    def add(self, cls: type) -> None:
        """Count a class's methods as the pool's own."""
        for value in vars(cls).values():
            function = getattr(value, "fget", None) or getattr(value, "__func__", value)
            code = getattr(inspect.unwrap(function), "__code__", None) if callable(function) else None
            if code is not None:
                self._codes.update((id(one), one) for one in _with_nested(code))

    def outside(self, stack: Stack) -> Stack:
        """A stack from the caller of the class on; a thread of the pool's own has no such caller."""
        beyond = _leading(stack, self._is_inside)
        if all(getattr(code, "co_filename", "") == threading.__file__ for code in stack[beyond::2]):
            beyond = _leading(stack, _is_ours)
        return stack[beyond:]

    def _is_inside(self, code: Any) -> bool:
        return id(code) in self._codes or _is_ours(code) or code.co_filename == contextlib.__file__


def _is_ours(code: Any) -> bool:
    return bool(code.co_filename.startswith(HERE))


def _leading(stack: Stack, matches: Callable[[Any], bool]) -> int:
    position = 0
    while position < len(stack) and matches(stack[position]):
        position += 2
    return position


def _with_nested(code: CodeType) -> Iterator[CodeType]:
    yield code
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _with_nested(constant)
