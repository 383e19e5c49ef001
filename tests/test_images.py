"""Image files of many kinds, such as those of cameras, scanners and broken downloads, written and read back."""

import io
import os
import struct
import zlib
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from core.data import images
from core.errors import ImageError, SpecError

REAL = Path(os.environ.get("DERMSLIM_REAL_DATA", "../shared/data")) / "ham10000" / "images"


def picture(height=40, width=60):
    """Return smooth BGR colours without symmetry, so that every rotation and channel swap changes them."""
    rows, columns = np.mgrid[0:height, 0:width]
    return np.dstack([40 + 2 * columns, 60 + 3 * rows, 200 - columns - rows]).clip(0, 255).astype(np.uint8)


def saved(image, image_format, **options):
    buffer = io.BytesIO()
    image.save(buffer, image_format, **options)
    return buffer.getvalue()


def rgb(pixels):
    return Image.fromarray(np.ascontiguousarray(pixels[:, :, ::-1]))


def jpeg(pixels=None, quality=100):
    return cv2.imencode(".jpg", picture() if pixels is None else pixels, [cv2.IMWRITE_JPEG_QUALITY, quality])[
        1
    ].tobytes()


def largest_difference(one, other):
    return int(np.abs(one.astype(int) - other.astype(int)).max())


@pytest.mark.parametrize("quality", [40, 95, 100])
def test_a_plain_jpeg_decodes_to_exactly_the_pixels_of_opencv(quality):
    noise = np.random.default_rng(1).integers(0, 256, (45, 61, 3), dtype=np.uint8)
    data = jpeg(noise, quality)
    decoded = images.decode(data)
    assert np.array_equal(decoded, cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR))
    assert decoded.dtype == np.uint8
    assert decoded.flags.c_contiguous


def test_a_path_and_its_bytes_give_the_same_pixels(tmp_path):
    (tmp_path / "a.jpg").write_bytes(jpeg())
    assert np.array_equal(images.decode(tmp_path / "a.jpg"), images.decode(jpeg()))


@pytest.mark.parametrize("image_format", ["PNG", "BMP", "TIFF", "WEBP"])
def test_lossless_formats_return_the_same_pixels(image_format):
    options = {"lossless": True} if image_format == "WEBP" else {}
    assert np.array_equal(images.decode(saved(rgb(picture()), image_format, **options)), picture())


@pytest.mark.parametrize("image_format", ["JPEG", "PNG", "TIFF"])
def test_grey_becomes_three_equal_channels(image_format):
    levels = picture()[:, :, 0]
    decoded = images.decode(saved(Image.fromarray(levels), image_format))
    assert decoded.shape == (40, 60, 3)
    assert np.array_equal(decoded[:, :, 0], decoded[:, :, 2])
    assert largest_difference(decoded[:, :, 1], levels) <= 8


def test_a_cmyk_jpeg_keeps_its_colours():
    decoded = images.decode(saved(rgb(picture()).convert("CMYK"), "JPEG", quality=100))
    assert largest_difference(decoded, picture()) <= 12


def test_a_palette_keeps_its_colours():
    stripes = np.zeros((20, 30, 3), np.uint8)
    stripes[:, 10:20] = (0, 0, 255)
    stripes[:, 20:] = (10, 200, 30)
    data = saved(rgb(stripes).convert("P", palette=Image.Palette.ADAPTIVE, colors=3), "PNG")
    assert np.array_equal(images.decode(data), stripes)


@pytest.mark.parametrize("image_format", ["PNG", "TIFF"])
def test_transparency_is_blended_over_white(image_format):
    alpha = np.zeros((40, 60), np.uint8)
    alpha[:, 20:40] = 128
    alpha[:, 40:] = 255
    picture_with_alpha = rgb(picture()).copy()
    picture_with_alpha.putalpha(Image.fromarray(alpha))
    decoded = images.decode(saved(picture_with_alpha, image_format))
    share = alpha[:, :, None] / 255
    assert (decoded[:, :20] == 255).all()
    assert largest_difference(decoded, np.rint(picture() * share + 255 * (1 - share))) <= 1
    assert np.array_equal(decoded[:, 40:], picture()[:, 40:])


def test_a_transparent_palette_entry_becomes_white():
    indices = Image.fromarray(np.repeat([[0, 1]], 4, axis=0).astype(np.uint8), mode="P")
    indices.putpalette([10, 20, 30, 200, 100, 50])
    decoded = images.decode(saved(indices, "PNG", transparency=0))
    assert decoded[0].tolist() == [[255, 255, 255], [50, 100, 200]]


@pytest.mark.parametrize("extension", [".png", ".tiff"])
@pytest.mark.parametrize("channels", [1, 3])
def test_16_bits_are_scaled_to_8(extension, channels):
    gradient = np.repeat(np.linspace(0, 65535, 600).astype(np.uint16)[None], 4, axis=0)
    stored = gradient if channels == 1 else np.dstack([gradient, gradient[:, ::-1], gradient // 2])
    decoded = images.decode(cv2.imencode(extension, stored)[1].tobytes())
    expected = np.rint(np.atleast_3d(stored) / 257)
    assert np.array_equal(decoded, np.repeat(expected, 3, axis=2) if channels == 1 else expected)


def test_16_bits_with_transparency_are_blended_over_white():
    stored = np.full((4, 6, 4), 20000, np.uint16)
    stored[:, 3:, 3] = 0
    decoded = images.decode(cv2.imencode(".png", stored)[1].tobytes())
    share = 20000 / 65535
    assert (decoded[:, :3] == round(255 * (share * share + 1 - share))).all()
    assert (decoded[:, 3:] == 255).all()


@pytest.mark.parametrize("image_format", ["JPEG", "PNG", "WEBP", "AVIF", "TIFF"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_rotation_is_undone(image_format, orientation):
    turned = {
        1: lambda a: a,
        2: np.fliplr,
        3: lambda a: np.rot90(a, 2),
        4: np.flipud,
        5: lambda a: a.transpose(1, 0, 2),
        6: lambda a: np.rot90(a, -1),
        7: lambda a: np.rot90(a, 2).transpose(1, 0, 2),
        8: np.rot90,
    }[orientation](picture())
    exif = Image.Exif()
    exif[images.EXIF_ORIENTATION] = orientation
    data = saved(rgb(picture()), image_format, exif=exif, **({} if image_format == "PNG" else {"quality": 100}))
    decoded = images.decode(data)
    assert decoded.shape == turned.shape
    assert largest_difference(decoded, turned) <= 16
    information = images.probe(data)
    assert (information.height, information.width) == decoded.shape[:2]
    assert images.check(data) == information


def test_a_16_bit_image_can_be_rotated():
    stored = (picture().astype(np.uint16)) * 257
    exif = Image.Exif()
    exif[images.EXIF_ORIENTATION] = 6
    chunk = b"eXIf" + exif.tobytes().removeprefix(b"Exif\0\0")
    png = cv2.imencode(".png", stored)[1].tobytes()
    header = 8 + 25  # signature and IHDR
    data = (
        png[:header] + struct.pack(">I", len(chunk) - 4) + chunk + struct.pack(">I", zlib.crc32(chunk)) + png[header:]
    )
    assert np.array_equal(images.decode(data), np.rot90(picture(), -1))
    assert images.probe(data) == images.ImageInfo(60, 40, 3, 16, "PNG")


def truncations():
    noise = np.random.default_rng(2).integers(0, 256, (80, 90, 3), dtype=np.uint8)
    thumbnail = Image.Exif()
    thumbnail[0x010E] = jpeg().decode("latin-1")  # a thumbnail with its own end marker, inside the header
    files = {
        "jpeg": jpeg(noise),
        "progressive": saved(rgb(noise), "JPEG", progressive=True, quality=95),
        "thumbnail": saved(rgb(noise), "JPEG", quality=95, comment=jpeg(), exif=thumbnail),
        "png": saved(rgb(noise), "PNG"),
        "webp": saved(rgb(noise), "WEBP"),
        "avif": saved(rgb(noise), "AVIF"),
        "bmp": saved(rgb(noise), "BMP"),
        "tiff": saved(rgb(noise), "TIFF"),
        "png16": cv2.imencode(".png", noise.astype(np.uint16) * 257)[1].tobytes(),
    }
    for name, data in files.items():
        for part, length in {"half": len(data) // 2, "nearly whole": len(data) - 40, "a few bytes": 9}.items():
            yield pytest.param(data[:length], id=f"{name}, {part}")
        if name in ("jpeg", "progressive"):
            yield pytest.param(data[:-2], id=f"{name}, end mark missing")
            yield pytest.param(data[: len(data) // 2].ljust(len(data), b"\0"), id=f"{name}, second half zeros")


@pytest.mark.parametrize("data", list(truncations()))
def test_a_truncated_file_raises_an_error(data):
    with pytest.raises(ImageError):
        images.decode(data)
    with pytest.raises(ImageError):
        images.check(data)


def test_bytes_after_the_end_marker_are_ignored():
    assert np.array_equal(images.decode(jpeg() + b"\0trailer" * 9), images.decode(jpeg()))
    assert images.check(jpeg() + b"\0trailer" * 9).format == "JPEG"


def test_the_first_picture_of_a_multi_picture_jpeg_is_decoded():
    data = saved(rgb(picture()), "MPO", save_all=True, append_images=[rgb(255 - picture())], quality=95)
    assert images.probe(data).format == "MPO"
    assert largest_difference(images.decode(data), picture()) <= 8


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "empty"),
        (b"hello, this is a letter", "Expected an image"),
        (b"\xff\xd8\xff", "image|truncated"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n", "Expected an image"),
    ],
)
def test_a_file_that_is_not_an_image_is_refused_with_a_reason(data, words):
    with pytest.raises(ImageError, match=words):
        images.decode(data)
    with pytest.raises(ImageError, match=words):
        images.probe(data)


def test_a_missing_file_and_a_folder_are_refused_with_a_reason(tmp_path):
    with pytest.raises(ImageError, match="does not exist"):
        images.decode(tmp_path / "absent.jpg")
    with pytest.raises(ImageError, match="cannot be read"):
        images.decode(tmp_path)


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
@pytest.mark.parametrize("side", [10_001, 40_000])
def test_a_decompression_bomb_is_refused_from_its_header(side):
    header = b"IHDR" + struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    chunk = struct.pack(">I", 13) + header + struct.pack(">I", zlib.crc32(header))
    bomb = b"\x89PNG\r\n\x1a\n" + chunk + b"\0\0\0\0IEND\xaeB`\x82"
    with pytest.raises(ImageError, match="at most 100,000,000 pixels"):
        images.decode(bomb)


def test_probe_returns_channels_and_bits():
    assert images.probe(jpeg()) == images.ImageInfo(40, 60, 3, 8, "JPEG")
    grey = saved(Image.fromarray(picture()[:, :, 0]), "PNG")
    assert images.probe(grey) == images.ImageInfo(40, 60, 1, 8, "PNG")
    deep = cv2.imencode(".tiff", picture().astype(np.uint16))[1].tobytes()
    assert images.probe(deep) == images.ImageInfo(40, 60, 3, 16, "TIFF")


@pytest.mark.parametrize("codec", images.CODECS)
def test_decode_reads_the_files_of_every_codec(codec):
    decoded = images.decode(images.encode(picture(), codec, None))
    assert largest_difference(decoded, picture()) <= (0 if images.CODECS[codec].qualities is None else 12)


def test_jpeg_equals_the_output_of_opencv():
    assert images.encode(picture(), "jpeg", 95) == jpeg(quality=95)
    assert images.encode(picture(), "jpeg", None) == jpeg(quality=95)
    assert images.encode(picture(), "jpeg", 75) == jpeg(quality=75)


@pytest.mark.parametrize("codec", ["jpeg", "webp", "avif"])
def test_a_lossy_codec_loses_something_at_every_quality(codec):
    noise = np.random.default_rng(3).integers(0, 256, (40, 60, 3), dtype=np.uint8)
    qualities = images.CODECS[codec].qualities
    sizes = [len(images.encode(noise, codec, quality)) for quality in (qualities[0], 50, qualities[-1])]
    assert sizes == sorted(sizes)
    assert largest_difference(images.decode(images.encode(noise, codec, qualities[-1])), noise) > 0


@pytest.mark.parametrize(
    ("codec", "quality"),
    [("gif", None), ("jpeg", 101), ("jpeg", -1), ("webp", 0), ("avif", 100), ("png", 95), ("jpeg", 9.5)],
)
def test_an_unknown_codec_or_quality_raises_a_spec_error(codec, quality):
    with pytest.raises(SpecError, match=", got "):
        images.encode(picture(), codec, quality)


def test_pixels_of_another_shape_cannot_be_encoded():
    with pytest.raises(ImageError, match="Expected uint8"):
        images.encode(picture().astype(float), "png", None)
    with pytest.raises(ImageError, match="Expected uint8"):
        images.encode(picture()[:, :, 0], "png", None)


def test_an_image_too_wide_for_webp_raises_an_image_error():
    with pytest.raises(ImageError, match="webp cannot encode"):
        images.encode(np.zeros((1, 17_000, 3), np.uint8), "webp", None)


@pytest.mark.parametrize("codec", images.CODECS)
def test_every_codec_can_encode_and_decode_a_single_pixel(codec):
    assert images.decode(images.encode(np.full((1, 1, 3), 77, np.uint8), codec, None)).shape == (1, 1, 3)


def test_resize_averages_pixel_areas():
    blocks = np.kron(np.arange(6).reshape(2, 3) * 40, np.ones((5, 5)))[:, :, None].repeat(3, axis=2).astype(np.uint8)
    assert images.resize(blocks, 2, 3)[:, :, 0].tolist() == [[0, 40, 80], [120, 160, 200]]
    assert images.resize(picture(), 20, 90).shape == (20, 90, 3)
    with pytest.raises(SpecError, match="0×5"):
        images.resize(picture(), 0, 5)


def test_grey_uses_opencvs_weights():
    weighted = picture() @ np.array([0.114, 0.587, 0.299])
    assert largest_difference(images.grey(picture()), np.rint(weighted)) <= 1


@pytest.mark.real_data
@pytest.mark.skipif(not REAL.is_dir(), reason="the real HAM10000 originals are not here")
def test_real_originals_decode_as_opencv_does():
    for path in sorted(REAL.glob("*.jpg"))[::60]:
        assert np.array_equal(images.decode(path), cv2.imread(str(path)))
        assert images.probe(path) == images.ImageInfo(450, 600, 3, 8, "JPEG")
