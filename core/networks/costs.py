"""The cost of a network from its layer records: parameters, multiply-accumulates, bytes; and parameter curves.

No network is built, and neither Keras nor TensorFlow is imported. The functions that return tables import pandas, so
that counting adds no start-up time.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from itertools import product
from math import prod
from typing import TYPE_CHECKING, Any

from core.errors import SpecError
from core.networks.architectures import (
    MOST_PARAMETERS,
    MOST_VALUES,
    TYPE_OF,
    BatchNorm,
    Conv,
    Dense,
    Dropout,
    MaxPool,
    NetworkError,
    NetworkSpec,
    PlacedLayer,
    Residual,
    ZeroPad,
    walk,
)
from core.networks.pruning import Factor, iterations, kept_share

if TYPE_CHECKING:
    import pandas as pd

QUANTITIES = ("parameters", "macs", "bytes_weights", "bytes_with_optimizer")  # of `Cost`, that a curve may show
BYTES_A_NUMBER = 4  # float32
ADAM_SLOTS = 2  # first and second moment of every learnable parameter


@dataclass(frozen=True, slots=True)
class Cost:
    """The cost of one layer or one network.

    parameters: learnable numbers. statistics: running means and variances of batch normalisation, which are saved but
    not learnt. macs: multiply-accumulates of one image's forward pass, one per weight and output position of
    convolutions and dense layers; biases, pooling, normalisation, activations and the residual sum are not counted.
    """

    parameters: int = 0
    statistics: int = 0
    macs: int = 0

    def __add__(self, other: Cost) -> Cost:
        """Return the cost of both."""
        return Cost(self.parameters + other.parameters, self.statistics + other.statistics, self.macs + other.macs)

    @property
    def bytes_weights(self) -> int:
        """Bytes of the weights in float32: learnable parameters and running statistics.

        A file has further tens of kilobytes of headers.
        """
        return BYTES_A_NUMBER * (self.parameters + self.statistics)

    @property
    def bytes_with_optimizer(self) -> int:
        """Bytes of a checkpoint for resuming: weights and Adam's two moments of each parameter.

        Adam's step counter and learning rate are not counted.
        """
        return self.bytes_weights + BYTES_A_NUMBER * ADAM_SLOTS * self.parameters


def convolution_cost(kernel: int, channels: int, filters: int, positions: int) -> Cost:
    """Return the cost of a convolution, biases included, with `positions` output pixels."""
    weights = kernel * kernel * channels * filters
    return Cost(weights + filters, 0, weights * positions)


def normalisation_cost(channels: int) -> Cost:
    """Return the cost of a batch normalisation: gamma and beta, running mean and variance."""
    return Cost(2 * channels, 2 * channels, 0)


def layer_cost(placed: PlacedLayer) -> Cost:
    """Return the cost of a layer."""
    shape = placed.input_shape
    match placed.layer:
        case Conv(filters, kernel):
            height, width, _ = placed.output_shape
            return convolution_cost(kernel, shape[2], filters, height * width)
        case Dense(units, rank):
            weights = shape[0] * units if rank is None else (shape[0] + units) * rank
            return Cost(weights + units, 0, weights)
        case BatchNorm():
            return normalisation_cost(shape[-1])
        case Residual(filters, kernel):
            height, width, channels = shape
            cost = convolution_cost(kernel, channels, filters, height * width) + normalisation_cost(filters)
            cost += convolution_cost(kernel, filters, filters, height * width) + normalisation_cost(filters)
            return cost if channels == filters else cost + convolution_cost(1, channels, filters, height * width)
        case _:
            return Cost()


def network_cost(spec: NetworkSpec, height: int, width: int) -> Cost:
    """Return the cost of a network for images of height × width. Raises SpecError where the size is too small."""
    return sum((layer_cost(placed) for placed in walk(spec, height, width)), Cost())


def quantities(cost: Cost) -> tuple[int, ...]:
    """Return a cost's `QUANTITIES`, in their order."""
    return tuple(getattr(cost, name) for name in QUANTITIES)


def check_trainable(spec: NetworkSpec, height: int, width: int) -> None:
    """Raise NetworkError where a network is too large to be trained at a size; ignore a size that is too small."""
    try:
        layers = list(walk(spec, height, width))
    except NetworkError:
        return
    for placed in layers:
        if (values := prod(placed.output_shape)) > MOST_VALUES:
            wanted = f"Expected layers of {spec.name} with at most {MOST_VALUES:,} numbers per image"
            raise NetworkError(f"{wanted}, got {values:,} at {placed.name}.", (placed.branch,))
    parameters = sum(layer_cost(placed).parameters for placed in layers)
    if parameters > MOST_PARAMETERS:
        wanted = f"Expected {spec.name} to have at most {MOST_PARAMETERS:,} parameters at {height}×{width}"
        raise NetworkError(f"{wanted}, got {parameters:,}.", ("image",))


def layer_row(placed: PlacedLayer) -> dict[str, object]:
    """Return a layer like a row of the article's tables, with output shape and cost; None for what does not apply."""
    size: int | None = None
    kernel: int | None = None
    stride: int | None = None
    detail = ""
    match placed.layer:
        case Conv(size, kernel, stride, padding):
            detail = "same padding" if padding == "same" else "no padding"
        case Residual(size, kernel):
            stride, channels = 1, placed.input_shape[2]
            projection = f"1×1 projection of {channels} channels" if channels != size else "identity"
            detail = f"two convolutions, {projection}"
        case MaxPool(kernel) as pool:
            stride = pool.step
        case ZeroPad(kernel):
            detail = "zeros on each side"
        case Dense(size, rank):
            detail = "" if rank is None else f"two matrices of rank {rank}"
        case Dropout(rate):
            detail = f"drops {100 * rate:g} %"
    cost = layer_cost(placed)
    return {
        "branch": placed.branch,
        "name": placed.name,
        "type": TYPE_OF[type(placed.layer)],
        "size": size,
        "kernel": None if kernel is None else f"{kernel}×{kernel}",
        "stride": None if stride is None else f"{stride}×{stride}",
        "detail": detail,
        "output_shape": "×".join(str(extent) for extent in placed.output_shape),
        **asdict(cost),
    }


def layer_table(spec: NetworkSpec, height: int, width: int) -> pd.DataFrame:
    """Return the network's layers in the form of the article's Tables 1 and 3, one `layer_row` each.

    size: filters or units, missing (Int64's NA) elsewhere. kernel: also a pooling's window and a padding's zeros.
    output_shape: rows × columns × channels.
    """
    import pandas as pd

    return pd.DataFrame([layer_row(placed) for placed in walk(spec, height, width)]).astype({"size": "Int64"})


def compare_layers(original: NetworkSpec, pruned: NetworkSpec, height: int, width: int) -> pd.DataFrame:
    """Return the pruned network's `layer_table` with the sizes and parameters before pruning.

    Further columns: size_before (Int64), parameters_before. Pruning neither adds nor removes layers.
    """
    before = layer_table(original, height, width)
    table = layer_table(pruned, height, width)
    return table.assign(size_before=before["size"], parameters_before=before["parameters"])


SIZE_COLUMNS = ("network", "height", "width", *QUANTITIES, "reason")


def size_table(networks: Iterable[NetworkSpec], sizes: Iterable[tuple[int, int]]) -> pd.DataFrame:
    """Return the cost of each network for images of each size (height, width), columns `SIZE_COLUMNS`.

    reason: why the network cannot be built at the size; the quantities are then missing (NA).
    """
    import pandas as pd

    rows: list[tuple[object, ...]] = []
    for spec, (height, width) in product(networks, dict.fromkeys(sizes)):
        try:
            rows.append((spec.name, height, width, *quantities(network_cost(spec, height, width)), None))
        except SpecError as error:
            rows.append((spec.name, height, width, *[None] * len(QUANTITIES), str(error)))
    return pd.DataFrame(rows, columns=list(SIZE_COLUMNS)).astype(dict.fromkeys(QUANTITIES, "Int64"))


CURVE_COLUMNS = ("network", "factor", "scope", "iteration", *QUANTITIES)
CurvePoint = tuple[Any, ...]  # one value for each of CURVE_COLUMNS


def curve_points(
    networks: Iterable[NetworkSpec],
    factors: Iterable[Factor],
    scopes: Iterable[str],
    count: int,
    height: int,
    width: int,
) -> Iterator[CurvePoint]:
    """Yield `CURVE_COLUMNS` of every network × factor × scope at iterations 0 (unpruned) to `count`.

    Factors are in percent. Raises SpecError for an unknown scope, an impossible factor or too small an image.
    """
    factors = {kept_share(factor): factor for factor in factors}.values()
    for spec, factor, scope in product(networks, factors, dict.fromkeys(scopes)):
        for iteration, pruned in enumerate(iterations(spec, factor, scope, count)):
            cost = network_cost(pruned, height, width)
            yield spec.name, float(factor), scope, iteration, *quantities(cost)


def curve_table(
    networks: Iterable[NetworkSpec],
    factors: Iterable[Factor],
    scopes: Iterable[str],
    iterations: int,
    height: int,
    width: int,
) -> pd.DataFrame:
    """Return `curve_points` as a table with the columns `CURVE_COLUMNS`; a curve has iterations + 1 rows."""
    import pandas as pd

    points = curve_points(networks, factors, scopes, iterations, height, width)
    return pd.DataFrame(list(points), columns=list(CURVE_COLUMNS))
