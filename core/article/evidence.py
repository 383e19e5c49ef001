"""The basis of tables and claims: the store's trainings, each counted once, and the runs that claims are judged by.

The pages and the command line both use this module, so they show the same.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache

import pandas as pd

from core.article.compression_claims import ARTICLE_K
from core.article.findings import Known
from core.article.network_claims import CURVES
from core.article.tables import FURTHER, INTERVALS, WAYS, check_number, counted, images_text
from core.article.ways import way_of, ways
from core.compression.specs import DEFAULT_KS, DEFAULT_SIZES, ResizeSpec, SweepSpec
from core.errors import SpecError
from core.networks.architectures import CLASSES, NETWORKS
from core.networks.costs import curve_table
from core.networks.fits import CurveFits, fit_curves
from core.networks.inheritance import SCRATCH
from core.predictions.intervals import intervals_of_step
from core.runs import Run
from core.specs import SettingsKey
from core.store.measurements import Store
from core.store.trainings import ALIKE, KEYS_WITHOUT, STEP_COLUMNS
from core.training.specs import PruneTrainSpec

RUN_COLUMNS = (
    *("kind", "study", "status", "family", "training_settings", "way_settings", "leaky", "factors", "images"),
    INTERVALS,
)
MEASURED_COLUMNS = (
    *("difference", "difference_low", "difference_high"),
    *("weights_bytes", "checkpoint_bytes", "peak_memory", "epoch_seconds", "images_per_second", "device"),
    *("lesion_accuracy", *(f"recall_{label}" for label in CLASSES)),
)
SAME_TRAINING = (*ALIKE, "seed")
TRIAL = 0.5  # share of a network's most epochs below which a training was a trial
MOST_LISTED = 8  # names in an error
FINGERPRINT = 6  # characters that tell data sets, or networks, of one name apart


# Trainings


def trainings(store: Store) -> pd.DataFrame:
    """Return one row per finished step, in the order in which they were trained: `STEP_COLUMNS`, and more.

    kind, study, status: the run's. family: the original data set, also of trainings on a reconstruction made from it.
    training_settings: the settings without the rules of pruning; way_settings: without the epochs too. leaky: whether
    the sets were drawn image by image. factors: JSON of those that led to the network.
    images: the numbers of images in the sets, in words. intervals: those of the step's figures, by name. Then
    `MEASURED_COLUMNS`: bytes, seconds, and percent on the test images. Data sets, or networks, that differ under one
    name are told apart by their fingerprints.
    """
    found = store.trainings()
    found["images"] = [images_text(each) for each in found.to_dict("records")]
    found[INTERVALS] = pd.Series(map(intervals_of_step, found["classification"]), index=found.index, dtype=object)
    several = _several(found["dataset"], found["dataset_fingerprint"])
    marks = found["dataset_fingerprint"].str[:FINGERPRINT].radd(" [") + "]"
    found["dataset"] = found["dataset"] + marks.where(several, "")
    several = _several(found["network"], found["layers"])
    for column in KEYS_WITHOUT:
        keys = zip(found[column], found["layers"].str[:FINGERPRINT], several, strict=True)
        marked = [key.with_setting("layers", layers, f"layers {layers}") if add else key for key, layers, add in keys]
        found[column] = pd.Series(marked, index=found.index, dtype=object)
    found = found.sort_values(["finished_at", "run_id", "step"], kind="stable").reset_index(drop=True)
    return found[[*STEP_COLUMNS, *RUN_COLUMNS, *MEASURED_COLUMNS]]


def _several(names: pd.Series, identities: pd.Series) -> pd.Series:
    """Return a mask of the names that have several identities."""
    return identities.groupby(names).transform("nunique") > 1


def families(trained: pd.DataFrame) -> list[str]:
    """Return the original data sets that were trained on, themselves or as reconstructions.

    trained: `trainings`. Real images first, then the newest trainings first.
    """
    newest = trained.drop_duplicates("family", keep="last").iloc[::-1]
    return list(newest.sort_values("synthetic", kind="stable")["family"])


# Tables


@dataclass(frozen=True, kw_only=True)
class Choice:
    """The trainings that a table shows; an empty field leaves the choice to `select`.

    dataset: an original, with the reconstructions made from it, or a reconstruction; by default the first of
    `families`. settings: texts as in the table's column; by default each network's newest, see `select`.
    every_setting: all of them. runs: these runs, whatever their data and settings. The others narrow down what is left.
    """

    dataset: str | None = None
    versions: tuple[str, ...] = ()
    networks: tuple[str, ...] = ()
    seeds: tuple[int, ...] = ()
    studies: tuple[str, ...] = ()
    settings: tuple[str, ...] = ()
    every_setting: bool = False
    runs: tuple[str, ...] = ()


@dataclass(frozen=True, eq=False)
class Selection:
    """The steps that a table shows, and sentences about those that it leaves out."""

    steps: pd.DataFrame
    left_out: tuple[str, ...]


def rows_of(store: Store, trained: pd.DataFrame, number: int | str) -> pd.DataFrame:
    """Return what a table may show: the trainings, and for the table of ways the networks made of them too."""
    return ways(store, trained) if number == WAYS else trained


def of_table(trained: pd.DataFrame, number: int | str) -> pd.DataFrame:
    """Return the trainings that a table can show, with the settings that count there.

    trained: as `rows_of` gives them for the table. Tables 4 and 5 take the unpruned networks of all runs, Table 6 the
    pruning runs. An unpruned network's training follows no rules of pruning, so its settings are those of the training
    alone. In Table 6 a history is one run, and its settings include the rules. The table of ways compares rules and
    epochs.
    """
    check_number(number)
    if number == 6:
        return trained[trained["kind"] == PruneTrainSpec.kind]
    if number == WAYS:
        return trained.assign(settings=trained["way_settings"])
    unpruned = trained["step"] == 0
    found = trained.assign(settings=trained["settings"].where(~unpruned, trained["training_settings"]))
    return found if number == FURTHER else found[unpruned]


def select(
    trained: pd.DataFrame, number: int | str, choice: Choice | None = None, lost: pd.DataFrame | None = None
) -> Selection:
    """Return a table's steps: of one data set and its reconstructions, each network's newest settings, each once.

    `newest_settings` says which those are. Of several trainings of the same network, data set, settings and seed
    the newest counts. lost: as `Store.lost_trainings` gives them; they are in no mean, and a sentence counts them.
    SpecError where a run or a data set that is asked for has no training.
    """
    choice = choice or Choice()
    steps, left_out = of_table(trained, number), []
    if choice.runs:
        _known(choice.runs, trained["run_id"], "runs with a finished training")
        steps = steps[steps["run_id"].isin(choice.runs)]
    elif choice.dataset is not None:
        named = (steps["family"] == choice.dataset) | (steps["dataset"] == choice.dataset)
        _known([choice.dataset], [*trained["family"], *trained["dataset"]], "a data set with finished trainings")
        steps = steps[named]
    elif len(trained):
        chosen = families(trained)[0]
        others = steps[steps["family"] != chosen]
        if len(others):
            left_out.append(f"{counted(len(others), 'training')} on other data: {', '.join(families(others))}.")
        steps = steps[steps["family"] == chosen]
    for column, values in (
        ("version", choice.versions),
        ("network", choice.networks),
        ("seed", choice.seeds),
        ("study", choice.studies),
        ("settings", choice.settings),
    ):
        if values:
            steps = steps[steps[column].map(str).isin(map(str, values))]
    if not (choice.settings or choice.every_setting or choice.runs):
        older = ~newest_settings(steps, ("network", "pruned") if number == FURTHER else ("network",))
        left_out += [
            f"{counted(len(rows), 'training')} of {network} with other settings: {settings}."
            for (network, settings), rows in steps[older].groupby(["network", "settings"], sort=False)
        ]
        steps = steps[~older]
    once = steps.drop_duplicates([*SAME_TRAINING, *(("way", "total_epochs") if number == WAYS else ())], keep="last")
    if repeats := len(steps) - len(once):
        left_out.append(
            f"{counted(repeats, 'training')} that others repeat with the same settings and seed; the newest counts."
        )
    if lost is not None and len(lost):
        left_out += _lost_sentence(lost, number, choice, families(once))
    return Selection(once, tuple(left_out))


def _lost_sentence(lost: pd.DataFrame, number: int | str, choice: Choice, shown: Sequence[str]) -> list[str]:
    """Return a sentence about the lost trainings that belong to a table; shown: the original data sets in it."""
    if number == 6:
        lost = lost[lost["kind"] == PruneTrainSpec.kind]
    elif number not in (FURTHER, WAYS):
        lost = lost[lost["step"] == 0]
    lost = lost[lost["run_id"].isin(choice.runs)] if choice.runs else lost[lost["family"].isin(shown)]
    if lost.empty:
        return []
    rows = zip(lost["network"].astype(str), lost["seed"].astype(int), lost["lost"].astype(int), strict=True)
    tried = [(network, seed + more) for network, seed, count in rows for more in range(count)]
    named = ", ".join(f"{network} seed {seed}" for network, seed in dict.fromkeys(tried))
    return [f"{counted(len(tried), 'training')} whose network was lost (equal probabilities for all images): {named}."]


def _known(wanted: Sequence[str], there: Sequence[str] | pd.Series, what: str) -> None:
    names = list(dict.fromkeys(there))
    missing = [name for name in wanted if name not in names]
    if missing:
        listed = ", ".join(names[:MOST_LISTED]) + (" …" if len(names) > MOST_LISTED else "")
        raise SpecError(f"Expected {what}{f' ({listed})' if names else ''}, got {', '.join(missing)}.")


def newest_settings(steps: pd.DataFrame, by: tuple[str, ...] = ("network",)) -> pd.Series:
    """Return a mask of the steps with their network's newest settings.

    Sets drawn image by image, and then a quick trial (under `TRIAL` of the most epochs of any of its trainings), are
    taken only where there is nothing else. Among the other settings, those that prune as the article does are preferred
    (`is_naive`), then those of trainings on both original and reconstructed images, then the newest. by: the columns
    that have settings of their own: the network, and possibly whether it is `pruned`.
    """
    if steps.empty:
        return pd.Series(False, index=steps.index, dtype=bool)
    placed = steps.assign(place=range(len(steps)), pruned=steps["step"] > 0)
    keys = [*by, "settings"]
    ranked = placed.groupby(keys, sort=False).agg(
        epochs=("epochs", "max"), versions=("version", "nunique"), newest=("place", "max"), leaky=("leaky", "max")
    )
    whole = ranked["epochs"] >= TRIAL * ranked.groupby(list(by))["epochs"].transform("max")
    ranked = ranked.assign(whole=whole, by_lesion=~ranked["leaky"]).reset_index()
    ranked["naive"] = ranked["settings"].map(is_naive)
    ranked = ranked.sort_values(["by_lesion", "whole", "naive", "versions", "newest"])
    ranked = ranked.drop_duplicates(list(by), keep="last")
    chosen = pd.MultiIndex.from_frame(ranked[keys])
    return pd.Series(pd.MultiIndex.from_frame(placed[keys]).isin(chosen), index=steps.index)


def is_naive(settings: SettingsKey) -> bool:
    """Return whether settings prune as the article does: each network is trained from scratch, without a teacher."""
    return way_of(1, settings) == SCRATCH


def table_name(number: int | str) -> str:
    """Return the name of a table's file: table4, …, further."""
    return f"table{number}" if isinstance(number, int) else number


# Claims


@dataclass(frozen=True, kw_only=True)
class Grounds:
    """What claims are judged by: ids of a sweep and a resize comparison, an original data set and its reconstruction.

    None where there is none.
    """

    sweep: str | None = None
    resize: str | None = None
    dataset: str | None = None
    reconstruction: str | None = None


@dataclass(frozen=True, eq=False)
class Offers:
    """The runs and data sets that claims can be judged by, the best first.

    sweeps, resizes: runs that have finished. datasets: see `families`. synthetic: the synthetic ones among them.
    reconstructions: names by the original that they were made from.
    """

    sweeps: Sequence[Run]
    resizes: Sequence[Run]
    datasets: Sequence[str] = ()
    synthetic: frozenset[str] = frozenset()
    reconstructions: Mapping[str, Sequence[str]] = field(default_factory=dict)


def offers(store: Store, trained: pd.DataFrame) -> Offers:
    """Return the runs and data sets that claims can be judged by.

    Real images go before synthetic ones; then sweeps of all the article's k, stored as it stores them, and resize
    studies of its k and sizes; then the newest. Of reconstructions those at the article's k go first.
    """
    sweeps = store.runs(SweepSpec.kind, "finished")
    resizes = store.runs(ResizeSpec.kind, "finished")
    return Offers(
        sorted(sweeps, key=lambda run: (run.synthetic, -_like_the_articles_sweep(run.told(SweepSpec)))),
        sorted(resizes, key=lambda run: (run.synthetic, -_like_the_articles_resizing(run.told(ResizeSpec)))),
        families(trained),
        frozenset(trained.loc[trained["synthetic"].astype(bool), "family"]),
        {family: _reconstructions(store, trained, family) for family in families(trained)},
    )


def _like_the_articles_sweep(spec: SweepSpec) -> int:
    """Return 2 for a sweep of all the article's k stored in its codec, 1 for one with the k of its figures, else 0."""
    standard = SweepSpec(dataset="any")
    same = (spec.mode, spec.codec, spec.quality) == (standard.mode, standard.codec, standard.quality)
    return 2 if same and set(spec.ks) >= set(DEFAULT_KS) else int(ARTICLE_K in spec.ks)


def _like_the_articles_resizing(spec: ResizeSpec) -> int:
    """Return 2 for a study of the article's k and all its sizes, 1 for one of its k, else 0."""
    if spec.k != ARTICLE_K:
        return 0
    return 2 if set(spec.sizes) >= set(DEFAULT_SIZES) else 1


def _reconstructions(store: Store, trained: pd.DataFrame, family: str) -> list[str]:
    registered = store.datasets()
    at_k = set(registered.loc[registered["settings"].fillna("").str.startswith(f"k={ARTICLE_K} "), "name"])
    rows = trained[(trained["family"] == family) & (trained["version"] == "reconstructed")]
    newest = list(dict.fromkeys(rows["dataset"].iloc[::-1]))
    return sorted(newest, key=lambda name: name not in at_k)


def grounds(found: Offers, wanted: Grounds | None = None) -> Grounds:
    """Return what claims are judged by: the wanted runs and data sets, else the best offered ones.

    SpecError for what is not offered.
    """
    wanted = wanted or Grounds()
    dataset = _chosen(wanted.dataset, found.datasets, "a data set with finished trainings")
    made = found.reconstructions.get(dataset or "", ())
    return Grounds(
        sweep=_chosen(wanted.sweep, [run.id for run in found.sweeps], "a finished sweep"),
        resize=_chosen(wanted.resize, [run.id for run in found.resizes], "a finished resize comparison"),
        dataset=dataset,
        reconstruction=_chosen(wanted.reconstruction, made, "a reconstruction that was trained on"),
    )


def _chosen(wanted: str | None, offered: Sequence[str], what: str) -> str | None:
    if wanted is not None:
        _known([wanted], offered, what)
        return wanted
    return next(iter(offered), None)


def known(store: Store, trained: pd.DataFrame, found: Offers, chosen: Grounds) -> Known:
    """Return the measurements that the claims are judged by.

    The unpruned networks are paired: original and reconstruction, the same network, settings and seed, for each network
    the newest such settings. The histories are those of pruning runs that have finished, for each network on the
    reconstruction where there are any, as in the article, else on the originals; its newest settings, each seed once.
    """
    pairs = paired(trained, chosen)
    pruning = histories(trained, chosen)
    runs = {run.id: run for run in (*found.sweeps, *found.resizes)}
    sources = {"sweep": chosen.sweep, "resize": chosen.resize}
    there = {source: run for source, run in sources.items() if run is not None}
    synthetic = {source for source, run in there.items() if runs[run].synthetic}
    synthetic |= {name for name, steps in (("pairs", pairs), ("steps", pruning)) if steps["synthetic"].any()}
    return Known(
        storage=None if chosen.sweep is None else store.storage(chosen.sweep),
        statistics=None if chosen.sweep is None else store.statistics(chosen.sweep),
        optimal_k=None if chosen.sweep is None else store.optimal_k(chosen.sweep),
        resize_statistics=None if chosen.resize is None else store.statistics(chosen.resize),
        curves=curves(),
        pairs=pairs,
        steps=pruning,
        runs={source: (run,) for source, run in there.items()},
        synthetic=frozenset(synthetic),
        predictions=lambda run, step: store.predictions([run], step=step, split="test"),
    )


def basis(found: Offers, chosen: Grounds) -> list[str]:
    """Return sentences that name the runs and data sets that the claims are judged by."""
    sentences = []
    for what, name, run_id, runs in (
        ("Compression", "sweep", chosen.sweep, found.sweeps),
        ("Input size", "resize comparison", chosen.resize, found.resizes),
    ):
        if run_id is None:
            sentences.append(f"{what}: no {name} has finished.")
            continue
        run = next(run for run in runs if run.id == run_id)
        synthetic = ", synthetic" if run.synthetic else ""
        sentences.append(f"{what}: {run_id}, {run.done:,} images of {run.dataset}{synthetic}.")
    if chosen.dataset is None:
        return [*sentences, "Training and pruning: no network has been trained."]
    made = f" and its reconstruction {chosen.reconstruction}" if chosen.reconstruction else "; no reconstruction of it"
    synthetic = ", synthetic" if chosen.dataset in found.synthetic else ""
    return [*sentences, f"Training and pruning: {chosen.dataset}{made}{synthetic}."]


@cache
def curves() -> tuple[CurveFits, ...]:
    """Return the fits of the curves that claims C13 and C14 are about: the four networks, as the curves' page opens."""
    return tuple(fit_curves(curve_table(NETWORKS.values(), *CURVES)))


def paired(trained: pd.DataFrame, chosen: Grounds) -> pd.DataFrame:
    """Return unpruned trainings on original and on reconstructed images that have a partner, each once."""
    steps = of_table(trained, 5)
    steps = steps[(steps["family"] == chosen.dataset) & steps["network"].isin(NETWORKS)]
    originals = steps.loc[steps["version"] == "original", "dataset"]
    newest = originals.iloc[-1] if len(originals) else None
    steps = steps[steps["dataset"].isin([newest, chosen.reconstruction])]
    steps = steps.drop_duplicates(list(SAME_TRAINING), keep="last")
    partners = steps.groupby(["network", "settings", "seed"])["version"].transform("nunique")
    steps = steps[partners == 2]
    return steps[newest_settings(steps)]


def histories(trained: pd.DataFrame, chosen: Grounds) -> pd.DataFrame:
    """Return the steps of finished pruning runs that the claims about pruning are judged by."""
    steps = trained[
        (trained["kind"] == PruneTrainSpec.kind)
        & (trained["status"] == "finished")
        & (trained["family"] == chosen.dataset)
        & trained["network"].isin(NETWORKS)
    ]
    on_reconstruction = steps["dataset"] == chosen.reconstruction
    reconstructed = set(steps.loc[on_reconstruction, "network"])
    steps = steps[on_reconstruction | ((steps["version"] == "original") & ~steps["network"].isin(reconstructed))]
    steps = steps[newest_settings(steps)]
    runs = steps.drop_duplicates(["network", "dataset", "seed"], keep="last")["run_id"]
    return steps[steps["run_id"].isin(runs)]
