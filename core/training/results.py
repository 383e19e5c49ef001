"""What an epoch and a step of a training came to: values that pages and queue know without importing Keras."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from core.errors import DermSlimError


class TrainingError(DermSlimError):
    """A network cannot be trained; the message gives a hint."""


class LostNetwork(TrainingError):
    """A network gives every image the same probabilities, see `core.training.loop.is_lost`."""


@dataclass(frozen=True)
class EpochResult:
    """One epoch, counted from 1; figures in percent, None where undefined.

    train_*: as Keras gathers them while the weights change, dropout on, repeats included. validation_*: with the
    weights at the epoch's end, precision and recall the article's. seconds: with validation. images_per_second: in
    training. meets_baseline: as Algorithm 2 asks of training and validation. best: this epoch's weights are the ones
    to keep so far.

    Signs of a network that does not learn, None where unknown (older versions did not record them). spread: the largest
    difference that a class's probability has between two validation images, 0 to 1. dead_units: of the head's last
    hidden layer, those that are 0 for every validation image; hidden_units: all of that layer. gradient_norm: L2 norm
    of Adam's running mean of the gradient over all layers but the last. learning_rate: at the epoch's end.
    """

    epoch: int
    train_loss: float
    train_accuracy: float | None
    train_precision: float | None
    train_recall: float | None
    validation_loss: float | None
    validation_accuracy: float | None
    validation_precision: float | None
    validation_recall: float | None
    seconds: float = field(compare=False)
    images_per_second: float = field(compare=False)
    meets_baseline: bool = False
    best: bool = False
    spread: float | None = None
    dead_units: int | None = None
    hidden_units: int | None = None
    gradient_norm: float | None = None
    learning_rate: float | None = None


@dataclass(frozen=True)
class StepResult:
    """What one training came to; the columns of the store's table `steps`.

    status: 'finished', or 'failed' with the failure as a sentence. parameters, macs, bytes_*: counted, see
    `core.networks.costs.Cost`. weights, weights_bytes: the `.keras` file (no optimiser state), checkpoint_bytes: the
    file with it. epochs: trained; kept_epoch: whose weights are kept. seconds: epochs and evaluation; epoch_seconds:
    mean of an epoch with validation; images_per_second: mean in training. peak_memory: bytes, this process's largest.
    seed: of the training that counts. lost: trainings with earlier seeds whose network was lost; of a failed step, all
    of them. precision: of `core.training.specs.PRECISIONS`, the one that was taken.
    figures: percent by name, `STEP_FIGURES`, None where undefined. classification: by split, see
    `core.predictions.rows.described`. difference: test accuracy minus the unpruned network's, in points, with the ends
    of its 95 % paired interval. accepted_by_points, noninferior: the verdict by either rule of acceptance, None where
    unknown. predictions: columns of `core.predictions.rows`, empty where they are not at hand.
    """

    step: int
    name: str
    factors: tuple[float, ...]
    network: dict[str, Any]
    status: str
    failure: str
    parameters: int
    macs: int
    bytes_weights: int
    bytes_with_optimizer: int
    accepted: bool | None = None
    criterion: str | None = None
    value: float | None = None
    needed: float | None = None
    missed_by: float | None = None
    reason: str = ""
    epochs: int = 0
    kept_epoch: int | None = None
    seconds: float | None = None
    epoch_seconds: float | None = None
    images_per_second: float | None = None
    peak_memory: int | None = None
    device: str | None = None
    seed: int | None = None
    lost: int = 0
    precision: str | None = None
    weights: str | None = None
    weights_bytes: int | None = None
    checkpoint_bytes: int | None = None
    figures: dict[str, float | None] = field(default_factory=dict)
    classification: dict[str, Any] = field(default_factory=dict)
    difference: float | None = None
    difference_low: float | None = None
    difference_high: float | None = None
    accepted_by_points: bool | None = None
    noninferior: bool | None = None
    predictions: dict[str, list[Any]] = field(default_factory=dict, compare=False, repr=False)

    def to_dict(self) -> dict[str, Any]:
        """Return the result as JSON-ready values."""
        return {**asdict(self), "factors": list(self.factors)}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> StepResult:
        """Return the result that `to_dict` described."""
        return cls(**{**values, "factors": tuple(values["factors"])})


@dataclass(frozen=True)
class FactoredResult:
    """A step's network with dense layers of low rank, see `core.networks.factoring`; columns of the table `svd_dense`.

    energy: percent of the squared singular values that each such layer keeps. parameters, macs, bytes_weights: counted.
    classification: of the test images, as in `StepResult`; test_accuracy: in percent. agreement: percent of the test
    images that get the class that the step's own network gives them. difference: test accuracy minus the unpruned
    network's, in points, with the ends of its 95 % paired interval, None where unknown. predicted: the class of each
    test image, by its id. fine_tune_epochs: that it was trained for after the layers were replaced. latency: median of
    the milliseconds for one image, of a LiteRT float32 file with one thread; latency_itself: of the step's own network,
    measured in turns with it; None where not measured.
    """

    step: int
    energy: float
    network: dict[str, Any]
    parameters: int
    macs: int
    bytes_weights: int
    test_accuracy: float | None
    agreement: float
    classification: dict[str, Any]
    predicted: dict[str, str] = field(compare=False, repr=False)
    difference: float | None = None
    difference_low: float | None = None
    difference_high: float | None = None
    fine_tune_epochs: int = 0
    latency: float | None = None
    latency_itself: float | None = None
