"""Inject faults into a whole stack while it works, and check the results.

The stack is the one that a user starts: `python -m dashboard`, with its own Valkey, store and workers. A round submits
a sweep and a pruning run, injects a fault at a random moment while both are under way, waits until both have ended, and
compares every row with those of an uninterrupted run. `test_faults.py` runs three rounds with many faults each;
`soak.py` injects each fault separately, for hours.
"""

from __future__ import annotations

import os
import random
import shutil
import socket
import struct
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import pandas as pd
import psutil
from laboratory import ROOT, Trained, assert_trained_alike, end, trained_here, wait_for, write_images, write_lesions
from redis import Redis
from rq.registry import StartedJobRegistry
from rq.serializers import JSONSerializer
from rq.worker import Worker

from benchmarks.processes import Process, run_command
from core.compression.image_results import METRIC_COLUMNS
from core.compression.measure import measure
from core.compression.specs import SweepSpec
from core.data.datasets import Dataset, load_dataset
from core.data.splits import Targets
from core.networks.architectures import LENET5
from core.runs import Run
from core.settings import Settings
from core.training.specs import Baseline, PruneTrainSpec, Rules, TrainingProtocol
from jobs.connection import SERVED
from jobs.live_runs import LiveRun
from jobs.queues import Queues

PARTS = {  # part of the stack -> words of its command line
    "valkey": ("valkey-server",),
    "record worker": ("jobs.worker", "record"),
    "svd worker": ("jobs.worker", "svd"),
    "train worker": ("jobs.worker", "train"),
    "dashboard": ("dashboard/server.py",),
}
KS = (5, 10, 15, 20, 25, 30, 40, 50, 60)  # enough values for the sweep to take several seconds
EPOCHS = 12
LONGEST_RUNNING = 90.0  # seconds that work may be shown as running after its process died
LONGEST_ROUND = 300.0  # seconds


@dataclass
class Stack:
    """A running stack. folder: contains images/ and data/. launcher: its process. clock: see `own_clock`."""

    folder: Path
    roots: tuple[Path, ...]
    port: int
    launcher: subprocess.Popen[bytes]
    clock: Path | None = None
    seen: set[psutil.Process] = field(default_factory=set)

    @property
    def data_dir(self) -> Path:
        return self.folder / "data"

    @property
    def queues(self) -> Queues:
        return Queues(Settings(self.data_dir, self.roots))

    def parts(self, name: str) -> list[psutil.Process]:
        """Return the live processes of a part of the stack, without the processes of their jobs."""
        words = PARTS[name]
        found = []
        for process in psutil.Process(self.launcher.pid).children():
            with suppress(psutil.Error):
                if all(any(word in each for each in process.cmdline()) for word in words):
                    found.append(process)
        return found

    def living(self, name: str) -> list[psutil.Process]:
        """Return the processes of a part of the stack; wait if it is being started."""
        found: list[psutil.Process] = []
        wait_for(lambda: found.extend(self.parts(name)) or found, 60)
        return found

    def jobs(self, name: str) -> list[psutil.Process]:
        """Return the processes that workers have forked for jobs."""
        found = []
        for worker in self.parts(name):
            with suppress(psutil.Error):
                found += worker.children()
        return found

    def note_processes(self) -> None:
        """Remember every process of the stack, so that orphans are found later."""
        self.seen |= set(psutil.Process(self.launcher.pid).children(recursive=True))

    def answers(self) -> bool:
        """Return whether the dashboard answers."""
        with (
            suppress(OSError),
            urllib.request.urlopen(f"http://127.0.0.1:{self.port}/_stcore/health", timeout=5) as got,
        ):
            return bool(got.status == 200)
        return False


@contextmanager
def running_stack(
    folder: Path, *, images: Path | None = None, clock: Path | None = None, variables: Mapping[str, str] | None = None
) -> Iterator[Stack]:
    """Start the whole stack with its state in `folder`/data, and end it.

    images: a folder outside `folder`. clock: a file that sets the stack's time of day. variables: of the environment.
    """
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    roots = (folder,) if images is None else (folder, images)
    command = [sys.executable, "-m", "dashboard", "--port", str(port), "--svd-workers", "2"]
    environment = {**os.environ, "DATA_DIR": str(folder / "data"), "DATA_ROOTS": os.pathsep.join(map(str, roots))}
    environment |= variables or {}
    if clock is not None:
        environment |= own_clock(clock)
    log = (folder / "launcher.log").open("ab")
    launcher = Process(command, cwd=ROOT, env=environment, stdout=log, stderr=log, start_new_session=True)
    stack = Stack(folder, roots, port, launcher, clock)
    try:
        wait_for(stack.answers, 120)
        wait_for(lambda: len(stack.queues.workers()) == 4, 120)
        stack.note_processes()
        yield stack
        stack.note_processes()
    finally:
        end(launcher, 30)
        for process in stack.seen:
            with suppress(psutil.NoSuchProcess):
                process.kill()


Fault = Callable[[Stack, random.Random], None]

# The work during which faults are injected, and its expected results


@dataclass(frozen=True)
class Work:
    """The runs that a round submits, and their expected rows. measured: of the sweep, by image and k."""

    images: Path
    sweep: SweepSpec
    training: PruneTrainSpec
    measured: pd.DataFrame
    trained: Trained


def prepare_work(folder: Path, *, keras: bool = True) -> Work:
    """Draw images, and run the sweep and the training locally, without queue, workers and store."""
    images = write_lesions(folder / "lesions", 24, height=120, width=160)
    dataset = load_dataset(images)
    sweep = SweepSpec(dataset=dataset.name, ks=KS)
    training = PruneTrainSpec(
        dataset=dataset.name,
        network=LENET5,
        training=TrainingProtocol(epochs=EPOCHS, batch_size=8, height=24, width=32, seed=3),
        targets=Targets(train=64, validation=16, test=16),
        baseline=Baseline(
            train_accuracy=0, train_precision=0, validation_accuracy=0, validation_precision=0, test_tolerance=100
        ),  # every trained network is accepted, so the steps are known
        rules=Rules(factors=(50.0,), max_iterations=1),
    )
    rows = [row for record in dataset.records for row in measure(record, dataset.root, sweep).rows]
    trained = trained_here(training, images, folder / "reference", keras=keras)
    return Work(images, sweep, training, pd.DataFrame(rows), trained)


@dataclass(frozen=True)
class Round:
    """The runs of a round, and the seconds from the fault to the end of the later run."""

    sweep: Run
    training: Run
    seconds: float


def registered(queues: Queues, images: Path) -> Dataset:
    dataset = queues.resolve(str(images))
    if queues.store.dataset(dataset.name) != dataset:
        queues.register(dataset)
        wait_for(lambda: queues.store.dataset(dataset.name) == dataset, 60)
    return dataset


def play(
    stack: Stack, work: Work, fault: Fault, chance: random.Random, reason: str | None = None, *, begun: float = 8
) -> Round:
    """Submit the work, inject a fault while it is under way, wait for its end, and assert that nothing was lost.

    reason: text of an error that a run may fail with; it is then retried. begun: seconds in which Keras starts, the
    first epochs are trained and the second step starts.
    """
    queues = stack.queues
    dataset = registered(queues, work.images)
    training_id = queues.submit(work.training, dataset, again=True).run_id
    time.sleep(chance.uniform(0, begun))
    sweep_id = queues.submit(work.sweep, dataset, again=True).run_id
    wait_for(lambda: (run := queues.run(sweep_id)) is not None and run.done > 0, 60)
    stack.note_processes()
    fault(stack, chance)
    began = time.monotonic()
    stack.note_processes()
    sweep, training = (ended_well(queues, run_id, reason) for run_id in (sweep_id, training_id))
    found = Round(sweep, training, time.monotonic() - began)
    stack.note_processes()
    assert_undisturbed(stack, work, found)
    return found


def ended_well(queues: Queues, run_id: str, reason: str | None) -> Run:
    """Wait for the end of a run; retry it if it failed for the given reason."""
    state = ended(queues, run_id)
    if reason is None or (state.status == "finished" and not state.failed):
        return state
    reasons = [state.error, *queues.store.images(run_id, "failed")["reason"], *queues.store.steps([run_id])["failure"]]
    assert any(reason in str(each) for each in reasons), f"{state}: {reasons}"
    queues.retry(run_id)
    wait_for(lambda: (run := queues.run(run_id)) is not None and run.attempt > state.attempt, 60)
    return ended(queues, run_id)


def ended(queues: Queues, run_id: str) -> Run:
    """Wait for the end of a run, also while the server or the store does not answer."""
    deadline = time.monotonic() + LONGEST_ROUND
    while True:
        with suppress(Exception):  # any error must be over before the deadline
            state = queues.run(run_id)
            if state is not None and state.ended and queues.messages_waiting() == 0:
                return state
        assert time.monotonic() < deadline, f"still {queues.run(run_id)}\n" + "\n".join(queues.log(run_id))
        time.sleep(0.2)


def assert_undisturbed(stack: Stack, work: Work, found: Round) -> None:
    """Assert that rows are complete, unique and equal to those of an uninterrupted run; look for leftover processes."""
    queues = stack.queues
    sweep, training = found.sweep, found.training
    assert (sweep.status, sweep.failed) == ("finished", 0), sweep
    assert (training.status, training.failed, training.done) == ("finished", 0, 2 * EPOCHS), training
    columns = ["image_id", "k", *METRIC_COLUMNS]
    rows, expected = queues.store.measurements(sweep.id), work.measured
    pd.testing.assert_frame_equal(
        rows[columns].sort_values(columns[:2], ignore_index=True),
        expected[columns].sort_values(columns[:2], ignore_index=True),
        check_dtype=False,
        rtol=1e-12,  # the last digit depends on the number of threads
        atol=0,
    )
    assert_trained_alike(queues.store, training.id, work.trained)
    assert_nothing_is_left(stack)


def assert_nothing_is_left(stack: Stack) -> None:
    """Assert that no dead process counts as running and that no orphan process is left."""
    connection = Redis.from_url(str(stack.queues.settings.redis_url))

    def left() -> str:
        """Return what is still wrong, or an empty text."""
        on_time = stack.clock is None or read_clock(stack.clock) == 0
        living = {process.pid for name in PARTS if "worker" in name for process in stack.parts(name)}
        known = {int(worker.pid or 0) for worker in Worker.all(connection=connection, serializer=JSONSerializer)}
        shown = {worker.pid for worker in stack.queues.workers()} if on_time else living  # by this process's clock
        started = [
            job
            for name in ("svd", *SERVED["train"])
            for job in StartedJobRegistry(name, connection=connection, serializer=JSONSerializer).get_job_ids(
                cleanup=False
            )
        ]
        if len(living) == 4 and living <= known and shown == living and not started:
            return ""
        return f"living workers {living}, known {known}, shown {shown}; jobs started {started}"

    deadline = time.monotonic() + LONGEST_RUNNING
    while wrong := left():
        assert time.monotonic() < deadline, wrong
        time.sleep(0.2)
    ours = {stack.launcher.pid, *(each.pid for each in psutil.Process(stack.launcher.pid).children(recursive=True))}
    for process in stack.seen:
        with suppress(psutil.NoSuchProcess):
            alive = process.is_running() and process.status() != psutil.STATUS_ZOMBIE
            assert not alive or process.pid in ours, f"an orphan process still runs: {process}"
    wait_for(stack.answers, 60)


# Faults


def kill(part: str) -> Fault:
    """Kill a part of the stack."""

    def inject(stack: Stack, chance: random.Random) -> None:
        time.sleep(chance.uniform(0, 1))
        with suppress(psutil.NoSuchProcess):
            chance.choice(stack.living(part)).kill()

    return inject


def kill_job(part: str) -> Fault:
    """Kill the process of a job, as the kernel does when memory runs out."""

    def inject(stack: Stack, chance: random.Random) -> None:
        def killed() -> bool:
            for process in stack.jobs(part):
                with suppress(psutil.NoSuchProcess):  # it has just ended by itself
                    if process.status() != psutil.STATUS_ZOMBIE:
                        process.kill()
                        return True
            return False

        time.sleep(chance.uniform(0, 0.5))
        wait_for(killed, 60)

    return inject


def poison(stack: Stack, chance: random.Random) -> None:
    """Kill every process that measures one image; after three tries this image fails and the others are measured.

    The image is so large that measuring it takes several seconds, in which the process is killed.
    """
    folder = stack.folder / "poison"
    if not folder.exists():
        write_images(folder, 3)
        write_images(folder / "large", 1, height=2600, width=2600)
        (folder / "large" / "mole000.jpg").replace(folder / "mole001.jpg")
    queues = stack.queues
    dataset = registered(queues, folder)
    run_id = queues.submit(SweepSpec(dataset=dataset.name, ks=(3,)), dataset, again=True).run_id
    live = LiveRun(Redis.from_url(str(queues.settings.redis_url)), run_id)

    def killed(tries: int) -> bool:
        """Kill the process of this try at the large image, once no other process works on the run."""
        if live.connection.hget(f"{live.key}:tries", "mole001") != b"%d" % tries or live.progress()[0] < 2:
            return False
        workers = [each.pid for each in queues.workers() if each.current_run == run_id]
        found = [job for worker in workers for job in psutil.Process(worker).children()]
        if len(found) == 1:
            found[0].kill()
        return len(found) == 1

    for tries in (1, 2, 3):
        wait_for(partial(killed, tries), 60)
    state = ended(queues, run_id)
    assert (state.status, state.done, state.failed) == ("finished", 2, 1), state
    assert "got 3 deaths of the process" in queues.store.images(run_id, "failed")["reason"].iloc[0]


def suspend_valkey(seconds: float) -> Fault:
    """Suspend Valkey: connections are neither answered nor refused."""

    def inject(stack: Stack, chance: random.Random) -> None:
        (server,) = stack.living("valkey")
        server.suspend()
        time.sleep(seconds)
        with suppress(psutil.NoSuchProcess):  # the launcher may have replaced a server that did not answer
            server.resume()

    return inject


LOCKER = """
import sys, time
import duckdb
while True:
    try:
        connection = duckdb.connect(sys.argv[1])
        break
    except duckdb.IOException:
        time.sleep(0.01)
print("locked", flush=True)
time.sleep(float(sys.argv[2]))
"""


def lock_store(seconds: float) -> Fault:
    """Open the database for writing in a process that does not use DermSlim's lock."""

    def inject(stack: Stack, chance: random.Random) -> None:
        store = stack.queues.settings.database
        command = [sys.executable, "-c", LOCKER, str(store), str(seconds)]
        locker = run_command(command, cwd=ROOT, capture_output=True, text=True, timeout=seconds + 60, check=True)
        assert locker.stdout.strip() == "locked"

    return inject


def fill_disk(seconds: float) -> Fault:
    """Fill the disk of the data folder for a while."""

    def inject(stack: Stack, chance: random.Random) -> None:
        filler = stack.data_dir / "filler"

        def full() -> bool:
            for size in (65536, 512):
                with filler.open("ab", buffering=0) as file, suppress(OSError):
                    while True:
                        file.write(b"\0" * size)
            return shutil.disk_usage(stack.data_dir).free < 65536

        wait_for(full, 60)  # other processes may have freed some space meanwhile
        time.sleep(seconds)
        filler.unlink()

    return inject


@contextmanager
def small_disk(folder: Path, megabytes: int) -> Iterator[None]:
    """Mount a file system of that size at a folder. Raises PermissionError if this process cannot."""
    folder.mkdir(parents=True)
    mounted = run_command(
        ["mount", "-t", "tmpfs", "-o", f"size={megabytes}m", "none", str(folder)], capture_output=True, text=True
    )
    if mounted.returncode:
        raise PermissionError(mounted.stderr.strip())
    try:
        yield
    finally:
        run_command(["umount", "--lazy", str(folder)], check=True)


def no_compiler() -> bool:
    """Return whether there is no C compiler, which a separate clock needs."""
    return shutil.which("cc") is None


def own_clock(file: Path) -> dict[str, str]:
    """Return the environment of processes whose clock is shifted by the offset in a file; see `stepped_clock.c`."""
    library = file.with_suffix(".so")
    source = Path(__file__).with_name("stepped_clock.c")
    run_command(["cc", "-O1", "-shared", "-fPIC", "-Wall", "-o", str(library), str(source), "-ldl"], check=True)
    write_clock(file, 0)
    return {"LD_PRELOAD": str(library), "STEPPED_CLOCK": str(file)}


def write_clock(file: Path, seconds: int) -> None:
    """Set the offset of the time of day; processes that have mapped the file see it at once."""
    file.touch()
    with file.open("r+b") as place:
        place.write(struct.pack("=q", seconds))


def read_clock(file: Path) -> int:
    return int(struct.unpack("=q", file.read_bytes())[0])


def step_clock(seconds: int, then: Fault | None = None) -> Fault:
    """Change the time of day, as a machine does when it corrects its clock."""

    def inject(stack: Stack, chance: random.Random) -> None:
        assert stack.clock is not None
        time.sleep(chance.uniform(0, 1))
        write_clock(stack.clock, read_clock(stack.clock) + seconds)
        if then is not None:
            time.sleep(chance.uniform(0, 2))
            then(stack, chance)

    return inject


def each_of(*chosen: Fault) -> Fault:
    """Inject several faults one after the other in one round."""

    def inject(stack: Stack, chance: random.Random) -> None:
        for each in chosen:
            each(stack, chance)

    return inject


def faults(outage: float) -> dict[str, Fault]:
    """Return every fault that needs no special stack, by name. outage: seconds of each outage."""
    return {
        "an svd job's process is killed": kill_job("svd worker"),
        "a training's process is killed": kill_job("train worker"),
        "an svd worker is killed": kill("svd worker"),
        "a train worker is killed": kill("train worker"),
        "the record worker is killed": kill("record worker"),
        "the dashboard is killed": kill("dashboard"),
        "Valkey is killed": kill("valkey"),
        "Valkey does not answer": suspend_valkey(outage),
        "another program has the store open": lock_store(outage),
        "an image kills the process each time": poison,
    }


NO_SPACE = "No space left"  # the error of a run when the disk is full


def disk_faults(outage: float) -> dict[str, Fault]:
    """Return the faults for a stack whose data folder is a `small_disk`."""
    return {"the disk is full": fill_disk(outage)}


def clock_faults() -> dict[str, Fault]:
    """Return the faults for a stack with a clock of its own."""
    return {
        "the clock goes forward by an hour": step_clock(3600),
        "the clock goes back by two hours": step_clock(-7200),
        "the clock goes back by an hour and a train worker is killed": step_clock(-3600, kill("train worker")),
    }
