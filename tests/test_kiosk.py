"""The kiosk, run as Streamlit runs it: languages, photograph, answers, what is refused, and what is kept."""

from __future__ import annotations

import json
import string
import time
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from pages import OpenPage, opener, ran, text
from recorded import START, conversion, record_training
from streamlit.testing.v1 import AppTest

from core.data.images import encode
from core.deployment.formats import FLOAT32, file_name
from core.deployment.runtimes import RuntimeMissing
from core.networks.architectures import CLASSES
from core.store.measurements import Store
from core.training.specs import Rules
from dashboard import deployment_data
from dashboard.messages import LANGUAGES, messages

ENGLISH = messages("en")
SHARP = np.random.default_rng(0).integers(90, 160, (300, 400, 3)).astype(np.uint8)
LARGEST = {0: [0.1, 0.2, 0.3, 0.4], 1: [0.1, 0.5, 0.2, 0.2]}  # what the network of each step says


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "data"


@pytest.fixture
def open_page(folder: Path, valkey_url: str, monkeypatch: pytest.MonkeyPatch) -> OpenPage:
    return opener(monkeypatch, folder, valkey_url, "kiosk")


@pytest.fixture
def networks(folder: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """Give the id of a run with two converted networks, which say what `LARGEST` has."""
    run_id = recorded(folder, accuracies=(90.0, 90.0))
    monkeypatch.setattr(deployment_data, "loaded", lambda network: answering(LARGEST[network.step]))
    return run_id


def recorded(folder: Path, accuracies: tuple[float, ...]) -> str:
    """Record a run whose networks are converted; their files are empty."""
    store = Store(folder / "dermslim.duckdb")
    run_id = record_training(
        store, accuracies=accuracies, rules=Rules(factors=(50,), max_iterations=1), sets=True, images=10
    )
    for step in range(len(accuracies)):
        store.record_conversion(run_id, 1, conversion(step=step), "w", START)
        place = folder / "trained" / run_id / file_name(step, FLOAT32)
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(b"0" * (4000 - 1000 * step))
    return run_id


def answering(chances: list[float]) -> Any:
    """Return a network that says the same of every image, as `core.deployment.runtimes.Classifier`."""
    return lambda images, metadata: np.tile(np.array(chances, dtype=np.float32), (len(images), 1))


def begun(open_page: OpenPage, code: str = "en", **params: str) -> AppTest:
    """Open the kiosk and choose a language."""
    shown = open_page(**params)
    return ran(press(shown, messages(code)("language")))


def press(shown: AppTest, label: str) -> Any:
    (found,) = [each for each in shown.button if each.label == label]
    return found.click()


def photographed(shown: AppTest, data: bytes, name: str = "spot.png") -> AppTest:
    """Choose a file as the photograph."""
    ran(shown.segmented_control[0].set_value("file"))
    return ran(shown.file_uploader[0].upload(name, data, "image/png"))


def switched(shown: AppTest, label: str) -> AppTest:
    (found,) = [each for each in shown.toggle if each.label == label]
    return ran(found.set_value(True))


def png(image: np.ndarray) -> bytes:
    return encode(np.asarray(image, dtype=np.uint8), "png", None)


def test_each_language_has_every_text_with_the_same_places() -> None:
    def places(value: object) -> object:
        if isinstance(value, dict):
            return {key: places(each) for key, each in value.items()}
        return sorted(name for _, name, _, _ in string.Formatter().parse(str(value)) if name)

    first, *others = (places(dict(messages(code).texts)) for code in LANGUAGES)
    assert others == [first, first]
    assert set(ENGLISH.texts["classes"]) == set(CLASSES)


def test_the_first_screen_has_the_notice_in_every_language(folder: Path, open_page: OpenPage, networks: str) -> None:
    shown = open_page()
    for code in LANGUAGES:
        for key in ("research", "not_kept", "language"):
            assert messages(code)(key) in text(shown)


@pytest.mark.parametrize("code", LANGUAGES)
def test_both_networks_answer_in_the_chosen_language(open_page: OpenPage, networks: str, code: str) -> None:
    say = messages(code)
    shown = photographed(begun(open_page, code), png(SHARP))
    said = text(shown)
    for key in ("unpruned", "smallest", "different", "research", "no_lesion"):
        assert say(key) in said
    assert [each.value for each in shown.subheader][1:] == [
        say.name("classes", CLASSES[3]),
        say.name("classes", CLASSES[1]),
    ]
    assert "4.00 kB" in said
    assert "3.00 kB" in said


def test_the_percentages_are_calibrated_on_the_validation_images(open_page: OpenPage, networks: str) -> None:
    from core.predictions.calibration import calibrated, temperature_of
    from dashboard.data import store

    shown = photographed(begun(open_page), png(SHARP))
    rows = store().predictions([networks], step=0, split="validation")
    wanted = calibrated(LARGEST[0], temperature_of(rows))
    assert temperature_of(rows) != pytest.approx(1, abs=0.01)
    for label, chance in zip(CLASSES, wanted, strict=True):
        assert f"{ENGLISH.name('classes', label)}: {100 * chance:.0f} %" in text(shown)
    assert ENGLISH("calibrated", images=len(rows)) in text(shown)


def test_where_no_smaller_network_was_accepted_one_answers_and_the_page_says_why(
    folder: Path, open_page: OpenPage, monkeypatch: pytest.MonkeyPatch
) -> None:
    recorded(folder, accuracies=(70.0,))
    monkeypatch.setattr(deployment_data, "loaded", lambda network: answering(LARGEST[0]))
    said = text(photographed(begun(open_page), png(SHARP)))
    assert ENGLISH("only_one") in said
    assert ENGLISH("smallest") not in said


def test_age_sex_and_site_reach_the_networks(
    open_page: OpenPage, networks: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[list[float]] = []

    def listening(network: object) -> Any:
        def predict(images: np.ndarray, metadata: np.ndarray) -> np.ndarray:
            seen.append(metadata[0].tolist())
            return np.tile(np.array(LARGEST[0], dtype=np.float32), (len(images), 1))

        return predict

    monkeypatch.setattr(deployment_data, "loaded", listening)
    shown = photographed(begun(open_page), png(SHARP))
    encoding = deployment_data.encoding(networks)
    assert encoding is not None
    assert seen[-1] == pytest.approx([encoding.standardised(None), 0, 0])
    ran(shown.number_input[0].set_value(30))
    ran(shown.selectbox[0].set_value(encoding.sexes[0]))
    ran(shown.selectbox[1].set_value(encoding.localizations[-1]))
    assert seen[-1] == pytest.approx([encoding.standardised(30), 1, len(encoding.localizations)])


@pytest.mark.parametrize(
    ("image", "flaw"),
    [
        (cv2.GaussianBlur(SHARP, (0, 0), 6), "blurred"),
        ((SHARP * 0.3).astype(np.uint8), "dark"),
        (np.clip(SHARP.astype(int) + 120, 0, 255).astype(np.uint8), "bright"),
    ],
)
def test_a_flawed_photograph_is_answered_only_after_consent(
    open_page: OpenPage, networks: str, image: np.ndarray, flaw: str
) -> None:
    shown = photographed(begun(open_page), png(image))
    assert ENGLISH(flaw) in text(shown)
    assert ENGLISH("answers") not in text(shown)
    assert ENGLISH("answers") in text(switched(shown, ENGLISH("use_anyway")))


def test_a_photograph_smaller_than_the_networks_input_is_refused(open_page: OpenPage, networks: str) -> None:
    shown = photographed(begun(open_page), png(SHARP[:10, :12]))
    assert "too small: 12 × 10 pixels" in text(shown)
    assert not shown.toggle


@pytest.mark.parametrize("data", [b"", b"no photograph", png(SHARP)[:2000]])
def test_a_file_that_is_no_photograph_gets_a_sentence(open_page: OpenPage, networks: str, data: bytes) -> None:
    assert ENGLISH("broken") in text(photographed(begun(open_page), data))


def test_without_a_network_or_its_runtime_the_visitor_gets_a_sentence(
    folder: Path, open_page: OpenPage, monkeypatch: pytest.MonkeyPatch
) -> None:
    Store(folder / "dermslim.duckdb").migrate()
    assert ENGLISH("no_network") in text(begun(open_page))
    recorded(folder, accuracies=(70.0,))

    def missing(network: object) -> Any:
        raise RuntimeMissing("Expected LiteRT, got none.")

    monkeypatch.setattr(deployment_data, "loaded", missing)
    assert ENGLISH("no_runtime") in text(begun(open_page))


def test_a_store_that_cannot_be_read_gets_a_sentence(folder: Path, open_page: OpenPage) -> None:
    folder.mkdir()
    (folder / "dermslim.duckdb").write_bytes(b"no database" * 1000)
    assert ENGLISH("no_answers") in text(begun(open_page))


def test_k_and_the_maps_are_shown_by_choice(open_page: OpenPage, networks: str) -> None:
    shown = switched(photographed(begun(open_page), png(SHARP)), ENGLISH("compress"))
    assert "50 of 300 singular values" in text(shown)
    ran(shown.slider[0].set_value(300))
    assert "300 of 300 singular values" in text(shown)
    assert ENGLISH("look_text") in text(switched(shown, ENGLISH("look")))


def test_a_visitor_who_starts_over_is_forgotten(open_page: OpenPage, networks: str) -> None:
    shown = photographed(begun(open_page), png(SHARP))
    ran(shown.number_input[0].set_value(30))
    ran(press(shown, ENGLISH("start_over")))
    assert messages("hi")("research") in text(shown)
    ran(press(shown, ENGLISH("language")))
    assert ENGLISH("answers") not in text(shown)
    assert shown.number_input[0].value is None


def waiting_page() -> None:
    """Show only what watches for touches: a page runs it again each second."""
    from dashboard.messages import messages
    from dashboard.parts.visitor import idle

    idle(messages("en"))


def test_a_quarter_of_a_minute_before_it_starts_over_the_page_says_so_and_a_touch_keeps_the_visitor() -> None:
    shown = AppTest.from_function(waiting_page)
    for seconds, announced in ((0, []), (40, []), (50, [ENGLISH("stay")])):
        shown.session_state["kiosk_touched"] = time.monotonic() - seconds
        ran(shown)
        assert [each.label for each in shown.button] == announced
    assert "starts over in" in text(shown)
    ran(shown.button[0].click())
    assert not shown.button
    shown.session_state["kiosk_language"] = "en"
    shown.session_state["kiosk_touched"] = time.monotonic() - 61
    ran(shown)
    assert "kiosk_language" not in shown.session_state


def test_whoever_touches_the_page_after_a_minute_finds_the_first_screen(open_page: OpenPage, networks: str) -> None:
    shown = photographed(begun(open_page), png(SHARP))
    shown.session_state["kiosk_touched"] -= 59
    assert ENGLISH("answers") in text(ran(shown))
    shown.session_state["kiosk_touched"] -= 61
    assert ENGLISH("answers") not in text(ran(shown))
    assert messages("hi")("research") in text(shown)


def test_nothing_is_written_unless_the_operator_switched_it_on(
    folder: Path, open_page: OpenPage, networks: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = {path for path in folder.rglob("*") if path.is_file()}
    photographed(begun(open_page), png(SHARP))
    assert {path for path in folder.rglob("*") if path.is_file()} == before
    monkeypatch.setenv("KIOSK_KEEP", "true")
    shown = photographed(begun(open_page), png(SHARP))
    assert ENGLISH("kept") in text(shown)
    ran(shown.number_input[0].set_value(30))
    about, image = sorted((folder / "kiosk").iterdir(), key=lambda path: path.suffix, reverse=True)
    assert image.read_bytes() == png(SHARP)
    assert json.loads(about.read_text())["answers"][0]["run"] == networks
    assert {path.stat().st_mode & 0o777 for path in (about, image)} == {0o600}


def test_a_dashboard_of_the_kiosk_alone_has_no_other_page(
    folder: Path, networks: str, open_page: OpenPage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KIOSK", "true")
    for page in ("kiosk", "tables", "maintenance"):
        assert messages("mr")("research") in text(open_page(page))
