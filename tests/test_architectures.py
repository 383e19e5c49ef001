"""The layer records, the four specs, and the walk that gives every layer its shape."""

import json
import sys
from dataclasses import replace

import pytest

from benchmarks.processes import run_command
from core.errors import SpecError
from core.networks.architectures import (
    ALEXNET,
    CUSTOM1,
    CUSTOM2,
    LENET5,
    METADATA_BRANCH,
    NETWORKS,
    BatchNorm,
    Concatenate,
    Conv,
    Dense,
    Dropout,
    Flatten,
    GlobalAveragePool,
    MaxPool,
    NetworkError,
    NetworkSpec,
    Residual,
    ZeroPad,
    output_shape,
    walk,
)
from core.networks.plain_data import network_from_dict, network_to_dict


def shapes(spec: NetworkSpec, height: int, width: int) -> dict[str, tuple[int, ...]]:
    return {step.name: step.output_shape for step in walk(spec, height, width)}


def sizes(spec: NetworkSpec, kind: type) -> list[int]:
    return [layer.filters if kind is Conv else layer.units for layer in spec.image if isinstance(layer, kind)]


def test_the_four_networks_have_the_articles_filters_and_units() -> None:
    assert list(NETWORKS) == ["lenet5", "alexnet", "custom1", "custom2"]
    assert sizes(LENET5, Conv) == [6, 16]
    assert sizes(LENET5, Dense) == [84, 120]
    assert sizes(ALEXNET, Conv) == [64, 192, 384, 384, 256]
    assert sizes(ALEXNET, Dense) == [1024, 1024, 512]
    assert sizes(CUSTOM1, Conv) == [16, 48, 92, 192, 192, 256]
    assert sizes(CUSTOM1, Dense) == [1024, 1024, 512]
    assert sizes(CUSTOM2, Conv) == [16, 32, 64, 96, 192]
    assert [layer.filters for layer in CUSTOM2.image if isinstance(layer, Residual)] == [192, 256]
    assert sizes(CUSTOM2, Dense) == [1024, 512]
    for spec in NETWORKS.values():
        assert [layer.units for layer in spec.metadata if isinstance(layer, Dense)] == [4, 6, 2, 1]
        assert [layer.units for layer in spec.head] == ([16, 4] if spec is LENET5 else [8, 4])


def test_each_network_names_its_source_and_how_the_article_was_read() -> None:
    for spec in NETWORKS.values():
        assert spec.source
        assert all(reading.endswith(".") for reading in spec.readings)
    assert "Table 3" in ALEXNET.source
    assert any("pooling" in reading for reading in ALEXNET.readings)
    for spec in (CUSTOM1, CUSTOM2):
        assert any("same padding" in reading for reading in spec.readings)
    assert any("1024 and 512" in reading for reading in CUSTOM2.readings)


def test_alexnets_feature_maps_at_200x100_equal_a_calculation_by_hand() -> None:
    assert [
        step.output_shape for step in walk(ALEXNET, 200, 100) if isinstance(step.layer, Conv | MaxPool | Flatten)
    ] == [
        (98, 48, 64),
        (48, 23, 64),
        (48, 23, 192),
        (23, 11, 192),
        (23, 11, 384),
        (23, 11, 384),
        (23, 11, 256),
        (11, 5, 256),
        (14080,),
    ]


def test_the_head_starts_with_the_concatenated_image_and_metadata_outputs() -> None:
    steps = list(walk(LENET5, 200, 100))
    joined = next(step for step in steps if isinstance(step.layer, Concatenate))
    assert joined.output_shape == (120 + 1,)
    assert steps[-1].output_shape == (4,)
    assert [step.branch for step in steps] == sorted(
        (step.branch for step in steps), key=["image", "metadata", "head"].index
    )


def test_layer_names_are_unique_and_start_with_the_branch() -> None:
    for spec in NETWORKS.values():
        steps = list(walk(spec, 200, 100))
        assert len({step.name for step in steps}) == len(steps)
        assert all(step.name.startswith(f"{step.branch}_") for step in steps)
    assert "image_conv2" in shapes(LENET5, 200, 100)


@pytest.mark.parametrize(
    ("layer", "shape", "expected"),
    [
        (Conv(7, 3), (10, 9, 2), (8, 7, 7)),
        (Conv(7, 3, stride=2), (10, 9, 2), (4, 4, 7)),
        (Conv(7, 3, stride=2, padding="same"), (9, 10, 2), (5, 5, 7)),
        (MaxPool(2), (5, 4, 3), (2, 2, 3)),
        (MaxPool(3, 2), (5, 4, 3), (2, 1, 3)),
        (ZeroPad(2), (5, 4, 3), (9, 8, 3)),
        (BatchNorm(), (5, 4, 3), (5, 4, 3)),
        (Dropout(0.5), (7,), (7,)),
        (Flatten(), (5, 4, 3), (60,)),
        (GlobalAveragePool(), (5, 4, 3), (3,)),
        (Dense(6), (60,), (6,)),
        (Residual(8), (5, 4, 3), (5, 4, 8)),
    ],
)
def test_each_layer_has_the_output_shape_of_its_definition(layer, shape, expected) -> None:
    assert output_shape(layer, shape) == expected


@pytest.mark.parametrize(
    ("spec", "height", "width", "layer"),
    [
        (LENET5, 8, 8, "image_conv2"),
        (LENET5, 4, 100, "image_conv1"),
        (ALEXNET, 20, 20, "image_max_pool3"),
        (CUSTOM1, 63, 100, "image_max_pool6"),
        (CUSTOM2, 200, 31, "image_max_pool5"),
    ],
)
def test_an_input_size_that_is_too_small_names_the_layer_that_has_no_output(spec, height, width, layer) -> None:
    with pytest.raises(
        SpecError, match=rf"{spec.name}, got {height}×{width}, which leaves nothing at {layer}: it needs"
    ):
        list(walk(spec, height, width))


def test_the_smallest_size_that_leaves_one_pixel_is_accepted() -> None:
    assert shapes(CUSTOM1, 64, 64)["image_max_pool6"] == (1, 1, 256)
    assert shapes(LENET5, 16, 16)["image_max_pool2"] == (1, 1, 16)


@pytest.mark.parametrize("size", [0, -1, 2.5, True, "200"])
def test_an_impossible_input_size_is_refused(size) -> None:
    with pytest.raises(
        SpecError, match="Expected the height of lenet5's input to be a whole number from 1 to 10,000, got"
    ):
        list(walk(LENET5, size, 100))


def test_networks_can_be_written_to_json_and_read_back() -> None:
    ranked = replace(LENET5, name="ranked", image=(*LENET5.image[:-1], Dense(120, rank=9)))
    assert network_to_dict(ranked)["image"][-1] == {"layer": "dense", "units": 120, "rank": 9}
    for spec in (*NETWORKS.values(), ranked):
        assert network_from_dict(json.loads(json.dumps(network_to_dict(spec)))) == spec


@pytest.mark.parametrize(
    ("change", "message", "path"),
    [
        ({"image": None}, "Expected image to be a list of layers, got None", ("image",)),
        ({"colour": 1}, "got the unknown field 'colour'", ("colour",)),
        ({"name": "my net"}, "Expected a name of 1 to 40 letters, digits, - and _, got 'my net'", ("name",)),
        ({"title": 3}, "Expected title to be text, got 3", ("title",)),
        ({"readings": "one"}, "Expected readings to be a list of sentences, got 'one'", ("readings",)),
        (
            {"image": [{"layer": "cnov"}]},
            "layer 1: Expected layer to be one of conv, .* got 'cnov'",
            ("image", 0, "layer"),
        ),
        ({"image": [{"layer": "conv", "filters": 4}]}, "Expected the kernel of conv, got none", ("image", 0)),
        (
            {"image": [{"layer": "flatten", "size": 2}]},
            "Expected no fields for flatten, got the unknown",
            ("image", 0, "size"),
        ),
        ({"image": [{"layer": "flatten"}, {"layer": "dense", "units": 0}]}, "layer 2: .* got 0", ("image", 1, "units")),
        (
            {"image": [{"layer": "dropout", "rate": 1}]},
            "rate of dropout to be from 0 to below 1, got 1",
            ("image", 0, "rate"),
        ),
        ({"image": [{"layer": "zero_pad", "pad": "2"}]}, "got '2'", ("image", 0, "pad")),
        ({"image": [{"layer": "max_pool", "size": 2, "stride": 0}]}, "stride .* got 0", ("image", 0, "stride")),
        (
            {"image": [{"layer": "conv", "filters": 4, "kernel": 3, "padding": "full"}]},
            "padding",
            ("image", 0, "padding"),
        ),
        ({"image": ["flatten"]}, "Expected a layer such as .* got 'flatten'", ("image", 0)),
        ({"image": [{"layer": "concatenate"}]}, "got 'concatenate'", ("image", 0, "layer")),
        ({"image": [{"layer": "conv", "filters": 4, "kernel": 3}]}, "Expected a flatten or", ("image",)),
        (
            {"image": [{"layer": "dense", "units": 4}]},
            "Expected a flatten in image before the first dense",
            ("image", 0),
        ),
        ({"image": [{"layer": "flatten"}, {"layer": "flatten"}]}, "no flatten in image after .* flat", ("image", 1)),
        ({"metadata": []}, "Expected at least one layer in metadata", ("metadata",)),
        ({"head": [{"layer": "flatten"}]}, "Expected dense, dropout or batch_norm in head, got flatten", ("head", 0)),
        ({"head": [{"layer": "dense", "units": 5}]}, "dense of 4 units, one per class", ("head", 0)),
    ],
)
def test_an_invalid_description_raises_an_error_with_the_expectation_and_the_path(change, message, path) -> None:
    with pytest.raises(NetworkError, match=message) as error:
        network_from_dict(network_to_dict(LENET5) | change)
    assert error.value.path == path


def test_the_metadata_branch_and_the_head_default_to_those_of_the_article() -> None:
    spec = network_from_dict({"name": "small", "image": [{"layer": "flatten"}]})
    assert spec.metadata == METADATA_BRANCH
    assert spec.head == LENET5.head
    assert spec.title == "small"


def test_specs_are_immutable_and_equal_specs_have_equal_hashes() -> None:
    with pytest.raises(AttributeError):
        LENET5.image[0].filters = 3
    assert len({LENET5, replace(LENET5)}) == 1


def test_counting_parameters_imports_neither_keras_nor_numpy_nor_pandas() -> None:
    code = (
        "import sys; from core.networks.architectures import NETWORKS;"
        "from core.networks.costs import network_cost;"
        "print(network_cost(NETWORKS['alexnet'], 200, 100).parameters);"
        "print([m for m in ('keras', 'tensorflow', 'numpy', 'pandas', 'scipy') if m in sys.modules])"
    )
    done = run_command([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == ["19186227", "[]"]
