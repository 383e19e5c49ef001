"""Copy the store, or some runs of it, while everything runs: for notebooks, and for `import` into another store.

See `core.store.snapshot` for the files.
"""

from __future__ import annotations

import argparse
import hashlib
import secrets
import shutil
import socket
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict

from core import __version__
from core.errors import DermSlimError, QueueUnavailable, SpecError
from core.runs import Run
from core.settings import Settings
from core.store import snapshot as store_snapshot
from core.store import upkeep as store_upkeep
from core.store.measurements import Store
from core.store.migrations import MIGRATIONS, VERSION
from jobs.live_runs import active_runs
from jobs.provenance import code_revision
from jobs.queues import Queues
from jobs.upkeep.archive import TRAINED, FileFacts
from jobs.upkeep.backup import PATIENCE, read_in_full

ABOUT = "snapshot.json"
FORMAT = 2  # 1: without `files`, so that it cannot be imported
ALL = "all"  # instead of ids: every run that has ended
SUFFIXES = (".parquet", ".wal")  # of the files in a snapshot, besides ABOUT and the DuckDB file


class SnapshotError(DermSlimError):
    """A snapshot cannot be written to a folder."""


class Snapshot(BaseModel):
    """The content of a snapshot. made_at: the time of all tables. held_seconds: how long records waited.

    migrations: of the tables, in order. runs: those that were asked for and have ended; None for the whole store.
    under_way: those that were asked for and are left out. files: size and SHA-256 by name.
    """

    model_config = ConfigDict(frozen=True)

    made_at: str
    name: str
    store: str
    host: str
    schema_version: int
    version: str
    code_revision: str | None
    held_seconds: float
    rows: dict[str, int]
    format: int = 1
    migrations: tuple[str, ...] = ()
    runs: tuple[str, ...] | None = None
    under_way: tuple[str, ...] = ()
    files: dict[str, FileFacts] = {}


@dataclass(frozen=True)
class Wanted:
    """Which runs a snapshot has, by id or `ALL`, and what else of them: their logs, their weights."""

    runs: Sequence[str]
    logs: bool = True
    weights: bool = False


def default_folder(settings: Settings) -> Path:
    """Return the default folder of a snapshot."""
    return settings.data_dir / "snapshot"


def take_snapshot(settings: Settings, folder: Path, wanted: Wanted | None = None) -> Snapshot:
    """Write a snapshot of every table, or of some runs, to a folder, replacing an older snapshot.

    The record worker waits only while the store's file is copied. The folder appears, or is replaced, once everything
    is written. Raises SnapshotError where the folder holds other files; StoreBusy, StoreDamaged, OSError. For runs also
    SpecError for an unknown one or where none has ended, and QueueUnavailable where their logs cannot be read.
    """
    folder = folder.expanduser().resolve()
    _check_place(folder)
    if not settings.database.exists():
        raise SnapshotError(f"Expected a store at {settings.database}, got none.")
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".snapshot-", dir=folder.parent) as name:
        draft, copy, store = Path(name) / "new", Path(name) / "copy.duckdb", Store(settings.database, timeout=PATIENCE)
        with store_upkeep.held_still(store):
            at, began = datetime.now(UTC), time.monotonic()
            store_upkeep.copy_held(store, copy)
            held = time.monotonic() - began
        read_in_full(copy, settings.database)
        draft.mkdir()
        chosen, under_way = (None, ()) if wanted is None else _chosen(settings, Store(copy), wanted)
        if wanted is not None and chosen is not None:
            store_snapshot.prepare_to_travel(copy, _logs(settings, chosen) if wanted.logs else {})
        ids = None if chosen is None else tuple(run.id for run in chosen)
        mark = f"{at:%Y%m%d-%H%M%S}-{secrets.token_hex(4)}"
        rows = store_snapshot.write_snapshot(copy, draft, snapshot=mark, final=folder, runs=ids)
        if wanted is not None and wanted.weights:
            _copy_weights(settings, ids or (), draft / TRAINED)
        about = Snapshot(
            made_at=at.isoformat(),
            name=mark,
            store=str(settings.database),
            host=socket.gethostname(),
            schema_version=VERSION,
            version=__version__,
            code_revision=code_revision(),
            held_seconds=round(held, 3),
            rows=rows,
            format=FORMAT,
            migrations=tuple(MIGRATIONS),
            runs=ids,
            under_way=under_way,
            files={path: facts_of(draft / path) for path in _files(draft)},
        )
        (draft / ABOUT).write_text(about.model_dump_json(indent=1) + "\n", encoding="utf-8")
        _put(draft, folder, Path(name) / "old")
    return about


def _chosen(settings: Settings, copy: Store, wanted: Wanted) -> tuple[list[Run], tuple[str, ...]]:
    """Return the wanted runs that have ended, and the ids of those that have not. SpecError without any."""
    known = {run.id: run for run in copy.runs()}
    ids = list(known) if ALL in wanted.runs else list(dict.fromkeys(wanted.runs))
    if unknown := [run_id for run_id in ids if run_id not in known]:
        raise SpecError(f"Expected runs that are in the store, got {', '.join(unknown)}.")
    active = _active(settings) if wanted.logs else set()
    chosen = [known[run_id] for run_id in ids if known[run_id].ended and run_id not in active]
    if not chosen:
        raise SpecError("Expected a run that has ended, got none.")
    return chosen, tuple(sorted(set(ids) - {run.id for run in chosen}))


def _active(settings: Settings) -> set[str]:
    """Return the runs that the queue has under way: one that was just retried has ended only in the store."""
    try:
        with Queues(settings).connected() as connection:
            return set(active_runs(connection))
    except QueueUnavailable as error:
        raise QueueUnavailable(f"{error} --without-logs leaves out the logs, which the queue keeps.") from error


def _logs(settings: Settings, runs: Sequence[Run]) -> dict[str, list[str]]:
    """Return the logs that the queue still has."""
    queues = Queues(settings)
    return {run.id: lines for run in runs if (lines := queues.log(run.id))}


def _copy_weights(settings: Settings, run_ids: Sequence[str], place: Path) -> None:
    """Copy the kept weights that are on this host, and what is needed to use them."""
    for run_id in run_ids:
        for path in sorted(settings.trained.glob(f"{run_id}/*")):
            if weights_name(path.name) and path.is_file() and not path.is_symlink():
                (place / run_id).mkdir(parents=True, exist_ok=True)
                shutil.copyfile(path, place / run_id / path.name)


def weights_name(name: str) -> bool:
    """Return whether a file of a run's folder is the weights of a step, or what is needed to use them."""
    return name == "about.json" or (name.endswith(".keras") and name.removesuffix(".keras").isdecimal())


def facts_of(path: Path) -> dict[str, Any]:
    """Return the size and the SHA-256 of a file."""
    with path.open("rb") as stream:
        return {"bytes": path.stat().st_size, "sha256": hashlib.file_digest(stream, "sha256").hexdigest()}


def _files(folder: Path) -> Iterator[str]:
    """Yield the names of all files below a folder."""
    yield from (path.relative_to(folder).as_posix() for path in sorted(folder.rglob("*")) if not path.is_dir())


def last_snapshot(folder: Path) -> Snapshot | None:
    """Return the description of a folder's snapshot; None where there is none."""
    try:
        return Snapshot.model_validate_json((folder / ABOUT).read_bytes())
    except (OSError, ValueError):
        return None


def _check_place(folder: Path) -> None:
    if not folder.exists():
        return
    if not folder.is_dir():
        raise SnapshotError(f"Expected a folder, got the file {folder}.")
    names, last = list(_files(folder)), last_snapshot(folder)
    known = {ABOUT, store_snapshot.VIEWS, *(last.files if last else ())}
    own = [name for name in names if name in known or (name.endswith(SUFFIXES) and "/" not in name)]
    if names and (last is None or own != names):
        others = sorted(set(names) - set(own)) or names
        raise SnapshotError(
            f"Expected a new folder, an empty one, or one that holds only a snapshot, got {folder}, which holds "
            f"{', '.join(others[:3])}."
        )


def _put(draft: Path, folder: Path, old: Path) -> None:
    """Replace a folder by the draft and move the old one away; its readers keep their open files."""
    if folder.exists():
        folder.rename(old)
    try:
        draft.rename(folder)
    except OSError:
        if old.exists():
            old.rename(folder)
        raise


# -- command line ------------------------------------------------------------------------------------------------------


def add_commands(commands: Any, command: Callable[..., argparse.ArgumentParser]) -> None:
    """Add `snapshot`; command: adds one."""
    text = "write the store's tables, or some runs, as Parquet files, for notebooks and for `import` into another store"
    making = command(commands, "snapshot", text, act_snapshot)
    named = "a new folder, or an older snapshot's, which is replaced (default without --runs: DATA_DIR/snapshot)"
    making.add_argument("folder", metavar="FOLDER", type=Path, nargs="?", help=named)
    making.add_argument(
        "--runs", metavar="RUN", nargs="+", help=f"only these runs that have ended, or `{ALL}`, with all that is theirs"
    )
    making.add_argument("--weights", action="store_true", help="with --runs: the weights that are on this host too")
    making.add_argument("--without-logs", action="store_true", help="with --runs: leave out logs and ask no queue")


def act_snapshot(options: argparse.Namespace) -> int:
    """Write a snapshot and print its content; return 1 where a run that was named is left out."""
    settings = Settings.from_environment()
    if options.runs is None and (options.weights or options.without_logs):
        raise SpecError("Expected --runs with --weights or --without-logs, got none.")
    if options.runs is not None and options.folder is None:
        raise SpecError("Expected a folder for the snapshot of runs, got none.")
    folder = options.folder or default_folder(settings)
    wanted = options.runs and Wanted(options.runs, logs=not options.without_logs, weights=options.weights)
    about = take_snapshot(settings, folder, wanted)
    print(f"{folder}: {summary(about)}")
    for sentence in left_out(settings, about, weights=options.weights):
        print(sentence, file=sys.stderr)
    return 1 if about.under_way and ALL not in options.runs else 0


def left_out(settings: Settings, about: Snapshot, *, weights: bool) -> Iterator[str]:
    """Yield in sentences what was asked for and is not in a snapshot."""
    if about.under_way:
        yield f"Left out, because they have not ended: {', '.join(about.under_way)}."
    if weights:
        steps = Store(settings.database).steps(about.runs or ())
        trained = steps[steps["weights"].notna()]
        names = [f"{TRAINED}/{run}/{step}.keras" for run, step in zip(trained["run_id"], trained["step"], strict=True)]
        if missing := [name for name in names if name not in about.files]:
            yield f"Left out, because they are not on this host: {len(missing)} files of weights, first {missing[0]}."


def summary(about: Snapshot) -> str:
    """Return the content of a snapshot in a few words."""
    rows = f"{sum(about.rows.values()):,} rows of {len(about.rows)} tables"
    if about.runs is not None:
        rows = f"{len(about.runs):,} runs, {sum(about.rows.values()):,} rows"
        if count := sum(name.endswith(".keras") for name in about.files):
            rows += f", {count:,} files of weights"
    return f"{rows}, as of {about.made_at}; the record worker waited {about.held_seconds:.2f} s"
