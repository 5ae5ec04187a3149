"""A stand-in for the network between a suite and its server: it counts connections, and can go silent."""

from __future__ import annotations

import contextlib
import socket
import threading

from psycopg2.extensions import make_dsn, parse_dsn


class Relay:
    """Listens on a TCP port, and passes everything on to a server, byte by byte."""

    def __init__(self, dsn: str) -> None:
        self._to = parse_dsn(dsn)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._sockets: list[socket.socket] = []
        self.connections = 0
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
                server = self._server()
                self._sockets.append(server)
                for source, target in ((client, server), (server, client)):
                    threading.Thread(target=_pass_on, args=(source, target), daemon=True).start()

    def _server(self) -> socket.socket:
        host, port = self._to["host"], self._to.get("port", "5432")
        if not host.startswith("/"):
            return socket.create_connection((host, int(port)))
        server = socket.socket(socket.AF_UNIX)
        server.connect(f"{host}/.s.PGSQL.{port}")
        return server

    def close(self) -> None:
        for one in (self._listener, *self._sockets):
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
            one.close()


def _pass_on(source: socket.socket, target: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while data := source.recv(65536):
            target.sendall(data)
        target.shutdown(socket.SHUT_WR)
