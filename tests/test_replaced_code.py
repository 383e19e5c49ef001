"""A worker whose code is replaced while it runs, as by `git pull`, starts again with the new code."""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path

import psutil
from laboratory import ROOT, WITHOUT_KERAS, end, wait_for, workers, write_lesions

from benchmarks.processes import Process
from core.data.splits import Targets
from core.networks.architectures import LENET5
from core.settings import Settings
from core.training.specs import TrainingProtocol, TrainSpec
from jobs.queues import Queues


def test_a_worker_whose_code_was_replaced_starts_again_before_its_next_job(settings: Settings, tmp_path: Path) -> None:
    for package in ("core", "jobs"):
        shutil.copytree(ROOT / package, tmp_path / "code" / package)
    queues, images = Queues(settings), write_lesions(tmp_path / "lesions", 6)
    environment = {
        **os.environ,
        **WITHOUT_KERAS,
        "DATA_DIR": str(settings.data_dir),
        "DATA_ROOTS": str(tmp_path),
        "REDIS_URL": str(settings.redis_url),
        "WORKER_NICENESS": "3",
    }
    worker = Process([sys.executable, "-m", "jobs.worker", "train"], cwd=tmp_path / "code", env=environment)
    try:
        with workers(settings, "record", beside=True):
            dataset = queues.resolve(str(images))
            queues.register(dataset)

            def train(seed: int) -> None:
                """Train a network, and wait for the end."""
                protocol = TrainingProtocol(epochs=2, batch_size=8, height=24, width=32, seed=seed)
                targets = Targets(train=8, validation=4, test=4)
                spec = TrainSpec(dataset=dataset.name, network=LENET5, training=protocol, targets=targets)
                run_id = queues.submit(spec, dataset).run_id
                wait_for(lambda: (run := queues.run(run_id)) is not None and run.ended, 120)
                run = queues.run(run_id)
                assert run is not None
                assert run.status == "finished", "\n".join(queues.log(run_id))

            def named() -> str:
                """Return the name of the training worker."""
                (found,) = (each.name for each in queues.workers() if each.pid == worker.pid)
                return found

            train(1)
            first, niceness = named(), psutil.Process(worker.pid).nice()
            with (tmp_path / "code" / "jobs" / "train_task.py").open("a") as module:
                module.write(f"\n\nPath({str(tmp_path / 'imported')!r}).touch()\n")
            train(2)
            assert (tmp_path / "imported").exists(), "the second training used the replaced module"
            assert named() != first
            assert psutil.Process(worker.pid).nice() == niceness
    finally:
        end(worker)
