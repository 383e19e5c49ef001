"""What workers and submitters tell the record worker: one type per message.

Messages wait in one Redis list and are taken in order by the record worker (`jobs.record_worker`), the only process
that writes the store; an RQ job on its queue only wakes it. Every message is idempotent and carries its run's attempt,
so that one delivered twice, or late, changes nothing. A message of a job also carries the number of its worker's claim
(`jobs.live_runs.Claim`): a worker whose job was taken over cannot send a message, and none that it sent is written.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Annotated, Any, ClassVar

from pydantic import AwareDatetime, BaseModel, BeforeValidator, ConfigDict, Field, PlainSerializer
from rq import Retry

from core.compression.image_results import ImageResult
from core.data.datasets import Dataset
from core.deployment.formats import Conversion
from core.deployment.latency import Latency
from core.runs import Run, fields_of
from core.training.results import EpochResult, FactoredResult, StepResult
from jobs.connection import RECORD, Connection, queue
from jobs.live_runs import PREFIX, Command

MESSAGES = f"{PREFIX}:records"  # messages that have not been written yet, oldest first
REJECTED = f"{PREFIX}:rejected"  # messages that could not be
LONGEST = 1200  # seconds that one job may keep the record worker, waiting for the store included
SOMEONE = "someone"  # the user, in messages of an older version, which did not name one


def now() -> datetime:
    """Return this moment, in UTC."""
    return datetime.now(UTC)


TYPES: dict[str, type[Message]] = {}  # by kind


class Message(BaseModel):
    """A message to the record worker. kinds: its names in the queue, which stay the same across versions."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    kind: ClassVar[str]

    def __init_subclass__(cls, kinds: Sequence[str] = (), **options: Any) -> None:
        """Register the type under its kinds; the first is that of messages sent today."""
        for kind in kinds:
            TYPES[kind] = cls
        if kinds:
            cls.kind = kinds[0]
        super().__init_subclass__(**options)

    def command(self) -> Command:
        """Return the Redis command that leaves the message, for `Claim.write`; `wake` follows."""
        return ("RPUSH", MESSAGES, json.dumps({"kind": self.kind, "values": self.model_dump(mode="json")}))


class DatasetRegistered(Message, kinds=["dataset"]):
    """A data set is registered, in place of one of the same name."""

    values: Dataset
    at: AwareDatetime = Field(default_factory=now)


class DatasetRemoved(Message, kinds=["removed_dataset"]):
    """A registration is removed; files and runs stay."""

    name: str
    by: str = SOMEONE


class RunSubmitted(Message, kinds=["run"]):
    """A run is submitted."""

    values: Annotated[
        Run,
        BeforeValidator(lambda given: given if isinstance(given, Run) else fields_of(given)),
        PlainSerializer(Run.columns),
    ]


class RunMessage(Message):
    """A message about an attempt at a run. claim: of the worker that sends it; 0 where no worker does."""

    run_id: str
    attempt: int
    claim: int = 0


class RunStarted(RunMessage, kinds=["started"]):
    """The first worker has begun a run."""

    at: AwareDatetime = Field(default_factory=now)


class RunCancelled(RunMessage, kinds=["cancelled"]):
    """A user cancels a run."""

    at: AwareDatetime = Field(default_factory=now)


class RunRetried(RunMessage, kinds=["retried", "training_retried"]):
    """A new attempt begins. step: the first to train, None for a run that measures. complete: nothing is left to do."""

    step: int | None = None
    complete: bool = False


class RunDeleted(RunMessage, kinds=["deleted"]):
    """A run is deleted. dataset: the one that it wrote, which is deleted too."""

    dataset: str | None
    by: str = SOMEONE


class ImagesMeasured(RunMessage, kinds=["chunk"]):
    """Some images of a job are measured."""

    worker: str
    results: tuple[ImageResult, ...]


class ImagesChecked(RunMessage, kinds=["checked"]):
    """Images of a finished run are measured again by the reference. rows: of table `verifications`."""

    rows: tuple[dict[str, Any], ...]
    at: AwareDatetime = Field(default_factory=now)


class TrainingDataBuilt(RunMessage, kinds=["training_data"]):
    """The sets of a training run are built. values: `core.training.data.TrainingData.to_dict`."""

    values: dict[str, Any]


class StepRecorded(RunMessage, kinds=["step"]):
    """A step begins, or has ended where finished_at is known."""

    result: StepResult
    worker: str
    started_at: AwareDatetime
    finished_at: AwareDatetime | None = None


class EpochsTrained(RunMessage, kinds=["epochs"]):
    """Epochs of a step are trained."""

    step: int
    epochs: tuple[EpochResult, ...]
    ended_at: AwareDatetime = Field(default_factory=now)


class StepPredicted(RunMessage, kinds=["step_predicted"]):
    """The kept weights of a finished step have predicted its images again."""

    result: StepResult


class StepConverted(RunMessage, kinds=["step_converted"]):
    """A kept network of a finished step is converted to a format, or could not be."""

    result: Conversion
    worker: str
    at: AwareDatetime = Field(default_factory=now)


class LatenciesMeasured(RunMessage, kinds=["latencies"]):
    """The latencies of converted networks of a run are measured."""

    results: tuple[Latency, ...]
    host: str
    at: AwareDatetime = Field(default_factory=now)


class DenseFactored(RunMessage, kinds=["svd_dense"]):
    """A finished step's network was tried with dense layers of low rank."""

    result: FactoredResult
    at: AwareDatetime = Field(default_factory=now)


class TrainingEnded(RunMessage, kinds=["training_ended"]):
    """A training run has finished, or failed with an error."""

    error: str | None = None
    at: AwareDatetime = Field(default_factory=now)


class NewStudy(BaseModel):
    """A study as it is submitted; the columns of table `studies` that are known then."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    study: str
    kind: str
    dataset: str
    spec: str
    submitted_at: AwareDatetime = Field(default_factory=now)
    submitted_by: str | None = None
    command: str | None = None


class StudySubmitted(Message, kinds=["study"]):
    """A study is submitted."""

    values: NewStudy


class StudyStatus(Message, kinds=["study_status"]):
    """A study's status changes. at: its end, None where it goes on. spec: as JSON, where it changes too."""

    study: str
    status: str
    error: str | None = None
    at: AwareDatetime | None = None
    spec: str | None = None


def read(text: bytes) -> Message:
    """Return the message of a text in the list. Raises ValueError where it is no message."""
    values = json.loads(text)
    if not isinstance(values, dict) or values.get("kind") not in TYPES:
        raise ValueError(f"Expected a message of kind {', '.join(TYPES)}, got {str(values)[:200]}.")
    return TYPES[values["kind"]].model_validate(values.get("values"))


def send(connection: Connection, message: Message) -> None:
    """Append a message to the list of the record worker, and wake it."""
    connection.execute_command(*message.command())
    wake(connection)


def wake(connection: Connection) -> None:
    """Enqueue the job in which the record worker reads the list."""
    queue(RECORD, connection).enqueue(
        "jobs.record_worker.write_waiting",
        job_timeout=LONGEST,
        result_ttl=0,
        failure_ttl=24 * 3600,
        retry=Retry(max=3),
        description="messages wait",
    )


def waiting(connection: Connection) -> int:
    """Return how many messages have not been written yet."""
    return int(connection.llen(MESSAGES))
