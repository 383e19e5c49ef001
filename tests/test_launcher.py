"""The launcher with real processes: what it starts, restarts and ends, and which settings it refuses."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest
from laboratory import gone, wait_for

from benchmarks.processes import Process, run_command
from core.settings import Settings, usable_cores
from dashboard import __main__ as launcher
from dashboard.supervisor import Child, Program, look_after, rotate, tail

ROOT = Path(__file__).resolve().parents[1]

# Replaces the dashboard: answers every path with 200.
PAGE = """
import sys
from http.server import BaseHTTPRequestHandler, HTTPServer
class Page(BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.end_headers()
HTTPServer(("127.0.0.1", int(sys.argv[1])), Page).serve_forever()
"""

# A worker that ignores SIGTERM, with a job in its own session, like RQ's work-horse.
STUBBORN = """
import os, signal, sys, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
if os.fork() == 0:
    os.setsid()
print("working", flush=True)
time.sleep(600)
"""

# The launcher with the test's process table: the real Valkey server, the page, and the test's programs. The test also
# chooses how long the launcher waits before it kills processes that ignore SIGTERM.
SCRIPT = """
import sys
from functools import partial
from dashboard import __main__ as launcher
from dashboard.__main__ import main, server_program
from dashboard.supervisor import Program
launcher.stop = partial(launcher.stop, patience={patience!r})
def programs(settings, options):
    return [
        *server_program(settings),
        Program("dashboard", (sys.executable, "-c", {page!r}, str(options.port))),
        *(Program(name, (sys.executable, "-c", code), task=task) for name, code, task in {others!r}),
    ]
sys.exit(main(programs=programs))
"""


@dataclass
class Launched:
    process: subprocess.Popen[str]
    port: int
    data_dir: Path
    output: Path

    def said(self) -> str:
        return self.output.read_text()

    def wait_for(self, text: str, seconds: float = 60) -> str:
        until(lambda: text in self.said() or self.process.poll() is not None, seconds)
        assert text in self.said()
        return self.said()

    def descendants(self) -> list[psutil.Process]:
        return psutil.Process(self.process.pid).children(recursive=True)

    def child(self, text: str) -> psutil.Process:
        """Return the launcher's child process whose command contains `text`."""
        for one in psutil.Process(self.process.pid).children():
            with contextlib.suppress(psutil.NoSuchProcess):  # it just died
                if text in " ".join(one.cmdline()):
                    return one
        raise LookupError(text)


Launch = Callable[..., Launched]


def until(condition: Callable[[], bool], seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited too long"
        time.sleep(0.02)


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def all_gone(processes: list[psutil.Process]) -> bool:
    """Wait for the processes to end and return whether all did; otherwise each would run for minutes."""
    with contextlib.suppress(AssertionError):
        until(lambda: all(map(gone, processes)))
    return all(map(gone, processes))


@pytest.fixture
def launch(tmp_path: Path) -> Iterator[Launch]:
    started: list[Launched] = []

    def start(
        *others: tuple[str, str, bool],
        data_dir: Path | None = None,
        port: int = 0,
        patience: float = 3,
        options: tuple[str, ...] = (),
        **env: str,
    ) -> Launched:
        data_dir, port = data_dir or tmp_path / "data", port or free_port()
        output = tmp_path / f"output-{len(started)}"
        script = SCRIPT.format(page=PAGE, others=others, patience=patience)
        with output.open("w") as stream:
            process = Process(
                [sys.executable, "-c", script, "--port", str(port), *options],
                cwd=ROOT,
                env={**os.environ, "DATA_DIR": str(data_dir), **env},
                stdout=stream,
                stderr=stream,
                text=True,
                start_new_session=True,
                preexec_fn=lambda: signal.signal(signal.SIGHUP, signal.SIG_DFL),  # for tests that run under nohup
            )
        started.append(Launched(process, port, data_dir, output))
        return started[-1]

    yield start
    for one in started:
        with contextlib.suppress(psutil.NoSuchProcess):
            left = one.descendants()
            one.process.kill()
            for process in left:
                with contextlib.suppress(psutil.NoSuchProcess):
                    process.kill()
        one.process.wait()


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 0), (signal.SIGHUP, 0)])
def test_a_signal_ends_every_process_even_those_that_ignore_sigterm(
    launch: Launch, number: signal.Signals, code: int
) -> None:
    launched = launch(("svd-1", STUBBORN, False))
    launched.wait_for(f"ready: http://127.0.0.1:{launched.port}")
    until(lambda: (launched.data_dir / "logs" / "svd-1.log").read_text().count("working") == 2)
    processes = launched.descendants()
    assert len(processes) == 4, "server, page, worker and its job"

    os.kill(launched.process.pid, number)
    assert launched.process.wait(120) == code
    assert all_gone(processes)
    assert not (launched.data_dir / "valkey" / "url").exists(), "the address of a stopped server is removed"
    assert "Traceback" not in launched.said()


def test_the_demo_prints_the_address_of_the_guided_tour(launch: Launch) -> None:
    launched = launch(options=("--demo",))
    launched.wait_for(f"guided tour: http://127.0.0.1:{launched.port}/tour")


def test_a_second_signal_stops_without_waiting(launch: Launch) -> None:
    launched = launch(("svd-1", STUBBORN, False), patience=500)
    launched.wait_for("ready")
    until(lambda: (launched.data_dir / "logs" / "svd-1.log").read_text().count("working") == 2)
    processes = launched.descendants()
    os.kill(launched.process.pid, signal.SIGINT)
    launched.wait_for("stopping")
    with pytest.raises(subprocess.TimeoutExpired):
        launched.process.wait(1)  # after one signal the worker has 500 seconds
    os.kill(launched.process.pid, signal.SIGINT)
    assert launched.process.wait(60) == 130, "long before the 500 seconds"
    assert all_gone(processes)


def test_a_killed_launcher_leaves_no_child_behind_and_can_be_started_again_at_once(launch: Launch) -> None:
    launched = launch(("svd-1", "import time; time.sleep(600)", False))
    launched.wait_for("ready")
    processes = launched.descendants()
    assert len(processes) == 3
    launched.process.kill()
    launched.process.wait()
    again = launch(port=launched.port)
    again.wait_for("ready")
    assert all_gone(processes)


def test_a_dead_worker_is_restarted_and_its_child_processes_are_ended(launch: Launch) -> None:
    launched = launch(("svd-1", STUBBORN, False))
    launched.wait_for("ready")
    until(lambda: (launched.data_dir / "logs" / "svd-1.log").read_text().count("working") == 2)
    worker = launched.child("SIG_IGN")
    left = worker.children(recursive=True)
    assert len(left) == 1
    worker.kill()
    said = launched.wait_for("svd-1 ended")
    assert "svd-1 ended (killed by SIGKILL); it is started again in 0.5 s" in said
    assert all_gone(left), "otherwise it would sleep for ten minutes"
    until(lambda: (launched.data_dir / "logs" / "svd-1.log").read_text().count("working") >= 3)
    assert (launched.data_dir / "logs" / "svd-1.log").read_text().count("svd-1 starts") == 2
    assert launched.child("SIG_IGN").pid != worker.pid


def test_a_dead_server_and_a_dead_dashboard_are_restarted(launch: Launch) -> None:
    launched = launch()
    launched.wait_for("ready")
    url = (launched.data_dir / "valkey" / "url").read_text()
    for process in (launched.child("valkey-server"), launched.child("HTTPServer")):
        process.kill()
    launched.wait_for("valkey ended")
    launched.wait_for("dashboard ended")

    def both_answer() -> bool:
        with contextlib.suppress(OSError, LookupError):
            urllib.request.urlopen(f"http://127.0.0.1:{launched.port}/").close()
            return launched.child("valkey-server").is_running()
        return False

    until(both_answer)
    assert (launched.data_dir / "valkey" / "url").read_text() == url


def test_a_worker_that_dies_at_once_is_restarted_after_longer_waits_and_its_log_is_shown(launch: Launch) -> None:
    launched = launch(("svd-1", "import sys; sys.exit('the image library is missing')", False))
    said = launched.wait_for("started again in 2 s")
    assert said.index("again in 0.5 s") < said.index("again in 1 s") < said.index("again in 2 s")
    assert "the image library is missing" not in said.partition("again in 1 s")[0]
    assert "    the image library is missing" in said.partition("again in 2 s")[2]


def test_a_task_runs_once_and_a_failing_task_is_tried_three_times(launch: Launch) -> None:
    launched = launch(("demo", "print('made')", True), ("other", "raise SystemExit('no room')", True))
    launched.wait_for("demo is done")
    said = launched.wait_for("not tried again")
    assert said.count("other ended (exit code 1)") == 3
    assert "    no room" in said
    assert (launched.data_dir / "logs" / "demo.log").read_text().count("made") == 1


def refusal(launched: Launched) -> str:
    """Return the one sentence of a launcher that cannot start."""
    assert launched.process.wait(60) == 1
    sentence = launched.said().strip()
    assert sentence.startswith("DermSlim cannot start: ")
    assert "\n" not in sentence
    return sentence


def test_a_port_in_use_is_named_with_what_to_do(launch: Launch) -> None:
    with socket.socket() as squatter:
        squatter.bind(("127.0.0.1", 0))
        squatter.listen()
        port = squatter.getsockname()[1]
        sentence = refusal(launch(port=port))
    assert f"port {port} on 127.0.0.1 is taken" in sentence
    assert "make demo" in sentence
    assert "PORT=" in sentence


def test_a_second_launcher_on_the_same_data_is_refused_and_the_first_keeps_running(launch: Launch) -> None:
    first = launch()
    first.wait_for("ready")
    sentence = refusal(launch())
    assert f"already runs on {first.data_dir} (process {first.process.pid})" in sentence
    assert first.process.poll() is None


def test_a_data_folder_that_cannot_be_written_is_named(launch: Launch, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    for folder in (Path("/proc/dermslim"), tmp_path / "file"):
        sentence = refusal(launch(data_dir=folder))
        assert f"the data folder {folder} cannot be written" in sentence
        assert "set DATA_DIR" in sentence


def test_a_full_disk_is_named_with_the_space_that_is_needed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(launcher, "MINIMUM_FREE", 10**18)
    with pytest.raises(launcher.LaunchError, match=r"expected at least \d+ MB free on the disk of .*, found \d+ MB"):
        launcher.check_data_dir(Settings(tmp_path, ()))


def test_an_unreachable_server_of_the_user_is_named_without_its_password(launch: Launch) -> None:
    port = free_port()
    launched = launch(REDIS_URL=f"redis://:geheim@127.0.0.1:{port}/0")
    sentence = refusal(launched)
    assert f"Expected a Redis server to answer at 127.0.0.1:{port}" in sentence
    assert "geheim" not in sentence


def test_a_server_of_the_user_is_used_instead_of_the_embedded_one(launch: Launch, valkey_url: str) -> None:
    launched = launch(REDIS_URL=valkey_url)
    launched.wait_for("ready")
    assert not [one for one in launched.descendants() if "valkey" in one.name()]
    assert not (launched.data_dir / "valkey").exists()


def test_an_embedded_server_that_cannot_start_ends_the_launch_with_its_log(launch: Launch, tmp_path: Path) -> None:
    (tmp_path / "data" / "valkey" / "appendonlydir").mkdir(parents=True)
    manifest = tmp_path / "data" / "valkey" / "appendonlydir" / "appendonly.aof.manifest"
    manifest.write_text("nonsense\n")
    launched = launch()
    assert launched.process.wait(60) == 1
    assert "Expected the Valkey server to start" in launched.said()
    assert "manifest" in launched.said()
    assert "Traceback" not in launched.said()


@pytest.mark.parametrize("arguments", [["--port", "0"], ["--port", "many"], ["--svd-workers", "-1"]])
def test_an_option_out_of_range_says_what_was_expected(
    arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        launcher.parse(arguments)
    assert "expected a whole number from" in capsys.readouterr().err


def test_the_environment_sets_port_and_workers(monkeypatch: pytest.MonkeyPatch) -> None:
    assert launcher.parse([]).port == 8501
    assert launcher.parse([]).svd_workers == usable_cores()
    monkeypatch.setenv("PORT", "8601")
    monkeypatch.setenv("SVD_WORKERS", "3")
    monkeypatch.setenv("TRAIN_WORKERS", "2")
    found = launcher.parse([])
    assert (found.port, found.svd_workers, found.train_workers) == (8601, 3, 2)
    assert launcher.parse(["--train-workers", "0"]).train_workers == 0


def test_the_process_table_has_every_program_once_and_the_requested_workers(settings: Settings) -> None:
    options = launcher.parse(["--svd-workers", "3", "--demo"])
    names = [program.name for program in launcher.all_programs(settings, options)]
    assert names == ["dashboard", "record", "svd-1", "svd-2", "svd-3", "train-1", "demo-data"]
    assert "demo-data" not in [program.name for program in launcher.all_programs(settings, launcher.parse([]))]
    for count in (0, 2):
        options = launcher.parse(["--train-workers", str(count)])
        names = [program.name for program in launcher.all_programs(settings, options)]
        assert [name for name in names if name.startswith("train")] == [f"train-{n}" for n in range(1, count + 1)]


@pytest.mark.parametrize(
    ("name", "text", "sentence"),
    [
        ("ARRAYS_LIMIT_GB", "plenty", "a number of gigabytes such as 50, got plenty"),
        ("WORKER_NICENESS", "20", "a whole number from 0 to 19, got 20"),
        ("EMBEDDED_REDIS_PORT", "65536", "a whole number from 1 to 65,535, got 65536"),
        ("PORT", "web", "a whole number from 1 to 65,535, got web"),
        ("WORKER_NICENESS", "-5", "a whole number from 0 to 19, got -5"),
    ],
)
def test_an_invalid_setting_ends_the_launcher_with_a_sentence(
    name: str,
    text: str,
    sentence: str,
    settings: Settings,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("DATA_DIR", str(settings.data_dir))
    monkeypatch.setenv(name, text)
    assert launcher.main([]) == 1
    assert f"Expected {name} to be {sentence}." in capsys.readouterr().err


def test_an_older_python_is_refused_with_a_sentence() -> None:
    code = "import runpy, sys; sys.version_info = (3, 10, 4); runpy.run_module('dashboard', run_name='__main__')"
    answer = run_command([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert answer.returncode == 1
    assert answer.stderr.startswith("DermSlim needs Python 3.11, 3.12 or 3.13; this is")
    assert "Traceback" not in answer.stderr


def test_page_addresses_can_be_opened_in_a_browser() -> None:
    assert launcher.page_url("0.0.0.0", 80) == "http://127.0.0.1:80"
    assert launcher.page_url("::", 80) == "http://[::1]:80"
    assert launcher.page_url("clinic.example", 8501) == "http://clinic.example:8501"
    assert [launcher.is_loopback(host) for host in ("127.0.0.1", "localhost", "::1")] == [True] * 3
    assert [launcher.is_loopback(host) for host in ("0.0.0.0", "clinic.example")] == [False] * 2


def test_long_logs_are_rotated_and_only_the_last_two_are_kept(tmp_path: Path) -> None:
    log = tmp_path / "svd-1.log"
    for number in range(5):
        log.write_text(f"{number}" * 200)
        rotate(log, limit=100)
    assert sorted(file.name for file in tmp_path.iterdir()) == ["svd-1.log.1", "svd-1.log.2"]
    assert (tmp_path / "svd-1.log.1").read_text()[0] == "4"
    log.write_text("short")
    rotate(log, limit=100)
    assert log.read_text() == "short"


def test_the_log_of_a_program_that_writes_continuously_stays_short(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dashboard.supervisor.LOG_LIMIT", 20_000)
    code = (
        "import sys, time\n"
        "for number in range(100_000):\n"
        "    print(f'line {number}', flush=True)\n"
        "    if number % 100 == 0: time.sleep(0.02)\n"
        "    if number == 20_000: print('the end', flush=True); time.sleep(600)\n"
    )
    child = Child(Program("wordy", (sys.executable, "-c", code)), tmp_path)
    sizes = []

    def written() -> bool:
        assert list(look_after([child], folder=ROOT)) == []
        sizes.append(sum(file.stat().st_size for file in tmp_path.iterdir()))
        return "the end" in child.log.read_text()

    try:
        wait_for(written, 120)
    finally:
        if child.process is not None:
            child.process.kill()
            child.process.wait()
    assert sorted(file.name for file in tmp_path.iterdir()) == ["wordy.log", "wordy.log.1", "wordy.log.2"]
    assert max(sizes) < 200_000, "20,000 lines are 220 kB; between two checks the log may exceed its limit"
    lines = [line for file in sorted(tmp_path.iterdir(), reverse=True) for line in file.read_text().splitlines()]
    assert lines[-2:] == ["line 20000", "the end"]


def test_a_log_in_use_is_emptied_when_it_cannot_be_rotated(tmp_path: Path) -> None:
    log = tmp_path / "svd-1.log"
    log.write_text("0" * 200)
    (tmp_path / "svd-1.log.1").mkdir()
    (tmp_path / "svd-1.log.2").mkdir()
    (tmp_path / "svd-1.log.2" / "file").touch()
    rotate(log, limit=100, in_use=True)
    assert log.stat().st_size == 0, "freeing the disk is more important than the log"


def test_the_tail_is_the_last_lines_even_of_a_log_that_is_not_text(tmp_path: Path) -> None:
    log = tmp_path / "x.log"
    log.write_bytes(b"\xff\n" + b"".join(b"line %d\n" % number for number in range(5000)))
    assert tail(log, 2) == "    line 4998\n    line 4999"
    assert tail(tmp_path / "none.log") == "    (no log)"
    log.write_text("--- monday svd-1 starts\nold\n--- tuesday svd-1 starts\nnew\n")
    assert tail(log) == "    new", "lines of an earlier start are left out"
