"""Redis with users (ACL) and with TLS: pages, commands and workers need only REDIS_URL."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from urllib.parse import quote, urlsplit

import pytest
import trustme
from laboratory import ROOT, end, free_port, wait_for, workers, write_images
from redis import Redis
from tls import terminator

from benchmarks.processes import Process, run_command
from core.compression.specs import SweepSpec
from core.data.datasets import load_dataset
from core.errors import QueueUnavailable
from core.settings import Settings
from jobs.connection import connect
from jobs.queues import Queues
from jobs.redis_address import read_address
from jobs.server import ping, running_server
from jobs.upkeep import doctor
from jobs.upkeep.checks.check import ERROR

SECRET = "p@ss:word/with?signs#4711"


@pytest.fixture
def acl_url(settings: Settings) -> Iterator[str]:
    """Give the address of a user with only the permissions that DermSlim needs."""
    with Redis.from_url(str(settings.redis_url)) as admin:
        rules = ("on", f">{SECRET}", "~*", "&*", "+@all", "-@admin", "-@dangerous", "+info", "+keys", "+client|setname")
        admin.execute_command("ACL", "SETUSER", "dermslim", *rules)
        yield f"unix://dermslim:{quote(SECRET, safe='')}@{urlsplit(str(settings.redis_url)).path}?db=0"
        admin.execute_command("ACL", "DELUSER", "dermslim")


@pytest.fixture
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture
def tls_port(settings: Settings, authority: trustme.CA) -> Iterator[int]:
    """Give a port that accepts only TLS and forwards to the Valkey server."""
    with terminator(authority, Path(urlsplit(str(settings.redis_url)).path), "localhost") as port:
        yield port


@pytest.fixture
def tls_url(settings: Settings, tls_port: int, authority: trustme.CA, tmp_path: Path) -> str:
    certificate = tmp_path / "authority.pem"
    authority.cert_pem.write_to_path(str(certificate))
    password = urlsplit(str(settings.redis_url)).password
    return f"rediss://:{password}@localhost:{tls_port}/0?ssl_ca_certs={certificate}"


@pytest.fixture(params=["acl_url", "tls_url"])
def guarded(request: pytest.FixtureRequest, settings: Settings) -> Settings:
    return replace(settings, given_redis_url=request.getfixturevalue(request.param))


def test_every_process_needs_only_the_redis_address(guarded: Settings, tmp_path: Path) -> None:
    ping(str(guarded.redis_url))
    dataset = load_dataset(write_images(tmp_path / "moles", 3))
    queues = Queues(guarded)
    with workers(guarded, "record", "svd"):
        queues.register(dataset)
        run = queues.submit(SweepSpec(dataset="moles", ks=(2,)), dataset).run_id
        wait_for(lambda: (state := queues.run(run)) is not None and state.ended, 60)
    state = queues.run(run)
    assert state is not None
    assert (state.status, state.done) == ("finished", 3)


def command(settings: Settings, url: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "DATA_DIR": str(settings.data_dir), "REDIS_URL": url}
    words = [sys.executable, "-m", "jobs", "status"]
    return run_command(words, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=60)


def test_the_command_line_needs_only_the_redis_address(guarded: Settings) -> None:
    done = command(guarded, str(guarded.redis_url))
    assert done.returncode == 0, done.stderr


def test_a_wrong_password_raises_an_error_that_does_not_contain_it(settings: Settings, acl_url: str) -> None:
    wrong = acl_url.replace("4711", "4712")
    with pytest.raises(QueueUnavailable) as refused:
        ping(wrong)
    with pytest.raises(QueueUnavailable) as not_submitted:
        Queues(replace(settings, given_redis_url=wrong)).ping()
    done = command(settings, wrong)
    assert done.returncode == 1
    for text in (str(refused.value), str(not_submitted.value), done.stdout, done.stderr):
        assert "4712" not in text
        assert "p@ss" not in text


def test_missing_permissions_raise_queue_unavailable(settings: Settings, acl_url: str) -> None:
    with Redis.from_url(str(settings.redis_url)) as admin:
        admin.execute_command("ACL", "SETUSER", "dermslim", "-@write")
    with pytest.raises(QueueUnavailable, match="permissions"):
        Queues(replace(settings, given_redis_url=acl_url)).remove_dataset("moles")


@pytest.mark.parametrize("change", [("?ssl_ca_certs=", "?other="), ("localhost", "127.0.0.1")])
def test_an_untrusted_certificate_is_refused(tls_url: str, change: tuple[str, str]) -> None:
    url = tls_url.replace(*change) if change[0] != "?ssl_ca_certs=" else tls_url.partition("?")[0]
    with pytest.raises(QueueUnavailable, match=r"(?i)certificate|verify"):
        ping(url)


def test_certificate_checks_can_be_disabled_in_the_address(tls_url: str) -> None:
    ping(tls_url.partition("?")[0] + "?ssl_cert_reqs=none&ssl_check_hostname=false")


def test_there_is_no_fallback_between_tls_and_plain_connections(tls_url: str, tmp_path: Path) -> None:
    with pytest.raises(QueueUnavailable):
        ping(tls_url.partition("?")[0].replace("rediss://", "redis://"))
    with running_server(Settings(tmp_path, (), embedded_port=free_port())) as plain:
        ping(plain)
        with pytest.raises(QueueUnavailable):
            ping(plain.replace("redis://", "rediss://"))


@pytest.mark.parametrize(
    "url",
    ["http://:4711@localhost/0", "redis://:4711@localhost:none/0", "rediss://:4711@localhost:1/0?ssl_cert_reqs=maybe"],
)
def test_an_invalid_address_raises_an_error_that_does_not_contain_its_password(settings: Settings, url: str) -> None:
    for attempt in (lambda: ping(url), lambda: Queues(replace(settings, given_redis_url=url)).ping()):
        with pytest.raises(QueueUnavailable) as refused:
            attempt()
        assert "4711" not in str(refused.value)


# Invalid addresses


@pytest.mark.parametrize(
    ("url", "sentence"),
    [
        (
            "redis://h:1/0?ssl_ca_certs=ca.pem",
            "Expected REDIS_URL to begin with rediss:// for the option ssl_ca_certs, got redis://.",
        ),
        ("rediss://h:1/0?ssl_cacerts=ca.pem", ", got ssl_cacerts."),
        ("redis://h:1/0?timeout=2", "Expected options of REDIS_URL among db, "),
        ("unix:///run/v.sock?retry=9", "got retry"),
        ("redis://h:1/0?decode_responses=yes", "got decode_responses"),
        ("redis://h:1/0?client_name=", "a valid value of the option client_name of REDIS_URL, got ''."),
        ("redis://h:1/0?protocol=9", "a valid value of the option protocol of REDIS_URL, got '9'."),
        ("redis://h:1/0?socket_timeout=nan", "got 'nan'"),
        ("redis://h:1/0?socket_timeout=-1", "got '-1'"),
        ("redis://h:1/0?db=1&db=2", "the option db of REDIS_URL once, got it 2 times"),
        ("rediss://h:1/0?ssl_cert_reqs=maybe", "got 'maybe'"),
        ("rediss://h:1/0?ssl_validate_ocsp_stapled=1", "got ssl_validate_ocsp_stapled"),
        ("redis://h:1/zero", "something other than a database's number after the host"),
        ("redis://h:1/0/1", "something other than a database's number after the host"),
        ("redis://h:70000/0", "port is not a number from 1 to 65535"),
        ("redis://h:0/0", "port is not a number from 1 to 65535"),
        (f"redis://{'h' * 64}:1/0", "host is not a host name"),
        ("redis://[::1/0", "that cannot be read"),
        ("tcp://h:1/0", "begins with none of redis://, rediss://, unix://"),
        ("h:1", "begins with none of"),
        ("unix://run/v.sock", "neither unix:///path nor"),
        (f"unix:///{'v' * 200}", "without the full path of a socket of at most"),
    ],
)
def test_an_unusable_address_raises_an_error_that_names_the_problem(
    settings: Settings, url: str, sentence: str
) -> None:
    for attempt in (
        lambda: ping(url),
        lambda: Queues(replace(settings, given_redis_url=url)).ping(),
        lambda: connect(replace(settings, given_redis_url=url), patient=True),
    ):
        with pytest.raises(QueueUnavailable, match=sentence) as refused:
            attempt()
        assert str(refused.value).startswith("Expected ")


@pytest.mark.parametrize("sign", ["/", "?", "#", "@", ":", "%", "?word=", "/word?a=b@", "["])
@pytest.mark.parametrize("scheme", ["redis", "rediss", "unix"])
def test_a_password_with_unescaped_characters_is_never_shown(sign: str, scheme: str) -> None:
    for url in (f"{scheme}://:hush{sign}word@host:6379/0", f"{scheme}://:12{sign}hush=word@host/x?hush=1"):
        try:
            told = repr(read_address(url))
        except QueueUnavailable as refused:
            told = str(refused)
        for part in ("hush", "word="):
            assert part not in told, url


def test_every_part_of_an_address_is_read() -> None:
    found = read_address("rediss://ada:p%40ss@[::1]:7/3?ssl_ca_certs=/ca.pem&socket_timeout=2.5&client_name=ada")
    assert found.place == "::1:7"
    assert found.reached == {
        "host": "::1",
        "port": 7,
        "db": 3,
        "username": "ada",
        "password": "p@ss",
        "ssl_ca_certs": "/ca.pem",
    }
    assert found.options == {"socket_timeout": 2.5, "client_name": "ada"}
    assert read_address("unix://:p%40ss@/run/a%20b%25.sock?db=4").reached == {
        "path": "/run/a b%.sock",
        "db": 4,
        "password": "p@ss",
    }
    assert read_address("redis://").place == "localhost:6379"


@pytest.mark.parametrize("words", [["jobs", "status"], ["jobs.worker", "svd"], ["dashboard", "--port", "8699"]])
def test_every_process_ends_with_one_sentence_when_an_option_is_unknown(words: list[str], tmp_path: Path) -> None:
    environment = {**os.environ, "DATA_DIR": str(tmp_path), "REDIS_URL": "redis://127.0.0.1:1/0?ssl_keyfile=k.pem"}
    done = run_command(
        [sys.executable, "-m", *words], cwd=ROOT, env=environment, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 1
    assert "rediss:// for the option ssl_keyfile" in done.stderr
    assert len(done.stderr.splitlines()) == 1, "no traceback"


def test_the_doctor_continues_with_its_other_checks(settings: Settings) -> None:
    wrong = replace(settings, given_redis_url="redis://127.0.0.1:1/0?timeout=5")
    found = {check.area: check for check in doctor.examine(wrong, keras=False)}
    assert "got timeout" in found["queue"].found
    assert found["queue"].status == ERROR
    assert {"disk", "store", "data", "networks", "outside"} <= found.keys()


# A server that rejects the client


def outcome(settings: Settings, url: str) -> tuple[int, str]:
    """Return the exit code and the output of a worker."""
    environment = {**os.environ, "DATA_DIR": str(settings.data_dir), "REDIS_URL": url}
    command = [sys.executable, "-m", "jobs.worker", "svd"]
    process = Process(command, cwd=ROOT, env=environment, stderr=subprocess.PIPE, text=True)
    try:
        _, told = process.communicate(timeout=100)  # a worker waits much longer for an unreachable server
    finally:
        end(process)
    return process.returncode, told


@pytest.mark.parametrize(
    ("password", "reason"),
    [(":wrong@", "in its URL, got another"), ("", "in its URL, got none")],
)
def test_a_worker_with_a_wrong_or_missing_password_ends_with_the_reason(
    settings: Settings, password: str, reason: str
) -> None:
    path = urlsplit(str(settings.redis_url)).path
    code, told = outcome(settings, f"unix://{password}{path}")
    assert code == 1
    assert f"the Redis server at {path} {reason}" in told
    assert "wrong@" not in told
    assert "Traceback" not in told


def test_a_worker_whose_server_has_an_untrusted_certificate_ends_with_the_reason(
    settings: Settings, tls_url: str
) -> None:
    code, told = outcome(settings, tls_url.partition("?")[0])
    assert code == 1
    assert "Expected a valid certificate of localhost:" in told
    assert "Traceback" not in told


def test_another_program_at_the_address_is_reported_as_not_redis() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener, ThreadPoolExecutor(1) as pool:
        port = listener.getsockname()[1]

        def answer() -> None:
            one, _ = listener.accept()
            with one:
                one.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n" + one.recv(1000))

        answered = pool.submit(answer)
        with pytest.raises(QueueUnavailable, match="got another program") as refused:
            ping(f"redis://:hush@127.0.0.1:{port}/0")
        answered.result(30)
    assert "hush" not in str(refused.value)


def test_a_worker_whose_password_is_changed_ends_with_the_reason(settings: Settings, acl_url: str) -> None:
    environment = {**os.environ, "DATA_DIR": str(settings.data_dir), "REDIS_URL": acl_url}
    log = settings.data_dir / "worker"
    with log.open("w") as stream:
        command = [sys.executable, "-m", "jobs.worker", "svd"]
        process = Process(command, cwd=ROOT, env=environment, stderr=stream)
    try:
        wait_for(lambda: process.pid in {worker.pid for worker in Queues(settings).workers()}, 100)
        with Redis.from_url(str(settings.redis_url)) as admin:
            admin.execute_command("ACL", "SETUSER", "dermslim", "resetpass", ">another")
            admin.execute_command("CLIENT", "KILL", "USER", "dermslim")
        assert process.wait(100) == 1
    finally:
        end(process)
    assert "in its URL, got another" in log.read_text()


def test_a_patient_client_reports_an_unreachable_server_at_once_and_waits_for_it(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    settings = Settings(tmp_path, ())
    with running_server(settings):
        connection = connect(settings, patient=True)
    waiting = threading.Thread(target=connection.ping, daemon=True)
    waiting.start()
    wait_for(lambda: "tried again for some minutes" in caplog.text, 30)
    with running_server(settings):
        waiting.join(60)
    assert not waiting.is_alive()
