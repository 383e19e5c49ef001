"""The doctor: what is right, what is wrong and what to do, even when everything is down."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest
from laboratory import wait_for, workers, write_images
from recorded import record_training
from redis import Redis
from rq import Retry
from test_store_check import damage

from benchmarks.processes import Process
from core.compression.specs import SweepSpec
from core.data.datasets import load_dataset
from core.settings import Settings
from core.store.measurements import Store
from jobs.__main__ import main
from jobs.connection import SVD, queue
from jobs.live_runs import LiveRun, RunFacts
from jobs.messages import REJECTED
from jobs.queues import Queues
from jobs.server import program_for
from jobs.upkeep import backup, doctor
from jobs.upkeep.checks.check import ERROR, OK, WARNING, Check


def examined(settings: Settings, *, keras: bool = False) -> dict[str, Check]:
    return {f"{check.area}: {check.name}": check for check in doctor.examine(settings, keras=keras)}


@pytest.fixture
def connection(valkey_url: str) -> Iterator[Redis]:
    with Redis.from_url(valkey_url) as client:
        yield client


def test_the_doctor_reports_every_unreachable_part_and_checks_the_rest(tmp_path: Path) -> None:
    found = examined(Settings(tmp_path / "absent", (tmp_path,), given_redis_url="redis://:secret-word@127.0.0.1:9/0"))
    assert found["queue: could not be looked at"].status == ERROR
    assert found["work: not looked at"].status == WARNING
    assert found["disk: DATA_DIR can be written"].status == ERROR
    assert found["store: file"].status == WARNING
    assert found["software: packages"].status in (OK, WARNING)
    assert found["outside: webhook"].status == OK
    assert all(check.advice for check in found.values() if check.status != OK)
    assert not (tmp_path / "absent").exists(), "the doctor changes nothing"
    assert "secret-word" not in json.dumps([vars(check) for check in found.values()])


def test_a_store_that_is_not_a_database_is_an_error_and_the_queue_is_checked(settings: Settings) -> None:
    settings.database.write_text("this is not a database")
    found = examined(settings)
    assert found["store: could not be looked at"].status == ERROR
    assert "got a damaged file" in found["store: could not be looked at"].found
    assert "python -m jobs restore FILE" in found["store: could not be looked at"].advice
    assert found["queue: server"].status == OK
    assert found["work: runs under way without a job"].found == "not looked at"
    assert found["data: data sets"].advice == "See store."


def test_a_store_with_a_damaged_block_is_an_error(settings: Settings) -> None:
    record_training(Store(settings.database))
    damage(settings.database, "steps")
    found = examined(settings)
    assert "got damage in steps" in found["store: could not be looked at"].found
    assert "store: content" not in found


@pytest.mark.parametrize("read_only", [True, False])
def test_a_program_that_has_the_store_open_is_named(settings: Settings, read_only: bool) -> None:
    record_training(Store(settings.database))
    code = "import duckdb, sys; c = duckdb.connect(sys.argv[1], read_only=len(sys.argv) > 2)\n"
    code += "print(1, flush=True); input()"
    command = [sys.executable, "-c", code, str(settings.database), *(["reads"] if read_only else [])]
    with Process(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as stranger:
        assert stranger.stdout is not None
        assert stranger.stdout.readline() == b"1\n"
        found = examined(replace(settings, given_redis_url="redis://127.0.0.1:9/0"))
        stranger.communicate(b"\n")
    assert f"process {stranger.pid} (python" in found["store: open in"].found
    assert found["store: open in"].status == WARNING
    assert "python -m jobs snapshot" in found["store: open in"].advice
    assert ("store: content" in found) == read_only
    if not read_only:
        assert f"process {stranger.pid} (python" in found["store: could not be looked at"].found
        assert found["data: data sets"].advice == "See store."
    assert not any("make up" in check.advice for name, check in found.items() if name.startswith(("store", "data")))


def test_the_server_is_examined(settings: Settings, connection: Redis) -> None:
    found = examined(settings)
    assert str(program_for(settings.redis_url_file.parent)) in found["queue: server"].found
    assert [found[f"queue: {name}"].status for name in ("persistence", "memory policy", "clock")] == [OK, OK, OK]
    connection.config_set("maxmemory-policy", "allkeys-lru")
    connection.config_set("maxmemory", "100mb")
    try:
        found = examined(settings)
    finally:
        connection.config_set("maxmemory", "0")
        connection.config_set("maxmemory-policy", "noeviction")
    assert found["queue: memory policy"].status == ERROR
    assert "noeviction" in found["queue: memory policy"].advice


def test_runs_without_jobs_and_rejected_messages_are_named(settings: Settings, connection: Redis) -> None:
    store = Store(settings.database)
    orphan = record_training(store, ends=False)
    LiveRun(connection, orphan).create(RunFacts(attempt=1, spec="{}"))
    connection.rpush(REJECTED, json.dumps({"kind": "chunk", "values": {}}))
    queue(SVD, connection).enqueue("jobs.measure_task.measure_chunk", job_id="run--1-0", retry=Retry(max=1))
    found = examined(settings)
    assert found["work: runs under way without a job"].status == ERROR
    assert orphan in found["work: runs under way without a job"].found
    assert found["work: messages rejected"].found == "1: 1 chunk"
    assert found["work: queues"].status == WARNING
    assert "svd" in found["work: queues"].advice
    assert found["workers: record"].status == ERROR
    assert found["workers: svd"].status == WARNING


def test_a_failed_job_is_named_with_its_reason(settings: Settings, connection: Redis) -> None:
    queue(SVD, connection).enqueue("jobs.measure_task.measure_chunk", job_id="run--1-0", args=["too few"])
    with workers(settings, "svd"):
        wait_for(lambda: "run--1-0" in examined(settings)["work: failed jobs"].found, 60)
    found = examined(settings)["work: failed jobs"]
    assert found.status == WARNING
    assert "measure_chunk() missing" in found.found


def test_changed_and_missing_data_sets_are_distinguished(settings: Settings, tmp_path: Path) -> None:
    store = Store(settings.database)
    for name in ("whole", "changed", "gone"):
        folder = write_images(tmp_path / name, 3)
        store.record_dataset(load_dataset(folder, name=name), datetime.now(UTC))
    (tmp_path / "changed" / "mole000.jpg").write_bytes(b"another")
    (tmp_path / "changed" / "mole001.jpg").unlink()
    shutil.rmtree(tmp_path / "gone")
    found = examined(settings)
    assert found["data: data set whole"].status == OK
    assert found["data: data set changed"].found == "1 files gone, 1 changed"
    assert found["data: data set gone"].found == "its folder is gone"


def test_invalid_networks_webhooks_and_backups_are_named(settings: Settings) -> None:
    folder = settings.data_dir / "networks"
    folder.mkdir()
    (folder / "broken.yaml").write_text("image: 3\n")
    Store(settings.database).migrate()
    own = replace(settings, webhook_url="ftp://host/", webhook_events=())
    found = examined(own)
    assert found["networks: own networks"].status == WARNING
    assert "broken.yaml" in found["networks: own networks"].found
    assert found["outside: webhook"].status == ERROR
    assert found["outside: last backup"].status == WARNING
    backup.back_up(settings, settings.backups / "b.tar")
    assert examined(settings)["outside: last backup"].status == OK


@pytest.mark.slow
def test_a_running_stack_has_no_errors(settings: Settings, tmp_path: Path, connection: Redis) -> None:
    queues = Queues(settings)
    dataset = load_dataset(write_images(tmp_path / "moles", 2), name="moles")
    with workers(settings, "record", "svd"):
        queues.register(dataset)
        run_id = queues.submit(SweepSpec(dataset="moles", ks=(2,)), dataset).run_id
        for _ in queues.wait(run_id):
            pass
        found = examined(settings, keras=True)
    wrong = {name for name, check in found.items() if check.status == ERROR}
    assert wrong == set()
    assert found["processes: record worker here"].found == "running"
    assert found["workers: record"].status == found["workers: svd"].status == OK
    assert found["workers: train"].status == WARNING
    assert "runs 1" in found["store: content"].found
    assert found["gpu: Keras"].found.startswith("backend ")


def test_the_command_prints_sentences_or_json_and_fails_on_an_error(
    settings: Settings, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("DATA_DIR", str(settings.data_dir))
    monkeypatch.setenv("REDIS_URL", "redis://127.0.0.1:9/0")
    monkeypatch.setenv("WEBHOOK_SECRET", "never-shown-to-anyone")
    assert main(["doctor", "--without-keras"]) == 1
    printed = capsys.readouterr().out
    assert "error    queue: could not be looked at" in printed
    assert main(["doctor", "--without-keras", "--json"]) == 1
    checks = json.loads(capsys.readouterr().out)
    assert {check["status"] for check in checks} <= {OK, WARNING, ERROR}
    assert "never-shown-to-anyone" not in printed + json.dumps(checks)
    assert "WEBHOOK_SECRET=***" in printed
