"""Tables as files, for the command line and the pages: CSV for people, Parquet for exact values.

A spreadsheet evaluates a cell that begins with `=`, `+`, `-`, `@`, a tab or a line end as a formula, quoted or not. The
names and ids of a data set may begin with one of them. In CSV such a text gets an apostrophe before it, which marks
text for spreadsheets. A text that already has apostrophes before such a character gets one more, so that removing one
apostrophe gives the original. Numbers and Parquet files are not changed.
"""

from __future__ import annotations

import csv
import os
import re
import stat
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

from core.errors import SpecError

if TYPE_CHECKING:
    import pandas as pd  # imported where a frame is written: counting curves needs none

TABLES = (".csv", ".parquet")
FORMULA = re.compile(r"'*[=+\-@\t\r\n＝＋－＠]")  # the wide signs are Excel's too, where text is Japanese or Chinese


def cell(value: object) -> object:
    """Return a cell for CSV: a text that a spreadsheet would evaluate gets an apostrophe before it."""
    return f"'{value}" if isinstance(value, str) and FORMULA.match(value) else value


class CsvRows:
    """Write rows to an open CSV file one after the other; None is an empty field."""

    def __init__(self, file: TextIO, columns: Sequence[str]) -> None:
        self.columns = tuple(columns)
        self._writer = csv.writer(file)
        self._writer.writerow([cell(column) for column in self.columns])

    def write(self, rows: Iterable[Iterable[object]]) -> None:
        """Write rows whose values are in the order of the columns."""
        self._writer.writerows([cell(value) for value in row] for row in rows)


def to_csv(frame: pd.DataFrame) -> str:
    """Return a frame as CSV, without its index."""
    texts = [str(name) for name, kind in frame.dtypes.items() if str(kind) in ("object", "str", "string", "category")]
    safe = frame.assign(**{name: frame[name].astype(object).map(cell, na_action="ignore") for name in texts})
    # A carriage return within a text is quoted only where lines end with one (Python before 3.13).
    returns = any(isinstance(value, str) and "\r" in value for name in texts for value in safe[name])
    end = "\r\n" if returns else "\n"
    return str(safe.rename(columns=lambda name: cell(str(name))).to_csv(index=False, lineterminator=end))


def write_table(frame: pd.DataFrame, path: Path) -> None:
    """Write a frame to a file in the format of its ending, one of `TABLES`. Raises SpecError, OSError."""
    if check_ending(path, TABLES) == ".parquet":
        frame.to_parquet(path, index=False)
    else:
        path.write_text(to_csv(frame), encoding="utf-8", newline="")


def write_rows(path: Path, columns: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """Write rows to a file in the format of its ending, one of `TABLES`; None is an empty cell."""
    if check_ending(path, TABLES) == ".parquet":
        import pandas as pd

        pd.DataFrame(rows, columns=list(columns)).convert_dtypes().to_parquet(path, index=False)
        return
    with path.open("w", encoding="utf-8", newline="") as file:
        CsvRows(file, columns).write(rows)


def check_ending(path: Path, endings: Sequence[str]) -> str:
    """Return a file's ending in lower case. Raises SpecError unless it is one of `endings`."""
    found = path.suffix.lower()
    if found not in endings:
        known = f"{', '.join(endings[:-1])} or {endings[-1]}"
        raise SpecError(f"Expected a file name that ends in {known}, got {path.name or path}.")
    return found


def check_writable(path: Path | None, endings: Sequence[str] = TABLES) -> None:
    """Raise SpecError unless a file can be written to a path, before the work for it begins; None passes."""
    if path is None:
        return
    check_ending(path, endings)
    folder = path.parent
    if not folder.is_dir():
        raise SpecError(f"Expected a folder that exists for {path.name}, got {folder}, which does not exist.")
    try:
        mode = path.stat().st_mode
    except FileNotFoundError:
        if not os.access(folder, os.W_OK | os.X_OK):
            raise SpecError(f"Expected a folder that can be written, got {folder}, which cannot.") from None
        return
    except OSError as error:
        raise SpecError(f"Expected a file that can be written, got {path}: {error.strerror}.") from error
    if not stat.S_ISREG(mode) or not os.access(path, os.W_OK):
        raise SpecError(f"Expected a file that can be written, got {path}, which cannot.")
