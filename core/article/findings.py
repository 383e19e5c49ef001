"""The input and output of the functions that judge claims: the existing measurements, and a finding."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import pandas as pd

from core.networks.fits import CurveFits


@dataclass(frozen=True, eq=False)
class Known:
    """The measurements; any part may be absent.

    storage, statistics: of one sweep, from `core.compression.summary`. optimal_k: rule, k, reason, stability.
    resize_statistics: `core.compression.summary.summarise` of a resize comparison. curves:
    `core.networks.fits.fit_curves`.
    pairs: unpruned networks trained on original and on reconstructed images, with the same settings. steps: trained
    steps of finished pruning runs; one run_id is one history of one network. Both: `core.store.trainings.STEP_COLUMNS`.
    predictions: reads those of a run's step on the test images, `core.predictions.rows`; empty where there are none.
    runs: the run ids behind 'sweep', 'resize' and 'curves'; trainings carry their own. synthetic: the sources ('sweep',
    'resize', 'pairs', 'steps') with synthetic images.
    """

    storage: pd.DataFrame | None = None
    statistics: pd.DataFrame | None = None
    optimal_k: pd.DataFrame | None = None
    resize_statistics: pd.DataFrame | None = None
    curves: tuple[CurveFits, ...] | None = None
    pairs: pd.DataFrame | None = None
    steps: pd.DataFrame | None = None
    runs: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    synthetic: frozenset[str] = frozenset()
    predictions: Callable[[str, int], pd.DataFrame] | None = None


@dataclass(frozen=True, slots=True)
class Finding:
    """The result of judging a claim. holds: None where figures are missing. runs: by default those of the source.

    chance: which of its differences can be told from chance, sentences; empty for a claim about no such difference.
    """

    holds: bool | None
    measured: str
    note: str = ""
    runs: tuple[str, ...] | None = None
    chance: str = ""


class NotMeasured(Exception):
    """A claim cannot be judged without these measurements."""

    def __init__(self, needed: str, note: str = "") -> None:
        super().__init__(needed)
        self.note = note
