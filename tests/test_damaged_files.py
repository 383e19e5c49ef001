"""Truncated, damaged and unusual files: each gives the correct pixels or an error, and prints nothing."""

from __future__ import annotations

import io
import random
from collections.abc import Iterator

import cv2
import numpy as np
import numpy.typing as npt
import pytest
import tifffile
from PIL import Image

from core.data.images import check, decode, probe
from core.errors import ImageError

END = b"\xff\xd9"
COLOUR = cv2.resize(np.random.default_rng(5).integers(0, 256, (6, 8, 3), dtype=np.uint8), (72, 56))
GREY = cv2.cvtColor(COLOUR, cv2.COLOR_RGB2GRAY)
ALPHA = cv2.resize(np.random.default_rng(6).integers(0, 256, (6, 8), dtype=np.uint8), (72, 56))


def saved(image: Image.Image, image_format: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, image_format, **options)
    return buffer.getvalue()


def noisy() -> Image.Image:
    noise = np.random.default_rng(7).integers(-20, 20, COLOUR.shape)
    return Image.fromarray(np.clip(COLOUR + noise, 0, 255).astype(np.uint8))


def jpegs() -> dict[str, bytes]:
    colours = noisy()
    options: dict[str, dict[str, object]] = {
        "4:2:0": {"subsampling": 2},
        "4:2:2": {"subsampling": 1},
        "4:4:4": {"subsampling": 0, "quality": 100},
        "own tables": {"optimize": True},
        "progressive": {"progressive": True},
        "progressive 4:4:4": {"progressive": True, "subsampling": 0, "quality": 95},
        "restarts": {"restart_marker_blocks": 3},
        "progressive restarts": {"progressive": True, "restart_marker_rows": 1},
    }
    files = {name: saved(colours, "JPEG", **each) for name, each in options.items()}
    files["grey"] = saved(colours.convert("L"), "JPEG")
    files["cmyk"] = saved(colours.convert("CMYK"), "JPEG")
    opencv = [cv2.IMWRITE_JPEG_SAMPLING_FACTOR, cv2.IMWRITE_JPEG_SAMPLING_FACTOR_411]
    files["OpenCV 4:1:1"] = cv2.imencode(".jpg", np.asarray(colours), opencv)[1].tobytes()
    return files


JPEGS = jpegs()


def refused(data: bytes) -> bool:
    """Return whether `check` and `decode` refuse the data; they must agree."""
    reasons = []
    for function in (check, decode):
        try:
            function(data)
        except ImageError as error:
            reasons.append(error)
    assert len(reasons) != 1, reasons
    return bool(reasons)


@pytest.mark.parametrize("name", JPEGS)
def test_an_intact_jpeg_decodes_to_the_pixels_of_opencv(name: str) -> None:
    data = JPEGS[name]
    assert not refused(data)
    if name != "cmyk":
        assert np.array_equal(decode(data), cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR))


@pytest.mark.parametrize("name", JPEGS)
def test_a_truncated_jpeg_with_an_end_marker_is_an_error(name: str) -> None:
    data = JPEGS[name]
    first_scan = data.index(b"\xff\xda")
    for cut in np.linspace(first_scan + 20, len(data) - 3, 40).astype(int):
        assert refused(data[:cut] + END), f"cut at {cut} of {len(data)}"


def test_a_progressive_jpeg_without_its_last_scans_is_an_error() -> None:
    data = JPEGS["progressive"]
    scans = [place for place in range(len(data)) if data.startswith(b"\xff\xda", place)]
    assert len(scans) > 4
    for place in scans[1:]:
        tables = data.rfind(b"\xff\xc4", scans[0], place)
        assert refused(data[: tables if tables > 0 else place] + END)


def test_a_missing_restart_marker_is_an_error() -> None:
    data = JPEGS["restarts"]
    place = data.index(b"\xff\xd2")
    assert refused(data[:place] + data[place + 2 :])


def test_padding_before_the_end_marker_is_accepted_and_other_data_are_an_error() -> None:
    data = JPEGS["4:2:0"]
    assert np.array_equal(decode(data[:-2] + bytes(16) + END), decode(data))
    assert refused(data[:-2] + data[-500:-300] + END)


def test_a_jpeg_without_huffman_tables_is_decoded_with_the_standard_tables() -> None:
    data = cv2.imencode(".jpg", COLOUR)[1].tobytes()
    bare = data
    while (place := bare.find(b"\xff\xc4")) > 0:
        bare = bare[:place] + bare[place + 2 + int.from_bytes(bare[place + 2 : place + 4], "big") :]
    assert len(bare) < len(data) - 300
    assert np.array_equal(decode(bare), decode(data))
    assert refused(bare[: len(bare) * 2 // 3] + END)


def tiff(pixels: npt.NDArray[np.generic], **options: object) -> bytes:
    buffer = io.BytesIO()
    tifffile.imwrite(buffer, pixels, **options)
    return buffer.getvalue()


def planes(pixels: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    return np.moveaxis(pixels, 2, 0)


def over_white(colours: npt.NDArray[np.uint8], alpha: npt.NDArray[np.uint8]) -> npt.NDArray[np.float64]:
    share = alpha[..., None] / 255
    return np.rint(colours * share + 255 * (1 - share))


MULTIPLIED = np.rint(COLOUR * (ALPHA[..., None] / 255)).astype(np.uint8)
INK = np.dstack([255 - COLOUR, np.zeros_like(GREY)])
RGBA = np.dstack([COLOUR, ALPHA])
TIFFS = {  # stored 8-bit pixels, how they are stored, and the colours that they mean
    "colours": (COLOUR, {"photometric": "rgb"}, COLOUR),
    "separate planes": (planes(COLOUR), {"photometric": "rgb", "planarconfig": "separate"}, COLOUR),
    "grey": (GREY, {"photometric": "minisblack"}, np.dstack([GREY] * 3)),
    "white is zero": (255 - GREY, {"photometric": "miniswhite"}, np.dstack([GREY] * 3)),
    "ink": (INK, {"photometric": "separated", "extrasamples": ()}, COLOUR),
    "planes of ink": (
        planes(INK),
        {"photometric": "separated", "planarconfig": "separate", "extrasamples": ()},
        COLOUR,
    ),
    "alpha": (RGBA, {"photometric": "rgb", "extrasamples": ("unassalpha",)}, over_white(COLOUR, ALPHA)),
    "a plane of alpha": (
        planes(RGBA),
        {"photometric": "rgb", "planarconfig": "separate", "extrasamples": ("unassalpha",)},
        over_white(COLOUR, ALPHA),
    ),
    "alpha multiplied in": (
        np.dstack([MULTIPLIED, ALPHA]),
        {"photometric": "rgb", "extrasamples": ("assocalpha",)},
        np.clip(MULTIPLIED + 255.0 - ALPHA[..., None], 0, 255),
    ),
    "a channel of something": (RGBA, {"photometric": "rgb", "extrasamples": ("unspecified",)}, COLOUR),
}
STORAGE = {
    "whole": {},
    "strips": {"rowsperstrip": 9},
    "tiles, packed": {"tile": (16, 32), "compression": "zlib", "predictor": True},
    "packed": {"compression": "zlib"},
}


@pytest.mark.parametrize("byteorder", "<>")
@pytest.mark.parametrize("storage", STORAGE)
@pytest.mark.parametrize("name", TIFFS)
def test_a_tiff_with_sixteen_bits_has_the_pixels_of_one_with_eight_bits(
    name: str, storage: str, byteorder: str
) -> None:
    stored, options, meant = TIFFS[name]
    found = {}
    for deep in (False, True):
        pixels = stored.astype(np.uint16) * 257 if deep else stored
        data = tiff(pixels, **options, **STORAGE[storage], byteorder=byteorder)
        if not refused(data):
            found[deep] = decode(data)[:, :, ::-1].astype(float)
    for pixels in found.values():
        assert np.abs(pixels - meant).max() <= 1
    rare = name == "white is zero" and byteorder == ">"  # Pillow refuses this in 16 bits
    assert len(found) == (1 if rare else 2)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_separate_planes_of_sixteen_bits_are_rotated(orientation: int) -> None:
    turned = [(274, "H", 1, orientation, False)]
    deep = planes(COLOUR).astype(np.uint16) * 257
    data = tiff(deep, photometric="rgb", planarconfig="separate", extratags=turned)
    eight = tiff(COLOUR, photometric="rgb", extratags=turned)
    assert np.array_equal(decode(data), decode(eight))
    assert (check(data).height, check(data).width) == decode(data).shape[:2]


def test_all_16_bits_are_read() -> None:
    deep = np.random.default_rng(8).integers(0, 65536, (40, 50, 3)).astype(np.uint16)
    expected = np.rint(deep / 257)
    assert np.array_equal(decode(tiff(deep, photometric="rgb"))[:, :, ::-1], expected)
    assert np.array_equal(decode(cv2.imencode(".png", deep)[1].tobytes()), expected)
    assert np.array_equal(decode(cv2.imencode(".tif", deep)[1].tobytes()), expected)


@pytest.mark.parametrize("kind", ["int8", "int16", "int32", "uint32", "float16", "float32"])
@pytest.mark.parametrize("byteorder", "<>")
def test_signed_and_floating_point_pixels_are_refused(kind: str, byteorder: str) -> None:
    assert refused(tiff(GREY.astype(kind), photometric="minisblack", byteorder=byteorder))


def test_colours_that_pillow_cannot_convert_to_rgb_are_refused() -> None:
    assert refused(tiff(COLOUR, photometric="cielab"))


def test_a_tiff_with_missing_strips_or_data_is_refused() -> None:
    data = tiff(COLOUR, photometric="rgb", rowsperstrip=8)
    assert not refused(data)
    assert refused(data[:-100])
    with tifffile.TiffFile(io.BytesIO(data)) as file:
        entry = file.pages[0].tags["StripOffsets"].offset  # 12 bytes: code, type, count, place
    fewer = bytearray(data)
    fewer[entry + 4] -= 2
    assert refused(bytes(fewer))


def test_a_jpeg_inside_a_tiff_is_checked_too() -> None:
    data = saved(noisy(), "TIFF", compression="jpeg")
    assert not refused(data)
    with tifffile.TiffFile(io.BytesIO(data)) as file:
        offset, length = file.pages[0].dataoffsets[0], file.pages[0].databytecounts[0]
    half = bytearray(data)
    half[offset + length // 2 : offset + length] = END.ljust(length - length // 2, b"\0")
    assert refused(bytes(half))


def test_a_png_with_a_wrong_checksum_is_refused() -> None:
    data = bytearray(saved(noisy(), "PNG"))
    data[len(data) // 2] ^= 1
    assert refused(bytes(data))


def corpus() -> dict[str, bytes]:
    colours = noisy()
    exif = Image.Exif()
    exif[0x0112] = 6
    deep = COLOUR.astype(np.uint16) * 257
    return {
        **JPEGS,
        "mpo": saved(colours, "MPO", save_all=True, append_images=[colours]),
        "png": saved(colours, "PNG", exif=exif),
        "palette": saved(colours.quantize(20), "PNG", transparency=3),
        "png16": cv2.imencode(".png", deep)[1].tobytes(),
        "webp": saved(colours, "WEBP", exif=exif),
        "avif": saved(colours, "AVIF", exif=exif),
        "bmp": saved(colours, "BMP"),
        **{
            f"tiff {kind}": saved(colours, "TIFF", compression=kind) for kind in ("raw", "tiff_lzw", "packbits", "jpeg")
        },
        "tiff fax": saved(colours.convert("1"), "TIFF", compression="group4"),
        "tiff16": tiff(deep, photometric="rgb", rowsperstrip=9, compression="zlib"),
        "tiff16 planes": tiff(planes(COLOUR).astype(np.uint16), photometric="rgb", planarconfig="separate"),
    }


def mutations(data: bytes, generator: random.Random, count: int) -> Iterator[bytes]:
    """Yield changed data: flipped bits, changed header bytes, truncated, a part removed or overwritten with zeros."""
    for number in range(count):
        changed, place = bytearray(data), generator.randrange(len(data))
        match number % 5:
            case 0:
                changed[place] ^= 1 << generator.randrange(8)
            case 1:
                changed[generator.randrange(min(300, len(data)))] = generator.choice((0, 1, 127, 255))
            case 2:
                del changed[place:]
                changed += END if data.startswith(b"\xff\xd8") else b""
            case 3:
                del changed[place : place + generator.randrange(1, 400)]
            case 4:
                length = min(generator.randrange(1, 64), len(data) - place)
                changed[place : place + length] = bytes(length)
        yield bytes(changed)


@pytest.mark.filterwarnings("ignore:.*:UserWarning")  # pytest shows warnings that are otherwise suppressed
def test_check_and_decode_agree_on_every_damaged_file_and_print_nothing(
    capfd: pytest.CaptureFixture[str],
) -> None:
    generator, accepted = random.Random(9), 0
    for name, data in corpus().items():
        assert not refused(data), name
        for changed in mutations(data, generator, 30):
            if not refused(changed):
                accepted += 1
                found = check(changed)
                assert (found.height, found.width) == decode(changed).shape[:2], name
                assert probe(changed) == found, name
    assert capfd.readouterr() == ("", "")
    assert 50 < accepted < 600
