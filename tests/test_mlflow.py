"""Runs exported to MLflow: parameters, epochs, figures, predictions and weights, in a database and on a real server."""

from __future__ import annotations

import math
import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pandas as pd
import pytest
from laboratory import free_port, wait_for
from recorded import START, record_training

from benchmarks.processes import Process
from core.errors import DermSlimError, SpecError
from core.settings import Settings
from core.store.measurements import Store
from core.training.results import EpochResult
from core.training.specs import Rules
from jobs.__main__ import main
from jobs.mlflow_export import export


@pytest.fixture
def store(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> Store:
    monkeypatch.setenv("DATA_DIR", str(settings.data_dir))
    return Store(settings.database)


@pytest.fixture
def uri(tmp_path: Path) -> str:
    pytest.importorskip("mlflow")
    return f"sqlite:///{tmp_path}/mlflow.db"


def epochs(count: int) -> list[EpochResult]:
    rest = dict.fromkeys(("train_accuracy", "train_precision", "train_recall", "validation_loss"), 0.5)
    rest |= dict.fromkeys(("validation_accuracy", "validation_precision"), 0.25)
    return [
        EpochResult(
            epoch=epoch, train_loss=1 / epoch, validation_recall=None, seconds=2.0, images_per_second=9.0, **rest
        )
        for epoch in range(1, count + 1)
    ]


def runs_of(uri: str) -> list[Any]:
    from mlflow import MlflowClient

    client = MlflowClient(tracking_uri=uri)
    experiment = client.get_experiment_by_name("DermSlim")
    assert experiment is not None
    return list(
        client.search_runs([experiment.experiment_id], order_by=["attributes.start_time", "tags.mlflow.runName"])
    )


def artifacts(uri: str, run: Any) -> dict[str, Path]:
    from mlflow import MlflowClient

    client = MlflowClient(tracking_uri=uri)
    names = [each.path for each in client.list_artifacts(run.info.run_id)]
    return {name: Path(client.download_artifacts(run.info.run_id, name)) for name in names}


def check_prune_train(store: Store, uri: str, weights: Path) -> None:
    from mlflow import MlflowClient

    weights.write_bytes(b"weights")
    run_id = record_training(store, accuracies=(80.0, 70.0), rules=Rules(), images=6, weights=weights, ends=False)
    store.record_epochs(run_id, 1, 1, epochs(3), START)
    store.record_training_ended(run_id, 1, None, START)
    assert main(["export", run_id, "--to", "mlflow", "--uri", uri]) == 0
    found = runs_of(uri)
    (whole,) = (run for run in found if "mlflow.parentRunId" not in run.data.tags)
    nested = {run.info.run_name: run for run in found if run is not whole}
    assert sorted(nested) == ["Original", "R1: 50%"]
    assert {run.data.tags["mlflow.parentRunId"] for run in nested.values()} == {whole.info.run_id}
    assert (whole.info.run_name, whole.info.status) == (run_id, "FINISHED")
    assert whole.data.params["network"] == "lenet5"
    assert whole.data.params["training.epochs"] == "3"
    assert whole.data.params["rules.factors"].startswith("(")
    history = MlflowClient(tracking_uri=uri).get_metric_history(nested["R1: 50%"].info.run_id, "epoch/train_loss")
    assert [(each.step, each.value) for each in history] == [(1, 1.0), (2, 0.5), (3, 1 / 3)]
    assert "epoch/validation_recall" not in nested["R1: 50%"].data.metrics  # undefined in every epoch
    for result in store.step_results(run_id):
        own = nested[result.name]
        for name, value in result.figures.items():
            assert math.isclose(own.data.metrics[name], value)  # type: ignore[arg-type]
        assert own.data.metrics["parameters"] == result.parameters
        assert own.data.params["accepted"] == str(result.accepted)
        files = artifacts(uri, own)
        assert files[weights.name].read_bytes() == b"weights"
        rows = store.predictions([run_id], step=result.step)
        pd.testing.assert_frame_equal(
            pd.read_csv(files["predictions.csv"]), rows, check_dtype=False, check_exact=False, atol=1e-6
        )


def test_a_prune_train_run_is_exported_to_a_database_with_a_nested_run_per_step(
    store: Store, uri: str, tmp_path: Path
) -> None:
    check_prune_train(store, uri, tmp_path / "0.keras")


@pytest.fixture
def server(tmp_path: Path) -> Iterator[str]:
    """Give the address of a real MLflow server on loopback; it needs packages that mlflow-skinny does not bring."""
    pytest.importorskip("mlflow")
    for name in ("flask", "flask_cors", "huey", "aiohttp"):
        pytest.importorskip(name)
    port = free_port()
    command = [
        *(sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1"),
        *("--backend-store-uri", f"sqlite:///{tmp_path}/server.db", "--artifacts-destination", str(tmp_path / "kept")),
    ]
    with (tmp_path / "server.log").open("wb") as log:
        process = Process(command, stdout=log, stderr=log, start_new_session=True)
    try:
        address = f"http://127.0.0.1:{port}"
        wait_for(lambda: process.poll() is not None or answers(f"{address}/health"), 120)
        assert process.poll() is None, (tmp_path / "server.log").read_text()
        yield address
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        process.wait(30)


def answers(address: str) -> bool:
    try:
        return httpx.get(address, timeout=2).status_code == 200
    except httpx.HTTPError:
        return False


def test_a_prune_train_run_is_exported_to_a_server(store: Store, server: str, tmp_path: Path) -> None:
    check_prune_train(store, server, tmp_path / "0.keras")


def test_a_training_is_one_run_and_is_exported_once(store: Store, uri: str) -> None:
    run_id = record_training(store)
    made = export(store, run_id, uri)
    (found,) = runs_of(uri)
    assert (found.info.run_id, found.data.tags["dermslim.run"]) == (made, run_id)
    assert found.data.metrics["test_accuracy"] == 70
    assert artifacts(uri, found) == {}  # a run of an older store without predictions, whose weights are elsewhere
    with pytest.raises(SpecError, match="Expected a run that the experiment DermSlim does not have yet"):
        export(store, run_id, uri)
    assert len(runs_of(uri)) == 1


def test_what_cannot_be_exported_is_refused_before_anything_is_written(
    store: Store, capsys: pytest.CaptureFixture[str]
) -> None:
    ended, unended = record_training(store), record_training(store, ends=False)
    with pytest.raises(SpecError, match="Expected a training run that is in the store, got nothing"):
        export(store, "nothing", "sqlite:///a.db")
    with pytest.raises(SpecError, match="Expected a run that has ended"):
        export(store, unended, "sqlite:///a.db")
    with pytest.raises(SpecError, match="Expected --uri to begin with sqlite:///"):
        export(store, ended, "file:///tmp")
    assert main(["export", ended, "--to", "mlflow"]) != 0
    assert "Expected --to mlflow together with --uri" in capsys.readouterr().err


def test_a_missing_package_is_named_with_the_command_that_installs_it(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("jobs.mlflow_export.find_spec", lambda name: None)
    with pytest.raises(DermSlimError, match=r"mlflow-skinny, got none\. .*\[mlflow\]"):
        export(store, record_training(store), "sqlite:///a.db")
