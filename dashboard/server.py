"""The dashboard's server: Streamlit over `app.py`, its guard, and the few routes beside the pages.

`python -m dashboard` starts it; by hand, from the project's folder: `python -m streamlit run dashboard/server.py`.
"""

from __future__ import annotations

import logging
from pathlib import Path

import streamlit as st
from starlette.middleware import Middleware

from core.errors import SpecError
from core.private import keep_new_files_private, tighten
from core.settings import Settings
from dashboard import metrics
from dashboard.guard import ROUTES, Guard

keep_new_files_private()
try:
    for sentence in tighten(Settings.from_environment()):
        logging.getLogger(__name__).warning("%s", sentence)
except (SpecError, OSError) as error:  # pages say it too
    logging.getLogger(__name__).error("%s", error)

app = st.App(Path(__file__).with_name("app.py"), routes=[*ROUTES, *metrics.ROUTES], middleware=[Middleware(Guard)])
