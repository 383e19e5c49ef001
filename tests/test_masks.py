"""Masks and other maps beside photographs: they are left out by name or content, or the folder is refused."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from core.data.datasets import Dataset, load_dataset
from core.data.masks import BY_CONTENT, BY_NAME, mask_by_name
from core.errors import DatasetError

HAM10000 = "lesion_id,image_id,dx,dx_type,age,sex,localization"


def written(path: Path, pixels: np.ndarray) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(cv2.imencode(path.suffix.lower(), pixels)[1].tobytes())
    return path


def photograph(path: Path, seed: int = 0) -> Path:
    coarse = np.random.default_rng(seed).integers(40, 220, (5, 7, 3), dtype=np.uint8)
    return written(path, cv2.resize(coarse, (40, 30)))


def mask(path: Path, radius: int = 8, white: int = 255) -> Path:
    pixels = np.zeros((30, 40), np.uint8)
    cv2.circle(pixels, (20, 15), radius, white, -1)
    return written(path, pixels)


def coloured_map(path: Path, seed: int = 0) -> Path:
    """Write a map with many colours, which no rule distinguishes from a photograph."""
    return photograph(path, seed + 1000)


def rows(folder: Path, *ids: str, dx: str = "nv") -> None:
    lines = [HAM10000, *(f"HAM_{each},{each},{dx},histo,50,male,back" for each in ids)]
    (folder / "HAM10000_metadata.csv").write_text("\n".join(lines) + "\n")


def paths(dataset: Dataset) -> list[str]:
    return [record.path for record in dataset.records]


def reasons(dataset: Dataset) -> dict[str, str]:
    return {item.name: item.reason for item in dataset.left_out}


# Path of a mask -> path of its photograph, as in common downloads
DOWNLOADS = {
    "ISIC 2016": (
        "ISBI2016_ISIC_Part1_Training_GroundTruth/ISIC_0000000_Segmentation.png",
        "ISBI2016_ISIC_Part1_Training_Data/ISIC_0000000.jpg",
    ),
    "ISIC 2017, part 1": (
        "ISIC-2017_Training_Part1_GroundTruth/ISIC_0000000_segmentation.png",
        "ISIC-2017_Training_Data/ISIC_0000000.jpg",
    ),
    "ISIC 2017, superpixels": (
        "ISIC-2017_Training_Data/ISIC_0000000_superpixels.png",
        "ISIC-2017_Training_Data/ISIC_0000000.jpg",
    ),
    "ISIC 2018, task 1": (
        "ISIC2018_Task1_Training_GroundTruth/ISIC_0000000_segmentation.png",
        "ISIC2018_Task1-2_Training_Input/ISIC_0000000.jpg",
    ),
    "ISIC 2018, task 2": (
        "ISIC2018_Task2_Training_GroundTruth_v3/ISIC_0000000_attribute_pigment_network.png",
        "ISIC2018_Task1-2_Training_Input/ISIC_0000000.jpg",
    ),
    "task 2, in one folder": ("all/ISIC_0000000_attribute_milia_like_cyst.png", "all/ISIC_0000000.jpg"),
    "HAM10000's own": (
        "HAM10000_segmentations_lesion_tschandl/ISIC_0024306_segmentation.png",
        "HAM10000_images_part_1/ISIC_0024306.jpg",
    ),
    "PH², lesion": (
        "PH2 Dataset images/IMD002/IMD002_lesion/IMD002_lesion.bmp",
        "PH2 Dataset images/IMD002/IMD002_Dermoscopic_Image/IMD002.bmp",
    ),
    "PH², region": (
        "PH2 Dataset images/IMD002/IMD002_roi/IMD002_R1_Label4.bmp",
        "PH2 Dataset images/IMD002/IMD002_Dermoscopic_Image/IMD002.bmp",
    ),
    "masks of the same name": ("MASKS/1.png", "photos/1.jpg"),
    "a word of the folder's name": ("train_masks/1.png", "train/1.jpg"),
    "two words": ("ground truth/1.jpg", "images/1.jpg"),
    "annotations": ("Annotations/1.png", "images/1.jpg"),
    "labels": ("labels/1.png", "images/1.jpg"),
    "a mask in front": ("all/mask_1.png", "all/1.jpg"),
    "a second download": ("images/ISIC_1_segmentation (1).png", "images/ISIC_1.jpg"),
    "a folder a case": ("case1/gt.png", "case1/case1.jpg"),
    "a GIF": ("all/1_mask.gif", "all/1.jpg"),
}


@pytest.mark.parametrize("download", DOWNLOADS)
def test_masks_of_common_data_sets_are_left_out_by_name(tmp_path: Path, download: str) -> None:
    masked, pictured = DOWNLOADS[download]
    # Coloured like superpixels, so that the content does not decide
    coloured_map((tmp_path / masked).with_suffix(".png")).rename(tmp_path / masked)
    photograph(tmp_path / pictured)
    dataset = load_dataset(tmp_path)
    assert paths(dataset) == [pictured]
    assert dataset.layout == "plain"
    assert reasons(dataset) == {masked: BY_NAME}


@pytest.mark.parametrize(
    "path",
    ["masked/1.jpg", "1_lesion.jpg", "unmasked lesions/ISIC_1.jpg", "segmented/1.jpg", "lesion/1.jpg", "gt3.jpg"],
)
def test_names_that_photographs_have_too_do_not_mark_a_mask(path: str) -> None:
    assert not mask_by_name(path)


def test_masks_form_no_class(tmp_path: Path) -> None:
    for number, label in enumerate(("nv", "mel", "nv")):
        photograph(tmp_path / "Train" / label / f"ISIC_{number}.jpg", number)
        mask(tmp_path / "masks" / f"ISIC_{number}.png")
        mask(tmp_path / "Train" / "binary" / f"ISIC_{number}.png")  # the name does not decide, but the content does
        mask(tmp_path / "contour maps" / label / f"ISIC_{number}.png")
    dataset = load_dataset(tmp_path)
    assert dataset.class_counts() == {"melanoma": 1, "nevus": 2}
    assert set(reasons(dataset).values()) == {BY_NAME, BY_CONTENT}
    assert len(dataset.left_out) == 9


@pytest.mark.parametrize("folder", ["A first folder", "zz last"])
@pytest.mark.parametrize("ending", [".png", ".jpg", ".bmp", ".tif"])
def test_the_order_of_folders_does_not_decide_between_mask_and_photograph(
    tmp_path: Path, folder: str, ending: str
) -> None:
    for number in (1, 2):
        photograph(tmp_path / "images" / f"ISIC_{number}.jpg", number)
        mask(tmp_path / folder / f"ISIC_{number}{ending}", white=255 if ending == ".jpg" else number)
    rows(tmp_path, "ISIC_1", "ISIC_2")
    dataset = load_dataset(tmp_path)
    assert paths(dataset) == ["images/ISIC_1.jpg", "images/ISIC_2.jpg"]
    assert set(reasons(dataset).values()) == {BY_CONTENT}


def test_a_black_and_white_image_in_the_folder_of_a_case_is_a_mask(tmp_path: Path) -> None:
    for case in ("1", "2"):
        photograph(tmp_path / f"case {case}" / "dermoscopy.jpg", int(case))
        mask(tmp_path / f"case {case}" / "area.png")
    dataset = load_dataset(tmp_path)
    assert [Path(path).name for path in paths(dataset)] == ["dermoscopy.jpg"] * 2
    assert set(reasons(dataset).values()) == {BY_CONTENT}


def test_two_different_files_with_one_image_id_are_refused_with_both_names(tmp_path: Path) -> None:
    photograph(tmp_path / "images" / "ISIC_1.jpg", 1)
    coloured_map(tmp_path / "GroundWater" / "ISIC_1.png")
    rows(tmp_path, "ISIC_1")
    with pytest.raises(DatasetError, match=r"GroundWater/ISIC_1.png and images/ISIC_1.jpg, which differ"):
        load_dataset(tmp_path)


def test_the_suffix_in_the_table_chooses_between_two_files_of_one_name(tmp_path: Path) -> None:
    photograph(tmp_path / "ISIC_1.jpg", 1)
    coloured_map(tmp_path / "ISIC_1.png")
    rows(tmp_path, "ISIC_1.jpg")
    dataset = load_dataset(tmp_path)
    assert paths(dataset) == ["ISIC_1.jpg"]
    assert list(reasons(dataset)) == ["ISIC_1.png"]


def test_of_several_copies_of_a_photograph_one_readable_copy_is_used(tmp_path: Path) -> None:
    for part in ("part_1", "part_2"):
        photograph(tmp_path / part / "ISIC_1.jpg", 1)
        photograph(tmp_path / part / "ISIC_2.jpg", 2)
    (tmp_path / "part_1" / "ISIC_2.jpg").write_bytes(b"half a picture")
    rows(tmp_path, "ISIC_1", "ISIC_2")
    dataset = load_dataset(tmp_path)
    assert paths(dataset) == ["part_1/ISIC_1.jpg", "part_2/ISIC_2.jpg"]
    found = reasons(dataset)
    assert "a copy of part_1/ISIC_1.jpg" in found["part_2/ISIC_1.jpg"]
    assert "Expected an image" in found["part_1/ISIC_2.jpg"]


def test_without_a_table_a_second_folder_with_the_same_file_names_is_refused(tmp_path: Path) -> None:
    for number in (1, 2):
        photograph(tmp_path / "images" / f"{number}.jpg", number)
        coloured_map(tmp_path / "maps" / f"{number}.png", number)
    with pytest.raises(DatasetError, match=r"maps, got files .* such as maps/1.png and images/1.jpg"):
        load_dataset(tmp_path)
    photograph(tmp_path / "maps" / "3.jpg", 3)  # a name without a photograph, so this is not a folder of maps
    assert len(load_dataset(tmp_path).records) == 5


def test_a_data_set_of_only_black_and_white_images_is_accepted(tmp_path: Path) -> None:
    for folder in ("mel", "nv"):
        mask(tmp_path / folder / "1.png", radius=len(folder))
    assert load_dataset(tmp_path).class_counts() == {"melanoma": 1, "nevus": 1}


def test_equal_numbers_in_different_class_folders_are_not_taken_for_masks(tmp_path: Path) -> None:
    photograph(tmp_path / "nv" / "1.png", 1)
    written(tmp_path / "mel" / "1.png", np.full((30, 40, 3), (40, 80, 160), np.uint8))
    assert load_dataset(tmp_path).class_counts() == {"melanoma": 1, "nevus": 1}
