"""Summaries of a data set as tables: classes, metadata, image sizes."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable

import pandas as pd

from core.data.datasets import Dataset, DatasetImage, label_order


def class_table(dataset: Dataset) -> pd.DataFrame:
    """Return one row per label and dx: label, dx, images, lesions (NULL where no lesion is known), bytes."""
    groups: dict[tuple[str, str], list[DatasetImage]] = defaultdict(list)
    for record in dataset.records:
        groups[record.label or "unlabelled", record.dx or ""].append(record)
    rows = []
    for (label, dx), records in sorted(groups.items(), key=lambda item: (label_order(item[0][0]), item[0][1])):
        lesions = {record.lesion_id for record in records if record.lesion_id}
        rows.append((label, dx, len(records), len(lesions) or None, sum(record.bytes for record in records)))
    table = pd.DataFrame(rows, columns=["label", "dx", "images", "lesions", "bytes"])
    return table.astype({"lesions": "Int64"})


def age_sex_localization(dataset: Dataset) -> pd.DataFrame:
    """Return one row per variable, value and label: variable, value, label, images.

    variable: 'age' (years as text, ascending), 'sex' or 'localization' (most frequent first); unknown values last.
    """
    rows = [
        (variable, value, label, count)
        for variable in ("age", "sex", "localization")
        for value, label, count in distribution(dataset.records, variable)
    ]
    return pd.DataFrame(rows, columns=["variable", "value", "label", "images"])


def distribution(records: Iterable[DatasetImage], variable: str) -> list[tuple[str, str, int]]:
    """Return (value, label, images) of one metadata variable, in the order of `age_sex_localization`."""
    pairs = Counter((value_text(getattr(record, variable)), record.label or "unlabelled") for record in records)
    totals: Counter[str] = Counter()
    for (value, _), count in pairs.items():
        totals[value] += count

    def place(pair: tuple[str, str]) -> tuple[bool, float, str, tuple[int, str]]:
        value, label = pair
        unknown = value == "unknown"
        rank = float(value) if variable == "age" and not unknown else -totals[value]
        return unknown, rank, value, label_order(label)

    return [(value, label, pairs[value, label]) for value, label in sorted(pairs, key=place)]


def size_counts(dataset: Dataset) -> pd.DataFrame:
    """Return one row per image size, most frequent first: height, width, images."""
    counts = Counter((record.height, record.width) for record in dataset.records)
    rows = [(height, width, count) for (height, width), count in counts.most_common()]
    return pd.DataFrame(rows, columns=["height", "width", "images"])


def value_text(value: float | str | None) -> str:
    """Return a metadata value as text, "unknown" for None."""
    return "unknown" if value is None else f"{value:g}" if isinstance(value, float) else value
