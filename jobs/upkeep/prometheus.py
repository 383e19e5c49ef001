"""Metrics for a Prometheus server: queues, runs, workers, messages, totals, the last backup, the disk."""

from __future__ import annotations

import argparse
import contextlib
import logging
import shutil
import socket
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from typing import Any
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server

from prometheus_client import CollectorRegistry, generate_latest, make_wsgi_app
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.exposition import CONTENT_TYPE_LATEST, ThreadingWSGIServer
from prometheus_client.registry import Collector
from rq.registry import FailedJobRegistry
from rq.serializers import JSONSerializer

from core.errors import DermSlimError, QueueUnavailable, StoreError
from core.settings import Settings
from jobs.connection import JOB_QUEUES, QUEUES, RECORD, queue
from jobs.messages import REJECTED, waiting
from jobs.queues import Queues
from jobs.upkeep import webhooks
from jobs.upkeep.backup import last_backup

CONTENT_TYPE = CONTENT_TYPE_LATEST
ALL_QUEUES = (*JOB_QUEUES, RECORD)
HOST, PORT = "127.0.0.1", 9425
MOST_SCRAPES = 16  # at once
LONGEST_SCRAPE = 30.0  # seconds, of which the store and the queue may take most
LOG = logging.getLogger(__name__)


class DermSlimCollector(Collector):
    """Reads store and queue at each scrape; a part that does not answer is left out, and `dermslim_up` is 0."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings

    def collect(self) -> Iterator[Metric]:
        """Yield every family."""
        queues = Queues(self.settings)
        up = GaugeMetricFamily("dermslim_up", "1 where this part answers.", labels=["part"])
        for part, family in (("store", _store), ("queue", _queue)):
            try:
                yield from family(queues)
                up.add_metric([part], 1)
            except (QueueUnavailable, StoreError):
                up.add_metric([part], 0)
        yield up
        yield from _disk(self.settings)


def _store(queues: Queues) -> list[Metric]:
    totals = queues.store.read(
        "SELECT (SELECT count(*) FROM epochs) AS epochs, (SELECT count(*) FROM images) AS images, "
        "(SELECT count(*) FROM datasets) AS datasets"
    ).iloc[0]
    runs = GaugeMetricFamily("dermslim_runs", "Recorded runs.", labels=["kind", "status"])
    for (kind, status), count in sorted(Counter((run.kind, run.status) for run in queues.store.runs()).items()):
        runs.add_metric([kind, status], count)
    return [
        runs,
        CounterMetricFamily("dermslim_epochs", "Epochs recorded; deleting runs takes theirs off.", totals["epochs"]),
        CounterMetricFamily("dermslim_images", "Images measured, or given up.", totals["images"]),
        GaugeMetricFamily("dermslim_datasets", "Registered data sets.", totals["datasets"]),
    ]


def _queue(queues: Queues) -> list[Metric]:
    waiting_jobs = GaugeMetricFamily("dermslim_queue_jobs", "Jobs that wait for a worker.", labels=["queue"])
    failed = GaugeMetricFamily("dermslim_failed_jobs", "Jobs that failed and are still known.", labels=["queue"])
    workers = GaugeMetricFamily("dermslim_workers", "Workers that are alive.", labels=["kind", "host"])
    with queues.connected() as connection:
        for name in ALL_QUEUES:
            each = queue(name, connection)
            waiting_jobs.add_metric([name], each.count)
            failed.add_metric([name], FailedJobRegistry(queue=each, serializer=JSONSerializer).get_job_count())
        messages, rejected = waiting(connection), int(connection.llen(REJECTED))
        undelivered, given_up = webhooks.undelivered(connection)
    alive = Counter((worker.kind, worker.host) for worker in queues.workers())
    for kind in QUEUES:  # a kind without live workers has a row too, for alerts
        if not any(known == kind for known, _ in alive):
            workers.add_metric([kind, ""], 0)
    for (kind, host), count in sorted(alive.items()):
        workers.add_metric([kind, host], count)
    return [
        waiting_jobs,
        failed,
        workers,
        GaugeMetricFamily("dermslim_records_waiting", "Messages that have not been written yet.", messages),
        GaugeMetricFamily("dermslim_records_rejected", "Messages that could not be written.", rejected),
        GaugeMetricFamily("dermslim_webhooks_waiting", "Webhooks that the address has not taken yet.", undelivered),
        GaugeMetricFamily("dermslim_webhooks_given_up", "Webhooks that it never took.", given_up),
    ]


def _disk(settings: Settings) -> Iterator[Metric]:
    with contextlib.suppress(OSError):
        usage = shutil.disk_usage(settings.data_dir)
        yield GaugeMetricFamily("dermslim_disk_free_bytes", "Free on the disk of DATA_DIR.", usage.free)
        yield GaugeMetricFamily("dermslim_disk_bytes", "Size of the disk of DATA_DIR.", usage.total)
    with contextlib.suppress(OSError):
        yield GaugeMetricFamily("dermslim_store_bytes", "Size of the database.", settings.database.stat().st_size)
    last = last_backup(settings)
    if last is not None:
        age = (datetime.now(UTC) - last["made_at"]).total_seconds()
        yield GaugeMetricFamily("dermslim_last_backup_age_seconds", "Since the last backup; absent without one.", age)


def registry(settings: Settings) -> CollectorRegistry:
    """Return a registry with only DermSlim's metrics."""
    found = CollectorRegistry(auto_describe=False)
    found.register(DermSlimCollector(settings))
    return found


def metrics_text(settings: Settings) -> bytes:
    """Return all metrics in Prometheus's text format, see CONTENT_TYPE."""
    return generate_latest(registry(settings))


# -- command line ------------------------------------------------------------------------------------------------------


def add_commands(commands: Any, command: Callable[..., argparse.ArgumentParser]) -> None:
    """Add `metrics`; command: adds one."""
    shown = command(commands, "metrics", "print figures for Prometheus, or serve them", act_metrics)
    shown.add_argument("--port", type=int, help=f"serve them on {HOST} at this port, such as {PORT}, until stopped")


def act_metrics(options: argparse.Namespace) -> int:
    """Print the figures once, or serve them on the loopback interface."""
    settings = Settings.from_environment()
    if options.port is None:
        sys.stdout.buffer.write(metrics_text(settings))
        return 0
    if not 0 < options.port < 65536:
        raise DermSlimError(f"Expected a port from 1 to 65535, got {options.port}.")
    with exporter(settings, options.port) as server:
        print(f"http://{HOST}:{options.port}/metrics", flush=True)
        server.serve_forever()
    return 0


# -- serving them without a dashboard ----------------------------------------------------------------------------------


class Exporter(ThreadingWSGIServer):
    """Answers each scrape in a thread, with limits on their number and duration against slow clients."""

    def __init__(self, *arguments: Any, **named: Any) -> None:
        super().__init__(*arguments, **named)
        self._places = threading.BoundedSemaphore(MOST_SCRAPES)

    def process_request(self, request: Any, client_address: Any) -> None:
        """Answer in a thread, or close the connection where all places are taken."""
        if self._places.acquire(blocking=False):
            super().process_request(request, client_address)
        else:
            self.shutdown_request(request)

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        """Answer, and free the place afterwards."""
        cutter = threading.Timer(LONGEST_SCRAPE, _cut, (request,))
        cutter.daemon = True
        cutter.start()
        try:
            super().process_request_thread(request, client_address)
        finally:
            cutter.cancel()
            self._places.release()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Log that a client disconnected; errors in here are answered with status 500."""
        LOG.info("a scrape was interrupted: %s", sys.exc_info()[1])


class QuietHandler(WSGIRequestHandler):
    """Logs no scrapes."""

    def log_message(self, format: str, *arguments: Any) -> None:
        """Log nothing."""


def _cut(request: socket.socket) -> None:
    with contextlib.suppress(OSError):
        request.shutdown(socket.SHUT_RDWR)


def exporter(settings: Settings, port: int) -> WSGIServer:
    """Return a server on the loopback interface; 0 as the port takes a free one."""
    figures = make_wsgi_app(registry(settings))

    def answer(request: dict[str, Any], start_response: Any) -> Any:
        # Another site's page could map its host name here and read the metrics (DNS rebinding).
        if request.get("HTTP_HOST", "").partition(":")[0].lower() not in (HOST, "localhost"):
            start_response("403 Forbidden", [("Content-Type", "text/plain")])
            return [b"Expected 127.0.0.1 or localhost as the host, got another.\n"]
        return figures(request, start_response)

    return make_server(HOST, port, answer, Exporter, QuietHandler)
