"""Fields that the form of training runs and that of the whole study share; each form's keys begin with its prefix."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import streamlit as st

from core.data.splits import SPLITS, Targets
from core.networks.architectures import NETWORKS, NetworkSpec
from core.networks.network_files import Networks
from core.networks.pruning import FACTORS, SCOPE_LABELS, SCOPES
from core.training.specs import ON_REJECT, PRESETS, Baseline, Rules, TrainingProtocol
from dashboard import words
from dashboard.charts import training_numbers
from dashboard.forms.measuring import KEPT, set_draft

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
SHARES = ("learning_rate", "rotation", "zoom", "brightness")  # fields with a fraction, of a protocol


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
    yours = f" and yours: {words.escaped(', '.join(own))}." if own else ", and your own, see Networks."
    names = st.multiselect(
        "Networks", list(found.networks), key=key, persist_state=KEPT, help=f"The article's four{yours}",
    )  # fmt: skip
    return [found.networks[name] for name in names]


def protocol_draft(training: TrainingProtocol, size: str) -> dict[str, Any]:
    """Return the field values that give a protocol again, its seed aside. size: the field of rows and columns."""
    values = dict(training)
    values[size] = f"{values.pop('height')}×{values.pop('width')}"
    del values["seed"]
    return values | {name: float(values[name]) for name in SHARES}


def baseline_draft(baseline: Baseline, *, own: bool) -> dict[str, Any]:
    """Return the field values that give a baseline again. own: whether it is not just the article's."""
    return {"own_baseline": own, **{name: float(value) for name, value in baseline}}


def rules_draft(rules: Rules) -> dict[str, Any]:
    """Return the field values that give the rules of Algorithm 2 again."""
    return {**dict(rules), "factors": ", ".join(map(words.exact_text, rules.factors))}


def targets_draft(targets: Targets) -> dict[str, Any]:
    """Return the field values that give the sizes of the sets again."""
    return {f"target_{split}": getattr(targets, split) for split in SPLITS}


def fraction(prefix: str, label: str, name: str, most: float, step: float, **arguments: Any) -> float:
    """Return a number from 0 to `most`, shown with every digit: what is copied is seen as it is."""
    key = field_key(prefix, name)
    return float(st.number_input(label, 0.0, most, step=step, format="%g", key=key, persist_state=KEPT, **arguments))


def learning_rate_field(prefix: str) -> float:
    """Return the learning rate; zero is refused where the protocol is made."""
    return fraction(prefix, "Learning rate", "learning_rate", 1.0, 0.0005)


def augmentation_fields(prefix: str) -> dict[str, Any]:
    """Return how repeats are changed at random, and how a network is computed: the rest of a protocol's arguments."""
    key = partial(field_key, prefix)
    augmented = st.toggle(
        "Augment the repeats of small classes", key=key("augmentation"), persist_state=KEPT,
        help="Flips, rotation, zoom and brightness at random; validation and test images stay as they are.",
    )  # fmt: skip
    with st.grid(3, min_column_width=150):
        rotation = fraction(prefix, "Rotation up to, degrees", "rotation", 180.0, 5.0, disabled=not augmented)
        zoom = fraction(prefix, "Zoom up to, share", "zoom", 0.9, 0.05, disabled=not augmented)
        brightness = fraction(prefix, "Brightness up to, share", "brightness", 1.0, 0.05, disabled=not augmented)
    with st.container(horizontal=True):
        mixed = st.toggle(
            "Mixed precision",
            key=key("mixed_precision"),
            persist_state=KEPT,
            help="16-bit floats where safe; for GPUs.",
        )
        compiled = st.toggle("Compile with XLA", key=key("jit_compile"), persist_state=KEPT)
    return {
        "augmentation": augmented,
        "rotation": rotation,
        "zoom": zoom,
        "brightness": brightness,
        "mixed_precision": mixed,
        "jit_compile": compiled,
    }


def set_fields(prefix: str) -> tuple[Targets, int]:
    """Return how many images the sets are to have, all classes together, and the split's seed."""
    with st.grid(4, min_column_width=130):
        images = [
            whole_number(prefix, f"{SET_NAMES[split]} images", f"target_{split}", 1, help="All classes together.")
            for split in SPLITS
        ]
        seed = whole_number(prefix, "Split seed", "split_seed", 0)
    return Targets(**dict(zip(SPLITS, images, strict=True))), seed


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
        factors=training_numbers.parse_factors(typed or ""),
        scope=scope,
        max_failures=failures,
        max_iterations=None if limit is None else int(limit),
        on_reject=on_reject,
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
        values = {name: fraction(prefix, label, name, 100.0, 0.5, disabled=not own) for name, label in LIMITS.items()}
    return Baseline(**values) if own else None
