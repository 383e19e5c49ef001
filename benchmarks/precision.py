"""Training at `--precision auto` against float32: `python -m benchmarks.precision`.

Images per second of processor time (all threads added up), so that other programs disturb little. Both models train in
one process, in turns, on the same random images of 56×75 pixels. The peer is float32 of the same run. On a processor
with AMX or AVX512-BF16, alexnet must be 1.9 times as fast; elsewhere `auto` must never be slower.
"""

from __future__ import annotations

import os
import statistics
import sys
import time

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np

from core.networks.architectures import CHANNELS, CLASSES, METADATA_FEATURES, NETWORKS, NetworkSpec
from core.processes import processor
from core.training.models import compiled_model
from core.training.probe import fastest_precision
from core.training.specs import FLOAT32, TrainingProtocol

SIZE, ROUNDS, SECONDS = (56, 75), 5, 2.0
FASTER, NOT_SLOWER = 1.9, 0.97  # times float32; the second leaves room for the noise of two equal trainings
FLAGS = ("amx_bf16", "avx512_bf16")


def speeds(network: NetworkSpec, training: TrainingProtocol, precisions: list[str]) -> dict[str, float]:
    """Return the median images per second of processor time at each precision."""
    generator = np.random.default_rng(1)
    count = training.batch_size
    inputs = {
        "image": generator.integers(0, 256, (count, *SIZE, CHANNELS), dtype=np.uint8),
        "metadata": generator.normal(size=(count, len(METADATA_FEATURES))).astype(np.float32),
    }
    labels = np.eye(len(CLASSES), dtype=np.float32)[generator.integers(0, len(CLASSES), count)]
    models = {each: compiled_model(network, training.replace(precision=each)) for each in precisions}
    found: dict[str, list[float]] = {each: [] for each in precisions}
    for model in models.values():
        model.train_on_batch(inputs, labels)
    for _ in range(ROUNDS):
        for each, model in models.items():
            began, busy, batches = time.perf_counter(), time.process_time(), 0
            while time.perf_counter() - began < SECONDS or not batches:
                model.train_on_batch(inputs, labels)
                batches += 1
            found[each].append(batches * count / (time.process_time() - busy))
    return {each: statistics.median(values) for each, values in found.items()}


def main() -> int:
    name, every = processor()
    flags = [flag for flag in FLAGS if flag in every]
    print(f"on {name}, {' and '.join(flags) or 'without 16-bit arithmetic'}")
    met = True
    for network in NETWORKS.values():
        training = TrainingProtocol(height=SIZE[0], width=SIZE[1])
        try:
            taken = fastest_precision(network, training, "cpu")
        except ValueError as error:  # too small for custom1's poolings
            print(f"{network.name}: {error}")
            continue
        found = speeds(network, training, list(dict.fromkeys((FLOAT32, taken))))
        ratio = found[taken] / found[FLOAT32]
        target = FASTER if flags and network.name == "alexnet" else NOT_SLOWER
        met &= ratio >= target
        print(
            f"{network.name}: float32 {found[FLOAT32]:.0f}, auto ({taken}) {found[taken]:.0f} images per second of "
            f"processor time, ratio {ratio:.2f} (target {target}): {'met' if ratio >= target else 'MISSED'}",
            flush=True,
        )
    return 0 if met else 1


if __name__ == "__main__":
    sys.exit(main())
