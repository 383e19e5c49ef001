"""A training run in MLflow: parameters, epochs, figures, predictions and weights.

A `train` run is one MLflow run. A `prune-train` run has a nested run for each step. Only the extra `mlflow` brings the
package, which is imported when a run is written.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator, Mapping
from datetime import datetime
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from core.errors import DermSlimError, SpecError
from core.files.exports import write_table
from core.runs import Run, Status
from core.specs import Spec
from core.store.measurements import Store
from core.training.results import EpochResult, StepResult
from core.training.specs import TrainSpec

if TYPE_CHECKING:
    import pandas as pd
    from mlflow import MlflowClient

EXPERIMENT = "DermSlim"
RUN_TAG = "dermslim.run"
STATUS = {Status.FINISHED: "FINISHED", Status.FAILED: "FAILED", Status.CANCELLED: "KILLED"}
NO_FIGURES = {"epoch", "meets_baseline", "best"}
EPOCH_FIGURES = tuple(name for name in EpochResult.__dataclass_fields__ if name not in NO_FIGURES)
COUNTED = ("parameters", "macs", "bytes_weights", "weights_bytes", "epochs", "kept_epoch", "seconds", "difference",
           "difference_low", "difference_high")  # fmt: skip
MOST_METRICS = 1000  # of one request
MISSING = "Expected the package mlflow-skinny, got none. Run `pip install -e '.[mlflow]'` in the project's folder."


def export(store: Store, run_id: str, uri: str, experiment: str = EXPERIMENT) -> str:
    """Write an ended training run to the MLflow server or database of a URI; return the id of the MLflow run.

    uri: `sqlite:///file.db` or an address that begins with http. Artifacts of a database lie in the folder
    `mlartifacts` beside it. Raises SpecError for a run that is not a training, has not ended or is there already, and
    DermSlimError where MLflow cannot be reached or is not installed.
    """
    run = store.run(run_id)
    if run is None or not run.trains:
        raise SpecError(f"Expected a training run that is in the store, got {run_id}.")
    if not run.ended:
        raise SpecError(f"Expected a run that has ended, got {run_id}, which is {run.status}.")
    if not uri.startswith(("sqlite:///", "http://", "https://")):
        raise SpecError(f"Expected --uri to begin with sqlite:///, http:// or https://, got {uri}.")
    if find_spec("mlflow") is None:
        raise DermSlimError(MISSING)
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    from mlflow import MlflowClient
    from mlflow.exceptions import MlflowException

    try:
        client = MlflowClient(tracking_uri=uri)
        found = client.get_experiment_by_name(experiment)
        place = (Path(uri.removeprefix("sqlite:///")).resolve().parent / "mlartifacts").as_uri()
        folder = place if uri.startswith("sqlite:") else None
        number = found.experiment_id if found else client.create_experiment(experiment, artifact_location=folder)
        if client.search_runs([number], f"tags.`{RUN_TAG}` = '{run.id}'", max_results=1):
            raise SpecError(
                f"Expected a run that the experiment {experiment} does not have yet, got {run.id}."
                " To export it again, delete it there."
            )
        return _write(client, number, store, run)
    except MlflowException as error:
        raise DermSlimError(f"MLflow at {uri} rejected the export: {error}") from error


def parameters(spec: Spec, part: str = "") -> Iterator[tuple[str, str]]:
    """Yield name and text of each setting of a spec, such as `training.epochs`; of a network its name."""
    for name, value in spec:
        if isinstance(value, Spec):
            yield from parameters(value, f"{part}{name}.")
        else:
            yield f"{part}{name}", value.name if name == "network" else str(value)


def _write(client: MlflowClient, experiment: str, store: Store, run: Run) -> str:
    spec = run.told(TrainSpec)
    begun = run.started_at or run.submitted_at
    tags = {
        RUN_TAG: run.id, "dermslim.kind": run.kind, "dermslim.dataset": run.dataset,
        "dermslim.fingerprint": run.fingerprint, "dermslim.synthetic": str(run.synthetic),
        "dermslim.command": run.command or "", "dermslim.revision": run.revision or "",
    }  # fmt: skip
    about = dict(parameters(spec))
    whole = _begin(client, experiment, run.id, begun, about, tags)
    results, epochs = store.step_results(run.id), store.epochs([run.id])
    for result in results:
        own = whole
        if run.kind != TrainSpec.kind:
            nested = {"mlflow.parentRunId": whole, "dermslim.reason": result.reason}
            own = _begin(client, experiment, result.name, begun, about | _step_parameters(result), nested)
        _log_step(client, own, run.id, result, epochs[epochs["step"] == result.step], begun, store)
        if own != whole:
            _end(client, own, "FAILED" if result.failure else "FINISHED", run)
    _end(client, whole, STATUS[run.status], run)
    return whole


def _begin(
    client: MlflowClient, experiment: str, name: str, at: datetime, about: Mapping[str, str], tags: Mapping[str, str]
) -> str:
    from mlflow.entities import Param

    made = client.create_run(experiment, start_time=_milliseconds(at), tags=dict(tags), run_name=name)
    client.log_batch(made.info.run_id, params=[Param(*pair) for pair in about.items()])
    return str(made.info.run_id)


def _end(client: MlflowClient, number: str, status: str, run: Run) -> None:
    client.set_terminated(number, status, end_time=_milliseconds(run.finished_at or run.submitted_at))


def _step_parameters(result: StepResult) -> dict[str, str]:
    return {"step": str(result.step), "factors": str(list(result.factors)), "accepted": str(result.accepted)}


def _log_step(
    client: MlflowClient, number: str, run_id: str, result: StepResult, epochs: pd.DataFrame, begun: datetime,
    store: Store,
) -> None:  # fmt: skip
    """Log a step's epochs as `epoch/…`, its final figures by their own names, its predictions and its weights."""
    from mlflow.entities import Metric

    start = _milliseconds(begun)
    rows = epochs[["epoch", "ended_at", *EPOCH_FIGURES]].to_dict("records")
    metrics = [
        Metric(f"epoch/{name}", float(row[name]), _milliseconds(row["ended_at"]), int(row["epoch"]))
        for row in rows
        for name in EPOCH_FIGURES
        if row[name] == row[name]  # NULL where undefined
    ]
    final = result.figures | {name: getattr(result, name) for name in COUNTED}
    metrics += [Metric(name, float(value), start, 0) for name, value in final.items() if value is not None]
    for first in range(0, len(metrics), MOST_METRICS):
        client.log_batch(number, metrics=metrics[first : first + MOST_METRICS])
    predictions = store.predictions([run_id], step=result.step)
    if len(predictions):
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "predictions.csv"
            write_table(predictions, path)
            client.log_artifact(number, str(path))
    if result.weights and Path(result.weights).is_file():
        client.log_artifact(number, result.weights)


def _milliseconds(at: datetime) -> int:
    return round(at.timestamp() * 1000)
