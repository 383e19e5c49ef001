"""Looks at everything that a person asked for help would ask for, and says what to do where something is wrong.

Every check stands alone, so that the rest is still looked at where store, queue or disk are down. Nothing is changed.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import platform
import re
import shlex
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import tomllib
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path
from typing import Any

import psutil
import redis
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from rq import Worker
from rq.job import Job
from rq.registry import FailedJobRegistry
from rq.serializers import JSONSerializer

from core import __version__
from core.data.folders import folder_here
from core.errors import (
    DatasetError,
    DermSlimError,
    QueueUnavailable,
    SpecError,
    StoreBusy,
    StoreDamaged,
    StoreUnavailable,
)
from core.files.private import open_to_others
from core.networks.network_files import FOLDER, load_networks
from core.settings import Settings, usable_cores, variables
from core.store import check as store_check
from core.store import holders as store_holders
from core.store.file import lock_path, plain_rows
from core.store.measurements import Store
from core.store.migrations import VERSION
from core.store.trainings import ENDED
from core.training.backend import INSTALL, cannot_train, missing_packages
from jobs.connection import QUEUES, RECORD, SVD, Connection, connect, queue, source_of
from jobs.hosts import Folder, folder_of, told_folders
from jobs.live_runs import LiveRun, active_runs
from jobs.logs import masked
from jobs.messages import REJECTED, waiting
from jobs.provenance import code_revision
from jobs.queues import Queues
from jobs.record_worker import UNDER_WAY
from jobs.run_jobs import TRAIN_QUEUES
from jobs.run_states import LATE
from jobs.upkeep import webhooks
from jobs.upkeep.backup import last_backup
from jobs.upkeep.retention import held, size_of

OK, WARNING, ERROR = "ok", "warning", "error"
LITTLE, TOO_LITTLE = 5e9, 0.5e9  # bytes free on a disk
SKEW = 5.0  # seconds between two clocks
BACKUP_DAYS = 7.0
MANY_RECORDS = 1000
SHOWN = 5  # examples named
AT_ONCE = 0.2  # seconds that the doctor waits for a program outside DermSlim that holds the store
PATIENCE = 60  # seconds that Keras may take to say what it sees
ROOT = Path(__file__).resolve().parents[2]
ENVIRONMENT = re.compile(
    r"DATA_|DERMSLIM|REDIS|PORT$|SVD_WORKERS|TRAIN_WORKERS|ARRAYS_|LOG_FORMAT|WEBHOOK|DASHBOARD|METRICS_|KERAS_|CUDA_"
    r"|TF_|XLA_|OMP_|OPENBLAS|MKL_|NUMBA_|STREAMLIT_|TMPDIR|PYTHONPATH"
)
# Keras is asked in a process of its own: it takes seconds to import, and a driver that is broken may end it.
SEES = (
    "import keras\n"
    "name = keras.backend.backend()\n"
    "if name == 'tensorflow':\n"
    "    import tensorflow\n"
    "    found = [device.name for device in tensorflow.config.list_physical_devices('GPU')]\n"
    "else:\n"
    "    found = [each for each in keras.distribution.list_devices() if not each.startswith('cpu')]\n"
    "print('SEES', name, ','.join(found) or 'none')\n"
)


@dataclass(frozen=True)
class Check:
    """One thing that was looked at. status: ok, warning, error. advice: what to do, empty where all is well."""

    area: str
    name: str
    status: str
    expected: str
    found: str
    advice: str = ""


Checks = Iterator[Check]


def examine(settings: Settings, *, keras: bool = True) -> Checks:
    """Yield every check, in the order in which one thing rests on another. keras: whether it is started and asked."""
    areas: dict[str, Callable[[Settings], Checks]] = {
        "software": check_software,
        "machine": check_machine,
        "environment": check_environment,
        "disk": check_disk,
        "privacy": check_privacy,
        "processes": check_processes,
        "store": check_store,
        "queue": check_queue,
        "workers": check_workers,
        "work": check_work,
        "data": check_data,
        "networks": check_networks,
        "gpu": check_keras if keras else check_gpu,
        "outside": check_outside,
    }
    silent = False
    for area, look in areas.items():
        if silent and area in ("workers", "work"):
            yield Check(area, "not looked at", WARNING, "a queue that answers", "it does not", "See queue.")
            continue
        try:
            yield from look(settings)
        except (DermSlimError, OSError, redis.RedisError, subprocess.SubprocessError) as error:
            silent = silent or area == "queue"
            advice = _advice(settings, error)
            yield Check(area, "could not be looked at", ERROR, "an answer", masked(str(error)), advice)


def _advice(settings: Settings, error: Exception) -> str:
    if isinstance(error, StoreBusy):
        return "Close that program. `python -m jobs snapshot FOLDER` gives it a copy to read; records wait meanwhile."
    if isinstance(error, StoreDamaged):
        last = last_backup(settings)
        known = "FILE" if last is None else shlex.quote(last["file"])
        first = "" if last else "No backup is known here. "
        command = f"python -m jobs restore {known} --force --without-queue"
        return f"{first}Stop everything, keep a copy of the file, then `{command}`."
    if isinstance(error, QueueUnavailable | redis.RedisError):
        return "Start it: `make up`, or see to REDIS_URL's server."
    return "See to what it names."


def _store(settings: Settings) -> Store:
    return Store(settings.database, strangers=AT_ONCE)


def _without_store(area: str, name: str) -> Check:
    return Check(area, name, WARNING, "a store that can be read", "not looked at", "See store.")


# -- the machine -------------------------------------------------------------------------------------------------------


def check_software(settings: Settings) -> Checks:
    """Look at Python, at the packages against their locked versions, and at whether training is possible."""
    right = (3, 11) <= sys.version_info[:2] <= (3, 13)
    yield Check(
        "software",
        "Python",
        OK if right else ERROR,
        "3.11 to 3.13",
        platform.python_version(),
        "" if right else "make setup PYTHON=/path/to/python3.12",
    )
    needed = [each for each in requirements() if not each.marker or each.marker.evaluate({"extra": ""})]
    found = {each.name: installed(each.name) for each in needed}
    other = [each for each in needed if not each.specifier.contains(found[each.name] or "0")]
    missing = any(found[each.name] is None for each in other)
    yield Check(
        "software",
        "packages",
        ERROR if missing else WARNING if other else OK,
        f"the {len(needed)} that DermSlim needs",
        ", ".join(f"{each.name} {found[each.name] or 'missing'}, not {each.specifier}" for each in other)
        or "all of them",
        "`make setup` installs them." if other else "",
    )
    absent = ", ".join(missing_packages())
    yield Check(
        "software",
        "training",
        WARNING if absent else OK,
        "Keras and its backend, where networks are trained",
        f"not installed: {absent}; networks cannot be trained here" if absent else "installed",
        INSTALL if absent else "",
    )
    yield Check("software", "version", OK, "DermSlim's", f"{__version__}, {code_revision() or 'not a checkout'}")


def requirements() -> list[Requirement]:
    """Return the direct dependencies with their locked versions where requirements.txt names one, else their ranges."""
    project = ROOT / "pyproject.toml"
    if not project.exists():  # a wheel
        return [Requirement(text) for text in requires("dermslim") or ()]
    lock = ROOT / "requirements.txt"
    locked = dict(re.findall(r"^([\w.-]+)==(\S+)", lock.read_text() if lock.exists() else "", re.MULTILINE))
    found = [Requirement(text) for text in tomllib.loads(project.read_text())["project"]["dependencies"]]
    for each in found:
        if each.name in locked:
            each.specifier = SpecifierSet(f"=={locked[each.name]}")
    return found


def installed(name: str) -> str | None:
    """Return a package's version, or None where it is not installed."""
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def check_machine(settings: Settings) -> Checks:
    """Look at the system, its cores and its memory."""
    yield Check("machine", "system", OK, "Linux or macOS", f"{platform.platform()} on {platform.machine()}")
    yield Check("machine", "cores", OK, "one or more", f"{usable_cores()} usable, load {os.getloadavg()[0]:.1f}")
    memory = psutil.virtual_memory()
    little = memory.available < 1e9
    yield Check(
        "machine",
        "memory",
        WARNING if little else OK,
        "1 GB or more available",
        f"{memory.available / 1e9:.1f} of {memory.total / 1e9:.1f} GB available",
        "Run fewer workers (SVD_WORKERS, TRAIN_WORKERS) or smaller batches." if little else "",
    )


def check_environment(settings: Settings) -> Checks:
    """List the variables that matter, secrets masked."""
    given = {name: value for name, value in os.environ.items() if ENVIRONMENT.match(name)} | variables().given()
    text = ", ".join(f"{name}={masked(value, given)}" for name, value in sorted(given.items()))
    yield Check("environment", "variables", OK, "what differs from the defaults", text or "none is set")


def check_disk(settings: Settings) -> Checks:
    """Look at the room on each disk that is written to, and whether DATA_DIR can be written."""
    places = {
        "DATA_DIR": settings.data_dir,
        "arrays": settings.arrays,
        "trained": settings.trained,
        "temporary files": Path(tempfile.gettempdir()),
    }
    seen: dict[int, str] = {}
    for name, folder in places.items():
        there = next(each for each in (folder, *folder.parents) if each.exists())
        device = there.stat().st_dev
        if device in seen and name != "DATA_DIR":
            continue
        seen[device] = name
        free = shutil.disk_usage(there).free
        status = ERROR if free < TOO_LITTLE else WARNING if free < LITTLE else OK
        advice = "`python -m jobs prune --dry-run` says what may go." if status != OK else ""
        found = f"{free / 1e9:.1f} GB free at {there}"
        yield Check("disk", f"room for {name}", status, f"{LITTLE / 1e9:.0f} GB or more", found, advice)
    try:
        with tempfile.TemporaryFile(dir=settings.data_dir) as probe:
            probe.write(b"\0" * 4096)
        problem = ""
    except OSError as error:
        problem = error.strerror or str(error)
    yield Check(
        "disk",
        "DATA_DIR can be written",
        ERROR if problem else OK,
        "a file can be written",
        f"{settings.data_dir}: {problem or 'it can'}",
        "Set DATA_DIR to a folder of your own, or `make up` once to make it." if problem else "",
    )
    taken = size_of(settings.arrays)
    over = taken > settings.arrays_limit
    yield Check(
        "disk",
        "arrays",
        WARNING if over else OK,
        f"at most {settings.arrays_limit / 1e9:.0f} GB (ARRAYS_LIMIT_GB)",
        f"{taken / 1e9:.2f} GB",
        "`python -m jobs prune --kinds arrays` removes those that nothing uses." if over else "",
    )


def check_privacy(settings: Settings) -> Checks:
    """Look at what of DATA_DIR other accounts of this host reach."""
    found = open_to_others(settings)
    yield Check(
        "privacy",
        "other accounts",
        WARNING if found else OK,
        "no way into DATA_DIR",
        ", ".join(found[:SHOWN]) or "none reaches it",
        f"`make up` closes what is DermSlim's; by hand: chmod 700 {settings.data_dir}" if found else "",
    )


def check_processes(settings: Settings) -> Checks:
    """Look at who runs on this DATA_DIR, and at the dashboard's port."""
    launcher, recorder = (held(settings.data_dir / name) for name in ("launcher.lock", "record-worker.lock"))
    yield Check("processes", "launcher here", OK, "running, or not", "running" if launcher else "not running")
    yield Check(
        "processes",
        "record worker here",
        OK if recorder else WARNING,
        "one, beside the store",
        "running" if recorder else "not running",
        ""
        if recorder
        else "`make up`, or `python -m jobs.worker record`: without it nothing is written to the store. On a host of"
        " further workers there is none.",
    )
    port = variables().port
    with socket.socket() as probe:
        probe.settimeout(1)
        answers = probe.connect_ex(("127.0.0.1", port)) == 0
    found = f"port {port} of 127.0.0.1 {'answers' if answers else 'is free'}"
    clash = answers and not launcher
    yield Check(
        "processes",
        "dashboard's port",
        WARNING if clash else OK,
        "answers while the launcher runs here",
        found + (", but no launcher runs here" if clash else ""),
        "Another program, or another DATA_DIR's dashboard, has it: PORT=8601 make up." if clash else "",
    )


# -- store and queue ---------------------------------------------------------------------------------------------------


def check_store(settings: Settings) -> Checks:
    """Look at the store's file: who has it open, whether it opens, its schema, and whether every row can be read."""
    if not settings.database.exists():
        yield Check(
            "store",
            "file",
            WARNING,
            str(settings.database),
            "none yet",
            "The record worker makes it: `make up`. A host of further workers needs none.",
        )
        return
    lock = lock_path(settings.database)
    outside = store_holders.described(store_holders.strangers(settings.database, lock))
    own = store_holders.described(store_holders.holders(lock))
    yield Check(
        "store",
        "open in",
        WARNING if outside else OK,
        "no program outside DermSlim",
        masked(outside or own) or "no other process now",
        f"Nothing is recorded while it is. {_advice(settings, StoreBusy())}" if outside else "",
    )
    counts = store_check.checked(settings.database)
    began = time.perf_counter()
    found = _store(settings).schema_version()
    took = 1000 * (time.perf_counter() - began)
    yield Check(
        "store",
        "schema",
        OK if found == VERSION else ERROR,
        f"version {VERSION}",
        f"version {found}, opened in {took:.0f} ms",
        ""
        if found == VERSION
        else "Start the record worker, which brings it forwards."
        if found < VERSION
        else "This code is older than the store: update it.",
    )
    rows = ", ".join(f"{name} {count:,}" for name, count in counts.items() if count)
    size = settings.database.stat().st_size / 1e6
    yield Check("store", "content", OK, "every row can be read", f"{size:,.1f} MB; {rows or 'no row yet'}")


def check_queue(settings: Settings) -> Checks:
    """Look at the server: whether it answers, its version, persistence, memory and clock."""
    connection = connect(settings)
    place = source_of(settings).address().place
    began = time.time()
    seconds, microseconds = connection.time()
    took = time.time() - began
    facts = connection.info()
    name = "Valkey" if "valkey_version" in facts else "Redis"
    number = facts.get("valkey_version") or facts["redis_version"]
    yield Check("queue", "server", OK, "an answer", f"{name} {number} at {place}, {1000 * took:.1f} ms")
    persists = bool(int(facts.get("aof_enabled", 0)))
    saved = facts.get("aof_last_write_status", "ok") == "ok" and facts.get("rdb_last_bgsave_status", "ok") == "ok"
    yield Check(
        "queue",
        "persistence",
        ERROR if not saved else OK if persists else WARNING,
        "an append-only file that is written",
        ("append-only file on" if persists else "append-only file off") + ("" if saved else ", the last write failed"),
        ""
        if persists and saved
        else "Set `appendonly yes`: a queued night must survive a restart."
        if saved
        else "See to the server's disk.",
    )
    policy, limit = facts.get("maxmemory_policy", "unknown"), int(facts.get("maxmemory", 0))
    yield Check(
        "queue",
        "memory policy",
        OK if policy == "noeviction" else ERROR if limit else WARNING,
        "noeviction",
        policy,
        "" if policy == "noeviction" else "Set `maxmemory-policy noeviction`: the server may forget jobs otherwise.",
    )
    used = int(facts["used_memory"])
    full = bool(limit) and used > 0.9 * limit
    yield Check(
        "queue",
        "memory",
        ERROR if full else OK,
        f"below 90 % of {limit / 1e6:,.0f} MB" if limit else "no limit set",
        f"{used / 1e6:,.1f} MB",
        "Raise maxmemory: a full server refuses jobs and records." if full else "",
    )
    skew = abs(seconds + microseconds / 1e6 - (began + took / 2))
    late = skew > SKEW
    yield Check(
        "queue",
        "clock",
        WARNING if late else OK,
        f"within {SKEW:.0f} s of this host's",
        f"{skew:.1f} s apart",
        "Keep both clocks by NTP: signs of life are told by them." if late else "",
    )


def check_workers(settings: Settings) -> Checks:
    """Look at the workers by kind and host, and at those that gave no sign of life for a while."""
    with_sign: dict[str, list[str]] = {kind: [] for kind in QUEUES}
    late = []
    now = datetime.now(UTC)
    connection = connect(settings)
    alive = {worker.name for worker in Queues(settings, connection).workers()}
    for worker in Worker.all(connection=connection, serializer=JSONSerializer):
        kind = next((name for name in worker.queue_names() if name in QUEUES), None)
        if kind is None or worker.last_heartbeat is None:
            continue
        seen = (now - worker.last_heartbeat.replace(tzinfo=UTC)).total_seconds()
        if worker.name in alive:
            with_sign[kind].append(f"{worker.hostname}, {worker.get_state()}, seen {seen:.0f} s ago")
        else:
            late.append(f"{worker.name}, seen {seen:.0f} s ago")
    for kind, found in with_sign.items():
        right = len(found) == 1 if kind == RECORD else bool(found)
        yield Check(
            "workers",
            kind,
            OK if right else ERROR if kind == RECORD else WARNING,
            "exactly one" if kind == RECORD else "one or more",
            "; ".join(found) or "none",
            "" if right else f"`make up`, or `python -m jobs.worker {kind}`.",
        )
    yield Check(
        "workers",
        "without a sign of life",
        WARNING if late else OK,
        f"none for more than {LATE:.0f} s",
        "; ".join(late[:SHOWN]) or "none",
        "They died; what they were at is begun again by another of their kind within a minute." if late else "",
    )


def check_work(settings: Settings) -> Checks:
    """Look at queues, records, runs without a job, failed jobs, and webhooks that wait."""
    connection = connect(settings)
    queues = Queues(settings, connection)
    kinds = {worker.kind for worker in queues.workers()}
    names = (SVD, *TRAIN_QUEUES, RECORD)
    lengths = {name: queue(name, connection).count for name in names}
    stuck = [name for name, count in lengths.items() if count and name.split("-")[0] not in kinds]
    yield Check(
        "work",
        "queues",
        WARNING if stuck else OK,
        "a worker for each that has jobs",
        ", ".join(f"{name} {count:,}" for name, count in lengths.items()),
        f"Nobody serves {', '.join(stuck)}: start a worker of that kind." if stuck else "",
    )
    records, rejected = waiting(connection), int(connection.llen(REJECTED))
    many = records > MANY_RECORDS
    yield Check(
        "work",
        "records waiting",
        WARNING if many else OK,
        f"at most {MANY_RECORDS:,}",
        f"{records:,}",
        "The record worker is down or waits for the store: see its log." if many else "",
    )
    reasons = Counter(json.loads(text).get("kind", "unknown") for text in connection.lrange(REJECTED, 0, -1))
    yield Check(
        "work",
        "records rejected",
        ERROR if rejected else OK,
        "none",
        f"{rejected}: " + ", ".join(f"{count} {kind}" for kind, count in reasons.items()) if rejected else "none",
        f"They lie in the list {REJECTED}; the record worker's log says why." if rejected else "",
    )
    yield _orphans(_store(settings), connection)
    failed = list(_failed_jobs(connection, names))
    yield Check(
        "work",
        "failed jobs",
        WARNING if failed else OK,
        "none",
        f"{len(failed)}; " + "; ".join(failed[:SHOWN]) if failed else "none",
        "`python -m jobs retry RUN` begins again what is missing." if failed else "",
    )
    undelivered, given_up = webhooks.undelivered(connection)
    yield Check(
        "work",
        "webhooks",
        WARNING if given_up or undelivered > SHOWN else OK,
        "all delivered",
        f"{undelivered} wait, {given_up} given up",
        "See that WEBHOOK_URL answers with a status of 200 to 299." if given_up or undelivered > SHOWN else "",
    )


def _orphans(store: Store, connection: Connection) -> Check:
    name = "runs under way without a job"
    try:
        orphans = [run_id for run_id in _claiming_to_run(store, connection) if run_id]
    except StoreUnavailable:
        return _without_store("work", name)
    if not orphans:
        return Check("work", name, OK, "none", "none")
    advice = "The record worker ends or resumes them within seconds; if it runs and they stay, "
    return Check("work", name, ERROR, "none", ", ".join(orphans[:SHOWN]), f"{advice}`python -m jobs cancel RUN`.")


def _claiming_to_run(store: Store, connection: Connection) -> Iterator[str]:
    """Yield the runs that have not ended, are not held, and have no job under way."""
    recorded = {row["run_id"]: row for row in plain_rows(store.runs()) if row["status"] not in ENDED}
    for run_id in dict.fromkeys([*recorded, *active_runs(connection)]):
        live = LiveRun(connection, run_id)
        facts = live.facts()
        if facts.get("submitting") or facts.get("hold"):
            continue
        jobs = Job.fetch_many(live.job_ids(), connection=connection, serializer=JSONSerializer)
        if not any(job is not None and job.get_status(refresh=False) in UNDER_WAY for job in jobs):
            if facts and waiting(connection):
                continue  # its end may be among the records
            yield run_id


def _failed_jobs(connection: Connection, names: tuple[str, ...]) -> Iterator[str]:
    for name in names:
        registry = FailedJobRegistry(queue=queue(name, connection), serializer=JSONSerializer)
        for job in Job.fetch_many(registry.get_job_ids(), connection=connection, serializer=JSONSerializer):
            if job is not None:
                latest = job.latest_result()
                lines = ((latest.exc_string if latest else None) or "no reason was left").strip().splitlines()
                yield masked(f"{job.id}: {lines[-1][:200]}")


# -- data, networks, accelerators --------------------------------------------------------------------------------------


def check_data(settings: Settings) -> Checks:
    """Look at the data roots, and at the files of every registered data set."""
    absent = [str(root) for root in settings.data_roots if not root.is_dir()]
    unreadable = [str(root) for root in settings.data_roots if root.is_dir() and not os.access(root, os.R_OK | os.X_OK)]
    broken = unreadable + (absent if settings.data_roots_given else [])
    yield Check(
        "data",
        "data roots",
        WARNING if broken else OK,
        "folders that can be read",
        ", ".join(broken) or ", ".join(str(root) for root in settings.data_roots if root.is_dir()),
        "See to DATA_ROOTS, or to these folders' permissions." if broken else "",
    )
    try:
        folders = list(_folders(settings))
    except StoreUnavailable:
        yield _without_store("data", "data sets")
        return
    for folder in folders:
        gone, changed, problem = 0, 0, ""
        here = settings.here(Path(folder.root))
        try:
            here = folder_here(Path(folder.root), settings)
            problem = "" if here.is_dir() else "its folder is gone"
        except DatasetError as error:
            problem = str(error)
        for path, size in folder.files.items() if not problem else ():
            try:
                changed += (here / path).stat().st_size != size
            except OSError:
                gone += 1
        some = "" if len(folder.files) == folder.images else f" of {len(folder.files):,} looked at"
        problem = problem or (f"{gone} files gone, {changed} changed{some}" if gone or changed else "")
        advice = f"Put them back, or `python -m jobs register {folder.root} --name {folder.name}` anew; on another host"
        yield Check(
            "data",
            f"data set {folder.name}",
            WARNING if problem else OK,
            f"{folder.images:,} images as registered at {folder.root}"
            + (f", here {here}" if str(here) != folder.root else ""),
            problem or f"all there, of the same sizes{some}",
            f"{advice} than the dashboard's, see to DATA_ROOTS." if problem else "",
        )


def _folders(settings: Settings) -> Iterator[Folder]:
    """Yield the folders of registered data sets: from the store, on a host without one from the queue."""
    if settings.database.exists():
        store = _store(settings)
        for name in store.datasets()["name"]:
            dataset = store.dataset(str(name))
            if dataset is not None:
                yield folder_of(dataset)
        return
    with contextlib.suppress(QueueUnavailable, redis.RedisError):  # which check_queue has said
        yield from told_folders(connect(settings))


def check_networks(settings: Settings) -> Checks:
    """Look at the files of own networks."""
    found = load_networks(settings.data_dir / FOLDER)
    broken = "; ".join(found.left_out.values())
    yield Check(
        "networks",
        "own networks",
        WARNING if broken else OK,
        "files that can be read",
        broken or f"{len(found.networks)} beside the article's",
        "The page Networks has an example that can be read." if broken else "",
    )


def check_gpu(settings: Settings) -> Checks:
    """Look at the GPUs that the driver names."""
    program = shutil.which("nvidia-smi")
    if program is None:
        yield Check("gpu", "driver", OK, "GPUs, or none", "no nvidia-smi: networks are trained on the CPU")
        return
    fields = "name,driver_version,memory.used,memory.total,utilization.gpu"
    asked = subprocess.run(
        [program, f"--query-gpu={fields}", "--format=csv,noheader"], capture_output=True, text=True, timeout=PATIENCE
    )
    lines = asked.stdout.strip().splitlines()
    works = asked.returncode == 0 and bool(lines)
    yield Check(
        "gpu",
        "driver",
        OK if works else ERROR,
        "a line a GPU",
        "; ".join(lines) if works else (asked.stderr or asked.stdout).strip()[:200],
        "" if works else "See to NVIDIA's driver; in a container, to its runtime.",
    )


def check_keras(settings: Settings) -> Checks:
    """Look at the GPUs, and ask Keras, in a process of its own, which it sees."""
    driver = next(check_gpu(settings))
    yield driver
    if cannot_train():
        return
    environment = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"}
    asked = subprocess.run(
        [sys.executable, "-c", SEES], capture_output=True, text=True, timeout=PATIENCE, env=environment, cwd=ROOT
    )
    answer = re.search(r"^SEES (\S+) (.*)$", asked.stdout, re.MULTILINE)
    if answer is None:
        last = (asked.stderr.strip().splitlines() or [f"exit code {asked.returncode}"])[-1]
        yield Check("gpu", "Keras", ERROR, "an answer", masked(last[:200]), "make setup; see KERAS_BACKEND.")
        return
    lacks = answer[2] == "none" and shutil.which("nvidia-smi") is not None and driver.status == OK
    yield Check(
        "gpu",
        "Keras",
        WARNING if lacks else OK,
        "every GPU of the driver",
        f"backend {answer[1]}, GPUs: {answer[2]}",
        "Install the backend with CUDA: pip install 'tensorflow[and-cuda]'." if lacks else "",
    )


def check_outside(settings: Settings) -> Checks:
    """Look at the last backup and at the webhook's settings."""
    last = last_backup(settings)
    days = None if last is None else (datetime.now(UTC) - last["made_at"]).total_seconds() / 86400
    old = settings.database.exists() and (days is None or days > BACKUP_DAYS)
    yield Check(
        "outside",
        "last backup",
        WARNING if old else OK,
        f"at most {BACKUP_DAYS:.0f} days ago",
        "none" if last is None or days is None else f"{days:.1f} days ago, {last['file']}",
        "`python -m jobs backup` makes one while everything runs." if old else "",
    )
    try:
        webhooks.check(settings)
        problem = ""
    except SpecError as error:
        problem = str(error)
    yield Check(
        "outside",
        "webhook",
        ERROR if problem else OK,
        "http or https, known events",
        problem or ("set" if settings.webhook_url else "none"),
        "Mend it in the record worker's environment." if problem else "",
    )


# -- command line ------------------------------------------------------------------------------------------------------


def add_commands(commands: Any, command: Callable[..., argparse.ArgumentParser]) -> None:
    """Add `doctor`; command: adds one."""
    shown = command(commands, "doctor", "look at everything and say what is wrong and what to do", act_doctor)
    shown.add_argument("--json", action="store_true", help="a JSON list, for a report")
    shown.add_argument("--without-keras", action="store_true", help="do not start Keras to ask what it sees")


def act_doctor(options: argparse.Namespace) -> int:
    """Examine; 1 when something is an error."""
    try:
        found = list(examine(Settings.from_environment(), keras=not options.without_keras))
    except SpecError as error:
        advice = "Mend the variable that it names."
        found = [Check("environment", "settings", ERROR, "settings that can be read", masked(str(error)), advice)]
    if options.json:
        print(json.dumps([asdict(check) for check in found], indent=1))
    else:
        for check in found:
            print(line(check))
        counts = Counter(check.status for check in found)
        print(f"{counts[OK]} ok, {counts[WARNING]} warnings, {counts[ERROR]} errors")
    return 1 if any(check.status == ERROR for check in found) else 0


def line(check: Check) -> str:
    """Return a check as a person reads it; what was expected and what to do only where something is wrong."""
    text = f"{check.status:8} {check.area + ': ' + check.name:36} {check.found}"
    if check.status == OK:
        return text
    return f"{text}\n{'':9}expected: {check.expected}\n{'':9}{check.advice}"
