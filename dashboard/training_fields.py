"""Fields that the form of training runs and that of the whole study share; each form's keys begin with its prefix."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import streamlit as st

from core.architectures import NETWORKS, NetworkSpec
from core.network_files import Networks
from core.protocol import PRESETS
from core.pruning import FACTORS, SCOPE_LABELS, SCOPES
from core.schedule import ON_REJECT, Baseline, Rules
from core.splits import SPLITS, Targets
from dashboard import training_numbers
from dashboard.forms import KEPT, set_draft

PRESET_NAMES = {"article": "Article", "laptop": "Laptop", "quick": "Quick"}
DEVICE_NAMES = {"auto": "GPU, else processor", "cpu": "processor", "gpu": "GPU only"}
SET_NAMES = {"train": "Training", "validation": "Validation", "test": "Test"}
REJECT_NAMES = {"stop at accepted": "back to the last accepted", "continue": "shrink the rejected one on"}
LIMITS = {
    "train_accuracy": "Training accuracy, %",
    "train_precision": "Training precision, %",
    "validation_accuracy": "Validation accuracy, %",
    "validation_precision": "Validation precision, %",
    "test_tolerance": "Test figures: points under the unpruned network's",
}


def field_key(prefix: str, name: str) -> str:
    """Return a field's key in the session."""
    return f"{prefix}_{name}"


def whole_number(prefix: str, label: str, name: str, least: int, **arguments: Any) -> int:
    """Return a whole number of at least `least`."""
    key = field_key(prefix, name)
    return int(st.number_input(label, min_value=least, step=1, key=key, persist_state=KEPT, **arguments))


def preset_field(prefix: str, draft: Callable[[str], dict[str, Any]], note: str) -> None:
    """Offer protocols to start from; draft: what the fields hold of one; note: ends the help."""
    key = field_key(prefix, "preset")

    def apply() -> None:
        chosen = st.session_state[key]
        if chosen is not None:
            set_draft(prefix, draft(chosen))

    texts = [
        f"{PRESET_NAMES[name]}: {each.epochs} epochs at {each.height}×{each.width}" for name, each in PRESETS.items()
    ]
    st.segmented_control(
        "Preset", list(PRESETS), key=key, on_change=apply,
        format_func=PRESET_NAMES.__getitem__, help=f"{'. '.join(texts)}. {note}",
    )  # fmt: skip


def network_field(prefix: str, found: Networks) -> list[NetworkSpec]:
    """Return the networks that are chosen."""
    key = field_key(prefix, "networks")
    st.session_state[key] = [name for name in st.session_state[key] if name in found.networks]
    own = [name for name in found.networks if name not in NETWORKS]
    names = st.multiselect(
        "Networks", list(found.networks), key=key, persist_state=KEPT,
        help="The article's four" + (f" and yours: {', '.join(own)}." if own else ", and your own, see Networks."),
    )  # fmt: skip
    return [found.networks[name] for name in names]


def set_fields(prefix: str) -> tuple[Targets, int]:
    """Return how many images the sets are to have, all classes together, and the split's seed."""
    with st.grid(4, min_column_width=130):
        images = [
            whole_number(prefix, f"{SET_NAMES[split]} images", f"target_{split}", 1, help="All classes together.")
            for split in SPLITS
        ]
        seed = whole_number(prefix, "Split seed", "split_seed", 0)
    return Targets(*images), seed


def rules_fields(prefix: str) -> Rules:
    """Return the rules of Algorithm 2. Raises SpecError."""
    key = partial(field_key, prefix)
    with st.grid(3, min_column_width=200):
        typed = st.text_input(
            "Pruning factors, %", key=key("factors"), persist_state=KEPT,
            help=f"In the order tried; the article's: {', '.join(f'{factor:g}' for factor in FACTORS)}.",
        )  # fmt: skip
        scope = st.selectbox(
            "What shrinks", list(SCOPES), key=key("scope"), format_func=SCOPE_LABELS.__getitem__, persist_state=KEPT,
            help="And the first two dense layers.",
        )  # fmt: skip
        failures = whole_number(prefix, "Ends after failures in a row", "max_failures", 1)
        limit = st.number_input(
            "Pruned networks at most", min_value=1, step=1, key=key("max_iterations"), persist_state=KEPT,
            placeholder="no limit",
        )  # fmt: skip
        on_reject = st.selectbox(
            "After a rejection", list(ON_REJECT), key=key("on_reject"), format_func=REJECT_NAMES.__getitem__,
            persist_state=KEPT,
        )  # fmt: skip
    st.caption(ON_REJECT[on_reject])
    return Rules(
        training_numbers.parse_factors(typed or ""), scope, failures, None if limit is None else int(limit), on_reject
    )


def baseline_fields(prefix: str) -> Baseline | None:
    """Return thresholds of the user's own, or None for the article's."""
    key = partial(field_key, prefix)
    own = st.toggle("Thresholds of my own", key=key("own_baseline"), persist_state=KEPT)
    if not own:
        st.caption(
            "The article's: training accuracy and precision 90 %, validation accuracy and precision 80 % (lenet5: "
            "75 %), test accuracy, precision and recall at most 2 points under the unpruned network's."
        )
    with st.grid(5, min_column_width=150):
        values = {
            name: float(
                st.number_input(label, 0.0, 100.0, step=0.5, key=key(name), disabled=not own, persist_state=KEPT)
            )
            for name, label in LIMITS.items()
        }
    return Baseline(**values) if own else None
