"""The kiosk: two networks answer a photograph. Full screen, for touch, in the visitor's language; nothing is kept."""

import json
import logging

import streamlit as st

from core.compression.svd import SVDFactors, decompose
from core.data.datasets import DatasetImage
from core.data.images import decode, encode, resize
from core.deployment import photograph
from core.deployment.runtimes import RuntimeMissing
from core.errors import DermSlimError, ImageError
from core.networks.architectures import CLASSES
from dashboard import kiosk_data, words
from dashboard.deployment_data import Pixels
from dashboard.kiosk_data import Answer, Kiosk
from dashboard.messages import LANGUAGES, Messages, messages
from dashboard.parts import pictures
from dashboard.parts.camera import camera_state
from dashboard.parts.explanation import FAINT, overlay
from dashboard.parts.visitor import idle, key, seconds_left, start_over, touched

TITLES = ("unpruned", "smallest")  # messages that name the networks, in their order
FILES = ("jpg", "jpeg", "png", "webp")  # suffixes
SIDE = 600  # pixels of the longer side of the photograph whose k is chosen
# Large targets for fingers, and no bar of Streamlit's own.
STYLE = """<style>
header[data-testid="stHeader"], [data-testid="stSidebar"] { display: none; }
.stMainBlockContainer { max-width: 1200px; padding: 1.5rem clamp(1rem, 4vw, 3rem) 3rem; font-size: 1.15rem; }
.stMainBlockContainer :is(p, label, input, [data-baseweb="select"]) { font-size: 1.15rem; line-height: 1.5; }
.stMainBlockContainer :is(h2, h3) { font-size: 1.5rem; }
.stMainBlockContainer :is(.stButton, .stFileUploader, .stCameraInput, .stButtonGroup) button {
  min-height: 3.5rem; min-width: 3.5rem;
}
.stMainBlockContainer .stSelectbox [data-baseweb="select"] > div, .stMainBlockContainer .stNumberInput input {
  min-height: 3.25rem;
}
.stMainBlockContainer .stNumberInput button { min-width: 3.25rem; }
.stMainBlockContainer .stCheckbox label { min-height: 3.5rem; align-items: center; padding-right: 1rem; }
</style>"""


def choose_language(code: str) -> None:
    """Begin in a language."""
    st.session_state["kiosk_language"] = code
    touched()


def first_screen() -> None:
    """Show the notice in every language, and ask for one."""
    for code in LANGUAGES:
        say = messages(code)
        with st.container(border=True):
            st.subheader(say("title"))
            st.markdown(say("research"))
            st.caption(say("kept" if kiosk_data.keeps() else "not_kept"))
            st.button(
                say("language"), on_click=choose_language, args=(code,), key=key(code), type="primary", width="stretch",
            )  # fmt: skip


def reword(text: str, *test_ids: str) -> None:
    """Replace a text that Streamlit has in English only. test_ids: of its element, the outer ones first."""
    place, shown = " ".join(f'[data-testid="{each}"]' for each in test_ids), json.dumps(text, ensure_ascii=False)
    after = f"{place}::after {{ content: {shown}; font-size: 1.15rem; }}"
    st.html(f"<style>{place}, {place} * {{ font-size: 0; }} {after}</style>")


def explain_refusal(text: str) -> None:
    """Say why a file was not taken, which Streamlit says in English only, and only where a mouse hovers."""
    shown = json.dumps(f"⚠ {text}", ensure_ascii=False)
    refused = '[data-testid="stFileUploader"]:has([data-testid="stFileChipIconError"])'
    st.html(f"<style>{refused}::after {{ content: {shown}; font-size: 1.15rem; }}</style>")


def photograph_of(say: Messages) -> bytes | None:
    """Ask for a photograph; return its file, or None as long as there is none."""
    st.header(say("photograph"))
    source = st.segmented_control(
        say("source"), ("camera", "file"), format_func=say, default="camera", required=True, key=key("source"),
        label_visibility="collapsed", width="stretch",
    )  # fmt: skip
    if source == "camera":
        camera_state(say("camera_none"), say("camera_refused"), say("camera_insecure"), key=key("state"))
        taken = st.camera_input(say("camera_hint"), key=key("camera"))
        reword(say("camera" if taken is None else "again"), "stCameraInputButton")
    else:
        taken = st.file_uploader(say("file"), type=FILES, key=key("file"))
        reword(say("file"), "stFileUploaderDropzone", "stMarkdownContainer")
        largest = st.get_option("server.maxUploadSize")
        reword(f"≤ {largest} MB • {', '.join(FILES).upper()}", "stFileUploaderDropzoneInstructions")
        explain_refusal(say("broken"))
    return None if taken is None else taken.getvalue()


def metadata_of(say: Messages, shown: Kiosk) -> tuple[float | None, str | None, str | None]:
    """Ask for age, sex and site; None for what is not given."""
    st.header(say("about_you"))
    age, sex, site = st.columns(3)
    return (
        age.number_input(
            say("age"), min_value=0.0, max_value=120.0, value=None, step=5.0, format="%.0f", key=key("age"),
            placeholder=say("unknown"),
        ),
        sex.selectbox(
            say("sex"), shown.encoding.sexes, index=None, key=key("sex"), placeholder=say("unknown"),
            format_func=lambda value: say.name("sexes", value),
        ),
        site.selectbox(
            say("site"), shown.encoding.localizations, index=None, key=key("site"), placeholder=say("unknown"),
            format_func=lambda value: say.name("sites", value),
        ),
    )  # fmt: skip


def fit(say: Messages, shown: Kiosk, pixels: Pixels, digest: str) -> bool:
    """Say what is wrong with a photograph and what to do; return whether it can be answered."""
    found = photograph.flaws(pixels, shown.height, shown.width)
    height, width = pixels.shape[:2]
    for flaw in found:
        st.warning(
            say(flaw, got=f"{width} × {height}", wanted=f"{shown.width} × {shown.height}"),
            icon=":material/photo_camera:",
        )
    if not found:
        return True
    if photograph.SMALL in found:
        return False
    return st.toggle(say("use_anyway"), key=key(f"anyway_{digest[:8]}"))


def card(say: Messages, title: str, answer: Answer) -> None:
    """Show one network's answer."""
    with st.container(border=True):
        st.markdown(f"**{title}**")
        st.subheader(say.name("classes", answer.label))
        for label, chance in zip(CLASSES, answer.probabilities, strict=True):
            st.progress(min(1.0, chance), text=f"{say.name('classes', label)}: {100 * chance:.0f} %")
        st.caption(
            words.escaped(
                say(
                    "details",
                    network=answer.network.name,
                    parameters=f"{answer.network.parameters:,}",
                    bytes=words.bytes_text(answer.bytes),
                    milliseconds=f"{1000 * answer.seconds:.1f}",
                )
            )
        )


def answers_section(say: Messages, found: list[Answer]) -> None:
    """Show the answers side by side, and how far they can be trusted."""
    st.header(say("answers"))
    for place, title, answer in zip(st.columns(2), TITLES, found, strict=False):
        with place:
            card(say, say(title), answer)
    labels = {answer.label for answer in found}
    st.markdown(f"**{say('only_one' if len(found) == 1 else 'same' if len(labels) == 1 else 'different')}**")
    _, images = kiosk_data.calibration(found[0].network.run.id, found[0].network.step)
    st.caption(f"{say('calibrated', images=images) if images else say('not_calibrated')} {say('no_lesion')}")
    st.warning(say("research"), icon=":material/science:")


@st.fragment  # so that the slider predicts nothing again
def compression_section(say: Messages, pixels: Pixels, digest: str) -> None:
    """Show the photograph at k, beside itself."""
    touched()
    if not st.toggle(say("compress"), key=key("compress")):
        return
    image, factors = decomposed(pixels, digest)
    rank = factors.rank
    k = st.slider(say("k"), 1, rank, min(rank, 50), key=key("k"))
    stored = encode(factors.reconstruct(k), "jpeg", 95)
    shown = (image, say("original")), (decode(stored, own=True), say("reduced", k=k))
    for place, (picture, title) in zip(st.columns(2), shown, strict=True):
        place.image(pictures.shown(picture), caption=title, width="stretch")
    plain = words.bytes_text(len(encode(image, "jpeg", 95)))
    st.caption(say("k_bytes", k=k, rank=rank, bytes=words.bytes_text(len(stored)), plain=plain))


def decomposed(pixels: Pixels, digest: str) -> tuple[Pixels, SVDFactors]:
    """Return the photograph at `SIDE` pixels and its decomposition, kept until the visitor leaves."""
    known = st.session_state.get("kiosk_decomposed")
    if known is None or known[0] != digest:
        scale = min(1.0, SIDE / max(pixels.shape[:2]))
        image = resize(pixels, *(max(1, round(scale * side)) for side in pixels.shape[:2]))
        known = st.session_state["kiosk_decomposed"] = (digest, image, decompose(image))
    return known[1], known[2]


def occlusion_section(say: Messages, shown: Kiosk, pixels: Pixels, record: DatasetImage) -> None:
    """Show where each network looks."""
    if not st.toggle(say("look"), key=key("look")):
        return
    maps = [kiosk_data.occlusion(network, pixels, record) for network in shown.networks]
    scale = max(FAINT, *(float(each.max()) for each in maps))
    for place, title, each in zip(st.columns(2), TITLES, maps, strict=False):
        place.image(overlay(pixels, each, scale), caption=say(title), width="stretch")
    st.caption(say("look_text"))


def answered(say: Messages, shown: Kiosk, data: bytes, given: tuple[float | None, str | None, str | None]) -> None:
    """Check a photograph, and show what the networks say of it."""
    digest = pictures.digest_of(data)
    try:
        pixels = decode(data)
    except ImageError:
        st.error(say("broken"), icon=":material/broken_image:")
        return
    if not fit(say, shown, pixels, digest):
        return
    record = kiosk_data.described(pixels, *given)
    found = kiosk_data.answers(shown, pixels, record)
    answers_section(say, found)
    if kiosk_data.keeps() and st.session_state.get("kiosk_kept") != digest:
        kiosk_data.keep(data, record, found)
        st.session_state["kiosk_kept"] = digest
    compression_section(say, pixels, digest)
    occlusion_section(say, shown, pixels, record)


def visit(say: Messages) -> None:
    """Ask for a photograph and show the answers."""
    with st.container(horizontal=True, horizontal_alignment="distribute", vertical_alignment="center"):
        st.subheader(say("title"))
        st.button(say("start_over"), on_click=start_over, key=key("over"), icon=":material/restart_alt:")
    idle(say)
    st.caption(f"{say('research')} {say('kept' if kiosk_data.keeps() else 'not_kept')}")
    shown = kiosk_data.kiosk(st.query_params.get("run"))
    if shown is None:
        st.info(say("no_network"), icon=":material/memory:")
        return
    data = photograph_of(say)
    given = metadata_of(say, shown)
    kiosk_data.prepare(shown)
    if data is not None:
        answered(say, shown, data, given)


def view() -> None:
    """Show the first screen, or the visitor's; an error in the visitor's language."""
    st.html(STYLE)
    if seconds_left() <= 0:  # the next visitor's touch, where the browser slept
        start_over()
    code = st.session_state.get("kiosk_language")
    if code is None:
        first_screen()
        return
    touched()
    say = messages(code)
    try:
        visit(say)
    except RuntimeMissing as error:
        logging.getLogger(__name__).error("%s", error)
        st.error(say("no_runtime"), icon=":material/memory:")
    except DermSlimError as error:
        logging.getLogger(__name__).error("%s", error)
        st.error(say("no_answers"), icon=":material/error:")


view()
