"""How a network is trained, and what an epoch came to: values that pages and queue know without importing Keras."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, fields
from typing import Any

from core.errors import DermSlimError, SpecError

LARGEST_SEED = 2**32 - 1  # NumPy and Keras take seeds of 32 bits
BOUNDS = {
    "epochs": (1, 100_000),
    "batch_size": (1, 100_000),
    "seed": (0, LARGEST_SEED),
    "height": (1, 10_000),
    "width": (1, 10_000),
}


def require_whole(name: str, value: object, least: int, most: int) -> None:
    """Raise SpecError unless a value is a whole number within bounds."""
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise SpecError(f"Expected {name} to be a whole number of at least {least}. Received: {value!r}.")
    if value > most:
        raise SpecError(f"Expected {name} to be a whole number of at most {most}. Received: {value!r}.")


class TrainingError(DermSlimError):
    """A network cannot be trained; the message gives a hint."""


@dataclass(frozen=True)
class TrainingSpec:
    """One training's protocol; the defaults are the article's.

    height, width: pixels the network is fed. augmentation: whether repeats are changed at random: flipped, turned by up
    to `rotation` degrees, zoomed and brightened by up to the share `zoom` and `brightness`. mixed_precision: 16-bit
    floats where that is safe; for GPUs. jit_compile: XLA, which JAX always uses.
    """

    epochs: int = 75
    learning_rate: float = 0.002
    batch_size: int = 32
    seed: int = 1
    height: int = 200
    width: int = 100
    augmentation: bool = True
    rotation: float = 30.0
    zoom: float = 0.1
    brightness: float = 0.1
    mixed_precision: bool = False
    jit_compile: bool = False

    def __post_init__(self) -> None:
        """Refuse what no training can follow."""
        for name, (least, most) in BOUNDS.items():
            require_whole(name, getattr(self, name), least, most)
        for name, top in {"learning_rate": 1.0, "rotation": 180.0, "zoom": 0.9, "brightness": 1.0}.items():
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= top:
                raise SpecError(f"Expected {name} to lie between 0 and {top:g}. Received: {value!r}.")
        if not self.learning_rate:
            raise SpecError("Expected a learning rate above 0. Received: 0.")
        for name in ("augmentation", "mixed_precision", "jit_compile"):
            if not isinstance(getattr(self, name), bool):
                raise SpecError(f"Expected {name} to be true or false. Received: {getattr(self, name)!r}.")

    def to_dict(self) -> dict[str, Any]:
        """Return the protocol as JSON-ready values."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> TrainingSpec:
        """Return the protocol that `to_dict` described; what is missing has its default. Raises SpecError."""
        if unknown := set(values) - {item.name for item in fields(cls)}:
            raise SpecError(f"Expected a training's settings. Received also: {', '.join(sorted(unknown))}.")
        return cls(**values)


PRESETS = {
    "article": TrainingSpec(),
    "laptop": TrainingSpec(epochs=30, height=75, width=100),
    "quick": TrainingSpec(epochs=3, height=48, width=64),  # too small for custom1
}


@dataclass(frozen=True)
class EpochResult:
    """One epoch, counted from 1; figures in percent, None where undefined.

    train_*: as Keras gathers them while the weights change, dropout on, repeats included. validation_*: with the
    weights at the epoch's end, precision and recall the article's. seconds: with validation. images_per_second: in
    training. meets_baseline: as Algorithm 2 asks of training and validation. best: this epoch's weights are the ones
    to keep so far.
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
