"""The list of images of a new data set whose file names and folders do not give the image ids.

A JSON file beside the images holds the path, id and metadata of each. `load_dataset` reads it first.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from core.data.metadata import FACTS, NO_FILE, NOT_LISTED, OLDEST, SPLIT_WORDS, LeftOut, Row
from core.errors import DatasetError

MANIFEST = "dermslim_images.json"
LONGEST = 200_000_000  # bytes
LAYOUTS = ("ham10000", "class_folders", "plain")


def write_manifest(root: Path, layout: str, rows: Sequence[Mapping[str, Any]]) -> None:
    """Write the list beside the images. rows: the path and the `FACTS` of each image."""
    text = json.dumps({"layout": layout, "images": rows}, ensure_ascii=False, indent=1)
    (root / MANIFEST).write_text(text, encoding="utf-8")


def read_manifest(root: Path, pictures: Iterable[str], left_out: list[LeftOut]) -> tuple[str, dict[str, Row]] | None:
    """Return the layout and each listed picture's row by path; None where there is no list.

    Unlisted and missing pictures are listed in `left_out`. Raises DatasetError.
    """
    path = root / MANIFEST
    if not path.is_file():
        return None
    try:
        if path.stat().st_size > LONGEST:
            raise ValueError(f"it has more than {LONGEST:,} bytes")
        said = json.loads(path.read_text(encoding="utf-8"))
        if said["layout"] not in LAYOUTS:
            raise ValueError(f"its layout is {said['layout']!r}")
        rows = {str(each["path"]): listed_row(each) for each in said["images"]}
        if len({row.image_id for row in rows.values()}) < len(said["images"]):
            raise ValueError("it lists an id twice")
    except (OSError, ValueError, LookupError, TypeError, RecursionError) as error:
        raise DatasetError(f"The list {MANIFEST} of {root} cannot be used: {error}.") from error
    there = set(pictures)
    left_out += (LeftOut(picture, NOT_LISTED) for picture in sorted(there - rows.keys()))
    left_out += (LeftOut(picture, NO_FILE) for picture in sorted(rows.keys() - there))
    return said["layout"], {picture: row for picture, row in rows.items() if picture in there}


def listed_row(said: Mapping[str, Any]) -> Row:
    """Return one entry of the list. Raises ValueError where a value has the wrong type."""
    texts = {name: said[name] for name in FACTS if name not in ("age", "split")}
    if not all(value is None or (isinstance(value, str) and value) for value in texts.values()) or not said["image_id"]:
        raise ValueError(f"expected texts for {said['path']!r}")
    split = said.get("split")  # lists of older versions have none
    if split is not None and split not in SPLIT_WORDS:
        raise ValueError(f"expected a split of train, validation or test for {said['path']!r}")
    age = said["age"]
    if age is not None and not (isinstance(age, int | float) and 0 <= age <= OLDEST):
        raise ValueError(f"expected an age of 0 to {OLDEST:g} for {said['path']!r}")
    return Row(**texts, split=split, age=None if age is None else float(age))
