"""Why the browser's camera cannot be used, as a sentence beside the camera: none there, refused, or no https.

A small component of our own, because Streamlit's camera names none of these and says nothing in the user's language.
"""

from __future__ import annotations

from pathlib import Path

import streamlit as st

HERE = Path(__file__)
CAMERA = st.components.v2.component(
    "dermslim_camera",
    html='<p role="status"></p>',
    css="p { margin: 0; font-weight: 600; color: var(--st-red-color); } p:empty { display: none; }",
    js=HERE.with_suffix(".js").read_text(encoding="utf-8"),
)


def camera_state(none: str, refused: str, insecure: str, *, key: str) -> None:
    """Show the sentence that fits, or nothing where a camera can be used; it changes when the permission does."""
    CAMERA(key=key, data={"none": none, "refused": refused, "insecure": insecure})
