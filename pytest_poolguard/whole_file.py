"""How a file is written whole or not at all."""

from __future__ import annotations

import contextlib
import os

__all__ = ["write_whole"]


def write_whole(path: str, text: str) -> None:
    """Write a text, and the folders that its file needs; raises OSError, and then leaves what was there."""
    path = os.path.realpath(path)
    os.makedirs(os.path.dirname(path), exist_ok=True)
    unfinished = f"{path}.{os.getpid()}"
    try:
        with open(unfinished, "w", encoding="utf-8", newline="\n") as file:
            file.write(text)
        os.replace(unfinished, path)
    except BaseException:  # an interruption, too
        with contextlib.suppress(OSError):
            os.remove(unfinished)
        raise
