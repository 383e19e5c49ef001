"""The login with real servers: nothing is served before it, few attempts, and whose session a page belongs to."""

from __future__ import annotations

import os
import re
import shutil
import stat
import subprocess
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

import pytest
from laboratory import ROOT, wait_for, write_images
from playwright.sync_api import sync_playwright
from streamlit.proto.BackMsg_pb2 import BackMsg
from streamlit.testing.v1 import AppTest
from test_deploy import reserved_port
from websockets.exceptions import InvalidStatus
from websockets.sync.client import ClientConnection, connect

from core.datasets import load_dataset
from core.errors import QueueUnavailable, SpecError
from core.settings import Settings
from core.sweeps import SweepSpec
from dashboard import __main__ as launcher
from dashboard import access as access_module
from dashboard import data
from dashboard.guard import own_path
from dashboard.login import (
    ATTEMPTS,
    COOKIE,
    SESSION_SECONDS,
    WINDOW,
    Attempts,
    Login,
    PasswordHash,
    access,
    is_loopback,
    network_of,
    sign_out,
)
from jobs.queues import Queues

PASSWORD = "correct horse battery staple"
ADA = "Ada Lovelace"
NOTHING: dict[str, str] = {}


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

    def page(self, cookie: str | None) -> ClientConnection:
        """The websocket that a page in a browser opens."""
        headers = {"Cookie": f"{COOKIE}={cookie}"} if cookie else {}
        origin = self.address
        return connect(
            f"ws://127.0.0.1:{self.port}/_stcore/stream",
            additional_headers=headers,
            subprotocols=["streamlit"],  # type: ignore[list-item]
            origin=origin,  # type: ignore[arg-type]
            max_size=None,
            open_timeout=60,
        )


def shown(page: ClientConnection, wanted: str, seconds: float = 60) -> bytes:
    """Run the page's script and return what it sends until `wanted` is among it."""
    message = BackMsg()
    message.rerun_script.query_string = ""
    page.send(message.SerializeToString())
    received = b""
    while wanted.encode() not in received:
        part = page.recv(timeout=seconds)
        received += part if isinstance(part, bytes) else part.encode()
    return received


@contextmanager
def served(folder: Path, *options: str, **environment: str) -> Iterator[Server]:
    with reserved_port() as port:
        server = Server(port, folder / "data", folder / "server.log")
        server.data_dir.mkdir(parents=True, exist_ok=True)
        command = [sys.executable, "-m", "streamlit", "run", "dashboard/server.py"]
        command += [f"--server.port={server.port}", "--server.fileWatcherType=none", *options]
        with server.log.open("wb") as log:
            process = subprocess.Popen(
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
def test_nothing_is_served_before_the_login(guarded: Server, path: str, method: str) -> None:
    assert guarded.ask(path, method, b"" if method != "GET" else None).status == 401


def test_a_page_without_a_session_leads_to_the_form_and_the_form_back(guarded: Server) -> None:
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
def test_the_websocket_is_refused_without_a_session(guarded: Server, cookie: str | None) -> None:
    with pytest.raises(InvalidStatus) as refused, guarded.page(cookie):
        pass
    assert refused.value.response.status_code == 403


def test_a_cookie_that_was_changed_or_signed_otherwise_is_worthless(guarded: Server, ada: str, tmp_path: Path) -> None:
    payload, _, rest = ada.partition(".")
    other = access({"DATA_DIR": str(tmp_path), "DASHBOARD_PASSWORD": PASSWORD}).cookie(ADA)
    changed = access({"DATA_DIR": str(guarded.data_dir), "DASHBOARD_PASSWORD": PASSWORD + "!"}).cookie(ADA)
    for cookie in (f"{payload[:-2]}AA.{rest}", other, changed):
        assert guarded.ask("/", Cookie=f"{COOKIE}={cookie}").status == 401
    same = access({"DATA_DIR": str(guarded.data_dir), "DASHBOARD_PASSWORD": PASSWORD}).cookie(ADA)
    assert guarded.ask("/", Cookie=f"{COOKIE}={same}").status == 200, "a restart of the server keeps its sessions"


def test_signing_out_ends_the_session_everywhere_also_in_open_pages(guarded: Server) -> None:
    cookie = guarded.sign_in(ADA, PASSWORD).cookie
    with guarded.page(cookie) as page:
        shown(page, ADA)
        assert guarded.ask("/signout", Cookie=f"{COOKIE}={cookie}").headers["Location"] == "/signin"
        assert guarded.ask("/", Cookie=f"{COOKIE}={cookie}").status == 401
        assert ADA.encode() not in shown(page, "Expected a session that is signed in")
    with pytest.raises(InvalidStatus), guarded.page(cookie):
        pass


def test_another_site_cannot_sign_anyone_in_or_out(guarded: Server) -> None:
    assert guarded.sign_in(ADA, PASSWORD, Origin="http://evil.example").status == 403
    cookie = guarded.sign_in(ADA, PASSWORD, Origin=guarded.address).cookie
    guarded.ask("/signout", Cookie=f"{COOKIE}={cookie}", Sec_Fetch_Site="cross-site")
    assert guarded.ask("/", Cookie=f"{COOKIE}={cookie}").status == 200


def test_the_cookie_is_kept_from_scripts_and_other_sites_and_the_form_from_frames(guarded: Server) -> None:
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


def test_names_that_a_page_or_a_log_could_misread_are_refused(guarded: Server) -> None:
    for name in ("", "<script>alert(1)</script>", "a\nb", "x" * 65, "`rm`"):
        answer = guarded.sign_in(name, PASSWORD)
        assert answer.status == 422
        assert "<script>" not in answer.text


def test_a_form_too_large_or_of_unknown_length_is_not_read(guarded: Server) -> None:
    assert guarded.sign_in("Ada", "x" * 9000).status == 413
    assert guarded.ask("/signin", "POST", b"").status == 413


def test_a_wrong_password_counts_until_the_address_has_to_wait(tmp_path: Path) -> None:
    with served(tmp_path, DASHBOARD_PASSWORD_FILE=str(password_file(tmp_path))) as server:
        wrong = [server.sign_in(ADA, f"{PASSWORD} {number}").status for number in range(ATTEMPTS)]
        assert wrong == [401] * ATTEMPTS
        late = server.sign_in(ADA, PASSWORD)
        assert late.status == 429, "not even the right one"
        assert 0 < int(late.headers["Retry-After"]) <= WINDOW + 1
        assert server.sign_in(ADA, PASSWORD, X_Forwarded_For="192.0.2.7").status == 303, "others are not shut out"
        log = server.log.read_text()
        assert log.count("a wrong password from 127.0.0.1") == ATTEMPTS
        assert f"{ADA} signed in from 192.0.2.7" in log
        assert PASSWORD not in log


def password_file(folder: Path) -> Path:
    file = folder / "password"
    file.write_text(f"{PasswordHash.of(PASSWORD)}\n")
    return file


def test_attempts_are_counted_by_address_and_forgotten_in_time() -> None:
    attempts = Attempts()
    assert [attempts.wait("192.0.2.1", now=number) for number in range(ATTEMPTS)] == [0.0] * ATTEMPTS
    assert attempts.wait("192.0.2.1", now=10) == WINDOW - 10
    assert attempts.wait("192.0.2.2", now=10) == 0
    assert attempts.wait("192.0.2.1", now=WINDOW) == 0, "the first is forgotten"
    assert attempts.wait("192.0.2.1", now=WINDOW + 0.5) > 0, "the second is not"
    attempts.forget("192.0.2.1")
    assert attempts.wait("192.0.2.1", now=WINDOW + 0.6) == 0


def test_one_client_cannot_take_many_addresses_of_its_ipv6_network() -> None:
    assert network_of("2001:db8:1:2::1") == network_of("2001:db8:1:2:ffff::9") != network_of("2001:db8:1:3::1")
    assert network_of("192.0.2.1") != network_of("192.0.2.2")


@pytest.mark.parametrize("password", [PASSWORD, "ÄÖÜ:$ß µ 密码 \x00", " " * 12, "scrypt:1:2:3:4"])
def test_a_hash_survives_its_text_and_holds_no_password(password: str) -> None:
    known = PasswordHash.of(password)
    again = PasswordHash.parse(str(known))
    assert again == known
    assert again.fits(password)
    assert not again.fits(password + "x")
    assert password not in str(known) + repr(known)


def test_two_hashes_of_one_password_differ() -> None:
    assert str(PasswordHash.of(PASSWORD)) != str(PasswordHash.of(PASSWORD))


@pytest.mark.parametrize(
    ("environment", "reason"),
    [
        ({"DASHBOARD_PASSWORD": "short"}, "12 to 1024 characters; got 5"),
        ({"DASHBOARD_PASSWORD": "scrypt:1:2:3"}, "begins like a hash"),
        ({"DASHBOARD_PASSWORD": f"scrypt:1073741824:8:1:AAAA:{'A' * 43}="}, "begins like a hash"),
        ({"DASHBOARD_PASSWORD": PASSWORD, "DASHBOARD_PASSWORD_FILE": "any"}, "got both"),
        ({"DASHBOARD_PASSWORD_FILE": "/nowhere/at/all"}, "No such file"),
    ],
)
def test_a_password_that_cannot_be_meant_is_refused_in_a_sentence(environment: dict[str, str], reason: str) -> None:
    with pytest.raises(SpecError, match=reason):
        access(environment)


def test_a_password_beside_an_openid_provider_is_refused() -> None:
    with pytest.raises(SpecError, match="got both"):
        access({"DASHBOARD_PASSWORD": PASSWORD}, oidc=True)


def test_sessions_end_by_time_and_by_signing_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    known = access({"DATA_DIR": str(tmp_path), "DASHBOARD_PASSWORD": PASSWORD})
    assert stat.S_IMODE((tmp_path / "dashboard-key").stat().st_mode) == 0o600
    cookie = known.cookie(ADA)
    session = known.session(cookie)
    assert session is not None
    assert session.name == ADA
    sign_out(session)
    assert known.session(cookie) is None
    fresh = known.cookie(ADA)
    from itsdangerous import timed

    clock = timed.time.time  # type: ignore[attr-defined]
    monkeypatch.setattr("itsdangerous.timed.time.time", lambda: clock() + SESSION_SECONDS - 60)
    assert known.session(fresh) is not None
    monkeypatch.setattr("itsdangerous.timed.time.time", lambda: clock() + SESSION_SECONDS + 60)
    assert known.session(fresh) is None


def test_the_form_leads_only_to_pages_of_this_server() -> None:
    assert own_path("/sweeps?run=a#b") == "/sweeps?run=a#b"
    for elsewhere in ("http://evil.example", "//evil.example", "/\\evil.example", "evil", "javascript:alert(1)", ""):
        assert own_path(elsewhere) == "/"
    assert own_path("/signout") == own_path("/signin?next=/") == own_path("/a\r\nSet-Cookie: b") == "/"


@pytest.mark.parametrize("host", ["127.0.0.1", "127.9.9.9", "::1", "localhost"])
def test_this_machines_own_addresses_need_no_login(host: str) -> None:
    assert is_loopback(host)
    assert access(NOTHING).refusal(host) is None


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.1.5", "dermslim.example", None])
def test_any_other_address_needs_a_login(host: str | None, tmp_path: Path) -> None:
    assert "DASHBOARD_PASSWORD" in (access(NOTHING).refusal(host) or "")
    assert access({"DASHBOARD_PASSWORD": PASSWORD, "DATA_DIR": str(tmp_path)}).refusal(host) is None
    assert access(NOTHING, oidc=True).refusal(host) is None


def test_the_launcher_refuses_an_address_that_others_reach_without_a_login(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("DATA_DIR", str(tmp_path))
    assert launcher.main(["--host", "0.0.0.0"], lambda settings, options: []) == 1
    assert "Set DASHBOARD_PASSWORD or DASHBOARD_PASSWORD_FILE" in capsys.readouterr().err


def test_without_a_login_only_this_machines_names_are_answered_and_with_one_a_proxys_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def command() -> tuple[str, ...]:
        return launcher.dashboard_program(Settings(tmp_path, (tmp_path,)), launcher.parse([])).command

    monkeypatch.setenv("DATA_DIR", str(tmp_path))
    assert "--server.allowedHosts" in command()
    monkeypatch.setenv("DASHBOARD_PASSWORD", PASSWORD)
    assert "--server.allowedHosts" not in command()


def test_a_server_that_listens_where_others_reach_it_serves_a_refusal_and_nothing_else(tmp_path: Path) -> None:
    # 127.1 is 127.0.0.1, but not an address that the guard knows as this machine's own.
    with served(tmp_path, "--server.address=127.1") as server:
        for path in ("/", "/sweeps", "/signin", "/media/a.png"):
            answer = server.ask(path, Accept="text/html")
            assert (answer.status, "Set DASHBOARD_PASSWORD" in answer.text) == (403, True)
        with pytest.raises(InvalidStatus), server.page(None):
            pass


def test_a_page_without_its_guard_shows_a_refusal_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
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


# -- who submitted what ----------------------------------------------------------------------------------------


def test_what_a_page_submits_is_recorded_under_whoever_is_signed_in(
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


def test_nothing_is_submitted_once_a_session_has_ended(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DATA_DIR", str(settings.data_dir))
    monkeypatch.setattr(access_module, "current_user", lambda: None)
    with pytest.raises(QueueUnavailable, match="signed in"):
        data.queues()


def test_without_a_login_this_machines_user_is_recorded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DATA_DIR", str(tmp_path))
    assert access_module.current_user() == Queues(Settings(tmp_path, (tmp_path,))).user
    assert "@" in str(access_module.current_user())


# -- OpenID Connect --------------------------------------------------------------------------------------------


def test_only_users_who_are_named_and_whose_address_is_verified_come_in() -> None:
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


@pytest.mark.browser
@pytest.mark.slow
def test_an_openid_providers_user_signs_in_and_is_known_by_the_address(tmp_path: Path) -> None:
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
