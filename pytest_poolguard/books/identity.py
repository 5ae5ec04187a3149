"""What of a place in the source stays the same after edits elsewhere, and on every machine.

Names only, no numbers of lines: the file as the project calls it, the function with the classes and functions
around it, the call, and, where a function has the same call more than once, which one it is.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

__all__ = ["call_of", "file_of", "surroundings", "test_of"]

#: Where installed packages and the standard library are: what comes before differs from machine to machine.
INSTALLED = re.compile(r".*/(?:site-packages|dist-packages|python3\.\d+|Lib)/")
#: Folders that a project's packages lie in, and that are no part of their installed names.
LAYOUT = re.compile(r"(?:src|lib)/")
ABSOLUTE = re.compile(r"/|[A-Za-z]:/")

#: What may stand before a call: names that its value is given, and keywords.
TARGETS = re.compile(r"(?:[\w\s.,*\[\]\"':|]+?(?<![=!<>:])=(?!=)\s*)+")
KEYWORDS = re.compile(r"(?:(?:return|yield from|yield|await|async with|with)\s+)+")
#: And behind it: the names of a ``with``, and a comment.
NAMES = re.compile(r"\s+as\s+(?:\([^()]*\)|[\w.]+)")
COMMENT = re.compile(r"\s+#.*$")

DEFINITION = re.compile(r"(?:async\s+)?(?:def|class)\s+(\w+)")
BLOCK = re.compile(r"(?:async\s+)?(?:if|elif|else|try|except|finally|with|for|while|match|case)\b.*:")
#: Python 3.12 runs these as part of the function that they stand in.
INLINED = ("<listcomp>", "<dictcomp>", "<setcomp>")


def file_of(file: str) -> str:
    """A file's name, as relative to pytest's root directory, without what is another one elsewhere.

    A package that is tested as it was installed is called like one in the checkout, also in ``src``. Of a file
    that lies somewhere else, only the last folder counts.
    """
    file = file.replace("\\", "/")
    installed = INSTALLED.match(file)
    if installed:
        return file[installed.end() :]
    if ABSOLUTE.match(file):
        return "/".join(file.split("/")[-2:])
    return _without(LAYOUT, file)


def call_of(line: str) -> str:
    """What a line of source does, without the names that it gives to the outcome, its spaces and its comment."""
    call = _without(KEYWORDS, _without(TARGETS, COMMENT.sub("", line)))
    return re.sub(r"\s+", "", NAMES.sub("", call)).replace("'", '"').rstrip(":")


def test_of(nodeid: str) -> tuple[str, str]:
    """The file of a test and its name, without its parameters and the group that xdist adds."""
    file, _, name = nodeid.partition("::")
    return file, name.partition("[")[0].partition("@")[0]


def surroundings(lines: Sequence[str], first: int, line: int, function: str) -> tuple[str, int]:
    """The qualified name of the function that a line is in, and which of its lines with that call this one is.

    ``first`` is the function's first line, ``function`` its own name. The text is read by its indentation: names
    of code objects are qualified only from Python 3.11 on.
    """
    names = [] if function in INLINED else [function]
    indent = _indent(lines[first - 1]) if 0 < first <= len(lines) else 0
    for number in range(min(first - 1, len(lines)), 0, -1):
        text = lines[number - 1].strip()
        if indent == 0:
            break
        if text and _indent(lines[number - 1]) < indent:
            definition = DEFINITION.match(text)
            if definition is not None:
                if not names:
                    first = number
                names.insert(0, definition[1])
            if definition is not None or BLOCK.match(text):
                indent = _indent(lines[number - 1])
    call = call_of(lines[line - 1].strip()) if 0 < line <= len(lines) else ""
    before = lines[first - 1 : line - 1]
    return ".".join(names) or "<module>", 1 + sum(call_of(other.strip()) == call for other in before)


def _without(beginning: re.Pattern[str], text: str) -> str:
    found = beginning.match(text)
    return text[found.end() :] if found else text


def _indent(line: str) -> int:
    return len(line) - len(line.lstrip())
