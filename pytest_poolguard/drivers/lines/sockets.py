"""A socket to a server, with TLS as libpq's ``sslmode`` has it: for a library that takes one."""

from __future__ import annotations

import os
import socket
import ssl
import time
from collections.abc import Mapping

from pytest_poolguard.drivers.lines.places import Place, is_socket, socket_path
from pytest_poolguard.drivers.moment import Refused, Unreachable

__all__ = ["attempts", "connected", "left", "reason"]

#: The message that asks for TLS: its length, and a number that no version of the protocol has.
SSL_REQUEST = bytes.fromhex("00000008 04d2162f")
#: libpq's names; Python warns of the first two, and has a word for whatever is the oldest that it speaks.
VERSIONS = {
    "TLSv1": ssl.TLSVersion.MINIMUM_SUPPORTED,
    "TLSv1.1": ssl.TLSVersion.MINIMUM_SUPPORTED,
    "TLSv1.2": ssl.TLSVersion.TLSv1_2,
    "TLSv1.3": ssl.TLSVersion.TLSv1_3,
}


def attempts(place: Place) -> tuple[str, ...]:
    """What to try of TLS, in this order: "never", "perhaps" or "always"."""
    mode = "disable" if is_socket(place) else place.tls.get("sslmode", "prefer")
    ways = {"disable": ("never",), "allow": ("never", "always"), "prefer": ("perhaps", "never")}
    return ways.get(mode, ("always",))


def connected(place: Place, tls: str, deadline: float) -> socket.socket:
    """A socket to a server, at the point where the protocol begins.

    Raises Unreachable, Refused, or TimeoutError at the deadline. Each wait of the socket ends then.
    """
    line = _opened(place, deadline)
    if tls == "never":
        return line
    try:
        return _secured(line, place, tls, deadline)
    except TimeoutError:
        line.close()
        raise
    except (OSError, ValueError) as error:
        line.close()
        raise Refused(f"{place}: {reason(error)}") from None
    except BaseException:
        line.close()
        raise


def _secured(line: socket.socket, place: Place, tls: str, deadline: float) -> socket.socket:
    line.sendall(SSL_REQUEST)
    answer = line.recv(1)
    if answer == b"S":
        line.settimeout(left(deadline))
        return _context(place.tls).wrap_socket(line, server_hostname=place.host)
    if answer == b"N" and tls == "perhaps":
        return line
    raise Refused(f"{place} does not speak TLS")


def _opened(place: Place, deadline: float) -> socket.socket:
    seconds = left(deadline)
    try:
        if not is_socket(place):
            return socket.create_connection((place.address, place.port), seconds)
        line = socket.socket(socket.AF_UNIX)
        try:
            line.settimeout(seconds)
            path = socket_path(place)
            line.connect("\0" + path[1:] if path.startswith("@") else path)
        except BaseException:
            line.close()
            raise
    except TimeoutError:
        raise
    except (OSError, AttributeError) as error:  # a system without Unix sockets
        raise Unreachable(f"{place}: {reason(error)}") from None
    return line


def _context(known: Mapping[str, str]) -> ssl.SSLContext:
    """The context for libpq's parameters; raises OSError and ValueError.

    A root certificate is looked at where the mode asks for it, or where there is one, as libpq does.
    """
    mode = known.get("sslmode", "prefer")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = mode == "verify-full"
    roots = known.get("sslrootcert") or _default("root.crt")
    if roots and mode in ("require", "verify-ca", "verify-full"):
        if roots == "system":
            context.check_hostname = True
            context.load_default_certs()
        else:
            context.load_verify_locations(roots)
    elif mode.startswith("verify"):
        raise ValueError(f"sslmode {mode} needs a root certificate")
    else:
        context.verify_mode = ssl.CERT_NONE
    revoked = known.get("sslcrl") or _default("root.crl")
    if revoked and context.verify_mode != ssl.CERT_NONE:
        context.load_verify_locations(revoked)
        context.verify_flags |= ssl.VERIFY_CRL_CHECK_CHAIN
    own = known.get("sslcert") or _default("postgresql.crt")
    if own:
        key = known.get("sslkey") or _default("postgresql.key") or None
        context.load_cert_chain(own, key, lambda: known.get("sslpassword", ""))
    for bound, limit in (
        ("minimum_version", "ssl_min_protocol_version"),
        ("maximum_version", "ssl_max_protocol_version"),
    ):
        if limit in known:
            if known[limit] not in VERSIONS:
                raise ValueError(f"{limit} has an invalid value")
            setattr(context, bound, VERSIONS[known[limit]])
    return context


def _default(name: str) -> str:
    path = os.path.expanduser(f"~/.postgresql/{name}")
    return path if os.path.exists(path) else ""


def left(deadline: float) -> float:
    """The seconds until a deadline; raises TimeoutError when it is over."""
    seconds = deadline - time.monotonic()
    if seconds <= 0:
        raise TimeoutError
    return seconds


def reason(error: BaseException) -> str:
    """Why a socket failed, in a few words."""
    text = os.strerror(error.errno) if isinstance(error, OSError) and error.errno else ""
    if isinstance(error, (socket.gaierror, ssl.SSLError)):  # whose numbers are other ones
        text = str(error.strerror or "")
    return text or str(error).strip().partition("\n")[0] or type(error).__name__
