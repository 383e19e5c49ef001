"""The first estimate: a worker measures its speed for some seconds, where no run has finished by which to estimate.

A probe is a job whose id says what it measures, and its result is RQ's. So it is asked for once, whoever asks.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from typing import Any

from rq.exceptions import DuplicateJobError
from rq.job import Job, JobStatus
from rq.serializers import JSONSerializer

from core.compression.specs import MeasuringSpec
from core.data.datasets import Dataset
from core.estimates import Pace
from core.networks.plain_data import network_to_dict
from core.runs import RunSpec
from core.training.specs import TrainSpec
from jobs.connection import HIGH, SVD, TRAIN, Connection, queue, queue_name
from jobs.run_jobs import UNDER_WAY

SECONDS_KEPT = 24 * 3600  # of a result
LONGEST = 300  # seconds that a probe may take, with the start of its process
SAMPLE = 50  # images that a worker may measure in a probe
FAILED = "The probe ended with an error, which is in the worker's log."


@dataclass(frozen=True)
class Probe:
    """A probe that was asked for. pace: its result; None until it has one. failure: why it has none, a sentence."""

    pace: Pace | None = None
    failure: str = ""

    @property
    def under_way(self) -> bool:
        """Whether it waits for a worker or measures."""
        return self.pace is None and not self.failure


def worker_kind(spec: RunSpec) -> str:
    """Return the kind of worker that runs a spec, and its probe."""
    return TRAIN if isinstance(spec, TrainSpec) else SVD


def probe_id(spec: RunSpec, dataset: Dataset) -> str:
    """Return the id of the job that measures the speed of such runs: equal for runs that differ in nothing that counts.

    The speed of a training does not depend on its images.
    """
    if isinstance(spec, TrainSpec):
        names = ("height", "width", "batch_size", "precision", "jit_compile")
        told: Any = [
            network_to_dict(spec.trained_network),
            spec.device,
            [getattr(spec.training, each) for each in names],
        ]
    else:
        told = [spec.replace(dataset="any").to_dict(), dataset.fingerprint]
    return f"probe-{hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()[:24]}"


def ask(connection: Connection, spec: RunSpec, dataset: Dataset) -> None:
    """Queue a probe, unless it is under way."""
    job = _job(connection, spec, dataset)
    if job is not None:
        if job.get_status(refresh=False) in UNDER_WAY:
            return
        job.delete()
    arguments: dict[str, Any] = {"spec": spec.to_dict()}
    if isinstance(spec, MeasuringSpec):
        sample = dataset.sample(min(SAMPLE, spec.sample_size or SAMPLE, len(dataset.records)), spec.seed)
        arguments |= {"root": str(dataset.root), "records": [record.to_dict() for record in sample]}
    try:
        queue(queue_name(worker_kind(spec), HIGH), connection).enqueue(
            "jobs.probe_task.probe_training" if isinstance(spec, TrainSpec) else "jobs.probe_task.probe_measuring",
            kwargs=arguments,
            job_id=probe_id(spec, dataset),
            unique=True,
            job_timeout=LONGEST,
            result_ttl=SECONDS_KEPT,
            failure_ttl=SECONDS_KEPT,
            description="a probe of the speed",
        )
    except DuplicateJobError:
        return  # someone else asked at the same time


def look(connection: Connection, spec: RunSpec, dataset: Dataset) -> Probe | None:
    """Return a probe that was asked for within a day, or None."""
    job = _job(connection, spec, dataset)
    if job is None:
        return None
    if job.get_status(refresh=False) != JobStatus.FINISHED:
        return Probe() if job.get_status(refresh=False) in UNDER_WAY else Probe(failure=FAILED)
    found = job.return_value()
    if not found:
        return Probe(failure=FAILED)
    return Probe(failure=found["failure"]) if "failure" in found else Probe(Pace(**found))


def _job(connection: Connection, spec: RunSpec, dataset: Dataset) -> Job | None:
    found: Job | None = Job.fetch_many([probe_id(spec, dataset)], connection=connection, serializer=JSONSerializer)[0]
    return found
