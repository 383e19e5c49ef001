"""A short trial of a training: how many images per second a network trains here, and at which precision most.

It trains on random pixels, so no data set is needed. Only what `core.training.models` builds is timed.
"""

from __future__ import annotations

import time

import numpy as np

from core.networks.architectures import CHANNELS, CLASSES, METADATA_FEATURES, NetworkSpec
from core.networks.costs import network_cost
from core.training.devices import accelerators, explained
from core.training.models import compiled_model
from core.training.specs import AUTO, BFLOAT16, FLOAT16, FLOAT32, TrainingProtocol, TrainSpec

SECONDS = 1.0  # of a trial, after the first batches, in which the backend compiles
WARM_UP = 2  # batches
GAIN = 1.3  # by which bfloat16 must be faster than float32


def images_per_second(network: NetworkSpec, training: TrainingProtocol, seconds: float = SECONDS) -> float:
    """Train a network on random images for some seconds; return its speed. training: its precision is not auto."""
    generator = np.random.default_rng(training.seed)
    size = training.batch_size, training.height, training.width, CHANNELS
    inputs = {
        "image": generator.integers(0, 256, size, dtype=np.uint8),
        "metadata": generator.normal(size=(training.batch_size, len(METADATA_FEATURES))).astype(np.float32),
    }
    labels = np.eye(len(CLASSES), dtype=np.float32)[generator.integers(0, len(CLASSES), training.batch_size)]
    with explained(training):
        model = compiled_model(network, training)
        for _ in range(WARM_UP):
            model.train_on_batch(inputs, labels)
        began, batches, elapsed = time.perf_counter(), 0, 0.0
        while elapsed < seconds:
            model.train_on_batch(inputs, labels)
            batches, elapsed = batches + 1, time.perf_counter() - began
    return batches * training.batch_size / elapsed


def seconds_per_mac(spec: TrainSpec, seconds: float = 2 * SECONDS) -> tuple[float, float]:
    """Return the seconds that a spec's unpruned network needs here per MAC and image, and its images per second."""
    training = spec.training
    if training.precision == AUTO:
        training = training.replace(precision=fastest_precision(spec.trained_network, training, spec.device))
    speed = images_per_second(spec.trained_network, training, seconds)
    macs = network_cost(spec.trained_network, training.height, training.width).macs
    return 1 / (speed * macs), speed


def fastest_precision(network: NetworkSpec, training: TrainingProtocol, device: str) -> str:
    """Return the precision that `auto` stands for: float16 on a GPU, bfloat16 where it is `GAIN` times as fast."""
    if device != "cpu" and accelerators():
        return FLOAT16
    speeds = {name: images_per_second(network, training.replace(precision=name)) for name in (FLOAT32, BFLOAT16)}
    return BFLOAT16 if speeds[BFLOAT16] >= GAIN * speeds[FLOAT32] else FLOAT32
