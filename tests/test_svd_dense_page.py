"""The part of a training run's page about dense layers of low rank, with a real store."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest
from pages import OpenPage, opener, ran, text
from recorded import record_svd_dense, record_training

from core.predictions.intervals import interval_text, intervals_of_step
from core.store.measurements import Store
from core.training.specs import Rules
from dashboard import training_data
from dashboard.charts.training import energy_curve

IMAGES = 20


@pytest.fixture
def store(tmp_path: Path) -> Store:
    (tmp_path / "data").mkdir()
    return Store(tmp_path / "data" / "dermslim.duckdb")


@pytest.fixture
def open_page(store: Store, valkey_url: str, monkeypatch: pytest.MonkeyPatch) -> OpenPage:
    return opener(monkeypatch, store.path.parent, valkey_url, "prune_train")


def recorded(store: Store) -> str:
    return record_training(store, "lenet5", (80.0, 70.0), rules=Rules(factors=(50,)), images=IMAGES)


def test_a_step_without_factored_layers_offers_to_factor_them(store: Store, open_page: OpenPage) -> None:
    shown = open_page(run=recorded(store), part="Low rank")
    assert [each.label for each in shown.button if each.key == "factor_dense"] == ["Factor the dense layers"]
    assert not [frame for frame in shown.dataframe if "Energy" in frame.value]


def test_each_energy_has_its_size_accuracy_and_agreement_beside_the_network_itself(
    store: Store, open_page: OpenPage
) -> None:
    run_id = recorded(store)
    record_svd_dense(store, run_id, {90: 60.0, 99.9: 80.0}, IMAGES)
    shown = open_page(run=run_id, part="Low rank")
    assert "Test accuracy and parameters against the energy kept" in text(shown)
    table = next(frame.value for frame in shown.dataframe if "Energy" in frame.value)
    rows = store.svd_dense([run_id])
    limits = [interval_text(intervals_of_step(each)["test_accuracy"]) for each in rows["classification"]]
    assert table["Energy"].tolist() == ["90 %", "99.9 %", "itself"]
    assert table["Test accuracy"].tolist()[:2] == [f"60.00 % {limits[0]}", f"80.00 % {limits[1]}"]
    assert table["Agreement"].tolist() == ["80.00 %", "100.00 %", "–"]
    assert table["Of the network"].tolist() == ["90.0 %", "99.9 %", "100.0 %"]
    assert table["Against unpruned"].iloc[0].startswith("−20.00 [")
    assert [each.label for each in shown.button if each.key == "factor_dense"] == ["Factor the dense layers again"]
    other = open_page(run=run_id, part="Low rank", step="1")
    assert not [frame for frame in other.dataframe if "Energy" in frame.value]


def test_fine_tuned_networks_and_latencies_stand_beside_the_others(store: Store, open_page: OpenPage) -> None:
    run_id = recorded(store)
    record_svd_dense(store, run_id, {90: 60.0}, IMAGES)
    record_svd_dense(store, run_id, {90: 80.0}, IMAGES, fine_tune_epochs=5, latency=0.5, latency_itself=1.5)
    shown = open_page(run=run_id, part="Low rank")
    assert "Test accuracy, parameters and latency against the energy kept" in text(shown)
    table = next(frame.value for frame in shown.dataframe if "Energy" in frame.value)
    assert table["Energy"].tolist() == ["90 %", "90 %, 5 epochs", "itself"]
    assert table["Latency"].tolist() == ["–", "0.50 ms", "1.50 ms"]


def test_the_button_queues_what_was_chosen(store: Store, open_page: OpenPage, monkeypatch: pytest.MonkeyPatch) -> None:
    run_id, asked = recorded(store), []
    monkeypatch.setattr(training_data, "factor_dense", lambda *chosen: asked.append(chosen))
    shown = open_page(run=run_id, part="Low rank")
    ran(next(each for each in shown.number_input if each.key == "fine_tune_epochs").set_value(3))
    ran(next(each for each in shown.toggle if each.key == "factor_latency").set_value(True))
    button = next(each for each in shown.button if each.key == "factor_dense")
    assert f"svd-dense {run_id} --step 0 --fine-tune-epochs 3 --latency`" in button.help
    ran(button.click())
    assert asked == [(run_id, 0, 3, True)]


def test_the_curve_draws_accuracy_with_its_interval_above_the_parameters() -> None:
    rows = pd.DataFrame(
        {"name": ["90 %", "itself"], "test_accuracy": [60.0, 70.0], "low": [55.0, float("nan")],
         "high": [66.0, float("nan")], "parameters": [10, 20], "latency": float("nan"), "epochs": 0}
    )  # fmt: skip
    accuracy, parameters = energy_curve(rows).data
    assert (list(accuracy.y), list(parameters.y)) == ([60, 70], [10, 20])
    assert (accuracy.error_y.array[0], accuracy.error_y.arrayminus[0]) == (6, 5)
    assert list(accuracy.x) == list(parameters.x) == ["90 %", "itself"]
    *_, latency = energy_curve(rows.assign(latency=[0.5, 1.5])).data
    assert list(latency.y) == [0.5, 1.5]
    tuned = rows.iloc[:1].assign(epochs=5, test_accuracy=65.0)
    plain, other, sizes = energy_curve(pd.concat([rows, tuned])).data
    assert [list(each.y) for each in (plain, other, sizes)] == [[60, 70], [65], [10, 20]]
    assert [plain.name, other.name] == ["without new training", "fine-tuned, epochs: 5"]
    assert not energy_curve(rows.iloc[:0]).data
