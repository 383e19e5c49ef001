"""Data for the pages: cached reads of the store, and the queue."""

from __future__ import annotations

import functools
import io
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Concatenate, ParamSpec, TypeVar

import pandas as pd
import streamlit as st

from core.article import evidence as results
from core.article.claims import claims_table
from core.article.evidence import Grounds, Offers
from core.article.plan import KIND as ARTICLE_STUDY
from core.article.plan import ArticleSpec, plan
from core.compression.optimal_k import arrivals as arrivals_of
from core.compression.rivals import rivals_sentences as rivals_in_words
from core.compression.verification import Verification
from core.data import dataset_tables
from core.data.datasets import Dataset, DatasetImage
from core.data.splits import Targets, cached_split, reached
from core.errors import DermSlimError, QueueUnavailable
from core.estimates import Estimate
from core.files import exports
from core.predictions import comparison as comparisons
from core.predictions.comparison import Comparison, SeedPair
from core.predictions.curves import OneAgainstRest, brier_score, calibration_error, one_against_rest, reliability
from core.runs import Run, Study
from core.settings import Settings
from core.specs import spec_hash
from core.store.file import lock_path
from core.store.holders import described, strangers
from core.store.measurements import Store
from core.store.trainings import STEP_COLUMNS
from core.training.data import split_sentence
from core.training.specs import TrainSpec
from dashboard.access import users as access
from dashboard.charts.training_numbers import layer_sizes as layer_sizes_of
from jobs import predictions as predicted_again
from jobs import verification as checks
from jobs.later_jobs import LaterKind, under_way
from jobs.queues import Queues
from jobs.run_states import WorkerState
from jobs.studies import StudyState, study_state
from jobs.study_estimates import StudyEstimate, estimate_study

STORE_TIMEOUT = 5.0  # seconds that a page waits for the record worker's transaction
STRANGERS = 0.5  # seconds that a page waits for a program outside DermSlim
WORST_IMAGES = 12  # that a page shows
Stamp = tuple[str, int, int]  # a cache's key must not begin with an underscore: Streamlit leaves those out
HashFunctions = dict[str | type[Any], Callable[[Any], Any]]
P = ParamSpec("P")
R = TypeVar("R")


def settings() -> Settings:
    """Return the settings of this process."""
    return Settings.from_environment()


def store() -> Store:
    """Return the store; opening happens at each read."""
    return Store(settings().database, timeout=STORE_TIMEOUT, strangers=STRANGERS)


def stamp() -> Stamp:
    """Return a key for cached reads that changes whenever the database file changes."""
    database = settings().database
    try:
        facts = database.stat()
    except FileNotFoundError:
        return (str(database), 0, 0)
    return (str(database), facts.st_mtime_ns, facts.st_size)


def current(
    max_entries: int, spinner: str | bool = False
) -> Callable[[Callable[Concatenate[Stamp, P], R]], Callable[P, R]]:
    """Cache a read of the store until the database file changes: its first argument is the present stamp."""

    def decorated(read: Callable[Concatenate[Stamp, P], R]) -> Callable[P, R]:
        cached = st.cache_data(max_entries=max_entries, show_spinner=spinner)(read)

        @functools.wraps(read)
        def with_stamp(*arguments: P.args, **named: P.kwargs) -> R:
            return cached(stamp(), *arguments, **named)

        return with_stamp

    return decorated


def queues() -> Queues:
    """Return the queue with the signed-in user as the submitter. QueueUnavailable where nobody is signed in."""
    user = access.current_user()
    if user is None:
        raise QueueUnavailable("Expected a user who is signed in, got an ended session. Open this page again.")
    return Queues(settings(), user=user, store=store())


def watched() -> Queues:
    """Return the queue for reads that all sessions share."""
    return Queues(settings(), store=store())


# -- the store -----------------------------------------------------------------------------------------------------


def plain_row(row: pd.Series[Any]) -> dict[str, Any]:
    """Return a data frame's row as a dict, None for missing values."""
    return {str(name): None if pd.isna(value) else value for name, value in row.items()}


@current(10)
def datasets(at: Stamp) -> pd.DataFrame:
    """Return one row per registered data set, by name."""
    return store().datasets()


Registration = tuple[str, str, str, str]


def _registration(name: str) -> Registration | None:
    """Return what a data set's images and records depend on; None for one that is not registered."""
    found = datasets()
    found = found[found["name"] == name]
    if found.empty:
        return None
    row = found.iloc[0]
    return (str(settings().database), name, row["fingerprint"], str(row["registered_at"]))


@st.cache_resource(max_entries=8, show_spinner=False)
def _dataset(key: Registration) -> Dataset | None:
    return store().dataset(key[1])


def dataset(name: str) -> Dataset | None:
    """Return a registered data set with its records; sessions share it, so do not change it."""
    key = _registration(name)
    return None if key is None else _dataset(key)


@st.cache_resource(max_entries=8, show_spinner=False)
def _records(key: Registration) -> dict[str, DatasetImage]:
    found = _dataset(key)
    return {record.image_id: record for record in found.records} if found else {}


def records(name: str) -> dict[str, DatasetImage]:
    """Return a registered data set's records by image id."""
    key = _registration(name)
    return {} if key is None else _records(key)


BY_IMAGES: HashFunctions = {Dataset: lambda found: found.fingerprint}
kept_for_images = st.cache_data(max_entries=30, show_spinner=False, hash_funcs=BY_IMAGES)
class_table = kept_for_images(dataset_tables.class_table)
metadata_table = kept_for_images(dataset_tables.age_sex_localization)
size_table = kept_for_images(dataset_tables.size_counts)


ResultKey = tuple[str | int, ...]


def _result_key(run: Run) -> ResultKey:
    """Return what a run's results depend on: its attempt and end, or the whole file's state while it is under way."""
    if run.ended:
        return (str(settings().database), run.id, f"{run.attempt} {run.status} {run.finished_at}")
    return (run.id, *stamp())


BY_RESULTS: HashFunctions = {Run: _result_key}


@st.cache_data(max_entries=200, show_spinner=False, hash_funcs=BY_RESULTS)
def statistics(run: Run) -> pd.DataFrame:
    """Return a finished run's statistics."""
    return store().statistics(run.id)


@st.cache_data(max_entries=200, show_spinner=False, hash_funcs=BY_RESULTS)
def storage(run: Run) -> pd.DataFrame:
    """Return a finished run's sizes."""
    return store().storage(run.id)


@st.cache_data(max_entries=200, show_spinner=False, hash_funcs=BY_RESULTS)
def optimal_k(run: Run) -> pd.DataFrame:
    """Return a finished run's rules."""
    return store().optimal_k(run.id)


@current(50)
def verification(at: Stamp, run_id: str) -> Verification | None:
    """Return how a run's figures compare with the reference's, None where no image of it was checked."""
    return store().verification(run_id)


def is_under_way(kind: LaterKind, run_id: str) -> bool:
    """Return whether a job adds something to an ended run now; False where the queue does not answer."""
    try:
        with watched().connected() as connection:
            return under_way(connection, kind, run_id)
    except QueueUnavailable:
        return False


def check_run(run_id: str, images: int) -> None:
    """Queue the check of so many images. SpecError where the run cannot be checked."""
    checks.submit(queues(), run_id, images)


@st.cache_data(max_entries=100, show_spinner=False, hash_funcs=BY_RESULTS)
def worst_images(run: Run, metric: str, variant: str) -> pd.DataFrame:
    """Return the images that a metric judges worst at one variant."""
    return store().worst_images(run.id, metric, variant, WORST_IMAGES)


RIVAL_COLUMNS = ("image_id", "variant", "k", "codec", "quality", "stored_bytes", "reason", "mse")


@st.cache_data(max_entries=60, show_spinner=False, hash_funcs=BY_RESULTS)
def rivals_sentences(sweep: Run, rivals: Run, k: int, metric: str) -> list[str]:
    """Return in words how the codecs of a rivals run compare with a sweep's k, by one metric."""
    columns = (*RIVAL_COLUMNS, metric)
    ours = store().measurements(sweep.id, columns=columns, variant=f"k={k}")
    return list(rivals_in_words(ours, store().measurements(rivals.id, columns=columns), k, metric))


def arrivals(statistics: pd.DataFrame, storage: pd.DataFrame) -> pd.DataFrame:
    """Return where each metric's mean curve arrives, from the precomputed means.

    A sweep's means, taken as those of one image, have the same mean curves as its rows.
    """
    means = statistics.pivot(index="variant", columns="metric", values="mean")
    rows = storage[["variant", "k", "source_bytes", "stored_bytes", "control_bytes"]].merge(
        means, left_on="variant", right_index=True
    )
    return arrivals_of(rows.assign(image_id="mean", reason=None))


@current(20)
def failed_images(at: Stamp, run_id: str) -> pd.DataFrame:
    """Return the images that a run could not measure, with their reasons."""
    return store().images(run_id, "failed")


# -- tables and claims ---------------------------------------------------------------------------------------------


@current(4)
def trainings(at: Stamp) -> pd.DataFrame:
    """Return one row per finished training, see `core.article.evidence.trainings`."""
    return results.trainings(store())


@current(4)
def offers(at: Stamp) -> Offers:
    """Return what the claims could be judged by."""
    return results.offers(store(), trainings())


@current(8, "Judging the claims")
def claims(at: Stamp, chosen: Grounds) -> pd.DataFrame:
    """Return the claims with their verdicts, see `core.article.claims.claims_table`."""
    return claims_table(results.known(store(), trainings(), offers(), chosen))


# -- single training runs ------------------------------------------------------------------------------------------


@current(20)
def steps(at: Stamp, run_id: str) -> pd.DataFrame:
    """Return one row per step of a run, see `core.store.trainings`."""
    return store().steps([run_id])


@current(20)
def run_splits(at: Stamp, run_id: str) -> pd.DataFrame:
    """Return the actual sets of a run."""
    return store().run_splits(run_id)


@current(20)
def training_notes(at: Stamp, run_id: str) -> list[str]:
    """Return the sentences that belong beside a run's results."""
    return store().training_notes(run_id)


# -- single predictions --------------------------------------------------------------------------------------------


@current(20)
def predicted_steps(at: Stamp, run_id: str) -> pd.DataFrame:
    """Return how many predictions the steps of a run have: step, split, images; no rows for a run without any."""
    return store().predicted_steps([run_id])


@current(20)
def predictions(at: Stamp, run_id: str, split: str) -> pd.DataFrame:
    """Return what every step of a run says of each image of a set, see `core.predictions.rows`."""
    return store().predictions([run_id], split=split)


def predictions_by_step(run_id: str, split: str) -> dict[int, pd.DataFrame]:
    """Return what each step of a run says of each image of a set."""
    rows = predictions(run_id, split)
    return {int(step): rows[rows["step"] == step] for step in rows["step"].unique()}


@current(20)
def class_curves(at: Stamp, run_id: str, split: str, label: str) -> dict[int, OneAgainstRest]:
    """Return one class against the rest by step; without the steps where either has no image."""
    found = {step: one_against_rest(rows, label) for step, rows in predictions_by_step(run_id, split).items()}
    return {step: curve for step, curve in found.items() if curve is not None}


@dataclass(frozen=True)
class Calibration:
    """How far the probabilities of a step can be trusted, see `core.predictions.curves`."""

    brier: float
    error: float
    reliability: pd.DataFrame


@current(20)
def calibrations(at: Stamp, run_id: str, split: str) -> dict[int, Calibration]:
    """Return the calibration of each step of a run on a set."""
    return {
        step: Calibration(brier_score(rows), calibration_error(rows), reliability(rows))
        for step, rows in predictions_by_step(run_id, split).items()
    }


@current(20)
def compared(at: Stamp, run_id: str, split: str, first: int, second: int) -> tuple[Comparison, pd.DataFrame]:
    """Compare two steps of a run on the images of a set; return the images that changed sides too."""
    by_step = predictions_by_step(run_id, split)
    sides = (by_step[first], by_step[second])
    return comparisons.compare(*sides), comparisons.changed_sides(*sides)


@current(20)
def hard_images(at: Stamp, run_ids: tuple[str, ...], split: str) -> pd.DataFrame:
    """Return the images of a set that most steps of these runs have wrong, see `comparison.hard_images`."""
    return comparisons.hard_images(store().predicted_classes(run_ids, split))


def predict_again(run_id: str) -> None:
    """Queue the job that predicts with a run's kept weights. SpecError where the run cannot be predicted again."""
    predicted_again.submit(queues(), run_id)


def trained_file(run_id: str, name: str) -> Path | None:
    """Return a file of a training run on this host, or None; never one outside the folder of trained networks."""
    folder = settings().trained.resolve()
    path = (folder / run_id / name).resolve()
    return path if path.is_relative_to(folder) and path.is_file() else None


def table_file(frame: pd.DataFrame, kind: str) -> bytes:
    """Return a frame as a CSV or Parquet file."""
    if kind == "csv":
        return exports.to_csv(frame).encode()
    buffer = io.BytesIO()
    frame.to_parquet(buffer, index=False)
    return buffer.getvalue()


# -- learning curves, runs beside each other, and what a training would have -------------------------------------------


@st.cache_data(max_entries=300, show_spinner=False, hash_funcs=BY_RESULTS)
def epochs(runs: Sequence[Run]) -> pd.DataFrame:
    """Return the epochs of runs."""
    return store().epochs([run.id for run in runs])


@current(20)
def live_epochs(at: Stamp, run_id: str) -> pd.DataFrame:
    """Return the epochs of a run under way as the file has them now."""
    return store().epochs([run_id])


@st.cache_data(max_entries=100, show_spinner=False, hash_funcs=BY_RESULTS)
def layer_sizes(run: Run, height: int, width: int) -> pd.DataFrame:
    """Return filters or units by layer and step of a run, see `training_numbers.layer_sizes`."""
    return layer_sizes_of(steps(run.id), height, width)


@st.cache_data(max_entries=50, show_spinner=False, hash_funcs=BY_RESULTS)
def compared_steps(runs: Sequence[Run]) -> pd.DataFrame:
    """Return the finished steps of several runs: `core.store.trainings.STEP_COLUMNS`, classification."""
    return store().trainings([run.id for run in runs])[[*STEP_COLUMNS, "classification"]]


@current(20)
def compared_pairs(at: Stamp, pairs: tuple[SeedPair, ...]) -> dict[int, Comparison]:
    """Compare each pair of steps on the test images, by seed; without the pairs of which one has no predictions.

    SpecError where a pair has no common image, or other labels.
    """
    found = {}
    for pair in pairs:
        first, second = (store().predictions([run], step=step, split="test") for run, step in (pair.first, pair.second))
        if len(first) and len(second):
            found[pair.seed] = comparisons.compare(first, second)
    return found


@st.cache_data(max_entries=30, show_spinner=False, hash_funcs=BY_IMAGES)
def sets_reached(
    found: Dataset, targets: Targets, seed: int, leaky_split: bool, given: bool = False
) -> tuple[pd.DataFrame, str]:
    """Return the sets that a training would have, see `core.data.splits.reached`, and in words what a random split
    leaks.

    Raises SpecError where the data set cannot be divided.
    """
    split = cached_split(found.records, targets, seed=seed, leaky_split=leaky_split, given=given)
    return reached(found.records, split), split_sentence(found, split)


@st.cache_data(max_entries=300, ttl=120, show_spinner=False)
def _training_estimate(
    database: str, fingerprint: str, settings_text: str, _spec: TrainSpec, _found: Dataset
) -> Estimate:
    return watched().estimate(_spec, _found)


def training_estimate(spec: TrainSpec, found: Dataset) -> Estimate:
    """Return how long a training run may take, at most two minutes old; seeds take equally long."""
    alike = spec.replace(training=spec.training.replace(seed=1))
    text = json.dumps(alike.to_dict(), sort_keys=True)
    return _training_estimate(str(settings().database), found.fingerprint, text, spec, found)


def identical_trainings(wanted: Sequence[tuple[TrainSpec, Dataset]]) -> list[str | None]:
    """Return for each the run that has trained, or is training, the same thing on the same images; None for none."""
    known = _recorded(stamp())
    there = (run for run in reversed(known) if not run.failed and run.status in ("queued", "running", "finished"))
    by_hash = {run.spec_hash: run.id for run in there}
    return [by_hash.get(spec_hash(spec, found.fingerprint)) for spec, found in wanted]


# -- the article's study -------------------------------------------------------------------------------------------


@st.cache_data(max_entries=20, ttl=1, show_spinner=False)
def _study_state(at: Stamp, redis_url: str | None, study: str) -> StudyState | None:
    return study_state(watched(), study)


def study(study: str) -> StudyState | None:
    """Return the progress of a study; None while it is not recorded."""
    return _study_state(stamp(), settings().redis_url, study)


@current(5)
def studies(at: Stamp) -> list[Study]:
    """Return the studies of the article, newest first."""
    return [study for study in store().studies() if study.kind == ARTICLE_STUDY]


@st.cache_data(max_entries=50, ttl=60, show_spinner=False)
def _study_estimate(database: str, text: str, done: tuple[tuple[str, float], ...], _found: Dataset) -> StudyEstimate:
    spec = ArticleSpec.from_dict(json.loads(text))
    left = [part for part in plan(spec) if dict(done).get(part.key) != 1]
    return estimate_study(watched(), spec, _found, left, dict(done))


def study_estimate(spec: ArticleSpec, found: Dataset, done: Mapping[str, float]) -> StudyEstimate:
    """Return how long a study may still take, at most a minute old; done: parts begun, 0 to 1, by key."""
    shares = tuple((key, round(share, 2)) for key, share in sorted(done.items()))
    return _study_estimate(str(settings().database), json.dumps(spec.to_dict()), shares, found)


@current(8)
def study_claims(at: Stamp, runs: tuple[str, ...], chosen: Grounds) -> pd.DataFrame:
    """Return the claims as these trainings alone, and what else is chosen, decide them."""
    own = trainings()
    return claims_table(results.known(store(), own[own["run_id"].isin(runs)], offers(), chosen))


# -- the queue -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Health:
    """Whether what the pages depend on is there. redis, store: a sentence when it is not, else None.

    reader: the process outside DermSlim that reads the store, which nobody can write meanwhile; empty where none does.
    """

    redis: str | None
    store: str | None
    recorder: bool
    workers: tuple[WorkerState, ...]
    waiting: int
    reader: str = ""


@st.cache_data(ttl=3, show_spinner=False)
def _health(redis_url: str | None, database: str) -> Health:
    trouble, reader = None, ""
    try:
        store().schema_version()
        reader = described(strangers(Path(database), lock_path(Path(database))))
    except DermSlimError as error:
        trouble = str(error)
    try:
        workers = tuple(watched().workers())
        waiting = watched().messages_waiting()
    except QueueUnavailable as error:
        return Health(str(error), trouble, False, (), 0, reader)
    recorder = any(worker.kind == "record" for worker in workers)
    return Health(None, trouble, recorder, workers, waiting, reader)


def health() -> Health:
    """Return the state of Redis, store and workers, at most three seconds old."""
    return _health(settings().redis_url, str(settings().database))


@st.cache_resource(max_entries=4, show_spinner=False)
def _recorded(at: Stamp) -> list[Run]:
    return store().runs()


@st.cache_resource(max_entries=4, ttl=1, show_spinner=False)
def _runs(redis_url: str | None, at: Stamp) -> list[Run]:
    try:
        return watched().runs()
    except QueueUnavailable:
        return _recorded(at)


def runs() -> list[Run]:
    """Return every run, newest first; what the store alone knows when Redis does not answer."""
    return _runs(settings().redis_url, stamp())


def run(run_id: str) -> Run | None:
    """Return one run, or None where neither store nor queue knows it."""
    return next((run for run in runs() if run.id == run_id), None)


def is_recorded(run_id: str) -> bool:
    """Return whether the store has a run; one that was just submitted is known to the queue alone."""
    return any(run.id == run_id for run in _recorded(stamp()))


def forget_runs() -> None:
    """Read the runs again at the next call: something was submitted, cancelled or retried."""
    _runs.clear()
    _health.clear()
    _study_state.clear()
