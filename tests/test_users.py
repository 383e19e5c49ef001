"""The user that is recorded with a run, and users of an OpenID provider."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from laboratory import write_images
from login_server import ADA, Server, read_on, served, shown
from playwright.sync_api import sync_playwright
from streamlit.web.server.starlette.starlette_app_utils import create_signed_value, generate_xsrf_token_string
from test_deploy import reserved_port
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import ClientConnection

from core.compression.specs import SweepSpec
from core.data.datasets import load_dataset
from core.errors import QueueUnavailable
from core.settings import Settings
from dashboard import data
from dashboard.access import users as access_module
from dashboard.access.login import (
    Login,
    access,
)
from jobs.queues import Queues

NOTHING: dict[str, str] = {}


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
