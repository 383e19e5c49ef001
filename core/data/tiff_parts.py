"""The strips and tiles of a TIFF: check that all exist and are whole, and read planes that are stored separately.

The decoders leave missing parts black or fill them with other bytes of the file. libtiff prints its errors to the
terminal without the file's name, so they are caught here.
"""

from __future__ import annotations

import contextlib
import ctypes
import struct
import threading
from collections.abc import Iterator
from dataclasses import dataclass

from PIL import TiffImagePlugin, _imaging

from core.data.jpeg_scans import check_scans
from core.errors import ImageError

WIDTH, LENGTH, BITS, COMPRESSION, PHOTOMETRIC, FILL_ORDER, SAMPLES = 256, 257, 258, 259, 262, 266, 277
STRIP_OFFSETS, ORIENTATION, ROWS_PER_STRIP, STRIP_BYTES = 273, 274, 278, 279
TILE_WIDTH, TILE_LENGTH, TILE_OFFSETS, TILE_BYTES = 322, 323, 324, 325
PLANAR, PREDICTOR, EXTRA_SAMPLES, SAMPLE_FORMAT, JPEG_TABLES, YCBCR_SUBSAMPLING = 284, 317, 338, 339, 347, 530
RAW, OLD_JPEG, JPEG = 1, 6, 7
WHITE_IS_ZERO, GREY, RGB, YCBCR = 0, 1, 2, 6
SEPARATE = 2
UNSIGNED = 1
ASSOCIATED = 1  # premultiplied alpha

# Errors about single tags, which decoding does not need; whole pictures cause no other errors.
OF_TAGS = (b"_TIFFVSetField", b"TIFFFetchNormalTag", b"TIFFReadCustomDirectory", b"TIFFFetchDirectory")
libtiff = threading.local()  # error: whether libtiff reported one in this thread


def note_error(module: bytes | None, text: bytes | None, _: int | None) -> None:
    """Note an error of libtiff in the thread that decodes."""
    if not (module or b"").startswith(OF_TAGS):
        libtiff.error = True


# Kept in a variable, because libtiff calls it
HANDLER = ctypes.CFUNCTYPE(None, ctypes.c_char_p, ctypes.c_char_p, ctypes.c_void_p)(note_error)
with contextlib.suppress(AttributeError, OSError):  # where Pillow was built without libtiff, or with it inside
    ctypes.CDLL(_imaging.__file__).TIFFSetErrorHandler(HANDLER)


@contextlib.contextmanager
def strict_libtiff() -> Iterator[None]:
    """Raise ImageError where libtiff reports an error in the block, even if it continues."""
    libtiff.error = False
    yield
    if libtiff.error:
        raise damaged("its picture data cannot be decoded to their end")


@dataclass(frozen=True)
class Parts:
    """The position of a TIFF's first picture in its file.

    offsets, sizes: of its strips or tiles, in bytes; sizes is empty where the file has none. rows, columns: of one
    part. planes: 1, or one per sample where they are stored separately. count: strips or tiles of one plane.
    """

    offsets: tuple[int, ...]
    sizes: tuple[int, ...]
    rows: int
    columns: int
    planes: int
    count: int
    tiled: bool


def tag(header: TiffImagePlugin.TiffImageFile, number: int, default: int) -> int:
    """Return a tag's value, the first of several."""
    found = header.tag_v2.get(number, default)
    return int(found[0] if isinstance(found, tuple) else found)


def parts(header: TiffImagePlugin.TiffImageFile) -> Parts:
    """Return the position of the strips or tiles. Raises KeyError, TypeError, ValueError where the header has none."""
    tags = header.tag_v2
    height, width = tags[LENGTH], tags[WIDTH]
    tiled = TILE_OFFSETS in tags
    rows = tags[TILE_LENGTH] if tiled else min(tag(header, ROWS_PER_STRIP, height), height)
    columns = tags[TILE_WIDTH] if tiled else width
    if rows < 1 or columns < 1:
        raise ValueError(f"Expected parts of at least 1×1, got {rows}×{columns}.")
    return Parts(
        numbers(tags[TILE_OFFSETS if tiled else STRIP_OFFSETS]),
        numbers(tags.get(TILE_BYTES if tiled else STRIP_BYTES, ())),
        rows,
        columns,
        tag(header, SAMPLES, 1) if tag(header, PLANAR, 1) == SEPARATE else 1,
        -(-height // rows) * -(-width // columns),
        tiled,
    )


def numbers(value: int | tuple[int, ...]) -> tuple[int, ...]:
    """Return a tag's values as a tuple."""
    return value if isinstance(value, tuple) else (value,)


def check_parts(data: bytes, header: TiffImagePlugin.TiffImageFile) -> None:
    """Raise ImageError where a TIFF's samples are not unsigned integers, or a part is missing."""
    try:
        if any(kind != UNSIGNED for kind in numbers(header.tag_v2.get(SAMPLE_FORMAT, UNSIGNED))):
            raise ImageError("Expected a TIFF of unsigned integers, got signed or real numbers.")
        compression = tag(header, COMPRESSION, RAW)
        if compression == OLD_JPEG:
            raise ImageError("Expected a supported compression, got the JPEG compression that TIFF 6.0 withdrew.")
        subsampled = numbers(header.tag_v2.get(YCBCR_SUBSAMPLING, (2, 2))) != (1, 1)
        if compression == RAW and tag(header, PHOTOMETRIC, GREY) == YCBCR and subsampled:
            raise ImageError("Expected uncompressed colours in full size, got subsampled ones.")
        found = parts(header)
        check_places(found, len(data), needed(header, found) if compression == RAW else [1] * found.count)
        if compression == JPEG:
            tables = bytes(header.tag_v2.get(JPEG_TABLES, b""))
            for offset, size in zip(found.offsets, found.sizes, strict=False):
                check_scans(tables[:-2] + data[offset + 2 if tables else offset : offset + size])
    except (KeyError, TypeError, ValueError, struct.error) as error:
        raise damaged("its header does not contain the position of the picture") from error


def check_places(found: Parts, length: int, smallest: list[int]) -> None:
    """Raise ImageError unless every part is inside the file and has the bytes that it needs."""
    wanted = smallest * found.planes
    if len(found.offsets) < len(wanted):
        raise damaged(f"expected {len(wanted)} strips or tiles, got {len(found.offsets)}")
    places = zip(found.offsets, found.sizes or wanted, wanted, strict=False)
    for number, (offset, size, least) in enumerate(places, start=1):
        if offset <= 0 or size < least or offset + size > length:
            raise damaged(f"strip or tile {number} of {len(wanted)} is not whole")


def damaged(reason: str) -> ImageError:
    """Return the error for a TIFF that is not whole."""
    return ImageError(f"The file is truncated or damaged: {reason}.")


def needed(header: TiffImagePlugin.TiffImageFile, found: Parts) -> list[int]:
    """Return the bytes of each uncompressed part of a plane."""
    bits = numbers(header.tag_v2.get(BITS, 1))
    samples = 1 if found.planes > 1 else tag(header, SAMPLES, 1)
    row = -(-found.columns * (sum(bits) if len(bits) == samples else bits[0] * samples) // 8)
    if found.tiled:
        return [found.rows * row] * found.count
    height = header.tag_v2[LENGTH]
    return [min(found.rows, height - top) * row for top in range(0, height, found.rows)]


def plain_tiff(data: bytes, header: TiffImagePlugin.TiffImageFile, number: int) -> bytes:
    """Return one plane as a TIFF of grey levels, or of RGB where it has several samples, whatever these mean.

    The data are the same, with a new directory behind them.
    """
    found = parts(header)
    samples = 1 if found.planes > 1 else tag(header, SAMPLES, 1)
    own = slice(number * found.count, (number + 1) * found.count)
    tags = {
        WIDTH: (header.tag_v2[WIDTH],),
        LENGTH: (header.tag_v2[LENGTH],),
        BITS: numbers(header.tag_v2[BITS])[:samples],
        COMPRESSION: (tag(header, COMPRESSION, RAW),),
        PHOTOMETRIC: (GREY if samples == 1 else RGB,),
        SAMPLES: (samples,),
        FILL_ORDER: (tag(header, FILL_ORDER, 1),),
        ORIENTATION: (tag(header, ORIENTATION, 1),),
        PREDICTOR: (tag(header, PREDICTOR, 1),),
        **(
            {TILE_WIDTH: (found.columns,), TILE_LENGTH: (found.rows,), TILE_OFFSETS: found.offsets[own]}
            if found.tiled
            else {ROWS_PER_STRIP: (found.rows,), STRIP_OFFSETS: found.offsets[own]}
        ),
        TILE_BYTES if found.tiled else STRIP_BYTES: found.sizes[own],
    }
    order = "<" if header.tag_v2.prefix == b"II" else ">"
    start = len(data) + len(data) % 2
    return b"".join(
        (
            header.tag_v2.prefix,
            struct.pack(f"{order}HL", 42, start),
            data[8:].ljust(start - 8, b"\0"),
            directory(tags, order, start),
        )
    )


def directory(tags: dict[int, tuple[int, ...]], order: str, start: int) -> bytes:
    """Return an image file directory at position `start`, with 32-bit values and lists of values behind it."""
    entries, lists = b"", b""
    behind = start + 2 + 12 * len(tags) + 4
    for number, values in sorted(tags.items()):
        packed = struct.pack(f"{order}{len(values)}L", *values)
        if len(values) > 1:
            packed, lists = struct.pack(f"{order}L", behind + len(lists)), lists + packed
        entries += struct.pack(f"{order}HHL", number, 4, len(values)) + packed
    return struct.pack(f"{order}H", len(tags)) + entries + struct.pack(f"{order}L", 0) + lists
