"""Dense layers of low rank: the kept weights of an ended run's step, factored, tested, and fine-tuned by choice."""

from __future__ import annotations

from collections.abc import Sequence

from core.errors import SpecError
from core.networks.factoring import ENERGIES
from core.training.evaluation import right_answers
from jobs.later_jobs import SVD_DENSE
from jobs.predictions import steps_to_predict, submit_with_weights
from jobs.queues import Queues


def submit(
    queues: Queues,
    run_id: str,
    step: int = 0,
    energies: Sequence[float] = ENERGIES,
    fine_tune_epochs: int = 0,
    latency: bool = False,
) -> str:
    """Queue the job that replaces the dense layers of a step's network; return its id.

    energies: percent of the squared singular values that the layers keep. fine_tune_epochs, latency: see
    `core.training.svd_dense.Wanted`. SpecError for an energy that is not above 0 and at most 100, for negative epochs,
    for an unknown step, and for a run whose weights cannot be used.
    """
    if fine_tune_epochs < 0:
        raise SpecError(f"Expected at least 0 epochs of fine-tuning, got {fine_tune_epochs}.")
    if wrong := [energy for energy in energies if not 0 < energy <= 100]:
        raise SpecError(f"Expected energies above 0 and at most 100 percent, got {wrong[0]:g}.")
    run, steps = steps_to_predict(queues, run_id)
    chosen = [each for each in steps if each.step == step]
    if not chosen:
        numbers = ", ".join(str(each.step) for each in steps)
        raise SpecError(f"Expected a trained step of {run_id} ({numbers}), got {step}.")
    rows = queues.store.predictions([run_id], step=0, split="test")
    unpruned = right_answers({str(name): list(rows[name]) for name in rows})
    return submit_with_weights(
        queues, SVD_DENSE, run, chosen, energies=list(energies), unpruned=unpruned, fine_tune_epochs=fine_tune_epochs,
        latency=latency,
    )  # fmt: skip
