"""Where the holder of a connection is now: a thread's frames, or those of a task that is waiting for something.

Frames are looked at and let go of, never kept. No test framework and no driver here.
"""

from __future__ import annotations

import concurrent.futures.thread
import gc
import sys
import threading
from collections.abc import Iterator
from types import AsyncGeneratorType, CodeType, CoroutineType, FrameType, GeneratorType
from typing import Any

from pytest_poolguard.books.records import Checkout, Task

__all__ = ["is_idle_worker", "of_awaits", "of_holder", "of_task", "of_this_thread", "of_thread"]

Frame = tuple[CodeType, int]


def of_holder(checkout: Checkout) -> list[Frame]:
    """The frames of the thread or task that took a connection, innermost first; none if it is over.

    And none if it is the thread that asks: that one is busy with judging.
    """
    if checkout.task is not None:
        return of_task(checkout.task)
    holder = checkout.thread or threading.main_thread()
    ident = holder.ident if isinstance(holder, threading.Thread) else int(holder)
    if ident is None or ident == threading.get_ident():
        return []
    if isinstance(holder, threading.Thread) and not holder.is_alive():
        return []
    frames = of_thread(ident)
    if isinstance(holder, threading.Thread) or [code for code, _ in frames[-1:]] == checkout.stack[-2:-1]:
        return frames
    return []  # another foreign thread, which has got the number of the one that is gone


def of_task(holder: Task) -> list[Frame]:
    """The frames of a task that is not done, innermost first; none where its loop will not run again."""
    task, loop = holder.ref(), holder.loop()
    if task is None or loop is None or task.done() or loop.is_closed():
        return []
    if loop.is_running() and sys.modules["asyncio"].current_task(loop) is task:  # in the middle of a step
        return of_thread(getattr(loop, "_thread_id", None) or 0)
    return of_awaits(holder)


def of_awaits(holder: Task) -> list[Frame]:
    """The frames of a task that wait for another one, and that one's: all of them unless it runs."""
    task = holder.ref()
    awaits = _suspended(task.get_coro()) if task is not None else ()
    return [(frame.f_code, frame.f_lasti) for frame in awaits][::-1]


def of_thread(ident: int) -> list[Frame]:
    """The frames of a thread, innermost first; none if there is no such thread."""
    return _from(sys._current_frames().get(ident))  # noqa: SLF001 - there is no public way


def is_idle_worker(thread: threading.Thread) -> bool:
    """Whether a thread is an executor's that waits for work; one that was given some just now may seem so."""
    plumbing = (threading.__file__, concurrent.futures.thread.__file__)
    frames = of_thread(thread.ident or 0)
    return bool(frames) and all(code.co_filename in plumbing for code, _ in frames)


def of_this_thread() -> list[Frame]:
    """The caller's frames, innermost first, with those of the code that waits for its greenlet."""
    frames = _from(sys._getframe(1))  # noqa: SLF001 - as above
    greenlet: Any = sys.modules.get("greenlet")
    waiting = greenlet.getcurrent().parent if greenlet is not None else None
    while waiting is not None:
        frames += _from(waiting.gr_frame)
        waiting = waiting.parent
    return frames


def _from(frame: FrameType | None) -> list[Frame]:
    frames = []
    while frame is not None:
        frames.append((frame.f_code, frame.f_lasti))
        frame = frame.f_back
    return frames


def _suspended(awaited: Any) -> Iterator[FrameType]:
    """The frames of a coroutine and of all that it waits for, outermost first."""
    while awaited is not None:
        frame, inner = None, None
        if isinstance(awaited, CoroutineType):
            frame, inner = awaited.cr_frame, awaited.cr_await
        elif isinstance(awaited, AsyncGeneratorType):
            frame, inner = awaited.ag_frame, awaited.ag_await
        elif isinstance(awaited, GeneratorType):
            frame, inner = awaited.gi_frame, awaited.gi_yieldfrom
        elif type(awaited).__name__.startswith("async_generator_"):  # a step of one; it has no attribute for it
            inner = next((one for one in gc.get_referents(awaited) if isinstance(one, AsyncGeneratorType)), None)
        if frame is not None:
            yield frame
        awaited = inner
