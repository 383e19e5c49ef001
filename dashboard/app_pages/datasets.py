"""Data sets: register a folder, see its images and what was left out, measure it, write its reconstruction."""

import time
from typing import Any, Literal

import pandas as pd
import streamlit as st

from core.compression.specs import ReconstructSpec
from core.data.datasets import Dataset
from core.errors import DermSlimError
from dashboard import data, words
from dashboard.charts import datasets as charts
from dashboard.forms import measuring as forms
from dashboard.forms.fields import CHOICES, SET_NAMES
from dashboard.parts import components, run_progress
from dashboard.parts.run_facts import run_facts

SAMPLES = 12
MOST_LISTED, LISTING_HEIGHT = 10, 420  # data sets, and the pixels of a longer list, which scrolls
RECORDED_WITHIN = 3  # seconds that a removal is waited for
VARIABLES = {"age": "Age", "sex": "Sex", "localization": "Localisation"}


def registration() -> None:
    """Draw the form that registers a folder, and show the progress of reading its files."""
    with st.form("register", border=False), st.container(horizontal=True, vertical_alignment="bottom"):
        typed = st.text_input("Folder", placeholder="/data/ham10000", help="A folder on the dashboard's machine.")
        name = st.text_input("Name", placeholder="the folder's name", width=260)
        asked = st.form_submit_button("Register", type="primary", icon=":material/create_new_folder:")
    roots = ", ".join(f"`{root}`" for root in data.settings().data_roots)
    st.caption(f"Every file is decoded once to find damaged ones. Folders must be in {words.with_commands(roots)}.")
    if not asked:
        return
    if not typed.strip():
        st.error("Expected the path of a folder, got an empty field.", icon=":material/error:")
        return
    bar = st.progress(0.0, text="Looking for images")

    def progress(done: int, total: int) -> None:
        if done % max(1, total // 200) == 0 or done == total:
            bar.progress(done / total, text=f"{done:,} of {words.count_of(total, 'file')} read")

    try:
        found = data.queues().resolve(typed.strip(), name=name.strip() or None, progress=progress)
        data.queues().register(found)
    except DermSlimError as error:
        bar.empty()
        st.error(words.sentence(error), icon=":material/error:")
        return
    bar.empty()
    st.session_state["registering"] = (found.name, found.fingerprint)
    st.rerun()


@st.fragment(run_every=1)
@components.said
def awaited() -> None:
    """Wait for a registration to be recorded, then draw the page with it."""
    name, fingerprint = st.session_state["registering"]
    known = data.datasets()
    if ((known["name"] == name) & (known["fingerprint"] == fingerprint)).any():
        del st.session_state["registering"]
        st.query_params["dataset"] = name
        st.rerun(scope="app")
    st.info(f"{words.escaped(name)} has been read and is being recorded.", icon=":material/hourglass_top:")


def listing(known: pd.DataFrame) -> None:
    """List the registered data sets."""
    rows = pd.DataFrame(
        {
            "Name": known["name"],
            "Kind": ["synthetic" if each else "" for each in known["synthetic"]],
            "Images": [words.count_text(each) for each in known["images"]],
            "Size": [words.bytes_text(each) for each in known["bytes"]],
            "Left out": [words.count_text(each) for each in known["left_out"]],
            "Layout": [words.LAYOUTS.get(each, each) for each in known["layout"]],
            "Made from": [
                f"{row.source}, {row.settings}" if words.known(row.source) else "" for row in known.itertuples()
            ],
            "Registered": [components.moment(each) for each in known["registered_at"]],
            "Folder": known["root"],
        }
    )
    # Unlike a data frame's cells, those of a table wrap, so that nothing is cut.
    height: int | Literal["content"] = LISTING_HEIGHT if len(rows) > MOST_LISTED else "content"
    st.table(rows.map(words.escaped), border="horizontal", hide_index=True, height=height, alt="Registered data sets")


def facts(row: dict[str, Any]) -> None:
    """Show what identifies the chosen data set, and the figures about it."""
    badges = f":blue-badge[{words.LAYOUTS.get(row['layout'], row['layout'])}]"
    if row["synthetic"]:
        badges += f" {components.SYNTHETIC}"
    if row["source"]:
        source = words.escaped(words.shortened(row["source"]))
        badges += f" :orange-badge[:material/compress: reconstruction of {source}]"
    st.markdown(badges)
    if row["synthetic"]:
        st.caption("These images were made by a program. They show no patient, and no figure from them is a finding.")
    left_out = words.count_text(row["left_out"])
    with st.container(horizontal=True):
        st.metric("Images", words.count_text(row["images"]), border=True)
        st.metric("On disk", words.bytes_text(row["bytes"]), border=True)
        st.metric("A file, mean", words.bytes_text(row["bytes"] / max(1, row["images"])), border=True)
        st.metric("Left out, with reasons", left_out, border=True)
    st.caption(
        f"Folder {words.escaped(row['root'])} · registered {components.moment(row['registered_at'])} · "
        f"fingerprint `{row['fingerprint'][:16]}`"
    )
    if row["source"]:
        before_and_after(row)


def given_sets(dataset: Dataset) -> None:
    """Say how many images each given set has, and how to train on them; nothing where no set is given."""
    counts = dataset.split_counts()
    if not counts:
        return
    sizes = ", ".join(f"{SET_NAMES[name].lower()} {words.count_of(count, 'image')}" for name, count in counts.items())
    without = len(dataset.records) - sum(counts.values())
    rest = f" {words.count_of(without, 'image')} without a set." if without else ""
    st.caption(
        f":material/call_split: Given sets: {sizes}.{rest} A training uses them where you choose "
        f"**{CHOICES['split']['given']}**; else the sets are drawn."
    )


def remove(name: str) -> None:
    """Forget a registration, and wait until that is recorded, so that the page is drawn without it."""
    data.queues().remove_dataset(name)
    st.query_params.pop("dataset", None)
    for _ in range(RECORDED_WITHIN * 10):
        if name not in set(data.datasets()["name"]):
            return
        time.sleep(0.1)


def before_and_after(row: dict[str, Any]) -> None:
    """Show what a reconstruction saved, from the run that wrote it."""
    finished = (run for run in data.runs() if run.status == "finished" and run.dataset == row["source"])
    run = next((run for run in finished if run.writes == row["name"]), None)
    sizes = pd.DataFrame() if run is None else data.storage(run)
    if run is None or sizes.empty:
        return
    sizes_row, spec = data.plain_row(sizes.iloc[0]), run.told(ReconstructSpec)
    with st.container(border=True):
        st.markdown(
            f"**{words.bytes_text(sizes_row['source_bytes'])} before, {words.bytes_text(sizes_row['stored_bytes'])} "
            f"after.** {' '.join(words.storage_sentences(sizes_row, spec)[:2])}"
        )
        run_facts(run)


def classes(dataset: Dataset) -> None:
    """Show the classes: a chart, and the table behind it."""
    table = data.class_table(dataset)
    chart, rows = st.columns([3, 2])
    with chart:
        components.chart(charts.class_counts(table, theme=components.theme()), alt="Images per class", key="classes")
    with rows:
        components.table(
            table.assign(bytes=[words.bytes_text(each) for each in table["bytes"]]),
            alt="Images, lesions and bytes per class",
            height="auto",
            column_config={
                "label": "Class",
                "dx": "dx",
                "images": st.column_config.NumberColumn("Images", format="localized"),
                "lesions": st.column_config.NumberColumn("Lesions", format="localized"),
                "bytes": "Size",
            },
        )


def distributions(dataset: Dataset) -> None:
    """Show how age, sex and localisation are distributed over the classes."""
    frame = data.metadata_table(dataset)
    if (frame["value"] == "unknown").all():
        st.caption("This data set has no metadata: age, sex and localisation are unknown.")
        return
    for column, (variable, label) in zip(st.columns(3), VARIABLES.items(), strict=True):
        with column:
            chosen = frame[frame["variable"] == variable]
            figure = charts.distribution(chosen, label, theme=components.theme())
            components.chart(figure, alt=f"Images by {label.lower()}", key=f"by_{variable}")


def sizes(dataset: Dataset) -> None:
    """Show the sizes of the images."""
    table = data.size_table(dataset)
    if len(table) == 1:
        row = table.iloc[0]
        st.markdown(f"All images have {words.size_text(row['height'], row['width'])} pixels (rows × columns).")
        return
    titles = {"height": "Rows", "width": "Columns", "images": "Images"}
    components.table(
        table,
        alt="Image sizes and how many images have each",
        height=min(300, 38 + 35 * len(table)),
        column_config={name: st.column_config.NumberColumn(each, format="localized") for name, each in titles.items()},
    )


def sample_images(dataset: Dataset) -> None:
    """Show images drawn at random, each of which opens in the inspector."""
    count = min(SAMPLES, len(dataset.records))
    seed = st.session_state.setdefault("sample_images_seed", 1)
    with st.grid("auto", min_column_width=150, gap="small"):
        for record in dataset.sample(count, seed):
            with st.container(gap="xsmall"):
                components.thumbnail(dataset.root / record.path, record.sha256, record.image_id)
                components.inspector_link(dataset.name, record.image_id, words.shortened(record.image_id, 22))
                st.caption(words.escaped(record.label or "unlabelled"))

    def others() -> None:
        st.session_state["sample_images_seed"] = seed + 1

    st.button("Show others", icon=":material/shuffle:", on_click=others)


def left_out(dataset: Dataset) -> None:
    """List what was left out, with reasons."""
    if not dataset.left_out:
        st.caption("Nothing was left out: every file and every metadata row is used.")
        return
    frame = pd.DataFrame([vars(item) for item in dataset.left_out])
    components.table(
        frame,
        alt="Files and metadata rows that were left out, with reasons",
        height=min(420, 38 + 35 * len(frame)),
        column_config={
            "name": st.column_config.TextColumn("File or row", width="medium"),
            "reason": st.column_config.TextColumn("Reason", width="large"),
        },
    )
    components.downloads(f"{dataset.name}-left-out", {"Left out": lambda: frame}, key="left_out")


def open_dataset(name: str) -> None:
    """Open another data set."""
    st.query_params["dataset"] = name
    st.query_params["view"] = "Images"


def rebuild(dataset: Dataset) -> None:
    """Write the data set again at one k and show the progress."""
    st.markdown("This reconstructs every image from its k largest singular values and writes a new data set.")
    run_id = st.query_params.get("rebuild")
    run = data.run(run_id) if run_id else None
    if run is not None and run.dataset == dataset.name:
        if not run.ended:
            run_progress.live_progress(run.id)
            return
        if run.status == "finished":
            made = run.writes or ""
            st.success(f"Done: **{words.escaped(made)}** is registered.", icon=":material/check_circle:")
            label = f"Open {words.escaped(words.shortened(made, 48))}"
            st.button(label, on_click=open_dataset, args=(made,), icon=":material/photo_library:")
            run_progress.left_out_images(run)
        else:
            run_progress.ended_early(run)
    forms.reconstruct_form(dataset)


known = data.datasets() if not (problem := data.health().store) else pd.DataFrame()
if problem:
    st.stop()
if "registering" in st.session_state:
    awaited()
if known.empty:
    st.info("No data set is registered yet.", icon=":material/folder_off:")
    registration()
    with st.container(border=True):
        components.how_to_get_ham10000()
    st.stop()

listing(known)
with st.expander("Register another folder", icon=":material/create_new_folder:"):
    registration()
with st.expander("How to get HAM10000", icon=":material/download:"):
    components.how_to_get_ham10000()

dataset = forms.choose_dataset()
if dataset is None:
    st.stop()
row = data.plain_row(known[known["name"] == dataset.name].iloc[0])
with st.container(horizontal=True, vertical_alignment="center"):
    st.header(words.escaped(words.shortened(dataset.name, 60)))
    form = {"tab": "New sweep", "dataset": dataset.name}
    components.page_link("sweeps", "Start a sweep on it", icon=":material/query_stats:", query_params=form)
    with st.popover("Remove", icon=":material/delete:", type="tertiary"):
        st.markdown("Its files and its runs stay. To have it back, register the folder again.")
        components.action_button("Remove the registration", remove, dataset.name, done="Removed")
facts(row)
given_sets(dataset)
views = {
    "Images": sample_images,
    "Classes": classes,
    "Metadata": distributions,
    "Sizes": sizes,
    f"Left out ({len(dataset.left_out):,})": left_out,
    "Reconstruct": rebuild,
}
names = {label.split(" (")[0]: label for label in views}
view = components.view(list(names), param="view", format_func=names.__getitem__)
views[names[view]](dataset)
