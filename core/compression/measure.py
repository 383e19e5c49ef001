"""Measure one image for a measuring run, as its spec (`core.compression.specs`) says."""

from __future__ import annotations

import hashlib
import secrets
import time
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from core.compression.comparison import Image, Original
from core.compression.image_results import MEASUREMENT_COLUMNS, ImageResult
from core.compression.specs import MeasuringSpec, ReconstructSpec, ResizeSpec, RivalsSpec, SweepSpec, codec_name
from core.compression.svd import check_cost, decompose, factor_bytes
from core.data.datasets import DatasetImage, read_registered
from core.data.images import CODECS, decode, encode, resize
from core.errors import DermSlimError, ImageError, SpecError
from core.files.plain_files import whole_file


def measure(
    record: DatasetImage, root: Path, spec: MeasuringSpec, output: Path | None = None, name: str | None = None
) -> ImageResult:
    """Measure one image as `spec` says; a file that cannot be measured gives a failed result, never an exception.

    output: folder that a reconstruction is written to, under the name that `new_names` gives (ReconstructSpec only).
    """
    started = time.perf_counter()
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
        else:
            rows, file = tuple(_ROWS[type(spec)](record, data, spec)), None
    except DermSlimError as error:
        return ImageResult(record.image_id, "failed", str(error), time.perf_counter() - started)
    except MemoryError:
        reason = f"Expected enough memory for a {record.height}×{record.width} image, got less."
        return ImageResult(record.image_id, "failed", reason, time.perf_counter() - started)
    return ImageResult(record.image_id, "measured", None, time.perf_counter() - started, rows, file)


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
    image = decode(data)
    original = Original(image, spec.metrics)
    for codec, quality in spec.rivals:
        stored = encode(image, codec, quality)
        figures = _compared(original, decode(stored, own=True), data, stored)
        yield _row(record, codec_name(codec, quality), codec=codec, quality=quality, **figures)


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
