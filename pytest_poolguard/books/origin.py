"""Where a connection was taken: capture a stack in about a microsecond, work out lines and text later.

A stored frame would keep every local of the code under test alive, the connection too, and so be a leak
of its own: an origin holds code objects and bytecode offsets only.
"""

from __future__ import annotations

import linecache
import os
import sysconfig
from dataclasses import dataclass, replace
from sys import _getframe  # there is no other way to walk a stack, and the name is looked up very often
from types import CodeType, FrameType

from pytest_poolguard.books.identity import call_of, file_of, surroundings
from pytest_poolguard.books.redaction import redacted

__all__ = ["Origin", "Place", "SourceTree", "capture", "capture_from", "line_of", "printable", "without_own"]

#: Frames kept of one origin, innermost first; a deeper recursion loses its outer end.
DEPTH = 200
#: Where poolguard itself is.
PACKAGE = os.path.dirname(os.path.dirname(__file__)) + os.sep
#: Characters kept of one source line.
TEXT_WIDTH = 100


class Origin(list["CodeType | int"]):
    """A captured stack, innermost frame first: code object, offset, code object, offset, and so on."""

    __slots__ = ()

    def frames(self) -> list[tuple[CodeType, int]]:
        """The frames as (code object, bytecode offset), innermost first."""
        return list(zip(self[::2], self[1::2], strict=True))  # type: ignore[arg-type]


def capture(stops: frozenset[str], skip: int) -> list[CodeType | int]:
    """Note the present stack, for an :class:`Origin`.

    The ``skip`` innermost frames are left out, and all from the first one on whose file name is among ``stops``.
    """
    stack: list[CodeType | int] = []
    try:
        frame: FrameType | None = _getframe(skip + 1)
    except ValueError:  # called straight from C, as the whole of a thread: there is nothing above
        return stack
    add = stack.append
    while frame is not None:
        code = frame.f_code
        if code.co_filename in stops:
            break
        add(code)
        add(frame.f_lasti)
        frame = frame.f_back
    del stack[2 * DEPTH :]
    return stack


def capture_from(frame: FrameType | None, stops: frozenset[str]) -> list[CodeType | int]:
    """Note a stack from a given frame on, as :func:`capture` does: one that another stack goes on with."""
    stack: list[CodeType | int] = []
    while frame is not None and frame.f_code.co_filename not in stops and len(stack) < 2 * DEPTH:
        stack += (frame.f_code, frame.f_lasti)
        frame = frame.f_back
    return stack


def line_of(code: CodeType, offset: int) -> int:
    """The source line of a bytecode offset; the function's first line where the table has none."""
    for start, end, line in code.co_lines():
        if start <= offset < end and line is not None:
            return line
    return code.co_firstlineno


def printable(text: str) -> str:
    """The text on one line, with every control character escaped, so that it can't drive a terminal."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


@dataclass(frozen=True)
class Place:
    """One line of source: ``file`` is relative to the root directory where it lies below it."""

    file: str
    line: int
    function: str
    text: str
    #: Whether this is code of the project under test, not of a library or the interpreter.
    own: bool = True
    #: The function with the classes and functions around it: ``Basket.add``; empty where that is not known.
    qualified: str = ""
    #: Which one it is, where the function makes the same call in several lines.
    nth: int = 1

    def __str__(self) -> str:
        return f"{self.file}:{self.line}"

    @property
    def site(self) -> str:
        """The place as a person calls it: ``shop/users.py:8 in get_user``."""
        return f"{self} in {self.function}"

    @property
    def lasting(self) -> str:
        """The place without what edits elsewhere change: ``shop/users.py:Users.get #2``."""
        which = f" #{self.nth}" if self.nth > 1 else ""
        return f"{file_of(self.file)}:{self.qualified or self.function}{which}"

    @property
    def call(self) -> str:
        """What is called there, without the name that the outcome gets."""
        return call_of(self.text)


class SourceTree:
    """Tells the project's own code from the libraries', and names files relative to its root directory."""

    def __init__(self, root: str, folded: tuple[str, ...] = ()) -> None:
        self.root = os.path.realpath(root)
        self._known: dict[str, bool] = {}
        self._places: dict[tuple[str, int, str, int], Place] = {}
        self._libraries: tuple[str, ...] = ()
        paths = sysconfig.get_paths()
        self._folded = tuple(
            os.path.realpath(path) + os.sep for path in (paths["stdlib"], paths["platstdlib"], *folded)
        )

    def fold(self, folder: str) -> None:
        """Count a folder's code as a library's, wherever it lies."""
        path = os.path.realpath(folder) + os.sep
        if path not in self._libraries:
            self._libraries += (path,)
            self._known.clear()
            self._places.clear()

    def is_own(self, filename: str) -> bool:
        """Whether a source file belongs to the project under test.

        Installed packages don't, except one whose source lies in the root directory: a project that is
        tested as it was installed (as tox does) runs from site-packages.
        """
        known = self._known.get(filename)
        if known is None:
            known = self._known[filename] = self._look_up(filename)
        return known

    def _look_up(self, filename: str) -> bool:
        if filename.startswith("<"):
            return filename.startswith("<doctest")
        path = os.path.realpath(filename)
        if path.startswith(self._libraries):
            return False
        parts = path.split(os.sep)
        for name in ("site-packages", "dist-packages"):
            if name in parts:
                package = parts[parts.index(name) + 1]
                return any(os.path.exists(os.path.join(self.root, at, package)) for at in ("", "src", "lib"))
        return not path.startswith(self._folded)

    def package(self, filename: str) -> str:
        """The installed package of a source file; empty for the project's own and the standard library's."""
        parts = os.path.realpath(filename).split(os.sep)
        for name in ("site-packages", "dist-packages"):
            if name in parts[:-1] and not self.is_own(filename):
                return printable(parts[parts.index(name) + 1].removesuffix(".py"))
        return ""

    def relative(self, filename: str) -> str:
        """The file's name relative to the root directory, with forward slashes; else as it is."""
        if filename.startswith("<"):
            return printable(filename)
        path = os.path.realpath(filename)
        if path.startswith(self.root + os.sep):
            path = path[len(self.root) + 1 :]
        return printable(path.replace(os.sep, "/"))

    def place(self, code: CodeType, offset: int) -> Place:
        """The place of one frame."""
        key = code.co_filename, line_of(code, offset), code.co_name, code.co_firstlineno
        place = self._places.get(key)
        if place is None:
            place = self._places[key] = self.place_at(*key)
        return place

    def place_at(self, filename: str, line: int, function: str, first: int = 0) -> Place:
        """The place of a line in a file, with its source text where it can be read.

        ``first`` is the first line of the function, where it is known.
        """
        text = redacted(printable(linecache.getline(filename, line).strip()))
        if len(text) > TEXT_WIDTH:
            text = text[: TEXT_WIDTH - 1] + "…"
        own = self.is_own(filename)
        place = Place(self.relative(filename), line, printable(function), text, own)
        if own and first:
            qualified, nth = surroundings(linecache.getlines(filename), first, line, function)
            place = replace(place, qualified=printable(qualified), nth=nth)
        return place

    def stack(self, origin: Origin) -> list[Place]:
        """The places of an origin, outermost first, as a person reads a traceback."""
        return [self.place(code, offset) for code, offset in reversed(without_own(origin))]

    def site(self, origin: Origin) -> Place | None:
        """The innermost place in the project's own code; failing that, the innermost of all."""
        frames = without_own(origin)
        for code, offset in frames:
            if self.is_own(code.co_filename):
                return self.place(code, offset)
        return self.place(*frames[0]) if frames else None


def without_own(origin: Origin) -> list[tuple[CodeType, int]]:
    """The frames of an origin without poolguard's own: a limit is a call in between."""
    return [frame for frame in origin.frames() if not frame[0].co_filename.startswith(PACKAGE)]
