"""Images as the browser gets them: thumbnails, and one image decomposed once for the inspector."""

from __future__ import annotations

import hashlib
import threading
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import streamlit as st

from core.compression.comparison import Original, difference_map, ssim_map, warm_up
from core.compression.svd import SVDFactors, decompose
from core.data.images import decode, encode, probe, read, resize
from core.errors import ImageError
from dashboard import data

Pixels = npt.NDArray[np.uint8]

INSPECTED_PIXELS = 12_000_000  # above it a decomposition takes minutes and gigabytes
SHOWN_SIDE = 1600  # pixels of the longer side of an image that is sent to the browser

DIFFERENCE_SCALE = 20  # levels that are drawn lightest; the same at every k, so that maps can be compared
SSIM_SCALE = 0.3  # loss of SSIM that is drawn lightest


@st.cache_data(max_entries=600, show_spinner=False)
def thumbnail(path: str, digest: str, side: int = 240) -> bytes | str:
    """Return an image file made small, as WebP; a sentence where it cannot be read."""
    try:
        return encode(_limited(decode(read_file(Path(path))), side), "webp", 85)
    except ImageError as error:
        return str(error)


def read_file(path: Path) -> bytes:
    """Return a file's bytes, or raise ImageError in a sentence; also for a path that leads out of the data roots."""
    try:
        return read(data.settings().here(path), inside=data.settings().data_roots)
    except ImageError as error:
        raise ImageError(f"{path.name}: {error}") from error


def _limited(image: Pixels, side: int) -> Pixels:
    height, width = image.shape[:2]
    scale = side / max(height, width)
    return image if scale >= 1 else resize(image, max(1, round(height * scale)), max(1, round(width * scale)))


@dataclass(frozen=True, eq=False)
class Decomposed:
    """An image under inspection: its pixels, the PNG file of them, what the metrics need, and its decomposition."""

    digest: str
    image: Pixels
    picture: bytes
    original: Original
    factors: SVDFactors
    source_bytes: int

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns."""
        return (self.image.shape[0], self.image.shape[1])


@dataclass(frozen=True, eq=False)
class Reconstruction:
    """What one k, codec and quality makes of the inspected image.

    stored, difference, ssim: PNG files for the browser, ssim None for images below 7 pixels. pixels: of the stored one.
    histograms: pixels at each level (2, 3, 256), of the original and of the stored image, blue first.
    """

    stored: bytes
    difference: bytes
    ssim: bytes | None
    largest_difference: int
    lowest_ssim: float | None
    metrics: dict[str, float | None]
    stored_bytes: int
    control_bytes: int
    histograms: npt.NDArray[np.int64]
    pixels: Pixels


NUMBA = threading.Lock()


@st.cache_resource(show_spinner=False)
def compiled() -> bool:
    """Compile the metrics' loops once a process."""
    with NUMBA:
        warm_up()
    return True


@st.cache_resource(max_entries=6, show_spinner=False)
def decomposed(_data: bytes, digest: str, mode: str) -> Decomposed:
    """Decode and decompose an image once for every k. Raises ImageError."""
    size = probe(_data)  # before its pixels take memory
    if size.height * size.width > INSPECTED_PIXELS:
        raise ImageError(
            f"Expected at most {INSPECTED_PIXELS // 10**6} million pixels to inspect, got {size.height} × {size.width}."
        )
    image = decode(_data)
    return Decomposed(digest, image, shown(image), Original(image), decompose(image, mode), len(_data))


@st.cache_resource(max_entries=60, show_spinner=False)
def reconstructed(
    digest: str, mode: str, k: int, codec: str, quality: int | None, _inspected: Decomposed
) -> Reconstruction:
    """Reconstruct, store, decode and compare the inspected image at one k. Raises SpecError, ImageError."""
    image = _inspected.image
    encoded = encode(_inspected.factors.reconstruct(k), codec, quality)
    stored = decode(encoded, own=True)
    difference = difference_map(image, stored)
    similarity = ssim_map(image, stored)
    return Reconstruction(
        stored=shown(stored),
        difference=shown(coloured(np.minimum(difference / DIFFERENCE_SCALE, 1))),
        ssim=None if similarity is None else shown(coloured(np.clip((1 - similarity) / SSIM_SCALE, 0, 1))),
        largest_difference=int(difference.max()),
        lowest_ssim=None if similarity is None else float(similarity.min()),
        metrics={**_inspected.original.compare(stored), "explained_variance": _inspected.factors.explained_variance(k)},
        stored_bytes=len(encoded),
        control_bytes=len(encode(image, codec, quality)),
        histograms=np.stack([channel_histograms(image), channel_histograms(stored)]),
        pixels=stored,
    )


def channel_histograms(image: Pixels) -> npt.NDArray[np.int64]:
    """Return the pixels at each of the 256 levels of each channel (3, 256), blue first."""
    return np.stack([np.bincount(image[..., channel].ravel(), minlength=256) for channel in range(3)])


# Dark violet over orange to pale yellow: no difference is dark, a large one is light, readable without colour vision.
RAMP = np.array([[16, 8, 4], [110, 24, 58], [90, 50, 160], [40, 110, 235], [60, 200, 250], [220, 250, 253]], float)


def coloured(share: npt.NDArray[np.float64]) -> Pixels:
    """Return shares 0..1 (H, W) as BGR pixels of one perceptually rising ramp."""
    levels = np.linspace(0, 1, 256)
    stops = np.linspace(0, 1, len(RAMP))
    table = np.stack([np.interp(levels, stops, RAMP[:, channel]) for channel in range(3)], axis=1).round()
    return table.astype(np.uint8)[np.round(share * 255).astype(np.uint8)]


def shown(image: Pixels) -> bytes:
    """Return an image as the PNG file that the browser gets, its longer side limited to `SHOWN_SIDE`."""
    return encode(_limited(image, SHOWN_SIDE), "png", None)


def digest_of(data: bytes) -> str:
    """Return a file's SHA-256, which distinguishes it from others."""
    return hashlib.sha256(data).hexdigest()
