"""The commands that train, as a user types them: exit codes, messages and exported rows."""

from __future__ import annotations

import shutil
import sys
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from zoneinfo import ZoneInfo

import pandas as pd
import pytest
from laboratory import ROOT, write_lesions
from recorded import record_training

from benchmarks.processes import run_command
from core.errors import SpecError
from core.settings import Settings
from core.store.measurements import Store
from core.training.specs import Rules, TrainingProtocol
from jobs.__main__ import main
from jobs.cli.clock import next_moment, parse_time
from jobs.cli.training import await_start, next_time
from jobs.queues import Queues

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
def test_a_local_prune_train_exports_one_row_per_step_with_the_documented_columns(folder: Path, tmp_path: Path) -> None:
    path = tmp_path / "steps.csv"
    command = [sys.executable, "-m", "jobs", "prune-train", str(folder), "--network", "lenet5", "--size", "48x64"]
    command += ["--epochs", "3", "--factors", "50,33.33", "--seed", "1", "--local", "--export", str(path)]
    command += ["--baseline", "0,0,0,0,100", "--max-iterations", "1", "--batch-size", "8"]
    answer = run_command(command, cwd=ROOT, capture_output=True, text=True, timeout=400)
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
        (["--network", "resnet"], "Expected networks among lenet5, alexnet, custom1, custom2, or all, got resnet"),
        (["--size", "4x4"], "4"),
        (["--epochs", "0"], "Expected epochs to be a whole number from 1 to 100,000, got 0."),
        (["--learning-rate", "2"], "Expected learning rate to be a number above 0 and at most 1, got 2.0."),
        (["--start-after", "25:70"], "Expected a time of day such as 22:30, got 25:70"),
        (["--targets", "3,3,3"], "Expected targets of at least 4 images"),
    ],
)
def test_invalid_training_settings_are_refused_with_a_sentence(
    folder: Path, options: list[str], expected: str, capsys: pytest.CaptureFixture[str], settings: Settings
) -> None:
    assert main(["train", str(folder), *options]) == 1
    assert expected in capsys.readouterr().err
    assert Queues(settings).runs() == []


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (["--size", "200"], "Expected size such as 200x100, got 200."),
        (["--seed", "one"], "Expected seeds such as 1,2,3, got one."),
        (["--targets", "3,3"], "Expected targets such as 3300,1100,360, got 3,3."),
        (["--baseline", "90,90"], "Expected baseline such as 90,90,80,80,2, got 90,90."),
        (["--baseline", "90,90,80,80,200"], "Expected test tolerance to be a number from 0 to 100 percent, got 200.0."),
        (["--factors", "half"], "Expected factors such as 50,33.33,16.5,8.25, got half."),
        (["--priority", "urgent"], "urgent"),
    ],
)
def test_invalid_options_are_refused_with_the_expectation(
    options: list[str], expected: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        main(["prune-train", "moles", *options])
    assert expected in capsys.readouterr().err


def test_a_missing_folder_is_reported_with_a_sentence(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert main(["train", str(tmp_path / "nowhere"), "--local"]) == 1
    assert "nowhere" in capsys.readouterr().err


def test_networks_and_seeds_are_submitted_together_and_scheduled(
    folder: Path, capsys: pytest.CaptureFixture[str], settings: Settings
) -> None:
    hour = datetime.now().astimezone() + timedelta(hours=2)
    arguments = ["train", str(folder), "--network", "lenet5,alexnet", "--seed", "1,2", "--preset", "laptop"]
    assert main([*arguments, "--start-after", f"{hour:%H:%M}", "--priority", "low"]) == 0
    run_ids = capsys.readouterr().out.split()
    assert len(run_ids) == 4
    states = {state.id: state for state in Queues(settings).runs()}
    assert set(states) == set(run_ids)
    assert len({state.study for state in states.values()}) == 1
    for state in states.values():
        assert (state.status, state.live.priority) == ("scheduled", "low")
        assert state.live.starts_at == hour.replace(second=0, microsecond=0)
    assert main(arguments) == 0
    captured = capsys.readouterr()
    assert captured.out.split() == run_ids
    assert captured.err.count("This run does the same on the same images") == 4
    assert Store(settings.database).runs() == []  # no record worker runs, so nothing is written


BERLIN = ZoneInfo("Europe/Berlin")  # clock changes in 2026: forward on 29 March at 02:00, back on 25 October at 03:00


@pytest.mark.parametrize(
    ("at", "now", "expected"),
    [
        ("22:30", "2026-10-24T23:00+02:00", "2026-10-25T22:30+01:00"),
        ("22:30", "2026-03-28T23:00+01:00", "2026-03-29T22:30+02:00"),
        ("08:00", "2026-03-29T01:59+01:00", "2026-03-29T08:00+02:00"),
        ("02:30", "2026-03-28T22:00+01:00", "2026-03-29T03:00+02:00"),  # 02:30 does not exist that night
        ("02:30", "2026-03-29T03:00+02:00", "2026-03-30T02:30+02:00"),
        ("02:30", "2026-10-25T01:00+02:00", "2026-10-25T02:30+02:00"),  # 02:30 exists twice: the first,
        ("02:30", "2026-10-25T02:30+02:00", "2026-10-25T02:30+01:00"),  # then the second
        ("02:30", "2026-10-25T02:30+01:00", "2026-10-26T02:30+01:00"),
        ("12:00", "2026-06-01T12:00+02:00", "2026-06-02T12:00+02:00"),
        ("12:01", "2026-06-01T10:00+00:00", "2026-06-01T12:01+02:00"),
    ],
)
@pytest.mark.parametrize("zone", [BERLIN, None])
def test_a_time_of_day_is_local_time_across_clock_changes(
    at: str, now: str, expected: str, zone: ZoneInfo | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TZ", "Europe/Berlin")
    time.tzset()
    try:
        moment = next_moment(parse_time(at), datetime.fromisoformat(now), zone)
    finally:
        monkeypatch.undo()
        time.tzset()
    assert moment.isoformat(timespec="minutes") == expected


def test_the_next_moment_is_in_the_readers_time_zone_and_within_a_day() -> None:
    tokyo, now = ZoneInfo("Asia/Tokyo"), datetime(2026, 11, 25, 22, 30, tzinfo=UTC)  # 07:30 there, the day after
    for hour, day in ((7, 27), (8, 26)):
        found = next_moment(parse_time(f"{hour}:00"), now, tokyo)
        assert (found.day, found.hour, found.utcoffset()) == (day, hour, timedelta(hours=9))
        assert now < found <= now + timedelta(days=1)
    assert next_time("22:31", now) > now
    with pytest.raises(SpecError, match="Expected a time of day such as 22:30, got noon"):
        next_time("noon")


def test_a_local_training_checks_the_start_time_and_waits_for_it(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["train", str(folder), "--local", "--start-after", "25:70"]) == 1
    assert "Expected a time of day such as 22:30, got 25:70" in capsys.readouterr().err
    await_start(None)
    await_start(datetime.now(UTC) + timedelta(milliseconds=20))
    assert capsys.readouterr().err.startswith("waiting until ")


@pytest.mark.parametrize("local", [True, False])
def test_a_data_set_without_validation_images_is_refused_before_training(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], settings: Settings, local: bool
) -> None:
    folder = write_lesions(tmp_path / "few", 2)
    for name in ("nevus", "negative"):
        shutil.rmtree(folder / name)
    rows = [f"L{place},{path.stem},{dx},histo,50,male,back" for place, dx in enumerate(("mel", "bcc"))
            for path in sorted(folder.glob(f"{'melanoma' if dx == 'mel' else 'non_melanoma'}/*"))]  # fmt: skip
    (folder / "HAM10000_metadata.csv").write_text(
        "\n".join(["lesion_id,image_id,dx,dx_type,age,sex,localization", *rows]) + "\n"
    )
    for command in ("train", "prune-train"):
        assert main([command, str(folder), "--size", "48x64", *(["--local"] if local else [])]) == 1
        said = capsys.readouterr()
        assert "no image is left for" in said.err
        assert "all images of a lesion belong to one set" in said.err
        assert said.out == ""
    assert Queues(settings).runs() == []
    if not local:
        assert main(["article", str(folder), "--networks", "lenet5", "--size", "48x64", "--k", "3"]) == 1
        assert "all images of a lesion belong to one set" in capsys.readouterr().err


def test_the_rows_of_a_training_run_and_of_a_study_can_be_exported(
    settings: Settings, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    store = Store(settings.database)
    runs = [record_training(store, "lenet5", [70.0, 68.0], rules=Rules(), study="grid-1", sets=True) for _ in range(2)]
    path = tmp_path / "rows.csv"
    assert main(["export", runs[0], "--output", str(path)]) == 0
    assert pd.read_csv(path)[["run_id", "step", "test_accuracy"]].values.tolist() == [
        [runs[0], 0, 70],
        [runs[0], 1, 68],
    ]
    assert main(["export", runs[0], "--output", str(path), "--table", "splits"]) == 0
    assert set(pd.read_csv(path)["split"]) == {"train", "validation", "test"}
    assert main(["export", "grid-1", "--output", str(tmp_path / "rows.parquet")]) == 0
    assert pd.read_parquet(tmp_path / "rows.parquet")["run_id"].tolist() == [runs[0], runs[0], runs[1], runs[1]]
    assert capsys.readouterr().out.splitlines()[0] == f"2 rows written to {path}"


def test_an_export_without_rows_fails_and_writes_nothing(
    settings: Settings, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    store = Store(settings.database)
    begun = record_training(store, "lenet5", [], ends=False)
    path = tmp_path / "rows.csv"
    for arguments, sentence in (
        ([begun], f"Expected rows to write, got none: {begun} has no steps yet."),
        ([begun, "--table", "epochs"], f"Expected rows to write, got none: {begun} has no epochs yet."),
        ([begun, "--table", "splits"], f"Expected rows to write, got none: {begun} has no splits yet."),
        ([begun, "--table", "images"], "Expected table steps or epochs or splits of a train run, got images."),
        (["grid-9"], "Expected a recorded run, got grid-9."),
    ):
        assert main(["export", *arguments, "--output", str(path)]) == 1
        assert capsys.readouterr().err.strip() == sentence
    assert main(["export", begun, "--output", str(tmp_path / "rows.txt")]) == 1
    assert "ends in .csv or .parquet" in capsys.readouterr().err
    assert not path.exists()


def test_a_training_whose_export_cannot_be_written_is_not_started(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], settings: Settings
) -> None:
    for local in ([], ["--local"]):
        assert main(["train", str(folder), *local, "--export", str(tmp_path / "steps.json")]) == 1
        assert "ends in .csv or .parquet" in capsys.readouterr().err
    assert Queues(settings).runs() == []


def test_two_runs_are_compared_over_the_seeds_that_both_were_trained_with(
    settings: Settings, capsys: pytest.CaptureFixture[str]
) -> None:
    store = Store(settings.database)
    first = [record_training(store, "lenet5", (accuracy,), seed=seed, images=10)
             for seed, accuracy in ((1, 70.0), (2, 80.0), (5, 20.0))]  # fmt: skip
    second = [record_training(store, "alexnet", (accuracy,), seed=seed, images=10)
              for seed, accuracy in ((2, 30.0), (1, 60.0))]  # fmt: skip
    record_training(store, "lenet5", (10.0,), seed=1, images=10, training=TrainingProtocol(epochs=4))
    assert main(["compare", first[0], second[1], "--over-seeds"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[-3].startswith(f"seed 1, {first[0]}:0 against {second[1]}:0: difference +10.00 points")
    assert lines[-2].startswith(f"seed 2, {first[1]}:0 against {second[0]}:0: difference +50.00 points")
    assert lines[-1] == "Over the seeds: mean difference +30.00 ± 28.28 points, n = 2."
    assert main(["compare", first[2], second[0], "--over-seeds"]) == 0  # of the settings, not of these two seeds
    assert capsys.readouterr().out.splitlines()[-1] == lines[-1]


def test_runs_without_a_common_seed_have_no_difference_over_seeds(
    settings: Settings, capsys: pytest.CaptureFixture[str]
) -> None:
    store = Store(settings.database)
    runs = [record_training(store, "lenet5", (70.0,), seed=1, images=5),
            record_training(store, "alexnet", (70.0,), seed=2, images=5)]  # fmt: skip
    assert main(["compare", *runs, "--over-seeds"]) == 1
    assert "common seed" in capsys.readouterr().err
