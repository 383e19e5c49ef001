"""The command `curves` as a user types it: its tables, its messages and its imports."""

from __future__ import annotations

import sys
from pathlib import Path

import pandas as pd
import pytest
from laboratory import ROOT

from benchmarks.processes import run_command
from core.networks.architectures import ALEXNET, CUSTOM1, NETWORKS
from core.networks.costs import CURVE_COLUMNS, curve_table, network_cost
from core.networks.fits import FIT_COLUMNS, fit_curves, fit_table
from core.networks.network_files import EXAMPLE_YAML
from core.networks.pruning import SCOPES, prune
from jobs.__main__ import main as command


def main(words: list[str]) -> int:
    return command(["curves", *words])


@pytest.fixture(autouse=True)
def networks_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("DATA_DIR", str(tmp_path))
    folder = tmp_path / "networks"
    folder.mkdir()
    return folder


def test_the_exported_curves_have_the_documented_columns_and_every_iteration(tmp_path: Path) -> None:
    path = tmp_path / "curves.csv"
    options = ["--size", "200x100", "--factors", "50,33.33", "--scopes", "all,first", "--iterations", "6"]
    assert main(["alexnet", *options, "--export", str(path)]) == 0
    assert path.read_text().splitlines()[:2] == [
        "network,factor,scope,iteration,parameters,macs,bytes_weights,bytes_with_optimizer",
        "alexnet,50,all,0,19186227,1105197146,76744908,230234724",
    ]
    expected = curve_table([ALEXNET], [50, "33.33"], ["all", "first"], 6, 200, 100)
    pd.testing.assert_frame_equal(pd.read_csv(path), expected, check_dtype=False)


def test_the_curves_of_networks_with_batch_normalisation_count_it(tmp_path: Path) -> None:
    path = tmp_path / "curves.csv"
    assert main(["alexnet", "--batch-norm", "dense", "--iterations", "2", "--export", str(path)]) == 0
    table = pd.read_csv(path)
    assert set(table["network"]) == {"alexnet+bn"}
    units = 1024 + 1024 + 512
    assert table["parameters"][0] == network_cost(ALEXNET, 200, 100).parameters + 2 * units


def test_the_exported_fits_have_the_documented_columns(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    curves, fits = tmp_path / "curves.csv", tmp_path / "fits.csv"
    assert main(["all", "--scopes", ",".join(SCOPES), "--export", str(curves), "--fits", str(fits)]) == 0
    frame = pd.read_csv(fits, keep_default_na=False, na_values={name: [""] for name in ("r2", "adjusted_r2", "aicc")})
    assert fits.read_text().startswith("network,factor,scope,model,r2,adjusted_r2,aicc,best\nlenet5,50,all,linear,0.")
    assert tuple(frame.columns) == FIT_COLUMNS
    table = fit_table(fit_curves(curve_table(NETWORKS.values(), [50, 33.33], SCOPES, 5, 200, 100)))
    pd.testing.assert_frame_equal(frame, table, check_dtype=False)
    assert "It holds here for 8 of 8 curves." in capsys.readouterr().out


def test_undefined_figures_are_empty_cells(tmp_path: Path) -> None:
    path = tmp_path / "fits.csv"
    assert main(["lenet5", "--factors", "50", "--iterations", "1", "--fits", str(path)]) == 0
    assert path.read_text().splitlines()[-1] == "lenet5,50,all,polynomial,,,,"


def test_without_a_file_the_table_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["alexnet,lenet5", "--factors", "50", "--iterations", "1"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == ["network", "alexnet", "alexnet", "lenet5", "lenet5"]
    assert " ".join(lines[1].split()) == "alexnet 50 % all 0 19,186,227 1,105,197,146 76,744,908 230,234,724"
    assert len({len(line) for line in lines}) == 1


def test_factors_are_exact_decimals(tmp_path: Path) -> None:
    path = tmp_path / "curves.csv"
    assert main(["custom1", "--factors", "90", "--iterations", "3", "--export", str(path)]) == 0
    spec = CUSTOM1
    for parameters in pd.read_csv(path)["parameters"]:
        assert parameters == network_cost(spec, 200, 100).parameters
        spec = prune(spec, "90")


def test_a_users_network_is_counted_and_an_invalid_one_is_reported_with_its_line(
    networks_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (networks_folder / "small.yaml").write_text(EXAMPLE_YAML)
    (networks_folder / "broken.yaml").write_text(EXAMPLE_YAML.replace("filters: 16", "filters: 0"))
    assert main(["small", "--iterations", "0"]) == 0
    assert capsys.readouterr().out.splitlines()[1].startswith("small")
    assert main(["broken"]) == 1
    assert capsys.readouterr().err.startswith("broken.yaml, line 6: image, layer 1: Expected the filters")


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["lenet5", "--factors", "1e-999999999"], "Expected factors in percent"),
        (["lenet5", "--factors", "1e999999999"], "Expected factors in percent"),
        (["lenet5", "--iterations", "9" * 5000], "Expected 0 to 50 iterations"),
        (["lenet5", "--size", "9" * 5000 + "x9"], "Expected a size in rows x columns"),
        (
            ["lenet5", "--size", "10001x100"],
            "Expected the height of lenet5's input to be a whole number from 1 to 10,000, got 10001",
        ),
        (["lenet5", "--export", "curves.txt"], "Expected a file name that ends in .csv or .parquet"),
        (["lenet5", "--fits", "nowhere/fits.csv"], "Expected a folder that exists"),
        (["nope"], "Expected networks among lenet5, alexnet, custom1, custom2, or all, got nope"),
        ([","], "Expected at least one value of networks, got none"),
        (["alexnet", "--factors", "50,x"], "Expected factors in percent such as 50,33.33, got 50,x"),
        (["alexnet", "--factors", "nan"], "Expected factors in percent such as 50,33.33, got nan"),
        (["alexnet", "--factors=-5"], "Expected a pruning factor above 0 and below 100 percent, got -5"),
        (["alexnet", "--factors", "100"], "Expected a pruning factor above 0 and below 100 percent, got 100"),
        (["alexnet", "--scopes", "some"], "Expected a scope of all, first, first_two, first_three, got 'some'"),
        (["alexnet", "--size", "200"], "Expected a size in rows x columns such as 200x100, got 200"),
        (
            ["alexnet", "--size", "0x5"],
            "Expected the height of alexnet's input to be a whole number from 1 to 10,000, got 0",
        ),
        (["alexnet", "--size", "10x10"], "10×10, which leaves nothing at image_max_pool2"),
        (["alexnet", "--iterations", "six"], "Expected 0 to 50 iterations, got six"),
        (["alexnet", "--iterations=-1"], "Expected 0 to 50 iterations, got -1"),
        (["alexnet", "--export", "/nowhere/curves.csv"], "Expected a folder that exists for curves.csv, got /nowhere"),
    ],
)
def test_invalid_arguments_give_one_sentence_and_exit_code_1(
    arguments: list[str], sentence: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments) == 1
    shown = capsys.readouterr()
    assert sentence in shown.err
    assert shown.err.count("\n") == 1
    assert shown.out == ""


def test_the_command_imports_no_heavy_package(tmp_path: Path) -> None:
    code = (
        "import runpy, sys; sys.argv = ['jobs', 'curves', 'alexnet'];\n"
        "try: runpy.run_module('jobs', run_name='__main__')\n"
        "except SystemExit as end: print(end.code)\n"
        "heavy = ('tensorflow', 'keras', 'numpy', 'scipy', 'pandas', 'cv2', 'rq', 'redis', 'duckdb')\n"
        "print([name for name in heavy if name in sys.modules])"
    )
    done = run_command([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-2:] == ["0", "[]"]
    assert CURVE_COLUMNS[-1] in done.stdout


def test_the_help_of_jobs_and_of_curves_names_the_command() -> None:
    for words in (["--help"], ["curves", "--help"]):
        done = run_command([sys.executable, "-m", "jobs", *words], cwd=ROOT, capture_output=True, text=True)
        assert done.returncode == 0
        assert "curves" in done.stdout
