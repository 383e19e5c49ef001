"""The dashboard's server: Streamlit over `app.py`, its guard, and the few routes beside the pages.

`python -m dashboard` starts it; by hand, from the project's folder: `python -m streamlit run dashboard/server.py`.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import streamlit as st
import streamlit.logger
from starlette.middleware import Middleware

from core.errors import SpecError
from core.files.private import keep_new_files_private, tighten
from core.settings import Settings
from dashboard.access import metrics_route as metrics
from dashboard.access.guard import ROUTES, Guard
from jobs import logs

keep_new_files_private()
try:
    for sentence in tighten(Settings.from_environment()):
        logging.getLogger(__name__).warning("%s", sentence)
except (SpecError, OSError) as error:  # pages say it too
    logging.getLogger(__name__).error("%s", error)


@asynccontextmanager
async def lifespan(app: st.App) -> AsyncIterator[dict[str, Any]]:
    """Log as the other processes do, from the first request on."""
    try:
        logs.set_up("dashboard", Settings.from_environment())
    except SpecError as error:  # the pages say it too
        logging.getLogger(__name__).error("%s", error)
    else:
        for logger in map(logging.getLogger, list(logging.root.manager.loggerDict)):
            to_the_root(logger)
        streamlit.logger.setup_formatter = to_the_root  # of modules that are loaded later
    yield {}


def to_the_root(logger: logging.Logger) -> None:
    """Send the lines of Streamlit and uvicorn to the root logger, which escapes texts from requests."""
    if logger.name.partition(".")[0] in ("streamlit", "uvicorn", "websockets"):
        logger.handlers.clear()
        logger.propagate = True
    if logger.name.startswith("uvicorn"):
        logger.setLevel(logging.WARNING)  # otherwise one line per connection


pages = Path(__file__).with_name("app.py")
app = st.App(pages, routes=[*ROUTES, *metrics.ROUTES], middleware=[Middleware(Guard)], lifespan=lifespan)
