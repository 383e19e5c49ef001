"""Names from users are shown literally: in figures, on every page, in links and in selection lists."""

from __future__ import annotations

import inspect
import json
import re
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pandas as pd
import plotly.graph_objects as go
import pytest
from google.protobuf.message import Message
from pages import OpenPage, opener, plain, ran, text
from recorded import conversion, latency, record_measured, record_training
from streamlit.testing.v1 import AppTest

from core.article.printed import TABLE_METRICS
from core.article.tables import WAYS, article_table
from core.compression.specs import DiagnosisSpec, ResizeSpec, RivalsSpec, SweepSpec
from core.data.datasets import Dataset, DatasetImage, load_dataset
from core.networks.architectures import LENET5
from core.networks.costs import curve_table, layer_table
from core.networks.fits import fit_curves
from core.networks.pruning import SCOPES
from core.settings import Settings
from core.store.measurements import Store
from core.training.specs import Rules
from dashboard import words
from dashboard.charts import datasets as dataset_charts
from dashboard.charts import deployment as deployment_charts
from dashboard.charts import diagnosis as diagnosis_charts
from dashboard.charts import measuring as charts
from dashboard.charts import networks as network_charts
from dashboard.charts import style
from dashboard.charts import tables as table_charts
from dashboard.charts import tour as tour_charts
from dashboard.charts import training as training_charts
from dashboard.parts import components

NOW = datetime(2026, 11, 26, 8, tzinfo=UTC)
MARKED = "<b>x</b> a&amp;b <a href='https:example.org'>y</a> %{x} $z$"
NUMBERS = ["0", "1", "2019", "2024-01-05", "1e3"]
CURVES = list(fit_curves(curve_table([LENET5], [50], SCOPES, 3, 200, 100)))
STEPS = pd.DataFrame(
    {
        "name": [MARKED, "R1: 50%"],
        "reason": [MARKED, ""],
        "parameters": [900, 90],
        "test_accuracy": [70.0, 60.0],
        "accepted": [True, False],
    }
)
MEASURED = pd.DataFrame(
    {"run_id": "r", "network": MARKED, "dataset": "d", "version": "original", "seed": 1, "step": 0, "name": "Original",
     "intervals": [{"test_accuracy": (65.0, 75.0)}]} | dict.fromkeys(TABLE_METRICS[6], 70.0)
)  # fmt: skip
OTHER_WAYS = MEASURED.assign(
    name=MARKED,
    way=["l1"],
    total_epochs=40,
    parameters=9,
    bytes_weights=36,
    difference=1.0,
    naive=2.0,
    naive_parameters=9,
)
RUNS = pd.DataFrame(
    {"network": [MARKED], "parameters": [90], "test_accuracy": [70.0], "test_accuracy_std": [1.0], "n": [2]}
)
EPOCHS = pd.DataFrame(
    {"group": [MARKED] * 2, "epoch": [1, 2], "n": [2, 2]}
    | {
        f"{split}_accuracy{part}": [50.0, 60.0] for split in ("train", "validation") for part in ("", "_std")
    }
)  # fmt: skip

CONVERTED = pd.DataFrame(
    {"name": [MARKED], "flaw": MARKED, "format": "onnx-float32", "bytes": 10, "front": True,
     "accuracy": 70.0, "accuracy_low": 60.0, "accuracy_high": 80.0}
)  # fmt: skip


def classes(labels: list[str], diagnosis: str = "") -> pd.DataFrame:
    return pd.DataFrame(
        [(label, diagnosis, 2 + place, None) for place, label in enumerate(labels)],
        columns=["label", "dx", "images", "lesions"],
    )


def values(names: list[str], label: str = MARKED) -> pd.DataFrame:
    return pd.DataFrame({"value": names, "label": label, "images": range(1, 1 + len(names))})


def rates(codec: str) -> pd.DataFrame:
    point = {"codec": codec, "quality": 75, "label": "a point", "bytes_per_pixel": 1.0, "images": 2, "ssim": 0.9}
    return pd.DataFrame([point])


# Every function that draws a figure with names of users' networks, classes, runs or files, with markup as names.
NAMED: dict[str, list[Callable[[], go.Figure]]] = {
    "class_counts": [lambda: dataset_charts.class_counts(classes([MARKED, *NUMBERS], MARKED))],
    "distribution": [
        lambda: dataset_charts.distribution(values([MARKED, "male"]), "Sex"),
        lambda: dataset_charts.distribution(values([MARKED, *NUMBERS]), "Localisation"),
    ],
    "rate_distortion": [lambda: charts.rate_distortion(pd.DataFrame(), rates(MARKED.lower()), "ssim")],
    "parameters_by_size": [
        lambda: charts.parameters_by_size(
            pd.DataFrame({"network": [MARKED, "2019"], "variant": "20x10", "parameters": [7, 8]})
        )
    ],
    "network_drawing": [lambda: network_charts.network_drawing(replace(LENET5, title=MARKED), 200, 100)],
    "parameters_by_layer": [
        lambda: network_charts.parameters_by_layer(
            layer_table(LENET5, 200, 100).assign(name=lambda rows: [MARKED, *NUMBERS, *rows["name"].iloc[6:]])
        )
    ],
    "curves_chart": [lambda: network_charts.curves_chart([replace(CURVES[0], network=MARKED), CURVES[0]])],
    "size_against_accuracy": [
        lambda: training_charts.size_against_accuracy(STEPS, "test_accuracy", pd.Series([True, False]))
    ],
    "measured_against_printed": [
        lambda: table_charts.measured_against_printed(article_table(6, MEASURED, with_intervals=True), "test_accuracy")
    ],
    "ways_chart": [lambda: table_charts.ways_chart(article_table(WAYS, OTHER_WAYS, with_intervals=True), MARKED)],
    "layer_shares": [
        lambda: training_charts.layer_shares(
            pd.DataFrame({"a": [4, 4, 4], "b": [2, 2, 2]}, index=[MARKED, "1", "0"]), ["2019", MARKED]
        )
    ],
    "energy_curve": [
        lambda: training_charts.energy_curve(
            pd.DataFrame(
                {
                    "name": [MARKED, "2019"],
                    "test_accuracy": 70.0,
                    "low": 60.0,
                    "high": 75.0,
                    "parameters": 9,
                    "epochs": 0,
                    "latency": [1.5, None],
                }
            )
        )
    ],
    "compared_curves": [lambda: training_charts.compared_curves(EPOCHS, "accuracy")],
    "cost_against_accuracy": [lambda: deployment_charts.cost_against_accuracy(CONVERTED, "bytes")],
    "bars": [lambda: tour_charts.bars("Sizes", [MARKED, *NUMBERS], range(1, 7), [MARKED, *NUMBERS])],
    "compared_sizes": [lambda: training_charts.compared_sizes(RUNS, [MARKED], "test_accuracy")],
}
# Functions that draw only numbers, metrics and the article's classes.
NAMELESS = {
    "metric_against_k", "small_multiples", "storage_against_k", "spectrum", "histograms", "metric_by_size",
    "fits_chart", "residuals_chart", "learning_curve", "sign_chart", "confusion", "diagnosis_chart",
}  # fmt: skip
MODULES = (
    *(charts, dataset_charts, deployment_charts, diagnosis_charts, network_charts, style, table_charts),
    training_charts,
    tour_charts,
)
NO_FIGURES = {"titled_figure", "empty_figure"}
CASES = [pytest.param(draw, id=f"{name}-{place}") for name, draws in NAMED.items() for place, draw in enumerate(draws)]


def strings(part: Any) -> Iterator[str]:
    """Yield every string of a figure's JSON."""
    if isinstance(part, str):
        yield part
    for each in part.values() if isinstance(part, dict) else part if isinstance(part, list) else ():
        yield from strings(each)


def test_every_chart_function_is_tested_with_markup_names_or_takes_no_names() -> None:
    drawing = {
        name
        for module in MODULES
        for name, function in inspect.getmembers(module, inspect.isfunction)
        if inspect.signature(function).return_annotation == "go.Figure" and not name.startswith("_")
    }
    assert drawing == {*NAMED, *NAMELESS, *NO_FIGURES}


@pytest.mark.parametrize("draw", CASES)
def test_names_are_given_to_plotly_as_text(draw: Callable[[], go.Figure]) -> None:
    found = list(strings(json.loads(draw().to_json())))
    own = [re.sub(r"<br>|<extra>.*?</extra>", "", each) for each in found]
    assert not [each for each in own if "<" in each or "%{x} $" in each or "$z$" in each]
    assert not [each for each in own if re.search(r"a&amp;b", each)]
    names = (style.plain_text(MARKED), style.plain_text(MARKED.upper()))
    assert [each for each in own if any(name in each for name in names)]


@pytest.mark.parametrize("draw", CASES)
def test_an_axis_of_names_has_the_type_category(draw: Callable[[], go.Figure]) -> None:
    figure = json.loads(draw().to_json())
    for trace in figure["data"]:
        for axis in "xy":
            if isinstance(trace.get(axis), list) and any(isinstance(value, str) for value in trace[axis]):
                place = trace.get(f"{axis}axis", axis).replace(axis, f"{axis}axis", 1)
                assert figure["layout"][place]["type"] == "category"


def test_both_axes_of_the_confusion_matrix_have_the_type_category() -> None:
    figure = training_charts.confusion([[1, 0, 0, 0]] * 4, "Test")
    assert (figure.layout.xaxis.type, figure.layout.yaxis.type) == ("category", "category")


def test_the_number_of_images_is_drawn_at_the_bar_of_its_class_for_any_class_name() -> None:
    labels = [*NUMBERS, "a_b", "a-b", "non_melanoma", "non-melanoma", "constructor", MARKED]
    figure = dataset_charts.class_counts(classes(labels))
    (bars,) = figure.data
    places = list(figure.layout.yaxis.categoryarray)
    lengths = {places.index(name): length for name, length in zip(bars.y, bars.x, strict=True)}
    assert len(places) == len(set(places)) == len(labels)  # no two classes in one bar
    assert {note.y: (note.text, note.x) for note in figure.layout.annotations} == {
        place: (str(length), length) for place, length in lengths.items()
    }
    assert [style.plain_text(label) for label in labels if label != "constructor"] == [
        name for name in reversed(places) if "onstructor" not in name
    ]
    assert "constructor" not in places  # a property of every object in JavaScript


def test_a_long_name_is_shortened_in_tick_labels_only() -> None:
    names = [f"{'n' * 150}{number}" for number in range(3)]
    axis = dataset_charts.class_counts(classes(names)).layout.yaxis
    assert list(axis.categoryarray) == list(axis.tickvals) == names[::-1]
    assert [len(shown) for shown in axis.ticktext] == [style.LONGEST_NAME] * 3
    assert len(set(axis.ticktext)) == 3


def test_the_title_taken_from_a_figure_is_unescaped_text() -> None:
    figure = network_charts.network_drawing(replace(LENET5, title=MARKED), 200, 100)
    assert components.dressed(figure).title == f"{MARKED} for images of 200 × 100"


# Markdown


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("![](https:example.org).jpg", r"\!\[\]\(https\:example.org\).jpg"),
        ("*x* _y_ `c` ~z~", r"\*x\* \_y\_ \`c\` \~z\~"),
        ("<b>&amp;</b>", r"\<b\>\&amp;\</b\>"),
        ("$x$ :red[x]", r"\$x\$ \:red\[x\]"),
        ("svd-sweep-1 2019 0.5", "svd-sweep-1 2019 0.5"),
        # Plain text in Markdown that Streamlit renders differently:
        ("https://example.org", r"https\::small[]//example.org"),
        ("www.example.org", "www:small[].example.org"),
        ("me@example.org", "me@:small[]example.org"),
        (":material/home:", r"\::small[]material/home\:"),
        (":smile:", r"\::small[]smile\:"),
        ("a -> b", r"a -:small[]\> b"),
        ("a -- b", "a -:small[]- b"),
        ("a >= b", r"a \>:small[]= b"),
        # Text that would start a list, a rule or a code block, or prevent ** from closing:
        ("- x", r"\- x"),
        ("1. x", r"1\. x"),
        ("===", r"\=:small[]=:small[]="),
        (" outer ", "&#32;outer&#32;"),
        ("a\n\n# b", r"a&#10;&#10;\# b"),
    ],
)
def test_markup_in_a_name_is_escaped(name: str, expected: str) -> None:
    assert words.escaped(name) == expected
    assert plain(words.escaped(name)) == name


def test_commands_in_a_sentence_are_code_even_with_backticks_in_names() -> None:
    assert words.with_commands("Put them *back*, or `make up`.") == r"Put them \*back\*, or `make up`."
    hostile = words.with_commands("`register /a` ![](https:example.org) --name b`")
    assert "![](" not in re.sub(r"`[^`]*`", "", hostile)


def test_options_with_equal_labels_get_different_labels() -> None:
    assert words.unlike({"a": "same", "b": "same", "c": "other"}) == {"a": "same · a", "b": "same · b", "c": "other"}


# Pages

HOSTILE = "*a* ![](https:example.org) :material:home: 1e3"
NAMES = [HOSTILE, " outer ", "outer", "0", "<b>x<b>", "`c`", "- x", "www.example.org", "a&amp;b"]
MARKDOWN = ("body", "label", "help", "text", "title", "content", "delta")  # fields that Streamlit reads as Markdown
PLAIN = ("text_input", "selectbox", "multiselect")  # elements whose values and options Streamlit shows as plain text
DANGERS = ("![](", "*a*", ":material:home:")


@pytest.fixture(scope="module")
def full(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Give a data folder whose data sets, classes, files, networks and runs have markup as names."""
    folder = tmp_path_factory.mktemp("named")
    generator = np.random.default_rng(1)
    for place, name in enumerate(NAMES):
        label = folder / "images" / NAMES[place - 1]
        label.mkdir(parents=True)
        coarse = generator.integers(0, 256, (5, 7, 3), dtype=np.uint8)
        assert cv2.imwrite(str(label / f"{name}.png"), cv2.resize(coarse, (56, 40)))
    (folder / "images" / "0" / f"{HOSTILE} broken.jpg").write_bytes(b"\xff\xd8 not an image")
    store = Store(folder / "data" / "dermslim.duckdb")
    read = load_dataset(folder / "images", name="read")
    for name in (HOSTILE, " outer ", "outer"):
        store.record_dataset(
            replace(read, name=name), NOW
        )  # names that a store may have from before names were checked
    made = DatasetImage("a", "a.png", 1, 40, 56, "0" * 64)
    store.record_dataset(
        Dataset(f"{HOSTILE}-k5", folder / HOSTILE, "plain", (made,), source=HOSTILE, settings="k=5"), NOW
    )
    for spec in (
        SweepSpec(dataset=HOSTILE, ks=(5, 10)),
        RivalsSpec(dataset=HOSTILE, rivals=(("jpeg", 75),)),
        ResizeSpec(dataset=HOSTILE, sizes=((20, 28),), k=5),
        DiagnosisSpec(dataset=HOSTILE, run=HOSTILE, ks=(5,)),
    ):
        record_measured(store, spec)
    network = replace(LENET5, name="net_a_b", title=HOSTILE, source=HOSTILE)
    run_id = record_training(
        store, network, (90, 80), dataset=HOSTILE, rules=Rules(factors=(50,), max_iterations=1), sets=True
    )
    store.record_conversion(run_id, 1, conversion(), HOSTILE, NOW)
    store.record_conversion(run_id, 1, conversion(format="litert-int8", failure=HOSTILE), HOSTILE, NOW)
    store.record_latencies(run_id, 1, [latency(processor=HOSTILE, runtime=HOSTILE)], HOSTILE, NOW)
    record_training(store, network, (70,), dataset=HOSTILE, seed=2)
    networks = folder / "data" / "networks"
    networks.mkdir()
    (networks / "2019.yaml").write_text(
        f"title: '{HOSTILE}'\nsource: '{HOSTILE}'\nreadings: ['{HOSTILE}']\n"
        "image: [{layer: conv, filters: 4, kernel: 5, stride: 4}, {layer: global_average_pool}]\n"
    )
    (networks / f"{HOSTILE}.yaml").write_text("image: [")
    return folder


@pytest.fixture
def open_page(full: Path, valkey_url: str, monkeypatch: pytest.MonkeyPatch) -> OpenPage:
    return opener(monkeypatch, full / "data", valkey_url)


def markdown_of(message: Message) -> Iterator[str]:
    """Yield the texts of an element that Streamlit renders as Markdown."""
    for field, value in message.ListFields():
        if isinstance(value, Message):
            yield from markdown_of(value)
        elif isinstance(value, str):
            if field.name in MARKDOWN:
                yield value
        elif not isinstance(value, (int, float, bytes)) and not hasattr(value, "items"):
            for each in value:
                if isinstance(each, Message):
                    yield from markdown_of(each)


def shown_markdown(test: AppTest) -> list[str]:
    """Return the texts of a page that Streamlit renders as Markdown, without code."""
    messages = [node.proto for node in test._tree if node.type != "code" and getattr(node, "proto", None) is not None]
    found = [part for message in messages for part in markdown_of(message)]
    for table in test.table:
        frame = table.value
        found += [str(each) for each in (*frame.columns, *frame.index, *frame.to_numpy().ravel())]
    return [re.sub(r"`[^`]*`", "", each) for each in found]


@pytest.mark.parametrize(
    ("page", "params"),
    [
        ("overview", {}),
        *[("tour", {"step": step}) for step in "123456"],
        *[
            ("datasets", {"dataset": HOSTILE, "view": view})
            for view in ("Images", "Classes", "Left out", "Reconstruct")
        ],
        ("datasets", {"dataset": f"{HOSTILE}-k5", "view": "Metadata"}),
        ("inspector", {"dataset": HOSTILE, "image": HOSTILE, "k": "5"}),
        ("inspector", {"dataset": HOSTILE, "image": "e"}),
        ("inspector", {"dataset": HOSTILE, "image": "![](https:example.net)"}),
        ("sweeps", {}),
        ("sweeps", {"tab": "New sweep", "dataset": HOSTILE}),
        ("sweeps", {"run": HOSTILE}),
        ("resize", {}),
        ("diagnosis", {}),
        ("diagnosis", {"way": HOSTILE}),
        ("networks", {"network": "2019"}),
        ("curves", {"networks": "2019"}),
        ("prune_train", {}),
        ("prune_train", {"tab": "New run", "network": HOSTILE}),
        ("prune_train", {"tab": "Compare", "runs": HOSTILE}),
        ("study", {"tab": "New study"}),
        ("tables", {}),
        ("deploy", {}),
        ("claims", {}),
        ("jobs", {}),
        ("run", {"run": HOSTILE}),
        *[("maintenance", {"tab": tab}) for tab in ("Health", "Runs", "Backups")],
    ],
)
def test_no_page_renders_a_name_as_markup(open_page: OpenPage, page: str, params: dict[str, str]) -> None:
    shown = open_page(page, **params)
    found = shown_markdown(shown)
    assert len(found) > 5
    assert not [each for each in found if any(danger in each for danger in DANGERS)]
    for chart in shown.get("plotly_chart"):
        assert not [each for each in strings(json.loads(chart.proto.spec)) if "<b>" in each or "a&amp;b" in each]


def test_the_page_of_a_run_renders_no_name_as_markup(open_page: OpenPage, full: Path) -> None:
    for run_id in [run.id for run in Store(full / "data" / "dermslim.duckdb").runs()]:
        found = shown_markdown(open_page("run", run=run_id))
        assert [each for each in found if words.escaped(HOSTILE) in each]
        assert not [each for each in found if any(danger in each for danger in DANGERS)]


def test_the_next_button_visits_every_image_with_any_name(open_page: OpenPage) -> None:
    shown = open_page("inspector", dataset=HOSTILE)
    seen = []
    for _ in NAMES:
        ran(next(button for button in shown.button if button.label == "Next").click())
        seen.append(shown.session_state["image"])
        assert shown.header[0].value == words.escaped(seen[-1])
    assert sorted(seen) == sorted(NAMES)


def test_an_image_id_with_outer_spaces_differs_from_the_same_id_without(open_page: OpenPage) -> None:
    assert open_page("inspector", dataset=HOSTILE, image=" outer ").header[0].value == "&#32;outer&#32;"
    assert open_page("inspector", dataset=HOSTILE, image="outer").header[0].value == "outer"
    assert open_page("inspector", dataset=HOSTILE, image=" 0 ").header[0].value == "0"  # typed with spaces


def test_a_data_set_name_with_outer_spaces_differs_from_the_same_name_without(open_page: OpenPage) -> None:
    for name in (" outer ", "outer"):
        shown = open_page("datasets", dataset=name)
        assert shown.session_state["choice_dataset"] == name
        assert shown.header[0].value == words.escaped(name)
        links = [each.proto.query_string for each in shown.page_link if "image=" in each.proto.query_string]
        assert len(links) == len(NAMES)


def test_each_of_two_runs_with_the_same_label_can_be_chosen(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = Store(settings.database)
    runs = [record_measured(store, SweepSpec(dataset="d", ks=(5, 10))) for _ in range(2)]
    with store.transaction() as connection:
        connection.execute("UPDATE runs SET submitted_at = ?", [NOW])
    page = opener(monkeypatch, settings.data_dir, str(settings.redis_url))("sweeps")
    box = next(each for each in page.selectbox if each.label == "Sweep")
    assert len(set(box.options)) == 2
    for run in runs:
        ran(next(each for each in page.selectbox if each.label == "Sweep").set_value(run))
        assert page.query_params["run"] == run
        assert run in text(page) or run in str([table.value for table in page.table])
