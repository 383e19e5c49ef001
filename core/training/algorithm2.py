"""Algorithm 2 without its trainings: the next network, the acceptance of a trained one, and the end of the run.

`start` creates a state, `next_step` returns the network to train, `record` adds its figures. The article's listing
returns before it prunes; this is the algorithm of its text and Table 6 (section 4.2).

A state holds only the outcomes, and everything else is computed from them. So a killed run resumes from
`from_dict(json.loads(...))`, which replays the outcomes and rejects a history that the rules cannot produce.

Steps are named as in Table 6. A network's history consists of the factors that led to it, one per step. Each series of
equal factors gives the number of its last step and its percentage: 50, 50 is `R2: 50%`; 50, 33.33 is
`R1, R2: 50%, 33%`; 50, 50, 33.33 is `R2, R3: 50%, 33%`. Percentages are truncated: 33.33 is 33, and 16.5 is 16.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from itertools import groupby
from typing import Any

from core.errors import SpecError
from core.networks.architectures import NetworkSpec
from core.networks.plain_data import network_from_dict, network_to_dict
from core.networks.pruning import can_shrink, prune
from core.training.specs import (
    CONTINUE,
    CRITERIA,
    DIFFERENCE_LOW,
    NONINFERIOR,
    TRAINING,
    VALIDATION,
    Baseline,
    Rules,
    article_baseline,
    percent,
)

ORIGINAL = "Original"
WORDS = {DIFFERENCE_LOW: "the lower end of the interval of the difference in test accuracy"}
ROUNDING = 1e-9  # a limit missed by less is met: 65.01 − 2 is a little above 63.01 in floats


def step_name(factors: tuple[float, ...]) -> str:
    """Name the network that these factors lead to, as Table 6 does: () is Original, (50, 33.33) R1, R2: 50%, 33%."""
    if not factors:
        return ORIGINAL
    numbers, percentages, last = [], [], 0
    for factor, row in groupby(factors):
        last += len(list(row))
        numbers.append(f"R{last}")
        percentages.append(percent(factor))
    return f"{', '.join(numbers)}: {', '.join(percentages)}"


@dataclass(frozen=True, slots=True)
class Step:
    """One network to train. index: 0 for the unpruned. factors: those that led to it, one per pruning step.

    base: the step whose network was shrunk, or the last one before it that has weights; None for the unpruned network.
    """

    index: int
    factors: tuple[float, ...]
    network: NetworkSpec
    base: Step | None = None

    @property
    def name(self) -> str:
        """The step's name in Table 6."""
        return step_name(self.factors)


@dataclass(frozen=True, slots=True)
class Stop:
    """The run is over; the reason is a sentence."""

    reason: str


@dataclass(frozen=True, slots=True)
class Acceptance:
    """Whether a network is accepted, or the first criterion it missed.

    criterion: one of `CRITERIA` or `DIFFERENCE_LOW`, None where accepted or where the training failed. value, needed:
    in percent, or points of `DIFFERENCE_LOW`. missed_by: points, above 0; None where a figure is undefined. reason: a
    sentence, empty where accepted.
    """

    accepted: bool
    criterion: str | None = None
    value: float | None = None
    needed: float | None = None
    missed_by: float | None = None
    reason: str = ""


def accept(
    figures: Mapping[str, float | None],
    unpruned: Mapping[str, float | None] | None,
    baseline: Baseline,
    rules: Rules | None = None,
) -> Acceptance:
    """Judge a network's figures, in percent; unpruned: those of the unpruned network, None for that network itself.

    rules: `accept` and `validation_tolerance` decide; `NONINFERIOR` needs the figure `DIFFERENCE_LOW`, in points.
    """
    rules = rules or Rules()
    noninferior = rules.accept == NONINFERIOR and unpruned is not None
    for criterion in (*TRAINING, *VALIDATION, DIFFERENCE_LOW) if noninferior else CRITERIA:
        value, needed = figures.get(criterion), baseline.needed(criterion, unpruned, rules.validation_tolerance)
        words = WORDS.get(criterion, criterion.replace("_", " "))
        if value is None:
            return Acceptance(False, criterion, None, needed, None, f"{words} is undefined")
        if needed is None:
            return Acceptance(False, criterion, value, None, None, f"the unpruned network's {words} is undefined")
        if value < needed - ROUNDING:
            missed = needed - value
            reason = f"{words} {value:.2f} is {missed:.2f} points under the {needed:.2f} needed"
            return Acceptance(False, criterion, value, needed, missed, reason)
    return Acceptance(True)


@dataclass(frozen=True, slots=True)
class Outcome:
    """A step that was trained. failure: why it could not be.

    figures: `CRITERIA` in percent, None where undefined; of a pruned network `DIFFERENCE_LOW` in points, where known.
    """

    factors: tuple[float, ...]
    figures: Mapping[str, float | None]
    failure: str
    acceptance: Acceptance

    @property
    def name(self) -> str:
        """The step's name in Table 6."""
        return step_name(self.factors)


@dataclass(frozen=True, slots=True)
class State:
    """A run of Algorithm 2 so far: the unpruned network, what was asked for, and the outcomes in their order.

    unpruned_right: for each test image whether the unpruned network was right; empty where unknown.
    """

    network: NetworkSpec
    rules: Rules = field(default_factory=Rules)
    baseline: Baseline = field(default_factory=Baseline)
    outcomes: tuple[Outcome, ...] = ()
    unpruned_right: Mapping[str, bool] = field(default_factory=dict)


def start(network: NetworkSpec, rules: Rules | None = None, baseline: Baseline | None = None) -> State:
    """Return the state before the first training; thresholds default to the article's for the network."""
    return State(network, rules or Rules(), baseline or article_baseline(network.name))


@dataclass(frozen=True, slots=True)
class Position:
    """Where a run stands: histories of the last accepted and the last trained network, failures in a row, factor."""

    accepted: tuple[float, ...]
    base: tuple[float, ...]  # the network to shrink next
    failures: int
    factor: int


def position(state: State) -> Position:
    """Work out from the outcomes where the run stands; the unpruned network counts as accepted, whatever it reached."""
    at = Position((), (), 0, 0)
    for outcome in state.outcomes[1:]:
        if outcome.acceptance.accepted:
            at = replace(at, accepted=outcome.factors, base=outcome.factors, failures=0)
            continue
        factor = state.rules.factors[at.factor]
        proven = bool(at.accepted) and at.accepted[-1] == factor
        last = at.factor == len(state.rules.factors) - 1
        if state.rules.on_reject == CONTINUE and (proven or last):
            at = replace(at, base=outcome.factors, failures=at.failures + 1)
        else:
            at = replace(at, base=at.accepted, failures=at.failures + 1, factor=at.factor + 1)
    return at


def pruned(state: State, factors: tuple[float, ...]) -> NetworkSpec:
    """Return the network that a history of factors leads to."""
    network = state.network
    for factor in factors:
        network = prune(network, factor, state.rules.scope)
    return network


def next_step(state: State) -> Step | Stop:
    """Return the network to train next, or why the run is over."""
    rules, trained = state.rules, len(state.outcomes)
    if not trained:
        return Step(0, (), state.network)
    if state.outcomes[0].failure:
        return Stop(f"The unpruned network could not be trained: {state.outcomes[0].failure}")
    at = position(state)
    if at.failures >= rules.max_failures:
        times = "once" if at.failures == 1 else f"{at.failures} times in a row"
        return Stop(f"The baseline was missed {times}.")
    if rules.max_iterations is not None and trained > rules.max_iterations:
        networks = "network" if rules.max_iterations == 1 else "networks"
        return Stop(f"The limit of {rules.max_iterations} pruned {networks} is reached.")
    if at.factor >= len(rules.factors):
        return Stop("Every pruning factor has been tried.")
    base, factor = pruned(state, at.base), rules.factors[at.factor]
    if not can_shrink(base, factor, rules.scope):
        return Stop(f"Nothing shrinks any more: every layer in scope of {step_name(at.base)} has size 1.")
    return Step(trained, (*at.base, factor), prune(base, factor, rules.scope), with_weights(state, at.base))


def with_weights(state: State, factors: tuple[float, ...]) -> Step:
    """Return the step with this history of factors; if it could not be trained, the last one before it that was."""
    trained = [
        (len(outcome.factors), number, outcome.factors)
        for number, outcome in enumerate(state.outcomes)
        if not outcome.failure and outcome.factors == factors[: len(outcome.factors)]
    ]
    _, index, history = max(trained)
    return Step(index, history, pruned(state, history))


def record(state: State, step: Step, metrics: Mapping[str, Any] | None, failure: str = "") -> State:
    """Return the state after a step was trained; the new outcome carries the verdict.

    metrics: a mapping with `CRITERIA` in percent, None or NaN where undefined, and `DIFFERENCE_LOW` in points where it
    is known; other keys are not looked at. A step
    that could not be trained has None and a failure, a sentence: it counts as rejected. Raises SpecError where the
    step is not the one whose turn it is.
    """
    expected = next_step(state)
    if expected != step:
        turn = expected.name if isinstance(expected, Step) else f"none, the run is over ({expected.reason})"
        raise SpecError(f"expected the outcome of the step {turn}, got that of {step.name}")
    if (metrics is None) != bool(failure):
        raise SpecError("expected either a step's figures or the failure that left it without, got both or neither")
    if metrics is None:
        outcome = Outcome(step.factors, {}, failure, Acceptance(False, reason=f"could not be trained: {failure}"))
    else:
        figures = {criterion: figure(criterion, metrics) for criterion in CRITERIA}
        if metrics.get(DIFFERENCE_LOW) is not None:
            figures[DIFFERENCE_LOW] = float(metrics[DIFFERENCE_LOW])
        unpruned = state.outcomes[0].figures if state.outcomes else None
        outcome = Outcome(step.factors, figures, "", accept(figures, unpruned, state.baseline, state.rules))
    return replace(state, outcomes=(*state.outcomes, outcome))


def figure(criterion: str, metrics: Mapping[str, Any]) -> float | None:
    """Return one figure as a percentage, None where it is undefined; a missing one is an error, not undefined."""
    if criterion not in metrics:
        raise SpecError(f"expected the figures {', '.join(CRITERIA)}, got none for {criterion}")
    value = metrics[criterion]
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= 100:
        raise SpecError(f"Expected {criterion} to be a number from 0 to 100 percent, got {value!r}.")
    return float(value)


def to_dict(state: State) -> dict[str, Any]:
    """Return a state as JSON takes it."""
    return {
        "network": network_to_dict(state.network),
        "rules": state.rules.to_dict(),
        "baseline": state.baseline.to_dict(),
        "outcomes": [
            {
                "name": outcome.name,
                "factors": list(outcome.factors),
                "figures": dict(outcome.figures),
                "failure": outcome.failure,
                "acceptance": asdict(outcome.acceptance),
            }
            for outcome in state.outcomes
        ],
        "unpruned_right": dict(state.unpruned_right),
    }


def from_dict(data: object) -> State:
    """Turn plain data into a state by replaying its outcomes.

    Raises SpecError where an outcome is not the one that the rules lead to, or its verdict not the one they give.
    """
    if not isinstance(data, Mapping) or not {"network", "rules", "baseline", "outcomes"} <= data.keys():
        raise SpecError("expected a run with the fields network, rules, baseline and outcomes, got something else")
    state = State(
        network_from_dict(data["network"]), Rules.from_dict(data["rules"]), Baseline.from_dict(data["baseline"])
    )
    for outcome in data["outcomes"]:
        step = next_step(state)
        if isinstance(step, Stop) or step.factors != tuple(outcome["factors"]):
            turn = step.name if isinstance(step, Step) else f"none ({step.reason})"
            raise SpecError(f"expected the outcome of the step {turn}, got that of {outcome.get('name')}")
        state = record(state, step, None if outcome["failure"] else outcome["figures"], outcome["failure"])
        accepted = state.outcomes[-1].acceptance.accepted
        if accepted != outcome["acceptance"]["accepted"]:
            verdict = "accepted" if accepted else "rejected"
            raise SpecError(f"expected {step.name} to be {verdict} by its figures, got the opposite")
    return replace(state, unpruned_right=data.get("unpruned_right", {}))
