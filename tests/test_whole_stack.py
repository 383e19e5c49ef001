"""The whole stack, as a user starts it, stops and continues after a restart."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import urllib.request
from pathlib import Path

import cv2
import numpy as np
import psutil
import pytest
from test_launcher import all_gone, free_port, until

from benchmarks.processes import Process
from core.compression.specs import SweepSpec
from core.data.datasets import load_dataset
from core.settings import Settings
from jobs.queues import Queues

ROOT = Path(__file__).resolve().parents[1]


def submit_sweep(data_dir: Path, images: int) -> tuple[Queues, str]:
    """Queue a sweep over noise images in the running stack of `data_dir`."""
    folder = data_dir.parent / "images"
    folder.mkdir(exist_ok=True)
    random = np.random.default_rng(1)
    for number in range(images):
        image = random.integers(0, 255, (180, 240, 3), dtype=np.uint8)
        cv2.imwrite(str(folder / f"noise_{number:04}.jpg"), image)
    queues = Queues(Settings(data_dir, (data_dir.parent,)))
    dataset = load_dataset(folder)
    queues.register(dataset)
    return queues, queues.submit(SweepSpec(dataset=dataset.name, ks=(20, 60)), dataset).run_id


def state(queues: Queues, run_id: str) -> tuple[str, int, int]:
    run = queues.run(run_id)
    return (run.status, run.done, run.failed) if run is not None else ("unknown", 0, 0)


def upgrade(port: int, host: str) -> str:
    """Return the first line of the dashboard's answer to a browser that uses the host name `host`."""
    with socket.create_connection(("127.0.0.1", port), timeout=60) as connection:
        connection.sendall(
            f"GET /_stcore/stream HTTP/1.1\r\nHost: {host}:{port}\r\nOrigin: http://{host}:{port}\r\n"
            "Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
            "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n".encode()
        )
        return connection.recv(100).decode(errors="replace").splitlines()[0]


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_the_whole_stack_stops_and_continues_after_a_restart(tmp_path: Path, number: signal.Signals) -> None:
    data_dir, port, images = tmp_path / "data", free_port(), 70
    command = [sys.executable, "-m", "dashboard", "--port", str(port), "--svd-workers", "1"]
    environment = {**os.environ, "DATA_DIR": str(data_dir)}
    launched: list[subprocess.Popen[bytes]] = []
    left: list[psutil.Process] = []

    def start() -> subprocess.Popen[bytes]:
        launched.append(Process(command, cwd=ROOT, env=environment, start_new_session=True))
        health = f"http://127.0.0.1:{port}/_stcore/health"

        def ready() -> bool:
            with contextlib.suppress(OSError), urllib.request.urlopen(health) as answer:
                return bool(answer.status == 200)
            return False

        until(ready, 90)
        return launched[-1]

    try:
        first = start()
        assert "101" in upgrade(port, "localhost")
        assert "101" in upgrade(port, "[::1]")
        assert "403" in upgrade(port, "elsewhere.example"), "DNS rebinding"
        queues, run_id = submit_sweep(data_dir, images)
        until(lambda: state(queues, run_id)[1] > 0, 90)
        left = psutil.Process(first.pid).children(recursive=True)
        assert state(queues, run_id)[1] < images, "the stack is stopped in the middle of the run"
        os.kill(first.pid, number)
        assert first.wait(120) == (130 if number == signal.SIGINT else -signal.SIGKILL)
        assert all_gone(left)

        second = start()
        again = Queues(Settings(data_dir, (data_dir.parent,)))
        until(lambda: state(again, run_id)[0] not in ("queued", "running"), 180)
        assert state(again, run_id) == ("finished", images, 0)
        left = psutil.Process(second.pid).children(recursive=True)
        os.kill(second.pid, signal.SIGTERM)
        assert second.wait(60) == 0
        assert all_gone(left)
    finally:
        for process in launched:
            with contextlib.suppress(psutil.NoSuchProcess):
                left += psutil.Process(process.pid).children(recursive=True)
            process.kill()
            process.wait()
        for one in left:
            with contextlib.suppress(psutil.NoSuchProcess):
                one.kill()
