"""The results on real images: the page says what its commands print, and the demo shows the same runs."""

from __future__ import annotations

from pathlib import Path

import pytest
from pages import OpenPage, opener, text

from benchmarks import results_page
from core.networks.architectures import NETWORKS
from core.settings import Settings
from core.store.measurements import Store
from dashboard.demo import RESULTS, import_results


def test_the_page_of_results_says_what_its_commands_print(capsys: pytest.CaptureFixture[str]) -> None:
    page = results_page.PAGE.read_text(encoding="utf-8")
    assert len(results_page.BLOCK.findall(page)) >= 3
    assert len(results_page.NUMBER.findall(page)) > 100
    assert results_page.main([]) == 0, capsys.readouterr().out


def test_a_wrong_table_and_a_number_that_no_command_prints_are_found() -> None:
    answers = {"tables": "1.50", "tables --every-setting": "", "claims": "", "tables --number 4": "| 2.25 |"}
    page = "It is 1.50, 2.25 and 3.75; `9.99` is code.\n\n<!-- python -m jobs tables --number 4 -->\n{}\n<!-- end -->\n"
    right = page.format("\n| 2.25 |\n")
    assert results_page.filled(page.format("\n| 2.24 |\n"), answers.__getitem__) == right
    assert results_page.filled(right, answers.__getitem__) == right
    assert results_page.unknown_numbers(right, answers.__getitem__) == ["3.75"]


def test_the_demo_imports_the_runs_on_real_images_once(
    settings: Settings, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    import_results(settings)
    runs = Store(settings.database).runs()
    assert {run.origin_host is None for run in runs} == {False}
    assert not any(run.synthetic for run in runs)
    assert capsys.readouterr().out == f"{len(runs)} runs on real images imported from {RESULTS}, 0 were here before\n"
    import_results(settings)
    assert capsys.readouterr().out.startswith("0 runs on real images imported")
    assert len(Store(settings.database).runs()) == len(runs)


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Give a data folder with the imported results."""
    folder = tmp_path_factory.mktemp("demo") / "data"
    import_results(Settings(folder, ()))
    return folder


@pytest.fixture
def open_page(demo: Path, valkey_url: str, monkeypatch: pytest.MonkeyPatch) -> OpenPage:
    return opener(monkeypatch, demo, valkey_url)


@pytest.mark.parametrize(("number", "figure"), [(4, "Validation accuracy"), (5, "Accuracy"), (6, "Accuracy")])
def test_the_demo_shows_measured_tables_of_all_four_networks(open_page: OpenPage, number: int, figure: str) -> None:
    test = open_page("tables", table=f"table{number}")
    measured = test.table[0].value[figure]
    for network in NETWORKS:
        rows = measured[[name.startswith(f"{network} ") for name in measured.index]]
        assert any("±" in row for row in rows), network
    assert "were imported: :blue-badge[" in text(test)


@pytest.mark.parametrize("page", ["overview", "claims", "sweeps", "prune_train"])
def test_pages_of_imported_runs_name_the_host_that_they_come_from(open_page: OpenPage, page: str) -> None:
    assert ":blue-badge[:material/move_to_inbox: from " in text(open_page(page))


def test_a_demo_without_the_results_says_so_and_goes_on(
    settings: Settings, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    import_results(settings, tmp_path / "none")
    assert "there is no" in capsys.readouterr().out
    (tmp_path / "broken").mkdir()
    import_results(settings, tmp_path / "broken")
    assert "could not be imported: Expected" in capsys.readouterr().out


def test_the_results_have_neither_images_nor_weights_and_fit_into_the_repository() -> None:
    files = list(RESULTS.iterdir())
    assert {path.suffix for path in files} == {".parquet", ".json", ".duckdb"}
    assert sum(path.stat().st_size for path in files) < 5_000_000
