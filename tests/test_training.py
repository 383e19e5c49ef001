"""Training: equal seeds give equal results, a killed training resumes, and the correct weights are kept."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from dataclasses import asdict, replace
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np
import pytest

from benchmarks.processes import Process, run_command
from core.data.datasets import DatasetImage
from core.data.splits import Targets, epoch_indices, split_records
from core.errors import SpecError
from core.networks.architectures import LENET5, BatchNorm, Conv, Dense, Dropout, Flatten, MaxPool
from core.networks.pruning import prune
from core.predictions.classification import FIGURES, classify
from core.training import checkpoints, devices, models
from core.training import loop as training
from core.training.batches import augment, training_batches
from core.training.data import Examples
from core.training.loop import EpochResult, TrainingError, TrainingProtocol, train
from core.training.specs import CRITERIA, PRESETS, Baseline
from tests.laboratory import wait_for

ROOT = Path(__file__).resolve().parents[1]
HEIGHT, WIDTH, IMAGES = 32, 24, 24
SPEC = TrainingProtocol(epochs=4, batch_size=5, height=HEIGHT, width=WIDTH, seed=3)
# A layer of each kind: half of the time of a short training passes before its first batch, and grows with the layers.
UNPRUNED = replace(
    LENET5,
    name="small",
    image=(Conv(8, 5), MaxPool(3), BatchNorm(), Flatten(), Dense(8)),
    metadata=(Dense(4), Dropout(0.2), Dense(1)),
)
NETWORK = prune(UNPRUNED, 50)
LABELS = np.array([0] * 9 + [1] * 7 + [2] * 5 + [3] * 3)


def photographs() -> Examples:
    generator = np.random.default_rng(1)
    level = 30 + 60 * LABELS[:, None, None, None]
    pixels = np.clip(generator.normal(level, 20, (IMAGES, HEIGHT, WIDTH, 3)), 0, 255).astype(np.uint8)
    metadata = generator.normal(0, 1, (IMAGES, 3)).astype(np.float32)
    names = ("melanoma", "nevus", "non_melanoma", "negative")
    records = [DatasetImage(f"{i:02}", f"{i}.png", 1, 1, 1, f"{i}", names[label]) for i, label in enumerate(LABELS)]
    return Examples(pixels, metadata, LABELS, split_records(records, Targets(train=24, validation=8, test=4), seed=1))


DATA = photographs()


def final(folder: Path) -> list[np.ndarray]:
    """Return the final weights, the optimizer's state and the kept weights of a training."""
    kept = next(folder.glob("kept-*.npz"))
    return checkpoints.read_arrays(folder / checkpoints.CHECKPOINT_NAME) + checkpoints.read_arrays(kept)


def same(ones: list[np.ndarray], others: list[np.ndarray]) -> bool:
    return all(np.array_equal(one, other) for one, other in zip(ones, others, strict=True))


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> tuple[list[EpochResult], Path]:
    folder = tmp_path_factory.mktemp("undisturbed")
    return list(train(NETWORK, DATA, SPEC, folder)), folder


def test_the_test_split_has_repeats_to_augment() -> None:
    assert 0 < sum(DATA.split.augmented) < len(DATA.split.oversampled)


def test_every_epoch_is_reported_with_its_metrics(undisturbed) -> None:
    history, _ = undisturbed
    assert [result.epoch for result in history] == [1, 2, 3, 4]
    for result in history:
        assert result.seconds > 0
        assert result.images_per_second > 0
        assert 0 <= result.validation_recall <= result.validation_accuracy <= 100
        assert EpochResult(**json.loads(json.dumps(asdict(result)))) == result
    assert history[-1].train_loss < history[0].train_loss


def test_a_stopped_training_resumes_with_the_result_of_an_uninterrupted_one(undisturbed, tmp_path: Path) -> None:
    stopped = train(NETWORK, DATA, SPEC, tmp_path)
    first = [next(stopped), next(stopped)]
    stopped.close()
    keras.utils.set_random_seed(99)  # other random numbers of the process must not matter
    assert checkpoints.history_of(tmp_path) == tuple(first)
    resumed = list(train(NETWORK, DATA, SPEC, tmp_path))
    assert resumed[:2] == first
    assert [result.seconds for result in resumed[:2]] == [
        result.seconds for result in first
    ]  # these epochs are not trained again
    assert resumed == undisturbed[0]
    assert same(final(tmp_path), final(undisturbed[1]))


def test_another_process_finishes_a_killed_training_with_the_same_result(undisturbed, tmp_path: Path) -> None:
    code = (
        "import sys, pathlib; sys.path.insert(0, 'tests'); import test_training as t\n"
        "for result in t.train(t.NETWORK, t.DATA, t.SPEC, pathlib.Path(sys.argv[1])): print(result.epoch, flush=True)"
    )
    command = [sys.executable, "-c", code, str(tmp_path)]
    with Process(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "1\n"
        process.send_signal(signal.SIGKILL)
    assert len(checkpoints.history_of(tmp_path)) <= 4  # none, if it was killed before its first checkpoint was whole
    assert list(train(NETWORK, DATA, SPEC, tmp_path)) == undisturbed[0]
    assert same(final(tmp_path), final(undisturbed[1]))


def test_another_seed_gives_another_result(undisturbed, tmp_path: Path) -> None:
    other = next(train(NETWORK, DATA, SPEC.replace(seed=4), tmp_path))
    assert other.train_loss != undisturbed[0][0].train_loss


def test_a_finished_training_is_reported_again_without_training(undisturbed) -> None:
    history, folder = undisturbed
    before = final(folder)
    again = list(train(NETWORK, DATA, SPEC, folder))
    assert [result.seconds for result in again] == [result.seconds for result in history]
    assert same(before, final(folder))


def test_the_checkpoint_of_another_training_is_refused(undisturbed) -> None:
    _, folder = undisturbed
    with pytest.raises(SpecError, match="another training's checkpoint"):
        next(train(NETWORK, DATA, SPEC.replace(learning_rate=0.01), folder))


def test_checkpoints_take_at_most_a_twentieth_of_the_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now, began = 100.0, []
    epoch = EpochResult(1, 1.0, 95.0, 95.0, 95.0, 1.0, 85.0, 85.0, 85.0, 1.0, 1.0)

    def slow_save(*arguments: object) -> None:
        nonlocal now
        began.append(now)
        now += 0.5

    monkeypatch.setattr(checkpoints, "save", slow_save)
    with checkpoints.CheckpointWriter(tmp_path, "a", clock=lambda: now) as writer:
        for _ in range(12):
            if writer.due():
                writer.write([], None, [epoch])
                wait_for(writer.written, 30)
                writer.due()
            now += 4
    assert np.diff(began).tolist() == [12.5, 12.5, 12.5]


def test_a_training_closed_between_two_checkpoints_resumes_after_its_last_epoch(
    undisturbed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checkpoints, "PAUSE", 1e9)
    stopped, checks = train(NETWORK, DATA, SPEC, tmp_path, check=lambda: checks.append(1)), []
    first = [next(stopped), next(stopped), next(stopped)]
    stopped.close()
    assert len(checks) == 4  # once per epoch, and before the last checkpoint
    assert checkpoints.history_of(tmp_path) == tuple(first)
    assert list(train(NETWORK, DATA, SPEC, tmp_path)) == undisturbed[0]
    assert same(final(tmp_path), final(undisturbed[1]))


@pytest.mark.parametrize("damage", [b"", b"PK\x03\x04 but no archive"])
def test_a_damaged_checkpoint_is_ignored(damage: bytes, tmp_path: Path) -> None:
    (tmp_path / checkpoints.CHECKPOINT_NAME).write_bytes(damage)
    assert checkpoints.history_of(tmp_path) == ()
    assert training.restore(tmp_path, None, "") == ()


def test_the_kept_weights_are_those_of_the_best_epoch(undisturbed) -> None:
    history, folder = undisturbed
    best = max(history, key=lambda result: (result.meets_baseline, result.validation_accuracy, -result.epoch))
    assert [path.name for path in folder.glob("kept-*")] == [f"kept-{best.epoch}.npz"]
    chances = training.predict(training.kept_model(NETWORK, SPEC, folder), DATA, SPEC)
    found = {name: classify(each, DATA.labels[list(getattr(DATA.split, name))]) for name, each in chances.items()}
    assert found["validation"].accuracy == best.validation_accuracy
    assert found["validation"].precision == best.validation_precision
    assert [found[name].images for name in found] == [len(getattr(DATA.split, name)) for name in found]
    figures = {f"{name}_{figure}" for name in found for figure in FIGURES}
    assert set(CRITERIA) <= set(figures)


def test_a_saved_network_gives_the_same_probabilities(undisturbed, tmp_path: Path) -> None:
    model = training.kept_model(NETWORK, SPEC, undisturbed[1])
    models.save_model(model, tmp_path / "network.keras")
    assert [path.name for path in tmp_path.iterdir()] == ["network.keras"]
    labels, split = DATA.labels, DATA.split
    loaded = keras.saving.load_model(tmp_path / "network.keras")
    chances = models.probabilities(loaded, DATA, split.validation, 3)
    ours = models.probabilities(model, DATA, split.validation, 100)
    np.testing.assert_allclose(chances, ours, rtol=1e-4, atol=1e-6)
    assert classify(chances, labels[list(split.validation)]).images == len(split.validation)


def test_an_epoch_that_meets_the_baseline_is_preferred_to_a_better_one_that_does_not() -> None:
    plain = EpochResult(1, 1.0, 95.0, 95.0, 95.0, 1.0, 85.0, 85.0, 85.0, 1.0, 1.0, meets_baseline=True)
    better = replace(plain, epoch=2, validation_accuracy=99.0, meets_baseline=False)
    assert checkpoints.kept_epoch([plain, better]) == 1
    assert checkpoints.kept_epoch([replace(plain, meets_baseline=False), better]) == 2
    assert checkpoints.kept_epoch([plain, replace(plain, epoch=2)]) == 1
    assert checkpoints.kept_epoch([replace(plain, validation_accuracy=None), replace(plain, epoch=2)]) == 2


def test_the_baseline_needs_all_four_metrics_and_includes_its_limits() -> None:
    labels = np.arange(4).repeat(5)
    chances = np.eye(4, dtype=np.float32)[labels]
    chances[:4] = chances[:4, ::-1]  # 16 of 20 are right: 80 %
    logs = {"loss": [0.5], "accuracy": [0.9], "precision": [0.9], "recall": [0.9]}
    result = training.judged(1, logs, chances, labels, Baseline())
    assert result.meets_baseline
    assert result.validation_loss == pytest.approx(-4 * np.log(1e-7) / 20)
    for name in ("accuracy", "precision"):
        assert not training.judged(1, logs | {name: [0.89]}, chances, labels, Baseline()).meets_baseline
    assert not training.judged(1, logs, chances, labels, Baseline(validation_precision=81)).meets_baseline


def test_a_nan_loss_ends_the_training_with_a_hint(tmp_path: Path) -> None:
    next(train(NETWORK, DATA, SPEC, tmp_path))
    checkpoint = tmp_path / checkpoints.CHECKPOINT_NAME
    with np.load(checkpoint) as file:
        arrays = dict(file)
    count = len(models.compiled_model(NETWORK, SPEC).trainable_variables)
    arrays[f"{count - 1}"] = np.full(4, np.nan, np.float32)  # the softmax's biases
    np.savez(checkpoint, **arrays)
    resumed = train(NETWORK, DATA, SPEC, tmp_path)
    assert next(resumed).epoch == 1
    with pytest.raises(TrainingError, match=r"epoch 2\. Try a learning rate under 0\.002"):
        next(resumed)
    assert len(checkpoints.history_of(tmp_path)) == 1


STARVED = """
import pathlib, resource, sys
sys.path.insert(0, "tests")
from dataclasses import replace
import numpy as np, psutil
from core.networks.architectures import ALEXNET
import test_training as t
height, width = 300, 400
folder, spec = pathlib.Path(sys.argv[1]), t.SPEC.replace(height=height, width=width, batch_size=24)
list(t.train(t.NETWORK, t.DATA, t.SPEC.replace(epochs=1), folder / "small"))
soft = psutil.Process().memory_info().vms + 400_000_000
resource.setrlimit(resource.RLIMIT_AS, (soft, resource.RLIM_INFINITY))
try:
    large = replace(t.DATA, images=np.zeros((t.IMAGES, height, width, 3), np.uint8))
    list(t.train(ALEXNET, large, spec, folder / "large"))
except t.TrainingError as error:
    print(error)
"""


@pytest.mark.slow
def test_a_process_that_runs_out_of_memory_gives_a_hint(tmp_path: Path) -> None:
    command = [sys.executable, "-c", STARVED, str(tmp_path)]
    answer = run_command(command, cwd=ROOT, capture_output=True, text=True, timeout=250)
    assert answer.returncode == 0, answer.stderr[-2000:]
    assert answer.stdout.startswith("There is too little memory for batches of 24 images of 300×400")


def test_out_of_memory_errors_get_a_hint_and_other_errors_are_unchanged() -> None:
    with pytest.raises(TrainingError, match="smaller batch"), devices.explained(SPEC):
        raise RuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating 17179869184 bytes")
    with pytest.raises(RuntimeError, match="the device is gone"), devices.explained(SPEC):
        raise RuntimeError("the device is gone")


def test_mixed_precision_gives_32_bit_probabilities_and_restores_the_policy(tmp_path: Path) -> None:
    spec = SPEC.replace(precision="float16", epochs=1)
    (result,) = train(NETWORK, DATA, spec, tmp_path)
    assert np.isfinite(result.train_loss)
    assert keras.config.dtype_policy().name == "float32"
    model = training.kept_model(NETWORK, spec, tmp_path)
    assert model.layers[-2].compute_dtype == "float16"
    assert model.predict(({"image": DATA.images[:2], "metadata": DATA.metadata[:2]}), verbose=0).dtype == np.float32


def test_batches_follow_the_order_of_the_epoch_and_only_repeats_are_augmented() -> None:
    pixels, metadata, labels, split = DATA.images, DATA.metadata, DATA.labels, DATA.split
    order, augmented = epoch_indices(split, SPEC.seed, 2)
    batches = [training_batches(DATA, SPEC, 2)[number] for number in range(len(training_batches(DATA, SPEC, 2)))]
    images = np.concatenate([inputs["image"] for inputs, _ in batches])
    assert np.array_equal(np.concatenate([inputs["metadata"] for inputs, _ in batches]), metadata[order])
    assert np.array_equal(np.concatenate([one_hot for _, one_hot in batches]).argmax(axis=1), labels[order])
    changed = np.any(images != pixels[order], axis=(1, 2, 3))
    assert np.array_equal(changed, augmented)
    plain = training_batches(DATA, SPEC.replace(augmentation=False), 2)
    assert np.array_equal(plain[0][0]["image"], pixels[order[:5]])


def test_augmentation_with_zero_ranges_only_flips() -> None:
    image = DATA.images[0]
    spec = SPEC.replace(rotation=0.0, zoom=0.0, brightness=0.0)
    flips = {image[::down, ::across].tobytes() for down in (1, -1) for across in (1, -1)}
    assert {augment(image, spec, np.random.default_rng(seed)).tobytes() for seed in range(40)} == flips


def test_augmentation_changes_brightness_within_its_range() -> None:
    grey = np.full((8, 6, 3), 100, np.uint8)
    levels = [augment(grey, SPEC, np.random.default_rng(seed)) for seed in range(40)]
    assert all(len(np.unique(level)) == 1 and 90 <= level[0, 0, 0] <= 110 for level in levels)
    assert len({int(level[0, 0, 0]) for level in levels}) > 10


@pytest.mark.parametrize(
    "wrong",
    [
        {"epochs": 0},
        {"batch_size": 1.5},
        {"seed": -1},
        {"learning_rate": 0},
        {"zoom": 1.0},
        {"jit_compile": 1},
        {"k": 1},
    ],
)
def test_an_invalid_protocol_is_refused(wrong) -> None:
    with pytest.raises(SpecError, match="Expected"):
        TrainingProtocol.from_dict(wrong)


def test_protocols_can_be_stored_as_json_and_default_to_the_article() -> None:
    for spec in PRESETS.values():
        assert TrainingProtocol.from_dict(json.loads(json.dumps(spec.to_dict()))) == spec
    article = PRESETS["article"]
    assert (article.epochs, article.learning_rate, article.batch_size) == (75, 0.002, 32)


def test_arrays_that_do_not_match_are_refused(tmp_path: Path) -> None:
    pixels, metadata, labels = DATA.images, DATA.metadata, DATA.labels
    for wrong, message in (
        ({"images": pixels[:, :-1]}, "uint8 images"),
        ({"metadata": metadata[:, :2]}, "metadata and labels"),
        ({"metadata": metadata * np.nan}, "finite metadata"),
        ({"labels": np.where(labels == 3, -1, labels)}, "labels from 0 to 3"),
        ({"images": pixels[:5], "metadata": metadata[:5], "labels": labels[:5]}, "split of 5 images"),
    ):
        with pytest.raises(SpecError, match=message):
            next(train(NETWORK, replace(DATA, **wrong), SPEC, tmp_path))
    with pytest.raises(TrainingError, match="Train first"):
        training.kept_model(NETWORK, SPEC, tmp_path)


def test_training_imports_no_backend() -> None:
    source = Path(training.__file__).read_text()
    imports = [line for line in source.splitlines() if line.lstrip().startswith(("import ", "from "))]
    assert not any(name in line for line in imports for name in ("tensorflow", "jax", "torch"))
