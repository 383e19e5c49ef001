"""A run of any kind: its settings, its progress, and what the queue knows while it is active."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, fields
from datetime import datetime
from enum import StrEnum
from functools import lru_cache
from typing import Any, TypeVar

from core.compression.specs import SPECS, MeasuringSpec, ReconstructSpec
from core.errors import SpecError
from core.specs import spec_of_kind
from core.training.specs import TRAINING_SPECS, TrainSpec

RunSpec = MeasuringSpec | TrainSpec
SpecOfKind = TypeVar("SpecOfKind", bound=RunSpec)
RUN_SPECS: dict[str, type[RunSpec]] = {**SPECS, **TRAINING_SPECS}


def spec_from_dict(values: Mapping[str, Any]) -> RunSpec:
    """Build the spec from the values of its `to_dict`. Raises SpecError for unknown kinds, names and values."""
    return spec_of_kind(values, RUN_SPECS)


@lru_cache(maxsize=10_000)
def spec_from_json(text: str) -> RunSpec:
    """Build the spec from the JSON of a store or a queue. Raises SpecError as `spec_from_dict`."""
    return spec_from_dict(json.loads(text))


class Status(StrEnum):
    """The status of a run. Only the queue knows suspended and scheduled runs (to be started at a later time)."""

    QUEUED = "queued"
    RUNNING = "running"
    SUSPENDED = "suspended"
    SCHEDULED = "scheduled"
    FINISHED = "finished"
    FAILED = "failed"
    CANCELLED = "cancelled"


ENDED = (Status.FINISHED, Status.FAILED, Status.CANCELLED)


@dataclass(frozen=True, kw_only=True)
class Live:
    """What the queue knows about an active run; the defaults for a run that has ended.

    position: active runs that were submitted before a queued one. rate: images per second. seconds_left: until the last
    image at that rate, or until the last epoch of the step. starts_at: of a scheduled run. step, step_name, epoch:
    where a training is; epochs: of each of its steps. doing: what it does before the first epoch.
    """

    position: int | None = None
    rate: float | None = None
    seconds_left: float | None = None
    priority: str = "normal"
    starts_at: datetime | None = None
    step: int | None = None
    step_name: str | None = None
    epoch: int | None = None
    epochs: int | None = None
    doing: str | None = None


@dataclass(frozen=True, kw_only=True)
class Run:
    """A run from the store, or from store and queue together.

    fingerprint: of the data set's images. source: the data set that a reconstruction was made from. total, done:
    images, or epochs of the steps that a training has begun so far. failed: images or steps. seconds: from start to
    finish; work_seconds: summed over images or steps. versions: JSON of Python and packages. study: what submitted it
    with others. origin_host, origin_store: of an imported run, the host and the file of the store that recorded it.
    """

    id: str
    kind: str
    dataset: str
    fingerprint: str
    synthetic: bool
    spec_json: str
    spec_hash: str
    total: int
    submitted_at: datetime
    status: Status = Status.QUEUED
    attempt: int = 1
    done: int = 0
    failed: int = 0
    error: str | None = None
    submitted_by: str | None = None
    started_at: datetime | None = None
    finished_at: datetime | None = None
    seconds: float | None = None
    work_seconds: float | None = None
    workers: str | None = None
    revision: str | None = None
    versions: str | None = None
    command: str | None = None
    source: str | None = None
    study: str | None = None
    claim: int = 0
    origin_host: str | None = None
    origin_store: str | None = None
    imported_at: datetime | None = None
    live: Live = Live()

    @property
    def spec(self) -> RunSpec:
        """The run's settings. Raises SpecError for settings that this version does not know."""
        return spec_from_json(self.spec_json)

    def told(self, kind: type[SpecOfKind]) -> SpecOfKind:
        """Return the run's settings as a spec of this kind. Raises SpecError for a run of another kind."""
        if not isinstance(self.spec, kind):
            raise SpecError(f"Expected a {kind.kind} run, got {self.id}, which is a {self.kind} run.")
        return self.spec

    @property
    def trains(self) -> bool:
        """Whether the run trains networks, so that its progress counts epochs, not images."""
        return self.kind in TRAINING_SPECS

    @property
    def writes(self) -> str | None:
        """The name of the data set that the run writes; None where it writes none."""
        return self.spec.name if self.kind == ReconstructSpec.kind and isinstance(self.spec, ReconstructSpec) else None

    @property
    def ended(self) -> bool:
        """Whether the run has finished, failed or was cancelled."""
        return self.status in ENDED

    def columns(self) -> dict[str, Any]:
        """Return the run's values in the store's table `runs` and in messages about a new run, by column."""
        return {COLUMNS.get(each.name, each.name): getattr(self, each.name) for each in fields(self)[:-1]}


COLUMNS = {  # of the table `runs`, where they differ from the fields of a run
    "id": "run_id",
    "fingerprint": "dataset_fingerprint",
    "spec_json": "spec",
    "done": "measured",
    "revision": "code_revision",
    "source": "dataset_source",
}
FIELDS = {column: name for name, column in COLUMNS.items()}


def fields_of(columns: Mapping[str, Any]) -> dict[str, Any]:
    """Return the fields of a run from the values of `Run.columns`."""
    return {FIELDS.get(column, column): value for column, value in columns.items()}


def run_from_columns(columns: Mapping[str, Any]) -> Run:
    """Return the run from the values of `Run.columns`; missing values have their defaults."""
    named = fields_of(columns)
    return Run(**{**named, "status": Status(named.get("status", Status.QUEUED))})


@dataclass(frozen=True, kw_only=True)
class Study:
    """A study from the store: several runs that were submitted together. spec_json: its settings."""

    id: str
    kind: str
    dataset: str
    spec_json: str
    status: Status
    error: str | None
    submitted_by: str | None
    submitted_at: datetime
    finished_at: datetime | None
    command: str | None
