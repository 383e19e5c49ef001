"""Parameter counts compared with closed forms, and the tables and curves of these counts."""

import numpy as np
import pytest

from core.errors import SpecError
from core.networks.architectures import ALEXNET, CUSTOM1, CUSTOM2, LENET5, NETWORKS, Conv, Dense, PlacedLayer, Residual
from core.networks.costs import (
    CURVE_COLUMNS,
    QUANTITIES,
    SIZE_COLUMNS,
    compare_layers,
    curve_table,
    layer_cost,
    layer_table,
    network_cost,
    size_table,
)
from core.networks.pruning import FACTORS, SCOPES, prune


def test_three_halvings_leave_1_9_percent_of_alexnets_19_19_million_parameters() -> None:
    curve = curve_table([ALEXNET], [50], ["all"], 3, 200, 100)["parameters"]
    assert round(curve[0] / 1e6, 2) == 19.19
    assert round(100 * curve[3] / curve[0], 1) == 1.9


def test_the_four_networks_have_the_expected_parameter_counts_at_200x100() -> None:
    # Calculated by hand from the tables, branch by branch; 63 is the metadata branch.
    lenet = 6 * 76 + 12 + 16 * 151 + 32 + (47 * 22 * 16 + 1) * 84 + 85 * 120 + 63 + 122 * 16 + 17 * 4
    assert network_cost(LENET5, 200, 100).parameters == lenet == 1_404_979
    assert {name: network_cost(spec, 200, 100).parameters for name, spec in NETWORKS.items()} == {
        "lenet5": 1_404_979,
        "alexnet": 19_186_227,
        "custom1": 3_362_871,
        "custom2": 7_263_571,
    }


@pytest.mark.parametrize(
    ("layer", "before", "after", "parameters", "statistics", "macs"),
    [
        (Conv(7, 3), (10, 9, 2), (8, 7, 7), 3 * 3 * 2 * 7 + 7, 0, 3 * 3 * 2 * 7 * 56),
        (Dense(6), (60,), (6,), 366, 0, 360),
        (Dense(6, rank=4), (60,), (6,), 4 * (60 + 6) + 6, 0, 4 * (60 + 6)),
        # two 3×3 convolutions and two normalisations, without and with a projection
        (Residual(4), (5, 3, 4), (5, 3, 4), 2 * (9 * 16 + 4) + 16, 16, 2 * 9 * 16 * 15),
        (Residual(4), (5, 3, 2), (5, 3, 4), 76 + 148 + 12 + 16, 16, (72 + 144 + 8) * 15),
    ],
)
def test_the_cost_of_each_layer_equals_its_closed_form(layer, before, after, parameters, statistics, macs) -> None:
    cost = layer_cost(PlacedLayer("image", "layer", layer, before, after))
    assert (cost.parameters, cost.statistics, cost.macs) == (parameters, statistics, macs)


def test_bytes_are_float32_weights_with_running_statistics_and_adams_two_moments() -> None:
    cost = network_cost(CUSTOM1, 200, 100)
    assert cost.statistics == 2 * (16 + 48 + 92 + 192 + 192 + 256)
    assert cost.bytes_weights == 4 * (3_362_871 + 1_592)
    assert cost.bytes_with_optimizer == cost.bytes_weights + 8 * 3_362_871


def test_the_layer_table_sums_to_the_cost_and_has_the_articles_format() -> None:
    table = layer_table(ALEXNET, 200, 100)
    assert " ".join(table.columns) == (
        "branch name type size kernel stride detail output_shape parameters statistics macs"
    )
    assert table["parameters"].sum() == network_cost(ALEXNET, 200, 100).parameters
    assert table["macs"].sum() == network_cost(ALEXNET, 200, 100).macs
    first = table.iloc[0]
    assert (first["type"], first["size"], first["kernel"], first["stride"]) == ("Conv2D", 64, "5×5", "2×2")
    assert first["output_shape"] == "98×48×64"
    residual = layer_table(CUSTOM2, 200, 100).set_index("name")["detail"]
    assert residual["image_residual1"] == "two convolutions, identity"
    assert residual["image_residual2"] == "two convolutions, 1×1 projection of 192 channels"
    assert layer_table(LENET5, 200, 100).iloc[-1]["type"] == "Dense"


def test_pruning_adds_a_projection_to_a_residual_block_whose_channels_differ() -> None:
    table = layer_table(prune(CUSTOM2, 33.33, "all"), 200, 100).set_index("name")["detail"]
    assert "identity" in table["image_residual1"]
    assert "128 channels" in table["image_residual2"]


def test_a_curve_table_has_one_row_per_iteration_including_the_unpruned_network() -> None:
    table = curve_table(NETWORKS.values(), FACTORS, SCOPES, 2, 200, 100)
    assert tuple(table.columns) == CURVE_COLUMNS
    assert len(table) == 4 * 4 * 4 * 3
    assert table["factor"].dtype == np.float64
    first = table[table["iteration"] == 0].groupby("network")["parameters"]
    assert (first.nunique() == 1).all()
    row = table.query("network == 'lenet5' and factor == 33.33 and scope == 'first' and iteration == 1").iloc[0]
    expected = network_cost(prune(LENET5, 33.33, "first"), 200, 100)
    assert list(row[["parameters", "macs", "bytes_weights", "bytes_with_optimizer"]]) == [
        expected.parameters,
        expected.macs,
        expected.bytes_weights,
        expected.bytes_with_optimizer,
    ]


def test_a_factor_given_twice_is_one_curve() -> None:
    assert len(curve_table([LENET5], [50, 50.0, "50"], ["all", "all"], 2, 200, 100)) == 3


@pytest.mark.parametrize(
    ("factors", "scopes", "size", "message"),
    [
        ([120], ["all"], 200, "pruning factor above 0 and below 100"),
        ([50], ["some"], 200, "Expected a scope of"),
        ([50], ["all"], 10, "lenet5, got .* leaves nothing at image_conv2"),
    ],
)
def test_a_curve_that_cannot_be_counted_raises_an_error_with_the_reason(factors, scopes, size, message) -> None:
    with pytest.raises(SpecError, match=message):
        curve_table([LENET5], factors, scopes, 2, size, size)


def test_compare_layers_shows_sizes_before_and_after_pruning() -> None:
    table = compare_layers(ALEXNET, prune(ALEXNET, 50, "first"), 200, 100).set_index("name")
    assert table.loc["image_conv1", ["size_before", "size"]].tolist() == [64, 32]
    assert table.loc["image_conv2", ["size_before", "size"]].tolist() == [192, 192]
    assert table["parameters_before"].sum() == network_cost(ALEXNET, 200, 100).parameters
    assert table["parameters"].sum() == network_cost(prune(ALEXNET, 50, "first"), 200, 100).parameters


def test_the_size_table_has_each_size_once_and_the_reason_when_one_is_too_small() -> None:
    table = size_table([LENET5, CUSTOM1], [(200, 100), (40, 40), (200, 100)])
    assert tuple(table.columns) == SIZE_COLUMNS
    assert table[["network", "height", "width"]].to_numpy().tolist() == [
        ["lenet5", 200, 100], ["lenet5", 40, 40], ["custom1", 200, 100], ["custom1", 40, 40]
    ]  # fmt: skip
    cost = network_cost(LENET5, 40, 40)
    assert table.loc[1, list(QUANTITIES)].tolist() == [getattr(cost, name) for name in QUANTITIES]
    assert "leaves nothing at image_max_pool6" in table.loc[3, "reason"]
    assert table.loc[3, list(QUANTITIES)].isna().all()
