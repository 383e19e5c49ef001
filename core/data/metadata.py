"""Metadata of images: ids, labels, diagnoses, lesions, ages; and their spellings in folder names and CSVs."""

from __future__ import annotations

import math
import re
import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass, fields

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
COARSE = ("benign", "malignant")  # separate classes, because they imply none of the article's

HAM10000_COLUMNS = ("lesion_id", "image_id", "dx", "age", "sex", "localization")
LABEL_COLUMN = "dermslim_label"  # only in CSVs of write_metadata: a label without a dx

# Spellings of diagnoses in the ISIC Archive's metadata.csv, the ISIC challenges and downloads with class folders.
# HAM10000's akiec appears as two diagnoses. Case is ignored; - and _ count as spaces; words after a comma do not count.
SPELLINGS: Mapping[str, tuple[str, ...]] = {
    "mel": (
        "melanoma", "malignant melanoma", "melanoma in situ", "melanoma invasive", "melanoma metastasis",
        "malignant melanocytic proliferations (melanoma)",
    ),
    "nv": (
        "nevus", "nevi", "naevus", "naevi", "nev", "common nevus", "atypical nevus", "melanocytic nevus",
        "melanocytic nevi", "benign nevus", "benign nevi",
    ),
    "bcc": ("basal cell carcinoma", "basal cell carcinomas"),
    "akiec": (
        "ak", "ack", "actinic keratosis", "actinic keratoses", "actinic keratoses and intraepithelial carcinoma",
        "actinic keratoses and intraepithelial carcinomae", "bowen's disease", "bowen disease", "scc",
        "solar or actinic keratosis", "squamous cell carcinoma", "squamous cell carcinoma in situ",
    ),
    "bkl": (
        "benign keratosis", "benign keratoses", "benign keratosis like lesion", "benign keratosis like lesions",
        "pigmented benign keratosis", "seborrheic keratosis", "seborrheic keratoses", "seborrhoeic keratosis", "sek",
        "solar lentigo", "lichen planus like keratosis", "lichenoid keratosis",
    ),
    "df": ("dermatofibroma", "dermatofibromas"),
    "vasc": ("vascular lesion", "vascular lesions", "vascular", "benign soft tissue proliferations - vascular"),
}  # fmt: skip

# Names of the three sets in tables and of folders; case is ignored, - and _ count as spaces
SPLIT_WORDS: Mapping[str, tuple[str, ...]] = {
    "train": ("train", "training", "train set", "training set"),
    "validation": ("validation", "valid", "val", "validation set"),
    "test": ("test", "testing", "test set"),
}
SET_OF_WORDS = {words: name for name, spellings in SPLIT_WORDS.items() for words in spellings}

UNKNOWN_CLASSES = ("unk", "unknown", "unlabelled", "unlabeled", "no label")

NO_FILE = "The metadata lists this image, but its file is missing."
NOT_LISTED = "The metadata does not list this image, so it has no label."
OLDEST = 120.0


@dataclass(frozen=True)
class LeftOut:
    """A file, a CSV row or a single value that was not used, with the reason as a sentence."""

    name: str
    reason: str


@dataclass(frozen=True)
class Row:
    """The cleaned metadata of one image from a CSV or a folder name.

    split: the set that is given for it: train, validation or test. doubts: values that were not used.
    """

    image_id: str
    label: str | None = None
    dx: str | None = None
    lesion_id: str | None = None
    age: float | None = None
    sex: str | None = None
    localization: str | None = None
    split: str | None = None
    doubts: tuple[LeftOut, ...] = ()


FACTS = tuple(field.name for field in fields(Row) if field.name != "doubts")


def composed(text: str) -> str:
    """Return a text in Unicode's composed form (NFC), so that file names from a Mac equal ids in a table."""
    return unicodedata.normalize("NFC", text)


def normal_words(name: str) -> str:
    """Return a name in lower case with single spaces between its words: `basal cell carcinoma`."""
    return re.sub(r"[\s_-]+", " ", composed(name).strip().lower()).strip()


DX_OF_WORDS = {normal_words(words): dx for dx, spellings in SPELLINGS.items() for words in spellings}


def dx_of(diagnosis: str) -> str | None:
    """Return HAM10000's code of a diagnosis in words or as a code, or None.

    Words after a comma only specify the diagnosis: "Nevus, Atypical, Dysplastic, or Clark" is a nevus.
    """
    words = normal_words(diagnosis)
    if words in LABEL_OF_DX:
        return words
    return DX_OF_WORDS.get(words) or DX_OF_WORDS.get(words.partition(",")[0])


def known_class(name: str) -> tuple[str, str | None] | None:
    """Return the label and dx of a class name: `nv`, `Melanoma`, `non-melanoma`, `basal cell carcinoma`."""
    words = normal_words(name)
    label = words.replace(" ", "_")
    if label in LABELS or label in COARSE:
        return label, None
    if words in NEGATIVES:
        return "negative", None
    dx = dx_of(words)
    return (LABEL_OF_DX[dx], dx) if dx else None


def says_unknown(name: str) -> bool:
    """Return whether a folder name or value means an unknown class, such as ISIC 2019's UNK."""
    return normal_words(name) in UNKNOWN_CLASSES


def clean_age(text: str, image_id: str) -> tuple[float | None, tuple[LeftOut, ...]]:
    """Return the age in years, None where unknown, and a doubt where the text is not an age."""
    if known_value(text) is None:
        return None, ()
    try:
        age = float(re.sub(r"^(\d+),(\d)$", r"\1.\2", text))  # 45,0 in a table with decimal commas
    except ValueError:
        age = math.nan
    if 0 <= age <= OLDEST:
        return age, ()
    reason = f"Expected an age from 0 to {OLDEST:g}, got {text!r}. The image is kept without an age."
    return None, (LeftOut(f"{image_id}, age", reason),)


def clean_split(text: str, image_id: str) -> tuple[str | None, tuple[LeftOut, ...]]:
    """Return the given set of an image, None where there is none, and a doubt where the text names no set."""
    if known_value(text) is None:
        return None, ()
    if found := SET_OF_WORDS.get(normal_words(text)):
        return found, ()
    reason = f"Expected a split of train, validation or test, got {text!r}. The image is kept without a given split."
    return None, (LeftOut(f"{image_id}, split", reason),)


def known_value(text: str) -> str | None:
    """Return the value in lower case; None for the spellings of an unknown value."""
    value = text.lower()
    return None if value in ("", "unknown", "nan", "na", "n/a", "none", "null") else value
