"""What a `train` worker runs for an ended run: the kept weights of a step, with dense layers of low rank."""

from __future__ import annotations

from typing import Any

from rq import Retry

from core.networks.factoring import factored_name
from core.training.results import StepResult
from core.training.svd_dense import Wanted, factored_results
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
    fine_tune_epochs: int = 0,
    latency: bool = False,
) -> Retry | None:
    """Replace the dense layers of each step's network, test it at each energy, and send the results.

    Arguments as of `jobs.predict_task.predict_steps`, and those of `core.training.svd_dense.factored_results`. A job
    that an older version queued has no fine_tune_epochs and no latency.
    """
    kept = kept_networks(run_id, attempt, spec, fingerprint, encoding, [step["step"] for step in steps])
    if not isinstance(kept, Kept):
        return kept
    claim, live, data, weights = kept.claim, kept.claim.live, kept.data, kept.weights
    wanted = Wanted(energies, fine_tune_epochs, latency)
    for step in map(StepResult.from_dict, steps):

        def tell(line: str, name: str = step.name) -> None:
            live.log(f"{name}, dense layers of low rank, {line}")

        found = factored_results(kept.spec, step, data, weights[step.step], wanted, unpruned, claim.check, tell)
        for result in found:
            claim.write(DenseFactored(run_id=run_id, attempt=attempt, claim=claim.number, result=result).command())
            wake(live.connection)
            speed = "" if result.latency is None else f", {result.latency:.2f} ms an image"
            tell(f"{factored_name(result.energy, result.fine_tune_epochs)}: {worker_name()} is done{speed}")
    live.end(None, attempt)
    return None
