"""The plain loops that DermSlim is measured against, with NumPy, scikit-image, mahotas and OpenCV alone.

Written straight from the article's Algorithm 1 and from the definitions of the metrics, for clarity and not for
speed, and without anything from `core`: they are the oracle too.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from typing import Any

import cv2
import mahotas
import numpy as np
import numpy.typing as npt
from skimage.metrics import normalized_mutual_information, structural_similarity, variation_of_information

Image = npt.NDArray[np.uint8]
Factors = tuple[npt.NDArray[np.float64], npt.NDArray[np.float64], npt.NDArray[np.float64]]
Row = dict[str, float]

JPEG_95 = [cv2.IMWRITE_JPEG_QUALITY, 95]


def article_loop(data: bytes, ks: Iterable[int]) -> Iterator[Row]:
    """Yield a row for each k as the article prints Algorithm 1: SVD and the original's features inside the k loop."""
    image = decode(data)
    control = len(encode(image))
    for k in ks:
        factors = decompose(image)
        yield row(image, features(image), factors, k, len(data), control)


def decompose_once_loop(data: bytes, ks: Iterable[int]) -> Iterator[Row]:
    """Yield a row for each k with what does not depend on k done once: SVD and the original's features."""
    image = decode(data)
    control = len(encode(image))
    factors = decompose(image)
    original = features(image)
    for k in ks:
        yield row(image, original, factors, k, len(data), control)


def row(
    image: Image, original: dict[str, Any], factors: list[Factors], k: int, source_bytes: int, control_bytes: int
) -> Row:
    """Reconstruct, store with JPEG 95, read back and measure."""
    stored = encode(reconstruct(factors, k))
    other = decode(stored)
    height, width = image.shape[:2]
    return {
        **compare(image, original, other, features(other)),
        "explained_variance": explained_variance(factors, k),
        "source_bytes": source_bytes,
        "stored_bytes": len(stored),
        "control_bytes": control_bytes,
        "factor_bytes": 2 * 3 * k * (height + width + 1),
    }


def decode(data: bytes) -> Image:
    return cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)


def encode(image: Image) -> bytes:
    return cv2.imencode(".jpg", image, JPEG_95)[1].tobytes()


def decompose(image: Image) -> list[Factors]:
    return [np.linalg.svd(image[:, :, channel].astype(np.float64), full_matrices=False) for channel in range(3)]


def reconstruct(factors: list[Factors], k: int) -> Image:
    channels = [(left[:, :k] * values[:k]) @ right[:k] for left, values, right in factors]
    return np.clip(np.round(np.stack(channels, axis=2)), 0, 255).astype(np.uint8)


def explained_variance(factors: list[Factors], k: int) -> float:
    return float(np.mean([(values[:k] ** 2).sum() / (values**2).sum() for _, values, _ in factors]))


def features(image: Image) -> dict[str, Any]:
    """Return what is taken from one image alone: grey, colour histograms, Hu moments, Haralick features, spectrum."""
    grey = cv2.cvtColor(image, cv2.COLOR_BGR2GRAY)
    histograms = [cv2.calcHist([image], [channel], None, [256], [0, 256]) for channel in range(3)]
    moments = cv2.HuMoments(cv2.moments(grey)).ravel()
    return {
        "grey": grey,
        "histograms": [cv2.normalize(histogram, None, 1.0, 0.0, cv2.NORM_L1) for histogram in histograms],
        "hu": np.array([-math.copysign(1, h) * math.log10(abs(h)) if h else 0.0 for h in moments]),
        "haralick": mahotas.features.haralick(grey, return_mean=True),
        "spectrum": np.fft.fft2(grey.astype(np.float64), norm="ortho"),
    }


def compare(image: Image, original: dict[str, Any], other: Image, compared: dict[str, Any]) -> Row:
    """Return every metric of one image pair from the pair and the features of each."""
    difference = image.astype(np.float64) - other.astype(np.float64)
    mse = np.mean(difference**2)
    pairs = list(zip(original["histograms"], compared["histograms"], strict=True))
    bhattacharyya = [cv2.compareHist(first, second, cv2.HISTCMP_BHATTACHARYYA) for first, second in pairs]
    intersection = [cv2.compareHist(first, second, cv2.HISTCMP_INTERSECT) for first, second in pairs]
    grey, other_grey = original["grey"], compared["grey"]
    spectrum, other_spectrum = original["spectrum"], compared["spectrum"]
    errors = np.abs(spectrum - other_spectrum) ** 2
    magnitude, other_magnitude = np.abs(spectrum), np.abs(other_spectrum)
    height, width = grey.shape
    low = np.hypot(np.fft.fftfreq(height)[:, None], np.fft.fftfreq(width)[None, :]) <= 0.1
    return {
        "mse": mse,
        "rmse": np.sqrt(mse),
        "psnr": 10 * np.log10(255**2 / mse) if mse else math.inf,
        "ssim": structural_similarity(image, other, channel_axis=2, data_range=255),
        "hist_bhattacharyya": np.mean(bhattacharyya),
        "hist_bhattacharyya_b": bhattacharyya[0],
        "hist_bhattacharyya_g": bhattacharyya[1],
        "hist_bhattacharyya_r": bhattacharyya[2],
        "hist_intersection": np.mean(intersection),
        "hu_distance": np.linalg.norm(original["hu"] - compared["hu"]),
        "hu_correlation": np.corrcoef(original["hu"], compared["hu"])[0, 1],
        "haralick_distance": np.linalg.norm(original["haralick"] - compared["haralick"]),
        "haralick_correlation": np.corrcoef(original["haralick"], compared["haralick"])[0, 1],
        "changed_percent": 100 * np.mean(np.abs(difference).max(axis=2) > 10),
        "variation_of_information": variation_of_information(grey, other_grey).sum(),
        "normalized_mutual_information": normalized_mutual_information(grey, other_grey, bins=256),
        "mse_low": errors[low].mean(),
        "mse_high": errors[~low].mean(),
        "spectral_correlation": np.corrcoef(magnitude.ravel(), other_magnitude.ravel())[0, 1],
        "spectral_loss": np.linalg.norm(magnitude - other_magnitude) / np.linalg.norm(magnitude),
    }
