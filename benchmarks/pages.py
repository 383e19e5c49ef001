"""How fast pages are with a large store, in a real browser: `python -m benchmarks.pages`.

The store has 100 sweeps of 10,000 images × 6 k and a study of 100 trainings and 100 prunings, in all 1,100 steps of
75 epochs with 1,460 predictions each (in a temporary folder, or in the folder of --store). Each page is opened several
times in a new tab of headless Chromium. First content is the time until the page's heading and the first element below
it are shown. An interaction is the time from a click until Streamlit has run the page again. Then a real worker trains
a small network with another store, and the time from the end of each epoch until its point is on the open page is
measured (--only live, or pages). This needs Chromium or Chrome on the path. The first visit after the dashboard's
start, which imports modules, is not counted. The load of the machine is printed, because it influences the times.
"""

from __future__ import annotations

import argparse
import os
import shutil
import socket
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

from playwright.sync_api import Browser, Page, sync_playwright

from benchmarks.large_store import DATASET, fill_store, fill_trainings
from benchmarks.processes import Process
from benchmarks.workers import workers, write_images
from core.data.datasets import load_dataset
from core.data.demo import create_demo_dataset
from core.networks.architectures import LENET5
from core.settings import Settings
from core.store.measurements import Store
from core.training.specs import TrainingProtocol, TrainSpec
from jobs.queues import Queues
from jobs.server import running_server

FIRST_CONTENT, INTERACTION, SLIDER_STEP, LIVE = 1.5, 0.7, 0.5, 2.0  # seconds, targets
SLIDER = "a step of the slider"
PHOTOGRAPHS = "photographs"  # a few images that exist as files, for the inspector
VISITS = 5
ROOT = Path(__file__).resolve().parents[1]
FLAGS = ("--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update")
IDLE = "document.querySelector('[data-testid=stApp]')?.dataset.testScriptState === 'notRunning'"
DRAWN = (
    "[...document.querySelectorAll('[data-testid=stPlotlyChart]')].every(chart => chart.querySelector('svg.main-svg'))"
)
LIVE_TRAINING = TrainingProtocol(epochs=20, batch_size=8, height=96, width=128)  # about two seconds per epoch
# JavaScript: whether a chart of the page has a line with at least `count` points.
POINTS = """count => [...document.querySelectorAll('[data-testid=stPlotlyChart] .js-plotly-plot')].some(
    chart => (chart.data || []).some(trace => (trace.x?._inputArray ?? trace.x)?.length >= count))"""
READING = 2500  # milliseconds between the last chart of a page, which the browser still lays out, and the first click
BELOW_HEADING = (
    "(() => { const blocks = document.querySelectorAll('[data-testid=stMain] [data-testid=stElementContainer]');"
    " return document.querySelector('[data-testid=stMain] h1') && blocks.length > 1 })()"
)


def choose(text: str) -> Callable[[Page], None]:
    """Return an interaction: choose this option of a segmented control."""
    return lambda page: page.get_by_role("radio", name=text, exact=True).first.click()


def press(text: str) -> Callable[[Page], None]:
    """Return an interaction: press this button or pill."""
    return lambda page: page.get_by_test_id("stMain").get_by_role("button", name=text, exact=True).first.click()


def unfold(text: str) -> Callable[[Page], None]:
    """Return an interaction: open the expander with this text."""
    return lambda page: page.locator("summary").filter(has_text=text).click()


def choose_second(page: Page) -> None:
    """Choose the second option of the open list."""
    page.get_by_role("option").nth(1).click()


def open_list_of_steps(page: Page) -> None:
    """Open the list of a training's steps; wait first, because the list closes while the page still scrolls."""
    steps = page.get_by_role("combobox", name="Step", exact=True)
    steps.scroll_into_view_if_needed()
    page.wait_for_timeout(500)
    steps.click()


def step_of_slider(page: Page) -> None:
    """Move the inspector's slider to the next smaller k."""
    slider = page.get_by_role("slider").first
    slider.focus()
    slider.press("ArrowLeft")


# Interaction -> what is done before it and not timed.
one_area = press("SVD")
BEFORE: dict[Callable[[Page], None], Callable[[Page], None]] = {
    choose_second: open_list_of_steps,
    one_area: unfold("Areas, statuses"),
}
# page -> path, and its timed interactions
PAGES: dict[str, tuple[str, dict[str, Callable[[Page], None]]]] = {
    "overview": ("", {}),
    "data sets": (f"datasets?dataset={DATASET}", {}),
    "sweep": ("sweeps?run={sweep}", {"another rule": choose("Knee"), "worst images at k = 100": choose("100")}),
    "resize comparison": ("resize", {}),
    "inspector": (f"inspector?dataset={PHOTOGRAPHS}", {SLIDER: step_of_slider}),
    "jobs": ("jobs", {}),
    "networks": ("networks", {}),
    "curves": ("curves", {"MACs": choose("MACs")}),
    "prune and train": (
        "prune_train",
        {"balanced accuracy": choose("Balanced test accuracy"), "another step": choose_second},
    ),
    "predictions": ("prune_train?run={pruning}&part=Predictions", {"lost and gained": choose("Lost and gained")}),
    "hard images": ("prune_train?run={pruning}&part=Predictions&show=Hard+images", {}),
    "compare": ("prune_train?tab=Compare", {}),
    "tables": ("tables", {"only originals": press("original")}),
    "claims": ("claims", {"one area": one_area}),
    "run": ("run?run={pruning}", {"confusion matrices": choose("Confusion")}),
    "study": ("study", {"the form": choose("New study")}),
}


def wait_for_run(page: Page) -> None:
    """Wait until Streamlit has noticed the last click and has run the page again."""
    page.wait_for_timeout(30)
    page.wait_for_function(IDLE, timeout=30_000)


def visit(browser: Browser, url: str, interactions: dict[str, Callable[[Page], None]]) -> dict[str, float]:
    """Open a page in a new tab; return the seconds of first content and of each interaction."""
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
            if act in BEFORE:
                BEFORE[act](page)
            started = time.perf_counter()
            act(page)
            wait_for_run(page)
            found[name] = time.perf_counter() - started
        return found
    finally:
        page.close()


def measure(address: str, browser: Browser, ids: Mapping[str, str]) -> bool:
    """Print every page's median times; return whether all targets were met. ids: the runs that pages show."""
    met = True
    for name, (pattern, interactions) in PAGES.items():
        path = pattern.format(**ids)
        visit(browser, f"{address}/{path}", {})  # imports and caches
        visits = [visit(browser, f"{address}/{path}", interactions) for _ in range(VISITS)]
        for what in visits[0]:
            seconds = statistics.median(each[what] for each in visits)
            bound = {"first content": FIRST_CONTENT, "complete": None, SLIDER: SLIDER_STEP}.get(what, INTERACTION)
            met &= report(f"{name:16} {what}", seconds, bound)
    return met


def report(what: str, seconds: float, bound: float | None) -> bool:
    """Print a time with the load of the machine; return whether it is below the bound."""
    met = bound is None or seconds < bound
    verdict = "" if bound is None else f"target {bound} s: {'met' if met else 'MISSED'}"
    print(f"{what:42} {seconds:6.2f} s  {verdict:28} load {os.getloadavg()[0]:.1f}", flush=True)
    return met


def measure_pages(browser: Browser, kept_store: Path | None) -> bool:
    """Time every page with the large store; return whether all targets were met."""
    with tempfile.TemporaryDirectory() as name:
        settings = Settings(kept_store or Path(name), (Path(name),))
        ids = fill(settings, Path(name))
        with running_server(settings), dashboard(settings) as address:
            return measure(address, browser, ids)


def fill(settings: Settings, folder: Path) -> dict[str, str]:
    """Fill the store if it is empty, and write the inspector's photographs; return the ids of runs to open."""
    settings.data_dir.mkdir(parents=True, exist_ok=True)
    if not settings.database.exists():
        fill_trainings(settings.database, seeds=25)
        fill_store(settings.database, sweeps=100, images=10_000)
    store = Store(settings.database)
    store.record_dataset(write_images(folder / PHOTOGRAPHS, 2), datetime.now(UTC))
    sweep, pruning = store.runs("svd-sweep", "finished", DATASET), store.runs("prune-train", "finished")
    return {"sweep": sweep[0].id, "pruning": pruning[0].id}


def measure_live(browser: Browser) -> bool:
    """Time a training's epochs from their ends to their points on the page; return whether the target was met."""
    with tempfile.TemporaryDirectory() as name:
        settings = Settings(Path(name) / "data", (Path(name),))
        settings.data_dir.mkdir()
        found = load_dataset(create_demo_dataset(Path(name) / "images"), name="demo")
        with running_server(settings), dashboard(settings) as address, workers(settings, "record", "train"):
            queues = Queues(settings)
            queues.register(found)
            spec = TrainSpec(dataset=found.name, network=LENET5, training=LIVE_TRAINING)
            run_id = queues.submit(spec, found).run_id
            page = browser.new_page(viewport={"width": 1400, "height": 900})
            page.goto(f"{address}/prune_train?run={run_id}", wait_until="commit")
            seen = []
            for epoch in range(1, LIVE_TRAINING.epochs):  # after the last epoch the page shows the results
                page.wait_for_function(POINTS, arg=epoch, timeout=300_000)
                seen.append(time.time())
            page.close()
            for state in queues.wait(run_id):
                last = state
            epochs = Store(settings.database).epochs([run_id]) if last.status == "finished" else None
    if epochs is None:
        raise RuntimeError(f"expected the training to finish, got {last.status}: {last.error}")
    ends = [each.timestamp() for each in epochs["ended_at"]]
    delays = sorted(at - end for at, end in zip(seen, ends[: len(seen)], strict=True))
    report("live curve       an epoch's point, median", statistics.median(delays), None)
    return report("live curve       the slowest epoch's point", delays[-1], LIVE)


def free_port() -> int:
    """Return a free port."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def dashboard(settings: Settings) -> Iterator[str]:
    """Run only the dashboard on a data folder; give its address."""
    port = free_port()
    environment = {
        **os.environ,
        "DATA_DIR": str(settings.data_dir),
        "DATA_ROOTS": os.pathsep.join(map(str, settings.data_roots)),
        "REDIS_URL": str(settings.redis_url),
    }
    command = [sys.executable, "-m", "streamlit", "run", "dashboard/server.py", f"--server.port={port}"]
    command += ["--server.headless=true", "--server.fileWatcherType=none"]  # as the launcher starts it
    process = Process(command, cwd=ROOT, env=environment)
    try:
        _wait_for_port(port)
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait()


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.pages", description=__doc__)
    parser.add_argument("--store", type=Path, help="folder of the large store, which is reused if it exists")
    parser.add_argument("--only", choices=("pages", "live"), help="one of the two parts")
    options = parser.parse_args()
    chromium = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if chromium is None:
        print("pages not measured: expected chromium or google-chrome on the path; found neither")
        return 0
    met = True
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=list(FLAGS))
        if options.only != "live":
            met &= measure_pages(browser, options.store)
        if options.only != "pages":
            met &= measure_live(browser)
        browser.close()
    return 0 if met else 1


def _wait_for_port(port: int) -> None:
    for _ in range(300):
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.1)
    raise TimeoutError(f"expected the dashboard at port {port} within 30 s")


if __name__ == "__main__":
    sys.exit(main())
