"""The article's pruning: no weights are removed; a smaller network is described, built and trained again.

N_new = ⌊N_old · (1 − P)⌋ (section 4.1), never below 1, for the convolutions in scope and the first two dense layers
after flatten. The arithmetic is exact: in floats, 10 · (1 − 0.9) is 0.9999… and its floor 0.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from decimal import Decimal
from fractions import Fraction

from core.errors import SpecError
from core.networks.architectures import Conv, Dense, Layer, NetworkSpec, Residual

Factor = int | float | str | Decimal | Fraction  # percent, 0 to 100

# The article's factors, in percent, in the order it tries them.
FACTORS: tuple[float, ...] = (50, 33.33, 16.5, 8.25)

# How many convolutions of the image branch shrink, from the first on; None is all of them.
SCOPES: dict[str, int | None] = {"all": None, "first": 1, "first_two": 2, "first_three": 3}
SCOPE_LABELS: dict[str, str] = {
    "all": "all convolutions",
    "first": "the first convolution",
    "first_two": "the first two convolutions",
    "first_three": "the first three convolutions",
}
PRUNED_DENSE_LAYERS = 2


def kept_share(factor: Factor) -> Fraction:
    """Return 1 − P exactly for a factor P in percent; 33.33 is exactly 3333/10000."""
    try:
        share = 1 - (factor if isinstance(factor, Fraction) else Fraction(str(factor))) / 100
    except (ValueError, ZeroDivisionError) as error:
        raise SpecError(f"Expected a pruning factor in percent, such as 33.33, got {factor!r}.") from error
    if not 0 < share < 1:
        raise SpecError(f"Expected a pruning factor above 0 and below 100 percent, got {factor}.")
    return share


def shrink(size: int, share: Fraction) -> int:
    """Return ⌊size · share⌋ in whole numbers, at least 1."""
    return max(1, size * share.numerator // share.denominator)


def prune(spec: NetworkSpec, factor: Factor, scope: str = "all") -> NetworkSpec:
    """Return the network one pruning step smaller: `factor` in percent, `scope` one of `SCOPES`.

    A residual block counts as one convolution layer and shrinks as a whole; a block outside the scope keeps its filters
    and projects its input. The metadata branch and the head keep their sizes, and a dense layer keeps its rank.
    """
    if scope not in SCOPES:
        raise SpecError(f"Expected a scope of {', '.join(SCOPES)}, got {scope!r}.")
    share = kept_share(factor)
    limit = SCOPES[scope]
    image: list[Layer] = list(spec.image)
    convolutions = [place for place, layer in enumerate(image) if isinstance(layer, Conv | Residual)][:limit]
    dense = [place for place, layer in enumerate(image) if isinstance(layer, Dense)][:PRUNED_DENSE_LAYERS]
    for place in (*convolutions, *dense):
        match image[place]:
            case Conv(filters) | Residual(filters) as layer:
                image[place] = replace(layer, filters=shrink(filters, share))
            case Dense(units) as layer:
                image[place] = replace(layer, units=shrink(units, share))
    return replace(spec, image=tuple(image))


def can_shrink(spec: NetworkSpec, factor: Factor, scope: str = "all") -> bool:
    """Return whether a further step changes the network; it does not once every layer in scope has size 1."""
    return prune(spec, factor, scope) != spec


def iterations(spec: NetworkSpec, factor: Factor, scope: str, count: int) -> Iterator[NetworkSpec]:
    """Yield the unpruned network (iteration 0), then the network after each of `count` steps: count + 1 networks."""
    if isinstance(count, bool) or not isinstance(count, int) or count < 0:
        raise SpecError(f"Expected a number of iterations of at least 0, got {count!r}.")
    yield spec
    for _ in range(count):
        spec = prune(spec, factor, scope)
        yield spec
