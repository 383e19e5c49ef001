"""The pages, run as Streamlit runs them, with a real store and a real Valkey; and their texts."""

from __future__ import annotations

import io
import socket
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from itertools import zip_longest
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pandas as pd
import pytest
from laboratory import workers, write_images
from pages import OpenPage, opener, ran, text
from recorded import new_run
from redis import Redis
from streamlit.testing.v1 import AppTest

from core.compression.image_results import Chunk
from core.compression.measure import measure
from core.compression.metrics import METRICS_BY_NAME
from core.compression.optimal_k import arrivals
from core.compression.results import run_results
from core.compression.specs import MeasuringSpec, ResizeSpec, RivalsSpec, SweepSpec
from core.data.datasets import Dataset, load_dataset
from core.settings import Settings
from core.store.measurements import Store
from dashboard import data, words
from dashboard.parts import pictures
from jobs.queues import Queues

PAGES = ("overview", "tour", "datasets", "sweeps", "resize", "inspector", "jobs")
KS = (5, 10, 20, 40)
NOW = datetime(2026, 11, 22, 21, 45, tzinfo=UTC)


def record(store: Store, run_id: str, spec: MeasuringSpec, dataset: Dataset, at: datetime = NOW) -> None:
    """Measure locally and record as the record worker does."""
    records = dataset.sample(spec.sample_size, spec.seed)
    store.record_run(
        new_run(
            run_id,
            spec,
            at,
            dataset=dataset.name,
            fingerprint=dataset.fingerprint,
            synthetic=dataset.synthetic,
            total=len(records),
            versions='{"python": "3.11"}',
            command="python -m jobs again",
        )
    )
    results = [measure(each, dataset.root, spec) for each in records]
    store.record_images([Chunk(run_id, 1, "svd-1 on here", results)])
    store.record_results(run_id, run_results(spec, store.measurements(run_id), len(records)), at)


@pytest.fixture(scope="module")
def full(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Give a data folder: a data set (one image constant, one lost since), a sweep, its rivals, a resize comparison."""
    folder = tmp_path_factory.mktemp("full")
    images = write_images(folder / "moles_*with*_a_[strange]_name", 6)
    cv2.imwrite(str(images / "constant.png"), np.full((40, 56, 3), 90, np.uint8))
    (images / "broken.jpg").write_bytes(b"\xff\xd8 not an image")
    dataset = load_dataset(images, name="moles")
    (images / "mole000.jpg").unlink()
    store = Store(folder / "data" / "dermslim.duckdb")
    store.record_dataset(dataset, NOW)
    record(store, "svd-sweep-1", SweepSpec(dataset="moles", ks=KS), dataset)
    record(store, "rivals-1", RivalsSpec(dataset="moles", rivals=(("jpeg", 75), ("jpeg", 95))), dataset)
    record(store, "resize-study-1", ResizeSpec(dataset="moles", sizes=((20, 28), (40, 56), (200, 100)), k=20), dataset)
    return folder


@pytest.fixture
def open_page(full: Path, valkey_url: str, monkeypatch: pytest.MonkeyPatch) -> OpenPage:
    """Give a function that opens pages with the folder `full`."""
    return opener(monkeypatch, full / "data", valkey_url)


@pytest.fixture
def open_empty(tmp_path: Path, valkey_url: str, monkeypatch: pytest.MonkeyPatch) -> OpenPage:
    """Give a function that opens pages with an empty folder."""
    return opener(monkeypatch, tmp_path / "data", valkey_url)


@pytest.fixture
def queues(open_page: OpenPage) -> Queues:
    """Give the queue that the pages of `open_page` use."""
    return Queues(Settings.from_environment())


def alerts(test: AppTest) -> list[str]:
    return [str(each.value) for each in (*test.error, *test.warning)]


# Empty, broken, unreachable


@pytest.mark.parametrize("page", PAGES)
def test_every_page_opens_on_an_empty_store(open_empty: OpenPage, page: str) -> None:
    open_empty(page)


def test_an_empty_overview_names_the_next_steps(open_empty: OpenPage) -> None:
    shown = text(open_empty())
    assert "Register a data set" in shown
    assert "make demo" in shown


def test_an_empty_list_of_data_sets_says_how_to_get_ham10000(open_empty: OpenPage) -> None:
    shown = text(open_empty("datasets"))
    assert "10.7910/DVN/DBW86T" in shown
    assert "isic image download" in shown


@pytest.mark.parametrize("page", PAGES)
def test_every_page_says_when_redis_is_down_and_still_shows_what_is_recorded(
    full: Path, page: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        port = unused.getsockname()[1]
    shown = opener(monkeypatch, full / "data", f"redis://127.0.0.1:{port}/0")(page)
    assert any("nothing new can be started" in alert for alert in alerts(shown))
    if page in ("overview", "datasets", "sweeps", "resize"):
        assert "moles" in text(shown)


@pytest.mark.parametrize("page", PAGES)
def test_every_page_says_when_no_record_worker_runs(open_page: OpenPage, page: str) -> None:
    assert any("python -m jobs.worker record" in alert for alert in alerts(open_page(page)))


def test_a_store_that_is_not_a_database_gives_an_error_message(
    tmp_path: Path, valkey_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "dermslim.duckdb").write_text("not a database")
    for page in PAGES:
        shown = opener(monkeypatch, tmp_path / "data", valkey_url)(page)
        assert any("to be a whole DuckDB file" in alert for alert in alerts(shown)), page


# Results


def test_the_overview_shows_the_figures_of_the_last_sweep_with_links_to_the_run(open_page: OpenPage) -> None:
    shown = open_page()
    labels = [metric.label for metric in shown.metric]
    assert {"Source / stored", "JPEG 95 alone", "SVD adds", "Storage saved"} <= set(labels)
    groups = {"Headline figures", "Smallest accepted network"} & {header.value for header in shown.header}
    assert sum(link.label == "Open the run" for link in shown.page_link) == len(groups) > 0


def test_a_deep_link_opens_the_sweep_with_its_rule(open_page: OpenPage) -> None:
    shown = open_page("sweeps", run="svd-sweep-1", rule="Knee", metric="PSNR")
    assert "knee rule" in text(shown)
    assert shown.session_state["rule"] == "knee"
    assert shown.session_state["metric"] == "psnr"


def test_the_sweep_page_shows_every_section(open_page: OpenPage) -> None:
    shown = open_page("sweeps")
    words_shown = text(shown)
    for heading in ("Quality against k", "Storage against k", "Rivals without SVD", "k by each rule", "Table"):
        assert heading in words_shown
    assert "Re-encoding alone, JPEG 95 without SVD" in words_shown
    assert "At the SSIM of k" in words_shown
    assert len(shown.get("plotly_chart")) == 6
    assert [rule for rule in words.RULES.values() if rule not in words_shown] == []
    opened = [link.label for link in shown.page_link if link.label.startswith(("mole", "constant"))]
    assert len(opened) == 6  # of 7 images one could not be measured


def test_undefined_values_are_counted_and_never_shown_as_nan(open_page: OpenPage) -> None:
    table = next(frame.value for frame in open_page("sweeps").dataframe if "Mean ± standard deviation" in frame.value)
    row = table.set_index("Mean ± standard deviation").loc["Normalised mutual information"]
    assert row["k = 40"].endswith("undefined (1)")
    assert not table.map(lambda cell: "nan" in str(cell).lower()).any(axis=None)


def test_an_image_that_could_not_be_measured_is_listed_with_its_reason(open_page: OpenPage) -> None:
    shown = open_page("sweeps")
    assert "1 image could not be measured" in text(shown)
    failures = next(frame.value for frame in shown.dataframe if "reason" in frame.value)
    assert failures["image_id"].tolist() == ["mole000"]
    assert "The file does not exist" in failures["reason"].iloc[0]


def test_an_unknown_run_in_the_address_gives_a_message(open_page: OpenPage) -> None:
    assert any("there is no svd-sweep-9" in alert for alert in alerts(open_page("sweeps", run="svd-sweep-9")))


def test_the_facts_of_a_run_include_data_set_seed_and_command(open_page: OpenPage) -> None:
    shown = open_page("sweeps")
    facts = " ".join(
        str(each) for table in shown.table for each in [*table.value.index, *table.value.to_numpy().ravel()]
    )
    for fact in ("svd-sweep-1", "moles", "Seed", "per channel", "svd-1 on here", "Python".lower()):
        assert fact in facts
    assert "python -m jobs again" in [code.value for code in shown.code]


def test_the_resize_comparison_names_the_layer_at_which_a_network_no_longer_fits(open_page: OpenPage) -> None:
    shown = text(open_page("resize"))
    assert "Learnable parameters by size" in shown
    assert "Expected an input large enough for every layer of alexnet" in shown.replace("\\", "")


def test_files_left_out_of_a_data_set_are_listed_with_the_reason(open_page: OpenPage) -> None:
    shown = open_page("datasets", dataset="moles", view="Left out")
    left_out = next(frame.value for frame in shown.dataframe if "reason" in frame.value)
    assert left_out["name"].tolist() == ["broken.jpg"]


def test_the_given_sets_of_a_data_set_are_shown_with_their_sizes(open_page: OpenPage, full: Path) -> None:
    assert "Given sets" not in text(open_page("datasets", dataset="moles"))
    store = Store(full / "data" / "dermslim.duckdb")
    moles = store.dataset("moles")
    assert moles is not None
    given = ("train", "train", "validation", "test")
    records = tuple(replace(each, split=name) for each, name in zip_longest(moles.records, given))
    store.record_dataset(replace(moles, name="with sets", records=records), NOW)
    shown = text(open_page("datasets", dataset="with sets"))
    assert "Given sets: training 2 images, validation 1 image, test 1 image. 3 images without a set." in shown
    with store.transaction() as connection:
        connection.execute("DELETE FROM datasets WHERE name = 'with sets'")


@pytest.mark.parametrize("view", ["Images", "Classes", "Metadata", "Sizes", "Left out", "Reconstruct"])
def test_every_view_of_a_data_set_can_be_opened_by_its_link(open_page: OpenPage, view: str) -> None:
    shown = open_page("datasets", dataset="moles", view=view)
    assert shown.session_state["choice_view"] == view


# The inspector


def test_the_inspector_shows_the_values_that_the_sweep_recorded(open_page: OpenPage, full: Path) -> None:
    shown = open_page("inspector", dataset="moles", image="mole003", k="20")
    table = next(each.value for each in shown.table if "Definition" in each.value).set_index("Metric")
    rows = Store(full / "data" / "dermslim.duckdb").measurements("svd-sweep-1", variant="k=20")
    recorded = rows[rows["image_id"] == "mole003"].iloc[0]
    for name in ("psnr", "ssim", "haralick_distance", "mse_high", "explained_variance"):
        metric = METRICS_BY_NAME[name]
        value = table.loc[words.escaped(metric.label), "Value"]
        assert value == f"**{words.escaped(words.metric_text(metric, recorded[name]))}**"


def test_part_of_an_image_id_offers_the_matching_images(open_page: OpenPage) -> None:
    shown = open_page("inspector", dataset="moles", image="MOLE00")
    offered = [button.label for button in shown.button if button.label.startswith("mole")]
    assert offered == ["mole000", "mole001", "mole002", "mole003", "mole004", "mole005"]
    next(button for button in shown.button if button.label == "mole002").click().run()
    assert shown.session_state["image"] == "mole002"


def test_an_image_whose_file_is_missing_gives_a_message(open_page: OpenPage) -> None:
    shown = open_page("inspector", dataset="moles", image="mole000")
    found = [alert.replace("\\", "") for alert in alerts(shown)]
    assert any("mole000.jpg: The file does not exist." in alert for alert in found), found
    assert all(alert.lower().count("expected") <= 1 for alert in found), found


def test_an_uploaded_image_is_inspected_and_an_uploaded_text_is_refused(open_page: OpenPage, full: Path) -> None:
    shown = open_page("inspector", source="upload")
    image = next((full).glob("moles*/mole001.jpg")).read_bytes()
    ran(shown.file_uploader[0].upload("mine.jpg", image))
    assert "mine.jpg" in text(shown)
    assert "All metrics" in text(shown)
    other = open_page("inspector", source="upload")
    ran(other.file_uploader[0].upload("mine.jpg", b"just words"))
    assert len(other.error) == 1


# Forms


@pytest.mark.parametrize(
    ("typed", "sentence"),
    [
        ("", "Expected at least one value of k, got none"),
        ("10, abc", "Expected k such as 100,200,300,350,400,450, got 10, abc"),
        ("0", "Expected k to be whole numbers of at least 1, got 0"),
        ("-5, 10", "Expected k to be whole numbers of at least 1, got -5"),
        ("10, 10", "Expected each of ks once, got 10 more than once"),
        ("10, 41", "Expected k of at most 40, the rank of the largest image of moles, got 41"),
    ],
)
def test_an_invalid_list_of_k_is_refused_with_a_message(open_page: OpenPage, typed: str, sentence: str) -> None:
    shown = open_page("sweeps", tab="New sweep")
    ran(shown.text_input(key="sweep_ks").set_value(typed))
    assert f"{sentence}." in [str(error.value).replace("\\", "") for error in shown.error]
    assert shown.button(key="refused").disabled


def test_a_sweep_is_started_from_the_form_and_shown_as_queued(open_page: OpenPage, queues: Queues) -> None:
    shown = open_page("sweeps", tab="New sweep")
    ran(shown.text_input(key="sweep_ks").set_value("3, 6"))
    ran(shown.button(key="start").click())
    state = next(state for state in queues.runs() if state.status == "queued")
    assert state.total == 7
    assert shown.query_params["run"] == state.id
    assert "Queued: 7 images to measure" in text(shown)
    ran(shown.button(key=f"cancel_{state.id}").click())
    with Redis.from_url(str(queues.settings.redis_url)) as client:
        assert client.get(f"run:{state.id}:cancelled") or client.keys(f"*{state.id}:cancelled")


def test_a_sweep_measured_before_is_offered_instead_of_measured_again(
    open_page: OpenPage, full: Path, queues: Queues
) -> None:
    store = Store(full / "data" / "dermslim.duckdb")
    dataset = store.dataset("moles")
    assert dataset is not None
    whole = SweepSpec(dataset="moles", ks=(7,), sample_size=2, seed=3)
    record(store, "svd-sweep-0", whole, dataset, NOW - timedelta(days=1))
    shown = open_page("sweeps", tab="New sweep")
    shown.text_input(key="sweep_ks").set_value("7")
    shown.number_input(key="sweep_sample_size").set_value(2)
    ran(shown.number_input(key="sweep_seed").set_value(3))
    assert "exactly these settings" in text(shown)
    ran(shown.button(key="open_identical").click())
    assert shown.query_params["run"] == "svd-sweep-0"
    assert [state for state in queues.runs() if not state.ended] == []


def test_the_settings_of_a_sweep_can_be_copied_into_the_form(open_page: OpenPage) -> None:
    shown = open_page("sweeps", run="svd-sweep-1")
    ran(next(button for button in shown.button if button.label.startswith("Use these settings")).click())
    assert shown.text_input(key="sweep_ks").value == words.numbers_text(KS)
    assert shown.selectbox(key="sweep_codec").value == "jpeg"
    assert shown.number_input(key="sweep_quality").value == 95
    assert "exactly these settings" in text(shown) or shown.button(key="start")


def test_a_lossless_codec_has_no_quality_and_a_lossy_one_its_own_default(open_page: OpenPage) -> None:
    shown = open_page("sweeps", tab="New sweep")
    shown.text_input(key="sweep_ks").set_value("4")
    ran(shown.selectbox(key="sweep_codec").select("png"))
    assert "sweep_quality" not in [each.key for each in shown.number_input]
    ran(shown.selectbox(key="sweep_codec").select("webp"))
    assert shown.number_input(key="sweep_quality").value == 90
    assert not shown.error


def test_a_k_in_the_address_that_was_not_measured_is_replaced(open_page: OpenPage) -> None:
    shown = open_page("sweeps", k="17")
    assert shown.session_state["k"] in KS


def test_the_presets_fill_the_form(open_page: OpenPage) -> None:
    shown = open_page("sweeps", tab="New sweep")
    preset: Any = shown.get_by_key("sweep_preset")
    ran(preset.set_value("Quick"))
    assert shown.text_input(key="sweep_ks").value == "100, 200, 350"
    assert shown.number_input(key="sweep_sample_size").value == 7
    preset = shown.get_by_key("sweep_preset")
    ran(preset.set_value("Article"))
    assert shown.text_input(key="sweep_ks").value == "100, 200, 300, 350, 400, 450"
    assert shown.number_input(key="sweep_sample_size").value is None


def test_a_folder_outside_the_data_roots_is_refused_with_a_message(open_page: OpenPage) -> None:
    shown = open_page("datasets")
    next(field for field in shown.text_input if field.label == "Folder").set_value("/etc")
    ran(next(button for button in shown.button if button.label == "Register").click())
    assert any("inside the data roots" in alert for alert in alerts(shown))


# Reading


def test_cached_reads_are_updated_when_the_store_changes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DATA_DIR", str(tmp_path / "data"))
    assert data.datasets().empty
    dataset = load_dataset(write_images(tmp_path / "moles", 2))
    store = Store(tmp_path / "data" / "dermslim.duckdb")
    store.record_dataset(dataset, NOW)
    assert data.datasets()["name"].tolist() == ["moles"]
    assert data.dataset("moles") == dataset
    assert data.runs() == []
    record(store, "svd-sweep-1", SweepSpec(dataset="moles", ks=KS), dataset)
    assert [run.id for run in data.runs()] == ["svd-sweep-1"]


def test_arrivals_computed_from_means_equal_those_computed_from_images(full: Path) -> None:
    store = Store(full / "data" / "dermslim.duckdb")
    rows = arrivals(store.measurements("svd-sweep-1"))
    means = data.arrivals(store.statistics("svd-sweep-1"), store.storage("svd-sweep-1"))
    columns = ["metric", "plateau_k", "knee_k", "best_k", "votes"]
    pd.testing.assert_frame_equal(means[columns], rows[columns])


@pytest.mark.parametrize(("kind", "read"), [("csv", pd.read_csv), ("parquet", pd.read_parquet)])
def test_a_downloaded_table_can_be_read_back(kind: str, read: Callable[[io.BytesIO], pd.DataFrame]) -> None:
    frame = pd.DataFrame({"image_id": ["a", "b"], "ssim": [0.5, None]})
    pd.testing.assert_frame_equal(read(io.BytesIO(data.table_file(frame, kind))), frame, check_dtype=False)


def test_difference_maps_are_darkest_where_images_are_equal() -> None:
    shades = pictures.coloured(np.linspace(0, 1, 256)[None, :]).sum(axis=2)[0]
    assert (np.diff(shades.astype(int)) >= 0).mean() > 0.99


# Words


@pytest.mark.parametrize(
    ("seconds", "said"),
    [(0.42, "0.4 s"), (59.6, "1 min"), (200, "3 min 20 s"), (7_500, "2 h 5 min"), (180_000, "2 d 2 h"), (None, "–")],
)
def test_durations_are_written_in_suitable_units(seconds: float | None, said: str) -> None:
    assert words.duration_text(seconds) == said


@pytest.mark.parametrize(
    ("size", "said"), [(999, "999 bytes"), (82_800_000, "82.8 MB"), (999_950, "1.00 MB"), (3.2e12, "3.20 TB")]
)
def test_sizes_in_bytes_have_three_digits(size: float, said: str) -> None:
    assert words.bytes_text(size) == said


@pytest.mark.parametrize(
    ("value", "said"), [(12_345.678, "12,346"), (0.95231, "0.9523"), (0, "0"), (-3.5, "-3.500"), (float("nan"), "–")]
)
def test_numbers_have_four_digits_and_separators(value: float, said: str) -> None:
    assert words.number_text(value) == said


def test_a_correlation_just_below_one_is_not_shown_as_one() -> None:
    metric = METRICS_BY_NAME["spectral_correlation"]
    assert words.metric_text(metric, 0.99999987) == "0.9999999"
    assert words.metric_text(metric, 1 - 1e-13) == "1.0000"
    assert words.metric_text(metric, 1.0) == "1.000"


def test_a_mean_is_rounded_like_its_standard_deviation() -> None:
    row = {"mean": 41.5512, "std": 1.234, "undefined": 2}
    assert words.mean_and_std(METRICS_BY_NAME["psnr"], row) == "41.6 ± 1.2, undefined (2)"


def test_times_are_written_relative_to_now() -> None:
    assert words.ago_text(NOW - timedelta(seconds=20), NOW) == "just now"
    assert words.ago_text(NOW - timedelta(hours=5), NOW) == "5 h ago"
    assert words.ago_text(NOW - timedelta(days=2), NOW) == "2 days ago"


def sizes(stored: int, control: int) -> dict[str, float]:
    source = 3_833_000
    return {
        "k": 350, "images": 80, "source_bytes": source, "stored_bytes": stored, "control_bytes": control,
        "factor_bytes": 9_000_000, "ratio": source / stored, "control_ratio": source / control,
        "svd_gain": control / stored, "saved_percent": 100 * (1 - stored / source), "height": 450, "width": 600,
    }  # fmt: skip


SPEC = SweepSpec(dataset="moles")


def test_a_saving_of_the_codec_is_not_attributed_to_svd() -> None:
    said = " ".join(words.storage_sentences(sizes(1_000_000, 1_000_500), SPEC))
    assert "3.83 times smaller" in said
    assert "SVD adds 0.05 %. The change of size is the codec's, not SVD's." in said
    assert "compress" not in said


def test_files_that_svd_makes_larger_are_called_larger() -> None:
    said = " ".join(words.storage_sentences(sizes(1_100_000, 1_000_000), SPEC))
    assert "with SVD the files are 10.0 % larger than without it" in said


def test_percentages_are_relative_to_the_size_without_svd() -> None:
    assert words.beside_control(75, 100) == "SVD makes it 25.00 % smaller than that"
    assert words.beside_control(125, 100) == "with SVD it is 25.00 % larger than that"


def test_a_shortened_name_keeps_its_start_and_its_end() -> None:
    name = "HAM10000_" + "x" * 100 + "_part_2"
    assert len(words.shortened(name, 40)) == 40
    assert words.shortened(name, 40).startswith("HAM10000_")
    assert words.shortened(name, 40).endswith("_part_2")


def test_errors_are_shown_as_sentences() -> None:
    assert words.sentence("expected a file, got none..") == "Expected a file, got none."
    assert words.sentence("k: expected one") == r"k\: expected one."


def test_markup_in_names_is_escaped() -> None:
    assert words.escaped("a*b_[c](d)") == r"a\*b\_\[c\]\(d\)"


def test_removing_a_registration_keeps_the_image_files(
    settings: Settings, valkey_url: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    folder = write_images(tmp_path / "moles", 2)
    Store(settings.database).record_dataset(load_dataset(folder, name="moles"), NOW)
    open_page = opener(monkeypatch, settings.data_dir, valkey_url)
    with workers(settings, "record"):
        test = open_page("datasets", dataset="moles")
        remove = next(button for button in test.button if button.label == "Remove the registration")
        test = ran(remove.click())
    assert Store(settings.database).dataset("moles") is None
    assert any("No data set is registered yet" in each.value for each in test.info)
    assert len(list(folder.iterdir())) == 2
