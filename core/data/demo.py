"""The demo data set: synthetic photographs with metadata in the layout of HAM10000, which need no download."""

from __future__ import annotations

import csv
import shutil
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import numpy as np

from core.data import images
from core.data.datasets import METADATA_NAME, SYNTHETIC_MARKER
from core.data.demo_pictures import Photograph, draw
from core.data.metadata import LABELS
from core.data.threads import on_all_cores
from core.errors import DatasetError, SpecError

Generator = np.random.Generator

IMAGES = 400
VERSION = 1  # changes with every change of the pictures
SENTENCE = (
    "These {images} images are synthetic: DermSlim's demo generator (version {version}, seed {seed}) computed them,"
    " and they show no person's skin.\n"
)


NON_MELANOMA_SHARES = {"bkl": 0.42, "bcc": 0.24, "akiec": 0.16, "vasc": 0.1, "df": 0.08}

LOCALIZATIONS = (
    *("back", "lower extremity", "trunk", "upper extremity", "abdomen"),
    *("face", "chest", "foot", "neck", "scalp"),
)
MEAN_AGE = {"melanoma": 60.0, "nevus": 45.0, "non_melanoma": 63.0, "negative": 50.0}


def create_demo_dataset(
    folder: Path, *, images: int = IMAGES, seed: int = 1, progress: Callable[[int, int], None] | None = None
) -> Path:
    """Write `images` synthetic photographs of the four classes, equally many, as a HAM10000 folder with metadata.

    The same seed writes the same files. A folder that already holds exactly this data set is not changed; an incomplete
    one, or one with a different seed, is replaced. Raises DatasetError where the folder holds other files.
    """
    if images < len(LABELS):
        raise SpecError(f"Expected at least {len(LABELS)} images, one per class, got {images}.")
    sentence = SENTENCE.format(images=images, version=VERSION, seed=seed)
    photographs = list(plan(images, seed))
    if is_complete(folder, sentence, photographs):
        return folder
    refuse_foreign(folder)
    half = folder.with_name(f".{folder.name}.partial")
    try:
        shutil.rmtree(half, ignore_errors=True)
        for part in ("images", "negatives"):
            (half / part).mkdir(parents=True)
        for _ in on_all_cores(partial(write_photograph, half, seed), photographs, progress):
            pass
        write_table(half / METADATA_NAME, photographs)
        (half / SYNTHETIC_MARKER).write_text(sentence, encoding="utf-8")
        if folder.exists():
            shutil.rmtree(folder)
        half.rename(folder)
    except OSError as error:
        shutil.rmtree(half, ignore_errors=True)
        raise DatasetError(f"The demo data set cannot be written to {folder}: {error.strerror}.") from error
    return folder


def is_complete(folder: Path, sentence: str, photographs: list[Photograph]) -> bool:
    """Return whether the folder holds exactly this demo data set."""
    marker = folder / SYNTHETIC_MARKER
    if not marker.is_file() or marker.read_text(encoding="utf-8") != sentence:
        return False
    return (folder / METADATA_NAME).is_file() and all(
        (folder / photograph.path).is_file() for photograph in photographs
    )


def refuse_foreign(folder: Path) -> None:
    """Raise DatasetError where the folder holds other files, which replacing it would delete."""
    if folder.exists() and not folder.is_dir():
        raise DatasetError(f"Expected a folder for the demo data set, got the file {folder}.")
    for path in sorted(folder.rglob("*")) if folder.exists() else []:
        own = path.name in ("images", "negatives", METADATA_NAME, SYNTHETIC_MARKER) or path.match("DEMO_*.jpg")
        if not own:
            raise DatasetError(
                f"Expected an empty folder for the demo data set, got {folder}, which holds {path.name}."
            )


def write_photograph(root: Path, seed: int, photograph: Photograph) -> None:
    """Draw and save a photograph."""
    (root / photograph.path).write_bytes(images.encode_original(draw(photograph, seed)))


def write_table(path: Path, photographs: list[Photograph]) -> None:
    """Write the metadata in HAM10000's columns."""
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(("lesion_id", "image_id", "dx", "dx_type", "age", "sex", "localization", "dataset"))
        for p in photographs:
            age = "" if p.age is None else p.age
            lesion, dx = f"DEMO_L{p.lesion:06}", p.dx or p.label
            writer.writerow((lesion, p.image_id, dx, "synthetic", age, p.sex, p.localization, "synthetic"))


def plan(count: int, seed: int) -> Iterator[Photograph]:
    """Yield the photographs to draw: equal classes, one to three photographs per lesion, shuffled."""
    rng = np.random.default_rng((seed, 0))
    lesions: list[tuple[str, str | None]] = []
    photographs: list[tuple[str, str | None, int]] = []
    for index, label in enumerate(LABELS):
        left = count // len(LABELS) + (index < count % len(LABELS))
        while left:
            views = min(left, int(rng.choice((1, 2, 3), p=(0.7, 0.2, 0.1))))
            lesions.append((label, draw_dx(label, rng)))
            photographs += [(*lesions[-1], len(lesions))] * views
            left -= views
    people = [person(label, rng) for label, _ in lesions]
    for number, index in enumerate(rng.permutation(len(photographs)), start=1):
        label, dx, lesion = photographs[index]
        yield Photograph(number, lesion, label, dx, *people[lesion - 1])


def draw_dx(label: str, rng: Generator) -> str | None:
    """Return a diagnosis code of a class; None for healthy skin."""
    if label == "non_melanoma":
        return str(rng.choice(list(NON_MELANOMA_SHARES), p=list(NON_MELANOMA_SHARES.values())))
    return {"melanoma": "mel", "nevus": "nv"}.get(label)


def person(label: str, rng: Generator) -> tuple[float | None, str, str]:
    """Return age in steps of five years, sex and localisation; some unknown, as in HAM10000."""
    age = float(np.clip(5 * np.rint(rng.normal(MEAN_AGE[label], 16) / 5), 0, 85))
    sex = str(rng.choice(("male", "female", "unknown"), p=(0.53, 0.45, 0.02)))
    weights = 1 / np.arange(1, len(LOCALIZATIONS) + 1)
    place = str(rng.choice(LOCALIZATIONS, p=weights / weights.sum()))
    return (None if rng.random() < 0.03 else age), sex, ("unknown" if rng.random() < 0.03 else place)
