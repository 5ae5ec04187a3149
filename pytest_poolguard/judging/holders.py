"""Who could still return a connection: the evidence that is looked for before a leak is called one.

No test framework and no driver here. Nothing is collected before looking: a collection heals, and so hides,
leaks.
"""

from __future__ import annotations

import concurrent.futures.thread
import contextlib
import functools
import gc
import inspect
import itertools
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Container, Iterable, Iterator
from contextvars import ContextVar
from types import CodeType, FunctionType, MemberDescriptorType, ModuleType
from typing import Any

from pytest_poolguard.books.origin import Origin
from pytest_poolguard.books.records import Checkout, Owner, Task
from pytest_poolguard.judging.whereabouts import of_task, of_thread

__all__ = [
    "factory_of",
    "in_call_that_took_it",
    "is_about_to_be_closed",
    "is_alive",
    "is_referenced",
    "pauses",
    "reaches",
    "wait",
]

#: Steps that one search goes from a fixture's value or a module's globals.
DEPTH = 4
#: Objects that one search looks at.
BREADTH = 5000
#: Flags of the code that can wait for something in a task.
ASYNCHRONOUS = inspect.CO_COROUTINE | inspect.CO_ITERABLE_COROUTINE | inspect.CO_ASYNC_GENERATOR
CONTAINERS: tuple[Any, ...] = (list, tuple, set, frozenset, deque)
#: What functools.lru_cache makes of a function; what it has cached shows in no attribute.
LRU_CACHE = type(functools.cache(lambda: None))


def wait(checkouts: Iterable[Checkout], grace: float, workers: Container[threading.Thread] = frozenset()) -> None:
    """Wait, ``grace`` seconds at most in all, for the connections that another thread could still return.

    ``workers`` are the pools' own threads: they return nothing.
    """
    deadline = time.monotonic() + grace
    pause = 0.001
    waiting = list(checkouts)
    while True:
        waiting = [c for c in waiting if not c.returned and _another_thread_could_return(c, workers)]
        left = deadline - time.monotonic()
        if not waiting or left <= 0:
            return
        time.sleep(min(pause, left))
        pause = min(pause * 2, 0.05)


def _another_thread_could_return(checkout: Checkout, workers: Container[threading.Thread]) -> bool:
    if checkout.task is not None and not checkout.task.is_blocking:  # then code that its loop runs
        loop = checkout.task.loop()
        return loop is not None and loop.is_running() and (checkout.task.is_alive() or is_referenced(checkout))
    me = threading.current_thread()
    holder = checkout.thread or threading.main_thread()
    if holder is not me and is_alive(holder):
        return True
    others = [
        thread
        for thread in threading.enumerate()
        if thread is not me and not isinstance(thread, threading.Timer) and thread not in workers
    ]
    return bool(others) and is_referenced(checkout)


def is_alive(thread: Any) -> bool:
    """Whether a holder's thread still runs: None is the main one, a number the ident of a foreign one."""
    if thread is None:
        return threading.main_thread().is_alive()
    if isinstance(thread, threading.Thread):
        return thread.is_alive()
    return bool(int(thread) in sys._current_frames())  # noqa: SLF001 - a thread that threading does not know


def is_referenced(checkout: Checkout) -> bool:
    """Whether anything but its pool still refers to the connection: what nobody refers to, nobody returns."""
    connection = checkout.in_hand()
    if connection is None:
        return False
    return bool(sys.getrefcount(connection) > _count_of_a_local() + checkout.pool.driver.pool_references)


def _count_of_a_local() -> int:
    # Python versions differ in what a local variable and a call add to a count: measured, not known.
    box = [object()]
    local = box[0]
    return sys.getrefcount(local) - 1


def in_call_that_took_it(checkout: Checkout, owner: Owner, is_own: Callable[[str], bool]) -> bool:
    """Whether a thread or task that is not the owner's is still inside the call that took the connection.

    That is a thread that ran before the owner began, a task that somebody else started, or one of its own that
    goes on when its loop, which outlives the owner, runs again. The function that it was started with is no such
    call, unless it took the connection itself: a worker's loop goes on after a job of it has leaked. ``is_own``
    tells the project's source files: calls inside a library are over by then.
    """
    frames = [code for code, _ in checkout.origin.frames()]
    # A generator stops in the midst of a ``with`` block; who is in the block is the one who goes through it.
    takers = (number for number, code in enumerate(frames) if is_own(code.co_filename) and not pauses(code))
    first = next(takers, 0)
    if checkout.task is not None:
        return _in_task(checkout.task, frames[first:], owner)
    return _in_thread(checkout.thread, frames[first:], owner)


def _in_thread(thread: Any, frames: list[CodeType], owner: Owner) -> bool:
    if not isinstance(thread, threading.Thread) or not thread.is_alive() or thread not in owner.threads:
        return False
    plumbing = [threading.__file__, concurrent.futures.thread.__file__]
    started_by = [code for code in frames if code.co_filename in plumbing]
    calls = [code for code in frames if code.co_filename not in plumbing]
    if len(calls) > 1 and all(code.co_filename == plumbing[0] for code in started_by):
        calls.pop()
    took = {id(code) for code in calls}
    return any(id(code) in took for code, _ in of_thread(thread.ident or 0))


def _in_task(holder: Task, frames: list[CodeType], owner: Owner) -> bool:
    if holder.starter is owner and not holder.waits_for_its_loop():
        return False
    calls = list(itertools.takewhile(lambda code: code.co_flags & ASYNCHRONOUS, frames))
    if len(calls) > 1:
        calls.pop()
    took = {id(code) for code in calls}
    return any(id(code) in took for code, _ in of_task(holder))


def is_about_to_be_closed(checkout: Checkout) -> bool:
    """Whether an asynchronous generator that took the connection was left early, and its loop is to close it.

    When nobody refers to it any longer, it is handed to the loop, which makes a task of its closing and goes on.
    """
    loop = checkout.task.loop() if checkout.task is not None else None
    took = {id(code) for code, _ in checkout.origin.frames() if code.co_flags & inspect.CO_ASYNC_GENERATOR}
    if not took or loop is None or loop.is_closed():
        return False
    waiting = [task.get_coro() for task in sys.modules["asyncio"].all_tasks(loop)]
    waiting += [part for handle in list(getattr(loop, "_ready", ())) for part in handle._args or ()]  # noqa: SLF001
    steps = [one for one in waiting if type(one).__name__ == "async_generator_athrow"]
    return any(id(getattr(one, "ag_code", None)) in took for one in gc.get_referents(*steps))


def factory_of(origin: Origin, owners: Iterable[Owner]) -> Owner | None:
    """The fixture that handed out a function which is in an origin, None if there is no such fixture."""
    took = {id(code) for code, _ in origin.frames()}
    for owner in owners:
        if owner.code is not None and took.intersection(id(code) for code in _nested(owner.code)):
            return owner
    return None


def pauses(code: CodeType) -> bool:
    """Whether a function's code is a generator's, which may stop in the midst of a ``with`` block."""
    return bool(code.co_flags & (inspect.CO_GENERATOR | inspect.CO_ASYNC_GENERATOR))


def _nested(code: CodeType) -> list[CodeType]:
    inner = [constant for constant in code.co_consts if isinstance(constant, CodeType)]
    return inner + [deeper for one in inner for deeper in _nested(one)]


def reaches(
    start: object,
    sought: object,
    pool: object,
    held_in: Callable[[Any], Iterable[object]] = lambda _thing: (),
    depth: int = DEPTH,
) -> bool:
    """Whether ``start`` is or holds something, in attributes and containers at most a few steps away.

    The pool is no holder: it keeps what it has handed out. No code of the objects on the way is run. ``held_in``
    tells what an object of the library's own holds somewhere deep inside: to there it is one step.
    """
    seen = {id(pool)}
    level = [start]
    for _ in range(depth):
        following: list[object] = []
        for thing in level:
            if thing is sought:
                return True
            if id(thing) not in seen and len(seen) < BREADTH:
                seen.add(id(thing))
                following.extend(held_in(thing))
                following.extend(_parts(thing))
        level = following
    return any(thing is sought for thing in level)


def _parts(thing: Any) -> list[object]:
    # By type(), not isinstance(): proxies answer isinstance() with code of their own.
    kind = type(thing)
    # An event loop has everything that waits for something: it is nobody's holder.
    loop: Any = getattr(sys.modules.get("asyncio"), "AbstractEventLoop", ())
    if issubclass(kind, FunctionType | ModuleType) or issubclass(kind, loop):
        return []
    parts: Iterable[object]
    try:
        container = next((one for one in CONTAINERS if issubclass(kind, one)), None)
        if container is not None:
            parts = container.__iter__(thing)
        elif issubclass(kind, dict):
            parts = dict.values(thing)
        elif issubclass(kind, type):
            parts = type.__getattribute__(thing, "__dict__").values()
        elif kind is LRU_CACHE:
            parts = gc.get_referents(thing)
        elif kind is ContextVar:
            parts = [thing.get(None)]
        else:
            parts = _attributes(thing, kind)
        return list(parts)
    except Exception:  # one that changes under our hands
        return []


def _attributes(thing: object, kind: type) -> Iterator[object]:
    with contextlib.suppress(AttributeError):
        yield from list(object.__getattribute__(thing, "__dict__").values())
    for base in kind.__mro__:
        for slot in vars(base).values():
            if type(slot) is MemberDescriptorType:
                with contextlib.suppress(AttributeError):  # an empty one
                    yield slot.__get__(thing)
