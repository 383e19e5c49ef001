"""SVD sweeps: start one, watch it, and read what it found, from the answer down to single images."""

from functools import partial
from typing import Any

import pandas as pd
import streamlit as st

from core.compression.metrics import METRICS, METRICS_BY_NAME
from core.compression.optimal_k import DEFAULT_RULE
from core.compression.rivals import rate_points
from core.compression.specs import RivalsSpec, SweepSpec
from core.compression.svd import break_even_k
from core.errors import SpecError
from core.runs import Run
from core.store.file import plain_rows
from dashboard import data, words
from dashboard.charts import measuring as charts
from dashboard.forms import measuring as forms
from dashboard.parts import components, run_progress, verification
from dashboard.parts.measuring_page import MeasuringPage, statistics_columns, statistics_table
from dashboard.parts.run_facts import run_facts

MAIN_METRICS = ("ssim", "psnr", "haralick_distance", "explained_variance")


def answer(run: Run, spec: SweepSpec, storage: pd.DataFrame, rule: dict[str, Any] | None) -> None:
    """Show the chosen k, what it saves, and the part that SVD has in that."""
    largest = storage.iloc[-1]
    k = rule["k"] if rule and words.known(rule["k"]) else None
    at = storage[storage["k"] == k].iloc[0] if k is not None else largest
    sizes = data.plain_row(at)
    with st.container(border=True):
        if rule:
            st.markdown(words.k_sentence(rule))
        for sentence in words.storage_sentences(sizes, spec):
            st.markdown(sentence)
        if sizes["identical"]:
            identical = words.count_text(sizes["identical"])
            st.markdown(f"{identical} of them equal their original exactly; PSNR is undefined for those.")
    codec = words.codec_text(spec.codec, spec.quality)
    with st.grid(5, min_column_width=140):
        st.metric("k\\*" if k is not None else "Largest k", f"{int(sizes['k']):,}", border=True)
        st.metric("Source / stored", words.ratio_text(sizes["ratio"]), border=True)
        st.metric(f"{codec} alone", words.ratio_text(sizes["control_ratio"]), border=True)
        st.metric("SVD adds", words.gain_text(sizes["svd_gain"]), border=True)
        st.metric("Storage saved", words.percent_text(sizes["saved_percent"]), border=True)
    run_facts(run)


def drawn_from(run: Run) -> tuple[object, ...]:
    """Return what a chart of a finished run depends on: the run, when it finished, and the theme."""
    return (run.id, str(run.finished_at), components.theme())


def metrics(run: Run, statistics: pd.DataFrame, ks: list[int]) -> None:
    """Chart every metric against k: the main ones large, all others small."""
    st.header("Quality against k")
    st.caption("Line: mean over the images. Band: one standard deviation either way. Dashed: the rules' chosen k.")
    for column, name in zip([*st.columns(2), *st.columns(2)], MAIN_METRICS, strict=True):
        with column:
            metric_chart(run, statistics, name, ks)
    with st.expander("All other metrics", icon=":material/grid_view:", on_change="rerun", key="all_metrics") as others:
        if others.open:
            rest = [metric.name for metric in METRICS if metric.name not in MAIN_METRICS]
            draw = partial(charts.small_multiples, statistics, rest, ks, theme=components.theme())
            components.chart(draw, alt="All other metrics against k", key="small", depends=drawn_from(run))


def metric_chart(run: Run, statistics: pd.DataFrame, name: str, ks: list[int]) -> None:
    """Chart one metric with its definition."""
    metric = METRICS_BY_NAME[name]
    draw = partial(charts.metric_against_k, statistics, name, ks, theme=components.theme())
    components.chart(draw, alt=f"{metric.label} against k", key=f"metric_{name}", depends=drawn_from(run))
    undefined = int(statistics.loc[statistics["metric"] == name, "undefined"].max())
    missing = f" Undefined for up to {words.count_of(undefined, 'image')} at a k." if undefined else ""
    st.caption(words.escaped(f"{metric.definition} {words.direction_text(metric).capitalize()}.{missing}"))


def storage_section(run: Run, storage: pd.DataFrame, spec: SweepSpec, ks: list[int]) -> None:
    """Chart the four sizes against k."""
    st.header("Storage against k")
    size = storage.iloc[-1]
    even = None
    if words.known(size["height"]) and words.known(size["width"]):
        even = break_even_k(int(size["height"]), int(size["width"]), spec.mode)
    draw = partial(charts.storage_against_k, storage, even, ks, theme=components.theme())
    alt = "Source, stored, control and factor bytes against k"
    components.chart(draw, alt=alt, key="storage", depends=drawn_from(run))
    codec = words.codec_text(spec.codec, spec.quality)
    note = (
        f"Source: the original files. Stored: the reconstructions as {codec}. Control: the same files as {codec} "
        "without SVD. Factors: U, Σ and V in float16."
    )
    if even is not None:
        note += f" Above the break-even of k = {even:.1f} the factors hold more numbers than the image."
    st.caption(note)


def rivals_section(run: Run, spec: SweepSpec, k: int | None) -> None:
    """Put the sweep beside the same images through other codecs, or offer to measure those."""
    st.header("Rivals without SVD")
    rivals = rivals_of(run, spec)
    if rivals is None:
        st.markdown("How do plain JPEG, WebP and AVIF do on the same images, at what size and quality?")
        components.action_button("Measure the rivals", submit_rivals, spec, done="Queued", icon=":material/compress:")
        return
    if not rivals.ended:
        run_progress.live_progress(rivals.id)
        return
    if rivals.status != "finished":
        run_progress.ended_early(rivals)
        return
    metric = st.segmented_control(
        "Quality by", ["ssim", "psnr", "haralick_distance"], default="ssim", key="rate_metric", bind="query-params",
        format_func=words.metric_label, required=True,
    )  # fmt: skip
    ours = rate_points(data.statistics(run), data.storage(run))
    theirs = rate_points(data.statistics(rivals), data.storage(rivals))
    if k is not None:
        for sentence in data.rivals_sentences(run, rivals, k, metric):
            st.markdown(words.escaped(sentence))
    figure = charts.rate_distortion(ours, theirs, metric, k, theme=components.theme())
    components.chart(figure, alt=f"Bytes per pixel against {words.metric_label(metric)}, SVD and rivals", key="rivals")
    run_facts(rivals, "How the rivals were measured")


def rivals_of(run: Run, spec: SweepSpec) -> Run | None:
    """Return the newest rivals run over the same images with the same metrics' parameters, or None."""
    for rivals in components.runs(RivalsSpec.kind):
        other = rivals.told(RivalsSpec)
        same_images = rivals.fingerprint == run.fingerprint and other.sample_size == spec.sample_size
        same_images = same_images and (spec.sample_size is None or other.seed == spec.seed)
        if same_images and other.metrics == spec.metrics and rivals.status != "cancelled":
            return rivals
    return None


def submit_rivals(sweep: SweepSpec) -> None:
    """Start the rivals run that belongs to a sweep."""
    dataset = data.dataset(sweep.dataset)
    if dataset is None:
        raise SpecError(f"Expected data set {sweep.dataset} to be registered; it was removed.")
    rivals = RivalsSpec(dataset=sweep.dataset, sample_size=sweep.sample_size, seed=sweep.seed, metrics=sweep.metrics)
    data.queues().submit(rivals, dataset)


def rules_section(rules: pd.DataFrame, statistics: pd.DataFrame, storage: pd.DataFrame) -> None:
    """Show all rules side by side, each with its k, its reason and its stability."""
    st.header("k by each rule")
    with st.grid(max(1, len(rules)), min_column_width=220):
        for rule in plain_rows(rules):
            with st.container(border=True, height="stretch"):
                chosen = words.NONE if rule["k"] is None else f"k = {rule['k']:.0f}"
                st.metric(words.RULES.get(rule["rule"], rule["rule"]), chosen)
                if rule["stability"] is not None:
                    st.caption(f"{100 * rule['stability']:.0f} % of the bootstrap resamples choose the same k")
                st.markdown(words.escaped(rule["reason"]))
    with st.expander("Plateau of each metric", icon=":material/flag:", on_change="rerun", key="arrivals") as opened:
        if opened.open:
            arrivals_table(statistics, storage)


def arrivals_table(statistics: pd.DataFrame, storage: pd.DataFrame) -> None:
    """List the k at which each metric arrives on its plateau, and its knee."""
    table = data.arrivals(statistics, storage)
    described = [METRICS_BY_NAME[name] for name in table["metric"]]
    components.table(
        {
            "Metric": table["label"],
            "Votes": ["yes" if each else "no" for each in table["votes"]],
            "Plateau at k": table["plateau_k"],
            "Knee at k": table["knee_k"],
            "Best at k": table["best_k"],
            "At the smallest k": [words.metric_text(*pair) for pair in zip(described, table["first"], strict=True)],
            "Best": [words.metric_text(*pair) for pair in zip(described, table["best"], strict=True)],
        },
        alt="The k at which each metric reaches its plateau",
    )


def table_section(run: Run, statistics: pd.DataFrame, storage: pd.DataFrame) -> None:
    """Show the figures as a table, and offer them and every row as files."""
    st.header("Table")
    titles = {variant: variant.replace("=", " = ") for variant in storage["variant"]}
    columns = statistics_columns(statistics, titles)
    rows = (
        ("Source", "source_bytes", words.bytes_text),
        ("Stored", "stored_bytes", words.bytes_text),
        ("Control, no SVD", "control_bytes", words.bytes_text),
        ("Factors, float16", "factor_bytes", words.bytes_text),
        ("Source / stored", "ratio", words.number_text),
        ("SVD adds", "svd_gain", words.gain_text),
        ("Images measured", "images", words.count_text),
        ("Identical images", "identical", words.count_text),
        ("Not measured", "unmeasured", words.count_text),
    )
    for label, name, text in rows:
        for column, value in zip(columns, [label, *map(text, storage[name])], strict=True):
            columns[column].append(value)
    statistics_table(columns, "Mean and standard deviation of every metric, and the sizes, at each k")
    components.downloads(
        run.id,
        {
            "Statistics": lambda: data.statistics(run),
            "Sizes": lambda: data.storage(run),
            "Every image and k": lambda: data.store().measurements(run.id),
        },
        key="table",
    )


@st.fragment
def worst_section(run: Run, storage: pd.DataFrame, default_k: int) -> None:
    """Show the images that a metric judges worst at a k; each opens in the inspector."""
    st.header("Worst images")
    ks = [int(k) for k in storage["k"]]
    if st.session_state.get("k") not in ks:
        st.session_state["k"] = default_k
    with st.container(horizontal=True):
        metric = st.selectbox(
            "By", [metric.name for metric in METRICS], index=[metric.name for metric in METRICS].index("ssim"),
            format_func=words.metric_label, key="metric", bind="query-params",
        )  # fmt: skip
        k = st.segmented_control("At k", ks, key="k", bind="query-params", required=True)
    worst = data.worst_images(run, metric, f"k={k}")
    if worst.empty:
        st.caption("This metric is undefined for every image at this k.")
        return
    dataset = data.dataset(run.dataset)
    records = data.records(run.dataset)
    with st.grid("auto", min_column_width=130, gap="small"):
        for image_id, value in zip(worst["image_id"].astype(str), worst["value"], strict=True):
            with st.container(gap="xsmall"):
                record = records.get(image_id)
                if dataset is not None and record is not None:
                    components.thumbnail(dataset.root / record.path, record.sha256, image_id)
                components.inspector_link(run.dataset, image_id, words.shortened(image_id, 20), k)
                st.caption(words.escaped(words.metric_text(METRICS_BY_NAME[metric], value)))


def results(run: Run) -> None:
    """Show a finished sweep, from the answer down to single images."""
    spec = run.told(SweepSpec)
    storage, statistics, rules = data.storage(run), data.statistics(run), data.optimal_k(run)
    PAGE.head(run, spec)
    rule = None
    if len(rules):
        chosen = st.segmented_control(
            "Rule that chooses k",
            list(rules["rule"]),
            default=DEFAULT_RULE,
            key="rule",
            bind="query-params",
            format_func=lambda name: words.RULES.get(name, name),
            required=True,
        )
        rule = data.plain_row(rules[rules["rule"] == chosen].iloc[0])
    k = int(rule["k"]) if rule and rule["k"] is not None else None
    answer(run, spec, storage, rule)
    verification.check_section(run)
    # Every rule's k is marked, so that another rule does not draw the charts again.
    ks = [int(each) for each in rules["k"].dropna()] if len(rules) else []
    metrics(run, statistics, ks)
    storage_section(run, storage, spec, ks)
    rivals_section(run, spec, k)
    rules_section(rules, statistics, storage)
    table_section(run, statistics, storage)
    worst_section(run, storage, k or int(storage["k"].iloc[-1]))


PAGE = MeasuringPage("svd-sweep", "sweep", "run", ":material/query_stats:", forms.SWEEP, forms.sweep_form, results)
PAGE.show()
