"""A large store: sweeps of 10,000 images × 6 k, generated in SQL, and a study of many trainings and prunings."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from functools import cache
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pandas as pd

from core.article.plan import ArticleSpec, plan, run_spec
from core.compression.image_results import MEASUREMENT_COLUMNS, METRIC_COLUMNS
from core.compression.results import RunResults, run_results
from core.compression.specs import DEFAULT_KS, SweepSpec
from core.data.splits import SPLITS
from core.networks.architectures import CLASSES
from core.predictions.rows import joined, prediction_columns
from core.runs import Run, RunSpec
from core.specs import spec_hash
from core.store.measurements import Store
from core.training.algorithm2 import Stop
from core.training.evaluation import evaluated, judged
from core.training.results import EpochResult
from core.training.specs import Baseline, PruneTrainSpec, Rules, TrainSpec
from core.training.steps import described, first_state, next_training

DATASET, RECONSTRUCTION = "HAM10000-like", "HAM10000-like-k350"
STEPS = 10  # of each pruning: every network is accepted
EASY = Baseline(train_accuracy=0, train_precision=0, validation_accuracy=0, validation_precision=0, test_tolerance=100)
IMAGES = {"train": 800, "validation": 1100, "test": 360}  # of the sets


def fill_store(path: Path, *, sweeps: int, images: int) -> list[str]:
    """Write `sweeps` finished runs of `images` images; return their ids.

    The statistics are computed from the rows of the first run and copied to the other runs.
    """
    store = Store(path)
    store.migrate()
    spec = SweepSpec(dataset=DATASET)
    start = datetime(2026, 1, 1, tzinfo=UTC)
    names = [f"svd-sweep-20260101-{number:06}-0000" for number in range(sweeps)]
    with duckdb.connect(path) as connection:
        _dataset(connection, images)
        for number, run_id in enumerate(names):
            _measurements(connection, run_id, images, number)
    found: RunResults | None = None
    for number, run_id in enumerate(names):
        at = start + timedelta(hours=number)
        store.record_run(_submitted(run_id, spec, at, spec_hash=f"hash{number}", total=images))
        found = found or run_results(spec, store.measurements(run_id), images)
        store.record_results(run_id, found, at + timedelta(minutes=30))
    with duckdb.connect(path) as connection:
        connection.execute("UPDATE runs SET measured = total")
    return names


def _dataset(connection: duckdb.DuckDBPyConnection, images: int) -> None:
    connection.execute(
        "INSERT INTO dataset_images BY NAME SELECT ? AS dataset, format('ISIC_{:07d}', i) AS image_id, "
        "format('images/ISIC_{:07d}.jpg', i) AS path, 277000 AS bytes, 450 AS height, 600 AS width, "
        "format('{:064d}', i) AS sha256, ['melanoma', 'nevus', 'non_melanoma', 'negative'][1 + i % 4] AS label, "
        "format('HAM_{:07d}', i // 2) AS lesion_id, 20 + i % 60 AS age, ['male', 'female'][1 + i % 2] AS sex, "
        "['back', 'face', 'trunk'][1 + i % 3] AS localization FROM range(?) t(i)",
        [DATASET, images],
    )
    row = {
        "name": DATASET, "root": "/nowhere", "layout": "ham10000", "synthetic": True, "images": images, "left_out": 0,
        "bytes": 277_000 * images, "fingerprint": "-", "registered_at": datetime(2026, 1, 1, tzinfo=UTC),
    }  # fmt: skip
    connection.register("incoming", pd.DataFrame([row]))
    connection.execute("INSERT INTO datasets BY NAME SELECT * FROM incoming")


def _measurements(connection: duckdb.DuckDBPyConnection, run_id: str, images: int, seed: int) -> None:
    expressions = {
        "image_id": "format('ISIC_{:07d}', i)",
        "variant": "'k=' || k",
        "k": "k",
        "codec": "'jpeg'",
        "quality": "95",
        "height": "450",
        "width": "600",
        "source_bytes": "277000 + (hash(i) % 20000)::INT",
        "stored_bytes": "72000 + (hash(i) % 5000)::INT - 2000000 // (k + 100)",
        "control_bytes": "72000 + (hash(i) % 5000)::INT",
        "factor_bytes": "6306 * k",
        "decoded_crc32": "hash(i, k) % 4294967296",
        "reason": "NULL",
        **{
            name: f"(10 + (hash(i, {at}, {seed}) % 1000) / 500.0) * k / (k + 40)"
            for at, name in enumerate(METRIC_COLUMNS)
        },
    }
    columns = ", ".join(f"{expressions[name]} AS {name}" for name in MEASUREMENT_COLUMNS)
    connection.execute(
        f"INSERT INTO measurements BY NAME SELECT ? AS run_id, {columns} "  # noqa: S608 fixed text
        "FROM range(?) t(i), unnest(?) u(k) ORDER BY i, k",
        [run_id, images, list(DEFAULT_KS)],
    )
    connection.execute(
        "INSERT INTO images BY NAME SELECT ? AS run_id, format('ISIC_{:07d}', i) AS image_id, 1 AS attempt, "
        "'measured' AS status, 0.15 AS seconds, 'svd-host-1' AS worker FROM range(?) t(i)",
        [run_id, images],
    )


def fill_trainings(path: Path, *, seeds: int) -> str:
    """Write a finished study: four networks × `seeds`, each trained once on originals and pruned on reconstructions.

    Return the id of the prune-train run that ended last.
    """
    store = Store(path)
    store.migrate()
    start = datetime(2026, 2, 1, tzinfo=UTC)
    study = f"article-{start:%Y%m%d}-0000"
    asked = ArticleSpec(
        dataset=DATASET, fingerprint="-", seeds=tuple(range(1, seeds + 1)), baseline=EASY,
        rules=Rules(factors=(10,), max_iterations=STEPS - 1),
    )  # fmt: skip
    store.record_study(
        {"study": study, "kind": "article", "dataset": DATASET, "spec": json.dumps(asked.to_dict()),
         "submitted_by": "benchmark", "submitted_at": start, "command": "-"}
    )  # fmt: skip
    generator = np.random.default_rng(1)
    at, last = start, ""
    for part in plan(asked):
        spec = run_spec(asked, part, k=350, reconstruction=RECONSTRUCTION)
        if isinstance(spec, TrainSpec):
            at += timedelta(hours=1)
            last = _training(store, spec, study, at, generator)
    store.record_study_status(study, "finished", None, at)
    return last


def _submitted(run_id: str, spec: RunSpec, at: datetime, **values: Any) -> Run:
    return Run(
        id=run_id, kind=spec.kind, dataset=spec.dataset, fingerprint="-", synthetic=True,
        spec_json=json.dumps(spec.to_dict()), submitted_at=at, submitted_by="benchmark", versions="{}", command="-",
        **values,
    )  # fmt: skip


def _training(store: Store, spec: TrainSpec, study: str, at: datetime, generator: np.random.Generator) -> str:
    run_id = f"{spec.kind}-{at:%Y%m%d-%H%M%S}-0000"
    source = DATASET if isinstance(spec, PruneTrainSpec) else None
    epochs = spec.training.epochs
    store.record_run(
        _submitted(
            run_id, spec, at, spec_hash=spec_hash(spec, "-"), total=epochs, revision="-", source=source, study=study
        )
    )
    reached = [
        {"label": label, "split": split, "quota": 825, "lesions": 600, "images": 800, "oversampled": 825}
        for label in CLASSES
        for split in SPLITS
    ]
    store.record_training_data(run_id, 1, {"encoding": {}, "notes": ["Split by lesion."], "reached": reached})
    state = first_state(spec)
    while not isinstance(step := next_training(spec, state), Stop):
        result, state = judged(
            state, step,
            replace(
                described(spec, step), status="finished", epochs=epochs, kept_epoch=epochs // 2,
                seconds=20.0 * epochs, epoch_seconds=20.0, images_per_second=150.0, peak_memory=10**9, device="a cpu",
                weights=f"/nowhere/{run_id}/{step.index}.keras", weights_bytes=10**6, checkpoint_bytes=3 * 10**6,
                **_predictions(step.index, spec.training.seed % 3),
            ),
        )  # fmt: skip
        store.record_step(run_id, 1, result, "train-host-1", at, at + timedelta(minutes=10))
        rising = 100 * (1 - np.exp(-np.arange(1, epochs + 1) / 10)) - generator.uniform(0, 3, epochs)
        store.record_epochs(
            run_id, 1, step.index,
            [
                EpochResult(number, 4 / number, high, high, high, 5 / number, high - 5, high - 5, high - 5, 20.0, 150.0)
                for number, high in enumerate(rising.tolist(), start=1)
            ],
            at,
        )  # fmt: skip
    store.record_training_ended(run_id, 1, None, at + timedelta(minutes=50))
    return run_id


@cache
def _predictions(step: int, seed: int) -> dict[str, Any]:
    """Return random predictions of 1,460 images, a little worse from step to step, and what follows from them."""
    generator = np.random.default_rng((step, seed))
    parts, first = [], 0
    for split, images in IMAGES.items():
        labels = np.arange(images) % len(CLASSES)
        scores = generator.normal(size=(images, len(CLASSES)))
        scores[np.arange(images), labels] += 2 - step / 10
        chances = np.exp(scores) / np.exp(scores).sum(axis=1, keepdims=True)
        numbers = range(first, first + images)
        names = [f"ISIC_{number:07d}" for number in numbers]
        lesions = [f"HAM_{number // 2:07d}" for number in numbers]
        parts.append(prediction_columns(split, names, lesions, labels, chances.astype(np.float32)))
        first += images
    return evaluated(joined(parts), ("validation", "test"))
