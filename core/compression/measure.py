"""What a measuring run is asked to do (the specs) and what it does to one image (`measure`).

Four kinds of run share this machinery: an SVD sweep over k, the rivals without SVD, the resize study and the
reconstruction of a whole data set. Each spec is a frozen dataclass that travels through the queue as a plain dict.
"""

from __future__ import annotations

import hashlib
import json
import secrets
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, ClassVar, Protocol

from core.compression.metrics import METRICS, MetricParameters, Original
from core.compression.svd import MODES, MOST_BYTES, check_cost, decompose, decomposition_bytes, factor_bytes, largest_k
from core.data.datasets import Dataset, Record, read_registered
from core.data.images import CODECS, decode, encode, resize
from core.data.names import name_fault, output_names
from core.errors import DermSlimError, ImageError, SpecError, what_came

DEFAULT_KS = (100, 200, 300, 350, 400, 450)  # the article's section 3
DEFAULT_SIZES = ((256, 256), (450, 150), (300, 600), (200, 100), (300, 300))  # rows × columns, section 4.3
DEFAULT_RIVALS = (
    *(("jpeg", quality) for quality in (75, 80, 85, 90, 95)),
    *(("webp", quality) for quality in (75, 85, 95)),
    *(("avif", quality) for quality in (60, 75, 90)),
)

METRIC_COLUMNS = tuple(metric.name for metric in METRICS)
SIZE_COLUMNS = ("source_bytes", "stored_bytes", "control_bytes", "factor_bytes")
MEASUREMENT_COLUMNS = (
    "image_id",
    "variant",
    "k",
    "codec",
    "quality",
    "height",
    "width",
    *SIZE_COLUMNS,
    *METRIC_COLUMNS,
    "reason",
)


def _whole(name: str, value: object, low: int, high: int | None = None) -> int:
    expected = f"{name}: expected a whole number of at least {low}" + (f" and at most {high}" if high else "")
    if isinstance(value, bool) or not isinstance(value, int) or value < low or (high is not None and value > high):
        raise SpecError(f"{expected}; got {value!r}")
    return value


def _choice(name: str, value: object, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise SpecError(f"{name}: expected one of {', '.join(choices)}; got {value!r}")


def normal_quality(codec: object, quality: object) -> int | None:
    """Return the quality that `codec` will use: its default for None, None for a lossless codec; else SpecError."""
    _choice("codec", codec, tuple(CODECS))
    known = CODECS[str(codec)]
    if known.qualities is None:
        if quality is not None:
            raise SpecError(f"quality: expected none for {codec}, which is lossless; got {quality!r}")
        return None
    if quality is None:
        return known.default_quality
    return _whole(f"quality of {codec}", quality, known.qualities.start, known.qualities.stop - 1)


@dataclass(frozen=True, kw_only=True)
class Spec:
    """What every kind of run has: the data set, which of its images, and the metrics' parameters.

    sample_size: images drawn at random, None for all. seed: of that draw and of the bootstrap.
    """

    kind: ClassVar[str]
    dataset: str
    sample_size: int | None = None
    seed: int = 1
    metrics: MetricParameters = field(default_factory=MetricParameters)

    def __post_init__(self) -> None:
        if not self.dataset:
            raise SpecError("data set: expected a name or a folder; got nothing")
        if self.sample_size is not None:
            _whole("sample size", self.sample_size, 1)
        _whole("seed", self.seed, 0, 2**32 - 1)

    def to_dict(self) -> dict[str, Any]:
        """Return the spec as JSON-ready values, its kind included; `spec_from_dict` reads it back."""
        return {"kind": self.kind, **json.loads(json.dumps(asdict(self)))}

    def check(self, dataset: Dataset) -> None:
        """Raise SpecError where `dataset` cannot be measured so; called before anything is queued."""
        if not dataset.records:
            raise SpecError(f"data set {dataset.name}: expected at least one readable image; it has none")
        dataset.sample(self.sample_size, self.seed)


@dataclass(frozen=True, kw_only=True)
class SweepSpec(Spec):
    """Algorithm 1: reconstruct, store and compare every image at each k.

    ks: numbers of singular values kept. mode: see `core.compression.svd.MODES`. codec, quality: how a reconstruction is
    stored before it is compared; quality None means the codec's default.
    """

    kind: ClassVar[str] = "svd-sweep"
    ks: tuple[int, ...] = DEFAULT_KS
    mode: str = "per_channel"
    codec: str = "jpeg"
    quality: int | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        ks = tuple(self.ks)
        if not ks:
            raise SpecError("k: expected at least one value; got none")
        for k in ks:
            _whole("k", k, 1)
        repeated = sorted({k for k in ks if ks.count(k) > 1})
        if repeated:
            raise SpecError(f"k: expected each value once; got {', '.join(map(str, repeated))} more than once")
        _choice("mode", self.mode, MODES)
        object.__setattr__(self, "ks", tuple(sorted(ks)))
        object.__setattr__(self, "quality", normal_quality(self.codec, self.quality))

    def check(self, dataset: Dataset) -> None:
        """Refuse a k above the rank of every image; images of smaller rank are listed when they are measured."""
        super().check(dataset)
        _check_rank(self.ks, self.mode, dataset)


@dataclass(frozen=True, kw_only=True)
class RivalsSpec(Spec):
    """The same images through other codecs and qualities, without SVD."""

    kind: ClassVar[str] = "rivals"
    rivals: tuple[tuple[str, int | None], ...] = DEFAULT_RIVALS

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.rivals:
            raise SpecError("rivals: expected at least one codec; got none")
        pairs = tuple((codec, normal_quality(codec, quality)) for codec, quality in self.rivals)
        if len(set(pairs)) < len(pairs):
            raise SpecError("rivals: expected each codec and quality once; got one more than once")
        object.__setattr__(self, "rivals", pairs)


@dataclass(frozen=True, kw_only=True)
class ResizeSpec(Spec):
    """Compare original and stored reconstruction after both are resized (docs/definitions.md, resize study).

    sizes: (rows, columns) pairs.
    """

    kind: ClassVar[str] = "resize-study"
    sizes: tuple[tuple[int, int], ...] = DEFAULT_SIZES
    k: int = 350
    mode: str = "per_channel"
    codec: str = "jpeg"
    quality: int | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.sizes:
            raise SpecError("sizes: expected at least one rows×columns pair; got none")
        sizes = tuple(
            (_whole("rows", rows, 1, 10_000), _whole("columns", cols, 1, 10_000)) for rows, cols in self.sizes
        )
        if len(set(sizes)) < len(sizes):
            raise SpecError("sizes: expected each size once; got one more than once")
        _whole("k", self.k, 1)
        _choice("mode", self.mode, MODES)
        object.__setattr__(self, "sizes", sizes)
        object.__setattr__(self, "quality", normal_quality(self.codec, self.quality))

    def check(self, dataset: Dataset) -> None:
        """Refuse a k above the rank of every image."""
        super().check(dataset)
        _check_rank((self.k,), self.mode, dataset)


@dataclass(frozen=True, kw_only=True)
class ReconstructSpec(Spec):
    """Write the data set at one k as a new data set called `name`."""

    kind: ClassVar[str] = "reconstruct"
    name: str
    k: int = 350
    mode: str = "per_channel"
    codec: str = "jpeg"
    quality: int | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if fault := name_fault(self.name):
            raise SpecError(fault)
        _whole("k", self.k, 1)
        _choice("mode", self.mode, MODES)
        object.__setattr__(self, "quality", normal_quality(self.codec, self.quality))

    def check(self, dataset: Dataset) -> None:
        """Refuse a k above the rank of every image, and the data set's own name."""
        super().check(dataset)
        _check_rank((self.k,), self.mode, dataset)
        if self.name == dataset.name:
            raise SpecError(f"name: expected another name than the original's; got {self.name!r}")

    @property
    def settings(self) -> str:
        """The words that tell this reconstruction from another: k, mode, codec and quality."""
        quality = "" if self.quality is None else f" {self.quality}"
        return f"k={self.k} {self.mode} {self.codec}{quality}"


SPECS: dict[str, type[Spec]] = {spec.kind: spec for spec in (SweepSpec, RivalsSpec, ResizeSpec, ReconstructSpec)}


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
            f"k: expected at most {largest}, the rank of the largest image of {dataset.name}; got {max(ks)}"
        )


def spec_from_dict(values: Mapping[str, Any]) -> Spec:
    """Build the spec that `to_dict` described; SpecError for unknown kinds, names and values."""
    kind = values.get("kind")
    if kind not in SPECS:
        raise SpecError(f"kind: expected one of {', '.join(SPECS)}; got {kind!r}")
    cls = SPECS[kind]
    known = {each.name: each for each in fields(cls)}
    arguments = {name: value for name, value in values.items() if name != "kind"}
    unknown = sorted(set(arguments) - set(known))
    if unknown:
        raise SpecError(f"{kind}: expected only {', '.join(known)}; got {', '.join(unknown)}")
    for name, value in arguments.items():
        if isinstance(value, list):
            arguments[name] = tuple(tuple(each) if isinstance(each, list) else each for each in value)
    try:
        if isinstance(arguments.get("metrics"), Mapping):
            arguments["metrics"] = MetricParameters(**arguments["metrics"])
        return cls(**arguments)
    except TypeError as error:
        raise SpecError(f"{kind}: {error}") from error


class Hashable(Protocol):
    """What `spec_hash` needs of a spec."""

    def to_dict(self) -> dict[str, Any]:
        """Return the spec as JSON-ready values, its data set under `dataset`."""


def spec_hash(spec: Hashable, fingerprint: str) -> str:
    """Return the SHA-256 that two submissions share when they would measure the same thing.

    fingerprint: the data set's, so that the hash follows the images and not the name they were registered under.
    """
    values = _whole_numbers({**spec.to_dict(), "dataset": fingerprint})
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()


def _whole_numbers(value: Any) -> Any:
    """Return JSON-ready values with 50.0 as 50: which of them was typed makes no difference to a run."""
    if isinstance(value, dict):
        return {name: _whole_numbers(each) for name, each in value.items()}
    if isinstance(value, list | tuple):
        return [_whole_numbers(each) for each in value]
    return int(value) if isinstance(value, float) and value.is_integer() else value


def variants(spec: Spec) -> tuple[str, ...]:
    """Return the names of the rows that one image gives under `spec`, in the order they are charted."""
    if isinstance(spec, SweepSpec):
        return tuple(f"k={k}" for k in spec.ks)
    if isinstance(spec, RivalsSpec):
        return tuple(codec_name(codec, quality) for codec, quality in spec.rivals)
    if isinstance(spec, ResizeSpec):
        return tuple(f"{rows}x{columns}" for rows, columns in spec.sizes)
    return (f"k={spec.k}",) if isinstance(spec, ReconstructSpec) else ()


def codec_name(codec: str, quality: int | None) -> str:
    """Return how a codec and its quality are written: `jpeg 95`, `png`."""
    return codec if quality is None else f"{codec} {quality}"


def new_names(dataset: Dataset, spec: Spec) -> dict[str, str]:
    """Return what a reconstruction's files are called, by the path of the original; empty for other kinds of run."""
    if not isinstance(spec, ReconstructSpec):
        return {}
    return output_names((record.path for record in dataset.records), CODECS[spec.codec].extension)


@dataclass(frozen=True)
class ImageResult:
    """What one image gave: its rows, or the reason why it has none.

    rows: dicts with the keys MEASUREMENT_COLUMNS. file: the reconstruction's record (reconstruct only).
    """

    image_id: str
    status: str  # 'measured' or 'failed'
    reason: str | None
    seconds: float
    rows: tuple[dict[str, Any], ...] = ()
    file: dict[str, Any] | None = None

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> ImageResult:
        """Return the result that `dataclasses.asdict` and JSON described."""
        return cls(**{**values, "rows": tuple(values["rows"])})


@dataclass(frozen=True)
class Chunk:
    """What one job sends: the results of some images of a run's attempt, and the worker that measured them.

    claim: the number of the worker's claim on the job (`jobs.live_runs.Claim`); 0 from workers of a time without.
    """

    run_id: str
    attempt: int
    worker: str
    results: Sequence[ImageResult]
    claim: int = 0


def measure(record: Record, root: Path, spec: Spec, output: Path | None = None, name: str | None = None) -> ImageResult:
    """Measure one image as `spec` asks; a file that cannot be measured gives a failed result, never an exception.

    output: folder that a reconstruction is written to, under the name that `new_names` gives (ReconstructSpec only).
    """
    started = time.perf_counter()
    try:
        try:
            data = read_registered(record, root)
        except ImageError as error:
            raise ImageError(f"expected to read {record.path}; {what_came(error)}") from error
        if isinstance(spec, ReconstructSpec):
            if output is None:
                raise SpecError("output: expected the folder of the new data set; got none")
            name = name or Path(record.path).with_suffix(CODECS[spec.codec].extension).as_posix()
            rows, file = _reconstruct(record, data, spec, output, name)
        else:
            rows, file = tuple(_ROWS[type(spec)](record, data, spec)), None
    except DermSlimError as error:
        return ImageResult(record.image_id, "failed", str(error), time.perf_counter() - started)
    except MemoryError:
        reason = f"expected memory for a {record.height}×{record.width} image; there was not enough"
        return ImageResult(record.image_id, "failed", reason, time.perf_counter() - started)
    return ImageResult(record.image_id, "measured", None, time.perf_counter() - started, rows, file)


def _row(record: Record, variant: str, **values: Any) -> dict[str, Any]:
    return {**dict.fromkeys(MEASUREMENT_COLUMNS), "image_id": record.image_id, "variant": variant, **values}


def _reconstructions(
    record: Record, data: bytes, ks: tuple[int, ...], spec: SweepSpec | ReconstructSpec
) -> Iterator[tuple[dict[str, Any], bytes]]:
    """Yield a row and the stored file for each k; a k above the rank gives a row with that reason and no bytes."""
    check_cost(record.height, record.width, spec.mode)
    image = decode(data)
    height, width = image.shape[:2]
    control = len(encode(image, spec.codec, spec.quality))
    original = Original(image, spec.metrics)
    factors = decompose(image, spec.mode)
    common = {"codec": spec.codec, "quality": spec.quality, "height": height, "width": width}
    for k, reconstruction in factors.reconstructions(k for k in ks if k <= factors.rank):
        stored = encode(reconstruction, spec.codec, spec.quality)
        row = _row(
            record,
            f"k={k}",
            k=k,
            **common,
            source_bytes=len(data),
            stored_bytes=len(stored),
            control_bytes=control,
            factor_bytes=factor_bytes(k, height, width, spec.mode),
            **original.compare(decode(stored, own=True)),
            explained_variance=factors.explained_variance(k),
        )
        yield row, stored
    for k in (k for k in ks if k > factors.rank):
        reason = f"k = {k}: expected at most {factors.rank}, the rank of this {height}×{width} image"
        yield _row(record, f"k={k}", k=k, **common, reason=reason), b""


def _sweep_rows(record: Record, data: bytes, spec: SweepSpec) -> Iterator[dict[str, Any]]:
    for row, _ in _reconstructions(record, data, spec.ks, spec):
        yield row


def _rival_rows(record: Record, data: bytes, spec: RivalsSpec) -> Iterator[dict[str, Any]]:
    image = decode(data)
    height, width = image.shape[:2]
    original = Original(image, spec.metrics)
    for codec, quality in spec.rivals:
        stored = encode(image, codec, quality)
        yield _row(
            record,
            codec_name(codec, quality),
            codec=codec,
            quality=quality,
            height=height,
            width=width,
            source_bytes=len(data),
            stored_bytes=len(stored),
            **original.compare(decode(stored, own=True)),
        )


def _resize_rows(record: Record, data: bytes, spec: ResizeSpec) -> Iterator[dict[str, Any]]:
    check_cost(record.height, record.width, spec.mode)
    image = decode(data)
    stored = encode(decompose(image, spec.mode).reconstruct(spec.k), spec.codec, spec.quality)
    reconstruction = decode(stored, own=True)
    for height, width in spec.sizes:
        original = Original(resize(image, height, width), spec.metrics)
        yield _row(
            record,
            f"{height}x{width}",
            k=spec.k,
            codec=spec.codec,
            quality=spec.quality,
            height=height,
            width=width,
            source_bytes=len(data),
            stored_bytes=len(stored),
            **original.compare(resize(reconstruction, height, width)),
        )


_ROWS: dict[type[Spec], Any] = {SweepSpec: _sweep_rows, RivalsSpec: _rival_rows, ResizeSpec: _resize_rows}


def _reconstruct(
    record: Record, data: bytes, spec: ReconstructSpec, output: Path, name: str
) -> tuple[tuple[dict[str, Any], ...], dict[str, Any]]:
    row, stored = next(_reconstructions(record, data, (spec.k,), spec))
    if row["reason"]:
        raise SpecError(row["reason"])
    write_whole(output / name, stored)
    file = {
        **asdict(record),
        "path": name,
        "bytes": len(stored),
        "height": row["height"],
        "width": row["width"],
        "sha256": hashlib.sha256(stored).hexdigest(),
    }
    return (row,), file


def write_whole(path: Path, data: bytes) -> None:
    """Write a file so that no reader ever sees half of it; two writers of the same bytes do no harm.

    Who may read it follows the umask of whoever asked for it, as of any file.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{secrets.token_hex(8)}.part")
    try:
        with temporary.open("xb") as file:
            file.write(data)
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
