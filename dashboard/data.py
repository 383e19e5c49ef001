"""Data for the pages: cached reads of the store, and the queue."""

from __future__ import annotations

import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

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
from core.data.splits import Targets, reached, split_records
from core.errors import DermSlimError, QueueUnavailable
from core.estimates import Estimate
from core.files import exports
from core.runs import Run, Study
from core.settings import Settings
from core.specs import spec_hash
from core.store.file import lock_path
from core.store.holders import described, strangers
from core.store.measurements import Store
from core.store.trainings import STEP_COLUMNS
from core.training.specs import TrainSpec
from core.training.steps import split_sentence
from dashboard.access import users as access
from dashboard.charts.training_numbers import layer_sizes as layer_sizes_of
from jobs import verification as checks
from jobs.queues import Queues
from jobs.run_states import WorkerState
from jobs.studies import StudyState, study_state
from jobs.study_estimates import StudyEstimate, estimate_study

STORE_TIMEOUT = 5.0  # seconds that a page waits for the record worker's transaction
STRANGERS = 0.5  # seconds that a page waits for a program outside DermSlim
Stamp = tuple[str, int, int]  # a cache's key must not begin with an underscore: Streamlit leaves those out


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


def queues() -> Queues:
    """Return the queue as the pages use it: whoever is signed in submits. QueueUnavailable once nobody is."""
    user = access.current_user()
    if user is None:
        raise QueueUnavailable("expected someone signed in; the session has ended, so open this page anew")
    return Queues(settings(), user=user, store=store())


def watched() -> Queues:
    """Return the queue for reads that all sessions share."""
    return Queues(settings(), store=store())


# -- the store -----------------------------------------------------------------------------------------------------


def plain_row(row: pd.Series[Any]) -> dict[str, Any]:
    """Return a data frame's row as a dict, None for whatever is missing."""
    return {str(name): None if pd.isna(value) else value for name, value in row.items()}


@st.cache_data(max_entries=10, show_spinner=False)
def _datasets(at: Stamp) -> pd.DataFrame:
    return store().datasets()


def datasets() -> pd.DataFrame:
    """Return one row per registered data set, by name."""
    return _datasets(stamp())


@st.cache_resource(max_entries=8, show_spinner=False)
def _dataset(database: str, name: str, fingerprint: str, registered_at: str) -> Dataset | None:
    return store().dataset(name)


def dataset(name: str) -> Dataset | None:
    """Return a registered data set with its records; shared between sessions, so not to be changed."""
    found = datasets()
    found = found[found["name"] == name]
    if found.empty:
        return None
    row = found.iloc[0]
    return _dataset(str(settings().database), name, row["fingerprint"], str(row["registered_at"]))


@st.cache_resource(max_entries=8, show_spinner=False)
def _records(database: str, name: str, fingerprint: str, registered_at: str) -> dict[str, DatasetImage]:
    found = _dataset(database, name, fingerprint, registered_at)
    return {record.image_id: record for record in found.records} if found else {}


def records(name: str) -> dict[str, DatasetImage]:
    """Return a registered data set's records by image id."""
    row = datasets()
    row = row[row["name"] == name]
    if row.empty:
        return {}
    return _records(str(settings().database), name, row["fingerprint"].iloc[0], str(row["registered_at"].iloc[0]))


@st.cache_data(max_entries=30, show_spinner=False)
def _class_table(fingerprint: str, _dataset: Dataset) -> pd.DataFrame:
    return dataset_tables.class_table(_dataset)


def class_table(found: Dataset) -> pd.DataFrame:
    """Return images, lesions and bytes per class."""
    return _class_table(found.fingerprint, found)


@st.cache_data(max_entries=30, show_spinner=False)
def _metadata_table(fingerprint: str, _dataset: Dataset) -> pd.DataFrame:
    return dataset_tables.age_sex_localization(_dataset)


def metadata_table(found: Dataset) -> pd.DataFrame:
    """Return the distributions of age, sex and localisation in long form."""
    return _metadata_table(found.fingerprint, found)


@st.cache_data(max_entries=30, show_spinner=False)
def _size_table(fingerprint: str, _dataset: Dataset) -> pd.DataFrame:
    return dataset_tables.size_counts(_dataset)


def size_table(found: Dataset) -> pd.DataFrame:
    """Return how many images have each size."""
    return _size_table(found.fingerprint, found)


def _result_key(run: Run) -> tuple[str, str, str]:
    """Return what a run's results depend on: they stay as they are until the run is tried again."""
    return (str(settings().database), run.id, f"{run.attempt} {run.status} {run.finished_at}")


@st.cache_data(max_entries=200, show_spinner=False)
def _statistics(key: tuple[str, str, str]) -> pd.DataFrame:
    return store().statistics(key[1])


def statistics(run: Run) -> pd.DataFrame:
    """Return a finished run's statistics."""
    return _statistics(_result_key(run))


@st.cache_data(max_entries=200, show_spinner=False)
def _storage(key: tuple[str, str, str]) -> pd.DataFrame:
    return store().storage(key[1])


def storage(run: Run) -> pd.DataFrame:
    """Return a finished run's sizes."""
    return _storage(_result_key(run))


@st.cache_data(max_entries=200, show_spinner=False)
def _optimal_k(key: tuple[str, str, str]) -> pd.DataFrame:
    return store().optimal_k(key[1])


def optimal_k(run: Run) -> pd.DataFrame:
    """Return a finished run's rules."""
    return _optimal_k(_result_key(run))


@st.cache_data(max_entries=50, show_spinner=False)
def _verification(at: Stamp, run_id: str) -> Verification | None:
    return store().verification(run_id)


def verification(run_id: str) -> Verification | None:
    """Return how a run's figures compare with the reference's, None where no image of it was checked."""
    return _verification(stamp(), run_id)


def is_being_checked(run_id: str) -> bool:
    """Return whether images of a run are being checked; False where the queue does not answer."""
    try:
        with watched().connected() as connection:
            return checks.under_way(connection, run_id)
    except QueueUnavailable:
        return False


def check_run(run_id: str, images: int) -> None:
    """Queue the check of so many images. SpecError where the run cannot be checked."""
    checks.submit(queues(), run_id, images)


@st.cache_data(max_entries=100, show_spinner=False)
def _worst_images(key: tuple[str, str, str], metric: str, variant: str, n: int) -> pd.DataFrame:
    return store().worst_images(key[1], metric, variant, n)


def worst_images(run: Run, metric: str, variant: str, n: int = 12) -> pd.DataFrame:
    """Return the images that a metric judges worst at one variant."""
    return _worst_images(_result_key(run), metric, variant, n)


RIVAL_COLUMNS = ("image_id", "variant", "k", "codec", "quality", "stored_bytes", "reason", "mse")


@st.cache_data(max_entries=60, show_spinner=False)
def _rivals_sentences(sweep: tuple[str, str, str], rivals: tuple[str, str, str], k: int, metric: str) -> list[str]:
    columns = (*RIVAL_COLUMNS, metric)
    ours = store().measurements(sweep[1], columns=columns, variant=f"k={k}")
    return list(rivals_in_words(ours, store().measurements(rivals[1], columns=columns), k, (metric,)))


def rivals_sentences(sweep: Run, rivals: Run, k: int, metric: str) -> list[str]:
    """Return in words how the codecs of a rivals run compare with a sweep's k, by one metric."""
    return _rivals_sentences(_result_key(sweep), _result_key(rivals), k, metric)


def arrivals(statistics: pd.DataFrame, storage: pd.DataFrame) -> pd.DataFrame:
    """Return where each metric's mean curve arrives, from the precomputed means.

    A sweep's means, taken as those of one image, have the same mean curves as its rows.
    """
    means = statistics.pivot(index="variant", columns="metric", values="mean")
    rows = storage[["variant", "k", "source_bytes", "stored_bytes", "control_bytes"]].merge(
        means, left_on="variant", right_index=True
    )
    return arrivals_of(rows.assign(image_id="mean", reason=None))


@st.cache_data(max_entries=20, show_spinner=False)
def _failed_images(at: Stamp, run_id: str) -> pd.DataFrame:
    return store().images(run_id, "failed")


def failed_images(run_id: str) -> pd.DataFrame:
    """Return the images that a run could not measure, with their reasons."""
    return _failed_images(stamp(), run_id)


# -- tables and claims ---------------------------------------------------------------------------------------------


@st.cache_data(max_entries=4, show_spinner=False)
def _trainings(at: Stamp) -> pd.DataFrame:
    return results.trainings(store())


def trainings() -> pd.DataFrame:
    """Return one row per finished training, see `core.article.evidence.trainings`."""
    return _trainings(stamp())


@st.cache_data(max_entries=4, show_spinner=False)
def _offers(at: Stamp) -> Offers:
    return results.offers(store(), _trainings(at))


def offers() -> Offers:
    """Return what the claims could be judged by."""
    return _offers(stamp())


@st.cache_data(max_entries=8, show_spinner="Judging the claims")
def _claims(at: Stamp, chosen: Grounds) -> pd.DataFrame:
    return claims_table(results.known(store(), _trainings(at), _offers(at), chosen))


def claims(chosen: Grounds) -> pd.DataFrame:
    """Return the claims with their verdicts, see `core.article.claims.claims_table`."""
    return _claims(stamp(), chosen)


# -- single training runs ------------------------------------------------------------------------------------------


@st.cache_data(max_entries=20, show_spinner=False)
def _steps(at: Stamp, run_id: str) -> pd.DataFrame:
    return store().steps([run_id])


def steps(run_id: str) -> pd.DataFrame:
    """Return one row per step of a run, see `core.store.trainings`."""
    return _steps(stamp(), run_id)


@st.cache_data(max_entries=20, show_spinner=False)
def _run_splits(at: Stamp, run_id: str) -> pd.DataFrame:
    return store().run_splits(run_id)


def run_splits(run_id: str) -> pd.DataFrame:
    """Return the sets that a run really has."""
    return _run_splits(stamp(), run_id)


@st.cache_data(max_entries=20, show_spinner=False)
def _training_notes(at: Stamp, run_id: str) -> list[str]:
    return store().training_notes(run_id)


def training_notes(run_id: str) -> list[str]:
    """Return the sentences that belong beside a run's results."""
    return _training_notes(stamp(), run_id)


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


TrainingKey = tuple[str | int, ...]


def _training_key(run: Run) -> TrainingKey:
    """Return what a training run's rows depend on: its end, or while it lasts the whole file's state."""
    return _result_key(run) if run.ended else stamp()


@st.cache_data(max_entries=300, show_spinner=False)
def _epochs(key: TrainingKey, run_ids: tuple[str, ...]) -> pd.DataFrame:
    return store().epochs(run_ids)


def epochs(run: Run) -> pd.DataFrame:
    """Return a run's epochs."""
    return _epochs(_training_key(run), (run.id,))


def live_epochs(run_id: str) -> pd.DataFrame:
    """Return the epochs of a run under way as the file has them now."""
    return _epochs(stamp(), (run_id,))


@st.cache_data(max_entries=100, show_spinner=False)
def _layer_sizes(run_id: str, steps: int, height: int, width: int, _rows: pd.DataFrame) -> pd.DataFrame:
    return layer_sizes_of(_rows, height, width)


def layer_sizes(run: Run, height: int, width: int) -> pd.DataFrame:
    """Return filters or units by layer and step of a run, see `training_numbers.layer_sizes`."""
    found = steps(run.id)
    return _layer_sizes(f"{run.id} {run.attempt}", len(found), height, width, found)


@st.cache_data(max_entries=50, show_spinner=False)
def _trained_steps(keys: tuple[TrainingKey, ...], run_ids: tuple[str, ...]) -> pd.DataFrame:
    return store().trainings(run_ids)[list(STEP_COLUMNS)]


def compared_steps(runs: Sequence[Run]) -> pd.DataFrame:
    """Return the finished steps of several runs, columns `core.store.trainings.STEP_COLUMNS`."""
    return _trained_steps(tuple(_training_key(run) for run in runs), tuple(run.id for run in runs))


def compared_epochs(runs: Sequence[Run]) -> pd.DataFrame:
    """Return the epochs of several runs."""
    keys = tuple(each for run in runs for each in _training_key(run))
    return _epochs(keys, tuple(run.id for run in runs))


@st.cache_data(max_entries=30, show_spinner=False)
def _sets(
    fingerprint: str, targets: Targets, seed: int, leaky_split: bool, _dataset: Dataset
) -> tuple[pd.DataFrame, str]:
    split = split_records(_dataset.records, targets, seed=seed, leaky_split=leaky_split)
    return reached(_dataset.records, split), split_sentence(_dataset, split)


def sets_reached(found: Dataset, targets: Targets, seed: int, leaky_split: bool) -> tuple[pd.DataFrame, str]:
    """Return the sets that a training would have, see `core.data.splits.reached`, and in words what a random split
    leaks.

    Raises SpecError where the data set cannot be divided.
    """
    return _sets(found.fingerprint, targets, seed, leaky_split, found)


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
    """Return how far a study has come; None while it isn't recorded."""
    return _study_state(stamp(), settings().redis_url, study)


@st.cache_data(max_entries=5, show_spinner=False)
def _studies(at: Stamp) -> list[Study]:
    return store().studies()


def studies() -> list[Study]:
    """Return the studies of the article, newest first."""
    return [study for study in _studies(stamp()) if study.kind == ARTICLE_STUDY]


@st.cache_data(max_entries=50, ttl=60, show_spinner=False)
def _study_estimate(database: str, text: str, done: tuple[tuple[str, float], ...], _found: Dataset) -> StudyEstimate:
    spec = ArticleSpec.from_dict(json.loads(text))
    left = [part for part in plan(spec) if dict(done).get(part.key) != 1]
    return estimate_study(watched(), spec, _found, left, dict(done))


def study_estimate(spec: ArticleSpec, found: Dataset, done: Mapping[str, float]) -> StudyEstimate:
    """Return how long a study may still take, at most a minute old; done: parts begun, 0 to 1, by key."""
    shares = tuple((key, round(share, 2)) for key, share in sorted(done.items()))
    return _study_estimate(str(settings().database), json.dumps(spec.to_dict()), shares, found)


@st.cache_data(max_entries=8, show_spinner=False)
def _study_claims(at: Stamp, runs: tuple[str, ...], chosen: Grounds) -> pd.DataFrame:
    trained = _trainings(at)
    own = trained[trained["run_id"].isin(runs)]
    return claims_table(results.known(store(), own, _offers(at), chosen))


def study_claims(runs: Sequence[str], chosen: Grounds) -> pd.DataFrame:
    """Return the claims as these trainings alone, and what else is chosen, decide them."""
    return _study_claims(stamp(), tuple(runs), chosen)


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
    """Read the runs anew at the next call: something was submitted, cancelled or retried."""
    _runs.clear()
    _health.clear()
    _study_state.clear()
