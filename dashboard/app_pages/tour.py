"""The guided tour: one photograph and one network in six steps, each with its figure and the page behind it.

Everything shown was computed before, except the photograph at one k and its two predictions, which take a second.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pandas as pd
import streamlit as st

from core.compression.metrics import METRICS_BY_NAME
from core.compression.optimal_k import DEFAULT_RULE
from core.compression.specs import SweepSpec
from core.data.datasets import Dataset, DatasetImage
from core.data.images import decode
from core.runs import Run
from core.training.evaluation import smallest_accepted
from core.training.specs import PruneTrainSpec
from dashboard import data, deployment_data, training_data, words
from dashboard.charts import tour as charts
from dashboard.charts import training as training_charts
from dashboard.charts import training_numbers
from dashboard.charts.predictions import shown_class
from dashboard.demo import NAME
from dashboard.deployment_data import Network
from dashboard.parts import components, explanation, pictures, training_results
from dashboard.parts.compare import Pane, compare

SHOWN_SIDE = 600  # pixels of the longer side of the photograph in the first step
DEFAULT_K = 350  # where no sweep has chosen one, as in the inspector


MISSING = {  # what a step may lack: a sentence, and the page that makes it
    "photograph": ("No data set with images is registered here yet.", "datasets", "Register a data set"),
    "sweep": ("No SVD sweep has finished here yet, so no k has been chosen.", "sweeps", "Start an SVD sweep"),
    "run": ("No prune-train run has finished here yet.", "prune_train", "Train and prune a network"),
    "network": ("No network of the run is converted on this host yet.", "deploy", "Convert a network"),
}


@dataclass(frozen=True)
class Photograph:
    """The photograph of the tour. in_test: whether it is a test image of the run."""

    dataset: Dataset
    record: DatasetImage
    in_test: bool

    def content(self) -> bytes:
        """Return its file. Raises ImageError."""
        return pictures.read_file(self.dataset.root / self.record.path)

    def inspector_link(self, label: str, k: int | None = None) -> None:
        """Show a link that opens it in the inspector."""
        components.inspector_link(self.dataset.name, self.record.image_id, label, k)


@dataclass(frozen=True)
class Story:
    """What the tour is about; None, or no network, for what is missing.

    sizes: of the sweep's images at the k that is taken. steps: the finished ones of the run.
    """

    photograph: Photograph | None
    sweep: Run | None
    sizes: dict[str, Any] | None
    run: Run | None
    steps: pd.DataFrame
    networks: list[Network]


def story() -> Story:
    """Return the demo data set, or another one, and the newest finished runs, those of this data set first."""
    names = list(data.datasets()["name"])
    dataset = data.dataset(NAME if NAME in names else names[0]) if names else None
    fingerprint = dataset.fingerprint if dataset else None
    here = deployment_data.networks_here()
    finished = [run for run in data.runs() if run.status == "finished"]
    finished.sort(key=lambda run: (run.fingerprint != fingerprint, run.id not in here))  # otherwise the newest first
    sweep = next((run for run in finished if run.kind == SweepSpec.kind), None)
    run = next((run for run in finished if run.kind == PruneTrainSpec.kind), None)
    steps = training_data.steps(run.id) if run else pd.DataFrame({"status": []})
    return Story(
        photograph_of(dataset, run) if dataset else None,
        sweep,
        sizes_at_chosen_k(sweep) if sweep else None,
        run,
        steps[steps["status"] == "finished"],
        here.get(run.id, []) if run else [],
    )


def photograph_of(dataset: Dataset, run: Run | None) -> Photograph | None:
    """Return the first melanoma of a data set, where there is one: of the run's test images, where it has these."""
    own = run is not None and run.fingerprint == dataset.fingerprint
    tested = set(training_data.predictions(run.id, "test")["image_id"]) if run and own else set()
    records = [each for each in dataset.records if each.image_id in tested] or list(dataset.records)
    chosen = next((each for each in records if each.label == "melanoma"), records[0] if records else None)
    return Photograph(dataset, chosen, chosen.image_id in tested) if chosen else None


def sizes_at_chosen_k(sweep: Run) -> dict[str, Any] | None:
    """Return the row of a sweep's storage table at the k of the default rule, else at the largest k."""
    storage, rules = data.storage(sweep), data.optimal_k(sweep)
    at = storage[storage["k"].isin(rules.loc[rules["rule"] == DEFAULT_RULE, "k"].dropna())]
    at = storage.tail(1) if at.empty else at
    return None if at.empty else data.plain_row(at.iloc[0])


def missing(part: str) -> None:
    """Say what a step lacks, with a link to the page that makes it. part: of `MISSING`."""
    sentence, page, label = MISSING[part]
    st.info(f"{sentence} `make demo` makes it too.", icon=":material/hourglass_empty:")
    components.page_link(page, label, icon=":material/arrow_forward:")


def decomposed(told: Story, taken: Photograph) -> tuple[pictures.Decomposed, SweepSpec, int]:
    """Return the photograph, decomposed, how the sweep stores it, and the k that the sweep chose."""
    spec = told.sweep.told(SweepSpec) if told.sweep else SweepSpec(dataset=taken.dataset.name)
    with st.spinner("Decomposing"):
        pictures.compiled()
        content = taken.content()
        image = pictures.decomposed(content, pictures.digest_of(content), spec.mode)
    return image, spec, min(int(told.sizes["k"]) if told.sizes else DEFAULT_K, image.factors.rank)


def photograph(told: Story) -> None:
    """Step 1: the photograph, where it comes from, and its diagnosis."""
    st.header("A photograph")
    if told.photograph is None:
        return missing("photograph")
    record, dataset = told.photograph.record, told.photograph.dataset
    badge = f" {components.SYNTHETIC}" if dataset.synthetic else ""
    diagnosis = f", diagnosis **{words.escaped(shown_class(record.label))}**" if record.label else ""
    st.markdown(
        f"Image {words.escaped(words.shortened(record.image_id))} of the data set "
        f"**{words.escaped(words.shortened(dataset.name))}**{badge}{diagnosis}. "
        f"It has {words.size_text(record.height, record.width)} pixels, and its file {words.bytes_text(record.bytes)}."
    )
    if dataset.synthetic:
        st.markdown("A program computed it: it shows no patient.")
    if told.photograph.in_test:
        st.markdown("It is a test image: the networks of this tour were not trained on it.")
    picture = pictures.thumbnail(str(dataset.root / record.path), record.sha256, SHOWN_SIDE)
    if isinstance(picture, str):
        st.error(words.sentence(picture), icon=":material/broken_image:")
    else:
        st.image(picture, alt=record.image_id)
    told.photograph.inspector_link("This photograph in the inspector")


def at_k(told: Story) -> None:
    """Step 2: the photograph beside its reconstruction from k singular values."""
    st.header("The same photograph at k")
    st.markdown(
        "The singular value decomposition (SVD) writes the photograph as a sum of simple images, those that contribute "
        "most first. Only the first k of them are kept."
    )
    if told.sweep is None:
        missing("sweep")
    if told.photograph is None:
        return missing("photograph")
    image, spec, chosen = decomposed(told, told.photograph)
    if told.sweep:
        st.markdown(f"The sweep of {components.dataset_text(told.sweep)} leads to k = {chosen}. Try others:")
    rank = image.factors.rank
    k = st.slider("k, singular values kept", 1, rank, chosen, key="tour_k") if rank > 1 else 1
    found = pictures.reconstructed(image.digest, spec.mode, k, spec.codec, spec.quality, image)
    similarity = words.metric_text(METRICS_BY_NAME["ssim"], found.metrics["ssim"])
    panes = [
        Pane(image.picture, "Original", f"{words.size_text(*image.shape)} pixels"),
        Pane(found.stored, f"k = {k}", f"SSIM {similarity}; 1 means equal"),
    ]
    compare(panes, image.shape, "side", key="tour_pair")
    told.photograph.inspector_link("All metrics of it in the inspector", k)


def bars(title: str, names: list[str], values: list[int], texts: list[str]) -> None:
    """Show the chart of a step."""
    components.chart(charts.bars(title, names, values, texts, theme=components.theme()), alt=title, key="tour_bars")


def stored_bytes(told: Story) -> None:
    """Step 3: what the photograph takes as a file, and how little of the saving is SVD's."""
    st.header("What it takes as a file")
    if told.photograph is None:
        missing("photograph")
    else:
        image, spec, k = decomposed(told, told.photograph)
        codec = words.codec_text(spec.codec, spec.quality)
        found = pictures.reconstructed(image.digest, spec.mode, k, spec.codec, spec.quality, image)
        names = ["source file", f"{codec} without SVD", f"{codec} at k = {k}"]
        sizes = [image.source_bytes, found.control_bytes, found.stored_bytes]
        bars("Size of this photograph, lower is better", names, sizes, [words.bytes_text(size) for size in sizes])
    if told.sweep is None or told.sizes is None:
        return missing("sweep")
    st.markdown(f"The sweep measured the same on {components.dataset_text(told.sweep)}:")
    first, *further = words.storage_sentences(told.sizes, told.sweep.told(SweepSpec))
    st.markdown(" ".join([first, share_of_codec(told.sizes, told.sweep.told(SweepSpec)) or " ".join(further[:1])]))
    components.run_link(told.sweep.id, told.sweep.kind, "The sweep with all its sizes", ":material/query_stats:")


def share_of_codec(sizes: dict[str, Any], spec: SweepSpec) -> str:
    """Return how much of the ratio re-encoding explains, where the files became smaller; else an empty text."""
    ratio, alone = sizes["ratio"], sizes["control_ratio"]
    if not (words.known(ratio) and words.known(alone) and ratio > 1):
        return ""
    part = "most" if alone - 1 > (ratio - 1) / 2 else "the smaller part"
    codec = words.codec_text(spec.codec, spec.quality)
    return (
        f"**Re-encoding as {codec} alone explains {part} of the ratio**: {words.ratio_text(alone)} without SVD, "
        f"{words.ratio_text(ratio)} with it."
    )


def network_shrinks(told: Story) -> None:
    """Step 4: the parameters of each network of the prune-train run."""
    st.header("The network shrinks")
    if told.run is None or told.steps.empty:
        return missing("run")
    spec, smallest = told.run.told(PruneTrainSpec), data.plain_row(smallest_accepted(told.steps))
    st.markdown(
        f"A network predicts the diagnosis from the photograph: {words.escaped(spec.trained_network.name)}, trained on "
        f"{components.dataset_text(told.run)}. Each pruned network has fewer filters and units per layer, and is "
        "trained again."
    )
    share = training_results.share_text(smallest["parameters"], told.steps.iloc[0]["parameters"])
    pruned = smallest["step"] > 0
    accepted = f"The smallest that meets the baseline, {smallest['name']}, keeps {share} of the parameters."
    st.markdown(words.escaped(accepted if pruned else "No pruned network of this run meets the baseline."))
    rejected = ~told.steps["accepted"].astype("boolean").fillna(False)
    names = [name + ", rejected" * bool(no)
             for name, no in zip(training_results.numbered(told.steps), rejected, strict=True)]  # fmt: skip
    counts = [int(count) for count in told.steps["parameters"]]
    bars("Parameters of each network", names, counts, [words.count_text(count) for count in counts])
    components.run_link(told.run.id, told.run.kind, "All steps of the run", ":material/model_training:")


def same_answer(told: Story) -> None:
    """Step 5: what the unpruned and the smallest accepted network predict of the photograph."""
    st.header("Its answer for the photograph")
    if told.photograph is None:
        return missing("photograph")
    if told.run is None:
        return missing("run")
    if not told.networks:
        return missing("network")
    record = told.photograph.record
    with st.spinner("Predicting"):
        pixels = decode(told.photograph.content())
        rows = [explanation.answer(each, "", pixels, record) for each in told.networks]
    given = {row["Class"] for row in rows}
    known = f" The data set says **{words.escaped(shown_class(record.label))}**." if record.label else ""
    answers = [
        f"{words.escaped(each.name)} says **{row['Class']}**" for each, row in zip(told.networks, rows, strict=True)
    ]
    if len(rows) == 1:
        st.markdown(f"{answers[0]}; no other network of the run is converted on this host.{known}")
    else:
        equal = "Both networks give the same answer" if len(given) == 1 else "The networks give different answers"
        st.markdown(f"{equal}: {', '.join(answers)}.{known}")
    st.markdown("One photograph proves nothing: the next step counts all test images.")
    components.table(pd.DataFrame(rows).drop(columns="Image"), alt="Class and probabilities that each network gives")
    components.page_link(
        "deploy", "The converted networks", icon=":material/memory:", query_params={"run": told.run.id}
    )


def how_sure(told: Story) -> None:
    """Step 6: the accuracy of both networks with intervals, what follows from it, and where to go on."""
    st.header("What it means, and how sure it is")
    if told.run is None or told.steps.empty:
        missing("run")
    else:
        run, steps = told.run, told.steps
        first, best = (data.plain_row(each) for each in (steps.iloc[0], smallest_accepted(steps)))
        sets = training_data.run_splits(run.id)
        images = int(sets.loc[sets["split"] == "test", "images"].sum()) if len(sets) else 0
        where = f" on {words.count_of(images, 'test image')}" if images else ""
        figures = [words.escaped(words.step_figure_text(each, "test_accuracy")) for each in (first, best)]
        said = f"The unpruned network has {figures[0]} accuracy{where}"
        st.markdown(said + (f", the smallest accepted one {figures[1]}." if best["step"] > 0 else "."))
        if best["step"] > 0 and words.known(best["difference_low"]):
            low = float(best["difference_low"])
            loss = f"; a loss of {-low:.1f} points is not excluded" if low < 0 else ""
            difference = words.escaped(training_results.difference_text(best))
            st.markdown(f"The difference is {difference} points{loss}. In brackets: 95 % intervals.")
        if run.synthetic:
            st.markdown("The images are synthetic: none of this holds for patients. Tables and claims have real ones.")
        front = training_numbers.pareto_front(steps, "test_accuracy")
        limits = training_numbers.limits(steps, "test_accuracy")
        components.chart(
            training_charts.size_against_accuracy(steps, "test_accuracy", front, limits, theme=components.theme()),
            alt="Test accuracy of each network against its parameters, with 95 % intervals",
            key="tour_accuracy",
        )
        components.run_link(run.id, run.kind, "All figures of the run", ":material/model_training:")
    if told.sweep:
        components.run_link(told.sweep.id, told.sweep.kind, "All figures of the sweep", ":material/query_stats:")
    components.page_link("tables", "The article's tables, measured", icon=":material/table_chart:")
    components.page_link("claims", "The article's claims, judged", icon=":material/rule:")


STEPS = {
    "1": ("Photograph", photograph),
    "2": ("At k", at_k),
    "3": ("Bytes", stored_bytes),
    "4": ("Network", network_shrinks),
    "5": ("Answer", same_answer),
    "6": ("How sure", how_sure),
}


def go(step: int) -> None:
    """Show another step."""
    st.query_params["step"] = str(step)


step = components.url_choice(
    st.segmented_control,
    "Step",
    list(STEPS),
    param="step",
    format_func=lambda each: f"{each} {STEPS[each][0]}",
    label_visibility="collapsed",
    required=True,
)
number = int(step)
with st.container(horizontal=True, vertical_alignment="center"):
    st.button("Back", icon=":material/chevron_left:", on_click=go, args=(number - 1,), disabled=number == 1)
    st.button(
        "Next", icon=":material/chevron_right:", icon_position="right", on_click=go, args=(number + 1,), type="primary",
        disabled=number == len(STEPS),
    )  # fmt: skip
st.progress(number / len(STEPS), text=f"Step {number} of {len(STEPS)}")
with components.sentences():
    STEPS[step][1](story())
