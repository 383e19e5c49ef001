"""How fast pages are over a large store, in a real browser: `python -m benchmarks.pages`.

The store holds 100 sweeps of 10,000 images × 6 k (about 1 GB, in a temporary folder, or kept with --store). Each page
is opened in a fresh headless Chromium tab several times. First content is the time until the page's own heading and
its first element below stand; an interaction is the time from a click until Streamlit has run the page again.
Needs Chromium or Chrome on the path; the first visit after the dashboard's start, which imports it, is not counted.
"""

from __future__ import annotations

import argparse
import os
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

from playwright.sync_api import Browser, Page, sync_playwright

from benchmarks.large_store import DATASET, fill_store
from benchmarks.workers import write_images
from core.settings import Settings
from core.store import Store
from jobs.server import running_server

FIRST_CONTENT, INTERACTION, SLIDER_STEP = 1.5, 0.7, 0.5  # seconds, promised
SLIDER = "a step of the slider"
PHOTOGRAPHS = "photographs"  # a few images that are really there, for the inspector
VISITS = 5
ROOT = Path(__file__).resolve().parents[1]
FLAGS = ("--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update")
IDLE = "document.querySelector('[data-testid=stApp]')?.dataset.testScriptState === 'notRunning'"
DRAWN = (
    "[...document.querySelectorAll('[data-testid=stPlotlyChart]')].every(chart => chart.querySelector('svg.main-svg'))"
)
READING = 2500  # milliseconds between a page's last chart, which the browser still lays out, and a first click
BELOW_HEADING = (
    "(() => { const blocks = document.querySelectorAll('[data-testid=stMain] [data-testid=stElementContainer]');"
    " return document.querySelector('[data-testid=stMain] h1') && blocks.length > 1 })()"
)


def choose(text: str) -> Callable[[Page], None]:
    """Return an interaction: choose this option of a segmented control."""
    return lambda page: page.get_by_role("radio", name=text, exact=True).first.click()


def step_of_slider(page: Page) -> None:
    """Move the inspector's slider to the next smaller k."""
    slider = page.get_by_role("slider").first
    slider.focus()
    slider.press("ArrowLeft")


# page -> path, and the interactions tried on it
PAGES: dict[str, tuple[str, dict[str, Callable[[Page], None]]]] = {
    "overview": ("", {}),
    "data sets": (f"datasets?dataset={DATASET}", {}),
    "sweep": ("sweeps", {"another rule": choose("Knee"), "worst images at k = 100": choose("100")}),
    "resize study": ("resize", {}),
    "inspector": (f"inspector?dataset={PHOTOGRAPHS}", {SLIDER: step_of_slider}),
    "jobs": ("jobs", {}),
    "networks": ("networks", {}),
    "curves": ("curves", {"MACs": choose("MACs")}),
}


def wait_for_run(page: Page) -> None:
    """Wait until Streamlit has noticed the last click and has run the page again."""
    page.wait_for_timeout(30)
    page.wait_for_function(IDLE, timeout=30_000)


def visit(browser: Browser, url: str, interactions: dict[str, Callable[[Page], None]]) -> dict[str, float]:
    """Open a page in a tab of its own; return seconds of first content and of each interaction."""
    page = browser.new_page(viewport={"width": 1400, "height": 900})
    try:
        started = time.perf_counter()
        page.goto(url, wait_until="commit")
        page.wait_for_function(BELOW_HEADING, timeout=30_000)
        found = {"first content": time.perf_counter() - started}
        wait_for_run(page)
        page.wait_for_function(DRAWN, timeout=30_000)
        found["complete"] = time.perf_counter() - started
        page.wait_for_timeout(READING)
        for name, act in interactions.items():
            started = time.perf_counter()
            act(page)
            wait_for_run(page)
            found[name] = time.perf_counter() - started
        return found
    finally:
        page.close()


def measure(address: str, browser: Browser) -> bool:
    """Print every page's median times; return whether all promises were kept."""
    kept = True
    for name, (path, interactions) in PAGES.items():
        visit(browser, f"{address}/{path}", {})  # imports and caches
        visits = [visit(browser, f"{address}/{path}", interactions) for _ in range(VISITS)]
        for what in visits[0]:
            seconds = statistics.median(each[what] for each in visits)
            bound = {"first content": FIRST_CONTENT, "complete": None, SLIDER: SLIDER_STEP}.get(what, INTERACTION)
            if bound is None:
                verdict = ""
            else:
                kept &= seconds < bound
                verdict = f"promised {bound} s: {'kept' if seconds < bound else 'NOT KEPT'}"
            print(f"{name:14} {what:26} {seconds:6.2f} s  {verdict}")
    return kept


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.pages", description=__doc__)
    parser.add_argument("--store", type=Path, help="folder to keep the large store in, used again when it is there")
    options = parser.parse_args()
    chromium = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if chromium is None:
        print("pages not measured: expected chromium or google-chrome on the path; found neither")
        return 0
    with tempfile.TemporaryDirectory() as name:
        settings = Settings(options.store or Path(name), (Path(name),))
        settings.data_dir.mkdir(parents=True, exist_ok=True)
        if not settings.database.exists():
            fill_store(settings.database, sweeps=100, images=10_000)
        photographs = write_images(Path(name) / PHOTOGRAPHS, 2)
        Store(settings.database).record_dataset(photographs, datetime.now(UTC))
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        with running_server(settings) as url, sync_playwright() as playwright:
            environment = {**os.environ, "DATA_DIR": str(settings.data_dir), "DATA_ROOTS": name, "REDIS_URL": url}
            command = [sys.executable, "-m", "streamlit", "run", "dashboard/server.py", f"--server.port={port}"]
            dashboard = subprocess.Popen([*command, "--server.headless=true"], cwd=ROOT, env=environment)
            try:
                browser = playwright.chromium.launch(executable_path=chromium, args=list(FLAGS))
                _wait_for_port(port)
                return 0 if measure(f"http://127.0.0.1:{port}", browser) else 1
            finally:
                dashboard.terminate()
                dashboard.wait()


def _wait_for_port(port: int) -> None:
    for _ in range(300):
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.1)
    raise TimeoutError(f"expected the dashboard at port {port} within 30 s")


if __name__ == "__main__":
    sys.exit(main())
