"""Whether a photograph is fit for a network."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from core.data.demo import create_demo_dataset
from core.data.images import decode
from core.deployment.photograph import BLUR, SMALL, TOO_BRIGHT, TOO_DARK, flaws


@pytest.fixture(scope="module")
def sharp() -> np.ndarray:
    """Give a sharp grey photograph of 300×400 pixels with noise."""
    random = np.random.default_rng(0)
    return random.integers(90, 160, (300, 400, 3)).astype(np.uint8)


def test_a_sharp_photograph_has_no_flaw(sharp: np.ndarray) -> None:
    assert flaws(sharp, 100, 75) == []


@pytest.mark.parametrize(
    ("changed", "flaw"),
    [
        (lambda image: cv2.GaussianBlur(image, (0, 0), 6), BLUR),
        (lambda image: (image * 0.3).astype(np.uint8), TOO_DARK),
        (lambda image: np.clip(image.astype(int) + 120, 0, 255).astype(np.uint8), TOO_BRIGHT),
        (lambda image: image[:90], SMALL),
        (lambda image: image[:, :70], SMALL),
    ],
)
def test_each_flaw_is_found_alone(sharp: np.ndarray, changed: object, flaw: str) -> None:
    assert flaws(changed(sharp), 100, 75) == [flaw]  # type: ignore[operator]


def test_the_same_photograph_is_as_sharp_at_four_times_the_size(sharp: np.ndarray) -> None:
    soft = cv2.GaussianBlur(sharp, (0, 0), 5)
    large = cv2.resize(soft, None, fx=4, fy=4, interpolation=cv2.INTER_CUBIC)
    assert flaws(soft, 100, 75) == flaws(np.asarray(large, dtype=np.uint8), 100, 75) == [BLUR]


def test_no_photograph_of_the_demo_has_a_flaw(tmp_path: Path) -> None:
    folder = create_demo_dataset(tmp_path, images=24)
    files = sorted(folder.rglob("*.jpg"))
    assert len(files) == 24
    assert {path.name: found for path in files if (found := flaws(decode(path), 75, 100))} == {}


def test_no_real_photograph_has_a_flaw_and_most_blurred_ones_have_one(real_data: Path) -> None:
    files = sorted((real_data / "ham10000" / "images").glob("*.jpg"))[:60]
    pictures = [decode(path) for path in files]
    assert [path.name for path, image in zip(files, pictures, strict=True) if flaws(image, 75, 100)] == []
    blurred = [np.asarray(cv2.GaussianBlur(image, (0, 0), 2), dtype=np.uint8) for image in pictures]
    assert sum(flaws(image, 75, 100) == [BLUR] for image in blurred) >= 0.9 * len(files)
