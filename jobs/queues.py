"""All that the dashboard and the command line know of the queue: submit, watch, cancel, retry."""

from __future__ import annotations

import json
import os
import secrets
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import redis
from rq import Queue, Retry, Worker
from rq.job import Job
from rq.serializers import JSONSerializer

from core.compression.measure import new_names
from core.compression.specs import MeasuringSpec, ReconstructSpec, variants
from core.data.datasets import Dataset, Record, load_dataset
from core.data.folders import confine, is_there, refuse_no_text
from core.data.names import default_name, name_fault
from core.errors import DatasetError, QueueUnavailable, SpecError
from core.estimates import Estimate, measuring_estimate, training_estimate
from core.runs import RunSpec, spec_from_dict
from core.settings import Settings
from core.specs import spec_hash
from core.store.file import plain_rows
from core.store.measurements import NewRun, Store
from core.store.trainings import ENDED
from core.training.algorithm2 import Stop
from core.training.specs import TrainSpec
from core.training.steps import first_state, judged, next_training
from jobs import run_jobs as training_jobs
from jobs.cli.options import command_line
from jobs.connection import QUEUES, RECORD, SVD, Connection, connect, queue
from jobs.hosts import claim_output, disclaim_output, mark_output
from jobs.live_runs import LiveRun, active_runs, spec_key
from jobs.messages import dataset_to_dict, send, waiting
from jobs.provenance import code_revision, versions
from jobs.provenance import user as local_user
from jobs.run_states import RunState, WorkerState, live_state, recorded_state, worker_state

LARGEST_CHUNK = 16  # images a job
CHUNKS = 24  # that a small run is split into at least, as far as its images go
PIXELS = 450 * 600  # of HAM10000's images, for which LARGEST_CHUNK is meant
LONGEST_CREATION = 60  # seconds that a run may take to become known; a submitter that needs longer has died
CHUNK_TRIES = 12  # a chunk is begun again when its process dies; an image is given up after `live.MAX_TRIES`


@dataclass(frozen=True)
class Submission:
    """What a submission came to: a new run, or the one that has measured the same thing already."""

    run_id: str
    identical: bool


class Queues:
    """The queue and the store behind it, for one process.

    user: who asks for what is done through this object; this machine's user unless a page says who is signed in.
    store: one that waits for the file as long as the caller can.
    """

    def __init__(
        self,
        settings: Settings,
        connection: Connection | None = None,
        *,
        user: str | None = None,
        store: Store | None = None,
    ) -> None:
        self.settings = settings
        self.user = user or local_user()
        self.store = store or Store(settings.database)
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
        refuse_no_text(folder_or_name)
        known = self.store.dataset(folder_or_name)
        if known is not None:
            return known
        folder = Path(folder_or_name)
        if os.sep not in folder_or_name and not is_there(folder):
            names = ", ".join(self.store.datasets()["name"]) or "none is registered"
            raise DatasetError(f"expected a folder or a registered data set ({names}); got {folder_or_name}")
        root = confine(folder, self.settings.data_roots)
        registered = self.store.datasets()
        same = registered[registered["root"] == str(root)]
        if name is not None and (fault := name_fault(name)):
            raise DatasetError(fault)
        chosen = name or (str(same["name"].iloc[0]) if len(same) else default_name(root))
        taken = registered[(registered["name"] == chosen) & (registered["root"] != str(root))]
        if len(taken):
            raise DatasetError(
                f"expected a name that is free; {chosen} is registered for {taken['root'].iloc[0]}. Give another name"
            )
        return load_dataset(root, name=chosen, progress=progress)

    def register(self, dataset: Dataset) -> None:
        """Record a data set under its name."""
        if fault := name_fault(dataset.name):
            raise DatasetError(fault)
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
        # Where neither knew it, it may have finished between the two questions.
        return running.decode() if running else self.store.finished_run(wanted)

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
        if isinstance(spec, ReconstructSpec):
            claim_output(self.settings.reconstructed / spec.name, run_id, dataset.root)
        with self.connected() as connection:
            if not connection.set(spec_key(wanted), run_id, nx=True, ex=LONGEST_CREATION) and not again:
                other = connection.get(spec_key(wanted))
                if other is not None:
                    if isinstance(spec, ReconstructSpec):
                        disclaim_output(self.settings.reconstructed / spec.name, run_id)
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
                self._enqueue(live, spec, dataset, records, attempt=1)
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

    def _enqueue(
        self, live: LiveRun, spec: MeasuringSpec, dataset: Dataset, records: Sequence[Record], attempt: int
    ) -> None:
        output = None
        if isinstance(spec, ReconstructSpec):
            output = self.settings.reconstructed / spec.name
            mark_output(output, live.run_id)
        names = new_names(dataset, spec)
        chunks = list(_chunks(records))
        jobs = [
            Queue.prepare_data(
                "jobs.measure_task.measure_chunk",
                kwargs={
                    "run_id": live.run_id,
                    "attempt": attempt,
                    "spec": spec.to_dict(),
                    "root": str(dataset.root),
                    "records": [asdict(record) for record in chunk],
                    "output": str(output) if output else None,
                    "names": [names[record.path] for record in chunk] if names else None,
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
                live.end(spec_hash(spec, facts["fingerprint"]), attempt=1)
                if isinstance(spec, ReconstructSpec):
                    disclaim_output(self.settings.reconstructed / spec.name, run_id)
            elif isinstance(spec, TrainSpec):
                training_jobs.leave_dataset(connection, dataset)
                training_jobs.enqueue_step(live, first_state(spec), attempt=1)
                live.submitted()
            elif any(Job.fetch_many(live.job_ids(), connection=connection, serializer=JSONSerializer)):
                live.submitted()  # all jobs of a run are enqueued in one transaction
            else:
                self._enqueue(live, spec, dataset, dataset.sample(spec.sample_size, spec.seed), attempt=1)

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
        """Change a training run's priority, one of `jobs.run_jobs.PRIORITIES`."""
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
        dataset = self.dataset_of(run)
        if isinstance(spec, TrainSpec):
            self._retry_training(run, spec, dataset)
        else:
            self._retry_measuring(run, spec, dataset)

    def dataset_of(self, run: dict[str, Any]) -> Dataset:
        """Return the data set that a run was submitted for. SpecError where it was removed or has changed."""
        dataset = self.store.dataset(run["dataset"])
        if dataset is None:
            raise SpecError(f"expected data set {run['dataset']} to be registered; it was removed")
        if dataset.fingerprint != run["dataset_fingerprint"]:
            raise SpecError(
                f"expected data set {run['dataset']} as it was when {run['run_id']} was submitted; it has changed "
                "since. Submit a new run"
            )
        return dataset

    def _retry_measuring(self, run: dict[str, Any], spec: MeasuringSpec, dataset: Dataset) -> None:
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
                self._enqueue(live, spec, dataset, missing, attempt)

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
        recorded = {row["run_id"]: recorded_state(row) for row in plain_rows(self.store.runs())}
        with self.connected() as connection:
            active = active_runs(connection)
            for position, run_id in enumerate(active):
                state = live_state(LiveRun(connection, run_id), recorded.get(run_id), position)
                if state is not None:
                    recorded[run_id] = state
        return sorted(recorded.values(), key=lambda state: (state.submitted_at, state.run_id), reverse=True)

    def run(self, run_id: str) -> RunState | None:
        """Return one run's state, or None when neither store nor queue knows it."""
        with self.connected() as connection:
            active = active_runs(connection)
            position = active.index(run_id) if run_id in active else None
            live = None if position is None else live_state(LiveRun(connection, run_id), None, position)
        if live is not None:  # the record worker takes a run off the active ones once the store has its end
            return live
        row = self.store.run(run_id)
        return recorded_state(row) if row else None

    def log(self, run_id: str) -> list[str]:
        """Return the run's log, oldest line first; it fades a day after the run has ended."""
        with self.connected() as connection:
            return LiveRun(connection, run_id).log_lines()

    def workers(self) -> list[WorkerState]:
        """Return the workers that are alive, by queue and name."""
        with self.connected() as connection:
            found = [worker_state(each) for each in Worker.all(connection=connection, serializer=JSONSerializer)]
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
        if isinstance(spec, TrainSpec):
            return training_estimate(self.store, spec, dataset)
        workers = sum(worker.kind == SVD for worker in self.workers())
        return measuring_estimate(self.store, spec, dataset, max(workers, 1))

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
