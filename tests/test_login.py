"""The login with real servers: protected paths, limited attempts, sessions, and the user that is recorded."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import json
import os
import re
import shutil
import socket
import stat
import sys
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from http.client import HTTPMessage
from pathlib import Path
from typing import IO

import pytest
from cryptography.hazmat.primitives.kdf.argon2 import Argon2id
from laboratory import ROOT, wait_for, write_images
from playwright.sync_api import sync_playwright
from streamlit.proto.BackMsg_pb2 import BackMsg
from streamlit.testing.v1 import AppTest
from streamlit.web.server.starlette.starlette_app_utils import create_signed_value, generate_xsrf_token_string
from test_deploy import reserved_port
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import ClientConnection, connect

from benchmarks.processes import Process
from core.compression.specs import SweepSpec
from core.data.datasets import load_dataset
from core.errors import QueueUnavailable, SpecError
from core.settings import Settings
from dashboard import __main__ as launcher
from dashboard import data
from dashboard.access import users as access_module
from dashboard.access.guard import Line
from dashboard.access.login import (
    ATTEMPTS,
    ATTEMPTS_OF_ALL,
    COOKIE,
    PACE,
    SESSION_SECONDS,
    WINDOW,
    Attempts,
    Login,
    PasswordHash,
    access,
    is_loopback,
    network_of,
)
from dashboard.access.origins import own_path
from dashboard.access.signed_out import SignedOut
from jobs.logs import MOST_ALIKE
from jobs.queues import Queues

PASSWORD = "correct horse battery staple"
ADA = "Ada Lovelace"
NOTHING: dict[str, str] = {}


ELSEWHERE = (
    *(
        "http://evil.example",
        "https:evil.example",
        "javascript:alert(1)",
        "evil.example",
        "",
        "?",
        "#/",
        "//[",
        "//[::1",
    ),
    *(
        "//evil.example",
        "///evil.example",
        "////",
        "/\\evil.example",
        "\\\\evil.example",
        "/\t/evil.example",
        "/\n/evil",
    ),
    *("/%2Fevil.example", "/%2f%2fevil.example", "/%5Cevil.example", "/%09/evil.example", "/%0d%0aSet-Cookie: b"),
    *("/a\r\nSet-Cookie: b", "/sweeps?a\\b", "/a//evil.example", "/a/..//evil.example"),
)


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


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with served(tmp_path_factory.mktemp("guarded"), DASHBOARD_PASSWORD=PASSWORD) as server:
        yield server


@pytest.fixture(scope="module")
def ada(guarded: Server) -> str:
    return guarded.sign_in(ADA, PASSWORD).cookie


PRIVATE = (
    "/",
    "/sweeps",
    "/media/0123456789abcdef.png",
    "/static/js/index.js",
    "/component/any",
    "/_stcore/host-config",
    "/_stcore/metrics",
    "/_stcore/upload_file/session/file",
    "/_stcore/agent/interact",
    "/signin/../sweeps",
    "/healthz/",
    "//healthz",
    "/%2e%2e/healthz",
)


@pytest.mark.parametrize("path", PRIVATE)
@pytest.mark.parametrize("method", ["GET", "POST", "PUT", "HEAD"])
def test_every_path_answers_401_before_the_login(guarded: Server, path: str, method: str) -> None:
    assert guarded.ask(path, method, b"" if method != "GET" else None).status == 401


def test_a_page_without_a_session_redirects_to_the_form_and_the_form_back_to_the_page(guarded: Server) -> None:
    answer = guarded.ask("/sweeps?run=a&tab=b", Accept="text/html")
    assert answer.status == 303
    assert answer.headers["Location"] == "/signin?next=%2Fsweeps%3Frun%3Da%26tab%3Db"
    inside = guarded.sign_in(ADA, PASSWORD, answer.headers["Location"])
    assert (inside.status, inside.headers["Location"]) == (303, "/sweeps?run=a&tab=b")


def test_a_session_opens_pages_media_and_the_websocket(guarded: Server, ada: str) -> None:
    session = {"Cookie": f"{COOKIE}={ada}"}
    assert guarded.ask("/", **session).status == 200
    assert guarded.ask("/_stcore/host-config", **session).status == 200
    assert guarded.ask("/media/0123456789abcdef.png", **session).status == 404
    with guarded.page(ada) as page:
        assert ADA.encode() in shown(page, ADA)


@pytest.mark.parametrize("cookie", [None, "", "forged", "eyJuYW1lIjoiQWRhIn0.Z0.forged"])
def test_a_websocket_without_a_session_is_refused(guarded: Server, cookie: str | None) -> None:
    with pytest.raises(InvalidStatus) as refused, guarded.page(cookie):
        pass
    assert refused.value.response.status_code == 403


def test_a_changed_cookie_or_one_signed_with_another_key_is_refused(guarded: Server, ada: str, tmp_path: Path) -> None:
    payload, _, rest = ada.partition(".")
    other = access({"DATA_DIR": str(tmp_path), "DASHBOARD_PASSWORD": PASSWORD}).cookie(ADA)
    changed = access({"DATA_DIR": str(guarded.data_dir), "DASHBOARD_PASSWORD": PASSWORD + "!"}).cookie(ADA)
    for cookie in (f"{payload[:-2]}AA.{rest}", other, changed):
        assert guarded.ask("/", Cookie=f"{COOKIE}={cookie}").status == 401
    same = access({"DATA_DIR": str(guarded.data_dir), "DASHBOARD_PASSWORD": PASSWORD}).cookie(ADA)
    assert guarded.ask("/", Cookie=f"{COOKIE}={same}").status == 200, "sessions survive a restart of the server"


def test_signing_out_ends_the_session_in_open_pages_too(guarded: Server) -> None:
    cookie = guarded.sign_in(ADA, PASSWORD).cookie
    with guarded.page(cookie) as page:
        shown(page, ADA)
        assert guarded.ask("/signout", Cookie=f"{COOKIE}={cookie}").headers["Location"] == "/signin"
        assert guarded.ask("/", Cookie=f"{COOKIE}={cookie}").status == 401
        with pytest.raises(ConnectionClosed) as closed:
            shown(page, "a text that is never sent")
        assert closed.value.rcvd is not None
        assert closed.value.rcvd.code == 1008
    with pytest.raises(InvalidStatus), guarded.page(cookie):
        pass


def test_signing_out_closes_open_pages_that_send_nothing(guarded: Server) -> None:
    cookie, other = guarded.sign_in(ADA, PASSWORD).cookie, guarded.sign_in("Bob", PASSWORD).cookie
    with guarded.page(cookie) as page, guarded.page(other) as another:
        shown(page, ADA)
        guarded.ask("/signout", Cookie=f"{COOKIE}={cookie}")
        with pytest.raises(ConnectionClosed):
            read_on(page)
        assert shown(another, "Bob"), "other sessions continue"


def test_a_signed_out_cookie_is_refused_after_a_restart_and_by_another_dashboard(tmp_path: Path) -> None:
    with served(tmp_path, DASHBOARD_PASSWORD=PASSWORD) as server:
        cookie, kept = server.sign_in(ADA, PASSWORD).cookie, server.sign_in(ADA, PASSWORD).cookie
        another = access({"DATA_DIR": str(server.data_dir), "DASHBOARD_PASSWORD": PASSWORD})
        assert another.session(cookie) is not None
        server.ask("/signout", Cookie=f"{COOKIE}={cookie}")
        assert another.session(cookie) is None
        file = server.data_dir / "dashboard-signed-out"
        assert stat.S_IMODE(file.stat().st_mode) == 0o600
        assert cookie not in file.read_text()
    with served(tmp_path, DASHBOARD_PASSWORD=PASSWORD) as server:
        assert server.ask("/", Cookie=f"{COOKIE}={cookie}").status == 401
        assert server.ask("/", Cookie=f"{COOKIE}={kept}").status == 200


def test_signed_out_sessions_are_remembered_until_they_expire(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ended, now = SignedOut(tmp_path / "ended"), time.time()
    ended.add("over", now - 1)
    ended.add("a", now + 1000)
    assert "over" not in ended.file.read_text()
    assert SignedOut(ended.file).holds("a", now)
    assert not ended.holds("b", now)
    monkeypatch.setattr("dashboard.access.signed_out.MOST", 3)
    for number in "cdef":
        ended.add(number, now + 1000)
    assert len(ended.file.read_text()) < 200
    again = SignedOut(ended.file)
    assert all(again.holds(number, now) for number in "acdef"), "none is forgotten when the limit is reached"
    assert again.holds("b", now), "everyone who had signed in before must sign in again"
    assert not again.holds("g", time.time() + 1)


@pytest.mark.parametrize("content", ["", "{", "[]", "null", '{"before": 0, "numbers": [1]}', "\udcff"])
def test_a_damaged_file_of_signed_out_sessions_admits_no_older_session(tmp_path: Path, content: str) -> None:
    file = tmp_path / "ended"
    file.write_bytes(content.encode(errors="surrogateescape"))
    ended = SignedOut(file)
    assert ended.holds("any", file.stat().st_mtime - 1)
    assert not ended.holds("any", file.stat().st_mtime + 1), "a new sign-in is accepted"
    ended.add("a", time.time() + 1000)
    assert SignedOut(file).holds("a", file.stat().st_mtime + 1)


def test_a_sign_out_that_cannot_be_written_raises_an_error_and_is_kept_in_memory(tmp_path: Path) -> None:
    (tmp_path / "folder").write_text("a file where the folder should be")
    ended = SignedOut(tmp_path / "folder" / "ended")
    with pytest.raises(OSError, match="folder"):
        ended.add("a", time.time() + 1000)
    assert ended.holds("a", time.time())


FOREIGN = (
    *("http://127.0.0.1:1", "http://127.0.0.1", "https://127.0.0.1:{port}", "http://localhost:{port}", "null", ""),
    *("http://[", "http://[::1]:{port}", "http://127.0.0.1:{port}/", "http://127.0.0.1:{port}.evil.example"),
    *(
        "http://evil.example",
        "http://evil@127.0.0.1:{port}",
        "http://127.0.0.1:{port}@evil.example",
        "//127.0.0.1:{port}",
    ),
)


@pytest.mark.parametrize("origin", FOREIGN)
def test_a_page_of_another_origin_cannot_open_a_websocket_or_send_a_form(
    guarded: Server, ada: str, origin: str
) -> None:
    """Another port of the same host gets the user's cookie too, because cookies ignore ports."""
    origin = origin.format(port=guarded.port)
    with pytest.raises(InvalidStatus) as refused, guarded.page(ada, origin):
        pass
    assert refused.value.response.status_code == 403
    session = {"Cookie": f"{COOKIE}={ada}", "Origin": origin}
    for method in ("POST", "PUT", "DELETE", "PATCH", "GET"):
        assert guarded.ask("/_stcore/upload_file/session/file", method, **session).status == 403
    assert guarded.sign_in(ADA, PASSWORD, Origin=origin).status == 403


def test_a_websocket_without_an_origin_is_refused(guarded: Server, ada: str) -> None:
    with pytest.raises(InvalidStatus) as refused, guarded.page(ada, None):
        pass
    assert refused.value.response.status_code == 403


@pytest.mark.parametrize("site", ["cross-site", "same-site"])
def test_requests_that_another_site_causes_are_refused_except_links(guarded: Server, ada: str, site: str) -> None:
    session = {"Cookie": f"{COOKIE}={ada}", "Sec-Fetch-Site": site}
    assert guarded.ask("/media/0123456789abcdef.png", **session, Sec_Fetch_Mode="no-cors").status == 403
    frame = {"Sec-Fetch-Mode": "navigate", "Sec-Fetch-Dest": "iframe"}
    assert guarded.ask("/", **session, **frame).status == 403
    link = {"Sec-Fetch-Mode": "navigate", "Sec-Fetch-Dest": "document"}
    assert guarded.ask("/sweeps", **session, **link).status == 200
    assert guarded.ask("/", "POST", b"a=b", **session, **link).status == 403
    guarded.ask("/signout", **session, **link)
    assert guarded.ask("/", Cookie=f"{COOKIE}={ada}").status == 200, "a link on another site signs nobody out"


def test_without_a_login_requests_with_a_foreign_host_name_are_refused(tmp_path: Path) -> None:
    """The server is started by hand, so the launcher does not set `--server.allowedHosts`."""
    with served(tmp_path) as server:
        evil = f"evil.example:{server.port}"
        for host in (evil, "evil.example", "127.0.0.1.evil.example", "localhost.evil.example", "192.0.2.1"):
            for path in ("/", "/media/0123456789abcdef.png", "/_stcore/host-config", "/static/js/index.js"):
                assert server.ask(path, Host=host).status == 403
        with pytest.raises(InvalidStatus), server.page(None, f"http://{evil}", host=evil):
            pass
        with pytest.raises(InvalidStatus), server.page(None, "http://127.0.0.1:1"):
            pass
        for host in (f"127.0.0.1:{server.port}", f"localhost:{server.port}", "LOCALHOST", "[::1]:8501"):
            assert server.ask("/", Host=host).status == 200
        with server.page(None) as page:
            assert shown(page, "Overview")


UNREADABLE = (
    b"http://[",
    b"[",
    b"[::1",
    b"a b",
    b"a:99999999",
    b"a:x",
    b"@",
    b"\xff\xfe",
    b"\x80",
    b"null",
    b"9" * 5000,
)
HEADERS = (b"Host", b"Origin", b"Cookie", b"Content-Length", b"Content-Type", b"Range", b"Sec-Fetch-Site")
MORE_HEADERS = (b"X-Forwarded-For", b"X-Forwarded-Proto", b"Forwarded", b"Authorization", b"Accept", b"X-Xsrftoken")


def statuses(server: Server, *requests: bytes) -> set[bytes]:
    """Return the status codes that raw requests get."""
    found = set()
    for request in requests:
        with socket.create_connection(("127.0.0.1", server.port), timeout=60) as client:
            client.sendall(request)
            found.add(client.recv(100).split(b" ")[1])
    return found


def test_malformed_requests_are_refused_without_a_traceback(guarded: Server, ada: str) -> None:
    own = {b"Host": f"127.0.0.1:{guarded.port}".encode(), b"Accept": b"text/html", b"Connection": b"close"}
    requests = [
        b"%s %s HTTP/1.1\r\n%s\r\n" % (method, path, b"".join(b"%s: %s\r\n" % each for each in headers.items()))
        for signed_in in ({}, {b"Cookie": f"{COOKIE}={ada}".encode()})
        for method, path in (
            (b"GET", b"/"),
            (b"POST", b"/signin"),
            (b"PUT", b"/_stcore/upload_file/a/b"),
            (b"GET", b"/metrics"),
        )
        for name in (*HEADERS, *MORE_HEADERS)
        for value in UNREADABLE
        for headers in [{**own, **signed_in, b"Content-Length": b"0", name: value}]
    ]
    paths = (
        b"/signin?next=%2F%2F%5B",
        b"/signin?next=%ff%00",
        b"/%ff%fe?%ff",
        b"//[",
        b"/a%00b",
        b"http://[/",
        b"*",
        b"/" + b"a" * 9000,
    )
    requests += [b"GET %s HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n" % path for path in paths]
    assert b"500" not in statuses(guarded, *requests)
    assert "Traceback" not in guarded.log.read_text()


def test_a_client_that_disconnects_while_it_sends_the_form_causes_no_traceback(guarded: Server) -> None:
    form = b"Content-Type: application/x-www-form-urlencoded\r\nContent-Length: 100\r\n\r\nname=a"
    for _ in range(3):
        with socket.create_connection(("127.0.0.1", guarded.port), timeout=60) as client:
            client.sendall(b"POST /signin HTTP/1.1\r\nHost: a\r\n" + form)
    assert guarded.ask("/healthz").status == 200
    assert guarded.ask("/signin").status == 200
    assert "Traceback" not in guarded.log.read_text()


def test_a_client_that_does_not_speak_http_does_not_fill_the_log(guarded: Server) -> None:
    for _ in range(40):
        assert statuses(guarded, b"no request\r\n\r\n") == {b"400"}
    guarded.sign_in(ADA, PASSWORD)
    for log in (guarded.log, guarded.data_dir / "logs" / "dashboard.jsonl"):
        text = log.read_text()
        assert 0 < text.count("Invalid HTTP request received.") <= MOST_ALIKE
        assert f"{ADA} signed in from 127.0.0.1" in text


def test_the_form_redirects_only_to_pages_of_this_server(guarded: Server) -> None:
    for elsewhere in ELSEWHERE:
        path = f"/signin?next={urllib.parse.quote(elsewhere, safe='')}"
        assert guarded.sign_in(ADA, PASSWORD, path).headers["Location"] == "/"
        assert 'action="/signin?next=%2F"' in guarded.ask(path).text


@pytest.mark.parametrize("kind", ["multipart/form-data; boundary=a", "text/plain", ""])
def test_a_form_of_another_content_type_is_refused(guarded: Server, kind: str) -> None:
    assert guarded.ask("/signin", "POST", b"--a--", Content_Type=kind).status == 415


def test_another_site_cannot_sign_anyone_in_or_out(guarded: Server) -> None:
    assert guarded.sign_in(ADA, PASSWORD, Origin="http://evil.example").status == 403
    cookie = guarded.sign_in(ADA, PASSWORD, Origin=guarded.address).cookie
    guarded.ask("/signout", Cookie=f"{COOKIE}={cookie}", Sec_Fetch_Site="cross-site")
    assert guarded.ask("/", Cookie=f"{COOKIE}={cookie}").status == 200


def test_the_cookie_is_closed_to_scripts_and_other_sites_and_the_form_to_frames(guarded: Server) -> None:
    answer = guarded.sign_in(ADA, PASSWORD)
    attributes = answer.headers["Set-Cookie"].lower()
    assert "httponly" in attributes
    assert "samesite=lax" in attributes
    assert f"max-age={SESSION_SECONDS}" in attributes
    assert "secure" not in attributes
    behind_tls = guarded.sign_in(ADA, PASSWORD, X_Forwarded_Proto="https").headers["Set-Cookie"].lower()
    assert "secure" in behind_tls
    form = guarded.ask("/signin")
    assert form.headers["X-Frame-Options"] == "DENY"
    assert form.headers["X-Content-Type-Options"] == "nosniff"
    assert "default-src 'none'" in form.headers["Content-Security-Policy"]


def test_names_that_could_inject_into_a_page_or_a_log_are_refused(guarded: Server) -> None:
    for name in ("", "<script>alert(1)</script>", "a\nb", "x" * 65, "`rm`"):
        answer = guarded.sign_in(name, PASSWORD)
        assert answer.status == 422
        assert "<script>" not in answer.text


def test_a_form_that_is_too_large_or_of_unknown_length_is_refused(guarded: Server) -> None:
    assert guarded.sign_in("Ada", "x" * 9000).status == 413
    assert guarded.ask("/signin", "POST", b"").status == 413


def test_an_address_must_wait_after_too_many_wrong_passwords(tmp_path: Path) -> None:
    with served(tmp_path, DASHBOARD_PASSWORD_FILE=str(password_file(tmp_path))) as server:
        wrong = [server.sign_in(ADA, f"{PASSWORD} {number}").status for number in range(ATTEMPTS)]
        assert wrong == [401] * ATTEMPTS
        late = server.sign_in(ADA, PASSWORD)
        assert late.status == 429, "not even the right password is accepted"
        assert 0 < int(late.headers["Retry-After"]) <= WINDOW + 1
        assert server.sign_in(ADA, PASSWORD, X_Forwarded_For="192.0.2.7").status == 303, (
            "other addresses are not blocked"
        )
        log = server.log.read_text()
        assert log.count("a wrong password from 127.0.0.1") == ATTEMPTS
        assert f"{ADA} signed in from 192.0.2.7" in log
        assert PASSWORD not in log


def test_a_forged_forwarded_address_is_ignored(tmp_path: Path) -> None:
    """Many attempts at once with different forged addresses share one limit; a client without the header signs in."""
    made_up = ["evil", "\x1b[31m192.0.2.9", "2001:db8::1", *(f"192.0.2.{number}" for number in range(147))]
    with served(tmp_path, DASHBOARD_PASSWORD=PASSWORD) as server, ThreadPoolExecutor(50) as pool:
        tries = [pool.submit(server.sign_in, ADA, f"{PASSWORD}!", X_Forwarded_For=each) for each in made_up]
        assert server.sign_in(ADA, PASSWORD).status == 303
        assert sorted(each.result().status for each in tries) == [401] * ATTEMPTS + [429] * (150 - ATTEMPTS)
        assert "\x1b" not in server.log.read_text()


@pytest.fixture(scope="module")
def proxied(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    environment = {"FORWARDED_ALLOW_IPS": "127.0.0.1", "DASHBOARD_URL": "https://other.example/derm/"}
    with served(tmp_path_factory.mktemp("proxied"), DASHBOARD_PASSWORD=PASSWORD, **environment) as server:
        yield server


def test_attempts_behind_a_trusted_proxy_are_counted_per_client(proxied: Server) -> None:
    # The proxy appends the address that it sees to the client's header.
    wrong = [
        proxied.sign_in(ADA, f"{PASSWORD}!", X_Forwarded_For=f"198.51.100.{number}, 192.0.2.7").status
        for number in range(ATTEMPTS + 2)
    ]
    assert wrong == [401] * ATTEMPTS + [429] * 2
    assert proxied.sign_in(ADA, PASSWORD, X_Forwarded_For="192.0.2.8").status == 303
    assert proxied.log.read_text().count("a wrong password from 192.0.2.7\n") == ATTEMPTS


def test_behind_a_tls_proxy_the_own_origin_comes_from_its_header_or_dashboard_url(proxied: Server) -> None:
    outside = {"Host": "derm.example", "Origin": "https://derm.example"}
    assert proxied.sign_in(ADA, PASSWORD, **outside).status == 403
    assert proxied.sign_in(ADA, PASSWORD, **outside, X_Forwarded_Proto="https").status == 303
    assert proxied.sign_in(ADA, PASSWORD, Host="inside:1", Origin="https://other.example").status == 303
    assert proxied.sign_in(ADA, PASSWORD, Host="inside:1", Origin="http://other.example").status == 403


def test_the_login_queue_serves_fewest_attempts_first_and_then_the_newest() -> None:
    async def served_in_order() -> list[str]:
        line, order = Line(), []

        async def one(name: str, tries: int) -> None:
            async with line.turn(tries):
                order.append(name)
                await asyncio.sleep(0)

        async with line.turn(1):
            waiting = [
                asyncio.create_task(one(*each)) for each in (("a", 5), ("b", 1), ("c", 1), ("gone", 1), ("d", 0))
            ]
            await asyncio.sleep(0)
            waiting[3].cancel()
        await asyncio.gather(*waiting, return_exceptions=True)
        async with line.turn(1):
            order.append("free again")
        return order

    assert asyncio.run(served_in_order()) == ["d", "c", "b", "a", "free again"]


def test_a_cancelled_waiter_passes_its_turn_to_the_next() -> None:
    async def goes_on() -> bool:
        line = Line()
        async with line.turn(1):
            called = asyncio.create_task(line.turn(1).__aenter__())
            await asyncio.sleep(0)
        called.cancel()  # it has been given its turn but has not run yet
        await asyncio.gather(called, return_exceptions=True)
        async with asyncio.timeout(30), line.turn(1):
            return True

    assert asyncio.run(goes_on())


def test_the_limit_for_all_addresses_together_does_not_delay_known_users() -> None:
    attempts = Attempts()
    assert attempts.wait("192.0.2.1", now=0) == 0
    attempts.forget("192.0.2.1")
    many = [f"198.51.{number // 200}.{number % 200}" for number in range(1000)]
    assert [attempts.wait(each, now=1) for each in many].count(0) == ATTEMPTS_OF_ALL
    assert 0 < attempts.wait("203.0.113.1", now=1) <= PACE, "the wait is short"
    assert attempts.wait("203.0.113.1", now=1 + PACE) == 0
    assert attempts.wait("192.0.2.1", now=1) == 0
    attempts.forget("203.0.113.1")
    assert attempts.wait("203.0.113.2", now=1 + PACE) == 0, "a right password does not use up attempts of others"


def test_the_number_of_remembered_addresses_is_limited(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dashboard.access.login.REMEMBERED", 10)
    attempts = Attempts()
    for number in range(200):
        attempts.wait(f"198.51.100.{number}", now=number * PACE)
        attempts.forget(f"203.0.113.{number}")
    assert len(attempts._times) == len(attempts._known) == 10


def password_file(folder: Path) -> Path:
    file = folder / "password"
    file.write_text(f"{PasswordHash.of(PASSWORD)}\n")
    return file


def test_attempts_are_counted_per_address_and_expire() -> None:
    attempts = Attempts()
    assert [attempts.wait("192.0.2.1", now=number) for number in range(ATTEMPTS)] == [0.0] * ATTEMPTS
    assert attempts.wait("192.0.2.1", now=10) == WINDOW - 10
    assert attempts.wait("192.0.2.2", now=10) == 0
    assert attempts.wait("192.0.2.1", now=WINDOW) == 0, "the first attempt has expired"
    assert attempts.wait("192.0.2.1", now=WINDOW + 0.5) > 0, "the second has not"
    attempts.forget("192.0.2.1")
    assert attempts.wait("192.0.2.1", now=WINDOW + 0.6) == 0


def test_all_addresses_of_one_ipv6_network_count_as_one_client() -> None:
    assert network_of("2001:db8:1:2::1") == network_of("2001:db8:1:2:ffff::9") != network_of("2001:db8:1:3::1")
    assert network_of("192.0.2.1") != network_of("192.0.2.2")
    assert network_of("::ffff:192.0.2.1") == network_of("192.0.2.1") != network_of("::ffff:192.0.2.2")


@pytest.mark.parametrize("password", [PASSWORD, "ÄÖÜ:$ß µ 密码 \x00", " " * 12, "scrypt:1:2:3:4", "argon2id:v=19:x"])
def test_a_hash_can_be_parsed_from_its_text_and_does_not_contain_the_password(password: str) -> None:
    known = PasswordHash.of(password)
    again = PasswordHash.parse(str(known))
    assert again == known
    assert again.fits(password)
    assert not again.fits(password + "x")
    assert password not in str(known) + repr(known)


def test_a_hash_of_an_earlier_version_still_verifies_the_password(tmp_path: Path) -> None:
    salt = b"0123456789abcdef"
    digest = hashlib.scrypt(PASSWORD.encode(), salt=salt, n=2**15, r=8, p=1, maxmem=2**27, dklen=32)
    old = ":".join(["scrypt:32768:8:1", *(base64.urlsafe_b64encode(part).decode() for part in (salt, digest))])
    known = access({"DATA_DIR": str(tmp_path), "DASHBOARD_PASSWORD": old}).password
    assert known is not None
    assert known.fits(PASSWORD)
    assert not known.fits(PASSWORD + "x")


def test_a_new_hash_is_argon2id_that_other_programs_can_verify() -> None:
    text = str(PasswordHash.of(PASSWORD))
    assert text.startswith("argon2id:v=19:m=65536,t=3,p=4:")
    assert "$" not in text, "Compose files and shells would expand it"
    Argon2id.verify_phc_encoded(PASSWORD.encode(), "$" + text.replace(":", "$"))


def test_two_hashes_of_one_password_differ() -> None:
    assert str(PasswordHash.of(PASSWORD)) != str(PasswordHash.of(PASSWORD))


@pytest.mark.parametrize(
    ("environment", "reason"),
    [
        ({"DASHBOARD_PASSWORD": "short"}, "12 to 1024 characters, got 5"),
        ({"DASHBOARD_PASSWORD": "scrypt:1:2:3"}, "begins like a hash"),
        ({"DASHBOARD_PASSWORD": f"scrypt:1073741824:8:1:AAAA:{'A' * 43}="}, "begins like a hash"),
        ({"DASHBOARD_PASSWORD": "argon2id:v=19:m=65536,t=3,p=4:AAAA"}, "begins like a hash"),
        ({"DASHBOARD_PASSWORD": f"argon2id:v=19:m=999999,t=3,p=4:{'A' * 22}:{'A' * 43}"}, "begins like a hash"),
        ({"DASHBOARD_PASSWORD": f"argon2id:v=19:m=8,t=0,p=1:{'A' * 22}:{'A' * 43}"}, "begins like a hash"),
        ({"DASHBOARD_PASSWORD": PASSWORD, "DASHBOARD_PASSWORD_FILE": "any"}, "got both"),
        ({"DASHBOARD_PASSWORD_FILE": "/nowhere/at/all"}, "No such file"),
    ],
)
def test_an_invalid_password_setting_is_refused_with_the_reason(environment: dict[str, str], reason: str) -> None:
    with pytest.raises(SpecError, match=reason):
        access(environment)


def test_a_password_together_with_an_openid_provider_is_refused() -> None:
    with pytest.raises(SpecError, match="got both"):
        access({"DASHBOARD_PASSWORD": PASSWORD}, oidc=True)


def test_a_session_ends_when_it_expires_or_is_signed_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    known = access({"DATA_DIR": str(tmp_path), "DASHBOARD_PASSWORD": PASSWORD})
    assert stat.S_IMODE((tmp_path / "dashboard-key").stat().st_mode) == 0o600
    cookie = known.cookie(ADA)
    session = known.session(cookie)
    assert session is not None
    assert session.name == ADA
    known.sign_out(session.number, session.issued + SESSION_SECONDS)
    assert known.session(cookie) is None
    fresh = known.cookie(ADA)
    from itsdangerous import timed

    clock = timed.time.time  # type: ignore[attr-defined]
    monkeypatch.setattr("itsdangerous.timed.time.time", lambda: clock() + SESSION_SECONDS - 60)
    assert known.session(fresh) is not None
    monkeypatch.setattr("itsdangerous.timed.time.time", lambda: clock() + SESSION_SECONDS + 60)
    assert known.session(fresh) is None


def test_own_path_accepts_only_paths_of_this_server() -> None:
    assert own_path("/sweeps?run=a#b") == "/sweeps?run=a#b"
    for elsewhere in ELSEWHERE:
        assert own_path(elsewhere) == "/"
    ours = ("/signin", "/signout")
    for again in ("/signout", "/signin?next=/", "/%73ignout", "/a/../signout"):
        assert own_path(again, not_below=ours) == "/"


@pytest.mark.parametrize("host", ["127.0.0.1", "127.9.9.9", "::1", "localhost"])
def test_this_machines_own_addresses_need_no_login(host: str) -> None:
    assert is_loopback(host)
    assert access(NOTHING).refusal(host) is None


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.1.5", "dermslim.example", None])
def test_any_other_address_needs_a_login(host: str | None, tmp_path: Path) -> None:
    assert "DASHBOARD_PASSWORD" in (access(NOTHING).refusal(host) or "")
    assert access({"DASHBOARD_PASSWORD": PASSWORD, "DATA_DIR": str(tmp_path)}).refusal(host) is None
    assert access(NOTHING, oidc=True).refusal(host) is None


def test_the_launcher_refuses_a_public_address_without_a_login(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("DATA_DIR", str(tmp_path))
    assert launcher.main(["--host", "0.0.0.0"], lambda settings, options: []) == 1
    assert "Set DASHBOARD_PASSWORD or DASHBOARD_PASSWORD_FILE" in capsys.readouterr().err


def test_the_launcher_limits_host_names_only_without_a_login(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def command() -> tuple[str, ...]:
        return launcher.dashboard_program(Settings(tmp_path, (tmp_path,)), launcher.parse([])).command

    monkeypatch.setenv("DATA_DIR", str(tmp_path))
    assert "--server.allowedHosts" in command()
    monkeypatch.setenv("DASHBOARD_PASSWORD", PASSWORD)
    assert "--server.allowedHosts" not in command()


def test_a_server_on_a_public_address_without_a_login_serves_only_a_refusal(tmp_path: Path) -> None:
    # 127.1 is 127.0.0.1, but the guard does not recognize it as a loopback address.
    with served(tmp_path, "--server.address=127.1") as server:
        for path in ("/", "/sweeps", "/signin", "/media/a.png"):
            answer = server.ask(path, Accept="text/html")
            assert (answer.status, "Set DASHBOARD_PASSWORD" in answer.text) == (403, True)
        with pytest.raises(InvalidStatus), server.page(None):
            pass


def test_a_page_without_its_guard_shows_only_a_refusal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DATA_DIR", str(tmp_path))
    monkeypatch.setattr(access_module.st, "get_option", lambda name: "0.0.0.0")
    page = AppTest.from_file(str(ROOT / "dashboard" / "app.py"), default_timeout=60).run()
    assert len(page.error) == 1
    assert "Set DASHBOARD\\_PASSWORD" in page.error[0].value or "Set DASHBOARD_PASSWORD" in page.error[0].value
    assert not page.title
    monkeypatch.setenv("DASHBOARD_PASSWORD", PASSWORD)
    page = AppTest.from_file(str(ROOT / "dashboard" / "app.py"), default_timeout=60).run()
    assert "without its guard" in page.error[0].value
    assert not page.title


# The submitting user


def test_a_submitted_run_records_the_signed_in_user(
    settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    dataset = load_dataset(write_images(tmp_path / "moles", 2))
    monkeypatch.setenv("DATA_DIR", str(settings.data_dir))
    monkeypatch.setenv("REDIS_URL", str(settings.redis_url))
    monkeypatch.setattr(access_module, "current_user", lambda: ADA)
    run = data.queues().submit(SweepSpec(dataset="moles", ks=(2,)), dataset).run_id
    state = Queues(settings).run(run)
    assert state is not None
    assert state.submitted_by == ADA
    data.queues().cancel(run)
    assert Queues(settings).log(run)[-1].endswith(f"cancelled by {ADA}")


def test_nothing_can_be_submitted_after_the_session_has_ended(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DATA_DIR", str(settings.data_dir))
    monkeypatch.setattr(access_module, "current_user", lambda: None)
    with pytest.raises(QueueUnavailable, match="signed in"):
        data.queues()


def test_without_a_login_the_user_of_the_machine_is_recorded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DATA_DIR", str(tmp_path))
    assert access_module.current_user() == Queues(Settings(tmp_path, (tmp_path,))).user
    assert "@" in str(access_module.current_user())


# OpenID Connect


def test_only_listed_users_with_a_verified_address_are_admitted() -> None:
    everyone = access(NOTHING, oidc=True)
    named = access({"DASHBOARD_USERS": "ada@lovelace.example, @clinic.example"}, oidc=True)
    assert everyone.login is Login.OIDC
    assert everyone.admits("anyone@anywhere.example", verified=True)
    assert not everyone.admits("anyone@anywhere.example", verified=False)
    assert not everyone.admits("", verified=True)
    assert named.admits("Ada@Lovelace.example", verified=True)
    assert named.admits("bob@clinic.example", verified=True)
    for other in ("bob@lovelace.example", "bob@evilclinic.example", "ada@lovelace.example.evil", "clinic.example"):
        assert not named.admits(other, verified=True)


def test_a_signed_out_openid_session_is_refused_as_a_copy_and_after_a_restart(tmp_path: Path) -> None:
    """Streamlit itself only asks the browser to delete the cookie."""
    secrets = tmp_path / "secrets.toml"
    with reserved_port() as unused:
        provider = f"http://127.0.0.1:{unused}/.well-known/openid-configuration"
    secrets.write_text(
        f"""
        [auth]
        redirect_uri = "https://derm.example/oauth2callback"
        cookie_secret = "a secret of the test alone"
        client_id = "dermslim"
        client_secret = "another"
        server_metadata_url = "{provider}"
        """
    )
    origin = "https://derm.example"
    token = generate_xsrf_token_string()

    def signed_in(email: str) -> str:
        user = {"email": email, "email_verified": True, "is_logged_in": True, "origin": origin, "provider": "default"}
        cookie = create_signed_value("a secret of the test alone", "_streamlit_user", json.dumps(user)).decode()
        return f"_streamlit_xsrf={token}; _streamlit_user={cookie}; other=1"

    def page(server: Server, cookie: str) -> ClientConnection:
        return server.page(None, origin, host="derm.example", token=token, Cookie=cookie)

    ada, bob = signed_in("AdaLovelace@clinic.example"), signed_in("BobHope@clinic.example")
    respelled = ada.replace("; other", "=; other")
    with served(tmp_path, f"--secrets.files={secrets}", DASHBOARD_URL=origin) as server:
        for cookie, name in ((ada, "AdaLovelace"), (bob, "BobHope")):
            with page(server, cookie) as open_page:
                shown(open_page, name)
        with page(server, ada) as open_page:
            shown(open_page, "AdaLovelace")
            server.ask("/auth/logout", Cookie=ada, Sec_Fetch_Site="cross-site", Sec_Fetch_Mode="navigate")
            assert shown(open_page, "AdaLovelace"), "another site cannot sign anyone out"
            server.ask("/auth/logout", Cookie=ada)
            with pytest.raises(ConnectionClosed):
                read_on(open_page)
        assert "Traceback" not in server.log.read_text()
    with served(tmp_path, f"--secrets.files={secrets}", DASHBOARD_URL=origin) as server:
        for cookie in (ada, respelled):
            with page(server, cookie) as open_page:
                assert b"AdaLovelace" not in shown(open_page, "Sign in")
        with page(server, bob) as open_page:
            shown(open_page, "BobHope")


@pytest.mark.browser
@pytest.mark.slow
def test_a_user_of_an_openid_provider_signs_in_and_is_shown_by_address(tmp_path: Path) -> None:
    chromium = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if chromium is None:
        pytest.skip("no browser: expected chromium or google-chrome on the path")
    import oidc_provider_mock

    claims = [
        oidc_provider_mock.User(sub="1", claims={"email": "ada@clinic.example", "email_verified": True}),
        oidc_provider_mock.User(sub="2", claims={"email": "eve@elsewhere.example", "email_verified": True}),
    ]
    with oidc_provider_mock.run_server_in_thread(user_claims=claims) as provider:
        secrets = tmp_path / "secrets.toml"
        with sync_playwright() as playwright:
            browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox", "--disable-gpu"])
            with served(tmp_path, f"--secrets.files={secrets}", DASHBOARD_USERS="@clinic.example") as server:
                secrets.write_text(
                    f"""
                    [auth]
                    redirect_uri = "{server.address}/oauth2callback"
                    cookie_secret = "a secret of the test alone"
                    client_id = "dermslim"
                    client_secret = "another"
                    server_metadata_url = "http://127.0.0.1:{provider.server_port}/.well-known/openid-configuration"
                    client_kwargs = {{ scope = "openid email" }}
                    """
                )
                for number, text in (("1", "ada@clinic.example"), ("2", "may not use this dashboard")):
                    page = browser.new_page()
                    page.goto(server.address)
                    page.get_by_role("button", name="Sign in").click()
                    page.locator("input[name=sub]").fill(number)
                    page.get_by_role("button", name="Authorize").click()
                    page.get_by_text(text).wait_for(timeout=60_000)
                    page.locator("[data-testid=stApp][data-test-script-state=notRunning]").wait_for(timeout=60_000)
                    assert page.get_by_text("Overview").count() == (0 if number == "2" else 2)
                    page.close()
