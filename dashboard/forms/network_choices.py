"""What the pages about networks share: the networks there are, the size of the images, charts that can be kept."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import streamlit as st

from core.compression.specs import DEFAULT_SIZES
from core.errors import SpecError
from core.networks.architectures import NetworkSpec
from core.networks.batch_norm import BATCH_NORM, PRINTED
from core.networks.network_files import FOLDER, Networks, all_networks
from dashboard import data, words
from dashboard.forms.fields import CHOICES, parsed

SIZES = tuple(f"{height}x{width}" for height, width in DEFAULT_SIZES)
DEFAULT_SIZE = "200x100"
LARGEST_SIDE = 10_000
IMAGE_FORMATS = ("PNG", "SVG")

FileStamp = tuple[str, int, int]


def folder() -> Path:
    """Return the folder of the users' own network files."""
    return data.settings().data_dir / FOLDER


def stamps() -> tuple[FileStamp, ...]:
    """Return a key that changes whenever a file in that folder changes."""
    found = []
    for path in sorted(folder().glob("*")):
        name = ascii(path.name)  # Streamlit hashes it, and a name may hold bytes that are no text
        try:
            facts = path.stat()
        except OSError:  # the file was removed since it was listed, or is a link that leads nowhere
            found.append((name, 0, 0))
            continue
        found.append((name, facts.st_mtime_ns, facts.st_size))
    return tuple(found)


@st.cache_resource(max_entries=4, show_spinner=False)
def _networks(data_dir: str, files: tuple[FileStamp, ...]) -> Networks:
    return all_networks(Path(data_dir))


def networks() -> Networks:
    """Return the article's four networks and the users' own, read again when a file has changed."""
    return _networks(str(data.settings().data_dir), stamps())


def warn_of_changes(wanted: Iterable[NetworkSpec]) -> None:
    """Name, after a copy of settings, the networks that cannot be copied because they changed or were removed."""
    known = networks().networks
    changed = [network.name for network in wanted if known.get(network.name) != network]
    if changed:
        st.session_state["problem"] = (
            f"Expected networks with the layers that they had in the original; {', '.join(changed)} "
            "changed since or cannot be read any more"
        )


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
    sizes = parsed(tuple[tuple[int, int], ...], typed or "", "a size in rows x columns", DEFAULT_SIZE)
    if len(sizes) != 1 or not all(1 <= side <= LARGEST_SIDE for side in sizes[0]):
        raise SpecError(f"Expected one size with 1 to {LARGEST_SIDE:,} rows and columns, got {typed}.")
    height, width = sizes[0]
    return height, width


def batch_norm_choice() -> str:
    """Return which batch normalisation is added to the networks that are shown."""
    return st.segmented_control(
        "Batch normalisation", list(BATCH_NORM), default=PRINTED, key="batch_norm", bind="query-params", required=True,
        format_func=CHOICES["batch_norm"].__getitem__, wrap=True,
        help="The article prints none after dense layers. With it, networks learn at its learning rate.",
    )  # fmt: skip


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
