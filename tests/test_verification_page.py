"""The pages of a run that agrees with the reference, differs from it, or was never checked."""

from __future__ import annotations

from pathlib import Path

import pytest
from pages import OpenPage, opener, text
from recorded import START, record_measured

from core.compression.image_results import METRIC_COLUMNS
from core.compression.specs import ResizeSpec, SweepSpec
from core.compression.verification import COLUMNS
from core.store.measurements import Store


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("checked") / "data"


@pytest.fixture
def open_page(folder: Path, valkey_url: str, monkeypatch: pytest.MonkeyPatch) -> OpenPage:
    return opener(monkeypatch, folder, valkey_url)


def record_check(store: Store, run_id: str, factor: float) -> None:
    """Record a check of image a that equals the run's values, except the SSIM of the first row."""
    rows = [
        {**dict.fromkeys(COLUMNS), "image_id": "a", "worker": "svd-1", "variant": row["variant"]}
        | {name: row[name] for name in ("stored_bytes", *METRIC_COLUMNS)}
        for row in store.measurements(run_id).to_dict("records")
        if row["image_id"] == "a"
    ]
    rows[0]["ssim"] *= factor
    store.record_checks(run_id, 1, rows, START)


@pytest.mark.parametrize(
    ("page", "spec"), [("sweeps", SweepSpec(dataset="ham")), ("resize", ResizeSpec(dataset="ham"))]
)
def test_a_page_shows_whether_its_run_agrees_with_the_reference(
    open_page: OpenPage, folder: Path, page: str, spec: SweepSpec | ResizeSpec
) -> None:
    store = Store(folder / "dermslim.duckdb")
    run_id, count = record_measured(store, spec), len(spec.ks if isinstance(spec, SweepSpec) else spec.sizes)
    for each in (page, "run"):
        shown = text(open_page(each, run=run_id))
        assert "Not checked against scikit-image, mahotas and NumPy" in shown
        assert "Check 2 images" in shown
    record_check(store, run_id, 1 + 2e-9)
    for each in (page, "run"):
        test = open_page(each, run=run_id)
        assert (
            f"Checked against scikit-image, mahotas and NumPy: {count} of {count} rows agree, largest relative "
            "difference 2e-9." in text(test)
        )
        assert not test.error
    record_check(store, run_id, 1.01)
    for each in (page, "run"):
        test = open_page(each, run=run_id)
        assert f"{count - 1} of {count} rows agree" in test.error[0].value
        shown = text(test)
        assert ":red[SSIM: 0.99 measured, 0.9999 by the reference, relative difference 1e-2]" in shown
        assert any(link.label.startswith("a, ") for link in test.get("page_link") if "inspector" in link.proto.page)


def test_checking_a_run_whose_data_set_was_removed_shows_the_reason(open_page: OpenPage, folder: Path) -> None:
    store = Store(folder / "dermslim.duckdb")
    test = open_page("run", run=record_measured(store, SweepSpec(dataset="gone")))
    button = next(each for each in test.button if each.label == "Check 2 images")
    button.click().run()
    assert "Expected data set gone to be registered, got none" in test.error[0].value
