"""The visitors of the kiosk, one after another: each is forgotten after a minute without a touch."""

from __future__ import annotations

import time

import streamlit as st

from dashboard.messages import Messages

IDLE = 60.0  # seconds without a touch until the page starts over
WARNING = 15.0  # seconds before it that the page says so


def key(name: str) -> str:
    """Return a widget's key, another one for each visitor."""
    return f"kiosk_{name}_{st.session_state.setdefault('kiosk_visitor', 0)}"


def touched() -> None:
    """Note that somebody uses the page."""
    st.session_state["kiosk_touched"] = time.monotonic()


def seconds_left() -> float:
    """Return the seconds until the page starts over."""
    now = time.monotonic()
    return float(IDLE - (now - st.session_state.get("kiosk_touched", now)))


def start_over() -> None:
    """Forget the visitor: language, photograph, answers."""
    visitor = st.session_state.get("kiosk_visitor", 0)
    for name in [name for name in st.session_state if str(name).startswith("kiosk_")]:
        del st.session_state[name]
    st.session_state["kiosk_visitor"] = visitor + 1


@st.fragment(run_every=1.0)
def idle(say: Messages) -> None:
    """Start over where nobody has touched the page for `IDLE` seconds; say so `WARNING` seconds before."""
    left = seconds_left()
    if left <= 0:
        start_over()
        st.rerun(scope="app")
    if left <= WARNING:
        with st.container(horizontal=True, vertical_alignment="center"):
            st.warning(say("idle", seconds=round(left)), icon=":material/timer:")
            st.button(say("stay"), on_click=touched, key=key("stay"), type="primary")
