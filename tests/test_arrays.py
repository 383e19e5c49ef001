"""The array of a data set's pixels, which is created only once, and its metadata as numbers."""

from __future__ import annotations

import json
import math
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from benchmarks.processes import Process
from core.data import images
from core.data.datasets import Dataset, DatasetImage, load_dataset
from core.data.training_arrays import (
    ABOUT_NAME,
    PIXELS_NAME,
    array_folder,
    fit_metadata,
    folder_bytes,
    image_array,
)
from core.errors import Cancelled, DatasetError, SpecError

ROOT = Path(__file__).resolve().parents[1]
IMAGES = 12


@pytest.fixture
def dataset(tmp_path: Path) -> Dataset:
    folder = tmp_path / "photographs"
    for number in range(IMAGES):
        suffix = ".png" if number % 2 else ".jpg"
        path = folder / ("nevus" if number < 6 else "melanoma") / f"{number:02}{suffix}"
        path.parent.mkdir(parents=True, exist_ok=True)
        pixels = np.random.default_rng(number).integers(0, 256, (20 + number, 30, 3), dtype=np.uint8)
        path.write_bytes(cv2.imencode(suffix, pixels)[1].tobytes())
    return load_dataset(folder)


def files_below(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.rglob("*") if path.is_file() and ".lock" not in path.name)


def test_every_row_is_the_decoded_bgr_image_resized_by_area(dataset: Dataset, tmp_path: Path) -> None:
    found = image_array(dataset, tmp_path / "cache", 8, 10)
    assert (found.pixels.shape, found.pixels.dtype) == ((IMAGES, 8, 10, 3), np.uint8)
    for row, record in enumerate(dataset.records):
        bgr = cv2.imread(str(dataset.root / record.path), cv2.IMREAD_COLOR)
        assert np.array_equal(found.pixels[row], cv2.resize(bgr, (10, 8), interpolation=cv2.INTER_AREA))
    assert (found.unreadable, found.left_out) == ((), ())


def test_the_array_is_mapped_read_only_and_opens_without_the_photographs(dataset: Dataset, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    made = image_array(dataset, cache, 8, 10).pixels.copy()
    shutil.rmtree(dataset.root)
    seen: list[tuple[int, int]] = []
    opened = image_array(dataset, cache, 8, 10, progress=lambda *counts: seen.append(counts)).pixels
    assert seen == []
    assert isinstance(opened, np.memmap)
    assert np.array_equal(made, opened)
    with pytest.raises(ValueError, match="read-only"):
        opened[0] = 0


def test_the_progress_of_an_array_counts_every_image(dataset: Dataset, tmp_path: Path) -> None:
    seen: list[tuple[int, int]] = []
    image_array(dataset, tmp_path / "cache", 8, 10, progress=lambda *counts: seen.append(counts))
    assert seen == [(done, IMAGES) for done in range(1, IMAGES + 1)]


def test_each_input_size_and_each_content_has_its_own_array(dataset: Dataset, tmp_path: Path) -> None:
    other = replace(dataset, records=dataset.records[1:])
    folders = {
        array_folder(which, tmp_path, height, width)
        for which in (dataset, other)
        for height, width in ((8, 10), (10, 8), (8, 8))
    }
    assert len(folders) == 6
    same_elsewhere = replace(dataset, name="copy", root=tmp_path / "elsewhere")
    assert array_folder(same_elsewhere, tmp_path, 8, 10) in folders


def test_unreadable_images_are_black_and_listed_until_they_can_be_read(dataset: Dataset, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    gone, changed = (dataset.root / dataset.records[row].path for row in (2, 7))
    kept = gone.read_bytes()
    gone.unlink()
    original = changed.read_bytes()
    changed.write_bytes((dataset.root / dataset.records[9].path).read_bytes())
    found = image_array(dataset, cache, 8, 10)
    assert found.unreadable == (2, 7)
    assert [item.name for item in found.left_out] == [dataset.records[2].path, dataset.records[7].path]
    assert "does not exist" in found.left_out[0].reason
    assert "has changed" in found.left_out[1].reason
    assert not found.pixels[[2, 7]].any()
    assert found.pixels[3].any()
    assert image_array(dataset, cache, 8, 10) == found
    gone.write_bytes(kept)
    assert image_array(dataset, cache, 8, 10).unreadable == (7,)
    changed.write_bytes(original)
    assert image_array(dataset, cache, 8, 10).unreadable == ()


def test_a_data_set_whose_folder_is_missing_gives_an_error_and_no_black_array(dataset: Dataset, tmp_path: Path) -> None:
    moved = dataset.root.rename(tmp_path / "moved")
    with pytest.raises(DatasetError, match="Expected a readable image"):
        image_array(dataset, tmp_path / "cache", 8, 10)
    assert files_below(tmp_path / "cache") == []
    assert image_array(replace(dataset, root=moved), tmp_path / "cache", 8, 10).unreadable == ()


def test_cancelling_an_array_removes_its_files_and_releases_its_lock(dataset: Dataset, tmp_path: Path) -> None:
    def cancel(done: int, total: int) -> None:
        if done == 5:
            raise Cancelled("enough")

    with pytest.raises(Cancelled):
        image_array(dataset, tmp_path / "cache", 8, 10, progress=cancel)
    assert files_below(tmp_path / "cache") == []
    assert image_array(dataset, tmp_path / "cache", 8, 10).pixels.shape[0] == IMAGES


@pytest.mark.parametrize("damaged", [PIXELS_NAME, ABOUT_NAME])
@pytest.mark.parametrize("length", [0, 60, 200])
def test_a_damaged_array_is_created_again(dataset: Dataset, tmp_path: Path, damaged: str, length: int) -> None:
    whole = image_array(dataset, tmp_path, 8, 10)
    expected = whole.pixels.copy()
    file = whole.folder / damaged
    file.write_bytes(file.read_bytes()[:length])
    assert np.array_equal(image_array(dataset, tmp_path, 8, 10).pixels, expected)


def test_a_cache_that_cannot_be_written_raises_a_readable_error(dataset: Dataset, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("no folder")
    with pytest.raises(DatasetError, match="cannot be written"):
        image_array(dataset, tmp_path / "file", 8, 10)
    with pytest.raises(DatasetError, match="MB of free space"):
        image_array(dataset, tmp_path / "cache", 10**6, 10**6)
    with pytest.raises(SpecError, match="at least 1×1"):
        image_array(dataset, tmp_path / "cache", 0, 10)


# Another process. Its arguments: the data set's folder, the cache, a file to wait for, a file for its progress.
ASKER = """
import os, signal, sys, time
from pathlib import Path
from core.data.training_arrays import image_array
from core.data.datasets import load_dataset

folder, cache, start, notes, die_at = *map(Path, sys.argv[1:5]), int(sys.argv[5])
dataset = load_dataset(folder)
notes.write_text("")
while not start.exists():
    time.sleep(0.001)

def progress(done, total):
    with notes.open("a") as file:
        print(done, file=file)
    if done == die_at:
        os.kill(os.getpid(), signal.SIGKILL)
    others = [path for path in notes.parent.glob("notes*") if path != notes]
    deadline = time.monotonic() + 30
    while done == 1 and not all(path.read_text() for path in others) and time.monotonic() < deadline:
        time.sleep(0.01)  # until the others have come to the array too

found = image_array(dataset, cache, 8, 10, progress=progress)
print(found.pixels.shape[0], int(found.pixels.sum(dtype="int64")))
"""


def ask(dataset: Dataset, tmp_path: Path, name: str, die_at: int = -1) -> subprocess.Popen[str]:
    paths = [dataset.root, tmp_path / "cache", tmp_path / "start", tmp_path / name]
    arguments = [sys.executable, "-c", ASKER, *map(str, paths), str(die_at)]
    return Process(arguments, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def start_together(tmp_path: Path, *processes: subprocess.Popen[str]) -> None:
    names = [f"notes{number}" for number in range(len(processes))]
    while not all((tmp_path / name).exists() for name in names):
        assert all(process.poll() is None for process in processes), [process.communicate() for process in processes]
        time.sleep(0.01)
    (tmp_path / "start").touch()


def test_two_processes_at_the_same_time_create_the_array_once(dataset: Dataset, tmp_path: Path) -> None:
    processes = [ask(dataset, tmp_path, f"notes{number}") for number in range(2)]
    start_together(tmp_path, *processes)
    answers = [process.communicate(timeout=60) for process in processes]
    assert [process.returncode for process in processes] == [0, 0], answers
    expected = sum(
        int(images.resize(images.decode(dataset.root / record.path), 8, 10).sum(dtype=np.int64))
        for record in dataset.records
    )
    assert {answer[0].strip() for answer in answers} == {f"{IMAGES} {expected}"}
    notes = sorted((tmp_path / f"notes{number}").read_text().split() for number in range(2))
    assert notes[1] == [str(done) for done in range(1, IMAGES + 1)]  # the process that created the array
    assert set(notes[0]) == {"0"}  # the process that waited reported it and created nothing
    assert files_below(tmp_path / "cache") == [ABOUT_NAME, PIXELS_NAME]


def test_a_killed_process_leaves_no_partial_array_and_the_next_one_creates_it(dataset: Dataset, tmp_path: Path) -> None:
    process = ask(dataset, tmp_path, "notes0", die_at=5)
    start_together(tmp_path, process)
    process.communicate(timeout=60)
    assert process.returncode == -signal.SIGKILL
    assert not array_folder(dataset, tmp_path / "cache", 8, 10).exists()
    assert len(list((tmp_path / "cache").glob("*.half"))) == 1
    assert image_array(dataset, tmp_path / "cache", 8, 10).pixels.shape[0] == IMAGES
    assert files_below(tmp_path / "cache") == [ABOUT_NAME, PIXELS_NAME]


# Metadata


def patient(age: float | None = None, sex: str | None = None, localization: str | None = None) -> DatasetImage:
    return DatasetImage("i", "i.jpg", 1, 1, 1, "0", age=age, sex=sex, localization=localization)


patients = st.builds(
    patient,
    st.one_of(st.none(), st.floats(0, 120)),
    st.sampled_from([None, "male", "female"]),
    st.sampled_from([None, "back", "face", "scalp"]),
)


def test_a_missing_age_becomes_the_training_median_and_codes_are_alphabetical() -> None:
    training = [patient(20, "male", "back"), patient(30, "female", "face"), patient(70, "male"), patient(None, None)]
    encoding = fit_metadata(training)
    mean = (20 + 30 + 70 + 30) / 4
    deviation = math.sqrt(sum((age - mean) ** 2 for age in (20, 30, 70, 30)) / 4)
    standardised = [(age - mean) / deviation for age in (20, 30, 70, 30)]
    expected = np.column_stack([standardised, [2, 1, 2, 0], [1, 2, 0, 0]])
    encoded = encoding.encode(training)
    assert (encoded.shape, encoded.dtype) == ((4, 3), np.float32)
    np.testing.assert_allclose(encoded, expected, rtol=1e-6)
    assert encoding.sentence is None


def test_values_that_are_not_in_the_training_data_are_unknown() -> None:
    encoding = fit_metadata([patient(40, "male", "back"), patient(60, "male", "face")])
    assert encoding.encode([patient(80, "female", "scalp")]).tolist() == [[3.0, 0.0, 0.0]]


def test_without_metadata_every_image_gets_the_mean_age_and_unknown_codes_and_a_sentence() -> None:
    encoding = fit_metadata([patient(), patient()])
    assert encoding.encode([patient(), patient(33, "male", "back")]).tolist() == [[0, 0, 0], [0, 0, 0]]
    assert encoding.sentence == (
        "No training image has age or sex or localization:"
        " the network gets the mean age, or the code for unknown, instead."
    )
    assert fit_metadata([patient(sex="male")]).unknown_features == ("age", "localization")
    assert fit_metadata([]).encode([]).shape == (0, 3)


def test_equal_ages_are_encoded_as_finite_numbers() -> None:
    assert fit_metadata([patient(50), patient(50)]).encode([patient(50), patient(51)])[:, 0].tolist() == [0.0, 1.0]


@settings(deadline=None)
@example([patient(0.0), patient(3.6e-61)], [patient(1.0)])
@given(st.lists(patients, min_size=1, max_size=40), st.lists(patients, max_size=10))
def test_an_encoding_can_be_stored_as_json_and_standardises_the_training_ages(
    training: list[DatasetImage], others: list[DatasetImage]
) -> None:
    encoding = fit_metadata(training)
    assert json.loads(json.dumps(encoding.to_dict())) == encoding.to_dict()
    assert np.isfinite(encoding.encode(others)).all()
    ages = encoding.encode(training)[:, 0]
    assert np.isfinite(ages).all()
    assert abs(ages.mean()) < 1e-3
    assert ages.std() == pytest.approx(1, abs=1e-3) or np.ptp(ages) < 1e-3


def touched(folder: Path, seconds: float) -> None:
    os.utime(folder / ABOUT_NAME, (seconds, seconds))


def test_the_least_recently_used_arrays_are_removed_for_a_new_one(dataset: Dataset, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    sizes = [(8, width) for width in (10, 11, 12)]
    folders = []
    for number, (height, width) in enumerate(sizes):
        folders.append(image_array(dataset, cache, height, width).folder)
        touched(folders[-1], 1000 + number)
    image_array(dataset, cache, *sizes[0])  # used again, so the second is now the least recently used
    room = sum(folder_bytes(folder) for folder in folders)
    new = image_array(dataset, cache, 8, 9, limit=room)
    assert [folder.exists() for folder in folders] == [True, False, True]
    assert new.folder.exists()
    assert image_array(dataset, cache, *sizes[1]).pixels.shape[2] == 11  # created again


def test_an_array_in_use_is_never_removed(dataset: Dataset, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    used = image_array(dataset, cache, 8, 10)
    idle = image_array(dataset, cache, 8, 11).folder
    code = (
        "import sys; from pathlib import Path; from core.data.training_arrays import mapped, PIXELS_NAME\n"
        "pixels = mapped(Path(sys.argv[1]) / PIXELS_NAME); print(pixels.shape[0], flush=True); sys.stdin.read()"
    )
    command = [sys.executable, "-c", code, str(used.folder)]
    del used
    with Process(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == f"{IMAGES}\n"
        folder = array_folder(dataset, cache, 8, 10)
        touched(folder, 1000)
        new = image_array(dataset, cache, 8, 12, limit=0)
        assert (folder.exists(), idle.exists(), new.folder.exists()) == (True, False, True)
        other.communicate("")
    del new
    image_array(dataset, cache, 8, 13, limit=0)
    assert not folder.exists()
