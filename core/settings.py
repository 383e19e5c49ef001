"""Where DermSlim keeps its state and what it may read, taken once from the environment."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from urllib.parse import quote, urlsplit, urlunsplit

from core.errors import SpecError

DEFAULT_ROOTS = ("/data", "/mnt", "/media", "/srv")
DEFAULT_NICENESS = 10
DEFAULT_ARRAYS_GB = 50.0  # the 10,015 images of HAM10000 take 0.6 GB at 200×100


def usable_cores() -> int:
    """Return how many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@dataclass(frozen=True)
class Settings:
    """One process's configuration.

    data_dir: folder of all state (`DATA_DIR`, default `./data`).
    data_roots: folders that images may be read from (`DATA_ROOTS`, separated as in `PATH`). Default:
        `data_dir`, the home folder, the folder around the working directory, the folder for temporary
        files, and the usual mount points.
    data_roots_given: whether `DATA_ROOTS` was set, so that even the command line is confined.
    given_redis_url: `REDIS_URL`, with the password of `REDIS_PASSWORD_FILE` where that is set; None for the embedded
        server of `make up`.
    arrays_limit: bytes that the images kept as arrays may take (`ARRAYS_LIMIT_GB`, default 50).
    embedded_port: port of the loopback interface at which the embedded server listens (`EMBEDDED_REDIS_PORT`); None for
        a Unix socket, which no other account of the host reaches.
    worker_niceness: how far `train` workers stand back from the host's other work, as of the command `nice`
        (`WORKER_NICENESS`, 0 to 19, default 10); `svd` workers stand back half as far again, behind a training.
    webhook_url, webhook_events, webhook_secret: where to, about which ends (all by default), and signed with what a
        run's end is told (`WEBHOOK_URL`, `WEBHOOK_EVENTS`, `WEBHOOK_SECRET`); see `jobs.upkeep.webhooks`.
    dashboard_url: where people reach the dashboard (`DASHBOARD_URL`), for links to it.
    mapped_roots: (THERE, HERE) of each entry `THERE=HERE` of `DATA_ROOTS`: what records call THERE lies at HERE on this
        host. HERE is a data root too.
    """

    data_dir: Path
    data_roots: tuple[Path, ...]
    data_roots_given: bool = False
    given_redis_url: str | None = field(default=None, repr=False)
    arrays_limit: int = int(DEFAULT_ARRAYS_GB * 1e9)
    webhook_url: str | None = field(default=None, repr=False)
    webhook_events: tuple[str, ...] = ()
    webhook_secret: str | None = field(default=None, repr=False)
    dashboard_url: str | None = None
    mapped_roots: tuple[tuple[PurePosixPath, Path], ...] = ()
    worker_niceness: int = DEFAULT_NICENESS
    embedded_port: int | None = None

    @classmethod
    def from_environment(cls, environ: Mapping[str, str] | None = None) -> Settings:
        """Read the variables that the fields name; empty values count as unset. SpecError."""
        environ = os.environ if environ is None else environ
        data_dir = Path(environ.get("DATA_DIR") or "data").expanduser().resolve()
        given, mapped = _data_roots(environ.get("DATA_ROOTS", ""))
        roots = given or [
            Path.home(),
            Path.cwd().parent,
            Path(tempfile.gettempdir()),
            *(Path(root) for root in DEFAULT_ROOTS),
        ]
        unique = tuple(dict.fromkeys(root.resolve() for root in (data_dir, *roots)))
        return cls(
            data_dir,
            unique,
            bool(given),
            _redis_url(environ),
            _arrays_limit(environ),
            environ.get("WEBHOOK_URL") or None,
            tuple(part.strip() for part in environ.get("WEBHOOK_EVENTS", "").split(",") if part.strip()),
            environ.get("WEBHOOK_SECRET") or None,
            environ.get("DASHBOARD_URL") or None,
            mapped,
            _worker_niceness(environ),
            _embedded_port(environ),
        )

    def here(self, folder: Path) -> Path:
        """Return where this host has a folder or file that a record names; the same path where none is mapped."""
        for there, here in self.mapped_roots:
            if PurePosixPath(folder).is_relative_to(there):
                return here / PurePosixPath(folder).relative_to(there)
        return folder

    @property
    def database(self) -> Path:
        """The DuckDB file."""
        return self.data_dir / "dermslim.duckdb"

    @property
    def redis_url_file(self) -> Path:
        """Where `make up` leaves the address of its embedded server, readable by its owner only."""
        return self.data_dir / "valkey" / "url"

    @property
    def redis_url(self) -> str | None:
        """The server's URL: `REDIS_URL`, else the embedded server's, else None when none was started."""
        if self.given_redis_url:
            return self.given_redis_url
        try:
            return self.redis_url_file.read_text(encoding="utf-8").strip() or None
        except FileNotFoundError:
            return None

    @property
    def logs(self) -> Path:
        """Folder of the processes' log files."""
        return self.data_dir / "logs"

    @property
    def reconstructed(self) -> Path:
        """Folder that reconstructed data sets are written below."""
        return self.data_dir / "reconstructed"

    @property
    def trained(self) -> Path:
        """Folder of training runs: checkpoints while they train, weights afterwards; a folder a run."""
        return self.data_dir / "trained"

    @property
    def backups(self) -> Path:
        """Folder of backups that were given no other place."""
        return self.data_dir / "backups"

    @property
    def arrays(self) -> Path:
        """Folder of the data sets' images as arrays, which all trainings share."""
        return self.data_dir / "arrays"


def _data_roots(text: str) -> tuple[list[Path], tuple[tuple[PurePosixPath, Path], ...]]:
    """Return the folders of this host, and what is mapped to which of them, the longest path first."""
    roots: list[Path] = []
    mapped: dict[PurePosixPath, Path] = {}
    for entry in filter(None, text.split(os.pathsep)):
        there, mapping, here = entry.rpartition("=")
        if mapping:
            path = PurePosixPath(there)
            if not path.is_absolute() or ".." in path.parts or "=" in there or not here:
                raise SpecError(
                    "DATA_ROOTS: expected folders, or THERE=HERE with THERE the whole path that the dashboard's host"
                    f" uses, such as /data=/mnt/nas; got {entry}"
                )
            if path in mapped:
                raise SpecError(f"DATA_ROOTS: expected {path} to be mapped once; got it twice")
            mapped[path] = Path(here).expanduser().resolve()
        roots.append(Path(here).expanduser().resolve())
    return roots, tuple(sorted(mapped.items(), key=lambda pair: len(pair[0].parts), reverse=True))


def _redis_url(environ: Mapping[str, str]) -> str | None:
    url, file = environ.get("REDIS_URL") or None, environ.get("REDIS_PASSWORD_FILE") or None
    if url is None or file is None:
        return url
    try:
        parts = urlsplit(url)
    except ValueError:  # the reason may repeat a password that stands in it
        raise SpecError("REDIS_URL: expected a Redis URL such as redis://user@host:6379/0; it cannot be read") from None
    user, _, place = parts.netloc.rpartition("@")
    if ":" in user:
        raise SpecError("REDIS_PASSWORD_FILE: expected no password in REDIS_URL beside it; got one in each")
    try:
        password = Path(file).expanduser().read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is no text"
        raise SpecError(f"REDIS_PASSWORD_FILE: expected a file with the password; {file}: {reason}") from error
    if not password:
        raise SpecError(f"REDIS_PASSWORD_FILE: expected a file with the password; {file} is empty")
    return urlunsplit(parts._replace(netloc=f"{user}:{quote(password, safe='')}@{place}"))


def _embedded_port(environ: Mapping[str, str]) -> int | None:
    text = environ.get("EMBEDDED_REDIS_PORT") or None
    if text is None:
        return None
    if not text.isascii() or not text.isdecimal() or not 0 < int(text[:6]) < 65536:
        raise SpecError(f"EMBEDDED_REDIS_PORT: expected a whole number of 1 to 65535; got {text}")
    return int(text)


def _worker_niceness(environ: Mapping[str, str]) -> int:
    text = environ.get("WORKER_NICENESS") or str(DEFAULT_NICENESS)
    if not text.isdecimal() or int(text) > 19:
        raise SpecError(f"WORKER_NICENESS: expected a whole number of 0 to 19; got {text}")
    return int(text)


def _arrays_limit(environ: Mapping[str, str]) -> int:
    text = environ.get("ARRAYS_LIMIT_GB") or str(DEFAULT_ARRAYS_GB)
    try:
        limit = float(text)
    except ValueError:
        limit = -1.0
    if not 0 <= limit < float("inf"):
        raise SpecError(f"ARRAYS_LIMIT_GB: expected a number of gigabytes such as 50; got {text}")
    return int(limit * 1e9)
