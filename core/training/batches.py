"""Batches of a training, whose images are read, repeated and augmented on demand.

Only the repeats of small classes, marked by `Split.augmented`, are augmented. OpenCV does it on the 8-bit batch,
because Keras's preprocessing layers draw different numbers on each backend, have a state that a resumed training must
restore, and cannot skip images of a batch.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import cv2
import keras
import numpy as np
import numpy.typing as npt

from core.data.splits import epoch_indices
from core.networks.architectures import CLASSES
from core.training.data import Examples
from core.training.specs import TrainingProtocol

AT_ONCE = 4  # batches that are predicted together: without gradients, four fit where one is trained

Pixels = npt.NDArray[np.uint8]
Floats = npt.NDArray[np.float32]
Batch = tuple[dict[str, npt.NDArray[Any]], Floats]  # inputs by name, one-hot labels


class Batches(keras.utils.PyDataset):
    """Batches that are made on demand, in order, so that a memory-mapped array need not be in memory.

    Two threads make them ahead of the training. With one, Keras leaves that to TensorFlow, which then takes up to a
    second to end an epoch.
    """

    def __init__(self, make: Callable[[int], Any], count: int) -> None:
        super().__init__(workers=2)
        self.make, self.count = make, count

    def __len__(self) -> int:
        """Return the number of batches."""
        return self.count

    def __getitem__(self, index: int) -> Any:
        """Return one batch."""
        return self.make(index)


def batches_of(data: Examples, spec: TrainingProtocol) -> int:
    """Return the number of batches of an epoch."""
    return math.ceil(len(data.split.oversampled) / spec.batch_size)


def training_batches(data: Examples, spec: TrainingProtocol, epoch: int) -> Batches:
    """Return one epoch's batches, which depend only on the seed and the epoch."""
    order, augmented = epoch_indices(data.split, spec.seed, epoch)
    one_hot = np.eye(len(CLASSES), dtype=np.float32)

    def make(number: int) -> Batch:
        places = range(number * spec.batch_size, min((number + 1) * spec.batch_size, len(order)))
        rows = order[places.start : places.stop]
        pixels = data.images[rows]  # a copy
        if spec.augmentation:
            for row, place in enumerate(places):
                if augmented[place]:
                    pixels[row] = augment(pixels[row], spec, np.random.default_rng([spec.seed, epoch, place]))
        return {"image": pixels, "metadata": data.metadata[rows]}, one_hot[data.labels[rows]]

    return Batches(make, batches_of(data, spec))


def augment(image: Pixels, spec: TrainingProtocol, generator: np.random.Generator) -> Pixels:
    """Return an image randomly flipped, rotated about its centre, zoomed and brightened, with mirrored edges."""
    height, width = image.shape[:2]
    across, down = generator.integers(0, 2, 2) * -2 + 1  # -1: flipped
    angle, zoom, brightness = generator.uniform(-1, 1, 3) * (spec.rotation, spec.zoom, spec.brightness)
    middle = ((width - 1) / 2, (height - 1) / 2)
    turned = cv2.getRotationMatrix2D(middle, float(angle), 1 + float(zoom))
    flipped = np.array([[across, 0, middle[0] * (1 - across)], [0, down, middle[1] * (1 - down)], [0, 0, 1]])
    pixels = cv2.warpAffine(image, turned @ flipped, (width, height), borderMode=cv2.BORDER_REFLECT_101)
    return np.asarray(cv2.convertScaleAbs(pixels, alpha=1 + float(brightness)), dtype=np.uint8)


def input_batches(data: Examples, indices: Sequence[int], batch_size: int) -> Iterator[dict[str, npt.NDArray[Any]]]:
    """Yield the inputs of these images, `AT_ONCE` batches of a training together."""
    rows, count = np.array(indices, dtype=np.int64), AT_ONCE * batch_size
    for start in range(0, len(rows), count):
        batch = rows[start : start + count]
        yield {"image": data.images[batch], "metadata": data.metadata[batch]}
