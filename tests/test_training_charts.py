"""The data of the charts and tables of training runs, compared with plain computations, and the figures."""

from __future__ import annotations

import json
import statistics
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from recorded import record_training

from core.article.printed import TABLE_METRICS
from core.article.tables import article_table
from core.networks.architectures import ALEXNET, CLASSES, LENET5
from core.networks.plain_data import network_to_dict
from core.networks.pruning import can_shrink, kept_share, prune, shrink
from core.store.measurements import Store
from core.training.results import EpochResult
from core.training.specs import PruneTrainSpec, Rules, TrainingProtocol, TrainSpec
from dashboard.charts import style, training_numbers
from dashboard.charts import training as training_charts
from dashboard.charts.tables import measured_against_printed

SPEC = PruneTrainSpec(dataset="ham", network=LENET5, training=TrainingProtocol(epochs=3, height=48, width=64))
NOW = datetime(2026, 11, 24, 22, 30, tzinfo=UTC)


def epoch(number: int, value: float, *, best: bool = False) -> EpochResult:
    return EpochResult(number, 1 / value, value, value, value, 2 / value, value / 2, value / 3, value / 4, 1.0, 9.0,
                       best=best)  # fmt: skip


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "dermslim.duckdb")


def points(sizes: list[int], figures: list[float | None]) -> pd.DataFrame:
    return pd.DataFrame({"parameters": sizes, "test_accuracy": pd.array(figures, dtype="Float64")})


# The Pareto front


def test_the_pareto_front_contains_exactly_the_points_that_no_other_beats() -> None:
    generator = np.random.default_rng(3)
    for _ in range(50):
        steps = points(generator.integers(1, 8, 9).tolist(), generator.integers(50, 58, 9).astype(float).tolist())
        front = training_numbers.pareto_front(steps, "test_accuracy")
        pairs = list(steps.itertuples(index=False, name=None))

        def beats(one: Any, other: Any) -> bool:
            return one != other and one[0] <= other[0] and one[1] >= other[1]

        on_it = [pair for pair, is_on in zip(pairs, front, strict=True) if is_on]
        for pair, is_on in zip(pairs, front, strict=True):
            assert any(beats(other, pair) for other in on_it) is not is_on


def test_a_step_without_the_metric_is_never_on_the_front() -> None:
    assert training_numbers.pareto_front(points([10, 5], [60.0, None]), "test_accuracy").tolist() == [True, False]


def test_size_against_accuracy_shows_each_step_and_the_front_sorted_by_size() -> None:
    steps = points([1000, 100, 10], [90.0, 95.0, 70.0]).assign(
        name=["Original", "R1: 50%", "R2: 50%"], accepted=[True, True, False], reason=["", "", "too low"]
    )
    front = training_numbers.pareto_front(steps, "test_accuracy")
    figure = training_charts.size_against_accuracy(steps, "test_accuracy", front)
    by_name = {trace.name: (list(trace.x), list(trace.y)) for trace in figure.data}
    assert by_name == {
        "Pareto front": ([10, 100], [70.0, 95.0]),
        "accepted": ([1000, 100], [90.0, 95.0]),
        "missed the baseline": ([10], [70.0]),
    }
    assert figure.layout.xaxis.type == "log"
    low, high = figure.layout.xaxis.range
    assert low < 1 < 3 < high


def test_size_against_accuracy_has_the_intervals_as_error_bars_within_the_axis() -> None:
    steps = points([100, 10], [90.0, 70.0]).assign(name=["Original", "R1: 50%"], accepted=True, reason="")
    limits = {"test": {"intervals": {"accuracy": [84.0, 95.5]}}}
    steps["classification"] = [json.dumps(limits), json.dumps({"test": {}})]
    found = training_numbers.limits(steps, "test_accuracy")
    front = training_numbers.pareto_front(steps, "test_accuracy")
    figure = training_charts.size_against_accuracy(steps, "test_accuracy", front, found)
    bars = next(trace.error_y for trace in figure.data if trace.name == "accepted")
    assert list(bars.array) == pytest.approx([5.5, np.nan], nan_ok=True), "the second step has no predictions"
    assert list(bars.arrayminus) == pytest.approx([6, np.nan], nan_ok=True)
    low, high = figure.layout.yaxis.range
    assert low < 70 < 95.5 < high


@pytest.mark.parametrize(("number", "text"), [(20, "20"), (5000, "5 k"), (200_000, "200 k"), (10_000_000, "10 M")])
def test_parameter_counts_are_shortened_on_the_axis(number: int, text: str) -> None:
    assert style.count_in_words(number) == text


# Layers


def test_layer_sizes_follow_pruning_and_the_metadata_branch_is_unchanged() -> None:
    networks = [ALEXNET, prune(ALEXNET, 50), prune(prune(ALEXNET, 50), 33.33)]
    steps = pd.DataFrame({"step": range(3), "network": [json.dumps(network_to_dict(each)) for each in networks]})
    sizes = training_numbers.layer_sizes(steps, 200, 100)
    convolutions = sizes[sizes.index.str.contains("conv")]
    assert convolutions[0].tolist() == [64, 192, 384, 384, 256]
    for before, after, factor in ((0, 1, 50), (1, 2, 33.33)):
        assert convolutions[after].tolist() == [shrink(size, kept_share(factor)) for size in convolutions[before]]
    other = sizes[sizes.index.str.startswith("metadata")]
    assert len(other) == 4
    assert (other[0] == other[2]).all()


def test_the_chart_of_layers_shows_sizes_as_text_and_shares_as_colours() -> None:
    sizes = pd.DataFrame({0: [8, 4], 1: [2, 4]}, index=["image_conv1", "metadata_dense1"])
    trace = training_charts.layer_shares(sizes, ["Original", "R1: 75%"]).data[0]
    assert [list(row) for row in trace.z] == [[100, 25], [100, 100]]
    assert [list(row) for row in trace.text] == [["8", "2"], ["4", "4"]]
    assert list(trace.x) == ["0. Original", "1. R1: 75%"]


def test_the_confusion_matrix_is_coloured_by_the_share_of_the_true_class() -> None:
    matrix = [[3, 1, 0, 0], [0, 2, 0, 0], [0, 0, 0, 0], [1, 0, 0, 9]]
    figure = training_charts.confusion(matrix, "Test")
    assert [list(row) for row in figure.data[0].z] == [[75, 25, 0, 0], [0, 100, 0, 0], [0, 0, 0, 0], [10, 0, 0, 90]]
    assert "16 images" in figure.layout.title.text
    assert training_charts.confusion([[0] * 4] * 4, "Test").layout.annotations[0].text == "No images."


def test_class_recalls_have_one_row_per_class() -> None:
    recall = dict(zip(CLASSES, [90.0, 80.0, None, 100.0], strict=True))
    table = training_numbers.class_recalls({"train": {"class_recall": recall}, "test": {"class_recall": recall}})
    assert list(table.columns) == ["train", "test"]
    assert table.loc["nevus", "test"] == 80


# Learning curves


def frame(epochs: list[EpochResult]) -> pd.DataFrame:
    return pd.DataFrame([vars(each) for each in epochs])


def test_a_learning_curve_shows_both_sets_the_baseline_and_the_kept_epoch() -> None:
    rows = frame([epoch(1, 50.0, best=True), epoch(2, 80.0, best=True), epoch(3, 70.0)])
    figure = training_charts.learning_curve(rows, "accuracy", {"train": 90.0, "validation": 75.0}, 10)
    assert {trace.name: list(trace.y) for trace in figure.data} == {
        "training": [50.0, 80.0, 70.0],
        "validation": [25.0, 40.0, 35.0],
    }
    shapes = [(shape.x0, shape.y0, shape.y1) for shape in figure.layout.shapes]
    assert (0, 90, 90) in shapes
    assert (0, 75, 75) in shapes
    assert 2 in [shape.x0 for shape in figure.layout.shapes if shape.x0 == shape.x1]
    assert figure.layout.xaxis.range[1] > 10
    loss = training_charts.learning_curve(rows, "loss")
    assert "lower is better" in loss.layout.title.text
    assert list(loss.data[0].y) == [1 / 50, 1 / 80, 1 / 70]


def test_without_epochs_the_figure_has_a_note() -> None:
    empty = frame([epoch(1, 50.0)]).iloc[:0]
    assert "No epoch" in training_charts.learning_curve(empty, "loss").layout.annotations[0].text
    groups = training_numbers.curves_over_seeds(empty.assign(run_id="", step=0), trained(Store(Path("nowhere")), []))
    assert "None of these runs" in training_charts.compared_curves(groups, "loss").layout.annotations[0].text


def test_a_chart_of_signs_shows_the_recorded_epochs_and_how_many_units_there_are() -> None:
    rows = frame([replace(epoch(number, 50.0), dead_units=4 + number, hidden_units=8) for number in (1, 2)])
    figure = training_charts.sign_chart(rows, "dead_units")
    assert list(figure.data[0].y) == [5, 6]
    assert [line.y0 for line in figure.layout.shapes] == [8]
    for sign in training_charts.SIGNS:
        older = training_charts.sign_chart(frame([epoch(1, 50.0)]), sign)
        assert "No epoch has recorded it" in older.layout.annotations[0].text


# Over seeds


def trained(store: Store, run_ids: list[str]) -> pd.DataFrame:
    return store.trainings(run_ids)


def test_means_over_seeds_equal_the_plain_computation(store: Store) -> None:
    reached = {1: (71.0, 70.0), 2: (74.0, 60.0), 5: (80.0, 75.0)}
    rules = Rules(factors=(50,), max_iterations=1)
    runs = [record_training(store, "lenet5", figures, seed=seed, rules=rules) for seed, figures in reached.items()]
    table = training_numbers.over_seeds(trained(store, runs)).set_index("name")
    for place, name in enumerate(("Original", "R1: 50%")):
        values = [figures[place] for figures in reached.values()]
        assert table.loc[name, "n"] == 3
        assert table.loc[name, "seeds"] == "1, 2, 5"
        assert table.loc[name, "test_accuracy"] == pytest.approx(statistics.mean(values))
        assert table.loc[name, "test_accuracy_std"] == pytest.approx(statistics.stdev(values))


def test_only_runs_that_differ_only_in_the_seed_are_averaged(store: Store) -> None:
    longer = TrainingProtocol(epochs=4, height=48, width=64)
    runs = [
        record_training(store, "lenet5", (70.0,), seed=1),
        record_training(store, "lenet5", (80.0,), seed=2),
        record_training(store, "alexnet", (90.0,), seed=1),
        record_training(store, "lenet5", (50.0,), seed=1, training=longer),
        record_training(store, "lenet5", (40.0,), seed=1, dataset="ham-k350", source="ham"),
    ]
    table = training_numbers.over_seeds(trained(store, runs))
    assert table["n"].tolist() == [2, 1, 1, 1]
    assert table["test_accuracy"].tolist() == [75, 90, 50, 40]
    assert table["test_accuracy_std"].isna().tolist() == [False, True, True, True]
    names = training_numbers.group_names(table)
    assert len(set(names)) == 4
    assert names[:2] == [
        "lenet5 · Original · ham · original · 3 epochs",
        "alexnet · Original · ham · original · 3 epochs",
    ]
    assert "4 epochs" in names[2]
    assert "ham-k350" in names[3]


def test_a_seed_trained_twice_counts_once_with_its_later_run(store: Store) -> None:
    runs = [record_training(store, "lenet5", (figure,), seed=1) for figure in (60.0, 70.0)]
    table = training_numbers.over_seeds(trained(store, runs))
    assert (table["n"].tolist(), table["test_accuracy"].tolist()) == ([1], [70.0])


def test_curves_over_seeds_equal_the_plain_computation_and_have_a_band(store: Store) -> None:
    runs = [record_training(store, "lenet5", (70.0,), seed=seed, ends=False) for seed in (1, 2)]
    for run_id, values in zip(runs, ((50.0, 60.0), (60.0, 90.0)), strict=True):
        epochs = [epoch(number, value) for number, value in enumerate(values, start=1)]
        store.record_epochs(run_id, 1, 0, epochs, NOW)
    table = training_numbers.curves_over_seeds(store.epochs(runs), trained(store, runs))
    assert table["epoch"].tolist() == [1, 2]
    assert table["n"].tolist() == [2, 2]
    halves = [(25.0, 30.0), (30.0, 45.0)]  # validation accuracy of both seeds
    assert table["validation_accuracy"].tolist() == [statistics.mean(pair) for pair in halves]
    assert table["validation_accuracy_std"].tolist() == pytest.approx([statistics.stdev(pair) for pair in halves])
    figure = training_charts.compared_curves(table, "accuracy")
    drawn = {trace.name.partition(", mean of 2 seeds")[2] or "mean": list(trace.y) for trace in figure.data[:3]}
    mean, deviation = table["validation_accuracy"], table["validation_accuracy_std"]
    assert drawn == {
        ", mean − deviation": (mean - deviation).tolist(),
        ", mean + deviation": (mean + deviation).tolist(),
        "mean": mean.tolist(),
    }


def test_compared_sizes_have_error_bars_of_one_standard_deviation(store: Store) -> None:
    runs = [record_training(store, "lenet5", (figure,), seed=seed) for seed, figure in ((1, 70.0), (2, 74.0))]
    groups = training_numbers.over_seeds(trained(store, runs))
    trace = training_charts.compared_sizes(groups, training_numbers.group_names(groups), "test_accuracy").data[0]
    assert list(trace.y) == [72.0]
    assert list(trace.error_y.array) == pytest.approx([statistics.stdev([70.0, 74.0])])


# Settings


def test_only_differing_settings_are_shown() -> None:
    other = SPEC.replace(training=SPEC.training.replace(seed=2, epochs=9), rules=Rules(factors=(16.5,)))
    once = TrainSpec(dataset="ham", network=LENET5, training=SPEC.training)
    table = training_numbers.differing_settings({"a": SPEC, "b": other, "c": once})
    assert table.loc["Epochs"].tolist() == ["3", "9", "3"]
    assert table.loc["Seed"].tolist() == ["1", "2", "1"]
    assert table.loc["Pruning factors"].tolist() == ["50, 33.33, 16.5, 8.25", "16.5", "–"]
    assert table.loc["Kind"].tolist() == ["prune-train", "prune-train", "train"]
    assert "Data set" not in table.index
    assert training_numbers.differing_settings({"a": SPEC, "b": SPEC}).empty


def test_networks_with_the_same_name_and_different_layers_differ() -> None:
    other = SPEC.replace(network=prune(LENET5, 50))
    table = training_numbers.differing_settings({"a": SPEC, "b": other})
    assert table.index.tolist() == ["Layers"]
    assert table.loc["Layers"].nunique() == 2


# Before a run


def test_step_range_gives_the_fewest_and_the_most_trainings_of_a_run() -> None:
    network, count = LENET5, 1
    while can_shrink(network, 50):
        network, count = prune(network, 50), count + 1
    assert training_numbers.step_range(SPEC) == (3, count)
    assert training_numbers.step_range(SPEC.replace(rules=Rules(factors=(50,), max_failures=9))) == (2, count)
    assert training_numbers.step_range(SPEC.replace(rules=Rules(max_iterations=1))) == (2, 2)
    assert training_numbers.step_range(TrainSpec(dataset="ham", network=LENET5)) == (1, 1)


def test_a_dumbbell_joins_the_measured_and_the_printed_figure_over_the_intervals_of_the_runs() -> None:
    row = {"network": "lenet5", "dataset": "ham", "version": "original", "step": 0, "name": "Original"}
    row |= dict.fromkeys(TABLE_METRICS[5], 70.0)
    rows = [
        row | {"run_id": f"run-{seed}", "seed": seed, "intervals": {"test_accuracy": (60.0 + seed, 80.0)}}
        for seed in (1, 2)
    ]
    table = article_table(5, pd.DataFrame(rows), with_intervals=True)
    figure = measured_against_printed(table, "test_accuracy")
    traces = {trace.name: trace for trace in figure.data}
    assert list(traces["difference"].x[:2]) == [70.0, 72.22], "only one row is measured"
    assert len(traces["difference"].x) == 3
    bars = traces["95 % interval of a run"]
    assert [pair for pair in zip(bars.x, bars.y, strict=True) if pair[0] == pair[0]] == [
        (limit, "lenet5 · original") for limit in (61.0, 80.0, 62.0, 80.0)
    ]
    assert len(traces["printed"].x) == 8
    assert "95 % interval of a run" not in {
        trace.name for trace in measured_against_printed(article_table(5, pd.DataFrame(rows)), "test_accuracy").data
    }
