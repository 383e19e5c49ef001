"""Parts that several pages share: banners, progress, links to runs, charts, tables, downloads."""

from __future__ import annotations

import functools
import html
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import tzinfo
from functools import partial
from pathlib import Path
from typing import Any, Literal
from urllib.parse import urlencode
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

import pandas as pd
import plotly.graph_objects as go
import streamlit as st

from core.compression.specs import DiagnosisSpec, Way
from core.compression.svd import MODES, largest_k
from core.data.datasets import DatasetImage
from core.errors import DermSlimError
from core.runs import Run
from core.specs import Spec
from dashboard import data, words
from dashboard.parts import pictures
from jobs.later_jobs import LaterKind

PAGES = {  # where a run of each kind is shown, and the query parameter that names it there
    "svd-sweep": ("app_pages/sweeps.py", "run"),
    "resize-study": ("app_pages/resize.py", "study"),
    "rivals": ("app_pages/jobs.py", "job"),
    "reconstruct": ("app_pages/jobs.py", "job"),
    "diagnosis": ("app_pages/diagnosis.py", "run"),
    "train": ("app_pages/prune_train.py", "run"),
    "prune-train": ("app_pages/prune_train.py", "run"),
}
# The page's own backgrounds, as in dashboard/.streamlit/config.toml.
BACKGROUNDS = {"light": "#FFFFFF", "dark": "#11191E"}
Height = int | Literal["auto", "content"]
WAITING = ("queued", "running")  # what a worker should be at, or soon will be
SYNTHETIC = ":violet-badge[:material/science: synthetic]"


def reader_zone() -> tzinfo | None:
    """Return the time zone of the reader's browser; None means this machine's."""
    try:
        return ZoneInfo(st.context.timezone) if st.context.timezone else None
    except (ZoneInfoNotFoundError, ValueError):
        return None


def moment(value: object) -> str:
    """Return a moment in the reader's time zone."""
    return words.moment_text(value, reader_zone())


def theme() -> str | None:
    """Return the page's theme, light or dark, for the charts' palette."""
    return st.context.theme.type


@contextmanager
def sentences() -> Iterator[None]:
    """Show an error for users as one sentence."""
    try:
        yield
    except DermSlimError as error:
        st.error(words.sentence(error), icon=":material/error:")


def said(part: Callable[..., None]) -> Callable[..., None]:
    """Show such an error of a fragment as the page does."""

    @functools.wraps(part)
    def shown(*arguments: Any, **named: Any) -> None:
        with sentences():
            part(*arguments, **named)

    return shown


def rerun_once(recorded: Callable[[], bool]) -> None:
    """Draw the page again once something that was just submitted is in the store."""

    def look() -> None:
        if recorded():
            st.rerun(scope="app")

    st.fragment(said(look), run_every=1)()


def wait_for_job(kind: LaterKind, run_id: str, doing: str) -> None:
    """Say that a job adds something to an ended run, and draw the page again once it has. doing: a sentence."""

    def look() -> None:
        if not data.is_under_way(kind, run_id):
            st.rerun(scope="app")
        st.caption(f":material/hourglass_top: {doing}")

    st.fragment(said(look), run_every=2)()


def attempt(action: Callable[..., Any], *arguments: Any, done: str) -> None:
    """Do something from a button; `show_outcome` then says that it is done, or why it is not."""
    try:
        action(*arguments)
    except DermSlimError as error:
        st.session_state["problem"] = str(error)
    else:
        st.session_state["done"] = done
    data.forget_runs()


def action_button(label: str, action: Callable[..., Any], *arguments: Any, done: str, **options: Any) -> bool:
    """Show a button that does something with `attempt`; return whether it was pressed. options: of `st.button`."""
    return st.button(label, on_click=attempt, args=(action, *arguments), kwargs={"done": done}, **options)


def show_outcome() -> None:
    """Show the outcome of the last button once."""
    if problem := st.session_state.pop("problem", None):
        st.error(words.sentence(problem), icon=":material/error:")
    if done := st.session_state.pop("done", None):
        st.toast(words.escaped(done), icon=":material/check:")


@st.fragment(run_every=5)
def health_banner() -> None:
    """Show which services are down, on every page; show nothing while all are up."""
    health = data.health()
    if health.store:
        st.error(words.sentence(health.store), title="The store cannot be read", icon=":material/database_off:")
    if health.reader:
        st.warning(
            f"{words.escaped(health.reader)[:1].upper()}{words.escaped(health.reader)[1:]} has the database open to "
            "read it. Messages wait in the queue until it closes it; `python -m jobs snapshot FOLDER` gives it a copy.",
            title="Nothing can be recorded now",
            icon=":material/database_off:",
        )
    if health.redis:
        st.error(
            f"{words.sentence(health.redis)} Recorded results can still be read; nothing new can be started. "
            "`make up` starts the queue and its workers.",
            title="The queue does not answer",
            icon=":material/cloud_off:",
        )
        return
    if not health.recorder:
        waiting = f"{words.count_of(health.waiting, 'record')} waiting. " if health.waiting else ""
        st.warning(
            f"{waiting}What the workers measure is kept in the queue and appears here once one runs: "
            "`python -m jobs.worker record`, or `make up` for everything.",
            title="No record worker is running",
            icon=":material/warning:",
        )
    if lacks_worker("svd"):
        no_worker("svd", "Runs that are started stay queued")
    if not health.store and lacks_worker("train"):
        with sentences():
            queued = [run for run in data.runs() if run.status in WAITING]
            if count := sum(run.trains or run.kind == DiagnosisSpec.kind for run in queued):
                no_worker("train", f"{words.count_of(count, 'training or diagnosis run')} cannot go on")


def lacks_worker(kind: str) -> bool:
    """Return whether no worker of a kind runs."""
    return not any(worker.kind == kind for worker in data.health().workers)


def no_worker(kind: str, effect: str, further: str = ".") -> None:
    """Warn that no worker of a kind runs. effect: what happens until one runs. further: ends the sentence."""
    st.warning(
        f"{effect} until one runs: `python -m jobs.worker {kind}`, on any machine that reaches the queue and the "
        f"images{further}",
        title=f"No {kind} worker is running",
        icon=":material/warning:",
    )


def url_choice(
    widget: Callable[..., Any],
    label: str,
    options: Sequence[str],
    *,
    param: str,
    default: str | None = None,
    format_func: Callable[[str], str] = str,
    dependent: bool = False,
    **arguments: Any,
) -> str:
    """Return the option that the URL's `param` names, chosen with `widget`, which writes it there.

    For choices that the program makes too (a run just started) and whose labels are not what the URL should show;
    Streamlit's own binding serves the others. format_func: gives an option's label, as plain text for a select box and
    as Markdown for any other widget. dependent: another choice changes the options; what the URL named before is then
    forgotten, without a warning.
    """
    wanted = st.query_params.get(param)
    if dependent and wanted not in options:
        wanted = None
        st.query_params.pop(param, None)
    chosen = next(option for option in (wanted, default, options[0]) if option is not None and option in options)
    key = f"choice_{param}"
    if st.session_state.get(key) != chosen:
        st.session_state[key] = chosen

    def changed() -> None:
        if st.session_state[key] in options:  # a changed label is returned instead of an option
            st.query_params[param] = st.session_state[key]

    if wanted is not None and wanted not in options:
        got = words.escaped(words.shortened(wanted, 80))
        st.warning(f"{label}: expected one of those listed here; there is no {got}.")
    labels = words.unlike({option: format_func(option) for option in options})
    widget(label, options, key=key, on_change=changed, format_func=labels.__getitem__, **arguments)
    return chosen


def choose_run(
    runs: Sequence[Run], label: str, *, param: str, default: str | None = None, name: Callable[[Run], str] | None = None
) -> Run:
    """Return the run that the URL's `param` names and the reader chooses. name: of a run in the list."""
    by_id = {run.id: run for run in runs}

    def named(run_id: str) -> str:
        return name(by_id[run_id]) if name else words.run_label(by_id[run_id], reader_zone())

    return by_id[url_choice(st.selectbox, label, list(by_id), param=param, default=default, format_func=named)]


def view(names: Sequence[str], param: str = "tab", format_func: Callable[[str], str] = str) -> str:
    """Return which of the page's views the reader chooses. param, format_func: see `url_choice`."""
    shown = partial(st.segmented_control, label_visibility="collapsed", required=True)
    return url_choice(shown, "View", names, param=param, format_func=format_func)


def dataset_text(run: Run, length: int = 60, *, bold: bool = True) -> str:
    """Return the name of a run's data set as Markdown; synthetic ones and imported runs are marked."""
    name = words.escaped(words.shortened(run.dataset, length))
    return (f"**{name}**" if bold else name) + (f" {SYNTHETIC}" if run.synthetic else "") + origin_badge(run)


def run_title(run: Run, length: int = 48) -> str:
    """Return a run's status, kind and data set as Markdown."""
    return f"{status_text(run.status)} **{words.RUN_KIND_LABELS[run.kind]}** of {dataset_text(run, length, bold=False)}"


def origin_badge(run: Run) -> str:
    """Return as a badge which host an imported run comes from; empty for a run of this store."""
    if run.origin_host is None:
        return ""
    return f" :blue-badge[:material/move_to_inbox: from {words.escaped(words.shortened(run.origin_host, 30))}]"


def copy_button(noun: str, copy: Callable[..., None], spec: Spec) -> None:
    """Offer to open the form with the settings of what the page shows. copy: puts a spec into the form."""
    label = f"Use these settings in a new {noun}"
    st.button(label, icon=":material/edit:", type="tertiary", on_click=copy, args=(spec,))


@dataclass(frozen=True)
class Chart:
    """A figure as it is shown: its title as text, which wraps where the page is narrow, and its legend below."""

    title: str | None
    subtitle: str | None
    figure: go.Figure


def dressed(figure: go.Figure) -> Chart:
    """Take the title out of a figure and put its legend below."""
    title = figure.layout.title
    taken = [text and html.unescape(text) for text in (title.text, title.subtitle.text)]  # shown as Markdown
    figure.update_layout(
        title={"text": None, "subtitle": {"text": None}},
        legend={"orientation": "h", "x": 0, "y": 0, "xref": "container", "yref": "container", "yanchor": "bottom"},
        margin={"t": 30},
    )
    return Chart(taken[0], taken[1], figure)


@st.cache_resource(max_entries=500, show_spinner=False)
def _drawn(depends: tuple[object, ...], _draw: Callable[[], go.Figure]) -> Chart:
    return dressed(_draw())


def chart(
    figure: go.Figure | Callable[[], go.Figure],
    *,
    alt: str,
    key: str,
    depends: tuple[object, ...] = (),
    save_as: tuple[str, str] | None = None,
    **options: Any,
) -> None:
    """Show a figure; one given as a function is drawn once for what it `depends` on, and kept.

    save_as: name and kind, png or svg, of the file that the chart's camera button gives, which is then always shown; by
    default `key` and png. options: of `st.plotly_chart`.
    """
    shown = dressed(figure) if isinstance(figure, go.Figure) else _drawn((key, *depends), figure)
    if shown.title:
        st.markdown(f"**{words.escaped(shown.title)}**")
    if shown.subtitle:
        st.caption(words.escaped(shown.subtitle))
    name, kind = save_as or (key, "png")
    saved = {"format": kind, "filename": name, "scale": 1 if kind == "svg" else 3}
    config: dict[str, Any] = {"displaylogo": False, "toImageButtonOptions": saved}
    if save_as:
        config["displayModeBar"] = True
        # The toolbar is above the panels; a file saved in dark mode stays readable elsewhere.
        shown.figure.update_layout(margin={"t": 55}, paper_bgcolor=BACKGROUNDS.get(theme() or "", "rgba(0,0,0,0)"))
    st.plotly_chart(shown.figure, alt=alt, key=key, config=config, **options)


def table(rows: pd.DataFrame | Mapping[str, Any], *, alt: str, height: Height = "content", **options: Any) -> Any:
    """Show a data frame, or columns by title, without its index. height, options: of `st.dataframe`."""
    return st.dataframe(pd.DataFrame(rows), hide_index=True, height=height, alt=alt, **options)


def right_aligned(*names: str) -> dict[str, Any]:
    """Return the settings of columns of a table whose texts stand at the right, as numbers do."""
    return {name: st.column_config.TextColumn(alignment="right") for name in names}


def page_link(page: str, label: str, **options: Any) -> None:
    """Show a link to a page of `app_pages`, without the help that the menu has. options: of `st.page_link`."""
    st.page_link(f"app_pages/{page}.py", label=label, **{"help": ""} | options)


def download(label: str, data: Any, file_name: str, mime: str | None = None, **options: Any) -> None:
    """Offer a file; the page is not drawn again for it. options: of `st.download_button`."""
    st.download_button(label, data, file_name, mime, on_click="ignore", icon=":material/download:", **options)


def run_link(run_id: str, kind: str, label: str, icon: str | None = None, **arguments: Any) -> None:
    """Show a link to the page of a run. label: plain text, as in all links here."""
    page, param = PAGES[kind]
    st.page_link(page, label=words.escaped(label), icon=icon, query_params={param: run_id}, help="", **arguments)


def own_page_link(run_id: str, label: str) -> None:
    """Show a link to a run's own page: facts, files and log; of any kind."""
    page_link("run", words.escaped(label), icon=":material/tag:", query_params={"run": run_id})


def run_address(run_id: str) -> str:
    """Return the address of a run's own page, as seen from any page."""
    return f"run?{urlencode({'run': run_id})}"


def inspector_link(
    dataset: str, image_id: str, label: str, k: int | None = None, further: Mapping[str, str] | None = None
) -> None:
    """Show a link that opens an image in the inspector. further: parameters of that page, see `way_in_inspector`."""
    params = {"dataset": dataset, "image": image_id, **(further or {})} | ({} if k is None else {"k": str(k)})
    page_link("inspector", words.escaped(label), icon="", query_params=params)


def way_in_inspector(way: Way, record: DatasetImage) -> dict[str, str]:
    """Return the inspector's parameters for an image stored in one way; without SVD, k is the image's rank.

    Streamlit reads a choice from the address by its label.
    """
    mode = way.mode or MODES[0]
    k = largest_k(record.height, record.width, mode) if way.k is None else way.k
    quality = {} if way.quality is None else {f"quality_{way.codec}": str(way.quality)}
    return {"mode": words.MODES[mode], "codec": words.codec_text(way.codec), "k": str(k), **quality}


def status_text(status: str) -> str:
    """Return a run's status as a badge."""
    colour, icon = words.STATUS_BADGES[status]
    return f":{colour}-badge[:material/{icon}: {status}]"


def runs(kind: str | None = None) -> list[Run]:
    """Return the runs of a kind, newest first; a sentence and none where the store cannot be read."""
    try:
        return [run for run in data.runs() if kind in (None, run.kind)]
    except DermSlimError as error:
        st.error(words.sentence(error), icon=":material/error:")
        return []


def imported_note(run_ids: Iterable[str]) -> None:
    """Say how many of these runs were imported, and from where; nothing where none was."""
    wanted = set(run_ids)
    found = [run for run in runs() if run.id in wanted and run.origin_host is not None]
    if found:
        badges = "".join(dict.fromkeys(map(origin_badge, found)))
        st.markdown(f"{len(found)} of the {words.count_of(len(wanted), 'run')} behind this were imported:{badges}")


def _file(frame: Callable[[], pd.DataFrame], kind: str) -> bytes:
    return data.table_file(frame(), kind)


def downloads(name: str, choices: Mapping[str, Callable[[], pd.DataFrame]], key: str) -> None:
    """Offer frames as CSV and Parquet; each is read and written only when its button is pressed."""
    kinds = {"csv": ("CSV", "text/csv"), "parquet": ("Parquet", "application/vnd.apache.parquet")}
    with st.container(horizontal=True):
        for title, frame in choices.items():
            for kind, (label, mime) in kinds.items():
                download(
                    f"{title}, {label}",
                    data=partial(_file, frame, kind),
                    file_name=f"{name}-{title.lower().replace(' ', '-')}.{kind}",
                    mime=mime,
                    key=f"{key}_{title}_{kind}",
                )


def thumbnail(path: Path, digest: str, image_id: str) -> None:
    """Show an image small, or why it cannot be shown."""
    picture = pictures.thumbnail(str(path), digest)
    if isinstance(picture, str):
        st.caption(f":material/broken_image: {words.sentence(picture)}")
    else:
        st.image(picture, width="stretch", alt=image_id)


def how_to_get_ham10000() -> None:
    """Show where to get HAM10000 and which folder layout is expected."""
    st.markdown(
        """
**HAM10000** (10,015 dermatoscopic images, CC BY-NC 4.0) is at two places:

- **Harvard Dataverse**, [doi:10.7910/DVN/DBW86T](https://doi.org/10.7910/DVN/DBW86T): download
  `HAM10000_images_part_1.zip`, `HAM10000_images_part_2.zip` and `HAM10000_metadata.tab` (as CSV), and unpack them.
- **ISIC Archive**, with its own tool [isic-cli](https://github.com/ImageMarkup/isic-cli): `isic collection list` names
  the id of "HAM10000", and `isic image download --collections ID ham10000/` fetches its images and metadata.

The folder to register then looks like this; `negatives/`, images without a lesion, is optional:
"""
    )
    st.code(
        "ham10000/\n├── HAM10000_metadata.csv      lesion_id,image_id,dx,dx_type,age,sex,localization\n"
        "├── images/                    ISIC_0024306.jpg …, in one folder or several\n"
        "└── negatives/                 optional",
        language=None,
    )
    st.markdown(
        "The ISIC challenges' ground truths, a folder with one sub-folder per class, or a plain folder of images work "
        "too. "
        "Without any download: `make demo` creates a **synthetic** data set."
    )
