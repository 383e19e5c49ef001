"""Algorithm 2 without training: the histories of Table 6, every reason to stop, and properties of any history."""

import json
from collections.abc import Callable, Iterable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from core.article.printed import table as printed_table
from core.errors import SpecError
from core.networks.architectures import ALEXNET, CUSTOM1, CUSTOM2, LENET5, NETWORKS, Conv, Dense, Flatten, NetworkSpec
from core.networks.costs import network_cost
from core.networks.pruning import FACTORS
from core.training.algorithm2 import (
    ORIGINAL,
    State,
    Step,
    Stop,
    from_dict,
    next_step,
    position,
    record,
    start,
    step_name,
    to_dict,
)
from core.training.specs import CONTINUE, CRITERIA, ON_REJECT, STOP_AT_ACCEPTED, Baseline, Rules, article_baseline

GOOD = dict.fromkeys(CRITERIA, 95.0)
BAD = GOOD | {"test_accuracy": 50.0}
TINY = NetworkSpec("tiny", "tiny", "", (), (Conv(2, 3), Flatten(), Dense(3), Dense(2)), (Dense(1),), (Dense(4),))


def run(state: State, figures: Callable[[Step], dict[str, float | None]], limit: int = 60) -> tuple[State, Stop]:
    for _ in range(limit):
        step = next_step(state)
        if isinstance(step, Stop):
            return state, step
        state = record(state, step, figures(step))
    raise AssertionError("the run did not end")


def play(network: NetworkSpec, rules: Rules, verdicts: Iterable[bool]) -> tuple[State, Stop]:
    answers = iter(verdicts)
    return run(start(network, rules), lambda step: GOOD if not step.index or next(answers, False) else BAD)


def names(state: State) -> list[str]:
    return [outcome.name for outcome in state.outcomes]


def accepted(state: State) -> list[bool]:
    return [outcome.acceptance.accepted for outcome in state.outcomes]


def printed(network: str, **unprinted: dict[str, float]) -> dict[str, dict[str, float | None]]:
    """Return Table 6's test metrics; training and validation metrics, which are not printed, meet the baseline."""
    rows = (
        printed_table(6)
        .query("network == @network")
        .set_index("name")[["test_accuracy", "test_precision", "test_recall"]]
    )
    return {
        str(name): dict.fromkeys(CRITERIA, 90.0) | dict(row) | unprinted.get(str(name), {})
        for name, row in rows.iterrows()
    }


def replay(network: NetworkSpec, rules: Rules, table: dict[str, dict[str, float | None]]) -> State:
    return run(start(network, rules), lambda step: table[step.name])[0]


def test_pruned_lenet5_of_table_6_is_never_accepted() -> None:
    table = printed("lenet5")
    state = replay(LENET5, Rules(factors=(50, 33.33), on_reject=CONTINUE, max_failures=3), table)
    assert names(state) == list(table)
    assert accepted(state) == [True, False, False, False]
    assert [round(outcome.acceptance.missed_by or 0, 2) for outcome in state.outcomes] == [0, 3.00, 1.34, 6.34]
    assert step_name(position(state).accepted) == ORIGINAL
    # With the article's limit of two failures the run ends one row earlier.
    assert names(replay(LENET5, Rules(factors=(50, 33.33), on_reject=CONTINUE), table)) == list(table)[:3]


def test_alexnet_of_table_6_continues_from_rejected_networks_and_keeps_r3() -> None:
    # The text says that R4 and R5 missed training and testing; the printed test metrics of R5 would pass.
    missed = {"train_accuracy": 89.0}
    table = printed("alexnet", **{"R4: 50%": missed, "R5: 50%": missed})
    state = replay(ALEXNET, Rules(on_reject=CONTINUE), table)
    assert names(state) == list(table)
    assert accepted(state) == [True, True, True, True, False, False]
    assert step_name(position(state).accepted) == "R3: 50%"
    assert next_step(state) == Stop("The baseline was missed 2 times in a row.")


def test_alexnets_printed_test_figures_reject_r4_and_accept_r5() -> None:
    table = printed("alexnet")
    state = replay(ALEXNET, Rules(on_reject=CONTINUE, max_iterations=5), table)
    assert accepted(state) == [True, True, True, True, False, True]
    assert state.outcomes[4].acceptance.reason == "test accuracy 70.83 is 0.50 points under the 71.33 needed"


def test_custom2_of_table_6_is_accepted_after_a_rejected_network() -> None:
    table = printed("custom2")
    state = replay(CUSTOM2, Rules(factors=(50, 33.33), on_reject=CONTINUE, max_failures=3, max_iterations=3), table)
    assert names(state) == list(table)
    assert accepted(state) == [True, False, False, True]
    assert step_name(position(state).accepted) == "R2: 33%"
    assert names(replay(CUSTOM2, Rules(factors=(50, 33.33)), table)) == list(table)[:3]


def test_custom1_of_table_6_needs_two_runs() -> None:
    # After R1: 50% is accepted, the second halving follows, which is not in the table. R1: 33% starts from the
    # original again, so it is a separate run. The last row misses all three test limits.
    table = printed("custom1", **{"R2: 50%": {"test_accuracy": 0.0}})
    table["R2: 50%"] = dict(BAD)
    state = replay(CUSTOM1, Rules(factors=(50, 33.33)), table)
    assert names(state) == [ORIGINAL, "R1: 50%", "R2: 50%", "R1, R2: 50%, 33%"]
    assert accepted(state) == [True, True, False, False]
    assert state.outcomes[3].acceptance.reason == "test accuracy 74.72 is 0.22 points under the 74.94 needed"
    other = replay(CUSTOM1, Rules(factors=(33.33,)), table)
    assert names(other) == [ORIGINAL, "R1: 33%"]
    assert accepted(other) == [True, False]
    assert {*names(state), *names(other)} - {"R2: 50%"} == set(printed("custom1"))


@pytest.mark.parametrize(
    ("factors", "name"),
    [
        ((), "Original"),
        ((50,), "R1: 50%"),
        ((50, 50), "R2: 50%"),
        ((33.33, 33.33), "R2: 33%"),
        ((50, 33.33), "R1, R2: 50%, 33%"),
        ((50, 50, 33.33), "R2, R3: 50%, 33%"),
        ((50, 33.33, 33.33, 16.5), "R1, R3, R4: 50%, 33%, 16%"),
        ((8.25,), "R1: 8%"),
        ((0.5,), "R1: 0.5%"),
    ],
)
def test_steps_are_named_as_in_table_6(factors, name) -> None:
    assert step_name(factors) == name


def test_the_same_factor_follows_an_acceptance_and_the_next_one_a_rejection() -> None:
    state, _ = play(ALEXNET, Rules(), [True, False, True, True, False])
    assert names(state) == [
        "Original",
        "R1: 50%",
        "R2: 50%",
        "R1, R2: 50%, 33%",
        "R1, R3: 50%, 33%",
        "R1, R4: 50%, 33%",
        "R1, R3, R4: 50%, 33%, 16%",
    ]
    assert step_name(position(state).accepted) == "R1, R3: 50%, 33%"
    assert state.outcomes[4].factors == position(state).accepted


@pytest.mark.parametrize(
    ("network", "rules", "verdicts", "reason"),
    [
        (ALEXNET, Rules(), [], "The baseline was missed 2 times in a row."),
        (ALEXNET, Rules(max_failures=1), [True], "The baseline was missed once."),
        (ALEXNET, Rules(max_iterations=3), [True] * 9, "The limit of 3 pruned networks is reached."),
        (ALEXNET, Rules(max_failures=9), [], "Every pruning factor has been tried."),
        (ALEXNET, Rules(factors=(50,)), [True, False], "Every pruning factor has been tried."),
        (TINY, Rules(), [True] * 9, "Nothing shrinks any more: every layer in scope of R1: 50% has size 1."),
        (TINY, Rules(factors=(50,), on_reject=CONTINUE, max_failures=9), [],
         "Nothing shrinks any more: every layer in scope of R1: 50% has size 1."),
    ],
)  # fmt: skip
def test_a_run_stops_with_the_reason(network, rules, verdicts, reason) -> None:
    assert play(network, rules, verdicts)[1].reason == reason


def test_two_failures_that_are_not_in_a_row_do_not_stop_a_run() -> None:
    state, stop = play(ALEXNET, Rules(), [False, True, False, True, False, False])
    assert accepted(state) == [True, False, True, False, True, False, False]
    assert stop.reason == "The baseline was missed 2 times in a row."


@pytest.mark.parametrize("criterion", CRITERIA)
def test_each_single_criterion_rejects_a_step_and_is_named(criterion) -> None:
    state = start(ALEXNET, Rules())
    state = record(state, next_step(state), dict.fromkeys(CRITERIA, 92.0))
    limits = {"train": 90, "validation": 80, "test": 90}
    limit = limits[criterion.partition("_")[0]]
    at_limit = record(state, next_step(state), dict.fromkeys(CRITERIA, 92.0) | {criterion: limit})
    assert at_limit.outcomes[-1].acceptance.accepted
    under = record(state, next_step(state), dict.fromkeys(CRITERIA, 92.0) | {criterion: limit - 0.25})
    verdict = under.outcomes[-1].acceptance
    assert (verdict.accepted, verdict.criterion, verdict.value, verdict.needed) == (
        False,
        criterion,
        limit - 0.25,
        limit,
    )
    assert verdict.missed_by == pytest.approx(0.25)
    undefined = record(state, next_step(state), dict.fromkeys(CRITERIA, 92.0) | {criterion: float("nan")})
    assert undefined.outcomes[-1].acceptance.reason == f"{criterion.replace('_', ' ')} is undefined"


def test_the_first_missed_criterion_is_named() -> None:
    state = start(ALEXNET)
    state = record(state, next_step(state), dict.fromkeys(CRITERIA, 10.0))
    assert state.outcomes[0].acceptance.criterion == "train_accuracy"


def test_pruning_starts_from_an_unpruned_network_even_below_the_baseline() -> None:
    state = record(start(LENET5), next_step(start(LENET5)), dict.fromkeys(CRITERIA, 60.0))
    assert not state.outcomes[0].acceptance.accepted
    step = next_step(state)
    assert isinstance(step, Step)
    assert step.name == "R1: 50%"


def test_a_test_limit_is_met_exactly_in_spite_of_rounding() -> None:
    state = start(LENET5)
    state = record(state, next_step(state), GOOD | {"test_recall": 65.01})
    state = record(state, next_step(state), GOOD | {"test_recall": 63.01})
    assert state.outcomes[-1].acceptance.accepted


def test_lenet5_has_a_lower_validation_baseline() -> None:
    assert article_baseline("lenet5").validation_precision == 75
    assert start(LENET5).baseline.validation_accuracy == 75
    assert start(ALEXNET).baseline == Baseline()


def test_with_a_validation_tolerance_the_unpruned_network_sets_the_baseline() -> None:
    state = start(ALEXNET, Rules(validation_tolerance=2))
    low = GOOD | {"train_accuracy": 85.0, "validation_accuracy": 70.0, "validation_precision": 71.0}  # not 90, 80
    state = record(state, next_step(state), low)
    state = record(state, next_step(state), low | {"validation_accuracy": 68.0})
    state = record(state, next_step(state), low | {"validation_precision": 68.9})
    assert accepted(state) == [True, True, False]
    missed = state.outcomes[-1].acceptance
    assert (missed.criterion, missed.needed) == ("validation_precision", 69.0)
    assert from_dict(json.loads(json.dumps(to_dict(state)))) == state


def test_rules_without_a_validation_tolerance_are_stored_as_before() -> None:
    assert "validation_tolerance" not in Rules().to_dict()
    assert Rules(validation_tolerance=0).to_dict()["validation_tolerance"] == 0


def test_a_step_that_could_not_be_trained_counts_as_rejected() -> None:
    state = start(ALEXNET)
    state = record(state, next_step(state), GOOD)
    state = record(state, next_step(state), None, "out of memory")
    assert state.outcomes[-1].acceptance.reason == "could not be trained: out of memory"
    assert next_step(state).name == "R1: 33%"
    assert from_dict(json.loads(json.dumps(to_dict(state)))) == state


def test_nothing_follows_an_unpruned_network_that_could_not_be_trained() -> None:
    state = record(start(ALEXNET), next_step(start(ALEXNET)), None, "loss is NaN")
    assert next_step(state) == Stop("The unpruned network could not be trained: loss is NaN")


def test_only_the_next_step_can_be_recorded() -> None:
    state = start(ALEXNET)
    first = next_step(state)
    state = record(state, first, GOOD)
    with pytest.raises(SpecError, match=r"expected the outcome of the step R1: 50%, got that of Original"):
        record(state, first, GOOD)


def test_missing_and_impossible_metrics_are_refused() -> None:
    state = start(ALEXNET)
    with pytest.raises(SpecError, match="got none for test_recall"):
        record(state, next_step(state), {name: 90 for name in CRITERIA if name != "test_recall"})
    with pytest.raises(SpecError, match="Expected train_accuracy to be a number from 0 to 100 percent, got 150"):
        record(state, next_step(state), GOOD | {"train_accuracy": 150})
    with pytest.raises(SpecError, match="either a step's figures or the failure"):
        record(state, next_step(state), None)


@pytest.mark.parametrize(
    "wrong",
    [
        {"factors": ()},
        {"factors": (0,)},
        {"factors": ("50",)},
        {"factors": (33.33, 33)},
        {"factors": (50, 50)},
        {"scope": "last"},
        {"max_failures": 0},
        {"max_iterations": 0},
        {"max_iterations": 1.5},
        {"on_reject": "give up"},
    ],
)
def test_invalid_rules_are_refused(wrong) -> None:
    with pytest.raises(SpecError, match="Expected"):
        Rules(**wrong)


def test_a_changed_history_is_refused() -> None:
    state, _ = play(ALEXNET, Rules(), [True])
    plain = to_dict(state)
    plain["outcomes"][2]["factors"] = [33.33]
    with pytest.raises(SpecError, match="expected the outcome of the step R2: 50%"):
        from_dict(plain)
    plain = to_dict(state)
    plain["outcomes"][1]["acceptance"]["accepted"] = False
    with pytest.raises(SpecError, match="expected R1: 50% to be accepted by its figures"):
        from_dict(plain)
    with pytest.raises(SpecError, match="got factor"):
        from_dict(to_dict(state) | {"rules": {"factor": 50}})
    with pytest.raises(SpecError, match="expected a run with the fields"):
        from_dict([])


rules = st.builds(
    Rules,
    factors=st.lists(st.sampled_from(FACTORS), min_size=1, unique=True).map(tuple),
    scope=st.sampled_from(["all", "first", "first_two", "first_three"]),
    max_failures=st.integers(1, 4),
    max_iterations=st.none() | st.integers(1, 12),
    on_reject=st.sampled_from(list(ON_REJECT)),
)
verdicts = st.lists(st.booleans(), max_size=40)


@settings(deadline=None)  # other tests may use the cores
@given(st.sampled_from(list(NETWORKS.values())), rules, verdicts)
def test_any_history_ends_without_growth_and_keeps_accepted_steps(network, rules, verdicts) -> None:
    answers = iter(verdicts)
    state, kept = start(network, rules), ()
    parameters = {(): network_cost(network, 200, 100).parameters}
    for _ in range(1000):
        step = next_step(state)
        if isinstance(step, Stop):
            break
        good = not step.index or next(answers, False)
        state = record(state, step, GOOD if good else BAD)
        kept = step.factors if good else kept
        assert position(state).accepted == kept
        parameters[step.factors] = network_cost(step.network, 200, 100).parameters
        if step.factors:
            assert parameters[step.factors] < parameters[step.factors[:-1]]
        if rules.on_reject == STOP_AT_ACCEPTED and step.factors:
            assert step.factors[:-1] in {o.factors for o in state.outcomes if o.acceptance.accepted}
        assert from_dict(json.loads(json.dumps(to_dict(state)))) == state
    else:
        raise AssertionError("the run did not end")
    assert len(set(names(state))) == len(names(state))
    assert rules.max_iterations is None or len(state.outcomes) <= rules.max_iterations + 1
