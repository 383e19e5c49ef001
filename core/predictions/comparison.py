"""Two steps or runs on the same images: who is right where the other is not, and whether that can be chance."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import pandas as pd

from core.errors import SpecError
from core.networks.architectures import CLASSES
from core.predictions.intervals import Difference, paired_difference
from core.predictions.rows import PROBABILITIES, lesions_of, right

POINTS = 2.0  # of accuracy: the difference that the article's acceptance allows
ALPHA = 0.05
Z_ALPHA, Z_POWER = 1.96, 0.84  # two-sided 5 %, power of 80 %


@dataclass(frozen=True)
class Comparison:
    """The first predictor against the second on the images that both have seen.

    only_first, only_second: images that only this one has right. p: McNemar's test, exact and two-sided. needed: images
    with which a difference of `POINTS` would be told from chance at this share of discordant images; None where no
    image is discordant, or where the discordant ones are too few for such a difference.
    """

    images: int
    first_accuracy: float
    second_accuracy: float
    difference: Difference
    only_first: int
    only_second: int
    p: float
    needed: int | None

    @property
    def distinguishable(self) -> bool:
        """Whether McNemar's test tells the two apart at 5 %."""
        return self.p < ALPHA

    @property
    def numbers(self) -> str:
        """The difference with its interval, and McNemar's p."""
        found = self.difference
        return (
            f"difference {signed(found.value)} points, 95 % interval {signed(found.low)} to {signed(found.high)}, "
            f"McNemar p = {self.p:.2g}"
        )

    @property
    def sentence(self) -> str:
        """The comparison in words."""
        if self.distinguishable:
            better = "first" if self.only_first > self.only_second else "second"
            return f"The {better} is better on these {self.images:,} images: {self.numbers}."
        text = f"The two cannot be distinguished with {self.images:,} images: {self.numbers}."
        if self.needed is not None and self.needed > self.images:
            text += f" About {self.needed:,} images would be needed to detect a difference of {POINTS:g} points."
        return text


def signed(points: float) -> str:
    """Return points with their sign and two digits."""
    return f"{points:+.2f}".replace("-", "−")


def paired(first: pd.DataFrame, second: pd.DataFrame) -> pd.DataFrame:
    """Return the images that both have, one row each: image_id, lesion_id, label, and the rest of both columns.

    Of the second, the columns are `predicted_second` and `p_*_second`. SpecError where the two share no image, or where
    a shared image has two labels.
    """
    columns = ["image_id", "label", "predicted", *PROBABILITIES]
    both: pd.DataFrame = first.merge(second[columns], on="image_id", suffixes=("", "_second"), validate="one_to_one")
    if both.empty:
        raise SpecError("Expected two runs with the same test images, got two without a common image.")
    if apart := int((both["label"] != both["label_second"]).sum()):
        raise SpecError(f"Expected the same labels in both runs, got {apart} images with different ones.")
    return both.drop(columns="label_second")


def compare(first: pd.DataFrame, second: pd.DataFrame) -> Comparison:
    """Compare two predictors, each given by its rows of one split, on the images that both have. SpecError."""
    both = paired(first, second)
    of_first, of_second = right(both), (both["predicted_second"] == both["label"]).to_numpy(dtype=bool)
    only_first, only_second = int((of_first & ~of_second).sum()), int((~of_first & of_second).sum())
    return Comparison(
        images=len(both),
        first_accuracy=100 * float(of_first.mean()),
        second_accuracy=100 * float(of_second.mean()),
        difference=paired_difference(of_first, of_second, lesions_of(both)),
        only_first=only_first,
        only_second=only_second,
        p=mcnemar(only_first, only_second),
        needed=images_needed((only_first + only_second) / len(both)),
    )


def mcnemar(only_first: int, only_second: int) -> float:
    """Return the two-sided p of McNemar's exact test: the binomial test of the discordant images; 1 without any."""
    from scipy.stats import binomtest

    discordant = only_first + only_second
    return float(binomtest(only_first, discordant).pvalue) if discordant else 1.0


def images_needed(discordant: float, points: float = POINTS) -> int | None:
    """Return how many images tell a difference from chance: (1.96 + 0.84)² · (p − d²) / d², of Connor (1987).

    discordant: p, the share of images that one has right and the other wrong. points: 100 d. None where p is not above
    d, so that such a difference cannot occur.
    """
    share = points / 100
    if discordant <= share:
        return None
    return math.ceil((Z_ALPHA + Z_POWER) ** 2 * (discordant - share**2) / share**2)


class SeedPair(NamedTuple):
    """Two steps, each as run and number, that were trained with the same seed."""

    seed: int
    first: tuple[str, int]
    second: tuple[str, int]


def seed_pairs(first: pd.DataFrame, second: pd.DataFrame) -> tuple[SeedPair, ...]:
    """Pair the steps of two groups by their seed, in the order of the seeds.

    first, second: rows with seed, run_id and step in the order of training; of a seed trained twice the later counts.
    """
    of_first, of_second = (
        {int(row["seed"]): (str(row["run_id"]), int(row["step"])) for row in rows.to_dict("records")}
        for rows in (first, second)
    )
    return tuple(SeedPair(seed, of_first[seed], of_second[seed]) for seed in sorted(of_first.keys() & of_second.keys()))


@dataclass(frozen=True)
class OverSeeds:
    """The differences of pairs of runs that differ in their seed: mean and sample deviation, in points; n pairs."""

    mean: float
    deviation: float | None
    n: int

    @property
    def text(self) -> str:
        """Mean ± deviation and n."""
        spread = "" if self.deviation is None else f" ± {self.deviation:.2f}"
        return f"mean difference {signed(self.mean)}{spread} points, n = {self.n}"


def over_seeds(differences: Sequence[float]) -> OverSeeds:
    """Summarise the differences of one or more pairs of runs."""
    values = np.asarray(differences, dtype=np.float64)
    return OverSeeds(float(values.mean()), float(values.std(ddof=1)) if len(values) > 1 else None, len(values))


LOST, GAINED, STILL_WRONG = "lost", "gained", "still wrong"


def changed_sides(first: pd.DataFrame, second: pd.DataFrame) -> pd.DataFrame:
    """Return the images that only one of two predictors has right: the rows of `changed_classes` of two sides."""
    changed = changed_classes(first, second)
    return changed[changed["side"] != STILL_WRONG].reset_index(drop=True)


def changed_classes(first: pd.DataFrame, second: pd.DataFrame) -> pd.DataFrame:
    """Return the images that two predictors give different classes, melanomas first, then by how much changed.

    Columns: image_id, lesion_id, label, side (`lost`: only the first has it right; `gained`: only the second; `still
    wrong`), predicted and predicted_second, probability and probability_second (of the image's own class), change.
    """
    both = paired(first, second)
    of_first, of_second = right(both), (both["predicted_second"] == both["label"]).to_numpy(dtype=bool)
    places = np.array([CLASSES.index(label) for label in both["label"]], dtype=np.int64)
    rows = np.arange(len(both))
    both["probability"] = both[list(PROBABILITIES)].to_numpy()[rows, places]
    both["probability_second"] = both[[f"{name}_second" for name in PROBABILITIES]].to_numpy()[rows, places]
    both["change"] = both["probability_second"] - both["probability"]
    both["side"] = np.select([of_first, of_second], [LOST, GAINED], STILL_WRONG)
    found: pd.DataFrame = both.assign(melanoma=both["label"] == "melanoma", size=both["change"].abs())
    found = found[found["predicted"] != found["predicted_second"]]
    found = found.sort_values(["melanoma", "size", "image_id"], ascending=[False, False, True])
    columns = ["image_id", "lesion_id", "label", "side", "predicted", "predicted_second"]
    columns += ["probability", "probability_second", "change"]
    return found[columns].reset_index(drop=True)


def hard_images(classes: pd.DataFrame) -> pd.DataFrame:
    """Return the images that are wrong in most predictions, hardest first.

    classes: how often each image of several steps or runs was given each class, as `Store.predicted_classes` counts it.
    Columns: image_id, lesion_id, label, wrong, predictions, share (wrong among the predictions), most_predicted (the
    class that is predicted most often; of equal ones the first by name). Only images with a share above one half.
    """
    ordered = classes.sort_values(["image_id", "predictions", "predicted"], ascending=[True, False, True])
    counted = ordered.assign(wrong=ordered["predictions"].where(~right(ordered), 0))
    found = counted.groupby("image_id", as_index=False).agg(
        lesion_id=("lesion_id", "first"),
        label=("label", "first"),
        wrong=("wrong", "sum"),
        predictions=("predictions", "sum"),
        most_predicted=("predicted", "first"),
    )
    found["share"] = found["wrong"] / found["predictions"]
    hard: pd.DataFrame = found[found["share"] > 0.5]
    return hard.sort_values(["share", "predictions", "image_id"], ascending=[False, False, True], ignore_index=True)
