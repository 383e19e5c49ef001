"""A substitute for Keras: a softmax regression in NumPy, for tests that need trainings but no networks.

Importing Keras takes three seconds in every process that trains. A process that has this folder on its `PYTHONPATH`
imports this module instead. It has only what `core.networks.keras_models` and `core.training` call, so batches,
checkpoints, resumed trainings, evaluations and files are those of DermSlim. Its model always uses the mean colours of a
4 × 4 grid of fields and the metadata, whatever the layers.
"""

from __future__ import annotations

import os
import time
from types import SimpleNamespace
from typing import Any

import numpy as np

__version__ = "0"
# These delays let a test act while a training starts or runs.
START_SECONDS = float(os.environ.get("START_SECONDS", "0"))
EPOCH_SECONDS = float(os.environ.get("EPOCH_SECONDS", "0.1"))
BUSY_SECONDS = 0.1  # of CPU time before the first epoch: see `laboratory.WELL_BEGUN`
FIELDS, CHANNELS, METADATA, CLASSES = 4, 3, 3, 4


class Variable:
    """An array that replaces a trainable tensor."""

    def __init__(self, value: Any, path: str = "") -> None:
        self.value, self.path = np.asarray(value), path

    def assign(self, value: Any) -> None:
        assert self.value.shape == np.shape(value)
        self.value = np.asarray(value, self.value.dtype)


class Adam:
    """Adam, with the state that a checkpoint contains."""

    def __init__(self, learning_rate: float) -> None:
        self.learning_rate = learning_rate
        self.variables: list[Variable] = []

    def build(self, trained: list[Variable]) -> None:
        names = [(each, name) for each in trained for name in ("momentum", "velocity")]
        self.variables = [Variable(np.array(0)), *(Variable(np.zeros_like(each.value), name) for each, name in names)]

    def apply(self, trained: list[Variable], gradients: list[Any]) -> None:
        steps, *moments = self.variables
        steps.assign(steps.value + 1)
        for number, (variable, gradient) in enumerate(zip(trained, gradients, strict=True)):
            first, second = moments[2 * number : 2 * number + 2]
            first.assign(0.9 * first.value + 0.1 * gradient)
            second.assign(0.999 * second.value + 0.001 * gradient**2)
            mean = first.value / (1 - 0.9**steps.value)
            spread = np.sqrt(second.value / (1 - 0.999**steps.value))
            variable.assign(variable.value - self.learning_rate * mean / (spread + 1e-7))


class Model:
    """The softmax regression, with the methods of a Keras model that the product calls.

    A model of another model's inputs gives that one's probabilities twice.
    """

    def __init__(self, inputs: Any, outputs: Any, name: str = "") -> None:
        self.name, self.inputs, self.output = name, self, None
        self.observed = inputs if isinstance(inputs, Model) else None
        features = FIELDS * FIELDS * CHANNELS + METADATA
        weights = np.random.default_rng(random.seed).normal(0, 0.01, (features, CLASSES))
        self.weights = [Variable(weights.astype(np.float32)), Variable(np.zeros(CLASSES, np.float32))]
        self.trainable_variables, self.non_trainable_variables = self.weights, []
        self.layers = [SimpleNamespace(output=None, trainable_variables=self.weights[1:])]

    def compile(self, optimizer: Adam, *losses: Any, **options: Any) -> None:
        self.optimizer = optimizer
        time.sleep(START_SECONDS)

    def set_weights(self, values: list[Any]) -> None:
        for variable, value in zip(self.weights, values, strict=True):
            variable.assign(value)

    def save(self, path: Any) -> None:
        with open(path, "wb") as file:  # noqa: PTH123 - of any kind of path, as Keras takes it
            np.savez(file, *(each.value for each in self.weights))

    def predict_on_batch(self, inputs: dict[str, Any]) -> Any:
        if self.observed:
            return [self.observed.predict_on_batch(inputs)] * 2
        kernel, bias = (each.value for each in self.weights)
        scores = np.einsum("nf,fc->nc", features_of(inputs), kernel) + bias
        raised = np.exp(scores - scores.max(axis=1, keepdims=True))
        return raised / raised.sum(axis=1, keepdims=True)

    def fit(self, batches: Any, **options: Any) -> Any:
        return self.trained(batches, lambda inputs, found, wanted: found - wanted)

    def trained(self, batches: Any, error_of: Any) -> Any:
        """Train an epoch. error_of: the loss's derivative by the logits, of inputs, probabilities and labels."""
        while time.process_time() < BUSY_SECONDS:
            pass
        time.sleep(EPOCH_SECONDS)
        chances, labels = [], []
        for number in range(len(batches)):
            inputs, wanted = batches[number]
            found = self.predict_on_batch(inputs)
            error = error_of(inputs, found, wanted) / len(wanted)
            gradients = [np.einsum("nf,nc->fc", features_of(inputs), error), error.sum(axis=0)]
            self.optimizer.apply(self.weights, gradients)
            chances.append(found)
            labels.append(wanted)
        return SimpleNamespace(history=figures(np.concatenate(chances), np.concatenate(labels)))


class Distiller(Model):
    """A softmax regression that is taught by another one."""

    def __init__(self, teacher: Model, student: Model, loss: LogitsDistillation, student_loss_weight: float) -> None:
        self.teacher, self.student, self.temperature, self.own = teacher, student, loss.temperature, student_loss_weight

    def fit(self, batches: Any, **options: Any) -> Any:
        def softened(chances: Any) -> Any:
            raised = chances ** (1 / self.temperature)
            return raised / raised.sum(axis=1, keepdims=True)

        def error_of(inputs: Any, found: Any, wanted: Any) -> Any:
            apart = softened(found) - softened(self.teacher.predict_on_batch(inputs))
            return self.own * (found - wanted) + (1 - self.own) * self.temperature * apart

        return self.student.trained(batches, error_of)


class LogitsDistillation:
    """The loss of a taught network."""

    def __init__(self, temperature: float, loss: Any) -> None:
        self.temperature = temperature


def features_of(inputs: dict[str, Any]) -> Any:
    """The mean colours of 4 × 4 fields of each image, 0 to 1, and its metadata: (images, features)."""
    images = inputs["image"].astype(np.float32) / 255
    rows = np.array_split(images, FIELDS, axis=1)
    means = [field.mean(axis=(1, 2)) for row in rows for field in np.array_split(row, FIELDS, axis=2)]
    return np.concatenate([*means, inputs["metadata"]], axis=1, dtype=np.float32)


def figures(chances: Any, labels: Any) -> dict[str, list[float]]:
    """An epoch's loss, accuracy, precision and recall, as Keras's history gives them."""
    truth, sure = labels > 0.5, chances > 0.5
    right = (truth & sure).sum()
    return {
        "loss": [float(-np.log(np.clip((chances * labels).sum(axis=1), 1e-7, 1)).mean())],
        "accuracy": [float((chances.argmax(axis=1) == labels.argmax(axis=1)).mean())],
        "precision": [float(right / max(sure.sum(), 1))],
        "recall": [float(right / len(labels))],
    }


class Layer:
    """Any layer: what it is given has no effect on the model."""

    shape = (None, 0)

    def __init__(self, *arguments: Any, **options: Any) -> None:
        pass

    def __call__(self, inputs: Any) -> Layer:
        return self


class AnyLayer:
    def __getattr__(self, name: str) -> type[Layer]:
        return Layer


def set_random_seed(seed: int) -> None:
    random.seed = seed


def load_model(path: Any, compile: bool) -> Model:
    """Return the model of a file that `Model.save` wrote."""
    model = Model(None, None, "loaded")
    with np.load(path) as file:
        model.set_weights([file[name] for name in file.files])
    return model


def nothing(*arguments: Any, **options: Any) -> None:
    """Stand for a setting, a loss or a metric of Keras: the model has its own."""


class PyDataset:
    """Keras's base of data that are made batch by batch."""

    def __init__(self, workers: int) -> None:
        self.workers = workers


random = SimpleNamespace(seed=0)
Input, layers = Layer, AnyLayer()
backend = SimpleNamespace(backend=lambda: "numpy")
config = SimpleNamespace(dtype_policy=nothing, set_dtype_policy=nothing)
distribution = SimpleNamespace(list_devices=lambda: ["cpu:0"])
distillation = SimpleNamespace(Distiller=Distiller, LogitsDistillation=LogitsDistillation)
losses = SimpleNamespace(CategoricalCrossentropy=nothing, KLDivergence=nothing)
metrics = SimpleNamespace(
    CategoricalAccuracy=nothing, CategoricalCrossentropy=nothing, Precision=nothing, Recall=nothing
)
ops = SimpleNamespace(convert_to_numpy=lambda variable: variable.value.view())
optimizers = SimpleNamespace(Adam=Adam)
saving = SimpleNamespace(load_model=load_model)
utils = SimpleNamespace(PyDataset=PyDataset, set_random_seed=set_random_seed)
