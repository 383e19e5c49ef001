"""The page about the effect of compression on the diagnosis, run as Streamlit runs it, and its chart."""

from __future__ import annotations

import math
import shlex
from pathlib import Path
from urllib.parse import parse_qs

import pandas as pd
import pytest
from pages import OpenPage, opener, ran, text
from recorded import START, record_measured, record_reconstruction, record_training

from core.article.table_formats import texts_to_latex
from core.compression.image_results import ORIGINAL
from core.compression.specs import DiagnosisSpec, ReconstructSpec, variants, ways
from core.data.datasets import Dataset, DatasetImage
from core.predictions.diagnosis import FIGURES, way_figures
from core.store.measurements import Store
from core.training.specs import Rules, TrainSpec
from dashboard.charts.diagnosis import FIGURES as CHARTED
from dashboard.charts.diagnosis import diagnosis_chart
from dashboard.parts.components import way_in_inspector
from jobs.__main__ import build_parser

WAYS = {
    "ks": (2, 5),
    "codecs": ("png", "jpeg"),
    "qualities": (95,),
    "rivals": (("jpeg", 20), ("webp", 30), ("png", None)),
}
RECORD = DatasetImage("a", "a.jpg", 1, 450, 600, "0" * 64)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """Give a store with a trained network, and the test images of its data set."""
    found = Store(tmp_path / "data" / "dermslim.duckdb")
    names = ["a", "b", *(f"{split}-{number}" for split in ("validation", "test") for number in range(8))]
    records = tuple(DatasetImage(name, f"{name}.jpg", 1, 450, 600, name * 9) for name in names)
    found.record_dataset(Dataset("ham", Path("/nowhere"), "ham10000", records), START)
    return found


@pytest.fixture
def open_page(store: Store, valkey_url: str, monkeypatch: pytest.MonkeyPatch) -> OpenPage:
    return opener(monkeypatch, store.path.parent, valkey_url)


def test_without_a_diagnosis_the_page_offers_one_and_without_a_network_to_train_one(open_page: OpenPage) -> None:
    page = open_page("diagnosis")
    assert "No diagnosis has been measured yet." in text(page)
    form = ran(next(each for each in page.button if each.label == "New diagnosis").click())
    assert "No trained network has predictions of test images yet." in text(form)
    assert "Train a network" in text(form)


def test_the_form_names_the_smallest_accepted_step_and_the_ways(open_page: OpenPage, store: Store) -> None:
    run_id = record_training(store, accuracies=[70.0], images=2, sets=True)
    page = open_page("diagnosis", tab="New diagnosis")
    assert page.selectbox(key="choice_network").value == run_id
    assert page.selectbox(key="choice_step").value == "0"
    assert page.selectbox(key="choice_dataset").value == "ham"
    assert "Compress and predict in 20 ways" in text(page)
    page.text_input(key="diagnosis_ks").set_value("2, 5, 451")
    assert "Expected k of at most 450, the rank of the largest image of ham, got 451." in text(ran(page))
    page.text_input(key="diagnosis_ks").set_value("2")
    page.multiselect(key="diagnosis_codecs").set_value(["png", "webp"])
    page.text_input(key="diagnosis_qualities").set_value("30, 60")
    assert "Compress and predict in 17 ways" in text(ran(page))
    page.multiselect(key="diagnosis_codecs").set_value([])
    assert "Expected at least one value of codecs, got none." in text(ran(page))


def test_the_form_begins_with_the_newest_network_whose_images_are_registered_here(
    open_page: OpenPage, store: Store
) -> None:
    here = record_training(store, images=2, sets=True)
    elsewhere = record_training(store, images=2, sets=True, dataset="imported")
    page = open_page("diagnosis", tab="New diagnosis")
    assert page.selectbox(key="choice_network").value == here
    assert len(page.selectbox(key="choice_network").options) == 2
    page = open_page("diagnosis", tab="New diagnosis", network=elsewhere)
    assert page.selectbox(key="choice_network").value == elsewhere


def test_a_data_set_without_the_test_images_is_refused(open_page: OpenPage, store: Store) -> None:
    run_id = record_training(store, images=2, sets=True)
    store.record_dataset(Dataset("other", Path("/other"), "plain", (RECORD,)), START)
    page = open_page("diagnosis", tab="New diagnosis", dataset="other")
    assert f"Expected the 8 test images of {run_id} in other, got 0 of them; test-0 is not there." in text(page)


@pytest.mark.parametrize("image_split", ["test", "validation"])
def test_a_finished_diagnosis_shows_its_figures_and_what_one_way_changes(
    open_page: OpenPage, store: Store, image_split: str
) -> None:
    training = record_training(store, "alexnet", images=2, sets=True)
    spec = DiagnosisSpec(dataset="ham", run=training, image_split=image_split, **WAYS)
    record_measured(store, spec)
    page = open_page("diagnosis")
    said = text(page)
    assert "Network: **alexnet**, Original" in said
    assert ("the weights were chosen by them" in said) == (image_split == "validation")
    assert "Fewest bytes with at least 99 % of the predictions unchanged:" in said
    assert "Melanoma recall 100.0 %" in said
    assert "k = 2 as PNG at 0.1 kB an image: 0.0 % [0.0, 0.0] of the predictions stay." in said  # the first way loses
    assert "2 images lost, 2 melanomas among them; 0 images gained, 0 melanomas among them." in said
    table = next(frame.value for frame in page.dataframe if "Way" in frame.value)
    assert table["Way"].tolist() == [
        "Original", "k = 2 as PNG", "k = 5 as PNG", "k = 2 as JPEG 95", "k = 5 as JPEG 95", "JPEG 20", "WebP 30",
        "PNG",
    ]  # fmt: skip
    assert table["Predictions that stay, %"].tolist()[:3] == [
        "100.0 [100.0, 100.0]", "0.0 [0.0, 0.0]", "100.0 [100.0, 100.0]",
    ]  # fmt: skip
    assert [each.label for each in page.download_button if "LaTeX" in each.label] == ["Figures, LaTeX"]
    other = text(open_page("diagnosis", way="jpeg 20"))
    assert "JPEG 20 at 0.1 kB an image: 100.0 % [100.0, 100.0] of the predictions stay." in other
    assert "No image is given another class than its original." in other


def test_an_image_that_changes_opens_in_the_inspector_at_the_way(open_page: OpenPage, store: Store) -> None:
    spec = DiagnosisSpec(dataset="ham", run=record_training(store, images=2), **WAYS)
    record_measured(store, spec)
    links = [parse_qs(each.proto.query_string) for each in open_page("diagnosis").page_link]
    assert [link for link in links if "image" in link] == [
        {"dataset": ["ham"], "image": [image], "mode": ["per channel"], "codec": ["PNG"], "k": ["2"]}
        for image in ("a", "b")
    ]
    by_variant = {way.variant: way for way in ways(spec.replace(modes=("unfolded",)))}
    assert way_in_inspector(by_variant["jpeg 20"], RECORD) == {
        "mode": "per channel", "codec": "JPEG", "quality_jpeg": "20", "k": "450",
    }  # fmt: skip
    assert way_in_inspector(by_variant["k=5 unfolded jpeg 95"], RECORD)["mode"] == "unfolded"


def test_the_inspector_shows_an_image_as_the_link_names_it(store: Store, tmp_path: Path, open_page: OpenPage) -> None:
    import cv2
    import numpy as np

    folder = tmp_path / "images"
    folder.mkdir()
    cv2.imwrite(str(folder / "a.png"), np.random.default_rng(1).integers(0, 256, (40, 56, 3), dtype=np.uint8))
    record = DatasetImage("a", "a.png", 1, 40, 56, "0" * 64)
    store.record_dataset(Dataset("noise", folder, "plain", (record,)), START)
    spec = DiagnosisSpec(dataset="noise", run="r", **WAYS | {"modes": ("unfolded",), "codecs": ("webp",)})
    found = []
    for way in (way for way in ways(spec) if way.variant in ("webp 30", "k=5 unfolded webp 95")):
        page = open_page("inspector", dataset="noise", image="a", **way_in_inspector(way, record))
        choices = [page.selectbox(key=key).value for key in ("mode", "codec")]
        found.append((*choices, page.number_input(key="quality_webp").value, page.slider(key="k").value))
    assert found == [("unfolded", "webp", 95, 5), ("per_channel", "webp", 30, 40)]


def test_a_diagnosis_outlives_the_training_run(open_page: OpenPage, store: Store) -> None:
    record_measured(store, DiagnosisSpec(dataset="ham", run="train-9", step=2, **WAYS))
    said = text(open_page("diagnosis"))
    assert "Network: step 2 of `train-9`, which was deleted." in said


def test_the_copied_settings_fill_the_form(open_page: OpenPage, store: Store) -> None:
    training = record_training(store, images=2, sets=True)
    record_measured(store, DiagnosisSpec(dataset="ham", run=training, **WAYS))
    record_training(store, images=2, seed=2)
    page = open_page("diagnosis")
    page = ran(next(each for each in page.button if each.label.startswith("Use these settings")).click())
    assert page.selectbox(key="choice_network").value == training
    assert page.text_input(key="diagnosis_rivals").value == "jpeg:20, webp:30, png"
    assert page.multiselect(key="diagnosis_codecs").value == ["png", "jpeg"]


def test_networks_trained_on_a_reconstruction_are_compared_and_others_are_not(
    open_page: OpenPage, store: Store
) -> None:
    record_reconstruction(store, "ham-k5", "ham", "k=5 per_channel jpeg 95")
    training = record_training(store, accuracies=[100.0], images=4)
    record_measured(store, DiagnosisSpec(dataset="ham", run=training, **WAYS))
    page = open_page("diagnosis")
    assert "Trained and tested on" not in [name for frame in page.dataframe for name in frame.value]
    same = record_training(store, accuracies=[50.0], images=4, dataset="ham-k5", source="ham")
    pruned = record_training(
        store, accuracies=[50.0, 50.0], images=4, dataset="ham-k5", source="ham", rules=Rules(factors=(50,))
    )
    record_training(store, accuracies=[50.0], images=4, dataset="ham-k5", source="ham", seed=2)
    record_training(store, "alexnet", accuracies=[50.0], images=4, dataset="ham-k5", source="ham")
    table = next(frame.value for frame in open_page("diagnosis").dataframe if "Trained and tested on" in frame.value)
    assert table["Page"].tolist() == [f"run?run={same}", f"run?run={pruned}"]  # its unpruned network
    assert table["Stored as"].tolist() == ["k=5 per_channel jpeg 95"] * 2
    assert table["Accuracy"].iloc[0].startswith("50.0 % [")
    assert table["Accuracy, minus trained on originals"].iloc[0].startswith("−50.0 [−")
    assert table["McNemar p"].tolist() == ["0.0078"] * 2  # 8 of 16 images lost, none gained: 2 / 2⁸
    assert table["Images"].tolist() == [16, 16]


def test_the_commands_store_the_data_set_in_that_way_and_train_the_same_network(
    open_page: OpenPage, store: Store
) -> None:
    training = record_training(store, images=2)
    record_measured(store, DiagnosisSpec(dataset="ham", run=training, **WAYS))
    shown = next(each.value for each in open_page("diagnosis").code if "reconstruct" in each.value)
    stored, trained = (build_parser().parse_args(shlex.split(line)[3:]) for line in shown.splitlines())
    assert stored.model is ReconstructSpec
    assert stored.folder == "ham"
    assert trained.model is TrainSpec
    assert trained.folder == "ham-k2-png"
    assert "--k 2 --mode per_channel --codec png" in shown
    assert "--name ham-k2-png" in shown


# The chart and the table in LaTeX


def figures(spec: DiagnosisSpec) -> pd.DataFrame:
    """Figures of the ways in which each one has more bytes, and a higher figure, than the one before it."""
    rows = [
        {"variant": name, "images": 9}
        | dict.fromkeys(FIGURES, 50.0 + place)
        | {f"{figure}_low": 48.0 + place for figure in FIGURES}
        | {f"{figure}_high": 55.0 + place for figure in FIGURES}
        | {"bytes": 1000.0 * (place + 1)}
        for place, name in enumerate([ORIGINAL, *variants(spec)])
    ]
    return pd.DataFrame(rows)


@pytest.mark.parametrize("figure", list(CHARTED))
def test_the_chart_has_a_line_per_codec_and_per_kind_of_reconstruction(figure: str) -> None:
    spec = DiagnosisSpec(dataset="d", run="r", **WAYS)
    table = figures(spec)
    chart = diagnosis_chart(table, ways(spec), figure)
    assert [trace.name for trace in chart.data] == ["SVD as PNG", "SVD as JPEG 95", "JPEG", "WebP", "PNG"]
    drawn = {
        point[0]: (x, y) for trace in chart.data for point, x, y in zip(trace.customdata, trace.x, trace.y, strict=True)
    }
    assert len(drawn) == len(ways(spec))
    row = table.set_index("variant").loc["k=5 jpeg 95"]
    assert drawn["k = 5 as JPEG 95"] == (row["bytes"] / 1000, row[figure])
    first = chart.data[0]
    assert list(first.error_y.array) == [5.0, 5.0]
    assert list(first.error_y.arrayminus) == [2.0, 2.0]
    assert chart.layout.xaxis.type == "log"
    assert len(chart.layout.shapes) == (0 if figure == "agreement" else 2)


def test_a_figure_that_no_way_has_gives_an_empty_chart() -> None:
    spec = DiagnosisSpec(dataset="d", run="r", **WAYS)
    chart = diagnosis_chart(figures(spec).assign(auc=math.nan), ways(spec), "auc")
    assert not chart.data
    assert "no way has a value" in chart.layout.annotations[0].text
    assert way_figures(pd.DataFrame(columns=["variant", "image_id"]), []).empty


def test_the_latex_table_has_a_row_per_way_and_escapes_its_texts() -> None:
    written = texts_to_latex(pd.DataFrame({"Way": ["JPEG 90", "a_b & c"], "Accuracy, %": ["1", "−2"]}), "50 %", "tab")
    rows = [line for line in written.splitlines() if line.endswith(r"\\")]
    assert rows == [r"Way & Accuracy, \% \\", r"JPEG 90 & 1 \\", r"a\_b \& c & $-$2 \\"]
    assert r"\begin{tabular}{lr}" in written
    assert r"\caption{50 \%}" in written
