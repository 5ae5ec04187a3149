"""A stand-in for the network between a suite and its server: it counts connections, and can go silent.

With a context for TLS it is the server's end of that, too.
"""

from __future__ import annotations

import contextlib
import select
import socket
import ssl
import threading
from collections.abc import Callable

from psycopg2.extensions import make_dsn, parse_dsn

SSL_REQUEST = (80877103).to_bytes(4, "big")


class Relay:
    """Listens on a TCP port, and passes everything on to a server, byte by byte."""

    def __init__(self, dsn: str, tls: ssl.SSLContext | None = None) -> None:
        self._to = parse_dsn(dsn)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._sockets: list[socket.socket] = []
        self._tls = tls
        self.connections = 0
        self.encrypted = 0  #: connections whose client has found the certificate good
        self.silent_after: int | None = None  #: connections that get an answer
        self.dsn = make_dsn(**{**self._to, "host": "127.0.0.1", "port": str(self._listener.getsockname()[1])})
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                self._sockets.append(client)
                self.connections += 1
                if self.silent_after is not None and self.connections > self.silent_after:
                    continue
                if self._tls is not None:
                    threading.Thread(target=self._encrypt, args=(client, self._tls), daemon=True).start()
                    continue
                server = self._server()
                for source, target, through in ((client, server, bytes), (server, client, self.passed)):
                    threading.Thread(target=_pass_on, args=(source, target, through), daemon=True).start()

    def passed(self, data: bytes) -> bytes:
        """What a client gets of what the server has sent."""
        return data

    def _encrypt(self, client: socket.socket, tls: ssl.SSLContext) -> None:
        """Answer the request for TLS, and pass everything on, in one thread: such a socket is not for two."""
        with contextlib.suppress(OSError):
            while client.recv(8)[4:] != SSL_REQUEST:  # another one, for GSS
                client.sendall(b"N")
            client.sendall(b"S")
            client = tls.wrap_socket(client, server_side=True)
            self._sockets.append(client)
            data = client.recv(65536)  # some clients look at the certificate only now
            self.encrypted += bool(data)
            server = self._server()
            server.sendall(data)
            while True:
                ready = [client] if client.pending() else select.select([client, server], [], [])[0]
                for one in ready:
                    data = one.recv(65536)
                    if not data:
                        server.close()
                        client.close()
                        return
                    (server if one is client else client).sendall(data)

    def _server(self) -> socket.socket:
        host, port = self._to["host"], self._to.get("port", "5432")
        if host.startswith("/"):
            server = socket.socket(socket.AF_UNIX)
            server.connect(f"{host}/.s.PGSQL.{port}")
        else:
            server = socket.create_connection((host, int(port)))
        self._sockets.append(server)
        return server

    def close(self) -> None:
        for one in (self._listener, *self._sockets):
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
            one.close()


def _pass_on(source: socket.socket, target: socket.socket, through: Callable[[bytes], bytes]) -> None:
    with contextlib.suppress(OSError):
        while data := source.recv(65536):
            target.sendall(through(data))
        target.shutdown(socket.SHUT_WR)
