"""Checks of store, queue, workers and work."""

from __future__ import annotations

import json
import shlex
import time
from collections import Counter
from collections.abc import Iterator
from datetime import UTC, datetime

import redis
from rq import Worker
from rq.job import Job
from rq.registry import FailedJobRegistry
from rq.serializers import JSONSerializer

from core.errors import QueueUnavailable, StoreBusy, StoreDamaged, StoreUnavailable
from core.settings import Settings
from core.store import check as store_check
from core.store import holders as store_holders
from core.store.file import lock_path
from core.store.measurements import Store
from core.store.migrations import VERSION
from jobs.connection import JOB_QUEUES, QUEUES, RECORD, Connection, connect, queue, source_of
from jobs.live_runs import LiveRun, active_runs
from jobs.logs import masked
from jobs.messages import REJECTED, waiting
from jobs.queues import Queues
from jobs.run_jobs import failure_of, is_under_way, jobs_of
from jobs.run_states import LATE
from jobs.upkeep import webhooks
from jobs.upkeep.backup import last_backup
from jobs.upkeep.checks.check import ERROR, SHOWN, WARNING, Check, Checks, check

SKEW = 5.0  # seconds between two clocks
MANY_MESSAGES = 1000
AT_ONCE = 0.2  # seconds of waiting for another program that has the store open


def advice_on(settings: Settings, error: Exception) -> str:
    """Return what to do about an error of store or queue."""
    if isinstance(error, StoreBusy):
        return "Close that program. `python -m jobs snapshot FOLDER` gives it a copy to read; messages wait meanwhile."
    if isinstance(error, StoreDamaged):
        last = last_backup(settings)
        known = "FILE" if last is None else shlex.quote(last["file"])
        first = "" if last else "This DATA_DIR has no known backup. "
        command = f"python -m jobs restore {known} --force --without-queue"
        return f"{first}Stop all processes, keep a copy of the file, then run `{command}`."
    if isinstance(error, QueueUnavailable | redis.RedisError):
        return "Start it with `make up`, or check the server of REDIS_URL."
    return "Correct what the message names."


def opened_store(settings: Settings) -> Store:
    """Return the store, for readers that wait only briefly."""
    return Store(settings.database, strangers=AT_ONCE)


def without_store(name: str) -> Check:
    """Return the result of a check that needs the store, where the store cannot be read."""
    return Check(name, WARNING, "a store that can be read", "not looked at", "See store.")


def check_store(settings: Settings) -> Checks:
    """Check which programs have the store open, its schema, and that every row can be read."""
    if not settings.database.exists():
        advice = "The record worker creates it: `make up`. A host of further workers needs none."
        yield Check("file", WARNING, str(settings.database), "none yet", advice)
        return
    lock = lock_path(settings.database)
    outside = store_holders.described(store_holders.strangers(settings.database, lock))
    own = store_holders.described(store_holders.holders(lock))
    advice = f"Nothing is recorded meanwhile. {advice_on(settings, StoreBusy())}"
    found = masked(outside or own) or "no other process now"
    yield check("open in", "no program outside DermSlim", found, outside, advice)
    counts = store_check.checked(settings.database)
    began = time.perf_counter()
    version = opened_store(settings).schema_version()
    found = f"version {version}, opened in {1000 * (time.perf_counter() - began):.0f} ms"
    older = "Start the record worker, which updates it."
    advice = older if version < VERSION else "The store is newer than this code: update the code."
    yield check("schema", f"version {VERSION}", found, version != VERSION, advice, ERROR)
    rows = ", ".join(f"{name} {count:,}" for name, count in counts.items() if count)
    size = settings.database.stat().st_size / 1e6
    yield check("content", "every row can be read", f"{size:,.1f} MB; {rows or 'no row yet'}")


def check_queue(settings: Settings) -> Checks:
    """Check that the server answers, its version, persistence, memory and clock."""
    connection = connect(settings)
    place = source_of(settings).address().place
    began = time.time()
    seconds, microseconds = connection.time()
    took = time.time() - began
    facts = connection.info()
    name = "Valkey" if "valkey_version" in facts else "Redis"
    number = facts.get("valkey_version") or facts["redis_version"]
    yield check("server", "an answer", f"{name} {number} at {place}, {1000 * took:.1f} ms")
    persists = bool(int(facts.get("aof_enabled", 0)))
    saved = facts.get("aof_last_write_status", "ok") == "ok" and facts.get("rdb_last_bgsave_status", "ok") == "ok"
    found = f"append-only file {'on' if persists else 'off'}{'' if saved else ', the last write failed'}"
    advice = "Set `appendonly yes`, so that queued runs survive a restart." if saved else "Check the server's disk."
    severity = WARNING if saved else ERROR
    expected = "an append-only file that is written"
    yield check("persistence", expected, found, not (persists and saved), advice, severity)
    policy, limit = facts.get("maxmemory_policy", "unknown"), int(facts.get("maxmemory", 0))
    advice = "Set `maxmemory-policy noeviction`; with other policies the server may delete jobs."
    severity = ERROR if limit else WARNING
    yield check("memory policy", "noeviction", policy, policy != "noeviction", advice, severity)
    used = int(facts["used_memory"])
    expected = f"below 90 % of {limit / 1e6:,.0f} MB" if limit else "no limit set"
    advice = "Raise maxmemory: a full server rejects jobs and messages."
    yield check("memory", expected, f"{used / 1e6:,.1f} MB", limit and used > 0.9 * limit, advice, ERROR)
    skew = abs(seconds + microseconds / 1e6 - (began + took / 2))
    advice = "Synchronise both clocks by NTP: heartbeats are compared by time."
    yield check("clock", f"within {SKEW:.0f} s of this host's", f"{skew:.1f} s apart", skew > SKEW, advice)


def check_workers(settings: Settings) -> Checks:
    """Check the workers by kind and host, and list those without a recent heartbeat."""
    living: dict[str, list[str]] = {kind: [] for kind in QUEUES}
    late = []
    now = datetime.now(UTC)
    connection = connect(settings)
    alive = {worker.name for worker in Queues(settings, connection).workers()}
    for worker in Worker.all(connection=connection, serializer=JSONSerializer):
        kind = next((name for name in worker.queue_names() if name in QUEUES), None)
        if kind is None or worker.last_heartbeat is None:
            continue
        seen = (now - worker.last_heartbeat.replace(tzinfo=UTC)).total_seconds()
        if worker.name in alive:
            living[kind].append(f"{worker.hostname}, {worker.get_state()}, seen {seen:.0f} s ago")
        else:
            late.append(f"{worker.name}, seen {seen:.0f} s ago")
    for kind, found in living.items():
        one = kind == RECORD
        wrong = len(found) != 1 if one else not found
        advice = f"`make up`, or `python -m jobs.worker {kind}`."
        expected = "exactly one" if one else "one or more"
        yield check(kind, expected, "; ".join(found) or "none", wrong, advice, ERROR if one else WARNING)
    advice = "They died; within a minute other workers restart their jobs."
    expected = f"none for more than {LATE:.0f} s"
    yield check("without a heartbeat", expected, "; ".join(late[:SHOWN]) or "none", late, advice)


def check_work(settings: Settings) -> Checks:
    """Check queues, messages, runs without a job, failed jobs and waiting webhooks."""
    connection = connect(settings)
    kinds = {worker.kind for worker in Queues(settings, connection).workers()}
    names = (*JOB_QUEUES, RECORD)
    lengths = {name: queue(name, connection).count for name in names}
    stuck = [name for name, count in lengths.items() if count and name.split("-")[0] not in kinds]
    found = ", ".join(f"{name} {count:,}" for name, count in lengths.items())
    advice = f"No worker serves {', '.join(stuck)}: start a worker of that kind."
    yield check("queues", "a worker for each that has jobs", found, stuck, advice)
    messages, rejected = waiting(connection), int(connection.llen(REJECTED))
    advice = "The record worker is down or waits for the store: see its log."
    yield check("messages waiting", f"at most {MANY_MESSAGES:,}", f"{messages:,}", messages > MANY_MESSAGES, advice)
    reasons = Counter(json.loads(text).get("kind", "unknown") for text in connection.lrange(REJECTED, 0, -1))
    found = f"{rejected}: " + ", ".join(f"{count} {kind}" for kind, count in reasons.items()) if rejected else "none"
    advice = f"The list {REJECTED} holds them; the record worker's log has the reasons."
    yield check("messages rejected", "none", found, rejected, advice, ERROR)
    yield check_orphans(opened_store(settings), connection)
    failed = list(failed_jobs(connection, names))
    found = f"{len(failed)}; " + "; ".join(failed[:SHOWN]) if failed else "none"
    yield check("failed jobs", "none", found, failed, "`python -m jobs retry RUN` repeats what is missing.")
    undelivered, given_up = webhooks.undelivered(connection)
    advice = "Check that WEBHOOK_URL answers with a status from 200 to 299."
    found = f"{undelivered} waiting, {given_up} given up"
    yield check("webhooks", "all delivered", found, given_up or undelivered > SHOWN, advice)


def check_orphans(store: Store, connection: Connection) -> Check:
    """Check that every run under way has a job."""
    name = "runs under way without a job"
    try:
        orphans = [run_id for run_id in runs_without_a_job(store, connection) if run_id]
    except StoreUnavailable:
        return without_store(name)
    advice = "The record worker ends or resumes them within seconds; otherwise run `python -m jobs cancel RUN`."
    return check(name, "none", ", ".join(orphans[:SHOWN]) or "none", orphans, advice, ERROR)


def runs_without_a_job(store: Store, connection: Connection) -> Iterator[str]:
    """Yield the runs that have not ended, are not suspended, and have no job under way."""
    recorded = [run.id for run in store.runs() if not run.ended]
    for run_id in dict.fromkeys([*recorded, *active_runs(connection)]):
        live = LiveRun(connection, run_id)
        facts = live.facts()
        if facts is not None and (facts.submitting or facts.suspended):
            continue
        if not any(is_under_way(job) for job in jobs_of(live)):
            if facts and waiting(connection):
                continue  # its end may be among the messages
            yield run_id


def failed_jobs(connection: Connection, names: tuple[str, ...]) -> Iterator[str]:
    """Yield the id and the last line of the error of each failed job."""
    for name in names:
        registry = FailedJobRegistry(queue=queue(name, connection), serializer=JSONSerializer)
        for job in Job.fetch_many(registry.get_job_ids(), connection=connection, serializer=JSONSerializer):
            if job is not None:
                yield masked(f"{job.id}: {failure_of(job)[:200]}")
