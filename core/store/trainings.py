"""What the store keeps of training runs: the sets they were trained on, their steps and epochs."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, replace
from datetime import UTC, datetime
from typing import Any

import duckdb
import numpy as np
import pandas as pd

from core.errors import StoreError
from core.networks.plain_data import network_to_dict
from core.predictions.rows import prediction_frame
from core.store.file import insert, one
from core.store.runs import RunRows, begin_attempt
from core.training.results import EpochResult, FactoredResult, StepResult
from core.training.specs import TrainSpec, training_spec_from_dict
from core.training.steps import STEP_FIGURES

# One row per trained step. version: whether the images are 'original' or 'reconstructed', whatever the data set's name.
# settings: a `core.specs.SettingsKey`. step: 0 is the unpruned network. name: as in Table 6. accepted: True, False, or
# missing while unknown. macro_* and balanced_accuracy are of the test set. Figures are in percent, bytes and seconds.
STEP_COLUMNS = (
    *("run_id", "network", "dataset", "version", "settings", "seed", "step", "name"),
    *("parameters", "macs", "bytes_weights", "bytes_with_optimizer", "accepted", "reason"),
    *("train_accuracy", "train_precision", "validation_accuracy", "validation_precision"),
    *("test_accuracy", "test_precision", "test_recall", "macro_precision", "macro_recall", "balanced_accuracy"),
    *("epochs", "seconds", "synthetic"),
)
ALIKE = ("network", "dataset", "version", "settings", "name")  # of steps whose figures are averaged over seeds
KEYS_WITHOUT = {"settings": (), "training_settings": ("rules",), "way_settings": ("rules", "training.epochs")}
JSON_COLUMNS = ("factors", "network", "classification")
COMPARED = ("difference", "difference_low", "difference_high", "accepted_by_points", "noninferior")


class TrainingRows(RunRows):
    """The tables steps, epochs, run_splits and training_data."""

    # -- reading -----------------------------------------------------------------------------------------------

    def steps(self, run_ids: Iterable[str] | None = None) -> pd.DataFrame:
        """Return one row per step in the order of runs and steps, of these runs or of all: every column of `steps`.

        factors, network, classification: JSON texts.
        """
        query = "SELECT * FROM steps WHERE $1 IS NULL OR list_contains($1, run_id) ORDER BY run_id, step"
        return self.read(query, [None if run_ids is None else list(run_ids)])

    def step_results(self, run_id: str) -> list[StepResult]:
        """Return the steps of a run that have ended, in order; of the first one with its predictions of test images."""
        query = "SELECT * FROM steps WHERE run_id = ? AND status <> 'training' ORDER BY step"
        results = [_step_result(row) for row in self.rows(query, [run_id])]
        rows = self.predictions([run_id], step=0, split="test")
        if results and len(rows):
            results[0] = replace(results[0], predictions={str(name): list(rows[name]) for name in rows})
        return results

    def predictions(self, run_ids: Iterable[str], *, step: int | None = None, split: str | None = None) -> pd.DataFrame:
        """Return one row per image and step of these runs, of one step or split or of all: `EXPORT_COLUMNS`."""
        return self.read(
            "SELECT * FROM predictions "
            "WHERE list_contains(?, run_id) AND (? IS NULL OR step = ?) AND (? IS NULL OR split = ?) "
            "ORDER BY run_id, step, rowid",
            [list(run_ids), step, step, split, split],
        )

    def predicted_steps(self, run_ids: Iterable[str]) -> pd.DataFrame:
        """Return how many predictions the steps of these runs have: run_id, step, split, images."""
        return self.read(
            "SELECT run_id, step, split, count(*) AS images FROM predictions WHERE list_contains(?, run_id) "
            "GROUP BY ALL ORDER BY run_id, step, split",
            [list(run_ids)],
        )

    def predicted_classes(self, run_ids: Iterable[str], split: str) -> pd.DataFrame:
        """Return how often the steps of these runs gave each image each class.

        Columns: image_id, lesion_id, label, predicted, predictions. Only classes that were predicted.
        """
        return self.read(
            "SELECT image_id, any_value(lesion_id) AS lesion_id, label, predicted, count(*) AS predictions "
            "FROM predictions WHERE list_contains(?, run_id) AND split = ? GROUP BY image_id, label, predicted "
            "ORDER BY image_id, predicted",
            [list(run_ids), split],
        )

    def svd_dense(self, run_ids: Iterable[str] | None = None) -> pd.DataFrame:
        """Return one row per step, energy and epochs of fine-tuning of these runs, or of all.

        The columns are those of the table `svd_dense`. network, classification, predicted: JSON texts.
        """
        query = (
            "SELECT * FROM svd_dense WHERE $1 IS NULL OR list_contains($1, run_id) "
            "ORDER BY run_id, step, energy, fine_tune_epochs"
        )
        return self.read(query, [None if run_ids is None else list(run_ids)])

    def trainings(self, run_ids: Iterable[str] | None = None) -> pd.DataFrame:
        """Return the finished steps of these runs, or of all, in the order of submission: `STEP_COLUMNS` and more.

        seed: the one that the step was trained with, which is not the run's where earlier seeds were lost. The further
        columns are those of the view `trainings`; leaky, whether the sets were drawn image by image; training_settings,
        the key of the settings without the rules of pruning; way_settings, without the epochs too; and layers, which
        tells networks of one name apart.
        """
        query = (
            "SELECT * FROM trainings WHERE $1 IS NULL OR list_contains($1, run_id) ORDER BY submitted_at, run_id, step"
        )
        steps = self.read(query, [None if run_ids is None else list(run_ids)])
        specs = {text: training_spec_from_dict(json.loads(text)) for text in steps["spec"].unique()}
        keys = {
            text: (*(spec.settings_key(without=each) for each in KEYS_WITHOUT.values()), _layers(spec))
            for text, spec in specs.items()
        }
        steps["network"] = [specs[text].network.name for text in steps["spec"]]
        asked = pd.Series([specs[text].training.seed for text in steps["spec"]], index=steps.index, dtype="int64")
        steps["seed"] = steps["seed"].fillna(asked).astype("int64")
        steps["leaky"] = np.array([specs[text].leaky_split for text in steps["spec"]], dtype=bool)
        for place, column in enumerate((*KEYS_WITHOUT, "layers")):
            steps[column] = pd.Series([keys[text][place] for text in steps["spec"]], index=steps.index, dtype=object)
        return steps[[*STEP_COLUMNS, *steps.columns.drop(list(STEP_COLUMNS))]]

    def lost_trainings(self) -> pd.DataFrame:
        """Return one row per step with lost networks: run_id, kind, step, lost, network, seed, dataset, family.

        lost: trainings, one for each seed that was tried, from the run's seed on. family: the original data set.
        """
        steps = self.read(
            "SELECT run_id, kind, step, lost, dataset, coalesce(dataset_source, dataset) AS family, spec "
            "FROM steps JOIN runs USING (run_id) WHERE lost > 0 ORDER BY submitted_at, run_id, step"
        )
        specs = [training_spec_from_dict(json.loads(text)) for text in steps.pop("spec")]
        return steps.assign(
            network=pd.Series([spec.trained_network.name for spec in specs], dtype=object),
            seed=pd.Series([spec.training.seed for spec in specs], dtype="int64"),
        )

    def epochs(self, run_ids: Iterable[str]) -> pd.DataFrame:
        """Return one row per epoch of these runs, in order."""
        return self.read(
            "SELECT * FROM epochs WHERE list_contains(?, run_id) ORDER BY run_id, step, epoch", [list(run_ids)]
        )

    def run_splits(self, run_id: str) -> pd.DataFrame:
        """Return the sets that a run really has: label, split, quota, lesions, images, oversampled."""
        return self.read("SELECT * EXCLUDE run_id FROM run_splits WHERE run_id = ? ORDER BY rowid", [run_id])

    def training_notes(self, run_id: str) -> list[str]:
        """Return the sentences that belong beside a run's results; none before its data are there."""
        return list(self._training_data(run_id, "notes") or ())

    def metadata_encoding(self, run_id: str) -> dict[str, Any] | None:
        """Return how a run's metadata became numbers, see `MetadataEncoding.to_dict`; None if unknown."""
        found: dict[str, Any] | None = self._training_data(run_id, "encoding")
        return found

    def _training_data(self, run_id: str, column: str) -> Any:
        rows = self.rows(f"SELECT {column} FROM training_data WHERE run_id = ?", [run_id])
        return json.loads(rows[0][column]) if rows else None

    # -- writing: the record worker only -----------------------------------------------------------------------

    # claim: the number of the worker's claim (`jobs.live_runs.Claim`), 0 of a time without. A record of an older claim
    # than one that was recorded is dropped: its worker was paused, and another worker has continued the run.

    def record_training_data(self, run_id: str, attempt: int, values: Mapping[str, Any], *, claim: int = 0) -> None:
        """Replace what is known of a run's sets; values: `TrainingData.to_dict`."""
        with self.transaction() as connection:
            if not _current(connection, run_id, attempt, claim):
                return
            for table in ("training_data", "run_splits"):
                connection.execute(f"DELETE FROM {table} WHERE run_id = ?", [run_id])
            texts = {name: json.dumps(values[name]) for name in ("encoding", "notes")}
            insert(connection, "training_data", pd.DataFrame([{"run_id": run_id, "attempt": attempt, **texts}]))
            insert(connection, "run_splits", pd.DataFrame(values["reached"]).assign(run_id=run_id))

    def record_step(
        self,
        run_id: str,
        attempt: int,
        result: StepResult,
        worker: str,
        started_at: datetime,
        finished_at: datetime | None,
        *,
        claim: int = 0,
    ) -> None:
        """Replace a step's row, as it begins and as it ends; the run's progress is counted anew."""
        with self.transaction() as connection:
            if not _current(connection, run_id, attempt, claim):
                return
            began = one(
                connection,
                "SELECT epoch_us(min(started_at)) FROM steps WHERE run_id = ? AND step = ?",
                [run_id, result.step],
            )
            connection.execute("DELETE FROM steps WHERE run_id = ? AND step = ?", [run_id, result.step])
            values = result.to_dict()
            row = {
                **{name: value for name, value in values.items() if name not in ("figures", "predictions")},
                **{name: json.dumps(values[name]) for name in JSON_COLUMNS},
                **{name: result.figures.get(name) for name in STEP_FIGURES},
                "run_id": run_id,
                "attempt": attempt,
                "worker": worker,
                "started_at": started_at if began is None else datetime.fromtimestamp(began / 1e6, UTC),
                "finished_at": finished_at,
            }
            insert(connection, "steps", pd.DataFrame([row]))
            _replace_predictions(connection, run_id, result.step, result.predictions)
            if finished_at is not None:  # a lost training before this one may have had more epochs
                connection.execute(
                    "DELETE FROM epochs WHERE run_id = ? AND step = ? AND epoch > ?",
                    [run_id, result.step, result.epochs],
                )
            _count_epochs(connection, run_id)

    def record_predictions(self, run_id: str, attempt: int, result: StepResult) -> None:
        """Replace a finished step's predictions, and the figures that follow from them; its verdict stays.

        Nothing changes for a step of another attempt.
        """
        values = {name: result.figures.get(name) for name in STEP_FIGURES}
        values |= {name: getattr(result, name) for name in COMPARED}
        assignments = ", ".join(f"{name} = ?" for name in (*STEP_FIGURES, *COMPARED, "classification"))
        with self.transaction() as connection:
            changed = connection.execute(
                f"UPDATE steps SET {assignments} WHERE run_id = ? AND step = ? "
                "AND status = 'finished' AND (SELECT attempt FROM runs WHERE run_id = steps.run_id) = ? RETURNING step",
                [*values.values(), json.dumps(result.classification), run_id, result.step, attempt],
            ).fetchall()
            if changed:
                _replace_predictions(connection, run_id, result.step, result.predictions)

    def record_svd_dense(self, run_id: str, attempt: int, result: FactoredResult, computed_at: datetime) -> None:
        """Replace the row of a finished step's network with dense layers of low rank, of the same energy and epochs.

        Nothing changes for a step of another attempt.
        """
        values = asdict(result)
        texts = {name: json.dumps(values[name]) for name in ("network", "classification", "predicted")}
        with self.transaction() as connection:
            trained = one(
                connection,
                "SELECT count(*) FROM steps JOIN runs USING (run_id) "
                "WHERE run_id = ? AND step = ? AND steps.status = 'finished' AND runs.attempt = ?",
                [run_id, result.step, attempt],
            )
            if trained:
                connection.execute(
                    "DELETE FROM svd_dense WHERE run_id = ? AND step = ? AND energy = ? AND fine_tune_epochs = ?",
                    [run_id, result.step, result.energy, result.fine_tune_epochs],
                )
                row = {**values, **texts, "run_id": run_id, "computed_at": computed_at}
                insert(connection, "svd_dense", pd.DataFrame([row]))

    def record_epochs(
        self, run_id: str, attempt: int, step: int, epochs: Sequence[EpochResult], ended_at: datetime, *, claim: int = 0
    ) -> None:
        """Replace the rows of these epochs; the run's progress is counted anew."""
        with self.transaction() as connection:
            if not _current(connection, run_id, attempt, claim):
                return
            connection.execute(
                "DELETE FROM epochs WHERE run_id = ? AND step = ? AND list_contains(?, epoch)",
                [run_id, step, [each.epoch for each in epochs]],
            )
            frame = pd.DataFrame([vars(each) for each in epochs])
            insert(connection, "epochs", frame.assign(run_id=run_id, attempt=attempt, step=step, ended_at=ended_at))
            _count_epochs(connection, run_id)

    def record_training_ended(
        self, run_id: str, attempt: int, error: str | None, at: datetime, *, claim: int = 0
    ) -> None:
        """Finish a training run, or mark it failed with the reason."""
        with self.transaction() as connection:
            connection.execute(
                "UPDATE runs SET status = ?, error = ?, finished_at = ?, "
                "started_at = coalesce(started_at, submitted_at), "
                "seconds = epoch(? - coalesce(started_at, submitted_at)), "
                "failed = (SELECT count(*) FROM steps s WHERE s.run_id = runs.run_id AND s.status = 'failed'), "
                "work_seconds = (SELECT sum(s.seconds) FROM steps s WHERE s.run_id = runs.run_id), "
                "workers = (SELECT string_agg(DISTINCT s.worker, ', ' ORDER BY s.worker) FROM steps s "
                "WHERE s.run_id = runs.run_id) "
                "WHERE run_id = ? AND attempt = ? AND claim <= ? AND status IN ('queued', 'running')",
                ["failed" if error else "finished", error, at, at, run_id, attempt, claim],
            )

    def record_training_retry(self, run_id: str, attempt: int, step: int) -> None:
        """Start a new attempt from a step on: its rows and those of later steps are forgotten."""
        with self.transaction() as connection:
            if begin_attempt(connection, run_id, attempt):
                for table in ("steps", "epochs", "predictions", "conversions", "latencies", "svd_dense"):
                    connection.execute(f"DELETE FROM {table} WHERE run_id = ? AND step >= ?", [run_id, step])
                _count_epochs(connection, run_id)


def _layers(spec: TrainSpec) -> str:
    """Return what tells two networks of one name apart."""
    return hashlib.sha256(json.dumps(network_to_dict(spec.network), sort_keys=True).encode()).hexdigest()


def _current(connection: duckdb.DuckDBPyConnection, run_id: str, attempt: int, claim: int) -> bool:
    """Return whether a record belongs to the run's newest attempt and claim, and the run has not ended.

    A newer claim is noted. StoreError for an unknown run.
    """
    rows = connection.execute("SELECT attempt, claim, status FROM runs WHERE run_id = ?", [run_id]).fetchall()
    if not rows:
        raise StoreError(f"expected run {run_id} in the store; it is not recorded yet")
    newest, claimed, status = rows[0]
    if (attempt, claim) < (newest, claimed) or (attempt == newest and status in ("finished", "failed")):
        return False
    if claim > claimed:
        connection.execute("UPDATE runs SET claim = ? WHERE run_id = ?", [claim, run_id])
    return True


def _replace_predictions(
    connection: duckdb.DuckDBPyConnection, run_id: str, step: int, columns: Mapping[str, Sequence[Any]]
) -> None:
    connection.execute("DELETE FROM predictions WHERE run_id = ? AND step = ?", [run_id, step])
    if columns:
        insert(connection, "predictions", prediction_frame(columns).assign(run_id=run_id, step=step))


def _count_epochs(connection: duckdb.DuckDBPyConnection, run_id: str) -> None:
    """Count a training run's progress: epochs trained, and those that the steps begun so far have in all.

    A finished step has as many as it was trained for, which patience may have ended early.
    """
    connection.execute(
        "UPDATE runs SET measured = (SELECT count(*) FROM epochs e WHERE e.run_id = runs.run_id), "
        "total = coalesce((SELECT sum(if(s.status = 'finished', s.epochs, asked.epochs)) FROM steps s "
        "WHERE s.run_id = runs.run_id AND s.status <> 'failed'), asked.epochs) "
        "FROM (SELECT run_id, CAST(json_extract(spec, '$.training.epochs') AS BIGINT) AS epochs FROM runs) asked "
        "WHERE runs.run_id = asked.run_id AND runs.run_id = ?",
        [run_id],
    )


def _step_result(row: Mapping[str, Any]) -> StepResult:
    known = {name: row[name] for name in StepResult.__dataclass_fields__ if name in row}
    known |= {name: json.loads(row[name]) for name in JSON_COLUMNS}
    return StepResult.from_dict({**known, "figures": {name: row[name] for name in STEP_FIGURES}})
