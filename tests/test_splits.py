"""Splits: no lesion in two sets with any labels and lesions, quotas, and the leak of a random split."""

from __future__ import annotations

import csv
import time
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from core.data.datasets import DatasetImage
from core.data.metadata import LABEL_OF_DX
from core.data.splits import (
    SPLITS,
    Split,
    Targets,
    divided_lesions,
    epoch_indices,
    leak,
    missing_classes,
    reached,
    require_sets,
    shared_lesions,
    split_records,
)
from core.errors import SpecError
from core.networks.architectures import CLASSES


def record(image_id: str, label: str | None, lesion: str | None = None, sha256: str | None = None) -> DatasetImage:
    return DatasetImage(image_id, f"{image_id}.jpg", 1, 1, 1, sha256 or f"bytes of {image_id}", label, lesion_id=lesion)


def of_class(label: str, images: int, per_lesion: int = 1) -> list[DatasetImage]:
    return [record(f"{label}_{i:04}", label, f"{label}_lesion_{i // per_lesion}") for i in range(images)]


@st.composite
def record_sets(draw: st.DrawFn) -> list[DatasetImage]:
    """Draw images with any combination of labels, lesions and repeated files, including unlabelled images."""
    lesions = st.one_of(st.none(), st.integers(0, 25).map("lesion_{}".format))
    files = st.one_of(st.none(), st.none(), st.integers(0, 10).map("file_{}".format))
    labels = st.sampled_from([*CLASSES, None, "rash"])
    rows = draw(st.lists(st.tuples(labels, lesions, files), min_size=2, max_size=60))
    found = [record(f"i{place:02}", *row) for place, row in enumerate(rows)]
    return [record("first", "melanoma"), record("second", "nevus"), *found]


unhurried = settings(deadline=None)  # other tests may use the cores
small_targets = st.builds(Targets, train=st.integers(4, 60), validation=st.integers(4, 30), test=st.integers(4, 20))


def lesions_by_plain_loops(records: list[DatasetImage]) -> list[set[int]]:
    """Merge the images one pair at a time until nothing changes."""
    groups: list[set[int]] = []
    for i, one in enumerate(records):
        linked = [
            group
            for group in groups
            if any(
                one.sha256 == records[j].sha256 or (one.lesion_id and one.lesion_id == records[j].lesion_id)
                for j in group
            )
        ]
        groups = [group for group in groups if group not in linked] + [{i}.union(*linked)]
    return groups


def sets(split: Split) -> list[set[int]]:
    return [set(getattr(split, name)) for name in SPLITS]


@unhurried
@given(record_sets(), small_targets, st.integers(0, 99))
def test_no_lesion_is_in_two_splits(records: list[DatasetImage], targets: Targets, seed: int) -> None:
    split = split_records(records, targets, seed=seed)
    for lesion in lesions_by_plain_loops(records):
        assert sum(not lesion.isdisjoint(images) for images in sets(split)) <= 1
    assert shared_lesions(records, split).sentence.startswith("0 of")


@unhurried
@given(record_sets(), small_targets, st.integers(0, 99), st.booleans())
def test_every_image_is_in_at_most_one_split_and_has_a_class(
    records: list[DatasetImage], targets: Targets, seed: int, leaky: bool
) -> None:
    split = split_records(records, targets, seed=seed, leaky_split=leaky)
    counts = Counter(index for name in SPLITS for index in getattr(split, name))
    assert set(counts.values()) <= {1}
    assert all(records[index].label in split.classes for index in counts)
    assert all(list(getattr(split, name)) == sorted(getattr(split, name)) for name in SPLITS)


@unhurried
@given(record_sets(), small_targets, st.integers(0, 99), st.booleans())
def test_quotas_are_never_exceeded(records: list[DatasetImage], targets: Targets, seed: int, leaky: bool) -> None:
    split = split_records(records, targets, seed=seed, leaky_split=leaky)
    for name in SPLITS:
        counts = Counter(records[index].label for index in getattr(split, name))
        assert max(counts.values(), default=0) <= getattr(targets, name) // len(split.classes)


@unhurried
@given(record_sets(), small_targets, st.integers(0, 99), st.randoms(use_true_random=False))
def test_the_split_depends_on_seed_and_ids_and_not_on_the_order(records, targets, seed, random) -> None:
    split = split_records(records, targets, seed=seed)
    assert split == split_records(records, targets, seed=seed)
    shuffled = list(records)
    random.shuffle(shuffled)
    other = split_records(shuffled, targets, seed=seed)
    for name in SPLITS:
        ids = {records[index].image_id for index in getattr(split, name)}
        assert ids == {shuffled[index].image_id for index in getattr(other, name)}


@unhurried
@given(record_sets(), small_targets, st.integers(0, 99))
def test_oversampling_balances_the_classes_with_training_images_only(records, targets, seed) -> None:
    split = split_records(records, targets, seed=seed)
    assert set(split.oversampled) == set(split.train)
    originals = [index for index, copy in zip(split.oversampled, split.augmented, strict=True) if not copy]
    assert originals == list(split.train)
    counts = Counter(records[index].label for index in split.oversampled)
    assert len(set(counts.values())) <= 1
    times = Counter(split.oversampled)
    for label in counts:
        each = [times[index] for index in split.train if records[index].label == label]
        assert max(each) - min(each) <= 1


@unhurried
@given(st.integers(1, 200), st.integers(0, 20))
def test_a_small_class_is_divided_in_proportion_to_the_quotas_and_used_completely(images: int, seed: int) -> None:
    records = of_class("melanoma", 476) + of_class("nevus", images)
    split = split_records(
        records, Targets(train=660, validation=220, test=72), seed=seed
    )  # quotas of one class: 330, 110, 36
    exact = [images * quota / 476 for quota in (330, 110, 36)]
    counts = [sum(records[index].label == "nevus" for index in images_of) for images_of in sets(split)]
    assert sum(counts) == images
    assert all(abs(count - share) < 1 for count, share in zip(counts, exact, strict=True))
    assert [len(images_of) - count for images_of, count in zip(sets(split), counts, strict=True)] == [330, 110, 36]


def test_a_class_with_lesions_larger_than_some_shares_is_used_completely() -> None:
    records = of_class("melanoma", 100) + of_class("nevus", 12, per_lesion=6)
    split = split_records(records, Targets(train=60, validation=20, test=10))  # shares of nevus: 8, 3, 1
    nevi = [[index for index in images if records[index].label == "nevus"] for images in sets(split)]
    assert sorted(len(images) for images in nevi) == [0, 6, 6]


@pytest.mark.parametrize("seed", range(8))
def test_large_lesions_of_a_small_class_are_placed_before_small_ones(seed: int) -> None:
    nevi = [record(f"nevus_{i:02}", "nevus", "large" if i < 8 else None) for i in range(12)]
    split = split_records([*nevi, *of_class("melanoma", 45)], Targets(train=60, validation=20, test=10), seed=seed)
    assert [len([index for index in images if index < 12]) for images in sets(split)] == [8, 3, 1]


def test_another_seed_gives_another_split() -> None:
    records = of_class("melanoma", 40) + of_class("nevus", 40)
    assert (
        split_records(records, Targets(train=20, validation=10, test=6), seed=1).train
        != split_records(records, Targets(train=20, validation=10, test=6), seed=2).train
    )


def test_removing_one_image_moves_few_others() -> None:
    records = of_class("melanoma", 200, per_lesion=2) + of_class("nevus", 200)
    targets = Targets(train=120, validation=40, test=20)
    whole, without = split_records(records, targets), split_records(records[1:], targets)
    moved = sum(
        len({records[i].image_id for i in ours} ^ {records[1:][i].image_id for i in theirs})
        for ours, theirs in zip(sets(whole), sets(without), strict=True)
    )
    assert moved <= 8


def test_identical_files_and_linked_lesions_count_as_one_lesion() -> None:
    chain = [
        record("a", "melanoma", "L1"),
        record("b", "melanoma", "L1", "same"),
        record("c", "nevus", "L2", "same"),
        record("d", None, "L2", "other"),
        record("e", "nevus", None, "other"),  # linked through an unlabelled image
    ]
    for seed in range(20):
        records = chain + of_class("melanoma", 30) + of_class("nevus", 30)
        split = split_records(records, Targets(train=30, validation=16, test=16), seed=seed)
        assert sum(bool(images & {0, 1, 2, 4}) for images in sets(split)) <= 1


def test_unreadable_and_unlabelled_images_are_left_out() -> None:
    records = [*of_class("melanoma", 10), *of_class("nevus", 10), record("x", None), record("y", "rash")]
    split = split_records(records, Targets(train=100, validation=50, test=20), unreadable=(0, 15))
    assert set().union(*sets(split)) == set(range(20)) - {0, 15}
    assert split.classes == ("melanoma", "nevus")


def test_impossible_split_settings_are_refused_with_the_reason() -> None:
    with pytest.raises(SpecError, match=r"at least two classes.*got nevus"):
        split_records(of_class("nevus", 9))
    with pytest.raises(SpecError, match="at least 2 images, one for each class"):
        split_records(of_class("nevus", 9) + of_class("melanoma", 9), Targets(test=1))
    with pytest.raises(SpecError, match="got 0"):
        Targets(validation=0)
    with pytest.raises(SpecError, match="seed from 0"):
        split_records(of_class("nevus", 9) + of_class("melanoma", 9), seed=-1)


def test_a_leaky_split_is_random_by_image_and_labelled_as_leaky() -> None:
    records = of_class("melanoma", 200, per_lesion=4) + of_class("nevus", 200, per_lesion=4)
    targets = Targets(train=120, validation=60, test=40)
    leaky = split_records(records, targets, leaky_split=True)
    assert leaky.leaky
    assert leaky.label.startswith("leaky")
    assert split_records(records, targets).label == "by lesion"
    found = leak(records, targets)
    trained = {records[index].lesion_id for index in leaky.train}
    assert found == shared_lesions(records, leaky)
    assert found.test_shared == sum(records[index].lesion_id in trained for index in leaky.test)
    assert found.validation_shared == sum(records[index].lesion_id in trained for index in leaky.validation)
    assert found.test_shared > 10
    assert found.sentence.startswith(f"{found.test_shared} of 40 test images and")


def test_the_split_table_counts_lesions_images_and_repeats() -> None:
    records = of_class("melanoma", 100, per_lesion=2) + of_class("negative", 10)
    table = reached(records, split_records(records, Targets(train=60, validation=20, test=10))).set_index(
        ["label", "split"]
    )
    assert table.loc[("melanoma", "train")].tolist() == [30, 15, 30, 30]
    assert table.loc[("melanoma", "test")].tolist() == [
        5,
        2,
        4,
        4,
    ]  # each lesion has two images, so a quota of five gives four
    assert table.loc[("negative", "train")].tolist() == [30, 7, 7, 30]
    assert table.loc[("negative", "validation")].tolist() == [10, 2, 2, 2]


def test_the_order_of_an_epoch_depends_on_seed_and_epoch_and_contains_every_image() -> None:
    split = split_records(of_class("melanoma", 40) + of_class("nevus", 9), Targets(train=20, validation=10, test=6))
    indices, augmented = epoch_indices(split, 7, 3)
    again, _ = epoch_indices(split, 7, 3)
    assert indices.tolist() == again.tolist()
    assert indices.tolist() != epoch_indices(split, 7, 4)[0].tolist()
    assert indices.tolist() != epoch_indices(split, 8, 3)[0].tolist()
    pairs = Counter(zip(indices.tolist(), augmented.tolist(), strict=True))
    assert pairs == Counter(zip(split.oversampled, split.augmented, strict=True))
    assert (indices.dtype, augmented.dtype) == (np.int64, np.bool_)


def ham10000(real_data: Path) -> list[DatasetImage]:
    same = {"ISIC_0029861": "ISIC_0024366", "ISIC_0029938": "ISIC_0024777"}
    with (real_data / "ham10000" / "HAM10000_metadata.csv").open(newline="") as file:
        lesions = [
            replace(record(row["image_id"], LABEL_OF_DX[row["dx"]], row["lesion_id"]), dx=row["dx"])
            for row in csv.DictReader(file)
        ]
    lesions = [replace(one, sha256=same.get(one.image_id, one.image_id)) for one in lesions]
    return lesions + [record(f"arm_{number}", "negative") for number in range(164)]


@pytest.mark.real_data
def test_all_of_ham10000_meets_the_articles_quotas_and_would_leak_at_random(real_data: Path) -> None:
    records = ham10000(real_data)
    started = time.process_time()
    split = split_records(records)
    assert time.process_time() - started < 2
    table = reached(records, split).set_index(["label", "split"])
    for label in ("nevus", "non_melanoma"):
        assert table.loc[label, "images"].tolist() == [825, 275, 90]
    # 1,113 melanomas are fewer than 825 + 275 + 90, and so are 164 negatives: all of them are used
    assert table.loc["melanoma", "images"].tolist() == [772, 257, 84]
    assert table.loc["negative", "images"].tolist() == [114, 38, 12]
    assert set(table.xs("train", level="split")["oversampled"]) == {825}
    assert shared_lesions(records, split).test_shared == 0
    random = leak(records)
    assert random.test_images == 276
    assert random.test_shared > 60
    assert random.validation_shared > 180


def of_lesions(*sizes: tuple[str, int]) -> tuple[DatasetImage, ...]:
    """Return one lesion per pair of class and number of images."""
    return tuple(
        record(f"I{number}-{image}", label, f"L{number}")
        for number, (label, images) in enumerate(sizes)
        for image in range(images)
    )


def test_a_set_without_an_image_is_refused_with_the_images_and_lesions_of_each_class() -> None:
    records = of_lesions(("melanoma", 5), ("nevus", 5))
    with pytest.raises(SpecError) as raised:
        require_sets(records, split_records(records))
    assert "no image is left for validation" in str(raised.value)
    assert "all images of a lesion belong to one set" in str(raised.value)
    assert "The data set has 5 images of 1 lesion of melanoma, 5 images of 1 lesion of nevus." in str(raised.value)
    records = of_lesions(("melanoma", 20), ("nevus", 20))
    require_sets(records, split_records(records, leaky_split=True))


def test_a_leaky_split_of_too_few_images_is_refused_too() -> None:
    records = of_lesions(("melanoma", 1), ("nevus", 1))
    with pytest.raises(SpecError, match="because each image belongs to one set"):
        require_sets(records, split_records(records, leaky_split=True))


def test_an_empty_test_set_is_reported_and_training_is_possible() -> None:
    records = of_lesions(*[("melanoma", 2), ("nevus", 2)] * 6)
    split = split_records(records)
    assert (len(split.train) > 0, len(split.validation) > 0, split.test) == (True, True, ())
    require_sets(records, split)
    assert missing_classes(records, split) == ["No image is left for test: its figures are undefined."]


def test_a_class_missing_in_a_set_is_named() -> None:
    records = of_lesions(*[("melanoma", 1)] * 20, ("nevus", 9))
    split = split_records(records)
    holders = {name for name in SPLITS for index in getattr(split, name) if records[index].label == "nevus"}
    lacking = [name for name in SPLITS if name not in holders]
    assert len(lacking) == 2
    sentences = missing_classes(records, split)
    assert len(sentences) == 2
    assert all(sentence.startswith("No image of nevus is left for ") for sentence in sentences)
    if "train" in lacking:
        with pytest.raises(SpecError, match="training has the class melanoma alone"):
            require_sets(records, split)


def in_set(split: str | None, *images: DatasetImage) -> list[DatasetImage]:
    return [replace(image, split=split) for image in images]


def given_records() -> list[DatasetImage]:
    """Return 9 melanomas and 6 nevi with given sets; two lesions are in two sets."""
    melanomas, nevi = of_class("melanoma", 9, per_lesion=2), of_class("nevus", 6, per_lesion=2)
    return [
        *in_set("train", *melanomas[:5]),
        *in_set("validation", *melanomas[5:7]),
        *in_set("test", *melanomas[7:]),
        *in_set("train", *nevi[:2]),
        *in_set("validation", *nevi[2:4]),
        *in_set("test", *nevi[4:]),
    ]


def test_given_sets_are_used_as_they_are_whatever_the_targets_and_the_seed() -> None:
    records = given_records()
    for seed, targets in ((1, Targets(train=4, validation=4, test=4)), (5, Targets(test=1))):
        split = split_records(records, targets, seed=seed, given=True)
        for name in SPLITS:
            assert [records[index].split for index in getattr(split, name)] == [name] * len(getattr(split, name))
        assert [len(images) for images in sets(split)] == [7, 4, 4]
        counts = Counter(records[index].label for index in split.oversampled)
        assert counts == {"melanoma": 5, "nevus": 5}
        assert (split.given, split.leaky, split.label) == (True, False, "as given by the data set")
        require_sets(records, split)
    table = reached(records, split).set_index(["label", "split"])
    assert table.loc[("nevus", "train")].tolist() == [2, 1, 2, 5]
    assert table.loc[("melanoma", "test")].tolist() == [2, 2, 2, 2]


def test_lesions_in_two_given_sets_are_counted() -> None:
    records = given_records()
    split = split_records(records, given=True)
    assert divided_lesions(records, split) == 2  # melanomas 4 and 5, 6 and 7
    assert divided_lesions(records, split_records(records)) == 0
    assert shared_lesions(records, split).sentence == (
        "0 of 4 test images and 1 of 4 validation images share a lesion with training."
    )


def test_images_without_a_given_set_are_not_used() -> None:
    records = [*given_records(), *in_set(None, record("extra", "nevus"), record("other", "negative"))]
    split = split_records(records, given=True, unreadable=(0,))
    assert set().union(*sets(split)) == set(range(1, 15))
    assert split.classes == ("melanoma", "nevus")


def test_given_sets_that_cannot_be_trained_on_are_refused_with_the_sizes() -> None:
    with pytest.raises(SpecError, match=r"^Expected a data set that gives its splits .*, got one without\."):
        split_records(of_class("melanoma", 9) + of_class("nevus", 9), given=True)
    records = [
        replace(image, split="train" if image.split == "validation" else image.split) for image in given_records()
    ]
    with pytest.raises(SpecError) as raised:
        require_sets(records, split_records(records, given=True))
    assert str(raised.value) == (
        "Expected given splits with images for training, validation and test, and every class in training, got no image"
        " for validation (images with a class: 11 for training, 0 for validation, 4 for test). Give a split to more "
        "images, or have the sets drawn."
    )
    records = [*given_records(), *in_set("test", record("arm", "negative"))]
    with pytest.raises(SpecError, match="got no image of negative for training"):
        require_sets(records, split_records(records, given=True))


def test_a_split_seed_of_more_than_32_bits_is_refused() -> None:
    records = of_lesions(*[("melanoma", 1), ("nevus", 1)] * 9)
    split_records(records, seed=2**32 - 1)
    with pytest.raises(SpecError, match="to 4294967295"):
        split_records(records, seed=2**32)
    with pytest.raises(SpecError, match="from 1 to 1,000,000,000 images"):
        Targets(train=10**30)
