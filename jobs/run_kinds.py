"""What differs between runs that measure and runs that train: the jobs they are split into, and what these need."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from core.compression.specs import DiagnosisSpec, MeasuringSpec, ReconstructSpec, new_names, variants
from core.data.datasets import Dataset, DatasetImage
from core.errors import SpecError
from core.estimates import Estimate, Pace, measuring_estimate, training_estimate
from core.runs import Run, RunSpec
from core.settings import Settings
from core.store.file import plain_rows
from core.store.measurements import Store
from core.training import algorithm2
from core.training.algorithm2 import State, Stop
from core.training.evaluation import judged
from core.training.specs import TrainSpec
from core.training.steps import first_state, next_training
from jobs.connection import SVD, TRAIN, Connection
from jobs.hosts import claim_output, disclaim_output, mark_output
from jobs.run_jobs import STEP_SECONDS, leave_dataset

LARGEST_CHUNK = 16  # images per job
DIAGNOSIS_CHUNKS = 4  # of a diagnosis
CHUNKS = 24  # jobs of a small run, at least, if it has so many images
PIXELS = 450 * 600  # of an image of HAM10000; LARGEST_CHUNK is for images of this size


@dataclass(frozen=True)
class Work:
    """What is left to do of a run.

    jobs: what each does, as JSON, by number. timeout: seconds that one may take. total: images, or epochs of the first
    step. text: the work in words, for the log. done: images that earlier attempts measured. step: the first to train.
    """

    jobs: Mapping[int, str]
    timeout: int
    total: int
    text: str = ""
    done: frozenset[str] = frozenset()
    step: int | None = None


class RunKind:
    """A run's spec, data set and settings. The subclass of each kind of run says what its jobs do.

    worker: the kind of worker that runs them.
    """

    worker = SVD

    def __init__(self, spec: RunSpec, dataset: Dataset, settings: Settings) -> None:
        self.spec, self.dataset, self.settings = spec, dataset, settings

    def check(self, store: Store) -> None:
        """Raise SpecError where the data set cannot be measured, or trained on, with this spec."""
        self.spec.check(self.dataset)

    def reserve(self, run_id: str) -> None:
        """Reserve what only one run may use. Raises SpecError where another run has it."""

    def give_back(self, run_id: str) -> None:
        """Undo `reserve`, for a run that is not submitted after all."""

    def prepare(self, connection: Connection, run_id: str) -> None:
        """Write what workers need besides the jobs."""

    def folders(self) -> dict[str, str]:
        """Return the folders that workers read images from and write them to, by their paths on this host."""
        return {}

    def work(self, store: Store) -> Work:
        """Return the work of the whole run."""
        raise NotImplementedError

    def work_left(self, store: Store, run_id: str, *, finished: bool) -> Work:
        """Return what earlier attempts left out. SpecError where a run that has finished left nothing out."""
        raise NotImplementedError

    def estimate(self, store: Store, workers: Callable[[], int], probed: Pace | None = None) -> Estimate:
        """Guess the run's length from what has been measured here, else from a probe. workers: how many measure."""
        raise NotImplementedError


class Measuring(RunKind):
    """A run whose jobs each measure a chunk of images."""

    spec: MeasuringSpec

    @property
    def least_chunks(self) -> int:
        """The number of jobs of a small run, if it has so many images."""
        return CHUNKS

    def folders(self) -> dict[str, str]:
        """Return the folder that workers read images from."""
        return {"root": str(self.dataset.root)}

    def work(self, store: Store) -> Work:
        """Return the chunks of all images of the sample."""
        return self._work(store, self.images(store), frozenset())

    def work_left(self, store: Store, run_id: str, *, finished: bool) -> Work:
        """Return the chunks of the images that were not measured."""
        done = frozenset(store.images(run_id, "measured")["image_id"])
        missing = [record for record in self.images(store) if record.image_id not in done]
        if finished and not missing:
            raise SpecError(f"Expected a run with images left to measure, got {run_id} with all {len(done)} measured.")
        return self._work(store, missing, done)

    def images(self, store: Store) -> Sequence[DatasetImage]:
        """Return the images that the run measures. SpecError where the data set lacks them."""
        return self.dataset.sample(self.spec.sample_size, self.spec.seed)

    def told(self, store: Store) -> dict[str, Any]:
        """Return what each job needs besides its images."""
        return {}

    def _work(self, store: Store, records: Sequence[DatasetImage], done: frozenset[str]) -> Work:
        names, chunks = new_names(self.dataset, self.spec), list(_chunks(records, self.least_chunks))
        told = self.told(store)
        jobs = {}
        for number, chunk in enumerate(chunks):
            files = [names[record.path] for record in chunk] if names else None
            jobs[number] = json.dumps({"records": [record.to_dict() for record in chunk], "names": files, **told})
        timeout = max((_timeout(chunk, len(variants(self.spec))) for chunk in chunks), default=0)
        return Work(jobs, timeout, len(records), f"{len(records)} images to measure", done)

    def estimate(self, store: Store, workers: Callable[[], int], probed: Pace | None = None) -> Estimate:
        """Guess the run's length, the images shared out to the workers."""
        return measuring_estimate(store, self.spec, self.images(store), max(workers(), 1), probed)


class Reconstructing(Measuring):
    """A measuring run that writes a data set."""

    spec: ReconstructSpec

    @property
    def output(self) -> Path:
        """The folder that the new data set is written to."""
        return self.settings.reconstructed / self.spec.name

    def check(self, store: Store) -> None:
        """Raise SpecError also where a data set of that name is registered."""
        super().check(store)
        if store.dataset(self.spec.name) is not None:
            raise SpecError(f"Expected a free name, got {self.spec.name}, which is a registered data set.")

    def reserve(self, run_id: str) -> None:
        """Mark the new data set's folder. SpecError where it has files."""
        claim_output(self.output, run_id, self.dataset.root)

    def give_back(self, run_id: str) -> None:
        """Remove the mark."""
        disclaim_output(self.output, run_id)

    def prepare(self, connection: Connection, run_id: str) -> None:
        """Mark the folder again, because it may have been removed since."""
        mark_output(self.output, run_id)

    def folders(self) -> dict[str, str]:
        """Return the folders that workers read images from and write them to."""
        return {**super().folders(), "output": str(self.output)}


class Diagnosing(Measuring):
    """A measuring run whose images a trained network predicts."""

    spec: DiagnosisSpec
    worker = TRAIN

    @property
    def least_chunks(self) -> int:
        """Few jobs, because each starts Keras."""
        return DIAGNOSIS_CHUNKS

    def check(self, store: Store) -> None:
        """Raise SpecError also where the network's weights are not here, or the data set lacks its images."""
        run = self._run(store)
        require_weights(run, self.settings)
        if store.metadata_encoding(run.id) is None:
            raise SpecError(f"Expected a run with the encoding of its metadata, got {run.id} without it.")
        self.spec.check(replace(self.dataset, records=self._split(store)))

    def images(self, store: Store) -> Sequence[DatasetImage]:
        """Return the images of the sample, with the labels and lesions of the training run."""
        chosen = replace(self.dataset, records=self._split(store))
        return chosen.sample(self.spec.sample_size, self.spec.seed)

    def told(self, store: Store) -> dict[str, Any]:
        """Return what the network needs: the encoding of metadata, the size of its input and its device."""
        asked = self._run(store).told(TrainSpec)
        size = (asked.training.height, asked.training.width)
        return {"encoding": store.metadata_encoding(self.spec.run), "size": size, "device": asked.device}

    def _run(self, store: Store) -> Run:
        run = store.run(self.spec.run)
        if run is None or not run.trains:
            raise SpecError(f"Expected a training run that is in the store, got {self.spec.run}.")
        return run

    def _split(self, store: Store) -> tuple[DatasetImage, ...]:
        spec, known = self.spec, {record.image_id: record for record in self.dataset.records}
        rows = plain_rows(store.predictions([spec.run], step=spec.step, split=spec.image_split))
        if not rows:
            raise SpecError(
                f"Expected a step of {spec.run} with predictions of {spec.image_split} images, got step {spec.step} "
                f"without any. `python -m jobs predict {spec.run}` makes those of trained steps from the kept weights."
            )
        missing = [row["image_id"] for row in rows if row["image_id"] not in known]
        if missing:
            raise SpecError(
                f"Expected the {len(rows):,} {spec.image_split} images of {spec.run} in {self.dataset.name}, got "
                f"{len(rows) - len(missing):,} of them; {missing[0]} is not there."
            )
        rows.sort(key=lambda row: str(row["image_id"]))
        return tuple(replace(known[row["image_id"]], label=row["label"], lesion_id=row["lesion_id"]) for row in rows)


class Training(RunKind):
    """A run whose jobs each train a step, one after the other."""

    spec: TrainSpec
    worker = TRAIN

    def prepare(self, connection: Connection, run_id: str) -> None:
        """Write the data set's description to Redis; every step needs all of it."""
        leave_dataset(connection, self.dataset)

    def work(self, store: Store) -> Work:
        """Return the first step."""
        return self._work(first_state(self.spec))

    def work_left(self, store: Store, run_id: str, *, finished: bool) -> Work:
        """Return the first step that could not be trained, or the one that was never finished."""
        state = first_state(self.spec)
        for result in store.step_results(run_id):
            step = next_training(self.spec, state)
            if result.failure or isinstance(step, Stop):
                break
            _, state = judged(state, step, result)
        following = next_training(self.spec, state)
        if isinstance(following, Stop) and finished:
            raise SpecError(f"Expected a run with steps left to train, got {run_id}: {following.reason}")
        return self._work(state)

    def _work(self, state: State) -> Work:
        step = len(state.outcomes)
        jobs = {step: json.dumps(algorithm2.to_dict(state))}
        return Work(jobs, STEP_SECONDS, self.spec.training.epochs, f"from step {step}", step=step)

    def estimate(self, store: Store, workers: Callable[[], int], probed: Pace | None = None) -> Estimate:
        """Guess the run's length on one worker."""
        return training_estimate(store, self.spec, self.dataset, probed)


def run_kind(spec: RunSpec, dataset: Dataset, settings: Settings) -> RunKind:
    """Return the kind of run that a spec asks for."""
    if isinstance(spec, TrainSpec):
        return Training(spec, dataset, settings)
    if isinstance(spec, DiagnosisSpec):
        return Diagnosing(spec, dataset, settings)
    return (Reconstructing if isinstance(spec, ReconstructSpec) else Measuring)(spec, dataset, settings)


def require_weights(run: Run, settings: Settings) -> None:
    """Raise SpecError for an imported training run that came without its weights."""
    if run.origin_host is not None and not (settings.trained / run.id).is_dir():
        raise SpecError(
            f"Expected the weights of {run.id} on this host, got none: it was imported from {run.origin_host} without "
            "them. Import a snapshot that was written there with --weights."
        )


def _chunks(records: Sequence[DatasetImage], least: int) -> Iterator[Sequence[DatasetImage]]:
    """Split images into chunks of equal size: fewer images per chunk where they are large or few.

    least: the number of chunks of a small run, if it has so many images.
    """
    if not records:
        return
    pixels = sum(record.height * record.width for record in records) / len(records)
    largest = LARGEST_CHUNK * CHUNKS // least  # the fewer the jobs, the larger
    size = min(largest, int(largest * PIXELS / max(pixels, 1.0)), -(-len(records) // least))
    for start in range(0, len(records), max(1, size)):
        yield records[start : start + max(1, size)]


def _timeout(chunk: Sequence[DatasetImage], rows: int) -> int:
    """Return the seconds that a chunk may take: about a hundred times its time on an ordinary core."""
    cost = sum((record.height * record.width / PIXELS) ** 1.5 for record in chunk)
    return int(300 + 10 * cost * max(rows, 1))
