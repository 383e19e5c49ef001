"""Data for the pages: cached reads of the store, and the queue. Those of trainings are in `dashboard.training_data`."""

from __future__ import annotations

import functools
import io
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Concatenate, ParamSpec, TypeVar

import pandas as pd
import streamlit as st

from core.article import evidence as results
from core.article.claims import claims_table
from core.article.evidence import Choice, Grounds, Offers
from core.article.leaks import leak_sentences
from core.article.plan import KIND as ARTICLE_STUDY
from core.article.plan import ArticleSpec, plan
from core.article.tables import MeasuredTable, article_table
from core.compression.optimal_k import arrivals as arrivals_of
from core.compression.rivals import rivals_sentences as rivals_in_words
from core.compression.verification import Verification
from core.data import dataset_tables
from core.data.datasets import Dataset, DatasetImage
from core.errors import DermSlimError, QueueUnavailable
from core.files import exports
from core.runs import Run, Study
from core.settings import Settings
from core.store.file import lock_path
from core.store.holders import described, strangers
from core.store.measurements import Store
from dashboard.access import users as access
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
        return (str(settings().database), run.id, f"{run.attempt} {run.status} {run.finished_at} {run.imported_at}")
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
def run_dataset(run: Run) -> dict[str, Any] | None:
    """Return how the data set of an imported run was registered where it ran; None where that is not known."""
    return store().run_dataset(run.id)


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
    sizes = storage[["variant", "k", "source_bytes", "stored_bytes", "control_bytes"]]
    rows = sizes.merge(means, left_on="variant", right_index=True)
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


@current(40)
def measured_table(at: Stamp, number: int | str, choice: Choice) -> tuple[MeasuredTable, tuple[str, ...]]:
    """Return a table with intervals, see `core.article.tables.article_table`, and in sentences what is left out.

    SpecError where a run or a data set that is asked for has no training.
    """
    rows = results.rows_of(store(), trainings(), number)
    selection = results.select(rows, number, choice, store().lost_trainings())
    return article_table(number, selection.steps, with_intervals=True), selection.left_out


@current(4)
def offers(at: Stamp) -> Offers:
    """Return what the claims could be judged by."""
    return results.offers(store(), trainings())


@current(8, "Judging the claims")
def claims(at: Stamp, chosen: Grounds) -> pd.DataFrame:
    """Return the claims with their verdicts, see `core.article.claims.claims_table`."""
    return claims_table(results.known(store(), trainings(), offers(), chosen))


@current(8)
def leaks(at: Stamp, family: str | None) -> list[str]:
    """Return how far sets drawn image by image flatter, see `core.article.leaks.leak_sentences`."""
    return leak_sentences(trainings(), family)


def table_file(frame: pd.DataFrame, kind: str) -> bytes:
    """Return a frame as a CSV or Parquet file."""
    if kind == "csv":
        return exports.to_csv(frame).encode()
    buffer = io.BytesIO()
    frame.to_parquet(buffer, index=False)
    return buffer.getvalue()


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


def forget_estimates() -> None:
    """Have the durations of studies estimated again, because a speed has become known."""
    _study_estimate.clear()


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


def recorded_runs() -> list[Run]:
    """Return every run of the store, newest first."""
    return _recorded(stamp())


def is_recorded(run_id: str) -> bool:
    """Return whether the store has a run; one that was just submitted is known to the queue alone."""
    return any(run.id == run_id for run in recorded_runs())


def forget_runs() -> None:
    """Read the runs again at the next call: something was submitted, cancelled or retried."""
    _runs.clear()
    _health.clear()
    _study_state.clear()
