"""Deploy: convert trained networks for small devices, verify them, measure them, and take them away as a bundle."""

from functools import partial

import pandas as pd
import streamlit as st

from core.article.table_formats import texts_to_latex
from core.deployment import comparison
from core.deployment.formats import FORMATS
from core.runs import Run
from core.training.evaluation import smallest_accepted
from core.training.specs import TrainSpec
from dashboard import data, deployment_data, training_data, words
from dashboard.charts import deployment as charts
from dashboard.parts import components, training_comparison
from dashboard.parts.run_facts import repeat_with, show_log
from dashboard.parts.training_results import numbered
from jobs.later_jobs import CONVERT, LATENCY


def nothing_trained() -> None:
    """Show what to do where no run has a trained network."""
    st.info("No run with a trained network has ended yet.", icon=":material/memory:")
    components.page_link("prune_train", "Train a network", icon=":material/model_training:")


def head(run: Run, spec: TrainSpec) -> None:
    """Name a run and its data."""
    st.markdown(f"**{words.escaped(spec.trained_network.title)}** on {components.dataset_text(run)}")
    st.caption(words.escaped(f"{spec.settings}, seed {spec.training.seed}"))
    components.own_page_link(run.id, "Settings, versions, command and files of this run")


def conversion_section(run: Run, trained: pd.DataFrame) -> None:
    """Ask which networks are converted to which formats, and start it."""
    st.header("Convert")
    names = dict(zip(map(int, trained["step"]), numbered(trained), strict=True))
    usual = sorted({int(trained["step"].iloc[0]), int(smallest_accepted(trained)["step"])})
    left, right = st.columns(2)
    steps = left.multiselect("Steps", list(names), default=usual, format_func=names.__getitem__, key=f"steps_{run.id}")
    formats = right.multiselect(
        "Formats", list(FORMATS), default=list(FORMATS), format_func=lambda name: FORMATS[name].title, key="formats"
    )
    waits = data.is_under_way(CONVERT, run.id)
    if waits:
        components.wait_for_job(CONVERT, run.id, "The networks are being converted and verified.")
    if components.lacks_worker("train"):
        components.no_worker("train", "Networks cannot be converted")
    components.action_button(
        "Convert and verify",
        deployment_data.convert,
        run.id,
        tuple(steps),
        tuple(formats),
        done="Queued",
        icon=":material/memory:",
        type="primary",
        disabled=waits or not steps or not formats,
        help="Needs a train worker on the host of the weights, and about 10 seconds for each file.",
    )
    repeat_with(f"python -m jobs convert {run.id}" + "".join(f" --step {step}" for step in sorted(steps)))
    with st.expander("Log of the run", icon=":material/article:", on_change="rerun", key="log") as opened:
        if opened.open:
            show_log(run.id)


def conversion_table(found: pd.DataFrame, names: dict[int, str]) -> pd.DataFrame:
    """Return one row per step and format as texts. found: rows of table `conversions`."""
    rows = []
    for each in comparison.conversions_of(found):
        rows.append(
            {
                "Step": names.get(each.step, str(each.step)),
                "Format": FORMATS[each.format].title,
                "File": words.bytes_text(each.bytes),
                "As Keras": words.NONE if each.same_class is None else f"{each.same_class:,} of {each.images:,}",
                "Apart by": words.NONE if each.largest_difference is None else f"{each.largest_difference:.1e}",
                "Test accuracy": each.accuracy_text,
                "Verdict": "failed" if each.failure else "flagged" if each.flaw else "verified",
            }
        )
    return pd.DataFrame(rows)


def latency_section(run: Run, networks: pd.DataFrame, latencies: pd.DataFrame) -> None:
    """Show what each converted network costs against its accuracy, and offer to measure."""
    st.header("Size, latency and accuracy")
    waits = data.is_under_way(LATENCY, run.id)
    if waits:
        components.wait_for_job(LATENCY, run.id, "The networks are being measured in turns.")
    cost = st.segmented_control(
        "Cost", list(charts.COSTS), key="cost", bind="query-params", required=True, default="bytes",
        format_func=lambda name: charts.COSTS[name][0], label_visibility="collapsed",
    )  # fmt: skip
    components.chart(
        partial(charts.cost_against_accuracy, networks, cost, theme=components.theme()),
        alt=f"{charts.COSTS[cost][0]} of each converted network against its test accuracy",
        key=f"cost_{cost}",
        depends=(run.id, data.stamp(), components.theme()),
    )
    st.caption(
        "Filled: no other network is at least as good in size, latency and accuracy and better in one. Crosses: the"
        " file misses what its format must keep. Bars: 95 % intervals. Logarithmic axis."
    )
    if len(latencies):
        components.table(latency_table(networks, latencies), alt="Latency and memory of each converted network")
        first = latencies.iloc[0]
        st.caption(
            words.escaped(
                f"Median (95th percentile) of {first['rounds']} predictions of one image, from pixels at the"
                f" network's size, the networks in turns, on {first['cores']} cores of {first['processor']}"
                f" ({first['host']}); load {first['load']:.1f} when it began,"
                f" {components.moment(first['measured_at'])}."
            )
        )
    components.action_button(
        "Measure latency again" if len(latencies) else "Measure latency",
        deployment_data.measure,
        run.id,
        done="Queued",
        icon=":material/timer:",
        disabled=waits,
        help=f"Other work on the host makes the figures larger. `python -m jobs latency {run.id}` does the same.",
    )


def latency_table(networks: pd.DataFrame, latencies: pd.DataFrame) -> pd.DataFrame:
    """Return one row per network as texts, with columns for each number of threads."""
    texts = latencies.assign(
        time=[f"{row.wall_median:.2f} ({row.wall_p95:.2f})" for row in latencies.itertuples(index=False)]
    )
    columns = {
        f"{words.count_of(threads, 'thread')}, ms": texts[texts["threads"] == threads].set_index(["step", "format"])[
            "time"
        ]
        for threads in sorted(map(int, texts["threads"].unique()))
    }
    rows = networks.set_index(["step", "format"])
    return pd.DataFrame(
        {
            "Step": rows["name"],
            "Format": rows["title"],
            **columns,
            "Processor, ms": rows["cpu_median"].map("{:.2f}".format, na_action="ignore"),
            "Memory": rows["peak_memory"].map(words.bytes_text),
            "Runtime": rows["runtime"],
        }
    ).dropna(subset=["Runtime"])


def files_section(run: Run, networks: pd.DataFrame) -> None:
    """Offer the bundle of a step, and the figures as files."""
    st.header("Take away")
    names = dict(zip(networks["step"].astype(str), networks["name"], strict=True))
    step = components.url_choice(
        st.selectbox, "Step", list(names), param="bundle", default=list(names)[-1], format_func=names.__getitem__,
        dependent=True,
    )  # fmt: skip
    missing = deployment_data.why_no_bundle(run.id, int(step))
    if missing:
        st.caption(words.with_commands(missing))
    with st.container(horizontal=True):
        components.download(
            "Bundle, ZIP",
            data=partial(deployment_data.bundle, run.id, int(step)),
            file_name=f"{run.id}-step-{step}.zip",
            mime="application/zip",
            disabled=bool(missing),
            help="The networks, a model card, and a program that predicts with NumPy, Pillow and ai-edge-litert alone.",
        )
        caption = f"Converted networks of {run.id}."
        components.download(
            "Figures, LaTeX",
            data=lambda: texts_to_latex(comparison.texts_of(networks), caption, "devices").encode(),
            file_name=f"{run.id}-deploy.tex",
            mime="text/x-tex",
        )
    components.downloads(run.id, {"Figures": lambda: comparison.readable(networks)}, key="deploy")
    repeat_with(f"python -m jobs bundle {run.id} --step {step} --output network.zip")


def run_view(run: Run) -> None:
    """Show what one run's networks are outside Keras."""
    spec, steps = run.told(TrainSpec), training_data.steps(run.id)
    trained = steps[steps["status"] == "finished"]
    head(run, spec)
    if trained.empty:
        st.info("No step of this run was trained to its end.", icon=":material/hourglass_empty:")
        return
    conversion_section(run, trained)
    conversions, latencies = deployment_data.conversions(run.id), deployment_data.latencies(run.id)
    if conversions.empty:
        st.info("No network of this run has been converted yet.", icon=":material/memory:")
        return
    names = dict(zip(map(int, trained["step"]), numbered(trained), strict=True))
    components.table(conversion_table(conversions, names), alt="Each converted network beside Keras")
    for each in comparison.conversions_of(conversions):
        if each.flaw:
            st.caption(words.escaped(f"{names.get(each.step, each.step)}, {FORMATS[each.format].title}: {each.flaw}"))
    st.caption(
        "As Keras: test images that get the same class from the file as from Keras with the same weights at float32."
        " Apart by: the largest difference of a probability. In brackets: 95 % intervals, by resampling lesions."
    )
    newest = comparison.of_newest_host(latencies)
    networks = comparison.beside_each_other(conversions, newest, trained)
    if networks.empty:
        return
    latency_section(run, networks, newest)
    files_section(run, networks)


def kiosk_link() -> None:
    """Link to the kiosk, which fills a tab of its own."""
    if deployment_data.networks_here():
        st.link_button("Open the kiosk", "/kiosk", icon=":material/touch_app:")


def view() -> None:
    """Show the run that the address names."""
    kiosk_link()
    runs = [run for run in components.runs() if run.trains and run.ended]
    if runs:
        run_view(components.choose_run(runs, "Run", param="run", name=training_comparison.label))
    else:
        nothing_trained()


with components.sentences():
    view()
