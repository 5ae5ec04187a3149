"""The name under which the connections of a run are known to the server, those of its child processes included.

libpq takes ``application_name`` from the environment where nobody gives one, and child processes inherit the
environment: a management command, a server under test.
"""

from __future__ import annotations

import os
import uuid

__all__ = ["RunName", "new_run"]

VARIABLE = "PGAPPNAME"
PREFIX = "poolguard/"
MAIN = "main"


def new_run() -> str:
    """An id for a run that no other run on the same server has."""
    return uuid.uuid4().hex[:8]


class RunName:
    """``poolguard/<run>/<worker>`` in the environment, from :meth:`take` to :meth:`give_up`."""

    def __init__(self, run: str, worker: str = "") -> None:
        self.run = run
        self.text = f"{PREFIX}{run}/{worker or MAIN}"
        self._before: str | None = None
        self._taken = False

    def take(self) -> None:
        """Put it where libpq finds it, unless the suite has put something there.

        A run that this one is a part of may have: an xdist controller, or a plugin's tests that run pytest.
        """
        self._before = os.environ.get(VARIABLE)
        if not self._before or self._before.startswith(PREFIX):
            os.environ[VARIABLE] = self.text
            self._taken = True

    def give_up(self) -> None:
        """Put back what was there, unless the suite has changed it since."""
        if not self._taken or os.environ.get(VARIABLE) != self.text:
            return
        if self._before is None:
            del os.environ[VARIABLE]
        else:
            os.environ[VARIABLE] = self._before

    def is_on(self, application: bytes) -> bool:
        """Whether a backend bears the name of this process's connections."""
        return application == self.text.encode()

    def is_on_any(self, application: bytes) -> bool:
        """Whether a backend bears the name of any worker of this run."""
        return application.startswith(f"{PREFIX}{self.run}/".encode())

    @staticmethod
    def worker_on(application: bytes) -> str:
        """The worker in such a name; empty for a run without workers."""
        worker = application.decode("utf-8", "replace").rpartition("/")[2]
        return "" if worker == MAIN else worker
