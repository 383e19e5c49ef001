"""The environment variables of DermSlim, each declared once, and the settings of a process from them."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Annotated, Literal
from urllib.parse import quote, urlsplit, urlunsplit

from dotenv import dotenv_values
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from core.errors import SpecError
from core.specs import expectation

DEFAULT_ROOTS = ("/data", "/mnt", "/media", "/srv")
ENV_FILE = os.environ.get("DERMSLIM_ENV_FILE", ".env")  # in the working folder; empty for none


def usable_cores() -> int:
    """Return how many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _names(text: object) -> object:
    return tuple(part.strip() for part in text.split(",") if part.strip()) if isinstance(text, str) else text


Names = Annotated[tuple[str, ...], BeforeValidator(_names)]  # separated by commas
Folder = Annotated[Path, BeforeValidator(lambda text: Path(text).expanduser())]


class Variables(BaseModel):
    """The variables of the environment, which a file `.env` in the working folder may set instead.

    The variable DATA_DIR sets the field data_dir, and so on; an empty value counts as unset. Fields that `repr` leaves
    out are secrets, or may hold one.
    """

    model_config = ConfigDict(frozen=True, extra="ignore")

    data_dir: Folder = Field(default=Path("data"), description="Folder of all state: database, queue, logs, weights.")
    data_roots: str = Field(
        default="",
        description="Folders that images may be read from, separated as in PATH. `THERE=HERE` maps the folder THERE of"
        f" the dashboard's host to HERE. Default: the usual places, such as the home folder and {DEFAULT_ROOTS[0]}.",
    )
    redis_url: str | None = Field(default=None, repr=False, description="Address of your own Redis or Valkey server.")
    redis_password_file: Folder | None = Field(default=None, description="File with the password of that server.")
    embedded_redis_port: int | None = Field(
        default=None, ge=1, le=65535, description="Port of 127.0.0.1 of the embedded server, in place of a Unix socket."
    )
    svd_workers: int = Field(
        default_factory=usable_cores,
        ge=0,
        le=1024,
        description="Number of `svd` workers. Default: one per usable core.",
    )
    train_workers: int = Field(
        default=1, ge=0, le=64, description="Number of `train` workers: networks trained at once."
    )
    worker_niceness: int = Field(
        default=10,
        ge=0,
        le=19,
        description="Nice level of `train` workers; that of `svd` workers is half as much again.",
    )
    arrays_limit_gb: float = Field(
        default=50,  # the 10,015 images of HAM10000 take 0.6 GB at 200×100
        ge=0,
        allow_inf_nan=False,
        title="a number of gigabytes such as 50",
        description="Disk space for resized images; the least recently used ones are deleted first.",
    )
    port: int = Field(default=8501, ge=1, le=65535, description="The dashboard's port.")
    dashboard_password: str | None = Field(
        default=None, repr=False, description="The dashboard's password, or its hash."
    )
    dashboard_password_file: Folder | None = Field(default=None, description="File with that password or its hash.")
    dashboard_users: Names = Field(
        default=(), description="With OpenID Connect: addresses and @domains that may sign in."
    )
    dashboard_url: str | None = Field(default=None, description="Address at which users open the dashboard.")
    forwarded_allow_ips: str | None = Field(default=None, description="Proxies whose X-Forwarded headers are trusted.")
    metrics_token: str | None = Field(default=None, repr=False, description="Token that Prometheus sends to /metrics.")
    webhook_url: str | None = Field(
        default=None, repr=False, description="Address that gets a message when a run ends."
    )
    webhook_events: Names = Field(
        default=(), description="Ends that it gets: finished, failed, cancelled. Default: all."
    )
    webhook_secret: str | None = Field(default=None, repr=False, description="Key that signs the message.")
    kiosk: bool = Field(
        default=False,
        title="true or false",
        description="Whether the dashboard serves the kiosk alone, as `--kiosk` does.",
    )
    kiosk_keep: bool = Field(
        default=False,
        title="true or false",
        description="Whether the kiosk keeps photographs and answers in DATA_DIR/kiosk.",
    )
    log_format: Literal["text", "json"] = Field(
        default="text", title="text or json", description="Format of the lines on standard error."
    )

    def given(self) -> dict[str, str]:
        """Return the variables that are set, by name."""
        return {name.upper(): str(value) for name, value in self if name in self.model_fields_set}


def variables(environ: Mapping[str, str] | None = None) -> Variables:
    """Read the environment and `.env`, or only what is given. Raises SpecError with one line without secrets."""
    try:
        sources = (dotenv_values(ENV_FILE) if ENV_FILE else {}, os.environ) if environ is None else (environ,)
        return Variables.model_validate(
            {name.lower(): value for source in sources for name, value in source.items() if value}
        )
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        name = str(first["loc"][0])
        about = Variables.model_fields[name]
        got = first["input"] if about.repr else "another value"
        expected = about.title or expectation(about.annotation, about.metadata)
        raise SpecError(f"Expected {name.upper()} to be {expected}, got {got}.") from None
    except (OSError, UnicodeDecodeError) as error:
        raise SpecError(f"Expected to read {Path(ENV_FILE).resolve()}, got: {error}.") from error


def described() -> Iterator[tuple[str, str, str]]:
    """Yield each variable's name, default ("" for none) and description, for the documentation."""
    for name, about in Variables.model_fields.items():
        default = "" if about.default_factory or about.default in (None, ()) else str(about.default)
        yield name.upper(), default, about.description or ""


AS_GIVEN = (
    "webhook_url",
    "webhook_events",
    "webhook_secret",
    "dashboard_url",
    "worker_niceness",
    "kiosk",
    "kiosk_keep",
)


@dataclass(frozen=True)
class Settings:
    """One process's configuration.

    data_dir and the fields of `AS_GIVEN`: see `Variables`.
    data_roots: folders that images may be read from, data_dir among them.
    data_roots_given: whether `DATA_ROOTS` was set, so that even the command line is confined.
    given_redis_url: `REDIS_URL`, with the password of `REDIS_PASSWORD_FILE` where that is set; None for the embedded
        server of `make up`.
    arrays_limit: bytes that the images kept as arrays may take.
    mapped_roots: (THERE, HERE) of each entry `THERE=HERE` of `DATA_ROOTS`: what records call THERE lies at HERE on this
        host. HERE is a data root too.
    embedded_port: port of the loopback interface at which the embedded server listens; None for a Unix socket.
    """

    data_dir: Path
    data_roots: tuple[Path, ...]
    data_roots_given: bool = False
    given_redis_url: str | None = field(default=None, repr=False)
    arrays_limit: int = int(Variables().arrays_limit_gb * 1e9)
    webhook_url: str | None = field(default=None, repr=False)
    webhook_events: tuple[str, ...] = ()
    webhook_secret: str | None = field(default=None, repr=False)
    dashboard_url: str | None = None
    mapped_roots: tuple[tuple[PurePosixPath, Path], ...] = ()
    worker_niceness: int = Variables().worker_niceness
    embedded_port: int | None = None
    kiosk: bool = False
    kiosk_keep: bool = False

    @classmethod
    def from_environment(cls, environ: Mapping[str, str] | None = None) -> Settings:
        """Return the settings of the environment and `.env`, or of `environ` alone. Raises SpecError."""
        given = variables(environ)
        data_dir = given.data_dir.resolve()
        roots, mapped = _data_roots(given.data_roots)
        default = [Path.home(), Path.cwd().parent, Path(tempfile.gettempdir()), *map(Path, DEFAULT_ROOTS)]
        return cls(
            data_dir,
            data_roots=tuple(dict.fromkeys(root.resolve() for root in (data_dir, *(roots or default)))),
            data_roots_given=bool(roots),
            mapped_roots=mapped,
            given_redis_url=_redis_url(given),
            embedded_port=given.embedded_redis_port,
            arrays_limit=int(given.arrays_limit_gb * 1e9),
            **{name: value for name, value in given if name in AS_GIVEN},
        )

    def here(self, folder: Path) -> Path:
        """Return the path on this host of a recorded folder or file; the same path where no mapping applies."""
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
        """The file with the address of the embedded server of `make up`, readable by its owner only."""
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
        """Folder of training runs, one folder per run: checkpoints during training, weights afterwards."""
        return self.data_dir / "trained"

    @property
    def backups(self) -> Path:
        """Default folder of backups."""
        return self.data_dir / "backups"

    @property
    def arrays(self) -> Path:
        """Folder of the data sets' images as arrays, which all trainings share."""
        return self.data_dir / "arrays"


def _data_roots(text: str) -> tuple[list[Path], tuple[tuple[PurePosixPath, Path], ...]]:
    """Return the folders of this host, and the pairs (THERE, HERE) of the mappings, the longest path first."""
    roots: list[Path] = []
    mapped: dict[PurePosixPath, Path] = {}
    for entry in filter(None, text.split(os.pathsep)):
        there, mapping, here = entry.rpartition("=")
        if mapping:
            path = PurePosixPath(there)
            if not path.is_absolute() or ".." in path.parts or "=" in there or not here:
                raise SpecError(
                    "Expected DATA_ROOTS to be folders, or THERE=HERE with THERE the whole path that the dashboard's"
                    f" host uses, such as /data=/mnt/nas, got {entry}."
                )
            if path in mapped:
                raise SpecError(f"Expected DATA_ROOTS to map {path} once, got it twice.")
            mapped[path] = Path(here).expanduser().resolve()
        roots.append(Path(here).expanduser().resolve())
    return roots, tuple(sorted(mapped.items(), key=lambda pair: len(pair[0].parts), reverse=True))


def _redis_url(given: Variables) -> str | None:
    url, file = given.redis_url, given.redis_password_file
    if url is None or file is None:
        return url
    try:
        parts = urlsplit(url)
    except ValueError:  # the reason may contain the password of the URL
        raise SpecError(
            "Expected REDIS_URL to be a URL such as redis://user@host:6379/0, got one that cannot be read."
        ) from None
    user, _, place = parts.netloc.rpartition("@")
    if ":" in user:
        raise SpecError("Expected no password in REDIS_URL beside REDIS_PASSWORD_FILE, got one in each.")
    try:
        password = file.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is no text"
        raise SpecError(
            f"Expected REDIS_PASSWORD_FILE to be a file with the password, got {file}: {reason}."
        ) from error
    if not password:
        raise SpecError(f"Expected REDIS_PASSWORD_FILE to be a file with the password, got {file}, which is empty.")
    return urlunsplit(parts._replace(netloc=f"{user}:{quote(password, safe='')}@{place}"))
