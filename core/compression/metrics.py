"""Every quality metric of a sweep, for one original against many compared images.

`METRICS` is the table of what is measured, one record per column. `Original` does the work on the original once;
`Original.compare` then needs one pass per metric family over the other image.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from fractions import Fraction
from functools import cached_property
from typing import Any, cast

import cv2
import numpy as np
import numpy.typing as npt
import scipy.fft

from core.compression.pixel_loops import (
    SSIM_WINDOW,
    SpectralSums,
    channel_histograms,
    cooccurrences,
    entropies,
    haralick_features,
    joint_histogram,
    mean_ssim,
    spectral_sums,
    window_sums,
)
from core.compression.specs import MetricParameters
from core.data.images import grey
from core.errors import ImageError

Image = npt.NDArray[np.uint8]
Array = npt.NDArray[Any]

# Below this share of a vector's size its spread is rounding, and its correlation with anything undefined.
CONSTANT = 1e-12


@dataclass(frozen=True)
class Metric:
    """One column of the measurements.

    unit: empty where the number has none. better: "low" or "high", the direction of improvement.
    function: gives the value of an original and a compared image, None where it is undefined; None for a metric that
        follows from the decomposition and not from the two images.
    """

    name: str
    label: str
    definition: str
    unit: str
    better: str
    function: Callable[[Pair], float | None] | None


METRICS: tuple[Metric, ...] = (
    Metric(
        "mse",
        "MSE",
        "Mean squared error over all pixels and channels.",
        "grey levels²",
        "low",
        lambda pair: pair.mse,
    ),
    Metric(
        "rmse",
        "RMSE",
        "Square root of the mean squared error.",
        "grey levels",
        "low",
        lambda pair: math.sqrt(pair.mse),
    ),
    Metric(
        "psnr",
        "PSNR",
        "10·log10(255²/MSE); undefined for identical images.",
        "dB",
        "high",
        lambda pair: 10 * math.log10(255**2 / pair.mse) if pair.mse else None,
    ),
    Metric(
        "ssim",
        "SSIM",
        "Structural similarity (Wang et al. 2004): uniform 7×7 window, sample covariance, data range 255, mean of "
        "the channels; undefined below 7 pixels.",
        "",
        "high",
        lambda pair: pair.ssim,
    ),
    Metric(
        "hist_bhattacharyya",
        "Histogram Bhattacharyya distance",
        "OpenCV's HISTCMP_BHATTACHARYYA on 256-bin L1-normalised histograms, mean of the channels; 0 to 1.",
        "",
        "low",
        lambda pair: sum(pair.bhattacharyya) / 3,
    ),
    *(
        Metric(
            f"hist_bhattacharyya_{colour[0]}",
            f"Bhattacharyya distance, {colour}",
            f"Bhattacharyya distance of the {colour} channel.",
            "",
            "low",
            lambda pair, channel=channel: pair.bhattacharyya[channel],  # type: ignore[misc]
        )
        for channel, colour in enumerate(("blue", "green", "red"))
    ),
    Metric(
        "hist_intersection",
        "Histogram intersection",
        "Σ min of the 256-bin L1-normalised histograms, mean of the channels; 1 for equal histograms.",
        "",
        "high",
        lambda pair: float(np.minimum(pair.mine.histograms, pair.theirs.histograms).sum() / pair.theirs.image.size),
    ),
    Metric(
        "hu_distance",
        "Hu moments, distance",
        "Euclidean distance of the 7 Hu moments of grey, each h taken as −sign(h)·log10|h| (0 as 0).",
        "",
        "low",
        lambda pair: _distance(pair.mine.hu, pair.theirs.hu),
    ),
    Metric(
        "hu_correlation",
        "Hu moments, correlation",
        "Pearson correlation of the 7 Hu moments of grey, each h taken as −sign(h)·log10|h| (0 as 0).",
        "",
        "high",
        lambda pair: _correlation(pair.mine.hu, pair.theirs.hu),
    ),
    Metric(
        "haralick_distance",
        "Haralick texture, distance",
        "Euclidean distance of 13 Haralick features of grey, mean of 4 directions, as mahotas computes them.",
        "",
        "low",
        lambda pair: _distance(pair.mine.haralick, pair.theirs.haralick),
    ),
    Metric(
        "haralick_correlation",
        "Haralick texture, correlation",
        "Pearson correlation of 13 Haralick features of grey, mean of 4 directions, as mahotas computes them.",
        "",
        "high",
        lambda pair: _correlation(pair.mine.haralick, pair.theirs.haralick),
    ),
    Metric(
        "changed_percent",
        "Changed pixels",
        "Share of the pixels whose largest channel difference exceeds the threshold (10 by default).",
        "%",
        "low",
        lambda pair: pair.changed_percent,
    ),
    Metric(
        "variation_of_information",
        "Variation of information",
        "H(I|J) + H(J|I) of the grey levels.",
        "bits",
        "low",
        # H(I|J) + H(J|I) = 2·H(I,J) − H(I) − H(J)
        lambda pair: max(2 * pair.entropies[2] - pair.entropies[0] - pair.entropies[1], 0.0),
    ),
    Metric(
        "normalized_mutual_information",
        "Normalised mutual information",
        "(H(I) + H(J)) / H(I,J) from the 256×256 joint histogram of grey levels; 1 (independent) to 2 (equal).",
        "",
        "high",
        lambda pair: (pair.entropies[0] + pair.entropies[1]) / pair.entropies[2] if pair.entropies[2] > 0 else None,
    ),
    Metric(
        "mse_low",
        "Spectral error, low frequencies",
        "Mean |F − G|² of the orthonormal 2-D Fourier transforms of grey over radial frequencies up to the cutoff "
        "(0.1 cycles/pixel by default).",
        "grey levels²",
        "low",
        lambda pair: pair.spectra.error_low / pair.spectra.count_low,
    ),
    Metric(
        "mse_high",
        "Spectral error, high frequencies",
        "Mean |F − G|² of the orthonormal 2-D Fourier transforms of grey over radial frequencies above the cutoff.",
        "grey levels²",
        "low",
        lambda pair: pair.spectra.error_high / pair.spectra.count_high if pair.spectra.count_high else None,
    ),
    Metric(
        "spectral_correlation",
        "Spectral correlation",
        "Pearson correlation of |F| and |G|.",
        "",
        "high",
        lambda pair: _spectral_correlation(pair.spectra),
    ),
    Metric(
        "spectral_loss",
        "Spectral loss",
        "‖|F| − |G|‖ / ‖|F|‖.",
        "",
        "low",
        lambda pair: math.sqrt(pair.spectra.loss / pair.spectra.energy) if pair.spectra.energy > 0 else None,
    ),
    Metric(
        "explained_variance",
        "Explained variance",
        "Σ of the k largest s² over Σs² of the SVD, mean of the matrices; 0 to 1.",
        "",
        "high",
        None,
    ),
)
METRICS_BY_NAME: dict[str, Metric] = {metric.name: metric for metric in METRICS}


COMPARED_PIXELS = 50_000_000  # of an image; a comparison takes 58 bytes for each, measured


@dataclass(frozen=True, eq=False)
class Original:
    """An original image with everything about it that the metrics need, computed once.

    image: 8-bit, (H, W, 3), BGR. Raises `ImageError` for one of more than `COMPARED_PIXELS`.
    """

    image: Image
    parameters: MetricParameters = field(default_factory=MetricParameters)
    features: Features = field(init=False, repr=False)
    windows: tuple[Array, Array] | None = field(init=False, repr=False)  # sums of SSIM's windows, None below 7 pixels
    low: npt.NDArray[np.bool_] = field(init=False, repr=False)  # frequencies of `mse_low`

    def __post_init__(self) -> None:
        """Take from the original everything that the comparisons share."""
        height, width = self.image.shape[:2]
        if height * width > COMPARED_PIXELS:
            raise ImageError(
                f"expected at most {COMPARED_PIXELS // 10**6} million pixels to compare, which take 3 GB of memory;"
                f" got {height}×{width}"
            )
        features = _features(self.image)
        large = min(height, width) >= SSIM_WINDOW
        for name, value in (
            ("image", features.image),
            ("features", features),
            ("windows", window_sums(features.image.reshape(height, 3 * width)) if large else None),
            ("low", low_frequencies(height, width, self.parameters.radial_cutoff)),
        ):
            object.__setattr__(self, name, value)

    def compare(self, other: Image) -> dict[str, float | None]:
        """Return every column of `METRICS` but `explained_variance` for another image of the same shape.

        Undefined values are None: never NaN, never infinite.
        """
        if other.shape != self.image.shape:
            raise ValueError(f"Expected an image of shape {self.image.shape}, got {other.shape}.")
        pair = Pair(self, _features(other))
        return {metric.name: metric.function(pair) for metric in METRICS if metric.function is not None}


@dataclass(frozen=True, eq=False)
class Pair:
    """An original and a compared image, with the figures that several metrics share, each computed once."""

    original: Original
    theirs: Features

    @property
    def mine(self) -> Features:
        """The original's features."""
        return self.original.features

    @cached_property
    def mse(self) -> float:
        """Mean squared error."""
        return cv2.norm(self.mine.image, self.theirs.image, cv2.NORM_L2SQR) / self.mine.image.size

    @property
    def changed_percent(self) -> float:
        """Percent of the pixels whose largest channel difference is above the threshold."""
        threshold = float(self.original.parameters.changed_threshold)
        kept = cv2.inRange(cv2.absdiff(self.mine.image, self.theirs.image), (0.0,) * 3, (threshold,) * 3)
        return 100 * (kept.size - cv2.countNonZero(kept)) / kept.size

    @property
    def ssim(self) -> float | None:
        """Structural similarity, mean of the channels; None below 7 pixels."""
        if self.original.windows is None:
            return None
        mine, theirs = (each.image.reshape(len(each.image), -1) for each in (self.mine, self.theirs))
        return float(mean_ssim(mine, theirs, *self.original.windows))

    @cached_property
    def bhattacharyya(self) -> list[float]:
        """Bhattacharyya distance of each channel's histogram: blue, green, red."""
        return [
            cv2.compareHist(_normalised(first), _normalised(second), cv2.HISTCMP_BHATTACHARYYA)
            for first, second in zip(self.mine.histograms, self.theirs.histograms, strict=True)
        ]

    @cached_property
    def entropies(self) -> tuple[float, float, float]:
        """H(I), H(J) and H(I,J) of the grey levels, in bits."""
        return entropies(joint_histogram(self.mine.grey, self.theirs.grey))

    @cached_property
    def spectra(self) -> SpectralSums:
        """Sums over the spectra of grey."""
        return spectral_sums(self.mine.spectrum, self.theirs.spectrum, self.original.low, self.mine.grey.shape[1])


def warm_up() -> None:
    """Compile, or load from Numba's cache, every loop that a comparison runs."""
    image = np.arange(SSIM_WINDOW**2 * 3, dtype=np.uint8).reshape(SSIM_WINDOW, SSIM_WINDOW, 3)
    Original(image).compare(image[::-1].copy())


def ssim_map(image: Image, other: Image) -> npt.NDArray[np.float64] | None:
    """Return SSIM around each pixel (H, W), mean of the channels, by scikit-image; None below 7 pixels."""
    # imported here because only the inspector draws maps, and the workers stay smaller without it
    from skimage.metrics import structural_similarity

    if min(image.shape[:2]) < SSIM_WINDOW:
        return None
    _, channels = structural_similarity(image, other, channel_axis=2, data_range=255, full=True)
    return cast("npt.NDArray[np.float64]", channels.mean(axis=2))


def difference_map(image: Image, other: Image) -> Image:
    """Return the largest absolute channel difference of each pixel (H, W), 0–255."""
    return cast("Image", cv2.absdiff(image, other).max(axis=2))


def low_frequencies(height: int, width: int, cutoff: float) -> npt.NDArray[np.bool_]:
    """Return where the half spectrum (H, W//2 + 1) of `scipy.fft.rfft2` has a radial frequency ≤ cutoff.

    In whole numbers, (a/H)² + (b/W)² ≤ c² times H²W²: 45/450 and (27/450, 48/600) lie on the border 0.1, and
    rounding must not decide about them.
    """
    across = np.arange(width // 2 + 1, dtype=np.int64)
    down = np.arange(height, dtype=np.int64)
    down = np.minimum(down, height - down)
    limit = math.floor(Fraction(str(cutoff)) ** 2 * height**2 * width**2)
    return (down[:, None] * width) ** 2 + (across[None, :] * height) ** 2 <= limit


@dataclass(frozen=True, eq=False)
class Features:
    """What is taken from one image alone, the original or a compared one."""

    image: Image  # (H, W, 3), C-contiguous
    grey: Image
    histograms: npt.NDArray[np.int64]  # (3, 256)
    hu: npt.NDArray[np.float64]  # (7,)
    haralick: npt.NDArray[np.float64] | None  # (13,); None where a direction has no pair of neighbours
    spectrum: npt.NDArray[np.complex128]  # half spectrum of grey (H, W//2 + 1)


def _features(image: Image) -> Features:
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or image.size == 0:
        raise ValueError(f"Expected an 8-bit image (H, W, 3), got {image.dtype} {image.shape}.")
    image = np.ascontiguousarray(image)
    levels = grey(image)
    moments = cv2.HuMoments(cv2.moments(levels)).ravel()
    logarithms = np.log10(np.abs(moments), out=np.zeros_like(moments), where=moments != 0)
    return Features(
        image,
        levels,
        channel_histograms(image),
        -np.sign(moments) * logarithms,
        haralick_features(cooccurrences(levels)) if min(levels.shape) > 1 else None,
        scipy.fft.rfft2(levels.astype(np.float64), norm="ortho"),
    )


def _normalised(histogram: Array) -> Array:
    """Return the histogram as OpenCV keeps one: float32, summing to 1."""
    counts = histogram.astype(np.float32)
    return cv2.normalize(counts, counts, alpha=1.0, norm_type=cv2.NORM_L1)


def _spectral_correlation(sums: SpectralSums) -> float | None:
    flat = sums.spread <= CONSTANT**2 * sums.energy or sums.other_spread <= CONSTANT**2 * sums.other_energy
    return None if flat else _clipped(sums.shared / math.sqrt(sums.spread) / math.sqrt(sums.other_spread))


def _distance(mine: Array | None, theirs: Array | None) -> float | None:
    return None if mine is None or theirs is None else float(np.linalg.norm(mine - theirs))


def _correlation(mine: Array | None, theirs: Array | None) -> float | None:
    """Return Pearson's correlation, None where one of the vectors is missing or constant."""
    if mine is None or theirs is None:
        return None
    first, second = mine - mine.mean(), theirs - theirs.mean()
    spread, other_spread = float(np.linalg.norm(first)), float(np.linalg.norm(second))
    if spread <= CONSTANT * np.linalg.norm(mine) or other_spread <= CONSTANT * np.linalg.norm(theirs):
        return None
    return _clipped(float(first @ second) / spread / other_spread)


def _clipped(correlation: float) -> float:
    return max(-1.0, min(1.0, correlation))
