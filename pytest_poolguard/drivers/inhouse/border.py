"""Where the code of a pool class ends, and that of its callers begins."""

from __future__ import annotations

import contextlib
import inspect
import os
import threading
from collections.abc import Iterator
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
        codes, own = self._codes, None
        for position in range(0, len(stack), 2):
            code: Any = stack[position]
            if id(code) in codes:
                own = position if own is None else own
            elif not code.co_filename.startswith(HERE) and code.co_filename != contextlib.__file__:
                if code.co_filename == threading.__file__ and own is not None:
                    return stack[own:]
                return stack[position:]
        return stack[own or 0 :]


def _with_nested(code: CodeType) -> Iterator[CodeType]:
    yield code
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _with_nested(constant)
