"""The spec of a run of any kind, read back from what the store and the queue keep of it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from core.compression.specs import SPECS, MeasuringSpec
from core.specs import spec_of_kind
from core.training.specs import TRAINING_SPECS, TrainSpec

RunSpec = MeasuringSpec | TrainSpec
RUN_SPECS: dict[str, type[RunSpec]] = {**SPECS, **TRAINING_SPECS}


def spec_from_dict(values: Mapping[str, Any]) -> RunSpec:
    """Build the spec that its `to_dict` described; SpecError for unknown kinds, names and values."""
    return spec_of_kind(values, RUN_SPECS)
