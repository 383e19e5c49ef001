"""What a `train` worker runs of a diagnosis: a chunk of images, stored in several ways and predicted by a network."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

from rq import Retry

from core.compression.measure import measure
from core.compression.specs import DiagnosisSpec
from core.data.folders import images_here
from core.data.training_arrays import MetadataEncoding
from core.runs import spec_from_dict
from core.settings import Settings
from core.training.kept_network import KeptNetwork
from jobs.measure_task import MeasureImage, measure_part
from jobs.predict_task import weights_here
from jobs.run_jobs import ends_when_taken_over


@ends_when_taken_over
def diagnose_chunk(run_id: str, attempt: int, chunk: int) -> Retry | None:
    """Measure a chunk of a run's images, as `jobs.measure_task.measure_chunk` does, with the network's predictions.

    A host without the images or the weights leaves the job to another host's worker.
    """
    return measure_part(run_id, attempt, chunk, {}, prepared)


def prepared(told: dict[str, Any], run_id: str, settings: Settings) -> MeasureImage:
    """Return what measures one image. told: what the job does. NotOnThisHost without the images or the weights."""
    spec = spec_from_dict(told["spec"])
    if not isinstance(spec, DiagnosisSpec):
        raise TypeError(f"Expected a diagnosis, got a {spec.kind} run.")
    folder = images_here(Path(told["root"]), settings)
    weights = weights_here(settings.trained / spec.run, [spec.step])[spec.step]
    height, width = told["size"]
    network = KeptNetwork(weights, MetadataEncoding.from_dict(told["encoding"]), height, width, told["device"])
    return partial(measure, root=folder, spec=spec, predict=network.predict)
