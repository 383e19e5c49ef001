"""Measure some images of a run again with the reference, and compare the run's figures with the results.

A run measures with `core.compression.svd` and `comparison`, which are fast; `core.compression.reference` is plain. Both
are given the same stored and decoded image, so that their metrics may differ by rounding only.
"""

from __future__ import annotations

import random
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
import numpy.typing as npt

from core.compression.image_results import METRIC_COLUMNS
from core.compression.specs import (
    DiagnosisSpec,
    MeasuringSpec,
    ResizeSpec,
    RivalsSpec,
    SweepSpec,
    codec_name,
    variants,
    ways,
)
from core.compression.svd import decompose
from core.data.datasets import DatasetImage, read_registered
from core.data.images import decode, encode, resize
from core.errors import DermSlimError, SpecError

if TYPE_CHECKING:
    import pandas as pd

Image = npt.NDArray[np.uint8]

IMAGES = 2  # that every run is checked with
MOST_PIXELS = 6_000_000  # of an image that is checked; NumPy's SVD takes minutes above it
TOLERANCE = 1e-6  # relative difference of a metric
SMALLEST = 1e-6  # a metric nearer to 0 is compared as if it were this large
PIXELS_APART = 1e-3  # share of a reconstruction's pixels that rounding may change, by one level

RECONSTRUCTION = "reconstruction"  # stands for the SVD among the names of metrics
COLUMNS = ("variant", "decoded_crc32", "stored_bytes", "pixels_apart", "levels_apart", *METRIC_COLUMNS, "reason")


def chosen(records: Iterable[DatasetImage], count: int, seed: int) -> list[DatasetImage]:
    """Return `count` of a run's images to check, the same ones each time; fewer where there are fewer.

    seed: the run's. SpecError where there is none of at most `MOST_PIXELS`.
    """
    usable = sorted(
        (each for each in records if each.height * each.width <= MOST_PIXELS), key=lambda each: each.image_id
    )
    if not usable:
        raise SpecError(
            f"Expected a measured image of at most {MOST_PIXELS // 10**6} million pixels to check, got none."
        )
    random.Random(seed).shuffle(usable)
    return usable[:count]


def measure_again(record: DatasetImage, root: Path, spec: MeasuringSpec) -> list[dict[str, Any]]:
    """Return one row for each variant of an image, or a single one with the reason why it cannot be measured.

    Rows are dicts with the keys `COLUMNS`.
    """
    try:
        return [{**dict.fromkeys(COLUMNS), **row} for row in _rows(decode(read_registered(record, root)), spec)]
    except (DermSlimError, MemoryError) as error:
        return [{**dict.fromkeys(COLUMNS), "variant": "", "reason": str(error) or "There was not enough memory."}]


def _rows(image: Image, spec: MeasuringSpec) -> Iterator[dict[str, Any]]:
    from core.compression import reference  # scikit-image and mahotas take a second to import

    original = reference.features(image)
    for variant, one, other, further in _compared(image, spec):
        features = original if one is image else reference.features(one)
        yield {
            "variant": variant,
            "decoded_crc32": zlib.crc32(other.data),
            **reference.compare(features, reference.features(other), spec.metrics),
            **further,
        }


def _compared(image: Image, spec: Any) -> Iterator[tuple[str, Image, Image, dict[str, Any]]]:
    """Yield each variant, the two images that a run compares for it, and the reference's further figures."""
    from core.compression import reference

    if isinstance(spec, DiagnosisSpec):
        for part in spec.parts:
            names = {plain: way.variant for plain, way in zip(variants(part), ways(part), strict=True)}
            for variant, one, other, further in _compared(image, part):
                yield names[variant], one, other, further
        return
    if isinstance(spec, RivalsSpec):
        for codec, quality in spec.rivals:
            stored = encode(image, codec, quality)
            yield codec_name(codec, quality), image, decode(stored, own=True), {"stored_bytes": len(stored)}
        return
    plain, factors = reference.decompose(image, spec.mode), decompose(image, spec.mode)
    ks = spec.ks if isinstance(spec, SweepSpec) else (spec.k,)
    for k, reconstruction in factors.reconstructions(k for k in ks if k <= factors.rank):
        apart = cv2.absdiff(reconstruction, reference.reconstruct(plain, k)).max(axis=2)
        stored = encode(reconstruction, spec.codec, spec.quality)
        other = decode(stored, own=True)
        further = {
            "stored_bytes": len(stored),
            "pixels_apart": float(np.mean(apart > 0)),
            "levels_apart": int(apart.max()),
        }
        if isinstance(spec, ResizeSpec):
            for size in spec.sizes:
                yield f"{size[0]}x{size[1]}", resize(image, *size), resize(other, *size), further
        else:
            yield f"k={k}", image, other, {**further, "explained_variance": reference.explained_variance(plain, k)}


def short(difference: float) -> str:
    """Return a relative difference with one digit: 2e-9."""
    return f"{difference:.0e}".replace("e-0", "e-").replace("e+00", "")


@dataclass(frozen=True)
class Verification:
    """How a run's rows compare with the reference's.

    rows: one row per image and variant: image_id, variant, and state, one of "agrees", "differs", "other image" (the
        codec gave another image when it was checked) and "not measured". reasons: why rows were not measured.
    differing: one row per image, variant and metric that differs: image_id, variant, metric, measured, reference,
        difference. metric is `RECONSTRUCTION` where the SVD is at fault: the share of the pixels that differ.
    largest: the largest relative difference in the rows that were compared, apart from those with a value where the
        other has none; None where no row was compared.
    """

    rows: pd.DataFrame
    differing: pd.DataFrame
    largest: float | None
    reasons: tuple[str, ...]

    @property
    def agrees(self) -> bool:
        """Whether rows were compared and none differs."""
        return self.differing.empty and self.largest is not None

    @property
    def sentence(self) -> str:
        """The result in words."""
        count = self.rows["state"].value_counts()
        agreeing, compared = count.get("agrees", 0), count.get("agrees", 0) + count.get("differs", 0)
        text = f"Checked against scikit-image, mahotas and NumPy: {agreeing:,} of {compared:,} rows agree"
        parts = [text if self.largest is None else f"{text}, largest relative difference {short(self.largest)}"]
        if other := count.get("other image", 0):
            which, they = ("1 row was", "it was") if other == 1 else (f"{other:,} rows were", "they were")
            parts.append(f"{which} not compared: where {they} checked, the codec gives another image")
        parts += [f"An image could not be checked: {reason.rstrip('.')}" for reason in self.reasons]
        return ". ".join(parts)


def compare(measurements: pd.DataFrame, checks: pd.DataFrame) -> Verification:
    """Compare a run's rows with those of `measure_again`, which carry an image_id.

    measurements: with image_id, variant, decoded_crc32, stored_bytes and METRIC_COLUMNS. Rows of a time when no
    checksum was recorded count as being of another image where they differ and so do the sizes of the stored files.
    """
    import pandas as pd  # here, because workers measure again and leave the comparison to others

    keys, metrics = ["image_id", "variant"], list(METRIC_COLUMNS)
    both = measurements.merge(checks, on=keys, suffixes=("", "_again"))
    measured = both[metrics].to_numpy("float64")
    again = both[[f"{name}_again" for name in metrics]].to_numpy("float64")
    difference = np.abs(measured - again) / np.maximum(np.abs(again), SMALLEST)
    undefined = np.isnan(measured), np.isnan(again)
    difference = np.where(undefined[0] & undefined[1], 0.0, np.where(undefined[0] ^ undefined[1], np.inf, difference))
    shares, levels = both[["pixels_apart", "levels_apart"]].to_numpy("float64").T
    apart = (shares > PIXELS_APART) | (levels > 1)
    wrong = (difference > TOLERANCE).any(axis=1) | apart
    unknown = both["decoded_crc32"].isna()
    other = np.where(
        unknown,
        wrong & (both["stored_bytes"] != both["stored_bytes_again"]),
        both["decoded_crc32"] != both["decoded_crc32_again"],
    ).astype(bool)
    rows = both[keys].assign(state=np.select([other, wrong], ["other image", "differs"], "agrees"))
    names = both[keys].to_numpy()
    differing = [
        (*names[row], metrics[column], measured[row, column], again[row, column], difference[row, column])
        for row, column in np.argwhere((difference > TOLERANCE) & ~other[:, None])
    ]
    differing += [
        (*names[row], RECONSTRUCTION, shares[row], 0.0, shares[row]) for row in np.flatnonzero(apart & ~other)
    ]
    failed = checks[checks["reason"].notna()]
    return Verification(
        pd.concat([rows, failed[keys].assign(state="not measured")], ignore_index=True),
        pd.DataFrame(differing, columns=[*keys, "metric", "measured", "reference", "difference"]),
        None if other.all() else float(difference[~other].max(where=np.isfinite(difference[~other]), initial=0)),
        tuple(dict.fromkeys(failed["reason"])),
    )
