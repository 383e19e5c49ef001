"""Folders of images as data sets: what was found, what it is labelled, and what was left out and why.

Three layouts: HAM10000 (images in any folders below the root, one metadata CSV, optional `negatives/`), one
sub-folder per class, and a plain folder. Every file is decoded once to its end before it counts.
"""

from __future__ import annotations

import csv
import hashlib
import json
import math
import os
import re
import socket
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path, PurePosixPath

import numpy as np
import pandas as pd

from core import images
from core.errors import DatasetError, ImageError, NotOnThisHost, SpecError
from core.settings import Settings

# HAM10000's diagnosis codes -> the article's classes (docs/definitions.md, data)
LABEL_OF_DX: Mapping[str, str] = {
    "mel": "melanoma",
    "nv": "nevus",
    "akiec": "non_melanoma",
    "bcc": "non_melanoma",
    "bkl": "non_melanoma",
    "df": "non_melanoma",
    "vasc": "non_melanoma",
}
LABELS = ("melanoma", "nevus", "non_melanoma", "negative")
NEGATIVES = ("negatives", "negative")

SYNTHETIC_MARKER = "SYNTHETIC.txt"
METADATA_NAME = "HAM10000_metadata.csv"
METADATA_NAMES = ("ham10000_metadata.csv", "ham10000_metadata.tab", "ham10000_metadata", "metadata.csv")
HAM10000_COLUMNS = ("lesion_id", "image_id", "dx", "age", "sex", "localization")
LABEL_COLUMN = "dermslim_label"  # only in CSVs that write_metadata wrote: a label that no dx stands for

# The ISIC Archive's metadata.csv (isic-cli) names HAM10000's diagnoses otherwise: diagnosis_3, for vascular
# lesions diagnosis_2, in older downloads one column `diagnosis`. HAM10000's akiec appears there as two diagnoses.
ISIC_COLUMNS = ("isic_id", "age_approx", "sex", "anatom_site_general")
ISIC_DIAGNOSIS_COLUMNS = ("diagnosis", "diagnosis_3", "diagnosis_2")
DX_OF_ISIC: Mapping[str, str] = {
    "melanoma": "mel",
    "melanoma, nos": "mel",
    "melanoma in situ": "mel",
    "melanoma invasive": "mel",
    "melanoma metastasis": "mel",
    "nevus": "nv",
    "basal cell carcinoma": "bcc",
    "actinic keratosis": "akiec",
    "solar or actinic keratosis": "akiec",
    "squamous cell carcinoma": "akiec",
    "squamous cell carcinoma, nos": "akiec",
    "squamous cell carcinoma in situ": "akiec",
    "pigmented benign keratosis": "bkl",
    "seborrheic keratosis": "bkl",
    "solar lentigo": "bkl",
    "lichen planus like keratosis": "bkl",
    "dermatofibroma": "df",
    "vascular lesion": "vasc",
    "benign soft tissue proliferations - vascular": "vasc",
}

# Sub-folders that hold parts of a download or splits, not classes
NOT_A_CLASS = re.compile(
    r"(images?|photos|pictures|data|part.?\d*|ham10000.*|isic.*|train.*|valid.*|val|test.*)", re.IGNORECASE
)
# Files that accompany images and are not worth a line; hidden files are passed over too
COMPANIONS = (".csv", ".tab", ".txt", ".md", ".json", ".pdf", ".html", ".xml", ".ini", ".db", ".lnk", ".url")

NO_FILE = "The metadata lists this image, but no file of that name was found."
NOT_LISTED = "The metadata does not list this image, so it has no label."
OLDEST = 120.0


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
class LeftOut:
    """A file, a CSV row or a single value that was not used, with the reason as a sentence."""

    name: str
    reason: str


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


@dataclass(frozen=True)
class Row:
    """What a metadata CSV or a folder says of one image, values cleaned; `doubts` are about values not used."""

    image_id: str
    label: str | None = None
    dx: str | None = None
    lesion_id: str | None = None
    age: float | None = None
    sex: str | None = None
    localization: str | None = None
    doubts: tuple[LeftOut, ...] = ()


@dataclass(frozen=True)
class Checked:
    """A whole image file."""

    bytes: int
    sha256: str
    info: images.ImageInfo


def load_dataset(
    folder: Path, *, name: str | None = None, progress: Callable[[int, int], None] | None = None
) -> Dataset:
    """Read a folder as a data set, decoding every file once; `progress(done, total)` is called as files pass.

    What cannot be used is listed in `left_out` and stops nothing. Raises DatasetError when the folder cannot be read,
    its metadata CSV has other columns than expected, or it holds no usable image.
    """
    root = readable_folder(folder)
    left_out: list[LeftOut] = []
    files = sorted(walk(root, left_out))
    pictures = [path for path in files if PurePosixPath(path).suffix.lower() in images.EXTENSIONS]
    tables = metadata_tables(files)
    left_out += (
        LeftOut(path, f"Expected an image file ({', '.join(images.EXTENSIONS)}); this is none by its name.")
        for path in files
        if path not in tables and not is_companion(path) and PurePosixPath(path).suffix.lower() not in images.EXTENSIONS
    )
    if not pictures:
        raise DatasetError(f"Expected images ({', '.join(images.EXTENSIONS)}) in {folder}; found none.")

    rows = read_tables(root, tables, left_out) if tables else None
    if rows is not None:
        layout, described = "ham10000", describe_by_table(pictures, rows, left_out)
    else:
        layout, described = describe_by_folders(pictures)
    records = []
    for path, outcome in check_files(root, list(described), progress):
        if isinstance(outcome, ImageError):
            left_out.append(LeftOut(path, str(outcome)))
        else:
            records.append(as_record(path, described[path], outcome))
            left_out += described[path].doubts
    if not records:
        raise DatasetError(f"Expected images in {folder}; none can be used. {first_reason(pictures, left_out)}")
    return Dataset(
        name=name or root.name,
        root=root,
        layout=layout,
        records=tuple(sorted(records, key=lambda record: record.image_id)),
        left_out=tuple(left_out),
        synthetic=(root / SYNTHETIC_MARKER).is_file(),
    )


def confine(path: Path, roots: Iterable[Path]) -> Path:
    """Resolve a path, following symbolic links; DatasetError unless it lies in one of the allowed folders."""
    allowed = [root.resolve() for root in roots]
    try:
        resolved = Path(path).expanduser().resolve()
    except (OSError, RuntimeError, ValueError) as error:  # a loop of links, a NUL character
        raise DatasetError(f"Expected a path. Received: {str(path)!r}, which cannot be followed: {error}.") from error
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
    return None if path.is_file() else "Expected a regular file; found a device, socket or pipe."


def relative(path: str | Path, root: Path) -> str:
    """The POSIX path below root, in characters that can be stored."""
    return Path(path).relative_to(root).as_posix().encode(errors="replace").decode() or "."


def is_companion(path: str) -> bool:
    """Whether a file is one of those that come with images: lists, licences, read-me files."""
    file = PurePosixPath(path)
    return file.suffix.lower() in COMPANIONS or file.stem.lower() in ("license", "licence", "readme", "attribution")


def check_files(
    root: Path, paths: list[str], progress: Callable[[int, int], None] | None
) -> Iterator[tuple[str, Checked | ImageError]]:
    """Yield each path with what its file holds or the error that keeps it out, in order, on all cores' threads."""

    def check(path: str) -> Checked | ImageError:
        try:
            data = images.read(root / path, inside=(root,))
            return Checked(len(data), hashlib.sha256(data).hexdigest(), images.check(data))
        except ImageError as error:
            return error

    threads = ThreadPoolExecutor(os.cpu_count() or 1)
    try:
        for done, (path, outcome) in enumerate(zip(paths, threads.map(check, paths), strict=True), start=1):
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


def first_reason(pictures: list[str], left_out: list[LeftOut]) -> str:
    """One image file and why it was left out, for the error of a data set without a usable image."""
    names = set(pictures)
    return next((f"{item.name}: {item.reason}" for item in left_out if item.name in names), "")


# Labels from folders


def describe_by_folders(pictures: list[str]) -> tuple[str, dict[str, Row]]:
    """Layout, and for each image path its id and the label its folder gives."""
    classes = {path: class_folder(path) for path in pictures}
    names = {name for name in classes.values() if name}
    known = {name for name in names if known_class(name)}
    by_class = bool(known) or len(names) > 1
    layout = "class_folders" if by_class else "plain"
    described = {}
    for path, image_id in unique_ids(pictures).items():
        name = classes[path] if by_class else None
        label, dx = known_class(name) or (name, None) if name else (None, None)
        described[path] = Row(image_id, label=label, dx=dx)
    return layout, described


def class_folder(path: str) -> str | None:
    """The folder that names an image's class: the nearest known class above it, else the topmost that may be one."""
    folders = PurePosixPath(path).parts[:-1]
    for folder in reversed(folders):
        if known_class(folder):
            return folder
    return next((folder for folder in folders if not NOT_A_CLASS.fullmatch(folder)), None)


def known_class(folder: str) -> tuple[str, str | None] | None:
    """Label and dx of a folder named after a class, as `nv`, `Melanoma`, `non-melanoma` or `negatives`."""
    name = re.sub(r"[\s-]+", "_", folder.strip().lower())
    if name in LABEL_OF_DX:
        return LABEL_OF_DX[name], name
    if name in NEGATIVES:
        return "negative", None
    return (name, None) if name in LABELS else None


def unique_ids(pictures: Iterable[str]) -> dict[str, str]:
    """Image ids: the file's name without extension, with folders or extension only where that is not unique."""
    paths = list(pictures)
    ids = {path: PurePosixPath(path).stem for path in paths}
    for longer in (lambda path: PurePosixPath(path).with_suffix("").as_posix(), lambda path: path):
        counts = Counter(ids.values())
        ids = {path: image_id if counts[image_id] == 1 else longer(path) for path, image_id in ids.items()}
    return ids


# Labels from a metadata CSV


def metadata_tables(files: list[str]) -> list[str]:
    """The metadata CSVs: HAM10000's nearest the root, else every `metadata.csv` of ISIC downloads."""
    named: dict[str, list[str]] = defaultdict(list)
    for path in sorted(files, key=lambda path: (path.count("/"), path)):
        named[PurePosixPath(path).name.lower()].append(path)
    for name in METADATA_NAMES[:-1]:
        if named[name]:
            return named[name][:1]
    return named[METADATA_NAMES[-1]]


def describe_by_table(pictures: list[str], rows: dict[str, Row], left_out: list[LeftOut]) -> dict[str, Row]:
    """Match files with rows by name; whatever has no partner goes to `left_out`, except images in `negatives/`."""
    negatives = [path for path in pictures if any(part.lower() in NEGATIVES for part in PurePosixPath(path).parts[:-1])]
    described: dict[str, Row] = {}
    file_of: dict[str, str] = {}
    for path in sorted(set(pictures) - set(negatives)):
        image_id = listed_id(path, rows)
        if image_id is None:
            left_out.append(LeftOut(path, NOT_LISTED))
        elif image_id in file_of:
            left_out.append(LeftOut(path, f"Another file has the same image id; {file_of[image_id]} is used."))
        else:
            file_of[image_id] = path
            described[path] = rows[image_id]
    for path, short_id in unique_ids(negatives).items():
        image_id = listed_id(path, rows) or short_id
        if image_id in file_of:
            image_id = PurePosixPath(path).with_suffix("").as_posix()
        file_of[image_id] = path
        row = rows.get(image_id, Row(image_id))
        described[path] = replace(row, image_id=image_id, label="negative", dx=None)
    left_out += (LeftOut(image_id, NO_FILE) for image_id in rows if image_id not in file_of)
    return described


def listed_id(path: str, rows: Mapping[str, Row]) -> str | None:
    """The id under which the metadata list a file: its path without extension, or its name alone."""
    file = PurePosixPath(path).with_suffix("")
    return next((image_id for image_id in (file.as_posix(), file.name) if image_id in rows), None)


def read_tables(root: Path, tables: list[str], left_out: list[LeftOut]) -> dict[str, Row]:
    """Rows of the metadata CSVs by image id; rows repeated or without an id go to `left_out`."""
    rows: dict[str, Row] = {}
    for table in tables:
        for number, row in read_table(root / table, table, left_out):
            if row.image_id not in rows:
                rows[row.image_id] = row
            else:
                same = "says the same" if rows[row.image_id] == row else "says otherwise"
                reason = f"The metadata lists {row.image_id} more than once; the first row is used, this one {same}."
                left_out.append(LeftOut(f"{table}, line {number}", reason))
    return rows


def read_table(path: Path, name: str, left_out: list[LeftOut]) -> Iterator[tuple[int, Row]]:
    """Yield (line number, row) of one CSV in HAM10000's or the ISIC Archive's columns."""
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            first = file.readline()
            file.seek(0)
            reader = csv.DictReader(file, delimiter="\t" if "\t" in first else ",")
            columns = [column.strip() for column in reader.fieldnames or []]
            reader.fieldnames = columns
            clean = row_cleaner(name, columns)
            for values in reader:
                cells = {key: (value or "").strip() for key, value in values.items() if isinstance(key, str)}
                row = clean(cells)
                if row.image_id:
                    yield reader.line_num, row
                else:
                    left_out.append(LeftOut(f"{name}, line {reader.line_num}", "The row has no image id."))
    except (UnicodeDecodeError, csv.Error) as error:
        raise DatasetError(f"Expected {name} to be a CSV file in UTF-8; it cannot be read: {error}.") from error
    except OSError as error:
        raise DatasetError(f"The metadata {name} cannot be read: {error.strerror}.") from error


def row_cleaner(name: str, columns: list[str]) -> Callable[[dict[str, str]], Row]:
    """The function that cleans rows of these columns; DatasetError when they are neither kind's."""
    if set(HAM10000_COLUMNS) <= set(columns):
        return clean_ham10000
    if set(ISIC_COLUMNS) <= set(columns) and set(ISIC_DIAGNOSIS_COLUMNS) & set(columns):
        return clean_isic
    raise DatasetError(
        f"Expected the columns {', '.join(HAM10000_COLUMNS)} (HAM10000) or {', '.join(ISIC_COLUMNS)} and diagnosis or"
        f" diagnosis_3 (ISIC Archive) in {name}. Found: {', '.join(columns) or 'no header'}."
    )


def clean_ham10000(cells: dict[str, str]) -> Row:
    """Clean a row in HAM10000's columns."""
    image_id = without_extension(cells["image_id"])
    age, doubts = clean_age(cells["age"], image_id)
    found = cells["dx"].lower() or None
    # A class's name instead of a code, as "negative", is a label without a diagnosis
    label, dx = known_class(found or "") or (None, found)
    label = cells.get(LABEL_COLUMN) or label
    if label is None and LABEL_COLUMN not in cells:
        reason = (
            f"Expected a diagnosis (dx) of {', '.join(LABEL_OF_DX)}; found {found!r}. The image is kept unlabelled."
        )
        doubts += (LeftOut(f"{image_id}, dx", reason),)
    sex, localization = known_value(cells["sex"]), known_value(cells["localization"])
    return Row(image_id, label, dx, cells["lesion_id"] or None, age, sex, localization, doubts)


def clean_isic(cells: dict[str, str]) -> Row:
    """Clean a row in the ISIC Archive's columns, turning its diagnosis into HAM10000's code."""
    image_id = without_extension(cells["isic_id"])
    age, doubts = clean_age(cells["age_approx"], image_id)
    diagnoses = [cells.get(column, "").lower() for column in ISIC_DIAGNOSIS_COLUMNS]
    dx = next((DX_OF_ISIC[diagnosis] for diagnosis in diagnoses if diagnosis in DX_OF_ISIC), None)
    if dx is None:
        found = next(filter(None, diagnoses), "none")
        reason = f"The diagnosis {found!r} is none of HAM10000's seven. The image is kept unlabelled."
        doubts += (LeftOut(f"{image_id}, diagnosis", reason),)
    label, lesion_id = LABEL_OF_DX.get(dx or ""), cells.get("lesion_id") or None
    sex, localization = known_value(cells["sex"]), known_value(cells["anatom_site_general"])
    return Row(image_id, label, dx, lesion_id, age, sex, localization, doubts)


def clean_age(text: str, image_id: str) -> tuple[float | None, tuple[LeftOut, ...]]:
    """Age in years, None when unknown; and the doubt when the text is no age."""
    if known_value(text) is None:
        return None, ()
    try:
        age = float(text)
    except ValueError:
        age = math.nan
    if 0 <= age <= OLDEST:
        return age, ()
    reason = f"Expected an age of 0 to {OLDEST:g}; found {text!r}. The image is kept, its age unknown."
    return None, (LeftOut(f"{image_id}, age", reason),)


def known_value(text: str) -> str | None:
    """The value in lower case; None for the ways in which a CSV says that it is unknown."""
    value = text.lower()
    return None if value in ("", "unknown", "nan", "na", "n/a", "none", "null") else value


def without_extension(image_id: str) -> str:
    """The id, without the extension that some lists carry."""
    stem, dot, extension = image_id.rpartition(".")
    return stem if dot and f".{extension.lower()}" in images.EXTENSIONS else image_id


def complete_folder(made: Dataset) -> None:
    """Write what a reconstruction's folder needs besides its images, so that it can be registered again."""
    if made.layout == "ham10000":
        write_metadata(made, made.root / "HAM10000_metadata.csv")
    if made.synthetic:
        (made.root / "SYNTHETIC.txt").write_text("These images are synthetic; they show no patient.\n")
