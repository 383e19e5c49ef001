"""A store as large as a busy lab's: sweeps of 10,000 images × 6 k with plausible figures, made in SQL."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path

import duckdb
import pandas as pd

from core.outcomes import Outcome, outcome
from core.store import NewRun, Store
from core.sweeps import DEFAULT_KS, MEASUREMENT_COLUMNS, METRIC_COLUMNS, SweepSpec

DATASET = "HAM10000-like"


def fill_store(path: Path, *, sweeps: int, images: int) -> list[str]:
    """Write `sweeps` finished runs of `images` images; return their ids.

    Statistics are those of the first run, computed from its rows; the others repeat them under their own ids.
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
    found: Outcome | None = None
    for number, run_id in enumerate(names):
        at = start + timedelta(hours=number)
        run = NewRun(
            run_id, spec.kind, DATASET, "-", True, json.dumps(spec.to_dict()), f"hash{number}", images, at,
            submitted_by="benchmark", command="-", versions="{}",
        )  # fmt: skip
        store.record_run(run)
        found = found or outcome(spec, store.measurements(run_id), images)
        store.record_outcome(run_id, found, at + timedelta(minutes=30))
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
