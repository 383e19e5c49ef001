"""What folders and metadata CSVs say of images: ids, labels, diagnoses, lesions, ages; and what they leave unsaid."""

from __future__ import annotations

import csv
import math
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath

from core import images
from core.errors import DatasetError

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

NO_FILE = "The metadata lists this image, but no file of that name was found."
NOT_LISTED = "The metadata does not list this image, so it has no label."
OLDEST = 120.0


@dataclass(frozen=True)
class LeftOut:
    """A file, a CSV row or a single value that was not used, with the reason as a sentence."""

    name: str
    reason: str


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
