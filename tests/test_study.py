"""The article's study as a plan: each run is submitted once, after the runs it needs, in any order of finishing."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from recorded import new_run

from core.article.plan import (
    FAILED,
    FINISHED,
    PRUNING,
    READY,
    RECONSTRUCTION,
    RESIZE,
    STUDY_PRESETS,
    SWEEP,
    UNDER_WAY,
    WAITING,
    ArticleSpec,
    Choice,
    Found,
    Override,
    Progress,
    common_rank,
    fit_sentence,
    fitted_ks,
    plan,
    preset_values,
    progress,
    reconstruction_name,
    spec_ahead,
)
from core.compression.specs import DEFAULT_KS, ReconstructSpec, SweepSpec
from core.data.datasets import Dataset, DatasetImage
from core.errors import SpecError
from core.networks.architectures import ALEXNET, LENET5, NETWORKS
from core.runs import Run, Status
from core.training.specs import Baseline, PruneTrainSpec, Rules, TrainingProtocol, TrainSpec

SPEC = ArticleSpec(dataset="moles", fingerprint="f0", networks=(LENET5, ALEXNET), seeds=(1, 2))
STUDY = "article-1"


class SmallStore:
    """A small store whose runs are submitted, finish and fail as a test decides."""

    def __init__(self, k: int | None = 350) -> None:
        self.runs: list[Run] = []
        self.datasets = {"moles": "f0"}
        self.k = k

    def found(self, **refusals: str) -> Found:
        sweeps = [run.id for run in self.runs if run.kind == "svd-sweep" and run.status == "finished"]
        return Found(
            runs=self.runs[::-1],
            datasets=self.datasets,
            choices={run: Choice(self.k, "Only 3 of 16 metrics arrive.") for run in sweeps},
            refusals=refusals,
        )

    def progress(self, spec: ArticleSpec = SPEC) -> Progress:
        return progress(spec, STUDY, self.found())

    def submit(self, spec: Any, *, study: str | None = STUDY, fingerprint: str | None = None) -> None:
        fingerprint = fingerprint or self.datasets[spec.dataset]
        self.runs.append(new_run(f"{spec.kind}-{len(self.runs)}", spec, fingerprint=fingerprint, study=study))

    def submit_ready(self, spec: ArticleSpec = SPEC) -> list[str]:
        ready = self.progress(spec).of(READY)
        for each in ready:
            assert each.spec is not None
            self.submit(each.spec)
        return [each.part.key for each in ready]

    def end(self, index: int, status: str = "finished", **values: Any) -> None:
        self.runs[index] = replace(self.runs[index], status=Status(status), **values)
        if self.runs[index].kind == "reconstruct" and status == "finished":
            name = str(self.runs[index].writes)
            self.datasets[name] = f"of {name}"

    def under_way(self) -> list[int]:
        return [index for index, run in enumerate(self.runs) if run.status == "queued"]


@settings(deadline=None, max_examples=40)
@given(st.data())
def test_each_run_is_submitted_once_after_those_it_needs_in_any_order_of_finishing(data: st.DataObject) -> None:
    lab = SmallStore()
    submitted: list[str] = []
    finished: set[str] = set()
    while lab.progress().status == "running":
        for key in lab.submit_ready():
            needs = next(part.needs for part in plan(SPEC) if part.key == key)
            assert set(needs) <= finished
            submitted.append(key)
        index = data.draw(st.sampled_from(lab.under_way()))
        lab.end(index)
        finished = {each.part.key for each in lab.progress().of(FINISHED)}
    assert lab.progress().status == "finished"
    assert sorted(submitted) == sorted(part.key for part in plan(SPEC))
    assert lab.progress().trouble == ""


@settings(deadline=None, max_examples=40)
@given(st.data())
def test_a_failed_run_blocks_only_its_dependents_and_a_retry_finishes_the_study(data: st.DataObject) -> None:
    lab = SmallStore()
    failing = data.draw(st.sets(st.sampled_from([part.key for part in plan(SPEC)]), min_size=1))
    attempts: list[str] = []
    while lab.progress().status == "running":
        attempts += lab.submit_ready()
        index = data.draw(st.sampled_from(lab.under_way()))
        run = next(each for each in lab.progress().parts if each.run and each.run.id == lab.runs[index].id)
        lab.end(index, *(("failed",) if run.part.key in failing else ()), error="no room")
    stuck = lab.progress()
    assert stuck.status == "failed"
    for each in stuck.parts:
        needed = set(stuck.ancestors(each.part))
        assert (each.state == WAITING) == bool(needed & failing)
        assert (each.state == FAILED) == (each.part.key in failing and not needed & failing)
    assert "no room" in stuck.trouble
    while (now := lab.progress()).status != "finished":  # retry every failed run once
        for index, each in enumerate(lab.runs):
            if each.status == "failed":
                lab.end(index)
        attempts += lab.submit_ready()
        for index in lab.under_way():
            lab.end(index)
        assert now.status in ("failed", "running")
    assert sorted(attempts) == sorted(part.key for part in plan(SPEC))


def test_trainings_on_the_originals_start_at_once_and_the_rest_waits_for_k() -> None:
    lab = SmallStore()
    assert lab.submit_ready() == [
        SWEEP,
        *("originals lenet5 1", "originals lenet5 2", "originals alexnet 1", "originals alexnet 2"),
    ]
    assert lab.submit_ready() == []
    lab.end(0)
    assert lab.progress().k == 350
    assert lab.submit_ready() == [RECONSTRUCTION, RESIZE]
    made = lab.runs[-2]
    assert (made.told(ReconstructSpec).k, made.writes) == (350, "moles-k350-jpeg95")
    lab.end(len(lab.runs) - 2)
    pruning = lab.progress().of(READY)
    assert [each.part.stage for each in pruning] == [PRUNING] * 4
    assert {each.spec.dataset for each in pruning if each.spec} == {"moles-k350-jpeg95"}


def test_with_a_fixed_k_the_reconstruction_starts_at_once() -> None:
    keys = SmallStore().submit_ready(SPEC.replace(k=100))
    assert {SWEEP, RECONSTRUCTION, RESIZE} <= set(keys)


def test_when_the_rule_chooses_no_k_the_study_fails_until_a_k_is_given() -> None:
    lab = SmallStore(k=None)
    lab.submit_ready()
    for index in lab.under_way():
        lab.end(index)
    stuck = lab.progress()
    assert stuck.status == "failed"
    assert stuck.trouble.startswith(
        "Reconstruction at k*; Resize comparison at k*: no k by the plateau rule. Only 3 of 16"
    )
    assert "Waiting for that: Algorithm 2 on the reconstructed images, lenet5, seed 1" in stuck.trouble
    assert {each.part.key for each in lab.progress(SPEC.replace(k=200)).of(READY)} == {RECONSTRUCTION, RESIZE}


def test_runs_submitted_elsewhere_count_when_they_finish_and_not_when_they_fail() -> None:
    lab = SmallStore()
    sweep = spec_ahead(SPEC, plan(SPEC)[0])
    lab.submit(sweep, study=None)
    assert lab.progress().parts[0].state == UNDER_WAY
    lab.end(0, "failed", error="disk full")
    assert lab.progress().parts[0].state == READY
    lab.submit(sweep)
    lab.end(1, "failed", error="disk full")
    assert (lab.progress().parts[0].state, lab.progress().parts[0].reason) == (FAILED, "disk full")
    lab.submit(sweep, study=None)
    lab.end(2)
    assert lab.progress().parts[0].state == FINISHED


def test_a_run_on_other_images_or_with_other_settings_does_not_count() -> None:
    lab = SmallStore()
    sweep = spec_ahead(SPEC, plan(SPEC)[0])
    assert isinstance(sweep, SweepSpec)
    lab.submit(sweep, fingerprint="f1")
    lab.submit(sweep.replace(codec="png", quality=None))
    assert lab.progress().parts[0].state == READY


def test_a_training_with_a_failed_step_counts_as_failed() -> None:
    lab = SmallStore()
    lab.submit_ready()
    lab.end(1, failed=1)
    lab.end(0, failed=1)
    assert [each.state for each in lab.progress().parts[:2]] == [FINISHED, FAILED]
    lab.end(2, "cancelled")
    assert lab.progress().parts[2].reason == "cancelled"


def test_an_equal_reconstruction_with_any_name_is_used_unless_it_was_removed() -> None:
    lab = SmallStore()
    lab.submit_ready()
    lab.end(0)
    lab.submit(ReconstructSpec(dataset="moles", name="mine", k=350), study=None)
    lab.end(len(lab.runs) - 1)
    assert lab.progress().reconstruction == "mine"
    del lab.datasets["mine"]
    standing = next(each for each in lab.progress().parts if each.part.key == RECONSTRUCTION)
    assert standing.state == READY
    assert isinstance(standing.spec, ReconstructSpec)
    assert standing.spec.name == "moles-k350-jpeg95"


def test_a_name_in_use_gets_a_number() -> None:
    assert reconstruction_name(SPEC, 350, frozenset()) == "moles-k350-jpeg95"
    assert reconstruction_name(SPEC, 350, frozenset({"moles-k350-jpeg95", "moles-k350-jpeg95-2"})).endswith("95-3")
    assert reconstruction_name(SPEC.replace(reconstruction="mine"), 350, frozenset({"mine"})) == "mine"
    unfolded = SPEC.replace(mode="unfolded", codec="png", quality=None)
    assert reconstruction_name(unfolded, 7, frozenset()) == "moles-k7-unfolded-png"


def test_a_refused_run_fails_with_its_reason_until_it_is_tried_again() -> None:
    lab = SmallStore()
    refused = progress(SPEC, STUDY, lab.found(sweep="expected the data set to be registered"))
    assert refused.parts[0].state == FAILED
    assert refused.status == "running"
    assert refused.trouble.startswith("SVD sweep: expected the data set to be registered. Waiting for that: ")
    assert lab.progress().parts[0].state == READY


def test_the_first_pruning_step_trains_the_unpruned_network_on_reconstructed_images() -> None:
    parts = {part.key: spec_ahead(SPEC, part) for part in plan(SPEC)}
    original, pruned = parts["originals lenet5 2"], parts["pruning lenet5 2"]
    assert isinstance(original, TrainSpec)
    assert isinstance(pruned, PruneTrainSpec)
    shared = ("network", "training", "targets", "split_seed", "split", "device", "baseline")
    assert [getattr(original, name) for name in shared] == [getattr(pruned, name) for name in shared]
    assert original.training.seed == 2


def test_a_network_can_have_its_own_size_and_epochs() -> None:
    spec = SPEC.replace(
        training=TrainingProtocol(epochs=9),
        overrides=(Override(network="alexnet", height=60, width=80, epochs=4),),
    )
    trained = [each for part in plan(spec) if isinstance(each := spec_ahead(spec, part), TrainSpec)]
    sizes = {(each.network.name, each.training.height, each.training.width, each.training.epochs) for each in trained}
    assert sizes == {("lenet5", 200, 100, 9), ("alexnet", 60, 80, 4)}


@pytest.mark.parametrize("name", STUDY_PRESETS)
def test_a_study_spec_can_be_stored_as_json_and_every_preset_fits_all_four_networks(name: str) -> None:
    spec = ArticleSpec(dataset="moles", **preset_values(name, tuple(NETWORKS.values())))
    assert ArticleSpec.from_dict(json.loads(json.dumps(spec.to_dict()))) == spec
    full = spec.replace(
        baseline=Baseline(
            train_accuracy=80, train_precision=80, validation_accuracy=70, validation_precision=70, test_tolerance=3
        ),
        rules=Rules(factors=(40,)),
        k=5,
        reconstruction="mine",
    )
    assert ArticleSpec.from_dict(json.loads(json.dumps(full.to_dict()))) == full


def test_a_preset_has_no_overrides_for_networks_that_are_not_chosen() -> None:
    assert preset_values("laptop", (LENET5,))["overrides"] == ()


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"networks": ()}, "Expected at least one value of networks"),
        ({"networks": (LENET5, LENET5)}, "each network once"),
        ({"seeds": (1, 1)}, "each of seeds once"),
        ({"rule": "mine"}, "Expected rule to be one of plateau"),
        ({"ks": ()}, "Expected at least one value of k"),
        ({"ks": (5, 5)}, "each of ks once"),
        ({"k": 0}, "Expected fixed k to be a whole number of at least 1"),
        (
            {"overrides": (Override(network="custom1", height=64, width=64),)},
            "Expected at most one override for each of lenet5, alexnet",
        ),
        (
            {"overrides": (Override(network="alexnet", height=8, width=8),)},
            "Expected an input large enough for every layer of alexnet",
        ),
        ({"codec": "png", "quality": 3}, "Expected no quality for png"),
        ({"sizes": ()}, "Expected at least one value of sizes"),
        ({"reconstruction": "a/b"}, "Expected a name of 1 to 100"),
        ({"device": "abacus"}, "Expected device to be one of"),
    ],
)
def test_an_impossible_study_is_refused_with_the_reason(change: dict[str, Any], text: str) -> None:
    with pytest.raises(SpecError, match="(?i)" + text):
        SPEC.replace(**change)


def test_unknown_and_missing_settings_are_refused() -> None:
    with pytest.raises(SpecError, match="got colour"):
        ArticleSpec.from_dict({"dataset": "moles", "colour": "red"})
    with pytest.raises(SpecError, match="Expected data set, got none"):
        ArticleSpec(dataset="")


def dataset(*sizes: tuple[int, int], labels: tuple[str, ...] = ("melanoma", "nevus")) -> Dataset:
    records = tuple(
        DatasetImage(f"mole{n}", f"{n}.jpg", 9, height, width, f"{n}", label=labels[n % len(labels)])
        for n, (height, width) in enumerate(sizes)
    )
    return Dataset("moles", Path("/moles"), "class_folders", records)


@given(st.lists(st.integers(1, 900), min_size=1, unique=True), st.integers(1, 700))
def test_fitted_ks_are_ascending_within_the_rank_and_unchanged_if_they_fit(ks: list[int], rank: int) -> None:
    ks = sorted(ks)
    fitted = fitted_ks(ks, rank)
    assert list(fitted) == sorted(set(fitted))
    assert 1 <= fitted[0] <= fitted[-1] <= rank
    assert (fitted == tuple(ks)) == (max(ks) <= rank)


def test_the_articles_ks_are_scaled_to_small_images_with_a_note() -> None:
    fitted = fitted_ks(DEFAULT_KS, 24)
    assert fitted == (5, 10, 16, 18, 21, 24)
    assert "rank 24" in fit_sentence(DEFAULT_KS, fitted, 24)
    assert "k = 5, 10, 16, 18, 21, 24" in fit_sentence(DEFAULT_KS, fitted, 24)
    assert fit_sentence(DEFAULT_KS, fitted_ks(DEFAULT_KS, 450), 450) == ""


def test_ks_are_limited_to_the_rank_of_nearly_all_images() -> None:
    sizes = ((450, 600),) * 99 + ((20, 600),)
    assert common_rank(dataset(*sizes), "per_channel") == 450
    assert common_rank(dataset((24, 32), (450, 600)), "per_channel") == 24
    assert common_rank(dataset((60, 32)), "unfolded") == 60
    with pytest.raises(SpecError, match="at least one readable image"):
        common_rank(dataset(), "per_channel")


def test_a_data_set_that_cannot_be_studied_is_refused_before_anything_is_queued() -> None:
    SPEC.check(dataset(*((450, 600),) * 20))
    with pytest.raises(SpecError, match="at most 24"):
        SPEC.check(dataset(*((24, 32),) * 20))
    with pytest.raises(SpecError, match="at least two classes"):
        SPEC.check(dataset(*((450, 600),) * 20, labels=("melanoma",)))
    with pytest.raises(SpecError, match="another name than the original"):
        SPEC.replace(reconstruction="moles").check(dataset(*((450, 600),) * 20))
