"""Records runs in a real store as the record worker does, with values that a test chooses."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from itertools import count
from pathlib import Path
from typing import Any

import duckdb
import numpy as np

from core.compression.image_results import MEASUREMENT_COLUMNS, ORIGINAL, Chunk, ImageResult
from core.compression.results import run_results
from core.compression.specs import DiagnosisSpec, MeasuringSpec, variants
from core.data.datasets import Dataset, DatasetImage
from core.data.splits import SPLITS
from core.data.training_arrays import MetadataEncoding
from core.deployment.formats import Conversion
from core.deployment.latency import Latency
from core.networks.architectures import CLASSES, NETWORKS, NetworkSpec
from core.predictions.classification import Classification, classify
from core.predictions.rows import Columns, diagnosis_rows, joined, prediction_columns, prediction_frame
from core.predictions.rows import described as described_rows
from core.runs import Run, RunSpec
from core.specs import spec_hash
from core.store.measurements import Store
from core.training.algorithm2 import Step
from core.training.evaluation import difference, evaluated, judged, right_answers
from core.training.results import FactoredResult
from core.training.specs import TEST, Baseline, PruneTrainSpec, Rules, TrainingProtocol, TrainSpec
from core.training.steps import STEP_FIGURES, described, first_state, next_training

START = datetime(2026, 11, 24, 12, tzinfo=UTC)
QUICK = TrainingProtocol(epochs=3, height=48, width=64)
EASY = Baseline(
    train_accuracy=0, train_precision=0, validation_accuracy=0, validation_precision=0, test_tolerance=2
)  # only the test metrics decide
RESULT = {"kept_epoch": 2, "seconds": 60.0, "epoch_seconds": 20.0, "images_per_second": 100.0,
          "peak_memory": 10**9, "device": "a cpu", "weights_bytes": 10**6, "checkpoint_bytes": 3 * 10**6}  # fmt: skip
minutes = count(1)
OLDER = Path(__file__).with_name("older_schemas.sql").read_text()
OLDER_SCHEMAS = re.split(r"^-- version \d+$", OLDER, flags=re.MULTILINE)[1:]


ENCODING = MetadataEncoding(50.0, 48.0, 15.0, ("female", "male"), ("back", "face"))


def new_run(run_id: str, spec: RunSpec, at: datetime = START, *, fingerprint: str = "f", **values: Any) -> Run:
    """Return a submitted run, by default of two images."""
    known = {
        "dataset": spec.dataset,
        "synthetic": False,
        "spec_hash": spec_hash(spec, fingerprint),
        "total": 2,
        "submitted_by": "tester@here",
    }
    text = json.dumps(spec.to_dict())
    return Run(
        id=run_id, kind=spec.kind, fingerprint=fingerprint, spec_json=text, submitted_at=at, **{**known, **values}
    )


def older_store(path: Path, version: int, *, says: int | None = None) -> None:
    """Create a store as the release of this version did. says: the version number written to the file."""
    with duckdb.connect(path) as connection:
        for statements in OLDER_SCHEMAS[:version]:
            connection.execute(statements)
        connection.execute("CREATE TABLE schema_version AS SELECT ?::INTEGER AS version", [says or version])


def classification(recall: float) -> Classification:
    """Return predictions on ten images per class, of which `recall` percent are right."""
    right = round(recall / 10)
    labels = [place for place in range(len(CLASSES)) for _ in range(10)]
    guesses = [place if number < right else (place + 1) % len(CLASSES) for place in range(len(CLASSES))
               for number in range(10)]  # fmt: skip
    return classify([[float(guess == place) for place in range(len(CLASSES))] for guess in guesses], labels)


def predictions(accuracy: float, images: int) -> Columns:
    """Return predictions of all sets, `images` per class, two of each lesion; of a class the first ones are right."""
    labels = np.repeat(np.arange(len(CLASSES)), images)
    right = np.tile(np.arange(images), len(CLASSES)) < round(accuracy / 100 * images)
    guesses = np.where(right, labels, (labels + 1) % len(CLASSES))
    chances = np.full((len(labels), len(CLASSES)), 0.1, dtype=np.float32)
    chances[np.arange(len(labels)), guesses] = 0.7
    numbers = range(len(labels))
    return joined(
        [
            prediction_columns(
                split, [f"{split}-{number}" for number in numbers], [f"{split}-{number // 2}" for number in numbers],
                labels, chances,
            )
            for split in SPLITS
        ]
    )  # fmt: skip


def record_training(
    store: Store,
    network: str | NetworkSpec = "lenet5",
    accuracies: Sequence[float] = (70.0,),
    *,
    dataset: str = "ham",
    source: str | None = None,
    seed: int = 1,
    rules: Rules | None = None,
    training: TrainingProtocol = QUICK,
    synthetic: bool = False,
    fingerprint: str = "",
    study: str | None = None,
    sets: bool = False,
    ends: bool = True,
    weights: Path | None = None,
    images: int = 0,
    leaky: bool = False,
) -> str:
    """Record a run whose steps reach these test accuracies, one minute after the previous run; return its id.

    rules: makes it a prune-train run. sets: whether the training data are recorded too. ends: whether it has finished.
    images: per class and set, whose predictions are recorded, see `predictions`; every figure then follows from them.
    leaky: whether the sets were drawn image by image.
    """
    common = {
        "dataset": dataset,
        "network": NETWORKS[network] if isinstance(network, str) else network,
        "training": training.replace(seed=seed),
        "baseline": EASY,
        "leaky_split": leaky,
    }
    spec = TrainSpec(**common) if rules is None else PruneTrainSpec(rules=rules, **common)
    at = START + timedelta(minutes=next(minutes))
    run_id = f"{spec.kind}-{at:%Y%m%d-%H%M%S}-0001"
    fingerprint = fingerprint or f"images-of-{dataset}"
    store.record_run(
        new_run(
            run_id, spec, at, fingerprint=fingerprint, synthetic=synthetic, total=training.epochs, revision="abc123",
            versions='{"keras": "3"}', command=f"python -m jobs {spec.kind} {dataset} --seed {seed}", source=source,
            study=study,
        )
    )  # fmt: skip
    parts = {"train": (20, 30), "validation": (10, 10), "test": (5, 5)}
    reached = [
        {"label": label, "split": split, "quota": 90, "lesions": 4, "images": images, "oversampled": repeated}
        for label in CLASSES
        for split, (images, repeated) in parts.items()
    ]
    if sets:
        notes = ["Split by lesion. Nothing leaks."]
        store.record_training_data(run_id, 1, {"encoding": ENCODING.to_dict(), "notes": notes, "reached": reached})
    state = first_state(spec)
    for accuracy in accuracies:
        step = next_training(spec, state)
        assert isinstance(step, Step)
        found = classification(accuracy)
        figures = dict.fromkeys(STEP_FIGURES, 95.0) | dict.fromkeys(TEST, accuracy)
        figures["test_lesion_accuracy"] = found.lesion_accuracy
        result = replace(
            described(spec, step),
            status="finished",
            figures=figures,
            classification={split: found.to_dict() for split in SPLITS},
            weights=str(weights or f"/elsewhere/{run_id}/{step.index}.keras"),
            epochs=training.epochs,
            **RESULT,
        )
        if images:
            result = replace(result, **evaluated(predictions(accuracy, images), kept=("validation", "test")))
        result, state = judged(state, step, result)
        ended = at + timedelta(seconds=10 * (step.index + 1))
        store.record_step(run_id, 1, result, "train-1 on far-host", at, ended)
    if ends:
        store.record_training_ended(run_id, 1, None, at + timedelta(seconds=55))
    return run_id


def record_svd_dense(
    store: Store, run_id: str, accuracies: Mapping[float, float], images: int, step: int = 0, **further: Any
) -> None:
    """Record a step's network with dense layers of low rank. accuracies: in percent, by energy.

    images: per class, as of the run. further: of `FactoredResult`.
    """
    unpruned, own = (store.predictions([run_id], step=each, split="test") for each in (0, step))
    right = right_answers({str(name): list(unpruned[name]) for name in unpruned})
    rows = store.steps([run_id]).set_index("step")
    for energy, accuracy in accuracies.items():
        columns = predictions(accuracy, images)
        found = prediction_frame(columns)
        found = found[found["split"] == "test"].reset_index(drop=True)
        result = FactoredResult(
            step=step,
            energy=energy,
            network=json.loads(rows.loc[step, "network"]),
            parameters=int(rows.loc[step, "parameters"] * energy / 100),
            macs=1000,
            bytes_weights=4000,
            test_accuracy=accuracy,
            agreement=100 * float((found["predicted"] == own["predicted"]).mean()),
            classification={"test": described_rows(found)},
            predicted=dict(zip(found["image_id"], found["predicted"], strict=True)),
            **difference(right, columns),
            **further,
        )
        store.record_svd_dense(run_id, 1, result, START)


def record_measured(
    store: Store, spec: MeasuringSpec, *, synthetic: bool = False, figures: Mapping[str, float | None] | None = None
) -> str:
    """Record a finished run of two images, one minute after the previous run. figures: values to change.

    A diagnosis has two melanomas, which the first way alone loses.
    """
    at = START + timedelta(minutes=next(minutes))
    run_id = f"{spec.kind}-{at:%Y%m%d-%H%M%S}-0001"
    store.record_run(
        new_run(
            run_id, spec, at, fingerprint="f" * 64, spec_hash=spec_hash(spec, "f"), synthetic=synthetic,
            revision="abc123", versions='{"numpy": "2"}', command=f"python -m jobs {spec.kind} {spec.dataset}",
        )
    )  # fmt: skip
    values = {"source_bytes": 377, "stored_bytes": 100, "control_bytes": 101, "factor_bytes": 1, "height": 450}
    values |= {"width": 600, "psnr": 40, "ssim": 0.99, "rmse": 1, "mse": 1, "explained_variance": 0.99}
    values |= figures or {}
    results = []
    for image in ("a", "b"):
        rows = []
        for name in variants(spec):
            k = int(name.partition(" ")[0].removeprefix("k=")) if name.startswith("k=") else 350
            rows.append({**dict.fromkeys(MEASUREMENT_COLUMNS), "image_id": image, "variant": name, "k": k} | values)
        answers = ()
        if isinstance(spec, DiagnosisSpec):
            ways = [ORIGINAL, *variants(spec)]
            chances = np.full((len(ways), 4), 0.1, dtype=np.float32)
            chances[:, 0] = 0.7
            chances[1] = (0.1, 0.7, 0.1, 0.1)
            answers = diagnosis_rows(image, None, "melanoma", ways, chances)
        results.append(ImageResult(image, "measured", None, 0.1, tuple(rows), diagnoses=answers))
    store.record_images([Chunk(run_id, 1, "svd-1", results)])
    store.record_results(run_id, run_results(spec, store.measurements(run_id), 2), at)
    return run_id


def record_reconstruction(store: Store, name: str, source: str, settings: str) -> None:
    record = DatasetImage("a", "a.jpg", 1, 450, 600, "0" * 64)
    store.record_dataset(Dataset(name, Path("/images"), "plain", (record,), source=source, settings=settings), START)


def conversion(**values: Any) -> Conversion:
    """Return the conversion of a step that agrees with Keras."""
    known = {"images": 200, "same_class": 200, "largest_difference": 0.0, "bytes": 1, "sha256": "a"}
    return Conversion(**({"step": 0, "format": "litert-float32"} | known | values))


def latency(step: int = 0, **values: Any) -> Latency:
    """Return the latency of a step's network."""
    times = dict.fromkeys(("wall_median", "wall_p95", "cpu_median", "cpu_p95", "load"), 1.5)
    known = {"format": "litert-float32", "threads": 1, "rounds": 9, "peak_memory": 5, "runtime": "r", "processor": "p"}
    return Latency(step=step, cores=2, **(known | times | values))
