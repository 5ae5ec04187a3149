"""A thread that looks at the servers when a test takes long, in case it waits for a lock.

It knows how long a test runs by looking now and then which one does: a test that is over by then costs nothing.
No other part of the run is to meet it. It is none of ``threading``'s, so that suites which count their threads
don't count it; and it is gone before the process is forked, for a fork of a process with threads is warned of.
"""

from __future__ import annotations

import _thread
import os
import time
import weakref
from collections.abc import Callable
from dataclasses import dataclass

from pytest_poolguard.books.clock import Clock
from pytest_poolguard.books.records import Owner
from pytest_poolguard.owners import Owners
from pytest_poolguard.server.contention import Contention

__all__ = ["Lookout", "Seen"]

#: Seconds between two glances at which test runs.
BEAT = 0.5
#: Seconds that a phase of a test runs before the first look at the servers, and at most between two looks.
FIRST, LONGEST = 3.0, 15.0
#: Seconds that a phase runs before it is told, while it does, what it seems to hang on.
LOUD = 10.0
#: Seconds before a test's hard time limit, at most, for the last look.
LAST = 1.0
#: Seconds to wait for the thread to end: it may be in the middle of a look.
PARTING = 1.0


@dataclass(frozen=True)
class Seen:
    """A test that waited for a lock."""

    nodeid: str
    phase: str  #: "setup", "body", "teardown"
    after: float  #: seconds that the phase had run, at least
    looks: list[Contention]


class Lookout:
    """Looks from :meth:`start` to :meth:`stop`; ``look`` asks the servers.

    ``cry`` tells what kills the run. ``shout`` tells what a test seems to hang on, which may be a lock that was
    seen, and says whether there was something to tell: once for each phase.
    """

    def __init__(
        self,
        clock: Clock,
        owners: Owners,
        look: Callable[[], list[Contention]],
        cry: Callable[[Seen], None],
        shout: Callable[[Owner, Seen | None], bool],
    ) -> None:
        self._clock = clock
        self._owners = owners
        self._look = look
        self._cry = cry
        self._shout = shout
        self._has_shouted = False  #: in the present phase
        self._seen: Seen | None = None
        self._phase: tuple[object, str] = (None, "")
        self._since = self._next = 0.0
        self._deadline: float | None = None  #: by time.monotonic(): no debugger stops it
        self._pid = 0  #: of the process that the thread runs in; 0 while there is none
        self._native = 0  #: the thread's id, as the system has it
        self._sleep = self._alive = _thread.allocate_lock()
        self._heeds_forks = False

    # the thread

    def start(self) -> None:
        """Run the thread, unless it runs already."""
        if self._pid == os.getpid():
            return
        if not self._heeds_forks and hasattr(os, "register_at_fork"):
            self._heeds_forks = True
            myself = weakref.ref(self)  # what is registered stays so until the process ends
            os.register_at_fork(before=lambda: _end(myself()))
        sleep, alive = _thread.allocate_lock(), _thread.allocate_lock()
        sleep.acquire()
        alive.acquire()
        self._sleep, self._alive, self._pid = sleep, alive, os.getpid()
        try:
            _thread.start_new_thread(self._run, (sleep, alive))
        except RuntimeError:  # the system has no more of them, or the interpreter ends
            self._pid = 0

    def stop(self) -> None:
        """End the thread, and wait for its end. In a fork, which has none, this does nothing."""
        if self._pid != os.getpid():
            return
        self._pid = 0
        self._sleep.release()
        if self._alive.acquire(timeout=PARTING):
            _wait_for_end(self._native)

    def _run(self, sleep: _thread.LockType, alive: _thread.LockType) -> None:
        self._native = _thread.get_native_id()
        try:
            while not sleep.acquire(timeout=self._pause()):
                self.beat()
        except Exception:  # it is here to help: without it, the run is as it would be
            self._deadline = None
        finally:
            alive.release()

    def _pause(self) -> float:
        if self._deadline is None:
            return BEAT
        return min(max(self._deadline - time.monotonic(), 0.01), BEAT)

    def beat(self) -> None:
        """See which phase of which test runs; look at the servers if it is the same one for long."""
        test, now = self._owners.test, self._clock.now()
        phase = (test, test.phase if test is not None else "")
        if phase != self._phase:
            self._phase, self._since, self._next = phase, now, now + FIRST
            self._has_shouted = False
        is_last = self._deadline is not None and time.monotonic() >= self._deadline
        if test is None or not (is_last or now >= self._next):
            return
        after = now - self._since
        self._next = now + min(max(after, FIRST), LONGEST)
        looks = self._look()
        waits = any(look.waiting() for look in looks)
        if waits and phase == (self._owners.test, test.phase):
            self._seen = Seen(test.nodeid, test.phase, after, looks)
        if after >= LOUD and not self._has_shouted:
            self._has_shouted = self._shout(test, self._seen if waits else None)
        if is_last:
            self._deadline = None
            if waits and self._seen is not None:
                self._cry(self._seen)

    # the run

    def take(self, nodeid: str, phase: str) -> Seen | None:
        """What was seen last of a test's phase, which is over now; what was seen is forgotten."""
        seen, self._seen = self._seen, None
        return seen if seen is not None and (seen.nodeid, seen.phase) == (nodeid, phase) else None

    def take_any(self, nodeid: str) -> Seen | None:
        """The same of whichever phase of a test."""
        seen, self._seen = self._seen, None
        return seen if seen is not None and seen.nodeid == nodeid else None

    def killed_in(self, seconds: float | None) -> None:
        """The process ends in so many seconds, without another word, unless the test ends; None: no longer."""
        if seconds is None:
            self._deadline = None
        else:
            self._deadline = time.monotonic() + seconds - min(LAST, seconds / 2)


def _end(lookout: Lookout | None) -> None:
    if lookout is not None:
        lookout.stop()


def _wait_for_end(native: int) -> None:
    """Wait until the system, too, has no such thread any more: it counts them before it warns of a fork."""
    deadline = time.monotonic() + PARTING
    while os.path.exists(f"/proc/self/task/{native}") and time.monotonic() < deadline:
        time.sleep(0.0002)
