"""A reconstruction writes one file per image without collisions, and is read back with the same ids and labels."""

from __future__ import annotations

import os
import unicodedata
from dataclasses import replace
from pathlib import Path, PurePosixPath

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.compression.measure import write_whole
from core.compression.specs import ReconstructSpec
from core.data.datasets import Dataset, DatasetImage, complete_folder, load_dataset
from core.data.manifest import MANIFEST
from core.data.names import LONGEST_NAME, merged, output_names, refuse_inside
from core.errors import DatasetError, SpecError
from core.settings import Settings
from jobs.__main__ import main
from jobs.hosts import claim_output
from jobs.local import claimed, measure_all
from jobs.queues import Queues


def write(folder: Path, *names: str) -> Path:
    """Write a different image under each name."""
    generator = np.random.default_rng(len(names))
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        pixels = cv2.resize(generator.integers(0, 256, (4, 5, 3), dtype=np.uint8), (40, 32))
        path.write_bytes(cv2.imencode(path.suffix.lower(), pixels)[1].tobytes())
    return folder


def reconstructed(dataset: Dataset, output: Path, codec: str = "png") -> Dataset:
    """Reconstruct with the full rank, so that pixels do not change, and load the written folder."""
    spec = ReconstructSpec(dataset=dataset.name, name="made", k=32, codec=codec)
    results = list(measure_all(dataset, dataset.records, spec, workers=1, output=output))
    records = tuple(DatasetImage(**result.file) for result in results if result.file)
    complete_folder(replace(dataset, name="made", root=output, records=records))
    return load_dataset(output, name="made")


def pixels(dataset: Dataset) -> dict[str, bytes]:
    return {
        record.image_id: cv2.imdecode(np.fromfile(dataset.root / record.path, np.uint8), cv2.IMREAD_COLOR).tobytes()
        for record in dataset.records
    }


FOLDERS = {
    "two endings": ("lesion.jpg", "lesion.png", "other.jpg"),
    "an ending in capitals": ("a.JPG", "a.jpg", "b.jpg"),
    "names in capitals": ("Lesion.jpg", "lesion.jpg"),
    "a composed and a decomposed name": tuple(
        unicodedata.normalize(form, "münchen") + ending for form, ending in (("NFC", ".jpg"), ("NFD", ".png"))
    ),
    "classes": ("melanoma/x.jpg", "nevus/x.jpg", "nevus/x.png", "nevus/y.png"),
    "one class": ("nevus/x.jpg", "nevus/x.png"),
    "a folder called as a file": ("x.png/y.jpg", "x.jpg", "z.bmp"),
    "a name within a name": ("lesion.jpg.png", "other.jpg"),
}


@pytest.mark.parametrize("case", FOLDERS)
def test_every_image_gets_its_own_file_and_can_be_read_back(case: str, tmp_path: Path) -> None:
    dataset = load_dataset(write(tmp_path / "from", *FOLDERS[case]))
    assert len(dataset.records) == len(FOLDERS[case])
    read = reconstructed(dataset, tmp_path / "made")
    assert len({merged(PurePosixPath(record.path)) for record in read.records}) == len(FOLDERS[case])
    assert [(each.image_id, each.label, each.dx) for each in read.records] == [
        (each.image_id, each.label, each.dx) for each in dataset.records
    ]
    assert pixels(read) == pixels(dataset)


def test_ordinary_file_names_are_kept_and_need_no_manifest(tmp_path: Path) -> None:
    dataset = load_dataset(write(tmp_path / "from", "melanoma/ISIC_0024306.jpg", "nevus/ISIC_0024307.jpg"))
    read = reconstructed(dataset, tmp_path / "made")
    assert [record.path for record in read.records] == ["melanoma/ISIC_0024306.png", "nevus/ISIC_0024307.png"]
    assert read.left_out == ()
    assert not (tmp_path / "made" / MANIFEST).exists()


def test_a_sample_keeps_the_ids_and_labels_of_the_whole_data_set(tmp_path: Path) -> None:
    dataset = load_dataset(write(tmp_path / "from", "melanoma/x.jpg", "nevus/x.jpg", "odd/y.jpg"))
    for record in dataset.records:
        read = reconstructed(replace(dataset, records=(record,)), tmp_path / f"made {record.label}")
        assert [(each.image_id, each.label) for each in read.records] == [(record.image_id, record.label)]


def test_the_command_writes_every_image_and_refuses_to_overwrite(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DATA_DIR", str(tmp_path / "data"))
    folder, output = write(tmp_path / "from", "lesion.jpg", "lesion.png", "a.JPG", "a.jpg"), tmp_path / "made"
    command = ["reconstruct", str(folder), "--k", "9", "--local", "--workers", "1", "--output", str(output)]
    assert main(command) == 0
    assert {record.image_id for record in load_dataset(output).records} == {
        record.image_id for record in load_dataset(folder).records
    }
    before = {path: path.read_bytes() for path in output.rglob("*") if path.is_file()}
    assert main(command) == 1, "the folder has files now"
    assert {path: path.read_bytes() for path in output.rglob("*") if path.is_file()} == before


@pytest.mark.parametrize("inside", [".", "made", "deeper/made"])
def test_a_reconstruction_inside_the_folder_of_its_originals_is_refused(
    inside: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("DATA_DIR", str(tmp_path / "data"))
    folder = write(tmp_path / "from", "a.jpg", "b.jpg")
    before = {path: path.read_bytes() for path in folder.iterdir()}
    command = ["reconstruct", str(folder), "--k", "9", "--local", "--workers", "1", "--output", str(folder / inside)]
    command += ["--name", "other"]
    assert main(command) == 1
    assert "Expected an output folder outside of" in capsys.readouterr().err
    assert {path: path.read_bytes() for path in folder.iterdir()} == before
    refuse_inside(folder / ".hidden" / "made", folder)  # hidden folders are not part of the data set


def test_two_commands_cannot_write_to_one_folder_at_once(tmp_path: Path) -> None:
    second = claimed(tmp_path / "made", tmp_path / "from")
    with claimed(tmp_path / "made", tmp_path / "from"), pytest.raises(SpecError, match="new or empty folder"):
        second.__enter__()
    assert list((tmp_path / "made").iterdir()) == []


def test_a_run_claims_its_folder_before_anything_is_queued(settings: Settings, tmp_path: Path) -> None:
    queues = Queues(settings)
    dataset = load_dataset(write(tmp_path / "from", "a.jpg", "b.jpg"))
    spec = ReconstructSpec(dataset=dataset.name, name="made", k=3)
    taken = write(settings.reconstructed / "made", "mine.jpg")
    with pytest.raises(SpecError, match=r"with mine\.jpg"):
        queues.submit(spec, dataset)
    assert [path.name for path in taken.iterdir()] == ["mine.jpg"]
    assert queues.runs() == []
    queues.submit(spec.replace(name="free"), dataset)
    with pytest.raises(SpecError, match="whose folder is new or empty"):
        queues.submit(spec.replace(name="free", k=4), dataset)
    own = load_dataset(write(settings.reconstructed / "originals", "a.jpg"), name="elsewhere")
    with pytest.raises(SpecError, match="outside of"):
        queues.submit(spec.replace(name="originals"), own)


def test_a_refused_claim_leaves_no_files(tmp_path: Path) -> None:
    claim_output(tmp_path / "made", "reconstruct-1", tmp_path / "from")
    before = sorted((tmp_path / "made").iterdir())
    with pytest.raises(SpecError):
        claim_output(tmp_path / "made", "reconstruct-2", tmp_path / "from")
    assert sorted((tmp_path / "made").iterdir()) == before


NAMES = st.lists(
    st.builds("".join, st.lists(st.sampled_from(["a", "A", "ß", "ss", "ü", "u\u0308", ".jpg", "-2", "x/"]), min_size=1))
    .map(lambda stem: stem.strip("./") or "a")
    .map(lambda stem: "/".join(part for part in stem.split("/") if part))
    .flatmap(lambda stem: st.sampled_from([".jpg", ".JPG", ".png"]).map(lambda ending: stem + ending)),
    unique=True,
    max_size=8,
)


@given(NAMES)
def test_output_names_are_unique_on_every_file_system(paths: list[str]) -> None:
    folders = {folder.as_posix() for path in paths for folder in PurePosixPath(path).parents}
    paths = [path for path in paths if path not in folders]  # a file and a folder cannot have the same name
    names = output_names(paths, ".jpg")
    assert names.keys() == set(paths)
    assert len({merged(PurePosixPath(name)) for name in names.values()}) == len(paths)
    assert names == output_names(reversed(paths), ".jpg")
    below = {merged(folder) for path in paths for folder in PurePosixPath(path).parents}
    assert below.isdisjoint(merged(PurePosixPath(name)) for name in names.values())


def test_a_name_that_is_too_long_is_shortened_and_stays_unique() -> None:
    long = ["é" * 125 + "a.jpg", "é" * 125 + "b.jpg"]
    names = output_names(long, ".avif")
    assert len(set(names.values())) == 2
    assert all(len(name.encode()) <= LONGEST_NAME and name.endswith(".avif") for name in names.values())


@pytest.mark.parametrize("mask", [0o022, 0o027, 0o077])
def test_a_file_in_a_users_folder_follows_the_umask(mask: int, tmp_path: Path) -> None:
    former = os.umask(mask)
    try:
        write_whole(tmp_path / "made" / "a.jpg", b"picture")
    finally:
        os.umask(former)
    assert (tmp_path / "made" / "a.jpg").stat().st_mode & 0o777 == 0o666 & ~mask


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        '{"layout": "plain"}',
        '{"layout": "odd", "images": []}',
        '{"layout": "plain", "images": [{"path": 1}]}',
    ],
)
def test_a_damaged_manifest_raises_an_error_with_its_name(text: str, tmp_path: Path) -> None:
    folder = write(tmp_path / "from", "a.jpg")
    (folder / MANIFEST).write_text(text)
    with pytest.raises(DatasetError, match=MANIFEST):
        load_dataset(folder)
