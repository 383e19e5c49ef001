"""The article's whole study: start it with one button, watch its progress, and read its results."""

import streamlit as st

from core.article.plan import ArticleSpec
from dashboard import data, words
from dashboard.forms import network_choices
from dashboard.forms import study as study_form
from dashboard.parts import components
from dashboard.parts import study as study_view


def show_form() -> None:
    """Open the form."""
    st.query_params["tab"] = "New study"


def copy_settings(spec: ArticleSpec) -> None:
    """Open the form with a study's settings in its fields."""
    study_form.FORM.put(study_form.draft_of(spec))
    network_choices.warn_of_changes(spec.networks)
    st.query_params["dataset"] = spec.dataset
    show_form()


def pick_study() -> str | None:
    """Return the study that the reader chooses, or None (and what to do) where there is none."""
    wanted = st.query_params.get("study")
    known = {study.id: study for study in data.studies()}
    if wanted and wanted not in known and wanted.startswith("article-"):
        st.info("This study is being recorded.", icon=":material/hourglass_top:")
        components.rerun_once(lambda: data.study(wanted) is not None)
        return None
    if not known:
        st.info("The article's study has not been submitted yet.", icon=":material/nights_stay:")
        st.caption(
            "One submission does it all, in the order that things depend on each other: the SVD sweep, the "
            "reconstruction at the k that it chooses, every network trained on original and reconstructed images, "
            "Algorithm 2 on each, and the resize comparison. It goes on by itself, over a night or a restart."
        )
        st.button("New study", type="primary", icon=":material/add:", on_click=show_form)
        return None
    return components.url_choice(
        st.selectbox,
        "Study",
        list(known),
        param="study",
        format_func=lambda study: (
            f"{components.moment(known[study].submitted_at)} · {words.shortened(known[study].dataset, 40)}"
        ),
    )


def show(study: str) -> None:
    """Show one study: its status, results and settings."""
    state = data.study(study)
    if state is None:
        return
    synthetic_names = data.datasets().set_index("name")["synthetic"]
    with st.container(horizontal=True, vertical_alignment="center"):
        name = words.escaped(words.shortened(state.spec.dataset, 60))
        synthetic = f" {components.SYNTHETIC}" if synthetic_names.get(state.spec.dataset, False) else ""
        networks = ", ".join(network.name for network in state.spec.networks)
        st.markdown(f"**{name}**{synthetic} · {words.escaped(networks)}")
        components.copy_button("study", copy_settings, state.spec)
    if state.ended:
        study_view.ended(state)
    else:
        study_view.live(study)
    study_view.settings(state)


view = components.view(["Study", "New study"])
with components.sentences():
    if view == "New study":
        with st.container(border=True):
            study_form.form()
        st.stop()
    chosen = pick_study()
    if chosen is not None:
        show(chosen)
