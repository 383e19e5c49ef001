"""YAML 1.2's core schema as plain data, each value with its line; tags and aliases are errors.

PyYAML reads YAML 1.1, in which `064` is 52, `1:30` is 90 and `yes` is true, and its constructors raise Python's
own errors on a tag that does not fit. ruamel.yaml's reader of YAML 1.2 turns `1_000` and `0b11` into numbers and
`2026-01-31` into a date, which the core schema does not. So PyYAML only splits the text into events, and this module
interprets the words.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator

import yaml

from core.errors import SpecError

MAX_DEPTH = 20  # the library's time grows with the depth squared
MOST_DIGITS = 15  # of a whole number: more than any size needs
LONGEST_TITLE, LONGEST_READING = 200, 1_000  # characters

ValuePath = tuple[str | int, ...]  # such as ("image", 3, "filters")
Lines = Callable[[ValuePath], int]  # a value's path → its 1-based line

# YAML 1.2.2, section 10.3.2
NULLS = ("", "~", "null", "Null", "NULL")
BOOLEANS = {"true": True, "True": True, "TRUE": True, "false": False, "False": False, "FALSE": False}
WHOLE = re.compile(r"[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+")
DECIMAL = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?")
ENDLESS = re.compile(r"[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)")


class LineError(SpecError):
    """A line of a file cannot be used."""

    def __init__(self, message: str, line: int) -> None:
        """Keep the 1-based line beside the message."""
        super().__init__(message)
        self.line = line


def read_yaml(text: str) -> tuple[object, Lines]:
    """Return a YAML text's plain data and a function that gives the line of each value. Raises LineError."""
    lines: dict[ValuePath, int] = {}
    events = _events(text)
    try:
        first = next(events)
        data = None if isinstance(first, yaml.StreamEndEvent) else _value(events, first, (), 1, lines)
        for event in events:
            if not isinstance(event, yaml.StreamEndEvent):
                raise LineError("Expected one document, got another after it.", _line(event))
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        raise LineError(f"Expected YAML, got: {error.problem}.", mark.line + 1 if mark else 1) from error
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        raise LineError(f"Expected text, got the character {error.character!r}.", line) from error
    except (ValueError, ArithmeticError, LookupError, AttributeError, TypeError, RecursionError) as error:
        if isinstance(error, SpecError):
            raise
        # Errors that PyYAML does not catch, such as chr() of "\\UFFFFFFFF" or int() of five thousand digits in %YAML.
        line = max(lines.values(), default=1)
        raise LineError("Expected YAML, got a character or version that does not exist.", line) from error

    def line_of(path: ValuePath) -> int:
        while path and path not in lines:  # the innermost value around it that the file contains
            path = path[:-1]
        return lines.get(path, 1)

    return data, line_of


def _events(text: str) -> Iterator[yaml.Event]:
    """Yield the library's events without the marks of documents. Raises LineError for tags, aliases and deep lists."""
    depth = 0
    for event in yaml.parse(text, Loader=yaml.SafeLoader):
        if isinstance(event, yaml.StreamStartEvent | yaml.DocumentStartEvent | yaml.DocumentEndEvent):
            continue
        if isinstance(event, yaml.AliasEvent):
            # Aliases of aliases can make a small file describe billions of layers.
            raise LineError(f"Expected every layer written out, got the alias *{event.anchor}.", _line(event))
        if tag := getattr(event, "tag", None):
            shown = tag.replace("tag:yaml.org,2002:", "!!")
            raise LineError(f"Expected text and numbers without tags, got the tag {shown}.", _line(event))
        depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        if depth > MAX_DEPTH:
            raise LineError(f"Expected a list of layers, got lists {depth} deep.", _line(event))
        yield event


def _line(event: yaml.Event) -> int:
    return int(event.start_mark.line) + 1 if event.start_mark else 1


def _value(
    events: Iterator[yaml.Event], event: yaml.Event, path: ValuePath, line: int, lines: dict[ValuePath, int]
) -> object:
    """Return the value that begins with `event`; line: of its key, or of the item in a list."""
    lines[path] = line
    if isinstance(event, yaml.MappingStartEvent):
        mapping: dict[str, object] = {}
        while not isinstance(key := next(events), yaml.MappingEndEvent):
            if not isinstance(key, yaml.ScalarEvent):
                raise LineError("Expected a word before the colon, got a list or mapping.", _line(key))
            if key.value in mapping:
                raise LineError(f"Expected each field once, got {key.value} again.", _line(key))
            mapping[key.value] = _value(events, next(events), (*path, key.value), _line(key), lines)
        return mapping
    if isinstance(event, yaml.ScalarEvent):
        scalar = event.value if event.style else plain_scalar(event.value, line)
        if isinstance(scalar, str):
            check_text(scalar, path, line)
        return scalar
    items: list[object] = []
    while not isinstance(item := next(events), yaml.SequenceEndEvent):
        items.append(_value(events, item, (*path, len(items)), _line(item), lines))
    return items


def check_text(text: str, path: ValuePath, line: int) -> None:
    """Raise LineError for text that is too long or not printable, before it is used or quoted."""
    longest = LONGEST_READING if path[:1] == ("readings",) else LONGEST_TITLE
    if len(text) > longest:
        raise LineError(f"Expected text of at most {longest} characters, got {len(text)}.", line)
    if not text.replace("\n", "").isprintable():
        raise LineError(f"Expected text that can be printed, got {text!a}.", line)


def plain_scalar(text: str, line: int = 1) -> object:
    """Return the value of an unquoted word: None, a boolean, a number or text. Raises LineError for a long number."""
    if text in NULLS:
        return None
    if text in BOOLEANS:
        return BOOLEANS[text]
    if WHOLE.fullmatch(text):
        base = {"0o": 8, "0x": 16}.get(text[:2], 10)
        digits = text if base == 10 else text[2:]
        if len(digits.lstrip("+-0")) > MOST_DIGITS:
            count = len(digits.lstrip("+-"))
            raise LineError(f"Expected a number of at most {MOST_DIGITS} digits, got one of {count}.", line)
        return int(digits, base)
    if DECIMAL.fullmatch(text):
        return float(text)
    return float(text.replace(".", "", 1)) if ENDLESS.fullmatch(text) else text
