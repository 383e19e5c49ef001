"""The command `export`: the rows of a run, or of a study's trainings, as CSV or Parquet.

python -m jobs export svd-sweep-20260101-120000-abc123 --output rows.parquet
python -m jobs export train-20260101-120000-abc123 --table epochs --output epochs.csv
python -m jobs export train-20260101-120000-abc123 --to mlflow --uri http://127.0.0.1:5000
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from core.compression.specs import DiagnosisSpec, variants
from core.errors import SpecError
from core.files.exports import check_writable, write_table
from core.settings import Settings
from core.store.measurements import Store
from core.training.specs import TRAINING_SPECS
from jobs import mlflow_export
from jobs.local import EXPORT_COLUMNS

if TYPE_CHECKING:
    import pandas as pd

IMAGES, STEPS, EPOCHS, SPLITS = "images", "steps", "epochs", "splits"
DIAGNOSES, WAYS = "diagnoses", "ways"
DESCRIBED = {
    IMAGES: "one row per image and k of a measuring run",
    STEPS: "one row per trained network",
    EPOCHS: "one row per epoch",
    SPLITS: "the images of each class in the three sets",
    DIAGNOSES: "what the network of a diagnosis says of each image in each way",
    WAYS: "the figures of each way of a diagnosis",
}


def add_commands(commands: Any, command: Callable[..., argparse.ArgumentParser]) -> None:
    """Add `export`; command: adds one."""
    parser = command(commands, "export", "write a run's rows as CSV or Parquet", act_export)
    parser.add_argument("run", metavar="RUN", help="the run's id, from `status`, or a study's, from `studies`")
    what = "; ".join(f"{name}: {text}" for name, text in DESCRIBED.items())
    parser.add_argument(
        "--table", choices=tuple(DESCRIBED), help=f"{what} (default: images, steps of trainings, diagnoses)"
    )
    parser.add_argument("--output", type=Path, help="file ending in .csv or .parquet (default: RUN.csv)")
    parser.add_argument("--to", choices=("mlflow",), help="write a training run to MLflow instead of a file")
    parser.add_argument("--uri", help="with --to: MLflow's address, sqlite:///FILE or http://HOST:PORT")
    parser.add_argument(
        "--experiment", default=mlflow_export.EXPERIMENT, help="with --to: MLflow's experiment (default: %(default)s)"
    )


def act_export(options: argparse.Namespace) -> int:
    """Write the rows of a run, or of all trainings of a study, or a training run to MLflow."""
    if bool(options.to) != bool(options.uri):
        raise SpecError("Expected --to mlflow together with --uri, got one of them.")
    if options.to:
        store = Store(Settings.from_environment().database)
        print(mlflow_export.export(store, options.run, options.uri, options.experiment))
        return 0
    path = options.output or Path(f"{Path(options.run).name}.csv")
    check_writable(path)
    count = write(Store(Settings.from_environment().database), options.run, path, options.table)
    print(f"{count:,} rows written to {path}")
    return 0


def write(store: Store, run_or_study: str, path: Path, table: str | None = None) -> int:
    """Write a table of a run, or of a study's trainings; return how many rows it has.

    table: one of `DESCRIBED`; by default the one that the run has. SpecError where there is none to write.
    """
    trained, kind = _runs(store, run_or_study)
    known = _TABLES.get(kind, (IMAGES,))
    chosen = table or known[0]
    if chosen not in known:
        raise SpecError(f"Expected table {' or '.join(known)} of a {kind} run, got {chosen}.")
    frame = _FRAMES[chosen](store, trained)
    if frame.empty:
        raise SpecError(f"Expected rows to write, got none: {run_or_study} has no {chosen} yet.")
    write_table(frame, path)
    return len(frame)


def _runs(store: Store, run_or_study: str) -> tuple[list[str], str]:
    """Return the ids of the run, or of the study's trainings in the order of their submission, and their kind."""
    run = store.run(run_or_study)
    if run is not None:
        return [run.id], run.kind
    runs = [run for run in store.runs() if run.study == run_or_study]
    own = [run for run in reversed(runs) if run.trains]
    if not own:
        what = "a study whose trainings have begun" if runs else "a recorded run"
        raise SpecError(f"Expected {what}, got {run_or_study}.")
    return [run.id for run in own], own[0].kind


def _splits(store: Store, runs: list[str]) -> pd.DataFrame:
    import pandas as pd

    found = [store.run_splits(run_id).assign(run_id=run_id) for run_id in runs]
    table = pd.concat(found, ignore_index=True)
    return table[["run_id", *table.columns.drop("run_id")]]


def _ways(store: Store, runs: list[str]) -> pd.DataFrame:
    from core.predictions.diagnosis import way_figures

    run = store.run(runs[0])
    return way_figures(store.diagnoses(runs[0]), variants(run.told(DiagnosisSpec)) if run else ())


_TABLES: dict[str, tuple[str, ...]] = {
    **dict.fromkeys(TRAINING_SPECS, (STEPS, EPOCHS, SPLITS)),
    DiagnosisSpec.kind: (DIAGNOSES, WAYS, IMAGES),
}
_FRAMES: dict[str, Callable[[Store, list[str]], pd.DataFrame]] = {
    IMAGES: lambda store, runs: store.measurements(runs[0], columns=EXPORT_COLUMNS),
    STEPS: Store.steps,
    EPOCHS: Store.epochs,
    SPLITS: _splits,
    DIAGNOSES: lambda store, runs: store.diagnoses(runs[0]),
    WAYS: _ways,
}
