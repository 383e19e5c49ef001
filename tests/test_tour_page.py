"""The page Guided tour, run as Streamlit runs it: six steps with results, without, and from one to the next."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from laboratory import write_images
from pages import OpenPage, opener, ran, text
from recorded import ENCODING, START, conversion, record_measured, record_training
from streamlit.testing.v1 import AppTest

from core.compression.specs import SweepSpec
from core.data.datasets import load_dataset
from core.deployment.formats import FLOAT32, file_name
from core.store.measurements import Store
from core.training.specs import Rules
from dashboard import deployment_data

HEADINGS = {
    "1": "A photograph",
    "2": "The same photograph at k",
    "3": "What it takes as a file",
    "4": "The network shrinks",
    "5": "Its answer for the photograph",
    "6": "What it means, and how sure it is",
}


def heading(shown: AppTest) -> str:
    return str(shown.header[0].value)


def pages_linked(shown: AppTest) -> list[str]:
    return [link.proto.page for link in shown.get("page_link")]


def pressed(shown: AppTest, label: str) -> AppTest:
    return ran(next(button for button in shown.button if button.label == label).click())


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "data"


@pytest.fixture
def open_page(folder: Path, valkey_url: str, monkeypatch: pytest.MonkeyPatch) -> OpenPage:
    return opener(monkeypatch, folder, valkey_url, "tour")


@pytest.fixture
def filled(folder: Path) -> Store:
    """Give a store with a data set, its sweep, and a prune-train run that trained on it."""
    dataset = load_dataset(write_images(folder.parent / "images" / "melanoma", 4).parent, name="demo")
    store = Store(folder / "dermslim.duckdb")
    store.record_dataset(dataset, START)
    record_measured(store, SweepSpec(dataset="demo", ks=(5, 10)), synthetic=True)
    run_id = record_training(
        store, accuracies=(80, 80), dataset="demo", rules=Rules(factors=(50,), max_iterations=1), synthetic=True,
        fingerprint=dataset.fingerprint, images=50, ends=False,
    )  # fmt: skip
    tested = {"label": "melanoma", "split": "test", "quota": 90, "lesions": 4, "images": 50, "oversampled": 50}
    store.record_training_data(run_id, 1, {"encoding": ENCODING.to_dict(), "notes": [], "reached": [tested]})
    store.record_training_ended(run_id, 1, None, START)
    return store


def convert(store: Store, folder: Path, monkeypatch: pytest.MonkeyPatch, chances: dict[int, list[float]]) -> None:
    """Record conversions of the run's steps, which give these probabilities without LiteRT."""
    run_id = next(run.id for run in store.runs() if run.kind == "prune-train")
    (folder / "trained" / run_id).mkdir(parents=True)
    for step in chances:
        (folder / "trained" / run_id / file_name(step, FLOAT32)).write_bytes(b"a network")
        store.record_conversion(run_id, 1, conversion(step=step, sha256=f"{run_id} {step}"), "w", START)

    def classifier(path: Path, *_: Any, **__: Any) -> Any:
        (step,) = (each for each in chances if path.name == file_name(each, FLOAT32))
        return lambda images, metadata: np.array([chances[step]], np.float32)

    monkeypatch.setattr(deployment_data, "classifier", classifier)


def test_every_step_shows_its_results_and_links_to_the_page_behind_them(
    filled: Store, folder: Path, open_page: OpenPage, monkeypatch: pytest.MonkeyPatch
) -> None:
    convert(filled, folder, monkeypatch, {0: [0.7, 0.1, 0.1, 0.1], 1: [0.6, 0.2, 0.1, 0.1]})
    expected = {
        "1": ("Image mole000 of the data set demo", "diagnosis melanoma", "inspector"),
        "2": ("leads to k = ", "Only the first k", "inspector"),
        "3": (
            "Re-encoding as JPEG 95 alone explains most of the ratio",
            "3.733 × without SVD, 3.770 × with it",
            "sweeps",
        ),
        "4": ("R1: 50%, keeps ", "trained on demo", "prune_train"),
        "5": ("Both networks give the same answer", "The data set says melanoma", "deploy"),
        "6": ("accuracy on 50 test images", "The difference is +0.00 [", "claims"),
    }
    for step, (first, second, page) in expected.items():
        shown = open_page(step=step)
        said = text(shown).replace("**", "")
        assert heading(shown) == HEADINGS[step]
        assert first in said
        assert second in said
        assert page in pages_linked(shown)
        assert not shown.info
        assert not shown.error
        assert f"Step {step} of 6" in said


@pytest.mark.parametrize(
    ("step", "sentence", "page"),
    [
        ("1", "No data set with images is registered", "datasets"),
        ("2", "No SVD sweep has finished", "sweeps"),
        ("3", "No SVD sweep has finished", "sweeps"),
        ("4", "No prune-train run has finished", "prune_train"),
        ("5", "No data set with images is registered", "datasets"),
        ("6", "No prune-train run has finished", "prune_train"),
    ],
)
def test_every_step_says_on_an_empty_store_what_is_missing(
    open_page: OpenPage, step: str, sentence: str, page: str
) -> None:
    shown = open_page(step=step)
    assert heading(shown) == HEADINGS[step]
    assert sentence in text(shown)
    assert page in pages_linked(shown)
    assert not shown.error


def test_the_answer_names_what_is_not_converted(filled: Store, open_page: OpenPage) -> None:
    shown = open_page(step="5")
    assert "No network of the run is converted on this host yet." in text(shown)
    assert "deploy" in pages_linked(shown)


def test_two_networks_that_disagree_are_not_called_equal(
    filled: Store, folder: Path, open_page: OpenPage, monkeypatch: pytest.MonkeyPatch
) -> None:
    convert(filled, folder, monkeypatch, {0: [0.7, 0.1, 0.1, 0.1], 1: [0.2, 0.6, 0.1, 0.1]})
    said = text(open_page(step="5")).replace("**", "")
    assert "The networks give different answers: Original says melanoma, R1: 50% says nevus." in said


def test_next_and_back_go_through_all_steps_and_the_address_names_the_step(open_page: OpenPage) -> None:
    shown = open_page()
    assert next(button for button in shown.button if button.label == "Back").disabled
    for step in "23456":
        pressed(shown, "Next")
        assert heading(shown) == HEADINGS[step]
        assert shown.query_params["step"] in (step, [step])
    assert next(button for button in shown.button if button.label == "Next").disabled
    for step in "54321":
        pressed(shown, "Back")
        assert heading(shown) == HEADINGS[step]


def test_a_photograph_whose_file_is_lost_leaves_the_next_step_reachable(
    filled: Store, folder: Path, open_page: OpenPage
) -> None:
    for image in (folder.parent / "images" / "melanoma").iterdir():
        image.unlink()
    shown = open_page(step="3")
    assert "mole000.jpg" in text(shown)
    assert heading(pressed(shown, "Next")) == HEADINGS["4"]


def test_an_unknown_step_in_the_address_gives_a_message_and_the_first_step(open_page: OpenPage) -> None:
    shown = open_page(step="9")
    assert "there is no 9" in text(shown)
    assert heading(shown) == HEADINGS["1"]


def test_the_overview_links_to_the_tour(open_page: OpenPage) -> None:
    assert "tour" in pages_linked(open_page("overview"))
