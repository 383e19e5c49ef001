"""The page Prune and train, run as Streamlit runs it, with a real store and a real Valkey."""

from __future__ import annotations

import base64
import json
import statistics
import sys
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pages import OpenPage, opener, ran, text
from recorded import EASY, QUICK, new_run, record_training
from redis import Redis
from streamlit.testing.v1 import AppTest

from core.data.datasets import Dataset, DatasetImage
from core.networks.architectures import ALEXNET, CLASSES, LENET5
from core.predictions.comparison import compare
from core.predictions.intervals import interval_text, intervals_of_step
from core.runs import spec_from_dict
from core.settings import Settings
from core.store.measurements import Store
from core.training.algorithm2 import State, Step
from core.training.evaluation import judged
from core.training.results import EpochResult
from core.training.specs import PRESETS, Baseline, PruneTrainSpec, Rules, TrainingProtocol, TrainSpec
from core.training.steps import described, failed, first_state, next_training
from jobs import run_jobs
from jobs.live_runs import LiveRun, active_runs
from jobs.queues import Queues

NOW = datetime(2026, 11, 24, 12, tzinfo=UTC)


def labelled(name: str, *, source: str | None = None, lesions: int = 10) -> Dataset:
    """Four classes of twenty images, two of each lesion."""
    records = tuple(
        DatasetImage(f"{label}{number:02}", f"{label}{number:02}.jpg", 1000, 450, 600, f"{name}{label}{number}", label,
               lesion_id=f"{label}-{number % lesions}")
        for label in sorted(CLASSES)
        for number in range(20)
    )  # fmt: skip
    return Dataset(
        name, Path("/nowhere") / name, "ham10000", records, source=source, settings="k=350" if source else None
    )


@pytest.fixture
def store(settings: Settings) -> Store:
    """Give the store of the pages, with a data set and its reconstruction."""
    found = Store(settings.database)
    for dataset in (labelled("ham"), labelled("ham-k350", source="ham")):
        found.record_dataset(dataset, NOW)
    return found


@pytest.fixture
def open_page(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> OpenPage:
    return opener(monkeypatch, settings.data_dir, str(settings.redis_url), "prune_train")


def table(test: AppTest, column: str) -> Any:
    return next(frame.value for frame in test.dataframe if column in frame.value)


def field(test: AppTest, name: str) -> Any:
    kinds = ("text_input", "number_input", "selectbox", "multiselect", "toggle", "button_group", "time_input")
    return next(each for kind in kinds for each in test.get(kind) if each.key == f"training_{name}")


def epochs(count: int) -> list[EpochResult]:
    return [
        EpochResult(n, 1.0, 60.0 + n, 60.0, 60.0, 1.0, 50.0 + n, 50.0, 50.0, 2.0, 90.0, best=n == 1)
        for n in range(1, count + 1)
    ]


# Empty stores


def test_an_empty_store_shows_how_to_begin(open_page: OpenPage) -> None:
    for view in ("Runs", "Compare"):
        shown = open_page(tab=view)
        assert "No network has been trained yet." in text(shown)
        assert "python -m jobs.worker train" in text(shown)
    assert "No data set is registered yet." in text(open_page(tab="New run"))
    begun = ran(next(each for each in open_page().button if each.label == "New run").click())
    assert begun.query_params["tab"] == "New run"


def test_the_form_names_a_missing_worker_and_missing_packages(
    store: Store, open_page: OpenPage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("KERAS_BACKEND", raising=False)
    shown = text(open_page())
    assert "python -m jobs.worker train" in shown
    assert "Training needs packages" not in shown
    monkeypatch.setitem(sys.modules, "tensorflow", None)
    assert "Training needs packages that are not installed: tensorflow. Run `make setup`" in text(open_page())


def test_a_data_set_without_labels_cannot_be_trained_on(settings: Settings, open_page: OpenPage) -> None:
    plain = replace(labelled("moles"), layout="plain")
    Store(settings.database).record_dataset(plain, NOW)
    assert "No data set with labels is registered yet" in text(open_page(tab="New run"))


# The form


def specs_of(settings: Settings) -> list[TrainSpec]:
    """Return the specs of the runs in the queue, oldest first."""
    with Redis.from_url(str(settings.redis_url)) as connection:
        facts = [LiveRun(connection, run_id).facts() for run_id in active_runs(connection)]
    found = [spec_from_dict(json.loads(each.spec)) for each in facts]
    return [spec for spec in found if isinstance(spec, TrainSpec)]


def test_the_form_submits_every_network_data_set_size_and_seed(
    store: Store, open_page: OpenPage, settings: Settings
) -> None:
    shown = ran(field(open_page(tab="New run"), "kind").set_value("train"))
    field(shown, "networks").set_value(["lenet5", "alexnet"])
    field(shown, "datasets").set_value(["ham", "ham-k350"])
    field(shown, "sizes").set_value("75×100, 200x100")
    field(shown, "seeds").set_value("1, 2")
    field(shown, "epochs").set_value(5)
    field(shown, "learning_rate").set_value(0.001)
    field(shown, "batch_size").set_value(16)
    field(shown, "augmentation").set_value(False)
    field(shown, "precision").set_value("float16")
    field(shown, "train").set_value(400)
    field(shown, "split_seed").set_value(4)
    field(shown, "device").set_value("cpu")
    field(shown, "priority").set_value("low")
    shown = ran(shown)
    assert "16 runs, 16 trainings of 5 epochs" in text(shown)
    ran(next(each for each in shown.button if each.label == "Start 16 runs").click())
    specs = specs_of(settings)
    wanted = {
        (network, dataset, height, width, seed)
        for network in ("lenet5", "alexnet")
        for dataset in ("ham", "ham-k350")
        for height, width in ((75, 100), (200, 100))
        for seed in (1, 2)
    }
    assert {
        (each.network.name, each.dataset, each.training.height, each.training.width, each.training.seed)
        for each in specs
    } == wanted
    assert len(specs) == 16
    for each in specs:
        assert each.kind == "train"
        assert each.training == TrainingProtocol(
            epochs=5, learning_rate=0.001, batch_size=16, augmentation=False, precision="float16",
            height=each.training.height, width=each.training.width, seed=each.training.seed,
        )  # fmt: skip
        assert (each.targets.train, each.targets.test, each.split_seed, each.device) == (400, 360, 4, "cpu")
        assert each.thresholds.validation_accuracy == (75 if each.network.name == "lenet5" else 80)
    states = Queues(settings).runs()
    assert {state.live.priority for state in states} == {"low"}
    assert len({state.study for state in states}) == 1


def test_the_form_submits_algorithm_2_with_its_rules_and_the_users_baseline(
    store: Store, open_page: OpenPage, settings: Settings
) -> None:
    shown = ran(field(open_page(tab="New run"), "preset").set_value("quick"))
    field(shown, "factors").set_value("50, 16.5")
    field(shown, "scope").set_value("first_two")
    field(shown, "max_failures").set_value(1)
    field(shown, "max_iterations").set_value(3)
    field(shown, "on_reject").set_value("continue")
    shown = ran(field(shown, "own_baseline").set_value(True))
    limits = {"train_accuracy": 70.0, "train_precision": 71.0, "validation_accuracy": 60.0,
              "validation_precision": 61.0, "test_tolerance": 3.0}  # fmt: skip
    for name, value in limits.items():
        field(shown, name).set_value(value)
    shown = ran(shown)
    said = text(shown)
    assert "Shrink the rejected network on by the same factor" in said
    assert "1 run, 2 to 4 trainings of 3 epochs" in said
    started = ran(next(each for each in shown.button if each.label == "Start 1 run").click())
    assert specs_of(settings) == [
        PruneTrainSpec(
            dataset="ham",
            network=LENET5,
            training=PRESETS["quick"],
            baseline=Baseline(**limits),
            rules=Rules(
                factors=(50.0, 16.5), scope="first_two", max_failures=1, max_iterations=3, on_reject="continue"
            ),
        )
    ]
    assert started.query_params["run"] == Queues(settings).runs()[0].id


def test_the_form_shows_the_sizes_of_the_sets_and_the_leak(store: Store, open_page: OpenPage) -> None:
    shown = open_page(tab="New run")
    sets = table(shown, "Training with repeats")
    assert sets["Class"].tolist() == ["melanoma", "nevus", "non-melanoma", "negative"]
    assert all("of 825" in each and "lesions" in each for each in sets["Training"])
    assert "share a lesion with training" in text(shown)
    leaky = ran(field(shown, "leaky_split").set_value(True))
    assert "Leaky split, drawn image by image" in text(leaky)
    assert "accuracy is then too high" in text(leaky)


def test_the_form_shows_given_sets_and_refuses_them_where_none_are_given(store: Store, open_page: OpenPage) -> None:
    shown = open_page(tab="New run")
    without = text(ran(field(shown, "split").set_value("given")))
    assert "Expected a data set that gives its splits" in without
    ham = labelled("ham")
    names = ("train", "validation", "test")
    records = tuple(replace(each, split=names[place % 3]) for place, each in enumerate(ham.records))
    store.record_dataset(replace(ham, records=records), NOW)
    given = ran(field(open_page(tab="New run"), "split").set_value("given"))
    assert "Given sets, used as they are" in text(given)
    assert "the numbers of images and the split seed do not change them" in text(given)


def test_an_input_size_that_is_too_small_for_a_network_is_refused_with_the_layer(
    store: Store, open_page: OpenPage
) -> None:
    shown = open_page(tab="New run")
    field(shown, "networks").set_value(["lenet5", "custom1"])
    shown = ran(field(shown, "sizes").set_value("48×64"))
    said = "\n".join(str(each.value) for each in shown.error)
    assert "custom1 at 48×64" in said.replace("\\", "")
    assert next(each for each in shown.button if each.label == "Start").disabled
    assert table(shown, "MACs per image")["Network"].tolist() == ["lenet5"]


@pytest.mark.parametrize(
    ("name", "value", "problem"),
    [
        ("seeds", "one", "expected seeds such as 1,2,3, got one"),
        ("sizes", "big", "expected sizes in rows × columns such as 200×100, got big"),
        ("factors", "50, 50.4", "expected factors that differ in their whole percent"),
        ("networks", [], "expected at least one"),
        ("datasets", [], "expected at least one data set with labels"),
    ],
)
def test_invalid_settings_show_an_error_and_disable_the_start_button(
    store: Store, open_page: OpenPage, name: str, value: Any, problem: str
) -> None:
    shown = ran(field(open_page(tab="New run"), name).set_value(value))
    assert any(problem in str(each.value).replace("\\", "").lower() for each in shown.error)
    assert next(each for each in shown.button if each.label == "Start").disabled


def test_an_equal_run_that_has_finished_is_offered_instead(
    store: Store, open_page: OpenPage, settings: Settings
) -> None:
    fingerprint = labelled("ham").fingerprint
    rules = Rules(factors=(50.0,), max_iterations=1)
    run_id = record_training(store, "lenet5", (70.0, 60.0), rules=rules, fingerprint=fingerprint)
    shown = open_page(run=run_id)
    copied = ran(next(each for each in shown.button if each.label == "Use these settings in a new run").click())
    assert "A run with exactly these settings on exactly these images is there already." in text(copied)
    assert not [each for each in copied.button if each.label.startswith("Start")]
    again = ran(next(each for each in copied.toggle if each.key == "training_again").set_value(True))
    ran(next(each for each in again.button if each.label == "Start 1 run").click())
    wanted = PruneTrainSpec(dataset="ham", network=LENET5, training=QUICK, baseline=EASY, rules=rules)
    assert wanted in specs_of(settings)
    copied = open_page(run=run_id)
    copied = ran(next(each for each in copied.button if each.label == "Use these settings in a new run").click())
    opened = ran(next(each for each in copied.button if each.label == "Open it").click())
    assert (opened.query_params["tab"], opened.query_params["run"]) == ("Runs", run_id)


@pytest.mark.parametrize("before", ["", "point_"])
def test_a_link_fills_the_form(store: Store, open_page: OpenPage, before: str) -> None:
    point = {"network": "alexnet", "size": "100x50", "factor": "33.33", "scope": "first", "iteration": "2"}
    shown = open_page(tab="New run", **{f"{before}{name}": value for name, value in point.items()})
    filled = {name: field(shown, name).value for name in ("networks", "sizes", "factors", "scope", "max_iterations")}
    assert filled == {
        "networks": ["alexnet"], "sizes": "100×50", "factors": "33.33", "scope": "first", "max_iterations": 2,
    }  # fmt: skip
    assert not set(point) & set(shown.query_params)
    unknown = open_page(tab="New run", network="vgg", scope="none", iteration="x")
    assert "network vgg, scope none, iteration x" in text(unknown)


def test_the_curves_page_links_a_point_to_the_form(store: Store, open_page: OpenPage) -> None:
    curves = open_page("curves", iteration="0", size="75x100", factors="33.33")
    link = next(each for each in curves.get("page_link") if each.proto.label.startswith("Take this point on"))
    parts = dict(each.split("=") for each in link.proto.query_string.split("&"))
    assert link.proto.page == "prune_train"
    assert parts == {
        "tab": "New+run", "point_network": "alexnet", "point_batch_norm": "printed", "point_size": "75x100",
        "point_factor": "33.33", "point_scope": "all", "point_iteration": "1",
    }  # fmt: skip


# A run


def test_a_finished_run_shows_its_answer_its_steps_and_its_pareto_front(store: Store, open_page: OpenPage) -> None:
    run_id = record_training(store, "alexnet", (70.0, 80.0, 40.0, 50.0), rules=Rules(factors=(50, 33.33)), sets=True)
    store.record_epochs(run_id, 1, 0, epochs(3), NOW)
    shown = open_page(run=run_id)
    said = text(shown)
    assert "alexnet, unpruned, reaches 70.0 % accuracy" in said
    assert "Of 3 pruned networks, 1 met the baseline. The smallest of them, R1: 50%" in said
    assert "On the Pareto front, beaten in both by no other step: R1: 50%; R2: 50%" in said
    assert "Split by lesion. Nothing leaks." in text(open_page(run=run_id, part="Data"))
    ladder = table(shown, "Of unpruned")
    assert ladder["Step"].tolist() == ["Original", "R1: 50%", "R2: 50%", "R1, R2: 50%, 33%"]
    assert ladder["Accepted"].tolist() == ["yes", "yes", "test accuracy −28.00", "test accuracy −18.00"]
    assert ladder["Test accuracy"].tolist() == ["70.00 %", "80.00 %", "40.00 %", "50.00 %"]
    assert ladder["Of unpruned"].iloc[0] == "100 %"
    figures = table(shown, "Figure").set_index("Figure")
    assert figures.loc["Precision, the article's", "Test"] == "70.00 %"
    assert figures.loc["Recall, macro-average", "Training"] == "95.00 %"
    recalls = table(open_page(run=run_id, part="Confusion"), "Recall by class")
    assert recalls["Test"].tolist() == ["70.00 %"] * 4
    links = [each.proto for each in shown.get("page_link") if each.proto.page == "run"]
    assert [link.query_string for link in links] == [f"run={run_id}"]


def test_another_step_and_the_balanced_accuracy_can_be_chosen(store: Store, open_page: OpenPage) -> None:
    run_id = record_training(store, "lenet5", (70.0, 80.0), rules=Rules(factors=(50,), max_iterations=1))
    shown = open_page(run=run_id, step="1", accuracy="Balanced test accuracy")
    assert table(shown, "Figure").set_index("Figure").loc["Accuracy", "Test"] == "80.00 %"
    assert "Balanced test accuracy against parameters" in text(shown)


def test_a_step_that_could_not_be_trained_is_named_with_its_reason(store: Store, open_page: OpenPage) -> None:
    rules = Rules(factors=(50,), max_iterations=1)
    run_id = record_training(store, "lenet5", (70.0,), rules=rules, ends=False)
    spec = PruneTrainSpec(dataset="ham", network=LENET5, training=QUICK, baseline=EASY, rules=rules)
    state: State = first_state(spec)
    step = next_training(spec, state)
    assert isinstance(step, Step)
    _, state = judged(state, step, store.step_results(run_id)[0])
    step = next_training(spec, state)
    assert isinstance(step, Step)
    result, _ = judged(state, step, failed(spec, step, "the loss is no number; try a lower learning rate"))
    store.record_step(run_id, 1, result, "train-1 on here", NOW, NOW)
    store.record_training_ended(run_id, 1, None, NOW)
    shown = open_page(run=run_id)
    assert "The loss is no number; try a lower learning rate." in text(shown)
    assert table(shown, "Of unpruned")["Accepted"].tolist() == ["yes", "failed"]
    assert [each.label for each in shown.button if each.label.startswith("Retry")] == ["Retry from the failed step"]
    assert "1 step could not be trained" in [each.label for each in shown.expander]


def test_a_run_that_ended_without_results_shows_the_reason(
    store: Store, open_page: OpenPage, settings: Settings
) -> None:
    broken = record_training(store, "lenet5", (), ends=False)
    store.record_training_ended(broken, 1, "expected the folder /images; it is gone", NOW)
    cancelled = record_training(store, "lenet5", (), seed=2, ends=False)
    store.record_cancelled(cancelled, 1, NOW)
    shown = open_page(run=broken)
    assert "Expected the folder /images; it is gone." in text(shown)
    assert "No step of this run was trained to its end." in text(shown)
    assert "This run was cancelled with 0 of 3 epochs trained." in text(open_page(run=cancelled))


def submitted(settings: Settings, store: Store) -> tuple[str, TrainSpec]:
    """Submit a run, and record it as the record worker does."""
    spec = TrainSpec(dataset="ham", network=ALEXNET, training=QUICK.replace(height=200, width=100))
    found = store.dataset("ham")
    assert found is not None
    run_id = Queues(settings).submit(spec, found).run_id
    store.record_run(new_run(run_id, spec, NOW, fingerprint=found.fingerprint, total=3))
    return run_id, spec


def test_a_run_under_way_shows_its_step_its_epoch_and_its_curves(
    store: Store, open_page: OpenPage, settings: Settings
) -> None:
    run_id, spec = submitted(settings, store)
    assert "Queued" in text(open_page(run=run_id))
    step = next_training(spec, first_state(spec))
    assert isinstance(step, Step)
    with Redis.from_url(str(settings.redis_url)) as connection:
        live = LiveRun(connection, run_id)
        live.begin()
        run_jobs.dequeue(live)  # a worker has taken it
        live.note(step=0, step_name="Original", epoch=2, epochs_done=2, epoch_seconds=7.0, doing="")
    store.record_started(run_id, 1, NOW)
    store.record_step(run_id, 1, described(spec, step), "train-1 on here", NOW, None)
    store.record_epochs(run_id, 1, 0, epochs(2), NOW)
    shown = open_page(run=run_id)
    assert "Original, being trained" in text(shown).replace("*", "")
    assert "Original · epoch 2 of 3 · 7.0 s left in this step" in text(shown)
    drawn = [drawn_values(each) for each in shown.get("plotly_chart")]
    assert {"training": [61.0, 62.0], "validation": [51.0, 52.0]} in drawn


def drawn_values(chart: Any) -> dict[str, list[float]]:
    """Return the y values of each trace of a chart, as sent to the browser."""
    traces = json.loads(chart.proto.spec)["data"]
    return {
        each["name"]: np.frombuffer(base64.b64decode(each["y"]["bdata"]), each["y"]["dtype"]).tolist()
        for each in traces
    }


def test_a_run_under_way_can_be_suspended_resumed_reprioritized_and_cancelled(
    store: Store, open_page: OpenPage, settings: Settings
) -> None:
    run_id, _ = submitted(settings, store)
    queues = Queues(settings)

    def state() -> Any:
        found = queues.run(run_id)
        assert found is not None
        return found

    shown = open_page(run=run_id)
    shown = ran(next(each for each in shown.button if each.label == "Suspend").click())
    assert state().status == "suspended"
    shown = ran(next(each for each in shown.button if each.label == "Resume").click())
    assert state().status == "queued"
    shown = ran(next(each for each in shown.selectbox if each.label == "Priority").set_value("high"))
    assert state().live.priority == "high"
    ran(next(each for each in shown.button if each.key == f"cancel_{run_id}").click())
    with Redis.from_url(str(settings.redis_url)) as connection:
        assert LiveRun(connection, run_id).stopped(1)


def test_a_run_cancelled_in_its_first_step_keeps_its_learning_curves(
    store: Store, open_page: OpenPage, settings: Settings
) -> None:
    run_id, spec = submitted(settings, store)
    step = next_training(spec, first_state(spec))
    assert isinstance(step, Step)
    store.record_step(run_id, 1, described(spec, step), "train-1 on here", NOW, None)
    store.record_epochs(run_id, 1, 0, epochs(2), NOW)
    store.record_cancelled(run_id, 1, NOW)
    with Redis.from_url(str(settings.redis_url)) as connection:
        LiveRun(connection, run_id).end(None, attempt=1)
    shown = open_page(run=run_id)
    assert "This run was cancelled with 2 of 3 epochs trained." in text(shown)
    assert table(shown, "Of unpruned")["Accepted"].tolist() == ["not ended"]
    assert "This step has no figures: Its training has not ended." in text(shown)
    assert {"training": [61.0, 62.0], "validation": [51.0, 52.0]} in map(drawn_values, shown.get("plotly_chart"))


# Comparing runs


def test_compared_runs_show_differing_settings_and_means_over_seeds(store: Store, open_page: OpenPage) -> None:
    reached = {1: 70.0, 2: 74.0, 3: 80.0}
    runs = [record_training(store, "lenet5", (each,), seed=seed) for seed, each in reached.items()]
    runs.append(record_training(store, "alexnet", (90.0,), synthetic=True, dataset="demo"))
    for run_id in runs:
        store.record_epochs(run_id, 1, 0, epochs(3), NOW)
    shown = open_page(tab="Compare", runs=",".join(runs))
    differing = table(shown, "Seed")
    assert differing["Run"].tolist() == runs
    assert "Epochs" not in differing
    assert differing["Network"].tolist() == ["lenet5"] * 3 + ["alexnet"]
    means = table(shown, "Seeds").set_index("Step")
    mean, deviation = statistics.mean(reached.values()), statistics.stdev(reached.values())
    row = means.iloc[0]
    assert (row["n"], row["Seeds"], row["Test accuracy"]) == (3, "1, 2, 3", f"{mean:.2f} ± {deviation:.2f} %")
    assert means.iloc[1]["Test accuracy"] == "90.00 %"
    assert "synthetic" in text(shown)
    assert len(shown.get("plotly_chart")) == 2
    assert all(f"run={run_id}" in page for run_id, page in zip(runs, differing["Page"], strict=True))


def test_two_groups_are_compared_seed_by_seed_on_the_same_images(store: Store, open_page: OpenPage) -> None:
    reached = {"lenet5": {1: 70.0, 2: 80.0, 4: 50.0}, "alexnet": {1: 60.0, 2: 30.0, 3: 90.0}}
    runs = {
        (network, seed): record_training(store, network, (accuracy,), seed=seed, images=10)
        for network, of_seeds in reached.items()
        for seed, accuracy in of_seeds.items()
    }
    shown = open_page(tab="Compare", runs=",".join(runs.values()))
    differences = table(shown, "McNemar p").set_index("Seed")
    assert differences.index.tolist() == [1, 2]
    for seed in (1, 2):
        rows = [store.predictions([runs[network, seed]], split="test") for network in reached]
        found = compare(*rows)
        expected = 100 * float(np.mean([rows[0]["label"] == rows[0]["predicted"]]))
        expected -= 100 * float(np.mean([rows[1]["label"] == rows[1]["predicted"]]))
        assert differences.loc[seed, "Difference, points"].startswith(f"{expected:+.2f} [")
        assert differences.loc[seed, "McNemar p"] == f"{found.p:.2g}"
        assert differences.loc[seed, "Told from chance"] == ("yes" if found.p < 0.05 else "no")
    mean, deviation = statistics.mean((10.0, 50.0)), statistics.stdev((10.0, 50.0))
    assert f"mean difference {mean:+.2f} ± {deviation:.2f} points, n = 2" in text(shown)
    same = open_page(tab="Compare", runs=",".join(runs.values()), second="0")
    assert "Choose two different groups" in text(same)


def test_figures_of_steps_with_predictions_have_intervals_in_the_comparison(store: Store, open_page: OpenPage) -> None:
    runs = [record_training(store, "lenet5", (70.0,), seed=1, images=10), record_training(store, "lenet5", (70.0,))]
    steps = table(open_page(tab="Compare", runs=",".join(runs)), "Validation accuracy")
    for column, name in (
        ("Test accuracy", "test_accuracy"),
        ("Balanced accuracy", "test_balanced_accuracy"),
        ("Validation accuracy", "validation_accuracy"),
    ):
        limits = intervals_of_step(store.steps([runs[0]])["classification"].iloc[0])[name]
        assert steps[column].iloc[0].endswith(f" % {interval_text(limits)}")
        assert "[" not in steps[column].iloc[1]


def test_the_newest_submission_is_compared_first_and_unknown_runs_are_named(store: Store, open_page: OpenPage) -> None:
    record_training(store, "lenet5", (60.0,), seed=9)
    runs = [record_training(store, "lenet5", (70.0,), seed=seed, study="grid-1") for seed in (1, 2)]
    assert set(table(open_page(tab="Compare"), "Page")["Run"]) == set(runs)
    shown = open_page(tab="Compare", runs=f"{runs[0]},train-none")
    assert "There is no training run train-none." in text(shown)
    assert "Choose runs to compare." in text(open_page(tab="Compare", runs="train-none"))
