"""Dense layers of low rank: the best approximation of each kernel, counted as Keras counts it, close in its answers."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np
import pytest

from core.deployment import conversion, latency
from core.networks.architectures import LENET5, Dense, NetworkSpec
from core.networks.costs import network_cost
from core.networks.factoring import factored, factors, rank_of
from core.predictions.classification import classify
from core.predictions.rows import prediction_frame
from core.training import loop, models, steps
from core.training.algorithm2 import Step, Stop
from core.training.evaluation import predicted, right_answers
from core.training.results import StepResult
from core.training.specs import BFLOAT16, TrainSpec
from core.training.svd_dense import Wanted, factored_results
from tests.test_lost_networks import DATA_OF_RUN
from tests.test_training import HEIGHT, SPEC, WIDTH

SIZE = (HEIGHT, WIDTH)


def kernel(inputs: int = 30, units: int = 20, rank: int | None = None) -> np.ndarray:
    generator = np.random.default_rng(1)
    rank = min(inputs, units) if rank is None else rank
    return generator.normal(size=(inputs, rank)) @ generator.normal(size=(rank, units))


@pytest.mark.parametrize("rank", [1, 5, 20])
def test_the_error_of_a_layer_is_that_of_the_dropped_singular_values(rank: int) -> None:
    given = kernel()
    first, second = factors(np.linalg.svd(given, full_matrices=False), rank)
    error, values = given - first @ second, np.linalg.svd(given, compute_uv=False)
    assert (first.shape, second.shape) == ((30, rank), (rank, 20))
    assert np.square(error).sum() == pytest.approx(np.square(values[rank:]).sum(), abs=1e-9)  # Eckart and Young
    assert np.linalg.norm(error, 2) == pytest.approx(values[rank] if rank < 20 else 0, abs=1e-9)


@pytest.mark.parametrize(
    ("energy", "rank"), [(1, 1), (71.1, 1), (71.2, 2), (88.8, 2), (88.9, 3), (98.8, 3), (98.9, 4), (100, 4)]
)
def test_the_rank_is_the_smallest_that_keeps_the_energy(energy: float, rank: int) -> None:
    # Squares 64, 16, 9 and 1 of 90: 71.11, 88.89, 98.89 and 100 %.
    assert rank_of(np.array([8.0, 4.0, 3.0, 1.0]), energy) == rank
    assert rank_of(np.zeros(4), energy) == 1


def weights_of(network=LENET5, rank: int | None = None) -> dict[str, list[np.ndarray]]:
    """Return the weights of a network; rank: of the kernels of its dense layers after flatten."""
    model = models.seeded_model(network, SPEC)
    found = {layer.name: layer.get_weights() for layer in model.layers if layer.weights}
    if rank is not None:
        for name in ("image_dense1", "image_dense2"):
            shape = found[name][0].shape
            found[name][0] = (0.1 * kernel(*shape, rank=rank)).astype(np.float32)
    return found


def answers(network, weights) -> np.ndarray:
    model = models.model_with(network, SPEC, weights)
    return models.probabilities(model, DATA_OF_RUN, DATA_OF_RUN.split.test, 4)


def test_kernels_of_low_rank_are_replaced_without_a_change_of_the_answers() -> None:
    weights = weights_of(rank=3)
    ((energy, network, found),) = factored(LENET5, *SIZE, weights, [99.9999])
    assert (energy, network.image[-2:]) == (99.9999, (Dense(84, 3), Dense(120, 3)))
    assert np.abs(answers(network, found) - answers(LENET5, weights)).max() <= 1e-5


def test_a_layer_that_two_matrices_would_not_make_smaller_stays_as_it_is() -> None:
    weights = weights_of()
    ((_, network, found),) = factored(LENET5, *SIZE, weights, [100])
    assert network == LENET5
    assert all(np.array_equal(*pair) for name in weights for pair in zip(weights[name], found[name], strict=True))


def test_more_energy_keeps_more_parameters_and_the_counts_are_those_of_keras() -> None:
    counted = []
    for _, network, found in factored(LENET5, *SIZE, weights_of(), (50, 70, 90)):
        model, cost = models.model_with(network, SPEC, found), network_cost(network, *SIZE)
        assert sum(int(np.prod(each.shape)) for each in model.trainable_variables) == cost.parameters
        assert model.count_params() == cost.parameters + cost.statistics
        counted.append(cost.parameters)
    assert counted == sorted(counted)
    assert 0 < counted[0] < counted[-1] < network_cost(LENET5, *SIZE).parameters


def test_a_network_that_has_such_layers_already_keeps_them() -> None:
    ((_, once, weights),) = factored(LENET5, *SIZE, weights_of(), [70])
    ((_, twice, again),) = factored(once, *SIZE, weights, [10])
    assert twice == once
    assert weights.keys() == again.keys()


@pytest.fixture(scope="module", params=["float32", BFLOAT16])
def trained(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory):
    folder = tmp_path_factory.mktemp("trained")
    spec = TrainSpec(dataset="moles", network=LENET5, training=SPEC.replace(precision=request.param))
    events = [event for event in steps.run_here(spec, DATA_OF_RUN, folder) if not isinstance(event, Stop)]
    ((_, result),) = [event for event in events if isinstance(event[0], Step) and isinstance(event[1], StepResult)]
    return spec, result, folder / "0.keras"


def test_all_the_energy_gives_the_figures_of_the_step(trained) -> None:
    spec, step, path = trained
    (found,) = factored_results(spec, step, DATA_OF_RUN, path, Wanted([100]), {})
    assert (found.parameters, found.macs, found.bytes_weights) == (step.parameters, step.macs, step.bytes_weights)
    assert found.classification == {"test": step.classification["test"]}
    assert (found.agreement, found.difference, found.difference_low) == (100, 0, 0)
    assert found.test_accuracy == step.figures["test_accuracy"]


def test_little_energy_gives_the_answers_of_the_truncated_kernels(trained) -> None:
    spec, step, path = trained
    (found,) = factored_results(spec, step, DATA_OF_RUN, path, Wanted([20]), {})
    ((_, network, weights),) = factored(LENET5, *SIZE, models.weights_of(path), [20])
    # The same product in one layer: the network itself with kernels of low rank.
    whole = {name: values for name, values in weights.items() if not name.endswith("_factor")}
    for name in ("image_dense1", "image_dense2"):
        whole[name] = [weights[f"{name}_factor"][0] @ whole[name][0], whole[name][1]]
    indices = list(DATA_OF_RUN.split.test)
    expected = loop.predict(models.model_with(LENET5, spec.training, whole), DATA_OF_RUN, spec.training)["test"]
    assert network.image[-1].rank is not None
    if spec.training.precision == "float32":
        assert found.test_accuracy == classify(expected, DATA_OF_RUN.labels[indices]).accuracy
    rows = prediction_frame(step.predictions)
    own = rows[rows["split"] == "test"].set_index("image_id")["predicted"]
    same = [own[image] == label for image, label in found.predicted.items()]
    assert found.agreement == 100 * sum(same) / len(same)
    assert len(same) == len(indices)


def test_the_difference_to_the_unpruned_network_is_paired(trained, tmp_path: Path) -> None:
    spec, step, path = trained
    unpruned = right_answers(step.predictions)
    (at_first,) = factored_results(spec, step, DATA_OF_RUN, path, Wanted([20]), {})
    later = StepResult.from_dict(step.to_dict() | {"step": 1})
    (known,) = factored_results(spec, later, DATA_OF_RUN, path, Wanted([20]), unpruned)
    (unknown,) = factored_results(spec, later, DATA_OF_RUN, path, Wanted([20]), {})
    assert at_first.difference == known.difference == pytest.approx(known.test_accuracy - step.figures["test_accuracy"])
    assert unknown.difference is None


@pytest.mark.parametrize("trained", ["float32"], indirect=True)
def test_fine_tuning_trains_the_factored_network_on_and_keeps_its_size(trained, tmp_path: Path) -> None:
    spec, step, path = trained
    lines: list[str] = []
    before, after = factored_results(
        spec, step, DATA_OF_RUN, path, Wanted([20], fine_tune_epochs=2), {}, tell=lines.append
    )
    assert (before.fine_tune_epochs, after.fine_tune_epochs) == (0, 2)
    assert (after.network, after.parameters, after.macs) == (before.network, before.parameters, before.macs)
    ((_, network, weights),) = factored(LENET5, *SIZE, models.weights_of(path), [20])
    longer = spec.training.replace(epochs=2)
    history = list(loop.train(network, DATA_OF_RUN, longer, tmp_path, spec.thresholds, initial=weights))
    chances = loop.predict(loop.kept_model(network, longer, tmp_path), DATA_OF_RUN, longer)["test"]
    rows = prediction_frame(predicted(DATA_OF_RUN, {"test": chances}))
    assert after.predicted == dict(zip(rows["image_id"], rows["predicted"], strict=True))
    assert [line.partition(":")[0] for line in lines] == ["20 %, 1 epoch", "20 %, 2 epochs"]
    assert f"{history[-1].validation_accuracy:.2f} %" in lines[-1]


@pytest.mark.parametrize("trained", ["float32"], indirect=True)
def test_each_network_gets_its_own_latency_beside_that_of_the_network_itself(
    trained, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec, step, path = trained
    sizes: list[int] = []

    def counted(weights: Path, network: NetworkSpec, *others: object) -> None:
        assert models.load_model(weights).count_params() == models.seeded_model(network, SPEC).count_params()
        sizes.append(network_cost(network, *SIZE).parameters)

    def as_long_as_it_is_large(files: list[latency.NetworkFile]) -> list[SimpleNamespace]:
        return [SimpleNamespace(threads=n, wall_median=n * sizes[each.step]) for each in files for n in (1, 2)]

    monkeypatch.setattr(conversion, "converted", counted)
    monkeypatch.setattr(latency, "latencies", as_long_as_it_is_large)
    *first, low, high = factored_results(spec, step, DATA_OF_RUN, path, Wanted([20, 80], latency=True), {})
    assert [each.latency for each in first] == [None, None]
    assert first == [replace(each, latency=None, latency_itself=None) for each in (low, high)]
    assert (low.latency, high.latency) == (low.parameters, high.parameters)
    assert low.latency_itself == high.latency_itself == step.parameters
