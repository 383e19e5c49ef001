"""The store's rows of training runs: complete, recorded once, and dropped if they are of an older attempt."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import recorded

from core.data.splits import SPLITS
from core.errors import StoreError
from core.networks.architectures import CLASSES, NETWORKS
from core.predictions.classification import FIGURES
from core.predictions.rows import COLUMNS, EXPORT_COLUMNS, joined, prediction_columns, prediction_frame
from core.runs import Run
from core.store.measurements import Store
from core.store.trainings import STEP_COLUMNS
from core.store.upkeep import delete_run
from core.training.algorithm2 import Step
from core.training.results import EpochResult, StepResult
from core.training.specs import PruneTrainSpec, TrainingProtocol, TrainSpec
from core.training.steps import described, failed, first_state, next_training
from jobs import messages
from jobs import record_worker as recorder

NOW = datetime(2026, 11, 24, 21, 30, tzinfo=UTC)
LENET5 = NETWORKS["lenet5"]
SPEC = PruneTrainSpec(dataset="moles", network=LENET5, training=TrainingProtocol(epochs=2, height=48, width=64, seed=7))
EPOCH = EpochResult(1, 0.9, 60.0, 61.0, 50.0, 0.8, 70.0, 71.0, None, 1.5, 300.0, meets_baseline=True, best=True)
DATA: dict[str, Any] = {
    "reached": [
        {
            "label": label,
            "split": split,
            "quota": 4,
            "lesions": 2,
            "images": 3,
            "oversampled": 4 + 2 * (split == "train"),
        }
        for label in ("melanoma", "nevus")
        for split in SPLITS
    ],
    "encoding": {"median_age": None},
    "left_out": [],
    "notes": ["Split by lesion."],
}


def new_run(run_id: str = "prune-train-1", spec: TrainSpec = SPEC, **changed: Any) -> Run:
    return recorded.new_run(run_id, spec, NOW, **{"fingerprint": "f1", "spec_hash": "h1", **changed})


@pytest.fixture
def store(tmp_path: Path) -> Store:
    store = Store(tmp_path / "store.duckdb", timeout=1.0)
    store.record_run(new_run())
    return store


def step_of(number: int = 0) -> StepResult:
    step = next_training(SPEC, first_state(SPEC))
    assert isinstance(step, Step)
    return replace(described(SPEC, step), step=number)


def trained(number: int = 0) -> StepResult:
    figures = {f"{split}_{figure}": 90.0 + place for place, split in enumerate(SPLITS) for figure in FIGURES}
    figures["test_macro_precision"] = None
    return replace(
        step_of(number),
        status="finished",
        accepted=True,
        epochs=2,
        kept_epoch=2,
        seconds=3.0,
        epoch_seconds=1.5,
        weights="/data/0.keras",
        weights_bytes=1000,
        figures=figures,
        classification={"test": {"confusion": [[1, 0], [0, 1]]}},
    )


def record_epochs(store: Store, epochs: Sequence[int], *, step: int = 0, attempt: int = 1) -> None:
    found = [replace(EPOCH, epoch=epoch, train_loss=1.0 / epoch) for epoch in epochs]
    store.record_epochs("prune-train-1", attempt, step, found, NOW + timedelta(seconds=max(epochs)))


def run(store: Store) -> dict[str, Any]:
    found = store.run("prune-train-1")
    assert found is not None
    return found


def test_the_row_of_a_step_is_complete_and_can_be_read_back(store: Store) -> None:
    store.record_step("prune-train-1", 1, step_of(), "train-host-1", NOW, None)
    assert store.step_results("prune-train-1") == []  # it is being trained
    assert store.steps()["status"].tolist() == ["training"]
    store.record_step("prune-train-1", 1, trained(), "train-host-1", NOW + timedelta(hours=1), NOW + timedelta(hours=2))
    assert store.step_results("prune-train-1") == [trained()]
    row = store.steps(["prune-train-1"]).iloc[0]
    assert row["started_at"] == NOW  # the first start, not the second one
    assert row["finished_at"] == NOW + timedelta(hours=2)
    assert row["worker"] == "train-host-1"
    assert (row["train_accuracy"], row["test_accuracy"]) == (90, 92)
    assert pd.isna(row["test_macro_precision"])
    known = set(StepResult.__dataclass_fields__) - {"figures", "predictions"} | set(trained().figures)
    assert set(row.index) - known == {"run_id", "attempt", "worker", "started_at", "finished_at"}


def test_rows_delivered_twice_are_recorded_once(store: Store) -> None:
    for _ in range(2):
        store.record_training_data("prune-train-1", 1, DATA)
        store.record_step("prune-train-1", 1, trained(), "w", NOW, NOW)
        record_epochs(store, [1])
        record_epochs(store, [1, 2])
        store.record_training_ended("prune-train-1", 1, None, NOW + timedelta(minutes=1))
    epochs = store.epochs(["prune-train-1"])
    assert epochs["epoch"].tolist() == [1, 2]
    expected = {**vars(EPOCH), "run_id": "prune-train-1", "step": 0, "attempt": 1, "train_loss": 1.0}
    first = epochs.iloc[0].to_dict()
    for name in [name for name, value in expected.items() if value is None]:
        assert pd.isna(first.pop(name))
        del expected[name]
    assert first == {**expected, "ended_at": NOW + timedelta(seconds=2)}
    assert len(store.steps()) == 1
    assert len(store.run_splits("prune-train-1")) == 6
    assert store.training_notes("prune-train-1") == ["Split by lesion."]
    assert store.metadata_encoding("prune-train-1") == {"median_age": None}
    found = run(store)
    assert (found.status, found.done, found.total, found.failed) == ("finished", 2, 2, 0)
    assert (found.seconds, found.work_seconds, found.workers) == (60, 3, "w")
    assert store.run_splits("prune-train-1").groupby("split")["oversampled"].sum().to_dict() == {
        **{"train": 12, "validation": 8, "test": 8},
    }


def test_progress_counts_the_epochs_of_started_steps(store: Store) -> None:
    assert (run(store).done, run(store).total) == (0, 2)
    store.record_step("prune-train-1", 1, trained(0), "w", NOW, NOW)
    record_epochs(store, [1, 2])
    store.record_step("prune-train-1", 1, step_of(1), "w", NOW, None)
    record_epochs(store, [1], step=1)
    assert (run(store).done, run(store).total) == (3, 4)


def test_a_step_that_patience_has_ended_counts_the_epochs_that_it_had(store: Store) -> None:
    record_epochs(store, [1])
    store.record_step("prune-train-1", 1, replace(trained(0), epochs=1), "w", NOW, NOW)
    assert (run(store).done, run(store).total) == (1, 1)
    store.record_step("prune-train-1", 1, step_of(1), "w", NOW, None)
    assert (run(store).done, run(store).total) == (1, 3)


def test_rows_of_an_older_attempt_are_dropped(store: Store) -> None:
    store.record_step("prune-train-1", 1, trained(0), "w", NOW, NOW)
    record_epochs(store, [1, 2])
    store.record_cancelled("prune-train-1", 1, NOW)
    store.record_training_retry("prune-train-1", 2, 1)
    store.record_step("prune-train-1", 1, trained(1), "late", NOW, NOW)
    record_epochs(store, [1], step=1, attempt=1)
    store.record_training_data("prune-train-1", 1, DATA)
    store.record_training_ended("prune-train-1", 1, "late", NOW)
    assert store.steps()["step"].tolist() == [0]
    assert store.epochs(["prune-train-1"])["step"].unique().tolist() == [0]
    assert store.run_splits("prune-train-1").empty
    assert (run(store).status, run(store).error, run(store).attempt) == ("queued", None, 2)
    store.record_training_retry("prune-train-1", 2, 0)  # delivered twice, with a different step
    assert store.steps()["step"].tolist() == [0]


def test_rows_of_an_older_claim_or_for_an_ended_run_are_dropped(store: Store) -> None:
    def everything(name: str, claim: int) -> None:
        """Write all records of a worker for step 0."""
        late = replace(EPOCH, train_loss=float(claim))
        store.record_training_data("prune-train-1", 1, {**DATA, "notes": [name]}, claim=claim)
        store.record_step("prune-train-1", 1, trained(0), name, NOW, NOW, claim=claim)
        store.record_epochs("prune-train-1", 1, 0, [late], NOW, claim=claim)

    def found() -> tuple[list[str], list[str], list[float]]:
        epochs = store.epochs(["prune-train-1"])
        return store.training_notes("prune-train-1"), store.steps()["worker"].tolist(), epochs["train_loss"].tolist()

    everything("first", 0)  # by a worker of a version without claims
    everything("second", 7)
    everything("third", 8)
    assert found() == (["third"], ["third"], [8.0])
    for late in (0, 7):
        everything("late", late)
        store.record_training_ended("prune-train-1", 1, "late", NOW, claim=late)
    assert found() == (["third"], ["third"], [8.0])
    assert (run(store).status, run(store).error, run(store).claim) == ("queued", None, 8)
    store.record_training_ended("prune-train-1", 1, None, NOW, claim=8)
    before = run(store)
    everything("later", 9)
    store.record_training_ended("prune-train-1", 1, "later", NOW, claim=9)
    assert found() == (["third"], ["third"], [8.0])
    assert run(store) == before
    store.record_training_retry("prune-train-1", 2, 0)
    store.record_step("prune-train-1", 2, trained(0), "after a retry", NOW, NOW, claim=1)
    assert store.steps()["worker"].tolist() == ["after a retry"]


def test_messages_of_an_older_version_without_claims_are_recorded(store: Store) -> None:
    common = {"run_id": "prune-train-1", "attempt": 1}
    result = {"result": trained().to_dict(), "worker": "w", "started_at": NOW.isoformat(), "finished_at": None}
    epochs = {"step": 0, "epochs": [vars(EPOCH)], "ended_at": NOW.isoformat()}
    for kind, values in (("training_data", {"values": DATA}), ("step", result), ("epochs", epochs)):
        recorder._write(store, [messages.read(json.dumps({"kind": kind, "values": {**common, **values}}).encode())])
    assert store.training_notes("prune-train-1") == DATA["notes"]
    assert store.step_results("prune-train-1") == [trained()]
    assert store.epochs(["prune-train-1"])["epoch"].tolist() == [1]


def with_predictions(result: StepResult, seed: int, images: int = 8) -> StepResult:
    chances = np.random.default_rng(seed).dirichlet(np.ones(len(CLASSES)), 2 * images).astype(np.float32)
    parts = [
        prediction_columns(
            split, [f"{split} {n}" for n in range(images)], [None] * images, np.arange(images) % len(CLASSES), part
        )
        for split, part in (("validation", chances[:images]), ("test", chances[images:]))
    ]
    return replace(result, predictions=joined(parts))


def test_predictions_are_recorded_with_their_step_once_and_exactly(store: Store) -> None:
    store.record_step("prune-train-1", 1, with_predictions(trained(), 1), "w", NOW, NOW)
    result = with_predictions(trained(), 2)
    for _ in range(2):
        store.record_step("prune-train-1", 1, result, "w", NOW, NOW)
    rows = store.predictions(["prune-train-1"])
    assert list(rows.columns) == list(EXPORT_COLUMNS)
    pd.testing.assert_frame_equal(
        rows[list(COLUMNS)], prediction_frame(result.predictions), check_dtype=False, check_exact=True
    )
    assert store.predictions(["prune-train-1"], step=0, split="test")["split"].unique().tolist() == ["test"]
    assert store.predictions(["prune-train-1"], step=1).empty
    assert store.predicted_steps(["prune-train-1"])["images"].tolist() == [8, 8]
    (found,) = store.step_results("prune-train-1")
    assert set(found.predictions["split"]) == {"test"}  # what the verdict of the next step needs


def test_predictions_of_a_step_that_is_trained_again_or_deleted_are_deleted(store: Store) -> None:
    for step in range(2):
        store.record_step("prune-train-1", 1, with_predictions(trained(step), step), "w", NOW, NOW)
    store.record_training_ended("prune-train-1", 1, "the GPU vanished", NOW)
    store.record_training_retry("prune-train-1", 2, 1)
    assert store.predictions(["prune-train-1"])["step"].unique().tolist() == [0]
    store.record_step("prune-train-1", 2, step_of(0), "w", NOW, None)  # begun again
    assert store.predictions(["prune-train-1"]).empty
    store.record_step("prune-train-1", 2, with_predictions(trained(), 3), "w", NOW, NOW)
    store.record_training_ended("prune-train-1", 2, None, NOW)
    assert delete_run(store, "prune-train-1", 2)
    assert store.predictions(["prune-train-1"]).empty


def test_predictions_made_again_replace_rows_and_figures_but_not_the_verdict(store: Store) -> None:
    store.record_step("prune-train-1", 1, trained(), "w", NOW, NOW)
    found = {"test": {"accuracy": 50.0}}
    figures = trained().figures | {"test_accuracy": 50.0}
    again = replace(
        with_predictions(trained(), 4), classification=found, figures=figures, accepted=False, noninferior=True
    )
    store.record_predictions("prune-train-1", 2, again)  # of another attempt
    assert store.step_results("prune-train-1") == [trained()]
    for _ in range(2):
        store.record_predictions("prune-train-1", 1, again)
    (result,) = store.step_results("prune-train-1")
    assert (result.classification, result.figures["test_accuracy"], result.noninferior) == (found, 50.0, True)
    assert result.accepted == trained().accepted
    assert len(store.predictions(["prune-train-1"])) == 16
    store.record_predictions("prune-train-1", 1, replace(again, step=5))  # no such step
    assert store.predictions(["prune-train-1"])["step"].unique().tolist() == [0]


def test_a_retry_deletes_the_rows_from_its_step_on_and_keeps_earlier_ones(store: Store) -> None:
    for step in range(3):
        store.record_step("prune-train-1", 1, trained(step), "w", NOW, NOW)
        record_epochs(store, [1, 2], step=step)
    store.record_training_ended("prune-train-1", 1, "the GPU vanished", NOW)
    assert run(store).status == "failed"
    before = store.steps().iloc[:1]
    store.record_training_retry("prune-train-1", 2, 1)
    pd.testing.assert_frame_equal(store.steps(), before)
    assert store.epochs(["prune-train-1"])["step"].tolist() == [0, 0]
    found = run(store)
    assert (found.status, found.error, found.finished_at) == ("queued", None, None)
    assert (found.done, found.total) == (2, 2)


def test_the_end_of_a_run_counts_failed_steps_and_does_not_change_a_cancelled_run(store: Store) -> None:
    step = next_training(SPEC, first_state(SPEC))
    assert isinstance(step, Step)
    store.record_step("prune-train-1", 1, failed(SPEC, step, "The process died."), "w", NOW, NOW)
    store.record_training_ended("prune-train-1", 1, None, NOW)
    assert (run(store).failed, run(store).status) == (1, "finished")
    store.record_run(new_run("prune-train-2"))
    store.record_cancelled("prune-train-2", 1, NOW)
    store.record_training_ended("prune-train-2", 1, None, NOW)
    cancelled = store.run("prune-train-2")
    assert cancelled is not None
    assert cancelled.status == "cancelled"
    assert store.finished_run("h1") is None  # neither counts as an equal finished run


def test_rows_of_an_unknown_run_raise_an_error(store: Store) -> None:
    with pytest.raises(StoreError, match="expected run elsewhere in the store"):
        store.record_step("elsewhere", 1, trained(), "w", NOW, NOW)


def test_finished_steps_have_the_columns_that_the_tables_need(store: Store) -> None:
    single = TrainSpec(dataset="moles-k350", network=LENET5, training=SPEC.training)
    store.record_run(new_run("train-2", single, dataset="moles-k350", source="moles", synthetic=True))
    store.record_step("train-2", 1, trained(), "w", NOW, NOW)
    store.record_step("prune-train-1", 1, trained(), "w", NOW, NOW)
    store.record_step("prune-train-1", 1, step_of(1), "w", NOW, None)
    rows = store.trainings()
    assert list(rows.columns)[: len(STEP_COLUMNS)] == list(STEP_COLUMNS)
    assert rows["run_id"].tolist() == ["prune-train-1", "train-2"]  # steps in training are not included
    assert rows["version"].tolist() == ["original", "reconstructed"]
    assert rows["synthetic"].tolist() == [False, True]
    assert rows["network"].tolist() == ["lenet5", "lenet5"]
    assert rows["seed"].tolist() == [7, 7]
    assert rows["settings"].map(str).tolist() == [SPEC.settings, single.settings]
    assert rows["balanced_accuracy"].tolist() == [92, 92]
    assert store.trainings(["train-2"])["run_id"].tolist() == ["train-2"]
    assert list(store.trainings([]).columns) == list(rows.columns)


def test_a_study_is_recorded_once_and_its_status_can_change(store: Store) -> None:
    values = {"study": "s1", "kind": "article", "dataset": "moles", "spec": "{}", "submitted_at": NOW}
    for spec in ("{}", '{"other": 1}'):
        store.record_study(values | {"spec": spec})
    assert [study.spec_json for study in store.studies("running")] == ["{}"]
    store.record_study_status("s1", "failed", "why", NOW)
    found = store.study("s1")
    assert found is not None
    assert (found.status, found.error, found.finished_at, found.spec_json) == ("failed", "why", NOW, "{}")
    store.record_study_status("s1", "running", None, None, '{"other": 1}')
    assert [study.spec_json for study in store.studies()] == ['{"other": 1}']
    assert store.study("s2") is None
