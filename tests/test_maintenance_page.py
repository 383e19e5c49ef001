"""The page Maintenance with real stores: what it shows, and that deleting needs a confirmation."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from pages import OpenPage, opener, ran, text
from recorded import record_training
from redis import Redis
from test_retention import write

from core.settings import Settings
from core.store.measurements import Store
from jobs.messages import MESSAGES
from jobs.queues import Queues
from jobs.upkeep import backup


@pytest.fixture
def open_page(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> OpenPage:
    monkeypatch.delenv("DASHBOARD_PASSWORD", raising=False)
    return opener(monkeypatch, settings.data_dir, str(settings.redis_url))


def test_the_findings_of_the_doctor_are_shown_with_advice(open_page: OpenPage) -> None:
    shown = text(open_page("maintenance"))
    assert "Workers: record" in shown
    assert "python -m jobs.worker record" in shown
    assert "Errors 1" in shown


def test_removable_files_are_listed_and_removed_after_a_confirmation(
    open_page: OpenPage, settings: Settings, caplog: pytest.LogCaptureFixture
) -> None:
    old = write(settings.logs / "worker-svd.jsonl.1", 1_500_000)
    page = open_page("maintenance", tab="Disk")
    assert "Logs" in page.dataframe[0].value["Part"].tolist()
    assert page.dataframe[1].value["Where"].tolist() == ["logs/worker-svd.jsonl.1"]
    button = next(each for each in page.button if each.label.startswith("Remove 1 item, 1.50 MB"))
    page = ran(button.click())
    assert old.exists()
    page = ran(next(each for each in page.button if each.label == "Remove them").click())
    assert not old.exists()
    told = [record for record in caplog.records if record.name == "jobs.upkeep.retention"]
    assert [(record.by, record.path) for record in told] == [(Queues(settings).user, str(old))]
    assert "There is nothing to delete." in text(ran(page))


def test_runs_are_listed_with_the_space_that_deleting_them_frees(open_page: OpenPage, settings: Settings) -> None:
    run_id = record_training(Store(settings.database), synthetic=True)
    record_training(Store(settings.database), ends=False)
    write(settings.trained / run_id / "0.keras", 2_000_000)
    page = open_page("maintenance", tab="Runs")
    listed = page.dataframe[0].value
    assert listed["Run"].tolist() == [run_id]
    assert listed["Weights"].tolist() == ["2.00 MB"]
    assert listed["Data set"].tolist() == ["ham (synthetic)"]
    assert next(each for each in page.button if each.label == "Delete").disabled
    with Redis.from_url(str(settings.redis_url)) as connection:
        assert connection.llen(MESSAGES) == 0


def test_a_backup_can_be_made_on_the_page(open_page: OpenPage, settings: Settings) -> None:
    record_training(Store(settings.database))
    page = open_page("maintenance", tab="Backups")
    assert "Last backup never" in text(page)
    page = ran(next(each for each in page.button if each.label == "Back up now").click())
    last = backup.last_backup(settings)
    assert last is not None
    assert Path(last["file"]).exists()
    assert Path(last["file"]).name in text(page)
    assert json.dumps(str(settings.redis_url))[1:-1] not in text(page)


def test_without_a_queue_the_page_says_that_it_needs_one(
    open_page: OpenPage, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("REDIS_URL", "redis://127.0.0.1:9/0")
    record_training(Store(settings.database))
    assert "This needs the queue." in text(open_page("maintenance", tab="Runs"))
    assert "could not be looked at" in text(open_page("maintenance", tab="Health"))
