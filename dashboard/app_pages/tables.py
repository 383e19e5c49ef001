"""Tables 4, 5 and 6 of the article as measured here, beside its own figures; and what it does not print."""

from collections.abc import Sequence

import pandas as pd
import streamlit as st

from core.article.evidence import Choice, Selection, families, of_table, select, table, table_name
from core.article.tables import (
    ARTICLE_TABLES,
    ENDINGS,
    FIGURES,
    FURTHER,
    KEYS,
    LABELS,
    VERSIONS,
    WRITERS,
    MeasuredTable,
    cell,
    key_texts,
)
from dashboard import data, words
from dashboard.parts import components

TITLES = {
    4: "Table 4: training and validation",
    5: "Table 5: testing",
    6: "Table 6: pruning step by step",
    FURTHER: "Beyond the article: by class, sizes, times, memory",
}
NARROWING = {"networks", "seeds", "studies", "settings", "runs", "older"}  # what the address may narrow down by
WIDEST = 4000  # pixels: as wide as the page; a width in pixels is what keeps the rows' names in view
FORMATS = {"csv": ("CSV", "text/csv"), "markdown": ("Markdown", "text/markdown"), "latex": ("LaTeX", "text/x-tex")}


def nothing_yet() -> None:
    """Show what to do where no network has been trained."""
    st.info("No network has been trained yet; the tables show what the article prints.", icon=":material/table_chart:")
    st.caption(
        "`python -m jobs train FOLDER --network all` trains the networks of Tables 4 and 5, `prune-train` Table 6."
    )


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


def show(number: int | str, selection: Selection) -> None:
    """Show one table with its caption, what it leaves out, and its files."""
    made = table(number, selection.steps)
    st.header(TITLES[number], anchor=table_name(number))
    if number == FURTHER and made.rows.empty:
        st.caption("Nothing measured yet.")
        return
    st.table(shown(made), border="horizontal", width=WIDEST, alt=TITLES[number])
    st.caption(words.escaped(made.caption))
    if selection.left_out:
        st.caption(f":material/visibility_off: Left out: {words.escaped(' '.join(selection.left_out))}")
    with st.container(horizontal=True):
        for kind, (label, mime) in FORMATS.items():
            components.download(
                label,
                data=WRITERS[kind](made),
                file_name=f"{table_name(number)}.{ENDINGS[kind]}",
                mime=mime,
                key=f"{table_name(number)}_{kind}",
            )


def shown(made: MeasuredTable) -> pd.DataFrame:
    """Return a table as the page shows it: Markdown, the best in bold, a link to each run by its seed.

    What the article names a row by is the index, which stays in view where the table is wider than the page.
    """
    named = len(KEYS[made.number])
    names, rows = [], []
    for _, row in made.rows.iterrows():
        keys = key_texts(made, row)
        names.append(unbroken(words.escaped(" · ".join(words.shortened(text, 24) for text in keys[:named]))))
        texts = [words.escaped(words.shortened(text, 60)) for text in keys[named:]]
        texts.append(run_links(row["run_ids"].split(), row["seeds"].split()))
        for metric in made.metrics:
            figure = cell(row, metric)
            measured = f"**{figure.measured}**" if figure.best else figure.measured
            parts = {"measured": measured, "printed": figure.printed, "difference": figure.difference}
            texts += [unbroken(parts[part]) or words.NONE for part in made.parts]
        rows.append(texts)
    heads = [LABELS[key] for key in made.keys[named:]] + ["Seeds"]
    for place, metric in enumerate(made.metrics):
        # Names of columns must differ: spaces of no width tell one "printed" from the next.
        heads += [FIGURES[metric].label, *(part + place * "\u200b" for part in made.parts[1:])]
    index = pd.Index(names, name=" · ".join(LABELS[key] for key in made.keys[:named]))
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
    for number in (*ARTICLE_TABLES, FURTHER):
        show(number, select(trained, number, choice))
