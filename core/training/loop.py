"""Trains one network: an epoch at a time, checkpointed, so that a killed process goes on where it was.

A checkpoint is written by a thread while the next epoch is trained. Whoever is killed meanwhile trains that epoch
again, to the same result.

With `core.networks.keras_models` the only code that imports Keras; nothing here calls a backend. The same seed on the
same machine gives the same result: weights, order, dropout and augmentation follow from it (on a GPU, as far as its
kernels do).

Only what `Split.augmented` marks is augmented: the repeats that bring a small class up to the others. That is done by
OpenCV on the 8-bit batch, not by Keras's preprocessing layers: these would draw other numbers on another backend, keep
a state of their own that a resumed training must restore, and cannot leave some images of a batch as they are.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import socket
import subprocess
import time
import zipfile
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import cv2
import keras
import numpy as np
import numpy.typing as npt

from core.data.splits import SPLITS, Indices, Split, epoch_indices
from core.errors import DermSlimError, SpecError
from core.networks.architectures import CHANNELS, CLASSES, METADATA_FEATURES, NetworkSpec
from core.networks.architectures import to_dict as network_to_dict
from core.networks.keras_models import build_model
from core.settings import usable_cores
from core.training.algorithm2 import ROUNDING
from core.training.classification import Classification, classify
from core.training.results import EpochResult, TrainingError
from core.training.specs import TRAINING, VALIDATION, Baseline, TrainingProtocol, article_baseline

CHECKPOINT_NAME = "checkpoint.npz"
KEPT_NAME = "kept-{epoch}.npz"  # written before the checkpoint that names it
DAMAGED = (OSError, ValueError, LookupError, TypeError, EOFError, zipfile.BadZipFile)  # NumPy's, of a broken file
LEAST_CHANCE = 1e-7  # as Keras's cross-entropy clips

Pixels = npt.NDArray[np.uint8]
Floats = npt.NDArray[np.float32]
Batch = tuple[dict[str, npt.NDArray[Any]], Floats]  # inputs by name, one-hot labels


class Batches(keras.utils.PyDataset):
    """Batches made when they are asked for: rows of a memory-mapped array need not all be in memory."""

    def __init__(self, make: Callable[[int], Any], count: int) -> None:
        super().__init__()
        self.make, self.count = make, count

    def __len__(self) -> int:
        """Return the number of batches."""
        return self.count

    def __getitem__(self, index: int) -> Any:
        """Return one batch."""
        return self.make(index)


def train(
    network: NetworkSpec,
    images: Pixels,
    metadata: Floats,
    labels: Indices,
    split: Split,
    spec: TrainingProtocol,
    folder: Path,
    *,
    baseline: Baseline | None = None,
    check: Callable[[], None] = lambda: None,
) -> Generator[EpochResult]:
    """Train a network and yield each epoch as it ends; to cancel, close the generator, which waits for the checkpoint.

    images: (n, H, W, 3) uint8, BGR. metadata: (n, 3). labels: (n,) places in `CLASSES`; only the split's rows are used.
    Epochs that `folder` has a checkpoint of are yielded from there, and the training goes on after them. The weights
    kept are those of the best validation accuracy among epochs that meet the baseline (by default the article's for
    the network), else of the best; of equal ones the first. check: called before a checkpoint is written; what it
    raises ends the training. Raises SpecError where the data do not fit, or the folder
    holds another training; TrainingError where the loss is no number, or memory does not suffice.
    """
    check_data(images, metadata, labels, split, spec)
    baseline = baseline or article_baseline(network.name)
    identity = identify(network, images, metadata, labels, split, spec, baseline)
    folder.mkdir(parents=True, exist_ok=True)
    with explained(spec):
        model = compiled_model(network, spec)
        history = restore(folder, model, identity)
    yield from history
    written: Future[None] | None = None
    with ThreadPoolExecutor(1) as writer:  # at its end, also where the generator is closed, all has been written
        for epoch in range(len(history) + 1, spec.epochs + 1):
            result = train_epoch(model, images, metadata, labels, split, spec, epoch, baseline)
            result = replace(result, best=rank(result) > max(map(rank, history), default=(False, -1.0)))
            history.append(result)
            if written is not None:
                written.result()  # one at a time; what went wrong is raised here
            check()
            written = writer.submit(save, folder, Snapshot.of(model, result.best), tuple(history), identity)
            yield result
    if written is not None:
        written.result()


def train_epoch(
    model: keras.Model,
    images: Pixels,
    metadata: Floats,
    labels: Indices,
    split: Split,
    spec: TrainingProtocol,
    epoch: int,
    baseline: Baseline,
) -> EpochResult:
    """Train one epoch and return its figures. Raises TrainingError where it gives no numbers, or memory runs out."""
    began = time.perf_counter()
    with explained(spec):
        batches = training_batches(images, metadata, labels, split, spec, epoch)
        logs = model.fit(batches, epochs=1, shuffle=False, verbose=0).history
        trained = time.perf_counter() - began
        chances = probabilities(model, images, metadata, split.validation, spec.batch_size)
    loss = float(logs["loss"][0])
    if not (math.isfinite(loss) and np.isfinite(chances).all()):
        raise TrainingError(
            f"Expected finite losses and weights. Epoch {epoch} ended with a loss of {loss:g} and weights that"
            f" give no probabilities: try a learning rate under {spec.learning_rate:g}"
            f"{', or training without mixed precision' if spec.mixed_precision else ''}."
        )
    return replace(
        judged(epoch, logs, chances, labels[list(split.validation)], baseline),
        seconds=time.perf_counter() - began,
        images_per_second=len(split.oversampled) / trained,
    )


def check_data(images: Pixels, metadata: Floats, labels: Indices, split: Split, spec: TrainingProtocol) -> None:
    """Raise SpecError unless the arrays fit each other, the split and the protocol."""
    size = (len(images), spec.height, spec.width, CHANNELS)
    if images.shape != size or images.dtype != np.uint8:
        raise SpecError(f"Expected uint8 images of {size}. Received: {images.dtype} of {images.shape}.")
    if metadata.shape != (len(images), len(METADATA_FEATURES)) or labels.shape != (len(images),):
        raise SpecError(
            f"Expected metadata and labels of {len(images)} images. Received: {metadata.shape}, {labels.shape}."
        )
    if not np.isfinite(metadata).all():
        raise SpecError("Expected finite metadata. Received some that are not.")
    used = np.array([index for name in SPLITS for index in getattr(split, name)], dtype=np.int64)
    if not len(split.train) or used.max() >= len(images):
        raise SpecError(f"Expected a split of {len(images)} images. Received one of other images, or without training.")
    if not np.isin(labels[used], range(len(CLASSES))).all():
        raise SpecError(f"Expected a label of 0 to {len(CLASSES) - 1} for every image of the split. Some have another.")


def identify(
    network: NetworkSpec,
    images: Pixels,
    metadata: Floats,
    labels: Indices,
    split: Split,
    spec: TrainingProtocol,
    baseline: Baseline,
) -> str:
    """Return a hash of what determines a training but for the pixels, which take long to read."""
    backend = (keras.backend.backend(), keras.__version__)
    sets = asdict(split) | {"targets": split.targets.to_dict()}
    values = [network_to_dict(network), spec.to_dict(), sets, baseline.to_dict(), images.shape, backend]
    digest = hashlib.sha256(json.dumps(values, sort_keys=True).encode())
    digest.update(np.ascontiguousarray(metadata, dtype=np.float32).tobytes())
    digest.update(np.ascontiguousarray(labels, dtype=np.int64).tobytes())
    return digest.hexdigest()


# The model


def seeded_model(network: NetworkSpec, spec: TrainingProtocol) -> keras.Model:
    """Build a network whose first weights follow from the seed; it gives 32-bit probabilities at any precision."""
    keras.utils.set_random_seed(spec.seed)
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy("mixed_float16" if spec.mixed_precision else "float32")
    try:
        model = build_model(network, spec.height, spec.width)
    finally:
        keras.config.set_dtype_policy(before)
    model.layers[-1].dtype_policy = "float32"  # a 16-bit softmax has no chance under 6e-8, and no loss above 17
    return model


def compiled_model(network: NetworkSpec, spec: TrainingProtocol) -> keras.Model:
    """Build a network and its optimizer."""
    model = seeded_model(network, spec)
    model.compile(
        keras.optimizers.Adam(spec.learning_rate),
        keras.losses.CategoricalCrossentropy(),
        metrics=[
            keras.metrics.CategoricalAccuracy(name="accuracy"),
            keras.metrics.Precision(thresholds=0.5, name="precision"),
            keras.metrics.Recall(thresholds=0.5, name="recall"),
        ],
        jit_compile=spec.jit_compile or keras.backend.backend() == "jax",  # which would run op by op without
    )
    model.optimizer.build(model.trainable_variables)
    return model


def probabilities(
    model: keras.Model, images: Pixels, metadata: Floats, indices: Sequence[int], batch_size: int
) -> npt.NDArray[np.float32]:
    """Return a network's softmax, (indices, classes)."""
    rows = np.array(indices, dtype=np.int64)
    batches = (rows[start : start + batch_size] for start in range(0, len(rows), batch_size))
    # Not `predict`, which takes longer to set out than some hundred images take.
    found = [model.predict_on_batch({"image": images[batch], "metadata": metadata[batch]}) for batch in batches]
    return np.concatenate([np.zeros((0, len(CLASSES)), dtype=np.float32), *found]).astype(np.float32)


@contextmanager
def explained(spec: TrainingProtocol) -> Iterator[None]:
    """Turn a backend's words for too little memory into a TrainingError with a hint; all else is raised as it came."""
    try:
        yield
    except Exception as error:  # each backend has a class of its own
        if isinstance(error, DermSlimError) or not out_of_memory(error):
            raise
        raise TrainingError(
            f"Expected memory for batches of {spec.batch_size} images of {spec.height}×{spec.width}; there is too"
            " little: try a smaller batch or smaller images, or end what else uses the device."
        ) from error


def out_of_memory(error: Exception) -> bool:
    """Tell whether a backend ran out of memory."""
    words = f"{type(error).__name__} {error}".lower()
    signs = ("resource_exhausted", "resourceexhausted", "out of memory", "outofmemory", "failed to allocate memory")
    return isinstance(error, MemoryError) or any(sign in words for sign in signs)


# Devices


def accelerators() -> list[str]:
    """Return the accelerators that the backend sees, such as gpu:0; none where it has only the processor."""
    try:
        found = keras.distribution.list_devices()
    except (AttributeError, RuntimeError):  # a backend that does not tell
        return []
    return [name.lower() for name in found if not name.lower().startswith("cpu")]


@contextmanager
def on_device(device: str) -> Iterator[None]:
    """Train on 'cpu', on 'gpu', or with 'auto' on what the backend takes by itself. TrainingError without a GPU."""
    if device == "auto":
        yield
        return
    if device == "gpu" and not accelerators():
        raise TrainingError(
            f"Expected a GPU. The backend {keras.backend.backend()} sees none on {socket.gethostname()}: choose the"
            " device auto or cpu, or see to the driver."
        )
    with keras.device(f"{device}:0"):
        yield


def device_name(device: str) -> str:
    """Say what a training with this choice of device runs on: the device, its product name, host and backend."""
    accelerator = next(iter(accelerators()), None) if device != "cpu" else None
    what = f"{usable_cores()} CPU cores" if accelerator is None else f"{accelerator} {gpu_name()}".strip()
    return f"{what} on {socket.gethostname()}, {keras.backend.backend()}"


def gpu_name() -> str:
    """Return the product name that NVIDIA's own tool gives for the first GPU in use; empty without that tool."""
    command = ["nvidia-smi", "--query-gpu=name", "--format=csv,noheader"]
    if visible := os.environ.get("CUDA_VISIBLE_DEVICES"):
        command.append(f"--id={visible.partition(',')[0]}")
    try:
        answer = subprocess.run(command, capture_output=True, text=True, timeout=10, check=True).stdout
    except (OSError, subprocess.SubprocessError):
        return ""
    return answer.strip().partition("\n")[0]


# Batches


def training_batches(
    images: Pixels, metadata: Floats, labels: Indices, split: Split, spec: TrainingProtocol, epoch: int
) -> Batches:
    """Return one epoch's batches; they follow from the seed and the epoch alone."""
    order, augmented = epoch_indices(split, spec.seed, epoch)
    one_hot = np.eye(len(CLASSES), dtype=np.float32)

    def make(number: int) -> Batch:
        places = range(number * spec.batch_size, min((number + 1) * spec.batch_size, len(order)))
        rows = order[places.start : places.stop]
        pixels = images[rows]  # a copy
        if spec.augmentation:
            for row, place in enumerate(places):
                if augmented[place]:
                    pixels[row] = augment(pixels[row], spec, np.random.default_rng([spec.seed, epoch, place]))
        return {"image": pixels, "metadata": metadata[rows]}, one_hot[labels[rows]]

    return Batches(make, math.ceil(len(order) / spec.batch_size))


def augment(image: Pixels, spec: TrainingProtocol, generator: np.random.Generator) -> Pixels:
    """Return an image flipped, turned about its middle, zoomed and brightened at random; the edge is mirrored."""
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
    found = classify(chances, labels)
    right = np.clip(chances[np.arange(len(labels)), labels], LEAST_CHANCE, 1)
    result = EpochResult(
        epoch=epoch,
        train_loss=float(logs["loss"][0]),
        train_accuracy=100 * float(logs["accuracy"][0]),
        train_precision=100 * float(logs["precision"][0]),
        train_recall=100 * float(logs["recall"][0]),
        validation_loss=float(-np.log(right, dtype=np.float64).mean()) if len(labels) else None,
        validation_accuracy=found.accuracy,
        validation_precision=found.precision,
        validation_recall=found.recall,
        seconds=0.0,
        images_per_second=0.0,
    )
    criteria = {name: getattr(result, name) for name in (*TRAINING, *VALIDATION)}
    meets = all(value is not None and value >= getattr(baseline, name) - ROUNDING for name, value in criteria.items())
    return replace(result, meets_baseline=meets)


def rank(result: EpochResult) -> tuple[bool, float]:
    """Return what decides whose weights are kept; higher is better."""
    return result.meets_baseline, -1.0 if result.validation_accuracy is None else result.validation_accuracy


def kept_epoch(history: Sequence[EpochResult]) -> int:
    """Return the epoch whose weights are kept."""
    return max(history, key=rank).epoch


# Checkpoints


def state(model: keras.Model) -> list[keras.Variable]:
    """Return all that training changes: weights, running statistics, dropout's random state, the optimizer."""
    return [*model.trainable_variables, *model.non_trainable_variables, *model.optimizer.variables]


@dataclass(frozen=True, eq=False)
class Snapshot:
    """A model after an epoch. state: all that training changes. weights: those to keep, None where others are."""

    state: list[npt.NDArray[Any]]
    weights: list[npt.NDArray[Any]] | None

    @classmethod
    def of(cls, model: keras.Model, best: bool) -> Snapshot:
        """Copy what the next epoch will change."""
        return cls(copied(state(model)), copied(model.weights) if best else None)


def copied(variables: Sequence[keras.Variable]) -> list[npt.NDArray[Any]]:
    """Return the variables' values; a backend may hand out its own memory, which training goes on changing."""
    return [np.array(keras.ops.convert_to_numpy(variable)) for variable in variables]


def save(folder: Path, snapshot: Snapshot, history: Sequence[EpochResult], identity: str) -> None:
    """Write the checkpoint, and before it the weights to keep; whoever is killed meanwhile leaves the one before."""
    kept = folder / KEPT_NAME.format(epoch=kept_epoch(history))
    if snapshot.weights is not None:
        write_arrays(kept, snapshot.weights)
    about = {"identity": identity, "history": [asdict(result) for result in history]}
    write_arrays(folder / CHECKPOINT_NAME, snapshot.state, about)
    for other in folder.glob(KEPT_NAME.format(epoch="*")):
        if other != kept:
            other.unlink()


def write_arrays(path: Path, values: Sequence[npt.NDArray[Any]], about: dict[str, Any] | None = None) -> None:
    """Write arrays, and values as JSON, to a file that is there whole or not at all."""
    arrays: dict[str, Any] = {f"{number}": array for number, array in enumerate(values)}
    half = path.with_suffix(".half")
    try:
        with half.open("wb") as file:
            np.savez(file, about=np.array(json.dumps(about)), **arrays)
            file.flush()
            os.fsync(file.fileno())
        half.replace(path)
    finally:
        half.unlink(missing_ok=True)


def read_arrays(path: Path) -> list[npt.NDArray[Any]]:
    """Return the arrays that `write_arrays` wrote. Raises one of `DAMAGED` where the file is."""
    with np.load(path, allow_pickle=False) as file:
        return [file[f"{number}"] for number in range(len(file.files) - 1)]


def restore(folder: Path, model: keras.Model, identity: str) -> list[EpochResult]:
    """Put a checkpoint's state into a model and return its epochs; none where there is no whole checkpoint."""
    about = read_about(folder)
    if about is None:
        return []
    if about["identity"] != identity:
        raise SpecError(f"Expected {folder} to be empty or to hold this training. It holds another's checkpoint.")
    try:
        arrays = read_arrays(folder / CHECKPOINT_NAME)
    except DAMAGED:
        return []
    for variable, array in zip(state(model), arrays, strict=True):
        variable.assign(array)
    return epochs(about)


def read_about(folder: Path) -> dict[str, Any] | None:
    """Return a checkpoint's values; None where there is none, it is damaged, or the weights to keep are not there."""
    try:
        with np.load(folder / CHECKPOINT_NAME, allow_pickle=False) as file:
            about: dict[str, Any] = json.loads(str(file["about"]))
        kept = kept_epoch(epochs(about))
    except DAMAGED:
        return None
    return about if (folder / KEPT_NAME.format(epoch=kept)).is_file() else None


def epochs(about: dict[str, Any]) -> list[EpochResult]:
    """Return the epochs among a checkpoint's values."""
    return [EpochResult(**values) for values in about["history"]]


# After training


def history_of(folder: Path) -> tuple[EpochResult, ...]:
    """Return the epochs that a folder has a checkpoint of."""
    about = read_about(folder)
    return tuple(epochs(about)) if about else ()


def kept_model(network: NetworkSpec, spec: TrainingProtocol, folder: Path) -> keras.Model:
    """Return the network with the kept weights, without optimizer. Raises TrainingError where no epoch has ended."""
    history = history_of(folder)
    if not history:
        raise TrainingError(f"Expected a trained epoch in {folder}. There is none: train first.")
    model = seeded_model(network, spec)
    model.set_weights(read_arrays(folder / KEPT_NAME.format(epoch=kept_epoch(history))))
    return model


def evaluate(
    network: NetworkSpec,
    images: Pixels,
    metadata: Floats,
    labels: Indices,
    split: Split,
    spec: TrainingProtocol,
    folder: Path,
) -> dict[str, Classification]:
    """Return the kept weights' metrics on each of `SPLITS`; in training every image once, none augmented."""
    check_data(images, metadata, labels, split, spec)
    with explained(spec):
        model = kept_model(network, spec, folder)
        rows = {name: list(getattr(split, name)) for name in SPLITS}
        return {
            name: classify(probabilities(model, images, metadata, indices, spec.batch_size), labels[indices])
            for name, indices in rows.items()
        }


def save_model(model: keras.Model, path: Path) -> None:
    """Write a network as a `.keras` file, there whole or not at all."""
    half = path.with_name(f"half-{path.name}")  # Keras looks at the suffix
    try:
        model.save(half)
        half.replace(path)
    finally:
        half.unlink(missing_ok=True)
