"""All that the dashboard and the command line know of the queue: submit, watch, cancel, retry."""

from __future__ import annotations

import json
import os
import secrets
import socket
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psutil
import redis
from rq import Queue, Retry, Worker
from rq.job import Job
from rq.serializers import JSONSerializer

from core import sweeps
from core.datasets import Dataset, Record, confine, load_dataset
from core.errors import DatasetError, QueueUnavailable, SpecError
from core.parameters import network_cost
from core.run_specs import RunSpec, spec_from_dict
from core.schedule import Stop
from core.settings import Settings
from core.splits import split_records
from core.store import NewRun, Store
from core.store_file import plain_rows
from core.sweeps import ReconstructSpec, Spec, SweepSpec, spec_hash, variants
from core.training_rows import ENDED
from core.training_runs import TRAINING_SPECS, TrainSpec, first_state, judged, likely_networks, next_training
from jobs import training_jobs
from jobs.connection import QUEUES, RECORD, SVD, Connection, connect, queue
from jobs.environment import code_revision, command_line, versions
from jobs.environment import user as local_user
from jobs.hosts import mark_output
from jobs.live import LiveRun, active_runs, spec_key
from jobs.records import dataset_to_dict, send, waiting

LARGEST_CHUNK = 16  # images a job
CHUNKS = 24  # that a small run is split into at least, as far as its images go
PIXELS = 450 * 600  # of HAM10000's images, for which LARGEST_CHUNK is meant
LONGEST_CREATION = 60  # seconds that a run may take to become known; a submitter that needs longer has died
CHUNK_TRIES = 12  # a chunk is begun again when its process dies; an image is given up after `live.MAX_TRIES`
LATE = 45.0  # seconds without a sign of life after which a worker counts as dead


@dataclass(frozen=True)
class Submission:
    """What a submission came to: a new run, or the one that has measured the same thing already."""

    run_id: str
    identical: bool


@dataclass(frozen=True)
class RunState:
    """A run as the store and the queue together see it.

    status: 'queued', 'running', 'paused', 'scheduled' (to start at a later time), 'finished', 'failed', 'cancelled'.
    total, done: images, or for a training run epochs, of the steps begun so far. failed: images or steps. rate: images
    a second. seconds_left: until the last image at that rate, or until the last epoch of the step. position: runs
    submitted before it that have not ended, for a queued run. step, step_name, epoch: where a training run is. doing:
    what it does before its first epoch. starts_at: of a scheduled run. study: what submitted it with others.
    """

    run_id: str
    kind: str
    dataset: str
    status: str
    total: int
    done: int
    failed: int
    attempt: int
    submitted_at: datetime
    submitted_by: str | None = None
    started_at: datetime | None = None
    finished_at: datetime | None = None
    rate: float | None = None
    seconds_left: float | None = None
    position: int | None = None
    error: str | None = None
    synthetic: bool = False
    study: str | None = None
    priority: str = training_jobs.NORMAL
    starts_at: datetime | None = None
    step: int | None = None
    step_name: str | None = None
    epoch: int | None = None
    epochs: int | None = None
    doing: str | None = None

    @property
    def trains(self) -> bool:
        """Whether the run trains networks: its parts are epochs then, not images."""
        return self.kind in TRAINING_SPECS

    @property
    def ended(self) -> bool:
        """Whether nothing more will happen to the run by itself."""
        return self.status in ENDED


@dataclass(frozen=True)
class WorkerState:
    """A worker that is alive. kind: the queue it serves. state: idle, busy, starting or suspended."""

    name: str
    kind: str
    host: str
    pid: int
    state: str
    current_run: str | None
    last_seen: datetime
    started_at: datetime | None
    jobs_done: int


@dataclass(frozen=True)
class Estimate:
    """How long a run may take. seconds: None where nothing is known. basis: what the figure rests on, a sentence."""

    seconds: float | None
    basis: str


class Queues:
    """The queue and the store behind it, for one process.

    user: who asks for what is done through this object; this machine's user unless a page says who is signed in.
    """

    def __init__(self, settings: Settings, connection: Connection | None = None, *, user: str | None = None) -> None:
        self.settings = settings
        self.user = user or local_user()
        self.store = Store(settings.database)
        self._given = connection

    @contextmanager
    def connected(self) -> Iterator[Connection]:
        """Give a connection; QueueUnavailable where the server does not answer."""
        connection = self._given or connect(self.settings)
        try:
            yield connection
        except redis.RedisError as error:
            raise QueueUnavailable(f"expected the Redis server to answer; {str(error).rstrip('.')}") from error
        finally:
            if self._given is None:
                connection.close()

    def ping(self) -> None:
        """Raise QueueUnavailable unless the server answers."""
        with self.connected() as connection:
            connection.ping()

    # -- data sets ---------------------------------------------------------------------------------------------

    def resolve(
        self, folder_or_name: str, *, name: str | None = None, progress: Callable[[int, int], None] | None = None
    ) -> Dataset:
        """Return the registered data set of that name, or read the folder of that path.

        A folder that is registered already keeps its name. DatasetError when it is neither, or lies outside the data
        roots, or when the name is taken by another folder.
        """
        known = self.store.dataset(folder_or_name)
        if known is not None:
            return known
        folder = Path(folder_or_name).expanduser()
        if not folder.exists() and os.sep not in folder_or_name:
            names = ", ".join(self.store.datasets()["name"]) or "none is registered"
            raise DatasetError(f"expected a folder or a registered data set ({names}); got {folder_or_name}")
        root = confine(folder, self.settings.data_roots)
        registered = self.store.datasets()
        same = registered[registered["root"] == str(root)]
        chosen = name or (str(same["name"].iloc[0]) if len(same) else root.name)
        taken = registered[(registered["name"] == chosen) & (registered["root"] != str(root))]
        if len(taken):
            raise DatasetError(
                f"expected a name that is free; {chosen} is registered for {taken['root'].iloc[0]}. Give another name"
            )
        return load_dataset(root, name=chosen, progress=progress)

    def register(self, dataset: Dataset) -> None:
        """Record a data set under its name."""
        confine(dataset.root, self.settings.data_roots)
        with self.connected() as connection:
            send(
                connection,
                "dataset",
                values=dataset_to_dict(dataset),
                at=datetime.now(UTC).isoformat(),
            )

    def remove_dataset(self, name: str) -> None:
        """Forget a registration; files and runs stay."""
        with self.connected() as connection:
            send(connection, "removed_dataset", name=name, by=self.user)

    # -- submitting --------------------------------------------------------------------------------------------

    def find_identical(self, spec: RunSpec, dataset: Dataset) -> str | None:
        """Return the run that has measured, or is measuring, the same thing on the same images, or None."""
        wanted = spec_hash(spec, dataset.fingerprint)
        finished = self.store.finished_run(wanted)
        if finished is not None:
            return finished
        with self.connected() as connection:
            running = connection.get(spec_key(wanted))
        return running.decode() if running else None

    def submit(
        self,
        spec: RunSpec,
        dataset: Dataset,
        *,
        again: bool = False,
        submitted_by: str | None = None,
        priority: str = training_jobs.NORMAL,
        start_after: datetime | None = None,
        study: str | None = None,
    ) -> Submission:
        """Queue a run: split into jobs over all `svd` workers, or step by step for a `train` worker.

        again: measure even where an identical run has finished. Two submissions of the same thing at once give one
        run. priority, start_after (a moment with its time zone): of training runs. study: what submits several runs
        together. SpecError where the data set cannot be measured so.
        """
        spec.check(dataset)
        training_jobs.check_priority(priority)
        hold = training_jobs.hold_text(start_after)
        if isinstance(spec, ReconstructSpec) and self.store.dataset(spec.name) is not None:
            raise SpecError(f"name: expected one that is free; {spec.name} is a registered data set")
        if not again and (identical := self.find_identical(spec, dataset)) is not None:
            return Submission(identical, True)
        run_id = f"{spec.kind}-{datetime.now(UTC):%Y%m%d-%H%M%S}-{secrets.token_hex(3)}"
        wanted = spec_hash(spec, dataset.fingerprint)
        with self.connected() as connection:
            if not connection.set(spec_key(wanted), run_id, nx=True, ex=LONGEST_CREATION) and not again:
                other = connection.get(spec_key(wanted))
                if other is not None:
                    return Submission(other.decode(), True)
            records = () if isinstance(spec, TrainSpec) else dataset.sample(spec.sample_size, spec.seed)
            run = NewRun(
                run_id=run_id,
                kind=spec.kind,
                dataset=dataset.name,
                dataset_fingerprint=dataset.fingerprint,
                synthetic=dataset.synthetic,
                spec=json.dumps(spec.to_dict()),
                spec_hash=wanted,
                total=spec.training.epochs if isinstance(spec, TrainSpec) else len(records),
                submitted_at=datetime.now(UTC),
                submitted_by=submitted_by or self.user,
                code_revision=code_revision(),
                versions=versions(),
                command=command_line(spec),
                dataset_source=dataset.source,
                study=study,
            )
            live = LiveRun(connection, run_id)
            live.create({**_facts(run, attempt=1), "priority": priority, "hold": hold})
            values = {**asdict(run), "submitted_at": run.submitted_at.isoformat()}
            send(connection, "run", values=values)
            connection.expire(spec_key(wanted), 7 * 24 * 3600)
            if isinstance(spec, TrainSpec):
                training_jobs.leave_dataset(connection, dataset)
                training_jobs.enqueue_step(live, first_state(spec), attempt=1)
                live.submitted()
            else:
                self._enqueue(live, spec, dataset.root, records, attempt=1)
        return Submission(run_id, False)

    def submit_together(
        self,
        wanted: Sequence[tuple[RunSpec, Dataset]],
        *,
        again: bool = False,
        submitted_by: str | None = None,
        priority: str = training_jobs.NORMAL,
        start_after: datetime | None = None,
    ) -> list[Submission]:
        """Queue several runs; more than one carry a common study, by which pages and tables take them together.

        Every one is checked before the first is queued.
        """
        for spec, dataset in wanted:
            spec.check(dataset)
        study = f"grid-{datetime.now(UTC):%Y%m%d-%H%M%S}-{secrets.token_hex(2)}" if len(wanted) > 1 else None
        return [
            self.submit(
                spec,
                dataset,
                again=again,
                submitted_by=submitted_by,
                priority=priority,
                start_after=start_after,
                study=study,
            )
            for spec, dataset in wanted
        ]

    def _enqueue(self, live: LiveRun, spec: Spec, root: Path, records: Sequence[Record], attempt: int) -> None:
        output = None
        if isinstance(spec, ReconstructSpec):
            output = self.settings.reconstructed / spec.name
            mark_output(output, live.run_id)
        chunks = list(_chunks(records))
        jobs = [
            Queue.prepare_data(
                "jobs.tasks.measure_chunk",
                kwargs={
                    "run_id": live.run_id,
                    "attempt": attempt,
                    "spec": spec.to_dict(),
                    "root": str(root),
                    "records": [asdict(record) for record in chunk],
                    "output": str(output) if output else None,
                },
                timeout=_timeout(chunk, len(variants(spec))),
                result_ttl=3600,
                failure_ttl=7 * 24 * 3600,
                retry=Retry(max=CHUNK_TRIES),
                job_id=f"{live.run_id}--{attempt}-{number}",
                description=f"{live.run_id}, chunk {number + 1} of {len(chunks)}",
            )
            for number, chunk in enumerate(chunks)
        ]
        live.add_jobs(job.job_id for job in jobs)
        queue(SVD, live.connection).enqueue_many(jobs)
        live.submitted()

    def finish_submission(self, run_id: str) -> None:
        """Complete a first submission whose process died half-way; a run that the store never came to know is undone.

        For whoever knows that the process is dead; harmless where every job had been enqueued.
        """
        with self.connected() as connection:
            live = LiveRun(connection, run_id)
            facts = live.facts()
            if "submitting" not in facts or facts["attempt"] != "1":
                return
            spec = spec_from_dict(json.loads(facts["spec"]))
            dataset = self.store.dataset(facts["dataset"])
            if self.store.run(run_id) is None or dataset is None:
                live.end(spec_hash(spec, facts["fingerprint"]))
            elif isinstance(spec, TrainSpec):
                training_jobs.leave_dataset(connection, dataset)
                training_jobs.enqueue_step(live, first_state(spec), attempt=1)
                live.submitted()
            elif any(Job.fetch_many(live.job_ids(), connection=connection, serializer=JSONSerializer)):
                live.submitted()  # all jobs of a run are enqueued in one transaction
            else:
                self._enqueue(live, spec, dataset.root, dataset.sample(spec.sample_size, spec.seed), attempt=1)

    # -- changing ----------------------------------------------------------------------------------------------

    def cancel(self, run_id: str, *, force: bool = False) -> None:
        """Stop a run after the images, or the epoch, at hand; what was measured stays.

        force: end a training's process at once; its last checkpoint stays.
        """
        state = self._active(run_id)
        with self.connected() as connection:
            live = LiveRun(connection, run_id)
            live.cancel(state.attempt)
            live.log(f"cancelled by {self.user}" + (", at once" if force else ""))
            if force and state.trains:
                training_jobs.stop_at_once(live)
            training_jobs.withdraw(live)
            send(
                connection,
                "cancelled",
                run_id=run_id,
                attempt=state.attempt,
                at=datetime.now(UTC).isoformat(),
            )

    def _active(self, run_id: str) -> RunState:
        state = self.run(run_id)
        if state is None:
            raise SpecError(f"expected a known run; got {run_id}")
        if state.ended:
            raise SpecError(f"expected a run that is queued or running; {run_id} is {state.status}")
        return state

    def _active_training(self, run_id: str) -> RunState:
        state = self._active(run_id)
        if not state.trains:
            raise SpecError(f"expected a training run; {run_id} is a {state.kind} run")
        return state

    def pause(self, run_id: str) -> None:
        """Keep a training run from going on; a step that runs stops after its epoch and keeps its checkpoint."""
        self._active_training(run_id)
        with self.connected() as connection:
            live = LiveRun(connection, run_id)
            training_jobs.hold(live, training_jobs.PAUSED)
            live.log(f"paused by {self.user}")

    def resume(self, run_id: str) -> None:
        """Let a paused or scheduled training run go on now, where it was."""
        state = self._active_training(run_id)
        with self.connected() as connection:
            live = LiveRun(connection, run_id)
            live.log(f"resumed by {self.user}")
            training_jobs.release(live, state.attempt)

    def prioritise(self, run_id: str, priority: str) -> None:
        """Change a training run's priority, one of `jobs.training_jobs.PRIORITIES`."""
        state = self._active_training(run_id)
        with self.connected() as connection:
            live = LiveRun(connection, run_id)
            training_jobs.prioritise(live, state.attempt, priority)
            live.log(f"priority {priority}, by {self.user}")

    def retry(self, run_id: str) -> None:
        """Do what a cancelled, failed or incomplete run has left out: measured images and trained steps are kept."""
        run = self.store.run(run_id)
        if run is None:
            raise SpecError(f"expected a run that is in the store; got {run_id}")
        if run["status"] not in ENDED:
            raise SpecError(f"expected a run that has ended; {run_id} is {run['status']}")
        spec = spec_from_dict(json.loads(run["spec"]))
        dataset = self.store.dataset(run["dataset"])
        if dataset is None:
            raise SpecError(f"expected data set {run['dataset']} to be registered; it was removed")
        if dataset.fingerprint != run["dataset_fingerprint"]:
            raise SpecError(
                f"expected data set {run['dataset']} as it was when {run_id} was submitted; it has changed since. "
                "Submit a new run"
            )
        if isinstance(spec, TrainSpec):
            self._retry_training(run, spec, dataset)
        else:
            self._retry_measuring(run, spec, dataset)

    def _retry_measuring(self, run: dict[str, Any], spec: Spec, dataset: Dataset) -> None:
        run_id = run["run_id"]
        if run["measured"] == run["total"] and run["status"] == "finished":
            raise SpecError(f"expected a run with images left to measure; {run_id} has measured all {run['total']}")
        attempt = int(run["attempt"]) + 1
        measured = set(self.store.images(run_id, "measured")["image_id"])
        missing = [r for r in dataset.sample(spec.sample_size, spec.seed) if r.image_id not in measured]
        with self.connected() as connection:
            live = LiveRun(connection, run_id)
            live.create(_facts(_new_run(run), attempt), done=measured)
            live.log(f"retried by {self.user}: {len(missing)} images to measure")
            send(connection, "retried", run_id=run_id, attempt=attempt, complete=not missing)
            if missing:
                self._enqueue(live, spec, dataset.root, missing, attempt)

    def _retry_training(self, run: dict[str, Any], spec: TrainSpec, dataset: Dataset) -> None:
        """Go on with the first step that could not be trained, or the one that was never finished."""
        run_id, attempt = run["run_id"], int(run["attempt"]) + 1
        state = first_state(spec)
        for result in self.store.step_results(run_id):
            step = next_training(spec, state)
            if result.failure or isinstance(step, Stop):
                break
            _, state = judged(spec, state, step, result)
        following = next_training(spec, state)
        if isinstance(following, Stop) and run["status"] == "finished":
            raise SpecError(f"expected a run with steps left to train; {run_id} has ended: {following.reason}")
        with self.connected() as connection:
            live = LiveRun(connection, run_id)
            live.create({**_facts(_new_run(run), attempt), "priority": live.priority()})
            live.log(f"retried by {self.user}, from step {len(state.outcomes)}")
            send(connection, "training_retried", run_id=run_id, attempt=attempt, step=len(state.outcomes))
            training_jobs.leave_dataset(connection, dataset)
            training_jobs.enqueue_step(live, state, attempt)
            live.submitted()

    # -- watching ----------------------------------------------------------------------------------------------

    def runs(self) -> list[RunState]:
        """Return every run, newest first: the store's, with what the queue knows of those under way."""
        recorded = {row["run_id"]: _recorded(row) for row in plain_rows(self.store.runs())}
        with self.connected() as connection:
            active = active_runs(connection)
            for position, run_id in enumerate(active):
                state = _merged(LiveRun(connection, run_id), recorded.get(run_id), position)
                if state is not None:
                    recorded[run_id] = state
        return sorted(recorded.values(), key=lambda state: (state.submitted_at, state.run_id), reverse=True)

    def run(self, run_id: str) -> RunState | None:
        """Return one run's state, or None when neither store nor queue knows it."""
        with self.connected() as connection:
            active = active_runs(connection)
            position = active.index(run_id) if run_id in active else None
            live = None if position is None else _merged(LiveRun(connection, run_id), None, position)
        if live is not None:  # the record worker takes a run off the active ones once the store has its end
            return live
        row = self.store.run(run_id)
        return _recorded(row) if row else None

    def log(self, run_id: str) -> list[str]:
        """Return the run's log, oldest line first; it fades a day after the run has ended."""
        with self.connected() as connection:
            return LiveRun(connection, run_id).log_lines()

    def workers(self) -> list[WorkerState]:
        """Return the workers that are alive, by queue and name."""
        with self.connected() as connection:
            found = [_worker(each) for each in Worker.all(connection=connection, serializer=JSONSerializer)]
        alive = [each for each in found if each is not None]
        return sorted(alive, key=lambda each: (QUEUES.index(each.kind), each.name))

    def records_waiting(self) -> int:
        """Return how many records have not been written yet."""
        with self.connected() as connection:
            return waiting(connection)

    def record_worker_alive(self) -> bool:
        """Return whether a record worker is there to write the store."""
        return any(worker.kind == RECORD for worker in self.workers())

    def estimate(self, spec: RunSpec, dataset: Dataset) -> Estimate:
        """Guess a run's length from what has been measured here."""
        return self._training_estimate(spec, dataset) if isinstance(spec, TrainSpec) else self._estimate(spec, dataset)

    def _training_estimate(self, spec: TrainSpec, dataset: Dataset) -> Estimate:
        """Guess from the newest finished step of the network, else of any: cost follows MACs × training images."""
        steps = self.store.steps()
        steps = steps[(steps["status"] == "finished") & steps["epoch_seconds"].notna()].sort_values("finished_at")
        if steps.empty:
            return Estimate(None, "No network has been trained yet, so there is no speed to go by.")
        same = steps[[json.loads(text)["name"] == spec.network.name for text in steps["network"]]]
        latest = (same if len(same) else steps).iloc[-1]
        splits = self.store.run_splits(str(latest["run_id"]))
        images = int(splits.loc[splits["split"] == "train", "oversampled"].sum())
        if not images:
            return Estimate(None, "No network has been trained yet, so there is no speed to go by.")
        cost = float(latest["epoch_seconds"]) / (float(latest["macs"]) * images)
        networks = likely_networks(spec)
        split = split_records(dataset.records, spec.targets, seed=spec.split_seed, leaky_split=spec.leaky_split)
        size = spec.training.height, spec.training.width
        work = sum(network_cost(network, *size).macs for network in networks) * len(split.oversampled)
        taken = (steps["finished_at"] - steps["started_at"]).dt.total_seconds()
        start = max(0.0, float((taken - steps["seconds"]).median()))  # of a process: Keras, images; as usual here
        basis = f"from {latest['name']} of {latest['run_id']}, {float(latest['epoch_seconds']):.1f} s an epoch"
        basis += f" and {start:.0f} s to start"
        if len(networks) > 1:
            pruned = f"{len(networks) - 1} pruned ones" if len(networks) > 2 else "one pruned one"
            basis += f"; for the unpruned network and {pruned}, as if each were accepted"
        return Estimate(cost * work * spec.training.epochs + start * len(networks), basis)

    def _estimate(self, spec: Spec, dataset: Dataset) -> Estimate:
        """Guess from the newest finished run of the kind, else from the newest sweep.

        The cost is taken to follow pixels of the originals × rows an image.
        """
        for kind in dict.fromkeys((spec.kind, SweepSpec.kind)):
            past = self.store.runs(kind=kind, status="finished")
            past = past[past["work_seconds"].notna()]
            pixels = self.store.source_pixels(str(past["run_id"].iloc[0])) if len(past) else 0
            if pixels:
                break
        else:
            return Estimate(None, f"No {spec.kind} has finished yet, so there is no speed to go by.")
        latest = past.iloc[0]
        cost = float(latest["work_seconds"]) / (
            pixels * len(variants(sweeps.spec_from_dict(json.loads(latest["spec"]))))
        )
        asked = sum(each.height * each.width for each in dataset.sample(spec.sample_size, spec.seed))
        workers = sum(worker.kind == SVD for worker in self.workers()) or 1
        basis = f"from {latest['run_id']}, {cost * 1e6:.2f} s a megapixel and row, {workers} workers"
        return Estimate(cost * asked * len(variants(spec)) / workers, basis)

    def wait(self, run_id: str, *, pause: float = 0.2) -> Iterator[RunState]:
        """Yield the run's state again and again until it has ended."""
        while True:
            state = self.run(run_id)
            if state is None:
                raise SpecError(f"expected a known run; got {run_id}")
            yield state
            if state.ended:
                return
            time.sleep(pause)


def _new_run(row: dict[str, Any]) -> NewRun:
    return NewRun(**{name: row[name] for name in NewRun.__dataclass_fields__})


def _facts(run: NewRun, attempt: int) -> dict[str, str | int]:
    return {
        "kind": run.kind,
        "dataset": run.dataset,
        "total": run.total,
        "attempt": attempt,
        "spec": run.spec,
        "fingerprint": run.dataset_fingerprint,
        "study": run.study or "",
        "submitted_at": run.submitted_at.isoformat(),
        "submitted_by": run.submitted_by or "",
        "synthetic": int(run.synthetic),
        "submitting": str(time.time()),
    }


def _chunks(records: Sequence[Record]) -> Iterator[Sequence[Record]]:
    """Split images into jobs of like size: fewer a job where they are large or few."""
    if not records:
        return
    pixels = sum(record.height * record.width for record in records) / len(records)
    size = min(LARGEST_CHUNK, int(LARGEST_CHUNK * PIXELS / max(pixels, 1.0)), -(-len(records) // CHUNKS))
    for start in range(0, len(records), max(1, size)):
        yield records[start : start + max(1, size)]


def _timeout(chunk: Sequence[Record], rows: int) -> int:
    """Return seconds that a chunk may take: some hundred times what it takes on an ordinary core."""
    cost = sum((record.height * record.width / PIXELS) ** 1.5 for record in chunk)
    return int(300 + 10 * cost * max(rows, 1))


def _recorded(row: dict[str, Any]) -> RunState:
    return RunState(
        run_id=row["run_id"],
        kind=row["kind"],
        dataset=row["dataset"],
        status=row["status"],
        total=row["total"],
        done=row["measured"],
        failed=row["failed"],
        attempt=row["attempt"],
        submitted_at=row["submitted_at"],
        submitted_by=row["submitted_by"],
        started_at=row["started_at"],
        finished_at=row["finished_at"],
        error=row["error"],
        synthetic=row["synthetic"],
        study=row["study"],
    )


def _merged(live: LiveRun, recorded: RunState | None, position: int) -> RunState | None:
    """Return what the queue adds to the store's view of an active run; None when the queue has nothing newer."""
    facts = live.facts()
    if not facts or (recorded is not None and recorded.ended and recorded.attempt >= int(facts["attempt"])):
        return None
    started = facts.get("started_at")
    state = RunState(
        run_id=live.run_id,
        kind=facts["kind"],
        dataset=facts["dataset"],
        status="running" if started else "queued",
        total=int(facts["total"]),
        done=0,
        failed=0,
        attempt=int(facts["attempt"]),
        submitted_at=datetime.fromisoformat(facts["submitted_at"]),
        submitted_by=facts["submitted_by"] or None,
        started_at=datetime.fromisoformat(started) if started else None,
        position=None if started else position,
        synthetic=facts["synthetic"] == "1",
        study=facts.get("study") or None,
    )
    return _training_state(state, live, facts) if state.trains else _measuring_state(state, live)


def _measuring_state(state: RunState, live: LiveRun) -> RunState:
    done, failed, rate = live.progress()
    left = (state.total - done - failed) / rate if rate else None
    return replace(state, done=done, failed=failed, rate=rate, seconds_left=left)


def _training_state(state: RunState, live: LiveRun, facts: dict[str, str]) -> RunState:
    epochs = int(json.loads(facts["spec"])["training"]["epochs"])
    hold, step = facts.get("hold", ""), facts.get("step")
    done, epoch = int(facts.get("epochs_done", 0)), int(facts.get("epoch", 0))
    pace = float(facts["epoch_seconds"]) if "epoch_seconds" in facts else None
    status = state.status
    if hold:
        status = training_jobs.PAUSED if hold == training_jobs.PAUSED else "scheduled"
    elif status == "running" and training_jobs.waits(live, state.attempt):
        status = "queued"
    return replace(
        state,
        status=status,
        total=done - epoch + epochs,
        done=done,
        seconds_left=(epochs - epoch) * pace if pace is not None else None,
        priority=facts.get("priority", training_jobs.NORMAL),
        starts_at=datetime.fromisoformat(hold) if hold not in ("", training_jobs.PAUSED) else None,
        step=int(step) if step is not None else None,
        step_name=facts.get("step_name"),
        epoch=epoch,
        epochs=epochs,
        doing=facts.get("doing") or None,
    )


def _worker(worker: Worker) -> WorkerState | None:
    kind = next((name for name in worker.queue_names() if name in QUEUES), None)
    if kind is None or worker.last_heartbeat is None:
        return None
    seen = worker.last_heartbeat.replace(tzinfo=UTC)
    host, pid = worker.hostname or "unknown", int(worker.pid or 0)
    if (datetime.now(UTC) - seen).total_seconds() > LATE or (
        host == socket.gethostname() and not psutil.pid_exists(pid)
    ):
        return None
    job_id = worker.get_current_job_id()
    return WorkerState(
        name=worker.name,
        kind=kind,
        host=host,
        pid=pid,
        state=worker.get_state(),
        current_run=job_id.split("--")[0] if job_id and "--" in job_id else None,
        last_seen=seen,
        started_at=worker.birth_date.replace(tzinfo=UTC) if worker.birth_date else None,
        jobs_done=int(worker.successful_job_count),
    )
