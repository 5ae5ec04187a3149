"""How a suite names a pool class of its own: ``shop.db:Pool(acquire=checkout, release=checkin)``."""

from __future__ import annotations

import re
from typing import NamedTuple

__all__ = ["PoolClass", "named"]

#: What stands between the parentheses.
ARGUMENTS = ("acquire", "release", "close")
DOTTED = r"[^\W\d]\w*(?:\.[^\W\d]\w*)*"
NAMED = re.compile(rf"(?P<module>{DOTTED}):(?P<name>{DOTTED})\((?P<arguments>.*)\)")
EXAMPLE = "write it like this: shop.db:Pool(acquire=checkout, release=checkin)"


class PoolClass(NamedTuple):
    """A pool class and its methods, by their names."""

    module: str
    name: str
    acquire: str  #: takes a connection
    release: str = ""  #: gives it back; a method that is a context manager needs none
    close: str = ""  #: closes the pool

    def __str__(self) -> str:
        return f"{self.module}:{self.name}"


def named(text: str) -> tuple[PoolClass, ...]:
    """The classes of a text, one on each line; raises ValueError, which says what is wrong with which."""
    lines = [(number, line.strip()) for number, line in enumerate(text.strip().splitlines(), 1)]
    found = []
    for number, line in lines:
        if line and not line.startswith("#"):
            try:
                found.append(_pool_class(line))
            except ValueError as error:
                raise ValueError(f"line {number}, {line!r}: {error}") from None
    return tuple(found)


def _pool_class(line: str) -> PoolClass:
    match = NAMED.fullmatch(line)
    if match is None:
        if ":" not in line:
            raise ValueError(f"there is no colon between the module and the class; {EXAMPLE}")
        raise ValueError(f"this names no class and its methods; {EXAMPLE}")
    given: dict[str, str] = {}
    for part in match["arguments"].split(","):
        argument, equals, method = (word.strip() for word in part.partition("="))
        if not part.strip():
            continue
        if argument not in ARGUMENTS:
            raise ValueError(f"there is no argument {argument!r} {_or(argument)}")
        if argument in given:
            raise ValueError(f"{argument} is given twice")
        if not equals or not method.isidentifier():
            raise ValueError(f"{argument} has to be the name of a method: {argument}=…")
        given[argument] = method
    if "acquire" not in given:
        raise ValueError("the method that takes a connection is missing: acquire=…")
    return PoolClass(match["module"], match["name"], **given)


def _or(argument: str) -> str:
    import difflib  # noqa: PLC0415 - only a mistake needs it

    near = difflib.get_close_matches(argument, ARGUMENTS, 1)
    return f"(did you mean {near[0]!r}?)" if near else f"(there are {', '.join(ARGUMENTS)})"
