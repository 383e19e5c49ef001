"""Predict again: the kept weights of an ended run's steps predict its images, for runs that have no predictions."""

from __future__ import annotations

from collections.abc import Sequence

from core.errors import SpecError
from core.runs import Run
from core.training.results import StepResult
from core.training.specs import TrainSpec
from jobs import later_jobs
from jobs.later_jobs import PREDICT, LaterKind
from jobs.queues import Queues
from jobs.run_jobs import leave_dataset
from jobs.run_kinds import require_weights


def submit(queues: Queues, run_id: str) -> str:
    """Queue the job that predicts again with the weights of all steps of a run; return its id.

    SpecError where the run cannot be predicted again.
    """
    return submit_with_weights(queues, PREDICT, *steps_to_predict(queues, run_id))


def submit_with_weights(
    queues: Queues, kind: LaterKind, run: Run, steps: Sequence[StepResult], **further: object
) -> str:
    """Queue a job that needs the images of an ended run and the weights of these steps; return its id.

    further: arguments of the kind's function, besides the usual ones. SpecError for an imported run without weights.
    """
    require_weights(run, queues.settings)
    dataset = queues.dataset_of(run)
    part = {
        "spec": run.told(TrainSpec).to_dict(),
        "fingerprint": dataset.fingerprint,
        "encoding": queues.store.metadata_encoding(run.id),
        "steps": [step.to_dict() | {"predictions": {}} for step in steps],
    }
    with queues.connected() as connection:
        leave_dataset(connection, dataset)
        return later_jobs.submit(connection, kind, run.id, run.attempt, [part | further])[0]


def steps_to_predict(queues: Queues, run_id: str) -> tuple[Run, list[StepResult]]:
    """Return an ended training run and its trained steps. SpecError where there are none."""
    run = queues.store.run(run_id)
    if run is None or not run.trains:
        raise SpecError(f"Expected a training run that is in the store, got {run_id}.")
    if not run.ended:
        raise SpecError(f"Expected a run that has ended; {run_id} is {run.status}.")
    steps = [step for step in queues.store.step_results(run_id) if not step.failure]
    if not steps:
        raise SpecError(f"Expected a run with a trained network; {run_id} has none.")
    return run, steps
