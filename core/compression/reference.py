"""The SVD and the metrics written plainly with NumPy, scikit-image, mahotas and OpenCV: clear, and five times as slow.

The definition that the product's own figures are checked against, in tests, in benchmarks and after every sweep. It
uses none of `core.compression.svd`, `metrics` and `pixel_loops` but the parameters of the metrics.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import cv2
import mahotas
import numpy as np
import numpy.typing as npt
from skimage.metrics import normalized_mutual_information, structural_similarity, variation_of_information

from core.compression.specs import MetricParameters

Image = npt.NDArray[np.uint8]
Array = npt.NDArray[Any]
Factors = tuple[Array, ...]  # U, s, Vᵀ of one matrix

ROUNDING = 1e-12  # a spread below this share of a vector's size is rounding; so is a distance to the cutoff


def decompose(image: Image, mode: str = "per_channel") -> list[Factors]:
    """Return NumPy's SVD of each channel, or of the channels side by side where `mode` is "unfolded"."""
    channels = [image[:, :, channel].astype(np.float64) for channel in range(3)]
    matrices = channels if mode == "per_channel" else [np.hstack(channels)]
    return [tuple(np.linalg.svd(matrix, full_matrices=False)) for matrix in matrices]


def reconstruct(factors: Sequence[Factors], k: int) -> Image:
    """Return the image (H, W, 3) of the k largest singular values, rounded and clipped to 0–255."""
    matrices = [(left[:, :k] * values[:k]) @ right[:k] for left, values, right in factors]
    channels = matrices if len(matrices) == 3 else np.hsplit(matrices[0], 3)
    return np.clip(np.round(np.stack(channels, axis=2)), 0, 255).astype(np.uint8)


def explained_variance(factors: Sequence[Factors], k: int) -> float | None:
    """Return Σ of the k largest s² over Σs², mean of the matrices that are not black; None where all are."""
    shares = [(values[:k] ** 2).sum() / (values**2).sum() for _, values, _ in factors if values.any()]
    return float(np.mean(shares)) if shares else None


@dataclass(frozen=True, eq=False)
class Features:
    """The features of one image."""

    image: Image
    grey: Image
    histograms: list[Array]  # 256 bins, summing to 1: blue, green, red
    hu: Array  # (7,), each moment h as −sign(h)·log10|h|
    haralick: Array | None  # (13,); None where a direction has no pair of neighbours
    spectrum: Array  # (H, W)


def features(image: Image) -> Features:
    """Return grey levels, histograms, Hu moments, Haralick features and Fourier transform of an image (H, W, 3)."""
    grey = cv2.cvtColor(image, cv2.COLOR_BGR2GRAY).astype(np.uint8, copy=False)
    histograms = [cv2.calcHist([image], [channel], None, [256], [0, 256]) for channel in range(3)]
    moments = cv2.HuMoments(cv2.moments(grey)).ravel()
    return Features(
        image,
        grey,
        [cv2.normalize(each, each, alpha=1.0, norm_type=cv2.NORM_L1) for each in histograms],
        np.array([-math.copysign(1, h) * math.log10(abs(h)) if h else 0.0 for h in moments]),
        mahotas.features.haralick(grey, return_mean=True) if min(grey.shape) > 1 else None,
        np.fft.fft2(grey.astype(np.float64), norm="ortho"),
    )


def compare(one: Features, two: Features, parameters: MetricParameters | None = None) -> dict[str, float | None]:
    """Return every metric of an original and a compared image but the explained variance; None where undefined."""
    parameters = parameters or MetricParameters()
    difference = one.image.astype(np.float64) - two.image.astype(np.float64)
    mse = np.mean(difference**2)
    pairs = list(zip(one.histograms, two.histograms, strict=True))
    bhattacharyya = [cv2.compareHist(*pair, cv2.HISTCMP_BHATTACHARYYA) for pair in pairs]
    height, width = one.grey.shape
    radius = np.hypot(np.fft.fftfreq(height)[:, None], np.fft.fftfreq(width)[None, :])
    low = radius <= parameters.radial_cutoff + ROUNDING
    errors = np.abs(one.spectrum - two.spectrum) ** 2
    magnitudes = [np.abs(one.spectrum).ravel(), np.abs(two.spectrum).ravel()]
    energy = np.linalg.norm(magnitudes[0])
    textures = None if one.haralick is None or two.haralick is None else (one.haralick, two.haralick)
    with np.errstate(invalid="ignore"):  # of two equal constant images
        mutual = normalized_mutual_information(one.grey, two.grey, bins=256)
    values = {
        "mse": mse,
        "rmse": np.sqrt(mse),
        "psnr": 10 * np.log10(255**2 / mse) if mse else None,
        "ssim": structural_similarity(one.image, two.image, channel_axis=2, data_range=255)
        if min(height, width) >= 7
        else None,
        "hist_bhattacharyya": np.mean(bhattacharyya),
        "hist_bhattacharyya_b": bhattacharyya[0],
        "hist_bhattacharyya_g": bhattacharyya[1],
        "hist_bhattacharyya_r": bhattacharyya[2],
        "hist_intersection": np.mean([cv2.compareHist(*pair, cv2.HISTCMP_INTERSECT) for pair in pairs]),
        "hu_distance": np.linalg.norm(one.hu - two.hu),
        "hu_correlation": _correlation(one.hu, two.hu),
        "haralick_distance": np.linalg.norm(textures[0] - textures[1]) if textures else None,
        "haralick_correlation": _correlation(*textures) if textures else None,
        "changed_percent": 100 * np.mean(np.abs(difference).max(axis=2) > parameters.changed_threshold),
        "variation_of_information": variation_of_information(one.grey, two.grey).sum(),
        "normalized_mutual_information": mutual,
        "mse_low": errors[low].mean(),
        "mse_high": errors[~low].mean() if not low.all() else None,
        "spectral_correlation": _correlation(*magnitudes),
        "spectral_loss": np.linalg.norm(magnitudes[0] - magnitudes[1]) / energy if energy else None,
    }
    return {name: None if value is None or np.isnan(value) else float(value) for name, value in values.items()}


def _correlation(one: Array, two: Array) -> float | None:
    """Return Pearson's correlation; None where one of the vectors is constant."""
    if any(np.std(each) <= ROUNDING * np.sqrt(np.mean(each**2)) for each in (one, two)):
        return None
    return float(np.corrcoef(one, two)[0, 1])
