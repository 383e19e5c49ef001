"""The figures that the article prints: Tables 4 to 6 and its claims, as frames, for comparison with measurements.

They are read from CSV files in `core/article/`, one per table. Figures are in percent, 0 to 100, as printed.
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
    """Return a file of the article's figures. It is read once; callers copy it."""
    return pd.read_csv(FOLDER / f"{name}.csv", keep_default_na=False)


def table(number: int) -> pd.DataFrame:
    """Return Table 4, 5 or 6: network, version (4, 5) or name of the pruning step (6), figures, source."""
    return read(f"table{number}").assign(source=f"Table {number}")


def claims() -> pd.DataFrame:
    """Return the article's claims, columns `CLAIM_COLUMNS`.

    source: the article's section or table. printed_value: as printed. note: what the article leaves open or where it
    contradicts itself; may be empty.
    """
    return read("claims").copy()
