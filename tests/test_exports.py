"""Tables as files: format by suffix, exact values, and no cell that a spreadsheet would execute."""

from __future__ import annotations

import csv
import io
import os
from pathlib import Path

import pandas as pd
import pytest

from core.article import claims
from core.article.printed import claims as printed_claims
from core.errors import SpecError
from core.files.exports import TABLES, cell, check_writable, to_csv, write_rows, write_table
from dashboard.data import table_file

RUN_BY_SPREADSHEETS = ("=1+1", "+1", "-1+2", "@SUM(A1)", "\t=1", "\r=1", "＝1", "'=1", "''@a")


@pytest.mark.parametrize("text", RUN_BY_SPREADSHEETS)
def test_a_text_that_a_spreadsheet_would_execute_gets_one_apostrophe(text: str) -> None:
    assert cell(text) == f"'{text}"
    frame = pd.DataFrame({"image_id": [text], "psnr": [-1.5]})
    row = next(csv.DictReader(io.StringIO(to_csv(frame), newline="")))
    assert row == {"image_id": f"'{text}", "psnr": "-1.5"}


@pytest.mark.parametrize("value", ["ISIC_0024306", "a=1", "'plain", "", "1-2", " =1", -1, -0.5, None, True])
def test_every_other_cell_is_unchanged(value: object) -> None:
    assert cell(value) is value


def test_every_function_writes_the_same_file_for_a_frame(tmp_path: Path) -> None:
    frame = pd.DataFrame(
        {"image_id": ["=a", None, "b"], "k": pd.array([1, None, 3], dtype="Int64"), "ssim": [0.5, None, 1.0]}
    )
    expected = "image_id,k,ssim\n'=a,1,0.5\n,,\nb,3,1.0\n"
    assert to_csv(frame) == expected
    assert table_file(frame, "csv").decode() == expected
    write_table(frame, tmp_path / "rows.CSV")
    assert (tmp_path / "rows.CSV").read_text() == expected
    write_table(frame, tmp_path / "rows.parquet")
    assert (tmp_path / "rows.parquet").read_bytes() == table_file(frame, "parquet")
    assert pd.read_parquet(tmp_path / "rows.parquet")["image_id"].tolist()[0] == "=a"


def test_rows_are_written_in_the_format_of_the_suffix(tmp_path: Path) -> None:
    rows = [("-name", 1, None), ("b", 2, 0.5)]
    write_rows(tmp_path / "rows.csv", ("name", "step", "accuracy"), rows)
    assert (tmp_path / "rows.csv").read_text().splitlines() == ["name,step,accuracy", "'-name,1,", "b,2,0.5"]
    write_rows(tmp_path / "rows.parquet", ("name", "step", "accuracy"), rows)
    assert pd.read_parquet(tmp_path / "rows.parquet")["name"].tolist() == ["-name", "b"]


def test_formulas_in_claims_are_quoted() -> None:
    table = printed_claims().assign(measured="=1+1")
    assert "'=1+1" in claims.to_csv(table)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("rows.json", r"Expected a file name that ends in .csv or .parquet, got rows.json"),
        ("rows", "Expected a file name that ends in"),
        ("nowhere/rows.csv", "Expected a folder that exists for rows.csv, got .* does not exist"),
        ("folder.csv", "Expected a file that can be written, got .*folder.csv, which cannot"),
        ("pipe.csv", "Expected a file that can be written, got .*pipe.csv, which cannot"),
        ("x" * 300 + ".csv", "File name too long"),
    ],
)
def test_an_output_file_that_cannot_be_written_is_refused_in_advance(tmp_path: Path, name: str, message: str) -> None:
    (tmp_path / "folder.csv").mkdir()
    os.mkfifo(tmp_path / "pipe.csv")
    with pytest.raises(SpecError, match=message):
        check_writable(tmp_path / name, TABLES)
    check_writable(tmp_path / "rows.csv")
    check_writable(None)
