"""Send an event to WEBHOOK_URL when a run or a study has ended.

Every few seconds the record worker compares the store with what it has announced. A new event waits in Redis until the
address has accepted it, so that nothing is lost when a process dies. A separate thread delivers the events, with
time-outs and increasing pauses, so that recording never waits for it.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import hmac
import json
import logging
import socket
import ssl
import threading
import time
from collections.abc import Collection
from datetime import UTC, datetime
from typing import Any

import redis

from core.errors import SpecError
from core.runs import ENDED, Run, Study
from core.settings import Settings
from core.store.file import plain_rows
from core.store.measurements import Store
from jobs.connection import Connection, connect
from jobs.live_runs import PREFIX

SINCE = f"{PREFIX}:webhook:since"  # ends before it are not announced
ANNOUNCED = f"{PREFIX}:webhook:announced"  # hash: every end that has been announced
EVENTS = f"{PREFIX}:webhook:events"  # hash: what has not been delivered, by event
DUE = f"{PREFIX}:webhook:due"  # sorted set: when each is tried next
GIVEN_UP = f"{PREFIX}:webhook:given-up"  # list: what could not be delivered, newest last
REMEMBERED = 7 * 24 * 3600.0  # seconds; older ends are neither announced nor remembered
MOST_TRIES = 24  # over some 15 hours
FIRST_PAUSE, LONGEST_PAUSE = 5.0, 3600.0  # seconds between two tries; doubled at each
MOST_GIVEN_UP = 1000
LOOK = 1.0  # seconds between two looks at what is due
TO_CONNECT, TO_ANSWER = 5.0, 10.0  # seconds for a step: the connection; the next bytes
LONGEST = 15.0  # seconds for a whole delivery
SIGNATURE = "X-DermSlim-Signature"

log = logging.getLogger(__name__)
logging.getLogger("httpx").setLevel(logging.WARNING)  # its lines of level INFO contain the whole address


def check(settings: Settings) -> None:
    """Raise SpecError unless the webhook's settings can be used; without WEBHOOK_URL they always can."""
    if settings.webhook_url is None:
        return
    import httpx  # here and below, because few installations have a webhook

    try:
        url = httpx.URL(settings.webhook_url)
    except httpx.InvalidURL:
        url = httpx.URL()
    if url.scheme not in ("http", "https") or not url.host:
        raise SpecError("Expected WEBHOOK_URL to begin with http:// or https://, got another address.")
    unknown = sorted(set(settings.webhook_events) - set(ENDED))
    if unknown:
        raise SpecError(f"Expected WEBHOOK_EVENTS among {', '.join(ENDED)}, got {', '.join(unknown)}.")


# -- announcing: in the record worker ----------------------------------------------------------------------------------


def announce_new(settings: Settings, store: Store, connection: Connection) -> int:
    """Leave an event for each run and each study that has ended since; return how many.

    Announcing and remembering it are one transaction, so that each end is announced once.
    """
    if settings.webhook_url is None:
        connection.delete(SINCE, ANNOUNCED)
        return 0
    now = time.time()
    connection.setnx(SINCE, now)
    since = max(float(connection.get(SINCE)), now - REMEMBERED)
    wanted = settings.webhook_events or ENDED
    recorded: list[Run | Study] = [*store.runs(), *store.studies()]
    ended = {_identity(each): each for each in recorded if _is_new(each, since, wanted)}
    known = {each.decode() for each in connection.hkeys(ANNOUNCED)}
    new = [key for key in ended if key not in known]
    for key in new:
        event = json.dumps({"event": event_of(settings, store, ended[key]), "tries": 0})
        connection.pipeline().hset(ANNOUNCED, key, now).hset(EVENTS, key, event).zadd(DUE, {key: now}).execute()
    if forgotten := known - set(ended):
        connection.hdel(ANNOUNCED, *forgotten)
    return len(new)


def _is_new(ended: Run | Study, since: float, wanted: Collection[str]) -> bool:
    if isinstance(ended, Run) and ended.origin_host is not None:  # announced where it ran
        return False
    return ended.status in wanted and ended.finished_at is not None and ended.finished_at.timestamp() >= since


def _identity(ended: Run | Study) -> str:
    return f"{ended.id} {ended.status} {ended.finished_at and ended.finished_at.isoformat()}"


def event_of(settings: Settings, store: Store, ended: Run | Study) -> dict[str, Any]:
    """Return the event of a run or a study that has ended: a JSON-ready dict."""
    what = "run" if isinstance(ended, Run) else "study"
    page = None if settings.dashboard_url is None else f"{settings.dashboard_url.rstrip('/')}/{what}?{what}={ended.id}"
    event: dict[str, Any] = {
        "event": f"{what}.{ended.status}",
        what: ended.id,
        "kind": ended.kind,
        "dataset": ended.dataset,
        "status": ended.status,
        "error": ended.error,
        "submitted_by": ended.submitted_by,
        "finished_at": ended.finished_at and ended.finished_at.isoformat(),
        "seconds": ended.finished_at and (ended.finished_at - ended.submitted_at).total_seconds(),
        "figures": {},
        "link": page,
    }
    if isinstance(ended, Run):
        run = {"synthetic": ended.synthetic, "attempt": ended.attempt}
        event |= run | {"seconds": ended.seconds, "figures": figures(store, ended)}
    return event


def figures(store: Store, run: Run) -> dict[str, Any]:
    """Return a run's headline figures by name: what was done, and for a finished run what it came to."""
    found: dict[str, Any] = {"epochs" if run.trains else "images": run.done, "failed": run.failed}
    if run.trains:
        steps = store.steps([run.id])
        finished = steps[steps["status"] == "finished"]
        kept = finished[finished["accepted"].fillna(False).astype(bool)]
        for name, rows in (("first", finished.head(1)), ("smallest_accepted", kept.nsmallest(1, "parameters"))):
            for step in plain_rows(rows[["name", "parameters", "test_accuracy", "test_macro_recall"]]):
                found[name] = step
        return found
    rules = store.optimal_k(run.id)
    chosen = plain_rows(rules[rules["rule"] == "plateau"])
    if chosen and chosen[0]["k"] is not None:
        found["k"] = int(chosen[0]["k"])
        sizes = store.storage(run.id)
        columns = ["ratio", "control_ratio", "svd_gain", "saved_percent"]
        for row in plain_rows(sizes.loc[sizes["k"] == found["k"], columns].head(1)):
            found |= row
        statistics = store.statistics(run.id)
        means = statistics[(statistics["variant"] == f"k={found['k']}") & statistics["metric"].isin(["psnr", "ssim"])]
        found |= {row["metric"]: row["mean"] for row in plain_rows(means[["metric", "mean"]])}
    return found


# -- delivering: a thread of the record worker -------------------------------------------------------------------------


def start_delivering(settings: Settings) -> threading.Thread | None:
    """Start the thread that delivers events; None if WEBHOOK_URL is missing or invalid. It ends with the process."""
    try:
        check(settings)
    except SpecError as error:
        log.error("no webhook is sent: %s", error)
        return None
    if settings.webhook_url is None:
        return None
    thread = threading.Thread(target=_deliver_forever, args=(settings,), daemon=True, name="webhooks")
    thread.start()
    return thread


def _deliver_forever(settings: Settings) -> None:
    connection = connect(settings, patient=True)
    connection.setnx(SINCE, time.time())
    while True:
        try:
            delivered = deliver_due(settings, connection)
        except redis.RedisError as error:
            log.warning("webhooks wait: %s", error)
            delivered = 0
        if not delivered:
            time.sleep(LOOK)


def deliver_due(settings: Settings, connection: Connection, now: float | None = None) -> int:
    """Try every event that is due once, oldest first; return how many there were. now: seconds since 1970."""
    due = connection.zrangebyscore(DUE, "-inf", time.time() if now is None else now)
    for key in due:
        text = connection.hget(EVENTS, key)
        if text is None:
            connection.zrem(DUE, key)
            continue
        waiting = json.loads(text)
        problem = post(settings, key.decode(), waiting["event"])
        if problem is None:
            log.info("webhook: %s delivered", key.decode())
            _forget(connection, key)
        else:
            _try_later(connection, key, waiting, problem, now)
    return len(due)


def _forget(connection: Connection, key: bytes) -> None:
    connection.pipeline().zrem(DUE, key).hdel(EVENTS, key).execute()


def _try_later(connection: Connection, key: bytes, waiting: dict[str, Any], problem: str, now: float | None) -> None:
    tries = int(waiting["tries"]) + 1
    tried = json.dumps({**waiting, "tries": tries, "problem": problem})
    if tries >= MOST_TRIES:
        log.error("webhook: %s given up after %d tries: %s", key.decode(), tries, problem)
        pipe = connection.pipeline().rpush(GIVEN_UP, tried).ltrim(GIVEN_UP, -MOST_GIVEN_UP, -1)
        pipe.zrem(DUE, key).hdel(EVENTS, key).execute()
        return
    pause = min(LONGEST_PAUSE, FIRST_PAUSE * 2 ** (tries - 1))
    log.warning("webhook: %s not taken (%s); tried again in %.0f s", key.decode(), problem, pause)
    due = (time.time() if now is None else now) + pause
    connection.pipeline().hset(EVENTS, key, tried).zadd(DUE, {key: due}).execute()


def post(settings: Settings, delivery: str, event: dict[str, Any]) -> str | None:
    """Send one event; return None when a status of 200 to 299 came back, else what came. Redirects are not followed."""
    import httpx

    body = json.dumps({**event, "sent_at": datetime.now(UTC).isoformat()}).encode()
    headers = {
        "Content-Type": "application/json",
        "User-Agent": "DermSlim",
        "X-DermSlim-Delivery": hashlib.sha256(delivery.encode()).hexdigest()[:32],  # equal when sent again
    }
    if settings.webhook_secret:
        headers[SIGNATURE] = signature(settings.webhook_secret, body)
    loop = asyncio.new_event_loop()
    try:
        status = loop.run_until_complete(asyncio.wait_for(_status(str(settings.webhook_url), body, headers), LONGEST))
    except TimeoutError:
        return f"no answer within {LONGEST:g} s"
    except (httpx.HTTPError, httpx.InvalidURL, OSError) as error:
        return f"{type(error).__name__}: {error}".replace(str(settings.webhook_url), "the address")
    finally:
        loop.close()  # and waits for no look-up of a name, which has no time limit
    if 300 <= status < 400:
        return f"status {status}: redirects are not followed"
    return None if 200 <= status < 300 else f"status {status}"


async def _status(url: str, body: bytes, headers: dict[str, str]) -> int:
    """Send a body and return the status of the answer; the rest of the answer is not read.

    Whoever cancels this closes the connection: the time limits of a socket start again with each byte that comes.
    """
    import httpx

    opened: list[socket.socket] = []

    async def note_socket(event: str, found: dict[str, Any]) -> None:
        if event == "connection.connect_tcp.complete":
            opened.append(found["return_value"].get_extra_info("socket"))

    limits = httpx.Timeout(TO_ANSWER, connect=TO_CONNECT)
    # No proxy and no .netrc of the environment; the system's certificates.
    client = httpx.AsyncClient(verify=ssl.create_default_context(), trust_env=False, timeout=limits)
    request = client.build_request("POST", url, content=body, headers=headers, extensions={"trace": note_socket})
    try:
        async with client, contextlib.aclosing(await client.send(request, stream=True)) as answer:
            return answer.status_code
    except asyncio.CancelledError:
        for each in opened:  # within a handshake the library leaves it open
            with contextlib.suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
        raise


def signature(secret: str, body: bytes) -> str:
    """Return the header's value: `sha256=` and the HMAC-SHA256 of the body under WEBHOOK_SECRET, hexadecimal."""
    return "sha256=" + hmac.new(secret.encode(), body, hashlib.sha256).hexdigest()


def undelivered(connection: Connection) -> tuple[int, int]:
    """Return how many events wait for the address, and how many were given up."""
    return int(connection.hlen(EVENTS)), int(connection.llen(GIVEN_UP))
