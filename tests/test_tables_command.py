"""The commands `tables` and `claims` with a real store: the same rows as on the pages, in every format."""

from __future__ import annotations

import io
import re
import shutil
from pathlib import Path

import pandas as pd
import pytest
from recorded import record_training

from benchmarks.processes import run_command
from core.article.claims import claims_table
from core.article.evidence import basis, grounds, known, offers, select, trainings
from core.article.table_formats import to_csv, to_latex, to_markdown
from core.article.tables import article_table
from core.store.measurements import Store
from core.training.specs import Rules
from jobs.__main__ import main


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Give a data folder with trainings on real and on synthetic images, and a pruning run."""
    found = tmp_path_factory.mktemp("tables")
    store = Store(found / "dermslim.duckdb")
    for seed, accuracy in ((1, 70.0), (2, 72.0)):
        record_training(store, "lenet5", [accuracy], seed=seed, sets=True)
        record_training(store, "lenet5", [accuracy - 1], dataset="smaller", source="ham", seed=seed, sets=True)
    record_training(store, "lenet5", [73.0, 70.0, 72.0], seed=3, rules=Rules(factors=(50, 33.33)))
    record_training(store, "lenet5", [90.0], dataset="a_demo & 100%", synthetic=True, images=10)
    return found


@pytest.fixture(autouse=True)
def data_dir(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DATA_DIR", str(folder))


def test_a_table_of_the_command_equals_that_of_the_page(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    steps = select(trainings(Store(folder / "dermslim.duckdb")), 5).steps
    for kind, write in (("csv", to_csv), ("markdown", to_markdown), ("latex", to_latex)):
        assert main(["tables", "--number", "5", "--format", kind]) == 0
        printed = capsys.readouterr()
        assert printed.out == write(article_table(5, steps))
        assert "table5: left out: 1 training on other data: a_demo & 100%." in printed.err


def test_the_command_writes_a_file_for_every_table(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["tables", "--format", "csv", "--output", str(tmp_path / "made")]) == 0
    assert sorted(path.name for path in (tmp_path / "made").iterdir()) == [
        "further.csv", "table4.csv", "table5.csv", "table6.csv", "ways.csv",
    ]  # fmt: skip
    rows = pd.read_csv(tmp_path / "made" / "table5.csv").query("runs > 0")
    assert rows["test_accuracy"].tolist() == pytest.approx([(70 + 72 + 73) / 3, 70])
    assert rows["synthetic"].astype(str).tolist() == ["False", "False"]
    assert capsys.readouterr().out.count("written to") == 5


def test_a_data_set_and_single_runs_can_be_chosen(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["tables", "--number", "5", "--dataset", "a_demo & 100%", "--format", "csv"]) == 0
    demo = pd.read_csv(io.StringIO(capsys.readouterr().out)).query("runs > 0")
    assert demo["test_accuracy"].tolist() == [90]
    run_id = demo["run_ids"].iloc[0]
    assert main(["tables", "--number", "4", "--runs", run_id, "--format", "csv"]) == 0
    assert pd.read_csv(io.StringIO(capsys.readouterr().out)).query("runs > 0")["run_ids"].tolist() == [run_id]


def test_intervals_are_added_where_asked(capsys: pytest.CaptureFixture[str]) -> None:
    command = ["tables", "--number", "5", "--dataset", "a_demo & 100%"]
    assert main([*command, "--intervals", "--format", "csv"]) == 0
    row = pd.read_csv(io.StringIO(capsys.readouterr().out)).query("runs > 0").iloc[0]
    assert 0 < row["test_accuracy_low"] < row["test_accuracy"] == 90 < row["test_accuracy_high"] < 100
    limits = f"[{row['test_accuracy_low']:.1f}, {row['test_accuracy_high']:.1f}]"
    assert main([*command, "--intervals", "--format", "latex"]) == 0
    assert f"90.00 {limits} & 72.22" in capsys.readouterr().out
    assert main(command) == 0
    assert limits not in capsys.readouterr().out


def test_unknown_runs_and_data_sets_give_a_sentence(capsys: pytest.CaptureFixture[str]) -> None:
    for arguments, text in (
        (["tables", "--runs", "train-0"], "Expected runs with a finished training"),
        (["tables", "--dataset", "nowhere"], "Expected a data set with finished trainings (ham,"),
        (["claims", "--sweep", "svd-sweep-0"], "Expected a finished sweep, got svd-sweep-0"),
    ):
        assert main(arguments) == 1
        printed = capsys.readouterr()
        assert printed.err.startswith(text)
        assert printed.out == ""


def test_the_claims_of_the_command_equal_those_of_the_page(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    store = Store(folder / "dermslim.duckdb")
    trained = trainings(store)
    offered = offers(store, trained)
    chosen = grounds(offered)
    expected = claims_table(known(store, trained, offered, chosen))
    assert main(["claims", "--format", "csv"]) == 0
    printed = pd.read_csv(io.StringIO(capsys.readouterr().out), keep_default_na=False)
    pd.testing.assert_frame_equal(printed, expected, check_dtype=False)
    path = tmp_path / "claims.md"
    assert main(["claims", "--output", str(path)]) == 0
    text = path.read_text()
    assert all(sentence in text for sentence in basis(offered, chosen))
    rows = [line for line in text.splitlines() if re.match(r"\| C\d", line)]
    assert len(rows) == len(expected)
    assert {len(re.findall(r"(?<!\\)\|", row)) for row in rows} == {10}
    assert capsys.readouterr().out == f"23 claims written to {path}\n"


def test_the_help_describes_the_default_choice(capsys: pytest.CaptureFixture[str]) -> None:
    for command, words in (("tables", "count once, the newest"), ("claims", "real images come before synthetic")):
        with pytest.raises(SystemExit):
            main([command, "--help"])
        assert words in capsys.readouterr().out


def test_latex_has_every_environment_closed_and_compiles(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    runs = ",".join(trainings(Store(folder / "dermslim.duckdb"))["run_id"].unique())
    assert main(["tables", "--format", "latex", "--runs", runs]) == 0
    tables = capsys.readouterr().out
    for environment in ("table*", "tabular"):
        assert tables.count(rf"\begin{{{environment}}}") == tables.count(rf"\end{{{environment}}}") == 5
    assert r"a\_demo \& 100\%" in tables
    compiler = shutil.which("pdflatex")
    if compiler is None:
        return
    document = r"\documentclass{article}\usepackage{booktabs,graphicx}\begin{document}" + tables + r"\end{document}"
    (tmp_path / "tables.tex").write_text(document)
    command = [compiler, "-interaction=nonstopmode", "-halt-on-error", "tables.tex"]
    done = run_command(command, cwd=tmp_path, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stdout[-2000:]
