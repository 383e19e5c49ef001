"""Webhooks: each end is delivered at least once, even if the address fails first, and recording never waits."""

from __future__ import annotations

import contextlib
import hashlib
import hmac
import json
import socket
import ssl
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import trustme
from laboratory import wait_for, workers, write_images
from recorded import new_run, record_training
from redis import Redis

from core.compression.specs import SweepSpec
from core.errors import SpecError
from core.settings import Settings
from core.store.measurements import Store
from jobs.queues import Queues
from jobs.upkeep import webhooks

SOON = 24 * 3600.0


class Address:
    """A real server that answers the first requests with given status codes and later ones with 204."""

    def __init__(self, answers: list[int]) -> None:
        self.answers = answers
        self.requests: list[tuple[dict[str, str], bytes]] = []
        self.url = ""

    @property
    def events(self) -> list[dict[str, Any]]:
        return [json.loads(body) for _, body in self.requests]


@contextmanager
def address(*answers: int, context: ssl.SSLContext | None = None) -> Iterator[Address]:
    there = Address(list(answers))

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            there.requests.append((dict(self.headers), body))
            status = there.answers.pop(0) if there.answers else 204
            self.send_response(status)
            if 300 <= status < 400:
                self.send_header("Location", "/elsewhere")
            self.end_headers()

        def log_message(self, format: str, *arguments: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    if context is not None:
        server.socket = context.wrap_socket(server.socket, server_side=True)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    there.url = f"http://127.0.0.1:{server.server_port}/hook"
    try:
        yield there
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


@pytest.fixture
def connection(valkey_url: str) -> Iterator[Redis]:
    with Redis.from_url(valkey_url) as client:
        client.set(webhooks.SINCE, 0)
        yield client


def failed_run(store: Store, run_id: str, at: datetime | None = None) -> None:
    at = at or datetime.now(UTC)
    spec, began = SweepSpec(dataset="moles"), at - timedelta(seconds=30)
    store.record_run(new_run(run_id, spec, began, synthetic=True, spec_hash=run_id, total=4))
    store.record_failed(run_id, 1, "expected images; none came", at)


def test_a_run_that_ended_is_announced_once_after_two_failed_deliveries(settings: Settings, connection: Redis) -> None:
    store = Store(settings.database)
    failed_run(store, "svd-sweep-1")
    with address(500, 503) as there:
        own = replace(settings, webhook_url=there.url, dashboard_url="https://derm.example/")
        assert webhooks.announce_new(own, store, connection) == 1
        assert webhooks.announce_new(own, store, connection) == 0
        now = time.time()
        assert webhooks.deliver_due(own, connection, now) == 1
        assert webhooks.deliver_due(own, connection, now) == 0, "the next try is not due yet"
        assert webhooks.deliver_due(own, connection, time.time() + SOON) == 1
        assert webhooks.undelivered(connection) == (1, 0)
        assert webhooks.deliver_due(own, connection, time.time() + 2 * SOON) == 1
        assert webhooks.undelivered(connection) == (0, 0)
        assert webhooks.deliver_due(own, connection, time.time() + 9 * SOON) == 0
    assert len({headers["X-DermSlim-Delivery"] for headers, _ in there.requests}) == 1
    assert len(there.requests) == 3
    announced = there.events[-1]
    assert (announced["event"], announced["run"], announced["status"]) == ("run.failed", "svd-sweep-1", "failed")
    assert announced["error"] == "expected images; none came"
    assert announced["seconds"] == pytest.approx(30)
    assert announced["link"] == "https://derm.example/run?run=svd-sweep-1"
    assert announced["synthetic"] is True


def test_a_training_is_announced_with_its_main_results(settings: Settings, connection: Redis) -> None:
    store = Store(settings.database)
    run_id = record_training(store, accuracies=(70.0,))
    expected = store.steps([run_id]).iloc[0]
    announced = webhooks.figures(store, store.run(run_id) or {})
    assert announced["first"]["test_accuracy"] == pytest.approx(70.0)
    assert announced["first"]["parameters"] == expected["parameters"]


def test_the_body_is_signed_with_the_secret(settings: Settings, connection: Redis) -> None:
    store = Store(settings.database)
    failed_run(store, "svd-sweep-1")
    with address() as there:
        own = replace(settings, webhook_url=there.url, webhook_secret="of both sides")
        webhooks.announce_new(own, store, connection)
        webhooks.deliver_due(own, connection)
    ((headers, body),) = there.requests
    wanted = hmac.new(b"of both sides", body, hashlib.sha256).hexdigest()
    assert headers[webhooks.SIGNATURE] == f"sha256={wanted}"
    assert "of both sides" not in repr(own)


def test_a_redirect_is_not_followed(settings: Settings, connection: Redis) -> None:
    with address(302) as there:
        own = replace(settings, webhook_url=there.url)
        assert webhooks.post(own, "1", {}) == "status 302: redirects are not followed"
    assert len(there.requests) == 1


STATUS, HEADER, CONTINUE = b"HTTP/1.1 204 No", b"HTTP/1.1 204 No Content\r\nX-Drip: ", b"HTTP/1.1 100 Continue\r\n\r\n"


@contextmanager
def slow_address(beginning: bytes, drop: bytes) -> Iterator[tuple[str, threading.Event]]:
    """Give an address that sends `beginning` and then `drop` repeatedly until the client closes the connection."""
    closed = threading.Event()

    def serve(listener: socket.socket) -> None:
        with contextlib.suppress(OSError):
            connection = listener.accept()[0]
            with connection:
                connection.sendall(beginning)
                while True:
                    time.sleep(0.01)
                    connection.sendall(drop)
        closed.set()

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=serve, args=(listener,), daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{listener.getsockname()[1]}/hook", closed


@pytest.mark.parametrize(
    ("beginning", "drop"),
    [(b"", b"H"), (STATUS, b"x"), (HEADER, b"x"), (HEADER + b"a", b"\r\nX-More: a"), (b"", CONTINUE)],
)
def test_a_slow_address_delays_a_delivery_no_longer_than_the_limit(
    settings: Settings, connection: Redis, monkeypatch: pytest.MonkeyPatch, beginning: bytes, drop: bytes
) -> None:
    monkeypatch.setattr(webhooks, "LONGEST", 0.5)
    store = Store(settings.database)
    failed_run(store, "svd-sweep-1")
    with slow_address(beginning, drop) as (url, closed):
        own = replace(settings, webhook_url=url)
        webhooks.announce_new(own, store, connection)
        delivering = threading.Thread(target=webhooks.deliver_due, args=(own, connection), daemon=True)
        delivering.start()
        wait_for(lambda: not delivering.is_alive(), 60)
        assert closed.wait(60), "the connection is closed"
    (waiting,) = [json.loads(text) for text in connection.hvals(webhooks.EVENTS)]
    assert waiting["tries"] == 1
    assert "within 0.5 s" in waiting["problem"] or "headers" in waiting["problem"]


def test_an_answer_with_an_endless_body_counts_as_an_answer(settings: Settings) -> None:
    with slow_address(b"HTTP/1.1 200 OK\r\n\r\n", b"x" * 10_000) as (url, closed):
        assert webhooks.post(replace(settings, webhook_url=url), "1", {}) is None
        assert closed.wait(60)


def test_an_endless_tls_handshake_ends_with_a_timeout(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(webhooks, "LONGEST", 0.5)
    monkeypatch.setattr(webhooks, "TO_CONNECT", 1.0)
    with slow_address(b"\x16\x03\x03\x40\x00", b"\x02") as (url, closed):
        own = replace(settings, webhook_url=url.replace("http:", "https:"))
        assert webhooks.post(own, "1", {}) == "no answer within 0.5 s"
        assert closed.wait(60)


def test_tls_needs_a_trusted_certificate(settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    authority = trustme.CA()
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("localhost").configure_cert(context)
    with address(context=context) as there:
        own = replace(settings, webhook_url=there.url.replace("http://127.0.0.1", "https://localhost"))
        assert "CERTIFICATE_VERIFY_FAILED" in str(webhooks.post(own, "1", {}))
        monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "ca.pem"))
        assert webhooks.post(own, "1", {}) is None
    assert len(there.requests) == 1


def test_an_event_for_an_unreachable_address_is_kept_without_showing_its_secret(
    settings: Settings, connection: Redis
) -> None:
    store = Store(settings.database)
    failed_run(store, "svd-sweep-1")
    own = replace(settings, webhook_url="http://127.0.0.1:9/token-in-the-path")
    webhooks.announce_new(own, store, connection)
    now = time.time()
    for number in range(webhooks.MOST_TRIES):
        assert webhooks.undelivered(connection) == (1, 0)
        webhooks.deliver_due(own, connection, now + number * SOON)
    assert webhooks.undelivered(connection) == (0, 1)
    given_up = connection.lrange(webhooks.GIVEN_UP, 0, -1)[0].decode()
    assert "svd-sweep-1" in given_up
    assert "token-in-the-path" not in given_up


def test_only_requested_and_new_events_are_announced(settings: Settings, connection: Redis) -> None:
    store = Store(settings.database)
    failed_run(store, "old", datetime.now(UTC) - timedelta(days=30))
    failed_run(store, "new")
    own = replace(settings, webhook_url="http://127.0.0.1:9/", webhook_events=("finished",))
    assert webhooks.announce_new(own, store, connection) == 0
    own = replace(own, webhook_events=("failed", "cancelled"))
    assert webhooks.announce_new(own, store, connection) == 1
    assert [key.decode().split()[0] for key in connection.hkeys(webhooks.EVENTS)] == ["new"]


def test_a_study_and_a_second_attempt_are_announced(settings: Settings, connection: Redis) -> None:
    store = Store(settings.database)
    own = replace(settings, webhook_url="http://127.0.0.1:9/")
    failed_run(store, "svd-sweep-1")
    at = datetime.now(UTC)
    store.record_study({"study": "article-1", "kind": "article", "dataset": "moles", "spec": "{}", "submitted_at": at})
    store.record_study_status("article-1", "finished", None, at + timedelta(seconds=9))
    assert webhooks.announce_new(own, store, connection) == 2
    store.record_retry("svd-sweep-1", 2)
    assert webhooks.announce_new(own, store, connection) == 0
    store.record_failed("svd-sweep-1", 2, "again", datetime.now(UTC))
    assert webhooks.announce_new(own, store, connection) == 1
    announced = [json.loads(text)["event"] for text in connection.hvals(webhooks.EVENTS)]
    assert sorted(each["event"] for each in announced) == ["run.failed", "run.failed", "study.finished"]
    assert next(each for each in announced if "study" in each)["seconds"] == pytest.approx(9)


@pytest.mark.parametrize("url", ["ftp://host/x", "file:///etc/passwd", "host/x", "http://"])
def test_invalid_addresses_are_refused_and_nothing_is_sent(settings: Settings, url: str) -> None:
    own = replace(settings, webhook_url=url)
    with pytest.raises(SpecError, match="Expected WEBHOOK_URL to begin with"):
        webhooks.check(own)
    assert webhooks.start_delivering(own) is None


def test_unknown_events_are_named(settings: Settings) -> None:
    own = replace(settings, webhook_url="http://host/", webhook_events=("finished", "started"))
    with pytest.raises(SpecError, match="Expected WEBHOOK_EVENTS among finished, failed, cancelled, got started"):
        webhooks.check(own)


@pytest.mark.slow
def test_the_record_worker_announces_the_end_of_a_sweep_while_it_continues_recording(
    settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    queues = Queues(settings)
    dataset = queues.resolve(str(write_images(tmp_path / "moles", 2)))
    with address(500) as there:
        monkeypatch.setenv("WEBHOOK_URL", there.url)
        with workers(settings, "record", "svd"):
            queues.register(dataset)
            run_id = queues.submit(SweepSpec(dataset=dataset.name, ks=(2, 4)), dataset).run_id
            wait_for(lambda: len(there.requests) >= 2, 120)
            assert queues.messages_waiting() == 0
    announced = there.events[-1]
    assert (announced["run"], announced["event"], announced["figures"]["images"]) == (run_id, "run.finished", 2)
