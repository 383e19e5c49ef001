"""What a training is asked to do: the protocol, the baseline, the rules of Algorithm 2, and the specs of the runs."""

from __future__ import annotations

import itertools
import operator
from collections.abc import Collection, Iterator, Mapping, Sequence
from functools import partial
from typing import Annotated, Any, ClassVar, Self, cast

import annotated_types as at
from pydantic import (
    AfterValidator,
    Field,
    PlainSerializer,
    PlainValidator,
    ValidationInfo,
    computed_field,
    field_validator,
    model_validator,
)

from core.data.datasets import Dataset
from core.data.splits import SPLITS, Split, Targets, cached_split, require_sets
from core.errors import SpecError
from core.networks.architectures import NetworkSpec, walk
from core.networks.batch_norm import BATCH_NORM, DENSE, PRINTED, printed_name, with_batch_norm
from core.networks.costs import check_trainable
from core.networks.inheritance import INITIALISE, SCRATCH
from core.networks.plain_data import network_from_dict, network_to_dict
from core.networks.pruning import FACTORS, SCOPES
from core.specs import LARGEST_SEED, Number, Setting, Spec, Switch, Text, Whole, spec_of_kind

DEVICES = ("auto", "cpu", "gpu")
MOST_EPOCHS = 100_000
MOST_STEPS = 10_000  # of a run, or failures in it: no network shrinks so often

# What is shrunk after a rejection, and by which factor.
STOP_AT_ACCEPTED, CONTINUE = "stop at accepted", "continue"
ON_REJECT: dict[str, str] = {
    STOP_AT_ACCEPTED: "Go back to the last accepted network and shrink it by the next factor.",
    CONTINUE: (
        "Shrink the rejected network on by the same factor, where that factor led to the last accepted network or is "
        "the last one; a factor that failed at its first attempt gives way to the next, from the last accepted network."
    ),
}

# How a pruned network's test figures decide.
POINTS, NONINFERIOR = "points", "noninferior"
ACCEPT: dict[str, str] = {
    POINTS: "Each test figure may be at most the tolerance below the unpruned network's (the article's rule).",
    NONINFERIOR: (
        "The lower end of the 95 % paired interval of the difference in test accuracy must not be below the tolerance."
    ),
}

# Keras's own defaults for a network that is taught by another.
TEMPERATURE, TEACHER_WEIGHT = 3.0, 0.5

# How the learning rate changes after the warm-up.
CONSTANT, COSINE = "constant", "cosine"

# With how many bits a network is trained. Weights, the last layer and the loss always have 32.
FLOAT32, BFLOAT16, FLOAT16, AUTO = "float32", "bfloat16", "float16", "auto"
PRECISIONS = (FLOAT32, BFLOAT16, FLOAT16, AUTO)

# Where the sets come from.
DRAWN, GIVEN = "drawn", "given"

# The figures that decide, all in percent: the first criterion missed is the one that is named.
TRAINING = ("train_accuracy", "train_precision")
VALIDATION = ("validation_accuracy", "validation_precision")
TEST = ("test_accuracy", "test_precision", "test_recall")
CRITERIA = (*TRAINING, *VALIDATION, *TEST)
DIFFERENCE_LOW = "difference_low"  # the criterion of `NONINFERIOR`, in points: the lower end of the interval
ARTICLE_VALIDATION = {"lenet5": 75.0}  # section 5.2: the shallow network's lower bar

# A network travels as the plain data of its layers, so that a worker elsewhere needs no file.
Network = Annotated[
    NetworkSpec,
    PlainValidator(lambda given: given if isinstance(given, NetworkSpec) else network_from_dict(given)),
    PlainSerializer(network_to_dict),
]


_Side = partial(Setting, ge=1, le=10_000, unit="pixels", flag="--size", text="{height}×{width}", always=True)
_Change = partial(Setting, ge=0, needs="augmentation", text="augmentation {rotation}°/{zoom}/{brightness}")
_Percent = partial(Setting, ge=0, le=100, unit="percent", step=0.5)


class TrainingProtocol(Spec):
    """One training's hyperparameters; the defaults are the article's.

    height, width: pixels the network is fed. augmentation: whether repeats are changed at random: flipped, turned by up
    to `rotation` degrees, zoomed and brightened by up to the share `zoom` and `brightness`. jit_compile: XLA, which JAX
    always uses.

    warm_up_epochs: the learning rate rises linearly from 0, batch by batch. schedule: after it, constant, or a cosine
    that ends at 0. patience: epochs without a better one after which the training ends; None: it never ends early.
    batch_norm: what is added to the network, see `core.networks.batch_norm`. retry_lost: how many further seeds are
    tried where a network is lost, see `core.training.loop.is_lost`. precision: 'auto' takes what is fastest where the
    network is trained.

    A setting that is newer than stored runs is left out of the JSON where it has its default (`exclude_if`), so that
    equal runs have equal hashes whichever version submitted them. The JSON still says `mixed_precision`, the older name
    of the precision float16.
    """

    height: Annotated[Whole, _Side("Rows")] = 200
    width: Annotated[Whole, _Side("Columns")] = 100
    epochs: Annotated[Whole, Setting("Epochs", ge=1, le=MOST_EPOCHS, text="{epochs} epochs", always=True)] = 75
    batch_size: Annotated[Whole, Setting("Batch size", ge=1, le=100_000, text="batch {batch_size}", always=True)] = 32
    learning_rate: Annotated[
        Number, Setting("Learning rate", gt=0, le=1, step=0.0005, text="learning rate {learning_rate}", always=True)
    ] = 0.002
    seed: Annotated[Whole, Setting("Seed", "Of weights, order and dropout.", ge=0, le=LARGEST_SEED, always=True)] = 1
    augmentation: Annotated[
        Switch,
        Setting(
            "Augment the repeats of small classes",
            "Flips, rotation, zoom and brightness at random; validation and test images stay as they are.",
            text="no augmentation",
        ),
    ] = True
    rotation: Annotated[Number, _Change("Rotation up to", le=180, unit="degrees", step=5)] = 30.0
    zoom: Annotated[Number, _Change("Zoom up to", "As a share.", le=0.9, step=0.05)] = 0.1
    brightness: Annotated[Number, _Change("Brightness up to", "As a share.", le=1, step=0.05)] = 0.1
    jit_compile: Annotated[Switch, Setting("Compile with XLA")] = False
    warm_up_epochs: Annotated[
        Whole,
        Setting(
            "Warm-up", "The learning rate rises from 0 over these epochs.",
            unit="epochs", ge=0, le=MOST_EPOCHS, text="warm-up over {warm_up_epochs} epochs",
        ),
        Field(exclude_if=operator.not_),
    ] = 0  # fmt: skip
    schedule: Annotated[
        Text,
        Setting(
            "Schedule", "The learning rate after the warm-up: constant, or a cosine that ends at 0.",
            choices=(CONSTANT, COSINE), text="{schedule} learning rate",
        ),
        Field(exclude_if=CONSTANT.__eq__),
    ] = CONSTANT  # fmt: skip
    patience: Annotated[
        Whole | None,
        Setting(
            "Ends early after", "Epochs without a better one that end the training. By default it never ends early.",
            unit="epochs", empty="never", ge=1, le=MOST_EPOCHS,
            text="ends after {patience} epochs without a better one",
        ),
        Field(exclude_if=operator.not_),
    ] = None  # fmt: skip
    batch_norm: Annotated[
        Text,
        Setting(
            "Batch normalisation", "As printed, after each dense layer of the image branch, or after convolutions too.",
            choices=tuple(BATCH_NORM), text="batch normalisation: {batch_norm}",
        ),
        Field(exclude_if=PRINTED.__eq__),
    ] = PRINTED  # fmt: skip
    retry_lost: Annotated[
        Whole,
        Setting(
            "Retries of a lost network", "With the next seeds, where every image gets the same probabilities.",
            ge=0, le=100, text="lost networks: {retry_lost} more seeds",
        ),
        Field(exclude_if=operator.not_),
    ] = 0  # fmt: skip
    precision: Annotated[
        Text,
        Setting(
            "Precision", "Auto takes the fastest: bfloat16 on processors that have it, float16 on GPUs.",
            choices=PRECISIONS, text="precision {precision}",
        ),
        Field(exclude_if=(FLOAT32, FLOAT16).__contains__),
    ] = FLOAT32  # fmt: skip

    @model_validator(mode="before")
    @classmethod
    def _older_precision(cls, values: Any) -> Any:
        """Read the switch that float16 had before there were other precisions."""
        if not isinstance(values, dict) or "mixed_precision" not in values:
            return values
        rest = {name: value for name, value in values.items() if name != "mixed_precision"}
        return {"precision": FLOAT16, **rest} if values["mixed_precision"] is True else rest

    @computed_field  # type: ignore[prop-decorator]
    @property
    def mixed_precision(self) -> bool:
        """Whether the precision is float16, as older versions store it."""
        return self.precision == FLOAT16


PRESETS = {
    "article": TrainingProtocol(),
    "laptop": TrainingProtocol(epochs=30, height=75, width=100, batch_norm=DENSE),
    "quick": TrainingProtocol(epochs=3, height=48, width=64, batch_norm=DENSE),  # too small for custom1
}


class Baseline(Spec):
    """The figures that a network must reach to be accepted (section 4.2)."""

    train_accuracy: Annotated[Number, _Percent("Training accuracy")] = 90.0
    train_precision: Annotated[Number, _Percent("Training precision")] = 90.0
    validation_accuracy: Annotated[Number, _Percent("Validation accuracy")] = 80.0
    validation_precision: Annotated[Number, _Percent("Validation precision")] = 80.0
    test_tolerance: Annotated[
        Number,
        _Percent("Test figures", "Points by which accuracy, precision and recall may be under the unpruned network's."),
    ] = 2.0

    def needed(
        self, criterion: str, unpruned: Mapping[str, float | None] | None, validation_tolerance: float | None = None
    ) -> float | None:
        """Return the least value of a criterion; None where the unpruned network's figure is undefined.

        criterion: of `CRITERIA`, in percent, or `DIFFERENCE_LOW`, in points.

        unpruned: the unpruned network's figures; None for that network itself, which meets its own figures.

        validation_tolerance: of `Rules`, in points; with it no fixed threshold counts.
        """
        if criterion == DIFFERENCE_LOW:
            return -float(self.test_tolerance)
        tolerance = self.test_tolerance if criterion in TEST else validation_tolerance
        if tolerance is None:
            return cast(float, getattr(self, criterion))
        if unpruned is None or criterion in TRAINING:
            return 0.0
        reference = unpruned.get(criterion)
        return None if reference is None else reference - tolerance


def article_baseline(network: str) -> Baseline:
    """Return the article's thresholds for a network's name: 80 % in validation, 75 % for lenet5 and lenet5+bn."""
    validation = ARTICLE_VALIDATION.get(printed_name(network), 80.0)
    return Baseline(validation_accuracy=validation, validation_precision=validation)


def percent(factor: float) -> str:
    """Return a factor as Table 6 writes it: 33.33 as 33%, and in full where nothing whole would be left."""
    return f"{int(factor) if factor >= 1 else factor:g}%"


def different_steps(factors: tuple[float, ...]) -> tuple[float, ...]:
    """Return the factors where no two have the same whole percent, which names a step. SpecError."""
    if len({percent(factor) for factor in factors}) < len(factors):
        raise SpecError(
            "Expected factors that differ in their whole percent, which names the steps, got"
            f" {', '.join(f'{factor:g}' for factor in factors)}."
        )
    return factors


class Rules(Spec):
    """The rules of Algorithm 2 that may be set."""

    factors: Annotated[
        tuple[Annotated[Number, at.Interval(gt=0, lt=100)], ...],
        at.MinLen(1),
        AfterValidator(different_steps),
        Setting("Pruning factors", "In the order tried.", unit="percent", text="factors {factors}"),
    ] = FACTORS
    scope: Annotated[
        Text, Setting("What shrinks", "And the first two dense layers.", choices=tuple(SCOPES), text="scope {scope}")
    ] = "all"
    max_failures: Annotated[
        Whole,
        Setting(
            "Ends after failures in a row", "Rejections in a row that end the run.",
            ge=1, le=MOST_STEPS, text="ends at {max_failures} failures",
        ),
    ] = 2  # fmt: skip
    max_iterations: Annotated[
        Whole | None,
        Setting(
            "Pruned networks at most", "By default no limit.", empty="no limit",
            ge=1, le=MOST_STEPS, text="pruned networks: at most {max_iterations}",
        ),
    ] = None  # fmt: skip
    on_reject: Annotated[
        Text, Setting("After a rejection", choices=tuple(ON_REJECT), text="rejected networks shrunk on")
    ] = STOP_AT_ACCEPTED
    accept: Annotated[
        Text,
        Setting(
            "Accept by", "How the test figures of a pruned network decide.",
            choices=tuple(ACCEPT), text="accepted where not inferior",
        ),
        Field(exclude_if=POINTS.__eq__),
    ] = POINTS  # fmt: skip
    validation_tolerance: Annotated[
        Number | None,
        Setting(
            "Validation figures",
            "Points by which accuracy and precision may be under the unpruned network's. The baseline's thresholds for "
            "training and validation then do not decide.",
            unit="points", empty="the baseline's thresholds", ge=0, le=100, step=0.5,
            text="validation at most {validation_tolerance} points under the unpruned network's",
        ),
        Field(exclude_if=partial(operator.is_, None)),
    ] = None  # fmt: skip
    initialise: Annotated[
        Text,
        Setting(
            "Initial weights", "Of a pruned network: fresh, or those of the network that was shrunk.",
            choices=tuple(INITIALISE), text="initial weights: {initialise}",
        ),
        Field(exclude_if=SCRATCH.__eq__),
    ] = SCRATCH  # fmt: skip
    distil: Annotated[
        Switch,
        Setting("Distil", "The unpruned network teaches the pruned ones.", text="taught by the unpruned network"),
        Field(exclude_if=operator.not_),
    ] = False
    temperature: Annotated[
        Number,
        Setting(
            "Temperature", "Of the probabilities that the teacher's loss compares: the higher, the more alike.",
            gt=0, le=100, step=0.5, needs="distil", text="temperature {temperature}",
        ),
        Field(exclude_if=partial(operator.eq, TEMPERATURE)),
    ] = TEMPERATURE  # fmt: skip
    teacher_weight: Annotated[
        Number,
        Setting(
            "Weight of the teacher's loss", "As a share; the loss against the labels has the rest.",
            ge=0, le=1, step=0.05, needs="distil", text="weight of the teacher's loss {teacher_weight}",
        ),
        Field(exclude_if=partial(operator.eq, TEACHER_WEIGHT)),
    ] = TEACHER_WEIGHT  # fmt: skip


# Settings that a study has too.
TargetsOfSets = Annotated[
    Targets,
    Setting(
        "Images of the sets",
        "All classes together.",
        flag="--targets",
        text="targets {targets.train}/{targets.validation}/{targets.test}",
    ),
]
SplitSeed = Annotated[
    Whole, Setting("Split seed", "Of the three sets.", ge=0, le=LARGEST_SEED, text="split seed {split_seed}")
]
Device = Annotated[Text, Setting("Device", choices=DEVICES)]
SplitOrigin = Annotated[
    Text,
    Setting(
        "Training, validation and test sets",
        "Drawn by lesion, or as the data set gives them (column split, or folders train, validation and test).",
        choices=(DRAWN, GIVEN),
        text="{split} sets",
    ),
    Field(exclude_if=DRAWN.__eq__),
]
OwnBaseline = Annotated[
    Baseline | None,
    Setting(
        "Baseline",
        "By default the article's.",
        text="baseline {baseline.train_accuracy:g}/{baseline.train_precision:g}/{baseline.validation_accuracy:g}/"
        "{baseline.validation_precision:g}/−{baseline.test_tolerance:g}",
    ),
]


class TrainSpec(Spec):
    """One network trained on one data set: the grid behind Tables 4 and 5 is many of these.

    network: the whole description, so that a worker elsewhere needs no file. split_seed: of the sets; the training's
    own seed is in `training`. leaky_split: sets drawn image by image, for comparison only. split: 'given' for the sets
    that the data set names itself, to which targets do not apply. device: 'auto' takes a GPU where there is one.
    baseline: decides which epoch's weights are kept; by default the article's for the network.
    """

    kind: ClassVar[str] = "train"
    dataset: Annotated[Text, at.MinLen(1), Setting("Data set", name="data set", flag="DATASET")]
    network: Annotated[Network, Setting("Network", always=True)]
    training: TrainingProtocol = TrainingProtocol()
    targets: TargetsOfSets = Targets()
    split_seed: SplitSeed = 1
    leaky_split: Annotated[
        Switch,
        Setting(
            "Leaky split: draw image by image",
            "Images of one lesion are then in training and in test. For comparison only.",
            text="leaky split",
        ),
    ] = False
    split: SplitOrigin = DRAWN
    device: Device = "auto"
    baseline: OwnBaseline = None
    training_predictions: Annotated[
        Switch,
        Setting("Keep the predictions of training images", "Those of validation and test images are always kept."),
        Field(exclude_if=operator.not_),
    ] = False

    @field_validator("baseline")
    @classmethod
    def _baseline_of_network(cls, given: Baseline | None, info: ValidationInfo) -> Baseline | None:
        network = info.data.get("network")
        return article_baseline(network.name) if given is None and network else given

    @model_validator(mode="after")
    def _trainable(self) -> Self:
        for _ in walk(self.trained_network, self.training.height, self.training.width):
            pass
        check_trainable(self.trained_network, self.training.height, self.training.width)
        return self

    def default(self, name: str) -> Any:
        """Return what a field is where nothing else is asked for: of the baseline, the article's for the network."""
        return article_baseline(self.network.name) if name == "baseline" else super().default(name)

    @property
    def trained_network(self) -> NetworkSpec:
        """The network with the batch normalisation that is asked for: what is trained, pruned and counted."""
        return with_batch_norm(self.network, self.training.batch_norm)

    @property
    def thresholds(self) -> Baseline:
        """The baseline in force."""
        return self.baseline or article_baseline(self.network.name)

    @property
    def predicted_splits(self) -> tuple[str, ...]:
        """The splits whose predictions are recorded, image by image."""
        return SPLITS if self.training_predictions else ("validation", "test")

    def check(self, dataset: Dataset) -> None:
        """Raise SpecError where the data set cannot train a network; called before anything is queued."""
        require_sets(dataset.records, self.sets(dataset))

    def sets(self, dataset: Dataset, unreadable: Collection[int] = ()) -> Split:
        """Return the sets of the data set's images, see `core.data.splits.split_records`. SpecError."""
        return cached_split(
            dataset.records,
            self.targets,
            seed=self.split_seed,
            leaky_split=self.leaky_split,
            given=self.split == GIVEN,
            unreadable=tuple(unreadable),
        )

    @property
    def settings(self) -> str:
        """The run in words, without seed and network."""
        return str(self.settings_key())


class PruneTrainSpec(TrainSpec):
    """Algorithm 2 on one network: shrink the last accepted one, train it, keep it while it meets the baseline."""

    kind: ClassVar[str] = "prune-train"
    rules: Rules = Rules()


TRAINING_SPECS: dict[str, type[TrainSpec]] = {spec.kind: spec for spec in (TrainSpec, PruneTrainSpec)}


def training_spec_from_dict(values: Mapping[str, Any]) -> TrainSpec:
    """Build the spec that `to_dict` described. SpecError for unknown kinds, names and values."""
    return spec_of_kind(values, TRAINING_SPECS)


def training_grid(
    spec: TrainSpec,
    *,
    networks: Sequence[NetworkSpec],
    datasets: Sequence[str],
    sizes: Sequence[tuple[int, int]] = (),
    seeds: Sequence[int] = (),
) -> Iterator[TrainSpec]:
    """Yield one spec for each of networks × data sets × sizes × seeds, all else as in `spec`.

    sizes: (rows, columns); sizes and seeds default to the spec's own. The baseline follows the network where the spec
    has the article's for its own.
    """
    own_baseline = None if spec.baseline == article_baseline(spec.network.name) else spec.baseline
    chosen_sizes = tuple(sizes) or ((spec.training.height, spec.training.width),)
    for network, dataset, (height, width), seed in itertools.product(
        networks, datasets, chosen_sizes, tuple(seeds) or (spec.training.seed,)
    ):
        training = spec.training.replace(height=height, width=width, seed=seed)
        yield spec.replace(network=network, dataset=dataset, training=training, baseline=own_baseline)
