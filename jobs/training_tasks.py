"""What a `train` worker runs: one step of a training run a job, in a process that ends with it.

An epoch's record is sent as it ends, while its checkpoint is being written. The process may be killed at any moment:
the job is begun again, here or on another host, and goes on after the last epoch that has a checkpoint there.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import asdict, replace
from datetime import UTC, datetime

from rq import Retry, get_current_job
from rq.job import Job

from core import training_runs
from core.arrays import locked
from core.datasets import Dataset, folder_here, images_here
from core.errors import Cancelled, DatasetError, DermSlimError, NotOnThisHost
from core.protocol import EpochResult
from core.schedule import State, Step, Stop
from core.settings import Settings
from core.training_runs import StepResult, TrainingData, TrainSpec, next_training, training_data
from jobs.hosts import left_to_others, worker_name
from jobs.live import MAX_TRIES, LiveRun
from jobs.records import send
from jobs.training_jobs import enqueue_step, fetch_dataset, state_of

REPORT = 1.0  # seconds between two words about images being prepared
LOCK_NAME = ".training"  # in a run's folder, held by the process that trains


def now() -> str:
    """Return this moment as records carry it."""
    return datetime.now(UTC).isoformat()


def train_step(run_id: str, attempt: int, step: int) -> Retry | None:
    """Train one step of a run, record it, and enqueue the next, or end the run.

    Stops after the epoch at hand when the run is cancelled or held. A step that cannot be trained is recorded as
    failed and the run goes on; what goes wrong otherwise (a folder that is gone, a GPU that vanishes) ends the run
    with the reason, and a retry goes on from there. One process a host is at a run: another one, of an attempt that
    was retried or of a worker that was taken for dead, is waited for. A run whose images this host cannot reach is left
    to another one's worker (then a Retry is returned); it ends with the reason where there is none.
    """
    job = get_current_job()
    if job is None:
        raise RuntimeError("expected to be called by a worker; got a direct call")
    live = LiveRun(job.connection, run_id)
    if live.stopped(attempt) or live.hold() or live.past(step):
        return None
    if live.begin():
        send(job.connection, "started", run_id=run_id, attempt=attempt, at=now())
    training = _Training(job, live, attempt)
    try:
        training.folder.mkdir(parents=True, exist_ok=True)
        with locked(training.folder / LOCK_NAME, training.wait_for_another):
            if not live.past(step):
                training.run(step)
    except Cancelled as reason:
        live.log(f"{worker_name()}: {reason}")
        live.forget_tries()
        live.note_training(doing="")
    except NotOnThisHost as reason:
        if again := left_to_others(job, live, str(reason)):
            live.forget_tries()
            live.note_training(doing="waiting for a worker that reaches its images")
            return again
        training.end(str(reason))
    except DermSlimError as error:
        training.end(str(error))
    except Exception as error:
        training.end(
            f"step {step} could not be trained; {type(error).__name__}: {error}. A retry goes on from its last epoch"
        )
        job.retries_left = 0  # the process did not die: it would fail alike
        job.save()
        raise
    return None


class _Training:
    """A job's view of its run."""

    def __init__(self, job: Job, live: LiveRun, attempt: int) -> None:
        self.connection, self.live, self.attempt = job.connection, live, attempt
        self.settings = Settings.from_environment()
        self.folder = self.settings.trained / live.run_id
        self.facts = live.facts()

    def run(self, number: int) -> None:
        spec = training_runs.training_spec_from_dict(json.loads(self.facts["spec"]))
        state = state_of(self.live, number)
        step = next_training(spec, state)
        if isinstance(step, Stop):
            self.end(None, step.reason)
            return
        dataset = fetch_dataset(self.connection, self.facts["fingerprint"])
        began = now()
        before = self._before(spec, step)
        if self.facts.get("step") != str(step.index):
            self.live.note_training(step=step.index, step_name=step.name, epoch=0, epochs_done=before)
        self.live.note_training(doing="starting Keras")
        known = training_runs.epochs_done(self.folder, step)
        self.live.note_training(epoch=known, epochs_done=before + known)
        result = self._given_up(spec, step, known + 1)
        if result is None:
            self._send_step(training_runs.described(spec, step), began)
            data = self._data(spec, dataset)
            result = self._train(spec, step, data)
        result, after = training_runs.judged(spec, state, step, result)
        self._send_step(result, began, ended=True)
        self.live.log(f"{step.name}: {_verdict(result)}")
        self._go_on(spec, after)
        training_runs.forget_checkpoint(self.folder, step)

    def wait_for_another(self) -> None:
        """Say that another process is at this run; Cancelled where it is not wanted any more."""
        self._check_stopped()
        self.live.note_training(doing="waiting for another process that is at this run")

    def _go_on(self, spec: TrainSpec, state: State) -> None:
        following = next_training(spec, state)
        if isinstance(following, Step):
            enqueue_step(self.live, state, self.attempt)
        else:
            unpruned = state.outcomes[0]
            self.end(following.reason if unpruned.failure else None, following.reason)

    def end(self, error: str | None, reason: str = "") -> None:
        """End the run: finished, or failed with an error."""
        self.live.log(error or reason)
        send(
            self.connection,
            "training_ended",
            run_id=self.live.run_id,
            attempt=self.attempt,
            error=error,
            at=now(),
        )
        self.live.end_training()

    def _before(self, spec: TrainSpec, step: Step) -> int:
        """Return the epochs of the steps before."""
        return sum(not outcome.failure for outcome in state_of(self.live, step.index).outcomes) * spec.training.epochs

    def _given_up(self, spec: TrainSpec, step: Step, epoch: int) -> StepResult | None:
        """Return a failed result once the process has died too often at the same epoch."""
        if self.live.try_part(f"step {step.index} epoch {epoch}") <= MAX_TRIES:
            return None
        where = f"at epoch {epoch}" if epoch <= spec.training.epochs else "after the last epoch"
        failure = (
            f"The process died {MAX_TRIES} times {where}, as it does where memory runs out: try a smaller batch or"
            " smaller images."
        )
        return training_runs.failed(spec, step, failure)

    def _data(self, spec: TrainSpec, dataset: Dataset) -> TrainingData:
        here = replace(dataset, root=folder_here(dataset.root, self.settings))
        try:
            data = training_data(
                here, spec, self.settings.arrays, progress=self._progress(), limit=self.settings.arrays_limit
            )
        except DatasetError:
            images_here(dataset.root, self.settings)  # says so where it is the whole folder that is missing here
            raise
        self.live.note_training(doing="building the network")
        send(
            self.connection,
            "training_data",
            run_id=self.live.run_id,
            attempt=self.attempt,
            values=data.to_dict(),
        )
        self._describe(spec, dataset, data)
        self._check_stopped()
        return data

    def _describe(self, spec: TrainSpec, dataset: Dataset, data: TrainingData) -> None:
        """Write beside the weights what one needs to use them."""
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
            self.live.note_training(doing=doing)

        return report

    def _check_stopped(self) -> None:
        if self.live.stopped(self.attempt):
            raise Cancelled("stopped: the run is cancelled, or a newer attempt has taken its place")
        if until := self.live.hold():
            raise Cancelled(f"stopped: the run is {'paused' if until == 'paused' else f'held until {until}'}")

    def _train(self, spec: TrainSpec, step: Step, data: TrainingData) -> StepResult:
        restored: list[EpochResult] = []
        known = training_runs.epochs_done(self.folder, step)
        done = self._before(spec, step)
        # Closed before the run's lock is let go, so that the checkpoint of the last epoch is there.
        with closing(training_runs.train_step(spec, step, data, self.folder)) as events:
            for event in events:
                if isinstance(event, StepResult):
                    return event
                restored.append(event)
                if event.epoch < known:
                    continue
                self._send_epochs(step, restored)
                restored = []
                self.live.note_training(
                    epoch=event.epoch, epochs_done=done + event.epoch, epoch_seconds=round(event.seconds, 3), doing=""
                )
                if event.epoch == known:
                    self.live.log(f"{step.name}: {worker_name()} goes on after epoch {known}")
                    continue
                self.live.end_epoch(step.index, event.epoch)
                self.live.log(f"{step.name}: {_epoch_line(event, spec)}")
                self._check_stopped()
                self.live.try_part(f"step {step.index} epoch {event.epoch + 1}")
        raise RuntimeError("expected a training to end with its result; it ended without")

    def _send_epochs(self, step: Step, epochs: Sequence[EpochResult]) -> None:
        send(
            self.connection,
            "epochs",
            run_id=self.live.run_id,
            attempt=self.attempt,
            step=step.index,
            epochs=[asdict(each) for each in epochs],
            ended_at=now(),
        )

    def _send_step(self, result: StepResult, began: str, *, ended: bool = False) -> None:
        send(
            self.connection,
            "step",
            run_id=self.live.run_id,
            attempt=self.attempt,
            result=result.to_dict(),
            worker=worker_name(),
            started_at=began,
            finished_at=now() if ended else None,
        )


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
