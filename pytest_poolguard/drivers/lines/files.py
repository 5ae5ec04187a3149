"""The two files that libpq looks into: services, and passwords."""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Iterator, Mapping

from pytest_poolguard.books.origin import printable
from pytest_poolguard.drivers.interface import Unaskable
from pytest_poolguard.drivers.lines.dsn import KEYWORDS

__all__ = ["password_of", "service"]

#: Where libpq takes a Unix socket to be the one of "localhost": its folder by default, here and there.
SOCKET_FOLDERS = ("/var/run/postgresql", "/run/postgresql", "/tmp")  # noqa: S108 - it is where they are
OTHERS = stat.S_IRWXG | stat.S_IRWXO


def service(name: str, file: str, environ: Mapping[str, str]) -> dict[str, str]:
    """The parameters of a service, from the user's file or the system's; raises :class:`Unaskable`.

    ``file`` is the one that was named, and may be empty.
    """
    for path in _service_files(file, environ):
        found = _section(path, name)
        if found is not None:
            return found
    raise Unaskable(f"the definition of service {printable(name)!r} was not found")


def _service_files(file: str, environ: Mapping[str, str]) -> Iterator[str]:
    yield file or environ.get("PGSERVICEFILE") or os.path.expanduser("~/.pg_service.conf")
    if environ.get("PGSYSCONFDIR"):
        yield os.path.join(environ["PGSYSCONFDIR"], "pg_service.conf")


def _section(path: str, name: str) -> dict[str, str] | None:
    found: dict[str, str] | None = None
    for line in _lines(path):
        if line.startswith("["):
            if found is not None:
                break
            found = {} if line.startswith(f"[{name}]") else None
        elif found is not None:
            keyword, equals, value = line.partition("=")
            if not equals or keyword not in KEYWORDS - {"service", "servicefile"}:
                raise Unaskable(f"service {printable(name)!r} has a line that can't be used")
            found.setdefault(keyword, value)
    return found


def password_of(path: str, host: str, port: str, database: str, user: str) -> str:
    """The password in a file of passwords; empty where there is none, or where others may read the file."""
    path = path or _password_file()
    try:
        mode = os.stat(path).st_mode
    except OSError:
        return ""
    if not stat.S_ISREG(mode) or (os.name != "nt" and mode & OTHERS):
        return ""
    if host in SOCKET_FOLDERS:
        host = "localhost"
    for line in _lines(path):
        *patterns, password = _fields(line)
        wanted = zip(patterns, (host, port, database, user), strict=False)
        if len(patterns) == 4 and all(pattern in ("*", value) for pattern, value in wanted):  # noqa: PLR2004
            return _unescaped(password)
    return ""


def _password_file() -> str:
    if os.name == "nt":
        return os.path.join(os.environ.get("APPDATA", ""), "postgresql", "pgpass.conf")
    return os.path.expanduser("~/.pgpass")


def _fields(line: str) -> list[str]:
    """The fields between colons: a star, a value, at last the password, which is still escaped."""
    *patterns, password = re.split(r"(?<!\\)((?:\\\\)*):", line, maxsplit=4)
    # What was split at comes back in pieces: the text, then the backslashes that stood before its colon.
    values = [text + slashes for text, slashes in zip(patterns[::2], patterns[1::2], strict=True)]
    return [*(value if value == "*" else _unescaped(value) for value in values), password]


def _unescaped(text: str) -> str:
    return re.sub(r"\\(.)", r"\1", text)


def _lines(path: str) -> Iterator[str]:
    """The lines of a file that say something; none where it can't be read."""
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            for raw in file:
                line = raw.strip()
                if line and not line.startswith("#"):
                    yield line
    except OSError:
        return
