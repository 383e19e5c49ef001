"""Every quality metric of a sweep, for one original against many compared images.

`METRICS` is the table of what is measured, one record a column. `Reference` does the work on the original once;
`Reference.compare` then needs one pass a metric family over the other image. The loops that the libraries do
slowly (SSIM, joint histogram, co-occurrence) are compiled here and count in whole numbers, so they agree with
scikit-image and mahotas to rounding.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any, TypeVar, cast

import cv2
import numba
import numpy as np
import numpy.typing as npt
import scipy.fft

from core.errors import SpecError

Image = npt.NDArray[np.uint8]
Array = npt.NDArray[Any]
Function = TypeVar("Function", bound=Callable[..., Any])

SSIM_WINDOW = 7
LEVELS = 256
# Below this share of a vector's size its spread is rounding, and its correlation with anything undefined.
CONSTANT = 1e-12


@dataclass(frozen=True)
class Metric:
    """One column of the measurements.

    better: "low" or "high", the direction of improvement. unit: empty where the number has none.
    """

    name: str
    label: str
    definition: str
    unit: str
    better: str


METRICS: tuple[Metric, ...] = (
    Metric("mse", "MSE", "Mean squared error over all pixels and channels.", "grey levels²", "low"),
    Metric("rmse", "RMSE", "Square root of the mean squared error.", "grey levels", "low"),
    Metric("psnr", "PSNR", "10·log10(255²/MSE); undefined for identical images.", "dB", "high"),
    Metric(
        "ssim",
        "SSIM",
        "Structural similarity (Wang et al. 2004): uniform 7×7 window, sample covariance, data range 255, mean of "
        "the channels; undefined below 7 pixels.",
        "",
        "high",
    ),
    Metric(
        "hist_bhattacharyya",
        "Histogram Bhattacharyya distance",
        "OpenCV's HISTCMP_BHATTACHARYYA on 256-bin L1-normalised histograms, mean of the channels; 0 to 1.",
        "",
        "low",
    ),
    Metric(
        "hist_bhattacharyya_b", "Bhattacharyya distance, blue", "Bhattacharyya distance of the blue channel.", "", "low"
    ),
    Metric(
        "hist_bhattacharyya_g",
        "Bhattacharyya distance, green",
        "Bhattacharyya distance of the green channel.",
        "",
        "low",
    ),
    Metric(
        "hist_bhattacharyya_r", "Bhattacharyya distance, red", "Bhattacharyya distance of the red channel.", "", "low"
    ),
    Metric(
        "hist_intersection",
        "Histogram intersection",
        "Σ min of the 256-bin L1-normalised histograms, mean of the channels; 1 for equal histograms.",
        "",
        "high",
    ),
    Metric(
        "hu_distance",
        "Hu moments, distance",
        "Euclidean distance of the 7 Hu moments of grey, each h taken as −sign(h)·log10|h| (0 as 0).",
        "",
        "low",
    ),
    Metric(
        "hu_correlation",
        "Hu moments, correlation",
        "Pearson correlation of the 7 Hu moments of grey, each h taken as −sign(h)·log10|h| (0 as 0).",
        "",
        "high",
    ),
    Metric(
        "haralick_distance",
        "Haralick texture, distance",
        "Euclidean distance of 13 Haralick features of grey, mean of 4 directions, as mahotas computes them.",
        "",
        "low",
    ),
    Metric(
        "haralick_correlation",
        "Haralick texture, correlation",
        "Pearson correlation of 13 Haralick features of grey, mean of 4 directions, as mahotas computes them.",
        "",
        "high",
    ),
    Metric(
        "changed_percent",
        "Changed pixels",
        "Share of the pixels whose largest channel difference exceeds the threshold (10 by default).",
        "%",
        "low",
    ),
    Metric(
        "variation_of_information",
        "Variation of information",
        "H(I|J) + H(J|I) of the grey levels.",
        "bits",
        "low",
    ),
    Metric(
        "normalized_mutual_information",
        "Normalised mutual information",
        "(H(I) + H(J)) / H(I,J) from the 256×256 joint histogram of grey levels; 1 (independent) to 2 (equal).",
        "",
        "high",
    ),
    Metric(
        "mse_low",
        "Spectral error, low frequencies",
        "Mean |F − G|² of the orthonormal 2-D Fourier transforms of grey over radial frequencies up to the cutoff "
        "(0.1 cycles/pixel by default).",
        "grey levels²",
        "low",
    ),
    Metric(
        "mse_high",
        "Spectral error, high frequencies",
        "Mean |F − G|² of the orthonormal 2-D Fourier transforms of grey over radial frequencies above the cutoff.",
        "grey levels²",
        "low",
    ),
    Metric("spectral_correlation", "Spectral correlation", "Pearson correlation of |F| and |G|.", "", "high"),
    Metric("spectral_loss", "Spectral loss", "‖|F| − |G|‖ / ‖|F|‖.", "", "low"),
    Metric(
        "explained_variance",
        "Explained variance",
        "Σ of the k largest s² over Σs² of the SVD, mean of the matrices; 0 to 1.",
        "",
        "high",
    ),
)
METRICS_BY_NAME: dict[str, Metric] = {metric.name: metric for metric in METRICS}


@dataclass(frozen=True)
class MetricParameters:
    """What a user may set about the metrics.

    changed_threshold: `changed_percent` counts pixels whose largest channel difference is above it, 0–255.
    radial_cutoff: border of `mse_low` and `mse_high` in cycles a pixel, above 0 and below √½.
    """

    changed_threshold: int = 10
    radial_cutoff: float = 0.1

    def __post_init__(self) -> None:
        """Check the values; raise `SpecError`."""
        threshold, cutoff = self.changed_threshold, self.radial_cutoff
        if isinstance(threshold, bool) or not isinstance(threshold, int) or not 0 <= threshold <= 255:
            raise SpecError(f"Expected changed_threshold to be a whole number from 0 to 255. Received: {threshold!r}")
        if isinstance(cutoff, bool) or not isinstance(cutoff, int | float) or not 0 < cutoff < math.sqrt(0.5):
            raise SpecError(
                f"Expected radial_cutoff to be a number of cycles a pixel between 0 and 0.7071. Received: {cutoff!r}"
            )


@dataclass(frozen=True, eq=False)
class Reference:
    """An original image with everything about it that the metrics need, computed once.

    image: 8-bit, (H, W, 3), BGR.
    """

    image: Image
    parameters: MetricParameters = MetricParameters()
    _features: _Features = field(init=False, repr=False)
    _windows: tuple[Array, Array] | None = field(init=False, repr=False)
    _low: npt.NDArray[np.bool_] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        """Take from the original everything that the comparisons share."""
        image = _checked(self.image)
        height, width = image.shape[:2]
        large = min(height, width) >= SSIM_WINDOW
        for name, value in (
            ("image", image),
            ("_features", _features(image)),
            ("_windows", _window_sums(image.reshape(height, 3 * width)) if large else None),
            ("_low", low_frequencies(height, width, self.parameters.radial_cutoff)),
        ):
            object.__setattr__(self, name, value)

    def compare(self, other: Image) -> dict[str, float | None]:
        """Return every column of `METRICS` but `explained_variance` for another image of the same shape.

        Undefined values are None: never NaN, never infinite.
        """
        other = _checked(other)
        if other.shape != self.image.shape:
            raise ValueError(f"Expected an image of shape {self.image.shape}. Received: {other.shape}")
        mine, theirs = self._features, _features(other)
        values = {
            **_pixel_errors(self.image, other, self.parameters.changed_threshold),
            "ssim": self._ssim(other),
            **_histogram_comparison(mine.histograms, theirs.histograms),
            "hu_distance": _distance(mine.hu, theirs.hu),
            "hu_correlation": _correlation(mine.hu, theirs.hu),
            "haralick_distance": _distance(mine.haralick, theirs.haralick),
            "haralick_correlation": _correlation(mine.haralick, theirs.haralick),
            **_information(mine.grey, theirs.grey),
            **_spectral_comparison(mine.spectrum, theirs.spectrum, mine.grey.shape[1], self._low),
        }
        return {metric.name: values[metric.name] for metric in METRICS if metric.name != "explained_variance"}

    def _ssim(self, other: Image) -> float | None:
        if self._windows is None:
            return None
        height, width = other.shape[:2]
        rows = (height, 3 * width)
        return float(_mean_ssim(self.image.reshape(rows), other.reshape(rows), *self._windows))


def warm_up() -> None:
    """Compile, or load from Numba's cache, every loop of this module."""
    image = np.arange(SSIM_WINDOW**2 * 3, dtype=np.uint8).reshape(SSIM_WINDOW, SSIM_WINDOW, 3)
    Reference(image).compare(image[::-1].copy())


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


@dataclass(frozen=True)
class _Features:
    """What is taken from one image alone, the original or a compared one."""

    grey: Image
    histograms: npt.NDArray[np.int64]  # (3, 256)
    hu: npt.NDArray[np.float64]  # (7,)
    haralick: npt.NDArray[np.float64] | None  # (13,); None where a direction has no pair of neighbours
    spectrum: npt.NDArray[np.complex128]  # half spectrum of grey (H, W//2 + 1)


def _features(image: Image) -> _Features:
    grey = cast("Image", cv2.cvtColor(image, cv2.COLOR_BGR2GRAY))
    moments = cv2.HuMoments(cv2.moments(grey)).ravel()
    logarithms = np.log10(np.abs(moments), out=np.zeros_like(moments), where=moments != 0)
    return _Features(
        grey,
        _channel_histograms(image),
        -np.sign(moments) * logarithms,
        _haralick_features(_cooccurrences(grey)) if min(grey.shape) > 1 else None,
        scipy.fft.rfft2(grey.astype(np.float64), norm="ortho"),
    )


def _checked(image: Image) -> Image:
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or image.size == 0:
        raise ValueError(f"Expected an 8-bit image (H, W, 3). Received: {image.dtype} {image.shape}")
    return np.ascontiguousarray(image)


def _pixel_errors(image: Image, other: Image, threshold: int) -> dict[str, float | None]:
    squares = cv2.norm(image, other, cv2.NORM_L2SQR)
    kept = cv2.inRange(cv2.absdiff(image, other), (0.0,) * 3, (float(threshold),) * 3)
    mse = squares / image.size
    return {
        "mse": mse,
        "rmse": math.sqrt(mse),
        "psnr": 10 * math.log10(255**2 / mse) if squares else None,
        "changed_percent": 100 * (kept.size - cv2.countNonZero(kept)) / kept.size,
    }


def _histogram_comparison(mine: Array, theirs: Array) -> dict[str, float | None]:
    distances = [
        cv2.compareHist(_normalised(first), _normalised(second), cv2.HISTCMP_BHATTACHARYYA)
        for first, second in zip(mine, theirs, strict=True)
    ]
    return {
        "hist_bhattacharyya": sum(distances) / 3,
        **{f"hist_bhattacharyya_{channel}": value for channel, value in zip("bgr", distances, strict=True)},
        "hist_intersection": float(np.minimum(mine, theirs).sum() / mine.sum()),
    }


def _normalised(histogram: Array) -> Array:
    """Return the histogram as OpenCV keeps one: float32, summing to 1."""
    counts = histogram.astype(np.float32)
    return cv2.normalize(counts, counts, alpha=1.0, norm_type=cv2.NORM_L1)


def _information(mine: Image, theirs: Image) -> dict[str, float | None]:
    first, second, joint = _entropies(_joint_histogram(mine, theirs))
    return {
        # H(I|J) + H(J|I) = 2·H(I,J) − H(I) − H(J)
        "variation_of_information": max(2 * joint - first - second, 0.0),
        "normalized_mutual_information": (first + second) / joint if joint > 0 else None,
    }


def _spectral_comparison(mine: Array, theirs: Array, width: int, low: Array) -> dict[str, float | None]:
    totals = _spectral_sums(mine, theirs, low, width)
    count_low, count_high, error_low, error_high, energy, other_energy, loss, spread, other_spread, shared = totals
    flat = spread <= CONSTANT**2 * energy or other_spread <= CONSTANT**2 * other_energy
    return {
        "mse_low": error_low / count_low,
        "mse_high": error_high / count_high if count_high else None,
        "spectral_correlation": None if flat else _clipped(shared / math.sqrt(spread) / math.sqrt(other_spread)),
        "spectral_loss": math.sqrt(loss / energy) if energy > 0 else None,
    }


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


def _compiled(function: Function) -> Function:
    """Compile with Numba, without its cache where no folder for one can be written."""
    # reassociation lets the sums use vector registers; it changes their last digits only
    options: dict[str, Any] = {"nogil": True, "error_model": "numpy", "fastmath": {"reassoc", "contract", "nsz"}}
    try:
        return cast("Function", numba.njit(cache=True, **options)(function))
    except RuntimeError:
        return cast("Function", numba.njit(**options)(function))


@_compiled
def _channel_histograms(image: Image) -> npt.NDArray[np.int64]:
    """Return the 256-bin histogram of each channel, (3, 256)."""
    histograms = np.zeros((3, LEVELS), np.int64)
    for row in range(image.shape[0]):
        for column in range(image.shape[1]):
            for channel in range(3):
                histograms[channel, image[row, column, channel]] += 1
    return histograms


@_compiled
def _joint_histogram(mine: Image, theirs: Image) -> npt.NDArray[np.int64]:
    """Return how often grey level i stands where the other image has j, (256, 256)."""
    joint = np.zeros((LEVELS, LEVELS), np.int64)
    for row in range(mine.shape[0]):
        for column in range(mine.shape[1]):
            joint[mine[row, column], theirs[row, column]] += 1
    return joint


@_compiled
def _entropies(joint: npt.NDArray[np.int64]) -> tuple[float, float, float]:
    """Return H(I), H(J) and H(I,J) in bits."""
    joint_sum = 0.0
    rows = np.zeros(LEVELS, np.int64)
    columns = np.zeros(LEVELS, np.int64)
    for i in range(LEVELS):
        for j in range(LEVELS):
            count = joint[i, j]
            if count:
                rows[i] += count
                columns[j] += count
                joint_sum += count * math.log2(count)
    total = rows.sum()
    return _entropy(rows, total), _entropy(columns, total), math.log2(total) - joint_sum / total


@_compiled
def _entropy(counts: npt.NDArray[np.int64], total: int) -> float:
    """Return the entropy in bits of counts with this total: log2 T − Σ c·log2 c / T."""
    weighted = 0.0
    for count in counts:
        if count:
            weighted += count * math.log2(count)
    return math.log2(total) - weighted / total


@_compiled
def _window_sums(image: Image) -> tuple[Array, Array]:
    """Return Σx and 49·Σx² − (Σx)² of every 7×7 window of an interleaved image (H, 3W), each (H − 6, 3W − 18)."""
    height, width = image.shape
    size = width - 3 * (SSIM_WINDOW - 1)
    sums = np.empty((height - SSIM_WINDOW + 1, size), np.int32)
    spreads = np.empty_like(sums)
    columns = np.zeros(width, np.int32)
    squares = np.zeros(width, np.int32)
    for row in range(height):
        for column in range(width):
            value = np.int32(image[row, column])
            columns[column] += value
            squares[column] += value * value
        top = row - SSIM_WINDOW + 1
        if top < 0:
            continue
        for column in range(size):
            total = np.int32(0)
            square = np.int32(0)
            for step in range(SSIM_WINDOW):
                total += columns[column + 3 * step]
                square += squares[column + 3 * step]
            sums[top, column] = total
            spreads[top, column] = np.int32(SSIM_WINDOW**2) * square - total * total
        for column in range(width):
            value = np.int32(image[top, column])
            columns[column] -= value
            squares[column] -= value * value
    return sums, spreads


@_compiled
def _mean_ssim(image: Image, other: Image, sums: Array, spreads: Array) -> float:
    """Return the mean SSIM of two interleaved images (H, 3W), as scikit-image's default.

    One pass over whole numbers: with n = 49, 49²·μxμy = ΣxΣy and 49·48·cov = 49·Σxy − ΣxΣy. All fit 32 bits
    (49²·255²·2 < 2³¹). Windows are those inside the image, which is scikit-image's crop of the border.
    sums, spreads: the original's from `_window_sums`.
    """
    height, width = image.shape
    size = width - 3 * (SSIM_WINDOW - 1)
    n = SSIM_WINDOW**2
    luminance_constant = (0.01 * 255) ** 2 * n * n
    contrast_constant = (0.03 * 255) ** 2 * n * (n - 1)
    columns = np.zeros(width, np.int32)
    squares = np.zeros(width, np.int32)
    products = np.zeros(width, np.int32)
    mean = 0.0
    for row in range(height):
        for column in range(width):
            value = np.int32(other[row, column])
            columns[column] += value
            squares[column] += value * value
            products[column] += value * np.int32(image[row, column])
        top = row - SSIM_WINDOW + 1
        if top < 0:
            continue
        row_sum = 0.0
        for column in range(size):
            total = np.int32(0)
            square = np.int32(0)
            product = np.int32(0)
            for step in range(SSIM_WINDOW):
                total += columns[column + 3 * step]
                square += squares[column + 3 * step]
                product += products[column + 3 * step]
            mine = sums[top, column]
            means = np.int32(mine * total)
            numerator = (2.0 * means + luminance_constant) * (2.0 * np.int32(n * product - means) + contrast_constant)
            energy = np.int32(mine * mine + total * total)
            spread = np.int32(spreads[top, column] + np.int32(n * square - total * total))
            row_sum += numerator / ((energy + luminance_constant) * (spread + contrast_constant))
        mean += row_sum
        for column in range(width):
            value = np.int32(other[top, column])
            columns[column] -= value
            squares[column] -= value * value
            products[column] -= value * np.int32(image[top, column])
    return mean / (size * (height - SSIM_WINDOW + 1))


@_compiled
def _cooccurrences(grey: Image) -> npt.NDArray[np.int32]:
    """Return the co-occurrence counts (4, 256, 256) of a pixel with its right, lower right, lower and lower left
    neighbours, the larger level first: the lower triangle of mahotas's symmetric matrix, its diagonal halved.
    """
    counts = np.zeros((4, LEVELS, LEVELS), np.int32)
    height, width = grey.shape
    for row in range(height):
        below = row + 1 < height
        for column in range(width):
            level = grey[row, column]
            if column + 1 < width:
                _count_pair(counts[0], level, grey[row, column + 1])
                if below:
                    _count_pair(counts[1], level, grey[row + 1, column + 1])
            if below:
                _count_pair(counts[2], level, grey[row + 1, column])
                if column > 0:
                    _count_pair(counts[3], level, grey[row + 1, column - 1])
    return counts


@_compiled
def _count_pair(counts: npt.NDArray[np.int32], level: int, neighbour: int) -> None:
    counts[max(level, neighbour), min(level, neighbour)] += 1


@_compiled
def _haralick_features(counts: npt.NDArray[np.int32]) -> npt.NDArray[np.float64]:
    """Return Haralick's features 1–13, mean of the directions, from `_cooccurrences`.

    As mahotas: logarithms to base 2, feature 10 the variance of the values of P(|x−y|), the level range up to the
    image's largest level. The matrix is symmetric, so P(x) = P(y), and HXY1 = HXY2 = 2·H(x).
    """
    features = np.zeros(13)
    levels = 0
    for level in range(LEVELS):
        for other in range(level + 1):
            if counts[0, level, other] or counts[2, level, other]:
                levels = level + 1
    for direction in range(4):
        marginal = np.zeros(LEVELS, np.int64)
        plus = np.zeros(2 * LEVELS, np.int64)
        minus = np.zeros(LEVELS, np.int64)
        squares = 0.0
        weighted = 0.0
        for i in range(levels):
            for j in range(i + 1):
                count = counts[direction, i, j]
                if count == 0:
                    continue
                # cells (i, j) and (j, i), or the one cell of the diagonal counted from both its pixels
                cell = 2 * count if i == j else count
                cells = 1 if i == j else 2
                marginal[i] += count
                marginal[j] += count
                plus[i + j] += 2 * count
                minus[i - j] += 2 * count
                squares += float(cells) * cell * cell
                weighted += cells * cell * math.log2(cell)
        total = marginal.sum()
        mean = 0.0
        mean_square = 0.0
        contrast = 0.0
        homogeneity = 0.0
        sum_mean = 0.0
        sum_square = 0.0
        difference_square = 0.0
        for level in range(levels):
            mean += level * marginal[level]
            mean_square += float(level * level) * marginal[level]
            contrast += float(level * level) * minus[level]
            homogeneity += minus[level] / (1.0 + level * level)
            difference_square += (minus[level] / total - 1.0 / levels) ** 2
        for level in range(2 * levels):
            sum_mean += level * plus[level]
            sum_square += float(level * level) * plus[level]
        mean /= total
        sum_mean /= total
        variance = mean_square / total - mean * mean
        entropy = math.log2(total) - weighted / total
        marginal_entropy = _entropy(marginal, total)
        # (i + j)² − (i − j)² = 4ij
        covariance = (sum_square - contrast) / 4 / total - mean * mean
        features[0] += squares / (float(total) * total)
        features[1] += contrast / total
        features[2] += covariance / variance if variance > 0 else 1.0
        features[3] += variance
        features[4] += homogeneity / total
        features[5] += sum_mean
        features[6] += sum_square / total - sum_mean * sum_mean
        features[7] += _entropy(plus, total)
        features[8] += entropy
        features[9] += difference_square / levels
        features[10] += _entropy(minus, total)
        shared = entropy - 2 * marginal_entropy
        features[11] += shared / marginal_entropy if marginal_entropy > 0 else shared
        features[12] += math.sqrt(max(0.0, 1 - math.exp(2 * shared)))
    return features / 4


@_compiled
def _spectral_sums(
    mine: npt.NDArray[np.complex128], theirs: npt.NDArray[np.complex128], low: npt.NDArray[np.bool_], width: int
) -> tuple[int, int, float, float, float, float, float, float, float, float]:
    """Return sums over the whole spectrum from its half: each column but the first, and the last of an even width,
    stands for itself and its mirror image.

    Counts of low and high frequencies, Σ|F − G|² of each, Σ|F|², Σ|G|², Σ(|F| − |G|)², and the centred
    Σ|F|², Σ|G|², Σ|F||G|.
    """
    height, half = mine.shape
    first = np.empty((height, half))
    second = np.empty((height, half))
    counts = np.zeros(2, np.int64)
    errors = np.zeros(2)
    energy = 0.0
    other_energy = 0.0
    loss = 0.0
    first_sum = 0.0
    second_sum = 0.0
    for row in range(height):
        for column in range(half):
            weight = 1.0 if column == 0 or 2 * column == width else 2.0
            one, two = mine[row, column], theirs[row, column]
            difference = one - two
            error = weight * (difference.real * difference.real + difference.imag * difference.imag)
            one_square = one.real * one.real + one.imag * one.imag
            two_square = two.real * two.real + two.imag * two.imag
            one_size, two_size = math.sqrt(one_square), math.sqrt(two_square)
            first[row, column] = one_size
            second[row, column] = two_size
            part = 0 if low[row, column] else 1
            counts[part] += np.int64(weight)
            errors[part] += error
            energy += weight * one_square
            other_energy += weight * two_square
            loss += weight * (one_size - two_size) ** 2
            first_sum += weight * one_size
            second_sum += weight * two_size
    size = height * width
    first_mean, second_mean = first_sum / size, second_sum / size
    spread = 0.0
    other_spread = 0.0
    shared = 0.0
    for row in range(height):
        for column in range(half):
            weight = 1.0 if column == 0 or 2 * column == width else 2.0
            one_size = first[row, column] - first_mean
            two_size = second[row, column] - second_mean
            spread += weight * one_size * one_size
            other_spread += weight * two_size * two_size
            shared += weight * one_size * two_size
    return (
        counts[0],
        counts[1],
        errors[0],
        errors[1],
        energy,
        other_energy,
        loss,
        spread,
        other_spread,
        shared,
    )
