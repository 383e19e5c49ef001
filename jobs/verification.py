"""Check the figures of measuring runs: every run with two of its images, and with more on request.

The jobs run on `svd` workers after a run has finished, and change nothing but the table `verifications`.
"""

from __future__ import annotations

from core.compression.specs import MeasuringSpec
from core.compression.verification import IMAGES, chosen
from core.data.datasets import Dataset, DatasetImage
from core.errors import SpecError
from core.runs import Run
from jobs import later_jobs
from jobs.later_jobs import CHECK
from jobs.queues import Queues

IMAGES_A_JOB = 2


def submit(queues: Queues, run_id: str, images: int = IMAGES) -> list[str]:
    """Queue the check of so many images of a finished run; return the ids of the jobs.

    SpecError where the run cannot be checked.
    """
    run, spec, dataset, records = images_to_check(queues, run_id, images)
    parts = [
        {
            "spec": spec.to_dict(),
            "root": str(dataset.root),
            "records": [record.to_dict() for record in records[start : start + IMAGES_A_JOB]],
        }
        for start in range(0, len(records), IMAGES_A_JOB)
    ]
    with queues.connected() as connection:
        return later_jobs.submit(connection, CHECK, run.id, run.attempt, parts)


def images_to_check(queues: Queues, run_id: str, images: int) -> tuple[Run, MeasuringSpec, Dataset, list[DatasetImage]]:
    """Return a finished run, its spec, its data set and so many of its images. SpecError where there are none."""
    run = queues.store.run(run_id)
    if run is None or run.trains:
        raise SpecError(f"Expected a measuring run that is in the store, got {run_id}.")
    if run.status != "finished":
        raise SpecError(f"Expected a run that has finished, got {run_id}, which is {run.status}.")
    if images < 1:
        raise SpecError(f"Expected at least 1 image, got {images}.")
    spec, dataset = run.told(MeasuringSpec), queues.dataset_of(run)
    measured = set(queues.store.images(run_id, "measured")["image_id"])
    records = chosen((each for each in dataset.records if each.image_id in measured), images, spec.seed)
    return run, spec, dataset, records
