"""What the pages about networks share: the networks there are, the size of the images, charts that can be kept."""

from __future__ import annotations

from pathlib import Path

import plotly.graph_objects as go
import streamlit as st

from core.errors import SpecError
from core.network_files import FOLDER, SUFFIXES, Networks, all_networks
from core.sweeps import DEFAULT_SIZES
from dashboard import components, data, words

SIZES = tuple(f"{height}x{width}" for height, width in DEFAULT_SIZES)
DEFAULT_SIZE = "200x100"
LARGEST_SIDE = 10_000
IMAGE_FORMATS = ("PNG", "SVG")
# The page's own backgrounds (.streamlit/config.toml): a chart kept from a dark page stays readable elsewhere.
BACKGROUNDS = {"light": "#FFFFFF", "dark": "#11191E"}

FileStamp = tuple[str, int, int]


def folder() -> Path:
    """Return where users put the files of their own networks."""
    return data.settings().data_dir / FOLDER


def stamps() -> tuple[FileStamp, ...]:
    """Return what tells one state of that folder from the next."""
    found = []
    for path in sorted(folder().glob("*")):
        if path.suffix.lower() in SUFFIXES:
            try:
                facts = path.stat()
            except FileNotFoundError:  # taken away since it was listed
                continue
            found.append((path.name, facts.st_mtime_ns, facts.st_size))
    return tuple(found)


@st.cache_resource(max_entries=4, show_spinner=False)
def _networks(data_dir: str, files: tuple[FileStamp, ...]) -> Networks:
    return all_networks(Path(data_dir))


def networks() -> Networks:
    """Return the article's four networks and the users' own, read again when a file has changed."""
    return _networks(str(data.settings().data_dir), stamps())


def size_choice() -> tuple[int, int]:
    """Return rows and columns of the images: one of the article's sizes, or what was typed. Raises SpecError."""
    typed = st.selectbox(
        "Image size",
        SIZES,
        index=SIZES.index(DEFAULT_SIZE),
        key="size",
        bind="query-params",
        accept_new_options=True,
        help="Rows x columns: one of the article's sizes, or type another, such as 128x128.",
    )
    sizes = words.parse_sizes(typed or "")
    if isinstance(sizes, str):
        raise SpecError(sizes)
    if len(sizes) != 1 or not all(1 <= side <= LARGEST_SIDE for side in sizes[0]):
        raise SpecError(f"size: expected one pair of 1 to {LARGEST_SIDE} rows and columns; got {typed}")
    return sizes[0]


def broken_files(found: Networks) -> None:
    """Name the files that could not be used, each with file, line and reason."""
    for reason in found.left_out.values():
        st.warning(words.sentence(reason), icon=":material/draft:")


def image_format() -> str:
    """Return in which format the camera button of the page's charts saves them."""
    return st.segmented_control(
        "The camera button of a chart saves it as",
        IMAGE_FORMATS,
        default="PNG",
        key="image",
        bind="query-params",
        required=True,
    ).lower()


def chart(figure: go.Figure, *, alt: str, key: str, file_name: str, kind: str) -> None:
    """Show a figure whose camera button keeps it as a file of that kind, png or svg; its title stands above as text."""
    title = figure.layout.title
    st.markdown(f"**{words.escaped(title.text)}**")
    if title.subtitle.text:
        st.caption(words.escaped(title.subtitle.text))
    background = BACKGROUNDS.get(components.theme() or "", "rgba(0,0,0,0)")
    figure.update_layout(
        title={"text": None, "subtitle": {"text": None}},
        legend={"orientation": "h", "x": 0, "y": 0, "xref": "container", "yref": "container", "yanchor": "bottom"},
        margin={"t": 55},  # the camera and its neighbours stand above the panels
        paper_bgcolor=background,
    )
    st.plotly_chart(
        figure,
        alt=alt,
        key=key,
        config={
            "displaylogo": False,
            "displayModeBar": True,
            "toImageButtonOptions": {"format": kind, "filename": file_name, "scale": 1 if kind == "svg" else 3},
        },
    )
