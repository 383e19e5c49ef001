"""Rows per second from the record queue into the store: `python -m benchmarks.record_path`.

A real Valkey has messages about chunks as workers send them (16 images × 6 k), and a real record worker writes them.
The peer is `executemany`, the plain way to insert rows with DuckDB's Python client, on one connection that stays open.
With --full the store already has a hundred sweeps of 10,000 images.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path

import duckdb
import numpy as np

from benchmarks.large_store import fill_store
from core.compression.image_results import MEASUREMENT_COLUMNS, METRIC_COLUMNS, ImageResult
from core.compression.specs import DEFAULT_KS
from core.runs import Run
from core.settings import Settings
from core.store.measurements import Store
from core.store.migrations import SCHEMA
from jobs.connection import RECORD, connect
from jobs.messages import ImagesMeasured, RunSubmitted, send
from jobs.server import running_server
from jobs.worker import work

TARGET = 2000.0  # rows per second
CHUNKS, IMAGES = 120, 16


def results(chunk: int) -> list[ImageResult]:
    generator = np.random.default_rng(chunk)
    return [
        ImageResult(
            image_id,
            "measured",
            None,
            0.1,
            tuple(
                {
                    **dict.fromkeys(MEASUREMENT_COLUMNS),
                    **dict(zip(METRIC_COLUMNS, generator.random(len(METRIC_COLUMNS)).tolist(), strict=True)),
                    "image_id": image_id,
                    "variant": f"k={k}",
                    "k": k,
                    "codec": "jpeg",
                    "quality": 95,
                    "height": 450,
                    "width": 600,
                    "source_bytes": 277_000,
                    "stored_bytes": 72_000 + k,
                    "control_bytes": 72_500,
                    "factor_bytes": 6306 * k,
                }
                for k in DEFAULT_KS
            ),
        )
        for image_id in (f"ISIC_{chunk:04}{number:03}" for number in range(IMAGES))
    ]


def recorded_rate(settings: Settings) -> float:
    """Send every message, then time one record worker until the queue is empty."""
    connection = connect(settings)
    run = Run(
        id="svd-sweep-benchmark",
        kind="svd-sweep",
        dataset="benchmark",
        fingerprint="-",
        synthetic=True,
        spec_json='{"kind": "svd-sweep", "dataset": "benchmark"}',
        spec_hash="-",
        total=CHUNKS * IMAGES + 1,  # one image is never sent, so that finishing the run is not timed
        submitted_at=datetime(2026, 1, 1, tzinfo=UTC),
    )
    send(connection, RunSubmitted(values=run))
    for chunk in range(CHUNKS):
        found = tuple(results(chunk))
        send(connection, ImagesMeasured(run_id=run.id, attempt=1, worker="benchmark", results=found))
    started = time.perf_counter()
    work(RECORD, settings, burst=True)
    seconds = time.perf_counter() - started
    written = len(Store(settings.database).measurements("svd-sweep-benchmark", columns=["image_id"]))
    if written != CHUNKS * IMAGES * len(DEFAULT_KS):
        raise RuntimeError(f"expected {CHUNKS * IMAGES * len(DEFAULT_KS)} rows; {written} were written")
    return written / seconds


def executemany_rate(path: Path) -> float:
    with duckdb.connect(path) as connection:
        connection.execute(SCHEMA)
        rows = [
            ["svd-sweep-benchmark", *(row[name] for name in MEASUREMENT_COLUMNS)]
            for chunk in range(4)
            for result in results(chunk)
            for row in result.rows
        ]
        started = time.perf_counter()
        connection.executemany(f"INSERT INTO measurements VALUES ({', '.join('?' * len(rows[0]))})", rows)  # noqa: S608
        return len(rows) / (time.perf_counter() - started)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.record_path", description=__doc__)
    parser.add_argument("--full", action="store_true", help="into a store that already holds 100 large sweeps")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        settings = Settings(Path(folder) / "data", (Path(folder),))
        settings.data_dir.mkdir()
        if options.full:
            fill_store(settings.database, sweeps=100, images=10_000)
        with running_server(settings) as url:
            os.environ.update(DATA_DIR=str(settings.data_dir), REDIS_URL=url)
            rate = recorded_rate(Settings.from_environment())
        peer = executemany_rate(Path(folder) / "peer.duckdb")
    print(f"record path: {rate:,.0f} rows/s; executemany: {peer:,.0f} rows/s; ratio {rate / peer:.1f}")
    print(f"target: {TARGET:,.0f} rows/s: {'met' if rate >= TARGET else 'MISSED'}")
    return 0 if rate >= TARGET else 1


if __name__ == "__main__":
    sys.exit(main())
