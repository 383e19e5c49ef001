"""Data of converted networks for the pages: cached reads, and the jobs that make them."""

from __future__ import annotations

import io

import pandas as pd

from core.errors import SpecError
from dashboard.data import Stamp, current, queues, store
from jobs import deployment


@current(20)
def conversions(at: Stamp, run_id: str) -> pd.DataFrame:
    """Return the conversions of a run's networks, see `core.deployment.formats.Conversion`."""
    return store().conversions([run_id])


@current(20)
def latencies(at: Stamp, run_id: str) -> pd.DataFrame:
    """Return the latencies of a run's networks, see `core.deployment.latency.Latency`."""
    return store().latencies([run_id])


def convert(run_id: str, steps: tuple[int, ...], formats: tuple[str, ...]) -> None:
    """Queue the job that converts networks of a run. SpecError where they cannot be converted."""
    if not steps or not formats:
        raise SpecError("Expected at least one step and one format, got none.")
    deployment.submit_conversion(queues(), run_id, steps, formats)


def measure(run_id: str) -> None:
    """Queue the job that measures the latency of a run's converted networks. SpecError without any."""
    deployment.submit_latency(queues(), run_id)


def bundle(run_id: str, step: int) -> bytes:
    """Return the bundle of a step. SpecError where no converted network is on this host."""
    file = io.BytesIO()
    deployment.bundle_of(queues(), run_id, step).write(file)
    return file.getvalue()


def why_no_bundle(run_id: str, step: int) -> str:
    """Return why there is no bundle of a step, a sentence; empty where there is one."""
    try:
        deployment.bundle_of(queues(), run_id, step).networks()
    except SpecError as error:
        return str(error)
    return ""
