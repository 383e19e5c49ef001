"""The pages about networks, run as Streamlit runs them, with a folder of users' files."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from pages import OpenPage, opener, ran, text
from streamlit.testing.v1 import AppTest

from core.networks.architectures import ALEXNET, LENET5, NETWORKS
from core.networks.costs import network_cost
from core.networks.network_files import EXAMPLE_YAML
from core.networks.pruning import prune


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Give a folder of users' networks: a valid file, and one whose sixth line is invalid."""
    found = tmp_path / "data" / "networks"
    found.mkdir(parents=True)
    (found / "small.yaml").write_text(EXAMPLE_YAML)
    (found / "broken.yaml").write_text(EXAMPLE_YAML.replace("filters: 16", "filters: 0"))
    return found


@pytest.fixture
def open_page(folder: Path, valkey_url: str, monkeypatch: pytest.MonkeyPatch) -> OpenPage:
    return opener(monkeypatch, folder.parent, valkey_url)


def table(test: AppTest, column: str) -> pd.DataFrame:
    return next(frame.value for frame in test.dataframe if column in frame.value)


def metrics(test: AppTest) -> dict[str, str]:
    return {each.label: each.value for each in test.metric}


@pytest.mark.parametrize("page", ["networks", "curves", "prune_train"])
def test_pages_open_whatever_files_the_networks_folder_contains(open_page: OpenPage, folder: Path, page: str) -> None:
    (folder / "tag.yaml").write_text(EXAMPLE_YAML.replace("filters: 16", "filters: !!bool maybe"))
    (folder / "digits.yaml").write_text(EXAMPLE_YAML.replace("filters: 16", f"filters: 0x{'f' * 5000}"))
    (folder / "loop.yaml").symlink_to(folder / "loop.yaml")
    (folder / "\udcff.yaml").write_text(EXAMPLE_YAML)
    os.mkfifo(folder / "pipe.yaml")
    shown = open_page(page, **({"tab": "new"} if page == "prune_train" else {}))
    assert not shown.exception
    if page != "prune_train":
        said = text(shown)
        assert "tag.yaml, line 6" in said
        assert "It is a pipe, socket or device" in said


# Networks


@pytest.mark.parametrize("name", [*NETWORKS, "small"])
def test_every_network_can_be_opened_by_its_link_with_tables_drawing_and_readings(
    open_page: OpenPage, name: str
) -> None:
    shown = open_page("networks", network=name, size="256x256")
    said = text(shown)
    for part in ("Image model (CNN)", "Text model (MLP)", "Combined model", "Readings taken", "Cost at each size"):
        assert part in said
    assert len(shown.get("plotly_chart")) == 3
    assert len([frame for frame in shown.dataframe if "Filters or units" in frame.value]) == 3
    assert said.count("- ") >= 1


def test_tables_and_figures_show_the_chosen_network(open_page: OpenPage) -> None:
    shown = open_page("networks", network="lenet5")
    assert metrics(shown)["Parameters"] == f"{network_cost(LENET5, 200, 100).parameters:,}"
    layers = table(shown, "Filters or units")
    assert layers["Layer"].tolist()[:3] == ["Conv2D", "MaxPooling2D", "BatchNormalization"]
    first = layers.iloc[0]
    assert (first["Filters or units"], first["Kernel"], first["Stride"]) == ("6", "5×5", "1×1")
    assert (first["Output shape"], first["Parameters"]) == ("196×96×6", "456")
    assert not layers.map(lambda cell: str(cell) in ("None", "nan", "<NA>")).any(axis=None)


def test_an_input_size_that_is_too_small_names_the_layer_and_keeps_the_rest_of_the_page(open_page: OpenPage) -> None:
    shown = open_page("networks", network="custom1", size="40x40")
    assert "leaves nothing at image_max_pool6" in text(shown)
    sizes = table(shown, "Size").set_index("Size")["Parameters"]
    assert sizes["40 × 40"] == "too small"
    assert sizes["200 × 100"] == "3,362,871"
    assert "Readings taken" in text(shown)


@pytest.mark.parametrize("size", ["abc", "0x5", "10x20,30x40", "99999x2"])
def test_an_invalid_size_gives_an_error_message(open_page: OpenPage, size: str) -> None:
    for page in ("networks", "curves"):
        shown = open_page(page, size=size)
        assert any("xpected" in error.value and "rows" in error.value for error in shown.error), page


def test_an_invalid_file_is_named_with_its_line_on_both_pages(open_page: OpenPage) -> None:
    for page in ("networks", "curves"):
        assert "broken.yaml, line 6: image, layer 1" in text(open_page(page))


def test_a_new_file_in_the_folder_appears_without_a_restart(open_page: OpenPage, folder: Path) -> None:
    shown = open_page("networks")
    (folder / "another.yaml").write_text(EXAMPLE_YAML)
    (folder / "broken.yaml").unlink()
    ran(shown)
    assert "another" in " ".join(shown.selectbox[0].options)
    assert "broken.yaml" not in text(shown)
    assert str(folder) in [code.value for code in shown.code]


# Curves


def test_the_curves_page_opens_with_the_articles_settings_and_its_claims(open_page: OpenPage) -> None:
    shown = open_page("curves")
    assert shown.multiselect(key="networks").value == list(NETWORKS)
    assert shown.multiselect(key="factors").value == ["50", "33.33"]
    assert shown.slider(key="iterations").value == 5
    assert "It holds here for 8 of 8 curves." in text(shown)
    assert "AICc, which charges the polynomial" in text(shown)
    figures = table(shown, "Holds here")
    assert len(figures) == 4 * 2 * 4
    whole = figures[figures["Scope"] == "all"]
    assert (whole["Holds here"] == "yes").all()
    assert (whole["R² exponential"].astype(float) >= 0.999).all()
    assert len(shown.get("plotly_chart")) == 2


def test_a_link_opens_the_same_view_of_the_curves(open_page: OpenPage) -> None:
    shown = open_page(
        "curves", networks=["small", "alexnet"], factors=["16.5", "7.25"], scopes=["the first convolution"],
        size="256x256", iterations="7", quantity="MACs", log="true", shown="small", image="SVG", iteration="3",
    )  # fmt: skip
    assert table(shown, "Holds here")[["Network", "Factor", "Scope"]].to_numpy().tolist() == [
        [network, factor, "first"] for network in ("small", "alexnet") for factor in ("16.5 %", "7.25 %")
    ]
    command = next(code.value for code in shown.code if "jobs curves" in code.value)
    assert "curves small,alexnet --size 256x256 --factors 16.5,7.25 --scopes first --iterations 7" in command
    assert "Multiply-accumulates, millions, logarithmic" in text(shown)
    assert "Step by step: small" in text(shown)
    assert shown.slider(key="iteration").value == 3
    config = json.loads(shown.get("plotly_chart")[0].proto.config)
    assert config["toImageButtonOptions"]["format"] == "svg"


def test_each_chart_of_a_page_is_saved_under_its_own_name_and_large_enough_for_print(open_page: OpenPage) -> None:
    charts = open_page("networks").get("plotly_chart")
    saved = [json.loads(chart.proto.config)["toImageButtonOptions"] for chart in charts]
    assert {each["filename"] for each in saved} == {"sizes", "drawing", "by_layer"}
    assert {(each["format"], each["scale"]) for each in saved} == {("png", 3)}


def test_batch_normalisation_is_added_to_the_curves_and_to_the_command(open_page: OpenPage) -> None:
    shown = open_page("curves", networks=["small", "alexnet"], batch_norm="After dense layers")
    assert set(table(shown, "Holds here")["Network"]) == {"small+bn", "alexnet+bn"}
    command = next(code.value for code in shown.code if "jobs curves" in code.value)
    assert "curves small,alexnet --batch-norm dense --size" in command


def test_batch_normalisation_is_added_to_a_network_and_its_layers(open_page: OpenPage) -> None:
    shown = open_page("networks", network="alexnet", batch_norm="After dense layers")
    added = table(shown, "Filters or units").query("Layer == 'BatchNormalization'")
    assert len(added) == 3
    assert "Batch normalisation is added after each dense layer" in text(shown)


def test_an_iteration_shows_the_pruned_layers(open_page: OpenPage) -> None:
    shown = open_page("curves", networks=["alexnet"], factors=["50"], scopes=["all convolutions"])
    ran(shown.slider(key="iteration").set_value(3))
    spec = ALEXNET
    for _ in range(3):
        spec = prune(spec, 50)
    before, after = network_cost(ALEXNET, 200, 100), network_cost(spec, 200, 100)
    assert metrics(shown)["Parameters left"] == f"{100 * after.parameters / before.parameters:.2f} %" == "1.89 %"
    layers = table(shown, "Parameters before").set_index("Layer")
    assert layers.loc["image_conv1", "Filters or units"] == "64 → 8"
    assert layers.loc["image_dense3", "Filters or units"] == "512"


def test_reducing_the_iterations_reduces_the_chosen_iteration(open_page: OpenPage) -> None:
    shown = open_page("curves", iterations="8", iteration="7")
    ran(shown.slider(key="iterations").set_value(4))
    assert shown.slider(key="iteration").value == 4


@pytest.mark.parametrize(
    ("params", "sentence"),
    [
        ({"factors": ["abc"]}, "Expected a pruning factor in percent, such as 33.33, got 'abc'."),
        ({"factors": ["120"]}, "Expected a pruning factor above 0 and below 100 percent, got 120."),
        ({"factors": ["nan"]}, "Expected a pruning factor in percent"),
        ({"networks": ["alexnet"], "size": "10x10"}, "leaves nothing at image_max_pool2"),
        ({"networks": [""]}, "Expected at least one network, got none."),
    ],
)
def test_settings_that_cannot_be_counted_give_a_message(
    open_page: OpenPage, params: dict[str, Any], sentence: str
) -> None:
    shown = open_page("curves", **params)
    assert sentence in text(shown)
    assert not shown.get("plotly_chart")


def test_too_few_points_give_a_warning(open_page: OpenPage) -> None:
    shown = open_page("curves", networks=["lenet5"], iterations="2")
    assert "Too few or too flat points to judge" in text(shown)
    assert any("Not enough points" in each.label for each in shown.expander)
