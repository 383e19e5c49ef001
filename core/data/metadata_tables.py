"""Metadata CSVs: find the tables that describe a folder's images, read them strictly line by line, and join them.

Supported are HAM10000's table, the ISIC Archive's `metadata.csv`, the ISIC challenges' ground truths (one column per
class, or a diagnosis) and metadata, and any table with a column of image ids and one of diagnoses or of given splits. A
table that is not read is listed with the reason.
"""

from __future__ import annotations

import csv
import hashlib
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath

from core.data import images
from core.data.metadata import (
    FACTS,
    HAM10000_COLUMNS,
    LABEL_COLUMN,
    LABEL_OF_DX,
    LeftOut,
    Row,
    clean_age,
    clean_split,
    composed,
    dx_of,
    known_class,
    known_value,
    says_unknown,
)
from core.errors import DatasetError

# Files with these names must be readable tables; files with other names are read where they describe the images
METADATA_NAMES = ("ham10000_metadata.csv", "ham10000_metadata.tab", "ham10000_metadata", "metadata.csv")
TABLE_ENDS = (".csv", ".tab", ".tsv")
DELIMITERS = ",\t;"
LONGEST_HEADER = 1_000_000  # bytes

# Names of columns, the preferred name first; case is ignored
ID_COLUMNS = ("image_id", "isic_id", "image_name", "image", "img_id", "filename", "file_name", "id")
DIAGNOSIS_COLUMNS = (
    "dx", "diagnosis", "diagnosis_3", "diagnosis_4", "diagnosis_5", "diagnosis_2", "diagnostic", "label", "class"
)  # fmt: skip
COARSE_COLUMNS = ("diagnosis_1", "benign_malignant")  # benign or malignant; read where no other column exists
OTHER_COLUMNS: Mapping[str, tuple[str, ...]] = {
    "lesion_id": ("lesion_id",),
    "age": ("age", "age_approx", "age_approximate"),
    "sex": ("sex", "gender"),
    "localization": ("localization", "anatom_site_general", "anatom_site_general_challenge"),
    "split": ("split",),
}
WORDS = {"lesion_id": "lesion", "age": "age", "sex": "sex", "localization": "localisation"}
# ISIC 2017's ground truth has two columns for three classes: an image with a 1 in neither is a nevus
ISIC_2017 = frozenset(("melanoma", "seborrheic_keratosis"))


@dataclass(frozen=True)
class Columns:
    """The columns of one table by meaning; None and () where a table lacks them.

    diagnoses: in the order of preference. classes: the columns of 0 and 1 of a ground truth, one per class.
    """

    image: str
    diagnoses: tuple[str, ...] = ()
    classes: tuple[str, ...] = ()
    label: str | None = None
    others: Mapping[str, str] = field(default_factory=dict)

    @property
    def labels(self) -> bool:
        """Whether the table has labels."""
        return bool(self.diagnoses or self.classes or self.label)


@dataclass(frozen=True)
class Table:
    """One metadata CSV: its path below the root, and (line number, id as written, row) of each row."""

    name: str
    columns: Columns
    rows: tuple[tuple[int, str, Row], ...]


@dataclass(frozen=True)
class Metadata:
    """The joined tables of a folder, by image id.

    listed: ids as written in the tables, some with a file extension -> image id. labels: whether the tables have
    labels. complete: whether a table with a known name lists every image, so that other images have no label.
    """

    rows: Mapping[str, Row]
    listed: Mapping[str, str]
    labels: bool
    complete: bool


def is_table(path: str) -> bool:
    """Return whether a file has a metadata table's name or extension."""
    file = PurePosixPath(path)
    return file.suffix.lower() in TABLE_ENDS or file.name.lower() in METADATA_NAMES


def read_metadata(root: Path, files: Iterable[str], names: set[str], left_out: list[LeftOut]) -> Metadata | None:
    """Read the tables among a folder's files that describe its images; return None where there is none.

    names: the pictures' paths and names, with and without extension. Unread tables and repeated, contradictory or
    missing rows are listed in `left_out`. Raises DatasetError where a table is damaged, or a file with the name of
    HAM10000's or the ISIC Archive's table is not a table.
    """
    tables = []
    seen: dict[str, str] = {}
    for path in sorted(filter(is_table, files), key=rank):
        found = read_table(root / path, path, seen, left_out)
        if found is None:
            continue
        if reason := None if is_named(path) else why_unused(found, names):
            left_out.append(LeftOut(path, reason))
        else:
            tables.append(found)
    tables.sort(key=lambda table: not table.columns.labels)  # stable
    if not tables:
        return None
    missing = [word for name, word in WORDS.items() if not any(name in table.columns.others for table in tables)]
    if missing:
        all_of = " or ".join((", ".join(missing[:-1]), missing[-1]) if missing[1:] else missing)
        left_out.append(LeftOut(tables[0].name, f"No table has a column for {all_of}, unknown for every image."))
    rows, listed = join(tables, left_out)
    labels = [table for table in tables if table.columns.labels]
    return Metadata(rows, listed, bool(labels), any(is_named(table.name) for table in labels))


def rank(path: str) -> tuple[int, int, str]:
    """Return a sort key: HAM10000's table, the ISIC Archive's, others; each nearest the root first."""
    name = PurePosixPath(path).name.lower()
    place = METADATA_NAMES.index(name) if is_named(path) else len(METADATA_NAMES)
    return place, path.count("/"), path


def is_named(path: str) -> bool:
    """Return whether a file has the name of HAM10000's or the ISIC Archive's table."""
    return PurePosixPath(path).name.lower() in METADATA_NAMES


def why_unused(table: Table, names: set[str]) -> str | None:
    """Return why a table with another name is not used; None where it describes an image of the folder."""
    rows = [row for _, listed, row in table.rows if listed in names or row.image_id in names]
    if not rows:
        return f"The table is not used: none of its {len(table.rows):,} rows names an image of this folder."
    if table.columns.labels and not any(row.label for row in rows):
        return "The table is not used: it has no known diagnosis for any image of this folder."
    if not table.columns.labels and len({row.image_id for row in rows}) < len(rows):
        return "The table is not used: it has several rows per image and no diagnosis."
    return None


def join(tables: list[Table], left_out: list[LeftOut]) -> tuple[dict[str, Row], dict[str, str]]:
    """Return the rows by image id, and the image id of each id as written. A later table fills in unknown values.

    An image id has no file extension, unless listed files differ in nothing else.
    """
    endings = defaultdict(set)
    for table in tables:
        for _, listed, row in table.rows:
            if listed != row.image_id:
                endings[row.image_id].add(listed)
    rows: dict[str, Row] = {}
    ids: dict[str, str] = {}
    for table in tables:
        own: dict[str, Row] = {}
        for line, listed, read in table.rows:
            image_id = listed if len(endings[read.image_id]) > 1 else read.image_id
            row = replace(read, image_id=image_id)
            ids[listed] = ids[image_id] = image_id
            if image_id in own:
                same = "is equal" if own[image_id] == row else "differs"
                reason = f"The metadata lists {image_id} more than once. The first row is used; this one {same}."
                left_out.append(LeftOut(f"{table.name}, line {line}", reason))
                continue
            own[image_id] = row
            known = rows.setdefault(image_id, row)
            if known.split and row.split and known.split != row.split:
                reason = f"This row has {row.split} for {image_id}. Another table has {known.split} and is used."
                left_out.append(LeftOut(f"{table.name}, line {line}", reason))
            before, now = known.dx or known.label, row.dx or row.label
            if known.label and row.label and (known.label != row.label or (known.dx and row.dx and before != now)):
                reason = f"This row has {now} for {image_id}. Another table has {before} and is used."
                left_out.append(LeftOut(f"{table.name}, line {line}", reason))
            elif known is not row:
                rows[image_id] = filled(known, row)
    return rows, ids


def filled(known: Row, other: Row) -> Row:
    """Return a row whose unknown values are taken from another row of the same image."""
    facts = {name: getattr(other, name) for name in FACTS if getattr(known, name) is None}
    if known.label:  # its diagnosis belongs to it
        facts.pop("dx", None)
    return replace(known, **facts, doubts=known.doubts if known.label or not other.label else other.doubts)


# One table


def read_table(path: Path, name: str, seen: dict[str, str], left_out: list[LeftOut]) -> Table | None:
    """Read one CSV; return None, with an item in `left_out`, where it does not describe images.

    seen: SHA-256 of the tables read so far -> their names; a copy is not read again. Raises DatasetError.
    """
    try:
        with path.open("rb") as file:
            start = file.read(LONGEST_HEADER)
            line, first = next(text_lines(start.decode("utf-8-sig", errors="replace")), (0, ""))
            if not is_named(name) and find_columns(split_header(first)[1]) is None:
                no_text = f"The table is not read: line {line} is not UTF-8."
                left_out.append(LeftOut(name, no_text if {"\0", "\ufffd"} & set(first) else not_read(first)))
                return None
            data = start + file.read()
    except OSError as error:
        raise DatasetError(f"The metadata {name} cannot be read: {error.strerror}.") from error
    digest = hashlib.sha256(data).hexdigest()
    if digest in seen:
        left_out.append(LeftOut(name, f"The table is a copy of {seen[digest]}, which is read."))
        return None
    seen[digest] = name
    return parse_table(data, name, left_out)


def not_read(header: str) -> str:
    """Return why a CSV is not read as metadata."""
    columns = split_header(header)[1]
    shown = ", ".join(columns[:8]) + (", …" if len(columns) > 8 else "")
    shown = "".join(each if each.isprintable() else "?" for each in shown)
    return (
        f"The table is not read. Expected a column of image ids ({', '.join(ID_COLUMNS[:4])}, …) and one of diagnoses "
        f"(dx, diagnosis, or one per class), got {shown[:200] or 'no header'}."
    )


def parse_table(data: bytes, name: str, left_out: list[LeftOut]) -> Table | None:
    """Parse a CSV; return None, with an item in `left_out`, for a ground truth with values other than 0 and 1."""
    lines = numbered_lines(data, name)
    header = next(lines, (0, ""))[1]
    delimiter, names = split_header(header)
    columns = find_columns(names)
    if columns is None:
        raise DatasetError(
            f"Expected the columns {', '.join(HAM10000_COLUMNS)} (HAM10000; image_id and dx suffice) or isic_id and"
            f" diagnosis or diagnosis_3 (ISIC Archive) in {name},"
            f" got {', '.join(filter(None, names)) or 'no header'}."
        )
    used = {columns.image, *columns.diagnoses, *columns.classes, *columns.others.values(), columns.label}
    repeated = [each for each, count in Counter(names).items() if count > 1 and each in used]
    if repeated:
        raise DatasetError(f"Expected each column once in {name}, got several of {', '.join(repeated)}.")
    if headless(names):
        lines, names = numbered_lines(data, name), [columns.image, *columns.diagnoses]
    rows = []
    for line, text in lines:
        cells = split_line(text, delimiter, name, line)
        if any(cells[len(names) :]):
            reason = f"Expected at most {len(names)} values, one per column, got {len(cells)}. The row is not used."
            left_out.append(LeftOut(f"{name}, line {line}", reason))
            continue
        values = defaultdict(str, zip(names, cells, strict=False))
        listed = composed(values[columns.image])
        if not listed:
            left_out.append(LeftOut(f"{name}, line {line}", "The row has no image id."))
            continue
        if odd := [each for each in columns.classes if values[each] not in ("", *ZEROS, *ONES)]:
            if is_named(name):
                raise DatasetError(f"Expected 0 or 1 in {name}, line {line}, column {odd[0]}, got {values[odd[0]]}.")
            reason = f"The table is not read: line {line} has {values[odd[0]]!r} for {odd[0]}, not 0 or 1."
            left_out.append(LeftOut(name, reason))
            return None
        rows.append((line, listed, clean(values, columns, without_extension(listed))))
    return Table(name, columns, tuple(rows))


def numbered_lines(data: bytes, name: str) -> Iterator[tuple[int, str]]:
    """Yield the lines that are not blank, with their numbers from 1. Raises DatasetError unless they are UTF-8."""
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data[: error.start].count(b"\n") + 1
        raise DatasetError(
            f"Expected {name} to be a CSV file in UTF-8, got the byte 0x{data[error.start]:02x} in line {line}."
        ) from error
    for line, content in text_lines(text):
        if "\0" in content:
            raise DatasetError(f"Expected {name} to be a CSV file in UTF-8, got a NUL character in line {line}.")
        yield line, content


def text_lines(text: str) -> Iterator[tuple[int, str]]:
    """Yield the lines that are not blank, with their numbers from 1, without Excel's first line `sep=;`."""
    for line, content in enumerate(text.replace("\r\n", "\n").replace("\r", "\n").split("\n"), start=1):
        if content.strip() and not (line == 1 and re.fullmatch(r"sep=.", content.strip())):
            yield line, content


def split_line(text: str, delimiter: str, name: str, line: int) -> list[str]:
    """Return the values of one line, without outer spaces. Raises DatasetError where a quote stays open."""
    try:
        return [
            cell.strip() for cell in next(csv.reader([text], delimiter=delimiter, strict=True, skipinitialspace=True))
        ]
    except (csv.Error, StopIteration) as error:
        reason = "a quote is not closed" if "unexpected end" in str(error) else str(error)
        raise DatasetError(f"Expected {name} to be a CSV file, but line {line} cannot be read: {reason}.") from error


def split_header(line: str) -> tuple[str, list[str]]:
    """Return a table's delimiter and its column names in lower case, from its first line."""
    candidates = []
    for delimiter in DELIMITERS:
        try:
            cells = next(csv.reader([line], delimiter=delimiter, skipinitialspace=True), [])
        except csv.Error:  # a value longer than any column's name
            cells = []
        names = [cell.strip().lower() for cell in cells]
        candidates.append((find_columns(names) is not None, len(names), delimiter, names))
    _, _, delimiter, names = max(candidates, key=lambda each: each[:2])
    return delimiter, names


# Columns and values

ZEROS, ONES = ("0", "0.0", "0,0"), ("1", "1.0", "1,0")


def find_columns(names: list[str]) -> Columns | None:
    """Return the columns by meaning; None where none names the image, or none describes it."""
    if headless(names):
        return Columns("image_id", diagnoses=("diagnosis",))
    image = next((each for each in ID_COLUMNS if each in names), None)
    if image is None:
        return None
    diagnoses = tuple(each for each in DIAGNOSIS_COLUMNS if each in names)
    coarse = tuple(each for each in COARSE_COLUMNS if each in names)
    classes = tuple(each for each in names if each != image and (known_class(each) or says_unknown(each)))
    found = Columns(
        image,
        diagnoses=diagnoses or (coarse if len(classes) < 2 else ()),
        classes=classes if len(classes) > 1 and not diagnoses else (),
        label=LABEL_COLUMN if LABEL_COLUMN in names else None,
        others={
            name: column
            for name, columns in OTHER_COLUMNS.items()
            if (column := next((each for each in columns if each in names), None))
        },
    )
    return found if found.labels or found.others else None


def headless(names: list[str]) -> bool:
    """Return whether a table's first line is a row, as in ISIC 2016's ground truth: `ISIC_0000000,benign`."""
    return len(names) == 2 and names[0][-1:].isdigit() and known_class(names[1]) is not None


def clean(values: Mapping[str, str], columns: Columns, image_id: str) -> Row:
    """Clean one row."""
    cells = {name: values[column] for name, column in columns.others.items()}
    age, doubts = clean_age(cells.get("age", ""), image_id)
    split, no_split = clean_split(cells.get("split", ""), image_id)
    label, dx, more = clean_classes(values, columns, image_id)
    if columns.label:
        label = values[columns.label] or label
    sex, localization = known_value(cells.get("sex", "")), known_value(cells.get("localization", ""))
    lesion = cells.get("lesion_id") or None
    return Row(image_id, label, dx, lesion, age, sex, localization, split, doubts + no_split + more)


Cleaned = tuple[str | None, str | None, tuple[LeftOut, ...]]  # label, dx, doubts


def clean_classes(values: Mapping[str, str], columns: Columns, image_id: str) -> Cleaned:
    """Return a row's label and dx, from its diagnosis or from the class column with a 1."""
    if columns.diagnoses[:1] == ("dx",):
        return clean_dx(values["dx"].lower(), image_id, doubted=columns.label is None)
    if columns.diagnoses:
        return clean_diagnoses([values[column].lower() for column in columns.diagnoses], image_id)
    if not columns.classes:
        return None, None, ()
    chosen = [each for each in columns.classes if values[each] in ONES]
    if not chosen and frozenset(columns.classes) == ISIC_2017:
        return "nevus", "nv", ()
    if len(chosen) == 1 and not says_unknown(chosen[0]):
        return clean_diagnoses(chosen, image_id)
    found = ", ".join(each.upper() for each in chosen) or "none"
    reason = f"Expected a 1 for exactly one known class, got it for {found}. The image is kept unlabelled."
    return None, None, (LeftOut(f"{image_id}, class", reason),)


def clean_dx(text: str, image_id: str, *, doubted: bool) -> Cleaned:
    """Return the label and dx from HAM10000's column; a class name such as "negative" is a label without dx."""
    found = text or None
    label, dx = known_class(text) or (None, found)
    if label is not None or not doubted:
        return label, dx, ()
    reason = f"Expected a diagnosis (dx) of {', '.join(LABEL_OF_DX)}, got {found!r}. The image is kept unlabelled."
    return None, dx, (LeftOut(f"{image_id}, dx", reason),)


def clean_diagnoses(diagnoses: list[str], image_id: str) -> Cleaned:
    """Return the label and dx of the first known diagnosis, in words or as a code."""
    found: list[tuple[str, str | None]] = [(LABEL_OF_DX[dx], dx) for each in diagnoses if (dx := dx_of(each))]
    found = found or [known for each in diagnoses if (known := known_class(each))]
    if found:
        return *found[0], ()
    named = next(filter(None, diagnoses), "none")
    reason = f"The diagnosis {named!r} is not one of HAM10000's seven. The image is kept unlabelled."
    return None, None, (LeftOut(f"{image_id}, diagnosis", reason),)


def without_extension(image_id: str) -> str:
    """Return the id without the file extension that some tables write."""
    stem, dot, extension = image_id.rpartition(".")
    return stem if dot and f".{extension.lower()}" in images.EXTENSIONS else image_id
