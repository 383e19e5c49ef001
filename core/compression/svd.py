"""Truncated singular value decomposition of an 8-bit image, with one decomposition for every k.

The Gram matrix of the shorter side is decomposed (symmetric eigenproblem, float64) instead of the image, which halves
the work. A reconstruction is the image minus the truncated part, A − Σ_{i>k} u_i (u_iᵀ A). That remainder is small, so
float32 suffices for it, and the full rank reproduces A exactly.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import cast

import cv2
import numpy as np
import numpy.typing as npt

from core.errors import ImageError, SpecError

MODES = ("per_channel", "unfolded")
# Singular triples summed at once; the article's k are multiples of it, below a rank of 450.
BLOCK = 50

# Memory limit of one decomposition: 4000×6000 needs 1.4e9 (unfolded up to 2.3e9), 9999×9999 7.6e9. Each worker may run
# one.
MOST_BYTES = 2_500_000_000

Image = npt.NDArray[np.uint8]


@dataclass(frozen=True, eq=False)
class SVDFactors:
    """The decomposition of one image, which can be truncated at any k.

    mode: one of `MODES`.
    matrices: the image as float32 matrices (rows, columns) with rows ≤ columns, transposed where `transposed`;
        three `per_channel`, one `unfolded` (channels side by side).
    vectors: for each matrix its left singular vectors (rows, rows), float64, largest singular value first.
    energies: squared singular values (matrices, rank), float64, never negative.
    """

    mode: str
    matrices: tuple[npt.NDArray[np.float32], ...]
    vectors: tuple[npt.NDArray[np.float64], ...]
    energies: npt.NDArray[np.float64]
    transposed: bool

    @property
    def rank(self) -> int:
        """The largest k: min(H, W), or min(H, 3W) where unfolded."""
        return int(self.energies.shape[1])

    @cached_property
    def singular_values(self) -> npt.NDArray[np.float64]:
        """Singular values (matrices, rank), descending.

        They are computed from the matrices, because roots of `energies` are noise below 1e-8 of the largest.
        """
        import scipy.linalg  # here, because every process knows a decomposition's size, and few decompose

        return np.stack([scipy.linalg.svdvals(matrix.astype(np.float64)) for matrix in self.matrices])

    def reconstruct(self, k: int) -> Image:
        """Return the image (H, W, 3) of the k largest singular values, rounded and clipped to 0–255.

        Raises `SpecError` naming the rank if k is not in 1..rank.
        """
        return next(self.reconstructions((k,)))[1]

    def reconstructions(self, ks: Iterable[int]) -> Iterator[tuple[int, Image]]:
        """Yield (k, image) for each distinct k, ascending.

        The images are computed from the largest k down and kept as 8 bits until they are yielded.
        """
        wanted = sorted({check_k(k, self.rank) for k in ks})
        layers: list[list[Image]] = [[] for _ in wanted]
        for matrix, vectors in zip(self.matrices, self.vectors, strict=True):
            for layer, plane in zip(layers, _truncations(matrix, vectors, wanted), strict=True):
                layer.append(plane)
        for k, layer in zip(wanted, layers, strict=True):
            yield k, self._assemble(layer)

    def explained_variance(self, k: int) -> float | None:
        """Return Σ of the k largest s² over Σs² (0..1, mean of the matrices).

        A black matrix has no variance and is not part of the mean; None for a black image.
        """
        check_k(k, self.rank)
        totals = self.energies.sum(axis=1)
        lit = totals > 0
        if not lit.any():
            return None
        shares = self.energies[lit, :k].sum(axis=1) / totals[lit]
        return min(float(shares.mean()), 1.0)

    def _assemble(self, planes: list[Image]) -> Image:
        upright = [plane.T if self.transposed else plane for plane in planes]
        if self.mode == "unfolded":
            upright = np.split(upright[0], 3, axis=1)
        # OpenCV's merge is ten times as fast as NumPy's stack
        return cast("Image", cv2.merge([np.ascontiguousarray(plane) for plane in upright]))


def decompose(image: Image, mode: str = "per_channel") -> SVDFactors:
    """Decompose an 8-bit image (H, W, 3).

    mode: `per_channel` (one H×W matrix per channel) or `unfolded` (one H×3W matrix, the channels side by side,
    the article's "along the Y-dimension"). Raises `SpecError` for another mode, `ImageError` for an image whose
    decomposition needs more than `MOST_BYTES`.
    """
    check_mode(mode)
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or image.size == 0:
        raise ValueError(f"Expected an 8-bit image (H, W, 3), got {image.dtype} {image.shape}.")
    check_cost(image.shape[0], image.shape[1], mode)
    planes = cv2.split(image) if mode == "per_channel" else (np.concatenate(cv2.split(image), axis=1),)
    rows, columns = planes[0].shape
    transposed = rows > columns
    matrices = tuple(np.ascontiguousarray(plane.T if transposed else plane, dtype=np.float32) for plane in planes)
    vectors, energies = zip(*map(_left_vectors, matrices), strict=True)
    return SVDFactors(mode, matrices, vectors, np.stack(energies), transposed)


def factor_bytes(k: int, height: int, width: int, mode: str = "per_channel") -> int:
    """Return the bytes of the factors U, Σ, Vᵀ as float16: k(H+W+1) numbers per matrix, 2 bytes each."""
    matrices, rows, columns = _shapes(height, width, mode)
    return 2 * matrices * check_k(k, min(rows, columns)) * (rows + columns + 1)


def break_even_k(height: int, width: int, mode: str = "per_channel") -> float:
    """Return the k at which the factors have as many numbers as the image: HW/(H+W+1), 256.9 for 450×600."""
    _, rows, columns = _shapes(height, width, mode)
    return rows * columns / (rows + columns + 1)


def largest_k(height: int, width: int, mode: str = "per_channel") -> int:
    """Return the largest possible rank of an image of this size: min(H, W), or min(H, 3W) where unfolded."""
    _, rows, columns = _shapes(height, width, mode)
    return min(rows, columns)


def decomposition_bytes(height: int, width: int, mode: str = "per_channel") -> int:
    """Return the approximate memory of a decomposition in bytes.

    With m rows and n columns per matrix, m ≤ n, it keeps the matrices as float32 (4mn each) and their vectors as
    float64 (8m² each), and temporarily one matrix as float64 (8mn) with its eigenproblem (32m²). 2000×3000 per channel:
    344 MB computed, 367 MB measured. The time is proportional to m²n.
    """
    matrices, rows, columns = _shapes(height, width, mode)
    m, n = min(rows, columns), max(rows, columns)
    return matrices * (4 * m * n + 8 * m * m) + 8 * m * n + 32 * m * m


def check_cost(height: int, width: int, mode: str = "per_channel") -> None:
    """Raise `ImageError` for an image whose decomposition needs more than `MOST_BYTES` of memory."""
    needed = decomposition_bytes(height, width, mode)
    if needed > MOST_BYTES:
        raise ImageError(
            f"Expected an image whose decomposition needs at most {MOST_BYTES / 1e9:g} GB of memory, about 4000×6000,"
            f" got {height}×{width}, which needs {needed / 1e9:.1f} GB and minutes to hours. Resize it first."
        )


def check_k(k: int, rank: int) -> int:
    """Return k, or raise `SpecError` where it is not a whole number in 1..rank."""
    if isinstance(k, bool) or not isinstance(k, int | np.integer) or not 1 <= k <= rank:
        raise SpecError(f"Expected k to be a whole number from 1 to the rank, {rank}, got {k!r}.")
    return int(k)


def check_mode(mode: str) -> str:
    """Return the mode. Raises `SpecError` where it is not one of `MODES`."""
    if mode not in MODES:
        raise SpecError(f"Expected the mode to be one of {', '.join(MODES)}, got {mode!r}.")
    return mode


def _shapes(height: int, width: int, mode: str) -> tuple[int, int, int]:
    """Return the number of an image's matrices, and their rows and columns."""
    return (3, height, width) if check_mode(mode) == "per_channel" else (1, height, 3 * width)


def _left_vectors(matrix: npt.NDArray[np.float32]) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Return the left singular vectors and the squared singular values, largest first.

    Everything is float64: the squared spectrum spans 1e10 to 30, and float32 makes a third of the pixels wrong. The
    Gram matrix is exact, because it sums products of whole numbers.
    """
    import scipy.linalg

    exact = matrix.astype(np.float64)
    energies, vectors = scipy.linalg.eigh(exact @ exact.T, driver="evd", overwrite_a=True, check_finite=False)
    return vectors[:, ::-1], np.maximum(energies[::-1], 0.0)


def _truncations(matrix: npt.NDArray[np.float32], vectors: npt.NDArray[np.float64], ks: list[int]) -> list[Image]:
    """Return the 8-bit matrix truncated at each of the ascending ks.

    The truncated part is summed in blocks that do not depend on the list of ks, so that a k gives the same pixels alone
    and in a sweep.
    """
    remainder = np.zeros_like(matrix)
    planes: list[Image] = []
    wanted = list(ks)
    for upper in range(len(vectors), 0, -BLOCK):
        if wanted and wanted[-1] == upper:
            planes.append(_rounded(matrix, remainder))
            wanted.pop()
        if not wanted:
            break
        lower = max(upper - BLOCK, 0)
        left = vectors[:, lower:upper].astype(np.float32)  # (rows, block)
        right = left.T @ matrix  # (block, columns)
        while wanted and wanted[-1] > lower:
            inside = wanted.pop() - lower
            planes.append(_rounded(matrix, remainder + left[:, inside:] @ right[inside:]))
        if wanted:
            remainder += left @ right
    return planes[::-1]


def _rounded(matrix: npt.NDArray[np.float32], remainder: npt.NDArray[np.float32]) -> Image:
    """Return matrix − remainder, rounded half to even and clipped to 0–255."""
    return cast("Image", cv2.subtract(matrix, remainder, dtype=cv2.CV_8U))
