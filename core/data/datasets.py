"""Folders of images as data sets: what was found, what it is labelled, and what was left out and why.

Three layouts: HAM10000 (images in any folders below the root, one metadata CSV, optional `negatives/`), one
sub-folder per class, and a plain folder. Every file is decoded once to its end before it counts.
"""

from __future__ import annotations

import csv
import hashlib
import json
import os
import socket
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path, PurePosixPath

import numpy as np
import pandas as pd

from core.data import images
from core.data.dataset_names import default_name, name_fault
from core.errors import DatasetError, ImageError, NotOnThisHost, SpecError
from core.data.layouts import describe_by_folders, stem, without_ending
from core.data.manifest import read_manifest, write_manifest
from core.data.masks import BY_CONTENT, BY_NAME, mask_by_name, masks_by_content
from core.data.metadata import LABEL_COLUMN, LABEL_OF_DX, LABELS, LeftOut, Row, composed
from core.data.metadata_tables import Metadata, is_table, read_metadata
from core.data.photographs import Checked, check_file, describe_by_metadata, listed_id, refuse_unclear_folders
from core.settings import Settings

SYNTHETIC_MARKER = "SYNTHETIC.txt"
METADATA_NAME = "HAM10000_metadata.csv"
MOST_REASONS = 3  # that the error of a data set without an image repeats
# Files that accompany images and are not worth a line, tables apart; hidden files are passed over too
COMPANIONS = (".txt", ".md", ".json", ".pdf", ".html", ".xml", ".ini", ".db", ".lnk", ".url")


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


def refuse_no_text(path: str | Path) -> None:
    """Raise DatasetError for a path that is no UTF-8, as a Latin-1 name on Linux: no record can hold it."""
    try:
        str(path).encode()
    except UnicodeEncodeError:
        raise DatasetError(f"Expected a path in valid UTF-8. Received: {str(path)!r}.") from None


def confine(path: Path, roots: Iterable[Path]) -> Path:
    """Resolve a path, following symbolic links; DatasetError unless it lies in one of the allowed folders."""
    allowed = [root.resolve() for root in roots]
    try:
        resolved = Path(path).expanduser().resolve()
    except (OSError, RuntimeError, ValueError) as error:  # a loop of links, a NUL character
        raise DatasetError(f"Expected a path. Received: {str(path)!r}, which cannot be followed: {error}.") from error
    refuse_no_text(resolved)
    if not any(resolved.is_relative_to(root) for root in allowed):
        raise DatasetError(
            f"Expected a path inside the allowed data roots ({', '.join(map(str, allowed))}). Received: {resolved}."
            " DATA_ROOTS sets the allowed roots."
        )
    return resolved


def folder_here(folder: Path, settings: Settings) -> Path:
    """Return where this host has a folder that a record names, whether or not it is there.

    NotOnThisHost where that is outside the data roots, after `DATA_ROOTS` has mapped it and links are followed.
    """
    try:
        return confine(settings.here(folder), settings.data_roots)
    except DatasetError as error:
        raise NotOnThisHost(f"on {socket.gethostname()}, for {folder}: {error}") from error


def images_here(folder: Path, settings: Settings) -> Path:
    """Return where this host has a data set's folder; NotOnThisHost, with what to set, where it is not or is empty."""
    here = folder_here(folder, settings)
    try:
        if next(os.scandir(here), None) is not None:
            return here
        reason = "the folder is empty"
    except OSError as error:
        gone = "there is no such file or folder"
        reason = gone if isinstance(error, FileNotFoundError) else error.strerror or str(error)
    place = f"the images of {folder} on host {socket.gethostname()}"
    if settings.here(folder) == folder:
        advice = f"If they lie elsewhere there, set DATA_ROOTS={folder}=FOLDER for its workers"
    else:
        place += f", at {here} by its DATA_ROOTS"
        advice = "Mount them there, or correct its workers' DATA_ROOTS"
    raise NotOnThisHost(f"expected {place}; none can be read: {reason}. {advice}")


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


def duplicates(dataset: Dataset) -> tuple[tuple[Record, ...], ...]:
    """Groups of records whose files are the same bytes, each of two or more."""
    groups: dict[str, list[Record]] = defaultdict(list)
    for record in dataset.records:
        groups[record.sha256].append(record)
    return tuple(tuple(group) for group in groups.values() if len(group) > 1)


def class_table(dataset: Dataset) -> pd.DataFrame:
    """One row a (label, dx): label, dx, images, lesions (NULL where no lesion is known), bytes."""
    groups: dict[tuple[str, str], list[Record]] = defaultdict(list)
    for record in dataset.records:
        groups[record.label or "unlabelled", record.dx or ""].append(record)
    rows = []
    for (label, dx), records in sorted(groups.items(), key=lambda item: (label_order(item[0][0]), item[0][1])):
        lesions = {record.lesion_id for record in records if record.lesion_id}
        rows.append((label, dx, len(records), len(lesions) or None, sum(record.bytes for record in records)))
    table = pd.DataFrame(rows, columns=["label", "dx", "images", "lesions", "bytes"])
    return table.astype({"lesions": "Int64"})


def age_sex_localization(dataset: Dataset) -> pd.DataFrame:
    """Distributions in long form, one row a (variable, value, label): variable, value, label, images.

    variable: 'age' (years as text, ascending), 'sex' or 'localization' (most frequent first); unknown values last.
    """
    rows = [
        (variable, value, label, count)
        for variable in ("age", "sex", "localization")
        for value, label, count in distribution(dataset.records, variable)
    ]
    return pd.DataFrame(rows, columns=["variable", "value", "label", "images"])


def distribution(records: Iterable[Record], variable: str) -> list[tuple[str, str, int]]:
    """(value, label, images) of one metadata variable, in the order of `age_sex_localization`."""
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
    """One row an image size, most frequent first: height, width, images."""
    counts = Counter((record.height, record.width) for record in dataset.records)
    rows = [(height, width, count) for (height, width), count in counts.most_common()]
    return pd.DataFrame(rows, columns=["height", "width", "images"])


def bytes_total(dataset: Dataset) -> int:
    """Bytes of all usable files."""
    return sum(record.bytes for record in dataset.records)


def label_order(label: str) -> tuple[int, str]:
    """Sort key: the article's classes in their order, then other names."""
    return (LABELS.index(label) if label in LABELS else len(LABELS), label)


def value_text(value: float | str | None) -> str:
    """A metadata value as text; unknown ones are called so."""
    return "unknown" if value is None else f"{value:g}" if isinstance(value, float) else value


# Files


def readable_folder(folder: Path) -> Path:
    """The folder, resolved; DatasetError when it is none or cannot be listed."""
    try:
        root = Path(folder).expanduser().resolve()
        if not root.exists():
            raise DatasetError(f"Expected a folder of images at {folder}; there is nothing.")
        if not root.is_dir():
            raise DatasetError(f"Expected a folder of images at {folder}; found a file.")
        next(os.scandir(root), None)
    except (OSError, RuntimeError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise DatasetError(f"Expected a readable folder of images at {folder}; it cannot be read: {reason}.") from error
    return root


def walk(root: Path, left_out: list[LeftOut]) -> Iterator[str]:
    """Yield the regular files below root as POSIX paths; hidden ones are passed over, odd ones go to `left_out`."""

    def unreadable(error: OSError) -> None:
        left_out.append(LeftOut(relative(error.filename, root), f"The folder cannot be read: {error.strerror}."))

    for parent, folders, names in os.walk(root, onerror=unreadable):
        for folder in list(folders):
            if (Path(parent) / folder).is_symlink():
                path = relative(Path(parent, folder), root)
                left_out.append(LeftOut(path, "Folders are not followed through symbolic links."))
        folders[:] = sorted(folder for folder in folders if not folder.startswith((".", "__MACOSX")))
        for name in names:
            if name.startswith(".") or name.lower() in ("thumbs.db", "desktop.ini"):
                continue
            path = relative(Path(parent, name), root)
            if reason := odd(Path(parent, name), root):
                left_out.append(LeftOut(path, reason))
            else:
                yield path


def odd(path: Path, root: Path) -> str | None:
    """Why a directory entry is no file of this data set; None when it is one."""
    try:
        str(path).encode()
    except UnicodeEncodeError:
        return "The file's name is not valid UTF-8."
    if path.is_symlink():
        try:
            target = path.resolve(strict=True)
        except (OSError, RuntimeError):
            return "The symbolic link leads nowhere."
        if not target.is_relative_to(root):
            return "The symbolic link leads out of the data set's folder."
    return None if path.is_file() else "A device, socket or pipe, not a regular file."


def relative(path: str | Path, root: Path) -> str:
    """The POSIX path below root, in characters that can be stored."""
    return Path(path).relative_to(root).as_posix().encode(errors="replace").decode() or "."


def is_picture(path: str) -> bool:
    """Whether a file is an image by its name."""
    return PurePosixPath(path).suffix.lower() in images.EXTENSIONS


def is_lost_image(root: Path, item: LeftOut) -> bool:
    """Whether a line of `left_out` is about an image file that could not be used; masks and tables are none."""
    if item.reason in (BY_NAME, BY_CONTENT) or is_table(item.name):
        return False
    return is_there(root / item.name) and (root / item.name).is_file()


def is_there(path: Path) -> bool:
    """Whether a path leads to a file or folder; False for what none can be called, as an id of 300 characters."""
    try:
        return path.expanduser().exists()
    except (OSError, RuntimeError, ValueError):
        return False


def is_companion(path: str) -> bool:
    """Whether a file is one of those that come with images: lists, licences, read-me files."""
    file = PurePosixPath(path)
    return (
        is_table(path)
        or file.suffix.lower() in COMPANIONS
        or file.stem.lower() in ("license", "licence", "readme", "attribution")
    )


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
