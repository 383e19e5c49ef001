"""The drawings and curves of networks, checked by their numbers."""

import math
import tomllib
from itertools import pairwise

import numpy as np
import pytest
from laboratory import ROOT

from core.errors import SpecError
from core.networks.architectures import ALEXNET, CUSTOM2, LENET5, NETWORKS, walk
from core.networks.costs import curve_table, layer_table
from core.networks.fits import fit_curves
from core.networks.pruning import SCOPES
from dashboard.charts import networks as network_charts
from dashboard.parts.components import BACKGROUNDS

CURVES = list(fit_curves(curve_table([LENET5, ALEXNET], [50, 33.33], SCOPES, 5, 200, 100)))
ALEXNETS = [curve for curve in CURVES if curve.network == "alexnet"]


def traces(figure, axis, **matching):
    return [
        each
        for each in figure.data
        if each.xaxis == axis and all(getattr(each, name) == value for name, value in matching.items())
    ]


@pytest.mark.parametrize("spec", NETWORKS.values(), ids=lambda spec: spec.name)
def test_every_layer_is_drawn_as_a_block_without_overlap(spec) -> None:
    placed = network_charts.blocks(spec, 200, 100)
    assert len(placed) == len(list(walk(spec, 200, 100))) + 2  # both inputs
    for lane in {block.y for block in placed}:
        edges = [(block.x - block.width / 2, block.x + block.width / 2) for block in placed if block.y == lane]
        assert all(end < start for (_, end), (start, _) in pairwise(edges))
    joint = next(block for block in placed if block.kind == "Concatenate")
    assert joint.x > max(block.x for block in placed if block.y != joint.y)


def test_block_height_shows_the_size_and_block_width_the_channels() -> None:
    convolutions = [block for block in network_charts.blocks(ALEXNET, 200, 100) if block.kind == "Conv2D"]
    assert [block.label for block in convolutions][:2] == ["Conv2D 64", "Conv2D 192"]
    assert convolutions[0].height == pytest.approx(math.log2(1 + math.sqrt(98 * 48)))
    assert convolutions[0].height > convolutions[1].height > convolutions[2].height == convolutions[4].height
    assert convolutions[0].width < convolutions[1].width < convolutions[2].width > convolutions[4].width


def test_the_hover_text_of_a_block_has_shape_parameters_and_macs() -> None:
    figure = network_charts.network_drawing(CUSTOM2, 200, 100, theme="light")
    (residual,) = [trace for trace in figure.data if trace.name == "Residual block"]
    assert residual.hovertext[1].startswith("image_residual2: Residual block 256, 3×3<br>output 6×3×256<br>1,0")


def test_a_network_is_not_drawn_for_an_input_size_that_is_too_small() -> None:
    with pytest.raises(SpecError, match="leaves nothing at image_max_pool5"):
        network_charts.network_drawing(CUSTOM2, 20, 20)


def test_parameters_by_layer_equal_the_table_and_sum_to_100_percent() -> None:
    table = layer_table(ALEXNET, 200, 100)
    figure = network_charts.parameters_by_layer(table, theme="dark")
    drawn = {name: count for trace in figure.data for name, count in zip(trace.y, trace.x, strict=True)}
    expected = table[table["parameters"] > 0].set_index("name")["parameters"]
    assert drawn == dict(expected)
    assert list(figure.layout.yaxis.categoryarray) == list(expected.index)[::-1]
    texts = dict(zip(figure.data[0].y, figure.data[0].text, strict=True))
    assert texts["image_dense1"] == "14,418,944 (75.2 %)"
    assert "below 0.01 %" in figure.data[1].text[0]


def test_each_network_has_a_panel_with_one_line_per_curve() -> None:
    figure = network_charts.curves_chart(CURVES, theme="light")
    assert [note.text for note in figure.layout.annotations] == ["lenet5", "alexnet"]
    lines = traces(figure, "x2")
    assert len(lines) == 8
    assert [list(line.y) for line in lines] == [list(curve.values) for curve in ALEXNETS]
    assert sum(trace.showlegend for trace in figure.data) == 8  # each name appears once
    assert len({(line.line.color, line.line.dash) for line in lines}) == 8
    assert figure.layout.title.subtitle.text == "Learnable parameters, millions, against the iteration"


def test_each_curve_has_a_panel_with_three_fits_their_bands_and_the_points() -> None:
    figure = network_charts.fits_chart(ALEXNETS, theme="light")
    assert [note.text for note in figure.layout.annotations][:2] == ["50 %, all", "50 %, first"]
    for number, curve in enumerate(ALEXNETS, start=1):
        axis = "x" if number == 1 else f"x{number}"
        (points,) = traces(figure, axis, name="counted")
        assert list(points.y) == list(curve.values)
        for fit in curve.fits:
            (line,) = traces(figure, axis, name=fit.model.name)
            np.testing.assert_allclose(np.asarray(line.y, float), fit.predict(line.x))
            (band,) = traces(figure, axis, name=f"{fit.model.name}, 95 % band")
            low, high = fit.band([0.0])
            assert band.y[0] == pytest.approx(low[0])
            assert band.y[-1] == pytest.approx(high[0])


def test_on_a_logarithmic_axis_nothing_is_drawn_at_or_below_zero() -> None:
    figure = network_charts.fits_chart(ALEXNETS, logarithmic=True, theme="light")
    assert figure.layout.yaxis3.type == "log"
    assert min(np.nanmin(np.asarray(trace.y, float)) for trace in figure.data) > 0


def test_the_residuals_chart_draws_the_residuals_of_each_fit() -> None:
    figure = network_charts.residuals_chart(ALEXNETS, theme="light")
    for number, curve in enumerate(ALEXNETS, start=1):
        drawn = traces(figure, "x" if number == 1 else f"x{number}")
        assert [tuple(trace.y) for trace in drawn] == [fit.residuals for fit in curve.fits]


def test_a_model_with_too_few_points_is_not_drawn() -> None:
    curves = list(fit_curves(curve_table([LENET5], [50], ["all"], 1, 200, 100)))
    names = [trace.name for trace in network_charts.fits_chart(curves, theme="light").data]
    assert names == ["linear", "exponential", "counted"]


def test_without_curves_the_figure_has_a_note() -> None:
    for draw in (network_charts.curves_chart, network_charts.fits_chart, network_charts.residuals_chart):
        assert draw([]).layout.annotations[0].text == "No curve is chosen."


@pytest.mark.parametrize("quantity", ["macs", "bytes_weights", "bytes_with_optimizer"])
def test_the_quantity_and_its_unit_are_named(quantity) -> None:
    curves = list(fit_curves(curve_table([LENET5], [50], ["all"], 5, 200, 100), quantity))
    said = network_charts.curves_chart(curves, logarithmic=True).layout.title.subtitle.text
    assert said.lower().startswith(network_charts.QUANTITY_LABELS[quantity].lower())
    assert "logarithmic" in said


def test_network_charts_import_no_streamlit() -> None:
    source = (ROOT / "dashboard" / "charts" / "networks.py").read_text()
    assert "streamlit" not in source.replace("no Streamlit", "")


def test_an_exported_chart_has_the_background_of_the_page() -> None:
    theme = tomllib.loads((ROOT / "dashboard" / ".streamlit" / "config.toml").read_text())["theme"]
    assert {mode: theme[mode]["backgroundColor"] for mode in ("light", "dark")} == BACKGROUNDS
