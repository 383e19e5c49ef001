"""What the networks of a run are trained on: pixels, metadata and labels of a data set, divided into sets."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from core.data.datasets import Dataset
from core.data.metadata import LeftOut
from core.data.splits import (
    Indices,
    Split,
    class_numbers,
    divided_lesions,
    leak,
    missing_classes,
    reached,
    require_sets,
    shared_lesions,
)
from core.data.training_arrays import MetadataEncoding, Progress, fit_metadata, image_array
from core.training.specs import TrainSpec


@dataclass(frozen=True, eq=False)
class Examples:
    """What a network is trained and tested on; row i is record i of the data set.

    images: (n, H, W, 3) uint8, BGR; may be memory-mapped. metadata: (n, 3) float32. labels: (n,) places in `CLASSES`,
    −1 for none. split: its sets; only their rows are used.
    """

    images: npt.NDArray[np.uint8]
    metadata: npt.NDArray[np.float32]
    labels: Indices
    split: Split


@dataclass(frozen=True, eq=False)
class TrainingData(Examples):
    """What the networks of a run are trained and tested on, with what belongs beside the results.

    left_out: images that could not be read. notes: sentences that belong wherever results are shown.
    """

    image_ids: tuple[str, ...]
    lesion_ids: tuple[str | None, ...]
    encoding: MetadataEncoding
    left_out: tuple[LeftOut, ...]
    notes: tuple[str, ...]
    reached: tuple[dict[str, Any], ...]

    def to_dict(self) -> dict[str, Any]:
        """Return what the store keeps of it: the sets as really reached, the encoding, the notes."""
        return {
            "reached": [dict(row) for row in self.reached],
            "encoding": self.encoding.to_dict(),
            "left_out": [asdict(each) for each in self.left_out],
            "notes": list(self.notes),
        }


def training_data(
    dataset: Dataset, spec: TrainSpec, cache: Path, *, progress: Progress | None = None, limit: int | None = None
) -> TrainingData:
    """Decode the images once a size (see `core.data.training_arrays`), divide them into sets, and encode the metadata.

    limit: bytes that the cache may hold. Raises DatasetError and SpecError where that cannot be done.
    """
    array = image_array(dataset, cache, spec.training.height, spec.training.width, progress=progress, limit=limit)
    split = spec.sets(dataset, array.unreadable)
    require_sets(dataset.records, split)  # images that could not be read may have been a set's last
    encoding = fit_metadata(dataset.records[index] for index in split.train)
    notes = [split_sentence(dataset, split), *missing_classes(dataset.records, split)]
    if encoding.sentence:
        notes.append(encoding.sentence)
    if array.left_out:
        notes.append(f"{len(array.left_out)} images could not be read and were left out.")
    rows = reached(dataset.records, split).to_dict("records")
    return TrainingData(
        images=array.pixels,
        metadata=encoding.encode(dataset.records),
        labels=class_numbers(dataset.records),
        image_ids=tuple(record.image_id for record in dataset.records),
        lesion_ids=tuple(record.lesion_id for record in dataset.records),
        split=split,
        encoding=encoding,
        left_out=array.left_out,
        notes=tuple(notes),
        reached=tuple({str(name): value for name, value in row.items()} for row in rows),
    )


def split_sentence(dataset: Dataset, split: Split) -> str:
    """Say how the sets were drawn and what a random split leaks, or would leak."""
    if split.leaky:
        return f"Leaky split, drawn image by image: {shared_lesions(dataset.records, split).sentence}"
    if split.given:
        return given_sentence(dataset, split)
    avoided = leak(dataset.records, split.targets, seed=split.seed)
    return f"Split by lesion. Drawn image by image instead: {avoided.sentence}"


def given_sentence(dataset: Dataset, split: Split) -> str:
    """Say what given sets leak, and how many images have no set."""
    divided = divided_lesions(dataset.records, split)
    without = sum(record.split is None for record in dataset.records)
    lesions = "lesion is" if divided == 1 else "lesions are"
    shared = shared_lesions(dataset.records, split).sentence
    sentence = f"Given sets, used as they are; {divided:,} {lesions} in more than one set. {shared}"
    if without:
        rest = "image has no given set and is" if without == 1 else "images have no given set and are"
        sentence += f" {without:,} {rest} left out."
    return sentence
