"""The dashboard's server: Streamlit over `app.py`, its guard, and the few routes beside the pages.

`python -m dashboard` starts it; by hand, from the project's folder: `python -m streamlit run dashboard/server.py`.
"""

from __future__ import annotations

from pathlib import Path

import streamlit as st
from starlette.middleware import Middleware

from dashboard import metrics
from dashboard.guard import ROUTES, Guard

app = st.App(Path(__file__).with_name("app.py"), routes=[*ROUTES, *metrics.ROUTES], middleware=[Middleware(Guard)])
