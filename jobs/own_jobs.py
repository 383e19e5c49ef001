"""The jobs that workers run: only DermSlim's own functions, by name.

A job names the function to call. JSON keeps code out of its arguments; this module keeps those who can write to the
queue from calling any other function.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from rq.job import Job

FUNCTIONS = frozenset(
    {
        "jobs.measure_task.measure_chunk",
        "jobs.measure_task.check_images",
        "jobs.deploy_task.convert_steps",
        "jobs.deploy_task.measure_latencies",
        "jobs.diagnose_task.diagnose_chunk",
        "jobs.predict_task.predict_steps",
        "jobs.probe_task.probe_measuring",
        "jobs.probe_task.probe_training",
        "jobs.svd_dense_task.factor_steps",
        "jobs.train_task.train_step",
        "jobs.record_worker.write_waiting",
        "jobs.record_worker.reconcile",
        "jobs.upkeep.imports.import_job",
    }
)
# The functions' names before the modules were renamed: workers still run the jobs of a queue of that time.
FORMER_NAMES = {
    "jobs.tasks.measure_chunk": "jobs.measure_task.measure_chunk",
    "jobs.training_tasks.train_step": "jobs.train_task.train_step",
    "jobs.recorder.write_waiting": "jobs.record_worker.write_waiting",
    "jobs.recorder.reconcile": "jobs.record_worker.reconcile",
}


class OwnJob(Job):
    """RQ's job, of a function among FUNCTIONS and without callbacks."""

    @property
    def func_name(self) -> str | None:
        """The function's full name, as it is today."""
        name: str | None = super().func_name
        return name if name is None else FORMER_NAMES.get(name, name)

    @property
    def func(self) -> Callable[..., Any] | None:
        """The function to call. ValueError for one that is not DermSlim's."""
        if self.func_name not in FUNCTIONS:
            raise ValueError(f"Expected a job of {', '.join(sorted(FUNCTIONS))}, got {self.func_name}.")
        found: Callable[..., Any] | None = super().func
        return found

    @property
    def success_callback(self) -> None:
        """None: DermSlim has no callbacks, so others put in any callback that a job has."""

    @property
    def failure_callback(self) -> None:
        """None, likewise."""

    @property
    def stopped_callback(self) -> None:
        """None, likewise."""
