"""Batch normalisation that the article does not print, added to a network's image branch.

At a learning rate of 0.002 Adam's first steps move the pre-activations of wide dense layers so far that every unit of
the head is at most 0 for every image. Its gradient is then 0, and the network is lost. Batch normalisation after the
dense layers keeps them apart. The article's Table 2 is its Table 1 without the rows of pooling, batch normalisation and
dropout, so Table 3 may have been shortened in the same way.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

from core.networks.architectures import BatchNorm, Conv, Dense, Layer, MaxPool, NetworkSpec

PRINTED, DENSE, ALL = "printed", "dense", "all"
BATCH_NORM: dict[str, str] = {
    PRINTED: "Only what the article prints.",
    DENSE: "After each dense layer of the image branch too.",
    ALL: "After each dense layer and each convolution (and its pooling) of the image branch too.",
}
SUFFIXES = {DENSE: "+bn", ALL: "+bn-all"}
PLACES = {
    DENSE: "each dense layer of the image branch",
    ALL: "each dense layer and each convolution, with its pooling, of the image branch",
}


def with_batch_norm(spec: NetworkSpec, choice: str) -> NetworkSpec:
    """Return the network with batch normalisation added by a choice of `BATCH_NORM`; its name tells, as alexnet+bn.

    No layer gets a second one, and residual blocks have their own. `PRINTED` returns the network itself.
    """
    if choice == PRINTED:
        return spec
    return replace(
        spec,
        name=spec.name + SUFFIXES[choice],
        readings=(
            *spec.readings,
            f"Batch normalisation is added after {PLACES[choice]}; the article does not print it.",
        ),
        image=tuple(_normalised(spec.image, (Dense,) if choice == DENSE else (Dense, Conv))),
    )


def printed_name(name: str) -> str:
    """Return a network's name without the added batch normalisation: alexnet for alexnet+bn."""
    return name.partition("+")[0]


def _normalised(layers: Sequence[Layer], kinds: tuple[type[Layer], ...]) -> Iterator[Layer]:
    for place, layer in enumerate(layers):
        yield layer
        following = layers[place + 1] if place + 1 < len(layers) else None
        pooled = isinstance(layer, MaxPool) and place > 0 and isinstance(layers[place - 1], Conv) and Conv in kinds
        ends = isinstance(layer, kinds) and not (isinstance(layer, Conv) and isinstance(following, MaxPool))
        if (ends or pooled) and not isinstance(following, BatchNorm):
            yield BatchNorm()
