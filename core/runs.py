"""The spec of a run of any kind, read back from what the store and the queue keep of it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from core.compression import measure as sweeps
from core.compression.measure import Spec
from core.training.steps import TRAINING_SPECS, TrainSpec, training_spec_from_dict

RunSpec = Spec | TrainSpec


def spec_from_dict(values: Mapping[str, Any]) -> RunSpec:
    """Build the spec that its `to_dict` described; SpecError for unknown kinds, names and values."""
    kind = values.get("kind")
    return training_spec_from_dict(values) if kind in TRAINING_SPECS else sweeps.spec_from_dict(values)
