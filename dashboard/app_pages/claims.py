"""Claims: each claim of the article with its status, its figure, its runs, and the article's contradictions."""

from collections.abc import Sequence

import pandas as pd
import streamlit as st

from core.article.claims import NOT_MEASURED, NOT_REPRODUCED, REPRODUCED, STATUSES, to_csv, to_markdown
from core.article.evidence import Grounds, Offers, basis, grounds
from core.runs import Run
from dashboard import data, words
from dashboard.parts import components

COLOURS = {REPRODUCED: "green", NOT_REPRODUCED: "red", NOT_MEASURED: "gray"}
MARKS = {REPRODUCED: "✓", NOT_REPRODUCED: "✗", NOT_MEASURED: "…"}
FILTERS = {"area", "status"}  # in the address
ROW_HEIGHT = 24  # pixels: 23 rows fit a screen
ICONS = {
    REPRODUCED: ":material/check_circle:",
    NOT_REPRODUCED: ":material/cancel:",
    NOT_MEASURED: ":material/pending:",
}
AREAS = {
    "storage": "Storage",
    "svd": "SVD",
    "resize": "Input size",
    "curves": "Parameter curves",
    "training": "Training",
    "pruning": "Pruning",
}


def judged_by(found: Offers) -> Grounds:
    """Ask what the claims are judged by, and show it."""
    with st.expander("Judged by", icon=":material/gavel:"):
        left, right = st.columns(2)
        with left:
            sweep = pick_run("SVD sweep", found.sweeps, "sweep")
            resize = pick_run("Resize comparison", found.resizes, "resize")
        with right:
            dataset = pick("Data set trained on", list(found.datasets), "dataset", found.synthetic)
            reconstruction = pick(
                "Its reconstruction", list(found.reconstructions.get(dataset or "", ())), "reconstruction"
            )
        chosen = grounds(found, Grounds(sweep=sweep, resize=resize, dataset=dataset, reconstruction=reconstruction))
        rule = (
            "By default real images go before synthetic ones, then settings close to the article's, then the newest "
            "run. Parameter curves are counted, not measured."
        )
        st.caption("  \n".join(words.escaped(sentence) for sentence in (*basis(found, chosen), rule)))
    return chosen


def pick_run(label: str, runs: Sequence[Run], param: str) -> str | None:
    """Ask for one of several runs, the best first."""
    return components.choose_run(runs, label, param=param).id if runs else None


def pick(label: str, names: list[str], param: str, synthetic: frozenset[str] = frozenset()) -> str | None:
    """Ask for one of several names, the best first."""
    if not names:
        return None
    return components.url_choice(
        st.selectbox,
        label,
        names,
        param=param,
        format_func=lambda name: words.shortened(name, 60) + (" (synthetic)" if name in synthetic else ""),
        dependent=True,  # the reconstructions belong to an original
    )


def filtered(table: pd.DataFrame) -> pd.DataFrame:
    """Ask for areas and statuses, and return the claims that have them."""
    with st.expander("Areas, statuses", icon=":material/filter_alt:", expanded=bool(FILTERS & set(st.query_params))):
        areas = st.pills(
            "Area", list(AREAS), selection_mode="multi", key="area", bind="query-params", format_func=AREAS.__getitem__
        )
        statuses = st.pills("Status", STATUSES, selection_mode="multi", key="status", bind="query-params")
    kept = table["area"].isin(areas or list(AREAS)) & table["status"].isin(statuses or STATUSES)
    return table[kept]


def overview(table: pd.DataFrame) -> pd.DataFrame:
    """List the claims in one row each; return the claims to show in full: the one chosen, or all where asked."""
    chosen = components.table(
        {
            "Status": [f"{MARKS[status]} {status}" for status in table["status"]],
            "Claim": table["id"] + " " + table["claim"],
            "Printed": table["printed_value"],
            "Measured": table["measured"],
            "Told from chance": table["chance"],
        },
        alt="The claims with status, printed and measured figure",
        key="claims",
        row_height=ROW_HEIGHT,
        on_select="rerun",
        selection_mode="single-row",
        column_config={
            "Status": st.column_config.TextColumn(width=125),
            "Claim": st.column_config.TextColumn(width=195),
            "Printed": st.column_config.TextColumn(width=105),
            "Measured": st.column_config.TextColumn(width=280),
            "Told from chance": st.column_config.TextColumn(width=105),
        },
    )
    if st.session_state["full"]:
        return table
    rows = chosen.selection.rows
    if not rows:
        st.caption("Choose a row to read the claim in full: figures, what can be told from chance, notes and runs.")
    found: pd.DataFrame = table.iloc[rows]
    return found


def card(claim: dict[str, str]) -> None:
    """Show one claim."""
    with st.container(border=True):
        badge = f":{COLOURS[claim['status']]}-badge[{ICONS[claim['status']]} {claim['status']}]"
        st.markdown(f"{badge} **{claim['id']} · {words.escaped(claim['claim'])}**")
        printed, measured = st.columns([1, 2])
        printed.markdown(
            f":small[:gray[Printed, {words.escaped(claim['source'])}]]  \n{words.escaped(claim['printed_value'])}"
        )
        measured.markdown(f":small[:gray[Measured]]  \n{words.escaped(claim['measured'])}")
        if claim["chance"]:
            st.markdown(f":small[:gray[Told from chance]]  \n{words.escaped(claim['chance'])}")
        if claim["note"]:
            st.caption(words.escaped(claim["note"]))
        if claim["area"] == "curves":
            components.page_link("curves", "The curves and their fits", icon=":material/trending_down:")
        runs = claim["runs"].split()
        if runs:
            links = [f"[{run_id}]({components.run_address(run_id)})" for run_id in runs]
            # No caption: it would make the links paler than can be read.
            st.markdown(f":small[:material/tag: {'Run' if len(runs) == 1 else 'Runs'}: {', '.join(links)}]")


def files(table: pd.DataFrame, sentences: list[str]) -> None:
    """Offer the claims as files."""
    with st.container(horizontal=True):
        for label, text, name, mime in (
            ("CSV", to_csv(table), "claims.csv", "text/csv"),
            ("Markdown", to_markdown(table, sentences), "claims.md", "text/markdown"),
        ):
            components.download(label, text, file_name=name, mime=mime, key=name)


with components.sentences():
    found = data.offers()
    chosen = judged_by(found)
    table = data.claims(chosen)
    shown = filtered(table)
    with st.container(horizontal=True, vertical_alignment="center"):
        st.markdown(" · ".join(f"**{(table['status'] == status).sum()}** {status}" for status in STATUSES))
        st.toggle("All claims in full", key="full", bind="query-params")
    if shown.empty:
        st.info("No claim has this area and status.", icon=":material/filter_alt_off:")
    else:
        for claim in overview(shown).to_dict("records"):
            card({str(name): str(value) for name, value in claim.items()})
        components.imported_note(run_id for ids in shown["runs"] for run_id in ids.split())
    leaks = data.leaks(chosen.dataset)
    if leaks:
        st.header("Sets drawn image by image")
        st.markdown("\n".join(f"- {words.escaped(sentence)}" for sentence in leaks))
        st.caption("The article does not say whether its sets keep the images of a lesion together.")
    files(table, [*basis(found, chosen), *leaks])
