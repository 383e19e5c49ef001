"""Dashboards with a login for tests, and what a browser sends to them."""

from __future__ import annotations

import os
import re
import socket
import sys
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http.client import HTTPMessage
from pathlib import Path
from typing import IO

from laboratory import ROOT, wait_for
from streamlit.proto.BackMsg_pb2 import BackMsg
from test_deploy import reserved_port
from websockets.sync.client import ClientConnection, connect

from benchmarks.processes import Process
from dashboard.access.login import (
    COOKIE,
)

PASSWORD = "correct horse battery staple"
ADA = "Ada Lovelace"


class NoRedirect(urllib.request.HTTPRedirectHandler):
    def redirect_request(
        self, req: urllib.request.Request, fp: IO[bytes], code: int, msg: str, headers: HTTPMessage, newurl: str
    ) -> None:
        return None


@dataclass
class Answer:
    status: int
    text: str
    headers: HTTPMessage

    @property
    def cookie(self) -> str:
        found = re.search(rf"{COOKIE}=([^;]+);", self.headers["Set-Cookie"] or "")
        assert found is not None, self.text
        return found[1]


@dataclass
class Server:
    port: int
    data_dir: Path
    log: Path

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def ask(self, path: str, method: str = "GET", data: bytes | None = None, **headers: str) -> Answer:
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        request = urllib.request.Request(self.address + path, data, named, method=method)  # noqa: S310
        try:
            with urllib.request.build_opener(NoRedirect).open(request, timeout=60) as answer:
                return Answer(answer.status, answer.read().decode(errors="replace"), answer.headers)
        except urllib.error.HTTPError as error:
            return Answer(error.code, error.read().decode(errors="replace"), error.headers)

    def sign_in(self, name: str, password: str, path: str = "/signin", **headers: str) -> Answer:
        form = urllib.parse.urlencode({"name": name, "password": password}).encode()
        return self.ask(path, "POST", form, **headers)

    def page(
        self, cookie: str | None, origin: str | None = "own", *, host: str = "", token: str = "", **headers: str
    ) -> ClientConnection:
        """The websocket that a page in a browser opens."""
        if cookie:
            headers["Cookie"] = f"{COOKIE}={cookie}"
        origin = self.address if origin == "own" else origin
        return connect(
            f"ws://{host or f'127.0.0.1:{self.port}'}/_stcore/stream",
            sock=socket.create_connection(("127.0.0.1", self.port), timeout=60),
            additional_headers=headers,
            subprotocols=["streamlit", token] if token else ["streamlit"],  # type: ignore[list-item]
            origin=origin,  # type: ignore[arg-type]
            max_size=None,
            open_timeout=60,
        )


def shown(page: ClientConnection, wanted: str, seconds: float = 60) -> bytes:
    """Run the page's script and return what it sends until `wanted` is in it."""
    message = BackMsg()
    message.rerun_script.query_string = ""
    page.send(message.SerializeToString())
    received = b""
    while wanted.encode() not in received:
        part = page.recv(timeout=seconds)
        received += part if isinstance(part, bytes) else part.encode()
    return received


def read_on(page: ClientConnection) -> None:
    while True:
        page.recv(timeout=60)


@contextmanager
def served(folder: Path, *options: str, **environment: str) -> Iterator[Server]:
    with reserved_port() as port:
        server = Server(port, folder / "data", folder / "server.log")
        server.data_dir.mkdir(parents=True, exist_ok=True)
        command = [sys.executable, "-m", "streamlit", "run", "dashboard/server.py"]
        command += [f"--server.port={server.port}", "--server.fileWatcherType=none", *options]
        with server.log.open("wb") as log:
            process = Process(
                command,
                cwd=ROOT,
                env={**os.environ, "DATA_DIR": str(server.data_dir), **environment},
                stdout=log,
                stderr=log,
            )
        try:
            wait_for(lambda: answers(server), 120)
            yield server
        finally:
            process.terminate()
            process.wait(60)


def answers(server: Server) -> bool:
    try:
        return server.ask("/healthz").status == 200
    except OSError:
        return False
