"""What the article prints: Tables 4 to 6 and its claims, as frames, so that measurements can stand beside them.

The figures are in `core/article/`, one CSV a table. Figures are in percent, 0 to 100, as printed.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path

import pandas as pd

FOLDER = Path(__file__).parent
TABLE_METRICS: dict[int, tuple[str, ...]] = {
    4: ("train_precision", "train_accuracy", "validation_precision", "validation_accuracy"),
    5: ("test_precision", "test_accuracy", "test_recall"),
    6: ("test_accuracy", "test_precision", "test_recall"),
}
TITLES = {
    4: "Training and validation, original against reconstructed images",
    5: "Testing, original against reconstructed images",
    6: "Testing, step by step of the pruning",
}
CLAIM_COLUMNS = ("id", "area", "source", "claim", "printed_value", "note")


@cache
def read(name: str) -> pd.DataFrame:
    """Return a file of the article's figures, read once; callers copy."""
    return pd.read_csv(FOLDER / f"{name}.csv", keep_default_na=False)


def table(number: int) -> pd.DataFrame:
    """Return Table 4, 5 or 6: its keys (network and version, or network and step name), its figures, its source."""
    return read(f"table{number}").assign(source=f"Table {number}")


def table4() -> pd.DataFrame:
    """Return Table 4: network, version (original or reconstructed), training and validation figures, source."""
    return table(4)


def table5() -> pd.DataFrame:
    """Return Table 5: network, version (original or reconstructed), test figures, source."""
    return table(5)


def table6() -> pd.DataFrame:
    """Return Table 6: network, name of the pruning step, test figures, source; steps in the order printed."""
    return table(6)


def claims() -> pd.DataFrame:
    """Return the article's claims, columns `CLAIM_COLUMNS`.

    source: the article's section or table. printed_value: as the article has it. note: where it is silent, or
    contradicts itself; empty where neither.
    """
    return read("claims").copy()
