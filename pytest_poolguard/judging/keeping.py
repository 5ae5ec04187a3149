"""Who keeps a connection or a pool when its owner has ended: a module, on purpose, or nobody but a traceback.

A module may do so for as long as the process lives: with a singleton that is made when it is first needed, a
cache, a pool of the project's own. That is something which the module finds again.
"""

from __future__ import annotations

import gc
import os
import sys
from collections import deque
from collections.abc import Iterable
from types import CodeType, FrameType

from pytest_poolguard.books.records import Owner
from pytest_poolguard.judging import holders

__all__ = ["module_that_keeps", "only_tracebacks_keep"]

#: What a module keeps there can't be found again by anybody: a name, an attribute or a key can.
NO_PLACE_TO_FIND_IT = (list, tuple, set, frozenset, deque)


def module_that_keeps(thing: object, owner: Owner, calls: Iterable[CodeType], depth: int = holders.DEPTH) -> str:
    """The module that keeps what ``calls`` have made for an owner where it finds it again; else empty."""
    files = {os.path.realpath(code.co_filename) for code in calls}
    for name, module in list(sys.modules.items()):
        file = getattr(module, "__file__", None)
        if file and os.path.realpath(file) in files and _keeps(module, thing, owner, depth):
            return name
    return ""


def _keeps(module: object, thing: object, owner: Owner, depth: int) -> bool:
    return any(
        holders.reaches(value, thing, None, depth=depth - 1)
        for name, value in list(vars(module).items())
        # By its __loader__, a module of tests knows everything that pytest does.
        if not name.startswith("__")
        and type(value) not in NO_PLACE_TO_FIND_IT
        and not _is_test_class(value, owner)
    )


def _is_test_class(value: object, owner: Owner) -> bool:
    """Whether this is the class whose test or ``setUpClass`` made it: that has ended."""
    return isinstance(value, type) and value.__name__ in owner.nodeid.split("::")[1:-1]


def only_tracebacks_keep(thing: object) -> bool:
    """Whether nothing refers to something but an exception, or ended calls, which its traceback keeps."""
    running = []
    for frame in sys._current_frames().values():  # noqa: SLF001 - there is no public way
        above: FrameType | None = frame
        while above is not None:
            running.append(above)
            above = above.f_back
    return _only_ended_calls_keep(thing, {id(frame) for frame in running}, {id(running)}, 2)


def _only_ended_calls_keep(thing: object, running: set[int], ours: set[int], steps: int) -> bool:
    keepers = gc.get_referrers(thing)
    ours.add(id(keepers))
    found = False
    for keeper in keepers:  # no generator: that would be another one
        if isinstance(keeper, FrameType):
            if keeper.f_code.co_filename == __file__:
                continue
            kept = id(keeper) not in running
        elif id(keeper) in ours:
            continue
        elif isinstance(keeper, BaseException):  # psycopg2's have the cursor
            kept = True
        else:
            kept = steps > 0 and _only_ended_calls_keep(keeper, running, ours, steps - 1)
        if not kept:
            return False
        found = True
    return found
