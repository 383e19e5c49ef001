"""The results of one image and of a job: the columns of an image's rows, its result, and the message of a job."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from core.compression.metrics import METRICS

ORIGINAL = "original"  # the variant of an image as it came, in predictions of stored images
METRIC_COLUMNS = tuple(metric.name for metric in METRICS)
SIZE_COLUMNS = ("source_bytes", "stored_bytes", "control_bytes", "factor_bytes")
# decoded_crc32: of the stored and decoded image that was compared
SETTINGS = ("k", "codec", "quality", "height", "width")
MEASUREMENT_COLUMNS = ("image_id", "variant", *SETTINGS, *SIZE_COLUMNS, *METRIC_COLUMNS, "decoded_crc32", "reason")


@dataclass(frozen=True)
class ImageResult:
    """The result of one image: its rows, or the reason why it has none.

    rows: dicts with the keys MEASUREMENT_COLUMNS. file: the reconstruction's record (reconstruct only). diagnoses: what
    a network says of the image in each way, see `core.predictions.diagnosis` (diagnosis only).
    """

    image_id: str
    status: str  # 'measured' or 'failed'
    reason: str | None
    seconds: float
    rows: tuple[dict[str, Any], ...] = ()
    file: dict[str, Any] | None = None
    diagnoses: tuple[dict[str, Any], ...] = ()

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> ImageResult:
        """Return the result that `dataclasses.asdict` and JSON described."""
        return cls(**{**values, "rows": tuple(values["rows"]), "diagnoses": tuple(values.get("diagnoses", ()))})


@dataclass(frozen=True)
class Chunk:
    """The message of one job: the results of some images of a run's attempt, and the worker that measured them.

    claim: the number of the worker's claim on the job (`jobs.live_runs.Claim`); 0 from workers of older versions.
    """

    run_id: str
    attempt: int
    worker: str
    results: Sequence[ImageResult]
    claim: int = 0
