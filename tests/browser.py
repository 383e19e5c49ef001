"""Shared by the tests in a real browser: the whole stack with a small demo, Chromium, and the accessibility rules."""

from __future__ import annotations

import re
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from os import environ
from pathlib import Path
from typing import Any

import psutil
from axe_playwright_python.sync_playwright import Axe
from laboratory import ROOT
from playwright.sync_api import Browser, ConsoleMessage, Locator, Page, Request, sync_playwright
from playwright.sync_api import Error as PlaywrightError

from benchmarks.processes import Process
from core.runs import Run
from core.settings import Settings
from core.store.measurements import Store
from dashboard.demo import NAME as DEMO
from jobs.queues import Queues

FLAGS = (
    "--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update",
    "--use-fake-device-for-media-stream",  # a camera with a moving picture; pages still need the permission
)  # fmt: skip
DEMO_IMAGES = 48
STARTED_WITHIN = 180  # seconds; a cold start on an idle machine takes about ten
FINISHED_WITHIN = 600  # seconds that a run of the demo, or a test's own, may take
PATIENCE = 60_000  # milliseconds to wait for an expected element
DESKTOP, PHONE = {"width": 1400, "height": 900}, {"width": 390, "height": 844}
KIOSK = {"width": 1080, "height": 1920}  # an upright screen
FAILURES = ROOT / "test-results"

# Streamlit has run the page to its end, and the page shows its heading and something below it.
SHOWN = """
    document.querySelector('[data-testid=stApp]')?.dataset.testScriptState === 'notRunning'
    && document.querySelector('[data-testid=stMain] h1')
    && document.querySelectorAll('[data-testid=stMain] [data-testid=stElementContainer]').length > 1
    && !document.querySelector('[data-testid=stMain] [data-stale=true]')
    && [...document.querySelectorAll('[data-testid=stPlotlyChart]')].every(chart => chart.querySelector('svg.main-svg'))
"""
# Streamlit's script looks for the server first below the page's address and then above it; the first request fails.
ALLOWED_ERROR = re.compile(r"http://127\.0\.0\.1:\d+/\w+/_stcore/(health|host-config)")
# Chromium aborts all requests when the machine gets or loses an address on any interface.
NETWORK_CHANGED = "ERR_NETWORK_CHANGED"
# Rule -> selectors that break it and that only Streamlit can fix.
ALLOWED_VIOLATIONS = {
    # The sidebar's list of pages has one <div> per section between <ul> and <li>.
    "list": ("[data-testid=stSidebarNavItems]",),
    "listitem": ("[data-testid=stSidebarNavItems] li",),
    # Every table that is too wide becomes a region with the same name.
    "landmark-unique": ("[role=region][aria-label='Scrollable table']",),
    # A wide table that Streamlit does not detect takes no focus, but Chromium lets the keyboard scroll it.
    "scrollable-region-focusable": ("[data-testid=stTable] > div",),
    # The chosen segment or pill and the value of a slider use the accent colour, which is also the background of white
    # button labels. On the dark page no colour has a contrast of 4.5 in all these places.
    "color-contrast": (
        "[data-testid=stButtonGroup] button[data-selected=true] p",
        "[data-testid=stButtonGroup] button[aria-checked=true] p",
        "[data-testid=stSliderThumbValue] p",
    ),
}


def chromium() -> str:
    """Return the path of Chromium: `CHROMIUM`, else the program on the path. Raises LookupError with instructions."""
    given = environ.get("CHROMIUM")
    found = next(
        filter(None, map(shutil.which, [given] if given else ["chromium", "chromium-browser", "google-chrome"])), None
    )
    if found is None:
        wanted = f"CHROMIUM={given}, which is no program" if given else "no Chromium on the path"
        raise LookupError(f"{wanted}; on Debian: apt-get install chromium, elsewhere: CHROMIUM=/path/to/chrome")
    return found


@dataclass
class Stack:
    """The stack that `make demo` starts, with few images, on its own port and data folder.

    Its `svd` and `train` workers start only with `start_workers`: until then submitted runs wait.
    """

    url: str
    settings: Settings
    store: Store
    environment: dict[str, str]
    workers: dict[str, list[subprocess.Popen[bytes]]] = field(default_factory=dict)

    def start_workers(self) -> None:
        """Start two `svd` workers and a `train` worker if they do not run."""
        for kind in () if self.workers else ("svd", "svd", "train"):
            with (self.settings.data_dir / f"{kind}.log").open("a") as log:
                process = Process(
                    [sys.executable, "-m", "jobs.worker", kind],
                    cwd=ROOT,
                    env=self.environment,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                )
            self.workers.setdefault(kind, []).append(process)

    def stop_workers(self) -> None:
        """End the workers."""
        processes = [process for started in self.workers.values() for process in started]
        for process in processes:
            process.terminate()
        for process in processes:
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:  # in the middle of an epoch or an image
                process.kill()
                process.wait()

    @contextmanager
    def suspended(self, kind: str) -> Iterator[None]:
        """Suspend the workers of a queue and the processes of their jobs inside the block."""
        workers = [psutil.Process(process.pid) for process in self.workers[kind]]
        try:
            for worker in workers:
                worker.suspend()  # first, so that it starts no new job
            for child in (child for worker in workers for child in worker.children(recursive=True)):
                with suppress(psutil.NoSuchProcess):  # it has just ended its job
                    child.suspend()
            yield
        finally:
            for process in (*(child for worker in workers for child in worker.children(recursive=True)), *workers):
                with suppress(psutil.NoSuchProcess):
                    process.resume()

    def state(self, run_id: str) -> Run:
        """Return the state of a run in store and queue."""
        state = Queues(self.settings).run(run_id)
        assert state is not None, f"expected run {run_id} in the store or the queue"
        return state

    def result(self, kind: str) -> str:
        """Wait for the demo's first run of a kind to finish; return its id."""
        self.start_workers()

        def finished() -> str | None:
            first = next(reversed(self.store.runs(kind, dataset=DEMO)), None)
            return first.id if first is not None and first.status == "finished" else None

        found: str = until(finished, f"the demo's {kind} run to finish")
        return found


def until(found: Callable[[], Any], what: str, seconds: float = FINISHED_WITHIN) -> Any:
    """Call a function until its result is true; return the result."""
    deadline = time.monotonic() + seconds
    while not (answer := found()):
        assert time.monotonic() < deadline, f"expected {what} within {seconds} s"
        time.sleep(0.02)
    return answer


@contextmanager
def demo_stack(folder: Path) -> Iterator[Stack]:
    """Start the launcher with its demo but without workers and wait until its page answers; stop it like Ctrl-C."""
    holder = socket.socket()  # reserves the port; servers that set SO_REUSEADDR can still listen on it
    holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    holder.bind(("127.0.0.1", 0))
    port = holder.getsockname()[1]
    data_dir = folder / "data"
    environment = {**environ, "DATA_DIR": str(data_dir), "DATA_ROOTS": str(folder)}
    for name in ("REDIS_URL", "PORT", "SVD_WORKERS", "TRAIN_WORKERS"):
        environment.pop(name, None)
    launcher = [sys.executable, "-m", "dashboard", "--demo", str(DEMO_IMAGES), "--port", str(port)]
    launcher += ["--svd-workers", "0", "--train-workers", "0"]
    output = folder / "launcher.log"
    with output.open("w") as log:
        process = Process(launcher, cwd=ROOT, env=environment, stdout=log, stderr=subprocess.STDOUT)
    try:
        url = f"http://127.0.0.1:{port}"
        deadline = time.monotonic() + STARTED_WITHIN
        while not answers(f"{url}/_stcore/health"):
            assert process.poll() is None, f"expected the stack to start, got\n{output.read_text()}"
            assert time.monotonic() < deadline, f"expected an answer in {STARTED_WITHIN} s, got\n{output.read_text()}"
            time.sleep(0.1)
        settings = Settings(data_dir, (folder,))
        stack = Stack(url, settings, Store(settings.database, timeout=30), environment)
        try:
            yield stack
        finally:
            stack.stop_workers()
    finally:
        process.send_signal(signal.SIGINT)
        process.wait(60)
        holder.close()


def answers(url: str) -> bool:
    """Return whether an address answers with status 200."""
    try:
        with urllib.request.urlopen(url, timeout=5) as answer:  # noqa: S310 - our own loopback address
            return bool(answer.status == 200)
    except (urllib.error.URLError, ConnectionError, TimeoutError):
        return False


@contextmanager
def launched_browser() -> Iterator[Browser]:
    """Run one headless Chromium."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium(), args=list(FLAGS))
        yield browser
        browser.close()


@dataclass
class Visitor:
    """A user in a browser: opens pages and collects the errors that the browser reports."""

    page: Page
    stack: Stack
    complaints: list[str] = field(default_factory=list)
    network_changes: int = 0

    def __post_init__(self) -> None:
        self.page.on("console", self._said)
        self.page.on("requestfailed", self._failed)
        self.page.on("pageerror", lambda error: self.complaints.append(f"{self.page.url}: {error}"))

    def _said(self, message: ConsoleMessage) -> None:
        place = message.location.get("url", "")
        allowed = ALLOWED_ERROR.fullmatch(place) or NETWORK_CHANGED in message.text
        if message.type == "error" and not allowed:
            self.complaints.append(f"{self.page.url}: {message.text} ({place})")

    def _failed(self, request: Request) -> None:
        self.network_changes += NETWORK_CHANGED in (request.failure or "")

    def open(self, path: str) -> Page:
        """Open a page of the dashboard and wait until it is shown; try again after a change of the network."""
        while True:
            changes = self.network_changes
            try:
                self.page.goto(f"{self.stack.url}/{path}", wait_until="commit")
                self.settle()
            except PlaywrightError as error:
                if changes == self.network_changes and NETWORK_CHANGED not in str(error):
                    raise
            else:
                return self.page

    def download(self, button: Locator) -> tuple[str, bytes]:
        """Press a download button; return the file's name and content.

        After ten files of one page, Chromium asks the user before each further download.
        """
        with self.page.expect_download() as download:
            button.click()
        return download.value.suggested_filename, Path(download.value.path()).read_bytes()

    def settle(self) -> None:
        """Wait until Streamlit has run the page and its charts are drawn."""
        self.page.wait_for_function(SHOWN, timeout=PATIENCE)

    def unfold(self) -> None:
        """Open all expanders."""
        folded = self.page.locator("[data-testid=stMain] details:not([open]) > summary")
        while folded.count():
            folded.first.click()
            self.settle()

    def turn(self, scheme: str) -> None:
        """Switch to the light or dark page, as the setting of the operating system does."""
        page = {"light": "rgb(255, 255, 255)", "dark": "rgb(17, 25, 30)"}[scheme]
        self.page.emulate_media(color_scheme=scheme)  # type: ignore[arg-type]
        self.page.wait_for_function(
            "colour => getComputedStyle(document.querySelector('[data-testid=stApp]')).backgroundColor === colour",
            arg=page,
        )
        self.settle()

    def violations(self, *rules: str) -> list[str]:
        """Return one sentence for each violation of axe-core's rules (by default of all rules).

        The window is made as high as the page, because axe-core ignores elements outside it.
        """
        height = self.page.evaluate("document.querySelector('[data-testid=stMain]').scrollHeight")
        assert self.page.viewport_size is not None
        self.page.set_viewport_size({"width": self.page.viewport_size["width"], "height": height})
        self.settle()
        options: dict[str, Any] = {"resultTypes": ["violations"]}
        found = Axe().run(self.page, options=options | ({"runOnly": list(rules)} if rules else {}))
        sentences = []
        for broken in found.response["violations"]:
            for node in broken["nodes"]:
                selector = node["target"][-1]
                if not self._allowed(broken["id"], selector):
                    reasons = "; ".join(check["message"] for check in (*node["any"], *node["all"], *node["none"]))
                    sentences.append(f"{broken['id']}: {node['html'][:200]} ({reasons})")
        return sentences

    def _allowed(self, rule: str, selector: str) -> bool:
        allowed = ", ".join(ALLOWED_VIOLATIONS.get(rule, ()))
        if not allowed:
            return False
        return bool(
            self.page.evaluate(
                "([selector, allowed]) => document.querySelector(selector)?.matches(allowed) ?? false",
                [selector, allowed],
            )
        )

    def scrolls_sideways(self) -> bool:
        """Return whether the page is wider than the window."""
        return bool(
            self.page.evaluate(
                "[document.scrollingElement, document.querySelector('[data-testid=stMain]')]"
                ".some(part => part.scrollWidth > innerWidth)"
            )
        )
