"""The specs of measuring runs: SVD sweep, rivals, resize comparison, reconstruction, diagnosis of stored images."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, NamedTuple

import annotated_types as at
from pydantic import AfterValidator, ValidationInfo, field_validator

from core.compression.svd import MODES, MOST_BYTES, check_cost, decomposition_bytes, largest_k
from core.data.datasets import Dataset
from core.data.images import CODECS, quality_of
from core.data.names import name_fault, output_names
from core.errors import ImageError, SpecError
from core.specs import LARGEST_SEED, Number, Once, Setting, Spec, Text, Whole, spec_of_kind

DEFAULT_KS = (100, 200, 300, 350, 400, 450)  # the article's section 3
DEFAULT_SIZES = ((256, 256), (450, 150), (300, 600), (200, 100), (300, 300))  # rows × columns, section 4.3
DEFAULT_RIVALS = (
    *(("jpeg", quality) for quality in (75, 80, 85, 90, 95)),
    *(("webp", quality) for quality in (75, 85, 95)),
    *(("avif", quality) for quality in (60, 75, 90)),
)
DIAGNOSIS_KS = (2, 5, 10, 20, 50, 100)  # recall of melanoma falls below 20
DIAGNOSIS_RIVALS = (
    *(("jpeg", quality) for quality in (10, 20, 50, 75, 90, 95)),
    *(("webp", quality) for quality in (10, 50, 75, 90)),
    *(("avif", quality) for quality in (20, 40, 60, 80)),
)


def quality_of_codec(quality: int | None, info: ValidationInfo) -> int | None:
    """Return the quality that the spec's codec will use. SpecError."""
    return quality_of(info.data["codec"], quality) if "codec" in info.data else quality


def valid_name(name: str) -> str:
    """Return a valid name of a data set. SpecError for another one."""
    if fault := name_fault(name):
        raise SpecError(fault)
    return name


def normal_rivals(pairs: tuple[tuple[str, int | None], ...]) -> tuple[tuple[str, int | None], ...]:
    """Return the codecs, each with the quality that it will use. SpecError."""
    return tuple((codec, quality_of(codec, quality)) for codec, quality in pairs)


# Settings that several specs have.
DatasetName = Annotated[Text, at.MinLen(1), Setting("Data set", name="data set", flag="DATASET")]
K = Annotated[Whole, at.Ge(1)]
OneK = Annotated[K, Setting("k", "Number of singular values kept.", always=True)]
Ks = Annotated[
    tuple[K, ...],
    at.MinLen(1),
    Once,
    AfterValidator(lambda ks: tuple(sorted(ks))),
    Setting(
        "k, the numbers of singular values kept", "One decomposition serves every k.", name="k", flag="--k", always=True
    ),
]
Side = Annotated[Whole, at.Interval(ge=1, le=10_000)]
Sizes = Annotated[
    tuple[tuple[Side, Side], ...],
    at.MinLen(1),
    Once,
    Setting(
        "Sizes, rows × columns", "The original and the reconstruction are both resized.", unit="pixels", always=True
    ),
]
Mode = Annotated[
    Text,
    Setting(
        "Mode",
        "Per channel: one matrix per color channel. Unfolded: one matrix, the channels side by side.",
        choices=MODES,
        always=True,
    ),
]
CodecName = Annotated[Text, Setting("Codec", "How a reconstruction is stored.", choices=tuple(CODECS), always=True)]
Rivals = Annotated[
    tuple[tuple[CodecName, Annotated[Whole, at.Interval(ge=0, le=100)] | None], ...],
    at.MinLen(1),
    AfterValidator(normal_rivals),
    Once,
    Setting("Rivals", "Codecs without SVD, each with its quality.", unit="with a quality", always=True),
]
Quality = Annotated[
    Whole | None,
    Setting("Quality", "By default the codec's.", ge=0, le=100, always=True),
    AfterValidator(quality_of_codec),
]
SampleSize = Annotated[
    Whole | None,
    Setting("Sample size", "Number of images drawn at random, by default all.", flag="--limit", ge=1, empty="all"),
]


class MetricParameters(Spec):
    """The parameters of the metrics.

    changed_threshold: `changed_percent` counts pixels whose largest channel difference is above it. radial_cutoff:
    border of `mse_low` and `mse_high`.
    """

    changed_threshold: Annotated[
        Whole, Setting("Changed pixels differ by more than", ge=0, le=255, unit="grey levels")
    ] = 10
    radial_cutoff: Annotated[
        Number, Setting("Low frequencies end at", gt=0, lt=math.sqrt(0.5), unit="cycles per pixel", step=0.01)
    ] = 0.1


class MeasuringSpec(Spec):
    """The settings of every measuring run: the data set, the sample of its images, and the metrics' parameters.

    sample_size: images drawn at random, None for all. seed: of that draw and of the bootstrap.
    """

    dataset: DatasetName
    sample_size: SampleSize = None
    seed: Annotated[
        Whole,
        Setting(
            "Seed", "Of the random sample and of the bootstrap: the same seed gives the same figures.",
            ge=0, le=LARGEST_SEED, always=True,
        ),
    ] = 1  # fmt: skip
    metrics: MetricParameters = MetricParameters()

    def check(self, dataset: Dataset) -> None:
        """Raise SpecError where `dataset` cannot be measured with this spec; called before anything is queued."""
        if not dataset.records:
            raise SpecError(f"Expected at least one readable image in the data set {dataset.name}, got none.")
        dataset.sample(self.sample_size, self.seed)


class SweepSpec(MeasuringSpec):
    """Algorithm 1: reconstruct, store and compare every image at each k.

    ks: numbers of singular values kept. mode: see `core.compression.svd.MODES`. codec, quality: how a reconstruction is
    stored before it is compared; quality None means the codec's default.
    """

    kind: ClassVar[str] = "svd-sweep"
    ks: Ks = DEFAULT_KS
    mode: Mode = "per_channel"
    codec: CodecName = "jpeg"
    quality: Quality = None

    def check(self, dataset: Dataset) -> None:
        """Refuse a k above the rank of every image; images of smaller rank are listed when they are measured."""
        super().check(dataset)
        _check_rank(self.ks, self.mode, dataset)


class RivalsSpec(MeasuringSpec):
    """The same images through other codecs and qualities, without SVD."""

    kind: ClassVar[str] = "rivals"
    rivals: Rivals = DEFAULT_RIVALS


class ResizeSpec(MeasuringSpec):
    """Compare original and stored reconstruction after both are resized (docs/definitions.md, resize comparison).

    sizes: (rows, columns) pairs.
    """

    kind: ClassVar[str] = "resize-study"
    sizes: Sizes = DEFAULT_SIZES
    k: OneK = 350
    mode: Mode = "per_channel"
    codec: CodecName = "jpeg"
    quality: Quality = None

    def check(self, dataset: Dataset) -> None:
        """Refuse a k above the rank of every image."""
        super().check(dataset)
        _check_rank((self.k,), self.mode, dataset)


class ReconstructSpec(MeasuringSpec):
    """Write the data set at one k as a new data set called `name`."""

    kind: ClassVar[str] = "reconstruct"
    name: Annotated[Text, AfterValidator(valid_name), Setting("Name of the new data set")]
    k: OneK = 350
    mode: Mode = "per_channel"
    codec: CodecName = "jpeg"
    quality: Quality = None

    def check(self, dataset: Dataset) -> None:
        """Refuse a k above the rank of every image, and the data set's own name."""
        super().check(dataset)
        _check_rank((self.k,), self.mode, dataset)
        if self.name == dataset.name:
            raise SpecError(f"Expected another name than the original's, got {self.name!r}.")

    @property
    def settings(self) -> str:
        """The words that tell this reconstruction from another: k, mode, codec and quality."""
        return f"k={self.k} {self.mode} {codec_name(self.codec, self.quality)}"


class Way(NamedTuple):
    """One way of storing an image. mode, k: None without SVD. quality: None where the codec has none."""

    mode: str | None
    k: int | None
    codec: str
    quality: int | None

    @property
    def variant(self) -> str:
        """The name of its rows: `jpeg 90`, `k=5 jpeg 95`, `k=5 unfolded jpeg 95`."""
        stored = codec_name(self.codec, self.quality)
        if self.k is None:
            return stored
        return f"k={self.k} {stored}" if self.mode == MODES[0] else f"k={self.k} {self.mode} {stored}"


class DiagnosisSpec(MeasuringSpec):
    """Store the images of a trained network's test set in several ways; the network predicts each stored image.

    run, step: whose kept weights predict. image_split: the set of that run whose images are used. ks, modes, codecs,
    qualities: every combination is one way of storing a reconstruction; a lossless codec has no quality. rivals: the
    other ways, without SVD. dataset: the same images, of any size. sample_size: of the set's images.
    """

    kind: ClassVar[str] = "diagnosis"
    run: Annotated[Text, at.MinLen(1), Setting("Training run", "Whose network predicts.", name="run", flag="RUN")]
    step: Annotated[Whole, Setting("Step", "0 is the unpruned network.", ge=0, le=10_000, always=True)] = 0
    image_split: Annotated[
        Text,
        Setting(
            "Images of", "The weights were chosen by the validation images.", name="split", flag="--split",
            choices=("test", "validation"), always=True,
        ),
    ] = "test"  # fmt: skip
    ks: Ks = DIAGNOSIS_KS
    modes: Annotated[
        tuple[Mode, ...], at.MinLen(1), Once, Setting("Modes", "Of the reconstructions.", flag="--modes", always=True)
    ] = ("per_channel",)
    codecs: Annotated[
        tuple[CodecName, ...],
        at.MinLen(1),
        Once,
        Setting("Codecs of the reconstructions", name="codecs", flag="--codecs", always=True),
    ] = ("jpeg",)
    qualities: Annotated[
        tuple[Annotated[Whole, at.Interval(ge=0, le=100)], ...],
        at.MinLen(1),
        Once,
        Setting("Qualities of the reconstructions", "Of each codec that has one.", name="qualities", always=True),
    ] = (95,)
    rivals: Rivals = DIAGNOSIS_RIVALS

    @field_validator("qualities")
    @classmethod
    def _qualities_of_codecs(cls, qualities: tuple[int, ...], info: ValidationInfo) -> tuple[int, ...]:
        for codec in info.data.get("codecs", ()):
            for quality in qualities if CODECS[codec].qualities else ():
                quality_of(codec, quality)
        return qualities

    def check(self, dataset: Dataset) -> None:
        """Refuse a k above the rank of every image."""
        super().check(dataset)
        for mode in self.modes:
            _check_rank(self.ks, mode, dataset)

    @property
    def parts(self) -> tuple[SweepSpec | RivalsSpec, ...]:
        """The runs that store images in these ways: a sweep for each mode, codec and quality, and the rivals."""
        stored = [
            (codec, quality)
            for codec in self.codecs
            for quality in (self.qualities if CODECS[codec].qualities else (None,))
        ]
        sweep = SweepSpec(dataset=self.dataset, metrics=self.metrics, ks=self.ks)
        sweeps = [
            sweep.replace(mode=mode, codec=codec, quality=quality) for mode in self.modes for codec, quality in stored
        ]
        return *sweeps, RivalsSpec(dataset=self.dataset, metrics=self.metrics, rivals=self.rivals)


SPECS: dict[str, type[MeasuringSpec]] = {
    spec.kind: spec for spec in (SweepSpec, RivalsSpec, ResizeSpec, ReconstructSpec, DiagnosisSpec)
}


def ways(part: SweepSpec | RivalsSpec | DiagnosisSpec) -> tuple[Way, ...]:
    """Return the ways in which a run stores each image, in the order of its rows."""
    if isinstance(part, DiagnosisSpec):
        return tuple(way for each in part.parts for way in ways(each))
    if isinstance(part, RivalsSpec):
        return tuple(Way(None, None, codec, quality) for codec, quality in part.rivals)
    return tuple(Way(part.mode, k, part.codec, part.quality) for k in part.ks)


def measuring_spec_from_dict(values: Mapping[str, Any]) -> MeasuringSpec:
    """Build the spec that `to_dict` described; SpecError for unknown kinds, names and values."""
    return spec_of_kind(values, SPECS)


def _check_rank(ks: tuple[int, ...], mode: str, dataset: Dataset) -> None:
    """Raise SpecError for a k above the rank of every image, and where every image is too large to be decomposed."""
    sizes = {(record.height, record.width) for record in dataset.records}
    usable = [(height, width) for height, width in sizes if decomposition_bytes(height, width, mode) <= MOST_BYTES]
    if not usable:
        try:
            check_cost(*min(sizes), mode)
        except ImageError as error:
            raise SpecError(f"data set {dataset.name}: {error}") from error
    largest = max(largest_k(height, width, mode) for height, width in usable)
    if max(ks) > largest:
        raise SpecError(
            f"Expected k of at most {largest}, the rank of the largest image of {dataset.name}, got {max(ks)}."
        )


def variants(spec: MeasuringSpec) -> tuple[str, ...]:
    """Return the names of the rows that one image gives under `spec`, in the order they are charted."""
    if isinstance(spec, SweepSpec):
        return tuple(f"k={k}" for k in spec.ks)
    if isinstance(spec, RivalsSpec):
        return tuple(codec_name(codec, quality) for codec, quality in spec.rivals)
    if isinstance(spec, ResizeSpec):
        return tuple(f"{rows}x{columns}" for rows, columns in spec.sizes)
    if isinstance(spec, DiagnosisSpec):
        return tuple(way.variant for way in ways(spec))
    return (f"k={spec.k}",) if isinstance(spec, ReconstructSpec) else ()


def new_names(dataset: Dataset, spec: MeasuringSpec) -> dict[str, str]:
    """Return the names of a reconstruction's files by the path of the original; empty for other kinds of run."""
    if not isinstance(spec, ReconstructSpec):
        return {}
    return output_names((record.path for record in dataset.records), CODECS[spec.codec].extension)


def codec_name(codec: str, quality: int | None) -> str:
    """Return a codec and its quality as text: `jpeg 95`, `png`."""
    return codec if quality is None else f"{codec} {quality}"
