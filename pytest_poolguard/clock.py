"""The time that a run has spent."""

from __future__ import annotations

import time

__all__ = ["Clock"]


class Clock:
    """Seconds that the run has spent, without those that it stood still in a debugger."""

    def __init__(self) -> None:
        self._skipped = 0.0
        self._stopped_at: float | None = None

    def now(self) -> float:
        """Seconds, for differences only."""
        if self._stopped_at is not None:
            return self._stopped_at
        return time.monotonic() - self._skipped

    def stop(self) -> None:
        """Stand still, until :meth:`go`."""
        if self._stopped_at is None:
            self._stopped_at = self.now()

    def go(self) -> None:
        """Go on from where :meth:`stop` stopped."""
        if self._stopped_at is not None:
            self._skipped = time.monotonic() - self._stopped_at
            self._stopped_at = None
