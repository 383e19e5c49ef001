"""The state of a running run in Redis: counts, pace, tries and requests to cancel.

The store contains everything that has been recorded. Redis contains what has not been recorded yet, and forgets it one
day after the run has ended.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Literal

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, model_validator
from redis.client import Pipeline

from core.errors import TakenOver
from core.training.specs import TRAINING_SPECS
from jobs.connection import NORMAL, Connection

PREFIX = "dermslim"
RUNS = f"{PREFIX}:runs"  # sorted set of runs that have not ended, by time of submission
PACE = 200  # images that the pace is taken over
LOG_LINES = 1000
KEPT = 24 * 3600  # seconds that an ended run's keys stay
MAX_TRIES = 3  # times that an image may end its process before it is given up
NEWEST = "newest"  # among a run's claims, the largest number that any of its parts was claimed with

Value = str | int | float
Command = tuple[Value, ...]  # a Redis command, word by word

# Numbers grow over all parts of a run. They follow the milliseconds of the server's clock, so that a server that has
# lost the last ones, or was restored from a backup, gives none again; where the clock goes back, they go on by one.
CLAIM = """
local attempt = redis.call('HGET', KEYS[1], 'attempt')
if not attempt or tonumber(attempt) > tonumber(ARGV[1]) then return 0 end
local time = redis.call('TIME')
local newest = tonumber(redis.call('HGET', KEYS[2], ARGV[3]) or 0)
local number = math.max(newest + 1, time[1] * 1000 + math.floor(time[2] / 1000))
local text = string.format('%.0f', number)
redis.call('HSET', KEYS[2], ARGV[2], text, ARGV[3], text)
return number
"""
# Commands follow, each with the number of its words before it.
WRITE = """
local attempt, ended = unpack(redis.call('HMGET', KEYS[1], 'attempt', 'ended'))
if not attempt or tonumber(attempt) > tonumber(ARGV[1]) then return 0 end
if ended and ARGV[4] == '0' then return 0 end
if tonumber(redis.call('HGET', KEYS[2], ARGV[2]) or 0) > tonumber(ARGV[3]) then return 0 end
local at = 5
while at <= #ARGV do
  local words = tonumber(ARGV[at])
  redis.call(unpack(ARGV, at + 1, at + words))
  at = at + words + 1
end
return 1
"""

TAKEN_OVER = "Expected this worker to have the job, got another worker's claim, or a run that has ended."
SUSPENDED = "suspended"  # the status of what goes on only when a user resumes it
SCHEDULED = "scheduled"  # the status of what starts by itself at a later time
ENDED: Mapping[str, Value] = {"doing": "", "ended": 1}  # what is noted when no step follows


def spec_key(spec_hash: str) -> str:
    """Return the key that holds the run which is measuring this spec now."""
    return f"{PREFIX}:spec:{spec_hash}"


def active_runs(connection: Connection) -> list[str]:
    """Return the runs that have not ended, in order of submission."""
    return [run_id.decode() for run_id in connection.zrange(RUNS, 0, -1)]


class Facts(BaseModel):
    """What is known of something under way, a field per field of its Redis hash. Unknown values are empty there.

    suspended: why nothing is begun, None where nothing is in the way: a user's request, or the moment it waits for.
    """

    model_config = ConfigDict(frozen=True, extra="ignore", validate_by_name=True, validate_by_alias=True)
    priority: str = NORMAL
    suspended: AwareDatetime | Literal["suspended", "cancelled"] | None = Field(
        default=None, validation_alias="hold", serialization_alias="hold"
    )

    @model_validator(mode="before")
    @classmethod
    def _from_redis(cls, values: Mapping[Any, Any]) -> dict[str, Any]:
        found = {_text(name): _text(value) for name, value in values.items()}
        known = {name: value for name, value in found.items() if value != ""}
        if known.get("hold") == "paused":  # as an older version wrote it
            known["hold"] = SUSPENDED
        return known

    def to_redis(self) -> dict[str, Value]:
        """Return the hash, without the defaults; `model_validate` takes it back."""
        found = self.model_dump(mode="json", by_alias=True, exclude_defaults=True)
        return {name: int(value) if isinstance(value, bool) else value for name, value in found.items()}

    @property
    def starts_at(self) -> datetime | None:
        """The moment before which nothing is begun."""
        return self.suspended if isinstance(self.suspended, datetime) else None

    @property
    def is_due(self) -> bool:
        """Whether the moment that was waited for has come."""
        return self.starts_at is not None and datetime.now(UTC) >= self.starts_at

    @property
    def waiting_status(self) -> str | None:
        """Why nothing is begun as a status: 'suspended', 'scheduled', 'cancelled'; None where nothing is in the way."""
        return self.suspended if isinstance(self.suspended, str) else SCHEDULED if self.suspended else None


def _text(value: Any) -> Any:
    return value.decode() if isinstance(value, bytes) else value


class RunFacts(Facts):
    """What is known of a run under way.

    submitting: since when its jobs are being enqueued, in Unix time; None once they are. timeout: seconds that a job
    may take. root, output: the folders that its images are read from and written to, as the dashboard's host has them.
    step to doing: where a training is; epochs_done: in all steps. ended: no step of this attempt follows.
    """

    attempt: int
    kind: str = ""
    dataset: str = ""
    fingerprint: str = ""
    spec: str = "{}"
    total: int = 0
    submitted_at: AwareDatetime | None = None
    submitted_by: str | None = None
    started_at: AwareDatetime | None = None
    synthetic: bool = False
    study: str | None = None
    submitting: float | None = None
    timeout: int | None = None
    root: str | None = None
    output: str | None = None
    step: int | None = None
    step_name: str | None = None
    epoch: int = 0
    epochs_done: int = 0
    epoch_seconds: float | None = None
    doing: str | None = None
    ended: bool = False

    @property
    def trains(self) -> bool:
        """Whether the run trains networks: its jobs are steps then, one after the other."""
        return self.kind in TRAINING_SPECS


class LiveRun:
    """One run's keys."""

    def __init__(self, connection: Connection, run_id: str) -> None:
        self.connection = connection
        self.run_id = run_id
        self.key = f"{PREFIX}:run:{run_id}"

    def _keys(self) -> tuple[str, ...]:
        parts = ("done", "failed", "tries", "cancelled", "jobs", "pace", "log", "states", "refused", "claims")
        return (self.key, *(f"{self.key}:{part}" for part in parts))

    def create(self, facts: RunFacts, jobs: Mapping[int, str] | None = None, done: Iterable[str] = ()) -> None:
        """Begin an attempt. jobs: what each does, as JSON, by number. done: images that earlier attempts measured."""
        done = list(done)
        pipe = self.connection.pipeline()
        pipe.delete(*(key for key in self._keys() if not key.endswith((":log", ":claims"))))
        pipe.hset(self.key, mapping=facts.to_redis())
        if jobs:
            pipe.hset(f"{self.key}:states", mapping=dict(jobs))
        if done:
            pipe.sadd(f"{self.key}:done", *done)
        pipe.zadd(RUNS, {self.run_id: time.time()})
        for key in self._keys():
            pipe.persist(key)
        pipe.execute()

    def facts(self) -> RunFacts | None:
        """Return what is known of the run, or None where nothing is."""
        found = self.connection.hgetall(self.key)
        return RunFacts.model_validate(found) if b"attempt" in found else None

    def note(self, **facts: Value) -> None:
        """Change some of the facts, by the names that they have in Redis."""
        self.connection.execute_command(*self.note_command(**facts))

    def note_command(self, **facts: Value) -> Command:
        """Return the command of `note`."""
        return ("HSET", self.key, *(word for fact in facts.items() for word in fact))

    def suspended(self) -> bool:
        """Return whether the run is suspended, scheduled or cancelled."""
        return bool(self.connection.hget(self.key, "hold"))

    def submitted(self) -> None:
        """Note that every job of the attempt has been enqueued."""
        self.connection.hdel(self.key, "submitting")

    def begin(self) -> bool:
        """Note that a worker has begun; True for the first."""
        return bool(self.connection.hsetnx(self.key, "started_at", datetime.now(UTC).isoformat()))

    def stopped(self, attempt: int, claim: Claim | None = None) -> bool:
        """Return whether the user cancelled this attempt, or a newer attempt exists.

        claim: that of the worker that asks; TakenOver where there is a newer one.
        """
        pipe = self.connection.pipeline().get(f"{self.key}:cancelled").hget(self.key, "attempt")
        cancelled, current, newest = pipe.hget(f"{self.key}:claims", claim.part if claim else NEWEST).execute()
        if claim is not None and int(newest or 0) > claim.number:
            raise TakenOver(TAKEN_OVER)
        return (cancelled is not None and int(cancelled) >= attempt) or current is None or int(current) > attempt

    def claim(self, part: str, attempt: int, *, later: bool = False) -> Claim | None:
        """Claim a part of the run, a step or a chunk of images; None if the attempt is over.

        A worker claims a part as it starts it: from then on, earlier claims to the part cannot write.
        """
        script = self.connection.register_script(CLAIM)
        number = int(script(keys=[self.key, f"{self.key}:claims"], args=[attempt, part, NEWEST]))
        return Claim(self, part, attempt, number, later) if number else None

    def cancel(self, attempt: int, *commands: Command) -> None:
        """Ask every worker to stop after its current image. commands: of Redis, run in the same transaction."""
        pipe = self.connection.pipeline()
        for command in (("SET", f"{self.key}:cancelled", attempt), *commands):
            pipe.execute_command(*command)
        pipe.execute()

    def try_part(self, part: str) -> int:
        """Note that an image or an epoch is begun; return how often it was, without having ended."""
        return int(self.connection.hincrby(f"{self.key}:tries", part, 1))

    def refuse(self, worker: str) -> bool:
        """Note that a worker's host cannot reach the run's files; True for the first time."""
        return bool(self.connection.sadd(f"{self.key}:refused", worker))

    def refused(self) -> set[str]:
        """Return the workers that `refuse` noted in this attempt."""
        return {worker.decode() for worker in self.connection.smembers(f"{self.key}:refused")}

    def progress(self) -> tuple[int, int, float | None]:
        """Return images done, images failed, and images a second over the last ones, None before two have ended."""
        pipe = self.connection.pipeline()
        pipe.scard(f"{self.key}:done").scard(f"{self.key}:failed").lrange(f"{self.key}:pace", 0, -1)
        done, failed, pace = pipe.execute()
        times = sorted(float(each) for each in pace)
        elapsed = time.time() - times[0] if len(times) > 1 else 0.0
        return int(done), int(failed), (len(times) - 1) / elapsed if elapsed > 0 else None

    # -- jobs --------------------------------------------------------------------------------------------------

    def job_command(self, number: int, text: str) -> Command:
        """Return the command that keeps what a job does, as JSON."""
        return ("HSET", f"{self.key}:states", number, text)

    def job_done_command(self, number: int) -> Command:
        """Return the command that notes that a chunk of images has been measured."""
        return ("HDEL", f"{self.key}:states", number)

    def job(self, number: int) -> str | None:
        """Return what a job does, or None where it is done, or gone."""
        found = self.connection.hget(f"{self.key}:states", str(number))
        return None if found is None else str(found.decode())

    def jobs_left(self) -> list[int]:
        """Return the numbers of the jobs that are left to begin: chunks of images, or a training's newest step."""
        pipe = self.connection.pipeline().hkeys(f"{self.key}:states").hmget(self.key, "kind", "ended")
        numbers, (kind, ended) = pipe.execute()
        left = sorted(int(number) for number in numbers)
        if kind is not None and kind.decode() in TRAINING_SPECS:
            return [] if ended else left[-1:]
        return left

    def end_training(self) -> None:
        """Note that no step of this attempt follows: whoever is at one may write nothing more."""
        self.note(**ENDED)

    def end_epoch_command(self, step: int, epoch: int) -> Command:
        """Return the command that notes the end of an epoch; its tries are forgotten."""
        return ("HDEL", f"{self.key}:tries", f"step {step} epoch {epoch}")

    def forget_tries(self) -> None:
        """Forget how often an epoch was begun: a process that stops on request has not died."""
        self.connection.delete(f"{self.key}:tries")

    # -- log ---------------------------------------------------------------------------------------------------

    def log(self, line: str) -> None:
        """Add a line, with the time, to the run's log, and to this process's."""
        logging.getLogger(__name__).info("%s", line, extra={"run_id": self.run_id})
        key, text = f"{self.key}:log", f"{datetime.now(UTC):%Y-%m-%d %H:%M:%S}Z {line}"
        self.connection.pipeline().rpush(key, text).ltrim(key, -LOG_LINES, -1).execute()

    def log_lines(self) -> list[str]:
        """Return the log, oldest line first."""
        return [line.decode() for line in self.connection.lrange(f"{self.key}:log", 0, -1)]

    def add_jobs(self, job_ids: Iterable[str]) -> None:
        """Remember the jobs that this attempt consists of."""
        self.connection.sadd(f"{self.key}:jobs", *job_ids)

    def job_ids(self) -> list[str]:
        """Return the jobs that this attempt consists of."""
        return sorted(job_id.decode() for job_id in self.connection.smembers(f"{self.key}:jobs"))

    def forget(self) -> None:
        """Delete everything that is known of the run."""
        self.connection.pipeline().zrem(RUNS, self.run_id).delete(*self._keys()).execute()

    def reopen(self, attempt: int) -> None:
        """Let a job claim a part of an ended run whose keys may have expired. `end` sets their expiry again."""
        self.connection.hsetnx(self.key, "attempt", attempt)

    def end(self, spec_hash: str | None, attempt: int) -> None:
        """Remove the run from the active ones; its keys expire later, so that the page can still show its log.

        Nothing changes if a newer attempt is running.
        """

        def expire(pipe: Pipeline) -> None:
            current = pipe.hget(self.key, "attempt")
            pipe.multi()
            if current is not None and int(current) > attempt:
                return
            pipe.zrem(RUNS, self.run_id)
            if spec_hash:
                pipe.delete(spec_key(spec_hash))
            for key in self._keys():
                pipe.expire(key, KEPT)

        self.connection.transaction(expire, self.key)  # repeated if a retry changed the key meanwhile


@dataclass(frozen=True)
class Claim:
    """A worker's claim to a part of a run. Of several claims to one part, only that with the largest number may write.

    A worker that counted as dead and comes back so writes nothing. later: of a job that adds to an ended run; other
    claims write nothing after the end.
    """

    live: LiveRun
    part: str
    attempt: int
    number: int
    later: bool = False

    def write(self, *commands: Command) -> None:
        """Run these Redis commands in one transaction. TakenOver, without running any, if a newer claim exists."""
        live = self.live
        words = [word for command in commands for word in (len(command), *command)]
        script = live.connection.register_script(WRITE)
        if not script(
            keys=[live.key, f"{live.key}:claims"], args=[self.attempt, self.part, self.number, int(self.later), *words]
        ):
            raise TakenOver(TAKEN_OVER)

    def end_command(self) -> Command:
        """Return the command that gives the claim up, as its part ends: nothing is written by it afterwards."""
        return ("HSET", f"{self.live.key}:claims", self.part, self.number + 1)

    def check(self) -> None:
        """Raise TakenOver where a newer claim was taken."""
        self.write()

    def note(self, **facts: Value) -> None:
        """Change some of the facts, see `LiveRun.note`. TakenOver likewise."""
        self.write(self.live.note_command(**facts))

    def end_image(self, image_id: str, failed: bool) -> None:
        """Note that an image has ended. TakenOver likewise."""
        key = self.live.key
        self.write(
            ("HDEL", f"{key}:tries", image_id),
            ("SADD", f"{key}:{'failed' if failed else 'done'}", image_id),
            ("LPUSH", f"{key}:pace", time.time()),
            ("LTRIM", f"{key}:pace", 0, PACE - 1),
        )
