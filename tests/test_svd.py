"""The decomposition compared with NumPy's SVD, closed forms and invariants."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.ndimage import gaussian_filter

from core.compression import reference
from core.compression.svd import (
    MODES,
    MOST_BYTES,
    break_even_k,
    check_cost,
    decompose,
    decomposition_bytes,
    factor_bytes,
    largest_k,
)
from core.data.images import decode
from core.errors import ImageError, SpecError

Image = npt.NDArray[np.uint8]

SIZES = ((1, 1), (1, 9), (9, 1), (2, 2), (5, 6), (7, 7), (33, 47), (61, 20), (40, 150), (150, 40))


def photograph(height: int, width: int, seed: int = 0) -> Image:
    """Return smooth shading with fine noise, like a photograph, so that the spectrum falls steeply."""
    random = np.random.default_rng(seed)
    shading = gaussian_filter(random.standard_normal((height, width, 3)), (height / 6, width / 6, 0.5))
    shading *= 40 / max(shading.std(), 1e-9)
    return np.clip(np.rint(150 + shading + 3 * random.standard_normal(shading.shape)), 0, 255).astype(np.uint8)


def plain_matrices(image: Image, mode: str) -> list[npt.NDArray[np.float64]]:
    channels = [image[:, :, channel].astype(np.float64) for channel in range(3)]
    return channels if mode == "per_channel" else [np.hstack(channels)]


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("size", SIZES)
def test_reconstructions_equal_those_of_numpys_svd(size: tuple[int, int], mode: str) -> None:
    image = photograph(*size)
    factors, plain = decompose(image, mode), reference.decompose(image, mode)
    ks = sorted({1, min(2, factors.rank), factors.rank // 2 or 1, max(1, factors.rank - 1), factors.rank})
    received = dict(factors.reconstructions(ks))
    assert list(received) == ks
    for k in ks:
        assert received[k].shape == image.shape
        assert received[k].dtype == np.uint8
        assert received[k].flags.c_contiguous
        difference = cv2.absdiff(received[k], reference.reconstruct(plain, k)).max(axis=2)
        assert difference.max() <= 1
        # one pixel of a tiny image may be rounded differently
        assert np.count_nonzero(difference) <= max(1, difference.size // 1000)


@pytest.mark.parametrize("size", [(40, 150), (150, 40), (449, 300)])
def test_one_k_gives_the_same_pixels_alone_and_in_any_list(size: tuple[int, int]) -> None:
    factors = decompose(photograph(*size))
    ks = sorted({1, 17, factors.rank // 2, factors.rank - 1, factors.rank})
    for k, received in factors.reconstructions(ks):
        np.testing.assert_array_equal(factors.reconstruct(k), received)
        np.testing.assert_array_equal(dict(factors.reconstructions((k, factors.rank)))[k], received)


@pytest.mark.parametrize("seed", [1, 2])
def test_at_450x600_at_most_one_pixel_in_a_thousand_differs_from_the_reference(seed: int) -> None:
    image = photograph(450, 600, seed)
    plain = reference.decompose(image)
    for k, received in decompose(image).reconstructions((1, 20, 100, 350, 449, 450)):
        difference = cv2.absdiff(received, reference.reconstruct(plain, k)).max(axis=2)
        assert difference.max() <= 1
        assert np.mean(difference > 0) <= 1e-3


@pytest.mark.real_data
def test_on_a_real_original_at_most_one_pixel_in_a_thousand_differs_from_the_reference(real_data: Path) -> None:
    image = decode(min((real_data / "ham10000" / "images").glob("*.jpg")))
    plain = reference.decompose(image)
    for k, received in decompose(image).reconstructions((100, 200, 300, 350, 400, 450)):
        difference = cv2.absdiff(received, reference.reconstruct(plain, k)).max(axis=2)
        assert difference.max() <= 1
        assert np.mean(difference > 0) <= 1e-3


@settings(max_examples=60, deadline=None)
@given(
    image=arrays(np.uint8, st.tuples(st.integers(1, 12), st.integers(1, 12), st.just(3))),
    mode=st.sampled_from(MODES),
)
def test_the_full_rank_reconstructs_any_image_exactly(image: Image, mode: str) -> None:
    factors = decompose(image, mode)
    assert factors.rank == largest_k(*image.shape[:2], mode)
    np.testing.assert_array_equal(factors.reconstruct(factors.rank), image)


@pytest.mark.parametrize("mode", MODES)
def test_an_image_of_low_rank_is_reconstructed_exactly_from_its_rank_upwards(mode: str) -> None:
    # outer products of whole numbers: rank 2 in every channel and in the unfolded matrix
    random = np.random.default_rng(3)
    left, right = random.integers(0, 8, (40, 2)), random.integers(0, 8, (2, 55))
    image = np.repeat((left @ right).astype(np.uint8)[:, :, None], 3, axis=2)
    for _, received in decompose(image, mode).reconstructions((2, 3, 20, 39, 40)):
        np.testing.assert_array_equal(received, image)


@pytest.mark.parametrize("level", [0, 1, 127, 255])
def test_a_constant_image_needs_one_singular_value(level: int) -> None:
    image = np.full((30, 44, 3), level, np.uint8)
    factors = decompose(image)
    np.testing.assert_array_equal(factors.reconstruct(1), image)
    np.testing.assert_allclose(factors.singular_values[:, 0], level * np.sqrt(30 * 44))
    np.testing.assert_allclose(factors.singular_values[:, 1:], 0, atol=1e-9)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("size", [(33, 47), (61, 20), (1, 1)])
def test_singular_values_equal_those_of_numpy(size: tuple[int, int], mode: str) -> None:
    image = photograph(*size)
    expected = [np.linalg.svd(matrix, compute_uv=False) for matrix in plain_matrices(image, mode)]
    factors = decompose(image, mode)
    np.testing.assert_allclose(factors.singular_values, expected, rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(factors.energies, np.square(expected), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("mode", MODES)
def test_explained_variance_is_the_mean_share_of_the_matrices(mode: str) -> None:
    image = photograph(45, 60)
    image[:, :, 2] //= 4
    factors = decompose(image, mode)
    spectra = [np.linalg.svd(matrix, compute_uv=False) ** 2 for matrix in plain_matrices(image, mode)]
    for k in (1, 7, 44, 45):
        expected = np.mean([spectrum[:k].sum() / spectrum.sum() for spectrum in spectra])
        assert factors.explained_variance(k) == pytest.approx(expected, rel=1e-12)
    assert factors.explained_variance(factors.rank) == 1.0


def test_explained_variance_ignores_black_channels_and_is_undefined_without_others() -> None:
    image = photograph(20, 30)
    image[:, :, 0] = 0
    spectra = [np.linalg.svd(image[:, :, channel].astype(float), compute_uv=False) ** 2 for channel in (1, 2)]
    expected = np.mean([spectrum[:3].sum() / spectrum.sum() for spectrum in spectra])
    assert decompose(image).explained_variance(3) == pytest.approx(expected, rel=1e-12)
    assert decompose(np.zeros((20, 30, 3), np.uint8)).explained_variance(3) is None


def test_the_squared_error_of_a_truncation_is_the_energy_left_out() -> None:
    # Eckart–Young: ‖A − A_k‖² = Σ_{i>k} s_i², up to the rounding of the pixels (1/12 each)
    image = np.clip(photograph(90, 120), 40, 215)
    factors = decompose(image)
    error = np.sum((image.astype(float) - factors.reconstruct(10)) ** 2)
    expected = factors.energies[:, 10:].sum() + image.size / 12
    assert error == pytest.approx(expected, rel=0.02)


@pytest.mark.parametrize("k", [0, -1, 21, True, 2.0, None])
def test_a_k_outside_the_rank_raises_an_error_with_the_rank(k: int) -> None:
    factors = decompose(photograph(20, 30))
    for call in (factors.reconstruct, factors.explained_variance, lambda k: list(factors.reconstructions((1, k)))):
        with pytest.raises(SpecError, match=r"rank, 20, got "):
            call(k)
    with pytest.raises(SpecError, match="rank, 20"):
        factor_bytes(k, 20, 30)


def test_reconstructions_are_sorted_by_k_without_duplicates() -> None:
    factors = decompose(photograph(20, 30))
    assert [k for k, _ in factors.reconstructions((7, 3, 20, 7))] == [3, 7, 20]
    assert list(factors.reconstructions(())) == []


def test_an_unknown_mode_and_invalid_images_are_refused() -> None:
    with pytest.raises(SpecError, match=r"per_channel, unfolded.*'rows'"):
        decompose(photograph(5, 5), "rows")
    for wrong in (np.zeros((5, 5), np.uint8), np.zeros((5, 5, 3)), np.zeros((0, 5, 3), np.uint8)):
        with pytest.raises(ValueError, match="8-bit image"):
            decompose(wrong)


def test_factor_sizes_and_break_even_equal_the_articles() -> None:
    assert factor_bytes(350, 450, 600) == 2 * 3 * 350 * 1051
    assert factor_bytes(350, 450, 600, "unfolded") == 2 * 350 * (450 + 1800 + 1)
    assert break_even_k(450, 600) == pytest.approx(256.9, abs=0.05)
    assert break_even_k(450, 600, "unfolded") == pytest.approx(450 * 1800 / 2251)
    assert largest_k(450, 600) == 450
    assert largest_k(600, 100, "unfolded") == 300


@pytest.mark.parametrize(
    ("size", "mode", "allowed"),
    [
        ((450, 600), "per_channel", True),
        ((4000, 6000), "per_channel", True),
        ((6000, 4000), "unfolded", True),
        ((9999, 9999), "per_channel", False),
        ((9999, 9999), "unfolded", False),
        ((1, 90_000_000), "per_channel", True),
    ],
)
def test_an_image_whose_decomposition_needs_too_much_memory_is_refused(
    size: tuple[int, int], mode: str, allowed: bool
) -> None:
    assert (decomposition_bytes(*size, mode) <= MOST_BYTES) == allowed
    if allowed:
        check_cost(*size, mode)
        return
    with pytest.raises(ImageError, match=r"at most 2\.5 GB .* 9999×9999, which needs"):
        check_cost(*size, mode)
    # zeros need no memory until they are written to, so this tests that the refusal comes first
    with pytest.raises(ImageError):
        decompose(np.zeros((*size, 3), np.uint8), mode)
