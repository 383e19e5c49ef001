"""Specs: each setting is declared once, and what was stored before stays what it is."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from core.article.plan import ArticleSpec
from core.errors import SpecError
from core.networks.architectures import NETWORKS
from core.networks.architectures import to_dict as network_to_dict
from core.runs import spec_from_dict
from core.specs import spec_hash
from core.training.specs import PruneTrainSpec, Rules, TrainingProtocol, TrainSpec

# What the code of commit d04b2bf, before specs were pydantic models, wrote and hashed.
STORED = json.loads(Path(__file__).with_name("stored_specs.json").read_text(encoding="utf-8"))


def with_layers(values: dict[str, Any]) -> dict[str, Any]:
    """Return stored values with the layers of the networks that they name."""
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
def test_an_older_spec_without_newer_settings_has_their_defaults_and_the_same_hash(stored: dict[str, Any]) -> None:
    assert spec_hash(spec_from_dict(with_layers(stored["values"])), "f" * 8) == stored["hash"]


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        ({"training": {"epochs": 0}}, "Expected epochs to be a whole number from 1 to 100,000, got 0."),
        ({"training": {"epochs": 2.0}}, "Expected epochs to be a whole number from 1 to 100,000, got 2.0."),
        ({"training": {"learning_rate": 0}}, "Expected learning rate to be a number above 0 and of at most 1, got 0."),
        ({"training": {"rotation": 200}}, "Expected rotation to be a number from 0 to 180 degrees, got 200."),
        ({"training": {"augmentation": 1}}, "Expected augmentation to be true or false, got 1."),
        ({"training": {"speed": 1}}, f"Expected only {', '.join(TrainingProtocol.model_fields)}, got speed."),
        ({"device": "abacus"}, "Expected device to be one of auto, cpu, gpu, got 'abacus'."),
        ({"dataset": ""}, "Expected data set, got none."),
        ({"rules": {"factors": []}}, "Expected factors to be at least one, got none."),
        ({"rules": {"factors": [50, 100]}}, "Expected factors to be numbers above 0 and below 100 percent, got 100."),
        ({"rules": {"factors": 50}}, "Expected factors to be numbers above 0 and below 100 percent, got 50."),
        ({"targets": 3}, "Expected targets to be the settings train, validation, test, got 3."),
    ],
)
def test_a_wrong_setting_is_refused_with_what_was_expected_and_what_came(values: dict[str, Any], sentence: str) -> None:
    given = {"kind": "prune-train", "dataset": "d", "network": network_to_dict(NETWORKS["lenet5"]), **values}
    with pytest.raises(SpecError) as refused:
        spec_from_dict(given)
    assert str(refused.value) == sentence


def test_a_number_stays_as_it_was_typed() -> None:
    assert repr(TrainingProtocol(rotation=10).to_dict()["rotation"]) == "10"
    assert repr(TrainingProtocol(rotation=10.0).to_dict()["rotation"]) == "10.0"
    assert TrainingProtocol(rotation=10) == TrainingProtocol(rotation=10.0)


def test_specs_are_values() -> None:
    with pytest.raises(ValueError, match="frozen"):
        TrainingProtocol().epochs = 3  # type: ignore[misc]
    assert len({TrainingProtocol(), TrainingProtocol(epochs=75), TrainingProtocol(epochs=3)}) == 2


def test_the_key_of_the_settings_tells_what_their_text_tells() -> None:
    spec = PruneTrainSpec(dataset="d", network=NETWORKS["lenet5"])
    assert dict(spec.settings_key) == {
        "training.height": 200, "training.width": 100, "training.epochs": 75, "training.batch_size": 32,
        "training.learning_rate": 0.002,
    }  # fmt: skip
    assert spec.settings == "200×100, 75 epochs, batch 32, learning rate 0.002"
    other = spec.replace(rules=Rules(factors=(50, 33.33)), training=spec.training.replace(rotation=15))
    assert dict(other.settings_key)["rules.factors"] == (50, 33.33)
    assert dict(other.training_key) == dict(spec.training_key) | {"training.rotation": 15}
    assert other.settings == f"{spec.settings}, augmentation 15°/0.1/0.1, factors 50/33.33"
    plain = other.replace(training=other.training.replace(augmentation=False))
    assert "rotation" not in str(plain.settings_key)  # it has no effect
    for unseen in ({"device": "cpu"}, {"dataset": "e"}, {"training": spec.training.replace(seed=9, jit_compile=True)}):
        assert spec.replace(**unseen).settings_key == spec.settings_key


def test_the_articles_baseline_is_no_setting_of_its_own() -> None:
    for name in ("lenet5", "alexnet"):
        spec = TrainSpec(dataset="d", network=NETWORKS[name])
        assert "baseline" not in dict(spec.settings_key)
        given = TrainSpec(dataset="d", network=NETWORKS[name], baseline=spec.thresholds)
        assert given == spec
        assert given.settings_key == spec.settings_key
