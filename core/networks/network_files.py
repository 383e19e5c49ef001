"""Users' own networks: YAML files in DATA_DIR/networks, in the same words as the article's networks.

A file holds the fields of `core.networks.plain_data.network_from_dict`, its layers the words of
`core.networks.architectures.WORDS`; `EXAMPLE_YAML` is one. Every error names the file and the line.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from core.errors import SpecError
from core.files.plain_files import read_plain
from core.networks.architectures import DEFAULT_HEIGHT, DEFAULT_WIDTH, NETWORKS, NetworkError, NetworkSpec
from core.networks.costs import check_trainable
from core.networks.plain_data import network_from_dict
from core.networks.plain_yaml import LineError, read_yaml

FOLDER = "networks"  # below DATA_DIR
SUFFIXES = (".yaml", ".yml")
FORMER_SUFFIX = ".toml"  # earlier versions read it
MAX_BYTES = 20_000
LONGEST_REASON = 400  # characters of what a file holds, quoted in the reason why it is left out
FILE_NAME = re.compile(r"\w[\w .-]{0,99}")

EXAMPLE_YAML = """\
# The network has the file's name, unless the field name gives another.
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

WRITE_AS_YAML = (
    'Expected a YAML file, got TOML, which is no longer read. Write it as YAML: `title = "Mine"` becomes'
    " `title: Mine`, and each `[[image]]` one item of the list `image:`, such as"
    " `- {layer: conv, filters: 16, kernel: 5}`. The page Networks has an example."
)


@dataclass(frozen=True)
class Networks:
    """Networks by name, and for each file that could not be used a sentence saying why."""

    networks: dict[str, NetworkSpec]
    left_out: dict[str, str]

    def why_not(self, name: str) -> str | None:
        """Return why the network of that name is missing where its file could not be used, else None."""
        return next((why for file, why in self.left_out.items() if Path(file).stem == name), None)


def printable(text: str) -> str:
    """Return a reason or a file's name as one line that any terminal and page can show."""
    shown = "".join(each if each.isprintable() else ascii(each)[1:-1] for each in text)
    return shown if len(shown) <= LONGEST_REASON else f"{shown[:LONGEST_REASON]}…"


def load_network(path: Path) -> NetworkSpec:
    """Read one network's file. SpecError names the file and the line."""
    try:
        return _load(path)
    except LineError as error:
        raise SpecError(printable(f"{path.name}, line {error.line}: {error}")) from error
    except OSError as error:
        reason = error.strerror or "a file that cannot be read"
        raise SpecError(printable(f"Expected {path.name} to be a readable file, got: {reason}.")) from error
    except SpecError as error:
        raise SpecError(printable(f"{path.name}: {error}")) from error


def _load(path: Path) -> NetworkSpec:
    suffix = path.suffix.lower()
    if suffix == FORMER_SUFFIX:
        raise SpecError(WRITE_AS_YAML)
    if suffix not in SUFFIXES:
        raise SpecError(f"Expected a file ending in {', '.join(SUFFIXES)}, got {suffix or 'no ending'}.")
    if not FILE_NAME.fullmatch(path.name):
        raise SpecError("Expected a file name of at most 100 letters, digits, spaces, dots, - and _, got another.")
    content = read_plain(path, MAX_BYTES + 1)
    if len(content) > MAX_BYTES:
        raise SpecError(f"Expected at most {MAX_BYTES} bytes, got {path.stat().st_size}.")
    try:
        text = content.decode("utf-8-sig").replace("\r\n", "\n")
    except UnicodeDecodeError as error:
        raise LineError("Expected UTF-8 text, got other bytes.", content.count(b"\n", 0, error.start) + 1) from error
    data, lines = read_yaml(text)
    if not isinstance(data, dict):
        raise LineError(f"Expected fields such as image, got {data!r}.", 1)
    try:
        spec = network_from_dict({"name": path.stem, "source": f"file {path.name}"} | data)
        check_trainable(spec, DEFAULT_HEIGHT, DEFAULT_WIDTH)
    except NetworkError as error:
        raise LineError(str(error), lines(error.path)) from error
    return spec


def load_networks(folder: Path) -> Networks:
    """Read every network's file of a folder; one that cannot be used is left out with its reason.

    A folder that does not exist has no networks.
    """
    networks: dict[str, NetworkSpec] = {}
    left_out: dict[str, str] = {}
    try:
        files = sorted(path for path in folder.iterdir() if path.suffix.lower() in (*SUFFIXES, FORMER_SUFFIX))
    except FileNotFoundError:
        return Networks({}, {})
    except OSError as error:
        reason = f"Expected {folder.name} to be a folder of network files, got: {error.strerror}."
        return Networks({}, {folder.name: reason})
    for path in files:
        name = printable(path.name)
        try:
            spec = load_network(path)
        except SpecError as error:
            left_out[name] = str(error)
            continue
        if spec.name in NETWORKS or spec.name in networks:
            owner = "the article's network" if spec.name in NETWORKS else networks[spec.name].source
            left_out[name] = f"Expected a unique name in {name}, got {spec.name}, which is the name of {owner}."
        else:
            networks[spec.name] = spec
    return Networks(networks, left_out)


def all_networks(data_dir: Path) -> Networks:
    """Return the article's four networks, then the users' own from `data_dir`/networks."""
    own = load_networks(data_dir / FOLDER)
    return Networks(NETWORKS | own.networks, own.left_out)
