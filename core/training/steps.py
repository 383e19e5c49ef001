"""Training runs: one network, one data set and one seed; trained once, or pruned and trained again by Algorithm 2.

A run is a sequence of steps. Each step is trained on its own, from the run's spec and the state before it, so that
every step may be a process of its own and a lost one is trained alone again.
"""

from __future__ import annotations

import json
import re
import shutil
import socket
import time
from collections.abc import Callable, Collection, Generator, Iterator
from contextlib import closing, suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from core.data.splits import SPLITS
from core.errors import NotOnThisHost
from core.files.plain_files import whole_file
from core.networks.architectures import NetworkSpec
from core.networks.costs import QUANTITIES, network_cost, quantities
from core.networks.inheritance import SCRATCH, Weights, inherited
from core.networks.plain_data import network_to_dict
from core.networks.pruning import iterations
from core.predictions.classification import FIGURES
from core.processes import peak_memory
from core.specs import LARGEST_SEED
from core.training.algorithm2 import ORIGINAL, State, Step, Stop, next_step, start
from core.training.checkpoints import CHECKPOINT_NAME, history_of, kept_epoch
from core.training.data import TrainingData
from core.training.evaluation import evaluated, judged, predicted
from core.training.results import EpochResult, LostNetwork, StepResult, TrainingError
from core.training.specs import AUTO, PruneTrainSpec, Rules, TrainingProtocol, TrainSpec

if TYPE_CHECKING:
    from core.training.models import Teacher

CHOICES_NAME = "choices.json"  # beside a step's checkpoint
STEP_FIGURES = tuple(f"{split}_{figure}" for split in SPLITS for figure in FIGURES)


# The sequence of steps


def first_state(spec: TrainSpec) -> State:
    """Return the state before the first training of a run."""
    rules = spec.rules if isinstance(spec, PruneTrainSpec) else Rules()
    return start(spec.trained_network, rules, spec.thresholds)


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
        return [spec.trained_network]
    limit = spec.rules.max_iterations
    count = LIKELY_STEPS if limit is None else min(limit, LIKELY_STEPS)
    return list(iterations(spec.trained_network, spec.rules.factors[0], spec.rules.scope, count))


# One step


def described(spec: TrainSpec, step: Step) -> StepResult:
    """Return what is known of a step before it is trained."""
    cost = network_cost(step.network, spec.training.height, spec.training.width)
    counted: dict[str, Any] = dict(zip(QUANTITIES, quantities(cost), strict=True))
    return StepResult(
        step=step.index,
        name=step.name,
        factors=step.factors,
        network=network_to_dict(step.network),
        status="training",
        failure="",
        **counted,
    )


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
    return len(history_of(place))


@dataclass(frozen=True)
class Choices:
    """What was chosen while a step was trained, and holds when it is resumed. lost: trainings whose network was lost.

    precision: the one that auto took; None before.
    """

    lost: int = 0
    precision: str | None = None

    @classmethod
    def read(cls, place: Path) -> Choices:
        """Return the choices of a step's `checkpoint_folder`; the first ones where there are none."""
        try:
            return cls(**json.loads((place / CHOICES_NAME).read_text(encoding="utf-8")))
        except (FileNotFoundError, ValueError, TypeError):
            return cls()

    def write(self, place: Path) -> None:
        """Write them beside the checkpoint, atomically."""
        place.mkdir(parents=True, exist_ok=True)
        with whole_file(place / CHOICES_NAME, place / f"half-{CHOICES_NAME}") as draft:
            draft.write_text(json.dumps(asdict(self)), encoding="utf-8")

    def protocol(self, training: TrainingProtocol) -> TrainingProtocol:
        """Return the protocol of the present training: the seed after those that were lost, and the precision taken."""
        taken = training.precision if self.precision is None else self.precision
        return training.replace(seed=(training.seed + self.lost) % (LARGEST_SEED + 1), precision=taken)


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
    gives a failed result instead of an error. A lost network is trained again with the next seed, from epoch 1 on, as
    often as the protocol's `retry_lost` allows. Raises NotOnThisHost where a pruned network should begin with weights,
    or be taught by a network, that this host does not have.
    """
    from core.training import devices, loop, models  # Keras: 4 s, and only in the process that trains
    from core.training.probe import fastest_precision

    began = time.perf_counter()
    place = place or checkpoint_folder(folder, step)
    history: list[EpochResult] = []
    choices = Choices.read(place)
    try:
        with devices.on_device(spec.device):
            if spec.training.precision == AUTO and choices.precision is None:
                taken = fastest_precision(step.network, spec.training, spec.device)
                choices = replace(choices, precision=taken)
                check()
                choices.write(place)
            teacher = teacher_of(spec, step, folder)
            while True:
                protocol, history = choices.protocol(spec.training), []
                first = initial_weights(spec, step, folder, protocol.seed)
                trained = loop.train(step.network, data, protocol, place, spec.thresholds, check, first, teacher)
                try:
                    with closing(trained) as epochs:
                        for epoch in epochs:
                            history.append(epoch)
                            yield epoch
                    break
                except LostNetwork:
                    choices = replace(choices, lost=choices.lost + 1)
                    if choices.lost > spec.training.retry_lost:
                        raise
                    check()
                    forget_checkpoint(place)
                    choices.write(place)
            began_evaluation = time.perf_counter()
            model = loop.kept_model(step.network, protocol, place)
            found = predicted(data, loop.predict(model, data, protocol))
            made, weights = place / f"{step.index}.keras", folder / f"{step.index}.keras"
            models.save_model(model, made)
            check()
            made.replace(weights)
    except TrainingError as error:
        failure = replace(failed(spec, step, str(error)), epochs=len(history), seconds=time.perf_counter() - began)
        yield replace(failure, lost=choices.lost, precision=choices.protocol(spec.training).precision)
        return
    yield replace(
        described(spec, step),
        status="finished",
        epochs=len(history),
        kept_epoch=kept_epoch(history),
        seconds=sum(each.seconds for each in history) + time.perf_counter() - began_evaluation,
        epoch_seconds=sum(each.seconds for each in history) / len(history),
        images_per_second=sum(each.images_per_second for each in history) / len(history),
        peak_memory=peak_memory(),
        device=devices.device_name(spec.device),
        seed=protocol.seed,
        lost=choices.lost,
        precision=protocol.precision,
        weights=str(weights),
        weights_bytes=weights.stat().st_size,
        checkpoint_bytes=(place / CHECKPOINT_NAME).stat().st_size,
        **evaluated(found, kept=spec.predicted_splits),
    )


def initial_weights(spec: TrainSpec, step: Step, folder: Path, seed: int) -> Weights | None:
    """Return the weights that a step's network begins with, by layer; None for fresh ones.

    folder: the run's, which keeps the weights of the network that was shrunk. Raises NotOnThisHost without them.
    """
    choice = spec.rules.initialise if isinstance(spec, PruneTrainSpec) else SCRATCH
    if step.base is None or choice == SCRATCH:
        return None
    from core.training.models import weights_of

    otherwise = "with fresh weights (--initialise scratch)"
    kept = kept_weights(folder, step.base.index, step.base.name, f"{step.name} begins with them", otherwise)
    size = spec.training.height, spec.training.width
    return inherited(step.base.network, step.network, *size, weights_of(kept), choice, seed)


def teacher_of(spec: TrainSpec, step: Step, folder: Path) -> Teacher | None:
    """Return the unpruned network that teaches a step's network; None where none does.

    folder: the run's, which keeps its weights. Raises NotOnThisHost without them.
    """
    if step.base is None or not (isinstance(spec, PruneTrainSpec) and spec.rules.distil):
        return None
    from core.training.models import Teacher, weights_in_order

    kept = kept_weights(folder, 0, ORIGINAL, f"it teaches {step.name}", "without a teacher (--no-distil)")
    return Teacher(spec.trained_network, weights_in_order(kept), spec.rules.temperature, spec.rules.teacher_weight)


def kept_weights(folder: Path, index: int, name: str, use: str, otherwise: str) -> Path:
    """Return the file of the weights of a step that a later one needs. NotOnThisHost, whose sentence ends so."""
    kept = folder / f"{index}.keras"
    if not kept.is_file():
        raise NotOnThisHost(
            f"Expected the weights of {name} at {kept} on {socket.gethostname()}, got none: {use}. Train it where they"
            f" are, or {otherwise}."
        )
    return kept


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
                    event, state = judged(state, turn, event)
                    forget_checkpoint(checkpoint_folder(folder, turn))
                yield turn, event
    yield turn
