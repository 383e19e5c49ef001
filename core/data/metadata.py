"""Metadata of images: ids, labels, diagnoses, lesions, ages; and their spellings in folder names and CSVs."""

from __future__ import annotations

import math
import re
import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass, fields
from functools import cache

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
# HAM10000's akiec appears as two diagnoses. Case is ignored; - and _ count as spaces.
DX_OF_ISIC: Mapping[str, str] = {
    "melanoma": "mel",
    "malignant melanoma": "mel",
    "melanoma, nos": "mel",
    "melanoma in situ": "mel",
    "melanoma invasive": "mel",
    "melanoma metastasis": "mel",
    "malignant melanocytic proliferations (melanoma)": "mel",
    "nevus": "nv",
    "nevi": "nv",
    "naevus": "nv",
    "naevi": "nv",
    "nev": "nv",
    "common nevus": "nv",
    "atypical nevus": "nv",
    "melanocytic nevus": "nv",
    "melanocytic nevi": "nv",
    "benign nevus": "nv",
    "benign nevi": "nv",
    "basal cell carcinoma": "bcc",
    "basal cell carcinomas": "bcc",
    "ak": "akiec",
    "ack": "akiec",
    "actinic keratosis": "akiec",
    "actinic keratoses": "akiec",
    "actinic keratoses and intraepithelial carcinoma": "akiec",
    "actinic keratoses and intraepithelial carcinomae": "akiec",
    "bowen's disease": "akiec",
    "bowen disease": "akiec",
    "scc": "akiec",
    "solar or actinic keratosis": "akiec",
    "squamous cell carcinoma": "akiec",
    "squamous cell carcinoma, nos": "akiec",
    "squamous cell carcinoma in situ": "akiec",
    "squamous cell carcinoma, invasive": "akiec",
    "benign keratosis": "bkl",
    "benign keratoses": "bkl",
    "benign keratosis like lesion": "bkl",
    "benign keratosis like lesions": "bkl",
    "pigmented benign keratosis": "bkl",
    "seborrheic keratosis": "bkl",
    "seborrheic keratoses": "bkl",
    "seborrhoeic keratosis": "bkl",
    "sek": "bkl",
    "solar lentigo": "bkl",
    "lichen planus like keratosis": "bkl",
    "lichenoid keratosis": "bkl",
    "dermatofibroma": "df",
    "dermatofibromas": "df",
    "vascular lesion": "vasc",
    "vascular lesions": "vasc",
    "vascular": "vasc",
    "benign soft tissue proliferations - vascular": "vasc",
}

# Names of the three sets in tables and of folders; case is ignored, - and _ count as spaces
SET_OF_WORDS: Mapping[str, str] = {
    "train": "train",
    "training": "train",
    "train set": "train",
    "training set": "train",
    "validation": "validation",
    "valid": "validation",
    "val": "validation",
    "validation set": "validation",
    "test": "test",
    "testing": "test",
    "test set": "test",
}

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


@cache
def dx_of_words() -> Mapping[str, str]:
    """Return `DX_OF_ISIC` with keys from `normal_words`."""
    return {normal_words(words): dx for words, dx in DX_OF_ISIC.items()}


def dx_of(diagnosis: str) -> str | None:
    """Return HAM10000's code of a diagnosis in words or as a code, or None.

    Words after a comma only specify the diagnosis: "Nevus, Atypical, Dysplastic, or Clark" is a nevus.
    """
    words = normal_words(diagnosis)
    if words in LABEL_OF_DX:
        return words
    return dx_of_words().get(words) or dx_of_words().get(words.partition(",")[0])


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
