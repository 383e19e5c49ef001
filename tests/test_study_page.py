"""The page of the whole study, run as Streamlit runs it: empty, planned, under way, failed and finished."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pandas as pd
import pytest
from pages import OpenPage, opener, ran, text
from recorded import new_run, record_training
from redis import Redis

from core.article.evidence import trainings
from core.article.plan import (
    FINISHED,
    ORIGINALS,
    PRUNING,
    RECONSTRUCTION,
    RESIZE,
    SWEEP,
    ArticleSpec,
    Override,
    Progress,
    plan,
    progress,
    run_spec,
)
from core.article.summary import COLUMNS, accuracy_sentences, compression_sentence, training_figures
from core.compression.image_results import Chunk, ImageResult
from core.compression.results import RunResults
from core.data.datasets import Dataset, DatasetImage
from core.errors import SpecError
from core.networks.architectures import ALEXNET, CLASSES, LENET5
from core.predictions.intervals import interval_text, intervals_of_step
from core.settings import Settings
from core.store.measurements import Store
from core.training.specs import PRESETS, Baseline, Rules, TrainingProtocol
from dashboard.forms.fields import parsed, shown
from jobs.queues import Queues
from jobs.studies import find, study_state, submit_study

NOW = datetime(2026, 11, 24, 6, 12, tzinfo=UTC)
TRAINING = TrainingProtocol(epochs=3, height=75, width=100)


def labelled(name: str, *, source: str | None = None) -> Dataset:
    """Four classes of twelve images, two of each lesion."""
    records = tuple(
        DatasetImage(
            f"{label}{n:02}", f"{n}.jpg", 1000, 450, 600, f"{name}{label}{n}", label, lesion_id=f"{label}{n % 6}"
        )
        for label in sorted(CLASSES)
        for n in range(12)
    )  # fmt: skip
    return Dataset(name, Path("/nowhere") / name, "ham10000", records, source=source)


HAM, MADE = labelled("ham"), labelled("ham-k350-jpeg95", source="ham")
SPEC = ArticleSpec(
    dataset="ham",
    fingerprint=HAM.fingerprint,
    networks=(LENET5, ALEXNET),
    training=TRAINING,
    baseline=Baseline(
        train_accuracy=0, train_precision=0, validation_accuracy=0, validation_precision=0, test_tolerance=2
    ),
    rules=Rules(factors=(50,), max_iterations=1),
)
STUDY = "article-20261123-223000-abc123"


@pytest.fixture
def store(settings: Settings) -> Store:
    """Give the store of the page, with one data set."""
    found = Store(settings.database)
    found.record_dataset(HAM, NOW)
    return found


@pytest.fixture
def open_page(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> OpenPage:
    return opener(monkeypatch, settings.data_dir, str(settings.redis_url))


def record_study(store: Store, spec: ArticleSpec = SPEC, study: str = STUDY) -> None:
    values = {"study": study, "kind": "article", "dataset": "ham", "spec": json.dumps(spec.to_dict())}
    at = NOW - timedelta(hours=7, minutes=42)
    store.record_study(
        {**values, "submitted_by": "tester", "submitted_at": at, "command": "python -m jobs article ham"}
    )


def record_measured(store: Store, key: str, status: str = "finished", *, k: int | None = 350) -> None:
    """Record the run of a measuring part with the given status."""
    part = next(each for each in plan(SPEC) if each.key == key)
    spec = run_spec(SPEC, part, k=350, reconstruction=MADE.name)
    run_id = f"{spec.kind}-20261123-230000-{key}"
    store.record_run(
        new_run(run_id, spec, NOW - timedelta(hours=7), dataset="ham", fingerprint=HAM.fingerprint, study=STUDY)
    )
    if status == "queued":
        return
    if status == "failed":
        store.record_failed(run_id, 1, "expected room on the disk; it is full", NOW)
        return
    store.record_images([Chunk(run_id, 1, "svd-1", [ImageResult(i, "measured", None, 2.0) for i in ("a", "b")])])
    rules = pd.DataFrame([{"rule": "plateau", "k": k, "reason": "So it is.", "parameters": "{}"}])
    sizes = {"variant": "k=350", "k": 350, "images": 2, "source_bytes": 380, "stored_bytes": 100, "ratio": 3.8,
             "control_ratio": 3.7, "svd_gain": 1.027}  # fmt: skip
    found = RunResults(pd.DataFrame(), pd.DataFrame([sizes]), rules)
    store.record_results(run_id, found, NOW, dataset=MADE if key == RECONSTRUCTION else None)


def record_trained(store: Store, key: str, *accuracies: float, images: int = 0) -> str:
    """Record the run of a training part with the test accuracies of its steps."""
    stage, network, seed = key.split()
    pruned = stage == PRUNING
    return record_training(
        store,
        network,
        accuracies,
        dataset=MADE.name if pruned else "ham",
        source="ham" if pruned else None,
        seed=int(seed),
        rules=SPEC.rules if pruned else None,
        training=TRAINING,
        fingerprint=(MADE if pruned else HAM).fingerprint,
        study=STUDY,
        images=images,
    )


def record_finished_study(store: Store) -> None:
    """Record a study whose runs have all finished."""
    record_study(store)
    for key in (SWEEP, RECONSTRUCTION, RESIZE):
        record_measured(store, key)
    record_trained(store, "originals lenet5 1", 70.0)
    record_trained(store, "originals alexnet 1", 80.0)
    record_trained(store, "pruning lenet5 1", 71.0, 70.0)
    record_trained(store, "pruning alexnet 1", 78.0, 60.0)
    store.record_study_status(STUDY, "finished", None, NOW)


def state_of(settings: Settings) -> Progress:
    state = study_state(Queues(settings), STUDY)
    assert state is not None
    return state.progress


# Figures


def trained_steps(store: Store) -> pd.DataFrame:
    return trainings(store)


def test_results_are_shown_beside_the_articles_with_the_smallest_accepted_network(
    store: Store, settings: Settings
) -> None:
    record_finished_study(store)
    figures = training_figures(state_of(settings), trained_steps(store))
    assert list(figures.columns) == list(COLUMNS)
    rows = figures.set_index(["network", "version"])
    assert rows.loc[("lenet5", "original"), ["test_accuracy", "printed", "trainings"]].tolist() == [70.0, 72.22, 1]
    assert rows.loc[("lenet5", "original"), "difference"] == pytest.approx(-2.22)
    pruned = rows.loc[("lenet5", "reconstructed")]
    assert (pruned["smallest"], pruned["smallest_accuracy"], pruned["accepted"]) == ("R1: 50%", 70.0, 1)
    steps = trained_steps(store)
    sizes = steps.loc[steps["run_id"] == pruned["run_id"], "parameters"].tolist()
    assert pruned["share"] == pytest.approx(100 * sizes[1] / sizes[0])
    assert pd.isna(rows.loc[("alexnet", "reconstructed"), "smallest"])
    assert accuracy_sentences(figures) == [
        f"lenet5: 70.00 % on original images (article 72.22); 71.00 % on reconstructed images (article 69.72); pruned "
        f"to {pruned['share']:.1f} % of its parameters, 70.00 %.",
        "alexnet: 80.00 % on original images (article 73.88); 78.00 % on reconstructed images (article 77.50); no "
        "pruned network accepted.",
    ]


def test_figures_of_steps_with_predictions_have_intervals(store: Store, settings: Settings) -> None:
    record_study(store)
    for key in (SWEEP, RECONSTRUCTION, RESIZE):
        record_measured(store, key)
    run_id = record_trained(store, "pruning lenet5 1", 80.0, 90.0, images=10)
    limits = [intervals_of_step(text)["test_accuracy"] for text in store.steps([run_id])["classification"]]
    figures = training_figures(state_of(settings), trained_steps(store))
    assert [figures["interval"].iloc[0], figures["smallest_interval"].iloc[0]] == limits
    assert f"80.00 % {interval_text(limits[0])} on reconstructed images" in accuracy_sentences(figures)[0]


def test_results_of_a_study_without_trainings_are_an_empty_frame(store: Store, settings: Settings) -> None:
    record_study(store)
    figures = training_figures(state_of(settings), trained_steps(store))
    assert figures.empty
    assert list(figures.columns) == list(COLUMNS)
    assert accuracy_sentences(figures) == []


def test_the_saving_is_given_with_that_of_re_encoding_alone() -> None:
    sizes = pd.DataFrame([{"k": 350, "ratio": 3.8, "control_ratio": 3.7}])
    assert compression_sentence(350, sizes) == (
        "k* = 350, in the article 350. Files become 3.80 times smaller, 3.70 times by re-encoding alone; in the "
        "article 3.77 in total."
    )
    assert compression_sentence(200, sizes) == "k* = 200, in the article 350."
    assert compression_sentence(7, pd.DataFrame()) == "k* = 7, in the article 350."
    assert "No k has been chosen yet" in compression_sentence(None, sizes)


# The form


@pytest.mark.parametrize(
    ("typed", "overrides"),
    [
        ("alexnet=60×80", (Override(network="alexnet", height=60, width=80),)),
        (
            "alexnet=60x80, custom1=64×64:20",
            (
                Override(network="alexnet", height=60, width=80),
                Override(network="custom1", height=64, width=64, epochs=20),
            ),
        ),
        ("my-Net=64x48:1;", (Override(network="my-Net", height=64, width=48, epochs=1),)),
    ],
)
def test_typed_sizes_of_single_networks_are_parsed_and_written_back(
    typed: str, overrides: tuple[Override, ...]
) -> None:
    assert parsed(tuple[Override, ...], typed, "sizes", "") == overrides
    assert parsed(tuple[Override, ...], shown(overrides), "sizes", "") == overrides


@pytest.mark.parametrize("typed", ["alexnet", "60×80", "alexnet=60", "alexnet=60×80:few"])
def test_an_invalid_size_of_a_network_is_refused(typed: str) -> None:
    with pytest.raises(SpecError, match="Expected sizes such as alexnet=60x80"):
        parsed(tuple[Override, ...], typed, "sizes", "alexnet=60x80")


def test_without_a_data_set_the_form_links_to_the_registration(open_page: OpenPage) -> None:
    page = open_page("study", tab="New study")
    assert "No data set with labels is registered yet" in text(page)
    assert "Register a data set" in text(page)


def test_the_form_shows_the_plan_and_submits_the_articles_study(
    store: Store, settings: Settings, open_page: OpenPage
) -> None:
    page = open_page("study", tab="New study")
    (table,) = (frame.value for frame in page.dataframe if "Stage" in frame.value)
    assert table["Runs"].tolist() == ["1", "4", "1", "1", "4", "–"]
    assert set(table["There already"]) == {"–"}
    assert "No similar run has finished here yet" in text(page)
    page = ran(page.button(key="start").click())
    (sent,) = [json.loads(record) for record in records(settings) if json.loads(record)["kind"] == "study"]
    values = sent["values"]["values"]
    assert ArticleSpec.from_dict(json.loads(values["spec"])) == ArticleSpec(dataset="ham", fingerprint=HAM.fingerprint)
    assert page.query_params["study"] == values["study"]
    assert "This study is being recorded" in text(page)


def records(settings: Settings) -> list[bytes]:
    with Redis.from_url(str(settings.redis_url)) as client:
        return [bytes(record) for record in client.lrange("dermslim:records", 0, -1)]


def test_a_preset_fills_the_fields_which_can_be_changed(store: Store, settings: Settings, open_page: OpenPage) -> None:
    page = open_page("study", tab="New study")
    page = ran(page.button_group(key="article_preset").set_value("quick"))
    assert page.text_input(key="article_size").value == "48×64"
    assert page.text_input(key="article_overrides").value == "custom1=64x64"
    page.multiselect(key="article_networks").set_value(["lenet5"])
    page.text_input(key="article_seeds").set_value("1, 2")
    page.text_input(key="article_ks").set_value("5, 50")
    page.selectbox(key="article_priority").set_value("low")
    page = ran(page)
    ran(page.button(key="start").click())
    (sent,) = [json.loads(record) for record in records(settings) if json.loads(record)["kind"] == "study"]
    spec = ArticleSpec.from_dict(json.loads(sent["values"]["values"]["spec"]))
    assert (spec.seeds, spec.ks, spec.training, spec.overrides) == ((1, 2), (5, 50), PRESETS["quick"], ())
    assert spec.rules == Rules(max_iterations=1)


@pytest.mark.parametrize(
    ("key", "value", "reason"),
    [
        ("article_size", "8×8", "Expected an input large enough"),
        ("article_size", "8×8, 9×9", "Expected one size of rows and columns, got 2"),
        ("article_seeds", "one", "Expected seeds such as 1,2,3, got one"),
        ("article_ks", "500", "at most 450"),
        ("article_overrides", "mine=60×80", "Expected at most one override for each of"),
        ("article_reconstruction", "ham", "another name than the original"),
    ],
)
def test_the_form_refuses_an_impossible_study(
    key: str, value: str, reason: str, store: Store, open_page: OpenPage
) -> None:
    page = open_page("study", tab="New study")
    page = ran(page.text_input(key=key).set_value(value))
    assert reason in text(page)
    assert page.button(key="refused").disabled


def test_copying_a_studys_settings_gives_the_same_study(store: Store, settings: Settings, open_page: OpenPage) -> None:
    spec = SPEC.replace(
        seeds=(1, 3),
        overrides=(Override(network="alexnet", height=60, width=80, epochs=2),),
        k=200,
        sample_size=20,
        codec="png",
        quality=None,
        rule="knee",
        reconstruction="mine",
        split_seed=5,
        device="cpu",
        ks=(100, 200),
    )
    record_study(store, spec)
    page = open_page("study")
    copying = next(button for button in page.button if button.label.startswith("Use these settings"))
    page = ran(copying.click())
    page = ran(page.button(key="start").click())
    assert page.query_params["study"] == STUDY  # an equal study is under way: the page opens it and submits none
    assert records(settings) == []


# A study


def test_without_a_study_the_page_describes_one(open_page: OpenPage) -> None:
    page = open_page("study")
    assert "has not been submitted yet" in text(page)
    page = ran(page.button[0].click())
    assert page.query_params["tab"] == "New study"


def test_an_unknown_study_is_named(store: Store, open_page: OpenPage) -> None:
    record_study(store)
    assert "there is no nonsense" in text(open_page("study", study="nonsense"))


def test_a_study_under_way_shows_its_stages_and_dependencies(
    store: Store, settings: Settings, open_page: OpenPage
) -> None:
    record_study(store)
    record_measured(store, SWEEP, "queued")
    shown = text(open_page("study"))
    assert "0 of 7 runs finished" in shown
    assert "lenet5 · waits for: Reconstruction at k*" in shown
    assert "Results of the study" not in shown
    for label in ("Suspend trainings", "Cancel the study"):
        assert label in shown


def test_a_study_can_be_suspended_resumed_reprioritized_and_cancelled(
    store: Store, settings: Settings, open_page: OpenPage
) -> None:
    queues = Queues(settings)
    record_study(store)
    page = open_page("study")
    page = ran(page.button(key="suspend").click())
    assert study_state(queues, STUDY).status == "suspended"  # type: ignore[union-attr]
    page = ran(page.button(key="suspend").click())
    assert study_state(queues, STUDY).status == "running"  # type: ignore[union-attr]
    page = ran(page.selectbox(key="priority_of_study").set_value("high"))
    assert study_state(queues, STUDY).priority == "high"  # type: ignore[union-attr]
    page = ran(page.button(key="cancel").click())
    assert study_state(queues, STUDY).status == "cancelled"  # type: ignore[union-attr]


def test_a_failure_is_shown_with_its_reason_its_dependents_and_a_retry_button(
    store: Store, settings: Settings, open_page: OpenPage
) -> None:
    record_study(store)
    record_measured(store, SWEEP, "failed")
    record_trained(store, "originals lenet5 1", 70.0)
    record_trained(store, "originals alexnet 1", 80.0)
    store.record_study_status(STUDY, "failed", "SVD sweep: expected room", NOW)
    page = open_page("study")
    shown = text(page)
    assert "SVD sweep: expected room on the disk; it is full. Waiting for that: Reconstruction at k*;" in shown
    assert "2 finished, 1 failed, 4 waiting" in shown
    ran(page.button(key="resume").click())
    kinds = [json.loads(record)["kind"] for record in records(settings)]
    assert kinds == ["retried", "study_status"]


def test_when_no_k_was_chosen_the_user_can_give_one(store: Store, settings: Settings, open_page: OpenPage) -> None:
    record_study(store)
    record_measured(store, SWEEP, k=None)
    record_trained(store, "originals lenet5 1", 70.0)
    record_trained(store, "originals alexnet 1", 80.0)
    store.record_study_status(STUDY, "failed", "no k", NOW)
    page = open_page("study")
    assert "no k by the plateau rule" in text(page)
    page.number_input[0].set_value(200)
    page = ran(page)
    ran(page.button(key="resume").click())
    (changed,) = [json.loads(record)["values"] for record in records(settings)]
    assert json.loads(changed["spec"])["k"] == 200


def test_the_summary_of_a_finished_study_compares_results_with_the_article(
    store: Store, settings: Settings, open_page: OpenPage
) -> None:
    record_finished_study(store)
    page = open_page("study")
    shown = text(page)
    assert "7 of 7 runs finished" in shown
    assert "after 7 h 42 min. Of 7 runs: 7 finished." in shown
    assert "k* = 350, in the article 350. Files become 3.80 times smaller, 3.70 times by re-encoding alone" in shown
    assert "lenet5: 70.00 % on original images (article 72.22)" in shown
    (table,) = (frame.value for frame in page.dataframe if "Test accuracy" in frame.value)
    assert table["Network"].tolist() == ["lenet5", "alexnet", "lenet5", "alexnet"]
    assert table["Difference"].tolist() == ["−2.22", "+6.12", "+1.28", "+0.50"]
    assert table["Smallest accepted"].tolist() == ["–", "–", "R1: 50%", "none"]
    assert table["Run"].str.startswith("run?run=").all()
    assert {metric.label for metric in page.metric} >= {"Reproduced", "Not reproduced", "Not measured yet"}
    assert "Tables 4, 5 and 6 of these runs" in shown
    assert "python -m jobs article ham" in shown
    assert "Resume the study" not in shown


def test_a_scheduled_study_shows_its_time_and_can_be_started_now(
    store: Store, settings: Settings, open_page: OpenPage
) -> None:
    queues = Queues(settings)
    study = submit_study(queues, SPEC, HAM, start_after=datetime.now(UTC) + timedelta(hours=3))
    record_study(store, study=study)
    page = open_page("study")
    assert "nothing starts before" in text(page)
    assert page.button(key="suspend").label == "Start now"
    ran(page.button(key="suspend").click())
    assert study_state(queues, study).status == "running"  # type: ignore[union-attr]


def test_equal_runs_submitted_elsewhere_are_found(store: Store, settings: Settings) -> None:
    record_measured(store, SWEEP)
    found = find(Queues(settings), SPEC)
    assert progress(SPEC, "another", found).parts[0].state == FINISHED
    assert {part.stage for part in plan(SPEC)} == {SWEEP, ORIGINALS, RECONSTRUCTION, RESIZE, PRUNING}
