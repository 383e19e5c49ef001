"""The fields of the forms that start runs, drawn from the declarations of the specs (`core.specs`).

A form has one field for each setting: what is declared as a switch, a choice, a number or several numbers becomes a
toggle, a list, a number field or a text field, with the declared title, help, unit and bounds. What a form does not
place by itself is drawn last, so that a new setting of a spec needs no line here.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final, cast, get_args, get_origin

import streamlit as st

from core.compression.specs import MetricParameters
from core.data.images import CODECS
from core.data.splits import Targets
from core.errors import SpecError
from core.networks.architectures import NETWORKS, NetworkSpec
from core.networks.batch_norm import ALL, DENSE, PRINTED
from core.networks.inheritance import INITIALISE
from core.networks.network_files import Networks
from core.networks.pruning import SCOPE_LABELS
from core.specs import Setting, Spec, bare, bounds, settings_of
from core.training.specs import (
    ACCEPT,
    AUTO,
    BFLOAT16,
    CONSTANT,
    COSINE,
    FLOAT16,
    FLOAT32,
    ON_REJECT,
    PRESETS,
    Baseline,
    Rules,
    TrainingProtocol,
)
from dashboard import words
from dashboard.parts import components
from jobs.cli.clock import next_moment
from jobs.cli.options import read, typed
from jobs.connection import PRIORITIES

KEPT: Final = "session"  # a draft survives a look at another page
PRESET_NAMES = {"article": "Article", "laptop": "Laptop", "quick": "Quick"}
SET_NAMES = {"train": "Training", "validation": "Validation", "test": "Test"}
CHOICES: dict[str, Mapping[str, str]] = {
    "mode": words.MODES,
    "modes": words.MODES,
    "codecs": {name: words.codec_text(name) for name in CODECS},
    "image_split": SET_NAMES,
    "codec": {name: words.codec_text(name) for name in CODECS},
    "scope": SCOPE_LABELS,
    "on_reject": {"stop at accepted": "Back to the last accepted", "continue": "Shrink it further"},
    "accept": {"points": "Tolerance in points", "noninferior": "Not inferior (interval)"},
    "initialise": {"scratch": "Fresh", "l1": "Of largest L1 norm", "random": "Drawn at random"},
    "split": {"drawn": "Drawn, by lesion", "given": "As the data set gives them"},
    "device": {"auto": "GPU, else processor", "cpu": "Processor", "gpu": "GPU only"},
    "rule": words.RULES,
    "schedule": {CONSTANT: "Constant", COSINE: "Cosine"},
    "batch_norm": {PRINTED: "As printed", DENSE: "After dense layers", ALL: "After convolutions too"},
    "precision": {FLOAT32: "float32", BFLOAT16: "bfloat16", FLOAT16: "float16", AUTO: "Auto, the fastest"},
}


@dataclass(frozen=True)
class Fields:
    """The fields of one form. prefix: begins the key of each field in the session."""

    prefix: str

    def key(self, name: str) -> str:
        """Return a field's key in the session."""
        return f"{self.prefix}_{name}"

    def put(self, values: Mapping[str, Any]) -> None:
        """Put values into the fields, before they are drawn."""
        for name, value in values.items():
            st.session_state[self.key(name)] = value

    def begin(self, values: Mapping[str, Any]) -> None:
        """Put values into the fields that have none yet."""
        self.put({name: value for name, value in values.items() if self.key(name) not in st.session_state})

    def one(self, model: type[Spec], name: str, **arguments: Any) -> Any:
        """Draw one setting's field and return its value. arguments: of the widget. Raises SpecError for wrong text."""
        if name == "quality":
            return self._quality()
        setting, info = settings_of(model)[name], model.model_fields[name]
        if setting is None:
            raise TypeError(f"Expected a setting, got {name}, a group of settings.")
        kind, metadata = bare(info.annotation, info.metadata)
        unit = {"percent": "%"}.get(setting.unit, setting.unit)
        label = f"{setting.title}, {unit}" if unit and (kind in (int, float) or unit == "%") else setting.title
        common: dict[str, Any] = {"label": label, "key": self.key(name), "persist_state": KEPT}
        common |= {"help": setting.help or None} | arguments
        if setting.needs:
            common["disabled"] = not st.session_state[self.key(setting.needs)]
        if kind is bool:
            return st.toggle(**common)
        if setting.choices:
            texts = CHOICES[name]
            return st.selectbox(options=list(setting.choices), format_func=texts.__getitem__, **common)
        if get_origin(kind) is tuple and (item := choices_of(get_args(kind)[0])):
            return tuple(st.multiselect(options=item, format_func=CHOICES[name].__getitem__, **common))
        if kind in (int, float):
            limits = bounds(metadata)
            least, most = limits.get("ge", limits.get("gt", 0)), limits.get("le", limits.get("lt"))
            step = setting.step or 1
            form = {"format": "%g"} if kind is float else {}
            value = st.number_input(
                min_value=kind(least), max_value=None if most is None else kind(most), step=kind(step),
                **(common | form | ({"placeholder": setting.empty} if setting.empty else {})),
            )  # fmt: skip
            return None if value is None else kind(value)
        typing: dict[str, Any] = {"placeholder": setting.empty} | common
        text = str(st.text_input(**typing) or "").strip()
        if kind is str:
            return text
        return parsed(kind, text, setting.name or setting.title.lower(), typed(info.default)) if text else ()

    def grid(self, model: type[Spec], names: Iterable[str], *, width: int = 130) -> dict[str, Any]:
        """Draw the fields of several settings side by side and return their values by name."""
        names = tuple(names)
        with st.grid(min(len(names), 5), min_column_width=width):
            return {name: self.one(model, name) for name in names}

    def rest(self, model: type[Spec], without: Collection[str]) -> dict[str, Any]:
        """Draw the settings of a model that are not drawn yet, switches first; return their values by name."""
        own = [name for name, each in settings_of(model).items() if each is not None and name not in without]
        switches = [name for name in own if bare(model.model_fields[name].annotation)[0] is bool]
        with st.container(horizontal=True):
            values = {name: self.one(model, name) for name in switches}
        others = [name for name in own if name not in switches]
        return values | (self.grid(model, others, width=180) if others else {})

    def _quality(self) -> int | None:
        """Draw the quality of the chosen codec; None where it is lossless."""
        codec, key, of = (self.key(name) for name in ("codec", "quality", "quality_of"))
        chosen = st.session_state[codec]
        known = CODECS[chosen]
        if known.qualities is None:
            st.text_input("Quality", value="lossless", disabled=True, key=self.key("lossless"))
            return None
        if st.session_state.get(of, chosen) != chosen or st.session_state.get(key) is None:
            st.session_state[key] = known.default_quality
        st.session_state[of] = chosen
        least, most = known.qualities[0], known.qualities[-1]
        return st.number_input(
            "Quality", least, most, key=key, persist_state=KEPT,
            help=f"{least} to {most}; the default is {known.default_quality}.",
        )  # fmt: skip

    # Fields that several forms have

    def preset(self, draft: Callable[[str], dict[str, Any]], note: str) -> None:
        """Offer protocols to start from. draft: the values of the fields for a preset's name; note: ends the help."""

        def apply() -> None:
            if (chosen := st.session_state[self.key("preset")]) is not None:
                self.put(draft(chosen))

        texts = [f"{PRESET_NAMES[name]}: {p.epochs} epochs at {p.height}×{p.width}" for name, p in PRESETS.items()]
        st.segmented_control(
            "Preset", list(PRESETS), key=self.key("preset"), on_change=apply,
            format_func=PRESET_NAMES.__getitem__, help=f"{'. '.join(texts)}. {note}",
        )  # fmt: skip

    def networks(self, found: Networks) -> tuple[NetworkSpec, ...]:
        """Return the networks that are chosen. Raises SpecError where none is."""
        key = self.key("networks")
        st.session_state[key] = [name for name in st.session_state[key] if name in found.networks]
        own = [name for name in found.networks if name not in NETWORKS]
        yours = f" and yours: {words.escaped(', '.join(own))}." if own else ", and your own; see the page Networks."
        names = st.multiselect(
            "Networks", list(found.networks), key=key, persist_state=KEPT, help=f"The article's four{yours}",
        )  # fmt: skip
        return tuple(found.networks[name] for name in names)

    def text(self, name: str, label: str, **arguments: Any) -> str:
        """Return the text of a field that is no setting of a spec."""
        return str(st.text_input(label, key=self.key(name), persist_state=KEPT, **arguments) or "").strip()

    def seeds(self, help_text: str) -> tuple[int, ...]:
        """Return the seeds that were typed, each once. Raises SpecError."""
        text = self.text("seeds", "Seeds", help=help_text)
        return tuple(dict.fromkeys(parsed(tuple[int, ...], text, "seeds", "1,2,3")))

    def sizes(self, name: str, label: str, help_text: str | None = None) -> tuple[tuple[int, int], ...]:
        """Return the sizes that were typed, rows × columns, each once. Raises SpecError."""
        text = self.text(name, label, help=help_text)
        return tuple(dict.fromkeys(parsed(tuple[tuple[int, int], ...], text, "sizes in rows × columns", "200×100")))

    def priority_and_start(self, effect: str) -> tuple[str, datetime | None]:
        """Return the priority of the runs, and the moment before which they do not start. effect: ends the help."""
        priority = st.selectbox("Priority", PRIORITIES, key=self.key("priority"), persist_state=KEPT)
        at = st.time_input(
            "Not before", key=self.key("start_after"), step=900, persist_state=KEPT,
            help=f"A time of day, today or tomorrow: {effect}",
        )  # fmt: skip
        return priority, next_moment(at, datetime.now(UTC), components.reader_zone()) if at else None

    def rules(self) -> Rules:
        """Return the rules of Algorithm 2. Raises SpecError."""
        rules = Rules(**self.grid(Rules, settings_of(Rules), width=200))
        st.caption(f"{ON_REJECT[rules.on_reject]} {ACCEPT[rules.accept]} {INITIALISE[rules.initialise]}")
        return rules

    def targets(self) -> Targets:
        """Return how many images the sets are to have, all classes together."""
        return Targets(**self.grid(Targets, settings_of(Targets)))

    def baseline(self) -> Baseline | None:
        """Return the user's thresholds, or None for the article's."""
        own = st.toggle("Use custom thresholds", key=self.key("own_baseline"), persist_state=KEPT)
        if not own:
            st.caption(
                "The article's: training accuracy and precision 90 %, validation accuracy and precision 80 % (lenet5: "
                "75 %), test accuracy, precision and recall at most 2 points under the unpruned network's."
            )
        with st.grid(5, min_column_width=150):
            values = {name: self.one(Baseline, name, disabled=not own) for name in settings_of(Baseline)}
        return Baseline(**values) if own else None

    def metrics(self) -> MetricParameters:
        """Return the metrics' parameters; they are folded away, since their defaults are the article's."""
        with st.expander("Metric parameters", icon=":material/tune:"):
            return MetricParameters(**self.grid(MetricParameters, settings_of(MetricParameters), width=200))


def choices_of(annotation: Any) -> list[str]:
    """Return the permitted texts of a type; none where it has no choices."""
    return next((list(each.choices) for each in bare(annotation)[1] if isinstance(each, Setting)), [])


def parsed(kind: Any, text: str, name: str, example: str) -> Any:
    """Return the values that were typed, separated by commas, semicolons or spaces. SpecError where they are none."""
    plain = text.replace("×", "x").replace("%", " ").replace(";", ",").replace(" x ", "x")
    try:
        return read(kind, ",".join(part for part in plain.replace(",", " ").split() if part))
    except (ValueError, SpecError):
        raise SpecError(f"Expected {name} such as {example}, got {text or 'none'}.") from None


def shown(values: tuple[Any, ...]) -> str:
    """Return several values as a field shows them: 100, 200 and 200×100, 256×256 and jpeg:85, png."""
    return ", ".join(
        "×".join(map(typed, each)) if isinstance(each, tuple) and isinstance(each[0], int) else typed((each,))
        for each in values
    )


def draft(spec: Spec) -> dict[str, Any]:
    """Return the values of the fields that give a spec again, those of its parts among them."""
    values: dict[str, Any] = {}
    for name, info in type(spec).model_fields.items():
        value = getattr(spec, name)
        if isinstance(value, Spec):
            values |= draft(value)
        elif isinstance(value, tuple) and choices_of(get_args(bare(info.annotation)[0])[0]):
            values[name] = list(value)
        elif isinstance(value, tuple) and not any(isinstance(each, NetworkSpec) for each in value):
            values[name] = shown(value)
        else:
            number = bare(info.annotation)[0] is float and value is not None
            values[name] = float(cast(float, value)) if number else value
    if "codec" in values:
        values["quality_of"] = values["codec"]
    return values


def training_draft(training: TrainingProtocol, size: str) -> dict[str, Any]:
    """Return the values of the fields that give a protocol again, without its seed. size: the field of both sides."""
    values = {name: value for name, value in draft(training).items() if name not in ("seed", "height", "width")}
    return {**values, size: f"{training.height}×{training.width}"}
