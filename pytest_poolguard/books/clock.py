"""The time that a run has spent."""

from __future__ import annotations

import time
from collections.abc import Callable

__all__ = ["Clock"]


class Clock:
    """Seconds that the run has spent, without those that it stood still in a debugger."""

    def __init__(self) -> None:
        self._skipped = 0.0
        self._stopped_at: float | None = None
        #: Seconds, for differences only. The bare function while no debugger was there: it is called very often.
        self.now: Callable[[], float] = time.monotonic

    def stop(self) -> None:
        """Stand still, until :meth:`go`."""
        if self._stopped_at is None:
            self._stopped_at = self.now()
            self.now = self._now

    def go(self) -> None:
        """Go on from where :meth:`stop` stopped."""
        if self._stopped_at is not None:
            self._skipped = time.monotonic() - self._stopped_at
            self._stopped_at = None

    def _now(self) -> float:
        if self._stopped_at is not None:
            return self._stopped_at
        return time.monotonic() - self._skipped
