"""What is known of a run under way, in a real Valkey."""

from __future__ import annotations

from redis import Redis

from jobs.live import LiveRun, active_runs

KEPT_KEY = "dermslim:run:sweep:log"


def test_the_end_of_an_attempt_leaves_a_retry_that_has_begun_meanwhile_alone(valkey_url: str) -> None:
    """The record worker has read the old attempt's end from the store just before the user retries."""
    with Redis.from_url(valkey_url) as connection:
        live = LiveRun(connection, "sweep")
        live.create({"attempt": 1})
        live.create({"attempt": 2})
        live.log("retried")
        live.end(None, attempt=1)
        assert active_runs(connection) == ["sweep"]
        assert connection.ttl(KEPT_KEY) == -1, "the retry's log does not fade"
        live.end(None, attempt=2)
        assert active_runs(connection) == []
        assert connection.ttl(KEPT_KEY) > 0
