"""How long a study may take, and how much of it is done."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from core.article.plan import FINISHED, STAGES, ArticleSpec, Part, Standing, spec_ahead
from core.data.datasets import Dataset
from core.runs import Run, RunSpec
from core.training.specs import TrainSpec
from core.training.steps import likely_networks
from jobs.connection import TRAIN
from jobs.queues import Queues


@dataclass(frozen=True)
class StageEstimate:
    """How long a stage's runs may take. seconds: of those whose pace is known. unknown: how many others there are."""

    stage: str
    runs: int
    seconds: float
    unknown: int
    basis: str


@dataclass(frozen=True)
class StudyEstimate:
    """How long a study may take, by stage, on the workers that there are now."""

    stages: tuple[StageEstimate, ...]

    @property
    def seconds(self) -> float | None:
        """All that is known, one stage after the other; None where nothing is."""
        return sum(stage.seconds for stage in self.stages) or None

    @property
    def unknown(self) -> tuple[str, ...]:
        """The stages with runs of unknown length."""
        return tuple(STAGES[stage.stage] for stage in self.stages if stage.unknown)


def estimate_study(
    queues: Queues, spec: ArticleSpec, dataset: Dataset, parts: Sequence[Part], done: Mapping[str, float] | None = None
) -> StudyEstimate:
    """Guess how long these parts take, from what has been measured here; trainings are shared out to the workers.

    done: the share of a part that is done already, 0 to 1, by its key. Stages are taken one after the other, as they
    are where measuring and training share a machine's cores.
    """
    trainers = sum(worker.kind == TRAIN for worker in queues.workers()) or 1
    known: dict[tuple[str, str], tuple[float | None, str]] = {}
    stages = []
    for stage in STAGES:
        of_stage = [part for part in parts if part.stage == stage]
        seconds, unknown, bases = 0.0, 0, []
        for part in of_stage:
            key = (stage, part.network.name if part.network else "")
            if key not in known:  # seeds take alike
                found = queues.estimate(_ahead(spec, part, dataset), dataset)
                known[key] = found.seconds, found.basis
            guess, basis = known[key]
            unknown += guess is None
            seconds += (guess or 0.0) * (1 - (done or {}).get(part.key, 0.0))
            bases.append(basis)
        if of_stage:
            share = trainers if of_stage[0].network else 1
            basis = "; ".join(dict.fromkeys(bases))
            stages.append(StageEstimate(stage, len(of_stage), seconds / share, unknown, basis))
    return StudyEstimate(tuple(stages))


def share_done(standing: Standing, run: Run | None) -> float:
    """Return how much of a part is done, 0 to 1: of a training run, of the epochs that it will probably have."""
    if standing.state == FINISHED:
        return 1.0
    if run is None or run.ended:
        return 0.0
    expected = run.total
    if isinstance(standing.spec, TrainSpec):
        expected = max(run.total, len(likely_networks(standing.spec)) * standing.spec.training.epochs)
    return min(1.0, (run.done + (0 if run.trains else run.failed)) / max(1, expected))


def _ahead(spec: ArticleSpec, part: Part, dataset: Dataset) -> RunSpec:
    """Return the probable settings of a run, with the original data set instead of a reconstruction."""
    ahead = spec_ahead(spec, part)
    return ahead.replace(dataset=dataset.name) if isinstance(ahead, TrainSpec) else ahead
