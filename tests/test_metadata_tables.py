"""Metadata tables: one column per class, the columns of the ISIC Archive, and damaged files with their line."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from core.data.datasets import Dataset, load_dataset, write_metadata
from core.data.metadata import NO_FILE, LeftOut
from core.errors import DatasetError

HAM10000 = "lesion_id,image_id,dx,dx_type,age,sex,localization"
ISIC_2018 = "image,MEL,NV,BCC,AKIEC,BKL,DF,VASC"
ISIC_2019 = "image,MEL,NV,BCC,AK,BKL,DF,VASC,SCC,UNK"


def photograph(path: Path, seed: int = 0) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    coarse = np.random.default_rng(seed).integers(40, 220, (5, 7, 3), dtype=np.uint8)
    path.write_bytes(cv2.imencode(path.suffix, cv2.resize(coarse, (40, 30)))[1].tobytes())
    return path


def table(path: Path, *lines: str, encoding: str = "utf-8") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(lines) + "\n", encoding=encoding)
    return path


def images(folder: Path, *ids: str) -> None:
    for number, each in enumerate(ids):
        photograph(folder / f"{each}.jpg", number)


def one_hot(image: str, columns: str, *chosen: str) -> str:
    return ",".join([image, *("1.0" if each in chosen else "0.0" for each in columns.split(",")[1:])])


def labels(dataset: Dataset) -> dict[str, tuple[str | None, str | None]]:
    return {record.image_id: (record.label, record.dx) for record in dataset.records}


def reasons(dataset: Dataset) -> dict[str, str]:
    return {item.name: item.reason for item in dataset.left_out}


def test_the_ground_truth_table_of_isic_2018_gives_labels(tmp_path: Path) -> None:
    classes = ISIC_2018.split(",")[1:]
    images(tmp_path / "ISIC2018_Task3_Training_Input", *(f"ISIC_{each}" for each in classes))
    folder = tmp_path / "ISIC2018_Task3_Training_GroundTruth"
    lines = [one_hot(f"ISIC_{each}", ISIC_2018, each) for each in classes]
    table(folder / "ISIC2018_Task3_Training_GroundTruth.csv", ISIC_2018, *lines)
    dataset = load_dataset(tmp_path)
    assert labels(dataset) == {
        "ISIC_MEL": ("melanoma", "mel"),
        "ISIC_NV": ("nevus", "nv"),
        "ISIC_BCC": ("non_melanoma", "bcc"),
        "ISIC_AKIEC": ("non_melanoma", "akiec"),
        "ISIC_BKL": ("non_melanoma", "bkl"),
        "ISIC_DF": ("non_melanoma", "df"),
        "ISIC_VASC": ("non_melanoma", "vasc"),
    }
    assert len(dataset.left_out) == 1
    assert "lesion, age, sex or localisation, unknown" in dataset.left_out[0].reason


def test_the_two_tables_of_isic_2019_are_joined(tmp_path: Path) -> None:
    chosen = {"a": ["SCC"], "b": ["UNK"], "c": [], "d": ["MEL", "NV"], "e": ["AK"], "f": ["NV"]}
    images(tmp_path / "ISIC_2019_Training_Input", *chosen, "unlisted")
    lines = [one_hot(image, ISIC_2019, *columns) for image, columns in chosen.items()]
    table(tmp_path / "ISIC_2019_Training_GroundTruth.csv", ISIC_2019, *lines)
    header = "image,age_approx,anatom_site_general,lesion_id,sex"
    said = [f"{each},55.0,anterior torso,MSK4_1,female" for each in "ab"] + ["f,,,,", "absent,20,,,"]
    table(tmp_path / "ISIC_2019_Training_Metadata.csv", header, *said)
    dataset = load_dataset(tmp_path)
    none, akiec = (None, None), ("non_melanoma", "akiec")
    assert labels(dataset) == {"a": akiec, "b": none, "c": none, "d": none, "e": akiec, "f": ("nevus", "nv")}
    first = dataset.records[0]
    assert (first.age, first.localization, first.lesion_id, first.sex) == (55.0, "anterior torso", "MSK4_1", "female")
    assert dataset.records[-1].age is None
    found = reasons(dataset)
    doubts = {name: reason.partition(",")[2].split(".")[0] for name, reason in found.items() if name.endswith("class")}
    assert doubts == {
        "b, class": " got it for UNK", "c, class": " got it for none", "d, class": " got it for MEL, NV"
    }  # fmt: skip
    assert found["absent"] == NO_FILE
    assert "no label" in found["ISIC_2019_Training_Input/unlisted.jpg"]


@pytest.mark.parametrize("missing", ["age_approx", "sex", "anatom_site_general", "lesion_id", "all of them"])
def test_optional_columns_may_be_missing_and_are_named(tmp_path: Path, missing: str) -> None:
    images(tmp_path, "ISIC_1")
    values = {
        "isic_id": "ISIC_1", "attribution": '"Hospital, A"', "diagnosis_1": "Malignant",
        "diagnosis_3": "Melanoma Invasive", "age_approx": "60", "sex": "male", "anatom_site_general": "torso",
        "lesion_id": "IL_1",
    }  # fmt: skip
    optional = ("age_approx", "sex", "anatom_site_general", "lesion_id")
    kept = [each for each in values if each != missing and not (missing == "all of them" and each in optional)]
    table(tmp_path / "metadata.csv", ",".join(kept), ",".join(values[each] for each in kept))
    dataset = load_dataset(tmp_path)
    assert labels(dataset) == {"ISIC_1": ("melanoma", "mel")}
    record = dataset.records[0]
    found = {"age_approx": record.age, "sex": record.sex, "anatom_site_general": record.localization}
    assert all(found[each] is None for each in found if each not in kept)
    assert [item.name for item in dataset.left_out] == ["metadata.csv"]
    assert "unknown for every image" in dataset.left_out[0].reason


@pytest.mark.parametrize(
    ("columns", "values", "label"),
    [
        ("diagnosis_1,diagnosis_2", "Malignant,Malignant melanocytic proliferations (Melanoma)", "melanoma"),
        ("diagnosis_1,diagnosis_4", 'Benign,"Nevus, Atypical, Dysplastic, or Clark"', "nevus"),
        (
            "diagnosis_1,diagnosis_3,diagnosis_5",
            'Malignant,,"Basal cell carcinoma, Nodular, pigmented"',
            "non_melanoma",
        ),
        ("diagnosis_1", "Benign", "benign"),
        ("diagnosis_1", "Indeterminate", None),
        ("diagnosis_1,diagnosis_3", "Benign,Lentigo NOS", None),
        ("benign_malignant,diagnosis", "benign,seborrheic keratosis", "non_melanoma"),
        ("diagnosis", "MEL", "melanoma"),
    ],
)
def test_the_most_specific_diagnosis_level_of_the_isic_archive_is_used(
    tmp_path: Path, columns: str, values: str, label: str | None
) -> None:
    images(tmp_path, "ISIC_1")
    table(tmp_path / "metadata.csv", f"isic_id,{columns}", f"ISIC_1,{values}")
    dataset = load_dataset(tmp_path)
    assert dataset.records[0].label == label
    assert ("ISIC_1, diagnosis" in reasons(dataset)) == (label is None)


@pytest.mark.parametrize(
    ("header", "row", "label"),
    [
        ("image_id,dx", "a,Basal cell carcinoma", "non_melanoma"),
        ("Image_ID , DX", "a.JPG,MEL", "melanoma"),
        ("sep=;\nimage;dx;age", 'a;"mel";"45,5"', "melanoma"),
        ("image_name,patient_id,sex,benign_malignant,diagnosis,target", "a,IP_1,male,malignant,melanoma,1", "melanoma"),
        ("image_id,melanoma,seborrheic_keratosis", "a,0.0,0.0", "nevus"),
        ("img_id,diagnostic,gender", "a.jpg,SEK,FEMALE", "non_melanoma"),
        ("a_1,benign", None, "benign"),
    ],
)
def test_other_tables_need_only_an_id_and_a_diagnosis(tmp_path: Path, header: str, row: str | None, label: str) -> None:
    images(tmp_path, "a", "a_1")
    table(tmp_path / "labels of the download.csv", header, *([row] if row else []))
    dataset = load_dataset(tmp_path)
    assert [record.label for record in dataset.records] == [label]


def test_tables_that_are_not_used_are_listed_with_the_reason(tmp_path: Path) -> None:
    images(tmp_path, "a")
    table(tmp_path / "HAM10000_metadata.csv", HAM10000, "HAM_1,a,nv,histo,50,male,back")
    table(tmp_path / "copy" / "HAM10000_metadata.csv", HAM10000, "HAM_1,a,nv,histo,50,male,back")
    table(
        tmp_path / "hmnist_8_8_L.csv", ",".join(f"pixel{number:04}" for number in range(64)) + ",label", "1," * 64 + "2"
    )
    table(tmp_path / "other.csv", "image,diagnosis", "elsewhere,nevus")
    table(tmp_path / "wide.csv", ISIC_2018, one_hot("a", ISIC_2018, "NV"), encoding="utf-16")
    table(tmp_path / "predictions.csv", ISIC_2018, "a,0.7,0.1,0.2,0,0,0,0")
    table(tmp_path / "sub" / "words.csv", "image,diagnosis", "a,wart")
    found = reasons(load_dataset(tmp_path))
    assert "copy of HAM10000_metadata.csv" in found.pop("copy/HAM10000_metadata.csv")
    assert "Expected a column of image ids" in found.pop("hmnist_8_8_L.csv")
    assert "names an image of this folder" in found.pop("other.csv")
    assert "line 1 is not UTF-8" in found.pop("wide.csv")
    assert "line 2 has '0.7' for mel" in found.pop("predictions.csv")
    assert "known diagnosis" in found.pop("sub/words.csv")
    assert found == {}


def test_a_later_table_adds_missing_values_and_contradictions_are_named(tmp_path: Path) -> None:
    images(tmp_path, "a", "b", "c")
    rows = ("HAM_1,a,nv,histo,,male,back", "HAM_2,b,mel,histo,50,male,back")
    table(tmp_path / "HAM10000_metadata.csv", HAM10000, *rows)
    more = ("a,45,female,torso,Nevus", "b,50,male,torso,Nevus", "c,30,male,torso,Dermatofibroma")
    table(tmp_path / "metadata.csv", "isic_id,age_approx,sex,anatom_site_general,diagnosis_3", *more)
    dataset = load_dataset(tmp_path)
    assert [(r.label, r.age, r.sex, r.localization) for r in dataset.records] == [
        ("nevus", 45.0, "male", "back"),
        ("melanoma", 50.0, "male", "back"),
        ("non_melanoma", 30.0, "male", "torso"),
    ]
    reason = "This row has nv for b. Another table has mel and is used."
    assert dataset.left_out == (LeftOut("metadata.csv, line 3", reason),)


def test_contradictions_between_class_folders_and_a_table_are_named(tmp_path: Path) -> None:
    images(tmp_path / "nevus", "a", "b")
    images(tmp_path / "melanoma", "c")
    table(tmp_path / "labels.csv", "image,diagnosis,age,sex,localization,lesion_id", "a,nevus,1,,,", "b,mel,1,,,")
    dataset = load_dataset(tmp_path)
    assert labels(dataset) == {"a": ("nevus", "nv"), "b": ("melanoma", "mel"), "c": ("melanoma", None)}
    assert reasons(dataset) == {"nevus/b.jpg": "The folder names nevus, the table mel. The table is used."}


def test_a_table_without_diagnoses_adds_its_columns_to_class_folders(tmp_path: Path) -> None:
    images(tmp_path / "nv", "a")
    images(tmp_path / "mel", "b")
    table(tmp_path / "people.csv", "image,age,sex,lesion_id,localization", "a,33,male,L1,hand")
    dataset = load_dataset(tmp_path)
    assert [(r.image_id, r.label, r.age, r.lesion_id) for r in dataset.records] == [
        ("a", "nevus", 33.0, "L1"), ("b", "melanoma", None, None)
    ]  # fmt: skip
    write_metadata(dataset, tmp_path / "HAM10000_metadata.csv")
    assert load_dataset(tmp_path).records == dataset.records


@pytest.mark.parametrize("delimiter", [",", "\t", ";"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig"])
@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_any_delimiter_line_ending_and_encoding_is_read(
    tmp_path: Path, delimiter: str, encoding: str, end: str
) -> None:
    images(tmp_path, "a")
    lines = (HAM10000, 'HAM_1,a,bcc,histo,45.0,male,"back"')
    text = end.join(line.replace(",", delimiter) for line in lines)
    (tmp_path / "HAM10000_metadata.csv").write_bytes(text.encode(encoding))
    record = load_dataset(tmp_path).records[0]
    assert (record.dx, record.age, record.localization) == ("bcc", 45.0, "back")


@pytest.mark.parametrize("closed_later", [False, True])
def test_an_unclosed_quote_raises_an_error_with_its_line(tmp_path: Path, closed_later: bool) -> None:
    images(tmp_path, "a", "b", "c")
    last = 'HAM_3,c,nv,histo,45,male,"back"' if closed_later else "HAM_3,c,nv,histo,45,male,back"
    rows = ("HAM_1,a,nv,histo,45,male,back", 'HAM_2,b,nv,histo,45,"male,back', last)
    table(tmp_path / "HAM10000_metadata.csv", HAM10000, *rows)
    with pytest.raises(DatasetError, match=r"HAM10000_metadata.csv.*line 3.*quote"):
        load_dataset(tmp_path)


def test_a_row_with_more_values_than_columns_is_named_and_not_used(tmp_path: Path) -> None:
    images(tmp_path, "a", "b")
    rows = ("HAM_1,a,nv,histo,45,male,back,", "HAM_2,b,lesion, of the skin,mel,histo,45,male,back")
    table(tmp_path / "HAM10000_metadata.csv", HAM10000, *rows)
    dataset = load_dataset(tmp_path)
    assert [record.image_id for record in dataset.records] == ["a"]
    assert "got 9" in reasons(dataset)["HAM10000_metadata.csv, line 3"]


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        ("HAM_2,b,nv,histo,45,male,Rücken".encode("latin-1"), "got the byte 0xfc in line 3"),
        (b"HAM_2,b\0,nv,histo,45,male,back", "a NUL character in line 3"),
        (b'HAM_2,"b"x,nv,histo,45,male,back', "line 3 cannot be read"),
    ],
)
def test_a_table_that_is_not_text_raises_an_error_with_its_line(tmp_path: Path, damage: bytes, reason: str) -> None:
    images(tmp_path, "a")
    content = (HAM10000.encode(), b"HAM_1,a,nv,histo,45,male,back", damage, b"")
    (tmp_path / "HAM10000_metadata.csv").write_bytes(b"\n".join(content))
    with pytest.raises(DatasetError, match=rf"HAM10000_metadata.csv.*{reason}"):
        load_dataset(tmp_path)


def test_a_duplicate_column_is_refused(tmp_path: Path) -> None:
    images(tmp_path, "a")
    table(tmp_path / "HAM10000_metadata.csv", "image_id,dx,dx", "a,nv,mel")
    with pytest.raises(DatasetError, match="got several of dx"):
        load_dataset(tmp_path)


@pytest.mark.parametrize(("written", "listed"), [("e\u0301", "\u00e9"), ("\u00e9", "e\u0301")])
def test_composed_and_decomposed_unicode_names_are_equal(tmp_path: Path, written: str, listed: str) -> None:
    images(tmp_path / "images", f"l{written}sion")
    table(tmp_path / "HAM10000_metadata.csv", HAM10000, f"HAM_1,l{listed}sion,nv,histo,45,male,back")
    dataset = load_dataset(tmp_path)
    assert labels(dataset) == {"l\u00e9sion": ("nevus", "nv")}
    assert dataset.left_out == ()


def test_an_id_that_is_too_long_for_a_file_name_is_a_row_without_a_file(tmp_path: Path) -> None:
    images(tmp_path, "a")
    rows = [f"HAM_1,{image},nv,histo,45,male,back" for image in ("a", "x" * 300, "y" * 5000)]
    table(tmp_path / "HAM10000_metadata.csv", HAM10000, *rows)
    dataset = load_dataset(tmp_path)
    assert [record.image_id for record in dataset.records] == ["a"]
    assert {item.reason for item in dataset.left_out} == {NO_FILE}


def test_ids_that_differ_only_in_their_suffix_are_different(tmp_path: Path) -> None:
    photograph(tmp_path / "a.jpg", 1)
    photograph(tmp_path / "a.png.jpg", 2)  # a possible name of the reconstruction of a.png
    lines = ("HAM_1,a.jpg,nv,histo,45,male,back", "HAM_2,a.png,mel,histo,45,male,back")
    table(tmp_path / "HAM10000_metadata.csv", HAM10000, *lines)
    dataset = load_dataset(tmp_path)
    assert labels(dataset) == {"a.jpg": ("nevus", "nv"), "a.png": ("melanoma", "mel")}
