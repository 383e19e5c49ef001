"""Algorithm 2 without its trainings: which network comes next, whether a trained one is accepted, and when to stop.

`start` makes a state, `next_step` says what to train, `record` takes the figures it reached. The listing that the
article prints returns before it prunes; this is the algorithm as its text and Table 6 use it (section 4.2).

A state holds the outcomes alone and all else is worked out from them, so a run that was killed goes on from
`from_dict(json.loads(...))`, which replays them and refuses a history that its own rules would not have made.

Steps are named as in Table 6. A network's history is the factors that led to it, one a step. Each row of equal factors
in it gives the number of its last step and its percentage: 50, 50 is `R2: 50%`; 50, 33.33 is `R1, R2: 50%, 33%`;
50, 50, 33.33 is `R2, R3: 50%, 33%`. Percentages are cut to their whole part, as the table's 33.33 is: 16.5 is 16.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from itertools import groupby
from typing import Any, cast

from core.errors import SpecError
from core.networks.architectures import NetworkSpec
from core.networks.architectures import from_dict as network_from_dict
from core.networks.architectures import to_dict as network_to_dict
from core.networks.pruning import FACTORS, SCOPES, can_shrink, kept_share, prune

ORIGINAL = "Original"
MOST_STEPS = 10_000  # of a run, or failures in it: no network shrinks so often
ROUNDING = 1e-9  # a limit missed by less is met: 65.01 − 2 is a little above 63.01 in floats

# What is shrunk after a rejection, and by which factor.
STOP_AT_ACCEPTED, CONTINUE = "stop at accepted", "continue"
ON_REJECT: dict[str, str] = {
    STOP_AT_ACCEPTED: "Go back to the last accepted network and shrink it by the next factor.",
    CONTINUE: (
        "Shrink the rejected network on by the same factor, where that factor led to the last accepted network or is "
        "the last one; a factor that failed at its first attempt gives way to the next, from the last accepted network."
    ),
}

# The figures that decide, all in percent: the first criterion missed is the one that is named.
TRAINING = ("train_accuracy", "train_precision")
VALIDATION = ("validation_accuracy", "validation_precision")
TEST = ("test_accuracy", "test_precision", "test_recall")
CRITERIA = (*TRAINING, *VALIDATION, *TEST)
ARTICLE_VALIDATION = {"lenet5": 75.0}  # section 5.2: the shallow network's lower bar


def require_percent(name: str, value: object) -> None:
    """Raise SpecError unless the value is a number from 0 to 100."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= 100:
        raise SpecError(f"expected {name} to lie between 0 and 100 percent, got {value!r}")


def require_count(name: str, value: object) -> None:
    """Raise SpecError unless the value is a whole number from 1 to `MOST_STEPS`."""
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise SpecError(f"expected {name} to be a whole number of at least 1, got {value!r}")
    if value > MOST_STEPS:
        raise SpecError(f"expected {name} to be a whole number of at most {MOST_STEPS}, got {value!r}")


@dataclass(frozen=True, slots=True)
class Baseline:
    """The figures that a network must reach to be accepted, in percent (section 4.2).

    test_tolerance: points by which test accuracy, precision and recall may each lie under the unpruned network's.
    """

    train_accuracy: float = 90.0
    train_precision: float = 90.0
    validation_accuracy: float = 80.0
    validation_precision: float = 80.0
    test_tolerance: float = 2.0

    def __post_init__(self) -> None:
        """Refuse what is not a percentage."""
        for each in fields(self):
            require_percent(each.name, getattr(self, each.name))

    def needed(self, criterion: str, unpruned: Mapping[str, float | None] | None) -> float | None:
        """Return the least value of a criterion; None where the unpruned network's figure is undefined.

        unpruned: the unpruned network's figures; None for that network itself, which meets its own test figures.
        """
        if criterion not in TEST:
            return cast(float, getattr(self, criterion))
        if unpruned is None:
            return 0.0
        reference = unpruned.get(criterion)
        return None if reference is None else reference - self.test_tolerance


def article_baseline(network: str) -> Baseline:
    """Return the article's thresholds for a network's name: 80 % in validation, 75 % for lenet5."""
    validation = ARTICLE_VALIDATION.get(network, 80.0)
    return Baseline(validation_accuracy=validation, validation_precision=validation)


@dataclass(frozen=True, slots=True)
class Rules:
    """What a user may set about the sequence.

    factors: percent, in the order tried; no two with the same whole percent, which names a step. scope: see
    `core.networks.pruning.SCOPES`. max_failures: rejections in a row that end the run. max_iterations: pruned networks
    trained, None for no limit. on_reject: one of `ON_REJECT`.
    """

    factors: tuple[float, ...] = FACTORS
    scope: str = "all"
    max_failures: int = 2
    max_iterations: int | None = None
    on_reject: str = STOP_AT_ACCEPTED

    def __post_init__(self) -> None:
        """Refuse rules that no run can follow."""
        if not self.factors:
            raise SpecError("expected at least one pruning factor, got none")
        for factor in self.factors:
            require_percent("a pruning factor", factor)
            kept_share(factor)
        labels = [percent(factor) for factor in self.factors]
        if len(set(labels)) < len(labels):
            raise SpecError(
                f"expected factors that differ in their whole percent, which names the steps, got {self.factors}"
            )
        if self.scope not in SCOPES:
            raise SpecError(f"expected a scope of {', '.join(SCOPES)}, got {self.scope!r}")
        if self.on_reject not in ON_REJECT:
            raise SpecError(f"expected on_reject to be one of {', '.join(ON_REJECT)}, got {self.on_reject!r}")
        require_count("max_failures", self.max_failures)
        if self.max_iterations is not None:
            require_count("max_iterations", self.max_iterations)


def percent(factor: float) -> str:
    """Return a factor as Table 6 writes it: 33.33 as 33%, and in full where nothing whole would be left."""
    return f"{int(factor) if factor >= 1 else factor:g}%"


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
    """One network to train. index: 0 for the unpruned. factors: those that led to it, one a shrinking."""

    index: int
    factors: tuple[float, ...]
    network: NetworkSpec

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

    criterion: one of `CRITERIA`, None where accepted or where the training failed. value, needed: in percent.
    missed_by: points, above 0; None where a figure is undefined. reason: a sentence, empty where accepted.
    """

    accepted: bool
    criterion: str | None = None
    value: float | None = None
    needed: float | None = None
    missed_by: float | None = None
    reason: str = ""


def accept(
    figures: Mapping[str, float | None], unpruned: Mapping[str, float | None] | None, baseline: Baseline
) -> Acceptance:
    """Judge a network's figures, in percent; unpruned: those of the unpruned network, None for that network itself."""
    for criterion in CRITERIA:
        value, needed, words = figures.get(criterion), baseline.needed(criterion, unpruned), criterion.replace("_", " ")
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
    """A step that was trained. figures: `CRITERIA` in percent, None where undefined. failure: why it could not be."""

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
    """A run of Algorithm 2 so far: the unpruned network, what was asked for, and the outcomes in their order."""

    network: NetworkSpec
    rules: Rules = field(default_factory=Rules)
    baseline: Baseline = field(default_factory=Baseline)
    outcomes: tuple[Outcome, ...] = ()


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
    return Step(trained, (*at.base, factor), prune(base, factor, rules.scope))


def record(state: State, step: Step, metrics: Mapping[str, Any] | None, failure: str = "") -> State:
    """Return the state after a step was trained; the new outcome carries the verdict.

    metrics: a mapping with `CRITERIA` in percent, None or NaN where undefined; other keys are not looked at. A step
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
        unpruned = state.outcomes[0].figures if state.outcomes else None
        outcome = Outcome(step.factors, figures, "", accept(figures, unpruned, state.baseline))
    return replace(state, outcomes=(*state.outcomes, outcome))


def figure(criterion: str, metrics: Mapping[str, Any]) -> float | None:
    """Return one figure as a percentage, None where it is undefined; a missing one is an error, not undefined."""
    if criterion not in metrics:
        raise SpecError(f"expected the figures {', '.join(CRITERIA)}, got none for {criterion}")
    value = metrics[criterion]
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return None
    require_percent(criterion, value)
    return float(value)


def accepted_step(state: State) -> Step:
    """Return the last accepted step: the smallest network that keeps the baseline, or the unpruned one."""
    factors = position(state).accepted
    index = next((i for i, outcome in enumerate(state.outcomes) if outcome.factors == factors), 0)
    return Step(index, factors, pruned(state, factors))


def to_dict(state: State) -> dict[str, Any]:
    """Return a state as JSON takes it."""
    return {
        "network": network_to_dict(state.network),
        "rules": asdict(state.rules) | {"factors": list(state.rules.factors)},
        "baseline": asdict(state.baseline),
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
    }


def rules_from_dict(data: object) -> Rules:
    """Turn plain data into rules; what is left out has its default. Raises SpecError."""
    values = known_fields(data, Rules)
    if "factors" in values:
        if not isinstance(values["factors"], list | tuple):
            raise SpecError(f"expected factors to be a list of percentages, got {values['factors']!r}")
        values["factors"] = tuple(values["factors"])
    return Rules(**values)


def baseline_from_dict(data: object) -> Baseline:
    """Turn plain data into thresholds; what is left out has its default. Raises SpecError."""
    return Baseline(**known_fields(data, Baseline))


def known_fields(data: object, record: type[Rules] | type[Baseline]) -> dict[str, Any]:
    """Return the mapping, or raise SpecError for anything else and for unknown fields."""
    known = [each.name for each in fields(record)]
    if not isinstance(data, Mapping):
        raise SpecError(f"expected the fields {', '.join(known)}, got {data!r}")
    for key in data:
        if key not in known:
            raise SpecError(f"expected the fields {', '.join(known)}, got the unknown field {key!r}")
    return dict(data)


def from_dict(data: object) -> State:
    """Turn plain data into a state by replaying its outcomes.

    Raises SpecError where an outcome is not the one that the rules lead to, or its verdict not the one they give.
    """
    if not isinstance(data, Mapping) or not {"network", "rules", "baseline", "outcomes"} <= data.keys():
        raise SpecError("expected a run with the fields network, rules, baseline and outcomes, got something else")
    state = State(
        network_from_dict(data["network"]), rules_from_dict(data["rules"]), baseline_from_dict(data["baseline"])
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
    return state
