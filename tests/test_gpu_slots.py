"""A limited number of `train` workers on a GPU; with real processes and without a GPU."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest
from laboratory import ROOT, wait_for

from benchmarks.processes import Process
from core.errors import DermSlimError
from core.settings import Settings
from jobs.gpu_slots import gpu_environment, take_slot
from jobs.queues import Queues


def start(settings: Settings, temporary: Path, *options: str) -> subprocess.Popen[str]:
    environment = {
        **os.environ,
        "DATA_DIR": str(settings.data_dir),
        "REDIS_URL": str(settings.redis_url),
        "TMPDIR": str(temporary),
    }
    command = [sys.executable, "-m", "jobs.worker", "train", *options]
    return Process(command, cwd=ROOT, env=environment, stderr=subprocess.PIPE, text=True)


@pytest.mark.slow
def test_one_worker_too_many_is_refused_until_another_worker_is_killed(settings: Settings, tmp_path: Path) -> None:
    queues = Queues(settings)
    first = start(settings, tmp_path, "--gpu", "0", "--at-most", "1")
    others = []
    try:
        wait_for(lambda: len(queues.workers()) == 1, 120)
        refused = start(settings, tmp_path, "--gpu", "0", "--at-most", "1")
        _, sentence = refused.communicate(timeout=60)
        assert refused.returncode == 1
        assert sentence.strip() == (
            "Expected a free place on GPU 0, got none: 1 worker trains there, as many as --at-most allows."
        )
        others.append(start(settings, tmp_path, "--gpu", "1"))  # another GPU
        others.append(start(settings, tmp_path))  # unrestricted
        wait_for(lambda: len(queues.workers()) == 3, 120)
        first.send_signal(signal.SIGKILL)
        first.wait()
        others.append(start(settings, tmp_path, "--gpu", "0"))
        wait_for(lambda: others[-1].pid in {worker.pid for worker in queues.workers()}, 120)
    finally:
        for process in (first, *others):
            process.kill()
            process.communicate()
    assert not any(psutil.pid_exists(process.pid) for process in (first, *others))


def test_there_are_as_many_slots_as_requested_and_one_per_process(tmp_path: Path) -> None:
    slots = [take_slot(3, 2, tmp_path) for _ in range(2)]
    with pytest.raises(DermSlimError, match="2 workers train there"):
        take_slot(3, 2, tmp_path)
    os.close(slots[0])
    slots[0] = take_slot(3, 2, tmp_path)
    for handle in slots:
        os.close(handle)


def test_a_work_horse_sees_only_its_gpu_and_shares_memory_when_others_use_it() -> None:
    assert gpu_environment(1, 1) == {"CUDA_DEVICE_ORDER": "PCI_BUS_ID", "CUDA_VISIBLE_DEVICES": "1"}
    shared = gpu_environment(0, 2)
    assert shared["CUDA_VISIBLE_DEVICES"] == "0"
    assert shared["TF_FORCE_GPU_ALLOW_GROWTH"] == "true"
    assert shared["XLA_PYTHON_CLIENT_PREALLOCATE"] == "false"


@pytest.mark.parametrize(
    "arguments", [["svd", "--gpu", "0"], ["train", "--gpu", "-1"], ["train", "--gpu", "0", "--at-most", "0"]]
)
def test_invalid_gpu_options_are_refused(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    from jobs.worker import main

    with pytest.raises(SystemExit):
        main(arguments)
    assert "Expected --gpu 0 to" in capsys.readouterr().err
