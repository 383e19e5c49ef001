"""A pruned network that inherits weights computes what the larger network computes without the units that went."""

from __future__ import annotations

import os
import shutil
from dataclasses import replace
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np
import pytest

from core.errors import NotOnThisHost, SpecError
from core.networks.architectures import ALEXNET, CUSTOM1, CUSTOM2, LENET5, Dense, NetworkSpec
from core.networks.batch_norm import ALL, DENSE, with_batch_norm
from core.networks.inheritance import L1, RANDOM, SCRATCH, inherited
from core.networks.keras_models import build_model
from core.networks.pruning import prune
from core.training import loop, models, steps
from core.training.algorithm2 import State, Step, Stop, next_step, record, start
from core.training.evaluation import judged
from core.training.results import StepResult
from core.training.specs import CONTINUE, CRITERIA, PruneTrainSpec, Rules
from tests.test_lost_networks import DATA_OF_RUN
from tests.test_training import DATA, NETWORK, SPEC

HEIGHT, WIDTH = 64, 64
FACTORED = replace(CUSTOM2, image=(*CUSTOM2.image[:-2], Dense(40, rank=7), Dense(30, rank=5)))
CASES = [
    (LENET5, "all"), (ALEXNET, "all"), (CUSTOM1, "all"), (CUSTOM2, "all"), (with_batch_norm(ALEXNET, DENSE), "all"),
    (with_batch_norm(CUSTOM2, ALL), "all"), (CUSTOM2, "first"), (CUSTOM2, "first_three"), (LENET5, "first"),
    (replace(FACTORED, name="factored"), "all"),
]  # fmt: skip


def weights_of(model: keras.Model) -> dict[str, list[np.ndarray]]:
    return {layer.name: layer.get_weights() for layer in model.layers if layer.weights}


def parent_of(spec: NetworkSpec) -> keras.Model:
    """Return a network whose every weight is random, with running statistics that are not 0 and 1."""
    keras.utils.set_random_seed(1)
    model, generator = build_model(spec, HEIGHT, WIDTH), np.random.default_rng(1)
    for layer in model.layers:
        if isinstance(layer, keras.layers.BatchNormalization):
            layer.set_weights([generator.uniform(0.5, 1.5, each.shape) for each in layer.get_weights()])
        elif layer.weights:
            kernel, *biases = layer.get_weights()
            layer.set_weights([kernel, *(generator.normal(0, 0.1, bias.shape) for bias in biases)])
    return model


def outputs(model: keras.Model) -> np.ndarray:
    generator = np.random.default_rng(2)
    images = generator.integers(0, 256, (6, HEIGHT, WIDTH, 3)).astype(np.uint8)
    return np.asarray(model({"image": images, "metadata": generator.normal(size=(6, 3))}, training=False))


def silence(parent: keras.Model, child: dict[str, list[np.ndarray]], choice: str) -> None:
    """Set to 0 what the child lacks: outputs whose bias, or gamma and beta, are not among the child's."""
    for layer in parent.layers:
        if layer.name not in child or layer.name.endswith("_factor"):
            continue
        weights, kept = layer.get_weights(), child[layer.name]
        gone = ~np.isin(weights[1], kept[1])  # biases and betas are random numbers, so that they tell units apart
        for each in weights[:2]:
            each[..., gone] = 0
        layer.set_weights(weights)


@pytest.mark.parametrize("choice", [L1, RANDOM])
@pytest.mark.parametrize(("spec", "scope"), CASES, ids=lambda each: getattr(each, "name", each))
def test_a_child_computes_what_its_parent_computes_with_the_other_units_silenced(
    spec: NetworkSpec, scope: str, choice: str
) -> None:
    parent, small = parent_of(spec), prune(spec, 50, scope)
    found = inherited(spec, small, HEIGHT, WIDTH, weights_of(parent), choice, seed=3)
    child = build_model(small, HEIGHT, WIDTH)
    assert set(found) == {layer.name for layer in child.layers if layer.weights}
    for layer in child.layers:
        if layer.weights:
            layer.set_weights(found[layer.name])
    before = outputs(parent)
    silence(parent, found, choice)
    assert np.abs(outputs(child) - outputs(parent)).max() <= 1e-5
    assert np.abs(before - outputs(parent)).max() > 1e-5  # what went had a part in the output


def test_l1_keeps_the_filters_of_largest_norm_in_their_order_and_random_depends_on_the_seed() -> None:
    parent = parent_of(LENET5)
    weights, small = weights_of(parent), prune(LENET5, 50)
    kernel = weights["image_conv1"][0]
    found = inherited(LENET5, small, HEIGHT, WIDTH, weights, L1, seed=1)
    best = sorted(np.argsort(np.abs(kernel).sum(axis=(0, 1, 2)))[-3:])
    assert np.array_equal(found["image_conv1"][0], kernel[..., best])
    drawn = [inherited(LENET5, small, HEIGHT, WIDTH, weights, RANDOM, seed)["image_dense1"][1] for seed in (1, 1, 2)]
    assert np.array_equal(drawn[0], drawn[1])
    assert not np.array_equal(drawn[0], drawn[2])


def kernels(path: Path) -> list[np.ndarray]:
    """Return the kernels of a kept network's convolutions."""
    model = models.load_model(path)
    return [layer.get_weights()[0] for layer in model.layers if isinstance(layer, keras.layers.Conv2D)]


def run_of(choice: str) -> PruneTrainSpec:
    """Return a run whose pruned networks begin with weights of this choice."""
    rules = Rules(factors=(50, 33.33), max_iterations=1, initialise=choice)
    still = SPEC.replace(epochs=1, learning_rate=1e-12)  # so small that no kernel moves
    return PruneTrainSpec(dataset="moles", network=NETWORK, training=still, rules=rules)


def trained_step(spec: PruneTrainSpec, state: State, folder: Path) -> tuple[StepResult, State]:
    """Train a run's next step; return its result and the state after it."""
    step = steps.next_training(spec, state)
    assert isinstance(step, Step)
    *_, result = steps.train_step(spec, step, DATA_OF_RUN, folder)
    assert isinstance(result, StepResult)
    return judged(state, step, result)


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, StepResult]:
    """Give the folder and the result of the first step, which is the same whatever the choice."""
    folder = tmp_path_factory.mktemp("original")
    return folder, trained_step(run_of(SCRATCH), steps.first_state(run_of(SCRATCH)), folder)[0]


@pytest.mark.parametrize("choice", [SCRATCH, L1, RANDOM])
def test_a_pruned_step_begins_with_the_weights_of_the_network_that_was_shrunk(
    original: tuple[Path, StepResult], tmp_path: Path, choice: str
) -> None:
    spec, (folder, result) = run_of(choice), original
    shutil.copytree(folder, tmp_path, dirs_exist_ok=True)
    begun = steps.first_state(spec)
    _, state = judged(begun, steps.next_training(spec, begun), result)
    pruned, state = trained_step(spec, state, tmp_path)
    assert [result.name, pruned.name] == ["Original", "R1: 50%"]
    assert isinstance(steps.next_training(spec, state), Stop)
    large, small = kernels(tmp_path / "0.keras"), kernels(tmp_path / "1.keras")
    first = [
        np.isclose(large[0], filter_[..., None], atol=1e-6).all(axis=(0, 1, 2)).any() for filter_ in columns(small[0])
    ]
    assert all(first) is (choice != SCRATCH)


def columns(kernel: np.ndarray) -> list[np.ndarray]:
    return [kernel[..., place] for place in range(kernel.shape[-1])]


def test_the_network_that_was_shrunk_is_named_by_the_step(tmp_path: Path) -> None:
    state = start(LENET5, Rules(factors=(50, 33.33)))
    good = dict.fromkeys(CRITERIA, 99.0)
    for figures in (good, good, dict.fromkeys(CRITERIA, 1.0)):
        step = next_step(state)
        assert isinstance(step, Step)
        state = record(state, step, figures)
    step = next_step(state)
    assert isinstance(step, Step)
    assert (step.name, step.base) == ("R1, R2: 50%, 33%", Step(1, (50,), prune(LENET5, 50)))


def test_a_network_shrunk_from_one_that_could_not_be_trained_takes_the_weights_before_it() -> None:
    state = start(LENET5, Rules(factors=(50,), on_reject=CONTINUE, max_failures=9))
    good = dict.fromkeys(CRITERIA, 99.0)
    for number, figures in enumerate((good, good, None, None)):
        step = next_step(state)
        assert isinstance(step, Step)
        assert (step.index, len(step.factors)) == (number, number)
        state = record(state, step, figures, "" if figures else "killed three times")
    step = next_step(state)
    assert isinstance(step, Step)
    assert step.factors == (50, 50, 50, 50)
    assert step.base == Step(1, (50,), prune(LENET5, 50))


def test_weights_that_this_host_does_not_have_leave_the_step_to_another_host(tmp_path: Path) -> None:
    spec = PruneTrainSpec(dataset="moles", network=LENET5, rules=Rules(initialise=L1))
    state = record(steps.first_state(spec), Step(0, (), LENET5), dict.fromkeys(CRITERIA, 99.0))
    step = next_step(state)
    assert isinstance(step, Step)
    with pytest.raises(NotOnThisHost, match=r"Expected the weights of Original at .*0\.keras"):
        steps.initial_weights(spec, step, tmp_path, seed=1)


def test_a_checkpoint_of_other_initial_weights_is_refused(tmp_path: Path) -> None:
    model = models.compiled_model(NETWORK, SPEC)
    one = weights_of(model)
    other = {name: [each + 1 for each in arrays] for name, arrays in one.items()}
    spec = SPEC.replace(epochs=1)
    list(loop.train(NETWORK, DATA, spec, tmp_path, initial=one))
    with pytest.raises(SpecError):
        list(loop.train(NETWORK, DATA, spec, tmp_path, initial=other))
