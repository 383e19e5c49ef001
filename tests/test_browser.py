"""The whole stack in a real browser, as users see it: `make test-browser`.

All tests use one stack. Its workers start with the first test that needs them, so the first test finds the demo
waiting. A test that needs a run under way suspends the workers (`Stack.suspended`).
"""

from __future__ import annotations

import io
import json
import re
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import pytest
from browser import DESKTOP, FAILURES, KIOSK, PATIENCE, PHONE, Stack, Visitor, demo_stack, launched_browser, until
from playwright.sync_api import Browser, Locator, Page, expect

from core.article.evidence import FURTHER
from core.data.datasets import load_dataset
from core.networks.architectures import NETWORKS
from core.networks.costs import curve_table
from core.training.specs import training_spec_from_dict
from dashboard import words
from dashboard.messages import messages
from jobs.__main__ import main as command
from jobs.queues import Queues

pytestmark = [pytest.mark.browser, pytest.mark.timeout(1500)]

UNTIL_TRAINED = 600_000  # milliseconds that a training may take
LIVE_WITHIN = 2.0  # seconds from an epoch's end to its point on the page
DEMO_KINDS = ("svd-sweep", "resize-study", "rivals", "prune-train")
KS = "k, the numbers of singular values kept"
# Pages without and with results. The value shows that a page is loaded: the main button of its form, or a part of its
# content.
PAGES = {
    "tour": "A photograph",
    "datasets": "Start a sweep on it",
    "sweeps?tab=New+sweep": "Start the sweep|Open it",
    "resize?tab=New+comparison": "Start the resize comparison|Open it",
    "diagnosis": "New diagnosis",
    "diagnosis?tab=New+diagnosis": "Train a network|Compress and predict.*|Start",  # Start: no image is here
    "inspector": "All metrics",
    "networks": "Layers",
    "curves": "Curves",
    "study": "New study",
    "study?tab=New+study": "Start the whole study",
    "prune_train?tab=New+run": "Start 1 run",
    "maintenance": "All checks",
    "maintenance?tab=Disk": "Caches and leftovers",
    "maintenance?tab=Backups": "Back up now",
}
RESULT_PAGES = {
    "": "Headline figures",
    "tour?step=2": "The same photograph at k",
    "tour?step=3": "What it takes as a file",
    "tour?step=4": "The network shrinks",
    "tour?step=5": "Its answer for the photograph",
    "tour?step=6": "What it means, and how sure it is",
    "sweeps": "Quality against k",
    "resize": "Quality by size",
    "prune_train": "Steps",
    "prune_train?tab=Compare": "Where they differ",
    "tables": "Table 4: training and validation",
    "deploy": "No network of this run has been converted yet.|Size, latency and accuracy",
    "claims": "Choose a row to read the claim in full.*",
    "jobs": "Ended",
    "maintenance?tab=Runs": "Delete",
    "run?run=": "Workers",
}


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """Give the demo's stack with few images."""
    with demo_stack(tmp_path_factory.mktemp("browser")) as started:
        yield started


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with launched_browser() as launched:
        yield launched


@pytest.fixture
def visitor(browser: Browser, stack: Stack, request: pytest.FixtureRequest) -> Iterator[Visitor]:
    """Give a user whose browser must report no error until the end of the test; a failure saves a screenshot."""
    expect.set_options(timeout=PATIENCE)
    context = browser.new_context(viewport=DESKTOP, color_scheme="light", accept_downloads=True)  # type: ignore[arg-type]
    context.set_default_timeout(PATIENCE)
    visitor = Visitor(context.new_page(), stack)
    failed = request.session.testsfailed
    try:
        yield visitor
        assert visitor.complaints == []
    finally:
        if request.session.testsfailed > failed or visitor.complaints:
            FAILURES.mkdir(exist_ok=True)
            visitor.page.screenshot(path=FAILURES / f"{request.node.name}.png", full_page=True)
        context.close()


def main(page: Page) -> Locator:
    return page.get_by_test_id("stMain")


def button(page: Page, name: str | re.Pattern[str]) -> Locator:
    return main(page).get_by_role("button", name=name, exact=True)


def heading(page: Page, name: str) -> Locator:
    return main(page).get_by_role("heading", name=name, exact=True)


def field(page: Page, label: str) -> Locator:
    return (
        main(page)
        .get_by_role("textbox", name=label, exact=True)
        .or_(main(page).get_by_role("spinbutton", name=label, exact=True))
    )


def fill(visitor: Visitor, label: str, text: str) -> None:
    """Type into a field as a user does; Streamlit reads the text when the field loses the focus."""
    box = field(visitor.page, label)
    box.fill(text)
    box.press("Tab")
    visitor.settle()


def run_in_address(page: Page) -> str:
    """Wait until the page's address names a run; return its id."""
    page.wait_for_url(re.compile(r"[?&]run=[\w-]+"))
    return re.search(r"[?&]run=([\w-]+)", page.url)[1]  # type: ignore[index]


def spec_of(visitor: Visitor, run_id: str) -> dict[str, object]:
    """Wait until a run is recorded; return its spec."""
    run = until(lambda: visitor.stack.store.run(run_id), f"run {run_id} in the store")
    spec: dict[str, object] = json.loads(run.spec_json)
    return spec


def assert_accessible(visitor: Visitor, path: str, text: str) -> None:
    """Assert that axe-core finds no violation in light, in dark and on a phone, and that the phone's width suffices."""
    visitor.page.set_viewport_size(PHONE)  # type: ignore[arg-type]
    page = visitor.open(path)
    sight = main(page).get_by_text(re.compile(f"^({text})$")).first
    expect(sight).to_be_visible()
    assert not visitor.scrolls_sideways()
    assert visitor.violations() == []
    page.set_viewport_size(DESKTOP)  # type: ignore[arg-type]
    visitor.unfold()
    expect(sight).to_be_visible()
    assert visitor.violations() == []
    visitor.turn("dark")
    assert visitor.violations("color-contrast") == []


# The start of the demo


def test_the_demo_waits_for_workers_and_is_labelled_synthetic(visitor: Visitor) -> None:
    page = visitor.open("")
    expect(heading(page, "Running now")).to_be_visible(timeout=120_000)
    # A run that has ended is listed too, without this link.
    watched = main(page).get_by_test_id("stVerticalBlock").filter(has=page.get_by_role("link", name="Watch it"))
    of_kind = {kind: watched.filter(has_text=words.RUN_KIND_LABELS[kind]).last for kind in DEMO_KINDS}
    for block in of_kind.values():
        expect(block).to_be_visible()
    expect(main(page).get_by_text("synthetic").first).to_be_visible()
    for warning in ("No svd worker is running", "No train worker is running"):
        expect(page.get_by_text(warning)).to_be_visible()
    visitor.stack.start_workers()
    for warning in ("No svd worker is running", "No train worker is running"):
        expect(page.get_by_text(warning)).to_have_count(0, timeout=120_000)
    expect(of_kind["prune-train"].get_by_text("running")).to_be_visible()
    page.get_by_role("link", name="Data sets").first.click()
    expect(main(page).get_by_text("They show no patient")).to_be_visible()
    expect(main(page).locator("img").first).to_be_visible()


# Pages without results


def test_the_inspector_follows_k_and_the_image(visitor: Visitor) -> None:
    page = visitor.open("inspector?k=100")
    expect(main(page).get_by_text("k = 100 of").first).to_be_visible()
    slider = page.get_by_role("slider").first
    slider.focus()
    slider.press("ArrowLeft")
    expect(main(page).get_by_text("k = 99 of").first).to_be_visible()
    first = main(page).get_by_role("heading", level=2).first.inner_text()
    button(page, "Next").click()
    expect(main(page).get_by_role("heading", level=2).first).not_to_have_text(first)
    visitor.settle()
    page.get_by_role("radio", name="Side by side").click()
    expect(
        main(page).get_by_text("SSIM around each pixel").or_(main(page).get_by_text("SSIM map")).first
    ).to_be_attached()
    page.wait_for_url(re.compile(r"layout=Side"))
    assert "k=99" in page.url


def test_the_curves_follow_the_choices_and_can_be_downloaded(visitor: Visitor) -> None:
    page = visitor.open("curves?iterations=3&factors=50&size=100x75")
    page.get_by_role("radio", name="MACs", exact=True).click()
    expect(main(page).get_by_role("figure", name="MACs of each network against the iteration")).to_be_visible()
    visitor.settle()
    given = pd.read_csv(io.BytesIO(visitor.download(button(page, "Curves, CSV").first)[1]))
    counted = curve_table(tuple(NETWORKS.values()), (50,), tuple(given["scope"].unique()), 3, 100, 75)
    keys = ["network", "scope", "iteration"]
    for name in ("parameters", "macs"):
        assert list(given.sort_values(keys)[name]) == list(counted.sort_values(keys)[name])
    main(page).get_by_role("link", name="Take this point on to a prune-train run").click()
    expect(field(page, "Sizes, rows × columns")).to_have_value("100×75")


@pytest.mark.parametrize("path", PAGES)
def test_a_page_is_accessible_in_light_and_dark_and_on_a_phone(visitor: Visitor, path: str) -> None:
    visitor.stack.start_workers()
    assert_accessible(visitor, path, PAGES[path])


# Sweeps


def test_a_sweep_can_be_submitted_cancelled_and_retried(visitor: Visitor) -> None:
    stack = visitor.stack
    stack.result("svd-sweep")
    page = visitor.open("sweeps?tab=New+sweep")
    fill(visitor, "Seed", "11")  # otherwise these would be the settings of the demo's sweep
    field(page, KS).fill("15, 150, 350")
    with stack.suspended("svd"):
        button(page, "Start the sweep").click()  # at once, because the last typed text must count too
        run_id = run_in_address(page)
        assert spec_of(visitor, run_id)["ks"] == [15, 150, 350]
        expect(main(page).get_by_text(re.compile("48 images to measure|of 48 images"))).to_be_visible()
    until(lambda: stack.state(run_id).done, "a first image")
    with stack.suspended("svd"):
        done = stack.state(run_id).done
        assert 0 < done < 48
        expect(main(page).get_by_text(f"{done} of 48 images")).to_be_visible()
        button(page, "Cancel").click()
        expect(main(page).get_by_text("This run was cancelled with")).to_be_visible()
        # The page reads the store, which gets the end of a run before the queue does.
        until(lambda: stack.state(run_id).status == "cancelled", "the run to be cancelled", 60)
    button(page, re.compile(r"Retry the \d+ missing images?")).click()
    expect(heading(page, "Quality against k")).to_be_visible(timeout=UNTIL_TRAINED)
    run = stack.store.run(run_id)
    assert run is not None
    assert (run.status, run.attempt, run.done, run.failed) == ("finished", 2, 48, 0)
    assert len(stack.store.measurements(run_id)) == 48 * 3


def tab_to(target: Locator) -> None:
    """Press Tab until this element has the focus; it may be drawn again meanwhile and is then found later."""
    expect(target).to_be_visible()
    for _ in range(200):
        target.page.keyboard.press("Tab")
        if target.evaluate_all("found => found.includes(document.activeElement)"):
            return
    raise AssertionError("expected the tabulator to reach what is asked for; it did not in 200 steps")


def press_by_keyboard(page: Page, name: str) -> None:
    """Reach a button with the Tab key and press it."""
    tab_to(button(page, name))
    page.keyboard.press("Enter")


def type_by_keyboard(visitor: Visitor, label: str, text: str) -> None:
    """Reach a field with the Tab key and replace its text."""
    tab_to(field(visitor.page, label))
    visitor.page.keyboard.press("Control+a")
    visitor.page.keyboard.type(text)
    visitor.page.keyboard.press("Enter")
    visitor.settle()


def test_a_sweep_can_be_submitted_cancelled_and_retried_with_the_keyboard_alone(visitor: Visitor) -> None:
    stack = visitor.stack
    stack.result("svd-sweep")
    page = visitor.open("sweeps?tab=New+sweep")
    type_by_keyboard(visitor, KS, "20, 300")
    type_by_keyboard(visitor, "Seed", "7")
    with stack.suspended("svd"):
        press_by_keyboard(page, "Start the sweep")
        run_id = run_in_address(page)
        press_by_keyboard(page, "Cancel")
        expect(main(page).get_by_text("This run was cancelled with")).to_be_visible()
        press_by_keyboard(page, "Retry the 48 missing images")
        expect(button(page, "Cancel")).to_be_visible()
    expect(heading(page, "Quality against k")).to_be_visible(timeout=UNTIL_TRAINED)
    assert set(stack.store.storage(run_id)["k"]) == {20, 300}
    assert spec_of(visitor, run_id)["seed"] == 7


def test_downloaded_files_of_a_sweep_contain_the_rows_of_the_store(visitor: Visitor) -> None:
    run_id = visitor.stack.result("svd-sweep")
    page = visitor.open(f"sweeps?run={run_id}")
    store = visitor.stack.store
    wanted = {
        "Sizes, CSV": store.storage(run_id),
        "Every image and k, CSV": store.measurements(run_id),
    }
    for name, rows in wanted.items():
        given = pd.read_csv(io.BytesIO(visitor.download(button(page, name).first)[1]))
        shared = [column for column in given if column in rows]
        assert shared, name
        assert len(given) == len(rows) > 0, name
        by = [column for column in ("image_id", "k", "variant") if column in shared]
        left, right = (frame[shared].sort_values(by).reset_index(drop=True) for frame in (given, rows))
        pd.testing.assert_frame_equal(left, right, check_dtype=False, rtol=1e-12)
    columns = pd.read_parquet(io.BytesIO(visitor.download(button(page, "Every image and k, Parquet").first)[1]))
    assert len(columns) == len(wanted["Every image and k, CSV"])


# Trainings


def training_form(visitor: Visitor, kind: str, **fields: str) -> Page:
    page = visitor.open("prune_train?tab=New+run")
    page.get_by_role("radio", name=kind).click()
    expect(page.get_by_role("radio", name=kind)).to_be_checked()
    page.get_by_role("radio", name="Quick", exact=True).click()
    expect(field(page, "Sizes, rows × columns")).to_have_value("48×64")
    visitor.settle()
    for label, text in fields.items():
        fill(visitor, label, text)
    return page


def ends_of_epochs(stack: Stack, run_id: str, more_than: int) -> list[pd.Timestamp]:
    """Return the end times of the epochs of a run's first step if there are more than `more_than`, otherwise none."""
    epochs = stack.store.epochs([run_id])
    ends = list(epochs.loc[epochs["step"] == 0, "ended_at"])
    return ends if len(ends) > more_than else []


def test_a_pruning_run_shows_each_epoch_and_then_its_steps(visitor: Visitor) -> None:
    stack = visitor.stack
    stack.result("prune-train")  # otherwise its steps would run first
    page = training_form(
        visitor,
        "Prune and train, Algorithm 2",
        **{"Batch size": "8", "Pruning factors, %": "50", "Epochs": "6", "Pruned networks at most": "1"},
    )
    button(page, "Start 1 run").click()
    run_id = run_in_address(page)
    expect(main(page).get_by_text("being trained").first).to_be_visible(timeout=UNTIL_TRAINED)
    points = """count => [...document.querySelectorAll('[data-testid=stPlotlyChart] .js-plotly-plot')].some(
        chart => (chart.data || []).some(trace => (trace.x?._inputArray ?? trace.x)?.length >= count))"""
    delays: list[float] = []
    shown = 0
    while shown < 5:
        ends = until(partial(ends_of_epochs, stack, run_id, shown), "a further epoch in the store")
        with stack.suspended("train"):  # so that the page is measured without the load of the training
            shown = len(ends)
            page.wait_for_function(points, arg=shown, polling=50)
            delays.append(time.time() - ends[-1].timestamp())
    assert pd.Series(delays).median() <= LIVE_WITHIN, delays
    expect(main(page).get_by_text("Of 1 pruned network")).to_be_visible(timeout=UNTIL_TRAINED)
    expect(button(page, "Cancel at once")).to_have_count(0)
    until(lambda: stack.state(run_id).status == "finished", "the run to be finished", 60)
    steps = stack.store.steps([run_id])
    assert (steps["status"] == "finished").all()
    names = main(page).get_by_test_id("stDataFrame").first.locator("table")
    for name in steps["name"]:
        expect(names).to_contain_text(name)


def test_a_training_is_cancelled_after_an_epoch_and_finishes_when_retried(visitor: Visitor) -> None:
    stack = visitor.stack
    stack.result("prune-train")
    page = training_form(visitor, "Train each network once", **{"Batch size": "8", "Seeds": "5"})
    field(page, "Epochs").fill("30")  # more than are trained while this process sleeps
    button(page, "Start 1 run").click()  # at once, because the last typed text must count too
    run_id = run_in_address(page)
    until(lambda: stack.state(run_id).live.epoch, "a first epoch")
    with stack.suspended("train"):
        epoch = stack.state(run_id).live.epoch
        assert epoch is not None
        assert 0 < epoch < 30
        expect(main(page).get_by_text(f"epoch {epoch} of 30")).to_be_visible()
        button(page, "Cancel after the epoch").click()
        expect(main(page).get_by_text("This run was cancelled with")).to_be_visible()
    button(page, "Go on from the last epoch").click()
    expect(main(page).get_by_text("unpruned, reaches")).to_be_visible(timeout=UNTIL_TRAINED)
    expect(button(page, "Cancel at once")).to_have_count(0)
    assert list(stack.store.epochs([run_id])["epoch"]) == list(range(1, 31))
    run = stack.store.run(run_id)
    assert run is not None
    assert (run.status, run.attempt) == ("finished", 2)
    spec = training_spec_from_dict(spec_of(visitor, run_id))
    assert (spec.training.epochs, spec.training.seed) == (30, 5)


# The demo's results


@pytest.fixture
def finished_demo(stack: Stack) -> dict[str, str]:
    """Wait for the demo's runs; return the id of each kind."""
    return {kind: stack.result(kind) for kind in DEMO_KINDS}


def test_the_headline_figures_of_the_demo_link_to_every_result(finished_demo: dict[str, str], visitor: Visitor) -> None:
    page = visitor.open("")
    expect(heading(page, "Smallest accepted network")).to_be_visible()
    expect(heading(page, "Running now")).to_have_count(0)
    main(page).get_by_role("link", name="Open the run").first.click()
    expect(heading(page, "Quality against k")).to_be_visible()
    visitor.settle()
    worst = heading(page, "Worst images")
    worst.scroll_into_view_if_needed()
    main(page).locator("a[href*='inspector']").first.click()
    expect(heading(page, "All metrics")).to_be_visible()
    page.get_by_role("link", name="Resize comparison").first.click()
    expect(heading(page, "Quality by size")).to_be_visible()
    page.get_by_role("link", name="Prune and train").first.click()
    expect(heading(page, "Steps")).to_be_visible()
    page.get_by_role("link", name="Jobs").first.click()
    expect(heading(page, "Ended")).to_be_visible()


def test_downloaded_tables_equal_the_output_of_the_command(
    finished_demo: dict[str, str], visitor: Visitor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DATA_DIR", str(visitor.stack.settings.data_dir))
    for label, kind, ending in (("CSV", "csv", "csv"), ("Markdown", "markdown", "md"), ("LaTeX", "latex", "tex")):
        folder = tmp_path / kind
        assert command(["tables", "--dataset", "demo", "--format", kind, "--output", str(folder)]) == 0
        for table in ("table4", "table5", "table6", FURTHER):
            buttons = button(visitor.open(f"tables?dataset=demo&table={table}"), label)
            expect(buttons).to_have_count(1)
            name, given = visitor.download(buttons.first)
            assert given.strip()
            assert given == (folder / name).read_bytes()
            assert name.endswith(f".{ending}")


@pytest.mark.parametrize("path", RESULT_PAGES)
def test_a_page_with_results_is_accessible_in_light_and_dark_and_on_a_phone(
    finished_demo: dict[str, str], visitor: Visitor, path: str
) -> None:
    run_id = finished_demo["prune-train"] if path.endswith("run=") else ""
    assert_accessible(visitor, path + run_id, RESULT_PAGES[path])


@pytest.fixture
def kiosk(finished_demo: dict[str, str], visitor: Visitor) -> Visitor:
    """Give a visitor of the kiosk, whose networks the demo has converted by itself."""
    run_id = finished_demo["prune-train"]
    until(lambda: len(visitor.stack.store.conversions([run_id])), "the demo's converted networks")
    return visitor


def begun(visitor: Visitor, language: str) -> Page:
    """Open the kiosk and choose a language."""
    page = visitor.page
    page.goto(f"{visitor.stack.url}/kiosk")
    button(page, messages(language)("language")).click()
    return page


def test_the_kiosk_answers_a_photograph_of_the_camera_and_forgets_it(kiosk: Visitor) -> None:
    kiosk.page.context.grant_permissions(["camera"])
    for size, language in ((DESKTOP, "en"), (KIOSK, "hi"), (PHONE, "mr")):
        say = messages(language)
        kiosk.page.set_viewport_size(size)  # type: ignore[arg-type]
        page = begun(kiosk, language)
        expect(heading(page, say("photograph"))).to_be_visible()
        expect(page.get_by_test_id("stSidebar")).to_be_hidden()
        shutter = page.get_by_test_id("stCameraInputButton")
        expect(shutter).to_be_enabled()
        page.wait_for_function("document.querySelector('video')?.readyState >= 3")  # the camera gives pictures
        shutter.click()
        anyway = main(page).get_by_text(say("use_anyway"))
        expect(anyway.or_(heading(page, say("answers"))).first).to_be_visible()
        if anyway.count():
            anyway.click()
        expect(heading(page, say("answers"))).to_be_visible()
        expect(main(page).get_by_text(say("research")).last).to_be_visible()
        assert not kiosk.scrolls_sideways()
        button(page, say("start_over")).click()
        expect(button(page, messages("en")("language"))).to_be_visible()


def test_the_kiosk_says_why_the_camera_cannot_be_used_and_takes_a_file(kiosk: Visitor, tmp_path: Path) -> None:
    say = messages("en")
    kiosk.page.context.grant_permissions(["clipboard-read"])  # and so not the camera
    page = begun(kiosk, "en")
    expect(main(page).get_by_text(say("camera_refused"))).to_be_visible()
    kiosk.page.context.grant_permissions(["camera"])
    page.add_init_script("navigator.mediaDevices.enumerateDevices = async () => []")
    page = begun(kiosk, "en")
    expect(main(page).get_by_text(say("camera_none"))).to_be_visible()
    main(page).get_by_text(say("file"), exact=True).first.click()
    (tmp_path / "text.png").write_text("no photograph")
    page.locator("input[type=file]").set_input_files(tmp_path / "text.png")
    expect(main(page).get_by_text(say("broken"))).to_be_visible()
    with (tmp_path / "huge.png").open("wb") as file:
        file.truncate(51_000_000 + 2**20)
    page.locator("input[type=file]").set_input_files(tmp_path / "huge.png")
    expect(page.get_by_test_id("stFileChipIconError")).to_be_visible()
    shown = "document.querySelector('[data-testid=stFileUploader]'), '::after'"
    assert say("broken") in page.evaluate(f"getComputedStyle({shown}).content")


def test_names_that_are_numbers_or_markup_are_shown_literally_and_load_nothing(visitor: Visitor) -> None:
    labels = ["0", "1", "2019", "2024-01-05", "<b>x<b>", "a&amp;b", "*x*", " outer ", "www.example.org", ":smile:"]
    folder = visitor.stack.settings.data_roots[0] / "named"
    for place, label in enumerate(labels):
        (folder / label).mkdir(parents=True)
        for number in range(1 + place % 3):
            pixels = np.random.default_rng([place, number]).integers(0, 256, (40, 56, 3), np.uint8)
            assert cv2.imwrite(str(folder / label / f"{place}_{number} ![](https:example.org).png"), pixels)
    queues = Queues(visitor.stack.settings)
    queues.register(load_dataset(folder))
    until(lambda: "named" in set(visitor.stack.store.datasets()["name"]), "the data set in the store")
    elsewhere: list[str] = []
    visitor.page.on("request", lambda request: elsewhere.append(request.url))
    page = visitor.open("datasets?dataset=named&view=Images")
    captions = main(page).get_by_test_id("stCaptionContainer").all_text_contents()
    assert set(captions) & set(labels)
    assert not {"😄", "x", "a&b"} & set(captions)
    expect(main(page).get_by_role("link", name=re.compile(r"!\[\]\(htt"))).not_to_have_count(0)
    page = visitor.open("datasets?dataset=named&view=Classes")
    expect(page.locator(".barlayer .point path")).to_have_count(len(labels))

    counts = {label: str(1 + place % 3) for place, label in enumerate(labels)}

    def at_their_bars() -> bool:
        """Return whether each total is beside its class; both are read at once, because the page may still move."""
        ticks, totals = page.evaluate(
            """() => ['.yaxislayer-above text', '.annotation text'].map(parts => [...document.querySelectorAll(parts)]
                .map(part => [part.textContent, part.getBoundingClientRect().y])
                .sort((one, other) => one[1] - other[1]))"""
        )
        wanted = [counts.get(name) or counts[f" {name.strip()} "] for name, _ in ticks]
        apart = [abs(tick - total) for (_, tick), (_, total) in zip(ticks, totals, strict=False)]  # pixels
        return len(ticks) == len(labels) and [total for total, _ in totals] == wanted and max(apart) < 5

    until(at_their_bars, "every total at the bar of its class")
    visitor.open("inspector?dataset=named&image=example")
    expect(main(page).get_by_role("button", name=re.compile(r"!\[\]\(htt"))).not_to_have_count(0)
    assert [url for url in elsewhere if not url.startswith((visitor.stack.url, "data:", "blob:"))] == []
