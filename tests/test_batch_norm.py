"""Batch normalisation that is added to a network: where, how often, what it costs, and its name."""

from __future__ import annotations

import pytest

from core.networks.architectures import NETWORKS, BatchNorm, Conv, Dense, MaxPool, NetworkSpec, Residual
from core.networks.batch_norm import ALL, DENSE, PRINTED, with_batch_norm
from core.networks.costs import network_cost
from core.networks.plain_data import network_from_dict, network_to_dict
from core.networks.pruning import prune
from core.training.specs import TrainingProtocol, TrainSpec

SIZE = 200, 100
EACH = pytest.mark.parametrize("network", NETWORKS.values(), ids=NETWORKS)


def normalised(network: NetworkSpec, kind: type) -> list[bool]:
    """Return for each layer of a kind whether batch normalisation follows it, or its pooling."""
    found = []
    for place, layer in enumerate(network.image):
        if isinstance(layer, kind):
            after = [each for each in network.image[place + 1 :] if not isinstance(each, MaxPool)]
            found.append(bool(after) and isinstance(after[0], BatchNorm))
    return found


@EACH
def test_the_printed_choice_changes_nothing(network: NetworkSpec) -> None:
    assert with_batch_norm(network, PRINTED) is network


@EACH
@pytest.mark.parametrize("choice", [DENSE, ALL])
def test_batch_normalisation_follows_each_layer_of_the_choice_once(network: NetworkSpec, choice: str) -> None:
    changed = with_batch_norm(network, choice)
    assert all(normalised(changed, Dense))
    assert normalised(changed, Conv) == (
        normalised(network, Conv) if choice == DENSE else [True] * len(normalised(network, Conv))
    )
    pairs = zip(changed.image, changed.image[1:], strict=False)
    assert not any(isinstance(one, BatchNorm) and isinstance(next_, BatchNorm) for one, next_ in pairs)
    assert [each for each in changed.image if not isinstance(each, BatchNorm)] == [
        each for each in network.image if not isinstance(each, BatchNorm)
    ]
    assert (changed.metadata, changed.head) == (network.metadata, network.head)


@EACH
def test_the_cost_grows_by_four_numbers_for_each_normalised_unit(network: NetworkSpec) -> None:
    changed = with_batch_norm(network, DENSE)
    units = sum(layer.units for layer in network.image if isinstance(layer, Dense))
    before, after = network_cost(network, *SIZE), network_cost(changed, *SIZE)
    assert after.parameters - before.parameters == 2 * units
    assert after.statistics - before.statistics == 2 * units
    assert after.macs == before.macs


@EACH
@pytest.mark.parametrize("choice", [DENSE, ALL])
def test_pruning_and_adding_batch_normalisation_commute(network: NetworkSpec, choice: str) -> None:
    assert prune(with_batch_norm(network, choice), 50) == with_batch_norm(prune(network, 50), choice)


def test_the_name_tells_the_choice_and_plain_data_keep_it() -> None:
    for choice, name in ((DENSE, "alexnet+bn"), (ALL, "alexnet+bn-all")):
        changed = with_batch_norm(NETWORKS["alexnet"], choice)
        assert changed.name == name
        assert network_from_dict(network_to_dict(changed)) == changed


def test_a_run_trains_the_network_with_the_batch_normalisation_that_it_asks_for() -> None:
    spec = TrainSpec(dataset="moles", network=NETWORKS["lenet5"], training=TrainingProtocol(batch_norm=DENSE))
    assert spec.trained_network == with_batch_norm(NETWORKS["lenet5"], DENSE)
    assert spec.thresholds.validation_accuracy == 75
    assert "batch normalisation: dense" in spec.settings


def test_residual_blocks_keep_their_own_batch_normalisation_only() -> None:
    changed = with_batch_norm(NETWORKS["custom2"], ALL)
    blocks = [place for place, layer in enumerate(changed.image) if isinstance(layer, Residual)]
    assert blocks
    assert not any(isinstance(changed.image[place + 1], BatchNorm) for place in blocks)
