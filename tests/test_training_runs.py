"""Specs of training runs: writing and reading, comparing, commands, and the sequence of steps."""

from __future__ import annotations

import json
import shlex
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from core.data.datasets import Dataset, DatasetImage, load_dataset
from core.data.splits import Targets
from core.errors import DermSlimError, SpecError
from core.networks.architectures import NETWORKS
from core.networks.batch_norm import BATCH_NORM
from core.networks.pruning import FACTORS, SCOPES, prune
from core.runs import spec_from_dict
from core.settings import Settings
from core.specs import spec_hash
from core.training.algorithm2 import Step, Stop
from core.training.data import training_data
from core.training.evaluation import judged
from core.training.results import StepResult
from core.training.specs import (
    CONSTANT,
    COSINE,
    CRITERIA,
    DEVICES,
    ON_REJECT,
    PRECISIONS,
    Baseline,
    PruneTrainSpec,
    Rules,
    TrainingProtocol,
    TrainSpec,
    article_baseline,
    training_grid,
    training_spec_from_dict,
)
from core.training.steps import (
    checkpoint_folder,
    described,
    failed,
    first_state,
    forget_old_checkpoints,
    likely_networks,
    next_training,
    take_over_checkpoint,
)
from jobs.__main__ import build_parser
from jobs.cli.options import command_line
from jobs.cli.training import specs_of

LENET5, ALEXNET = NETWORKS["lenet5"], NETWORKS["alexnet"]
SPEC = PruneTrainSpec(dataset="moles", network=LENET5)

percent = st.floats(0, 100)
share = st.floats(0, 0.9)
trainings = st.builds(
    TrainingProtocol,
    epochs=st.integers(1, 500),
    learning_rate=st.floats(1e-12, 1),
    batch_size=st.integers(1, 512),
    seed=st.integers(0, 2**31),
    height=st.integers(160, 300),
    width=st.integers(160, 300),
    augmentation=st.booleans(),
    rotation=st.floats(0, 180),
    zoom=share,
    brightness=share,
    precision=st.sampled_from(PRECISIONS),
    jit_compile=st.booleans(),
    warm_up_epochs=st.integers(0, 99),
    schedule=st.sampled_from((CONSTANT, COSINE)),
    patience=st.none() | st.integers(1, 99),
    batch_norm=st.sampled_from(sorted(BATCH_NORM)),
    retry_lost=st.integers(0, 9),
)
rules = st.builds(
    Rules,
    factors=st.lists(st.sampled_from((50.0, 33.33, 16.5, 8.25, 12.345678901, 99.0)), min_size=1, unique=True).map(
        tuple
    ),
    scope=st.sampled_from(sorted(SCOPES)),
    max_failures=st.integers(1, 9),
    max_iterations=st.none() | st.integers(1, 99),
    on_reject=st.sampled_from(sorted(ON_REJECT)),
)
common: dict[str, Any] = {
    "dataset": st.sampled_from(("moles", "HAM 10000", "a'b")),
    "network": st.sampled_from(list(NETWORKS.values())),
    "training": trainings,
    "targets": st.builds(Targets, **dict.fromkeys(Targets.model_fields, st.integers(4, 9000))),
    "split_seed": st.integers(0, 2**31),
    "leaky_split": st.booleans(),
    "split": st.sampled_from(("drawn", "given")),
    "device": st.sampled_from(DEVICES),
    "baseline": st.none() | st.builds(Baseline, **dict.fromkeys(Baseline.model_fields, percent)),
}
specs = st.builds(TrainSpec, **common) | st.builds(PruneTrainSpec, **common, rules=rules)


@given(specs)
@settings(max_examples=60, deadline=None)
def test_a_training_spec_can_be_stored_as_json_and_keeps_its_hash(spec: TrainSpec) -> None:
    read = spec_from_dict(json.loads(json.dumps(spec.to_dict())))
    assert read == spec
    assert type(read) is type(spec)
    assert spec_hash(read, "f") == spec_hash(spec, "f") != spec_hash(spec, "g")


def test_a_number_typed_with_or_without_decimal_point_gives_the_same_run() -> None:
    whole, typed = (
        PruneTrainSpec(dataset="d", network=LENET5, rules=Rules(factors=(factor, 33.33))) for factor in (50, 50.0)
    )
    assert spec_hash(whole, "f") == spec_hash(typed, "f")
    assert spec_hash(whole, "f") != spec_hash(whole.replace(rules=Rules(factors=(50.5, 33.33))), "f")


@given(specs)
@settings(max_examples=60, deadline=None)
def test_the_command_of_a_run_describes_the_same_run(spec: TrainSpec) -> None:
    words = shlex.split(command_line(spec))
    assert words[:3] == ["python", "-m", "jobs"]
    options = build_parser().parse_args(words[3:])
    assert options.folder == spec.dataset
    here = Settings(Path("/nowhere"), ())
    (read,) = specs_of(options, spec.dataset, here)
    assert read == spec


def test_the_option_of_older_commands_for_16_bit_floats_is_read() -> None:
    options = build_parser().parse_args(["train", "moles", "--mixed-precision"])
    (read,) = specs_of(options, "moles", Settings(Path("/nowhere"), ()))
    assert read.training.precision == "float16"


@given(specs, specs)
@settings(max_examples=60, deadline=None)
def test_settings_texts_differ_exactly_when_rows_must_not_be_averaged(one: TrainSpec, other: TrainSpec) -> None:
    seeded = one.replace(training=one.training.replace(seed=one.training.seed + 1))
    assert seeded.settings == one.settings
    assert len(set(one.settings.split(", "))) == len(one.settings.split(", "))
    for name in ("epochs", "batch_size", "height"):
        if getattr(one.training, name) != getattr(other.training, name):
            assert one.settings != other.settings


def test_the_settings_text_of_the_article_gives_only_the_protocol() -> None:
    assert SPEC.settings == "200×100, 75 epochs, batch 32, learning rate 0.002"
    changed = SPEC.replace(
        targets=Targets(train=40, validation=20, test=8),
        leaky_split=True,
        baseline=Baseline(
            train_accuracy=80, train_precision=80, validation_accuracy=70, validation_precision=70, test_tolerance=5
        ),
        rules=Rules(factors=(50, 25), scope="first", max_failures=1, max_iterations=3, on_reject="continue"),
    )
    assert changed.settings == (
        "200×100, 75 epochs, batch 32, learning rate 0.002, targets 40/20/8, leaky split, baseline 80/80/70/70/−5, "
        "factors 50/25, scope first, ends at 1 failures, pruned networks: at most 3, rejected networks shrunk on"
    )


def test_the_articles_thresholds_depend_on_the_network() -> None:
    assert (
        SPEC.thresholds
        == article_baseline("lenet5")
        == Baseline(
            train_accuracy=90, train_precision=90, validation_accuracy=75, validation_precision=75, test_tolerance=2
        )
    )
    grid = list(
        training_grid(
            SPEC, networks=[LENET5, ALEXNET], datasets=["a", "b"], sizes=[(200, 100), (100, 200)], seeds=[1, 2]
        )
    )
    assert len(grid) == len({json.dumps(spec.to_dict()) for spec in grid}) == 16
    assert {spec.thresholds.validation_accuracy for spec in grid if spec.network.name == "alexnet"} == {80}
    assert {spec.rules.factors for spec in grid} == {FACTORS}
    assert [(grid[0].network.name, grid[0].dataset, grid[0].training.seed) for _ in range(1)] == [("lenet5", "a", 1)]
    own = SPEC.replace(
        baseline=Baseline(
            train_accuracy=1, train_precision=2, validation_accuracy=3, validation_precision=4, test_tolerance=5
        ),
    )
    assert {spec.baseline for spec in training_grid(own, networks=[LENET5, ALEXNET], datasets=["a"])} == {own.baseline}


@pytest.mark.parametrize(
    ("wrong", "expected"),
    [
        ({"dataset": ""}, "data set"),
        ({"split_seed": -1}, "split seed"),
        ({"device": "tpu"}, "one of auto, cpu, gpu"),
        ({"training": TrainingProtocol(height=8, width=8)}, "8"),
    ],
)
def test_an_invalid_training_spec_is_refused(wrong: dict[str, Any], expected: str) -> None:
    with pytest.raises(SpecError, match=expected):
        SPEC.replace(**wrong)


def test_unknown_kinds_and_names_are_refused() -> None:
    with pytest.raises(SpecError, match="to be one of train, prune-train"):
        training_spec_from_dict(SPEC.to_dict() | {"kind": "learn"})
    with pytest.raises(SpecError, match="got colour"):
        training_spec_from_dict(SPEC.to_dict() | {"colour": 1})
    with pytest.raises(SpecError, match="Expected data set, got none"):
        training_spec_from_dict({"kind": "prune-train"})


def result(spec: TrainSpec, step: Step, level: float) -> StepResult:
    figures: dict[str, float | None] = dict.fromkeys(CRITERIA, level)
    return replace(described(spec, step), status="finished", figures=figures)


def test_a_train_run_has_one_step_and_a_pruning_run_prunes_accepted_networks() -> None:
    single = TrainSpec(dataset="moles", network=LENET5)
    step = next_training(single, first_state(single))
    assert isinstance(step, Step)
    assert (step.name, step.network) == ("Original", LENET5)
    found, after = judged(first_state(single), step, result(single, step, 99))
    assert found.accepted
    assert next_training(single, after) == Stop("The network is trained.")
    state, names = first_state(SPEC), []
    for level in (99, 98, 50, 98, 50, 50):
        step = next_training(SPEC, state)
        assert isinstance(step, Step)
        found, state = judged(state, step, result(SPEC, step, level))
        assert found.accepted == (level > 90)
        assert found.missed_by == (None if level > 90 else 40)
        names.append(step.name)
    assert names[:4] == ["Original", "R1: 50%", "R2: 50%", "R1, R2: 50%, 33%"]
    assert step.network != prune(LENET5, 50)
    assert next_training(SPEC, state) == Stop("The baseline was missed 2 times in a row.")


def test_a_run_ends_when_the_unpruned_network_cannot_be_trained() -> None:
    for spec in (SPEC, TrainSpec(dataset="moles", network=LENET5)):
        step = next_training(spec, first_state(spec))
        assert isinstance(step, Step)
        found, after = judged(first_state(spec), step, failed(spec, step, "There is too little memory."))
        assert (found.accepted, found.status) == (False, "failed")
        following = next_training(spec, after)
        assert isinstance(following, Stop)
        assert "too little memory" in following.reason


def test_a_step_result_can_be_stored_as_json() -> None:
    step = next_training(SPEC, first_state(SPEC))
    assert isinstance(step, Step)
    found = result(SPEC, step, 97.5)
    assert StepResult.from_dict(json.loads(json.dumps(found.to_dict()))) == found
    assert (found.parameters, found.macs) > (0, 0)


def test_likely_networks_lists_the_networks_of_an_estimate() -> None:
    assert likely_networks(TrainSpec(dataset="moles", network=LENET5)) == [LENET5]
    assert likely_networks(SPEC)[:2] == [LENET5, prune(LENET5, 50)]
    assert len(likely_networks(SPEC.replace(rules=Rules(max_iterations=1)))) == 2


def test_data_from_which_a_set_cannot_be_drawn_are_refused(tmp_path: Path) -> None:
    records = tuple(DatasetImage(f"{i}", f"{i}.png", 1, 40, 56, f"{i}", "nevus") for i in range(8))
    one_class = Dataset("moles", tmp_path, "class_folders", records, ())
    with pytest.raises(SpecError):
        SPEC.check(one_class)
    with pytest.raises(DermSlimError):
        training_data(one_class, SPEC, tmp_path / "cache")


def folder_of_sets(folder: Path, without: str = "") -> Dataset:
    """Write eight images of two classes for each of three sets; the first of train and test show one lesion."""
    rng = np.random.default_rng(3)
    pixels = iter(rng.integers(0, 256, (50, 20, 24, 3), dtype=np.uint8))
    for name in ("train", "val", "test"):
        for label in ("nv", "mel"):
            place = folder / name / label
            place.mkdir(parents=True)
            for number in range(4):
                if name != without:
                    cv2.imwrite(str(place / f"{name}_{label}_{number}.png"), next(pixels))
    shared = "\n".join(f"{name}_mel_0,L1,40,male,back" for name in ("train", "test"))
    (folder / "metadata.csv").write_text(f"isic_id,lesion_id,age,sex,anatom_site_general\n{shared}\n")
    (folder / "nv").mkdir()
    cv2.imwrite(str(folder / "nv" / "in_no_set.png"), next(pixels))
    return load_dataset(folder)


def test_a_training_uses_the_given_sets_and_its_notes_count_the_shared_lesions(tmp_path: Path) -> None:
    dataset = folder_of_sets(tmp_path / "moles")
    spec = TrainSpec(dataset="moles", network=LENET5, split="given", training=TrainingProtocol(height=40, width=40))
    spec.check(dataset)
    found = training_data(dataset, spec, tmp_path / "cache")
    for name, prefix in (("train", "train_"), ("validation", "val_"), ("test", "test_")):
        ids = [found.image_ids[index] for index in getattr(found.split, name)]
        assert len(ids) == 8
        assert all(image_id.startswith(prefix) for image_id in ids)
    assert found.notes[0] == (
        "Given sets, used as they are; 1 lesion is in more than one set. 1 of 8 test images and 0 of 8 validation "
        "images share a lesion with training. 1 image has no given set and is left out."
    )
    assert [row["quota"] for row in found.reached] == [4] * 6
    drawn = training_data(dataset, spec.replace(split="drawn"), tmp_path / "cache")
    assert drawn.notes[0].startswith("Split by lesion.")


def test_a_run_on_given_sets_is_refused_where_they_cannot_be_trained_on(tmp_path: Path) -> None:
    spec = TrainSpec(dataset="moles", network=LENET5, split="given")
    with pytest.raises(SpecError, match="got no image for validation"):
        spec.check(folder_of_sets(tmp_path / "no_validation", without="val"))
    with pytest.raises(SpecError, match="Expected either a leaky split, drawn image by image, or the given split"):
        spec.replace(leaky_split=True).check(folder_of_sets(tmp_path / "both"))
    with pytest.raises(SpecError, match="Expected split to be one of drawn, given, got 'fixed'"):
        spec.replace(split="fixed")


def test_a_spec_with_drawn_sets_is_stored_as_before_there_were_given_ones() -> None:
    spec = TrainSpec(dataset="moles", network=LENET5)
    assert "split" not in spec.to_dict()
    assert "given sets" not in spec.settings
    given_one = spec.replace(split="given")
    assert given_one.to_dict()["split"] == "given"
    assert given_one.settings.endswith("given sets")


def test_a_newer_claim_takes_over_the_checkpoint_and_blocks_older_claims(tmp_path: Path) -> None:
    step = next_training(SPEC, first_state(SPEC))
    assert isinstance(step, Step)
    step = replace(step, index=1)
    other = tmp_path / "step-10"  # the checkpoint of another step
    for place in (other, checkpoint_folder(tmp_path, step)):  # from a version without claims
        place.mkdir()
        (place / "checkpoint.npz").write_bytes(place.name.encode())
    first = take_over_checkpoint(tmp_path, step, 5)
    assert [path.name for path in first.iterdir()] == ["checkpoint.npz"]
    with (first / "checkpoint.half").open("wb") as half:  # the first process is paused while it writes
        second = take_over_checkpoint(tmp_path, step, 7)
        assert take_over_checkpoint(tmp_path, step, 6) == checkpoint_folder(tmp_path, step, 6), (
            "the older claim is too late"
        )
        (second / "checkpoint.half").write_bytes(b"the second's")
        half.write(b"the first's, which are longer")
    assert not first.exists()
    assert {path.name: path.read_bytes() for path in second.iterdir()} == {
        "checkpoint.npz": b"step-1",
        "checkpoint.half": b"the second's",
    }
    with pytest.raises(FileNotFoundError):
        (first / "checkpoint.half").replace(first / "checkpoint.npz")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["step-1-7", "step-10"]
    assert (other / "checkpoint.npz").read_bytes() == b"step-10"


def test_old_checkpoints_are_deleted_except_those_of_active_runs(tmp_path: Path) -> None:
    import os
    import time

    for name in ("active", "ended", "fresh"):
        place = tmp_path / name / "step-0"
        place.mkdir(parents=True)
        (place / "checkpoint.npz").write_bytes(b"x")
        (tmp_path / name / "0.keras").write_bytes(b"weights")
        if name != "fresh":
            long_ago = time.time() - 31 * 24 * 3600
            os.utime(place / "checkpoint.npz", (long_ago, long_ago))
            os.utime(place, (long_ago, long_ago))
    forget_old_checkpoints(tmp_path, days=30, kept=["active"])
    assert sorted(path.parent.name for path in tmp_path.glob("*/step-*")) == ["active", "fresh"]
    assert len(list(tmp_path.glob("*/*.keras"))) == 3
