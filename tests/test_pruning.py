"""Pruning: exact floors, scopes, and consistent networks."""

from decimal import ROUND_FLOOR, Decimal
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.errors import SpecError
from core.networks.architectures import (
    ALEXNET,
    CUSTOM2,
    LENET5,
    NETWORKS,
    Conv,
    Dense,
    Flatten,
    NetworkSpec,
    Residual,
    walk,
)
from core.networks.pruning import FACTORS, SCOPE_LABELS, SCOPES, can_shrink, iterations, kept_share, prune, shrink


def convolutions(spec: NetworkSpec) -> list[int]:
    return [layer.filters for layer in spec.image if isinstance(layer, Conv | Residual)]


def dense(spec: NetworkSpec) -> list[int]:
    return [layer.units for layer in spec.image if isinstance(layer, Dense)]


@pytest.mark.parametrize(
    ("size", "factor", "expected"),
    [
        (10, 90, 1),  # 0 in floats: 10 · (1 − 0.9) = 0.9999…
        (10, "90", 1),
        (1024, 50, 512),
        (1, 50, 1),
        (3, 99, 1),
        (3, 33.33, 2),
        (192, 33.33, 128),
        (10000, 33.33, 6667),
        (100, 16.5, 83),
        (1000, 16.5, 835),
        (400, 8.25, 367),
        (10000, 8.25, 9175),
        (12, Fraction(100, 3), 8),
        (1000, Decimal("0.1"), 999),
    ],
)
def test_a_pruned_size_is_the_exact_floor_and_at_least_one(size, factor, expected) -> None:
    assert shrink(size, kept_share(factor)) == expected


@given(st.integers(1, 10**6), st.decimals("0.01", "99.99", places=2))
def test_a_pruned_size_equals_decimal_arithmetic_for_every_factor(size, factor) -> None:
    expected = (Decimal(size) * (100 - factor) / 100).to_integral_value(ROUND_FLOOR)
    assert shrink(size, kept_share(float(factor))) == max(1, int(expected))


@pytest.mark.parametrize("factor", [0, 100, -5, 150, "half", float("nan"), float("inf"), "1/0", None])
def test_an_impossible_factor_is_refused(factor) -> None:
    with pytest.raises(SpecError, match="Expected a pruning factor"):
        kept_share(factor)


@pytest.mark.parametrize(
    ("scope", "expected"),
    [
        ("all", [32, 96, 192, 192, 128]),
        ("first", [32, 192, 384, 384, 256]),
        ("first_two", [32, 96, 384, 384, 256]),
        ("first_three", [32, 96, 192, 384, 256]),
    ],
)
def test_a_scope_prunes_its_convolutions_and_always_the_first_two_dense_layers(scope, expected) -> None:
    smaller = prune(ALEXNET, 50, scope)
    assert convolutions(smaller) == expected
    assert dense(smaller) == [512, 512, 512]
    assert smaller.head == ALEXNET.head
    assert smaller.metadata == ALEXNET.metadata


def test_a_scope_larger_than_the_network_prunes_all_convolutions() -> None:
    assert prune(LENET5, 50, "first_three") == prune(LENET5, 50, "all")


def test_an_unknown_scope_is_refused() -> None:
    with pytest.raises(SpecError, match="Expected a scope of all, first, first_two, first_three, got 'last'"):
        prune(LENET5, 50, "last")


def test_every_scope_has_a_label() -> None:
    assert list(SCOPES) == list(SCOPE_LABELS)


def test_each_iteration_prunes_the_sizes_of_the_previous_one() -> None:
    assert [convolutions(spec)[0] for spec in iterations(LENET5, 33.33, "all", 3)] == [6, 4, 2, 1]


@pytest.mark.parametrize("count", [-1, 1.5, True])
def test_an_impossible_number_of_iterations_is_refused(count) -> None:
    with pytest.raises(SpecError, match="Expected a number of iterations of at least 0"):
        list(iterations(LENET5, 50, "all", count))


@pytest.mark.parametrize("factor", FACTORS)
@pytest.mark.parametrize("scope", SCOPES)
def test_a_network_can_be_pruned_until_every_size_in_scope_is_one(scope, factor) -> None:
    spec = CUSTOM2
    for _ in range(200):
        if not can_shrink(spec, factor, scope):
            break
        smaller = prune(spec, factor, scope)
        assert all(new <= old for new, old in zip(convolutions(smaller), convolutions(spec), strict=True))
        spec = smaller
    reached = convolutions(spec)[: SCOPES[scope]]
    assert reached == [1] * len(reached)
    assert dense(spec) == [1, 1]
    assert prune(spec, factor, scope) == spec


def test_residual_blocks_add_equal_shapes_under_every_scope() -> None:
    blocks_first = NetworkSpec(
        name="blocks",
        title="blocks",
        source="test",
        readings=(),
        image=(Conv(8, 3), Residual(8), Residual(8), Residual(16), Flatten(), Dense(6), Dense(5)),
        metadata=LENET5.metadata,
        head=LENET5.head,
    )
    for scope, expected in {
        "all": [4, 4, 4, 8],
        "first": [4, 8, 8, 16],
        "first_two": [4, 4, 8, 16],
        "first_three": [4, 4, 4, 16],
    }.items():
        smaller = prune(blocks_first, 50, scope)
        assert convolutions(smaller) == expected
        for step in walk(smaller, 20, 20):
            if isinstance(step.layer, Residual):
                assert step.output_shape[:2] == step.input_shape[:2]
                assert step.output_shape[2] == step.layer.filters


def test_pruning_does_not_change_the_original_network() -> None:
    before = {name: hash(spec) for name, spec in NETWORKS.items()}
    for spec in NETWORKS.values():
        list(iterations(spec, 50, "all", 3))
    assert {name: hash(spec) for name, spec in NETWORKS.items()} == before
