"""The commands that train, as a person types them: exit codes, sentences, and the exported rows."""

from __future__ import annotations

import subprocess
import sys
from datetime import datetime, timedelta
from pathlib import Path

import pandas as pd
import pytest
from laboratory import ROOT, write_lesions

from core.errors import SpecError
from core.settings import Settings
from core.store import Store
from jobs.__main__ import main
from jobs.queues import Queues
from jobs.training_commands import next_time

ISSUE = (
    *("step", "name", "parameters", "macs", "accepted", "reason", "train_accuracy", "train_precision"),
    *("validation_accuracy", "validation_precision", "test_accuracy", "test_precision", "test_recall"),
    *("macro_precision", "macro_recall", "balanced_accuracy", "epochs", "seconds"),
)


@pytest.fixture(autouse=True)
def here(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DATA_DIR", str(settings.data_dir))
    monkeypatch.setenv("REDIS_URL", str(settings.redis_url))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_lesions(tmp_path / "lesions", 8)


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_local_prune_train_exports_a_row_a_step_in_the_promised_columns(folder: Path, tmp_path: Path) -> None:
    path = tmp_path / "steps.csv"
    command = [sys.executable, "-m", "jobs", "prune-train", str(folder), "--network", "lenet5", "--size", "48x64"]
    command += ["--epochs", "3", "--factors", "50,33.33", "--seed", "1", "--local", "--export", str(path)]
    command += ["--baseline", "0,0,0,0,100", "--max-iterations", "1", "--batch-size", "8"]
    answer = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=400)
    assert answer.returncode == 0, answer.stderr
    assert path.read_text().splitlines()[0] == ",".join(ISSUE)
    rows = pd.read_csv(path)
    assert rows["step"].tolist() == [0, 1]
    assert rows["name"].tolist() == ["Original", "R1: 50%"]
    assert (rows["accepted"] == rows["reason"].isna()).all()
    assert rows["epochs"].tolist() == [3, 3]
    assert rows["parameters"].is_monotonic_decreasing
    assert rows["macs"].is_monotonic_decreasing
    percentages = rows[[name for name in ISSUE if name.endswith(("accuracy", "precision", "recall"))]]
    assert percentages.min(axis=None) >= 0
    assert percentages.max(axis=None) <= 100
    assert (rows["macro_recall"] == rows["balanced_accuracy"]).all()
    assert "lenet5 seed 1, Original:" in answer.stdout
    assert answer.stdout.count("; accepted") + answer.stdout.count("; not accepted: ") == 2
    assert "The limit of 1 pruned network is reached." in answer.stdout
    assert "Split by lesion" in answer.stderr
    assert "Traceback" not in answer.stderr
    weights = Path(answer.stdout.splitlines()[-1].removeprefix("weights in "))
    assert sorted(path.name for path in weights.glob("*.keras")) == ["0.keras", "1.keras"]


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (["--network", "resnet"], "network: expected some of lenet5, alexnet, custom1, custom2, or all; got resnet"),
        (["--size", "4x4"], "4"),
        (["--epochs", "0"], "Expected epochs to be a whole number of at least 1"),
        (["--learning-rate", "2"], "Expected learning_rate to lie between 0 and 1"),
        (["--start-after", "25:70"], "start-after: expected a time of day such as 22:30; got 25:70"),
        (["--targets", "3,3,3"], "Expected targets of at least 4 images"),
    ],
)
def test_what_no_training_can_follow_is_refused_in_a_sentence(
    folder: Path, options: list[str], expected: str, capsys: pytest.CaptureFixture[str], settings: Settings
) -> None:
    assert main(["train", str(folder), *options]) == 1
    assert expected in capsys.readouterr().err
    assert Queues(settings).runs() == []


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (["--size", "200"], "expected rows x columns such as 200x100; got 200"),
        (["--seed", "one"], "expected whole numbers such as 1,2,3; got one"),
        (["--targets", "3,3"], "expected train,validation,test such as 3300,1100,360; got 3,3"),
        (["--baseline", "90,90"], "expected five numbers"),
        (["--baseline", "90,90,80,80,200"], "to lie between 0 and 100 percent"),
        (["--factors", "half"], "expected numbers such as 50,33.33; got half"),
        (["--priority", "urgent"], "urgent"),
    ],
)
def test_options_that_cannot_be_read_say_what_was_expected(
    options: list[str], expected: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        main(["prune-train", "moles", *options])
    assert expected in capsys.readouterr().err


def test_a_folder_that_is_not_there_is_a_sentence(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert main(["train", str(tmp_path / "nowhere"), "--local"]) == 1
    assert "nowhere" in capsys.readouterr().err


def test_networks_and_seeds_are_submitted_together_and_wait_for_their_hour(
    folder: Path, capsys: pytest.CaptureFixture[str], settings: Settings
) -> None:
    hour = datetime.now().astimezone() + timedelta(hours=2)
    arguments = ["train", str(folder), "--network", "lenet5,alexnet", "--seed", "1,2", "--preset", "laptop"]
    assert main([*arguments, "--start-after", f"{hour:%H:%M}", "--priority", "low"]) == 0
    run_ids = capsys.readouterr().out.split()
    assert len(run_ids) == 4
    states = {state.run_id: state for state in Queues(settings).runs()}
    assert set(states) == set(run_ids)
    assert len({state.study for state in states.values()}) == 1
    for state in states.values():
        assert (state.status, state.priority) == ("scheduled", "low")
        assert state.starts_at == hour.replace(second=0, microsecond=0)
    assert main(arguments) == 0
    captured = capsys.readouterr()
    assert captured.out.split() == run_ids
    assert captured.err.count("This run trains the same thing on the same images") == 4
    assert not Store(settings.database).runs()["run_id"].tolist()  # no record worker runs here: nothing is written


def test_a_time_of_day_is_the_next_one() -> None:
    now = datetime.now().astimezone()
    for minutes in (-1, 2):
        moment = next_time(f"{now + timedelta(minutes=minutes):%H:%M}")
        assert now < moment <= now + timedelta(days=1)
    with pytest.raises(SpecError):
        next_time("noon")
