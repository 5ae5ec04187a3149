"""Read a DSN as libpq does: a URI, or ``keyword=value`` pairs.

For the libraries that do not have libpq. Nothing is looked up here: see ``places``.
"""

from __future__ import annotations

import re

__all__ = ["KEYWORDS", "parse"]

#: Those that a connection over TCP or a Unix socket can have: libpq refuses every other one.
KEYWORDS = frozenset(
    """
    service servicefile user password passfile channel_binding connect_timeout dbname host hostaddr port
    client_encoding options application_name fallback_application_name keepalives keepalives_idle
    keepalives_interval keepalives_count tcp_user_timeout sslmode sslnegotiation sslcompression sslcert sslkey
    sslcertmode sslpassword sslrootcert sslcrl sslcrldir sslsni requirepeer require_auth
    min_protocol_version max_protocol_version ssl_min_protocol_version ssl_max_protocol_version gssencmode
    krbsrvname gsslib gssdelegation replication target_session_attrs load_balance_hosts scram_client_key
    scram_server_key sslkeylogfile
    """.split()  # noqa: SIM905 - fifty lines otherwise
)

PAIR = re.compile(
    r"""
    \s* (?P<name> [^\s=]+ ) \s* = \s*
    (?: '(?P<quoted> (?: \\. | [^'\\] )* )'
      | (?P<plain> (?: \\(?:.|\Z) | [^\s'\\] ) (?: \\(?:.|\Z) | [^\s\\] )* )? )
    \s*
    """,
    re.VERBOSE | re.DOTALL,
)
URI = re.compile(r"postgres(?:ql)?://")
#: ``user:password@``: libpq looks for the @ before the first slash.
CREDENTIALS = re.compile(r"(?P<user>[^:@/]*)(?::(?P<password>[^@/]*))?@")
HOST = re.compile(r"(?:\[(?P<v6>[^\]]+)\]|(?P<name>[^\[:/?,][^:/?,]*)?)(?::(?P<port>[^/?,]*))?(?P<more>,)?")


def parse(dsn: str) -> dict[str, str]:
    """The parameters that a DSN names; raises ValueError, whose text quotes nothing of it."""
    found = _of_uri(dsn) if URI.match(dsn) else _of_pairs(dsn)
    if not KEYWORDS.issuperset(found):
        raise ValueError("an unknown keyword")
    return found


def _of_pairs(dsn: str) -> dict[str, str]:
    found, position, end = {}, 0, len(dsn.rstrip())
    while position < end:
        pair = PAIR.match(dsn, position)
        if pair is None:
            raise ValueError("no pair of keyword and value")
        value = pair["quoted"] if pair["quoted"] is not None else pair["plain"] or ""
        found[pair["name"]] = re.sub(r"\\(.?)", r"\1", value, flags=re.DOTALL)
        position = pair.end()
    return found


def _of_uri(dsn: str) -> dict[str, str]:
    rest = dsn[dsn.index("//") + 2 :]
    found: dict[str, str] = {}
    credentials = CREDENTIALS.match(rest)
    if credentials is not None:
        found.update({name: value for name, value in credentials.groupdict().items() if value})
        rest = rest[credentials.end() :]
    hosts, ports, rest = _hosts(rest)
    found.update({name: value for name, value in (("host", hosts), ("port", ports)) if value})
    path, _, query = rest.partition("?")
    if path[1:]:
        found["dbname"] = path[1:]
    found = {name: _decoded(value) for name, value in found.items()}
    for pair in query.removesuffix("&").split("&") if query else ():
        name, equals, value = pair.partition("=")
        if not equals or "=" in value:
            raise ValueError("no pair of keyword and value")
        if (name, value) == ("ssl", "true"):  # JDBC's
            name, value = "sslmode", "require"
        found[_decoded(name)] = _decoded(value)
    return found


def _hosts(rest: str) -> tuple[str, str, str]:
    """The hosts and the ports of a URI, each with commas between them, and what follows."""
    hosts, ports = [], []
    while True:
        host = HOST.match(rest)
        if host is None:
            raise ValueError("no host")
        hosts.append(host["v6"] or host["name"] or "")
        ports.append(host["port"] or "")
        rest = rest[host.end() :]
        if host["more"] is None:
            break
    if rest[:1] not in ("", "/", "?"):
        raise ValueError("something after a host")
    return ",".join(hosts), ",".join(ports), rest


def _decoded(text: str) -> str:
    """A part of a URI without its percent signs; a plus sign is one, as for libpq."""
    if re.search(r"%(?![0-9a-fA-F]{2})|%00", text):
        raise ValueError("a percent sign without a character's code")
    raw = re.sub(rb"%(..)", lambda code: bytes.fromhex(code[1].decode()), text.encode())
    return raw.decode()
