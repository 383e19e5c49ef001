"""The base of all specs of runs: settings declared once, each with its bounds, title, help, unit and flag.

A spec is a frozen pydantic model. A field says in one line what may be set:

    epochs: Annotated[Whole, Setting("Epochs", ge=1, le=100_000, text="{epochs} epochs", always=True)] = 75

The validation and its sentences, the JSON of queue and store, the options of the command line, the command that repeats
a run, the text of the settings and the difference between two runs follow from these declarations.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache
from types import NoneType, UnionType
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Self, TypeAlias, TypeVar, Union, get_args, get_origin

import annotated_types as at
from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    StrictBool,
    StrictFloat,
    StrictInt,
    StrictStr,
    ValidationError,
    ValidationInfo,
)

from core.errors import SpecError

LARGEST_SEED = 2**32 - 1  # NumPy and Keras take seeds of 32 bits
LONGEST_SHOWN = 80  # characters of a wrong value that a message repeats

# A number stays as it is typed, 50 or 50.0: stored specs are read back as they were written.
Number: TypeAlias = StrictInt | StrictFloat
Whole: TypeAlias = StrictInt
Switch: TypeAlias = StrictBool
Text: TypeAlias = StrictStr


@dataclass(frozen=True)
class Setting(at.GroupedMetadata):
    """The title, explanation and permitted values of a field of a spec.

    title: the label of a form. name: of the setting in sentences, by default the field's. flag: the option of the
    command line, by default `--` and the field's name; fields that share a flag are typed together, as in 200x100, and
    a word without dashes is the command's argument that gives the field.
    ge, gt, le, lt: bounds of a number. choices: of a text. needs: the switch without which the setting has no effect.
    text: the setting in the text of a run's settings, a template of the model's fields; empty for what does not tell
    runs apart. always: whether the text, and the option in the command that repeats a run, tell the default too.
    """

    title: str
    help: str = ""
    unit: str = ""
    name: str = ""
    flag: str = ""
    ge: float | None = None
    gt: float | None = None
    le: float | None = None
    lt: float | None = None
    choices: Collection[str] = ()
    step: float = 0
    empty: str = ""
    needs: str = ""
    text: str = ""
    always: bool = False

    def __iter__(self) -> Iterator[object]:
        """Yield the constraints that pydantic checks."""
        yield from at.Interval(gt=self.gt, ge=self.ge, lt=self.lt, le=self.le)
        if self.choices:
            yield at.Predicate(self.choices.__contains__)


def each_once(values: tuple[Any, ...], info: ValidationInfo) -> tuple[Any, ...]:
    """Return the values. Raises SpecError where one occurs more than once."""
    if repeated := [value for value in dict.fromkeys(values) if values.count(value) > 1]:
        raise SpecError(f"Expected each of {info.field_name} once, got {_shown(repeated[0])} more than once.")
    return values


Once = AfterValidator(each_once)
Seed = Annotated[Whole, at.Interval(ge=0, le=LARGEST_SEED)]


@dataclass(frozen=True)
class SettingsKey:
    """The settings that runs must share to be averaged, by path. texts: the same in words, for tables and captions."""

    values: tuple[tuple[str, Any], ...] = ()
    texts: tuple[str, ...] = field(default=(), compare=False)

    def __str__(self) -> str:
        return ", ".join(self.texts)

    def __lt__(self, other: SettingsKey) -> bool:
        return str(self) < str(other)

    def with_setting(self, name: str, value: str, text: str) -> SettingsKey:
        """Return the key with one more setting."""
        return SettingsKey((*self.values, (name, value)), (*self.texts, text))


class Spec(BaseModel):
    """Base of all specs: frozen values, validated on creation with a SpecError of one sentence."""

    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=True)
    kind: ClassVar[str] = ""

    if not TYPE_CHECKING:  # type checkers take the fields as the arguments

        def __init__(self, **values: Any) -> None:
            try:
                super().__init__(**values)
            except ValidationError as error:
                raise SpecError(sentence(type(self), error)) from error

    @classmethod
    def from_dict(cls, values: object) -> Self:
        """Return the spec from the values of `to_dict`; missing values have their defaults. Raises SpecError."""
        if not isinstance(values, Mapping):
            raise SpecError(f"Expected the settings {', '.join(cls.model_fields)}, got {_shown(values)}.")
        return cls(**values)

    def to_dict(self) -> dict[str, Any]:
        """Return the spec as JSON-ready values, with its kind where the class has one."""
        return ({"kind": self.kind} if self.kind else {}) | self.model_dump(mode="json")

    def replace(self, **values: Any) -> Self:
        """Return the spec with other values, validated. Raises SpecError."""
        return type(self)(**(dict(self) | values))

    def default(self, name: str) -> Any:
        """Return the default of a field."""
        return type(self).model_fields[name].get_default(call_default_factory=True)

    def said(self) -> Iterator[tuple[str, Any, str]]:
        """Yield path, value and text of each setting that tells runs apart: `training.epochs`, 3, `3 epochs`."""
        for name, setting in settings_of(type(self)).items():
            value = getattr(self, name)
            if setting is None:
                yield from ((f"{name}.{path}", inner, text) for path, inner, text in value.said())
            elif setting.text and (setting.always or value != self.default(name)):
                if setting.needs and not getattr(self, setting.needs):
                    continue  # it has no effect
                values = {each: inner if isinstance(inner, Spec) else value_text(inner) for each, inner in self}
                yield name, value, setting.text.format(**values)

    def settings_key(self, *, without: tuple[str, ...] = ()) -> SettingsKey:
        """Return the settings that runs must share to be averaged: those that have a text.

        without: parts, such as `rules`, and single settings, such as `training.epochs`.
        """
        said = [each for each in self.said() if not f"{each[0]}.".startswith(tuple(f"{path}." for path in without))]
        texts = dict.fromkeys(text for _, _, text in said)
        return SettingsKey(tuple((path, value) for path, value, _ in said), tuple(texts))


def value_text(value: object) -> str:
    """Return a value for the text of a run's settings: 50/33.33 for several."""
    if isinstance(value, tuple):
        return "/".join(map(value_text, value))
    return f"{value:g}" if isinstance(value, float) else str(value)


@cache
def settings_of(model: type[Spec]) -> dict[str, Setting | None]:
    """Return the declaration of each field by its name; None for a part, a spec with its own settings."""
    return {
        name: next((each for each in info.metadata if isinstance(each, Setting)), None)
        for name, info in model.model_fields.items()
    }


def labelled(spec: Spec, part: str = "") -> Iterator[tuple[str, Any]]:
    """Yield label and value of every setting: `Baseline: Training accuracy`, 90. part: the label before it."""
    for name, setting in settings_of(type(spec)).items():
        value = getattr(spec, name)
        label = ": ".join(filter(None, (part, setting.title if setting else "")))
        if isinstance(value, Spec):
            yield from labelled(value, label)
        else:
            yield label, value


# The sentences of errors


def sentence(model: type[Spec], error: ValidationError) -> str:
    """Return the error of the first wrong field as "Expected X, got Y."."""
    first = error.errors(include_url=False)[0]
    if first["type"] == "value_error":  # a check of the spec's own, or a part's sentence
        return str(first["ctx"]["error"])
    field = str(first["loc"][0])
    if first["type"] == "extra_forbidden":
        return f"Expected only {', '.join(model.model_fields)}, got {field}."
    setting = settings_of(model)[field]
    name = setting.name if setting and setting.name else field.replace("_", " ")
    if first["type"] in ("missing", "string_too_short"):
        return f"Expected {name}, got none."
    if first["type"] == "too_short":
        return f"Expected at least one value of {name}, got none."
    info = model.model_fields[field]
    return f"Expected {name} to be {expectation(info.annotation, info.metadata)}, got {_shown(first['input'])}."


def expectation(annotation: Any, metadata: Collection[object] = (), *, several: bool = False) -> str:
    """Return the permitted values of a field in words: `a whole number from 1 to 100,000`."""
    kind, metadata = bare(annotation, metadata)
    setting = next((each for each in metadata if isinstance(each, Setting)), None)
    if setting and setting.choices:
        return f"one of {', '.join(setting.choices)}"
    unit = f" {setting.unit}" if setting and setting.unit else ""
    if get_origin(kind) is tuple:
        first, *others = get_args(kind)
        return ("" if others == [...] else "pairs of ") + expectation(first, several=True) + unit
    plural = "s" if several else ""
    if kind in (int, float):
        noun = ("whole number" if kind is int else "number") + plural
        return " ".join(filter(None, ("" if several else "a", noun, bounds_text(metadata)))) + unit
    if kind is bool:
        return "true or false"
    return f"text{plural}" if kind is str else f"the settings {', '.join(getattr(kind, 'model_fields', ()))}"


def bare(annotation: Any, metadata: Collection[object] = ()) -> tuple[Any, tuple[object, ...]]:
    """Return a field's type without Annotated and None, an int or float as float, and its metadata."""
    found = tuple(metadata)
    if get_origin(annotation) is Annotated:
        annotation, *more = get_args(annotation)
        return bare(annotation, (*found, *more))
    if get_origin(annotation) in (Union, UnionType):
        kinds = [each for each in get_args(annotation) if each is not NoneType]
        inner = [bare(each, found) for each in kinds]
        return (float, found) if len(inner) > 1 else inner[0]
    return annotation, found


def bounds(metadata: Collection[object]) -> dict[str, Any]:
    """Return the bounds `ge`, `gt`, `le` and `lt` that are declared."""
    names = ("ge", "gt", "le", "lt")
    return {name: found for name in names for each in metadata if (found := getattr(each, name, None)) is not None}


def bounds_text(metadata: Collection[object]) -> str:
    """Return the bounds in words: from 1 to 100,000."""
    found = {
        name: f"{value:,}" if isinstance(value, int) else f"{value:.4g}" for name, value in bounds(metadata).items()
    }
    if "ge" in found and "le" in found:
        return f"from {found['ge']} to {found['le']}"
    words = {"ge": "at least", "gt": "above", "le": "at most", "lt": "below"}
    text = " and ".join(f"{word} {found[name]}" for name, word in words.items() if name in found)
    return f"of {text}" if text.startswith("at ") else text


def _shown(value: object) -> str:
    text = str(value) if isinstance(value, int) and not isinstance(value, bool) and value < 10**15 else repr(value)
    return text if len(text) <= LONGEST_SHOWN else f"{text[:LONGEST_SHOWN]}…"


# Specs of several kinds


def told_apart(keys: Iterable[SettingsKey]) -> tuple[tuple[str, ...], dict[SettingsKey, tuple[str, ...]]]:
    """Return the texts of the settings that all keys share, and for each key the other texts."""
    each = dict.fromkeys(keys)
    shared = [text for text in next(iter(each), SettingsKey()).texts if all(text in key.texts for key in each)]
    return tuple(shared), {key: tuple(text for text in key.texts if text not in shared) for key in each}


S = TypeVar("S", bound=Spec)


def spec_of_kind(values: Mapping[str, Any], kinds: Mapping[str, type[S]]) -> S:
    """Build the spec from the values of `to_dict`. Raises SpecError for unknown kinds, names and values."""
    kind = str(values.get("kind"))
    if kind not in kinds:
        raise SpecError(f"Expected kind to be one of {', '.join(kinds)}, got {kind}.")
    return kinds[kind].from_dict({name: value for name, value in values.items() if name != "kind"})


def spec_hash(spec: Spec, fingerprint: str) -> str:
    """Return a SHA-256 that is equal for two submissions of the same measurement.

    fingerprint: the data set's, so that the hash depends on the images and not on the registered name.
    """
    values = _whole_numbers({**spec.to_dict(), "dataset": fingerprint})
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()


def _whole_numbers(value: Any) -> Any:
    """Return JSON-ready values with 50.0 as 50, because both give the same run."""
    if isinstance(value, dict):
        return {name: _whole_numbers(each) for name, each in value.items()}
    if isinstance(value, list | tuple):
        return [_whole_numbers(each) for each in value]
    return int(value) if isinstance(value, float) and value.is_integer() else value
