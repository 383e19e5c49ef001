"""Converted networks give what Keras gives, also in a program that knows neither Keras nor DermSlim."""

from __future__ import annotations

import hashlib
import json
import re
import sys
import venv
import zipfile
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from datetime import UTC, datetime
from importlib.metadata import distribution
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from laboratory import wait_for, workers, write_lesions
from packaging.requirements import Requirement
from pages import opener, text
from recorded import conversion, latency, record_training

from benchmarks.processes import run_command
from core.data.images import resize
from core.data.splits import Targets
from core.deployment.conversion import equalise
from core.deployment.formats import FORMATS, file_name
from core.deployment.latency import NetworkFile, Predictor, latencies
from core.deployment.occlusion import occlusion_map
from core.deployment.predict import pixels, shares
from core.deployment.runtimes import RuntimeMissing, classifier
from core.deployment.verification import calibration_rows, verified
from core.errors import DermSlimError, SpecError
from core.networks.architectures import CLASSES, LENET5, NETWORKS
from core.networks.batch_norm import ALL, with_batch_norm
from core.networks.keras_models import build_model
from core.predictions.intervals import intervals
from core.predictions.rows import PROBABILITIES
from core.settings import Settings, usable_cores
from core.store.measurements import Store
from core.training.specs import TrainingProtocol, TrainSpec
from dashboard import demo
from jobs import deployment
from jobs.__main__ import main
from jobs.later_jobs import CONVERT, under_way
from jobs.queues import Queues

pytestmark = pytest.mark.timeout(900)  # each start of Keras takes half a minute on a busy machine

Array = np.ndarray[Any, np.dtype[Any]]
CONVERTED = ("litert-float32", "litert-int8", "onnx-float32")
SIZE = (24, 32)


# A run, converted


@pytest.fixture(scope="module")
def lab(valkey_server: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Queues]:
    """Give queues whose `train` worker trains with Keras, and a finished run of lenet5."""
    folder = tmp_path_factory.mktemp("deployment")
    images = write_lesions(folder / "lesions", height=61, width=83)
    lab_settings = Settings(folder / "data", (folder,), given_redis_url=valkey_server.replace("?db=0", "?db=6"))
    lab_settings.data_dir.mkdir()
    with workers(lab_settings, "record", "train", keras=True):
        queues = Queues(lab_settings)
        dataset = queues.resolve(str(images))
        queues.register(dataset)
        wait_for(lambda: queues.store.dataset(dataset.name) == dataset, 60)
        training = TrainingProtocol(epochs=2, batch_size=8, height=SIZE[0], width=SIZE[1], learning_rate=0.0005)
        targets = Targets(train=48, validation=16, test=16)
        spec = TrainSpec(dataset=dataset.name, network=LENET5, training=training, targets=targets)
        *_, run = queues.wait(queues.submit(spec, dataset).run_id)
        assert run.status == "finished", run.error
        yield queues


@pytest.fixture
def command(lab: Queues, monkeypatch: pytest.MonkeyPatch) -> str:
    """Let commands find the queues; give the id of the run."""
    monkeypatch.setenv("DATA_DIR", str(lab.settings.data_dir))
    monkeypatch.setenv("DATA_ROOTS", str(lab.settings.data_roots[0]))
    monkeypatch.setenv("REDIS_URL", str(lab.settings.redis_url))
    (run,) = lab.runs()
    return run.id


def folder_of(queues: Queues, run_id: str) -> Path:
    return queues.settings.trained / run_id


@pytest.fixture
def converted(lab: Queues, command: str, capsys: pytest.CaptureFixture[str]) -> str:
    """Give the id of the run once its network has been converted to the formats `CONVERTED`."""
    if not lab.store.converted(command):
        code = main(["convert", command, *(word for name in CONVERTED for word in ("--format", name))])
        told = capsys.readouterr().out.splitlines()
        assert [line.split(":")[0] for line in told] == [f"step 0, {FORMATS[name].title}" for name in CONVERTED]
        assert code == (1 if any("Flawed" in line for line in told) else 0)
    return command


@pytest.mark.slow
def test_a_conversion_gives_the_probabilities_that_the_training_recorded(lab: Queues, converted: str) -> None:
    rows = lab.store.predictions([converted], step=0, split="test")
    found = {each.format: each for each in lab.store.converted(converted)}
    assert set(found) == set(CONVERTED)
    labels = np.array([CLASSES.index(label) for label in rows["label"]])
    for name in ("litert-float32", "onnx-float32"):
        each = found[name]
        assert (each.flaw, each.images, each.same_class) == ("", 16, 16)
        assert each.largest_difference is not None
        assert each.largest_difference < 1e-4
        accuracy = 100 * (rows["predicted"] == rows["label"]).mean()
        assert each.accuracy == pytest.approx(accuracy)
        limits = intervals(rows[list(PROBABILITIES)].to_numpy(float), labels, [f"image {i}" for i in rows["image_id"]])
        assert (each.accuracy_low, each.accuracy_high) == pytest.approx(limits["accuracy"])
    assert found["litert-int8"].calibration_images == 48  # all training images, each once


def test_a_converted_file_is_the_one_that_is_recorded(lab: Queues, converted: str) -> None:
    for each in lab.store.converted(converted):
        path = folder_of(lab, converted) / file_name(each.step, each.format)
        assert (each.bytes, each.sha256) == (path.stat().st_size, hashlib.sha256(path.read_bytes()).hexdigest())
    sizes = {each.format: each.bytes or 0 for each in lab.store.converted(converted)}
    assert sizes["litert-int8"] < 0.4 * sizes["litert-float32"]


def python_with(folder: Path, *packages: str) -> Path:
    """Make an environment with these installed packages and what they require, and nothing else; return its Python."""
    venv.create(folder, symlinks=True)
    (place,) = (folder / "lib").glob("python*/site-packages")
    wanted, done = list(packages), set()
    while wanted:
        name = wanted.pop()
        if name in done:
            continue
        done.add(name)
        found = distribution(name)
        for top in {file.parts[0] for file in found.files or ()} - {"..", "__pycache__"}:
            with suppress(FileExistsError):  # of a namespace that two packages share
                (place / top).symlink_to(str(found.locate_file(top)))
        needed = [Requirement(each) for each in found.requires or ()]
        wanted += [each.name for each in needed if each.marker is None or each.marker.evaluate({"extra": ""})]
    return folder / "bin" / "python"


@pytest.mark.parametrize(
    ("runtime", "network"),
    [("ai-edge-litert", "litert-float32.tflite"), ("onnxruntime", "onnx-float32.onnx")],
)
def test_the_program_in_the_bundle_prints_the_recorded_probabilities_in_an_environment_of_its_own(
    lab: Queues, converted: str, tmp_path: Path, runtime: str, network: str
) -> None:
    bundle = tmp_path / "network.zip"
    assert main(["bundle", converted, "--output", str(bundle)]) == 0
    with zipfile.ZipFile(bundle) as archive:
        archive.extractall(tmp_path / "bundle")
    python = python_with(tmp_path / "environment", runtime, "numpy", "pillow")
    for absent in ("tensorflow", "cv2", "core"):
        assert run_command([python, "-c", f"import {absent}"], cwd=tmp_path, capture_output=True).returncode == 1
    rows = lab.store.predictions([converted], step=0, split="test")
    dataset = lab.dataset_of(lab.runs()[0])
    files = {record.image_id: dataset.root / record.path for record in dataset.records}
    for row in rows.iloc[:3].to_dict("records"):
        command = [python, "predict.py", str(files[row["image_id"]]), "--network", network]
        done = run_command(command, cwd=tmp_path / "bundle", capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        told = dict(line.split() for line in done.stdout.splitlines())
        for label in CLASSES:
            assert float(told[label]) == pytest.approx(row[f"p_{label}"], abs=1e-4)


def test_the_program_in_the_bundle_has_at_most_sixty_lines_and_refuses_small_images(
    converted: str, tmp_path: Path
) -> None:
    assert main(["bundle", converted, "--output", str(tmp_path / "network.zip")]) == 0
    with zipfile.ZipFile(tmp_path / "network.zip") as archive:
        archive.extractall(tmp_path)
    assert len((tmp_path / "predict.py").read_text().splitlines()) <= 60
    cv2.imwrite(str(tmp_path / "small.png"), np.zeros((20, 40, 3), np.uint8))
    done = run_command([sys.executable, "predict.py", "small.png"], cwd=tmp_path, capture_output=True, text=True)
    assert (done.returncode, done.stderr.strip()) == (1, "Expected at least 24x32 pixels, got 20x40.")


def test_the_model_card_says_what_the_store_says(lab: Queues, converted: str) -> None:
    bundle = deployment.bundle_of(lab, converted)
    card = bundle.card()
    (step,) = lab.store.step_results(converted)
    assert "no medical device" in card
    assert f"{step.figures['test_accuracy']:.1f} % [" in card
    assert f"with {step.parameters:,} parameters" in card
    for each in lab.store.converted(converted):
        assert f"| {each.bytes:,} | {each.agreement_text} |" in card
    about = bundle.about(["a"])
    assert (about["height"], about["width"], about["classes"]) == (*SIZE, list(CLASSES))
    assert about["mean_age"] == lab.store.metadata_encoding(converted)["mean_age"]  # type: ignore[index]


def test_latencies_are_measured_with_one_thread_and_with_all(
    lab: Queues, converted: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["latency", converted, "--rounds", "3"]) == 0
    found = lab.store.measured_latencies(converted)
    threads = sorted({1, usable_cores()})
    assert [(each.format, each.threads) for each in found] == [(name, count) for name in CONVERTED for count in threads]
    for each in found:
        assert each.rounds == 3
        assert 0 < each.wall_median <= each.wall_p95
        assert each.peak_memory > sum(path.stat().st_size for path in folder_of(lab, converted).glob("0-litert-int8*"))
    assert f"{len(found)}" == str(len(re.findall("median", capsys.readouterr().out)))


def test_what_cannot_be_converted_is_refused_with_a_sentence(lab: Queues, converted: str, tmp_path: Path) -> None:
    with pytest.raises(SpecError, match=r"Expected trained steps of .*: 0; got 4"):
        deployment.submit_conversion(lab, converted, [4])
    with pytest.raises(SpecError, match=r"Expected formats among litert-float32, .*, got gif"):
        deployment.submit_conversion(lab, converted, [0], ["gif"])
    with pytest.raises(SpecError, match="Expected at least 1 round, got 0"):
        deployment.submit_latency(lab, converted, 0)
    with pytest.raises(SpecError, match="Expected a training run that is in the store, got none-such"):
        deployment.submit_conversion(lab, "none-such")


def test_the_inspector_shows_the_recorded_probabilities_and_where_the_network_looks(
    lab: Queues, converted: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    row = lab.store.predictions([converted], step=0, split="test").iloc[0]
    open_page = opener(monkeypatch, lab.settings.data_dir, str(lab.settings.redis_url), "inspector")
    page = open_page(dataset="lesions", image=row["image_id"], k="5", codec="PNG", occlusion="true")
    (answers,) = (each.value for each in page.dataframe if "Class" in each.value)
    assert answers["Image"].tolist() == ["the original", "k = 5, PNG"]
    assert answers["Class"].iloc[0] == row["predicted"].replace("_", "-")
    for label in CLASSES:
        assert answers[label.replace("_", "-")].iloc[0] == f"{100 * row[f'p_{label}']:.1f} %"
    assert "what the network relies on" in text(page)


@pytest.mark.slow
def test_the_demo_converts_its_networks_once_they_are_trained(
    lab: Queues, converted: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """To two formats instead of all, because each conversion starts TensorFlow in a process of its own."""
    monkeypatch.setattr(demo, "CONVERTED", (("litert-float32",), ("litert-float16",)))
    with lab.store.transaction() as connection:  # as after the training
        connection.execute("DELETE FROM conversions")
        connection.execute("DELETE FROM latencies")
    demo.convert_networks(lab, converted, pause=0.2)
    wait_for(lambda: lab.store.measured_latencies(converted), 120)
    assert {each.format for each in lab.store.converted(converted) if not each.flaw} >= {
        "litert-float32",
        "litert-float16",
    }
    known = lab.store.conversions([converted])["converted_at"].tolist()
    demo.convert_networks(lab, converted, pause=0.2)
    with lab.connected() as connection:
        assert not under_way(connection, CONVERT, converted)
    assert lab.store.conversions([converted])["converted_at"].tolist() == known


# Where a network looks


def test_an_occlusion_map_is_high_only_where_the_network_looks() -> None:
    """The network knows only the brightness of the top left quarter."""
    image = np.full((40, 60, 3), 50, np.uint8)
    image[5:15, 5:25] = 250

    def predict(images: Array, metadata: Array) -> Array:
        bright = images[:, :20, :30].mean(axis=(1, 2, 3)) / 255
        return np.stack([bright, 0.1 + 0 * bright, 0 * bright, 0 * bright], axis=1).astype(np.float32)

    found = occlusion_map(predict, image, np.zeros(3, np.float32))
    assert found.shape == (40, 60)
    assert found[5:15, 5:25].min() > 0.01
    assert np.abs(found[28:, 40:]).max() < 1e-6  # no patch there reaches the quarter
    assert np.unravel_index(found.argmax(), found.shape)[0] < 20


def test_an_occlusion_map_is_the_mean_drop_over_the_patches_that_cover_a_pixel() -> None:
    generator = np.random.default_rng(3)
    image, weights = generator.integers(0, 256, (10, 15, 3), dtype=np.uint8), generator.normal(size=(10, 15, 3, 4))

    def predict(images: Array, metadata: Array) -> Array:
        return np.tensordot(images / 255, weights, 3).astype(np.float32)

    found, label = occlusion_map(predict, image, np.zeros(3, np.float32)), int(predict(image[None], image)[0].argmax())
    colour = np.rint(image.mean(axis=(0, 1)))
    for row, column in ((0, 0), (4, 7), (9, 14)):
        drops = []
        for top in range(-1, 10):  # patches of 2×2, one pixel apart
            for left in range(-1, 15):
                if top <= row < top + 2 and left <= column < left + 2:
                    rows, columns = slice(max(top, 0), top + 2), slice(max(left, 0), left + 2)
                    changed = (image[rows, columns] - colour) / 255
                    drops.append((changed * weights[rows, columns, :, label]).sum())
        assert found[row, column] == pytest.approx(np.mean(drops), abs=1e-5)


def test_a_map_does_not_change_where_the_image_has_one_colour() -> None:
    image = np.full((12, 12, 3), 90, np.uint8)
    found = occlusion_map(lambda images, metadata: np.tensordot(images, np.ones((12, 12, 3, 4)), 3), image, np.zeros(3))
    assert not found.any()


# Files and runtimes


def test_a_file_that_is_no_network_is_refused_with_a_sentence(tmp_path: Path) -> None:
    for name in ("litert-float32", "onnx-float32"):
        path = tmp_path / file_name(0, name)
        path.write_bytes(b"no network")
        with pytest.raises(RuntimeMissing, match=f"Expected {re.escape(str(path))} to be a network for"):
            classifier(path, name)
        with pytest.raises(DermSlimError, match=f"Expected {re.escape(str(path))} to be a network for"):
            latencies([NetworkFile(0, name, path, *SIZE)], rounds=1)


def test_a_missing_runtime_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ai_edge_litert.interpreter", None)
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    for name, wanted in (("litert-float32", "ai-edge-litert"), ("onnx-float32", "onnxruntime")):
        with pytest.raises(RuntimeMissing, match=f"install {wanted}"):
            classifier(tmp_path / file_name(0, name), name)


@settings(deadline=None)
@given(st.integers(1, 60), st.integers(1, 60), st.integers(0, 9), st.integers(0, 9), st.integers(0, 2**32 - 1))
def test_the_bundle_s_resizing_is_opencv_s_area_interpolation(
    height: int, width: int, more_rows: int, more_columns: int, seed: int
) -> None:
    image = np.random.default_rng(seed).integers(0, 256, (height + more_rows, width + more_columns, 3), dtype=np.uint8)
    down, across = shares(height + more_rows, height), shares(width + more_columns, width)
    assert np.allclose(down.sum(axis=1), 1)
    found = np.einsum("yh,hwc,xw->yxc", down, image, across)
    expected = cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA)
    assert np.abs(found - expected).max() <= 0.5 + 1e-3  # OpenCV rounds


@pytest.mark.parametrize("name", ["lenet5", "custom1", "custom2"])
def test_a_network_gives_the_same_once_its_deviations_have_moved(name: str) -> None:
    """With units that are always 0 and units of the order of 10⁵, as in trained networks with batch normalisation."""
    model = build_model(with_batch_norm(NETWORKS[name], ALL), 75, 100)
    generator = np.random.default_rng(2)
    norms = [layer for layer in model.layers if type(layer).__name__ == "BatchNormalization"]
    for norm in norms:
        units = norm.get_weights()[0].shape
        spread = np.where(generator.random(units) < 0.3, 0, 10 ** generator.uniform(-2, 4, units))
        norm.set_weights([generator.normal(1, 0.3, units), generator.normal(0, 0.3, units), spread / 2, spread**2])
    inputs = {
        "image": generator.integers(0, 256, (4, 75, 100, 3)).astype(np.float32),
        "metadata": generator.normal(size=(4, 3)).astype(np.float32),
    }
    before, weights = model.predict_on_batch(inputs), [norm.get_weights()[3].copy() for norm in norms]
    equalise(model)
    assert np.abs(model.predict_on_batch(inputs) - before).max() < 1e-5
    moved = [not np.array_equal(norm.get_weights()[3], old) for norm, old in zip(norms, weights, strict=True)]
    assert sum(moved) >= 4, "deviations were moved"


@pytest.mark.parametrize(("height", "width"), [(75, 100), (150, 200), (450, 600), (157, 211), (150, 300)])
def test_the_bundle_prepares_a_photograph_as_the_training_does(tmp_path: Path, height: int, width: int) -> None:
    photo = np.random.default_rng(1).integers(0, 256, (height, width, 3), dtype=np.uint8)
    cv2.imwrite(str(tmp_path / "photo.png"), photo)
    apart = np.abs(pixels(tmp_path / "photo.png", 75, 100)[0] - resize(photo, 75, 100).astype(int))
    assert apart.max() <= (0 if height % 75 == width % 100 == 0 and height <= 150 and width <= 200 else 1)
    assert (apart > 0).mean() < 0.02  # halves, which 32-bit and 64-bit numbers round differently


# What is recorded of them


def test_each_format_is_flagged_below_what_it_must_keep() -> None:
    assert conversion().flaw == ""
    assert "99.50 %" in conversion(same_class=199).flaw
    assert "difference of 2.0e-04" in conversion(largest_difference=2e-4).flaw
    assert conversion(format="litert-float16", same_class=198, largest_difference=0.1).flaw == ""
    assert "98.50 %" in conversion(format="litert-float16", same_class=197).flaw
    assert conversion(format="litert-int8", same_class=194).flaw == ""
    assert "at least 97 %" in conversion(format="litert-int8", same_class=193).flaw
    assert conversion(failure="It broke.").flaw == "It broke."
    assert "no test images" in conversion(images=0, same_class=None, largest_difference=None).flaw


def test_calibration_takes_the_classes_in_turn() -> None:
    labels = np.array([0] * 50 + [1] * 3 + [2] * 50 + [-1] * 10)
    rows = tuple(range(0, 103))
    found = calibration_rows(labels, rows, 21)
    assert Counter(labels[found].tolist()) == {0: 9, 1: 3, 2: 9}
    assert sorted(set(found.tolist())) == found.tolist()
    assert len(calibration_rows(labels, rows, 1000)) == 103


def test_agreement_and_difference_are_those_of_a_plain_comparison() -> None:
    generator = np.random.default_rng(5)
    chances, other = (generator.dirichlet(np.ones(4), 40).astype(np.float32) for _ in range(2))
    labels = generator.integers(0, 4, 40)
    found = verified(
        lambda images, metadata: other,
        np.zeros((40, 2, 2, 3)), np.zeros((40, 3), np.float32), labels, [str(n) for n in range(40)], chances,
    )  # fmt: skip
    assert found["same_class"] == sum(a.argmax() == b.argmax() for a, b in zip(chances, other, strict=True))
    assert found["largest_difference"] == pytest.approx(
        max(abs(a - b).max() for a, b in zip(chances, other, strict=True))
    )
    assert found["accuracy"] == pytest.approx(100 * np.mean(other.argmax(axis=1) == labels))
    assert found["keras_accuracy"] == pytest.approx(100 * np.mean(chances.argmax(axis=1) == labels))


def test_the_times_of_a_network_are_percentiles_in_milliseconds() -> None:
    predictor = Predictor.__new__(Predictor)
    predictor.times = [(0.001 * number, 0.002 * number) for number in range(1, 102)]
    assert predictor.figures() == pytest.approx({"wall_median": 51, "wall_p95": 96, "cpu_median": 102, "cpu_p95": 192})


def test_a_new_file_replaces_the_old_one_and_forgets_its_latencies(tmp_path: Path) -> None:
    store, now = Store(tmp_path / "store.duckdb"), datetime.now(UTC)
    store.migrate()
    run_id = record_training(store, LENET5)
    store.record_conversion(run_id, 1, conversion(), "w", now)
    store.record_conversion(run_id, 1, conversion(step=1), "w", now)
    store.record_latencies(run_id, 1, [latency(), latency(1)], "w", now)
    store.record_conversion(run_id, 1, conversion(), "w", now)  # the same file again
    assert len(store.measured_latencies(run_id)) == 2
    store.record_conversion(run_id, 1, conversion(sha256="b"), "w", now)
    assert [each.step for each in store.measured_latencies(run_id)] == [1]
    store.record_latencies(run_id, 1, [latency(1, rounds=10)], "w", now)
    assert [each.rounds for each in store.measured_latencies(run_id)] == [10]
    store.record_conversion(run_id, 2, conversion(sha256="c"), "w", now)  # of an attempt that is not the run's
    assert [each.sha256 for each in store.converted(run_id)] == ["b", "a"]
    assert isinstance(store.conversions(), pd.DataFrame)
    assert json.loads(store.converted(run_id)[0].versions) == {}
