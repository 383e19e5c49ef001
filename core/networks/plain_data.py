"""Networks as plain data, in the words of a run's spec and of a user's file."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import MISSING, fields
from typing import Any, get_args

from core.networks.architectures import (
    METADATA_BRANCH,
    SMALL_HEAD,
    WORD_OF,
    WORDS,
    Branch,
    Layer,
    NetworkError,
    NetworkSpec,
)
from core.networks.batch_norm import SUFFIXES

# The fields of a network in a run's spec and in a user's file.
FIELDS = ("name", "title", "source", "readings", "image", "metadata", "head")
MOST_LAYERS = 500  # in a branch
NAME_PATTERN = re.compile(rf"[A-Za-z0-9][A-Za-z0-9_-]{{0,39}}({'|'.join(map(re.escape, SUFFIXES.values()))})?")


def layer_to_dict(layer: Layer) -> dict[str, Any]:
    """Return a layer as its word and the fields that differ from the defaults."""
    values = {field.name: getattr(layer, field.name) for field in fields(layer)}
    defaults = {field.name: field.default for field in fields(layer)}
    return {"layer": WORD_OF[type(layer)]} | {name: value for name, value in values.items() if value != defaults[name]}


def layer_from_dict(data: object) -> Layer:
    """Return the record of {"layer": "conv", "filters": 6, "kernel": 5}. Raises NetworkError."""
    if not isinstance(data, Mapping):
        raise NetworkError(f"Expected a layer such as {{layer: conv, filters: 16, kernel: 5}}, got {data!r}.")
    word = data.get("layer")
    if not isinstance(word, str) or word not in WORDS:
        raise NetworkError(f"Expected layer to be one of {', '.join(WORDS)}, got {word!r}.", ("layer",))
    record = WORDS[word]
    known = {field.name: field.default is not MISSING for field in fields(record)}
    for key in data:
        if key != "layer" and key not in known:
            expected = ", ".join(known) or "no fields"
            raise NetworkError(f"Expected {expected} for {word}, got the unknown field {key!r}.", (str(key),))
    for field, optional in known.items():
        if field not in data and not optional:
            raise NetworkError(f"Expected the {field} of {word}, got none.")
    return record(**{str(key): value for key, value in data.items() if key != "layer"})


def branch_from(data: Mapping[str, Any], branch: Branch, default: tuple[Layer, ...]) -> tuple[Layer, ...]:
    """Return a branch's layers. Raises NetworkError with the path to the layer."""
    if branch not in data:
        return default
    layers = data[branch]
    if not isinstance(layers, list | tuple):
        raise NetworkError(f"Expected {branch} to be a list of layers, got {layers!r}.", (branch,))
    if len(layers) > MOST_LAYERS:
        raise NetworkError(
            f"Expected at most {MOST_LAYERS} layers in {branch}, got {len(layers)}.", (branch, MOST_LAYERS)
        )
    records = []
    for index, layer in enumerate(layers):
        try:
            records.append(layer_from_dict(layer))
        except NetworkError as error:
            message = f"{branch}, layer {index + 1}: {error}"
            raise NetworkError(message, (branch, index, *error.path)) from error
    return tuple(records)


def network_to_dict(spec: NetworkSpec) -> dict[str, Any]:
    """Return a network as plain data for JSON or YAML."""
    texts = {"name": spec.name, "title": spec.title, "source": spec.source, "readings": list(spec.readings)}
    return texts | {branch: [layer_to_dict(layer) for layer in getattr(spec, branch)] for branch in get_args(Branch)}


def network_from_dict(data: object) -> NetworkSpec:
    """Return the network of plain data; metadata branch and head default to the article's. Raises NetworkError."""
    if not isinstance(data, Mapping):
        raise NetworkError(f"Expected a network with the fields {', '.join(FIELDS)}, got {data!r}.")
    for key in data:
        if key not in FIELDS:
            raise NetworkError(f"Expected the fields {', '.join(FIELDS)}, got the unknown field {key!r}.", (str(key),))
    if "image" not in data:
        raise NetworkError("Expected an image branch, a list of layers under the field image, got none.")
    name = data.get("name")
    if not isinstance(name, str) or not NAME_PATTERN.fullmatch(name):
        raise NetworkError(f"Expected a name of 1 to 40 letters, digits, - and _, got {name!r}.", ("name",))
    texts = {}
    for field, default in (("title", name), ("source", "")):
        texts[field] = data.get(field, default)
        if not isinstance(texts[field], str):
            raise NetworkError(f"Expected {field} to be text, got {texts[field]!r}.", (field,))
    readings = data.get("readings", ())
    if not isinstance(readings, list | tuple) or not all(isinstance(reading, str) for reading in readings):
        raise NetworkError(f"Expected readings to be a list of sentences, got {readings!r}.", ("readings",))
    return NetworkSpec(
        name,
        readings=tuple(readings),
        image=branch_from(data, "image", ()),
        metadata=branch_from(data, "metadata", METADATA_BRANCH),
        head=branch_from(data, "head", SMALL_HEAD),
        **texts,
    )
