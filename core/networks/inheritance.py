"""Initial weights of a pruned network from the network that it was pruned from.

The article trains every pruned network from fresh weights. Here it can keep the filters and units of largest L1 norm
(Li et al. 2017, Pruning Filters for Efficient ConvNets), or, as a control, as many drawn at random.

A layer that keeps fewer filters or units also tells the next layer which of its inputs are left. After a flatten, input
number place · channels + channel belongs to a channel. The head's first layer sees the image branch before the
metadata. If the units that go were silenced in the larger network instead (kernel, bias, gamma and beta 0), both
networks would compute the same.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from core.networks.architectures import (
    CHANNELS,
    METADATA_FEATURES,
    BatchNorm,
    Concatenate,
    Conv,
    Dense,
    Flatten,
    NetworkSpec,
    PlacedLayer,
    Residual,
    factor_name,
    walk,
)

SCRATCH, L1, RANDOM = "scratch", "l1", "random"
INITIALISE: dict[str, str] = {
    SCRATCH: "Fresh weights, as in the article.",
    L1: "The filters and units of largest L1 norm of the network that is shrunk, with their weights.",
    RANDOM: "As many of its filters and units, drawn at random: a control for l1.",
}

Array = npt.NDArray[Any]
Weights = dict[str, list[Array]]  # by layer, as Keras orders them: kernel and bias, or gamma, beta, mean and variance
Places = npt.NDArray[np.int64]  # ascending


def inherited(
    parent: NetworkSpec, child: NetworkSpec, height: int, width: int, weights: Mapping[str, Sequence[Array]],
    choice: str, seed: int,
) -> Weights:  # fmt: skip
    """Return the child's weights; weights: the parent's, by layer. choice: `L1` or `RANDOM`, for which seed counts.

    child: a network that `core.networks.pruning.prune` made of the parent, once or several times.
    """
    inheritance = _Inheritance(weights, choice, np.random.default_rng(seed))
    for large, small in zip(walk(parent, height, width), walk(child, height, width), strict=True):
        inheritance.pass_on(large, small)
    return inheritance.found


class _Inheritance:
    """What is left of each branch on the way through the layers. left: places of the parent's channels or units."""

    def __init__(self, weights: Mapping[str, Sequence[Array]], choice: str, generator: np.random.Generator) -> None:
        self.weights, self.choice, self.generator = weights, choice, generator
        self.left: dict[str, Places] = {"image": np.arange(CHANNELS), "metadata": np.arange(len(METADATA_FEATURES))}
        self.found: Weights = {}

    def pass_on(self, large: PlacedLayer, small: PlacedLayer) -> None:
        """Cut one layer's weights for the child, and note what is left after it."""
        name, branch = large.name, large.branch
        match small.layer:
            case Concatenate():
                (image,) = large.input_shape
                self.left["head"] = np.concatenate([self.left["image"], image + self.left["metadata"]])
            case Dense(size, int(rank)):
                first, second = self.weights[factor_name(name)][0], self.weights[name]
                kept = self.kept(first @ second[0], size)
                self.found[factor_name(name)] = [first[self.left[branch]]]
                self.found[name] = cut(second, np.arange(rank), kept)
                self.left[branch] = kept
            case Conv(size) | Dense(size):
                kept = self.kept(self.weights[name][0], size)
                self.found[name] = cut(self.weights[name], self.left[branch], kept)
                self.left[branch] = kept
            case BatchNorm():
                self.normalise(name, self.left[branch])
            case Flatten():
                height, width, channels = large.input_shape
                places = np.arange(height * width)[:, None] * channels
                self.left[branch] = (places + self.left[branch]).ravel()
            case Residual(size):
                self.left[branch] = self.block(name, self.left[branch], size, small)
            case _:
                pass

    def kept(self, kernel: Array, size: int) -> Places:
        """Return which outputs of a kernel stay."""
        outputs = kernel.shape[-1]
        if size >= outputs:
            return np.arange(outputs)
        if self.choice == RANDOM:
            return np.sort(self.generator.choice(outputs, size, replace=False))
        norms = np.abs(kernel, dtype=np.float64).sum(axis=tuple(range(kernel.ndim - 1)))
        return np.sort(np.argsort(-norms, kind="stable")[:size])

    def normalise(self, name: str, left: Places) -> None:
        """Keep what batch normalisation has learnt of the channels that are left."""
        self.found[name] = [each[left] for each in self.weights[name]]

    def block(self, name: str, left: Places, size: int, small: PlacedLayer) -> Places:
        """Cut a residual block. Its shortcut and its second convolution keep the same filters."""
        first, second, shortcut = f"{name}_conv1", f"{name}_conv2", f"{name}_projection"
        inner = self.kept(self.weights[first][0], size)
        projected = shortcut in self.weights
        whole = self.weights[second][0].shape[-1]
        direct = not projected and len(left) == size < whole  # what is left of the input is what is left of the output
        kept = left if direct else self.kept(self.weights[second][0], size)
        self.found[first] = cut(self.weights[first], left, inner)
        self.normalise(f"{name}_batch_norm1", inner)
        self.found[second] = cut(self.weights[second], inner, kept)
        self.normalise(f"{name}_batch_norm2", kept)
        if small.input_shape[-1] != size:  # the child's block has a projection
            self.found[shortcut] = (
                cut(self.weights[shortcut], left, kept) if projected else [passing(left, kept), np.zeros(size)]
            )
        return kept


def cut(weights: Sequence[Array], left: Places, kept: Places) -> list[Array]:
    """Return kernel and bias without the inputs and the outputs that go."""
    kernel, bias = weights
    return [kernel[..., left, :][..., kept], bias[kept]]


def passing(left: Places, kept: Places) -> Array:
    """Return the kernel of a 1×1 convolution that passes a channel on to the filter of the same place."""
    same: Array = (left[:, None] == kept[None, :]).astype(np.float32)
    return same[None, None]
