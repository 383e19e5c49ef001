"""The page Deploy, run as Streamlit runs it: converted networks beside each other, and what is offered of them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from pages import OpenPage, opener, ran, text
from recorded import START, conversion, latency, record_training

from core.deployment.comparison import beside_each_other, pareto_front, texts_of
from core.store.measurements import Store
from core.training.specs import Rules
from dashboard.charts.deployment import COSTS, cost_against_accuracy
from jobs.__main__ import main

LOW, HIGH = {"accuracy": 60.0, "accuracy_low": 55.0, "accuracy_high": 65.0}, {
    "accuracy": 70.0, "accuracy_low": 66.0, "accuracy_high": 74.0,
}  # fmt: skip


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "data"


@pytest.fixture
def open_page(folder: Path, valkey_url: str, monkeypatch: pytest.MonkeyPatch) -> OpenPage:
    return opener(monkeypatch, folder, valkey_url, "deploy")


def recorded(folder: Path) -> str:
    """Record a run of two accepted steps, the second of which is converted to two formats and measured."""
    store = Store(folder / "dermslim.duckdb")
    run_id = record_training(store, accuracies=(70.0, 70.0), rules=Rules(factors=(50,), max_iterations=1), sets=True)
    store.record_conversion(run_id, 1, conversion(step=1, bytes=4000, **HIGH), "w", START)
    flawed = conversion(step=1, format="litert-int8", same_class=100, bytes=1000, **LOW)
    store.record_conversion(run_id, 1, flawed, "w", START)
    store.record_conversion(
        run_id, 1, conversion(step=0, format="onnx-float32", failure="It is too large."), "w", START
    )
    fast, slow = {"wall_median": 2.5, "wall_p95": 3.5}, {"wall_median": 8.25, "wall_p95": 9.0}
    store.record_latencies(run_id, 1, [latency(1, **slow), latency(1, threads=2, **fast)], "host-a", START)
    return run_id


def test_without_a_trained_network_the_page_says_what_to_do(folder: Path, open_page: OpenPage) -> None:
    Store(folder / "dermslim.duckdb").migrate()
    shown = open_page()
    assert "No run with a trained network has ended yet." in text(shown)
    assert [link.proto.page for link in shown.get("page_link")] == ["prune_train"]


def test_a_run_without_conversions_offers_its_unpruned_and_smallest_accepted_network(
    folder: Path, open_page: OpenPage
) -> None:
    record_training(Store(folder / "dermslim.duckdb"), accuracies=(70.0, 70.0, 10.0), rules=Rules(factors=(50,)))
    shown = open_page()
    assert "No network of this run has been converted yet." in text(shown)
    assert shown.multiselect[0].value == [0, 1]
    assert "No train worker is running" in [each.proto.title for each in shown.warning]
    assert "--step 0 --step 1" in text(shown)


def test_the_page_shows_what_was_converted_verified_and_measured(folder: Path, open_page: OpenPage) -> None:
    run_id = recorded(folder)
    shown = open_page(run=run_id)
    verdicts, times = (each.value for each in shown.dataframe[:2])
    assert verdicts["Verdict"].tolist() == ["failed", "verified", "flagged"]
    assert verdicts["As Keras"].tolist()[1:] == ["200 of 200", "100 of 200"]
    assert verdicts["Test accuracy"].tolist()[1:] == ["70.00 % [66.0, 74.0]", "60.00 % [55.0, 65.0]"]
    assert "It is too large." in text(shown)
    assert "got it for 50.00 %" in text(shown)
    assert times["1 thread, ms"].tolist() == ["8.25 (9.00)"]
    assert times["2 threads, ms"].tolist() == ["2.50 (3.50)"]
    assert "host-a" in text(shown)
    assert "Expected the converted networks on this host" in text(shown)


def test_a_conversion_without_the_run_s_images_is_refused_with_a_sentence(folder: Path, open_page: OpenPage) -> None:
    run_id = recorded(folder)
    shown = open_page(run=run_id)
    (button,) = (each for each in shown.button if each.label == "Convert and verify")
    assert "Expected data set ham to be registered, got none." in text(ran(button.click()))
    shown.multiselect[0].set_value([])
    ran(shown)
    assert [each.disabled for each in shown.button if each.label == "Convert and verify"] == [True]


# The comparison and its chart


def networks(**columns: list[object]) -> pd.DataFrame:
    known: dict[str, list[object]] = {"bytes": [1, 2], "wall_median": [1.0, 1.0], "accuracy": [60.0, 70.0]}
    return pd.DataFrame(known | columns)


def test_a_network_is_on_the_front_unless_another_is_as_good_in_all_and_better_in_one() -> None:
    assert pareto_front(networks()) == [True, True]
    assert pareto_front(networks(bytes=[2, 2])) == [False, True]
    assert pareto_front(networks(accuracy=[70.0, 70.0])) == [True, False]
    assert pareto_front(networks(bytes=[2, 2], accuracy=[70.0, 70.0])) == [True, True]
    assert pareto_front(networks(bytes=[2, 2], wall_median=[0.5, 1.0])) == [True, True]
    assert pareto_front(networks(bytes=[2, 2], wall_median=[np.nan, np.nan])) == [False, True]


def test_the_comparison_has_the_latency_of_the_number_of_threads_that_is_asked_for(folder: Path) -> None:
    run_id = recorded(folder)
    store = Store(folder / "dermslim.duckdb")
    parts = store.conversions([run_id]), store.latencies([run_id]), store.steps([run_id])
    for threads, median in ((1, 8.25), (2, 2.5)):
        found = beside_each_other(*parts, threads)
        assert found["wall_median"].tolist()[:1] == [median]
        assert found["agreement"].tolist() == [100, 50]
        assert found["name"].tolist() == ["R1: 50%"] * 2
        assert found["format"].tolist() == ["litert-float32", "litert-int8"]  # what failed is left out
    texts = texts_of(found)
    assert texts["Latency, ms"].tolist() == ["2.50", "–"]
    assert texts["Test accuracy"].tolist() == ["70.00 % [66.0, 74.0]", "60.00 % [55.0, 65.0]"]


def test_the_command_prints_the_networks_of_runs_as_markdown(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run_id = recorded(folder)
    monkeypatch.setenv("DATA_DIR", str(folder))
    assert main(["devices", run_id]) == 0
    head, _, first, second = capsys.readouterr().out.strip().splitlines()
    assert head.startswith("| Network | Seed | Run | Format | Parameters | Bytes |")
    seed = Store(folder / "dermslim.duckdb").steps([run_id])["seed"].iloc[-1]
    assert first.startswith(f"| lenet5, R1: 50% | {seed} | {run_id[-4:]} | LiteRT float32 |")
    assert "| 100.00 | 0.0e+00 | 70.00 % [66.0, 74.0] | 8.25 | 9.00 |" in first.replace("\\", "")
    assert second.endswith("| – | – | – |")
    assert main(["devices", "none-such"]) == 1


def test_the_chart_has_each_network_with_its_interval_and_marks_the_flawed(folder: Path) -> None:
    run_id = recorded(folder)
    store = Store(folder / "dermslim.duckdb")
    found = beside_each_other(store.conversions([run_id]), store.latencies([run_id]), store.steps([run_id]))
    figure = cost_against_accuracy(found, "bytes")
    drawn = {trace.name: trace for trace in figure.data}
    assert (drawn["LiteRT float32"].x[0], drawn["LiteRT float32"].y[0]) == (4000, 70)
    assert drawn["LiteRT float32"].error_y.array[0] == pytest.approx(4)
    assert drawn["LiteRT float32"].error_y.arrayminus[0] == pytest.approx(4)
    assert drawn["LiteRT int8"].marker.symbol == ("x",)
    assert len(cost_against_accuracy(found, "wall_median").data) == 1, "the other was not measured"
    assert set(COSTS) == {"bytes", "wall_median", "peak_memory"}
