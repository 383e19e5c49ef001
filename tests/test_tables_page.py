"""The page Tables, run as Streamlit runs it, with a real store."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest
from pages import OpenPage, opener, ran, text
from recorded import QUICK, record_training
from streamlit.testing.v1 import AppTest

from core.article.evidence import table_name
from core.article.printed import table as printed_table
from core.article.tables import FURTHER, TABLES
from core.store.measurements import Store
from core.training.specs import Rules


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Give a data folder with trainings on a data set, its reconstruction and another data set, and a pruning run."""
    found = tmp_path_factory.mktemp("tables") / "data"
    store = Store(found / "dermslim.duckdb")
    for seed, accuracy in ((1, 70.0), (2, 74.0)):
        record_training(store, "lenet5", [accuracy], seed=seed, sets=True, study="grid-1")
        record_training(store, "lenet5", [60.0], dataset="smaller", source="ham", seed=seed, sets=True)
    record_training(store, "lenet5", [80.0, 79.0, 10.0, 10.0], seed=3, rules=Rules(factors=(50, 33.33)))
    record_training(store, "lenet5", [5.0], training=QUICK.replace(epochs=1))
    record_training(store, "lenet5", [90.0], dataset="*demo*_[a](b)", synthetic=True)
    return found


@pytest.fixture
def open_page(folder: Path, valkey_url: str, monkeypatch: pytest.MonkeyPatch) -> OpenPage:
    return opener(monkeypatch, folder, valkey_url)


def shown(test: AppTest, place: int = 0) -> pd.DataFrame:
    """Return the table that the page shows, or one of the parts of the further table, with names as plain text."""
    frame = test.table[place].value
    return frame.set_axis(frame.index.str.replace("\u00a0", " ").str.replace("\\", ""), axis=0)


def test_without_trainings_the_printed_tables_are_shown(
    tmp_path: Path, valkey_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    test = opener(monkeypatch, tmp_path / "data", valkey_url)("tables", table="table5")
    assert "No network has been trained yet" in text(test)
    assert len(test.table) == 1
    assert set(shown(test)["Accuracy"]) == {"–"}
    assert shown(test)["printed"].tolist() == [f"{value:.2f}" for value in printed_table(5)["test_precision"]]


def test_measured_value_printed_value_and_difference_are_shown_side_by_side(open_page: OpenPage) -> None:
    table = shown(open_page("tables", table="table5"))
    assert table.index[:2].tolist() == ["lenet5 · original", "lenet5 · reconstructed"]
    accuracy = table.columns.get_loc("Accuracy")
    first = table.iloc[0, accuracy : accuracy + 2].str.replace("\u00a0", " ").tolist()
    assert first == ["**74.67 ± 5.03**", "72.22 (+2.45)"]
    assert table.iloc[1, accuracy].replace("\u00a0", " ") == "60.00 ± 0.00"


def test_each_row_links_to_its_runs_by_seed(open_page: OpenPage, folder: Path) -> None:
    runs = sorted(run.id for run in Store(folder / "dermslim.duckdb").runs(dataset="smaller"))
    cell = shown(open_page("tables", table="table5")).loc["lenet5 · reconstructed", "Seeds"]
    assert cell == ", ".join(f"[{seed}](run?run={run})" for seed, run in enumerate(runs, 1))


def test_the_caption_gives_data_n_seeds_settings_and_what_is_left_out(open_page: OpenPage) -> None:
    said = text(open_page("tables", table="table5"))
    for part in (
        "ham (original), smaller (reconstructed)",
        "n: 80 training (with repeats 120), 40 validation and 20 test images",
        "5 runs, 3 seeds (1, 2, 3)",
        "48×64, 3 epochs, batch 32",
        "Left out: 1 training of lenet5 with other settings: 48×64, 1 epochs",
    ):
        assert part in said


def test_synthetic_images_are_labelled(open_page: OpenPage) -> None:
    test = open_page("tables", table="table5", dataset="*demo*_[a](b)")
    assert "*demo*_[a](b) (original, synthetic)" in text(test)
    assert shown(test).loc["lenet5 · original", "Accuracy"] == "90.00"


def test_choices_are_read_from_the_address(open_page: OpenPage, folder: Path) -> None:
    def accuracy(version: str, **params: list[str]) -> str:
        return shown(open_page("tables", table="table5", **params)).loc[f"lenet5 · {version}", "Accuracy"]

    assert accuracy("original", seeds=["2"]) == "**74.00**"
    assert accuracy("reconstructed", studies=["grid-1"]) == "–"
    assert accuracy("reconstructed", images=["original"]) == "–"
    demo = Store(folder / "dermslim.duckdb").runs(dataset="*demo*_[a](b)")[0].id
    assert accuracy("original", runs=[demo]) == "90.00"


def test_pruning_steps_are_shown_with_class_recalls_sizes_and_times_below(open_page: OpenPage) -> None:
    steps = shown(open_page("tables", table="table6"))
    assert steps.index[:4].tolist() == [f"lenet5 · {name}" for name in ("Original", "R1: 50%", "R1: 33%", "R2: 33%")]
    assert steps.loc["lenet5 · R1: 50%", "Accuracy"] == "79.00"
    assert steps.loc["lenet5 · R2: 50%", "printed"] == "–"
    further = open_page("tables", table=FURTHER)
    averages, recalls, costs = (shown(further, place) for place in range(3))
    assert (costs["Weights on disk, MB"] == "1.00").all()
    assert "Recall melanoma, %" in recalls
    assert "Lesion accuracy, %" in averages


def test_every_table_can_be_downloaded_in_three_formats(open_page: OpenPage) -> None:
    for name in map(table_name, TABLES):
        labels = [button.label for button in open_page("tables", table=name).download_button]
        assert labels == ["CSV", "Markdown", "LaTeX"], name


def test_another_data_set_can_be_chosen(open_page: OpenPage) -> None:
    test = open_page("tables", table="table5")
    test = ran(test.selectbox(key="choice_dataset").set_value("*demo*_[a](b)"))
    assert shown(test).loc["lenet5 · original", "Accuracy"] == "90.00"
    assert test.query_params["dataset"] == "*demo*_[a](b)"


def test_the_switch_adds_each_runs_interval_to_table_and_caption(
    tmp_path: Path, valkey_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = Store(tmp_path / "data" / "dermslim.duckdb")
    for seed in (1, 2):
        record_training(store, "lenet5", [80.0], seed=seed, images=20)
    record_training(store, "alexnet", [80.0])
    open_page = opener(monkeypatch, tmp_path / "data", valkey_url)
    assert shown(open_page("tables", table="table5")).loc["lenet5 · original", "Accuracy"] == "80.00 ±\u00a00.00"
    test = open_page("tables", table="table5", intervals="true")
    table = shown(test)["Accuracy"].str.replace("\u00a0", " ").str.replace("\\", "")
    assert table["lenet5 · original"] == "80.00 ± 0.00 [67.5, 92.5] [67.5, 92.5]"
    assert table["alexnet · original"] == "80.00", "a run without predictions has no interval"
    assert "the 95 % interval of each run" in text(test)
    recalls = open_page("tables", table=FURTHER, intervals="true").table[1].value
    assert recalls["Recall melanoma, %"].iloc[0].count("[") == 2


def test_a_chart_of_the_chosen_figure_is_above_each_of_the_articles_tables(open_page: OpenPage) -> None:
    for name in ("table4", "table5", "table6"):
        assert len(open_page("tables", table=name).get("plotly_chart")) == 1
    assert "**Recall, measured and printed**" in text(open_page("tables", table="table5", figure5="Recall"))


def test_the_reader_chooses_which_table_is_shown_and_the_address_names_it(open_page: OpenPage) -> None:
    test = open_page("tables")
    assert [header.value for header in test.header] == ["Table 4: training and validation"]
    test = ran(test.button_group(key="choice_table").set_value("table6"))
    assert [header.value for header in test.header] == ["Table 6: pruning step by step"]
    assert test.query_params["table"] == "table6"
