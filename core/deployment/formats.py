"""The formats that a trained network is converted to, and what each conversion must keep.

LiteRT files take one image at a time, ONNX files any number. Both take pixels and metadata as float32, and give the
probabilities as float32, at any precision of the weights.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from core.predictions.intervals import interval_text

LITERT, ONNX = "LiteRT", "ONNX Runtime"  # the programs that run the files
FLOAT32, FLOAT16, INT8 = "litert-float32", "litert-float16", "litert-int8"
ONNX_FLOAT32 = "onnx-float32"
CALIBRATION_IMAGES = 200  # of the training set, by class in turn: int8 is scaled to the values that they cause
OPSET = 18  # of ONNX


@dataclass(frozen=True)
class Format:
    """A format of network files.

    title: for people. suffix: of the file's name. runtime: the program that runs it. agreement: percent of the images
    that must get the same class as from Keras, or the conversion is flagged. largest_difference: that a probability may
    have from Keras's; None where none is asked for.
    """

    name: str
    title: str
    suffix: str
    runtime: str
    agreement: float
    largest_difference: float | None = None


FORMATS: Mapping[str, Format] = {
    each.name: each
    for each in (
        Format(FLOAT32, "LiteRT float32", ".tflite", LITERT, 100, 1e-4),
        Format(FLOAT16, "LiteRT float16", ".tflite", LITERT, 99),
        Format(INT8, "LiteRT int8", ".tflite", LITERT, 97),
        Format(ONNX_FLOAT32, "ONNX float32", ".onnx", ONNX, 100, 1e-4),
    )
}


def file_name(step: int, name: str) -> str:
    """Return the name of a step's file in a format, in the folder of its run."""
    return f"{step}-{name}{FORMATS[name].suffix}"


@dataclass(frozen=True)
class Conversion:
    """A step's network in one format; the columns of the store's table `conversions`.

    failure: why it could not be converted or run, a sentence; empty where it could. bytes: of the file,
    `file_name`. images: of the test set, which the file and Keras have both predicted at float32. same_class: images
    that get the same class from both. largest_difference: of a probability. accuracy: of the file in percent, with the
    ends of its 95 % interval; keras_accuracy: of Keras. calibration_images: that int8 was scaled on. versions: JSON, of
    the packages that converted and ran it. seconds: of the conversion and the predictions.
    """

    step: int
    format: str
    failure: str = ""
    bytes: int | None = None
    sha256: str | None = None
    images: int = 0
    same_class: int | None = None
    largest_difference: float | None = None
    accuracy: float | None = None
    accuracy_low: float | None = None
    accuracy_high: float | None = None
    keras_accuracy: float | None = None
    calibration_images: int = 0
    versions: str = "{}"
    seconds: float | None = None

    @property
    def agreement(self) -> float | None:
        """The images that get the same class from the file as from Keras, in percent; None without any."""
        return 100 * self.same_class / self.images if self.images and self.same_class is not None else None

    @property
    def flaw(self) -> str:
        """Why the file should not be used, a sentence; empty where it keeps what its format must keep."""
        wanted, agreement = FORMATS[self.format], self.agreement
        if self.failure:
            return self.failure
        if agreement is None or self.largest_difference is None:
            return "There were no test images to verify it on."
        if agreement < wanted.agreement:
            return (
                f"Expected the class of Keras for at least {wanted.agreement:g} % of the test images, got it for"
                f" {agreement:.2f} %."
            )
        if wanted.largest_difference is not None and self.largest_difference > wanted.largest_difference:
            return (
                f"Expected probabilities within {wanted.largest_difference:g} of Keras's, got a difference of"
                f" {self.largest_difference:.1e}."
            )
        return ""

    @property
    def agreement_text(self) -> str:
        """The agreement with Keras in words."""
        if self.same_class is None or self.largest_difference is None:
            return "not verified"
        return f"{self.same_class:,} of {self.images:,} images, probabilities within {self.largest_difference:.1e}"

    @property
    def accuracy_text(self) -> str:
        """The accuracy with its interval in words."""
        if self.accuracy is None or self.accuracy_low is None or self.accuracy_high is None:
            return "unknown"
        return f"{self.accuracy:.2f} % {interval_text((self.accuracy_low, self.accuracy_high))}"

    def to_dict(self) -> dict[str, Any]:
        """Return the conversion as JSON-ready values."""
        return asdict(self)
