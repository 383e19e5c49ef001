"""The form that starts trainings and Algorithm 2: its settings, the resulting runs, and their duration."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import pandas as pd
import streamlit as st

from core.data.datasets import Dataset
from core.errors import QueueUnavailable, SpecError
from core.estimates import Estimate
from core.networks.architectures import NETWORKS, NetworkSpec
from core.networks.batch_norm import BATCH_NORM, PRINTED
from core.networks.costs import network_cost
from core.networks.network_files import Networks
from core.networks.pruning import SCOPES
from core.training.backend import cannot_train
from core.training.specs import GIVEN, PRESETS, Baseline, PruneTrainSpec, TrainingProtocol, TrainSpec, training_grid
from dashboard import data, training_data, words
from dashboard.charts import training_numbers
from dashboard.forms import network_choices, speed_probe
from dashboard.forms.fields import KEPT, SET_NAMES, Fields, draft, training_draft
from dashboard.forms.measuring import NO_DATASET, NO_LABELS, nothing_registered, refused, submit
from dashboard.parts import components
from jobs.connection import NORMAL
from jobs.queues import Submission

FORM = Fields("training")
TRAINING_KIND_LABELS = {"prune-train": "Prune and train, Algorithm 2", "train": "Train each network once"}
FROM_ADDRESS = ("network", "batch_norm", "size", "factor", "scope", "iteration")
PLACED = ("height", "width", "seed", "epochs", "learning_rate", "batch_size")


def draft_of(spec: TrainSpec) -> dict[str, Any]:
    """Return the values of the fields that give a run's settings again."""
    return {
        **draft(spec),
        **training_draft(spec.training, "sizes"),
        "kind": spec.kind,
        "networks": [spec.network.name],
        "datasets": [spec.dataset],
        "seeds": str(spec.training.seed),
        "own_baseline": spec.thresholds != spec.replace(baseline=None).thresholds,
    }


def defaults() -> dict[str, Any]:
    """Return the initial values of the fields: the article's."""
    values = draft_of(PruneTrainSpec(dataset="any", network=NETWORKS["lenet5"], baseline=Baseline()))
    del values["datasets"]
    return {**values, "own_baseline": False, "priority": NORMAL, "start_after": None}


def take_from_address(found: Networks) -> None:
    """Fill the form with the network, size, factor, scope and iteration that a link carries, once.

    The link of the page of parameter curves has them with `point_` before: Streamlit takes parameters that are bound
    to a page's fields, as size and iteration are there, off the address when that page is left.
    """
    given: dict[str, str] = {}
    for name in FROM_ADDRESS:
        for each in (name, f"point_{name}"):
            if each in st.query_params:
                given[name] = st.query_params.pop(each)
    if "network" not in given:
        return
    given = {"scope": "all", "iteration": "1", "batch_norm": PRINTED} | given
    known = {
        "network": given["network"] in found.networks,
        "scope": given["scope"] in SCOPES,
        "batch_norm": given["batch_norm"] in BATCH_NORM,
        "iteration": given["iteration"].isdecimal(),
    }
    values: dict[str, Any] = {"kind": "prune-train"}
    if known["network"]:
        values["networks"] = [given["network"]]
    if "size" in given:
        values["sizes"] = given["size"].replace("x", "×")
    if "factor" in given:
        values["factors"] = given["factor"]
    if known["batch_norm"]:
        values["batch_norm"] = given["batch_norm"]
    if known["scope"]:
        values["scope"] = given["scope"]
    if known["iteration"]:
        values["max_iterations"] = max(1, int(given["iteration"]))
    FORM.put(values)
    if problems := [f"{name} {given[name]}" for name, is_known in known.items() if not is_known]:
        st.warning(f"The link has unknown settings: {words.escaped(', '.join(problems))}.")


def form() -> None:
    """Draw the form, the resulting runs, and the button that starts them."""
    found = network_choices.networks()
    network_choices.broken_files(found)
    known = data.datasets()
    labelled = known[known["layout"] != "plain"]
    if labelled.empty:
        nothing_registered(NO_LABELS if len(known) else NO_DATASET)
        return
    FORM.begin(defaults())
    take_from_address(found)
    try:
        asked = fields(found, labelled)
    except SpecError as error:
        refused(error)
        return
    with components.sentences():
        outcome(asked)


@dataclass(frozen=True)
class Asked:
    """What the form asks for: a spec that the runs share but for network, data set, size and seed."""

    spec: TrainSpec
    networks: tuple[NetworkSpec, ...]
    datasets: tuple[Dataset, ...]
    sizes: tuple[tuple[int, int], ...]
    seeds: tuple[int, ...]
    priority: str
    start_after: datetime | None

    def runs(self) -> list[tuple[TrainSpec, Dataset]]:
        """Return each run with its data set. Raises SpecError for a size too small for a network."""
        own = {dataset.name: dataset for dataset in self.datasets}
        specs = training_grid(self.spec, networks=self.networks, datasets=list(own), sizes=self.sizes, seeds=self.seeds)
        return [(spec, own[spec.dataset]) for spec in specs]


def fields(found: Networks, labelled: pd.DataFrame) -> Asked:
    """Draw the fields and return what they ask for. Raises SpecError."""
    kind = st.segmented_control(
        "What",
        list(TRAINING_KIND_LABELS),
        key=FORM.key("kind"),
        format_func=TRAINING_KIND_LABELS.__getitem__,
        required=True,
        persist_state=KEPT,
        help="Once: the grid behind the article's Tables 4 and 5. Algorithm 2, Table 6: train, shrink, train again, "
        "for as long as the baseline is met.",
    )
    note = "Quick is too small for custom1. Every number can be changed afterwards."
    FORM.preset(lambda name: training_draft(PRESETS[name], "sizes"), note)
    with st.grid(2, min_column_width=280):
        networks = FORM.networks(found)
        datasets = dataset_field(labelled)
    with st.grid(5, min_column_width=130):
        sizes = FORM.sizes("sizes", "Sizes, rows × columns", "Several sizes are separated by commas.")
        seeds = FORM.seeds("Of weights, order and dropout. 1,2,3 makes three runs of each, to be averaged.")
        training = {name: FORM.one(TrainingProtocol, name) for name in ("epochs", "learning_rate", "batch_size")}
    rules = {"rules": FORM.rules()} if kind == "prune-train" else {}
    with st.expander("Augmentation, learning and precision", icon=":material/tune:"):
        training |= FORM.rest(TrainingProtocol, without=PLACED)
    with st.expander("Training, validation and test sets", icon=":material/call_split:"):
        sets = set_fields()
    with st.expander("Baseline: what a network must reach", icon=":material/flag:"):
        baseline = FORM.baseline()
    with st.grid(4, min_column_width=150):
        device = FORM.one(TrainSpec, "device")
        priority, start = FORM.priority_and_start("a night of trainings can be queued by day.")
    placed = ("dataset", "network", "targets", "baseline", "split", "split_seed", "leaky_split", "device")
    more = FORM.rest(TrainSpec, without=placed)
    if not networks:
        raise SpecError("Expected at least one network, got none.")
    if not datasets:
        raise SpecError("Expected at least one data set with labels, got none.")
    height, width = sizes[0]
    spec = (PruneTrainSpec if rules else TrainSpec)(
        dataset=datasets[0].name,
        network=networks[0],
        training=TrainingProtocol(height=height, width=width, **training),
        baseline=baseline,
        device=device,
        **(sets | rules | more),
    )
    return Asked(spec, networks, tuple(datasets), sizes, seeds, priority, start)


def dataset_field(labelled: pd.DataFrame) -> list[Dataset]:
    """Return the data sets that are chosen, originals and reconstructions."""
    names = list(labelled["name"])
    originals = labelled[labelled["source"].isna()]
    newest = (originals if len(originals) else labelled).sort_values("registered_at")["name"].iloc[-1]
    chosen = st.session_state.get(FORM.key("datasets"), [newest])
    st.session_state[FORM.key("datasets")] = [name for name in chosen if name in names]
    facts = labelled.set_index("name")

    def named(name: str) -> str:
        made = facts.loc[name, "settings"]
        notes = [str(made)] if isinstance(made, str) and made else []
        notes += ["synthetic"] if facts.loc[name, "synthetic"] else []
        return f"{name} ({', '.join(notes)})" if notes else name

    labels = words.unlike({name: named(name) for name in names})
    picked = st.multiselect(
        "Data sets", names, key=FORM.key("datasets"), format_func=labels.__getitem__, persist_state=KEPT,
        help="With labels; originals and their reconstructions side by side, as in Tables 4 and 5.",
    )  # fmt: skip
    found = [data.dataset(name) for name in picked]
    return [each for each in found if each is not None]


def set_fields() -> dict[str, Any]:
    """Return where the sets come from, their sizes, the split's seed, and whether lesions may be in two sets."""
    split = FORM.one(TrainSpec, "split")
    targets = FORM.targets()
    values = {"targets": targets, **FORM.grid(TrainSpec, ["split_seed"])}
    if split == GIVEN:
        st.caption("Given sets are used as they are: the numbers of images and the split seed do not change them.")
    leaky = FORM.one(TrainSpec, "leaky_split")
    if leaky:
        st.warning(
            "With a leaky split the networks are tested on lesions that they were trained on: accuracy is then too "
            "high. The runs are labelled as leaky.",
            icon=":material/warning:",
        )
    return {**values, "split": split, "leaky_split": leaky}


# -- resulting runs ----------------------------------------------------------------------------------------------------


def outcome(asked: Asked) -> None:
    """Show the resulting sets, networks and duration, then the button."""
    sets_preview(asked)
    too_small = networks_preview(asked)
    if too_small:
        refused(SpecError(" ".join(too_small)))
        return
    start_panel(asked)


def sets_preview(asked: Asked) -> None:
    """Show classes × sets as really reached, and what a random split would leak."""
    st.markdown("**Actual sets**")
    for dataset in asked.datasets:
        spec = asked.spec
        given = spec.split == GIVEN
        table, sentence = training_data.sets_reached(dataset, spec.targets, spec.split_seed, spec.leaky_split, given)
        if len(asked.datasets) > 1:
            st.caption(words.escaped(dataset.name))
        alt = f"Images, lesions and oversampling of each class and set of {dataset.name}"
        components.table(sets_table(table), alt=alt)
        st.caption(words.escaped(sentence))


def sets_table(reached: pd.DataFrame) -> pd.DataFrame:
    """Return one row per class: images of the quota and lesions in each set, and training images with their repeats."""
    rows = []
    for label, group in reached.groupby("label", sort=False):
        row: dict[str, str] = {"Class": str(label).replace("_", "-")}
        for each in group.to_dict("records"):
            lesions = words.count_of(each["lesions"], "lesion")
            row[SET_NAMES[str(each["split"])]] = f"{each['images']:,} of {each['quota']:,}, {lesions}"
            if each["split"] == "train":
                row["Training with repeats"] = f"{each['oversampled']:,}"
        rows.append(row)
    return pd.DataFrame(rows)


def networks_preview(asked: Asked) -> list[str]:
    """Show parameters, steps and length of each network and size; return a sentence for each size too small."""
    rows, too_small = [], []
    for network in asked.networks:
        for height, width in asked.sizes:
            training = asked.spec.training.replace(height=height, width=width)
            try:
                spec = asked.spec.replace(network=network, training=training)
                cost = network_cost(spec.trained_network, height, width)
            except SpecError as error:
                too_small.append(f"{network.name} at {height}×{width}: {error}")
                continue
            fewest, most = training_numbers.step_range(spec)
            rows.append(
                {
                    "Network": spec.trained_network.name,
                    "Size": words.size_text(height, width),
                    "Parameters": words.count_text(cost.parameters),
                    "MACs per image": words.count_text(cost.macs),
                    "Weights": words.bytes_text(cost.bytes_weights),
                    "Trainings per run": f"{fewest}" if fewest == most else f"{fewest} to {most}",
                }
            )
    if rows:
        st.markdown("**Networks**")
        components.table(pd.DataFrame(rows), alt="Parameters and trainings of each network")
    return too_small


def total_estimate(runs: Sequence[tuple[TrainSpec, Dataset]]) -> tuple[Estimate, list[tuple[TrainSpec, Dataset]]]:
    """Return how long all runs take one after the other on one worker, and the runs whose speed is not known."""
    found = [training_data.training_estimate(spec, dataset) for spec, dataset in runs]
    unknown = [run for run, estimate in zip(runs, found, strict=True) if estimate.seconds is None]
    if unknown:
        return next(estimate for estimate in found if estimate.seconds is None), unknown
    basis = found[0].basis
    if len(runs) > 1:
        basis = f"one run after the other on one worker; the first {basis}"
    return Estimate(sum(estimate.seconds or 0.0 for estimate in found), basis), []


def start_panel(asked: Asked) -> None:
    """Offer identical runs that exist, else say what will be trained, for how long, and start it."""
    runs = asked.runs()
    identical = training_data.identical_trainings(runs)
    there = [run_id for run_id in identical if run_id is not None]
    again = bool(there) and identical_runs(there, len(runs))
    new = [run for run, known in zip(runs, identical, strict=True) if again or known is None]
    if not new:
        return
    counted = [training_numbers.step_range(spec) for spec, _ in new]
    fewest, most = sum(low for low, _ in counted), sum(high for _, high in counted)
    trainings = words.count_of(fewest, "training") if fewest == most else f"{fewest:,} to {most:,} trainings"
    try:
        estimate, unknown = total_estimate(new)
    except QueueUnavailable:
        estimate, unknown = Estimate(None, "The queue does not answer."), []
    work = f"{words.count_of(len(new), 'run')}, {trainings} of {words.count_of(asked.spec.training.epochs, 'epoch')}."
    st.caption(f":material/timer: {work} {words.escaped(words.estimate_sentence(estimate))}")
    speed_probe.offer(unknown)
    if asked.start_after is not None:
        st.caption(f":material/alarm: Starts at {components.moment(asked.start_after)} at the earliest.")
    no_worker()
    label, off = f"Start {words.count_of(len(new), 'run')}", data.health().redis is not None
    if st.button(label, type="primary", icon=":material/play_arrow:", key="start", disabled=off):
        start(asked, new, again)


def identical_runs(there: Sequence[str], wanted: int) -> bool:
    """Offer runs with exactly these settings; return whether they are to be trained again anyway."""
    every = len(there) == wanted
    subject = "A run" if wanted == 1 else "Every one of these runs" if every else f"{len(there)} of these {wanted} runs"
    under_way = any(state is not None and not state.ended for state in map(data.run, there))
    known = "is there or under way already" if under_way else "is there already"
    rest = "." if every else "; only the others are started."
    text = f"{subject} with exactly these settings on exactly these images {known}{rest}"
    st.info(text, icon=":material/content_copy:")
    with st.container(horizontal=True, vertical_alignment="center"):
        label = "Open it" if len(there) == 1 else "Compare them"
        st.button(label, on_click=opened, args=(there,), key="open_identical")
        return st.toggle("Train again anyway", key=FORM.key("again"))


def opened(run_ids: Sequence[str]) -> None:
    """Open a run, or the comparison of several."""
    view, param = ("Runs", "run") if len(run_ids) == 1 else ("Compare", "runs")
    st.query_params["tab"] = view
    st.query_params[param] = ",".join(run_ids)


def start(asked: Asked, runs: Sequence[tuple[TrainSpec, Dataset]], again: bool) -> None:
    """Submit the runs together and open the first."""

    def open_first(submissions: Sequence[Submission]) -> None:
        st.session_state["done"] = f"{words.count_of(len(submissions), 'run')} queued"
        opened([submissions[0].run_id])

    def send() -> list[Submission]:
        return data.queues().submit_together(runs, again=again, priority=asked.priority, start_after=asked.start_after)

    submit(send, open_first)


def no_worker() -> None:
    """Show how to start a train worker where none runs."""
    if data.health().redis is None and components.lacks_worker("train"):
        further = f", or `make up` for everything. {cannot_train()}".rstrip()
        components.no_worker("train", "Runs that are started stay queued", further)
