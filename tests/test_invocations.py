"""Whether a call still runs, by the place where its function is on a stack."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable
from types import CodeType

from pytest_poolguard.exhausted.invocations import still_runs

Frame = tuple[CodeType, int]


class Places:
    """Takes: notes where its caller is. Asks: whether the call that took first may be the one that runs now."""

    def __init__(self) -> None:
        self.took: Frame | None = None
        self.answers: list[bool] = []

    def take(self) -> None:
        frame = sys._getframe(1)
        self.took = self.took or (frame.f_code, frame.f_lasti)

    def ask(self) -> None:
        assert self.took is not None
        stack = []
        frame = sys._getframe(1)
        while frame is not None:
            stack.append((frame.f_code, frame.f_lasti))
            frame = frame.f_back
        self.answers.append(still_runs(*self.took, stack))

    def both(self) -> None:
        frame = sys._getframe(1)
        if self.took is not None:
            self.answers.append(still_runs(*self.took, [(frame.f_code, frame.f_lasti)]))
        self.took = self.took or (frame.f_code, frame.f_lasti)


def answers(play: Callable[[Places], object]) -> list[bool]:
    places = Places()
    play(places)
    return places.answers


def test_a_function_that_has_gone_on_still_runs():
    def play(places):
        places.take()
        places.ask()

    assert answers(play) == [True]


def test_a_function_that_is_on_no_stack_is_over():
    def play(places):
        def taker():
            places.take()

        taker()
        places.ask()

    assert answers(play) == [False]


def test_a_second_call_at_the_same_line_is_another_one():
    def play(places):
        def taker():
            places.both()

        for _ in range(3):
            taker()

    assert answers(play) == [False, False]


def test_a_line_in_a_loop_may_be_the_same_call():
    def play(places):
        for _ in range(3):
            places.both()

    assert answers(play) == [True, True]


def test_a_comprehension_is_a_loop():
    assert answers(lambda places: [places.both() for _ in range(3)]) == [True, True]


def test_a_caller_that_is_called_again_from_a_deeper_call():
    def play(places):
        def taker(depth):
            places.both()
            if depth:
                taker(depth - 1)

        taker(1)

    assert answers(play)[0] is False  # the innermost frame alone is looked at; the outer one has gone on


def test_a_call_that_is_suspended_in_the_await_that_took():
    async def taker(places, event):
        await note(places, event)

    async def note(places, event):
        frame = sys._getframe(1)
        places.took = places.took or (frame.f_code, frame.f_lasti)
        if event is not None:
            await event.wait()

    async def play(places):
        await taker(places, None)
        task = asyncio.create_task(taker(places, asyncio.Event()))
        await asyncio.sleep(0)
        frame = task.get_coro().cr_frame
        places.answers.append(still_runs(*places.took, [(frame.f_code, frame.f_lasti)]))
        task.cancel()

    assert answers(lambda places: asyncio.run(play(places))) == [False]
