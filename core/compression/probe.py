"""A short trial of a measurement: how many seconds a pixel takes here."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from core.compression.measure import measure
from core.compression.specs import MeasuringSpec, variants
from core.data.datasets import DatasetImage
from core.errors import SpecError

SECONDS = 2.0  # after which no further image is begun


def seconds_per_pixel(
    spec: MeasuringSpec, root: Path, records: Sequence[DatasetImage], seconds: float = SECONDS
) -> float:
    """Measure the first images of a data set for some seconds; return the seconds per pixel and row.

    root: the data set's folder. A reconstruction is written to a temporary folder. Raises SpecError where none of the
    images can be measured.
    """
    pixels, taken, reason = 0, 0.0, "no image"
    ended = time.monotonic() + seconds
    with tempfile.TemporaryDirectory() as folder:
        for record in records:
            result = measure(record, root, spec, Path(folder))
            if result.status == "measured":
                pixels, taken = pixels + record.height * record.width, taken + result.seconds
            else:
                reason = str(result.reason)
            if time.monotonic() >= ended:
                break
    if not pixels:
        raise SpecError(f"Expected an image that can be measured, got none: {reason}")
    return taken / (pixels * len(variants(spec)))
