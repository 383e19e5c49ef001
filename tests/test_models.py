"""Keras models of network specs, compared with Keras's counts, shapes, bytes and arithmetic."""

import csv
import json
import os
import sys
from importlib.util import find_spec
from math import prod
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")  # hides TensorFlow's start messages

import keras
import numpy as np
import pytest
from laboratory import write_lesions

from benchmarks.processes import run_command
from core.errors import SpecError
from core.networks.architectures import (
    CUSTOM1,
    CUSTOM2,
    LENET5,
    NETWORKS,
    BatchNorm,
    Conv,
    Dense,
    Flatten,
    GlobalAveragePool,
    MaxPool,
    NetworkSpec,
    Residual,
    ZeroPad,
    walk,
)
from core.networks.costs import network_cost
from core.networks.keras_models import build_model
from core.networks.pruning import FACTORS, SCOPES, iterations, prune
from jobs.provenance import versions

SIZES = ((200, 100), (101, 75), (300, 300))
STEPS = 4  # in addition to the unpruned network


@pytest.fixture(autouse=True)
def fresh_keras():
    yield
    keras.utils.clear_session()


def trainable_count(model: keras.Model) -> int:
    return sum(prod(weight.shape) for weight in model.trainable_weights)


def keras_count(spec: NetworkSpec, height: int, width: int) -> int:
    # Within a stateless scope Keras creates weights with a shape and without values. It would create the values when
    # the scope ends; clearing the session first avoids this, so counting needs no gigabytes.
    with keras.StatelessScope():
        count = trainable_count(build_model(spec, height, width))
        keras.utils.clear_session(free_memory=False)
        return count


def pruned_networks(name: str, *, ends: bool) -> set[NetworkSpec]:
    """Return the networks of every scope and factor; of each curve all, or only the first and the last."""
    # A set, because many are equal: every curve starts unpruned, and lenet5 has only two convolutions.
    curves = [list(iterations(NETWORKS[name], factor, scope, STEPS)) for scope in SCOPES for factor in FACTORS]
    return {each for curve in curves for each in (curve[:: len(curve) - 1] if ends else curve)}


@pytest.mark.parametrize("size", SIZES, ids=lambda size: f"{size[0]}x{size[1]}")
@pytest.mark.parametrize("name", NETWORKS)
def test_counts_equal_keras_over_all_scopes_factors_iterations_and_sizes(name, size) -> None:
    # Only the first dense layer depends on the size, so the ends of each curve suffice for the further sizes.
    for spec in pruned_networks(name, ends=size != SIZES[0]):
        assert network_cost(spec, *size).parameters == keras_count(spec, *size), spec


def test_a_stateless_count_equals_that_of_a_model_with_weights() -> None:
    model = build_model(CUSTOM2, 64, 64)
    assert trainable_count(model) == keras_count(CUSTOM2, 64, 64)
    assert trainable_count(model) == sum(weight.numpy().size for weight in model.trainable_weights)


@pytest.mark.parametrize("name", NETWORKS)
def test_every_keras_layer_has_the_expected_name_and_output_shape(name) -> None:
    with keras.StatelessScope():
        model = build_model(NETWORKS[name], 200, 100)
    layers = {layer.name: layer for layer in model.layers}
    for step in walk(NETWORKS[name], 200, 100):
        if not isinstance(step.layer, Residual):
            assert layers[step.name].output.shape[1:] == step.output_shape, step.name
        else:
            assert layers[f"{step.name}_relu2"].output.shape[1:] == step.output_shape
            assert (f"{step.name}_projection" in layers) == (step.input_shape != step.output_shape)


def test_unusual_layers_have_the_counts_and_shapes_of_keras() -> None:
    spec = NetworkSpec(
        name="odd",
        title="odd",
        source="test",
        readings=(),
        image=(
            Conv(5, 4, stride=3, padding="same"),
            ZeroPad(1),
            Residual(7, kernel=2),
            MaxPool(3, 1),
            GlobalAveragePool(),
            BatchNorm(),
            Dense(9),
            Dense(8, rank=3),
        ),
        metadata=(BatchNorm(), Dense(3, rank=2)),
        head=(Dense(4, rank=6),),
    )
    with keras.StatelessScope():
        model = build_model(spec, 41, 38)
    assert trainable_count(model) == network_cost(spec, 41, 38).parameters
    for step in walk(spec, 41, 38):
        if not isinstance(step.layer, Residual):
            assert model.get_layer(step.name).output.shape[1:] == step.output_shape


def test_network_bytes_equal_those_of_keras_weights_and_of_adam() -> None:
    model = build_model(prune(CUSTOM1, 50), 64, 64)
    optimizer = keras.optimizers.Adam()
    optimizer.build(model.trainable_variables)
    cost = network_cost(prune(CUSTOM1, 50), 64, 64)
    assert sum(weight.numpy().nbytes for weight in model.weights) == cost.bytes_weights
    moments = sum(variable.numpy().nbytes for variable in optimizer.variables if variable.numpy().ndim)
    assert cost.bytes_weights + moments == cost.bytes_with_optimizer


def test_a_saved_weights_file_has_the_predicted_size_plus_headers(tmp_path: Path) -> None:
    spec = prune(CUSTOM1, 50)
    path = tmp_path / "custom1.weights.h5"
    build_model(spec, 64, 64).save_weights(path)
    assert 0 <= path.stat().st_size - network_cost(spec, 64, 64).bytes_weights < 200_000


def test_the_output_is_a_softmax_over_the_four_classes() -> None:
    model = build_model(LENET5, 40, 30)
    pixels = np.random.default_rng(1).integers(0, 256, (5, 40, 30, 3), dtype=np.uint8)
    chances = keras.ops.convert_to_numpy(model({"image": pixels, "metadata": np.zeros((5, 3))}))
    assert chances.shape == (5, 4)
    np.testing.assert_allclose(chances.sum(axis=1), 1, rtol=1e-5)
    assert (chances >= 0).all()


def test_pixels_are_scaled_to_one_inside_the_network() -> None:
    model = build_model(LENET5, 40, 30)
    scaled = keras.Model(model.inputs[0], model.get_layer("image_scaling").output)
    white = np.full((1, 40, 30, 3), 255, np.uint8)
    np.testing.assert_allclose(keras.ops.convert_to_numpy(scaled(white)), 1, rtol=1e-6)


def test_a_residual_block_adds_its_input_before_the_last_relu() -> None:
    spec = NetworkSpec("block", "block", "test", (), (Residual(3), Flatten()), (Dense(1),), (Dense(4),))
    model = build_model(spec, 4, 4)
    for layer in model.layers:
        if layer.name.startswith("image_residual1_batch_norm2"):
            layer.gamma.assign(np.zeros(3))  # the output of the convolutions becomes 0
    block = keras.Model(model.inputs[0], model.get_layer("image_residual1_relu2").output)
    pixels = np.random.default_rng(2).integers(0, 256, (2, 4, 4, 3), dtype=np.uint8)
    np.testing.assert_allclose(keras.ops.convert_to_numpy(block(pixels)), pixels / 255, rtol=1e-5)


def test_every_branch_influences_the_output() -> None:
    keras.utils.set_random_seed(3)
    model = build_model(LENET5, 40, 30)
    generator = np.random.default_rng(3)
    for weight in model.trainable_weights:  # positive weights, so that every ReLU is active
        weight.assign(generator.uniform(0.01, 0.1, weight.shape))
    grey, white = np.full((1, 40, 30, 3), 100, np.uint8), np.full((1, 40, 30, 3), 255, np.uint8)
    young, old = np.array([[0.1, 1, 1]]), np.array([[9.0, 1, 1]])

    def output(pixels, metadata):
        head = keras.Model(model.inputs, model.get_layer("head_dense1").output)
        return keras.ops.convert_to_numpy(head({"image": pixels, "metadata": metadata}))

    assert not np.allclose(output(grey, young), output(white, young))
    assert not np.array_equal(output(grey, young), output(grey, old))


def test_a_network_learns_to_distinguish_dark_and_bright_images() -> None:
    keras.utils.set_random_seed(1)
    generator = np.random.default_rng(1)
    labels = generator.integers(0, 4, 64)
    pixels = np.clip(generator.normal(30 + 60 * labels[:, None, None, None], 5, (64, 24, 24, 3)), 0, 255)
    model = build_model(LENET5, 24, 24)
    model.compile("adam", "sparse_categorical_crossentropy", metrics=["accuracy"])
    inputs = {"image": pixels.astype(np.uint8), "metadata": np.zeros((64, 3))}
    losses = model.fit(inputs, labels, epochs=15, batch_size=16, verbose=0).history["loss"]
    assert losses[-1] < 0.5 * losses[0]


def test_an_input_size_that_is_too_small_is_refused_before_building() -> None:
    with pytest.raises(SpecError, match="leaves nothing at image_max_pool6"):
        build_model(CUSTOM1, 63, 63)


MOLES_ONCE = (
    "--network lenet5 --size 32x32 --epochs 2 --batch-size 8 --targets 32,12,12 --factors 50 --max-iterations 1 "
    "--batch-norm dense --warm-up-epochs 1 --schedule cosine --precision bfloat16 --baseline 0,0,0,0,100"
)


@pytest.mark.parametrize("backend", ["jax", "torch"])
def test_another_backend_builds_the_same_networks_without_tensorflow(backend) -> None:
    if find_spec(backend) is None:
        pytest.skip(f"{backend} is not installed; TensorFlow is the default backend")
    code = (
        "import sys, numpy as np; from core.networks.keras_models import build_model;"
        "from core.networks.architectures import CUSTOM2; from core.networks.costs import network_cost;"
        "model = build_model(CUSTOM2, 64, 64);"
        "model({'image': np.zeros((1, 64, 64, 3), 'uint8'), 'metadata': np.zeros((1, 3))});"
        "count = sum(np.prod(weight.shape) for weight in model.trainable_weights);"
        "print(count == network_cost(CUSTOM2, 64, 64).parameters, 'tensorflow' in sys.modules)"
    )
    environment = os.environ | {"KERAS_BACKEND": backend}
    done = run_command([sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=True)
    assert done.stdout.split() == ["True", "False"]


@pytest.mark.parametrize("backend", ["jax", "torch"])
def test_the_same_command_prunes_and_trains_with_another_backend(backend: str, tmp_path: Path) -> None:
    if find_spec(backend) is None:
        pytest.skip(f"{backend} is not installed; TensorFlow is the default backend")
    images, rows = write_lesions(tmp_path / "moles"), tmp_path / "rows.csv"
    command = [*MOLES_ONCE.split(), "--distil", "--local", "--export", str(rows)]
    environment = os.environ | {
        "KERAS_BACKEND": backend,
        "DATA_DIR": str(tmp_path / "data"),
        "DATA_ROOTS": str(tmp_path),
    }
    run_command([sys.executable, "-m", "jobs", "prune-train", str(images), *command], env=environment, check=True)
    with rows.open(newline="") as file:
        steps = list(csv.DictReader(file))
    assert [step["name"] for step in steps] == ["Original", "R1: 50%"]
    assert all(float(step["seconds"]) > 0 and step["test_accuracy"] for step in steps)


@pytest.mark.parametrize(("given", "backend"), [("", "tensorflow"), ("jax", "jax")])
def test_the_versions_of_a_run_name_the_backend_that_is_set(
    given: str, backend: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KERAS_BACKEND", given)
    found = json.loads(versions.__wrapped__())
    assert {"keras", backend} <= set(found)
    assert len(set(found) & {"tensorflow", "jax", "torch"}) == 1


def test_building_a_model_imports_only_keras() -> None:
    source = (Path(__file__).resolve().parents[1] / "core" / "networks" / "keras_models.py").read_text()
    imports = [line for line in source.splitlines() if line.startswith(("import ", "from "))]
    assert not any(name in line for line in imports for name in ("tensorflow", "jax", "torch"))
