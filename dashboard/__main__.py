"""Start everything on one machine: `python -m dashboard`, which is `make up`; with `--demo`, `make demo`.

The embedded Valkey server unless `REDIS_URL` names another, one `record` worker, `svd` workers for the cores, `train`
workers (one by default) and the dashboard. A process that dies is started again; Ctrl-C ends all of them.
"""

from __future__ import annotations

import sys

if sys.version_info < (3, 11):  # noqa: UP036 - an older Python gets a sentence instead of a syntax error further down
    sys.exit(f"DermSlim needs Python 3.11, 3.12 or 3.13; this is {sys.version.split()[0]}")

import argparse
import contextlib
import errno
import fcntl
import logging
import os
import shutil
import signal
import socket
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import FrameType

import httpx
from dotenv import load_dotenv

from core.data.demo import IMAGES
from core.data.metadata import LABELS
from core.errors import DermSlimError, QueueUnavailable
from core.files.private import keep_new_files_private, open_lock, private_folder, tighten
from core.settings import ENV_FILE, Settings, variables
from core.training.backend import cannot_train
from dashboard.access.login import Login, access, is_loopback
from dashboard.supervisor import Child, Program, adopt_orphans, look_after, start, stop, tail
from jobs import logs
from jobs.server import forget_server, ping, prepare_server, wait_until_answering

ROOT = Path(__file__).resolve().parents[1]
MINIMUM_FREE = 500_000_000  # bytes; the demo's images alone take some 110 MB
PAUSE = 0.2  # seconds between two looks at the processes

Programs = Callable[[Settings, argparse.Namespace], list[Program]]


class LaunchError(DermSlimError):
    """Something outside has to change before DermSlim can start here."""


class Signals:
    """The received signals: the first asks for a clean stop, the second for a quick one."""

    def __init__(self) -> None:
        """Take over Ctrl-C, termination and a closed terminal (unless `nohup` said to ignore that)."""
        self.received: list[int] = []
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            if number != signal.SIGHUP or signal.getsignal(number) != signal.SIG_IGN:
                signal.signal(number, self._receive)

    def _receive(self, number: int, frame: FrameType | None) -> None:
        self.received.append(number)

    def in_a_hurry(self) -> bool:
        """Return whether the user asked a second time."""
        return len(self.received) > 1


def main(arguments: Sequence[str] | None = None, programs: Programs | None = None) -> int:
    """Run until a signal arrives; return 0 (130 after Ctrl-C), or 1 with a sentence where it cannot start."""
    if arguments is None and ENV_FILE:
        load_dotenv(ENV_FILE)  # for the processes that are started here, and for uvicorn, which reads some itself
    signals = Signals()
    try:
        options = parse(arguments)
        settings = Settings.from_environment()
        if arguments is None:
            keep_new_files_private()
        opened = check_data_dir(settings)
        if arguments is None:  # run as a process; `say` prints the sentences for the user
            logs.set_up("launcher", settings, level=logging.CRITICAL)
        for sentence in opened:
            say(sentence)
        if options.train_workers and (why := cannot_train()):
            options.train_workers = 0
            say(f"no train worker is started. {why}")
        with only_launcher(settings):
            check_login(options.host)
            check_port(options.host, options.port)
            return run(settings, options, (programs or all_programs)(settings, options), signals)
    except (DermSlimError, OSError) as error:
        print(f"DermSlim cannot start: {error}", file=sys.stderr)
        return 1


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Read the options; the variables PORT, SVD_WORKERS and TRAIN_WORKERS set the defaults of theirs."""
    given = variables()
    text = "Start DermSlim on this machine: queue server, workers and dashboard."
    parser = argparse.ArgumentParser(prog="python -m dashboard", description=text)
    demo = f"make the synthetic demo data set, of {IMAGES} images by default, and queue its runs"
    images = _number(len(LABELS), 10_000)
    parser.add_argument("--demo", metavar="IMAGES", type=images, nargs="?", const=IMAGES, help=demo)
    parser.add_argument("--port", type=_number(1, 65535), default=given.port, help="default: PORT, else 8501")
    host = "address to listen on; if others reach it, a login is needed (docs/security.md)"
    parser.add_argument("--host", default="127.0.0.1", help=host)
    svd = "default: SVD_WORKERS, else one per usable core"
    parser.add_argument("--svd-workers", type=_number(0, 1024), default=given.svd_workers, help=svd)
    train = "networks trained at once; default: TRAIN_WORKERS, else 1; 0 for none"
    parser.add_argument("--train-workers", type=_number(0, 64), default=given.train_workers, help=train)
    kiosk = "serve only the kiosk, and start no worker: for a screen that visitors touch (docs/kiosk.md)"
    parser.add_argument("--kiosk", action="store_true", default=given.kiosk, help=kiosk)
    options = parser.parse_args(arguments)
    if options.kiosk and options.demo:
        parser.error("--kiosk needs networks that are there; start --demo without it first")
    return options


def all_programs(settings: Settings, options: argparse.Namespace) -> list[Program]:
    """Return the programs of this machine in the order of starting."""
    environment = {"DATA_DIR": str(settings.data_dir)}
    python = sys.executable

    def worker(name: str, queue: str) -> Program:
        return Program(name, (python, "-m", "jobs.worker", queue), environment)

    workers = [
        worker("record", "record"),
        *(worker(f"svd-{number}", "svd") for number in range(1, options.svd_workers + 1)),
        *(worker(f"train-{number}", "train") for number in range(1, options.train_workers + 1)),
    ]
    if options.kiosk:
        workers = []
    demo = (python, "-m", "dashboard.demo", "--images", str(options.demo))
    tasks = [Program("demo-data", demo, environment, task=True)] if options.demo else []
    return [*server_program(settings), dashboard_program(settings, options), *workers, *tasks]


def server_program(settings: Settings) -> list[Program]:
    """Return the embedded Valkey server, or nothing when the user named a server, which has to answer."""
    if settings.given_redis_url:
        try:
            ping(settings.given_redis_url)
        except QueueUnavailable as error:
            if "REDIS_URL" in str(error):  # the address itself is at fault
                raise
            raise LaunchError(f"{error} REDIS_URL is set: unset it to use the embedded server.") from error
        return []
    server = prepare_server(settings)
    return [
        Program(
            "valkey",
            server.command,
            before_start=lambda: prepare_server(settings),
            after_end=lambda: forget_server(settings),
            serves_others=True,
        )
    ]


def dashboard_program(settings: Settings, options: argparse.Namespace) -> Program:
    """Return Streamlit with `dashboard/server.py`; without a login it accepts this machine's names only."""
    command = [
        *(sys.executable, "-m", "streamlit", "run", "dashboard/server.py"),
        *("--server.address", options.host),
        *("--server.port", str(options.port)),
        *("--server.headless", "true"),
        *("--server.fileWatcherType", "none"),
        *("--browser.gatherUsageStats", "false"),
    ]
    if is_loopback(options.host) and not has_login():
        # Without it a page elsewhere could reach the dashboard through a host name that it points here (DNS rebinding).
        for name in dict.fromkeys(("localhost", "127.0.0.1", "::1", options.host)):
            command += ["--server.allowedHosts", name]
    environment = {"DATA_DIR": str(settings.data_dir), "KIOSK": "true" if options.kiosk else ""}
    return Program("dashboard", tuple(command), environment)


def run(settings: Settings, options: argparse.Namespace, programs: Sequence[Program], signals: Signals) -> int:
    """Start the programs, supervise them until a signal arrives, and stop them."""
    adopt_orphans()
    children = [Child(program, settings.logs) for program in programs]
    address = page_url(options.host, options.port)
    say(f"state in {settings.data_dir}, logs in {settings.logs}; Ctrl-C stops everything")
    if not is_loopback(options.host):
        say(f"listening on {options.host}: users sign in; without TLS in front, passwords can be read on their way")
    try:
        for child in children:
            if child.program.serves_others:
                start_server(child, settings)
        ready = False
        while not signals.received:
            for sentence in look_after(children, folder=ROOT):
                say(sentence)
            if not ready and answers(children, address):
                ready = True
                say(f"ready: {address}")
                if options.demo:
                    say(f"kiosk, once the demo's networks are trained and converted: {address}/kiosk")
                    say(f"guided tour: {address}/tour")
            time.sleep(PAUSE)
    finally:
        if signals.received:
            say("stopping")
        stop(children, in_a_hurry=signals.in_a_hurry)
        if not settings.given_redis_url:
            forget_server(settings)
    say("stopped")
    return 130 if signals.received[0] == signal.SIGINT else 0


def start_server(child: Child, settings: Settings) -> None:
    """Start the embedded server and wait for its first answer, because all others need it."""
    start(child, folder=ROOT)
    if child.process is None or settings.redis_url is None:
        raise LaunchError(f"the Valkey server left no address in {settings.redis_url_file}")
    try:
        wait_until_answering(settings, child.process)
    except QueueUnavailable as error:
        raise LaunchError(f"{error}; the end of {child.log}:\n{tail(child.log)}") from error


def check_data_dir(settings: Settings) -> list[str]:
    """Make the data folder, close it to other accounts, try to write there, and see that the disk has room.

    Return what `tighten` says.
    """
    folder = settings.data_dir
    try:
        private_folder(folder)
        opened = tighten(settings)
        private_folder(settings.logs)
        with tempfile.TemporaryFile(dir=folder) as probe:
            probe.write(b"\0" * 4096)
        free = shutil.disk_usage(folder).free
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise LaunchError(f"the disk of {folder} is full; free some space or set DATA_DIR elsewhere") from error
        raise LaunchError(
            f"the data folder {folder} cannot be written ({error.strerror or error}); "
            "set DATA_DIR to a folder that you may write to"
        ) from error
    if free < MINIMUM_FREE:
        raise LaunchError(
            f"expected at least {MINIMUM_FREE // 10**6} MB free on the disk of {folder}, found {free // 10**6} MB; "
            "free some space or set DATA_DIR elsewhere"
        )
    return opened


@contextlib.contextmanager
def only_launcher(settings: Settings) -> Iterator[None]:
    """Hold the data folder's launcher lock; a second launcher would run two writers of one database."""
    with os.fdopen(open_lock(settings.data_dir / "launcher.lock"), "r+") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            lock.seek(0)
            holder = lock.read().strip() or "unknown"
            raise LaunchError(
                f"it already runs on {settings.data_dir} (process {holder}); stop that one first, or set DATA_DIR"
            ) from None
        lock.truncate(0)
        lock.seek(0)
        lock.write(f"{os.getpid()}\n")
        lock.flush()
        yield
        lock.truncate(0)


def check_login(host: str) -> None:
    """Raise LaunchError for an address that other machines reach without a login, and for a contradictory login."""
    if (refusal := access().refusal(host)) and not has_login():
        raise LaunchError(refusal)


def has_login() -> bool:
    """Return whether users have to sign in."""
    if access().login is not Login.NONE:
        return True
    if not any((folder / ".streamlit" / "secrets.toml").is_file() for folder in (ROOT, Path.home())):
        return False
    from dashboard.access.users import oidc_configured  # imports Streamlit, which takes a second and much memory

    return oidc_configured()


def check_port(host: str, port: int, *, patience: float = 3.0) -> None:
    """Check that the dashboard's port is free; processes of a killed launcher may use it for a moment."""
    deadline = time.monotonic() + patience
    while True:
        try:
            family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
            with socket.socket(family, kind, protocol) as listener:
                listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                listener.bind(address)
                listener.listen(1)
            return
        except OSError as error:
            if error.errno == errno.EADDRINUSE:
                if time.monotonic() < deadline:
                    time.sleep(PAUSE)
                    continue
                other = port + 100 if port + 100 < 65536 else port - 100
                raise LaunchError(
                    f"port {port} on {host} is taken; stop what uses it, or choose another: PORT={other} make demo "
                    f"(python -m dashboard --port {other})"
                ) from error
            reason = "it may only be opened by root" if error.errno == errno.EACCES else error.strerror or str(error)
            raise LaunchError(f"nothing can listen on {host}:{port}: {reason}") from error


def answers(children: Sequence[Child], address: str) -> bool:
    """Return whether the dashboard's server and its page answer."""
    if not any(child.program.name == "dashboard" and child.running for child in children):
        return False
    try:
        for path in ("/_stcore/health", "/"):
            headers = {"Accept": "text/html"}
            answer = httpx.get(address + path, headers=headers, timeout=2, trust_env=False, follow_redirects=True)
            if answer.status_code != 200:
                return False
    except httpx.HTTPError:
        return False
    return True


def page_url(host: str, port: int) -> str:
    """Address of the page as this machine's browser reaches it."""
    host = {"0.0.0.0": "127.0.0.1", "::": "::1", "": "127.0.0.1"}.get(host, host)  # noqa: S104
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def say(sentence: str) -> None:
    """Print a sentence at once, also through a pipe; ignore a closed terminal."""
    logging.getLogger(__name__).info("%s", sentence)
    with contextlib.suppress(OSError):
        print(sentence, flush=True)


def _number(low: int, high: int) -> Callable[[str], int]:
    def read(text: str) -> int:
        if not (text.isascii() and text.isdigit() and low <= int(text) <= high):
            raise argparse.ArgumentTypeError(f"expected a whole number from {low} to {high}, got {text!r}")
        return int(text)

    return read


if __name__ == "__main__":
    sys.exit(main())
