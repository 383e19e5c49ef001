"""Delete runs with all that belongs to them, and caches that can be made again.

The record worker deletes runs, in order with everything else that it records. The calling process removes caches.
"""

from __future__ import annotations

import argparse
import contextlib
import fcntl
import json
import logging
import math
import os
import re
import shutil
import sys
import time
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Sequence, Set
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import core
from core.data import training_arrays as arrays
from core.errors import QueueUnavailable, SpecError
from core.runs import Run
from core.settings import Settings
from core.store import upkeep as store_upkeep
from core.store.measurements import Store
from core.training.specs import TRAINING_SPECS
from jobs.connection import Connection
from jobs.live_runs import LiveRun, active_runs
from jobs.messages import RunDeleted, send
from jobs.queues import Queues
from jobs.run_jobs import jobs_of, running_jobs

LOG = logging.getLogger(__name__)
MOST_DAYS = 100_000
DAYS = 30.0  # that caches stay unused before `prune` takes them
FRESH = 1.0  # days after which a folder without a run counts as abandoned
CACHES = {
    "arrays": "images as arrays without a data set, or not used for days; made again when needed",
    "checkpoints": "of runs that finished, or ended days ago without a retry",
    "logs": "moved aside, or not written to for days",
    "numba": "compiled loops that are days old; compiled again when needed",
    "trained": "weights of runs that the store does not know",
    "reconstructed": "images of data sets that are not registered; only where asked for",
}
BY_DEFAULT = tuple(kind for kind in CACHES if kind != "reconstructed")  # `--local` writes unregistered ones on purpose
UNITS = {"h": 1 / 24, "d": 1.0, "w": 7.0}
WAIT = 60.0  # seconds that the command waits for the record worker


# -- runs --------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Deletion:
    """What is deleted with a run. rows: in all tables. folder_bytes: of weights and checkpoints here.

    written: the data set that it wrote, if it is a reconstruction whose data set is still there, with its bytes.
    """

    run: Run
    rows: int
    folder_bytes: int
    written: str | None = None
    written_bytes: int = 0

    def freed(self, *, with_dataset: bool) -> int:
        """Return the bytes that are freed. with_dataset: the data set that the run wrote is deleted too."""
        return self.folder_bytes + (self.written_bytes if with_dataset else 0)


def deletable(
    queues: Queues, run_ids: Sequence[str] | None = None, *, older_than: timedelta | None = None
) -> list[Deletion]:
    """Return the runs that may be deleted, the oldest first: those named, or all that ended so long ago.

    SpecError for a named one that is unknown, has not ended, is still worked at, or whose study is under way; among
    all, such runs are left out.
    """
    store = queues.store
    runs = {run.id: run for run in store.runs()}
    studies = {study.id for study in store.studies("running")}
    chosen = []
    with queues.connected() as connection:
        for run_id in dict.fromkeys(run_ids if run_ids is not None else runs):
            refusal = _refusal(connection, runs.get(run_id), run_id, studies)
            if refusal and run_ids is not None:
                raise SpecError(refusal)
            if not refusal and (older_than is None or _ended_at(runs[run_id]) < datetime.now(UTC) - older_than):
                chosen.append(runs[run_id])
    counts = store_upkeep.run_rows(store, [run.id for run in chosen])
    registered: dict[str, str] = dict(store.datasets()[["name", "root"]].itertuples(index=False))
    return [_deletion(queues.settings, run, counts.get(run.id, 0), registered) for run in sorted(chosen, key=_ended_at)]


def _refusal(connection: Connection, run: Run | None, run_id: str, studies: Collection[str]) -> str | None:
    if run is None:
        return f"Expected a run that is in the store, got {run_id}."
    if not run.ended:
        return f"Expected a run that has ended, got {run_id}, which is {run.status}. Cancel it first."
    if run.study in studies:
        return f"Expected a run whose study has ended, got one of {run.study}. Cancel the study first."
    if running_jobs(LiveRun(connection, run_id)):
        return f"Expected a run that no worker works on, got {run_id}. Try again in a moment."
    return None


def _ended_at(run: Run) -> datetime:
    return run.finished_at or run.submitted_at


def _deletion(settings: Settings, run: Run, rows: int, registered: dict[str, str]) -> Deletion:
    folder_bytes = size_of(settings.trained / run.id) if run.trains else 0
    written = run.writes
    if written is None or registered.get(written) != str(settings.reconstructed / written):
        return Deletion(run, rows, folder_bytes)
    return Deletion(run, rows, folder_bytes, written, size_of(settings.reconstructed / written))


def ask_to_delete(queues: Queues, deletions: Sequence[Deletion], *, with_datasets: bool = False) -> None:
    """Have the record worker delete these runs. with_datasets: and the data sets that they wrote."""
    with queues.connected() as connection:
        for each in deletions:
            dataset = each.written if with_datasets else None
            message = RunDeleted(run_id=each.run.id, attempt=each.run.attempt, dataset=dataset, by=queues.user)
            send(connection, message)


def delete(
    settings: Settings, store: Store, connection: Connection, run_id: str, attempt: int, dataset: str | None
) -> bool:
    """Delete a run: its rows, its live keys and jobs, its folder of weights, and the data set that it wrote if named.

    For the record worker. A run that has been retried meanwhile, or is worked at, stays; return whether it is gone.
    """
    live = LiveRun(connection, run_id)
    facts = live.facts()
    if (facts is not None and facts.attempt > attempt) or running_jobs(live):
        live.log("not deleted: it has been begun again, or a worker is at it")
        return False
    if not store_upkeep.delete_run(store, run_id, attempt) and store.run(run_id) is not None:
        return False
    for job in jobs_of(live):
        if job is not None:
            job.delete()
    live.forget()
    _remove_inside(settings.trained, run_id)
    if dataset is not None:
        store.remove_dataset(dataset)
        _remove_inside(settings.reconstructed, dataset)
    return True


def _remove_inside(folder: Path, name: str) -> None:
    """Remove a folder's folder, and nothing that a name such as `..` or a symbolic link leads to."""
    if (folder / name).resolve().parent == folder.resolve() and not (folder / name).is_symlink():
        _remove(folder / name)


# -- caches ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Waste:
    """Files that may be removed. kind: one of CACHES. reason: why they are not needed, a few words."""

    kind: str
    path: Path
    bytes: int
    reason: str
    files: tuple[Path, ...] = field(default=(), repr=False)  # where only some files of `path` may be removed


def waste(
    settings: Settings, queues: Queues | None, *, kinds: Collection[str] = BY_DEFAULT, days: float = DAYS
) -> list[Waste]:
    """Return what may be removed now, by kind and path.

    queues: None where the queue is not to be asked, or does not answer: then only what needs no knowledge of runs is
    found (arrays that were not used, logs, compiled loops). days: that something stays unused.
    """
    unknown = sorted(set(kinds) - set(CACHES))
    if unknown or days < 0:
        raise SpecError(f"Expected kinds among {', '.join(CACHES)} and at least 0 days, got {unknown or days}.")
    search = _Search(settings, None if queues is None else _known(queues), days)
    found = [each for kind in set(kinds) for each in FINDERS[kind](search)]
    return sorted(found, key=lambda each: (list(CACHES).index(each.kind), str(each.path)))


@dataclass(frozen=True)
class _Known:
    """What store and queue know. status: of each run, 'active' for one that the queue has under way."""

    status: dict[str, str]
    writing: frozenset[str]  # names of data sets that are being written
    roots: frozenset[str]
    fingerprints: frozenset[str]


def _known(queues: Queues) -> _Known | None:
    """Return what is known of runs and data sets; None without a store or a queue."""
    if not queues.settings.database.exists():
        return None
    try:
        with queues.connected() as connection:
            active = {run_id: LiveRun(connection, run_id).facts() for run_id in active_runs(connection)}
    except QueueUnavailable:
        return None
    runs, datasets = queues.store.runs(), queues.store.datasets()
    specs = [run.spec_json for run in runs if not run.ended]
    specs += [facts.spec for facts in active.values() if facts is not None]
    names = (json.loads(text).get("name") for text in specs)
    return _Known(
        status={**{run.id: run.status for run in runs}, **dict.fromkeys(active, "active")},
        writing=frozenset(name for name in names if isinstance(name, str)),
        roots=frozenset(datasets["root"]),
        fingerprints=frozenset(datasets["fingerprint"]),
    )


@dataclass(frozen=True)
class _Search:
    """A search for files that may be removed. days: after which something counts as unused.

    known: None where the runs are not known; then only arrays, logs and compiled loops are found.
    """

    settings: Settings
    known: _Known | None
    days: float
    now: float = field(default_factory=time.time)

    def age(self, *paths: Path) -> float:
        """Return the days since one of these files or folders changed last."""
        return (self.now - max(path.stat().st_mtime for path in paths)) / 86400

    def abandoned(self, folder: Path) -> bool:
        """Return whether nothing in a folder has changed for a while."""
        return folder.is_dir() and not folder.is_symlink() and self.age(folder, *folder.rglob("*")) > FRESH


def _waste(kind: str, path: Path, reason: str, files: tuple[Path, ...] = ()) -> Waste:
    return Waste(kind, path, sum(map(size_of, files or (path,))), reason, files)


def _arrays(search: _Search) -> Iterator[Waste]:
    folder = search.settings.arrays
    for about in sorted(folder.glob(f"*/{arrays.ABOUT_NAME}")):
        made, unused, known = about.parent, search.age(about), search.known
        if not arrays.is_free(made):
            continue
        orphan = known is not None and not any(each[:12] == made.name[:12] for each in known.fingerprints)
        if orphan and unused > FRESH:
            yield _waste("arrays", made, "its data set is not registered any more")
        elif unused > search.days:
            yield _waste("arrays", made, f"not used for {unused:.0f} days")
    for half in sorted(folder.glob("*.half")):
        if search.age(half) > FRESH:
            yield _waste("arrays", half, "half made by a process that died")


def _checkpoints(search: _Search) -> Iterator[Waste]:
    statuses = search.known.status if search.known else {}
    for place in sorted(search.settings.trained.glob("*/step-*")):
        status, age = statuses.get(place.parent.name), search.age(place, *place.iterdir())
        if status == "finished" and age > FRESH:
            yield _waste("checkpoints", place, "its run has finished")
        elif status in ("failed", "cancelled") and age > search.days:
            yield _waste("checkpoints", place, f"its run was {status}, {age:.0f} days ago")


def _logs(search: _Search) -> Iterator[Waste]:
    in_use = held(search.settings.data_dir / "launcher.lock")
    for path in sorted(path for path in search.settings.logs.glob("*") if path.is_file()):
        if re.search(r"\.\d+$", path.name):
            yield _waste("logs", path, "moved aside")
        elif (age := search.age(path)) > search.days and not in_use:
            yield _waste("logs", path, f"not written to for {age:.0f} days")


def _compiled(search: _Search) -> Iterator[Waste]:
    folder = Path(os.environ.get("NUMBA_CACHE_DIR") or Path(core.__file__).parent / "compression" / "__pycache__")
    old = tuple(path for path in sorted(folder.glob("**/*.nb[ci]")) if search.age(path) > search.days)
    if old:
        yield _waste("numba", folder, f"{len(old)} compiled loops", old)


def _trained(search: _Search) -> Iterator[Waste]:
    kinds = tuple(f"{kind}-" for kind in TRAINING_SPECS)
    for folder in sorted(search.settings.trained.glob("*")):
        known = search.known is None or folder.name in search.known.status
        if folder.name.startswith(kinds) and not known and search.abandoned(folder):
            yield _waste("trained", folder, "the store knows no such run")


def _reconstructed(search: _Search) -> Iterator[Waste]:
    for folder in sorted(search.settings.reconstructed.glob("*")):
        known = search.known is None or str(folder) in search.known.roots or folder.name in search.known.writing
        if not known and search.abandoned(folder):
            yield _waste("reconstructed", folder, "it is not a registered data set")


FINDERS: dict[str, Callable[[_Search], Iterator[Waste]]] = {
    "arrays": _arrays,
    "checkpoints": _checkpoints,
    "logs": _logs,
    "numba": _compiled,
    "trained": _trained,
    "reconstructed": _reconstructed,
}


def remove(found: Sequence[Waste], by: str) -> Iterator[Waste]:
    """Remove these files; yield what was removed. An array that a process has opened meanwhile stays. by: the user."""
    for each in found:
        if each.kind == "arrays" and not each.path.name.endswith(".half"):
            if not arrays.remove_free(each.path):
                continue
        elif each.files:
            for path in each.files:
                path.unlink(missing_ok=True)
        else:
            _remove(each.path)
        facts = {"by": by, "kind": each.kind, "path": str(each.path), "bytes": each.bytes}
        LOG.warning("%s removed %s, %s", by, each.path, each.reason, extra=facts)
        yield each


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


# -- disk --------------------------------------------------------------------------------------------------------------


def disk_use(settings: Settings) -> dict[str, int]:
    """Return the bytes of DATA_DIR by part, in the order in which people ask for them."""
    log = settings.database.with_name(f"{settings.database.name}.wal")
    parts = {
        "store": size_of(settings.database) + size_of(log),
        "queue": size_of(settings.redis_url_file.parent),
        "weights and checkpoints": size_of(settings.trained),
        "arrays": size_of(settings.arrays),
        "reconstructed images": size_of(settings.reconstructed),
        "logs": size_of(settings.logs),
        "backups": size_of(settings.backups),
    }
    return {**parts, "other": max(0, size_of(settings.data_dir) - sum(parts.values()))}


def existing(folder: Path) -> Path:
    """Return a folder, or the nearest folder above it that exists."""
    return next(each for each in (folder, *folder.parents) if each.exists())


def size_of(path: Path) -> int:
    """Return the bytes of a file, or of all files below a folder; 0 where there is nothing."""
    below = (Path(folder) / name for folder, _, names in os.walk(path) for name in names)
    total = 0
    for each in below if path.is_dir() else (path.resolve(),):
        with contextlib.suppress(OSError):  # removed meanwhile, or not ours to read
            total += each.lstat().st_size
    return total


def held(path: Path) -> bool:
    """Return whether a process holds a lock file, such as the launcher's."""
    try:
        with path.open("rb") as lock:
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
            return False
    except FileNotFoundError:
        return False
    except BlockingIOError:
        return True


# -- command line ------------------------------------------------------------------------------------------------------


def age(text: str) -> timedelta:
    """Parse `90d`, `12h` or `4w`."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)([hdw])", text)
    if not match:
        raise argparse.ArgumentTypeError(f"Expected an age such as 90d, 12h or 4w, got {text}.")
    return timedelta(days=days(str(float(match[1]) * UNITS[match[2]])))


def days(text: str) -> float:
    """Parse a number of days, 0 to `MOST_DAYS`."""
    try:
        found = float(text)
    except ValueError:
        found = math.nan
    if not 0 <= found <= MOST_DAYS:
        raise argparse.ArgumentTypeError(f"Expected 0 to {MOST_DAYS:,} days, got {text}.")
    return found


def add_commands(commands: Any, command: Callable[..., argparse.ArgumentParser]) -> None:
    """Add `delete` and `prune`; command: adds one."""
    deleting = command(commands, "delete", "delete runs that have ended: rows, weights, checkpoints", act_delete)
    deleting.add_argument("runs", metavar="RUN", nargs="*", help="ids, from `status`")
    deleting.add_argument("--older-than", type=age, metavar="AGE", help="all that ended so long ago, such as 90d")
    deleting.add_argument("--dry-run", action="store_true", help="only say what would be freed")
    deleting.add_argument(
        "--with-datasets", action="store_true", help="the data sets that reconstructions wrote too, images included"
    )
    pruning = command(commands, "prune", "remove caches that can be made again, and leftovers", act_prune)
    pruning.add_argument(
        "--kinds", default=",".join(BY_DEFAULT), help=f"some of {','.join(CACHES)} (default: %(default)s)"
    )
    pruning.add_argument("--days", type=days, default=DAYS, help=f"that something stays unused (default {DAYS:g})")
    pruning.add_argument("--dry-run", action="store_true", help="only say what would be freed")


def act_delete(options: argparse.Namespace) -> int:
    """Delete runs, or say what that would free."""
    if bool(options.runs) == (options.older_than is not None):
        raise SpecError(f"Expected either runs or --older-than, got {'both' if options.runs else 'neither'}.")
    queues = Queues(Settings.from_environment())
    found = deletable(queues, options.runs or None, older_than=options.older_than)
    for each in found:
        kept = f"data set {each.written} stays" if each.written and not options.with_datasets else ""
        freed = megabytes(each.freed(with_dataset=options.with_datasets))
        print("\t".join((each.run.id, each.run.status, f"{each.rows:,} rows", freed, kept)).rstrip())
    total = sum(each.freed(with_dataset=options.with_datasets) for each in found)
    if options.dry_run:
        print(f"would free {megabytes(total)} and {sum(each.rows for each in found):,} rows; nothing was deleted")
        return 0
    ask_to_delete(queues, found, with_datasets=options.with_datasets)
    left = _wait_until_gone(queues, {each.run.id for each in found})
    gone = [each for each in found if each.run.id not in left]
    freed = megabytes(sum(each.freed(with_dataset=options.with_datasets) for each in gone))
    print(f"{len(gone)} runs deleted, {freed} and {sum(each.rows for each in gone):,} rows freed")
    if left:
        reason = "they may have been begun again" if queues.record_worker_alive() else "it deletes them once it runs"
        print(f"not deleted within {WAIT:.0f} s: {', '.join(sorted(left))}; {reason}", file=sys.stderr)
    return 1 if left else 0


def _wait_until_gone(queues: Queues, run_ids: Set[str]) -> set[str]:
    deadline = time.monotonic() + (WAIT if queues.record_worker_alive() else 0)
    while True:
        left = {run.id for run in queues.store.runs()} & run_ids
        if not left or time.monotonic() > deadline or queues.messages_waiting() == 0:
            return {run.id for run in queues.store.runs()} & run_ids
        time.sleep(0.2)


def act_prune(options: argparse.Namespace) -> int:
    """Remove caches, or say what that would free."""
    settings = Settings.from_environment()
    queues = Queues(settings)
    found = waste(settings, queues, kinds=options.kinds.split(","), days=options.days)
    for each in found:
        print("\t".join((each.kind, megabytes(each.bytes), str(each.path), each.reason)))
    if settings.database.exists() and _known(queues) is None:
        print("the queue does not answer, so what belongs to runs stays", file=sys.stderr)
    if options.dry_run:
        print(f"would free {megabytes(sum(each.bytes for each in found))}; nothing was removed")
        return 0
    gone = list(remove(found, queues.user))
    kinds = ", ".join(f"{count} {kind}" for kind, count in Counter(each.kind for each in gone).items())
    print(f"{megabytes(sum(each.bytes for each in gone))} freed" + (f": {kinds}" if kinds else ""))
    return 0


def megabytes(count: int) -> str:
    """Return bytes as megabytes, to a tenth."""
    return f"{count / 1e6:,.1f} MB"
