"""Training runs: one network, one data set and one seed; trained once, or pruned and trained again by Algorithm 2.

A run is a sequence of steps. Each step is trained on its own, from the run's spec and the state before it, so that
every step may be a process of its own and a lost one is trained alone again.
"""

from __future__ import annotations

import itertools
import json
import re
import resource
import shutil
import sys
import time
from collections.abc import Callable, Collection, Generator, Iterator, Mapping, Sequence
from contextlib import closing, suppress
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from core.data.datasets import Dataset
from core.data.metadata import LeftOut
from core.data.splits import (
    SPLITS,
    Indices,
    Split,
    Targets,
    class_numbers,
    leak,
    missing_classes,
    reached,
    require_sets,
    shared_lesions,
    split_records,
)
from core.data.training_arrays import MetadataEncoding, Progress, fit_metadata, image_array
from core.errors import SpecError
from core.networks.architectures import NetworkSpec, walk
from core.networks.architectures import from_dict as network_from_dict
from core.networks.architectures import to_dict as network_to_dict
from core.networks.costs import check_trainable, network_cost
from core.networks.pruning import iterations
from core.training.algorithm2 import (
    Baseline,
    Rules,
    State,
    Step,
    Stop,
    article_baseline,
    baseline_from_dict,
    next_step,
    record,
    rules_from_dict,
    start,
)
from core.training.classification import FIGURES
from core.training.specs import LARGEST_SEED, EpochResult, TrainingError, TrainingSpec, require_whole

DEVICES = ("auto", "cpu", "gpu")
STEP_FIGURES = tuple(f"{split}_{figure}" for split in SPLITS for figure in FIGURES)


@dataclass(frozen=True, kw_only=True)
class TrainSpec:
    """One network trained on one data set: the grid behind Tables 4 and 5 is many of these.

    network: the whole description, so that a worker elsewhere needs no file. split_seed: of the sets; the training's
    own seed lies in `training`. leaky_split: sets drawn image by image, for comparison only. device: 'auto' takes a
    GPU where there is one. baseline: decides which epoch's weights are kept; by default the article's for the network.
    """

    kind: ClassVar[str] = "train"
    dataset: str
    network: NetworkSpec
    training: TrainingSpec = field(default_factory=TrainingSpec)
    targets: Targets = field(default_factory=Targets)
    split_seed: int = 1
    leaky_split: bool = False
    device: str = "auto"
    baseline: Baseline | None = None

    def __post_init__(self) -> None:
        """Refuse what no training can follow, a size too small for the network included."""
        if not self.dataset:
            raise SpecError("data set: expected a name or a folder; got nothing")
        require_whole("split seed", self.split_seed, 0, LARGEST_SEED)
        if self.device not in DEVICES:
            raise SpecError(f"device: expected one of {', '.join(DEVICES)}; got {self.device!r}")
        if self.baseline is None:
            object.__setattr__(self, "baseline", article_baseline(self.network.name))
        for _ in walk(self.network, self.training.height, self.training.width):
            pass
        check_trainable(self.network, self.training.height, self.training.width)

    @property
    def thresholds(self) -> Baseline:
        """The baseline in force."""
        return self.baseline or article_baseline(self.network.name)

    def check(self, dataset: Dataset) -> None:
        """Raise SpecError where the data set cannot train a network; called before anything is queued."""
        split = split_records(dataset.records, self.targets, seed=self.split_seed, leaky_split=self.leaky_split)
        require_sets(dataset.records, split)

    def to_dict(self) -> dict[str, Any]:
        """Return the spec as JSON-ready values, its kind included; `training_spec_from_dict` reads it back."""
        values = {item.name: getattr(self, item.name) for item in fields(self) if item.name != "network"}
        plain = {
            name: asdict(value) if hasattr(value, "__dataclass_fields__") else value for name, value in values.items()
        }
        plain["network"] = network_to_dict(self.network)
        return {"kind": self.kind, **json.loads(json.dumps(plain))}

    @property
    def settings(self) -> str:
        """The run in words, seed and network aside: what rows of a table must share to be averaged."""
        return self.training_settings

    @property
    def training_settings(self) -> str:
        """The protocol of each training in words; no part of it holds a comma, so that parts can be told apart."""
        training, standard = self.training, TrainingSpec()
        parts = [
            f"{training.height}×{training.width}",
            f"{training.epochs} epochs",
            f"batch {training.batch_size}",
            f"learning rate {training.learning_rate:g}",
        ]
        if self.targets != Targets():
            parts.append(f"targets {self.targets.train}/{self.targets.validation}/{self.targets.test}")
        if self.split_seed != 1:
            parts.append(f"split seed {self.split_seed}")
        if self.leaky_split:
            parts.append("leaky split")
        if self.thresholds != article_baseline(self.network.name):
            limits = self.thresholds
            parts.append(
                f"baseline {limits.train_accuracy:g}/{limits.train_precision:g}/{limits.validation_accuracy:g}/"
                f"{limits.validation_precision:g}/−{limits.test_tolerance:g}"
            )
        if not training.augmentation:
            parts.append("no augmentation")
        elif (training.rotation, training.zoom, training.brightness) != (
            standard.rotation,
            standard.zoom,
            standard.brightness,
        ):
            parts.append(f"augmentation {training.rotation:g}°/{training.zoom:g}/{training.brightness:g}")
        if training.mixed_precision:
            parts.append("mixed precision")
        return ", ".join(parts)


@dataclass(frozen=True, kw_only=True)
class PruneTrainSpec(TrainSpec):
    """Algorithm 2 on one network: shrink the last accepted one, train it, keep it while it meets the baseline."""

    kind: ClassVar[str] = "prune-train"
    rules: Rules = field(default_factory=Rules)

    @property
    def settings(self) -> str:
        """The protocol and the pruning's rules in words."""
        parts = [self.training_settings]
        if self.rules.scope != "all":
            parts.append(f"scope {self.rules.scope}")
        standard = Rules()
        if self.rules.factors != standard.factors:
            parts.append(f"factors {'/'.join(f'{factor:g}' for factor in self.rules.factors)}")
        if self.rules.on_reject != standard.on_reject:
            parts.append("rejected networks shrunk on")
        if self.rules.max_failures != standard.max_failures:
            parts.append(f"ends at {self.rules.max_failures} failures")
        if self.rules.max_iterations is not None:
            limit = self.rules.max_iterations
            parts.append(f"at most {limit} pruned network{'' if limit == 1 else 's'}")
        return ", ".join(parts)


TRAINING_SPECS: dict[str, type[TrainSpec]] = {spec.kind: spec for spec in (TrainSpec, PruneTrainSpec)}


def training_spec_from_dict(values: Mapping[str, Any]) -> TrainSpec:
    """Build the spec that `to_dict` described. SpecError for unknown kinds, names and values."""
    kind = values.get("kind")
    if kind not in TRAINING_SPECS:
        raise SpecError(f"kind: expected one of {', '.join(TRAINING_SPECS)}; got {kind!r}")
    cls = TRAINING_SPECS[kind]
    known = {item.name for item in fields(cls)}
    arguments = {name: value for name, value in values.items() if name != "kind"}
    if unknown := sorted(set(arguments) - known):
        raise SpecError(f"{kind}: expected only {', '.join(sorted(known))}; got {', '.join(unknown)}")
    read: dict[str, Callable[[Any], Any]] = {
        "network": network_from_dict,
        "training": TrainingSpec.from_dict,
        "targets": lambda given: Targets(**given),
        "baseline": lambda given: None if given is None else baseline_from_dict(given),
        "rules": rules_from_dict,
    }
    try:
        return cls(**{name: read[name](value) if name in read else value for name, value in arguments.items()})
    except TypeError as error:
        raise SpecError(f"{kind}: {error}") from error


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
        training = replace(spec.training, height=height, width=width, seed=seed)
        yield replace(spec, network=network, dataset=dataset, training=training, baseline=own_baseline)


# The sequence of steps


def first_state(spec: TrainSpec) -> State:
    """Return the state before the first training of a run."""
    rules = spec.rules if isinstance(spec, PruneTrainSpec) else Rules()
    return start(spec.network, rules, spec.thresholds)


def next_training(spec: TrainSpec, state: State) -> Step | Stop:
    """Return the network to train next, or why the run is over; a `train` run has one step."""
    if not isinstance(spec, PruneTrainSpec) and state.outcomes:
        failure = state.outcomes[0].failure
        return Stop(f"The network could not be trained: {failure}" if failure else "The network is trained.")
    return next_step(state)


LIKELY_STEPS = 3  # accepted halvings, as the article's alexnet had


def likely_networks(spec: TrainSpec) -> list[NetworkSpec]:
    """Return the networks that a run will probably train, for an estimate of its length."""
    if not isinstance(spec, PruneTrainSpec):
        return [spec.network]
    limit = spec.rules.max_iterations
    count = LIKELY_STEPS if limit is None else min(limit, LIKELY_STEPS)
    return list(iterations(spec.network, spec.rules.factors[0], spec.rules.scope, count))


# What is trained on


@dataclass(frozen=True, eq=False)
class TrainingData:
    """What the networks of a run are fed; row i is record i of the data set.

    images: (n, H, W, 3) uint8, BGR, memory-mapped. metadata: (n, 3) float32. labels: (n,) places in `CLASSES`, −1
    for none. left_out: images that could not be read. notes: sentences that belong wherever results are shown.
    """

    images: npt.NDArray[np.uint8]
    metadata: npt.NDArray[np.float32]
    labels: Indices
    split: Split
    encoding: MetadataEncoding
    left_out: tuple[LeftOut, ...]
    notes: tuple[str, ...]
    reached: tuple[dict[str, Any], ...]

    def to_dict(self) -> dict[str, Any]:
        """Return what the store keeps of it: the sets as really reached, the encoding, the notes."""
        return {
            "reached": [dict(row) for row in self.reached],
            "encoding": self.encoding.to_dict(),
            "left_out": [asdict(each) for each in self.left_out],
            "notes": list(self.notes),
        }


def training_data(
    dataset: Dataset,
    spec: TrainSpec,
    cache: Path,
    *,
    progress: Progress | None = None,
    limit: int | None = None,
) -> TrainingData:
    """Decode the images once a size (see `core.data.training_arrays`), divide them into sets, and encode the metadata.

    limit: bytes that the cache may hold. Raises DatasetError and SpecError where that cannot be done.
    """
    array = image_array(dataset, cache, spec.training.height, spec.training.width, progress=progress, limit=limit)
    split = split_records(
        dataset.records,
        spec.targets,
        seed=spec.split_seed,
        leaky_split=spec.leaky_split,
        unreadable=array.unreadable,
    )
    require_sets(dataset.records, split)  # images that could not be read may have been a set's last
    encoding = fit_metadata(dataset.records[index] for index in split.train)
    notes = [split_sentence(dataset, split), *missing_classes(dataset.records, split)]
    if encoding.sentence:
        notes.append(encoding.sentence)
    if array.left_out:
        notes.append(f"{len(array.left_out)} images could not be read and were left out.")
    rows = reached(dataset.records, split).to_dict("records")
    return TrainingData(
        images=array.pixels,
        metadata=encoding.encode(dataset.records),
        labels=class_numbers(dataset.records),
        split=split,
        encoding=encoding,
        left_out=array.left_out,
        notes=tuple(notes),
        reached=tuple({str(name): value for name, value in row.items()} for row in rows),
    )


def split_sentence(dataset: Dataset, split: Split) -> str:
    """Say how the sets were drawn and what a random split leaks, or would leak."""
    if split.leaky:
        return f"Leaky split, drawn image by image: {shared_lesions(dataset.records, split).sentence}"
    avoided = leak(dataset.records, split.targets, seed=split.seed)
    return f"Split by lesion. Drawn image by image instead: {avoided.sentence}"


# One step


@dataclass(frozen=True)
class StepResult:
    """What one training came to; the columns of the store's table `steps`.

    status: 'finished', or 'failed' with the failure as a sentence. parameters, macs, bytes_*: counted, see
    `core.networks.costs.Cost`. weights, weights_bytes: the `.keras` file (no optimiser state), checkpoint_bytes: the
    file with it. epochs: trained; kept_epoch: whose weights are kept. seconds: epochs and evaluation; epoch_seconds:
    mean of an epoch with validation; images_per_second: mean in training. peak_memory: bytes, this process's largest.
    figures: percent by name, `STEP_FIGURES`, None where undefined. classification: by split, see
    `core.training.classification.Classification.to_dict`.
    """

    step: int
    name: str
    factors: tuple[float, ...]
    network: dict[str, Any]
    status: str
    failure: str
    parameters: int
    macs: int
    bytes_weights: int
    bytes_with_optimizer: int
    accepted: bool | None = None
    criterion: str | None = None
    value: float | None = None
    needed: float | None = None
    missed_by: float | None = None
    reason: str = ""
    epochs: int = 0
    kept_epoch: int | None = None
    seconds: float | None = None
    epoch_seconds: float | None = None
    images_per_second: float | None = None
    peak_memory: int | None = None
    device: str | None = None
    weights: str | None = None
    weights_bytes: int | None = None
    checkpoint_bytes: int | None = None
    figures: dict[str, float | None] = field(default_factory=dict)
    classification: dict[str, Any] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """Return the result as JSON-ready values."""
        return {**asdict(self), "factors": list(self.factors)}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> StepResult:
        """Return the result that `to_dict` described."""
        return cls(**{**values, "factors": tuple(values["factors"])})


def described(spec: TrainSpec, step: Step) -> StepResult:
    """Return what is known of a step before it is trained."""
    cost = network_cost(step.network, spec.training.height, spec.training.width)
    return StepResult(
        step=step.index,
        name=step.name,
        factors=step.factors,
        network=network_to_dict(step.network),
        status="training",
        failure="",
        parameters=cost.parameters,
        macs=cost.macs,
        bytes_weights=cost.bytes_weights,
        bytes_with_optimizer=cost.bytes_with_optimizer,
    )


def judged(spec: TrainSpec, state: State, step: Step, result: StepResult) -> tuple[StepResult, State]:
    """Give a trained or failed step its verdict; return it with the state after it.

    A `train` run's only step has no unpruned network beside it: it is judged by training and validation alone.
    """
    after = record(state, step, None if result.failure else result.figures, result.failure)
    verdict = after.outcomes[-1].acceptance
    values = {
        name: getattr(verdict, name) for name in ("accepted", "criterion", "value", "needed", "missed_by", "reason")
    }
    return replace(result, **values), after


def failed(spec: TrainSpec, step: Step, failure: str) -> StepResult:
    """Return the result of a step that could not be trained; failure: a sentence."""
    return replace(described(spec, step), status="failed", failure=failure)


def checkpoint_folder(folder: Path, step: Step, claim: int = 0) -> Path:
    """Return where a step's checkpoint lies while it is trained, below the run's folder.

    claim: the number by which a process has the step for itself (`jobs.live_runs.Claim`); 0 where there are no others.
    """
    return folder / (f"step-{step.index}-{claim}" if claim else f"step-{step.index}")


def take_over_checkpoint(folder: Path, step: Step, claim: int) -> Path:
    """Give a step's checkpoint to a claim, and return where it lies then.

    Processes of older claims find their folder gone: they can write neither checkpoint nor weights any more.
    """
    place = checkpoint_folder(folder, step, claim)
    named = ((re.fullmatch(rf"step-{step.index}(?:-(\d+))?", path.name), path) for path in folder.glob("step-*"))
    found = {int(name[1] or 0): path for name, path in named if name}
    for number in sorted((number for number in found if number < claim), reverse=True):
        if place.exists():
            shutil.rmtree(found[number], ignore_errors=True)
        else:
            with suppress(FileNotFoundError):  # a newer claim was faster
                found[number].rename(place)
    for half in place.glob("*half*"):  # an older process may hold it open, and would go on writing to it
        half.unlink()
    return place


def epochs_done(place: Path) -> int:
    """Return how many epochs of a step have a checkpoint in its `checkpoint_folder`."""
    from core.training.loop import history_of

    return len(history_of(place))


def train_step(
    spec: TrainSpec,
    step: Step,
    data: TrainingData,
    folder: Path,
    place: Path | None = None,
    check: Callable[[], None] = lambda: None,
) -> Generator[EpochResult | StepResult]:
    """Train one step's network: yield each epoch as it ends, then the step's result.

    folder: the run's, which keeps the weights, `<step>.keras`. place: of checkpoints while the step is trained, by
    default the step's `checkpoint_folder`; where it is taken away meanwhile, no weights reach the run's folder. check:
    called before anything is written; what it raises ends the training. To cancel, close the generator: the next call
    goes on after the last whole epoch. A step that cannot be trained (too little memory, a loss that is no number)
    gives a failed result instead of an error.
    """
    from core.training import loop as training  # Keras: 4 s, and only in the process that trains

    began = time.perf_counter()
    place = place or checkpoint_folder(folder, step)
    arrays = (data.images, data.metadata, data.labels, data.split, spec.training)
    history: list[EpochResult] = []
    try:
        with (
            training.on_device(spec.device),
            closing(training.train(step.network, *arrays, place, baseline=spec.thresholds, check=check)) as epochs,
        ):
            for epoch in epochs:
                history.append(epoch)
                yield epoch
            began_evaluation = time.perf_counter()
            found = training.evaluate(step.network, *arrays, place)
            made, weights = place / f"{step.index}.keras", folder / f"{step.index}.keras"
            training.save_model(training.kept_model(step.network, spec.training, place), made)
            check()
            made.replace(weights)
    except TrainingError as error:
        yield replace(failed(spec, step, str(error)), epochs=len(history), seconds=time.perf_counter() - began)
        return
    figures = {name: value for split, each in found.items() for name, value in each.figures(split).items()}
    yield replace(
        described(spec, step),
        status="finished",
        epochs=len(history),
        kept_epoch=training.kept_epoch(history),
        seconds=sum(each.seconds for each in history) + time.perf_counter() - began_evaluation,
        epoch_seconds=sum(each.seconds for each in history) / len(history),
        images_per_second=sum(each.images_per_second for each in history) / len(history),
        peak_memory=peak_memory(),
        device=training.device_name(spec.device),
        weights=str(weights),
        weights_bytes=weights.stat().st_size,
        checkpoint_bytes=(place / training.CHECKPOINT_NAME).stat().st_size,
        figures=figures,
        classification={split: each.to_dict() for split, each in found.items()},
    )


def peak_memory() -> int:
    """Return the largest resident memory that this process has had, in bytes."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else 1024 * peak


def forget_checkpoint(place: Path) -> None:
    """Remove a step's `checkpoint_folder`, once its result has been recorded."""
    shutil.rmtree(place, ignore_errors=True)


def forget_old_checkpoints(trained: Path, *, days: float, kept: Collection[str]) -> None:
    """Remove the checkpoints that nothing has been added to for some days, but for those of the runs to be kept."""
    for place in trained.glob("*/step-*"):
        with suppress(FileNotFoundError):  # its step has just ended, or was taken over
            files = [path.stat().st_mtime for path in (place, *place.iterdir())]
            if place.parent.name not in kept and time.time() - max(files) > days * 24 * 3600:
                shutil.rmtree(place, ignore_errors=True)


def run_here(
    spec: TrainSpec, data: TrainingData, folder: Path
) -> Iterator[tuple[Step, EpochResult | StepResult] | Stop]:
    """Train a whole run in this process, step after step; end with the Stop that says why it is over."""
    state = first_state(spec)
    while isinstance(turn := next_training(spec, state), Step):
        with closing(train_step(spec, turn, data, folder)) as events:
            for event in events:
                if isinstance(event, StepResult):
                    event, state = judged(spec, state, turn, event)
                    forget_checkpoint(checkpoint_folder(folder, turn))
                yield turn, event
    yield turn
