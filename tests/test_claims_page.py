"""The page Claims, run as Streamlit runs it, with a real store."""

from __future__ import annotations

from pathlib import Path

import pytest
from pages import OpenPage, opener, ran, text
from recorded import record_measured, record_reconstruction, record_training

from core.article.claims import CLAIMS, STATUSES
from core.compression.specs import ResizeSpec, SweepSpec
from core.store.measurements import Store


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Give a data folder: sweeps of real and of synthetic images, a resize comparison, and a pair of trainings."""
    found = tmp_path_factory.mktemp("claims") / "data"
    store = Store(found / "dermslim.duckdb")
    record_measured(store, SweepSpec(dataset="ham"))
    record_measured(store, SweepSpec(dataset="demo"), synthetic=True)
    record_measured(store, ResizeSpec(dataset="ham"))
    record_reconstruction(store, "smaller", "ham", "k=350 per_channel jpeg 95")
    record_training(store, "lenet5", [80.0])
    record_training(store, "lenet5", [70.0], dataset="smaller", source="ham")
    record_training(store, "lenet5", [70.0], dataset="demo", synthetic=True)
    return found


@pytest.fixture
def open_page(folder: Path, valkey_url: str, monkeypatch: pytest.MonkeyPatch) -> OpenPage:
    return opener(monkeypatch, folder, valkey_url)


def counts(said: str) -> int:
    return sum(f"{claim_id} · " in said for claim_id in CLAIMS)


def test_without_results_only_the_counted_claims_are_judged(
    tmp_path: Path, valkey_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    test = opener(monkeypatch, tmp_path / "data", valkey_url)("claims", full="true")
    said = text(test)
    assert counts(said) == len(CLAIMS)
    assert "**2** reproduced · **1** not reproduced · **20** not measured yet" in said
    assert "no network has been trained" in said


def test_every_claim_has_its_verdict_figure_note_and_runs(open_page: OpenPage, folder: Path) -> None:
    said = text(open_page("claims", full="true"))
    assert counts(said) == len(CLAIMS)
    sweep = Store(folder / "dermslim.duckdb").runs("svd-sweep", dataset="ham")[0].id
    assert f"[{sweep}](run?run={sweep})" in said
    assert "Ratio 3.770." in said
    assert "lenet5 70.00 reconstructed, 80.00 original" in said
    assert "in Table 5 lenet5 falls from 72.22 to 69.72" in said
    assert f"Compression: {sweep}, 2 images of ham." in said
    assert "synthetic images, which say nothing of real ones" not in said


def test_every_claim_has_one_row_and_nothing_is_in_full_until_it_is_chosen(open_page: OpenPage) -> None:
    test = open_page("claims")
    rows = test.dataframe[0].value
    assert [text.split()[0] for text in rows["Claim"]] == list(CLAIMS)
    assert rows.set_index("Claim").filter(like="C15", axis=0)["Measured"].item().startswith("lenet5 70.00")
    assert counts(text(test)) == 0


def test_claims_can_be_filtered_by_area_and_status(open_page: OpenPage) -> None:
    assert counts(text(open_page("claims", area=["Parameter curves"], full="true"))) == 2
    said = text(open_page("claims", status=["not reproduced"], full="true"))
    assert counts(said) > 0
    assert f"**{counts(said)}** not reproduced" in said
    assert sum(said.count(f"-badge[:material/{icon}:") for icon in ("check_circle", "pending")) == 0
    assert "No claim has this area and status" in text(open_page("claims", area=["Input size"], status=[STATUSES[0]]))


def test_claims_are_judged_by_the_chosen_sweep_and_data_set(open_page: OpenPage, folder: Path) -> None:
    demo = Store(folder / "dermslim.duckdb").runs("svd-sweep", dataset="demo")[0].id
    test = open_page("claims", sweep=demo, full="true")
    assert "Measured on synthetic images: no conclusion about real images." in text(test)
    test = ran(test.selectbox(key="choice_dataset").set_value("demo"))
    said = text(test)
    assert "Training and pruning: demo; no reconstruction of it, synthetic." in said
    assert "Needs the same network trained on original and on reconstructed images" in said


def test_an_unknown_sweep_in_the_address_gives_a_warning(open_page: OpenPage) -> None:
    test = open_page("claims", sweep="svd-sweep-none", full="true")
    assert any("there is no svd" in each.value for each in test.warning)
    assert counts(text(test)) == len(CLAIMS)


def test_the_table_can_be_downloaded(open_page: OpenPage) -> None:
    assert [each.label for each in open_page("claims").download_button] == ["CSV", "Markdown"]
