"""The first look at a server, where an event loop runs: in a thread, while the loop goes on.

The task that has connected waits for it. So the suite does not meet our connection where it has made but one of
its own, as when it counts the backends; and what it does in other tasks goes on.
"""

from __future__ import annotations

import contextlib
import sys
import threading
from collections.abc import Callable
from typing import Any

from pytest_poolguard.books.records import Opening
from pytest_poolguard.drivers.interface import Watch

__all__ = ["first_look"]

#: Seconds that a task waits. A look takes some milliseconds; where it takes longer, the task has perhaps a
#: time-out of its own, and the look goes on without it.
MOST = 0.5


async def first_look(
    watch: Watch, opening: Opening, asker: Callable[[], Any], give_up: Callable[[], object]
) -> None:
    """Note a new connection as ``watch.on_connected`` does, in a thread if that asks.

    A task that is cancelled here has no connection yet: ``give_up`` closes it.
    """
    if not watch.is_first(opening):
        with watch.noting("a new connection"):
            watch.on_connected(opening, asker)
        return
    asyncio = sys.modules["asyncio"]  # whose coroutine calls this
    loop = asyncio.get_running_loop()
    over = loop.create_future()

    def look() -> None:
        with watch.noting("a new connection"):
            watch.on_connected(opening, asker)
        with contextlib.suppress(RuntimeError):  # the loop is closed by now
            loop.call_soon_threadsafe(_set, over)

    threading.Thread(target=look, name="poolguard-look", daemon=True).start()
    try:
        await asyncio.wait([over], timeout=MOST)
    except BaseException:
        give_up()
        raise


def _set(future: Any) -> None:
    if not future.done():
        future.set_result(None)
