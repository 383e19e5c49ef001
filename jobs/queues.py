"""The queue's interface for the dashboard and the command line: submit, watch, cancel, retry."""

from __future__ import annotations

import json
import os
import secrets
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import redis
from rq import Worker
from rq.serializers import JSONSerializer

from core.data.datasets import Dataset, load_dataset
from core.data.folders import confine, is_there, refuse_no_text
from core.data.names import default_name, name_fault
from core.errors import DatasetError, QueueUnavailable, SpecError
from core.estimates import Estimate, Pace
from core.runs import Run, RunSpec, Status, spec_from_json
from core.settings import Settings
from core.specs import spec_hash
from core.store.measurements import Store
from jobs import probes, run_jobs
from jobs.cli.options import command_line
from jobs.connection import NORMAL, QUEUES, RECORD, Connection, connect
from jobs.hosts import disclaim_output
from jobs.live_runs import LiveRun, RunFacts, active_runs, spec_key
from jobs.messages import DatasetRegistered, DatasetRemoved, RunCancelled, RunRetried, RunSubmitted, send, waiting, wake
from jobs.probes import Probe
from jobs.provenance import code_revision, versions
from jobs.provenance import user as local_user
from jobs.run_kinds import RunKind, Work, run_kind
from jobs.run_states import WorkerState, under_way, worker_state

LONGEST_CREATION = 60  # seconds that a run may take to become known; a submitter that needs longer has died


@dataclass(frozen=True)
class Submission:
    """The result of a submission: a new run, or the existing run with the same settings and images."""

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
            raise QueueUnavailable(f"Expected the Redis server to answer, got: {str(error).rstrip('.')}.") from error
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
            raise DatasetError(f"Expected a folder or a registered data set ({names}), got {folder_or_name}.")
        root = confine(folder, self.settings.data_roots)
        registered = self.store.datasets()
        same = registered[registered["root"] == str(root)]
        if name is not None and (fault := name_fault(name)):
            raise DatasetError(fault)
        chosen = name or (str(same["name"].iloc[0]) if len(same) else default_name(root))
        taken = registered[(registered["name"] == chosen) & (registered["root"] != str(root))]
        if len(taken):
            raise DatasetError(f"Expected a free name, got {chosen} of {taken['root'].iloc[0]}. Give another name.")
        return load_dataset(root, name=chosen, progress=progress)

    def register(self, dataset: Dataset) -> None:
        """Record a data set under its name."""
        if fault := name_fault(dataset.name):
            raise DatasetError(fault)
        confine(dataset.root, self.settings.data_roots)
        with self.connected() as connection:
            send(connection, DatasetRegistered(values=dataset))

    def remove_dataset(self, name: str) -> None:
        """Forget a registration; files and runs stay."""
        with self.connected() as connection:
            send(connection, DatasetRemoved(name=name, by=self.user))

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

    def check(self, spec: RunSpec, dataset: Dataset) -> None:
        """Raise SpecError where the data set cannot be measured, or trained on, with this spec."""
        run_kind(spec, dataset, self.settings).check(self.store)

    def submit(
        self,
        spec: RunSpec,
        dataset: Dataset,
        *,
        again: bool = False,
        submitted_by: str | None = None,
        priority: str = NORMAL,
        start_after: datetime | None = None,
        study: str | None = None,
    ) -> Submission:
        """Queue a run: split into jobs over all `svd` workers, or step by step for a `train` worker.

        again: measure even where an identical run has finished. Two submissions of the same thing at once give one
        run. start_after: a moment with its time zone. study: what submits several runs together. SpecError where the
        data set cannot be measured so.
        """
        kind = run_kind(spec, dataset, self.settings)
        kind.check(self.store)
        run_jobs.check_priority(priority)
        run_jobs.check_start(start_after)
        if not again and (identical := self.find_identical(spec, dataset)) is not None:
            return Submission(identical, True)
        run_id = f"{spec.kind}-{datetime.now(UTC):%Y%m%d-%H%M%S}-{secrets.token_hex(3)}"
        wanted = spec_hash(spec, dataset.fingerprint)
        kind.reserve(run_id)
        with self.connected() as connection:
            if not connection.set(spec_key(wanted), run_id, nx=True, ex=LONGEST_CREATION) and not again:
                other = connection.get(spec_key(wanted))
                if other is not None:
                    kind.give_back(run_id)
                    return Submission(other.decode(), True)
            work = kind.work(self.store)
            run = Run(
                id=run_id,
                kind=spec.kind,
                dataset=dataset.name,
                fingerprint=dataset.fingerprint,
                synthetic=dataset.synthetic,
                spec_json=json.dumps(spec.to_dict()),
                spec_hash=wanted,
                total=work.total,
                submitted_at=datetime.now(UTC),
                submitted_by=submitted_by or self.user,
                revision=code_revision(),
                versions=versions(),
                command=command_line(spec),
                source=dataset.source,
                study=study,
            )
            live = LiveRun(connection, run_id)
            live.create(_facts(run, kind, work, 1, priority, start_after), work.jobs)
            send(connection, RunSubmitted(values=run))
            connection.expire(spec_key(wanted), 7 * 24 * 3600)
            _enqueue(live, kind)
        return Submission(run_id, False)

    def submit_together(
        self,
        wanted: Sequence[tuple[RunSpec, Dataset]],
        *,
        again: bool = False,
        priority: str = NORMAL,
        start_after: datetime | None = None,
    ) -> list[Submission]:
        """Queue several runs; more than one carry a common study, by which pages and tables take them together.

        Every one is checked before the first is queued.
        """
        for spec, dataset in wanted:
            spec.check(dataset)
        study = f"grid-{datetime.now(UTC):%Y%m%d-%H%M%S}-{secrets.token_hex(2)}" if len(wanted) > 1 else None
        return [
            self.submit(spec, dataset, again=again, priority=priority, start_after=start_after, study=study)
            for spec, dataset in wanted
        ]

    def finish_submission(self, run_id: str) -> None:
        """Complete a first submission whose process died; a run that the store does not contain is removed.

        Call it only if the process is dead; it changes nothing if every job was enqueued.
        """
        with self.connected() as connection:
            live = LiveRun(connection, run_id)
            facts = live.facts()
            if facts is None or facts.submitting is None or facts.attempt != 1:
                return
            spec = spec_from_json(facts.spec)
            dataset = self.store.dataset(facts.dataset)
            if dataset is not None and self.store.run(run_id) is not None:
                _enqueue(live, run_kind(spec, dataset, self.settings))
                return
            live.end(spec_hash(spec, facts.fingerprint), attempt=1)
            if facts.output:
                disclaim_output(Path(facts.output), run_id)

    # -- changing ----------------------------------------------------------------------------------------------

    def cancel(self, run_id: str, *, force: bool = False) -> None:
        """Stop a run after its current images or epoch; what was measured stays.

        force: end the processes of its jobs at once; a training's last checkpoint stays.
        """
        with self._operated(run_id) as (live, attempt):
            live.log(f"cancelled by {self.user}" + (", at once" if force else ""))
            live.cancel(attempt, RunCancelled(run_id=run_id, attempt=attempt).command())
            if force:
                run_jobs.stop_at_once(live)
            run_jobs.dequeue(live)
            wake(live.connection)

    def suspend(self, run_id: str) -> None:
        """Suspend a run. The current image or epoch is finished, and a step keeps its checkpoint."""
        with self._operated(run_id) as (live, _):
            facts = live.facts()
            if facts is not None and not (facts.trains or live.jobs_left()):
                raise SpecError(f"Expected a run with images left to measure, got {run_id}, which has none.")
            run_jobs.suspend(live)
            live.log(f"suspended by {self.user}")

    def resume(self, run_id: str) -> None:
        """Resume a suspended or scheduled run now, where it stopped."""
        with self._operated(run_id) as (live, _):
            live.log(f"resumed by {self.user}")
            run_jobs.resume(live)

    def prioritise(self, run_id: str, priority: str) -> None:
        """Change a run's priority, one of `jobs.connection.PRIORITIES`."""
        with self._operated(run_id) as (live, _):
            run_jobs.prioritise(live, priority)
            live.log(f"priority {priority}, by {self.user}")

    @contextmanager
    def _operated(self, run_id: str) -> Iterator[tuple[LiveRun, int]]:
        """Give a run that has not ended, with its attempt. SpecError for another."""
        state = self.run(run_id)
        if state is None:
            raise SpecError(f"Expected a known run, got {run_id}.")
        if state.ended:
            raise SpecError(f"Expected a run that is queued or running, got {run_id}, which is {state.status}.")
        with self.connected() as connection:
            yield LiveRun(connection, run_id), state.attempt

    def retry(self, run_id: str) -> None:
        """Run what a cancelled, failed or incomplete run left out; measured images and trained steps are kept."""
        run = self.store.run(run_id)
        if run is None:
            raise SpecError(f"Expected a run that is in the store, got {run_id}.")
        if not run.ended:
            raise SpecError(f"Expected a run that has ended, got {run_id}, which is {run.status}.")
        if run.origin_host is not None:
            raise SpecError(
                f"Expected a run of this store, got {run_id}, which was imported from {run.origin_host}. Retry it "
                f"there, or submit a new one here: `{run.command}`."
            )
        kind, attempt = run_kind(run.spec, self.dataset_of(run), self.settings), run.attempt + 1
        work = kind.work_left(self.store, run_id, finished=run.status == Status.FINISHED)
        with self.connected() as connection:
            live = LiveRun(connection, run_id)
            before = live.facts()
            priority = before.priority if before else NORMAL
            live.create(_facts(run, kind, work, attempt, priority), work.jobs, work.done)
            live.log(f"retried by {self.user}: {work.text}")
            send(connection, RunRetried(run_id=run_id, attempt=attempt, step=work.step, complete=not work.jobs))
            _enqueue(live, kind)

    def dataset_of(self, run: Run) -> Dataset:
        """Return the data set that a run was submitted for. SpecError where it was removed or has changed."""
        dataset = self.store.dataset(run.dataset)
        if run.origin_host is not None and (dataset is None or dataset.fingerprint != run.fingerprint):
            found = "none" if dataset is None else "other images of that name"
            raise SpecError(
                f"Expected the images of data set {run.dataset} on this host, got {found}: {run.id} was imported from "
                f"{run.origin_host}, and images do not travel. Register the same images here under that name."
            )
        if dataset is None:
            raise SpecError(f"Expected data set {run.dataset} to be registered, got none.")
        if dataset.fingerprint != run.fingerprint:
            raise SpecError(
                f"Expected data set {run.dataset} as it was when {run.id} was submitted, got a changed one. "
                "Submit a new run."
            )
        return dataset

    # -- watching ----------------------------------------------------------------------------------------------

    def runs(self) -> list[Run]:
        """Return every run, newest first: the store's, with what the queue knows of those under way."""
        recorded = {run.id: run for run in self.store.runs()}
        with self.connected() as connection:
            active = active_runs(connection)
            for position, run_id in enumerate(active):
                run = under_way(LiveRun(connection, run_id), recorded.get(run_id), position)
                if run is not None:
                    recorded[run_id] = run
        return sorted(recorded.values(), key=lambda run: (run.submitted_at, run.id), reverse=True)

    def run(self, run_id: str) -> Run | None:
        """Return one run's state, or None when neither store nor queue knows it."""
        with self.connected() as connection:
            active = active_runs(connection)
            position = active.index(run_id) if run_id in active else None
            run = None if position is None else under_way(LiveRun(connection, run_id), None, position)
        # The record worker takes a run off the active ones once the store has its end.
        return run or self.store.run(run_id)

    def log(self, run_id: str) -> list[str]:
        """Return the run's log, oldest line first. It is kept for one day after the end; an imported one stays."""
        with self.connected() as connection:
            return [*self.store.run_log(run_id), *LiveRun(connection, run_id).log_lines()]

    def workers(self) -> list[WorkerState]:
        """Return the workers that are alive, by queue and name."""
        with self.connected() as connection:
            found = [worker_state(each) for each in Worker.all(connection=connection, serializer=JSONSerializer)]
        alive = [each for each in found if each is not None]
        return sorted(alive, key=lambda each: (QUEUES.index(each.kind), each.name))

    def messages_waiting(self) -> int:
        """Return how many messages to the record worker have not been written yet."""
        with self.connected() as connection:
            return waiting(connection)

    def record_worker_alive(self) -> bool:
        """Return whether a record worker is there to write the store."""
        return any(worker.kind == RECORD for worker in self.workers())

    def estimate(
        self,
        spec: RunSpec,
        dataset: Dataset,
        *,
        workers: Sequence[WorkerState] | None = None,
        probe: Callable[[RunSpec, Dataset], Pace | None] | None = None,
    ) -> Estimate:
        """Guess a run's length from the runs that have finished here, else from a probe.

        workers: those that are alive, where the caller knows them. probe: gives a speed; by default a worker's of the
        last day, if it was asked for.
        """
        kind = run_kind(spec, dataset, self.settings)

        def own_workers() -> int:
            return sum(worker.kind == kind.worker for worker in (self.workers() if workers is None else workers))

        found = kind.estimate(self.store, own_workers)
        if found.seconds is None and (pace := (probe or self.probed_pace)(spec, dataset)) is not None:
            found = kind.estimate(self.store, own_workers, pace)
        return found

    def probed_pace(self, spec: RunSpec, dataset: Dataset) -> Pace | None:
        """Return the speed that a worker's probe has measured in the last day, or None."""
        probe = self.probe(spec, dataset)
        return None if probe is None else probe.pace

    def probe(self, spec: RunSpec, dataset: Dataset) -> Probe | None:
        """Return the probe that was asked for such a run, or None."""
        with self.connected() as connection:
            return probes.look(connection, spec, dataset)

    def ask_probe(self, spec: RunSpec, dataset: Dataset) -> None:
        """Have a worker measure the speed of such a run, for its estimate."""
        with self.connected() as connection:
            probes.ask(connection, spec, dataset)

    def wait(self, run_id: str, *, pause: float = 0.2) -> Iterator[Run]:
        """Yield the run's state again and again until it has ended."""
        while True:
            state = self.run(run_id)
            if state is None:
                raise SpecError(f"Expected a known run, got {run_id}.")
            yield state
            if state.ended:
                return
            time.sleep(pause)


def _enqueue(live: LiveRun, kind: RunKind) -> None:
    kind.prepare(live.connection, live.run_id)
    run_jobs.enqueue(live)
    live.submitted()


def _facts(
    run: Run, kind: RunKind, work: Work, attempt: int, priority: str, start_after: datetime | None = None
) -> RunFacts:
    about = {"spec": run.spec_json, "attempt": attempt, "started_at": None, "submitting": time.time()}
    told = {"timeout": work.timeout, "priority": priority, "suspended": start_after, **kind.folders()}
    return RunFacts.model_validate({**vars(run), **about, **told})
