"""Tables 4, 5 and 6 in the article's form: measured figures, printed ones and differences; and a further table.

Input is one frame of trained steps, `core.store.trainings.STEP_COLUMNS`. `core.article.evidence` chooses them and
counts each training once. Steps of the same network, images and settings are averaged over their seeds. Those that
differ in data set or settings never are, and get rows of their own.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import pandas as pd

from core.article.printed import TABLE_METRICS, TITLES
from core.article.printed import table as printed_table
from core.errors import SpecError
from core.networks.architectures import CLASSES, NETWORKS
from core.networks.inheritance import INITIALISE
from core.specs import SettingsKey, told_apart
from core.training.algorithm2 import ORIGINAL

# The values of absent columns.
OPTIONAL: dict[str, Any] = {"settings": SettingsKey(), "images": "", "synthetic": False}
INTERVALS = "intervals"  # column of a step: see `core.predictions.intervals.intervals_of_step`
NEEDED = ("run_id", "network", "dataset", "version", "seed", "step", "name")
VERSIONS = ("original", "reconstructed")
DIGITS = 2  # as the article prints
NOTHING_ELSE = "nothing else"  # of a run whose settings all other runs have too
PRINTED_PART = "printed"
PARTS = ("measured", PRINTED_PART, "difference")
SUFFIXES = ("", "_std", "_count", "_printed", "_difference", "_best")

FURTHER = "further"  # the table of what the article does not print
WAYS = "ways"  # the table of other ways to a smaller network, `core.article.ways`
KEYS: dict[int | str, tuple[str, ...]] = {
    4: ("network", "version"),
    5: ("network", "version"),
    6: ("network", "name"),
    FURTHER: ("network", "name"),
    WAYS: ("network", "name", "way", "total_epochs"),
}
TABLES = tuple(KEYS)
VARYING = ("version", "dataset", "settings")  # that rows are not averaged over, besides a table's keys
ENDS = ("low", "high")
NO_LIMITS = (float("nan"), float("nan"))
INTERVALS_EXPLAINED = (
    " In square brackets: the 95 % interval of each run, in the order of the seeds, by 2,000 resamples of lesions;"
    " not averaged over runs."
)
LABELS = {
    "network": "Architecture",
    "version": "Images",
    "name": "Model",
    "way": "Way",
    "total_epochs": "Total epochs",
    "dataset": "Data set",
    "settings": "Settings",
    "runs": "Runs",
}


@dataclass(frozen=True, slots=True)
class Figure:
    """A column of figures: its name and label, the column of a step that it comes from, and that one's unit in it.

    digits: after the point, as shown. best: whether the highest is marked as the best. interval: the name of its
    interval, empty where it has none. missing: what is shown where no run defines it.
    """

    name: str
    label: str
    source: str
    unit: float = 1.0
    digits: int = DIGITS
    best: bool = True
    interval: str = ""
    missing: str = "undefined"


PRINTED = tuple(
    Figure(name, label, name, interval=name)
    for name, label in (
        ("train_accuracy", "Training accuracy"),
        ("train_precision", "Training precision"),
        ("validation_accuracy", "Validation accuracy"),
        ("validation_precision", "Validation precision"),
        ("test_accuracy", "Accuracy"),
        ("test_precision", "Precision"),
        ("test_recall", "Recall"),
    )
)
UNPRINTED = (
    *(
        Figure(name, label, name, interval=f"test_{name}")
        for name, label in (
            ("macro_precision", "Macro precision, %"),
            ("macro_recall", "Macro recall (balanced accuracy), %"),
            ("lesion_accuracy", "Lesion accuracy, %"),
            *((f"recall_{label}", f"Recall {label.replace('_', '-')}, %") for label in CLASSES),
        )
    ),
    Figure("parameters", "Parameters", "parameters", digits=0, best=False),
    Figure("macs", "MACs, millions", "macs", 1e6, best=False),
    Figure("weights", "Weights on disk, MB", "weights_bytes", 1e6, best=False),
    Figure("checkpoint", "With optimiser state, MB", "checkpoint_bytes", 1e6, best=False),
    Figure("epochs", "Epochs", "epochs", digits=0, best=False),
    Figure("seconds", "Time, s", "seconds", digits=1, best=False),
    Figure("epoch_seconds", "An epoch, s", "epoch_seconds", digits=2, best=False),
    Figure("peak_memory", "Peak memory, MB", "peak_memory", 1e6, digits=0, best=False),
)
OF_WAYS = (
    Figure("size", "Weights, MB", "bytes_weights", 1e6, best=False),
    Figure("difference", "Minus unpruned, points", "difference", best=False, interval="difference", missing="–"),
    Figure("naive", "Scratch minus this way, points", "naive", best=False, interval="naive", missing="–"),
    Figure("naive_parameters", "Its parameters", "naive_parameters", digits=0, best=False, missing="–"),
)
FIGURES = {figure.name: figure for figure in (*PRINTED, *UNPRINTED, *OF_WAYS)}
WAYS_FIGURES = ("parameters", "size", "test_accuracy", "difference", "naive", "naive_parameters")
WAYS_TITLE = (
    "Ways to a smaller network, by total epochs: those of a network and of the networks that it inherits or learns "
    "from. The last columns compare at equal total epochs, with the same seed, on the same images: the article's "
    "training from scratch minus the way of the row; for svd_dense, the network from scratch nearest in parameters"
)
UNPRUNED, DISTIL, SVD_DENSE, INT8 = "unpruned", "distil", "svd_dense", "int8"  # ways that are no `INITIALISE`
WAY_ORDER = (UNPRUNED, *INITIALISE, DISTIL, SVD_DENSE, INT8)
FURTHER_FIGURES = tuple(figure.name for figure in UNPRINTED)
FURTHER_TITLE = "Test figures by class, sizes and times, which the article does not print"


@dataclass(frozen=True, eq=False)
class MeasuredTable:
    """One of the article's tables measured again, or the further one.

    keys: the columns that identify a row: the article's, and those of `VARYING` in which the measured runs differ.
    rows: the keys, runs (how many were averaged, 0 where only printed), seeds and run_ids (texts, in the same order),
    all of `VARYING` and `OPTIONAL`, and for each of `metrics` its measured mean under the metric's name, and _std
    (sample deviation, missing for fewer than two runs), _count (runs in which it is defined), _printed, _difference
    (measured minus printed) and _best (True for the best measured of its network, where there are several to compare).
    Missing figures are NaN. Where intervals are asked for, the figures that can have one have _low and _high too: the
    ends of each run's 95 % interval, texts in the order of run_ids, 'nan' for a run without.
    parts: what is shown of each metric. shortened: what is shown of a row's settings; what all rows share is in the
    caption: a sentence or two, plain text.
    """

    number: int | str
    keys: tuple[str, ...]
    metrics: tuple[str, ...]
    rows: pd.DataFrame
    caption: str
    parts: tuple[str, ...]
    shortened: Mapping[SettingsKey, str] = field(default_factory=dict)


def article_table(number: int | str, steps: pd.DataFrame, *, with_intervals: bool = False) -> MeasuredTable:
    """Return Table 4, 5 or 6 for measured steps, beside what the article prints, or one of `FURTHER` and `WAYS`.

    steps: columns `NEEDED`, the sources of the table's figures, and any of `OPTIONAL`. images: a run's images in words,
    such as '3300 training, 1100 validation and 360 test images'. Tables 4 and 5 take the unpruned networks.
    with_intervals: adds the intervals in the column `INTERVALS`, which must then exist.
    """
    check_number(number)
    parts: tuple[str, ...] = PARTS if isinstance(number, int) else PARTS[:1]
    metrics, title = FURTHER_FIGURES, FURTHER_TITLE
    if number == WAYS:
        metrics, title = WAYS_FIGURES, WAYS_TITLE
    elif isinstance(number, int):
        metrics = TABLE_METRICS[number]
        title = f"Table {number} of the article, measured again. {TITLES[number]}, in percent"
    steps = _checked(steps, metrics)
    if number in (4, 5):
        steps = steps[steps["name"] == ORIGINAL]
    differing = [column for column in VARYING if column not in KEYS[number] and _differs(steps, column, KEYS[number])]
    keys = (*KEYS[number], *differing)
    shared, shortened = apart(steps["settings"])
    measured = _averaged(steps, keys, metrics)
    if with_intervals:
        measured = measured.merge(_intervals(steps, keys, metrics), on=list(keys))
    rows = _beside(measured, number, metrics, differing)
    by_network = {} if "settings" in keys else _networks_by_settings(steps, shortened)
    caption = _caption(title, steps, shared, by_network, compared=len(parts) > 1)
    if with_intervals and len(steps):
        caption += INTERVALS_EXPLAINED
    return MeasuredTable(number, keys, metrics, rows, caption, parts, shortened)


def way_kind(way: str) -> str:
    """Return the first word of a way, one of `WAY_ORDER`: svd_dense of `svd_dense 90 %`, int8 of `int8 of l1`."""
    return way.partition(" ")[0].rstrip(",")


def without_intervals(table: MeasuredTable) -> MeasuredTable:
    """Return a table with intervals as it is without."""
    ends = [f"{metric}_{end}" for metric in table.metrics for end in ENDS]
    rows = table.rows.drop(columns=ends, errors="ignore")
    return replace(table, rows=rows, caption=table.caption.removesuffix(INTERVALS_EXPLAINED))


def check_number(number: int | str) -> None:
    """Raise SpecError for a table that does not exist."""
    if number not in TABLES:
        raise SpecError(f"Expected table 4, 5, 6, {FURTHER} or {WAYS}, got {number}.")


def _checked(steps: pd.DataFrame, metrics: Sequence[str]) -> pd.DataFrame:
    """Return the steps that have any of the figures, in the figures' units, with `OPTIONAL` filled in."""
    sources = [FIGURES[metric].source for metric in metrics]
    missing = [column for column in (*NEEDED, *sources) if column not in steps]
    if missing:
        raise SpecError(f"Expected steps with the columns {', '.join((*NEEDED, *sources))}, got none of {missing}.")
    unknown = set(steps["version"].dropna()) - set(VERSIONS)
    if unknown:
        raise SpecError(f"Expected versions {' or '.join(VERSIONS)}, got {sorted(unknown)}.")
    steps = steps.assign(**{name: value for name, value in OPTIONAL.items() if name not in steps})
    steps = steps.fillna({"images": ""}).astype(dict.fromkeys(sources, "float64"))
    steps = steps[steps[sources].notna().any(axis=1)]
    return steps.assign(**{metric: steps[FIGURES[metric].source] / FIGURES[metric].unit for metric in metrics})


def _differs(steps: pd.DataFrame, column: str, keys: tuple[str, ...]) -> bool:
    """Say whether rows with equal keys differ in a column, and would be averaged over it."""
    return bool((steps.groupby(list(keys))[column].nunique() > 1).any())


def apart(settings: Iterable[SettingsKey]) -> tuple[str, dict[SettingsKey, str]]:
    """Return in words the settings that several runs share, and the other settings of each."""
    shared, own = told_apart(settings)
    return ", ".join(shared), {key: ", ".join(texts) or NOTHING_ELSE for key, texts in own.items()}


def _networks_by_settings(steps: pd.DataFrame, shortened: Mapping[SettingsKey, str]) -> dict[str, list[str]]:
    """Return the networks of each of the settings that not all runs share; empty where all runs share theirs."""
    if len(shortened) < 2:
        return {}
    found: dict[str, list[str]] = {}
    for network, settings in steps[["network", "settings"]].drop_duplicates().itertuples(index=False):
        found.setdefault(shortened[settings], []).append(network)
    return found


def _averaged(steps: pd.DataFrame, keys: tuple[str, ...], metrics: tuple[str, ...]) -> pd.DataFrame:
    """Return one row per key: mean and sample deviation over the runs, their seeds and ids, and the first step."""
    groups = steps.sort_values(["seed", "run_id"]).groupby(list(keys), sort=False)
    table = groups[list(metrics)].mean()
    table = table.join(groups[list(metrics)].std(ddof=1).add_suffix("_std"))
    table = table.join(groups[list(metrics)].count().add_suffix("_count"))
    table["runs"] = groups["run_id"].nunique()
    table["seeds"] = groups["seed"].agg(lambda seeds: " ".join(map(str, seeds)))
    table["run_ids"] = groups["run_id"].agg(" ".join)
    table["step"] = groups["step"].min()
    # Where no key tells them apart, these are the same in all of a row's runs.
    table = table.join(groups[[name for name in (*VARYING, "synthetic") if name not in keys]].first())
    table["images"] = groups["images"].agg(_each)
    return table.reset_index()


def _intervals(steps: pd.DataFrame, keys: tuple[str, ...], metrics: tuple[str, ...]) -> pd.DataFrame:
    """Return one row per key: the ends of the intervals of its runs, in the order of `_averaged`."""
    steps = steps.sort_values(["seed", "run_id"])
    ends = {
        f"{metric}_{end}": [repr(limits.get(FIGURES[metric].interval, NO_LIMITS)[place]) for limits in steps[INTERVALS]]
        for metric in metrics
        if FIGURES[metric].interval
        for place, end in enumerate(ENDS)
    }
    groups = steps.assign(**ends).groupby(list(keys), sort=False)
    return groups[list(ends)].agg(" ".join).reset_index()


def _beside(
    measured: pd.DataFrame, number: int | str, metrics: tuple[str, ...], differing: Iterable[str]
) -> pd.DataFrame:
    """Join measured rows with the article's, in its order; a row that only one side has is kept."""
    keys = list(KEYS[number])
    printed = printed_table(number) if isinstance(number, int) else pd.DataFrame(columns=[*keys, *metrics])
    printed = printed[[*keys, *metrics]].rename(columns={name: f"{name}_printed" for name in metrics})
    printed["order"] = range(len(printed))
    texts = dict.fromkeys(keys, object)  # of an empty frame too
    table = measured.astype(texts).merge(printed.astype(texts), on=keys, how="outer")
    table["place"] = table["network"].map({name: place for place, name in enumerate(NETWORKS)}).fillna(len(NETWORKS))
    # Within a network: the article's rows in its order, then the others in the order of the steps.
    further = []
    if number == WAYS:
        table["way_order"] = [WAY_ORDER.index(way_kind(way)) for way in table["way"]]
        further = ["way_order", "total_epochs", "way"]
    ordered = ["place", "network", *differing, "order", "step", *further]
    table = table.sort_values(ordered, kind="stable", na_position="last")
    table = table.reset_index(drop=True)
    counts = ["runs", *(f"{metric}_count" for metric in metrics)]
    table[counts] = table[counts].astype("float64").fillna(0).astype("int64")
    own = [name for name in (*VARYING, *OPTIONAL) if name not in (*keys, *differing)]
    ends = [name for metric in metrics for end in ENDS if (name := f"{metric}_{end}") in table]
    described = ["seeds", "run_ids", *ends, *dict.fromkeys(name for name in own if name != "synthetic")]
    table[described] = table[described].astype(object).fillna("")
    compared: dict[str, pd.Series] = {}
    for metric in metrics:
        compared[f"{metric}_difference"] = table[metric] - table[f"{metric}_printed"].astype("float64")
        shown = table[metric].round(FIGURES[metric].digits)
        networks = shown.groupby(table["network"])
        best = (shown == networks.transform("max")) & (networks.transform("count") > 1)
        compared[f"{metric}_best"] = best & FIGURES[metric].best
    table = pd.concat([table, pd.DataFrame(compared, index=table.index)], axis=1)
    suffixes = (*SUFFIXES, *(f"_{end}" for end in ENDS))
    figures = [name for metric in metrics for suffix in suffixes if (name := metric + suffix) in table]
    return table[[*keys, *differing, "runs", "seeds", "run_ids", *dict.fromkeys(own), *figures]]


def _each(texts: Iterable[str]) -> str:
    """Return the different texts, in the order in which they come."""
    return " or ".join(dict.fromkeys(filter(None, texts)))


def _caption(
    title: str, steps: pd.DataFrame, shared: str, by_network: Mapping[str, Sequence[str]], *, compared: bool
) -> str:
    if steps.empty:
        return f"{title}. Nothing measured yet{'; printed figures only' if compared else ''}."
    datasets = steps[["dataset", "version", "synthetic"]].drop_duplicates().sort_values(["version", "dataset"])
    named = ", ".join(
        f"{row.dataset} ({row.version}{', synthetic' if row.synthetic else ''})" for row in datasets.itertuples()
    )
    images = _counts(steps)
    seeds = sorted(steps["seed"].dropna().unique())
    own = [f"{', '.join(networks)}: {each}" for each, networks in by_network.items() if each != NOTHING_ELSE]
    settings = "; ".join(filter(None, [shared, *own]))
    parts = [
        f"Data: {named}",
        *([f"n: {images}"] if images else []),
        f"{counted(steps['run_id'].nunique(), 'run')}, {counted(len(seeds), 'seed')} "
        f"({', '.join(str(int(seed)) for seed in seeds)})",
        *([f"settings: {settings}"] if settings else []),
    ]
    deviation = " Mean ± sample deviation over seeds." if steps["run_id"].nunique() > 1 else ""
    difference = " Difference: measured minus printed." if compared else ""
    return (
        f"{title}. {'; '.join(parts)}. {len(CLASSES)} classes.{deviation}{difference} "
        "Bold: the best measured figure of a network."
    )


def images_text(sets: Mapping[Hashable, Any]) -> str:
    """Return how many images a training had, in words; empty where that is not recorded. sets: a row of `trainings`."""
    if pd.isna(sets["train_images"]):
        return ""
    train, repeated = int(sets["train_images"]), int(sets["train_oversampled"])
    repeats = f" (with repeats {repeated:,})" if repeated != train else ""
    others = f"{int(sets['validation_images']):,} validation and {int(sets['test_images']):,} test images"
    return f"{train:,} training{repeats}, {others}"


def _counts(steps: pd.DataFrame) -> str:
    """Return the numbers of images that the figures come from, for each data set where they differ."""
    counts = {str(dataset): _each(texts) for dataset, texts in steps.groupby("dataset", sort=True)["images"]}
    if len(set(counts.values())) == 1:
        return next(iter(counts.values()))
    return ", ".join(f"{text} of {dataset}" for dataset, text in counts.items() if text)


def counted(count: int, word: str) -> str:
    """Return a number with its noun: 1 run, 2 runs."""
    return f"{count} {word}{'' if count == 1 else 's'}"
