"""Back up and restore store, queue and own networks, and optionally weights and reconstructions, in one file.

A backup can be written while everything runs. The record worker stops for a moment in which the store's file is copied
and the queue is read, so that everything missing in the store is among the queue's records.
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
from core.files.private import open_lock, private_files, private_folder, write_private
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
from jobs.server import ping, running_server, share_program
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
    compressed,
    suffix_of,
    unpack,
)
from jobs.upkeep.retention import held

NOTE = "last-backup.json"  # in DATA_DIR: time and place of the last backup
PATIENCE = 60.0  # seconds of waiting for the record worker's transaction
RUNNING = {"launcher.lock": "`make up`, or the launcher", "record-worker.lock": "a record worker"}


# -- backup ------------------------------------------------------------------------------------------------------------


def default_path(settings: Settings, now: datetime | None = None) -> Path:
    """Return the default path of a backup: a name with the time below DATA_DIR/backups."""
    return settings.backups / f"dermslim-{now or datetime.now(UTC):%Y%m%d-%H%M%S}.tar.zst"


def back_up(
    settings: Settings, path: Path, *, queue: bool = True, weights: bool = False, reconstructed: bool = False
) -> Manifest:
    """Write a backup, and verify the store's copy by reading every column of every row.

    queue: include the queue; where nothing runs, the embedded server is started meanwhile, and without one the queue
    is left out. weights: include the trained networks. reconstructed: include the images of reconstructions. The file
    appears once it is whole. Raises BackupError, StoreBusy, StoreDamaged, QueueUnavailable, OSError.
    """
    suffix_of(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.exists():
        raise BackupError(f"Expected a new file, got {path}, which exists.")
    if not settings.database.exists():
        raise BackupError(f"Expected a store at {settings.database}, got none.")
    with tempfile.TemporaryDirectory(prefix=".backup-", dir=path.parent) as folder:
        staging = Path(folder)
        manifest = _copy_consistently(settings, staging, queue)
        half = staging / "whole"
        with compressed(half, suffix_of(path)) as stream, tarfile.open(fileobj=stream, mode="w|") as archive:
            for name, source in _parts(settings, staging, weights, reconstructed):
                manifest.files[name] = add(archive, name, source)
            (staging / MANIFEST).write_text(manifest.model_dump_json(indent=1), encoding="utf-8")
            add(archive, MANIFEST, staging / MANIFEST)
        half.chmod(0o600)
        with half.open("rb") as written:
            os.fsync(written.fileno())
        half.replace(path)
    note = {"made_at": manifest.made_at, "file": str(path.resolve()), "bytes": path.stat().st_size}
    write_private(settings.data_dir / NOTE, json.dumps(note))
    return manifest


def _copy_consistently(settings: Settings, staging: Path, with_queue: bool) -> Manifest:
    store = Store(settings.database, timeout=PATIENCE)
    copy = staging / "dermslim.duckdb"
    with _server(settings, with_queue) as connection, store_upkeep.held_still(store):
        began = time.monotonic()
        store_upkeep.copy_held(store, copy)
        rows = None if connection is None else queue_copy.snapshot(connection)
        held = time.monotonic() - began
        server = None if connection is None else str(connection.info("server")["redis_version"])
    counts = read_in_full(copy, settings.database)
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
        files={},
    )


def read_in_full(copy: Path, store: Path) -> dict[str, int]:
    """Read every row of the copy of a store; return the rows by table. An error names the store."""
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
                f"Expected the Redis server to answer, got: {str(error).rstrip('.')}. --without-queue leaves the queue"
                " out."
            ) from error


def _stopped(settings: Settings) -> bool:
    """Return whether the server is the embedded one and does not run."""
    if settings.given_redis_url is not None:
        return False
    try:
        ping(settings)
    except QueueUnavailable:
        return True
    return False


@contextlib.contextmanager
def _started(settings: Settings) -> Iterator[bool]:
    """Run the embedded server, so that its stored queue can be read; yield False where it has none."""
    try:
        with _nothing_runs(settings.data_dir):
            if not (settings.redis_url_file.parent / "appendonlydir").is_dir():
                yield False
                return
            with running_server(settings):
                yield True
    except BackupError as error:
        raise QueueUnavailable(
            f"Expected the embedded server to answer or to start, got: {error} --without-queue leaves the queue out."
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
    """Return `made_at` (a datetime), `file` and `bytes` of the last backup of this DATA_DIR, or None."""
    try:
        note = json.loads((settings.data_dir / NOTE).read_text(encoding="utf-8"))
        return {**note, "made_at": datetime.fromisoformat(note["made_at"])}
    except (FileNotFoundError, ValueError, KeyError):
        return None


# -- restore -----------------------------------------------------------------------------------------------------------


def restore(settings: Settings, path: Path, *, force: bool = False, queue: bool = True) -> Manifest:
    """Restore a backup to `settings.data_dir` and its server, after reading all of it.

    Where `settings` names no server, the embedded one is started meanwhile. force: replace an existing store and queue.
    queue: restore the queue too. Raises BackupError, without any change, while anything runs on the data folder and
    where the file is not a whole backup.
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
    """Read all of a backup as `restore` does, and load its queue into a temporary server. Raises BackupError.

    With REDIS_URL the queue is only read, because the temporary server may have a different version.
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
    """Read the queue's copy and every row of the store, migrate the store, and compare with the manifest."""
    if (queue := store.parents[1] / QUEUE).exists():
        keys = sum(1 for _ in queue_copy.read_queue(queue))
        if keys != manifest.keys:
            raise BackupError(f"Expected {manifest.keys} keys of the queue in {path}, got {keys}.")
    try:
        counts = store_check.checked(store, settle=True)
    except StoreError as error:
        reason = str(error).removesuffix(f" {RESTORE}").replace(str(store.resolve()), STORE)
        raise BackupError(f"Expected a store that can be read in {path}, got: {reason}") from error
    if other := sorted(name for name, rows in manifest.rows.items() if counts.get(name) != rows):
        raise BackupError(f"Expected the rows of the manifest in {path}, got others in {', '.join(other)[:200]}.")


def _check_no_store(settings: Settings, force: bool) -> None:
    if settings.database.exists() and not force:
        raise BackupError(f"Expected no store at {settings.database}, got one. --force replaces it.")


def _check_nothing_runs(data_dir: Path) -> None:
    for name, holder in RUNNING.items():
        if held(data_dir / name):
            raise BackupError(f"Expected nothing to run on {data_dir}, got {holder}. Stop it first.")


def _destinations(settings: Settings, staging: Path) -> Iterator[tuple[Path, Path]]:
    """Yield each unpacked file except store and queue with its destination. Raises BackupError for conflicts."""
    places = {NETWORKS: settings.data_dir / FOLDER, TRAINED: settings.trained, RECONSTRUCTED: settings.reconstructed}
    for part, place in places.items():
        for source in sorted((staging / part).rglob("*")):
            there = place / source.relative_to(staging / part)
            if there.exists() and there.is_dir() != source.is_dir():
                raise BackupError(f"Expected a {'folder' if source.is_dir() else 'file'} at {there}, got the opposite.")
            if source.is_file():
                yield source, there


@contextlib.contextmanager
def _nothing_runs(data_dir: Path) -> Iterator[None]:
    """Hold the locks of the launcher and the record worker, so that neither runs meanwhile."""
    with contextlib.ExitStack() as stack:
        for name, holder in RUNNING.items():
            lock = stack.enter_context(os.fdopen(open_lock(data_dir / name), "r+"))
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise BackupError(f"Expected nothing to run on {data_dir}, got {holder}. Stop it first.") from None
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
            raise BackupError(f"Expected no worker on the target's queue, got {alive[0].name}. Stop the workers first.")
        if (keys := queue_copy.our_keys(connection)) and not force:
            raise BackupError(
                f"Expected an empty queue, got {len(keys)} keys such as {keys[0]} on the target's server. "
                "--force replaces them, --without-queue keeps them."
            )
        try:
            yield connection
        except redis.RedisError as error:
            raise QueueUnavailable(f"Expected the Redis server to accept the queue, got: {error}.") from error


def _moved(old: Path, new: Path) -> Callable[[Path], Path]:
    """Return a function that maps a path below the old DATA_DIR to the new one where it exists there."""

    def moved(path: Path) -> Path:
        if old == new or not path.is_relative_to(old):
            return path
        there = new / path.relative_to(old)
        try:
            return there if there.exists() or not path.exists() else path
        except (OSError, ValueError):  # an impossible file name
            return path

    return moved


# -- command line ------------------------------------------------------------------------------------------------------


def add_commands(commands: Any, command: Callable[..., argparse.ArgumentParser]) -> None:
    """Add `backup` and `restore`; command: adds one."""
    text = "write store, queue and networks to one file, also while everything runs"
    making = command(commands, "backup", text, act_backup)
    named = f"ends in {', '.join(SUFFIXES)} (default: a new one in DATA_DIR/backups)"
    making.add_argument("file", metavar="FILE", type=Path, nargs="?", help=named)
    making.add_argument("--weights", action="store_true", help="the trained networks too")
    making.add_argument("--reconstructed", action="store_true", help="the reconstructed data sets' images too")
    making.add_argument("--without-queue", action="store_true", help="leave out waiting and running jobs")
    putting = command(commands, "restore", "restore a backup to a data folder on which nothing runs", act_restore)
    putting.add_argument("file", metavar="FILE", type=Path, help="a file from `backup`")
    putting.add_argument("--into", metavar="FOLDER", type=Path, help="the data folder (default: DATA_DIR)")
    putting.add_argument("--dry-run", action="store_true", help="read all of FILE and print its content; write nothing")
    putting.add_argument("--force", action="store_true", help="replace the existing store and queue")
    putting.add_argument("--without-queue", action="store_true", help="restore only the store and folders")


def act_backup(options: argparse.Namespace) -> int:
    """Write a backup and print its content."""
    settings = Settings.from_environment()
    path = options.file or private_folder(settings.backups) / default_path(settings).name
    manifest = back_up(
        settings, path, queue=not options.without_queue, weights=options.weights, reconstructed=options.reconstructed
    )
    print(path)
    waited = f"the record worker waited {manifest.held_seconds:.2f} s"
    print(f"{path.stat().st_size / 1e6:,.1f} MB; {summary(manifest)}; {waited}", file=sys.stderr)
    if manifest.keys is None and not options.without_queue:
        print(f"The backup has no queue: nothing runs on {settings.data_dir}, and no queue is stored.", file=sys.stderr)
    return 0


def act_restore(options: argparse.Namespace) -> int:
    """Restore a backup, or only check it, and print its content."""
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
    """Return the content of a backup in a few words."""
    rows = f"{sum(manifest.rows.values()):,} rows of {manifest.rows.get('runs', 0):,} runs"
    keys = "no queue" if manifest.keys is None else f"the queue's {manifest.keys:,} keys"
    other = len([name for name in manifest.files if name not in (STORE, QUEUE)])
    return f"{rows}, {keys}, {other:,} other files"
