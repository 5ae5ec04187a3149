"""The name under which the connections of a run are known to the server, those of its child processes included.

libpq takes ``application_name`` from the environment where nobody gives one, and child processes inherit the
environment: a management command, a server under test.
"""

from __future__ import annotations

import os

__all__ = ["PREFIX", "VARIABLE", "RunName"]

VARIABLE = "PGAPPNAME"  #: of the environment
PREFIX = "poolguard/"  #: of the name of every run
#: Bytes of a run's id, two characters each.
LENGTH = 4
MAIN = "main"


class RunName:
    """``poolguard/<run>/<worker>`` in the environment, from :meth:`take` to :meth:`give_up`."""

    def __init__(self) -> None:
        #: The id of this process's run. That of an xdist run is given: shards of a suite may have the same.
        self.id = self._run = os.urandom(LENGTH).hex()
        self._worker = ""
        self._before: str | None = None
        self._taken = ""

    def __str__(self) -> str:
        return f"{PREFIX}{self._run}/{self._worker or MAIN}"

    def part_of(self, run: str, worker: str = "") -> None:
        """Be the name of a worker of an xdist run, or of all of them: with the run's own id."""
        self._run, self._worker = run[: 2 * LENGTH], worker
        if self._taken:
            self.give_up()
            self.take()

    def take(self) -> None:
        """Put it where libpq finds it, unless the suite has put something there.

        A run that this one is a part of may have: an xdist controller, or a plugin's tests that run pytest.
        """
        before = os.environ.get(VARIABLE)
        if not before or before.startswith(PREFIX):
            self._before = before
            self._taken = os.environ[VARIABLE] = str(self)

    def give_up(self) -> None:
        """Put back what was there, unless the suite has changed it since."""
        taken, self._taken = self._taken, ""
        if not taken or os.environ.get(VARIABLE) != taken:
            return
        if self._before is None:
            del os.environ[VARIABLE]
        else:
            os.environ[VARIABLE] = self._before

    @property
    def of_all(self) -> str:
        """What the names of all workers of this run begin with."""
        return f"{PREFIX}{self._run}/"

    def is_on(self, application: bytes) -> bool:
        """Whether a backend bears the name of this process's connections."""
        return application == str(self).encode()

    def is_on_any(self, application: bytes) -> bool:
        """Whether a backend bears the name of any worker of this run."""
        return application.startswith(self.of_all.encode())

    @staticmethod
    def is_on_a_run(application: bytes) -> bool:
        """Whether a backend bears the name of any run: that will see to its connections itself."""
        return application.startswith(PREFIX.encode())

    @staticmethod
    def worker_on(application: bytes) -> str:
        """The worker in such a name; empty for a run without workers."""
        worker = application.decode("utf-8", "replace").rpartition("/")[2]
        return "" if worker == MAIN else worker
