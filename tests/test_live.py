"""The state of a run under way, in a real Valkey."""

from __future__ import annotations

import pytest
from redis import Redis

from core.errors import TakenOver
from jobs.live_runs import LiveRun, RunFacts, active_runs

KEPT_KEY = "dermslim:run:sweep:log"


def test_the_end_of_an_old_attempt_does_not_change_a_newer_retry(valkey_url: str) -> None:
    """The record worker has read the end of the old attempt from the store just before the user retries."""
    with Redis.from_url(valkey_url) as connection:
        live = LiveRun(connection, "sweep")
        live.create(RunFacts(attempt=1))
        live.create(RunFacts(attempt=2))
        live.log("retried")
        live.end(None, attempt=1)
        assert active_runs(connection) == ["sweep"]
        assert connection.ttl(KEPT_KEY) == -1, "the log of the retry does not expire"
        live.end(None, attempt=2)
        assert active_runs(connection) == []
        assert connection.ttl(KEPT_KEY) > 0


def test_only_the_newest_of_several_claims_on_a_step_may_write(valkey_url: str) -> None:
    with Redis.from_url(valkey_url) as connection:
        live = LiveRun(connection, "train-1")
        live.create(RunFacts(attempt=1))
        first, other = live.claim("step 0", 1), live.claim("step 1", 1)
        assert first is not None
        assert other is not None
        first.write(("RPUSH", "list", "a", 1), ("SET", "key", 2.5))
        second = live.claim("step 0", 1)
        assert second is not None
        assert second.number > other.number > first.number
        for refused in (
            lambda: first.write(("RPUSH", "list", "late"), ("SET", "key", "late")),
            lambda: first.note(epoch=9),
            lambda: first.end_image("mole", failed=True),
            lambda: live.stopped(1, first),
            first.check,
        ):
            with pytest.raises(TakenOver):
                refused()
        assert not live.stopped(1, second)
        second.note(epoch=3)
        other.check()
        assert live.facts() == RunFacts(attempt=1, epoch=3)
        assert live.progress()[:2] == (0, 0)
        assert (connection.lrange("list", 0, -1), connection.get("key")) == ([b"a", b"1"], b"2.5")


def test_an_attempt_that_has_ended_cannot_claim_and_loses_its_claims(valkey_url: str) -> None:
    with Redis.from_url(valkey_url) as connection:
        live = LiveRun(connection, "train-1")
        assert live.claim("step 0", 1) is None, "the run is unknown"
        live.create(RunFacts(attempt=1))
        first = live.claim("step 0", 1)
        assert first is not None
        live.create(RunFacts(attempt=2))
        assert live.claim("step 0", 1) is None
        with pytest.raises(TakenOver):
            first.check()
        second = live.claim("step 0", 2)
        assert second is not None
        assert second.number > first.number
        live.end_training()
        with pytest.raises(TakenOver):
            second.check()


def test_claim_numbers_grow_even_after_data_loss_or_a_clock_change(valkey_url: str) -> None:
    with Redis.from_url(valkey_url) as connection:
        live = LiveRun(connection, "train-1")
        live.create(RunFacts(attempt=1))
        numbers = [claim.number for _ in range(3) if (claim := live.claim("step 0", 1)) is not None]
        connection.delete(f"{live.key}:claims")
        while (again := live.claim("step 0", 1)) is not None and again.number <= numbers[-1]:
            connection.delete(f"{live.key}:claims")  # in the same millisecond
        assert again is not None
        ahead = again.number + 3_600_000
        connection.hset(f"{live.key}:claims", mapping={"step 0": ahead, "newest": ahead})
        later = live.claim("step 1", 1)
        assert later is not None
        assert later.number == ahead + 1
