"""Train one network epoch by epoch, with checkpoints from which a killed process resumes.

Checkpoints are written while the next epoch is trained, and not after every short epoch, see `CheckpointWriter`. A
process that is killed trains the epochs after the last checkpoint again, with the same result.

The same seed on the same machine gives the same result: it determines weights, order, dropout and augmentation (on a
GPU, as far as its kernels are deterministic). The model is made in `core.training.models`, its batches in
`core.training.batches`.
"""

from __future__ import annotations

import hashlib
import json
import math
import time
from collections.abc import Callable, Generator, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import keras
import numpy as np
import numpy.typing as npt

from core.data.splits import SPLITS, Indices
from core.errors import SpecError
from core.networks.architectures import CHANNELS, CLASSES, METADATA_FEATURES, NetworkSpec
from core.networks.inheritance import Weights
from core.networks.plain_data import network_to_dict
from core.predictions.classification import classify
from core.training.algorithm2 import ROUNDING
from core.training.batches import batches_of, training_batches
from core.training.checkpoints import (
    CHECKPOINT_NAME,
    DAMAGED,
    Arrays,
    CheckpointWriter,
    history_of,
    kept_epoch,
    kept_weights,
    rank,
    read_about,
    read_arrays,
)
from core.training.data import Examples
from core.training.devices import explained
from core.training.models import (
    CROSS_ENTROPY,
    LEAST_CHANCE,
    Teacher,
    compiled_model,
    copied,
    gradient_norm,
    observing,
    predicted,
    probabilities,
    seeded_model,
    state,
    taught,
)
from core.training.results import EpochResult, LostNetwork, TrainingError
from core.training.specs import FLOAT32, TRAINING, VALIDATION, Baseline, TrainingProtocol, article_baseline

LOST_SPREAD = 1e-4  # of a probability between the validation images
LOST_GRADIENT = 1e-4  # its norm: about 1 where a network learns, under 1e-8 where the head is dead
FIRST_SIGN = 2  # epochs after which a network may count as lost
TOGETHER = 16  # batches that are trained between two returns to Python, which changes no figure


def train(
    network: NetworkSpec,
    data: Examples,
    spec: TrainingProtocol,
    folder: Path,
    baseline: Baseline | None = None,
    check: Callable[[], None] = lambda: None,
    initial: Weights | None = None,
    teacher: Teacher | None = None,
) -> Generator[EpochResult]:
    """Train a network and yield each epoch; to cancel, close the generator, which waits for the checkpoint.

    Epochs in the checkpoint of `folder` are yielded first, then the training continues. The kept weights are those of
    the best validation accuracy among the epochs that meet the baseline (by default the article's), else among all; of
    equal ones the first. spec: its precision is not auto. check: called after each epoch, and before a checkpoint is
    written; its exceptions end the training. initial: the weights to begin with, by layer; None: fresh ones. teacher: a
    network whose answers the loss takes into account too. Raises SpecError where the data do not fit or the folder
    holds another training; LostNetwork after the epoch that shows that nothing is learnt; TrainingError where the loss
    is not finite or memory does not suffice.
    """
    check_data(data, spec)
    baseline = baseline or article_baseline(network.name)
    identity = identify(network, data, spec, baseline, initial, teacher)
    folder.mkdir(parents=True, exist_ok=True)
    with explained(spec):
        model = compiled_model(network, spec, batches_of(data, spec))
        for name, values in (initial or {}).items():
            model.get_layer(name).set_weights(values)
        learner = model if teacher is None else taught(model, teacher, spec)
        if keras.backend.backend() == "tensorflow":  # JAX would compile every batch of them
            learner.steps_per_execution = TOGETHER
        history = list(restore(folder, model, identity))
    observer = observing(model)
    yield from history
    kept: Arrays | None = None  # the weights to keep, until a checkpoint has them
    with CheckpointWriter(folder, identity) as writer:  # its end waits for the last checkpoint
        while not has_ended(history, spec):
            result = train_epoch(model, observer, data, spec, len(history) + 1, baseline, learner)
            result = replace(result, best=rank(result) > max(map(rank, history), default=(False, -1.0)))
            history.append(result)
            check()
            kept = copied(model.weights) if result.best else kept
            if due := writer.due() or is_last(history, spec):
                writer.write(copied(state(model)), kept, history)
                kept = None
            try:
                yield result
            except GeneratorExit:
                if not due:
                    check()
                    writer.write(copied(state(model)), kept, history)
                raise


def has_ended(history: Sequence[EpochResult], spec: TrainingProtocol) -> bool:
    """Return whether no epoch follows. Raises LostNetwork where the last one shows that the network is lost."""
    if history and is_lost(history[-1], spec):
        raise LostNetwork(
            f"The network is lost: after epoch {history[-1].epoch} the probabilities of the validation images differ by"
            f" at most {history[-1].spread:.1g}, and the gradient is gone. Try a warm-up, batch normalisation after"
            " dense layers, a smaller learning rate, or another seed."
        )
    return bool(history) and is_last(history, spec)


def is_last(history: Sequence[EpochResult], spec: TrainingProtocol) -> bool:
    """Return whether no epoch follows the last of these: enough are trained, none got better, or nothing is learnt."""
    patience = spec.epochs if spec.patience is None else spec.patience
    waited = history[-1].epoch - kept_epoch(history)
    return len(history) >= spec.epochs or waited >= patience or is_lost(history[-1], spec)


def is_lost(result: EpochResult, spec: TrainingProtocol) -> bool:
    """Return whether a network gives every validation image the same probabilities, and has no gradient left.

    Within `LOST_SPREAD` and `LOST_GRADIENT`. Equal probabilities alone do not suffice: in the first epochs the running
    statistics of batch normalisation lag behind, and a network that learns may give every image the same class. It is
    checked from `FIRST_SIGN` epochs on, until as many have had the whole learning rate: a network may be lost as the
    learning rate rises. A network that fails later has learnt something before, and its best weights are kept.
    """
    early = FIRST_SIGN <= result.epoch <= FIRST_SIGN + spec.warm_up_epochs
    equal = result.spread is not None and result.spread < LOST_SPREAD
    return early and equal and (result.gradient_norm is None or result.gradient_norm < LOST_GRADIENT)


def train_epoch(
    model: keras.Model,
    observer: keras.Model,
    data: Examples,
    spec: TrainingProtocol,
    epoch: int,
    baseline: Baseline,
    learner: keras.Model,
) -> EpochResult:
    """Train one epoch and return its figures. Raises TrainingError for infinite losses or too little memory.

    observer: what `observing` makes of the model. learner: the model, or what `taught` makes of it.
    """
    began = time.perf_counter()
    with explained(spec):
        logs = learner.fit(training_batches(data, spec, epoch), epochs=1, shuffle=False, verbose=0).history
        trained = time.perf_counter() - began
        chances, hidden = predicted(observer, data, data.split.validation, spec.batch_size)
    logs["loss"] = logs.get(CROSS_ENTROPY, logs["loss"])
    loss = float(logs["loss"][0])
    if not (math.isfinite(loss) and np.isfinite(chances).all()):
        raise TrainingError(
            f"Expected finite losses and weights, got a loss of {loss:g} and weights without probabilities in epoch"
            f" {epoch}. Try a learning rate under {spec.learning_rate:g}"
            f"{'' if spec.precision == FLOAT32 else ', or the precision float32'}."
        )
    return replace(
        judged(epoch, logs, chances, data.labels[list(data.split.validation)], baseline),
        seconds=time.perf_counter() - began,
        images_per_second=len(data.split.oversampled) / trained,
        spread=float(np.ptp(chances, axis=0).max()) if len(chances) else None,
        dead_units=int((hidden <= 0).all(axis=0).sum()) if len(hidden) else None,
        hidden_units=hidden.shape[1] if len(hidden) else None,
        gradient_norm=gradient_norm(model),
        learning_rate=float(model.optimizer.learning_rate),
    )


def check_data(data: Examples, spec: TrainingProtocol) -> None:
    """Raise SpecError unless the arrays fit each other, the split and the protocol."""
    images, metadata, labels = data.images, data.metadata, data.labels
    size = (len(images), spec.height, spec.width, CHANNELS)
    if images.shape != size or images.dtype != np.uint8:
        raise SpecError(f"Expected uint8 images of {size}, got {images.dtype} of {images.shape}.")
    if metadata.shape != (len(images), len(METADATA_FEATURES)) or labels.shape != (len(images),):
        raise SpecError(f"Expected metadata and labels of {len(images)} images, got {metadata.shape}, {labels.shape}.")
    if not np.isfinite(metadata).all():
        raise SpecError("Expected finite metadata, got infinite or missing values.")
    used = np.array([index for name in SPLITS for index in getattr(data.split, name)], dtype=np.int64)
    if not len(data.split.train) or used.max() >= len(images):
        raise SpecError(f"Expected a split of {len(images)} images, got one of others or without training images.")
    if not np.isin(labels[used], range(len(CLASSES))).all():
        raise SpecError(f"Expected labels from 0 to {len(CLASSES) - 1} for the images of the split, got others.")


def identify(
    network: NetworkSpec,
    data: Examples,
    spec: TrainingProtocol,
    baseline: Baseline,
    initial: Weights | None = None,
    teacher: Teacher | None = None,
) -> str:
    """Return a hash of everything that determines a training, except the pixels, which take long to read."""
    backend = (keras.backend.backend(), keras.__version__)
    sets = asdict(data.split) | {"targets": data.split.targets.to_dict()}
    del sets["given"]  # its sets say everything, and checkpoints of older versions go on
    values = [network_to_dict(network), spec.to_dict(), sets, baseline.to_dict(), data.images.shape, backend]
    digest = hashlib.sha256(json.dumps(values, sort_keys=True).encode())
    digest.update(np.ascontiguousarray(data.metadata, dtype=np.float32).tobytes())
    digest.update(np.ascontiguousarray(data.labels, dtype=np.int64).tobytes())
    for name, arrays in (initial or {}).items():
        digest.update(name.encode())
        for each in arrays:
            digest.update(np.ascontiguousarray(each, dtype=np.float32).tobytes())
    if teacher is not None:
        about = [network_to_dict(teacher.network), float(teacher.temperature), float(teacher.weight)]
        digest.update(json.dumps(about, sort_keys=True).encode())
        for each in teacher.weights:
            digest.update(np.ascontiguousarray(each, dtype=np.float32).tobytes())
    return digest.hexdigest()


# Figures of an epoch


def judged(
    epoch: int, logs: dict[str, list[float]], chances: npt.NDArray[np.float32], labels: Indices, baseline: Baseline
) -> EpochResult:
    """Return an epoch's figures, and whether they meet the baseline; logs: those of Keras, one epoch."""
    found, names = classify(chances, labels), ("accuracy", "precision", "recall")
    figures: dict[str, Any] = {f"train_{name}": 100 * float(logs[name][0]) for name in names}
    figures |= {f"validation_{name}": getattr(found, name) for name in names}
    right = np.clip(chances[np.arange(len(labels)), labels], LEAST_CHANCE, 1)
    result = EpochResult(
        epoch=epoch,
        train_loss=float(logs["loss"][0]),
        validation_loss=float(-np.log(right, dtype=np.float64).mean()) if len(labels) else None,
        **figures,
        seconds=0.0,
        images_per_second=0.0,
    )
    criteria = {name: getattr(result, name) for name in (*TRAINING, *VALIDATION)}
    meets = all(value is not None and value >= getattr(baseline, name) - ROUNDING for name, value in criteria.items())
    return replace(result, meets_baseline=meets)


# Checkpoints


def restore(folder: Path, model: keras.Model, identity: str) -> tuple[EpochResult, ...]:
    """Load a checkpoint's state into a model and return its epochs; none without a whole checkpoint."""
    saved, history = read_about(folder)
    if not history:
        return ()
    if saved != identity:
        raise SpecError(f"Expected {folder} to be empty or to hold this training, got another training's checkpoint.")
    try:
        arrays = read_arrays(folder / CHECKPOINT_NAME)
    except DAMAGED:
        return ()
    for variable, array in zip(state(model), arrays, strict=True):
        variable.assign(array)
    return history


# After training


def kept_model(network: NetworkSpec, spec: TrainingProtocol, folder: Path) -> keras.Model:
    """Return the network with the kept weights, without optimizer. Raises TrainingError without a trained epoch."""
    history = history_of(folder)
    if not history:
        raise TrainingError(f"Expected a trained epoch in {folder}, got none. Train first.")
    model = seeded_model(network, spec)
    model.set_weights(kept_weights(folder, history))
    return model


def predict(
    model: keras.Model, data: Examples, spec: TrainingProtocol, splits: Sequence[str] = SPLITS
) -> dict[str, npt.NDArray[np.float32]]:
    """Return a network's probabilities for the images of each split; every training image once, not augmented."""
    check_data(data, spec)
    with explained(spec):
        return {name: probabilities(model, data, getattr(data.split, name), spec.batch_size) for name in splits}
