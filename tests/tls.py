"""A TLS terminator for a server without TLS, like stunnel or a load balancer."""

from __future__ import annotations

import socket
import ssl
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path

import trustme


@contextmanager
def terminator(authority: trustme.CA, target: Path, name: str, address: str = "127.0.0.1") -> Iterator[int]:
    """Give a port of `address` that accepts only TLS, with a certificate for `name`, and forwards to a Unix socket.

    The embedded server is built without TLS; DermSlim is the client, whose part is the same.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert(name).configure_cert(context)
    listener = socket.create_server((address, 0))

    def hand_on(source: socket.socket, goal: socket.socket) -> None:
        try:
            while part := source.recv(65536):
                goal.sendall(part)
        except OSError:
            pass  # one side closed
        finally:
            for each in (source, goal):
                with suppress(OSError):  # it is already closed
                    each.shutdown(
                        socket.SHUT_RDWR
                    )  # otherwise it stays open while the other direction waits for bytes,
                each.close()  # and the server gives jobs to a client that has disconnected

    def serve() -> None:
        while True:
            try:
                plain, _ = listener.accept()
            except OSError:
                return  # the test is over
            threading.Thread(target=connected, args=(plain,), daemon=True).start()

    def connected(plain: socket.socket) -> None:
        try:
            secure = context.wrap_socket(plain, server_side=True)
        except OSError:
            return  # no TLS, or a client that does not trust the certificate
        server = socket.socket(socket.AF_UNIX)
        server.connect(str(target))
        threading.Thread(target=hand_on, args=(secure, server), daemon=True).start()
        hand_on(server, secure)

    threading.Thread(target=serve, daemon=True).start()
    with closing(listener):
        yield int(listener.getsockname()[1])
