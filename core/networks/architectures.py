"""Networks as data: frozen layer records, the article's four specs, and the walk that computes every layer's shape.

Counting (`core.networks.costs`), pruning (`core.networks.pruning`) and building (`core.networks.keras_models`) use the
same records, so they cannot disagree. Nothing here needs Keras.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from core.errors import SpecError

CLASSES = ("melanoma", "nevus", "non_melanoma", "negative")
METADATA_FEATURES = ("age", "sex", "localization")
CHANNELS = 3
DEFAULT_HEIGHT, DEFAULT_WIDTH = 200, 100

Branch = Literal["image", "metadata", "head"]
Shape = tuple[int, ...]  # (height, width, channels), or (units,) once flat


class NetworkError(SpecError):
    """A network's description is invalid; `path` leads to the error, such as ("image", 3, "filters")."""

    def __init__(self, message: str, path: tuple[str | int, ...] = ()) -> None:
        """Keep the path beside the message, from which a reader of files finds the line."""
        super().__init__(message)
        self.path = path


# More than any image network needs; larger values are mistakes, or files made to exhaust a machine.
MOST_CHANNELS = 100_000  # filters of a convolution, units of a dense layer
MOST_PIXELS = 10_000  # sides of kernels, windows, strides, margins and images
MOST_PARAMETERS = 4 * 10**9  # 64 GB with gradients and Adam's moments
MOST_VALUES = 10**9  # of one layer's output for one image: 4 GB


def require_positive(word: str, most: int, **values: int) -> None:
    """Raise NetworkError unless every value is a whole number from 1 to `most`."""
    for field, value in values.items():
        if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= most:
            shown = "a number of more than 15 digits" if isinstance(value, int) and value >= 10**15 else repr(value)
            wanted = f"Expected the {field} of {word} to be a whole number from 1 to {most:,}"
            raise NetworkError(f"{wanted}, got {shown}.", (field,))


@dataclass(frozen=True, slots=True)
class Conv:
    """Square 2-D convolution with bias, then ReLU."""

    filters: int
    kernel: int
    stride: int = 1
    padding: str = "valid"

    def __post_init__(self) -> None:
        """Validate sizes and padding."""
        require_positive("conv", MOST_CHANNELS, filters=self.filters)
        require_positive("conv", MOST_PIXELS, kernel=self.kernel, stride=self.stride)
        if self.padding not in ("valid", "same"):
            raise NetworkError(
                f"Expected the padding of conv to be 'valid' or 'same', got {self.padding!r}.", ("padding",)
            )


@dataclass(frozen=True, slots=True)
class MaxPool:
    """Maximum over square windows, no padding; a stride of None equals the window's size."""

    size: int
    stride: int | None = None

    def __post_init__(self) -> None:
        """Validate the sizes."""
        require_positive("max_pool", MOST_PIXELS, size=self.size, stride=self.step)

    @property
    def step(self) -> int:
        """The stride in force."""
        return self.size if self.stride is None else self.stride


@dataclass(frozen=True, slots=True)
class ZeroPad:
    """`pad` rows and columns of zeros on each of the four sides."""

    pad: int

    def __post_init__(self) -> None:
        """Validate the pad."""
        require_positive("zero_pad", MOST_PIXELS, pad=self.pad)


@dataclass(frozen=True, slots=True)
class BatchNorm:
    """Batch normalisation over channels: gamma and beta are learnt, running mean and variance are not."""


@dataclass(frozen=True, slots=True)
class Dropout:
    """A share of the activations set to zero, in training only."""

    rate: float

    def __post_init__(self) -> None:
        """Validate the rate."""
        if isinstance(self.rate, bool) or not isinstance(self.rate, int | float) or not 0 <= self.rate < 1:
            raise NetworkError(f"Expected the rate of dropout to be from 0 to below 1, got {self.rate!r}.", ("rate",))


@dataclass(frozen=True, slots=True)
class Flatten:
    """All positions and channels as one vector."""


@dataclass(frozen=True, slots=True)
class GlobalAveragePool:
    """The mean of each channel, one number per channel; an alternative to Flatten."""


@dataclass(frozen=True, slots=True)
class Dense:
    """Fully connected with bias, then ReLU (softmax for the last of the head).

    rank: two matrices, inputs × rank and rank × units, take the place of one; None: one matrix.
    """

    units: int
    rank: int | None = None

    def __post_init__(self) -> None:
        """Validate the sizes."""
        require_positive("dense", MOST_CHANNELS, units=self.units)
        if self.rank is not None:
            require_positive("dense", MOST_CHANNELS, rank=self.rank)


@dataclass(frozen=True, slots=True)
class Residual:
    """Conv, BN, ReLU, Conv, BN, plus the block's input, then ReLU; `same` padding, so the size stays.

    Where the input does not have `filters` channels, a 1×1 convolution with bias and without BN projects it. This
    follows from the shapes and is not stored, so that pruning cannot make the two sides of the sum unequal.
    """

    filters: int
    kernel: int = 3

    def __post_init__(self) -> None:
        """Validate the sizes."""
        require_positive("residual", MOST_CHANNELS, filters=self.filters)
        require_positive("residual", MOST_PIXELS, kernel=self.kernel)


@dataclass(frozen=True, slots=True)
class Concatenate:
    """The outputs of image and metadata branch, concatenated; every head starts with it, files do not contain it."""


Layer = Conv | MaxPool | ZeroPad | BatchNorm | Dropout | Flatten | GlobalAveragePool | Dense | Residual | Concatenate

# Each layer with its word in a network's file and its name in the article's tables (Keras's own).
LAYERS: tuple[tuple[type[Layer], str, str], ...] = (
    (Conv, "conv", "Conv2D"),
    (MaxPool, "max_pool", "MaxPooling2D"),
    (ZeroPad, "zero_pad", "ZeroPadding2D"),
    (BatchNorm, "batch_norm", "BatchNormalization"),
    (Dropout, "dropout", "Dropout"),
    (Flatten, "flatten", "Flatten"),
    (GlobalAveragePool, "global_average_pool", "GlobalAveragePooling2D"),
    (Dense, "dense", "Dense"),
    (Residual, "residual", "Residual block"),
    (Concatenate, "concatenate", "Concatenate"),
)
WORD_OF = {layer: word for layer, word, _ in LAYERS}
TYPE_OF = {layer: name for layer, _, name in LAYERS}
WORDS = {word: layer for layer, word, _ in LAYERS if layer is not Concatenate}  # files do not contain it
FLATTENING = (Flatten, GlobalAveragePool)
SPATIAL = (Conv, MaxPool, ZeroPad, Residual)


@dataclass(frozen=True, slots=True)
class NetworkSpec:
    """One network: an image branch and a metadata branch, joined by concatenation, and the head after it.

    title: the network's name in a sentence. source: the article's table or the user's file it comes from.
    readings: choices where the source leaves something open; shown beside the network.
    The head's last Dense is the softmax over `CLASSES`.
    """

    name: str
    title: str
    source: str
    readings: tuple[str, ...]
    image: tuple[Layer, ...]
    metadata: tuple[Layer, ...]
    head: tuple[Layer, ...]

    def __post_init__(self) -> None:
        """Validate the order of the layers; `walk` validates the input's size."""
        check_image_branch(self.image)
        check_flat_branch("metadata", self.metadata)
        check_flat_branch("head", self.head)
        last = self.head[-1]
        if not isinstance(last, Dense) or last.units != len(CLASSES):
            raise NetworkError(
                f"Expected the last layer of head to be a dense of {len(CLASSES)} units, one per class, got {last}.",
                ("head", len(self.head) - 1),
            )


def check_image_branch(layers: tuple[Layer, ...]) -> None:
    """Raise NetworkError unless there is exactly one flattening, with spatial layers before and dense ones after."""
    flat = False
    for index, layer in enumerate(layers):
        word, path = WORD_OF[type(layer)], ("image", index)
        if isinstance(layer, Concatenate):
            raise NetworkError("Expected no concatenate in image, got one. The head begins with the only one.", path)
        if flat and isinstance(layer, SPATIAL + FLATTENING):
            raise NetworkError(
                f"Expected no {word} in image after it has become flat, got one as layer {index + 1}.", path
            )
        if not flat and isinstance(layer, Dense):
            raise NetworkError(
                f"Expected a flatten in image before the first dense, got dense as layer {index + 1}.", path
            )
        flat = flat or isinstance(layer, FLATTENING)
    if not flat:
        raise NetworkError("Expected a flatten or global_average_pool in image, got none.", ("image",))


def check_flat_branch(branch: Branch, layers: tuple[Layer, ...]) -> None:
    """Raise NetworkError unless the branch has layers, all for flat input."""
    if not layers:
        raise NetworkError(f"Expected at least one layer in {branch}, got none.", (branch,))
    for index, layer in enumerate(layers):
        if not isinstance(layer, Dense | Dropout | BatchNorm):
            raise NetworkError(
                f"Expected dense, dropout or batch_norm in {branch}, got {WORD_OF[type(layer)]} as layer {index + 1}.",
                (branch, index),
            )


@dataclass(frozen=True, slots=True)
class PlacedLayer:
    """A layer with its unique name, such as image_conv2, and the shapes before and after it."""

    branch: Branch
    name: str
    layer: Layer
    input_shape: Shape
    output_shape: Shape


def factor_name(name: str) -> str:
    """Return the name of a dense layer's first matrix where it has two; the second has the layer's own name."""
    return f"{name}_factor"


def output_shape(layer: Layer, shape: Shape) -> Shape:
    """Return the shape after a layer; a height or width below 1 means that nothing is left."""
    match layer:
        case Conv(filters, kernel, stride, padding):
            height, width, _ = shape
            if padding == "same":
                return (-(-height // stride), -(-width // stride), filters)
            return ((height - kernel) // stride + 1, (width - kernel) // stride + 1, filters)
        case MaxPool(size):
            height, width, channels = shape
            return ((height - size) // layer.step + 1, (width - size) // layer.step + 1, channels)
        case ZeroPad(pad):
            height, width, channels = shape
            return (height + 2 * pad, width + 2 * pad, channels)
        case Flatten():
            height, width, channels = shape
            return (height * width * channels,)
        case GlobalAveragePool():
            return (shape[2],)
        case Dense(units):
            return (units,)
        case Residual(filters):
            return (shape[0], shape[1], filters)
        case _:
            return shape


def walk_branch(spec: NetworkSpec, branch: Branch, layers: tuple[Layer, ...], shape: Shape) -> Iterator[PlacedLayer]:
    """Yield one branch's layers with names and shapes."""
    numbers: Counter[str] = Counter()
    before = shape
    for index, layer in enumerate(layers):
        word = WORD_OF[type(layer)]
        numbers[word] += 1
        name = f"{branch}_{word}{numbers[word]}"
        after = output_shape(layer, shape)
        if min(after) < 1:
            window = layer.kernel if isinstance(layer, Conv) else getattr(layer, "size", 1)
            raise NetworkError(
                f"Expected an input large enough for every layer of {spec.name}, got {before[0]}×{before[1]}, which "
                f"leaves nothing at {name}: it needs at least {window}×{window} and gets {shape[0]}×{shape[1]}.",
                (branch, index),
            )
        yield PlacedLayer(branch, name, layer, shape, after)
        shape = after


def walk(spec: NetworkSpec, height: int, width: int) -> Iterator[PlacedLayer]:
    """Yield every layer with its shapes for images of height × width: image branch, metadata branch, head.

    Raises NetworkError (a SpecError) with the layer whose output would be empty.
    """
    require_positive(f"{spec.name}'s input", MOST_PIXELS, height=height, width=width)
    inputs: dict[Branch, Shape] = {"image": (height, width, CHANNELS), "metadata": (len(METADATA_FEATURES),)}
    ends: dict[Branch, Shape] = {}
    for branch, shape in inputs.items():
        for placed in walk_branch(spec, branch, getattr(spec, branch), shape):
            ends[branch] = placed.output_shape
            yield placed
    joined = (ends["image"][0] + ends["metadata"][0],)
    yield PlacedLayer("head", "head_concatenate1", Concatenate(), ends["image"], joined)
    yield from walk_branch(spec, "head", spec.head, joined)


METADATA_BRANCH = (Dense(4), Dropout(0.2), Dense(6), Dense(2), Dropout(0.2), Dense(1))
SMALL_HEAD = (Dense(16), Dense(len(CLASSES)))
WIDE_HEAD = (Dense(8), Dense(len(CLASSES)))


def custom_block(filters: int, kernel: int) -> tuple[Layer, ...]:
    """Return a convolution with the layers that follow it in the article's custom networks (section 4.1)."""
    return (Conv(filters, kernel, padding="same"), MaxPool(2), BatchNorm(), Dropout(0.25))


COMMON_READINGS = (
    "Pixels are scaled to 0–1 inside the network.",
    "Every Conv2D and Dense has a bias and is followed by ReLU; the last Dense is a softmax over the 4 classes.",
    "The metadata branch drops 20 %; the article prints no rate.",
)
CUSTOM_READINGS = (
    "Convolutions keep the size (same padding); the article names none, and without it six poolings leave no pixel.",
    "Pooling is 2×2 with stride 2, and each block drops 25 %; the article prints neither.",
    "The head is the AlexNet network's, Dense 8 and Dense 4; the article prints none for the custom networks.",
)

LENET5 = NetworkSpec(
    name="lenet5",
    title="LeNet-5 based network",
    source="Table 1; Table 2 prints it again without dropout, pooling and batch normalisation",
    readings=(
        *COMMON_READINGS,
        "Convolutions take no padding and pooling's stride equals its size, as in LeNet-5; the tables print neither.",
    ),
    image=(
        *(Conv(6, 5), MaxPool(2), BatchNorm()),
        *(Conv(16, 5), MaxPool(2), BatchNorm()),
        Flatten(),
        *(Dense(84), Dense(120)),
    ),
    metadata=METADATA_BRANCH,
    head=SMALL_HEAD,
)

ALEXNET = NetworkSpec(
    name="alexnet",
    title="AlexNet-based network",
    source="Table 3",
    readings=(
        *COMMON_READINGS,
        "Table 3 prints no pooling, the text has max pooling: 3×3 with stride 2 after convolutions 1, 2 and 5, as in "
        "AlexNet.",
        "The printed zero padding is the only padding.",
        "The metadata branch is Table 1's, with its two dropouts, which Table 3 leaves out.",
    ),
    image=(
        *(Conv(64, 5, stride=2), MaxPool(3, 2)),
        *(ZeroPad(2), Conv(192, 5), MaxPool(3, 2)),
        *(ZeroPad(1), Conv(384, 3)),
        *(ZeroPad(1), Conv(384, 3)),
        *(ZeroPad(1), Conv(256, 3), MaxPool(3, 2)),
        Flatten(),
        *(Dense(1024), Dense(1024), Dense(512)),
    ),
    metadata=METADATA_BRANCH,
    head=WIDE_HEAD,
)

CUSTOM1 = NetworkSpec(
    name="custom1",
    title="Custom network 1",
    source="described in section 4.1, no table",
    readings=(*COMMON_READINGS, *CUSTOM_READINGS),
    image=(
        *custom_block(16, 7),
        *custom_block(48, 5),
        *custom_block(92, 3),
        *custom_block(192, 3),
        *custom_block(192, 3),
        *custom_block(256, 3),
        Flatten(),
        *(Dense(1024), Dense(1024), Dense(512)),
    ),
    metadata=METADATA_BRANCH,
    head=WIDE_HEAD,
)

CUSTOM2 = NetworkSpec(
    name="custom2",
    title="Custom network 2, with residual blocks",
    source="described in section 4.1, no table",
    readings=(
        *COMMON_READINGS,
        *CUSTOM_READINGS,
        "A residual block is two 3×3 convolutions, each with batch normalisation, and a 1×1 projection (with bias, "
        "without batch normalisation) where the channels differ; the article gives the filters only.",
        "The dense layers after flatten are 1024 and 512; the article names none.",
    ),
    image=(
        *custom_block(16, 5),
        *custom_block(32, 7),
        *custom_block(64, 3),
        *custom_block(96, 3),
        *custom_block(192, 3),
        *(Residual(192), Residual(256)),
        Flatten(),
        *(Dense(1024), Dense(512)),
    ),
    metadata=METADATA_BRANCH,
    head=WIDE_HEAD,
)

NETWORKS: dict[str, NetworkSpec] = {spec.name: spec for spec in (LENET5, ALEXNET, CUSTOM1, CUSTOM2)}
