"""Hashes of passwords, limited attempts, sessions, and the settings of the login."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import stat
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.kdf.argon2 import Argon2id
from login_server import ADA, PASSWORD

from core.errors import SpecError
from core.settings import Settings
from dashboard import __main__ as launcher
from dashboard.access.guard import Line
from dashboard.access.login import (
    ATTEMPTS,
    ATTEMPTS_OF_ALL,
    PACE,
    SESSION_SECONDS,
    WINDOW,
    Attempts,
    PasswordHash,
    access,
    is_loopback,
    network_of,
)

NOTHING: dict[str, str] = {}


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
