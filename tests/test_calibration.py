"""Temperature scaling of stored probabilities."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from recorded import predictions

from core.networks.architectures import CLASSES
from core.predictions.calibration import calibrated, temperature_of
from core.predictions.rows import PROBABILITIES


def drawn(temperature: float, images: int = 4000) -> pd.DataFrame:
    """Return predictions whose true classes were drawn from the softmax of the logits at a temperature."""
    random = np.random.default_rng(1)
    logits = random.normal(0, 2, (images, len(CLASSES)))
    stated = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    true = calibrated(stated, temperature)
    labels = [CLASSES[random.choice(len(CLASSES), p=row)] for row in true]
    return pd.DataFrame(stated, columns=list(PROBABILITIES)).assign(label=labels)


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.5])
def test_the_temperature_that_labels_were_drawn_with_is_found(temperature: float) -> None:
    assert temperature_of(drawn(temperature)) == pytest.approx(temperature, rel=0.08)


def test_no_other_temperature_has_a_smaller_loss() -> None:
    rows = drawn(2.0, images=500)
    places = (np.arange(len(rows)), [CLASSES.index(label) for label in rows["label"]])

    def loss(temperature: float) -> float:
        return float(-np.log(calibrated(rows[list(PROBABILITIES)], temperature)[places]).mean())

    best = temperature_of(rows)
    assert loss(best) <= min(map(loss, np.geomspace(0.06, 19, 200))) + 1e-9


@given(
    st.lists(st.floats(0.001, 1), min_size=4, max_size=4),
    st.floats(0.1, 10),
)
def test_calibration_keeps_the_order_of_the_classes_and_a_sum_of_1(weights: list[float], temperature: float) -> None:
    stated = np.array(weights) / sum(weights)
    found = calibrated(stated, temperature)
    assert found.sum() == pytest.approx(1)
    order = np.argsort(stated, kind="stable")
    assert (np.diff(found[order]) >= -1e-12).all()
    assert calibrated(stated, 1.0) == pytest.approx(stated)


def test_a_probability_of_0_stays_finite() -> None:
    assert np.isfinite(calibrated([1.0, 0.0, 0.0, 0.0], 3.0)).all()


def test_without_images_nothing_is_changed() -> None:
    none = pd.DataFrame(predictions(70.0, 10)).iloc[:0]
    assert temperature_of(none) == 1.0
