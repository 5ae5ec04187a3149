"""Installed frameworks that keep one connection for each thread, for as long as the thread lives.

That is how they work, not a leak; whether they have a pool underneath makes no difference to it.
"""

from __future__ import annotations

import os

from pytest_poolguard.books.origin import Origin, SourceTree

__all__ = ["CURES", "keeper"]

#: The folder of each framework whose code takes such a connection.
FOLDERS = {"Django": f"{os.sep}{os.path.join('django', 'db', 'backends')}{os.sep}"}
#: What gives a thread's connections back.
CURES = {"Django": "call `django.db.connections.close_all()` at the end of the thread"}


def keeper(origin: Origin, library: str, tree: SourceTree) -> str:
    """The framework that took a connection for itself; empty where other code called ``library``."""
    librarys = f"{os.sep}{library}{os.sep}"
    for code, _ in origin.frames():
        file = code.co_filename
        if librarys in file and not tree.is_own(file):
            continue
        return next((name for name, folder in FOLDERS.items() if folder in file and not tree.is_own(file)), "")
    return ""
