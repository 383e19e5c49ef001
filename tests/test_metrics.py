"""Every metric compared with NumPy, scikit-image, mahotas and OpenCV, closed forms and Parseval's theorem."""

from __future__ import annotations

import itertools
import math
import warnings
from collections.abc import Callable
from pathlib import Path

import cv2
import mahotas
import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.ndimage import gaussian_filter
from skimage.metrics import normalized_mutual_information, structural_similarity, variation_of_information

from core.compression import reference
from core.compression.comparison import Original, difference_map, low_frequencies, ssim_map, warm_up
from core.compression.metrics import METRICS, METRICS_BY_NAME
from core.compression.pixel_loops import compiled
from core.compression.specs import MetricParameters
from core.data.images import decode
from core.errors import ImageError, SpecError

Image = npt.NDArray[np.uint8]

SIZES = ((7, 7), (8, 31), (33, 47), (61, 20), (40, 150), (151, 41))


@pytest.fixture(scope="module", autouse=True)
def _compiled() -> None:
    warm_up()


def photograph(height: int, width: int, seed: int = 0) -> Image:
    """Return smooth shading with fine noise, like a photograph."""
    random = np.random.default_rng(seed)
    shading = gaussian_filter(random.standard_normal((height, width, 3)), (height / 6, width / 6, 0.5))
    shading *= 40 / max(shading.std(), 1e-9)
    return np.clip(np.rint(150 + shading + 3 * random.standard_normal(shading.shape)), 0, 255).astype(np.uint8)


def stored(image: Image, quality: int = 80) -> Image:
    return cv2.imdecode(cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, quality])[1], cv2.IMREAD_COLOR)


def compare(image: Image, other: Image, parameters: MetricParameters | None = None) -> dict[str, float | None]:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        return Original(image, parameters or MetricParameters()).compare(other)


def expected(image: Image, other: Image, parameters: MetricParameters | None = None) -> dict[str, float | None]:
    return reference.compare(reference.features(image), reference.features(other), parameters)


def assert_agrees(received: dict[str, float | None], wanted: dict[str, float | None]) -> None:
    assert list(received) == list(wanted)
    for name, value in wanted.items():
        assert received[name] == (value if value is None else pytest.approx(value, rel=1e-6, abs=1e-12)), name


def test_the_metrics_are_those_of_the_definitions_in_the_same_order() -> None:
    assert [metric.name for metric in METRICS] == [
        "mse",
        "rmse",
        "psnr",
        "ssim",
        "hist_bhattacharyya",
        "hist_bhattacharyya_b",
        "hist_bhattacharyya_g",
        "hist_bhattacharyya_r",
        "hist_intersection",
        "hu_distance",
        "hu_correlation",
        "haralick_distance",
        "haralick_correlation",
        "changed_percent",
        "variation_of_information",
        "normalized_mutual_information",
        "mse_low",
        "mse_high",
        "spectral_correlation",
        "spectral_loss",
        "explained_variance",
    ]
    high = {metric.name for metric in METRICS if metric.better == "high"}
    assert high == {
        "psnr",
        "ssim",
        "hist_intersection",
        "hu_correlation",
        "haralick_correlation",
        "normalized_mutual_information",
        "spectral_correlation",
        "explained_variance",
    }
    assert {metric.better for metric in METRICS} == {"low", "high"}
    assert all(metric.label and metric.definition.endswith(".") for metric in METRICS)
    assert METRICS_BY_NAME["ssim"].label == "SSIM"


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("seed", [0, 1])
def test_every_metric_agrees_with_the_reference_libraries(size: tuple[int, int], seed: int) -> None:
    image = photograph(*size, seed)
    other = stored(image)
    received = compare(image, other)
    assert list(received) == [metric.name for metric in METRICS if metric.name != "explained_variance"]
    assert_agrees(received, expected(image, other))


def test_every_metric_agrees_at_450x600_for_good_and_bad_reconstructions() -> None:
    image = photograph(450, 600)
    original = Original(image)
    for other in (stored(image, 95), stored(image, 5), np.ascontiguousarray(image[::-1, ::-1]), 255 - image):
        assert_agrees(original.compare(other), expected(image, other))


@pytest.mark.parametrize("size", [(1, 1), (1, 20), (20, 1), (6, 40), (20, 30)])
def test_metrics_and_reference_are_undefined_for_the_same_images(size: tuple[int, int]) -> None:
    image, black, grey = photograph(*size), np.zeros((*size, 3), np.uint8), np.full((*size, 3), 90, np.uint8)
    for one, two in itertools.product((image, photograph(*size, seed=1), black, grey), repeat=2):
        assert_agrees(compare(one, two), expected(one, two))
    parameters = MetricParameters(changed_threshold=3, radial_cutoff=0.45)
    other = photograph(*size, seed=2)
    assert_agrees(compare(image, other, parameters), expected(image, other, parameters))


@pytest.mark.real_data
def test_every_metric_agrees_on_a_real_original(real_data: Path) -> None:
    image = decode(min((real_data / "ham10000" / "images").glob("*.jpg")))
    other = stored(image, 95)
    assert_agrees(compare(image, other), expected(image, other))


@settings(max_examples=80, deadline=None)
@given(
    pair=st.tuples(st.integers(1, 11), st.integers(1, 11)).flatmap(
        lambda size: st.tuples(*[arrays(np.uint8, (*size, 3), elements=st.integers(0, 255))] * 2)
    )
)
def test_every_metric_of_any_image_pair_is_none_or_within_its_range(pair: tuple[Image, Image]) -> None:
    values = compare(*pair)
    assert all(value is None or math.isfinite(value) for value in values.values())
    for name, low, high in (
        ("ssim", -1, 1),
        ("hist_bhattacharyya", 0, 1),
        ("hist_intersection", 0, 1),
        ("hu_correlation", -1, 1),
        ("haralick_correlation", -1, 1),
        ("changed_percent", 0, 100),
        ("variation_of_information", 0, 16),
        ("normalized_mutual_information", 1 - 1e-12, 2 + 1e-12),
        ("spectral_correlation", -1, 1),
        ("spectral_loss", 0, math.inf),
    ):
        value = values[name]
        assert value is None or low <= value <= high, name


@settings(max_examples=60, deadline=None)
@given(image=arrays(np.uint8, st.tuples(st.integers(7, 12), st.integers(7, 12), st.just(3))), data=st.data())
def test_ssim_of_any_image_pair_equals_that_of_scikit_image(image: Image, data: st.DataObject) -> None:
    other = data.draw(arrays(np.uint8, image.shape))
    expected = structural_similarity(image, other, channel_axis=2, data_range=255)
    assert compare(image, other)["ssim"] == pytest.approx(expected, rel=1e-6, abs=1e-9)


@settings(max_examples=60, deadline=None)
@given(image=arrays(np.uint8, st.tuples(st.integers(2, 9), st.integers(2, 9), st.just(3))), data=st.data())
def test_texture_and_information_of_any_image_pair_equal_those_of_the_libraries(
    image: Image, data: st.DataObject
) -> None:
    other = data.draw(arrays(np.uint8, image.shape))
    grey, other_grey = (cv2.cvtColor(each, cv2.COLOR_BGR2GRAY) for each in (image, other))
    with np.errstate(all="ignore"):
        textures = [mahotas.features.haralick(each, return_mean=True) for each in (grey, other_grey)]
        mutual = normalized_mutual_information(grey, other_grey, bins=256)
    received = compare(image, other)
    if np.isfinite(textures).all():  # mahotas takes square roots of variances that rounding made negative
        expected = np.linalg.norm(textures[0] - textures[1])
        assert received["haralick_distance"] == pytest.approx(expected, rel=1e-6, abs=1e-6)
    assert received["variation_of_information"] == pytest.approx(
        variation_of_information(grey, other_grey).sum(), rel=1e-6, abs=1e-9
    )
    if np.isfinite(mutual):
        assert received["normalized_mutual_information"] == pytest.approx(mutual, rel=1e-6)
    else:
        assert received["normalized_mutual_information"] is None


@pytest.mark.parametrize("size", [(45, 60), (44, 61), (33, 1), (1, 34), (20, 20), (9, 8)])
def test_low_and_high_frequency_errors_add_up_to_the_squared_grey_error(size: tuple[int, int]) -> None:
    image, other = photograph(*size), photograph(*size, seed=9)
    grey, other_grey = (cv2.cvtColor(each, cv2.COLOR_BGR2GRAY).astype(float) for each in (image, other))
    radius = np.hypot(np.fft.fftfreq(size[0])[:, None], np.fft.fftfreq(size[1])[None, :])
    low = np.count_nonzero(radius <= 0.1)
    received = compare(image, other)
    total = low * (received["mse_low"] or 0) + (radius.size - low) * (received["mse_high"] or 0)
    assert total == pytest.approx(np.sum((grey - other_grey) ** 2), rel=1e-9)


@pytest.mark.parametrize("size", [(450, 600), (450, 601), (100, 100), (7, 12), (1, 1), (1, 20)])
@pytest.mark.parametrize("cutoff", [0.1, 0.25, 0.5, 0.333])
def test_frequencies_at_the_cutoff_count_as_low(size: tuple[int, int], cutoff: float) -> None:
    height, width = size
    low = low_frequencies(height, width, cutoff)
    radius = np.hypot(np.fft.fftfreq(height)[:, None], np.fft.rfftfreq(width)[None, :])
    clear = np.abs(radius - cutoff) > 1e-12
    np.testing.assert_array_equal(low[clear], radius[clear] < cutoff)
    assert low[~clear].all()


def test_identical_images_have_perfect_metrics_and_an_undefined_psnr() -> None:
    image = photograph(45, 60)
    values = compare(image, image.copy())
    assert values["psnr"] is None
    zero = (
        "mse",
        "rmse",
        "hu_distance",
        "haralick_distance",
        "changed_percent",
        "mse_low",
        "mse_high",
        "spectral_loss",
    )
    assert {values[name] for name in zero} == {0.0}
    for name in ("ssim", "hist_intersection", "hu_correlation", "haralick_correlation", "spectral_correlation"):
        assert values[name] == pytest.approx(1, abs=1e-12)
    assert values["hist_bhattacharyya"] == pytest.approx(0, abs=1e-7)
    assert values["variation_of_information"] == pytest.approx(0, abs=1e-12)
    assert values["normalized_mutual_information"] == pytest.approx(2, rel=1e-12)


def test_a_shift_of_every_pixel_has_closed_forms() -> None:
    image = np.clip(photograph(45, 60), 20, 200)
    values = compare(image, image + np.uint8(11))
    assert values["mse"] == 121
    assert values["rmse"] == 11
    assert values["psnr"] == pytest.approx(20 * math.log10(255 / 11))
    assert values["changed_percent"] == 100
    # a constant error has only the frequency 0, and levels map one to one
    assert values["mse_high"] == pytest.approx(0, abs=1e-12)
    assert values["variation_of_information"] == pytest.approx(0, abs=1e-12)
    assert compare(image, image + np.uint8(10))["changed_percent"] == 0


def test_a_pixel_is_changed_when_its_largest_channel_difference_exceeds_the_threshold() -> None:
    image = np.full((10, 10, 3), 100, np.uint8)
    other = image.copy()
    other[0, 0] = (100, 100, 120)
    other[0, 1] = (80, 100, 100)
    other[0, 2] = (110, 110, 110)
    assert compare(image, other)["changed_percent"] == 2
    assert compare(image, other, MetricParameters(changed_threshold=9))["changed_percent"] == 3
    assert compare(image, other, MetricParameters(changed_threshold=20))["changed_percent"] == 0


def test_the_cutoff_separates_the_spectral_errors() -> None:
    image, other = photograph(40, 50), photograph(40, 50, seed=3)
    grey, other_grey = (cv2.cvtColor(each, cv2.COLOR_BGR2GRAY).astype(float) for each in (image, other))
    errors = np.abs(np.fft.fft2(grey - other_grey, norm="ortho")) ** 2
    low = np.hypot(np.fft.fftfreq(40)[:, None], np.fft.fftfreq(50)[None, :]) <= 0.31
    received = compare(image, other, MetricParameters(radial_cutoff=0.31))
    assert received["mse_low"] == pytest.approx(errors[low].mean())
    assert received["mse_high"] == pytest.approx(errors[~low].mean())


def test_metrics_that_need_neighbours_or_variance_are_undefined_for_one_pixel() -> None:
    values = compare(np.full((1, 1, 3), 90, np.uint8), np.full((1, 1, 3), 93, np.uint8))
    undefined = {name for name, value in values.items() if value is None}
    assert undefined == {
        "ssim",
        "hu_correlation",
        "haralick_distance",
        "haralick_correlation",
        "normalized_mutual_information",
        "mse_high",
        "spectral_correlation",
    }
    assert values["mse"] == 9
    assert values["mse_low"] == pytest.approx(9)
    assert values["spectral_loss"] == pytest.approx(1 / 30)


@pytest.mark.parametrize("size", [(1, 20), (20, 1), (6, 40), (40, 6)])
def test_ssim_is_undefined_below_seven_pixels_and_texture_for_single_lines(size: tuple[int, int]) -> None:
    values = compare(photograph(*size), photograph(*size, seed=1))
    assert values["ssim"] is None
    assert (values["haralick_distance"] is None) == (min(size) == 1)


def test_spectral_metrics_of_a_black_original_are_undefined() -> None:
    black = np.zeros((20, 30, 3), np.uint8)
    values = compare(black, photograph(20, 30))
    undefined = {name for name, value in values.items() if value is None}
    assert undefined == {"hu_correlation", "spectral_correlation", "spectral_loss"}
    again = compare(black, black.copy())
    undefined = {name for name, value in again.items() if value is None}
    assert undefined == {
        "psnr",
        "hu_correlation",
        "normalized_mutual_information",
        "spectral_correlation",
        "spectral_loss",
    }
    assert again["ssim"] == pytest.approx(1)


@pytest.mark.parametrize("level", [1, 37, 255])
def test_a_constant_image_agrees_with_the_libraries_where_they_are_defined(level: int) -> None:
    image = np.full((20, 30, 3), level, np.uint8)
    other = image.copy()
    other[3:9, 4:8] -= 1
    values = compare(image, other)
    with np.errstate(all="ignore"):
        textures = [mahotas.features.haralick(each[:, :, 0], return_mean=True) for each in (image, other)]
    assert values["haralick_distance"] == pytest.approx(np.linalg.norm(textures[0] - textures[1]), rel=1e-6)
    assert values["ssim"] == pytest.approx(structural_similarity(image, other, channel_axis=2), rel=1e-6)
    # H(I) = 0, so H(I|J) + H(J|I) = H(J), and (H(I) + H(J)) / H(I,J) = 1
    share = 24 / 600
    entropy = -share * math.log2(share) - (1 - share) * math.log2(1 - share)
    assert values["variation_of_information"] == pytest.approx(entropy, rel=1e-9)
    assert values["normalized_mutual_information"] == pytest.approx(1, rel=1e-9)


@pytest.mark.parametrize("size", [(2, 3), (3, 11), (5, 7), (7, 7), (19, 23)])
def test_an_image_of_one_level_has_an_entropy_of_exactly_zero(size: tuple[int, int]) -> None:
    # with an entropy of 1e-16 from rounding, the mutual information would be 2 and the texture's correlation noise
    image, other = np.zeros((*size, 3), np.uint8), np.full((*size, 3), 5, np.uint8)
    values = compare(image, other)
    assert values["variation_of_information"] == 0
    assert values["normalized_mutual_information"] is None
    textures = [mahotas.features.haralick(each[:, :, 0], return_mean=True) for each in (image, other)]
    assert values["haralick_distance"] == pytest.approx(np.linalg.norm(textures[0] - textures[1]), rel=1e-12)


def test_the_correlation_of_a_constant_spectrum_is_undefined() -> None:
    # one bright pixel: |F| is the same at every frequency
    image = np.zeros((9, 12, 3), np.uint8)
    image[4, 5] = 200
    assert compare(image, photograph(9, 12))["spectral_correlation"] is None


def test_the_memory_layout_of_images_does_not_change_the_metrics() -> None:
    image, other = photograph(30, 40), photograph(30, 40, seed=1)
    turned = np.asfortranarray(other)
    assert compare(np.asfortranarray(image), turned) == compare(image, other)


def test_comparing_does_not_change_the_images() -> None:
    image, other = photograph(30, 40), photograph(30, 40, seed=1)
    kept, other_kept = image.copy(), other.copy()
    original = Original(image)
    assert original.compare(other) == original.compare(other)
    np.testing.assert_array_equal(image, kept)
    np.testing.assert_array_equal(other, other_kept)


def test_another_shape_or_type_is_refused_with_both_named() -> None:
    original = Original(photograph(20, 30))
    with pytest.raises(ValueError, match=r"\(20, 30, 3\).*\(30, 20, 3\)"):
        original.compare(photograph(30, 20))
    with pytest.raises(ValueError, match=r"8-bit image.*float64"):
        original.compare(np.zeros((20, 30, 3)))


@pytest.mark.parametrize("threshold", [-1, 256, 1.5, True, "10"])
def test_a_threshold_outside_the_levels_is_refused(threshold: int) -> None:
    with pytest.raises(SpecError, match="changed threshold"):
        MetricParameters(changed_threshold=threshold)


@pytest.mark.parametrize("cutoff", [0, -0.1, 0.8, math.nan, math.inf, True, "0.1"])
def test_a_cutoff_outside_the_spectrum_is_refused(cutoff: float) -> None:
    with pytest.raises(SpecError, match="radial cutoff"):
        MetricParameters(radial_cutoff=cutoff)


def test_the_maps_of_the_inspector_average_to_the_metrics() -> None:
    image = photograph(40, 50)
    other = stored(image)
    similarity = ssim_map(image, other)
    assert similarity is not None
    assert similarity.shape == (40, 50)
    assert similarity[3:-3, 3:-3].mean() == pytest.approx(compare(image, other)["ssim"], rel=1e-9)
    assert ssim_map(image[:6], other[:6]) is None
    difference = difference_map(image, other)
    assert difference.dtype == np.uint8
    assert 100 * np.mean(difference > 10) == pytest.approx(compare(image, other)["changed_percent"])


def test_loops_compile_without_a_writable_cache_folder() -> None:
    # For a function without a file Numba finds no cache folder, as for one in a read-only folder
    namespace: dict[str, Callable[[int], int]] = {}
    exec("def doubled(number):\n    return 2 * number", namespace)  # noqa: S102
    assert compiled(namespace["doubled"])(21) == 42


def test_an_image_with_too_many_pixels_to_compare_is_refused() -> None:
    with pytest.raises(ImageError, match=r"at most 50 million pixels to compare.* got 9999×9999"):
        Original(np.zeros((9999, 9999, 3), np.uint8))  # zeros need no memory until they are written to
