"""Training runs on the pages for every kind of run (Jobs, Overview and the banner), and their texts."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from laboratory import workers
from pages import APP, plain
from recorded import new_run
from streamlit.testing.v1 import AppTest

from core.data.datasets import Dataset, DatasetImage
from core.data.splits import SPLITS
from core.networks.architectures import NETWORKS
from core.predictions.classification import FIGURES
from core.runs import Live, Status
from core.settings import Settings
from core.store.measurements import Store
from core.training.algorithm2 import Step
from core.training.evaluation import judged
from core.training.results import EpochResult
from core.training.specs import PruneTrainSpec, TrainingProtocol, TrainSpec
from core.training.steps import described, failed, first_state, next_training
from dashboard import data, words
from jobs.connection import connect, queue
from jobs.live_runs import LiveRun
from jobs.queues import Queues
from jobs.run_jobs import job_id

NOW = datetime(2026, 11, 24, 21, 45, tzinfo=UTC)
NETWORK = NETWORKS["lenet5"]
TRAINING = TrainingProtocol(epochs=3, height=48, width=64)
EPOCH = EpochResult(1, 0.9, 60.0, 61.0, 50.0, 0.8, 70.0, 71.0, 72.0, 1.5, 300.0)
NAME = "moles_*with*_[strange]"
OpenPage = Callable[..., AppTest]


def dataset(folder: Path) -> Dataset:
    labels = ("melanoma", "nevus", "non_melanoma", "negative")
    records = tuple(DatasetImage(f"{i:03}", f"{i:03}.png", 1, 40, 56, f"{i}", labels[i % 4]) for i in range(48))
    return Dataset(NAME, folder, "class_folders", records, (), synthetic=True)


def record_pruning(store: Store, run_id: str, accuracies: list[float | None]) -> None:
    """Record a pruning run whose steps reached these test accuracies. None: the step could not be trained."""
    spec = PruneTrainSpec(dataset=NAME, network=NETWORK, training=TRAINING)
    found = dataset(Path("/images"))
    store.record_run(new_run(run_id, spec, NOW, fingerprint=found.fingerprint, synthetic=True, total=TRAINING.epochs))
    state = first_state(spec)
    for accuracy in accuracies:
        step = next_training(spec, state)
        assert isinstance(step, Step)
        if accuracy is None:
            result = failed(spec, step, "There is too little memory: try a smaller batch.")
        else:
            figures: dict[str, float | None] = {f"{split}_{figure}": accuracy for split in SPLITS for figure in FIGURES}
            result = replace(described(spec, step), status="finished", epochs=3, figures=figures)
            epochs = [replace(EPOCH, epoch=epoch) for epoch in (1, 2, 3)]
            store.record_epochs(run_id, 1, step.index, epochs, NOW)
        result, state = judged(state, step, result)
        store.record_step(run_id, 1, result, "train-host-1", NOW, NOW)
    store.record_training_ended(run_id, 1, None, NOW + timedelta(minutes=5))


@pytest.fixture
def queues(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> Queues:
    monkeypatch.setenv("DATA_DIR", str(settings.data_dir))
    monkeypatch.setenv("DATA_ROOTS", str(settings.data_roots[1]))
    monkeypatch.setenv("REDIS_URL", str(settings.redis_url))
    data.forget_runs()
    return Queues(settings)


def open_page(page: str, **query: str) -> AppTest:
    test = AppTest.from_file(str(APP), default_timeout=60)
    for name, value in query.items():
        test.query_params[name] = value
    test.switch_page(f"app_pages/{page}.py")
    test.run()
    assert not test.exception, test.exception
    return test


def said(test: AppTest) -> str:
    kinds: tuple[Any, ...] = (test.markdown, test.caption, test.header, test.info, test.success)
    return "\n".join(str(part.value) for kind in kinds for part in kind)


def progress_texts(test: AppTest) -> list[str]:
    return [part.proto.text for part in test.get("progress")]


def waiting(queues: Queues, seed: int = 1, **options: Any) -> str:
    spec = TrainSpec(dataset=NAME, network=NETWORK, training=TRAINING.replace(seed=seed))
    return queues.submit(spec, dataset(queues.settings.data_roots[1]), **options).run_id


def test_a_queued_training_shows_its_epochs_and_that_no_worker_runs(queues: Queues) -> None:
    waiting(queues)
    test = open_page("jobs")
    assert progress_texts(test) == ["Queued\\: 3 epochs per step to train"]
    assert "1 training or diagnosis run cannot go on until one runs: `python -m jobs.worker train`" in "".join(
        each.value for each in test.warning
    )
    queues.suspend(queues.runs()[0].id)
    data.forget_runs()
    assert "training run" not in "".join(
        each.value for each in open_page("jobs").warning
    )  # it is suspended by the user


def test_a_training_can_be_suspended_resumed_reprioritized_and_cancelled_on_the_page(queues: Queues) -> None:
    run_id = waiting(queues)
    test = open_page("jobs")
    test.button(key=f"suspend_{run_id}").click().run()
    assert queues.run(run_id).status == "suspended"
    assert test.button(key=f"suspend_{run_id}").label == "Resume"
    assert progress_texts(test) == ["Suspended"]
    test.selectbox(key=f"priority_{run_id}_normal").select("high").run()
    assert queues.run(run_id).live.priority == "high"
    test.button(key=f"suspend_{run_id}").click().run()
    state = queues.run(run_id)
    assert (state.status, state.live.priority) == ("queued", "high")
    assert queue("train-high", connect(queues.settings)).get_job_ids() == [job_id(LiveRun(None, run_id), 1, 0)]
    test.button(key=f"cancel_{run_id}").click().run()
    with workers(queues.settings, "record"):
        *_, state = queues.wait(run_id)
    assert state.status == "cancelled"
    data.forget_runs()
    test = open_page("jobs", job=run_id)
    assert "0 of 3 epochs trained" in said(test)
    assert test.button(key=f"retry_{run_id}").label == "Go on from the last epoch"


def test_a_scheduled_training_shows_its_time_and_can_be_started_now(queues: Queues) -> None:
    run_id = waiting(queues, start_after=datetime(2040, 1, 2, 22, 30, tzinfo=UTC))
    test = open_page("jobs")
    (text,) = progress_texts(test)
    assert text.startswith("To start after 2 Jan 2040")
    assert test.button(key=f"suspend_{run_id}").label == "Start now"
    test.button(key=f"suspend_{run_id}").click().run()
    assert queues.run(run_id).status == "queued"


def test_a_running_step_shows_its_name_and_epoch(queues: Queues) -> None:
    run_id = waiting(queues)
    connection = connect(queues.settings)
    live = LiveRun(connection, run_id)
    queue("train", connection).empty()
    live.begin()
    live.note(step=1, step_name="R1: 50%", epoch=2, epochs_done=5, epoch_seconds=60.0, doing="")
    test = open_page("jobs")
    assert progress_texts(test) == ["R1\\: 50% · epoch 2 of 3 · 1 min left in this step"]
    assert test.button(key=f"cancel_{run_id}").label == "Cancel after the epoch"
    assert test.button(key=f"cancel_now_{run_id}").label == "Cancel at once"
    assert [each.value for each in test.metric if each.label == "Running"] == ["1"]


def test_a_failed_step_is_listed_with_its_reason_and_can_be_retried(queues: Queues) -> None:
    store = Store(queues.settings.database)
    record_pruning(store, "prune-train-1", [95.0, None, 94.0])
    test = open_page("jobs", job="prune-train-1")
    assert "6 of 6 epochs trained · 1 step failed" in said(test)
    assert test.button(key="retry_prune-train-1").label == "Retry from the failed step"
    assert "1 step could not be trained" in [each.label for each in test.expander]
    frames = [frame.value for frame in test.dataframe]
    reasons = next(frame for frame in frames if "failure" in frame)
    assert reasons["name"].tolist() == ["R1: 50%"]
    assert reasons["failure"].tolist() == ["There is too little memory: try a smaller batch."]
    ended = next(frame for frame in frames if "Of" in frame)
    assert ended[["Kind", "Of", "Failed", "Done"]].values.tolist() == [
        ["Pruning and training", "6 epochs", "1 step", 100]
    ]


def test_the_overview_shows_the_smallest_accepted_network(queues: Queues) -> None:
    store = Store(queues.settings.database)
    record_pruning(store, "prune-train-1", [95.0, 94.0, 93.5, 50.0, 50.0])
    test = open_page("overview")
    text = said(test)
    assert "Smallest accepted network" in text
    assert "through 4 pruned networks, of which 2 were accepted" in text
    assert "synthetic" in text
    steps = store.steps()
    figures = {each.label: (each.value, each.delta) for each in test.metric}
    left = 100 * steps["parameters"][2] / steps["parameters"][0]
    assert "The smallest is **R2: 50%**" in plain(text)
    assert figures["Parameters left"] == (f"{left:.1f} %", "")
    assert figures["Test accuracy"] == ("93.50 %", "-1.5 points")
    assert figures["Unpruned"] == ("95.00 %", "")
    assert "15 epochs" in text


def test_the_overview_says_when_no_pruned_network_was_accepted(queues: Queues) -> None:
    record_pruning(Store(queues.settings.database), "prune-train-1", [95.0, 50.0, 50.0])
    test = open_page("overview")
    figures = {each.label: each.value for each in test.metric}
    assert "The smallest is" not in said(test)
    assert figures["Parameters left"] == "100.0 %"
    assert "of which 0 were accepted" in said(test)


RUN = replace(
    new_run("train-1", TrainSpec(dataset="moles", network=NETWORK), NOW, total=75), status=Status.RUNNING, done=12
)


@pytest.mark.parametrize(
    ("changed", "text"),
    [
        ({"step_name": "Original", "seconds_left": 130.0}, "Original · epoch 12 of 75 · 2 min 10 s left in this step"),
        ({"step_name": "Original", "epoch": 0, "doing": "starting Keras"}, "Original · 75 epochs · starting Keras"),
        ({"step_name": "Original", "epoch": 75, "seconds_left": 0.0}, "Original · epoch 75 of 75 · judging"),
        ({"status": "queued", "step_name": "R1: 50%", "epoch": 0}, "R1: 50% · 75 epochs · waits for a worker"),
        ({"status": "queued", "epoch": 0, "position": 2}, "Queued, 2 runs before it: 75 epochs per step to train"),
        (
            {"status": "suspended", "step_name": "Original", "failed": 1},
            "Suspended · Original · epoch 12 of 75 · 1 step failed",
        ),
    ],
)
def test_training_progress_is_given_in_epochs(changed: dict[str, Any], text: str) -> None:
    changed = dict(changed)
    of_run = {name: changed.pop(name) for name in ("status", "failed") if name in changed}
    live = replace(Live(epoch=12, epochs=75), **changed)
    assert words.training_progress_text(replace(RUN, live=live, **of_run)) == text
