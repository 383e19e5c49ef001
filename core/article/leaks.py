"""How far sets that are drawn image by image flatter: trainings with `leaky_split` against the same ones without it.

The article does not say whether its sets keep the images of a lesion together.
"""

from __future__ import annotations

import pandas as pd

from core.article.evidence import SAME_TRAINING, of_table
from core.predictions.comparison import over_seeds
from core.specs import SettingsKey

LEAKY = "leaky_split"  # the setting


def leak_sentences(trained: pd.DataFrame, family: str | None) -> list[str]:
    """Return one sentence for each network, data set and settings that was trained on both kinds of sets.

    trained: of `Store.trainings`. family: the original data set. Only seeds with both kinds count.
    """
    steps = of_table(trained, 5)
    steps = steps[steps["family"] == family].drop_duplicates(list(SAME_TRAINING), keep="last")
    sentences = []
    alike = steps.assign(key=pd.Series(map(_but_for_the_leak, steps["settings"]), index=steps.index, dtype=object))
    for (network, dataset, _), rows in alike.groupby(["network", "dataset", "key"], sort=False):
        by_image, by_lesion = (rows[rows["leaky"] == leaky].set_index("seed") for leaky in (True, False))
        seeds = by_image.index.intersection(by_lesion.index)
        if seeds.empty:
            continue
        figures = [each.loc[seeds, "test_accuracy"] for each in (by_image, by_lesion)]
        found = over_seeds((figures[0] - figures[1]).tolist())
        sentences.append(
            f"{network} on {dataset} ({by_lesion['settings'].iloc[0]}) reaches a test accuracy of"
            f" {figures[0].mean():.2f} % where the sets are drawn image by image, and {figures[1].mean():.2f} % where"
            f" they are drawn by lesion ({found.text})."
        )
    return sentences


def _but_for_the_leak(key: SettingsKey) -> SettingsKey:
    return SettingsKey(tuple(each for each in key.values if each[0] != LEAKY))
