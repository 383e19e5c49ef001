"""Training runs beside each other: only what differs in their settings, their steps, means over seeds, curves."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd
import streamlit as st

from core.predictions import comparison
from core.predictions.comparison import seed_pairs, signed
from core.predictions.intervals import interval_text
from core.runs import Run
from core.store.file import plain_rows
from core.training.specs import PruneTrainSpec, TrainSpec
from dashboard import data, training_data, words
from dashboard.charts import training as training_charts
from dashboard.charts import training_numbers
from dashboard.parts import components

INTERVALS = {"balanced_accuracy": "test_balanced_accuracy"}  # where the column is called otherwise
MOST_CURVES = 8  # colours that readers can distinguish
METRICS = {
    "test_accuracy": "Test accuracy",
    "balanced_accuracy": "Balanced accuracy",
    "test_precision": "Precision, the article's",
    "test_recall": "Recall, the article's",
    "macro_precision": "Precision, macro-average",
}


def label(run: Run) -> str:
    """Return a run's name in lists; the end of its id tells apart runs of one minute and equal settings."""
    kind = words.RUN_KIND_LABELS[run.kind]
    return f"{words.run_label(run, components.reader_zone())} · {kind.lower()} · {run.id[-4:]}"


def short_label(run: Run) -> str:
    """Return a recorded run's short name for comparisons of several runs."""
    spec = run.told(TrainSpec)
    synthetic = " (synthetic)" if run.synthetic else ""
    parts = (
        spec.trained_network.name,
        f"{words.shortened(run.dataset, 24)}{synthetic}",
        f"seed {spec.training.seed}",
        "pruned" if isinstance(spec, PruneTrainSpec) else "trained",
        run.id[-4:],
    )
    return " · ".join(parts)


def show_study(study: str) -> None:
    """Open the comparison of the runs that were submitted together."""
    st.query_params["tab"] = "Compare"
    st.query_params["runs"] = ",".join(run.id for run in data.runs() if run.study == study)


def chosen_runs(runs: Sequence[Run]) -> list[Run]:
    """Return the runs that the address names, chosen in a field that writes them there."""
    by_id = {run.id: run for run in runs if data.is_recorded(run.id)}
    wanted = st.query_params.get("runs")
    named = [run_id for run_id in (wanted or "").split(",") if run_id]
    if wanted is None:
        finished = [run for run in by_id.values() if run.status == "finished"]
        named = [run.id for run in newest_together(finished or list(by_id.values()))]
    unknown = [run_id for run_id in named if run_id not in by_id]
    if unknown:
        st.warning(f"There is no training run {words.escaped(words.shortened(', '.join(unknown), 120))}.")
    st.session_state["compared"] = [run_id for run_id in named if run_id in by_id]

    def changed() -> None:
        st.query_params["runs"] = ",".join(st.session_state["compared"])

    labels = words.unlike({run_id: short_label(run) for run_id, run in by_id.items()})
    chosen = st.multiselect(
        "Runs", list(by_id), key="compared", on_change=changed, format_func=labels.__getitem__
    )  # fmt: skip
    return [by_id[run_id] for run_id in chosen]


def newest_together(runs: Sequence[Run]) -> list[Run]:
    """Return the newest submission of several runs, or the newest two runs."""
    study = next((run.study for run in runs if run.study), None)
    return [run for run in runs if run.study == study] if study else list(runs[:2])


def compare(runs: Sequence[Run]) -> None:
    """Show the chosen runs beside each other."""
    of_runs = chosen_runs(runs)
    if not of_runs:
        st.info("Choose runs to compare.", icon=":material/compare_arrows:")
        return
    settings(of_runs)
    steps = training_numbers.chosen_rows(training_data.compared_steps(of_runs), [run.id for run in of_runs])
    if steps.empty:
        st.info("None of these runs has a finished step yet.", icon=":material/hourglass_empty:")
        return
    side_by_side(steps, of_runs)
    over_seeds(steps)
    difference(steps)
    curves(steps, of_runs)


def settings(of_runs: Sequence[Run]) -> None:
    """List the settings in which the runs differ, and the runs' pages."""
    st.header("Where they differ")
    specs = {run.id: run.told(TrainSpec) for run in of_runs}
    differing = training_numbers.differing_settings(specs)
    table = differing.T.reset_index(names="Run") if len(differing) else pd.DataFrame({"Run": list(specs)})
    table.insert(0, "Page", [components.run_address(run_id) for run_id in specs])
    components.table(
        table,
        alt="Settings in which the runs differ",
        column_config={"Page": st.column_config.LinkColumn(display_text="open", width="small")},
    )
    synthetic = sorted({run.dataset for run in of_runs if run.synthetic})
    if synthetic:
        st.markdown(f"{components.SYNTHETIC} {words.escaped(', '.join(synthetic))}")
    if len(specs) > 1 and differing.empty:
        st.caption("They have the same settings.")


def side_by_side(steps: pd.DataFrame, of_runs: Sequence[Run]) -> None:
    """List the steps of the runs in one table."""
    st.header("Steps")
    names = training_numbers.group_names(steps)
    table = pd.DataFrame(
        {
            "Page": [components.run_address(run_id) for run_id in steps["run_id"]],
            "Step": names,
            "Seed": steps["seed"].to_numpy(),
            "Parameters": [words.count_text(each) for each in steps["parameters"]],
            **{
                name: [words.step_figure_text(row, metric, INTERVALS.get(metric)) for row in plain_rows(steps)]
                for metric, name in (METRICS | {"validation_accuracy": "Validation accuracy"}).items()
            },
            "Epochs": steps["epochs"].to_numpy(),
            "Time": [words.duration_text(each) for each in steps["seconds"]],
            "Accepted": [verdict(*pair) for pair in zip(steps["accepted"], steps["reason"], strict=True)],
        }
    )
    components.table(
        table,
        alt="Steps of the runs side by side",
        height="content" if len(table) < 25 else 800,
        column_config={
            "Page": st.column_config.LinkColumn(display_text="run", width="small"),
            "Step": st.column_config.TextColumn(width="large"),
            "Accepted": st.column_config.TextColumn(width="large"),
        },
    )
    components.downloads(
        "compared",
        {
            "Steps": lambda: steps.drop(columns="classification").astype({"settings": str}),
            "Epochs": lambda: training_data.epochs(of_runs),
        },
        key="compared_files",
    )


def verdict(accepted: object, reason: str) -> str:
    """Return whether a step was accepted, or why not."""
    return "accepted" if words.known(accepted) and accepted else f"no: {reason}"


def over_seeds(steps: pd.DataFrame) -> None:
    """Show means ± sample deviations over the seeds of runs that differ in nothing else."""
    groups = training_numbers.over_seeds(steps)
    st.header("Means over seeds")
    if (groups["n"] < 2).all():
        st.caption("No two of these runs differ in their seed alone: each row is one training, without a deviation.")
    names = training_numbers.group_names(groups)
    table = pd.DataFrame(
        {
            "Step": names,
            "n": groups["n"],
            "Seeds": groups["seeds"],
            "Parameters": [words.count_text(each) for each in groups["parameters"]],
            **{name: mean_texts(groups, metric) for metric, name in METRICS.items()},
            "Seconds": mean_texts(groups, "seconds", ""),
        }
    )
    components.table(
        table,
        alt="Mean and sample deviation over seeds of each step",
        height="content" if len(table) < 25 else 800,
        column_config={"Step": st.column_config.TextColumn(pinned=True, width="medium")},
    )
    st.caption(
        "Mean ± sample deviation (n − 1) over the seeds of runs alike in network, data set, settings and step. Of a "
        "seed trained twice the later run counts."
    )
    metric = st.segmented_control(
        "Figure", list(METRICS), key="compared_metric", bind="query-params", default="test_accuracy", required=True,
        format_func=METRICS.__getitem__, wrap=True,
    )  # fmt: skip
    components.chart(
        training_charts.compared_sizes(groups, names, metric, theme=components.theme()),
        alt=f"{METRICS[metric]} of each group against its parameters, with deviations over seeds",
        key="compared_sizes",
    )


@st.fragment
def difference(steps: pd.DataFrame) -> None:
    """Compare two groups of steps on the same test images, seed by seed, and over the seeds."""
    names = training_numbers.group_names(steps)
    groups = [group for _, group in steps.groupby(pd.Series(names, index=steps.index), sort=False)]
    if len(groups) < 2:
        return
    st.header("Difference")
    labels = dict(zip(map(str, range(len(groups))), dict.fromkeys(names), strict=True))
    with st.grid(2, min_column_width=250):
        first, second = (
            groups[
                int(
                    components.url_choice(
                        st.selectbox, label, list(labels), param=label.lower(), default=default, dependent=True,
                        format_func=labels.__getitem__,
                    )
                )
            ]
            for label, default in (("First", "0"), ("Second", "1"))
        )  # fmt: skip
    found = training_data.compared_pairs(seed_pairs(first, second))
    if first is second or not found:
        st.info(
            "Choose two different groups with a common seed and with predictions of single images.",
            icon=":material/compare_arrows:",
        )
        return
    summary = comparison.over_seeds([each.difference.value for each in found.values()])
    st.markdown(
        f"Test accuracy of the first minus that of the second: **{summary.text}**."
        if summary.n > 1
        else words.escaped(next(iter(found.values())).sentence)
    )
    components.table(
        {
            "Seed": list(found),
            "Difference, points": [
                f"{signed(each.difference.value)} {interval_text((each.difference.low, each.difference.high), '+')}"
                for each in found.values()
            ],
            "McNemar p": [f"{each.p:.2g}" for each in found.values()],
            "Told from chance": ["yes" if each.distinguishable else "no" for each in found.values()],
            "Only the first is right": [each.only_first for each in found.values()],
            "Only the second is right": [each.only_second for each in found.values()],
            "Images": [each.images for each in found.values()],
        },
        alt="Paired difference of the two groups for each seed",
    )
    st.caption(
        "Paired on the images that both have; 95 % intervals by resampling lesions. Mean ± sample deviation (n − 1) "
        "over the seeds."
    )


def mean_texts(groups: pd.DataFrame, metric: str, unit: str = " %") -> list[str]:
    """Return each group's mean ± deviation of one figure."""
    texts = []
    for mean, deviation in zip(groups[metric], groups[f"{metric}_std"], strict=True):
        spread = f" ± {deviation:.2f}" if words.known(deviation) else ""
        texts.append(f"{mean:.2f}{spread}{unit}" if words.known(mean) else words.NONE)
    return texts


@st.fragment
def curves(steps: pd.DataFrame, of_runs: Sequence[Run]) -> None:
    """Overlay the learning curves of one step number of every run, averaged over seeds."""
    st.header("Learning curves")
    names = {str(number): words.escaped(name) for number, name in zip(steps["step"], steps["name"], strict=True)}
    with st.container(horizontal=True):
        number = st.segmented_control(
            "Step", list(names), key="compared_step", bind="query-params", default=next(iter(names)), required=True,
            format_func=lambda each: f"{each}. {names[each]}" if each == "0" else f"step {each}", wrap=True,
        )  # fmt: skip
        quantity = st.segmented_control(
            "Quantity", ["loss", "accuracy"], key="compared_quantity", bind="query-params", default="accuracy",
            format_func=training_charts.QUANTITIES.__getitem__, required=True,
        )  # fmt: skip
    table = training_numbers.curves_over_seeds(training_data.epochs(of_runs), steps[steps["step"] == int(number)])
    groups = list(dict.fromkeys(table["group"]))
    shown = table[table["group"].isin(groups[:MOST_CURVES])]
    components.chart(
        training_charts.compared_curves(shown, quantity, theme=components.theme()),
        alt=f"{training_charts.QUANTITIES[quantity]} of the runs by epoch",
        key="compared_curves",
    )
    left = len(groups) - MOST_CURVES
    st.caption(
        "Solid: validation; dotted: training. Band: one sample deviation over seeds either way, for validation."
        + (
            f" The first {MOST_CURVES} of {len(groups)} are drawn; choose fewer runs to see the others."
            if left > 0
            else ""
        )
    )
