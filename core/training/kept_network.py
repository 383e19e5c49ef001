"""The network of a step's kept weights, which predicts images that are not part of its training."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from core.data.datasets import DatasetImage
from core.data.images import Pixels, resize
from core.data.training_arrays import MetadataEncoding
from core.predictions.rows import diagnosis_rows
from core.training.checkpoints import DAMAGED
from core.training.results import TrainingError


@dataclass(frozen=True)
class KeptNetwork:
    """A network with what it needs to predict an image of any size.

    weights: the step's `.keras` file. encoding: of the metadata, as the training used it. height, width: of its input.
    device: as in `core.training.specs`.
    """

    weights: Path
    encoding: MetadataEncoding
    height: int
    width: int
    device: str

    @cached_property
    def model(self) -> Any:
        """The Keras model, read once. Raises TrainingError for a file that Keras cannot read."""
        from core.training import models  # Keras: 4 s, and only in the process that predicts

        try:
            return models.load_model(self.weights)
        except DAMAGED as error:
            first = str(error).strip().partition("\n")[0]
            raise TrainingError(f"Expected a network of Keras in {self.weights}, got: {first}.") from error

    def predict(self, record: DatasetImage, images: Sequence[tuple[str, Pixels]]) -> tuple[dict[str, Any], ...]:
        """Return what the network says of one image in several ways, see `core.predictions.rows.diagnosis_rows`.

        record: with the label that counts. images: by variant, (H, W, 3) BGR, resized to the network's input as for a
        training. They are predicted together, apart from other images, so that the result of an image does not depend
        on those that are predicted before it.
        """
        from core.training import devices, models

        pixels = np.stack([resize(image, self.height, self.width) for _, image in images])
        metadata = np.repeat(self.encoding.encode([record]), len(images), axis=0)
        with devices.on_device(self.device):
            chances = models.softmax(self.model, pixels, metadata)
        variants = [variant for variant, _ in images]
        return diagnosis_rows(record.image_id, record.lesion_id, str(record.label), variants, chances)
