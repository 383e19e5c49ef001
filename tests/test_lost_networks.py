"""Networks that do not learn: they are recognised, tried again with other seeds, and helped by a warm-up."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np
import pandas as pd
import pytest

from core.article import evidence
from core.training import batches, loop, models, probe, steps
from core.training.results import EpochResult, LostNetwork, StepResult
from core.training.specs import COSINE, TrainingProtocol, TrainSpec
from tests.test_training import DATA, NETWORK, SPEC

RESULT = EpochResult(1, 1.0, 50, 50, 50, 1.0, 50, 50, 50, 1.0, 1.0)
BATCHES = 7


@pytest.mark.parametrize(
    ("epoch", "spread", "gradient", "warm_up", "lost"),
    [
        (1, 0.0, 0.0, 0, False), (2, 0.0, 0.0, 0, True), (2, 9e-5, 0.0, 0, True), (2, 1e-4, 0.0, 0, False),
        (2, None, 0.0, 0, False), (3, 0.0, 0.0, 0, False), (3, 0.0, 0.0, 5, True), (7, 0.0, 0.0, 5, True),
        (8, 0.0, 0.0, 5, False), (2, 0.0, 2e-9, 0, True), (2, 1e-8, 1.1, 0, False), (2, 0.0, None, 0, True),
    ],
)  # fmt: skip
def test_a_network_is_lost_where_early_epochs_tell_no_image_from_another_and_no_gradient_is_left(
    epoch: int, spread: float | None, gradient: float | None, warm_up: int, lost: bool
) -> None:
    result = replace(RESULT, epoch=epoch, spread=spread, gradient_norm=gradient)
    assert loop.is_lost(result, TrainingProtocol(warm_up_epochs=warm_up)) is lost


@pytest.mark.parametrize("schedule", ["constant", COSINE])
def test_the_learning_rate_rises_linearly_over_the_warm_up(schedule: str) -> None:
    spec = TrainingProtocol(warm_up_epochs=2, epochs=6, schedule=schedule)
    rate = models.learning_rate(spec, BATCHES)
    rising = [float(rate(step)) for step in range(2 * BATCHES + 1)]
    assert np.allclose(rising, np.linspace(0, spec.learning_rate, 2 * BATCHES + 1), atol=1e-9)
    end = float(rate(6 * BATCHES))
    assert end == pytest.approx(0 if schedule == COSINE else spec.learning_rate, abs=1e-9)


def test_a_cosine_without_a_warm_up_falls_from_the_learning_rate_to_0() -> None:
    spec = TrainingProtocol(epochs=4, schedule=COSINE)
    rate = models.learning_rate(spec, BATCHES)
    halfway = 0.5 * spec.learning_rate
    assert [float(rate(step)) for step in (0, 2 * BATCHES, 4 * BATCHES)] == pytest.approx([0.002, halfway, 0], abs=1e-9)


def test_a_training_ends_after_the_epochs_of_its_patience_without_a_better_one() -> None:
    history = [replace(RESULT, epoch=number, validation_accuracy=value) for number, value in enumerate((50, 60, 60), 1)]
    assert not loop.has_ended(history, TrainingProtocol(patience=2))
    assert loop.has_ended(history, TrainingProtocol(patience=1))
    assert not loop.has_ended(history, TrainingProtocol())
    assert loop.has_ended(history, TrainingProtocol(epochs=3))


def test_an_epoch_records_the_signs_of_learning(tmp_path: Path) -> None:
    first, second = loop.train(NETWORK, DATA, SPEC.replace(epochs=2, warm_up_epochs=2), tmp_path)
    assert 0 < first.spread <= 1
    assert first.hidden_units == second.hidden_units == 16
    assert 0 <= first.dead_units <= 16
    assert second.gradient_norm > 0
    assert 0 < first.learning_rate < second.learning_rate == pytest.approx(0.002)


def test_a_dead_head_is_seen_in_dead_units_spread_and_gradient() -> None:
    model = models.compiled_model(NETWORK, SPEC)
    hidden = model.get_layer("head_dense1")
    kernel, bias = hidden.get_weights()
    hidden.set_weights([kernel, bias - 1e6])
    model.fit(batches.training_batches(DATA, SPEC, 1), epochs=20, shuffle=False, verbose=0)
    chances, units = models.predicted(models.observing(model), DATA, range(len(DATA.images)), 5)
    assert (units == 0).all()
    assert np.ptp(chances, axis=0).max() == 0
    assert models.gradient_norm(model) == 0


def lost_until(seed: int) -> Callable[..., EpochResult]:
    """Return a training of an epoch that learns nothing with smaller seeds."""
    train_epoch = loop.train_epoch

    def trained(model: object, observer: object, data: object, spec: TrainingProtocol, *rest: object) -> EpochResult:
        result = train_epoch(model, observer, data, spec, *rest)
        return result if spec.seed >= seed else replace(result, spread=0.0, gradient_norm=0.0)

    return trained


def results_of(folder: Path, spec: TrainSpec) -> list[EpochResult | StepResult]:
    step = steps.next_training(spec, steps.first_state(spec))
    return list(steps.train_step(spec, step, DATA_OF_RUN, folder))


class _Data:
    """What `evaluated` needs besides the examples."""

    def __init__(self) -> None:
        self.__dict__.update(vars(DATA))
        self.image_ids = tuple(f"{number}" for number in range(len(DATA.images)))
        self.lesion_ids = (None,) * len(DATA.images)


DATA_OF_RUN = _Data()


def test_a_lost_network_is_trained_again_with_the_next_seeds(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(loop, "train_epoch", lost_until(SPEC.seed + 2))
    spec = TrainSpec(dataset="moles", network=NETWORK, training=SPEC.replace(epochs=3, retry_lost=5))
    *epochs, result = results_of(tmp_path, spec)
    assert [each.epoch for each in epochs] == [1, 2, 1, 2, 1, 2, 3]
    assert (result.status, result.seed, result.lost, result.epochs) == ("finished", SPEC.seed + 2, 2, 3)
    alone = list(loop.train(NETWORK, DATA, SPEC.replace(epochs=3, seed=SPEC.seed + 2), tmp_path / "alone"))
    assert [replace(each, seconds=0, images_per_second=0) for each in epochs[-3:]] == [
        replace(each, seconds=0, images_per_second=0) for each in alone
    ]


def test_a_network_that_is_lost_with_every_seed_fails_with_the_reason(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(loop, "train_epoch", lost_until(SPEC.seed + 9))
    spec = TrainSpec(dataset="moles", network=NETWORK, training=SPEC.replace(epochs=3, retry_lost=1))
    *epochs, result = results_of(tmp_path, spec)
    assert [each.epoch for each in epochs] == [1, 2, 1, 2]
    assert (result.status, result.lost) == ("failed", 2)
    assert result.failure.startswith("The network is lost: after epoch 2")


def test_a_training_that_was_stopped_after_a_lost_one_goes_on_with_the_same_seed(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(loop, "train_epoch", lost_until(SPEC.seed + 1))
    spec = TrainSpec(dataset="moles", network=NETWORK, training=SPEC.replace(epochs=3, retry_lost=1))
    step = steps.next_training(spec, steps.first_state(spec))
    events = steps.train_step(spec, step, DATA_OF_RUN, tmp_path)
    assert [next(events).epoch for _ in range(4)] == [1, 2, 1, 2]
    events.close()
    *epochs, result = results_of(tmp_path, spec)
    assert [each.epoch for each in epochs] == [1, 2, 3]
    assert (result.seed, result.lost) == (SPEC.seed + 1, 1)


def test_a_lost_network_ends_the_training_with_a_hint(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(loop, "train_epoch", lost_until(SPEC.seed + 1))
    with pytest.raises(LostNetwork, match="warm-up, batch normalisation"):
        list(loop.train(NETWORK, DATA, SPEC, tmp_path))


@pytest.mark.parametrize(("gain", "taken"), [(1.31, "bfloat16"), (1.29, "float32")])
def test_auto_takes_bfloat16_where_it_is_faster_enough(
    monkeypatch: pytest.MonkeyPatch, gain: float, taken: str
) -> None:
    speeds = {"float32": 100.0, "bfloat16": 100.0 * gain}
    monkeypatch.setattr(probe, "images_per_second", lambda network, training: speeds[training.precision])
    assert probe.fastest_precision(NETWORK, SPEC, "cpu") == taken


def test_the_precision_that_auto_takes_is_recorded_and_kept(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(probe, "fastest_precision", lambda *arguments: "bfloat16")
    spec = TrainSpec(dataset="moles", network=NETWORK, training=SPEC.replace(epochs=2, precision="auto"))
    step = steps.next_training(spec, steps.first_state(spec))
    events = steps.train_step(spec, step, DATA_OF_RUN, tmp_path)
    next(events)
    events.close()
    monkeypatch.setattr(probe, "fastest_precision", lambda *arguments: "float32")
    *_, result = results_of(tmp_path, spec)
    assert result.precision == "bfloat16"


def test_a_trial_gives_a_speed_and_leaves_no_trace_in_a_training(tmp_path: Path) -> None:
    before = list(loop.train(NETWORK, DATA, SPEC.replace(epochs=1), tmp_path / "before"))
    assert probe.images_per_second(NETWORK, SPEC, seconds=0.01) > 0
    after = list(loop.train(NETWORK, DATA, SPEC.replace(epochs=1), tmp_path / "after"))
    assert before[0].train_loss == after[0].train_loss


def test_tables_count_lost_trainings_apart_from_the_means() -> None:
    lost = pd.DataFrame(
        [("a", "train", 0, 2, "alexnet+bn", 1, "moles"), ("b", "train", 0, 1, "custom1", 4, "others")],
        columns=["run_id", "kind", "step", "lost", "network", "seed", "family"],
    )
    sentence = "2 trainings whose network was lost (equal probabilities for all images): {}."
    expected = sentence.format("alexnet+bn seed 1, alexnet+bn seed 2")
    assert evidence._lost_sentence(lost, 4, evidence.Choice(), ["moles"]) == [expected]
    assert evidence._lost_sentence(lost, 6, evidence.Choice(), ["moles"]) == []
    assert "custom1 seed 4" in evidence._lost_sentence(lost, 4, evidence.Choice(runs=("b",)), ["moles"])[0]
