"""Decode, check and encode image files.

Pillow decodes files from outside: its JPEG pixels equal OpenCV's, it reads CMYK, EXIF rotation in AVIF and
transparency, which OpenCV does not, and it writes nothing to the terminal. Neither detects every truncated or damaged
file, so `examine` runs first. OpenCV encodes, and decodes its own files and 16-bit colours.
"""

from __future__ import annotations

import io
import logging
import os
import stat
import struct
import warnings
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import cast

import cv2
import numpy as np
import numpy.typing as npt
from PIL import Image, ImageFile, TiffImagePlugin, UnidentifiedImageError

from core.data import tiff_parts as tiff
from core.data.jpeg_scans import check_scans, first_scan
from core.errors import ImageError, SpecError

Header = ImageFile.ImageFile
Pixels = npt.NDArray[np.uint8]  # (H, W, 3), BGR, C-contiguous
Deep = npt.NDArray[np.uint16]

MAX_PIXELS = 100_000_000
MAX_BYTES = 600_000_000  # of a file: MAX_PIXELS of uncompressed 16-bit colour
BLOCK = 256  # rows of 16 bits that are converted to 8 at once
EXTENSIONS = (".jpg", ".jpeg", ".png", ".webp", ".avif", ".tif", ".tiff", ".bmp")
FORMATS = ("JPEG", "PNG", "WEBP", "AVIF", "TIFF", "BMP")  # a phone's JPEG followed by others opens as "MPO"

for _format in ("Avif", "Bmp", "Jpeg", "Png", "Tiff", "WebP"):  # each plugin registers a format of FORMATS
    import_module(f"PIL.{_format}ImagePlugin")

# Pillow's own guard against decompression bombs, for other code in this process.
Image.MAX_IMAGE_PIXELS = MAX_PIXELS

# Exceptions of Pillow's decoders for damaged files.
DAMAGED = (OSError, SyntaxError, ValueError, EOFError, LookupError, TypeError, RuntimeError, struct.error)

# ImageError describes a damaged file; a warning would reach the terminal without the file's name.
warnings.filterwarnings("ignore", module=r"PIL\.")
logging.getLogger("PIL").addHandler(logging.NullHandler())
logging.getLogger("PIL").propagate = False
cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)  # errors are raised too

EXIF_ORIENTATION = 0x0112
JPEGS = ("JPEG", "MPO")
JPEG_BEGINS = b"\xff\xd8\xff"
TIFF_BEGINS = tuple(TiffImagePlugin.PREFIXES)
MODES = ("1", "L", "LA", "La", "P", "PA", "RGB", "RGBA", "RGBa", "CMYK", "YCbCr", "I;16", "I;16B")  # supported
BITS_READ = (1, 2, 4, 8, 12, 16)
UPRIGHT = {  # EXIF orientation -> rotation of the stored pixels
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


@dataclass(frozen=True)
class ImageInfo:
    """The facts of a file's header; height and width after EXIF rotation."""

    height: int
    width: int
    channels: int
    bits: int
    format: str


@dataclass(frozen=True)
class Codec:
    """One way of storing an image.

    qualities: the possible qualities; None for a lossless codec. flag: OpenCV's name of the quality. further: OpenCV's
    other parameters.
    """

    name: str
    extension: str
    qualities: range | None = None
    default_quality: int | None = None
    flag: int = 0
    further: tuple[int, ...] = ()


CODECS: Mapping[str, Codec] = {
    codec.name: codec
    for codec in (
        Codec("jpeg", ".jpg", range(0, 101), 95, cv2.IMWRITE_JPEG_QUALITY),
        Codec("png", ".png"),
        Codec("webp", ".webp", range(1, 101), 90, cv2.IMWRITE_WEBP_QUALITY),
        # 100 would silently switch OpenCV's AVIF encoder to a lossless 4:4:4 file. libavif's default speed is 6;
        # OpenCV's own default of 9 is quicker and gives a rival 5 % more bytes.
        Codec("avif", ".avif", range(0, 100), 80, cv2.IMWRITE_AVIF_QUALITY, (cv2.IMWRITE_AVIF_SPEED, 6)),
    )
}


def decode(source: Path | bytes, *, own: bool = False) -> Pixels:
    """Decode an image file to 8-bit BGR pixels (H, W, 3), upright.

    Equal to `cv2.imdecode(..., IMREAD_COLOR)` for 8-bit JPEG without EXIF rotation. Transparency is blended over
    white, 16 bits are scaled to 8, the first of several frames is decoded, colour profiles are ignored.
    own: bytes from `encode`, which need no check.
    Raises ImageError for a file that is not an image, truncated, damaged or larger than `MAX_PIXELS`.
    """
    data = read(source)
    if own and data.startswith(JPEG_BEGINS):
        return as_pixels(cast("Pixels", cv2.imdecode(np.frombuffer(data, dtype=np.uint8), cv2.IMREAD_COLOR)))
    header = open_header(data)
    examine(data, header)
    return pixels(data, header)


def probe(source: Path | bytes) -> ImageInfo:
    """Read an image file's header and check that its end exists, without decoding. Raises ImageError."""
    data = read(source)
    return info(data, open_header(data))


def check(source: Path | bytes) -> ImageInfo:
    """Decode a file to its end; JPEG at an eighth of its size, to save memory.

    Raises ImageError where `decode` would.
    """
    data = read(source)
    header = open_header(data)
    found = info(data, header)
    examine(data, header)
    if header.format in JPEGS:
        header.draft("RGB", (max(1, header.width // 8), max(1, header.height // 8)))
        load(header)
    else:
        pixels(data, header)
    return found


def encode(image: Pixels, codec: str, quality: int | None = None) -> bytes:
    """Encode BGR pixels (H, W, 3) with a codec of `CODECS`; a `quality` of None means the codec's default.

    JPEG is OpenCV's default at that quality, 4:2:0. Raises SpecError for an unknown codec or quality and ImageError for
    pixels that the codec cannot encode.
    """
    level = quality_of(codec, quality)
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or image.size == 0:
        raise ImageError(f"Expected uint8 pixels (H, W, 3), got {image.dtype} of shape {image.shape}.")
    chosen = CODECS[codec]
    parameters = [] if level is None else [chosen.flag, level, *chosen.further]
    try:
        written, encoded = cv2.imencode(chosen.extension, image, parameters)
    except cv2.error as error:
        raise ImageError(f"{codec} cannot encode an image of {image.shape[0]}×{image.shape[1]}: {error}") from error
    if not written:
        raise ImageError(f"{codec} cannot encode an image of {image.shape[0]}×{image.shape[1]}.")
    return encoded.tobytes()


def encode_original(image: Pixels) -> bytes:
    """Encode like HAM10000's originals: JPEG quality 100, colour not subsampled (4:4:4)."""
    full_colour = [cv2.IMWRITE_JPEG_SAMPLING_FACTOR, cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444]
    return cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, 100, *full_colour])[1].tobytes()


def quality_of(codec: str, quality: int | None) -> int | None:
    """Return the quality that a codec will use: its default for None, None for a lossless codec. SpecError."""
    if codec not in CODECS:
        raise SpecError(f"Expected codec to be one of {', '.join(CODECS)}, got {codec!r}.")
    allowed = CODECS[codec].qualities
    if quality is None:
        return CODECS[codec].default_quality
    if allowed is None:
        raise SpecError(f"Expected no quality for {codec}, which is lossless, got {quality}.")
    if isinstance(quality, bool) or not isinstance(quality, int) or quality not in allowed:
        raise SpecError(
            f"Expected quality of {codec} to be a whole number from {allowed[0]} to {allowed[-1]}, got {quality}."
        )
    return quality


def resize(image: Pixels, height: int, width: int) -> Pixels:
    """Resize to (height, width) by area interpolation; the pixels stay the same where the size does."""
    if height < 1 or width < 1:
        raise SpecError(f"Expected a size of at least 1×1, got {height}×{width}.")
    return as_pixels(cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA))


def grey(image: Pixels) -> npt.NDArray[np.uint8]:
    """Convert BGR pixels (H, W, 3) to grey levels (H, W) with OpenCV's weights (0.299 R + 0.587 G + 0.114 B)."""
    return np.asarray(cv2.cvtColor(image, cv2.COLOR_BGR2GRAY), dtype=np.uint8)


def as_pixels(array: npt.ArrayLike) -> Pixels:
    """Return the array as C-contiguous uint8, copied only where needed."""
    return np.ascontiguousarray(array, dtype=np.uint8)


def read(source: Path | bytes, *, inside: Collection[Path] = ()) -> bytes:
    """Return the bytes of a file, or the bytes given. Raises ImageError for no bytes or more than `MAX_BYTES`.

    inside: folders of which one must contain the resolved file; empty for any. The opened file is checked, so a link
    that replaces the file meanwhile has no effect.
    """
    if isinstance(source, bytes):
        data = source
    else:
        try:
            # Non-blocking, because opening a pipe would otherwise wait for a writer.
            with os.fdopen(os.open(source, os.O_RDONLY | os.O_NONBLOCK), "rb") as file:
                facts = os.fstat(file.fileno())
                if not stat.S_ISREG(facts.st_mode):
                    raise ImageError("The file cannot be read: it is a folder, device, socket or pipe.")
                if inside and not is_inside(opened_path(file.fileno(), source), inside):
                    raise ImageError("The path lies outside the folders that may be read.")
                if facts.st_size > MAX_BYTES:
                    raise ImageError(f"Expected a file of at most {MAX_BYTES:,} bytes, got {facts.st_size:,}.")
                data = file.read(MAX_BYTES)
        except FileNotFoundError:
            raise ImageError("The file does not exist.") from None
        except (OSError, ValueError) as error:  # ValueError: a NUL character in the path
            reason = getattr(error, "strerror", None) or str(error)
            raise ImageError(f"The file cannot be read: {reason}.") from error
    if not data:
        raise ImageError("The file is empty (0 bytes).")
    return data


def opened_path(descriptor: int, path: Path) -> Path:
    """Return the real path of an open file: the kernel's where it is known, else the resolved path."""
    link = Path(f"/proc/self/fd/{descriptor}")
    return link.readlink() if link.is_symlink() else Path(path).resolve()


def is_inside(path: Path, folders: Collection[Path]) -> bool:
    """Return whether a resolved path is inside one of the folders."""
    return any(path.is_relative_to(folder.resolve()) for folder in folders)


def open_header(data: bytes) -> Header:
    """Parse the header. Raises ImageError where it is not an image, has too many pixels or lacks its end."""
    try:
        header = Image.open(io.BytesIO(data), formats=FORMATS)
    except UnidentifiedImageError:
        if data.startswith(TIFF_BEGINS):
            raise ImageError("The TIFF file is damaged or of an unsupported kind.") from None
        raise ImageError(f"Expected an image ({', '.join(FORMATS)}), got other content.") from None
    except Image.DecompressionBombError:
        raise ImageError(f"Expected at most {MAX_PIXELS:,} pixels, got more than twice that.") from None
    except DAMAGED as error:
        raise ImageError(f"The header cannot be read; the file is damaged or truncated: {error}.") from error
    if header.width * header.height > MAX_PIXELS:
        raise ImageError(f"Expected at most {MAX_PIXELS:,} pixels, got {header.height}×{header.width}.")
    if not has_end(data, header.format):
        raise ImageError(f"The file is truncated: its end is missing after {len(data):,} bytes.")
    return header


def has_end(data: bytes, image_format: str | None) -> bool:
    """Return whether the format's end marker exists; True for formats without a simple one."""
    match image_format:
        case "JPEG" | "MPO":
            # Searched from the first scan on, because an EXIF thumbnail has an end marker too.
            return data.find(b"\xff\xd9", first_scan(data)) >= 0
        case "PNG":
            return b"IEND" in data
        case "WEBP":
            return len(data) >= 8 + int.from_bytes(data[4:8], "little")
    return True


def info(data: bytes, header: Header) -> ImageInfo:
    """Return the facts of the header, upright."""
    height, width = header.height, header.width
    # Pillow already swaps the sides of a rotated TIFF
    if header.format != "TIFF" and orientation(header) in (5, 6, 7, 8):
        height, width = width, height
    channels = 3 if header.mode == "P" else len(header.getbands())
    return ImageInfo(height, width, channels, bits(data, header), header.format or "")


def orientation(header: Header) -> int:
    """Return the EXIF orientation, 1 to 8; 1 when absent or damaged."""
    try:
        found = header.getexif().get(EXIF_ORIENTATION, 1)
    except DAMAGED:
        return 1
    return found if found in UPRIGHT else 1


def bits(data: bytes, header: Header) -> int:
    """Return the stored bits per channel; Pillow's mode does not show the 16 bits of a colour PNG or TIFF."""
    if header.format == "PNG":
        return data[24]
    if isinstance(header, TiffImagePlugin.TiffImageFile):
        return max(tiff.numbers(header.tag_v2.get(tiff.BITS, 1)))
    return 16 if header.mode.startswith("I;16") else 8


def examine(data: bytes, header: Header) -> None:
    """Raise ImageError where the decoders would return wrong pixels silently: truncated, damaged, unsupported."""
    if header.mode in ("I", "F") or bits(data, header) not in BITS_READ:
        raise ImageError(f"Expected unsigned integers of at most 16 bits per channel, got mode {header.mode}.")
    if header.mode not in MODES:
        raise ImageError(f"Expected colours, grey levels or a palette, got {header.mode}.")
    if header.format in JPEGS:
        check_scans(data)
    elif isinstance(header, TiffImagePlugin.TiffImageFile):
        tiff.check_parts(data, header)
    elif header.format == "PNG":  # the decoder ignores the checksums
        try:
            open_header(data).verify()
        except DAMAGED as error:
            raise ImageError(f"The file is truncated or damaged: {error}.") from error


def load(header: Header) -> Header:
    """Decode in place. Raises ImageError."""
    try:
        with tiff.strict_libtiff():
            header.load()
    except DAMAGED as error:
        raise ImageError(f"The file is truncated or damaged: {error}.") from error
    return header


def pixels(data: bytes, header: Header) -> Pixels:
    """Decode an examined file to BGR pixels, upright."""
    # Pillow rotates a TIFF itself
    turn = None if header.format == "TIFF" else UPRIGHT.get(orientation(header))
    picture = as_8_bits(data, header) if bits(data, header) > 8 else load(header)
    return blend(picture if turn is None else picture.transpose(turn))


def as_8_bits(data: bytes, header: Header) -> Image.Image:
    """Scale 12 or 16 bits per channel to 8 by v·255/65535, rounded; blend transparency over white before."""
    stored = deep_channels(data, header)
    top = (1 << bits(data, header)) - 1
    premultiplied = False
    if isinstance(header, TiffImagePlugin.TiffImageFile):
        premultiplied = tiff.tag(header, tiff.EXTRA_SAMPLES, 0) == tiff.ASSOCIATED
        if tiff.tag(header, tiff.PHOTOMETRIC, tiff.WHITE_IS_ZERO) == tiff.WHITE_IS_ZERO:
            stored = np.subtract(top, stored, dtype=np.uint16)
    clear = header.info.get("transparency")
    colours = 4 if header.mode == "CMYK" else 1 if stored.shape[2] < 3 else 3
    image = np.empty((*stored.shape[:2], colours), np.uint8)
    for row in range(0, len(stored), BLOCK):  # in blocks, because floats take eight times the memory
        block = stored[row : row + BLOCK]
        colour, alpha = block[:, :, :colours] / top, block[:, :, colours:] / top
        if clear is not None:  # a single transparent colour
            alpha = (block != np.asarray(clear)).any(axis=2, keepdims=True).astype(float)
        if alpha.shape[2]:
            colour = (colour if premultiplied else colour * alpha) + (1.0 - alpha)
        image[row : row + BLOCK] = np.rint(np.clip(colour, 0.0, 1.0) * 255.0)
    return Image.fromarray(image[:, :, 0] if colours == 1 else image, mode="CMYK" if colours == 4 else None)


def deep_channels(data: bytes, header: Header) -> Deep:
    """Return the stored numbers (H, W, channels), colours then alpha; a TIFF's upright."""
    if header.mode.startswith("I;16"):
        return np.atleast_3d(np.asarray(load(header))).astype(np.uint16, copy=False)
    if not isinstance(header, TiffImagePlugin.TiffImageFile):
        stored = sixteen_bits(data)
        return stored[:, :, 2:] if header.mode == "LA" else stored[:, :, : len(header.getbands())]
    try:
        files = [tiff.plain_tiff(data, header, number) for number in range(tiff.parts(header).planes)]
    except DAMAGED as error:
        raise ImageError(f"The file is truncated or damaged: {error}.") from error
    return np.dstack([sixteen_bits(file) for file in files])[:, :, : len(header.getbands())]


def sixteen_bits(data: bytes) -> Deep:
    """Decode 16-bit channels with OpenCV, because Pillow keeps 8 bits of a colour. Raises ImageError.

    OpenCV repeats the grey levels of a PNG with transparency, and reads neither ink nor separate planes of a TIFF.
    """
    found = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    if found is None or found.dtype != np.uint16:
        raise ImageError("The file is truncated or damaged: its 16 bits per channel cannot be decoded to their end.")
    stored = np.atleast_3d(found)
    return cast("Deep", stored if stored.shape[2] == 1 else stored[:, :, np.array([2, 1, 0, 3])[: stored.shape[2]]])


def blend(picture: Image.Image) -> Pixels:
    """Return the picture's BGR pixels, with transparency blended over white."""
    try:
        if picture.has_transparency_data:
            coloured = picture.convert("LA" if picture.mode == "La" else "RGBA").convert("RGBA")
            white = Image.new("RGBA", coloured.size, "white")
            picture = Image.alpha_composite(white, coloured)
        rgb = picture if picture.mode == "RGB" else picture.convert("RGB")
    except DAMAGED as error:
        raise ImageError(f"The file's colours cannot be read: {error}.") from error
    return as_pixels(cv2.cvtColor(np.asarray(rgb), cv2.COLOR_RGB2BGR))
