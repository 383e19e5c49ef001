"""The options of commands that take a spec, and the command that gives a spec again: both from the spec's fields.

The options are argparse's. cyclopts was tried on `svd-sweep`: it turns a pydantic model into options by itself, but
needs a converter of ours for each value of several numbers (100,350; 200x100), for the two fields that --size gives and
for presets; it passes text to strict fields, prints an error as a box of pydantic's lines in place of one sentence, and
takes 0.4 s to import. From a table of the fields, argparse needs fewer lines.
"""

from __future__ import annotations

import argparse
import shlex
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from operator import attrgetter
from typing import Any, NamedTuple, TypeVar, get_args, get_origin

from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from core.article.plan import KIND, ArticleSpec, Override
from core.compression.specs import DiagnosisSpec
from core.errors import SpecError
from core.networks.architectures import NetworkSpec
from core.runs import RunSpec
from core.specs import Setting, Spec, bare, expectation, settings_of

S = TypeVar("S", bound=Spec)


class Field(NamedTuple):
    """A field of a spec. path: such as `training.epochs`."""

    path: str
    setting: Setting
    info: FieldInfo


@dataclass(frozen=True)
class Option:
    """One option and the fields that it gives: two for --size."""

    flag: str
    fields: tuple[Field, ...]

    @property
    def setting(self) -> Setting:
        """The declaration of the first field."""
        return self.fields[0].setting

    @property
    def kind(self) -> Any:
        """The plain type of the first field."""
        return bare(self.fields[0].info.annotation)[0]

    @property
    def repeated(self) -> bool:
        """Whether the option may be given several times, each time with one value of the field."""
        return bool(self.kind == tuple[Override, ...])

    @property
    def example(self) -> str:
        """The default as it is typed; of a part that is none by default, its own default."""
        defaults = [field.info.default for field in self.fields]
        if defaults == [None] and isinstance(self.kind, type) and issubclass(self.kind, Spec):
            defaults = [self.kind()]
        return "x".join(typed(each) for each in defaults if each not in (None, PydanticUndefined))

    @property
    def help(self) -> str:
        """Title, unit, explanation and default."""
        title = " × ".join(field.setting.title for field in self.fields)
        unit = f" ({self.setting.unit})" if self.setting.unit else ""
        default = self.fields[0].info.default
        shown = self.example and not isinstance(default, bool)
        usual = f"{'Such as' if default is None else 'Default'} {self.example}." if shown else ""
        return " ".join(filter(None, (f"{title}{unit}.", self.setting.help, usual))).replace("%", "%%")

    def add(self, parser: argparse.ArgumentParser) -> None:
        """Add the option to a parser; what is not given is left out of the parsed options."""
        common: dict[str, Any] = {"dest": self.flag, "default": argparse.SUPPRESS, "help": self.help}
        if self.kind is bool:
            parser.add_argument(self.flag, action=argparse.BooleanOptionalAction, **common)
        elif self.setting.choices:
            parser.add_argument(self.flag, choices=tuple(self.setting.choices), **common)
        else:
            common |= {"type": self.read, "metavar": self.flag.strip("-").upper()}
            parser.add_argument(self.flag, action="append" if self.repeated else "store", **common)

    def read(self, text: str) -> Any:
        """Return the value that a text gives; of two fields, both values."""
        try:
            if len(self.fields) == 1:
                return read(Override if self.repeated else self.kind, text)
            parts = _split(text, "x", len(self.fields))
            return tuple(read(field.info.annotation, part) for field, part in zip(self.fields, parts, strict=True))
        except SpecError as error:
            raise argparse.ArgumentTypeError(str(error)) from None
        except ValueError:
            info = self.fields[0].info
            bounded = f"to be {expectation(info.annotation, info.metadata)}"
            wanted = f"such as {self.example}" if self.example else bounded
            name = self.setting.name or self.flag.strip("-").replace("-", " ")
            raise argparse.ArgumentTypeError(f"Expected {name} {wanted}, got {text}.") from None

    def words(self, spec: Spec) -> list[str]:
        """Return the option with the spec's values; nothing where they are the default and not always told."""
        values, usual = [], not self.setting.always
        for field in self.fields:
            part, _, name = field.path.rpartition(".")
            owner = attrgetter(part)(spec) if part else spec
            values.append(getattr(owner, name))
            usual = usual and values[-1] == owner.default(name)
        if usual or values == [None]:
            return []
        if isinstance(values[0], bool):
            return [self.flag if values[0] else f"--no-{self.flag.strip('-')}"]
        texts = list(map(typed, values[0])) if self.repeated else ["x".join(map(typed, values))]
        return [word for text in texts for word in self._pair(text)]

    def _pair(self, text: str) -> list[str]:
        return [f"{self.flag}={text}"] if text.startswith("-") else [self.flag, text]


def options_of(model: type[Spec], without: Collection[str] = ()) -> list[Option]:
    """Return a spec's options in the order of its fields. without: paths that a command reads by itself."""
    found: dict[str, Option] = {}
    for field in fields_of(model):
        flag = field.setting.flag or f"--{field.path.rpartition('.')[2].replace('_', '-')}"
        if flag.startswith("-") and field.path not in without:
            before = found[flag].fields if flag in found else ()
            found[flag] = Option(flag, (*before, field))
    return list(found.values())


def fields_of(model: type[Spec]) -> Iterator[Field]:
    """Yield every field of a spec and of its parts."""
    for name, setting in settings_of(model).items():
        info = model.model_fields[name]
        if setting is not None:
            yield Field(name, setting, info)
        elif isinstance(info.annotation, type) and issubclass(info.annotation, Spec):
            yield from (field._replace(path=f"{name}.{field.path}") for field in fields_of(info.annotation))


def add_options(parser: argparse.ArgumentParser, model: type[Spec], without: Collection[str] = ()) -> None:
    """Add a spec's options to a parser."""
    for option in options_of(model, without):
        option.add(parser)


def given(options: argparse.Namespace, model: type[Spec], without: Collection[str] = ()) -> dict[str, Any]:
    """Return the values that were given on the command line, by path: `training.epochs`."""
    values: dict[str, Any] = {}
    for option in options_of(model, without):
        if hasattr(options, option.flag):
            value = getattr(options, option.flag)
            values |= dict(
                zip((path for path, *_ in option.fields), value if len(option.fields) > 1 else [value], strict=True)
            )
    return values


def build(model: type[S], values: Mapping[str, Any], asked: Mapping[str, Any]) -> S:
    """Return the spec with these values, changed by what was asked for, by path. Raises SpecError."""
    found = dict(values)
    for path, value in asked.items():
        name, _, inner = path.partition(".")
        if inner:
            part = found[name] if name in found else model.model_fields[name].default
            found[name] = part.replace(**{inner: value})
        else:
            found[name] = value
    return model(**found)


def command_line(spec: RunSpec | ArticleSpec) -> str:
    """Return the command that submits a spec again."""
    unseen = ("training.seed",) if isinstance(spec, ArticleSpec) else ()  # of a study, `seeds` count
    words = [word for option in options_of(type(spec), unseen) for word in option.words(spec)]
    named = [spec.run, spec.dataset] if isinstance(spec, DiagnosisSpec) else [spec.dataset]
    words = [*words, "--", *named] if any(name.startswith("-") for name in named) else [*named, *words]
    return shlex.join(["python", "-m", "jobs", spec.kind or KIND, *words])


# Values as they are typed


def typed(value: Any) -> str:
    """Return a value as it is typed: 100,350; 200x100,256x256; jpeg:85,png; 3300,1100,360; alexnet=60x80:20."""
    match value:
        case Override():
            epochs = "" if value.epochs is None else f":{value.epochs}"
            return f"{value.network}={value.height}x{value.width}{epochs}"
        case Spec():
            return ",".join(typed(each) for _, each in value)
        case NetworkSpec():
            return value.name
        case tuple():
            return ",".join(map(_typed_item, value))
        case float():
            short = f"{value:g}"
            return short if float(short) == value else repr(value)
        case _:
            return str(value)


def _typed_item(value: Any) -> str:
    if not isinstance(value, tuple):
        return typed(value)
    first, second = value
    return f"{first}x{second}" if isinstance(first, int) else first + (f":{second}" if second is not None else "")


def read(annotation: Any, text: str) -> Any:
    """Return the value that a text gives; ValueError where there is none. The spec checks the bounds."""
    kind, _ = bare(annotation)
    if kind is Override:
        network, _, rest = text.partition("=")
        pair, colon, epochs = rest.partition(":")
        height, width = map(int, _split(pair, "x", 2))
        return Override(network=network, height=height, width=width, epochs=int(epochs) if colon else None)
    if get_origin(kind) is tuple:
        first, *others = get_args(kind)
        if others == [...]:
            return tuple(read(first, part) for part in text.split(","))
        if bare(first)[0] is int:
            return tuple(map(int, _split(text, "x", 2)))
        codec, colon, quality = text.partition(":")
        return codec, int(quality) if colon else None
    if isinstance(kind, type) and issubclass(kind, Spec):
        parts = _split(text, ",", len(kind.model_fields))
        fields = kind.model_fields.items()
        return kind(**{name: read(info.annotation, part) for (name, info), part in zip(fields, parts, strict=True)})
    return kind(text) if kind in (int, float) else text


def _split(text: str, separator: str, count: int) -> list[str]:
    parts = text.lower().replace("×", "x").split(separator)
    if len(parts) != count:
        raise ValueError(text)
    return parts
