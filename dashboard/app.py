"""The dashboard's entry point: the pages, and the elements above each of them. Run it with `python -m dashboard`."""

from pathlib import Path

import streamlit as st

from dashboard.access import users as access
from dashboard.parts import components

HERE = Path(__file__).parent

st.set_page_config(page_title="DermSlim", page_icon=str(HERE / "icon.svg"), layout="wide")
st.logo(str(HERE / "logo.svg"), size="large")
access.require_user()

page = st.navigation(
    {
        "": [
            st.Page(
                "app_pages/overview.py",
                title="Overview",
                icon=":material/home:",
                default=True,
                help="Running and recently finished work, and the headline figures.",
            ),
            st.Page(
                "app_pages/datasets.py",
                title="Data sets",
                icon=":material/photo_library:",
                help="Register folders of images; classes, sizes, metadata, and files left out with the reasons.",
            ),
        ],
        "Compression": [
            st.Page(
                "app_pages/sweeps.py",
                title="SVD sweeps",
                icon=":material/query_stats:",
                help="Measure a data set at several k, and decide how many singular values to keep.",
            ),
            st.Page(
                "app_pages/resize.py",
                title="Resize comparison",
                icon=":material/aspect_ratio:",
                help="Compare original and reconstruction at the input sizes of the networks.",
            ),
            st.Page(
                "app_pages/inspector.py",
                title="Image inspector",
                icon=":material/compare:",
                help="One image, original beside reconstruction, at any k.",
            ),
        ],
        "Networks": [
            st.Page(
                "app_pages/networks.py",
                title="Networks",
                icon=":material/account_tree:",
                help="The four networks and your own: layers, parameters, and the effect of the image size.",
            ),
            st.Page(
                "app_pages/curves.py",
                title="Parameter curves",
                icon=":material/trending_down:",
                help="The parameters left after each pruning iteration, with fitted models.",
            ),
        ],
        "Training": [
            st.Page(
                "app_pages/study.py",
                title="Whole study",
                icon=":material/nights_stay:",
                help="The article's study from sweep to pruned networks in one submission, and its summary.",
            ),
            st.Page(
                "app_pages/prune_train.py",
                title="Prune and train",
                icon=":material/model_training:",
                help="Train networks, prune them step by step with Algorithm 2, and compare the results.",
            ),
        ],
        "Results": [
            st.Page(
                "app_pages/tables.py",
                title="Tables",
                icon=":material/table_chart:",
                help="Tables 4, 5 and 6 of the article: measured, printed, and the difference.",
            ),
            st.Page(
                "app_pages/claims.py",
                title="Claims",
                icon=":material/rule:",
                help="Each claim of the article: reproduced, not reproduced, or not measured yet.",
            ),
            st.Page("app_pages/run.py", title="Run", icon=":material/tag:", visibility="hidden"),
        ],
        "Work": [
            st.Page(
                "app_pages/jobs.py",
                title="Jobs",
                icon=":material/view_list:",
                help="Queued, running and finished runs; logs, workers, cancel and retry.",
            ),
            st.Page(
                "app_pages/maintenance.py",
                title="Maintenance",
                icon=":material/build:",
                help="Health checks, disk usage, what can be deleted, backups.",
            ),
        ],
    },
    expanded=True,
)

components.health_banner()
st.title(page.title)
components.show_outcome()
with components.sentences():  # of a store that cannot be read, wherever a page reads it
    page.run()
