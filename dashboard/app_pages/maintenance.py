"""Maintenance: disk usage, what can be deleted, backups, snapshots, imported runs and health checks."""

import shlex
import shutil
from collections import Counter
from datetime import datetime, timedelta
from pathlib import Path

import streamlit as st

from core.errors import QueueUnavailable
from core.store import snapshot as store_snapshot
from dashboard import data, words
from dashboard.parts import components
from jobs.upkeep import backup, doctor, retention, snapshot
from jobs.upkeep.checks.check import ERROR, OK, WARNING, Check
from jobs.upkeep.retention import Deletion, Waste

LARGEST_DOWNLOAD = 200_000_000  # bytes; the server would hold the whole file in memory
STATUS = {
    OK: ":green-badge[:material/check: ok]",
    WARNING: ":orange-badge[:material/warning: warning]",
    ERROR: ":red-badge[:material/error: error]",
}


@st.cache_data(ttl=30, show_spinner="Computing disk usage")
def disk_use(data_dir: str) -> dict[str, int]:
    """Return the bytes of DATA_DIR by part."""
    return retention.disk_use(data.settings())


def disk() -> None:
    """Show disk usage and what can be deleted."""
    settings = data.settings()
    use = disk_use(str(settings.data_dir))
    disk = shutil.disk_usage(retention.existing(settings.data_dir))
    with st.container(horizontal=True):
        st.metric("DermSlim's files", words.bytes_text(sum(use.values())), border=True)
        st.metric("Free on the disk", words.bytes_text(disk.free), border=True)
        st.metric("Disk", words.bytes_text(disk.total), border=True)
    st.caption(words.with_commands(f"`{settings.data_dir}`"))
    largest = max(1, *use.values())
    components.table(
        {
            "Part": [name.capitalize() for name in use],
            "Size": [words.bytes_text(size) for size in use.values()],
            "Of the largest": [100 * size / largest for size in use.values()],
        },
        alt="Bytes of each part of the data folder",
        height="auto",
        column_config={"Of the largest": st.column_config.ProgressColumn(format="%.0f %%", min_value=0, max_value=100)},
    )
    st.header("Caches and leftovers")
    left, right = st.columns([3, 1], vertical_alignment="bottom")
    with left:
        kinds = st.pills(
            "Kinds",
            list(retention.CACHES),
            selection_mode="multi",
            default=list(retention.BY_DEFAULT),
            key="prune_kinds",
            help="  \n".join(f"**{kind}**: {text}" for kind, text in retention.CACHES.items()),
        )
    with right:
        days = st.number_input("Days unused", min_value=0, value=int(retention.DAYS), key="prune_days")
    found = retention.waste(settings, data.queues(), kinds=kinds, days=float(days))
    if not found:
        st.info("There is nothing to delete.", icon=":material/check_circle:")
        return
    components.table(
        {
            "Kind": [each.kind for each in found],
            "Size": [words.bytes_text(each.bytes) for each in found],
            "Why": [each.reason for each in found],
            "Where": [_below(each.path, settings.data_dir) for each in found],
        },
        alt="Files that may be removed",
        height="auto",
    )
    total = words.bytes_text(sum(each.bytes for each in found))
    if st.button(f"Remove {words.count_of(len(found), 'item')}, {total}", icon=":material/delete_sweep:"):
        confirm_prune(found)


def _below(path: Path, folder: Path) -> str:
    return str(path.relative_to(folder)) if path.is_relative_to(folder) else str(path)


@st.dialog("Remove caches and leftovers?")
def confirm_prune(found: list[Waste]) -> None:
    """Ask for confirmation and list what is removed."""
    total = words.bytes_text(sum(each.bytes for each in found))
    for kind, count in Counter(each.kind for each in found).items():
        st.markdown(f"- {words.count_of(count, 'item')} of **{kind}**: {words.escaped(retention.CACHES[kind])}")
    st.markdown(f"This frees {total}.")
    if st.button("Remove them", type="primary", icon=":material/delete_sweep:", on_click=prune, args=(found,)):
        st.rerun()


def prune(found: list[Waste]) -> None:
    """Remove what was confirmed, and say what that freed."""
    try:
        by = data.queues().user
    except QueueUnavailable as error:  # nobody is signed in any more
        st.session_state["problem"] = str(error)
        return
    gone = list(retention.remove(found, by))
    disk_use.clear()
    freed = words.bytes_text(sum(each.bytes for each in gone))
    st.session_state["done"] = f"{words.count_of(len(gone), 'item')} removed, {freed} freed"


def runs() -> None:
    """List the runs that may be deleted, with what each would free."""
    every = "0: every run that has ended"
    days = st.number_input("Minimum age in days", min_value=0, value=0, key="runs_days", width=280, help=every)
    found = retention.deletable(data.queues(), older_than=timedelta(days=float(days)))
    if not found:
        st.info("No run may be deleted. Runs and studies under way stay.", icon=":material/inbox:")
        return
    st.caption("Choose rows at the left. A deleted run cannot be restored; its tables and weights are deleted too.")
    choice = components.table(
        {
            "Status": [each.run.status for each in found],
            "Kind": [words.RUN_KIND_LABELS[each.run.kind] for each in found],
            "Data set": [each.run.dataset + (" (synthetic)" if each.run.synthetic else "") for each in found],
            "Ended": [components.moment(each.run.finished_at) for each in found],
            "Rows": [each.rows for each in found],
            "Weights": [words.bytes_text(each.folder_bytes) if each.folder_bytes else words.NONE for each in found],
            "Images": [words.bytes_text(each.written_bytes) if each.written else words.NONE for each in found],
            "Run": [each.run.id for each in found],
        },
        alt="Runs that may be deleted, with what that frees",
        height="auto",
        column_config={
            "Data set": st.column_config.TextColumn(width="medium"),
            "Rows": st.column_config.NumberColumn(format="localized"),
            "Images": st.column_config.TextColumn(help="Of the data set that a reconstruction wrote"),
        },
        selection_mode="multi-row",
        on_select="rerun",
        key=f"runs_to_delete_{st.session_state.get('deletions', 0)}",  # rows are chosen by place, which then changes
    )
    chosen = [found[row] for row in choice["selection"]["rows"] if row < len(found)]
    label = f"Delete {words.count_of(len(chosen), 'run')}" if chosen else "Delete"
    if st.button(label, icon=":material/delete:", disabled=not chosen):
        confirm_delete(chosen)


@st.dialog("Delete these runs?")
def confirm_delete(chosen: list[Deletion]) -> None:
    """Ask for confirmation, list what is lost, and ask whether to delete the written data sets too."""
    for each in chosen[:10]:
        st.markdown(f"- `{each.run.id}`, {words.count_of(each.rows, 'row')}")
    if len(chosen) > 10:
        st.markdown(f"- and {len(chosen) - 10:,} more")
    written = [each.written for each in chosen if each.written]
    with_datasets = bool(written) and st.checkbox(
        f"Also the {words.count_of(len(written), 'data set')} that they wrote, images included: "
        + words.escaped(", ".join(written))
    )
    freed = sum(each.freed(with_dataset=with_datasets) for each in chosen)
    st.markdown(
        f"This deletes {words.count_of(sum(each.rows for each in chosen), 'row')} and frees {words.bytes_text(freed)}. "
        "It cannot be undone; a backup made before still has them."
    )
    if components.action_button(
        "Delete permanently",
        ask_to_delete,
        chosen,
        with_datasets,
        done="The record worker deletes them now",
        type="primary",
        icon=":material/delete_forever:",
    ):
        st.rerun()


def ask_to_delete(chosen: list[Deletion], with_datasets: bool) -> None:
    """Ask the record worker to delete runs."""
    retention.ask_to_delete(data.queues(), chosen, with_datasets=with_datasets)
    st.session_state["deletions"] = st.session_state.get("deletions", 0) + 1
    disk_use.clear()


def backups() -> None:
    """Make a backup, and list the latest ones."""
    settings = data.settings()
    last = backup.last_backup(settings)
    with st.container(horizontal=True):
        st.metric("Last backup", words.ago_text(last["made_at"]) if last else "never", border=True)
        st.metric("Its size", words.bytes_text(last["bytes"]) if last else words.NONE, border=True)
    st.caption(
        "Store, queue and your own networks in one file, taken while everything runs; every row is read before it "
        "counts. `python -m jobs restore FILE --into FOLDER` puts it into a data folder on which nothing runs; with "
        "`--dry-run` it only reads the file and says whether it is whole."
    )
    with st.container(horizontal=True, vertical_alignment="center"):
        weights = st.checkbox("Weights too", key="backup_weights")
        images = st.checkbox("Reconstructed images too", key="backup_images")
        if st.button("Back up now", type="primary", icon=":material/save:"):
            with st.spinner("Backing up"), components.sentences():
                path = backup.default_path(settings)
                made = backup.back_up(settings, path, weights=weights, reconstructed=images)
                st.session_state["done"] = f"{path.name}: {backup.summary(made)}"
                disk_use.clear()
                st.rerun()
    files = sorted(settings.backups.glob("*.tar*"), reverse=True)
    if not files:
        st.info(f"There is no backup in {words.escaped(settings.backups)} yet.", icon=":material/inventory_2:")
        return
    chosen = st.selectbox("Backups here", files, format_func=lambda path: path.name, key="backup_file")
    size = chosen.stat().st_size
    st.caption(words.with_commands(f"`{chosen}` · {words.bytes_text(size)}"))
    if size <= LARGEST_DOWNLOAD:
        components.download("Download", data=chosen.read_bytes, file_name=chosen.name)
    else:
        st.caption(f"Files above {words.bytes_text(LARGEST_DOWNLOAD)} are copied from there, not downloaded.")


def snapshots() -> None:
    """Make a copy of all tables that notebooks and other programs may hold, and say how to read it."""
    folder = snapshot.default_folder(data.settings())
    last = snapshot.last_snapshot(folder)
    made = datetime.fromisoformat(last.made_at) if last else None
    with st.container(horizontal=True):
        st.metric("Last snapshot", words.ago_text(made) if made else "never", border=True)
        st.metric("Rows in it", words.count_text(sum(last.rows.values())) if last else words.NONE, border=True)
    st.caption(
        "A Parquet file of each table and a DuckDB file of views over them, all of one moment, for notebooks, database "
        "browsers and spreadsheets. Let these read a snapshot, never the store: while another "
        "program has the store open, even only to read it, nothing can be recorded."
    )
    if st.button("Make a snapshot", type="primary", icon=":material/photo_camera:"):
        with st.spinner("Copying all tables"), components.sentences():
            about = snapshot.take_snapshot(data.settings(), folder)
            st.session_state["done"] = f"Snapshot: {snapshot.summary(about)}"
            st.rerun()
    st.caption("It replaces the snapshot before it. To write one to another folder, from the project's folder:")
    st.code(f"python -m jobs snapshot {shlex.quote(str(folder))}", language=None, wrap_lines=True)
    st.caption("In Python:")
    opened = f"duckdb.connect({str(folder / store_snapshot.VIEWS)!r}, read_only=True)"
    st.code(f'import duckdb\n\ncon = {opened}\ncon.sql("FROM runs ORDER BY submitted_at").df()', wrap_lines=True)


def sharing() -> None:
    """Say how runs travel between stores, and list the imported ones with where they come from."""
    st.caption(
        "Runs travel as a folder: write it where they ran, copy it, and import it here. Each run keeps its id and is "
        "imported once. Images do not travel."
    )
    commands = "python -m jobs snapshot FOLDER --runs all --weights\npython -m jobs import FOLDER"
    st.code(commands, language=None, wrap_lines=True)
    imported = [run for run in components.runs() if run.origin_host is not None]
    if not imported:
        st.info("No run was imported.", icon=":material/inbox:")
        return
    components.table(
        {
            "From": [run.origin_host for run in imported],
            "Imported": [components.moment(run.imported_at) for run in imported],
            "Status": [run.status for run in imported],
            "Kind": [words.RUN_KIND_LABELS[run.kind] for run in imported],
            "Data set": [run.dataset + (" (synthetic)" if run.synthetic else "") for run in imported],
            "Run": [run.id for run in imported],
            "Store there": [run.origin_store for run in imported],
        },
        alt="Imported runs with the host and the store that they come from",
        height="auto",
        column_config={"Data set": st.column_config.TextColumn(width="medium")},
    )


def health() -> None:
    """Show what the doctor finds: what is wrong first, then everything."""
    text = "Starts Keras in a separate process, which takes some seconds."
    with_keras = st.checkbox("Check GPUs with Keras too", key="doctor_keras", help=text)
    if st.button("Look again", icon=":material/stethoscope:") or "doctor" not in st.session_state:
        with st.spinner("Running the checks"):
            st.session_state["doctor"] = list(doctor.examine(data.settings(), keras=with_keras))
    found: list[Check] = st.session_state["doctor"]
    counts = Counter(check.status for check in found)
    with st.container(horizontal=True):
        for status in (ERROR, WARNING, OK):
            st.metric({ERROR: "Errors", WARNING: "Warnings", OK: "In order"}[status], counts[status], border=True)
    for check in sorted((each for each in found if each.status != OK), key=lambda each: each.status):
        with st.container(border=True):
            st.markdown(f"{STATUS[check.status]} **{check.area.capitalize()}: {words.escaped(check.name)}**")
            st.markdown(words.escaped(check.found))
            st.caption(f"Expected: {words.escaped(check.expected)}. {words.with_commands(check.advice)}")
    st.header("All checks")
    components.table(
        {
            "Status": [check.status for check in found],
            "What": [f"{check.area}: {check.name}" for check in found],
            "Found": [check.found for check in found],
            "Expected": [check.expected for check in found],
            "To do": [check.advice for check in found],
        },
        alt="Every check with what was expected and what was found",
        height="auto",
    )


VIEWS = {"Health": health, "Disk": disk, "Runs": runs, "Backups": backups, "Snapshots": snapshots, "Sharing": sharing}
view = components.view(list(VIEWS))
with components.sentences():
    try:
        VIEWS[view]()
    except QueueUnavailable as error:
        st.info(f"This needs the queue. {words.sentence(error)}", icon=":material/cloud_off:")
