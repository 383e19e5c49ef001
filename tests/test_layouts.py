"""Classes from folder names in the layouts and spellings of common downloads; splits are not classes."""

from __future__ import annotations

import unicodedata
from pathlib import Path

import cv2
import numpy as np
import pytest

from core.data.datasets import load_dataset
from core.data.layouts import class_folders, describe_by_folders, unique_ids
from core.errors import DatasetError

NINE = {
    "actinic keratosis": "non_melanoma",
    "basal cell carcinoma": "non_melanoma",
    "dermatofibroma": "non_melanoma",
    "melanoma": "melanoma",
    "nevus": "nevus",
    "pigmented benign keratosis": "non_melanoma",
    "seborrheic keratosis": "non_melanoma",
    "squamous cell carcinoma": "non_melanoma",
    "vascular lesion": "non_melanoma",
}


def label_of(*folders: str, more: tuple[str, ...] = ()) -> list[str | None]:
    """Return the label of an image in each folder. more: folders of additional images."""
    paths = [f"{folder}/p{number}.jpg" for number, folder in enumerate((*folders, *more))]
    described = describe_by_folders(paths)[1]
    return [described[path].label for path in paths[: len(folders)]]


@pytest.mark.parametrize(
    "top", ["", "Skin cancer ISIC The International Skin Imaging Collaboration/", "archive (3)/sub/"]
)
@pytest.mark.parametrize(
    "change", [str, str.upper, str.title, lambda name: name.replace(" ", "_"), lambda name: f"{name} "]
)
def test_nine_full_class_names_are_read_in_every_spelling(top: str, change) -> None:
    folders = [f"{top}{part}/{change(name)}" for part in ("Train", "Test") for name in NINE]
    assert label_of(*folders) == list(NINE.values()) * 2


@pytest.mark.parametrize("top", ["", "melanoma_cancer_dataset/", "Skin_Data/"])
@pytest.mark.parametrize(
    "splits", [("train", "test"), ("Training", "valid"), ("TRAIN_SET", "Validation"), ("val", "test2")]
)
def test_benign_and_malignant_folders_below_splits_are_classes(top: str, splits: tuple[str, str]) -> None:
    folders = [f"{top}{split}/{name}" for split in splits for name in ("benign", "Malignant")]
    assert label_of(*folders) == ["benign", "malignant"] * 2


def test_every_code_of_isic_2019_except_unk_is_a_class() -> None:
    codes = ("MEL", "NV", "BCC", "AK", "BKL", "DF", "VASC", "SCC", "UNK")
    expected = ["melanoma", "nevus", *["non_melanoma"] * 6, None]
    assert label_of(*codes) == expected
    described = describe_by_folders([f"{code}/{code}.jpg" for code in codes])[1]
    assert "names no diagnosis" in described["UNK/UNK.jpg"].doubts[0].reason


def test_the_nearest_class_folder_sets_the_label() -> None:
    assert label_of("melanoma/train/benign", "melanoma/test/malignant") == ["benign", "malignant"]
    assert label_of("benign/nevus", "malignant/other") == ["nevus", "malignant"]
    assert label_of("train_nv", "test-melanoma", "malignant_val") == ["nevus", "melanoma", "malignant"]


@pytest.mark.parametrize(
    ("folders", "labels"),
    [
        (("download/Train/acne", "download/Test/psoriasis"), ["acne", "psoriasis"]),
        (("download A/acne", "download B/psoriasis"), ["acne", "psoriasis"]),
        (("acne/batch 1", "psoriasis/part_2/images"), ["acne", "psoriasis"]),
        (("acne/train", "psoriasis/train"), ["acne", "psoriasis"]),
        (("download", "download/acne", "download/nv"), [None, "acne", "nevus"]),
        (("0", "1", "2019", "2024-01-05"), ["0", "1", "2019", "2024-01-05"]),
        (("acne/2019", "psoriasis/2020"), ["acne", "psoriasis"]),
        (("images", "ISIC_0000000", "train"), [None, None, None]),
    ],
)  # fmt: skip
def test_other_classes_are_the_deepest_meaningful_folders(folders, labels) -> None:
    assert label_of(*folders) == labels


def test_several_spellings_of_a_class_name_are_one_class() -> None:
    found = label_of("d/Train/Acne", "d/Test/acne", "d/Test/ACNE_", "d/Test/other")
    assert len(set(found[:3])) == 1
    assert found[3] == "other"


def test_folders_named_like_their_image_are_not_classes() -> None:
    paths = [f"PH2 Dataset images/IMD{n:03}/IMD{n:03}_Dermoscopic_Image/IMD{n:03}.bmp" for n in range(3)]
    assert class_folders(paths) == {}
    assert class_folders(["0/0.jpg", "2019/20.jpg"]) == {"0/0.jpg": "0", "2019/20.jpg": "2019"}


def test_decomposed_and_composed_names_are_one_class() -> None:
    names = [unicodedata.normalize(form, "nævus érythème") for form in ("NFC", "NFD")]
    assert names[0] != names[1]
    assert set(label_of(*names, "other")) == {names[0], "other"}


@pytest.mark.parametrize(
    "paths",
    [
        ["x.jpg", "x.png", "x.jpg.png"],
        ["a/x.jpg", "b/x.jpg", "b/x.png", "x.jpg"],
        ["a.jpg", "a.JPG", "A.jpg", "a.jpg.jpg", "a/a.jpg"],
        [unicodedata.normalize(form, "é.jpg") for form in ("NFC", "NFD")],
        ["b/x.jpg", "c/x.jpg", "b.jpg", "b/x.jpg.jpg", "b/b/x.jpg"],
    ],
)
def test_every_file_has_a_unique_id(paths: list[str]) -> None:
    ids = unique_ids(paths)
    assert list(ids) == paths
    assert len(set(ids.values())) == len(paths)


def test_ids_of_ordinary_files_are_their_names_without_suffix() -> None:
    assert unique_ids(["a/ISIC_1.jpg", "b/ISIC_2.JPG"]) == {"a/ISIC_1.jpg": "ISIC_1", "b/ISIC_2.JPG": "ISIC_2"}


def test_images_that_differ_only_in_their_suffix_are_both_kept(tmp_path: Path) -> None:
    for number, name in enumerate(("lesion.jpg", "lesion.png")):
        pixels = np.random.default_rng(number).integers(0, 256, (12, 16, 3), dtype=np.uint8)
        (tmp_path / name).write_bytes(cv2.imencode(Path(name).suffix, pixels)[1].tobytes())
    assert [record.image_id for record in load_dataset(tmp_path).records] == ["lesion.jpg", "lesion.png"]


def test_the_error_of_a_folder_without_usable_images_lists_the_reasons(tmp_path: Path) -> None:
    elsewhere, folder = tmp_path / "elsewhere", tmp_path / "images"
    elsewhere.mkdir()
    folder.mkdir()
    (elsewhere / "a.jpg").write_bytes(b"a")
    (folder / "a.jpg").symlink_to(elsewhere / "a.jpg")
    (folder / "part_1").symlink_to(elsewhere)
    (folder / "l\udce4sion.jpg").write_bytes(b"a")
    with pytest.raises(DatasetError) as caught:
        load_dataset(folder)
    found = str(caught.value)
    for reason in ("lies outside the data set's folder", "links to folders are not followed", "not valid UTF-8"):
        assert reason in found
    assert found.count("xpected") == 1
