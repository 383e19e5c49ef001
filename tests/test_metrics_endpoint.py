"""Metrics for Prometheus, read with its parser, and who can read them."""

from __future__ import annotations

import contextlib
import os
import select
import socket
import subprocess
import sys
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace

import pytest
import uvicorn
from laboratory import ROOT, wait_for, workers
from prometheus_client.parser import text_string_to_metric_families
from recorded import record_training
from redis import Redis
from starlette.applications import Starlette
from test_deploy import reserved_port

from benchmarks.processes import Process
from core.settings import Settings
from core.store.measurements import Store
from dashboard.access.metrics_route import ROUTES
from jobs.messages import REJECTED, DatasetRemoved, send
from jobs.upkeep import backup
from jobs.upkeep import prometheus as metrics

Samples = dict[tuple[str, tuple[tuple[str, str], ...]], float]


def parsed(text: bytes) -> Samples:
    families = list(text_string_to_metric_families(text.decode()))
    assert all(family.documentation for family in families)
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in families
        for sample in family.samples
    }


def value(samples: Samples, name: str, **labels: str) -> float:
    return samples[name, tuple(sorted(labels.items()))]


def test_metrics_equal_the_state_of_store_and_queue(settings: Settings) -> None:
    store = Store(settings.database)
    record_training(store)
    record_training(store, ends=False)
    backup.back_up(settings, settings.backups / "b.tar")
    with Redis.from_url(str(settings.redis_url)) as connection:
        send(connection, DatasetRemoved(name="nothing"))
        connection.rpush(REJECTED, "{}")
        found = parsed(metrics.metrics_text(settings))
    assert value(found, "dermslim_up", part="store") == value(found, "dermslim_up", part="queue") == 1
    assert value(found, "dermslim_runs", kind="train", status="finished") == 1
    assert value(found, "dermslim_runs", kind="train", status="queued") == 1
    assert value(found, "dermslim_records_waiting") == value(found, "dermslim_records_rejected") == 1
    assert value(found, "dermslim_queue_jobs", queue="record") == 1, "the job that starts the record worker"
    assert value(found, "dermslim_queue_jobs", queue="train-high") == 0
    assert value(found, "dermslim_workers", kind="svd", host="") == 0
    assert 0 <= value(found, "dermslim_last_backup_age_seconds") < 60
    assert value(found, "dermslim_store_bytes") == settings.database.stat().st_size
    assert value(found, "dermslim_disk_free_bytes") > 0
    assert value(found, "dermslim_epochs_total") == len(store.read("SELECT * FROM epochs"))


def test_an_unreachable_part_is_reported_as_down_beside_the_other_metrics(settings: Settings) -> None:
    away = replace(settings, given_redis_url="redis://127.0.0.1:9/0")
    record_training(Store(settings.database))
    found = parsed(metrics.metrics_text(away))
    assert value(found, "dermslim_up", part="queue") == 0
    assert value(found, "dermslim_up", part="store") == 1
    assert not any(name == "dermslim_queue_jobs" for name, _ in found)
    settings.database.write_text("not a database")
    found = parsed(metrics.metrics_text(settings))
    assert value(found, "dermslim_up", part="queue") == 1
    assert value(found, "dermslim_up", part="store") == 0


@pytest.mark.slow
def test_live_workers_are_counted_per_host(settings: Settings) -> None:
    with workers(settings, "record"):
        found = parsed(metrics.metrics_text(settings))
    assert [(dict(labels)["kind"], count) for (name, labels), count in found.items() if name == "dermslim_workers"] == [
        ("svd", 0),
        ("train", 0),
        ("record", 1),
    ]


@contextmanager
def serving() -> Iterator[str]:
    server = uvicorn.Server(uvicorn.Config(Starlette(routes=ROUTES), host="127.0.0.1", port=0, log_level="error"))
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        wait_for(lambda: server.started, 60)
        yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}/metrics"
    finally:
        server.should_exit = True
        thread.join()


def scrape(url: str, **headers: str) -> tuple[int, bytes]:
    try:
        with urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=20) as answer:  # noqa: S310
            return answer.status, answer.read()
    except urllib.error.HTTPError as error:
        return error.code, error.read()


@pytest.fixture
def environment(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> Settings:
    monkeypatch.setenv("DATA_DIR", str(settings.data_dir))
    monkeypatch.setenv("REDIS_URL", str(settings.redis_url))
    for name in ("DASHBOARD_PASSWORD", "METRICS_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    return settings


def test_without_a_login_only_requests_of_this_machine_are_answered(environment: Settings) -> None:
    with serving() as url:
        status, text = scrape(url)
        assert status == 200
        assert value(parsed(text), "dermslim_up", part="queue") == 1
        status, text = scrape(url, Host="evil.example")
        assert status == 401, "a foreign host name that points to this machine"


def test_with_a_token_only_requests_with_that_token_are_answered(
    environment: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("METRICS_TOKEN", "for-prometheus-alone")
    with serving() as url:
        assert scrape(url)[0] == 401
        assert scrape(url, Authorization="Bearer another")[0] == 401
        assert scrape(url, Authorization="Bearer for-prometheus-alone")[0] == 200


def test_a_dashboard_with_a_login_needs_the_token(environment: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DASHBOARD_PASSWORD", "a password that is long enough")
    with serving() as url:
        status, text = scrape(url)
    assert status == 401
    assert b"Expected METRICS_TOKEN to be set" in text


@contextmanager
def exporting(settings: Settings) -> Iterator[tuple[str, int]]:
    with metrics.exporter(settings, 0) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        try:
            yield metrics.HOST, server.server_port
        finally:
            server.shutdown()
            thread.join()


def slow_client(address: tuple[str, int]) -> bool:
    """Send an endless request byte by byte; return when the other side has closed the connection."""
    with socket.create_connection(address, timeout=60) as client:
        client.sendall(b"GET /metrics HTTP/1.1\r\nX-Drip: ")
        with contextlib.suppress(ConnectionError):
            while not select.select([client], [], [], 0.02)[0]:
                client.sendall(b"x")
            return client.recv(100) == b""
    return True


def test_slow_clients_of_the_exporter_are_disconnected_and_scrapes_continue(
    settings: Settings, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(metrics, "LONGEST_SCRAPE", 0.5)
    with exporting(settings) as address, ThreadPoolExecutor(metrics.MOST_SCRAPES + 4) as pool:
        clients = [pool.submit(slow_client, address) for _ in range(metrics.MOST_SCRAPES + 4)]
        assert all(client.result(60) for client in clients)
        monkeypatch.setattr(metrics, "LONGEST_SCRAPE", 60.0)
        status, text = scrape(f"http://{address[0]}:{address[1]}/metrics")
    assert status == 200
    assert value(parsed(text), "dermslim_up", part="queue") == 1
    assert "Traceback" not in capfd.readouterr().err


def test_the_exporter_refuses_foreign_host_names(settings: Settings) -> None:
    with exporting(settings) as (host, port):
        assert scrape(f"http://{host}:{port}/metrics", Host="evil.example")[0] == 403
        assert scrape(f"http://{host}:{port}/metrics", Host=f"localhost:{port}")[0] == 200


@pytest.mark.parametrize("host", ["[", "http://[", "a b", "@", "127.0.0.1:x"])
def test_an_invalid_host_header_is_refused(environment: Settings, host: str) -> None:
    with serving() as url:
        assert scrape(url, Host=host)[0] in (400, 401)


@pytest.fixture
def port() -> Iterator[int]:
    with reserved_port() as port:
        yield port


@pytest.mark.slow
def test_the_exporter_needs_no_dashboard(environment: Settings, port: int) -> None:
    Store(environment.database).migrate()
    process = Process(
        [sys.executable, "-m", "jobs", "metrics", "--port", str(port)], cwd=ROOT, env=dict(os.environ),
        stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    try:
        assert process.stdout is not None
        assert process.stdout.readline().strip() == f"http://127.0.0.1:{port}/metrics"
        first = parsed(scrape(f"http://127.0.0.1:{port}/metrics")[1])
        record_training(Store(environment.database))
        second = parsed(scrape(f"http://127.0.0.1:{port}/metrics")[1])
    finally:
        process.terminate()
        process.wait(60)
    assert ("dermslim_runs", (("kind", "train"), ("status", "finished"))) not in first
    assert value(second, "dermslim_runs", kind="train", status="finished") == 1
