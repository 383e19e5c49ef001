"""Measure one image for a measuring run, as its spec (`core.compression.specs`) says."""

from __future__ import annotations

import hashlib
import secrets
import time
import zlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from core.compression.comparison import Image, Original
from core.compression.image_results import MEASUREMENT_COLUMNS, ORIGINAL, ImageResult
from core.compression.specs import (
    DiagnosisSpec,
    MeasuringSpec,
    ReconstructSpec,
    ResizeSpec,
    RivalsSpec,
    SweepSpec,
    Way,
    codec_name,
)
from core.compression.svd import check_cost, decompose, factor_bytes
from core.data.datasets import DatasetImage, read_registered
from core.data.images import CODECS, decode, encode, resize
from core.errors import DermSlimError, ImageError, SpecError
from core.files.plain_files import whole_file

# What a network says of one image in several ways: one dict per way of the table `diagnoses`, without the run's id.
Predict = Callable[[DatasetImage, Sequence[tuple[str, Image]]], tuple[dict[str, Any], ...]]


def measure(
    record: DatasetImage,
    root: Path,
    spec: MeasuringSpec,
    output: Path | None = None,
    name: str | None = None,
    predict: Predict | None = None,
) -> ImageResult:
    """Measure one image as `spec` says; a file that cannot be measured gives a failed result, never an exception.

    output: folder that a reconstruction is written to, under the name that `new_names` gives (ReconstructSpec only).
    predict: gives a network's predictions of the original and of each stored image, by variant (DiagnosisSpec only).
    """
    started = time.perf_counter()
    answers: tuple[dict[str, Any], ...] = ()
    try:
        try:
            data = read_registered(record, root)
        except ImageError as error:
            raise ImageError(f"{record.path}: {error}") from error
        if isinstance(spec, ReconstructSpec):
            if output is None:
                raise SpecError("Expected the folder of the new data set, got none.")
            name = name or Path(record.path).with_suffix(CODECS[spec.codec].extension).as_posix()
            rows, file = _reconstruct(record, data, spec, output, name)
        elif isinstance(spec, DiagnosisSpec):
            stored = list(_stored_ways(record, data, spec))
            rows, file = tuple(row for row, _ in stored), None
            if predict is not None:
                images = ((row["variant"], decode(each, own=True)) for row, each in stored if each)
                answers = predict(record, [(ORIGINAL, decode(data)), *images])
        else:
            rows, file = tuple(_ROWS[type(spec)](record, data, spec)), None
    except DermSlimError as error:
        return ImageResult(record.image_id, "failed", str(error), time.perf_counter() - started)
    except MemoryError:
        reason = f"Expected enough memory for a {record.height}×{record.width} image, got less."
        return ImageResult(record.image_id, "failed", reason, time.perf_counter() - started)
    return ImageResult(record.image_id, "measured", None, time.perf_counter() - started, rows, file, answers)


def _row(record: DatasetImage, variant: str, **values: Any) -> dict[str, Any]:
    return {**dict.fromkeys(MEASUREMENT_COLUMNS), "image_id": record.image_id, "variant": variant, **values}


def _compared(original: Original, other: Image, source: bytes, stored: bytes) -> dict[str, Any]:
    """Return the columns of every measured row. other: the image that `stored` decodes to. source: the original's file.

    The checksum tells later whether the codec still gives the same image.
    """
    height, width = other.shape[:2]
    return {
        "height": height,
        "width": width,
        "source_bytes": len(source),
        "stored_bytes": len(stored),
        **original.compare(other),
        "decoded_crc32": zlib.crc32(other.data),
    }


def _reconstructions(
    record: DatasetImage, data: bytes, ks: tuple[int, ...], spec: SweepSpec | ReconstructSpec
) -> Iterator[tuple[dict[str, Any], bytes]]:
    """Yield a row and the stored file for each k; a k above the rank gives a row with that reason and no bytes."""
    check_cost(record.height, record.width, spec.mode)
    image = decode(data)
    height, width = image.shape[:2]
    original = Original(image, spec.metrics)
    factors = decompose(image, spec.mode)
    codec: dict[str, Any] = {"codec": spec.codec, "quality": spec.quality}
    control = len(encode(image, **codec))
    for k, reconstruction in factors.reconstructions(k for k in ks if k <= factors.rank):
        stored = encode(reconstruction, **codec)
        further = {
            "control_bytes": control,
            "factor_bytes": factor_bytes(k, height, width, spec.mode),
            "explained_variance": factors.explained_variance(k),
        }
        figures = _compared(original, decode(stored, own=True), data, stored)
        yield _row(record, f"k={k}", k=k, **codec, **figures | further), stored
    for k in (k for k in ks if k > factors.rank):
        reason = f"Expected k of at most {factors.rank}, the rank of this {height}×{width} image, got {k}."
        yield _row(record, f"k={k}", k=k, **codec, height=height, width=width, reason=reason), b""


def _sweep_rows(record: DatasetImage, data: bytes, spec: SweepSpec) -> Iterator[dict[str, Any]]:
    for row, _ in _reconstructions(record, data, spec.ks, spec):
        yield row


def _rival_rows(record: DatasetImage, data: bytes, spec: RivalsSpec) -> Iterator[dict[str, Any]]:
    for row, _ in _encoded(record, data, spec):
        yield row


def _encoded(record: DatasetImage, data: bytes, spec: RivalsSpec) -> Iterator[tuple[dict[str, Any], bytes]]:
    """Yield a row and the stored file for each codec and quality."""
    image = decode(data)
    original = Original(image, spec.metrics)
    for codec, quality in spec.rivals:
        stored = encode(image, codec, quality)
        figures = _compared(original, decode(stored, own=True), data, stored)
        yield _row(record, codec_name(codec, quality), codec=codec, quality=quality, **figures), stored


def _stored_ways(record: DatasetImage, data: bytes, spec: DiagnosisSpec) -> Iterator[tuple[dict[str, Any], bytes]]:
    """Yield the rows and files of each part of a diagnosis, with the variants' names in the diagnosis."""
    for part in spec.parts:
        mode = None if isinstance(part, RivalsSpec) else part.mode
        if isinstance(part, RivalsSpec):
            stored = _encoded(record, data, part)
        else:
            stored = _reconstructions(record, data, part.ks, part)
        for row, file in stored:
            yield {**row, "variant": Way(mode, row["k"], row["codec"], row["quality"]).variant}, file


def _resize_rows(record: DatasetImage, data: bytes, spec: ResizeSpec) -> Iterator[dict[str, Any]]:
    check_cost(record.height, record.width, spec.mode)
    image = decode(data)
    stored = encode(decompose(image, spec.mode).reconstruct(spec.k), spec.codec, spec.quality)
    reconstruction = decode(stored, own=True)
    for height, width in spec.sizes:
        original = Original(resize(image, height, width), spec.metrics)
        figures = _compared(original, resize(reconstruction, height, width), data, stored)
        yield _row(record, f"{height}x{width}", k=spec.k, codec=spec.codec, quality=spec.quality, **figures)


_ROWS: dict[type[MeasuringSpec], Any] = {SweepSpec: _sweep_rows, RivalsSpec: _rival_rows, ResizeSpec: _resize_rows}


def _reconstruct(
    record: DatasetImage, data: bytes, spec: ReconstructSpec, output: Path, name: str
) -> tuple[tuple[dict[str, Any], ...], dict[str, Any]]:
    row, stored = next(_reconstructions(record, data, (spec.k,), spec))
    if row["reason"]:
        raise SpecError(row["reason"])
    write_whole(output / name, stored)
    file = {
        **record.to_dict(),
        "path": name,
        "bytes": len(stored),
        "height": row["height"],
        "width": row["width"],
        "sha256": hashlib.sha256(stored).hexdigest(),
    }
    return (row,), file


def write_whole(path: Path, data: bytes) -> None:
    """Write a file so that no reader ever sees half of it; two writers of the same bytes do no harm.

    The process's umask decides who may read it, as for any file.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with whole_file(path, path.with_name(f".{secrets.token_hex(8)}.part")) as draft:
        draft.write_bytes(data)
