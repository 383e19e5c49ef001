"""Folders as users have them: complete, partial, damaged, with unusual names and with every kind of metadata."""

import csv
import hashlib
import json
import os
import shutil
from collections import Counter
from dataclasses import asdict
from pathlib import Path

import cv2
import numpy as np
import pytest

from core.data import dataset_tables, folders
from core.data.datasets import DatasetImage, load_dataset, write_metadata
from core.data.manifest import MANIFEST, write_manifest
from core.data.metadata import HAM10000_COLUMNS, LABEL_OF_DX, NO_FILE, LeftOut
from core.errors import DatasetError, SpecError

REAL = Path(os.environ.get("DERMSLIM_REAL_DATA", "../shared/data")) / "ham10000"
HEADER = "lesion_id,image_id,dx,dx_type,age,sex,localization,dataset"
ISIC_HEADER = (
    "isic_id,attribution,copyright_license,age_approx,anatom_site_general,diagnosis_2,diagnosis_3,lesion_id,sex"
)


def image_file(path, seed=0, height=12, width=16):
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    path.write_bytes(cv2.imencode(path.suffix, pixels)[1].tobytes())
    return path


def metadata(folder, *rows, header=HEADER, name="HAM10000_metadata.csv"):
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_text("\n".join((header, *rows)) + "\n")


def reasons(dataset):
    return {item.name: item.reason for item in dataset.left_out}


@pytest.fixture
def ham(tmp_path):
    folder = tmp_path / "ham"
    image_file(folder / "HAM10000_images_part_1" / "ISIC_1.jpg", 1)
    image_file(folder / "HAM10000_images_part_2" / "ISIC_2.jpg", 2, 20, 30)
    image_file(folder / "HAM10000_images_part_2" / "ISIC_3.JPG", 3)
    image_file(folder / "negatives" / "arm.png", 4)
    metadata(
        folder,
        "HAM_9,ISIC_1,mel,histo,55.0,male,back,vidir_modern",
        "HAM_9,ISIC_2,nv,histo,,unknown,unknown,vidir_modern",
        "HAM_7,ISIC_3,vasc,consensus,0.0,female,face,rosendahl",
    )
    return folder


def test_a_ham10000_folder_is_read_completely(ham):
    dataset = load_dataset(ham)
    assert (dataset.name, dataset.root, dataset.layout, dataset.synthetic) == ("ham", ham, "ham10000", False)
    assert dataset.left_out == ()
    data = (ham / "HAM10000_images_part_1" / "ISIC_1.jpg").read_bytes()
    assert dataset.records[0] == DatasetImage(
        image_id="ISIC_1",
        path="HAM10000_images_part_1/ISIC_1.jpg",
        bytes=len(data),
        height=12,
        width=16,
        sha256=hashlib.sha256(data).hexdigest(),
        label="melanoma",
        dx="mel",
        lesion_id="HAM_9",
        age=55.0,
        sex="male",
        localization="back",
    )
    unknown, infant, negative = dataset.records[1:]
    assert (unknown.age, unknown.sex, unknown.localization, unknown.label) == (None, None, None, "nevus")
    assert (unknown.height, unknown.width) == (20, 30)
    assert (infant.age, infant.label) == (0.0, "non_melanoma")
    assert (negative.image_id, negative.label, negative.dx) == ("arm", "negative", None)
    assert dataset.class_counts() == {"melanoma": 1, "nevus": 1, "non_melanoma": 1, "negative": 1}


@pytest.mark.parametrize("dx", ["akiec", "bcc", "bkl", "df", "vasc", "mel", "nv"])
def test_every_diagnosis_of_ham10000_has_its_label(tmp_path, dx):
    image_file(tmp_path / "a.jpg")
    metadata(tmp_path, f"HAM_1,a,{dx},histo,50,male,back")
    expected = {"mel": "melanoma", "nv": "nevus"}.get(dx, "non_melanoma")
    assert load_dataset(tmp_path).records[0].label == expected


def test_unusable_files_are_listed_and_the_others_are_kept(ham):
    images = ham / "HAM10000_images_part_1"
    whole = image_file(images / "ISIC_4.jpg", 5).read_bytes()
    (images / "ISIC_4.jpg").write_bytes(whole[: len(whole) // 2])
    (images / "ISIC_5.jpg").write_bytes(b"")
    (images / "ISIC_6.jpg").write_text("<html>404</html>")
    image_file(images / "stranger.jpg", 6)
    (images / "scan.heic").write_bytes(b"heic")
    for ignored in ("Thumbs.db", ".DS_Store", ".hidden.jpg", "ATTRIBUTION.txt"):
        (images / ignored).write_bytes(b"x")
    with (ham / "HAM10000_metadata.csv").open("a") as file:
        file.writelines(f"HAM_1,ISIC_{n},nv,histo,40,male,back,rosendahl\n" for n in (4, 5, 6, 7))
    dataset = load_dataset(ham)
    assert [record.image_id for record in dataset.records] == ["ISIC_1", "ISIC_2", "ISIC_3", "arm"]
    found = reasons(dataset)
    assert "truncated" in found.pop("HAM10000_images_part_1/ISIC_4.jpg")
    assert "empty" in found.pop("HAM10000_images_part_1/ISIC_5.jpg")
    assert "Expected an image" in found.pop("HAM10000_images_part_1/ISIC_6.jpg")
    assert "no label" in found.pop("HAM10000_images_part_1/stranger.jpg")
    assert "no image extension" in found.pop("HAM10000_images_part_1/scan.heic")
    assert "file is missing" in found.pop("ISIC_7")
    assert found == {}


def test_duplicate_rows_and_files_are_named_and_the_first_is_used(ham):
    image_file(ham / "images" / "ISIC_1.jpg", 1)  # a copy; different pixels under the same id are refused
    with (ham / "HAM10000_metadata.csv").open("a") as file:
        file.write("HAM_9,ISIC_1,mel,histo,55.0,male,back,vidir_modern\nHAM_9,ISIC_1,nv,histo,20,male,back,rosendahl\n")
        file.write("HAM_9,,nv,histo,20,male,back,rosendahl\n")
    dataset = load_dataset(ham)
    first = dataset.records[0]
    assert (first.image_id, first.label, first.path) == ("ISIC_1", "melanoma", "HAM10000_images_part_1/ISIC_1.jpg")
    found = reasons(dataset)
    assert "a copy of HAM10000_images_part_1/ISIC_1.jpg" in found["images/ISIC_1.jpg"]
    assert "this one is equal" in found["HAM10000_metadata.csv, line 5"]
    assert "this one differs" in found["HAM10000_metadata.csv, line 6"]
    assert "no image id" in found["HAM10000_metadata.csv, line 7"]


@pytest.mark.parametrize("age", ["abc", "-3", "1e9", "inf", "nan?"])
def test_an_impossible_age_is_named_and_the_image_is_kept(tmp_path, age):
    image_file(tmp_path / "a.jpg")
    metadata(tmp_path, f"HAM_1,a,mel,histo,{age},male,back")
    dataset = load_dataset(tmp_path)
    assert dataset.records[0].age is None
    assert dataset.left_out == (
        LeftOut("a, age", f"Expected an age from 0 to 120, got {age!r}. The image is kept without an age."),
    )


def test_an_unknown_diagnosis_is_named_and_the_image_is_kept_unlabelled(tmp_path):
    image_file(tmp_path / "a.jpg")
    metadata(tmp_path, "HAM_1,a,wart,histo,40,male,back", "HAM_1,absent,wart,histo,40,male,back")
    dataset = load_dataset(tmp_path)
    assert (dataset.records[0].label, dataset.records[0].dx) == (None, "wart")
    assert reasons(dataset) == {
        "a, dx": "Expected a diagnosis (dx) of mel, nv, akiec, bcc, bkl, df, vasc, got 'wart'."
        " The image is kept unlabelled.",
        "absent": NO_FILE,
    }


def test_wrong_columns_raise_an_error_with_expected_and_found_columns(tmp_path):
    image_file(tmp_path / "a.jpg")
    metadata(tmp_path, "a,mel", header="picture,diagnosis")
    with pytest.raises(DatasetError, match=r"Expected the columns lesion_id, image_id, dx.*got picture, diagnosis"):
        load_dataset(tmp_path)


@pytest.mark.parametrize("content", [b"", b"\xff\xfe\x00binary", b"PK\x03\x04\xe9"])
def test_metadata_that_are_not_csv_raise_an_error(tmp_path, content):
    image_file(tmp_path / "a.jpg")
    (tmp_path / "HAM10000_metadata.csv").write_bytes(content)
    with pytest.raises(DatasetError, match=r"Expected .*HAM10000_metadata.csv"):
        load_dataset(tmp_path)


def test_a_tab_separated_list_with_a_byte_order_mark_and_extensions_is_read(tmp_path):
    image_file(tmp_path / "images" / "a.jpg")
    rows = (HEADER, "HAM_1,a.jpg,bcc,histo,40,male,back,rosendahl")
    text = "\n".join(rows).replace(",", "\t")
    (tmp_path / "HAM10000_metadata.tab").write_text(text, encoding="utf-8-sig")
    assert load_dataset(tmp_path).records[0].dx == "bcc"


@pytest.mark.parametrize(
    ("diagnosis_2", "diagnosis_3", "dx"),
    [
        ("Malignant melanocytic proliferations (Melanoma)", "Melanoma, NOS", "mel"),
        ("Benign melanocytic proliferations", "Nevus", "nv"),
        ("Benign epidermal proliferations", "Pigmented benign keratosis", "bkl"),
        ("Indeterminate epidermal proliferations", "Solar or actinic keratosis", "akiec"),
        ("Malignant epidermal proliferations", "Squamous cell carcinoma, NOS", "akiec"),
        ("Malignant adnexal epithelial proliferations - Follicular", "Basal cell carcinoma", "bcc"),
        ("Benign soft tissue proliferations - Fibro-histiocytic", "Dermatofibroma", "df"),
        ("Benign soft tissue proliferations - Vascular", "", "vasc"),
    ],
)
def test_an_isic_archive_download_is_read(tmp_path, diagnosis_2, diagnosis_3, dx):
    image_file(tmp_path / "ISIC_0024306.jpg")
    (tmp_path / "attribution.txt").write_text("ViDIR Group")
    (tmp_path / "licenses").mkdir()
    (tmp_path / "licenses" / "CC-BY-NC.txt").write_text("…")
    row = f'ISIC_0024306,ViDIR,CC-BY-NC,45,lower extremity,{diagnosis_2},"{diagnosis_3}",IL_7252831,male'
    metadata(tmp_path, row, header=ISIC_HEADER, name="metadata.csv")
    dataset = load_dataset(tmp_path)
    record = dataset.records[0]
    assert (dataset.layout, record.dx, record.label) == ("ham10000", dx, LABEL_OF_DX[dx])
    assert (record.age, record.sex, record.localization) == (45.0, "male", "lower extremity")
    assert record.lesion_id == "IL_7252831"
    assert dataset.left_out == ()


def test_class_folders_give_labels_and_other_names_are_kept(tmp_path):
    for folder in ("mel", "Nevus", "non-melanoma", "bcc", "negatives", "scars"):
        image_file(tmp_path / folder / "1.jpg", seed=len(folder))
    dataset = load_dataset(tmp_path)
    assert dataset.layout == "class_folders"
    assert {record.image_id: (record.label, record.dx) for record in dataset.records} == {
        "mel/1": ("melanoma", "mel"),
        "Nevus/1": ("nevus", None),
        "non-melanoma/1": ("non_melanoma", None),
        "bcc/1": ("non_melanoma", "bcc"),
        "negatives/1": ("negative", None),
        "scars/1": ("scars", None),
    }
    assert list(dataset.class_counts()) == ["melanoma", "nevus", "non_melanoma", "negative", "scars"]


def test_class_folders_are_found_below_the_folder_of_a_split(tmp_path):
    image_file(tmp_path / "train" / "melanoma" / "batch 1" / "a.jpg")
    image_file(tmp_path / "test" / "nv" / "b.jpg")
    assert [record.label for record in load_dataset(tmp_path).records] == ["melanoma", "nevus"]


@pytest.mark.parametrize("folders", [("",), ("", "images"), ("HAM10000_images_part_1", "HAM10000_images_part_2")])
def test_images_without_classes_form_a_plain_data_set(tmp_path, folders):
    for number, folder in enumerate(folders):
        image_file(tmp_path / folder / f"{number}.jpg")
    dataset = load_dataset(tmp_path)
    assert dataset.layout == "plain"
    assert {record.label for record in dataset.records} == {None}
    assert dataset.class_counts() == {}


def test_equal_file_names_get_longer_ids(tmp_path):
    for name in ("a/x.jpg", "b/x.jpg", "b/x.png", "b/y.jpg"):
        image_file(tmp_path / name)
    ids = {record.path: record.image_id for record in load_dataset(tmp_path).records}
    assert ids == {"a/x.jpg": "a/x", "b/x.jpg": "b/x.jpg", "b/x.png": "b/x.png", "b/y.jpg": "y"}


def test_folders_that_cannot_be_read_raise_errors(tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "only text").mkdir()
    (tmp_path / "only text" / "a.doc").write_text("a")
    (tmp_path / "damaged").mkdir()
    (tmp_path / "damaged" / "a.jpg").write_text("a")
    (tmp_path / "file").write_text("a")
    with pytest.raises(DatasetError, match="does not exist"):
        load_dataset(tmp_path / "absent")
    with pytest.raises(DatasetError, match="got a file"):
        load_dataset(tmp_path / "file")
    for folder in ("empty", "only text"):
        with pytest.raises(DatasetError, match=r"Expected images .* got none"):
            load_dataset(tmp_path / folder)
    with pytest.raises(DatasetError, match=r"got none. a.jpg: Expected an image"):
        load_dataset(tmp_path / "damaged")
    with pytest.raises(DatasetError):
        load_dataset(Path("nul\0character"))


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_files_without_read_permission_are_named(tmp_path):
    image_file(tmp_path / "a.jpg")
    image_file(tmp_path / "b.jpg").chmod(0)
    image_file(tmp_path / "locked" / "c.jpg").parent.chmod(0)
    dataset = load_dataset(tmp_path)
    (tmp_path / "locked").chmod(0o700)
    assert set(reasons(dataset)) == {"b.jpg", "locked"}


def test_links_and_pipes_are_left_out_with_a_reason(tmp_path):
    inside, outside = tmp_path / "inside", tmp_path / "outside"
    image_file(inside / "a.jpg", 1)
    image_file(outside / "secret.jpg", 2)
    (inside / "b.jpg").symlink_to(inside / "a.jpg")
    (inside / "out.jpg").symlink_to(outside / "secret.jpg")
    (inside / "broken.jpg").symlink_to(inside / "gone.jpg")
    (inside / "folder").symlink_to(outside)
    os.mkfifo(inside / "pipe.jpg")
    with open(os.fsencode(inside) + b"/bad\xff.jpg", "wb") as file:  # noqa: PTH123 - Path cannot represent this name
        file.write((inside / "a.jpg").read_bytes())
    dataset = load_dataset(inside)
    assert [record.path for record in dataset.records] == ["a.jpg", "b.jpg"]
    found = reasons(dataset)
    assert "outside the data set" in found.pop("out.jpg")
    assert "does not exist" in found.pop("broken.jpg")
    assert "Symbolic links" in found.pop("folder")
    assert "pipe" in found.pop("pipe.jpg")
    assert "UTF-8" in found.pop("bad?.jpg")
    assert found == {}


def test_the_progress_of_loading_counts_every_file(ham):
    calls = []
    load_dataset(ham, progress=lambda done, total: calls.append((done, total)))
    assert calls == [(1, 4), (2, 4), (3, 4), (4, 4)]


def test_a_marker_file_makes_a_data_set_synthetic(ham):
    (ham / "SYNTHETIC.txt").write_text("made")
    assert load_dataset(ham).synthetic


def test_the_fingerprint_depends_on_content_and_not_on_the_folder(ham, tmp_path):
    before = load_dataset(ham).fingerprint
    moved = ham.rename(tmp_path / "elsewhere")
    assert load_dataset(moved, name="other").fingerprint == before
    table = moved / "HAM10000_metadata.csv"
    table.write_text(table.read_text().replace("55.0", "60.0"))
    changed_age = load_dataset(moved).fingerprint
    image_file(moved / "HAM10000_images_part_1" / "ISIC_1.jpg", 77)
    assert len({before, changed_age, load_dataset(moved).fingerprint}) == 3


def test_samples_depend_on_the_seed_and_larger_ones_contain_smaller_ones(tmp_path):
    for number in range(30):
        image_file(tmp_path / f"{number:02}.jpg", number)
    dataset = load_dataset(tmp_path)
    small, large = dataset.sample(5, 1), dataset.sample(12, 1)
    assert small == dataset.sample(5, 1) != dataset.sample(5, 2)
    assert len(set(large)) == 12
    assert set(small) < set(large)
    assert list(large) == sorted(large, key=lambda record: record.image_id)
    assert dataset.sample(None, 1) == dataset.records
    for size in (0, 31):
        with pytest.raises(SpecError, match=rf"1 to 30 images.*got {size}"):
            dataset.sample(size, 1)


def test_confine_follows_links_and_refuses_paths_outside_the_roots(tmp_path):
    root, outside = tmp_path / "root", tmp_path / "outside"
    (root / "sub").mkdir(parents=True)
    outside.mkdir()
    (root / "link").symlink_to(outside)
    (outside / "way in").symlink_to(root)
    assert folders.confine(root / "sub" / ".." / "sub", [root]) == root / "sub"
    assert folders.confine(outside / "way in" / "sub", [root]) == root / "sub"
    assert folders.confine(root / "not there yet", [outside, root]) == root / "not there yet"
    for path in (root / "link", root / ".." / "outside", Path("/etc/passwd"), tmp_path / "rootless"):
        with pytest.raises(DatasetError, match=f"data roots \\({root}\\)"):
            folders.confine(path, [root])
    with pytest.raises(DatasetError, match="cannot be resolved"):
        folders.confine(Path("nul\0character"), [root])


@pytest.mark.parametrize("kind", ["ham", "classes", "plain"])
def test_written_metadata_can_be_read_back(ham, tmp_path, kind):
    if kind != "ham":
        ham = tmp_path / "other"
        for name in ("mel/1.jpg", "scars/1.jpg", "negatives/2.jpg") if kind == "classes" else ("1.jpg", "2.jpg"):
            image_file(ham / name, len(name))
    before = load_dataset(ham)
    write_metadata(before, ham / "HAM10000_metadata.csv")
    after = load_dataset(ham)
    assert after.records == before.records
    assert after.left_out == ()
    with (ham / "HAM10000_metadata.csv").open() as file:
        assert next(csv.DictReader(file)).keys() >= set(HAM10000_COLUMNS)


def test_summaries_count_every_image_once(ham):
    image_file(ham / "images" / "ISIC_8.jpg", 1)
    with (ham / "HAM10000_metadata.csv").open("a") as file:
        file.write("HAM_9,ISIC_8,mel,histo,55.0,male,back,vidir_modern\n")
    dataset = load_dataset(ham)
    table = dataset_tables.class_table(dataset)
    assert table[["label", "dx", "images"]].to_numpy().tolist() == [
        ["melanoma", "mel", 2],
        ["nevus", "nv", 1],
        ["non_melanoma", "vasc", 1],
        ["negative", "", 1],
    ]
    assert table["lesions"].isna().tolist() == [False, False, False, True]
    assert table["lesions"].tolist()[:3] == [1, 1, 1]
    assert table["bytes"].sum() == sum(r.bytes for r in dataset.records)
    spread = dataset_tables.age_sex_localization(dataset)
    assert spread.groupby("variable")["images"].sum().to_dict() == {"age": 5, "sex": 5, "localization": 5}
    assert spread[spread["variable"] == "age"]["value"].tolist() == ["0", "55", "unknown", "unknown"]
    assert dataset_tables.size_counts(dataset).to_numpy().tolist() == [[12, 16, 4], [20, 30, 1]]


@pytest.mark.real_data
@pytest.mark.skipif(not REAL.is_dir(), reason="the real HAM10000 originals are not here")
def test_a_partial_download_of_ham10000_is_read():
    dataset = load_dataset(REAL)
    assert Counter(record.dx for record in dataset.records) == {
        "mel": 81, "nv": 67, "bkl": 53, "bcc": 32, "akiec": 27, "vasc": 20, "df": 19
    }  # fmt: skip
    assert Counter(item.reason for item in dataset.left_out) == {NO_FILE: 9716}


# Given splits


def splits_of(dataset):
    return {record.image_id: record.split for record in dataset.records}


def test_a_column_split_gives_the_sets_in_every_spelling(tmp_path):
    spellings = {
        "train": "train", "Training": "train", "training set": "train", "val": "validation", "VALID": "validation",
        "Validation": "validation", "test": "test", "testing": "test", "": None, "unknown": None,
    }  # fmt: skip
    for number in range(len(spellings)):
        image_file(tmp_path / f"i{number}.png", number)
    rows = [f"L{number},i{number},nv,{word},40,male,back" for number, word in enumerate(spellings)]
    metadata(tmp_path, *rows, header="lesion_id,image_id,dx,split,age,sex,localization")
    dataset = load_dataset(tmp_path)
    assert list(splits_of(dataset).values()) == list(spellings.values())
    assert dataset.left_out == ()
    assert dataset.split_counts() == {"train": 3, "validation": 3, "test": 2}


def test_a_word_that_is_no_split_is_named_and_the_image_is_kept(tmp_path):
    image_file(tmp_path / "a.png")
    metadata(tmp_path, "L1,a,mel,3,40,male,back", header="lesion_id,image_id,dx,split,age,sex,localization")
    dataset = load_dataset(tmp_path)
    assert splits_of(dataset) == {"a": None}
    reason = "Expected a split of train, validation or test, got '3'. The image is kept without a given split."
    assert dataset.left_out == (LeftOut("a, split", reason),)


@pytest.mark.parametrize("name", ["split.csv", "folds.csv"])
def test_a_table_of_splits_beside_class_folders_is_read(tmp_path, name):
    for number, path in enumerate(("nv/a.png", "nv/b.png", "mel/c.png")):
        image_file(tmp_path / path, number)
    metadata(tmp_path, "a.png,train", "b.png,test", "c.png,val", header="image,split", name=name)
    dataset = load_dataset(tmp_path)
    assert splits_of(dataset) == {"a": "train", "b": "test", "c": "validation"}
    assert dataset.class_counts() == {"melanoma": 1, "nevus": 2}


def test_a_table_of_splits_joins_the_metadata_and_a_contradiction_is_named(ham):
    metadata(ham, "ISIC_1,train", "ISIC_2,test", "arm,val", header="image_id,split", name="split.csv")
    metadata(ham, "ISIC_1,test", header="image_id,split", name="splits_of_another.csv")
    dataset = load_dataset(ham)
    assert splits_of(dataset) == {"ISIC_1": "train", "ISIC_2": "test", "ISIC_3": None, "arm": "validation"}
    assert reasons(dataset) == {
        "splits_of_another.csv, line 2": "This row has test for ISIC_1. Another table has train and is used."
    }


def test_folders_of_sets_with_class_folders_give_the_sets(tmp_path):
    paths = ("train/nv/a.png", "train/mel/b.png", "val/nv/c.png", "Test/mel/d.png", "nv/train/e.png", "nv/f.png")
    for number, path in enumerate(paths):
        image_file(tmp_path / path, number)
    dataset = load_dataset(tmp_path)
    assert splits_of(dataset) == {"a": "train", "b": "train", "c": "validation", "d": "test", "e": "train", "f": None}
    assert dataset.layout == "class_folders"
    metadata(tmp_path, "a,test", "b,train", header="image_id,split", name="split.csv")
    again = load_dataset(tmp_path)
    assert splits_of(again) == splits_of(dataset) | {"a": "test"}
    assert "The folder names the split train, the table test." in str(again.left_out)


def test_given_splits_change_the_fingerprint_and_their_absence_does_not(ham):
    before = load_dataset(ham)
    content = [(r.image_id, r.sha256, r.label, r.dx, r.lesion_id, r.age, r.sex, r.localization) for r in before.records]
    lines = "".join(f"{json.dumps(each)}\n" for each in content)
    assert before.fingerprint == hashlib.sha256(lines.encode()).hexdigest()
    assert all("split" not in record.to_dict() for record in before.records)
    metadata(ham, "ISIC_1,train", header="image_id,split", name="split.csv")
    after = load_dataset(ham)
    assert after.fingerprint != before.fingerprint
    assert [DatasetImage(**record.to_dict()) for record in after.records] == list(after.records)


def test_written_metadata_and_lists_keep_the_given_splits(tmp_path, ham):
    metadata(ham, "ISIC_1,train", "ISIC_2,test", header="image_id,split", name="split.csv")
    dataset = load_dataset(ham)
    shutil.copytree(ham, tmp_path / "copy", ignore=shutil.ignore_patterns("*.csv"))
    write_metadata(dataset, tmp_path / "copy" / "HAM10000_metadata.csv")
    assert splits_of(load_dataset(tmp_path / "copy")) == splits_of(dataset)
    write_manifest(tmp_path / "copy", dataset.layout, [asdict(record) for record in dataset.records])
    assert splits_of(load_dataset(tmp_path / "copy")) == splits_of(dataset)
    manifest = tmp_path / "copy" / MANIFEST
    manifest.write_text(manifest.read_text().replace('"split": "test"', '"split": "exam"'))
    with pytest.raises(DatasetError, match="expected a split of train, validation or test"):
        load_dataset(tmp_path / "copy")
