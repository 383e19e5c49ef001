"""Diagnoses of stored images from submission to recorded rows, with real workers."""

from __future__ import annotations

import shlex
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pandas as pd
import pytest
from laboratory import wait_for, workers, write_lesions

from core.compression.image_results import ORIGINAL
from core.compression.specs import DiagnosisSpec, SweepSpec, variants
from core.data.datasets import Dataset
from core.data.splits import Targets
from core.errors import SpecError
from core.networks.architectures import LENET5
from core.predictions.rows import PROBABILITIES
from core.runs import Run
from core.settings import Settings
from core.store.upkeep import delete_run, run_rows
from core.training.specs import Baseline, TrainingProtocol, TrainSpec
from jobs.__main__ import main
from jobs.live_runs import LiveRun
from jobs.queues import Queues

pytestmark = pytest.mark.timeout(600)

TEST_IMAGES = 16
WAYS: dict[str, Any] = {
    "ks": (2, 40),
    "codecs": ("png", "jpeg"),
    "qualities": (30,),
    "rivals": (("jpeg", 30), ("png", None)),
}


def ended(queues: Queues, run_id: str, seconds: float = 300) -> Run:
    wait_for(lambda: (state := queues.run(run_id)) is not None and state.ended, seconds)
    wait_for(lambda: queues.messages_waiting() == 0, 60)
    run = queues.run(run_id)
    assert run is not None
    return run


def registered(queues: Queues, folder: Path) -> Dataset:
    dataset = queues.resolve(str(folder))
    queues.register(dataset)
    wait_for(lambda: queues.store.dataset(dataset.name) == dataset, 60)
    return dataset


@pytest.fixture(scope="module")
def lab(valkey_server: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Queues]:
    """Give queues with a worker of each kind."""
    folder = tmp_path_factory.mktemp("lab")
    settings = Settings(folder / "data", (folder,), given_redis_url=valkey_server.replace("?db=0", "?db=6"))
    settings.data_dir.mkdir()
    with workers(settings, "record", "svd", "train"):
        yield Queues(settings)


def write_ham(folder: Path) -> Path:
    """Write the lesions as HAM10000 has them: a folder of images, negatives, and a table with ages, sexes and sites."""
    drawn = write_lesions(folder.with_name("drawn"))
    rows = ["lesion_id,image_id,dx,dx_type,age,sex,localization"]
    generator = np.random.default_rng(5)
    for label, dx in (("melanoma", "mel"), ("nevus", "nv"), ("non_melanoma", "bcc"), ("negative", None)):
        place = folder / ("images" if dx else "negatives")
        place.mkdir(parents=True, exist_ok=True)
        for number, path in enumerate(sorted((drawn / label).iterdir())):
            path.rename(place / path.name)
            if dx:
                sex, site = generator.choice(["male", "female"]), generator.choice(["back", "face", "scalp"])
                age = generator.integers(20, 90)
                rows.append(f"{dx}{number // 2},{path.stem},{dx},histo,{age},{sex},{site}")
    (folder / "HAM10000_metadata.csv").write_text("\n".join(rows) + "\n")
    return folder


@pytest.fixture(scope="module")
def lesions(lab: Queues) -> Dataset:
    return registered(lab, write_ham(lab.settings.data_roots[0] / "lesions"))


@pytest.fixture(scope="module")
def trained(lab: Queues, lesions: Dataset) -> str:
    """Give the id of a finished training run."""
    spec = TrainSpec(
        dataset=lesions.name,
        network=LENET5,
        training=TrainingProtocol(epochs=4, batch_size=8, height=24, width=32, learning_rate=0.05),
        targets=Targets(train=64, validation=16, test=TEST_IMAGES),
        baseline=Baseline(train_accuracy=0, train_precision=0, validation_accuracy=0, validation_precision=0),
    )
    state = ended(lab, lab.submit(spec, lesions).run_id)
    assert state.status == "finished", state.error
    return state.id


def diagnosed(lab: Queues, spec: DiagnosisSpec, dataset: Dataset) -> Run:
    return ended(lab, lab.submit(spec, dataset, again=True).run_id)


def test_the_originals_have_the_predictions_of_the_training_run_and_every_way_has_a_row(
    lab: Queues, lesions: Dataset, trained: str
) -> None:
    spec = DiagnosisSpec(dataset=lesions.name, run=trained, **WAYS)
    state = diagnosed(lab, spec, lesions)
    assert (state.status, state.done, state.failed, state.total) == ("finished", TEST_IMAGES, 0, TEST_IMAGES)
    rows = lab.store.diagnoses(state.id)
    assert len(rows) == TEST_IMAGES * (1 + len(variants(spec)))
    test = lab.store.predictions([trained], split="test").sort_values("image_id", ignore_index=True)
    assert test["lesion_id"].nunique() > 3
    own = rows[rows["variant"] == ORIGINAL].reset_index(drop=True)
    same = ["image_id", "lesion_id", "label", "predicted"]
    pd.testing.assert_frame_equal(own[same], test[same])
    np.testing.assert_allclose(own[list(PROBABILITIES)], test[list(PROBABILITIES)], atol=1e-6)
    for name in ("k=40 png", "png"):
        same = rows[rows["variant"] == name][[*PROBABILITIES, "predicted"]].reset_index(drop=True)
        pd.testing.assert_frame_equal(same, own[[*PROBABILITIES, "predicted"]])
    lossy = rows[rows["variant"] == "k=2 jpeg 30"][list(PROBABILITIES)].to_numpy()
    assert np.abs(lossy - own[list(PROBABILITIES)].to_numpy()).max() > 1e-3
    run = lab.store.run(state.id)
    assert run is not None
    assert run.command.startswith(f"python -m jobs diagnosis {trained} {lesions.name} --seed 1 --step 0 --split test")
    assert "train-" in run.workers


def test_the_bytes_of_a_way_are_those_of_a_sweep(lab: Queues, lesions: Dataset, trained: str) -> None:
    spec = DiagnosisSpec(dataset=lesions.name, run=trained, **WAYS)
    rows = lab.store.diagnoses(diagnosed(lab, spec, lesions).id)
    sweep = SweepSpec(dataset=lesions.name, ks=(2, 40), codec="jpeg", quality=30)
    measured = lab.store.measurements(ended(lab, lab.submit(sweep, lesions).run_id).id)
    for k in sweep.ks:
        own = rows[rows["variant"] == f"k={k} jpeg 30"].set_index("image_id")
        of_sweep = measured[measured["k"] == k].set_index("image_id").loc[own.index]
        assert own["bytes"].tolist() == of_sweep["stored_bytes"].tolist()
        np.testing.assert_array_equal(own[["psnr", "ssim"]], of_sweep[["psnr", "ssim"]])
    sizes = {record.image_id: record.bytes for record in lesions.records}
    original = rows[rows["variant"] == ORIGINAL]
    assert original["bytes"].tolist() == [sizes[image] for image in original["image_id"]]


def test_one_chunk_and_several_give_the_same_rows(
    lab: Queues, lesions: Dataset, trained: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = DiagnosisSpec(dataset=lesions.name, run=trained, **WAYS)
    found = []
    for chunks in (1, 5):
        monkeypatch.setattr("jobs.run_kinds.DIAGNOSIS_CHUNKS", chunks)
        state = diagnosed(lab, spec, lesions)
        with lab.connected() as connection:
            assert len(LiveRun(connection, state.id).job_ids()) >= chunks
        found.append(lab.store.diagnoses(state.id))
    pd.testing.assert_frame_equal(*found, check_exact=True)


def test_the_same_images_at_another_size_have_the_labels_and_lesions_of_the_training_run(
    lab: Queues, lesions: Dataset, trained: str
) -> None:
    folder = lab.settings.data_roots[0] / "larger"
    for record in lesions.records:
        image = cv2.imread(str(lesions.root / record.path))
        (folder / record.path).parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(folder / record.path), cv2.resize(image, (112, 80), interpolation=cv2.INTER_CUBIC))
    larger = registered(lab, folder)
    spec = DiagnosisSpec(dataset=larger.name, run=trained, image_split="validation", sample_size=5, **WAYS)
    state = diagnosed(lab, spec, larger)
    rows = lab.store.diagnoses(state.id)
    assert rows["image_id"].nunique() == state.done == 5
    known = lab.store.predictions([trained], split="validation").set_index("image_id").loc[rows["image_id"]]
    for column in ("label", "lesion_id"):  # the folder has other labels, and no table
        pd.testing.assert_series_equal(rows.set_index("image_id")[column], known[column])
    heights = lab.store.measurements(state.id)["height"]
    assert set(heights) == {80}


def test_a_diagnosis_that_cannot_be_made_is_refused_with_what_was_expected(
    lab: Queues, lesions: Dataset, trained: str, tmp_path: Path
) -> None:
    spec = DiagnosisSpec(dataset=lesions.name, run=trained, **WAYS)
    folder = lab.settings.data_roots[0] / "partial"
    shutil.copytree(lesions.root / "negatives", folder / "negative")
    partial = registered(lab, folder)
    cases = [
        (spec.replace(run="train-9"), lesions, "Expected a training run that is in the store, got train-9."),
        (spec.replace(step=3), lesions, f"Expected a step of {trained} with predictions of test images, got step 3"),
        (spec.replace(dataset="partial"), partial, f"Expected the 16 test images of {trained} in partial, got 4 of th"),
        (spec.replace(ks=(41,)), lesions, "Expected k of at most 40, the rank of the largest image of lesions, got 41"),
        (spec.replace(sample_size=17), lesions, "Expected a sample of 1 to 16 images of 'lesions', got 17."),
    ]
    for asked, dataset, sentence in cases:
        with pytest.raises(SpecError) as refused:
            lab.submit(asked, dataset)
        assert str(refused.value).startswith(sentence)


def test_a_worker_without_the_weights_gives_the_images_up_with_that_reason(
    lab: Queues, lesions: Dataset, trained: str
) -> None:
    kept = lab.settings.trained / trained
    away = kept.rename(kept.with_name("away"))
    try:
        state = diagnosed(lab, DiagnosisSpec(dataset=lesions.name, run=trained, **WAYS), lesions)
    finally:
        away.rename(kept)
    assert state.status == "failed"
    assert f"Expected the weights of every step in {kept}, got none of 0.keras" in str(state.error)
    weights = kept / "0.keras"
    whole = weights.read_bytes()
    weights.write_bytes(whole[:100])
    try:
        damaged = diagnosed(lab, DiagnosisSpec(dataset=lesions.name, run=trained, **WAYS), lesions)
    finally:
        weights.write_bytes(whole)
    assert f"Expected a network of Keras in {weights}, got: " in str(damaged.error)
    lab.retry(damaged.id)
    again = ended(lab, damaged.id)
    assert (again.status, again.done, again.failed) == ("finished", TEST_IMAGES, 0)
    assert len(lab.store.diagnoses(again.id)) == TEST_IMAGES * 7


def test_a_cancelled_diagnosis_is_completed_by_a_retry_without_doubles(
    lab: Queues, lesions: Dataset, trained: str
) -> None:
    spec = DiagnosisSpec(dataset=lesions.name, run=trained, **WAYS)
    run_id = lab.submit(spec, lesions, again=True).run_id
    lab.cancel(run_id)
    assert ended(lab, run_id).status == "cancelled"
    lab.retry(run_id)
    assert ended(lab, run_id).status == "finished"
    rows = lab.store.diagnoses(run_id)
    assert len(rows) == len(rows[["image_id", "variant"]].drop_duplicates()) == TEST_IMAGES * 7


def test_the_command_waits_prints_what_each_way_changes_and_exports_its_rows(
    lab: Queues, lesions: Dataset, trained: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    monkeypatch.setenv("DATA_DIR", str(lab.settings.data_dir))
    monkeypatch.setenv("DATA_ROOTS", str(lab.settings.data_roots[0]))
    monkeypatch.setenv("REDIS_URL", str(lab.settings.redis_url))
    path = tmp_path / "rows.csv"
    told = ["--k=2,7", "--codecs=jpeg", "--qualities=30,60", "--rivals=webp:20,png", f"--export={path}"]
    assert main(["diagnosis", trained, *told]) == 0
    run_id, *sentences = capsys.readouterr().out.splitlines()
    assert [text.partition(" at ")[0] for text in sentences] == [
        *(f"k = {k} as JPEG {quality}" for quality in (30, 60) for k in (2, 7)), "WebP 20", "PNG",
    ]  # fmt: skip
    assert sentences[-1].count("100.0 % [100.0, 100.0] of the predictions stay") == 1
    pd.testing.assert_frame_equal(pd.read_csv(path)[["image_id", "variant", "predicted"]],
                                  lab.store.diagnoses(run_id)[["image_id", "variant", "predicted"]])  # fmt: skip
    assert main(["diagnosis", run_id]) == 0
    assert capsys.readouterr().out.splitlines() == [f"- {text}" for text in sentences]
    table = tmp_path / "ways.csv"
    assert main(["export", run_id, "--table", "ways", "--output", str(table)]) == 0
    assert pd.read_csv(table)["variant"].tolist()[:2] == [ORIGINAL, "k=2 jpeg 30"]
    run = lab.store.run(run_id)
    assert run is not None
    capsys.readouterr()
    assert main(shlex.split(str(run.command))[3:]) == 0
    again = capsys.readouterr()
    assert again.out.split() == [run_id]
    assert "does the same on the same images" in again.err
    assert main(["diagnosis", "train-9"]) == 1
    assert "Expected a training run that is in the store, got train-9." in capsys.readouterr().err


def test_a_deleted_diagnosis_leaves_no_rows(lab: Queues, lesions: Dataset, trained: str) -> None:
    state = diagnosed(lab, DiagnosisSpec(dataset=lesions.name, run=trained, **WAYS), lesions)
    assert run_rows(lab.store, [state.id])[state.id] > TEST_IMAGES * 7 * 2
    assert delete_run(lab.store, state.id, state.attempt)
    assert run_rows(lab.store, [state.id]) == {}
    assert lab.store.diagnoses(state.id).empty
