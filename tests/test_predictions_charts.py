"""The charts of predictions contain the curves that `core.predictions.curves` computes."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from sklearn import metrics

from core.networks.architectures import CLASSES
from core.predictions.curves import OneAgainstRest, one_against_rest, reliability
from core.predictions.rows import prediction_columns, prediction_frame
from dashboard.charts import predictions as charts
from dashboard.charts import training as training_charts
from dashboard.charts.style import palette


def rows(seed: int, images: int = 200) -> pd.DataFrame:
    generator = np.random.default_rng(seed)
    labels = generator.integers(0, len(CLASSES), images)
    scores = generator.normal(size=(images, len(CLASSES)))
    scores[np.arange(images), labels] += 1
    chances = np.exp(scores) / np.exp(scores).sum(axis=1, keepdims=True)
    names = [f"image {number}" for number in range(images)]
    return prediction_frame(prediction_columns("test", names, names, labels, chances.astype(np.float32)))


def curve(seed: int) -> OneAgainstRest:
    found = one_against_rest(rows(seed))
    assert found is not None
    return found


def drawn(figure: object, name: str) -> tuple[np.ndarray, np.ndarray]:
    trace = next(each for each in figure.data if each.name == name)  # type: ignore[attr-defined]
    return np.array(trace.x), np.array(trace.y)


def test_a_roc_curve_without_the_points_between_its_corners_has_the_same_area() -> None:
    own = curve(1)
    x, y = drawn(charts.roc({"0. Original": own, "1. R1: 50%": curve(2)}, "melanoma"), "0. Original")
    assert len(x) < len(own.roc)
    assert metrics.auc(x / 100, y / 100) == pytest.approx(own.auc, rel=1e-12)
    assert (x[0], y[0], x[-1], y[-1]) == (0, 0, 100, 100)


def test_a_precision_recall_curve_without_the_points_between_its_corners_has_the_same_area() -> None:
    own = curve(1)
    figure = charts.precision_recall({"0. Original": own}, "melanoma")
    x, y = drawn(figure, "0. Original")
    whole = own.precision_recall
    assert len(x) < len(whole)
    assert metrics.auc(x / 100, y / 100) == pytest.approx(metrics.auc(whole["recall"], whole["precision"]), rel=1e-12)
    assert set(zip(x, y, strict=True)) <= set(zip(100 * whole["recall"], 100 * whole["precision"], strict=True))
    assert figure.layout.shapes[0].y0 == pytest.approx(100 * own.positives / own.images)


def test_the_reliability_diagram_has_one_point_per_bin() -> None:
    table = reliability(rows(1))
    figure = charts.reliability({"0. Original": table})
    x, y = drawn(figure, "0. Original")
    np.testing.assert_allclose(x, 100 * table["confidence"])
    np.testing.assert_allclose(y, 100 * table["accuracy"])
    assert list(figure.data[-1].customdata) == table["images"].tolist()


def test_steps_beyond_the_last_colour_have_other_dashes() -> None:
    names = [f"{number}. step" for number in range(len(palette(None)) + 2)]
    lines = [each.line for each in charts.roc(dict.fromkeys(names, curve(1)), "melanoma").data if each.name in names]
    assert len({(line.color, line.dash) for line in lines}) == len(names)


@pytest.mark.parametrize("theme", ["light", "dark", None])
def test_charts_without_a_step_show_a_note(theme: str | None) -> None:
    for figure in (
        charts.roc({}, "melanoma", theme=theme),
        charts.precision_recall({}, "melanoma", theme=theme),
        charts.reliability({}, theme=theme),
    ):
        assert figure.layout.annotations[0].text == charts.EMPTY


def test_every_cell_of_a_confusion_matrix_can_be_selected_and_names_its_classes() -> None:
    matrix = [[3, 1, 0, 0], [0, 2, 0, 0], [0, 0, 0, 0], [1, 0, 0, 9]]
    points = training_charts.confusion(matrix, "Test").data[1]
    counts = {(row, column): count for row, _ in enumerate(matrix) for column, count in enumerate(matrix[row])}
    assert {(each[0], each[1]): int(text) for each, text in zip(points.customdata, points.text, strict=True)} == {
        (CLASSES[row], CLASSES[column]): count for (row, column), count in counts.items()
    }
    assert points.marker.opacity == 0
