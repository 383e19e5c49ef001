"""Resize comparisons: how a reconstruction differs at small sizes, and each network's parameters at these sizes."""

import pandas as pd
import streamlit as st

from core.compression.metrics import METRICS_BY_NAME
from core.compression.specs import ResizeSpec
from core.networks.costs import size_table
from core.runs import Run
from dashboard import data, words
from dashboard.charts import measuring as charts
from dashboard.forms import measuring as forms
from dashboard.forms import network_choices
from dashboard.parts import components, verification
from dashboard.parts.measuring_page import MeasuringPage, statistics_columns, statistics_table
from dashboard.parts.run_facts import run_facts

MAIN_METRICS = ("ssim", "psnr", "haralick_distance", "changed_percent")
ARTICLE_SIZE = (200, 100)


def answer(run: Run, spec: ResizeSpec, statistics: pd.DataFrame, counts: pd.DataFrame) -> None:
    """Show at which size the reconstruction is closest, and at which the networks are smallest."""
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
        totals = counts.dropna(subset="parameters").groupby("variant", sort=False)["parameters"].sum()
        complete = counts.groupby("variant")["parameters"].apply(lambda column: column.notna().all())
        totals = totals[complete.reindex(totals.index)]
        if len(totals):
            smallest = str(totals.idxmin())
            st.markdown(
                f"All {counts['network'].nunique()} networks together have fewest parameters at **{_size(smallest)}**: "
                f"{words.number_text(totals[smallest] / 1e6, 3)} million. The article takes "
                f"{ARTICLE_SIZE[0]} × {ARTICLE_SIZE[1]}."
            )
    run_facts(run)
    verification.check_section(run)


def _size(variant: str) -> str:
    return variant.replace("x", " × ")


def metrics(statistics: pd.DataFrame) -> None:
    """Chart the metrics by size: the main ones large, all others small."""
    st.header("Quality by size")
    st.caption("Point: mean over the images. Whisker: one standard deviation either way. Sizes are rows × columns.")
    for column, name in zip([*st.columns(2), *st.columns(2)], MAIN_METRICS, strict=True):
        with column:
            metric = METRICS_BY_NAME[name]
            figure = charts.metric_by_size(statistics, name, theme=components.theme())
            components.chart(figure, alt=f"{metric.label} by size", key=f"metric_{name}")
            st.caption(words.escaped(f"{metric.definition} {words.direction_text(metric).capitalize()}."))


def networks(counts: pd.DataFrame) -> None:
    """Show what each network costs at each size."""
    st.header("Learnable parameters by size")
    figure = charts.parameters_by_size(counts, theme=components.theme())
    components.chart(figure, alt="Learnable parameters of each network by size", key="cost")
    wide = counts.pivot(index="network", columns="variant", values="parameters")
    wide = wide.loc[list(dict.fromkeys(counts["network"])), list(dict.fromkeys(counts["variant"]))]
    frame = wide.map(lambda count: "too small" if pd.isna(count) else words.count_text(count))
    frame.columns = [_size(variant) for variant in frame.columns]
    components.table(
        frame.reset_index().rename(columns={"network": "Network"}),
        alt="Learnable parameters of each network at each size",
        height="auto",
        column_config={"Network": st.column_config.TextColumn(pinned=True, width="medium")},
    )
    for reason in counts["reason"].dropna():
        st.caption(f":material/info: {words.sentence(reason)}")
    st.caption("Counted from the layers, as Keras counts trainable parameters; no network is built.")


def table(run: Run, statistics: pd.DataFrame) -> None:
    """Show every metric at every size, and offer the figures as files."""
    st.header("Table")
    shown = statistics[statistics["metric"] != "explained_variance"]
    columns = statistics_columns(shown, {variant: _size(variant) for variant in dict.fromkeys(shown["variant"])})
    statistics_table(columns, "Mean and standard deviation of every metric at each size")
    components.downloads(
        run.id,
        {"Statistics": lambda: data.statistics(run), "Every image and size": lambda: data.store().measurements(run.id)},
        key="table",
    )


def results(run: Run) -> None:
    """Show a finished run."""
    spec = run.told(ResizeSpec)
    statistics = data.statistics(run)
    PAGE.head(run, spec)
    counts = size_table(network_choices.networks().networks.values(), spec.sizes)
    counts["variant"] = counts["height"].astype(str) + "x" + counts["width"].astype(str)
    answer(run, spec, statistics, counts)
    metrics(statistics)
    networks(counts)
    table(run, statistics)


ICON = ":material/aspect_ratio:"
PAGE = MeasuringPage("resize-study", "comparison", "study", ICON, forms.RESIZE, forms.resize_form, results)
PAGE.show()
