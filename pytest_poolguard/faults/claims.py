"""Who strikes what, where several processes run one suite: each thing once over all of them.

A file in a common folder stands for each thing that somebody has taken on. A worker on another machine has no
such folder, and strikes by itself.
"""

from __future__ import annotations

import hashlib
import os

__all__ = ["KEY", "Claims"]

#: The key of xdist's workerinput under which a worker is told the folder.
KEY = "poolguard_claims"


class Claims:
    """The claims of one process; without a folder, it is alone."""

    def __init__(self, folder: str = "") -> None:
        self._folder = folder if folder and os.path.isdir(folder) else ""
        self._own: set[str] = set()

    def take(self, what: str) -> bool:
        """Whether this process has taken something on just now, and nobody before."""
        if what in self._own:
            return False
        self._own.add(what)
        if not self._folder:
            return True
        name = hashlib.sha256(what.encode()).hexdigest()[:32]
        try:
            os.close(os.open(os.path.join(self._folder, name), os.O_CREAT | os.O_EXCL | os.O_WRONLY))
        except FileExistsError:
            return False
        except OSError:  # the folder is gone: nobody else can say anything, either
            return True
        return True
