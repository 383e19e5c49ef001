"""Folders of images as data sets: what was found, what it is labelled, and what was left out and why.

Three layouts: HAM10000 (images in any folders below the root, one metadata CSV, optional `negatives/`), one
sub-folder per class, and a plain folder. Every file is decoded once to its end before it counts.
"""

from __future__ import annotations

import csv
import hashlib
import json
import os
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path, PurePosixPath

import numpy as np

from core.data import images
from core.data.folders import is_companion, is_picture, is_there, readable_folder, walk
from core.data.layouts import describe_by_folders, stem, without_ending
from core.data.manifest import read_manifest, write_manifest
from core.data.masks import BY_CONTENT, BY_NAME, mask_by_name, masks_by_content
from core.data.metadata import LABEL_COLUMN, LABEL_OF_DX, LABELS, LeftOut, Row, composed
from core.data.metadata_tables import Metadata, is_table, read_metadata
from core.data.names import default_name, name_fault
from core.data.photographs import Checked, check_file, describe_by_metadata, listed_id, refuse_unclear_folders
from core.errors import DatasetError, ImageError, SpecError

SYNTHETIC_MARKER = "SYNTHETIC.txt"
METADATA_NAME = "HAM10000_metadata.csv"
MOST_REASONS = 3  # that the error of a data set without an image repeats


@dataclass(frozen=True)
class Record:
    """One usable image: where it is, what identifies its bytes, and what the metadata says of it.

    path: relative to the data set's root, POSIX. bytes: the file's size. height, width: upright.
    label: one of `LABELS`, else a class folder's name, else None. Unknown metadata are None.
    """

    image_id: str
    path: str
    bytes: int
    height: int
    width: int
    sha256: str
    label: str | None = None
    dx: str | None = None
    lesion_id: str | None = None
    age: float | None = None
    sex: str | None = None
    localization: str | None = None


@dataclass(frozen=True)
class Dataset:
    """Images of one folder, sorted by id, and what was left out of it.

    layout: 'ham10000', 'class_folders' or 'plain'. synthetic: made by a program, to be said wherever it is shown.
    source, settings: of a reconstruction, the data set it was made from and how.
    """

    name: str
    root: Path
    layout: str
    records: tuple[Record, ...]
    left_out: tuple[LeftOut, ...] = ()
    synthetic: bool = False
    source: str | None = None
    settings: str | None = None

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 over ids, file contents, labels and metadata; the same wherever the folder stands."""
        digest = hashlib.sha256()
        for r in self.records:
            content = (r.image_id, r.sha256, r.label, r.dx, r.lesion_id, r.age, r.sex, r.localization)
            digest.update(json.dumps(content).encode() + b"\n")
        return digest.hexdigest()

    def class_counts(self) -> dict[str, int]:
        """Images a label, the article's classes first; unlabelled images are not counted."""
        counts = Counter(record.label for record in self.records if record.label is not None)
        return {label: counts[label] for label in sorted(counts, key=label_order)}

    def sample(self, size: int | None, seed: int) -> tuple[Record, ...]:
        """Draw `size` records without replacement, sorted by id; all when None.

        The same seed draws a larger sample around a smaller one. Raises SpecError when there are too few.
        """
        if size is None:
            return self.records
        if not 1 <= size <= len(self.records):
            raise SpecError(f"Expected a sample of 1 to {len(self.records)} images of {self.name!r}. Received: {size}.")
        drawn = np.random.default_rng(seed).permutation(len(self.records))[:size]
        return tuple(self.records[index] for index in sorted(drawn))


def load_dataset(
    folder: Path, *, name: str | None = None, progress: Callable[[int, int], None] | None = None
) -> Dataset:
    """Read a folder as a data set, decoding every file once; `progress(done, total)` is called as files pass.

    What cannot be used is listed in `left_out` and stops nothing. Raises DatasetError when the folder cannot be read,
    its metadata CSV has other columns than expected, or it holds no usable image.
    """
    root = readable_folder(folder)
    if name is not None and (fault := name_fault(name)):
        raise DatasetError(fault)
    left_out: list[LeftOut] = []
    files = sorted(walk(root, left_out))
    pictures = photographs_of(root, files, left_out)
    if not pictures:
        raise DatasetError(
            f"Expected images ({', '.join(images.EXTENSIONS)}) in {folder}; found none.{first_reasons(left_out)}"
        )
    listed = read_manifest(root, pictures, left_out)
    layout, described = listed or describe(root, files, pictures, left_out)
    records = []
    for path, outcome in check_files(root, list(described), progress):
        if isinstance(outcome, ImageError):
            left_out.append(LeftOut(path, str(outcome)))
        else:
            records.append(as_record(path, described[path], outcome))
            left_out += described[path].doubts
    if not records:
        raise DatasetError(f"Of the images in {folder} none can be used.{first_reasons(left_out)}")
    return Dataset(
        name=name or default_name(root),
        root=root,
        layout=layout,
        records=tuple(sorted(records, key=lambda record: record.image_id)),
        left_out=tuple(left_out),
        synthetic=(root / SYNTHETIC_MARKER).is_file(),
    )


def photographs_of(root: Path, files: list[str], left_out: list[LeftOut]) -> list[str]:
    """The image files that are no masks; masks, and files of other kinds that are worth a line, go to `left_out`."""
    pictures = [path for path in files if is_picture(path)]
    stems = frozenset(map(stem, pictures))
    masks = {path for path in files if not is_companion(path) and mask_by_name(path, stems)}
    left_out += (LeftOut(path, BY_NAME) for path in sorted(masks))
    left_out += (
        LeftOut(path, f"No image file by its name ({', '.join(images.EXTENSIONS)}).")
        for path in files
        if path not in masks and not is_picture(path) and not is_companion(path)
    )
    pictures = [path for path in pictures if path not in masks]
    masks = masks_by_content(root, pictures)
    left_out += (LeftOut(path, BY_CONTENT) for path in sorted(masks))
    return [path for path in pictures if path not in masks]


def describe(root: Path, files: list[str], pictures: list[str], left_out: list[LeftOut]) -> tuple[str, dict[str, Row]]:
    """Layout, and what tables or folders say of each picture that is used. Raises DatasetError."""
    names = {
        name
        for path in pictures
        for name in (composed(path), composed(PurePosixPath(path).name), without_ending(path), stem(path))
    }
    metadata = read_metadata(root, files, names, left_out)
    if metadata is not None and metadata.labels:
        return "ham10000", describe_by_metadata(root, pictures, metadata, left_out)
    refuse_unclear_folders(pictures)
    layout, described = describe_by_folders(pictures)
    if metadata is None:
        return layout, described
    return "ham10000", {path: filled_in(row, path, metadata) for path, row in described.items()}


def filled_in(row: Row, path: str, metadata: Metadata) -> Row:
    """What a folder says of a picture, with what tables without labels say of it."""
    said = metadata.rows.get(listed_id(path, metadata.listed) or "")
    return (
        row
        if said is None
        else replace(said, image_id=row.image_id, label=row.label, dx=row.dx, doubts=said.doubts + row.doubts)
    )


def read_registered(record: Record, root: Path) -> bytes:
    """Return the bytes of a record's file, which must still be those that were registered. ImageError."""
    data = images.read(root / record.path, inside=(root,))
    if hashlib.sha256(data).hexdigest() != record.sha256:
        raise ImageError("The file has changed since the data set was read.")
    return data


def write_metadata(dataset: Dataset, path: Path) -> None:
    """Write a data set's metadata as a CSV in HAM10000's columns, which `load_dataset` reads back.

    A label that follows from no `dx` stands in a further column.
    """
    columns = ("lesion_id", "image_id", "dx", "dx_type", "age", "sex", "localization", LABEL_COLUMN)
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(columns)
        for r in dataset.records:
            label = "" if LABEL_OF_DX.get(r.dx or "") == r.label else r.label
            age = "" if r.age is None else r.age
            sex, localization = r.sex or "unknown", r.localization or "unknown"
            writer.writerow((r.lesion_id or "", r.image_id, r.dx or "", "", age, sex, localization, label))


# Summaries for the page of a data set


def label_order(label: str) -> tuple[int, str]:
    """Sort key: the article's classes in their order, then other names."""
    return (LABELS.index(label) if label in LABELS else len(LABELS), label)


# Files


def is_lost_image(root: Path, item: LeftOut) -> bool:
    """Whether a line of `left_out` is about an image file that could not be used; masks and tables are none."""
    if item.reason in (BY_NAME, BY_CONTENT) or is_table(item.name):
        return False
    return is_there(root / item.name) and (root / item.name).is_file()


def check_files(
    root: Path, paths: list[str], progress: Callable[[int, int], None] | None
) -> Iterator[tuple[str, Checked | ImageError]]:
    """Yield each path with what its file holds or the error that keeps it out, in order, on all cores' threads."""
    threads = ThreadPoolExecutor(os.cpu_count() or 1)
    try:
        for done, (path, outcome) in enumerate(
            zip(paths, threads.map(partial(check_file, root), paths), strict=True), start=1
        ):
            yield path, outcome
            if progress:
                progress(done, len(paths))
    finally:  # an interrupted run does not read the rest first
        threads.shutdown(cancel_futures=True)


def as_record(path: str, row: Row, checked: Checked) -> Record:
    """A record from a file and what is known of it."""
    return Record(
        image_id=row.image_id,
        path=path,
        bytes=checked.bytes,
        height=checked.info.height,
        width=checked.info.width,
        sha256=checked.sha256,
        label=row.label,
        dx=row.dx,
        lesion_id=row.lesion_id,
        age=row.age,
        sex=row.sex,
        localization=row.localization,
    )


def first_reasons(left_out: list[LeftOut]) -> str:
    """What was left out and why, the first of each of a few reasons, for the error of a data set without an image."""
    first = {item.reason: item.name for item in reversed(left_out)}
    shown = [f" {name}: {reason}" for reason, name in reversed(first.items())]
    more = f" And {len(shown) - MOST_REASONS} more reasons." if len(shown) > MOST_REASONS else ""
    return "".join(shown[:MOST_REASONS]) + more


def speaks_for_itself(made: Dataset) -> bool:
    """Whether the names and folders of a data set's files, and its metadata CSV, give every image its id and label."""
    if made.layout == "ham10000":
        return all(stem(record.path) == record.image_id and not is_picture(record.image_id) for record in made.records)
    layout, described = describe_by_folders([record.path for record in made.records])
    return layout == made.layout and all(
        (row.image_id, row.label, row.dx) == (record.image_id, record.label, record.dx)
        for record, row in ((record, described[record.path]) for record in made.records)
    )


def complete_folder(made: Dataset) -> None:
    """Write what a reconstruction's folder needs besides its images, so that it can be registered again."""
    if made.layout == "ham10000":
        write_metadata(made, made.root / "HAM10000_metadata.csv")
    if not speaks_for_itself(made):
        write_manifest(made.root, made.layout, made.records)
    if made.synthetic:
        (made.root / "SYNTHETIC.txt").write_text("These images are synthetic; they show no patient.\n")
