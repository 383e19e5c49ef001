"""Train one network epoch by epoch, with checkpoints from which a killed process resumes.

Checkpoints are written while the next epoch is trained, and not after every short epoch, see `CheckpointWriter`. A
process that is killed trains the epochs after the last checkpoint again, with the same result.

Only this module and `core.networks.keras_models` import Keras; nothing here calls a backend. The same seed on the same
machine gives the same result: it determines weights, order, dropout and augmentation (on a GPU, as far as its kernels
are deterministic).

Only the repeats of small classes, marked by `Split.augmented`, are augmented. OpenCV does it on the 8-bit batch,
because Keras's preprocessing layers draw different numbers on each backend, have a state that a resumed training must
restore, and cannot skip images of a batch.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import socket
import subprocess
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import cv2
import keras
import numpy as np
import numpy.typing as npt

from core.data.splits import SPLITS, Indices, epoch_indices
from core.errors import DermSlimError, SpecError
from core.files.plain_files import whole_file
from core.networks.architectures import CHANNELS, CLASSES, METADATA_FEATURES, NetworkSpec, factor_name
from core.networks.inheritance import Weights
from core.networks.keras_models import build_model
from core.networks.plain_data import network_to_dict
from core.predictions.classification import classify
from core.settings import usable_cores
from core.training.algorithm2 import ROUNDING
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
from core.training.results import EpochResult, LostNetwork, TrainingError
from core.training.specs import (
    BFLOAT16,
    CONSTANT,
    COSINE,
    FLOAT16,
    FLOAT32,
    TRAINING,
    VALIDATION,
    Baseline,
    TrainingProtocol,
    article_baseline,
)

LEAST_CHANCE = 1e-7  # the limit of Keras's cross-entropy
POLICIES = {FLOAT32: "float32", BFLOAT16: "mixed_bfloat16", FLOAT16: "mixed_float16"}  # Keras's, by precision
LOST_SPREAD = 1e-4  # of a probability between the validation images
LOST_GRADIENT = 1e-4  # its norm: about 1 where a network learns, under 1e-8 where the head is dead
FIRST_SIGN = 2  # epochs after which a network may count as lost
TOGETHER = 16  # batches that are trained between two returns to Python, which changes no figure
AT_ONCE = 4  # batches that are predicted together: without gradients, four fit where one is trained

CROSS_ENTROPY = "cross_entropy"  # the metric that is a taught network's own loss

Pixels = npt.NDArray[np.uint8]
Floats = npt.NDArray[np.float32]
Batch = tuple[dict[str, npt.NDArray[Any]], Floats]  # inputs by name, one-hot labels


@dataclass(frozen=True, eq=False)
class Teacher:
    """A trained network that teaches another one. weights: all of its arrays, see `weights_in_order`.

    temperature, weight: of its loss, see `core.training.specs.Rules`.
    """

    network: NetworkSpec
    weights: Sequence[npt.NDArray[Any]]
    temperature: float
    weight: float


class Batches(keras.utils.PyDataset):
    """Batches that are made on demand, in order, so that a memory-mapped array need not be in memory.

    Two threads make them ahead of the training. With one, Keras leaves that to TensorFlow, which then takes up to a
    second to end an epoch.
    """

    def __init__(self, make: Callable[[int], Any], count: int) -> None:
        super().__init__(workers=2)
        self.make, self.count = make, count

    def __len__(self) -> int:
        """Return the number of batches."""
        return self.count

    def __getitem__(self, index: int) -> Any:
        """Return one batch."""
        return self.make(index)


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


# The model


def seeded_model(network: NetworkSpec, spec: TrainingProtocol) -> keras.Model:
    """Build a network with initial weights from the seed; its probabilities have 32 bits at any precision."""
    keras.utils.set_random_seed(spec.seed)
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy(POLICIES[spec.precision])
    try:
        model = build_model(network, spec.height, spec.width)
    finally:
        keras.config.set_dtype_policy(before)
    model.layers[-1].dtype_policy = "float32"  # a 16-bit softmax has no probability under 6e-8, and no loss above 17
    return model


def compiled_model(network: NetworkSpec, spec: TrainingProtocol, batches: int = 1) -> keras.Model:
    """Build a network and its optimizer. batches: of an epoch, which a schedule of the learning rate needs."""
    model = seeded_model(network, spec)
    compile_for(spec, model, keras.optimizers.Adam(learning_rate(spec, batches)))
    model.optimizer.build(model.trainable_variables)
    return model


def compile_for(
    spec: TrainingProtocol, model: keras.Model, optimizer: keras.optimizers.Optimizer, *further: keras.metrics.Metric
) -> None:
    """Give a model its optimizer, loss and metrics, and further ones."""
    model.compile(
        optimizer,
        keras.losses.CategoricalCrossentropy(),
        metrics=[
            keras.metrics.CategoricalAccuracy(name="accuracy"),
            keras.metrics.Precision(thresholds=0.5, name="precision"),
            keras.metrics.Recall(thresholds=0.5, name="recall"),
            *further,
        ],
        jit_compile=spec.jit_compile or keras.backend.backend() == "jax",  # which would run op by op without
    )


class LogitsOfProbabilities(keras.distillation.LogitsDistillation):
    """Keras's loss of logits, for networks that end in a softmax.

    The logarithms of an image's probabilities are its logits minus one number, and a softmax at any temperature is the
    same for both.
    """

    def compute_loss(self, teacher_outputs: Any, student_outputs: Any, **options: Any) -> Any:
        """Return T² · KL(softmax(teacher's logits / T) ‖ softmax(student's logits / T)), the mean over the images."""
        logits = [keras.ops.log(keras.ops.maximum(each, LEAST_CHANCE)) for each in (teacher_outputs, student_outputs)]
        return super().compute_loss(*logits, **options)


def taught(model: keras.Model, teacher: Teacher, spec: TrainingProtocol) -> keras.Model:
    """Return a model that trains a compiled network with its optimizer, taught by another network.

    The loss is (1 − weight) · the network's own + weight · `LogitsOfProbabilities`. The teacher does not change, and
    answers without dropout. Metrics are the network's; its own loss is the metric `CROSS_ENTROPY`.
    """
    teaching = seeded_model(teacher.network, spec)
    teaching.set_weights(teacher.weights)
    # Given by its name, Keras would take the divergence of the logits, which are no probabilities.
    loss = LogitsOfProbabilities(float(teacher.temperature), loss=keras.losses.KLDivergence())
    learner = keras.distillation.Distiller(teaching, model, loss, student_loss_weight=1 - float(teacher.weight))
    compile_for(spec, learner, model.optimizer, keras.metrics.CategoricalCrossentropy(name=CROSS_ENTROPY))
    return learner


def learning_rate(spec: TrainingProtocol, batches: int) -> float | keras.optimizers.schedules.LearningRateSchedule:
    """Return the learning rate, or its schedule over the batches of the training. batches: of an epoch."""
    warm_up = spec.warm_up_epochs * batches
    if spec.schedule == CONSTANT and not warm_up:
        return float(spec.learning_rate)
    schedules = keras.optimizers.schedules
    if spec.schedule == COSINE:
        falling = max(1, (spec.epochs - spec.warm_up_epochs) * batches)
        if not warm_up:
            return schedules.CosineDecay(spec.learning_rate, falling)
        return schedules.CosineDecay(0.0, falling, warmup_target=spec.learning_rate, warmup_steps=warm_up)
    return schedules.PolynomialDecay(0.0, warm_up, spec.learning_rate)


def gradient_norm(model: keras.Model) -> float:
    """Return the L2 norm of Adam's running mean of the gradient, over all layers but the last.

    Where every unit of a layer is dead, the gradient of all that comes before is 0, and the mean fades within an epoch.
    """
    optimizer = getattr(model.optimizer, "inner_optimizer", model.optimizer)  # float16 is trained with a scaled loss
    last = len(model.layers[-1].trainable_variables)
    means = [each for each in optimizer.variables if each.path.endswith("momentum")][:-last]
    return math.hypot(*(float(np.linalg.norm(np.ravel(keras.ops.convert_to_numpy(each)))) for each in means))


def observing(model: keras.Model) -> keras.Model:
    """Return a model of the same weights that gives the probabilities and the head's last hidden layer."""
    dense = (each for each in reversed(model.layers[:-1]) if isinstance(each, keras.layers.Dense))
    factor = factor_name("")
    hidden = next((each for each in dense if "head" in each.name and factor not in each.name), model.layers[-1])
    return keras.Model(model.inputs, [model.output, hidden.output])


def predicted(
    observer: keras.Model, data: Examples, indices: Sequence[int], batch_size: int
) -> tuple[Floats, npt.NDArray[Any]]:
    """Return what `observing` gives: (indices, classes) and (indices, units)."""
    # Not `predict`, whose setup takes longer than some hundred images.
    found = [observer.predict_on_batch(each) for each in input_batches(data, indices, batch_size)]
    if not found:
        return np.zeros((0, len(CLASSES)), dtype=np.float32), np.zeros((0, 0))
    chances, hidden = (np.concatenate(list(map(np.asarray, parts))) for parts in zip(*found, strict=True))
    return chances.astype(np.float32), hidden


def probabilities(model: keras.Model, data: Examples, indices: Sequence[int], batch_size: int) -> Floats:
    """Return a network's softmax, (indices, classes)."""
    found = [np.asarray(model.predict_on_batch(each)) for each in input_batches(data, indices, batch_size)]
    return np.concatenate([np.zeros((0, len(CLASSES)), dtype=np.float32), *found]).astype(np.float32)


def softmax(model: keras.Model, images: Pixels, metadata: Floats) -> Floats:
    """Return a network's probabilities, (n, classes), of images (n, H, W, 3) and metadata (n, 3), all at once."""
    return np.asarray(model.predict_on_batch({"image": images, "metadata": metadata})).astype(np.float32)


def input_batches(data: Examples, indices: Sequence[int], batch_size: int) -> Iterator[dict[str, npt.NDArray[Any]]]:
    """Yield the inputs of these images, `AT_ONCE` batches of a training together."""
    rows, count = np.array(indices, dtype=np.int64), AT_ONCE * batch_size
    for start in range(0, len(rows), count):
        batch = rows[start : start + count]
        yield {"image": data.images[batch], "metadata": data.metadata[batch]}


@contextmanager
def explained(spec: TrainingProtocol) -> Iterator[None]:
    """Turn a backend's error about too little memory into a TrainingError with a hint; raise others unchanged."""
    try:
        yield
    except Exception as error:  # each backend has its own class
        if isinstance(error, DermSlimError) or not out_of_memory(error):
            raise
        raise TrainingError(
            f"There is too little memory for batches of {spec.batch_size} images of {spec.height}×{spec.width}. Try a"
            " smaller batch or smaller images, or end other programs that use the device."
        ) from error


def out_of_memory(error: Exception) -> bool:
    """Return whether an error means that a backend ran out of memory."""
    words = f"{type(error).__name__} {error}".lower()
    signs = ("resource_exhausted", "resourceexhausted", "out of memory", "outofmemory", "failed to allocate memory")
    return isinstance(error, MemoryError) or any(sign in words for sign in signs)


# Devices


def accelerators() -> list[str]:
    """Return the accelerators that the backend sees, such as gpu:0; none where it has only the CPU."""
    try:
        found = keras.distribution.list_devices()
    except (AttributeError, RuntimeError):  # a backend without a list
        return []
    return [name.lower() for name in found if not name.lower().startswith("cpu")]


@contextmanager
def on_device(device: str) -> Iterator[None]:
    """Train on 'cpu', on 'gpu', or with 'auto' on the backend's default. Raises TrainingError without a GPU."""
    if device == "auto":
        yield
        return
    if device == "gpu" and not accelerators():
        raise TrainingError(
            f"Expected a GPU, but the backend {keras.backend.backend()} sees none on {socket.gethostname()}. Choose the"
            " device auto or cpu, or check the driver."
        )
    with keras.device(f"{device}:0"):
        yield


def device_name(device: str) -> str:
    """Return the device of a training with this choice: its name, product name, host and backend."""
    accelerator = next(iter(accelerators()), None) if device != "cpu" else None
    what = f"{usable_cores()} CPU cores" if accelerator is None else f"{accelerator} {gpu_name()}".strip()
    return f"{what} on {socket.gethostname()}, {keras.backend.backend()}"


def gpu_name() -> str:
    """Return the product name of the first GPU in use from nvidia-smi; empty without that tool."""
    command = ["nvidia-smi", "--query-gpu=name", "--format=csv,noheader"]
    if visible := os.environ.get("CUDA_VISIBLE_DEVICES"):
        command.append(f"--id={visible.partition(',')[0]}")
    try:
        answer = subprocess.run(command, capture_output=True, text=True, timeout=10, check=True).stdout
    except (OSError, subprocess.SubprocessError):
        return ""
    return answer.strip().partition("\n")[0]


# Batches


def batches_of(data: Examples, spec: TrainingProtocol) -> int:
    """Return the number of batches of an epoch."""
    return math.ceil(len(data.split.oversampled) / spec.batch_size)


def training_batches(data: Examples, spec: TrainingProtocol, epoch: int) -> Batches:
    """Return one epoch's batches, which depend only on the seed and the epoch."""
    order, augmented = epoch_indices(data.split, spec.seed, epoch)
    one_hot = np.eye(len(CLASSES), dtype=np.float32)

    def make(number: int) -> Batch:
        places = range(number * spec.batch_size, min((number + 1) * spec.batch_size, len(order)))
        rows = order[places.start : places.stop]
        pixels = data.images[rows]  # a copy
        if spec.augmentation:
            for row, place in enumerate(places):
                if augmented[place]:
                    pixels[row] = augment(pixels[row], spec, np.random.default_rng([spec.seed, epoch, place]))
        return {"image": pixels, "metadata": data.metadata[rows]}, one_hot[data.labels[rows]]

    return Batches(make, batches_of(data, spec))


def augment(image: Pixels, spec: TrainingProtocol, generator: np.random.Generator) -> Pixels:
    """Return an image randomly flipped, rotated about its centre, zoomed and brightened, with mirrored edges."""
    height, width = image.shape[:2]
    across, down = generator.integers(0, 2, 2) * -2 + 1  # -1: flipped
    angle, zoom, brightness = generator.uniform(-1, 1, 3) * (spec.rotation, spec.zoom, spec.brightness)
    middle = ((width - 1) / 2, (height - 1) / 2)
    turned = cv2.getRotationMatrix2D(middle, float(angle), 1 + float(zoom))
    flipped = np.array([[across, 0, middle[0] * (1 - across)], [0, down, middle[1] * (1 - down)], [0, 0, 1]])
    pixels = cv2.warpAffine(image, turned @ flipped, (width, height), borderMode=cv2.BORDER_REFLECT_101)
    return np.asarray(cv2.convertScaleAbs(pixels, alpha=1 + float(brightness)), dtype=np.uint8)


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


def state(model: keras.Model) -> list[keras.Variable]:
    """Return everything that training changes: weights, running statistics, dropout's random state, the optimizer."""
    return [*model.trainable_variables, *model.non_trainable_variables, *model.optimizer.variables]


def copied(variables: Sequence[keras.Variable]) -> Arrays:
    """Return copies of the variables' values, because a backend may return memory that training changes."""
    return [np.require(keras.ops.convert_to_numpy(variable), requirements=["OWNDATA"]) for variable in variables]


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


def model_with(network: NetworkSpec, spec: TrainingProtocol, weights: Weights) -> keras.Model:
    """Return a network with these weights, by layer, to predict with. spec: its precision is not auto."""
    model = seeded_model(network, spec)
    for name, values in weights.items():
        model.get_layer(name).set_weights(values)
    return model


def load_model(path: Path) -> keras.Model:
    """Return the network of a `.keras` file, to predict with."""
    return keras.saving.load_model(path, compile=False)


def weights_in_order(path: Path) -> Arrays:
    """Return all weights of a `.keras` file, as the network itself takes them."""
    return copied(load_model(path).weights)


def weights_of(path: Path) -> Weights:
    """Return the weights of a `.keras` file by layer."""
    return {layer.name: layer.get_weights() for layer in load_model(path).layers if layer.weights}


def save_model(model: keras.Model, path: Path) -> None:
    """Write a network as a `.keras` file atomically."""
    with whole_file(path, path.with_name(f"half-{path.name}")) as draft:  # Keras requires the suffix
        model.save(draft)
