"""Files that are built to use much memory or time: each is refused first, as measured in a separate process."""

from __future__ import annotations

import json
import os
import struct
import sys
import zlib
from io import BytesIO
from pathlib import Path

import cv2
import numpy as np
import pytest
from laboratory import ROOT, write_images
from PIL import Image

from benchmarks.processes import run_command
from core.data.datasets import load_dataset
from core.data.images import MAX_BYTES, MAX_PIXELS, decode, probe, read
from core.data.images import check as checked
from core.errors import ImageError
from dashboard.parts import pictures

SIDE = 20_000  # 400 million pixels, 1.2 GB as colours


def png(width: int, height: int, *chunks: tuple[bytes, bytes], bits: int = 1, colour: int = 0) -> bytes:
    """Return a complete PNG file of zeros: a few bytes that decompress to gigabytes."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    pack, row = zlib.compressobj(9), bytes(1 + -(-width * bits * (3 if colour == 2 else 1) // 8))
    packed = b"".join(pack.compress(row) for _ in range(height)) + pack.flush()
    header = struct.pack(">IIBBBBB", width, height, bits, colour, 0, 0, 0)
    others = b"".join(chunk(*each) for each in chunks)
    end = chunk(b"IDAT", packed) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + others + end


def saved(image_format: str, **options: object) -> bytes:
    buffer = BytesIO()
    Image.new("RGB", (64, 64), "brown").save(buffer, image_format, **options)
    return buffer.getvalue()


def replaced(data: bytes, old: bytes, new: bytes) -> bytes:
    assert data.count(old) >= 1
    assert len(old) == len(new)
    return data.replace(old, new)


def jpeg(width: int, height: int) -> bytes:
    size = struct.pack(">BHH", 8, 64, 64)
    return replaced(
        cv2.imencode(".jpg", np.zeros((64, 64, 3), np.uint8))[1].tobytes(), size, struct.pack(">BHH", 8, height, width)
    )


def tiff(width: int, height: int) -> bytes:
    """Return an animation of several frames with this size in each header."""
    frames = [Image.new("RGB", (64, 64), "brown") for _ in range(3)]
    buffer = BytesIO()
    frames[0].save(buffer, "TIFF", save_all=True, append_images=frames[1:])
    data = buffer.getvalue()
    for tag, value in ((256, width), (257, height)):
        small = struct.pack("<HHII", tag, 4, 1, 64)
        data = replaced(data, small, struct.pack("<HHII", tag, 4, 1, value))
    return data


def animated_webp(width: int, height: int) -> bytes:
    frames = [Image.new("RGB", (64, 64), colour) for colour in ("brown", "white")]
    buffer = BytesIO()
    frames[0].save(buffer, "WEBP", save_all=True, append_images=frames[1:])
    data = bytearray(buffer.getvalue())
    at = data.index(b"VP8X") + 12
    data[at : at + 6] = (width - 1).to_bytes(3, "little") + (height - 1).to_bytes(3, "little")
    return bytes(data)


BOMBS = {
    "png": lambda: png(SIDE, SIDE),
    "png, larger than any memory": lambda: huge_png_header(),
    "jpeg": lambda: jpeg(65_000, 65_000),
    "tiff of several frames": lambda: tiff(SIDE, SIDE),
    "animated webp": lambda: animated_webp(16_383, 16_383),
    "avif": lambda: replaced(
        saved("AVIF"), b"ispe\0\0\0\0" + struct.pack(">II", 64, 64), b"ispe\0\0\0\0" + struct.pack(">II", SIDE, SIDE)
    ),
    "bmp": lambda: replaced(saved("BMP"), struct.pack("<ii", 64, 64), struct.pack("<ii", SIDE, SIDE)),
    "gif": lambda: saved("GIF"),
}


def huge_png_header() -> bytes:
    side = struct.pack(">II", 64, 64)
    return replaced(png(64, 64), side, struct.pack(">II", 2**31 - 1, 2**31 - 1))


MEASURE = """
import json, resource, sys, time
from pathlib import Path
from core.errors import ImageError
from core.data.images import check, decode, probe
def memory():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
decode(Path(sys.argv[1]))
found = {}
for name in sys.argv[2:]:
    before, started, reasons = memory(), time.process_time(), []
    for function in (probe, check, decode):
        try:
            function(Path(name))
        except ImageError as error:
            reasons.append(str(error))
    found[name] = reasons, memory() - before, time.process_time() - started
print(json.dumps(found))
"""


def measured(*files: Path) -> dict[str, tuple[list[str], int, float]]:
    """Return reasons, additional bytes of memory and seconds for each file, in a process that has decoded the first."""
    command = [sys.executable, "-c", MEASURE, *map(str, files)]
    done = run_command(command, cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    found: dict[str, tuple[list[str], int, float]] = json.loads(done.stdout)
    return found


def test_every_decompression_bomb_is_refused_with_a_reason_and_little_memory_and_time(tmp_path: Path) -> None:
    ordinary = write_images(tmp_path / "moles", 1, height=450, width=600) / "mole000.jpg"
    files = {name: tmp_path / f"{number}.{name[:3]}" for number, name in enumerate(BOMBS)}
    for name, make in BOMBS.items():
        files[name].write_bytes(make())
    assert files["png"].stat().st_size < 100_000, "a bomb is a small file"
    found = measured(ordinary, *files.values())
    for name, file in files.items():
        reasons, memory, seconds = found[str(file)]
        assert len(reasons) == 3, f"{name}: neither probed nor checked nor decoded"
        wanted = "got other content" if name == "gif" else f"{MAX_PIXELS:,} pixels"
        assert all(
            wanted in reason or "cannot be read" in reason or "got other content" in reason for reason in reasons
        ), reasons
        assert memory < 40e6, f"{name}: {memory / 1e6:.0f} MB"
        assert seconds < 2, f"{name}: {seconds:.1f} s"


def test_decompression_bombs_are_left_out_of_a_data_set(tmp_path: Path) -> None:
    folder = write_images(tmp_path / "moles", 2)
    (folder / "bomb.png").write_bytes(png(SIDE, SIDE))
    (folder / "wide.jpg").write_bytes(jpeg(65_000, 65_000))
    dataset = load_dataset(folder)
    assert len(dataset.records) == 2
    assert {each.name for each in dataset.left_out} == {"bomb.png", "wide.jpg"}
    assert all(f"{MAX_PIXELS:,} pixels" in each.reason for each in dataset.left_out)


def test_compressed_text_in_a_png_is_not_decompressed(tmp_path: Path) -> None:
    pack = zlib.compressobj(9)
    text = b"".join(pack.compress(bytes(10**6)) for _ in range(100)) + pack.flush()
    ordinary = write_images(tmp_path / "moles", 1, height=450, width=600) / "mole000.jpg"
    files = []
    for number, kind in enumerate((b"zTXt", b"iCCP")):
        files.append(tmp_path / f"{number}.png")
        files[-1].write_bytes(png(64, 64, (kind, b"Comment\0\0" + text)))
    for name, (reasons, memory, _) in measured(ordinary, *files).items():
        assert memory < 60e6, f"{name}: {memory / 1e6:.0f} MB, {reasons}"


def test_a_large_16_bit_image_needs_little_more_memory_than_its_pixels(tmp_path: Path) -> None:
    side = 3_000  # 9 million pixels: 54 MB as stored, 27 MB as returned
    ordinary = write_images(tmp_path / "moles", 1) / "mole000.jpg"
    file = tmp_path / "deep.png"
    file.write_bytes(png(side, side, bits=16, colour=2))
    reasons, memory, _ = measured(ordinary, file)[str(file)]
    assert reasons == []
    assert memory < 4 * side * side * 6


def test_an_uploaded_image_that_is_too_large_is_refused_from_its_header(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pictures, "decode", None)  # decode is not called
    upload = png(5_000, 4_000)
    with pytest.raises(ImageError, match="at most 12 million pixels"):
        pictures.decomposed(upload, pictures.digest_of(upload), "per_channel")


def test_a_file_with_too_many_bytes_is_not_read(tmp_path: Path) -> None:
    file = tmp_path / "sparse.tif"
    with file.open("wb") as stream:
        stream.truncate(MAX_BYTES + 1)
    with pytest.raises(ImageError, match=f"at most {MAX_BYTES:,} bytes"):
        read(file)


def test_a_pipe_in_place_of_a_file_does_not_block(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.jpg")
    for function in (decode, probe, checked):
        with pytest.raises(ImageError, match="pipe"):
            function(tmp_path / "pipe.jpg")
