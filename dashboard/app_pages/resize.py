"""Resize comparisons: how a reconstruction differs at small sizes, and each network's parameters at these sizes."""

from collections.abc import Sequence

import pandas as pd
import streamlit as st

from core.compression.metrics import METRICS, METRICS_BY_NAME
from core.compression.specs import ResizeSpec
from core.errors import SpecError
from core.networks.architectures import NetworkSpec
from core.networks.costs import count_parameters
from core.runs import Run
from dashboard import data, words
from dashboard.charts import measuring as charts
from dashboard.forms import measuring as forms
from dashboard.forms import network_choices
from dashboard.forms.fields import draft
from dashboard.parts import components, run_progress, verification

MAIN_METRICS = ("ssim", "psnr", "haralick_distance", "changed_percent")
ARTICLE_SIZE = (200, 100)


def show_form() -> None:
    """Open the form."""
    st.query_params["tab"] = "New comparison"


def copy_settings(spec: ResizeSpec) -> None:
    """Open the form with a run's settings in its fields."""
    forms.RESIZE.put(draft(spec))
    st.query_params["dataset"] = spec.dataset
    show_form()


def parameter_counts(known: Sequence[NetworkSpec], sizes: Sequence[tuple[int, int]]) -> tuple[pd.DataFrame, list[str]]:
    """Return each network's learnable parameters at each size, and why some cannot be built there."""
    rows, reasons = [], []
    for network in known:
        for height, width in sizes:
            try:
                count = count_parameters(network, height, width)
            except SpecError as error:
                count = None
                reasons.append(str(error))
            rows.append({"network": network.name, "variant": f"{height}x{width}", "parameters": count})
    return pd.DataFrame(rows), reasons


def answer(run: Run, spec: ResizeSpec, statistics: pd.DataFrame, counts: pd.DataFrame) -> None:
    """Say at which size the reconstruction is closest, and at which the networks are smallest."""
    ssim = statistics[(statistics["metric"] == "ssim") & statistics["mean"].notna()].sort_values("mean")
    stored_as = words.codec_text(spec.codec, spec.quality)
    with st.container(border=True):
        if len(ssim):
            best, worst = ssim.iloc[-1], ssim.iloc[0]
            st.markdown(
                f"Resized to **{_size(best['variant'])}**, original and reconstruction (k = {spec.k}, {stored_as}) "
                f"are most alike: mean SSIM {words.number_text(best['mean'])}. They differ most at "
                f"{_size(worst['variant'])}, with {words.number_text(worst['mean'])}. Shrinking averages neighbouring "
                "pixels, so a smaller image hides more of what the compression changed."
            )
        totals = counts.dropna().groupby("variant", sort=False)["parameters"].sum()
        complete = counts.groupby("variant")["parameters"].apply(lambda column: column.notna().all())
        totals = totals[complete.reindex(totals.index)]
        if len(totals):
            smallest = str(totals.idxmin())
            st.markdown(
                f"All {counts['network'].nunique()} networks together have fewest parameters at **{_size(smallest)}**: "
                f"{words.number_text(totals[smallest] / 1e6, 3)} million. The article takes "
                f"{ARTICLE_SIZE[0]} × {ARTICLE_SIZE[1]}."
            )
    components.run_facts(run)
    verification.check_section(run)


def _size(variant: str) -> str:
    return variant.replace("x", " × ")


def metrics(statistics: pd.DataFrame) -> None:
    """Chart the metrics by size: the main ones large, all others small."""
    st.header("Quality by size")
    st.caption("Point: mean over the images. Whisker: one standard deviation either way. Sizes are rows × columns.")
    for names in (MAIN_METRICS[:2], MAIN_METRICS[2:]):
        for column, name in zip(st.columns(2), names, strict=True):
            with column:
                metric = METRICS_BY_NAME[name]
                components.chart(
                    charts.metric_by_size(statistics, name, theme=components.theme()),
                    alt=f"{metric.label} by size",
                    key=f"metric_{name}",
                )
                st.caption(words.escaped(f"{metric.definition} {words.direction_text(metric).capitalize()}."))


def networks(counts: pd.DataFrame, reasons: list[str]) -> None:
    """Show what each network costs at each size."""
    st.header("Learnable parameters by size")
    components.chart(
        charts.parameters_by_size(counts, theme=components.theme()),
        alt="Learnable parameters of each network by size",
        key="cost",
    )
    wide = counts.pivot(index="network", columns="variant", values="parameters")
    wide = wide.loc[list(dict.fromkeys(counts["network"])), list(dict.fromkeys(counts["variant"]))]
    frame = wide.map(lambda count: words.count_text(count) if words.known(count) else "too small")
    frame.columns = [_size(variant) for variant in frame.columns]
    st.dataframe(
        frame.reset_index().rename(columns={"network": "Network"}),
        hide_index=True,
        column_config={"Network": st.column_config.TextColumn(pinned=True, width="medium")},
        alt="Learnable parameters of each network at each size",
    )
    for reason in reasons:
        st.caption(f":material/info: {words.escaped(reason)}")
    st.caption("Counted from the layers, as Keras counts trainable parameters; no network is built.")


def table(run: Run, statistics: pd.DataFrame) -> None:
    """Show every metric at every size, and offer the figures as files."""
    st.header("Table")
    by = statistics.set_index(["metric", "variant"])
    variants = list(dict.fromkeys(statistics["variant"]))
    names = [
        metric for metric in METRICS if metric.name in set(statistics["metric"]) and metric.name != "explained_variance"
    ]
    columns: dict[str, list[str]] = {"Mean ± standard deviation": [words.metric_title(metric) for metric in names]}
    for variant in variants:
        columns[_size(variant)] = [
            words.mean_and_std(metric, data.plain_row(by.loc[(metric.name, variant)])) for metric in names
        ]
    st.dataframe(
        pd.DataFrame(columns),
        hide_index=True,
        height="content",
        column_config={"Mean ± standard deviation": st.column_config.TextColumn(pinned=True, width=270)},
        alt="Mean and standard deviation of every metric at each size",
    )
    components.downloads(
        run.id,
        {"Statistics": lambda: data.statistics(run), "Every image and size": lambda: data.store().measurements(run.id)},
        key="table",
    )


def results(run: Run) -> None:
    """Show a finished run."""
    spec = run.told(ResizeSpec)
    statistics = data.statistics(run)
    with st.container(horizontal=True, vertical_alignment="center"):
        name = words.escaped(words.shortened(run.dataset, 60))
        st.markdown(f"**{name}**" + (f" {components.SYNTHETIC}" if run.synthetic else ""))
        st.button(
            "Use these settings in a new comparison", icon=":material/edit:", type="tertiary", on_click=copy_settings,
            args=(spec,),
        )  # fmt: skip
    if run.failed:
        run_progress.left_out_images(run)
        run_progress.retry_button(run)
    counts, reasons = parameter_counts(tuple(network_choices.networks().networks.values()), spec.sizes)
    answer(run, spec, statistics, counts)
    metrics(statistics)
    networks(counts, reasons)
    table(run, statistics)


view = components.url_choice(
    st.segmented_control,
    "View",
    ["Results", "New comparison"],
    param="tab",
    label_visibility="collapsed",
    required=True,
)
with components.sentences():
    if view == "New comparison":
        st.caption("The original and the stored reconstruction are both resized to each size, then compared.")
        with st.container(border=True):
            forms.resize_form()
        st.stop()
    run_id = components.pick_run(
        "resize-study", "resize comparison", param="study", icon=":material/aspect_ratio:", new=show_form
    )
    run_progress.show_run(run_id, results)
