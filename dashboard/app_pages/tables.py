"""Tables 4, 5 and 6 of the article as measured here, beside its own figures; what it does not print; and other ways."""

from collections.abc import Sequence
from functools import partial

import pandas as pd
import streamlit as st

from core.article.evidence import Choice, families, of_table, table_name
from core.article.table_formats import ENDINGS, WRITERS, cell, key_texts
from core.article.tables import (
    FIGURES,
    FURTHER,
    FURTHER_FIGURES,
    LABELS,
    PRINTED_PART,
    TABLES,
    VERSIONS,
    WAYS,
    MeasuredTable,
    without_intervals,
)
from core.article.ways import naive_sentences
from core.networks.architectures import CLASSES
from dashboard import data, words
from dashboard.charts import tables as charts
from dashboard.parts import components

TITLES = {
    4: "Table 4: training and validation",
    5: "Table 5: testing",
    6: "Table 6: pruning step by step",
    FURTHER: "Beyond the article: by class, sizes, times, memory",
    WAYS: "Other ways to a smaller network, at equal total epochs",
}
TABS: dict[int | str, str] = {
    4: "Table 4",
    5: "Table 5",
    6: "Table 6",
    FURTHER: "Beyond the article",
    WAYS: "Ways to a smaller network",
}
NARROWING = {"networks", "seeds", "studies", "settings", "runs", "older"}  # what the address may narrow down by
FIRST_CHARTED = {4: "validation_accuracy", 5: "test_accuracy", 6: "test_accuracy"}
AVERAGES = ("macro_precision", "macro_recall", "lesion_accuracy")
RECALLS = tuple(f"recall_{label}" for label in CLASSES)
FURTHER_PARTS = {
    "Averages": AVERAGES,
    "Recall by class": RECALLS,
    "Sizes, times and memory": tuple(name for name in FURTHER_FIGURES if name not in (*AVERAGES, *RECALLS)),
}
LONGEST_KEY = 40  # characters of a row's data set or settings
FORMATS = {"csv": ("CSV", "text/csv"), "markdown": ("Markdown", "text/markdown"), "latex": ("LaTeX", "text/x-tex")}


def nothing_yet() -> None:
    """Show what to do where no network has been trained."""
    st.info("No network has been trained yet; the tables show what the article prints.", icon=":material/table_chart:")
    st.caption("`python -m jobs train FOLDER --network all` trains those of Tables 4 and 5, `prune-train` of Table 6.")


def choices(trained: pd.DataFrame) -> Choice:
    """Ask which trainings the tables take; all choices are kept in the URL."""
    synthetic = dict(zip(trained["family"], trained["synthetic"], strict=True))
    with st.container(border=True):
        left, right = st.columns([3, 2], vertical_alignment="bottom")
        with left:
            dataset = components.url_choice(
                st.selectbox,
                "Data set, with the reconstructions made from it",
                families(trained),
                param="dataset",
                format_func=lambda name: words.shortened(name, 60) + (" (synthetic)" if synthetic[name] else ""),
            )
        with right:
            versions = st.pills("Images", VERSIONS, selection_mode="multi", key="images", bind="query-params")
        text = "Adds the 95 % interval of each run to the figures, in the files too."
        st.toggle("Intervals", key="intervals", bind="query-params", help=text)
        title, narrows = "Networks, seeds, studies, settings, single runs", NARROWING & set(st.query_params)
        with st.expander(title, icon=":material/filter_alt:", expanded=bool(narrows)):
            return narrowed(trained, trained[trained["family"] == dataset], dataset, tuple(versions))


def narrowed(trained: pd.DataFrame, own: pd.DataFrame, dataset: str, versions: tuple[str, ...]) -> Choice:
    """Ask for what narrows the tables down further. own: the trainings of the chosen data set."""
    left, right = st.columns(2)
    with left:
        networks = several("Networks", own["network"], "networks", "all")
        seeds = several("Seeds", own["seed"].sort_values().astype(str), "seeds", "all")
        studies = several("Studies", own["study"].dropna(), "studies", "all")
    with right:
        texts = pd.concat([of_table(own, number)["settings"].map(str) for number in (5, 6)])
        settings = several("Settings", texts, "settings", "the newest of each network")
        runs = several("Single runs of any data and settings", trained["run_id"].iloc[::-1], "runs", "all")
        every = st.toggle("Older settings too", key="older", bind="query-params", disabled=bool(settings or runs))
    return Choice(
        dataset=None if runs else dataset,
        versions=versions,
        networks=networks,
        seeds=tuple(map(int, seeds)),
        studies=studies,
        settings=settings,
        every_setting=every,
        runs=runs,
    )


def several(label: str, values: pd.Series, param: str, placeholder: str) -> tuple[str, ...]:
    """Ask for some of the values that occur."""
    options = list(dict.fromkeys(values))
    return tuple(st.multiselect(label, options, key=param, bind="query-params", placeholder=placeholder))


def show(number: int | str, choice: Choice) -> None:
    """Show one table with its caption, what it leaves out, and its files."""
    full, left_out = data.measured_table(number, choice)
    made = full if st.session_state.get("intervals", False) or number == WAYS else without_intervals(full)
    st.header(TITLES[number], anchor=table_name(number))
    if not isinstance(number, int) and made.rows.empty:
        st.caption("Nothing measured yet.")
        return
    if number == FURTHER:
        for title, metrics in FURTHER_PARTS.items():
            st.table(shown(made, metrics), border="horizontal", alt=title)
    elif number == WAYS:
        ways(made)
    else:
        dumbbells(int(number), full)
        st.table(shown(made, made.metrics), border="horizontal", alt=TITLES[number])
        st.caption("In round brackets behind the printed figure: measured minus printed.")
    st.caption(words.escaped(made.caption))
    components.imported_note(run_id for ids in made.rows["run_ids"] for run_id in ids.split())
    if left_out:
        st.caption(f":material/visibility_off: Left out: {words.escaped(' '.join(left_out))}")
    with st.container(horizontal=True):
        for kind, (label, mime) in FORMATS.items():
            components.download(
                label,
                data=partial(WRITERS[kind], made),
                file_name=f"{table_name(number)}.{ENDINGS[kind]}",
                mime=mime,
                key=f"{table_name(number)}_{kind}",
            )


def ways(made: MeasuredTable) -> None:
    """Chart the ways of one network, say how the article's compares, and show the table."""
    network = components.url_choice(
        st.segmented_control, "Network", list(made.rows["network"].unique()), param="network", required=True,
        label_visibility="collapsed",
    )  # fmt: skip
    components.chart(
        charts.ways_chart(made, network, theme=components.theme()),
        alt=f"Test accuracy of {network} against its parameters, for each way to a smaller network",
        key="ways",
    )
    st.caption(
        "Points: means over the seeds. Bars: 95 % interval of each run. Pruned networks of one size stand side by side."
    )
    st.subheader("The article's way against the others", anchor=False)
    for sentence in naive_sentences(made, network):
        st.markdown(f"- {words.escaped(sentence)}")
    st.caption(
        "`prune-train` trains in other ways with `--initialise l1`, `--initialise random` and `--distil`; "
        "`svd-dense RUN` makes a trained network smaller without new training. Fewer `--epochs` make totals equal."
    )
    st.subheader("All ways", anchor=False)
    st.table(shown(made, made.metrics), border="horizontal", alt=TITLES[WAYS])


def dumbbells(number: int, made: MeasuredTable) -> None:
    """Chart one figure of a table with intervals: measured with each run's interval against printed."""
    metric = st.segmented_control(
        "Figure", list(made.metrics), key=f"figure{number}", bind="query-params", required=True,
        default=FIRST_CHARTED[number], format_func=lambda name: FIGURES[name].label, label_visibility="collapsed",
    )  # fmt: skip
    components.chart(
        charts.measured_against_printed(made, metric, theme=components.theme()),
        alt=f"{FIGURES[metric].label} of each row of Table {number}: measured, with intervals, against printed",
        key=f"dumbbells{number}",
    )


def shown(made: MeasuredTable, metrics: Sequence[str]) -> pd.DataFrame:
    """Return these figures of a table as the page shows it: Markdown, the best in bold, a link to each run by its seed.

    Texts may break between words, so that the table fits the page.
    """
    names, rows = [], []
    for _, row in made.rows.iterrows():
        keys = [words.shortened(text, LONGEST_KEY) for text in key_texts(made, row) if text]
        names.append(words.escaped(" · ".join(keys)))
        texts = [run_links(row["run_ids"].split(), row["seeds"].split())]
        for metric in metrics:
            figure = cell(row, metric)
            measured = figure.measured.replace("± ", unbroken("± "))
            measured = f"**{measured}**" if figure.best else measured
            intervals = [words.escaped(unbroken(each)) for each in figure.intervals]
            texts.append(" ".join((measured, *intervals)).strip() or words.NONE)
            if PRINTED_PART in made.parts:
                difference = f" ({figure.difference})" if figure.difference else ""
                texts.append(f"{figure.printed}{difference}" or words.NONE)
        rows.append(texts)
    heads = ["Seeds"]
    for place, metric in enumerate(metrics):
        # Names of columns must differ: spaces of no width tell one "printed" from the next.
        printed = [PRINTED_PART + place * "\u200b"] if PRINTED_PART in made.parts else []
        heads += [FIGURES[metric].label, *printed]
    index = pd.Index(names, name=" · ".join(LABELS[key] for key in made.keys))
    return pd.DataFrame(rows, columns=heads, index=index)


def unbroken(text: str) -> str:
    """Return text that stays in one line."""
    return text.replace(" ", "\u00a0")


def run_links(run_ids: Sequence[str], seeds: Sequence[str]) -> str:
    """Return a link to each run, named by its seed."""
    links = [f"[{seed}]({components.run_address(run_id)})" for run_id, seed in zip(run_ids, seeds, strict=True)]
    return ", ".join(links) or words.NONE


trained = data.trainings()
if trained.empty:
    nothing_yet()
    choice = Choice()
else:
    choice = choices(trained)
with components.sentences():
    # One at a time: the browser needs a second to draw all of them again after each choice.
    by_name = {table_name(number): number for number in TABLES}
    chosen = components.view(list(by_name), param="table", format_func=lambda name: TABS[by_name[name]])
    show(by_name[chosen], choice)
