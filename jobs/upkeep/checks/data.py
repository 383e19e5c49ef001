"""Checks of data sets, own networks, accelerators, backups and webhooks."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import redis

from core.data.folders import folder_here
from core.errors import DatasetError, QueueUnavailable, SpecError, StoreUnavailable
from core.networks.network_files import FOLDER, load_networks
from core.settings import Settings
from core.training.backend import cannot_train
from jobs.connection import connect
from jobs.hosts import Folder, folder_of, told_folders
from jobs.logs import masked
from jobs.upkeep import webhooks
from jobs.upkeep.backup import last_backup
from jobs.upkeep.checks.check import ERROR, OK, Checks, check
from jobs.upkeep.checks.host import ROOT
from jobs.upkeep.checks.work import opened_store, without_store

BACKUP_DAYS = 7.0
PATIENCE = 60  # seconds for the answer of Keras or nvidia-smi
# Keras runs in a separate process: it takes seconds to import, and a broken driver may end the process.
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


def check_data(settings: Settings) -> Checks:
    """Check the data roots, and the files of every registered data set."""
    roots = settings.data_roots
    absent = [str(root) for root in roots if not root.is_dir()]
    unreadable = [str(root) for root in roots if root.is_dir() and not os.access(root, os.R_OK | os.X_OK)]
    broken = unreadable + (absent if settings.data_roots_given else [])
    found = ", ".join(broken) or ", ".join(str(root) for root in roots if root.is_dir())
    advice = "Correct DATA_ROOTS, or the permissions of these folders."
    yield check("data roots", "folders that can be read", found, broken, advice)
    try:
        folders = list(registered_folders(settings))
    except StoreUnavailable:
        yield without_store("data sets")
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
        some = "" if len(folder.files) == folder.images else f" of {len(folder.files):,} checked"
        problem = problem or (f"{gone} files gone, {changed} changed{some}" if gone or changed else "")
        expected = f"{folder.images:,} images as registered at {folder.root}"
        expected += f", here {here}" if str(here) != folder.root else ""
        found = problem or f"all there, of the same sizes{some}"
        advice = (
            f"Restore them, or register them again with `python -m jobs register {folder.root} --name {folder.name}`;"
            " on a host without the dashboard, correct DATA_ROOTS."
        )
        yield check(f"data set {folder.name}", expected, found, problem, advice)


def registered_folders(settings: Settings) -> Iterator[Folder]:
    """Yield the folders of registered data sets from the store, or from the queue on a host without a store."""
    if settings.database.exists():
        store = opened_store(settings)
        for name in store.datasets()["name"]:
            dataset = store.dataset(str(name))
            if dataset is not None:
                yield folder_of(dataset)
        return
    with contextlib.suppress(QueueUnavailable, redis.RedisError):  # check_queue reports it
        yield from told_folders(connect(settings))


def check_networks(settings: Settings) -> Checks:
    """Check the files of own networks."""
    networks = load_networks(settings.data_dir / FOLDER)
    broken = "; ".join(networks.left_out.values())
    found = broken or f"{len(networks.networks)} beside the article's"
    yield check("own networks", "files that can be read", found, broken, "The page Networks shows a valid example.")


def check_gpu(settings: Settings) -> Checks:
    """Check the GPUs of NVIDIA's driver."""
    program = shutil.which("nvidia-smi")
    if program is None:
        yield check("driver", "GPUs, or none", "no nvidia-smi: networks are trained on the CPU")
        return
    fields = "name,driver_version,memory.used,memory.total,utilization.gpu"
    asked = subprocess.run(
        [program, f"--query-gpu={fields}", "--format=csv,noheader"], capture_output=True, text=True, timeout=PATIENCE
    )
    lines = asked.stdout.strip().splitlines()
    works = asked.returncode == 0 and bool(lines)
    found = "; ".join(lines) if works else (asked.stderr or asked.stdout).strip()[:200]
    advice = "Check NVIDIA's driver; in a container, its runtime."
    yield check("driver", "one line per GPU", found, not works, advice, ERROR)


def check_keras(settings: Settings) -> Checks:
    """Check the GPUs, and ask Keras in a separate process which of them it sees."""
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
        yield check("Keras", "an answer", masked(last[:200]), True, "make setup; see KERAS_BACKEND.", ERROR)
        return
    lacks = answer[2] == "none" and shutil.which("nvidia-smi") is not None and driver.status == OK
    advice = "Install the backend with CUDA: pip install 'tensorflow[and-cuda]'."
    yield check("Keras", "every GPU of the driver", f"backend {answer[1]}, GPUs: {answer[2]}", lacks, advice)


def check_outside(settings: Settings) -> Checks:
    """Check the last backup and the webhook's settings."""
    last = last_backup(settings)
    days = None if last is None else (datetime.now(UTC) - last["made_at"]).total_seconds() / 86400
    old = settings.database.exists() and (days is None or days > BACKUP_DAYS)
    found = "none" if last is None or days is None else f"{days:.1f} days ago, {last['file']}"
    advice = "`python -m jobs backup` writes one while everything runs."
    yield check("last backup", f"at most {BACKUP_DAYS:.0f} days ago", found, old, advice)
    try:
        webhooks.check(settings)
        problem = ""
    except SpecError as error:
        problem = str(error)
    found = problem or ("set" if settings.webhook_url else "none")
    advice = "Correct it in the record worker's environment."
    yield check("webhook", "http or https, known events", found, problem, advice, ERROR)
