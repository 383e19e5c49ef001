"""The dashboard's entry point: the pages, and the elements above each of them. Run it with `python -m dashboard`."""

from pathlib import Path
from urllib.parse import urlsplit

import streamlit as st

from core.errors import SpecError
from dashboard import data
from dashboard.access import users as access
from dashboard.parts import components

HERE = Path(__file__).parent

# Section → its pages: file in app_pages/, title, icon, help.
PAGES = {
    "": (
        ("overview", "Overview", "home", "Running and recently finished work, and the headline figures."),
        ("tour", "Guided tour", "tour", "The whole in six steps: a photograph, its bytes, a network, its answer."),
        ("datasets", "Data sets", "photo_library", "Register folders of images; see classes, sizes, files left out."),
    ),
    "Compression": (
        ("sweeps", "SVD sweeps", "query_stats", "Measure a data set at several k and choose k."),
        ("resize", "Resize comparison", "aspect_ratio", "Compare originals and reconstructions at the input sizes."),
        ("diagnosis", "Effect on diagnosis", "stethoscope", "What a network predicts of compressed images."),
        ("inspector", "Image inspector", "compare", "One image, original beside reconstruction, at any k."),
    ),
    "Networks": (
        ("networks", "Networks", "account_tree", "The four networks and yours: layers and parameters at any size."),
        ("curves", "Parameter curves", "trending_down", "Parameters left after each pruning iteration, with fits."),
    ),
    "Training": (
        ("study", "Whole study", "nights_stay", "All runs of the article in one submission, and their summary."),
        ("prune_train", "Prune and train", "model_training", "Train networks, prune them, and compare the results."),
    ),
    "Devices": (("deploy", "Deploy", "memory", "Networks as LiteRT and ONNX files: verified, measured, bundled."),),
    "Results": (
        ("tables", "Tables", "table_chart", "Tables 4, 5 and 6 of the article: measured, printed, and the difference."),
        ("claims", "Claims", "rule", "Each claim of the article: reproduced, not reproduced, or not measured yet."),
    ),
    "Work": (
        ("jobs", "Jobs", "view_list", "Queued, running and finished runs; logs, workers, cancel and retry."),
        ("maintenance", "Maintenance", "build", "Health checks, disk usage, what can be deleted, backups."),
    ),
}

st.set_page_config(page_title="DermSlim", page_icon=str(HERE / "icon.svg"), layout="wide")
st.logo(str(HERE / "logo.svg"), size="large")
access.require_user()

KIOSK = "app_pages/kiosk.py"


def only_kiosk() -> bool:
    """Return whether this dashboard serves the kiosk alone."""
    try:
        return data.settings().kiosk
    except SpecError:  # the pages say it
        return False


kiosk = st.Page(KIOSK, title="Kiosk", icon=":material/touch_app:", visibility="hidden")


def home() -> None:
    """Lead to the kiosk, at its own address."""
    st.switch_page(kiosk)


if only_kiosk():
    st.navigation([st.Page(home, title="DermSlim", default=True), kiosk], position="hidden").run()
    st.stop()

sections = {
    section: [
        st.Page(f"app_pages/{name}.py", title=title, icon=f":material/{icon}:", help=text, default=name == "overview")
        for name, title, icon, text in pages
    ]
    for section, pages in PAGES.items()
}
sections["Results"].append(st.Page("app_pages/run.py", title="Run", icon=":material/tag:", visibility="hidden"))
sections["Devices"].append(kiosk)
if urlsplit(st.context.url or "").path.endswith("/kiosk"):
    st.navigation(sections, position="hidden").run()
    st.stop()
page = st.navigation(sections, expanded=True)

components.health_banner()
st.title(page.title)
components.show_outcome()
with components.sentences():  # of a store that cannot be read, wherever a page reads it
    page.run()
