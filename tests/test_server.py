"""The embedded Valkey server: private, found again at a new address, and durable."""

from __future__ import annotations

import os
import socket
import stat
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import cast

import psutil
import pytest
from accounts import as_nobody
from laboratory import ROOT, end, free_port, wait_for
from redis import Redis
from redis.exceptions import AuthenticationError, ConnectionError

from benchmarks.processes import Process
from core.errors import QueueUnavailable
from core.settings import Settings
from dashboard import supervisor
from dashboard.__main__ import server_program
from dashboard.supervisor import Child
from jobs.connection import connect
from jobs.queues import Queues
from jobs.server import (
    ServerProgram,
    forget_server,
    ping,
    prepare_server,
    program_for,
    running_server,
    share_program,
    wait_until_answering,
)


@pytest.fixture
def embedded(tmp_path_factory: pytest.TempPathFactory) -> Settings:
    """Give settings of a folder with an unusual name that is short enough for a socket."""
    data_dir = tmp_path_factory.mktemp("s") / 'with "quotes" and spaces'
    return Settings(data_dir, (data_dir,))


@pytest.fixture
def by_port(tmp_path: Path) -> Settings:
    return Settings(tmp_path / "data", (), embedded_port=free_port())


def start(settings: Settings) -> tuple[str, subprocess.Popen[bytes]]:
    server = prepare_server(settings)
    process = Process(server.command, stdout=subprocess.DEVNULL)
    wait_until_answering(server.url, process)
    return server.url, process


def fake(folder: Path, name: str, said: str) -> Path:
    """Create a program that only prints its version."""
    folder.mkdir(exist_ok=True)
    (folder / name).write_text(f"#!/bin/sh\necho '{said}'\n")
    (folder / name).chmod(0o755)
    return folder / name


BUNDLED = "Valkey 9.1.2"


@pytest.mark.parametrize(
    ("name", "said", "chosen"),
    [
        ("valkey-server", "Valkey server v=8.1.4 sha=00000000:0 malloc=jemalloc-5.3.0 bits=64", "Valkey 8.1.4"),
        ("redis-server", "Redis server v=7.0.15 sha=00000000:0 malloc=jemalloc-5.3.0 bits=64", "Redis 7.0.15"),
        ("redis-server", "Valkey server v=8.1.4 sha=00000000:0 malloc=jemalloc-5.3.0 bits=64", "Valkey 8.1.4"),
        ("redis-server", "Redis server v=6.0.16 sha=00000000:0 malloc=jemalloc-5.2.1 bits=64", BUNDLED),
        ("valkey-server", "command not found", BUNDLED),
        ("keydb-server", "KeyDB server v=6.3.4", BUNDLED),
    ],
)
def test_a_server_program_of_the_host_is_preferred_when_new_enough(
    name: str, said: str, chosen: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = fake(tmp_path / "bin", name, said)
    monkeypatch.setenv("PATH", f"{program.parent}:/usr/bin:/bin")
    settings = Settings(tmp_path / "data", ())
    server = prepare_server(settings)
    assert str(program_for(tmp_path)) == chosen
    assert (server.command[0] == str(program)) == (chosen != BUNDLED)
    assert (tmp_path / "data" / "valkey" / "written-by").read_text() == f"{chosen}\n"


def test_a_folder_with_data_is_opened_only_by_a_server_that_can_read_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:/usr/bin:/bin")
    (tmp_path / "old" / "valkey" / "appendonlydir").mkdir(parents=True)
    own = fake(tmp_path / "bin", "valkey-server", "Valkey server v=8.1.4 sha=0")
    assert str(program_for(tmp_path / "old" / "valkey")) == BUNDLED, (
        "data of an earlier version were written by Valkey 9"
    )
    share_program(Settings(tmp_path / "old", ()), Settings(tmp_path / "copy", ()))
    assert str(program_for(tmp_path / "copy" / "valkey")) == BUNDLED
    prepare_server(Settings(tmp_path / "new", ()))
    own.unlink()
    assert str(program_for(tmp_path / "new" / "valkey")) == BUNDLED, "a newer server can read them too"
    (tmp_path / "new" / "valkey" / "written-by").write_text("Valkey 10.0.1\n")
    with pytest.raises(QueueUnavailable, match=r"Expected a server that reads what Valkey 10\.0\.1 wrote"):
        prepare_server(Settings(tmp_path / "new", ()))


@pytest.mark.parametrize(
    ("one", "other", "reads"),
    [
        ("Redis 7.0.15", "Redis 7.0.15", True),
        ("Redis 7.0.15", "Redis 7.2.0", False),
        ("Redis 7.0.15", "Valkey 8.0.0", False),
        ("Valkey 9.1.2", "Redis 7.2.4", True),
        ("Valkey 9.1.2", "Redis 8.0.0", False),
    ],
)
def test_each_server_version_reads_the_data_of_compatible_versions(one: str, other: str, reads: bool) -> None:
    first, second = ServerProgram.parse(one), ServerProgram.parse(other)
    assert first is not None
    assert second is not None
    assert first.reads(second) == reads


def test_queued_jobs_survive_a_killed_server(embedded: Settings) -> None:
    url, process = start(embedded)
    with Redis.from_url(url) as client:
        client.rpush("rq:queue:svd", "chunk 1", "chunk 2")
    process.kill()
    process.wait()

    with running_server(embedded) as again, Redis.from_url(again) as client:
        assert client.lrange("rq:queue:svd", 0, -1) == [b"chunk 1", b"chunk 2"]
        assert client.config_get("appendonly", "appendfsync") == {"appendonly": "yes", "appendfsync": "everysec"}
    assert again == url, "socket and password are unchanged"


def test_the_server_listens_only_on_a_socket_in_a_private_folder(embedded: Settings) -> None:
    url, process = start(embedded)
    try:
        assert psutil.Process(process.pid).net_connections(kind="inet") == []
        path = Path(Redis.from_url(url).connection_pool.connection_kwargs["path"])
        assert path == embedded.redis_url_file.parent / "valkey.sock"
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    finally:
        process.kill()
        process.wait()
    with running_server(embedded):  # files of a killed server do not prevent the start
        ping(embedded)
    assert not path.exists()


def test_another_account_cannot_connect_to_the_socket(shared_place: Path) -> None:
    settings = Settings(shared_place / "data", ())
    with running_server(settings) as url:
        ping(settings)
        assert as_nobody(lambda: ping(url)) == "Refused"
        assert as_nobody(lambda: settings.redis_url) == "PermissionError"


def test_many_connection_attempts_of_another_account_do_not_block_the_server(shared_place: Path) -> None:
    settings = Settings(shared_place / "data", ())
    with running_server(settings) as url:
        path = Redis.from_url(url).connection_pool.connection_kwargs["path"]

        def flood() -> None:
            for _ in range(12_000):
                with pytest.raises(PermissionError), socket.socket(socket.AF_UNIX) as one:
                    one.connect(path)

        assert as_nobody(flood) == "done"
        with Redis.from_url(url) as client:
            assert len(client.client_list()) == 1


@pytest.mark.parametrize("name", ["n" * 120, "\u00e4" * 60, "new\nline", "a#b?c%20d@e:f"])
def test_a_data_folder_with_any_name_gets_a_socket(tmp_path: Path, name: str) -> None:
    settings = Settings(tmp_path / name, ())
    with running_server(settings) as url:
        ping(settings)
        path = Path(Redis.from_url(url).connection_pool.connection_kwargs["path"])
        assert len(os.fsencode(path)) < 108
        assert stat.S_IMODE(path.parent.lstat().st_mode) == 0o700
        elsewhere = path.parent != settings.redis_url_file.parent
        assert elsewhere == (len(os.fsencode(settings.redis_url_file)) > 100)
    assert path.parent.exists() != elsewhere, "a temporary folder is removed"


def test_the_temporary_folder_of_a_socket_is_reused_only_while_it_is_private(tmp_path: Path) -> None:
    settings = Settings(tmp_path / ("n" * 120), ())

    def folder() -> Path:
        return Path(Redis.from_url(prepare_server(settings).url).connection_pool.connection_kwargs["path"]).parent

    made = [folder()]
    assert folder() == made[0], "as after a killed server"
    made[0].chmod(0o777)
    made.append(folder())
    assert made[1] != made[0]
    made[1].rmdir()
    made[1].symlink_to(tmp_path)
    made.append(folder())
    assert made[2] not in made[:2]
    made[1].unlink()
    made[0].rmdir()
    forget_server(settings)
    assert not made[2].exists()


def test_the_server_listens_on_the_loopback_interface_on_request(by_port: Settings) -> None:
    with running_server(by_port) as url:
        ping(by_port)
        with Redis.from_url(url) as client:
            process = psutil.Process(client.info("server")["process_id"])
            assert client.config_get("timeout") == {"timeout": "300"}
        sockets = process.net_connections(kind="inet")
        assert {address.laddr for address in sockets if address.status == psutil.CONN_LISTEN} == {
            ("127.0.0.1", by_port.embedded_port)
        }
        assert not (by_port.data_dir / "valkey" / "valkey.sock").exists()


def test_a_port_in_use_raises_a_readable_error(by_port: Settings) -> None:
    with socket.socket() as squatter:
        squatter.bind(("127.0.0.1", by_port.embedded_port or 0))
        squatter.listen()
        with pytest.raises(QueueUnavailable, match=r"Expected EMBEDDED_REDIS_PORT to be a free port of .*, got \d+"):
            prepare_server(by_port)


def test_a_password_is_required_and_is_only_in_private_files(embedded: Settings) -> None:
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


def test_the_address_is_known_only_while_the_server_runs(embedded: Settings) -> None:
    assert embedded.redis_url is None
    with running_server(embedded) as url:
        assert embedded.redis_url == url
    assert embedded.redis_url is None
    with pytest.raises(ConnectionError), Redis.from_url(url) as client:
        client.ping()


def test_two_data_folders_have_different_passwords(tmp_path: Path) -> None:
    urls = {prepare_server(Settings(tmp_path / name, ())).url for name in ("a", "b")}
    assert len({url.split("@")[0] for url in urls}) == 2


def test_an_unreachable_address_is_named_without_its_password() -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        port = unused.getsockname()[1]
    with pytest.raises(QueueUnavailable, match=rf"Expected a Redis server to answer at 127\.0\.0\.1:{port}") as refused:
        ping(f"redis://:geheim@127.0.0.1:{port}/0")
    assert "geheim" not in str(refused.value)


def test_a_wrong_password_and_a_wrong_url_give_different_errors(valkey_url: str) -> None:
    place = valkey_url.split("@")[1]
    with pytest.raises(QueueUnavailable, match="Expected the password of the Redis server"):
        ping(f"unix://:geheim@{place}")
    with pytest.raises(QueueUnavailable, match="Expected REDIS_URL to be a URL"):
        ping(f"http://{place}")


def test_a_server_that_cannot_start_raises_an_error_at_once(embedded: Settings) -> None:
    server = prepare_server(embedded)
    configuration = Path(server.command[1])
    configuration.write_text(configuration.read_text() + "no-such-option yes\n")
    process = Process(server.command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    with pytest.raises(QueueUnavailable, match="Expected the Valkey server to start, got exit code"):
        wait_until_answering(server.url, process)


def test_settings_prefer_a_given_server_to_the_embedded_one(embedded: Settings) -> None:
    with running_server(embedded) as url:
        theirs = replace(embedded, given_redis_url="redis://elsewhere:6379/0")
        assert theirs.redis_url != url
    assert os.fspath(embedded.redis_url_file).endswith("valkey/url")


# A server that restarts at another address


def test_a_client_finds_the_server_at_its_new_address(tmp_path: Path) -> None:
    by_socket = Settings(tmp_path, ())
    with running_server(by_socket):
        client = connect(by_socket, patient=True)
        client.set("before", 1)
    for place in (
        replace(by_socket, embedded_port=free_port()),
        by_socket,
        replace(by_socket, embedded_port=free_port()),
    ):
        with running_server(place):
            assert client.get("before") == b"1", "the client finds the new address itself"
            address = client.connection_pool.connection_kwargs["source"].address().place
            assert address[:60] in str(client.client_list()), "Redis 7.0 truncates the path"


def test_a_worker_reconnects_when_the_server_has_a_new_address(tmp_path: Path) -> None:
    places = [Settings(tmp_path, (), embedded_port=free_port()) for _ in range(2)]
    environment = {**os.environ, "DATA_DIR": str(tmp_path)}
    with running_server(places[0]):
        process = Process([sys.executable, "-m", "jobs.worker", "svd"], cwd=ROOT, env=environment)
        try:
            wait_for(lambda: process.pid in {worker.pid for worker in Queues(places[0]).workers()}, 100)
        except BaseException:
            end(process)
            raise
    try:
        with socket.create_server(("127.0.0.1", places[0].embedded_port or 0)) as stranger:
            stranger.setblocking(False)
            with running_server(places[1]):
                wait_for(lambda: process.pid in {worker.pid for worker in Queues(places[1]).workers()}, 60)
            with pytest.raises(BlockingIOError):
                stranger.accept()
    finally:
        end(process)


def test_a_client_sends_no_password_when_the_server_is_not_running(tmp_path: Path) -> None:
    settings = Settings(tmp_path, (), embedded_port=free_port())
    with running_server(settings):
        client = connect(settings)
        client.ping()
    with socket.create_server(("127.0.0.1", settings.embedded_port or 0)) as stranger:
        stranger.setblocking(False)
        with pytest.raises(ConnectionError, match="Expected the embedded server to run"):
            client.ping()
        with pytest.raises(BlockingIOError):
            stranger.accept()


@pytest.mark.parametrize("scheme", ["redis", "unix"])
def test_a_client_sends_no_password_to_a_server_of_another_account(shared_place: Path, scheme: str) -> None:
    shared_place.chmod(0o777)
    port, path = free_port(), shared_place / "v.sock"
    url = f"redis://:hush@127.0.0.1:{port}/0" if scheme == "redis" else f"unix://:hush@{path}"
    settings = Settings(shared_place / "data", ())
    settings.redis_url_file.parent.mkdir(parents=True)
    settings.redis_url_file.write_text(url)
    heard = shared_place / "heard"

    def listen() -> None:
        with socket.socket(socket.AF_INET if scheme == "redis" else socket.AF_UNIX) as stranger:
            stranger.bind(("127.0.0.1", port) if scheme == "redis" else str(path))
            stranger.listen()
            heard.touch()
            for _ in range(2):  # a client without `patient` tries twice
                one, _ = stranger.accept()
                with heard.open("ab") as file:
                    file.write(one.recv(1000))

    with ThreadPoolExecutor(1) as pool:
        listening = pool.submit(as_nobody, listen)
        wait_for(heard.exists, 30)
        with pytest.raises(ConnectionError, match="got 65534"):
            connect(settings).ping()
        assert listening.result(60) == "done"
    assert heard.read_bytes() == b""


def test_the_address_of_a_dead_server_is_removed(tmp_path: Path) -> None:
    settings = Settings(tmp_path, ())
    child = Child(server_program(settings)[0], settings.logs)
    supervisor.start(child, folder=ROOT)
    wait_until_answering(settings, cast("subprocess.Popen[bytes]", child.process))
    cast("subprocess.Popen[bytes]", child.process).kill()
    wait_for(lambda: not child.running, 30)
    assert any("valkey ended" in sentence for sentence in supervisor.look_after([child], folder=ROOT))
    assert settings.redis_url is None
