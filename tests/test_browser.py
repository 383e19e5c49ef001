"""The whole stack in a real browser, as its readers use it: `make test-browser`.

In the order of the file: the demo's trainings last a minute or two, and what does not need them comes first.
"""

from __future__ import annotations

import io
import json
import re
import time
from collections.abc import Iterator
from pathlib import Path

import pandas as pd
import pytest
from browser import DESKTOP, FAILURES, PATIENCE, PHONE, Stack, Visitor, demo_stack, launched_browser
from playwright.sync_api import Browser, Locator, Page, expect

from core.architectures import NETWORKS
from core.parameters import curve_table
from core.results import FURTHER
from core.training_runs import training_spec_from_dict

pytestmark = [pytest.mark.browser, pytest.mark.timeout(600)]

UNTIL_TRAINED = 300_000  # milliseconds that a training may take
LIVE_WITHIN = 2.0  # seconds from an epoch in the store to its point on the page
DEMO_KINDS = ("svd-sweep", "resize-study", "rivals", "prune-train")
# Every page, and what shows that it is there: its main button where it has a form, else a part of its content.
PAGES = {
    "": "Headline figures",
    "datasets": "Start a sweep on it",
    "sweeps": "Quality against k",
    "sweeps?tab=New+sweep": "Start the sweep|Measure again",
    "resize": "Quality by size",
    "resize?tab=New+study": "Start the study|Measure again",
    "inspector": "All metrics",
    "networks": "Layers",
    "curves": "Curves",
    "study": "New study",
    "study?tab=New+study": "Start the whole study",
    "prune_train": "Steps",
    "prune_train?tab=New+run": "Start 1 run",
    "prune_train?tab=Compare": "Where they differ",
    "tables": "Table 4: training and validation",
    "claims": "Not reproduced",
    "jobs": "Ended",
    "maintenance": "Caches and leftovers",
    "run?run=": "Facts",
}


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """The demo's stack, of few images."""
    with demo_stack(tmp_path_factory.mktemp("browser")) as started:
        yield started


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with launched_browser() as launched:
        yield launched


@pytest.fixture
def visitor(browser: Browser, stack: Stack, request: pytest.FixtureRequest) -> Iterator[Visitor]:
    """A reader whose browser has complained of nothing by the end of the test; a failure leaves a picture."""
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


def button(page: Page, name: str) -> Locator:
    return main(page).get_by_role("button", name=name, exact=True)


def fill(page: Page, label: str, text: str) -> None:
    """Type into a field as a reader does: Streamlit takes it when the field is left."""
    box = main(page).get_by_label(label, exact=True)
    box.fill(text)
    box.press("Tab")


def run_in_address(page: Page) -> str:
    """The run that the page's address names, once it does."""
    page.wait_for_url(re.compile(r"[?&]run=[\w-]+"))
    return re.search(r"[?&]run=([\w-]+)", page.url)[1]  # type: ignore[index]


def downloaded(page: Page, name: str) -> bytes:
    """What the download button of this name gives; the first, where several have it."""
    with page.expect_download() as download:
        main(page).get_by_role("button", name=name, exact=True).first.click()
    return Path(download.value.path()).read_bytes()


def sweep_form(visitor: Visitor, **fields: str) -> Page:
    page = visitor.open("sweeps?tab=New+sweep")
    for label, text in fields.items():
        fill(page, label, text)
        visitor.settle()
    return page


# -- while the demo starts ---------------------------------------------------------------------------------------------


def test_the_demo_is_under_way_on_the_first_page_and_called_synthetic(visitor: Visitor) -> None:
    page = visitor.open("")
    expect(main(page).get_by_role("heading", name="Running now")).to_be_visible(timeout=120_000)
    expect(main(page).get_by_text("synthetic").first).to_be_visible()
    expect(main(page).get_by_text("Prune and train").first).to_be_visible()
    page.get_by_role("link", name="Data sets").first.click()
    expect(main(page).get_by_text("They show no patient")).to_be_visible()
    expect(main(page).locator("img").first).to_be_visible()


def test_a_sweep_is_submitted_cancelled_and_retried_to_its_end(visitor: Visitor) -> None:
    many = ", ".join(map(str, range(10, 440, 18)))
    page = sweep_form(visitor, **{"k, the numbers of singular values kept": many})
    button(page, "Start the sweep").click()
    run_id = run_in_address(page)
    button(page, "Cancel").click()
    expect(main(page).get_by_text("This run was cancelled with")).to_be_visible()
    assert visitor.stack.store.run(run_id)["status"] == "cancelled"  # type: ignore[index]
    main(page).get_by_role("button", name=re.compile(r"Retry the \d+ missing images?")).click()
    expect(main(page).get_by_role("heading", name="Quality against k")).to_be_visible(timeout=UNTIL_TRAINED)
    run = visitor.stack.store.run(run_id)
    assert run is not None
    assert (run["status"], run["attempt"], run["measured"], run["failed"]) == ("finished", 2, run["total"], 0)


def test_a_sweep_is_set_and_started_by_the_keyboard_alone(visitor: Visitor) -> None:
    page = sweep_form(visitor)
    focused = "(document.activeElement?.getAttribute('aria-label') || document.activeElement?.innerText || '').trim()"
    typed = {"k, the numbers of singular values kept": "20, 300", "Seed": "7"}
    for _ in range(300):  # focus goes round the page: a button that was being drawn anew is met the next time
        page.keyboard.press("Tab")
        name = page.evaluate(focused)
        if text := typed.pop(name, None):
            page.keyboard.press("Control+a")
            page.keyboard.type(text)
            page.keyboard.press("Enter")
            visitor.settle()
        if "Start the sweep" in name and not typed:
            break
    expect(button(page, "Start the sweep")).to_be_focused()
    page.keyboard.press("Enter")
    run_id = run_in_address(page)
    expect(main(page).get_by_role("heading", name="Quality against k")).to_be_visible(timeout=UNTIL_TRAINED)
    assert set(visitor.stack.store.storage(run_id)["k"]) == {20, 300}
    assert '"seed": 7' in str(visitor.stack.store.run(run_id)["spec"])  # type: ignore[index]


def test_the_files_of_a_sweep_hold_the_stores_rows(visitor: Visitor) -> None:
    run_id = visitor.stack.ended("svd-sweep")[0]
    page = visitor.open(f"sweeps?run={run_id}")
    store = visitor.stack.store
    wanted = {
        "Sizes, CSV": store.storage(run_id),
        "Every image and k, CSV": store.measurements(run_id),
    }
    for name, rows in wanted.items():
        given = pd.read_csv(io.BytesIO(downloaded(page, name)))
        shared = [column for column in given if column in rows]
        assert shared, name
        assert len(given) == len(rows) > 0, name
        by = [column for column in ("image_id", "k", "variant") if column in shared]
        left, right = (frame[shared].sort_values(by).reset_index(drop=True) for frame in (given, rows))
        pd.testing.assert_frame_equal(left, right, check_dtype=False, rtol=1e-12)
    columns = pd.read_parquet(io.BytesIO(downloaded(page, "Every image and k, Parquet")))
    assert len(columns) == len(wanted["Every image and k, CSV"])


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
    page.get_by_role("radio", name="Side by side").click()
    expect(
        main(page).get_by_text("SSIM around each pixel").or_(main(page).get_by_text("SSIM map")).first
    ).to_be_attached()
    visitor.settle()
    assert "k=99" in page.url
    assert "layout=Side" in page.url


def test_the_curves_follow_their_choices_and_can_be_taken_home(visitor: Visitor) -> None:
    page = visitor.open("curves?iterations=3&factors=50&size=100x75")
    page.get_by_role("radio", name="MACs", exact=True).click()
    expect(main(page).get_by_role("figure", name="MACs of each network against the iteration")).to_be_visible()
    visitor.settle()
    given = pd.read_csv(io.BytesIO(downloaded(page, "Curves, CSV")))
    counted = curve_table(tuple(NETWORKS.values()), (50,), tuple(given["scope"].unique()), 3, 100, 75)
    keys = ["network", "scope", "iteration"]
    for name in ("parameters", "macs"):
        assert list(given.sort_values(keys)[name]) == list(counted.sort_values(keys)[name])
    main(page).get_by_role("link", name="Take this point on to a prune-train run").click()
    expect(main(page).get_by_label("Sizes, rows × columns")).to_have_value("100×75")


# -- trainings ---------------------------------------------------------------------------------------------------------


def training_form(visitor: Visitor, kind: str, **fields: str) -> Page:
    page = visitor.open("prune_train?tab=New+run")
    page.get_by_role("radio", name=kind).click()
    page.get_by_role("radio", name="Quick", exact=True).click()
    visitor.settle()
    for label, text in fields.items():
        fill(page, label, text)
        visitor.settle()
    expect(main(page).get_by_text(re.compile(f"of {fields['Epochs']} epochs"))).to_be_visible()  # the field set last
    return page


def test_a_pruning_is_watched_epoch_by_epoch_to_its_ladder(visitor: Visitor) -> None:
    page = training_form(
        visitor,
        "Prune and train, Algorithm 2",
        **{
            "Sizes, rows × columns": "200×300",
            "Batch size": "2",
            "Pruning factors, %": "50",
            "Pruned networks at most": "1",
            "Epochs": "10",
        },
    )
    button(page, "Start 1 run").click()
    run_id = run_in_address(page)
    expect(main(page).get_by_text("being trained").first).to_be_visible(timeout=UNTIL_TRAINED)
    delays = []
    shown = """count => {
        const charts = [...document.querySelectorAll('[data-testid=stPlotlyChart] .js-plotly-plot')];
        return charts.some(chart => (chart.data || []).some(trace => (trace.x?.length ?? 0) >= count
            || (trace.x?._inputArray?.length ?? 0) >= count));
    }"""
    deadline = time.monotonic() + UNTIL_TRAINED / 1000
    seen = 0
    while seen < 8:
        assert time.monotonic() < deadline, f"expected 8 epochs in the store, got {seen}"
        epochs = visitor.stack.store.epochs([run_id])
        count = int((epochs["step"] == 0).sum())
        if count > seen:
            seen, recorded = count, time.monotonic()
            page.wait_for_function(shown, arg=count, polling=50)
            delays.append(time.monotonic() - recorded)
        else:
            page.wait_for_timeout(250)  # the store is locked while it is read
    assert pd.Series(delays).median() <= LIVE_WITHIN, delays
    expect(main(page).get_by_text("Of 1 pruned network")).to_be_visible(timeout=UNTIL_TRAINED)
    expect(button(page, "Cancel at once")).to_have_count(0)
    run = visitor.stack.store.run(run_id)
    assert run is not None
    assert run["status"] == "finished"
    steps = visitor.stack.store.steps([run_id])
    assert (steps["status"] == "finished").all()
    names = main(page).get_by_test_id("stDataFrame").first.locator("table")
    for name in steps["name"]:
        expect(names).to_contain_text(name)


def test_a_training_is_cancelled_after_its_epoch_and_retried_to_the_last(visitor: Visitor) -> None:
    page = training_form(
        visitor,
        "Train each network once",
        **{"Sizes, rows × columns": "150×200", "Batch size": "2", "Seeds": "5", "Epochs": "8"},
    )
    button(page, "Start 1 run").click()
    run_id = run_in_address(page)
    expect(main(page).get_by_text(re.compile("epoch [1-6] of 8")).first).to_be_visible(timeout=UNTIL_TRAINED)
    button(page, "Cancel after the epoch").click()
    expect(main(page).get_by_text("This run was cancelled with")).to_be_visible()
    kept = len(visitor.stack.store.epochs([run_id]))
    assert 0 < kept < 8
    button(page, "Retry from where it was").click()
    expect(main(page).get_by_text("unpruned, reaches")).to_be_visible(timeout=UNTIL_TRAINED)
    expect(button(page, "Cancel at once")).to_have_count(0)
    store = visitor.stack.store
    assert list(store.epochs([run_id])["epoch"]) == list(range(1, 9))
    assert store.run(run_id)["status"] == "finished"  # type: ignore[index]
    spec = training_spec_from_dict(json.loads(store.run(run_id)["spec"]))  # type: ignore[index]
    assert (spec.training.epochs, spec.training.seed) == (8, 5)


# -- the demo's results ------------------------------------------------------------------------------------------------


def test_the_demo_leads_from_its_headline_figures_to_every_result(visitor: Visitor) -> None:
    page = visitor.open("")
    expect(main(page).get_by_role("heading", name="Smallest accepted network")).to_be_visible(timeout=UNTIL_TRAINED)
    expect(main(page).get_by_role("heading", name="Running now")).to_have_count(0, timeout=UNTIL_TRAINED)
    for kind in DEMO_KINDS:
        assert visitor.stack.ended(kind), kind
    main(page).get_by_role("link", name="Open the run").first.click()
    expect(main(page).get_by_role("heading", name="Quality against k")).to_be_visible()
    visitor.settle()
    worst = main(page).get_by_role("heading", name="Worst images")
    worst.scroll_into_view_if_needed()
    main(page).locator("a[href*='inspector']").first.click()
    expect(main(page).get_by_role("heading", name="All metrics")).to_be_visible()
    page.get_by_role("link", name="Resize study").first.click()
    expect(main(page).get_by_role("heading", level=2).first).to_be_visible()
    page.get_by_role("link", name="Prune and train").first.click()
    expect(main(page).get_by_role("heading", name="Steps", exact=True)).to_be_visible()
    page.get_by_role("link", name="Jobs").first.click()
    expect(main(page).get_by_role("heading", name="Ended")).to_be_visible()


def test_the_tables_files_are_what_the_command_prints(visitor: Visitor, tmp_path: Path) -> None:
    page = visitor.open("tables")
    for label, kind, ending in (("CSV", "csv", "csv"), ("Markdown", "markdown", "md"), ("LaTeX", "latex", "tex")):
        folder = tmp_path / kind
        visitor.stack.command("-m", "jobs", "tables", "--dataset", "demo", "--format", kind, "--output", str(folder))
        buttons = main(page).get_by_role("button", name=label, exact=True)
        names = ("table4", "table5", "table6", FURTHER)
        expect(buttons).to_have_count(len(names))
        for place in range(len(names)):
            with page.expect_download() as download:
                buttons.nth(place).click()
            given = Path(download.value.path()).read_bytes()
            assert given.strip()
            assert given == (folder / download.value.suggested_filename).read_bytes()
            assert download.value.suggested_filename.endswith(f".{ending}")


@pytest.mark.parametrize("path", PAGES)
def test_a_page_is_accessible_light_and_dark_and_on_a_phone(visitor: Visitor, path: str) -> None:
    visitor.page.set_viewport_size(PHONE)  # type: ignore[arg-type]
    page = visitor.open(path + (visitor.stack.ended("prune-train")[0] if path.endswith("run=") else ""))
    sight = main(page).get_by_text(re.compile(f"^({PAGES[path]})$")).first
    expect(sight).to_be_visible()
    assert not visitor.scrolls_sideways()
    assert visitor.violations() == []
    page.set_viewport_size(DESKTOP)  # type: ignore[arg-type]
    visitor.settle()
    expect(sight).to_be_visible()
    assert visitor.violations() == []
    visitor.turn("dark")
    assert visitor.violations("color-contrast") == []
