"""The time of day of `--start-after`, and the next moment at which a clock shows it."""

from __future__ import annotations

import time as clock
from datetime import UTC, datetime, time, timedelta, tzinfo

from core.errors import SpecError

LONGEST_PAUSE = 60.0  # seconds after which the clock is read again: the machine may have slept, or its clock been set


def parse_time(text: str) -> time:
    """Return the time of day that `22:30` names. SpecError."""
    try:
        return datetime.strptime(text, "%H:%M").time()  # noqa: DTZ007 - a time of day; its zone is the reader's
    except ValueError:
        raise SpecError(f"Expected a time of day such as 22:30, got {text}.") from None


def next_moment(at: time, now: datetime, zone: tzinfo | None = None) -> datetime:
    """Return the next moment, after `now`, at which a clock in the zone shows `at`; None means this machine's.

    A change of the clock in between, such as to summer time, makes no difference. If the clock shows the time twice,
    this is the first moment, or the second once the first is over. If the clock skips the time, this is the moment of
    the skip.
    """
    today = now.astimezone(zone).date()
    for days in range(3):  # today's moment may be over, and a skip may move tomorrow's
        wall = datetime.combine(today + timedelta(days=days), at)
        for fold in (0, 1):
            moment = _of_wall_time(wall.replace(fold=fold), zone)
            if moment.timestamp() > now.timestamp():  # within one zone, Python compares wall times
                return moment
    raise SpecError(f"Expected a time of day that the clock shows, got {at:%H:%M}.")


def _of_wall_time(wall: datetime, zone: tzinfo | None) -> datetime:
    """Return the moment of a wall time; if the clock skips it, the moment of the skip."""

    def moment(fold: int) -> datetime:
        return wall.replace(fold=fold, tzinfo=zone).astimezone(UTC).astimezone(zone)

    found = moment(wall.fold)
    if found.replace(tzinfo=None, fold=0) == wall.replace(fold=0):
        return found
    # No clock shows it. By the offset after the skip it is a moment before the skip; by the one before, a moment after.
    early, late = sorted((moment(0), moment(1)), key=datetime.timestamp)
    low, high = int(early.timestamp()), int(late.timestamp())
    offset = early.utcoffset()
    while high - low > 1:  # the skip is between the two readings
        middle = (low + high) // 2
        before = datetime.fromtimestamp(middle, UTC).astimezone(zone).utcoffset() == offset
        low, high = (middle, high) if before else (low, middle)
    return datetime.fromtimestamp(high, UTC).astimezone(zone)


def wait_until(moment: datetime) -> None:
    """Return once a moment has come, also if the clock is set meanwhile."""
    while (left := (moment - datetime.now(UTC)).total_seconds()) > 0:
        clock.sleep(min(left, LONGEST_PAUSE))
