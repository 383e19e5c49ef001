"""What a `train` worker runs: one step of a training run per job, in a process that ends with it.

A message about an epoch is sent when the epoch ends, before it is in a checkpoint. If the process is killed, the job is
started again, here or on another host, and continues after the last epoch that has a checkpoint there. A process may be
paused for a while and continue when another process has started or ended its step. It has then lost its claim, and
Redis refuses everything that it writes.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager, suppress
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Any

from rq import Retry, Worker
from rq.serializers import JSONSerializer

from core.data.datasets import Dataset
from core.data.folders import folder_here, images_here
from core.data.training_arrays import locked
from core.errors import Cancelled, DatasetError, DermSlimError, NotOnThisHost, SpecError, TakenOver
from core.settings import Settings
from core.training import algorithm2
from core.training import steps as training_runs
from core.training.algorithm2 import State, Step, Stop
from core.training.data import TrainingData, training_data
from core.training.evaluation import judged
from core.training.results import EpochResult, StepResult
from core.training.specs import TrainSpec, training_spec_from_dict
from core.training.steps import next_training
from core.training.steps import train_step as train
from jobs.hosts import left_to_others, worker_name
from jobs.live_runs import ENDED, MAX_TRIES, Claim, Command, RunFacts
from jobs.messages import EpochsTrained, RunMessage, StepRecorded, TrainingDataBuilt, TrainingEnded, now, wake
from jobs.run_jobs import claim_job, ends_when_taken_over, enqueue, fetch_dataset, note_start
from jobs.run_states import worker_state

REPORT = 1.0  # seconds between two reports of how many images are prepared
LOCK_NAME = ".training"  # in a run's folder, held by the process that trains
HOLDER_NAME = ".training-worker"  # beside it, the name of that process's worker


@ends_when_taken_over
def train_step(run_id: str, attempt: int, step: int) -> Retry | None:
    """Train one step of a run, record it, and enqueue the next, or end the run.

    It stops after the present epoch when the run is cancelled or suspended. A step that cannot be trained is recorded
    as failed, and the run continues. Any other error (a missing folder, a lost GPU) ends the run with its reason, and
    a retry continues from there. One process per host trains a run: it waits for a process of an earlier attempt, or of
    a worker that counted as dead, while that worker sends heartbeats. A run whose images this host cannot reach is left
    to a worker on another host (a Retry is then returned); without such a worker the run ends with the reason.
    """
    if (taken := claim_job(run_id, attempt, step)) is None:
        return None
    job, claim = taken
    note_start(claim)
    live, training = claim.live, _Training(claim)
    try:
        training.folder.mkdir(parents=True, exist_ok=True)
        with training.alone():
            if step in live.jobs_left():
                training.run(step)
    except TakenOver:
        raise
    except Cancelled as reason:
        live.log(f"{worker_name()}: {reason}")
        live.forget_tries()
        live.note(doing="")
    except NotOnThisHost as reason:
        claim.check()
        if again := left_to_others(job, live, str(reason)):
            live.forget_tries()
            live.note(doing="waiting for a worker that reaches its images")
            return again
        training.end(str(reason))
    except DermSlimError as error:
        training.end(str(error))
    except Exception as error:
        training.end(
            f"step {step} could not be trained; {type(error).__name__}: {error}. A retry goes on from its last epoch"
        )
        job.retries_left = 0  # the process did not die, so a further try would fail too
        job.save()
        raise
    return None


class _Silent(Exception):
    """A worker, by name, that has sent no heartbeat for `run_states.LATE` seconds."""


class _Training:
    """A job that trains a step: its claim, its run and its folder."""

    def __init__(self, claim: Claim) -> None:
        self.claim, self.live, self.attempt = claim, claim.live, claim.attempt
        self.connection = self.live.connection
        self.settings = Settings.from_environment()
        self.folder = self.settings.trained / self.live.run_id
        self.facts = claim.live.facts() or RunFacts(attempt=claim.attempt)

    def run(self, number: int) -> None:
        spec = training_spec_from_dict(json.loads(self.facts.spec))
        state = self._state(number)
        step = next_training(spec, state)
        if isinstance(step, Stop):
            self.end(None, step.reason)
            return
        place = training_runs.take_over_checkpoint(self.folder, step, self.claim.number)
        dataset = fetch_dataset(self.connection, self.facts.fingerprint)
        began = now()
        before = self._before(spec, step)
        if self.facts.step != step.index:
            self.claim.note(step=step.index, step_name=step.name, epoch=0, epochs_done=before)
        self.claim.note(doing="starting Keras")
        known = training_runs.epochs_done(place)
        self.claim.note(epoch=known, epochs_done=before + known)
        result = self._given_up(spec, step, known + 1)
        if result is None:
            self._leave(self._step_command(training_runs.described(spec, step), began))
            data = self._data(spec, dataset)
            result = self._train(spec, step, data, place)
        result, after = judged(state, step, result)
        following, recorded = next_training(spec, after), self._step_command(result, began, ended=True)
        self.claim.check()
        self.live.log(f"{step.name}: {_verdict(result)}")
        if isinstance(following, Step):  # result and end of the step together: no other result can follow
            self._leave(recorded, self._state_command(after), self.claim.end_command())
            enqueue(self.live)
        else:
            self.end(following.reason if after.outcomes[0].failure else None, following.reason, recorded)
        training_runs.forget_checkpoint(place)

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Wait until no other process of this host trains the run.

        It does not wait for a worker without a heartbeat, which may be paused for ever: that worker has lost its claim
        and its checkpoint.
        """
        with ExitStack() as stack:
            try:
                stack.enter_context(locked(self.folder / LOCK_NAME, self._wait_for_another))
                (self.folder / HOLDER_NAME).write_text(worker_name(), encoding="utf-8")
            except _Silent as worker:
                self.live.log(f"{worker_name()} does not wait for {worker}, which sends no heartbeat")
            yield

    def _wait_for_another(self) -> None:
        """Note that another process trains this run. Raises Cancelled where the run was cancelled or suspended."""
        self._check_stopped()
        with suppress(FileNotFoundError):
            holder = (self.folder / HOLDER_NAME).read_text(encoding="utf-8")
            worker = Worker.find_by_key(f"rq:worker:{holder}", self.connection, serializer=JSONSerializer)
            if worker is None or worker_state(worker) is None:
                raise _Silent(holder)
        self.claim.note(doing="waiting for another process that trains this run")

    def end(self, error: str | None, reason: str = "", *before: Command) -> None:
        """End the run: finished, or failed with an error. before: commands of the same transaction."""
        self.claim.check()
        self.live.log(error or reason)
        self._leave(*before, self._command(TrainingEnded, error=error), self.live.note_command(**ENDED))

    def _command(self, message: type[RunMessage], **values: Any) -> Command:
        claim = self.claim
        return message(run_id=self.live.run_id, attempt=claim.attempt, claim=claim.number, **values).command()

    def _leave(self, *commands: Command) -> None:
        self.claim.write(*commands)
        wake(self.connection)

    def _state(self, number: int) -> State:
        """Return the state of Algorithm 2 before a step. Raises SpecError where the queue has none."""
        text = self.live.job(number)
        if text is None:
            raise SpecError(f"Expected the state before step {number} in the queue, got none. Retry the run.")
        return algorithm2.from_dict(json.loads(text))

    def _state_command(self, state: State) -> Command:
        return self.live.job_command(len(state.outcomes), json.dumps(algorithm2.to_dict(state)))

    def _before(self, spec: TrainSpec, step: Step) -> int:
        """Return the epochs of the earlier steps."""
        return sum(not outcome.failure for outcome in self._state(step.index).outcomes) * spec.training.epochs

    def _given_up(self, spec: TrainSpec, step: Step, epoch: int) -> StepResult | None:
        """Return a failed result once the process has died too often at the same epoch."""
        if self.live.try_part(f"step {step.index} epoch {epoch}") <= MAX_TRIES:
            return None
        where = f"at epoch {epoch}" if epoch <= spec.training.epochs else "after the last epoch"
        failure = (
            f"The process died {MAX_TRIES} times {where}, as it does where memory runs out: try a smaller batch or"
            " smaller images."
        )
        return replace(training_runs.failed(spec, step, failure), epochs=epoch - 1)

    def _data(self, spec: TrainSpec, dataset: Dataset) -> TrainingData:
        data = data_here(dataset, spec, self.settings, self._progress())
        built = self._command(TrainingDataBuilt, values=data.to_dict())
        self._leave(built, self.live.note_command(doing="building the network"))
        self._describe(spec, dataset, data)
        self._check_stopped()
        return data

    def _describe(self, spec: TrainSpec, dataset: Dataset, data: TrainingData) -> None:
        """Write what is needed to use the weights into `about.json` beside them."""
        self.folder.mkdir(parents=True, exist_ok=True)
        about = {"spec": spec.to_dict(), "fingerprint": dataset.fingerprint, **data.to_dict()}
        (self.folder / "about.json").write_text(json.dumps(about, indent=1), encoding="utf-8")

    def _progress(self) -> Callable[[int, int], None]:
        latest = 0.0

        def report(done: int, total: int) -> None:
            nonlocal latest
            if time.monotonic() - latest < REPORT:
                return
            latest = time.monotonic()
            self._check_stopped()
            doing = f"preparing images, {done:,} of {total:,}" if done else "another process prepares the images"
            self.claim.note(doing=doing)

        return report

    def _check_stopped(self) -> None:
        if self.live.stopped(self.attempt, self.claim):
            raise Cancelled("stopped: the run is cancelled, or a newer attempt has taken its place")
        if self.live.suspended():
            raise Cancelled("stopped: the run is suspended")

    def _train(self, spec: TrainSpec, step: Step, data: TrainingData, place: Path) -> StepResult:
        restored: list[EpochResult] = []
        known = done_here = training_runs.epochs_done(place)
        done = self._before(spec, step)
        # Closed before the run's lock is released, so that the checkpoint of the last epoch is there.
        check = self.claim.check
        with closing(train(spec, step, data, self.folder, place, check)) as events:
            for event in events:
                if isinstance(event, StepResult):
                    return event
                restored.append(event)
                if event.epoch < known:
                    continue
                pace = {"epoch_seconds": round(event.seconds, 3)}
                self._leave(
                    self._command(EpochsTrained, step=step.index, epochs=tuple(restored)),
                    self.live.note_command(epoch=event.epoch, epochs_done=done + event.epoch, **pace, doing=""),
                    *([self.live.end_epoch_command(step.index, event.epoch)] if event.epoch > known else []),
                )
                restored = []
                if event.epoch == known:
                    self.live.log(f"{step.name}: {worker_name()} goes on after epoch {known}")
                    known = 0  # where the network is lost, the training begins again
                    continue
                if event.epoch == 1 and done_here:
                    self.live.log(f"{step.name}: the network is lost, the next seed is tried")
                done_here = event.epoch
                self.live.log(f"{step.name}: {_epoch_line(event, spec)}")
                self._check_stopped()
                # Checked for each epoch: the job may have begun some epochs before the one that ends its process.
                if (failure := self._given_up(spec, step, event.epoch + 1)) is not None:
                    return failure
        raise RuntimeError("Expected a training to end with a result, got none.")

    def _step_command(self, result: StepResult, began: datetime, *, ended: bool = False) -> Command:
        times = {"started_at": began, "finished_at": now() if ended else None}
        return self._command(StepRecorded, result=result, worker=worker_name(), **times)


def data_here(
    dataset: Dataset, spec: TrainSpec, settings: Settings, progress: Callable[[int, int], None] | None = None
) -> TrainingData:
    """Return what a run's networks are fed. NotOnThisHost where this host cannot reach the images."""
    here = replace(dataset, root=folder_here(dataset.root, settings))
    try:
        return training_data(here, spec, settings.arrays, progress=progress, limit=settings.arrays_limit)
    except DatasetError:
        images_here(dataset.root, settings)  # raises NotOnThisHost where the whole folder is missing
        raise


def _verdict(result: StepResult) -> str:
    if result.failure:
        return f"could not be trained: {result.failure}"
    return "accepted" if result.accepted else f"not accepted: {result.reason}"


def _epoch_line(epoch: EpochResult, spec: TrainSpec) -> str:
    accuracy = "undefined" if epoch.validation_accuracy is None else f"{epoch.validation_accuracy:.2f} %"
    return (
        f"epoch {epoch.epoch} of {spec.training.epochs}, loss {epoch.train_loss:.4f}, validation accuracy {accuracy}, "
        f"{epoch.seconds:.1f} s"
    )
