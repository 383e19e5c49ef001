"""Keras models of a training: seeded, compiled, taught by another network, observed, saved and loaded.

Nothing here calls a backend.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import keras
import numpy as np
import numpy.typing as npt

from core.files.plain_files import whole_file
from core.networks.architectures import CLASSES, NetworkSpec, factor_name
from core.networks.inheritance import Weights
from core.networks.keras_models import build_model
from core.training.batches import Floats, Pixels, input_batches
from core.training.checkpoints import Arrays
from core.training.data import Examples
from core.training.specs import BFLOAT16, CONSTANT, COSINE, FLOAT16, FLOAT32, TrainingProtocol

LEAST_CHANCE = 1e-7  # the limit of Keras's cross-entropy
POLICIES = {FLOAT32: "float32", BFLOAT16: "mixed_bfloat16", FLOAT16: "mixed_float16"}  # Keras's, by precision
CROSS_ENTROPY = "cross_entropy"  # the metric that is a taught network's own loss


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


@dataclass(frozen=True, eq=False)
class Teacher:
    """A trained network that teaches another one. weights: all of its arrays, see `weights_in_order`.

    temperature, weight: of its loss, see `core.training.specs.Rules`.
    """

    network: NetworkSpec
    weights: Sequence[npt.NDArray[Any]]
    temperature: float
    weight: float


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


def state(model: keras.Model) -> list[keras.Variable]:
    """Return everything that training changes: weights, running statistics, dropout's random state, the optimizer."""
    return [*model.trainable_variables, *model.non_trainable_variables, *model.optimizer.variables]


def copied(variables: Sequence[keras.Variable]) -> Arrays:
    """Return copies of the variables' values, because a backend may return memory that training changes."""
    return [np.require(keras.ops.convert_to_numpy(variable), requirements=["OWNDATA"]) for variable in variables]


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
