"""The input of networks: a data set's pixels as one 8-bit array on disk, and its metadata as three numbers per image.

Decoding a photograph takes longer than training a small network with it, so each data set is decoded and resized once
per size; all trainings read the same memory-mapped file. A process that maps a file holds a shared lock on it, so that
arrays in use are never removed when the cache exceeds its limit.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from statistics import fmean, median, pstdev
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import PIL

from core.data import images
from core.data.datasets import Dataset, DatasetImage, read_registered
from core.data.metadata import LeftOut
from core.data.threads import on_all_cores
from core.errors import DatasetError, ImageError, SpecError, StoreBusy
from core.files.file_lock import file_lock
from core.files.private import private_folder
from core.networks.architectures import CHANNELS, METADATA_FEATURES

RECIPE = 1  # to be raised when the same file and size would give different pixels
COLOUR_ORDER = "BGR"  # as `core.networks.keras_models` expects
PIXELS_NAME, ABOUT_NAME = "pixels.npy", "about.json"
PATIENCE = 0.5  # seconds between two progress reports of a process that waits for another's array

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class ImageArray:
    """A data set's images at one size, memory-mapped read-only.

    pixels: (images, H, W, 3) uint8, BGR; row i is image i of the data set, black where it could not be read.
    unreadable: those rows. left_out: their images with the reasons. folder: of the array.
    """

    folder: Path
    pixels: npt.NDArray[np.uint8] = field(compare=False, repr=False)
    unreadable: tuple[int, ...] = ()
    left_out: tuple[LeftOut, ...] = ()


def recipe(dataset: Dataset, height: int, width: int) -> dict[str, str | int]:
    """Return the values that determine an array's bytes."""
    return {
        "fingerprint": dataset.fingerprint,
        "images": len(dataset.records),
        "height": height,
        "width": width,
        "colour_order": COLOUR_ORDER,
        "recipe": RECIPE,
        "opencv": cv2.__version__,
        "pillow": PIL.__version__,
    }


def array_folder(dataset: Dataset, cache: Path, height: int, width: int) -> Path:
    """Return an array's folder below the cache."""
    text = json.dumps(recipe(dataset, height, width), sort_keys=True)
    return cache / f"{dataset.fingerprint[:12]}-{height}x{width}-{hashlib.sha256(text.encode()).hexdigest()[:16]}"


def image_array(
    dataset: Dataset,
    cache: Path,
    height: int,
    width: int,
    *,
    progress: Progress | None = None,
    limit: int | None = None,
) -> ImageArray:
    """Open a data set's array of one size; create it first where it does not exist.

    `progress(done, total)` is called after each image, and with 0 while another process creates the array; an exception
    from it ends the work and leaves no files. An array without some images is created again once one of them can be
    read. limit: bytes of all arrays below the cache; the least recently used are removed for a new one. Raises
    DatasetError where no image can be read or the cache cannot be written.
    """
    if height < 1 or width < 1:
        raise SpecError(f"Expected a size of at least 1×1, got {height}×{width}.")
    report = progress or (lambda done, total: None)
    folder = array_folder(dataset, cache, height, width)
    if found := open_array(dataset, folder, height, width):
        return found
    try:
        private_folder(cache)
        with locked(folder.with_name(f"{folder.name}.lock"), lambda: report(0, len(dataset.records))):
            found = open_array(dataset, folder, height, width)  # created while this process waited
            if found is None:
                found = make_array(dataset, folder, height, width, report)
                if limit is not None:
                    make_room(cache, limit)
            return found
    except OSError as error:
        raise DatasetError(f"The array cannot be written below {cache}: {error.strerror or error}.") from error


def open_array(dataset: Dataset, folder: Path, height: int, width: int) -> ImageArray | None:
    """Open an array; return None where it does not exist, is damaged, or lacks an image that can now be read."""
    try:
        about = json.loads((folder / ABOUT_NAME).read_text(encoding="utf-8"))
        pixels = mapped(folder / PIXELS_NAME)
        os.utime(folder / ABOUT_NAME)  # marks the array as recently used
        unreadable = tuple(int(row) for row in about["unreadable"])
        left_out = tuple(LeftOut(**item) for item in about["left_out"])
        same = about["recipe"] == recipe(dataset, height, width)
        missing = [dataset.records[row] for row in unreadable]
    except (OSError, ValueError, LookupError, TypeError):
        return None
    whole = same and pixels.shape == (len(dataset.records), height, width, CHANNELS) and pixels.dtype == np.uint8
    if not whole or any(not isinstance(pixels_of(dataset, record), ImageError) for record in missing):
        return None
    return ImageArray(folder, pixels, unreadable, left_out)


def make_array(dataset: Dataset, folder: Path, height: int, width: int, report: Progress) -> ImageArray:
    """Decode, resize and write every image, then rename the draft to `folder`. The caller holds the lock."""
    for half_made in folder.parent.glob(f"{folder.name}.*.half"):  # of a process that was killed
        shutil.rmtree(half_made)
    total = len(dataset.records)
    needed, free = total * height * width * CHANNELS, shutil.disk_usage(folder.parent).free
    if needed > free:
        raise DatasetError(
            f"Expected {needed / 1e6:,.0f} MB of free space below {folder.parent}, got {free / 1e6:,.0f} MB."
        )
    half = folder.with_name(f"{folder.name}.{os.getpid()}.half")
    half.mkdir()
    try:
        unreadable, left_out = [], []
        with (half / PIXELS_NAME).open("wb") as file:  # not a memory map, which a full disk turns into a SIGBUS
            shape = (total, height, width, CHANNELS)
            header = {"descr": "|u1", "fortran_order": False, "shape": shape}
            np.lib.format.write_array_header_1_0(file, header)
            outcomes = on_all_cores(partial(resized, dataset, height, width), dataset.records, report)
            for row, (record, outcome) in enumerate(outcomes):
                if isinstance(outcome, ImageError):
                    unreadable.append(row)
                    left_out.append(LeftOut(record.path, str(outcome)))
                    outcome = np.zeros(shape[1:], dtype=np.uint8)
                file.write(outcome.data)
            file.flush()
            os.fsync(file.fileno())
        if len(unreadable) == total:
            first = f"{left_out[0].name}: {left_out[0].reason}" if left_out else "There are none."
            raise DatasetError(f"Expected a readable image in {dataset.name}, got none. {first}")
        about = {
            "recipe": recipe(dataset, height, width),
            "unreadable": unreadable,
            "left_out": [asdict(item) for item in left_out],
        }
        (half / ABOUT_NAME).write_text(json.dumps(about, indent=1), encoding="utf-8")
        shutil.rmtree(folder, ignore_errors=True)  # a damaged array; processes that map it keep its pages
        half.rename(folder)
    finally:
        shutil.rmtree(half, ignore_errors=True)
    return ImageArray(folder, mapped(folder / PIXELS_NAME), tuple(unreadable), tuple(left_out))


def mapped(path: Path) -> npt.NDArray[np.uint8]:
    """Map an array's file for reading, with a shared lock that ends with the map. Raises OSError, ValueError."""
    with path.open("rb") as file:
        fcntl.flock(file, fcntl.LOCK_SH)  # the map keeps a duplicate of this file, and so the lock
        if (version := np.lib.format.read_magic(file)) != (1, 0):
            raise ValueError(f"Expected an array file of version 1.0, got {version}.")
        shape, _, dtype = np.lib.format.read_array_header_1_0(file)
        return np.memmap(file, dtype, "r", file.tell(), shape)


def make_room(cache: Path, limit: int) -> None:
    """Remove the least recently used unmapped arrays until all arrays have at most `limit` bytes."""
    used = [
        (about.stat().st_mtime, folder_bytes(about.parent), about.parent) for about in cache.glob(f"*/{ABOUT_NAME}")
    ]
    taken = sum(size for _, size, _ in used)
    for _, size, folder in sorted(used):
        if taken <= limit:
            return
        if remove_free(folder):
            taken -= size


def is_free(folder: Path) -> bool:
    """Return whether no process maps an array."""
    with _unmapped(folder) as free:
        return free


def remove_free(folder: Path) -> bool:
    """Remove an array unless a process maps it; return whether it was removed."""
    with _unmapped(folder) as free:
        if free:
            shutil.rmtree(folder)
        return free


@contextmanager
def _unmapped(folder: Path) -> Iterator[bool]:
    """Keep processes from mapping an array; yield whether none maps it now. An array without pixels is free."""
    try:
        with (folder / PIXELS_NAME).open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            yield True
    except BlockingIOError:
        yield False
    except FileNotFoundError:
        yield folder.exists()


def folder_bytes(folder: Path) -> int:
    """Return the bytes of a folder's files."""
    return sum(path.stat().st_size for path in folder.iterdir())


def resized(dataset: Dataset, height: int, width: int, record: DatasetImage) -> images.Pixels | ImageError:
    """Return an image's resized pixels, or the error."""
    pixels = pixels_of(dataset, record)
    return pixels if isinstance(pixels, ImageError) else images.resize(pixels, height, width)


def pixels_of(dataset: Dataset, record: DatasetImage) -> images.Pixels | ImageError:
    """Return the pixels of an image's file, or the error; a file that has changed is an error."""
    try:
        return images.decode(read_registered(record, dataset.root))
    except ImageError as error:
        return error


@contextmanager
def locked(path: Path, waiting: Callable[[], None]) -> Iterator[None]:
    """Hold a lock file exclusively; call `waiting` repeatedly until it is free."""
    with ExitStack() as stack:
        while True:
            try:
                stack.enter_context(file_lock(path, shared=False, timeout=PATIENCE))
                break
            except StoreBusy:
                waiting()
        yield


# Metadata


@dataclass(frozen=True)
class MetadataEncoding:
    """The encoding of metadata as numbers, learnt from training images only.

    median_age: replaces unknown ages; None where no training image has one. mean_age, age_deviation: of the training
    ages with replacements. sexes, localizations: the known values; the code of a value is its position from 1, and 0
    means unknown.
    """

    median_age: float | None
    mean_age: float
    age_deviation: float
    sexes: tuple[str, ...]
    localizations: tuple[str, ...]

    @property
    def unknown_features(self) -> tuple[str, ...]:
        """The features that no training image has; they are constant for all images."""
        known = (self.median_age is not None, bool(self.sexes), bool(self.localizations))
        return tuple(name for name, has in zip(METADATA_FEATURES, known, strict=True) if not has)

    @property
    def sentence(self) -> str | None:
        """A sentence about the features that the data set lacks; None where it lacks none."""
        if not self.unknown_features:
            return None
        return (
            f"No training image has {' or '.join(self.unknown_features)}:"
            " the network gets the mean age, or the code for unknown, instead."
        )

    def to_dict(self) -> dict[str, Any]:
        """Return the encoding as JSON-ready values."""
        return {**asdict(self), "sexes": list(self.sexes), "localizations": list(self.localizations)}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> MetadataEncoding:
        """Return the encoding that `to_dict` described."""
        lists = {name: tuple(values[name]) for name in ("sexes", "localizations")}
        return cls(**{**values, **lists})

    def encode(self, records: Sequence[DatasetImage]) -> npt.NDArray[np.float32]:
        """Return (n, 3) numbers in the order of `METADATA_FEATURES`: standardised age, code of sex, of localization."""
        sex = {value: code for code, value in enumerate(self.sexes, start=1)}
        localization = {value: code for code, value in enumerate(self.localizations, start=1)}
        rows = [
            (
                self.standardised(record.age),
                sex.get(record.sex or "", 0),
                localization.get(record.localization or "", 0),
            )
            for record in records
        ]
        return np.array(rows, dtype=np.float32).reshape(-1, len(METADATA_FEATURES))

    def standardised(self, age: float | None) -> float:
        """Return the age in deviations from the training mean; 0 where no training image has an age."""
        if self.median_age is None:
            return 0.0
        return ((self.median_age if age is None else age) - self.mean_age) / self.age_deviation


SAME_AGE = 1e-6  # years; with a smaller deviation all ages are equal, and dividing by it would overflow float32


def fit_metadata(records: Iterable[DatasetImage]) -> MetadataEncoding:
    """Learn the encoding from the training images, each counted once."""
    training = list(records)
    known = [record.age for record in training if record.age is not None]
    middle = median(known) if known else None
    ages = known + [middle or 0.0] * (len(training) - len(known)) or [0.0]
    deviation = pstdev(ages)
    return MetadataEncoding(
        median_age=middle,
        mean_age=fmean(ages),
        age_deviation=deviation if deviation > SAME_AGE else 1.0,
        sexes=values_of(record.sex for record in training),
        localizations=values_of(record.localization for record in training),
    )


def values_of(column: Iterable[str | None]) -> tuple[str, ...]:
    """Return the known values in alphabetical order."""
    return tuple(sorted({value for value in column if value}))
