"""What is known of images: ids, labels, diagnoses, lesions, ages; and how folders and CSVs word them."""

from __future__ import annotations

import math
import re
import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass
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
COARSE = ("benign", "malignant")  # classes of their own: none of the article's follows from them

HAM10000_COLUMNS = ("lesion_id", "image_id", "dx", "age", "sex", "localization")
LABEL_COLUMN = "dermslim_label"  # only in CSVs that write_metadata wrote: a label that no dx stands for

# Diagnoses as the ISIC Archive's metadata.csv, the ISIC challenges and downloads of class folders word them.
# HAM10000's akiec appears there as two diagnoses. Words are compared without case, and with spaces for - and _.
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

UNKNOWN_CLASSES = ("unk", "unknown", "unlabelled", "unlabeled", "no label")

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


def composed(text: str) -> str:
    """Return a text in Unicode's composed form (NFC): names of files from a Mac and ids in a table become equal."""
    return unicodedata.normalize("NFC", text)


def normal_words(name: str) -> str:
    """Return a name in lower case, its words parted by one space each: `Basal-cell_Carcinoma` as it is in full."""
    return re.sub(r"[\s_-]+", " ", composed(name).strip().lower()).strip()


@cache
def dx_of_words() -> Mapping[str, str]:
    """Return `DX_OF_ISIC` by the words that `normal_words` gives."""
    return {normal_words(words): dx for words, dx in DX_OF_ISIC.items()}


def dx_of(diagnosis: str) -> str | None:
    """Return HAM10000's code of a diagnosis, a code or words, or None.

    What follows a comma only narrows a diagnosis down: "Nevus, Atypical, Dysplastic, or Clark" is a nevus.
    """
    words = normal_words(diagnosis)
    if words in LABEL_OF_DX:
        return words
    return dx_of_words().get(words) or dx_of_words().get(words.partition(",")[0])


def known_class(name: str) -> tuple[str, str | None] | None:
    """Label and dx of what is named after a class: `nv`, `Melanoma`, `non-melanoma`, `basal cell carcinoma`."""
    words = normal_words(name)
    label = words.replace(" ", "_")
    if label in LABELS or label in COARSE:
        return label, None
    if words in NEGATIVES:
        return "negative", None
    dx = dx_of(words)
    return (LABEL_OF_DX[dx], dx) if dx else None


def says_unknown(name: str) -> bool:
    """Return whether a folder or value says that the class is not known, as ISIC 2019's UNK."""
    return normal_words(name) in UNKNOWN_CLASSES


def clean_age(text: str, image_id: str) -> tuple[float | None, tuple[LeftOut, ...]]:
    """Age in years, None when unknown; and the doubt when the text is no age."""
    if known_value(text) is None:
        return None, ()
    try:
        age = float(re.sub(r"^(\d+),(\d)$", r"\1.\2", text))  # 45,0 in a table of decimal commas
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
