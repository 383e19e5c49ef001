"""Specs: each setting is declared once, and stored specs of older versions stay valid."""

from __future__ import annotations

import json
import shlex
from collections.abc import Callable, Collection
from datetime import UTC, datetime
from functools import cache
from itertools import count
from pathlib import Path
from types import NoneType
from typing import Any, get_args, get_origin

import pytest
from hypothesis import HealthCheck, given, reject, settings
from hypothesis import strategies as st
from recorded import new_run

from core.article.plan import KIND, ArticleSpec
from core.compression.specs import DiagnosisSpec
from core.data.datasets import Dataset
from core.errors import SpecError
from core.networks.architectures import NETWORKS, NetworkSpec
from core.networks.plain_data import network_to_dict
from core.runs import RUN_SPECS, RunSpec, spec_from_dict
from core.settings import Settings
from core.specs import Setting, Spec, bare, bounds, spec_hash
from core.store.measurements import Store
from core.training.specs import PruneTrainSpec, Rules, TrainingProtocol, TrainSpec
from jobs import messages, record_worker
from jobs.__main__ import build_parser
from jobs.cli import diagnosis, measuring, study, training
from jobs.cli.options import command_line, fields_of
from jobs.messages import Message, NewStudy, RunSubmitted, StudySubmitted

# Specs and hashes written by commit d04b2bf, before specs were pydantic models.
STORED = json.loads(Path(__file__).with_name("stored_specs.json").read_text(encoding="utf-8"))


def with_layers(values: dict[str, Any]) -> dict[str, Any]:
    """Return stored values with the layers of the named networks inserted."""
    found = dict(values)
    if "network" in found:
        found["network"] = network_to_dict(NETWORKS[found["network"]])
    elif found.get("kind") in ("train", "prune-train"):
        found["network"] = network_to_dict(NETWORKS["lenet5"])
    if "networks" in found:
        found["networks"] = [network_to_dict(NETWORKS[name]) for name in found["networks"]]
    return found


@pytest.mark.parametrize("name", [name for name in STORED["specs"] if not name.startswith("article")])
def test_a_stored_spec_is_read_and_written_as_before_with_the_same_hash(name: str) -> None:
    stored = STORED["specs"][name]
    values = with_layers(stored["spec"])
    spec = spec_from_dict(values)
    assert json.loads(json.dumps(spec.to_dict())) == values
    assert spec_hash(spec, "f" * 8) == stored["hash"]


@pytest.mark.parametrize("name", ["article", "article_own"])
def test_a_stored_study_is_read_and_written_as_before(name: str) -> None:
    values = with_layers(STORED["specs"][name]["spec"])
    assert ArticleSpec.from_dict(values).to_dict() == values


@pytest.mark.parametrize("stored", STORED["older"], ids=lambda stored: json.dumps(stored["values"])[:60])
def test_an_older_spec_gets_defaults_for_newer_settings_and_the_same_hash(stored: dict[str, Any]) -> None:
    assert spec_hash(spec_from_dict(with_layers(stored["values"])), "f" * 8) == stored["hash"]


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        ({"training": {"epochs": 0}}, "Expected epochs to be a whole number from 1 to 100,000, got 0."),
        ({"training": {"epochs": 2.0}}, "Expected epochs to be a whole number from 1 to 100,000, got 2.0."),
        ({"training": {"learning_rate": 0}}, "Expected learning rate to be a number above 0 and at most 1, got 0."),
        ({"training": {"rotation": 200}}, "Expected rotation to be a number from 0 to 180 degrees, got 200."),
        ({"training": {"augmentation": 1}}, "Expected augmentation to be true or false, got 1."),
        ({"training": {"speed": 1}}, f"Expected only {', '.join(TrainingProtocol.model_fields)}, got speed."),
        ({"device": "abacus"}, "Expected device to be one of auto, cpu, gpu, got 'abacus'."),
        ({"dataset": ""}, "Expected data set, got none."),
        ({"rules": {"factors": []}}, "Expected at least one value of factors, got none."),
        ({"rules": {"factors": [50, 100]}}, "Expected factors to be numbers above 0 and below 100 percent, got 100."),
        ({"rules": {"factors": 50}}, "Expected factors to be numbers above 0 and below 100 percent, got 50."),
        ({"targets": 3}, "Expected targets to be the settings train, validation, test, got 3."),
    ],
)
def test_an_invalid_setting_is_refused_with_expected_and_given_value(values: dict[str, Any], sentence: str) -> None:
    given = {"kind": "prune-train", "dataset": "d", "network": network_to_dict(NETWORKS["lenet5"]), **values}
    with pytest.raises(SpecError) as refused:
        spec_from_dict(given)
    assert str(refused.value) == sentence


def test_a_number_keeps_its_type_as_typed() -> None:
    assert repr(TrainingProtocol(rotation=10).to_dict()["rotation"]) == "10"
    assert repr(TrainingProtocol(rotation=10.0).to_dict()["rotation"]) == "10.0"
    assert TrainingProtocol(rotation=10) == TrainingProtocol(rotation=10.0)


def test_specs_are_immutable_and_hashable() -> None:
    with pytest.raises(ValueError, match="frozen"):
        TrainingProtocol().epochs = 3  # type: ignore[misc]
    assert len({TrainingProtocol(), TrainingProtocol(epochs=75), TrainingProtocol(epochs=3)}) == 2


def test_the_settings_key_contains_what_the_settings_text_describes() -> None:
    spec = PruneTrainSpec(dataset="d", network=NETWORKS["lenet5"])
    assert dict(spec.settings_key().values) == {
        "training.height": 200, "training.width": 100, "training.epochs": 75, "training.batch_size": 32,
        "training.learning_rate": 0.002,
    }  # fmt: skip
    assert spec.settings == "200×100, 75 epochs, batch 32, learning rate 0.002"
    other = spec.replace(rules=Rules(factors=(50, 33.33)), training=spec.training.replace(rotation=15))
    assert dict(other.settings_key().values)["rules.factors"] == (50, 33.33)
    assert dict(other.settings_key(without=("rules",)).values) == dict(spec.settings_key(without=("rules",)).values) | {
        "training.rotation": 15
    }
    assert other.settings == f"{spec.settings}, augmentation 15°/0.1/0.1, factors 50/33.33"
    plain = other.replace(training=other.training.replace(augmentation=False))
    assert "rotation" not in str(plain.settings_key())  # rotation has no effect without augmentation
    for unseen in ({"device": "cpu"}, {"dataset": "e"}, {"training": spec.training.replace(seed=9, jit_compile=True)}):
        assert spec.replace(**unseen).settings_key() == spec.settings_key()


def test_the_articles_baseline_does_not_count_as_a_changed_setting() -> None:
    for name in ("lenet5", "alexnet"):
        spec = TrainSpec(dataset="d", network=NETWORKS[name])
        assert "baseline" not in dict(spec.settings_key().values)
        given = TrainSpec(dataset="d", network=NETWORKS[name], baseline=spec.thresholds)
        assert given == spec
        assert given.settings_key() == spec.settings_key()


# Every field of every spec is passed through JSON, the queue's messages, the store and the command line.

MODELS: tuple[type[Spec], ...] = (*RUN_SPECS.values(), ArticleSpec)
REQUIRED = {"dataset": "moles", "network": NETWORKS["lenet5"], "name": "made", "run": "train-1"}
FIXED = {"training.seed": ArticleSpec}  # a study uses `seeds`

# Values that types and bounds do not describe: input sizes that fit the networks, and the existing networks.
DRAWN: dict[str, st.SearchStrategy[Any]] = {
    "height": st.integers(64, 300),
    "width": st.integers(64, 300),
    "Override.network": st.sampled_from(sorted(NETWORKS)),
}


def drawn(annotation: Any, metadata: Collection[object] = (), *names: str) -> st.SearchStrategy[Any]:
    """Return a strategy for values of a type within its declared bounds. Fails for a type that it cannot draw."""
    for name in names:
        if name in DRAWN:
            return DRAWN[name]
    kind, known = bare(annotation, metadata)
    optional = st.none() if NoneType in get_args(annotation) else st.nothing()
    limits = bounds(known)
    low, high = limits.get("ge", limits.get("gt")), limits.get("le", limits.get("lt"))
    if choices := next((each.choices for each in known if isinstance(each, Setting) and each.choices), ()):
        return st.sampled_from(sorted(choices)) | optional
    if kind is bool:
        return st.booleans()
    if kind is int:
        return st.integers(low, 10**6 if high is None else high) | optional
    if kind is float:
        return st.floats(low, high, exclude_min="gt" in limits, exclude_max="lt" in limits) | optional
    if kind is str:
        return st.text(st.characters(codec="utf-8", exclude_categories=("Cc", "Cs")), min_size=1, max_size=12)
    if kind is NetworkSpec:
        return st.sampled_from(list(NETWORKS.values()))
    if isinstance(kind, type) and issubclass(kind, Spec):
        return whole(kind) | optional
    assert get_origin(kind) is tuple, f"expected a type that this test can draw, got {annotation} of {names}"
    first, *others = get_args(kind)
    if others == [...]:
        return st.lists(drawn(first), min_size=1, max_size=3, unique=True).map(tuple)
    return st.tuples(drawn(first), *(drawn(each) for each in others))


def whole(model: type[Spec]) -> st.SearchStrategy[Spec]:
    """Return a strategy for specs of a kind with every field drawn."""
    fields = {
        name: drawn(info.annotation, info.metadata, name, f"{model.__name__}.{name}")
        for name, info in model.model_fields.items()
    }
    return st.fixed_dictionaries(fields).map(lambda values: made(model, **values))


def made(model: type[Spec], **values: Any) -> Spec:
    """Return the spec; draw again if the values do not fit together."""
    try:
        return model(**values)
    except SpecError:
        reject()


def with_one(model: type[Spec], path: str) -> st.SearchStrategy[Spec]:
    """Return a strategy for default specs with one drawn field."""
    part, _, name = path.rpartition(".")
    usual = {name: value for name, value in REQUIRED.items() if name in model.model_fields}
    owner = type(getattr(model(**usual), part)) if part else model
    info = owner.model_fields[name]
    values = drawn(info.annotation, info.metadata, name, f"{owner.__name__}.{name}")
    if part:
        return values.map(lambda value: made(model, **usual | {part: made(owner, **{name: value})}))
    if path == "overrides":
        usual["networks"] = tuple(NETWORKS.values())
    return values.map(lambda value: made(model, **usual | {name: value}))


def through_json(spec: Spec, store: Store) -> Spec:
    return read(type(spec), json.dumps(spec.to_dict()))


def read(model: type[Spec], text: str) -> Spec:
    values = json.loads(text)
    return ArticleSpec.from_dict(values) if model is ArticleSpec else spec_from_dict(values)


NUMBERS, NOW = count(), datetime(2026, 11, 26, tzinfo=UTC)


def through_queue_and_store(spec: Spec, store: Store) -> Spec:
    """Return the spec as read from the store after the record worker has written the queue's message."""
    name, text = f"run-{next(NUMBERS)}", json.dumps(spec.to_dict())
    message: Message
    if isinstance(spec, ArticleSpec):
        new = NewStudy(study=name, kind=KIND, dataset="moles", spec=text, command=command_line(spec))
        message = StudySubmitted(values=new)
    else:
        message = RunSubmitted(values=new_run(name, spec, NOW))
    queued = str(message.command()[2]).encode()
    record_worker._write(store, [messages.read(queued)])
    found = store.study(name) if isinstance(spec, ArticleSpec) else store.run(name)
    assert found is not None
    return read(type(spec), found.spec_json)


parser = cache(build_parser)


def through_command_line(spec: Spec, store: Store) -> Spec:
    """Return the spec that the command of the run gives."""
    assert isinstance(spec, RunSpec | ArticleSpec)
    options = parser().parse_args(shlex.split(command_line(spec))[3:])
    assert options.folder == spec.dataset
    if isinstance(spec, ArticleSpec):
        dataset = Dataset(options.folder, Path("/moles"), "folders", (), ())
        return study.spec_of(options, dataset, list(spec.networks)).replace(fingerprint=spec.fingerprint)
    if isinstance(spec, TrainSpec):
        (one,) = training.specs_of(options, options.folder, Settings(data_dir=Path("/nowhere"), data_roots=()))
        return one
    if isinstance(spec, DiagnosisSpec):
        assert options.run == spec.run
        return diagnosis.spec_of(options, options.folder, step=0)
    return measuring.spec_of(options, options.folder)


# Each passes a spec along one way and returns the result. tests/test_forms.py does the same with the forms.
LEGS: list[Callable[[Spec, Store], Spec]] = [through_json, through_queue_and_store, through_command_line]


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return Store(tmp_path_factory.mktemp("specs") / "dermslim.duckdb")


EVERY_FIELD = [(model, field.path) for model in MODELS for field in fields_of(model) if FIXED.get(field.path) != model]


@pytest.mark.parametrize(("model", "path"), EVERY_FIELD, ids=[f"{each[0].__name__}-{each[1]}" for each in EVERY_FIELD])
@given(data=st.data())
@settings(max_examples=5, deadline=None, suppress_health_check=list(HealthCheck))
def test_every_field_can_be_passed_by_json_and_command_line(
    model: type[Spec], path: str, store: Store, data: st.DataObject
) -> None:
    spec = data.draw(with_one(model, path))
    for leg in LEGS:
        if leg is not through_queue_and_store:  # independent of the fields; the next test covers it
            assert leg(spec, store) == spec, leg.__name__


@pytest.mark.parametrize(("model", "path"), EVERY_FIELD, ids=[f"{each[0].__name__}-{each[1]}" for each in EVERY_FIELD])
@given(data=st.data())
@settings(max_examples=3, deadline=None, suppress_health_check=list(HealthCheck))
def test_every_field_has_a_text_in_the_settings_of_a_run(model: type[Spec], path: str, data: st.DataObject) -> None:
    spec = data.draw(with_one(model, path))
    assert all(text and not set("{}") & set(text) for _, _, text in spec.said())


@pytest.mark.parametrize("model", MODELS, ids=lambda model: model.__name__)
@given(data=st.data())
@settings(max_examples=6, deadline=None, suppress_health_check=list(HealthCheck))
def test_any_spec_can_be_passed_by_queue_store_and_command_line(
    model: type[Spec], store: Store, data: st.DataObject
) -> None:
    spec = data.draw(whole(model))
    if isinstance(spec, ArticleSpec):
        spec = spec.replace(training=spec.training.replace(seed=1))
    for leg in LEGS:
        assert leg(spec, store) == spec, leg.__name__
