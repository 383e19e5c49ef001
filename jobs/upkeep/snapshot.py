"""Copy the store for notebooks and other programs while everything runs; see `core.store.snapshot`."""

from __future__ import annotations

import argparse
import json
import secrets
import socket
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from core import __version__
from core.errors import DermSlimError
from core.settings import Settings
from core.store import snapshot as store_snapshot
from core.store import upkeep as store_upkeep
from core.store.measurements import Store
from core.store.migrations import VERSION
from jobs.provenance import code_revision
from jobs.upkeep.backup import PATIENCE, read_in_full

ABOUT = "snapshot.json"
SUFFIXES = (".parquet", ".wal")  # of the files in a snapshot, besides ABOUT and the DuckDB file


class SnapshotError(DermSlimError):
    """A snapshot cannot be written to a folder."""


@dataclass(frozen=True)
class Snapshot:
    """The content of a snapshot. made_at: the time of all tables. held_seconds: how long records waited."""

    made_at: str
    name: str
    store: str
    host: str
    schema_version: int
    version: str
    code_revision: str | None
    held_seconds: float
    rows: dict[str, int]


def default_folder(settings: Settings) -> Path:
    """Return the default folder of a snapshot."""
    return settings.data_dir / "snapshot"


def take_snapshot(settings: Settings, folder: Path) -> Snapshot:
    """Write a snapshot of every table to a folder, replacing an older snapshot.

    The record worker waits only while the store's file is copied. The folder appears, or is replaced, once everything
    is written. Raises SnapshotError where the folder holds other files; StoreBusy, StoreDamaged, OSError.
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
        rows = read_in_full(copy, settings.database)
        about = Snapshot(
            made_at=at.isoformat(),
            name=f"{at:%Y%m%d-%H%M%S}-{secrets.token_hex(4)}",
            store=str(settings.database),
            host=socket.gethostname(),
            schema_version=VERSION,
            version=__version__,
            code_revision=code_revision(),
            held_seconds=round(held, 3),
            rows=rows,
        )
        draft.mkdir()
        store_snapshot.write_snapshot(copy, draft, snapshot=about.name, final=folder)
        (draft / ABOUT).write_text(json.dumps(asdict(about), indent=1) + "\n", encoding="utf-8")
        _put(draft, folder, Path(name) / "old")
    return about


def last_snapshot(folder: Path) -> Snapshot | None:
    """Return the description of a folder's snapshot; None where there is none."""
    try:
        return Snapshot(**json.loads((folder / ABOUT).read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        return None


def _check_place(folder: Path) -> None:
    if not folder.exists():
        return
    if not folder.is_dir():
        raise SnapshotError(f"Expected a folder, got the file {folder}.")
    names = sorted(path.name for path in folder.iterdir())
    own = [name for name in names if name in (ABOUT, store_snapshot.VIEWS) or name.endswith(SUFFIXES)]
    if names and (last_snapshot(folder) is None or own != names):
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
    text = "write the store's tables as Parquet files, with a DuckDB file of views, for notebooks"
    making = command(commands, "snapshot", text, act_snapshot)
    named = "a new folder, or an older snapshot's, which is replaced (default: DATA_DIR/snapshot)"
    making.add_argument("folder", metavar="FOLDER", type=Path, nargs="?", help=named)


def act_snapshot(options: argparse.Namespace) -> int:
    """Write a snapshot and print its content."""
    settings = Settings.from_environment()
    folder = options.folder or default_folder(settings)
    print(f"{folder}: {summary(take_snapshot(settings, folder))}")
    return 0


def summary(about: Snapshot) -> str:
    """Return the content of a snapshot in a few words."""
    rows = f"{sum(about.rows.values()):,} rows of {len(about.rows)} tables"
    return f"{rows}, as of {about.made_at}; the record worker waited {about.held_seconds:.2f} s"
