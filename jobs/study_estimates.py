"""How long a study may take, and how much of it is done."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from core.article.plan import FINISHED, STAGES, ArticleSpec, Part, Standing, spec_ahead
from core.data.datasets import Dataset
from core.estimates import Estimate, Pace
from core.runs import Run, RunSpec
from core.training.specs import TrainSpec
from core.training.steps import likely_networks
from jobs.connection import TRAIN
from jobs.queues import Queues
from jobs.run_states import WorkerState


@dataclass(frozen=True)
class StageEstimate:
    """How long a stage's runs may take.

    seconds: of those whose speed is known. unknown: how many others there are. to_probe: one spec for each speed that
    is not known. probed: whether a speed is a probe's.
    """

    stage: str
    runs: int
    seconds: float
    unknown: int
    basis: str
    to_probe: tuple[RunSpec, ...] = ()
    probed: bool = False


@dataclass(frozen=True)
class StudyEstimate:
    """How long a study may take, by stage, on the workers that there are now."""

    stages: tuple[StageEstimate, ...]

    @property
    def seconds(self) -> float | None:
        """All that is known, one stage after the other; None where nothing is."""
        return sum(stage.seconds for stage in self.stages) or None

    @property
    def probed(self) -> bool:
        """Whether a speed is a probe's."""
        return any(stage.probed for stage in self.stages)

    @property
    def to_probe(self) -> tuple[RunSpec, ...]:
        """One spec for each speed that is not known."""
        return tuple(spec for stage in self.stages for spec in stage.to_probe)

    @property
    def unknown(self) -> tuple[str, ...]:
        """The stages with runs of unknown length."""
        return tuple(STAGES[stage.stage] for stage in self.stages if stage.unknown)


def estimate_study(
    queues: Queues,
    spec: ArticleSpec,
    dataset: Dataset,
    parts: Sequence[Part],
    done: Mapping[str, float] | None = None,
    *,
    workers: Sequence[WorkerState] | None = None,
    probe: Callable[[RunSpec, Dataset], Pace | None] | None = None,
) -> StudyEstimate:
    """Guess how long these parts take, from what has been measured here; trainings are shared out to the workers.

    done: the share of a part that is done already, 0 to 1, by its key. workers, probe: as of `Queues.estimate`. Stages
    are taken one after the other, as they are where measuring and training share a machine's cores.
    """
    workers = queues.workers() if workers is None else workers
    trainers = sum(worker.kind == TRAIN for worker in workers) or 1
    known: dict[tuple[str, str], Estimate] = {}
    stages = []
    for stage in STAGES:
        of_stage = [part for part in parts if part.stage == stage]
        seconds, found, to_probe = 0.0, [], []
        for part in of_stage:
            key = (stage, part.network.name if part.network else "")
            if key not in known:  # seeds take alike
                ahead = _ahead(spec, part, dataset)
                known[key] = queues.estimate(ahead, dataset, workers=workers, probe=probe)
                to_probe += [ahead] if known[key].seconds is None else []
            found.append(known[key])
            seconds += (known[key].seconds or 0.0) * (1 - (done or {}).get(part.key, 0.0))
        if of_stage:
            share = trainers if of_stage[0].network else 1
            basis = "; ".join(dict.fromkeys(each.basis for each in found))
            unknown, probed = (sum(each.seconds is None for each in found), any(each.probed for each in found))
            stages.append(StageEstimate(stage, len(of_stage), seconds / share, unknown, basis, tuple(to_probe), probed))
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
