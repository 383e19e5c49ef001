"""Logs: one JSON object per line, with run and worker if known, and without secrets."""

from __future__ import annotations

import fcntl
import io
import json
import logging
import stat
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from laboratory import ROOT, wait_for, workers, write_images
from redis import Redis

from benchmarks.processes import Process
from core.compression.specs import SweepSpec
from core.errors import SpecError
from core.settings import Settings
from jobs import logs
from jobs.queues import Queues


@pytest.fixture(autouse=True)
def own_logging() -> Iterator[None]:
    """Restore the root logger, and reset RQ's logger, whose level a worker of another test may have set."""
    logging.getLogger("rq.worker").setLevel(logging.NOTSET)
    root = logging.getLogger()
    handlers, level, hook = list(root.handlers), root.level, sys.excepthook
    yield
    for handler in root.handlers:
        if handler not in handlers:
            handler.close()
    root.handlers[:] = handlers
    root.setLevel(level)
    logging.captureWarnings(False)
    sys.excepthook = hook
    logs.note(worker=None, job_id=None, run_id=None)


def plain_settings(folder: Path) -> Settings:
    return Settings(folder, (folder,))


def lines(path: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_a_log_line_has_the_time_the_worker_and_the_run(tmp_path: Path) -> None:
    logs.set_up("worker-svd", plain_settings(tmp_path), stream=io.StringIO())
    logs.note(worker="svd-here-1")
    logs.note_job("svd-sweep-1--1-7")
    logging.getLogger("rq.worker").info("Job %s: OK", 7)
    logs.note_job(None)
    logging.getLogger("core").warning("no job any more", extra={"run_id": "another"})
    first, second = lines(tmp_path / "logs" / "worker-svd.jsonl")
    assert (first["level"], first["logger"], first["message"]) == ("INFO", "rq.worker", "Job 7: OK")
    assert (first["run_id"], first["job_id"], first["worker"]) == ("svd-sweep-1", "svd-sweep-1--1-7", "svd-here-1")
    assert str(first["time"]).endswith("+00:00")
    assert "job_id" not in second
    assert second["run_id"] == "another"


def test_an_exception_is_written_in_one_line(tmp_path: Path) -> None:
    logs.set_up("command", plain_settings(tmp_path), stream=io.StringIO())
    try:
        raise ValueError("first\nsecond")
    except ValueError:
        logging.getLogger("core").exception("it failed")
    (line,) = lines(tmp_path / "logs" / "command.jsonl")
    assert "first\nsecond" in str(line["exc_info"])


def test_secrets_are_masked_in_file_and_terminal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WEBHOOK_SECRET", "hmac-key-of-mine")
    terminal = io.StringIO()
    logs.set_up("command", plain_settings(tmp_path), stream=terminal)
    logging.getLogger("core").warning("rediss://worker:hunter2hunter2@host:6380/0 signed with %s", "hmac-key-of-mine")
    for text in (terminal.getvalue(), (tmp_path / "logs" / "command.jsonl").read_text()):
        assert "rediss://worker:***@host:6380/0 signed with ***" in text


def test_the_terminal_shows_plain_text_or_the_same_json(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = io.StringIO()
    logs.set_up("command", plain_settings(tmp_path), stream=terminal)
    logging.getLogger("core").info("something happened")
    assert terminal.getvalue().endswith("INFO something happened\n")
    monkeypatch.setenv("LOG_FORMAT", "json")
    terminal = io.StringIO()
    logs.set_up("command", plain_settings(tmp_path), stream=terminal)
    logging.getLogger("core").info("something happened")
    assert json.loads(terminal.getvalue())["message"] == "something happened"
    monkeypatch.setenv("LOG_FORMAT", "xml")
    with pytest.raises(SpecError, match=r"^Expected LOG_FORMAT to be text or json, got xml\.$"):
        logs.set_up("command", plain_settings(tmp_path), stream=terminal)


OUTSIDE = "a\r\n2026-11-26 10:00:00,000 INFO forged \x1b[2J \x9b31m \x00 \x7f \u2028 \u202e \udcff"


def test_control_characters_in_a_message_are_escaped(tmp_path: Path) -> None:
    terminal = io.StringIO()
    logs.set_up("command", plain_settings(tmp_path), stream=terminal)
    logs.note(run_id="run\nforged")
    logging.getLogger("core").warning("an image called %s", OUTSIDE)
    text = terminal.getvalue()
    assert text.endswith("\n")
    assert text[:-1].isprintable()
    assert r"a\r\n2026-11-26 10:00:00,000 INFO forged \x1b[2J \x9b31m \x00 \x7f \u2028 \u202e \udcff" in text
    content = (tmp_path / "logs" / "command.jsonl").read_text()
    assert content[:-1].isprintable()
    assert json.loads(content)["message"] == f"an image called {OUTSIDE}", "JSON preserves the text"


def test_lines_of_a_traceback_cannot_be_mistaken_for_log_records(tmp_path: Path) -> None:
    terminal = io.StringIO()
    logs.set_up("command", plain_settings(tmp_path), stream=terminal)
    try:
        raise ValueError(OUTSIDE)
    except ValueError:
        logging.getLogger("core").exception("it failed")
    first, *raised = terminal.getvalue().split("\n")[:-1]
    assert first.endswith("ERROR it failed")
    assert len(raised) >= 4
    assert all(line.startswith("    ") and line.isprintable() for line in raised)


def test_repeated_faults_are_counted_instead_of_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = io.StringIO()
    logs.set_up("command", plain_settings(tmp_path), stream=terminal)
    log = logging.getLogger("core")
    for number in range(500):
        try:
            raise ValueError(f"reason {number}")
        except ValueError:
            log.exception("request %d failed", number)
        log.warning("invalid request")
        log.warning("image %d is damaged", number)
        log.info("information")
    written = lines(tmp_path / "logs" / "command.jsonl")
    assert sum("exc_info" in line for line in written) == terminal.getvalue().count("Traceback") == logs.MOST_ALIKE
    assert sum(line["message"] == "invalid request" for line in written) == logs.MOST_ALIKE
    assert sum(line["message"] == "information" for line in written) == 500, (
        "messages that are not faults are written each time"
    )
    assert sum("is damaged" in str(line["message"]) for line in written) == 500, (
        "different faults are written each time"
    )
    monkeypatch.setattr(logs, "ALIKE_SECONDS", 0.0)
    log.warning("invalid request")
    assert terminal.getvalue().endswith("invalid request (and 490 more like it before)\n")
    assert lines(tmp_path / "logs" / "command.jsonl")[-1]["message"] == (
        "invalid request (and 490 more like it before)"
    )


def test_a_locked_log_file_does_not_stop_writers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logs.move_aside, "__defaults__", (10,))
    logs.set_up("command", plain_settings(tmp_path), stream=io.StringIO())
    log, path = logging.getLogger("core"), tmp_path / "logs" / "command.jsonl"
    log.info("first")
    log.info("second")
    lock = tmp_path / "logs" / "command.jsonl.lock"
    assert stat.S_IMODE(lock.stat().st_mode) == 0o600
    with lock.open() as lock_file:
        fcntl.flock(lock_file, fcntl.LOCK_SH)
        log.info("third")
        assert [line["message"] for line in lines(path)] == ["second", "third"]
    log.info("fourth")
    assert [line["message"] for line in lines(path)] == ["fourth"]


def test_processes_that_share_a_log_lose_no_line_when_it_is_rotated(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = (
        "import logging, sys; from pathlib import Path; from core.settings import Settings; from jobs import logs\n"
        "logs.LIMIT = 20_000; logs.move_aside.__defaults__ = (20_000,); logs.OLD_FILES = 20\n"
        "logs.set_up('shared', Settings(Path(sys.argv[1]), ()), level=logging.CRITICAL)\n"
        "for number in range(200): logging.getLogger('core').info('%s-%d', sys.argv[2], number)\n"
    )
    writers = [Process([sys.executable, "-c", program, str(tmp_path), name], cwd=ROOT) for name in ("one", "two")]
    assert [writer.wait(60) for writer in writers] == [0, 0]
    files = [path for path in (tmp_path / "logs").glob("shared.jsonl*") if path.suffix != ".lock"]
    assert len(files) > 2
    found = sorted(str(line["message"]) for path in files for line in lines(path))
    assert found == sorted(f"{name}-{number}" for name in ("one", "two") for number in range(200))


def test_a_log_folder_that_cannot_be_written_leaves_only_the_terminal(tmp_path: Path) -> None:
    (tmp_path / "logs").write_text("a file where the folder should be")
    terminal = io.StringIO()
    logs.set_up("worker-svd", plain_settings(tmp_path), stream=terminal)
    assert "The log goes only to standard error" in terminal.getvalue()
    logs.set_up("command", plain_settings(tmp_path / "absent"), stream=terminal, new_folder=False)
    assert not (tmp_path / "absent").exists()


@pytest.mark.slow
def test_workers_log_their_jobs_and_rqs_own_lines_without_the_password(settings: Settings, tmp_path: Path) -> None:
    queues = Queues(settings)
    dataset = queues.resolve(str(write_images(tmp_path / "moles", 2)))
    with workers(settings, "record", "svd"):
        queues.register(dataset)
        run_id = queues.submit(SweepSpec(dataset=dataset.name, ks=(2,)), dataset).run_id
        wait_for(lambda: (state := queues.run(run_id)) is not None and state.ended, 60)
    measured = lines(settings.logs / "worker-svd.jsonl")
    assert any(line["logger"] == "rq.worker" for line in measured)
    own = [line for line in measured if line["logger"] == "jobs.live_runs"]
    assert own
    assert {line["run_id"] for line in own} == {run_id}
    assert all(str(line["worker"]).startswith("svd-") for line in own)
    with Redis.from_url(str(settings.redis_url)) as client:
        password = str(client.connection_pool.connection_kwargs["password"])
    assert all(password not in path.read_text() for path in settings.logs.iterdir())
