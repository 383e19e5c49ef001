"""The parts of a training run's page: its progress, its steps, and the results of each step."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import partial
from typing import Any

import pandas as pd
import streamlit as st

from core.data.splits import SPLITS
from core.errors import QueueUnavailable
from core.predictions.classification import FIGURES, recall_name
from core.predictions.intervals import MACRO_AUC, interval_text, intervals_of_step
from core.runs import Run
from core.store.file import plain_rows
from core.training.evaluation import smallest_accepted
from core.training.specs import Baseline, PruneTrainSpec, TrainSpec
from dashboard import data, training_data, words
from dashboard.charts import training as training_charts
from dashboard.charts import training_numbers
from dashboard.forms import training as training_forms
from dashboard.forms.fields import SET_NAMES
from dashboard.parts import components, run_progress

LIVE_QUANTITIES = ("loss", "accuracy", "precision")
YES_OR_NO = {True: "yes", False: "no", None: words.NONE}
FIGURE_NAMES = {
    "accuracy": "Accuracy",
    "precision": "Precision, the article's",
    "recall": "Recall, the article's",
    "macro_precision": "Precision, macro-average",
    "macro_recall": "Recall, macro-average",
    "balanced_accuracy": "Balanced accuracy",
    "lesion_accuracy": "Accuracy over the three lesion classes",
}
LADDER = {  # the columns of the steps: the view's name, and what it shows
    "Verdict": (
        "Accepted: yes, or the first criterion that was missed and by how many points. Of unpruned: share of the "
        "unpruned network's parameters. Both rules: first by tolerance (test figures at most the tolerated points "
        "below the unpruned network), then non-inferior (the lower end of the paired interval of test accuracy at most "
        "the tolerated points below it). In square brackets: 95 % intervals, where the step has predictions."
    ),
    "Test figures": (
        "Of the weights that were kept; precision and recall by the article's definition. In square brackets: 95 % "
        "intervals, where the step has predictions."
    ),
    "Size": "Weights and, with the optimizer's state, checkpoint: sizes of the files.",
    "Training": (
        "Memory: the most that the process had at once. Lost before: trainings with earlier seeds whose network gave "
        "every image the same probabilities."
    ),
    "Reasons": "The first criterion that was missed, with the figure that was needed.",
}
DEFINITIONS = (
    "The article's precision and recall count every probability above 0.5 as a prediction, over all classes at once: "
    "an image may then have no prediction, so recall is at most accuracy. The macro-averages take each image for "
    "its most probable class and weigh every class alike. Easy negatives lift every average; the accuracy over the "
    "lesion classes leaves them out."
)


# -- progress ----------------------------------------------------------------------------------------------------------


def live(run_id: str, spec: TrainSpec, recorded: tuple[str, ...]) -> None:
    """Refresh a run's progress every second while it runs; draw the whole page again once a step has ended.

    recorded: the status of each step that the page shows.
    """
    st.fragment(components.said(_live), run_every=1)(run_id, spec, recorded)


def _live(run_id: str, spec: TrainSpec, recorded: tuple[str, ...]) -> None:
    try:
        run = data.queues().run(run_id)
    except QueueUnavailable:
        run = data.run(run_id)
    if run is None or run.ended or tuple(training_data.steps(run_id)["status"]) != recorded:
        data.forget_runs()
        st.rerun(scope="app")
    components.show_outcome()
    st.markdown(f"{components.status_text(run.status)} `{run_id}`")
    run_progress.progress_bar(run)
    run_progress.controls(run)
    if run.live.step is None:
        return
    epochs = training_data.live_epochs(run_id)
    current = epochs[epochs["step"] == run.live.step]
    doing = "being trained" if run.status == "running" else run.status
    st.markdown(f"**{words.escaped(run.live.step_name or '')}**, {doing}")
    # Empty ones too: the browser has then loaded what draws them when the first epoch ends.
    learning_curves(run_id, run.live.step, current, spec, quantities=LIVE_QUANTITIES, key="live")
    st.caption("Dotted: the baseline. Dashed: the best epoch so far, whose weights are kept.")


# -- results -----------------------------------------------------------------------------------------------------------


def answer(spec: TrainSpec, steps: pd.DataFrame) -> None:
    """Show a run's results in sentences and figures."""
    with st.container(border=True):
        for sentence in answer_sentences(spec, steps):
            st.markdown(words.escaped(sentence))
    first = data.plain_row(steps.iloc[0])
    best = data.plain_row(smallest_accepted(steps))
    with st.grid(3, min_column_width=220):
        for label, name in (
            ("Test accuracy", "test_accuracy"),
            ("Balanced accuracy", "test_balanced_accuracy"),
            ("Over lesion classes", "test_lesion_accuracy"),
        ):
            change = best[name] - first[name] if words.known(best[name]) and words.known(first[name]) else None
            st.metric(
                label,
                words.percent_text(best[name]),
                None if change is None or abs(change) < 0.05 else f"{change:+.1f} points",  # falls by its hyphen
                border=True,
                delta_description=interval_text(intervals_of_step(best["classification"]).get(name)) or None,
            )


def answer_sentences(spec: TrainSpec, steps: pd.DataFrame) -> list[str]:
    """Describe the results of a run's finished steps. steps: those that were trained, the unpruned network first."""
    first = data.plain_row(steps.iloc[0])
    sentences = [
        f"{spec.trained_network.name}, unpruned, reaches {words.step_figure_text(first, 'test_accuracy', digits=1)} "
        "accuracy on the test set "
        f"with {words.count_text(first['parameters'])} parameters"
        + (" and meets the baseline." if first["accepted"] else f"; it misses the baseline: {first['reason']}.")
        + f" All trainings took {words.duration_text(steps['seconds'].sum())}."
    ]
    pruned = steps[steps["step"] > 0]
    if not isinstance(spec, PruneTrainSpec) or pruned.empty:
        return sentences
    accepted = pruned[pruned["accepted"].astype("boolean").fillna(False)]
    trained = words.count_of(len(pruned), "pruned network")
    if accepted.empty:
        return [*sentences, f"Of {trained}, none met the baseline."]
    best = data.plain_row(smallest_accepted(steps))
    return [
        *sentences,
        f"Of {trained}, {len(accepted)} met the baseline. The smallest of them, {best['name']}, keeps "
        f"{share_text(best['parameters'], first['parameters'])} of the parameters "
        f"({words.count_text(best['parameters'])}) and reaches "
        f"{words.step_figure_text(best, 'test_accuracy', digits=1)}.",
    ]


def share_text(part: object, whole: object) -> str:
    """Return a share in percent with three digits; a dash where either is missing."""
    if not (words.known(part) and words.known(whole) and whole):
        return words.NONE
    return f"{words.number_text(100 * float(part) / float(whole), 3)} %"  # type: ignore[arg-type]


# -- the steps ---------------------------------------------------------------------------------------------------------


@st.fragment
def ladder(steps: pd.DataFrame) -> None:
    """List every step: its verdict with its size, its test figures, its costs, or the reasons of its verdict."""
    st.header("Steps")
    view = components.url_choice(
        st.segmented_control, "Columns", list(LADDER), param="columns", label_visibility="collapsed", required=True
    )
    components.table(
        ladder_table(steps, view),
        alt=f"Steps of the run: {view.lower()}",
        column_config={
            "Step": st.column_config.TextColumn(pinned=True, width=120),
            "Reason": st.column_config.TextColumn(width="large"),
        },
    )
    st.caption(LADDER[view])
    for step in steps[steps["status"] == "failed"].to_dict("records"):
        st.error(
            words.sentence(step["failure"]),
            title=f"{words.escaped(step['name'])} could not be trained",
            icon=":material/error:",
        )


def ladder_table(steps: pd.DataFrame, view: str) -> pd.DataFrame:
    """Return the steps as texts, one row per step. steps: the store's rows of one run. view: one of `LADDER`."""
    rows = plain_rows(steps)
    unpruned = rows[0]["parameters"] if rows else None
    texts: dict[str, Callable[[dict[str, Any]], dict[str, str]]] = {
        "Verdict": partial(verdict_texts, unpruned=unpruned),
        "Test figures": figure_texts,
        "Size": size_texts,
        "Training": training_texts,
        "Reasons": reason_texts,
    }
    return pd.DataFrame([{"Step": step["name"]} | texts[view](step) for step in rows])


def verdict_texts(step: dict[str, Any], unpruned: int | None) -> dict[str, str]:
    """Return whether a step was accepted, and the figures that this depends on. unpruned: parameters."""
    return {
        "Accepted": accepted_text(step),
        "Both rules": f"{YES_OR_NO[step['accepted_by_points']]} / {YES_OR_NO[step['noninferior']]}",
        "Of unpruned": share_text(step["parameters"], unpruned),
        "Test accuracy": words.step_figure_text(step, "test_accuracy"),
        "Against unpruned": difference_text(step),
    }


def reason_texts(step: dict[str, Any]) -> dict[str, str]:
    """Return why a step was not accepted, or not trained."""
    return {"Accepted": accepted_text(step), "Reason": step["failure"] or step["reason"] or words.NONE}


def figure_texts(step: dict[str, Any]) -> dict[str, str]:
    """Return a step's figures on the test set."""
    with_auc = step | {"test_macro_auc": macro_auc(step)}
    return {
        "Accuracy": words.step_figure_text(step, "test_accuracy"),
        "Balanced": words.step_figure_text(step, "test_balanced_accuracy"),
        "Macro AUC": words.step_figure_text(with_auc, "test_macro_auc"),
        "Lesion classes": words.step_figure_text(step, "test_lesion_accuracy"),
        "Precision": words.step_figure_text(step, "test_precision"),
        "Recall": words.step_figure_text(step, "test_recall"),
    }


def size_texts(step: dict[str, Any]) -> dict[str, str]:
    """Return what a step's network takes in space and operations."""
    return {
        "Parameters": words.count_text(step["parameters"]),
        "MACs": words.count_text(step["macs"]),
        "Weights": words.bytes_text(step["weights_bytes"] or step["bytes_weights"]),
        "With optimizer": words.bytes_text(step["checkpoint_bytes"] or step["bytes_with_optimizer"]),
    }


def training_texts(step: dict[str, Any]) -> dict[str, str]:
    """Return what a step's training took, and where it was done."""
    return {
        "Epochs": words.count_text(step["epochs"]) if step["status"] != "training" else words.NONE,
        "Kept epoch": words.count_text(step["kept_epoch"]),
        "Time": words.duration_text(step["seconds"]),
        "An epoch": words.duration_text(step["epoch_seconds"]),
        "Images/s": words.number_text(step["images_per_second"], 3),
        "Precision": step["precision"] or words.NONE,
        "Lost before": words.count_text(step["lost"] or 0),
        "Memory": words.bytes_text(step["peak_memory"]),
        "Device": step["device"] or words.NONE,
        "Worker": step["worker"] or words.NONE,
    }


def difference_text(step: dict[str, Any]) -> str:
    """Return a step's test accuracy minus the unpruned network's, in points, with the paired interval."""
    if step["difference"] is None:
        return words.NONE
    limits = interval_text((step["difference_low"], step["difference_high"]), "+")
    return f"{step['difference']:+.2f} {limits}".replace("-", "−")


def macro_auc(step: dict[str, Any]) -> float | None:
    """Return a step's macro AUC on the test images in percent; None where it has no predictions."""
    found: float | None = json.loads(step["classification"]).get("test", {}).get(MACRO_AUC)
    return found


def accepted_text(step: dict[str, Any]) -> str:
    """Return whether a step was accepted, or the first criterion that it missed and by how many points."""
    if step["status"] != "finished":
        return {"training": "not ended", "failed": "failed"}[step["status"]]
    if step["accepted"]:
        return "yes"
    missed = "undefined" if step["missed_by"] is None else f"−{step['missed_by']:.2f}"
    return f"{step['criterion'].replace('_', ' ')} {missed}"


@st.fragment
def size_section(run_id: str, steps: pd.DataFrame, depends: tuple[object, ...]) -> None:
    """Chart parameters against test accuracy with the Pareto front."""
    st.header("Size and accuracy")
    metric = st.segmented_control(
        "Accuracy", list(training_charts.METRICS), key="accuracy", bind="query-params", required=True,
        default="test_accuracy", format_func=training_charts.METRICS.__getitem__, label_visibility="collapsed",
    )  # fmt: skip
    front = training_numbers.pareto_front(steps, metric)
    components.chart(
        lambda: training_charts.size_against_accuracy(
            steps, metric, front, training_numbers.limits(steps, metric), theme=components.theme()
        ),
        alt=f"{training_charts.METRICS[metric]} of each step against its parameters, with the Pareto front",
        key="pareto",
        depends=(run_id, metric, *depends),
    )
    names = list(steps.loc[front, "name"])
    if names:
        st.caption(
            f"On the Pareto front, beaten in both by no other step: {words.escaped('; '.join(names))}. Parameters: "
            "logarithmic axis. Bars: 95 % intervals, where the step has predictions."
        )


def learning_curves(
    run_id: str,
    step: int,
    epochs: pd.DataFrame,
    spec: TrainSpec,
    *,
    quantities: tuple[str, ...] = tuple(training_charts.QUANTITIES),
    key: str,
) -> None:
    """Chart the learning curves of one step, with the baseline and the epoch that is kept."""
    state = (len(epochs), str(epochs["ended_at"].max()) if len(epochs) else "", components.theme())
    grid = st.grid(len(quantities) if len(quantities) < 4 else 2, min_column_width=220)
    for quantity in quantities:
        with grid, st.container():
            needed, total = baseline_of(spec.thresholds, quantity), spec.training.epochs
            components.chart(
                partial(training_charts.learning_curve, epochs, quantity, needed, total, theme=components.theme()),
                alt=f"{training_charts.QUANTITIES[quantity]} of training and validation by epoch",
                key=f"{key}_{quantity}",
                depends=(run_id, step, *state),
            )


def signs(run_id: str, step: int, epochs: pd.DataFrame) -> None:
    """Chart by choice what shows whether a network learns at all."""
    sign = st.segmented_control(
        "Why a network does not learn", list(training_charts.SIGNS), key="sign", bind="query-params",
        format_func=lambda each: training_charts.SIGNS[each][0], wrap=True,
        help="A network is lost where all units of its head are 0 for every image: its gradient is then 0, and all "
        "images get the same probabilities. A warm-up or batch normalisation after the dense layers helps.",
    )  # fmt: skip
    if sign:
        components.chart(
            partial(training_charts.sign_chart, epochs, sign, theme=components.theme()),
            alt=f"{training_charts.SIGNS[sign][0]} by epoch",
            key=f"sign_{sign}",
            depends=(run_id, step, len(epochs), components.theme()),
        )


def baseline_of(limits: Baseline, quantity: str) -> dict[str, float]:
    """Return the least training and validation figure of a quantity; empty where the baseline asks for none."""
    if quantity not in ("accuracy", "precision"):
        return {}
    return {split: getattr(limits, f"{split}_{quantity}") for split in ("train", "validation")}


def choose_step(steps: pd.DataFrame) -> dict[str, Any]:
    """Return the step that the reader chooses, as a row of the store."""
    names = dict(zip(map(str, steps["step"]), numbered(steps), strict=True))
    chosen = components.url_choice(
        st.selectbox, "Step", list(names), param="step", format_func=names.__getitem__, dependent=True
    )
    return data.plain_row(steps[steps["step"] == int(chosen)].iloc[0])


@st.fragment
def curves_section(run: Run, spec: TrainSpec, steps: pd.DataFrame) -> None:
    """Show the learning curves of the chosen step, and its figures by both definitions."""
    step = choose_step(steps)
    epochs = training_data.epochs([run])
    learning_curves(run.id, step["step"], epochs[epochs["step"] == step["step"]], spec, key="curve")
    st.caption(
        "Training figures are gathered while the weights change, dropout on, repeats included; validation is measured "
        "at the epoch's end. Dotted: the baseline. Dashed: the epoch whose weights are kept, the best in validation "
        "accuracy among those that meet the baseline, else among all."
    )
    signs(run.id, step["step"], epochs[epochs["step"] == step["step"]])
    if not has_figures(step):
        return
    st.markdown("**Two definitions of precision and recall**")
    components.table(figures_table(step), alt="All figures of the step on the three sets")
    st.caption(DEFINITIONS)


def has_figures(step: dict[str, Any]) -> bool:
    """Return whether a step was trained to its end; say why not otherwise."""
    if step["status"] == "finished":
        return True
    reason = words.sentence(step["failure"] or "its training has not ended")
    st.info(f"This step has no figures: {reason}", icon=":material/hourglass_empty:")
    return False


def recalls_table(step: dict[str, Any]) -> pd.DataFrame:
    """Return a step's recalls as texts: one row per class, one column per set."""
    limits = intervals_of_step(step["classification"])
    recalls = training_numbers.class_recalls(json.loads(step["classification"]))
    rows = [
        {"Recall by class": str(label).replace("_", "-")}
        | {
            SET_NAMES[str(split)]: words.figure_text(value, limits.get(f"{split}_{recall_name(str(label))}"))
            for split, value in of_class.items()
        }
        for label, of_class in recalls.iterrows()
    ]
    return pd.DataFrame(rows)


def figures_table(step: dict[str, Any]) -> pd.DataFrame:
    """Return a step's figures as texts: one row per figure, one column per set."""
    rows = [
        {"Figure": FIGURE_NAMES[name]}
        | {SET_NAMES[split]: words.step_figure_text(step, f"{split}_{name}") for split in SPLITS}
        for name in FIGURES
    ]
    return pd.DataFrame(rows)


def layers_section(run: Run, spec: TrainSpec, steps: pd.DataFrame) -> None:
    """Show how the layers shrink from step to step."""
    sizes = training_data.layer_sizes(run, spec.training.height, spec.training.width)
    components.chart(
        lambda: training_charts.layer_shares(sizes, list(steps["name"]), theme=components.theme()),
        alt="Share of each layer's filters or units that each step keeps",
        key="layers",
        depends=(run.id, tuple(steps["name"]), components.theme()),
    )
    with st.expander("As a table", icon=":material/table:", on_change="rerun", key="layers_table") as opened:
        if opened.open:
            table = sizes.rename(columns=dict(zip(sizes.columns, numbered(steps), strict=True)))
            components.table(table.reset_index(names="Layer"), alt="Filters and units by layer")


def numbered(steps: pd.DataFrame) -> list[str]:
    """Return the steps' names with their numbers: two steps may have one name after a retry of other factors."""
    return [f"{number}. {name}" for number, name in zip(steps["step"], steps["name"], strict=True)]


def data_section(run_id: str) -> None:
    """Show the sets as they really were, and the sentences that belong beside the results."""
    sets, notes = training_data.run_splits(run_id), training_data.training_notes(run_id)
    if sets.empty:
        st.caption("The sets are recorded when the first step begins.")
        return
    components.table(training_forms.sets_table(sets), alt="Images and lesions of each class and set")
    for note in notes:
        st.caption(words.escaped(note))


def files_section(run: Run) -> None:
    """Offer steps and epochs as files."""
    files = {"Steps": lambda: training_data.steps(run.id), "Epochs": lambda: training_data.epochs([run])}
    components.downloads(run.id, files, key="training")
