"""Where a DSN leads to, by libpq's rules: services, the environment, files of passwords, lists of hosts.

For the libraries that do not have libpq.
"""

from __future__ import annotations

import getpass
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from pytest_poolguard.drivers.interface import Unaskable
from pytest_poolguard.drivers.lines.files import SOCKET_FOLDERS, password_of, service

__all__ = ["Place", "completed", "is_socket", "places", "socket_path"]

#: What libpq takes from the environment where nothing else says it.
ENVIRONMENT = {
    "PGHOST": "host",
    "PGHOSTADDR": "hostaddr",
    "PGPORT": "port",
    "PGDATABASE": "dbname",
    "PGUSER": "user",
    "PGPASSWORD": "password",
    "PGPASSFILE": "passfile",
    "PGOPTIONS": "options",
    "PGTARGETSESSIONATTRS": "target_session_attrs",
    "PGCHANNELBINDING": "channel_binding",
    "PGREQUIREAUTH": "require_auth",
    "PGREQUIREPEER": "requirepeer",
    "PGGSSENCMODE": "gssencmode",
    "PGSSLMODE": "sslmode",
    "PGSSLROOTCERT": "sslrootcert",
    "PGSSLCERT": "sslcert",
    "PGSSLKEY": "sslkey",
    "PGSSLCERTMODE": "sslcertmode",
    "PGSSLCRL": "sslcrl",
    "PGSSLCRLDIR": "sslcrldir",
    "PGSSLMINPROTOCOLVERSION": "ssl_min_protocol_version",
    "PGSSLMAXPROTOCOLVERSION": "ssl_max_protocol_version",
}
#: Demands that only libpq meets, with the values that demand nothing. To ignore one would be to connect, and send
#: a password, where the user has said not to.
DEMANDS = {
    "channel_binding": ("prefer", "disable"),
    "gssencmode": ("prefer", "disable"),
    "require_auth": (),
    "requirepeer": (),
    "scram_client_key": (),
    "scram_server_key": (),
    "sslcertmode": ("allow", "disable"),
    "sslcrldir": (),
}
TLS = (
    "sslmode",
    "sslrootcert",
    "sslcert",
    "sslkey",
    "sslpassword",
    "sslcrl",
    "ssl_min_protocol_version",
    "ssl_max_protocol_version",
)
MODES = ("disable", "allow", "prefer", "require", "verify-ca", "verify-full")
DEFAULT_PORT = "5432"


@dataclass(frozen=True)
class Place:
    """One server, and as whom to connect to what of it."""

    host: str  #: its name, or the folder of its Unix socket
    address: str  #: where it is, if that is known; else the same
    port: int
    user: str
    database: str
    password: Any = field(default="", repr=False)  #: asyncpg takes also what returns one
    options: str = ""
    tls: Mapping[str, str] = field(default_factory=dict, repr=False)  #: libpq's parameters
    context: Any = None  #: asyncpg's own word on TLS, in the place of these: an SSLContext, or False

    def __str__(self) -> str:
        return socket_path(self) if is_socket(self) else f"{self.host}:{self.port}"


def is_socket(place: Place) -> bool:
    """Whether it is a Unix socket; those with an @ are Linux's abstract ones."""
    return place.address.startswith(("/", "@"))


def socket_path(place: Place) -> str:
    """The path of a Unix socket."""
    return f"{place.address}/.s.PGSQL.{place.port}"


def completed(known: Mapping[str, str], environ: Mapping[str, str]) -> dict[str, str]:
    """The parameters of a DSN with those that its service and the environment add; none of them is empty.

    What is named, though empty, is not added. Raises :class:`Unaskable`.
    """
    found = dict(known)
    name = found.get("service") or environ.get("PGSERVICE")
    if name:
        found = {**service(name, found.get("servicefile", ""), environ), **found}
    found = {**{key: environ[variable] for variable, key in ENVIRONMENT.items() if variable in environ}, **found}
    found = {key: value for key, value in found.items() if value}
    for key, harmless in DEMANDS.items():
        if key in found and found[key] not in harmless:
            raise Unaskable(f"{key} needs a library that has libpq: psycopg2 or psycopg")
    if found.setdefault("sslmode", "prefer") not in MODES:
        raise Unaskable("sslmode has an invalid value")
    found.setdefault("user", _user())
    found.setdefault("dbname", found["user"])
    return found


def places(known: Mapping[str, str]) -> list[Place]:
    """The servers of :func:`completed` parameters, in the order in which to try them."""
    hosts, addresses = (known[name].split(",") if name in known else [] for name in ("host", "hostaddr"))
    count = len(addresses or hosts or [""])
    ports = known.get("port", DEFAULT_PORT).split(",")
    if len(ports) == 1:
        ports *= count
    if len(ports) != count or (hosts and len(hosts) != count):
        raise Unaskable("host, hostaddr and port are lists of different lengths")
    return [
        _place(known, host, address, port or DEFAULT_PORT)
        for host, address, port in zip(hosts or [""] * count, addresses or [""] * count, ports, strict=True)
    ]


def _place(known: Mapping[str, str], host: str, address: str, port: str) -> Place:
    if not port.strip().isdigit() or not 0 < int(port) < 1 << 16:
        raise Unaskable("a port is no number")
    host = host or address or _default_host(port)
    user, database = known["user"], known["dbname"]
    return Place(
        host=host,
        address=address or host,
        port=int(port),
        user=user,
        database=database,
        password=known.get("password")
        or password_of(known.get("passfile", ""), host, port.strip(), database, user),
        options=known.get("options", ""),
        tls={name: known[name] for name in TLS if name in known},
    )


def _default_host(port: str) -> str:
    """The folder in which there is a server's socket: each build of libpq knows but one of them."""
    if os.name == "nt":
        return "localhost"
    there = (folder for folder in SOCKET_FOLDERS if os.path.exists(f"{folder}/.s.PGSQL.{port}"))
    return next(there, SOCKET_FOLDERS[0])


def _user() -> str:
    """The user of this process, as the system knows it: not what the environment says, as for libpq."""
    try:
        import pwd  # noqa: PLC0415 - Windows has none

        return pwd.getpwuid(os.geteuid()).pw_name
    except (ImportError, KeyError):
        pass
    try:
        return getpass.getuser()
    except Exception:
        raise Unaskable("the DSN names no user, and the system knows of none") from None
