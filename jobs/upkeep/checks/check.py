"""One result of the doctor: a fact with its status, and advice where something is wrong."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

OK, WARNING, ERROR = "ok", "warning", "error"
SHOWN = 5  # examples in a text


@dataclass(frozen=True)
class Check:
    """A result. status: ok, warning or error. advice: what to do, empty where all is well. area: set by `examine`."""

    name: str
    status: str
    expected: str
    found: str
    advice: str = ""
    area: str = ""


Checks = Iterator[Check]


def check(
    name: str, expected: str, found: str, problem: object = False, advice: str = "", severity: str = WARNING
) -> Check:
    """Return a result with this severity and advice where there is a problem, else with the status ok."""
    return Check(name, severity if problem else OK, expected, found, advice if problem else "")
