"""Backup and restore: store, queue, own networks, and if asked weights and reconstructions, in one file.

A backup is taken while everything runs, or while nothing does. For a moment the record worker may not write: the
store's file is copied and the queue is read in that moment, so that whatever the store does not have yet lies among the
queue's records.
"""

from __future__ import annotations

import argparse
import contextlib
import fcntl
import json
import os
import shutil
import socket
import sys
import tarfile
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import redis

from core.errors import QueueUnavailable, StoreError
from core.files.private import open_lock, private_files, private_folder, private_opener
from core.networks.network_files import FOLDER
from core.settings import Settings
from core.store import check as store_check
from core.store import upkeep as store_upkeep
from core.store.file import RESTORE
from core.store.measurements import Store
from core.store.migrations import VERSION
from jobs.connection import Connection, connect
from jobs.provenance import code_revision, versions
from jobs.queues import Queues
from jobs.server import running_server, share_program
from jobs.upkeep import queue_copy
from jobs.upkeep.archive import (
    MANIFEST,
    NETWORKS,
    QUEUE,
    RECONSTRUCTED,
    STORE,
    SUFFIXES,
    TRAINED,
    BackupError,
    Manifest,
    add,
    add_bytes,
    compressed,
    suffix_of,
    unpack,
)
from jobs.upkeep.retention import held

NOTE = "last-backup.json"  # in DATA_DIR: when the last one was made, and where
PATIENCE = 60.0  # seconds that a backup waits for the record worker's transaction
RUNNING = {"launcher.lock": "`make up`, or the launcher", "record-worker.lock": "a record worker"}


# -- backup ------------------------------------------------------------------------------------------------------------


def default_path(settings: Settings, now: datetime | None = None) -> Path:
    """Return where a backup goes that is given no place: a name with the time, below DATA_DIR/backups."""
    return settings.backups / f"dermslim-{now or datetime.now(UTC):%Y%m%d-%H%M%S}.tar.zst"


def back_up(
    settings: Settings, path: Path, *, queue: bool = True, weights: bool = False, reconstructed: bool = False
) -> Manifest:
    """Write a backup, and verify the store's copy by reading every column of every row.

    queue: whether the queue is in it; where nothing runs the embedded server is started for as long as it takes, and
    where there never was one the queue is left out. weights: the trained networks. reconstructed: the reconstructed
    data sets' images. BackupError, StoreBusy, StoreDamaged, QueueUnavailable, OSError; the file appears only once it is
    whole.
    """
    suffix_of(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.exists():
        raise BackupError(f"expected a new file; {path} exists")
    if not settings.database.exists():
        raise BackupError(f"expected a store at {settings.database}; there is none, so there is nothing to back up")
    with tempfile.TemporaryDirectory(prefix=".backup-", dir=path.parent) as folder:
        staging = Path(folder)
        manifest = _copy_consistently(settings, staging, queue)
        half = staging / "whole"
        with compressed(half, suffix_of(path)) as stream, tarfile.open(fileobj=stream, mode="w|") as archive:
            for name, source in _parts(settings, staging, weights, reconstructed):
                manifest.files[name] = add(archive, name, source)
            text = json.dumps(vars(manifest), indent=1).encode()
            add_bytes(archive, MANIFEST, text)
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
    counts = _read_in_full(copy.path, settings.database)
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


def _read_in_full(copy: Path, store: Path) -> dict[str, int]:
    try:
        return store_check.checked(copy, settle=True)
    except StoreError as error:  # of the copy, which nobody else will see
        raise type(error)(str(error).replace(str(copy.resolve()), str(store))) from error


@contextlib.contextmanager
def _server(settings: Settings, wanted: bool) -> Iterator[Connection | None]:
    with contextlib.ExitStack() as stack:
        if not wanted or (_stopped(settings) and not stack.enter_context(_started(settings))):
            yield None
            return
        connection = stack.enter_context(contextlib.closing(connect(settings)))
        try:
            connection.ping()
            yield connection
        except redis.RedisError as error:
            raise QueueUnavailable(
                f"expected the Redis server to answer; {str(error).rstrip('.')}. --without-queue leaves the queue out"
            ) from error


def _stopped(settings: Settings) -> bool:
    """Return whether the server is the embedded one, and does not run."""
    if settings.given_redis_url is not None:
        return False
    try:
        with contextlib.closing(connect(settings)) as connection:
            connection.ping()
    except (QueueUnavailable, redis.RedisError):
        return True
    return False


@contextlib.contextmanager
def _started(settings: Settings) -> Iterator[bool]:
    """Run the embedded server, so that the queue that it keeps in its file can be read; False where it has none."""
    try:
        with _nothing_runs(settings.data_dir):
            if not (settings.redis_url_file.parent / "appendonlydir").is_dir():
                yield False
                return
            with running_server(settings):
                yield True
    except BackupError as error:
        raise QueueUnavailable(
            f"expected the embedded server to answer, or {error}. --without-queue leaves the queue out"
        ) from error


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


def last_backup(settings: Settings) -> dict[str, Any] | None:
    """Return `made_at` (a moment), `file` and `bytes` of the last backup made of this DATA_DIR, or None."""
    try:
        note = json.loads((settings.data_dir / NOTE).read_text(encoding="utf-8"))
        return {**note, "made_at": datetime.fromisoformat(note["made_at"])}
    except (FileNotFoundError, ValueError, KeyError):
        return None


# -- restore -----------------------------------------------------------------------------------------------------------


def restore(settings: Settings, path: Path, *, force: bool = False, queue: bool = True) -> Manifest:
    """Put a backup in `settings.data_dir` and its server, after reading all of it.

    Where `settings` names no server, the embedded one is started for as long as it takes. force: replace a store and
    a queue that are there. queue: whether the queue is put back too. BackupError while anything runs there, and where
    the file is not a whole backup: then nothing has changed.
    """
    target = settings.data_dir
    if target.exists():
        _check_nothing_runs(target)
        _check_no_store(settings, force)
        return _restore(settings, path, force, queue)
    made = [folder for folder in (target, *target.parents) if not folder.exists()]
    try:
        return _restore(settings, path, force, queue)
    except BaseException:
        shutil.rmtree(made[-1], ignore_errors=True)
        raise


def _restore(settings: Settings, path: Path, force: bool, queue: bool) -> Manifest:
    target = settings.data_dir
    private_folder(target)
    with tempfile.TemporaryDirectory(prefix=".restore-", dir=target) as folder:
        staging = Path(folder)
        manifest = unpack(path, staging)
        store = Store(staging / STORE)
        _check_store(path, store.path, manifest)
        files = list(_destinations(settings, staging))
        with _nothing_runs(target):
            _check_no_store(settings, force)
            with _target_server(settings, queue and (staging / QUEUE).exists(), force) as connection:
                for source, place in files:
                    private_folder(place.parent)
                    shutil.move(source, place)
                moved = _moved(Path(manifest.data_dir), target)
                store_upkeep.move_folders(store, moved)
                with queue_copy.replaced(connection, staging / QUEUE, lambda folder: str(moved(Path(folder)))):
                    store_upkeep.replace_store(store.path, settings.database)
    return manifest


def rehearse(settings: Settings, path: Path) -> Manifest:
    """Read all of a backup as `restore` does, and put its queue into a server of its own; nothing is kept. BackupError.

    A queue that is for a server of REDIS_URL is read, but not put anywhere: it may be of another version.
    """
    with tempfile.TemporaryDirectory(prefix="dermslim-") as folder:
        staging = Path(folder)
        manifest = unpack(path, staging, only_store=True)
        _check_store(path, staging / STORE, manifest)
        if (staging / QUEUE).exists() and settings.given_redis_url is None:
            scratch = replace(settings, data_dir=staging / "server")
            share_program(settings, scratch)
            with (
                running_server(scratch),
                contextlib.closing(connect(scratch)) as connection,
                queue_copy.replaced(connection, staging / QUEUE, str),
            ):
                pass
    return manifest


def _check_store(path: Path, store: Path, manifest: Manifest) -> None:
    """Read the queue's copy, and every row of the store, bring it to this version, and compare with the manifest."""
    if (queue := store.parents[1] / QUEUE).exists():
        keys = sum(1 for _ in queue_copy.read_queue(queue))
        if keys != manifest.keys:
            raise BackupError(f"expected {manifest.keys} keys of the queue; {path} has {keys}")
    try:
        counts = store_check.checked(store, settle=True)
    except StoreError as error:
        reason = str(error).removesuffix(f". {RESTORE}").replace(str(store.resolve()), STORE)
        raise BackupError(f"expected a backup whose store can be read; that of {path} cannot: {reason}") from error
    if other := sorted(name for name, rows in manifest.rows.items() if counts.get(name) != rows):
        raise BackupError(f"expected as many rows as the manifest says; not so in {path}: {', '.join(other)[:200]}")


def _check_no_store(settings: Settings, force: bool) -> None:
    if settings.database.exists() and not force:
        raise BackupError(f"expected no store at {settings.database}; there is one. --force replaces it")


def _check_nothing_runs(data_dir: Path) -> None:
    for name, holder in RUNNING.items():
        if held(data_dir / name):
            raise BackupError(f"expected nothing to run on {data_dir}; {holder} does. Stop it first")


def _destinations(settings: Settings, staging: Path) -> Iterator[tuple[Path, Path]]:
    """Yield each unpacked file but store and queue, and where it goes; BackupError where something else lies there."""
    places = {NETWORKS: settings.data_dir / FOLDER, TRAINED: settings.trained, RECONSTRUCTED: settings.reconstructed}
    for part, place in places.items():
        for source in sorted((staging / part).rglob("*")):
            there = place / source.relative_to(staging / part)
            if there.exists() and there.is_dir() != source.is_dir():
                raise BackupError(f"expected a {'folder' if source.is_dir() else 'file'} at {there}; there is another")
            if source.is_file():
                yield source, there


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
        try:
            return there if there.exists() or not path.exists() else path
        except (OSError, ValueError):  # a name that no file can have
            return path

    return moved


# -- command line ------------------------------------------------------------------------------------------------------


def add_commands(commands: Any, command: Callable[..., argparse.ArgumentParser]) -> None:
    """Add `backup` and `restore`; command: adds one."""
    text = "write store, queue and networks to one file, whether anything runs or not"
    making = command(commands, "backup", text, act_backup)
    named = f"ends in {', '.join(SUFFIXES)} (default: a new one in DATA_DIR/backups)"
    making.add_argument("file", metavar="FILE", type=Path, nargs="?", help=named)
    making.add_argument("--weights", action="store_true", help="the trained networks too")
    making.add_argument("--reconstructed", action="store_true", help="the reconstructed data sets' images too")
    making.add_argument("--without-queue", action="store_true", help="not what waits and runs")
    putting = command(commands, "restore", "put a backup into a data folder on which nothing runs", act_restore)
    putting.add_argument("file", metavar="FILE", type=Path, help="what `backup` wrote")
    putting.add_argument("--into", metavar="FOLDER", type=Path, help="the data folder (default: DATA_DIR)")
    putting.add_argument("--dry-run", action="store_true", help="read all of FILE and say what it holds; keep nothing")
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
    if manifest.keys is None and not options.without_queue:
        print(f"The queue is not in it: nothing runs on {settings.data_dir}, and it has none.", file=sys.stderr)
    return 0


def act_restore(options: argparse.Namespace) -> int:
    """Restore a backup and say what came back, or what would."""
    settings = Settings.from_environment()
    if options.into:
        settings = replace(settings, data_dir=options.into.expanduser().resolve())
    if options.dry_run:
        manifest = rehearse(settings, options.file)
        print(f"{options.file} is whole: {summary(manifest)}, as of {manifest.made_at}")
        return 0
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
