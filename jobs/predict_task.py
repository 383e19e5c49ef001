"""What a `train` worker runs for an ended run: the kept weights of its steps predict the images of its sets again."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from rq import Retry

from core.errors import NotOnThisHost
from core.settings import Settings
from core.training.data import TrainingData
from core.training.evaluation import difference, evaluated, predicted, right_answers, verdicts
from core.training.results import StepResult, TrainingError
from core.training.specs import PruneTrainSpec, Rules, TrainSpec, training_spec_from_dict
from jobs.hosts import left_to_others, worker_name
from jobs.later_jobs import claimed
from jobs.live_runs import Claim
from jobs.messages import StepPredicted, wake
from jobs.run_jobs import ends_when_taken_over, fetch_dataset
from jobs.train_task import data_here


@ends_when_taken_over
def predict_steps(
    run_id: str,
    attempt: int,
    spec: dict[str, Any],
    fingerprint: str,
    encoding: dict[str, Any] | None,
    steps: list[dict[str, Any]],
) -> Retry | None:
    """Predict the images of a run's sets with the weights of each of its steps, and send the rows.

    spec, steps: as `to_dict` gives them. encoding: of the metadata, as the run used it. Images or weights that this
    host does not have are left to another one's worker. TrainingError where no worker has them, or where the images
    are not those of the run any more.
    """
    kept = kept_networks(run_id, attempt, spec, fingerprint, encoding, [step["step"] for step in steps])
    if not isinstance(kept, Kept):
        return kept
    claim, live, asked, data, weights = kept.claim, kept.claim.live, kept.spec, kept.data, kept.weights
    rules = asked.rules if isinstance(asked, PruneTrainSpec) else Rules()
    unpruned: StepResult | None = None
    for step in steps:
        result = predict_again(StepResult.from_dict(step), asked, data, weights[step["step"]])
        if unpruned is not None:
            result = replace(result, **difference(right_answers(unpruned.predictions), result.predictions))
        result = replace(result, **verdicts(asked.thresholds, rules, unpruned.figures if unpruned else None, result))
        unpruned = unpruned or result
        claim.write(StepPredicted(run_id=run_id, attempt=attempt, claim=claim.number, result=result).command())
        wake(live.connection)
        live.log(f"{worker_name()}: {result.name}: predicted again, {len(result.predictions['image_id'])} rows")
    live.end(None, attempt)
    return None


@dataclass(frozen=True)
class Kept:
    """What a job has that needs the kept networks of a run: its claim, the spec, the data, and the weights by step."""

    claim: Claim
    spec: TrainSpec
    data: TrainingData
    weights: dict[int, Path]


def kept_networks(
    run_id: str,
    attempt: int,
    spec: dict[str, Any],
    fingerprint: str,
    encoding: dict[str, Any] | None,
    steps: list[int],
) -> Kept | Retry | None:
    """Claim the worker's job; return what a run's networks were fed and the weights of these steps.

    None where another worker has taken the job over; a Retry leaves it to others. NotOnThisHost where no worker has
    images and weights. TrainingError where the images are not those of the run any more.
    """
    if (found := claimed(run_id, attempt)) is None:
        return None
    job, claim = found
    live, settings, asked = claim.live, Settings.from_environment(), training_spec_from_dict(spec)
    try:
        weights = weights_here(settings.trained / run_id, steps)
        data = data_here(fetch_dataset(live.connection, fingerprint), asked, settings)
    except NotOnThisHost as reason:
        if again := left_to_others(job, live, str(reason)):
            return again
        live.log(f"{worker_name()}: {reason}")
        raise
    if encoding is not None and data.encoding.to_dict() != encoding:
        raise TrainingError(f"Expected the images that {run_id} was trained on, got sets with other metadata.")
    return Kept(claim, asked, data, weights)


def weights_here(folder: Path, steps: list[int]) -> dict[int, Path]:
    """Return the weights of each step. NotOnThisHost where one is missing."""
    found = {step: folder / f"{step}.keras" for step in steps}
    if missing := [path for path in found.values() if not path.is_file()]:
        raise NotOnThisHost(f"Expected the weights of every step in {folder}, got none of {missing[0].name}.")
    return found


def predict_again(step: StepResult, spec: TrainSpec, data: TrainingData, weights: Path) -> StepResult:
    """Return a step with the predictions of its weights and the figures that follow from them."""
    from core.training import devices, loop, models  # Keras: 4 s, and only in the process that needs it

    with devices.on_device(spec.device):
        chances = loop.predict(models.load_model(weights), data, spec.training)
    return replace(step, **evaluated(predicted(data, chances), kept=spec.predicted_splits))
