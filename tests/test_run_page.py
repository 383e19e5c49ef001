"""The page of one run, run as Streamlit runs it, for runs of every kind."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from pages import OpenPage, opener, plain, text
from recorded import record_measured, record_reconstruction, record_training

from core.compression.specs import DiagnosisSpec, ReconstructSpec, ResizeSpec, RivalsSpec, SweepSpec
from core.settings import Settings
from core.store.measurements import Store
from core.training.specs import Rules
from dashboard import training_data
from jobs.upkeep.imports import import_here_or_there
from jobs.upkeep.snapshot import Wanted, take_snapshot

SPECS = (
    SweepSpec(dataset="ham"),
    RivalsSpec(dataset="ham"),
    ResizeSpec(dataset="ham"),
    ReconstructSpec(dataset="ham", name="smaller"),
    DiagnosisSpec(dataset="ham", run="train-1"),
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Give a data folder with a run of every kind; the first weights of the pruning run are on this host."""
    found = tmp_path_factory.mktemp("run") / "data"
    store = Store(found / "dermslim.duckdb")
    for spec in SPECS:
        record_measured(store, spec)
    record_training(store, "lenet5", [70.0], synthetic=True, study="grid-1", sets=True)
    pruned = record_training(
        store, "lenet5", [70.0, 10.0], dataset="smaller", source="ham", rules=Rules(factors=(50,)), sets=True
    )
    place = found / "trained" / pruned
    place.mkdir(parents=True)
    (place / "0.keras").write_bytes(b"weights")
    (place / "about.json").write_text(json.dumps({"spec": {}}))
    (found / "secret.keras").write_bytes(b"outside")
    (place / "1.keras").symlink_to(found / "secret.keras")
    return found


@pytest.fixture
def open_page(folder: Path, valkey_url: str, monkeypatch: pytest.MonkeyPatch) -> OpenPage:
    return opener(monkeypatch, folder, valkey_url)


def run_of(folder: Path, kind: str) -> str:
    return Store(folder / "dermslim.duckdb").runs(kind)[0].id


@pytest.mark.parametrize("kind", [*(spec.kind for spec in SPECS), "train", "prune-train"])
def test_every_kind_of_run_shows_facts_files_and_the_command_that_repeats_it(
    open_page: OpenPage, folder: Path, kind: str
) -> None:
    run_id = run_of(folder, kind)
    test = open_page("run", run=run_id)
    facts = test.table[0].value.iloc[:, 0]
    for name in ("Data set", "Fingerprint of its images", "Settings", "Seed", "Submitted", "Code", "Versions"):
        assert facts[name] not in ("", "–"), name
    said = text(test)
    assert run_id in said
    assert f"python -m jobs {kind}" in said
    assert "finished" in said
    assert any(each.label.endswith(", CSV") for each in test.download_button)


def test_a_training_run_shows_its_sets_notes_steps_and_verdicts(open_page: OpenPage, folder: Path) -> None:
    shown = open_page("run", run=run_of(folder, "prune-train"), part="Data")
    assert "Split by lesion. Nothing leaks." in text(shown)
    sets = next(frame.value for frame in shown.dataframe if "Class" in frame.value)
    assert sets["Training"].iloc[0] == "20 of 90, 4 lesions"
    assert sets["Training with repeats"].iloc[0] == "30"
    test = open_page("run", run=run_of(folder, "prune-train"))
    assert "lenet5, unpruned, reaches 70.0 % accuracy" in text(test)
    steps = test.dataframe[0].value
    assert steps["Step"].tolist() == ["Original", "R1: 50%"]
    assert steps["Accepted"].tolist() == ["yes", "test accuracy −58.00"]
    facts = test.table[0].value.iloc[:, 0]
    assert facts["Data set"] == "smaller, made from ham"
    assert facts["Workers"] == "train-1 on far-host"
    costs = open_page("run", run=run_of(folder, "prune-train"), columns="Training").dataframe[0].value
    assert costs["Device"].tolist() == ["a cpu", "a cpu"]
    assert costs["Worker"].tolist() == ["train-1 on far-host"] * 2
    reasons = open_page("run", run=run_of(folder, "prune-train"), columns="Reasons").dataframe[0].value
    assert reasons["Reason"].iloc[0] == "–"
    assert reasons["Reason"].iloc[1].startswith("test accuracy 10.00 is")


def test_weights_on_this_host_can_be_downloaded_and_others_are_located(open_page: OpenPage, folder: Path) -> None:
    run_id = run_of(folder, "prune-train")
    labels = [each.label for each in open_page("run", run=run_id).download_button]
    assert "Weights of Original, 7 bytes" in labels
    assert "What the weights need to be used" in labels
    assert not any("R1" in label for label in labels), "a link that points outside the folder is not followed"
    said = text(open_page("run", run=run_id))
    assert f"R1: 50%: /elsewhere/{run_id}/1.keras, on the host of worker train-1 on far-host" in said


def test_no_file_outside_the_folder_of_trained_networks_can_be_downloaded(open_page: OpenPage, folder: Path) -> None:
    run_id = run_of(folder, "prune-train")
    assert training_data.trained_file(run_id, "0.keras") is not None
    for run, name in ((run_id, "../../secret.keras"), ("..", "secret.keras"), (run_id, "/etc/passwd"), (run_id, "9")):
        assert training_data.trained_file(run, name) is None


def test_an_unknown_run_gives_a_message_with_similar_runs(open_page: OpenPage, folder: Path) -> None:
    known = run_of(folder, "prune-train")
    for wanted in (known[:-2], "../../etc/passwd", "x*[y](z)"):
        test = open_page("run", run=wanted)
        assert "Expected the id of a run" in text(test)
        assert f"there is no {wanted}" in text(test)
        assert not test.table
    assert known in [link.label for link in open_page("run", run=known[:-2]).page_link]


def test_the_page_without_an_id_lists_the_newest_runs(open_page: OpenPage, folder: Path) -> None:
    test = open_page("run")
    assert "its address names it" in text(test)
    assert run_of(folder, "prune-train") in [link.label for link in test.page_link]


def test_the_page_opens_on_an_empty_store(tmp_path: Path, valkey_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "its address names it" in text(opener(monkeypatch, tmp_path / "data", valkey_url)("run"))


@pytest.mark.parametrize("missing", [("psnr",), ("psnr", "ssim", "rmse", "mse", "explained_variance")])
def test_pages_open_when_a_metric_is_undefined_for_every_image(
    tmp_path: Path, valkey_url: str, monkeypatch: pytest.MonkeyPatch, missing: tuple[str, ...]
) -> None:
    store = Store(tmp_path / "data" / "dermslim.duckdb")
    undefined = dict.fromkeys(missing)
    runs = [record_measured(store, spec, figures=undefined) for spec in SPECS]
    opened = opener(monkeypatch, tmp_path / "data", valkey_url)
    for page, run_id in (("sweeps", runs[0]), ("resize", runs[2])):
        assert "PSNR" in text(opened(page, run=run_id, tab="results"))
    for run_id in runs:
        assert run_id in text(opened("run", run=run_id))
    opened("claims")


def test_an_imported_run_shows_where_it_comes_from_and_is_not_retried_here(
    settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    there = Settings(tmp_path / "there", (tmp_path,))
    store = Store(there.database)
    run_id = record_measured(store, SweepSpec(dataset="moles", ks=(2,)))
    record_reconstruction(store, "moles", "ham", "k=2")
    with store.transaction() as connection:
        connection.execute("UPDATE runs SET total = 3, dataset_fingerprint = (SELECT fingerprint FROM datasets)")
    take_snapshot(there, tmp_path / "s", Wanted([run_id], logs=False))
    import_here_or_there(settings, tmp_path / "s")
    open_own = opener(monkeypatch, settings.data_dir, str(settings.redis_url))
    test = open_own("run", run=run_id)
    facts = test.table[0].value.iloc[:, 0]
    host = os.uname().nodename
    assert plain(facts["Imported"]).endswith(f"from {host}, {there.database}")
    assert plain(facts["Data set there"]) == "1 image, 1 bytes, plain folder, no labels"
    assert f"from {host}" in text(test)
    jobs = open_own("jobs", job=run_id)
    assert f"from {host}" in text(jobs)
    assert not any(button.label.startswith("Retry") for button in jobs.button)
    listed = open_own("maintenance", tab="Sharing").dataframe[0].value
    assert listed[["From", "Run"]].values.tolist() == [[host, run_id]]
