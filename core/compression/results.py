"""The results of a finished run of measurements: statistics, sizes, and the k of each rule."""

from __future__ import annotations

import json
from dataclasses import dataclass

import pandas as pd

from core.compression.optimal_k import RuleParameters, choose_k
from core.compression.specs import MeasuringSpec, SweepSpec, variants
from core.compression.summary import storage, summarise


@dataclass(frozen=True)
class RunResults:
    """The frames of the store's tables `statistics`, `storage` and `optimal_k`, without the run's id."""

    statistics: pd.DataFrame
    storage: pd.DataFrame
    optimal_k: pd.DataFrame


def run_results(spec: MeasuringSpec, measurements: pd.DataFrame, total: int) -> RunResults:
    """Return the results of a run.

    measurements: rows with the columns `core.compression.image_results.MEASUREMENT_COLUMNS`. total: the images of the
    run; those without a row count as unmeasured. Variants come in the order of `spec`.
    """
    order = variants(spec)
    sizes = _ordered(storage(measurements), order)
    sizes["unmeasured"] = total - sizes["images"]
    rules = choose_k(measurements, RuleParameters(seed=spec.seed)) if isinstance(spec, SweepSpec) else ()
    return RunResults(
        statistics=_ordered(summarise(measurements), order),
        storage=sizes,
        optimal_k=pd.DataFrame([vars(rule) | {"parameters": json.dumps(rule.parameters)} for rule in rules]),
    )


def _ordered(frame: pd.DataFrame, order: tuple[str, ...]) -> pd.DataFrame:
    place = {variant: index for index, variant in enumerate(order)}
    return frame.sort_values("variant", key=lambda names: names.map(place), kind="stable").reset_index(drop=True)
