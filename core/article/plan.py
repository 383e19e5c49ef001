"""The article's whole study as data: its settings, its runs, and the runs that can be submitted now.

    sweep ── k ─┬─ reconstruction ── Algorithm 2 on the reconstructed images
                └─ resize comparison
    trainings on the original images, which wait for nothing

Algorithm 2 first trains the unpruned network, which is the article's training on reconstructed images: Tables 4 and 5
take it from there, so that nothing is trained twice. The parameter curves are counted from the layers, without a run.

A study stores no progress: its progress is computed from the runs in the store. So it can be stopped at any time and
continues from the runs that exist.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Annotated, Any, Self

import annotated_types as at
from pydantic import model_validator

from core.compression import specs as measuring
from core.compression.optimal_k import DEFAULT_RULE
from core.compression.optimal_k import RULES as K_RULES
from core.compression.svd import largest_k
from core.data.datasets import Dataset
from core.data.names import derived_name
from core.data.splits import Targets
from core.errors import SpecError
from core.networks.architectures import NETWORKS, NetworkSpec
from core.runs import Run, RunSpec
from core.specs import Once, Seed, Setting, Spec, Text, Whole
from core.training.specs import (
    DRAWN,
    MOST_EPOCHS,
    PRESETS,
    Device,
    Network,
    OwnBaseline,
    PruneTrainSpec,
    Rules,
    SplitOrigin,
    SplitSeed,
    TargetsOfSets,
    TrainingProtocol,
    TrainSpec,
)

KIND = "article"
RULE_NAMES = tuple(rule.name for rule in K_RULES)
SWEEP, ORIGINALS, RECONSTRUCTION, RESIZE, PRUNING = "sweep", "originals", "reconstruction", "resize", "pruning"
STAGES = {
    SWEEP: "SVD sweep",
    ORIGINALS: "Training on the original images",
    RECONSTRUCTION: "Reconstruction at k*",
    RESIZE: "Resize comparison at k*",
    PRUNING: "Algorithm 2 on the reconstructed images",
}
MOST_IMAGES = 0.95  # share of the images whose rank the sweep's ks keep to where they are fitted


class Override(Spec):
    """The size of one network's images, so that slow networks may get smaller ones, and its epochs.

    height, width: pixels; epochs: None for the study's own.
    """

    network: Annotated[Text, at.MinLen(1), Setting("Network")]
    height: Annotated[measuring.Side, Setting("Rows", unit="pixels")]
    width: Annotated[measuring.Side, Setting("Columns", unit="pixels")]
    epochs: Annotated[Whole | None, Setting("Epochs", "By default the study's.", ge=1, le=MOST_EPOCHS)] = None


class ArticleSpec(Spec):
    """The settings of the article's study.

    fingerprint: of the data set's images; empty before the study is submitted. training: `seeds` replace its
    seed. baseline: None for the article's of each network. ks, sample_size: of the sweep and the resize
    comparison; the reconstruction takes every image. rule: which rule's k is taken; k: one that is taken instead.
    reconstruction: the new data set's name, empty for one made of k and codec.
    """

    dataset: measuring.DatasetName
    fingerprint: Annotated[Text, Setting("Fingerprint of the images", flag="DATASET")] = ""
    networks: Annotated[tuple[Network, ...], at.MinLen(1), Setting("Networks", always=True)] = tuple(NETWORKS.values())
    seeds: Annotated[
        tuple[Seed, ...],
        at.MinLen(1),
        Once,
        Setting("Seeds", "1,2,3 trains everything three times, to be averaged.", always=True),
    ] = (1,)
    training: TrainingProtocol = TrainingProtocol()
    overrides: Annotated[
        tuple[Override, ...],
        Setting("Sizes of single networks", "Slow networks may be fed smaller images.", flag="--override"),
    ] = ()
    targets: TargetsOfSets = Targets()
    split_seed: SplitSeed = 1
    split: SplitOrigin = DRAWN
    device: Device = "auto"
    baseline: OwnBaseline = None
    rules: Rules = Rules()
    ks: measuring.Ks = measuring.DEFAULT_KS
    mode: measuring.Mode = "per_channel"
    codec: measuring.CodecName = "jpeg"
    quality: measuring.Quality = None
    sample_size: measuring.SampleSize = None
    rule: Annotated[Text, Setting("Rule that chooses k*", choices=RULE_NAMES, always=True)] = DEFAULT_RULE
    k: Annotated[
        Whole | None,
        Setting("Fixed k", "Overrides the rule.", name="fixed k", flag="--fixed-k", ge=1, empty="the rule's"),
    ] = None
    sizes: measuring.Sizes = measuring.DEFAULT_SIZES
    reconstruction: Annotated[
        Text, Setting("Name of the reconstruction", "By default made of k and codec.", flag="--name")
    ] = ""

    @model_validator(mode="after")
    def _possible(self) -> Self:
        names = [network.name for network in self.networks]
        if len(set(names)) < len(names):
            raise SpecError(f"Expected each network once, got {', '.join(names)}.")
        changed = [override.network for override in self.overrides]
        if len(set(changed)) < len(changed) or not set(changed) <= set(names):
            raise SpecError(f"Expected at most one override for each of {', '.join(names)}, got {', '.join(changed)}.")
        for part in plan(self):
            spec_ahead(self, part)
        return self

    def check(self, dataset: Dataset) -> None:
        """Raise SpecError where the data set does not permit the study: no labels, or a k above its rank."""
        seen = set()
        for spec in (spec_ahead(self, part) for part in plan(self)):
            if spec.kind not in seen:  # trainings differ in network and seed only, which do not depend on the images
                spec.check(dataset)
            seen.add(spec.kind)

    def protocol_of(self, network: str) -> TrainingProtocol:
        """Return a network's training protocol; its seed is replaced later."""
        for override in self.overrides:
            if override.network == network:
                epochs = self.training.epochs if override.epochs is None else override.epochs
                return self.training.replace(height=override.height, width=override.width, epochs=epochs)
        return self.training


# What a preset sets besides the training protocol of the same name in `core.training.specs.PRESETS`.
STUDY_PRESETS: Mapping[str, Mapping[str, Any]] = {
    "article": {"overrides": (), "rules": Rules(), "sample_size": None},
    "laptop": {  # alexnet takes four times custom1's work at equal size
        "overrides": (Override(network="alexnet", height=60, width=80),),
        "rules": Rules(),
        "sample_size": None,
    },
    "quick": {
        "overrides": (Override(network="custom1", height=64, width=64),),
        "rules": Rules(max_iterations=1),
        "sample_size": 100,
    },
}


def preset_values(name: str, networks: Sequence[NetworkSpec]) -> dict[str, Any]:
    """Return the arguments of `ArticleSpec` that a preset stands for, for these networks."""
    chosen = {network.name for network in networks}
    overrides = tuple(override for override in STUDY_PRESETS[name]["overrides"] if override.network in chosen)
    return {"networks": tuple(networks), "training": PRESETS[name], **STUDY_PRESETS[name], "overrides": overrides}


def common_rank(dataset: Dataset, mode: str) -> int:
    """Return the rank that at least `MOST_IMAGES` of a data set's images have. SpecError where there are none."""
    ranks = sorted(largest_k(record.height, record.width, mode) for record in dataset.records)
    if not ranks:
        raise SpecError(f"Expected at least one readable image in the data set {dataset.name}, got none.")
    return ranks[int((1 - MOST_IMAGES) * len(ranks))]


def fitted_ks(ks: Sequence[int], rank: int) -> tuple[int, ...]:
    """Return ks as they are where the largest is within the rank, else scaled so that it is the rank."""
    largest = max(ks)
    return tuple(ks) if largest <= rank else tuple(sorted({max(1, k * rank // largest) for k in ks}))


def fit_sentence(ks: Sequence[int], fitted: Sequence[int], rank: int) -> str:
    """Return a sentence that names the ks taken instead of others, and the reason; empty where they are the same."""
    if tuple(ks) == tuple(fitted):
        return ""
    return (
        f"The images have rank {rank}, so the sweep takes k = {', '.join(map(str, fitted))} in place of "
        f"{', '.join(map(str, ks))}."
    )


# The runs of a study


@dataclass(frozen=True, slots=True)
class Part:
    """One run of a study. key: tells it from the study's others. needs: the keys of parts that must be finished."""

    key: str
    stage: str
    title: str
    needs: tuple[str, ...] = ()
    network: NetworkSpec | None = None
    seed: int | None = None


def plan(spec: ArticleSpec) -> tuple[Part, ...]:
    """Return a study's runs in the order in which they are submitted; each comes after those that it needs."""

    def trainings(stage: str, *needs: str) -> Iterator[Part]:
        for network in spec.networks:
            for seed in spec.seeds:
                title = network.name + (f", seed {seed}" if len(spec.seeds) > 1 else "")
                yield Part(f"{stage} {network.name} {seed}", stage, title, needs, network, seed)

    chosen = () if spec.k is not None else (SWEEP,)
    return (
        Part(SWEEP, SWEEP, STAGES[SWEEP]),
        *trainings(ORIGINALS),
        Part(RECONSTRUCTION, RECONSTRUCTION, STAGES[RECONSTRUCTION], chosen),
        Part(RESIZE, RESIZE, STAGES[RESIZE], chosen),
        *trainings(PRUNING, RECONSTRUCTION),
    )


def run_spec(spec: ArticleSpec, part: Part, *, k: int, reconstruction: str) -> RunSpec:
    """Return the spec of a part's run; only the parts that need k and the reconstruction's name use them."""
    stored: dict[str, Any] = {"dataset": spec.dataset, "mode": spec.mode, "codec": spec.codec, "quality": spec.quality}
    if part.stage == SWEEP:
        return measuring.SweepSpec(ks=spec.ks, sample_size=spec.sample_size, **stored)
    if part.stage == RESIZE:
        return measuring.ResizeSpec(k=k, sizes=spec.sizes, sample_size=spec.sample_size, **stored)
    if part.stage == RECONSTRUCTION:
        return measuring.ReconstructSpec(k=k, name=reconstruction, **stored)
    if part.network is None or part.seed is None:
        raise SpecError(f"Expected a network and a seed for the part {part.key}, got none.")
    training: dict[str, Any] = {
        "network": part.network,
        "training": spec.protocol_of(part.network.name).replace(seed=part.seed),
        "targets": spec.targets,
        "split_seed": spec.split_seed,
        "split": spec.split,
        "device": spec.device,
        "baseline": spec.baseline,
    }
    if part.stage == ORIGINALS:
        return TrainSpec(dataset=spec.dataset, **training)
    return PruneTrainSpec(dataset=reconstruction, rules=spec.rules, **training)


def spec_ahead(spec: ArticleSpec, part: Part) -> RunSpec:
    """Return the approximate spec of a part's run before k is known, to check it and to estimate its duration."""
    k = max(spec.ks, default=1) if spec.k is None else spec.k
    return run_spec(spec, part, k=k, reconstruction=spec.reconstruction or derived_name(spec.dataset, f"-k{k}"))


def reconstruction_name(spec: ArticleSpec, k: int, taken: frozenset[str]) -> str:
    """Return the reconstruction's name: the given one, else one that no data set has."""
    if spec.reconstruction:
        return spec.reconstruction
    unfolded = "" if spec.mode == "per_channel" else f"-{spec.mode}"
    end = f"-k{k}{unfolded}-{measuring.codec_name(spec.codec, spec.quality).replace(' ', '')}"
    name = derived_name(spec.dataset, end)
    others = (derived_name(spec.dataset, f"{end}-{number}") for number in range(2, len(taken) + 3))
    return name if name not in taken else next(other for other in others if other not in taken)


# Progress


def does(run: Run, wanted: RunSpec, fingerprint: str) -> bool:
    """Return whether a run measures the same on the same images, whatever the names of its data sets."""
    if fingerprint != run.fingerprint or run.kind != wanted.kind:
        return False
    names = {name: getattr(run.spec, name) for name in ("dataset", "name") if hasattr(run.spec, name)}
    return run.spec == wanted.model_copy(update=names)


@dataclass(frozen=True, slots=True)
class Choice:
    """The k that the study's rule chose in a sweep; None where it chose none. reason: a sentence."""

    k: int | None
    reason: str


@dataclass(frozen=True)
class Found:
    """The content of store and queue. runs: newest first. datasets: fingerprints by registered name.

    choices: by sweep. refusals: by a part's key, why the last attempt to submit it failed.
    """

    runs: Sequence[Run] = ()
    datasets: Mapping[str, str] = field(default_factory=dict)
    choices: Mapping[str, Choice] = field(default_factory=dict)
    refusals: Mapping[str, str] = field(default_factory=dict)


WAITING, READY, UNDER_WAY, FINISHED, FAILED = "waiting", "ready", "under way", "finished", "failed"


@dataclass(frozen=True, slots=True)
class Standing:
    """The progress of a part.

    state: 'waiting' for other parts, 'ready' to be submitted, 'under way', 'finished', or 'failed': cancelled, refused
    or failed, so that it does not continue by itself. spec: of its run; None while waiting. run: if there is one.
    reason: why it waits or failed, a sentence or part of one.
    """

    part: Part
    state: str
    spec: RunSpec | None = None
    run: Run | None = None
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Progress:
    """The progress of a study, part by part. k: None until it is known. reconstruction: None until it exists."""

    parts: tuple[Standing, ...]
    k: int | None = None
    reconstruction: str | None = None

    def of(self, *states: str) -> tuple[Standing, ...]:
        """Return the parts in these states."""
        return tuple(each for each in self.parts if each.state in states)

    @property
    def status(self) -> str:
        """'finished' once every part is, 'failed' where no part continues by itself, else 'running'."""
        if len(self.of(FINISHED)) == len(self.parts):
            return FINISHED
        return "running" if self.of(READY, UNDER_WAY) else FAILED

    @property
    def trouble(self) -> str:
        """The failed parts with reasons, and the parts that wait for them, in sentences; empty where none failed."""
        failed: dict[str, list[str]] = {}
        for each in self.of(FAILED):
            failed.setdefault(each.reason, []).append(named_part(each.part))
        sentences = [f"{'; '.join(parts)}: {reason.rstrip('.')}." for reason, parts in failed.items()]
        keys = {each.part.key for each in self.of(FAILED)}
        waiting = [named_part(each.part) for each in self.of(WAITING) if keys & set(self.ancestors(each.part))]
        if waiting:
            sentences.append(f"Waiting for that: {'; '.join(waiting)}.")
        return " ".join(sentences)

    def ancestors(self, part: Part) -> Iterator[str]:
        """Yield the keys of all parts that must be finished before a part."""
        by_key = {each.part.key: each.part for each in self.parts}
        for need in part.needs:
            yield need
            yield from self.ancestors(by_key[need])


def named_part(part: Part) -> str:
    """Return a part's title with its stage."""
    return part.title if part.network is None else f"{STAGES[part.stage]}, {part.title}"


def progress(spec: ArticleSpec, study: str, found: Found) -> Progress:
    """Compute a study's progress from the content of store and queue.

    A part is done by any finished run that measured the same thing, whoever submitted it; one that failed counts only
    where it is the study's own.
    """
    so_far = Progress((), spec.k)
    for part in plan(spec):
        standing = _standing(spec, study, found, part, so_far)
        so_far = replace(so_far, parts=(*so_far.parts, standing))
        if standing.state == FINISHED and standing.run is not None:
            if part.stage == SWEEP and spec.k is None:
                so_far = replace(so_far, k=found.choices[standing.run.id].k)
            elif part.stage == RECONSTRUCTION:
                so_far = replace(so_far, reconstruction=standing.run.writes)
    return so_far


def _standing(spec: ArticleSpec, study: str, found: Found, part: Part, so_far: Progress) -> Standing:
    """Return the progress of one part; so_far: that of the parts before it."""
    before = {each.part.key: each for each in so_far.parts}
    k, reconstruction = so_far.k, so_far.reconstruction
    for need in part.needs:
        other = before[need]
        if other.state != FINISHED:
            failed = ", which failed" if other.state == FAILED else ""
            return Standing(part, WAITING, reason=f"waits for: {named_part(other.part)}{failed}")
    if k is None and part.stage in (RECONSTRUCTION, RESIZE):
        run = before[SWEEP].run
        reason = found.choices[run.id].reason if run else ""
        return Standing(part, FAILED, reason=f"no k by the {spec.rule} rule. {reason} Resume with a k of your own")
    fingerprint = found.datasets.get(reconstruction or "", "") if part.stage == PRUNING else spec.fingerprint
    taken = frozenset(found.datasets) | {name for run in found.runs if (name := run.writes)}
    name = reconstruction or reconstruction_name(spec, k or 1, taken)
    wanted = run_spec(spec, part, k=k or 1, reconstruction=name)
    run = _matching(wanted, fingerprint, study, found)
    if run is None:
        if part.key in found.refusals:
            return Standing(part, FAILED, wanted, reason=found.refusals[part.key])
        return Standing(part, READY, wanted)
    if not run.ended:
        return Standing(part, UNDER_WAY, wanted, run)
    if _done(run):
        return Standing(part, FINISHED, wanted, run)
    return Standing(part, FAILED, wanted, run, _why(run))


def _matching(wanted: RunSpec, fingerprint: str, study: str, found: Found) -> Run | None:
    """Return the run with the wanted spec: a successful one, else an active one, else the study's own failed one."""
    same = [run for run in found.runs if does(run, wanted, fingerprint) and _kept(run, found)]
    done = [run for run in same if _done(run)]
    active = [run for run in same if not run.ended]
    own = [run for run in same if run.study == study]
    return next(iter((*done, *active, *own)), None)


def _kept(run: Run, found: Found) -> bool:
    """Return whether a run's output still exists: a reconstruction may have been removed."""
    return run.status != FINISHED or run.kind != measuring.ReconstructSpec.kind or run.writes in found.datasets


def _done(run: Run) -> bool:
    """Return whether a run did its whole task. Images left out are listed with it; a missing step is a failure."""
    return run.status == FINISHED and not (run.trains and run.failed)


def _why(run: Run) -> str:
    if run.status == "cancelled":
        return "cancelled"
    steps = f"{run.failed} of its steps could not be trained; its page says why"
    return steps if run.status == FINISHED else run.error or "no reason was recorded"
