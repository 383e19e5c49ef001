"""The embedded Valkey server: private, on the loopback interface, and durable."""

from __future__ import annotations

import os
import socket
import stat
import subprocess
from dataclasses import replace
from pathlib import Path

import psutil
import pytest
from redis import Redis
from redis.exceptions import AuthenticationError, ConnectionError

from core.errors import QueueUnavailable
from core.settings import Settings
from jobs.server import ping, prepare_server, running_server, wait_until_answering


@pytest.fixture
def embedded(tmp_path: Path) -> Settings:
    data_dir = tmp_path / 'with "quotes" and spaces'
    return Settings(data_dir, (data_dir,))


def start(settings: Settings) -> tuple[str, subprocess.Popen[bytes]]:
    server = prepare_server(settings)
    process = subprocess.Popen(server.command, stdout=subprocess.DEVNULL)
    wait_until_answering(server.url, process)
    return server.url, process


def test_what_was_queued_survives_a_killed_server(embedded: Settings) -> None:
    url, process = start(embedded)
    with Redis.from_url(url) as client:
        client.rpush("rq:queue:svd", "chunk 1", "chunk 2")
    process.kill()
    process.wait()

    with running_server(embedded) as again, Redis.from_url(again) as client:
        assert client.lrange("rq:queue:svd", 0, -1) == [b"chunk 1", b"chunk 2"]
        assert client.config_get("appendonly", "appendfsync") == {"appendonly": "yes", "appendfsync": "everysec"}
    assert again == url, "port and password stay, so that running workers find the server again"


def test_the_server_listens_on_the_loopback_interface_only(embedded: Settings) -> None:
    _, process = start(embedded)
    try:
        sockets = psutil.Process(process.pid).net_connections(kind="inet")
        assert {address.laddr.ip for address in sockets if address.status == psutil.CONN_LISTEN} == {"127.0.0.1"}
    finally:
        process.kill()
        process.wait()


def test_nobody_gets_in_without_the_password_which_stands_in_private_files_only(embedded: Settings) -> None:
    url, process = start(embedded)
    try:
        password = Redis.from_url(url).connection_pool.connection_kwargs["password"]
        with Redis.from_url(url.replace(f":{password}@", "")) as client, pytest.raises(AuthenticationError):
            client.keys()
        arguments = " ".join(psutil.Process(process.pid).cmdline())
        assert password not in arguments
        folder = embedded.redis_url_file.parent
        holders = [file for file in folder.iterdir() if file.is_file() and password in file.read_text(errors="ignore")]
        assert {file.name for file in holders} == {"url", "password", "valkey.conf"}
        assert {stat.S_IMODE(file.stat().st_mode) for file in holders} == {0o600}
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    finally:
        process.kill()
        process.wait()


def test_the_address_is_known_while_the_server_runs_and_gone_afterwards(embedded: Settings) -> None:
    assert embedded.redis_url is None
    with running_server(embedded) as url:
        assert embedded.redis_url == url
    assert embedded.redis_url is None
    with pytest.raises(ConnectionError), Redis.from_url(url) as client:
        client.ping()


def test_a_port_that_was_taken_meanwhile_is_replaced(embedded: Settings) -> None:
    first = prepare_server(embedded)
    with socket.socket() as squatter:
        squatter.bind(("127.0.0.1", first.port))
        squatter.listen()
        second = prepare_server(embedded)
    assert second.port != first.port
    assert prepare_server(embedded).port == second.port


def test_two_folders_have_two_passwords(tmp_path: Path) -> None:
    urls = {prepare_server(Settings(tmp_path / name, ())).url for name in ("a", "b")}
    assert len({url.split("@")[0] for url in urls}) == 2


def test_a_silent_address_is_named_without_its_password() -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        port = unused.getsockname()[1]
    with pytest.raises(QueueUnavailable, match=rf"no Redis server answers at 127\.0\.0\.1:{port}") as refused:
        ping(f"redis://:geheim@127.0.0.1:{port}/0")
    assert "geheim" not in str(refused.value)


def test_a_wrong_password_and_a_wrong_url_are_told_apart(valkey_url: str) -> None:
    place = valkey_url.split("@")[1]
    with pytest.raises(QueueUnavailable, match="refuses the password"):
        ping(f"redis://:geheim@{place}")
    with pytest.raises(QueueUnavailable, match="expected a Redis URL"):
        ping(f"http://{place}")


def test_a_server_that_cannot_start_says_so_at_once(embedded: Settings) -> None:
    server = prepare_server(embedded)
    configuration = Path(server.command[1])
    configuration.write_text(configuration.read_text() + "no-such-option yes\n")
    process = subprocess.Popen(server.command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    with pytest.raises(QueueUnavailable, match="ended at its start"):
        wait_until_answering(server.url, process)


def test_settings_prefer_the_server_of_the_user(embedded: Settings) -> None:
    with running_server(embedded) as url:
        theirs = replace(embedded, given_redis_url="redis://elsewhere:6379/0")
        assert theirs.redis_url != url
    assert os.fspath(embedded.redis_url_file).endswith("valkey/url")
