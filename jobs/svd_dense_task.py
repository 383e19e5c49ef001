"""What a `train` worker runs for an ended run: the kept weights of a step, with dense layers of low rank."""

from __future__ import annotations

from typing import Any

from rq import Retry

from core.training.results import StepResult
from core.training.svd_dense import factored_results
from jobs.hosts import worker_name
from jobs.messages import DenseFactored, wake
from jobs.predict_task import Kept, kept_networks
from jobs.run_jobs import ends_when_taken_over


@ends_when_taken_over
def factor_steps(
    run_id: str,
    attempt: int,
    spec: dict[str, Any],
    fingerprint: str,
    encoding: dict[str, Any] | None,
    steps: list[dict[str, Any]],
    energies: list[float],
    unpruned: dict[str, bool],
) -> Retry | None:
    """Replace the dense layers of each step's network, test it at each energy, and send the results.

    Arguments as of `jobs.predict_task.predict_steps`, and those of `core.training.svd_dense.factored_results`.
    """
    kept = kept_networks(run_id, attempt, spec, fingerprint, encoding, [step["step"] for step in steps])
    if not isinstance(kept, Kept):
        return kept
    claim, live, data, weights = kept.claim, kept.claim.live, kept.data, kept.weights
    for step in map(StepResult.from_dict, steps):
        for result in factored_results(kept.spec, step, data, weights[step.step], energies, unpruned):
            claim.write(DenseFactored(run_id=run_id, attempt=attempt, claim=claim.number, result=result).command())
            wake(live.connection)
            live.log(f"{worker_name()}: {step.name}: dense layers with {result.energy:g} % of the energy")
    live.end(None, attempt)
    return None
