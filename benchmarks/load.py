"""Many workers and users on one machine: `python -m benchmarks.load`.

8 `svd` workers, 2,000 queued jobs and 20 dashboard sessions that poll like pages, with a store of 100 sweeps of 10,000
images × 6 k. Meanwhile the pages are measured in a real browser as in `benchmarks.pages`. Nothing may fail: no session
sees an error, no job fails, no message is rejected, and every measured image is in the store.
"""

from __future__ import annotations

import argparse
import shutil
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Mapping
from pathlib import Path

from playwright.sync_api import sync_playwright
from redis import Redis
from rq import Queue
from rq.registry import FailedJobRegistry
from rq.serializers import JSONSerializer

from benchmarks import pages
from benchmarks.sessions import Session, poll
from benchmarks.workers import workers, write_images
from core.compression.specs import SweepSpec
from core.settings import Settings
from jobs.messages import REJECTED
from jobs.queues import Queues
from jobs.server import running_server

WORKERS, JOBS, SESSIONS = 8, 2000, 20
POLLED = ("", "jobs", "sweeps", "prune_train", "datasets")  # pages that the sessions open, in turn
IMAGES = 10_000


def queue_jobs(queues: Queues, folder: Path, count: int) -> list[str]:
    """Submit sweeps of a large folder until `count` jobs wait; return the runs."""
    dataset = write_images(folder, IMAGES)
    queues.register(dataset)
    waiting = Queue("svd", connection=Redis.from_url(str(queues.settings.redis_url)), serializer=JSONSerializer)
    runs: list[str] = []
    while waiting.count < count:
        spec = SweepSpec(
            dataset=dataset.name, ks=(5, 25, 50 + len(runs))
        )  # each is different, so that none counts as equal to an earlier one
        runs.append(queues.submit(spec, dataset).run_id)
    print(f"{waiting.count:,} jobs of {len(runs)} sweeps wait", flush=True)
    return runs


def judge(queues: Queues, runs: list[str], sessions: list[Session]) -> bool:
    """Print what failed and the seconds of the polls; return whether nothing failed."""
    errors = [error for session in sessions for error in session.errors]
    missing = [session.page for session in sessions if session.first is None]
    connection = Redis.from_url(str(queues.settings.redis_url))
    failed = sum(len(FailedJobRegistry(name, connection=connection).get_job_ids()) for name in ("svd", "record"))
    rejected = int(connection.llen(REJECTED))
    states = [state for state in queues.runs() if state.run_id in runs]
    recorded = sum(len(queues.store.images(run_id)) for run_id in runs)
    done, lost = sum(state.done for state in states), sum(state.failed for state in states)
    polls = [seconds for session in sessions for seconds in session.polls]
    print(
        f"{len(sessions)} sessions, {len(polls):,} polls: median {statistics.median(polls):.2f} s, "
        f"95 % within {statistics.quantiles(polls, n=20)[-1]:.2f} s, slowest {max(polls):.2f} s"
    )
    print(f"{done:,} images measured, {recorded:,} recorded; failed: {lost} images, {failed} jobs, {rejected} records")
    for error in dict.fromkeys(errors):
        print(f"a session saw: {error}")
    if missing:
        print(f"pages that were never shown: {', '.join(missing)}")
    return not (errors or missing or failed or rejected or lost) and recorded == done


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.load", description=__doc__)
    parser.add_argument("--store", type=Path, help="folder of the large store, which is reused if it exists")
    parser.add_argument("--seconds", type=float, default=60, help="how long the sessions poll at least (default 60)")
    options = parser.parse_args()
    chromium = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        with running_server(Settings(folder / "queue", (folder,))) as url:
            settings = Settings(options.store or folder / "data", (folder,), given_redis_url=url)
            return 0 if under_load(settings, folder, chromium, options.seconds) else 1


def under_load(settings: Settings, folder: Path, chromium: str | None, seconds: float) -> bool:
    """Queue the jobs, run workers and sessions, and return whether nothing failed and all targets were met."""
    ids = pages.fill(settings, folder)
    queues = Queues(settings)
    with pages.dashboard(settings) as address:
        runs = queue_jobs(queues, folder / "images", JOBS)
        with workers(settings, "record", *["svd"] * WORKERS):
            met, sessions = busy(address, ids, chromium, seconds)
            for run_id in runs:
                queues.cancel(run_id)
            while queues.messages_waiting() or any(worker.current_run for worker in queues.workers()):
                time.sleep(0.5)
            return judge(queues, runs, sessions) and met


def busy(address: str, ids: Mapping[str, str], chromium: str | None, seconds: float) -> tuple[bool, list[Session]]:
    """Let the sessions poll while the pages are measured; return whether the targets were met, and the sessions."""
    sessions: list[Session] = []
    ended = threading.Event()

    def keep_polling() -> None:
        opened = [POLLED[number % len(POLLED)] for number in range(SESSIONS)]
        sessions.extend(poll(address.removeprefix("http://"), opened, ended, seconds))

    polling = threading.Thread(target=keep_polling)
    polling.start()
    met = True
    try:
        if chromium is None:
            print("pages not measured: expected chromium or google-chrome on the path; found neither")
        else:
            with sync_playwright() as playwright:
                browser = playwright.chromium.launch(executable_path=chromium, args=list(pages.FLAGS))
                met = pages.measure(address, browser, ids)
    finally:
        ended.set()
        polling.join()
    return met, sessions


if __name__ == "__main__":
    sys.exit(main())
