"""What a `train` worker runs to bring an ended run's networks to devices: conversion with verification, and latency."""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from rq import Retry

from core.deployment.conversion import ConversionError, converted
from core.deployment.formats import CALIBRATION_IMAGES, FORMATS, INT8, Conversion, file_name
from core.deployment.latency import NetworkFile, latencies
from core.deployment.runtimes import RuntimeMissing, classifier, package
from core.deployment.verification import calibration_rows, facts_of, verified
from core.errors import DermSlimError
from core.files.plain_files import whole_file
from core.networks.plain_data import network_from_dict
from core.predictions.rows import lesions_of
from core.settings import Settings
from core.training.data import TrainingData
from core.training.specs import FLOAT32, TrainSpec
from jobs.hosts import left_to_others, worker_name
from jobs.later_jobs import claimed
from jobs.messages import LatenciesMeasured, StepConverted, wake
from jobs.predict_task import Kept, kept_networks
from jobs.run_jobs import ends_when_taken_over

REPORT = 20  # rounds of a measurement between two checks of the claim


@ends_when_taken_over
def convert_steps(
    run_id: str,
    attempt: int,
    spec: dict[str, Any],
    fingerprint: str,
    encoding: dict[str, Any] | None,
    steps: list[dict[str, Any]],
    formats: list[str],
) -> Retry | None:
    """Convert kept networks of a run to formats, verify each on the test images, and send what came out.

    spec, encoding, steps: as `to_dict` gives them. A network that cannot be converted is sent with the reason. Images
    or weights that this host does not have are left to another one's worker.
    """
    networks = {step["step"]: step["network"] for step in steps}
    kept = kept_networks(run_id, attempt, spec, fingerprint, encoding, sorted(networks))
    if not isinstance(kept, Kept):
        return kept
    claim, live, data, weights = kept.claim, kept.claim.live, kept.data, kept.weights
    for step, network in sorted(networks.items()):
        reference = keras_probabilities(weights[step], network, kept.spec, data)
        for name in formats:
            result = convert(step, weights[step], network, data, reference, name, claim.check)
            message = StepConverted(
                run_id=run_id, attempt=attempt, claim=claim.number, result=result, worker=worker_name()
            )
            claim.write(message.command())
            wake(live.connection)
            outcome = result.flaw or f"{result.bytes:,} bytes, {result.same_class} of {result.images} as Keras"
            live.log(f"{worker_name()}: step {step}, {FORMATS[name].title}: {outcome}")
    live.end(None, attempt)
    return None


def keras_probabilities(
    weights: Path, network: dict[str, Any], spec: TrainSpec, data: TrainingData
) -> np.ndarray[Any, np.dtype[np.float32]]:
    """Return Keras's softmax of the test images at float32, (images, classes), with the weights of a step."""
    from core.training import devices, models  # Keras: 4 s, and only in the process that needs it

    protocol = spec.training.replace(precision=FLOAT32)
    with devices.on_device("cpu"):
        model = models.seeded_model(network_from_dict(network), protocol)
        model.set_weights(models.load_model(weights).get_weights())
        return models.probabilities(model, data, data.split.test, protocol.batch_size)


def convert(
    step: int,
    weights: Path,
    network: dict[str, Any],
    data: TrainingData,
    reference: np.ndarray[Any, np.dtype[np.float32]],
    name: str,
    check: Callable[[], None],
) -> Conversion:
    """Convert a network to a format beside its weights, and verify it; check: called before the file is replaced."""
    began = time.perf_counter()
    rows = calibration_rows(data.labels, data.split.train, CALIBRATION_IMAGES)
    test = np.array(data.split.test, dtype=np.int64)
    facts: dict[str, Any] = {
        "calibration_images": len(rows) if name == INT8 else 0,
        "versions": json.dumps(
            {each: version(each) for each in ("keras", "tensorflow", package(FORMATS[name].runtime))}
        ),
    }
    path = weights.with_name(file_name(step, name))
    try:
        with whole_file(path, path.with_name(f"half-{path.name}")) as draft:
            spec = network_from_dict(network)
            converted(weights, spec, (data.images[rows], data.metadata[rows]), name, draft)
            lesions = lesions_of(
                {"image_id": [data.image_ids[row] for row in test], "lesion_id": [data.lesion_ids[row] for row in test]}
            )
            facts |= verified(
                classifier(draft, name), data.images[test], data.metadata[test], data.labels[test], lesions, reference
            )
            check()
        facts |= facts_of(path)
    except (ConversionError, RuntimeMissing) as error:
        facts["failure"] = str(error)
    return Conversion(step=step, format=name, seconds=time.perf_counter() - began, **facts)


@ends_when_taken_over
def measure_latencies(
    run_id: str, attempt: int, files: list[dict[str, Any]], height: int, width: int, rounds: int
) -> Retry | None:
    """Measure converted networks of a run beside each other, and send their latencies.

    files: step and format of each, as `Conversion` names them. Files that this host does not have are left to another
    one's worker.
    """
    if (found := claimed(run_id, attempt)) is None:
        return None
    job, claim = found
    live, folder = claim.live, Settings.from_environment().trained / run_id
    networks = [
        NetworkFile(file["step"], file["format"], folder / file_name(file["step"], file["format"]), height, width)
        for file in files
    ]
    missing = [file.path for file in networks if not file.path.is_file()]
    if missing:
        reason = f"Expected the converted networks in {folder}, got none of {missing[0].name}."
        if again := left_to_others(job, live, reason):
            return again
        live.log(f"{worker_name()}: {reason}")
        raise DermSlimError(reason)

    def report(done: int, total: int) -> None:
        if done % REPORT == 0:
            claim.check()

    results = tuple(latencies(networks, rounds=rounds, progress=report))
    host = socket.gethostname()
    message = LatenciesMeasured(run_id=run_id, attempt=attempt, claim=claim.number, results=results, host=host)
    claim.write(message.command())
    wake(live.connection)
    live.log(f"{worker_name()}: the latency of {len(networks)} networks is measured, {rounds} rounds")
    live.end(None, attempt)
    return None
