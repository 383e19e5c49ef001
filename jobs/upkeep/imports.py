"""Import the runs of a snapshot from another store, with their logs and weights: all of them or none, and none twice.

The record worker imports, in order with everything that it records. Where none runs, the command itself imports, and
no record worker can start meanwhile.
"""

from __future__ import annotations

import argparse
import contextlib
import fcntl
import json
import logging
import os
import re
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from core.errors import DermSlimError, SpecError
from core.files.plain_files import read_plain
from core.files.private import open_lock, private_files, private_folder
from core.runs import Run
from core.settings import Settings
from core.store import imports as store_imports
from core.store import snapshot as store_snapshot
from core.store.measurements import Store
from core.store.migrations import MIGRATIONS, VERSION
from jobs.connection import RECORD, queue
from jobs.later_jobs import ENDED_JOBS
from jobs.messages import LONGEST
from jobs.queues import Queues
from jobs.upkeep.archive import TRAINED
from jobs.upkeep.snapshot import ABOUT, FORMAT, Snapshot, facts_of, weights_name

LOG = logging.getLogger(__name__)
LONGEST_ABOUT = 1 << 26  # bytes of snapshot.json
RUN_ID = re.compile(r"[A-Za-z0-9_-]{1,200}")
TABLE = re.compile(r"([a-z_]{1,100})\.parquet")
DRAFT = ".import-"  # begins the name of a folder in DATA_DIR/trained while an import is under way
WAIT_FOR_STORE = 60.0  # seconds that an import waits for a program that holds the store


class ImportRefused(DermSlimError):
    """A snapshot cannot be imported; nothing was."""


@dataclass(frozen=True)
class Imported:
    """What an import adds, or would add. host: that wrote the snapshot. new: the runs that are added, with their rows.

    there: those that the store has already. under_way: those that have not ended. weights: files that are added.
    others: data sets of new runs of which other images are registered here.
    """

    host: str
    new: tuple[str, ...]
    there: tuple[str, ...]
    under_way: tuple[str, ...]
    rows: int
    weights: tuple[str, ...]
    others: tuple[str, ...]


def import_runs(settings: Settings, folder: Path, by: str, *, dry_run: bool = False) -> Imported:
    """Import every run of a snapshot that has ended and is not in the store; return what that adds.

    For the only writer, see `only_writer`; with `dry_run` for everyone. Raises ImportRefused, SpecError, StoreError,
    OSError, and changes nothing then.
    """
    about = checked(folder)
    store = Store(settings.database, timeout=WAIT_FOR_STORE)
    if not dry_run:
        _remove_drafts(private_folder(settings.trained))
    with tempfile.TemporaryDirectory(prefix=DRAFT, dir=None if dry_run else settings.trained) as name:
        staged = _staged(folder, about, Path(name))
        runs = _runs(staged)
        new, there = _new_runs(store, staged, [run.id for run in runs if run.ended])
        weights = _new_weights(settings, about, (*new, *there))
        found = Imported(
            host=about.host,
            new=tuple(new),
            there=tuple(there),
            under_way=(*(run.id for run in runs if not run.ended), *about.under_way),
            rows=0,
            weights=tuple(weights),
            others=tuple(_others(store, [run for run in runs if run.id in set(new)])),
        )
        if dry_run or not (new or weights):
            return found
        origin = store_imports.Origin(about.host, about.store, datetime.now(UTC), settings.trained)
        drafts = _copied(folder, weights, Path(name))
        with _placed(drafts, settings.trained), _added(store, staged, new, origin, weights) as rows:
            pass
    facts = {"by": by, "runs": len(new), "rows": rows, "host": about.host}
    LOG.info("%s imported %d runs of %s from %s", by, len(new), about.host, folder, extra=facts)
    return replace(found, rows=rows)


@contextlib.contextmanager
def _added(
    store: Store, staged: Store, new: Sequence[str], origin: store_imports.Origin, weights: Sequence[str]
) -> Iterator[int]:
    """Add the rows; steps whose weights are on this host, from the snapshot or from before, get their path here."""
    steps = staged.steps(new)
    here = {name.removeprefix(f"{TRAINED}/").removesuffix(".keras") for name in weights if name.endswith(".keras")}
    for run_id, step in zip(steps["run_id"], steps["step"], strict=True):
        if (origin.trained / run_id / f"{step}.keras").is_file():
            here.add(f"{run_id}/{step}")
    with store_imports.adding(store, staged, new, origin, here) as rows:
        yield rows


# -- reading a snapshot ------------------------------------------------------------------------------------------------


def checked(folder: Path) -> Snapshot:
    """Return the description of a snapshot whose files are whole. Raises ImportRefused."""
    about = _about(folder)
    for name, facts in about.files.items():
        if not _is_ours(name):
            raise ImportRefused(f"Expected only files of a snapshot in {ABOUT}, got {name!a}.")
        path = folder / name
        if path.is_symlink() or not path.is_file():
            raise ImportRefused(f"Expected the file {name} in {folder}, got none. Copy the snapshot again.")
        if facts_of(path) != facts:
            raise ImportRefused(f"Expected {name} as {ABOUT} describes it, got other bytes. Copy the snapshot again.")
    if missing := [name for name in about.rows if f"{name}.parquet" not in about.files]:
        raise ImportRefused(f"Expected a file of each table in {ABOUT}, got none of {missing[0]}.")
    return about


def _about(folder: Path) -> Snapshot:
    try:
        values = json.loads(read_plain(folder / ABOUT, LONGEST_ABOUT))
    except FileNotFoundError:
        raise ImportRefused(f"Expected a folder that `snapshot --runs` wrote, got {folder} without {ABOUT}.") from None
    except (OSError, ValueError) as error:
        raise ImportRefused(f"Expected {ABOUT} of a snapshot in {folder}, got: {error}.") from error
    values = values if isinstance(values, dict) else {}
    form, migrations = values.get("format", 1), values.get("migrations", ())
    if form == 1:
        raise ImportRefused("Expected a snapshot with checksums, got one of an older DermSlim. Write it again.")
    if form != FORMAT or not set(map(str, migrations)) <= set(MIGRATIONS):
        raise ImportRefused(
            f"Expected a snapshot of store version {VERSION} or older and of format {FORMAT}, got version "
            f"{values.get('schema_version')} and format {form} of DermSlim {values.get('version')}. Update DermSlim."
        )
    try:
        return Snapshot.model_validate(values)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        part = ".".join(map(str, first["loc"]))
        raise ImportRefused(f"Expected a valid {ABOUT} in {folder}, got {part}: {first['msg']}.") from error


def _is_ours(name: str) -> bool:
    parts = name.split("/")
    if len(parts) == 3:
        return parts[0] == TRAINED and bool(RUN_ID.fullmatch(parts[1])) and weights_name(parts[2])
    return name == store_snapshot.VIEWS or bool(TABLE.fullmatch(name))


def _staged(folder: Path, about: Snapshot, place: Path) -> Store:
    """Load the tables of a snapshot as a store of this version."""
    staged = Store(place / "staged.duckdb")
    files = {match[1]: folder / name for name in about.files if (match := TABLE.fullmatch(name))}
    store_imports.stage(files, about.migrations, staged.path)
    return staged


def _runs(staged: Store) -> list[Run]:
    """Return the runs of a snapshot. Raises ImportRefused for ids and settings that this version does not know."""
    try:
        runs = staged.runs()
        for run in runs:
            if not RUN_ID.fullmatch(run.id) or run.spec.kind != run.kind:
                raise ImportRefused(f"Expected a run's id and kind, got {run.id!a} of kind {run.kind!a}.")
    except (SpecError, ValueError) as error:
        raise ImportRefused(f"Expected runs that this version knows, got: {error}") from error
    return runs


def _new_runs(store: Store, staged: Store, run_ids: Sequence[str]) -> tuple[list[str], list[str]]:
    """Return the runs that the store does not have, and those that it has. ImportRefused where it has others."""
    equal, other = store_imports.compared(store, staged, run_ids)
    if other:
        raise ImportRefused(
            f"Expected new runs or the same ones, got {', '.join(other[:5])} with other results here. Nothing was "
            f"imported. To take the snapshot's, delete yours first: `python -m jobs delete {' '.join(other[:5])}`."
        )
    return [run_id for run_id in run_ids if run_id not in set(equal)], equal


def _others(store: Store, runs: Sequence[Run]) -> Iterator[str]:
    """Yield the data sets of runs that have the name of a registered one and other images."""
    registered: dict[str, str] = dict(store.datasets()[["name", "fingerprint"]].itertuples(index=False))
    wanted = {(run.dataset, run.fingerprint) for run in runs}
    yield from sorted({name for name, images in wanted if registered.get(name, images) != images})


# -- weights -----------------------------------------------------------------------------------------------------------


def _new_weights(settings: Settings, about: Snapshot, run_ids: Sequence[str]) -> list[str]:
    """Return the names of the snapshot's files of weights of these runs that are not on this host."""
    known = set(run_ids)
    names = [name for name in about.files if name.startswith(f"{TRAINED}/") and name.split("/")[1] in known]
    return [name for name in names if not (settings.trained / name.removeprefix(f"{TRAINED}/")).exists()]


def _copied(folder: Path, names: Sequence[str], draft: Path) -> dict[Path, str]:
    """Copy files of weights to the disk of their folder; return their names there by copy."""
    copies = {draft / f"{number}.file": name.removeprefix(f"{TRAINED}/") for number, name in enumerate(names)}
    for (copy, _), name in zip(copies.items(), names, strict=True):
        shutil.copyfile(folder / name, copy)
    return copies


@contextlib.contextmanager
def _placed(copies: Mapping[Path, str], trained: Path) -> Iterator[None]:
    """Move copies to the folders of their runs, and remove them again if the block fails.

    A process that dies in between leaves files of a run that the store does not know, which the next import replaces
    and `prune` removes.
    """
    placed: list[Path] = []
    try:
        for copy, name in copies.items():
            private_folder((trained / name).parent)
            copy.replace(trained / name)
            placed.append(trained / name)
        yield
    except BaseException:
        for path in placed:
            path.unlink(missing_ok=True)
            with contextlib.suppress(OSError):  # other files are in it
                path.parent.rmdir()
        raise


def _remove_drafts(trained: Path) -> None:
    """Remove what an import that was killed has left."""
    for path in trained.glob(f"{DRAFT}*"):
        shutil.rmtree(path, ignore_errors=True)


# -- who writes --------------------------------------------------------------------------------------------------------


def import_here_or_there(settings: Settings, folder: Path) -> Imported:
    """Import in this process if no record worker runs, else in the record worker; return what that added."""
    queues = Queues(settings)
    with only_writer(settings) as alone:
        if alone:
            with private_files():
                Store(settings.database, timeout=WAIT_FOR_STORE).migrate()
                return import_runs(settings, folder, queues.user)
    with queues.connected() as connection:
        job = queue(RECORD, connection).enqueue(
            "jobs.upkeep.imports.import_job",
            kwargs={"folder": str(folder), "by": queues.user},
            job_timeout=LONGEST,
            result_ttl=3600,
            failure_ttl=3600,
            description=f"runs are imported from {folder}",
        )
        while job.get_status(refresh=True) not in ENDED_JOBS:
            time.sleep(0.1)
        answer = job.return_value(refresh=True)
    if answer is None:
        raise DermSlimError("Expected the record worker to import the runs, got an error; its log says which.")
    if "error" in answer:
        raise ImportRefused(answer["error"])
    return TypeAdapter(Imported).validate_python(answer)


def import_job(folder: str, by: str) -> dict[str, Any]:
    """Import in the record worker; return the fields of `Imported`, or `error`, a sentence."""
    try:
        return asdict(import_runs(Settings.from_environment(), Path(folder), by))
    except (DermSlimError, OSError) as error:
        LOG.warning("%s could not import %s: %s", by, folder, error)
        return {"error": str(error)}


@contextlib.contextmanager
def only_writer(settings: Settings) -> Iterator[bool]:
    """Hold the lock of the record worker; give False where a record worker, or another import, holds it."""
    private_folder(settings.data_dir)
    with os.fdopen(open_lock(settings.data_dir / "record-worker.lock"), "r+") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
        else:
            yield True


# -- command line ------------------------------------------------------------------------------------------------------


def add_commands(commands: Any, command: Callable[..., argparse.ArgumentParser]) -> None:
    """Add `import`; command: adds one."""
    text = "add the runs of a snapshot from another store, with their logs and weights; those that are there stay"
    adding = command(commands, "import", text, act_import)
    adding.add_argument("folder", metavar="FOLDER", type=Path, help="a folder that `snapshot --runs` wrote")
    adding.add_argument("--dry-run", action="store_true", help="only check the snapshot and list its runs")


def act_import(options: argparse.Namespace) -> int:
    """Import runs, or list what an import would add."""
    settings, folder = Settings.from_environment(), options.folder.expanduser().resolve()
    if options.dry_run:
        found = import_runs(settings, folder, "", dry_run=True)
    else:
        found = import_here_or_there(settings, folder)
    for state, runs in (("new", found.new), ("already here", found.there), ("has not ended", found.under_way)):
        for run_id in runs:
            print(f"{run_id}\t{state}")
    for name in found.others:
        print(f"The data set {name} here has other images than the imported runs of that name.", file=sys.stderr)
    counts = f"{len(found.new):,} runs and {len(found.weights):,} files of weights of {found.host}"
    if options.dry_run:
        print(f"would import {counts}; nothing was imported")
    else:
        print(f"{counts} imported, {found.rows:,} rows; {len(found.there):,} runs were already here")
    return 0
