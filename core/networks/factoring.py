"""Dense layers of low rank: each dense layer of a trained network becomes two smaller ones, without new training.

The singular value decomposition of a kernel W (inputs × units) gives its best approximation of rank r (Eckart, Young
1936): W ≈ A B with A (inputs × r) and B (r × units). The first layer, A, has neither bias nor activation; the second
has those of the layer. Both get the square root of each singular value. It saves where r (inputs + units) is under
inputs · units; a layer for which it does not stays as it is.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt

from core.networks.architectures import Dense, NetworkSpec, factor_name, walk
from core.networks.inheritance import Weights
from core.specs import Number

ENERGIES: tuple[Number, ...] = (90, 95, 99, 99.9)  # percent, that are tried by default

Floats = npt.NDArray[np.float64]
Decomposition = tuple[Floats, Floats, Floats]  # as `numpy.linalg.svd` returns it


def factored_name(energy: float, fine_tune_epochs: int) -> str:
    """Return how a network with dense layers of low rank is named, such as `90 %` or `90 %, 5 epochs`."""
    epochs = f", {fine_tune_epochs} epoch{'s' if fine_tune_epochs > 1 else ''}" if fine_tune_epochs else ""
    return f"{energy:g} %{epochs}"


def rank_of(values: Floats, energy: float) -> int:
    """Return the smallest rank that keeps `energy` percent of the sum of the squared singular values.

    values: (rank,), descending.
    """
    kept = np.cumsum(np.square(values))
    return min(int(np.searchsorted(kept, energy / 100 * kept[-1])) + 1, len(values))


def factors(decomposition: Decomposition, rank: int) -> tuple[Floats, Floats]:
    """Return the matrices A (inputs, rank) and B (rank, units) whose product is the best approximation of that rank."""
    left, values, right = decomposition
    roots = np.sqrt(values[:rank])
    return left[:, :rank] * roots, roots[:, None] * right[:rank]


def factored(
    network: NetworkSpec, height: int, width: int, weights: Mapping[str, Sequence[npt.NDArray[Any]]],
    energies: Sequence[float],
) -> Iterator[tuple[float, NetworkSpec, Weights]]:  # fmt: skip
    """Yield for each energy, in percent, the network whose dense layers after flatten keep it, and its weights.

    weights: the network's, by layer. Each layer of the image branch is decomposed once. Layers of the other branches
    are small and stay.
    """
    placed = [each for each in walk(network, height, width) if each.branch == "image"]
    decomposed: dict[int, Decomposition] = {
        place: np.linalg.svd(np.asarray(weights[each.name][0], dtype=np.float64), full_matrices=False)
        for place, each in enumerate(placed)
        if isinstance(each.layer, Dense) and each.layer.rank is None
    }
    for energy in energies:
        layers = list(network.image)
        found = {name: list(arrays) for name, arrays in weights.items()}
        for place, decomposition in decomposed.items():
            name, (inputs, units) = placed[place].name, weights[placed[place].name][0].shape
            rank = rank_of(decomposition[1], energy)
            if rank * (inputs + units) >= inputs * units:
                continue
            layers[place] = Dense(units, rank)
            first, second = (each.astype(np.float32) for each in factors(decomposition, rank))
            found[factor_name(name)], found[name] = [first], [second, *weights[name][1:]]
        yield energy, replace(network, image=tuple(layers)), found
