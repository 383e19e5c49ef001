"""Loops over pixels that are slow in the libraries, compiled by Numba.

They use whole numbers wherever the definition allows, so they agree with scikit-image and mahotas up to rounding.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple, TypeVar, cast

import numba
import numpy as np
import numpy.typing as npt

Image = npt.NDArray[np.uint8]
Array = npt.NDArray[Any]
Function = TypeVar("Function", bound=Callable[..., Any])

SSIM_WINDOW = 7
LEVELS = 256


def compiled(function: Function) -> Function:
    """Compile with Numba, without a cache where its folder cannot be written."""
    # reassociation lets the sums use vector registers; it changes their last digits only
    options: dict[str, Any] = {"nogil": True, "error_model": "numpy", "fastmath": {"reassoc", "contract", "nsz"}}
    try:
        return cast("Function", numba.njit(cache=True, **options)(function))
    except RuntimeError:
        return cast("Function", numba.njit(**options)(function))


@compiled
def channel_histograms(image: Image) -> npt.NDArray[np.int64]:
    """Return the 256-bin histogram of each channel, (3, 256)."""
    histograms = np.zeros((3, LEVELS), np.int64)
    for row in range(image.shape[0]):
        for column in range(image.shape[1]):
            for channel in range(3):
                histograms[channel, image[row, column, channel]] += 1
    return histograms


@compiled
def joint_histogram(mine: Image, theirs: Image) -> npt.NDArray[np.int64]:
    """Return the number of pixels with grey level i in one image and j in the other, (256, 256)."""
    joint = np.zeros((LEVELS, LEVELS), np.int64)
    for row in range(mine.shape[0]):
        for column in range(mine.shape[1]):
            joint[mine[row, column], theirs[row, column]] += 1
    return joint


def entropies(joint: npt.NDArray[np.int64]) -> tuple[float, float, float]:
    """Return H(I), H(J) and H(I,J) in bits."""
    total = joint.sum()
    return entropy(joint.sum(axis=1), total), entropy(joint.sum(axis=0), total), entropy(joint.ravel(), total)


@compiled
def entropy(counts: npt.NDArray[np.int64], total: int) -> float:
    """Return the entropy in bits of counts with this total, −Σ p·log2 p; 0 to the bit where one holds all."""
    bits = 0.0
    for count in counts:
        if count:
            bits -= count / total * math.log2(count / total)
    return float(bits)


@compiled
def window_sums(image: Image) -> tuple[Array, Array]:
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


@compiled
def mean_ssim(image: Image, other: Image, sums: Array, spreads: Array) -> float:
    """Return the mean SSIM of two interleaved images (H, 3W), as scikit-image's default.

    One pass over whole numbers: with n = 49, 49²·μxμy = ΣxΣy and 49·48·cov = 49·Σxy − ΣxΣy. All fit 32 bits
    (49²·255²·2 < 2³¹). Windows are those inside the image, which is scikit-image's crop of the border.
    sums, spreads: the original's from `window_sums`.
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
    return float(mean / (size * (height - SSIM_WINDOW + 1)))


@compiled
def cooccurrences(grey: Image) -> npt.NDArray[np.int32]:
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


@compiled
def _count_pair(counts: npt.NDArray[np.int32], level: int, neighbour: int) -> None:
    counts[max(level, neighbour), min(level, neighbour)] += 1


@compiled
def haralick_features(counts: npt.NDArray[np.int32]) -> npt.NDArray[np.float64]:
    """Return Haralick's features 1–13, mean of the directions, from `cooccurrences`.

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
        pairs = 0
        for i in range(levels):
            for j in range(i + 1):
                pairs += counts[direction, i, j]
        total = 2 * pairs
        squares = 0.0
        joint_entropy = 0.0
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
                joint_entropy -= cells * (cell / total) * math.log2(cell / total)
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
        marginal_entropy = entropy(marginal, total)
        # (i + j)² − (i − j)² = 4ij
        covariance = (sum_square - contrast) / 4 / total - mean * mean
        features[0] += squares / (float(total) * total)
        features[1] += contrast / total
        features[2] += covariance / variance if variance > 0 else 1.0
        features[3] += variance
        features[4] += homogeneity / total
        features[5] += sum_mean
        features[6] += sum_square / total - sum_mean * sum_mean
        features[7] += entropy(plus, total)
        features[8] += joint_entropy
        features[9] += difference_square / levels
        features[10] += entropy(minus, total)
        shared = joint_entropy - 2 * marginal_entropy
        features[11] += shared / marginal_entropy if marginal_entropy > 0 else shared
        features[12] += math.sqrt(max(0.0, 1 - math.exp(2 * shared)))
    return features / 4


class SpectralSums(NamedTuple):
    """Sums over the frequencies of two spectra F and G."""

    count_low: int  # frequencies up to the cutoff
    count_high: int
    error_low: float  # Σ|F − G|²
    error_high: float
    energy: float  # Σ|F|²
    other_energy: float  # Σ|G|²
    loss: float  # Σ(|F| − |G|)²
    spread: float  # Σ(|F| − mean)²
    other_spread: float
    shared: float  # Σ(|F| − mean)(|G| − mean)


@compiled
def spectral_sums(
    mine: npt.NDArray[np.complex128], theirs: npt.NDArray[np.complex128], low: npt.NDArray[np.bool_], width: int
) -> SpectralSums:
    """Return sums over the whole spectrum from its half: each column but the first, and the last of an even width,
    stands for itself and its mirror image.
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
    return SpectralSums(
        counts[0], counts[1], errors[0], errors[1], energy, other_energy, loss, spread, other_spread, shared
    )
