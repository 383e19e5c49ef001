"""Training through the queue against Keras alone: `python -m benchmarks.training`.

Speed: epochs of a run (with checkpoints, messages, progress and log) against a plain `model.fit` of the same network on
the same arrays, both with validation, each in a separate process, in turns. The time from the end of one epoch to the
end of the next is compared, so start times do not count; their mean, because not every epoch writes a checkpoint. All
classes are equally large, so nothing is augmented.

Start: from the submission to the end of the first epoch, which has one batch, with an idle worker. Reading: how long
after the end of an epoch a reader of the store finds its row; the epoch ends before its checkpoint is written. It is
measured in a separate run, because asking the store fifty times per second takes one core from the training.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import statistics
import sys
import tempfile
import time
from pathlib import Path

import cv2
import numpy as np

from benchmarks.processes import run_command
from benchmarks.workers import ROOT, workers
from core.data.datasets import Dataset, load_dataset
from core.data.splits import Targets
from core.networks.architectures import CLASSES, NETWORKS
from core.processes import processor
from core.settings import Settings, usable_cores
from core.training.data import training_data
from core.training.specs import TrainingProtocol, TrainSpec, training_spec_from_dict
from jobs.queues import Queues
from jobs.server import running_server

RATIO_TARGET, START_TARGET, READING_TARGET = 0.95, 12.0, 1.0  # of a plain model.fit; seconds; seconds
HEIGHT, WIDTH, BATCH = 75, 100, 32
IMAGES = {"lenet5": 3300, "alexnet": 1100}  # per epoch: the article's number, and a third of it for the slower network


def write_images(folder: Path, count: int) -> Dataset:
    """Write `count` seeded images of each class, with the size of the network's input."""
    generator = np.random.default_rng(1)
    for number, label in enumerate(CLASSES):
        (folder / label).mkdir(parents=True)
        for image in range(count):
            pixels = generator.normal(80 + 30 * number, 40, (HEIGHT, WIDTH, 3))
            cv2.imwrite(str(folder / label / f"{label}{image:04}.png"), np.clip(pixels, 0, 255).astype(np.uint8))
    return load_dataset(folder)


def spec_of(network: str, dataset: Dataset, images: int, epochs: int, precision: str) -> TrainSpec:
    """Return the spec of a training with `images` training images and a third as many for validation."""
    training = TrainingProtocol(
        epochs=epochs,
        batch_size=BATCH,
        height=HEIGHT,
        width=WIDTH,
        precision=precision,
        learning_rate=0.0001,  # the article's loses alexnet, and a lost network ends its run
    )
    targets = Targets(train=images, validation=max(4, images // 3), test=4)
    return TrainSpec(dataset=dataset.name, network=NETWORKS[network], training=training, targets=targets)


def bare(folder: str, cache: str, spec_text: str) -> None:
    """Train only with `model.fit`, in the process of the peer; print the seconds from each epoch's end to the next."""
    import keras

    from core.training.models import compiled_model

    spec = training_spec_from_dict(json.loads(spec_text))
    data = training_data(load_dataset(Path(folder)), spec, Path(cache))
    one_hot = np.eye(len(CLASSES), dtype=np.float32)

    def arrays(indices: tuple[int, ...]) -> tuple[dict[str, np.ndarray], np.ndarray]:
        rows = list(indices)
        return {"image": data.images[rows], "metadata": data.metadata[rows]}, one_hot[data.labels[rows]]

    ends: list[float] = []
    clock = keras.callbacks.LambdaCallback(on_epoch_end=lambda epoch, logs: ends.append(time.perf_counter()))
    compiled_model(spec.network, spec.training).fit(
        *arrays(data.split.oversampled),
        batch_size=BATCH,
        epochs=spec.training.epochs,
        validation_data=arrays(data.split.validation),
        verbose=0,
        callbacks=[clock],
    )
    print(json.dumps(np.diff(ends).tolist()))


def bare_seconds(dataset: Dataset, cache: Path, spec: TrainSpec) -> float:
    """Return the mean seconds of an epoch of a plain `model.fit`."""
    command = [sys.executable, "-m", "benchmarks.training", "--bare", str(dataset.root), str(cache)]
    environment = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"}
    text = json.dumps(spec.to_dict())
    done = run_command([*command, text], cwd=ROOT, env=environment, capture_output=True, text=True, check=True)
    return statistics.mean(json.loads(done.stdout.splitlines()[-1]))


def run_seconds(queues: Queues, dataset: Dataset, spec: TrainSpec) -> float:
    """Train through the queue; return the mean seconds from one epoch's end to the next."""
    return float(np.mean(np.diff(epoch_ends(queues, finished(queues, dataset, spec)))))


def finished(queues: Queues, dataset: Dataset, spec: TrainSpec) -> str:
    """Submit a run, wait for it as the command line does, and return its id."""
    run_id = queues.submit(spec, dataset, again=True).run_id
    *_, state = queues.wait(run_id)
    if state.status != "finished":
        raise RuntimeError(f"expected the run to finish; it {state.status}: {state.error}")
    return run_id


def epoch_ends(queues: Queues, run_id: str) -> list[float]:
    """Return the times, in seconds, at which the message of each epoch was sent."""
    return [each.timestamp() for each in queues.store.epochs([run_id])["ended_at"]]


def reading_seconds(queues: Queues, dataset: Dataset, spec: TrainSpec) -> float:
    """Train through the queue and query the store continuously; return the longest delay of an epoch's row."""
    run_id = queues.submit(spec, dataset, again=True).run_id
    seen: dict[int, float] = {}
    while len(seen) < spec.training.epochs:
        for epoch in queues.store.epochs([run_id])["epoch"]:
            seen.setdefault(int(epoch), time.time())
        time.sleep(0.02)
    for _ in queues.wait(run_id):
        pass
    rows = queues.store.epochs([run_id])
    ends = np.array(epoch_ends(queues, run_id))
    after = np.diff(ends) - rows["seconds"].to_numpy()[1:]  # the time of an epoch without training and validation
    found = np.array([seen[epoch] for epoch in rows["epoch"]])
    return float((found[1:] - ends[1:] + after).max())


def start_seconds(queues: Queues, dataset: Dataset, network: str, precision: str) -> float:
    """Return the seconds from the submission to the end of the first epoch, which has one batch."""
    spec = spec_of(network, dataset, BATCH, 1, precision)
    submitted = time.time()
    run_id = queues.submit(spec, dataset, again=True).run_id
    for _ in queues.wait(run_id, pause=0.05):
        pass
    return float(queues.store.epochs([run_id])["ended_at"].iloc[0].timestamp() - submitted)


def compared(queues: Queues, dataset: Dataset, spec: TrainSpec, rounds: int) -> bool:
    """Print the speed of a run against `model.fit`, and how long it takes to start; return whether both are met."""
    network, precision, images = spec.network.name, spec.training.precision, IMAGES[spec.network.name]
    finished(queues, dataset, spec_of(network, dataset, BATCH, 2, precision))  # creates the image array
    ratios = []
    for _ in range(rounds):
        alone = bare_seconds(dataset, queues.settings.arrays, spec)
        run = run_seconds(queues, dataset, spec)
        ratios.append(alone / run)
        print(
            f"{network}, {precision}: bare {images / alone:.0f} images/s, run {images / run:.0f} images/s, "
            f"ratio {ratios[-1]:.3f}",
            flush=True,
        )
    ratio = statistics.median(ratios)
    start = statistics.median(start_seconds(queues, dataset, network, precision) for _ in range(rounds))
    good = ratio >= RATIO_TARGET and start < START_TARGET
    print(
        f"{network}, {precision}: {ratio:.3f} of bare model.fit (target {RATIO_TARGET}), first batch after "
        f"{start:.1f} s (target {START_TARGET:.0f}): {'met' if good else 'MISSED'}",
        flush=True,
    )
    return good


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.training", description=__doc__)
    parser.add_argument("--rounds", type=int, default=3, help="turns of each kind (default 3)")
    parser.add_argument("--epochs", type=int, default=8, help="of a turn (default 8)")
    parser.add_argument("--networks", default="lenet5,alexnet", help="(default lenet5,alexnet)")
    parser.add_argument("--precisions", default="float32,bfloat16", help="(default float32,bfloat16)")
    parser.add_argument("--bare", nargs=3, metavar=("FOLDER", "CACHE", "SPEC"), help="the peer alone: prints seconds")
    options = parser.parse_args()
    if options.bare:
        bare(*options.bare)
        return 0
    met, readings = True, []
    print(f"{usable_cores()} cores of {processor()[0]}", flush=True)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        settings = Settings(folder / "data", (folder,))
        settings.data_dir.mkdir()
        with running_server(settings) as url:
            queues = Queues(Settings(folder / "data", (folder,), given_redis_url=url))
            dataset = write_images(folder / "images", 1101)
            queues.register(dataset)
            with workers(queues.settings, "record", "train"):
                for network, precision in itertools.product(options.networks.split(","), options.precisions.split(",")):
                    spec = spec_of(network, dataset, IMAGES[network], options.epochs, precision)
                    met &= compared(queues, dataset, spec, options.rounds)
                    readings.append(reading_seconds(queues, dataset, spec))
    reading = max(readings)
    met &= reading < READING_TARGET
    verdict = "met" if reading < READING_TARGET else "MISSED"
    print(f"an epoch's row found after at most {reading:.2f} s (target {READING_TARGET:.0f}): {verdict}")
    return 0 if met else 1


if __name__ == "__main__":
    sys.exit(main())
