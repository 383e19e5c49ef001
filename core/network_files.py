"""Users' own networks: YAML or TOML files in DATA_DIR/networks, in the same words as the article's networks here.

A file holds the fields of `core.architectures.from_dict`, its layers the words of `core.architectures.WORDS`
(`EXAMPLE_YAML` and `EXAMPLE_TOML` describe the same one). Every error names the file and the line.
"""

from __future__ import annotations

import re
import tomllib
from bisect import bisect_left
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from core.architectures import NETWORKS, NetworkError, NetworkSpec, from_dict
from core.errors import SpecError

FOLDER = "networks"  # below DATA_DIR
SUFFIXES = (".yaml", ".yml", ".toml")
MAX_BYTES = 20_000
MAX_DEPTH = 20

ValuePath = tuple[str | int, ...]  # such as ("image", 3, "filters")
Lines = Callable[[ValuePath], int]  # a value's path → its 1-based line

EXAMPLE_YAML = """\
# The file's name is the network's, unless the field name says another.
title: A small network
readings:                     # sentences shown beside the network
  - Global pooling instead of flatten keeps the dense layers small.
image:                        # the image branch, from the pixels on
  - {layer: conv, filters: 16, kernel: 5, stride: 2}
  - {layer: max_pool, size: 3, stride: 2}
  - {layer: batch_norm}
  - {layer: residual, filters: 32}
  - {layer: dropout, rate: 0.25}
  - {layer: global_average_pool}
  - {layer: dense, units: 64}
  - {layer: dense, units: 32}
# Lists named metadata and head would replace the article's (Table 1).
"""

EXAMPLE_TOML = """\
# The file's name is the network's, unless the field name says another.
title = "A small network"
readings = ["Global pooling instead of flatten keeps the dense layers small."]
image = [
  {layer = "conv", filters = 16, kernel = 5, stride = 2},
  {layer = "max_pool", size = 3, stride = 2},
  {layer = "batch_norm"},
  {layer = "residual", filters = 32},
  {layer = "dropout", rate = 0.25},
  {layer = "global_average_pool"},
  {layer = "dense", units = 64},
  {layer = "dense", units = 32},
]
"""


class LineError(SpecError):
    """A line of a file cannot be used."""

    def __init__(self, message: str, line: int) -> None:
        """Keep the 1-based line beside the message."""
        super().__init__(message)
        self.line = line


@dataclass(frozen=True)
class Networks:
    """Networks by name, and for each file that could not be used a sentence saying why."""

    networks: dict[str, NetworkSpec]
    left_out: dict[str, str]


def read_yaml(text: str) -> tuple[object, Lines]:
    """Return a YAML file's plain data and where its values stand; raises LineError."""
    lines: dict[ValuePath, int] = {}
    constructor = yaml.constructor.SafeConstructor()

    def plain(node: yaml.Node, path: ValuePath, line: int) -> object:
        lines[path] = line
        if isinstance(node, yaml.MappingNode):
            mapping: dict[str, object] = {}
            for key, value in node.value:
                key_line = key.start_mark.line + 1
                if not isinstance(key, yaml.ScalarNode):
                    raise LineError("expected a word before the colon, got a list or mapping", key_line)
                if key.value in mapping:
                    raise LineError(f"expected each field once, got {key.value} again", key_line)
                mapping[key.value] = plain(value, (*path, key.value), key_line)
            return mapping
        if isinstance(node, yaml.SequenceNode):
            return [plain(item, (*path, index), item.start_mark.line + 1) for index, item in enumerate(node.value)]
        try:
            return constructor.construct_object(node)
        except ValueError as error:
            raise LineError(f"expected a number or text, got {node.value!r} ({error})", line) from error

    try:
        depth = 0
        for event in yaml.parse(text, Loader=yaml.SafeLoader):
            line = event.start_mark.line + 1 if event.start_mark else 1
            if isinstance(event, yaml.AliasEvent):
                # Aliases of aliases can make a small file describe billions of layers.
                raise LineError(f"expected every layer written out, got the alias *{event.anchor}", line)
            depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
            if depth > MAX_DEPTH:  # the library's time grows with the depth squared
                raise LineError(f"expected a list of layers, got lists {depth} deep", line)
        node = yaml.compose(text, Loader=yaml.SafeLoader)
        data = plain(node, (), 1) if node is not None else None
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        raise LineError(f"expected YAML, got: {error.problem}", mark.line + 1 if mark else 1) from error
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        raise LineError(f"expected text, got the character {error.character!r}", line) from error
    return data, lambda path: lines[longest_known(path, lines.__contains__)]


def longest_known(path: ValuePath, known: Callable[[ValuePath], bool]) -> ValuePath:
    """Return the path, or that of the closest thing around it which the file does hold."""
    while path and not known(path):
        path = path[:-1]
    return path


def holds(data: object, path: ValuePath) -> bool:
    """Say whether plain data has a value at a path."""
    value: Any = data
    for key in path:
        within = value if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else ()
        if key not in within:
            return False
        value = value[key]
    return True


def toml_prefix(lines: list[str], count: int) -> object:
    """Return what the longest readable beginning of at most `count` lines holds, an open list closed."""
    for end in range(count, 0, -1):
        for closing in ("", "\n]"):
            try:
                return tomllib.loads("\n".join(lines[:end]) + closing)
            except tomllib.TOMLDecodeError:
                continue
    return {}


def toml_line(text: str, path: ValuePath) -> int:
    """Return the line of a value in a readable TOML file.

    The library tells no lines. TOML is read line by line and never takes a value back, so the line of a value is the
    first after which the library, given the file up to there, knows it.
    """
    lines = text.split("\n")
    path = longest_known(path, lambda shorter: holds(tomllib.loads(text), shorter))
    if not path:
        return 1
    return bisect_left(range(1, len(lines)), True, key=lambda count: holds(toml_prefix(lines, count), path)) + 1


def read_toml(text: str) -> tuple[object, Lines]:
    """Return a TOML file's plain data and where its values stand; raises LineError."""
    try:
        data = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        reason, _, place = str(error).rpartition(" (at ")
        named = re.match(r"line (\d+)", place)
        last = len(text.rstrip().split("\n"))
        raise LineError(f"expected TOML, got: {reason}", int(named[1]) if named else last) from error
    return data, lambda path: toml_line(text, path)


def load_network(path: Path) -> NetworkSpec:
    """Read one network's file, .yaml, .yml or .toml; raises SpecError naming the file and the line."""
    if path.suffix.lower() not in SUFFIXES:
        raise SpecError(
            f"{path.name}: expected a file ending in {', '.join(SUFFIXES)}, got {path.suffix or 'no ending'}"
        )
    try:
        content = path.read_bytes()
    except OSError as error:
        raise SpecError(f"{path.name}: expected a readable file, got: {error.strerror}") from error
    if len(content) > MAX_BYTES:
        raise SpecError(f"{path.name}: expected at most {MAX_BYTES} bytes, got {len(content)}")
    try:
        text = content.decode("utf-8-sig").replace("\r\n", "\n")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise SpecError(f"{path.name}, line {line}: expected UTF-8 text, got other bytes") from error
    try:
        data, lines = (read_toml if path.suffix.lower() == ".toml" else read_yaml)(text)
        if not isinstance(data, dict):
            raise LineError(f"expected fields such as image, got {data!r}", 1)
        try:
            return from_dict({"name": path.stem, "source": f"file {path.name}"} | data)
        except NetworkError as error:
            raise LineError(str(error), lines(error.path)) from error
    except LineError as error:
        raise SpecError(f"{path.name}, line {error.line}: {error}") from error
    except RecursionError as error:
        raise SpecError(f"{path.name}: expected a list of layers, got lists nested without end") from error


def load_networks(folder: Path) -> Networks:
    """Read every network's file of a folder; one that cannot be used is left out with its reason, and stops no other.

    A folder that does not exist holds none.
    """
    networks: dict[str, NetworkSpec] = {}
    left_out: dict[str, str] = {}
    files = sorted(path for path in folder.glob("*") if path.suffix.lower() in SUFFIXES)
    for path in files:
        try:
            spec = load_network(path)
        except SpecError as error:
            left_out[path.name] = str(error)
            continue
        if spec.name in NETWORKS or spec.name in networks:
            owner = "the article's network" if spec.name in NETWORKS else networks[spec.name].source
            left_out[path.name] = f"{path.name}: expected a name of its own, got {spec.name}, which is that of {owner}"
        else:
            networks[spec.name] = spec
    return Networks(networks, left_out)


def all_networks(data_dir: Path) -> Networks:
    """Return the article's four networks, then the users' own from `data_dir`/networks."""
    own = load_networks(data_dir / FOLDER)
    return Networks(NETWORKS | own.networks, own.left_out)
