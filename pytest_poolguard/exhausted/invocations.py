"""Whether the call that took a connection still runs, as far as its holder's stack tells.

A stack does not say which call of a function it shows: the one that took the connection may be over, and the
function have been called again. Where it is tells: a line outside of any loop is passed once in each call.
No test framework and no driver here.
"""

from __future__ import annotations

import dis
from collections.abc import Iterable
from types import CodeType

__all__ = ["still_runs"]

JUMPS = frozenset((*dis.hasjrel, *dis.hasjabs))
#: What goes back to the beginning of an ``await``, which is no loop of the source.
WAITS_ON = "JUMP_BACKWARD_NO_INTERRUPT"
#: Python 3.10 has none: this is the whole ``await``, and who waits in it stands one instruction before.
WAITS_THERE = "YIELD_FROM"


def still_runs(code: CodeType, offset: int, now: Iterable[tuple[CodeType, int]]) -> bool:
    """Whether a call of a function, which took a connection at an offset of its code, may be on a stack.

    False is certain; True is not, where the function is in a loop, or was called again and has come further.
    """
    places = [at for other, at in now if other is code]
    if not places:
        return False
    jumps = _jumps_back(code)
    took = _call_at(offset, jumps)
    if any(not waits and first <= took < last for first, last, waits in jumps):
        return True
    return any(_call_at(at, jumps) != took for at in places)


def _call_at(offset: int, jumps: list[tuple[int, int, bool]]) -> int:
    """The same number for all offsets of one ``await``: it is left at another one than it is entered."""
    return next((first for first, last, waits in jumps if waits and first <= offset <= last), offset)


def _jumps_back(code: CodeType) -> list[tuple[int, int, bool]]:
    """Each backward jump: where it goes, where it stands, and whether it is that of an ``await``."""
    jumps = []
    for step in dis.get_instructions(code):
        if step.opcode in JUMPS and step.argval <= step.offset:
            jumps.append((step.argval, step.offset, step.opname == WAITS_ON))
        elif step.opname == WAITS_THERE:
            jumps.append((step.offset - 2, step.offset, True))
    return jumps
