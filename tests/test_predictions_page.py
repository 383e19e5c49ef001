"""What the page of a run says about single predictions, run as Streamlit runs it, with a real store."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pages import OpenPage, opener, ran, text
from recorded import START, conversion, record_training
from streamlit.testing.v1 import AppTest

from core.data.datasets import Dataset, DatasetImage
from core.data.images import encode
from core.deployment.formats import file_name
from core.networks.architectures import CLASSES
from core.predictions.comparison import changed_sides, compare, hard_images
from core.predictions.curves import brier_score, calibration_error, one_against_rest
from core.predictions.intervals import interval_text, intervals_of_step
from core.store.measurements import Store
from core.training.specs import Rules
from dashboard import deployment_data

IMAGES = 20  # per class: more melanomas change sides than are shown at once


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Give a data folder with a data set of readable images."""
    return with_images(tmp_path_factory.mktemp("predicted") / "data")


def with_images(found: Path) -> Path:
    """Fill a data folder with a data set of readable images; return the folder."""
    images = found / "images"
    images.mkdir(parents=True)
    (images / "a.png").write_bytes(encode(np.full((30, 40, 3), 90, dtype=np.uint8), "png", None))
    records = tuple(
        DatasetImage(f"test-{number}", "a.png", 100, 30, 40, "d" * 64, CLASSES[number // IMAGES],
                     lesion_id=f"test-{number // 2}")
        for number in range(IMAGES * len(CLASSES))
    )  # fmt: skip
    Store(found / "dermslim.duckdb").record_dataset(Dataset("ham", images, "ham10000", records), START)
    return found


@pytest.fixture(scope="module")
def run_id(folder: Path) -> str:
    """Record a run of three steps: the accepted one has half of the images wrong."""
    return recorded(folder, images=IMAGES)


def recorded(folder: Path, **values: Any) -> str:
    store = Store(folder / "dermslim.duckdb")
    return record_training(store, "lenet5", (20.0, 90.0, 10.0), rules=Rules(factors=(50,)), **values)


@pytest.fixture
def open_page(folder: Path, valkey_url: str, monkeypatch: pytest.MonkeyPatch) -> OpenPage:
    return opener(monkeypatch, folder, valkey_url, "prune_train")


def rows(folder: Path, run_id: str, step: int, split: str = "test") -> Any:
    return Store(folder / "dermslim.duckdb").predictions([run_id], step=step, split=split)


def linked_images(test: AppTest) -> list[str]:
    """Return the images that the page links to in the inspector, in order."""
    return [each.proto.label for each in test.get("page_link") if each.proto.page == "inspector"]


@pytest.mark.parametrize("page", ["run", "prune_train"])
def test_melanoma_is_the_question_by_default_and_any_class_can_be(
    folder: Path, run_id: str, open_page: OpenPage, page: str
) -> None:
    shown = open_page(page, run=run_id, part="Predictions")
    for title in ("ROC of melanoma", "Precision and recall of melanoma", "Reliability"):
        assert title in text(shown)
    table = next(frame.value for frame in shown.dataframe if "AUC" in frame.value)
    assert table["Step"].tolist() == ["0. Original", "1. R1: 50%", "2. R2: 50%"]
    for step, row in enumerate(table.to_dict("records")):
        own = rows(folder, run_id, step)
        curve = one_against_rest(own)
        assert curve is not None
        assert row["AUC"] == f"{curve.auc:.4f}"
        assert row["Average precision"] == f"{curve.average_precision:.4f}"
        assert row["Sensitivity at 95 % specificity"] == f"{curve.sensitivity_at(95):.1f} %"
        assert row["Specificity at 90 % sensitivity"] == f"{curve.specificity_at(90):.1f} %"
        assert (row["Brier score"], row["Calibration error"]) == (
            f"{brier_score(own):.4f}", f"{calibration_error(own):.4f}"
        )  # fmt: skip
    other = open_page(page, run=run_id, part="Predictions", **{"class": "nevus", "set": "validation"})
    assert "ROC of nevus" in text(other)
    nevus = one_against_rest(rows(folder, run_id, 1, "validation"), "nevus")
    assert nevus is not None
    table = next(frame.value for frame in other.dataframe if "AUC" in frame.value)
    assert table["AUC"].iloc[1] == f"{nevus.auc:.4f}"


def test_the_accuracy_of_a_step_with_predictions_has_its_interval_on_every_page(
    folder: Path, run_id: str, open_page: OpenPage
) -> None:
    steps = Store(folder / "dermslim.duckdb").steps([run_id])
    unpruned, smallest = (interval_text(intervals_of_step(text)["test_accuracy"])
                          for text in steps["classification"].iloc[:2])  # fmt: skip
    for page in ("prune_train", "run"):
        shown = open_page(page, run=run_id)
        assert f"lenet5, unpruned, reaches 20.0 % {unpruned} accuracy" in text(shown)
        assert f"and reaches 90.0 % {smallest}." in text(shown)
        accuracy = next(each for each in shown.metric if each.label == "Test accuracy")
        assert accuracy.proto.delta_description == smallest
        table = next(frame.value for frame in shown.dataframe if "Of unpruned" in frame.value)
        assert table["Test accuracy"].iloc[0] == f"20.00 % {unpruned}"
    figures = {each.label: each.proto.delta_description for each in open_page("overview").metric}
    assert (figures["Test accuracy"], figures["Unpruned"]) == (smallest, unpruned)


def test_lost_and_gained_images_are_shown_with_melanomas_first_and_can_be_filtered(
    folder: Path, run_id: str, open_page: OpenPage
) -> None:
    first, second = rows(folder, run_id, 0), rows(folder, run_id, 1)
    address = {"run": run_id, "part": "Predictions", "show": "Lost and gained"}
    shown = open_page(**address)
    assert [each.value for each in shown.selectbox if each.label in ("First", "Second")] == ["0", "1"]
    found, changed = compare(first, second), changed_sides(first, second)
    said = text(shown)
    assert found.sentence in said
    assert f"Gained {found.only_second}" in said
    assert "0 images lost, 0 melanomas among them; 56 images gained, 14 melanomas among them" in said
    assert linked_images(shown) == changed["image_id"].tolist()[:24]
    assert all(each in said for each in ("melanoma, gained", "10.0 % → 70.0 %", "nevus → melanoma"))
    more = ran(next(each for each in shown.button if each.label == "Show 24 more of 56").click())
    assert linked_images(more) == changed["image_id"].tolist()[:48]
    nevi = open_page(**address, of="nevus", first="1", second="0")
    assert linked_images(nevi) == changed.loc[changed["label"] == "nevus", "image_id"].tolist()
    assert "14 images lost" in text(nevi)
    assert linked_images(open_page(**address, side="lost")) == []
    assert "Choose two different steps." in text(open_page(**address, first="1", second="1"))


def test_lost_and_gained_images_show_where_both_networks_look_once_both_are_converted(
    tmp_path: Path, valkey_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = with_images(tmp_path / "data")
    open_page = opener(monkeypatch, folder, valkey_url, "prune_train")
    run_id = recorded(folder, images=IMAGES, sets=True)
    address = {"run": run_id, "part": "Predictions", "show": "Lost and gained"}
    assert "once the page Deploy has converted both on this host" in text(open_page(**address))
    for step in (0, 1):
        Store(folder / "dermslim.duckdb").record_conversion(run_id, 1, conversion(step=step), "w", START)
        file = folder / "trained" / run_id / file_name(step, "litert-float32")
        file.parent.mkdir(parents=True, exist_ok=True)
        file.touch()

    def bright(image: np.ndarray) -> list[float]:
        share = float(image[: image.shape[0] // 2].mean()) / 255
        return [share, 0.0, 0.0, 0.0]

    monkeypatch.setattr(
        deployment_data,
        "_loaded",
        lambda path, digest: lambda images, metadata: np.array([bright(each) for each in images], dtype=np.float32),
    )
    shown = open_page(**address)
    (look,) = [each for each in shown.toggle if each.label == "Show where they look"]
    looked = ran(look.set_value(True))
    images = len(linked_images(looked))
    assert images > 0
    assert len([each for each in looked.get("image") if "at most" in each.proto.imgs[0].caption]) == 2 * images
    other = open_page(**address, second="2")
    assert "Show where they look" not in [each.label for each in other.toggle]


def test_a_cell_of_the_confusion_matrix_leads_to_its_images(folder: Path, run_id: str, open_page: OpenPage) -> None:
    shown = open_page(run=run_id, part="Confusion", step="2")
    own = rows(folder, run_id, 2)
    cell = own[(own["label"] == "melanoma") & (own["predicted"] == "nevus")]
    assert sorted(linked_images(shown)) == sorted(cell["image_id"])
    assert f"{len(cell)} images, the highest probability of nevus first." in text(shown)
    assert "nevus 70.0\N{NO-BREAK SPACE}%" in text(shown)
    right = open_page(run=run_id, part="Confusion", step="1", true="nevus", predicted="nevus")
    assert len(linked_images(right)) == 18
    assert "Expected" not in text(right)


def test_hard_images_are_wrong_in_most_steps_of_all_runs_on_the_same_images(
    folder: Path, run_id: str, open_page: OpenPage
) -> None:
    other = recorded(folder, images=IMAGES, seed=2)
    recorded(folder, images=IMAGES, seed=3, fingerprint="other images")
    expected = hard_images(Store(folder / "dermslim.duckdb").predicted_classes([run_id, other], "test"))
    shown = open_page(run=run_id, part="Predictions", show="Hard images")
    assert f"{len(expected)} images of this run's 80 are wrong" in text(shown)
    assert linked_images(shown) == expected["image_id"].tolist()[:24]
    assert "melanoma, most often taken for nevus" in text(shown)
    assert "wrong in 6 of 6 predictions" in text(shown)


def test_a_run_without_predictions_offers_to_predict_again(folder: Path, open_page: OpenPage) -> None:
    older = recorded(folder, fingerprint=labelled_fingerprint(folder))
    for part in ("Predictions", "Confusion"):
        shown = open_page(run=older, part=part)
        assert "have no predictions of single images" in text(shown)
    queued = ran(next(each for each in shown.button if each.label == "Predict again").click())
    assert "The images are being predicted." in text(queued)
    assert next(each for each in queued.button if each.label == "Predict again").disabled


def labelled_fingerprint(folder: Path) -> str:
    dataset = Store(folder / "dermslim.duckdb").dataset("ham")
    assert dataset is not None
    return dataset.fingerprint


def test_images_of_a_data_set_that_was_removed_are_named_without_thumbnails(folder: Path, open_page: OpenPage) -> None:
    gone = recorded(folder, images=IMAGES, dataset="gone")
    shown = open_page(run=gone, part="Predictions", show="Lost and gained")
    assert "is not registered any more" in text(shown)
    assert "test-2" in text(shown)
    assert linked_images(shown) == []


def test_the_inspector_offers_the_other_images_of_the_lesion(run_id: str, open_page: OpenPage) -> None:
    shown = open_page("inspector", dataset="ham", image="test-4")
    assert "Other images of lesion test-2:" in text(shown)
    assert [each.label for each in shown.button if (each.key or "").startswith("lesion_")] == ["test-5"]
    ran(shown.button(key="lesion_test-5").click())
    assert shown.session_state["image"] == "test-5"
    assert [each.label for each in shown.button if (each.key or "").startswith("lesion_")] == ["test-4"]
