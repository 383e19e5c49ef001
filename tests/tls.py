"""A TLS terminator for a server without TLS, like stunnel or a load balancer."""

from __future__ import annotations

import selectors
import socket
import ssl
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import cast

import trustme


@contextmanager
def terminator(authority: trustme.CA, target: Path, name: str, address: str = "127.0.0.1") -> Iterator[int]:
    """Give a port of `address` that accepts only TLS, with a certificate for `name`, and forwards to a Unix socket.

    The embedded server is built without TLS; DermSlim is the client, whose part is the same.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert(name).configure_cert(context)
    listener = socket.create_server((address, 0))

    def hand_on(secure: ssl.SSLSocket, either: selectors.BaseSelector) -> bool:
        """Hand on what has come; return whether both sides are open.

        One thread does it for both directions: Python 3.11 may crash where two threads use one SSL socket.
        """
        sides = either.get_map().values()
        ready = (
            [key for key in sides if key.fileobj is secure] if secure.pending() else [key for key, _ in either.select()]
        )
        for key in ready:
            part = cast(socket.socket, key.fileobj).recv(65536)
            if not part:
                return False
            key.data.sendall(part)
        return True

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
        with secure, socket.socket(socket.AF_UNIX) as server, selectors.DefaultSelector() as either:
            server.connect(str(target))
            for source, goal in ((secure, server), (server, secure)):
                either.register(source, selectors.EVENT_READ, goal)
            with suppress(OSError):  # one side closed
                while hand_on(secure, either):
                    pass

    threading.Thread(target=serve, daemon=True).start()
    with closing(listener):
        yield int(listener.getsockname()[1])
