"""The article's printed values, compared with its tables, if available, and with each other."""

import os
from pathlib import Path

import pandas as pd
import pytest

from core.article.printed import CLAIM_COLUMNS, TABLE_METRICS, claims
from core.article.printed import table as printed_table
from core.networks.architectures import NETWORKS

# The article's tables, which are not part of DermSlim.
FOLDER = Path(os.environ.get("DERMSLIM_REAL_DATA", "../shared/data")).parent / "paper"


def original(name: str) -> pd.DataFrame:
    file = FOLDER / f"{name}.csv"
    if not file.exists():
        pytest.skip(f"the article's {name}.csv is not beside the real images")
    return pd.read_csv(file, keep_default_na=False)


@pytest.mark.parametrize("number", TABLE_METRICS)
def test_each_printed_table_equals_that_of_the_article(number) -> None:
    printed = original(f"table{number}").rename(
        columns={"architecture": "network", "dataset": "version", "model": "name"}
    )
    table = printed_table(number)
    assert set(table["source"]) == {f"Table {number}"}
    pd.testing.assert_frame_equal(table.drop(columns="source"), printed)


def test_the_claims_equal_those_of_the_article() -> None:
    printed = original("claims")
    same = ["id", "area", "printed_value"]
    pd.testing.assert_frame_equal(claims()[same], printed[same])


@pytest.mark.parametrize(("number", "rows"), [(4, 8), (5, 8), (6, 18)])
def test_each_table_has_a_percentage_in_every_cell_of_each_network(number, rows) -> None:
    table = printed_table(number)
    assert len(table) == rows
    assert list(table["network"].unique()) == list(NETWORKS)
    figures = table[list(TABLE_METRICS[number])]
    assert figures.stack().between(60, 100).all()
    assert not table.drop(columns=list(TABLE_METRICS[number])).duplicated().any()


def test_every_claim_has_a_number_and_a_source() -> None:
    table = claims()
    assert tuple(table.columns) == CLAIM_COLUMNS
    assert list(table["id"]) == [f"C{number:02}" for number in range(1, 24)]
    assert (table[["source", "claim", "printed_value"]] != "").all(axis=None)


def test_callers_cannot_change_the_printed_figures() -> None:
    mine, other = claims(), printed_table(6)
    mine["claim"], other["test_accuracy"] = "", 0
    assert (claims()["claim"] != "").all()
    assert (printed_table(6)["test_accuracy"] > 0).all()


def test_the_reported_contradictions_follow_from_the_tables() -> None:
    five = printed_table(5).pivot_table(index="network", columns="version", values="test_accuracy")
    drop = (five["original"] - five["reconstructed"]).round(2)
    assert drop[["lenet5", "custom1"]].tolist() == [2.50, 2.78]
    six = printed_table(6).set_index(["network", "name"])["test_accuracy"]
    alexnet = five.loc["alexnet", "reconstructed"]
    assert six["alexnet", "Original"] != alexnet
    assert (six["alexnet"].drop("Original") < alexnet - 2).all()
    limits = printed_table(6).set_index(["network", "name"])[list(TABLE_METRICS[6])]
    assert (limits.loc["alexnet", "R5: 50%"] >= limits.loc["alexnet", "Original"] - 2).all()
    lost = (limits.loc["custom1", "Original"] - limits.loc["custom1", "R1, R2: 50%, 33%"]).round(2)
    assert lost.tolist() == [2.22, 2.35, 2.28]
    assert six["custom2", "R1: 33%"] < six["custom2", "Original"] - 2 <= six["custom2", "R2: 33%"]
