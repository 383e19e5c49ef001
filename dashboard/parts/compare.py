"""Two or more images of the same size to compare: a swipe, or panes side by side with one zoom for all.

A small component of our own, because Streamlit has none: images travel as data URIs, zoom and swipe stay in the
browser, so that a slider step exchanges the picture under an unchanged view. Everything works from the keyboard.
"""

from __future__ import annotations

import base64
from dataclasses import dataclass
from pathlib import Path

import streamlit as st

HERE = Path(__file__)
VIEWER = st.components.v2.component(
    "dermslim_compare",
    html=HERE.with_suffix(".html").read_text(encoding="utf-8"),
    css=HERE.with_suffix(".css").read_text(encoding="utf-8"),
    js=HERE.with_suffix(".js").read_text(encoding="utf-8"),
)


@dataclass(frozen=True)
class Pane:
    """One image to compare: its PNG file, its name, and a line about it."""

    image: bytes
    label: str
    note: str = ""


def compare(panes: list[Pane], shape: tuple[int, int], mode: str, *, key: str) -> None:
    """Show images of one shape (rows, columns): `swipe` (the first two) or `side` (all, zoom linked)."""
    shown = panes[:2] if mode == "swipe" else panes
    VIEWER(
        key=key,
        data={
            "mode": mode,
            "height": shape[0],
            "width": shape[1],
            "maxWidth": max(360, min(900, round(540 * shape[1] / shape[0]))),
            "panes": [
                {
                    "label": pane.label,
                    "note": pane.note,
                    "src": f"data:image/png;base64,{base64.b64encode(pane.image).decode()}",
                }
                for pane in shown
            ],
        },
    )
