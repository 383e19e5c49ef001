"""One original image compared with many others: the work on the original is done once.

`Original.compare` then needs one pass per family of metrics (`core.compression.metrics`) over the other image.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from fractions import Fraction
from functools import cached_property
from typing import Any, cast

import cv2
import numpy as np
import numpy.typing as npt
import scipy.fft

from core.compression import pixel_loops as loops
from core.compression.specs import MetricParameters
from core.data.images import grey
from core.errors import ImageError

Image = npt.NDArray[np.uint8]
Array = npt.NDArray[Any]

# Below this share of a vector's size its spread is rounding, and its correlation with anything undefined.
CONSTANT = 1e-12

COMPARED_PIXELS = 50_000_000  # of an image; a comparison takes 58 bytes for each, measured


@dataclass(frozen=True, eq=False)
class Original:
    """An original image with everything about it that the metrics need, computed once.

    image: 8-bit, (H, W, 3), BGR. Raises `ImageError` for one of more than `COMPARED_PIXELS`.
    """

    image: Image
    parameters: MetricParameters = field(default_factory=MetricParameters)

    def __post_init__(self) -> None:
        """Check the number of pixels."""
        height, width = self.image.shape[:2]
        if height * width > COMPARED_PIXELS:
            raise ImageError(
                f"Expected at most {COMPARED_PIXELS // 10**6} million pixels to compare, which take 3 GB of memory,"
                f" got {height}×{width}."
            )

    @cached_property
    def features(self) -> Features:
        """The features of the image."""
        return _features(self.image)

    @cached_property
    def windows(self) -> tuple[Array, Array] | None:
        """Sums of SSIM's windows; None below 7 pixels."""
        if min(self.image.shape[:2]) < loops.SSIM_WINDOW:
            return None
        return loops.window_sums(self.features.image.reshape(len(self.image), -1))

    @cached_property
    def low(self) -> npt.NDArray[np.bool_]:
        """Mask of the frequencies of `mse_low`."""
        height, width = self.image.shape[:2]
        return low_frequencies(height, width, self.parameters.radial_cutoff)

    def compare(self, other: Image) -> dict[str, float | None]:
        """Return every column of `METRICS` but `explained_variance` for another image of the same shape.

        Undefined values are None: never NaN, never infinite.
        """
        if other.shape != self.image.shape:
            raise ValueError(f"Expected an image of shape {self.image.shape}, got {other.shape}.")
        mine, theirs = self.features, _features(other)
        mse = cv2.norm(mine.image, theirs.image, cv2.NORM_L2SQR) / mine.image.size
        blue, green, red = (
            cv2.compareHist(_normalised(first), _normalised(second), cv2.HISTCMP_BHATTACHARYYA)
            for first, second in zip(mine.histograms, theirs.histograms, strict=True)
        )
        first, second, joint = loops.entropies(loops.joint_histogram(mine.grey, theirs.grey))  # H(I), H(J) and H(I,J)
        spectra = loops.spectral_sums(mine.spectrum, theirs.spectrum, self.low, mine.grey.shape[1])
        return {
            "mse": mse,
            "rmse": math.sqrt(mse),
            "psnr": 10 * math.log10(255**2 / mse) if mse else None,
            "ssim": self._ssim(theirs.image),
            "hist_bhattacharyya": (blue + green + red) / 3,
            "hist_bhattacharyya_b": blue,
            "hist_bhattacharyya_g": green,
            "hist_bhattacharyya_r": red,
            "hist_intersection": float(np.minimum(mine.histograms, theirs.histograms).sum() / theirs.image.size),
            "hu_distance": _distance(mine.hu, theirs.hu),
            "hu_correlation": _correlation(mine.hu, theirs.hu),
            "haralick_distance": _distance(mine.haralick, theirs.haralick),
            "haralick_correlation": _correlation(mine.haralick, theirs.haralick),
            "changed_percent": self._changed_percent(theirs.image),
            # H(I|J) + H(J|I) = 2·H(I,J) − H(I) − H(J)
            "variation_of_information": max(2 * joint - first - second, 0.0),
            "normalized_mutual_information": (first + second) / joint if joint > 0 else None,
            "mse_low": spectra.error_low / spectra.count_low,
            "mse_high": spectra.error_high / spectra.count_high if spectra.count_high else None,
            "spectral_correlation": _spectral_correlation(spectra),
            "spectral_loss": math.sqrt(spectra.loss / spectra.energy) if spectra.energy > 0 else None,
        }

    def _ssim(self, other: Image) -> float | None:
        """Return the structural similarity, mean of the channels; None below 7 pixels."""
        if self.windows is None:
            return None
        mine, theirs = (image.reshape(len(image), -1) for image in (self.features.image, other))
        return float(loops.mean_ssim(mine, theirs, *self.windows))

    def _changed_percent(self, other: Image) -> float:
        """Return the percent of the pixels whose largest channel difference is above the threshold."""
        threshold = float(self.parameters.changed_threshold)
        kept = cv2.inRange(cv2.absdiff(self.features.image, other), (0.0,) * 3, (threshold,) * 3)
        return 100 * (kept.size - cv2.countNonZero(kept)) / kept.size


def warm_up() -> None:
    """Compile, or load from Numba's cache, every loop that a comparison runs."""
    image = np.arange(loops.SSIM_WINDOW**2 * 3, dtype=np.uint8).reshape(loops.SSIM_WINDOW, loops.SSIM_WINDOW, 3)
    Original(image).compare(image[::-1].copy())


def ssim_map(image: Image, other: Image) -> npt.NDArray[np.float64] | None:
    """Return SSIM around each pixel (H, W), mean of the channels, by scikit-image; None below 7 pixels."""
    # imported here because only the inspector draws maps, and the workers stay smaller without it
    from skimage.metrics import structural_similarity

    if min(image.shape[:2]) < loops.SSIM_WINDOW:
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
    """The features of one image, the original or a compared one."""

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
        loops.channel_histograms(image),
        -np.sign(moments) * logarithms,
        loops.haralick_features(loops.cooccurrences(levels)) if min(levels.shape) > 1 else None,
        scipy.fft.rfft2(levels.astype(np.float64), norm="ortho"),
    )


def _normalised(histogram: Array) -> Array:
    """Return the histogram as OpenCV keeps one: float32, summing to 1."""
    counts = histogram.astype(np.float32)
    return cv2.normalize(counts, counts, alpha=1.0, norm_type=cv2.NORM_L1)


def _spectral_correlation(sums: loops.SpectralSums) -> float | None:
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
