"""Who waits for a task: code that runs in a task of its own, and where it was asked for.

``asyncio.wait_for``, ``gather`` and their like make a task of what they are given. Its stack ends there; the code
that wants its value waits in another task.
"""

from __future__ import annotations

import gc
from collections.abc import Callable
from types import CodeType, FrameType
from typing import Any

__all__ = ["splice"]

#: Tasks that wait for each other, one after the other.
CHAIN = 5
#: References from a task's callbacks to the task that waits: a partial, a closure and its cell, a future.
STEPS = 6


def splice(stack: list[CodeType | int], task: Any, plumbing: Callable[[str], bool]) -> Any:
    """Go on with a captured stack in the tasks that wait for its task, until there is more than plumbing.

    The frames of the event loop, and of what runs it, stay behind those. Returns the task to whom the value goes.
    ``plumbing`` tells the source files of asyncio and of the library.
    """
    loop = next((n for n in range(0, len(stack), 2) if not _is_awaitable(stack[n])), len(stack))
    if any(not plumbing(stack[n].co_filename) for n in range(0, loop, 2)):  # type: ignore[union-attr]
        return task
    inserted: list[CodeType | int] = []
    holder = task
    for _ in range(CHAIN):
        waiting = waiting_for(holder)
        if waiting is None:
            return task
        holder = waiting
        frames = _frames(holder)
        for frame in frames:
            inserted += (frame.f_code, frame.f_lasti)
        if any(not plumbing(frame.f_code.co_filename) for frame in frames):
            stack[loop:loop] = inserted
            return holder
    return task


def _is_awaitable(code: Any) -> bool:
    return bool(code.co_flags & 0x3A0)  # a coroutine or generator, of any kind


def _frames(task: Any) -> list[FrameType]:
    """The frames of a suspended task, innermost first."""
    frames = []
    waiting = task.get_coro()
    while waiting is not None:
        for kind in ("cr", "gi", "ag"):
            frame = getattr(waiting, f"{kind}_frame", None)
            if frame is not None:
                frames.append(frame)
                break
        else:
            break
        waiting = getattr(waiting, "gi_yieldfrom" if kind == "gi" else f"{kind}_await", None)
    return frames[::-1]


def waiting_for(task: Any) -> Any:
    """The task that is woken up when a task is done; None where no such task can be found."""
    level = [callback for callback, *_ in getattr(task, "_callbacks", None) or ()]
    seen = {id(task)}
    for _ in range(STEPS):
        following: list[Any] = []
        for thing in level:
            if id(thing) in seen:
                continue
            seen.add(id(thing))
            if not hasattr(type(thing), "_asyncio_future_blocking"):  # asyncio's own way to know a future
                following += _references(thing)
            elif hasattr(thing, "get_coro"):  # a task, written in C or not
                return thing
            else:
                following += [callback for callback, *_ in getattr(thing, "_callbacks", None) or ()]
        level = following
    return None


def _references(callback: Any) -> list[Any]:
    """What a callback keeps: of a function only what it closes over, never its module."""
    closure = getattr(callback, "__closure__", None)
    if closure is not None:
        return [referent for cell in closure for referent in gc.get_referents(cell)]
    own = getattr(callback, "__self__", None)  # a bound method: a task's own way to be woken up
    if own is not None:
        return [own, getattr(own, "_parent_task", None)]  # the latter of an asyncio.TaskGroup
    return list(getattr(callback, "args", ()))
