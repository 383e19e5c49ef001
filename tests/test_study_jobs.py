"""The article's study in the queue, with a real Valkey, a real store, real workers and a killed record worker."""

from __future__ import annotations

import json
import os
import shlex
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from laboratory import ROOT, end, wait_for, workers, write_images
from redis import Redis
from rq import Queue, SimpleWorker
from rq.serializers import JSONSerializer

from benchmarks.processes import Process
from core.article.plan import (
    FAILED,
    FINISHED,
    READY,
    RECONSTRUCTION,
    STAGES,
    SWEEP,
    UNDER_WAY,
    ArticleSpec,
    Override,
    plan,
)
from core.compression.image_results import Chunk, ImageResult
from core.compression.results import RunResults
from core.compression.specs import ReconstructSpec
from core.data.datasets import Dataset, load_dataset
from core.data.splits import Targets
from core.errors import SpecError
from core.networks.architectures import ALEXNET, LENET5
from core.runs import Run
from core.settings import Settings
from core.training.specs import PRESETS, Baseline, Rules, TrainingProtocol, article_baseline
from jobs import run_jobs, run_kinds
from jobs.__main__ import build_parser, main
from jobs.cli.options import command_line
from jobs.cli.study import spec_of
from jobs.connection import RECORD, queue
from jobs.live_runs import LiveRun, active_runs
from jobs.queues import Queues
from jobs.studies import (
    StudyState,
    cancel_study,
    prioritise_study,
    resume_study,
    study_state,
    submit_study,
    suspend_study,
)
from jobs.study_estimates import estimate_study

LABELS = ("melanoma", "nevus", "non_melanoma", "negative")
SPEC = ArticleSpec(
    dataset="moles",
    networks=(LENET5,),
    training=TrainingProtocol(epochs=1, height=32, width=32, batch_size=8),
    targets=Targets(train=32, validation=12, test=12),
    rules=Rules(factors=(50,), max_iterations=1),
    ks=(4, 12, 24),
    sizes=((16, 16),),
    k=None,
)


class Alone(SimpleWorker):
    """A worker that listens to no commands: RQ waits up to a second for the thread that does, at each end."""

    def subscribe(self) -> None:
        pass

    def unsubscribe(self) -> None:
        pass


class Lab:
    """A queue and a store without workers; the test does the work of the workers."""

    def __init__(self, settings: Settings) -> None:
        folder = settings.data_roots[-1] / "moles"
        for number, label in enumerate(LABELS):
            write_images(folder / label, 3, height=24, width=32, seed=number)
        self.queues = Queues(settings)
        self.store = self.queues.store
        self.store.migrate()
        self.dataset = load_dataset(folder, name="moles")
        self.store.record_dataset(self.dataset, datetime.now(UTC))
        self.redis = Redis.from_url(str(settings.redis_url))

    def record(self) -> None:
        """Do what the record worker does in one round."""
        records = queue(RECORD, self.redis)
        records.enqueue("jobs.record_worker.reconcile")
        Alone([records], connection=self.redis, serializer=JSONSerializer).work(burst=True, logging_level="ERROR")

    def submit(self, spec: ArticleSpec = SPEC, **arguments: Any) -> str:
        study = submit_study(self.queues, spec, self.dataset, **arguments)
        self.record()
        return study

    def state(self, study: str) -> StudyState:
        found = study_state(self.queues, study)
        assert found is not None
        return found

    def states(self, study: str) -> dict[str, str]:
        return {each.part.key: each.state for each in self.state(study).progress.parts}

    def runs(self, kind: str | None = None) -> list[Run]:
        return self.store.runs(kind)[::-1]

    def end(self, kind: str, error: str | None = None) -> None:
        """End the queued and running runs of a kind, as the workers would."""
        now = datetime.now(UTC)
        for run in self.runs(kind):
            if run.status not in ("queued", "running"):
                continue
            if error or kind in ("train", "prune-train"):
                self.store.record_training_ended(run.id, run.attempt, error, now)
                continue
            self._measure(run, now)
        self.record()

    def _measure(self, run: Run, now: datetime) -> None:
        """Record the end of a measuring run; a study needs only the k that the rules choose."""
        spec = run.spec
        results = [ImageResult(each.image_id, "measured", None, 0.2) for each in self.dataset.records]
        self.store.record_images([Chunk(run.id, run.attempt, "svd-1", results)])
        made = None
        if isinstance(spec, ReconstructSpec):
            made = replace(self.dataset, name=spec.name, records=self.dataset.records[1:], source="moles")
        rules = {"plateau": (12, "All metrics have arrived."), "budget": (None, "No k has the ratio 3.77.")}
        choices = pd.DataFrame(
            [{"rule": rule, "k": k, "reason": reason, "parameters": "{}"} for rule, (k, reason) in rules.items()]
        )
        self.store.record_results(run.id, RunResults(pd.DataFrame(), pd.DataFrame(), choices), now, dataset=made)

    def end_all(self) -> None:
        for kind in ("svd-sweep", "train", "reconstruct", "resize-study", "prune-train"):
            self.end(kind)


@pytest.fixture
def lab(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> Iterator[Lab]:
    monkeypatch.setenv("DATA_DIR", str(settings.data_dir))
    monkeypatch.setenv("DATA_ROOTS", os.pathsep.join(map(str, settings.data_roots)))
    monkeypatch.setenv("REDIS_URL", str(settings.redis_url))
    made = Lab(settings)
    yield made
    made.redis.close()


def test_a_study_submits_each_run_once_when_the_runs_it_needs_have_finished(lab: Lab) -> None:
    study = lab.submit()
    assert [run.kind for run in lab.runs()] == ["svd-sweep", "train"]
    lab.record()
    assert len(lab.runs()) == 2
    lab.end("svd-sweep")
    assert lab.state(study).progress.k == 12
    chosen = {run.kind: run.spec.to_dict().get("k") for run in lab.runs()[2:]}
    assert chosen == {"reconstruct": 12, "resize-study": 12}
    lab.end_all()
    assert [run.spec.to_dict()["dataset"] for run in lab.runs("prune-train")] == ["moles-k12-jpeg95"]
    lab.record()
    assert lab.state(study).status == FINISHED
    assert {run.study for run in lab.runs()} == {study}
    assert len(lab.runs()) == len(plan(SPEC))


def test_submitting_an_equal_study_returns_the_one_under_way(lab: Lab) -> None:
    study = lab.submit()
    assert lab.submit() == study
    lab.redis.delete(*lab.redis.keys("dermslim:study-spec:*"))
    assert lab.submit() == study
    assert lab.submit(SPEC.replace(seeds=(2,))) != study


def test_a_study_uses_runs_that_exist_already(lab: Lab) -> None:
    first = lab.submit()
    lab.end_all()
    lab.redis.delete(*lab.redis.keys("dermslim:study-spec:*"))
    before = len(lab.runs())
    second = lab.submit()
    lab.record()
    assert second != first
    assert lab.state(second).status == FINISHED
    assert len(lab.runs()) == before


class KilledError(Exception):
    """Simulate a SIGKILL at this point: nothing after it is executed."""


POINTS: dict[str, tuple[Any, str, bool]] = {
    "before the run is created in the queue": (LiveRun, "create", True),
    "before the message is sent": (LiveRun, "create", False),
    "before the jobs are enqueued": (run_jobs, "enqueue", True),
    "while the jobs are enqueued": (Queue, "enqueue_many", True),
    "after the jobs were enqueued": (run_jobs, "enqueue", False),
    "before the run is marked as submitted": (LiveRun, "submitted", True),
    "before the data set is stored for the workers": (run_kinds, "leave_dataset", True),
    "after the data set was stored for the workers": (run_kinds, "leave_dataset", False),
}


@pytest.mark.parametrize("point", POINTS)
def test_a_study_continues_wherever_its_record_worker_was_killed(
    lab: Lab, point: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    owner, name, before = POINTS[point]
    original: Callable[..., Any] = getattr(owner, name)
    kills = 0

    def killed(*arguments: Any, **named: Any) -> Any:
        nonlocal kills
        if not before:
            original(*arguments, **named)
        kills += 1
        if kills <= 2:
            raise KilledError
        return original(*arguments, **named) if before else None

    monkeypatch.setattr(owner, name, killed)
    study = lab.submit()
    assert kills
    for _ in range(3):
        for key in lab.redis.keys("dermslim:spec:*"):
            if not LiveRun(lab.redis, str(lab.redis.get(key).decode())).facts():
                assert 0 < lab.redis.ttl(key) <= 60  # of a run that was never created
                lab.redis.delete(key)
        lab.record()
    assert sorted(run.kind for run in lab.runs()) == ["svd-sweep", "train"]
    for run in lab.runs():
        live = LiveRun(lab.redis, run.id)
        assert live.facts().submitting is None
        jobs = {job.decode() for kind in ("svd", "train") for job in lab.redis.lrange(f"rq:queue:{kind}", 0, -1)}
        assert set(live.job_ids())
        assert set(live.job_ids()) <= jobs
    assert len(active_runs(lab.redis)) == 2
    assert lab.state(study).status == "running"


def test_a_failed_run_blocks_the_runs_that_need_it_until_resuming_retries_it(lab: Lab) -> None:
    study = lab.submit()
    lab.end("svd-sweep", error="disk full")
    assert lab.state(study).status == "running"
    assert lab.states(study)[SWEEP] == FAILED
    lab.end("train")
    state = lab.state(study)
    assert state.status == "failed"
    assert state.error is not None
    assert state.error.startswith(
        "SVD sweep: disk full. Waiting for that: Reconstruction at k*; Resize comparison at k*;"
    )
    resume_study(lab.queues, study)
    lab.record()
    assert lab.state(study).status == "running"
    assert lab.states(study)[SWEEP] == UNDER_WAY
    lab.end_all()
    assert lab.state(study).status == FINISHED
    assert lab.state(study).error is None
    assert [run.attempt for run in lab.runs("svd-sweep")] == [2]
    with pytest.raises(SpecError, match="something left to do"):
        resume_study(lab.queues, study)


@pytest.mark.slow
def test_a_cancelled_study_cancels_its_runs_and_can_be_resumed(lab: Lab) -> None:
    study = lab.submit()
    lab.end("svd-sweep")
    cancel_study(lab.queues, study)
    lab.record()
    assert lab.state(study).status == "cancelled"
    statuses = {run.kind: run.status for run in lab.runs()}
    assert statuses == {
        "svd-sweep": "finished", "train": "cancelled", "reconstruct": "cancelled", "resize-study": "cancelled",
    }  # fmt: skip
    lab.record()
    assert len(lab.runs()) == 4
    with pytest.raises(SpecError, match="Expected a study that is running"):
        cancel_study(lab.queues, study)
    resume_study(lab.queues, study)
    lab.record()
    lab.end_all()
    assert lab.state(study).status == FINISHED


@pytest.mark.slow
def test_a_suspended_study_starts_no_training_but_continues_to_measure(lab: Lab) -> None:
    study = lab.submit()
    suspend_study(lab.queues, study)
    assert lab.state(study).status == "suspended"
    (training,) = lab.runs("train")
    suspended = lab.queues.run(training.id)
    assert suspended is not None
    assert suspended.status == "suspended"
    for kind in ("svd-sweep", "reconstruct", "resize-study"):
        lab.end(kind)
    assert lab.states(study)["pruning lenet5 1"] == READY
    assert lab.runs("prune-train") == []
    assert lab.state(study).status == "suspended"
    resume_study(lab.queues, study)
    lab.record()
    resumed = lab.queues.run(training.id)
    assert resumed is not None
    assert resumed.status == "queued"
    lab.end_all()
    assert lab.state(study).status == FINISHED


def test_trainings_keep_their_order_when_suspended_and_reprioritized(lab: Lab) -> None:
    study = lab.submit(SPEC.replace(seeds=(1, 2, 3)))
    order = lab.redis.lrange("rq:queue:train", 0, -1)
    assert len(order) == 3
    suspend_study(lab.queues, study)
    assert lab.redis.llen("rq:queue:train") == 0
    resume_study(lab.queues, study)
    assert lab.redis.lrange("rq:queue:train", 0, -1) == order
    prioritise_study(lab.queues, study, "high")
    assert lab.redis.lrange("rq:queue:train-high", 0, -1) == order


def test_a_scheduled_study_starts_early_only_when_it_is_resumed(lab: Lab) -> None:
    hour = datetime.now(UTC) + timedelta(hours=8)
    study = lab.submit(start_after=hour)
    assert lab.runs() == []
    assert (lab.state(study).status, lab.state(study).starts_at) == ("scheduled", hour)
    resume_study(lab.queues, study)
    lab.record()
    assert lab.state(study).status == "running"
    assert len(lab.runs()) == 2


def test_a_scheduled_study_starts_by_itself_at_its_time(lab: Lab) -> None:
    study = lab.submit(start_after=datetime.now(UTC) + timedelta(seconds=0.5))
    time.sleep(0.6)
    lab.record()
    assert lab.state(study).status == "running"
    assert len(lab.runs()) == 2


def test_the_priority_applies_to_queued_and_later_trainings(lab: Lab) -> None:
    study = lab.submit(priority="low")
    (training,) = lab.runs("train")
    assert lab.redis.llen("rq:queue:train-low") == 1
    prioritise_study(lab.queues, study, "high")
    state = lab.queues.run(training.id)
    assert state is not None
    assert (state.live.priority, lab.redis.llen("rq:queue:train-high")) == ("high", 1)
    for kind in ("svd-sweep", "reconstruct"):
        lab.end(kind)
    assert lab.redis.llen("rq:queue:train-high") == 2
    with pytest.raises(SpecError, match="Expected a priority of"):
        prioritise_study(lab.queues, study, "urgent")
    with pytest.raises(SpecError, match="Expected a priority of"):
        lab.submit(SPEC.replace(seeds=(3,)), priority="urgent")


def test_a_removed_data_set_fails_the_study_which_continues_when_it_is_back(lab: Lab) -> None:
    study = submit_study(lab.queues, SPEC, lab.dataset)
    lab.store.remove_dataset("moles")
    lab.record()
    state = lab.state(study)
    assert state.status == "failed"
    assert state.error is not None
    assert "Expected data set moles to be registered, got none" in state.error
    lab.store.record_dataset(replace(lab.dataset, records=lab.dataset.records[1:]), datetime.now(UTC))
    resume_study(lab.queues, study)
    lab.record()
    assert "got a changed one" in str(lab.state(study).error)
    lab.store.record_dataset(lab.dataset, datetime.now(UTC))
    resume_study(lab.queues, study)
    lab.record()
    assert lab.states(study)[SWEEP] == UNDER_WAY
    assert lab.state(study).error is None


def test_a_given_k_replaces_the_rules_when_resuming(lab: Lab) -> None:
    study = lab.submit(SPEC.replace(rule="budget", codec="png", quality=None))
    lab.end("svd-sweep")
    lab.end("train")
    state = lab.state(study)
    assert state.status == "failed"
    assert state.error is not None
    assert "no k by the budget rule." in state.error
    with pytest.raises(SpecError, match="at most 24"):
        resume_study(lab.queues, study, k=25)
    resume_study(lab.queues, study, k=7)
    lab.record()
    assert lab.states(study)[RECONSTRUCTION] == UNDER_WAY
    assert lab.state(study).spec.k == 7
    lab.end_all()
    assert lab.state(study).status == FINISHED


def test_a_study_with_an_unknown_setting_fails_with_the_reason_and_does_not_stop_others(lab: Lab) -> None:
    spec = json.dumps(SPEC.to_dict() | {"colour": "red"})
    values = {"study": "article-0", "kind": "article", "dataset": "moles", "spec": spec}
    lab.store.record_study({**values, "submitted_at": datetime(2026, 1, 1, tzinfo=UTC)})
    lab.submit()
    study = lab.store.study("article-0")
    assert study is not None
    assert (study.status, "colour" in (study.error or "")) == ("failed", True)
    assert len(lab.runs()) == 2


def test_unknown_studies_are_refused(lab: Lab) -> None:
    for change in (cancel_study, suspend_study, resume_study):
        with pytest.raises(SpecError, match="got article-9"):
            change(lab.queues, "article-9")
    assert study_state(lab.queues, "article-9") is None


def test_the_estimate_sums_the_known_stages_and_names_the_unknown_ones(lab: Lab) -> None:
    spec = SPEC.replace(seeds=(1, 2))
    nothing = estimate_study(lab.queues, spec, lab.dataset, plan(spec))
    assert nothing.seconds is None
    assert nothing.unknown == tuple(STAGES.values())
    lab.submit()
    lab.end("svd-sweep")
    known = estimate_study(lab.queues, spec, lab.dataset, plan(spec))
    by_stage = {stage.stage: stage for stage in known.stages}
    assert by_stage[SWEEP].seconds > 0
    assert known.seconds == pytest.approx(sum(stage.seconds for stage in known.stages))
    assert known.unknown == ("Training on the original images", "Algorithm 2 on the reconstructed images")
    assert (by_stage["pruning"].runs, by_stage["pruning"].unknown) == (2, 2)
    one = estimate_study(lab.queues, spec, lab.dataset, plan(spec)[:1])
    assert [stage.stage for stage in one.stages] == [SWEEP]


FULL = SPEC.replace(
    seeds=(1, 2),
    overrides=(Override(network="lenet5", height=40, width=48, epochs=3),),
    baseline=Baseline(
        train_accuracy=80, train_precision=80, validation_accuracy=70, validation_precision=70, test_tolerance=3
    ),
    split_seed=4,
    device="cpu",
    training=TrainingProtocol(
        epochs=2,
        learning_rate=0.001,
        batch_size=16,
        height=64,
        width=48,
        augmentation=False,
        rotation=5.0,
        precision="float16",
    ),
    rules=Rules(factors=(40, 20), scope="first", max_failures=3, max_iterations=5, on_reject="continue"),
    mode="unfolded",
    codec="webp",
    quality=80,
    sample_size=9,
    rule="knee",
    k=11,
    sizes=((16, 16), (20, 10)),
    reconstruction="mine",
)


# The first network's thresholds, given explicitly, apply to every network.
NAMED_BASELINE = SPEC.replace(
    networks=(LENET5, ALEXNET), training=PRESETS["laptop"], baseline=article_baseline("lenet5")
)


@pytest.mark.parametrize("spec", [SPEC, FULL, NAMED_BASELINE], ids=["plain", "full", "baseline"])
def test_the_command_of_a_study_describes_the_same_study(spec: ArticleSpec, lab: Lab) -> None:
    words = shlex.split(command_line(spec))
    assert words[:4] == ["python", "-m", "jobs", "article"]
    options = build_parser().parse_args(words[3:])
    assert spec_of(options, lab.dataset, list(spec.networks)) == spec


QUICK = ("--networks", "lenet5", "--size", "32x32", "--epochs", "1")


def test_a_dry_run_prints_the_plan_and_submits_nothing(lab: Lab, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["article", "moles", *QUICK, "--seeds", "1,2", "--dry-run"]) == 0
    told = capsys.readouterr()
    lines = told.out.splitlines()
    assert lines[0] == "SVD sweep"
    assert lines[1].startswith("Training on the original images, lenet5, seed 1\t32×32, 1 epochs")
    assert "Algorithm 2 on the reconstructed images, lenet5, seed 2" in lines[6]
    assert "after: reconstruction" in lines[6]
    assert lines[-1] == "How long it takes is not known yet."
    assert "rank 24" in told.err
    lab.record()
    assert lab.runs() == []
    assert lab.store.studies() == []


def test_the_commands_submit_list_and_change_studies(lab: Lab, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["article", "moles", *QUICK, "--start-after", "23:59", "--priority", "low"]) == 0
    study = capsys.readouterr().out.strip()
    lab.record()
    assert main(["studies"]) == 0
    assert capsys.readouterr().out == f"{study}\tmoles\tscheduled\t0/5\n"
    assert main(["resume-study", study]) == 0
    lab.record()
    assert main(["studies", study]) == 0
    assert capsys.readouterr().out.splitlines()[0].startswith("SVD sweep\tunder way\tsvd-sweep-")
    assert main(["prioritise-study", study, "high"]) == 0
    assert main(["pause-study", study]) == 0
    assert lab.state(study).status == "suspended"
    assert main(["cancel-study", study]) == 0
    lab.record()
    assert lab.state(study).status == "cancelled"
    assert main(["studies", "article-9"]) == 1
    assert "got article-9" in capsys.readouterr().err


def test_presets_set_their_overrides_unless_a_size_is_given(lab: Lab) -> None:
    def spec(*words: str) -> ArticleSpec:
        options = build_parser().parse_args(["article", "moles", "--preset", "quick", *words])
        return spec_of(options, lab.dataset, [LENET5])

    assert (spec().sample_size, spec().rules.max_iterations) == (None, 1)  # fewer images than the preset's 100
    many = replace(lab.dataset, records=lab.dataset.records * 100)
    options = build_parser().parse_args(["article", "moles", "--preset", "quick"])
    assert spec_of(options, many, [LENET5]).sample_size == 100
    assert spec("--override", "lenet5=40x40:2").overrides == (
        Override(network="lenet5", height=40, width=40, epochs=2),
    )
    assert spec("--size", "32x32").training.height == 32
    assert spec("--k", "3,5").ks == (3, 5)
    for wrong in ("lenet5", "lenet5=40", "=40x40", "lenet5=40x40:few"):
        with pytest.raises(SystemExit):
            spec("--override", wrong)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_whole_study_finishes_with_real_workers_when_the_record_worker_is_killed(settings: Settings) -> None:
    folder = settings.data_roots[-1] / "moles"
    for number, label in enumerate(LABELS):
        write_images(folder / label, 14, height=24, width=32, seed=number)
    queues = Queues(settings)
    with workers(settings, "svd", "train"):
        study = ""
        with record_worker(settings) as record:
            dataset = registered(queues, folder)
            study = submit_study(queues, SPEC, dataset)
            wait_for(lambda: len(queues.store.runs()) >= 2, 120)
            os.kill(record, signal.SIGKILL)
        with record_worker(settings) as record:
            wait_for(lambda: reconstructed(queues), 240)
            os.kill(record, signal.SIGKILL)
        with record_worker(settings):
            wait_for(lambda: (state := study_state(queues, study)) is not None and state.ended, 480)
    state = study_state(queues, study)
    assert state is not None
    assert (state.status, state.error) == (FINISHED, None)
    kinds = sorted(run.kind for run in queues.store.runs())
    assert kinds == ["prune-train", "reconstruct", "resize-study", "svd-sweep", "train"]
    steps = queues.store.trainings()
    assert sorted(zip(steps["version"], steps["name"], strict=True)) == [
        ("original", "Original"),
        ("reconstructed", "Original"),
        ("reconstructed", "R1: 50%"),
    ]


@contextmanager
def record_worker(settings: Settings) -> Iterator[int]:
    """Run a record worker beside other workers; give its process id."""
    environment = {
        **os.environ,
        "DATA_DIR": str(settings.data_dir),
        "DATA_ROOTS": os.pathsep.join(map(str, settings.data_roots)),
        "REDIS_URL": str(settings.redis_url),
    }
    process = Process([sys.executable, "-m", "jobs.worker", "record"], cwd=ROOT, env=environment)
    try:
        yield process.pid
    finally:
        end(process)


def registered(queues: Queues, folder: Path) -> Dataset:
    dataset = queues.resolve(str(folder))
    queues.register(dataset)
    wait_for(lambda: queues.store.dataset(dataset.name) == dataset, 60)
    return dataset


def reconstructed(queues: Queues) -> bool:
    return "reconstruct" in {run.kind for run in queues.store.runs()}
