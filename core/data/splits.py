"""Training, validation and test sets that share no lesion, and the order of the training set in an epoch.

HAM10000 has 10,015 images of 7,470 lesions: where sets are drawn image by image, a network is tested on lesions that it
was trained on. `leak` counts them; `leaky_split=True` makes such a split for comparison. `given=True` uses the sets
that a data set names itself. Indices are positions in the records.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from hashlib import blake2b
from typing import TYPE_CHECKING, Annotated

import numpy as np
import numpy.typing as npt

from core.data.datasets import DatasetImage
from core.errors import SpecError
from core.networks.architectures import CLASSES
from core.specs import LARGEST_SEED, Setting, Spec, Whole

if TYPE_CHECKING:
    import pandas as pd

SPLITS = ("train", "validation", "test")
SET_NAMES = {"train": "training", "validation": "validation", "test": "test"}
MOST_IMAGES = 10**9  # of a set's target

Indices = npt.NDArray[np.int64]
Group = tuple[int, ...]  # records of one lesion, which belong to one split


_Images = partial(Setting, ge=1, le=MOST_IMAGES, unit="images")


class Targets(Spec):
    """How many images each split shall have, all classes together (docs/definitions.md, data)."""

    train: Annotated[Whole, _Images("Training images")] = 3300
    validation: Annotated[Whole, _Images("Validation images")] = 1100
    test: Annotated[Whole, _Images("Test images")] = 360

    def quotas(self, classes: int) -> Indices:
        """Return the images of one class in each of `SPLITS`; classes are equal, a remainder is left out."""
        quotas = np.array([self.train, self.validation, self.test]) // classes
        if not quotas.all():
            raise SpecError(f"Expected targets of at least {classes} images, one for each class, got {self}.")
        return quotas


@dataclass(frozen=True)
class Split:
    """The records of each set: ascending indices, none in two sets.

    classes: those with images, in the order of `CLASSES`. leaky: drawn image by image, so that sets share lesions.
    given: as the data set names them, where targets do not apply.
    oversampled: `train` with repeats for smaller classes. augmented: for each of these, whether it is a repeat, which
        is augmented; validation and test have none.
    """

    targets: Targets
    seed: int
    leaky: bool
    classes: tuple[str, ...]
    train: tuple[int, ...]
    validation: tuple[int, ...]
    test: tuple[int, ...]
    oversampled: tuple[int, ...]
    augmented: tuple[bool, ...]
    given: bool = False

    @property
    def label(self) -> str:
        """The name of the split beside its results."""
        if self.given:
            return "as given by the data set"
        return "leaky: random by image, lesions shared between the sets" if self.leaky else "by lesion"


@dataclass(frozen=True)
class Leak:
    """The numbers of validation and test images, and of those that share a lesion with training."""

    validation_images: int
    validation_shared: int
    test_images: int
    test_shared: int

    @property
    def sentence(self) -> str:
        """The four numbers in words."""
        return (
            f"{self.test_shared:,} of {self.test_images:,} test images and {self.validation_shared:,} of"
            f" {self.validation_images:,} validation images share a lesion with training."
        )


def split_records(
    records: Sequence[DatasetImage],
    targets: Targets | None = None,
    *,
    seed: int = 1,
    leaky_split: bool = False,
    given: bool = False,
    unreadable: Collection[int] = (),
) -> Split:
    """Divide the labelled records into sets of equal classes; a lesion's images stay in one set.

    A class with fewer images than its quotas is divided in their proportions, and its training images are repeated up
    to the number of the largest class. Images beyond the quotas, `unreadable` ones and those with labels outside
    `CLASSES` are not used. The split depends on the seed and the records' ids, not on their order; one image more or
    less moves few others. `leaky_split` treats every image as a separate lesion. `given` takes the sets that the
    records name, as they are: images without one are not used, and only the repeats are drawn. Raises SpecError where
    fewer than two classes have images.
    """
    if not 0 <= seed <= LARGEST_SEED:
        raise SpecError(f"Expected a seed from 0 to {LARGEST_SEED}, got {seed}.")
    if leaky_split and given:
        raise SpecError("Expected either a leaky split, drawn image by image, or the given split, got both.")
    targets = targets or Targets()
    labels = class_numbers(records)
    labels[list(unreadable)] = -1
    if given:
        labels[[record.split is None for record in records]] = -1
        if not any(record.split for record in records):
            raise SpecError(
                "Expected a data set that gives its splits (a column split, or folders train, validation and test),"
                " got one without. If you have added them, register the folder again."
            )
    found = [number for number in range(len(CLASSES)) if (labels == number).any()]
    if len(found) < 2:
        names = ", ".join(CLASSES[number] for number in found) or "none"
        others = sorted({record.label for record in records if record.label} - {*CLASSES})[:5]
        more = f" Networks are not trained on the other labels: {', '.join(others)}." if others else ""
        raise SpecError(f"Expected images of at least two classes of {', '.join(CLASSES)}, got {names}.{more}")
    usable = np.flatnonzero(labels >= 0)
    if given:
        sets = [[index for index in usable.tolist() if records[index].split == name] for name in SPLITS]
    else:
        quotas = np.zeros((len(SPLITS), len(CLASSES)), dtype=np.int64)
        quotas[:, found] = targets.quotas(len(found))[:, None]
        lesions = np.arange(len(records)) if leaky_split else lesion_numbers(records)
        placed = place(grouped(lesions, usable), records, labels, quotas, seed)
        sets = [sorted(index for group in side for index in group) for side in placed]
    train, validation, test = map(tuple, sets)
    oversampled, augmented = oversample(train, labels, seed)
    classes = tuple(CLASSES[number] for number in found)
    return Split(targets, seed, leaky_split, classes, train, validation, test, oversampled, augmented, given)


# For tuples of records. A grid of runs shares its sets: dividing 10,000 records takes 0.3 s, a cached result 10 ms.
cached_split = lru_cache(maxsize=8)(split_records)


def require_sets(records: Sequence[DatasetImage], split: Split) -> None:
    """Raise SpecError where training or validation has no images, or training has only one class.

    A network can be trained without test images: see `missing_classes`. Of given sets none may be empty, and training
    must have every class.
    """
    if split.given:
        _require_given(records, split)
    empty = [name for name in SPLITS if not getattr(split, name)]
    taught = {records[index].label for index in split.train}
    if not {"train", "validation"} & set(empty) and len(taught) > 1:
        return
    found = (
        f"no image is left for {' and '.join(SET_NAMES[name] for name in empty)}"
        if empty
        else f"training has only the class {', '.join(sorted(map(str, taught)))}"
    )
    rule = "each image belongs to one set" if split.leaky else "all images of a lesion belong to one set"
    raise SpecError(
        f"Expected images for training, validation and test, but {found}, because {rule}. The data set has "
        f"{', '.join(_class_counts(records, split.classes))}. Add images of more lesions, or change the targets."
    )


def _require_given(records: Sequence[DatasetImage], split: Split) -> None:
    empty = [SET_NAMES[name] for name in SPLITS if not getattr(split, name)]
    taught = {records[index].label for index in split.train}
    untaught = [label for label in split.classes if label not in taught]
    if not empty and not untaught:
        return
    found = f"no image for {' and '.join(empty)}" if empty else f"no image of {', '.join(untaught)} for training"
    sizes = ", ".join(f"{len(getattr(split, name)):,} for {SET_NAMES[name]}" for name in SPLITS)
    raise SpecError(
        f"Expected given splits with images for training, validation and test, and every class in training, got {found}"
        f" (images with a class: {sizes}). Give a split to more images, or have the sets drawn."
    )


def _class_counts(records: Sequence[DatasetImage], classes: Iterable[str]) -> Iterator[str]:
    lesions = lesion_numbers(records)
    for label in classes:
        own = [index for index, record in enumerate(records) if record.label == label]
        count, shown = len(own), len({int(lesions[index]) for index in own})
        images, of = "image" if count == 1 else "images", "lesion" if shown == 1 else "lesions"
        yield f"{count:,} {images} of {shown:,} {of} of {label}"


def missing_classes(records: Sequence[DatasetImage], split: Split) -> list[str]:
    """Return a sentence for each set without images, or without images of a class of the data set."""
    sentences = []
    for name in SPLITS:
        found = {records[index].label for index in getattr(split, name)}
        missing = [label for label in split.classes if label not in found]
        if not found:
            sentences.append(f"No image is left for {SET_NAMES[name]}: its figures are undefined.")
        elif missing:
            sentences.append(f"No image of {', '.join(missing)} is left for {SET_NAMES[name]}.")
    return sentences


def class_numbers(records: Iterable[DatasetImage]) -> Indices:
    """Return each record's position in `CLASSES`, the network's output; -1 for other labels and none."""
    place_of = {label: number for number, label in enumerate(CLASSES)}
    return np.array([place_of.get(record.label or "", -1) for record in records], dtype=np.int64)


def lesion_numbers(records: Sequence[DatasetImage]) -> Indices:
    """Return a number for each record, equal for records of one lesion.

    Records of one lesion share the lesion_id or the bytes, directly or through further records.
    """
    # Imported here, because the import takes a third of a second and few processes need it.
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    nodes: dict[tuple[str, str], int] = {}  # a graph's nodes: the records, then the values that link them
    edges = [
        (index, nodes.setdefault((kind, value), len(records) + len(nodes)))
        for index, record in enumerate(records)
        for kind, value in (("file", record.sha256), ("lesion", record.lesion_id))
        if value
    ]
    ends = np.array(edges, dtype=np.int64).reshape(-1, 2)
    size = len(records) + len(nodes)
    graph = coo_array((np.ones(len(ends), dtype=np.int8), (ends[:, 0], ends[:, 1])), shape=(size, size))
    numbers = connected_components(graph, directed=False)[1][: len(records)]
    return np.asarray(numbers, dtype=np.int64)


def grouped(lesions: Indices, indices: Indices) -> list[Group]:
    """Return the given records grouped by lesion."""
    groups: dict[int, list[int]] = defaultdict(list)
    for index in indices.tolist():
        groups[int(lesions[index])].append(index)
    return [tuple(group) for group in groups.values()]


def shares(quotas: Indices, available: int) -> Indices:
    """Return the images of a class in each split: the quotas, or their proportions where the class is too small.

    Rounded by largest remainder; the sum is `available`.
    """
    total = int(quotas.sum())
    if available >= total:
        return quotas
    exact = quotas * available
    parts, remainders = exact // total, exact % total
    parts[np.argsort(-remainders, kind="stable")[: available - parts.sum()]] += 1
    return parts


def draw(seed: int, image_id: str) -> tuple[int, float]:
    """Return an image's key in the random order of the seed, and a random number from 0 to 1."""
    digest = blake2b(f"{seed}/{image_id}".encode(), digest_size=16).digest()
    return int.from_bytes(digest[:8], "big"), int.from_bytes(digest[8:], "big") / 2**64


def place(
    groups: list[Group], records: Sequence[DatasetImage], labels: Indices, quotas: Indices, seed: int
) -> tuple[list[Group], ...]:
    """Return the groups of each split; no class exceeds its quota, and a group that fits in no split is not used.

    quotas: (splits, classes). A split is drawn for each group; where it is full, another is used.
    """
    numbers = range(quotas.shape[1])
    available = np.bincount(labels[labels >= 0], minlength=len(numbers))
    goals = np.stack([shares(quotas[:, number], int(available[number])) for number in numbers], axis=1)
    short: list[bool] = np.less(available, quotas.sum(axis=0)).tolist()
    used = np.zeros_like(quotas)
    placed: tuple[list[Group], ...] = tuple([] for _ in SPLITS)
    thresholds = np.cumsum(quotas.max(axis=1)) / quotas.max(axis=1).sum()

    def put(group: Group, limits: Indices, drawn: int | None) -> bool:
        need = np.bincount(labels[list(group)], minlength=len(numbers))
        missing = ((goals - used) @ need).tolist()
        fits: list[bool] = np.all(used + need <= limits, axis=1).tolist()
        for split in sorted(range(len(SPLITS)), key=lambda split: (split != drawn, -missing[split])):
            if fits[split]:
                used[split] += need
                placed[split].append(group)
                return True
        return False

    def turn(group: Group) -> tuple[int, int]:
        # In a class without enough images the largest lesions come first, because they might not fit later.
        return -len(group) if all(short[labels[index]] for index in group) else 0, draws[group][0]

    draws = {group: draw(seed, min(records[index].image_id for index in group)) for group in groups}
    left = []
    for group in sorted(groups, key=turn):
        drawn = int(np.searchsorted(thresholds, draws[group][1], side="right"))
        if not put(group, goals, drawn):
            left.append(group)
    for group in left:  # larger than any share of its class, so it goes where most is missing, up to the quota
        if any(short[labels[index]] for index in group):
            put(group, quotas, None)
    return placed


def oversample(train: tuple[int, ...], labels: Indices, seed: int) -> tuple[tuple[int, ...], tuple[bool, ...]]:
    """Return the training indices with repeats up to the size of the largest class, and which are repeats.

    The numbers of repeats of a class's images differ by at most one.
    """
    present = np.unique(labels[list(train)]).tolist()
    members = {number: [index for index in train if labels[index] == number] for number in present}
    largest = max(map(len, members.values()), default=0)
    repeats: list[int] = []
    for number, indices in members.items():
        rounds, rest = divmod(largest - len(indices), len(indices))
        chosen = np.random.default_rng([seed, number]).choice(indices, rest, replace=False)
        repeats += indices * rounds + sorted(chosen.tolist())
    return (*train, *repeats), (False,) * len(train) + (True,) * len(repeats)


def epoch_indices(split: Split, seed: int, epoch: int) -> tuple[Indices, npt.NDArray[np.bool_]]:
    """Return the oversampled training indices in the order of one epoch, and which of them are augmented.

    The order depends only on seed and epoch, so a resumed training continues identically.
    """
    order = np.random.default_rng([seed, epoch]).permutation(len(split.oversampled))
    return np.array(split.oversampled, dtype=np.int64)[order], np.array(split.augmented, dtype=np.bool_)[order]


def reached(records: Sequence[DatasetImage], split: Split) -> pd.DataFrame:
    """Return one row per class and split: label, split, quota, lesions, images, oversampled (images with repeats).

    The quota of a given set is what it has.
    """
    import pandas as pd  # here, because workers split records and need no tables

    lesions = lesion_numbers(records)
    quotas = [None] * len(SPLITS) if split.given else split.targets.quotas(len(split.classes)).tolist()
    rows = []
    for label in split.classes:
        repeated = sum(records[index].label == label for index in split.oversampled)
        for name, quota in zip(SPLITS, quotas, strict=True):
            indices = [index for index in getattr(split, name) if records[index].label == label]
            shown = len({int(lesions[index]) for index in indices})
            asked = len(indices) if quota is None else quota
            rows.append((label, name, asked, shown, len(indices), repeated if name == "train" else len(indices)))
    return pd.DataFrame(rows, columns=["label", "split", "quota", "lesions", "images", "oversampled"])


def shared_lesions(records: Sequence[DatasetImage], split: Split) -> Leak:
    """Count the validation and test images that share a lesion with training in a given split."""
    lesions = lesion_numbers(records)
    trained = lesions[list(split.train)]
    shared = [int(np.isin(lesions[list(indices)], trained).sum()) for indices in (split.validation, split.test)]
    return Leak(len(split.validation), shared[0], len(split.test), shared[1])


def divided_lesions(records: Sequence[DatasetImage], split: Split) -> int:
    """Count the lesions that have images in more than one set."""
    lesions = lesion_numbers(records)
    found = np.concatenate([np.unique(lesions[list(getattr(split, name))]) for name in SPLITS])
    return int((np.unique(found, return_counts=True)[1] > 1).sum())


def leak(
    records: Sequence[DatasetImage], targets: Targets | None = None, *, seed: int = 1, unreadable: Collection[int] = ()
) -> Leak:
    """Count the images that would share a lesion with training in a split drawn image by image."""
    drawn = cached_split(tuple(records), targets, seed=seed, leaky_split=True, unreadable=tuple(unreadable))
    return shared_lesions(records, drawn)
