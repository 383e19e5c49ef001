"""Bring the kept networks of an ended run to devices: submit the jobs that convert them and measure their latency."""

from __future__ import annotations

from collections.abc import Sequence

from core.deployment.bundle import Bundle
from core.deployment.formats import FORMATS
from core.deployment.latency import ROUNDS
from core.errors import SpecError
from core.runs import Run
from core.training.results import StepResult
from core.training.specs import TrainSpec
from jobs import later_jobs
from jobs.later_jobs import CONVERT, LATENCY
from jobs.predictions import steps_to_predict, submit_with_weights
from jobs.queues import Queues


def submit_conversion(
    queues: Queues, run_id: str, steps: Sequence[int] = (), formats: Sequence[str] = tuple(FORMATS)
) -> str:
    """Queue the job that converts networks of a run and verifies them; return its id.

    steps: by default those of `chosen_steps`. SpecError where they cannot be converted.
    """
    run, chosen = steps_to_convert(queues, run_id, steps)
    if wrong := [name for name in formats if name not in FORMATS]:
        raise SpecError(f"Expected formats among {', '.join(FORMATS)}, got {wrong[0]}.")
    return submit_with_weights(queues, CONVERT, run, chosen, formats=list(formats))


def submit_latency(queues: Queues, run_id: str, rounds: int = ROUNDS) -> str:
    """Queue the job that measures every converted network of a run; return its id. SpecError without one."""
    run, _ = steps_to_predict(queues, run_id)
    files = [{"step": each.step, "format": each.format} for each in queues.store.converted(run_id) if not each.failure]
    if not files:
        raise SpecError(
            f"Expected a run with converted networks; {run_id} has none. `python -m jobs convert {run_id}` makes them."
        )
    if rounds < 1:
        raise SpecError(f"Expected at least 1 round, got {rounds}.")
    training = run.told(TrainSpec).training
    part = {"files": files, "height": training.height, "width": training.width, "rounds": rounds}
    with queues.connected() as connection:
        return later_jobs.submit(connection, LATENCY, run_id, run.attempt, [part])[0]


def steps_to_convert(queues: Queues, run_id: str, steps: Sequence[int] = ()) -> tuple[Run, list[StepResult]]:
    """Return an ended training run and these of its trained steps, by default `chosen_steps`. SpecError."""
    run, trained = steps_to_predict(queues, run_id)
    if not steps:
        return run, chosen_steps(trained)
    known = {step.step: step for step in trained}
    if wrong := [step for step in steps if step not in known]:
        raise SpecError(f"Expected trained steps of {run_id}: {', '.join(map(str, known))}; got {wrong[0]}.")
    return run, [known[step] for step in sorted(set(steps))]


def chosen_steps(trained: Sequence[StepResult]) -> list[StepResult]:
    """Return the unpruned network and the smallest accepted one, in the order of the steps."""
    smallest = min((step for step in trained if step.accepted), key=lambda step: step.parameters, default=trained[0])
    return [trained[0]] if smallest.step == trained[0].step else [trained[0], smallest]


def bundle_of(queues: Queues, run_id: str, step: int | None = None) -> Bundle:
    """Return the bundle of a step, by default of the smallest accepted network. SpecError for one without weights."""
    run, steps = steps_to_convert(queues, run_id, [] if step is None else [step])
    chosen, store = steps[-1], queues.store
    encoding = store.metadata_encoding(run_id)
    if encoding is None:
        raise SpecError(f"Expected a run whose metadata's encoding is recorded; that of {run_id} is not.")
    return Bundle(
        run_id=run_id,
        spec=run.told(TrainSpec),
        step=chosen,
        synthetic=run.synthetic,
        revision=run.revision,
        encoding=encoding,
        sets=store.run_splits(run_id),
        notes=store.training_notes(run_id),
        conversions=[each for each in store.converted(run_id) if each.step == chosen.step],
        predictions=store.predictions([run_id], step=chosen.step, split="test"),
        folder=queues.settings.trained / run_id,
    )
