"""Backup and restore: store, queue, own networks, and if asked weights and reconstructions, in one file.

A backup is taken while everything runs. For a moment the record worker may not write: the store's file is copied and
the queue is read in that moment, so that whatever the store does not have yet lies among the queue's records.
"""

from __future__ import annotations

import argparse
import contextlib
import fcntl
import hashlib
import json
import os
import shutil
import socket
import sys
import tarfile
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path, PurePosixPath
from typing import IO, Any, BinaryIO, cast

import pyarrow as pa
import redis

from core import store_upkeep
from core.errors import DermSlimError, QueueUnavailable
from core.network_files import FOLDER
from core.private import open_lock, private_files, private_folder, private_opener
from core.settings import Settings
from core.store import Store
from core.store_file import VERSION
from jobs import queue_copy
from jobs.connection import Connection, connect
from jobs.environment import code_revision, versions
from jobs.queues import Queues
from jobs.server import running_server

FORMAT = 1
MANIFEST, STORE, QUEUE = "manifest.json", "store/dermslim.duckdb", "queue.jsonl"
NETWORKS, TRAINED, RECONSTRUCTED = "networks", "trained", "reconstructed"
SUFFIXES = (".tar", ".tar.gz", ".tar.zst")
BLOCK = 1 << 20  # bytes read at a time
NOTE = "last-backup.json"  # in DATA_DIR: when the last one was made, and where
PATIENCE = 60.0  # seconds that a backup waits for the record worker's transaction
RUNNING = {"launcher.lock": "`make up`, or the launcher", "record-worker.lock": "a record worker"}


class BackupError(DermSlimError):
    """A backup cannot be made, or isn't one."""


@dataclass(frozen=True)
class Manifest:
    """What a backup holds. files: size and SHA-256 by name. rows: of the store, by table. keys: of the queue."""

    made_at: str
    host: str
    data_dir: str
    schema_version: int
    server: str | None
    code_revision: str | None
    versions: dict[str, str]
    held_seconds: float
    rows: dict[str, int]
    keys: int | None
    files: dict[str, dict[str, Any]] = field(default_factory=dict)
    format: int = FORMAT


# -- backup ------------------------------------------------------------------------------------------------------------


def default_path(settings: Settings, now: datetime | None = None) -> Path:
    """Return where a backup goes that is given no place: a name with the time, below DATA_DIR/backups."""
    return settings.backups / f"dermslim-{now or datetime.now(UTC):%Y%m%d-%H%M%S}.tar.zst"


def back_up(
    settings: Settings, path: Path, *, queue: bool = True, weights: bool = False, reconstructed: bool = False
) -> Manifest:
    """Write a backup while everything runs, and verify the store's copy by opening it.

    queue: whether the queue is in it. weights: the trained networks. reconstructed: the reconstructed data sets'
    images. BackupError, StoreBusy, QueueUnavailable, OSError; the file appears only once it is whole.
    """
    _suffix(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.exists():
        raise BackupError(f"expected a new file; {path} exists")
    if not settings.database.exists():
        raise BackupError(f"expected a store at {settings.database}; there is none, so there is nothing to back up")
    with tempfile.TemporaryDirectory(prefix=".backup-", dir=path.parent) as folder:
        staging = Path(folder)
        manifest = _copy_consistently(settings, staging, queue)
        half = staging / "whole"
        with _compressed(half, _suffix(path)) as stream, tarfile.open(fileobj=stream, mode="w|") as archive:
            for name, source in _parts(settings, staging, weights, reconstructed):
                manifest.files[name] = _add(archive, name, source)
            text = json.dumps(vars(manifest), indent=1).encode()
            _add_bytes(archive, MANIFEST, text)
        half.chmod(0o600)
        with half.open("rb") as written:
            os.fsync(written.fileno())
        half.replace(path)
    note = {"made_at": manifest.made_at, "file": str(path.resolve()), "bytes": path.stat().st_size}
    with open(settings.data_dir / NOTE, "w", encoding="utf-8", opener=private_opener) as stream:
        json.dump(note, stream)
    return manifest


def _copy_consistently(settings: Settings, staging: Path, with_queue: bool) -> Manifest:
    store = Store(settings.database, timeout=PATIENCE)
    copy = Store(staging / "dermslim.duckdb")
    rows, server = None, None
    with _server(settings, with_queue) as connection, store_upkeep.held_still(store):
        began = time.monotonic()
        store_upkeep.copy_held(store, copy.path)
        if connection is not None:
            rows = queue_copy.snapshot(connection)
        held = time.monotonic() - began
        server = None if connection is None else str(connection.info("server")["redis_version"])
    store_upkeep.settled(copy)
    counts = store_upkeep.row_counts(copy)
    if rows is not None:
        with (staging / QUEUE).open("wb") as stream:
            queue_copy.write_queue(rows, stream)
    return Manifest(
        made_at=datetime.now(UTC).isoformat(),
        host=socket.gethostname(),
        data_dir=str(settings.data_dir),
        schema_version=VERSION,
        server=server,
        code_revision=code_revision(),
        versions=json.loads(versions()),
        held_seconds=round(held, 3),
        rows=counts,
        keys=None if rows is None else len(rows),
    )


@contextlib.contextmanager
def _server(settings: Settings, wanted: bool) -> Iterator[Connection | None]:
    if not wanted:
        yield None
        return
    connection = connect(settings)
    try:
        connection.ping()
        yield connection
    except redis.RedisError as error:
        raise QueueUnavailable(
            f"expected the Redis server to answer; {str(error).rstrip('.')}. --without-queue leaves the queue out"
        ) from error
    finally:
        connection.close()


def _parts(settings: Settings, staging: Path, weights: bool, reconstructed: bool) -> Iterator[tuple[str, Path]]:
    yield STORE, staging / "dermslim.duckdb"
    if (staging / QUEUE).exists():
        yield QUEUE, staging / QUEUE
    yield from _below(NETWORKS, settings.data_dir / FOLDER, "*")
    if weights:
        for pattern in ("*/about.json", "*/*.keras"):
            yield from _below(TRAINED, settings.trained, pattern)
    if reconstructed:
        yield from _below(RECONSTRUCTED, settings.reconstructed, "**/*")


def _below(part: str, folder: Path, pattern: str) -> Iterator[tuple[str, Path]]:
    for path in sorted(folder.glob(pattern)):
        if path.is_file() and not path.is_symlink():
            yield f"{part}/{path.relative_to(folder).as_posix()}", path


class _Hashed:
    """A file that notes the SHA-256 of what is read from it."""

    def __init__(self, stream: BinaryIO) -> None:
        self.stream, self.digest = stream, hashlib.sha256()

    def read(self, size: int = -1) -> bytes:
        block = self.stream.read(size)
        self.digest.update(block)
        return block


def _add(archive: tarfile.TarFile, name: str, path: Path) -> dict[str, Any]:
    with path.open("rb") as stream:  # a file that is replaced meanwhile stays whole here
        facts = os.fstat(stream.fileno())
        member = tarfile.TarInfo(name)
        member.size, member.mtime, member.mode = facts.st_size, int(facts.st_mtime), 0o600
        hashed = _Hashed(stream)
        archive.addfile(member, cast(BinaryIO, hashed))
    return {"bytes": facts.st_size, "sha256": hashed.digest.hexdigest()}


def _add_bytes(archive: tarfile.TarFile, name: str, content: bytes) -> None:
    member = tarfile.TarInfo(name)
    member.size, member.mtime, member.mode = len(content), int(time.time()), 0o600
    with tempfile.TemporaryFile() as stream:
        stream.write(content)
        stream.seek(0)
        archive.addfile(member, stream)


def _suffix(path: Path) -> str:
    for suffix in SUFFIXES:
        if path.name.endswith(suffix):
            return suffix
    raise BackupError(f"expected a name that ends in {', '.join(SUFFIXES)}; got {path.name}")


def _compressed(path: Path, suffix: str) -> Any:
    return pa.output_stream(str(path), compression={".tar.gz": "gzip", ".tar.zst": "zstd"}.get(suffix))


def _decompressed(path: Path, suffix: str) -> Any:
    return pa.input_stream(str(path), compression={".tar.gz": "gzip", ".tar.zst": "zstd"}.get(suffix))


def last_backup(settings: Settings) -> dict[str, Any] | None:
    """Return `made_at` (a moment), `file` and `bytes` of the last backup made of this DATA_DIR, or None."""
    try:
        note = json.loads((settings.data_dir / NOTE).read_text(encoding="utf-8"))
        return {**note, "made_at": datetime.fromisoformat(note["made_at"])}
    except (FileNotFoundError, ValueError, KeyError):
        return None


# -- restore -----------------------------------------------------------------------------------------------------------


def restore(settings: Settings, path: Path, *, force: bool = False, queue: bool = True) -> Manifest:
    """Put a backup in `settings.data_dir` and its server, after checking every file's hash.

    Where `settings` names no server, the embedded one is started for as long as it takes. force: replace a store and
    a queue that are there. queue: whether the queue is put back too. BackupError while anything runs there.
    """
    target = settings.data_dir
    private_folder(target)
    with _nothing_runs(target), tempfile.TemporaryDirectory(prefix=".restore-", dir=target) as folder:
        staging = Path(folder)
        manifest = unpack(path, staging)
        if settings.database.exists() and not force:
            raise BackupError(f"expected no store at {settings.database}; there is one. --force replaces it")
        store = Store(staging / STORE)
        store.migrate()
        with_queue = queue and (staging / QUEUE).exists()
        with _target_server(settings, with_queue, force) as connection:
            for part, place in (
                (NETWORKS, target / FOLDER),
                (TRAINED, settings.trained),
                (RECONSTRUCTED, settings.reconstructed),
            ):
                if (staging / part).exists():
                    shutil.copytree(staging / part, place, dirs_exist_ok=True)
            moved = _moved(Path(manifest.data_dir), target)
            store_upkeep.move_folders(store, moved)
            if connection is not None:
                queue_copy.clear(connection)
                queue_copy.put_back(connection, queue_copy.read_queue(staging / QUEUE))
                queue_copy.take_up(connection, lambda folder: str(moved(Path(folder))))
            store_upkeep.replace_store(store.path, settings.database)  # last: a restore that broke off can be repeated
    return manifest


def unpack(path: Path, staging: Path) -> Manifest:
    """Unpack a backup into an empty folder and check that each file is what the manifest says. BackupError."""
    found: dict[str, dict[str, Any]] = {}
    try:
        with _decompressed(path, _suffix(path)) as stream, tarfile.open(fileobj=stream, mode="r|") as archive:
            for member in archive:
                content = archive.extractfile(member) if member.isfile() else None
                if content is None or not _is_ours(member.name):
                    raise BackupError(f"expected files of a backup; got {member.name}")
                found[member.name] = _write(content, staging / member.name)
    except (tarfile.TarError, OSError, pa.ArrowException) as error:
        raise BackupError(f"expected a whole backup; {path} cannot be read: {error}") from error
    if MANIFEST not in found:
        raise BackupError(f"expected a backup with its manifest; {path} has none, or ends before it")
    values = json.loads((staging / MANIFEST).read_text(encoding="utf-8"))
    if values.get("format") != FORMAT:
        raise BackupError(f"expected a backup of format {FORMAT}; got {values.get('format')}")
    if values["schema_version"] > VERSION:
        raise BackupError(
            f"expected a store of version {VERSION} or older; the backup has version {values['schema_version']}"
        )
    del found[MANIFEST]
    if found != values["files"]:
        wanted = values["files"]
        differing = sorted(name for name in found.keys() | wanted.keys() if found.get(name) != wanted.get(name))
        raise BackupError(f"expected every file as it was backed up; not so: {', '.join(differing)}")
    return Manifest(**values)


def _is_ours(name: str) -> bool:
    path = PurePosixPath(name)
    inside = not path.is_absolute() and ".." not in path.parts
    return name in (MANIFEST, STORE, QUEUE) or (inside and path.parts[0] in (NETWORKS, TRAINED, RECONSTRUCTED))


def _write(content: IO[bytes], path: Path) -> dict[str, Any]:
    path.parent.mkdir(parents=True, exist_ok=True)
    digest, size = hashlib.sha256(), 0
    with path.open("wb") as stream:
        while block := content.read(BLOCK):
            stream.write(block)
            digest.update(block)
            size += len(block)
    return {"bytes": size, "sha256": digest.hexdigest()}


@contextlib.contextmanager
def _nothing_runs(data_dir: Path) -> Iterator[None]:
    """Hold the locks of the launcher and the record worker, so that neither runs nor starts meanwhile."""
    with contextlib.ExitStack() as stack:
        for name, holder in RUNNING.items():
            lock = stack.enter_context(os.fdopen(open_lock(data_dir / name), "r+"))
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise BackupError(f"expected nothing to run on {data_dir}; {holder} does. Stop it first") from None
        yield


@contextlib.contextmanager
def _target_server(settings: Settings, wanted: bool, force: bool) -> Iterator[Connection | None]:
    if not wanted:
        yield None
        return
    with contextlib.ExitStack() as stack:
        if settings.given_redis_url is None:
            stack.enter_context(running_server(settings))
        connection = stack.enter_context(contextlib.closing(connect(settings)))
        queues = Queues(settings, connection)
        if alive := queues.workers():
            raise BackupError(f"expected no worker on the target's queue; {alive[0].name} is there. Stop them first")
        if (keys := queue_copy.our_keys(connection)) and not force:
            raise BackupError(
                f"expected an empty queue; the target's server holds {len(keys)} keys such as {keys[0]}. "
                "--force replaces them, --without-queue leaves them"
            )
        try:
            yield connection
        except redis.RedisError as error:
            raise QueueUnavailable(f"expected the Redis server to take the queue; {error}") from error


def _moved(old: Path, new: Path) -> Callable[[Path], Path]:
    """Give the function from a path below the old DATA_DIR to the new one's, where the new one has it."""

    def moved(path: Path) -> Path:
        if old == new or not path.is_relative_to(old):
            return path
        there = new / path.relative_to(old)
        return there if there.exists() or not path.exists() else path

    return moved


# -- command line ------------------------------------------------------------------------------------------------------


def add_commands(commands: Any, command: Callable[..., argparse.ArgumentParser]) -> None:
    """Add `backup` and `restore`; command: adds one."""
    text = "write store, queue and networks to one file while everything runs"
    making = command(commands, "backup", text, act_backup)
    named = f"ends in {', '.join(SUFFIXES)} (default: a new one in DATA_DIR/backups)"
    making.add_argument("file", metavar="FILE", type=Path, nargs="?", help=named)
    making.add_argument("--weights", action="store_true", help="the trained networks too")
    making.add_argument("--reconstructed", action="store_true", help="the reconstructed data sets' images too")
    making.add_argument("--without-queue", action="store_true", help="not what waits and runs")
    putting = command(commands, "restore", "put a backup into a data folder on which nothing runs", act_restore)
    putting.add_argument("file", metavar="FILE", type=Path, help="what `backup` wrote")
    putting.add_argument("--into", metavar="FOLDER", type=Path, help="the data folder (default: DATA_DIR)")
    putting.add_argument("--force", action="store_true", help="replace the store and the queue that are there")
    putting.add_argument("--without-queue", action="store_true", help="the store and folders alone")


def act_backup(options: argparse.Namespace) -> int:
    """Write a backup and say what is in it."""
    settings = Settings.from_environment()
    path = options.file or private_folder(settings.backups) / default_path(settings).name
    manifest = back_up(
        settings,
        path,
        queue=not options.without_queue,
        weights=options.weights,
        reconstructed=options.reconstructed,
    )
    print(path)
    print(
        f"{path.stat().st_size / 1e6:,.1f} MB; {summary(manifest)}; the record worker waited "
        f"{manifest.held_seconds:.2f} s",
        file=sys.stderr,
    )
    return 0


def act_restore(options: argparse.Namespace) -> int:
    """Restore a backup and say what came back."""
    settings = Settings.from_environment()
    if options.into:
        settings = replace(settings, data_dir=options.into.expanduser().resolve())
    with private_files():
        manifest = restore(settings, options.file, force=options.force, queue=not options.without_queue)
    print(f"{settings.data_dir}: {summary(manifest)}, as of {manifest.made_at}")
    return 0


def summary(manifest: Manifest) -> str:
    """Return in a few words what a backup holds."""
    rows = f"{sum(manifest.rows.values()):,} rows of {manifest.rows.get('runs', 0):,} runs"
    keys = "no queue" if manifest.keys is None else f"the queue's {manifest.keys:,} keys"
    other = len([name for name in manifest.files if name not in (STORE, QUEUE)])
    return f"{rows}, {keys}, {other:,} other files"
