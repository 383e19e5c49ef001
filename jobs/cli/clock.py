"""Times of day, as `--start-after` takes them: the next moment at which a clock on the wall shows one."""

from __future__ import annotations

import time as clock
from datetime import UTC, datetime, time, timedelta, tzinfo

from core.errors import SpecError

LONGEST_NAP = 60.0  # seconds: a machine that slept, or whose clock was set, is noticed within them


def parse_time(text: str) -> time:
    """Return the time of day that `22:30` names. SpecError."""
    try:
        return datetime.strptime(text, "%H:%M").time()  # noqa: DTZ007 - a time of day; its zone is the reader's
    except ValueError:
        raise SpecError(f"Expected a time of day such as 22:30, got {text}.") from None


def next_moment(at: time, now: datetime, zone: tzinfo | None = None) -> datetime:
    """Return the next moment, after `now`, at which a clock in the zone shows `at`; None means this machine's.

    The hour is counted on the wall, not in hours from now, so that a night in which the clock is changed makes no
    difference. Where the clock shows the time twice, the first is meant, or the second once the first is over; where it
    leaps over the time, the moment of the leap.
    """
    today = now.astimezone(zone).date()
    for days in range(3):  # a leap may move today's moment, so that only tomorrow's is ahead
        wall = datetime.combine(today + timedelta(days=days), at)
        for fold in (0, 1):
            moment = _on_the_wall(wall.replace(fold=fold), zone)
            if moment.timestamp() > now.timestamp():  # of one zone, Python compares what clocks show
                return moment
    raise SpecError(f"Expected a time of day that the clock shows, got {at:%H:%M}.")


def _on_the_wall(wall: datetime, zone: tzinfo | None) -> datetime:
    """Return the moment of a wall time: where the clock leaps over it, the moment of the leap."""

    def moment(fold: int) -> datetime:
        return wall.replace(fold=fold, tzinfo=zone).astimezone(UTC).astimezone(zone)

    found = moment(wall.fold)
    if found.replace(tzinfo=None, fold=0) == wall.replace(fold=0):
        return found
    # No clock shows it. By the offset after the leap it is a moment before the leap; by the one before, a moment after.
    early, late = sorted((moment(0), moment(1)), key=datetime.timestamp)
    low, high = int(early.timestamp()), int(late.timestamp())
    offset = early.utcoffset()
    while high - low > 1:  # the leap is between the two readings
        middle = (low + high) // 2
        before = datetime.fromtimestamp(middle, UTC).astimezone(zone).utcoffset() == offset
        low, high = (middle, high) if before else (low, middle)
    return datetime.fromtimestamp(high, UTC).astimezone(zone)


def wait_until(moment: datetime) -> None:
    """Return once a moment has come, whatever happens to the clock meanwhile."""
    while (left := (moment - datetime.now(UTC)).total_seconds()) > 0:
        clock.sleep(min(left, LONGEST_NAP))
