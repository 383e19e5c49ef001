"""The command line as a user types it: exit codes, messages and exported rows."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import pytest
from laboratory import ROOT, wait_for, workers, write_images, write_lesions

from benchmarks.processes import run_command
from core.compression.image_results import METRIC_COLUMNS, SIZE_COLUMNS
from core.compression.specs import MeasuringSpec, ReconstructSpec, ResizeSpec, RivalsSpec, SweepSpec
from core.data.datasets import load_dataset
from core.settings import Settings
from jobs.__main__ import build_parser, main
from jobs.cli.measuring import spec_of
from jobs.cli.options import command_line


@pytest.fixture(autouse=True)
def here(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DATA_DIR", str(settings.data_dir))
    monkeypatch.setenv("REDIS_URL", str(settings.redis_url))


def test_a_local_sweep_exports_one_row_per_image_and_k_with_the_documented_columns(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = write_images(tmp_path / "moles", 3)
    rows = tmp_path / "rows.csv"
    command = ["svd-sweep", str(folder), "--k", "3,10", "--codec", "jpeg", "--quality", "95", "--mode", "unfolded"]
    assert main([*command, "--local", "--workers", "1", "--export", str(rows)]) == 0
    frame = pd.read_csv(rows)
    assert list(frame.columns)[: 2 + len(METRIC_COLUMNS) + 4] == ["image_id", "k", *METRIC_COLUMNS, *SIZE_COLUMNS]
    assert frame[["image_id", "k"]].values.tolist() == [[f"mole{n:03}", k] for n in range(3) for k in (3, 10)]
    assert (frame["factor_bytes"] == 2 * frame["k"] * (40 + 3 * 56 + 1)).all()
    assert "plateau: " in capsys.readouterr().out


def test_local_runs_need_no_server_and_more_processes_give_the_same_rows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("REDIS_URL", "redis://127.0.0.1:1/0")
    folder = write_images(tmp_path / "moles", 5)
    for count in (1, 2):
        arguments = ["svd-sweep", str(folder), "--k", "4", "--limit", "4", "--local", "--workers", str(count)]
        assert main([*arguments, "--export", str(tmp_path / f"{count}.csv")]) == 0
    assert (tmp_path / "1.csv").read_bytes() == (tmp_path / "2.csv").read_bytes()
    assert len(pd.read_csv(tmp_path / "1.csv")) == 4


@pytest.mark.parametrize(("height", "width", "undefined"), [(48, 64, ["psnr"]), (5, 40, ["psnr", "ssim"])])
def test_metrics_that_no_image_defines_are_left_out_of_the_printed_table(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], height: int, width: int, undefined: list[str]
) -> None:
    folder = write_images(tmp_path / "moles", 2, height=height, width=width)  # full rank and PNG, so nothing changes
    common, rows = ["--local", "--workers", "1"], tmp_path / "rows.csv"
    png = ["--k", str(height), "--codec", "png", *common]
    assert main(["svd-sweep", str(folder), *png, "--export", str(rows)]) == 0
    assert pd.read_csv(rows)[undefined].isna().all(axis=None)
    assert "None of the" in capsys.readouterr().out
    assert main(["rivals", str(folder), "--rivals", "png", *common]) == 0
    assert main(["resize-study", str(folder), "--sizes", f"{height}x{width}", *png]) == 0
    output = tmp_path / "whole"
    assert main(["reconstruct", str(folder), *png, "--output", str(output)]) == 0
    printed = capsys.readouterr().out
    assert f"written to {output}" in printed
    assert [name for name in ("psnr", "ssim") if name not in printed] == undefined
    assert len(load_dataset(output).records) == 2


def test_the_suffix_sets_the_export_format_and_an_unknown_suffix_is_refused_before_measuring(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = write_images(tmp_path / "moles", 2)
    command = ["svd-sweep", str(folder), "--k", "3,10", "--local", "--workers", "1", "--export"]
    for name in ("rows.csv", "rows.parquet"):
        assert main([*command, str(tmp_path / name)]) == 0
    text, exact = pd.read_csv(tmp_path / "rows.csv"), pd.read_parquet(tmp_path / "rows.parquet")
    assert list(exact.columns) == list(text.columns)
    pd.testing.assert_frame_equal(exact[["image_id", "k", "psnr"]], text[["image_id", "k", "psnr"]], check_dtype=False)
    assert {str(exact[name].dtype) for name in METRIC_COLUMNS} == {"float64"}
    capsys.readouterr()
    for name in ("rows.xlsx", "rows", "nowhere/rows.csv"):
        assert main([*command, str(tmp_path / name)]) == 1
        said = capsys.readouterr()
        assert "Expected a f" in said.err
        assert said.out == ""
        assert not (tmp_path / name).exists()


def test_an_id_that_a_spreadsheet_would_execute_is_quoted_in_csv_and_unchanged_in_parquet(tmp_path: Path) -> None:
    folder = write_images(tmp_path / "moles", 1)
    (folder / "mole000.jpg").rename(folder / "=1+1.jpg")
    for name, read in (("rows.csv", pd.read_csv), ("rows.parquet", pd.read_parquet)):
        command = ["svd-sweep", str(folder), "--k", "3", "--local", "--workers", "1", "--export", str(tmp_path / name)]
        assert main(command) == 0
        assert read(tmp_path / name)["image_id"].tolist() == ["'=1+1" if name == "rows.csv" else "=1+1"]


@pytest.mark.parametrize("value", ["-1", "4294967296", str(10**30)])
def test_a_seed_of_more_than_32_bits_is_refused_by_every_command(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], value: str
) -> None:
    measured = write_images(tmp_path / "moles", 2)
    trained = write_lesions(tmp_path / "lesions", 4)
    for command, folder in (
        ("svd-sweep", measured),
        ("rivals", measured),
        ("train", trained),
        ("prune-train", trained),
    ):
        assert main([command, str(folder), f"--seed={value}", "--local"]) == 1
        assert "seed" in capsys.readouterr().err
    assert main(["train", str(trained), f"--split-seed={value}", "--local"]) == 1
    assert "split seed" in capsys.readouterr().err


@pytest.mark.parametrize("value", ["-1", "0", str(10**30)])
def test_numbers_out_of_range_are_refused_with_a_sentence(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], value: str
) -> None:
    measured = write_images(tmp_path / "moles", 2)
    trained = write_lesions(tmp_path / "lesions", 4)
    asked = [["svd-sweep", str(measured), f"--{name}={value}"] for name in ("k", "limit", "workers")]
    asked += [["resize-study", str(measured), "--k=3", f"--sizes={value}x{value}"]]
    asked += [["train", str(trained), f"--{name}={value}"] for name in ("epochs", "batch-size")]
    asked += [["train", str(trained), f"--size={value}x{value}"], ["train", str(trained), f"--targets={value},9,9"]]
    asked += [["prune-train", str(trained), f"--{name}={value}"] for name in ("max-failures", "max-iterations")]
    for arguments in asked:
        try:
            code = main([*arguments, "--local"])
        except SystemExit as exit_:  # argparse refused the value
            code = exit_.code
        assert code in (1, 2), arguments
        said = capsys.readouterr().err
        assert "xpected" in said, arguments


@pytest.mark.parametrize("value", ["nan", "inf", "-inf", "1e400"])
def test_floats_that_are_not_finite_are_refused_with_a_sentence(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], value: str
) -> None:
    measured = write_images(tmp_path / "moles", 2)
    trained = write_lesions(tmp_path / "lesions", 4)
    assert main(["svd-sweep", str(measured), "--k=3", f"--radial-cutoff={value}", "--local"]) == 1
    for name in ("learning-rate", "rotation", "zoom", "brightness"):
        assert main(["train", str(trained), f"--{name}={value}", "--local"]) == 1
    assert main(["prune-train", str(trained), f"--factors={value}", "--local"]) == 1
    assert capsys.readouterr().err.lower().count("expected") == 6
    for arguments in (["prune", f"--days={value}"], ["delete", "--older-than=" + "9" * 400 + "w"]):
        with pytest.raises(SystemExit):
            main(arguments)
    assert "Expected 0 to 100,000 days" in capsys.readouterr().err


def test_unreadable_files_are_named_and_the_exit_code_is_1(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = write_images(tmp_path / "moles", 2)
    whole = (folder / "mole000.jpg").read_bytes()
    (folder / "mole009.jpg").write_bytes(whole[: len(whole) // 2])
    rows = tmp_path / "rows.csv"
    assert main(["svd-sweep", str(folder), "--k", "3", "--local", "--workers", "1", "--export", str(rows)]) == 1
    assert "mole009.jpg" in capsys.readouterr().err
    assert pd.read_csv(rows)["image_id"].tolist() == ["mole000", "mole001"]


def test_masks_tables_and_rows_without_a_file_are_named_and_the_exit_code_is_0(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = write_images(tmp_path / "moles", 2)
    mask = np.zeros((40, 56), np.uint8)
    mask[10:30, 10:30] = 255
    (folder / "GroundTruth").mkdir()
    (folder / "GroundTruth" / "mole000.png").write_bytes(cv2.imencode(".png", mask)[1].tobytes())
    rows = ("image_id,dx", "mole000,nv", "mole001,mel", f"{'x' * 300},nv")
    (folder / "HAM10000_metadata.csv").write_text("\n".join(rows))
    (folder / "other.csv").write_text("a,b\n1,2\n")
    exported = tmp_path / "rows.csv"
    assert main(["svd-sweep", str(folder), "--k", "3", "--local", "--workers", "1", "--export", str(exported)]) == 0
    named = capsys.readouterr().err
    for each in ("GroundTruth/mole000.png", "x" * 300, "other.csv", "lesion, age, sex or localisation"):
        assert f"left out: {each}" in named or each in named
    assert pd.read_csv(exported)["source_bytes"].tolist() == [
        (folder / f"mole{number:03}.jpg").stat().st_size for number in range(2)
    ]


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--k", "0"], "Expected k to be whole numbers of at least 1, got 0."),
        (["--k", "-5"], "got -5"),
        (["--k", "3,3"], "Expected each of ks once"),
        (["--k", "41"], "Expected k of at most 40, the rank"),
        (["--quality", "101"], "Expected quality to be a whole number from 0 to 100, got 101."),
        (["--limit", "9"], "9"),
        (["--workers", "0"], "Expected 1 to 1024 workers"),
    ],
)
def test_invalid_settings_are_refused_with_one_sentence(
    arguments: list[str], sentence: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = write_images(tmp_path / "moles", 2)
    standard = [] if "--k" in arguments else ["--k", "3"]
    joined = [f"{name}={value}" for name, value in zip(arguments[::2], arguments[1::2], strict=True)]
    assert main(["svd-sweep", str(folder), "--local", *standard, *joined]) == 1
    error = capsys.readouterr().err
    assert sentence in error
    assert "Traceback" not in error


def test_empty_missing_and_forbidden_folders_are_refused_with_a_sentence(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "empty").mkdir()
    assert main(["svd-sweep", str(tmp_path / "empty"), "--local"]) == 1
    assert "expected" in capsys.readouterr().err.lower()
    assert main(["svd-sweep", str(tmp_path / "missing"), "--local"]) == 1
    assert "missing" in capsys.readouterr().err
    monkeypatch.setenv("DATA_ROOTS", str(tmp_path / "empty"))
    folder = write_images(tmp_path / "moles", 1)
    assert main(["svd-sweep", str(folder), "--k", "3", "--local"]) == 1
    assert "moles" in capsys.readouterr().err


def test_a_local_reconstruction_is_a_folder_that_loads_as_a_data_set(tmp_path: Path) -> None:
    folder = write_images(tmp_path / "moles", 2)
    output = tmp_path / "smaller"
    command = ["reconstruct", str(folder), "--k", "5", "--local", "--workers", "1", "--output", str(output)]
    assert main(command) == 0
    assert [record.image_id for record in load_dataset(output).records] == ["mole000", "mole001"]
    assert main(command) == 1  # the folder has files now


def test_submitting_prints_the_run_id_that_status_export_cancel_and_retry_take(
    settings: Settings, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = write_images(tmp_path / "moles", 3)
    with workers(settings, "record", "svd"):
        assert main(["svd-sweep", str(folder), "--k", "3,10"]) == 0
        run_id = capsys.readouterr().out.strip()
        assert main(["svd-sweep", str(folder), "--k", "3,10", "--wait"]) == 0
        assert capsys.readouterr().out.strip() == run_id
        wait_for(lambda: main(["status"]) == 0 and "finished" in capsys.readouterr().out, 60)
        assert main(["status"]) == 0
        assert capsys.readouterr().out == f"{run_id}\tsvd-sweep\tmoles\tfinished\t3/3\n"
        local, exported = tmp_path / "local.csv", tmp_path / "exported.csv"
        assert main(["export", run_id, "--output", str(exported)]) == 0
        assert main(["svd-sweep", "moles", "--k", "3,10", "--local", "--workers", "1", "--export", str(local)]) == 0
        pd.testing.assert_frame_equal(pd.read_csv(exported), pd.read_csv(local))
        assert main(["export", run_id, "--output", str(tmp_path / "rows.parquet")]) == 0
        assert len(pd.read_parquet(tmp_path / "rows.parquet")) == 6
        capsys.readouterr()
        assert main(["cancel", run_id]) == 1
        assert main(["retry", run_id]) == 1
        assert main(["export", "nothing"]) == 1
        errors = capsys.readouterr().err.splitlines()
        assert [error.partition(f" {run_id}")[0] for error in errors] == [
            "Expected a run that is queued or running, got",
            "Expected a run with images left to measure, got",
            "Expected a recorded run, got nothing.",
        ]
        assert main(["register", str(write_images(tmp_path / "more", 1, seed=9)), "--name", "other"]) == 0
        wait_for(lambda: main(["register", "other"]) == 0, 60)
        assert main(["register", str(folder), "--name", "other"]) == 1


@pytest.mark.parametrize(
    "spec",
    [
        SweepSpec(dataset="my moles", ks=(3, 10), mode="unfolded", codec="webp", quality=80, sample_size=7, seed=3),
        RivalsSpec(dataset="d", rivals=(("jpeg", 75), ("png", None))),
        ResizeSpec(dataset="d", sizes=((10, 20), (30, 30)), k=3),
        ReconstructSpec(dataset="d", name="e", k=3, codec="png"),
    ],
    ids=lambda spec: spec.kind,
)
def test_the_command_that_a_run_records_describes_the_same_run(spec: MeasuringSpec) -> None:
    import shlex

    words = shlex.split(command_line(spec))
    assert words[:3] == ["python", "-m", "jobs"]
    options = build_parser().parse_args(words[3:])
    assert spec_of(options, options.folder) == spec


def test_the_help_lists_every_command(capsys: pytest.CaptureFixture[str]) -> None:
    shown = run_command([sys.executable, "-m", "jobs", "--help"], cwd=ROOT, capture_output=True, text=True, check=True)
    for command in ("svd-sweep", "reconstruct", "resize-study", "rivals", "status", "cancel", "retry", "export"):
        assert command in shown.stdout
        with pytest.raises(SystemExit) as ended:
            main([command, "--help"])
        assert ended.value.code == 0
        assert f"usage: python -m jobs {command}" in capsys.readouterr().out


def test_an_unreachable_server_is_reported_with_a_sentence(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("REDIS_URL", "redis://127.0.0.1:1/0")
    assert main(["svd-sweep", str(write_images(tmp_path / "moles", 1)), "--k", "3"]) == 1
    assert "Expected the Redis server to answer" in capsys.readouterr().err


def test_an_image_of_one_pixel_is_measured_and_a_k_above_its_rank_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = write_images(tmp_path / "moles", 1)
    cv2.imwrite(str(folder / "dot.png"), np.full((1, 1, 3), 9, np.uint8))
    rows = tmp_path / "rows.csv"
    assert main(["svd-sweep", str(folder), "--k", "1,3", "--local", "--workers", "1", "--export", str(rows)]) == 1
    frame = pd.read_csv(rows).set_index(["image_id", "k"])
    assert frame.loc[("dot", 3), "reason"] == "Expected k of at most 1, the rank of this 1×1 image, got 3."
    assert frame.loc[("dot", 1), "mse"] == 0
    assert "1 rows not measured" in capsys.readouterr().err


def test_a_local_sweep_with_several_processes_prints_the_same_as_with_one(tmp_path: Path) -> None:
    folder = write_images(tmp_path / "moles", 2)
    command = [sys.executable, "-m", "jobs", "svd-sweep", str(folder), "--k", "4", "--local", "--workers"]
    environment = {**os.environ, "DATA_DIR": str(tmp_path / "data"), "DATA_ROOTS": str(tmp_path)}
    said = [
        run_command([*command, count], cwd=ROOT, env=environment, capture_output=True, text=True, timeout=240).stderr
        for count in ("1", "2")
    ]
    assert said[1] == said[0]
