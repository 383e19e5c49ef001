"""The login with real servers: protected paths, sessions, forms and limited attempts."""

from __future__ import annotations

import socket
import stat
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from laboratory import ROOT
from login_server import ADA, PASSWORD, Server, read_on, served, shown
from streamlit.testing.v1 import AppTest
from websockets.exceptions import ConnectionClosed, InvalidStatus

from dashboard.access import users as access_module
from dashboard.access.login import (
    ATTEMPTS,
    COOKIE,
    SESSION_SECONDS,
    WINDOW,
    PasswordHash,
    access,
)
from dashboard.access.origins import own_path
from dashboard.access.signed_out import SignedOut
from jobs.logs import MOST_ALIKE

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


def password_file(folder: Path) -> Path:
    file = folder / "password"
    file.write_text(f"{PasswordHash.of(PASSWORD)}\n")
    return file


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


def test_own_path_accepts_only_paths_of_this_server() -> None:
    assert own_path("/sweeps?run=a#b") == "/sweeps?run=a#b"
    for elsewhere in ELSEWHERE:
        assert own_path(elsewhere) == "/"
    ours = ("/signin", "/signout")
    for again in ("/signout", "/signin?next=/", "/%73ignout", "/a/../signout"):
        assert own_path(again, not_below=ours) == "/"
